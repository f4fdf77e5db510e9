//! What clients can make a shard hold: requests that are being worked off, and answers that are not sent yet.
//! Beyond the limits requests wait where they are, in their sockets, and answers get smaller.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A fetch is granted so much however little is left: without it nobody would get anywhere.
pub(crate) const ANSWER_BYTES_MIN: usize = 64 * 1024;

/// Bytes of requests. Who asks for more than is left waits, in order; nobody waits for more than half of all
/// there is.
pub(crate) struct RequestMemory {
    bytes_max: usize,
    held: Cell<usize>,
    waiting: RefCell<VecDeque<Waiting>>,
    next: Cell<u64>,
}

struct Waiting {
    number: u64,
    waker: Option<Waker>,
}

/// Bytes of one request; given back when dropped.
pub(crate) struct HeldRequest {
    memory: Rc<RequestMemory>,
    bytes: usize,
}

/// A place in the queue, also of someone who goes away.
struct Place<'a> {
    memory: &'a RequestMemory,
    number: u64,
}

impl RequestMemory {
    pub(crate) fn new(bytes_max: usize) -> Rc<Self> {
        Rc::new(Self {
            bytes_max,
            held: Cell::default(),
            waiting: RefCell::default(),
            next: Cell::default(),
        })
    }

    fn fits(&self, bytes: usize) -> bool {
        self.held.get() + bytes.min(self.bytes_max / 2) <= self.bytes_max
    }

    /// Waits until there is room for so many.
    pub(crate) async fn take(self: &Rc<Self>, bytes: usize) -> HeldRequest {
        if !self.waiting.borrow().is_empty() || !self.fits(bytes) {
            let number = self.next.replace(self.next.get() + 1);
            self.waiting.borrow_mut().push_back(Waiting { number, waker: None });
            let place = Place { memory: self, number };
            poll_fn(|cx| {
                let mut waiting = self.waiting.borrow_mut();
                let is_next = waiting.front().is_some_and(|first| first.number == number);
                if is_next && self.fits(bytes) {
                    return Poll::Ready(());
                }
                let mine = waiting.iter_mut().find(|waiting| waiting.number == number);
                mine.expect("until dropped").waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            self.held.set(self.held.get() + bytes);
            drop(place);
        } else {
            self.held.set(self.held.get() + bytes);
        }
        HeldRequest { memory: Rc::clone(self), bytes }
    }

    fn wake_next(&self) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(waker) = waiting.front_mut().and_then(|first| first.waker.take()) {
            waker.wake();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.memory.waiting.borrow_mut().retain(|waiting| waiting.number != self.number);
        self.memory.wake_next();
    }
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        self.memory.held.set(self.memory.held.get() - self.bytes);
        self.memory.wake_next();
    }
}

/// Bytes of answers, from when they are read until they are sent. Nobody waits for it: what is left is shared
/// out, so that clients that do not read cannot stop those that do.
pub(crate) struct AnswerMemory {
    bytes_max: usize,
    held: Cell<usize>,
}

/// Bytes of one answer, or of a connection's; given back when dropped.
pub(crate) struct HeldAnswer {
    memory: Rc<AnswerMemory>,
    bytes: Cell<usize>,
}

impl AnswerMemory {
    pub(crate) fn new(bytes_max: usize) -> Rc<Self> {
        Rc::new(Self { bytes_max, held: Cell::default() })
    }

    /// What may be read now for an answer of which `wanted` bytes are asked for: half of what is left.
    pub(crate) fn grant(self: &Rc<Self>, wanted: usize) -> HeldAnswer {
        let left = self.bytes_max.saturating_sub(self.held.get());
        let granted = self.hold();
        granted.set(wanted.min((left / 2).max(ANSWER_BYTES_MIN)));
        granted
    }

    /// A holder of nothing yet.
    pub(crate) fn hold(self: &Rc<Self>) -> HeldAnswer {
        HeldAnswer { memory: Rc::clone(self), bytes: Cell::new(0) }
    }
}

impl HeldAnswer {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Holds so many from now on.
    pub(crate) fn set(&self, bytes: usize) {
        let held = self.memory.held.get() - self.bytes.replace(bytes) + bytes;
        self.memory.held.set(held);
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::Context;

    fn is_ready<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn requests_wait_in_order_and_a_large_one_gets_its_turn() {
        let memory = RequestMemory::new(100);
        let first = is_ready(pin!(memory.take(60))).unwrap();
        let mut large = pin!(memory.take(500));
        assert!(is_ready(large.as_mut()).is_none());
        let mut small = pin!(memory.take(1));
        assert!(is_ready(small.as_mut()).is_none(), "it would fit, but came later");
        {
            let mut gone = pin!(memory.take(7));
            assert!(is_ready(gone.as_mut()).is_none());
        }
        drop(first);
        assert!(is_ready(small.as_mut()).is_none());
        let large = is_ready(large.as_mut()).unwrap();
        assert!(is_ready(small.as_mut()).is_none());
        drop(large);
        let small = is_ready(small.as_mut()).unwrap();
        assert!(is_ready(pin!(memory.take(99))).is_some(), "who went away is in nobody's way");
        drop(small);
        assert_eq!((memory.held.get(), memory.waiting.borrow().len()), (0, 0));
    }

    #[test]
    fn answers_get_smaller_and_never_nothing() {
        let memory = AnswerMemory::new(1 << 20);
        let mut held = Vec::new();
        let mut before = usize::MAX;
        for _ in 0..20 {
            let granted = memory.grant(50 << 20);
            assert!(granted.bytes() >= ANSWER_BYTES_MIN && granted.bytes() <= before);
            before = granted.bytes();
            held.push(granted);
        }
        assert_eq!(before, ANSWER_BYTES_MIN);
        assert!(memory.held.get() < (1 << 20) + 20 * ANSWER_BYTES_MIN);
        held.clear();
        assert_eq!(memory.grant(1000).bytes(), 1000);
        assert_eq!(memory.held.get(), 0);
    }
}
