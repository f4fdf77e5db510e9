//! One partition's log on disk, and the directory that holds many.
//!
//! In: validated record batches. Out: offsets, bytes of batches, what is written and durable.
//! Never: requests, ISR, other replicas. On-disk format: FORMAT.md.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod data_dir;
pub mod error;
pub mod index;
pub mod leader_epochs;
pub mod log;
mod log_segment;
mod recovery;
pub mod tail_cache;

pub use error::StorageError;
pub use log::{Flushed, Log, LogSettings, Read, TimestampOffset};
pub use tail_cache::TailCache;
