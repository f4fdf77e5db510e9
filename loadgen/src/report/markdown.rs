//! Markdown, for pull requests.

use super::text::load_line;
use super::words::thousands;
use crate::judge::result::RunResult;
use std::fmt::Write as _;

/// A table.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out
}

/// What a run found, a line for each.
fn rows(result: &RunResult) -> Vec<Vec<String>> {
    let latency = &result.latency;
    let ms =
        |found: &crate::judge::result::LatencyFound, at: usize| found.show(found.percentiles()[at]);
    vec![
        vec![
            "acknowledged".to_owned(),
            format!(
                "{} records/s ({:.1} MB/s), {:.2} % of plan",
                thousands(result.throughput.acknowledged_per_s),
                result.mb_per_s(),
                result.throughput.schedule_met * 100.0
            ),
        ],
        vec![
            "produce p50 / p99 / p99.9".to_owned(),
            format!(
                "{} / {} / {} ms",
                ms(&latency.produce, 0),
                ms(&latency.produce, 3),
                ms(&latency.produce, 4)
            ),
        ],
        vec![
            "end-to-end p50 / p99 / p99.9".to_owned(),
            format!(
                "{} / {} / {} ms (n {})",
                ms(&latency.end_to_end, 0),
                ms(&latency.end_to_end, 3),
                ms(&latency.end_to_end, 4),
                latency.end_to_end.count
            ),
        ],
        vec!["largest lag".to_owned(), format!("{} records", result.max_lag())],
        vec![
            "lost / duplicated / out of order / damaged".to_owned(),
            format!(
                "{} / {} / {} / {}",
                result.verification.lost,
                result.verification.duplicated,
                result.verification.out_of_order,
                result.verification.damaged
            ),
        ],
        vec![
            "broker CPU".to_owned(),
            result.resources.broker.as_ref().map_or("not measured".to_owned(), |used| {
                format!(
                    "{:.3} s per million records, {:.3} s/GB",
                    used.cpu_s_per_million_records, used.cpu_s_per_gb
                )
            }),
        ],
        vec![
            "machine".to_owned(),
            format!(
                "{} cores {} ({}), kernel {}, {}",
                result.environment.cores,
                result.environment.cpu,
                result.environment.machine,
                result.environment.kernel,
                result.environment.file_system.split(' ').next().unwrap_or_default()
            ),
        ],
    ]
}

pub(crate) fn of_run(result: &RunResult) -> String {
    let mut out = format!("### loadgen: {}\n\n{}\n\n", result.verdict, load_line(result));
    out += &table(&["", ""], &rows(result));
    for objective in &result.objectives {
        let found = objective.found.map_or("-".to_owned(), |value| format!("{value:.3}"));
        let _ = writeln!(out, "\n- `{}`: **{}** ({found})", objective.objective, objective.outcome);
    }
    for why in &result.invalid {
        let _ = writeln!(out, "\n> INVALID: {why}");
    }
    let _ = writeln!(
        out,
        "\n<sub>commit {}, seed {}, latencies from the planned send time. {}</sub>",
        result.commit.as_deref().unwrap_or("not known"),
        result.seed,
        result.notes.join(". ")
    );
    out
}
