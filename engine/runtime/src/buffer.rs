//! Page-aligned memory that the kernel, this thread and other threads can share without copies.
//!
//! A `Chunk` is written front to back by its one `ChunkWriter`; what was written is immutable and
//! may be shared as `SharedBytes`, also across threads. `DiskRange` names bytes for a disk write
//! and may include unwritten padding, so it cannot be read by safe code.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const ALIGNMENT: usize = 4096;

/// What the processor and the kernel can map in one piece, where the system allows it to those who ask.
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// A huge page, if the system gives one, from which chunks are cut.
struct Extent {
    start: NonNull<u8>,
    /// A part of it went back to the system.
    is_broken: AtomicBool,
}

// SAFETY: an extent is only an address; whoever uses a part of it owns that part.
unsafe impl Send for Extent {}
// SAFETY: as above.
unsafe impl Sync for Extent {}

impl Extent {
    const LAYOUT: Layout = match Layout::from_size_align(HUGE_PAGE_BYTES, HUGE_PAGE_BYTES) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    };

    fn new() -> Self {
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc(Self::LAYOUT) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(Self::LAYOUT) };
        // SAFETY: the range is ours and whole pages. A refusal only means small pages.
        unsafe { libc::madvise(start.as_ptr().cast(), HUGE_PAGE_BYTES, libc::MADV_HUGEPAGE) };
        Self { start, is_broken: AtomicBool::new(false) }
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout; no chunk of it is left.
        unsafe { dealloc(self.start.as_ptr(), Self::LAYOUT) };
    }
}

/// A fixed piece of page-aligned memory.
pub(crate) struct Chunk {
    start: NonNull<u8>,
    capacity: usize,
    source: Source,
}

/// Where a chunk's memory is from.
enum Source {
    Allocator,
    /// The system itself, where it goes back to at once: an allocator may keep what is freed.
    System,
    /// Cut from this.
    Extent {
        keeps: Arc<Extent>,
    },
}

/// From here on chunks are the system's.
const MAPPED_BYTES_MIN: usize = 256 * 1024;

// SAFETY: the bytes below a writer's `filled` never change while any `SharedBytes` exists, and
// those above are touched only through the one `ChunkWriter` (or by the kernel on its behalf).
unsafe impl Send for Chunk {}
// SAFETY: as above; shared access is to immutable bytes only.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a chunk has bytes");
        assert!(capacity <= i32::MAX as usize, "a chunk's places fit 32 bits");
        let capacity = capacity.next_multiple_of(ALIGNMENT);
        let layout = Self::layout(capacity);
        if capacity >= MAPPED_BYTES_MIN {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: asks for fresh memory anywhere.
            let start =
                unsafe { libc::mmap(std::ptr::null_mut(), capacity, protection, flags, -1, 0) };
            if start == libc::MAP_FAILED {
                handle_alloc_error(layout);
            }
            let start = NonNull::new(start.cast()).expect("a mapping is not at zero");
            return Self { start, capacity, source: Source::System };
        }
        // Not zeroed: that would map every page, and an idle connection uses one of its chunk's 272.
        // SAFETY: the layout has a size above zero. Only bytes below a writer's `filled` are read, and
        // `disk_range` zeroes what it names above.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity, source: Source::Allocator }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT).expect("capacity is far below isize::MAX")
    }

    /// Makes the kernel map every page now, so that the first real use does not pay for it.
    fn touch(&mut self) {
        for at in (0..self.capacity).step_by(ALIGNMENT) {
            // SAFETY: `at` is inside the chunk, and `&mut self` excludes every other user.
            unsafe { self.start.as_ptr().add(at).write_volatile(0) };
        }
    }

    fn at(&self, position: usize) -> *mut u8 {
        debug_assert!(position <= self.capacity);
        // SAFETY: callers stay within the capacity.
        unsafe { self.start.as_ptr().add(position) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let start = self.start.as_ptr();
        match self.source {
            // SAFETY: allocated in `new` with the same layout, and this is the last owner.
            Source::Allocator => unsafe { dealloc(start, Self::layout(self.capacity)) },
            Source::System => {
                // SAFETY: mapped in `new` with this size, and this is the last owner.
                unsafe { libc::munmap(start.cast(), self.capacity) };
            }
            // The extent may live on for others: this part of its memory goes back to the system now, and is not
            // filled up again to make a huge page of what is left. That is said of the whole extent: said of parts
            // it would make a mapping of each, of which a process may have 65,530.
            Source::Extent { ref keeps } => {
                if !keeps.is_broken.swap(true, Ordering::Relaxed) {
                    let (extent, advice) = (keeps.start.as_ptr(), libc::MADV_NOHUGEPAGE);
                    // SAFETY: whole pages of the extent; what is in them stays.
                    unsafe { libc::madvise(extent.cast(), HUGE_PAGE_BYTES, advice) };
                }
                // SAFETY: whole pages that only this chunk used, and nobody reads them any more.
                unsafe { libc::madvise(start.cast(), self.capacity, libc::MADV_DONTNEED) };
            }
        }
    }
}

/// The one writer of a chunk. Invariant: `filled <= capacity`.
pub struct ChunkWriter {
    chunk: Arc<Chunk>,
    /// What the chunk says, once more here: an append to one of thousands of logs then touches only the
    /// bytes it writes, not the line of memory that counts the chunk's readers.
    start: NonNull<u8>,
    capacity: u32,
    filled: u32,
}

/// Copies of at least so many bytes go past the processor's caches.
const PAST_CACHE_BYTES_MIN: usize = 8 * 1024;

/// Copies `len` bytes that do not overlap. A long copy is streamed: its target, memory that was last
/// used many megabytes ago, is not read into the cache first just to be overwritten. (Produce in
/// bulk: the broker's own CPU per GB, without the kernel's, fell from 0.70 to 0.53, medians of five
/// interleaved runs; with readers at the tail there was no loss.)
///
/// # Safety
/// As `copy_nonoverlapping`.
unsafe fn copy_past_cache(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= PAST_CACHE_BYTES_MIN {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        const LINE: usize = 64;
        // SAFETY: the caller's ranges are split into a head that aligns the target, whole lines, and
        // a tail; each access lies inside them, and streamed stores are aligned to 16 bytes. The
        // fence orders them before whatever publishes the bytes.
        unsafe {
            let head = to.align_offset(LINE);
            std::ptr::copy_nonoverlapping(from, to, head);
            let (mut from, mut to, mut left) = (from.add(head), to.add(head), len - head);
            while left >= LINE {
                let source: *const __m128i = from.cast();
                let target: *mut __m128i = to.cast();
                let line = [0, 1, 2, 3].map(|part| _mm_loadu_si128(source.add(part)));
                for (part, bytes) in line.into_iter().enumerate() {
                    _mm_stream_si128(target.add(part), bytes);
                }
                (from, to, left) = (from.add(LINE), to.add(LINE), left - LINE);
            }
            std::ptr::copy_nonoverlapping(from, to, left);
            _mm_sfence();
        }
        return;
    }
    // SAFETY: the caller's word.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

impl ChunkWriter {
    /// A chunk of at least `capacity` bytes that belongs to no pool.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self::begin(Arc::new(Chunk::new(capacity)))
    }

    /// Writes a chunk from its start; nobody else may have it.
    fn begin(chunk: Arc<Chunk>) -> Self {
        let (start, capacity) = (chunk.start, chunk.capacity as u32);
        Self { chunk, start, capacity, filled: 0 }
    }

    fn at(&self, position: usize) -> *mut u8 {
        debug_assert!(position <= self.capacity());
        // SAFETY: callers stay within the capacity, and the chunk lives as long as `self`.
        unsafe { self.start.as_ptr().add(position) }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled as usize
    }

    /// Bytes it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Bytes it can still take.
    #[must_use]
    pub fn remaining(&self) -> usize {
        (self.capacity - self.filled) as usize
    }

    /// What was written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: bytes below `filled` are initialised and immutable while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.at(0), self.filled()) }
    }

    /// Takes as much of `bytes` as fits; returns how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.remaining());
        // SAFETY: the target is inside the chunk and above `filled`, where only this writer writes;
        // `bytes` cannot overlap it, because shared bytes lie below `filled`.
        unsafe { copy_past_cache(bytes.as_ptr(), self.at(self.filled()), taken) };
        self.filled += taken as u32;
        taken
    }

    /// Shares written bytes.
    #[must_use]
    pub fn share(&self, range: Range<usize>) -> SharedBytes {
        assert!(range.start <= range.end && range.end <= self.filled(), "only written bytes");
        SharedBytes {
            chunk: Arc::clone(&self.chunk),
            start: range.start as u32,
            len: (range.end - range.start) as u32,
        }
    }

    /// Names `range` for a disk write. Bytes above `filled` are zeroed first: they are padding.
    pub fn disk_range(&mut self, range: Range<usize>) -> DiskRange {
        assert!(range.start <= range.end && range.end <= self.capacity());
        if range.end > self.filled() {
            // SAFETY: inside the chunk and above `filled`, where only this writer writes.
            unsafe {
                let padding = range.end - self.filled();
                std::ptr::write_bytes(self.at(self.filled()), 0, padding);
            }
        }
        DiskRange { chunk: Arc::clone(&self.chunk), start: range.start, len: range.len() }
    }

    /// Where the kernel may write, and how much: everything above `filled`, at most `len_max`.
    pub(crate) fn spare(&mut self, len_max: usize) -> (*mut u8, usize) {
        (self.at(self.filled()), self.remaining().min(len_max))
    }

    /// Counts `bytes` that the kernel wrote at `spare`.
    pub(crate) fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.remaining(), "the kernel wrote within the spare");
        self.filled += bytes as u32;
    }
}

/// Immutable bytes of a chunk; cheap to clone and to send to another thread.
#[derive(Clone)]
pub struct SharedBytes {
    chunk: Arc<Chunk>,
    start: u32,
    len: u32,
}

impl SharedBytes {
    /// A copy of `bytes` in a chunk of its own: for control paths and tests.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut writer = ChunkWriter::with_capacity(bytes.len().max(1));
        writer.append(bytes);
        writer.share(0..bytes.len())
    }

    /// A part of these bytes.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len());
        Self {
            chunk: Arc::clone(&self.chunk),
            start: self.start + range.start as u32,
            len: range.len() as u32,
        }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range was below `filled` when shared, so it is initialised and immutable, and
        // the chunk lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.chunk.at(self.start as usize), self.len as usize) }
    }
}

/// Bytes of a chunk on their way to a disk; may end in padding, so safe code cannot read it.
pub struct DiskRange {
    chunk: Arc<Chunk>,
    start: usize,
    len: usize,
}

impl DiskRange {
    /// How many bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn start_ptr(&self) -> *const u8 {
        self.chunk.at(self.start)
    }

    /// Drops the first `bytes`, which are written.
    pub(crate) fn skip(&mut self, bytes: usize) {
        assert!(bytes <= self.len);
        self.start += bytes;
        self.len -= bytes;
    }

    /// A copy of the bytes as they are now, padding included.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        // SAFETY: inside a chunk; every byte was written, or zeroed when the range was named. Only
        // the simulated disk calls this, on the writer's own thread, while no append runs.
        unsafe { std::slice::from_raw_parts(self.start_ptr(), self.len).to_vec() }
    }
}

/// Chunks of one size that are used again: no allocation once warm. Belongs to one thread; its
/// chunks may be read by others, and come back when the last reader lets go.
pub struct ChunkPool {
    chunk_bytes: usize,
    chunks_max: usize,
    chunks_made: usize,
    retired: VecDeque<Arc<Chunk>>,
    /// Whether chunks are cut from extents; else each stands alone.
    cuts: bool,
    /// The extent that the next chunk is cut from, and where.
    extent: Option<(Arc<Extent>, usize)>,
}

impl ChunkPool {
    /// A pool of at most `chunks_max` chunks of `chunk_bytes`, of which `chunks_ready` are made
    /// and touched now.
    #[must_use]
    pub fn new(chunk_bytes: usize, chunks_max: usize, chunks_ready: usize) -> Self {
        Self::ready(chunk_bytes, chunks_max, chunks_ready, false)
    }

    /// As `new`, but the chunks are cut from huge pages, where the system gives them to those who ask
    /// (`/sys/kernel/mm/transparent_hugepage/enabled` is `madvise` or `always`).
    #[must_use]
    pub fn of_huge_pages(chunk_bytes: usize, chunks_max: usize, chunks_ready: usize) -> Self {
        assert!(chunk_bytes <= HUGE_PAGE_BYTES);
        Self::ready(chunk_bytes, chunks_max, chunks_ready, true)
    }

    fn ready(chunk_bytes: usize, chunks_max: usize, chunks_ready: usize, cuts: bool) -> Self {
        let ready = chunks_ready.min(chunks_max);
        let retired = VecDeque::with_capacity(chunks_max.min(ready.max(64)));
        let mut pool =
            Self { chunk_bytes, chunks_max, chunks_made: ready, retired, extent: None, cuts };
        for _ in 0..ready {
            let mut chunk = pool.make_chunk();
            chunk.touch();
            pool.retired.push_back(Arc::new(chunk));
        }
        pool
    }

    fn make_chunk(&mut self) -> Chunk {
        if !self.cuts {
            return Chunk::new(self.chunk_bytes);
        }
        let capacity = self.chunk_bytes.next_multiple_of(ALIGNMENT);
        let (extent, at) = match self.extent.take() {
            Some((extent, at)) if at + capacity <= HUGE_PAGE_BYTES => (extent, at),
            _ => (Arc::new(Extent::new()), 0),
        };
        // SAFETY: inside the extent.
        let start = unsafe { extent.start.add(at) };
        self.extent = Some((Arc::clone(&extent), at + capacity));
        Chunk { start, capacity, source: Source::Extent { keeps: extent } }
    }

    /// An empty chunk; `None` when all are in use.
    pub fn take(&mut self) -> Option<ChunkWriter> {
        let retired = self.take_retired();
        retired.or_else(|| (self.chunks_made < self.chunks_max).then(|| self.make()))
    }

    /// A chunk that came back and that nobody reads any more.
    pub fn take_retired(&mut self) -> Option<ChunkWriter> {
        for _ in 0..self.retired.len().min(16) {
            let mut chunk = self.retired.pop_front()?;
            if Arc::get_mut(&mut chunk).is_some() {
                return Some(ChunkWriter::begin(chunk));
            }
            self.retired.push_back(chunk);
        }
        None
    }

    /// A new chunk, whatever the limit.
    pub fn make(&mut self) -> ChunkWriter {
        self.chunks_made += 1;
        ChunkWriter::begin(Arc::new(self.make_chunk()))
    }

    /// Gives the memory of a chunk that came back, and that nobody reads any more, to the system; false
    /// if there is none.
    pub fn release_one(&mut self) -> bool {
        let released = self.take_retired().is_some();
        self.chunks_made -= usize::from(released);
        released
    }

    /// An empty chunk even when the pool is at its limit: the pool is then larger until chunks come
    /// back. For callers that have nothing to evict and whose demand is bounded elsewhere.
    pub fn take_or_grow(&mut self) -> ChunkWriter {
        self.take().unwrap_or_else(|| self.make())
    }

    /// Gives a chunk back; it is used again once no `SharedBytes` of it is left.
    pub fn retire(&mut self, writer: ChunkWriter) {
        if writer.capacity() != self.chunk_bytes.next_multiple_of(ALIGNMENT) {
            return;
        }
        if self.chunks_made > self.chunks_max {
            self.chunks_made -= 1;
        } else {
            self.retired.push_back(writer.chunk);
        }
    }

    /// Bytes of each chunk, before it is made of whole pages.
    pub(crate) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Chunks that came back and are not in use again.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.retired.len()
    }

    /// Bytes of the chunks made and not given to the system.
    #[must_use]
    pub fn bytes_made(&self) -> usize {
        self.chunks_made * self.chunk_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_copies_arrive_whole_from_and_to_any_place() {
        let source: Vec<u8> = (0..3 * PAST_CACHE_BYTES_MIN).map(|n| (n % 251) as u8).collect();
        for at in [0, 1, 15, 16, 63, 64, 100] {
            for from in [0, 1, 33, 64] {
                let odd =
                    [PAST_CACHE_BYTES_MIN - 1, PAST_CACHE_BYTES_MIN, 2 * PAST_CACHE_BYTES_MIN + 77];
                for len in odd {
                    let mut writer = ChunkWriter::with_capacity(at + len + 1);
                    writer.append(&vec![9; at]);
                    assert_eq!(writer.append(&source[from..from + len]), len);
                    writer.append(&[7]);
                    let bytes = writer.bytes();
                    assert!(bytes[..at].iter().all(|byte| *byte == 9), "{at} {from} {len}");
                    assert_eq!(bytes[at..at + len], source[from..from + len], "{at} {from} {len}");
                    assert_eq!(bytes[at + len..], [7]);
                }
            }
        }
    }

    #[test]
    fn a_chunk_is_reused_only_when_its_last_reader_is_gone() {
        let mut pool = ChunkPool::new(4096, 1, 1);
        let mut writer = pool.take().unwrap();
        writer.append(b"hello");
        let shared = writer.share(1..4);
        pool.retire(writer);
        assert!(pool.take().is_none(), "a reader is left");
        assert!(!pool.release_one(), "its memory would still be there, and counted nowhere");
        assert_eq!(pool.bytes_made(), 4096);
        assert_eq!(&*shared, b"ell");
        drop(shared);
        assert_eq!(pool.take().unwrap().filled(), 0);
    }

    #[test]
    fn what_was_cut_from_a_huge_page_goes_back_to_the_system_chunk_by_chunk() {
        let mut pool = ChunkPool::of_huge_pages(128 * 1024, usize::MAX, 20);
        let mut kept = pool.take().unwrap();
        kept.append(b"stays");
        let resident = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let start = kept.at(0) as usize / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
            let mut inside = false;
            let mut kilobytes = 0;
            for line in smaps.lines() {
                let range = line.split(' ').next().and_then(|range| range.split_once('-'));
                let at = range.and_then(|(from, _)| usize::from_str_radix(from, 16).ok());
                inside = at.map_or(inside, |at| (start..start + HUGE_PAGE_BYTES).contains(&at));
                if let Some(rss) = line.strip_prefix("Rss:").filter(|_| inside) {
                    kilobytes += rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap();
                }
            }
            kilobytes
        };
        while pool.release_one() {}
        assert_eq!(pool.bytes_made(), 128 * 1024, "the one in use");
        let left = resident();
        assert!((4..=128).contains(&left), "{left} KiB of its huge page are left");
        assert_eq!(kept.bytes(), b"stays");
    }

    #[test]
    fn padding_is_zeroed_when_a_chunk_is_used_again() {
        let mut pool = ChunkPool::new(4096, 1, 1);
        let mut writer = pool.take().unwrap();
        writer.append(&[0xaa; 4096]);
        pool.retire(writer);
        let mut writer = pool.take().unwrap();
        writer.append(b"x");
        let bytes = writer.disk_range(0..4096).snapshot();
        assert_eq!(bytes[0], b'x');
        assert!(bytes[1..].iter().all(|&b| b == 0));
    }
}
