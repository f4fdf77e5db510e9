//! The messages of consumer groups and their committed offsets.

use crate::message::Message;
use crate::primitives::{Field, Reader, Version, put_no_tags};
use crate::{ApiKey, WireError};

message! {
    /// A protocol that a member offers, with what it tells the others.
    JoinGroupProtocol {
        name: String = String::new(), _,
        metadata: Vec<u8> = Vec::new(), _,
    }
}
message! {
    /// v1 rebalance timeout, v4 two-step member ids (KIP-394), v5 static members (KIP-345), v8 reason.
    JoinGroupRequest of JoinGroup {
        group_id: String = String::new(), _,
        session_timeout_ms: i32 = 0, _,
        rebalance_timeout_ms: i32 = -1, 1..,
        member_id: String = String::new(), _,
        group_instance_id: Option<String> = None, 5..,
        protocol_type: String = String::new(), _,
        protocols: Vec<JoinGroupProtocol> = Vec::new(), _,
        reason: Option<String> = None, 8..,
    }
}
message! {
    /// A member, as the leader is told of it.
    JoinGroupMember {
        member_id: String = String::new(), _,
        group_instance_id: Option<String> = None, 5..,
        metadata: Vec<u8> = Vec::new(), _,
    }
}
message! {
    /// v7 protocol type, and the protocol may be null; v9 tells a leader to leave the assignment be.
    JoinGroupResponse of JoinGroup {
        throttle_time_ms: i32 = 0, 2..,
        error_code: i16 = 0, _,
        generation_id: i32 = -1, _,
        protocol_type: Option<String> = None, 7..,
        protocol_name: Option<String> = None, _,
        leader: String = String::new(), _,
        skip_assignment: bool = false, 9..,
        member_id: String = String::new(), _,
        members: Vec<JoinGroupMember> = Vec::new(), _,
    }
}

message! {
    /// What the leader assigns to a member.
    SyncGroupAssignment {
        member_id: String = String::new(), _,
        assignment: Vec<u8> = Vec::new(), _,
    }
}
message! {
    /// v3 static members, v5 protocol type and name, to be checked (KIP-559).
    SyncGroupRequest of SyncGroup {
        group_id: String = String::new(), _,
        generation_id: i32 = 0, _,
        member_id: String = String::new(), _,
        group_instance_id: Option<String> = None, 3..,
        protocol_type: Option<String> = None, 5..,
        protocol_name: Option<String> = None, 5..,
        assignments: Vec<SyncGroupAssignment> = Vec::new(), _,
    }
}
message! {
    /// The member's assignment.
    SyncGroupResponse of SyncGroup {
        throttle_time_ms: i32 = 0, 1..,
        error_code: i16 = 0, _,
        protocol_type: Option<String> = None, 5..,
        protocol_name: Option<String> = None, 5..,
        assignment: Vec<u8> = Vec::new(), _,
    }
}

message! {
    /// "I am alive"; v3 static members.
    HeartbeatRequest of Heartbeat {
        group_id: String = String::new(), _,
        generation_id: i32 = 0, _,
        member_id: String = String::new(), _,
        group_instance_id: Option<String> = None, 3..,
    }
}
message! {
    /// Whether the member is to join again.
    HeartbeatResponse of Heartbeat {
        throttle_time_ms: i32 = 0, 1..,
        error_code: i16 = 0, _,
    }
}

message! {
    /// A member that leaves, or that an administrator removes by its instance id.
    LeavingMember {
        member_id: String = String::new(), _,
        group_instance_id: Option<String> = None, _,
        reason: Option<String> = None, 5..,
    }
}
message! {
    /// One member up to v2, several from v3.
    LeaveGroupRequest of LeaveGroup {
        group_id: String = String::new(), _,
        member_id: String = String::new(), 0..=2,
        members: Vec<LeavingMember> = Vec::new(), 3..,
    }
}
message! {
    /// One leaving member's outcome.
    LeftMember {
        member_id: String = String::new(), _,
        group_instance_id: Option<String> = None, _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// Outcomes per member from v3.
    LeaveGroupResponse of LeaveGroup {
        throttle_time_ms: i32 = 0, 1..,
        error_code: i16 = 0, _,
        members: Vec<LeftMember> = Vec::new(), 3..,
    }
}

message! {
    /// A partition's offset to keep.
    OffsetCommitPartition {
        partition_index: i32 = 0, _,
        committed_offset: i64 = 0, _,
        committed_leader_epoch: i32 = -1, 6..,
        committed_metadata: Option<String> = None, _,
    }
}
message! {
    /// A topic's partitions.
    OffsetCommitTopic {
        name: String = String::new(), _,
        partitions: Vec<OffsetCommitPartition> = Vec::new(), _,
    }
}
message! {
    /// v6 leader epochs, v7 static members.
    OffsetCommitRequest of OffsetCommit {
        group_id: String = String::new(), _,
        generation_id: i32 = -1, _,
        member_id: String = String::new(), _,
        group_instance_id: Option<String> = None, 7..,
        retention_time_ms: i64 = -1, 2..=4,
        topics: Vec<OffsetCommitTopic> = Vec::new(), _,
    }
}
message! {
    /// A partition's outcome.
    OffsetCommitPartitionResponse {
        partition_index: i32 = 0, _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// A topic's outcomes.
    OffsetCommitTopicResponse {
        name: String = String::new(), _,
        partitions: Vec<OffsetCommitPartitionResponse> = Vec::new(), _,
    }
}
message! {
    /// Outcomes per partition.
    OffsetCommitResponse of OffsetCommit {
        throttle_time_ms: i32 = 0, 3..,
        topics: Vec<OffsetCommitTopicResponse> = Vec::new(), _,
    }
}

message! {
    /// Partitions whose offsets are asked for.
    OffsetFetchTopic {
        name: String = String::new(), _,
        partition_indexes: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// A group, with the topics asked for; null: all.
    OffsetFetchGroup {
        group_id: String = String::new(), _,
        member_id: Option<String> = None, 9..,
        member_epoch: i32 = -1, 9..,
        topics: Option<Vec<OffsetFetchTopic>> = None, _,
    }
}
message! {
    /// v2 null for all topics, v7 only stable offsets, v8 several groups (KIP-709).
    OffsetFetchRequest of OffsetFetch {
        group_id: String = String::new(), 0..=7,
        topics: Option<Vec<OffsetFetchTopic>> = None, 0..=7,
        groups: Vec<OffsetFetchGroup> = Vec::new(), 8..,
        require_stable: bool = false, 7..,
    }
}
message! {
    /// The committed offset, -1 if there is none.
    OffsetFetchPartitionResponse {
        partition_index: i32 = 0, _,
        committed_offset: i64 = -1, _,
        committed_leader_epoch: i32 = -1, 5..,
        metadata: Option<String> = None, _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// A topic's offsets.
    OffsetFetchTopicResponse {
        name: String = String::new(), _,
        partitions: Vec<OffsetFetchPartitionResponse> = Vec::new(), _,
    }
}
message! {
    /// A group's offsets.
    OffsetFetchGroupResponse {
        group_id: String = String::new(), _,
        topics: Vec<OffsetFetchTopicResponse> = Vec::new(), _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// One group's up to v7, several groups' from v8.
    OffsetFetchResponse of OffsetFetch {
        throttle_time_ms: i32 = 0, 3..,
        topics: Vec<OffsetFetchTopicResponse> = Vec::new(), 0..=7,
        error_code: i16 = 0, 2..=7,
        groups: Vec<OffsetFetchGroupResponse> = Vec::new(), 8..,
    }
}

message! {
    /// v3 also what the caller may do.
    DescribeGroupsRequest of DescribeGroups {
        groups: Vec<String> = Vec::new(), _,
        include_authorized_operations: bool = false, 3..,
    }
}
message! {
    /// A member of a described group.
    DescribedGroupMember {
        member_id: String = String::new(), _,
        group_instance_id: Option<String> = None, 4..,
        client_id: String = String::new(), _,
        client_host: String = String::new(), _,
        member_metadata: Vec<u8> = Vec::new(), _,
        member_assignment: Vec<u8> = Vec::new(), _,
    }
}
message! {
    /// A group: its state in Kafka's words, its protocol, its members.
    DescribedGroup {
        error_code: i16 = 0, _,
        error_message: Option<String> = None, 6..,
        group_id: String = String::new(), _,
        group_state: String = String::new(), _,
        protocol_type: String = String::new(), _,
        protocol_data: String = String::new(), _,
        members: Vec<DescribedGroupMember> = Vec::new(), _,
        authorized_operations: i32 = i32::MIN, 3..,
    }
}
message! {
    /// Groups, in the order asked for.
    DescribeGroupsResponse of DescribeGroups {
        throttle_time_ms: i32 = 0, 1..,
        groups: Vec<DescribedGroup> = Vec::new(), _,
    }
}

message! {
    /// v4 only groups in these states, v5 of these types; empty: all.
    ListGroupsRequest of ListGroups {
        states_filter: Vec<String> = Vec::new(), 4..,
        types_filter: Vec<String> = Vec::new(), 5..,
    }
}
message! {
    /// A group.
    ListedGroup {
        group_id: String = String::new(), _,
        protocol_type: String = String::new(), _,
        group_state: String = String::new(), 4..,
        group_type: String = String::new(), 5..,
    }
}
message! {
    /// The groups that this broker coordinates.
    ListGroupsResponse of ListGroups {
        throttle_time_ms: i32 = 0, 1..,
        error_code: i16 = 0, _,
        groups: Vec<ListedGroup> = Vec::new(), _,
    }
}

message! {
    /// Groups to delete; they must have no members.
    DeleteGroupsRequest of DeleteGroups {
        groups_names: Vec<String> = Vec::new(), _,
    }
}
message! {
    /// One group's outcome.
    DeletableGroupResult {
        group_id: String = String::new(), _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// Outcomes per group.
    DeleteGroupsResponse of DeleteGroups {
        throttle_time_ms: i32 = 0, _,
        results: Vec<DeletableGroupResult> = Vec::new(), _,
    }
}

message! {
    /// A partition whose offset is to be forgotten.
    OffsetDeletePartition {
        partition_index: i32 = 0, _,
    }
}
message! {
    /// A topic's partitions.
    OffsetDeleteTopic {
        name: String = String::new(), _,
        partitions: Vec<OffsetDeletePartition> = Vec::new(), _,
    }
}
message! {
    /// KIP-496.
    OffsetDeleteRequest of OffsetDelete {
        group_id: String = String::new(), _,
        topics: Vec<OffsetDeleteTopic> = Vec::new(), _,
    }
}
message! {
    /// A partition's outcome.
    OffsetDeletePartitionResponse {
        partition_index: i32 = 0, _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// A topic's outcomes.
    OffsetDeleteTopicResponse {
        name: String = String::new(), _,
        partitions: Vec<OffsetDeletePartitionResponse> = Vec::new(), _,
    }
}
message! {
    /// Outcomes per partition, or one error for all.
    OffsetDeleteResponse of OffsetDelete {
        error_code: i16 = 0, _,
        throttle_time_ms: i32 = 0, _,
        topics: Vec<OffsetDeleteTopicResponse> = Vec::new(), _,
    }
}
