//! The options, by the names of Kafka's own tools where they have one.

use crate::{Ending, Failure};
use clap::{Parser, ValueEnum};
use model::Compression;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Offers a load on schedule (open loop), consumes it, verifies it, and reports latency from the
/// planned send time.
///
/// Exit codes: 0 fine, 1 bad usage, 3 records lost, repeated, reordered or damaged, 4 invalid run
/// (the generator was the bottleneck or the rate was not reached), 5 broker unreachable, 130
/// interrupted.
#[derive(Parser, Clone, Debug, serde::Serialize)]
#[command(name = "loadgen", version, max_term_width = 110)]
pub(crate) struct Args {
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
    /// Partitions of a topic that is made
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100_000), help_heading = "Cluster")]
    pub(crate) partitions: i32,
    /// Replicas of a topic that is made; -1: the broker's default
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, help_heading = "Cluster")]
    pub(crate) replication_factor: i16,
    /// Keep the topic even if this run made it
    #[arg(long, help_heading = "Cluster")]
    pub(crate) keep_topic: bool,
    /// Where the embedded broker keeps its data [default: a temporary directory]
    #[arg(long, value_name = "DIR", help_heading = "Cluster")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Name in requests
    #[arg(long, default_value = "loadgen", help_heading = "Cluster")]
    pub(crate) client_id: String,

    /// Records per second over all producers; 0: as fast as it goes (then latency is not open-loop)
    #[arg(long, visible_alias = "throughput", default_value = "10000", value_parser = parse_rate, allow_negative_numbers = true, help_heading = "Load")]
    pub(crate) rate: u64,
    /// Bytes of each record's value
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(40..=16_777_216), help_heading = "Load")]
    pub(crate) record_size: u32,
    /// Bytes of each record's key; 0: no key
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=65_536), help_heading = "Load")]
    pub(crate) key_size: u32,
    /// How long to measure, after the warm-up: 30s, 5m, 500ms
    #[arg(long, default_value = "30s", value_parser = parse_duration, help_heading = "Load")]
    pub(crate) duration: Duration,
    /// Stop after so many records instead of after --duration
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) num_records: Option<u64>,
    /// How long to run before measuring
    #[arg(long, default_value = "5s", value_parser = parse_duration, help_heading = "Load")]
    pub(crate) warmup: Duration,
    /// How long to wait at the end until everything is consumed
    #[arg(long, default_value = "30s", value_parser = parse_duration, help_heading = "Load")]
    pub(crate) drain_timeout: Duration,
    /// Seed of payloads and keys [default: random, reported]
    #[arg(long, help_heading = "Load")]
    pub(crate) seed: Option<u64>,

    /// Producing connections [default: the smaller of cores and partitions]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Producers")]
    pub(crate) producers: Option<u32>,
    /// When a send counts as done
    #[arg(long, value_enum, default_value = "all", help_heading = "Producers")]
    pub(crate) acks: Acks,
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
    /// Requests in flight per connection
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Producers")]
    pub(crate) max_in_flight: u32,
    /// Bytes of batches a producer holds before it falls behind its schedule
    #[arg(long, default_value_t = 33_554_432, help_heading = "Producers")]
    pub(crate) buffer_memory: u64,
    /// A connection whose oldest request waits longer is given up
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Producers")]
    pub(crate) request_timeout_ms: u64,

    /// Members of each consumer group; 0: do not consume [default: as --producers]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=10_000), help_heading = "Consumers")]
    pub(crate) consumers: Option<u32>,
    /// Consumer groups; each reads and verifies everything
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Consumers")]
    pub(crate) groups: u32,
    /// Members come one after the other until half-time, and leave one after the other after it
    #[arg(long, help_heading = "Consumers")]
    pub(crate) scale_consumers: bool,
    /// A member not heard of for so long is out of its group
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
    /// A fetch is answered once it has this many bytes
    #[arg(long, default_value_t = 1, help_heading = "Consumers")]
    pub(crate) fetch_min_bytes: i32,
    /// A fetch is answered after this long in any case
    #[arg(long, default_value_t = 500, help_heading = "Consumers")]
    pub(crate) fetch_max_wait_ms: i32,
    /// Most bytes of one partition in a fetch
    #[arg(long, default_value_t = 1_048_576, help_heading = "Consumers")]
    pub(crate) max_partition_fetch_bytes: i32,

    /// Directory for the report, JSON and histogram logs [default: loadgen-results/TIME-RUN]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Show no progress
    #[arg(long, help_heading = "Output")]
    pub(crate) quiet: bool,
    /// Process whose CPU and memory to report as the broker's, when it runs on this machine
    #[arg(long, value_name = "PID", help_heading = "Output")]
    pub(crate) broker_pid: Option<u32>,
}

/// Kafka's acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
pub(crate) enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
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

impl Args {
    pub(crate) fn producer_count(&self) -> usize {
        let cores = runtime::thread::cpus().len();
        self.producers.map_or(cores.min(self.partitions as usize), |n| n as usize)
    }

    pub(crate) fn consumer_count(&self) -> usize {
        let default = self.producer_count();
        self.consumers.map_or(default, |n| n as usize)
    }

    /// Members of all groups together.
    pub(crate) fn member_count(&self) -> usize {
        self.consumer_count() * self.groups as usize
    }
}

pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, Failure> {
    Args::try_parse_from(args).map_err(|error| {
        if !error.use_stderr() {
            let _ = error.print();
            std::process::exit(0);
        }
        let text = error.render().to_string();
        let why = text.strip_prefix("error: ").unwrap_or(&text).to_owned();
        Failure { ending: Ending::BadUsage, why }
    })
}

/// `100000`, `100k`, `1.5M`; -1 and 0 mean as fast as it goes.
fn parse_rate(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |number| (number, 1e6)),
    };
    match number.parse::<f64>() {
        Ok(-1.0) => Ok(0),
        Ok(rate) if (0.0..=1e9).contains(&(rate * unit)) => Ok((rate * unit) as u64),
        _ => Err("expected records per second, as 100000, 100k or 0 for as fast as it goes".into()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let found = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (number, seconds) = found.unwrap_or((text, &1.0));
    match number.parse::<f64>() {
        Ok(value) if (0.0..=1e7).contains(&(value * seconds)) => {
            Ok(Duration::from_secs_f64(value * seconds))
        }
        _ => Err("expected a duration, as 30s, 5m or 500ms".into()),
    }
}

fn parse_linger(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|ms| (0.0..=60_000.0).contains(ms));
    parsed.ok_or_else(|| "expected milliseconds from 0 to 60000".to_owned())
}

fn parse_codec(text: &str) -> Result<Compression, String> {
    Compression::from_name(text)
        .ok_or_else(|| "expected none, gzip, snappy, lz4 or zstd".to_owned())
}

fn codec_name<S: serde::Serializer>(codec: &Compression, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(codec.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_durations_are_read_as_people_write_them() {
        assert_eq!(parse_rate("100k"), Ok(100_000));
        assert_eq!(parse_rate("1.5M"), Ok(1_500_000));
        assert_eq!(parse_rate("-1"), Ok(0));
        assert!(parse_rate("fast").is_err() && parse_rate("-5").is_err());
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_duration("soon").is_err());
    }

    #[test]
    fn nonsense_is_refused_with_its_own_exit_code() {
        for bad in [&["--rate", "x"][..], &["--partitions", "0"], &["--acks", "2"], &["--nope"]] {
            let args = ["loadgen"].iter().chain(bad).map(OsString::from);
            let failure = parse(args).expect_err("refused");
            assert_eq!(failure.ending, Ending::BadUsage);
            assert!(failure.why.contains(bad[0]), "{}", failure.why);
        }
    }
}
