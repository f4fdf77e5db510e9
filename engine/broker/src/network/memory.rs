//! What clients can make a shard hold: requests that are being worked off or wait for records, and answers that are
//! not sent yet. Beyond the limits requests wait where they are, in their sockets, fetches do not wait for records, and
//! answers get smaller.

use crate::observe::logging::warning_of;
use runtime::budget::{Budget, Held};
use runtime::clock::{self, Nanos};
use runtime::timer;
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use wire::ApiKey;

/// A request of so many bytes at most, that is not a produce, never waits for a larger one: who only says that it lives
/// is heard whatever others send.
const SMALL_BYTES_MAX: usize = 16 * 1024;
/// Who waits for memory for so long is told of in the log.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// Bytes of requests, from when they are read until they are answered. Of one shard.
pub(crate) struct RequestMemory {
    /// Of requests that are worked off.
    working: Rc<Budget>,
    /// Of small ones.
    small: Rc<Budget>,
    /// Of those of more than a receive chunk, while they are received.
    pub(crate) receiving: Rc<Budget>,
    /// Of fetches that wait for records: as long as their clients like.
    waiting: Rc<Budget>,
}

impl RequestMemory {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            working: Budget::new(bytes_max),
            small: Budget::new((bytes_max / 8).max(4 * SMALL_BYTES_MAX)),
            receiving: Budget::new(bytes_max),
            waiting: Budget::new(bytes_max),
        }
    }

    /// Waits for the memory of a request of `bytes`.
    pub(crate) async fn take(&self, key: ApiKey, bytes: usize) -> Held {
        if key != ApiKey::Produce && bytes <= SMALL_BYTES_MAX {
            return self.small.take(bytes).await;
        }
        Self::take_told(&self.working, bytes).await
    }

    /// Waits for the memory in which a large request is received.
    pub(crate) async fn take_to_receive(&self, bytes: usize) -> Held {
        Self::take_told(&self.receiving, bytes).await
    }

    /// The memory of a fetch while it waits for records, if there is any.
    pub(crate) fn take_to_wait(&self, bytes: usize) -> Option<Held> {
        self.waiting.try_take(bytes)
    }

    async fn take_told(budget: &Rc<Budget>, bytes: usize) -> Held {
        if budget.has_room(bytes) {
            return budget.take(bytes).await;
        }
        let mut taking = pin!(budget.take(bytes));
        if let Some(held) = timer::before(Some(clock::now() + TOLD_AFTER), taking.as_mut()).await {
            return held;
        }
        warning_of!(
            None,
            "a request of {bytes} bytes has waited a second for memory: others hold {} bytes of this shard's part of \
             queued.max.request.bytes",
            budget.held()
        );
        taking.await
    }
}

/// A fetch is granted so much however little is left: without it nobody would get anywhere.
pub(crate) const ANSWER_BYTES_MIN: usize = 64 * 1024;

/// A large answer waits so long for others to be read. (Those who read nothing are let go sooner.)
const LARGE_WAITS_MAX: Duration = Duration::from_secs(60);
const LARGE_LOOKS_EACH: Duration = Duration::from_millis(20);
/// As often it looks, while others are before it, whether there is room at all.
const TURN_LOOKS_EACH: Duration = Duration::from_secs(1);

/// Bytes of answers, from when they are read until they are sent. No fetch waits for it: what is left is shared
/// out, so that clients that do not read cannot stop those that do. Other large answers wait.
pub(crate) struct AnswerMemory {
    bytes_max: usize,
    held: Cell<usize>,
    /// Since when there is no room for a large answer.
    short_since: Cell<Option<Nanos>>,
    /// A large answer had to wait for it since it was last asked.
    was_short: Cell<bool>,
    /// Large answers wait for it in the order in which they came: who has taken one and asks for the next is behind
    /// those who have none.
    turns: Rc<Budget>,
}

/// What whose turn it is takes of `turns`, and all there is of it. (One would not do: a budget lets everyone have a half.)
const TURN: usize = 2;

/// Bytes of one answer, or of a connection's; given back when dropped.
pub(crate) struct HeldAnswer {
    memory: Rc<AnswerMemory>,
    bytes: Cell<usize>,
}

impl AnswerMemory {
    pub(crate) fn new(bytes_max: usize) -> Rc<Self> {
        Rc::new(Self {
            bytes_max,
            held: Cell::default(),
            short_since: Cell::default(),
            was_short: Cell::default(),
            turns: Budget::new(TURN),
        })
    }

    /// What may be read now for an answer of which `wanted` bytes are asked for: half of what is left.
    pub(crate) fn grant(self: &Rc<Self>, wanted: usize) -> HeldAnswer {
        let left = self.bytes_max.saturating_sub(self.held.get());
        let granted = self.hold();
        granted.set(wanted.min((left / 2).max(ANSWER_BYTES_MIN)));
        granted
    }

    /// Whether a large answer had to wait since this was last asked: clients have left so much unread.
    pub(crate) fn take_was_short(&self) -> bool {
        self.was_short.replace(false)
    }

    /// Whether answers that nobody has taken yet leave no room for a large one, or large ones wait for it.
    pub(crate) fn is_short(&self) -> bool {
        !self.has_room() || self.turns.is_used()
    }

    fn has_room(&self) -> bool {
        self.held.get() < self.bytes_max
    }

    /// Whether there has been no room for too long since this was asked.
    fn is_short_since(&self, asked_at: Nanos) -> bool {
        let since = self.short_since.get();
        since.is_some_and(|since| clock::now() >= since.max(asked_at) + LARGE_WAITS_MAX)
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

    /// Waits, in the order in which others ask, for room and for a place among those that are made at a time. `None`:
    /// there was no room for too long.
    pub(crate) async fn place(&self, places: &Rc<Budget>) -> Option<Held> {
        let asked_at = clock::now();
        let mut taking = pin!(self.memory.turns.take(TURN));
        let _turn = loop {
            let look_at = clock::now() + TURN_LOOKS_EACH;
            match timer::before(Some(look_at), taking.as_mut()).await {
                Some(turn) => break turn,
                None if self.memory.is_short_since(asked_at) => return None,
                // Whoever is first may wait for a place instead.
                None => {}
            }
        };
        loop {
            while !self.memory.has_room() {
                self.memory.was_short.set(true);
                if self.memory.is_short_since(asked_at) {
                    return None;
                }
                timer::sleep(LARGE_LOOKS_EACH).await;
            }
            // It is not kept while there is no memory: others of the shard need it for less.
            let place = places.take(1).await;
            if self.memory.has_room() {
                return Some(place);
            }
        }
    }

    /// Holds so many from now on.
    pub(crate) fn set(&self, bytes: usize) {
        let held = self.memory.held.get() - self.bytes.replace(bytes) + bytes;
        self.memory.held.set(held);
        if self.memory.has_room() != self.memory.short_since.get().is_none() {
            self.memory.short_since.set((!self.memory.has_room()).then(clock::now));
        }
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
    use runtime::simulated::{Disk, Simulation};
    use runtime::{Io, Runtime, spawn};
    use std::cell::RefCell;

    fn in_twin<F: Future>(body: F) -> F::Output {
        let twin = Runtime::new(Io::Simulated(Simulation::new(Disk::default(), 1))).unwrap();
        twin.block_on(body).expect("no power cut")
    }

    /// Two large answers wait, the second behind the first; what each got, and in which order.
    fn two_wait(memory: &Rc<AnswerMemory>, places: &Rc<Budget>) -> Rc<RefCell<Vec<(usize, bool)>>> {
        let got = Rc::new(RefCell::new(Vec::new()));
        for number in 0..2 {
            let (held, places, got) = (memory.hold(), Rc::clone(places), Rc::clone(&got));
            spawn(async move {
                let place = held.place(&places).await;
                got.borrow_mut().push((number, place.is_some()));
            });
        }
        got
    }

    #[test]
    fn large_answers_that_wait_for_a_place_do_not_give_up_while_there_is_room() {
        in_twin(async {
            let memory = AnswerMemory::new(1 << 20);
            let places = Budget::new(2);
            let taken = (places.take(1).await, places.take(1).await);
            let got = two_wait(&memory, &places);
            timer::sleep(3 * LARGE_WAITS_MAX).await;
            assert_eq!(*got.borrow(), []);
            drop(taken);
            timer::sleep(Duration::from_secs(1)).await;
            assert_eq!(*got.borrow(), [(0, true), (1, true)]);
            assert!(!memory.is_short());
        });
    }

    #[test]
    fn large_answers_that_waited_long_for_a_place_then_wait_for_room() {
        in_twin(async {
            let memory = AnswerMemory::new(1 << 20);
            let places = Budget::new(2);
            let taken = (places.take(1).await, places.take(1).await);
            let got = two_wait(&memory, &places);
            timer::sleep(2 * LARGE_WAITS_MAX).await;
            let unread = memory.hold();
            unread.set(1 << 20);
            drop(taken);
            timer::sleep(LARGE_WAITS_MAX / 2).await;
            assert!(got.borrow().is_empty() && memory.take_was_short());
            unread.set(0);
            timer::sleep(Duration::from_secs(1)).await;
            assert_eq!(*got.borrow(), [(0, true), (1, true)]);
        });
    }

    #[test]
    fn large_answers_give_up_where_there_is_no_room_and_get_it_in_order_where_there_is() {
        in_twin(async {
            let memory = AnswerMemory::new(1 << 20);
            let places = Budget::new(2);
            let unread = memory.hold();
            unread.set(1 << 20);
            let got = two_wait(&memory, &places);
            timer::sleep(LARGE_WAITS_MAX / 2).await;
            assert!(got.borrow().is_empty() && memory.is_short());
            // Whoever asks later is behind them, also where its look comes first.
            let (held, later) = (memory.hold(), Rc::clone(&places));
            let behind = Rc::clone(&got);
            spawn(async move {
                let place = held.place(&later).await;
                behind.borrow_mut().push((2, place.is_some()));
            });
            unread.set(0);
            timer::sleep(Duration::from_secs(1)).await;
            assert_eq!(*got.borrow(), [(0, true), (1, true), (2, true)]);
            got.borrow_mut().clear();
            unread.set(1 << 20);
            let got = two_wait(&memory, &places);
            timer::sleep(LARGE_WAITS_MAX + 2 * TURN_LOOKS_EACH).await;
            assert_eq!(*got.borrow(), [(0, false), (1, false)]);
            assert!(!memory.turns.is_used());
        });
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
