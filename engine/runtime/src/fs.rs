//! Names and directories: rare calls, made in place.
#![allow(clippy::disallowed_methods)]
#![allow(unsafe_code)]

use crate::buffer::ChunkWriter;
use crate::file::{BLOCK_BYTES, File, OpenOptions};
use crate::op::{Op, result_of};
use crate::submit::submit;
use crate::thread_core::with_twin;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Makes a directory and its parents; names last once their directories are synced.
///
/// # Errors
/// As mkdir(2).
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    with_twin(|twin| twin.create_dir_all(path)).unwrap_or_else(|| std::fs::create_dir_all(path))
}

/// The names in a directory, sorted.
///
/// # Errors
/// As opendir(3).
pub fn list(path: &Path) -> io::Result<Vec<String>> {
    if let Some(names) = with_twin(|twin| twin.list(path)) {
        return names;
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Gives a file a new name, replacing what had it.
///
/// # Errors
/// As rename(2).
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    with_twin(|twin| twin.rename(from, to)).unwrap_or_else(|| std::fs::rename(from, to))
}

/// Removes a file.
///
/// # Errors
/// As unlink(2).
pub fn remove_file(path: &Path) -> io::Result<()> {
    with_twin(|twin| twin.remove_file(path)).unwrap_or_else(|| std::fs::remove_file(path))
}

/// Removes a file, however large, without holding up the thread.
///
/// # Errors
/// As unlink(2).
pub async fn remove_large_file(path: &Path) -> io::Result<()> {
    if let Some(result) = with_twin(|twin| twin.remove_file(path)) {
        return result;
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (result, _) = submit(Op::Unlink { path }).await;
    result_of(result).map(drop)
}

/// Removes a directory and everything in it.
///
/// # Errors
/// As unlink(2) and rmdir(2).
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    with_twin(|twin| twin.remove_dir_all(path)).unwrap_or_else(|| std::fs::remove_dir_all(path))
}

/// Removes an empty directory.
///
/// # Errors
/// As rmdir(2).
pub fn remove_dir(path: &Path) -> io::Result<()> {
    with_twin(|twin| twin.remove_dir(path)).unwrap_or_else(|| std::fs::remove_dir(path))
}

/// Makes one directory, which must not exist; its name lasts once its parent is synced.
///
/// # Errors
/// As mkdir(2).
pub fn create_dir(path: &Path) -> io::Result<()> {
    with_twin(|twin| twin.create_dir(path)).unwrap_or_else(|| std::fs::create_dir(path))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// As open(2) and fsync(2).
pub async fn sync_dir(path: &Path) -> io::Result<()> {
    if let Some(result) = with_twin(|twin| twin.sync_dir(path)) {
        match result {
            Some(result) => return result,
            // The machine has stopped: this never returns.
            None => std::future::pending::<()>().await,
        }
    }
    File::open(path, OpenOptions::default())?.sync(false).await
}

/// When a file was last written, ms since the Unix epoch; 0 in the twin.
///
/// # Errors
/// As stat(2).
pub fn modified_ms(path: &Path) -> io::Result<i64> {
    if with_twin(|_| ()).is_some() {
        return Ok(0);
    }
    let modified = std::fs::metadata(path)?.modified()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(since.as_millis() as i64)
}

/// Makes everything written so far on the file system that holds `path` durable, names too. Blocks
/// the thread: for starts.
///
/// # Errors
/// As syncfs(2), which tells of failed writes since Linux 5.8.
pub async fn sync_file_system(path: &Path) -> io::Result<()> {
    if let Some(result) = with_twin(|twin| twin.sync_everything(path)) {
        match result {
            Some(result) => return result,
            // The machine has stopped: this never returns.
            None => std::future::pending::<()>().await,
        }
    }
    let dir = File::open(path, OpenOptions::default())?;
    // SAFETY: the descriptor is open.
    if unsafe { libc::syncfs(dir.raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The whole of a small file.
///
/// # Errors
/// As open(2) and read(2).
pub async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path, OpenOptions::default())?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let (result, writer) = file.read_at(ChunkWriter::with_capacity(len.max(1)), 0, len).await;
    result?;
    Ok(writer.bytes().to_vec())
}

/// Replaces a small file as a whole and durably: either the old or the new bytes survive a power
/// cut. Writes `path.tmp`, syncs it, renames it, syncs the directory.
///
/// # Errors
/// As write(2), fsync(2), rename(2).
pub async fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_added_extension("tmp");
    write_whole(&temporary, bytes).await?.sync(false).await?;
    rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new("."))).await
}

/// As `replace`, but durable only with the next `sync_file_system`: a power cut before it may leave
/// anything under the name. For many files at once, of a kind that is known to be whole.
///
/// # Errors
/// As write(2), rename(2).
pub async fn replace_before_sync(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_added_extension("tmp");
    write_whole(&temporary, bytes).await?;
    rename(&temporary, path)
}

/// Writes a small file over in place, or makes it, durably; its space is used again, so that a full disk does
/// not matter once it was made. A power cut leaves the old bytes, the new ones or some of both: for what is kept
/// twice, with a checksum. A name that is new lasts once its directory is synced.
///
/// # Errors
/// As open(2), write(2), fsync(2).
pub async fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let options = OpenOptions { create: true, write: true, direct: false };
    let file = File::open(path, options)?;
    let padded = bytes.len().next_multiple_of(BLOCK_BYTES);
    let mut writer = ChunkWriter::with_capacity(padded);
    writer.append(bytes);
    file.write_at(&mut vec![writer.disk_range(0..padded)], 0, false).await?;
    file.sync(false).await
}

/// What may succeed later: no space, no place for an open file, no memory.
const PASSING: [i32; 9] = [
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOMEM,
    libc::EINTR,
    libc::EAGAIN,
    libc::ENOBUFS,
    libc::ECANCELED,
];

/// Writes small files as `replace` does, but all of them before any gets its name: if there is no space for one, or no
/// place for an open file, nothing was changed. Those that could not be written otherwise come back with why.
///
/// # Errors
/// One that may pass: nothing was changed.
pub async fn replace_all(paths: &[PathBuf], bytes: &[u8]) -> io::Result<Vec<(PathBuf, io::Error)>> {
    let (mut written, mut failed) = (Vec::new(), Vec::new());
    for path in paths {
        let temporary = path.with_added_extension("tmp");
        let result = match write_whole(&temporary, bytes).await {
            Ok(file) => file.sync(false).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => written.push((temporary, path)),
            Err(error) if error.raw_os_error().is_some_and(|errno| PASSING.contains(&errno)) => {
                let written = written.into_iter().map(|(temporary, _)| temporary);
                written.chain([temporary]).for_each(|path| drop(remove_file(&path)));
                return Err(error);
            }
            Err(error) => failed.push((path.clone(), error)),
        }
    }
    for (temporary, path) in written {
        let parent = path.parent().unwrap_or(Path::new("."));
        let result = match rename(&temporary, path) {
            Ok(()) => sync_dir(parent).await,
            failed => failed,
        };
        failed.extend(result.err().map(|error| (path.clone(), error)));
    }
    Ok(failed)
}

/// Makes a file of these bytes alone.
async fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let options = OpenOptions { create: true, write: true, direct: false };
    let file = File::open(path, options)?;
    file.set_len(0)?;
    let mut writer = ChunkWriter::with_capacity(bytes.len().max(1));
    writer.append(bytes);
    if !bytes.is_empty() {
        let mut pieces = vec![writer.disk_range(0..bytes.len())];
        file.write_at(&mut pieces, 0, false).await?;
    }
    Ok(file)
}

/// Bytes of the file system that holds `path`: all, and those free for this process.
///
/// # Errors
/// As statvfs(3).
pub fn space(path: &Path) -> io::Result<(i64, i64)> {
    if let Some(space) = with_twin(|twin| twin.space()) {
        return Ok(space);
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: plain C structure; all zeroes is valid.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is terminated, `stat` a valid place for the result.
    if unsafe { libc::statvfs(name.as_ptr(), &raw mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes =
        |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    Ok((bytes(stat.f_blocks), bytes(stat.f_bavail)))
}

/// A directory of its own that is removed with everything in it when dropped.
pub struct TemporaryDir {
    path: PathBuf,
}

impl TemporaryDir {
    /// Makes `prefix-<random>` under `parent`.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn new(parent: &Path, prefix: &str) -> io::Result<Self> {
        let path = parent.join(format!("{prefix}-{:016x}", crate::random::seed()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
