//! Load from several machines: `loadgen agent` takes a share of a run that another loadgen conducts.
//! Counts and histograms come back whole and are merged as those of threads are; percentiles never.
//!
//! One connection per run, frames of JSON behind their length. The run's clock is the conductor's;
//! an agent learns how far its own is from it by the shortest of many round trips, at the start and
//! again at the end, and the report tells how well that is known.

use crate::ending::{Ending, Failure};
use crate::judge::result::AgentClock;
use crate::load::payload::Payloads;
use crate::options::args::Args;
use crate::options::flags::with_flags;
use crate::options::scenario;
use crate::run::session::Session;
use crate::work::consumer::ConsumerOutcome;
use crate::work::crew::{Crew, Job};
use crate::work::layout::Layout;
use crate::work::producer::ProducerOutcome;
use crate::work::progress::{Interval, Progress, Window};
use client::within;
use runtime::buffer::SharedBytes;
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
use runtime::socket::{Listener, Socket};
use runtime::{spawn, timer};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write as _;
use std::net::ToSocketAddrs;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Round trips by which a clock is learnt.
const PINGS: u64 = 40;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often an agent tells how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// An agent looks after its threads this often.
const TURN: Duration = Duration::from_millis(1);
const CHUNK_BYTES: usize = 1024 * 1024;
/// A longer frame is none of ours: whoever reaches an agent's port may send anything.
const ASK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What an agent found in a long run is longer.
const TELL_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// An agent that is silent for longer is gone. It may wait for a broker that is gone, but no longer.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// `loadgen agent`.
#[derive(clap::Args, Debug)]
pub(crate) struct AgentArgs {
    /// Address to listen on for conductors. Whoever reaches it can make this machine send load:
    /// keep it inside your network
    #[arg(long, default_value = "127.0.0.1:9400", value_name = "HOST:PORT")]
    listen: String,
}

/// What a conductor says.
#[derive(serde::Serialize, serde::Deserialize)]
enum Ask {
    Ping(u64),
    Prepare(Box<Share>),
    Produce { start_ns: u64, window: Window },
    Stop,
    StopConsumers,
}

/// An agent's part of a run.
#[derive(serde::Serialize, serde::Deserialize)]
struct Share {
    version: String,
    flags: Vec<String>,
    layout: Layout,
    run: u64,
    seed: u64,
    servers: String,
    starts: Vec<i64>,
    number: usize,
    of: usize,
    clock_offset: i64,
}

/// What an agent says.
#[derive(serde::Serialize, serde::Deserialize)]
enum Tell {
    Pong(u64, u64),
    Prepared,
    Progress(Box<Told>),
    Produced(Vec<ProducerOutcome>),
    Consumed(Vec<ConsumerOutcome>),
    Failed(String),
}

/// How far an agent is.
#[derive(serde::Serialize, serde::Deserialize)]
struct Told {
    sent: u64,
    acked: u64,
    failed: u64,
    consumed: u64,
    ready: u64,
    /// What moved: place, position, planned time of the last record on the run's clock.
    places: Vec<(usize, i64, u64)>,
    intervals: Vec<Interval>,
}

/// A connection that carries JSON.
struct Wire {
    socket: Rc<Socket>,
}

impl Wire {
    async fn send<T: serde::Serialize>(&self, what: &T) -> Result<(), String> {
        let json = serde_json::to_vec(what).map_err(|error| error.to_string())?;
        let length = u32::try_from(json.len()).map_err(|_| "a message is too long")?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&json);
        let sent = self.socket.send(&mut vec![SharedBytes::copy_of(&bytes)]).await;
        sent.map_err(|error| error.to_string())
    }
}

/// Messages that came, and whether the other side is gone.
struct Inbox<T> {
    queue: RefCell<VecDeque<T>>,
    gone: RefCell<Option<String>>,
    changed: Notify,
}

impl<T: serde::de::DeserializeOwned + 'static> Inbox<T> {
    /// Takes in what comes over a socket, until it ends.
    fn of(socket: &Rc<Socket>, frame_bytes_max: usize) -> Rc<Self> {
        let inbox = Rc::new(Self {
            queue: RefCell::default(),
            gone: RefCell::default(),
            changed: Notify::default(),
        });
        let (socket, filled) = (Rc::clone(socket), Rc::clone(&inbox));
        spawn(async move {
            let mut pool = ReceivePool::new(CHUNK_BYTES, 4);
            let mut buffer = ReceiveBuffer::new(&mut pool);
            let why = loop {
                let received = receive(&socket, &mut buffer, &mut pool, frame_bytes_max).await;
                let read = received.and_then(|frame| {
                    serde_json::from_slice(&frame)
                        .map_err(|error| format!("not understood: {error}"))
                });
                match read {
                    Ok(message) => filled.queue.borrow_mut().push_back(message),
                    Err(why) => break why,
                }
                filled.changed.notify();
            };
            *filled.gone.borrow_mut() = Some(why);
            filled.changed.notify();
        });
        inbox
    }

    /// The next message; an error if there will be none.
    async fn next(&self) -> Result<T, String> {
        let there = || match self.queue.borrow_mut().pop_front() {
            Some(message) => Some(Ok(message)),
            None => self.gone.borrow().clone().map(Err),
        };
        self.changed.until(there).await
    }

    /// The next message, if one comes by then.
    async fn next_by(&self, at: Nanos) -> Result<Option<T>, String> {
        timer::before(Some(at), self.next()).await.transpose()
    }
}

/// The next frame; one that says it is longer than `max` ends the connection before room is made.
async fn receive(
    socket: &Socket,
    buffer: &mut ReceiveBuffer,
    pool: &mut ReceivePool,
    max: usize,
) -> Result<SharedBytes, String> {
    loop {
        let length =
            buffer.bytes().first_chunk().map(|prefix| u32::from_be_bytes(*prefix) as usize);
        if length.is_some_and(|length| length > max) {
            return Err("what came is not from another loadgen".to_owned());
        }
        let wanted = length.map(|length| length + 4);
        if let Some(total) = wanted
            && buffer.bytes().len() >= total
        {
            return Ok(buffer.take(total).slice(4..total));
        }
        buffer.make_room(wanted.unwrap_or(0), pool);
        match socket.receive(buffer, wanted.unwrap_or(0)).await {
            Ok(0) => return Err("the connection was closed".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Serves conductors, one after the other, until interrupted.
pub(crate) async fn serve(args: AgentArgs, session: Session) -> Result<Ending, Failure> {
    let usage = |why: String| Failure::usage(format!("--listen {}: {why}", args.listen));
    let resolved = args.listen.to_socket_addrs().map_err(|error| usage(error.to_string()))?;
    let address = resolved.into_iter().next().ok_or_else(|| usage("no address".to_owned()))?;
    let listener = Listener::bind(address, false).map_err(|error| usage(error.to_string()))?;
    let local = listener.local_address().map_err(|error| usage(error.to_string()))?;
    let say = |text: String| {
        let _ = writeln!(std::io::stdout(), "{text}");
        let _ = std::io::stdout().flush();
    };
    say(format!("listening on {local}"));
    let waiting: Rc<RefCell<VecDeque<Socket>>> = Rc::default();
    spawn({
        let waiting = Rc::clone(&waiting);
        async move {
            while let Ok(socket) = listener.accept().await {
                waiting.borrow_mut().push_back(socket);
            }
        }
    });
    loop {
        if session.is_interrupted() {
            return Ok(Ending::Fine);
        }
        let next = waiting.borrow_mut().pop_front();
        let Some(socket) = next else {
            timer::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let peer = socket.peer_address().map_or_else(|| "?".to_owned(), |peer| peer.to_string());
        say(format!("{peer} conducts"));
        match take_share(Rc::new(socket), &session).await {
            Ok(()) => say(format!("{peer} is done")),
            Err(why) => say(format!("{peer}: {why}")),
        }
    }
}

async fn take_share(socket: Rc<Socket>, session: &Session) -> Result<(), String> {
    let inbox = Inbox::<Ask>::of(&socket, ASK_BYTES_MAX);
    let wire = Wire { socket };
    let share = loop {
        // Others wait for their turn: who says nothing has none.
        let ask = inbox.next_by(clock::now() + ANSWER_WITHIN).await?;
        match ask.ok_or("said nothing")? {
            Ask::Ping(number) => wire.send(&Tell::Pong(number, clock::now().0)).await?,
            Ask::Prepare(share) => break *share,
            _ => return Err("expected to be prepared first".to_owned()),
        }
    };
    let prepared = prepare(share);
    let (job, payloads, received) = match prepared {
        Ok(prepared) => prepared,
        Err(why) => {
            wire.send(&Tell::Failed(why.clone())).await?;
            return Err(why);
        }
    };
    let progress = Arc::clone(&job.progress);
    let offset = job.clock_offset;
    let mut crew = Crew::start(job).map_err(|failure| failure.why)?;
    wire.send(&Tell::Prepared).await?;
    let mut told: Vec<(i64, u64)> = vec![(-1, 0); progress.places.len()];
    let (mut producing, mut consuming) = (false, true);
    let here = |run_ns: u64| Nanos(run_ns.wrapping_add_signed(-offset));
    let mut tell_at = clock::now();
    loop {
        let gone = match inbox.next_by(clock::now() + TURN).await {
            Err(why) => Some(why),
            Ok(message) => {
                match message {
                    Some(Ask::Ping(number)) => {
                        wire.send(&Tell::Pong(number, clock::now().0)).await?
                    }
                    Some(Ask::Produce { start_ns, window }) => {
                        let window = Window::new(here(window.start().0), here(window.end().0));
                        progress.begin(here(start_ns), window);
                        crew.produce(&payloads, here(start_ns), window)
                            .map_err(|failure| failure.why)?;
                        producing = true;
                    }
                    Some(Ask::Stop) => progress.stop(),
                    Some(Ask::StopConsumers) => progress.stop_consumers(),
                    Some(Ask::Prepare(_)) => return Err("prepared twice".to_owned()),
                    None => {}
                }
                None
            }
        };
        if gone.is_some() || session.is_interrupted() {
            // Nobody asks any more: let the threads end.
            progress.stop();
            progress.stop_consumers();
            let _ = crew.produced().await;
            let _ = crew.consumed().await;
            return match gone {
                Some(why) if consuming => Err(why),
                _ => Ok(()),
            };
        }
        if clock::now() >= tell_at && consuming {
            tell_at = clock::now() + TELL_EVERY;
            let mut places = Vec::new();
            for (at, place) in progress.places.iter().enumerate() {
                let planned = place.last_planned.load(Relaxed);
                let now = (place.position.load(Relaxed), planned);
                if std::mem::replace(&mut told[at], now) != now {
                    places.push((at, now.0, planned.wrapping_add_signed(offset)));
                }
            }
            wire.send(&Tell::Progress(Box::new(Told {
                sent: progress.sent.load(Relaxed),
                acked: progress.acked.load(Relaxed),
                failed: progress.failed.load(Relaxed),
                consumed: progress.consumed.load(Relaxed),
                ready: progress.members_ready.load(Relaxed),
                places,
                intervals: received.try_iter().collect(),
            })))
            .await?;
        }
        if producing && !crew.is_producing() {
            producing = false;
            let produced = crew.produced().await.map_err(|failure| failure.why);
            match produced {
                Ok(outcomes) => wire.send(&Tell::Produced(outcomes)).await?,
                Err(why) => wire.send(&Tell::Failed(why)).await?,
            }
        }
        if consuming && progress.consumers_stopping() {
            consuming = false;
            let consumed = crew.consumed().await.map_err(|failure| failure.why);
            match consumed {
                Ok(outcomes) => wire.send(&Tell::Consumed(outcomes)).await?,
                Err(why) => wire.send(&Tell::Failed(why)).await?,
            }
        }
    }
}

type Prepared = (Job, Arc<Payloads>, std::sync::mpsc::Receiver<Interval>);

fn prepare(share: Share) -> Result<Prepared, String> {
    if share.version != env!("CARGO_PKG_VERSION") {
        return Err(format!(
            "the conductor is loadgen {}, this agent {}: use the same",
            share.version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let line = share.flags.into_iter().map(Into::into);
    let mut args = crate::options::flags::parse_run(line).map_err(|failure| failure.why)?;
    args.quiet = true;
    let payloads =
        Payloads::new(&args.payload, args.compressibility, share.seed, args.record_size.max())?;
    let progress = Arc::new(Progress::new(&args, share.starts.clone()));
    let (intervals, received) = channel();
    let job = Job {
        args: Arc::new(args),
        layout: Arc::new(share.layout),
        run: share.run,
        seed: share.seed,
        servers: share.servers,
        starts: Arc::new(share.starts),
        progress,
        intervals,
        share: (share.number, share.of),
        clock_offset: share.clock_offset,
    };
    Ok((job, payloads, received))
}

/// What is known of an agent.
#[derive(Default)]
struct Known {
    counts: [u64; 5],
    producing: bool,
    produced: Option<Vec<ProducerOutcome>>,
    consumed: Option<Vec<ConsumerOutcome>>,
    pong: Option<(u64, u64)>,
    /// When the answer to the last ping was read.
    pong_at: Nanos,
    /// When it was last heard of; it tells how far it is ten times a second.
    heard_at: Nanos,
    /// Everything was told: that the connection ends is no loss.
    done: bool,
    /// Why it is gone, if it is.
    lost: Option<String>,
}

impl Known {
    fn lose(&mut self, why: String) {
        self.producing = false;
        self.lost.get_or_insert(why);
    }
}

struct Link {
    address: String,
    wire: Wire,
    known: Rc<RefCell<Known>>,
    offset: i64,
    error_ns: u64,
}

/// Conducts a run on agents.
pub(crate) struct Conductor {
    links: Vec<Link>,
}

/// How far a clock is from this one, by the shortest round trip, and half of that.
async fn learn_clock(wire: &Wire, known: &RefCell<Known>) -> Result<(i64, u64), String> {
    let mut best: Option<(u64, i64)> = None;
    for number in 0..PINGS {
        known.borrow_mut().pong = None;
        let sent = clock::now();
        wire.send(&Ask::Ping(number)).await?;
        let (theirs, read_at) = loop {
            if let Some((_, theirs)) = known.borrow().pong.filter(|pong| pong.0 == number) {
                break (theirs, known.borrow().pong_at);
            }
            if let Some(why) = &known.borrow().lost {
                return Err(why.clone());
            }
            if clock::now() > sent + ANSWER_WITHIN {
                return Err("no answer in time".to_owned());
            }
            timer::sleep(Duration::from_micros(50)).await;
        };
        let took = read_at.since(sent);
        let middle = sent.0 + took / 2;
        let offset = middle.wrapping_sub(theirs) as i64;
        if best.is_none_or(|(shortest, _)| took < shortest) {
            best = Some((took, offset));
        }
    }
    let (took, offset) = best.expect("there was a ping");
    Ok((offset, took / 2))
}

impl Conductor {
    /// Connects to all agents, learns their clocks, and has their consumers start.
    pub(crate) async fn start(job: Job, agents: &str) -> Result<Self, Failure> {
        let addresses: Vec<String> =
            agents.split(',').map(|a| a.trim().to_owned()).filter(|a| !a.is_empty()).collect();
        let mut links = Vec::new();
        let of = addresses.len();
        for (number, address) in addresses.into_iter().enumerate() {
            let cannot = |why: String| Failure::unreachable(format!("agent {address}: {why}"));
            let resolved =
                address.to_socket_addrs().map_err(|error| cannot(error.to_string()))?.next();
            let resolved = resolved.ok_or_else(|| cannot("no address".to_owned()))?;
            let connected = within(ANSWER_WITHIN, Socket::connect(resolved)).await;
            let socket = connected
                .ok_or_else(|| cannot("no answer in time".to_owned()))?
                .map_err(|error| cannot(error.to_string()))?;
            let socket = Rc::new(socket);
            let known: Rc<RefCell<Known>> = Rc::default();
            let inbox = Inbox::<Tell>::of(&socket, TELL_BYTES_MAX);
            spawn(hear(inbox, Rc::clone(&known), Arc::clone(&job.progress), job.intervals.clone()));
            let wire = Wire { socket };
            let (offset, error_ns) = learn_clock(&wire, &known).await.map_err(cannot)?;
            let mut args = Args::clone(&job.args);
            (args.agents, args.seed) = (None, Some(job.seed));
            // What an agent's share is follows from the whole.
            args.producers = Some(job.args.producer_count() as u32);
            args.consumers = Some(job.args.consumer_count() as u32);
            let share = Share {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                flags: scenario::flags_of(&with_flags(&args, &[])?),
                layout: Layout::clone(&job.layout),
                run: job.run,
                seed: job.seed,
                servers: job.servers.clone(),
                starts: job.starts.to_vec(),
                number,
                of,
                clock_offset: offset,
            };
            wire.send(&Ask::Prepare(Box::new(share))).await.map_err(cannot)?;
            known.borrow_mut().heard_at = clock::now();
            links.push(Link { address, wire, known, offset, error_ns });
        }
        if links.is_empty() {
            return Err(Failure::usage("--agents names no agent, as HOST:PORT does"));
        }
        Ok(Self { links })
    }

    /// The agents that are gone, and why.
    pub(crate) fn lost(&self) -> Vec<String> {
        let why = |link: &Link| Some(format!("agent {}: {}", link.address, link.is_lost()?));
        self.links.iter().filter_map(why).collect()
    }

    pub(crate) async fn produce(&mut self, start: Nanos, window: Window) -> Result<(), Failure> {
        if let Some(why) = self.lost().into_iter().next() {
            return Err(Failure::unreachable(why));
        }
        for link in &self.links {
            link.known.borrow_mut().producing = true;
            let ask = Ask::Produce { start_ns: start.0, window };
            let sent = link.wire.send(&ask).await;
            sent.map_err(|why| Failure::unreachable(format!("agent {}: {why}", link.address)))?;
        }
        Ok(())
    }

    pub(crate) fn is_producing(&self) -> bool {
        self.links.iter().any(|link| link.is_lost().is_none() && link.known.borrow().producing)
    }

    fn tell_all(&self, ask: fn() -> Ask) {
        for link in &self.links {
            let wire = Wire { socket: Rc::clone(&link.wire.socket) };
            spawn(async move {
                let _ = wire.send(&ask()).await;
            });
        }
    }

    pub(crate) fn stop(&self) {
        self.tell_all(|| Ask::Stop);
    }

    pub(crate) fn stop_consumers(&self) {
        self.tell_all(|| Ask::StopConsumers);
    }

    /// What the producers of all agents found that are not gone.
    pub(crate) async fn produced(&mut self) -> Vec<ProducerOutcome> {
        let mut all = Vec::new();
        for link in &self.links {
            all.extend(link.outcomes(|known| known.produced.take()).await);
        }
        all
    }

    /// What the consumers of all agents found that are not gone. The clocks are looked at once more.
    pub(crate) async fn consumed(&mut self) -> Vec<ConsumerOutcome> {
        let mut all = Vec::new();
        for link in &mut self.links {
            all.extend(link.outcomes(|known| known.consumed.take()).await);
            if link.is_lost().is_some() {
                continue;
            }
            if let Ok((offset, error_ns)) = learn_clock(&link.wire, &link.known).await {
                // Clocks that ran apart meanwhile were off by that as well.
                let apart = offset.abs_diff(link.offset);
                link.error_ns = link.error_ns.max(error_ns) + apart;
            }
            link.known.borrow_mut().done = true;
            link.wire.socket.shutdown();
        }
        all
    }

    pub(crate) fn clocks(&self) -> Vec<AgentClock> {
        let clock = |link: &Link| AgentClock {
            address: link.address.clone(),
            clock_error_ms: link.error_ns as f64 / 1e6,
        };
        self.links.iter().map(clock).collect()
    }
}

impl Link {
    /// Why the agent is gone, if it is.
    fn is_lost(&self) -> Option<String> {
        let known = self.known.borrow();
        let silent = clock::now() > known.heard_at + SILENT_MAX && !known.done;
        known.lost.clone().or_else(|| silent.then(|| "it says nothing any more".to_owned()))
    }

    /// Waits for what it found; nothing if it is gone.
    async fn outcomes<T>(&self, take: impl Fn(&mut Known) -> Option<Vec<T>>) -> Vec<T> {
        loop {
            if let Some(outcomes) = take(&mut self.known.borrow_mut()) {
                return outcomes;
            }
            if self.is_lost().is_some() {
                return Vec::new();
            }
            timer::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Takes in what an agent tells: counts are added to the run's own.
async fn hear(
    inbox: Rc<Inbox<Tell>>,
    known: Rc<RefCell<Known>>,
    progress: Arc<Progress>,
    intervals: Sender<Interval>,
) {
    loop {
        let told = inbox.next().await;
        known.borrow_mut().heard_at = clock::now();
        match told {
            Err(why) => {
                let mut known = known.borrow_mut();
                if !known.done {
                    known.lose(why);
                }
                return;
            }
            Ok(Tell::Pong(number, now)) => {
                let mut known = known.borrow_mut();
                (known.pong, known.pong_at) = (Some((number, now)), clock::now());
            }
            Ok(Tell::Prepared) => {}
            Ok(Tell::Failed(why)) => known.borrow_mut().lose(why),
            Ok(Tell::Produced(outcomes)) => {
                let mut known = known.borrow_mut();
                known.produced = Some(outcomes);
                known.producing = false;
            }
            Ok(Tell::Consumed(outcomes)) => known.borrow_mut().consumed = Some(outcomes),
            Ok(Tell::Progress(told)) => {
                let now = [told.sent, told.acked, told.failed, told.consumed, told.ready];
                let before = std::mem::replace(&mut known.borrow_mut().counts, now);
                let counters = [
                    &progress.sent,
                    &progress.acked,
                    &progress.failed,
                    &progress.consumed,
                    &progress.members_ready,
                ];
                for (at, counter) in counters.into_iter().enumerate() {
                    counter.fetch_add(now[at].wrapping_sub(before[at]), Relaxed);
                }
                for (at, position, planned) in told.places {
                    if let Some(place) = progress.places.get(at) {
                        place.position.fetch_max(position, Relaxed);
                        place.last_planned.fetch_max(planned, Relaxed);
                    }
                }
                for interval in told.intervals {
                    let _ = intervals.send(interval);
                }
            }
        }
    }
}
