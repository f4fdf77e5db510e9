//! Offsets in transactions that are open: they count once their transaction is committed (KIP-447).

use crate::offsets::Offsets;
use crate::records::OffsetCommitValue;
use model::ProducerId;
use std::collections::{BTreeMap, BTreeSet};

/// What a transaction may make of a group's offsets. The number is the commit's place among all.
#[derive(Debug, Default)]
pub(crate) struct PendingOffsets {
    by_producer: BTreeMap<ProducerId, BTreeMap<(String, i32), (u64, OffsetCommitValue)>>,
}

impl PendingOffsets {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_producer.is_empty()
    }

    /// Whether this partition's offset may change when a transaction ends.
    pub(crate) fn has(&self, topic: &str, partition: i32) -> bool {
        let key = (topic.to_owned(), partition);
        self.by_producer.values().any(|offsets| offsets.contains_key(&key))
    }

    /// Another commit of this partition came later than those before `order`.
    pub(crate) fn forget_before(&mut self, topic: &str, partition: i32, order: u64) {
        if self.by_producer.is_empty() {
            return;
        }
        let key = (topic.to_owned(), partition);
        self.by_producer.retain(|_, offsets| {
            if offsets.get(&key).is_some_and(|(at, _)| *at < order) {
                offsets.remove(&key);
            }
            !offsets.is_empty()
        });
    }

    /// Which partitions.
    pub(crate) fn partitions(&self) -> BTreeSet<(String, i32)> {
        self.by_producer.values().flat_map(|offsets| offsets.keys().cloned()).collect()
    }

    pub(crate) fn set(
        &mut self,
        id: ProducerId,
        key: (String, i32),
        order: u64,
        value: OffsetCommitValue,
    ) {
        self.by_producer.entry(id).or_default().insert(key, (order, value));
    }

    /// A producer's transaction has ended.
    pub(crate) fn end(&mut self, id: ProducerId, commit: bool, offsets: &mut Offsets) {
        for ((topic, partition), (order, value)) in self.by_producer.remove(&id).unwrap_or_default()
        {
            if commit {
                self.forget_before(&topic, partition, order);
                offsets.set(&topic, partition, value);
            }
        }
    }
}
