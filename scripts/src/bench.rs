//! Whole-system measurements: the same load against Weir and against a bare server on the same
//! runtime, interleaved in one run, shown as ratios of CPU time.

use crate::measure::{WEIR_ARGS, loadgen_result, median, number, with_weir};
use crate::steps::{self, Done, run as step, top};
use crate::versus::Other;
use crate::{cores, many, peers, tail, versus};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// One side of a comparison: how to start its server.
struct Side {
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
}

const WEIR: Side = Side { name: "weir", program: "weir", args: &WEIR_ARGS };
const FLOOR: Side = Side { name: "floor", program: "floor", args: &[] };

const RATE: [&str; 2] = ["--rate", "300k"];

/// 1 KiB records in batches of at least 64 KiB, no consumers.
const LOAD: &[&str] = &[
    "--partitions",
    "12",
    "--producers",
    "2",
    "--consumers",
    "0",
    "--batch-size",
    "131072",
    "--linger-ms",
    "20",
    "--warmup",
    "2s",
    "--duration",
    "8s",
    "--quiet",
];
pub(crate) fn run(scenario: &str, rounds: usize) -> Done {
    step(
        "cargo",
        &[
            "build",
            "--release",
            "--quiet",
            "-p",
            "weir",
            "-p",
            "loadgen",
            "-p",
            "benches",
            "--bins",
        ],
    )?;
    match scenario {
        "sink" => {
            steps::run("target/release/loadgen", &["selftest", "--rounds", &rounds.to_string()])
        }
        "librdkafka" => peers::run(rounds).map(drop),
        "kafka" => versus::run(Other::Kafka, rounds).map(drop),
        "tansu" => versus::run(Other::Tansu, rounds).map(drop),
        "many" => many::run(rounds),
        "tail" => tail::run(rounds),
        "cores" => cores::run(rounds),
        "groups" => groups(rounds),
        "compaction" => compaction(rounds),
        _ => floor(rounds),
    }
}

/// The floor answers when it has written, whatever acks say.
const FLOOR_ROWS: [(&Side, &str); 3] = [(&FLOOR, "1"), (&WEIR, "1"), (&WEIR, "all")];

fn floor(rounds: usize) -> Done {
    let mut costs: [Vec<f64>; FLOOR_ROWS.len()] = Default::default();
    println!("broker CPU seconds per GB; {} {} --acks 1 or all", RATE.join(" "), LOAD.join(" "));
    for round in 0..rounds.max(1) {
        // Alternate who goes first: drift of the machine then hits all alike.
        let mut order: Vec<usize> = (0..FLOOR_ROWS.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for row in order {
            let (side, acks) = FLOOR_ROWS[row];
            costs[row].push(measure(side, acks, "/resources/broker/cpu_s_per_gb")?);
        }
        let shown = |row: usize| format!("{:.3}", costs[row][round]);
        println!(
            "  round {}: floor {}, weir acks=1 {}, acks=all {}",
            round + 1,
            shown(0),
            shown(1),
            shown(2)
        );
    }
    let [floor, one, all] = costs.map(median);
    println!(
        "median: floor {floor:.3}, weir acks=1 {one:.3}, ratio {:.2}, acks=all {all:.3}, ratio {:.2}",
        one / floor,
        all / floor
    );
    Ok(())
}

/// What groups cost: heartbeats, a large rebalance, and what commits do to producers.
fn groups(rounds: usize) -> Done {
    let release = top().join("target/release");
    for (mode, delay, args) in [
        ("heartbeats", "5", &["--groups", "1000", "--members", "4"][..]),
        ("rebalance", "500", &["--members", "100"]),
    ] {
        with_weir(&["--group.initial.rebalance.delay.ms", delay], |address, pid, _| {
            let status = Command::new(release.join("groups"))
                .args(["--mode", mode, "--bootstrap-server", address, "--broker-pid"])
                .arg(pid.to_string())
                .args(args)
                .status();
            let status = status.map_err(|error| error.to_string())?;
            if status.success() { Ok(()) } else { Err(format!("groups: {status}")) }
        })?;
    }
    let mut p99 = [Vec::new(), Vec::new()];
    let load = "--rate 20000 --partitions 12 --consumers 0 --warmup 1s --duration 5s --quiet";
    println!("produce p99 (ms), alone and beside 1,000 commits/s; {load}");
    for round in 0..rounds.max(1) {
        for with_commits in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            with_weir(&[], |address, pid, home| {
                let mut beside = (with_commits == 1).then(|| {
                    Command::new(release.join("groups"))
                        .args([
                            "--mode",
                            "commits",
                            "--seconds",
                            "8",
                            "--bootstrap-server",
                            address,
                        ])
                        .args(["--broker-pid", &pid.to_string()])
                        .stdout(Stdio::null())
                        .spawn()
                });
                let output = home.join("result");
                let status = Command::new(release.join("loadgen"))
                    .args(load.split(' '))
                    .args(["--bootstrap-server", address, "--output"])
                    .arg(&output)
                    .stdout(Stdio::null())
                    .status()
                    .map_err(|error| error.to_string())?;
                if let Some(Ok(child)) = &mut beside {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                let result = std::fs::read_to_string(output.join("result.json"));
                let result = result.map_err(|_| format!("loadgen left no result: {status}"))?;
                p99[with_commits].push(number(&result, "/latency/produce/p99_ms")?);
                Ok(())
            })?;
        }
        println!("  round {}: {:.3}, {:.3}", round + 1, p99[0][round], p99[1][round]);
    }
    let [alone, beside] = p99.map(median);
    println!("median: {alone:.3}, {beside:.3}, ratio {:.2}", beside / alone);
    Ok(())
}

/// What compaction does to producers: the same two loads, the topic of one of them compacted without
/// a pause or not at all.
fn compaction(rounds: usize) -> Done {
    let loadgen = top().join("target/release/loadgen");
    let beside = "--topic kept --keep-topic --rate 10000 --partitions 2 --consumers 0 --producers 1 --key uniform:100000 \
                  --warmup 0s --duration 20s --quiet";
    let load = "--rate 20000 --partitions 12 --consumers 0 --warmup 6s --duration 8s";
    println!("produce p99 (ms) of: {load}\nbeside: {beside}");
    let mut p99 = [Vec::new(), Vec::new()];
    for round in 0..rounds.max(1) {
        let mut passes = 0;
        for compacts in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let policy = ["cleanup.policy=delete", "cleanup.policy=compact"][compacts];
            with_weir(&["--log.cleaner.backoff.ms", "1"], |address, pid, home| {
                let mut filler = Command::new(&loadgen)
                    .args(beside.split_whitespace())
                    .args(["--bootstrap-server", address, "--topic-config", policy])
                    .args(["--topic-config", "segment.bytes=16777216"])
                    .args(["--topic-config", "min.cleanable.dirty.ratio=0.01", "--output"])
                    .arg(home.join("beside"))
                    .stdout(Stdio::null())
                    .spawn()
                    .map_err(|error| error.to_string())?;
                let result = loadgen_result(load, address, pid, &home.join("result"));
                let _ = filler.kill();
                let _ = filler.wait();
                p99[compacts].push(number(&result?, "/latency/produce/p99_ms")?);
                passes += compacted_segments(&home.join("data/partitions"));
                Ok(())
            })?;
        }
        println!(
            "  round {}: {:.3}, {:.3} ({passes} compacted segments at the end)",
            round + 1,
            p99[0][round],
            p99[1][round]
        );
        if passes == 0 {
            return Err("nothing was compacted".into());
        }
    }
    let [alone, beside] = p99.map(median);
    println!("median: {alone:.3}, {beside:.3}, ratio {:.2}", beside / alone);
    Ok(())
}

/// Compacted segments carry their end and generation in their names.
fn compacted_segments(partitions: &std::path::Path) -> usize {
    let dirs = std::fs::read_dir(partitions).into_iter().flatten().flatten();
    let names = dirs.flat_map(|dir| std::fs::read_dir(dir.path()).into_iter().flatten().flatten());
    let is_compacted = |name: &str| name.ends_with(".log") && name.matches('-').count() == 2;
    names.filter(|entry| is_compacted(&entry.file_name().to_string_lossy())).count()
}

fn measure(side: &Side, acks: &str, pointer: &str) -> Result<f64, String> {
    number(&measure_all(side, acks)?, pointer)
}

fn measure_all(side: &Side, acks: &str) -> Result<String, String> {
    let home = top().join("target/bench");
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    let release = top().join("target/release");
    let mut server = Command::new(release.join(side.program))
        .args(side.args)
        .arg("--data-dir")
        .arg(home.join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{}: {error}", side.name))?;
    let result = drive(&mut server, acks, &home, &release);
    let _ = server.kill();
    let _ = server.wait();
    let _ = std::fs::remove_dir_all(home.join("data"));
    result
}

fn drive(
    server: &mut Child,
    acks: &str,
    home: &std::path::Path,
    release: &std::path::Path,
) -> Result<String, String> {
    let mut line = String::new();
    let stdout = server.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
    let address = line.trim().strip_prefix("listening on ").ok_or("the server did not start")?;
    let output = home.join("result");
    let status = Command::new(release.join("loadgen"))
        .args(RATE)
        .args(LOAD)
        .args(["--acks", acks])
        .args(["--bootstrap-server", address, "--broker-pid", &server.id().to_string()])
        .args(["--topic", "bench", "--keep-topic", "--output"])
        .arg(&output)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status()
        .map_err(|error| error.to_string())?;
    let read = std::fs::read_to_string(output.join("result.json"));
    read.map_err(|_| format!("loadgen left no result: {status}"))
}
