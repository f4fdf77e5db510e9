//! Which topics there are, with which settings, as every shard sees it.
//!
//! In: changes. Out: images. Never: records.

pub(crate) mod broker_settings;

pub(crate) mod named;

pub(crate) mod topics;
