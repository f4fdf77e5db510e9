//! AlterPartitionReassignments 0 (KIP-455): on one node every partition is where it can only be.

use crate::api::rooms::Topics;
use crate::network::answer::read;
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartition,
    ReassignablePartitionResponse, ReassignableTopic, ReassignableTopicResponse,
};

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
) -> Result<AlterPartitionReassignmentsResponse, WireError> {
    let asked = read::<AlterPartitionReassignmentsRequest>(request)?;
    let image = topics.image();
    let node = topics.node().id().0;
    let topic = |topic: ReassignableTopic| {
        let one = |asked: &ReassignablePartition| {
            let (error, why) = match &asked.replicas {
                _ if !image.has(&topic.name, asked.partition_index) => {
                    (ErrorCode::UnknownTopicOrPartition, None)
                }
                None => (ErrorCode::NoReassignmentInProgress, None),
                Some(replicas) if *replicas == [node] => (ErrorCode::None, None),
                Some(_) => (
                    ErrorCode::InvalidReplicaAssignment,
                    Some(format!("broker {node} is the only one")),
                ),
            };
            let meaning = (error != ErrorCode::None).then(|| error.meaning().to_owned());
            ReassignablePartitionResponse {
                partition_index: asked.partition_index,
                error_code: error.code(),
                error_message: why.or(meaning),
            }
        };
        let partitions = topic.partitions.iter().map(one).collect();
        ReassignableTopicResponse { name: topic.name, partitions }
    };
    let responses = asked.topics.into_iter().map(topic).collect();
    let response = AlterPartitionReassignmentsResponse { responses, ..Default::default() };
    Ok(response)
}
