//! Deadlines of a thread: one heap, one kernel timeout per loop turn.

use crate::clock::{Nanos, now};
use crate::reactor::with_core;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Deadlines in order. A deadline whose future is gone stays until it passes; it then wakes nobody
/// who minds.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Nanos, u32)>>,
    entries: Vec<Entry>,
    free: Vec<u32>,
}

/// Invariant: `generation` counts how often this entry was used, so that a future whose deadline
/// has fired cannot touch the next user's waker.
#[derive(Default)]
struct Entry {
    generation: u32,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
struct TimerId {
    index: u32,
    generation: u32,
}

impl Timers {
    fn add(&mut self, at: Nanos, waker: Waker) -> TimerId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        entry.waker = Some(waker);
        self.heap.push(Reverse((at, index)));
        TimerId { index, generation: entry.generation }
    }

    fn waker_of(&mut self, id: TimerId) -> Option<&mut Option<Waker>> {
        let entry = &mut self.entries[id.index as usize];
        (entry.generation == id.generation).then_some(&mut entry.waker)
    }

    pub(crate) fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn fire(&mut self, now: Nanos) {
        while let Some(&Reverse((at, index))) = self.heap.peek()
            && at <= now
        {
            self.heap.pop();
            self.free.push(index);
            let entry = &mut self.entries[index as usize];
            entry.generation = entry.generation.wrapping_add(1);
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
        }
    }
}

/// Resolves once the clock has reached `at`.
#[must_use]
pub fn sleep_until(at: Nanos) -> SleepUntil {
    SleepUntil { at, timer: Cell::new(None) }
}

/// Resolves after `duration`.
#[must_use]
pub fn sleep(duration: Duration) -> SleepUntil {
    sleep_until(now() + duration)
}

/// See `sleep_until`.
pub struct SleepUntil {
    at: Nanos,
    timer: Cell<Option<TimerId>>,
}

impl Future for SleepUntil {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now() >= self.at {
            self.timer.set(None);
            return Poll::Ready(());
        }
        with_core(|core| {
            let mut timers = core.timers.borrow_mut();
            if let Some(waker) = self.timer.get().and_then(|id| timers.waker_of(id)) {
                if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
            } else {
                self.timer.set(Some(timers.add(self.at, cx.waker().clone())));
            }
        });
        Poll::Pending
    }
}

impl Drop for SleepUntil {
    fn drop(&mut self) {
        let Some(id) = self.timer.get() else { return };
        crate::reactor::try_with_core(|core| {
            if let Some(waker) = core.timers.borrow_mut().waker_of(id) {
                *waker = None;
            }
        });
    }
}
