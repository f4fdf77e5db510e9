//! The client's side: connections to brokers, and who to ask for what.
//!
//! In: an address. Out: typed answers. Never: retries that nobody asked for.
#![forbid(unsafe_code)]

mod cluster;
mod connection;

pub use cluster::{
    Cluster, Node, TopicView, committed_offsets, create, delete, describe, end_offsets,
    find_coordinator,
};
pub use connection::{Connection, receive_frame, within};
