//! What a partition knows of its producers: the last batches of each, for exact de-duplication, and
//! the transactions that are open or aborted (KIP-98, KIP-360, KIP-890).
//!
//! Everything here follows from the batches of the log in their order: `on_batch` is called for each,
//! when it is appended and when the log is read at a start.

use model::limits::PRODUCERS_PER_PARTITION_MAX;
use model::{ErrorCode, Marker, Offset, Producer, ProducerId, RecordBatch};
use std::collections::{BTreeMap, VecDeque};

/// Batches remembered per producer: clients have at most five requests in flight.
const BATCHES_KEPT: usize = 5;

/// Questions to coordinators under way; more are asked again.
const PROOFS_MAX: usize = 10_000;
const PROOF_MS: i64 = 60_000;

/// What is to be done with a produced batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It continues what its producer sent: append it.
    New,
    /// It is in the log already, there: answer as the first time.
    Duplicate(KnownBatch),
}

/// A batch that is in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownBatch {
    /// Sequence number of its first record.
    pub base_sequence: i32,
    /// Sequence number of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// The broker's own stamp on it, -1 if there is none.
    pub append_time: i64,
}

/// An aborted transaction, as readers are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose.
    pub producer: ProducerId,
    /// Its first record.
    pub first: Offset,
    /// Its marker.
    pub last: Offset,
}

/// A producer, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownProducer {
    /// Its id and latest epoch.
    pub producer: Producer,
    /// Sequence number of its last record, -1 if unknown.
    pub last_sequence: i32,
    /// When it last wrote, ms since the Unix epoch.
    pub last_ms: i64,
    /// The epoch of the coordinator that last ended a transaction of its, -1 if none did.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub open_since: Option<Offset>,
}

/// Says that the coordinator was asked about a producer's transaction, and no marker came since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    epoch: i16,
    coordinator_epoch: i32,
    last_ms: i64,
    /// The oldest first; the first `kept` count.
    batches: [KnownBatch; BATCHES_KEPT],
    kept: u8,
    open_since: Option<Offset>,
}

impl Entry {
    fn new(epoch: i16) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            last_ms: 0,
            batches: [KnownBatch::default(); BATCHES_KEPT],
            kept: 0,
            open_since: None,
        }
    }

    fn batches(&self) -> &[KnownBatch] {
        &self.batches[..usize::from(self.kept)]
    }

    fn move_to(&mut self, epoch: i16) {
        if epoch > self.epoch {
            self.epoch = epoch;
            (self.batches, self.kept) = ([KnownBatch::default(); BATCHES_KEPT], 0);
        }
        assert!(self.epoch >= epoch, "epochs go forward");
    }

    fn push(&mut self, batch: KnownBatch) {
        if usize::from(self.kept) == BATCHES_KEPT {
            self.batches.copy_within(1.., 0);
            self.kept -= 1;
        }
        assert!(usize::from(self.kept) < BATCHES_KEPT, "there is room for one more");
        self.batches[usize::from(self.kept)] = batch;
        self.kept += 1;
        assert!(self.kept > 0, "the newest is the last");
    }

    /// Whether a batch that begins with `sequence` comes next.
    fn continues(&self, epoch: i16, sequence: i32) -> bool {
        let last = if epoch == self.epoch { self.batches().last() } else { None };
        sequence == last.map_or(0, |last| model::ids::sequence_after(last.last_sequence, 1))
    }
}

/// What an append changed, until it cannot be dropped any more.
#[derive(Debug)]
struct Undo {
    at: Offset,
    producer: ProducerId,
    before: Option<Entry>,
}

/// The producers of one partition.
///
/// Invariant: `open` holds exactly the `open_since` of all entries.
#[derive(Debug, Default)]
pub struct Producers {
    entries: BTreeMap<ProducerId, Entry>,
    /// Open transactions by their first offset.
    open: BTreeMap<Offset, ProducerId>,
    /// Ended transactions whose marker is not committed yet: first offset to marker.
    ending: BTreeMap<Offset, Offset>,
    /// By marker, ascending.
    aborted: Vec<Aborted>,
    /// Who asks its coordinator just now, and since when.
    proofs: BTreeMap<ProducerId, (Proof, i64)>,
    next_proof: u64,
    undo: VecDeque<Undo>,
    changes: u64,
}

impl Producers {
    /// What is to be done with a produced batch; `proof` is what the coordinator's word was asked
    /// with, if it was.
    ///
    /// # Errors
    /// `InvalidProducerEpoch`, `OutOfOrderSequenceNumber`, `InvalidTxnState`.
    pub fn admit(
        &self,
        batch: RecordBatch<'_>,
        proof: Option<Proof>,
    ) -> Result<Admission, ErrorCode> {
        let Some(Producer { id, epoch }) = batch.producer() else { return Ok(Admission::New) };
        let entry = self.entries.get(&id);
        let sequence = batch.base_sequence();
        if let Some(entry) = entry {
            if epoch < entry.epoch {
                return Err(ErrorCode::InvalidProducerEpoch);
            }
            let last_sequence = batch.last_sequence();
            let same = |known: &&KnownBatch| {
                (known.base_sequence, known.last_sequence) == (sequence, last_sequence)
            };
            if epoch == entry.epoch
                && sequence >= 0
                && let Some(known) = entry.batches().iter().find(same)
            {
                return Ok(Admission::Duplicate(*known));
            }
        }
        if batch.is_transactional() {
            self.admit_transactional(Producer { id, epoch }, proof)?;
        } else if entry.is_some_and(|entry| entry.open_since.is_some()) {
            return Err(ErrorCode::InvalidTxnState);
        }
        if sequence >= 0 && entry.is_some_and(|entry| !entry.continues(epoch, sequence)) {
            return Err(ErrorCode::OutOfOrderSequenceNumber);
        }
        Ok(Admission::New)
    }

    /// Whether this producer may write to its transaction here: it has one open, or `proof` shows
    /// that its coordinator has taken this partition in.
    ///
    /// # Errors
    /// `InvalidProducerEpoch`, `InvalidTxnState`.
    pub fn admit_transactional(
        &self,
        producer: Producer,
        proof: Option<Proof>,
    ) -> Result<(), ErrorCode> {
        let entry = self.entries.get(&producer.id);
        if entry.is_some_and(|entry| producer.epoch < entry.epoch) {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        match entry.and_then(|entry| entry.open_since.map(|_| entry.epoch)) {
            Some(open_as) if open_as == producer.epoch => Ok(()),
            None if proof.is_some() && proof == self.proof_of(producer.id) => Ok(()),
            _ => Err(ErrorCode::InvalidTxnState),
        }
    }

    fn proof_of(&self, id: ProducerId) -> Option<Proof> {
        self.proofs.get(&id).map(|(proof, _)| *proof)
    }

    /// Whether this producer has a transaction open here.
    #[must_use]
    pub fn is_open(&self, producer: Producer) -> bool {
        let entry = self.entries.get(&producer.id);
        entry.is_some_and(|entry| entry.epoch == producer.epoch && entry.open_since.is_some())
    }

    /// The coordinator is about to be asked whether a transaction of this producer takes the
    /// partition in. A marker that comes before the answer makes the answer worth nothing.
    pub fn begin_proof(&mut self, id: ProducerId, now_ms: i64) -> Proof {
        if self.proofs.len() >= PROOFS_MAX {
            // Ids cost a client nothing: whoever waits for so long has gone.
            self.proofs.retain(|_, (_, since)| now_ms.saturating_sub(*since) < PROOF_MS);
            if self.proofs.len() >= PROOFS_MAX {
                self.proofs.clear();
            }
        }
        let next = Proof(self.next_proof);
        let (proof, _) = *self.proofs.entry(id).or_insert((next, now_ms));
        self.next_proof += u64::from(proof == next);
        assert!(self.proofs.len() <= PROOFS_MAX, "proofs are bounded");
        assert!(proof.0 < self.next_proof, "a proof is never begun twice");
        proof
    }

    /// Whether the coordinator of a marker may still write it.
    ///
    /// # Errors
    /// `InvalidProducerEpoch`, `TransactionCoordinatorFenced`.
    pub fn check_marker(&self, marker: &Marker) -> Result<(), ErrorCode> {
        let Some(entry) = self.entries.get(&marker.producer.id) else { return Ok(()) };
        if marker.producer.epoch < entry.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if marker.coordinator_epoch < entry.coordinator_epoch {
            return Err(ErrorCode::TransactionCoordinatorFenced);
        }
        Ok(())
    }

    /// A marker that an operator writes: it is no coordinator's, and must not keep the real one out.
    #[must_use]
    pub fn by_operator(&self, marker: Marker) -> Marker {
        let known = self.entries.get(&marker.producer.id).map_or(-1, |e| e.coordinator_epoch);
        Marker { coordinator_epoch: marker.coordinator_epoch.min(known), ..marker }
    }

    /// A batch is in the log at `base`. Batches come in the log's order.
    pub fn on_batch(&mut self, batch: RecordBatch<'_>, base: Offset, now_ms: i64) {
        let Some(Producer { id, epoch }) = batch.producer() else { return };
        let marker = Marker::read(batch);
        if batch.is_control() && marker.is_none() {
            return;
        }
        self.make_room();
        self.changes += 1;
        let before = self.entries.get(&id).copied();
        let follows = self.undo.back().is_none_or(|undo| undo.at < base);
        assert!(follows, "batches come in the order of the log");
        self.undo.push_back(Undo { at: base, producer: id, before });
        let entry = self.entries.entry(id).or_insert_with(|| Entry::new(epoch));
        entry.move_to(epoch);
        entry.last_ms = now_ms;
        let last = base.plus(i64::from(batch.last_offset_delta()));
        if let Some(marker) = marker {
            entry.coordinator_epoch = entry.coordinator_epoch.max(marker.coordinator_epoch);
            self.proofs.remove(&id);
            if let Some(first) = entry.open_since.take() {
                let opened = self.open.remove(&first);
                assert_eq!(opened, Some(id), "a transaction that ends is known as open");
                self.ending.insert(first, last);
                if !marker.commit {
                    self.aborted.push(Aborted { producer: id, first, last });
                }
            }
            return;
        }
        if batch.base_sequence() >= 0 {
            let append_time = if batch.is_log_append_time() { batch.max_timestamp() } else { -1 };
            entry.push(KnownBatch {
                base_sequence: batch.base_sequence(),
                last_sequence: batch.last_sequence(),
                base,
                last,
                append_time,
            });
        }
        if batch.is_transactional() && entry.open_since.is_none() {
            entry.open_since = Some(base);
            let before = self.open.insert(base, id);
            assert!(before.is_none(), "one transaction begins at an offset");
            self.proofs.remove(&id);
        }
    }

    /// Everything below is in the log to stay.
    pub fn on_written(&mut self, written: Offset) {
        while self.undo.front().is_some_and(|undo| undo.at < written) {
            self.undo.pop_front();
        }
    }

    /// The HighWatermark moved: transactions that ended below it have ended for readers too.
    pub fn on_high_watermark(&mut self, high_watermark: Offset) {
        self.ending.retain(|_, marker| *marker >= high_watermark);
    }

    /// What was appended from `end` on was dropped because the disk refused it.
    pub fn on_dropped(&mut self, end: Offset) {
        while self.undo.back().is_some_and(|undo| undo.at >= end) {
            let Undo { producer, before, .. } = self.undo.pop_back().expect("looked at above");
            self.changes += 1;
            let after = match before {
                Some(before) => self.entries.insert(producer, before),
                None => self.entries.remove(&producer),
            };
            let since = |entry: Option<Entry>| entry.and_then(|entry| entry.open_since);
            since(after).map(|first| self.open.remove(&first));
            since(before).map(|first| self.open.insert(first, producer));
        }
        self.ending.retain(|_, marker| *marker < end);
        let kept = self.aborted.partition_point(|aborted| aborted.last < end);
        self.aborted.truncate(kept);
        assert!(
            self.undo.back().is_none_or(|undo| undo.at < end),
            "nothing behind the end is known"
        );
        assert!(self.open.keys().next_back().is_none_or(|first| *first < end), "nor open");
    }

    /// First offset that readers of committed records may not see yet (KIP-98).
    #[must_use]
    pub fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        assert!(self.open.len() <= self.entries.len(), "what is open is a producer's");
        let open = self.open.keys().next().copied();
        let ending = self.ending.keys().next().copied();
        open.into_iter().chain(ending).fold(high_watermark, Offset::min)
    }

    /// The aborted transactions that have records or their marker in `from..to`.
    pub fn aborted(&self, from: Offset, to: Offset) -> impl Iterator<Item = Aborted> + '_ {
        let at = self.aborted.partition_point(|aborted| aborted.last < from);
        self.aborted[at..].iter().filter(move |aborted| aborted.first < to).copied()
    }

    /// Whether no transaction was ever aborted, as far as is known here.
    #[must_use]
    pub fn none_aborted(&self) -> bool {
        self.aborted.is_empty()
    }

    /// Forgets aborted transactions of which no record is left: those with these markers.
    pub fn forget_aborted(&mut self, markers: &[Offset]) {
        let before = self.aborted.len();
        self.aborted.retain(|aborted| !markers.contains(&aborted.last));
        self.changes += u64::from(self.aborted.len() != before);
    }

    /// As `on_log_start`, when what came between a snapshot and there is not known: it says nothing of
    /// producers any more.
    pub fn on_log_start_unread(&mut self, log_start: Offset) {
        self.entries.clear();
        self.open.clear();
        self.on_log_start(log_start);
    }

    /// Batches could not be read: what is known of producers may be older than what they wrote since.
    pub fn on_unread(&mut self) {
        self.entries.clear();
        self.open.clear();
        self.changes += 1;
    }

    /// Records below were deleted.
    pub fn on_log_start(&mut self, log_start: Offset) {
        let gone = self.aborted.partition_point(|aborted| aborted.last < log_start);
        self.changes += u64::from(gone > 0);
        self.aborted.drain(..gone);
    }

    /// Forgets producers that have not written since `before_ms` and have no transaction open.
    pub fn expire(&mut self, before_ms: i64) {
        self.proofs.retain(|_, (_, since)| *since >= before_ms);
        if self.undo.is_empty() {
            let known = self.entries.len();
            self.entries.retain(|_, e| e.open_since.is_some() || e.last_ms >= before_ms);
            self.changes += u64::from(self.entries.len() != known);
        }
    }

    /// Ids cost a client nothing: of too many those go that have been idle longest.
    fn make_room(&mut self) {
        if self.entries.len() < PRODUCERS_PER_PARTITION_MAX {
            return;
        }
        let mut times: Vec<i64> = self.entries.values().map(|entry| entry.last_ms).collect();
        let quarter = times.len() / 4;
        let (_, limit, _) = times.select_nth_unstable(quarter);
        let (limit, mut left) = (*limit, quarter);
        let undone: Vec<ProducerId> = self.undo.iter().map(|undo| undo.producer).collect();
        self.entries.retain(|id, entry| {
            let goes = left > 0
                && entry.last_ms <= limit
                && entry.open_since.is_none()
                && !undone.contains(id);
            left -= usize::from(goes);
            !goes
        });
        assert!(self.open.len() <= self.entries.len(), "what is open is a producer's");
    }

    /// How often anything changed: whether a snapshot would say something new.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Every producer known.
    pub fn iter(&self) -> impl Iterator<Item = ShownProducer> + '_ {
        self.entries.iter().map(|(id, entry)| ShownProducer {
            producer: Producer { id: *id, epoch: entry.epoch },
            last_sequence: entry.batches().last().map_or(-1, |last| last.last_sequence),
            last_ms: entry.last_ms,
            coordinator_epoch: entry.coordinator_epoch,
            open_since: entry.open_since,
        })
    }

    /// The last batch of each producer: compaction must not take it.
    pub fn last_batches(&self) -> impl Iterator<Item = (ProducerId, Offset)> + '_ {
        let last = |entry: &Entry| entry.batches().last().map(|last| last.last);
        self.entries.iter().filter_map(move |(id, entry)| Some((*id, last(entry)?)))
    }
}

/// The bytes of a snapshot, see `FORMAT.md`.
mod snapshot {
    use super::{Aborted, Entry, KnownBatch, Producers};
    use model::{Offset, ProducerId, crc32c};

    const MAGIC: &[u8; 8] = b"WEIRPROD";

    impl Producers {
        /// What is known after all batches below `end`.
        #[must_use]
        pub fn encode(&self, end: Offset) -> Vec<u8> {
            let mut out = MAGIC.to_vec();
            out.extend_from_slice(&end.0.to_be_bytes());
            out.extend_from_slice(&(self.entries.len() as u32).to_be_bytes());
            for (id, entry) in &self.entries {
                out.extend_from_slice(&id.0.to_be_bytes());
                out.extend_from_slice(&entry.epoch.to_be_bytes());
                out.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
                out.extend_from_slice(&entry.last_ms.to_be_bytes());
                out.extend_from_slice(&entry.open_since.map_or(-1, |at| at.0).to_be_bytes());
                out.push(entry.kept);
                for batch in entry.batches() {
                    out.extend_from_slice(&batch.base_sequence.to_be_bytes());
                    out.extend_from_slice(&batch.last_sequence.to_be_bytes());
                    out.extend_from_slice(&batch.base.0.to_be_bytes());
                    out.extend_from_slice(&batch.last.0.to_be_bytes());
                    out.extend_from_slice(&batch.append_time.to_be_bytes());
                }
            }
            out.extend_from_slice(&(self.aborted.len() as u32).to_be_bytes());
            for aborted in &self.aborted {
                for number in [aborted.producer.0, aborted.first.0, aborted.last.0] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
            }
            let crc = crc32c::checksum(&out);
            out.extend_from_slice(&crc.to_be_bytes());
            out
        }

        /// Reads what `encode` wrote, and the offset it goes up to; `None` if it is damaged.
        #[must_use]
        pub fn decode(bytes: &[u8]) -> Option<(Self, Offset)> {
            let (body, crc) = bytes.split_last_chunk::<4>()?;
            if u32::from_be_bytes(*crc) != crc32c::checksum(body) {
                return None;
            }
            let mut rest = body.strip_prefix(MAGIC)?;
            let end = Offset(take(&mut rest).map(i64::from_be_bytes)?);
            let mut producers = Self::default();
            for _ in 0..take(&mut rest).map(u32::from_be_bytes)? {
                let id = ProducerId(take(&mut rest).map(i64::from_be_bytes)?);
                let mut entry = Entry::new(take(&mut rest).map(i16::from_be_bytes)?);
                entry.coordinator_epoch = take(&mut rest).map(i32::from_be_bytes)?;
                entry.last_ms = take(&mut rest).map(i64::from_be_bytes)?;
                let open = take(&mut rest).map(i64::from_be_bytes)?;
                entry.open_since = (open >= 0).then_some(Offset(open));
                let [kept] = take(&mut rest)?;
                for _ in 0..kept {
                    entry.push(KnownBatch {
                        base_sequence: take(&mut rest).map(i32::from_be_bytes)?,
                        last_sequence: take(&mut rest).map(i32::from_be_bytes)?,
                        base: Offset(take(&mut rest).map(i64::from_be_bytes)?),
                        last: Offset(take(&mut rest).map(i64::from_be_bytes)?),
                        append_time: take(&mut rest).map(i64::from_be_bytes)?,
                    });
                }
                // One transaction begins at an offset, and no record of it lies behind what this tells of.
                if let Some(at) = entry.open_since
                    && (at >= end || producers.open.insert(at, id).is_some())
                {
                    return None;
                }
                if producers.entries.insert(id, entry).is_some() {
                    return None;
                }
            }
            for _ in 0..take(&mut rest).map(u32::from_be_bytes)? {
                producers.aborted.push(Aborted {
                    producer: ProducerId(take(&mut rest).map(i64::from_be_bytes)?),
                    first: Offset(take(&mut rest).map(i64::from_be_bytes)?),
                    last: Offset(take(&mut rest).map(i64::from_be_bytes)?),
                });
            }
            rest.is_empty().then_some((producers, end))
        }
    }

    fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (taken, after) = rest.split_first_chunk::<N>()?;
        *rest = after;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{BatchBuilder, Compression};

    const NOW: i64 = 1_000;

    /// A log of batches, and what follows from it.
    #[derive(Default)]
    struct Rig {
        producers: Producers,
        end: Offset,
    }

    fn produced(id: i64, epoch: i16, sequence: i32, records: i32, transactional: bool) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        builder.begin(NOW);
        builder.set_producer(Producer { id: ProducerId(id), epoch }, sequence, transactional);
        (0..records).for_each(|_| builder.push(NOW, Some(b"k"), Some(b"v"), &[]));
        builder.finish(Compression::None).to_vec()
    }

    impl Rig {
        fn append(&mut self, bytes: &[u8], proof: Option<Proof>) -> Result<Admission, ErrorCode> {
            let (batch, _) = RecordBatch::split_first(bytes).unwrap();
            let admission = self.producers.admit(batch, proof)?;
            if admission == Admission::New {
                self.force(batch);
            }
            Ok(admission)
        }

        fn force(&mut self, batch: RecordBatch<'_>) {
            self.producers.on_batch(batch, self.end, NOW);
            self.end = self.end.plus(i64::from(batch.last_offset_delta()) + 1);
        }

        fn plain(&mut self, epoch: i16, sequence: i32) -> Result<Admission, ErrorCode> {
            self.append(&produced(7, epoch, sequence, 10, false), None)
        }

        fn begin(&mut self, id: i64, epoch: i16, sequence: i32) -> Result<Admission, ErrorCode> {
            let proof = self.producers.begin_proof(ProducerId(id), NOW);
            self.append(&produced(id, epoch, sequence, 10, true), Some(proof))
        }

        fn mark(&mut self, id: i64, epoch: i16, commit: bool) -> Result<(), ErrorCode> {
            let producer = Producer { id: ProducerId(id), epoch };
            let marker = Marker { producer, commit, coordinator_epoch: 3 };
            self.producers.check_marker(&marker)?;
            let mut builder = BatchBuilder::default();
            self.force(marker.put(&mut builder, NOW));
            Ok(())
        }

        fn stable(&self) -> i64 {
            self.producers.last_stable_offset(self.end).0
        }

        fn aborted(&self, from: i64, to: i64) -> Vec<(i64, i64)> {
            let found = self.producers.aborted(Offset(from), Offset(to));
            found.map(|aborted| (aborted.producer.0, aborted.first.0)).collect()
        }
    }

    #[test]
    fn exactly_the_last_five_batches_are_known_again() {
        let mut rig = Rig::default();
        for n in 0..6 {
            assert_eq!(rig.plain(0, n * 10), Ok(Admission::New));
        }
        for n in 1..6 {
            let Ok(Admission::Duplicate(known)) = rig.plain(0, n * 10) else { panic!("{n}") };
            assert_eq!((known.base.0, known.last.0), (i64::from(n) * 10, i64::from(n) * 10 + 9));
        }
        assert_eq!(rig.plain(0, 0), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(rig.plain(0, 70), Err(ErrorCode::OutOfOrderSequenceNumber));
        // The same first number with another count is no duplicate.
        let other = produced(7, 0, 50, 9, false);
        assert_eq!(rig.append(&other, None), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(rig.plain(0, 60), Ok(Admission::New));
    }

    #[test]
    fn sequences_wrap_and_epochs_begin_anew() {
        let mut rig = Rig::default();
        // Nothing is known of it: any number does.
        assert_eq!(rig.plain(3, i32::MAX - 9), Ok(Admission::New));
        assert_eq!(rig.plain(3, 0), Ok(Admission::New));
        assert_eq!(rig.plain(2, 10), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(rig.plain(4, 10), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(rig.plain(4, 0), Ok(Admission::New));
        // What an older epoch wrote is no duplicate of the newer one's.
        assert_eq!(rig.plain(3, 0), Err(ErrorCode::InvalidProducerEpoch));
    }

    #[test]
    fn a_transaction_needs_the_coordinators_word_and_one_before_a_marker_is_void() {
        let mut rig = Rig::default();
        let batch = produced(7, 0, 0, 10, true);
        assert_eq!(rig.append(&batch, None), Err(ErrorCode::InvalidTxnState));
        let early = rig.producers.begin_proof(ProducerId(7), NOW);
        rig.mark(7, 0, false).unwrap();
        assert_eq!(rig.append(&batch, Some(early)), Err(ErrorCode::InvalidTxnState));
        assert_eq!(rig.begin(7, 0, 0), Ok(Admission::New));
        // Open: no proof is needed, and nothing outside the transaction comes in.
        assert_eq!(rig.append(&produced(7, 0, 10, 10, true), None), Ok(Admission::New));
        assert_eq!(rig.plain(0, 20), Err(ErrorCode::InvalidTxnState));
        assert_eq!(rig.append(&produced(7, 1, 0, 1, true), None), Err(ErrorCode::InvalidTxnState));
        // The marker of KIP-890 has a newer epoch: what is late is a zombie's.
        rig.mark(7, 1, true).unwrap();
        assert_eq!(
            rig.append(&produced(7, 0, 20, 1, true), None),
            Err(ErrorCode::InvalidProducerEpoch)
        );
        assert_eq!(rig.mark(7, 0, true), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(rig.begin(7, 1, 5), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(rig.begin(7, 1, 0), Ok(Admission::New));
    }

    #[test]
    fn an_older_coordinator_may_not_write_markers() {
        let mut rig = Rig::default();
        rig.mark(7, 0, true).unwrap();
        let producer = Producer { id: ProducerId(7), epoch: 0 };
        let marker = Marker { producer, commit: true, coordinator_epoch: 2 };
        let fenced = rig.producers.check_marker(&marker);
        assert_eq!(fenced, Err(ErrorCode::TransactionCoordinatorFenced));
    }

    #[test]
    fn the_last_stable_offset_waits_for_the_first_open_transaction_and_for_its_marker() {
        let mut rig = Rig::default();
        rig.plain(0, 0).unwrap();
        rig.begin(1, 0, 0).unwrap();
        rig.begin(2, 0, 0).unwrap();
        assert_eq!(rig.stable(), 10);
        rig.mark(2, 0, true).unwrap();
        assert_eq!(rig.stable(), 10);
        rig.mark(1, 0, false).unwrap();
        // Both markers are appended, and neither is committed.
        assert_eq!(rig.stable(), 10);
        rig.producers.on_high_watermark(Offset(31));
        assert_eq!(rig.producers.last_stable_offset(Offset(31)), Offset(10));
        rig.producers.on_high_watermark(Offset(32));
        assert_eq!(rig.stable(), 32);
        assert_eq!(rig.aborted(0, 100), [(1, 10)]);
        assert_eq!(rig.aborted(31, 32), [(1, 10)]);
        assert_eq!((rig.aborted(32, 100), rig.aborted(0, 10)), (vec![], vec![]));
        rig.producers.on_log_start(Offset(32));
        assert!(rig.producers.none_aborted());
    }

    #[test]
    fn what_the_disk_refused_was_never_seen() {
        let mut rig = Rig::default();
        rig.plain(0, 0).unwrap();
        rig.begin(1, 0, 0).unwrap();
        rig.producers.on_written(Offset(20));
        let before = format!("{:?} {:?}", rig.producers.entries, rig.producers.open);
        rig.plain(0, 10).unwrap();
        rig.mark(1, 1, false).unwrap();
        rig.begin(3, 0, 0).unwrap();
        rig.producers.on_dropped(Offset(20));
        rig.end = Offset(20);
        assert_eq!(before, format!("{:?} {:?}", rig.producers.entries, rig.producers.open));
        assert_eq!((rig.stable(), rig.aborted(0, 100)), (10, vec![]));
        assert_eq!(rig.plain(0, 10), Ok(Admission::New));
    }

    #[test]
    fn a_snapshot_that_contradicts_itself_is_not_read() {
        let mut rig = Rig::default();
        rig.append(&produced(7, 0, 0, 1, false), None).unwrap();
        let bytes = rig.producers.encode(rig.end);
        // Magic, end and count; the producer; no aborted ones, and the checksum.
        let (head, rest) = bytes.split_at(20);
        let producer = &rest[..rest.len() - 8];
        let of = |producers: &[&[u8]]| {
            let mut out = head[..16].to_vec();
            out.extend_from_slice(&(producers.len() as u32).to_be_bytes());
            producers.iter().for_each(|producer| out.extend_from_slice(producer));
            out.extend_from_slice(&[0; 4]);
            let crc = model::crc32c::checksum(&out);
            out.extend_from_slice(&crc.to_be_bytes());
            Producers::decode(&out).is_some()
        };
        assert!(of(&[producer]));
        assert!(!of(&[producer, producer]), "a producer is there once");
        // The field before the count of its batches: where its open transaction began.
        let open = |id: u8, at: u8| {
            let mut open = producer.to_vec();
            open[7] = id;
            open[22..30].copy_from_slice(&u64::from(at).to_be_bytes());
            open
        };
        assert!(of(&[&open(7, 0)]));
        assert!(!of(&[&open(7, 0), &open(8, 0)]), "one transaction begins at an offset");
        assert!(!of(&[&open(7, 1)]), "none behind what it tells of");
    }

    #[test]
    fn a_snapshot_says_the_same_and_damage_is_seen() {
        let mut rig = Rig::default();
        rig.begin(1, 0, 0).unwrap();
        rig.mark(1, 1, false).unwrap();
        for n in 0..7 {
            rig.plain(0, n * 10).unwrap();
        }
        rig.begin(2, 5, 0).unwrap();
        let bytes = rig.producers.encode(rig.end);
        let (back, end) = Producers::decode(&bytes).unwrap();
        assert_eq!(end, rig.end);
        assert_eq!(back.entries, rig.producers.entries);
        assert_eq!((&back.open, &back.aborted), (&rig.producers.open, &rig.producers.aborted));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Producers::decode(&damaged).is_none(), "byte {at}");
            assert!(Producers::decode(&bytes[..at]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn what_was_deleted_unread_leaves_no_transaction_open() {
        let mut rig = Rig::default();
        rig.begin(1, 0, 0).unwrap();
        let (mut stale, _) = Producers::decode(&rig.producers.encode(rig.end)).unwrap();
        stale.on_log_start_unread(Offset(50));
        assert_eq!(stale.last_stable_offset(Offset(60)), Offset(60));
        assert_eq!(stale.iter().count(), 0);
    }

    #[test]
    fn questions_without_end_take_no_memory_without_end() {
        let mut producers = Producers::default();
        for id in 0..PROOFS_MAX as i64 * 3 {
            producers.begin_proof(ProducerId(id), NOW);
        }
        assert!(producers.proofs.len() <= PROOFS_MAX);
    }

    #[test]
    fn idle_producers_go_and_open_transactions_stay() {
        let mut rig = Rig::default();
        rig.begin(1, 0, 0).unwrap();
        rig.plain(0, 0).unwrap();
        rig.producers.on_written(rig.end);
        rig.producers.expire(NOW);
        assert_eq!(rig.producers.iter().count(), 2);
        rig.producers.expire(NOW + 1);
        let left: Vec<_> = rig.producers.iter().map(|shown| shown.producer.id.0).collect();
        assert_eq!(left, [1]);
        // Ids are free: there is a bound to how many are remembered.
        for id in 0..PRODUCERS_PER_PARTITION_MAX as i64 + 10 {
            rig.append(&produced(100 + id, 0, 0, 1, false), None).unwrap();
            rig.producers.on_written(rig.end);
        }
        assert!(rig.producers.iter().count() <= PRODUCERS_PER_PARTITION_MAX);
        assert!(rig.producers.is_open(Producer { id: ProducerId(1), epoch: 0 }));
    }
}
