//! From settings to serving shards, and back down.

use crate::api::dispatch::start as start_request;
use crate::api::mail;
use crate::config::Config;
use crate::coordinators::registry::{self, FOLLOWERS};
use crate::network::connection;
use crate::network::listeners::{Endpoint, ListenerSetting};
use crate::network::memory::HeldAnswer;
use crate::network::open_files::{ConnectionPlace, LIMIT_IS_LOW, OpenFiles};
use crate::network::peers::Peers;
use crate::observe::logging::{self, info, warning, warning_of};
use crate::observe::metrics_server;
use crate::observe::request_counts::RequestCounts;
use crate::observe::stages::StageTimes;
use crate::partitions::compaction;
use crate::shard::node::{Node, ServedListener};
use crate::shard::producer_ids::ProducerIdAuthority;
use crate::shard::shard::{Message, Shard};
use metadata::image::MetadataImage;
use runtime::mailbox::{MeshSeat, mesh};
use runtime::process::{self, StopSignals};
use runtime::socket::{Listener, Socket};
use runtime::{Io, Runtime, clock, spawn, thread, threads, timer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use storage::directory::catalog::Catalog;
use storage::directory::data_dir::DataDir;
use storage::directory::data_dirs::{Found, FoundDir, Recovery, find};
use storage::directory::log_manager::{JournalState, JournalStep, SharedDir};
use storage::directory::topic_changes::CatalogStore;
use storage::{Health, StorageError};

/// A journal that could not begin for want of space is tried again so much later.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);

/// A port that is taken is tried again for so long.
const PORT_WAITS_MAX: Duration = Duration::from_secs(1);

/// What a broker has of the machine it runs on, and of whoever runs it.
pub struct Means {
    /// Threads that serve.
    pub shards: usize,
    /// Files that may be open.
    pub open_files: u64,
    /// The processors that threads are pinned to; none: they are not pinned.
    pub cpus: Vec<usize>,
    /// Called, on any thread, when no data directory is left: the broker is to end at once.
    pub on_no_directory: Arc<dyn Fn() + Send + Sync>,
}

/// Serves until SIGINT or SIGTERM. `ready` is told the address of each listener once clients may connect, and where
/// Prometheus may.
///
/// # Errors
/// Why it could not start, and what to do; one line.
pub fn run(
    config: Config,
    ready: impl FnOnce(&[SocketAddr], Option<SocketAddr>),
) -> Result<(), String> {
    let signals = StopSignals::listen().map_err(|error| format!("signals: {error}"))?;
    // Only then: a thread that began before would be ended by them.
    logging::start()?;
    let open_files = process::raise_open_files();
    if open_files < LIMIT_IS_LOW {
        warning!(
            "only {open_files} files may be open, half of them logs: with more partitions than that files are \
             opened and closed for each write; raise the limit with `ulimit -n 65536` (systemd: LimitNOFILE)"
        );
    }
    let cpus = thread::cpus();
    // In a container the quota may be far below the processors that are seen.
    let per_quota = || thread::cpu_quota().unwrap_or(usize::MAX).min(cpus.len());
    let shards = if config.shards == 0 { per_quota() } else { config.shards };
    let end = || {
        logging::flush();
        std::process::exit(1);
    };
    let means = Means { shards, open_files, cpus, on_no_directory: Arc::new(end) };
    let runtime = Runtime::new(Io::Uring).map_err(|error| error.to_string())?;
    let served = serve(config, means, async || signals.wait().await, ready);
    runtime.block_on(served).expect("only the twin stops")
}

/// Serves on the calling thread, which has a runtime, and on others, until `stop` returns.
///
/// # Errors
/// As `run`.
pub async fn serve(
    config: Config,
    means: Means,
    stop: impl AsyncFn(),
    ready: impl FnOnce(&[SocketAddr], Option<SocketAddr>),
) -> Result<(), String> {
    let mut started = start(config, &means).await?;
    let mut seats = mesh::<Message>(means.shards);
    let image = started.node.first_image(&started.catalog.topics);
    let mut threads = Vec::new();
    for shard in (1..means.shards).rev() {
        let seat = seats.pop().expect("one seat a shard");
        let listeners = started.listeners.pop().expect("each shard has its own");
        let (node, image) = (Arc::clone(&started.node), Arc::clone(&image));
        let recovery = Arc::clone(&started.recovery);
        let cpu = means.cpus.get(shard % means.cpus.len().max(1)).copied();
        let follow = move || follow(node, seat, image, recovery, listeners);
        let thread = threads::start(&format!("weir-shard-{shard}"), cpu, follow);
        threads.push(thread.map_err(|error| format!("cannot start a thread: {error}"))?);
    }
    let seat = seats.pop().expect("shard 0 has a seat");
    if let Some(cpu) = means.cpus.first() {
        thread::pin_current(*cpu);
    }
    let (clean, dirs) = lead(started, seat, image, stop, ready).await?;
    for thread in threads {
        thread.join().await;
    }
    if clean {
        for dir in dirs {
            dir.close_clean().await.map_err(|error| error.to_string())?;
        }
        info!("stopped cleanly");
    } else {
        warning!("stopped, not cleanly; the next start recovers from the journal");
    }
    Ok(())
}

/// What a shard other than the first does from its beginning to its end.
async fn follow(
    node: Arc<Node>,
    seat: MeshSeat<Message>,
    image: Arc<MetadataImage>,
    recovery: Arc<Recovery>,
    listeners: Vec<Listener>,
) {
    let shard = begin(node, seat, &recovery);
    shard.open_all(image, &recovery).await;
    drop(recovery);
    let acceptor = Acceptor::new(listeners);
    shard.ready.set(true);
    shard.changed.notify();
    shard.changed.until(|| shard.begun.get().then_some(())).await;
    acceptor.serve(&shard).await;
}

/// What shard 0 does: it leads the start of all, and their end. Whether all of them ended cleanly.
async fn lead(
    started: Started,
    seat: MeshSeat<Message>,
    image: Arc<MetadataImage>,
    stop_asked: impl AsyncFn(),
    ready: impl FnOnce(&[SocketAddr], Option<SocketAddr>),
) -> Result<(bool, Vec<DataDir>), String> {
    let Started { node, mut dirs, store, mut listeners, metrics, recovery, .. } = started;
    let listeners = listeners.pop().expect("shard 0 has its own");
    let local = listeners.iter().map(Listener::local_address);
    let addresses: Vec<SocketAddr> =
        local.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let shard = begin(Arc::clone(&node), seat, &recovery);
    let shards = shard.mailbox.shards();
    shard.keep_catalogue(store);
    shard.open_all(image, &recovery).await;
    for to in 1..shards {
        shard.call(to, |shard| async move { until_ready(&shard).await }).await;
    }
    // Every partition has what the journals owed it: they begin anew, on every shard.
    let mut begun = begin_journals(&shard, &mut dirs, &recovery).await;
    let mut recovery = Some(recovery).filter(|_| !begun);
    shard.logs.sweep();
    for to in 0..shards {
        let keep = |shard: Rc<Shard>| async move {
            shard.on_begun();
            registry::look_after(&shard);
            spawn(Rc::clone(&shard).mend_for_ever());
            spawn(compaction::look_after(shard));
        };
        shard.call(to, keep).await;
    }
    for home in shard.homes().iter().filter(|home| !home.health().is_offline()) {
        if let Err(error) = home.reserve().take().await {
            warning!("no space is kept back for deletions on a full disk: {error}");
        }
    }
    let acceptor = Acceptor::new(listeners);
    spawn({
        let (shard, acceptor) = (Rc::clone(&shard), Rc::clone(&acceptor));
        async move { acceptor.serve(&shard).await }
    });
    tell_serving(&node, &addresses, shards);
    let mut metrics_at = None;
    if let Some(metrics) = metrics {
        metrics_at = metrics.local_address().ok();
        spawn(metrics_server::serve(Arc::clone(&node), metrics));
    }
    ready(&addresses, metrics_at);
    loop {
        let retry_at = (!begun).then(|| clock::now() + JOURNAL_RETRY);
        if timer::before(retry_at, stop_asked()).await.is_some() {
            break;
        }
        let found = recovery.as_ref().expect("kept until every journal is begun");
        begun = begin_journals(&shard, &mut dirs, found).await;
        recovery = recovery.filter(|_| !begun);
    }
    info!("stopping");
    let mut clean = true;
    acceptor.stop();
    for to in 1..shards {
        clean &= shard.call(to, |shard| async move { stop(&shard).await }).await;
    }
    clean &= stop(&shard).await;
    Ok((clean, dirs))
}

fn tell_serving(node: &Node, addresses: &[SocketAddr], shards: usize) {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let dirs: Vec<String> = node.dirs.iter().map(|dir| dir.path.display().to_string()).collect();
    info!(
        "weir {} serves {} from {} with {shards} shards, leader epoch {}",
        env!("CARGO_PKG_VERSION"),
        addresses.join(", "),
        dirs.join(", "),
        node.epoch
    );
}

struct Started {
    node: Arc<Node>,
    dirs: Vec<DataDir>,
    catalog: Catalog,
    store: CatalogStore,
    /// Of each shard, in the order of `Node::listeners`.
    listeners: Vec<Vec<Listener>>,
    metrics: Option<Listener>,
    recovery: Arc<Recovery>,
}

/// Says what a start found.
fn tell_found(found: &Found) {
    for (path, failure) in &found.failed {
        crate::observe::logging::error!("{}: the directory is offline: {failure}", path.display());
    }
    for text in &found.warnings {
        warning!("{text}");
    }
    for FoundDir { dir, replay, .. } in &found.dirs {
        if let Some(lost) = &replay.lost {
            crate::observe::logging::error!(
                "{}: every partition is refused: {lost}",
                dir.path().display()
            );
        }
        if !dir.was_clean() && !dir.is_new() {
            let appends: usize = replay.partitions.values().map(|notes| notes.appends.len()).sum();
            info!(
                "{}: not stopped cleanly; read {} MB of journal: {} partitions, {appends} journaled writes",
                dir.path().display(),
                replay.bytes / 1_000_000,
                replay.partitions.len()
            );
        }
    }
}

/// What a directory's first failure leads to: it is not used again before the next start, and the broker ends with
/// the last one.
fn on_directory_failed(
    path: PathBuf,
    left: Arc<AtomicUsize>,
    on_none_left: Arc<dyn Fn() + Send + Sync>,
) -> impl Fn(&StorageError) + Send + Sync {
    move |failure: &StorageError| {
        crate::observe::logging::error!(
            "{}: the directory is offline: {failure}; its partitions are refused until the disk is \
             mended and the broker restarted",
            path.display()
        );
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            crate::observe::logging::error!("no data directory is left: stopping");
            on_none_left();
        }
    }
}

/// Begins the journals of all shards. Where there is no space for one, it is tried again later.
async fn begin_journals(shard: &Rc<Shard>, dirs: &mut [DataDir], recovery: &Recovery) -> bool {
    let shards = shard.mailbox.shards();
    let on_shard = async |to, step: JournalStep| {
        let body =
            move |shard: Rc<Shard>| async move { shard.logs.step(&step, &shard.all_logs()).await };
        shard.call(to, body).await
    };
    let on_failure =
        |number: usize, error: &StorageError| shard.node.dirs[number].health.set_offline(error);
    let states =
        storage::directory::log_manager::begin_journals(dirs, shards, on_shard, on_failure).await;
    for (number, state) in states.iter().enumerate() {
        if let Some(error) = &state.waits {
            warning!("{error}; until there is room for the journal every partition syncs alone");
        }
        if state.done && !state.keeps_old {
            remove_stale_journals(shard, number, recovery).await;
        }
    }
    let is_over = |(number, state): (usize, &JournalState)| {
        state.done || shard.node.dirs[number].health.is_offline()
    };
    states.iter().enumerate().all(is_over)
}

/// Removes journals that this start does not use, of a directory through with the start.
async fn remove_stale_journals(shard: &Rc<Shard>, number: usize, recovery: &Recovery) {
    let has_journals = shard.node.config.journal_bytes > 0;
    let shards = if has_journals { shard.mailbox.shards() } else { 0 };
    let dir = &shard.node.dirs[number];
    let replay = &recovery.replays[number];
    if !dir.health.is_offline()
        && let Err(error) =
            storage::directory::log_manager::remove_stale_journals(&dir.path, replay, shards).await
    {
        warning!("journals that are not needed any more are not removed: {error}");
    }
}

/// Listens there, or says why it cannot.
fn bind(address: SocketAddr, setting: &str, reuse_port: bool) -> Result<Listener, String> {
    Listener::bind(address, reuse_port).map_err(|error| {
        let do_what = match error.kind() {
            ErrorKind::AddrInUse => "stop what listens there, or choose another port",
            ErrorKind::AddrNotAvailable => {
                "this machine has no such address: choose one that it has"
            }
            ErrorKind::PermissionDenied => {
                "this user may not listen there: choose a port from 1024 on"
            }
            _ => "choose another address",
        };
        format!("cannot listen on {address}: {error}; {do_what} ({setting})")
    })
}

/// As `bind`, of a port that nobody else has. The kernel takes a moment to close what a killed program had open.
async fn bind_alone(address: SocketAddr, setting: &str) -> Result<Listener, String> {
    let until = clock::now() + PORT_WAITS_MAX;
    loop {
        let bound = bind(address, setting, false);
        if bound.is_ok() || clock::now() >= until {
            return bound;
        }
        timer::sleep(Duration::from_millis(20)).await;
    }
}

/// A listener, and what its clients are told.
fn served_at(setting: &ListenerSetting, address: SocketAddr) -> ServedListener {
    let host = match setting.host.is_empty() {
        false => setting.host.clone(),
        // As Kafka does where no host is given.
        true => process::host_name().unwrap_or_else(|| "127.0.0.1".to_owned()),
    };
    let own = Endpoint { host, port: address.port() };
    let mut advertised = setting.advertised.clone().unwrap_or_else(|| own.clone());
    if advertised.port == 0 {
        advertised.port = address.port();
    }
    if setting.host.is_empty() && setting.advertised.is_none() {
        info!(
            "{}: clients are told to connect to {advertised}, this machine's name; advertised.listeners tells them \
             another",
            setting.name
        );
    }
    let at = Endpoint { host: setting.host.clone(), port: address.port() };
    ServedListener { name: setting.name.clone(), at, advertised }
}

async fn start(config: Config, means: &Means) -> Result<Started, String> {
    let shards = means.shards;
    // Without SO_REUSEPORT first: another program on the port is an error, not a partner.
    let mut probes = Vec::new();
    for listener in &config.listeners {
        probes.push(bind_alone(listener.address, "listeners").await?);
    }
    let addresses = probes.iter().map(Listener::local_address).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.map_err(|error| error.to_string())?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(bind_alone(address, "weir.metrics.listen").await?),
        None => None,
    };
    drop(probes);
    // The directories only then: a start that cannot listen has not touched them.
    let mut found =
        find(&config.data_dirs, config.node_id).await.map_err(|error| error.to_string())?;
    tell_found(&found);
    let store = found.catalog_store();
    let catalog = std::mem::take(&mut found.catalog);
    let (found_dirs, recovery) = found.split();
    let left = Arc::new(AtomicUsize::new(found_dirs.len()));
    let (mut dirs, mut shared) = (Vec::new(), Vec::new());
    for (dir, reserve) in found_dirs {
        let on_failure = on_directory_failed(
            dir.path().to_owned(),
            Arc::clone(&left),
            Arc::clone(&means.on_no_directory),
        );
        let health = Arc::new(Health::new(on_failure));
        shared.push(SharedDir { path: dir.path().to_owned(), health, reserve });
        dirs.push(dir);
    }
    let of_shard = |_| addresses.iter().map(|at| bind(*at, "listeners", true)).collect();
    let listeners = (0..shards).map(of_shard).collect::<Result<Vec<_>, _>>()?;
    let served = config.listeners.iter().zip(&addresses);
    let node = Node {
        listeners: served.map(|(setting, address)| served_at(setting, *address)).collect(),
        cluster_id: dirs[0].superblock().cluster_id.to_string(),
        epoch: dirs[0].leader_epoch(),
        producer_id_authority: ProducerIdAuthority::new(dirs[0].leader_epoch()),
        dirs: shared,
        stages: (0..shards).map(|_| StageTimes::default()).collect(),
        requests: (0..shards).map(|_| RequestCounts::default()).collect(),
        began_unix_ms: clock::unix_ms(),
        open_files: OpenFiles::divide(means.open_files, dirs.len(), shards, config.connections_max),
        peers: Peers::new(config.connections_per_ip_max, config.connections_per_s_max),
        config,
    };
    let (node, recovery) = (Arc::new(node), Arc::new(recovery));
    Ok(Started { node, dirs, catalog, store, listeners, metrics, recovery })
}

/// A shard's listeners and the connections they let in.
struct Acceptor {
    listeners: Vec<Listener>,
    peers: RefCell<BTreeMap<u64, Peer>>,
    /// The number of the next connection.
    next: Cell<u64>,
}

struct Peer {
    socket: Rc<Socket>,
    /// How many receives had ended when it was last looked at.
    receives: Cell<u64>,
    /// The send that was under way then, what was not acknowledged, and for how many looks both stayed the same.
    unread: Cell<(Option<u64>, i32, u64)>,
    /// Its answers other than fetches that are made and not sent.
    unsent: Rc<HeldAnswer>,
}

/// Connections that were silent for so long, and up to twice that, give back the memory they receive in.
const SILENT: Duration = Duration::from_secs(1);
/// Memory that nobody needed for so many times `SILENT` goes back to the system. (Each second instead, a bulk load
/// on a disk that stalls now and then had twice the page faults.)
const TRIM_TURNS: u64 = 10;
/// Who has not read an answer for so many times `SILENT` is let go when memory for answers is short.
const UNREAD_TURNS: u64 = 5;

impl Peer {
    /// Whether the same answer has been on its way for long; to be asked once in `SILENT`.
    fn does_not_read(&self) -> bool {
        let send = self.socket.send_under_way();
        // Who reads slowly takes long for a send, and acknowledges some of it meanwhile.
        let left = send.map_or(0, |_| self.socket.unacknowledged_bytes());
        let (before, left_before, looks) = self.unread.get();
        let is_same = send.is_some() && (send, left) == (before, left_before);
        let looks = if is_same { looks + 1 } else { 0 };
        self.unread.set((send, left, looks));
        looks >= UNREAD_TURNS
    }
}

impl Acceptor {
    fn new(listeners: Vec<Listener>) -> Rc<Self> {
        Rc::new(Self { listeners, peers: RefCell::default(), next: Cell::default() })
    }

    /// Serves connections until the shard is stopped.
    async fn serve(self: Rc<Self>, shard: &Rc<Shard>) {
        spawn(Rc::clone(&self).rest_silent_for_ever(Rc::clone(shard)));
        for listener in 0..self.listeners.len() {
            let (shard, acceptor) = (Rc::clone(shard), Rc::clone(&self));
            spawn(async move { accept(&shard, &acceptor, listener).await });
        }
        shard.changed.until(|| shard.stopping.get().then_some(())).await;
        self.stop();
        // The thread ends when its shard was stopped and has answered.
        shard.changed.until(|| shard.stopped.get().then_some(())).await;
        timer::sleep(Duration::from_millis(1)).await;
    }

    fn stop(&self) {
        self.listeners.iter().for_each(Listener::shutdown);
        for peer in self.peers.borrow().values() {
            peer.socket.shutdown();
        }
    }

    async fn rest_silent_for_ever(self: Rc<Self>, shard: Rc<Shard>) {
        for turn in 1u64.. {
            timer::sleep(SILENT).await;
            if turn.is_multiple_of(TRIM_TURNS) {
                shard.receive_pool.borrow_mut().trim();
            }
            let is_short = shard.other_answer_memory.take_was_short();
            for peer in self.peers.borrow().values() {
                let receives = peer.socket.receives();
                if peer.receives.replace(receives) == receives {
                    peer.socket.interrupt();
                }
                if peer.does_not_read() && is_short && peer.unsent.bytes() > 0 {
                    let address = peer.socket.peer_address();
                    warning_of!(
                        address,
                        "a connection is closed: it has not read its answer for {UNREAD_TURNS} s while others wait for \
                         its memory"
                    );
                    peer.socket.shutdown();
                }
            }
        }
    }
}

fn begin(node: Arc<Node>, seat: MeshSeat<Message>, recovery: &Recovery) -> Rc<Shard> {
    let shard = Shard::new(node, seat.sit(), recovery, FOLLOWERS);
    spawn(mail::serve(Rc::clone(&shard)));
    spawn(crate::api::data::fetch::refresh_for_ever(Rc::clone(&shard)));
    spawn(Rc::clone(&shard).retain_for_ever());
    shard
}

async fn until_ready(shard: &Shard) {
    shard.changed.until(|| shard.ready.get().then_some(())).await;
}

/// Waits until there is a place for one more connection; `None` when the shard stops before. Others wait in
/// the listener's queue meanwhile, as in Kafka.
async fn until_place(shard: &Shard) -> Option<ConnectionPlace> {
    let files = &shard.node.open_files;
    let mut told_at = None;
    loop {
        if let Some(place) = files.connect() {
            return Some(place);
        }
        let now = clock::now();
        if told_at.is_none_or(|at| now >= at + Duration::from_secs(10)) {
            told_at = Some(now);
            warning!(
                "{} connections are open, as many as may be: others wait until one of them is closed; \
                 max.connections and the limit of open files (`ulimit -n`) decide",
                files.connections_max
            );
        }
        if shard.stopping.get() {
            return None;
        }
        timer::sleep(Duration::from_millis(20)).await;
    }
}

async fn accept(shard: &Rc<Shard>, acceptor: &Rc<Acceptor>, listener: usize) {
    loop {
        match acceptor.listeners[listener].accept().await {
            Ok(socket) => {
                let address = socket.peer_address();
                let of_address = match address.map(|address| shard.node.peers.connect(address.ip()))
                {
                    Some(None) => {
                        let ip = address.expect("looked at above").ip();
                        warning_of!(
                            address,
                            "a connection from {ip} is closed: it has max.connections.per.ip"
                        );
                        continue;
                    }
                    Some(place) => place,
                    // It is gone already.
                    None => None,
                };
                let socket = Rc::new(socket);
                let now = clock::now();
                let begins_at = shard.node.peers.begins_at(now);
                if begins_at > now {
                    timer::sleep_until(begins_at).await;
                    if socket.has_hung_up() {
                        continue;
                    }
                }
                let number = acceptor.next.replace(acceptor.next.get() + 1);
                let unsent = Rc::new(shard.other_answer_memory.hold());
                let peer = Peer {
                    unsent: Rc::clone(&unsent),
                    socket: Rc::clone(&socket),
                    receives: Cell::new(0),
                    unread: Cell::default(),
                };
                acceptor.peers.borrow_mut().insert(number, peer);
                let place = until_place(shard).await;
                let (shard, acceptor) = (Rc::clone(shard), Rc::clone(acceptor));
                spawn(async move {
                    connection::serve(shard, listener as u16, socket, unsent, start_request).await;
                    acceptor.peers.borrow_mut().remove(&number);
                    drop((place, of_address));
                });
            }
            Err(_) if shard.stopping.get() => break,
            Err(error) if error.kind() == ErrorKind::InvalidInput => break,
            Err(error) => {
                // Out of descriptors, most likely: others may close theirs.
                warning_of!(None, "cannot accept a connection: {error}");
                timer::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Ends a shard's connections and closes its partitions; true if cleanly.
async fn stop(shard: &Rc<Shard>) -> bool {
    shard.stopping.set(true);
    shard.changed.notify();
    // Connections end first.
    timer::next_turn().await;
    let clean = shard.close_all().await;
    shard.stopped.set(true);
    shard.changed.notify();
    clean
}
