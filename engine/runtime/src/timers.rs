//! Deadlines in order: one heap a thread.

use crate::nanos::Nanos;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;

/// Deadlines in order. A deadline whose future is gone stays in the heap until it is first in it or
/// until such deadlines are the greater part.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Nanos, u32)>>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    cancelled: usize,
}

/// Invariant: `generation` counts how often this entry was used, so that a future whose deadline
/// has fired cannot touch the next user's waker.
#[derive(Default)]
struct Entry {
    generation: u32,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
pub(crate) struct TimerId {
    index: u32,
    generation: u32,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Nanos, waker: Waker) -> TimerId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        entry.waker = Some(waker);
        self.heap.push(Reverse((at, index)));
        TimerId { index, generation: entry.generation }
    }

    pub(crate) fn waker_of(&mut self, id: TimerId) -> Option<&mut Option<Waker>> {
        let entry = &mut self.entries[id.index as usize];
        (entry.generation == id.generation).then_some(&mut entry.waker)
    }

    fn free(&mut self, index: u32) -> Option<Waker> {
        self.free.push(index);
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.waker.take()
    }

    /// Forgets a deadline. Clients decide how many are made, so they may not add up.
    pub(crate) fn cancel(&mut self, id: TimerId) {
        let Some(waker) = self.waker_of(id) else { return };
        *waker = None;
        self.cancelled += 1;
        if self.cancelled > 16 && self.cancelled > self.heap.len() / 2 {
            // In place: with a waiting fetch after the other this happens all the time.
            let Self { heap, entries, free, .. } = self;
            heap.retain(|Reverse((_, index))| {
                let entry = &mut entries[*index as usize];
                let is_wanted = entry.waker.is_some();
                if !is_wanted {
                    entry.generation = entry.generation.wrapping_add(1);
                    free.push(*index);
                }
                is_wanted
            });
            self.cancelled = 0;
        }
    }

    /// The next deadline anyone waits for.
    pub(crate) fn next_at(&mut self) -> Option<Nanos> {
        while let Some(&Reverse((at, index))) = self.heap.peek() {
            if self.entries[index as usize].waker.is_some() {
                return Some(at);
            }
            self.heap.pop();
            self.cancelled -= 1;
            self.free(index);
        }
        None
    }

    pub(crate) fn fire(&mut self, now: Nanos) {
        while let Some(&Reverse((at, index))) = self.heap.peek()
            && at <= now
        {
            self.heap.pop();
            match self.free(index) {
                Some(waker) => waker.wake(),
                None => self.cancelled -= 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelled_deadlines_do_not_add_up() {
        let mut timers = Timers::default();
        let lasting = timers.add(Nanos(1_000_000), Waker::noop().clone());
        for n in 0..100_000 {
            let id = timers.add(Nanos(n), Waker::noop().clone());
            timers.cancel(id);
            assert!(timers.heap.len() < 64 && timers.entries.len() < 64);
        }
        assert_eq!(timers.next_at(), Some(Nanos(1_000_000)));
        timers.fire(Nanos(2_000_000));
        assert!(timers.waker_of(lasting).is_none() && timers.cancelled == 0);
        assert!(timers.heap.is_empty() && timers.next_at().is_none());
    }
}
