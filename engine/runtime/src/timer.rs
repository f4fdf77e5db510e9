//! Deadlines of a thread: one heap, one kernel timeout per loop turn.

use crate::clock::{Nanos, now};
use crate::thread_core::{Backend, try_with_core, with_core};
use crate::timers::TimerId;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

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
        try_with_core(|core| {
            core.timers.borrow_mut().cancel(id);
        });
    }
}
