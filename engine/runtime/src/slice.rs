//! Long work in slices: between them everything else of the thread has its turn.

use crate::clock::{self, Nanos};
use crate::timer;
use std::time::Duration;

/// As long as work may keep the thread to itself.
const SLICE_MAX: Duration = Duration::from_millis(2);

/// A slice of the work of one task.
pub struct Slice {
    until: Nanos,
}

impl Slice {
    /// Begins one.
    #[must_use]
    pub fn begin() -> Self {
        Self { until: clock::now() + SLICE_MAX }
    }

    /// Lets others have their turn if this slice has lasted long enough. To be called wherever the work can rest.
    pub async fn rest(&mut self) {
        if clock::now() >= self.until {
            timer::next_turn().await;
            *self = Self::begin();
        }
    }
}
