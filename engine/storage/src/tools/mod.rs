//! What operators do with a directory that no broker has open.
//!
//! In: a path. Out: text, mended files. Never: a running broker.

pub mod inspect;
pub mod repair;
