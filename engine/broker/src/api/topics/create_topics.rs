//! CreateTopics 2-7: v4 defaults by -1 (KIP-464), v5 returns settings (KIP-525), v7 topic ids.

use crate::api::rooms::Topics;
use crate::metadata::named::repeated;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use metadata::changes::{self, Created, NewTopic, Refusal};
use metadata::in_force::{InForce, SettingValues};
use metadata::topic_settings::{self, TOPIC_SETTINGS};
use model::limits::{PARTITIONS_PER_REQUEST_MAX, PARTITIONS_PER_TOPIC_MAX};
use model::{ErrorCode, TopicName};
use std::collections::{BTreeMap, BTreeSet};
use wire::WireError;
use wire::messages::{
    CreatableTopic, CreatableTopicConfigResult, CreatableTopicResult, CreateTopicsRequest,
    CreateTopicsResponse,
};

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<CreateTopicsResponse, WireError> {
    let asked = read::<CreateTopicsRequest>(request)?;
    let repeated = repeated(asked.topics.iter().map(|topic| &topic.name));
    let (mut told, mut partitions) = (BTreeSet::new(), 0);
    // What becomes of each topic: refused, or the place of what is to be made.
    let (mut new, mut checked) = (Vec::new(), Vec::new());
    for topic in &asked.topics {
        if !told.insert(&topic.name) {
            continue;
        }
        let found = if repeated.contains(&topic.name) {
            Err((ErrorCode::InvalidRequest, "the request names this topic twice".to_owned()))
        } else {
            check(topics, topic, &mut partitions)
        };
        size.add(topic.name.len() + found.as_ref().map_or(200, |_| CONFIGS_BYTES)).await?;
        checked.push((
            topic,
            found.map(|topic| {
                new.push(topic);
                new.len() - 1
            }),
        ));
    }
    let mut created = if asked.validate_only {
        changes::would_create(&topics.image(), &new)
    } else if new.is_empty() {
        Vec::new()
    } else {
        topics.create(new).await
    };
    // A failure of the disk concerns all of them.
    let mut of = |at: usize| match created.len() {
        1 => created[0].clone(),
        _ => {
            std::mem::replace(&mut created[at], Err((ErrorCode::UnknownServerError, String::new())))
        }
    };
    let results =
        checked.into_iter().map(|(topic, found)| describe(topics, topic, found.and_then(&mut of)));
    let results = results.collect();
    Ok(CreateTopicsResponse { topics: results, ..Default::default() })
}

/// About what all settings of a topic take in the answer.
const CONFIGS_BYTES: usize = 4096;

/// Checks a topic, in Kafka's order; `partitions` counts those of the request.
fn check(
    topics: Topics<'_>,
    topic: &CreatableTopic,
    partitions: &mut i64,
) -> Result<NewTopic, Refusal> {
    let Some(name) = TopicName::new(&topic.name) else {
        let why = "a topic name has 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'";
        return Err((ErrorCode::InvalidTopicException, why.to_owned()));
    };
    // Before anything else is looked at: who only wants to have the topic goes on.
    if topics.image().topic(&topic.name).is_some() {
        return Err(changes::exists(&topic.name));
    }
    if topic_settings::is_internal(&topic.name) {
        let why = format!("{} is the broker's own: it is made when it is used first", topic.name);
        return Err((ErrorCode::InvalidTopicException, why));
    }
    changes::check_collision(&topics.image(), &topic.name)?;
    let settings = check_settings(topics, topic)?;
    let count = check_partitions(topics, topic)?;
    *partitions += i64::from(count);
    if *partitions > PARTITIONS_PER_REQUEST_MAX {
        let why = format!("at most {PARTITIONS_PER_REQUEST_MAX} partitions are made in a request");
        return Err((ErrorCode::PolicyViolation, why));
    }
    Ok(NewTopic { name, partitions: count, settings })
}

fn check_partitions(topics: Topics<'_>, topic: &CreatableTopic) -> Result<i32, Refusal> {
    let node = topics.node().id().0;
    let factor = topic.replication_factor;
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || factor != -1 {
            let why = "beside assignments, the number of partitions and the replication factor are to be -1";
            return Err((ErrorCode::InvalidRequest, why.to_owned()));
        }
        let mut indexes: Vec<_> = topic.assignments.iter().map(|a| a.partition_index).collect();
        indexes.sort_unstable();
        let dense = indexes.iter().enumerate().all(|(at, index)| usize::try_from(*index) == Ok(at));
        if !dense || topic.assignments.iter().any(|a| a.broker_ids != [node]) {
            let why = format!("partitions from 0 on, each on broker {node}, are expected");
            return Err((ErrorCode::InvalidReplicaAssignment, why));
        }
        return Ok(indexes.len() as i32);
    }
    let no_factor = |factor: i16| {
        let why = format!("replication factor {factor} asked for, and there is 1 broker");
        Err((ErrorCode::InvalidReplicationFactor, why))
    };
    if factor < 1 && factor != -1 {
        return no_factor(factor);
    }
    let partitions = match topic.num_partitions {
        -1 => topics.node().config.num_partitions,
        partitions => partitions,
    };
    if !(1..=PARTITIONS_PER_TOPIC_MAX).contains(&partitions) {
        let why = format!("1 to {PARTITIONS_PER_TOPIC_MAX} partitions are allowed");
        return Err((ErrorCode::InvalidPartitions, why));
    }
    if !replication_fits(topics, factor) {
        return no_factor(factor);
    }
    Ok(partitions)
}

fn check_settings(topics: Topics<'_>, topic: &CreatableTopic) -> Result<SettingValues, Refusal> {
    let mut settings = SettingValues::new();
    // Of what is named twice the last counts.
    let last: BTreeMap<&String, &Option<String>> =
        topic.configs.iter().map(|config| (&config.name, &config.value)).collect();
    let invalid = |why| (ErrorCode::InvalidConfig, why);
    for (name, value) in last {
        topic_settings::setting(name).map_err(invalid)?;
        let value = value.as_ref().ok_or_else(|| invalid(format!("{name} has no value")))?;
        let value = topic_settings::read(name, value).map_err(invalid)?;
        settings.insert(name.clone(), value);
    }
    let in_force = InForce { on_topic: &settings, on_broker: topics.on_broker() };
    in_force.check_together().map_err(invalid)?;
    Ok(settings)
}

/// Whether so many replicas can be had: -1 asks for the default.
fn replication_fits(topics: Topics<'_>, factor: i16) -> bool {
    matches!(factor, -1 | 1) || factor > 1 && topics.node().config.clamps_replication
}

fn describe(
    topics: Topics<'_>,
    asked: &CreatableTopic,
    created: Result<Created, Refusal>,
) -> CreatableTopicResult {
    let mut result = CreatableTopicResult { name: asked.name.clone(), ..Default::default() };
    match created {
        Err((error, why)) => {
            result.error_code = error.code();
            result.error_message = Some(why);
            result.configs = Some(Vec::new());
        }
        Ok(created) => {
            result.topic_id = created.id;
            result.num_partitions = created.partitions;
            result.replication_factor = 1;
            let set: SettingValues = asked
                .configs
                .iter()
                .map(|c| {
                    let value = c.value.as_deref().unwrap_or_default();
                    (c.name.clone(), topic_settings::read(&c.name, value).unwrap_or_default())
                })
                .collect();
            let in_force = InForce { on_topic: &set, on_broker: topics.on_broker() };
            let entry = |setting| {
                let value = in_force.value_of(setting);
                CreatableTopicConfigResult {
                    name: setting.name.to_owned(),
                    value: Some(value.value),
                    config_source: value.source.code(),
                    ..Default::default()
                }
            };
            result.configs = Some(TOPIC_SETTINGS.iter().map(entry).collect());
        }
    }
    result
}
