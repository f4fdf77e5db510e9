//! One replica's role: what may be appended, what is committed, what may be read.
//!
//! In: append and flush results, fetch positions, epochs. Out: accept or refuse, HighWatermark
//! moves. Never: disk, sockets, clock.
#![forbid(unsafe_code)]

mod acks;
pub mod leader;
mod producers;

pub use acks::{Acks, Answer, Demand, Durability, Replication};
pub use leader::{Advanced, FetchError, Leader, Level};
pub use producers::{Aborted, Admission, KnownBatch, Producers, Proof, ShownProducer};
