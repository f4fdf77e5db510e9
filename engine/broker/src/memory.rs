//! What clients can make a shard hold: requests that are being worked off, and answers that are not sent yet.
//! Beyond the limits requests wait where they are, in their sockets, and answers get smaller.

use std::cell::Cell;
use std::rc::Rc;

/// A fetch is granted so much however little is left: without it nobody would get anywhere.
pub(crate) const ANSWER_BYTES_MIN: usize = 64 * 1024;

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
