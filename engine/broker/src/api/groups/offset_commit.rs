//! OffsetCommit 2-9: v5 no retention of one's own, v6 leader epochs, v7 static members, v8 flexible,
//! v9 errors of KIP-848.

use crate::api::rooms::Groups;
use crate::network::answer::read;
use crate::network::request::Request;
use model::ErrorCode;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    OffsetCommitPartition, OffsetCommitPartitionResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetCommitTopic, OffsetCommitTopicResponse,
};

/// What the records of a commit may take together: each has the names of its group and its topic.
pub(crate) const COMMIT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a record takes beside them.
pub(crate) const RECORD_BYTES: usize = 60;

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: &Request,
) -> Result<OffsetCommitResponse, WireError> {
    let asked = Rc::new(read::<OffsetCommitRequest>(request)?);
    let version = request.version;
    let of = |topic: &OffsetCommitTopic| {
        let beside = asked.group_id.len() + topic.name.len() + RECORD_BYTES;
        let metadata =
            |p: &OffsetCommitPartition| p.committed_metadata.as_ref().map_or(0, String::len);
        topic.partitions.iter().map(|p| beside + metadata(p)).sum::<usize>()
    };
    if asked.topics.iter().map(of).sum::<usize>() > COMMIT_BYTES_MAX {
        let response = refused(&asked, ErrorCode::InvalidCommitOffsetSize);
        return Ok(response);
    }
    let for_coordinator = OffsetCommitRequest::clone(&asked);
    let committed = groups
        .step(&asked.group_id, move |here, coordinator, now| {
            let image = here.image();
            let knows = |topic: &str, partition: i32| image.has(topic, partition);
            coordinator.commit(now, version, &for_coordinator, knows)
        })
        .await;
    let response = committed.unwrap_or_else(|error| refused(&asked, error));
    Ok(response)
}

fn refused(asked: &OffsetCommitRequest, error: ErrorCode) -> OffsetCommitResponse {
    let topics = asked.topics.iter().map(|topic| OffsetCommitTopicResponse {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| OffsetCommitPartitionResponse {
                partition_index: partition.partition_index,
                error_code: error.code(),
            })
            .collect(),
    });
    OffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}
