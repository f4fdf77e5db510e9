//! `loadgen search`: the highest rate that a cluster sustains under an objective.
//!
//! Doubling until it fails, bisection, then the highest rate that passed is confirmed several times.
//! What comes out is an interval, never the mean of an oscillation. A trial in which the generator was
//! the bottleneck says nothing about the cluster, and is told as that.

use crate::ending::{Ending, Failure};
use crate::judge::result::RunResult;
use crate::load::{Rate, number, seconds};
use crate::options::args::Args;
use crate::options::flags::with_flags;
use crate::report::charts::{Chart, Line, Scale, lines};
use crate::report::output::{Output, pretty};
use crate::report::words::thousands;
use crate::report::{html, markdown};
use crate::run::execute::execute;
use crate::run::session::Session;
use crate::run::target::Target;
use std::io::Write as _;

/// Without an objective of the user's.
const DEFAULT_OBJECTIVE: &str = "e2e.p99<=25ms";
/// Looks at the lag in each trial, at least.
const LAG_SAMPLES: u32 = 20;
/// Below this rate nothing is looked for.
const RATE_MIN: f64 = 10.0;

/// `loadgen search`.
#[derive(clap::Args, Debug)]
pub(crate) struct SearchArgs {
    /// Rate to begin with, in records per second
    #[arg(long, default_value = "10k", value_parser = rate, help_heading = "Search")]
    from: f64,
    /// Rate not to go beyond
    #[arg(long, default_value = "100M", value_parser = rate, help_heading = "Search")]
    max: f64,
    /// How near the passing and the failing rate must come, in percent
    #[arg(long, default_value = "5%", value_parser = percent, help_heading = "Search")]
    tolerance: f64,
    /// How often the result must pass again
    #[arg(long, default_value_t = 3, help_heading = "Search")]
    confirm: u32,
    /// How long each confirmation measures [default: as --duration]
    #[arg(long, value_parser = duration, help_heading = "Search")]
    confirm_duration: Option<f64>,
    #[command(flatten)]
    pub(crate) run: Args,
}

fn rate(text: &str) -> Result<f64, String> {
    number(text).filter(|rate| *rate >= 1.0).ok_or_else(|| "expected records per second".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let value = number(text.strip_suffix('%').unwrap_or(text)).map(|percent| percent / 100.0);
    value.filter(|share| (0.001..=1.0).contains(share)).ok_or_else(|| "expected percent".to_owned())
}

fn duration(text: &str) -> Result<f64, String> {
    seconds(text).ok().filter(|s| *s > 0.0).ok_or_else(|| "expected a duration, as 30s".to_owned())
}

/// What one trial said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Said {
    Pass,
    Fail,
    /// The generator could not offer it.
    Invalid,
}

/// One trial.
#[derive(Clone, Debug, serde::Serialize)]
struct Trial {
    number: usize,
    phase: &'static str,
    rate: f64,
    said: Said,
    why: String,
    achieved_per_s: f64,
    produce_p99_ms: Option<f64>,
    end_to_end_p99_ms: Option<f64>,
    max_lag_records: i64,
    broker_cpu_s_per_million_records: Option<f64>,
}

/// Whether a run kept its objectives, and if not, why.
pub(crate) fn judge(result: &RunResult) -> (Said, String) {
    if result.bottleneck.as_deref() == Some("generator") {
        return (Said::Invalid, "the generator was the bottleneck".to_owned());
    }
    let verified = &result.verification;
    if verified.lost + verified.duplicated + verified.out_of_order + verified.damaged > 0 {
        return (Said::Fail, "records lost, repeated, reordered or damaged".to_owned());
    }
    if let Some(why) = result.invalid.first() {
        return (Said::Fail, why.clone());
    }
    if let Some(missed) = result.objectives.iter().find(|objective| objective.outcome != "PASS") {
        let found = missed.found.map_or("nothing".to_owned(), |value| format!("{value:.3}"));
        return (Said::Fail, format!("{}: {} (found {found})", missed.objective, missed.outcome));
    }
    if let Some(group) = result.lag.groups.iter().find(|group| group.trend == "growing") {
        return (Said::Fail, format!("the lag of group {} grew", group.group));
    }
    (Said::Pass, String::new())
}

/// Where the search stands: pure, so that it is tested without a cluster.
#[derive(Debug)]
struct Search {
    passes: Vec<f64>,
    /// Lowest rate that failed or could not be offered.
    failed: Option<(f64, Said)>,
    tolerance: f64,
    max: f64,
    from: f64,
}

/// Rates are round: what is told is what was offered.
fn round(rate: f64) -> f64 {
    let step = if rate >= 10_000.0 { 100.0 } else { 1.0 };
    (rate / step).round() * step
}

impl Search {
    fn new(from: f64, max: f64, tolerance: f64) -> Self {
        Self { passes: Vec::new(), failed: None, tolerance, max, from: from.min(max) }
    }

    /// The highest rate that passed, below whatever failed.
    fn passed(&self) -> Option<f64> {
        let limit = self.failed.map_or(f64::INFINITY, |(failed, _)| failed);
        self.passes.iter().copied().filter(|rate| *rate < limit).reduce(f64::max)
    }

    /// The rate to try next, or `None` if the bracket is narrow enough.
    fn rate(&self) -> Option<f64> {
        match (self.passed(), self.failed) {
            (None, None) => Some(self.from),
            (Some(passed), None) if passed >= self.max => None,
            (Some(passed), None) => Some(round(passed * 2.0).min(self.max)),
            (None, Some((failed, _))) if failed <= RATE_MIN => None,
            (None, Some((failed, _))) => Some(round(failed / 2.0).max(RATE_MIN)),
            (Some(passed), Some((failed, _))) => {
                // The middle of rates is the geometric one.
                let middle = round((passed * failed).sqrt());
                let narrow = failed / passed <= 1.0 + self.tolerance;
                (!narrow && passed < middle && middle < failed).then_some(middle)
            }
        }
    }

    fn learn(&mut self, rate: f64, said: Said) {
        if said == Said::Pass {
            self.passes.push(rate);
            // A pass above a failure: the failure was noise, or this is; confirmation will tell.
            self.failed = self.failed.filter(|(failed, _)| *failed > rate);
        } else if self.failed.is_none_or(|(failed, _)| rate < failed) {
            self.failed = Some((rate, said));
        }
    }
}

struct Searching<'s> {
    args: &'s SearchArgs,
    session: &'s Session,
    output: &'s Output,
    trials: Vec<Trial>,
    last: Option<RunResult>,
}

impl Searching<'_> {
    async fn trial(&mut self, rate: f64, phase: &'static str) -> Result<Said, Failure> {
        let mut run = self.args.run.clone();
        run.rate = Rate::Records(rate);
        if let (Some(long), "confirm") = (self.args.confirm_duration, phase) {
            run.duration = std::time::Duration::from_secs_f64(long);
        }
        if run.assert.is_empty() && run.consumer_count() > 0 {
            run.assert.push(DEFAULT_OBJECTIVE.parse().expect("an objective"));
        }
        run.quiet = true;
        // Whether lag grows is told by its slope, which wants samples.
        run.lag_interval = run.lag_interval.min(run.duration / LAG_SAMPLES);
        let number = self.trials.len() + 1;
        let dir = self.output.part(&format!("trial-{number:02}"))?;
        // A broker of its own for each trial: none inherits what another left behind.
        let target = Target::of(&run)?;
        let result = execute(&run, &target, self.session, &dir).await?;
        let (said, why) = judge(&result);
        let unclear = result.objectives.iter().find(|o| o.outcome == "INCONCLUSIVE");
        if let (Some(unclear), true) = (unclear, result.invalid.is_empty()) {
            return Err(Failure {
                ending: Ending::Inconclusive,
                why: format!(
                    "{} cannot be judged at {rate}/s over {:.1} s, for there are too few records: raise \
                     --duration or --from, or ask for a lower percentile",
                    unclear.objective, result.measured_s
                ),
            });
        }
        let trial = Trial {
            number,
            phase,
            rate,
            said,
            why,
            achieved_per_s: result.throughput.acknowledged_per_s,
            produce_p99_ms: result.latency.produce.p99_ms,
            end_to_end_p99_ms: result.latency.end_to_end.p99_ms,
            max_lag_records: result.max_lag(),
            broker_cpu_s_per_million_records: result
                .resources
                .broker
                .as_ref()
                .map(|used| used.cpu_s_per_million_records),
        };
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
        let _ = writeln!(
            std::io::stderr(),
            "{phase:<8} {:>12}/s  {said:?}  p99 ms: produce {}, e2e {}  lag {}  {}",
            thousands(rate),
            ms(trial.produce_p99_ms),
            ms(trial.end_to_end_p99_ms),
            trial.max_lag_records,
            trial.why
        );
        self.trials.push(trial);
        self.last = Some(result);
        Ok(said)
    }
}

pub(crate) async fn run(args: SearchArgs, session: Session) -> Result<Ending, Failure> {
    if args.run.rate_profile != crate::load::schedule::Profile::Constant {
        return Err(Failure::usage("search looks for a constant rate: leave out --rate-profile"));
    }
    // Flags that do not fit together are told before the first trial.
    with_flags(&args.run, &[])?;
    let output = Output::make(args.run.output.as_deref(), "search")?;
    let mut search = Search::new(args.from, args.max, args.tolerance);
    let mut searching = Searching {
        args: &args,
        session: &session,
        output: &output,
        trials: Vec::new(),
        last: None,
    };
    let mut confirmed = None;
    loop {
        while let Some(rate) = search.rate() {
            let both = search.passed().is_some() && search.failed.is_some();
            let phase = if both { "bisect" } else { "bracket" };
            let said = searching.trial(rate, phase).await?;
            search.learn(rate, said);
            if session.is_interrupted() {
                break;
            }
        }
        let Some(rate) = search.passed() else { break };
        let mut passes = 0;
        while passes < args.confirm && !session.is_interrupted() {
            let said = searching.trial(rate, "confirm").await?;
            if said != Said::Pass {
                // The bracket is narrowed again below it.
                search.learn(rate, said);
                break;
            }
            passes += 1;
        }
        if passes >= args.confirm {
            confirmed = Some(rate);
        }
        if confirmed.is_some() || session.is_interrupted() {
            break;
        }
    }
    report(&args, &searching, &search, confirmed, &output)?;
    Ok(match confirmed {
        _ if session.is_interrupted() => Ending::Interrupted,
        Some(_) => Ending::Fine,
        None => Ending::ObjectiveMissed,
    })
}

fn report(
    args: &SearchArgs,
    searching: &Searching<'_>,
    search: &Search,
    confirmed: Option<f64>,
    output: &Output,
) -> Result<(), Failure> {
    let trials = &searching.trials;
    let objectives: Vec<String> = if args.run.assert.is_empty() {
        vec![DEFAULT_OBJECTIVE.to_owned()]
    } else {
        args.run.assert.iter().map(ToString::to_string).collect()
    };
    let above = search.failed.map(|(rate, said)| match said {
        Said::Invalid => {
            format!("the generator could not offer {}/s: the cluster may do more", thousands(rate))
        }
        _ => format!("{}/s failed", thousands(rate)),
    });
    let headline = match confirmed {
        Some(rate) => format!(
            "{} records/s sustained ({} confirmations passed); {}",
            thousands(rate),
            args.confirm,
            above.clone().unwrap_or_else(|| "nothing above it was tried".to_owned())
        ),
        None => format!("no rate was confirmed under {}", objectives.join(", ")),
    };
    let lowest_fail = trials
        .iter()
        .filter(|t| t.said == Said::Fail)
        .map(|t| t.rate)
        .fold(f64::INFINITY, f64::min);
    let mixed = trials.iter().any(|t| t.said == Said::Pass && t.rate > lowest_fail);
    let note =
        if mixed { " A rate passed above one that failed: the machine is noisy." } else { "" };
    let head =
        ["trial", "phase", "rate", "said", "acked/s", "produce p99 ms", "e2e p99 ms", "lag", "why"];
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
    let rows: Vec<Vec<String>> = trials
        .iter()
        .map(|t| {
            vec![
                t.number.to_string(),
                t.phase.to_owned(),
                thousands(t.rate),
                format!("{:?}", t.said),
                thousands(t.achieved_per_s),
                ms(t.produce_p99_ms),
                ms(t.end_to_end_p99_ms),
                t.max_lag_records.to_string(),
                t.why.clone(),
            ]
        })
        .collect();
    let mut chart =
        Chart::new("The knee: latency by offered rate", "records/s offered (log)", "p99 ms (log)");
    (chart.x_scale, chart.y_scale) = (Scale::Log, Scale::Log);
    let points = |said: Said| -> Vec<(f64, f64)> {
        let matching = trials.iter().filter(|t| t.said == said);
        matching.filter_map(|t| Some((t.rate, t.end_to_end_p99_ms.or(t.produce_p99_ms)?))).collect()
    };
    let drawn = [
        Line::new("passed", points(Said::Pass)).dots(),
        Line::new("failed", points(Said::Fail)).dots(),
        Line::new("generator was the bottleneck", points(Said::Invalid)).dots(),
    ];
    let shares: Vec<(&str, String)> = confirmed.map_or_else(Vec::new, |rate| {
        vec![
            ("records/s sustained", thousands(rate)),
            ("80 % of it, to run at", thousands(rate * 0.8)),
            ("half of it", thousands(rate * 0.5)),
        ]
    });
    let load = searching.last.as_ref().map(crate::report::text::load_line).unwrap_or_default();
    let body = format!(
        "<h1>loadgen search</h1><p class=\"lead\">objective: {}; lag not growing; nothing lost</p><p class=\"lead\">load: {}</p>{}{}{}{}<p>Each trial has a directory of its own with everything that was measured. Rates between the confirmed and the failed one are not known.</p>",
        crate::report::charts::escape(&objectives.join(", ")),
        crate::report::charts::escape(&load),
        html::verdict(confirmed.is_some(), &format!("{headline}.{note}")),
        html::cards(&shares),
        lines(&chart, &drawn),
        html::table(&head, &rows)
    );
    let json = serde_json::json!({
        "format": "weir-loadgen-search", "format_version": 1,
        "command": crate::run::environment::command(),
        "commit": crate::run::environment::commit(),
        "objectives": objectives,
        "confirmed_rate": confirmed,
        "lowest_failed_rate": search.failed.map(|(rate, _)| rate),
        "bounded_by_generator": search.failed.is_some_and(|(_, said)| said == Said::Invalid),
        "noisy": mixed,
        "options": args.run,
        "trials": trials,
    });
    output.write("search.json", &pretty(&json))?;
    output.write("report.html", &html::page("loadgen search", &body))?;
    let text =
        format!("### loadgen search\n\n{headline}.{note}\n\n{}", markdown::table(&head, &rows));
    output.write("report.md", &text)?;
    crate::report::output::show(&format!("{headline}.{note}\n"), output.dir());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster whose limit is known.
    fn find(limit: f64, generator: f64, from: f64) -> (Search, u32) {
        let mut search = Search::new(from, 1e7, 0.05);
        let mut trials = 0;
        while let Some(rate) = search.rate() {
            let said = match rate {
                rate if rate > generator => Said::Invalid,
                rate if rate > limit => Said::Fail,
                _ => Said::Pass,
            };
            search.learn(rate, said);
            trials += 1;
            assert!(trials < 60);
        }
        (search, trials)
    }

    #[test]
    fn the_limit_is_bracketed_from_above_and_below() {
        for (limit, from) in [(73_000.0, 10_000.0), (900.0, 10_000.0), (2_500_000.0, 1_000.0)] {
            let (search, trials) = find(limit, f64::INFINITY, from);
            let (passed, (failed, said)) = (search.passed().unwrap(), search.failed.unwrap());
            assert!(passed <= limit && limit < failed && failed / passed <= 1.05, "{search:?}");
            assert_eq!(said, Said::Fail);
            assert!(trials <= 20, "{trials}");
        }
    }

    #[test]
    fn a_rate_that_is_not_confirmed_is_left_for_the_next_lower_one() {
        let (mut search, _) = find(73_000.0, f64::INFINITY, 10_000.0);
        let passed = search.passed().unwrap();
        search.learn(passed, Said::Fail);
        let lower = search.passed().unwrap();
        assert!(lower < passed && search.failed.unwrap().0 == passed);
        assert!(search.rate().is_none_or(|rate| lower < rate && rate < passed));
    }

    #[test]
    fn a_limit_of_the_generator_is_told_as_that() {
        let (search, _) = find(1e9, 50_000.0, 10_000.0);
        assert_eq!(search.failed.unwrap().1, Said::Invalid);
        let (search, _) = find(5.0, f64::INFINITY, 10_000.0);
        assert_eq!(search.passed(), None);
        let (search, _) = find(1e9, f64::INFINITY, 10_000.0);
        assert_eq!((search.passed(), search.failed), (Some(1e7), None));
    }
}
