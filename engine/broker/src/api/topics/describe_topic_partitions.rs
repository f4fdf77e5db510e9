//! DescribeTopicPartitions 0 (KIP-966): topics by name, in pages of so many partitions.

use crate::api::authorized;
use crate::api::rooms::Topics;
use crate::network::answer::read;
use crate::network::request::Request;
use model::{ErrorCode, ids};
use std::collections::BTreeSet;
use wire::WireError;
use wire::messages::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicPartitionsCursor,
    TopicPartitionsPartition, TopicPartitionsTopicResponse,
};

/// Kafka's `max.request.partition.size.limit`.
const PARTITIONS_MAX: i32 = 2000;

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
) -> Result<DescribeTopicPartitionsResponse, WireError> {
    let asked = read::<DescribeTopicPartitionsRequest>(request)?;
    let image = topics.image();
    let mut names: BTreeSet<&str> = asked.topics.iter().map(|topic| topic.name.as_str()).collect();
    if names.is_empty() {
        names = image.by_name.keys().map(|name| &**name).collect();
    }
    if asked.cursor.as_ref().is_some_and(|cursor| cursor.partition_index < 0) {
        let refused = |name: &str| TopicPartitionsTopicResponse {
            error_code: ErrorCode::InvalidRequest.code(),
            name: Some(name.to_owned()),
            ..Default::default()
        };
        let topics = asked.topics.iter().map(|topic| refused(&topic.name)).collect();
        let response = DescribeTopicPartitionsResponse { topics, ..Default::default() };
        return Ok(response);
    }
    let from = asked.cursor.as_ref().map(|c| (c.topic_name.as_str(), c.partition_index.max(0)));
    let mut left = asked.response_partition_limit.clamp(1, PARTITIONS_MAX);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.into_iter().filter(|name| from.is_none_or(|(first, _)| *name >= first)) {
        let cursor = |partition_index| {
            Some(TopicPartitionsCursor { topic_name: name.to_owned(), partition_index })
        };
        if left == 0 {
            response.next_cursor = cursor(0);
            break;
        }
        let mut shown =
            TopicPartitionsTopicResponse { name: Some(name.to_owned()), ..Default::default() };
        let Some(topic) = image.topic(name) else {
            shown.error_code = if ids::topic_name_is_valid(name) {
                ErrorCode::UnknownTopicOrPartition.code()
            } else {
                ErrorCode::InvalidTopicException.code()
            };
            response.topics.push(shown);
            continue;
        };
        (shown.topic_id, shown.is_internal) = (topic.id, topic.is_internal());
        shown.topic_authorized_operations = authorized::TOPIC;
        let first = from.filter(|(first, _)| *first == name).map_or(0, |(_, index)| index);
        let last = topic.count().min(first.saturating_add(left));
        shown.partitions = (first..last)
            .filter_map(|index| Some((index, topic.placed(index)?)))
            .map(|(partition_index, placed)| TopicPartitionsPartition {
                partition_index,
                leader_id: placed.leader.0,
                leader_epoch: placed.leader_epoch.0,
                replica_nodes: placed.replica_ids(),
                isr_nodes: placed.in_sync_ids(),
                eligible_leader_replicas: Some(Vec::new()),
                last_known_elr: Some(Vec::new()),
                ..Default::default()
            })
            .collect();
        left -= shown.partitions.len() as i32;
        response.topics.push(shown);
        if last < topic.count() {
            response.next_cursor = cursor(last);
            break;
        }
    }
    Ok(response)
}
