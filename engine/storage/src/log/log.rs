//! A partition's log: append to memory, flush to disk, read from either.
//!
//! Cost of an append: one copy of the batch, no system call. A flush makes everything appended so
//! far as safe as asked: small amounts through the shard's journal, large ones in the segment. While
//! it is in flight the next group gathers. Whoever uses a log knows only how far it is written and
//! durable.

use crate::StorageError;
use crate::directory::log_dir::LogDir;
use crate::directory::tenant::{Tenant, TenantMarks};
use crate::journal::frame::{Entry, EntryKind, LogPosition};
use crate::journal::known::BULK_BYTES;
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::segment::{LogSegment, Slab};
use model::limits::DISK_BLOCK_BYTES;
use model::record_batch::stored_prefix;
use model::{LeaderEpoch, LogSettings, Offset, RecordBatch, TopicPartition};
use runtime::buffer::{ChunkWriter, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::file::{File, OpenOptions};
use runtime::fs;
use runtime::notify::Notify;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::{Rc, Weak};
/// How far the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Every record below survives the end of the process.
    pub written: Offset,
    /// Every record below survives a power cut. Never above `written`.
    pub durable: Offset,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes of whole batches, the last perhaps cut.
    Bytes(usize),
    /// Not in memory: use `read_disk`.
    Miss,
}

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's offset.
    pub offset: Offset,
    /// The record's timestamp, ms since the Unix epoch.
    pub timestamp: i64,
}

/// One partition's log. Lives on one shard; shared there by appends, reads and the flush.
pub struct Log {
    pub(super) id: TopicPartition,
    pub(super) home: Rc<LogDir>,
    pub(super) dir: PathBuf,
    settings: Cell<LogSettings>,
    me: Weak<Self>,
    pub(super) state: RefCell<State>,
    /// One flush or removal at a time.
    pub(super) idle: Notify,
    /// What those it shares with note of it.
    pub(super) marks: TenantMarks,
    pub(super) writes_behind: Cell<bool>,
    holds_slabs: Cell<bool>,
    /// Up to where it was compacted, once known.
    pub(super) cleaned_to: Cell<Option<Offset>>,
    /// Its partition is deleted: whatever still works on it may fail, and that concerns nobody.
    deleted: Cell<bool>,
    /// It is being compacted, or so many are about to cut its end: one excludes the other.
    pub(super) compacting: Cell<bool>,
    pub(super) cuts: Cell<usize>,
    /// So many delete from its start: a cut waits for them, and they for a cut.
    pub(super) deletes: Cell<usize>,
    /// What took it offline, until someone was told.
    pub(super) failure: RefCell<Option<StorageError>>,
}

pub(super) struct State {
    /// Ascending; the last is the active one.
    pub(super) segments: Vec<LogSegment>,
    pub(super) log_start: Offset,
    pub(super) log_end: Offset,
    /// How far the segments are written.
    pub(super) written: Reached,
    /// How far the segments are fsynced. Never beyond `written`.
    pub(super) synced: Reached,
    /// How far the journal holds what the segments may not. Of use while beyond `synced`; then in
    /// the same segment as `written`.
    pub(super) journaled: Reached,
    pub(super) epochs: LeaderEpochs,
    pub(super) epochs_stored: bool,
    /// The names of all segments' files are durable.
    pub(super) names_synced: bool,
    pub(super) offline: bool,
    pub(super) flushing: bool,
    /// Whoever wants to flush takes a number; they come in that order.
    pub(super) flush_next: u64,
    pub(super) flush_serving: u64,
    /// Disk reads under way; segments are removed only between them.
    pub(super) readers: usize,
    /// So many are about to remove segments: reads wait.
    pub(super) removing: usize,
    /// After a full disk refused journaled bytes their segment: when to try again.
    pub(super) lag_retry_at: Nanos,
}

/// A place in the log: everything before `position` of segment number `segment`, up to `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) segment: usize,
    pub(super) position: u32,
    pub(super) offset: Offset,
}

pub(crate) fn block_floor(position: u32) -> u32 {
    position / DISK_BLOCK_BYTES as u32 * DISK_BLOCK_BYTES as u32
}

pub(crate) fn open_file(path: &Path, direct: bool, create: bool) -> Result<File, StorageError> {
    let options = OpenOptions { create, write: true, direct };
    File::open(path, options).map_err(|error| StorageError::of(path, "open", &error))
}

impl Log {
    /// Makes the log of a new partition. Its directory lasts once `LogDir::sync_names` has run.
    ///
    /// # Errors
    /// The disk's; or its directory holds something: a log is never made over another.
    pub fn create(
        home: &Rc<LogDir>,
        id: TopicPartition,
        settings: LogSettings,
    ) -> Result<Rc<Self>, StorageError> {
        let dir = home.partition_path(id);
        fs::create_dir_all(&dir).map_err(|error| StorageError::of(&dir, "mkdir", &error))?;
        let names = fs::list(&dir).map_err(|error| StorageError::of(&dir, "list", &error))?;
        if !names.is_empty() {
            return Err(StorageError::Unusable(format!(
                "{}: holds files of a partition that was to be made; move them away, or restore the catalog that \
                 knows it",
                dir.display()
            )));
        }
        let segments = vec![LogSegment::new(Offset::ZERO)];
        let epochs = LeaderEpochs::default();
        Ok(Self::new(home, id, settings, segments, Offset::ZERO, Offset::ZERO, epochs))
    }

    /// A log of which everything is synced.
    pub(crate) fn new(
        home: &Rc<LogDir>,
        id: TopicPartition,
        settings: LogSettings,
        segments: Vec<LogSegment>,
        log_start: Offset,
        log_end: Offset,
        epochs: LeaderEpochs,
    ) -> Rc<Self> {
        let active = segments.last().expect("a log has a segment");
        let reached =
            Reached { segment: segments.len() - 1, position: active.end, offset: log_end };
        assert!(log_start <= log_end, "a log begins before it ends");
        assert!(active.base <= log_end, "the active segment begins in the log");
        assert!(segments.windows(2).all(|pair| pair[0].base < pair[1].base), "segments ascend");
        let ends_above = epochs.starts().last().is_none_or(|(_, start)| *start < log_end);
        assert!(ends_above || log_end == Offset::ZERO, "an epoch that wrote nothing is not known");
        let log = Rc::new_cyclic(|me| Self {
            id,
            dir: home.partition_path(id),
            home: Rc::clone(home),
            settings: Cell::new(settings),
            me: Weak::clone(me),
            state: RefCell::new(State {
                segments,
                log_start,
                log_end,
                written: reached,
                synced: reached,
                journaled: reached,
                epochs,
                epochs_stored: true,
                names_synced: true,
                offline: false,
                flushing: false,
                flush_next: 0,
                flush_serving: 0,
                readers: 0,
                removing: 0,
                lag_retry_at: Nanos::default(),
            }),
            idle: Notify::default(),
            marks: TenantMarks::default(),
            writes_behind: Cell::new(false),
            holds_slabs: Cell::new(false),
            cleaned_to: Cell::new(None),
            deleted: Cell::new(false),
            compacting: Cell::new(false),
            cuts: Cell::new(0),
            deletes: Cell::new(0),
            failure: RefCell::new(None),
        });
        if let Some(journal) = &home.journal {
            journal.register(&log);
        }
        log
    }

    /// Which partition it is.
    #[must_use]
    pub fn id(&self) -> TopicPartition {
        self.id
    }

    /// The partition is deleted: the journal need not know of it, and whatever still works on it may fail.
    pub fn forget(&self) {
        self.deleted.set(true);
        self.drop_from_journal();
    }

    /// Waits, once it is forgotten, until nobody reads or writes its files but compaction, which gives up: its
    /// directory may go then.
    pub async fn until_unused(&self) {
        self.begin_removing().await;
        self.state.borrow_mut().removing -= 1;
        let _ = self.end_flush(Ok(()));
    }

    /// The journal need not know of it.
    pub(crate) fn drop_from_journal(&self) {
        if let Some(journal) = &self.home.journal {
            journal.forget(self.id);
        }
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.get()
    }

    /// The directory it lies in, and what it shares with others there.
    #[must_use]
    pub fn home(&self) -> &Rc<LogDir> {
        &self.home
    }

    /// How it is kept.
    #[must_use]
    pub fn settings(&self) -> LogSettings {
        self.settings.get()
    }

    /// Keeps it differently from the next append on.
    pub fn set_settings(&self, settings: LogSettings) {
        assert!(settings.segment_bytes > 0 && settings.segment_ms > 0, "a segment takes something");
        self.settings.set(settings);
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        Weak::clone(&self.me)
    }

    /// First offset kept.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.state.borrow().log_start
    }

    /// The offset the next record gets.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        self.state.borrow().log_end
    }

    /// Whether a flush has something to do: to write, with `durable` to sync, or to move journaled
    /// bytes on to their segment.
    #[must_use]
    pub fn is_dirty(&self, durable: bool) -> bool {
        let state = self.state.borrow();
        let reached = if durable { state.durable() } else { state.safe() };
        !state.offline && (reached.offset < state.log_end || state.lags())
    }

    /// How far the disk is.
    #[must_use]
    pub fn flushed(&self) -> Flushed {
        let state = self.state.borrow();
        Flushed { written: state.safe().offset, durable: state.durable().offset }
    }

    /// Whether a disk error took it offline, or it is deleted: it then takes no appends.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.state.borrow().offline || self.is_deleted() || self.home.health.is_offline()
    }

    /// The epoch of the newest records, if there are any.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.latest()
    }

    /// The epochs that appended here.
    #[must_use]
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.epoch_of(offset)
    }

    /// The largest epoch at or below `asked` of which records are left, and where it ended; or where those begin.
    #[must_use]
    pub fn end_of_epoch(&self, asked: LeaderEpoch) -> (LeaderEpoch, Offset) {
        let state = self.state.borrow();
        state.epochs.end_of(asked, state.log_start, state.log_end)
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.state.borrow().segments.iter().map(|s| u64::from(s.end)).sum()
    }

    /// Bytes appended and not yet durable.
    #[must_use]
    pub fn unsynced_records(&self) -> i64 {
        let state = self.state.borrow();
        assert!(state.durable().offset <= state.log_end, "what is durable was appended");
        state.log_end.since(state.durable().offset)
    }

    /// What the journal writes down of it: how far the segments are synced.
    pub(crate) fn synced_entry(&self) -> Entry {
        let state = self.state.borrow();
        let Reached { segment, position, offset } = state.synced;
        let at = LogPosition { segment: state.segments[segment].base, position, offset };
        Entry::note(EntryKind::Synced, self.id, at)
    }

    pub(crate) fn log_start_entry(&self, offset: Offset) -> Entry {
        let at = LogPosition { offset, ..LogPosition::default() };
        Entry::note(EntryKind::LogStart, self.id, at)
    }

    /// All that a new journal file must say of it.
    pub(crate) fn describe(&self, out: &mut Vec<Entry>) {
        out.push(self.synced_entry());
        let log_start = self.log_start();
        if log_start > Offset::ZERO {
            out.push(self.log_start_entry(log_start));
        }
    }

    /// Appends a validated batch in memory, with its base offset and epoch set.
    ///
    /// # Errors
    /// `Offline`.
    ///
    /// # Panics
    /// If `base` is not the log end: offsets have no gaps.
    pub fn append(
        &self,
        batch: RecordBatch<'_>,
        base: Offset,
        epoch: LeaderEpoch,
    ) -> Result<(), StorageError> {
        if self.is_offline() {
            return Err(StorageError::Offline);
        }
        let bytes = batch.bytes();
        let settings = self.settings.get();
        let now_ms = clock::unix_ms();
        // Slabs are taken before the state is borrowed: taking one may evict one of this log's own,
        // which changes how many are needed.
        let mut fresh = FreshSlabs::default();
        loop {
            let needed = self.state.borrow().bytes_needed(batch, settings, now_ms);
            let Some(missing) = needed.checked_sub(fresh.bytes()).filter(|bytes| *bytes > 0) else {
                break;
            };
            fresh.push(self.home.cache.take(self.weak_tenant(), missing));
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        assert_eq!(base, state.log_end, "appends continue the log");
        assert!(batch.last_offset_delta() >= 0, "a batch takes an offset");
        if state.rolls_for(batch, settings, now_ms) {
            state.segments.push(LogSegment::new(base));
        }
        if state.epochs.on_append(epoch, base) {
            state.epochs_stored = false;
        }
        let prefix = stored_prefix(batch, base, epoch);
        let active = state.segments.last_mut().expect("a log has a segment");
        active.begin_batch(now_ms);
        active.append(&prefix, || fresh.pop());
        active.append(&bytes[prefix.len()..], || fresh.pop());
        assert_eq!(fresh.bytes(), 0, "as many slabs as needed were taken");
        state.log_end = base.plus(i64::from(batch.last_offset_delta()) + 1);
        assert!(active.base <= base, "a batch lies in its segment");
        assert!(state.written.offset <= base, "nothing is written before it is appended");
        if !self.holds_slabs.replace(true) {
            self.home.cache.on_holder(true);
        }
        Ok(())
    }

    /// Tells the cache once the last slab is gone.
    pub(super) fn count_slabs(&self, state: &State) {
        let holds = state.segments.iter().any(|segment| !segment.slabs.is_empty());
        if !holds && self.holds_slabs.replace(false) {
            self.home.cache.on_holder(false);
        }
    }

    /// Forgets everything appended that is neither written nor journaled.
    pub(super) fn drop_unwritten(&self, state: &mut State) {
        let Reached { segment, position, offset } = state.safe();
        assert!(segment < state.segments.len(), "what is safe is in a segment");
        assert!(offset <= state.log_end, "what is safe was appended");
        assert!(state.log_start <= offset, "what is deleted was safe");
        for dropped in state.segments.drain(segment + 1..) {
            dropped.slabs.into_iter().for_each(|slab| self.home.cache.retire(slab.writer));
        }
        let active = &mut state.segments[segment];
        // Written bytes may be shared with readers, so the slab they end in is copied, not cut.
        while active.slabs.back().is_some_and(|slab| slab.end() > position) {
            let slab = active.slabs.pop_back().expect("looked at above");
            if slab.position < position {
                let kept = (position - slab.position) as usize;
                let mut copy = self.home.cache.take_as(&slab.writer);
                copy.append(&slab.writer.bytes()[..kept]);
                active.slabs.push_back(Slab { position: slab.position, writer: copy });
            }
            self.home.cache.retire(slab.writer);
        }
        if active.slabs.is_empty() && position > block_floor(position) {
            assert!(!active.last_block.is_empty(), "the last block is kept when no slab holds it");
        }
        active.end = position;
        active.boundary = active.boundary.min(position);
        state.log_end = offset;
        state.epochs.truncate(offset);
        state.epochs_stored = false;
        state.check();
        state.segments[segment].check();
        self.count_slabs(state);
    }

    /// Gives up the oldest slab if all of it is in its segment.
    pub(crate) fn evict_oldest_slab(&self) -> Option<ChunkWriter> {
        let mut state = self.state.borrow_mut();
        let State { segments, written, flushing, .. } = &mut *state;
        let index = segments.iter().position(|segment| !segment.slabs.is_empty())?;
        let is_active = index + 1 == segments.len();
        let segment = &mut segments[index];
        let slab = segment.slabs.front()?;
        assert!(slab.end() <= segment.end, "no slab goes beyond its segment");
        let is_last = segment.slabs.len() == 1;
        let safe = if index < written.segment {
            true
        } else if index > written.segment {
            false
        } else if is_last && is_active {
            !*flushing && written.position == segment.end
        } else {
            slab.end() <= block_floor(written.position)
        };
        if !safe {
            return None;
        }
        if is_last && is_active {
            let from = (block_floor(segment.end) - slab.position) as usize;
            segment.last_block = slab.writer.bytes()[from..].to_vec();
            segment.boundary = segment.end;
        } else {
            let end = slab.end();
            segment.move_boundary(end);
        }
        let slab = segment.slabs.pop_front().map(|slab| slab.writer);
        self.count_slabs(&state);
        slab
    }

    /// Whether bytes are journaled that its segment lacks.
    pub(crate) fn is_behind(&self) -> bool {
        let state = self.state.borrow();
        state.durable().offset > state.written.offset
    }

    pub(crate) fn caches_slabs(&self) -> bool {
        self.state.borrow().segments.iter().any(|segment| !segment.slabs.is_empty())
    }

    /// Reads from memory: appends to `out` the batch that holds `offset` and what follows, up to
    /// `bytes_max` (the first batch whole even if larger) and below offset `below`, which must not
    /// lie above what is written.
    ///
    /// # Panics
    /// If `below` is not written yet.
    pub fn read_cached(
        &self,
        offset: Offset,
        bytes_max: usize,
        below: Offset,
        out: &mut Vec<SharedBytes>,
    ) -> Read {
        let state = self.state.borrow();
        assert!(below <= state.safe().offset, "only written records are read");
        if offset >= below {
            return Read::Bytes(0);
        }
        let index = state.segment_of(offset);
        let Some((start, first_bytes)) = state.locate_cached(index, offset) else {
            return Read::Miss;
        };
        let Some(end) = state.end_cached(index, below) else { return Read::Miss };
        assert!(start <= end, "what is read begins before it ends");
        let wanted = bytes_max.max(first_bytes as usize).min((end - start) as usize);
        let segment = &state.segments[index];
        segment.share_cached(start, start + wanted as u32, out);
        Read::Bytes(wanted)
    }
}

impl Drop for Log {
    /// Gives the slabs back: the cache's budget outlives its logs.
    fn drop(&mut self) {
        for segment in self.state.get_mut().segments.drain(..) {
            segment.slabs.into_iter().for_each(|slab| self.home.cache.retire(slab.writer));
        }
        if self.holds_slabs.get() {
            self.home.cache.on_holder(false);
        }
    }
}

impl State {
    /// What must hold whenever nothing is being changed.
    pub(super) fn check(&self) {
        let active = self.segments.last().expect("a log has a segment");
        assert!(self.log_start <= self.log_end, "a log begins before it ends");
        assert!(active.base <= self.log_end, "the active segment begins in the log");
        assert!(self.synced.offset <= self.written.offset, "what is synced is written");
        assert!(self.written.offset <= self.log_end, "what is written was appended");
        assert!(self.synced.segment <= self.written.segment, "syncing follows writing");
        assert!(self.written.segment < self.segments.len(), "what is written is in a segment");
        let written = &self.segments[self.written.segment];
        assert!(self.written.position <= written.end, "no more is written than there is");
        assert!(written.base <= self.written.offset, "what is written is in its segment");
        let is_beside = self.synced.segment == self.written.segment;
        assert!(
            !is_beside || self.synced.position <= self.written.position,
            "in a segment, too, what is synced is written"
        );
        assert!(self.flush_serving <= self.flush_next, "nobody is served who did not come");
        assert!(self.safe().offset <= self.log_end, "what is safe was appended");
    }

    /// How far a power cut takes nothing.
    pub(crate) fn durable(&self) -> Reached {
        if self.journaled.offset > self.synced.offset { self.journaled } else { self.synced }
    }

    /// How far the end of the process takes nothing.
    pub(crate) fn safe(&self) -> Reached {
        let durable = self.durable();
        if durable.offset > self.written.offset { durable } else { self.written }
    }

    /// Whether enough journaled bytes wait for their segment to be worth a write.
    pub(crate) fn lags(&self) -> bool {
        let durable = self.durable();
        assert!(self.synced.offset <= durable.offset, "what is synced is durable");
        durable.segment == self.written.segment
            && durable.position >= self.written.position + BULK_BYTES
            && clock::now() >= self.lag_retry_at
    }

    /// Whether a batch begins a new segment.
    fn rolls_for(&self, batch: RecordBatch<'_>, settings: LogSettings, now_ms: i64) -> bool {
        let active = self.segments.last().expect("a log has a segment");
        let end = u64::from(active.end) + batch.bytes().len() as u64;
        let old = now_ms.saturating_sub(active.began_ms) >= settings.segment_ms;
        // As in Kafka: offsets within a segment, relative to its base, fit 31 bits.
        let last = self.log_end.plus(i64::from(batch.last_offset_delta()));
        let far = last.since(active.base) > i64::from(i32::MAX);
        active.end > 0 && (old || far || end > u64::from(settings.segment_bytes))
    }

    /// How many bytes of new slabs an append of a batch takes.
    fn bytes_needed(&self, batch: RecordBatch<'_>, settings: LogSettings, now_ms: i64) -> usize {
        let active = self.segments.last().expect("a log has a segment");
        let bytes = batch.bytes().len();
        let (room, head) = match active.slabs.back() {
            _ if self.rolls_for(batch, settings, now_ms) => (0, 0),
            Some(slab) => (slab.writer.remaining(), 0),
            None => (0, active.last_block.len()),
        };
        (bytes + head).saturating_sub(room)
    }

    pub(crate) fn segment_of(&self, offset: Offset) -> usize {
        assert!(!self.segments.is_empty(), "a log has a segment");
        self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }

    /// Position and size of the batch that holds `offset`, by walking headers in memory from the
    /// nearest batch before it that is known: the index's or the first one in memory.
    fn locate_cached(&self, index: usize, offset: Offset) -> Option<(u32, u32)> {
        let segment = &self.segments[index];
        let floor = segment.index.as_ref().map_or(0, |i| i.floor(offset.since(segment.base)));
        let mut position = floor;
        if floor < segment.cached_from() {
            position = segment.boundary;
            if offset < segment.header_at(position)?.base_offset {
                return None;
            }
        }
        loop {
            let header = segment.header_at(position)?;
            if offset <= header.last_offset {
                return Some((position, header.bytes));
            }
            position += header.bytes;
        }
    }

    /// Where the batches below offset `below` end within a segment.
    fn end_cached(&self, index: usize, below: Offset) -> Option<u32> {
        let safe = self.safe();
        assert!(index <= safe.segment, "only what is safe is read");
        let (end, end_offset) = if index < safe.segment {
            (self.segments[index].end, self.segments[index + 1].base)
        } else {
            (safe.position, safe.offset)
        };
        if below >= end_offset {
            return Some(end);
        }
        Some(self.locate_cached(index, below)?.0)
    }
}

/// Slabs taken before an append, in the order of their use: almost always none or one.
#[derive(Default)]
struct FreshSlabs {
    one: Option<ChunkWriter>,
    more: VecDeque<ChunkWriter>,
}

impl FreshSlabs {
    fn bytes(&self) -> usize {
        self.one.iter().chain(&self.more).map(ChunkWriter::capacity).sum()
    }

    fn push(&mut self, slab: ChunkWriter) {
        assert_eq!(slab.filled(), 0, "a slab comes empty");
        match self.one {
            None => self.one = Some(slab),
            Some(_) => self.more.push_back(slab),
        }
    }

    fn pop(&mut self) -> ChunkWriter {
        let first = self.one.take().or_else(|| self.more.pop_front());
        first.expect("as many slabs as needed were taken")
    }
}

impl Tenant for Log {
    fn partition(&self) -> TopicPartition {
        self.id()
    }

    fn marks(&self) -> &TenantMarks {
        &self.marks
    }

    fn weak_tenant(&self) -> Weak<dyn Tenant> {
        self.weak()
    }

    fn evict_oldest_slab(&self) -> Option<ChunkWriter> {
        self.evict_oldest_slab()
    }

    fn caches_slabs(&self) -> bool {
        self.caches_slabs()
    }

    fn is_behind(&self) -> bool {
        self.is_behind()
    }

    fn write_behind(self: Rc<Self>) {
        Self::write_behind(self);
    }

    fn synced_entry(&self) -> Entry {
        self.synced_entry()
    }

    fn describe(&self, out: &mut Vec<Entry>) {
        self.describe(out);
    }

    fn sync_segments(self: Rc<Self>) -> Pin<Box<dyn Future<Output = Result<(), StorageError>>>> {
        Box::pin(async move { Self::sync_segments(&self).await })
    }

    fn close_files(&self) {
        self.close_files();
    }
}
