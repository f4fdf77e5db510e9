//! How a log gets to disk: small amounts through the journal, large ones and seals in the segment.

use crate::directory::open_file::OpenFile;
use crate::error::{Concern, StorageError};
use crate::journal::frame::{Entry, EntryKind, LogPosition};
use crate::journal::journal::{Journal, Journaled};
use crate::journal::known::BULK_BYTES;
use crate::log::log::{Flushed, Log, Reached, State, block_floor, open_file};
use model::Offset;
use model::limits::DISK_BLOCK_BYTES;
use runtime::budget::Held;
use runtime::buffer::{ChunkWriter, DiskRange, SharedBytes};
use runtime::file::File;
use runtime::notify::Notify;
use runtime::{clock, fs};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Slabs in one write operation: 8 MiB of large ones.
const WRITE_PIECES_MAX: usize = 64;
const ALLOCATE_BYTES_MIN: u64 = 1024 * 1024;
const ALLOCATE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// After a full disk refused journaled bytes their segment, tried again this much later.
const LAG_RETRY: Duration = Duration::from_secs(1);

impl Log {
    /// Makes everything appended so far survive the end of the process, or with `durable` a power
    /// cut. May stop at the end of a segment: go on while `is_dirty`.
    ///
    /// # Errors
    /// One that passes, as `Full`: everything that was not safe yet was dropped and the log goes on from
    /// there. Any other: the log, or all of its directory, is offline from now on.
    pub async fn flush(&self, durable: bool) -> Result<Flushed, StorageError> {
        self.begin_flush().await;
        let mut result = self.flush_group(durable).await;
        if result.as_ref().is_err_and(StorageError::is_passing) {
            let mut state = self.state.borrow_mut();
            let reached = if durable { state.durable() } else { state.safe() };
            if reached.offset == state.log_end {
                // Only journaled bytes were to be moved on: nobody waits for that, and nothing is lost.
                state.lag_retry_at = clock::now() + LAG_RETRY;
                result = Ok(());
            } else {
                self.drop_unwritten(&mut state);
            }
        }
        self.end_flush(result).map(|()| self.flushed())
    }

    /// Woken after each append, flush and failure of this log, by whomever.
    #[must_use]
    pub fn changed(&self) -> &Notify {
        &self.idle
    }

    pub(crate) async fn begin_flush(&self) {
        let number = {
            let mut state = self.state.borrow_mut();
            state.flush_next += 1;
            state.flush_next - 1
        };
        self.idle.until(|| (self.state.borrow().flush_serving == number).then_some(())).await;
        let mut state = self.state.borrow_mut();
        assert!(!state.flushing, "one flush at a time");
        state.flushing = true;
    }

    pub(crate) fn end_flush(&self, result: Result<(), StorageError>) -> Result<(), StorageError> {
        let mut state = self.state.borrow_mut();
        assert!(state.flushing, "a flush ends that was begun");
        state.flushing = false;
        state.flush_serving += 1;
        state.check();
        let mut failed = None;
        if let Err(error) = &result
            && !self.is_deleted()
        {
            let concern = error.concern();
            match concern {
                Concern::Nobody => state.lag_retry_at = clock::now() + LAG_RETRY,
                Concern::Partition | Concern::Directory => {
                    state.offline = true;
                    if !matches!(error, StorageError::Offline) {
                        self.failure.borrow_mut().get_or_insert_with(|| error.clone());
                    }
                    failed = (concern == Concern::Directory).then_some(error);
                }
            }
        }
        drop(state);
        if let Some(error) = failed {
            self.home.health.set_offline(error);
        }
        self.idle.notify();
        result
    }

    /// What took this log offline, told once.
    pub fn take_failure(&self) -> Option<StorageError> {
        self.failure.borrow_mut().take()
    }

    async fn flush_group(&self, durable: bool) -> Result<(), StorageError> {
        if self.is_offline() {
            return Err(StorageError::Offline);
        }
        // Appends go on during the awaits below: the group is what is here now, end and offset.
        let journal = if durable { self.home.journal.clone() } else { None };
        if let Some(journal) = journal
            && let Some((entry, to, behind, bytes)) = self.journal_step()
            && self.flush_to_journal(&journal, entry, to, behind, bytes).await?
        {
            return Ok(());
        }
        self.flush_segment(durable).await
    }

    /// Replaces a small file beside the segments; durable when it returns.
    ///
    /// # Errors
    /// The disk's: the old one is as it was.
    pub async fn store_beside(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let path = self.dir.join(name);
        let stored = fs::replace(&path, bytes).await;
        stored.map_err(|error| StorageError::of(&path, "replace", &error))
    }

    /// Reads what `store_beside` wrote, if it ever did.
    ///
    /// # Errors
    /// The disk's.
    pub async fn load_beside(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let path = self.dir.join(name);
        match fs::read(&path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::of(&path, "read", &error)),
        }
    }

    /// Makes durable what must be before records of a segment are known to be: where each epoch began, and
    /// the names of new files. A start reads everything else again, and finds both there: so nothing that is
    /// only written, or only journaled, waits for it, as the first records of 10,000 partitions otherwise do.
    async fn store_names(&self) -> Result<(), StorageError> {
        let stored = {
            let state = self.state.borrow();
            state.epochs_stored && state.names_synced
        };
        if stored { Ok(()) } else { Box::pin(self.store_names_now()).await }
    }

    async fn store_names_now(&self) -> Result<(), StorageError> {
        let (epochs_stored, names_synced, bytes) = {
            let state = self.state.borrow();
            (state.epochs_stored, state.names_synced, state.epochs.encode())
        };
        if !epochs_stored {
            // This syncs the names as well.
            self.store_beside("epochs", &bytes).await?;
        } else if !names_synced {
            let synced = fs::sync_dir(&self.dir).await;
            synced.map_err(|error| StorageError::of(&self.dir, "sync", &error))?;
        }
        let mut state = self.state.borrow_mut();
        // Appends went on meanwhile.
        (state.epochs_stored, state.names_synced) = (state.epochs.encode() == bytes, true);
        Ok(())
    }

    /// What goes to the journal now: `None` if the segment is the better place.
    fn journal_step(&self) -> Option<(Entry, Reached, Option<Reached>, Vec<SharedBytes>)> {
        let state = self.state.borrow();
        let (index, from) = (state.segments.len() - 1, state.durable());
        let segment = &state.segments[index];
        assert!(from.offset <= state.log_end, "what is durable was appended");
        let len = segment.end.checked_sub(from.position)?;
        let fits = from.segment == index && state.written.segment == index;
        if !fits || len == 0 || len > BULK_BYTES || from.position < segment.cached_from() {
            return None;
        }
        let at =
            LogPosition { segment: segment.base, position: from.position, offset: from.offset };
        let to = Reached { segment: index, position: segment.end, offset: state.log_end };
        let (kind, partition, end) = (EntryKind::Append, self.id, state.log_end);
        let entry = Entry { kind, partition, at, end, len, crc: 0 };
        let mut bytes = self.home.shared_lists.borrow_mut().pop().unwrap_or_default();
        segment.share_cached(from.position, segment.end, &mut bytes);
        let behind = state.lags().then_some(from);
        assert!(to.offset > from.offset, "bytes that are journaled hold records");
        let bytes_are_all = || bytes.iter().map(|piece| piece.len()).sum::<usize>() == len as usize;
        assert!(bytes.len() > 8 || bytes_are_all(), "an entry's pieces are its bytes");
        Some((entry, to, behind, bytes))
    }

    /// True once the bytes are durable; false if the journal has no room.
    async fn flush_to_journal(
        &self,
        journal: &Journal,
        entry: Entry,
        to: Reached,
        behind: Option<Reached>,
        mut bytes: Vec<SharedBytes>,
    ) -> Result<bool, StorageError> {
        let handed = async {
            let journaled = journal.append(entry, &mut bytes).await;
            bytes.clear();
            self.home.shared_lists.borrow_mut().push(bytes);
            match journaled {
                Journaled::Durable => {
                    let mut state = self.state.borrow_mut();
                    assert!(state.durable().offset <= to.offset, "the journal goes forward");
                    assert_eq!(
                        to.segment, state.written.segment,
                        "journaled beside what is written"
                    );
                    assert!(to.offset <= state.log_end, "what is journaled was appended");
                    state.journaled = to;
                    Ok(true)
                }
                Journaled::NoRoom => Ok(false),
                Journaled::Failed(error) => {
                    // All partitions of the directory depend on it.
                    self.home.health.set_offline(&error);
                    Err(error)
                }
            }
        };
        let Some(behind) = behind else { return handed.await };
        let index = behind.segment;
        let from = self.state.borrow().written.position;
        // Once in 64 KiB of the log: not in the flush's own state, of which every log has one.
        let moved_on = Box::pin(async {
            let file = self.file_for_writing(index).await?;
            self.make_room(index, &file, behind.position).await?;
            self.write_range(index, &file, from, behind.position, behind.offset, false).await
        });
        let (handed, moved_on) = runtime::both(handed, moved_on).await;
        match moved_on {
            Err(error) if error.is_passing() => {
                self.state.borrow_mut().lag_retry_at = clock::now() + LAG_RETRY;
            }
            other => other?,
        }
        handed
    }

    /// Writes everything appended so far to the segment being written, and seals it if it has a
    /// successor.
    pub(crate) async fn flush_segment(&self, durable: bool) -> Result<(), StorageError> {
        let (index, from, end, ends_at, sealing) = {
            let state = self.state.borrow();
            let index = state.written.segment;
            let successor = state.segments.get(index + 1).map(|next| next.base);
            let ends_at = successor.unwrap_or(state.log_end);
            let end = state.segments[index].end;
            (index, state.written.position, end, ends_at, successor.is_some())
        };
        assert!(from <= end, "no more is written than there is");
        if from < end {
            let file = self.file_for_writing(index).await?;
            self.make_room(index, &file, end).await?;
            if durable {
                self.store_names().await?;
            }
            self.write_range(index, &file, from, end, ends_at, durable).await?;
        } else if durable && self.state.borrow().synced != self.state.borrow().written {
            // Boxed as `seal` below: what is rare is not in the state of every log's flush.
            Box::pin(self.sync_written(index)).await?;
        }
        if sealing {
            Box::pin(self.seal(index)).await?;
        }
        Ok(())
    }

    /// Syncs what is written already.
    async fn sync_written(&self, index: usize) -> Result<(), StorageError> {
        let written = self.state.borrow().written;
        let file = self.file_for_writing(index).await?;
        self.store_names().await?;
        self.sync_file(index, &file).await?;
        self.on_synced(written);
        Ok(())
    }

    fn on_synced(&self, reached: Reached) {
        let mut state = self.state.borrow_mut();
        assert!(state.synced.offset <= reached.offset, "syncing goes forward");
        assert!(reached.offset <= state.written.offset, "what is synced is written");
        state.synced = reached;
        drop(state);
        if let Some(journal) = &self.home.journal {
            journal.note(self);
        }
    }

    /// Syncs in its segments everything that is journaled by now, so that the journal may forget.
    ///
    /// # Errors
    /// As `flush`, but nothing is dropped.
    pub(crate) async fn sync_segments(&self) -> Result<(), StorageError> {
        let wanted = self.state.borrow().durable().offset;
        loop {
            self.begin_flush().await;
            // It may have been cut meanwhile.
            let reached = {
                let state = self.state.borrow();
                state.synced.offset >= wanted.min(state.durable().offset)
            };
            if reached || self.is_deleted() {
                return self.end_flush(Ok(()));
            }
            if self.is_offline() {
                // The journal holds what this segment may not have: it must not forget it.
                return self.end_flush(Err(StorageError::Offline));
            }
            let result = self.flush_segment(true).await;
            let ended = self.end_flush(result);
            if !self.is_deleted() {
                ended?;
            }
        }
    }

    /// Writes to their segment the journaled bytes that keep memory from being used again. Called
    /// when memory is short; at most one at a time.
    pub(crate) fn write_behind(self: Rc<Self>) {
        if self.writes_behind.replace(true) {
            return;
        }
        runtime::spawn(async move {
            self.begin_flush().await;
            let (from, to) = {
                let state = self.state.borrow();
                (state.written, state.durable())
            };
            let result = async {
                if from.offset < to.offset && !self.is_offline() {
                    assert_eq!(from.segment, to.segment, "journaled beside what is written");
                    assert!(from.position < to.position, "records take bytes");
                    let file = self.file_for_writing(from.segment).await?;
                    self.make_room(from.segment, &file, to.position).await?;
                    let (from_at, offset) = (from.position, to.offset);
                    self.write_range(from.segment, &file, from_at, to.position, offset, false)
                        .await?;
                }
                Ok(())
            };
            let result = result.await;
            // A failure is told by the directory's health, or by the log's next flush.
            let _ = self.end_flush(result);
            self.writes_behind.set(false);
        });
    }

    /// Opens or makes the file of a segment that is about to be written.
    async fn file_for_writing(&self, index: usize) -> Result<Rc<OpenFile>, StorageError> {
        let open = {
            let state = self.state.borrow();
            assert!(index < state.segments.len(), "a segment of this log");
            state.segments[index].file.clone()
        };
        match open {
            Some(file) => Ok(file),
            None => Box::pin(self.open_for_writing(index)).await,
        }
    }

    async fn open_for_writing(&self, index: usize) -> Result<Rc<OpenFile>, StorageError> {
        let place = self.home.place_for_file(self).await;
        let path = self.state.borrow().segments[index].log_path(&self.dir);
        let file = open_file(&path, self.home.direct, true)?;
        let mut state = self.state.borrow_mut();
        // A new one, if it has no space yet.
        state.names_synced &= state.segments[index].allocated > 0;
        drop(state);
        Ok(self.keep_open(index, file, place))
    }

    pub(crate) fn keep_open(&self, index: usize, file: File, place: Held) -> Rc<OpenFile> {
        let file = OpenFile::new(file, place);
        let kept = self.home.may_keep_open(self).then(|| Rc::clone(&file));
        self.state.borrow_mut().segments[index].file = kept;
        file
    }

    /// Closes its files, to be opened again when needed; those in use once they are not any more.
    pub(crate) fn close_files(&self) {
        if let Ok(mut state) = self.state.try_borrow_mut() {
            state.segments.iter_mut().for_each(|segment| segment.file = None);
        }
    }

    /// Preallocates, so that no write grows the file (a growing direct write is slow and may run
    /// out of space half-way).
    async fn make_room(&self, index: usize, file: &File, end: u32) -> Result<(), StorageError> {
        let allocated = self.state.borrow().segments[index].allocated;
        let wanted = u64::from(end).next_multiple_of(DISK_BLOCK_BYTES as u64);
        if wanted <= allocated {
            return Ok(());
        }
        Box::pin(self.allocate(index, file, allocated, wanted)).await
    }

    async fn allocate(
        &self,
        index: usize,
        file: &File,
        allocated: u64,
        wanted: u64,
    ) -> Result<(), StorageError> {
        let ahead = allocated.clamp(ALLOCATE_BYTES_MIN, ALLOCATE_BYTES_MAX);
        let segment_bytes = u64::from(self.settings().segment_bytes).next_multiple_of(4096);
        let target = (allocated.next_multiple_of(4096) + ahead).min(segment_bytes).max(wanted);
        assert!(allocated < wanted && wanted <= target, "space is taken ahead");
        let path = self.state.borrow().segments[index].log_path(&self.dir);
        let mut result = file.allocate(allocated, target - allocated).await.map(|()| target);
        if result.is_err() && wanted < target {
            // Nearly full: take just what is needed.
            result = file.allocate(allocated, wanted - allocated).await.map(|()| wanted);
        }
        let allocated = result.map_err(|error| StorageError::of(&path, "fallocate", &error))?;
        assert!(allocated >= wanted, "what was asked for is there");
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
        assert!(from <= end, "what is written begins before it ends");
        // A dsync write makes only itself durable: what was written before must be synced in this
        // segment already, or a sync of the whole file must follow.
        let dsync = durable && {
            let state = self.state.borrow();
            state.synced == state.written
        };
        // A block that was written before goes in an operation of its own, beside the rest: ext4
        // hands a direct write that spans written and unwritten extents to a worker thread. Not so
        // with dsync: two device flushes cost more than the worker.
        let start = block_floor(from);
        let rest = if from == start || dsync { start } else { start + DISK_BLOCK_BYTES as u32 };
        let head = async {
            if start < rest {
                self.write_once(index, file, start, rest.min(end), dsync).await?;
            }
            Ok(())
        };
        let body = async {
            let mut position = rest;
            while position < end {
                position = self.write_once(index, file, position, end, dsync).await?;
            }
            Ok(())
        };
        let (head, body) = runtime::both(head, body).await;
        head.and(body).map_err(|error| {
            let path = self.state.borrow().segments[index].log_path(&self.dir);
            StorageError::of(&path, "write", &error)
        })?;
        let reached = Reached { segment: index, position: end, offset: ends_at };
        {
            let mut state = self.state.borrow_mut();
            assert!(end <= state.segments[index].end, "no more is written than there is");
            assert_eq!(state.written.position, from, "writes continue each other");
            assert!(state.written.offset <= ends_at, "writing goes forward");
            assert!(u64::from(end) <= state.segments[index].allocated, "no write grows a file");
            state.segments[index].index_written(from, end);
            state.written = reached;
        }
        if durable && !dsync {
            Box::pin(self.sync_file(index, file)).await?;
        }
        if durable {
            self.on_synced(reached);
        }
        Ok(())
    }

    /// Writes the blocks that hold positions `start` (a block's) to `end`, as far as one operation goes; returns
    /// where the next one starts.
    async fn write_once(
        &self,
        index: usize,
        file: &File,
        start: u32,
        end: u32,
        dsync: bool,
    ) -> io::Result<u32> {
        assert_eq!(start, block_floor(start), "a write begins at a block");
        let mut pieces = self.home.piece_lists.borrow_mut().pop().unwrap_or_default();
        assert!(pieces.is_empty(), "a list comes empty");
        let (next, block) = self.pieces_of(index, start, end, &mut pieces);
        let written = file.write_at(&mut pieces, u64::from(start), dsync).await;
        self.home.piece_lists.borrow_mut().push(pieces);
        if let Some(block) = block {
            self.home.blocks.borrow_mut().retire(block);
        }
        assert!(next > start, "each write goes on");
        written.map(|()| next)
    }

    /// Collects the blocks that hold positions `start` (a block's) to `end` for one operation;
    /// returns where the next one starts. A last block that is not full is copied: appends go on
    /// in the slab while the kernel, or a checksumming layer below it, reads the copy.
    fn pieces_of(
        &self,
        index: usize,
        start: u32,
        end: u32,
        pieces: &mut Vec<DiskRange>,
    ) -> (u32, Option<ChunkWriter>) {
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
            assert!(slab.position <= position, "slabs are adjacent");
            let whole = block_floor(slab_end);
            if position < whole {
                let range = (position - slab.position) as usize..(whole - slab.position) as usize;
                pieces.push(slab.writer.disk_range(range));
                position = whole;
            }
            if position < slab_end {
                let mut block = self.home.blocks.borrow_mut().take_or_grow();
                let range =
                    (position - slab.position) as usize..(slab_end - slab.position) as usize;
                block.append(&slab.writer.bytes()[range]);
                pieces.push(block.disk_range(0..DISK_BLOCK_BYTES));
                return (position + DISK_BLOCK_BYTES as u32, Some(block));
            }
        }
        assert!(!pieces.is_empty(), "unwritten bytes are in slabs");
        (position, None)
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
            assert_eq!(index, state.written.segment, "the segment that is written is closed");
            assert!(index + 1 < state.segments.len(), "a closed segment has a successor");
            if state.written.position < state.segments[index].end {
                return Ok(());
            }
        }
        self.store_index(index).await?;
        let mut state = self.state.borrow_mut();
        let next = state.segments[index + 1].base;
        assert_eq!(state.written.offset, next, "the next segment goes on where this one ends");
        let reached = Reached { segment: index + 1, position: 0, offset: state.written.offset };
        state.written = reached;
        drop(state);
        self.on_synced(reached);
        Ok(())
    }

    /// Cuts a segment's file to its batches, syncs it, and writes its index.
    async fn store_index(&self, index: usize) -> Result<(), StorageError> {
        let file = self.file_for_writing(index).await?;
        self.store_names().await?;
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
            self.state.borrow_mut().segments[index].index_length = Some(end);
        }
        Ok(())
    }

    /// Writes and syncs everything in its segments and stores the index, so that the next open need
    /// not look.
    ///
    /// # Errors
    /// As `flush`.
    pub async fn close(&self) -> Result<(), StorageError> {
        loop {
            if self.is_offline() {
                return Err(StorageError::Offline);
            }
            self.begin_flush().await;
            let is_done = {
                let state = self.state.borrow();
                state.synced.offset == state.log_end && state.lags_nothing()
            };
            if is_done {
                break;
            }
            let result = self.flush_segment(true).await;
            self.end_flush(result)?;
        }
        let index = {
            let state = self.state.borrow();
            assert_eq!(state.synced.offset, state.log_end, "all of a closed log is synced");
            state.check();
            state.segments.len() - 1
        };
        let changed = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            segment.end > 0 && segment.index_length != Some(segment.end)
        };
        let result = if changed { self.store_index(index).await } else { Ok(()) };
        self.end_flush(result)
    }
}

impl State {
    fn lags_nothing(&self) -> bool {
        assert!(self.written.segment < self.segments.len(), "what is written is in a segment");
        self.synced.offset >= self.journaled.offset
            && self.written.segment + 1 == self.segments.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogDir, Replay, TailCache};
    use model::record_batch::BatchBuilder;
    use model::{
        Compression, LeaderEpoch, LogSettings, PartitionIndex, RecordBatch, TopicId, TopicPartition,
    };
    use runtime::simulated::{Disk, Simulation};
    use runtime::{Io, Runtime};
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn a_log_that_failed_never_lets_the_journal_forget_its_bytes() {
        let disk = Disk::default();
        let machine = Runtime::new(Io::Simulated(Simulation::new(disk.clone(), 1))).unwrap();
        let body = async {
            let data = Path::new("/d");
            fs::create_dir_all(&data.join("partitions")).unwrap();
            let start = Replay::default().start_of(0);
            let journal = Journal::new(data, 0, 1 << 20, true, start);
            let cache = TailCache::new(0);
            let home = LogDir::new(data, true, &cache, Some(Rc::clone(&journal)), Arc::default());
            let partition =
                TopicPartition { topic_id: TopicId([1; 16]), partition: PartitionIndex(0) };
            let log = Log::create(&home, partition, LogSettings::default()).unwrap();
            journal.begin().await.unwrap();
            let mut builder = BatchBuilder::default();
            builder.begin(0);
            builder.push(0, None, Some(b"journaled"), &[]);
            let bytes = builder.finish(Compression::None).to_vec();
            let batch = RecordBatch::validate_produced(&bytes, 1 << 20).unwrap();
            log.append(batch, log.log_end(), LeaderEpoch(1)).unwrap();
            assert_eq!(log.flush(true).await.unwrap().durable, Offset(1));
            disk.set_failing(Some(5));
            log.append(batch, log.log_end(), LeaderEpoch(1)).unwrap();
            assert!(log.flush(true).await.is_err());
            // The disk answers again, and the segment still lacks what the journal holds.
            disk.set_failing(None);
            assert!(matches!(log.sync_segments().await, Err(StorageError::Offline)));
            assert_eq!(log.state.borrow().synced.offset, Offset(0));
        };
        machine.block_on(body).unwrap();
    }

    #[test]
    fn a_sync_that_finds_no_space_is_not_tried_again() {
        let disk = Disk::default();
        let machine = Runtime::new(Io::Simulated(Simulation::new(disk.clone(), 1))).unwrap();
        let body = async {
            let data = Path::new("/d");
            fs::create_dir_all(&data.join("partitions")).unwrap();
            let start = Replay::default().start_of(0);
            let journal = Journal::new(data, 0, 1 << 20, true, start);
            let cache = TailCache::new(8 << 20);
            let home = LogDir::new(data, true, &cache, Some(Rc::clone(&journal)), Arc::default());
            let partition =
                TopicPartition { topic_id: TopicId([1; 16]), partition: PartitionIndex(0) };
            let log = Log::create(&home, partition, LogSettings::default()).unwrap();
            journal.begin().await.unwrap();
            let mut builder = BatchBuilder::default();
            builder.begin(0);
            builder.push(0, None, Some(b"journaled"), &[]);
            let bytes = builder.finish(Compression::None).to_vec();
            let batch = RecordBatch::validate_produced(&bytes, 1 << 20).unwrap();
            for _ in 0..2 {
                log.append(batch, log.log_end(), LeaderEpoch(1)).unwrap();
                log.flush(true).await.unwrap();
                // Names and epochs are on the disk before the disk says that it is full.
                if log.log_end() == Offset(1) {
                    log.sync_segments().await.unwrap();
                }
            }
            Rc::clone(&log).write_behind();
            runtime::timer::sleep(Duration::from_millis(5)).await;
            let (written, synced) = {
                let state = log.state.borrow();
                (state.written.offset, state.synced.offset)
            };
            assert_eq!((written, synced), (Offset(2), Offset(1)));
            const ENOSPC: i32 = 28;
            disk.set_failing(Some(ENOSPC));
            assert!(log.sync_segments().await.is_err());
            disk.set_failing(None);
            // As the journal's cleaner would: it must not forget what the kernel has dropped.
            assert!(log.sync_segments().await.is_err());
            assert_eq!(log.state.borrow().synced.offset, Offset(1));
            assert!(home.health().failure().is_some());
        };
        machine.block_on(body).unwrap();
    }
}
