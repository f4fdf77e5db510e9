//! A budget that tasks of one thread share: of memory, of open files.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// So much of something. Who asks for more than is left waits, in order; nobody waits for more than half of
/// all there is.
pub struct Budget {
    max: Cell<usize>,
    held: Cell<usize>,
    waiting: RefCell<VecDeque<Waiting>>,
    next: Cell<u64>,
}

struct Waiting {
    number: u64,
    waker: Option<Waker>,
}

/// What one has of it; given back when dropped.
pub struct Held {
    budget: Rc<Budget>,
    amount: usize,
}

/// A place in the queue, also of someone who goes away.
struct Place<'a> {
    budget: &'a Budget,
    number: u64,
}

impl Budget {
    /// A budget of `max`.
    #[must_use]
    pub fn new(max: usize) -> Rc<Self> {
        Rc::new(Self {
            max: Cell::new(max),
            held: Cell::default(),
            waiting: RefCell::default(),
            next: Cell::default(),
        })
    }

    /// Changes how much there is.
    pub fn set_max(&self, max: usize) {
        self.max.set(max);
        self.wake_next();
    }

    /// Whether one who asks for so much now need not wait.
    #[must_use]
    pub fn has_room(&self, amount: usize) -> bool {
        !self.has_waiters() && self.fits(amount)
    }

    /// Whether anyone waits.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    fn fits(&self, amount: usize) -> bool {
        self.held.get() + amount.min(self.max.get() / 2) <= self.max.get()
    }

    /// Waits until there is room for so much.
    pub async fn take(self: &Rc<Self>, amount: usize) -> Held {
        if !self.has_room(amount) {
            let number = self.next.replace(self.next.get() + 1);
            self.waiting.borrow_mut().push_back(Waiting { number, waker: None });
            let place = Place { budget: self, number };
            poll_fn(|cx| {
                let mut waiting = self.waiting.borrow_mut();
                let is_next = waiting.front().is_some_and(|first| first.number == number);
                if is_next && self.fits(amount) {
                    return Poll::Ready(());
                }
                let mine = waiting.iter_mut().find(|waiting| waiting.number == number);
                mine.expect("until dropped").waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            self.held.set(self.held.get() + amount);
            drop(place);
        } else {
            self.held.set(self.held.get() + amount);
        }
        Held { budget: Rc::clone(self), amount }
    }

    /// Takes so much if it is there, without waiting.
    #[must_use]
    pub fn try_take(self: &Rc<Self>, amount: usize) -> Option<Held> {
        if self.held.get() + amount > self.max.get() {
            return None;
        }
        self.held.set(self.held.get() + amount);
        Some(Held { budget: Rc::clone(self), amount })
    }

    /// How much of it is held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Whether anyone holds of it or is to be given of it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.held.get() > 0 || self.has_waiters()
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
        self.budget.waiting.borrow_mut().retain(|waiting| waiting.number != self.number);
        self.budget.wake_next();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.set(self.budget.held.get() - self.amount);
        self.budget.wake_next();
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
    fn who_comes_waits_in_order_and_a_large_one_gets_its_turn() {
        let budget = Budget::new(100);
        let first = is_ready(pin!(budget.take(60))).unwrap();
        let mut large = pin!(budget.take(500));
        assert!(is_ready(large.as_mut()).is_none());
        let mut small = pin!(budget.take(1));
        assert!(is_ready(small.as_mut()).is_none(), "it would fit, but came later");
        {
            let mut gone = pin!(budget.take(7));
            assert!(is_ready(gone.as_mut()).is_none());
        }
        drop(first);
        assert!(is_ready(small.as_mut()).is_none());
        let large = is_ready(large.as_mut()).unwrap();
        assert!(is_ready(small.as_mut()).is_none());
        drop(large);
        let small = is_ready(small.as_mut()).unwrap();
        assert!(is_ready(pin!(budget.take(99))).is_some(), "who went away is in nobody's way");
        assert!(budget.try_take(100).is_none());
        let rest = budget.try_take(99).unwrap();
        assert_eq!(budget.held(), 100);
        drop((small, rest));
        assert_eq!((budget.held.get(), budget.waiting.borrow().len()), (0, 0));
    }
}
