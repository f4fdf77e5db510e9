//! `loadgen sweep`: every combination of some options, in random order, with what each costs.

use crate::ending::{Ending, Failure};
use crate::judge::result::RunResult;
use crate::many::statistics::median;
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

/// `loadgen sweep`.
#[derive(clap::Args, Debug)]
pub(crate) struct SweepArgs {
    /// An option and its values: partitions=1,3,6,12; values that hold commas are told apart by ';'
    /// (repeatable: every combination is run)
    #[arg(long, required = true, value_name = "OPTION=V,V,..", help_heading = "Sweep")]
    pub(crate) vary: Vec<Vary>,
    /// Runs of each combination; medians are shown
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Sweep")]
    pub(crate) repeat: u32,
    #[command(flatten)]
    pub(crate) run: Args,
}

/// One option and the values it takes.
#[derive(Clone, Debug)]
pub(crate) struct Vary {
    pub(crate) option: String,
    pub(crate) values: Vec<String>,
}

impl FromStr for Vary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "expected OPTION=VALUE,VALUE,.. as partitions=1,3,6";
        let (option, values) = text.split_once('=').ok_or(usage)?;
        let separator = if values.contains(';') { ';' } else { ',' };
        let values: Vec<String> =
            values.split(separator).map(|value| value.trim().to_owned()).collect();
        if option.is_empty() || values.iter().any(String::is_empty) {
            return Err(usage.to_owned());
        }
        Ok(Self { option: option.trim_start_matches("--").to_owned(), values })
    }
}

/// Every combination, as (option, value) pairs.
fn combinations(vary: &[Vary]) -> Vec<Vec<(String, String)>> {
    let mut all = vec![Vec::new()];
    for one in vary {
        let longer = |sofar: &Vec<(String, String)>| {
            let sofar = sofar.clone();
            one.values.iter().map(move |value| {
                let mut longer = sofar.clone();
                longer.push((one.option.clone(), value.clone()));
                longer
            })
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// One combination and the medians of its runs.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Point {
    pub(crate) values: Vec<(String, String)>,
    pub(crate) runs: usize,
    pub(crate) acknowledged_per_s: f64,
    pub(crate) mb_per_s: f64,
    pub(crate) schedule_met: f64,
    pub(crate) produce_p50_ms: Option<f64>,
    pub(crate) produce_p99_ms: Option<f64>,
    pub(crate) end_to_end_p50_ms: Option<f64>,
    pub(crate) end_to_end_p99_ms: Option<f64>,
    pub(crate) max_lag_records: f64,
    pub(crate) compression_ratio: f64,
    pub(crate) broker_cpu_s_per_million_records: Option<f64>,
    pub(crate) broker_cpu_s_per_gb: Option<f64>,
    pub(crate) loadgen_cpu_s_per_million_records: f64,
    /// Of the worst run.
    pub(crate) verdict: String,
}

impl Point {
    fn of(values: Vec<(String, String)>, results: &[RunResult]) -> Self {
        let middle =
            |of: &dyn Fn(&RunResult) -> f64| median(&results.iter().map(of).collect::<Vec<_>>());
        let some = |of: &dyn Fn(&RunResult) -> Option<f64>| {
            let found: Vec<f64> = results.iter().filter_map(of).collect();
            (!found.is_empty()).then(|| median(&found))
        };
        let worst = results.iter().max_by_key(|result| result.exit_code);
        Self {
            values,
            runs: results.len(),
            acknowledged_per_s: middle(&|r| r.throughput.acknowledged_per_s),
            mb_per_s: middle(&RunResult::mb_per_s),
            schedule_met: middle(&|r| r.throughput.schedule_met),
            produce_p50_ms: some(&|r| r.latency.produce.p50_ms),
            produce_p99_ms: some(&|r| r.latency.produce.p99_ms),
            end_to_end_p50_ms: some(&|r| r.latency.end_to_end.p50_ms),
            end_to_end_p99_ms: some(&|r| r.latency.end_to_end.p99_ms),
            max_lag_records: middle(&|r| r.max_lag() as f64),
            compression_ratio: middle(&|r| r.batches.compression_ratio),
            broker_cpu_s_per_million_records: some(&|r| {
                r.resources.broker.as_ref().map(|used| used.cpu_s_per_million_records)
            }),
            broker_cpu_s_per_gb: some(&|r| {
                r.resources.broker.as_ref().map(|used| used.cpu_s_per_gb)
            }),
            loadgen_cpu_s_per_million_records: middle(&|r| {
                r.resources.loadgen.cpu_s_per_million_records
            }),
            verdict: worst.map(|result| result.verdict.clone()).unwrap_or_default(),
        }
    }
}

/// Runs all combinations `repeat` times, in an order of chance; an embedded broker is a fresh one each
/// time.
pub(crate) async fn runs_of(
    args: &Args,
    vary: &[Vary],
    repeat: u32,
    session: &Session,
    output: &Output,
) -> Result<Vec<(Vec<(String, String)>, Vec<RunResult>)>, Failure> {
    let all = combinations(vary);
    let flags = |values: &[(String, String)]| -> Vec<String> {
        values.iter().map(|(option, value)| format!("--{option}={value}")).collect()
    };
    // A wrong value is told before the first run, not in the middle of the night.
    let mut ready = Vec::new();
    for values in &all {
        let mut run = with_flags(args, &flags(values))?;
        run.quiet = true;
        ready.push(run);
    }
    let mut order: Vec<usize> = (0..all.len()).flat_map(|at| vec![at; repeat as usize]).collect();
    let mut random = Random::new(args.seed.unwrap_or(1));
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    let each = args.warmup.as_secs_f64() + args.duration.as_secs_f64() + 2.0;
    let _ = writeln!(
        std::io::stderr(),
        "{} combinations x {repeat}, in random order: about {:.0} minutes",
        all.len(),
        (each * order.len() as f64 / 60.0).ceil()
    );
    let mut found: Vec<(Vec<(String, String)>, Vec<RunResult>)> =
        all.into_iter().map(|values| (values, Vec::new())).collect();
    for (done, at) in order.iter().enumerate() {
        if session.is_interrupted() {
            break;
        }
        let (values, results) = &mut found[*at];
        let name: Vec<String> = values.iter().map(|(o, v)| format!("{o}-{v}")).collect();
        let name: String = name
            .join("_")
            .chars()
            .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .collect();
        let dir = output.part(&format!("{name}_{}", results.len() + 1))?;
        let target = Target::of(&ready[*at])?;
        let result = execute(&ready[*at], &target, session, &dir).await?;
        let shown: Vec<String> = values.iter().map(|(o, v)| format!("{o}={v}")).collect();
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
        let _ = writeln!(
            std::io::stderr(),
            "{:>3}/{} {:<50} {:>10}/s  p99 ms: produce {}, e2e {}  {}",
            done + 1,
            order.len(),
            shown.join(" "),
            thousands(result.throughput.acknowledged_per_s),
            ms(result.latency.produce.p99_ms),
            ms(result.latency.end_to_end.p99_ms),
            result.verdict
        );
        results.push(result);
    }
    found.retain(|(_, results)| !results.is_empty());
    Ok(found)
}

pub(crate) async fn run(args: SweepArgs, session: Session) -> Result<Ending, Failure> {
    let output = Output::make(args.run.output.as_deref(), "sweep")?;
    let found = runs_of(&args.run, &args.vary, args.repeat, &session, &output).await;
    let found = found.inspect_err(|_| output.abandon())?;
    let broken = found
        .iter()
        .flat_map(|(_, results)| results)
        .any(|r| Ending::of(r.exit_code) == Ending::RecordsLostOrRepeated);
    let load = found.first().map(|(_, results)| crate::report::text::load_line(&results[0]));
    let points: Vec<Point> =
        found.into_iter().map(|(values, results)| Point::of(values, &results)).collect();
    report(&args, &points, &load.unwrap_or_default(), &output)?;
    Ok(match session.is_interrupted() {
        true => Ending::Interrupted,
        false if broken => Ending::RecordsLostOrRepeated,
        false => Ending::Fine,
    })
}

fn report(args: &SweepArgs, points: &[Point], load: &str, output: &Output) -> Result<(), Failure> {
    let mut head: Vec<&str> = args.vary.iter().map(|vary| vary.option.as_str()).collect();
    head.extend([
        "acked/s",
        "MB/s",
        "met %",
        "produce p50",
        "produce p99",
        "e2e p50",
        "e2e p99",
        "max lag",
        "ratio",
        "broker CPU s/M",
        "broker CPU s/GB",
        "loadgen CPU s/M",
        "verdict",
    ]);
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
    let rows: Vec<Vec<String>> = points
        .iter()
        .map(|p| {
            let mut row: Vec<String> = p.values.iter().map(|(_, value)| value.clone()).collect();
            row.extend([
                thousands(p.acknowledged_per_s),
                format!("{:.1}", p.mb_per_s),
                format!("{:.1}", p.schedule_met * 100.0),
                ms(p.produce_p50_ms),
                ms(p.produce_p99_ms),
                ms(p.end_to_end_p50_ms),
                ms(p.end_to_end_p99_ms),
                thousands(p.max_lag_records),
                format!("{:.2}", p.compression_ratio),
                ms(p.broker_cpu_s_per_million_records),
                ms(p.broker_cpu_s_per_gb),
                format!("{:.3}", p.loadgen_cpu_s_per_million_records),
                p.verdict.clone(),
            ]);
            row
        })
        .collect();
    let csv: String =
        std::iter::once(head.join(","))
            .chain(rows.iter().map(|row| {
                row.iter().map(|cell| cell.replace(',', "")).collect::<Vec<_>>().join(",")
            }))
            .map(|line| line + "\n")
            .collect();
    output.write("sweep.csv", &csv)?;
    let json = serde_json::json!({
        "format": "weir-loadgen-sweep", "format_version": 1,
        "command": crate::run::environment::command(),
        "commit": crate::run::environment::commit(),
        "options": args.run,
        "points": points,
    });
    output.write("sweep.json", &pretty(&json))?;
    let charts = draw(&args.vary, points);
    let body = format!(
        "<h1>loadgen sweep</h1><p class=\"lead\">{}</p><p class=\"lead\">{} combinations x {}, in random order; an embedded broker is new for each. Latencies in ms, medians of the runs.</p>{charts}{}",
        crate::report::charts::escape(load),
        points.len(),
        args.repeat,
        html::table(&head, &rows)
    );
    output.write("report.html", &html::page("loadgen sweep", &body))?;
    let text = format!("### loadgen sweep\n\n{load}\n\n{}", markdown::table(&head, &rows));
    output.write("report.md", &text)?;
    crate::report::output::show(&text, output.dir());
    Ok(())
}

/// A chart per figure: over the first option's values, a line for each combination of the others.
fn draw(vary: &[Vary], points: &[Point]) -> String {
    let place = |value: &str| vary[0].values.iter().position(|v| v == value).unwrap_or(0) as f64;
    let numeric = vary[0].values.iter().all(|value| crate::load::number(value).is_some());
    let x = |value: &str| {
        if numeric { crate::load::number(value).unwrap_or(0.0) } else { place(value) }
    };
    let axis = if numeric {
        vary[0].option.clone()
    } else {
        format!("{}: {}", vary[0].option, vary[0].values.join(", "))
    };
    let mut out = String::new();
    let figures: [(&str, &str, fn(&Point) -> Option<f64>); 4] = [
        ("Records acknowledged per second", "records/s", |p| Some(p.acknowledged_per_s)),
        ("End-to-end p99", "ms", |p| p.end_to_end_p99_ms),
        ("Produce p99", "ms", |p| p.produce_p99_ms),
        ("Broker CPU per million records", "s", |p| p.broker_cpu_s_per_million_records),
    ];
    for (title, unit, of) in figures {
        let mut drawn: Vec<Line> = Vec::new();
        for point in points {
            let others: Vec<String> =
                point.values[1..].iter().map(|(o, v)| format!("{o}={v}")).collect();
            let name = if others.is_empty() { unit.to_owned() } else { others.join(" ") };
            let Some(value) = of(point) else { continue };
            let at = (x(&point.values[0].1), value);
            match drawn.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(at),
                None => drawn.push(Line::new(name, vec![at])),
            }
        }
        drawn.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        if !drawn.is_empty() {
            out += &lines(&Chart::new(title, &axis, unit), &drawn);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_all_and_each_once() {
        let vary: Vec<Vary> = ["partitions=1,3", "--acks=0,1,all", "key=none;zipf:10,1.1"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let all = combinations(&vary);
        assert_eq!(all.len(), 12);
        let mut different = all.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), 12);
        assert_eq!(all[1][2], ("key".to_owned(), "zipf:10,1.1".to_owned()));
        for bad in ["partitions", "partitions=", "=1,2", "a=1,,2"] {
            assert!(bad.parse::<Vary>().is_err(), "{bad}");
        }
    }
}
