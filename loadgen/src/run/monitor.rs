//! Watches a run from the main thread: the series, the heat map, the histogram logs, usage at the
//! window's edges, and a line a second for whoever looks on.

use crate::judge::result::{Heat, Sample, StageFound};
use crate::load::schedule::Plan;
use crate::options::args::Args;
use crate::run::broker_stages::StageCounts;
use crate::run::lag::LagSampler;
use crate::run::target::Target;
use crate::work::histogram::Latency;
use crate::work::progress::{INTERVAL, Interval, Kind, Progress, Window};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use runtime::clock::{self, Nanos};
use runtime::process::{self, Usage};
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Edges of the heat map per tenfold.
const EDGES_PER_DECADE: u32 = 8;
/// From 0.05 ms, over six tenfolds.
const EDGE_FIRST_MS: f64 = 0.05;
const DECADES: u32 = 6;
/// How often acknowledgements are counted, to see when there were none.
const OUTAGE_STEP: Duration = Duration::from_millis(10);

/// CPU within the window, and memory at its end.
#[derive(Clone, Copy, Default)]
pub(crate) struct UsageSpan {
    pub(crate) user_s: f64,
    pub(crate) system_s: f64,
    pub(crate) resident_peak_bytes: u64,
    pub(crate) disk_write_bytes: u64,
}

impl UsageSpan {
    fn between(before: Usage, after: Usage) -> Self {
        Self {
            user_s: (after.user_s - before.user_s).max(0.0),
            system_s: (after.system_s - before.system_s).max(0.0),
            resident_peak_bytes: after.resident_peak_bytes,
            disk_write_bytes: after.disk_write_bytes.saturating_sub(before.disk_write_bytes),
        }
    }

    pub(crate) fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }
}

type Taken = (Usage, Option<Usage>, (u64, u64));

/// The watch over one run.
pub(crate) struct Monitor<'t> {
    args: Args,
    plan: Option<Arc<Plan>>,
    progress: Arc<Progress>,
    target: &'t Target,
    window: Window,
    next: Nanos,
    last: (Nanos, [u64; 3], Usage, Option<Usage>),
    pub(crate) samples: Vec<Sample>,
    pub(crate) heat: Heat,
    /// When acknowledgements went on, so far as was looked: (second, count).
    pub(crate) acked_at: Vec<(f64, u64)>,
    produce: Latency,
    e2e: Latency,
    logs: [IntervalLog; 2],
    opened: Option<Taken>,
    closed: bool,
    pub(crate) own: UsageSpan,
    pub(crate) broker: Option<UsageSpan>,
    pub(crate) stolen: f64,
    stages: Asked,
    /// What the broker told of its stages, in the measured time.
    pub(crate) broker_stages: Vec<StageFound>,
    pub(crate) notes: Vec<String>,
    terminal: bool,
}

/// How far the broker was asked for its stages.
enum Asked {
    NotYet,
    Once(String, StageCounts),
    Done,
}

impl<'t> Monitor<'t> {
    pub(crate) fn new(
        args: &Args,
        progress: &Arc<Progress>,
        target: &'t Target,
        window: Window,
        dir: &Path,
    ) -> Self {
        let now = clock::now();
        let edge =
            |at: u32| EDGE_FIRST_MS * 10f64.powf(f64::from(at) / f64::from(EDGES_PER_DECADE));
        let heat = Heat {
            edges_ms: (0..=EDGES_PER_DECADE * DECADES).map(edge).collect(),
            ..Heat::default()
        };
        let own = process::usage(std::process::id()).unwrap_or_default();
        Self {
            args: args.clone(),
            plan: args.plan(),
            progress: Arc::clone(progress),
            target,
            window,
            next: now + INTERVAL,
            last: (now, [0; 3], own, target.usage()),
            samples: Vec::new(),
            heat,
            acked_at: Vec::new(),
            produce: Latency::default(),
            e2e: Latency::default(),
            logs: [
                IntervalLog::new("produce", dir.join("produce.hlog"), window.start()),
                IntervalLog::new("end_to_end", dir.join("end_to_end.hlog"), window.start()),
            ],
            opened: None,
            closed: false,
            own: UsageSpan::default(),
            broker: None,
            stolen: 0.0,
            stages: Asked::NotYet,
            broker_stages: Vec::new(),
            notes: Vec::new(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    pub(crate) fn next_wake(&self) -> Nanos {
        let step = if self.args.fault.is_empty() { INTERVAL / 20 } else { OUTAGE_STEP };
        let mut at = self.next.min(clock::now() + step);
        if self.opened.is_none() {
            at = at.min(self.window.start());
        }
        at
    }

    fn take(&self) -> Taken {
        let own = process::usage(std::process::id()).unwrap_or_default();
        (own, self.target.usage(), process::stolen_ticks())
    }

    /// Takes in the histograms that came: of produces, and from end to end.
    fn take_intervals(
        &mut self,
        received: &Receiver<Interval>,
        now: Nanos,
        at_s: f64,
    ) -> (Latency, Latency) {
        let (mut produce_now, mut e2e_now) = (Latency::default(), Latency::default());
        while let Ok(interval) = received.try_recv() {
            match interval.kind {
                Kind::Produce => produce_now.add(&interval.latency),
                Kind::EndToEnd => e2e_now.add(&interval.latency),
            }
        }
        for (latency, log, column, total) in [
            (&produce_now, 0, &mut self.heat.produce, &mut self.produce),
            (&e2e_now, 1, &mut self.heat.end_to_end, &mut self.e2e),
        ] {
            if latency.count() > 0 {
                self.logs[log].write(latency, now);
                column.push((at_s, latency.counts_between(&self.heat.edges_ms)));
                total.add(latency);
            }
        }
        (produce_now, e2e_now)
    }

    /// Looks; once a second it adds to the series. `lag` is away while it is being asked.
    pub(crate) fn tick(&mut self, received: &Receiver<Interval>, lag: &Option<LagSampler>) {
        let now = clock::now();
        if self.opened.is_none() && now >= self.window.start() {
            self.opened = Some(self.take());
        }
        if now >= self.window.end() {
            self.close();
        }
        let at_s = (now.0 as f64 - self.window.start().0 as f64) / 1e9;
        if !self.args.fault.is_empty() {
            self.acked_at.push((at_s, self.progress.acked.load(Relaxed)));
        }
        if now < self.next && !self.closed {
            return;
        }
        let (produce_now, e2e_now) = self.take_intervals(received, now, at_s);
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        let progress = &self.progress;
        let counts = [&progress.sent, &progress.acked, &progress.consumed]
            .map(|counter| counter.load(Relaxed));
        let seconds = now.since(self.last.0) as f64 / 1e9;
        let rate = |index: usize| counts[index].saturating_sub(self.last.1[index]) as f64 / seconds;
        let (own, broker, _) = self.take();
        let cores = |before: &Usage, after: &Usage| {
            ((after.user_s + after.system_s) - (before.user_s + before.system_s)).max(0.0) / seconds
        };
        let seen = lag.as_ref().and_then(LagSampler::last);
        // While it is being asked, the last answer stands.
        let old = self.samples.last().filter(|_| lag.is_none());
        let sample = Sample {
            at_s,
            planned_per_s: self.plan.as_ref().map(|plan| plan.rate_at(at_s - seconds / 2.0)),
            sent_per_s: rate(0),
            acked_per_s: rate(1),
            consumed_per_s: rate(2),
            failed: progress.failed.load(Relaxed),
            produce_p50_ms: produce_now.percentile_ms(50.0),
            produce_p99_ms: produce_now.percentile_ms(99.0),
            e2e_p50_ms: e2e_now.percentile_ms(50.0),
            e2e_p99_ms: e2e_now.percentile_ms(99.0),
            e2e_max_ms: (e2e_now.count() > 0).then(|| e2e_now.max_ms()),
            broker_cores: self.last.3.as_ref().zip(broker.as_ref()).map(|(a, b)| cores(a, b)),
            broker_resident_bytes: broker.map(|used| used.resident_bytes),
            loadgen_cores: cores(&self.last.2, &own),
            lag_records: seen
                .map(|sample| sample.behind.clone())
                .or_else(|| old.map(|sample| sample.lag_records.clone()))
                .unwrap_or_default(),
            lag_committed_records: seen
                .map(|sample| sample.committed.clone())
                .or_else(|| old.map(|sample| sample.lag_committed_records.clone()))
                .unwrap_or_default(),
            lag_time_max_ms: seen.map_or(
                old.map_or(0.0, |sample| sample.lag_time_max_ms),
                crate::run::lag::LagSample::max_time_ms,
            ),
        };
        self.last = (now, counts, own, broker);
        if !self.args.quiet {
            self.show(&sample);
        }
        self.samples.push(sample);
    }

    /// One line: over the last one in a terminal, else under it.
    fn show(&self, sample: &Sample) {
        let phase = match sample.at_s {
            at if at < 0.0 => "warm-up",
            at if at > self.window.seconds() => "drain",
            _ => "measure",
        };
        let target =
            sample.planned_per_s.map_or_else(|| "max".to_owned(), |rate| format!("{rate:.0}"));
        let lag: i64 = sample.lag_records.iter().sum();
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"));
        let line = format!(
            "{:>6.0} s {phase:<8} {target}/s planned {:.0}/s sent {:.0}/s acked {:.0}/s read | so far \
             p50/p99 ms: produce {}/{} e2e {}/{} | lag {lag} failed {}",
            sample.at_s,
            sample.sent_per_s,
            sample.acked_per_s,
            sample.consumed_per_s,
            ms(self.produce.percentile_ms(50.0)),
            ms(self.produce.percentile_ms(99.0)),
            ms(self.e2e.percentile_ms(50.0)),
            ms(self.e2e.percentile_ms(99.0)),
            sample.failed
        );
        let mut out = std::io::stderr();
        let _ = if self.terminal {
            write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    /// Asks the broker for its stages when the window opens and when it closes.
    pub(crate) async fn ask_stages(&mut self) {
        let Some(address) = self.target.metrics() else { return };
        let is_due = match self.stages {
            Asked::NotYet => self.opened.is_some(),
            Asked::Once(..) => self.closed,
            Asked::Done => false,
        };
        if !is_due {
            return;
        }
        let told = StageCounts::read(&address).await;
        let before = std::mem::replace(&mut self.stages, Asked::Done);
        match (told, before) {
            (Ok(first), Asked::NotYet) => self.stages = Asked::Once(address, first),
            (Ok(last), Asked::Once(then, first)) => match last.since(&first) {
                Some(found) if then == address => self.broker_stages = found,
                _ => self.notes.push("the broker was another one at the end: no stages".into()),
            },
            (Ok(_), Asked::Done) => {}
            (Err(why), _) => self.notes.push(format!("no stages of the broker: {why}")),
        }
    }

    /// Takes the usage at the end of the window, once.
    pub(crate) fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let (own, broker, stolen) = self.take();
        let (own_before, broker_before, stolen_before) =
            self.opened.unwrap_or((own, broker, stolen));
        self.own = UsageSpan::between(own_before, own);
        self.broker = broker.zip(broker_before).map(|(a, b)| UsageSpan::between(b, a));
        let total = stolen.1.saturating_sub(stolen_before.1).max(1);
        self.stolen = stolen.0.saturating_sub(stolen_before.0) as f64 / total as f64;
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        if self.terminal && !self.args.quiet && !self.samples.is_empty() {
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// Every second's histogram, in the format that HdrHistogram's tools read.
struct IntervalLog {
    name: &'static str,
    path: PathBuf,
    start: Nanos,
    begun: bool,
}

impl IntervalLog {
    fn new(name: &'static str, path: PathBuf, start: Nanos) -> Self {
        Self { name, path, start, begun: false }
    }

    fn write(&mut self, latency: &Latency, now: Nanos) {
        let at = Duration::from_nanos(now.since(self.start)).saturating_sub(INTERVAL);
        let mut serializer = V2DeflateSerializer::new();
        let mut entry = Vec::new();
        let mut writer = IntervalLogWriterBuilder::new();
        if !std::mem::replace(&mut self.begun, true) {
            writer.add_comment(
                "nanoseconds from the planned send time; seconds of the measured time",
            );
        }
        if let Ok(mut log) = writer.begin_log_with(&mut entry, &mut serializer) {
            let _ = log.write_histogram(latency.inner(), at, INTERVAL, Tag::new(self.name));
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.path);
        let _ = file.and_then(|mut file| file.write_all(&entry));
    }
}
