//! Producer ids of this broker.

use model::{ErrorCode, ProducerId};
use std::sync::atomic::{AtomicI64, Ordering};

/// Producer ids per start of the broker: the rest of the number says which start.
const PRODUCER_ID_BITS: u32 = 40;

/// Gives out producer ids. None is given out twice, also not by another start, because no two starts
/// have the same epoch.
pub(crate) struct ProducerIds {
    next: AtomicI64,
    end: i64,
}

impl ProducerIds {
    pub(crate) fn new(epoch: model::LeaderEpoch) -> Self {
        let first = i64::from(epoch.0) << PRODUCER_ID_BITS;
        Self { next: AtomicI64::new(first), end: first + (1 << PRODUCER_ID_BITS) }
    }

    /// An id nobody has yet.
    ///
    /// # Errors
    /// `CoordinatorNotAvailable` after as many as there can be between two starts.
    pub(crate) fn take(&self) -> Result<ProducerId, ErrorCode> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if id < self.end { Ok(ProducerId(id)) } else { Err(ErrorCode::CoordinatorNotAvailable) }
    }
}
