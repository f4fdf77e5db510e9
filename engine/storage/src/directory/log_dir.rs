//! One shard's part of a data directory: where its logs are, their memory, their journal, its health.

use crate::StorageError;
use crate::directory::reserve::Reserve;
use crate::directory::tenant::Tenant;
use crate::journal::journal::Journal;
use crate::log::tail_cache::TailCache;
use model::TopicPartition;
use model::limits::DISK_BLOCK_BYTES;
use runtime::budget::{Budget, Held};
use runtime::buffer::{ChunkPool, DiskRange, SharedBytes};
use runtime::{Slice, fs};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Files that the logs of one shard keep open in one directory, unless told otherwise.
const OPEN_FILES_MAX: usize = 2_000;
/// Logs that are gone are looked for among at least so many.
const KEPT_OPEN_MAX: usize = 64;

/// Whether a directory still takes writes; shared by all shards.
pub struct Health {
    offline: AtomicBool,
    failure: OnceLock<StorageError>,
    on_failure: Box<dyn Fn(&StorageError) + Send + Sync>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("failure", &self.failure).finish()
    }
}

impl Health {
    /// Of a directory that works. `on_failure` is told the first failure, once, by whoever met it.
    #[must_use]
    pub fn new(on_failure: impl Fn(&StorageError) + Send + Sync + 'static) -> Self {
        let offline = AtomicBool::default();
        Self { offline, failure: OnceLock::new(), on_failure: Box::new(on_failure) }
    }

    /// Whether a write or sync failed in it.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Relaxed)
    }

    /// The first failure, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<&StorageError> {
        self.failure.get()
    }

    /// A write or sync failed: nothing in the directory is trusted until the next start.
    pub fn set_offline(&self, failure: &StorageError) {
        if !self.offline.swap(true, Ordering::SeqCst) {
            let _ = self.failure.set(failure.clone());
            (self.on_failure)(failure);
        }
        assert!(self.is_offline(), "what has failed stays so");
    }
}

/// What the logs of one shard in one data directory share.
pub struct LogDir {
    path: PathBuf,
    pub(crate) direct: bool,
    pub(crate) cache: Rc<TailCache>,
    pub(crate) journal: Option<Rc<Journal>>,
    pub(crate) health: Arc<Health>,
    reserve: Arc<Reserve>,
    /// Blocks in which the last bytes of segments go to disk.
    pub(crate) blocks: RefCell<ChunkPool>,
    /// Lists of what an operation writes, and of what goes to the journal: as many as were ever in use at once,
    /// not some in each of thousands of logs.
    pub(crate) piece_lists: RefCell<Vec<Vec<DiskRange>>>,
    pub(crate) shared_lists: RefCell<Vec<Vec<SharedBytes>>>,
    /// A log that was opened put something in place that is not durable yet.
    pub(crate) owes_sync: Cell<bool>,
    /// The last stop was none.
    pub(crate) was_cut_short: Cell<bool>,
    /// Files that its logs may have open.
    files: Rc<Budget>,
    /// Logs that keep files open, each once, in the order in which they began to; and some that are gone.
    kept_open: RefCell<VecDeque<Weak<dyn Tenant>>>,
    /// When there are so many it is looked which are gone.
    kept_open_max: Cell<usize>,
}

impl LogDir {
    /// The logs under `path`/partitions. `direct`: bypass the page cache where the file system can.
    #[must_use]
    pub fn new(
        path: &Path,
        direct: bool,
        cache: &Rc<TailCache>,
        journal: Option<Rc<Journal>>,
        health: Arc<Health>,
    ) -> Rc<Self> {
        Self::with_reserve(path, direct, cache, journal, health, Arc::default())
    }

    /// As `new`, with a reserve for what deletes.
    #[must_use]
    pub fn with_reserve(
        path: &Path,
        direct: bool,
        cache: &Rc<TailCache>,
        journal: Option<Rc<Journal>>,
        health: Arc<Health>,
        reserve: Arc<Reserve>,
    ) -> Rc<Self> {
        Rc::new(Self {
            path: path.to_owned(),
            direct,
            cache: Rc::clone(cache),
            journal,
            health,
            reserve,
            blocks: RefCell::new(ChunkPool::new(DISK_BLOCK_BYTES, 64, 0)),
            piece_lists: RefCell::default(),
            shared_lists: RefCell::default(),
            owes_sync: Cell::new(false),
            was_cut_short: Cell::new(false),
            files: Budget::new(OPEN_FILES_MAX),
            kept_open: RefCell::default(),
            kept_open_max: Cell::new(KEPT_OPEN_MAX),
        })
    }

    /// The data directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its journal for this shard.
    #[must_use]
    pub fn journal(&self) -> Option<&Rc<Journal>> {
        self.journal.as_ref()
    }

    /// Its health.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// What is kept back for what frees space.
    #[must_use]
    pub fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// Makes the directory of a new partition. It lasts once `sync_names` has run.
    ///
    /// # Errors
    /// The disk's; or there is one, and it holds something.
    pub fn make_partition(&self, partition: TopicPartition) -> Result<(), StorageError> {
        let dir = self.partition_path(partition);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let names =
                    fs::list(&dir).map_err(|error| StorageError::of(&dir, "list", &error))?;
                if names.is_empty() { Ok(()) } else { Err(StorageError::of(&dir, "mkdir", &error)) }
            }
            made => made.map_err(|error| StorageError::of(&dir, "mkdir", &error)),
        }
    }

    /// Whether the slabs of this shard's logs take more memory than they are meant to.
    #[must_use]
    pub fn cache_is_over_budget(&self) -> bool {
        self.cache.is_over_budget()
    }

    /// The directory of a partition.
    #[must_use]
    pub fn partition_path(&self, partition: TopicPartition) -> PathBuf {
        self.path.join("partitions").join(partition.to_string())
    }

    /// Makes durable what opening logs found and put in place: after `Log::open` of all, before any of
    /// them is used and before the journal begins. One sync for all of them.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sync_recovered(&self) -> Result<(), StorageError> {
        if !self.owes_sync.get() {
            return Ok(());
        }
        let synced = fs::sync_file_system(&self.path).await;
        synced.map_err(|error| StorageError::of(&self.path, "syncfs", &error))?;
        // Owed as long as it did not succeed.
        self.owes_sync.set(false);
        Ok(())
    }

    /// How many files its logs may have open; 2,000 unless told. With fewer than logs that are written to, each
    /// write opens a file and closes another; with fewer than writes under way, these wait.
    pub fn keep_open(&self, files: usize) {
        assert!(files > 0, "logs write through files");
        self.files.set_max(files);
    }

    /// Waits until one more file may be open. Logs that only keep theirs close them, the one open for longest
    /// first; this one too, so that none waits for what it has itself.
    pub(crate) async fn place_for_file(&self, log: &impl Tenant) -> Held {
        if !self.files.has_room(1) {
            log.close_files();
        }
        while !self.files.has_room(1) {
            let Some(oldest) = self.kept_open.borrow_mut().pop_front() else { break };
            if let Some(oldest) = oldest.upgrade() {
                oldest.marks().is_kept_open.set(false);
                oldest.close_files();
            }
        }
        self.files.take(1).await
    }

    /// Whether a log that opened a file may keep it open: not while others wait for a place, as these have
    /// closed by then all that was kept.
    pub(crate) fn may_keep_open(&self, log: &impl Tenant) -> bool {
        if self.files.has_waiters() {
            return false;
        }
        if !log.marks().is_kept_open.replace(true) {
            let mut kept = self.kept_open.borrow_mut();
            if kept.len() >= self.kept_open_max.get() {
                kept.retain(|log| log.strong_count() > 0);
                self.kept_open_max.set(KEPT_OPEN_MAX.max(2 * kept.len()));
            }
            assert!(kept.len() < self.kept_open_max.get(), "those that are gone were taken out");
            kept.push_back(log.weak_tenant());
        }
        assert!(log.marks().is_kept_open.get(), "it is among those that keep files open");
        true
    }

    /// Makes the names of partition directories durable: after `Log::create`, before they are used.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sync_names(&self) -> Result<(), StorageError> {
        let partitions = self.path.join("partitions");
        let synced = fs::sync_dir(&partitions).await;
        synced.map_err(|error| StorageError::of(&partitions, "sync", &error))
    }
}

/// Where partitions go that are deleted, until their files are gone.
fn deleted_path(data_dir: &Path) -> PathBuf {
    data_dir.join("deleted")
}

/// Takes a partition out of a data directory: one rename, whatever its size. Nothing looks for it any more once
/// `LogDir::sync_names` has run; `sweep_deleted` gives its space back. One that is not there is gone already.
///
/// # Errors
/// The disk's.
pub(crate) async fn remove_partition(
    data_dir: &Path,
    partition: TopicPartition,
) -> Result<(), StorageError> {
    let from = data_dir.join("partitions").join(partition.to_string());
    let deleted = deleted_path(data_dir);
    let is_gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    // On a full disk there may be no place for a name: then it goes here and now.
    let moved = fs::create_dir_all(&deleted)
        .and_then(|()| fs::rename(&from, &deleted.join(partition.to_string())));
    match moved {
        Err(error) if !is_gone(&error) => match fs::remove_dir_all(&from) {
            Err(error) if !is_gone(&error) => Err(StorageError::of(&from, "unlink", &error)),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Removes the files of partitions that were deleted, one at a time, without holding up the thread.
/// What it cannot remove is left for the next start.
pub async fn sweep_deleted(data_dir: &Path) {
    let deleted = deleted_path(data_dir);
    let mut slice = Slice::begin();
    for name in fs::list(&deleted).unwrap_or_default() {
        slice.rest().await;
        let dir = deleted.join(name);
        for file in fs::list(&dir).unwrap_or_default() {
            let _ = fs::remove_large_file(&dir.join(file)).await;
        }
        let _ = fs::remove_dir(&dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Log;
    use model::record_batch::BatchBuilder;
    use model::{Compression, LeaderEpoch, LogSettings, PartitionIndex, RecordBatch, TopicId};
    use runtime::simulated::{Disk, Simulation};
    use runtime::{Io, Runtime};

    #[test]
    fn logs_that_come_and_go_leave_nothing_behind() {
        let machine = Runtime::new(Io::Simulated(Simulation::new(Disk::default(), 1))).unwrap();
        let body = async {
            let data = Path::new("/d");
            fs::create_dir_all(&data.join("partitions")).unwrap();
            let home = LogDir::new(data, true, &TailCache::new(0), None, Arc::default());
            let mut builder = BatchBuilder::default();
            builder.begin(0);
            builder.push(0, None, Some(b"a record"), &[]);
            let bytes = builder.finish(Compression::None).to_vec();
            let batch = RecordBatch::validate_produced(&bytes, 1 << 20).unwrap();
            for number in 0..1000 {
                let partition = TopicPartition {
                    topic_id: TopicId([1; 16]),
                    partition: PartitionIndex(number),
                };
                let log = Log::create(&home, partition, LogSettings::default()).unwrap();
                for _ in 0..3 {
                    log.append(batch, log.log_end(), LeaderEpoch(1)).unwrap();
                    log.flush(false).await.unwrap();
                    log.close_files();
                }
            }
            assert!(home.kept_open.borrow().len() <= KEPT_OPEN_MAX);
            assert!(home.files.has_room(OPEN_FILES_MAX / 2), "no place is held");
        };
        machine.block_on(body).unwrap();
    }
}
