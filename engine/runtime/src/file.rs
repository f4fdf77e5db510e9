//! Files by position: reads and writes of aligned memory, sync, allocation.
#![allow(unsafe_code)]

use crate::buffer::{ChunkWriter, DiskRange};
use crate::op::{Op, result_of};
pub use crate::open_options::OpenOptions;
use crate::submit::submit;
use crate::thread_core::{Backend, with_core, with_twin};
use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(crate) const BLOCK_BYTES: usize = 4096;

/// An open file of this thread. Dropping it closes it and syncs nothing.
pub struct File {
    fd: RawFd,
    direct: bool,
    simulated: bool,
}

impl File {
    /// Opens `path`. Falls back to the page cache where O_DIRECT is refused.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path, options: OpenOptions) -> io::Result<Self> {
        if let Some(opened) = with_twin(|twin| twin.open(path, options)) {
            return opened.map(|fd| Self { fd, direct: options.direct, simulated: true });
        }
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path holds a zero byte"))?;
        let mut flags = libc::O_CLOEXEC;
        flags |= if options.write { libc::O_RDWR } else { libc::O_RDONLY };
        flags |= if options.create { libc::O_CREAT } else { 0 };
        // SAFETY: `name` is a terminated string that outlives the calls.
        let open = |flags| unsafe { libc::open(name.as_ptr(), flags, 0o640) };
        if options.direct {
            let fd = open(flags | libc::O_DIRECT);
            if fd >= 0 {
                return Ok(Self { fd, direct: true, simulated: false });
            }
        }
        let fd = open(flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, direct: false, simulated: false })
    }

    /// Whether it bypasses the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Reads at `position` into the writer's free space until `len` bytes, its end, or the end of
    /// the file. Returns how many bytes came, and the writer.
    ///
    /// # Errors
    /// As preadv(2); bytes read before the error are in the writer.
    pub async fn read_at(
        &self,
        mut into: ChunkWriter,
        position: u64,
        len: usize,
    ) -> (io::Result<usize>, ChunkWriter) {
        let mut read = 0;
        loop {
            let op = Op::Read {
                fd: self.fd,
                into,
                position: position + read as u64,
                len_max: len - read,
            };
            let (result, op) = submit(op).await;
            let Op::Read { into: returned, .. } = op else { unreachable!("the op comes back") };
            into = returned;
            match result_of(result) {
                Ok(0) => return (Ok(read), into),
                Ok(bytes) => read += bytes,
                Err(error) => return (Err(error), into),
            }
            let aligned = read.is_multiple_of(BLOCK_BYTES) || !self.direct;
            if read >= len || into.remaining() == 0 || !aligned {
                return (Ok(read), into);
            }
        }
    }

    /// Writes all `pieces`, one after another, at `position`. With `dsync` each write is durable
    /// when it completes (RWF_DSYNC); this says nothing about writes before it.
    ///
    /// A short write is continued; `pieces` comes back empty for reuse.
    ///
    /// # Errors
    /// As pwritev2(2). After an error nothing is known about the bytes in the range.
    pub async fn write_at(
        &self,
        pieces: &mut Vec<DiskRange>,
        mut position: u64,
        dsync: bool,
    ) -> io::Result<()> {
        while !pieces.is_empty() {
            let taken = std::mem::take(pieces);
            let (result, op) =
                submit(Op::Write { fd: self.fd, pieces: taken, position, dsync }).await;
            let Op::Write { pieces: returned, .. } = op else { unreachable!("the op comes back") };
            *pieces = returned;
            let written = match result_of(result) {
                Ok(0) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                other => other,
            };
            let mut written = match written {
                Ok(written) => written,
                Err(error) => {
                    pieces.clear();
                    return Err(error);
                }
            };
            position += written as u64;
            pieces.retain_mut(|piece| {
                let skipped = written.min(piece.len());
                piece.skip(skipped);
                written -= skipped;
                piece.len() > 0
            });
            if !pieces.is_empty() {
                with_core(|core| {
                    if let Backend::Ring(ring) = &mut *core.backend.borrow_mut() {
                        ring.counters.short_writes.add(1);
                    }
                });
            }
        }
        Ok(())
    }

    /// Makes every completed write durable, and with `data_only` false all metadata too.
    ///
    /// # Errors
    /// As fsync(2). Never retry: after a failure the kernel may have dropped the data.
    pub async fn sync(&self, data_only: bool) -> io::Result<()> {
        let (result, _) = submit(Op::Sync { fd: self.fd, data_only }).await;
        result_of(result).map(drop)
    }

    /// Reserves disk space for a range and extends the file over it; the range reads as zeroes.
    ///
    /// # Errors
    /// As fallocate(2); ENOSPC when the disk is full.
    pub async fn allocate(&self, position: u64, bytes: u64) -> io::Result<()> {
        let (result, _) = submit(Op::Allocate { fd: self.fd, position, bytes }).await;
        match result_of(result) {
            // A file system without fallocate: extend only, and let writes find the space.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.set_len(self.len()?.max(position + bytes))
            }
            other => other.map(drop),
        }
    }

    /// Cuts or extends the file. A rare call, made in place: it may block for a moment.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn set_len(&self, bytes: u64) -> io::Result<()> {
        if self.simulated {
            return with_twin(|twin| twin.set_len(self.fd, bytes)).expect("a simulated file");
        }
        // SAFETY: the descriptor is open as long as `self` lives.
        if unsafe { libc::ftruncate(self.fd, bytes as libc::off_t) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The file's length in bytes, preallocated space included.
    ///
    /// # Errors
    /// As fstat(2).
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> io::Result<u64> {
        if self.simulated {
            return with_twin(|twin| twin.len(self.fd)).expect("a simulated file");
        }
        // SAFETY: plain C structure; all zeroes is valid.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `stat` is a valid place for the result.
        if unsafe { libc::fstat(self.fd, &raw mut stat) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stat.st_size as u64)
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd
    }

    /// Takes the advisory lock of the file for this process; false if another process has it.
    ///
    /// # Errors
    /// As flock(2).
    pub fn try_lock(&self) -> io::Result<bool> {
        if self.simulated {
            return Ok(true);
        }
        // SAFETY: the descriptor is open.
        if unsafe { libc::flock(self.fd, libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EWOULDBLOCK) { Ok(false) } else { Err(error) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if !self.simulated {
            // SAFETY: ours alone; operations in flight hold their own reference in the kernel.
            unsafe { libc::close(self.fd) };
        }
    }
}
