//! Bounded queues between the shards of a process: one per ordered pair, batched per loop turn.
//!
//! A sender asks `has_room` before it takes on work; a full queue is back-pressure, never growth.
//! Answers may exceed the queue, because each was admitted as a request before: they wait with
//! their sender and are bounded by the requests in flight.

use crate::doorbell::Doorbell;
use crate::thread_core::{Backend, MeshEnd, with_core};
use crossbeam::queue::ArrayQueue;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

/// Messages a queue between two shards holds.
pub const QUEUE_CAPACITY: usize = 1024;

struct Door {
    /// Its shard waits for its ring.
    bell: Doorbell,
    /// The descriptor of its ring; in the twin the number of its thread.
    number: AtomicU64,
}

struct Mesh<M> {
    doors: Vec<Door>,
    /// `queues[to][from]`.
    queues: Vec<Vec<ArrayQueue<M>>>,
    /// `sender_waits[to][from]`: `from` sleeps until that queue has room.
    sender_waits: Vec<Vec<Doorbell>>,
}

/// One shard's place in the mesh, before its thread runs.
pub struct MeshSeat<M> {
    mesh: Arc<Mesh<M>>,
    shard: usize,
}

/// Makes the mesh of `shards` shards.
#[must_use]
pub fn mesh<M: Send + 'static>(shards: usize) -> Vec<MeshSeat<M>> {
    let door = || Door { bell: Doorbell::new(), number: AtomicU64::new(0) };
    let mesh = Arc::new(Mesh {
        doors: (0..shards).map(|_| door()).collect(),
        queues: (0..shards)
            .map(|_| (0..shards).map(|_| ArrayQueue::new(QUEUE_CAPACITY)).collect())
            .collect(),
        sender_waits: (0..shards).map(|_| (0..shards).map(|_| Doorbell::new()).collect()).collect(),
    });
    (0..shards).map(|shard| MeshSeat { mesh: Arc::clone(&mesh), shard }).collect()
}

/// A shard's mailbox: sends to every other shard, receives from all.
pub struct Mailbox<M> {
    mesh: Arc<Mesh<M>>,
    shard: usize,
    spilled: RefCell<Vec<VecDeque<M>>>,
    receiver: RefCell<Option<Waker>>,
    room: crate::notify::Notify,
    /// Whose queue `receive` looks at first.
    next_from: Cell<usize>,
}

impl<M: Send + 'static> MeshSeat<M> {
    /// Takes the seat on the shard's own thread, within its runtime.
    #[must_use]
    pub fn sit(self) -> Rc<Mailbox<M>> {
        let shards = self.mesh.doors.len();
        let mailbox = Rc::new(Mailbox {
            shard: self.shard,
            spilled: RefCell::new((0..shards).map(|_| VecDeque::new()).collect()),
            receiver: RefCell::new(None),
            room: crate::notify::Notify::default(),
            next_from: Cell::new(0),
            mesh: self.mesh,
        });
        with_core(|core| {
            let number = match &*core.backend.borrow() {
                Backend::Ring(ring) => ring.raw_fd() as u64,
                Backend::Simulated(twin) => twin.place().map_or(0, |place| place.core),
            };
            mailbox.mesh.doors[mailbox.shard].number.store(number, Ordering::SeqCst);
            *core.mesh.borrow_mut() = Some(Rc::<Mailbox<M>>::clone(&mailbox));
        });
        mailbox
    }
}

impl<M: Send + 'static> Mailbox<M> {
    /// Which shard this is.
    #[must_use]
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.mesh.doors.len()
    }

    /// Whether one more message can go to every other shard now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let spilled = self.spilled.borrow();
        (0..self.shards()).all(|to| {
            let queue = &self.mesh.queues[to][self.shard];
            spilled[to].is_empty() && queue.len() < queue.capacity()
        })
    }

    /// Waits until `has_room`.
    pub async fn until_room(&self) {
        self.room.until(|| self.has_room().then_some(())).await;
    }

    /// Sends `message` to shard `to` (not this one). Beyond the queue it waits here, in order, and
    /// goes out with a later turn.
    pub fn send(&self, to: usize, message: M) {
        assert_ne!(to, self.shard, "a shard does not write to itself");
        let mut spilled = self.spilled.borrow_mut();
        if !spilled[to].is_empty() {
            spilled[to].push_back(message);
        } else if let Err(message) = self.mesh.queues[to][self.shard].push(message) {
            spilled[to].push_back(message);
        }
        self.wake(to);
    }

    fn wake(&self, to: usize) {
        let door = &self.mesh.doors[to];
        if door.bell.ring() {
            let number = door.number.load(Ordering::SeqCst);
            with_core(|core| match &mut *core.backend.borrow_mut() {
                Backend::Ring(ring) => ring.wake_ring(number as i32),
                Backend::Simulated(twin) => {
                    if let Some(place) = twin.place() {
                        place.shared.woken.borrow_mut().push(number);
                    }
                }
            });
        }
    }

    fn is_empty(&self) -> bool {
        self.mesh.queues[self.shard].iter().all(ArrayQueue::is_empty)
    }

    /// The next message, from whichever shard; every shard has its turn.
    pub async fn receive(&self) -> M {
        poll_fn(|cx| {
            let shards = self.shards();
            for step in 0..shards {
                let from = (self.next_from.get() + step) % shards;
                if let Some(message) = self.mesh.queues[self.shard][from].pop() {
                    self.next_from.set((from + 1) % shards);
                    // There is room now.
                    if self.mesh.sender_waits[self.shard][from].ring() {
                        self.wake(from);
                    }
                    return Poll::Ready(message);
                }
            }
            *self.receiver.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl<M: Send + 'static> MeshEnd for Mailbox<M> {
    fn deliver(&self) {
        let mut sent = false;
        for to in 0..self.shards() {
            let mut spilled = self.spilled.borrow_mut();
            let mut sent_here = false;
            while let Some(message) = spilled[to].pop_front() {
                if let Err(message) = self.mesh.queues[to][self.shard].push(message) {
                    spilled[to].push_front(message);
                    break;
                }
                sent_here = true;
            }
            drop(spilled);
            if sent_here {
                self.wake(to);
                sent = true;
            }
        }
        if self.room.has_waiters() && (sent || self.has_room()) {
            self.room.notify();
        }
        if !self.is_empty()
            && let Some(waker) = self.receiver.borrow_mut().take()
        {
            waker.wake();
        }
    }

    fn park(&self) -> bool {
        let door = &self.mesh.doors[self.shard];
        door.bell.announce(true);
        let wants_room = self.room.has_waiters();
        let spilled = self.spilled.borrow();
        for (to, queue) in spilled.iter().enumerate().filter(|(to, _)| *to != self.shard) {
            let waits = wants_room || !queue.is_empty();
            self.mesh.sender_waits[to][self.shard].announce(waits);
        }
        Doorbell::look_again();
        let can_send = spilled.iter().enumerate().any(|(to, waiting)| {
            let queue = &self.mesh.queues[to][self.shard];
            !waiting.is_empty() && queue.len() < queue.capacity()
        });
        drop(spilled);
        if self.is_empty() && !can_send && !(wants_room && self.has_room()) {
            return true;
        }
        door.bell.announce(false);
        false
    }

    fn unpark(&self) {
        self.mesh.doors[self.shard].bell.announce(false);
        self.deliver();
    }
}
