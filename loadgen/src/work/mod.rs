//! What a thread does: sends, consumes, verifies; here, and on other machines.

pub(crate) mod agent;
pub(crate) mod consumer;
pub(crate) mod crew;
pub(crate) mod envelope;
pub(crate) mod histogram;
pub(crate) mod layout;
pub(crate) mod member;
pub(crate) mod producer;
pub(crate) mod progress;
pub(crate) mod verifier;
