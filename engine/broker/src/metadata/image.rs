//! What every shard knows of the cluster: topics by name and id. Replaced as a whole.

use crate::metadata::topic_settings::{self, CompactionRules, Durability, WriteRules};
use model::{ErrorCode, PartitionIndex, TopicId, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::directory::catalog::{Catalog, CatalogTopic};
use storage::{LogSettings, Retention};
use wire::fetch::TopicRef;

/// A topic as all shards see it.
#[derive(Debug)]
pub(crate) struct TopicImage {
    pub(crate) id: TopicId,
    pub(crate) name: String,
    pub(crate) partitions: i32,
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
    /// Whether it holds the broker's own records.
    pub(crate) fn is_internal(&self) -> bool {
        topic_settings::is_internal(&self.name)
    }

    pub(crate) fn partition(&self, index: i32) -> Option<TopicPartition> {
        let known = (0..self.partitions).contains(&index);
        known.then_some(TopicPartition { topic_id: self.id, partition: PartitionIndex(index) })
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

    /// What a catalogue says; `on_broker` are the settings that were set on the broker.
    pub(crate) fn new(catalog: &Catalog, on_broker: &BTreeMap<String, String>) -> Arc<Self> {
        let mut image = Self::default();
        for CatalogTopic { id, name, partitions, settings } in &catalog.topics {
            let number = |name| topic_settings::number_of(name, settings, on_broker);
            let topic = Arc::new(TopicImage {
                id: *id,
                name: name.clone(),
                partitions: *partitions,
                settings: settings.clone(),
                rules: topic_settings::write_rules_of(settings, on_broker),
                log: topic_settings::log_settings_of(settings, on_broker),
                retention: topic_settings::retention_of(settings, on_broker),
                compaction: topic_settings::compaction_of(settings, on_broker),
                only_compacts: topic_settings::only_compacts(settings, on_broker),
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
