//! What every shard knows of the cluster: topics by name and id. Replaced as a whole.

use crate::topic_settings::Durability;
use model::{PartitionIndex, TopicId, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use storage::catalog::{Catalog, CatalogTopic};

/// A topic as all shards see it.
#[derive(Debug)]
pub(crate) struct TopicImage {
    pub(crate) id: TopicId,
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) settings: BTreeMap<String, String>,
    /// `max.message.bytes` in force.
    pub(crate) batch_bytes_max: usize,
    /// `min.insync.replicas` in force.
    pub(crate) min_insync_replicas: i64,
    /// `weir.durability`, `flush.messages` and `flush.ms` in force.
    pub(crate) flushing: Flushing,
}

/// When a partition's records are made safe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flushing {
    pub(crate) durability: Durability,
    pub(crate) messages: i64,
    pub(crate) ms: i64,
}

impl TopicImage {
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
    pub(crate) fn new(catalog: &Catalog, config: &crate::config::Config) -> Arc<Self> {
        let mut image = Self::default();
        for CatalogTopic { id, name, partitions, settings } in &catalog.topics {
            let number = |name| crate::topic_settings::number_of(name, settings, config);
            let topic = Arc::new(TopicImage {
                id: *id,
                name: name.clone(),
                partitions: *partitions,
                settings: settings.clone(),
                batch_bytes_max: number("max.message.bytes") as usize,
                min_insync_replicas: number("min.insync.replicas"),
                flushing: Flushing {
                    durability: crate::topic_settings::durability_of(settings, config),
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
