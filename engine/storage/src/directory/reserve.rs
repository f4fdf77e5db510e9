//! Space kept back in a data directory: given up so that a full disk can be left by deleting.
//!
//! Produce requests never get it. A start may have most of it, to put journaled bytes in place; the catalog and what
//! deletes may have all: they need a few blocks, and with none left nothing that frees space could begin. It is taken
//! again once there is space for twice as much.

use crate::StorageError;
use runtime::file::{File, OpenOptions};
use runtime::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const FILE: &str = "reserve";
/// Of a file system's size, one part in so many.
const SHARE: u64 = 64;
const BYTES_MIN: u64 = 256 * 1024;
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A start leaves one part in so many.
const KEPT_SHARE: u64 = 4;

/// The reserve of one data directory; shared by all shards.
#[derive(Debug, Default)]
pub struct Reserve {
    path: PathBuf,
    is_held: AtomicBool,
}

impl Reserve {
    /// That of a directory, as the last process left it.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let found = File::open(&path, OpenOptions::default()).and_then(|file| file.len());
        Self { path, is_held: AtomicBool::new(found.is_ok_and(|bytes| bytes > 0)) }
    }

    /// Whether there is something to give up.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    /// Takes the space, if it is free twice; true if it is held then.
    ///
    /// # Errors
    /// The disk's; a full disk is none.
    pub async fn take(&self) -> Result<bool, StorageError> {
        if self.is_held() {
            return Ok(true);
        }
        let failed = |what| move |error: std::io::Error| StorageError::of(&self.path, what, &error);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let (all, free) = fs::space(dir).map_err(failed("stat"))?;
        let bytes = (u64::try_from(all).unwrap_or(0) / SHARE).clamp(BYTES_MIN, BYTES_MAX);
        let bytes = bytes.next_multiple_of(4096);
        assert!((BYTES_MIN..=BYTES_MAX).contains(&bytes), "a reserve within its limits");
        if u64::try_from(free).unwrap_or(0) < 2 * bytes {
            return Ok(false);
        }
        let taken = async {
            let options = OpenOptions { create: true, write: true, direct: false };
            let file = File::open(&self.path, options).map_err(failed("open"))?;
            file.allocate(0, bytes).await.map_err(failed("fallocate"))
        };
        match taken.await {
            Ok(()) => {
                self.is_held.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if error.is_passing() => {
                self.give_up(Use::Deletion).await;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives space back to the file system; true if there was any.
    pub async fn give_up(&self, what_for: Use) -> bool {
        let held = self.is_held.swap(false, Ordering::Relaxed);
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        let Ok(file) = File::open(&self.path, options) else { return false };
        let Ok(bytes) = file.len() else { return false };
        let kept = match what_for {
            Use::Start if held => bytes / KEPT_SHARE / 4096 * 4096,
            // It has had its part.
            Use::Start => return false,
            Use::Deletion => 0,
        };
        let freed = bytes > kept && file.set_len(kept).is_ok();
        // Blocks are free for others once this is on the disk.
        let _ = file.sync(false).await;
        freed
    }
}

/// What the reserve is given up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To open logs.
    Start,
    /// For the catalog, for deleting, and for what a start cannot do without.
    Deletion,
}

/// Does something that may need a little space, a second time with the reserve if there was none.
///
/// # Errors
/// What `work` failed with.
pub async fn with_reserve<T>(
    reserve: &Reserve,
    work: impl AsyncFn() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    with_reserve_for(reserve, Use::Deletion, work).await
}

/// As `with_reserve`, with as much of it as what it is for may have.
///
/// # Errors
/// What `work` failed with.
pub async fn with_reserve_for<T>(
    reserve: &Reserve,
    what_for: Use,
    work: impl AsyncFn() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    match work().await {
        Err(error) if error.is_full() && reserve.give_up(what_for).await => work().await,
        other => other,
    }
}
