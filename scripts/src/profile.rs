//! Where the broker's time goes under a load: a flame graph and the functions at the top of it.

use crate::measure::with_program;
use crate::steps::{self, Done, top, works};
use inferno::collapse::Collapse;
use inferno::collapse::perf::{Folder, Options as FoldOptions};
use inferno::flamegraph::{Options as GraphOptions, from_lines};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// A load of loadgen, and settings of the broker.
struct Scenario {
    name: &'static str,
    load: &'static str,
    broker: &'static [&'static str],
}

const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "bulk",
        load: "--rate 300k --partitions 12 --producers 2 --consumers 0 --acks 1 --batch-size 131072 --linger-ms 20",
        broker: &[],
    },
    Scenario {
        name: "tail",
        load: "--rate 150k --partitions 12 --producers 1 --consumers 2 --acks 1 --batch-size 131072 --linger-ms 20",
        broker: &[],
    },
    Scenario {
        name: "small",
        load: "--rate 100k --record-size 100 --partitions 12 --producers 2 --consumers 0 --acks 1 --linger-ms 0",
        broker: &[],
    },
    Scenario {
        name: "many",
        load: "--rate 50k --record-size 100 --partitions 1000 --producers 1 --consumers 0 --acks 1 --linger-ms 5 --partitioner round-robin",
        broker: &[],
    },
    Scenario {
        name: "acks-all",
        load: "--rate 100k --partitions 12 --producers 2 --consumers 1 --acks all --linger-ms 5",
        broker: &[],
    },
];

pub(crate) const NAMES: [&str; SCENARIOS.len()] =
    [SCENARIOS[0].name, SCENARIOS[1].name, SCENARIOS[2].name, SCENARIOS[3].name, SCENARIOS[4].name];

/// Samples a second: not a divisor of anything that happens every millisecond.
const SAMPLES_HZ: &str = "1997";
const SHOWN: usize = 30;

pub(crate) fn run(name: &str, seconds: u64) -> Done {
    if !works("perf", &["--version"]) && !steps::install_debian("linux-perf") {
        return Err("no perf: install linux-perf".into());
    }
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.ok_or_else(|| format!("no scenario {name}"))?;
    // Frame pointers, so that stacks are cheap to take; the generator is the usual one.
    let target = top().join("target/profile");
    steps::run("cargo", &["build", "--release", "--quiet", "-p", "loadgen"])?;
    let build = Command::new("cargo")
        .args(["build", "--release", "--quiet", "-p", "weir", "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-C force-frame-pointers=yes")
        .current_dir(top())
        .status();
    if !build.is_ok_and(|status| status.success()) {
        return Err("the broker does not build with frame pointers".into());
    }
    let samples = target.join(format!("{name}.perf"));
    with_program(&target.join("release/weir"), "bench", scenario.broker, |address, pid, home| {
        let warm_up_s = 3;
        let mut load = Command::new(top().join("target/release/loadgen"))
            .args(scenario.load.split(' '))
            .args(["--warmup", "1s", "--quiet", "--duration"])
            .arg(format!("{}s", seconds + warm_up_s))
            .args(["--bootstrap-server", address, "--output"])
            .arg(home.join("result"))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("loadgen: {error}"))?;
        std::thread::sleep(std::time::Duration::from_secs(warm_up_s));
        let (pid, seconds) = (pid.to_string(), seconds.to_string());
        let path = samples.display().to_string();
        let record = ["record", "-q", "-g", "-F", SAMPLES_HZ, "-p", &pid, "-o", &path, "--"];
        let recorded = steps::run("perf", &[&record[..], &["sleep", &seconds]].concat());
        let _ = load.kill();
        let _ = load.wait();
        recorded
    })?;
    draw(scenario, &samples, &target)
}

fn draw(scenario: &Scenario, samples: &Path, target: &Path) -> Done {
    let output = Command::new("perf")
        .args(["script", "--no-inline", "-i"])
        .arg(samples)
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("perf: {error}"))?;
    let mut folded = Vec::new();
    Folder::from(FoldOptions::default())
        .collapse(&output.stdout[..], &mut folded)
        .map_err(|error| format!("perf script: {error}"))?;
    let folded = String::from_utf8_lossy(&folded).into_owned();
    let mut own: BTreeMap<&str, u64> = BTreeMap::new();
    let mut total = 0;
    for (stack, count) in folded.lines().filter_map(|line| line.rsplit_once(' ')) {
        let count: u64 = count.parse().unwrap_or(0);
        *own.entry(stack.rsplit(';').next().unwrap_or(stack)).or_default() += count;
        total += count;
    }
    if total == 0 {
        return Err("perf took no samples; is kernel.perf_event_paranoid above 1?".into());
    }
    let mut own: Vec<(&str, u64)> = own.into_iter().collect();
    own.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    println!("{total} samples; the functions they were taken in:");
    for (name, count) in own.iter().take(SHOWN) {
        println!("  {:>5.1} %  {name}", *count as f64 * 100.0 / total as f64);
    }
    let mut options = GraphOptions::default();
    options.title = format!("weir, {}: {}", scenario.name, scenario.load);
    let svg = target.join(format!("{}.svg", scenario.name));
    let file = std::fs::File::create(&svg).map_err(|e| format!("{}: {e}", svg.display()))?;
    from_lines(&mut options, folded.lines(), file)
        .map_err(|error| format!("{}: {error}", svg.display()))?;
    let shown = svg.strip_prefix(top()).unwrap_or(&svg);
    println!("flame graph: {}", shown.display());
    Ok(())
}
