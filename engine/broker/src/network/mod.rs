//! Connections: frames in, answers out, and what a peer can make this process hold for them.
//!
//! In: sockets, memory to receive in. Out: requests in order, answers in that order. Never: what a request means.

pub(crate) mod answer;
pub(crate) mod connection;
pub(crate) mod listeners;
pub(crate) mod memory;
pub(crate) mod open_files;
pub(crate) mod peers;
pub(crate) mod request;
