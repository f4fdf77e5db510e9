//! Metadata 0-13: v1 controller and null for all, v4 auto-create flag, v7 leader epochs, v10 topic
//! ids, v12 lookup by id, v13 top-level error.

use crate::api::authorized::{self, if_asked};
use crate::metadata::named::each_once;
use crate::metadata::topics;
use crate::network::answer::{AnswerSize, Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use metadata::changes::NewTopic;
use metadata::image::{PartitionImage, TopicImage};
use metadata::in_force::SettingValues;
use metadata::topic_settings::is_internal;
use model::limits::PARTITIONS_PER_REQUEST_MAX;
use model::{ErrorCode, TopicId, TopicName, ids};
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    MetadataBroker, MetadataPartition, MetadataRequest, MetadataRequestTopic, MetadataResponse,
    MetadataTopic,
};

/// From here on a topic may be named by its id.
const BY_ID_SINCE: i16 = 12;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<MetadataRequest>(request)?;
    // Version 0 has no null: an empty list asks for all.
    let topics = asked.topics.filter(|topics| request.version > 0 || !topics.is_empty());
    let mut image = shard.image();
    let mut size = AnswerSize::new(shard);
    let mut found: Vec<MetadataTopic> = Vec::new();
    match topics {
        None => {
            for topic in image.by_name.values() {
                found.push(describe(topic, &mut size).await?);
            }
        }
        Some(topics) if request.version < BY_ID_SINCE && topics.iter().any(names_by_id) => {
            let refused = |topic: MetadataRequestTopic| {
                unknown(
                    Some(topic.name.unwrap_or_default()),
                    topic.topic_id,
                    ErrorCode::InvalidRequest,
                )
            };
            found.extend(topics.into_iter().map(refused));
        }
        // As soon as one has an id, ids count alone: Java's admin sends an empty name beside it.
        Some(topics) if topics.iter().any(|topic| topic.topic_id != TopicId::ZERO) => {
            let ids = topics.iter().map(|topic| topic.topic_id).filter(|id| *id != TopicId::ZERO);
            for id in each_once(ids) {
                found.push(match image.by_id.get(&id) {
                    Some(topic) => describe(topic, &mut size).await?,
                    None => unknown(None, id, ErrorCode::UnknownTopicId),
                });
            }
        }
        Some(topics) => {
            let names = each_once(topics.into_iter().map(|topic| topic.name));
            let node = &shard.node;
            let create = asked.allow_auto_topic_creation && node.config.auto_create_topics;
            let is_missing = |name: &&String| {
                // Internal topics are made by what uses them.
                create && image.topic(name).is_none() && !is_internal(name)
            };
            let new = |name: &String| {
                Some(NewTopic {
                    name: TopicName::new(name)?,
                    partitions: node.config.num_partitions,
                    settings: SettingValues::new(),
                })
            };
            // Who asks for more asks again.
            let most = PARTITIONS_PER_REQUEST_MAX / i64::from(node.config.num_partitions);
            let missing = names.iter().flatten().filter(is_missing).filter_map(new);
            let missing: Vec<_> = missing.take((most as usize).max(1)).collect();
            if !missing.is_empty() {
                topics::create(shard, missing).await;
                image = shard.image();
            }
            for name in names {
                let topic = name.as_ref().and_then(|name| image.topic(name));
                let error = match (&name, topic) {
                    (_, Some(topic)) => {
                        found.push(describe(topic, &mut size).await?);
                        continue;
                    }
                    (Some(name), None) if ids::topic_name_is_valid(name) => {
                        ErrorCode::UnknownTopicOrPartition
                    }
                    (Some(_), None) => ErrorCode::InvalidTopicException,
                    (None, None) => ErrorCode::UnknownTopicId,
                };
                size.add(name.as_ref().map_or(0, String::len) + 40).await?;
                found.push(unknown(name, TopicId::ZERO, error));
            }
        }
    }
    let node = &shard.node;
    let at = node.advertised_to(request);
    let broker = MetadataBroker {
        node_id: node.id().0,
        host: at.host.clone(),
        port: i32::from(at.port),
        rack: None,
    };
    let mut response = MetadataResponse {
        brokers: vec![broker],
        cluster_id: Some(node.cluster_id.clone()),
        controller_id: node.id().0,
        topics: found,
        ..Default::default()
    };
    let asked_cluster = asked.include_cluster_authorized_operations;
    response.cluster_authorized_operations = if_asked(asked_cluster, authorized::CLUSTER);
    for topic in response.topics.iter_mut().filter(|topic| topic.error_code == 0) {
        topic.topic_authorized_operations =
            if_asked(asked.include_topic_authorized_operations, authorized::TOPIC);
    }
    if request.version < 12 {
        // Only from v12 may a topic be without name.
        for topic in &mut response.topics {
            topic.name.get_or_insert_default();
        }
    }
    Ok(respond(shard, request, &response))
}

/// Whether a topic is named by its id, or by nothing.
fn names_by_id(topic: &MetadataRequestTopic) -> bool {
    topic.name.is_none() || topic.topic_id != TopicId::ZERO
}

/// What a partition takes in the answer, in the version in which it takes most.
const PARTITION_BYTES: usize = 34;

async fn describe(topic: &TopicImage, size: &mut AnswerSize) -> Result<MetadataTopic, WireError> {
    size.add(topic.partitions.len() * PARTITION_BYTES + topic.name.len() + 40).await?;
    let partition = |(index, placed): (usize, &PartitionImage)| MetadataPartition {
        error_code: 0,
        partition_index: index as i32,
        leader_id: placed.leader.0,
        leader_epoch: placed.leader_epoch.0,
        replica_nodes: placed.replica_ids(),
        isr_nodes: placed.in_sync_ids(),
        offline_replicas: Vec::new(),
    };
    Ok(MetadataTopic {
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: topic.partitions.iter().enumerate().map(partition).collect(),
        ..Default::default()
    })
}

fn unknown(name: Option<String>, topic_id: TopicId, error: ErrorCode) -> MetadataTopic {
    MetadataTopic { error_code: error.code(), name, topic_id, ..Default::default() }
}
