//! One file per API, in Kafka's own groups, and the one match that finds it.
//!
//! In: requests. Out: answers. Never: what several requests decide together (it asks the rooms).

pub(crate) mod authorized;
pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod data;
pub(crate) mod dispatch;
pub(crate) mod groups;
pub(crate) mod mail;
pub(crate) mod rooms;
pub(crate) mod security;
pub(crate) mod topics;
pub(crate) mod transactions;
