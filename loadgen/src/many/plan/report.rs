//! What a plan comes to, in text, HTML and JSON.

use super::model::{
    Checked, DEMANDS, DRAWS, Inputs, MISS_MAX, Model, Need, Observed, PARTITIONS_PER_CORE_MIN,
    PlanArgs, Shape, brokers, needs, predict,
};
use crate::ending::{Ending, Failure};
use crate::many::statistics::{Usl, quantile};
use crate::report::charts::{Chart, Line, lines};
use crate::report::output::{Output, pretty};
use crate::report::words::thousands;
use crate::report::{html, markdown};
use runtime::random::Random;

pub(super) struct Plan<'p> {
    pub(super) args: &'p PlanArgs,
    pub(super) knee: f64,
    pub(super) ladder: Vec<(f64, f64, bool)>,
    pub(super) runs: Vec<Observed>,
    pub(super) model: Model,
    pub(super) shape: Shape,
    pub(super) checked: Checked,
    pub(super) anchor: f64,
    pub(super) usl: Option<Usl>,
    pub(super) scaling: Vec<(f64, f64)>,
    pub(super) output: &'p Output,
}

/// What the plan comes to.
pub(super) struct Sized {
    pub(super) needed: Vec<Need>,
    pub(super) tornado: Vec<(String, f64, f64)>,
    pub(super) brokers: f64,
    pub(super) binding: &'static str,
    /// Of the draws: a tenth, a half, nine tenths.
    pub(super) spread: [f64; 3],
    /// Part of the draws in which the same thing binds.
    pub(super) same: f64,
    pub(super) peak: f64,
    pub(super) partitions: f64,
}

pub(super) fn size(plan: &Plan<'_>) -> Sized {
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
    let spread = [0.1, 0.5, 0.9].map(|part| quantile(&counts, part));
    let same = drawn.iter().filter(|(_, name)| *name == binding).count() as f64 / DRAWS as f64;
    let tornado = sensitivity(plan, middle);
    let peak =
        args.target_rate.mid * args.peak_factor.mid * (1.0 + args.growth / 100.0).powf(args.months);
    let replicas = needed[6].amount;
    let partitions = (replicas / args.copies).ceil().max(count * 1.0);
    let partitions = (partitions / count).ceil() * count;
    Sized { needed, tornado, brokers: count, binding, spread, same, peak, partitions }
}

/// A heading for each column, and the rows.
pub(super) struct Table {
    pub(super) head: &'static [&'static str],
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn html(&self) -> String {
        html::table(self.head, &self.rows)
    }

    pub(super) fn markdown(&self) -> String {
        markdown::table(self.head, &self.rows)
    }
}

pub(super) fn report(plan: &Plan<'_>) -> Result<Ending, Failure> {
    let sized = size(plan);
    let good = plan.checked.miss.abs() <= MISS_MAX;
    let (first, summary, notes) = (verdict(plan), summary(plan, &sized), notes(plan, &sized));
    let tables = [
        needs_table(&sized),
        tornado_table(&sized),
        check_table(plan),
        demands_table(plan),
        runs_table(plan),
    ];
    let body = page(plan, &sized, &tables, (&first, &summary, &notes));
    plan.output.write("report.html", &html::page("loadgen plan", &body))?;
    let shown: Vec<String> = tables.iter().map(Table::markdown).collect();
    let notes: Vec<String> = notes.iter().map(|note| format!("- {note}")).collect();
    let text = format!(
        "{first}\n\n### Capacity plan\n\n{summary}\n\n{}\n{}\n",
        shown.join("\n"),
        notes.join("\n")
    );
    plan.output.write("report.md", &text)?;
    plan.output.write("plan.json", &pretty(&json(plan, &sized)))?;
    crate::report::output::show(&text, plan.output.dir());
    Ok(if good { Ending::Fine } else { Ending::Invalid })
}

/// How good the prediction was, first of all.
pub(super) fn verdict(plan: &Plan<'_>) -> String {
    let checked = &plan.checked;
    let good = checked.miss.abs() <= MISS_MAX;
    if good {
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
    }
}

pub(super) fn summary(plan: &Plan<'_>, sized: &Sized) -> String {
    let (args, [p10, p50, p90]) = (plan.args, sized.spread);
    let Sized { brokers: count, binding, partitions, peak, same, .. } = sized;
    format!(
        "{count:.0} brokers of {:.0} cores (P10 {p10:.0}, P50 {p50:.0}, P90 {p90:.0}) for {} records/s at the peak, {:.0} failures allowed; bound by {binding} in {:.0} % of the draws; {partitions:.0} partitions.",
        args.node_cores,
        thousands(*peak),
        args.failures,
        same * 100.0
    )
}

pub(super) fn notes(plan: &Plan<'_>, sized: &Sized) -> Vec<String> {
    let (args, checked) = (plan.args, &plan.checked);
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
    let per_core = sized.partitions / (sized.brokers * args.node_cores);
    if per_core < PARTITIONS_PER_CORE_MIN {
        notes.push(format!("With {per_core:.1} partitions to a core some cores get twice the load of others: {:.0} partitions would even it out.", (PARTITIONS_PER_CORE_MIN * sized.brokers * args.node_cores).ceil()));
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
    notes
}

pub(super) fn needs_table(sized: &Sized) -> Table {
    let head = &["resource", "needed at the peak", "a broker gives", "brokers"];
    let rows = sized
        .needed
        .iter()
        .map(|need| {
            vec![
                format!(
                    "{}{}",
                    need.resource,
                    if need.resource == sized.binding { " (binds)" } else { "" }
                ),
                format!("{:.1} {}", need.amount, need.unit),
                format!("{:.1} {}", need.per_broker, need.unit),
                format!("{:.2}", need.brokers),
            ]
        })
        .collect();
    Table { head, rows }
}

pub(super) fn demands_table(plan: &Plan<'_>) -> Table {
    let head = &["a core's time for each", "fitted", "90 %"];
    let rows = DEMANDS
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
    Table { head, rows }
}

pub(super) fn tornado_table(sized: &Sized) -> Table {
    let head = &["input", "brokers at 20 % less", "brokers at 20 % more"];
    let rows = sized
        .tornado
        .iter()
        .map(|(name, low, high)| vec![name.clone(), format!("{low:.2}"), format!("{high:.2}")])
        .collect();
    Table { head, rows }
}

pub(super) fn check_table(plan: &Plan<'_>) -> Table {
    let checked = &plan.checked;
    let head = &["check", "predicted", "90 %", "measured", "miss"];
    let rows = vec![vec![
        format!("broker cores at {} records/s", thousands(checked.rate)),
        format!("{:.3}", checked.predicted_cores),
        format!("{:.3} to {:.3}", checked.low, checked.high),
        format!("{:.3}", checked.measured_cores),
        format!("{:+.1} %", checked.miss * 100.0),
    ]];
    Table { head, rows }
}

pub(super) fn runs_table(plan: &Plan<'_>) -> Table {
    let head =
        &["run", "records/s", "MB/s in", "produces/s", "fetches/s", "MB/s out", "cores", "fitted"];
    let rows = plan
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
    Table { head, rows }
}

pub(super) fn drawn_fit(plan: &Plan<'_>) -> String {
    let checked = &plan.checked;
    let fit: Vec<(f64, f64)> =
        plan.runs.iter().map(|run| (run.cores, predict(&plan.model.demands, &run.row()))).collect();
    let most = fit.iter().map(|point| point.0).fold(0.0, f64::max);
    lines(
        &Chart::new("Fitted against measured", "broker cores measured", "fitted"),
        &[
            Line::new("runs", fit).dots(),
            Line::new("check, not fitted", vec![(checked.measured_cores, checked.predicted_cores)])
                .dots(),
            Line::new("equal", vec![(0.0, 0.0), (most, most)]).dashed(),
        ],
    )
}

pub(super) fn drawn_knee(plan: &Plan<'_>) -> String {
    let knee_points = |good: bool| -> Vec<(f64, f64)> {
        plan.ladder.iter().filter(|point| point.2 == good).map(|point| (point.0, point.1)).collect()
    };
    lines(
        &Chart::new("The knee", "records/s", "end-to-end p99, ms"),
        &[
            Line::new("kept the objective", knee_points(true)).dots(),
            Line::new("did not", knee_points(false)).dots(),
        ],
    )
}

pub(super) fn drawn_usl(plan: &Plan<'_>) -> String {
    plan.usl.map_or(String::new(), |usl| {
        let curve = (1..=20).map(|n| (f64::from(n), usl.at(f64::from(n)))).collect();
        lines(
            &Chart::new("Scaling by connections (USL)", "connections", "records/s"),
            &[
                Line::new("measured", plan.scaling.clone()).dots(),
                Line::new("fitted", curve).dashed(),
            ],
        )
    })
}

pub(super) fn page(
    plan: &Plan<'_>,
    sized: &Sized,
    tables: &[Table; 5],
    (first, summary, notes): (&str, &str, &[String]),
) -> String {
    let good = plan.checked.miss.abs() <= MISS_MAX;
    let [needs, tornado, check, demands, runs] = tables.each_ref().map(Table::html);
    let (fit, knee, usl) = (drawn_fit(plan), drawn_knee(plan), drawn_usl(plan));
    let items: String = notes
        .iter()
        .map(|note| format!("<li>{}</li>", crate::report::charts::escape(note)))
        .collect();
    format!(
        "{}<h1>Capacity plan</h1><p>{}</p>{}<h2>What it takes</h2>{}<h2>What moves it</h2>{}<h2>Prediction and measurement</h2>{}{fit}<h2>Where it comes from</h2>{}{}{knee}{usl}<ul>{items}</ul>",
        html::verdict(good, first),
        crate::report::charts::escape(summary),
        html::cards(&[
            ("brokers", format!("{:.0}", sized.brokers)),
            ("bound by", sized.binding.to_owned()),
            ("partitions", format!("{:.0}", sized.partitions)),
            ("P10 to P90", format!("{:.0} to {:.0}", sized.spread[0], sized.spread[2])),
        ]),
        needs,
        tornado,
        check,
        demands,
        runs,
    )
}

pub(super) fn json(plan: &Plan<'_>, sized: &Sized) -> serde_json::Value {
    let (args, [p10, p50, p90]) = (plan.args, sized.spread);
    serde_json::json!({
        "format": "weir-loadgen-plan", "format_version": 1,
        "command": crate::run::environment::command(),
        "commit": crate::run::environment::commit(),
        "brokers": sized.brokers, "p10": p10, "p50": p50, "p90": p90, "binding": sized.binding,
        "partitions": sized.partitions, "needs": sized.needed, "knee_records_per_s": plan.knee,
        "demands_s": plan.model.demands, "runs": plan.runs, "shape": plan.shape,
        "usl": plan.usl, "check": plan.checked, "options": args.run,
        "target": { "rate": args.target_rate, "peak_factor": args.peak_factor,
            "retention_s": args.retention, "copies": args.copies, "failures": args.failures },
    })
}

/// Brokers, not rounded, when one input moves by a fifth.
pub(super) fn sensitivity(plan: &Plan<'_>, middle: Inputs) -> Vec<(String, f64, f64)> {
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
