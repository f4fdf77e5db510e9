//! One run: topic, consumers, producers on schedule, drain, outcome.

use crate::args::Args;
use crate::consumer::{Consumer, ConsumerOutcome, group_id};
use crate::embedded::EmbeddedBroker;
use crate::histogram::Latency;
use crate::producer::{Payloads, Producer, ProducerOutcome};
use crate::report::{self, IntervalLog, Sample};
use crate::schedule::Schedule;
use crate::verifier::Seen;
use crate::{Ending, Failure};
use client::{Cluster, Connection, TopicView, create, delete, describe, end_offsets};
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::process::{self, StopSignals, Usage};
use runtime::random;
use runtime::{Io, Runtime, spawn, thread, timer};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use wire::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

/// How often the series and the histogram logs get a point.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// Threads get going before the first record is planned.
/// Groups that take longer to come together are not waited for.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(60);
const HEAD_START: Duration = Duration::from_millis(300);

/// The measured part of a run. Records count by their planned time, arrivals by their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: Nanos,
    pub(crate) end: Nanos,
}

impl Window {
    pub(crate) fn contains(self, at: Nanos) -> bool {
        self.start <= at && at < self.end
    }

    pub(crate) fn is_before_end(self, at: Nanos) -> bool {
        at < self.end
    }

    pub(crate) fn seconds(self) -> f64 {
        self.end.since(self.start) as f64 / 1e9
    }
}

/// A second's latencies from one worker.
pub(crate) struct Interval {
    pub(crate) kind: &'static str,
    pub(crate) latency: Latency,
}

/// Where consumers are in a partition.
#[derive(Default)]
pub(crate) struct PartitionPlace {
    pub(crate) position: AtomicI64,
    pub(crate) high_watermark: AtomicI64,
    pub(crate) last_planned: AtomicU64,
}

/// Counters every thread sees; single numbers only, for show and for stopping.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) sent: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) consumed: AtomicU64,
    pub(crate) partitions: Vec<PartitionPlace>,
    pub(crate) records_max: Option<u64>,
    /// Members that have an assignment.
    pub(crate) members_ready: AtomicU64,
    /// What is measured; set before the first record is planned.
    pub(crate) window: OnceLock<Window>,
    starts_at: AtomicU64,
    stop: AtomicBool,
    abort: AtomicBool,
    stop_consumers: AtomicBool,
}

impl Progress {
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(crate) fn aborted(&self) -> bool {
        self.abort.load(Relaxed)
    }

    pub(crate) fn consumers_stopping(&self) -> bool {
        self.stop_consumers.load(Relaxed)
    }

    /// What is measured; before it is known, nothing.
    pub(crate) fn window(&self) -> Window {
        let never = Nanos(u64::MAX);
        self.window.get().copied().unwrap_or(Window { start: never, end: never })
    }

    /// When the first record is planned.
    pub(crate) fn starts_at(&self) -> Nanos {
        Nanos(self.starts_at.load(Relaxed))
    }

    pub(crate) fn lags(&self) -> Vec<i64> {
        let lag = |place: &PartitionPlace| {
            (place.high_watermark.load(Relaxed) - place.position.load(Relaxed)).max(0)
        };
        self.partitions.iter().map(lag).collect()
    }
}

/// Everything a run found.
pub(crate) struct Outcome {
    pub(crate) args: Args,
    pub(crate) run: u64,
    pub(crate) seed: u64,
    pub(crate) broker: String,
    pub(crate) embedded: bool,
    pub(crate) started_unix_ms: i64,
    pub(crate) window: Window,
    pub(crate) produced: ProducerOutcome,
    pub(crate) consumed: ConsumerOutcome,
    pub(crate) lost: u64,
    /// Seen by a group again after a rebalance.
    pub(crate) redelivered: u64,
    pub(crate) drain_s: Option<f64>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) lag_end: Vec<i64>,
    pub(crate) own: UsageSpan,
    pub(crate) broker_usage: Option<UsageSpan>,
    pub(crate) stolen: f64,
    pub(crate) interrupted: bool,
}

/// CPU within the window, and memory at its end.
#[derive(Clone, Copy, Default)]
pub(crate) struct UsageSpan {
    pub(crate) user_s: f64,
    pub(crate) system_s: f64,
    pub(crate) resident_peak_bytes: u64,
}

impl UsageSpan {
    fn between(before: Usage, after: Usage) -> Self {
        Self {
            user_s: after.user_s - before.user_s,
            system_s: after.system_s - before.system_s,
            resident_peak_bytes: after.resident_peak_bytes,
        }
    }

    pub(crate) fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }
}

type ProducerThread = JoinHandle<Result<Vec<ProducerOutcome>, String>>;
type ConsumerThread = JoinHandle<Result<Vec<ConsumerOutcome>, String>>;

/// Runs and reports.
pub(crate) fn run(args: Args) -> Result<Ending, Failure> {
    let signals = StopSignals::listen().map_err(|error| Failure::usage(error.to_string()))?;
    let _ = process::raise_open_files();
    let output = report::make_output(&args)?;
    let runtime =
        Runtime::new(Io::Uring).map_err(|error| Failure::unreachable(error.to_string()))?;
    let embedded = match args.bootstrap_server {
        Some(_) => None,
        None => Some(EmbeddedBroker::start(&args)?),
    };
    let ran = runtime.block_on(run_on(args, signals, embedded.as_ref(), &output));
    let outcome = ran.expect("only the twin stops").inspect_err(|_| output.abandon())?;
    drop(embedded);
    report::finish(&outcome, &output)
}

async fn run_on(
    args: Args,
    signals: StopSignals,
    embedded: Option<&EmbeddedBroker>,
    output: &report::Output,
) -> Result<Outcome, Failure> {
    let interrupted = Rc::new(Cell::new(false));
    let wake = Rc::new(Notify::default());
    spawn({
        let (interrupted, wake) = (Rc::clone(&interrupted), Rc::clone(&wake));
        async move {
            signals.wait().await;
            interrupted.set(true);
            wake.notify();
        }
    });
    let run = random::seed() >> 16;
    let seed = args.seed.unwrap_or_else(|| random::seed() >> 32);
    let broker = embedded.map_or_else(
        || args.bootstrap_server.clone().unwrap_or_default(),
        |embedded| embedded.address().to_owned(),
    );
    let mut connection = bootstrap(&broker, &args.client_id).await?;
    let (topic, created) = topic_of(&mut connection, &args, run).await?;
    let partitions = topic.leaders.len();
    let progress = Arc::new(Progress {
        partitions: (0..partitions * args.groups as usize)
            .map(|_| PartitionPlace::default())
            .collect(),
        records_max: args.num_records,
        ..Progress::default()
    });
    let mut args = args;
    args.partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    let args = Arc::new(args);
    let broker_pid = embedded.map(EmbeddedBroker::pid).or(args.broker_pid);

    // The schedule is fixed before anything runs, and leaves time to get ready.
    let warmup = args.warmup;
    let measured =
        if args.num_records.is_some() { Duration::from_secs(86_400) } else { args.duration };
    let (intervals, received) = channel();
    // Consumers first, so that they see the first record.
    let consumes = args.consumer_count() > 0;
    let starts =
        Arc::new(if consumes { starts_of(&topic, &args).await? } else { vec![0; partitions] });
    for (at, place) in progress.partitions.iter().enumerate() {
        place.position.store(starts[at % partitions], Relaxed);
        place.high_watermark.store(starts[at % partitions], Relaxed);
    }
    let consumers = start_consumers(&args, &topic, run, &broker, &starts, &progress, &intervals)?;
    until_assigned(&args, &progress, &consumers, &interrupted).await;
    let ready_by = clock::now() + HEAD_START + Duration::from_millis(200);
    let mut window = Window { start: ready_by + warmup, end: ready_by + warmup + measured };
    progress.starts_at.store(ready_by.0, Relaxed);
    let _ = progress.window.set(window);
    let started_unix_ms = clock::unix_ms();
    let producers =
        start_producers(&args, &topic, run, seed, ready_by, window, &progress, &intervals)?;
    drop(intervals);

    let mut log = IntervalLog::new(output)?;
    let mut monitor = Monitor::new(&args, &progress, broker_pid, window);
    let mut closed_at = None;
    while !producers.iter().all(JoinHandle::is_finished) {
        let next = monitor.next_wake();
        until(&wake, next, &interrupted).await;
        monitor.tick(&received, &mut log);
        if interrupted.get() && closed_at.is_none() {
            closed_at = Some(clock::now());
            progress.stop.store(true, Relaxed);
            progress.abort.store(true, Relaxed);
        }
    }
    let produced_at = clock::now();
    if args.num_records.is_some() || closed_at.is_some() {
        // The window ends where the records did.
        window.end = closed_at.unwrap_or(produced_at).max(Nanos(window.start.0 + 1_000_000));
    }
    monitor.close();
    let drain_s = drain(&args, &progress, &mut monitor, &received, &mut log, &interrupted).await;
    let lag_end = progress.lags();
    progress.stop_consumers.store(true, Relaxed);
    let mut produced = ProducerOutcome::default();
    let mut sequences = Vec::new();
    for thread in producers {
        let outcomes =
            thread.join().map_err(|_| Failure::unreachable("a producer thread panicked"))?;
        for mut outcome in outcomes.map_err(Failure::unreachable)? {
            report::merge_producer(&mut produced, &outcome);
            sequences.push(std::mem::take(&mut outcome.sequences));
        }
    }
    let mut consumed = ConsumerOutcome::default();
    // A fetch may be parked at the broker: its wait ends it.
    for thread in consumers {
        while !thread.is_finished() {
            timer::sleep(Duration::from_millis(5)).await;
        }
        let outcomes =
            thread.join().map_err(|_| Failure::unreachable("a consumer thread panicked"))?;
        for outcome in outcomes.map_err(Failure::unreachable)? {
            report::merge_consumer(&mut consumed, outcome);
        }
    }
    monitor.tick(&received, &mut log);
    // What the members of a group saw, one after the other, must be everything.
    let mut seen: BTreeMap<(usize, i32, u32), Seen> = BTreeMap::new();
    let mut redelivered = 0;
    for (key, session) in std::mem::take(&mut consumed.sessions) {
        redelivered += seen.entry(key).or_default().join(&session);
    }
    let mut lost = 0;
    if args.consumer_count() > 0 && drain_s.is_some() {
        let empty = Seen::default();
        for group in 0..args.groups as usize {
            for (number, outcome) in sequences.iter().enumerate() {
                for (partition, (sent, failed)) in outcome.iter().enumerate() {
                    let key = (group, partition as i32, number as u32);
                    lost += seen.get(&key).unwrap_or(&empty).lost(*sent, failed);
                }
            }
        }
    }
    if created && !args.keep_topic && embedded.is_none() {
        let mut connection = bootstrap(&broker, &args.client_id).await?;
        let _ = delete(&mut connection, &topic.name).await;
    }
    if !args.keep_topic && embedded.is_none() && args.consumer_count() > 0 {
        delete_groups(&broker, &args, run).await;
    }
    Ok(Outcome {
        run,
        seed,
        broker,
        embedded: embedded.is_some(),
        started_unix_ms,
        window,
        produced,
        consumed,
        lost,
        redelivered,
        drain_s,
        lag_end,
        own: monitor.own,
        broker_usage: monitor.broker,
        stolen: monitor.stolen,
        samples: monitor.samples,
        interrupted: interrupted.get(),
        args: Args::clone(&args),
    })
}

async fn bootstrap(servers: &str, client_id: &str) -> Result<Connection, Failure> {
    let mut last = format!("{servers:?} names no broker");
    for server in servers.split(',').map(str::trim).filter(|server| !server.is_empty()) {
        match Connection::open(server, client_id).await {
            Ok(connection) => return Ok(connection),
            Err(why) => last = why,
        }
    }
    Err(Failure::unreachable(last))
}

async fn topic_of(
    connection: &mut Connection,
    args: &Args,
    run: u64,
) -> Result<(TopicView, bool), Failure> {
    let name = args.topic.clone().unwrap_or_else(|| format!("loadgen-{run:012x}"));
    if let Some(view) = describe(connection, &name).await.map_err(Failure::unreachable)? {
        return Ok((view, false));
    }
    let made = create(connection, &name, args.partitions, args.replication_factor).await;
    made.map(|view| (view, true)).map_err(Failure::unreachable)
}

fn cannot_spawn(error: std::io::Error) -> Failure {
    Failure::unreachable(format!("cannot start a thread: {error}"))
}

/// Splits `count` workers over at most half of the cores.
fn over_threads(count: usize) -> Vec<Vec<usize>> {
    let threads = count.min((thread::cpus().len() / 2).max(1));
    let mut split = vec![Vec::new(); threads];
    (0..count).for_each(|worker| split[worker % threads].push(worker));
    split
}

fn first_server(servers: &str) -> String {
    servers.split(',').map(str::trim).find(|s| !s.is_empty()).unwrap_or_default().to_owned()
}

/// Where each partition ends now: what is there is not this run's.
async fn starts_of(topic: &TopicView, args: &Args) -> Result<Vec<i64>, Failure> {
    let mut starts = vec![0; topic.leaders.len()];
    let mut by_leader: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (partition, leader) in topic.leaders.iter().enumerate() {
        by_leader.entry(leader).or_default().push(partition as i32);
    }
    for (leader, partitions) in by_leader {
        let asked = async {
            let mut connection = Connection::open(leader, &args.client_id).await?;
            end_offsets(&mut connection, &topic.name, &partitions).await
        };
        for (partition, end) in asked.await.map_err(Failure::unreachable)? {
            starts[partition as usize] = end;
        }
    }
    Ok(starts)
}

/// Waits until every member that comes at the start has its assignment.
async fn until_assigned(
    args: &Args,
    progress: &Progress,
    consumers: &[ConsumerThread],
    interrupted: &Cell<bool>,
) {
    let wanted = if args.scale_consumers { args.groups as usize } else { args.member_count() };
    let limit = clock::now() + ASSIGNED_WITHIN;
    let there = || progress.members_ready.load(Relaxed) >= wanted as u64;
    while args.consumer_count() > 0
        && !there()
        && clock::now() < limit
        && !interrupted.get()
        && !consumers.iter().any(JoinHandle::is_finished)
    {
        timer::sleep(Duration::from_millis(5)).await;
    }
}

/// The groups of a run are of no use after it.
async fn delete_groups(servers: &str, args: &Args, run: u64) {
    let Ok(mut cluster) = Cluster::open(servers, &args.client_id).await else { return };
    for group in 0..args.groups as usize {
        let group = group_id(run, group);
        if let Ok(address) = cluster.coordinator_of(&group).await {
            let request = DeleteGroupsRequest { groups_names: vec![group] };
            let _ = cluster.ask_at::<_, DeleteGroupsResponse>(&address, &request).await;
        }
    }
}

fn start_consumers(
    args: &Arc<Args>,
    topic: &TopicView,
    run: u64,
    bootstrap: &str,
    starts: &Arc<Vec<i64>>,
    progress: &Arc<Progress>,
    intervals: &Sender<Interval>,
) -> Result<Vec<ConsumerThread>, Failure> {
    let count = args.consumer_count();
    let mut threads = Vec::new();
    for workers in
        over_threads(args.member_count()).into_iter().filter(|workers| !workers.is_empty())
    {
        let (args, topic, progress) = (Arc::clone(args), topic.clone(), Arc::clone(progress));
        let (intervals, starts) = (intervals.clone(), Arc::clone(starts));
        let bootstrap = first_server(bootstrap);
        let spawned = thread::spawn("consumer", None, move || {
            process::precise_timers();
            let runtime = Runtime::new(Io::Uring).map_err(|error| error.to_string())?;
            let make = |worker: usize| Consumer {
                args: Arc::clone(&args),
                topic: topic.clone(),
                run,
                bootstrap: bootstrap.clone(),
                group: worker / count,
                number: worker % count,
                starts: Arc::clone(&starts),
                progress: Arc::clone(&progress),
                intervals: intervals.clone(),
            };
            let consumers: Vec<_> = workers.into_iter().map(make).collect();
            runtime
                .block_on(all(consumers.into_iter().map(Consumer::run)))
                .expect("only the twin stops")
        });
        threads.push(spawned.map_err(cannot_spawn)?);
    }
    Ok(threads)
}

fn start_producers(
    args: &Arc<Args>,
    topic: &TopicView,
    run: u64,
    seed: u64,
    start: Nanos,
    window: Window,
    progress: &Arc<Progress>,
    intervals: &Sender<Interval>,
) -> Result<Vec<ProducerThread>, Failure> {
    let count = args.producer_count();
    let mut threads = Vec::new();
    for workers in over_threads(count) {
        let (args, topic, progress) = (Arc::clone(args), topic.clone(), Arc::clone(progress));
        let intervals = intervals.clone();
        let spawned = thread::spawn("producer", None, move || {
            process::precise_timers();
            let runtime = Runtime::new(Io::Uring).map_err(|error| error.to_string())?;
            let payloads = Payloads::new(seed, args.record_size as usize);
            let make = |number: usize| Producer {
                schedule: Schedule::new(start, args.rate, count, number),
                args: Arc::clone(&args),
                topic: topic.clone(),
                run,
                number,
                window,
                payloads: Rc::clone(&payloads),
                progress: Arc::clone(&progress),
                intervals: intervals.clone(),
            };
            let producers: Vec<_> = workers.into_iter().map(make).collect();
            runtime
                .block_on(async {
                    // Nothing is sent before the schedule starts, also at rate 0.
                    timer::sleep_until(start).await;
                    all(producers.into_iter().map(Producer::run)).await
                })
                .expect("only the twin stops")
        });
        threads.push(spawned.map_err(cannot_spawn)?);
    }
    Ok(threads)
}

/// Runs futures side by side on this thread; their outputs in order, or the first error.
async fn all<T: 'static, F: Future<Output = Result<T, String>>>(
    futures: impl Iterator<Item = F>,
) -> Result<Vec<T>, String> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(result) => *output = Some(result),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().map(|(_, output)| output.expect("all are done")).collect()
}

async fn until(wake: &Notify, at: Nanos, interrupted: &Cell<bool>) {
    let was = interrupted.get();
    let mut woken = std::pin::pin!(wake.until(|| (interrupted.get() && !was).then_some(())));
    let mut sleep = std::pin::pin!(timer::sleep_until(at));
    std::future::poll_fn(|cx| {
        if woken.as_mut().poll(cx).is_ready() || sleep.as_mut().poll(cx).is_ready() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// Waits until everything acknowledged was consumed; `None` if the time-out came first.
async fn drain(
    args: &Args,
    progress: &Progress,
    monitor: &mut Monitor,
    received: &Receiver<Interval>,
    log: &mut IntervalLog,
    interrupted: &Cell<bool>,
) -> Option<f64> {
    let start = clock::now();
    let limit = if interrupted.get() { Duration::from_secs(2) } else { args.drain_timeout };
    if args.consumer_count() == 0 {
        return Some(0.0);
    }
    loop {
        let wanted = progress.acked.load(Relaxed) * u64::from(args.groups);
        let all_seen = progress.consumed.load(Relaxed) >= wanted;
        if all_seen && progress.lags().iter().all(|lag| *lag == 0) {
            return Some(clock::now().since(start) as f64 / 1e9);
        }
        if clock::now() >= start + limit {
            return None;
        }
        timer::sleep(Duration::from_millis(5)).await;
        if clock::now() >= monitor.next_wake() {
            monitor.tick(received, log);
        }
    }
}

/// Watches a run from the main thread: series, progress line, usage at the window's edges.
struct Monitor {
    args: Args,
    progress: Arc<Progress>,
    broker_pid: Option<u32>,
    window: Window,
    next: Nanos,
    last: (Nanos, [u64; 4]),
    samples: Vec<Sample>,
    ack: Latency,
    e2e: Latency,
    opened: Option<(Usage, Option<Usage>, (u64, u64))>,
    closed: bool,
    own: UsageSpan,
    broker: Option<UsageSpan>,
    stolen: f64,
}

impl Monitor {
    fn new(args: &Args, progress: &Arc<Progress>, broker_pid: Option<u32>, window: Window) -> Self {
        let now = clock::now();
        Self {
            args: args.clone(),
            progress: Arc::clone(progress),
            broker_pid,
            window,
            next: now + INTERVAL,
            last: (now, [0; 4]),
            samples: Vec::new(),
            ack: Latency::default(),
            e2e: Latency::default(),
            opened: None,
            closed: false,
            own: UsageSpan::default(),
            broker: None,
            stolen: 0.0,
        }
    }

    fn next_wake(&self) -> Nanos {
        let mut at = self.next.min(clock::now() + Duration::from_millis(50));
        if self.opened.is_none() {
            at = at.min(self.window.start);
        }
        at
    }

    fn usage(&self) -> (Usage, Option<Usage>, (u64, u64)) {
        let own = process::usage(std::process::id()).unwrap_or_default();
        (own, self.broker_pid.and_then(process::usage), process::stolen_ticks())
    }

    fn tick(&mut self, received: &Receiver<Interval>, log: &mut IntervalLog) {
        let now = clock::now();
        if self.opened.is_none() && now >= self.window.start {
            self.opened = Some(self.usage());
        }
        if now >= self.window.end {
            self.close();
        }
        let (mut ack_now, mut e2e_now) = (Latency::default(), Latency::default());
        let mut any = false;
        while let Ok(interval) = received.try_recv() {
            any = true;
            log.write(&interval);
            if interval.kind == "ack" {
                ack_now.add(&interval.latency);
            } else {
                e2e_now.add(&interval.latency);
            }
        }
        if any {
            self.ack.add(&ack_now);
            self.e2e.add(&e2e_now);
        }
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        let progress = &self.progress;
        let counts = [&progress.sent, &progress.acked, &progress.consumed, &progress.failed]
            .map(|counter| counter.load(Relaxed));
        let seconds = now.since(self.last.0) as f64 / 1e9;
        let rate = |index: usize| (counts[index] - self.last.1[index]) as f64 / seconds;
        let lags = progress.lags();
        let behind = |place: &PartitionPlace| {
            let lag = place.high_watermark.load(Relaxed) - place.position.load(Relaxed);
            let last = place.last_planned.load(Relaxed);
            if lag > 0 && last > 0 { now.since(Nanos(last)) as f64 / 1e6 } else { 0.0 }
        };
        let sample = Sample {
            at_s: (now.0 as f64 - self.window.start.0 as f64) / 1e9,
            sent_per_s: rate(0),
            acked_per_s: rate(1),
            consumed_per_s: rate(2),
            failed: counts[3],
            ack_p99_ms: ack_now.percentile_ms(99.0),
            e2e_p99_ms: e2e_now.percentile_ms(99.0),
            lag_time_max_ms: progress.partitions.iter().map(behind).fold(0.0, f64::max),
            lags,
        };
        self.last = (now, counts);
        if !self.args.quiet {
            report::show_progress(&self.args, &sample, &self.ack, &self.e2e);
        }
        self.samples.push(sample);
    }

    /// Takes the usage at the end of the window, once.
    fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let (own, broker, stolen) = self.usage();
        let (own_before, broker_before, stolen_before) =
            self.opened.unwrap_or((own, broker, stolen));
        self.own = UsageSpan::between(own_before, own);
        self.broker = broker.zip(broker_before).map(|(a, b)| UsageSpan::between(b, a));
        let total = stolen.1.saturating_sub(stolen_before.1).max(1);
        self.stolen = stolen.0.saturating_sub(stolen_before.0) as f64 / total as f64;
    }
}

/// Errors of a run, by kind.
pub(crate) fn errors_of(outcome: &Outcome) -> BTreeMap<String, u64> {
    let mut errors = outcome.produced.errors.clone();
    for (kind, count) in &outcome.consumed.errors {
        *errors.entry(kind.clone()).or_default() += count;
    }
    errors
}
