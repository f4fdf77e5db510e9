//! Many small things: what a record costs the broker as partitions grow in number, and what idle
//! partitions and idle connections take.

use crate::measure::{loadgen_result, median, number, with_weir};
use crate::steps::{Done, top};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

const PARTITIONS: [&str; 4] = ["12", "100", "1000", "10000"];
const IDLE_PARTITIONS: u64 = 10_000;
/// Below the limit of open files that most shells have.
const IDLE_CONNECTIONS: u64 = 900;
/// Of the one large request that each of them sends before it is idle again.
const BUSY_BYTES: usize = 500_000;
/// The first record of each partition makes its files: the warm-up is long enough for all of them.
const LOAD: &str = "--rate 50k --record-size 100 --producers 200 --consumers 0 --acks 1 --warmup 15s --duration 6s";

pub(crate) fn run(rounds: usize) -> Done {
    for linger in ["0", "5"] {
        println!(
            "broker CPU s per million records; {LOAD} --linger-ms {linger}; partitions {PARTITIONS:?}"
        );
        let mut costs: [Vec<f64>; PARTITIONS.len()] = Default::default();
        for round in 0..rounds.max(1) {
            let mut order: Vec<usize> = (0..PARTITIONS.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                costs[at].push(cost(PARTITIONS[at], linger)?);
            }
            let shown: Vec<String> = costs.iter().map(|c| format!("{:.2}", c[round])).collect();
            println!("  round {}: {}", round + 1, shown.join(", "));
        }
        let medians = costs.map(median);
        let shown: Vec<String> = medians.iter().map(|cost| format!("{cost:.2}")).collect();
        let growth = medians[PARTITIONS.len() - 1] / medians[0];
        println!("median: {}; from 12 to 10,000 partitions: {growth:.2}", shown.join(", "));
    }
    idle_partitions()?;
    idle_connections()
}

fn cost(partitions: &str, linger: &str) -> Result<f64, String> {
    let mut found = Err("nothing ran".to_owned());
    with_weir(&[], |address, pid, home| {
        let load = format!("{LOAD} --partitions {partitions} --linger-ms {linger}");
        let text = loadgen_result(&load, address, pid, &home.join("result"))?;
        found = number(&text, "/resources/broker/cpu_s_per_million_records");
        Ok(())
    })?;
    found
}

fn idle_partitions() -> Done {
    with_weir(&[], |address, pid, _| {
        let before = resident(pid)?;
        let made = Command::new(top().join("target/release/weir"))
            .args(["topic", "create", "idle", "--partitions", &IDLE_PARTITIONS.to_string()])
            .args(["--bootstrap-server", address])
            .stdout(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("the topic could not be made".into());
        }
        let grown = resident(pid)?.saturating_sub(before);
        println!("{IDLE_PARTITIONS} idle partitions: {} bytes each", grown / IDLE_PARTITIONS);
        Ok(())
    })
}

fn idle_connections() -> Done {
    with_weir(&[], |address, pid, _| {
        let before = resident(pid)?;
        let mut open = Vec::new();
        for _ in 0..IDLE_CONNECTIONS {
            let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
            // ApiVersions v0, correlation 1, no client id: each has been served once.
            let frame = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
            let mut length = [0; 4];
            let asked = stream.write_all(&frame).and_then(|()| stream.read_exact(&mut length));
            asked.map_err(|error| error.to_string())?;
            let mut answer = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut answer).map_err(|error| error.to_string())?;
            open.push(stream);
        }
        std::thread::sleep(Duration::from_millis(300));
        let grown = resident(pid)?.saturating_sub(before);
        println!("{IDLE_CONNECTIONS} idle connections: {} bytes each", grown / IDLE_CONNECTIONS);
        // ApiVersions v0 again, with so much behind it that nobody reads.
        let length = (10 + BUSY_BYTES as u32).to_be_bytes();
        let mut frame = [&length[..], &[0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff]].concat();
        frame.resize(frame.len() + BUSY_BYTES, 0);
        for stream in &mut open {
            let mut answer = [0; 4];
            let asked = stream.write_all(&frame).and_then(|()| stream.read_exact(&mut answer));
            asked.map_err(|error| error.to_string())?;
            let mut answer = vec![0; u32::from_be_bytes(answer) as usize];
            stream.read_exact(&mut answer).map_err(|error| error.to_string())?;
        }
        let busy = resident(pid)?.saturating_sub(before) / IDLE_CONNECTIONS;
        std::thread::sleep(Duration::from_secs(25));
        let rests = resident(pid)?.saturating_sub(before) / IDLE_CONNECTIONS;
        println!("  after a request of {BUSY_BYTES} bytes {busy} each; silent for 25 s: {rests}");
        Ok(())
    })
}

/// Resident bytes of a process.
pub(crate) fn resident(pid: u32) -> Result<u64, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.map(|k| k * 1024).ok_or_else(|| format!("/proc/{pid}/status has no VmRSS"))
}
