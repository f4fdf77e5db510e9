//! What a byte out costs: a reader of what is in memory, beside a loop of blocking sends; and a reader at the
//! tail of a live load.

use crate::measure::{loadgen_result, median, number, with_server, with_weir};
use crate::steps::{Done, top};
use std::process::Command;

/// A reader from memory.
struct Row {
    /// What is asked for at a time: a batch of 130 KB of each.
    partitions: &'static str,
    /// 0: as often as it is answered. Else the server sleeps between answers.
    answers_per_s: &'static str,
    /// Processor time is counted in ticks: the less there is to do, the longer it is looked at.
    seconds: &'static str,
    /// The broker's. A single partition is read on its own shard, or through another one, as its name has it: so
    /// one shard there.
    settings: &'static [&'static str],
}

const ONE_SHARD: &[&str] = &["--weir.shards", "1"];
const ROWS: [Row; 3] = [
    Row { partitions: "12", answers_per_s: "0", seconds: "4", settings: &[] },
    Row { partitions: "1", answers_per_s: "0", seconds: "4", settings: ONE_SHARD },
    Row { partitions: "1", answers_per_s: "800", seconds: "12", settings: ONE_SHARD },
];
const LIVE: &str = "--rate 100k --partitions 12 --producers 1 --acks 1 --batch-size 131072 --linger-ms 20 \
    --warmup 1s --duration 6s";

pub(crate) fn run(rounds: usize) -> Done {
    let rounds = rounds.max(1);
    for row in &ROWS {
        let Row { partitions, answers_per_s, .. } = row;
        let pace = match *answers_per_s {
            "0" => "as fast as answered".to_owned(),
            pace => format!("{pace} answers/s"),
        };
        println!(
            "server CPU seconds per GB out, {partitions} x 130 KB an answer, from memory, {pace}"
        );
        let mut costs = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                costs[side].push(match side {
                    0 => bare(row)?,
                    _ => weir(row)?,
                });
            }
            println!(
                "  round {}: bare {:.3}, weir {:.3}",
                round + 1,
                costs[0][round],
                costs[1][round]
            );
        }
        let [bare, weir] = costs.map(median);
        println!("median: bare {bare:.3}, weir {weir:.3}, ratio {:.2}", weir / bare);
    }
    println!("broker CPU seconds per GB, without a reader and with one at the tail; {LIVE}");
    let mut costs = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for readers in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            costs[readers].push(live(readers)?);
        }
        println!("  round {}: {:.3}, {:.3}", round + 1, costs[0][round], costs[1][round]);
    }
    let [without, with] = costs.map(median);
    println!("median: {without:.3}, {with:.3}; a GB out {:.3}", with - without);
    Ok(())
}

fn bare(row: &Row) -> Result<f64, String> {
    let args = ["serve", "--partitions", row.partitions];
    let mut cost = Err("nothing ran".to_owned());
    with_server(&top().join("target/release/tail"), "bench", &args, |address, pid, _| {
        cost = read(address, pid, row, &["--bare"]);
        Ok(())
    })?;
    cost
}

fn weir(row: &Row) -> Result<f64, String> {
    let mut cost = Err("nothing ran".to_owned());
    with_weir(row.settings, |address, pid, _| {
        cost = read(address, pid, row, &[]);
        Ok(())
    })?;
    cost
}

fn read(address: &str, pid: u32, row: &Row, more: &[&str]) -> Result<f64, String> {
    let output = Command::new(top().join("target/release/tail"))
        .args(["read", "--bootstrap-server", address, "--partitions", row.partitions])
        .args(["--answers-per-s", row.answers_per_s, "--seconds", row.seconds])
        .args(["--server-pid", &pid.to_string()])
        .args(more)
        .output()
        .map_err(|error| format!("tail: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let cost = said.strip_prefix("cpu_s_per_gb ").and_then(|rest| rest.split(' ').next());
    let cost = cost.and_then(|cost| cost.parse().ok());
    cost.ok_or_else(|| format!("tail: {said}{}", String::from_utf8_lossy(&output.stderr)))
}

fn live(readers: usize) -> Result<f64, String> {
    let mut cost = Err("nothing ran".to_owned());
    with_weir(&[], |address, pid, home| {
        let load = format!("{LIVE} --consumers {readers}");
        let text = loadgen_result(&load, address, pid, &home.join("result"))?;
        cost = number(&text, "/resources/broker/cpu_s_per_gb");
        Ok(())
    })?;
    cost
}
