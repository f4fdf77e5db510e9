//! DescribeQuorum 0-1 (KIP-595): v1 when each replica fetched last. Of one node, which decides alone.

use crate::dispatch::{AnswerSize, Outcome, read, respond};
use crate::named::each_once;
use crate::shard::{Request, Shard};
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    DescribeQuorumRequest, DescribeQuorumResponse, DescribedQuorumPartition, DescribedQuorumTopic,
    QuorumReplica,
};

/// The one partition that Kafka's nodes agree on; what it would hold is the catalog here.
const METADATA: (&str, i32) = ("__cluster_metadata", 0);

pub(crate) async fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DescribeQuorumRequest>(request)?;
    let node = &shard.node;
    let one = |topic: &str, partition_index: i32| {
        if (topic, partition_index) != METADATA {
            let error_code = ErrorCode::UnknownTopicOrPartition.code();
            return DescribedQuorumPartition { partition_index, error_code, ..Default::default() };
        }
        DescribedQuorumPartition {
            partition_index,
            leader_id: node.config.node_id,
            leader_epoch: node.epoch.0,
            current_voters: vec![QuorumReplica {
                replica_id: node.config.node_id,
                ..Default::default()
            }],
            ..Default::default()
        }
    };
    let names = asked.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|asked| (topic.topic_name.clone(), asked.partition_index))
    });
    let (mut topics, mut size) = (Vec::<DescribedQuorumTopic>::new(), AnswerSize::new(shard));
    for (topic_name, index) in each_once(names) {
        size.add(80 + topic_name.len()).await?;
        let partition = one(&topic_name, index);
        match topics.last_mut() {
            Some(topic) if topic.topic_name == topic_name => topic.partitions.push(partition),
            _ => topics.push(DescribedQuorumTopic { topic_name, partitions: vec![partition] }),
        }
    }
    Ok(respond(shard, request, &DescribeQuorumResponse { topics, ..Default::default() }))
}
