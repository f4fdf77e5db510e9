//! One HTML file that holds everything: opens offline, prints, needs no script.

use super::charts::{Chart, Line, Scale, escape, heat, lines};
use super::text::{anomaly_line, fault_line, load_line};
use super::words::thousands;
use crate::judge::result::{LatencyFound, RunResult, Sample, StageFound};
use crate::work::histogram::PERCENTILES;
use std::fmt::Write as _;

const STYLE: &str = "\
:root{color-scheme:light;--ink:#1b1f24;--soft:#5b6570;--rule:#d8dee4;--back:#fff;--tint:#f5f7f9}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:860px;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em;margin:0 0 .2em}h2{font-size:1.15em;margin:2em 0 .5em;border-bottom:1px solid var(--rule)}\
p.lead{color:var(--soft);margin:.2em 0}table{border-collapse:collapse;width:100%;margin:.6em 0;font-variant-numeric:tabular-nums}\
th,td{padding:.25em .6em;text-align:right;border-bottom:1px solid var(--rule)}th:first-child,td:first-child{text-align:left}\
th{font-weight:600;color:var(--soft)}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(125px,1fr));gap:.7em;margin:1em 0}\
.cards div{background:var(--tint);border-radius:6px;padding:.6em .8em}.cards b{display:block;font-size:1.25em}.cards span{color:var(--soft);font-size:.85em}\
.good{border-left:5px solid #009e73}.bad{border-left:5px solid #d55e00}.verdict{background:var(--tint);padding:.5em .9em;margin:1em 0}\
svg{width:100%;height:auto;display:block;margin:1em 0 0;break-inside:avoid}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}\
svg .title{font-size:13px;font-weight:600;fill:var(--ink)}svg .grid{stroke:var(--rule);stroke-width:.7;fill:none}\
svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}svg .warmup{fill:#000;fill-opacity:.06}svg .fault{fill:#d55e00;fill-opacity:.15}\
.legend{margin:.1em 0 0;font-size:.85em;color:var(--soft)}.legend span{margin-right:1.2em;white-space:nowrap}\
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em;vertical-align:-1px}\
code,pre{font:13px/1.4 ui-monospace,monospace;background:var(--tint);border-radius:4px;padding:.1em .3em}pre{padding:.7em;overflow-x:auto;white-space:pre-wrap}\
details{margin:.6em 0}summary{cursor:pointer;color:var(--soft)}footer{margin:3em 0 1em;color:var(--soft);font-size:.85em}\
@media print{body{max-width:none;margin:0}h2{break-after:avoid}details{display:block}}";

/// A page around a body.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{STYLE}</style></head><body>{body}</body></html>\n",
        escape(title)
    )
}

/// A table; the first row is its head.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = "<table><tr>".to_owned();
    head.iter().for_each(|cell| out += &format!("<th>{}</th>", escape(cell)));
    out += "</tr>";
    for row in rows {
        out += "<tr>";
        row.iter().for_each(|cell| out += &format!("<td>{}</td>", escape(cell)));
        out += "</tr>";
    }
    out + "</table>"
}

/// Figures to see first: (name, value).
pub(crate) fn cards(cards: &[(&str, String)]) -> String {
    let mut out = "<div class=\"cards\">".to_owned();
    for (name, value) in cards {
        let _ = write!(out, "<div><b>{}</b><span>{}</span></div>", escape(value), escape(name));
    }
    out + "</div>"
}

/// What was found, in a box: green if good.
pub(crate) fn verdict(good: bool, text: &str) -> String {
    format!("<p class=\"verdict {}\">{}</p>", if good { "good" } else { "bad" }, escape(text))
}

fn series(result: &RunResult, of: impl Fn(&Sample) -> Option<f64>) -> Vec<(f64, f64)> {
    result.series.iter().filter_map(|sample| Some((sample.at_s, of(sample)?))).collect()
}

fn timeline<'c>(result: &RunResult, title: &'c str, y: &'c str) -> Chart<'c> {
    let mut chart = Chart::new(title, "seconds of the measured time", y);
    chart.x_scale = Scale::Exact;
    let first = result.series.first().map_or(0.0, |sample| sample.at_s - 1.0);
    chart.shaded.push((first, 0.0, "warmup"));
    for fault in &result.faults {
        chart.shaded.push((fault.began_s, fault.ended_s, "fault"));
    }
    chart
}

pub(crate) fn of_run(result: &RunResult) -> String {
    let mut body = String::new();
    let latency = &result.latency;
    let date = date_of(result.started_unix_ms);
    let _ = write!(
        body,
        "<h1>loadgen: {}</h1><p class=\"lead\">{}</p><p class=\"lead\">{date} UTC, {} s measured, run {}, commit {}</p>",
        escape(&result.verdict),
        escape(&load_line(result)),
        result.measured_s,
        result.run,
        escape(result.commit.as_deref().unwrap_or("not known")),
    );
    for why in &result.invalid {
        body += &verdict(false, &format!("INVALID: {why}"));
    }
    for objective in &result.objectives {
        let found = objective.found.map_or("nothing to judge by".to_owned(), |f| format!("{f:.3}"));
        body += &verdict(
            objective.outcome == "PASS",
            &format!("{}: {} (found {found})", objective.objective, objective.outcome),
        );
    }
    let verified = &result.verification;
    let p99 = |found: &LatencyFound| format!("{} ms", found.show(found.p99_ms));
    body += &cards(&[
        ("records/s acknowledged", thousands(result.throughput.acknowledged_per_s)),
        ("MB/s", format!("{:.1}", result.mb_per_s())),
        ("end-to-end p99", p99(&latency.end_to_end)),
        ("produce p99", p99(&latency.produce)),
        ("largest lag, records", thousands(result.max_lag() as f64)),
        (
            "lost / duplicated / reordered / damaged",
            format!(
                "{} / {} / {} / {}",
                verified.lost, verified.duplicated, verified.out_of_order, verified.damaged
            ),
        ),
    ]);

    body += "<h2>Latency</h2>";
    let mut head = vec!["ms"];
    head.extend(PERCENTILES.iter().map(|(name, _)| *name));
    head.extend(["max", "n"]);
    let acked = result.option("acks") != "0";
    let rows: Vec<Vec<String>> = [
        ("produce (plan to acknowledgement)", &latency.produce, acked),
        ("end-to-end (plan to receipt)", &latency.end_to_end, true),
        ("client queue (first record to request)", &latency.client_queue, acked),
        ("service time (request to answer)", &latency.service, acked),
        ("held back by full buffers", &latency.held_back, latency.held_back.count > 0),
        ("generator's own delay", &latency.generator_lateness, true),
        ("warm-up, produce", &latency.warmup_produce, acked),
        ("warm-up, end-to-end", &latency.warmup_end_to_end, true),
    ]
    .into_iter()
    .filter(|(.., shown)| *shown)
    .map(|(name, found, _)| latency_row(name, found))
    .collect();
    body += &table(&head, &rows);
    stages(result, &head, &mut body);
    let mut chart = Chart::new("Latency by percentile", "percentile", "ms (log)");
    (chart.x_scale, chart.y_scale) = (Scale::Percentile, Scale::Log);
    let curves = [
        ("end-to-end", &latency.end_to_end),
        ("produce", &latency.produce),
        ("service time", &latency.service),
        ("generator's own delay", &latency.generator_lateness),
    ];
    let drawn: Vec<Line> = curves
        .into_iter()
        .filter(|(_, found)| found.count > 0)
        .map(|(name, found)| Line::new(name, found.curve.clone()))
        .collect();
    body += &lines(&chart, &drawn);
    for (title, columns) in [
        ("End-to-end latency over time (darker: more records)", &result.heat.end_to_end),
        ("Produce latency over time (darker: more records)", &result.heat.produce),
    ] {
        body += &heat(&timeline(result, title, "ms (log)"), &result.heat.edges_ms, columns);
    }
    let mut chart = timeline(result, "Latency per second", "ms (log)");
    chart.y_scale = Scale::Log;
    body += &lines(
        &chart,
        &[
            Line::new("end-to-end p50", series(result, |s| s.e2e_p50_ms)),
            Line::new("end-to-end p99", series(result, |s| s.e2e_p99_ms)),
            Line::new("end-to-end max", series(result, |s| s.e2e_max_ms)),
            Line::new("produce p99", series(result, |s| s.produce_p99_ms)),
        ],
    );

    body += "<h2>Throughput</h2>";
    body += &lines(
        &timeline(result, "Records per second", "records/s"),
        &[
            Line::new("acknowledged", series(result, |s| Some(s.acked_per_s))),
            Line::new("consumed, all groups", series(result, |s| Some(s.consumed_per_s))),
            Line::new("planned", series(result, |s| s.planned_per_s)).dashed(),
        ],
    );
    lag(result, &mut body);
    resources(result, &mut body);
    verification(result, &mut body);
    partitions(result, &mut body);
    about(result, &mut body);
    page(&format!("loadgen: {}", result.verdict), &body)
}

/// The rows of a table of latencies.
fn latency_row(name: &str, found: &LatencyFound) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend(found.percentiles().iter().map(|ms| found.show(*ms)));
    row.push(found.show(Some(found.max_ms)));
    row.push(thousands(found.count as f64));
    row
}

fn stages(result: &RunResult, head: &[&str], body: &mut String) {
    if result.broker_stages.is_empty() {
        return;
    }
    let row = |stage: &StageFound| latency_row(&stage.stage, &stage.latency);
    let rows: Vec<_> = result.broker_stages.iter().map(row).collect();
    *body += "<h3>Within the broker</h3>";
    *body += &table(head, &rows);
    *body += "<p class=\"lead\">By the broker's own histograms, true to a fifth. produce is a whole request; \
              send also waits for the client to take it.</p>";
}

fn worst_partitions(result: &RunResult, body: &mut String) {
    let worst: Vec<Line> = result
        .lag
        .worst
        .iter()
        .map(|one| {
            Line::new(
                format!("{}-{}, group {}", one.topic, one.partition, one.group),
                one.points.clone(),
            )
        })
        .collect();
    if result.partitions.len() > 1 && !worst.is_empty() {
        *body += &lines(
            &timeline(result, "The partitions that were furthest behind", "records"),
            &worst,
        );
    }
}

fn lag(result: &RunResult, body: &mut String) {
    if result.lag.groups.is_empty() {
        return;
    }
    *body += "<h2>Consumer lag</h2>";
    let mut drawn = Vec::new();
    for group in 0..result.lag.groups.len().min(4) {
        let of = |s: &Sample| s.lag_records.get(group).map(|lag| *lag as f64);
        drawn.push(Line::new(format!("group {group}"), series(result, of)));
        let of = |s: &Sample| {
            s.lag_committed_records.get(group).copied().flatten().map(|lag| lag as f64)
        };
        drawn.push(Line::new(format!("group {group}, by commits"), series(result, of)).dashed());
    }
    *body +=
        &lines(&timeline(result, "Records behind the end, sum of partitions", "records"), &drawn);
    worst_partitions(result, body);
    let rows: Vec<Vec<String>> = result
        .lag
        .groups
        .iter()
        .map(|group| {
            vec![
                group.group.to_string(),
                thousands(group.max_records as f64),
                format!("{:.0}", group.mean_records),
                thousands(group.max_partition_records as f64),
                format!("{:.1}", group.max_time_ms),
                thousands(group.max_committed_records as f64),
                group.slope_per_s.map_or("-".to_owned(), |(slope, low, high)| {
                    format!("{slope:.1} [{low:.1}, {high:.1}]")
                }),
                group.trend.clone(),
            ]
        })
        .collect();
    *body += &table(
        &[
            "group",
            "max",
            "mean",
            "max of a partition",
            "max ms",
            "max by commits",
            "records/s [95 %]",
            "trend",
        ],
        &rows,
    );
    let _ = write!(
        *body,
        "<p class=\"lead\">Sampled every {} s: commits, then positions, then end offsets, so that lag is never too small. Every sample: lag.csv.</p>",
        result.lag.interval_s
    );
}

fn resources(result: &RunResult, body: &mut String) {
    *body += "<h2>Processor and memory</h2>";
    let mut drawn = vec![Line::new("loadgen", series(result, |s| Some(s.loadgen_cores)))];
    if result.resources.broker.is_some() {
        drawn.insert(0, Line::new("broker", series(result, |s| s.broker_cores)));
        *body += &lines(&timeline(result, "Cores in use", "cores"), &drawn);
        let memory = series(result, |s| s.broker_resident_bytes.map(|bytes| bytes as f64 / 1e6));
        *body += &lines(
            &timeline(result, "Memory of the broker", "MB"),
            &[Line::new("resident", memory)],
        );
    } else {
        *body += &lines(&timeline(result, "Cores in use", "cores"), &drawn);
    }
    let row = |name: &str, used: &crate::judge::result::ProcessUsed| {
        vec![
            name.to_owned(),
            format!("{:.2}", used.cpu_s),
            format!("{:.2}", used.user_s),
            format!("{:.2}", used.system_s),
            format!("{:.3}", used.cpu_s_per_gb),
            format!("{:.3}", used.cpu_s_per_million_records),
            format!("{:.0}", used.resident_peak_bytes as f64 / 1e6),
            format!("{:.1}", used.disk_write_bytes as f64 / 1e6),
        ]
    };
    let mut rows = vec![row("loadgen", &result.resources.loadgen)];
    if let Some(used) = &result.resources.broker {
        rows.insert(0, row("broker", used));
    }
    *body += &table(
        &[
            "",
            "CPU s",
            "user",
            "system",
            "CPU s/GB",
            "CPU s/million records",
            "peak MB",
            "MB written",
        ],
        &rows,
    );
}

fn verification(result: &RunResult, body: &mut String) {
    let verified = &result.verification;
    *body += "<h2>What became of the records</h2>";
    let rows = [
        ("lost (acknowledged, never seen)", verified.lost),
        ("duplicated", verified.duplicated),
        ("out of order", verified.out_of_order),
        ("damaged", verified.damaged),
        ("stored twice by a retry without idempotence", verified.repeated_by_retry),
        ("out of order by such a retry", verified.reordered_by_retry),
        ("not acknowledged, yet stored", verified.unsure_stored),
        ("seen again after a rebalance", verified.redelivered),
        ("assignments taken up", verified.assignments),
        ("not of this run", verified.foreign),
        ("failed sends", result.failed_records),
        ("planned, never sent", result.unsent_records),
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, count)| vec![(*name).to_owned(), thousands(*count as f64)])
        .collect();
    *body += &table(&["", "records"], &rows);
    if !verified.complete {
        *body += &verdict(false, "Not everything was read: what is missing may still be there.");
    }
    let mut items = String::new();
    result
        .faults
        .iter()
        .for_each(|fault| items += &format!("<li>fault {}</li>", escape(&fault_line(fault))));
    for anomaly in verified.anomalies.iter().take(200) {
        items += &format!("<li>{}</li>", escape(&anomaly_line(anomaly)));
    }
    for (kind, count) in &result.errors {
        items += &format!("<li>error {}: {count}</li>", escape(kind));
    }
    if !items.is_empty() {
        let _ = write!(*body, "<ul>{items}</ul>");
    }
}

fn partitions(result: &RunResult, body: &mut String) {
    let batches = &result.batches;
    *body += "<h2>Batches and partitions</h2>";
    let _ = write!(
        *body,
        "<p>{:.1} records and {:.0} B a batch, {:.1} batches a request, {} requests, {} fetches, compression ratio {:.2}, {} batches sent again.</p>",
        batches.records as f64 / batches.count.max(1) as f64,
        batches.bytes as f64 / batches.count.max(1) as f64,
        batches.count as f64 / batches.requests.max(1) as f64,
        thousands(batches.requests as f64),
        thousands(batches.fetches as f64),
        batches.compression_ratio,
        batches.retries
    );
    let rows: Vec<Vec<String>> = result
        .partitions
        .iter()
        .take(1000)
        .map(|p| {
            vec![
                p.topic.clone(),
                p.partition.to_string(),
                p.leader.clone(),
                thousands(p.acknowledged_records as f64),
                thousands(p.max_lag_records as f64),
            ]
        })
        .collect();
    let _ = write!(
        *body,
        "<details><summary>{} partitions</summary>{}</details>",
        result.partitions.len(),
        table(&["topic", "partition", "leader", "acknowledged, with warm-up", "max lag"], &rows)
    );
}

fn about(result: &RunResult, body: &mut String) {
    let machine = &result.environment;
    *body += "<h2>Where and how</h2>";
    let rows: Vec<Vec<String>> = [
        ("processor", format!("{} x {} ({})", machine.cores, machine.cpu, machine.machine)),
        ("memory", format!("{:.1} GB", machine.memory_bytes as f64 / 1e9)),
        ("kernel", machine.kernel.clone()),
        ("clock, governor", format!("{}, {}", machine.clock_source, machine.governor)),
        ("file system", machine.file_system.clone()),
        ("disk", machine.disk.clone()),
        ("load before", format!("{:.2}", machine.load_before)),
        ("taken by the hypervisor", format!("{:.2} %", machine.stolen_share * 100.0)),
        (
            "broker",
            format!("{}{}", result.broker, if result.embedded { " (embedded)" } else { "" }),
        ),
        ("seed", result.seed.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| vec![name.to_owned(), value])
    .collect();
    *body += &table(&["", ""], &rows);
    let _ = write!(*body, "<pre>{}</pre>", escape(&result.command.join(" ")));
    let pairs = |pairs: Vec<(String, String)>| {
        let rows: Vec<Vec<String>> = pairs.into_iter().map(|(a, b)| vec![a, b]).collect();
        table(&["", ""], &rows)
    };
    let options = result.options.keys().map(|name| (name.clone(), result.option(name))).collect();
    let _ = write!(*body, "<details><summary>every option</summary>{}</details>", pairs(options));
    let settings = result.topic_settings.clone().into_iter().collect();
    let _ = write!(
        *body,
        "<details><summary>settings of the topic</summary>{}</details>",
        pairs(settings)
    );
    *body += "<h2>What these numbers mean, and what not</h2><ul>";
    for note in &result.notes {
        let _ = write!(*body, "<li>{}</li>", escape(note));
    }
    *body += "<li>Latencies count from the time that the schedule planned for each record, whatever delayed it: a stall is in every record it held up.</li>\
        <li>Every record is timed, none sampled. Histograms are true to 0.1 % from 1 ns to 1 h. A percentile with fewer than 10 records beyond it is not told.</li>\
        <li>\">=\" marks lower bounds: records that failed or were never sent never ended.</li>\
        <li>One run is one sample. To say that two systems differ, use loadgen compare.</li></ul>\
        <footer>Raw data beside this page: result.json (loadgen schema documents it), produce.hlog and end_to_end.hlog for HdrHistogram's tools, lag.csv, scenario.toml to repeat the run.</footer>";
}

/// Date and time in UTC.
pub(crate) fn date_of(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000);
    let (year, month, day) = model::calendar::date_of(seconds.div_euclid(86_400));
    let within = seconds.rem_euclid(86_400);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", within / 3600, within / 60 % 60)
}
