//! What a second shard costs and brings: CPU per record with one and with two, busy and half idle, and how
//! often a request goes to another shard.

use crate::measure::{median, number};
use crate::steps::{Done, top};
use std::process::{Command, Stdio};

/// As fast as it goes, nobody sleeps and CPU per record is what bounds a core; at a fixed rate threads sleep
/// and are woken, which costs more and bounds nothing.
const LOADS: [(&str, &str); 4] = [
    (
        "small records, as fast as it goes",
        "--rate max --record-size 100 --producers 20 --consumers 0 --acks 1 --linger-ms 0",
    ),
    (
        "bulk, as fast as it goes",
        "--rate max --producers 4 --consumers 0 --acks 1 --batch-size 131072 --linger-ms 20",
    ),
    (
        "acks=all with readers, as fast as it goes",
        "--rate max --producers 4 --consumers 2 --acks all --linger-ms 2",
    ),
    (
        "acks=all with readers, 100,000 records/s",
        "--rate 100k --producers 4 --consumers 2 --acks all --linger-ms 2",
    ),
];
const COMMON: &str = "--partitions 12 --warmup 1s --duration 4s --quiet";

pub(crate) fn run(rounds: usize) -> Done {
    println!(
        "broker CPU s per million records with one and with two shards; two cores' worth of records by two \
         shards over one's by one, were each core busy (2 x one / two); {COMMON}"
    );
    for (name, load) in LOADS {
        let mut costs = [Vec::new(), Vec::new()];
        let mut hops = Vec::new();
        let mut queued_ms = Vec::new();
        for round in 0..rounds.max(1) {
            for shards in if round % 2 == 0 { [1, 2] } else { [2, 1] } {
                let result = measured(load, shards)?;
                costs[shards - 1]
                    .push(number(&result, "/resources/broker/cpu_s_per_million_records")?);
                if shards == 2 {
                    let (hop, ms) = hops_of(&result)?;
                    hops.push(hop);
                    queued_ms.push(ms);
                }
            }
        }
        let [one, two] = costs.map(median);
        println!(
            "  {name}: {one:.3}, {two:.3}; speed-up {:.2}; {:.2} hops a request, each queued {:.3} ms (p50)",
            2.0 * one / two,
            median(hops),
            median(queued_ms)
        );
    }
    Ok(())
}

/// Runs loadgen with an embedded broker of so many shards; its result.json.
fn measured(load: &str, shards: usize) -> Result<String, String> {
    let output = top().join("target/bench");
    let _ = std::fs::remove_dir_all(&output);
    let status = Command::new(top().join("target/release/loadgen"))
        .args(load.split_whitespace())
        .args(COMMON.split_whitespace())
        .args(["--broker-config", &format!("weir.shards={shards}"), "--output"])
        .arg(&output)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("loadgen: {error}"))?;
    let result = std::fs::read_to_string(output.join("result.json"));
    result.map_err(|_| format!("loadgen left no result: {status}"))
}

/// Messages to other shards for each produce or fetch that was answered, and their time in the queue.
fn hops_of(result: &str) -> Result<(f64, f64), String> {
    let json: serde_json::Value = serde_json::from_str(result).map_err(|e| e.to_string())?;
    let stages = json["broker_stages"].as_array().ok_or("the result has no broker_stages")?;
    let stage = |name: &str| {
        let found = stages.iter().find(|stage| stage["stage"] == name);
        found.map(|stage| &stage["latency"]).ok_or_else(|| format!("no stage {name}"))
    };
    let count = |name: &str| Ok::<f64, String>(stage(name)?["count"].as_f64().unwrap_or(0.0));
    let fetches = json["batches"]["fetches"].as_f64().unwrap_or(0.0);
    let hops = count("shard_queue")? / (count("produce")? + fetches).max(1.0);
    Ok((hops, stage("shard_queue")?["p50_ms"].as_f64().unwrap_or(f64::NAN)))
}
