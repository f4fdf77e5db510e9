//! One partition's log on disk, and the directory that holds many.
//!
//! In: validated record batches. Out: offsets, bytes of batches, what is written and durable.
//! Never: requests, ISR, other replicas. On-disk format: FORMAT.md.
#![forbid(unsafe_code)]

pub mod directory;
pub mod error;
pub mod journal;
pub mod log;
pub mod tools;

pub use directory::log_dir::{Health, LogDir};
pub use directory::log_manager::LogManager;
pub use directory::reserve::Reserve;
pub use error::{Concern, StorageError};
pub use journal::journal::Journal;
pub use journal::known::{JournalStart, KnownJournal, KnownJournals};
pub use journal::replay::{PartitionNotes, Replay, replay, replay_known};
pub use log::compact::{AbortedSpan, CompactionDone, CompactionPlan, Dirt};
pub use log::log::{Flushed, Log, Read, TimestampOffset};
pub use log::open::Recovered;

pub use log::tail_cache::TailCache;
