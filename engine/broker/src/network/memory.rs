//! What clients can make a shard hold: requests that are being worked off or wait for records, and answers that are
//! not sent yet. Beyond the limits requests wait where they are, in their sockets, fetches do not wait for records, and
//! answers get smaller.

use crate::observe::logging::warning_of;
use runtime::budget::{Budget, Held};
use runtime::{clock, timer};
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

/// Bytes of answers, from when they are read until they are sent. No fetch waits for it: what is left is shared
/// out, so that clients that do not read cannot stop those that do. Other large answers wait.
pub(crate) struct AnswerMemory {
    bytes_max: usize,
    held: Cell<usize>,
    /// A large answer had to wait for it since it was last asked.
    was_short: Cell<bool>,
    /// Large answers wait for it in the order in which they came: who has taken one and asks for the next is behind
    /// those who have none.
    turns: Rc<Budget>,
}
/// Of one large answer.
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

    /// A holder of nothing yet.
    pub(crate) fn hold(self: &Rc<Self>) -> HeldAnswer {
        HeldAnswer { memory: Rc::clone(self), bytes: Cell::new(0) }
    }
}

impl HeldAnswer {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Waits for room and for a place among those that are made at a time. `None`: there was no room for too long.
    pub(crate) async fn place(&self, places: &Rc<Budget>) -> Option<Held> {
        let mut until = clock::now() + LARGE_WAITS_MAX;
        let mut taking = pin!(self.memory.turns.take(TURN));
        let turn = loop {
            match timer::before(Some(until), taking.as_mut()).await {
                Some(turn) => break turn,
                // Whoever is first waits for a place, which is not for long.
                None if self.memory.has_room() => until = clock::now() + LARGE_WAITS_MAX,
                None => return None,
            }
        };
        loop {
            while !self.memory.has_room() {
                self.memory.was_short.set(true);
                if clock::now() >= until {
                    return None;
                }
                timer::sleep(LARGE_LOOKS_EACH).await;
            }
            // It is not kept while there is no memory: others of the shard need it for less.
            let place = places.take(1).await;
            if self.memory.has_room() {
                drop(turn);
                return Some(place);
            }
        }
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
