//! The broker: its shards and connections, dispatch, one file per API, settings.
//!
//! In: sockets. Out: sockets. Never: policy (it asks the rooms).
#![forbid(unsafe_code)]

mod api;
pub mod config;
mod coordinators;
mod fetching;
mod metadata;
mod network;
pub mod observe;
mod partitions;
pub mod server;
mod shard;
