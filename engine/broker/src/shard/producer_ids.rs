//! Producer ids: shards take them from blocks that an authority hands out, as brokers of a cluster do (KIP-730).

use model::{ErrorCode, LeaderEpoch, ProducerId};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};

/// Producer ids per start of the broker: the rest of the number says which start.
const PRODUCER_ID_BITS: u32 = 40;
/// As many as Kafka's controller hands out at a time.
const BLOCK_IDS: i64 = 1000;

/// Hands out blocks of ids. No id is in two of them, also not in those of another start, because no two starts have
/// the same epoch.
pub(crate) struct ProducerIdAuthority {
    next: AtomicI64,
    end: i64,
}

impl ProducerIdAuthority {
    /// The authority of one node, which is its own.
    pub(crate) fn new(epoch: LeaderEpoch) -> Self {
        let first = i64::from(epoch.0) << PRODUCER_ID_BITS;
        Self { next: AtomicI64::new(first), end: first + (1 << PRODUCER_ID_BITS) }
    }

    /// Ids that nobody has yet.
    ///
    /// # Errors
    /// `CoordinatorNotAvailable` after as many as there can be between two starts.
    fn block(&self) -> Result<Range<i64>, ErrorCode> {
        let first = self.next.fetch_add(BLOCK_IDS, Ordering::Relaxed);
        let block = first..(first + BLOCK_IDS).min(self.end);
        if block.is_empty() { Err(ErrorCode::CoordinatorNotAvailable) } else { Ok(block) }
    }
}

/// What is left of a shard's block.
#[derive(Default)]
pub(crate) struct ProducerIds(RefCell<Range<i64>>);

impl ProducerIds {
    /// An id nobody has yet.
    ///
    /// # Errors
    /// The authority has no block.
    pub(crate) fn take(&self, authority: &ProducerIdAuthority) -> Result<ProducerId, ErrorCode> {
        let mut block = self.0.borrow_mut();
        if block.is_empty() {
            *block = authority.block()?;
        }
        Ok(ProducerId(block.next().expect("no block is empty")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_id_is_given_out_twice_and_not_by_another_start() {
        let mut given = BTreeSet::new();
        for start in 1..3 {
            let authority = ProducerIdAuthority::new(LeaderEpoch(start));
            let shards = [ProducerIds::default(), ProducerIds::default()];
            for number in 0..3 * BLOCK_IDS {
                let id = shards[(number % 7 % 2) as usize].take(&authority).unwrap();
                assert!(given.insert(id), "{id} is given out twice");
            }
        }
    }

    #[test]
    fn an_authority_without_ids_says_so() {
        let authority = ProducerIdAuthority { next: AtomicI64::new(0), end: BLOCK_IDS + 1 };
        let ids = ProducerIds::default();
        assert!((0..=BLOCK_IDS).all(|id| ids.take(&authority) == Ok(ProducerId(id))));
        for _ in 0..3 {
            assert_eq!(ids.take(&authority), Err(ErrorCode::CoordinatorNotAvailable));
        }
    }
}
