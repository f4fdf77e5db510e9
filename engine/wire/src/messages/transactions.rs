//! Idempotent producers and transactions (KIP-98, KIP-360, KIP-447, KIP-890).

use crate::message::Message;
use crate::primitives::{Field, Reader, Version, put_no_tags};
use crate::{ApiKey, WireError};
use model::ErrorCode;

message! {
    /// v3 on: with what the client has, for another epoch of it (KIP-360); v4 on: PRODUCER_FENCED.
    InitProducerIdRequest of InitProducerId {
        transactional_id: Option<String> = None, _,
        transaction_timeout_ms: i32 = 0, _,
        producer_id: i64 = -1, 3..,
        producer_epoch: i16 = -1, 3..,
    }
}
message! {
    /// Who the client is from now on.
    InitProducerIdResponse of InitProducerId {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        producer_id: i64 = -1, _,
        producer_epoch: i16 = -1, _,
    }
}
message! {
    /// Partitions of a topic that join a transaction.
    AddPartitionsToTxnTopic {
        name: String = String::new(), _,
        partitions: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// v2 on: PRODUCER_FENCED. v4 on is between brokers.
    AddPartitionsToTxnRequest of AddPartitionsToTxn {
        transactional_id: String = String::new(), _,
        producer_id: i64 = 0, _,
        producer_epoch: i16 = 0, _,
        topics: Vec<AddPartitionsToTxnTopic> = Vec::new(), _,
    }
}
message! {
    /// An error per partition.
    PartitionError {
        partition_index: i32 = 0, _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// A topic's partitions.
    TopicErrors {
        name: String = String::new(), _,
        partitions: Vec<PartitionError> = Vec::new(), _,
    }
}
impl TopicErrors {
    /// An error, or none, for each of these partitions.
    #[must_use]
    pub fn new(name: &str, errors: impl Iterator<Item = (i32, ErrorCode)>) -> Self {
        let error = |(partition_index, error): (i32, ErrorCode)| PartitionError {
            partition_index,
            error_code: error.code(),
        };
        Self { name: name.to_owned(), partitions: errors.map(error).collect() }
    }
}

message! {
    /// An error per partition.
    AddPartitionsToTxnResponse of AddPartitionsToTxn {
        throttle_time_ms: i32 = 0, _,
        results: Vec<TopicErrors> = Vec::new(), _,
    }
}
message! {
    /// A group's offsets join a transaction.
    AddOffsetsToTxnRequest of AddOffsetsToTxn {
        transactional_id: String = String::new(), _,
        producer_id: i64 = 0, _,
        producer_epoch: i16 = 0, _,
        group_id: String = String::new(), _,
    }
}
message! {
    /// One error for all.
    AddOffsetsToTxnResponse of AddOffsetsToTxn {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
    }
}
message! {
    /// v5 on the epoch changes with each transaction (KIP-890).
    EndTxnRequest of EndTxn {
        transactional_id: String = String::new(), _,
        producer_id: i64 = 0, _,
        producer_epoch: i16 = 0, _,
        committed: bool = false, _,
    }
}
message! {
    /// v5 on: who the client is from now on.
    EndTxnResponse of EndTxn {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        producer_id: i64 = -1, 5..,
        producer_epoch: i16 = -1, 5..,
    }
}
message! {
    /// A marker to write.
    WritableTxnMarker {
        producer_id: i64 = 0, _,
        producer_epoch: i16 = 0, _,
        transaction_result: bool = false, _,
        topics: Vec<WritableTxnMarkerTopic> = Vec::new(), _,
        coordinator_epoch: i32 = 0, _,
    }
}
message! {
    /// Where to write it.
    WritableTxnMarkerTopic {
        name: String = String::new(), _,
        partition_indexes: Vec<i32> = Vec::new(), _,
    }
}
message! {
    /// Between brokers, and for an operator who ends a hanging transaction (KIP-664).
    WriteTxnMarkersRequest of WriteTxnMarkers {
        markers: Vec<WritableTxnMarker> = Vec::new(), _,
    }
}
message! {
    /// What became of a producer's marker.
    WritableTxnMarkerResult {
        producer_id: i64 = 0, _,
        topics: Vec<TopicErrors> = Vec::new(), _,
    }
}
message! {
    /// An error per producer and partition.
    WriteTxnMarkersResponse of WriteTxnMarkers {
        markers: Vec<WritableTxnMarkerResult> = Vec::new(), _,
    }
}
message! {
    /// An offset that is committed with a transaction.
    TxnOffsetCommitPartition {
        partition_index: i32 = 0, _,
        committed_offset: i64 = 0, _,
        committed_leader_epoch: i32 = -1, 2..,
        committed_metadata: Option<String> = None, _,
    }
}
message! {
    /// A topic's offsets.
    TxnOffsetCommitTopic {
        name: String = String::new(), _,
        partitions: Vec<TxnOffsetCommitPartition> = Vec::new(), _,
    }
}
message! {
    /// v2 leader epochs, v3 who in the group commits (KIP-447), v5 the offsets join the transaction
    /// by this (KIP-890).
    TxnOffsetCommitRequest of TxnOffsetCommit {
        transactional_id: String = String::new(), _,
        group_id: String = String::new(), _,
        producer_id: i64 = 0, _,
        producer_epoch: i16 = 0, _,
        generation_id: i32 = -1, 3..,
        member_id: String = String::new(), 3..,
        group_instance_id: Option<String> = None, 3..,
        topics: Vec<TxnOffsetCommitTopic> = Vec::new(), _,
    }
}
message! {
    /// An error per partition.
    TxnOffsetCommitResponse of TxnOffsetCommit {
        throttle_time_ms: i32 = 0, _,
        topics: Vec<TopicErrors> = Vec::new(), _,
    }
}
