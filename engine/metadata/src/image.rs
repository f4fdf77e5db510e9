//! What every shard knows of the cluster: topics by name and id. Replaced as a whole.

use crate::in_force::{CompactionRules, Flushing, InForce, SettingValues, WriteRules};
use crate::topic_settings::is_internal;
use model::{
    BrokerId, ErrorCode, LeaderEpoch, LogSettings, PartitionIndex, Retention, Topic, TopicId,
    TopicName, TopicPartition, TopicRef,
};
use partition::Replication;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who has a partition, and who leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// Who leads it.
    pub leader: BrokerId,
    /// Since which epoch.
    pub leader_epoch: LeaderEpoch,
    /// Who is to have it.
    pub replicas: Arc<[BrokerId]>,
    /// Of the replicas: those that have all that is committed.
    pub in_sync: Arc<[BrokerId]>,
}

impl PartitionImage {
    /// Its replicas as messages name them.
    pub fn replica_ids(&self) -> Vec<i32> {
        self.replicas.iter().map(|broker| broker.0).collect()
    }

    /// Those in sync, as messages name them.
    pub fn in_sync_ids(&self) -> Vec<i32> {
        self.in_sync.iter().map(|broker| broker.0).collect()
    }
}

/// Where partitions are put: on one node all of them on itself, led by it in the epoch of its start.
#[derive(Clone, Copy, Debug)]
pub struct OneNode {
    /// The node.
    pub id: BrokerId,
    /// The epoch of its start.
    pub epoch: LeaderEpoch,
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
pub struct TopicImage {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// By index.
    pub partitions: Box<[PartitionImage]>,
    /// What is set on it.
    pub settings: SettingValues,
    /// What is asked of batches.
    pub rules: WriteRules,
    /// How its logs are cut into files.
    pub log: LogSettings,
    /// How much of them is kept.
    pub retention: Retention,
    /// How they are compacted, if they are.
    pub compaction: Option<CompactionRules>,
    /// Nothing of them is deleted but what a newer record of its key replaces.
    pub only_compacts: bool,
    /// `min.insync.replicas`.
    pub in_sync_min: usize,
    /// `weir.durability`, `flush.messages` and `flush.ms` in force.
    pub flushing: Flushing,
}

impl TopicImage {
    /// How many partitions it has.
    pub fn count(&self) -> i32 {
        self.partitions.len() as i32
    }

    /// Who has a partition, if there is such a one.
    pub fn placed(&self, index: i32) -> Option<&PartitionImage> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// Who has a partition, for what its producers ask.
    pub fn replication(&self, placed: &PartitionImage) -> Replication {
        Replication {
            replicas: placed.replicas.len(),
            in_sync: placed.in_sync.len(),
            in_sync_min: self.in_sync_min,
        }
    }

    /// Whether it holds the broker's own records.
    pub fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }

    /// The partition of this index, if there is one.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<TopicPartition> {
        self.placed(index)?;
        Some(TopicPartition { topic_id: self.id, partition: PartitionIndex(index) })
    }
}

/// All topics. Shared by reference between shards; never changed, only replaced.
#[derive(Debug, Default)]
pub struct MetadataImage {
    /// By name.
    pub by_name: BTreeMap<TopicName, Arc<TopicImage>>,
    /// By id.
    pub by_id: BTreeMap<TopicId, Arc<TopicImage>>,
}

impl MetadataImage {
    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.by_name.get(name)
    }

    /// Whether there is such a partition.
    pub fn has(&self, topic: &str, partition: i32) -> bool {
        self.by_name.get(topic).is_some_and(|topic| topic.partition(partition).is_some())
    }

    /// The partition that a request names.
    ///
    /// # Errors
    /// There is no such topic or partition; the code depends on how the topic was named.
    pub fn resolve(
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

    /// What these topics are; `on_broker` are the settings that were set on the broker. A topic that is as it was in the
    /// image before is that very one: a change costs what it changes, however many partitions there are.
    pub fn new(
        topics: &[Topic],
        on_broker: &SettingValues,
        node: OneNode,
        before: &Self,
    ) -> Arc<Self> {
        let mut image = Self::default();
        for Topic { id, name, partitions, settings } in topics {
            let is_same = |known: &&Arc<TopicImage>| {
                known.name == *name && known.count() == *partitions && known.settings == *settings
            };
            if let Some(same) = before.by_id.get(id).filter(is_same) {
                image.by_name.insert(name.clone(), Arc::clone(same));
                image.by_id.insert(*id, Arc::clone(same));
                continue;
            }
            let in_force = InForce { on_topic: settings, on_broker };
            let in_sync_min = in_force.number("min.insync.replicas");
            let topic = Arc::new(TopicImage {
                id: *id,
                name: name.clone(),
                partitions: node.partitions(*partitions),
                settings: settings.clone(),
                rules: in_force.write_rules(),
                log: in_force.log_settings(),
                retention: in_force.retention(),
                compaction: in_force.compaction(),
                only_compacts: in_force.only_compacts(),
                in_sync_min: usize::try_from(in_sync_min).unwrap_or(1),
                flushing: in_force.flushing(),
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

    fn topic(number: u8, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Topic {
            id: TopicId([number; 16]),
            name: TopicName::new(&format!("t-{number}")).unwrap(),
            partitions,
            settings: settings.collect(),
        }
    }

    #[test]
    fn only_topics_that_changed_are_made_anew() {
        let node = OneNode { id: BrokerId(7), epoch: LeaderEpoch(3) };
        let mut topics: Vec<Topic> = (0..4).map(|number| topic(number, 2, &[])).collect();
        let new = |topics: &[Topic], before: &MetadataImage| {
            MetadataImage::new(topics, &BTreeMap::new(), node, before)
        };
        let before = new(&topics, &MetadataImage::default());
        topics[1] = topic(1, 5, &[]);
        topics[2] = topic(2, 2, &[("retention.ms", "1")]);
        topics[3].name = TopicName::new("renamed").unwrap();
        let after = new(&topics, &before);
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
