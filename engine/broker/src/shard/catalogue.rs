//! The stored catalogue of topics, on the one shard that changes it. One change at a time.

use runtime::clock::Nanos;
use runtime::turns::Turns;
use std::cell::Cell;
use std::rc::Rc;
use storage::directory::topic_changes::CatalogStore;

/// The catalogue, and whose turn it is to change it.
pub(crate) struct Catalogue {
    pub(crate) store: CatalogStore,
    pub(crate) turns: Rc<Turns<()>>,
    /// Failures are told again from then on.
    pub(crate) quiet_until: Cell<Nanos>,
}

impl Catalogue {
    pub(crate) fn new(store: CatalogStore) -> Self {
        Self { store, turns: Rc::default(), quiet_until: Cell::default() }
    }
}
