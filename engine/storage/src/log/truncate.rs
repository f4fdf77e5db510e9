//! Cutting a log at its end: for a replica that has what its leader does not.
//!
//! What was behind a cut never comes back. The journal knows of the cut before any file changes, so that a start
//! finishes it, and that it is done before anything is appended, so that no start does it again (`FORMAT.md`).

use crate::StorageError;
use crate::journal::frame::{Entry, EntryKind, LogPosition};
use crate::journal::journal::Journaled;
use crate::log::compact::CLEANED_FILE;
use crate::log::index::SegmentIndex;
use crate::log::log::{Log, Reached, block_floor, open_file};
use crate::log::segment::LogSegment;
use model::limits::{BATCH_HEADER_BYTES, DISK_BLOCK_BYTES};
use model::{Offset, RecordBatch};
use runtime::{fs, timer};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Beside the segments: what follows from records, up to an offset that may not be there any more.
pub(crate) const DERIVED_FILES: [&str; 2] = ["producers", CLEANED_FILE];
/// A journal that has no room has some again once its files were cleaned.
const ROOM_RETRY: Duration = Duration::from_millis(20);
const ROOM_TRIES: usize = 100;

impl Log {
    /// Cuts the log so that nothing at or behind `to` is left, durably. Whole batches go, and a compacted segment as a
    /// whole. Returns where the log ends then: at or below `to`. Nobody may append meanwhile.
    ///
    /// # Errors
    /// `Full`: nothing was cut. `Unusable`: the log does not go back so far. Any other: it is offline, and the next
    /// start finishes the cut or has not heard of it.
    ///
    /// # Panics
    /// If something is appended meanwhile.
    pub async fn truncate(&self, to: Offset) -> Result<Offset, StorageError> {
        if to >= self.log_end() {
            return Ok(self.log_end());
        }
        let _others = self.exclude_others().await;
        self.begin_removing().await;
        let mut refused = None;
        let result = match self.sync_all().await {
            Err(error) => Err(error),
            // What cannot be read now is no reason to give the log up.
            Ok(()) => match self.place_of(to).await {
                Err(why) => {
                    refused = Some(why);
                    Ok(false)
                }
                Ok((place, last_block)) => self.cut_at(place, last_block).await,
            },
        };
        {
            let mut state = self.state.borrow_mut();
            assert!(state.removing > 0 && state.readers == 0, "cutting excludes reading");
            state.removing -= 1;
        }
        let is_begun = result.as_ref().is_ok_and(|is_begun| *is_begun);
        self.end_flush(result.map(drop))?;
        if is_begun {
            self.note_done().await?;
        }
        refused.map_or_else(|| Ok(self.log_end()), Err)
    }

    /// Puts everything that was appended into its segments, synced.
    async fn sync_all(&self) -> Result<(), StorageError> {
        if self.is_offline() {
            return Err(StorageError::Offline);
        }
        while self.state.borrow().synced.offset < self.log_end() {
            self.flush_segment(true).await?;
        }
        let state = self.state.borrow();
        assert_eq!(state.synced.offset, state.log_end, "all of a log is synced before it is cut");
        state.check();
        Ok(())
    }

    /// True if the journal is to be told that it is done.
    async fn cut_at(&self, place: LogPosition, last_block: Vec<u8>) -> Result<bool, StorageError> {
        assert_eq!(self.deletes.get(), 0, "nothing is deleted while a log is cut");
        let before = self.log_end();
        let has_journal = self.note_begun(place).await?;
        assert_eq!(before, self.log_end(), "nothing is appended while a log is cut");
        let gone = self.cut_in_memory(place);
        let paths = gone.iter().map(|segment| segment.log_path(&self.dir)).collect::<Vec<_>>();
        for segment in gone {
            segment.slabs.into_iter().for_each(|slab| self.home.cache.retire(slab.writer));
        }
        let (path, is_kept) = {
            let state = self.state.borrow();
            (state.segments[state.written.segment].log_path(&self.dir), place.position > 0)
        };
        let kept = is_kept.then_some((path.as_path(), place.position));
        cut_files(&self.dir, self.home.direct, &paths, kept).await?;
        let mut state = self.state.borrow_mut();
        let index = state.written.segment;
        let active = &mut state.segments[index];
        active.allocated = u64::from(block_floor(place.position));
        active.last_block = last_block;
        Ok(has_journal)
    }

    /// Where the batch begins that reaches to this offset or behind it, and what stands before it in its block: read
    /// with the batches that it belongs to, for it is written again.
    async fn place_of(&self, to: Offset) -> Result<(LogPosition, Vec<u8>), StorageError> {
        let (index, segment, is_compacted) = {
            let state = self.state.borrow();
            let index = state.segment_of(to);
            (index, state.segments[index].base, state.segments[index].compacted.is_some())
        };
        if to <= segment || is_compacted {
            let place = LogPosition { segment, position: 0, offset: segment };
            return Ok((self.checked(place)?, Vec::new()));
        }
        self.load_index(index).await?;
        let (mut position, mut offset, end) = {
            let state = self.state.borrow();
            let found = &state.segments[index];
            let relative = to.since(found.base);
            let entries = found.index.as_ref().map_or(&[][..], SegmentIndex::entries);
            let after = entries.partition_point(|e| i64::from(e.relative_offset) <= relative);
            // One entry earlier, which is more than a block.
            let from = after.checked_sub(2).map(|at| entries[at]);
            let at = from.map_or((0, 0), |e| (e.position, i64::from(e.relative_offset)));
            (at.0, found.base.plus(at.1), found.end)
        };
        let mut before = Vec::new();
        while position < end {
            let head = self.read_window(index, position, BATCH_HEADER_BYTES).await?;
            let total = RecordBatch::total_bytes(&head).unwrap_or(usize::MAX);
            let is_damaged = || self.damaged(index, u64::from(position));
            if total > (end - position) as usize {
                return Err(is_damaged());
            }
            let bytes = self.read_window(index, position, total).await?;
            let whole = RecordBatch::split_first(&bytes).ok();
            let whole = whole.filter(|(b, _)| b.base_offset() == offset && b.crc_matches());
            let (batch, _) = whole.ok_or_else(is_damaged)?;
            let next = batch.last_offset().plus(1);
            if next > to {
                let in_block = (position - block_floor(position)) as usize;
                before.drain(..before.len() - in_block);
                let place = LogPosition { segment, position, offset };
                return Ok((self.checked(place)?, before));
            }
            before.extend_from_slice(&bytes);
            let kept = before.len().min(DISK_BLOCK_BYTES);
            before.drain(..before.len() - kept);
            (position, offset) = (position + total as u32, next);
        }
        Err(self.damaged(index, u64::from(end)))
    }

    fn checked(&self, place: LogPosition) -> Result<LogPosition, StorageError> {
        assert!(place.segment <= place.offset, "a place lies in its segment");
        if place.offset >= self.log_start() {
            return Ok(place);
        }
        Err(StorageError::Unusable(format!(
            "{}: the log begins at {}, and is not cut back to {}",
            self.dir.display(),
            self.log_start(),
            place.offset
        )))
    }

    /// The journal knows that the cut has begun. False if there is none.
    async fn note_begun(&self, place: LogPosition) -> Result<bool, StorageError> {
        let Some(journal) = &self.home.journal else { return Ok(false) };
        let entry = Entry::note(EntryKind::Truncating, self.id, place);
        match journal.append(entry, &mut Vec::new()).await {
            Journaled::Durable => Ok(true),
            Journaled::NoRoom => Err(StorageError::Full { path: self.home.path().to_owned() }),
            Journaled::Failed(error) => Err(error),
        }
    }

    /// The journal knows that the cut is done.
    async fn note_done(&self) -> Result<(), StorageError> {
        let Some(journal) = &self.home.journal else { return Ok(()) };
        for _ in 0..ROOM_TRIES {
            let entry = Entry { kind: EntryKind::Truncated, ..self.synced_entry() };
            match journal.append(entry, &mut Vec::new()).await {
                Journaled::Durable => return Ok(()),
                Journaled::NoRoom => timer::sleep(ROOM_RETRY).await,
                Journaled::Failed(error) => {
                    self.home.health.set_offline(&error);
                    return Err(error);
                }
            }
        }
        // A start would cut what is appended from now on.
        self.state.borrow_mut().offline = true;
        Err(StorageError::Offline)
    }

    /// Takes the segments out that go, and leaves of the one in which the log ends what its file says.
    fn cut_in_memory(&self, place: LogPosition) -> Vec<LogSegment> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let index = state.segments.partition_point(|segment| segment.base < place.segment);
        assert_eq!(state.segments[index].base, place.segment, "a segment of this log");
        let mut gone: Vec<LogSegment> = state.segments.drain(index + 1..).collect();
        let mut active = LogSegment::new(place.segment);
        active.began_ms = state.segments[index].began_ms;
        active.appended_ms = state.segments[index].appended_ms;
        if place.position > 0 {
            (active.end, active.boundary, active.index) = (place.position, place.position, None);
        }
        assert!(place.position <= state.segments[index].end, "it is cut where it has bytes");
        assert!(place.offset <= state.log_end, "a cut makes it shorter");
        assert!(state.log_start <= place.offset, "what is kept is not cut");
        let before = std::mem::replace(&mut state.segments[index], active);
        // Its slabs go; its file too, if nothing of it stays.
        gone.insert(0, before);
        let reached = Reached { segment: index, position: place.position, offset: place.offset };
        (state.written, state.synced, state.journaled) = (reached, reached, reached);
        state.log_end = place.offset;
        state.epochs.truncate(place.offset);
        state.epochs_stored = false;
        state.check();
        state.segments[index].check();
        assert_eq!(state.segments.len(), index + 1, "nothing follows the cut");
        self.cleaned_to.set(None);
        self.count_slabs(state);
        if place.position > 0 {
            let kept = gone.remove(0);
            kept.slabs.into_iter().for_each(|slab| self.home.cache.retire(slab.writer));
        }
        gone
    }
}

/// Cuts the files of a log: removes these segments, the last one first, and leaves so many bytes of the one that is
/// kept. All of it is durable then. A power cut at any step leaves a log, perhaps a longer one, and nothing that knows
/// more than it: without a journal no start would finish the cut.
pub(crate) async fn cut_files(
    dir: &Path,
    direct: bool,
    gone: &[PathBuf],
    kept: Option<(&Path, u32)>,
) -> Result<(), StorageError> {
    for name in DERIVED_FILES {
        remove(&dir.join(name))?;
    }
    if let Some((path, _)) = kept {
        remove(&path.with_extension("idx"))?;
    }
    sync_names(dir).await?;
    for path in gone.iter().rev() {
        remove(&path.with_extension("idx"))?;
        remove(path)?;
        // Else this one could come back, and one before it not.
        sync_names(dir).await?;
    }
    if let Some((path, end)) = kept {
        let file = open_file(path, direct, false)?;
        let cut = file.set_len(u64::from(end));
        cut.map_err(|error| StorageError::of(path, "truncate", &error))?;
        let synced = file.sync(false).await;
        synced.map_err(|error| StorageError::of(path, "fsync", &error))?;
    }
    Ok(())
}

async fn sync_names(dir: &Path) -> Result<(), StorageError> {
    fs::sync_dir(dir).await.map_err(|error| StorageError::of(dir, "sync", &error))
}

fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::of(path, "unlink", &error))
        }
        _ => Ok(()),
    }
}
