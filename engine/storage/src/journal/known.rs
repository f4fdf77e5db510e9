//! What is known of a journal besides its frames: its files, how it goes on, what it carries for others.

use crate::journal::frame::Entry;
use runtime::buffer::SharedBytes;
use std::path::{Path, PathBuf};

/// Files that take turns: the current one, the one before it that may still be needed, and one to
/// begin anew in after a start, while both of those still count.
pub const JOURNAL_FILES: u64 = 3;
/// A log with more than this to make durable writes its segment instead.
pub const BULK_BYTES: u32 = 64 * 1024;

/// Where the journal files of a shard are.
#[must_use]
pub fn journal_path(data_dir: &Path, shard: usize, file: u64) -> PathBuf {
    data_dir.join("journal").join(format!("{shard}.{}", file % JOURNAL_FILES))
}

/// How a journal goes on after a start.
#[derive(Clone, Debug, Default)]
pub struct JournalStart {
    /// Names the journal in each of its frames.
    pub id: u64,
    /// The file to begin; above every one found.
    pub sequence: u64,
    /// Which start of the broker it is; 0: journals of other shards do not count on it.
    pub number: u32,
}

/// What a journal says of a partition that is not open.
#[derive(Clone)]
pub struct Carried {
    /// What it says.
    pub entry: Entry,
    /// The bytes of an `Append`.
    pub bytes: Option<SharedBytes>,
}

/// The journals that a directory's superblock knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownJournals {
    /// The start that noted them; 0: none did. What is left of journals of earlier starts that are not among these
    /// says nothing: they were about to be removed.
    pub start: u32,
    /// Those that must be there.
    pub journals: Vec<KnownJournal>,
}

/// A journal that a directory's superblock knows: a file of it with this sequence, or a later one, is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownJournal {
    /// Whose.
    pub shard: u32,
    /// Its id.
    pub id: u64,
    /// A file that was begun.
    pub sequence: u64,
}
