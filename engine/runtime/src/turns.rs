//! Whose turn it is among those that share a name: what must happen alone, and in the order in which it came.

use crate::notify::Notify;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Queues by name.
pub struct Turns<K> {
    queues: RefCell<BTreeMap<K, VecDeque<u64>>>,
    next: Cell<u64>,
    moved: Notify,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { queues: RefCell::default(), next: Cell::default(), moved: Notify::default() }
    }
}

/// A place in a queue; given up when dropped.
pub struct Turn<K: Ord> {
    turns: Rc<Turns<K>>,
    name: K,
    ticket: u64,
}

impl<K: Ord + Clone> Turns<K> {
    /// Takes a place; it is one's turn once `come` returns.
    #[must_use]
    pub fn take(self: &Rc<Self>, name: K) -> Turn<K> {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        self.queues.borrow_mut().entry(name.clone()).or_default().push_back(ticket);
        Turn { turns: Rc::clone(self), name, ticket }
    }

    /// Whether someone has a place already.
    #[must_use]
    pub fn has_queue(&self, name: &K) -> bool {
        let queues = self.queues.borrow();
        !queues.is_empty() && queues.contains_key(name)
    }
}

impl<K: Ord> Turn<K> {
    /// Waits until all who came before have given up their places.
    pub async fn come(&self) {
        let first = || {
            let queues = self.turns.queues.borrow();
            (queues[&self.name].front() == Some(&self.ticket)).then_some(())
        };
        self.turns.moved.until(first).await;
    }
}

impl<K: Ord> Drop for Turn<K> {
    fn drop(&mut self) {
        let mut queues = self.turns.queues.borrow_mut();
        let queue = queues.get_mut(&self.name).expect("ours is in it");
        queue.retain(|ticket| *ticket != self.ticket);
        if queue.is_empty() {
            queues.remove(&self.name);
        }
        drop(queues);
        self.turns.moved.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn those_of_one_name_come_one_after_another_and_who_goes_is_not_waited_for() {
        let turns: Rc<Turns<u8>> = Rc::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let (first, gone, last) = (turns.take(1), turns.take(1), turns.take(1));
        let other = turns.take(2);
        assert!(pin!(first.come()).poll(cx).is_ready() && pin!(other.come()).poll(cx).is_ready());
        assert!(pin!(last.come()).poll(cx).is_pending());
        drop(gone);
        assert!(pin!(last.come()).poll(cx).is_pending() && turns.has_queue(&1));
        drop(first);
        assert_eq!(pin!(last.come()).poll(cx), Poll::Ready(()));
        drop((last, other));
        assert!(!turns.has_queue(&1) && !turns.has_queue(&2));
    }
}
