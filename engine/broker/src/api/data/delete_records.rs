//! DeleteRecords 0-2 (KIP-107). Answered once the new log start is durable.

use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use model::{ErrorCode, Offset, TopicPartition};
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteRecordsTopic, DeleteRecordsTopicResult,
};

/// "Everything that consumers may see."
const HIGH_WATERMARK: i64 = -1;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DeleteRecordsRequest>(request)?;
    let image = shard.image();
    let mut topics = Vec::new();
    for topic in each_once_the_last(asked.topics) {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let named = image.topic(&topic.name);
            let known = named.and_then(|t| t.partition(asked.partition_index));
            let deleted = match known {
                Some(_) if named.is_some_and(|topic| topic.is_internal()) => {
                    Err(ErrorCode::InvalidTopicException)
                }
                // What a key's newest value is would change.
                Some(_) if named.is_some_and(|topic| topic.only_compacts) => {
                    Err(ErrorCode::PolicyViolation)
                }
                Some(id) => {
                    let offset = Some(Offset(asked.offset)).filter(|o| o.0 != HIGH_WATERMARK);
                    let owner = shard.owner_of(id);
                    shard
                        .call(owner, move |owner| async move { delete(&owner, id, offset).await })
                        .await
                }
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: asked.partition_index,
                low_watermark: deleted.map_or(-1, |start| start.0),
                error_code: deleted.err().unwrap_or(ErrorCode::None).code(),
            });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    Ok(respond(shard, request, &DeleteRecordsResponse { topics, ..Default::default() }))
}

/// Each partition once, and of what is asked of it the last; no topic of which nothing is asked.
fn each_once_the_last(asked: Vec<DeleteRecordsTopic>) -> Vec<DeleteRecordsTopic> {
    let mut offsets: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
    for topic in asked {
        for partition in topic.partitions {
            let of_topic = offsets.entry(topic.name.clone()).or_default();
            of_topic.insert(partition.partition_index, partition.offset);
        }
    }
    let topic = |(name, partitions): (String, BTreeMap<i32, i64>)| {
        let partition =
            |(partition_index, offset)| DeleteRecordsPartition { partition_index, offset };
        DeleteRecordsTopic { name, partitions: partitions.into_iter().map(partition).collect() }
    };
    offsets.into_iter().map(topic).collect()
}

async fn delete(
    shard: &Shard,
    id: TopicPartition,
    offset: Option<Offset>,
) -> Result<Offset, ErrorCode> {
    let slot = shard.slot(id).ok_or_else(|| shard.why_absent(id))?;
    slot.delete_records(offset).await
}
