//! Kafka's error codes: name, number, whether a client may retry, meaning. One table.

macro_rules! error_codes {
    ($($name:ident = $code:literal, $retriable:literal, $meaning:literal;)*) => {
        /// An error code of the Kafka protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ErrorCode { $(#[doc = $meaning] $name = $code,)* }

        impl ErrorCode {
            /// Every code, in the table's order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Whether a client may send the same request again and hope.
            #[must_use]
            pub fn is_retriable(self) -> bool {
                match self { $(Self::$name => $retriable,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

error_codes! {
    UnknownServerError = -1, false, "The server met an error it did not expect.";
    None = 0, false, "No error.";
    OffsetOutOfRange = 1, false, "The offset is below the log start or above the log end.";
    CorruptMessage = 2, true, "The batch fails its checksum, or its length is wrong.";
    UnknownTopicOrPartition = 3, true, "This broker does not know the topic or partition.";
    InvalidFetchSize = 4, false, "The fetch size is not valid.";
    LeaderNotAvailable = 5, true, "The partition has no leader at the moment.";
    NotLeaderOrFollower = 6, true, "This broker is not the leader or follower asked for.";
    RequestTimedOut = 7, true, "The request timed out.";
    BrokerNotAvailable = 8, false, "The broker is not available.";
    ReplicaNotAvailable = 9, true, "The replica is not available.";
    MessageTooLarge = 10, false, "The batch is larger than max.message.bytes.";
    StaleControllerEpoch = 11, false, "The controller moved on.";
    OffsetMetadataTooLarge = 12, false, "The metadata of the offset commit is too large.";
    NetworkException = 13, true, "The connection broke before an answer came.";
    CoordinatorLoadInProgress = 14, true, "The coordinator is loading.";
    CoordinatorNotAvailable = 15, true, "There is no coordinator at the moment.";
    NotCoordinator = 16, true, "This broker is not the coordinator.";
    InvalidTopicException = 17, false, "The topic name is not allowed.";
    RecordListTooLarge = 18, false, "The batches are larger than a segment.";
    NotEnoughReplicas = 19, true, "Fewer replicas in sync than min.insync.replicas.";
    NotEnoughReplicasAfterAppend = 20, true, "Appended, but by fewer replicas than required.";
    InvalidRequiredAcks = 21, false, "acks must be -1, 0 or 1.";
    IllegalGeneration = 22, false, "The group generation is not the current one.";
    InconsistentGroupProtocol = 23, false, "The member's protocols do not fit the group's.";
    InvalidGroupId = 24, false, "The group id is not valid.";
    UnknownMemberId = 25, false, "The coordinator does not know this member.";
    InvalidSessionTimeout = 26, false, "The session timeout is out of range.";
    RebalanceInProgress = 27, false, "The group is rebalancing; join again.";
    InvalidCommitOffsetSize = 28, false, "The offset commit is too large.";
    TopicAuthorizationFailed = 29, false, "Not authorized for the topic.";
    GroupAuthorizationFailed = 30, false, "Not authorized for the group.";
    ClusterAuthorizationFailed = 31, false, "Not authorized for the cluster.";
    InvalidTimestamp = 32, false, "The timestamp is out of the accepted range.";
    UnsupportedSaslMechanism = 33, false, "The SASL mechanism is not enabled.";
    IllegalSaslState = 34, false, "This request does not fit the SASL state.";
    UnsupportedVersion = 35, false, "The version of this API is not supported.";
    TopicAlreadyExists = 36, false, "A topic with this name exists.";
    InvalidPartitions = 37, false, "The number of partitions is below 1 or too large.";
    InvalidReplicationFactor = 38, false, "The replication factor is below 1 or above the number of brokers.";
    InvalidReplicaAssignment = 39, false, "The replica assignment is not valid.";
    InvalidConfig = 40, false, "The configuration is not valid.";
    NotController = 41, true, "This broker is not the controller.";
    InvalidRequest = 42, false, "The request contradicts itself or the protocol.";
    UnsupportedForMessageFormat = 43, false, "The message format does not support this.";
    PolicyViolation = 44, false, "The request violates a policy.";
    OutOfOrderSequenceNumber = 45, false, "The producer's sequence number is out of order.";
    DuplicateSequenceNumber = 46, false, "The producer's sequence number was used before.";
    InvalidProducerEpoch = 47, false, "The producer's epoch is old.";
    InvalidTxnState = 48, false, "The transaction is in the wrong state.";
    InvalidProducerIdMapping = 49, false, "The producer id does not belong to the transactional id.";
    InvalidTransactionTimeout = 50, false, "The transaction timeout is larger than allowed.";
    ConcurrentTransactions = 51, true, "Another transaction of this producer is completing.";
    TransactionCoordinatorFenced = 52, false, "The transaction coordinator was replaced.";
    TransactionalIdAuthorizationFailed = 53, false, "Not authorized for the transactional id.";
    SecurityDisabled = 54, false, "Security features are switched off.";
    OperationNotAttempted = 55, false, "Not attempted: another part of the request failed.";
    KafkaStorageError = 56, true, "The disk of this partition failed or refuses writes.";
    LogDirNotFound = 57, false, "The log directory does not exist.";
    SaslAuthenticationFailed = 58, false, "Authentication failed.";
    UnknownProducerId = 59, false, "The broker holds no state for this producer id.";
    ReassignmentInProgress = 60, false, "A reassignment is in progress.";
    DelegationTokenAuthDisabled = 61, false, "Delegation tokens are switched off.";
    DelegationTokenNotFound = 62, false, "The delegation token does not exist.";
    DelegationTokenOwnerMismatch = 63, false, "Only its owner may use the delegation token.";
    DelegationTokenRequestNotAllowed = 64, false, "Not allowed over this channel.";
    DelegationTokenAuthorizationFailed = 65, false, "Not authorized for delegation tokens.";
    DelegationTokenExpired = 66, false, "The delegation token expired.";
    InvalidPrincipalType = 67, false, "The principal type is not supported.";
    NonEmptyGroup = 68, false, "The group still has members.";
    GroupIdNotFound = 69, false, "The group does not exist.";
    FetchSessionIdNotFound = 70, true, "The fetch session does not exist.";
    InvalidFetchSessionEpoch = 71, true, "The fetch session epoch is not the expected one.";
    ListenerNotFound = 72, true, "The leader has no such listener.";
    TopicDeletionDisabled = 73, false, "Deleting topics is switched off.";
    FencedLeaderEpoch = 74, true, "The request's leader epoch is older than the broker's.";
    UnknownLeaderEpoch = 75, true, "The request's leader epoch is newer than the broker's.";
    UnsupportedCompressionType = 76, false, "This version of the API cannot carry this codec.";
    StaleBrokerEpoch = 77, false, "The broker's epoch is old.";
    OffsetNotAvailable = 78, true, "The leader's high watermark has not caught up yet.";
    MemberIdRequired = 79, false, "Join again with the member id just given.";
    PreferredLeaderNotAvailable = 80, true, "The preferred leader is not available.";
    GroupMaxSizeReached = 81, false, "The group is full.";
    FencedInstanceId = 82, false, "Another member took over this instance id.";
    EligibleLeadersNotAvailable = 83, true, "No eligible leader is available.";
    ElectionNotNeeded = 84, true, "The leader is already the wanted one.";
    NoReassignmentInProgress = 85, false, "No reassignment is in progress.";
    GroupSubscribedToTopic = 86, false, "The group is subscribed to the topic.";
    InvalidRecord = 87, false, "The broker refused the records.";
    UnstableOffsetCommit = 88, true, "There are unfinished transactional offset commits.";
    ThrottlingQuotaExceeded = 89, true, "The throttling quota is used up.";
    ProducerFenced = 90, false, "A newer producer has this transactional id.";
    ResourceNotFound = 91, false, "The resource does not exist.";
    DuplicateResource = 92, false, "The resource exists already.";
    UnacceptableCredential = 93, false, "The credential is not acceptable.";
    InconsistentVoterSet = 94, false, "The voter sets differ.";
    InvalidUpdateVersion = 95, false, "The update version is not valid.";
    FeatureUpdateFailed = 96, false, "The features could not be updated.";
    PrincipalDeserializationFailure = 97, false, "The principal could not be read.";
    SnapshotNotFound = 98, false, "The snapshot does not exist.";
    PositionOutOfRange = 99, false, "The position is out of range.";
    UnknownTopicId = 100, true, "This broker does not know the topic id.";
    DuplicateBrokerRegistration = 101, false, "The broker is registered already.";
    BrokerIdNotRegistered = 102, false, "The broker id is not registered.";
    InconsistentTopicId = 103, true, "The topic id differs from the session's.";
    InconsistentClusterId = 104, false, "The cluster id differs.";
    TransactionalIdNotFound = 105, false, "The transactional id does not exist.";
    FetchSessionTopicIdError = 106, true, "The fetch session used topic ids before and not now, or the reverse.";
    IneligibleReplica = 107, false, "The replica may not join the ISR.";
    NewLeaderElected = 108, false, "The ISR change elected a new leader.";
    OffsetMovedToTieredStorage = 109, false, "The offset is in tiered storage.";
    FencedMemberEpoch = 110, false, "The member epoch is fenced; rejoin.";
    UnreleasedInstanceId = 111, false, "The instance id is still in use.";
    UnsupportedAssignor = 112, false, "The assignor is not supported.";
    StaleMemberEpoch = 113, false, "The member epoch is old.";
    MismatchedEndpointType = 114, false, "The endpoint is of the wrong type.";
    UnsupportedEndpointType = 115, false, "The endpoint type is not supported.";
    UnknownControllerId = 116, false, "The controller id is not known.";
    UnknownSubscriptionId = 117, false, "The telemetry subscription id is not known.";
    TelemetryTooLarge = 118, false, "The telemetry is too large.";
    InvalidRegistration = 119, false, "The broker registration is not valid.";
    TransactionAbortable = 120, false, "The transaction must be aborted.";
    InvalidRecordState = 121, false, "The share-group record state is not valid.";
    ShareSessionNotFound = 122, true, "The share session does not exist.";
    InvalidShareSessionEpoch = 123, true, "The share session epoch is not valid.";
    FencedStateEpoch = 124, false, "The share state epoch is fenced.";
    InvalidVoterKey = 125, false, "The voter key does not match.";
    DuplicateVoter = 126, false, "The voter is already part of the set.";
    VoterNotFound = 127, false, "The voter is not part of the set.";
    InvalidRegularExpression = 128, false, "The regular expression is not valid.";
    RebootstrapRequired = 129, false, "The client must bootstrap again.";
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> i16 {
        self as i16
    }

    /// The code with this number; `UnknownServerError` for numbers newer than the table.
    #[must_use]
    pub fn from_code(code: i16) -> Self {
        Self::ALL.iter().copied().find(|e| e.code() == code).unwrap_or(Self::UnknownServerError)
    }

    /// Kafka's spelling, as `OFFSET_OUT_OF_RANGE`.
    #[must_use]
    pub fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_come_back() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(usize::try_from(code.code() + 1), Ok(index));
            assert_eq!(ErrorCode::from_code(code.code()), *code);
        }
        assert_eq!(ErrorCode::OffsetOutOfRange.name(), "OFFSET_OUT_OF_RANGE");
        assert_eq!(ErrorCode::from_code(9999), ErrorCode::UnknownServerError);
    }
}
