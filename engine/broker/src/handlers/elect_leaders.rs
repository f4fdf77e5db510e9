//! ElectLeaders 0-2 (KIP-183, KIP-460): v2 flexible. With one replica its leader is the wanted one.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    ElectLeadersPartitionResult, ElectLeadersRequest, ElectLeadersResponse, ElectLeadersTopicResult,
};

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<ElectLeadersRequest>(request)?;
    let image = shard.image();
    // Asked for every partition, only those are told where something was to be done: none.
    let topic = |topic: wire::messages::ElectLeadersTopic| {
        let one = |index: &i32| {
            let error = if image.has(&topic.topic, *index) {
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
    let results = asked.topic_partitions.unwrap_or_default().into_iter().map(topic).collect();
    let response = ElectLeadersResponse { replica_election_results: results, ..Default::default() };
    Ok(respond(shard, request, &response))
}
