//! `loadgen compare A B`: what really differs, on a machine that is noisy.
//!
//! A replicate is a run, never a record: records of one run depend on each other. Runs are interleaved
//! (A B B A ..), so that drift hits both alike; each round gives a ratio, and the median of ratios its
//! interval by bootstrap. A difference is claimed only if that interval leaves out 1 and the rank test,
//! corrected for being asked of many figures, agrees. A against itself is shown beside it.

use crate::ending::{Ending, Failure};
use crate::judge::result::RunResult;
use crate::many::statistics::{bootstrap, holm, mann_whitney, median};
use crate::options::args::Args;
use crate::options::flags::with_flags;
use crate::options::scenario;
use crate::report::output::{Output, pretty};
use crate::report::{html, markdown};
use crate::run::execute::execute;
use crate::run::session::Session;
use crate::run::target::Target;
use std::io::Write as _;

/// With fewer rounds no verdict is given: the rank test, asked of eight figures, could not reach 5 %.
const ROUNDS_MIN: u32 = 6;
const SIGNIFICANT: f64 = 0.05;

/// `loadgen compare`.
#[derive(clap::Args, Debug)]
pub(crate) struct CompareArgs {
    /// Flags of A beyond the common ones, in quotes, or a scenario file; '' for none
    #[arg(allow_hyphen_values = true)]
    a: String,
    /// Flags of B, or a scenario file
    #[arg(allow_hyphen_values = true)]
    b: String,
    /// Runs of each, interleaved
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=200), help_heading = "Comparison")]
    rounds: u32,
    /// B may be worse by so much before it is a regression (exit code 6), in percent
    #[arg(long, default_value_t = 10.0, help_heading = "Comparison")]
    tolerance: f64,
    #[command(flatten)]
    pub(crate) run: Args,
}

/// A figure that is compared.
struct Metric {
    name: &'static str,
    of: fn(&RunResult) -> Option<f64>,
    more_is_better: bool,
}

const METRICS: [Metric; 8] = [
    Metric {
        name: "acknowledged records/s",
        of: |r| Some(r.throughput.acknowledged_per_s),
        more_is_better: true,
    },
    Metric { name: "produce p50 ms", of: |r| r.latency.produce.p50_ms, more_is_better: false },
    Metric { name: "produce p99 ms", of: |r| r.latency.produce.p99_ms, more_is_better: false },
    Metric {
        name: "end-to-end p50 ms",
        of: |r| r.latency.end_to_end.p50_ms,
        more_is_better: false,
    },
    Metric {
        name: "end-to-end p99 ms",
        of: |r| r.latency.end_to_end.p99_ms,
        more_is_better: false,
    },
    Metric {
        name: "end-to-end p99.9 ms",
        of: |r| r.latency.end_to_end.p99_9_ms,
        more_is_better: false,
    },
    Metric {
        name: "broker CPU s/million",
        of: |r| r.resources.broker.as_ref().map(|used| used.cpu_s_per_million_records),
        more_is_better: false,
    },
    Metric {
        name: "loadgen CPU s/million",
        of: |r| Some(r.resources.loadgen.cpu_s_per_million_records),
        more_is_better: false,
    },
];

/// One line of the comparison.
#[derive(Clone, Debug, serde::Serialize)]
struct Compared {
    metric: String,
    a: f64,
    b: f64,
    /// B over A: median of the rounds' ratios, and its 95 % interval.
    ratio: f64,
    low: f64,
    high: f64,
    /// A's odd runs over its even ones: what nothing but noise does.
    noise: f64,
    p: f64,
    /// "B better", "B worse", "~" (not told apart) or "too few rounds".
    verdict: String,
    regression: bool,
}

/// Compares one figure over the rounds; `None` if a run did not have it.
fn compare(metric: &Metric, a: &[f64], b: &[f64], tolerance: f64, p: f64) -> Compared {
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| (b / a).ln()).collect();
    let (low, high) = bootstrap(&ratios, 1, median);
    let (ratio, low, high) = (median(&ratios).exp(), low.exp(), high.exp());
    let noise: Vec<f64> = a.chunks_exact(2).map(|pair| (pair[1] / pair[0]).ln()).collect();
    let differs = p < SIGNIFICANT && (low > 1.0 || high < 1.0);
    let worse = if metric.more_is_better { ratio < 1.0 } else { ratio > 1.0 };
    let verdict = match (a.len() < ROUNDS_MIN as usize, differs) {
        (true, _) => "too few rounds",
        (false, false) => "~",
        (false, true) if worse => "B worse",
        (false, true) => "B better",
    };
    let beyond = if metric.more_is_better { high < 1.0 - tolerance } else { low > 1.0 + tolerance };
    Compared {
        metric: metric.name.to_owned(),
        a: median(a),
        b: median(b),
        ratio,
        low,
        high,
        noise: if noise.is_empty() { 1.0 } else { median(&noise).exp() },
        p,
        verdict: verdict.to_owned(),
        regression: differs && beyond && a.len() >= ROUNDS_MIN as usize,
    }
}

fn compare_all(a: &[RunResult], b: &[RunResult], tolerance: f64) -> Vec<Compared> {
    let values = |runs: &[RunResult], metric: &Metric| -> Option<Vec<f64>> {
        let values: Option<Vec<f64>> = runs.iter().map(metric.of).collect();
        values.filter(|values| values.iter().all(|value| *value > 0.0))
    };
    let found: Vec<(&Metric, Vec<f64>, Vec<f64>)> = METRICS
        .iter()
        .filter_map(|metric| Some((metric, values(a, metric)?, values(b, metric)?)))
        .collect();
    let raw: Vec<f64> = found.iter().map(|(_, a, b)| mann_whitney(a, b)).collect();
    let corrected = holm(&raw);
    found
        .iter()
        .zip(corrected)
        .map(|((metric, a, b), p)| compare(metric, a, b, tolerance, p))
        .collect()
}

fn side(base: &Args, text: &str) -> Result<Args, Failure> {
    let is_file = text.ends_with(".toml");
    let flags: Vec<String> = if is_file {
        scenario::flags_of_file(text).map_err(Failure::usage)?
    } else {
        text.split_whitespace().map(str::to_owned).collect()
    };
    let mut args = with_flags(base, &flags)?;
    args.quiet = true;
    Ok(args)
}

pub(crate) async fn run(args: CompareArgs, session: Session) -> Result<Ending, Failure> {
    let sides = [side(&args.run, &args.a)?, side(&args.run, &args.b)?];
    let output = Output::make(args.run.output.as_deref(), "compare")?;
    let mut found: [Vec<RunResult>; 2] = [Vec::new(), Vec::new()];
    for round in 0..args.rounds as usize {
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            if session.is_interrupted() {
                break;
            }
            let dir = output.part(&format!("{}-{:02}", ["a", "b"][at], round + 1))?;
            let target = Target::of(&sides[at])?;
            let result = execute(&sides[at], &target, &session, &dir).await?;
            let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
            let _ = writeln!(
                std::io::stderr(),
                "round {:>2} {}: {:>10.0}/s  p99 ms: produce {}, e2e {}  {}",
                round + 1,
                ["A", "B"][at],
                result.throughput.acknowledged_per_s,
                ms(result.latency.produce.p99_ms),
                ms(result.latency.end_to_end.p99_ms),
                result.verdict
            );
            found[at].push(result);
        }
    }
    let rounds = found[0].len().min(found[1].len());
    found.iter_mut().for_each(|runs| runs.truncate(rounds));
    if rounds == 0 {
        return Ok(Ending::Interrupted);
    }
    let compared = compare_all(&found[0], &found[1], args.tolerance / 100.0);
    report(&args, &found, &compared, &output)?;
    let broken =
        found.iter().flatten().any(|r| Ending::of(r.exit_code) == Ending::RecordsLostOrRepeated);
    Ok(if session.is_interrupted() {
        Ending::Interrupted
    } else if broken {
        Ending::RecordsLostOrRepeated
    } else if compared.iter().any(|line| line.regression) {
        Ending::Regression
    } else {
        Ending::Fine
    })
}

/// Options and topic settings that the two sides do not share.
fn differences(a: &RunResult, b: &RunResult) -> Vec<String> {
    let mut lines = Vec::new();
    for name in a.options.keys().filter(|name| *name != "seed") {
        if a.option(name) != b.option(name) {
            lines.push(format!("{name}: {} against {}", a.option(name), b.option(name)));
        }
    }
    for (name, value) in &a.topic_settings {
        let other = b.topic_settings.get(name).map_or("(not told)", String::as_str);
        if other != value {
            lines.push(format!("topic setting {name}: {value} against {other}"));
        }
    }
    lines
}

fn notes(found: &[Vec<RunResult>; 2], differ: &[String], invalid: usize) -> Vec<String> {
    let mut notes = vec![format!(
        "{} rounds, interleaved A B B A; a difference is claimed if the interval leaves out 1 and p < \
         {SIGNIFICANT} after Holm's correction. A/A is A's odd runs against its even ones: noise alone.",
        found[0].len()
    )];
    notes.push(if differ.is_empty() {
        "A and B are the same options and settings: every difference is noise.".to_owned()
    } else {
        format!("They differ in: {}.", differ.join("; "))
    });
    let durable = |runs: &[RunResult]| {
        let setting = |name: &str| runs[0].topic_settings.get(name).cloned().unwrap_or_default();
        (
            runs[0].option("acks"),
            setting("flush.messages"),
            setting("flush.ms"),
            setting("weir.durability"),
        )
    };
    if durable(&found[0]) != durable(&found[1]) {
        notes.push(
            "THEY DO NOT PROMISE THE SAME DURABILITY: this is not like against like.".to_owned(),
        );
    }
    if invalid > 0 {
        notes.push(format!("{invalid} of the runs are invalid; see theirs."));
    }
    notes
}

fn report(
    args: &CompareArgs,
    found: &[Vec<RunResult>; 2],
    compared: &[Compared],
    output: &Output,
) -> Result<(), Failure> {
    let head = ["", "A", "B", "B/A", "95 %", "A/A", "p (Holm)", ""];
    let rows: Vec<Vec<String>> = compared
        .iter()
        .map(|c| {
            vec![
                c.metric.clone(),
                format!("{:.3}", c.a),
                format!("{:.3}", c.b),
                format!("{:.3}", c.ratio),
                format!("{:.3} to {:.3}", c.low, c.high),
                format!("{:.3}", c.noise),
                format!("{:.3}", c.p),
                format!("{}{}", c.verdict, if c.regression { " (regression)" } else { "" }),
            ]
        })
        .collect();
    let differ = differences(&found[0][0], &found[1][0]);
    let invalid = found.iter().flatten().filter(|result| !result.invalid.is_empty()).count();
    let notes = notes(found, &differ, invalid);
    let json = serde_json::json!({
        "format": "weir-loadgen-compare", "format_version": 1,
        "command": crate::run::environment::command(),
        "commit": crate::run::environment::commit(),
        "a": args.a, "b": args.b, "rounds": found[0].len(),
        "differences": differ, "invalid_runs": invalid, "compared": compared,
    });
    output.write("compare.json", &pretty(&json))?;
    let items: String = notes
        .iter()
        .map(|note| format!("<li>{}</li>", crate::report::charts::escape(note)))
        .collect();
    let body = format!(
        "<h1>loadgen compare</h1><p class=\"lead\">A: <code>{}</code></p><p class=\"lead\">B: <code>{}</code></p>{}<ul>{items}</ul>",
        crate::report::charts::escape(&args.a),
        crate::report::charts::escape(&args.b),
        html::table(&head, &rows)
    );
    output.write("report.html", &html::page("loadgen compare", &body))?;
    let text = format!(
        "### loadgen compare\n\nA: `{}`, B: `{}`\n\n{}\n{}\n",
        args.a,
        args.b,
        markdown::table(&head, &rows),
        notes.iter().map(|note| format!("- {note}")).collect::<Vec<_>>().join("\n")
    );
    output.write("report.md", &text)?;
    crate::report::output::show(&text, output.dir());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::random::Random;

    fn noisy(random: &mut Random, level: f64) -> f64 {
        level * (0.95 + random.below(1000) as f64 / 10_000.0)
    }

    #[test]
    fn real_differences_are_told_and_noise_is_not() {
        let mut random = Random::new(3);
        let (mut false_claims, mut missed) = (0, 0);
        for _ in 0..200 {
            let draw = |random: &mut Random, level: f64| -> Vec<f64> {
                (0..8).map(|_| noisy(random, level)).collect()
            };
            let (a, same, slower) =
                (draw(&mut random, 10.0), draw(&mut random, 10.0), draw(&mut random, 12.0));
            let metric = &METRICS[2];
            let verdict = |b: &[f64]| compare(metric, &a, b, 0.1, mann_whitney(&a, b));
            false_claims += u32::from(verdict(&same).verdict != "~");
            let found = verdict(&slower);
            missed += u32::from(found.verdict != "B worse");
            assert!(found.low <= found.ratio && found.ratio <= found.high);
        }
        assert!(false_claims <= 14, "{false_claims} of 200 claims about nothing");
        assert!(missed <= 2, "{missed} of 200 differences of a fifth missed");
    }

    #[test]
    fn few_rounds_give_no_verdict_and_more_is_better_where_it_is() {
        let few = compare(&METRICS[2], &[1.0; 5], &[9.0; 5], 0.1, 0.01);
        assert_eq!(few.verdict, "too few rounds");
        let (a, b) = ([10.0, 10.1, 10.2, 10.3, 10.4, 10.5], [8.0, 8.1, 8.2, 8.3, 8.4, 8.5]);
        let slower = compare(&METRICS[0], &a, &b, 0.1, mann_whitney(&a, &b));
        assert_eq!((slower.verdict.as_str(), slower.regression), ("B worse", true));
    }
}
