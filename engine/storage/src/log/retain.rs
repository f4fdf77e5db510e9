//! Deleting the oldest records: by age, by size, or because someone asked.
//!
//! The new start of the log is durable before any file goes, so that a start never finds less than
//! it was told to expect, and deleted records never come back.

use crate::StorageError;
use crate::directory::reserve::with_reserve;
use crate::journal::journal::Journaled;
use crate::log::log::{Log, Reached};
use crate::log::read::Reading;
use crate::log::segment::LogSegment;
use model::{Offset, Retention, crc32c};
use runtime::fs;

/// Beside the segments: where the log begins, if the journal does not say so.
pub(crate) const START_FILE: &str = "start";
const START_MAGIC: &[u8; 8] = b"WEIRSTRT";

fn encode_start(start: Offset) -> Vec<u8> {
    let mut out = START_MAGIC.to_vec();
    out.extend_from_slice(&start.0.to_be_bytes());
    let crc = crc32c::checksum(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

/// Reads the file's bytes; any bytes are allowed.
pub(crate) fn decode_start(bytes: &[u8]) -> Option<Offset> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let start = i64::from_be_bytes(body.strip_prefix(START_MAGIC)?.try_into().ok()?);
    (u32::from_be_bytes(*crc) == crc32c::checksum(body) && start >= 0).then_some(Offset(start))
}

/// Records are deleted from a log's start: nothing is cut from its end meanwhile.
struct Deleting<'a>(&'a Log);

impl<'a> Deleting<'a> {
    async fn begin(log: &'a Log) -> Self {
        log.idle.until(|| (log.cuts.get() == 0).then_some(())).await;
        log.deletes.set(log.deletes.get() + 1);
        Self(log)
    }
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        assert!(self.0.deletes.get() > 0, "a deletion ends that was begun");
        self.0.deletes.set(self.0.deletes.get() - 1);
        self.0.idle.notify();
    }
}

impl Log {
    /// Deletes whole segments that `retention` does not keep and that lie below offset `below`.
    /// Returns the new log start if it moved.
    ///
    /// # Errors
    /// The disk's.
    pub async fn retain(
        &self,
        retention: Retention,
        now_ms: i64,
        below: Offset,
    ) -> Result<Option<Offset>, StorageError> {
        let Some(start) = self.retained(retention, now_ms, below).await? else { return Ok(None) };
        self.delete_below(start).await?;
        Ok(Some(start))
    }

    /// Where the log would begin if those segments were deleted, if that is not where it does.
    ///
    /// # Errors
    /// The disk's.
    pub async fn retained(
        &self,
        retention: Retention,
        now_ms: i64,
        below: Offset,
    ) -> Result<Option<Offset>, StorageError> {
        if self.is_offline() {
            return Ok(None);
        }
        let too_old = |max_timestamp: i64| {
            let age = retention.age_ms;
            age.is_some_and(|age| now_ms.saturating_sub(max_timestamp) > age)
        };
        let reading = Reading::begin(self).await;
        let mut left = self.size_bytes();
        let mut start = self.log_start();
        for index in 0.. {
            let (segment, end) = {
                let state = self.state.borrow();
                let Some(segment) = state.segments.get(index) else { break };
                let next = state.segments.get(index + 1).map(|next| next.base);
                (u64::from(segment.end), next)
            };
            let is_active = end.is_none();
            let end = end.unwrap_or_else(|| self.log_end());
            if segment == 0 || end > below {
                break;
            }
            // The active segment may have grown meanwhile.
            left = left.saturating_sub(segment);
            // A size limit never takes the active segment: it may be all there is.
            let too_many = !is_active && retention.bytes.is_some_and(|bytes| left >= bytes);
            // What was written lately is not looked into: that costs a read of the segment's index,
            // and producers' timestamps may be wrong.
            let expired = too_old(self.last_write_ms(index))
                && too_old(self.segment_max_timestamp(index).await?);
            if !too_many && !expired {
                break;
            }
            start = end;
        }
        drop(reading);
        assert!(start <= below.max(self.log_start()), "nothing is deleted that may not be");
        Ok((start > self.log_start()).then_some(start))
    }

    /// When a segment was last written, ms since the Unix epoch.
    pub(crate) fn last_write_ms(&self, index: usize) -> i64 {
        let (appended, path, compacted) = {
            let state = self.state.borrow();
            let segment = &state.segments[index];
            let compacted = segment.compacted.is_some();
            (segment.appended_ms, segment.log_path(&self.dir), compacted)
        };
        // When a compacted file was made says nothing of its records.
        let found =
            || if compacted { i64::MIN } else { fs::modified_ms(&path).unwrap_or(i64::MAX) };
        appended.unwrap_or_else(found)
    }

    /// Deletes the records below `start`, which must be committed; space comes back segment by
    /// segment.
    ///
    /// # Errors
    /// The disk's, or they are not all safe; nothing is deleted then.
    pub async fn delete_below(&self, start: Offset) -> Result<(), StorageError> {
        let _deleting = Deleting::begin(self).await;
        if start > self.flushed().written {
            return Err(StorageError::Unusable(format!(
                "{}: only what is safe is deleted, and the log ends before {start}, or was cut meanwhile",
                self.dir.display()
            )));
        }
        if start <= self.log_start() {
            return Ok(());
        }
        let home = &self.home;
        if start == self.log_end() {
            with_reserve(home.reserve(), async || self.roll().await).await?;
        }
        with_reserve(home.reserve(), async || self.note_log_start(start).await).await?;
        // From here on nobody reads below: not a new read, and once idle not one under way.
        {
            let mut state = self.state.borrow_mut();
            state.log_start = state.log_start.max(start);
        }
        self.begin_removing().await;
        let removed = self.remove_segments();
        {
            let mut state = self.state.borrow_mut();
            assert!(state.removing > 0 && state.readers == 0, "removing excludes reading");
            state.removing -= 1;
            state.check();
            let first = state.segments.first().expect("a log has a segment").base;
            assert!(first <= state.log_start, "what is kept is in a segment");
        }
        let mut result = Ok(());
        for segment in removed {
            let paths = [segment.index_path(&self.dir), segment.log_path(&self.dir)];
            for path in paths {
                match fs::remove_large_file(&path).await {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        result = Err(StorageError::of(&path, "unlink", &error));
                    }
                    _ => {}
                }
            }
            segment.slabs.into_iter().for_each(|slab| self.home.cache.retire(slab.writer));
        }
        self.end_flush(result)
    }

    /// Waits until nobody reads segments from disk or flushes. Reads wait from then on, until the
    /// caller counts `removing` down and calls `end_flush`.
    pub(crate) async fn begin_removing(&self) {
        // First the readers, who may take a while: appends go on meanwhile.
        self.state.borrow_mut().removing += 1;
        self.idle.until(|| (self.state.borrow().readers == 0).then_some(())).await;
        self.begin_flush().await;
        assert_eq!(self.state.borrow().readers, 0, "no read begins while segments go");
    }

    /// Closes the active segment, so that all of it can be deleted.
    async fn roll(&self) -> Result<(), StorageError> {
        self.begin_flush().await;
        {
            let mut state = self.state.borrow_mut();
            let log_end = state.log_end;
            let active = state.segments.last().expect("a log has a segment");
            assert!(active.end == 0 || active.base < log_end, "a segment with bytes has records");
            if active.end > 0 {
                state.segments.push(LogSegment::new(log_end));
            }
        }
        let mut result = Ok(());
        while result.is_ok() {
            let sealed = {
                let state = self.state.borrow();
                state.written.segment + 1 == state.segments.len()
            };
            if sealed {
                break;
            }
            result = self.flush_segment(true).await;
        }
        self.end_flush(result)
    }

    async fn note_log_start(&self, start: Offset) -> Result<(), StorageError> {
        let Some(journal) = &self.home.journal else { return self.store_start(start).await };
        match journal.append(self.log_start_entry(start), &mut Vec::new()).await {
            Journaled::Durable => Ok(()),
            Journaled::NoRoom => self.store_start(start).await,
            Journaled::Failed(error) => Err(error),
        }
    }

    /// Whether its files alone say where it begins.
    pub(crate) fn files_say_start(&self) -> bool {
        let state = self.state.borrow();
        let is_empty = state.segments.iter().all(|segment| segment.end == 0);
        let first = state.segments.first().map_or(Offset::ZERO, |first| first.base);
        state.log_start == Offset::ZERO || !is_empty && state.log_start == first
    }

    /// Writes down beside the segments where the log begins: for when no journal can say so.
    ///
    /// # Errors
    /// The disk's.
    pub async fn store_start(&self, start: Offset) -> Result<(), StorageError> {
        self.store_beside(START_FILE, &encode_start(start)).await
    }

    /// Takes the segments out whose records are all deleted.
    fn remove_segments(&self) -> Vec<LogSegment> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let next_bases = state.segments.iter().skip(1).map(|segment| segment.base);
        let count = next_bases.take_while(|base| *base <= state.log_start).count();
        let count = count.min(state.written.segment).min(state.synced.segment);
        assert!(count < state.segments.len(), "the active segment stays");
        assert!(state.flushing && state.readers == 0, "nobody is in the segments");
        let shift = |reached: &mut Reached| reached.segment = reached.segment.saturating_sub(count);
        shift(&mut state.written);
        shift(&mut state.synced);
        shift(&mut state.journaled);
        let removed = state.segments.drain(..count).collect();
        self.count_slabs(state);
        removed
    }
}
