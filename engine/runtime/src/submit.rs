//! Futures of operations: dropping one only orphans its slot (see `op`).

use crate::op::{Op, SlotState};
use crate::thread_core::{Backend, try_with_core, with_core};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A submitted operation; resolves to the kernel's result and the operation with its buffers.
pub(crate) struct Submitted {
    index: Option<u32>,
}

pub(crate) fn submit(op: Op) -> Submitted {
    Submitted { index: Some(with_core(|core| core.submit(op))) }
}

impl Submitted {
    /// Its number, until it is done.
    pub(crate) fn index(&self) -> Option<u32> {
        self.index
    }
}

/// Asks for an operation in flight to be cancelled. It completes as ever: with ECANCELED, or with what it had
/// come to.
pub(crate) fn cancel(index: u32) {
    with_core(|core| {
        let mut slots = core.slots.borrow_mut();
        let slot = slots.get(index);
        if slot.state == SlotState::InFlight {
            match &mut *core.backend.borrow_mut() {
                Backend::Ring(ring) => ring.cancel(index),
                Backend::Simulated(twin) => twin.cancel(index, &slot.op),
            }
        }
    });
}

impl Future for Submitted {
    type Output = (i32, Op);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(i32, Op)> {
        let index = self.index.expect("polled after completion");
        let done = with_core(|core| {
            let mut slots = core.slots.borrow_mut();
            let slot = slots.get(index);
            if let SlotState::Done(result) = slot.state {
                return Some((result, slots.release(index)));
            }
            if !slot.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                slot.waker = Some(cx.waker().clone());
            }
            None
        });
        match done {
            Some(done) => {
                self.index = None;
                Poll::Ready(done)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        try_with_core(|core| {
            let mut slots = core.slots.borrow_mut();
            let slot = slots.get(index);
            match slot.state {
                SlotState::InFlight => {
                    slot.state = SlotState::Orphaned;
                    slot.waker = None;
                    // Until it is submitted the kernel knows only a descriptor's number, and the
                    // owner may close it next: another thread's accept could then get the number.
                    if let Backend::Ring(ring) = &mut *core.backend.borrow_mut() {
                        ring.submit_all();
                    }
                }
                SlotState::Done(_) => drop(slots.release(index)),
                SlotState::Free | SlotState::Orphaned => unreachable!("one future per slot"),
            }
        });
    }
}
