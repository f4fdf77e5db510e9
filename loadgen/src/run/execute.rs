//! One run: topics, consumers, producers on schedule, faults, drain, result.

use crate::ending::{Ending, Failure};
use crate::judge::judging::{Found, judge};
use crate::judge::result::{FaultFound, RunResult};
use crate::load::payload::Payloads;
use crate::options::args::Args;
use crate::report;
use crate::run::environment;
use crate::run::faults::Fault;
use crate::run::lag::LagSampler;
use crate::run::monitor::Monitor;
use crate::run::session::Session;
use crate::run::target::Target;
use crate::work::agent::Conductor;
use crate::work::consumer::{ConsumerOutcome, group_id};
use crate::work::crew::{Crew, Job};
use crate::work::layout::Layout;
use crate::work::producer::ProducerOutcome;
use crate::work::progress::{Interval, Progress, Window};
use client::{Cluster, Connection, TopicView, create, delete, describe};
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::{random, timer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::time::Duration;
use wire::messages::{
    CreatableTopicConfig, DeleteGroupsRequest, DeleteGroupsResponse, DescribeConfigsRequest,
    DescribeConfigsResource, DescribeConfigsResponse,
};

/// Groups that take longer to come together are not waited for.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(60);
/// Threads get going before the first record is planned.
const HEAD_START: Duration = Duration::from_millis(500);
/// After an interruption the drain is given so long.
const DRAIN_INTERRUPTED: Duration = Duration::from_secs(2);
/// A measured time by number of records has no end of its own.
const ENDLESS: Duration = Duration::from_secs(86_400);

/// The default command: one run and its report.
pub(crate) async fn run(args: Args, session: Session) -> Result<Ending, Failure> {
    let output = report::output::Output::make(args.output.as_deref(), "run")?;
    let target = Target::of(&args).inspect_err(|_| output.abandon())?;
    let ran = execute(&args, &target, &session, output.dir()).await;
    let result = ran.inspect_err(|_| output.abandon())?;
    report::output::show(&report::text::text(&result), output.dir());
    Ok(Ending::of(result.exit_code))
}

/// Runs once and leaves reports and raw data in `dir`.
pub(crate) async fn execute(
    args: &Args,
    target: &Target,
    session: &Session,
    dir: &Path,
) -> Result<RunResult, Failure> {
    let run = random::seed() >> 16;
    let seed = args.seed.unwrap_or_else(|| random::seed() >> 32);
    let mut environment = environment::look(target.data_dir.as_deref());
    let payloads = Payloads::new(&args.payload, args.compressibility, seed, args.record_size.max())
        .map_err(Failure::usage)?;
    let (mut connection, servers) = bootstrap(target.servers(), &args.client_id).await?;
    let (views, made) = topics_of(&mut connection, args, run).await?;
    let topic_settings = settings_of(&mut connection, &views[0].name).await;
    let layout = Arc::new(Layout::new(views));
    let mut args = args.clone();
    args.partitions = i32::try_from(layout.span_of(0).1).unwrap_or(i32::MAX);
    let args = Arc::new(args);

    let progress = Arc::new(Progress::new(&args, vec![0; layout.slots()]));
    let csv = dir.join("lag.csv");
    let mut probe =
        LagSampler::new(&args, &layout, &servers, run, &progress, csv.clone(), clock::now());
    // What is there already is not this run's.
    let starts = if args.consumer_count() > 0 {
        probe.first_ends().await.map_err(Failure::unreachable)?
    } else {
        vec![0; layout.slots()]
    };
    let progress = Arc::new(Progress::new(&args, starts.clone()));
    let (intervals, received) = channel();
    let job = Job {
        args: Arc::clone(&args),
        layout: Arc::clone(&layout),
        run,
        seed,
        servers: servers.clone(),
        starts: Arc::new(starts),
        progress: Arc::clone(&progress),
        intervals,
        share: (0, 1),
        clock_offset: 0,
    };
    let mut crew = match &args.agents {
        None => Workers::Here(Crew::start(job)?),
        Some(agents) => Workers::Elsewhere(Conductor::start(job, agents).await?),
    };
    until_assigned(&args, &progress, &crew, session).await;
    if crew.consumers_gone() {
        // Why is theirs to tell; nothing was sent yet.
        crew.stop_consumers();
        crew.consumed().await?;
        return Err(Failure::unreachable(crew.lost().join("; ")));
    }

    // The schedule is fixed before anything runs, and leaves time to get ready.
    let start = clock::now() + HEAD_START;
    let measured = if args.num_records.is_some() { ENDLESS } else { args.duration };
    let mut window = Window::new(start + args.warmup, start + args.warmup + measured);
    progress.begin(start, window);
    let started_unix_ms = clock::unix_ms();
    crew.produce(&payloads, start, window).await?;
    drop(payloads);

    let sampler = LagSampler::new(&args, &layout, &servers, run, &progress, csv, window.start());
    let sampler = Rc::new(RefCell::new(Some(sampler)));
    let mut monitor = Monitor::new(&args, &progress, target, window, dir);
    let watching = Rc::new(Cell::new(true));
    let looked = Notify::default();
    let watch = keep_sampling(&sampler, &watching, &looked, args.lag_interval);
    let faults = RefCell::new(Vec::new());
    let work = async {
        let mut closed_at = None;
        while crew.is_producing() {
            session.until(monitor.next_wake()).await;
            monitor.tick(&received, &sampler.borrow());
            monitor.ask_stages().await;
            if session.is_interrupted() && closed_at.is_none() {
                closed_at = Some(clock::now());
                crew.stop();
            }
        }
        watching.set(false);
        closed_at
    };
    let suffer = suffer_all(&args.fault, target, window.start(), &watching, &faults);
    let closed_at = first_with(work, watch, suffer).await;
    let produced_at = clock::now();
    if args.num_records.is_some() || closed_at.is_some() {
        // The window ends where the records did.
        let end = closed_at.unwrap_or(produced_at).max(Nanos(window.start().0 + 1_000_000));
        window = Window::new(window.start(), end);
    }
    monitor.close();
    monitor.ask_stages().await;
    let mut sampler = sampler.borrow_mut().take().expect("put back after each look");
    let limit = if closed_at.is_some() { DRAIN_INTERRUPTED } else { args.drain_timeout };
    let drained = drain(&args, &mut sampler, &mut monitor, &received, limit).await;
    let _ = sampler.sample().await;
    crew.stop_consumers();
    let produced = crew.produced().await?;
    let consumed = crew.consumed().await?;
    monitor.tick(&received, &None);
    let _ = sampler.write();
    clean_up(&args, target, made, run).await;
    environment.stolen_share = monitor.stolen;
    let found = Found {
        args: &args,
        run,
        seed,
        target,
        started_unix_ms,
        topic_settings,
        agents: crew.clocks(),
        lost: crew.lost(),
        environment,
        window,
        produced,
        consumed,
        drained,
        sampler: &sampler,
        monitor,
        layout: &layout,
        faults: faults.into_inner(),
        interrupted: closed_at.is_some(),
    };
    let result = judge(found);
    report::write_all(&result, &args, dir)?;
    Ok(result)
}

/// Workers on this machine, or on others.
pub(crate) enum Workers {
    Here(Crew),
    Elsewhere(Conductor),
}

impl Workers {
    fn consumers_gone(&self) -> bool {
        match self {
            Self::Here(crew) => crew.consumers_gone(),
            Self::Elsewhere(conductor) => !conductor.lost().is_empty(),
        }
    }

    async fn produce(
        &mut self,
        payloads: &Arc<Payloads>,
        start: Nanos,
        window: Window,
    ) -> Result<(), Failure> {
        match self {
            Self::Here(crew) => crew.produce(payloads, start, window),
            Self::Elsewhere(conductor) => conductor.produce(start, window).await,
        }
    }

    fn is_producing(&self) -> bool {
        match self {
            Self::Here(crew) => crew.is_producing(),
            Self::Elsewhere(conductor) => conductor.is_producing(),
        }
    }

    fn stop(&self) {
        match self {
            Self::Here(crew) => crew.progress().stop(),
            Self::Elsewhere(conductor) => conductor.stop(),
        }
    }

    fn stop_consumers(&self) {
        match self {
            Self::Here(crew) => crew.progress().stop_consumers(),
            Self::Elsewhere(conductor) => conductor.stop_consumers(),
        }
    }

    async fn produced(&mut self) -> Result<Vec<ProducerOutcome>, Failure> {
        match self {
            Self::Here(crew) => crew.produced().await,
            Self::Elsewhere(conductor) => Ok(conductor.produced().await),
        }
    }

    async fn consumed(&mut self) -> Result<Vec<ConsumerOutcome>, Failure> {
        match self {
            Self::Here(crew) => crew.consumed().await,
            Self::Elsewhere(conductor) => Ok(conductor.consumed().await),
        }
    }

    /// Load machines that are gone, and why.
    fn lost(&self) -> Vec<String> {
        match self {
            Self::Here(_) => Vec::new(),
            Self::Elsewhere(conductor) => conductor.lost(),
        }
    }

    fn clocks(&self) -> Vec<crate::judge::result::AgentClock> {
        match self {
            Self::Here(_) => Vec::new(),
            Self::Elsewhere(conductor) => conductor.clocks(),
        }
    }
}

/// Looks at lag again and again; the sampler is away while it looks.
async fn keep_sampling(
    sampler: &RefCell<Option<LagSampler>>,
    watching: &Cell<bool>,
    looked: &Notify,
    every: Duration,
) {
    let mut next = clock::now() + every;
    while watching.get() {
        let step = clock::now() + Duration::from_millis(20);
        timer::sleep_until(next.min(step)).await;
        if clock::now() < next {
            continue;
        }
        next = next.max(clock::now()) + every;
        let taken = sampler.borrow_mut().take();
        if let Some(mut taken) = taken {
            let _ = taken.sample().await;
            *sampler.borrow_mut() = Some(taken);
            looked.notify();
        }
    }
}

/// Makes all trouble on time, one after the other.
async fn suffer_all(
    faults: &[Fault],
    target: &Target,
    start: Nanos,
    watching: &Cell<bool>,
    found: &RefCell<Vec<FaultFound>>,
) {
    let mut faults = faults.to_vec();
    faults.sort_by_key(Fault::at);
    for fault in faults {
        while clock::now() < start + fault.at() {
            if !watching.get() {
                return;
            }
            let step = clock::now() + Duration::from_millis(20);
            timer::sleep_until((start + fault.at()).min(step)).await;
        }
        let began = clock::now();
        let error = target.suffer(&fault, watching).await.err();
        let seconds = |at: Nanos| at.since(start) as f64 / 1e9;
        found.borrow_mut().push(FaultFound {
            fault: fault.to_string(),
            began_s: seconds(began),
            ended_s: seconds(clock::now()),
            outage_s: None,
            recovered_after_s: None,
            error,
        });
    }
}

/// Runs all three side by side until each is done; the first one's output.
async fn first_with<T>(
    first: impl Future<Output = T>,
    second: impl Future<Output = ()>,
    third: impl Future<Output = ()>,
) -> T {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let mut third = std::pin::pin!(third);
    let (mut output, mut done) = (None, [false; 2]);
    std::future::poll_fn(|cx| {
        use std::task::Poll;
        if output.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(cx)
        {
            output = Some(value);
        }
        if !done[0] {
            done[0] = second.as_mut().poll(cx).is_ready();
        }
        if !done[1] {
            done[1] = third.as_mut().poll(cx).is_ready();
        }
        if output.is_some() && done == [true; 2] { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    output.expect("set above")
}

/// Waits until everything there is was read; `None` if the time-out came first.
async fn drain(
    args: &Args,
    sampler: &mut LagSampler,
    monitor: &mut Monitor<'_>,
    received: &std::sync::mpsc::Receiver<Interval>,
    limit: Duration,
) -> Option<f64> {
    let start = clock::now();
    if args.consumer_count() == 0 {
        return Some(0.0);
    }
    loop {
        if sampler.is_drained().await == Ok(true) {
            return Some(clock::now().since(start) as f64 / 1e9);
        }
        if clock::now() >= start + limit {
            return None;
        }
        timer::sleep(Duration::from_millis(5)).await;
        if clock::now() >= monitor.next_wake() {
            monitor.tick(received, &None);
        }
    }
}

/// The first of the servers that answers, and all of them with that one in front.
async fn bootstrap(servers: &str, client_id: &str) -> Result<(Connection, String), Failure> {
    let mut last = format!("{servers:?} names no broker");
    let all: Vec<&str> =
        servers.split(',').map(str::trim).filter(|server| !server.is_empty()).collect();
    for &server in &all {
        match Connection::open(server, client_id).await {
            Ok(connection) => {
                let others = all.iter().copied().filter(|other| *other != server);
                let order: Vec<&str> = std::iter::once(server).chain(others).collect();
                return Ok((connection, order.join(",")));
            }
            Err(why) => last = why,
        }
    }
    Err(Failure::unreachable(last))
}

/// The topics, and which of them were made.
async fn topics_of(
    connection: &mut Connection,
    args: &Args,
    run: u64,
) -> Result<(Vec<TopicView>, Vec<String>), Failure> {
    let name = args.topic.clone().unwrap_or_else(|| format!("loadgen-{run:012x}"));
    let (mut views, mut made) = (Vec::new(), Vec::new());
    for number in 0..args.topics {
        let name = if args.topics == 1 { name.clone() } else { format!("{name}-{number}") };
        if let Some(view) = describe(connection, &name).await.map_err(Failure::unreachable)? {
            as_asked(connection, args, &view).await?;
            views.push(view);
            continue;
        }
        let setting = |text: &String| {
            let (key, value) = text.split_once('=').expect("checked when parsed");
            CreatableTopicConfig { name: key.to_owned(), value: Some(value.to_owned()) }
        };
        let configs = args.topic_config.iter().map(setting).collect();
        let view = create(connection, &name, args.partitions, args.replication_factor, configs);
        views.push(view.await.map_err(Failure::unreachable)?);
        made.push(name);
    }
    Ok((views, made))
}

/// An existing topic must be what was asked for; its number of partitions is taken as it is unless
/// another one was asked for.
async fn as_asked(
    connection: &mut Connection,
    args: &Args,
    view: &TopicView,
) -> Result<(), Failure> {
    let wanted = args.partitions as usize;
    if wanted != 1 && wanted != view.leaders.len() {
        return Err(Failure::usage(format!(
            "topic {} has {} partitions, not --partitions {wanted}: leave the option out, or choose \
             another topic",
            view.name,
            view.leaders.len()
        )));
    }
    if args.topic_config.is_empty() {
        return Ok(());
    }
    let settings = settings_of(connection, &view.name).await;
    for setting in &args.topic_config {
        let (key, value) = setting.split_once('=').expect("checked when parsed");
        let found = settings.get(key).map_or("(not told)", String::as_str);
        if found != value {
            return Err(Failure::usage(format!(
                "topic {} has {key}={found}, not {value} as --topic-config asks: change it, or choose \
                 another topic",
                view.name
            )));
        }
    }
    Ok(())
}

/// A topic's settings, as far as the broker tells them.
async fn settings_of(connection: &mut Connection, topic: &str) -> BTreeMap<String, String> {
    let resource = DescribeConfigsResource {
        resource_type: 2,
        resource_name: topic.to_owned(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let asked = connection.ask::<_, DescribeConfigsResponse>(&request).await;
    let results = asked.map(|response| response.results).unwrap_or_default();
    let entries = results.into_iter().flat_map(|result| result.configs);
    entries.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect()
}

/// Waits until every member that comes at the start has its assignment.
async fn until_assigned(args: &Args, progress: &Progress, crew: &Workers, session: &Session) {
    let early = (args.groups - args.late_groups) as usize;
    let each = if args.scale_consumers { 1 } else { args.consumer_count() };
    let limit = clock::now() + ASSIGNED_WITHIN;
    let there = || progress.members_ready.load(Relaxed) >= (early * each) as u64;
    while args.consumer_count() > 0
        && !there()
        && clock::now() < limit
        && !session.is_interrupted()
        && !crew.consumers_gone()
    {
        timer::sleep(Duration::from_millis(5)).await;
    }
}

/// Topics and groups of a run are of no use after it.
async fn clean_up(args: &Args, target: &Target, made: Vec<String>, run: u64) {
    if args.keep_topic {
        return;
    }
    if let Ok((mut connection, _)) = bootstrap(target.servers(), &args.client_id).await {
        for topic in made {
            let _ = delete(&mut connection, &topic).await;
        }
    }
    if args.consumer_count() == 0 {
        return;
    }
    let Ok(mut cluster) = Cluster::open(target.servers(), &args.client_id).await else { return };
    for group in 0..args.groups as usize {
        let group = group_id(run, group);
        if let Ok(address) = cluster.coordinator_of(&group).await {
            let request = DeleteGroupsRequest { groups_names: vec![group] };
            let _ = cluster.ask_at::<_, DeleteGroupsResponse>(&address, &request).await;
        }
    }
}
