//! DescribeQuorum 0-1 (KIP-595): v1 when each replica fetched last. Of one node, which decides alone.

use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use crate::shard::node::Node;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    DescribeQuorumRequest, DescribeQuorumResponse, DescribedQuorumPartition, DescribedQuorumTopic,
    QuorumReplica, QuorumTopic,
};

/// The one partition that Kafka's nodes agree on; what it would hold is the catalog here.
const METADATA: (&str, i32) = ("__cluster_metadata", 0);

pub(crate) async fn handle(
    node: &Node,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DescribeQuorumResponse, WireError> {
    let asked = read::<DescribeQuorumRequest>(request)?;
    let is_metadata = |topic: &QuorumTopic| {
        topic.topic_name == METADATA.0
            && topic.partitions.iter().map(|asked| asked.partition_index).eq([METADATA.1])
    };
    // Asked for anything else beside it, Kafka knows nothing of the whole.
    let is_known = asked.topics.len() == 1 && asked.topics.iter().all(is_metadata);
    let one = |partition_index: i32| {
        if !is_known {
            let error_code = ErrorCode::UnknownTopicOrPartition.code();
            return DescribedQuorumPartition { partition_index, error_code, ..Default::default() };
        }
        let replica_id = node.id().0;
        DescribedQuorumPartition {
            partition_index,
            leader_id: replica_id,
            leader_epoch: node.epoch.0,
            current_voters: vec![QuorumReplica { replica_id, ..Default::default() }],
            ..Default::default()
        }
    };
    let mut topics = Vec::new();
    for topic in asked.topics {
        let mut partitions = Vec::new();
        size.add(20 + topic.topic_name.len()).await?;
        for asked in topic.partitions {
            size.add(60).await?;
            partitions.push(one(asked.partition_index));
        }
        topics.push(DescribedQuorumTopic { topic_name: topic.topic_name, partitions });
    }
    Ok(DescribeQuorumResponse { topics, ..Default::default() })
}
