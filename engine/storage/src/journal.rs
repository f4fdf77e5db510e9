//! The journal of a shard: many partitions' small synced writes in one write, made durable at once.
//!
//! A log hands over the bytes it wants durable; everything handed over in one loop turn, or while a
//! frame is being written, goes out as the next frame. The bytes reach their segments later, in
//! larger writes and without a sync of their own. Files take turns: before one is written over, every
//! log with bytes in it has synced its segments.

use crate::StorageError;
use crate::journal_frame::{
    ENTRY_BYTES, Entry, EntryKind, FRAME_BYTES_MAX, FrameId, HEAD_BYTES, encode_head, frame_bytes,
};
use crate::log::Log;
use model::limits::DISK_BLOCK_BYTES;
use model::{TopicPartition, crc32c};
use runtime::buffer::{ChunkPool, ChunkWriter, DiskRange, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::file::{File, OpenOptions};
use runtime::notify::Notify;
use runtime::{fs, timer};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Files that take turns: the current one, the one before it that may still be needed, and one to
/// begin anew in after a start, while both of those still count.
pub const JOURNAL_FILES: u64 = 3;
/// A log with more than this to make durable writes its segment instead.
pub const BULK_BYTES: u32 = 64 * 1024;
/// New space is filled with zeroes in such steps: overwriting is several times cheaper than a first
/// write, which must also make the file system's map durable.
const ZERO_BYTES: u64 = 1024 * 1024;
/// Segments synced at a time when a file is to be reused.
const CLEANERS: usize = 16;
/// What is known durable is written down this long after it became so, if nothing else is written.
const NOTE_DELAY: Duration = Duration::from_millis(20);
/// Kept free at the end of a file for the mark that frees the file before it.
const RESERVED_BYTES: u64 = DISK_BLOCK_BYTES as u64;
/// After the disk was full, tried again this much later.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Where the journal files of a shard are.
#[must_use]
pub fn journal_path(data_dir: &Path, shard: usize, file: u64) -> PathBuf {
    data_dir.join("journal").join(format!("{shard}.{}", file % JOURNAL_FILES))
}

/// How a journal goes on after a start.
#[derive(Clone, Debug, Default)]
pub struct JournalStart {
    /// Names the journal in each of its frames.
    pub id: u64,
    /// The file to begin; above every one found.
    pub sequence: u64,
    /// What is known of partitions that could not be opened, to be kept.
    pub carried: Vec<Entry>,
}

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
    /// How far the space of each file was written before; all of one found at the start.
    zeroed: [Cell<u64>; JOURNAL_FILES as usize],
    state: RefCell<State>,
}

struct State {
    start: JournalStart,
    logs: BTreeMap<TopicPartition, Weak<Log>>,
    /// Entries handed over, each with its slot, and their bytes in the same order.
    gathered: VecDeque<(Entry, usize)>,
    gathered_pieces: VecDeque<SharedBytes>,
    slots: Vec<Slot>,
    free_slots: Vec<usize>,
    /// Logs whose synced position moved since it was last written down.
    noted: Vec<Weak<Log>>,
    /// The last frame has entries and no frame behind it: a torn end could not be told from rot.
    unconfirmed: bool,
    last_frame_at: Nanos,
    current: Option<Current>,
    retry_at: Nanos,
    failed: Option<StorageError>,
    closing: bool,
    /// Logs with bytes in the current file.
    users: Vec<Weak<Log>>,
    /// The previous file still holds bytes that are in no synced segment.
    previous_busy: bool,
    /// It does not any more, and that is to be written down.
    previous_cleaned: bool,
    pool: ChunkPool,
    /// The frame being made: its entries, their bytes, and whom it settles.
    entries: Vec<Entry>,
    pieces: Vec<SharedBytes>,
    taken_slots: Vec<usize>,
    head: Vec<u8>,
    write: Vec<DiskRange>,
    /// An empty chunk: what new space is filled with.
    zeroes: Option<ChunkWriter>,
    frames: u64,
}

#[derive(Default)]
struct Slot {
    outcome: Option<Journaled>,
    waker: Option<Waker>,
}

struct Current {
    file: Rc<File>,
    sequence: u64,
    number: u32,
    previous: u32,
    position: u64,
    zeroed: u64,
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
            zeroed: [const { Cell::new(u64::MAX) }; JOURNAL_FILES as usize],
            state: RefCell::new(State {
                start,
                logs: BTreeMap::new(),
                gathered: VecDeque::new(),
                gathered_pieces: VecDeque::new(),
                slots: Vec::new(),
                free_slots: Vec::new(),
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
                taken_slots: Vec::new(),
                head: Vec::new(),
                write: Vec::new(),
                zeroes: None,
                frames: 0,
            }),
        })
    }

    pub(crate) fn register(&self, log: &Rc<Log>) {
        self.state.borrow_mut().logs.insert(log.id(), Rc::downgrade(log));
    }

    /// Keeps what is known of a partition that could not be opened.
    pub fn carry(&self, entries: impl IntoIterator<Item = Entry>) {
        self.state.borrow_mut().start.carried.extend(entries);
    }

    /// The partition is deleted: nothing needs to be known of it.
    pub(crate) fn forget(&self, partition: TopicPartition) {
        self.state.borrow_mut().logs.remove(&partition);
    }

    /// Frames written so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.state.borrow().frames
    }

    /// Begins a new file with all that is known of the registered logs, which must hold everything
    /// that older files held; those are not read again after this.
    ///
    /// # Errors
    /// The disk's. When it is full the journal takes nothing and tries again later.
    pub async fn begin(&self) -> Result<(), StorageError> {
        let begun = self.begin_anew().await;
        if let Err(error) = &begun {
            self.fail(error);
        }
        if !self.runs.replace(true) {
            let me = self.me.upgrade().expect("alive while used");
            runtime::spawn(me.run());
        }
        begun
    }

    /// Makes all files in full, so that no later frame needs space, and begins one.
    async fn begin_anew(&self) -> Result<(), StorageError> {
        let dir = self.data_dir.join("journal");
        fs::create_dir_all(&dir).map_err(|error| StorageError::of(&dir, "mkdir", &error))?;
        let sequence = self.state.borrow().start.sequence;
        for file in (0..JOURNAL_FILES).rev() {
            self.open_file(sequence + file).await?;
        }
        for made in [&dir, &self.data_dir] {
            let synced = fs::sync_dir(made).await;
            synced.map_err(|error| StorageError::of(made, "sync", &error))?;
        }
        self.begin_file(true).await
    }

    fn fail(&self, error: &StorageError) {
        let mut state = self.state.borrow_mut();
        if error.is_full() {
            state.retry_at = clock::now() + RETRY_DELAY;
        } else {
            state.failed = Some(error.clone());
        }
    }

    /// Switches to the next file and writes the snapshot into it. With `alone` the file before it
    /// is not needed any more.
    async fn begin_file(&self, alone: bool) -> Result<(), StorageError> {
        let (sequence, previous, mut snapshot) = {
            let state = self.state.borrow();
            // What the snapshot leaves out is not known durable any more.
            let all_here = state.logs.values().all(|log| log.strong_count() > 0);
            assert!(all_here, "a log lives until its journal is closed, or is forgotten");
            let (sequence, previous) = match &state.current {
                Some(current) => (current.sequence + 1, current.previous),
                None => (state.start.sequence, 0),
            };
            let mut snapshot = state.start.carried.clone();
            let logs = state.logs.values().filter_map(Weak::upgrade);
            logs.for_each(|log| log.describe(&mut snapshot));
            (sequence, previous, snapshot)
        };
        let (file, zeroed) = self.open_file(sequence).await?;
        let current = Current { file, sequence, number: 0, previous, position: 0, zeroed };
        self.state.borrow_mut().current = Some(current);
        if alone {
            snapshot.push(Entry::previous_done());
        }
        let mut rest = &snapshot[..];
        loop {
            let (now, later) =
                rest.split_at(rest.len().min(self.frame_bytes_max / ENTRY_BYTES / 2));
            self.state.borrow_mut().entries.extend_from_slice(now);
            self.write_frame(0).await?;
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
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
        let slot = {
            let mut state = self.state.borrow_mut();
            if let Some(error) = &state.failed {
                return Journaled::Failed(error.clone());
            }
            let too_large = frame_bytes(2, entry.len as usize) > self.frame_bytes_max;
            let never_begun = state.current.is_none() && clock::now() < state.retry_at;
            if state.closing || too_large || never_begun {
                pieces.clear();
                return Journaled::NoRoom;
            }
            let slot = state.free_slots.pop().unwrap_or_else(|| {
                state.slots.push(Slot::default());
                state.slots.len() - 1
            });
            state.gathered.push_back((entry, slot));
            state.gathered_pieces.extend(pieces.drain(..));
            slot
        };
        self.work.notify();
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let place = &mut state.slots[slot];
            match place.outcome.take() {
                Some(outcome) => {
                    place.waker = None;
                    state.free_slots.push(slot);
                    Poll::Ready(outcome)
                }
                None => {
                    if !place.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                        place.waker = Some(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The log's synced position moved: it is written down with one of the next frames.
    pub(crate) fn note(&self, log: &Log) {
        let mut state = self.state.borrow_mut();
        if !log.noted.replace(true) {
            state.noted.push(log.weak());
            drop(state);
            self.work.notify();
        }
    }

    /// Writes frames until closed.
    async fn run(self: Rc<Self>) {
        loop {
            let lazy = {
                let state = self.state.borrow();
                let owed = !state.noted.is_empty() || state.unconfirmed;
                (owed && state.failed.is_none() && state.current.is_some())
                    .then(|| state.last_frame_at + NOTE_DELAY)
            };
            let work = self.work.until(|| {
                let state = self.state.borrow();
                let notes = lazy.is_none()
                    && state.failed.is_none()
                    && state.current.is_some()
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
        if self.state.borrow().current.is_none() {
            let too_early = clock::now() < self.state.borrow().retry_at;
            let begun = if too_early {
                Err(StorageError::Full { path: self.data_dir.clone() })
            } else {
                self.begin_anew().await
            };
            if let Err(error) = begun {
                self.state.borrow_mut().current = None;
                self.refuse_all(&error);
                return;
            }
        }
        if std::mem::take(&mut self.state.borrow_mut().previous_cleaned) {
            self.state.borrow_mut().entries.push(Entry::previous_done());
            if let Err(error) = self.write_frame(0).await {
                self.refuse_all(&error);
                return;
            }
            self.state.borrow_mut().previous_busy = false;
        }
        let data = self.take_group();
        let room = {
            let mut state = self.state.borrow_mut();
            state.last_frame_at = clock::now();
            let current = state.current.as_ref().expect("begun above");
            let bytes = frame_bytes(state.entries.len(), data) as u64;
            current.position + bytes <= self.file_bytes - RESERVED_BYTES
        };
        let outcome = match if room { Ok(()) } else { self.turn_over().await } {
            Ok(()) => match self.write_frame(data).await {
                Ok(()) => Journaled::Durable,
                Err(error) => self.outcome_of(error),
            },
            Err(outcome) => outcome,
        };
        self.settle(&outcome);
    }

    fn outcome_of(&self, error: StorageError) -> Journaled {
        self.fail(&error);
        if error.is_full() { Journaled::NoRoom } else { Journaled::Failed(error) }
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
            let (entry, slot) = state.gathered.pop_front().expect("looked at above");
            state.entries.push(entry);
            state.taken_slots.push(slot);
            let until = data + len;
            while data < until {
                let piece = state.gathered_pieces.pop_front().expect("an entry has its bytes");
                data += piece.len();
                state.pieces.push(piece);
            }
            assert_eq!(data, until, "an entry's pieces are its bytes");
        }
        let used = HEAD_BYTES + state.entries.len() * ENTRY_BYTES + data;
        let room = self.frame_bytes_max.saturating_sub(used) / ENTRY_BYTES;
        for log in state.noted.drain(..room.min(state.noted.len())) {
            if let Some(log) = log.upgrade() {
                log.noted.set(false);
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
                && log.upgrade().is_some_and(|log| !log.noted.replace(true))
            {
                state.noted.push(Weak::clone(log));
            }
        }
        state.pieces.clear();
        for slot in state.taken_slots.drain(..) {
            let slot = &mut state.slots[slot];
            slot.outcome = Some(outcome.clone());
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    fn refuse_all(&self, error: &StorageError) {
        let outcome = self.outcome_of(error.clone());
        self.settle(&outcome);
        while !self.state.borrow().gathered.is_empty() {
            self.take_group();
            self.settle(&outcome);
        }
    }

    /// Writes the frame being made, of `data` bytes beside its table, durably.
    async fn write_frame(&self, data: usize) -> Result<(), StorageError> {
        let (file, position, bytes) = {
            let state = self.state.borrow();
            let current = state.current.as_ref().expect("begun");
            let bytes = frame_bytes(state.entries.len(), data) as u64;
            (Rc::clone(&current.file), current.position, bytes)
        };
        self.zero_ahead(&file, position + bytes).await?;
        let (writer, crc) = {
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
            let id = FrameId {
                journal: state.start.id,
                sequence: current.sequence,
                number: current.number,
                previous: current.previous,
            };
            let crc = encode_head(id, &state.entries, &mut state.head);
            let mut writer = state.pool.take_or_grow();
            writer.append(&state.head);
            state.pieces.drain(..).for_each(|piece| {
                writer.append(&piece);
            });
            state.write.push(writer.disk_range(0..bytes as usize));
            (writer, crc)
        };
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
        (current.previous, current.number) = (crc, current.number + 1);
        current.position += bytes;
        state.frames += 1;
        state.last_frame_at = clock::now();
        state.unconfirmed = false;
        let sequence = current.sequence;
        for entry in state.entries.drain(..).filter(|entry| entry.kind == EntryKind::Append) {
            state.unconfirmed = true;
            let Some(log) = state.logs.get(&entry.partition) else { continue };
            if log.upgrade().is_some_and(|log| log.journaled_in.replace(sequence) != sequence) {
                state.users.push(Weak::clone(log));
            }
        }
        Ok(())
    }

    async fn zero_ahead(&self, file: &File, end: u64) -> Result<(), StorageError> {
        let zeroed = self.state.borrow().current.as_ref().expect("begun").zeroed;
        if end <= zeroed {
            return Ok(());
        }
        let target = end.next_multiple_of(ZERO_BYTES).min(self.file_bytes).max(end);
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
            if state.previous_busy {
                return Err(Journaled::NoRoom);
            }
            state.previous_busy = true;
            // The group waits: the snapshot goes first.
            let state = &mut *state;
            let entries = std::mem::take(&mut state.entries);
            let pieces = std::mem::take(&mut state.pieces);
            (entries, pieces, std::mem::take(&mut state.users))
        };
        let begun = self.begin_file(false).await;
        let mut state = self.state.borrow_mut();
        (state.entries, state.pieces) = (entries, pieces);
        drop(state);
        begun.map_err(|error| self.outcome_of(error))?;
        runtime::spawn(self.me.upgrade().expect("alive while used").clean_previous(users));
        Ok(())
    }

    /// Syncs the segments of every log with bytes in the previous file, then frees that file.
    async fn clean_previous(self: Rc<Self>, users: Vec<Weak<Log>>) {
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
                            Err(error) if error.is_full() => timer::sleep(RETRY_DELAY).await,
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
        if self.state.borrow().current.is_none() {
            return Ok(());
        }
        self.begin_file(true).await
    }
}
