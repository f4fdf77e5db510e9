//! What a run found, as kept in `result.json`: reports are written from it alone, now or later.

use crate::work::histogram::{Latency, PERCENTILES};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name that `result.json` begins with.
pub(crate) const FORMAT: &str = "weir-loadgen-result";
/// Raised whenever a field changes its meaning or goes away; fields may be added.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunResult {
    pub(crate) format: String,
    pub(crate) format_version: u32,
    /// Of loadgen.
    pub(crate) version: String,
    /// Of the checkout that loadgen was built in, where it still stands there; "+" for changes.
    pub(crate) commit: Option<String>,
    pub(crate) command: Vec<String>,
    /// Every option, by its flag's name. Together with the seed they repeat the run.
    pub(crate) options: BTreeMap<String, serde_json::Value>,
    pub(crate) run: String,
    pub(crate) seed: u64,
    pub(crate) started_unix_ms: i64,
    /// HOST:PORT of the brokers.
    pub(crate) broker: String,
    /// Whether loadgen started the broker itself.
    pub(crate) embedded: bool,
    /// Settings of the topic as the broker tells them, by name.
    pub(crate) topic_settings: BTreeMap<String, String>,
    /// Load machines, besides the one that conducted.
    pub(crate) agents: Vec<AgentClock>,
    /// Records were sent by plan, whatever the broker did.
    pub(crate) open_loop: bool,
    /// What latencies count from.
    pub(crate) latency_origin: String,
    pub(crate) environment: Environment,
    pub(crate) measured_s: f64,
    pub(crate) throughput: Throughput,
    pub(crate) latency: Latencies,
    pub(crate) lag: Lag,
    pub(crate) batches: Batches,
    pub(crate) verification: Verification,
    /// Errors by kind; those of records count records.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) failed_records: u64,
    /// Planned in the measured time and never handed over, because the generator could not.
    pub(crate) unsent_records: u64,
    pub(crate) resources: Resources,
    /// Where time went within the broker, if it is Weir and tells (`--broker-metrics`).
    #[serde(default)]
    pub(crate) broker_stages: Vec<StageFound>,
    pub(crate) faults: Vec<FaultFound>,
    pub(crate) partitions: Vec<PartitionFound>,
    /// One point a second.
    pub(crate) series: Vec<Sample>,
    pub(crate) heat: Heat,
    pub(crate) objectives: Vec<Objective>,
    /// Who could not keep up with the plan: generator or cluster; null: nobody.
    pub(crate) bottleneck: Option<String>,
    /// Why the run does not count, if it does not.
    pub(crate) invalid: Vec<String>,
    /// What to keep in mind.
    pub(crate) notes: Vec<String>,
    pub(crate) verdict: String,
    pub(crate) exit_code: i32,
}

/// A load machine and how well its clock is known.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct AgentClock {
    pub(crate) address: String,
    /// Half the shortest round trip: the clocks may differ by so much.
    pub(crate) clock_error_ms: f64,
}

/// The machine of the generator.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Environment {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// "virtual" where the CPU says that a hypervisor runs it.
    pub(crate) machine: String,
    pub(crate) clock_source: String,
    pub(crate) governor: String,
    /// Of the embedded broker's data, or of the current directory.
    pub(crate) file_system: String,
    pub(crate) disk: String,
    /// Other work on the machine when the run began: runnable threads over the last minute.
    pub(crate) load_before: f64,
    /// Share of CPU time that the hypervisor kept during the run.
    pub(crate) stolen_share: f64,
}

/// Records and bytes of the measured time.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Throughput {
    pub(crate) offered_records: u64,
    pub(crate) sent_records: u64,
    pub(crate) acknowledged_records: u64,
    pub(crate) consumed_records: u64,
    pub(crate) acknowledged_per_s: f64,
    /// Of all groups together.
    pub(crate) consumed_per_s: f64,
    /// Key and value of a record, on average.
    pub(crate) record_bytes: f64,
    /// Acknowledged in the measured time, as a share of what was planned in it.
    pub(crate) schedule_met: f64,
}

/// Percentiles in milliseconds; null with fewer than 10 samples beyond.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LatencyFound {
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p90_ms: Option<f64>,
    pub(crate) p95_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    #[serde(rename = "p99.9_ms")]
    pub(crate) p99_9_ms: Option<f64>,
    #[serde(rename = "p99.99_ms")]
    pub(crate) p99_99_ms: Option<f64>,
    pub(crate) max_ms: f64,
    pub(crate) count: u64,
    /// Of these, so many never ended (failed, never sent): theirs is a lower bound.
    pub(crate) open: u64,
    /// From here on a percentile may be such a lower bound.
    pub(crate) at_least_from_ms: Option<f64>,
    /// (percentile, ms), steps that halve what is left.
    pub(crate) curve: Vec<(f64, f64)>,
}

impl LatencyFound {
    pub(crate) fn of(latency: &Latency) -> Self {
        let [p50_ms, p90_ms, p95_ms, p99_ms, p99_9_ms, p99_99_ms] =
            PERCENTILES.map(|(_, percentile)| latency.percentile_ms(percentile));
        Self {
            p50_ms,
            p90_ms,
            p95_ms,
            p99_ms,
            p99_9_ms,
            p99_99_ms,
            max_ms: latency.max_ms(),
            count: latency.count(),
            open: latency.open(),
            at_least_from_ms: latency.open_from_ms(),
            curve: latency.curve(),
        }
    }

    /// The values in the order of `PERCENTILES`.
    pub(crate) fn percentiles(&self) -> [Option<f64>; 6] {
        [self.p50_ms, self.p90_ms, self.p95_ms, self.p99_ms, self.p99_9_ms, self.p99_99_ms]
    }

    /// A value as people read it, with >= where it is a lower bound.
    pub(crate) fn show(&self, value: Option<f64>) -> String {
        let Some(ms) = value else { return "-".to_owned() };
        let open = self.at_least_from_ms.is_some_and(|from| ms >= from);
        format!("{}{ms:.3}", if open { ">=" } else { "" })
    }
}

/// All that is timed. Produce and end-to-end count from the planned send time.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Latencies {
    pub(crate) produce: LatencyFound,
    pub(crate) end_to_end: LatencyFound,
    /// From the request to its answer.
    pub(crate) service: LatencyFound,
    /// From a batch's first record to its request: linger and the client's queue.
    pub(crate) client_queue: LatencyFound,
    /// From plan to hand-over while the client's buffers were full, or it made up for that: the
    /// cluster's back-pressure, not the generator's fault.
    pub(crate) held_back: LatencyFound,
    /// From plan to hand-over: the generator's own delay.
    pub(crate) generator_lateness: LatencyFound,
    pub(crate) warmup_produce: LatencyFound,
    pub(crate) warmup_end_to_end: LatencyFound,
}

/// How far consumers were behind, sampled: end offsets against positions, and against commits.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Lag {
    pub(crate) interval_s: f64,
    pub(crate) samples: u64,
    pub(crate) errors: u64,
    pub(crate) groups: Vec<GroupLag>,
    /// Until every group had read to the end, counted from the last record; null: not in time.
    pub(crate) drain_s: Option<f64>,
    /// Records behind at the end, all groups and partitions.
    pub(crate) end_records: i64,
    /// The partitions that were furthest behind, over time.
    pub(crate) worst: Vec<PlaceLag>,
}

/// One partition's lag in one group, over time.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PlaceLag {
    pub(crate) group: usize,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// (second of the measured time, records)
    pub(crate) points: Vec<(f64, f64)>,
}

/// One group's lag.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct GroupLag {
    pub(crate) group: usize,
    /// Largest sum over the partitions, in the measured time.
    pub(crate) max_records: i64,
    pub(crate) mean_records: f64,
    pub(crate) max_partition_records: i64,
    pub(crate) max_committed_records: i64,
    pub(crate) max_time_ms: f64,
    /// Records per second by which it grew, by Theil and Sen, with its 95 % interval.
    pub(crate) slope_per_s: Option<(f64, f64, f64)>,
    /// stable, growing, draining, or unknown with too few samples.
    pub(crate) trend: String,
}

/// What went over the wire.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Batches {
    pub(crate) count: u64,
    pub(crate) records: u64,
    /// As sent, with headers, after compression.
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
    pub(crate) fetches: u64,
    /// Keys and values over bytes as sent.
    pub(crate) compression_ratio: f64,
    /// Batches that were sent again.
    pub(crate) retries: u64,
}

/// What became of each record.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Verification {
    /// Acknowledged and never seen, over all groups.
    pub(crate) lost: u64,
    /// Seen twice by a member though sent once.
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) damaged: u64,
    /// Not acknowledged in the end, and yet there: allowed, nothing was promised.
    pub(crate) unsure_stored: u64,
    /// Sent again after a try whose end was unknown, and stored twice; no fault of the broker.
    pub(crate) repeated_by_retry: u64,
    pub(crate) reordered_by_retry: u64,
    /// Seen by a group again after a rebalance.
    pub(crate) redelivered: u64,
    pub(crate) assignments: u64,
    /// Not of this run.
    pub(crate) foreign: u64,
    /// Everything was consumed, so that loss is known.
    pub(crate) complete: bool,
    /// The first ones of each consumer, and every lost span.
    pub(crate) anomalies: Vec<Anomaly>,
}

/// One thing that should not be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Anomaly {
    /// lost, duplicate, out of order, damaged record or damaged batch.
    pub(crate) kind: String,
    pub(crate) group: Option<usize>,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: Option<i64>,
    pub(crate) producer: Option<u32>,
    pub(crate) sequence: Option<u64>,
    pub(crate) records: u64,
}

/// CPU and memory in the measured time.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Resources {
    pub(crate) broker: Option<ProcessUsed>,
    pub(crate) loadgen: ProcessUsed,
}

/// Of one process.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ProcessUsed {
    pub(crate) cpu_s: f64,
    pub(crate) user_s: f64,
    pub(crate) system_s: f64,
    pub(crate) cpu_s_per_gb: f64,
    pub(crate) cpu_s_per_million_records: f64,
    pub(crate) resident_peak_bytes: u64,
    pub(crate) disk_write_bytes: u64,
}

/// A stage of requests within the broker, as its own histogram tells: values are the upper ends of buckets,
/// true to a fifth.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct StageFound {
    pub(crate) stage: String,
    pub(crate) latency: LatencyFound,
}

/// A fault and what it did.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FaultFound {
    pub(crate) fault: String,
    /// Seconds of the measured time.
    pub(crate) began_s: f64,
    pub(crate) ended_s: f64,
    /// Longest time from then on without an acknowledgement, as (from, to) in seconds.
    pub(crate) outage_s: Option<(f64, f64)>,
    /// Seconds from its begin until acknowledgements were at 95 % of the plan again.
    pub(crate) recovered_after_s: Option<f64>,
    pub(crate) error: Option<String>,
}

/// One partition's share.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PartitionFound {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) leader: String,
    pub(crate) acknowledged_records: u64,
    /// Largest of any group.
    pub(crate) max_lag_records: i64,
}

/// One second.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Sample {
    /// Its end; below 0 is warm-up.
    pub(crate) at_s: f64,
    pub(crate) planned_per_s: Option<f64>,
    pub(crate) sent_per_s: f64,
    pub(crate) acked_per_s: f64,
    pub(crate) consumed_per_s: f64,
    /// So far.
    pub(crate) failed: u64,
    pub(crate) produce_p50_ms: Option<f64>,
    pub(crate) produce_p99_ms: Option<f64>,
    pub(crate) e2e_p50_ms: Option<f64>,
    pub(crate) e2e_p99_ms: Option<f64>,
    pub(crate) e2e_max_ms: Option<f64>,
    /// Cores in use.
    pub(crate) broker_cores: Option<f64>,
    pub(crate) broker_resident_bytes: Option<u64>,
    pub(crate) loadgen_cores: f64,
    /// Per group, by position and by commit; null where it could not be asked.
    pub(crate) lag_records: Vec<i64>,
    pub(crate) lag_committed_records: Vec<Option<i64>>,
    pub(crate) lag_time_max_ms: f64,
}

/// How many latencies fell between which edges in each second.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Heat {
    pub(crate) edges_ms: Vec<f64>,
    /// (second, counts: one more than edges)
    pub(crate) produce: Vec<(f64, Vec<u64>)>,
    pub(crate) end_to_end: Vec<(f64, Vec<u64>)>,
}

/// An objective and whether it was kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Objective {
    pub(crate) objective: String,
    pub(crate) found: Option<f64>,
    /// PASS, FAIL or INCONCLUSIVE.
    pub(crate) outcome: String,
}

impl RunResult {
    /// Reads what a run left behind.
    pub(crate) fn read(path: &std::path::Path) -> Result<Self, String> {
        let named = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| named(format!("no JSON: {error}")))?;
        if value["format"] != FORMAT || value["format_version"] != FORMAT_VERSION {
            return Err(named(format!(
                "{} {} is not {FORMAT} {FORMAT_VERSION}, which this loadgen reads",
                value["format"], value["format_version"]
            )));
        }
        serde_json::from_value(value).map_err(|error| named(error.to_string()))
    }

    pub(crate) fn option(&self, name: &str) -> String {
        match self.options.get(name) {
            None | Some(serde_json::Value::Null) => "default".to_owned(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// Megabytes of keys and values acknowledged per second.
    pub(crate) fn mb_per_s(&self) -> f64 {
        self.throughput.acknowledged_per_s * self.throughput.record_bytes / 1e6
    }

    pub(crate) fn max_lag(&self) -> i64 {
        self.lag.groups.iter().map(|group| group.max_records).max().unwrap_or(0)
    }
}
