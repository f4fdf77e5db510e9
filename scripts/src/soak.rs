//! A steady mix for long: producers and groups, a topic that is compacted, topics that are made, written to and
//! deleted, connections that come, say something or nonsense, and go. What a broker holds must not grow with time.

use crate::many::resident;
use crate::measure::{median, with_program};
use crate::steps::{self, Done, top};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Each record is written once, read by two groups, and deleted soon.
const STREAM: &str = "--topic stream --rate 4k --partitions 12 --producers 4 --consumers 3 --groups 2 \
    --topic-config retention.bytes=8388608 --topic-config segment.bytes=4194304";
const COMPACTED: &str = "--topic compacted --rate 1k --partitions 4 --producers 1 --consumers 0 \
    --key uniform:20000 --topic-config cleanup.policy=compact --topic-config segment.bytes=4194304 \
    --topic-config min.cleanable.dirty.ratio=0.2";
/// Made by its first request, written to for a while, and deleted while that goes on.
const CHURNED: &str = "--rate 2k --partitions 8 --producers 2 --consumers 0";
const CHURNED_FOR: Duration = Duration::from_secs(4);
const BROKER: [&str; 4] =
    ["--log.retention.check.interval.ms", "5000", "--log.cleaner.backoff.ms", "5000"];
const SAMPLED: Duration = Duration::from_secs(5);
/// A fresh broker takes memory up as caches and tables fill; from here on it must have what it needs.
const SETTLED_SHARE: f64 = 0.25;
/// Of memory and of open files; and a floor, for what a short run rounds up to.
const GROWTH_MAX: f64 = 1.05;
const GROWTH_FLOOR: [f64; 2] = [2e6, 4.0];

struct Sample {
    at: Duration,
    resident_bytes: f64,
    open_files: f64,
}

/// Runs it; what it said, the verdict as the last line.
pub(crate) fn run(minutes: u64) -> Result<String, String> {
    steps::run("cargo", &["build", "--release", "--quiet", "-p", "weir", "-p", "loadgen"])?;
    let length = Duration::from_secs(60 * minutes);
    let (mut samples, mut visits, mut topics) = (Vec::new(), 0, 0);
    let weir = top().join("target/release/weir");
    with_program(&weir, "soak", &BROKER, |address, pid, home| {
        let begin = |load: &str, name: &str| load_of(load, address, length, &home.join(name));
        let mut loads = [begin(STREAM, "stream")?, begin(COMPACTED, "compacted")?];
        let (done, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let deleted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    visit(address, count.fetch_add(1, Ordering::Relaxed));
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let number = deleted.load(Ordering::Relaxed);
                    if churn(&weir, address, number, home).is_ok() {
                        deleted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let sampled = sample_for(length, pid, &mut samples);
            done.store(true, Ordering::Relaxed);
            sampled
        })?;
        (visits, topics) = (count.into_inner(), deleted.into_inner());
        if topics == 0 {
            return Err("no topic could be deleted".to_owned());
        }
        for load in &mut loads {
            // It ends by itself, having read what it wrote: its verdict is in its status.
            let ended = load.wait().map_err(|error| error.to_string())?;
            if !ended.success() {
                return Err(format!("loadgen: {ended}"));
            }
        }
        Ok(())
    })?;
    let said = told(&samples, minutes, visits, topics);
    print!("{said}");
    match growths(&samples).iter().all(|growth| growth.is_flat) {
        true => Ok(said),
        false => Err("it grows".to_owned()),
    }
}

fn load_of(
    load: &str,
    address: &str,
    length: Duration,
    output: &std::path::Path,
) -> Result<Child, String> {
    Command::new(top().join("target/release/loadgen"))
        .args(load.split_whitespace())
        .args(["--warmup", "1s", "--duration", &format!("{}s", length.as_secs())])
        .args(["--quiet", "--bootstrap-server", address, "--output"])
        .arg(output)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("loadgen: {error}"))
}

/// A topic that comes and goes under load.
fn churn(weir: &std::path::Path, address: &str, number: u64, home: &std::path::Path) -> Done {
    let topic = format!("churn-{number}");
    let load = format!("--topic {topic} {CHURNED}");
    let mut load = load_of(&load, address, CHURNED_FOR, &home.join(&topic))?;
    std::thread::sleep(CHURNED_FOR / 2);
    let deleted = Command::new(weir)
        .args(["topic", "--bootstrap-server", address, "delete", &topic])
        .stdout(Stdio::null())
        .status();
    // Its records go where they may: what it says of the run is not asked.
    let _ = load.wait();
    match deleted {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("topic {topic} is not deleted: {other:?}")),
    }
}

/// Someone who asks, someone who goes in the middle of a request, someone who talks nonsense.
fn visit(address: &str, number: u64) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    // ApiVersions v0, correlation 1, no client id.
    let frame = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    match number % 3 {
        0 => {
            let mut length = [0; 4];
            if stream.write_all(&frame).is_ok() && stream.read_exact(&mut length).is_ok() {
                let mut answer = vec![0; u32::from_be_bytes(length) as usize];
                let _ = stream.read_exact(&mut answer);
            }
        }
        1 => drop(stream.write_all(&[&[0, 1, 0, 0], &frame[4..]].concat())),
        _ => drop(stream.write_all(b"GET / HTTP/1.1\r\n\r\n")),
    }
}

fn sample_for(length: Duration, pid: u32, samples: &mut Vec<Sample>) -> Done {
    let began = Instant::now();
    while began.elapsed() < length {
        std::thread::sleep(SAMPLED);
        let open_files = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let open_files = open_files.map_err(|_| "the broker has gone")?.count() as f64;
        let resident_bytes = resident(pid)? as f64;
        samples.push(Sample { at: began.elapsed(), resident_bytes, open_files });
    }
    Ok(())
}

struct Growth {
    what: &'static str,
    settled: f64,
    last: f64,
    is_flat: bool,
}

/// The second quarter's median beside the last quarter's.
fn growths(samples: &[Sample]) -> [Growth; 2] {
    let quarter = |from: f64| {
        let begin = (samples.len() as f64 * from) as usize;
        let end = (samples.len() as f64 * (from + 0.25)).ceil() as usize;
        &samples[begin..end.min(samples.len())]
    };
    let growth = |what, of: fn(&Sample) -> f64, floor: f64| {
        let middle = |from| median(quarter(from).iter().map(of).collect());
        let (settled, last): (f64, f64) = (middle(SETTLED_SHARE), middle(0.75));
        Growth { what, settled, last, is_flat: last <= (settled * GROWTH_MAX).max(settled + floor) }
    };
    [
        growth("resident MB", |sample| sample.resident_bytes / 1e6, GROWTH_FLOOR[0] / 1e6),
        growth("open files", |sample| sample.open_files, GROWTH_FLOOR[1]),
    ]
}

fn told(samples: &[Sample], minutes: u64, visits: u64, topics: u64) -> String {
    let mut out = format!(
        "weir serve {}\nloadgen {STREAM}\nloadgen {COMPACTED}\n{topics} topics made, written to and deleted\n{visits} visitors: a third ask, a third go \
         in the middle of a request, a third talk nonsense\n\n  minute  resident MB  open files\n",
        BROKER.join(" ")
    );
    let shown = samples.len().div_ceil(24).max(1);
    for sample in samples.iter().step_by(shown) {
        let _ = writeln!(
            out,
            "  {:6.1}  {:11.1}  {:10.0}",
            sample.at.as_secs_f64() / 60.0,
            sample.resident_bytes / 1e6,
            sample.open_files
        );
    }
    let told: Vec<String> = growths(samples)
        .iter()
        .map(|growth| {
            let verdict = if growth.is_flat { "flat" } else { "grows" };
            format!("{} {:.1} to {:.1}, {verdict}", growth.what, growth.settled, growth.last)
        })
        .collect();
    let _ = writeln!(
        out,
        "{minutes} minutes, median of the second quarter to that of the last: {}",
        told.join("; ")
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident_bytes: impl Fn(f64) -> f64) -> Vec<Sample> {
        let sample = |at: u32| Sample {
            at: Duration::from_secs(u64::from(at)),
            resident_bytes: resident_bytes(f64::from(at)),
            open_files: 40.0,
        };
        (0..400).map(sample).collect()
    }

    #[test]
    fn a_leak_is_told_from_filling_up_and_from_noise() {
        let is_flat = |of: &dyn Fn(f64) -> f64| growths(&samples(of))[0].is_flat;
        assert!(is_flat(&|at| 1e8 + 2e6 * (at % 3.0)));
        assert!(is_flat(&|at| 1e8 * (at / 50.0).min(1.0)));
        assert!(!is_flat(&|at| 1e8 + 5e4 * at));
        assert!(growths(&samples(|_| 1e8))[1].is_flat);
    }
}
