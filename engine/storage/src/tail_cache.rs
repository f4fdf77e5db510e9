//! The slabs of all logs of a shard: one budget, the oldest written slab goes first.

use crate::log::Log;
use model::limits::SLAB_BYTES;
use runtime::buffer::{ChunkPool, ChunkWriter};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

/// Logs whose journaled bytes are moved to their segments when memory is short, at a time.
const WRITTEN_BEHIND: usize = 8;

/// Owns the memory that logs append to and read from. Lives on one shard.
pub struct TailCache {
    pool: RefCell<ChunkPool>,
    /// Logs in the order in which they took slabs, one entry a slab.
    oldest: RefCell<VecDeque<Weak<Log>>>,
}

impl TailCache {
    /// A cache of `bytes`, all of it mapped now.
    #[must_use]
    pub fn new(bytes: usize) -> Rc<Self> {
        let slabs = (bytes / SLAB_BYTES).max(4);
        let pool = ChunkPool::new(SLAB_BYTES, slabs, slabs);
        Rc::new(Self {
            pool: RefCell::new(pool),
            oldest: RefCell::new(VecDeque::with_capacity(slabs * 2)),
        })
    }

    /// A slab for `log`. When the budget is used up the oldest slab that is safely on disk goes;
    /// if all are still being written, one more is made: appends in flight bound how many.
    pub(crate) fn take(&self, log: Weak<Log>) -> ChunkWriter {
        let taken = self.pool.borrow_mut().take();
        let slab = taken.unwrap_or_else(|| {
            let tries = self.oldest.borrow().len();
            let mut behind = 0;
            for _ in 0..tries {
                let Some(oldest) = self.oldest.borrow_mut().pop_front() else { break };
                let Some(owner) = oldest.upgrade() else { continue };
                match owner.evict_oldest_slab() {
                    Some(slab) => self.retire(slab),
                    None if owner.caches_slabs() => {
                        self.oldest.borrow_mut().push_back(oldest);
                        if behind < WRITTEN_BEHIND && owner.is_behind() {
                            behind += 1;
                            owner.write_behind();
                        }
                    }
                    None => {}
                }
                if let Some(slab) = self.pool.borrow_mut().take() {
                    return slab;
                }
            }
            self.pool.borrow_mut().take_or_grow()
        });
        self.oldest.borrow_mut().push_back(log);
        slab
    }

    /// Bytes of all slabs made so far; above the budget only while more is in flight than it holds.
    #[must_use]
    pub fn bytes_made(&self) -> usize {
        self.pool.borrow().bytes_made()
    }

    pub(crate) fn retire(&self, slab: ChunkWriter) {
        self.pool.borrow_mut().retire(slab);
    }
}
