//! Connections by the address they come from.
//!
//! Shards share this, behind a lock: it is touched when a connection begins and ends, and never while one is served.
#![allow(clippy::disallowed_types)]

use runtime::clock::Nanos;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many connections each address has, and how often one begins, over all shards.
pub(crate) struct Peers {
    max: usize,
    /// Between the beginnings of two connections, on average.
    distance: Duration,
    /// When the next one would begin if they came at that distance.
    next: Mutex<Nanos>,
    connections: Mutex<BTreeMap<IpAddr, usize>>,
}

/// One connection of an address; given back when dropped.
pub(crate) struct PeerPlace {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    /// At most `max` each, and `per_second_max` new ones a second together.
    pub(crate) fn new(max: usize, per_second_max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            distance: Duration::from_secs(1) / per_second_max as u32,
            next: Mutex::default(),
            connections: Mutex::default(),
        })
    }

    /// When a connection that is there `now` may begin: at once, as long as those of the last second were not too many.
    pub(crate) fn begins_at(&self, now: Nanos) -> Nanos {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let in_order = if next.since(now) > 0 { *next } else { now };
        *next = in_order + self.distance;
        // By so much the connections of one second may be ahead of it.
        let ahead = Duration::from_secs(1).saturating_sub(self.distance).as_nanos() as u64;
        Nanos(in_order.0.saturating_sub(ahead)).max(now)
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
    fn those_of_one_second_may_come_at_once_and_no_more() {
        let peers = Peers::new(1, 10);
        let now = Nanos(5_000_000_000);
        let waits: Vec<u64> =
            (0..13).map(|_| peers.begins_at(now).since(now) / 1_000_000).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 200, 300]);
        // A second later the three are through, and seven more may come.
        let later = now + Duration::from_secs(1);
        let waits: Vec<u64> =
            (0..8).map(|_| peers.begins_at(later).since(later) / 1_000_000).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 100]);
        let unbounded = Peers::new(1, i32::MAX as usize);
        assert!((0..100_000).all(|_| unbounded.begins_at(now) == now));
    }

    #[test]
    fn an_address_has_so_many_and_leaves_nothing_behind() {
        let peers = Peers::new(2, 1000);
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
