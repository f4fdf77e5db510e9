//! One segment: a file of batches, its index, and the slabs that cache its end.

use crate::directory::open_file::OpenFile;
use crate::log::index::SegmentIndex;
use crate::log::segment_files::{Compacted, SegmentFiles, stem_of};
use model::limits::{BATCH_HEADER_BYTES, DISK_BLOCK_BYTES};
use model::{Offset, RecordBatch};
use runtime::buffer::{ChunkWriter, SharedBytes};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Cached bytes of a segment from `position` on. Invariant: `position` is block-aligned.
pub(crate) struct Slab {
    pub(crate) position: u32,
    pub(crate) writer: ChunkWriter,
}

impl Slab {
    pub(crate) fn end(&self) -> u32 {
        self.position + self.writer.filled() as u32
    }
}

/// A segment of a log. Invariant: slabs are adjacent, and the last one ends at `end`.
pub(crate) struct LogSegment {
    pub(crate) base: Offset,
    /// What it stands for, if compaction wrote it: its batches may leave offsets out.
    pub(crate) compacted: Option<Compacted>,
    /// Position behind the last batch.
    pub(crate) end: u32,
    /// Open, or not yet made or opened.
    pub(crate) file: Option<Rc<OpenFile>>,
    /// Bytes of the file that exist, preallocated ones included.
    pub(crate) allocated: u64,
    /// `None` until loaded.
    pub(crate) index: Option<SegmentIndex>,
    pub(crate) slabs: VecDeque<Slab>,
    /// The start of the last block, kept when no slab holds it.
    pub(crate) last_block: Vec<u8>,
    /// Where a batch begins, at or behind the first cached byte: from there on all of them can be
    /// found in memory.
    pub(crate) boundary: u32,
    /// When its first batch was appended, ms since the Unix epoch; for one found at the start, then.
    pub(crate) began_ms: i64,
    /// When its last batch was appended, ms since the Unix epoch, if by this process.
    pub(crate) appended_ms: Option<i64>,
    /// The end of the segment when its index was last stored.
    pub(crate) index_length: Option<u32>,
    /// Where a batch header has rotted: the index ends there.
    pub(crate) damaged_at: Option<u32>,
    /// Largest timestamp, once known without its index.
    pub(crate) max_timestamp: Option<i64>,
}

/// What the header of a batch in memory says.
pub(crate) struct Header {
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) bytes: u32,
    pub(crate) max_timestamp: i64,
}

impl LogSegment {
    /// The one that begins there among the files of a directory.
    pub(crate) fn of(files: &SegmentFiles, base: Offset) -> Self {
        Self { compacted: files.compacted_at(base), ..Self::new(base) }
    }

    pub(crate) fn new(base: Offset) -> Self {
        Self {
            base,
            compacted: None,
            end: 0,
            file: None,
            allocated: 0,
            index: Some(SegmentIndex::new()),
            slabs: VecDeque::new(),
            last_block: Vec::new(),
            boundary: 0,
            began_ms: i64::MAX,
            appended_ms: None,
            index_length: None,
            damaged_at: None,
            max_timestamp: None,
        }
    }

    pub(crate) fn log_path(&self, dir: &Path) -> PathBuf {
        dir.join(stem_of(self.base, self.compacted) + ".log")
    }

    pub(crate) fn index_path(&self, dir: &Path) -> PathBuf {
        dir.join(stem_of(self.base, self.compacted) + ".idx")
    }

    /// First position that is cached.
    pub(crate) fn cached_from(&self) -> u32 {
        self.slabs.front().map_or(self.end, |slab| slab.position)
    }

    /// A batch is about to be appended.
    pub(crate) fn begin_batch(&mut self, now_ms: i64) {
        if self.end == 0 {
            self.began_ms = now_ms;
        }
        self.appended_ms = Some(now_ms);
        if self.slabs.is_empty() {
            self.boundary = self.end;
        }
    }

    /// The header of the batch that begins at `position`, if it is in memory.
    pub(crate) fn header_at(&self, position: u32) -> Option<Header> {
        let mut bytes = [0; 43];
        if !self.copy_cached(position, &mut bytes) {
            return None;
        }
        let base_offset = Offset(i64::from_be_bytes(bytes[..8].try_into().expect("8 bytes")));
        let delta = i32::from_be_bytes(bytes[23..27].try_into().expect("4 bytes"));
        Some(Header {
            base_offset,
            last_offset: base_offset.plus(i64::from(delta)),
            bytes: RecordBatch::total_bytes(&bytes)? as u32,
            max_timestamp: i64::from_be_bytes(bytes[35..43].try_into().expect("8 bytes")),
        })
    }

    /// Moves the boundary to the first batch at or behind `position`; all up to there is in memory.
    pub(crate) fn move_boundary(&mut self, position: u32) {
        assert!(position <= self.end, "memory ends with the segment");
        while self.boundary < position {
            let Some(header) = self.header_at(self.boundary) else {
                // Only the end of the segment is not a batch.
                self.boundary = self.end;
                return;
            };
            assert!(header.bytes > 0, "a batch has bytes");
            self.boundary += header.bytes;
        }
        assert!(self.boundary <= self.end, "a batch that is known begins in the segment");
    }

    /// Counts the batches of a range that was just written into the index, if it has one.
    pub(crate) fn index_written(&mut self, from: u32, end: u32) {
        assert!(from <= end && end <= self.end, "a range of the segment");
        let Some(mut index) = self.index.take() else { return };
        let mut position = from;
        let mut header = [0; BATCH_HEADER_BYTES];
        while position < end {
            assert!(self.copy_cached(position, &mut header), "what was just written is cached");
            let total = RecordBatch::total_bytes(&header).expect("61 bytes hold a length");
            let base = Offset(i64::from_be_bytes(header[..8].try_into().expect("8 bytes")));
            let max_timestamp = i64::from_be_bytes(header[35..43].try_into().expect("8 bytes"));
            index.on_batch(self.base, base, position, &header, max_timestamp);
            position += total as u32;
        }
        assert_eq!(position, end, "whole batches are written");
        self.index = Some(index);
    }

    /// Appends bytes to the slabs, taking new ones as needed.
    pub(crate) fn append(&mut self, mut bytes: &[u8], mut new_slab: impl FnMut() -> ChunkWriter) {
        while !bytes.is_empty() {
            if self.slabs.back().is_none_or(|slab| slab.writer.remaining() == 0) {
                let mut writer = new_slab();
                assert!(writer.filled() == 0 && writer.capacity().is_multiple_of(DISK_BLOCK_BYTES));
                let position = self.end - self.last_block.len() as u32;
                writer.append(&self.last_block);
                self.last_block.clear();
                assert!((position as usize).is_multiple_of(DISK_BLOCK_BYTES));
                self.slabs.push_back(Slab { position, writer });
            }
            let slab = self.slabs.back_mut().expect("pushed above");
            let taken = slab.writer.append(bytes);
            assert!(taken > 0, "a slab with room takes something");
            self.end += taken as u32;
            bytes = &bytes[taken..];
        }
        let ends = self.slabs.back().is_none_or(|slab| slab.end() == self.end);
        assert!(ends, "the last slab ends where the segment does");
    }

    /// What must hold whenever nothing is being changed.
    pub(crate) fn check(&self) {
        let adjacent = |at: usize| self.slabs[at].end() == self.slabs[at + 1].position;
        assert!((1..self.slabs.len()).all(|at| adjacent(at - 1)), "slabs are adjacent");
        let ends = self.slabs.back().is_none_or(|slab| slab.end() == self.end);
        assert!(ends, "the last slab ends where the segment does");
        assert!(self.boundary <= self.end, "a batch that is known begins in the segment");
        assert!(self.cached_from() <= self.end, "memory begins in the segment");
        assert!(self.last_block.len() < DISK_BLOCK_BYTES, "a last block is not a whole one");
        let is_block = |position: u32| (position as usize).is_multiple_of(DISK_BLOCK_BYTES);
        assert!(self.slabs.iter().all(|slab| is_block(slab.position)), "slabs begin at blocks");
    }

    /// Copies cached bytes at `position` into `out`; false if they are not all cached.
    pub(crate) fn copy_cached(&self, mut position: u32, out: &mut [u8]) -> bool {
        let mut copied = 0;
        if position < self.cached_from()
            || u64::from(self.end) < u64::from(position) + out.len() as u64
        {
            return false;
        }
        let mut index = self.slab_index(position);
        while copied < out.len() {
            let Some(slab) = self.slabs.get(index) else { return false };
            let from = (position - slab.position) as usize;
            let bytes = &slab.writer.bytes()[from..];
            let taken = bytes.len().min(out.len() - copied);
            out[copied..copied + taken].copy_from_slice(&bytes[..taken]);
            copied += taken;
            position += taken as u32;
            index += 1;
        }
        assert_eq!(copied, out.len(), "all of it is copied");
        true
    }

    /// Shares the cached bytes from `position` to `end`.
    pub(crate) fn share_cached(&self, position: u32, end: u32, out: &mut Vec<SharedBytes>) {
        assert!(self.cached_from() <= position, "what is shared is in memory");
        assert!(position <= end && end <= self.end, "a range of the segment");
        let mut position = position;
        for slab in self.slabs.range(self.slab_index(position)..) {
            if position >= end {
                break;
            }
            let to = slab.end().min(end);
            let range = (position - slab.position) as usize..(to - slab.position) as usize;
            out.push(slab.writer.share(range));
            position = to;
        }
        assert_eq!(position, end, "slabs are adjacent up to the end");
    }

    /// Which slab holds a cached position.
    pub(crate) fn slab_index(&self, position: u32) -> usize {
        self.slabs.partition_point(|slab| slab.end() <= position)
    }
}
