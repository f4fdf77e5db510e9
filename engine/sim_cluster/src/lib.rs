//! Whole brokers in a simulated world: the real server with its shards and handlers, under real client bytes, while
//! processes are killed, machines lose power, networks fail and brokers stop and start with another number of shards.
//!
//! Nothing of the broker is written here once more. What clients saw goes to `history`, which must find nothing; what
//! was committed in a group never goes back; topics that were made are there, deleted ones never come back; and once
//! nothing goes wrong any more, everybody comes to an end.
//!
//! In: a seed. Out: what was checked, or a panic that names the seed. Never: real files, sockets or time.
#![forbid(unsafe_code)]

mod members;
mod peer;
mod pipelining;
mod producers;
mod readers;
mod sessions;
mod shared;
mod topics;
mod wake_ups;
mod world;

pub use shared::Outcome;
pub use world::run;
