//! What the disk did wrong: path, operation, errno.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

const ENOENT: i32 = 2;

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
    /// Classifies a failed system call.
    #[must_use]
    pub fn of(path: &Path, operation: &'static str, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(28 | 122) => Self::Full { path: path.to_owned() },
            errno => Self::Io { path: path.to_owned(), operation, errno: errno.unwrap_or(0) },
        }
    }

    /// Whether it says that a file is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { errno: ENOENT, .. })
    }

    /// Whether writing may work again without anyone's help.
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
                "{}: the disk is full; produce requests are refused until space is freed",
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
