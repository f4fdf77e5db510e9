//! ElectLeaders 0-2 (KIP-183, KIP-460): v2 flexible. With one replica its leader is the wanted one.

use crate::api::rooms::Topics;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    ElectLeadersPartitionResult, ElectLeadersRequest, ElectLeadersResponse, ElectLeadersTopic,
    ElectLeadersTopicResult,
};

/// Of the preferred leader, and of any that is left.
const ELECTIONS: [i8; 2] = [0, 1];

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<ElectLeadersResponse, WireError> {
    let asked = read::<ElectLeadersRequest>(request)?;
    let image = topics.image();
    let is_election = request.version == 0 || ELECTIONS.contains(&asked.election_type);
    let asks_nothing = asked.topic_partitions.as_ref().is_some_and(Vec::is_empty);
    let asked_topics = match asked.topic_partitions {
        Some(topics) => topics,
        None if !is_election => Vec::new(),
        // Asked for every partition, only those are told where something was to be done: of each topic none.
        None => {
            let mut all = Vec::new();
            for topic in image.by_name.values() {
                size.add(10 + topic.name.len()).await?;
                all.push(ElectLeadersTopic {
                    topic: topic.name.to_string(),
                    partitions: Vec::new(),
                });
            }
            all
        }
    };
    let topic = |topic: ElectLeadersTopic| {
        let one = |index: &i32| {
            let error = if !is_election {
                ErrorCode::InvalidRequest
            } else if image.has(&topic.topic, *index) {
                ErrorCode::ElectionNotNeeded
            } else {
                ErrorCode::UnknownTopicOrPartition
            };
            ElectLeadersPartitionResult {
                partition_id: *index,
                error_code: error.code(),
                error_message: Some(error.meaning().to_owned()),
            }
        };
        let partition_result = topic.partitions.iter().map(one).collect();
        ElectLeadersTopicResult { topic: topic.topic, partition_result }
    };
    let results = asked_topics.into_iter().map(topic).collect();
    let error =
        if is_election || asks_nothing { ErrorCode::None } else { ErrorCode::InvalidRequest };
    let error_code = error.code();
    let response = ElectLeadersResponse {
        error_code,
        replica_election_results: results,
        ..Default::default()
    };
    Ok(response)
}
