//! What the disk did wrong: path, operation, errno; and whom it concerns.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const ENAMETOOLONG: i32 = 36;
const ENOTEMPTY: i32 = 39;
const ELOOP: i32 = 40;
const ENOBUFS: i32 = 105;
const EDQUOT: i32 = 122;
const ECANCELED: i32 = 125;

/// Operations after which, if they fail, nothing is known of what was written before.
const SYNCS: [&str; 4] = ["fdatasync", "fsync", "sync", "syncfs"];
/// Operations that change nothing, or one name: what they fail at is one partition.
const OF_ONE_FILE: [&str; 6] = ["open", "stat", "list", "read", "mkdir", "unlink"];

/// Whom a failure concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Nobody for good: the same may succeed later (a full disk, too many open files).
    Nobody,
    /// One partition: others in the directory go on.
    Partition,
    /// Everything in the data directory.
    Directory,
}

/// A failure of the disk or of the bytes on it.
#[derive(Clone, Debug)]
pub enum StorageError {
    /// The disk is full (ENOSPC, EDQUOT): nothing was lost, and writing may work again later.
    Full {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// A system call failed. For writes and syncs nothing is known of the data any more.
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's number for the error.
        errno: i32,
    },
    /// An earlier failure took this log offline.
    Offline,
    /// Bytes on disk are not what was written.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Byte position in it.
        position: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The directory cannot be used; the text says why and what to do.
    Unusable(String),
}

impl StorageError {
    /// Classifies a failed system call. A sync that finds no space is no full disk that may be tried again:
    /// the kernel tells it once, and has dropped what it could not write.
    #[must_use]
    pub fn of(path: &Path, operation: &'static str, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(ENOSPC | EDQUOT) if !SYNCS.contains(&operation) => {
                Self::Full { path: path.to_owned() }
            }
            errno => Self::Io { path: path.to_owned(), operation, errno: errno.unwrap_or(0) },
        }
    }

    /// Whom it concerns.
    #[must_use]
    pub fn concern(&self) -> Concern {
        let Self::Io { operation, errno, .. } = self else {
            return if self.is_full() { Concern::Nobody } else { Concern::Partition };
        };
        match *errno {
            EINTR | EAGAIN | ENOMEM | ENFILE | EMFILE | ENOBUFS | ECANCELED => Concern::Nobody,
            ENOENT | EPERM | EACCES | EEXIST | ENOTDIR | EISDIR | ENAMETOOLONG | ENOTEMPTY
            | ELOOP => Concern::Partition,
            EROFS => Concern::Directory,
            _ if OF_ONE_FILE.contains(operation) => Concern::Partition,
            _ => Concern::Directory,
        }
    }

    /// Whether the same may succeed later without anyone's help, and nothing was lost.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.concern() == Concern::Nobody
    }

    /// Whether it says that a file is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { errno: ENOENT, .. })
    }

    /// Whether there is no space.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { path } => write!(
                f,
                "{}: the disk is full; free space: delete topics or records, shorten retention, or make the \
                 disk larger",
                path.display()
            ),
            Self::Io { path, operation, errno } => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "{}: {operation} failed: {error}", path.display())
            }
            Self::Offline => write!(f, "the log is offline after an earlier disk error"),
            Self::Corrupt { path, position, what } => {
                write!(f, "{}: damaged at byte {position}: {what}", path.display())
            }
            Self::Unusable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for StorageError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_concerns_whom_it_must() {
        let of = |operation, errno| {
            StorageError::of(Path::new("/f"), operation, &io::Error::from_raw_os_error(errno))
        };
        for operation in ["open", "write", "fallocate", "fdatasync", "replace", "read"] {
            for errno in [EINTR, EAGAIN, ENOMEM, ENFILE, EMFILE, ECANCELED] {
                assert_eq!(of(operation, errno).concern(), Concern::Nobody, "{operation} {errno}");
            }
            for errno in [ENOENT, EACCES, EISDIR] {
                let concern = of(operation, errno).concern();
                assert_eq!(concern, Concern::Partition, "{operation} {errno}");
            }
            assert_eq!(of(operation, EROFS).concern(), Concern::Directory);
        }
        for errno in [ENOSPC, EDQUOT] {
            for operation in ["open", "write", "fallocate", "replace", "mkdir", "truncate"] {
                assert!(of(operation, errno).is_full(), "{operation}");
            }
            for operation in SYNCS {
                let late = of(operation, errno);
                assert!(!late.is_full() && late.concern() == Concern::Directory, "{operation}");
            }
        }
        const EIO: i32 = 5;
        assert_eq!(of("read", EIO).concern(), Concern::Partition);
        assert_eq!(of("write", EIO).concern(), Concern::Directory);
        assert_eq!(StorageError::Offline.concern(), Concern::Partition);
    }
}
