//! Connections by the address they come from.
//!
//! Shards share this, behind a lock: it is touched when a connection begins and ends, and never while one is served.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections each address has, over all shards.
pub(crate) struct Peers {
    max: usize,
    connections: Mutex<BTreeMap<IpAddr, usize>>,
}

/// One connection of an address; given back when dropped.
pub(crate) struct PeerPlace {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    /// At most `max` each.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, connections: Mutex::default() })
    }

    /// A place for one more connection of this address, if it may have one.
    pub(crate) fn connect(self: &Arc<Self>, address: IpAddr) -> Option<PeerPlace> {
        let address = address.to_canonical();
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let open = connections.entry(address).or_default();
        if *open >= self.max {
            return None;
        }
        *open += 1;
        Some(PeerPlace { peers: Arc::clone(self), address })
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let connections = self.peers.connections.lock();
        let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = connections.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                connections.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_and_leaves_nothing_behind() {
        let peers = Peers::new(2);
        let [v4, mapped, other]: [IpAddr; 3] =
            ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let (one, two) = (peers.connect(v4), peers.connect(mapped));
        assert!(one.is_some() && two.is_some() && peers.connect(v4).is_none());
        assert!(peers.connect(other).is_some());
        drop(one);
        assert!(peers.connect(v4).is_some());
        drop(two);
        assert!(peers.connections.lock().unwrap().is_empty());
    }
}
