//! Long work in slices: between them everything else of the thread has its turn.

use crate::clock::{self, Nanos};
use crate::{random, timer};
use std::time::Duration;

/// As long as work may keep the thread to itself: whoever waits meanwhile waits so long for each that works in slices.
const SLICE_MAX: Duration = Duration::from_micros(500);
/// In the twin no time passes while something works: one of so many looks ends the slice.
const LOOKS_IN_TWIN: u64 = 8;

/// A slice of the work of one task.
pub struct Slice {
    until: Nanos,
}

impl Slice {
    /// Begins one.
    #[must_use]
    pub fn begin() -> Self {
        Self::begun(clock::now())
    }

    /// One that began then.
    #[must_use]
    pub fn begun(at: Nanos) -> Self {
        Self { until: at + SLICE_MAX }
    }

    /// Whether it has lasted long enough.
    #[must_use]
    pub fn is_over(&self) -> bool {
        if timer::is_simulated() {
            return random::seed().is_multiple_of(LOOKS_IN_TWIN);
        }
        clock::now() >= self.until
    }

    /// Lets others have their turn if this slice has lasted long enough. To be called wherever the work can rest.
    pub async fn rest(&mut self) {
        if self.is_over() {
            timer::next_turn().await;
            *self = Self::begin();
        }
    }
}
