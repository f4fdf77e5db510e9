//! Which topics there are and what their settings mean: the image that every shard sees, and changes of it.
//!
//! In: topics, settings, a change. Out: an image, changed topics, or a refusal. Never: disk, sockets, clock, requests.
#![forbid(unsafe_code)]

pub mod changes;
pub mod image;
pub mod in_force;
pub mod topic_settings;
