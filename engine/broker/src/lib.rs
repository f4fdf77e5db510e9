//! The shard and the program `weir`: connections, dispatch, one file per API, settings, CLI.
//!
//! In: sockets. Out: sockets. Never: policy (it asks the rooms).
#![forbid(unsafe_code)]

mod admin;
mod api;
pub mod cli;
pub mod config;
mod coordinators;
mod fetching;
mod metadata;
mod network;
mod observe;
mod partitions;
mod properties;
pub mod server;
mod shard;
mod tools;
