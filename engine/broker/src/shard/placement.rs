//! Which shard owns a partition.

use model::TopicPartition;

/// Neighbouring partitions go to neighbouring shards, and topics start at different ones, so that
/// one topic spreads evenly however many partitions it has.
pub(crate) fn shard_of(partition: TopicPartition, shards: usize) -> usize {
    let start = partition.topic_id.0[0] as usize + partition.topic_id.0[15] as usize;
    (start + partition.partition.0 as usize) % shards
}
