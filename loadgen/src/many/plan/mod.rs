//! `loadgen plan`: how many brokers, cores, disks and partitions a load needs, from measurements of this
//! machine and a model that is checked against a run it has not seen.
//!
//! Broker CPU is taken as a sum of service demands: records, bytes in, produce requests, fetches, bytes
//! out, and an idle share. The demands are fitted without negative ones (NNLS) to runs that vary these
//! apart from each other; intervals come from fitting resampled runs again. Latency is read from the
//! measured knee, not from a queueing formula.

mod model;
mod report;

use crate::ending::{Ending, Failure};
use crate::judge::result::RunResult;
use crate::load::Rate;
use crate::many::search::{self, Said};
use crate::many::statistics::Usl;
use crate::options::flags::with_flags;
use crate::report::output::Output;
use crate::report::words::thousands;
use crate::run::execute::execute;
use crate::run::session::Session;
use crate::run::target::Target;
pub(crate) use model::PlanArgs;
use model::{CHECK_SHARE, Checked, Model, Observed, Shape, predict};
use report::{Plan, report};
use std::io::Write as _;

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

#[cfg(test)]
mod tests {
    use super::model::Guess;
    use super::*;
    use runtime::random::Random;

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
