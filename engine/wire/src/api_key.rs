//! The APIs: key, versions, since when flexible. One table; ApiVersions is answered from it.

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// The API.
    pub key: ApiKey,
    /// Kafka's name.
    pub name: &'static str,
    /// Lowest version in ApiVersions.
    pub advertised_min: i16,
    /// Lowest version that is really served. Below the advertised one only for Produce, where old
    /// librdkafka wants to see 0 before it compresses (KAFKA-18659).
    pub version_min: i16,
    /// Highest version served.
    pub version_max: i16,
    /// First version with compact types and tagged fields (KIP-482).
    pub flexible_since: i16,
}

macro_rules! apis {
    ($($name:ident = $key:literal, $advertised:literal, $min:literal..=$max:literal,
       $flexible:literal;)*) => {
        /// An API of the Kafka protocol that Weir serves.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ApiKey { $($name = $key,)* }

        /// Every API served, by key.
        pub const APIS: &[Api] = &[$(Api {
            key: ApiKey::$name,
            name: stringify!($name),
            advertised_min: $advertised,
            version_min: $min,
            version_max: $max,
            flexible_since: $flexible,
        },)*];
    };
}

apis! {
    Produce = 0, 0, 3..=13, 9;
    Fetch = 1, 4, 4..=18, 12;
    ListOffsets = 2, 1, 1..=10, 6;
    Metadata = 3, 0, 0..=13, 9;
    OffsetCommit = 8, 2, 2..=9, 8;
    OffsetFetch = 9, 1, 1..=9, 6;
    FindCoordinator = 10, 0, 0..=6, 3;
    JoinGroup = 11, 0, 0..=9, 6;
    Heartbeat = 12, 0, 0..=4, 4;
    LeaveGroup = 13, 0, 0..=5, 4;
    SyncGroup = 14, 0, 0..=5, 4;
    DescribeGroups = 15, 0, 0..=6, 5;
    ListGroups = 16, 0, 0..=5, 3;
    SaslHandshake = 17, 0, 0..=1, 2;
    ApiVersions = 18, 0, 0..=4, 3;
    CreateTopics = 19, 2, 2..=7, 5;
    DeleteTopics = 20, 1, 1..=6, 4;
    DeleteRecords = 21, 0, 0..=2, 2;
    InitProducerId = 22, 0, 0..=5, 2;
    OffsetForLeaderEpoch = 23, 2, 2..=4, 4;
    AddPartitionsToTxn = 24, 0, 0..=3, 3;
    AddOffsetsToTxn = 25, 0, 0..=4, 3;
    EndTxn = 26, 0, 0..=5, 3;
    WriteTxnMarkers = 27, 1, 1..=1, 1;
    TxnOffsetCommit = 28, 0, 0..=5, 3;
    DescribeAcls = 29, 1, 1..=3, 2;
    CreateAcls = 30, 1, 1..=3, 2;
    DeleteAcls = 31, 1, 1..=3, 2;
    DescribeConfigs = 32, 1, 1..=4, 4;
    AlterConfigs = 33, 0, 0..=2, 2;
    DescribeLogDirs = 35, 1, 1..=4, 2;
    SaslAuthenticate = 36, 0, 0..=2, 2;
    CreatePartitions = 37, 0, 0..=3, 2;
    DeleteGroups = 42, 0, 0..=2, 2;
    ElectLeaders = 43, 0, 0..=2, 2;
    IncrementalAlterConfigs = 44, 0, 0..=1, 1;
    AlterPartitionReassignments = 45, 0, 0..=0, 0;
    ListPartitionReassignments = 46, 0, 0..=0, 0;
    OffsetDelete = 47, 0, 0..=0, 1;
    DescribeClientQuotas = 48, 0, 0..=1, 1;
    DescribeUserScramCredentials = 50, 0, 0..=0, 0;
    DescribeQuorum = 55, 0, 0..=1, 0;
    UpdateFeatures = 57, 0, 0..=2, 0;
    DescribeCluster = 60, 0, 0..=2, 0;
    DescribeProducers = 61, 0, 0..=0, 0;
    DescribeTransactions = 65, 0, 0..=0, 0;
    ListTransactions = 66, 0, 0..=2, 0;
    ListConfigResources = 74, 0, 0..=1, 0;
    DescribeTopicPartitions = 75, 0, 0..=0, 0;
}

impl ApiKey {
    /// The API with this number, if it is served.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        APIS.iter().find(|api| api.key as i16 == code).map(|api| api.key)
    }

    /// Its row.
    #[must_use]
    pub fn api(self) -> &'static Api {
        APIS.iter().find(|api| api.key == self).expect("every key has a row")
    }

    /// Whether this version uses compact types and tagged fields.
    #[must_use]
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.api().flexible_since
    }

    /// Whether this version's response header ends in tagged fields. ApiVersions never has any,
    /// because a client reads it before it knows what the broker speaks (KIP-511).
    #[must_use]
    pub fn has_response_header_tags(self, version: i16) -> bool {
        self != Self::ApiVersions && self.is_flexible(version)
    }
}
