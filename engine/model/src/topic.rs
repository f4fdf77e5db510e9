//! A topic as it is written down, and how its logs are kept.

use crate::limits::SEGMENT_BYTES_MAX;
use crate::{PartitionIndex, TopicId, TopicName, TopicPartition};
use std::collections::BTreeMap;

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id, never reused.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// How many partitions it has.
    pub partitions: i32,
    /// Settings that differ from the broker's, by Kafka's names.
    pub settings: BTreeMap<String, String>,
}

impl Topic {
    /// Its partitions.
    pub fn ids(&self) -> impl Iterator<Item = TopicPartition> + use<> {
        let topic_id = self.id;
        let of = move |index| TopicPartition { topic_id, partition: PartitionIndex(index) };
        (0..self.partitions).map(of)
    }
}

/// How a request names a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef<'a> {
    /// By name.
    Name(&'a str),
    /// By id (KIP-516).
    Id(TopicId),
}

/// How a log is cut into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A segment is closed before it grows beyond this (`segment.bytes`).
    pub segment_bytes: u32,
    /// A segment is closed once its first record was appended so long ago (`segment.ms`).
    pub segment_ms: i64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES_MAX, segment_ms: i64::MAX }
    }
}

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Segments whose newest record is older, and that were not written since, go (`retention.ms`);
    /// `None`: no limit.
    pub age_ms: Option<i64>,
    /// While the log without its oldest segment has as many bytes, that one goes
    /// (`retention.bytes`); `None`: no limit.
    pub bytes: Option<u64>,
}
