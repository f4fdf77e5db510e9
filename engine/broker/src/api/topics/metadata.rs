//! Metadata 0-13: v1 controller and null for all, v4 auto-create flag, v7 leader epochs, v10 topic
//! ids, v12 lookup by id, v13 top-level error.

use crate::api::authorized::{self, if_asked};
use crate::api::rooms::Topics;
use crate::metadata::named::each_once;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use metadata::changes::NewTopic;
use metadata::image::{MetadataImage, PartitionImage, TopicImage};
use metadata::in_force::SettingValues;
use metadata::topic_settings::is_internal;
use model::limits::PARTITIONS_PER_REQUEST_MAX;
use model::{ErrorCode, TopicId, TopicName, ids};
use wire::WireError;
use wire::messages::{
    MetadataBroker, MetadataPartition, MetadataRequest, MetadataRequestTopic, MetadataResponse,
    MetadataTopic,
};

/// From here on a topic may be named by its id.
const BY_ID_SINCE: i16 = 12;

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<MetadataResponse, WireError> {
    let asked = read::<MetadataRequest>(request)?;
    let node = topics.node();
    // Version 0 has no null: an empty list asks for all.
    let named = asked.topics.filter(|topics| request.version > 0 || !topics.is_empty());
    let mut found = match named {
        None => all(&topics.image(), size).await?,
        Some(named) if request.version < BY_ID_SINCE && named.iter().any(names_by_id) => {
            named.into_iter().map(refused).collect()
        }
        // As soon as one has an id, ids count alone: Java's admin sends an empty name beside it.
        Some(named) if named.iter().any(|topic| topic.topic_id != TopicId::ZERO) => {
            by_id(&topics.image(), named, size).await?
        }
        Some(named) => {
            let names = each_once(named.into_iter().map(|topic| topic.name));
            if asked.allow_auto_topic_creation && node.config.auto_create_topics {
                create_missing(topics, &names).await;
            }
            by_name(&topics.image(), names, size).await?
        }
    };
    for topic in &mut found {
        if topic.error_code == 0 {
            topic.topic_authorized_operations =
                if_asked(asked.include_topic_authorized_operations, authorized::TOPIC);
        }
        if request.version < BY_ID_SINCE {
            // Only from there on may a topic be without name.
            topic.name.get_or_insert_default();
        }
    }
    let at = node.advertised_to(request);
    let broker = MetadataBroker {
        node_id: node.id().0,
        host: at.host.clone(),
        port: i32::from(at.port),
        rack: None,
    };
    Ok(MetadataResponse {
        brokers: vec![broker],
        cluster_id: Some(node.cluster_id.clone()),
        controller_id: node.id().0,
        topics: found,
        cluster_authorized_operations: if_asked(
            asked.include_cluster_authorized_operations,
            authorized::CLUSTER,
        ),
        ..Default::default()
    })
}

async fn all(
    image: &MetadataImage,
    size: &mut AnswerSize,
) -> Result<Vec<MetadataTopic>, WireError> {
    let mut found = Vec::new();
    for topic in image.by_name.values() {
        found.push(describe(topic, size).await?);
    }
    Ok(found)
}

async fn by_id(
    image: &MetadataImage,
    named: Vec<MetadataRequestTopic>,
    size: &mut AnswerSize,
) -> Result<Vec<MetadataTopic>, WireError> {
    let ids = named.iter().map(|topic| topic.topic_id).filter(|id| *id != TopicId::ZERO);
    let mut found = Vec::new();
    for id in each_once(ids) {
        found.push(match image.by_id.get(&id) {
            Some(topic) => describe(topic, size).await?,
            None => unknown(None, id, ErrorCode::UnknownTopicId),
        });
    }
    Ok(found)
}

async fn by_name(
    image: &MetadataImage,
    names: Vec<Option<String>>,
    size: &mut AnswerSize,
) -> Result<Vec<MetadataTopic>, WireError> {
    let mut found = Vec::new();
    for name in names {
        if let Some(topic) = name.as_ref().and_then(|name| image.topic(name)) {
            found.push(describe(topic, size).await?);
            continue;
        }
        let error = match &name {
            Some(name) if ids::topic_name_is_valid(name) => ErrorCode::UnknownTopicOrPartition,
            Some(_) => ErrorCode::InvalidTopicException,
            None => ErrorCode::UnknownTopicId,
        };
        size.add(name.as_ref().map_or(0, String::len) + 40).await?;
        found.push(unknown(name, TopicId::ZERO, error));
    }
    Ok(found)
}

/// Makes those of these topics that are not there; who asks for more at once than can be made asks again.
async fn create_missing(topics: Topics<'_>, names: &[Option<String>]) {
    let (node, image) = (topics.node(), topics.image());
    let new = |name: &String| {
        // Internal topics are made by what uses them.
        (image.topic(name).is_none() && !is_internal(name)).then_some(())?;
        Some(NewTopic {
            name: TopicName::new(name)?,
            partitions: node.config.num_partitions,
            settings: SettingValues::new(),
        })
    };
    let most = PARTITIONS_PER_REQUEST_MAX / i64::from(node.config.num_partitions);
    let missing = names.iter().flatten().filter_map(new).take((most as usize).max(1));
    let missing: Vec<_> = missing.collect();
    if !missing.is_empty() {
        topics.create(missing).await;
    }
}

fn refused(topic: MetadataRequestTopic) -> MetadataTopic {
    unknown(Some(topic.name.unwrap_or_default()), topic.topic_id, ErrorCode::InvalidRequest)
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
