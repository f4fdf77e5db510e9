//! What the node rig expects: topics, records, where logs begin; and what a run did.

use model::record_batch::BatchBuilder;
use model::{Compression, Offset, RecordBatch, TopicId, TopicPartition};
use runtime::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use storage::{Log, Read, StorageError};

/// What a run did, to show that it did something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Starts that came to their end.
    pub starts: u64,
    /// Starts that the machine stopped in.
    pub stopped_starts: u64,
    /// Partitions refused.
    pub refused: u64,
    /// Of those, served again in the same life.
    pub mended: u64,
    /// Batches found again after a start.
    pub verified: u64,
    /// Topics made, grown and deleted.
    pub changes: u64,
    /// Changes that the disk did not let happen.
    pub unchanged: u64,
    /// Faults that were met.
    pub faults: u64,
    /// Lives with a directory missing.
    pub missing: u64,
    /// Lives on a disk that was full at some time.
    pub full: u64,
    /// Files that were spoilt: bytes, blocks, cut, removed, older copies.
    pub spoilt: u64,
    /// Of those, told: a refusal, or a read that failed.
    pub told: u64,
}

impl Outcome {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.starts += other.starts;
        self.stopped_starts += other.stopped_starts;
        self.refused += other.refused;
        self.mended += other.mended;
        self.verified += other.verified;
        self.changes += other.changes;
        self.unchanged += other.unchanged;
        self.faults += other.faults;
        self.missing += other.missing;
        self.full += other.full;
        self.spoilt += other.spoilt;
        self.told += other.told;
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) base: i64,
    pub(super) records: i64,
    /// The bytes behind the 16 that the log sets.
    pub(super) bytes: Vec<u8>,
}

/// What one partition was given and what was promised of it.
#[derive(Clone, Default)]
pub(super) struct Expected {
    pub(super) batches: Vec<Batch>,
    /// Refused in this life: what of them came to the disk nobody knows.
    pub(super) dropped: Vec<Batch>,
    pub(super) written: i64,
    pub(super) durable: i64,
    pub(super) deleted: i64,
    pub(super) deleting: i64,
    /// The directory it was last seen in.
    pub(super) home: Option<PathBuf>,
    /// A journal said that bytes of it are lost: it stays refused.
    pub(super) lost: bool,
    /// Bytes of it are spoilt and stay so.
    pub(super) rotten: bool,
}

impl Expected {
    /// Of a write that was refused a part may have come to the disk: where nothing was promised since, it may be there,
    /// as after any error.
    pub(super) fn take_back_dropped(&mut self, found: &[Batch], promised: i64) {
        for batch in found.iter().filter(|batch| batch.base >= promised) {
            if let Some(at) = self.dropped.iter().position(|other| other == batch) {
                let batch = self.dropped.swap_remove(at);
                let from = self.batches.partition_point(|b| b.base < batch.base);
                match self.batches.get_mut(from) {
                    Some(lost) if lost.base == batch.base => *lost = batch,
                    _ => self.batches.insert(from, batch),
                }
            }
        }
        self.dropped.clear();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Alive,
    /// Made or deleted when the machine stopped: nobody knows.
    Unknown,
    Deleted,
}

#[derive(Clone)]
pub(super) struct KnownTopic {
    pub(super) fate: Fate,
    pub(super) partitions: i32,
    /// More were asked for when the machine stopped.
    pub(super) partitions_max: i32,
    /// The directories that know it, and how many partitions it has.
    pub(super) known_in: BTreeSet<PathBuf>,
}

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) topics: BTreeMap<TopicId, KnownTopic>,
    pub(super) partitions: BTreeMap<TopicPartition, Expected>,
}

pub(super) fn batch(random: &mut Random, large: bool) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(random.below(1_000_000) as i64);
    for _ in 0..1 + random.below(3) {
        let bytes = if large && random.one_in(4) { 90_000 } else { 2_500 };
        let mut value = vec![0; random.below(bytes) as usize];
        let ends = value.len().min(64);
        random.fill(&mut value[..ends]);
        builder.push(random.below(1_000_000) as i64, None, Some(&value), &[]);
    }
    builder.finish(Compression::None).to_vec()
}

pub(super) async fn read_all(
    log: &Log,
    start: Offset,
    end: Offset,
) -> Result<Vec<Batch>, StorageError> {
    let (mut offset, mut batches, mut out) = (start, Vec::new(), Vec::new());
    while offset < end {
        out.clear();
        if log.read_cached(offset, 100_000, end, &mut out) == Read::Miss {
            log.read_disk(offset, 100_000, end, &mut out).await?;
        }
        let bytes = out.iter().map(|piece| &piece[..]).collect::<Vec<_>>().concat();
        let mut rest = &bytes[..];
        let before = offset;
        while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
            assert!(batch.crc_matches(), "what is read is whole");
            assert!(batch.base_offset() <= offset && offset <= batch.last_offset(), "no gap");
            batches.push(Batch {
                base: batch.base_offset().0,
                records: i64::from(batch.record_count()),
                bytes: batch.bytes()[16..].to_vec(),
            });
            offset = batch.last_offset().plus(1);
            rest = tail;
        }
        assert!(before < offset, "every read makes progress");
    }
    Ok(batches)
}
