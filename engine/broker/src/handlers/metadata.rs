//! Metadata 0-13: v1 controller and null for all, v4 auto-create flag, v7 leader epochs, v10 topic
//! ids, v12 lookup by id, v13 top-level error.

use crate::authorized::{self, if_asked};
use crate::dispatch::{Outcome, read, respond};
use crate::image::TopicImage;
use crate::shard::{Request, Shard};
use crate::topic_settings::is_internal;
use crate::topics;
use model::{ErrorCode, TopicId, ids};
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    MetadataBroker, MetadataPartition, MetadataRequest, MetadataResponse, MetadataTopic,
};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<MetadataRequest>(request)?;
    // Version 0 has no null: an empty list asks for all.
    let topics = asked.topics.filter(|topics| request.version > 0 || !topics.is_empty());
    let mut image = shard.image();
    let found = match topics {
        None => image.by_name.values().map(|topic| describe(shard, topic)).collect(),
        Some(asked_topics) => {
            let node = &shard.node;
            let create = asked.allow_auto_topic_creation && node.config.auto_create_topics;
            let missing: Vec<_> = asked_topics
                .iter()
                .filter_map(|topic| topic.name.clone())
                .filter(|name| {
                    // Internal topics are made by what uses them.
                    create
                        && !image.by_name.contains_key(name)
                        && ids::topic_name_is_valid(name)
                        && !is_internal(name)
                })
                .map(|name| topics::NewTopic {
                    name,
                    partitions: node.config.num_partitions,
                    settings: BTreeMap::new(),
                })
                .collect();
            if !missing.is_empty() {
                topics::create(shard, missing).await;
                image = shard.image();
            }
            let of = |name: Option<String>, id: TopicId| match &name {
                Some(name) => match image.by_name.get(name) {
                    Some(topic) => describe(shard, topic),
                    None if ids::topic_name_is_valid(name) => {
                        unknown(Some(name.clone()), id, ErrorCode::UnknownTopicOrPartition)
                    }
                    None => unknown(Some(name.clone()), id, ErrorCode::InvalidTopicException),
                },
                None => match image.by_id.get(&id) {
                    Some(topic) => describe(shard, topic),
                    None => unknown(None, id, ErrorCode::UnknownTopicId),
                },
            };
            asked_topics.into_iter().map(|topic| of(topic.name, topic.topic_id)).collect()
        }
    };
    let node = &shard.node;
    let broker = MetadataBroker {
        node_id: node.config.node_id,
        host: node.host.clone(),
        port: i32::from(node.port),
        rack: None,
    };
    let mut response = MetadataResponse {
        brokers: vec![broker],
        cluster_id: Some(node.cluster_id.clone()),
        controller_id: node.config.node_id,
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

fn describe(shard: &Shard, topic: &TopicImage) -> MetadataTopic {
    let node = shard.node.config.node_id;
    let partition = |index| MetadataPartition {
        error_code: 0,
        partition_index: index,
        leader_id: node,
        leader_epoch: shard.node.epoch.0,
        replica_nodes: vec![node],
        isr_nodes: vec![node],
        offline_replicas: Vec::new(),
    };
    MetadataTopic {
        name: Some(topic.name.clone()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: (0..topic.partitions).map(partition).collect(),
        ..Default::default()
    }
}

fn unknown(name: Option<String>, topic_id: TopicId, error: ErrorCode) -> MetadataTopic {
    MetadataTopic { error_code: error.code(), name, topic_id, ..Default::default() }
}
