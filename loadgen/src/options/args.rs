//! The options, by the names of Kafka's own tools where they have one; a scenario file has the same.

use crate::judge::assertions::Assertion;
use crate::load::keys::Keys;
use crate::load::payload::PayloadKind;
use crate::load::schedule::{Arrivals, Plan, Profile};
use crate::load::sizes::Sizes;
use crate::load::{Rate, number, seconds};
use crate::run::faults::Fault;
use clap::{Args as ClapArgs, ValueEnum};
use model::Compression;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One run.
#[derive(ClapArgs, Clone, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Args {
    /// Scenario: a TOML file of these options by the same names; flags win over it
    #[arg(long, value_name = "FILE", help_heading = "Scenario")]
    #[serde(skip)]
    pub(crate) scenario: Option<PathBuf>,
    /// Workload file of the OpenMessaging Benchmark (YAML), read as options; flags win over it
    #[arg(long, value_name = "FILE", conflicts_with = "scenario", help_heading = "Scenario")]
    #[serde(skip)]
    pub(crate) workload: Option<PathBuf>,

    /// Brokers to start from, HOST:PORT[,..]; without it an embedded broker is started
    #[arg(
        long,
        env = "LOADGEN_BOOTSTRAP_SERVER",
        value_name = "HOST:PORT",
        help_heading = "Cluster"
    )]
    pub(crate) bootstrap_server: Option<String>,
    /// Topic; made if absent [default: loadgen-RUN, deleted afterwards]
    #[arg(long, help_heading = "Cluster")]
    pub(crate) topic: Option<String>,
    /// Topics; with more than one, their names end in -0, -1, ..
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Cluster")]
    pub(crate) topics: u32,
    /// Partitions of each topic that is made
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100_000), help_heading = "Cluster")]
    pub(crate) partitions: i32,
    /// Replicas of a topic that is made; -1: the broker's default
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, help_heading = "Cluster")]
    pub(crate) replication_factor: i16,
    /// Setting of a topic that is made; an existing topic must have it already
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting, help_heading = "Cluster")]
    pub(crate) topic_config: Vec<String>,
    /// Keep the topics and groups even if this run made them
    #[arg(long, help_heading = "Cluster")]
    pub(crate) keep_topic: bool,
    /// Where the embedded broker keeps its data [default: a temporary directory]
    #[arg(long, value_name = "DIR", help_heading = "Cluster")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Setting of the embedded broker, as `weir serve --help` lists them
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting, help_heading = "Cluster")]
    pub(crate) broker_config: Vec<String>,
    /// Name in requests
    #[arg(long, default_value = "loadgen", help_heading = "Cluster")]
    pub(crate) client_id: String,
    /// Load machines that run `loadgen agent`, HOST:PORT[,..]; this process then only conducts
    #[arg(long, value_name = "HOST:PORT", help_heading = "Cluster")]
    pub(crate) agents: Option<String>,

    /// Records (100000, 100k) or bytes (50MB) per second over all producers; max: as fast as it goes
    /// (then latency is not open-loop)
    #[arg(
        long,
        visible_alias = "throughput",
        default_value = "10000",
        allow_negative_numbers = true,
        help_heading = "Load"
    )]
    pub(crate) rate: Rate,
    /// How the rate moves over the measured time: constant, ramp:FROM..TO, steps:A,B,..,
    /// burst:BASE,PEAK,ON,PERIOD or diurnal:LOW..HIGH,PERIOD, in records per second (instead of --rate)
    #[arg(long, default_value = "constant", help_heading = "Load")]
    pub(crate) rate_profile: Profile,
    /// Records come evenly, or by chance with that mean (as independent users do)
    #[arg(long, value_enum, default_value = "constant", help_heading = "Load")]
    pub(crate) arrivals: Arrivals,
    /// Bytes of each record's value: N, uniform:A..B, lognormal:MEAN,SIGMA[,MAX], zipf:MIN..MAX,S,
    /// weighted:256=60,1k=30 or file:PATH (the lengths of its lines)
    #[arg(long, default_value = "1024", help_heading = "Load")]
    pub(crate) record_size: Sizes,
    /// Keys: none, sequential, fixed, uniform:N, zipf:N,S, lognormal:N,SIGMA or file:PATH
    #[arg(long, default_value = "none", help_heading = "Load")]
    pub(crate) key: Keys,
    /// Bytes of each key
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536), help_heading = "Load")]
    pub(crate) key_size: u32,
    /// What records are filled with: random, text or file:PATH
    #[arg(long, default_value = "random", help_heading = "Load")]
    pub(crate) payload: PayloadKind,
    /// Share of a random payload that repeats, and so compresses away: 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = parse_share, help_heading = "Load")]
    pub(crate) compressibility: f64,
    /// How long to measure, after the warm-up: 30s, 5m, 500ms
    #[arg(long, default_value = "30s", value_parser = parse_duration, help_heading = "Load")]
    #[serde(serialize_with = "duration_text")]
    pub(crate) duration: Duration,
    /// Stop after this many records instead of after --duration
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) num_records: Option<u64>,
    /// How long to run before measuring
    #[arg(long, default_value = "5s", value_parser = parse_duration, help_heading = "Load")]
    #[serde(serialize_with = "duration_text")]
    pub(crate) warmup: Duration,
    /// How long to wait at the end until everything is consumed
    #[arg(long, default_value = "30s", value_parser = parse_duration, help_heading = "Load")]
    #[serde(serialize_with = "duration_text")]
    pub(crate) drain_timeout: Duration,
    /// Of schedule, sizes, keys and payloads [default: random, reported]
    #[arg(long, help_heading = "Load")]
    pub(crate) seed: Option<u64>,

    /// Producing connections [default: the smaller of cores and partitions]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Producers")]
    pub(crate) producers: Option<u32>,
    /// When a send counts as done
    #[arg(long, value_enum, default_value = "all", help_heading = "Producers")]
    pub(crate) acks: Acks,
    /// A batch that is sent again is stored once (KIP-98); needs --acks all and at most 5 requests in
    /// flight
    #[arg(long, help_heading = "Producers")]
    pub(crate) enable_idempotence: bool,
    /// How long a batch waits for more records, in milliseconds; fractions allowed
    #[arg(long, default_value_t = 1.0, value_parser = parse_linger, help_heading = "Producers")]
    pub(crate) linger_ms: f64,
    /// A batch is sent once it has this many bytes
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=16_777_216), help_heading = "Producers")]
    pub(crate) batch_size: u32,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_parser = parse_codec, help_heading = "Producers")]
    #[serde(serialize_with = "codec_name")]
    pub(crate) compression_type: Compression,
    /// Where records go: round-robin, sticky (a batch to one partition, the next to another) or
    /// murmur2 (by key, as the Java client) [default: murmur2 with keys, else sticky]
    #[arg(long, value_enum, help_heading = "Producers")]
    pub(crate) partitioner: Option<Partitioner>,
    /// Requests in flight per connection
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Producers")]
    pub(crate) max_in_flight: u32,
    /// Bytes of batches a producer holds before it falls behind its schedule
    #[arg(long, default_value_t = 33_554_432, help_heading = "Producers")]
    pub(crate) buffer_memory: u64,
    /// A connection whose oldest request waits longer is given up
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Producers")]
    pub(crate) request_timeout_ms: u64,
    /// How long a batch that may yet succeed is sent again; 0: never. Without idempotence that can
    /// repeat or reorder records; the report tells such apart
    #[arg(long, default_value_t = 120_000, help_heading = "Producers")]
    pub(crate) delivery_timeout_ms: u64,

    /// Members of each consumer group; 0: do not consume [default: as --producers]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=10_000), help_heading = "Consumers")]
    pub(crate) consumers: Option<u32>,
    /// Consumer groups; each reads and verifies everything
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Consumers")]
    pub(crate) groups: u32,
    /// Members come one after the other until half-time, and leave one after the other after it
    #[arg(long, help_heading = "Consumers")]
    pub(crate) scale_consumers: bool,
    /// How many of the groups come late
    #[arg(long, default_value_t = 0, help_heading = "Consumers")]
    pub(crate) late_groups: u32,
    /// When late groups come, counted from the first record
    #[arg(long, default_value = "10s", value_parser = parse_duration, help_heading = "Consumers")]
    #[serde(serialize_with = "duration_text")]
    pub(crate) late_after: Duration,
    /// Where late groups begin: at the start of the run (a replay), or at what is new
    #[arg(long, value_enum, default_value = "earliest", help_heading = "Consumers")]
    pub(crate) auto_offset_reset: OffsetReset,
    /// Time that a member takes for each record, one after the other: 0, 50us, 1ms
    #[arg(long, default_value = "0", value_parser = parse_delay, help_heading = "Consumers")]
    #[serde(serialize_with = "delay_text")]
    pub(crate) consumer_delay: Duration,
    /// Records per second that each member works off at most, as 5k (instead of --consumer-delay)
    #[arg(long, value_parser = parse_count, conflicts_with = "consumer_delay", help_heading = "Consumers")]
    pub(crate) consume_rate: Option<f64>,
    /// A member not heard of for this long is out of its group
    #[arg(long, default_value_t = 45_000, value_parser = clap::value_parser!(i32).range(1..), help_heading = "Consumers")]
    pub(crate) session_timeout_ms: i32,
    /// How often members are heard of, and hear of a rebalance
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Consumers")]
    pub(crate) heartbeat_interval_ms: u64,
    /// How long a rebalance waits for members
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(i32).range(1..), help_heading = "Consumers")]
    pub(crate) max_poll_interval_ms: i32,
    /// How often positions are committed; also at each rebalance and at the end
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Consumers")]
    pub(crate) auto_commit_interval_ms: u64,
    /// What consumers see: read_uncommitted, or with read_committed only what no open or aborted
    /// transaction holds
    #[arg(long, value_enum, default_value = "read_uncommitted", help_heading = "Consumers")]
    pub(crate) isolation_level: Isolation,
    /// A fetch is answered once it has this many bytes
    #[arg(long, default_value_t = 1, help_heading = "Consumers")]
    pub(crate) fetch_min_bytes: i32,
    /// A fetch is answered after this long in any case
    #[arg(long, default_value_t = 500, help_heading = "Consumers")]
    pub(crate) fetch_max_wait_ms: i32,
    /// Most bytes of one partition in a fetch
    #[arg(long, default_value_t = 1_048_576, help_heading = "Consumers")]
    pub(crate) max_partition_fetch_bytes: i32,

    /// How often end offsets, positions and commits are compared
    #[arg(long, default_value = "1s", value_parser = parse_duration, help_heading = "Measurement")]
    #[serde(serialize_with = "duration_text")]
    pub(crate) lag_interval: Duration,
    /// Check each record's checksum besides its number and order
    #[arg(long, value_enum, default_value = "full", help_heading = "Measurement")]
    pub(crate) verify: Verify,
    /// Do not time records (to see what timing costs): no latencies, no lateness
    #[arg(long, help_heading = "Measurement")]
    pub(crate) without_timing: bool,
    /// Process whose CPU and memory to report as the broker's, when it runs on this machine
    #[arg(long, value_name = "PID", help_heading = "Measurement")]
    pub(crate) broker_pid: Option<u32>,
    /// Where Weir tells Prometheus (its weir.metrics.listen): the report then shows how long each stage
    /// took within the broker. The embedded one is asked anyway
    #[arg(long, value_name = "HOST:PORT", help_heading = "Measurement")]
    pub(crate) broker_metrics: Option<String>,

    /// Trouble to make, counted from the measured time's start: kill@20s[+DOWN] (kill -9 of the
    /// embedded broker, up again after 1 s), pause@20s[+LONG] (also of --broker-pid), exec@20s=COMMAND
    #[arg(long, value_name = "FAULT", help_heading = "Faults and objectives")]
    pub(crate) fault: Vec<Fault>,
    /// Objective, as 'e2e.p99<=25ms', 'rate>=99%', 'lag.max<100k', 'lost==0' (repeatable)
    #[arg(long, value_name = "OBJECTIVE", help_heading = "Faults and objectives")]
    pub(crate) assert: Vec<Assertion>,

    /// Directory for reports and raw data [default: loadgen-results/TIME-RUN]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    #[serde(skip)]
    pub(crate) output: Option<PathBuf>,
    /// A word on this run for its report, as KEY=VALUE (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting, help_heading = "Output")]
    pub(crate) tag: Vec<String>,
    /// Also write the OpenMessaging Benchmark's JSON
    #[arg(long, help_heading = "Output")]
    #[serde(skip)]
    pub(crate) omb_json: bool,
    /// Show no progress
    #[arg(long, help_heading = "Output")]
    #[serde(skip)]
    pub(crate) quiet: bool,
}

/// Kafka's isolation levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Isolation {
    ReadUncommitted,
    ReadCommitted,
}

/// Kafka's acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
pub(crate) enum Acks {
    #[value(name = "0")]
    #[serde(rename = "0")]
    None,
    #[value(name = "1")]
    #[serde(rename = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
    #[serde(rename = "all")]
    All,
}

impl Acks {
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Partitioner {
    RoundRobin,
    Sticky,
    Murmur2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OffsetReset {
    Earliest,
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verify {
    /// Number, order and checksum
    Full,
    /// Number and order
    Sequence,
}

impl Args {
    pub(crate) fn producer_count(&self) -> usize {
        let cores = runtime::thread::cpus().len();
        let slots = self.partitions as usize * self.topics as usize;
        self.producers.map_or(cores.min(slots), |n| n as usize)
    }

    pub(crate) fn consumer_count(&self) -> usize {
        let default = self.producer_count();
        self.consumers.map_or(default, |n| n as usize)
    }

    /// Members of all groups together.
    pub(crate) fn member_count(&self) -> usize {
        self.consumer_count() * self.groups as usize
    }

    /// How long a member takes for a record, in nanoseconds.
    pub(crate) fn record_delay_ns(&self) -> u64 {
        self.consume_rate
            .map_or(self.consumer_delay.as_nanos() as u64, |rate| (1e9 / rate).round() as u64)
    }

    pub(crate) fn is_late(&self, group: usize) -> bool {
        group >= (self.groups - self.late_groups.min(self.groups)) as usize
    }

    pub(crate) fn partitioner(&self) -> Partitioner {
        let default =
            if self.key == Keys::None { Partitioner::Sticky } else { Partitioner::Murmur2 };
        self.partitioner.unwrap_or(default)
    }

    /// Bytes of a key, as far as they are known before.
    pub(crate) fn key_bytes(&self) -> u32 {
        if self.key == Keys::None { 0 } else { self.key_size }
    }

    /// Records per second where the rate is constant; `None`: as fast as it goes.
    pub(crate) fn records_per_s(&self) -> Option<f64> {
        match self.rate {
            Rate::Max => None,
            Rate::Records(rate) => Some(rate),
            Rate::Bytes(rate) => {
                Some(rate / (self.record_size.mean() + f64::from(self.key_bytes())))
            }
        }
    }

    /// The planned rate over time; `None`: as fast as it goes.
    pub(crate) fn plan(&self) -> Option<Arc<Plan>> {
        let rate = match self.rate_profile {
            Profile::Constant => self.records_per_s()?,
            _ => 0.0,
        };
        let (warmup, seconds) = (self.warmup.as_secs_f64(), self.duration.as_secs_f64());
        Some(Arc::new(Plan::new(&self.rate_profile, rate, warmup, seconds)))
    }

    /// What contradicts itself, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let wrong = |why: &str| Err(why.to_owned());
        if self.partitioner == Some(Partitioner::Murmur2) && self.key == Keys::None {
            return wrong("--partitioner murmur2 needs keys: give --key, as uniform:1000000");
        }
        if self.late_groups > self.groups {
            return wrong("--late-groups is larger than --groups: at most all groups come late");
        }
        if self.consumer_count() == 0 && (self.late_groups > 0 || self.scale_consumers) {
            return wrong(
                "--late-groups and --scale-consumers need consumers, but --consumers is 0",
            );
        }
        if self.enable_idempotence && (self.acks != Acks::All || self.max_in_flight > 5) {
            return wrong("--enable-idempotence needs --acks all and --max-in-flight 5 at most");
        }
        if self.compressibility > 0.0 && self.payload != PayloadKind::Random {
            return wrong("--compressibility is of random payloads: leave out --payload");
        }
        if self.duration < Duration::from_millis(10) {
            return wrong("--duration is too short to measure anything: give at least 10ms");
        }
        let killed = self.fault.iter().any(|fault| fault.needs_embedded());
        if killed && self.bootstrap_server.is_some() {
            return wrong(
                "--fault kill is for the embedded broker; for a cluster of yours use exec@20s=COMMAND",
            );
        }
        let paused = self.fault.iter().any(|fault| fault.needs_process());
        if paused && self.bootstrap_server.is_some() && self.broker_pid.is_none() {
            return wrong("--fault pause needs --broker-pid, or the embedded broker");
        }
        if self.bootstrap_server.is_some() && !self.broker_config.is_empty() {
            return wrong(
                "--broker-config is for the embedded broker, but --bootstrap-server is given",
            );
        }
        if self.fault.iter().any(|fault| fault.at() >= self.duration) {
            return wrong(
                "a --fault comes after the end: it counts from the measured time's start",
            );
        }
        if self.agents.is_some() && self.bootstrap_server.is_none() {
            return wrong("--agents need a broker they can reach: give --bootstrap-server");
        }
        for assertion in &self.assert {
            if self.consumer_count() == 0 && assertion.needs_consumers() {
                return Err(format!("--assert {assertion} needs consumers, but --consumers is 0"));
            }
            if self.acks == Acks::None && assertion.needs_acks() {
                return Err(format!(
                    "--assert {assertion} needs acknowledgements, but --acks is 0"
                ));
            }
        }
        Ok(())
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    seconds(text).map(Duration::from_secs_f64)
}

/// As a duration, but microseconds too.
fn parse_delay(text: &str) -> Result<Duration, String> {
    let micros = text.strip_suffix("us").and_then(|digits| digits.parse::<f64>().ok());
    match micros {
        Some(micros) if (0.0..=1e9).contains(&micros) => Ok(Duration::from_secs_f64(micros / 1e6)),
        _ => parse_duration(text),
    }
}

fn parse_linger(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|ms| (0.0..=60_000.0).contains(ms));
    parsed.ok_or_else(|| "expected milliseconds from 0 to 60000".to_owned())
}

fn parse_count(text: &str) -> Result<f64, String> {
    let parsed = number(text).filter(|count| *count > 0.0);
    parsed.ok_or_else(|| "expected a number above 0, as 5000 or 5k".to_owned())
}

fn parse_share(text: &str) -> Result<f64, String> {
    let parsed = number(text).filter(|share| *share <= 1.0);
    parsed.ok_or_else(|| "expected a share from 0 to 1".to_owned())
}

fn parse_setting(text: &str) -> Result<String, String> {
    let good = text.split_once('=').is_some_and(|(key, _)| !key.is_empty());
    if good { Ok(text.to_owned()) } else { Err("expected KEY=VALUE".to_owned()) }
}

fn parse_codec(text: &str) -> Result<Compression, String> {
    Compression::from_name(text)
        .ok_or_else(|| "expected none, gzip, snappy, lz4 or zstd".to_owned())
}

fn codec_name<S: serde::Serializer>(codec: &Compression, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(codec.name())
}

fn duration_text<S: serde::Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{}s", value.as_secs_f64()))
}

fn delay_text<S: serde::Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{}us", value.as_secs_f64() * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_delay("50us"), Ok(Duration::from_micros(50)));
        assert!(parse_duration("soon").is_err());
    }
}
