//! One partition's log: segments, what is in memory of them, what is kept.
//!
//! In: batches. Out: offsets, bytes, what is written and durable. Never: other partitions.

pub(crate) mod compact;
pub(crate) mod flush;
pub mod index;
pub(crate) mod key_map;
pub mod leader_epochs;
// The room is named as the type that it is about.
#[allow(clippy::module_inception)]
pub mod log;
pub mod open;
pub(crate) mod read;
pub(crate) mod recovery;
pub mod retain;
pub(crate) mod segment;
pub(crate) mod segment_files;
pub mod tail_cache;
pub(crate) mod truncate;
