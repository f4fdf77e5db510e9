//! A partition on the shard that owns it: appends, what is told when they are safe, who may produce, cleaning.
//!
//! In: batches, fetches, the image. Out: what was settled, records. Never: connections.

pub(crate) mod batch_check;
pub(crate) mod compaction;
pub(crate) mod log_walk;
pub(crate) mod partition_slot;
pub(crate) mod producer_state;
