//! What is durable before it is in its segment, of all logs of a shard.
//!
//! In: bytes of logs. Out: when they are durable; at a start, what they were. Never: what the bytes mean.

pub mod frame;
// The room is named as the type that it is about.
#[allow(clippy::module_inception)]
pub mod journal;
pub mod known;
pub mod replay;
