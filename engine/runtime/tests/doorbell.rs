//! Every order in which threads may see each other's stores: nobody sleeps while something waits for it.

#[path = "../src/doorbell.rs"]
mod doorbell;

/// Loom's, which tries every value that a load may return.
mod atomics {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

use doorbell::Doorbell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

/// A shard's end of a mesh of two, with queues that promise less about order than the real ones.
struct Shard {
    /// Its ring: a wake-up stays until it is taken.
    ring: Notify,
    bell: Doorbell,
    /// Messages for it, of which there is room for one.
    queue: AtomicUsize,
    /// The sender into `queue` sleeps until there is room.
    sender_waits: Doorbell,
}

impl Shard {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ring: Notify::new(),
            bell: Doorbell::new(),
            queue: AtomicUsize::new(0),
            sender_waits: Doorbell::new(),
        })
    }

    fn wake(&self) {
        if self.bell.ring() {
            self.ring.notify();
        }
    }
}

/// Sends `messages`, as `send`, `deliver` and `park` of the mailbox do.
fn send_all(own: &Shard, to: &Shard, messages: usize) {
    let has_room = || to.queue.load(Ordering::Acquire) == 0;
    for _ in 0..messages {
        while !has_room() {
            own.bell.announce(true);
            to.sender_waits.announce(true);
            Doorbell::look_again();
            if !has_room() {
                own.ring.wait();
            }
            own.bell.announce(false);
        }
        to.queue.store(1, Ordering::Release);
        to.wake();
    }
}

/// Receives `messages`, as `receive` and `park` of the mailbox do.
fn receive_all(own: &Shard, from: &Shard, messages: usize) {
    let is_empty = || own.queue.load(Ordering::Acquire) == 0;
    for _ in 0..messages {
        while is_empty() {
            own.bell.announce(true);
            Doorbell::look_again();
            if is_empty() {
                own.ring.wait();
            }
            own.bell.announce(false);
        }
        own.queue.store(0, Ordering::Release);
        if own.sender_waits.ring() {
            from.wake();
        }
    }
}

#[test]
fn a_message_is_never_slept_through() {
    loom::model(|| {
        let (a, b) = (Shard::new(), Shard::new());
        let (from, to) = (Arc::clone(&a), Arc::clone(&b));
        let sender = thread::spawn(move || send_all(&from, &to, 1));
        receive_all(&b, &a, 1);
        sender.join().unwrap();
    });
}

/// One message lies there already, so that the sender has to wait for room. (With two messages to send loom finds a
/// deadlock that memory does not have: it orders a swap only against what its own thread has seen, and lets a thread
/// read its old swap where the store that came after is the only one left.)
#[test]
fn room_is_never_slept_through() {
    loom::model(|| {
        let (a, b) = (Shard::new(), Shard::new());
        b.queue.store(1, Ordering::Release);
        let (from, to) = (Arc::clone(&a), Arc::clone(&b));
        let sender = thread::spawn(move || send_all(&from, &to, 1));
        receive_all(&b, &a, 2);
        sender.join().unwrap();
    });
}

#[test]
fn of_two_that_ring_one_wakes() {
    loom::model(|| {
        let bell = Arc::new(Doorbell::new());
        bell.announce(true);
        let other = Arc::clone(&bell);
        let rings = thread::spawn(move || usize::from(other.ring()));
        let woken = usize::from(bell.ring()) + rings.join().unwrap();
        assert_eq!(woken, 1);
    });
}
