//! Produces that are slow, and what their connections sent behind them.

use runtime::turns::{Turn, Turns};
use std::net::SocketAddr;
use std::rc::Rc;

/// Produces of connections that took, or take, longer than a slice: whatever else their connection sent comes behind.
#[derive(Default)]
pub(crate) struct SlowProduces(Rc<Turns<Option<SocketAddr>>>);

impl SlowProduces {
    /// A place behind those of the same connection; `None` if there are none.
    pub(crate) fn turn_behind(&self, peer: Option<SocketAddr>) -> Option<Turn<Option<SocketAddr>>> {
        self.0.has_queue(&peer).then(|| self.take(peer))
    }

    /// A place at the end.
    pub(crate) fn take(&self, peer: Option<SocketAddr>) -> Turn<Option<SocketAddr>> {
        self.0.take(peer)
    }
}
