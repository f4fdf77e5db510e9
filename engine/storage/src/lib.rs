//! One partition's log on disk, and the directory that holds many.
//!
//! In: validated record batches. Out: offsets, bytes of batches, what is written and durable.
//! Never: requests, ISR, other replicas. On-disk format: FORMAT.md.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod data_dir;
pub mod data_dirs;
pub mod error;
pub mod index;
pub mod inspect;
pub mod journal;
pub mod journal_frame;
pub mod journal_known;
pub mod journal_replay;
mod key_map;
pub mod leader_epochs;
pub mod log;
mod log_compact;
pub mod log_dir;
mod log_flush;
pub mod log_manager;
pub mod log_open;
mod log_read;
pub mod log_retain;
mod log_segment;
mod open_file;
mod recovery;
pub mod repair;
pub mod reserve;
mod segment_files;
pub mod tail_cache;
mod tenant;
pub mod topic_changes;

pub use error::{Concern, StorageError};
pub use journal::Journal;
pub use journal_known::{JournalStart, KnownJournal, KnownJournals};
pub use journal_replay::{PartitionNotes, Replay, replay, replay_known};
pub use log::{Flushed, Log, LogSettings, Read, TimestampOffset};
pub use log_compact::{AbortedSpan, CompactionDone, CompactionPlan, Dirt};
pub use log_dir::{Health, LogDir};
pub use log_manager::LogManager;
pub use log_open::Recovered;
pub use log_retain::Retention;
pub use reserve::Reserve;
pub use tail_cache::TailCache;
