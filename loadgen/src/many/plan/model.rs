//! What a plan is asked, the demands of the broker as they are fitted, and what they need.

use crate::judge::result::RunResult;
use crate::load::{number, seconds};
use crate::many::statistics::{nnls, quantile};
use crate::options::args::Args;
use runtime::random::Random;
use std::str::FromStr;

/// A prediction that misses by more says so on the plan's first line.
pub(super) const MISS_MAX: f64 = 0.10;
/// Plans drawn from the uncertain inputs and demands.
pub(super) const DRAWS: usize = 1000;
/// Share of the rate up to the knee at which the check runs.
pub(super) const CHECK_SHARE: f64 = 0.45;
/// Partitions per core from which shards are loaded about evenly.
pub(super) const PARTITIONS_PER_CORE_MIN: f64 = 4.0;
/// Memory of an idle partition, and of a broker beyond its tail cache, in bytes: generous.
pub(super) const PARTITION_BYTES: f64 = 256.0 * 1024.0;

/// A value, or low..middle..high.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Guess {
    pub(super) low: f64,
    pub(super) mid: f64,
    pub(super) high: f64,
}

impl Guess {
    /// A draw from the triangle between low, middle and high.
    pub(super) fn draw(&self, random: &mut Random) -> f64 {
        if self.high <= self.low {
            return self.mid;
        }
        let u = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let (width, left) = (self.high - self.low, self.mid - self.low);
        if u < left / width {
            self.low + (u * width * left).sqrt()
        } else {
            self.high - ((1.0 - u) * width * (self.high - self.mid)).sqrt()
        }
    }
}

impl FromStr for Guess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<f64>> = text.split("..").map(number).collect();
        let guess = match parts.as_deref() {
            Some([one]) => Some(Self { low: *one, mid: *one, high: *one }),
            Some([low, mid, high]) if low <= mid && mid <= high => {
                Some(Self { low: *low, mid: *mid, high: *high })
            }
            _ => None,
        };
        guess.ok_or_else(|| {
            "expected a number, as 50k, or LOW..MIDDLE..HIGH, as 40k..50k..80k".to_owned()
        })
    }
}

/// `loadgen plan`. The load's shape (record size, batches, linger, compression, acks, groups as fan-out)
/// is said by the usual options.
#[derive(clap::Args, Debug)]
pub(crate) struct PlanArgs {
    /// Mean records per second: a number, or LOW..MIDDLE..HIGH
    #[arg(long, default_value = "100k", help_heading = "Target")]
    pub(super) target_rate: Guess,
    /// The peak is so many times the mean
    #[arg(long, default_value = "2", help_heading = "Target")]
    pub(super) peak_factor: Guess,
    /// How long records are kept: 7d, 24h
    #[arg(long, default_value = "7d", value_parser = days, help_heading = "Target")]
    pub(super) retention: f64,
    /// Copies of each record
    #[arg(long, default_value_t = 3.0, value_parser = above_zero, help_heading = "Target")]
    pub(super) copies: f64,
    /// Growth per month, in percent
    #[arg(long, default_value_t = 0.0, help_heading = "Target")]
    pub(super) growth: f64,
    /// Months to plan for
    #[arg(long, default_value_t = 12.0, help_heading = "Target")]
    pub(super) months: f64,
    /// Brokers that may be away at the peak
    #[arg(long, default_value_t = 1.0, help_heading = "Target")]
    pub(super) failures: f64,
    /// End-to-end p99 to keep, as 25ms
    #[arg(long, default_value = "25ms", help_heading = "Target")]
    pub(super) objective: String,

    /// Cores of a broker
    #[arg(long, default_value_t = 8.0, value_parser = above_zero, help_heading = "Node")]
    pub(super) node_cores: f64,
    /// Memory of a broker, in bytes, as 32G
    #[arg(long, default_value = "32G", value_parser = bytes, help_heading = "Node")]
    pub(super) node_memory: f64,
    /// Disk of a broker, in bytes
    #[arg(long, default_value = "2T", value_parser = bytes, help_heading = "Node")]
    pub(super) node_disk: f64,
    /// Disk writes of a broker per second, in bytes
    #[arg(long, default_value = "500M", value_parser = bytes, help_heading = "Node")]
    pub(super) node_disk_rate: f64,
    /// Network of a broker per second and direction, in bytes (10 Gbit/s: 1250M)
    #[arg(long, default_value = "1250M", value_parser = bytes, help_heading = "Node")]
    pub(super) node_network: f64,
    /// Partition replicas of a broker
    #[arg(long, default_value_t = 4000.0, value_parser = above_zero, help_heading = "Node")]
    pub(super) node_partitions: f64,
    /// Share of CPU and network to use at the peak
    #[arg(long, default_value_t = 0.6, value_parser = share, help_heading = "Node")]
    pub(super) headroom: f64,
    /// Share of the disk to fill
    #[arg(long, default_value_t = 0.8, value_parser = share, help_heading = "Node")]
    pub(super) disk_fill: f64,
    #[command(flatten)]
    pub(crate) run: Args,
}

pub(super) fn days(text: &str) -> Result<f64, String> {
    let days = text.strip_suffix('d').and_then(number).map(|days| days * 86_400.0);
    let found = days.or_else(|| seconds(text).ok()).filter(|seconds| *seconds > 0.0);
    found.ok_or_else(|| "expected a time, as 7d or 24h".to_owned())
}

pub(super) fn above_zero(text: &str) -> Result<f64, String> {
    number(text).filter(|value| *value > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}

pub(super) fn bytes(text: &str) -> Result<f64, String> {
    above_zero(text.strip_suffix('B').unwrap_or(text))
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    let found = number(text).filter(|share| (0.05..=1.0).contains(share));
    found.ok_or_else(|| "expected a share from 0.05 to 1".to_owned())
}

/// What a broker was asked to do per second in one run, and the cores it used.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Observed {
    pub(super) name: String,
    pub(super) records: f64,
    pub(super) bytes: f64,
    pub(super) requests: f64,
    pub(super) fetches: f64,
    pub(super) bytes_out: f64,
    pub(super) cores: f64,
    pub(super) disk_bytes: f64,
    pub(super) compression: f64,
    pub(super) end_to_end_p99_ms: Option<f64>,
}

pub(super) const DEMANDS: [(&str, &str); 6] = [
    ("record in", "us"),
    ("MB in", "us"),
    ("produce request", "us"),
    ("fetch request", "us"),
    ("MB out", "us"),
    ("idle, per second", "us"),
];

impl Observed {
    pub(super) fn of(name: String, result: &RunResult) -> Option<Self> {
        let seconds = result.measured_s;
        let used = result.resources.broker.as_ref()?;
        // Requests are counted over the whole run, warm-up included.
        let part = result.throughput.acknowledged_records as f64
            / (result.batches.records as f64).max(1.0);
        let wire_bytes =
            result.throughput.record_bytes / result.batches.compression_ratio.max(0.01);
        Some(Self {
            name,
            records: result.throughput.acknowledged_per_s,
            bytes: result.throughput.acknowledged_per_s * wire_bytes,
            requests: result.batches.requests as f64 * part / seconds,
            fetches: result.batches.fetches as f64 * part / seconds,
            bytes_out: result.throughput.consumed_per_s * wire_bytes,
            cores: used.cpu_s / seconds,
            disk_bytes: used.disk_write_bytes as f64 / seconds,
            compression: result.batches.compression_ratio,
            end_to_end_p99_ms: result.latency.end_to_end.p99_ms,
        })
    }

    pub(super) fn row(&self) -> Vec<f64> {
        vec![self.records, self.bytes / 1e6, self.requests, self.fetches, self.bytes_out / 1e6, 1.0]
    }
}

/// The fitted demands, in seconds of a core each, and what resampled runs made of them.
pub(super) struct Model {
    pub(super) demands: Vec<f64>,
    pub(super) resampled: Vec<Vec<f64>>,
    /// Largest miss of a run it was fitted to, as a share.
    pub(super) worst: f64,
    /// Typical miss.
    pub(super) typical: f64,
}

pub(super) fn predict(demands: &[f64], row: &[f64]) -> f64 {
    demands.iter().zip(row).map(|(demand, load)| demand * load).sum()
}

impl Model {
    /// Each run counts by its relative error, so that small loads are fitted as well as large ones.
    pub(super) fn fit(runs: &[Observed]) -> Self {
        let weighted = |chosen: &[&Observed]| {
            let rows: Vec<Vec<f64>> = chosen
                .iter()
                .map(|run| run.row().iter().map(|load| load / run.cores.max(1e-6)).collect())
                .collect();
            nnls(&rows, &vec![1.0; rows.len()])
        };
        let all: Vec<&Observed> = runs.iter().collect();
        let demands = weighted(&all);
        let mut random = Random::new(5);
        let resampled = (0..200)
            .map(|_| {
                let drawn: Vec<&Observed> =
                    runs.iter().map(|_| &runs[random.below(runs.len() as u64) as usize]).collect();
                weighted(&drawn)
            })
            .collect();
        let misses: Vec<f64> = runs
            .iter()
            .map(|run| (predict(&demands, &run.row()) / run.cores - 1.0).abs())
            .collect();
        Self {
            demands,
            resampled,
            worst: misses.iter().copied().fold(0.0, f64::max),
            typical: quantile(&misses, 0.5),
        }
    }

    /// Multiplies every demand.
    pub(super) fn lift(&mut self, by: f64) {
        for demands in std::iter::once(&mut self.demands).chain(&mut self.resampled) {
            demands.iter_mut().for_each(|demand| *demand *= by);
        }
    }

    /// Prediction with its 90 % interval: from resampled runs, and from how far runs lie off the fit.
    pub(super) fn predict(&self, row: &[f64]) -> (f64, f64, f64) {
        let middle = predict(&self.demands, row);
        let all: Vec<f64> = self.resampled.iter().map(|demands| predict(demands, row)).collect();
        let off = middle * self.typical * 1.5;
        (middle, (quantile(&all, 0.05) - off).max(0.0), quantile(&all, 0.95) + off)
    }
}

/// What is needed of one resource.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Need {
    pub(super) resource: &'static str,
    /// Of all brokers together, at the peak, in `unit`.
    pub(super) amount: f64,
    pub(super) unit: &'static str,
    /// What one broker may give.
    pub(super) per_broker: f64,
    pub(super) brokers: f64,
}

/// The inputs of one plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs {
    pub(super) rate: f64,
    pub(super) peak: f64,
}

/// What the load's shape costs a record, as measured.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Shape {
    pub(super) wire_bytes: f64,
    pub(super) records_per_request: f64,
    pub(super) fetches_per_record: f64,
    pub(super) groups: f64,
    pub(super) disk_bytes_per_byte: f64,
    pub(super) partition_rate: f64,
}

pub(super) fn needs(args: &PlanArgs, inputs: Inputs, shape: &Shape, demands: &[f64]) -> Vec<Need> {
    let growth = (1.0 + args.growth / 100.0).powf(args.months);
    let mean = inputs.rate * growth;
    let peak = mean * inputs.peak;
    let bytes = peak * shape.wire_bytes;
    let copies_out = args.copies - 1.0;
    let load = [
        peak,
        // Followers write what leaders write.
        bytes / 1e6 * args.copies,
        peak / shape.records_per_request,
        peak * shape.fetches_per_record * (shape.groups + copies_out) / shape.groups.max(1.0),
        bytes / 1e6 * (shape.groups + copies_out),
        0.0,
    ];
    let cores = predict(demands, &load);
    let usable = args.node_cores * args.headroom - demands[5];
    let partitions = (peak / shape.partition_rate).ceil().max(1.0);
    let disk = mean * shape.wire_bytes * args.retention * args.copies;
    let hot = bytes * args.copies * 60.0;
    let need = |resource, amount: f64, unit, per_broker: f64| Need {
        resource,
        amount,
        unit,
        per_broker,
        brokers: amount / per_broker.max(1e-9),
    };
    vec![
        need("CPU", cores, "cores", usable.max(0.01)),
        need("disk space", disk / 1e9, "GB", args.node_disk * args.disk_fill / 1e9),
        need(
            "disk writes",
            bytes * args.copies * shape.disk_bytes_per_byte / 1e6,
            "MB/s",
            args.node_disk_rate * args.headroom / 1e6,
        ),
        need(
            "network in",
            bytes * args.copies / 1e6,
            "MB/s",
            args.node_network * args.headroom / 1e6,
        ),
        need(
            "network out",
            bytes * (shape.groups + copies_out) / 1e6,
            "MB/s",
            args.node_network * args.headroom / 1e6,
        ),
        // The last minute stays in memory, so that readers a little behind do not touch the disk.
        need(
            "memory",
            (hot + partitions * args.copies * PARTITION_BYTES) / 1e9,
            "GB",
            args.node_memory * 0.75 / 1e9,
        ),
        need("partition replicas", partitions * args.copies, "replicas", args.node_partitions),
    ]
}

/// Brokers for these needs: enough for the largest, at least one per copy, and those that may be away.
pub(super) fn brokers(args: &PlanArgs, needs: &[Need]) -> (f64, &'static str) {
    let most =
        needs.iter().max_by(|a, b| a.brokers.total_cmp(&b.brokers)).expect("there are resources");
    let counted = most.brokers.ceil();
    if counted <= args.copies.ceil() - args.failures {
        return (args.copies.ceil().max(counted + args.failures), "copies");
    }
    ((counted + args.failures).max(args.copies.ceil()), most.resource)
}

#[derive(serde::Serialize)]
pub(super) struct Checked {
    pub(super) rate: f64,
    pub(super) predicted_cores: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) measured_cores: f64,
    pub(super) miss: f64,
    pub(super) within: bool,
    pub(super) end_to_end_p99_ms: Option<f64>,
    pub(super) objective_kept: bool,
}
