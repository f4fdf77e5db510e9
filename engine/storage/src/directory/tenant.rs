//! A log as what it shares with the others of its shard knows it: the memory of slabs, the journal, the open files.

use crate::StorageError;
use crate::journal::frame::Entry;
use model::TopicPartition;
use runtime::buffer::ChunkWriter;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::{Rc, Weak};

/// What those who share note of a log, in the log itself.
#[derive(Default)]
pub(crate) struct TenantMarks {
    /// The journal owes it a note of how far it is synced.
    pub(crate) noted: Cell<bool>,
    /// The last journal file that holds bytes of it.
    pub(crate) journaled_in: Cell<u64>,
    /// It is among those that keep files open.
    pub(crate) is_kept_open: Cell<bool>,
}

/// One that shares.
pub(crate) trait Tenant {
    fn partition(&self) -> TopicPartition;
    fn marks(&self) -> &TenantMarks;
    fn weak_tenant(&self) -> Weak<dyn Tenant>;
    /// Its oldest slab, if that is safely on the disk.
    fn evict_oldest_slab(&self) -> Option<ChunkWriter>;
    /// Whether it has slabs that may go later.
    fn caches_slabs(&self) -> bool;
    /// Whether bytes of it are in the journal alone.
    fn is_behind(&self) -> bool;
    /// Has them written to its segments.
    fn write_behind(self: Rc<Self>);
    /// How far it is synced, for the journal.
    fn synced_entry(&self) -> Entry;
    /// All that a journal must know of it.
    fn describe(&self, out: &mut Vec<Entry>);
    /// Makes its segments durable, so that nothing in the journal is needed any more.
    fn sync_segments(self: Rc<Self>) -> Pin<Box<dyn Future<Output = Result<(), StorageError>>>>;
    /// Closes files that it only keeps.
    fn close_files(&self);
}
