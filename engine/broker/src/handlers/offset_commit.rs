//! OffsetCommit 2-9: v5 no retention of one's own, v6 leader epochs, v7 static members, v8 flexible,
//! v9 errors of KIP-848.

use crate::dispatch::{Outcome, read, respond};
use crate::groups::step_at;
use crate::shard::{Request, Shard};
use model::ErrorCode;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    OffsetCommitPartitionResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetCommitTopicResponse,
};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = Rc::new(read::<OffsetCommitRequest>(request)?);
    let version = request.version;
    let for_coordinator = OffsetCommitRequest::clone(&asked);
    let committed = step_at(shard, &asked.group_id, move |shard, coordinator, now| {
        let image = shard.image();
        let knows = |topic: &str, partition: i32| image.has(topic, partition);
        coordinator.commit(now, version, &for_coordinator, knows)
    })
    .await;
    let response = committed.unwrap_or_else(|error| refused(&asked, error));
    Ok(respond(shard, request, &response))
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
