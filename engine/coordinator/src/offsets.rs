//! The committed offsets of a group.

use crate::records::OffsetCommitValue;
use std::collections::BTreeMap;

/// A group's offsets by topic and partition.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    pub(crate) by_topic: BTreeMap<String, BTreeMap<i32, OffsetCommitValue>>,
}

impl Offsets {
    pub(crate) fn set(&mut self, topic: &str, partition: i32, value: OffsetCommitValue) {
        match self.by_topic.get_mut(topic) {
            Some(partitions) => drop(partitions.insert(partition, value)),
            None => {
                self.by_topic.insert(topic.to_owned(), BTreeMap::from([(partition, value)]));
            }
        }
    }

    pub(crate) fn remove(&mut self, topic: &str, partition: i32) -> bool {
        let Some(partitions) = self.by_topic.get_mut(topic) else { return false };
        let was_there = partitions.remove(&partition).is_some();
        if partitions.is_empty() {
            self.by_topic.remove(topic);
        }
        was_there
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i32, &OffsetCommitValue)> {
        self.by_topic.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, value)| (topic.as_str(), *partition, value))
        })
    }
}
