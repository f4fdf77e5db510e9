//! CreateTopics 2-7: v4 defaults by -1 (KIP-464), v5 returns settings (KIP-525), v7 topic ids.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use crate::topic_settings::{self, TOPIC_SETTINGS, value_of};
use crate::topics::{self, NewTopic};
use model::limits::PARTITIONS_PER_TOPIC_MAX;
use model::{ErrorCode, ids};
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    CreatableTopic, CreatableTopicConfigResult, CreatableTopicResult, CreateTopicsRequest,
    CreateTopicsResponse,
};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<CreateTopicsRequest>(request)?;
    let mut results = Vec::new();
    for topic in &asked.topics {
        let repeated = asked.topics.iter().filter(|other| other.name == topic.name).count() > 1;
        let checked = if repeated {
            Err((ErrorCode::InvalidRequest, "the request names this topic twice".to_owned()))
        } else {
            check(shard, topic)
        };
        let created = match checked {
            Err(refusal) => Err(refusal),
            Ok(new) if asked.validate_only => {
                if shard.image().by_name.contains_key(&new.name) {
                    Err(topics::exists(&new.name))
                } else {
                    Ok(None)
                }
            }
            Ok(new) => {
                let created = topics::create(shard, vec![new]).await;
                created.into_iter().next().expect("one result for one topic").map(Some)
            }
        };
        results.push(describe(shard, topic, created));
    }
    Ok(respond(shard, request, &CreateTopicsResponse { topics: results, ..Default::default() }))
}

fn check(shard: &Shard, topic: &CreatableTopic) -> Result<NewTopic, topics::Refusal> {
    if !ids::topic_name_is_valid(&topic.name) {
        let why = "a topic name has 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'";
        return Err((ErrorCode::InvalidTopicException, why.to_owned()));
    }
    if topic_settings::is_internal(&topic.name) {
        if shard.image().by_name.contains_key(&topic.name) {
            return Err(topics::exists(&topic.name));
        }
        let why = format!("{} is the broker's own: it is made when it is used first", topic.name);
        return Err((ErrorCode::InvalidTopicException, why));
    }
    let node = shard.node.config.node_id;
    let mut partitions = topic.num_partitions;
    if !topic.assignments.is_empty() {
        let mut indexes: Vec<_> = topic.assignments.iter().map(|a| a.partition_index).collect();
        indexes.sort_unstable();
        let dense = indexes.iter().enumerate().all(|(at, index)| usize::try_from(*index) == Ok(at));
        if !dense || topic.assignments.iter().any(|a| a.broker_ids != [node]) {
            let why = format!("partitions from 0 on, each on broker {node}, are expected");
            return Err((ErrorCode::InvalidReplicaAssignment, why));
        }
        partitions = indexes.len() as i32;
    } else if !replication_fits(shard, topic.replication_factor) {
        let why = format!(
            "replication factor {} asked for, and there is 1 broker",
            topic.replication_factor
        );
        return Err((ErrorCode::InvalidReplicationFactor, why));
    }
    if partitions == -1 {
        partitions = shard.node.config.num_partitions;
    }
    if !(1..=PARTITIONS_PER_TOPIC_MAX).contains(&partitions) {
        let why = format!("1 to {PARTITIONS_PER_TOPIC_MAX} partitions are allowed");
        return Err((ErrorCode::InvalidPartitions, why));
    }
    let mut settings = BTreeMap::new();
    for config in &topic.configs {
        topic_settings::check(&config.name, config.value.as_deref())
            .map_err(|why| (ErrorCode::InvalidConfig, why))?;
        let before = settings.insert(config.name.clone(), config.value.clone().unwrap_or_default());
        if before.is_some() {
            return Err((ErrorCode::InvalidConfig, format!("{} is set twice", config.name)));
        }
    }
    Ok(NewTopic { name: topic.name.clone(), partitions, settings })
}

/// Whether so many replicas can be had: -1 asks for the default.
fn replication_fits(shard: &Shard, factor: i16) -> bool {
    matches!(factor, -1 | 1) || factor > 1 && shard.node.config.clamps_replication
}

fn describe(
    shard: &Shard,
    asked: &CreatableTopic,
    created: Result<Option<topics::Created>, topics::Refusal>,
) -> CreatableTopicResult {
    let mut result = CreatableTopicResult { name: asked.name.clone(), ..Default::default() };
    match created {
        Err((error, why)) => {
            result.error_code = error.code();
            result.error_message = Some(why);
        }
        Ok(created) => {
            if let Some(created) = created {
                result.topic_id = created.id;
                result.num_partitions = created.partitions;
            } else {
                result.num_partitions = asked.num_partitions;
            }
            result.replication_factor = 1;
            let set: BTreeMap<_, _> = asked
                .configs
                .iter()
                .map(|c| (c.name.clone(), c.value.clone().unwrap_or_default()))
                .collect();
            let entry = |setting| {
                let (value, config_source) = value_of(setting, &set, &shard.node.config);
                CreatableTopicConfigResult {
                    name: setting.name.to_owned(),
                    value: Some(value),
                    config_source,
                    ..Default::default()
                }
            };
            result.configs = Some(TOPIC_SETTINGS.iter().map(entry).collect());
        }
    }
    result
}
