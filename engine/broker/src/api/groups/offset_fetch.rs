//! OffsetFetch 1-9: v2 null for all topics, v6 flexible, v7 require_stable, v8 several groups
//! (KIP-709), v9 member epochs.

use crate::api::rooms::Groups;
use crate::metadata::named::{each_once, partitions_once};
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use std::collections::BTreeMap;
use wire::WireError;
use wire::messages::{
    OffsetFetchGroup, OffsetFetchGroupResponse, OffsetFetchPartitionResponse, OffsetFetchRequest,
    OffsetFetchResponse, OffsetFetchTopic, OffsetFetchTopicResponse,
};

/// Up to here a response has no error of its own: every partition carries it.
const GROUP_ERROR_SINCE: i16 = 2;

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<OffsetFetchResponse, WireError> {
    let asked = read::<OffsetFetchRequest>(request)?;
    if request.version >= 8 {
        let mut fetched = Vec::new();
        let order = each_once(asked.groups.iter().map(|group| group.group_id.clone()));
        let mut by_id: BTreeMap<String, OffsetFetchGroup> = BTreeMap::new();
        for group in asked.groups {
            by_id.entry(group.group_id.clone()).or_insert(group);
        }
        for group in order.iter().filter_map(|id| by_id.remove(id)) {
            let found = fetch(groups, group, asked.require_stable).await;
            size.add(bytes_of(&found)).await?;
            fetched.push(found);
        }
        return Ok(OffsetFetchResponse { groups: fetched, ..Default::default() });
    }
    let topics = asked.topics.clone();
    let group =
        OffsetFetchGroup { group_id: asked.group_id, topics: asked.topics, ..Default::default() };
    let mut found = fetch(groups, group, asked.require_stable).await;
    if found.error_code != 0 && request.version < GROUP_ERROR_SINCE {
        found.topics = refused(topics.unwrap_or_default(), found.error_code);
    }
    let response = OffsetFetchResponse {
        topics: found.topics,
        error_code: found.error_code,
        ..Default::default()
    };
    Ok(response)
}

/// What a group's offsets take in the answer, about.
fn bytes_of(group: &OffsetFetchGroupResponse) -> usize {
    let partition = |partition: &OffsetFetchPartitionResponse| {
        24 + partition.metadata.as_ref().map_or(0, String::len)
    };
    let topic = |topic: &OffsetFetchTopicResponse| {
        10 + topic.name.len() + topic.partitions.iter().map(partition).sum::<usize>()
    };
    20 + group.group_id.len() + group.topics.iter().map(topic).sum::<usize>()
}

async fn fetch(
    groups: Groups<'_>,
    mut group: OffsetFetchGroup,
    require_stable: bool,
) -> OffsetFetchGroupResponse {
    let group_id = group.group_id.clone();
    let once = |topics: Vec<OffsetFetchTopic>| {
        let topics = topics.into_iter().map(|topic| (topic.name, topic.partition_indexes));
        let topic = |(name, partition_indexes)| OffsetFetchTopic { name, partition_indexes };
        partitions_once(topics.collect()).into_iter().map(topic).collect()
    };
    group.topics = group.topics.map(once);
    let found = groups
        .step(&group_id, move |_, coordinator, _| {
            coordinator.fetch(&group.group_id, group.topics.as_deref(), require_stable)
        })
        .await;
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
