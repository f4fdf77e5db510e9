//! Deadlines of a thread: one heap, one kernel timeout per loop turn.

use crate::clock::{Nanos, now};
use crate::reactor::{Backend, with_core};
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

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

    fn free(&mut self, index: u32) -> Option<Waker> {
        self.free.push(index);
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.waker.take()
    }

    /// Forgets a deadline. Clients decide how many are made, so they may not add up.
    fn cancel(&mut self, id: TimerId) {
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

/// What a turn takes in virtual time.
const TURN_IN_TWIN: Duration = Duration::from_micros(1);

/// Resolves in the next turn of the loop: everything that is ready has run, and the kernel was
/// entered. What computes for long calls it now and then. (A sleep of next to nothing is over when it
/// is first asked, and lets nobody have a turn.)
pub async fn next_turn() {
    let mut asked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        // Already past, so that the loop does not wait; in the twin only waits let time pass.
        let at = if is_simulated() { now() + TURN_IN_TWIN } else { Nanos(0) };
        with_core(|core| core.timers.borrow_mut().add(at, cx.waker().clone()));
        Poll::Pending
    })
    .await;
}

pub(crate) fn is_simulated() -> bool {
    with_core(|core| matches!(&*core.backend.borrow(), Backend::Simulated(_)))
}

/// Waits for `future` until the clock has reached `at`, with `None` as long as it takes; `None` if
/// it came too late.
pub async fn before<T>(at: Option<Nanos>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep_until(at.unwrap_or(Nanos(u64::MAX))));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if at.is_some() && sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
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
            core.timers.borrow_mut().cancel(id);
        });
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
