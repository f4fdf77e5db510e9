//! What one core owns, and how cores hand work to each other.
//!
//! In: messages of other shards. Out: parts that the rooms above use. Never: what a client asked for.

pub(crate) mod catalogue;
pub(crate) mod node;
pub(crate) mod placement;
pub(crate) mod producer_ids;
pub(crate) mod proofs;
pub(crate) mod requests;
// The room is named as the type that it is about.
#[allow(clippy::module_inception)]
pub(crate) mod shard;
pub(crate) mod turns;
