//! Groups and transactions on the shards that own their partitions: each state is a log that is replayed.
//!
//! In: requests of groups and transactional producers. Out: answers, records. Never: policy (`coordinator` decides).

pub(crate) mod groups;
pub(crate) mod registry;
pub(crate) mod state_log;
pub(crate) mod transactions;
