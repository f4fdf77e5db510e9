//! Reading a log from disk: by offset, by time, and loading the index that both need.

use crate::StorageError;
use crate::log::index::SegmentIndex;
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::log::{Log, Read, State, TimestampOffset, block_floor, open_file};
use crate::log::recovery::{Walk, walk_into};
use model::limits::{
    BATCH_HEADER_BYTES, DECOMPRESSED_BYTES_MAX, DISK_BLOCK_BYTES, INDEX_INTERVAL_BYTES,
};
use model::{Compression, LeaderEpoch, Offset, RecordBatch};
use runtime::budget::Budget;
use runtime::buffer::{ChunkWriter, SharedBytes};
use runtime::{Slice, fs};
use std::cmp::Ordering;
use std::rc::Rc;

/// Most bytes one read takes from disk, unless the first batch is larger.
pub(crate) const DISK_READ_BYTES: usize = 512 * 1024;

/// What one read of a segment brought.
struct ReadOnce {
    bytes: usize,
    /// Not only empty batches.
    has_records: bool,
    /// What follows.
    next: Offset,
}

/// Segments are removed only while nobody reads them from disk.
pub(crate) struct Reading<'a>(&'a Log);

impl<'a> Reading<'a> {
    pub(crate) async fn begin(log: &'a Log) -> Self {
        log.idle.until(|| (log.state.borrow().removing == 0).then_some(())).await;
        let mut state = log.state.borrow_mut();
        assert_eq!(state.removing, 0, "nobody reads while segments go");
        state.readers += 1;
        drop(state);
        Self(log)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        assert!(state.readers > 0, "a read ends that was begun");
        state.readers -= 1;
        if state.readers == 0 {
            drop(state);
            self.0.idle.notify();
        }
    }
}

impl Log {
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
        let _reading = Reading::begin(self).await;
        let (mut offset, mut total) = (offset, 0);
        while offset >= self.log_start() && offset < below {
            let left = bytes_max.saturating_sub(total);
            let read = self.read_disk_once(offset, left, below, out).await?;
            total += read.bytes;
            // Compaction leaves empty batches: some clients do not get past an answer of such alone.
            if read.has_records || read.bytes == 0 {
                break;
            }
            offset = read.next;
        }
        Ok(total)
    }

    async fn read_disk_once(
        &self,
        offset: Offset,
        bytes_max: usize,
        below: Offset,
        out: &mut Vec<SharedBytes>,
    ) -> Result<ReadOnce, StorageError> {
        let index = self.state.borrow().segment_of(offset);
        self.load_index(index).await?;
        // With the index it may be found in memory after all; else all of it is in the segment.
        let before: usize = out.len();
        if let Read::Bytes(_) = self.read_cached(offset, bytes_max, below, out) {
            let bytes = out[before..].iter().map(|piece| piece.len()).sum();
            return Ok(ReadOnce { bytes, has_records: true, next: below });
        }
        let (start, end) = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            let end = state.written_end(index);
            let relative = offset.since(segment.base);
            (segment.index.as_ref().map_or(0, |i| i.floor(relative)), end)
        };
        let mut window = bytes_max.min(DISK_READ_BYTES) + INDEX_INTERVAL_BYTES as usize;
        loop {
            let bytes = self.read_window(index, start, window.min((end - start) as usize)).await?;
            let (mut at, mut first, mut stop) = (0, None, 0);
            let (mut has_records, mut next) = (false, offset);
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
                    if !batch.crc_matches() {
                        // What is whole in front of it is served; the next read comes here again.
                        if first.is_some() {
                            break;
                        }
                        return Err(self.damaged(index, u64::from(start) + at as u64));
                    }
                    let (first_at, first_total) = *first.get_or_insert((at, total));
                    // What is cut off below is not counted.
                    if at + total - first_at <= bytes_max.max(first_total) {
                        has_records |= batch.record_count() > 0;
                        next = batch.last_offset().plus(1);
                    }
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
            return Ok(ReadOnce { bytes: len, has_records, next });
        }
    }

    /// Where reading may go on behind a batch at or after `offset` that cannot be read: never before `offset`, at most
    /// an index entry's interval further than it must be.
    pub async fn behind_damage(&self, offset: Offset) -> Offset {
        let _reading = Reading::begin(self).await;
        let index = self.state.borrow().segment_of(offset);
        let is_loaded = self.load_index(index).await.is_ok();
        let state = self.state.borrow();
        let segment = &state.segments[index];
        let next = state.segments.get(index + 1).map_or(state.log_end, |next| next.base);
        let entries =
            segment.index.as_ref().filter(|_| is_loaded).map_or(&[][..], SegmentIndex::entries);
        let offsets = entries.iter().map(|e| segment.base.plus(i64::from(e.relative_offset)));
        offsets.into_iter().find(|at| *at > offset).unwrap_or(next).max(offset.plus(1))
    }

    pub(super) fn damaged(&self, index: usize, position: u64) -> StorageError {
        StorageError::Corrupt {
            path: self.state.borrow().segments[index].log_path(&self.dir),
            position,
            what: "not the batch that belongs here",
        }
    }

    /// At most `len` bytes of a segment from `position`, from memory if they are there, else from
    /// disk as far as they are written.
    pub(crate) async fn read_window(
        &self,
        index: usize,
        position: u32,
        len: usize,
    ) -> Result<SharedBytes, StorageError> {
        let (file, len) = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            let mut copy = vec![0; if segment.cached_from() <= position { len } else { 0 }];
            if !copy.is_empty() && segment.copy_cached(position, &mut copy) {
                return Ok(SharedBytes::copy_of(&copy));
            }
            (segment.file.clone(), len.min((state.written_end(index) - position) as usize))
        };
        let file = match file {
            Some(file) => file,
            None => {
                let place = self.home.place_for_file(self).await;
                let path = self.state.borrow().segments[index].log_path(&self.dir);
                self.keep_open(index, open_file(&path, self.home.direct, false)?, place)
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

    /// Loads a segment's index, or rebuilds it from the segment.
    pub(super) async fn load_index(&self, index: usize) -> Result<(), StorageError> {
        let (path, index_path, base, gaps) = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            if segment.index.is_some() {
                return Ok(());
            }
            let paths = (segment.log_path(&self.dir), segment.index_path(&self.dir));
            (paths.0, paths.1, segment.base, segment.compacted.is_some())
        };
        let stored = fs::read(&index_path).await.ok();
        let end = self.state.borrow().written_end(index);
        let loaded = stored.and_then(|bytes| SegmentIndex::decode(&bytes, u64::from(end)));
        let mut loaded = loaded.unwrap_or_else(SegmentIndex::new);
        let mut from = loaded
            .last()
            .map_or((0, base), |e| (e.position, base.plus(i64::from(e.relative_offset))));
        let _place = self.home.place_for_file(self).await;
        let file = open_file(&path, self.home.direct, false)?;
        let mut ignored = LeaderEpochs::default();
        loop {
            // Writes of the active segment go on meanwhile.
            let wanted = self.state.borrow().written_end(index);
            if from.0 == wanted {
                self.state.borrow_mut().segments[index].index.get_or_insert(loaded);
                return Ok(());
            }
            // Payloads are checked when they are read: rot in one does not hide the others.
            let plan = Walk {
                from: from.0,
                offset: from.1,
                to: u64::from(wanted),
                check_crc: false,
                epoch: LeaderEpoch(i32::MIN),
                gaps,
            };
            let walked = walk_into(&path, &file, base, plan, &mut loaded, &mut ignored).await?;
            if walked.end != wanted {
                let mut state = self.state.borrow_mut();
                let segment = &mut state.segments[index];
                segment.damaged_at = Some(walked.end);
                segment.index.get_or_insert(loaded);
                return Ok(());
            }
            from = (walked.end, walked.log_end);
        }
    }

    /// The first record at or after `timestamp` (ms) below offset `below`: exact, looking inside
    /// the batch, unless its records cannot be read. What is decompressed is charged to `unpacked`.
    ///
    /// # Errors
    /// The disk's.
    pub async fn find_timestamp(
        &self,
        timestamp: i64,
        below: Offset,
        unpacked: &Rc<Budget>,
    ) -> Result<Option<TimestampOffset>, StorageError> {
        let _reading = Reading::begin(self).await;
        let segments = self.state.borrow().segments.len();
        let log_start = self.log_start();
        let (mut scratch, mut slice) = (Vec::new(), Slice::begin());
        for index in 0..segments {
            // A full disk may have taken back what was not written meanwhile.
            if index >= self.state.borrow().segments.len() {
                break;
            }
            self.load_index(index).await?;
            let (mut position, end) = {
                let state = self.state.borrow();
                let Some(loaded) = &state.segments[index].index else { continue };
                // The index knows what is written; behind that everything is looked at.
                let (written, end) = (state.written_end(index), state.safe_end(index));
                if loaded.max_timestamp() < timestamp {
                    (written, end)
                } else {
                    (loaded.floor_timestamp(timestamp), end)
                }
            };
            let mut window = DISK_READ_BYTES;
            while position < end {
                let bytes = self
                    .read_window(index, position, window.min((end - position) as usize))
                    .await?;
                slice.rest().await;
                let mut rest = &bytes[..];
                while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                    if batch.base_offset() >= below {
                        return Ok(None);
                    }
                    if batch.max_timestamp() >= timestamp && batch.last_offset() >= log_start {
                        let is_packed = batch.compression() != Some(Compression::None);
                        let held = match is_packed {
                            true => Some(unpacked.take(DECOMPRESSED_BYTES_MAX).await),
                            false => None,
                        };
                        let found =
                            find_in_batch(batch, timestamp, log_start, &mut scratch, &mut slice);
                        let found = found.await;
                        if held.is_some() {
                            scratch = Vec::new();
                        }
                        if let Some(found) = found {
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
        let _reading = Reading::begin(self).await;
        let segments = self.state.borrow().segments.len();
        let mut max = -1;
        for index in 0..segments {
            if index >= self.state.borrow().segments.len() {
                break;
            }
            max = max.max(self.segment_max_timestamp(index).await?);
        }
        Ok(max)
    }

    /// The largest timestamp of a segment, as far as it is safe; -1 when empty.
    pub(crate) async fn segment_max_timestamp(&self, index: usize) -> Result<i64, StorageError> {
        if let Some(known) = self.state.borrow().segments[index].max_timestamp {
            return Ok(known);
        }
        self.load_index(index).await?;
        if let Some(position) = self.state.borrow().segments[index].damaged_at {
            return Err(self.damaged(index, u64::from(position)));
        }
        let mut state = self.state.borrow_mut();
        let (mut position, end) = (state.written_end(index), state.safe_end(index));
        let is_sealed = index < state.written.segment;
        let segment = &mut state.segments[index];
        let mut max = segment.index.as_ref().map_or(-1, SegmentIndex::max_timestamp);
        while position < end
            && let Some(header) = segment.header_at(position)
        {
            max = max.max(header.max_timestamp);
            position += header.bytes;
        }
        if is_sealed {
            segment.max_timestamp = Some(max);
        }
        Ok(max)
    }
}

impl State {
    /// Where the bytes of a segment end that are in its file.
    fn written_end(&self, index: usize) -> u32 {
        assert!(index < self.segments.len(), "a segment of this log");
        match index.cmp(&self.written.segment) {
            Ordering::Less => self.segments[index].end,
            Ordering::Equal => self.written.position,
            Ordering::Greater => 0,
        }
    }

    /// Where the bytes of a segment end that readers may see.
    fn safe_end(&self, index: usize) -> u32 {
        let safe = self.safe();
        assert!(safe.segment < self.segments.len(), "what is safe is in a segment");
        match index.cmp(&safe.segment) {
            Ordering::Less => self.segments[index].end,
            Ordering::Equal => safe.position,
            Ordering::Greater => 0,
        }
    }
}

/// The first record of a batch at or after `timestamp`. Of a batch whose records cannot be read, as its client sent
/// it, the header says what there is to say.
async fn find_in_batch(
    batch: RecordBatch<'_>,
    timestamp: i64,
    log_start: Offset,
    scratch: &mut Vec<u8>,
    slice: &mut Slice,
) -> Option<TimestampOffset> {
    let base = batch.base_offset();
    let unreadable =
        Some(TimestampOffset { offset: base.max(log_start), timestamp: batch.max_timestamp() });
    let stamped = batch.is_log_append_time().then(|| batch.max_timestamp());
    let records = batch.records_resting(scratch, &mut async || slice.rest().await).await;
    let Ok(records) = records else { return unreadable };
    for (number, record) in records.enumerate() {
        if number % RECORDS_A_LOOK == RECORDS_A_LOOK - 1 {
            slice.rest().await;
        }
        let Ok(record) = record else { return unreadable };
        let at = batch.base_timestamp().saturating_add(record.timestamp_delta);
        let at = stamped.unwrap_or(at);
        let offset = base.plus(i64::from(record.offset_delta));
        if at >= timestamp && offset >= log_start {
            return Some(TimestampOffset { offset, timestamp: at });
        }
    }
    None
}

/// Records between two looks at the clock.
pub(crate) const RECORDS_A_LOOK: usize = 1024;
