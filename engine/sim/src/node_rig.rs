//! A node's data through many lives: starts, changes of topics, stops at any step, with several directories and shards.
//!
//! What decides is the real thing: `data_dirs::find`, `LogManager`, `begin_journals`, `CatalogStore`. Directories are
//! missing in some lives, the number of shards changes, the disk fills up, one operation on one path fails, the machine
//! stops between any two steps. The oracle knows what was promised: records, where logs begin, which topics there are.
//! Nothing promised is ever gone or made anew; what cannot be served is refused and comes back.

use model::{
    BrokerId, LeaderEpoch, LogSettings, Offset, PartitionIndex, RecordBatch, TopicId, TopicName,
    TopicPartition,
};
use runtime::notify::Notify;
use runtime::random::Random;
use runtime::simulated::{Disk, Fault, SavedFile, Simulation, Verb};
use runtime::{Io, Runtime, random, timer};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::directory::data_dir::DataDir;
use storage::directory::data_dirs::find;
use storage::directory::log_manager::{
    LogManagerConfig, SharedDir, begin_journals, remove_stale_journals,
};
use storage::directory::topic_changes::{CatalogStore, NotChanged, TopicChange, TopicStep};
use storage::{Health, KnownJournals, Log, LogManager, Reserve, StorageError, TailCache};

mod oracle;

pub use oracle::Outcome;
use oracle::{Batch, Expected, Fate, KnownTopic, Oracle, batch, read_all};

const LIVES: u64 = 7;
const DIRS: [&str; 2] = ["/a", "/b"];
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

struct Machine {
    disk: Disk,
    oracle: RefCell<Oracle>,
    outcome: RefCell<Outcome>,
    incarnation: Cell<u32>,
    journal_bytes: u64,
    segment_bytes: u32,
    names: Cell<u64>,
    /// A start with all directories came to its end.
    all_known: Cell<bool>,
}

/// A life's circumstances.
#[derive(Clone)]
struct Life {
    machine: Rc<Machine>,
    seed: u64,
    /// Directories it is started with; of those some may turn out unusable.
    dirs: Rc<RefCell<Vec<PathBuf>>>,
    shards: usize,
    /// Something fails or is full: refusals need no other reason.
    is_troubled: bool,
    /// Bytes are spoilt.
    is_spoilt: bool,
    /// The file that was, also if it was put back.
    spoilt: Option<PathBuf>,
    steps: u64,
    begun: Rc<Cell<bool>>,
}

struct Node {
    /// Locked as long as the node lives.
    _dirs: Vec<DataDir>,
    managers: Vec<LogManager>,
    store: CatalogStore,
    logs: RefCell<BTreeMap<TopicPartition, Rc<Log>>>,
    epoch: LeaderEpoch,
    settings: LogSettings,
}

fn shared_dir(dir: &DataDir, reserve: &Arc<Reserve>) -> SharedDir {
    let (path, reserve) = (dir.path().to_owned(), Arc::clone(reserve));
    SharedDir { path, health: Arc::new(Health::default()), reserve }
}

/// Takes back what directories keep for a full disk.
async fn take_reserves(manager: &LogManager) {
    manager.sweep();
    for home in manager.homes() {
        if !home.health().is_offline() {
            let _ = home.reserve().take().await;
        }
    }
}

fn owner(id: TopicPartition, shards: usize) -> usize {
    (id.topic_id.0[3] as usize + id.partition.0 as usize) % shards
}

/// Runs one seed.
///
/// # Panics
/// When a promise is broken.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mut random = Random::new(seed ^ 0x6e6f_6465);
    let machine = Rc::new(Machine {
        disk: Disk::default(),
        oracle: RefCell::default(),
        outcome: RefCell::default(),
        incarnation: Cell::new(0),
        // Of one file: a third.
        journal_bytes: if random.one_in(6) {
            0
        } else {
            [3, 6][random.below(2) as usize] * 64 * 1024
        },
        segment_bytes: 60_000 + random.below(300_000) as u32,
        names: Cell::new(0),
        all_known: Cell::new(false),
    });
    for life in 0..LIVES {
        machine.live_once(&mut random, life);
    }
    machine.outcome.borrow_mut().faults = machine.disk.clear_faults();
    machine.outcome.borrow().clone()
}

impl Machine {
    fn life(self: &Rc<Self>, random: &mut Random, dirs: Vec<PathBuf>, steps: u64) -> Life {
        Life {
            machine: Rc::clone(self),
            seed: random.next_u64(),
            dirs: Rc::new(RefCell::new(dirs)),
            shards: 1 + random.below(3) as usize,
            is_troubled: false,
            is_spoilt: false,
            spoilt: None,
            steps,
            begun: Rc::default(),
        }
    }

    fn live_once(self: &Rc<Self>, random: &mut Random, number: u64) {
        let is_last = number + 1 == LIVES;
        let mut dirs: Vec<PathBuf> = DIRS.iter().map(PathBuf::from).collect();
        // Not before all were there once: what never was there is not missing.
        if self.all_known.get() && !is_last && random.one_in(5) {
            dirs.remove(random.below(DIRS.len() as u64) as usize);
            self.outcome.borrow_mut().missing += 1;
        }
        let steps = 1 + random.below(8);
        let mut life = self.life(random, dirs, steps);
        let mut simulation = Simulation::new(self.disk.clone(), random.next_u64());
        if random.one_in(4) {
            let days = random.below(4000) as i64 - 2000;
            simulation = simulation.with_wrong_clock(days * 86_400_000);
        }
        if !is_last && !random.one_in(3) {
            let steps = [40, 150, 600, 2000][random.below(4) as usize];
            simulation = simulation.stopping_at(3 + random.below(steps));
        }
        let mut is_unsure = false;
        if !is_last && random.one_in(3) {
            life.is_troubled = true;
            is_unsure = self.trouble(random);
        }
        // Shown if a promise is broken.
        println!(
            "life {number}: {:?}, {} shards, troubled {}, unsure {is_unsure}",
            life.dirs(),
            life.shards,
            life.is_troubled
        );
        let troubled = life.is_troubled;
        let begun = Rc::clone(&life.begun);
        let runtime = Runtime::new(Io::Simulated(simulation)).expect("the twin always starts");
        let result = runtime.block_on(life.run());
        drop(runtime);
        if result.is_err() && !begun.get() {
            self.outcome.borrow_mut().stopped_starts += 1;
        }
        self.disk.set_capacity(None);
        self.outcome.borrow_mut().faults += self.disk.clear_faults();
        // After a failed write or sync a kernel may have dropped what it held: only a power cut is fair.
        if random.one_in(2) && !is_unsure {
            println!("    killed, ended {}", result.is_ok());
            self.disk.kill_torn(random.next_u64());
        } else {
            println!("    power cut, ended {}", result.is_ok());
            self.disk.power_cut(random.next_u64());
            for expected in self.oracle.borrow_mut().partitions.values_mut() {
                expected.written = expected.durable;
            }
        }
        if result.is_ok() && !troubled && !is_last && random.one_in(2) {
            self.spoil(random);
        }
    }

    /// Lets something fail. True if afterwards nobody knows what the kernel still holds.
    fn trouble(&self, random: &mut Random) -> bool {
        if random.one_in(3) {
            let used: u64 =
                self.disk.files().iter().map(|(_, len)| len.next_multiple_of(4096)).sum();
            let more = [0, 100_000, 1_500_000][random.below(3) as usize];
            self.disk.set_capacity(Some(used + 200_000 + more));
            self.outcome.borrow_mut().full += 1;
            return false;
        }
        let mut is_unsure = false;
        for _ in 0..=random.below(2) {
            let verb = Verb::ALL[random.below(Verb::ALL.len() as u64) as usize];
            let paths = [
                "/a",
                "/b",
                "journal",
                "catalog",
                "superblock",
                ".log",
                "epochs",
                "partitions/",
                "start",
                "/",
            ];
            let path = paths[random.below(paths.len() as u64) as usize].to_owned();
            let errno = [EIO, EIO, EACCES, EMFILE, ENOSPC][random.below(5) as usize];
            let times = if random.one_in(2) { 1 } else { 1_000_000 };
            is_unsure |= matches!(verb, Verb::Write | Verb::Sync | Verb::SyncDir | Verb::Allocate);
            println!("fault: {verb:?} {path} {errno} {times}");
            self.disk.add_fault(Fault { verb, path, after: random.below(30), times, errno });
        }
        is_unsure
    }

    /// Spoils one file, starts, makes a topic, and sees that nothing is silently gone; then puts the file back as it
    /// was and sees that nothing was made worse.
    fn spoil(self: &Rc<Self>, random: &mut Random) {
        let before = self.disk.files();
        let files: Vec<_> = before
            .into_iter()
            .filter(|(path, len)| {
                let name = path.to_string_lossy();
                *len > 0
                    && !name.ends_with(".tmp")
                    && !name.ends_with("/lock")
                    && !name.ends_with("/reserve")
            })
            .collect();
        // Without a journal nobody knows what a segment held.
        let is_known = |path: &PathBuf| {
            self.journal_bytes > 0 || !path.to_string_lossy().contains("partitions")
        };
        let files: Vec<_> = files.into_iter().filter(|(path, _)| is_known(path)).collect();
        if files.is_empty() {
            return;
        }
        let (path, len) = files[random.below(files.len() as u64) as usize].clone();
        let whole = self.disk.copy_of(&path);
        let used = if random.one_in(3) { len } else { len.min(16_384) };
        let at = random.below(used);
        match random.below(5) {
            0 | 1 => self.disk.flip_bit(&path, at, random.below(8) as u8),
            2 => {
                let mut block = [0; 4096];
                if random.one_in(2) {
                    random.fill(&mut block);
                }
                self.disk.scribble(&path, at / 4096 * 4096, &block);
            }
            3 => self.disk.cut(&path, at),
            _ => self.disk.restore(&path, &SavedFile::default()),
        }
        self.outcome.borrow_mut().spoilt += 1;
        println!("spoilt: {}", path.display());
        let spoilt = self.disk.copy_of(&path);
        for is_spoilt in [true, false] {
            if !is_spoilt {
                // As a restore from a backup would, unless the program wrote there meanwhile.
                if !self.disk.copy_of(&path).holds_as(&spoilt) {
                    let names = path.iter().filter_map(|name| name.to_str());
                    let id = names.filter_map(TopicPartition::parse).next();
                    if let Some(id) = id {
                        let mut oracle = self.oracle.borrow_mut();
                        let expected = oracle.partitions.entry(id).or_default();
                        (expected.rotten, expected.written) = (true, expected.durable);
                    }
                    return;
                }
                self.disk.restore(&path, &whole);
            }
            let dirs = DIRS.iter().map(PathBuf::from).collect();
            let mut life = self.life(random, dirs, 2);
            life.is_spoilt = is_spoilt;
            life.spoilt = Some(path.clone());
            // What the first of them refused stays refused until it is looked at: a journal may say so now.
            life.is_troubled = true;
            let simulation = Simulation::new(self.disk.clone(), random.next_u64());
            let runtime = Runtime::new(Io::Simulated(simulation)).expect("the twin always starts");
            runtime.block_on(life.look()).expect("not stopped");
            drop(runtime);
            self.disk.kill();
        }
    }
}

impl Life {
    fn random(&self, salt: u64) -> Random {
        Random::new(self.seed ^ salt.wrapping_mul(0x9e37_79b9))
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.dirs.borrow().clone()
    }

    /// Starts as a broker does.
    async fn start(&self) -> Result<Rc<Node>, StorageError> {
        let machine = &self.machine;
        let mut found = find(&self.dirs(), BrokerId(1)).await?;
        let (is_complete, store) = (found.is_complete(), found.catalog_store());
        found.warnings.iter().for_each(|text| println!("    {text}"));
        let catalog = std::mem::take(&mut found.catalog);
        let (dirs, recovery) = found.split();
        let shared: Vec<SharedDir> =
            dirs.iter().map(|(dir, reserve)| shared_dir(dir, reserve)).collect();
        let mut dirs: Vec<DataDir> = dirs.into_iter().map(|(dir, _)| dir).collect();
        assert!(self.is_troubled || dirs.len() == self.dirs().len(), "a directory without trouble");
        *self.dirs.borrow_mut() = dirs.iter().map(|dir| dir.path().to_owned()).collect();
        let epoch = dirs[0].leader_epoch();
        if self.dirs().len() == DIRS.len() {
            let start = dirs[0].superblock().incarnation;
            assert!(machine.incarnation.get() < start, "epochs never repeat");
        }
        let start = dirs[0].superblock().incarnation;
        machine.incarnation.set(machine.incarnation.get().max(start));
        let settings =
            LogSettings { segment_bytes: machine.segment_bytes, ..LogSettings::default() };
        let mut managers = Vec::new();
        let logs = RefCell::new(BTreeMap::new());
        for shard in 0..self.shards {
            let config = LogManagerConfig {
                shard,
                journal_bytes: machine.journal_bytes,
                direct_io: true,
                open_files: 64,
                start: epoch.0 as u32,
            };
            let cache = TailCache::new(2 << 20);
            managers.push(LogManager::new(&shared, &recovery.replays, &cache, &config));
        }
        for (shard, manager) in managers.iter().enumerate() {
            let ids = catalog.topics.iter().flat_map(model::Topic::ids);
            let own = ids.filter(|id| owner(*id, self.shards) == shard).map(|id| (id, settings));
            let opened = manager.open(own.collect(), &recovery).await;
            logs.borrow_mut().extend(opened.into_iter().map(|opened| (opened.id, opened.log)));
        }
        let all = || logs.borrow().values().cloned().collect::<Vec<Rc<Log>>>();
        let on_shard = async |shard: usize, step| {
            let own = all().into_iter().filter(|log| owner(log.id(), self.shards) == shard);
            managers[shard].step(&step, &own.collect::<Vec<_>>()).await
        };
        let on_failure =
            |number: usize, error: &StorageError| shared[number].health.set_offline(error);
        // Sometimes it is tried again, as a broker does as long as one directory waits.
        for _ in 0..=self.seed % 3 {
            let states = begin_journals(&mut dirs, self.shards, on_shard, on_failure).await;
            for (number, state) in states.iter().enumerate() {
                let shards = if machine.journal_bytes == 0 { 0 } else { self.shards };
                if state.done && !state.keeps_old && !shared[number].health.is_offline() {
                    let replay = &recovery.replays[number];
                    let _ = remove_stale_journals(&shared[number].path, replay, shards).await;
                }
            }
        }
        take_reserves(&managers[0]).await;
        let node = Rc::new(Node { _dirs: dirs, managers, store, logs, epoch, settings });
        self.check_topics(&catalog.topics);
        self.begun.set(true);
        machine
            .all_known
            .set(machine.all_known.get() || is_complete && self.dirs().len() == DIRS.len());
        machine.outcome.borrow_mut().starts += 1;
        Ok(node)
    }

    /// The topics are those that were promised.
    fn check_topics(&self, topics: &[model::Topic]) {
        let mut oracle = self.machine.oracle.borrow_mut();
        let Oracle { topics: known, partitions } = &mut *oracle;
        let found: BTreeMap<TopicId, &model::Topic> = topics.iter().map(|t| (t.id, t)).collect();
        let is_whole = self.dirs().len() == DIRS.len() && !self.is_troubled;
        for (id, topic) in known.iter_mut() {
            let knows = self.dirs().iter().any(|dir| topic.known_in.contains(dir));
            match (topic.fate, found.get(id)) {
                (Fate::Alive, None) if knows && !self.is_troubled => {
                    panic!("topic {id} was promised, and is not there")
                }
                (Fate::Alive, Some(found)) if knows => {
                    assert!(
                        found.partitions >= topic.partitions || !is_whole,
                        "topic {id}: {} partitions, {} promised",
                        found.partitions,
                        topic.partitions
                    );
                    assert!(found.partitions <= topic.partitions_max, "no partition unasked");
                    if is_whole {
                        topic.partitions = found.partitions;
                        topic.partitions_max = found.partitions;
                    }
                }
                (Fate::Deleted, Some(_)) if is_whole => {
                    panic!("topic {id} was deleted, and is back")
                }
                (Fate::Unknown, found) if is_whole => match found {
                    Some(found) => {
                        topic.fate = Fate::Alive;
                        topic.partitions = found.partitions;
                        topic.partitions_max = found.partitions;
                        topic.known_in = self.dirs().iter().cloned().collect();
                    }
                    None => topic.fate = Fate::Deleted,
                },
                _ => {}
            }
        }
        for id in found.keys() {
            assert!(known.contains_key(id), "topic {id} was never asked for");
        }
        let is_deleted =
            |id: &TopicPartition| known.get(&id.topic_id).is_some_and(|t| t.fate == Fate::Deleted);
        partitions.retain(|id, _| !is_deleted(id));
    }

    /// Every partition is served with all that was promised, or refused for a reason.
    async fn check_logs(&self, node: &Node, is_start: bool) {
        if self.spoilt.as_ref().is_some_and(|path| path.to_string_lossy().contains("journal")) {
            for refusal in node.managers.iter().flat_map(LogManager::refusals) {
                self.with(refusal.id, |expected| expected.lost = true);
            }
        }
        let alive: Vec<(TopicPartition, Option<PathBuf>)> = {
            let oracle = self.machine.oracle.borrow();
            let mut alive = Vec::new();
            for (id, topic) in &oracle.topics {
                let knows = self.dirs().iter().any(|dir| topic.known_in.contains(dir));
                // One of which nobody knows whether it was made holds what was promised all the same.
                let is_served = |id: TopicPartition| node.logs.borrow().contains_key(&id);
                let is_due = topic.fate == Fate::Alive && knows;
                if topic.fate != Fate::Deleted {
                    for index in 0..topic.partitions_max {
                        let partition = PartitionIndex(index);
                        let id = TopicPartition { topic_id: *id, partition };
                        let home = oracle.partitions.get(&id).and_then(|e| e.home.clone());
                        if is_due && index < topic.partitions || is_served(id) {
                            alive.push((id, home));
                        }
                    }
                }
            }
            alive
        };
        for (id, home) in alive {
            let log = node.logs.borrow().get(&id).cloned();
            let Some(log) = log else {
                let refusal = node.managers.iter().find_map(|manager| manager.refusal(id));
                let is_missing = home.as_ref().is_none_or(|home| !self.dirs().contains(home));
                let mut oracle = self.machine.oracle.borrow_mut();
                let expected = oracle.partitions.entry(id).or_default();
                if let Some(path) = &self.spoilt {
                    let of_journal = path.to_string_lossy().contains("journal");
                    assert!(
                        self.is_spoilt || of_journal || expected.lost,
                        "{id} stays refused: {refusal:?}"
                    );
                    expected.lost |= of_journal;
                }
                let is_lost = expected.lost || expected.rotten;
                drop(oracle);
                if is_start {
                    self.machine.outcome.borrow_mut().refused += 1;
                }
                assert!(
                    self.is_troubled || is_lost || is_missing && self.dirs().len() < DIRS.len(),
                    "partition {id}, last seen in {home:?}, is refused without a reason: {refusal:?}"
                );
                if self.is_spoilt {
                    self.machine.outcome.borrow_mut().told += 1;
                }
                continue;
            };
            let path = log.home().path().to_owned();
            if let Some(home) = home {
                assert_eq!(home, path, "partition {id} was made anew elsewhere");
            }
            if !log.is_offline() {
                self.check_log(id, &log, is_start).await;
            }
        }
    }

    async fn check_log(&self, id: TopicPartition, log: &Log, is_start: bool) {
        let (promised, epoch) = {
            let mut oracle = self.machine.oracle.borrow_mut();
            let expected = oracle.partitions.entry(id).or_default();
            expected.home = Some(log.home().path().to_owned());
            (expected.durable.max(expected.written), log.latest_epoch())
        };
        assert!(epoch.is_none_or(|epoch| epoch.0 < i32::MAX));
        let (start, end) = (log.log_start(), log.flushed().written);
        // What was only written may be gone with spoilt bytes: nobody knew it durable.
        let least = if self.is_spoilt {
            self.machine.oracle.borrow().partitions[&id].durable
        } else {
            promised
        };
        assert!(least <= end.0, "{id}: promised up to {least}, found {}..{}", start.0, end.0);
        if is_start && !self.is_spoilt {
            // What was not promised may be gone. (With spoilt bytes it may come back, once they are put right.)
            self.with(id, |expected| expected.batches.retain(|b| b.base < end.0));
        }
        let found = match read_all(log, start, end).await {
            Ok(found) => found,
            Err(error) => {
                let is_rotten = self.machine.oracle.borrow().partitions[&id].rotten;
                assert!(self.is_troubled || self.is_spoilt || is_rotten, "{id}: {error}");
                self.machine.outcome.borrow_mut().told += u64::from(self.is_spoilt);
                return;
            }
        };
        let mut oracle = self.machine.oracle.borrow_mut();
        let expected = oracle.partitions.get_mut(&id).expect("made above");
        assert!(
            expected.deleted <= start.0 || self.is_spoilt,
            "{id}: deleted records stay deleted: {} and {}",
            expected.deleted,
            start.0
        );
        assert!(
            start.0 <= expected.deleting.max(expected.deleted),
            "{id}: nothing is deleted unasked"
        );
        if is_start {
            expected.take_back_dropped(&found, promised);
        }
        let appended = expected.batches.iter().filter(|b| b.base + b.records > start.0);
        let mut appended = appended.take_while(|b| b.base < end.0);
        for batch in &found {
            let wanted = appended.next().expect("nothing appears that was not appended");
            let same = (batch.base, batch.records) == (wanted.base, wanted.records);
            assert!(
                same && batch.bytes == wanted.bytes,
                "{id}: what was appended at {}",
                wanted.base
            );
        }
        assert!(
            appended.next().is_none() || self.is_spoilt,
            "{id}: everything up to the end is there"
        );
        drop(appended);
        self.machine.outcome.borrow_mut().verified += found.len() as u64;
        if is_start && !self.is_troubled && !self.is_spoilt {
            // A start makes durable what it found.
            (expected.written, expected.durable) = (end.0, end.0);
        }
    }

    async fn run(self) {
        let node = match self.start().await {
            Ok(node) => node,
            Err(error) => {
                assert!(self.is_troubled, "a start without trouble: {error}");
                return;
            }
        };
        self.check_logs(&node, true).await;
        let life = Rc::new(self);
        let (running, done) = (Rc::new(Cell::new(0)), Rc::new(Notify::default()));
        let changer = {
            let (life, node) = (Rc::clone(&life), Rc::clone(&node));
            let (running, done) = (Rc::clone(&running), Rc::clone(&done));
            running.set(running.get() + 1);
            async move {
                life.change_topics(&node).await;
                running.set(running.get() - 1);
                done.notify();
            }
        };
        runtime::spawn(changer);
        for number in 0..3 {
            let (life, node) = (Rc::clone(&life), Rc::clone(&node));
            let (running, done) = (Rc::clone(&running), Rc::clone(&done));
            running.set(running.get() + 1);
            runtime::spawn(async move {
                life.use_logs(&node, number).await;
                running.set(running.get() - 1);
                done.notify();
            });
        }
        done.until(|| (running.get() == 0).then_some(())).await;
        life.end(&node).await;
    }

    /// Only starts, makes a topic, and looks.
    async fn look(self) {
        let node = match self.start().await {
            Ok(node) => node,
            Err(error) => panic!("one spoilt file keeps the node from starting: {error}"),
        };
        self.check_logs(&node, true).await;
        self.change_topics(&node).await;
        self.check_logs(&node, false).await;
        for dir in self.dirs() {
            let examined = storage::tools::repair::examine(&dir, &KnownJournals::default()).await;
            if let Err(error) = examined {
                assert!(matches!(error, StorageError::Io { .. }), "{error}");
            }
        }
    }

    async fn end(&self, node: &Rc<Node>) {
        let mut random = self.random(7);
        if self.is_troubled {
            // Space, or a place for a file, is there again: it goes on by itself.
            self.machine.disk.set_capacity(None);
            self.machine.outcome.borrow_mut().faults += self.machine.disk.clear_faults();
            for manager in &node.managers {
                for opened in manager.open_refused().await {
                    self.machine.outcome.borrow_mut().mended += 1;
                    self.check_log(opened.id, &opened.log, false).await;
                    node.logs.borrow_mut().insert(opened.id, opened.log);
                }
            }
        }
        if !random.one_in(3) {
            timer::sleep(Duration::from_millis(100)).await;
            return;
        }
        let logs: Vec<_> =
            node.logs.borrow().iter().map(|(id, log)| (*id, Rc::clone(log))).collect();
        for (id, log) in &logs {
            if log.close().await.is_err() {
                return;
            }
            let mut oracle = self.machine.oracle.borrow_mut();
            if let Some(expected) = oracle.partitions.get_mut(id) {
                expected.written = log.log_end().0;
            }
        }
        for home in node.managers.iter().flat_map(LogManager::homes) {
            if let Some(journal) = home.journal()
                && journal.close().await.is_err()
            {
                return;
            }
        }
        // Only now something else than the segments says how far they go.
        for (id, log) in logs {
            let mut oracle = self.machine.oracle.borrow_mut();
            if let Some(expected) = oracle.partitions.get_mut(&id) {
                expected.durable = log.log_end().0;
            }
        }
        node.logs.borrow_mut().clear();
    }

    async fn change_topics(&self, node: &Rc<Node>) {
        let mut random = self.random(11);
        for _ in 0..self.steps {
            timer::sleep(Duration::from_micros(random.below(30_000))).await;
            if node.managers[0].homes().iter().all(|home| home.health().is_offline()) {
                // A broker ends then.
                return;
            }
            let known: Vec<(TopicId, i32)> = {
                let oracle = self.machine.oracle.borrow();
                let usable = |t: &KnownTopic| {
                    t.fate == Fate::Alive && self.dirs().iter().any(|dir| t.known_in.contains(dir))
                };
                let usable = oracle.topics.iter().filter(|(_, t)| usable(t));
                usable.map(|(id, t)| (*id, t.partitions)).collect()
            };
            let chosen = known.get(random.below(known.len().max(1) as u64) as usize).copied();
            match chosen {
                Some((id, _)) if known.len() > 2 && random.one_in(3) => self.delete(node, id).await,
                Some((id, count)) if count < 6 && random.one_in(4) => {
                    self.grow(node, id, count + 1).await
                }
                _ => self.create(node, 1 + random.below(3) as i32).await,
            }
        }
    }

    async fn change(
        &self,
        node: &Rc<Node>,
        change: impl FnOnce(&mut storage::directory::catalog::Catalog),
    ) -> Result<(), NotChanged<()>> {
        let on_shard = async |shard: usize, step: TopicStep, change: &Arc<TopicChange>| {
            let manager = &node.managers[shard];
            let own = |id: &&TopicPartition| owner(**id, self.shards) == shard;
            let new: Vec<TopicPartition> = change.new.iter().filter(own).copied().collect();
            match step {
                TopicStep::Make => manager.make(&new).await,
                TopicStep::Unmake => {
                    manager.unmake(&new);
                    Ok(())
                }
                TopicStep::Adopt => self.adopt(node, shard, &new, change).await,
            }
        };
        let homes = node.managers[0].homes();
        let change = |catalog: &mut storage::directory::catalog::Catalog| {
            change(catalog);
            Ok(())
        };
        node.store.change(change, homes, self.shards, on_shard).await.map(drop)
    }

    /// As a broker's shard does, but for what is above the logs.
    async fn adopt(
        &self,
        node: &Rc<Node>,
        shard: usize,
        new: &[TopicPartition],
        change: &TopicChange,
    ) -> Result<(), StorageError> {
        let manager = &node.managers[shard];
        let mut result = Ok(());
        for id in new {
            match manager.create(*id, node.settings) {
                Ok(log) => drop(node.logs.borrow_mut().insert(*id, log)),
                Err(error) => result = Err(error),
            }
        }
        let ids: BTreeSet<TopicId> = change.catalog.topics.iter().map(|topic| topic.id).collect();
        let is_gone = |id: TopicPartition| !ids.contains(&id.topic_id);
        let gone: Vec<Rc<Log>> = {
            let logs = node.logs.borrow();
            let own = logs.iter().filter(|(id, _)| owner(**id, self.shards) == shard);
            own.filter(|(id, _)| is_gone(**id)).map(|(_, log)| Rc::clone(log)).collect()
        };
        for log in gone {
            node.logs.borrow_mut().remove(&log.id());
            result = manager.remove(&log).await.and(result);
        }
        result = manager.remove_refused(is_gone).await.and(result);
        manager.sync_removed().await.and(result)
    }

    /// What came of a change, as far as it was told.
    fn on_changed(
        &self,
        node: &Node,
        id: TopicId,
        result: &Result<(), NotChanged<()>>,
        then: impl FnOnce(&mut KnownTopic),
    ) {
        let online = node.managers[0].homes().iter().filter(|home| !home.health().is_offline());
        let online: BTreeSet<PathBuf> = online.map(|home| home.path().to_owned()).collect();
        let mut oracle = self.machine.oracle.borrow_mut();
        let topic = oracle.topics.get_mut(&id).expect("asked for");
        match result {
            Ok(()) => {
                self.machine.outcome.borrow_mut().changes += 1;
                // A directory that has failed holds an older catalog.
                topic.known_in = topic.known_in.intersection(&online).cloned().collect();
                then(topic);
            }
            Err(_) => {
                self.machine.outcome.borrow_mut().unchanged += 1;
                assert!(self.is_troubled, "a change without trouble: {result:?}");
            }
        }
    }

    async fn create(&self, node: &Rc<Node>, partitions: i32) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random::seed().to_be_bytes());
        bytes[8..].copy_from_slice(&random::seed().to_be_bytes());
        let id = TopicId::from_random(bytes);
        self.machine.names.set(self.machine.names.get() + 1);
        let name = format!("topic-{}", self.machine.names.get());
        let name = TopicName::new(&name).expect("a valid name");
        let known_in = self.dirs().iter().cloned().collect();
        let topic =
            KnownTopic { fate: Fate::Unknown, partitions, partitions_max: partitions, known_in };
        self.machine.oracle.borrow_mut().topics.insert(id, topic);
        let settings = BTreeMap::new();
        let result = self
            .change(node, |catalog| {
                catalog.topics.push(model::Topic { id, name, partitions, settings });
            })
            .await;
        self.on_changed(node, id, &result, |topic| topic.fate = Fate::Alive);
        if let Err(NotChanged::Disk(error)) = &result
            && !node.managers[0].homes().iter().any(|home| home.health().is_offline())
        {
            // Refused is refused, unless a directory failed in the middle of it.
            let _ = error;
            self.machine.oracle.borrow_mut().topics.get_mut(&id).expect("put there").fate =
                Fate::Deleted;
        }
    }

    async fn grow(&self, node: &Rc<Node>, id: TopicId, count: i32) {
        self.machine.oracle.borrow_mut().topics.get_mut(&id).expect("known").partitions_max = count;
        let result = self
            .change(node, |catalog| {
                for topic in catalog.topics.iter_mut().filter(|topic| topic.id == id) {
                    topic.partitions = count;
                }
            })
            .await;
        self.on_changed(node, id, &result, |topic| topic.partitions = count);
    }

    async fn delete(&self, node: &Rc<Node>, id: TopicId) {
        let before = {
            let mut oracle = self.machine.oracle.borrow_mut();
            let topic = oracle.topics.get_mut(&id).expect("known");
            let before = topic.clone();
            topic.fate = Fate::Unknown;
            before
        };
        let result =
            self.change(node, |catalog| catalog.topics.retain(|topic| topic.id != id)).await;
        self.on_changed(node, id, &result, |topic| topic.fate = Fate::Deleted);
        if let Err(NotChanged::Disk(_)) = &result
            && !node.managers[0].homes().iter().any(|home| home.health().is_offline())
        {
            *self.machine.oracle.borrow_mut().topics.get_mut(&id).expect("known") = before;
        }
    }

    async fn use_logs(&self, node: &Rc<Node>, number: u64) {
        let mut random = self.random(100 + number);
        let large = random.one_in(3);
        for _ in 0..4 + random.below(30) {
            if random.one_in(5) {
                timer::sleep(Duration::from_micros(random.below(20_000))).await;
            }
            // Each task has its own partitions: the oracle knows what one appends.
            let chosen = {
                let logs = node.logs.borrow();
                let own: Vec<_> = logs
                    .iter()
                    .filter(|(id, _)| {
                        (id.partition.0 as u64 + u64::from(id.topic_id.0[7])) % 3 == number
                    })
                    .collect();
                let at = random.below(own.len().max(1) as u64) as usize;
                own.get(at).map(|(id, log)| (**id, Rc::clone(log)))
            };
            let Some((id, log)) = chosen else { continue };
            if log.is_offline() {
                continue;
            }
            self.machine.oracle.borrow_mut().partitions.entry(id).or_default().home =
                Some(log.home().path().to_owned());
            let mut appended = Vec::new();
            for _ in 0..=random.below(3) {
                let bytes = batch(&mut random, large);
                let view = RecordBatch::validate_produced(&bytes, 1 << 21).expect("well-formed");
                let base = log.log_end();
                let latest = log.latest_epoch().map_or(0, |epoch| epoch.0);
                let epoch = LeaderEpoch(node.epoch.0.max(latest));
                if log.append(view, base, epoch).is_err() {
                    break;
                }
                let records = i64::from(view.record_count());
                appended.push(Batch { base: base.0, records, bytes: bytes[16..].to_vec() });
            }
            self.with(id, |expected| expected.batches.extend(appended));
            let durable = !random.one_in(3);
            match log.flush(durable).await {
                Ok(flushed) => self.with(id, |expected| {
                    assert!(
                        expected.written <= flushed.written.0 || log.is_offline(),
                        "progress is kept"
                    );
                    (expected.written, expected.durable) = (flushed.written.0, flushed.durable.0);
                }),
                Err(error) if error.is_passing() => self.with(id, |expected| {
                    let end = log.log_end().0;
                    assert!(expected.written <= end, "what was promised is not dropped");
                    let at = expected.batches.partition_point(|b| b.base < end);
                    let dropped = expected.batches.split_off(at);
                    expected.dropped.extend(dropped);
                }),
                Err(_) => continue,
            }
            if random.one_in(6) {
                self.delete_records(id, &log, &mut random).await;
            }
        }
    }

    fn with(&self, id: TopicPartition, change: impl FnOnce(&mut Expected)) {
        change(self.machine.oracle.borrow_mut().partitions.entry(id).or_default());
    }

    async fn delete_records(&self, id: TopicPartition, log: &Rc<Log>, random: &mut Random) {
        let (start, end) = (log.log_start().0, log.flushed().durable.0);
        if end <= start {
            return;
        }
        let at = if random.one_in(3) {
            end
        } else {
            start + 1 + random.below((end - start) as u64) as i64
        };
        self.with(id, |expected| expected.deleting = expected.deleting.max(at));
        if log.delete_below(Offset(at)).await.is_ok() {
            self.with(id, |expected| expected.deleted = expected.deleted.max(at));
        }
    }
}
