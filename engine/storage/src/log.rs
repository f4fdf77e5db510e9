//! A partition's log: append to memory, flush to disk, read from either.
//!
//! Cost of an append: one copy of the batch, no system call. A flush writes everything appended so
//! far in one operation per 8 MiB; while it is in flight the next group gathers. One flush at a
//! time; the caller decides when and how durable.

use crate::StorageError;
use crate::index::SegmentIndex;
use crate::leader_epochs::LeaderEpochs;
use crate::log_segment::{LogSegment, Slab};
use crate::recovery::{Walked, walk};
use crate::tail_cache::TailCache;
use model::limits::{BATCH_HEADER_BYTES, DISK_BLOCK_BYTES, INDEX_INTERVAL_BYTES};
use model::record_batch::stored_prefix;
use model::{LeaderEpoch, Offset, RecordBatch};
use runtime::buffer::{ChunkWriter, DiskRange, SharedBytes};
use runtime::file::{File, OpenOptions};
use runtime::fs;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

/// Slabs in one write operation: 8 MiB.
const WRITE_PIECES_MAX: usize = 64;
const ALLOCATE_BYTES_MIN: u64 = 1024 * 1024;
const ALLOCATE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Most bytes one read takes from disk, unless the first batch is larger.
pub(crate) const DISK_READ_BYTES: usize = 512 * 1024;

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// A segment is closed before it grows beyond this (`segment.bytes`).
    pub segment_bytes: u32,
    /// Bypass the page cache where the file system can.
    pub direct: bool,
}

/// How far the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Every record below is written.
    pub written: Offset,
    /// Every record below is fsynced. Never above `written`.
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
    dir: PathBuf,
    settings: LogSettings,
    cache: Rc<TailCache>,
    me: Weak<Self>,
    state: RefCell<State>,
}

struct State {
    /// Ascending; the last is the active one.
    segments: Vec<LogSegment>,
    log_start: Offset,
    log_end: Offset,
    /// What is written: everything before `position` of segment `segment`, up to `offset`.
    written: WrittenTo,
    durable: Offset,
    epochs: LeaderEpochs,
    epochs_stored: bool,
    offline: bool,
    flushing: bool,
    pieces: Vec<DiskRange>,
    head_piece: Vec<DiskRange>,
}

#[derive(Clone, Copy)]
struct WrittenTo {
    segment: usize,
    position: u32,
    offset: Offset,
}

fn block_floor(position: u32) -> u32 {
    position / DISK_BLOCK_BYTES as u32 * DISK_BLOCK_BYTES as u32
}

impl Log {
    /// Makes the log of a new partition: its directory, durably.
    ///
    /// # Errors
    /// The disk's.
    pub async fn create(
        dir: &Path,
        settings: LogSettings,
        cache: &Rc<TailCache>,
    ) -> Result<Rc<Self>, StorageError> {
        fs::create_dir_all(dir).map_err(|error| StorageError::of(dir, "mkdir", &error))?;
        let parent = dir.parent().expect("a partition lies in the data directory");
        fs::sync_dir(parent).await.map_err(|error| StorageError::of(parent, "sync", &error))?;
        let segments = vec![LogSegment::new(Offset::ZERO)];
        Ok(Self::new(dir, settings, cache, segments, Offset::ZERO, LeaderEpochs::default()))
    }

    fn new(
        dir: &Path,
        settings: LogSettings,
        cache: &Rc<TailCache>,
        segments: Vec<LogSegment>,
        log_end: Offset,
        epochs: LeaderEpochs,
    ) -> Rc<Self> {
        let active = segments.last().expect("a log has a segment");
        let written =
            WrittenTo { segment: segments.len() - 1, position: active.end, offset: log_end };
        let log_start = segments[0].base;
        Rc::new_cyclic(|me| Self {
            dir: dir.to_owned(),
            settings,
            cache: Rc::clone(cache),
            me: Weak::clone(me),
            state: RefCell::new(State {
                segments,
                log_start,
                log_end,
                written,
                durable: log_end,
                epochs,
                epochs_stored: true,
                offline: false,
                flushing: false,
                pieces: Vec::new(),
                head_piece: Vec::new(),
            }),
        })
    }

    /// Opens the log of a partition after a start. With `clean` false the last segment is read
    /// whole, cut after its last good batch, and synced. Also says how many bytes were cut.
    ///
    /// # Errors
    /// The disk's, or damage in a sealed segment.
    pub async fn open(
        dir: &Path,
        settings: LogSettings,
        cache: &Rc<TailCache>,
        clean: bool,
    ) -> Result<(Rc<Self>, u64), StorageError> {
        let names = match fs::list(dir) {
            Ok(names) => names,
            // The topic was made durable, its directory not yet: nothing was ever appended.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Self::create(dir, settings, cache).await.map(|log| (log, 0));
            }
            Err(error) => return Err(StorageError::of(dir, "list", &error)),
        };
        if !clean {
            // A crash may have come between making a name and making it last.
            for made in [dir, dir.parent().expect("a partition lies in the data directory")] {
                fs::sync_dir(made).await.map_err(|error| StorageError::of(made, "sync", &error))?;
            }
        }
        let base_of = |name: &String| name.strip_suffix(".log")?.parse::<i64>().ok().map(Offset);
        let mut bases: Vec<Offset> = names.iter().filter_map(base_of).collect();
        bases.sort_unstable();
        if bases.is_empty() {
            let segments = vec![LogSegment::new(Offset::ZERO)];
            let log =
                Self::new(dir, settings, cache, segments, Offset::ZERO, LeaderEpochs::default());
            return Ok((log, 0));
        }
        let epochs_path = dir.join("epochs");
        let stored =
            fs::read(&epochs_path).await.ok().and_then(|bytes| LeaderEpochs::decode(&bytes));
        let mut epochs = stored.unwrap_or_default();
        let mut segments: Vec<LogSegment> = bases.into_iter().map(LogSegment::new).collect();
        let (active, sealed) = segments.split_last_mut().expect("there is one");
        for segment in sealed {
            let path = segment.log_path(dir);
            let file = open_file(&path, settings, false)?;
            let length = file.len().map_err(|error| StorageError::of(&path, "stat", &error))?;
            (segment.end, segment.allocated, segment.index) = (length as u32, length, None);
        }
        let path = active.log_path(dir);
        let file = open_file(&path, settings, false)?;
        let length = file.len().map_err(|error| StorageError::of(&path, "stat", &error))?;
        let mut walked = None;
        if clean
            && let Ok(bytes) = fs::read(&active.index_path(dir)).await
            && let Some(mut index) = SegmentIndex::decode(&bytes, length)
        {
            let from = index.last().map_or((0, active.base), |e| {
                (e.position, active.base.plus(i64::from(e.relative_offset)))
            });
            let end = walk(&path, &file, active.base, from, false, &mut index, &mut epochs).await?;
            if u64::from(end.end) == length {
                active.index = Some(index);
                walked = Some(end);
            }
        }
        let walked = match walked {
            Some(walked) => walked,
            None => {
                // Epochs that began in this segment are found again in its batches.
                epochs.truncate(active.base);
                let mut index = SegmentIndex::new();
                let from = (0, active.base);
                let walked =
                    walk(&path, &file, active.base, from, true, &mut index, &mut epochs).await?;
                active.index = Some(index);
                Self::cut(&path, &file, walked).await?;
                walked
            }
        };
        active.end = walked.end;
        active.allocated = u64::from(walked.end);
        active.last_block = read_last_block(&path, &file, walked.end).await?;
        active.file = Some(Rc::new(file));
        let log = Self::new(dir, settings, cache, segments, walked.log_end, epochs);
        Ok((log, length - u64::from(walked.end)))
    }

    async fn cut(path: &Path, file: &File, walked: Walked) -> Result<(), StorageError> {
        file.set_len(u64::from(walked.end))
            .map_err(|error| StorageError::of(path, "truncate", &error))?;
        file.sync(false).await.map_err(|error| StorageError::of(path, "fsync", &error))
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

    /// Whether something was appended that is not written, or with `durable` not fsynced.
    #[must_use]
    pub fn is_dirty(&self, durable: bool) -> bool {
        let state = self.state.borrow();
        !state.offline
            && (state.written.offset < state.log_end || durable && state.durable < state.log_end)
    }

    /// How far the disk is.
    #[must_use]
    pub fn flushed(&self) -> Flushed {
        let state = self.state.borrow();
        Flushed { written: state.written.offset, durable: state.durable }
    }

    /// Whether a disk error took it offline: it then takes no appends.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.state.borrow().offline
    }

    /// The epochs that appended here.
    #[must_use]
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.epoch_of(offset)
    }

    /// The largest epoch at or below `asked`, and where it ended.
    #[must_use]
    pub fn end_of_epoch(&self, asked: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.state.borrow();
        state.epochs.end_of(asked, state.log_end)
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.state.borrow().segments.iter().map(|s| u64::from(s.end)).sum()
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
        if self.state.borrow().offline {
            return Err(StorageError::Offline);
        }
        let bytes = batch.bytes();
        // Slabs are taken before the state is borrowed: taking one may evict one of this log's own,
        // which changes how many are needed.
        let mut fresh = FreshSlabs::default();
        while fresh.count() < self.state.borrow().slabs_needed(bytes.len(), self.settings) {
            fresh.push(self.cache.take(Weak::clone(&self.me)));
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        assert_eq!(base, state.log_end, "appends continue the log");
        if state.rolls_for(bytes.len(), self.settings) {
            state.segments.push(LogSegment::new(base));
        }
        if state.epochs.on_append(epoch, base) {
            state.epochs_stored = false;
        }
        let prefix = stored_prefix(batch, base, epoch);
        let active = state.segments.last_mut().expect("a log has a segment");
        active.append(&prefix, || fresh.pop());
        active.append(&bytes[prefix.len()..], || fresh.pop());
        assert_eq!(fresh.count(), 0, "as many slabs as needed were taken");
        state.log_end = base.plus(i64::from(batch.last_offset_delta()) + 1);
        Ok(())
    }

    /// Writes everything appended so far; with `durable`, makes it and all before it durable.
    ///
    /// # Errors
    /// `Full`: everything unwritten was dropped and the log goes on from what was written. Any
    /// other: the log is offline from now on.
    pub async fn flush(&self, durable: bool) -> Result<Flushed, StorageError> {
        assert!(!std::mem::replace(&mut self.state.borrow_mut().flushing, true), "one at a time");
        let result = self.flush_group(durable).await;
        let mut state = self.state.borrow_mut();
        state.flushing = false;
        match result {
            Ok(()) => Ok(Flushed { written: state.written.offset, durable: state.durable }),
            Err(error) => {
                if error.is_full() {
                    self.drop_unwritten(&mut state);
                } else {
                    state.offline = true;
                }
                Err(error)
            }
        }
    }

    async fn flush_group(&self, durable: bool) -> Result<(), StorageError> {
        if !self.state.borrow().epochs_stored {
            let bytes = self.state.borrow().epochs.encode();
            let path = self.dir.join("epochs");
            let stored = fs::replace(&path, &bytes).await;
            stored.map_err(|error| StorageError::of(&path, "replace", &error))?;
            self.state.borrow_mut().epochs_stored = true;
        }
        // Appends go on during the awaits below: the group is what is here now, end and offset.
        let (index, from, end, successor, ends_at) = {
            let state = self.state.borrow();
            let index = state.written.segment;
            let successor = state.segments.get(index + 1).map(|next| next.base);
            let ends_at = successor.unwrap_or(state.log_end);
            (index, state.written.position, state.segments[index].end, successor, ends_at)
        };
        if from < end {
            let file = self.file_for_writing(index).await?;
            self.make_room(index, &file, end).await?;
            self.write_range(index, &file, from, end, ends_at, durable).await?;
        } else if durable && self.state.borrow().durable < self.state.borrow().written.offset {
            let written = self.state.borrow().written.offset;
            let file = self.file_for_writing(index).await?;
            self.sync_file(index, &file).await?;
            self.state.borrow_mut().durable = written;
        }
        if successor.is_some() {
            self.seal(index).await?;
        }
        Ok(())
    }

    /// Opens or makes the file of a segment that is about to be written.
    async fn file_for_writing(&self, index: usize) -> Result<Rc<File>, StorageError> {
        if let Some(file) = &self.state.borrow().segments[index].file {
            return Ok(Rc::clone(file));
        }
        let path = self.state.borrow().segments[index].log_path(&self.dir);
        let file = Rc::new(open_file(&path, self.settings, true)?);
        fs::sync_dir(&self.dir)
            .await
            .map_err(|error| StorageError::of(&self.dir, "sync", &error))?;
        self.state.borrow_mut().segments[index].file = Some(Rc::clone(&file));
        Ok(file)
    }

    /// Preallocates, so that no write grows the file (a growing direct write is slow and may run
    /// out of space half-way).
    async fn make_room(&self, index: usize, file: &File, end: u32) -> Result<(), StorageError> {
        let allocated = self.state.borrow().segments[index].allocated;
        let wanted = u64::from(end).next_multiple_of(DISK_BLOCK_BYTES as u64);
        if wanted <= allocated {
            return Ok(());
        }
        let ahead = allocated.clamp(ALLOCATE_BYTES_MIN, ALLOCATE_BYTES_MAX);
        let segment_bytes = u64::from(self.settings.segment_bytes).next_multiple_of(4096);
        let target = (allocated.next_multiple_of(4096) + ahead).min(segment_bytes).max(wanted);
        let path = self.state.borrow().segments[index].log_path(&self.dir);
        let mut result = file.allocate(allocated, target - allocated).await.map(|()| target);
        if result.is_err() && wanted < target {
            // Nearly full: take just what is needed.
            result = file.allocate(allocated, wanted - allocated).await.map(|()| wanted);
        }
        let allocated = result.map_err(|error| StorageError::of(&path, "fallocate", &error))?;
        self.state.borrow_mut().segments[index].allocated = allocated;
        Ok(())
    }

    async fn write_range(
        &self,
        index: usize,
        file: &File,
        from: u32,
        end: u32,
        ends_at: Offset,
        durable: bool,
    ) -> Result<(), StorageError> {
        // A dsync write makes only itself durable: what was written before must be already, or a
        // sync of the whole file must follow.
        let dsync = durable && {
            let state = self.state.borrow();
            state.durable == state.written.offset
        };
        // A block that was written before goes in an operation of its own, beside the rest: ext4
        // hands a direct write that spans written and unwritten extents to a worker thread. Not so
        // with dsync: two device flushes cost more than the worker.
        let start = block_floor(from);
        let rest = if from == start || dsync { start } else { start + DISK_BLOCK_BYTES as u32 };
        let head = async {
            if start < rest {
                let mut pieces = std::mem::take(&mut self.state.borrow_mut().head_piece);
                self.pieces_of(index, start, rest, &mut pieces);
                let written = file.write_at(&mut pieces, u64::from(start), dsync).await;
                self.state.borrow_mut().head_piece = pieces;
                return written;
            }
            Ok(())
        };
        let body = async {
            let mut position = rest;
            while position < end {
                let mut pieces = std::mem::take(&mut self.state.borrow_mut().pieces);
                let start = position;
                position = self.pieces_of(index, start, end, &mut pieces);
                let written = file.write_at(&mut pieces, u64::from(start), dsync).await;
                self.state.borrow_mut().pieces = pieces;
                written?;
            }
            Ok(())
        };
        let (head, body) = runtime::both(head, body).await;
        head.and(body).map_err(|error| {
            let path = self.state.borrow().segments[index].log_path(&self.dir);
            StorageError::of(&path, "write", &error)
        })?;
        if durable && !dsync {
            self.sync_file(index, file).await?;
        }
        let mut state = self.state.borrow_mut();
        let State { segments, written, .. } = &mut *state;
        segments[index].index_written(from, end);
        written.position = end;
        written.offset = ends_at;
        if durable {
            state.durable = ends_at;
        }
        Ok(())
    }

    /// Collects the blocks that hold positions `start` (a block's) to `end` for one operation;
    /// returns where the next one starts.
    fn pieces_of(&self, index: usize, start: u32, end: u32, pieces: &mut Vec<DiskRange>) -> u32 {
        let mut position = start;
        let mut state = self.state.borrow_mut();
        let segment = &mut state.segments[index];
        let first = segment.slabs.partition_point(|slab| {
            u64::from(slab.position) + slab.writer.capacity() as u64 <= u64::from(position)
        });
        for slab in segment.slabs.range_mut(first..).take(WRITE_PIECES_MAX) {
            let slab_end = (slab.position + slab.writer.capacity() as u32).min(end);
            if slab_end <= position {
                break;
            }
            let to = (slab_end - slab.position).next_multiple_of(DISK_BLOCK_BYTES as u32);
            pieces.push(slab.writer.disk_range((position - slab.position) as usize..to as usize));
            position = slab.position + to;
        }
        assert!(!pieces.is_empty(), "unwritten bytes are in slabs");
        position
    }

    async fn sync_file(&self, index: usize, file: &File) -> Result<(), StorageError> {
        let synced = file.sync(true).await;
        synced.map_err(|error| {
            let path = self.state.borrow().segments[index].log_path(&self.dir);
            StorageError::of(&path, "fdatasync", &error)
        })
    }

    /// Closes a fully written segment for good, before its successor gets a file.
    async fn seal(&self, index: usize) -> Result<(), StorageError> {
        {
            let state = self.state.borrow();
            if state.written.position < state.segments[index].end {
                return Ok(());
            }
        }
        self.store_index(index).await?;
        let mut state = self.state.borrow_mut();
        state.durable = state.written.offset;
        state.written.segment = index + 1;
        state.written.position = 0;
        Ok(())
    }

    /// Cuts a segment's file to its batches, syncs it, and writes its index.
    async fn store_index(&self, index: usize) -> Result<(), StorageError> {
        let file = self.file_for_writing(index).await?;
        let (path, index_path, end, bytes) = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            let encoded = segment.index.as_ref().map(|i| i.encode(u64::from(segment.end)));
            (segment.log_path(&self.dir), segment.index_path(&self.dir), segment.end, encoded)
        };
        let cut = file.set_len(u64::from(end));
        cut.map_err(|error| StorageError::of(&path, "truncate", &error))?;
        let synced = file.sync(false).await;
        synced.map_err(|error| StorageError::of(&path, "fsync", &error))?;
        self.state.borrow_mut().segments[index].allocated = u64::from(end);
        if let Some(bytes) = bytes {
            let stored = fs::replace(&index_path, &bytes).await;
            stored.map_err(|error| StorageError::of(&index_path, "replace", &error))?;
        }
        Ok(())
    }

    /// Writes and syncs everything and stores the index, so that the next open need not scan.
    ///
    /// # Errors
    /// As `flush`.
    pub async fn close(&self) -> Result<(), StorageError> {
        while self.is_dirty(true) {
            self.flush(true).await?;
        }
        let index = {
            let state = self.state.borrow();
            if state.offline {
                return Err(StorageError::Offline);
            }
            state.segments.len() - 1
        };
        if self.state.borrow().segments[index].end > 0 {
            self.store_index(index).await?;
        }
        Ok(())
    }

    /// Forgets everything appended that was not written.
    fn drop_unwritten(&self, state: &mut State) {
        let WrittenTo { segment, position, offset } = state.written;
        for dropped in state.segments.drain(segment + 1..) {
            dropped.slabs.into_iter().for_each(|slab| self.cache.retire(slab.writer));
        }
        let active = &mut state.segments[segment];
        // Written bytes may be shared with readers, so the slab they end in is copied, not cut.
        while active.slabs.back().is_some_and(|slab| slab.end() > position) {
            let slab = active.slabs.pop_back().expect("looked at above");
            if slab.position < position {
                let kept = (position - slab.position) as usize;
                let mut copy = ChunkWriter::with_capacity(slab.writer.capacity());
                copy.append(&slab.writer.bytes()[..kept]);
                active.slabs.push_back(Slab { position: slab.position, writer: copy });
            }
            self.cache.retire(slab.writer);
        }
        active.end = position;
        state.log_end = offset;
        state.epochs.truncate(offset);
        state.epochs_stored = false;
    }

    /// Gives up the oldest slab if all of it is on disk.
    pub(crate) fn evict_oldest_slab(&self) -> Option<ChunkWriter> {
        let mut state = self.state.borrow_mut();
        let State { segments, written, flushing, .. } = &mut *state;
        let index = segments.iter().position(|segment| !segment.slabs.is_empty())?;
        let is_active = index + 1 == segments.len();
        let segment = &mut segments[index];
        let slab = segment.slabs.front()?;
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
        }
        segment.slabs.pop_front().map(|slab| slab.writer)
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
        assert!(below <= state.written.offset, "only written records are read");
        if offset >= below {
            return Read::Bytes(0);
        }
        let index = state.segment_of(offset);
        let Some((start, first_bytes)) = state.locate_cached(index, offset) else {
            return Read::Miss;
        };
        let Some(end) = state.end_cached(index, below) else { return Read::Miss };
        let wanted = bytes_max.max(first_bytes as usize).min((end - start) as usize);
        let segment = &state.segments[index];
        let (mut position, stop) = (start, start + wanted as u32);
        for slab in segment.slabs.range(segment.slab_index(start)..) {
            if position >= stop {
                break;
            }
            let to = slab.end().min(stop);
            let range = (position - slab.position) as usize..(to - slab.position) as usize;
            out.push(slab.writer.share(range));
            position = to;
        }
        assert_eq!(position, stop, "slabs are adjacent up to the end");
        Read::Bytes(wanted)
    }

    /// Reads from disk what `read_cached` missed; same arguments, at most 512 KiB at once unless
    /// the first batch is larger.
    ///
    /// # Errors
    /// The disk's, or bytes that are not the batches they should be.
    pub async fn read_disk(
        &self,
        offset: Offset,
        bytes_max: usize,
        below: Offset,
        out: &mut Vec<SharedBytes>,
    ) -> Result<usize, StorageError> {
        let index = self.state.borrow().segment_of(offset);
        self.load_index(index).await?;
        let (start, end) = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            let end =
                if index == state.written.segment { state.written.position } else { segment.end };
            let relative = offset.since(segment.base) as u32;
            (segment.index.as_ref().map_or(0, |i| i.floor(relative)), end)
        };
        let mut window = bytes_max.min(DISK_READ_BYTES) + INDEX_INTERVAL_BYTES as usize;
        loop {
            let bytes = self.read_window(index, start, window.min((end - start) as usize)).await?;
            let (mut at, mut first, mut stop) = (0, None, 0);
            while let Some(total) = RecordBatch::total_bytes(&bytes[at..]) {
                let Ok((batch, _)) = RecordBatch::split_first(&bytes[at..]) else {
                    if total > bytes.len() - at && total <= (end - start) as usize - at {
                        break;
                    }
                    return Err(self.damaged(index, u64::from(start) + at as u64));
                };
                if batch.base_offset() >= below {
                    break;
                }
                if batch.last_offset() >= offset {
                    first.get_or_insert((at, total));
                }
                at += total;
                stop = at;
            }
            let Some((first_at, first_total)) = first else {
                if bytes.len() >= (end - start) as usize {
                    return Err(self.damaged(index, u64::from(start) + at as u64));
                }
                // The batch is larger than the window, or the window ended before it.
                window = (window * 2).max(
                    at + RecordBatch::total_bytes(&bytes[at..]).unwrap_or(0) + BATCH_HEADER_BYTES,
                );
                continue;
            };
            let len = (stop - first_at).min(bytes_max.max(first_total));
            out.push(bytes.slice(first_at..first_at + len));
            return Ok(len);
        }
    }

    fn damaged(&self, index: usize, position: u64) -> StorageError {
        StorageError::Corrupt {
            path: self.state.borrow().segments[index].log_path(&self.dir),
            position,
            what: "not the batch that belongs here",
        }
    }

    /// `len` bytes of a segment from `position`, from memory if they are there, else from disk.
    async fn read_window(
        &self,
        index: usize,
        position: u32,
        len: usize,
    ) -> Result<SharedBytes, StorageError> {
        let file = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            let mut copy = vec![0; if segment.cached_from() <= position { len } else { 0 }];
            if !copy.is_empty() && segment.copy_cached(position, &mut copy) {
                return Ok(SharedBytes::copy_of(&copy));
            }
            segment.file.clone()
        };
        let file = match file {
            Some(file) => file,
            None => {
                let path = self.state.borrow().segments[index].log_path(&self.dir);
                let file = Rc::new(open_file(&path, self.settings, false)?);
                self.state.borrow_mut().segments[index].file = Some(Rc::clone(&file));
                file
            }
        };
        let from = block_floor(position);
        let skip = (position - from) as usize;
        let bytes = (skip + len).next_multiple_of(DISK_BLOCK_BYTES);
        let writer = ChunkWriter::with_capacity(bytes);
        let (read, writer) = file.read_at(writer, u64::from(from), bytes).await;
        let read = read.map_err(|error| {
            let path = self.state.borrow().segments[index].log_path(&self.dir);
            StorageError::of(&path, "read", &error)
        })?;
        if read < skip + len {
            return Err(self.damaged(index, u64::from(from) + read as u64));
        }
        Ok(writer.share(skip..skip + len))
    }

    /// Loads a sealed segment's index, or rebuilds it from the segment.
    async fn load_index(&self, index: usize) -> Result<(), StorageError> {
        let (path, index_path, base, end) = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            if segment.index.is_some() {
                return Ok(());
            }
            (segment.log_path(&self.dir), segment.index_path(&self.dir), segment.base, segment.end)
        };
        let stored = fs::read(&index_path).await.ok();
        let mut loaded = stored.and_then(|bytes| SegmentIndex::decode(&bytes, u64::from(end)));
        let file = open_file(&path, self.settings, false)?;
        let mut ignored = LeaderEpochs::default();
        if let Some(index) = &mut loaded {
            let from = index
                .last()
                .map_or((0, base), |e| (e.position, base.plus(i64::from(e.relative_offset))));
            walk(&path, &file, base, from, false, index, &mut ignored).await?;
        } else {
            let mut rebuilt = SegmentIndex::new();
            let walked =
                walk(&path, &file, base, (0, base), true, &mut rebuilt, &mut ignored).await?;
            if walked.end != end {
                return Err(self.damaged(index, u64::from(walked.end)));
            }
            loaded = Some(rebuilt);
        }
        self.state.borrow_mut().segments[index].index = loaded;
        Ok(())
    }

    /// The first record at or after `timestamp` (ms) below offset `below`: exact, looking inside
    /// the batch.
    ///
    /// # Errors
    /// The disk's, or a batch that does not decompress.
    pub async fn find_timestamp(
        &self,
        timestamp: i64,
        below: Offset,
    ) -> Result<Option<TimestampOffset>, StorageError> {
        let segments = self.state.borrow().segments.len();
        let mut scratch = Vec::new();
        for index in 0..segments {
            self.load_index(index).await?;
            let (mut position, end) = {
                let state = self.state.borrow();
                let segment = &state.segments[index];
                let Some(loaded) = &segment.index else { continue };
                if index > state.written.segment || loaded.max_timestamp() < timestamp {
                    continue;
                }
                let end = if index == state.written.segment {
                    state.written.position
                } else {
                    segment.end
                };
                (loaded.floor_timestamp(timestamp), end)
            };
            let mut window = DISK_READ_BYTES;
            while position < end {
                let bytes = self
                    .read_window(index, position, window.min((end - position) as usize))
                    .await?;
                let mut rest = &bytes[..];
                while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                    if batch.base_offset() >= below {
                        return Ok(None);
                    }
                    if batch.max_timestamp() >= timestamp {
                        let at = u64::from(position) + (bytes.len() - rest.len()) as u64;
                        let found = find_in_batch(batch, timestamp, &mut scratch);
                        if let Some(found) = found.ok_or_else(|| self.damaged(index, at))? {
                            return Ok((found.offset < below).then_some(found));
                        }
                    }
                    rest = tail;
                }
                let used = bytes.len() - rest.len();
                if used == 0 {
                    if window >= (end - position) as usize {
                        return Err(self.damaged(index, u64::from(position)));
                    }
                    window *= 2;
                }
                position += used as u32;
            }
        }
        Ok(None)
    }

    /// The largest timestamp of the log; -1 when empty.
    ///
    /// # Errors
    /// The disk's.
    pub async fn max_timestamp(&self) -> Result<i64, StorageError> {
        let segments = self.state.borrow().segments.len();
        let mut max = -1;
        for index in 0..segments {
            self.load_index(index).await?;
            let state = self.state.borrow();
            max = max
                .max(state.segments[index].index.as_ref().map_or(-1, SegmentIndex::max_timestamp));
        }
        Ok(max)
    }
}

impl Drop for Log {
    /// Gives the slabs back: the cache's budget outlives its logs.
    fn drop(&mut self) {
        for segment in self.state.get_mut().segments.drain(..) {
            segment.slabs.into_iter().for_each(|slab| self.cache.retire(slab.writer));
        }
    }
}

impl State {
    /// Whether a batch of `bytes` begins a new segment.
    fn rolls_for(&self, bytes: usize, settings: LogSettings) -> bool {
        let active = self.segments.last().expect("a log has a segment");
        let end = u64::from(active.end) + bytes as u64;
        active.end > 0 && end > u64::from(settings.segment_bytes)
    }

    /// How many new slabs an append of `bytes` takes.
    fn slabs_needed(&self, bytes: usize, settings: LogSettings) -> usize {
        let active = self.segments.last().expect("a log has a segment");
        let (room, head) = match active.slabs.back() {
            _ if self.rolls_for(bytes, settings) => (0, 0),
            Some(slab) => (slab.writer.remaining(), 0),
            None => (0, active.last_block.len()),
        };
        (bytes + head).saturating_sub(room).div_ceil(model::limits::SLAB_BYTES)
    }

    fn segment_of(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }

    /// Position and size of the batch that holds `offset`, by walking headers in memory from the
    /// index entry before it.
    fn locate_cached(&self, index: usize, offset: Offset) -> Option<(u32, u32)> {
        let segment = &self.segments[index];
        let mut position = segment.index.as_ref()?.floor(offset.since(segment.base) as u32);
        let mut header = [0; 27];
        loop {
            if !segment.copy_cached(position, &mut header) {
                return None;
            }
            let base = i64::from_be_bytes(header[..8].try_into().expect("8 bytes"));
            let total = RecordBatch::total_bytes(&header)? as u32;
            let delta = i32::from_be_bytes(header[23..27].try_into().expect("4 bytes"));
            if offset.0 <= base + i64::from(delta) {
                return Some((position, total));
            }
            position += total;
        }
    }

    /// Where the batches below offset `below` end within a segment.
    fn end_cached(&self, index: usize, below: Offset) -> Option<u32> {
        if index < self.written.segment {
            let end = self.segments[index].end;
            let next = self.segments[index + 1].base;
            return if below >= next {
                Some(end)
            } else {
                Some(self.locate_cached(index, below)?.0)
            };
        }
        if below >= self.written.offset {
            return Some(self.written.position);
        }
        Some(self.locate_cached(index, below)?.0)
    }
}

impl LogSegment {
    /// Counts the batches of a range that was just written into the index.
    fn index_written(&mut self, from: u32, end: u32) {
        let mut index = self.index.take().expect("a segment being written has its index");
        let mut position = from;
        let mut header = [0; BATCH_HEADER_BYTES];
        while position < end {
            assert!(self.copy_cached(position, &mut header), "what was just written is cached");
            let total = RecordBatch::total_bytes(&header).expect("61 bytes hold a length");
            let base = Offset(i64::from_be_bytes(header[..8].try_into().expect("8 bytes")));
            let max_timestamp = i64::from_be_bytes(header[35..43].try_into().expect("8 bytes"));
            index.on_batch(self.base, base, position, &header, max_timestamp);
            position += total as u32;
        }
        assert_eq!(position, end, "whole batches are written");
        self.index = Some(index);
    }
}

/// Slabs taken before an append: almost always none or one.
#[derive(Default)]
struct FreshSlabs {
    one: Option<ChunkWriter>,
    more: Vec<ChunkWriter>,
}

impl FreshSlabs {
    fn count(&self) -> usize {
        usize::from(self.one.is_some()) + self.more.len()
    }

    fn push(&mut self, slab: ChunkWriter) {
        match self.one {
            None => self.one = Some(slab),
            Some(_) => self.more.push(slab),
        }
    }

    fn pop(&mut self) -> ChunkWriter {
        self.one.take().or_else(|| self.more.pop()).expect("as many slabs as needed were taken")
    }
}

/// The first record of a batch at or after `timestamp`; the outer `None` is a malformed batch.
fn find_in_batch(
    batch: RecordBatch<'_>,
    timestamp: i64,
    scratch: &mut Vec<u8>,
) -> Option<Option<TimestampOffset>> {
    let base = batch.base_offset();
    if batch.is_log_append_time() {
        return Some(Some(TimestampOffset { offset: base, timestamp: batch.max_timestamp() }));
    }
    for record in batch.records(scratch).ok()? {
        let record = record.ok()?;
        let at = batch.base_timestamp() + record.timestamp_delta;
        if at >= timestamp {
            let offset = base.plus(i64::from(record.offset_delta));
            return Some(Some(TimestampOffset { offset, timestamp: at }));
        }
    }
    Some(None)
}

fn open_file(path: &Path, settings: LogSettings, create: bool) -> Result<File, StorageError> {
    let options = OpenOptions { create, write: true, direct: settings.direct };
    File::open(path, options).map_err(|error| StorageError::of(path, "open", &error))
}

/// The start of the block in which a segment ends, to be written again with what follows.
async fn read_last_block(path: &Path, file: &File, end: u32) -> Result<Vec<u8>, StorageError> {
    let from = block_floor(end);
    if from == end {
        return Ok(Vec::new());
    }
    let writer = ChunkWriter::with_capacity(DISK_BLOCK_BYTES);
    let (read, writer) = file.read_at(writer, u64::from(from), DISK_BLOCK_BYTES).await;
    read.map_err(|error| StorageError::of(path, "read", &error))?;
    let bytes = writer.bytes().get(..(end - from) as usize);
    bytes.map(<[u8]>::to_vec).ok_or(StorageError::Corrupt {
        path: path.to_owned(),
        position: u64::from(from),
        what: "the file ends before its last batch",
    })
}
