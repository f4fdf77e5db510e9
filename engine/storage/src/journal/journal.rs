//! The journal of a shard: many partitions' small synced writes in one write, made durable at once.
//!
//! A log hands over the bytes it wants durable; everything handed over in one loop turn, or while a
//! frame is being written, goes out as the next frame. The bytes reach their segments later, in
//! larger writes and without a sync of their own. Files take turns: before one is written over, every
//! log with bytes in it has synced its segments.

use crate::StorageError;
use crate::directory::tenant::Tenant;
use crate::journal::frame::{
    ENTRY_BYTES, Entry, EntryKind, FRAME_BYTES_MAX, FrameId, HEAD_BYTES, encode_head, frame_bytes,
};
use crate::journal::known::{Carried, JOURNAL_FILES, JournalStart, KnownJournal, journal_path};
use model::limits::DISK_BLOCK_BYTES;
use model::{TopicPartition, crc32c};
use runtime::answers::{AnswerId, Answers};
use runtime::buffer::{ChunkPool, ChunkWriter, DiskRange, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::file::{File, OpenOptions};
use runtime::notify::Notify;
use runtime::{fs, timer};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// New space is filled with zeroes in such steps: overwriting is several times cheaper than a first
/// write, which must also make the file system's map durable.
const ZERO_BYTES: u64 = 1024 * 1024;
/// Segments synced at a time when a file is to be reused.
const CLEANERS: usize = 16;
/// What is known durable is written down this long after it became so, if nothing else is written.
const NOTE_DELAY: Duration = Duration::from_millis(20);
/// Kept free at the end of a file for the mark that frees the file before it, and for the one that the next is begun.
const MARK_BYTES: u64 = 2 * DISK_BLOCK_BYTES as u64;
/// Frames that may say where logs begin although there is no room for anything else: deleting gives space back.
const LOG_START_FRAMES_MAX: u64 = 14;
/// After the disk was full, tried again this much later.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What became of bytes handed over.
#[derive(Clone, Debug)]
pub(crate) enum Journaled {
    /// They are durable.
    Durable,
    /// There is no room just now: the log must sync its segment instead.
    NoRoom,
    /// The disk failed.
    Failed(StorageError),
}

/// One shard's journal in one data directory.
pub struct Journal {
    data_dir: PathBuf,
    shard: usize,
    file_bytes: u64,
    /// A quarter of a file at most.
    frame_bytes_max: usize,
    direct: bool,
    me: Weak<Self>,
    work: Notify,
    runs: Cell<bool>,
    /// So many do not want a snapshot just now.
    holds: Cell<usize>,
    /// How far the space of each file was written before; all of one found at the start.
    zeroed: [Cell<u64>; JOURNAL_FILES as usize],
    /// Who handed over, and waits.
    answers: Answers<Journaled>,
    state: RefCell<State>,
}

struct State {
    start: JournalStart,
    /// What is known of partitions that are not open: it goes into every snapshot.
    carried: BTreeMap<TopicPartition, Vec<Carried>>,
    /// A snapshot was not written to its end: it must be before an older file is given up.
    snapshot_owed: bool,
    /// What was begun may take appends.
    is_begun: bool,
    logs: BTreeMap<TopicPartition, Weak<dyn Tenant>>,
    /// Entries handed over, each with whom it answers, and their bytes in the same order.
    gathered: VecDeque<(Entry, AnswerId)>,
    gathered_pieces: VecDeque<SharedBytes>,
    /// Logs whose synced position moved since it was last written down.
    noted: Vec<Weak<dyn Tenant>>,
    /// The last frame has entries and no frame behind it: a torn end could not be told from rot.
    unconfirmed: bool,
    last_frame_at: Nanos,
    current: Option<Current>,
    retry_at: Nanos,
    failed: Option<StorageError>,
    closing: bool,
    /// Logs with bytes in the current file.
    users: Vec<Weak<dyn Tenant>>,
    /// The previous file still holds bytes that are in no synced segment.
    previous_busy: bool,
    /// It does not any more, and that is to be written down.
    previous_cleaned: bool,
    pool: ChunkPool,
    /// The frame being made: its entries, their bytes, and whom it settles.
    entries: Vec<Entry>,
    pieces: Vec<SharedBytes>,
    settles: Vec<AnswerId>,
    head: Vec<u8>,
    write: Vec<DiskRange>,
    /// An empty chunk: what new space is filled with.
    zeroes: Option<ChunkWriter>,
    frames: u64,
}

impl State {
    /// A new file would hold less than the current one's snapshot.
    fn knows_less(&mut self) {
        if let Some(current) = &mut self.current {
            current.snapshot_end = 0;
        }
    }
}

struct Current {
    file: Rc<File>,
    sequence: u64,
    number: u32,
    previous: u32,
    position: u64,
    zeroed: u64,
    /// Up to here it holds only the snapshot, and marks: a file after it would hold as much at once.
    snapshot_end: u64,
}

impl Journal {
    /// A journal that takes nothing until `begin`, of `JOURNAL_FILES` files of `file_bytes`.
    ///
    /// # Panics
    /// Below 64 KiB, or if not a multiple of 4 KiB.
    #[must_use]
    pub fn new(
        data_dir: &Path,
        shard: usize,
        file_bytes: u64,
        direct: bool,
        start: JournalStart,
    ) -> Rc<Self> {
        assert!(file_bytes >= 64 * 1024 && file_bytes.is_multiple_of(DISK_BLOCK_BYTES as u64));
        Rc::new_cyclic(|me| Self {
            data_dir: data_dir.to_owned(),
            shard,
            file_bytes,
            frame_bytes_max: (file_bytes as usize / 4).min(FRAME_BYTES_MAX),
            direct,
            me: Weak::clone(me),
            work: Notify::default(),
            runs: Cell::new(false),
            holds: Cell::new(0),
            zeroed: [const { Cell::new(u64::MAX) }; JOURNAL_FILES as usize],
            answers: Answers::default(),
            state: RefCell::new(State {
                start,
                carried: BTreeMap::new(),
                snapshot_owed: false,
                is_begun: false,
                logs: BTreeMap::new(),
                gathered: VecDeque::new(),
                gathered_pieces: VecDeque::new(),
                noted: Vec::new(),
                unconfirmed: false,
                last_frame_at: Nanos::default(),
                current: None,
                retry_at: Nanos::default(),
                failed: None,
                closing: false,
                users: Vec::new(),
                previous_busy: false,
                previous_cleaned: false,
                pool: ChunkPool::new((file_bytes as usize / 4).min(FRAME_BYTES_MAX), 2, 0),
                entries: Vec::new(),
                pieces: Vec::new(),
                settles: Vec::new(),
                head: Vec::new(),
                write: Vec::new(),
                zeroes: None,
                frames: 0,
            }),
        })
    }

    pub(crate) fn register(&self, log: &Rc<impl Tenant + 'static>) {
        let mut state = self.state.borrow_mut();
        if state.carried.remove(&log.partition()).is_some() {
            state.knows_less();
        }
        let before = state.logs.insert(log.partition(), log.weak_tenant());
        assert!(before.is_none_or(|log| log.strong_count() == 0), "one log of each partition");
    }

    /// Keeps what is known of a partition that is not open, until its log is or it is forgotten.
    pub fn carry(&self, partition: TopicPartition, known: Vec<Carried>) {
        let is_own = |carried: &Carried| carried.entry.partition == partition;
        assert!(known.iter().all(is_own), "what is carried is the partition's own");
        let mut state = self.state.borrow_mut();
        state.logs.remove(&partition);
        state.carried.insert(partition, known);
    }

    /// The partition is deleted: nothing needs to be known of it.
    pub fn forget(&self, partition: TopicPartition) {
        let mut state = self.state.borrow_mut();
        state.logs.remove(&partition);
        state.carried.remove(&partition);
        state.knows_less();
    }

    /// Frames written so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.state.borrow().frames
    }

    /// Begins a new file, alone: `begin_start` and `commit_start`.
    ///
    /// # Errors
    /// As these.
    pub async fn begin(&self) -> Result<(), StorageError> {
        let begun = self.begin_start().await;
        begun.and(self.commit_start().await)
    }

    /// Begins a new file with all that is known of the registered logs, which must hold everything
    /// that older files held, and of those carried. The older files count until `commit_start`, which is for when
    /// every shard's journal has come this far: what goes from one shard to another is then in both.
    ///
    /// # Errors
    /// The disk's. When it is full the journal takes nothing, and who calls this calls it again later.
    pub async fn begin_start(&self) -> Result<(), StorageError> {
        if self.state.borrow().current.is_some() {
            // Tried again because of another shard or directory: what this one wrote still says all.
            return Ok(());
        }
        let begun = self.begin_anew().await;
        if let Err(error) = &begun {
            self.fail(error);
        }
        begun
    }

    /// The older files do not count any more; from here on logs may hand over.
    ///
    /// # Errors
    /// As `begin_start`.
    pub async fn commit_start(&self) -> Result<(), StorageError> {
        if self.state.borrow().is_begun {
            return Ok(());
        }
        let number = self.state.borrow().start.number;
        let is_begun = self.state.borrow().current.is_some();
        let committed =
            if is_begun { self.write_mark(EntryKind::PreviousDone, number).await } else { Ok(()) };
        self.state.borrow_mut().is_begun = is_begun && committed.is_ok();
        if let Err(error) = &committed {
            self.give_up_begun();
            self.fail(error);
        }
        if !self.runs.replace(true) {
            let me = self.me.upgrade().expect("alive while used");
            runtime::spawn(me.run());
        }
        committed
    }

    /// Which file it is at, for the superblock; `None` if it could not be begun.
    #[must_use]
    pub fn known(&self) -> Option<KnownJournal> {
        let state = self.state.borrow();
        let sequence = state.current.as_ref().filter(|_| state.is_begun)?.sequence;
        Some(KnownJournal { shard: self.shard as u32, id: state.start.id, sequence })
    }

    /// A frame of one note on the journal itself.
    async fn write_mark(&self, kind: EntryKind, start: u32) -> Result<(), StorageError> {
        assert!(self.state.borrow().entries.is_empty(), "a mark has a frame of its own");
        self.state.borrow_mut().entries.push(Entry::of_journal(kind, start));
        let before = self.state.borrow().current.as_ref().map(|current| current.position);
        let written = self.write_frame(0).await;
        let mut state = self.state.borrow_mut();
        state.entries.clear();
        if let Some(current) = &mut state.current
            && before == Some(current.snapshot_end)
        {
            current.snapshot_end = current.position;
        }
        written
    }

    /// Makes all files in full, so that no later frame needs space, and begins one.
    async fn begin_anew(&self) -> Result<(), StorageError> {
        let dir = self.data_dir.join("journal");
        fs::create_dir_all(&dir).map_err(|error| StorageError::of(&dir, "mkdir", &error))?;
        let sequence = self.state.borrow().start.sequence;
        for file in (0..JOURNAL_FILES).rev() {
            let (file, _) = self.open_file(sequence + file).await?;
            // A frame makes itself durable, not how long the file is, which a start holds against it. A stop may
            // have come between making it and this.
            let synced = file.sync(false).await;
            synced.map_err(|error| StorageError::of(&dir, "fsync", &error))?;
        }
        for made in [&dir, &self.data_dir] {
            let synced = fs::sync_dir(made).await;
            synced.map_err(|error| StorageError::of(made, "sync", &error))?;
        }
        let begun = self.begin_file().await;
        if begun.is_err() {
            self.give_up_begun();
        }
        begun
    }

    /// Nothing was handed over yet: the next try writes over the same file, under a higher number, so that what is
    /// left of this one is not taken for frames of it.
    fn give_up_begun(&self) {
        let mut state = self.state.borrow_mut();
        assert!(!state.is_begun, "what has taken appends is not given up");
        assert!(state.gathered.is_empty(), "nothing was handed over yet");
        assert!(state.settles.is_empty(), "nobody waits for it");
        state.current = None;
        state.entries.clear();
        state.pieces.clear();
        state.start.sequence += JOURNAL_FILES;
    }

    fn fail(&self, error: &StorageError) {
        let mut state = self.state.borrow_mut();
        if error.is_passing() {
            state.retry_at = clock::now() + RETRY_DELAY;
        } else {
            state.failed = Some(error.clone());
        }
    }

    /// Switches to the next file and writes the snapshot into it.
    async fn begin_file(&self) -> Result<(), StorageError> {
        let (sequence, previous) = {
            let state = self.state.borrow();
            match &state.current {
                Some(current) => (current.sequence + 1, current.previous),
                None => (state.start.sequence, 0),
            }
        };
        let (file, zeroed) = self.open_file(sequence).await?;
        let (position, snapshot_end) = (0, 0);
        let current =
            Current { file, sequence, number: 0, previous, position, zeroed, snapshot_end };
        {
            let mut state = self.state.borrow_mut();
            assert!(state.entries.is_empty() && state.pieces.is_empty(), "the snapshot goes first");
            let before = state.current.as_ref().map(|before| before.sequence);
            assert!(before.is_none_or(|before| before < current.sequence), "files take turns");
            state.current = Some(current);
            state.snapshot_owed = true;
        }
        self.write_snapshot().await
    }

    /// Writes down all that is known, and that this is all of it.
    async fn write_snapshot(&self) -> Result<(), StorageError> {
        let snapshot = {
            let state = self.state.borrow();
            // What the snapshot leaves out is not known durable any more.
            let all_here = state.logs.values().all(|log| log.strong_count() > 0);
            assert!(all_here, "a log lives until its journal is closed, or is forgotten");
            let mut notes = Vec::new();
            let logs = state.logs.values().filter_map(Weak::upgrade);
            logs.for_each(|log| log.describe(&mut notes));
            let notes = notes.into_iter().map(|entry| Carried { entry, bytes: None });
            let mark = Entry::of_journal(EntryKind::SnapshotWhole, state.start.number);
            let carried = state.carried.values().flatten().cloned();
            let mark = Carried { entry: mark, bytes: None };
            carried.chain(notes).chain([mark]).collect::<VecDeque<Carried>>()
        };
        let mut rest = snapshot;
        while !rest.is_empty() {
            let mut data = 0;
            let position = {
                let mut state = self.state.borrow_mut();
                // Half of what a frame can hold: small ones are written sooner.
                while let Some(next) = rest.front() {
                    let len = next.entry.len as usize;
                    let count = state.entries.len() + 1;
                    let fits = frame_bytes(count, data + len) <= self.frame_bytes_max
                        && count <= (self.frame_bytes_max / ENTRY_BYTES / 2).max(1);
                    if !fits && count > 1 {
                        break;
                    }
                    let Carried { entry, bytes } = rest.pop_front().expect("looked at above");
                    data += len;
                    state.entries.push(entry);
                    state.pieces.extend(bytes);
                }
                let current = state.current.as_ref().expect("begun");
                current.position + frame_bytes(state.entries.len(), data) as u64
            };
            let too_large =
                data + HEAD_BYTES + 2 * ENTRY_BYTES > self.frame_bytes_max.max(64 * 1024);
            if too_large || position > self.file_bytes - self.reserved_bytes() {
                // Once what is refused is served again there is less to keep.
                let path = journal_path(&self.data_dir, self.shard, 0);
                return Err(StorageError::Full { path });
            }
            self.write_frame(data).await?;
        }
        let mut state = self.state.borrow_mut();
        state.snapshot_owed = false;
        assert!(state.entries.is_empty(), "all of the snapshot is written");
        let current = state.current.as_mut().expect("begun");
        assert!(current.position > 0, "a snapshot has at least its mark");
        current.snapshot_end = current.position;
        Ok(())
    }

    /// Kept free of records at the end of each file.
    fn reserved_bytes(&self) -> u64 {
        let blocks = self.file_bytes / DISK_BLOCK_BYTES as u64;
        let kept = MARK_BYTES + LOG_START_FRAMES_MAX.min(blocks / 8) * DISK_BLOCK_BYTES as u64;
        assert!(kept < self.file_bytes, "a file takes more than its marks");
        kept
    }

    /// A journal file, as long as it will ever be, and how far its space was written before.
    async fn open_file(&self, sequence: u64) -> Result<(Rc<File>, u64), StorageError> {
        let path = journal_path(&self.data_dir, self.shard, sequence);
        let options = OpenOptions { create: true, write: true, direct: self.direct };
        let file = File::open(&path, options);
        let file = Rc::new(file.map_err(|error| StorageError::of(&path, "open", &error))?);
        let len = file.len().map_err(|error| StorageError::of(&path, "stat", &error))?;
        if len >= self.file_bytes {
            return Ok((file, self.zeroed[(sequence % JOURNAL_FILES) as usize].get()));
        }
        let allocated = file.allocate(len, self.file_bytes - len).await;
        allocated.map_err(|error| StorageError::of(&path, "fallocate", &error))?;
        self.zeroed[(sequence % JOURNAL_FILES) as usize].set(0);
        Ok((file, 0))
    }

    /// Hands over an entry with its bytes; resolves once they are durable, or cannot be.
    pub(crate) async fn append(&self, entry: Entry, pieces: &mut Vec<SharedBytes>) -> Journaled {
        let place = {
            let mut state = self.state.borrow_mut();
            if let Some(error) = &state.failed {
                return Journaled::Failed(error.clone());
            }
            let too_large = frame_bytes(2, entry.len as usize) > self.frame_bytes_max;
            if state.closing || too_large || !state.is_begun {
                pieces.clear();
                return Journaled::NoRoom;
            }
            assert_eq!(pieces.is_empty(), entry.len == 0, "an entry has its bytes");
            let place = self.answers.open();
            assert!(!entry.kind.is_of_journal(), "logs hand over what is theirs");
            state.gathered.push_back((entry, place.id()));
            state.gathered_pieces.extend(pieces.drain(..));
            place
        };
        self.work.notify();
        place.await
    }

    /// The log's synced position moved: it is written down with one of the next frames.
    pub(crate) fn note(&self, log: &impl Tenant) {
        let mut state = self.state.borrow_mut();
        if !log.marks().noted.replace(true) {
            state.noted.push(log.weak_tenant());
            drop(state);
            self.work.notify();
        }
    }

    /// While held, no snapshot is written: logs are being opened, and what opening put in place is not durable yet.
    pub(crate) fn hold_snapshots(&self, hold: bool) {
        let holds = self.holds.get();
        assert!(hold || holds > 0, "what is let go was held");
        self.holds.set(if hold { holds + 1 } else { holds - 1 });
    }

    /// Writes frames until closed.
    async fn run(self: Rc<Self>) {
        loop {
            let lazy = {
                let state = self.state.borrow();
                let owed = !state.noted.is_empty() || state.unconfirmed;
                (owed && state.failed.is_none() && state.is_begun)
                    .then(|| state.last_frame_at + NOTE_DELAY)
            };
            let work = self.work.until(|| {
                let state = self.state.borrow();
                let notes = lazy.is_none()
                    && state.failed.is_none()
                    && state.is_begun
                    && !state.noted.is_empty();
                let wakes = notes || state.previous_cleaned || !state.gathered.is_empty();
                (wakes || state.closing).then_some(())
            });
            let due = timer::before(lazy, work).await.is_none();
            let (gathered, closing) = {
                let state = self.state.borrow();
                (!state.gathered.is_empty() || state.previous_cleaned, state.closing)
            };
            if gathered || due && !closing {
                // Whoever is ready in this turn joins: one group, one write.
                runtime::yield_now().await;
                self.commit().await;
            } else if closing {
                self.runs.set(false);
                self.work.notify();
                return;
            }
        }
    }

    /// Writes one frame of what has gathered, and settles it.
    async fn commit(&self) {
        let failed = self.state.borrow().failed.clone();
        if let Some(error) = failed {
            // Never tried again: nothing is known of what a failed write left.
            self.state.borrow_mut().previous_cleaned = false;
            self.refuse_all(&error);
            return;
        }
        if !self.state.borrow().is_begun {
            self.refuse_all(&StorageError::Full { path: self.data_dir.clone() });
            return;
        }
        if std::mem::take(&mut self.state.borrow_mut().previous_cleaned) {
            if let Err(error) = self.give_up_previous().await {
                self.refuse_all(&error);
                // Still to be written down.
                let me = self.me.upgrade().expect("alive while used");
                runtime::spawn(async move {
                    timer::sleep(RETRY_DELAY).await;
                    me.state.borrow_mut().previous_cleaned = true;
                    me.work.notify();
                });
                return;
            }
            self.state.borrow_mut().previous_busy = false;
        }
        let data = self.take_group();
        self.state.borrow_mut().last_frame_at = clock::now();
        let is_empty = self.state.borrow().entries.is_empty() && !self.state.borrow().unconfirmed;
        if is_empty {
            // It was only about the file before this one. (An empty frame behind appends says that those are whole.)
            return;
        }
        let turned = if self.has_room(data) { Ok(()) } else { self.turn_over().await };
        // What is known may fill the new file, too.
        let outcome = match turned
            .and_then(|()| self.has_room(data).then_some(()).ok_or(Journaled::NoRoom))
        {
            Ok(()) => match self.write_frame(data).await {
                Ok(()) => Journaled::Durable,
                Err(error) => self.outcome_of(error),
            },
            Err(Journaled::NoRoom) if self.keeps_log_starts() => match self.write_frame(0).await {
                Ok(()) => Journaled::Durable,
                Err(error) => self.outcome_of(error),
            },
            Err(outcome) => outcome,
        };
        self.settle(&outcome);
    }

    /// Whether the frame being made, of `data` bytes beside its table, fits into the file.
    fn has_room(&self, data: usize) -> bool {
        let state = self.state.borrow();
        let bytes = frame_bytes(state.entries.len(), data) as u64;
        let current = state.current.as_ref().expect("begun");
        assert!(current.position <= self.file_bytes, "frames lie within the file");
        current.position + bytes <= self.file_bytes - self.reserved_bytes()
    }

    /// Writes down that the file before this one is not needed any more.
    async fn give_up_previous(&self) -> Result<(), StorageError> {
        if self.state.borrow().snapshot_owed {
            self.write_snapshot().await?;
        }
        self.write_mark(EntryKind::PreviousDone, 0).await
    }

    /// Leaves of the frame being made only where logs begin or were cut, if there is a place for that; the rest is told
    /// that there is no room.
    fn keeps_log_starts(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let kinds: Vec<EntryKind> = state.entries.iter().map(|entry| entry.kind).collect();
        let keeps =
            |index: usize| matches!(kinds[index], EntryKind::LogStart | EntryKind::Truncated);
        let kept = (0..state.settles.len()).filter(|index| keeps(*index)).count();
        let bytes = frame_bytes(2 * kept, 0) as u64;
        let position = state.current.as_ref().expect("begun").position;
        if kept == 0 || position + bytes > self.file_bytes - MARK_BYTES {
            return false;
        }
        let (mut entries, mut settles) = (Vec::new(), Vec::new());
        for (index, entry) in state.entries.drain(..).enumerate() {
            match state.settles.get(index).copied() {
                Some(id) if keeps(index) => {
                    entries.push(entry);
                    settles.push(id);
                }
                Some(id) => drop(self.answers.give(id, Journaled::NoRoom)),
                // A log's note: it stays owed.
                None => {
                    if let Some(log) = state.logs.get(&entry.partition)
                        && log.upgrade().is_some_and(|log| !log.marks().noted.replace(true))
                    {
                        state.noted.push(Weak::clone(log));
                    }
                }
            }
        }
        state.pieces.clear();
        // Together with how far each is synced: what is deleted must not be looked for.
        let synced =
            |entry: &Entry| Some(state.logs.get(&entry.partition)?.upgrade()?.synced_entry());
        let synced: Vec<Entry> = entries.iter().filter_map(synced).collect();
        entries.extend(synced);
        assert_eq!(settles.len(), kept, "whoever is kept is told");
        (state.entries, state.settles) = (entries, settles);
        true
    }

    fn outcome_of(&self, error: StorageError) -> Journaled {
        self.fail(&error);
        if error.is_passing() { Journaled::NoRoom } else { Journaled::Failed(error) }
    }

    /// Moves what has gathered into the next frame, as much as fits; returns its bytes.
    fn take_group(&self) -> usize {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let mut data = 0;
        while let Some((entry, _)) = state.gathered.front() {
            let len = entry.len as usize;
            if frame_bytes(state.entries.len() + 1, data + len) > self.frame_bytes_max {
                break;
            }
            let (entry, id) = state.gathered.pop_front().expect("looked at above");
            state.entries.push(entry);
            state.settles.push(id);
            let until = data + len;
            while data < until {
                let piece = state.gathered_pieces.pop_front().expect("an entry has its bytes");
                data += piece.len();
                state.pieces.push(piece);
            }
            assert_eq!(data, until, "an entry's pieces are its bytes");
        }
        assert_eq!(state.entries.len(), state.settles.len(), "each entry is somebody's");
        let used = HEAD_BYTES + state.entries.len() * ENTRY_BYTES + data;
        let room = self.frame_bytes_max.saturating_sub(used) / ENTRY_BYTES;
        for log in state.noted.drain(..room.min(state.noted.len())) {
            if let Some(log) = log.upgrade() {
                log.marks().noted.set(false);
                state.entries.push(log.synced_entry());
            }
        }
        data
    }

    /// Tells everyone in the frame what became of it.
    fn settle(&self, outcome: &Journaled) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        for entry in state.entries.drain(..).filter(|entry| entry.kind == EntryKind::Synced) {
            // Not written down: it stays owed.
            if let Some(log) = state.logs.get(&entry.partition)
                && log.upgrade().is_some_and(|log| !log.marks().noted.replace(true))
            {
                state.noted.push(Weak::clone(log));
            }
        }
        state.pieces.clear();
        assert!(state.entries.is_empty(), "what was in the frame is settled");
        for id in state.settles.drain(..) {
            // Whoever handed over may have gone meanwhile.
            self.answers.give(id, outcome.clone());
        }
    }

    fn refuse_all(&self, error: &StorageError) {
        let outcome = self.outcome_of(error.clone());
        self.settle(&outcome);
        while !self.state.borrow().gathered.is_empty() {
            self.take_group();
            self.settle(&outcome);
        }
        let state = self.state.borrow();
        assert!(state.gathered_pieces.is_empty(), "bytes go with their entries");
        assert!(state.settles.is_empty(), "everybody was told");
    }

    /// Writes the frame being made, of `data` bytes beside its table, durably.
    async fn write_frame(&self, data: usize) -> Result<(), StorageError> {
        let (file, position, bytes) = {
            let state = self.state.borrow();
            let current = state.current.as_ref().expect("begun");
            let bytes = frame_bytes(state.entries.len(), data) as u64;
            (Rc::clone(&current.file), current.position, bytes)
        };
        assert!(position.is_multiple_of(DISK_BLOCK_BYTES as u64), "frames begin at blocks");
        assert!(position + bytes <= self.file_bytes, "a frame fits its file");
        self.zero_ahead(&file, position + bytes).await?;
        let (writer, crc) = self.make_frame(bytes);
        let mut pieces = std::mem::take(&mut self.state.borrow_mut().write);
        let written = file.write_at(&mut pieces, position, true).await;
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.write = pieces;
        state.pool.retire(writer);
        let current = state.current.as_mut().expect("begun");
        written.map_err(|error| {
            let path = journal_path(&self.data_dir, self.shard, current.sequence);
            StorageError::of(&path, "write", &error)
        })?;
        assert_eq!(current.position, position, "nothing else was written meanwhile");
        (current.previous, current.number) = (crc, current.number + 1);
        current.position += bytes;
        state.frames += 1;
        state.last_frame_at = clock::now();
        state.unconfirmed = false;
        let sequence = current.sequence;
        for entry in state.entries.drain(..).filter(|entry| entry.kind == EntryKind::Append) {
            state.unconfirmed = true;
            let Some(log) = state.logs.get(&entry.partition) else { continue };
            if log
                .upgrade()
                .is_some_and(|log| log.marks().journaled_in.replace(sequence) != sequence)
            {
                state.users.push(Weak::clone(log));
            }
        }
        Ok(())
    }

    /// Makes the frame of what is to be written, which takes so many bytes; returns its memory and checksum.
    fn make_frame(&self, bytes: u64) -> (ChunkWriter, u32) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let current = state.current.as_ref().expect("begun");
        let mut pieces = state.pieces.iter();
        for entry in &mut state.entries {
            let (mut crc, mut missing) = (crc32c::Digest::default(), entry.len as usize);
            while missing > 0 {
                let piece = pieces.next().expect("an entry has its bytes");
                crc.update(piece);
                missing -= piece.len();
            }
            entry.crc = if entry.len > 0 { crc.finish() } else { 0 };
        }
        assert!(pieces.next().is_none(), "all bytes are an entry's");
        let id = FrameId {
            journal: state.start.id,
            sequence: current.sequence,
            number: current.number,
            previous: current.previous,
            file_bytes: self.file_bytes,
        };
        let crc = encode_head(id, &state.entries, &mut state.head);
        let mut writer = state.pool.take_or_grow();
        writer.append(&state.head);
        state.pieces.drain(..).for_each(|piece| {
            writer.append(&piece);
        });
        assert!(writer.filled() as u64 <= bytes, "a frame is as large as was reckoned");
        assert!(state.write.is_empty(), "one frame is written at a time");
        state.write.push(writer.disk_range(0..bytes as usize));
        (writer, crc)
    }

    async fn zero_ahead(&self, file: &File, end: u64) -> Result<(), StorageError> {
        let zeroed = self.state.borrow().current.as_ref().expect("begun").zeroed;
        if end <= zeroed {
            return Ok(());
        }
        let target = end.next_multiple_of(ZERO_BYTES).min(self.file_bytes).max(end);
        assert!(target <= self.file_bytes, "no file grows");
        let (mut pieces, mut at) = (std::mem::take(&mut self.state.borrow_mut().write), zeroed);
        let mut written = Ok(());
        while at < target && written.is_ok() {
            let step = (target - at).min(ZERO_BYTES);
            let mut zeroes = self
                .state
                .borrow_mut()
                .zeroes
                .take()
                .unwrap_or_else(|| ChunkWriter::with_capacity(ZERO_BYTES as usize));
            pieces.push(zeroes.disk_range(0..step as usize));
            written = file.write_at(&mut pieces, at, false).await;
            self.state.borrow_mut().zeroes = Some(zeroes);
            at += step;
        }
        self.state.borrow_mut().write = pieces;
        written
            .map_err(|error| StorageError::of(&self.data_dir.join("journal"), "write", &error))?;
        let mut state = self.state.borrow_mut();
        let current = state.current.as_mut().expect("begun");
        current.zeroed = target;
        self.zeroed[(current.sequence % JOURNAL_FILES) as usize].set(target);
        Ok(())
    }

    /// Begins the next file, if nothing before the current one is needed any more.
    async fn turn_over(&self) -> Result<(), Journaled> {
        let (entries, pieces, users) = {
            let mut state = self.state.borrow_mut();
            let is_full_of_snapshot = state
                .current
                .as_ref()
                .is_some_and(|current| current.position <= current.snapshot_end);
            if state.previous_busy
                || clock::now() < state.retry_at
                || self.holds.get() > 0
                || is_full_of_snapshot
            {
                return Err(Journaled::NoRoom);
            }
            assert!(!state.previous_cleaned, "the file before is done with");
            state.previous_busy = true;
            // The group waits: the snapshot goes first.
            let state = &mut *state;
            let entries = std::mem::take(&mut state.entries);
            let pieces = std::mem::take(&mut state.pieces);
            (entries, pieces, std::mem::take(&mut state.users))
        };
        let left = self.state.borrow().current.as_ref().map(Current::again);
        let sequence = left.as_ref().map(|left| left.sequence);
        let begun = match self.begin_file().await {
            Ok(()) => self.mark_continued(left).await,
            failed => failed,
        };
        let moved = {
            let mut state = self.state.borrow_mut();
            (state.entries, state.pieces) = (entries, pieces);
            let moved = state.current.as_ref().map(|current| current.sequence) != sequence;
            if !moved {
                (state.users, state.previous_busy) = (users.clone(), false);
            }
            moved
        };
        if moved {
            // Also after a failure half-way: what the file before this one holds is then freed all the same,
            // and the rest of the snapshot written first.
            runtime::spawn(self.me.upgrade().expect("alive while used").clean_previous(users));
        }
        begun.map_err(|error| self.outcome_of(error))
    }

    /// Notes in the file that was left that the next one was begun, before anything counts on that one: if it is
    /// gone at a start, something is missing.
    async fn mark_continued(&self, left: Option<Current>) -> Result<(), StorageError> {
        let Some(left) = left else { return Ok(()) };
        let next = self.state.borrow_mut().current.replace(left);
        let frames = self.state.borrow().frames;
        let written = self.write_mark(EntryKind::Continued, 0).await;
        let mut state = self.state.borrow_mut();
        (state.current, state.frames) = (next, frames);
        written
    }

    /// Syncs the segments of every log with bytes in the previous file, then frees that file.
    async fn clean_previous(self: Rc<Self>, users: Vec<Weak<dyn Tenant>>) {
        let queue = Rc::new(RefCell::new(users));
        let (running, done) = (Rc::new(Cell::new(0)), Rc::new(Notify::default()));
        let failed = Rc::new(Cell::new(false));
        for _ in 0..CLEANERS.min(queue.borrow().len()) {
            running.set(running.get() + 1);
            let (queue, running, done, failed) =
                (Rc::clone(&queue), Rc::clone(&running), Rc::clone(&done), Rc::clone(&failed));
            runtime::spawn(async move {
                loop {
                    let next = queue.borrow_mut().pop();
                    let Some(log) = next else { break };
                    while let Some(log) = log.upgrade() {
                        match log.sync_segments().await {
                            Ok(()) => break,
                            Err(error) if error.is_passing() => timer::sleep(RETRY_DELAY).await,
                            Err(_) => {
                                failed.set(true);
                                break;
                            }
                        }
                    }
                }
                running.set(running.get() - 1);
                done.notify();
            });
        }
        done.until(|| (running.get() == 0).then_some(())).await;
        assert!(self.state.borrow().previous_busy, "only what is busy is cleaned");
        if failed.get() {
            return;
        }
        self.state.borrow_mut().previous_cleaned = true;
        self.work.notify();
    }

    /// Stops taking bytes and writes the snapshot that the next start reads. Every log must have
    /// been closed.
    ///
    /// # Errors
    /// The disk's.
    pub async fn close(&self) -> Result<(), StorageError> {
        self.state.borrow_mut().closing = true;
        self.work.notify();
        self.work.until(|| (!self.runs.get()).then_some(())).await;
        if let Some(error) = &self.state.borrow().failed {
            return Err(error.clone());
        }
        if !self.state.borrow().is_begun {
            return Ok(());
        }
        let left = self.state.borrow().current.as_ref().map(Current::again);
        self.begin_file().await?;
        self.mark_continued(left).await?;
        self.write_mark(EntryKind::PreviousDone, 0).await
    }
}

impl Current {
    /// The same place of the same file.
    fn again(&self) -> Self {
        Self { file: Rc::clone(&self.file), ..*self }
    }
}
