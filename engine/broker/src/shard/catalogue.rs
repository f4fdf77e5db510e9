//! The stored catalogue of topics, on the one shard that changes it. One change at a time.

use runtime::clock::Nanos;
use runtime::notify::Notify;
use std::cell::Cell;
use storage::directory::topic_changes::CatalogStore;

/// The catalogue, and whose turn it is to change it.
pub(crate) struct Catalogue {
    pub(crate) store: CatalogStore,
    pub(crate) busy: Cell<bool>,
    pub(crate) changed: Notify,
    /// Failures are told again from then on.
    pub(crate) quiet_until: Cell<Nanos>,
}

impl Catalogue {
    pub(crate) fn new(store: CatalogStore) -> Self {
        let (busy, changed, quiet_until) = (Cell::default(), Notify::default(), Cell::default());
        Self { store, busy, changed, quiet_until }
    }
}
