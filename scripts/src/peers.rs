//! loadgen beside librdkafka's own performance tool: the same load, interleaved, where both measure the
//! same thing. Built from the sources that the compat suite fetches.

use crate::measure::{median, number, with_weir};
use crate::steps::{self, Done, top};
use crate::suites::librdkafka_source;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Records of a cost run: enough that starting up does not count.
const RECORDS: u64 = 5_000_000;
/// At this rate a batch is closed by linger, so both tools' clocks time the same thing.
const RATE: u64 = 2_000;
const LATENCY_SECONDS: u64 = 8;

/// Runs both comparisons; what came out, in words.
pub(crate) fn run(rounds: usize) -> Result<String, String> {
    steps::run(
        "cargo",
        &["build", "--release", "--quiet", "-p", "weir", "-p", "loadgen", "--bins"],
    )?;
    let source = librdkafka_source()?;
    let tool = source.join("examples/rdkafka_performance");
    if !tool.exists() {
        let dir = source.display().to_string();
        steps::run("make", &["-s", "-C", &format!("{dir}/examples"), "rdkafka_performance"])?;
    }
    let mut said = String::new();
    cost(rounds, &tool, &mut said)?;
    latency(rounds, &tool, &mut said)?;
    Ok(said)
}

/// Shows a line and keeps it.
fn say(said: &mut String, line: &str) {
    println!("{line}");
    *said += line;
    said.push('\n');
}

/// CPU seconds of a command and its standard output.
fn timed(command: &str) -> Result<(f64, String), String> {
    let output = Command::new("sh")
        .args(["-c", &format!("{command}; times")])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default();
    let seconds = |word: &str| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let spent: Option<Vec<f64>> = last.split_whitespace().map(seconds).collect();
    let spent = spent.ok_or_else(|| format!("no times in {last:?}"))?;
    Ok((spent.iter().sum(), text))
}

fn cost(rounds: usize, tool: &Path, said: &mut String) -> Done {
    let loadgen = top().join("target/release/loadgen");
    say(
        said,
        "CPU s per million 100-byte records, 12 partitions, acks=1, batches of 128 KiB, against a server that only answers",
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let sink = Sink::start(&loadgen)?;
            if side == 0 {
                let home = top().join("target/bench/peer");
                let _ = std::fs::remove_dir_all(&home);
                let (cpu, _) = timed(&format!(
                    "{} --bootstrap-server {} --topic sink --keep-topic --rate max --num-records {RECORDS} \
                     --partitions 12 --producers 1 --consumers 0 --acks 1 --record-size 100 --linger-ms 20 \
                     --batch-size 131072 --warmup 0s --quiet --output {}",
                    loadgen.display(),
                    sink.address,
                    home.display()
                ))?;
                ours.push(cpu * 1e6 / RECORDS as f64);
            } else {
                let (cpu, _) = timed(&format!(
                    "{} -P -t sink -b {} -s 100 -c {RECORDS} -a 1 -X linger.ms=20 -X batch.size=131072 \
                     -X queue.buffering.max.messages=1000000 -q",
                    tool.display(),
                    sink.address
                ))?;
                theirs.push(cpu * 1e6 / RECORDS as f64);
            }
        }
        say(
            said,
            &format!(
                "  round {}: loadgen {:.3}, librdkafka {:.3}",
                round + 1,
                ours[round],
                theirs[round]
            ),
        );
    }
    let (ours, theirs) = (median(ours), median(theirs));
    say(
        said,
        &format!("median: loadgen {ours:.3}, librdkafka {theirs:.3}, ratio {:.2}", ours / theirs),
    );
    Ok(())
}

fn latency(rounds: usize, tool: &Path, said: &mut String) -> Done {
    say(
        said,
        &format!(
            "produce latency (ms) at {RATE} records/s of 1 KiB, one partition, acks=all, linger 20 ms, the same broker"
        ),
    );
    let mut found: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..rounds.max(1) {
        with_weir(&[], |address, _, home| {
            for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let [p50, p90] = if side == 0 {
                    ours_at(address, &home.join("ours"))?
                } else {
                    theirs_at(tool, address, &home.join("theirs"))?
                };
                found[side][0].push(p50);
                found[side][1].push(p90);
            }
            Ok(())
        })?;
        say(
            said,
            &format!(
                "  round {}: loadgen p50 {:.3} p90 {:.3}, librdkafka p50 {:.3} p90 {:.3}",
                round + 1,
                found[0][0][round],
                found[0][1][round],
                found[1][0][round],
                found[1][1][round]
            ),
        );
    }
    let [ours, theirs] = found.map(|side| side.map(median));
    for (name, ours, theirs) in [("p50", ours[0], theirs[0]), ("p90", ours[1], theirs[1])] {
        say(
            said,
            &format!(
                "median {name}: loadgen {ours:.3}, librdkafka {theirs:.3}, ratio {:.3}",
                ours / theirs
            ),
        );
    }
    Ok(())
}

fn ours_at(address: &str, home: &Path) -> Result<[f64; 2], String> {
    let status = Command::new(top().join("target/release/loadgen"))
        .args(["--bootstrap-server", address, "--rate", &RATE.to_string(), "--partitions", "1"])
        .args(["--producers", "1", "--consumers", "0", "--acks", "all", "--linger-ms", "20"])
        .args(["--batch-size", "1000000", "--warmup", "1s", "--quiet"])
        .args(["--duration", &format!("{LATENCY_SECONDS}s"), "--output"])
        .arg(home)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| error.to_string())?;
    let text = std::fs::read_to_string(home.join("result.json"));
    let text = text.map_err(|_| format!("loadgen left no result: {status}"))?;
    Ok([number(&text, "/latency/produce/p50_ms")?, number(&text, "/latency/produce/p90_ms")?])
}

fn theirs_at(tool: &Path, address: &str, file: &Path) -> Result<[f64; 2], String> {
    let count = (RATE * LATENCY_SECONDS).to_string();
    let status = Command::new(tool)
        .args([
            "-P", "-t", "peer", "-p", "0", "-b", address, "-s", "1024", "-c", &count, "-a", "-1",
        ])
        .args(["-r", &RATE.to_string(), "-l", "-X", "linger.ms=20", "-q", "-A"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| error.to_string())?;
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut micros: Vec<f64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    // Its first second is its warm-up.
    let warm = micros.len().min(RATE as usize);
    let mut micros: Vec<f64> = micros.drain(warm..).collect();
    if micros.is_empty() {
        return Err(format!("rdkafka_performance left no latencies: {status}"));
    }
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize] / 1000.0;
    Ok([at(0.5), at(0.9)])
}

/// A server that only answers, part of loadgen.
struct Sink {
    child: Child,
    address: String,
}

impl Sink {
    fn start(loadgen: &Path) -> Result<Self, String> {
        let mut child = Command::new(loadgen)
            .args(["embedded-sink", "12"])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line);
        let address = line.trim().strip_prefix("listening on ").ok_or("the sink did not start")?;
        Ok(Self { child, address: address.to_owned() })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
