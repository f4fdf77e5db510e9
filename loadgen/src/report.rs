//! What a run found, as text, JSON and histogram logs; and whether it counts.

use crate::args::Args;
use crate::consumer::ConsumerOutcome;
use crate::histogram::{Latency, PERCENTILES};
use crate::producer::ProducerOutcome;
use crate::run::{Interval, Outcome, UsageSpan, errors_of};
use crate::schedule::Schedule;
use crate::{Ending, Failure};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use runtime::clock;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Share of the planned records that must be acknowledged within the window.
const ACHIEVED_MIN: f64 = 0.99;
/// Share of CPU time the hypervisor may keep.
const STOLEN_MAX: f64 = 0.02;

/// One second of the series.
pub(crate) struct Sample {
    pub(crate) at_s: f64,
    pub(crate) sent_per_s: f64,
    pub(crate) acked_per_s: f64,
    pub(crate) consumed_per_s: f64,
    pub(crate) failed: u64,
    pub(crate) ack_p99_ms: Option<f64>,
    pub(crate) e2e_p99_ms: Option<f64>,
    pub(crate) lag_time_max_ms: f64,
    pub(crate) lags: Vec<i64>,
}

/// Where the files go.
pub(crate) struct Output {
    dir: PathBuf,
}

pub(crate) fn make_output(args: &Args) -> Result<Output, Failure> {
    let dir = args.output.clone().unwrap_or_else(|| {
        let seconds = clock::unix_ms() / 1000;
        PathBuf::from("loadgen-results")
            .join(format!("{seconds}-{:06x}", runtime::random::seed() >> 40))
    });
    if dir.join("result.json").exists() {
        let why = format!("--output {}: holds a result already; choose another", dir.display());
        return Err(Failure::usage(why));
    }
    runtime::fs::create_dir_all(&dir)
        .map_err(|error| {
            Failure::usage(format!("--output {}: cannot be made: {error}", dir.display()))
        })
        .map(|()| Output { dir })
}

impl Output {
    /// Leaves no empty directory behind a run that never began.
    pub(crate) fn abandon(&self) {
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// The interval logs `ack.hlog` and `e2e.hlog`: every second's histogram, readable by HdrHistogram
/// tools.
pub(crate) struct IntervalLog {
    start: clock::Nanos,
    files: [(&'static str, Vec<u8>, PathBuf); 2],
}

impl IntervalLog {
    pub(crate) fn new(output: &Output) -> Result<Self, Failure> {
        let file = |kind: &'static str| (kind, Vec::new(), output.dir.join(format!("{kind}.hlog")));
        Ok(Self { start: clock::now(), files: [file("ack"), file("e2e")] })
    }

    pub(crate) fn write(&mut self, interval: &Interval) {
        let at = Duration::from_nanos(clock::now().since(self.start));
        let Some((_, bytes, path)) =
            self.files.iter_mut().find(|(kind, ..)| *kind == interval.kind)
        else {
            return;
        };
        let mut serializer = V2DeflateSerializer::new();
        let mut entry = Vec::new();
        let mut writer = IntervalLogWriterBuilder::new();
        if bytes.is_empty() {
            writer.add_comment("values in nanoseconds, from the planned send time");
        }
        if let Ok(mut log) = writer.begin_log_with(&mut entry, &mut serializer) {
            let begin = at.saturating_sub(crate::run::INTERVAL);
            let _ = log.write_histogram(
                interval.latency.inner(),
                begin,
                crate::run::INTERVAL,
                Tag::new(interval.kind),
            );
        }
        bytes.extend_from_slice(&entry);
        let _ = append(path, bytes);
        // Only that something was written is remembered.
        bytes.truncate(1);
    }
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let first = bytes.len() > 1 && bytes[0] == b'#';
    let body = if first { bytes } else { &bytes[1..] };
    std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(body)
}

pub(crate) fn merge_producer(total: &mut ProducerOutcome, part: &ProducerOutcome) {
    for (total, part) in [
        (&mut total.ack, &part.ack),
        (&mut total.service, &part.service),
        (&mut total.lateness, &part.lateness),
        (&mut total.warmup_ack, &part.warmup_ack),
    ] {
        total.add(part);
    }
    total.sent += part.sent;
    total.acked += part.acked;
    total.failed += part.failed;
    total.acked_in_window += part.acked_in_window;
    total.batches += part.batches;
    total.batch_records += part.batch_records;
    total.batch_bytes += part.batch_bytes;
    total.requests += part.requests;
    for (kind, count) in &part.errors {
        *total.errors.entry(kind.clone()).or_default() += count;
    }
}

pub(crate) fn merge_consumer(total: &mut ConsumerOutcome, part: ConsumerOutcome) {
    total.e2e.add(&part.e2e);
    total.warmup_e2e.add(&part.warmup_e2e);
    total.consumed += part.consumed;
    total.consumed_in_window += part.consumed_in_window;
    total.bytes_in_window += part.bytes_in_window;
    total.duplicates += part.duplicates;
    total.out_of_order += part.out_of_order;
    total.corrupt += part.corrupt;
    total.foreign += part.foreign;
    total.fetches += part.fetches;
    total.rebalances += part.rebalances;
    total.sessions.extend(part.sessions);
    for (kind, count) in part.errors {
        *total.errors.entry(kind).or_default() += count;
    }
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3}"))
}

/// One line a second on standard error.
pub(crate) fn show_progress(args: &Args, sample: &Sample, ack: &Latency, e2e: &Latency) {
    let phase = if sample.at_s < 0.0 { "warm-up" } else { "measure" };
    let target = if args.rate == 0 { "max".to_owned() } else { args.rate.to_string() };
    let lag: i64 = sample.lags.iter().sum();
    let _ = writeln!(
        std::io::stderr(),
        "{:>6.0} s {phase}  offered {target}/s  sent {:.0}/s  acked {:.0}/s  consumed {:.0}/s  \
         p99 so far: produce {} ms, end-to-end {} ms  lag {lag}  failed {}",
        sample.at_s,
        sample.sent_per_s,
        sample.acked_per_s,
        sample.consumed_per_s,
        ms(ack.percentile_ms(99.0)),
        ms(e2e.percentile_ms(99.0)),
        sample.failed
    );
}

struct Facts {
    seconds: f64,
    planned: u64,
    achieved: f64,
    record_bytes: u64,
    invalid: Vec<String>,
    warnings: Vec<String>,
    ending: Ending,
}

fn judge(outcome: &Outcome) -> Facts {
    let args = &outcome.args;
    let seconds = outcome.window.seconds();
    let planned = if args.rate == 0 || args.num_records.is_some() {
        outcome.produced.sent
    } else {
        Schedule::planned_within(args.rate, seconds)
    };
    let achieved = outcome.produced.acked_in_window as f64 / planned.max(1) as f64;
    let (mut invalid, mut warnings) = (Vec::new(), Vec::new());
    let produced = &outcome.produced;
    if args.rate > 0 && !outcome.interrupted {
        // A run so short that its edges weigh more than its middle is judged by what it sent.
        let reached =
            if seconds < 2.0 { produced.acked as f64 / planned.max(1) as f64 } else { achieved };
        if reached < ACHIEVED_MIN {
            invalid.push(format!(
                "the rate was not reached: {:.1} % of the planned records were acknowledged in the window",
                reached * 100.0
            ));
        }
        let late = produced.lateness.percentile_ms(99.0).unwrap_or(0.0);
        let allowed = (produced.ack.percentile_ms(99.0).unwrap_or(0.0) * 0.1).max(1.0);
        if late > allowed {
            invalid.push(format!(
                "the generator was late: its own p99 lateness is {late:.3} ms, allowed are {allowed:.3} ms"
            ));
        }
    }
    if produced.ack.clamped() + outcome.consumed.e2e.clamped() > 0 {
        invalid.push("latencies above one hour were cut".to_owned());
    }
    if outcome.stolen > STOLEN_MAX {
        warnings.push(format!(
            "the hypervisor took {:.1} % of the CPU time: latencies include it",
            outcome.stolen * 100.0
        ));
    }
    if args.rate == 0 {
        warnings.push("as fast as it goes: CLOSED LOOP, latency is not a response time".to_owned());
    }
    if outcome.embedded {
        warnings.push("broker and load generator share this machine, over loopback".to_owned());
    }
    let consumed = &outcome.consumed;
    let verified = args.consumer_count() > 0;
    let broken = outcome.lost + consumed.duplicates + consumed.out_of_order + consumed.corrupt > 0;
    let undrained = verified && outcome.drain_s.is_none();
    if undrained && !outcome.interrupted {
        invalid.push(
            "not everything was consumed before the drain time-out: loss is unknown".to_owned(),
        );
    }
    if produced.sent == 0 && !outcome.interrupted {
        invalid.push("no record was sent in the measured window".to_owned());
    }
    let ending = if outcome.interrupted {
        Ending::Interrupted
    } else if verified && broken {
        Ending::RecordsLostOrRepeated
    } else if invalid.is_empty() {
        Ending::Fine
    } else {
        Ending::Invalid
    };
    let record_bytes = u64::from(args.record_size + args.key_size);
    Facts { seconds, planned, achieved, record_bytes, invalid, warnings, ending }
}

/// Writes the files, prints the report, and says how the run ended.
pub(crate) fn finish(outcome: &Outcome, output: &Output) -> Result<Ending, Failure> {
    let facts = judge(outcome);
    let text = text(outcome, &facts);
    let json = json(outcome, &facts);
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(output.dir.join(name), bytes)
            .map_err(|error| Failure::usage(format!("{}/{name}: {error}", output.dir.display())))
    };
    write("report.txt", text.as_bytes())?;
    let pretty = serde_json::to_string_pretty(&json).expect("a value becomes text");
    write("result.json", pretty.as_bytes())?;
    let mut out = std::io::stdout();
    let shown = out.write_all(text.as_bytes()).and_then(|()| {
        writeln!(
            out,
            "\nfiles: {}/{{report.txt,result.json,ack.hlog,e2e.hlog}}",
            output.dir.display()
        )
    });
    // A closed standard output loses the show, not the files.
    let _ = shown;
    Ok(facts.ending)
}

fn text(outcome: &Outcome, facts: &Facts) -> String {
    let mut out = String::new();
    let args = &outcome.args;
    let (produced, consumed) = (&outcome.produced, &outcome.consumed);
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let rate =
        if args.rate == 0 { "as fast as it goes".to_owned() } else { format!("{}/s", args.rate) };
    line(format!(
        "loadgen {}  run {:012x}  seed {}  broker {}{}",
        env!("CARGO_PKG_VERSION"),
        outcome.run,
        outcome.seed,
        outcome.broker,
        if outcome.embedded { " (embedded)" } else { "" }
    ));
    line(format!(
        "{} partitions, {} producers, {} x {} consumers, acks={}, {} B records, linger {} ms, batch {} B, {}, {rate}",
        args.partitions,
        args.producer_count(),
        args.groups,
        args.consumer_count(),
        match args.acks.code() {
            -1 => "all".to_owned(),
            code => code.to_string(),
        },
        facts.record_bytes,
        args.linger_ms,
        args.batch_size,
        args.compression_type.name(),
    ));
    line(format!(
        "measured {:.1} s after {:.1} s warm-up\n",
        facts.seconds,
        args.warmup.as_secs_f64()
    ));
    line("throughput        records      records/s       MB/s".to_owned());
    let row = |name: &str, records: u64| {
        let per_s = records as f64 / facts.seconds;
        let mb_per_s = per_s * facts.record_bytes as f64 / 1e6;
        format!("  {name:<12}{records:>12}{per_s:>15.0}{mb_per_s:>11.2}")
    };
    line(row("offered", facts.planned));
    line(row("sent", produced.sent));
    if args.acks.code() != 0 {
        line(row("acknowledged", produced.acked_in_window));
    }
    line(row("consumed", consumed.consumed_in_window));
    line(format!("  schedule met {:.2} %\n", facts.achieved * 100.0));
    let names: Vec<_> = PERCENTILES.iter().map(|(name, _)| format!("{name:>10}")).collect();
    line(format!("latency (ms)          {}       max           n", names.join("")));
    let latency = |name: &str, latency: &Latency| {
        let cells: Vec<_> = PERCENTILES
            .iter()
            .map(|(_, p)| format!("{:>10}", ms(latency.percentile_ms(*p))))
            .collect();
        format!("  {name:<20}{}{:>10.3}{:>12}", cells.join(""), latency.max_ms(), latency.count())
    };
    if args.acks.code() == 0 {
        line("  produce             n/a with acks=0".to_owned());
    } else {
        line(latency("produce", &produced.ack));
    }
    line(latency("end-to-end", &consumed.e2e));
    if args.acks.code() != 0 {
        line(latency("service time", &produced.service));
    }
    line(latency("generator lateness", &produced.lateness));
    line(
        "  produce and end-to-end count from the planned send time; service time from the request"
            .to_owned(),
    );
    line("  \"-\": fewer than 10 samples lie beyond\n".to_owned());
    let lag_max =
        outcome.samples.iter().flat_map(|sample| &sample.lags).max().copied().unwrap_or(0);
    let time_max = outcome.samples.iter().map(|s| s.lag_time_max_ms).fold(0.0, f64::max);
    line(format!(
        "consumer lag: max {lag_max} records in a partition ({time_max:.1} ms), at the end {} records, drained in {}",
        outcome.lag_end.iter().sum::<i64>(),
        outcome.drain_s.map_or("(not drained)".to_owned(), |s| format!("{s:.3} s"))
    ));
    line(format!(
        "batches: {:.1} records and {:.0} B on average, {:.1} per request, compression ratio {:.2}",
        produced.batch_records as f64 / produced.batches.max(1) as f64,
        produced.batch_bytes as f64 / produced.batches.max(1) as f64,
        produced.batches as f64 / produced.requests.max(1) as f64,
        (produced.batch_records * facts.record_bytes) as f64 / produced.batch_bytes.max(1) as f64,
    ));
    if args.consumer_count() > 0 {
        line(format!(
            "verified: {} lost, {} duplicated, {} out of order, {} damaged",
            outcome.lost, consumed.duplicates, consumed.out_of_order, consumed.corrupt
        ));
        line(format!(
            "groups: {}, each with {} members; {} assignments taken up; {} records seen again after a \
             rebalance",
            args.groups,
            args.consumer_count(),
            consumed.rebalances,
            outcome.redelivered
        ));
    } else {
        line("verified: nothing, for nothing was consumed (--consumers 0)".to_owned());
    }
    let errors = errors_of(outcome);
    line(format!("failed sends: {}", produced.failed));
    for (kind, count) in &errors {
        line(format!("  error {kind}: {count}"));
    }
    line(String::new());
    line(
        "resources         CPU s     user      sys   CPU s/GB  CPU s/M records   peak MB"
            .to_owned(),
    );
    let gb = (produced.acked_in_window * facts.record_bytes) as f64 / 1e9;
    let millions = produced.acked_in_window as f64 / 1e6;
    let usage = |name: &str, used: &UsageSpan| {
        format!(
            "  {name:<12}{:>9.2}{:>9.2}{:>9.2}{:>11.3}{:>17.3}{:>10.0}",
            used.cpu_s(),
            used.user_s,
            used.system_s,
            used.cpu_s() / gb.max(1e-9),
            used.cpu_s() / millions.max(1e-9),
            used.resident_peak_bytes as f64 / 1e6
        )
    };
    match &outcome.broker_usage {
        Some(used) => line(usage("broker", used)),
        None => line("  broker      not measured (give --broker-pid if it runs here)".to_owned()),
    }
    line(usage("loadgen", &outcome.own));
    for warning in &facts.warnings {
        line(format!("note: {warning}"));
    }
    for why in &facts.invalid {
        line(format!("INVALID: {why}"));
    }
    line(match facts.ending {
        Ending::Fine => "verdict: fine".to_owned(),
        Ending::RecordsLostOrRepeated => {
            "verdict: RECORDS LOST, REPEATED, REORDERED OR DAMAGED".to_owned()
        }
        Ending::Interrupted => "verdict: interrupted; the figures cover what ran".to_owned(),
        _ => "verdict: INVALID RUN".to_owned(),
    });
    out
}

fn json(outcome: &Outcome, facts: &Facts) -> Value {
    let latency = |latency: &Latency| {
        let mut values = serde_json::Map::new();
        for (name, percentile) in PERCENTILES {
            values.insert(format!("{name}_ms"), json!(latency.percentile_ms(percentile)));
        }
        values.insert("max_ms".to_owned(), json!(latency.max_ms()));
        values.insert("count".to_owned(), json!(latency.count()));
        Value::Object(values)
    };
    let usage = |used: &UsageSpan| {
        json!({
            "cpu_s": used.cpu_s(), "user_s": used.user_s, "system_s": used.system_s,
            "cpu_s_per_gb": used.cpu_s() / ((outcome.produced.acked_in_window * facts.record_bytes) as f64 / 1e9).max(1e-9),
            "cpu_s_per_million_records": used.cpu_s() / (outcome.produced.acked_in_window as f64 / 1e6).max(1e-9),
            "resident_peak_bytes": used.resident_peak_bytes,
        })
    };
    let (produced, consumed) = (&outcome.produced, &outcome.consumed);
    let series: Vec<_> = outcome
        .samples
        .iter()
        .map(|s| {
            json!({
                "at_s": s.at_s, "sent_per_s": s.sent_per_s, "acked_per_s": s.acked_per_s,
                "consumed_per_s": s.consumed_per_s, "failed": s.failed,
                "ack_p99_ms": s.ack_p99_ms, "e2e_p99_ms": s.e2e_p99_ms,
                "lag_time_max_ms": s.lag_time_max_ms, "lag_records": s.lags,
            })
        })
        .collect();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "format": "weir-loadgen-result", "format_version": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "command": std::env::args().collect::<Vec<_>>(),
        "run": format!("{:012x}", outcome.run), "seed": outcome.seed,
        "started_unix_ms": outcome.started_unix_ms,
        "broker": outcome.broker, "embedded": outcome.embedded,
        "options": outcome.args,
        "open_loop": outcome.args.rate > 0,
        "latency_origin": "planned send time",
        "environment": {
            "cpu": cpu.trim_start_matches([' ', '\t', ':']), "kernel": kernel.trim(),
            "cores": runtime::thread::cpus().len(), "stolen_share": outcome.stolen,
        },
        "measured_s": facts.seconds,
        "throughput": {
            "offered_records": facts.planned, "sent_records": produced.sent,
            "acknowledged_records": produced.acked_in_window,
            "consumed_records": consumed.consumed_in_window,
            "acknowledged_per_s": produced.acked_in_window as f64 / facts.seconds,
            "consumed_per_s": consumed.consumed_in_window as f64 / facts.seconds,
            "record_bytes": facts.record_bytes, "schedule_met": facts.achieved,
        },
        "latency": {
            "produce": latency(&produced.ack), "end_to_end": latency(&consumed.e2e),
            "service": latency(&produced.service), "generator_lateness": latency(&produced.lateness),
            "warmup_produce": latency(&produced.warmup_ack), "warmup_end_to_end": latency(&consumed.warmup_e2e),
        },
        "lag": { "end_records": outcome.lag_end, "drain_s": outcome.drain_s },
        "batches": {
            "count": produced.batches, "records": produced.batch_records, "bytes": produced.batch_bytes,
            "requests": produced.requests, "fetches": consumed.fetches,
        },
        "verification": {
            "lost": outcome.lost, "duplicated": consumed.duplicates, "redelivered": outcome.redelivered,
            "assignments": consumed.rebalances,
            "out_of_order": consumed.out_of_order, "damaged": consumed.corrupt, "foreign": consumed.foreign,
            "complete": outcome.args.consumer_count() > 0 && outcome.drain_s.is_some(),
        },
        "errors": errors_of(outcome), "failed_records": produced.failed,
        "resources": { "broker": outcome.broker_usage.as_ref().map(usage), "loadgen": usage(&outcome.own) },
        "series": series,
        "invalid": facts.invalid, "notes": facts.warnings,
        "verdict": format!("{:?}", facts.ending), "exit_code": facts.ending as i32,
    })
}
