//! Weir beside Apache Kafka: the same machine, the same run, the same driver; and librdkafka's own tool as
//! a driver that is neither's. Like against like: page cache against page cache, fsync against fsync.

use crate::bench::{loadgen_result, median, number, with_weir};
use crate::kafka;
use crate::steps::{self, Done, top};
use crate::suites::{free_address, librdkafka_source};
use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One comparison. Both sides get the same load.
struct Load {
    name: &'static str,
    loadgen: &'static str,
    /// Settings that make a side promise what the other one does.
    weir: &'static [&'static str],
    kafka: &'static str,
}

/// An acknowledgement survives kill -9 of the broker, not a power cut: Kafka's default.
const PAGE_CACHE: &[&str] = &["--weir.durability", "os"];
/// It survives a power cut: Weir's default.
const FSYNC: &str = "log.flush.interval.messages=1\n";

const LOADS: [Load; 3] = [
    Load {
        name: "bulk, page cache: 40 MB/s of 1 KiB records, batches of 128 KiB, one reader",
        loadgen: "--rate 40k --partitions 12 --producers 1 --consumers 1 --batch-size 131072 --linger-ms 20",
        weir: PAGE_CACHE,
        kafka: "",
    },
    Load {
        name: "small, page cache: 30,000 records/s of 100 B, linger 5 ms, one reader",
        loadgen: "--rate 30k --record-size 100 --partitions 12 --producers 2 --consumers 1 --linger-ms 5",
        weir: PAGE_CACHE,
        kafka: "",
    },
    Load {
        name: "small, fsync: 2,000 records/s of 1 KiB, linger 5 ms, one reader",
        loadgen: "--rate 2k --partitions 12 --producers 1 --consumers 1 --linger-ms 5",
        weir: &[],
        kafka: FSYNC,
    },
];
/// Of a topic that is made by being written to.
const PARTITIONS: &str = "12";
const SIDES: [&str; 2] = ["weir", "Apache Kafka"];
const SHOWN: [(&str, &str); 5] = [
    ("broker CPU s per million records", "/resources/broker/cpu_s_per_million_records"),
    ("produce p99 ms", "/latency/produce/p99_ms"),
    ("end-to-end p50 ms", "/latency/end_to_end/p50_ms"),
    ("end-to-end p99 ms", "/latency/end_to_end/p99_ms"),
    ("resident MB at most", "/resources/broker/resident_peak_bytes"),
];
/// What the neutral driver sends: 1 KiB each, as fast as it goes.
const NEUTRAL_RECORDS: u64 = 1_500_000;

/// Runs it all; the table, in Markdown.
pub(crate) fn run(rounds: usize) -> Result<String, String> {
    let libs = kafka::libs()?;
    steps::run(
        "cargo",
        &["build", "--release", "--quiet", "-p", "broker", "-p", "loadgen", "--bins"],
    )?;
    let tool = librdkafka_source()?.join("examples/rdkafka_performance");
    if !tool.exists() {
        let dir = tool.parent().expect("in a directory").display().to_string();
        steps::run("make", &["-s", "-C", &dir, "rdkafka_performance"])?;
    }
    let mut said = String::new();
    for load in &LOADS {
        let mut found: [Vec<Vec<f64>>; 2] = Default::default();
        for round in 0..rounds.max(1) {
            for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let mut values = Vec::new();
                on_side(side, load.weir, load.kafka, &libs, |address, pid, home| {
                    values = loadgen_at(address, pid, home, load.loadgen)?;
                    Ok(())
                })?;
                println!("    round {}, {}: {values:.3?}", round + 1, SIDES[side]);
                found[side].push(values);
            }
        }
        table(&mut said, load.name, &SHOWN.map(|(name, _)| name), &found);
        let _ = writeln!(said, "`loadgen {} --acks all`\n", load.loadgen);
    }
    let mut found: [Vec<Vec<f64>>; 2] = Default::default();
    for round in 0..rounds.max(1) {
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let mut values = Vec::new();
            on_side(side, PAGE_CACHE, "", &libs, |address, pid, _| {
                // The first run makes the topic and warms both sides up.
                neutral_at(&tool, address, pid)?;
                values = neutral_at(&tool, address, pid)?;
                Ok(())
            })?;
            println!("    round {}, {}: {values:.3?}", round + 1, SIDES[side]);
            found[side].push(values);
        }
    }
    let name = "the neutral driver, page cache: librdkafka as fast as it goes, 1 KiB records";
    table(&mut said, name, &["seconds", "broker CPU s per million records"], &found);
    println!("{said}");
    Ok(said)
}

fn table(said: &mut String, name: &str, columns: &[&str], found: &[Vec<Vec<f64>>; 2]) {
    let _ = writeln!(said, "### {name}\n\n| medians | weir | Apache Kafka | Kafka / weir |");
    let _ = writeln!(said, "|---|---|---|---|");
    for (at, column) in columns.iter().enumerate() {
        let of = |side: &Vec<Vec<f64>>| median(side.iter().map(|values| values[at]).collect());
        let [weir, other] = [of(&found[0]), of(&found[1])];
        let _ = writeln!(said, "| {column} | {weir:.2} | {other:.2} | {:.2} |", other / weir);
    }
    said.push('\n');
}

/// Runs `body` with the address and process of a fresh broker of that side.
fn on_side(
    side: usize,
    weir: &[&str],
    kafka: &str,
    libs: &Path,
    body: impl FnOnce(&str, u32, &Path) -> Done,
) -> Done {
    let weir = [&["--num.partitions", PARTITIONS], weir].concat();
    if side == 0 { with_weir(&weir, body) } else { with_kafka(libs, kafka, body) }
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

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A fresh Apache Kafka of one node, with the flags its own start script gives the JVM.
fn with_kafka(libs: &Path, settings: &str, body: impl FnOnce(&str, u32, &Path) -> Done) -> Done {
    let home = top().join("target/bench");
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    let [listen, controller] = [free_address()?, free_address()?];
    let properties = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{controller}\n\
         listeners=PLAINTEXT://{listen},CONTROLLER://{controller}\n\
         advertised.listeners=PLAINTEXT://{listen}\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={}\nnum.partitions={PARTITIONS}\noffsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n{settings}",
        home.join("data").display()
    );
    let file = home.join("server.properties");
    std::fs::write(&file, properties).map_err(|error| error.to_string())?;
    let classes = format!("{}/*", libs.display());
    let formatted = Command::new("java")
        .args(["-cp", &classes, "kafka.tools.StorageTool", "format", "-t"])
        .args(["MkU3OEVBNTcwNTJENDM2Qg", "-c"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !formatted.is_ok_and(|status| status.success()) {
        return Err(format!("Apache Kafka cannot format {}", home.display()));
    }
    let log = std::fs::File::create(home.join("kafka.log")).map_err(|error| error.to_string())?;
    let server = Command::new("java")
        .args("-Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20".split(' '))
        .args("-XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent".split(' '))
        .args(["-Djava.awt.headless=true", "-cp", &classes, "kafka.Kafka"])
        .arg(&file)
        .stdout(log.try_clone().map_err(|error| error.to_string())?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("java: {error}"))?;
    let server = Server(server);
    let began = Instant::now();
    while TcpStream::connect(&listen).is_err() {
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("Apache Kafka does not start; see {}", home.display()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let done = body(&listen, server.0.id(), &home);
    drop(server);
    if done.is_ok() {
        let _ = std::fs::remove_dir_all(&home);
    }
    done
}
