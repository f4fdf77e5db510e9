//! Creating, growing and deleting topics: decided on shard 0, durable before any shard sees it.

use crate::image::MetadataImage;
use crate::shard::Shard;
use model::{ErrorCode, TopicId};
use runtime::notify::Notify;
use runtime::random;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use storage::StorageError;
use storage::catalog::{Catalog, CatalogTopic};

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

/// The catalogue, on shard 0. One change at a time.
#[derive(Default)]
pub(crate) struct Topics {
    catalog: RefCell<Catalog>,
    busy: Cell<bool>,
    changed: Notify,
}

thread_local! {
    /// Shard 0's topics. Other shards reach them by `Shard::call`.
    static TOPICS: RefCell<Option<Rc<Topics>>> = const { RefCell::new(None) };
}

/// Gives shard 0 the catalogue read at the start.
pub(crate) fn install(catalog: Catalog) {
    let topics = Topics { catalog: RefCell::new(catalog), ..Topics::default() };
    TOPICS.with(|place| *place.borrow_mut() = Some(Rc::new(topics)));
}

fn here() -> Rc<Topics> {
    TOPICS.with(|topics| topics.borrow().clone()).expect("topics are changed on shard 0")
}

/// Creates topics; one result each.
pub(crate) async fn create(shard: &Rc<Shard>, new: Vec<NewTopic>) -> Vec<Result<Created, Refusal>> {
    shard
        .call(0, |shard| async move {
            let mut results = Vec::new();
            here()
                .change(&shard, |catalog| {
                    for topic in new {
                        if catalog.topics.iter().any(|t| t.name == topic.name) {
                            results.push(Err(exists(&topic.name)));
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

/// Gives a topic more partitions.
pub(crate) async fn grow(shard: &Rc<Shard>, id: TopicId, count: i32) -> Result<(), Refusal> {
    let change = move |catalog: &mut Catalog| {
        let topic = catalog.topics.iter_mut().find(|topic| topic.id == id);
        let topic = topic.ok_or_else(gone)?;
        if count <= topic.partitions {
            return Err((ErrorCode::InvalidPartitions, "it has as many already".to_owned()));
        }
        topic.partitions = count;
        Ok(())
    };
    shard.call(0, move |shard| async move { here().change(&shard, change).await }).await
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
    shard.call(0, move |shard| async move { here().change(&shard, change).await }).await
}

/// Deletes a topic and its data.
pub(crate) async fn delete(shard: &Rc<Shard>, id: TopicId) -> Result<(), Refusal> {
    let change = move |catalog: &mut Catalog| {
        let before = catalog.topics.len();
        catalog.topics.retain(|topic| topic.id != id);
        if catalog.topics.len() < before { Ok(()) } else { Err(gone()) }
    };
    shard.call(0, move |shard| async move { here().change(&shard, change).await }).await
}

fn gone() -> Refusal {
    (ErrorCode::UnknownTopicOrPartition, "no such topic".to_owned())
}

impl Topics {
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
        let mut catalog = self.catalog.borrow().clone();
        change(&mut catalog)?;
        if catalog == *self.catalog.borrow() {
            return Ok(());
        }
        catalog.generation += 1;
        store(shard, &catalog).await.map_err(|error| storage_refusal(&error))?;
        let image = MetadataImage::new(&catalog, &shard.node.config);
        *self.catalog.borrow_mut() = catalog;
        let mut result = Ok(());
        for to in 0..shard.mailbox.shards() {
            let image = Arc::clone(&image);
            let adopted =
                shard.call(to, move |shard| async move { shard.adopt(image, None).await }).await;
            if let Err(error) = adopted {
                result = Err(storage_refusal(&error));
            }
        }
        result
    }
}

/// Stores the catalogue in every directory that is online; one is enough.
pub(crate) async fn store(shard: &Rc<Shard>, catalog: &Catalog) -> Result<(), StorageError> {
    let mut result = Err(StorageError::Offline);
    for home in shard.homes().iter().filter(|home| !home.health().is_offline()) {
        match catalog.store(home.path()).await {
            Ok(()) => result = Ok(()),
            Err(error) if error.is_full() => return Err(error),
            Err(error) => {
                shard.on_directory_failed(home, &error);
                if result.is_err() {
                    result = Err(error);
                }
            }
        }
    }
    result
}

fn storage_refusal(error: &StorageError) -> Refusal {
    crate::logging::error!("changing the topics failed: {error}");
    (ErrorCode::KafkaStorageError, error.to_string())
}
