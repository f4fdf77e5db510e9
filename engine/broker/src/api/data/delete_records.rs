//! DeleteRecords 0-2 (KIP-107). Answered once the new log start is durable.

use crate::api::rooms::Partitions;
use crate::network::answer::read;
use crate::network::request::Request;
use model::{ErrorCode, Offset};
use std::collections::BTreeMap;
use wire::WireError;
use wire::messages::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteRecordsTopic, DeleteRecordsTopicResult,
};

/// "Everything that consumers may see."
const HIGH_WATERMARK: i64 = -1;

pub(crate) async fn handle(
    held: Partitions<'_>,
    request: &Request,
) -> Result<DeleteRecordsResponse, WireError> {
    let asked = read::<DeleteRecordsRequest>(request)?;
    let image = held.image();
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
                    held.at(id, move |slot, _| async move { slot.delete_records(offset).await })
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
    Ok(DeleteRecordsResponse { topics, ..Default::default() })
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
