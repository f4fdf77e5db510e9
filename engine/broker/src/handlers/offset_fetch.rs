//! OffsetFetch 1-9: v2 null for all topics, v6 flexible, v7 require_stable, v8 several groups
//! (KIP-709), v9 member epochs.

use crate::dispatch::{Outcome, read, respond};
use crate::groups::step_at;
use crate::shard::{Request, Shard};
use model::ErrorCode;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    OffsetFetchGroup, OffsetFetchGroupResponse, OffsetFetchPartitionResponse, OffsetFetchRequest,
    OffsetFetchResponse, OffsetFetchTopic, OffsetFetchTopicResponse,
};

/// Up to here a response has no error of its own: every partition carries it.
const GROUP_ERROR_SINCE: i16 = 2;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<OffsetFetchRequest>(request)?;
    if request.version >= 8 {
        let mut groups = Vec::new();
        for group in asked.groups {
            groups.push(fetch(shard, group, asked.require_stable).await);
        }
        return Ok(respond(shard, request, &OffsetFetchResponse { groups, ..Default::default() }));
    }
    let topics = asked.topics.clone();
    let group =
        OffsetFetchGroup { group_id: asked.group_id, topics: asked.topics, ..Default::default() };
    let mut found = fetch(shard, group, asked.require_stable).await;
    if found.error_code != 0 && request.version < GROUP_ERROR_SINCE {
        found.topics = refused(topics.unwrap_or_default(), found.error_code);
    }
    let response = OffsetFetchResponse {
        topics: found.topics,
        error_code: found.error_code,
        ..Default::default()
    };
    Ok(respond(shard, request, &response))
}

async fn fetch(
    shard: &Rc<Shard>,
    group: OffsetFetchGroup,
    require_stable: bool,
) -> OffsetFetchGroupResponse {
    let group_id = group.group_id.clone();
    let found = if group_id.is_empty() {
        Err(ErrorCode::InvalidGroupId)
    } else {
        step_at(shard, &group_id, move |_, coordinator, _| {
            coordinator.fetch(&group.group_id, group.topics.as_deref(), require_stable)
        })
        .await
    };
    match found {
        Ok(topics) => OffsetFetchGroupResponse { group_id, topics, error_code: 0 },
        Err(error) => {
            OffsetFetchGroupResponse { group_id, topics: Vec::new(), error_code: error.code() }
        }
    }
}

fn refused(topics: Vec<OffsetFetchTopic>, error_code: i16) -> Vec<OffsetFetchTopicResponse> {
    let partition = |index: &i32| OffsetFetchPartitionResponse {
        partition_index: *index,
        metadata: Some(String::new()),
        error_code,
        ..Default::default()
    };
    let topic = |topic: OffsetFetchTopic| OffsetFetchTopicResponse {
        partitions: topic.partition_indexes.iter().map(partition).collect(),
        name: topic.name,
    };
    topics.into_iter().map(topic).collect()
}
