//! The shard and the program `weir`: connections, dispatch, one file per API, settings, CLI.
//!
//! In: sockets. Out: sockets. Never: policy (it asks the rooms).
#![forbid(unsafe_code)]

mod admin;
mod authorized;
mod batch_check;
mod broker_settings;
pub mod cli;
mod compaction;
pub mod config;
mod config_changes;
mod connection;
mod dispatch;
mod fetch_sessions;
mod groups;
mod handlers;
mod image;
mod listeners;
mod log_walk;
mod logging;
mod memory;
mod metrics_server;
mod named;
mod open_files;
mod parked_fetches;
mod partition_slot;
mod peers;
mod placement;
mod producer_state;
mod properties;
mod request_counts;
mod requests;
pub mod server;
mod shard;
mod stages;
mod state_log;
mod tools;
mod topic_settings;
mod topics;
mod transactions;
mod turns;
