//! What every shard knows of the cluster: topics by name and id. Replaced as a whole.

use crate::metadata::topic_settings::{self, CompactionRules, WriteRules};
use model::{BrokerId, ErrorCode, LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use partition::{Durability, Replication};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::directory::catalog::{Catalog, CatalogTopic};
use storage::{LogSettings, Retention};
use wire::fetch::TopicRef;

/// Who has a partition, and who leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionImage {
    pub(crate) leader: BrokerId,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) replicas: Arc<[BrokerId]>,
    /// Of the replicas: those that have all that is committed.
    pub(crate) in_sync: Arc<[BrokerId]>,
}

impl PartitionImage {
    /// Its replicas as messages name them.
    pub(crate) fn replica_ids(&self) -> Vec<i32> {
        self.replicas.iter().map(|broker| broker.0).collect()
    }

    /// Those in sync, as messages name them.
    pub(crate) fn in_sync_ids(&self) -> Vec<i32> {
        self.in_sync.iter().map(|broker| broker.0).collect()
    }
}

/// Where partitions are put: on one node all of them on itself, led by it in the epoch of its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneNode {
    pub(crate) id: BrokerId,
    pub(crate) epoch: LeaderEpoch,
}

impl OneNode {
    fn partitions(self, count: i32) -> Box<[PartitionImage]> {
        let only: Arc<[BrokerId]> = Arc::new([self.id]);
        let one = PartitionImage {
            leader: self.id,
            leader_epoch: self.epoch,
            replicas: Arc::clone(&only),
            in_sync: only,
        };
        vec![one; usize::try_from(count).unwrap_or(0)].into()
    }
}

/// A topic as all shards see it.
#[derive(Debug)]
pub(crate) struct TopicImage {
    pub(crate) id: TopicId,
    pub(crate) name: String,
    pub(crate) partitions: Box<[PartitionImage]>,
    pub(crate) settings: BTreeMap<String, String>,
    /// What is asked of batches.
    pub(crate) rules: WriteRules,
    /// How its logs are cut into files, and how much of them is kept.
    pub(crate) log: LogSettings,
    pub(crate) retention: Retention,
    /// How they are compacted, if they are.
    pub(crate) compaction: Option<CompactionRules>,
    /// Nothing of them is deleted but what a newer record of its key replaces.
    pub(crate) only_compacts: bool,
    /// `min.insync.replicas`.
    pub(crate) in_sync_min: usize,
    /// `weir.durability`, `flush.messages` and `flush.ms` in force.
    pub(crate) flushing: Flushing,
}

/// When a partition's records are made safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flushing {
    pub(crate) durability: Durability,
    pub(crate) messages: i64,
    pub(crate) ms: i64,
}

impl TopicImage {
    /// How many partitions it has.
    pub(crate) fn count(&self) -> i32 {
        self.partitions.len() as i32
    }

    /// Who has a partition, if there is such a one.
    pub(crate) fn placed(&self, index: i32) -> Option<&PartitionImage> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// Who has a partition, for what its producers ask.
    pub(crate) fn replication(&self, placed: &PartitionImage) -> Replication {
        Replication {
            replicas: placed.replicas.len(),
            in_sync: placed.in_sync.len(),
            in_sync_min: self.in_sync_min,
        }
    }

    /// Whether it holds the broker's own records.
    pub(crate) fn is_internal(&self) -> bool {
        topic_settings::is_internal(&self.name)
    }

    pub(crate) fn partition(&self, index: i32) -> Option<TopicPartition> {
        self.placed(index)?;
        Some(TopicPartition { topic_id: self.id, partition: PartitionIndex(index) })
    }
}

/// All topics. Shared by reference between shards; never changed, only replaced.
#[derive(Debug, Default)]
pub(crate) struct MetadataImage {
    pub(crate) by_name: BTreeMap<String, Arc<TopicImage>>,
    pub(crate) by_id: BTreeMap<TopicId, Arc<TopicImage>>,
}

impl MetadataImage {
    /// Whether there is such a partition.
    pub(crate) fn has(&self, topic: &str, partition: i32) -> bool {
        self.by_name.get(topic).is_some_and(|topic| topic.partition(partition).is_some())
    }

    /// The partition that a request names.
    ///
    /// # Errors
    /// There is no such topic or partition; the code depends on how the topic was named.
    pub(crate) fn resolve(
        &self,
        topic: TopicRef<'_>,
        partition: i32,
    ) -> Result<(&TopicImage, TopicPartition), ErrorCode> {
        let (topic, missing) = match topic {
            TopicRef::Name(name) => (self.by_name.get(name), ErrorCode::UnknownTopicOrPartition),
            TopicRef::Id(id) => (self.by_id.get(&id), ErrorCode::UnknownTopicId),
        };
        let topic = topic.ok_or(missing)?;
        let id = topic.partition(partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        Ok((topic, id))
    }

    /// What a catalogue says; `on_broker` are the settings that were set on the broker. A topic that is as it was in the
    /// image before is that very one: a change costs what it changes, however many partitions there are.
    pub(crate) fn new(
        catalog: &Catalog,
        on_broker: &BTreeMap<String, String>,
        node: OneNode,
        before: &Self,
    ) -> Arc<Self> {
        let mut image = Self::default();
        for CatalogTopic { id, name, partitions, settings } in &catalog.topics {
            let is_same = |known: &&Arc<TopicImage>| {
                known.name == *name && known.count() == *partitions && known.settings == *settings
            };
            if let Some(same) = before.by_id.get(id).filter(is_same) {
                image.by_name.insert(name.clone(), Arc::clone(same));
                image.by_id.insert(*id, Arc::clone(same));
                continue;
            }
            let number = |name| topic_settings::number_of(name, settings, on_broker);
            let topic = Arc::new(TopicImage {
                id: *id,
                name: name.clone(),
                partitions: node.partitions(*partitions),
                settings: settings.clone(),
                rules: topic_settings::write_rules_of(settings, on_broker),
                log: topic_settings::log_settings_of(settings, on_broker),
                retention: topic_settings::retention_of(settings, on_broker),
                compaction: topic_settings::compaction_of(settings, on_broker),
                only_compacts: topic_settings::only_compacts(settings, on_broker),
                in_sync_min: usize::try_from(number("min.insync.replicas")).unwrap_or(1),
                flushing: Flushing {
                    durability: topic_settings::durability_of(settings, on_broker),
                    messages: number("flush.messages"),
                    ms: number("flush.ms"),
                },
            });
            image.by_name.insert(name.clone(), Arc::clone(&topic));
            image.by_id.insert(*id, topic);
        }
        Arc::new(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(number: u8, partitions: i32, settings: &[(&str, &str)]) -> CatalogTopic {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        CatalogTopic {
            id: TopicId([number; 16]),
            name: format!("t-{number}"),
            partitions,
            settings: settings.collect(),
        }
    }

    #[test]
    fn only_topics_that_changed_are_made_anew() {
        let node = OneNode { id: BrokerId(7), epoch: LeaderEpoch(3) };
        let topics = (0..4).map(|number| topic(number, 2, &[])).collect();
        let mut catalog = Catalog { topics, ..Catalog::default() };
        let new = |catalog: &Catalog, before: &MetadataImage| {
            MetadataImage::new(catalog, &BTreeMap::new(), node, before)
        };
        let before = new(&catalog, &MetadataImage::default());
        catalog.topics[1] = topic(1, 5, &[]);
        catalog.topics[2] = topic(2, 2, &[("retention.ms", "1")]);
        catalog.topics[3].name = "renamed".to_owned();
        let after = new(&catalog, &before);
        let is_same = |number: u8| {
            let id = TopicId([number; 16]);
            Arc::ptr_eq(&before.by_id[&id], &after.by_id[&id])
        };
        assert_eq!([0, 1, 2, 3].map(is_same), [true, false, false, false]);
        let [_, grown, set, renamed] = [0u8, 1, 2, 3].map(|n| &after.by_id[&TopicId([n; 16])]);
        assert_eq!((grown.count(), set.retention.age_ms), (5, Some(1)));
        assert!(Arc::ptr_eq(renamed, &after.by_name["renamed"]) && after.by_name.len() == 4);
        let placed = grown.placed(4).expect("it has five");
        assert_eq!((placed.leader, placed.leader_epoch), (BrokerId(7), LeaderEpoch(3)));
        assert_eq!((placed.replica_ids(), placed.in_sync_ids()), (vec![7], vec![7]));
        assert!(grown.placed(5).is_none() && grown.placed(-1).is_none());
    }
}
