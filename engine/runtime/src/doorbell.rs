//! The moment in which two threads could miss each other: one is about to sleep, the other has something for it.
//!
//! Whoever is to sleep announces it, then looks once more. Whoever has something puts it there, then rings. With a
//! fence between both steps on both sides at least one of them sees what the other did; without one neither may, for a
//! store may become visible after a later load. `tests/doorbell.rs` tries every order.

use super::atomics::{AtomicBool, Ordering, fence};

/// Whether someone sleeps, or is about to.
pub(crate) struct Doorbell {
    sleeps: AtomicBool,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Self { sleeps: AtomicBool::new(false) }
    }

    /// Says that this thread sleeps unless it finds something after `look_again`; or that it does not.
    pub(crate) fn announce(&self, sleeps: bool) {
        self.sleeps.store(sleeps, Ordering::SeqCst);
    }

    /// Between what was announced and the last look.
    pub(crate) fn look_again() {
        fence(Ordering::SeqCst);
    }

    /// After something was put there: whether the sleeper is to be woken, by this thread alone.
    pub(crate) fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeps.load(Ordering::Relaxed) && self.sleeps.swap(false, Ordering::SeqCst)
    }
}
