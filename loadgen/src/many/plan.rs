//! `loadgen plan`: how many brokers, cores, disks and partitions a load needs, from measurements of this
//! machine and a model that is checked against a run it has not seen.
//!
//! Broker CPU is taken as a sum of service demands: records, bytes in, produce requests, fetches, bytes
//! out, and an idle share. The demands are fitted without negative ones (NNLS) to runs that vary these
//! apart from each other; intervals come from fitting resampled runs again. Latency is read from the
//! measured knee, not from a queueing formula.

use crate::ending::{Ending, Failure};
use crate::judge::result::RunResult;
use crate::load::{Rate, number, seconds};
use crate::many::search::{self, Said};
use crate::many::statistics::{Usl, nnls, quantile};
use crate::options::args::Args;
use crate::options::flags::with_flags;
use crate::report::charts::{Chart, Line, lines};
use crate::report::output::{Output, pretty};
use crate::report::words::thousands;
use crate::report::{html, markdown};
use crate::run::execute::execute;
use crate::run::session::Session;
use crate::run::target::Target;
use runtime::random::Random;
use std::io::Write as _;
use std::str::FromStr;

/// A prediction that misses by more says so on the plan's first line.
const MISS_MAX: f64 = 0.10;
/// Plans drawn from the uncertain inputs and demands.
const DRAWS: usize = 1000;
/// Share of the rate up to the knee at which the check runs.
const CHECK_SHARE: f64 = 0.45;
/// Partitions per core from which shards are loaded about evenly.
const PARTITIONS_PER_CORE_MIN: f64 = 4.0;
/// Memory of an idle partition, and of a broker beyond its tail cache, in bytes: generous.
const PARTITION_BYTES: f64 = 256.0 * 1024.0;

/// A value, or low..middle..high.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Guess {
    low: f64,
    mid: f64,
    high: f64,
}

impl Guess {
    /// A draw from the triangle between low, middle and high.
    fn draw(&self, random: &mut Random) -> f64 {
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
    target_rate: Guess,
    /// The peak is so many times the mean
    #[arg(long, default_value = "2", help_heading = "Target")]
    peak_factor: Guess,
    /// How long records are kept: 7d, 24h
    #[arg(long, default_value = "7d", value_parser = days, help_heading = "Target")]
    retention: f64,
    /// Copies of each record
    #[arg(long, default_value_t = 3.0, value_parser = above_zero, help_heading = "Target")]
    copies: f64,
    /// Growth per month, in percent
    #[arg(long, default_value_t = 0.0, help_heading = "Target")]
    growth: f64,
    /// Months to plan for
    #[arg(long, default_value_t = 12.0, help_heading = "Target")]
    months: f64,
    /// Brokers that may be away at the peak
    #[arg(long, default_value_t = 1.0, help_heading = "Target")]
    failures: f64,
    /// End-to-end p99 to keep, as 25ms
    #[arg(long, default_value = "25ms", help_heading = "Target")]
    objective: String,

    /// Cores of a broker
    #[arg(long, default_value_t = 8.0, value_parser = above_zero, help_heading = "Node")]
    node_cores: f64,
    /// Memory of a broker, in bytes, as 32G
    #[arg(long, default_value = "32G", value_parser = bytes, help_heading = "Node")]
    node_memory: f64,
    /// Disk of a broker, in bytes
    #[arg(long, default_value = "2T", value_parser = bytes, help_heading = "Node")]
    node_disk: f64,
    /// Disk writes of a broker per second, in bytes
    #[arg(long, default_value = "500M", value_parser = bytes, help_heading = "Node")]
    node_disk_rate: f64,
    /// Network of a broker per second and direction, in bytes (10 Gbit/s: 1250M)
    #[arg(long, default_value = "1250M", value_parser = bytes, help_heading = "Node")]
    node_network: f64,
    /// Partition replicas of a broker
    #[arg(long, default_value_t = 4000.0, value_parser = above_zero, help_heading = "Node")]
    node_partitions: f64,
    /// Share of CPU and network to use at the peak
    #[arg(long, default_value_t = 0.6, value_parser = share, help_heading = "Node")]
    headroom: f64,
    /// Share of the disk to fill
    #[arg(long, default_value_t = 0.8, value_parser = share, help_heading = "Node")]
    disk_fill: f64,
    #[command(flatten)]
    pub(crate) run: Args,
}

fn days(text: &str) -> Result<f64, String> {
    let days = text.strip_suffix('d').and_then(number).map(|days| days * 86_400.0);
    let found = days.or_else(|| seconds(text).ok()).filter(|seconds| *seconds > 0.0);
    found.ok_or_else(|| "expected a time, as 7d or 24h".to_owned())
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text).filter(|value| *value > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}

fn bytes(text: &str) -> Result<f64, String> {
    above_zero(text.strip_suffix('B').unwrap_or(text))
}

fn share(text: &str) -> Result<f64, String> {
    let found = number(text).filter(|share| (0.05..=1.0).contains(share));
    found.ok_or_else(|| "expected a share from 0.05 to 1".to_owned())
}

/// What a broker was asked to do per second in one run, and the cores it used.
#[derive(Clone, Debug, serde::Serialize)]
struct Observed {
    name: String,
    records: f64,
    bytes: f64,
    requests: f64,
    fetches: f64,
    bytes_out: f64,
    cores: f64,
    disk_bytes: f64,
    compression: f64,
    end_to_end_p99_ms: Option<f64>,
}

const DEMANDS: [(&str, &str); 6] = [
    ("record in", "us"),
    ("MB in", "us"),
    ("produce request", "us"),
    ("fetch request", "us"),
    ("MB out", "us"),
    ("idle, per second", "us"),
];

impl Observed {
    fn of(name: String, result: &RunResult) -> Option<Self> {
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

    fn row(&self) -> Vec<f64> {
        vec![self.records, self.bytes / 1e6, self.requests, self.fetches, self.bytes_out / 1e6, 1.0]
    }
}

/// The fitted demands, in seconds of a core each, and what resampled runs made of them.
struct Model {
    demands: Vec<f64>,
    resampled: Vec<Vec<f64>>,
    /// Largest miss of a run it was fitted to, as a share.
    worst: f64,
    /// Typical miss.
    typical: f64,
}

fn predict(demands: &[f64], row: &[f64]) -> f64 {
    demands.iter().zip(row).map(|(demand, load)| demand * load).sum()
}

impl Model {
    /// Each run counts by its relative error, so that small loads are fitted as well as large ones.
    fn fit(runs: &[Observed]) -> Self {
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
    fn lift(&mut self, by: f64) {
        for demands in std::iter::once(&mut self.demands).chain(&mut self.resampled) {
            demands.iter_mut().for_each(|demand| *demand *= by);
        }
    }

    /// Prediction with its 90 % interval: from resampled runs, and from how far runs lie off the fit.
    fn predict(&self, row: &[f64]) -> (f64, f64, f64) {
        let middle = predict(&self.demands, row);
        let all: Vec<f64> = self.resampled.iter().map(|demands| predict(demands, row)).collect();
        let off = middle * self.typical * 1.5;
        (middle, (quantile(&all, 0.05) - off).max(0.0), quantile(&all, 0.95) + off)
    }
}

/// The runs that the demands are fitted to: each changes one thing against the others. `{rate}` is a
/// share of the knee.
const DESIGN: [(&str, f64, &str); 15] = [
    ("light", 0.15, ""),
    ("half", 0.50, ""),
    ("three quarters", 0.70, ""),
    ("no consumers", 0.50, "--consumers=0"),
    ("no consumers, light", 0.20, "--consumers=0"),
    ("two groups", 0.35, "--groups=2"),
    ("small records", 0.50, "--record-size=100"),
    ("large records", 0.12, "--record-size=8192"),
    ("large records, no consumers", 0.10, "--record-size=8192 --consumers=0"),
    ("small batches", 0.06, "--batch-size=1500 --linger-ms=0"),
    ("small batches, no consumers", 0.08, "--batch-size=1500 --linger-ms=0 --consumers=0"),
    ("large batches", 0.50, "--batch-size=131072 --linger-ms=10"),
    // The plain load once more, later: what is planned is anchored to it.
    ("three quarters again", 0.70, ""),
    ("half again", 0.50, ""),
    ("light again", 0.15, ""),
];

/// Those of the plain load, by rising rate.
const PLAIN: [&str; 3] = ["light", "half", "three quarters"];

struct Planning<'p> {
    args: &'p PlanArgs,
    session: &'p Session,
    output: &'p Output,
}

impl Planning<'_> {
    async fn run(&self, name: &str, rate: Rate, flags: &str) -> Result<RunResult, Failure> {
        if self.session.is_interrupted() {
            return Err(Failure {
                ending: Ending::Interrupted,
                why: "interrupted: there is no plan".to_owned(),
            });
        }
        let mut words: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        words.push(format!("--rate={rate}"));
        let mut run = with_flags(&self.args.run, &words)?;
        run.quiet = true;
        let dir = self.output.part(&name.replace([' ', ','], "-"))?;
        let target = Target::of(&run)?;
        let result = execute(&run, &target, self.session, &dir).await?;
        let broker =
            result.resources.broker.as_ref().map_or(0.0, |used| used.cpu_s / result.measured_s);
        let _ = writeln!(
            std::io::stderr(),
            "{name:<30} {:>10}/s  {:>5.2} broker cores  e2e p99 {} ms  {}",
            thousands(result.throughput.acknowledged_per_s),
            broker,
            result.latency.end_to_end.p99_ms.map_or("-".to_owned(), |ms| format!("{ms:.2}")),
            result.verdict
        );
        Ok(result)
    }

    /// The highest rate of a ladder that keeps the objective: where the knee is, to a fifth.
    async fn knee(&self) -> Result<(f64, Vec<(f64, f64, bool)>), Failure> {
        let objective = format!("--assert=e2e.p99<={}", self.args.objective);
        let mut points = Vec::new();
        let (mut passed, mut failed): (f64, Option<f64>) = (0.0, None);
        let mut rate = 10_000.0;
        for number in 1..=12 {
            // A noisy moment is no limit: a rate has failed when it failed twice. Both are drawn.
            let mut good = false;
            for again in ["", " again"] {
                let name = format!("knee {number:02}{again}");
                let result = self.run(&name, Rate::Records(rate), &objective).await?;
                good = search::judge(&result).0 == Said::Pass;
                let p99_ms = result.latency.end_to_end.p99_ms.unwrap_or(f64::NAN);
                points.push((rate, p99_ms, good));
                if good {
                    break;
                }
            }
            if good {
                passed = passed.max(rate);
            } else {
                failed = Some(failed.map_or(rate, |failed: f64| failed.min(rate)));
            }
            rate = match failed {
                None => rate * 2.0,
                Some(failed) if passed > 0.0 && failed / passed <= 1.2 => break,
                Some(failed) if passed > 0.0 => (passed * failed).sqrt().round(),
                Some(failed) => failed / 2.0,
            };
            if rate < 50.0 {
                break;
            }
        }
        Ok((passed, points))
    }
}

/// What is needed of one resource.
#[derive(Clone, Debug, serde::Serialize)]
struct Need {
    resource: &'static str,
    /// Of all brokers together, at the peak, in `unit`.
    amount: f64,
    unit: &'static str,
    /// What one broker may give.
    per_broker: f64,
    brokers: f64,
}

/// The inputs of one plan.
#[derive(Clone, Copy, Debug)]
struct Inputs {
    rate: f64,
    peak: f64,
}

/// What the load's shape costs a record, as measured.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Shape {
    wire_bytes: f64,
    records_per_request: f64,
    fetches_per_record: f64,
    groups: f64,
    disk_bytes_per_byte: f64,
    partition_rate: f64,
}

fn needs(args: &PlanArgs, inputs: Inputs, shape: &Shape, demands: &[f64]) -> Vec<Need> {
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
fn brokers(args: &PlanArgs, needs: &[Need]) -> (f64, &'static str) {
    let most =
        needs.iter().max_by(|a, b| a.brokers.total_cmp(&b.brokers)).expect("there are resources");
    let counted = most.brokers.ceil();
    if counted <= args.copies.ceil() - args.failures {
        return (args.copies.ceil().max(counted + args.failures), "copies");
    }
    ((counted + args.failures).max(args.copies.ceil()), most.resource)
}

#[derive(serde::Serialize)]
struct Checked {
    rate: f64,
    predicted_cores: f64,
    low: f64,
    high: f64,
    measured_cores: f64,
    miss: f64,
    within: bool,
    end_to_end_p99_ms: Option<f64>,
    objective_kept: bool,
}

pub(crate) async fn run(args: PlanArgs, session: Session) -> Result<Ending, Failure> {
    if args.run.consumer_count() == 0 {
        return Err(Failure::usage("plan measures reading too: give --consumers above 0"));
    }
    if args.run.bootstrap_server.is_some() && args.run.broker_pid.is_none() {
        return Err(Failure::usage(
            "plan needs the broker's CPU time: leave out --bootstrap-server for the embedded broker, or \
             give --broker-pid of one on this machine",
        ));
    }
    format!("e2e.p99<={}", args.objective)
        .parse::<crate::judge::assertions::Assertion>()
        .map_err(Failure::usage)?;
    let output = Output::make(args.run.output.as_deref(), "plan")?;
    let planning = Planning { args: &args, session: &session, output: &output };
    let (knee, ladder) = planning.knee().await?;
    if knee <= 0.0 {
        return Err(Failure {
            ending: Ending::ObjectiveMissed,
            why: format!(
                "no rate keeps e2e.p99<={} here: there is nothing to plan from",
                args.objective
            ),
        });
    }
    let mut runs = Vec::new();
    let mut base = None;
    for (name, part, flags) in DESIGN {
        let result = planning.run(name, Rate::Records((knee * part).round()), flags).await?;
        if name == "half" {
            base = Some(result.clone());
        }
        runs.extend(Observed::of(name.to_owned(), &result));
    }
    let base = base.expect("the design has it");
    // How the broker scales with connections, each with one request in flight.
    let mut scaling = Vec::new();
    for producers in [1, 2, 4, 8, 16] {
        let flags = format!(
            "--producers={producers} --consumers=0 --max-in-flight=1 --linger-ms=0 --batch-size=16384"
        );
        let result = planning.run(&format!("scale {producers:02}"), Rate::Max, &flags).await?;
        scaling.push((f64::from(producers), result.throughput.acknowledged_per_s));
    }
    let one = planning
        .run("one partition", Rate::Max, "--partitions=1 --producers=1 --consumers=1")
        .await?;

    // The check: a point of its own, predicted before it is run.
    let rate = (knee * CHECK_SHARE).round();
    let mut model = Model::fit(&runs);
    let shape = shape_of(&args, &base, &runs, rate, one.throughput.acknowledged_per_s);
    let row = [
        rate,
        rate * shape.wire_bytes / 1e6,
        rate / shape.records_per_request,
        rate * shape.fetches_per_record,
        rate * shape.wire_bytes * shape.groups / 1e6,
        1.0,
    ];
    // The demands tell loads apart; how high the plain one lies at this rate was measured.
    let anchor = anchor(&model, &runs, rate);
    let (predicted, low, high) = model.predict(&row);
    let (predicted, low, high) = (predicted * anchor, low * anchor, high * anchor);
    let check = planning
        .run("check", Rate::Records(rate), &format!("--assert=e2e.p99<={}", args.objective))
        .await?;
    let seen = Observed::of("check".to_owned(), &check);
    let measured = seen.as_ref().map_or(f64::NAN, |seen| seen.cores);
    let checked = Checked {
        rate,
        predicted_cores: predicted,
        low,
        high,
        measured_cores: measured,
        miss: predicted / measured - 1.0,
        within: (low..=high).contains(&measured),
        end_to_end_p99_ms: check.latency.end_to_end.p99_ms,
        objective_kept: search::judge(&check).0 == Said::Pass,
    };
    // What is planned from here on lies where the plain load was measured.
    model.lift(anchor);
    let usl = Usl::fit(&scaling);
    report(&Plan {
        args: &args,
        knee,
        ladder,
        runs,
        model,
        shape,
        checked,
        anchor,
        usl,
        scaling,
        output: &output,
    })
}

/// The load's shape at a rate: between the runs of the plain load, for requests and fetches do not grow
/// as records do (a fuller broker is asked for more at once).
fn shape_of(
    args: &PlanArgs,
    base: &RunResult,
    runs: &[Observed],
    rate: f64,
    partition_rate: f64,
) -> Shape {
    let at = |of: fn(&Observed) -> f64| between(&plain(runs, of), rate);
    let half = runs.iter().find(|run| run.name == "half").expect("the design has it");
    Shape {
        wire_bytes: half.bytes / half.records,
        records_per_request: rate / at(|run| run.requests).max(1e-9),
        fetches_per_record: at(|run| run.fetches) / rate,
        groups: f64::from(base.option("groups").parse::<u32>().unwrap_or(args.run.groups)),
        disk_bytes_per_byte: (half.disk_bytes / half.bytes).max(1.0),
        partition_rate,
    }
}

/// What the plain load was measured at over what is fitted to it, near a rate.
fn anchor(model: &Model, runs: &[Observed], rate: f64) -> f64 {
    let ratios = plain(runs, |run| run.cores / predict(&model.demands, &run.row()).max(1e-9));
    let (first, last) = (ratios[0], ratios[ratios.len() - 1]);
    between(&ratios, rate.clamp(first.0, last.0))
}

/// A figure of the plain load by rate; runs of one rate count as one.
fn plain(runs: &[Observed], of: impl Fn(&Observed) -> f64) -> Vec<(f64, f64)> {
    let one = |name: &&str| {
        let same: Vec<&Observed> = runs.iter().filter(|run| run.name.starts_with(name)).collect();
        let mean = |of: &dyn Fn(&Observed) -> f64| {
            same.iter().map(|run| of(run)).sum::<f64>() / same.len().max(1) as f64
        };
        (mean(&|run| run.records), mean(&of))
    };
    PLAIN.iter().map(one).collect()
}

/// The value at `x` on the line through points in order of x; below the first one in proportion.
fn between(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|point| point.0 < x).min(points.len() - 1);
    let (x1, y1) = points[after];
    let (x0, y0) = if after == 0 { (0.0, 0.0) } else { points[after - 1] };
    y0 + (y1 - y0) * (x - x0) / (x1 - x0).max(1e-9)
}

struct Plan<'p> {
    args: &'p PlanArgs,
    knee: f64,
    ladder: Vec<(f64, f64, bool)>,
    runs: Vec<Observed>,
    model: Model,
    shape: Shape,
    checked: Checked,
    anchor: f64,
    usl: Option<Usl>,
    scaling: Vec<(f64, f64)>,
    output: &'p Output,
}

fn report(plan: &Plan<'_>) -> Result<Ending, Failure> {
    let args = plan.args;
    let middle = Inputs { rate: args.target_rate.mid, peak: args.peak_factor.mid };
    let needed = needs(args, middle, &plan.shape, &plan.model.demands);
    let (count, binding) = brokers(args, &needed);
    let mut random = Random::new(9);
    let mut drawn: Vec<(f64, &str)> = Vec::new();
    for _ in 0..DRAWS {
        let inputs = Inputs {
            rate: args.target_rate.draw(&mut random),
            peak: args.peak_factor.draw(&mut random),
        };
        let demands =
            &plan.model.resampled[random.below(plan.model.resampled.len() as u64) as usize];
        drawn.push(brokers(args, &needs(args, inputs, &plan.shape, demands)));
    }
    let counts: Vec<f64> = drawn.iter().map(|(count, _)| *count).collect();
    let (p10, p50, p90) = (quantile(&counts, 0.1), quantile(&counts, 0.5), quantile(&counts, 0.9));
    let same = drawn.iter().filter(|(_, name)| *name == binding).count() as f64 / DRAWS as f64;
    let tornado = sensitivity(plan, middle);
    let checked = &plan.checked;
    let good = checked.miss.abs() <= MISS_MAX;
    let first = if good {
        format!(
            "Checked: broker CPU at {} records/s was predicted to {:+.1} % of what was measured.",
            thousands(checked.rate),
            checked.miss * 100.0
        )
    } else {
        format!(
            "THE PREDICTION MISSED BY {:+.1} %: at {} records/s {:.2} cores were predicted, {:.2} measured. Do not rely on this plan.",
            checked.miss * 100.0,
            thousands(checked.rate),
            checked.predicted_cores,
            checked.measured_cores
        )
    };
    let peak =
        args.target_rate.mid * args.peak_factor.mid * (1.0 + args.growth / 100.0).powf(args.months);
    let replicas = needed[6].amount;
    let partitions = (replicas / args.copies).ceil().max(count * 1.0);
    let partitions = (partitions / count).ceil() * count;
    let summary = format!(
        "{count:.0} brokers of {:.0} cores (P10 {p10:.0}, P50 {p50:.0}, P90 {p90:.0}) for {} records/s at the peak, {:.0} failures allowed; bound by {binding} in {:.0} % of the draws; {partitions:.0} partitions.",
        args.node_cores,
        thousands(peak),
        args.failures,
        same * 100.0
    );
    let mut notes = vec![
        format!("The knee of this machine: {} records/s keep end-to-end p99 within {} (a ladder, to a fifth; a rate that failed was tried twice). Latency at other sizes of machine is not predicted.", thousands(plan.knee), args.objective),
        format!("The demands fit the {} runs they come from to {:.1} % typically, {:.1} % at worst; all are then multiplied by {:.3}, so that the plain load lies where it was measured.", plan.runs.len(), plan.model.typical * 100.0, plan.model.worst * 100.0, plan.anchor),
        "Copies are counted as one fetch of every byte by each follower and one more write of it: replication itself was not run here.".to_owned(),
        "Brokers with more cores than this machine are taken to scale by core, partitions being spread evenly; on this machine that was not measured.".to_owned(),
    ];
    notes.push(match &plan.usl {
        Some(usl) => format!(
            "Universal Scalability Law over 1 to 16 connections with one request in flight each: lambda {:.0}/s, sigma {:.4}, kappa {:.6}; worst point off by {:.1} %. Over cores it cannot be told apart on {} cores.",
            usl.lambda, usl.sigma, usl.kappa, usl.worst_error * 100.0, runtime::thread::cpus().len()
        ),
        None => "The Universal Scalability Law could not be fitted.".to_owned(),
    });
    let per_core = partitions / (count * args.node_cores);
    if per_core < PARTITIONS_PER_CORE_MIN {
        notes.push(format!("With {per_core:.1} partitions to a core some cores get twice the load of others: {:.0} partitions would even it out.", (PARTITIONS_PER_CORE_MIN * count * args.node_cores).ceil()));
    }
    if args.node_cores > 2.0 * runtime::thread::cpus().len() as f64 {
        notes.push(format!(
            "EXTRAPOLATED: brokers of {:.0} cores from measurements on {}.",
            args.node_cores,
            runtime::thread::cpus().len()
        ));
    }
    if !checked.objective_kept {
        notes.push("The check did not keep the latency objective.".to_owned());
    }
    let need_head = ["resource", "needed at the peak", "a broker gives", "brokers"];
    let need_rows: Vec<Vec<String>> = needed
        .iter()
        .map(|need| {
            vec![
                format!(
                    "{}{}",
                    need.resource,
                    if need.resource == binding { " (binds)" } else { "" }
                ),
                format!("{:.1} {}", need.amount, need.unit),
                format!("{:.1} {}", need.per_broker, need.unit),
                format!("{:.2}", need.brokers),
            ]
        })
        .collect();
    let demand_rows: Vec<Vec<String>> = DEMANDS
        .iter()
        .enumerate()
        .map(|(at, (name, unit))| {
            let all: Vec<f64> =
                plan.model.resampled.iter().map(|demands| demands[at] * 1e6).collect();
            vec![
                (*name).to_owned(),
                format!("{:.3} {unit}", plan.model.demands[at] * 1e6),
                format!("{:.3} to {:.3}", quantile(&all, 0.05), quantile(&all, 0.95)),
            ]
        })
        .collect();
    let demand_head = ["a core's time for each", "fitted", "90 %"];
    let tornado_head = ["input", "brokers at 20 % less", "brokers at 20 % more"];
    let tornado_rows: Vec<Vec<String>> = tornado
        .iter()
        .map(|(name, low, high)| vec![name.clone(), format!("{low:.2}"), format!("{high:.2}")])
        .collect();
    let check_head = ["check", "predicted", "90 %", "measured", "miss"];
    let check_rows = vec![vec![
        format!("broker cores at {} records/s", thousands(checked.rate)),
        format!("{:.3}", checked.predicted_cores),
        format!("{:.3} to {:.3}", checked.low, checked.high),
        format!("{:.3}", checked.measured_cores),
        format!("{:+.1} %", checked.miss * 100.0),
    ]];
    let run_rows: Vec<Vec<String>> = plan
        .runs
        .iter()
        .map(|run| {
            let predicted = predict(&plan.model.demands, &run.row());
            vec![
                run.name.clone(),
                thousands(run.records),
                format!("{:.1}", run.bytes / 1e6),
                thousands(run.requests),
                thousands(run.fetches),
                format!("{:.1}", run.bytes_out / 1e6),
                format!("{:.3}", run.cores),
                format!("{predicted:.3}"),
            ]
        })
        .collect();
    let run_head =
        ["run", "records/s", "MB/s in", "produces/s", "fetches/s", "MB/s out", "cores", "fitted"];
    let fit: Vec<(f64, f64)> =
        plan.runs.iter().map(|run| (run.cores, predict(&plan.model.demands, &run.row()))).collect();
    let most = fit.iter().map(|point| point.0).fold(0.0, f64::max);
    let drawn_fit = lines(
        &Chart::new("Fitted against measured", "broker cores measured", "fitted"),
        &[
            Line::new("runs", fit).dots(),
            Line::new("check, not fitted", vec![(checked.measured_cores, checked.predicted_cores)])
                .dots(),
            Line::new("equal", vec![(0.0, 0.0), (most, most)]).dashed(),
        ],
    );
    let knee_points = |good: bool| -> Vec<(f64, f64)> {
        plan.ladder.iter().filter(|point| point.2 == good).map(|point| (point.0, point.1)).collect()
    };
    let drawn_knee = lines(
        &Chart::new("The knee", "records/s", "end-to-end p99, ms"),
        &[
            Line::new("kept the objective", knee_points(true)).dots(),
            Line::new("did not", knee_points(false)).dots(),
        ],
    );
    let drawn_usl = plan.usl.map_or(String::new(), |usl| {
        let curve = (1..=20).map(|n| (f64::from(n), usl.at(f64::from(n)))).collect();
        lines(
            &Chart::new("Scaling by connections (USL)", "connections", "records/s"),
            &[
                Line::new("measured", plan.scaling.clone()).dots(),
                Line::new("fitted", curve).dashed(),
            ],
        )
    });
    let items: String = notes
        .iter()
        .map(|note| format!("<li>{}</li>", crate::report::charts::escape(note)))
        .collect();
    let body = format!(
        "{}<h1>Capacity plan</h1><p>{}</p>{}<h2>What it takes</h2>{}<h2>What moves it</h2>{}<h2>Prediction and measurement</h2>{}{drawn_fit}<h2>Where it comes from</h2>{}{}{drawn_knee}{drawn_usl}<ul>{items}</ul>",
        html::verdict(good, &first),
        crate::report::charts::escape(&summary),
        html::cards(&[
            ("brokers", format!("{count:.0}")),
            ("bound by", binding.to_owned()),
            ("partitions", format!("{partitions:.0}")),
            ("P10 to P90", format!("{p10:.0} to {p90:.0}")),
        ]),
        html::table(&need_head, &need_rows),
        html::table(&tornado_head, &tornado_rows),
        html::table(&check_head, &check_rows),
        html::table(&demand_head, &demand_rows),
        html::table(&run_head, &run_rows),
    );
    plan.output.write("report.html", &html::page("loadgen plan", &body))?;
    let text = format!(
        "{first}\n\n### Capacity plan\n\n{summary}\n\n{}\n{}\n{}\n{}\n{}\n{}\n",
        markdown::table(&need_head, &need_rows),
        markdown::table(&tornado_head, &tornado_rows),
        markdown::table(&check_head, &check_rows),
        markdown::table(&demand_head, &demand_rows),
        markdown::table(&run_head, &run_rows),
        notes.iter().map(|note| format!("- {note}")).collect::<Vec<_>>().join("\n")
    );
    plan.output.write("report.md", &text)?;
    let json = serde_json::json!({
        "format": "weir-loadgen-plan", "format_version": 1,
        "command": crate::run::environment::command(),
        "commit": crate::run::environment::commit(),
        "brokers": count, "p10": p10, "p50": p50, "p90": p90, "binding": binding,
        "partitions": partitions, "needs": needed, "knee_records_per_s": plan.knee,
        "demands_s": plan.model.demands, "runs": plan.runs, "shape": plan.shape,
        "usl": plan.usl, "check": checked, "options": args.run,
        "target": { "rate": args.target_rate, "peak_factor": args.peak_factor,
            "retention_s": args.retention, "copies": args.copies, "failures": args.failures },
    });
    plan.output.write("plan.json", &pretty(&json))?;
    crate::report::output::show(&text, plan.output.dir());
    Ok(if good { Ending::Fine } else { Ending::Invalid })
}

/// Brokers, not rounded, when one input moves by a fifth.
fn sensitivity(plan: &Plan<'_>, middle: Inputs) -> Vec<(String, f64, f64)> {
    let most = |inputs: Inputs, shape: &Shape, demands: &[f64]| {
        let needs = needs(plan.args, inputs, shape, demands);
        needs.iter().map(|need| need.brokers).fold(0.0, f64::max)
    };
    let demands = &plan.model.demands;
    let mut found = Vec::new();
    let mut input = |name: &str, at: &dyn Fn(f64) -> f64| {
        found.push((name.to_owned(), at(0.8), at(1.2)));
    };
    input("rate or peak factor", &|by| {
        most(Inputs { rate: middle.rate * by, ..middle }, &plan.shape, demands)
    });
    input("bytes of a record on the wire", &|by| {
        most(middle, &Shape { wire_bytes: plan.shape.wire_bytes * by, ..plan.shape }, demands)
    });
    input("records in a request", &|by| {
        most(
            middle,
            &Shape { records_per_request: plan.shape.records_per_request * by, ..plan.shape },
            demands,
        )
    });
    input("groups", &|by| {
        most(middle, &Shape { groups: plan.shape.groups * by, ..plan.shape }, demands)
    });
    input("CPU demands", &|by| {
        let demands: Vec<f64> = demands.iter().map(|demand| demand * by).collect();
        most(middle, &plan.shape, &demands)
    });
    found.sort_by(|a, b| (b.2 - b.1).abs().total_cmp(&(a.2 - a.1).abs()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(records: f64, size: f64, batch: f64, groups: f64, truth: &[f64]) -> Observed {
        let mut run = Observed {
            name: String::new(),
            records,
            bytes: records * size,
            requests: records * size / batch,
            fetches: groups * 500.0,
            bytes_out: records * size * groups,
            cores: 0.0,
            disk_bytes: 0.0,
            compression: 1.0,
            end_to_end_p99_ms: None,
        };
        run.cores = predict(truth, &run.row());
        run
    }

    #[test]
    fn demands_are_found_from_runs_and_predict_others() {
        let truth = [1e-7, 4e-4, 2e-5, 1.5e-5, 2e-4, 0.01];
        let mut random = Random::new(6);
        let mut runs = Vec::new();
        for size in [100.0, 1000.0, 8000.0] {
            for batch in [1500.0, 16_000.0] {
                for groups in [0.0, 1.0, 2.0] {
                    let mut run = observed(3e7 / size, size, batch, groups, &truth);
                    run.cores *= 0.98 + random.below(40) as f64 / 1000.0;
                    runs.push(run);
                }
            }
        }
        let model = Model::fit(&runs);
        let held_out = observed(40_000.0, 700.0, 9_000.0, 1.0, &truth);
        let (middle, low, high) = model.predict(&held_out.row());
        assert!((middle / held_out.cores - 1.0).abs() < 0.05, "{middle} for {}", held_out.cores);
        assert!(low < held_out.cores && held_out.cores < high);
        assert!(model.typical < 0.03);
    }

    #[test]
    fn between_runs_the_line_is_taken() {
        let points = [(10.0, 100.0), (20.0, 150.0), (30.0, 160.0)];
        for (x, y) in [(5.0, 50.0), (10.0, 100.0), (15.0, 125.0), (30.0, 160.0), (40.0, 170.0)] {
            assert!((between(&points, x) - y).abs() < 1e-9, "{x}");
        }
    }

    #[test]
    fn guesses_are_read_and_drawn_between_their_ends() {
        let guess: Guess = "40k..50k..80k".parse().unwrap();
        let mut random = Random::new(1);
        let draws: Vec<f64> = (0..20_000).map(|_| guess.draw(&mut random)).collect();
        assert!(draws.iter().all(|value| (40_000.0..=80_000.0).contains(value)));
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean / (170_000.0 / 3.0) - 1.0).abs() < 0.01, "{mean}");
        for bad in ["", "5..4..6", "1..2", "x"] {
            assert!(bad.parse::<Guess>().is_err(), "{bad}");
        }
    }
}
