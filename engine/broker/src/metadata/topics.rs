//! Creating, growing and deleting topics: decided on shard 0, durable before any shard sees it.

use crate::metadata::image::{MetadataImage, TopicImage};
use crate::shard::catalogue::Catalogue;
use crate::shard::shard::Shard;
use model::limits::PARTITIONS_MAX;
use model::{ErrorCode, TopicId};
use runtime::{clock, random};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::StorageError;
use storage::directory::catalog::{Catalog, CatalogTopic};
use storage::directory::topic_changes::{NotChanged, TopicChange};

/// A topic to create; checked.
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) settings: BTreeMap<String, String>,
}

/// A topic that was created.
#[derive(Clone, Copy)]
pub(crate) struct Created {
    pub(crate) id: TopicId,
    pub(crate) partitions: i32,
}

/// Why not: the code and a sentence.
pub(crate) type Refusal = (ErrorCode, String);

pub(crate) fn exists(name: &str) -> Refusal {
    (ErrorCode::TopicAlreadyExists, format!("topic {name} exists already"))
}

const QUIET: Duration = Duration::from_secs(10);

/// Creates topics; one result each.
pub(crate) async fn create(shard: &Rc<Shard>, new: Vec<NewTopic>) -> Vec<Result<Created, Refusal>> {
    shard
        .call(0, |shard| async move {
            let mut results = Vec::new();
            shard
                .catalogue()
                .change(&shard, |catalog| {
                    let mut taken = Taken::of(catalog);
                    for topic in new {
                        if let Err(refusal) = taken.add(&topic.name, topic.partitions) {
                            results.push(Err(refusal));
                            continue;
                        }
                        let mut bytes = [0; 16];
                        bytes[..8].copy_from_slice(&random::seed().to_be_bytes());
                        bytes[8..].copy_from_slice(&random::seed().to_be_bytes());
                        let id = TopicId::from_random(bytes);
                        let partitions = topic.partitions;
                        results.push(Ok(Created { id, partitions }));
                        catalog.topics.push(CatalogTopic {
                            id,
                            name: topic.name,
                            partitions,
                            settings: topic.settings,
                        });
                    }
                    Ok(())
                })
                .await
                .map_or_else(|refusal| vec![Err(refusal)], |()| results)
        })
        .await
}

/// The names and the number of partitions that there are.
struct Taken {
    /// By what is left of a name where '.' and '_' are the same, as in the names of metrics.
    names: BTreeMap<String, String>,
    partitions: usize,
}

impl Taken {
    fn of(catalog: &Catalog) -> Self {
        let name = |topic: &CatalogTopic| (topic.name.replace('.', "_"), topic.name.clone());
        Self {
            names: catalog.topics.iter().map(name).collect(),
            partitions: partitions_of(catalog),
        }
    }

    fn add(&mut self, name: &str, partitions: i32) -> Result<(), Refusal> {
        let like = name.replace('.', "_");
        match self.names.get(&like) {
            Some(other) if other == name => return Err(exists(name)),
            Some(other) => return Err(collides(name, other)),
            None => {}
        }
        self.partitions = more_partitions(self.partitions, partitions as usize)?;
        self.names.insert(like, name.to_owned());
        Ok(())
    }
}

/// Whether a name is too much like another topic's.
pub(crate) fn check_collision(shard: &Shard, name: &str) -> Result<(), Refusal> {
    if !name.contains(['.', '_']) {
        return Ok(());
    }
    let like = name.replace('.', "_");
    match shard.image().by_name.keys().find(|other| other.replace('.', "_") == like) {
        Some(other) => Err(collides(name, other)),
        None => Ok(()),
    }
}

fn collides(name: &str, other: &str) -> Refusal {
    let why = format!("topic {name} collides with {other}: '.' and '_' are the same in metrics");
    (ErrorCode::InvalidTopicException, why)
}

fn partitions_of(catalog: &Catalog) -> usize {
    catalog.topics.iter().map(|topic| topic.partitions as usize).sum()
}

/// How many partitions there are with `added` more.
fn more_partitions(there: usize, added: usize) -> Result<usize, Refusal> {
    let sum = there + added;
    if sum <= PARTITIONS_MAX {
        return Ok(sum);
    }
    let why =
        format!("{there} partitions and {added} more; this broker has {PARTITIONS_MAX} at most");
    Err((ErrorCode::PolicyViolation, why))
}

/// What `create` would answer, as far as it can be told without doing it.
pub(crate) fn would_create(shard: &Shard, new: &[NewTopic]) -> Vec<Result<Created, Refusal>> {
    let image = shard.image();
    let name = |topic: &Arc<TopicImage>| (topic.name.replace('.', "_"), topic.name.clone());
    let mut taken = Taken {
        names: image.by_name.values().map(name).collect(),
        partitions: image.by_name.values().map(|topic| topic.partitions.len()).sum(),
    };
    let would = |new: &NewTopic| {
        taken.add(&new.name, new.partitions)?;
        Ok(Created { id: TopicId::ZERO, partitions: new.partitions })
    };
    new.iter().map(would).collect()
}

/// Gives a topic more partitions.
pub(crate) async fn grow(shard: &Rc<Shard>, id: TopicId, count: i32) -> Result<(), Refusal> {
    let change = move |catalog: &mut Catalog| {
        let there = partitions_of(catalog);
        let topic = catalog.topics.iter_mut().find(|topic| topic.id == id);
        let topic = topic.ok_or_else(gone)?;
        more_partitions(there, (count.max(topic.partitions) - topic.partitions) as usize)?;
        if count <= topic.partitions {
            return Err((ErrorCode::InvalidPartitions, "it has as many already".to_owned()));
        }
        topic.partitions = count;
        Ok(())
    };
    shard.call(0, move |shard| async move { shard.catalogue().change(&shard, change).await }).await
}

/// Changes a topic's settings; what `change` refuses is not changed at all.
pub(crate) async fn alter(
    shard: &Rc<Shard>,
    id: TopicId,
    change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), Refusal> {
    let change = move |catalog: &mut Catalog| {
        let topic = catalog.topics.iter_mut().find(|topic| topic.id == id);
        change(&mut topic.ok_or_else(gone)?.settings)
    };
    shard.call(0, move |shard| async move { shard.catalogue().change(&shard, change).await }).await
}

/// Deletes a topic and its data.
pub(crate) async fn delete(shard: &Rc<Shard>, id: TopicId) -> Result<(), Refusal> {
    let change = move |catalog: &mut Catalog| {
        let before = catalog.topics.len();
        catalog.topics.retain(|topic| topic.id != id);
        if catalog.topics.len() < before { Ok(()) } else { Err(gone()) }
    };
    shard.call(0, move |shard| async move { shard.catalogue().change(&shard, change).await }).await
}

fn gone() -> Refusal {
    (ErrorCode::UnknownTopicOrPartition, "no such topic".to_owned())
}

impl Catalogue {
    /// Applies a change: durable in the catalogue first, then on every shard.
    async fn change(
        &self,
        shard: &Rc<Shard>,
        change: impl FnOnce(&mut Catalog) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.changed.until(|| (!self.busy.replace(true)).then_some(())).await;
        let result = self.change_alone(shard, change).await;
        self.busy.set(false);
        self.changed.notify();
        result
    }

    async fn change_alone(
        &self,
        shard: &Rc<Shard>,
        change: impl FnOnce(&mut Catalog) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let image = RefCell::new(None);
        let on_shard = async |to, step, change: &Arc<TopicChange>| {
            let new_image = || {
                let (set, node) = (&shard.node.config.set, shard.node.alone());
                MetadataImage::new(&change.catalog, set, node, &shard.image())
            };
            let image = Arc::clone(image.borrow_mut().get_or_insert_with(new_image));
            let change = Arc::clone(change);
            let body = move |shard: Rc<Shard>| async move {
                shard.change_topics(step, &change, image).await
            };
            shard.call(to, body).await
        };
        let shards = shard.mailbox.shards();
        match self.store.change(change, shard.homes(), shards, on_shard).await {
            Ok(done) => done.map_err(|error| self.storage_refusal(&error)),
            Err(NotChanged::Refused(refusal)) => Err(refusal),
            Err(NotChanged::Disk(error)) => Err(self.storage_refusal(&error)),
        }
    }

    /// Clients try again many times a second: one line in ten seconds says it.
    fn storage_refusal(&self, error: &StorageError) -> Refusal {
        let now = clock::now();
        if now >= self.quiet_until.get() {
            self.quiet_until.set(now + QUIET);
            crate::observe::logging::error!("changing the topics failed: {error}");
        }
        (ErrorCode::KafkaStorageError, error.to_string())
    }
}
