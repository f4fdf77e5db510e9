//! Offsets asked of each partition's leader.

use client::Cluster;
use model::ErrorCode;
use std::collections::BTreeMap;
use wire::messages::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
    MetadataResponse,
};

pub(crate) const LATEST: i64 = -1;
pub(crate) const EARLIEST: i64 = -2;

/// A partition by its topic's name.
pub(crate) type Partition = (String, i32);

/// The first offset at or after `timestamp` (ms, or LATEST or EARLIEST) of each partition; -1 where
/// there is none; with `read_committed` the end is the last stable offset. What has no leader or cannot be asked is left out.
pub(crate) async fn list(
    cluster: &mut Cluster,
    partitions: &[Partition],
    timestamp: i64,
    read_committed: bool,
) -> Result<BTreeMap<Partition, i64>, String> {
    let mut topics: Vec<String> = partitions.iter().map(|(topic, _)| topic.clone()).collect();
    topics.sort();
    topics.dedup();
    let mut found = BTreeMap::new();
    if topics.is_empty() {
        return Ok(found);
    }
    let metadata = cluster.metadata(Some(topics)).await?;
    let leaders = leaders_of(&metadata);
    let mut by_leader: BTreeMap<i32, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
    for (topic, index) in partitions {
        if let Some(leader) = leaders.get(&(topic.clone(), *index)) {
            by_leader.entry(*leader).or_default().entry(topic).or_default().push(*index);
        }
    }
    for (leader, topics) in by_leader {
        let Some(address) = cluster.address_of(leader) else { continue };
        let partition = |index: i32| ListOffsetsPartition {
            partition_index: index,
            timestamp,
            ..Default::default()
        };
        let topic = |(name, indexes): (&str, Vec<i32>)| ListOffsetsTopic {
            name: name.to_owned(),
            partitions: indexes.into_iter().map(partition).collect(),
        };
        let request = ListOffsetsRequest {
            topics: topics.into_iter().map(topic).collect(),
            timeout_ms: 30_000,
            isolation_level: i8::from(read_committed),
            ..Default::default()
        };
        let response: ListOffsetsResponse = cluster.ask_at(&address, &request).await?;
        for topic in response.topics {
            for partition in topic.partitions {
                if ErrorCode::from_code(partition.error_code) == ErrorCode::None {
                    let key = (topic.name.clone(), partition.partition_index);
                    found.insert(key, partition.offset);
                }
            }
        }
    }
    Ok(found)
}

/// The leaders of the partitions that have one.
pub(crate) fn leaders_of(metadata: &MetadataResponse) -> BTreeMap<Partition, i32> {
    let mut leaders = BTreeMap::new();
    for topic in &metadata.topics {
        for partition in topic.partitions.iter().filter(|partition| partition.leader_id >= 0) {
            let name = topic.name.clone().unwrap_or_default();
            leaders.insert((name, partition.partition_index), partition.leader_id);
        }
    }
    leaders
}
