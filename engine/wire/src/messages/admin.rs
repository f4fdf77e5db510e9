//! The messages of administration beyond topics: settings, disks, producers, transactions, leaders.

use crate::message::Message;
use crate::primitives::{Field, Reader, Version, put_no_tags};
use crate::{ApiKey, WireError};
use model::TopicId;

message! {
    /// A setting and its value; null goes back to the default.
    AlterableConfig {
        name: String = String::new(), _,
        value: Option<String> = None, _,
    }
}
message! {
    /// A resource and all settings it is to have: type 2 a topic, 4 a broker.
    AlterConfigsResource {
        resource_type: i8 = 0, _,
        resource_name: String = String::new(), _,
        configs: Vec<AlterableConfig> = Vec::new(), _,
    }
}
message! {
    /// Replaces all settings of each resource.
    AlterConfigsRequest of AlterConfigs {
        resources: Vec<AlterConfigsResource> = Vec::new(), _,
        validate_only: bool = false, _,
    }
}
message! {
    /// A resource's outcome.
    AlterConfigsResourceResponse {
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        resource_type: i8 = 0, _,
        resource_name: String = String::new(), _,
    }
}
message! {
    /// Outcomes per resource.
    AlterConfigsResponse of AlterConfigs {
        throttle_time_ms: i32 = 0, _,
        responses: Vec<AlterConfigsResourceResponse> = Vec::new(), _,
    }
}

message! {
    /// A change of one setting: operation 0 set, 1 delete, 2 append, 3 subtract (KIP-339).
    IncrementalConfig {
        name: String = String::new(), _,
        config_operation: i8 = 0, _,
        value: Option<String> = None, _,
    }
}
message! {
    /// A resource and the changes of its settings.
    IncrementalConfigsResource {
        resource_type: i8 = 0, _,
        resource_name: String = String::new(), _,
        configs: Vec<IncrementalConfig> = Vec::new(), _,
    }
}
message! {
    /// KIP-339: what is not named stays.
    IncrementalAlterConfigsRequest of IncrementalAlterConfigs {
        resources: Vec<IncrementalConfigsResource> = Vec::new(), _,
        validate_only: bool = false, _,
    }
}
message! {
    /// Outcomes per resource.
    IncrementalAlterConfigsResponse of IncrementalAlterConfigs {
        throttle_time_ms: i32 = 0, _,
        responses: Vec<AlterConfigsResourceResponse> = Vec::new(), _,
    }
}

message! {
    /// Partitions of a topic.
    DescribableLogDirTopic {
        topic: String = String::new(), _,
        partitions: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// Null: all partitions.
    DescribeLogDirsRequest of DescribeLogDirs {
        topics: Option<Vec<DescribableLogDirTopic>> = None, _,
    }
}
message! {
    /// What a partition takes on the disk.
    DescribeLogDirsPartition {
        partition_index: i32 = 0, _,
        partition_size: i64 = 0, _,
        offset_lag: i64 = 0, _,
        is_future_key: bool = false, _,
    }
}
message! {
    /// A topic's partitions in a directory.
    DescribeLogDirsTopic {
        name: String = String::new(), _,
        partitions: Vec<DescribeLogDirsPartition> = Vec::new(), _,
    }
}
message! {
    /// One of `log.dirs`; v4 how large its file system is and how much is free (KIP-827).
    DescribeLogDirsResult {
        error_code: i16 = 0, _,
        log_dir: String = String::new(), _,
        topics: Vec<DescribeLogDirsTopic> = Vec::new(), _,
        total_bytes: i64 = -1, 4..,
        usable_bytes: i64 = -1, 4..,
    }
}
message! {
    /// Directories.
    DescribeLogDirsResponse of DescribeLogDirs {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, 3..,
        results: Vec<DescribeLogDirsResult> = Vec::new(), _,
    }
}

message! {
    /// Partitions whose leader is to be elected.
    ElectLeadersTopic {
        topic: String = String::new(), _,
        partitions: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// v1 election type: 0 preferred, 1 unclean (KIP-460). Null: every partition.
    ElectLeadersRequest of ElectLeaders {
        election_type: i8 = 0, 1..,
        topic_partitions: Option<Vec<ElectLeadersTopic>> = None, _,
        timeout_ms: i32 = 60_000, _,
    }
}
message! {
    /// A partition's outcome.
    ElectLeadersPartitionResult {
        partition_id: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
    }
}
message! {
    /// A topic's outcomes.
    ElectLeadersTopicResult {
        topic: String = String::new(), _,
        partition_result: Vec<ElectLeadersPartitionResult> = Vec::new(), _,
    }
}
message! {
    /// Outcomes per partition.
    ElectLeadersResponse of ElectLeaders {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, 1..,
        replica_election_results: Vec<ElectLeadersTopicResult> = Vec::new(), _,
    }
}

message! {
    /// Where a partition is to go; null: stop moving it.
    ReassignablePartition {
        partition_index: i32 = 0, _,
        replicas: Option<Vec<i32>> = None, _,
    }
}
message! {
    /// A topic's partitions.
    ReassignableTopic {
        name: String = String::new(), _,
        partitions: Vec<ReassignablePartition> = Vec::new(), _,
    }
}
message! {
    /// KIP-455.
    AlterPartitionReassignmentsRequest of AlterPartitionReassignments {
        timeout_ms: i32 = 60_000, _,
        topics: Vec<ReassignableTopic> = Vec::new(), _,
    }
}
message! {
    /// A partition's outcome.
    ReassignablePartitionResponse {
        partition_index: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
    }
}
message! {
    /// A topic's outcomes.
    ReassignableTopicResponse {
        name: String = String::new(), _,
        partitions: Vec<ReassignablePartitionResponse> = Vec::new(), _,
    }
}
message! {
    /// Outcomes per partition.
    AlterPartitionReassignmentsResponse of AlterPartitionReassignments {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        responses: Vec<ReassignableTopicResponse> = Vec::new(), _,
    }
}

message! {
    /// Partitions asked about.
    ReassignmentsTopic {
        name: String = String::new(), _,
        partition_indexes: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// Null: all that are being reassigned (KIP-455).
    ListPartitionReassignmentsRequest of ListPartitionReassignments {
        timeout_ms: i32 = 60_000, _,
        topics: Option<Vec<ReassignmentsTopic>> = None, _,
    }
}
message! {
    /// A partition on its way.
    OngoingPartitionReassignment {
        partition_index: i32 = 0, _,
        replicas: Vec<i32> = Vec::new(), _,
        adding_replicas: Vec<i32> = Vec::new(), _,
        removing_replicas: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// A topic's partitions on their way.
    OngoingTopicReassignment {
        name: String = String::new(), _,
        partitions: Vec<OngoingPartitionReassignment> = Vec::new(), _,
    }
}
message! {
    /// What is being reassigned.
    ListPartitionReassignmentsResponse of ListPartitionReassignments {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        topics: Vec<OngoingTopicReassignment> = Vec::new(), _,
    }
}

message! {
    /// Partitions whose producers are asked for.
    DescribeProducersTopic {
        name: String = String::new(), _,
        partition_indexes: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// KIP-664.
    DescribeProducersRequest of DescribeProducers {
        topics: Vec<DescribeProducersTopic> = Vec::new(), _,
    }
}
message! {
    /// An idempotent producer that a partition knows.
    ProducerState {
        producer_id: i64 = 0, _,
        producer_epoch: i32 = 0, _,
        last_sequence: i32 = -1, _,
        last_timestamp: i64 = -1, _,
        coordinator_epoch: i32 = 0, _,
        current_txn_start_offset: i64 = -1, _,
    }
}
message! {
    /// A partition's producers.
    DescribeProducersPartition {
        partition_index: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        active_producers: Vec<ProducerState> = Vec::new(), _,
    }
}
message! {
    /// A topic's partitions.
    DescribeProducersTopicResponse {
        name: String = String::new(), _,
        partitions: Vec<DescribeProducersPartition> = Vec::new(), _,
    }
}
message! {
    /// Producers per partition.
    DescribeProducersResponse of DescribeProducers {
        throttle_time_ms: i32 = 0, _,
        topics: Vec<DescribeProducersTopicResponse> = Vec::new(), _,
    }
}

message! {
    /// KIP-664.
    DescribeTransactionsRequest of DescribeTransactions {
        transactional_ids: Vec<String> = Vec::new(), _,
    }
}
message! {
    /// Partitions that a transaction wrote to.
    TransactionTopic {
        topic: String = String::new(), _,
        partitions: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// A transactional id's state.
    DescribedTransaction {
        error_code: i16 = 0, _,
        transactional_id: String = String::new(), _,
        transaction_state: String = String::new(), _,
        transaction_timeout_ms: i32 = 0, _,
        transaction_start_time_ms: i64 = 0, _,
        producer_id: i64 = 0, _,
        producer_epoch: i16 = 0, _,
        topics: Vec<TransactionTopic> = Vec::new(), _,
    }
}
message! {
    /// States per transactional id.
    DescribeTransactionsResponse of DescribeTransactions {
        throttle_time_ms: i32 = 0, _,
        transaction_states: Vec<DescribedTransaction> = Vec::new(), _,
    }
}
message! {
    /// Empty filters: all; v1 only those that run for so long (KIP-994), v2 by pattern (KIP-1152).
    ListTransactionsRequest of ListTransactions {
        state_filters: Vec<String> = Vec::new(), _,
        producer_id_filters: Vec<i64> = Vec::new(), _,
        duration_filter: i64 = -1, 1..,
        transactional_id_pattern: Option<String> = None, 2..,
    }
}
message! {
    /// A transactional id.
    ListedTransaction {
        transactional_id: String = String::new(), _,
        producer_id: i64 = 0, _,
        transaction_state: String = String::new(), _,
    }
}
message! {
    /// The transactional ids this broker coordinates.
    ListTransactionsResponse of ListTransactions {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        unknown_state_filters: Vec<String> = Vec::new(), _,
        transaction_states: Vec<ListedTransaction> = Vec::new(), _,
    }
}

message! {
    /// KIP-1142; v1 of these types only, empty: all. Version 0 asks for client metrics resources.
    ListConfigResourcesRequest of ListConfigResources {
        resource_types: Vec<i8> = Vec::new(), 1..,
    }
}
message! {
    /// Something that has settings: type 2 a topic, 4 a broker, 16 client metrics.
    ConfigResource {
        resource_name: String = String::new(), _,
        resource_type: i8 = 16, 1..,
    }
}
message! {
    /// What has settings.
    ListConfigResourcesResponse of ListConfigResources {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        config_resources: Vec<ConfigResource> = Vec::new(), _,
    }
}

message! {
    /// A partition whose quorum is asked for.
    QuorumPartition {
        partition_index: i32 = 0, _,
    }
}
message! {
    /// Partitions whose quorums are asked for; there is one, `__cluster_metadata`-0.
    QuorumTopic {
        topic_name: String = String::new(), _,
        partitions: Vec<QuorumPartition> = Vec::new(), _,
    }
}
message! {
    /// KIP-595: who decides about metadata.
    DescribeQuorumRequest of DescribeQuorum {
        topics: Vec<QuorumTopic> = Vec::new(), _,
    }
}
message! {
    /// How far a voter or observer is; times are known of others than the leader.
    QuorumReplica {
        replica_id: i32 = 0, _,
        log_end_offset: i64 = 0, _,
        last_fetch_timestamp: i64 = -1, 1..,
        last_caught_up_timestamp: i64 = -1, 1..,
    }
}
message! {
    /// A partition's quorum.
    DescribedQuorumPartition {
        partition_index: i32 = 0, _,
        error_code: i16 = 0, _,
        leader_id: i32 = 0, _,
        leader_epoch: i32 = 0, _,
        high_watermark: i64 = 0, _,
        current_voters: Vec<QuorumReplica> = Vec::new(), _,
        observers: Vec<QuorumReplica> = Vec::new(), _,
    }
}
message! {
    /// Quorums of a topic's partitions.
    DescribedQuorumTopic {
        topic_name: String = String::new(), _,
        partitions: Vec<DescribedQuorumPartition> = Vec::new(), _,
    }
}
message! {
    /// Quorums.
    DescribeQuorumResponse of DescribeQuorum {
        error_code: i16 = 0, _,
        topics: Vec<DescribedQuorumTopic> = Vec::new(), _,
    }
}

message! {
    /// A feature's level that is wanted; v1 has the type of change instead of a flag.
    FeatureUpdate {
        feature: String = String::new(), _,
        max_version_level: i16 = 0, _,
        allow_downgrade: bool = false, 0,
        upgrade_type: i8 = 1, 1..,
    }
}
message! {
    /// KIP-584: levels of features are to change.
    UpdateFeaturesRequest of UpdateFeatures {
        timeout_ms: i32 = 60_000, _,
        feature_updates: Vec<FeatureUpdate> = Vec::new(), _,
        validate_only: bool = false, 1..,
    }
}
message! {
    /// What became of a feature.
    UpdatedFeature {
        feature: String = String::new(), _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
    }
}
message! {
    /// What became of all; from v2 on as a whole.
    UpdateFeaturesResponse of UpdateFeatures {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        results: Vec<UpdatedFeature> = Vec::new(), 0..=1,
    }
}

message! {
    /// A topic by name.
    TopicPartitionsTopic {
        name: String = String::new(), _,
    }
}
message! {
    /// Where to go on.
    TopicPartitionsCursor {
        topic_name: String = String::new(), _,
        partition_index: i32 = 0, _,
    }
}
message! {
    /// KIP-966: topics in pages; an empty list: all.
    DescribeTopicPartitionsRequest of DescribeTopicPartitions {
        topics: Vec<TopicPartitionsTopic> = Vec::new(), _,
        response_partition_limit: i32 = 2000, _,
        cursor: Option<TopicPartitionsCursor> = None, _,
    }
}
message! {
    /// A partition's leader and replicas.
    TopicPartitionsPartition {
        error_code: i16 = 0, _,
        partition_index: i32 = 0, _,
        leader_id: i32 = 0, _,
        leader_epoch: i32 = -1, _,
        replica_nodes: Vec<i32> = Vec::new(), _,
        isr_nodes: Vec<i32> = Vec::new(), _,
        eligible_leader_replicas: Option<Vec<i32>> = None, _,
        last_known_elr: Option<Vec<i32>> = None, _,
        offline_replicas: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// A topic, or a page of it.
    TopicPartitionsTopicResponse {
        error_code: i16 = 0, _,
        name: Option<String> = None, _,
        topic_id: TopicId = TopicId::ZERO, _,
        is_internal: bool = false, _,
        partitions: Vec<TopicPartitionsPartition> = Vec::new(), _,
        topic_authorized_operations: i32 = i32::MIN, _,
    }
}
message! {
    /// A page, and where the next begins.
    DescribeTopicPartitionsResponse of DescribeTopicPartitions {
        throttle_time_ms: i32 = 0, _,
        topics: Vec<TopicPartitionsTopicResponse> = Vec::new(), _,
        next_cursor: Option<TopicPartitionsCursor> = None, _,
    }
}

/// A structure that may be null begins with -1 (null) or 1.
impl Field for Option<TopicPartitionsCursor> {
    fn write(&self, out: &mut Vec<u8>, version: Version) {
        match self {
            Some(cursor) => {
                out.push(1);
                cursor.write(out, version);
            }
            None => out.push(0xff),
        }
    }

    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
        if reader.i8()? < 0 {
            return Ok(None);
        }
        TopicPartitionsCursor::read(reader, version).map(Some)
    }

    #[cfg(test)]
    fn sample(random: &mut dyn FnMut() -> u64, version: Version) -> Self {
        (random() & 1 == 1).then(|| TopicPartitionsCursor::sample(random, version))
    }
}
