//! Whose turn it is among those that share a name: what must happen in the order in which it came.

use runtime::notify::Notify;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

/// Queues by name.
pub(crate) struct Turns<K> {
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
pub(crate) struct Turn<K: Ord> {
    turns: Rc<Turns<K>>,
    name: K,
    ticket: u64,
}

impl<K: Ord + Clone> Turns<K> {
    /// Takes a place; it is one's turn once `come` returns.
    pub(crate) fn take(self: &Rc<Self>, name: K) -> Turn<K> {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        self.queues.borrow_mut().entry(name.clone()).or_default().push_back(ticket);
        Turn { turns: Rc::clone(self), name, ticket }
    }

    /// Whether someone has a place already.
    pub(crate) fn has_queue(&self, name: &K) -> bool {
        let queues = self.queues.borrow();
        !queues.is_empty() && queues.contains_key(name)
    }
}

impl<K: Ord> Turn<K> {
    /// Waits until all who came before have given up their places.
    pub(crate) async fn come(&self) {
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

/// Produces of connections that took, or take, longer than a slice: whatever else their connection sent comes behind.
#[derive(Default)]
pub(crate) struct SlowProduces(Rc<Turns<Option<SocketAddr>>>);

impl SlowProduces {
    /// A place behind those of the same connection; `None` if there are none.
    pub(crate) fn turn_behind(&self, peer: Option<SocketAddr>) -> Option<Turn<Option<SocketAddr>>> {
        self.0.has_queue(&peer).then(|| self.take(peer))
    }

    /// A place at the end.
    pub(crate) fn take(&self, peer: Option<SocketAddr>) -> Turn<Option<SocketAddr>> {
        self.0.take(peer)
    }
}
