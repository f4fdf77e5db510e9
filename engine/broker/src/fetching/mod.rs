//! Fetches across partitions: sessions, and those that wait for records.
//!
//! In: fetches. Out: which partitions to read, when. Never: bytes of records.

pub(crate) mod fetch_sessions;
pub(crate) mod parked_fetches;
pub(crate) mod share;
