//! One shard's logs in all data directories: opened at a start, made, refused, removed.
//!
//! A start opens what is there and makes nothing; what cannot be opened is *refused*: its journal goes on knowing all
//! that was known of it, and nothing is ever made in its place. What failed only for want of space or files is tried
//! again. Partitions are made in two steps, so that a topic is never known before its directories last.

use crate::directory::data_dir::DataDir;
use crate::directory::data_dirs::{Place, Recovery};
use crate::directory::log_dir::{Health, LogDir, remove_partition, sweep_deleted};
use crate::directory::reserve::{Reserve, Use, with_reserve, with_reserve_for};
use crate::error::{Concern, StorageError};
use crate::journal::journal::Journal;
use crate::journal::known::{JOURNAL_FILES, KnownJournal, journal_path};
use crate::journal::replay::{PartitionNotes, Replay};
use crate::log::log::Log;
use crate::log::open::Recovered;
use crate::log::tail_cache::TailCache;
use model::{LogSettings, TopicPartition};
use runtime::{fs, timer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Partitions opened at a time.
const AT_A_TIME: usize = 32;
const SYNC_TRIES: usize = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(250);
/// Partitions made or removed between two turns of the ring.
const BETWEEN_TURNS: usize = 16;

/// One data directory, as the shards share it.
pub struct SharedDir {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it takes writes.
    pub health: Arc<Health>,
    /// What is kept back for what frees space.
    pub reserve: Arc<Reserve>,
}

/// How a shard keeps its logs.
pub struct LogManagerConfig {
    /// Which shard.
    pub shard: usize,
    /// Space of its journal in each directory; 0: none.
    pub journal_bytes: u64,
    /// Bypass the page cache where the file system can.
    pub direct_io: bool,
    /// Files that its logs may have open in each directory.
    pub open_files: usize,
    /// The number of this start.
    pub start: u32,
}

/// A log that was opened.
pub struct Opened {
    /// Of which partition.
    pub id: TopicPartition,
    /// It.
    pub log: Rc<Log>,
    /// What opening it did.
    pub recovered: Recovered,
}

/// A partition that is not served, and why.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Which.
    pub id: TopicPartition,
    /// Why.
    pub error: StorageError,
}

struct Refused {
    settings: LogSettings,
    /// The directory it is in, by number; `None`: in none.
    home: Option<usize>,
    notes: PartitionNotes,
    error: StorageError,
}

/// What there is to do with the journals of all shards at a start: each on all of them before the next on any.
#[derive(Clone, Debug)]
pub enum JournalStep {
    /// `Journal::begin_start`.
    Begin,
    /// `Journal::commit_start` in these directories, by number: where every shard began.
    Commit(Vec<bool>),
}

/// What came of a step in one directory.
#[derive(Clone, Debug, Default)]
pub struct JournalState {
    /// It was done, or there is no journal.
    pub done: bool,
    /// Where the journal is.
    pub known: Option<KnownJournal>,
    /// Why it was not done, if that may pass.
    pub waits: Option<StorageError>,
    /// Journals of earlier starts must stay, although there is none now: a partition is refused that only they know.
    pub keeps_old: bool,
}

/// The logs of one shard.
pub struct LogManager {
    shard: usize,
    homes: Vec<Rc<LogDir>>,
    /// Partitions of this shard by directory.
    homed: RefCell<Vec<usize>>,
    refused: RefCell<BTreeMap<TopicPartition, Refused>>,
    /// Partitions whose directories were made and whose topic is not stored yet, with their directory.
    made: RefCell<BTreeMap<TopicPartition, usize>>,
    /// The refused partition that is tried again just now.
    opening: Cell<Option<TopicPartition>>,
    sweeps: Rc<Cell<Sweep>>,
}

/// Whether files of deleted partitions are being removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sweep {
    #[default]
    Rests,
    Runs,
    /// More came meanwhile.
    RunsAgain,
}

impl LogManager {
    /// A shard's logs in these directories, of whose journals `replays` says how they go on.
    #[must_use]
    pub fn new(
        dirs: &[SharedDir],
        replays: &[Replay],
        cache: &Rc<TailCache>,
        config: &LogManagerConfig,
    ) -> Self {
        let home = |(dir, replay): (&SharedDir, &Replay)| {
            let file_bytes = config.journal_bytes / JOURNAL_FILES / 4096 * 4096;
            let mut start = replay.start_of(config.shard);
            start.number = config.start;
            let (shard, direct) = (config.shard, config.direct_io);
            let journal =
                (file_bytes > 0).then(|| Journal::new(&dir.path, shard, file_bytes, direct, start));
            let (health, reserve) = (Arc::clone(&dir.health), Arc::clone(&dir.reserve));
            let home = LogDir::with_reserve(&dir.path, direct, cache, journal, health, reserve);
            home.keep_open(config.open_files);
            home.was_cut_short.set(replay.was_cut_short);
            home
        };
        assert_eq!(dirs.len(), replays.len(), "what was found, for each directory");
        let homes: Vec<_> = dirs.iter().zip(replays).map(home).collect();
        Self {
            shard: config.shard,
            homed: RefCell::new(vec![0; homes.len()]),
            homes,
            refused: RefCell::default(),
            made: RefCell::default(),
            opening: Cell::new(None),
            sweeps: Rc::default(),
        }
    }

    /// The shard's part of each data directory.
    #[must_use]
    pub fn homes(&self) -> &[Rc<LogDir>] {
        &self.homes
    }

    /// Why a partition is not served, if it is refused.
    #[must_use]
    pub fn refusal(&self, id: TopicPartition) -> Option<StorageError> {
        self.refused.borrow().get(&id).map(|refused| refused.error.clone())
    }

    /// Every partition that is refused.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        let refused = self.refused.borrow();
        let refusal = |(id, refused): (&TopicPartition, &Refused)| Refusal {
            id: *id,
            error: refused.error.clone(),
        };
        refused.iter().map(refusal).collect()
    }

    /// Opens the logs of these partitions, all of which the catalog knew at the start; what is not returned is
    /// refused. What was put in place is durable when this returns, or its directory is offline.
    pub async fn open(
        &self,
        wanted: Vec<(TopicPartition, LogSettings)>,
        found: &Recovery,
    ) -> Vec<Opened> {
        // Opening waits for the disk more than it computes: many at a time.
        let count = wanted.len();
        let before = self.refused.borrow().len();
        let (queue, opened) = (RefCell::new(wanted), RefCell::new(Vec::new()));
        let opener = || async {
            loop {
                let next = queue.borrow_mut().pop();
                let Some((id, settings)) = next else { break };
                let (home, notes) = self.known(id, found);
                let result = match home {
                    Ok(number) => {
                        self.homed.borrow_mut()[number] += 1;
                        self.open_one(number, id, settings, &notes).await
                    }
                    Err(ref error) => Err(error.clone()),
                };
                match result {
                    Ok((log, recovered)) => opened.borrow_mut().push(Opened { id, log, recovered }),
                    Err(error) => self.refuse(id, settings, home.ok(), notes, error),
                }
            }
        };
        let openers = queue.borrow().len().min(AT_A_TIME);
        runtime::all((0..openers).map(|_| opener()).collect()).await;
        self.sync_opened().await;
        let opened = opened.into_inner();
        let refused = self.refused.borrow().len() - before;
        assert_eq!(opened.len() + refused, count, "each is opened or refused");
        opened
    }

    /// Where a partition is, and what the journals know of it.
    fn known(
        &self,
        id: TopicPartition,
        found: &Recovery,
    ) -> (Result<usize, StorageError>, PartitionNotes) {
        let noted = |number: usize| found.replays[number].notes_of(id);
        match found.places.get(&id) {
            Some(Place::In(number)) => {
                let mut notes = noted(*number);
                // Its directory may have been moved here from another one, whose journal knows it.
                for other in (0..found.replays.len()).filter(|other| other != number) {
                    let elsewhere = found.replays[other].partitions.get(&id);
                    if let Some(elsewhere) = elsewhere.filter(|e| e.durable() > notes.durable()) {
                        notes = elsewhere.clone();
                    }
                }
                (Ok(*number), notes)
            }
            Some(Place::InSeveral(paths)) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                let error = StorageError::Unusable(format!(
                    "it has a directory with records in each of {}; move all but one of them away",
                    paths.join(", ")
                ));
                self.carry_everywhere(id, found);
                (Err(error), PartitionNotes::default())
            }
            None => {
                self.carry_everywhere(id, found);
                let error = StorageError::Unusable(
                    "no directory of log.dirs that can be read holds it; bring the missing one back, restore it \
                     from a backup, or delete the topic"
                        .into(),
                );
                (Err(error), PartitionNotes::default())
            }
        }
    }

    /// Whichever journals know a partition that is in no place go on knowing it.
    fn carry_everywhere(&self, id: TopicPartition, found: &Recovery) {
        for (home, replay) in self.homes.iter().zip(&found.replays) {
            if replay.partitions.contains_key(&id) {
                home.carry(id, &replay.notes_of(id));
            }
        }
    }

    async fn open_one(
        &self,
        number: usize,
        id: TopicPartition,
        settings: LogSettings,
        notes: &PartitionNotes,
    ) -> Result<(Rc<Log>, Recovered), StorageError> {
        let home = &self.homes[number];
        if home.health().is_offline() {
            return Err(StorageError::Offline);
        }
        let open = async || Log::open(home, id, settings, notes).await;
        let opened = with_reserve_for(home.reserve(), Use::Start, open).await;
        if let Err(error) = &opened
            && error.concern() == Concern::Directory
        {
            home.health().set_offline(error);
        }
        opened
    }

    fn refuse(
        &self,
        id: TopicPartition,
        settings: LogSettings,
        home: Option<usize>,
        notes: PartitionNotes,
        error: StorageError,
    ) {
        if let Some(number) = home {
            self.homes[number].carry(id, &notes);
        }
        self.refused.borrow_mut().insert(id, Refused { settings, home, notes, error });
    }

    /// Makes durable what opening put in place: nothing of it counts before.
    async fn sync_opened(&self) {
        for home in self.homes.iter().filter(|home| !home.health().is_offline()) {
            let sync = async || match home.sync_names().await {
                Ok(()) => home.sync_recovered().await,
                failed => failed,
            };
            // Too many open files are nobody's fault; but nothing of this directory counts before it is synced.
            let mut synced = sync().await;
            for _ in 1..SYNC_TRIES {
                if !synced.as_ref().is_err_and(StorageError::is_passing) {
                    break;
                }
                timer::sleep(BETWEEN_TRIES).await;
                synced = sync().await;
            }
            if let Err(error) = synced {
                home.health().set_offline(&error);
            }
        }
    }

    /// Tries again what was refused only because there was no space, or because too many files were open.
    pub async fn open_refused(&self) -> Vec<Opened> {
        let passing: Vec<TopicPartition> = {
            let refused = self.refused.borrow();
            let passes = |(_, refused): &(&TopicPartition, &Refused)| refused.error.is_passing();
            refused.iter().filter(passes).map(|(id, _)| *id).collect()
        };
        let mut opened = Vec::new();
        let hold = |hold| {
            self.homes
                .iter()
                .filter_map(|home| home.journal())
                .for_each(|j| j.hold_snapshots(hold));
        };
        hold(true);
        for id in passing {
            let Some(refused) = self.refused.borrow_mut().remove(&id) else { continue };
            let Refused { settings, home, notes, .. } = refused;
            let number = home.expect("what passes was met in a directory");
            assert!(self.opening.get().is_none(), "one at a time");
            self.opening.set(Some(id));
            let result = self.open_one(number, id, settings, &notes).await;
            let is_deleted = self.opening.take().is_none();
            match result {
                Ok((log, recovered)) => opened.push(Opened { id, log, recovered }),
                // Its topic went meanwhile: what is left of it goes with the next start.
                Err(_) if is_deleted => self.homes[number].forget(id),
                Err(error) => self.refuse(id, settings, home, notes, error),
            }
        }
        if !opened.is_empty() {
            self.sync_opened().await;
        }
        hold(false);
        opened
    }

    /// Makes the directories of new partitions, durably. They are no partitions before `create`; `unmake` takes
    /// them back.
    ///
    /// # Errors
    /// The disk's: none was made.
    pub async fn make(&self, ids: &[TopicPartition]) -> Result<(), StorageError> {
        let mut made_now = Vec::new();
        let made = self.make_all(ids, &mut made_now).await;
        if made.is_err() {
            self.unmake(&made_now);
        }
        made
    }

    async fn make_all(
        &self,
        ids: &[TopicPartition],
        made_now: &mut Vec<TopicPartition>,
    ) -> Result<(), StorageError> {
        for (count, &id) in ids.iter().enumerate() {
            if count % BETWEEN_TURNS == BETWEEN_TURNS - 1 {
                timer::next_turn().await;
            }
            let number = self.least_used_dir()?;
            let home = &self.homes[number];
            with_reserve(home.reserve(), async || home.make_partition(id)).await?;
            self.homed.borrow_mut()[number] += 1;
            let twice = self.made.borrow_mut().insert(id, number);
            assert!(twice.is_none(), "a partition is made once");
            made_now.push(id);
        }
        for home in self.homes.iter().filter(|home| !home.health().is_offline()) {
            if let Err(error) = with_reserve(home.reserve(), async || home.sync_names().await).await
            {
                if error.concern() == Concern::Directory {
                    home.health().set_offline(&error);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes back what `make` made: the topics were not stored. What a stop leaves is removed at the next start.
    pub fn unmake(&self, ids: &[TopicPartition]) {
        for id in ids {
            if let Some(number) = self.made.borrow_mut().remove(id) {
                self.leave(number);
                let _ = fs::remove_dir(&self.homes[number].partition_path(*id));
            }
        }
    }

    /// The log of a new partition, whose topic is stored now.
    ///
    /// # Errors
    /// The disk's; the partition is refused then.
    pub fn create(
        &self,
        id: TopicPartition,
        settings: LogSettings,
    ) -> Result<Rc<Log>, StorageError> {
        let number = self.made.borrow_mut().remove(&id);
        let created = match number {
            Some(number) => Log::create(&self.homes[number], id, settings),
            None => Err(StorageError::Unusable("its directory was not made".into())),
        };
        if let Err(error) = &created {
            self.refuse(id, settings, number, PartitionNotes::default(), error.clone());
        }
        created
    }

    /// Removes a partition that is deleted: nobody appends to its log any more. Lasts once `sync_removed` has run.
    ///
    /// # Errors
    /// The disk's: it is removed at the next start.
    pub async fn remove(&self, log: &Rc<Log>) -> Result<(), StorageError> {
        log.forget();
        log.until_unused().await;
        let home = log.home();
        if let Some(number) = self.homes.iter().position(|other| Rc::ptr_eq(other, home)) {
            self.leave(number);
        }
        remove_partition(home.path(), log.id()).await
    }

    /// Removes what is left of partitions that are deleted and were refused.
    ///
    /// # Errors
    /// As `remove`.
    pub async fn remove_refused(
        &self,
        is_deleted: impl Fn(TopicPartition) -> bool,
    ) -> Result<(), StorageError> {
        let ids: Vec<TopicPartition> =
            self.refused.borrow().keys().copied().filter(|id| is_deleted(*id)).collect();
        let mut result = Ok(());
        if self.opening.get().is_some_and(&is_deleted) {
            // Whoever opens it finds that out; the topic is not known to be gone before.
            self.opening.set(None);
            result = Err(StorageError::Unusable("a partition of the topic is being opened".into()));
        }
        for id in ids {
            let Some(refused) = self.refused.borrow_mut().remove(&id) else { continue };
            if let Some(number) = refused.home {
                self.leave(number);
            }
            for home in &self.homes {
                home.forget(id);
                if !home.health().is_offline()
                    && let Err(error) = remove_partition(home.path(), id).await
                {
                    result = Err(error);
                }
            }
        }
        result
    }

    /// Makes durable that partitions were removed, and begins to remove their files.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sync_removed(&self) -> Result<(), StorageError> {
        let mut result = Ok(());
        for home in self.homes.iter().filter(|home| !home.health().is_offline()) {
            if let Err(error) = home.sync_names().await {
                result = Err(error);
            }
        }
        self.sweep();
        result
    }

    /// Gives back the space of partitions that were deleted, in a task of its own.
    pub fn sweep(&self) {
        let paths: Vec<PathBuf> = self.homes.iter().map(|home| home.path().to_owned()).collect();
        if self.sweeps.get() != Sweep::Rests {
            self.sweeps.set(Sweep::RunsAgain);
            return;
        }
        self.sweeps.set(Sweep::Runs);
        let sweeps = Rc::clone(&self.sweeps);
        runtime::spawn(async move {
            loop {
                for path in &paths {
                    sweep_deleted(path).await;
                }
                if sweeps.replace(Sweep::Runs) == Sweep::Runs {
                    break;
                }
            }
            sweeps.set(Sweep::Rests);
        });
    }

    /// A directory has a partition less.
    fn leave(&self, number: usize) {
        let mut homed = self.homed.borrow_mut();
        assert!(homed[number] > 0, "a partition leaves where it was");
        homed[number] -= 1;
    }

    /// The directory that a new partition goes to.
    fn least_used_dir(&self) -> Result<usize, StorageError> {
        let homed = self.homed.borrow();
        let online = (0..self.homes.len()).filter(|n| !self.homes[*n].health().is_offline());
        // Shards begin at different ones, so that few partitions spread too.
        let count = self.homes.len();
        let turn = |number: usize| (number + count - self.shard % count) % count;
        online.min_by_key(|n| (homed[*n], turn(*n))).ok_or(StorageError::Offline)
    }

    /// Does one step of the start with the journals; what came of it, by directory. `logs` are those it serves: without a
    /// journal, where they begin is written beside them.
    pub async fn step(&self, step: &JournalStep, logs: &[Rc<Log>]) -> Vec<JournalState> {
        let mut states = Vec::new();
        for (number, home) in self.homes.iter().enumerate() {
            let result = match (step, home.journal()) {
                // Opening failed half-way: what the older files know must not be forgotten.
                _ if home.health().is_offline() => Err(StorageError::Offline),
                (JournalStep::Begin, None) => store_starts(home, logs).await,
                (JournalStep::Begin, Some(journal)) => {
                    with_reserve(home.reserve(), async || journal.begin_start().await).await
                }
                (JournalStep::Commit(begun), _) if !begun[number] => Err(StorageError::Offline),
                (JournalStep::Commit(_), None) => Ok(()),
                (JournalStep::Commit(_), Some(journal)) => journal.commit_start().await,
            };
            let mut state = JournalState { done: result.is_ok(), ..JournalState::default() };
            state.known = home.journal().and_then(|journal| journal.known());
            state.keeps_old = home.journal().is_none() && self.refuses_in(number);
            match result {
                Ok(()) | Err(StorageError::Offline) => {}
                Err(error) if error.is_passing() => state.waits = Some(error),
                Err(error) => home.health().set_offline(&error),
            }
            states.push(state);
        }
        states
    }

    /// Whether a partition in this directory is refused: what the journals know of it must stay.
    #[must_use]
    pub fn refuses_in(&self, number: usize) -> bool {
        self.refused.borrow().values().any(|refused| refused.home.is_none_or(|home| home == number))
    }
}

impl LogDir {
    /// Keeps in the journal what is known of a partition that is not open.
    fn carry(&self, id: TopicPartition, notes: &PartitionNotes) {
        if let Some(journal) = self.journal() {
            journal.carry(id, notes.carried(id));
        }
    }

    /// The partition is deleted.
    fn forget(&self, id: TopicPartition) {
        if let Some(journal) = self.journal() {
            journal.forget(id);
        }
    }
}

/// Writes down where logs begin whose files do not say it.
async fn store_starts(home: &Rc<LogDir>, logs: &[Rc<Log>]) -> Result<(), StorageError> {
    for log in logs.iter().filter(|log| Rc::ptr_eq(log.home(), home) && !log.files_say_start()) {
        with_reserve(home.reserve(), async || log.store_start(log.log_start()).await).await?;
    }
    Ok(())
}

/// Begins the journals of all shards as one: after every shard has opened its logs, before anything is appended.
/// `on_shard` does a step on a shard, `on_failure` is told of a directory, by number, whose superblock cannot be written.
/// Returns what came of it by directory; where it is not done partitions sync alone, and it may be tried again.
pub async fn begin_journals(
    dirs: &mut [DataDir],
    shards: usize,
    on_shard: impl AsyncFn(usize, JournalStep) -> Vec<JournalState>,
    on_failure: impl Fn(usize, &StorageError),
) -> Vec<JournalState> {
    let mut states = vec![JournalState { done: true, ..JournalState::default() }; dirs.len()];
    let mut known: Vec<Vec<KnownJournal>> = vec![Vec::new(); dirs.len()];
    let mut merge = |states: &mut Vec<JournalState>, of_shard: Vec<JournalState>, last: bool| {
        for (number, state) in of_shard.into_iter().enumerate() {
            states[number].done &= state.done;
            states[number].keeps_old |= state.keeps_old;
            if states[number].waits.is_none() {
                states[number].waits = state.waits;
            }
            known[number].extend(state.known.filter(|_| last));
        }
    };
    for shard in 0..shards {
        merge(&mut states, on_shard(shard, JournalStep::Begin).await, false);
    }
    let begun: Vec<bool> = states.iter().map(|state| state.done).collect();
    assert_eq!(begun.len(), dirs.len(), "a state for each directory");
    for shard in 0..shards {
        merge(&mut states, on_shard(shard, JournalStep::Commit(begun.clone())).await, true);
    }
    for (number, dir) in dirs.iter_mut().enumerate() {
        let state = &mut states[number];
        if !state.done || state.keeps_old {
            continue;
        }
        if let Err(error) = dir.note_journals(std::mem::take(&mut known[number])).await {
            state.done = false;
            if error.is_passing() {
                state.waits = Some(error);
            } else {
                on_failure(number, &error);
            }
        }
    }
    states
}

/// Removes journals that are not needed any more, of a directory through with `begin_journals` in which nothing is
/// refused that only they know: those of shards that there are not, or all.
///
/// # Errors
/// The disk's.
pub async fn remove_stale_journals(
    data_dir: &std::path::Path,
    replay: &Replay,
    shards: usize,
) -> Result<(), StorageError> {
    let mut removed = false;
    for shard in replay.shards.keys().filter(|shard| **shard >= shards) {
        for file in 0..JOURNAL_FILES {
            removed |= fs::remove_file(&journal_path(data_dir, *shard, file)).is_ok();
        }
    }
    if removed {
        let dir = data_dir.join("journal");
        fs::sync_dir(&dir).await.map_err(|error| StorageError::of(&dir, "sync", &error))?;
    }
    Ok(())
}
