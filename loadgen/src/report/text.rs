//! The report as text, for the terminal.

use super::words::thousands;
use crate::judge::result::{LatencyFound, ProcessUsed, RunResult};
use crate::work::histogram::PERCENTILES;
use std::fmt::Write as _;

/// The load in one line.
pub(crate) fn load_line(result: &RunResult) -> String {
    let option = |name: &str| result.option(name);
    let rate = match (result.open_loop, option("rate-profile").as_str()) {
        (false, _) => "as fast as it goes".to_owned(),
        (true, "constant") => format!("{} records/s", option("rate")),
        (true, profile) => profile.to_owned(),
    };
    let rate = rate.replace("B records/s", " B/s");
    let keys =
        if option("key") == "none" { String::new() } else { format!(", keys {}", option("key")) };
    format!(
        "{rate}, {} arrivals, {} topic(s) x {} partitions, acks={}, {} B records{keys}, linger {} ms, \
         batch {} B, {}, {} group(s)",
        option("arrivals"),
        option("topics"),
        option("partitions"),
        option("acks"),
        option("record-size"),
        option("linger-ms"),
        option("batch-size"),
        option("compression-type"),
        option("groups"),
    )
}

pub(crate) fn text(result: &RunResult) -> String {
    let mut out = String::new();
    let line = &mut |text: String| {
        let _ = writeln!(out, "{text}");
    };
    for part in
        [heading, throughput, latencies, lags, batches, verified, failures, resources, judged]
    {
        part(result, line);
    }
    out
}

/// What was run.
fn heading(result: &RunResult, line: &mut dyn FnMut(String)) {
    line(format!(
        "loadgen {}  run {}  seed {}  broker {}{}",
        result.version,
        result.run,
        result.seed,
        result.broker,
        if result.embedded { " (embedded)" } else { "" }
    ));
    line(load_line(result));
    line(format!(
        "measured {:.1} s after {} of warm-up\n",
        result.measured_s,
        result.option("warmup")
    ));
}

/// How many records got how far.
fn throughput(result: &RunResult, line: &mut dyn FnMut(String)) {
    let through = &result.throughput;
    line("throughput        records      records/s       MB/s".to_owned());
    let mut row = |name: &str, records: u64| {
        let per_s = records as f64 / result.measured_s;
        let mb_per_s = per_s * through.record_bytes / 1e6;
        line(format!("  {name:<12}{records:>12}{per_s:>15.0}{mb_per_s:>11.2}"));
    };
    row("offered", through.offered_records);
    row("sent", through.sent_records);
    if result.option("acks") != "0" {
        row("acknowledged", through.acknowledged_records);
    }
    row("consumed", through.consumed_records);
    line(format!("  schedule met {:.2} %\n", through.schedule_met * 100.0));
}

/// The row of a histogram.
fn latency(line: &mut dyn FnMut(String), name: &str, found: &LatencyFound) {
    let cells: Vec<_> =
        found.percentiles().iter().map(|ms| format!("{:>11}", found.show(*ms))).collect();
    let max = found.show(Some(found.max_ms));
    line(format!("  {name:<17}{}{max:>11}{:>12}", cells.join(""), found.count));
}

/// How long they took, here and in the broker.
fn latencies(result: &RunResult, line: &mut dyn FnMut(String)) {
    let names: Vec<_> = PERCENTILES.iter().map(|(name, _)| format!("{name:>11}")).collect();
    line(format!("latency (ms)       {}        max           n", names.join("")));
    let found = &result.latency;
    if result.option("acks") != "0" {
        latency(line, "produce", &found.produce);
    }
    latency(line, "end-to-end", &found.end_to_end);
    if result.option("acks") != "0" {
        latency(line, "client queue", &found.client_queue);
        latency(line, "service time", &found.service);
    }
    if found.held_back.count > 0 {
        latency(line, "held back", &found.held_back);
    }
    latency(line, "generator delay", &found.generator_lateness);
    line("  produce and end-to-end count from the planned send time; client queue from a batch's first".to_owned());
    line("  record to its request; service time from there to the answer; \"-\": fewer than 10 beyond;".to_owned());
    line("  values of a histogram are true to 0.1 %\n".to_owned());
    if !result.broker_stages.is_empty() {
        line(format!("in the broker (ms){}        max           n", names.join("")));
        for stage in &result.broker_stages {
            latency(line, &stage.stage, &stage.latency);
        }
        line("  its own histograms, true to a fifth; produce is a whole request, send also waits for".to_owned());
        line("  the client to take it\n".to_owned());
    }
}

/// How far consumers were behind.
fn lags(result: &RunResult, line: &mut dyn FnMut(String)) {
    for group in &result.lag.groups {
        line(format!(
            "lag of group {}: max {} records ({:.1} ms), mean {:.0}, {}; by commits max {}",
            group.group,
            group.max_records,
            group.max_time_ms,
            group.mean_records,
            group.trend,
            group.max_committed_records
        ));
    }
    line(format!(
        "lag sampled every {} s; drained in {}, {} records behind at the end",
        result.lag.interval_s,
        result.lag.drain_s.map_or("(not drained)".to_owned(), |s| format!("{s:.3} s")),
        result.lag.end_records
    ));
}

/// How records were packed.
fn batches(result: &RunResult, line: &mut dyn FnMut(String)) {
    let batches = &result.batches;
    line(format!(
        "batches: {:.1} records and {:.0} B on average, {:.1} per request, compression ratio {:.2}, {} sent \
         again",
        batches.records as f64 / batches.count.max(1) as f64,
        batches.bytes as f64 / batches.count.max(1) as f64,
        batches.count as f64 / batches.requests.max(1) as f64,
        batches.compression_ratio,
        batches.retries,
    ));
}

/// What readers found.
fn verified(result: &RunResult, line: &mut dyn FnMut(String)) {
    let verified = &result.verification;
    if result.lag.groups.is_empty() {
        line("verified: nothing, for nothing was consumed (--consumers 0)".to_owned());
    } else {
        line(format!(
            "verified: {} lost, {} duplicated, {} out of order, {} damaged{}",
            verified.lost,
            verified.duplicated,
            verified.out_of_order,
            verified.damaged,
            if verified.complete { "" } else { " (incomplete: not everything was read)" }
        ));
        line(format!(
            "groups: {} assignments taken up; {} records seen again after a rebalance; by retries {} stored \
             twice, {} out of order",
            verified.assignments,
            verified.redelivered,
            verified.repeated_by_retry,
            verified.reordered_by_retry
        ));
    }
    for anomaly in verified.anomalies.iter().take(10) {
        line(format!("  {}", anomaly_line(anomaly)));
    }
    if verified.anomalies.len() > 10 {
        line(format!("  and {} more in result.json", verified.anomalies.len() - 10));
    }
}

/// What was refused, and what was done to the cluster.
fn failures(result: &RunResult, line: &mut dyn FnMut(String)) {
    line(format!("failed sends: {}", result.failed_records));
    for (kind, count) in &result.errors {
        line(format!("  error {kind}: {count}"));
    }
    for fault in &result.faults {
        line(format!("fault {}", fault_line(fault)));
    }
}

/// What it cost.
fn resources(result: &RunResult, line: &mut dyn FnMut(String)) {
    line(String::new());
    line(
        "resources         CPU s     user      sys   CPU s/GB  CPU s/M records   peak MB"
            .to_owned(),
    );
    let usage = |name: &str, used: &ProcessUsed| {
        format!(
            "  {name:<12}{:>9.2}{:>9.2}{:>9.2}{:>11.3}{:>17.3}{:>10.0}",
            used.cpu_s,
            used.user_s,
            used.system_s,
            used.cpu_s_per_gb,
            used.cpu_s_per_million_records,
            used.resident_peak_bytes as f64 / 1e6
        )
    };
    match &result.resources.broker {
        Some(used) => line(usage("broker", used)),
        None => line("  broker      not measured (give --broker-pid if it runs here)".to_owned()),
    }
    line(usage("loadgen", &result.resources.loadgen));
}

/// What it is worth.
fn judged(result: &RunResult, line: &mut dyn FnMut(String)) {
    for objective in &result.objectives {
        line(format!(
            "objective {}: {} (found {})",
            objective.objective,
            objective.outcome,
            objective.found.map_or("nothing to judge by".to_owned(), |value| {
                if value.fract() == 0.0 { thousands(value) } else { format!("{value:.3}") }
            })
        ));
    }
    for note in &result.notes {
        line(format!("note: {note}"));
    }
    for why in &result.invalid {
        line(format!("INVALID: {why}"));
    }
    line(format!("verdict: {}", result.verdict));
}

pub(crate) fn anomaly_line(anomaly: &crate::judge::result::Anomaly) -> String {
    let mut line = format!("{}: {}-{}", anomaly.kind, anomaly.topic, anomaly.partition);
    if let Some(offset) = anomaly.offset {
        let _ = write!(line, " offset {offset}");
    }
    if let (Some(producer), Some(sequence)) = (anomaly.producer, anomaly.sequence) {
        let _ = write!(line, " producer {producer} number {sequence}");
    }
    if anomaly.records > 1 {
        let _ = write!(line, " and the {} after it", anomaly.records - 1);
    }
    if let Some(group) = anomaly.group {
        let _ = write!(line, " (group {group})");
    }
    line
}

pub(crate) fn fault_line(fault: &crate::judge::result::FaultFound) -> String {
    let outage =
        fault.outage_s.map_or("no time without acknowledgements".to_owned(), |(from, to)| {
            format!("no acknowledgement for {:.3} s (from {from:.3} to {to:.3} s)", to - from)
        });
    let back = fault.recovered_after_s.map_or("the rate did not come back".to_owned(), |s| {
        format!("95 % of the rate back after {s:.3} s")
    });
    format!("{} at {:.3} to {:.3} s: {outage}; {back}", fault.fault, fault.began_s, fault.ended_s)
}
