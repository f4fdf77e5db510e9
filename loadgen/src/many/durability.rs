//! `loadgen durability`: acks x sync level x keys, with what each costs and what kill -9 loses.

use crate::ending::{Ending, Failure};
use crate::judge::result::RunResult;
use crate::options::args::Args;
use crate::options::flags::with_flags;
use crate::report::output::{Output, pretty};
use crate::report::words::thousands;
use crate::report::{html, markdown};
use crate::run::execute::execute;
use crate::run::session::Session;
use crate::run::target::Target;
use std::io::Write as _;

/// What an answer of the broker promises to survive.
const LEVELS: [&str; 3] = ["memory", "os", "disk"];

/// `loadgen durability`.
#[derive(clap::Args, Debug)]
pub(crate) struct DurabilityArgs {
    #[command(flatten)]
    pub(crate) run: Args,
}

/// One cell of the matrix.
#[derive(Clone, Debug, serde::Serialize)]
struct Cell {
    acks: &'static str,
    level: &'static str,
    keyed: bool,
    acknowledged_per_s: f64,
    schedule_met: f64,
    produce_p50_ms: Option<f64>,
    produce_p99_ms: Option<f64>,
    end_to_end_p99_ms: Option<f64>,
    broker_cpu_s_per_million_records: Option<f64>,
    verdict: String,
    /// Of the run with kill -9: acknowledged (with acks=0: sent) and not there afterwards.
    killed_lost: Option<u64>,
    killed_outage_s: Option<f64>,
    killed_verdict: Option<String>,
}

pub(crate) async fn run(args: DurabilityArgs, session: Session) -> Result<Ending, Failure> {
    let output = Output::make(args.run.output.as_deref(), "durability")?;
    let embedded = args.run.bootstrap_server.is_none();
    // Another broker's sync level is its own affair: one column, as it is.
    let levels: &[&str] = if embedded { &LEVELS } else { &["as it is"] };
    let mut cells = Vec::new();
    let total = 6 * levels.len();
    for acks in ["0", "1", "all"] {
        for level in levels {
            for keyed in [false, true] {
                if session.is_interrupted() {
                    break;
                }
                let mut flags = vec![format!("--acks={acks}")];
                flags.push(format!("--key={}", if keyed { "zipf:100000,1.1" } else { "none" }));
                if embedded {
                    flags.push(format!("--topic-config=weir.durability={level}"));
                }
                let name = format!(
                    "acks-{acks}_{}_{}",
                    level.replace(' ', "-"),
                    if keyed { "keyed" } else { "unkeyed" }
                );
                let result = one(&args.run, &flags, &output, &name, &session).await?;
                let killed = if embedded {
                    let middle = args.run.duration.as_secs_f64() / 2.0;
                    flags.push(format!("--fault=kill@{middle}s+0.5s"));
                    Some(
                        one(&args.run, &flags, &output, &format!("{name}_killed"), &session)
                            .await?,
                    )
                } else {
                    None
                };
                let cell = cell(acks, level, keyed, &result, killed.as_ref());
                let _ = writeln!(
                    std::io::stderr(),
                    "{:>2}/{total} acks={acks:<3} {level:<8} {:<7} {:>10}/s  produce p99 {} ms  lost by kill -9: {}",
                    cells.len() + 1,
                    if keyed { "keyed" } else { "unkeyed" },
                    thousands(cell.acknowledged_per_s),
                    cell.produce_p99_ms.map_or("-".to_owned(), |ms| format!("{ms:.2}")),
                    cell.killed_lost.map_or("not tried".to_owned(), |lost| lost.to_string())
                );
                cells.push(cell);
            }
        }
    }
    report(&args, &cells, &output)?;
    // What was promised to survive kill -9 must have: all but memory, and acks=0, which promises
    // nothing.
    let broken = cells.iter().any(|cell| {
        cell.level != "memory" && cell.acks != "0" && cell.killed_lost.is_some_and(|lost| lost > 0)
    });
    Ok(match session.is_interrupted() {
        true => Ending::Interrupted,
        false if broken => Ending::RecordsLostOrRepeated,
        false => Ending::Fine,
    })
}

async fn one(
    args: &Args,
    flags: &[String],
    output: &Output,
    name: &str,
    session: &Session,
) -> Result<RunResult, Failure> {
    let mut run = with_flags(args, flags)?;
    run.quiet = true;
    let dir = output.part(name)?;
    let target = Target::of(&run)?;
    execute(&run, &target, session, &dir).await
}

fn cell(
    acks: &'static str,
    level: &str,
    keyed: bool,
    result: &RunResult,
    killed: Option<&RunResult>,
) -> Cell {
    let acked = acks != "0";
    let level = LEVELS.iter().copied().find(|known| *known == level).unwrap_or("as it is");
    let outage = |run: &RunResult| run.faults.first()?.outage_s.map(|(from, to)| to - from);
    Cell {
        acks,
        level,
        keyed,
        acknowledged_per_s: result.throughput.acknowledged_per_s,
        schedule_met: result.throughput.schedule_met,
        produce_p50_ms: result.latency.produce.p50_ms.filter(|_| acked),
        produce_p99_ms: result.latency.produce.p99_ms.filter(|_| acked),
        end_to_end_p99_ms: result.latency.end_to_end.p99_ms,
        broker_cpu_s_per_million_records: result
            .resources
            .broker
            .as_ref()
            .map(|used| used.cpu_s_per_million_records),
        verdict: result.verdict.clone(),
        killed_lost: killed
            .filter(|run| run.verification.complete)
            .map(|run| run.verification.lost),
        killed_outage_s: killed.and_then(outage),
        killed_verdict: killed.map(|run| run.verdict.clone()),
    }
}

fn report(args: &DurabilityArgs, cells: &[Cell], output: &Output) -> Result<(), Failure> {
    let head = [
        "acks",
        "answered when in",
        "keys",
        "acked/s",
        "met %",
        "produce p50",
        "produce p99",
        "e2e p99",
        "broker CPU s/M",
        "lost by kill -9",
        "outage s",
        "verdict",
    ];
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
    let rows: Vec<Vec<String>> = cells
        .iter()
        .map(|cell| {
            vec![
                cell.acks.to_owned(),
                cell.level.to_owned(),
                if cell.keyed { "zipf" } else { "none" }.to_owned(),
                thousands(cell.acknowledged_per_s),
                format!("{:.1}", cell.schedule_met * 100.0),
                ms(cell.produce_p50_ms),
                ms(cell.produce_p99_ms),
                ms(cell.end_to_end_p99_ms),
                ms(cell.broker_cpu_s_per_million_records),
                cell.killed_lost.map_or("not known".to_owned(), |lost| thousands(lost as f64)),
                cell.killed_outage_s.map_or("-".to_owned(), |s| format!("{s:.2}")),
                cell.verdict.clone(),
            ]
        })
        .collect();
    let json = serde_json::json!({
        "format": "weir-loadgen-durability", "format_version": 1,
        "command": crate::run::environment::command(),
        "commit": crate::run::environment::commit(),
        "options": args.run, "cells": cells,
    });
    output.write("durability.json", &pretty(&json))?;
    let notes = "Every record is numbered; a lost one was acknowledged (with acks=0: sent, which promises nothing) and is not there after kill -9 and a restart. kill -9 leaves the operating system's cache in place: a power cut is harder, and only \"disk\" is meant to survive it (the broker's own power-cut test shows that).";
    let body = format!(
        "<h1>loadgen durability</h1><p class=\"lead\">What each promise costs, and what it keeps. Latencies in ms.</p>{}<p>{notes}</p>",
        html::table(&head, &rows)
    );
    output.write("report.html", &html::page("loadgen durability", &body))?;
    let text = format!("### loadgen durability\n\n{}\n{notes}\n", markdown::table(&head, &rows));
    output.write("report.md", &text)?;
    crate::report::output::show(&text, output.dir());
    Ok(())
}
