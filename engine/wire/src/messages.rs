//! The control messages, declared once each: fields in wire order with the versions that have them.
//!
//! `field: Type = default, FIRST..=LAST` is on the wire in those versions and has its default in all
//! others. A `..` range means every version. Reader and writer both come from the declaration.

pub use crate::message::Message;
use crate::primitives::{Field, Reader, Version, put_no_tags};
use crate::{ApiKey, WireError};
use model::TopicId;

mod admin;
mod features;
mod groups;
mod security;
mod transactions;

pub use admin::*;
pub use features::*;
pub use groups::*;
pub use security::*;
pub use transactions::*;

message! {
    /// KIP-35; v3 adds the client's software (KIP-511).
    ApiVersionsRequest of ApiVersions {
        client_software_name: String = String::new(), 3..,
        client_software_version: String = String::new(), 3..,
    }
}

message! {
    /// A topic asked for: by name, from v10 also by id (KIP-516).
    MetadataRequestTopic {
        topic_id: TopicId = TopicId::ZERO, 10..,
        name: Option<String> = None, _,
    }
}
message! {
    /// v0: empty means all; v1 on: null means all. v4 adds the auto-create flag.
    MetadataRequest of Metadata {
        topics: Option<Vec<MetadataRequestTopic>> = None, _,
        allow_auto_topic_creation: bool = true, 4..,
        include_cluster_authorized_operations: bool = false, 8..=10,
        include_topic_authorized_operations: bool = false, 8..,
    }
}
message! {
    /// A broker and where to reach it.
    MetadataBroker {
        node_id: i32 = 0, _,
        host: String = String::new(), _,
        port: i32 = 0, _,
        rack: Option<String> = None, 1..,
    }
}
message! {
    /// One partition's leader and replicas; v7 adds the leader epoch (KIP-320).
    MetadataPartition {
        error_code: i16 = 0, _,
        partition_index: i32 = 0, _,
        leader_id: i32 = 0, _,
        leader_epoch: i32 = -1, 7..,
        replica_nodes: Vec<i32> = Vec::new(), _,
        isr_nodes: Vec<i32> = Vec::new(), _,
        offline_replicas: Vec<i32> = Vec::new(), 5..,
    }
}
message! {
    /// One topic; the name is nullable from v12, when it was asked for by an unknown id.
    MetadataTopic {
        error_code: i16 = 0, _,
        name: Option<String> = None, _,
        topic_id: TopicId = TopicId::ZERO, 10..,
        is_internal: bool = false, 1..,
        partitions: Vec<MetadataPartition> = Vec::new(), _,
        topic_authorized_operations: i32 = i32::MIN, 8..,
    }
}
message! {
    /// v13 adds a top-level error.
    MetadataResponse of Metadata {
        throttle_time_ms: i32 = 0, 3..,
        brokers: Vec<MetadataBroker> = Vec::new(), _,
        cluster_id: Option<String> = None, 2..,
        controller_id: i32 = -1, 1..,
        topics: Vec<MetadataTopic> = Vec::new(), _,
        cluster_authorized_operations: i32 = i32::MIN, 8..=10,
        error_code: i16 = 0, 13..,
    }
}

message! {
    /// A partition and the time looked for; -1 latest, -2 earliest, -3 largest timestamp.
    ListOffsetsPartition {
        partition_index: i32 = 0, _,
        current_leader_epoch: i32 = -1, 4..,
        timestamp: i64 = 0, _,
    }
}
message! {
    /// A topic's partitions.
    ListOffsetsTopic {
        name: String = String::new(), _,
        partitions: Vec<ListOffsetsPartition> = Vec::new(), _,
    }
}
message! {
    /// v2 adds isolation, v4 leader epochs, v7 to v9 special timestamps, v10 a timeout.
    ListOffsetsRequest of ListOffsets {
        replica_id: i32 = -1, _,
        isolation_level: i8 = 0, 2..,
        topics: Vec<ListOffsetsTopic> = Vec::new(), _,
        timeout_ms: i32 = 0, 10..,
    }
}
message! {
    /// The offset found, -1 if none.
    ListOffsetsPartitionResponse {
        partition_index: i32 = 0, _,
        error_code: i16 = 0, _,
        timestamp: i64 = -1, _,
        offset: i64 = -1, _,
        leader_epoch: i32 = -1, 4..,
    }
}
message! {
    /// A topic's answers.
    ListOffsetsTopicResponse {
        name: String = String::new(), _,
        partitions: Vec<ListOffsetsPartitionResponse> = Vec::new(), _,
    }
}
message! {
    /// Answers per topic.
    ListOffsetsResponse of ListOffsets {
        throttle_time_ms: i32 = 0, 2..,
        topics: Vec<ListOffsetsTopicResponse> = Vec::new(), _,
    }
}

message! {
    /// v4 on asks for several keys at once (KIP-699).
    FindCoordinatorRequest of FindCoordinator {
        key: String = String::new(), 0..=3,
        key_type: i8 = 0, 1..,
        coordinator_keys: Vec<String> = Vec::new(), 4..,
    }
}
message! {
    /// One key's coordinator.
    Coordinator {
        key: String = String::new(), _,
        node_id: i32 = -1, _,
        host: String = String::new(), _,
        port: i32 = -1, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
    }
}
message! {
    /// One coordinator up to v3, a list from v4.
    FindCoordinatorResponse of FindCoordinator {
        throttle_time_ms: i32 = 0, 1..,
        error_code: i16 = 0, 0..=3,
        error_message: Option<String> = None, 1..=3,
        node_id: i32 = -1, 0..=3,
        host: String = String::new(), 0..=3,
        port: i32 = -1, 0..=3,
        coordinators: Vec<Coordinator> = Vec::new(), 4..,
    }
}

message! {
    /// A partition placed by hand.
    CreatableReplicaAssignment {
        partition_index: i32 = 0, _,
        broker_ids: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// A topic setting.
    CreatableTopicConfig {
        name: String = String::new(), _,
        value: Option<String> = None, _,
    }
}
message! {
    /// A topic to create; -1 partitions or replicas mean the broker's defaults (KIP-464).
    CreatableTopic {
        name: String = String::new(), _,
        num_partitions: i32 = -1, _,
        replication_factor: i16 = -1, _,
        assignments: Vec<CreatableReplicaAssignment> = Vec::new(), _,
        configs: Vec<CreatableTopicConfig> = Vec::new(), _,
    }
}
message! {
    /// `validate_only` checks and creates nothing.
    CreateTopicsRequest of CreateTopics {
        topics: Vec<CreatableTopic> = Vec::new(), _,
        timeout_ms: i32 = 0, _,
        validate_only: bool = false, _,
    }
}
message! {
    /// A setting of the new topic (KIP-525).
    CreatableTopicConfigResult {
        name: String = String::new(), _,
        value: Option<String> = None, _,
        read_only: bool = false, _,
        config_source: i8 = -1, _,
        is_sensitive: bool = false, _,
    }
}
message! {
    /// One topic's outcome; v5 adds what it got, v7 its id.
    CreatableTopicResult {
        name: String = String::new(), _,
        topic_id: TopicId = TopicId::ZERO, 7..,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        num_partitions: i32 = -1, 5..,
        replication_factor: i16 = -1, 5..,
        configs: Option<Vec<CreatableTopicConfigResult>> = None, 5..,
    }
}
message! {
    /// Outcomes per topic.
    CreateTopicsResponse of CreateTopics {
        throttle_time_ms: i32 = 0, _,
        topics: Vec<CreatableTopicResult> = Vec::new(), _,
    }
}

message! {
    /// A topic to delete, by name or from v6 by id.
    DeleteTopicState {
        name: Option<String> = None, _,
        topic_id: TopicId = TopicId::ZERO, _,
    }
}
message! {
    /// Names up to v5, states from v6.
    DeleteTopicsRequest of DeleteTopics {
        topics: Vec<DeleteTopicState> = Vec::new(), 6..,
        topic_names: Vec<String> = Vec::new(), 0..=5,
        timeout_ms: i32 = 0, _,
    }
}
message! {
    /// One topic's outcome.
    DeletableTopicResult {
        name: Option<String> = None, _,
        topic_id: TopicId = TopicId::ZERO, 6..,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, 5..,
    }
}
message! {
    /// Outcomes per topic.
    DeleteTopicsResponse of DeleteTopics {
        throttle_time_ms: i32 = 0, 1..,
        responses: Vec<DeletableTopicResult> = Vec::new(), _,
    }
}

message! {
    /// A partition, and the offset below which its records are deleted; -1: all that are committed.
    DeleteRecordsPartition {
        partition_index: i32 = 0, _,
        offset: i64 = 0, _,
    }
}
message! {
    /// A topic's partitions.
    DeleteRecordsTopic {
        name: String = String::new(), _,
        partitions: Vec<DeleteRecordsPartition> = Vec::new(), _,
    }
}
message! {
    /// KIP-107.
    DeleteRecordsRequest of DeleteRecords {
        topics: Vec<DeleteRecordsTopic> = Vec::new(), _,
        timeout_ms: i32 = 0, _,
    }
}
message! {
    /// The first offset left.
    DeleteRecordsPartitionResult {
        partition_index: i32 = 0, _,
        low_watermark: i64 = 0, _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// A topic's outcomes.
    DeleteRecordsTopicResult {
        name: String = String::new(), _,
        partitions: Vec<DeleteRecordsPartitionResult> = Vec::new(), _,
    }
}
message! {
    /// Outcomes per partition.
    DeleteRecordsResponse of DeleteRecords {
        throttle_time_ms: i32 = 0, _,
        topics: Vec<DeleteRecordsTopicResult> = Vec::new(), _,
    }
}

message! {
    /// The epoch asked about.
    OffsetForLeaderPartition {
        partition: i32 = 0, _,
        current_leader_epoch: i32 = -1, _,
        leader_epoch: i32 = -1, _,
    }
}
message! {
    /// A topic's partitions.
    OffsetForLeaderTopic {
        topic: String = String::new(), _,
        partitions: Vec<OffsetForLeaderPartition> = Vec::new(), _,
    }
}
message! {
    /// KIP-101, KIP-320; v3 adds the replica id.
    OffsetForLeaderEpochRequest of OffsetForLeaderEpoch {
        replica_id: i32 = -2, 3..,
        topics: Vec<OffsetForLeaderTopic> = Vec::new(), _,
    }
}
message! {
    /// Where the asked epoch ended.
    EpochEndOffset {
        error_code: i16 = 0, _,
        partition: i32 = 0, _,
        leader_epoch: i32 = -1, _,
        end_offset: i64 = -1, _,
    }
}
message! {
    /// A topic's answers.
    OffsetForLeaderTopicResult {
        topic: String = String::new(), _,
        partitions: Vec<EpochEndOffset> = Vec::new(), _,
    }
}
message! {
    /// Answers per topic.
    OffsetForLeaderEpochResponse of OffsetForLeaderEpoch {
        throttle_time_ms: i32 = 0, _,
        topics: Vec<OffsetForLeaderTopicResult> = Vec::new(), _,
    }
}

message! {
    /// What to describe: type 2 a topic, 4 a broker; null keys mean all.
    DescribeConfigsResource {
        resource_type: i8 = 0, _,
        resource_name: String = String::new(), _,
        configuration_keys: Option<Vec<String>> = None, _,
    }
}
message! {
    /// v3 adds documentation.
    DescribeConfigsRequest of DescribeConfigs {
        resources: Vec<DescribeConfigsResource> = Vec::new(), _,
        include_synonyms: bool = false, _,
        include_documentation: bool = false, 3..,
    }
}
message! {
    /// Where else a value could come from.
    DescribeConfigsSynonym {
        name: String = String::new(), _,
        value: Option<String> = None, _,
        source: i8 = 0, _,
    }
}
message! {
    /// One setting; source 1 topic, 4 static broker, 5 default.
    DescribeConfigsEntry {
        name: String = String::new(), _,
        value: Option<String> = None, _,
        read_only: bool = false, _,
        config_source: i8 = -1, _,
        is_sensitive: bool = false, _,
        synonyms: Vec<DescribeConfigsSynonym> = Vec::new(), _,
        config_type: i8 = 0, 3..,
        documentation: Option<String> = None, 3..,
    }
}
message! {
    /// One resource's settings.
    DescribeConfigsResult {
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        resource_type: i8 = 0, _,
        resource_name: String = String::new(), _,
        configs: Vec<DescribeConfigsEntry> = Vec::new(), _,
    }
}
message! {
    /// Results per resource.
    DescribeConfigsResponse of DescribeConfigs {
        throttle_time_ms: i32 = 0, _,
        results: Vec<DescribeConfigsResult> = Vec::new(), _,
    }
}

message! {
    /// Where new partitions go.
    CreatePartitionsAssignment {
        broker_ids: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// A topic and its new count of partitions.
    CreatePartitionsTopic {
        name: String = String::new(), _,
        count: i32 = 0, _,
        assignments: Option<Vec<CreatePartitionsAssignment>> = None, _,
    }
}
message! {
    /// KIP-195.
    CreatePartitionsRequest of CreatePartitions {
        topics: Vec<CreatePartitionsTopic> = Vec::new(), _,
        timeout_ms: i32 = 0, _,
        validate_only: bool = false, _,
    }
}
message! {
    /// One topic's outcome.
    CreatePartitionsTopicResult {
        name: String = String::new(), _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
    }
}
message! {
    /// Outcomes per topic.
    CreatePartitionsResponse of CreatePartitions {
        throttle_time_ms: i32 = 0, _,
        results: Vec<CreatePartitionsTopicResult> = Vec::new(), _,
    }
}

message! {
    /// KIP-700; v1 adds the endpoint type, v2 fenced brokers.
    DescribeClusterRequest of DescribeCluster {
        include_cluster_authorized_operations: bool = false, _,
        endpoint_type: i8 = 1, 1..,
        include_fenced_brokers: bool = false, 2..,
    }
}
message! {
    /// A broker and where to reach it.
    DescribeClusterBroker {
        broker_id: i32 = 0, _,
        host: String = String::new(), _,
        port: i32 = 0, _,
        rack: Option<String> = None, _,
        is_fenced: bool = false, 2..,
    }
}
message! {
    /// The cluster's id, controller and brokers.
    DescribeClusterResponse of DescribeCluster {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        endpoint_type: i8 = 1, 1..,
        cluster_id: String = String::new(), _,
        controller_id: i32 = -1, _,
        brokers: Vec<DescribeClusterBroker> = Vec::new(), _,
        cluster_authorized_operations: i32 = i32::MIN, _,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::{Decodable, Encodable};

    fn random(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 29
        }
    }

    #[global_allocator]
    static ALLOCATOR: runtime::allocations::Counting = runtime::allocations::Counting;

    /// Bytes of someone who is not trusted: nothing is taken for them beyond what is allowed, whatever they announce.
    fn takes_little<Ours: Message>(bytes: &[u8], version: i16) {
        let mut reader = Reader::new(bytes);
        let (_, peak) =
            runtime::allocations::peak_bytes_of(|| Ours::decode_untrusted(&mut reader, version));
        let allowed = 4 * bytes.len() + model::limits::DECODE_BYTES_FREE;
        let name = std::any::type_name::<Ours>();
        assert!(peak <= allowed, "{name} v{version}: {peak} for {} bytes", bytes.len());
    }

    /// The same bytes with a large count in them, and behind it what may pass for so many elements.
    fn grown(bytes: &[u8], elements_max: u64, random: &mut impl FnMut() -> u64) -> Vec<u8> {
        let mut grown = bytes[..random() as usize % (bytes.len() + 1)].to_vec();
        let count = (random() % elements_max) as usize;
        crate::primitives::put_count(&mut grown, Some(count), random().is_multiple_of(2));
        let (element, fill) = (random() as usize % 12, random() as usize % 4);
        for number in 0..count {
            let first = if random().is_multiple_of(64) { random() as u8 } else { fill as u8 };
            grown.push(first);
            let rest = element.min(number);
            grown.extend(std::iter::repeat_n(u8::from(random().is_multiple_of(8)), rest));
        }
        grown
    }

    /// Every version of a message: ours, read by an independent codec, written by it, is ours; and
    /// we read it back. Cut and damaged bytes never panic.
    fn agrees<Ours: Message + PartialEq + std::fmt::Debug, Theirs: Decodable + Encodable>(
        versions: std::ops::RangeInclusive<i16>,
    ) {
        for version in versions {
            for seed in 0..30 {
                let mut random = random(seed);
                let flexible = Ours::KEY.is_flexible(version);
                let ours = Ours::sample(&mut random, Version { number: version, flexible });
                let mut bytes = Vec::new();
                ours.encode(&mut bytes, version);
                let name = std::any::type_name::<Ours>();
                let mut theirs_in = &bytes[..];
                let theirs = Theirs::decode(&mut theirs_in, version)
                    .unwrap_or_else(|e| panic!("{name} v{version} seed {seed}: {e}: {ours:?}"));
                assert!(
                    theirs_in.is_empty(),
                    "{name} v{version} seed {seed}: bytes left: {ours:?}"
                );
                let mut theirs_out = Vec::new();
                theirs.encode(&mut theirs_out, version).unwrap();
                assert_eq!(theirs_out, bytes, "{name} v{version} seed {seed}: {ours:?}");
                let back = Ours::decode(&mut Reader::new(&bytes), version).unwrap();
                assert_eq!(back, ours, "{name} v{version} seed {seed}");
                for _ in 0..20 {
                    let mut damaged = bytes.clone();
                    damaged.truncate(random() as usize % (bytes.len() + 1));
                    if !damaged.is_empty() {
                        let at = random() as usize % damaged.len();
                        damaged[at] = random() as u8;
                    }
                    takes_little::<Ours>(&damaged, version);
                }
                // A few are so large that what is free for all of them does not matter.
                let elements_max = if seed < 3 { 400_000 } else { 2_000 };
                takes_little::<Ours>(&grown(&bytes, elements_max, &mut random), version);
            }
        }
    }

    #[test]
    fn every_message_agrees_with_an_independent_codec() {
        use kafka_protocol::messages as theirs;
        agrees::<ApiVersionsRequest, theirs::ApiVersionsRequest>(0..=4);
        agrees::<ApiVersionsResponse, theirs::ApiVersionsResponse>(0..=4);
        agrees::<MetadataRequest, theirs::MetadataRequest>(0..=13);
        agrees::<MetadataResponse, theirs::MetadataResponse>(0..=13);
        agrees::<ListOffsetsRequest, theirs::ListOffsetsRequest>(1..=10);
        agrees::<ListOffsetsResponse, theirs::ListOffsetsResponse>(1..=10);
        agrees::<FindCoordinatorRequest, theirs::FindCoordinatorRequest>(0..=6);
        agrees::<FindCoordinatorResponse, theirs::FindCoordinatorResponse>(0..=6);
        agrees::<CreateTopicsRequest, theirs::CreateTopicsRequest>(2..=7);
        agrees::<CreateTopicsResponse, theirs::CreateTopicsResponse>(2..=7);
        agrees::<DeleteTopicsRequest, theirs::DeleteTopicsRequest>(1..=6);
        agrees::<DeleteTopicsResponse, theirs::DeleteTopicsResponse>(1..=6);
        agrees::<DeleteRecordsRequest, theirs::DeleteRecordsRequest>(0..=2);
        agrees::<DeleteRecordsResponse, theirs::DeleteRecordsResponse>(0..=2);
        agrees::<OffsetForLeaderEpochRequest, theirs::OffsetForLeaderEpochRequest>(2..=4);
        agrees::<OffsetForLeaderEpochResponse, theirs::OffsetForLeaderEpochResponse>(2..=4);
        agrees::<DescribeConfigsRequest, theirs::DescribeConfigsRequest>(1..=4);
        agrees::<DescribeConfigsResponse, theirs::DescribeConfigsResponse>(1..=4);
        agrees::<CreatePartitionsRequest, theirs::CreatePartitionsRequest>(0..=3);
        agrees::<CreatePartitionsResponse, theirs::CreatePartitionsResponse>(0..=3);
        agrees::<DescribeClusterRequest, theirs::DescribeClusterRequest>(0..=2);
        agrees::<DescribeClusterResponse, theirs::DescribeClusterResponse>(0..=2);
    }

    #[test]
    fn group_messages_agree_with_an_independent_codec() {
        use kafka_protocol::messages as theirs;
        agrees::<JoinGroupRequest, theirs::JoinGroupRequest>(0..=9);
        agrees::<JoinGroupResponse, theirs::JoinGroupResponse>(0..=9);
        agrees::<SyncGroupRequest, theirs::SyncGroupRequest>(0..=5);
        agrees::<SyncGroupResponse, theirs::SyncGroupResponse>(0..=5);
        agrees::<HeartbeatRequest, theirs::HeartbeatRequest>(0..=4);
        agrees::<HeartbeatResponse, theirs::HeartbeatResponse>(0..=4);
        agrees::<LeaveGroupRequest, theirs::LeaveGroupRequest>(0..=5);
        agrees::<LeaveGroupResponse, theirs::LeaveGroupResponse>(0..=5);
        agrees::<OffsetCommitRequest, theirs::OffsetCommitRequest>(2..=9);
        agrees::<OffsetCommitResponse, theirs::OffsetCommitResponse>(2..=9);
        agrees::<OffsetFetchRequest, theirs::OffsetFetchRequest>(1..=9);
        agrees::<OffsetFetchResponse, theirs::OffsetFetchResponse>(1..=9);
        agrees::<DescribeGroupsRequest, theirs::DescribeGroupsRequest>(0..=6);
        agrees::<DescribeGroupsResponse, theirs::DescribeGroupsResponse>(0..=6);
        agrees::<ListGroupsRequest, theirs::ListGroupsRequest>(0..=5);
        agrees::<ListGroupsResponse, theirs::ListGroupsResponse>(0..=5);
        agrees::<DeleteGroupsRequest, theirs::DeleteGroupsRequest>(0..=2);
        agrees::<DeleteGroupsResponse, theirs::DeleteGroupsResponse>(0..=2);
        agrees::<OffsetDeleteRequest, theirs::OffsetDeleteRequest>(0..=0);
        agrees::<OffsetDeleteResponse, theirs::OffsetDeleteResponse>(0..=0);
    }

    #[test]
    fn transaction_messages_agree_with_an_independent_codec() {
        use kafka_protocol::messages as theirs;
        agrees::<InitProducerIdRequest, theirs::InitProducerIdRequest>(0..=5);
        agrees::<InitProducerIdResponse, theirs::InitProducerIdResponse>(0..=5);
        agrees::<AddPartitionsToTxnRequest, theirs::AddPartitionsToTxnRequest>(0..=3);
        agrees::<AddPartitionsToTxnResponse, theirs::AddPartitionsToTxnResponse>(0..=3);
        agrees::<AddOffsetsToTxnRequest, theirs::AddOffsetsToTxnRequest>(0..=4);
        agrees::<AddOffsetsToTxnResponse, theirs::AddOffsetsToTxnResponse>(0..=4);
        agrees::<EndTxnRequest, theirs::EndTxnRequest>(0..=5);
        agrees::<EndTxnResponse, theirs::EndTxnResponse>(0..=5);
        agrees::<WriteTxnMarkersRequest, theirs::WriteTxnMarkersRequest>(1..=1);
        agrees::<WriteTxnMarkersResponse, theirs::WriteTxnMarkersResponse>(1..=1);
        agrees::<TxnOffsetCommitRequest, theirs::TxnOffsetCommitRequest>(0..=5);
        agrees::<TxnOffsetCommitResponse, theirs::TxnOffsetCommitResponse>(0..=5);
    }

    #[test]
    fn admin_messages_agree_with_an_independent_codec() {
        use kafka_protocol::messages as theirs;
        agrees::<AlterConfigsRequest, theirs::AlterConfigsRequest>(0..=2);
        agrees::<AlterConfigsResponse, theirs::AlterConfigsResponse>(0..=2);
        agrees::<IncrementalAlterConfigsRequest, theirs::IncrementalAlterConfigsRequest>(0..=1);
        agrees::<IncrementalAlterConfigsResponse, theirs::IncrementalAlterConfigsResponse>(0..=1);
        agrees::<DescribeLogDirsRequest, theirs::DescribeLogDirsRequest>(1..=4);
        agrees::<DescribeLogDirsResponse, theirs::DescribeLogDirsResponse>(1..=4);
        agrees::<ElectLeadersRequest, theirs::ElectLeadersRequest>(0..=2);
        agrees::<ElectLeadersResponse, theirs::ElectLeadersResponse>(0..=2);
        agrees::<AlterPartitionReassignmentsRequest, theirs::AlterPartitionReassignmentsRequest>(
            0..=0,
        );
        agrees::<AlterPartitionReassignmentsResponse, theirs::AlterPartitionReassignmentsResponse>(
            0..=0,
        );
        agrees::<ListPartitionReassignmentsRequest, theirs::ListPartitionReassignmentsRequest>(
            0..=0,
        );
        agrees::<ListPartitionReassignmentsResponse, theirs::ListPartitionReassignmentsResponse>(
            0..=0,
        );
        agrees::<DescribeProducersRequest, theirs::DescribeProducersRequest>(0..=0);
        agrees::<DescribeProducersResponse, theirs::DescribeProducersResponse>(0..=0);
        agrees::<DescribeTransactionsRequest, theirs::DescribeTransactionsRequest>(0..=0);
        agrees::<DescribeTransactionsResponse, theirs::DescribeTransactionsResponse>(0..=0);
        agrees::<ListTransactionsRequest, theirs::ListTransactionsRequest>(0..=2);
        agrees::<ListTransactionsResponse, theirs::ListTransactionsResponse>(0..=2);
        agrees::<DescribeAclsRequest, theirs::DescribeAclsRequest>(1..=3);
        agrees::<DescribeAclsResponse, theirs::DescribeAclsResponse>(1..=3);
        agrees::<CreateAclsRequest, theirs::CreateAclsRequest>(1..=3);
        agrees::<CreateAclsResponse, theirs::CreateAclsResponse>(1..=3);
        agrees::<DeleteAclsRequest, theirs::DeleteAclsRequest>(1..=3);
        agrees::<DeleteAclsResponse, theirs::DeleteAclsResponse>(1..=3);
        agrees::<DescribeClientQuotasRequest, theirs::DescribeClientQuotasRequest>(0..=1);
        agrees::<DescribeClientQuotasResponse, theirs::DescribeClientQuotasResponse>(0..=1);
        agrees::<DescribeUserScramCredentialsRequest, theirs::DescribeUserScramCredentialsRequest>(
            0..=0,
        );
        agrees::<DescribeUserScramCredentialsResponse, theirs::DescribeUserScramCredentialsResponse>(
            0..=0,
        );
        agrees::<SaslHandshakeRequest, theirs::SaslHandshakeRequest>(0..=1);
        agrees::<SaslHandshakeResponse, theirs::SaslHandshakeResponse>(0..=1);
        agrees::<SaslAuthenticateRequest, theirs::SaslAuthenticateRequest>(0..=2);
        agrees::<SaslAuthenticateResponse, theirs::SaslAuthenticateResponse>(0..=2);
        agrees::<DescribeQuorumRequest, theirs::DescribeQuorumRequest>(0..=1);
        agrees::<DescribeQuorumResponse, theirs::DescribeQuorumResponse>(0..=1);
        agrees::<UpdateFeaturesRequest, theirs::UpdateFeaturesRequest>(0..=2);
        agrees::<UpdateFeaturesResponse, theirs::UpdateFeaturesResponse>(0..=2);
        agrees::<ListConfigResourcesRequest, theirs::ListConfigResourcesRequest>(0..=1);
        agrees::<ListConfigResourcesResponse, theirs::ListConfigResourcesResponse>(0..=1);
        agrees::<DescribeTopicPartitionsRequest, theirs::DescribeTopicPartitionsRequest>(0..=0);
        agrees::<DescribeTopicPartitionsResponse, theirs::DescribeTopicPartitionsResponse>(0..=0);
    }

    #[test]
    fn a_huge_count_takes_no_memory() {
        let bytes = [0x7f, 0xff, 0xff, 0xff];
        assert_eq!(MetadataRequest::decode(&mut Reader::new(&bytes), 1), Err(WireError::Count));
        let bytes = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(MetadataRequest::decode(&mut Reader::new(&bytes), 9), Err(WireError::Count));
    }

    #[test]
    fn elements_of_a_byte_take_no_more_than_four_times_their_bytes() {
        let groups = |names: &[&str]| {
            let groups = names.iter().map(|name| (*name).to_owned()).collect();
            let mut bytes = Vec::new();
            DescribeGroupsRequest { groups, ..Default::default() }.encode(&mut bytes, 5);
            bytes
        };
        let read =
            |bytes: &[u8]| DescribeGroupsRequest::decode_untrusted(&mut Reader::new(bytes), 5);
        let empty = groups(&vec![""; 1 << 20]);
        assert_eq!(read(&empty), Err(WireError::Memory));
        let many = groups(&vec!["a-group-of-a-service"; 100_000]);
        assert_eq!(read(&many).unwrap().groups.len(), 100_000);
        assert_eq!(read(&groups(&["a"; 20_000])).unwrap().groups.len(), 20_000);
    }
}
