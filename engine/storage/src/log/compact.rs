//! Compaction: of each key only the newest record stays (`cleanup.policy=compact`).
//!
//! Two passes over closed segments. The first notes the newest offset of each key in the part that was
//! not compacted yet; the second writes all segments anew without what is superseded. Offsets never
//! change. Both go in slices between which the shard does everything else. Memory is the key map's;
//! if keys do not fit, this pass goes as far as they do and the next one goes on from there.
//!
//! A new segment counts from its rename on (`segment_files.rs`). What was begun and not finished is
//! removed at the next start, and begun again.

use crate::StorageError;
use crate::journal::journal::Journaled;
use crate::log::index::{SegmentIndex, header_of};
use crate::log::key_map::KeyMap;
use crate::log::log::{Log, Reached, open_file};
use crate::log::read::{RECORDS_A_LOOK, Reading};
use crate::log::segment::LogSegment;
use crate::log::segment_files::{Compacted, UNFINISHED};
use model::limits::DISK_BLOCK_BYTES;
use model::{BatchFilter, Filtered, Marker, Offset, ProducerId, Record, RecordBatch, crc32c};
use runtime::buffer::{ChunkWriter, SharedBytes};
use runtime::file::File;
use runtime::{Slice, fs, random, timer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// So much is read at once.
const WINDOW_BYTES: usize = 256 * 1024;
/// So much is done between two turns of the ring, in which everything else comes: a request waits
/// for a few of them.
const SLICE_BYTES: u32 = 32 * 1024;
/// So much is written at once.
const WRITE_BYTES: usize = 512 * 1024;
const ALLOCATE_BYTES: u64 = 16 * 1024 * 1024;
/// Beside the segments: up to where they were compacted.
pub(super) const CLEANED_FILE: &str = "cleaned";
const CLEANED_MAGIC: &[u8; 8] = b"WEIRCLND";

/// A transaction whose records nobody may read.
#[derive(Clone, Copy, Debug)]
pub struct AbortedSpan {
    /// Whose.
    pub producer: ProducerId,
    /// Its first record.
    pub first: Offset,
    /// Its marker.
    pub last: Offset,
}

/// What a compaction is to do.
pub struct CompactionPlan<'a> {
    /// Nothing from here on is looked at: the last stable offset.
    pub below: Offset,
    /// ms since the Unix epoch.
    pub now_ms: i64,
    /// What was written later than so long ago is left alone (`min.compaction.lag.ms`).
    pub min_lag_ms: i64,
    /// How long tombstones and markers stay once nothing else is left (`delete.retention.ms`).
    pub delete_retention_ms: i64,
    /// Memory for the keys.
    pub map_bytes: usize,
    /// The last batch of each producer, which says how its sequence goes on.
    pub last_batches: BTreeMap<ProducerId, Offset>,
    /// Aborted transactions that have records or a marker left, by marker.
    pub aborted: Vec<AbortedSpan>,
    /// Whether to give up.
    pub stops: &'a dyn Fn() -> bool,
    /// How long to rest after a slice: longer while others want the core.
    pub rest: &'a dyn Fn() -> Duration,
}

/// How much of a log compaction could get at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirt {
    /// Bytes compacted before.
    pub clean_bytes: u64,
    /// Bytes not looked at yet.
    pub dirty_bytes: u64,
    /// When the oldest of those was written, ms since the Unix epoch.
    pub dirty_since_ms: Option<i64>,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionDone {
    /// Bytes of segments before.
    pub bytes_before: u64,
    /// Bytes of the same range after.
    pub bytes_after: u64,
    /// Everything below is compacted.
    pub cleaned_to: Offset,
    /// Whether it was given up on the way: what is done stays done.
    pub stopped: bool,
}

/// A closed segment that is to be compacted.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Source {
    base: Offset,
    compacted: Option<Compacted>,
    /// Where the next one begins.
    end: Offset,
    bytes: u32,
    appended_ms: Option<i64>,
}

/// A segment being written, and what it replaces.
struct Output {
    base: Offset,
    path: PathBuf,
    file: File,
    /// Not written yet.
    buffer: Vec<u8>,
    written: u64,
    allocated: u64,
    index: SegmentIndex,
    sources: Vec<Source>,
    /// What stands for the end of the last source if nothing of it is left, and the marker if it is one.
    tail: Option<(Vec<u8>, Option<Offset>)>,
    /// Markers that are left out.
    markers: Vec<Offset>,
}

impl Output {
    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn push(&mut self, batch: RecordBatch<'_>) {
        assert!(self.end() <= u64::from(u32::MAX), "positions have 32 bits");
        let position = self.end() as u32;
        let offset = batch.base_offset();
        assert!(self.base <= offset, "a batch lies in its segment");
        let header = header_of(batch);
        self.index.on_batch(self.base, offset, position, header, batch.max_timestamp());
        self.buffer.extend_from_slice(batch.bytes());
    }

    /// Writes what is there in whole blocks; with `all`, the rest too.
    async fn write(&mut self, all: bool) -> Result<(), StorageError> {
        let whole = self.buffer.len() / DISK_BLOCK_BYTES * DISK_BLOCK_BYTES;
        let take = if all { self.buffer.len() } else { whole };
        if take == 0 || !all && take < WRITE_BYTES {
            return Ok(());
        }
        let padded = take.next_multiple_of(DISK_BLOCK_BYTES);
        assert!(
            self.written.is_multiple_of(DISK_BLOCK_BYTES as u64),
            "nothing follows a last block"
        );
        let failed = |what| move |error: std::io::Error| (what, error);
        let result = async {
            let needed = self.written + padded as u64;
            if needed > self.allocated {
                let more = ALLOCATE_BYTES.max(needed - self.allocated);
                let allocated = self.file.allocate(self.allocated, more).await;
                allocated.map_err(failed("fallocate"))?;
                self.allocated += more;
            }
            let mut writer = ChunkWriter::with_capacity(padded);
            writer.append(&self.buffer[..take]);
            writer.append(&vec![0; padded - take]);
            let mut pieces = vec![writer.disk_range(0..padded)];
            self.file.write_at(&mut pieces, self.written, false).await.map_err(failed("write"))
        };
        result.await.map_err(|(what, error)| StorageError::of(&self.path, what, &error))?;
        self.buffer.drain(..take);
        assert!(!all || self.buffer.is_empty(), "all of it is written");
        self.written += take as u64;
        assert!(self.written <= self.allocated, "no write grows a file");
        Ok(())
    }
}

/// Where a scan of a segment is.
struct Scan {
    source: Source,
    position: u32,
    /// The next batch's offset, or the least it can be.
    next: Offset,
    window: usize,
    /// The position at which everything else has its turn.
    turn_at: u32,
}

impl Scan {
    fn of(source: Source) -> Self {
        Self { source, position: 0, next: source.base, window: WINDOW_BYTES, turn_at: SLICE_BYTES }
    }
}

/// Why a compaction does not go on.
enum Stop {
    Failed(StorageError),
    /// Someone else changed the log, or it is to be given up.
    GivenUp,
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

/// What the second pass remembers from batch to batch.
struct Cleaning<'p> {
    plan: &'p CompactionPlan<'p>,
    map: KeyMap,
    /// Everything below was looked at for its keys.
    end: Offset,
    filter: BatchFilter,
    scratch: Vec<u8>,
    /// Producers with records left since their last marker.
    with_data: BTreeSet<ProducerId>,
}

impl Cleaning<'_> {
    /// Puts what is left of a batch into the output; one that cannot be read, as its client sent it, whole.
    async fn clean(&mut self, batch: RecordBatch<'_>, out: &mut Output) {
        out.tail = None;
        if batch.base_offset() >= self.end {
            if batch.is_transactional() && !batch.is_control() {
                self.with_data.extend(batch.producer().map(|producer| producer.id));
            }
            out.push(batch);
            return;
        }
        if batch.is_control() {
            self.clean_marker(batch, out);
            return;
        }
        let (plan, mut slice) = (self.plan, Slice::begin());
        let mut rest = async || plan.end_slice(&mut slice).await;
        if batch.readable_resting(&mut self.scratch, &mut rest).await.is_none() {
            out.push(batch);
            return;
        }
        let (now_ms, horizon) =
            (self.plan.now_ms, self.plan.now_ms.saturating_add(self.plan.delete_retention_ms));
        let old = batch.delete_horizon().is_some_and(|at| at <= now_ms);
        let is_aborted = self.plan.is_aborted(batch);
        let (base, map) = (batch.base_offset(), &self.map);
        let keep = |record: Record<'_>| {
            let offset = base.plus(i64::from(record.offset_delta));
            let Some(key) = record.key else { return false };
            let is_newest = map.get(key).is_none_or(|newest| newest <= offset);
            !is_aborted && is_newest && !(old && record.value.is_none())
        };
        let filtered = self.filter.filter_resting(batch, horizon, keep, &mut rest).await;
        let Ok(filtered) = filtered else {
            out.push(batch);
            return;
        };
        match filtered {
            Filtered::Whole => out.push(batch),
            Filtered::Part(part) => {
                assert_eq!(part.base_offset(), batch.base_offset(), "offsets never change");
                assert_eq!(part.last_offset(), batch.last_offset(), "offsets never change");
                out.push(part);
            }
            Filtered::Nothing => {
                let last = batch.last_offset();
                let producer = batch.producer().map(|producer| producer.id);
                let is_last =
                    producer.is_some_and(|id| self.plan.last_batches.get(&id) == Some(&last));
                let empty = self.filter.emptied(batch);
                assert_eq!(empty.last_offset(), last, "an empty batch keeps its place");
                if is_last {
                    out.push(empty);
                } else {
                    out.tail = Some((empty.bytes().to_vec(), None));
                }
                return;
            }
        }
        if batch.is_transactional() {
            self.with_data.extend(batch.producer().map(|producer| producer.id));
        }
    }

    /// A marker stays while records of its transaction are left, and a while longer, so that whoever
    /// has read some of them finds it.
    fn clean_marker(&mut self, batch: RecordBatch<'_>, out: &mut Output) {
        let Some(marker) = Marker::read(batch) else {
            out.push(batch);
            return;
        };
        let has_data = self.with_data.remove(&marker.producer.id);
        match batch.delete_horizon() {
            _ if has_data => out.push(batch),
            None => {
                let horizon = self.plan.now_ms.saturating_add(self.plan.delete_retention_ms);
                out.push(self.filter.with_horizon(batch, horizon).unwrap_or(batch));
            }
            Some(at) if at > self.plan.now_ms => out.push(batch),
            Some(_) => out.tail = Some((batch.bytes().to_vec(), Some(batch.last_offset()))),
        }
    }
}

impl CompactionPlan<'_> {
    /// Lets everything else have its turn: a turn of the ring, not only of the tasks that are ready.
    async fn take_turn(&self) {
        match (self.rest)() {
            Duration::ZERO => timer::next_turn().await,
            rest => timer::sleep(rest).await,
        }
    }

    /// The same inside a batch, if the slice is over: of few bytes there can be millions of records.
    async fn end_slice(&self, slice: &mut Slice) {
        if slice.is_over() {
            self.take_turn().await;
            *slice = Slice::begin();
        }
    }

    fn is_aborted(&self, batch: RecordBatch<'_>) -> bool {
        let Some(producer) = batch.producer().filter(|_| batch.is_transactional()) else {
            return false;
        };
        let base = batch.base_offset();
        // By marker: the first one of this producer behind the batch is the only one that can hold it.
        let from = self.aborted.partition_point(|span| span.last < base);
        let own = self.aborted[from..].iter().find(|span| span.producer == producer.id);
        own.is_some_and(|span| span.first <= base)
    }
}

/// Keeps a log from being cut.
struct Compacting<'a>(&'a Log);

impl Drop for Compacting<'_> {
    fn drop(&mut self) {
        assert!(self.0.compacting.get(), "a compaction ends that was begun");
        self.0.compacting.set(false);
        self.0.idle.notify();
    }
}

/// Keeps a log from being compacted.
pub(super) struct Cutting<'a>(&'a Log);

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        assert!(self.0.cuts.get() > 0, "a cut ends that was begun");
        self.0.cuts.set(self.0.cuts.get() - 1);
        self.0.idle.notify();
    }
}

impl Log {
    /// Closed segments below `below` that were not written since `min_lag_ms`.
    fn sources(&self, below: Offset, now_ms: i64, min_lag_ms: i64) -> Vec<Source> {
        let candidates: Vec<Source> = {
            let state = self.state.borrow();
            let closed = state.written.segment.min(state.synced.segment);
            let bases = state.segments.iter().skip(1).map(|segment| segment.base);
            let source = |(segment, end): (&LogSegment, Offset)| Source {
                base: segment.base,
                compacted: segment.compacted,
                end,
                bytes: segment.end,
                appended_ms: segment.appended_ms,
            };
            state.segments[..closed].iter().zip(bases).map(source).collect()
        };
        let old_enough = |(index, source): &(usize, Source)| {
            min_lag_ms <= 0
                || source.compacted.is_some()
                || now_ms.saturating_sub(self.last_write_ms(*index)) >= min_lag_ms
        };
        candidates
            .into_iter()
            .enumerate()
            .take_while(|(index, source)| source.end <= below && old_enough(&(*index, *source)))
            .map(|(_, source)| source)
            .collect()
    }

    /// Up to where it was compacted.
    ///
    /// # Errors
    /// The disk's.
    async fn cleaned_to(&self) -> Result<Offset, StorageError> {
        if let Some(known) = self.cleaned_to.get() {
            return Ok(known);
        }
        let read = |bytes: Vec<u8>| {
            let (body, crc) = bytes.split_last_chunk::<4>()?;
            let offset = body.strip_prefix(CLEANED_MAGIC)?;
            let whole = u32::from_be_bytes(*crc) == crc32c::checksum(body);
            let offset = Offset(i64::from_be_bytes(offset.try_into().ok()?));
            // A repair may have cut the log.
            (whole && offset <= self.log_end()).then_some(offset)
        };
        // What is not known is compacted once more: that changes nothing.
        let stored = self.load_beside(CLEANED_FILE).await?.and_then(read).unwrap_or(Offset::ZERO);
        self.cleaned_to.set(Some(stored));
        Ok(stored)
    }

    /// How much of the log a compaction with these bounds could get at.
    ///
    /// # Errors
    /// The disk's.
    pub async fn dirt(
        &self,
        below: Offset,
        now_ms: i64,
        min_lag_ms: i64,
    ) -> Result<Dirt, StorageError> {
        let cleaned_to = self.cleaned_to().await?;
        let mut dirt = Dirt::default();
        for (index, source) in self.sources(below, now_ms, min_lag_ms).into_iter().enumerate() {
            if source.end <= cleaned_to {
                dirt.clean_bytes += u64::from(source.bytes);
            } else {
                dirt.dirty_bytes += u64::from(source.bytes);
                dirt.dirty_since_ms.get_or_insert(self.last_write_ms(index));
            }
        }
        Ok(dirt)
    }

    /// Compacts closed segments. `forget` is told of markers that are about to go: when it returns
    /// their transactions must be known to have ended, and forgotten if they were aborted, for good.
    ///
    /// # Errors
    /// The disk's, or damage that was met; the log is as it was or partly compacted, and whole.
    pub async fn compact(
        &self,
        plan: &CompactionPlan<'_>,
        forget: impl AsyncFn(&[Offset]) -> Result<(), StorageError>,
    ) -> Result<CompactionDone, StorageError> {
        let mut done =
            CompactionDone { cleaned_to: self.cleaned_to().await?, ..Default::default() };
        let Some(_compacting) = self.begin_compaction() else {
            done.stopped = true;
            return Ok(done);
        };
        let sources = self.sources(plan.below, plan.now_ms, plan.min_lag_ms);
        match self.compact_sources(plan, &sources, &forget, &mut done).await {
            Ok(()) => {}
            Err(Stop::GivenUp) => done.stopped = true,
            Err(Stop::Failed(_)) if self.is_deleted() => done.stopped = true,
            Err(Stop::Failed(error)) => return Err(error),
        }
        Ok(done)
    }

    async fn compact_sources(
        &self,
        plan: &CompactionPlan<'_>,
        sources: &[Source],
        forget: &impl AsyncFn(&[Offset]) -> Result<(), StorageError>,
        done: &mut CompactionDone,
    ) -> Result<(), Stop> {
        let Some(last) = sources.last() else { return Ok(()) };
        assert!(sources.windows(2).all(|pair| pair[0].end == pair[1].base), "sources are adjacent");
        assert!(last.end <= plan.below, "only what is decided is compacted");
        let from = done.cleaned_to.max(sources[0].base);
        let (map, end) = self.map_keys(plan, sources, from).await?;
        let filter = BatchFilter::default();
        let scratch = Vec::new();
        let mut cleaning = Cleaning { plan, map, end, filter, scratch, with_data: BTreeSet::new() };
        let mut output: Option<Output> = None;
        let segment_bytes = u64::from(self.settings().segment_bytes);
        for source in sources {
            if self.cuts.get() > 0 {
                output.into_iter().for_each(|out| drop(fs::remove_file(&out.path)));
                return Err(Stop::GivenUp);
            }
            if output.is_none() && source.end <= self.log_start() {
                // Deleted meanwhile.
                continue;
            }
            let fits = |out: &Output| {
                out.end() + u64::from(source.bytes) <= segment_bytes
                    && source.end.since(out.base) <= i64::from(i32::MAX)
            };
            if output.as_ref().is_some_and(|out| !fits(out)) {
                let full = output.take().expect("looked at just now");
                self.install(full, forget, done).await?;
            }
            let out = match &mut output {
                Some(out) => out,
                None => output.insert(self.begin_output(source)?),
            };
            if let Some((_, Some(marker))) = out.tail.take() {
                out.markers.push(marker);
            }
            out.sources.push(*source);
            if let Err(stop) = self.clean_source(&mut cleaning, *source, out).await {
                let _ = fs::remove_file(&out.path);
                return Err(stop);
            }
        }
        if let Some(out) = output {
            self.install(out, forget, done).await?;
        }
        // The keys of everything up to here were looked at; what does not fit is for the next time.
        assert!(from <= end, "keys are looked at from there on");
        done.cleaned_to = end.min(last.end);
        let mut bytes = CLEANED_MAGIC.to_vec();
        bytes.extend_from_slice(&done.cleaned_to.0.to_be_bytes());
        let crc = crc32c::checksum(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        self.store_beside(CLEANED_FILE, &bytes).await?;
        self.cleaned_to.set(Some(done.cleaned_to));
        Ok(())
    }

    /// Nothing is cut from the log until the guard is dropped; `None` while something is.
    fn begin_compaction(&self) -> Option<Compacting<'_>> {
        let may = self.cuts.get() == 0 && !self.compacting.replace(true);
        may.then(|| Compacting(self))
    }

    /// Waits until nothing is compacted and nothing deleted from its start; nothing will be until the guard is dropped.
    pub(super) async fn exclude_others(&self) -> Cutting<'_> {
        self.cuts.set(self.cuts.get() + 1);
        let cutting = Cutting(self);
        let is_alone = || !self.compacting.get() && self.deletes.get() == 0;
        self.idle.until(|| is_alone().then_some(())).await;
        assert!(self.cuts.get() > 0 && is_alone(), "one excludes the other");
        cutting
    }

    /// The first pass: the newest offset of each key from `from` on, as far as memory goes.
    async fn map_keys(
        &self,
        plan: &CompactionPlan<'_>,
        sources: &[Source],
        from: Offset,
    ) -> Result<(KeyMap, Offset), Stop> {
        let secret = (random::seed(), random::seed());
        let dirty: usize = sources.iter().filter(|s| s.end > from).map(|s| s.bytes as usize).sum();
        // No more than the keys there can be, unless they are compressed.
        assert!(sources.first().is_some_and(|first| first.base <= from), "keys of what there is");
        let mut map = KeyMap::new(plan.map_bytes.min(dirty.saturating_mul(2)), secret);
        let (mut end, mut scratch, mut slice) = (from, Vec::new(), Slice::begin());
        let mut pause = async || plan.end_slice(&mut slice).await;
        for source in sources.iter().filter(|source| source.end > from) {
            let mut scan = Scan::of(*source);
            while let Some(bytes) = self.next_window(&mut scan, plan).await? {
                let mut rest = &bytes[..];
                while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                    self.check(batch, &mut scan)?;
                    // What cannot be read, as its client sent it, has no keys and stays as it is.
                    let counts = batch.last_offset() >= from
                        && !batch.is_control()
                        && !plan.is_aborted(batch);
                    if counts
                        && let Some(records) =
                            batch.readable_resting(&mut scratch, &mut pause).await
                    {
                        for (number, record) in records.map_while(Result::ok).enumerate() {
                            if number % RECORDS_A_LOOK == RECORDS_A_LOOK - 1 {
                                pause().await;
                            }
                            let offset = batch.base_offset().plus(i64::from(record.offset_delta));
                            let Some(key) = record.key.filter(|_| offset >= from) else { continue };
                            if map.room() == 0 {
                                // This batch is for the next time; that its first keys are noted
                                // changes nothing: their records stay. One batch must fit, though.
                                if end > from {
                                    return Ok((map, end));
                                }
                                map.grow();
                            }
                            map.insert(key, offset);
                        }
                    }
                    scan.position += batch.bytes().len() as u32;
                    self.take_turns(&mut scan, plan).await;
                    end = end.max(batch.last_offset().plus(1));
                    rest = tail;
                }
            }
            end = end.max(source.end);
        }
        Ok((map, end))
    }

    /// The second pass over one segment.
    async fn clean_source(
        &self,
        cleaning: &mut Cleaning<'_>,
        source: Source,
        out: &mut Output,
    ) -> Result<(), Stop> {
        let mut scan = Scan::of(source);
        while let Some(bytes) = self.next_window(&mut scan, cleaning.plan).await? {
            let mut rest = &bytes[..];
            while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                self.check(batch, &mut scan)?;
                if let Some((_, Some(marker))) = &out.tail {
                    out.markers.push(*marker);
                }
                cleaning.clean(batch, out).await;
                scan.position += batch.bytes().len() as u32;
                self.take_turns(&mut scan, cleaning.plan).await;
                rest = tail;
            }
            out.write(false).await?;
        }
        Ok(())
    }

    /// What was rotten before must not look whole after.
    fn check(&self, batch: RecordBatch<'_>, scan: &mut Scan) -> Result<(), Stop> {
        let (base, last) = (batch.base_offset(), batch.last_offset());
        let follows = base == scan.next || scan.source.compacted.is_some() && base > scan.next;
        let fits = follows && base <= last && last < scan.source.end;
        if !fits || !batch.crc_matches() {
            return Err(self.damaged_source(scan).into());
        }
        scan.next = last.plus(1);
        Ok(())
    }

    fn damaged_source(&self, scan: &Scan) -> StorageError {
        let mut segment = LogSegment::new(scan.source.base);
        segment.compacted = scan.source.compacted;
        StorageError::Corrupt {
            path: segment.log_path(&self.dir),
            position: u64::from(scan.position),
            what: "not the batch that belongs here",
        }
    }

    /// The next whole batches of a segment; `None` at its end.
    async fn next_window(
        &self,
        scan: &mut Scan,
        plan: &CompactionPlan<'_>,
    ) -> Result<Option<SharedBytes>, Stop> {
        if (plan.stops)() {
            return Err(Stop::GivenUp);
        }
        assert!(scan.position <= scan.source.bytes, "a scan ends with its segment");
        let left = (scan.source.bytes - scan.position) as usize;
        if left == 0 {
            // Files of closed segments stay open only as long as they are of use.
            if let Some(index) = self.index_of(scan.source) {
                self.state.borrow_mut().segments[index].file = None;
            }
            return Ok(None);
        }
        loop {
            let reading = Reading::begin(self).await;
            let index = self.index_of(scan.source).ok_or(Stop::GivenUp)?;
            let bytes = self.read_window(index, scan.position, scan.window.min(left)).await?;
            drop(reading);
            let first = RecordBatch::total_bytes(&bytes).unwrap_or(0);
            if (1..=bytes.len()).contains(&first) {
                if RecordBatch::split_first(&bytes).is_err() {
                    return Err(self.damaged_source(scan).into());
                }
                scan.window = WINDOW_BYTES;
                return Ok(Some(bytes));
            }
            if scan.window >= left {
                return Err(self.damaged_source(scan).into());
            }
            scan.window = (scan.window * 2).max(first);
        }
    }

    /// Lets everything else have its turn, if it is time.
    async fn take_turns(&self, scan: &mut Scan, plan: &CompactionPlan<'_>) {
        if scan.position >= scan.turn_at {
            scan.turn_at = scan.position + SLICE_BYTES;
            plan.take_turn().await;
        }
    }

    /// Where a segment is, if it is still there as it was.
    fn index_of(&self, source: Source) -> Option<usize> {
        let state = self.state.borrow();
        let index = state.segments.binary_search_by_key(&source.base, |s| s.base).ok()?;
        (state.segments[index].compacted == source.compacted).then_some(index)
    }

    fn begin_output(&self, source: &Source) -> Result<Output, StorageError> {
        let mut segment = LogSegment::new(source.base);
        segment.compacted = source.compacted;
        let path = segment.log_path(&self.dir).with_added_extension(UNFINISHED);
        let file = open_file(&path, self.home.direct, true)?;
        file.set_len(0).map_err(|error| StorageError::of(&path, "truncate", &error))?;
        assert!(self.compacting.get(), "one compaction at a time");
        Ok(Output {
            base: source.base,
            path,
            file,
            buffer: Vec::new(),
            written: 0,
            allocated: 0,
            index: SegmentIndex::new(),
            sources: Vec::new(),
            tail: None,
            markers: Vec::new(),
        })
    }

    /// Puts a segment in the place of those it was made from.
    async fn install(
        &self,
        mut out: Output,
        forget: &impl AsyncFn(&[Offset]) -> Result<(), StorageError>,
        done: &mut CompactionDone,
    ) -> Result<(), Stop> {
        // Every segment ends with a batch that says so, else what follows would seem to be missing.
        if let Some((bytes, _)) = out.tail.take() {
            let (batch, _) = RecordBatch::split_first(&bytes).expect("a batch was put there");
            out.push(batch);
        }
        let last = *out.sources.last().expect("an output has a source");
        let generations = out.sources.iter().filter_map(|s| s.compacted).map(|c| c.generation);
        let compacted = Compacted { end: last.end, generation: generations.max().unwrap_or(0) + 1 };
        let mut segment = LogSegment::new(out.base);
        segment.compacted = Some(compacted);
        let path = segment.log_path(&self.dir);
        let stored = self.store_output(&mut out, &segment, forget).await;
        if let Err(stop) = stored {
            let _ = fs::remove_file(&out.path);
            let _ = fs::remove_file(&segment.index_path(&self.dir));
            return Err(stop);
        }
        let bytes = out.end();
        assert!(out.buffer.is_empty() && out.tail.is_none(), "all of it is written");
        assert!(out.base < last.end, "a segment stands for something");
        segment.end = bytes as u32;
        segment.allocated = bytes;
        segment.boundary = segment.end;
        segment.began_ms = 0;
        segment.appended_ms = out.sources.iter().filter_map(|source| source.appended_ms).max();
        segment.index_length = Some(segment.end);
        segment.index = Some(out.index);
        done.bytes_before += out.sources.iter().map(|s| u64::from(s.bytes)).sum::<u64>();
        done.bytes_after += bytes;
        let Some(replaced) = self.replace(&out.sources, segment).await else {
            // Someone deleted records meanwhile: what they kept counts.
            let _ = fs::remove_file(&path);
            return Err(Stop::GivenUp);
        };
        for segment in replaced {
            for path in [segment.index_path(&self.dir), segment.log_path(&self.dir)] {
                // What stays is removed at the next start.
                let _ = fs::remove_large_file(&path).await;
            }
            segment.slabs.into_iter().for_each(|slab| self.home.cache.retire(slab.writer));
        }
        Ok(())
    }

    /// Makes a segment durable under its name.
    async fn store_output(
        &self,
        out: &mut Output,
        segment: &LogSegment,
        forget: &impl AsyncFn(&[Offset]) -> Result<(), StorageError>,
    ) -> Result<(), Stop> {
        out.write(true).await?;
        let failed = |what| {
            let path = out.path.clone();
            move |error: std::io::Error| StorageError::of(&path, what, &error)
        };
        out.file.set_len(out.written).map_err(failed("truncate"))?;
        out.file.sync(false).await.map_err(failed("fsync"))?;
        let index_path = segment.index_path(&self.dir);
        let stored = fs::replace(&index_path, &out.index.encode(out.written)).await;
        stored.map_err(|error| StorageError::of(&index_path, "replace", &error))?;
        if !out.markers.is_empty() {
            // Before the markers go: else a later transaction of the same producer would seem
            // aborted to its readers, or a start would take one for open that has ended.
            forget(&out.markers).await?;
        }
        // The journal must know, durably, that what is replaced is closed: a start must not look
        // for it, nor put journaled bytes there.
        if let Some(journal) = &self.home.journal {
            match journal.append(self.synced_entry(), &mut Vec::new()).await {
                Journaled::Durable => {}
                Journaled::NoRoom => return Err(Stop::GivenUp),
                Journaled::Failed(error) => return Err(error.into()),
            }
        }
        let path = segment.log_path(&self.dir);
        fs::rename(&out.path, &path).map_err(failed("rename"))?;
        if let Err(error) = fs::sync_dir(&self.dir).await {
            let failure = StorageError::of(&self.dir, "sync", &error);
            if !self.is_deleted() {
                // Which of them counts after a stop is not known any more.
                self.state.borrow_mut().offline = true;
                self.home.health.set_offline(&failure);
            }
            return Err(failure.into());
        }
        Ok(())
    }

    /// Takes segments out of the list and puts another in their place; `None` if they are not there
    /// any more.
    async fn replace(&self, sources: &[Source], segment: LogSegment) -> Option<Vec<LogSegment>> {
        self.begin_removing().await;
        let first = self.index_of(sources[0]);
        let is_there = |first: &usize| {
            let at = |(n, source): (usize, &Source)| self.index_of(*source) == Some(first + n);
            sources.iter().enumerate().all(at)
        };
        let replaced = first.filter(is_there).map(|first| {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let range = first..first + sources.len();
            let replaced: Vec<LogSegment> = state.segments.splice(range, [segment]).collect();
            let fewer = replaced.len() - 1;
            let shift = |reached: &mut Reached| reached.segment -= fewer;
            shift(&mut state.written);
            shift(&mut state.synced);
            // Of use only beyond what is synced.
            state.journaled.segment = state.journaled.segment.saturating_sub(fewer);
            self.count_slabs(state);
            replaced
        });
        self.state.borrow_mut().removing -= 1;
        let _ = self.end_flush(Ok(()));
        replaced
    }
}
