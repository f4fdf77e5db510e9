//! How a file is opened.

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Make it if it does not exist; its directory must be synced for the name to last.
    pub create: bool,
    /// Open for writing too.
    pub write: bool,
    /// Bypass the page cache (O_DIRECT) where the file system can; see `File::is_direct`.
    pub direct: bool,
}
