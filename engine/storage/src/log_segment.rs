//! One segment: a file of batches, its index, and the slabs that cache its end.

use crate::index::SegmentIndex;
use model::Offset;
use model::limits::{DISK_BLOCK_BYTES, SLAB_BYTES};
use runtime::buffer::ChunkWriter;
use runtime::file::File;
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
    /// Position behind the last batch.
    pub(crate) end: u32,
    /// Open, or not yet made or opened.
    pub(crate) file: Option<Rc<File>>,
    /// Bytes of the file that exist, preallocated ones included.
    pub(crate) allocated: u64,
    /// `None` until loaded; only sealed segments may be without.
    pub(crate) index: Option<SegmentIndex>,
    pub(crate) slabs: VecDeque<Slab>,
    /// The start of the last block, kept when no slab holds it.
    pub(crate) last_block: Vec<u8>,
}

impl LogSegment {
    pub(crate) fn new(base: Offset) -> Self {
        Self {
            base,
            end: 0,
            file: None,
            allocated: 0,
            index: Some(SegmentIndex::new()),
            slabs: VecDeque::new(),
            last_block: Vec::new(),
        }
    }

    pub(crate) fn log_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}.log", self.base.0))
    }

    pub(crate) fn index_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}.idx", self.base.0))
    }

    /// First position that is cached.
    pub(crate) fn cached_from(&self) -> u32 {
        self.slabs.front().map_or(self.end, |slab| slab.position)
    }

    /// Appends bytes to the slabs, taking new ones as needed.
    pub(crate) fn append(&mut self, mut bytes: &[u8], mut new_slab: impl FnMut() -> ChunkWriter) {
        while !bytes.is_empty() {
            if self.slabs.back().is_none_or(|slab| slab.writer.remaining() == 0) {
                let mut writer = new_slab();
                assert!(writer.filled() == 0 && writer.capacity() == SLAB_BYTES);
                let position = self.end - self.last_block.len() as u32;
                writer.append(&self.last_block);
                self.last_block.clear();
                assert!((position as usize).is_multiple_of(DISK_BLOCK_BYTES));
                self.slabs.push_back(Slab { position, writer });
            }
            let slab = self.slabs.back_mut().expect("pushed above");
            let taken = slab.writer.append(bytes);
            self.end += taken as u32;
            bytes = &bytes[taken..];
        }
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
        true
    }

    /// Which slab holds a cached position.
    pub(crate) fn slab_index(&self, position: u32) -> usize {
        self.slabs.partition_point(|slab| slab.end() <= position)
    }
}
