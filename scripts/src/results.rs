//! What `results/` keeps: each a loadgen command, run here, with its machine and commit, and a line in
//! the ledger.

use crate::steps::{self, Done, top};
use crate::versus::Other;
use crate::{kafka, peers, soak, tansu, versus};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kept run: its name, loadgen's arguments, and where its figure stands.
struct Kept {
    name: &'static str,
    args: &'static str,
    headline: fn(&Path) -> Result<String, String>,
}

const KEPT: [Kept; 9] = [
    Kept { name: "default", args: "--rate 100000 --partitions 12", headline: of_run },
    Kept {
        name: "partitions",
        args: "sweep --vary partitions=1,3,12,100,1000 --rate 50k --repeat 2 --duration 10s --warmup 3s",
        headline: of_sweep,
    },
    Kept {
        name: "consumers",
        args: "sweep --vary consumers=1,2,4,12 --vary groups=1,3 --rate 30k --partitions 12 \
               --duration 8s --warmup 3s",
        headline: of_sweep,
    },
    Kept {
        name: "codecs",
        args: "sweep --vary compression-type=none,gzip,snappy,lz4,zstd --vary payload=text,random \
               --rate 20k --partitions 12 --batch-size 65536 --linger-ms 5 --duration 8s --warmup 2s",
        headline: of_sweep,
    },
    Kept {
        name: "durability",
        args: "durability --rate 20k --partitions 12 --duration 4s --warmup 1s",
        headline: of_durability,
    },
    Kept {
        name: "search",
        args: "search --partitions 12 --duration 6s --warmup 1s --assert e2e.p99<=10ms",
        headline: of_search,
    },
    Kept {
        name: "plan",
        args: "plan --target-rate 40k..50k..80k --retention 24h --node-disk 4T --partitions 12 --duration 5s --warmup 1s --objective 10ms",
        headline: of_plan,
    },
    // Half of what `search` finds here.
    Kept {
        name: "half-rate",
        args: "--rate 190k --partitions 12 --duration 30s",
        headline: of_stages,
    },
    Kept { name: "selftest", args: "selftest --rounds 3", headline: of_selftest },
];

/// Their names.
pub(crate) const NAMES: [&str; 16] = [
    "default",
    "partitions",
    "consumers",
    "codecs",
    "durability",
    "search",
    "plan",
    "half-rate",
    "selftest",
    "librdkafka",
    "kafka",
    "tansu",
    "soak",
    "floor",
    "tail",
    "many",
];
/// Rounds of the comparison with librdkafka's tool, and with another broker.
const PEER_ROUNDS: usize = 5;
const VERSUS_ROUNDS: usize = 3;
const BENCH_ROUNDS: usize = 3;

pub(crate) fn run(name: &str) -> Done {
    match name {
        "librdkafka" => return beside_librdkafka(),
        "kafka" => return beside(name, Other::Kafka),
        "tansu" => return beside(name, Other::Tansu),
        "soak" => return of_soak(),
        "floor" | "tail" | "many" => return of_bench(name),
        _ => {}
    }
    let kept = KEPT.iter().find(|kept| kept.name == name).expect("clap knows the names");
    steps::run("cargo", &["build", "--release", "--quiet", "-p", "loadgen"])?;
    let date = output_of("date", &["-u", "+%Y-%m-%d"])?;
    let commit = commit()?;
    let folder = format!("{date}-{name}");
    let dir = top().join("results").join(&folder);
    let _ = std::fs::remove_dir_all(&dir);
    println!("==> loadgen {}", kept.args);
    let status = Command::new(top().join("target/release/loadgen"))
        .args(kept.args.split_whitespace())
        .args(["--output", &format!("results/{folder}")])
        .args(if name == "selftest" { &[][..] } else { &["--quiet"] })
        .current_dir(top())
        .status()
        .map_err(|error| error.to_string())?;
    // An invalid or failed run is a result as well; only one that left nothing is none.
    let headline = (kept.headline)(&dir).map_err(|why| format!("{name}: {why} ({status})"))?;
    for part in parts_of(&dir) {
        // `loadgen report` writes these again from result.json.
        for file in ["report.html", "report.txt", "report.md", "lag.csv"] {
            let _ = std::fs::remove_file(part.join(file));
        }
    }
    let machine = machine();
    let text = format!(
        "# {name}\n\n{headline}\n\n* command: `loadgen {}`, by `cargo xtask results {name}`\n* commit: {commit}\n\
         * machine: {machine}\n* date: {date}\n* ended: {status}\n\nThe report is [report.html](report.html){}; \
         raw data lie beside it, and `loadgen report DIR` draws each single run.\n",
        kept.args,
        if dir.join("report.md").exists() { " or [report.md](report.md)" } else { "" }
    );
    write(&dir.join("README.md"), &text)?;
    add_to_ledger(
        &folder,
        &format!(
            "| {date} | {commit} | `cargo xtask results {name}` | {headline} | [{folder}]({folder}/README.md) |"
        ),
    )
}

fn beside_librdkafka() -> Done {
    let commit = commit()?;
    let said = peers::run(PEER_ROUNDS)?;
    let medians: Vec<&str> = said.lines().filter(|line| line.starts_with("median")).collect();
    let text = format!(
        "loadgen beside librdkafka's rdkafka_performance, interleaved, medians of {PEER_ROUNDS}.\n\n\
         ```\n{said}```"
    );
    keep("librdkafka", &commit, &text, &medians.join("; "))
}

fn beside(file: &str, other: Other) -> Done {
    let commit = commit()?;
    let said = versus::run(other, VERSUS_ROUNDS)?;
    let ratio = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        (cells.get(1)?.contains("broker CPU") && cells.len() > 4).then(|| cells[4].to_owned())
    };
    let ratios: Vec<String> = said.lines().filter_map(ratio).collect();
    let name = other.name();
    let (version, promises, loads) = match other {
        Other::Kafka => (
            kafka::VERSION,
            "page cache means that an acknowledgement survives kill -9 of the broker (Kafka's default; \
             `weir.durability=os`), fsync that it survives a power cut (Kafka's \
             `log.flush.interval.messages=1`; Weir's default). Kafka has a heap of 1 GB and the flags of its \
             own start script",
            "bulk, small, fsync, librdkafka",
        ),
        Other::Tansu => (
            tansu::VERSION,
            "page cache means that an acknowledgement survives kill -9 of the broker (`weir.durability=os`; \
             tansu in SQLite, which it opens with a write-ahead log and `synchronous = normal`). In memory \
             tansu keeps nothing, and Weir does not do that: those rows are unlike, and say so",
            "page cache at 1,000/s, small and bulk against memory, librdkafka against memory",
        ),
    };
    let text = format!(
        "Weir and {name} {version}, each alone on the machine with its driver, interleaved, medians of \
         {VERSUS_ROUNDS} rounds. acks=all on one node: {promises}; each run is warmed up for 12 s. Two cores \
         for broker and driver together: the times measure the pair, CPU per record is the figure to take \
         along.\n\n{said}"
    );
    let ratios = ratios.join(", ");
    let headline = format!("broker CPU per record, {name}'s over Weir's: {loads}: {ratios}");
    keep(file, &commit, &text, &headline)
}

fn of_soak() -> Done {
    let commit = commit()?;
    let said = soak::run(60)?;
    let headline = said.lines().last().unwrap_or_default().to_owned();
    keep("soak", &commit, &format!("```\n{said}```"), &headline)
}

/// What `cargo xtask bench NAME` prints, with its medians as the figure.
fn of_bench(name: &str) -> Done {
    let commit = commit()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(["bench", name, "--rounds", &BENCH_ROUNDS.to_string()])
        .stderr(Stdio::inherit())
        .current_dir(top())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("bench {name}: {}", output.status));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    // Without what it built first, and how long that took.
    let said: Vec<&str> =
        said.lines().skip_while(|line| line.starts_with("==>") || line.ends_with(" s")).collect();
    let is_figure = |line: &&&str| line.starts_with("median") || line.contains(" bytes");
    let figures: Vec<&str> = said.iter().filter(is_figure).map(|line| line.trim()).collect();
    let text = format!("Medians of {BENCH_ROUNDS} rounds.\n\n```\n{}\n```", said.join("\n"));
    keep(name, &commit, &text, &figures.join("; "))
}

/// Puts a comparison into `results/` and its headline into the ledger.
fn keep(name: &str, commit: &str, said: &str, headline: &str) -> Done {
    let date = output_of("date", &["-u", "+%Y-%m-%d"])?;
    let folder = format!("{date}-{name}");
    let dir = top().join("results").join(&folder);
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let text = format!(
        "# {name}\n\n{said}\n\n* command: `cargo xtask results {name}`\n* commit: {commit}\n* machine: {}\n\
         * date: {date}\n",
        machine()
    );
    write(&dir.join("README.md"), &text)?;
    add_to_ledger(
        &folder,
        &format!(
            "| {date} | {commit} | `cargo xtask results {name}` | {headline} | [{folder}]({folder}/README.md) |"
        ),
    )
}

/// Of what is about to be built and run.
fn commit() -> Result<String, String> {
    output_of("git", &["rev-parse", "--short", "HEAD"])
}

fn write(path: &Path, text: &str) -> Done {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// One line per folder; a run done again takes the place of the old one.
fn add_to_ledger(folder: &str, line: &str) -> Done {
    let path = top().join("results/README.md");
    let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let kept: Vec<&str> =
        text.lines().filter(|old| !old.contains(&format!("[{folder}]"))).collect();
    write(&path, &(kept.join("\n") + "\n" + line + "\n"))
}

fn output_of(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).current_dir(top()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let model = model.unwrap_or_default().trim_start_matches([' ', '\t', ':']);
    format!(
        "{cores} cores {model}, kernel {}; loopback, broker and loadgen share it",
        kernel.trim()
    )
}

fn parts_of(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn json(dir: &Path, name: &str) -> Result<Value, String> {
    let text =
        std::fs::read_to_string(dir.join(name)).map_err(|_| format!("there is no {name}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))
}

fn f(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn of_run(dir: &Path) -> Result<String, String> {
    let run = json(dir, "result.json")?;
    Ok(format!(
        "schedule met {:.1} %, end-to-end p50 {:.2} ms, p99 {:.2} ms, broker {:.2} CPU s per million records; {} lost; {}",
        f(&run["throughput"]["schedule_met"]) * 100.0,
        f(&run["latency"]["end_to_end"]["p50_ms"]),
        f(&run["latency"]["end_to_end"]["p99_ms"]),
        f(&run["resources"]["broker"]["cpu_s_per_million_records"]),
        run["verification"]["lost"],
        run["verdict"].as_str().unwrap_or_default()
    ))
}

/// Where the time goes at half of the maximum rate: p99 and p99.9 of each stage.
fn of_stages(dir: &Path) -> Result<String, String> {
    let run = json(dir, "result.json")?;
    let shown = |latency: &Value| {
        let ms = |name: &str| latency[name].as_f64().map_or("-".into(), |ms| format!("{ms:.2}"));
        format!("{} / {}", ms("p99_ms"), ms("p99.9_ms"))
    };
    let latency = &run["latency"];
    let mut stages = vec![
        format!("end-to-end {}", shown(&latency["end_to_end"])),
        format!("client queue {}", shown(&latency["client_queue"])),
        format!("service time {}", shown(&latency["service"])),
    ];
    for stage in run["broker_stages"].as_array().into_iter().flatten() {
        let name = stage["stage"].as_str().unwrap_or_default();
        stages.push(format!("{name} {}", shown(&stage["latency"])));
    }
    Ok(format!("p99 / p99.9 in ms: {}", stages.join("; ")))
}

fn of_sweep(dir: &Path) -> Result<String, String> {
    let sweep = json(dir, "sweep.json")?;
    let points = sweep["points"].as_array().cloned().unwrap_or_default();
    let of = |point: &Value| {
        let values: Vec<&str> = point["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pair| pair[1].as_str())
            .collect();
        format!("{}: {:.2}", values.join(" x "), f(&point["end_to_end_p99_ms"]))
    };
    let shown: Vec<String> = points.iter().map(of).collect();
    Ok(format!("end-to-end p99 in ms: {}", shown.join("; ")))
}

fn of_durability(dir: &Path) -> Result<String, String> {
    let matrix = json(dir, "durability.json")?;
    let cells = matrix["cells"].as_array().cloned().unwrap_or_default();
    let promised = cells.iter().filter(|cell| cell["acks"] != "0" && cell["level"] != "memory");
    let (mut count, mut lost) = (0, 0);
    for cell in promised {
        count += 1;
        lost += cell["killed_lost"].as_u64().unwrap_or(0);
    }
    Ok(format!(
        "{} cells; over the {count} that promise to survive kill -9: {lost} acknowledged records lost",
        cells.len()
    ))
}

fn of_search(dir: &Path) -> Result<String, String> {
    let search = json(dir, "search.json")?;
    Ok(format!(
        "{} sustained at {:.0} records/s; {:.0} failed",
        search["objectives"][0].as_str().unwrap_or_default(),
        f(&search["confirmed_rate"]),
        f(&search["lowest_failed_rate"])
    ))
}

fn of_plan(dir: &Path) -> Result<String, String> {
    let plan = json(dir, "plan.json")?;
    Ok(format!(
        "{} brokers (P10 {}, P90 {}), bound by {}; the check was predicted to {:+.1} %",
        plan["brokers"],
        plan["p10"],
        plan["p90"],
        plan["binding"].as_str().unwrap_or_default(),
        f(&plan["check"]["miss"]) * 100.0
    ))
}

fn of_selftest(dir: &Path) -> Result<String, String> {
    let test = json(dir, "selftest.json")?;
    Ok(format!(
        "{:.1} million 100-byte records/s from one thread, {:.3} CPU s per million; measuring costs {:.1} %; a stall of 1 s shows as p99 {:.0} ms (true: 960)",
        f(&test["ceilings"][0]["records_per_s"]) / 1e6,
        f(&test["ceilings"][0]["cpu_s_per_million_records"]),
        f(&test["measuring_share"]) * 100.0,
        f(&test["stall"]["p99_ms"])
    ))
}
