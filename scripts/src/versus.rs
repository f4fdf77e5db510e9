//! Weir beside another broker: the same machine, the same run, the same driver; and librdkafka's own tool as
//! a driver that is neither's. Like against like: page cache against page cache, fsync against fsync.

use crate::measure::{loadgen_result, median, number, with_weir};
use crate::started::PARTITIONS;
use crate::steps::{self, Done};
use crate::suites::librdkafka_source;
use crate::{kafka, tansu};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The broker that Weir is measured beside.
#[derive(Clone, Copy)]
pub(crate) enum Other {
    Kafka,
    Tansu,
}

/// One comparison. Both sides get the same load.
struct Load {
    name: &'static str,
    loadgen: &'static str,
    /// Settings that make a side promise what the other one does.
    weir: &'static [&'static str],
    other: &'static str,
}

/// An acknowledgement survives kill -9 of the broker, not a power cut: Kafka's default.
const PAGE_CACHE: &[&str] = &["--weir.durability", "os"];
/// It survives a power cut: Weir's default.
const FSYNC: &str = "log.flush.interval.messages=1\n";

const BESIDE_KAFKA: &[Load] = &[
    Load {
        name: "bulk, page cache: 40 MB/s of 1 KiB records, batches of 128 KiB, one reader",
        loadgen: "--rate 40k --partitions 12 --producers 1 --consumers 1 --batch-size 131072 --linger-ms 20",
        weir: PAGE_CACHE,
        other: "",
    },
    Load {
        name: "small, page cache: 30,000 records/s of 100 B, linger 5 ms, one reader",
        loadgen: "--rate 30k --record-size 100 --partitions 12 --producers 2 --consumers 1 --linger-ms 5",
        weir: PAGE_CACHE,
        other: "",
    },
    Load {
        name: "small, fsync: 2,000 records/s of 1 KiB, linger 5 ms, one reader",
        loadgen: "--rate 2k --partitions 12 --producers 1 --consumers 1 --linger-ms 5",
        weir: &[],
        other: FSYNC,
    },
];

/// In SQLite with a write-ahead log that is not synced at a commit: page cache, too. Rates that it keeps.
const BESIDE_TANSU: &[Load] = &[
    Load {
        name: "page cache (tansu in SQLite): 1,000 records/s of 1 KiB, linger 5 ms, one reader",
        loadgen: "--rate 1k --partitions 12 --producers 1 --consumers 1 --linger-ms 5",
        weir: PAGE_CACHE,
        other: tansu::SQLITE,
    },
    Load {
        name: "small, unlike: tansu keeps nothing (memory), Weir page cache: 30,000 records/s of 100 B, linger \
               5 ms, one reader",
        loadgen: "--rate 30k --record-size 100 --partitions 12 --producers 2 --consumers 1 --linger-ms 5",
        weir: PAGE_CACHE,
        other: tansu::MEMORY,
    },
    Load {
        name: "bulk, unlike: tansu keeps nothing (memory), Weir page cache: 10 MB/s of 1 KiB records, batches \
               of 128 KiB at most, one reader",
        loadgen: "--rate 10k --partitions 12 --producers 1 --consumers 1 --batch-size 131072 --linger-ms 20",
        weir: PAGE_CACHE,
        other: tansu::MEMORY,
    },
];
const SHOWN: [(&str, &str); 5] = [
    ("broker CPU s per million records", "/resources/broker/cpu_s_per_million_records"),
    ("produce p99 ms", "/latency/produce/p99_ms"),
    ("end-to-end p50 ms", "/latency/end_to_end/p50_ms"),
    ("end-to-end p99 ms", "/latency/end_to_end/p99_ms"),
    ("resident MB at most", "/resources/broker/resident_peak_bytes"),
];
/// What the neutral driver sends: 1 KiB each, as fast as it goes.
const NEUTRAL_RECORDS: u64 = 1_500_000;

impl Other {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "Apache Kafka",
            Self::Tansu => "tansu",
        }
    }

    fn loads(self) -> &'static [Load] {
        match self {
            Self::Kafka => BESIDE_KAFKA,
            Self::Tansu => BESIDE_TANSU,
        }
    }

    /// What the neutral driver meets.
    fn neutral(self) -> (&'static str, &'static str) {
        match self {
            Self::Kafka => ("page cache", ""),
            Self::Tansu => ("unlike: tansu keeps nothing (memory), Weir page cache", tansu::MEMORY),
        }
    }

    /// What it is started from; fetched, and built, once.
    fn installed(self) -> Result<PathBuf, String> {
        match self {
            Self::Kafka => kafka::libs(),
            Self::Tansu => tansu::program(),
        }
    }
}

/// The two of a comparison.
struct Sides {
    other: Other,
    installed: PathBuf,
}

impl Sides {
    /// Runs `body` with the address and process of a fresh broker: Weir (0) or the other one (1).
    fn on(
        &self,
        side: usize,
        weir: &[&str],
        other: &str,
        body: impl FnOnce(&str, u32, &Path) -> Done,
    ) -> Done {
        let weir = [&["--num.partitions", PARTITIONS], weir].concat();
        match (side, self.other) {
            (0, _) => with_weir(&weir, body),
            (_, Other::Kafka) => kafka::with_broker(&self.installed, other, body),
            (_, Other::Tansu) => tansu::with_broker(&self.installed, other, body),
        }
    }

    /// Measures both, taking turns; the values of each round.
    fn interleaved(
        &self,
        rounds: usize,
        measure: impl Fn(usize) -> Result<Vec<f64>, String>,
    ) -> Result<[Vec<Vec<f64>>; 2], String> {
        let mut found: [Vec<Vec<f64>>; 2] = Default::default();
        for round in 0..rounds.max(1) {
            for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let values = measure(side)?;
                let name = ["weir", self.other.name()][side];
                println!("    round {}, {name}: {values:.3?}", round + 1);
                found[side].push(values);
            }
        }
        Ok(found)
    }

    fn table(&self, said: &mut String, name: &str, columns: &[&str], found: &[Vec<Vec<f64>>; 2]) {
        let other = self.other.name();
        let _ = writeln!(said, "### {name}\n\n| medians | weir | {other} | {other} / weir |");
        let _ = writeln!(said, "|---|---|---|---|");
        for (at, column) in columns.iter().enumerate() {
            let of = |side: &Vec<Vec<f64>>| median(side.iter().map(|values| values[at]).collect());
            let [weir, other] = [of(&found[0]), of(&found[1])];
            let _ = writeln!(said, "| {column} | {weir:.2} | {other:.2} | {:.2} |", other / weir);
        }
        said.push('\n');
    }
}

/// Runs it all; the tables, in Markdown.
pub(crate) fn run(other: Other, rounds: usize) -> Result<String, String> {
    let sides = Sides { other, installed: other.installed()? };
    steps::run(
        "cargo",
        &["build", "--release", "--quiet", "-p", "weir", "-p", "loadgen", "--bins"],
    )?;
    let tool = librdkafka_source()?.join("examples/rdkafka_performance");
    if !tool.exists() {
        let dir = tool.parent().expect("in a directory").display().to_string();
        steps::run("make", &["-s", "-C", &dir, "rdkafka_performance"])?;
    }
    let mut said = String::new();
    for load in other.loads() {
        let found = sides.interleaved(rounds, |side| {
            let mut values = Vec::new();
            sides.on(side, load.weir, load.other, |address, pid, home| {
                values = loadgen_at(address, pid, home, load.loadgen)?;
                Ok(())
            })?;
            Ok(values)
        })?;
        sides.table(&mut said, load.name, &SHOWN.map(|(name, _)| name), &found);
        let _ = writeln!(said, "`loadgen {} --acks all`\n", load.loadgen);
    }
    let (promise, settings) = other.neutral();
    let found = sides.interleaved(rounds, |side| {
        let mut values = Vec::new();
        sides.on(side, PAGE_CACHE, settings, |address, pid, _| {
            // The first run makes the topic and warms both sides up.
            neutral_at(&tool, address, pid)?;
            values = neutral_at(&tool, address, pid)?;
            Ok(())
        })?;
        Ok(values)
    })?;
    let name =
        format!("the neutral driver, {promise}: librdkafka as fast as it goes, 1 KiB records");
    sides.table(&mut said, &name, &["seconds", "broker CPU s per million records"], &found);
    println!("{said}");
    Ok(said)
}

fn loadgen_at(address: &str, pid: u32, home: &Path, load: &str) -> Result<Vec<f64>, String> {
    // A JVM compiles what runs often: it is given time to.
    let load = format!("{load} --acks all --warmup 12s --duration 10s");
    let text = loadgen_result(&load, address, pid, &home.join("result"))?;
    if number(&text, "/verification/lost")? > 0.0 {
        return Err(format!("{address} lost records"));
    }
    let value = |(name, pointer): &(&str, &str)| {
        let value = number(&text, pointer)?;
        Ok(if name.contains("MB") { value / 1e6 } else { value })
    };
    SHOWN.iter().map(value).collect()
}

fn neutral_at(tool: &Path, address: &str, pid: u32) -> Result<Vec<f64>, String> {
    let (cpu, began) = (cpu_s(pid)?, Instant::now());
    let status = Command::new(tool)
        .args(["-P", "-t", "neutral", "-b", address, "-s", "1024", "-a", "-1", "-q"])
        .args(["-c", &NEUTRAL_RECORDS.to_string(), "-X", "linger.ms=20"])
        .args(["-X", "batch.size=131072", "-X", "queue.buffering.max.messages=200000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("rdkafka_performance: {error}"))?;
    if !status.success() {
        return Err(format!("rdkafka_performance: {status}"));
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(vec![seconds, (cpu_s(pid)? - cpu) * 1e6 / NEUTRAL_RECORDS as f64])
}

/// CPU seconds of a process so far, from /proc/PID/stat.
fn cpu_s(pid: u32) -> Result<f64, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| e.to_string())?;
    let behind_name = text.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let mut ticks = behind_name.split(' ').skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks.next(), ticks.next()) else {
        return Err(format!("/proc/{pid}/stat: no times"));
    };
    // USER_HZ has been 100 on every Linux for decades.
    Ok((user + system) / 100.0)
}
