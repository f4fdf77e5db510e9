//! CreatePartitions 0-3 (KIP-195): v2 flexible.

use crate::api::rooms::Topics;
use crate::metadata::named::repeated;
use crate::network::answer::read;
use crate::network::request::Request;
use metadata::changes::Refusal;
use model::ErrorCode;
use model::limits::{PARTITIONS_PER_REQUEST_MAX, PARTITIONS_PER_TOPIC_MAX};
use std::collections::BTreeSet;
use wire::WireError;
use wire::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
    CreatePartitionsTopicResult,
};

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
) -> Result<CreatePartitionsResponse, WireError> {
    let asked = read::<CreatePartitionsRequest>(request)?;
    let repeated = repeated(asked.topics.iter().map(|topic| topic.name.clone()));
    let (mut results, mut told) = (Vec::new(), BTreeSet::new());
    let mut added = 0;
    for topic in asked.topics {
        if !told.insert(topic.name.clone()) {
            continue;
        }
        let grown = if repeated.contains(&topic.name) {
            Err((ErrorCode::InvalidRequest, "the request names this topic twice".to_owned()))
        } else {
            grow(topics, &topic, &mut added, asked.validate_only).await
        };
        let mut result = CreatePartitionsTopicResult { name: topic.name, ..Default::default() };
        if let Err((error, why)) = grown {
            (result.error_code, result.error_message) = (error.code(), Some(why));
        }
        results.push(result);
    }
    Ok(CreatePartitionsResponse { results, ..Default::default() })
}

async fn grow(
    topics: Topics<'_>,
    asked: &CreatePartitionsTopic,
    all_added: &mut i64,
    validate_only: bool,
) -> Result<(), Refusal> {
    let image = topics.image();
    let Some(topic) = image.topic(&asked.name) else {
        return Err((ErrorCode::UnknownTopicOrPartition, "no such topic".to_owned()));
    };
    if asked.count <= topic.count() || asked.count > PARTITIONS_PER_TOPIC_MAX {
        let why = format!(
            "the topic has {} partitions; from {} to {PARTITIONS_PER_TOPIC_MAX} may be asked for",
            topic.count(),
            topic.count() + 1
        );
        return Err((ErrorCode::InvalidPartitions, why));
    }
    if topic.is_internal() {
        let why = "which partition a group lives in follows from their number: it is fixed";
        return Err((ErrorCode::InvalidTopicException, why.to_owned()));
    }
    let node = topics.node().id().0;
    let added = (asked.count - topic.count()) as usize;
    if let Some(assignments) = &asked.assignments
        && (assignments.len() != added || assignments.iter().any(|a| a.broker_ids != [node]))
    {
        let why = format!("{added} new partitions, each on broker {node}, are expected");
        return Err((ErrorCode::InvalidReplicaAssignment, why));
    }
    *all_added += added as i64;
    if *all_added > PARTITIONS_PER_REQUEST_MAX {
        let why = format!("at most {PARTITIONS_PER_REQUEST_MAX} partitions are made in a request");
        return Err((ErrorCode::PolicyViolation, why));
    }
    if validate_only {
        return Ok(());
    }
    topics.grow(topic.id, asked.count).await
}
