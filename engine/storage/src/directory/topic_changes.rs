//! A change of topics, from what is asked to what every shard has: nothing is changed, or all of it lasts.
//!
//! Directories first, then the catalog, then the shards: a topic that is known has its directories, and a topic that
//! was deleted is known as deleted until no directory holds anything of it.

use crate::StorageError;
use crate::directory::catalog::Catalog;
use crate::directory::log_dir::LogDir;
use crate::directory::reserve::with_reserve;
use model::{Topic, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// A change that is on its way.
#[derive(Debug)]
pub struct TopicChange {
    /// All topics, afterwards.
    pub catalog: Catalog,
    /// Partitions that there were not before.
    pub new: BTreeSet<TopicPartition>,
}

/// What a shard does with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicStep {
    /// `LogManager::make` its new partitions.
    Make,
    /// `LogManager::unmake` them: the change is off.
    Unmake,
    /// Opens what is new and removes what is gone.
    Adopt,
}

/// Why topics were not changed.
#[derive(Debug)]
pub enum NotChanged<E> {
    /// Who asked does not want it any more.
    Refused(E),
    /// The disk does not let it: the topics are as they were, and directories that failed are offline.
    Disk(StorageError),
}

/// The catalog of a running node. One change at a time: the caller's to see to.
pub struct CatalogStore {
    catalog: RefCell<Catalog>,
    /// All directories that may hold partitions were there at the start.
    is_complete: bool,
    /// Every directory in use holds a copy of it, so that partitions may be made there.
    is_everywhere: Cell<bool>,
    /// Nothing is left anywhere of the topics known as deleted.
    is_swept: Cell<bool>,
}

impl CatalogStore {
    /// Goes on with the catalog that a start found.
    pub(crate) fn new(catalog: Catalog, is_complete: bool, is_everywhere: bool) -> Self {
        let is_swept = Cell::new(catalog.deleted.is_empty());
        let is_everywhere = Cell::new(is_everywhere);
        Self { catalog: RefCell::new(catalog), is_complete, is_everywhere, is_swept }
    }

    /// Changes the topics on all shards. `homes` are the data directories; `on_shard` does a step on a shard.
    /// The answer is `Err(error)` inside if the change is made and stays, and a shard could not do all of it.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn change<E>(
        &self,
        change: impl FnOnce(&mut Catalog) -> Result<(), E>,
        homes: &[Rc<LogDir>],
        shards: usize,
        on_shard: impl AsyncFn(usize, TopicStep, &Arc<TopicChange>) -> Result<(), StorageError>,
    ) -> Result<Result<(), StorageError>, NotChanged<E>> {
        let before = self.catalog.borrow().clone();
        let mut catalog = before.clone();
        change(&mut catalog).map_err(NotChanged::Refused)?;
        if catalog == before {
            return Ok(Ok(()));
        }
        catalog.generation += 1;
        if self.is_swept.get() {
            catalog.deleted.clear();
        }
        let ids: BTreeSet<_> = catalog.topics.iter().map(|topic| topic.id).collect();
        let gone = before.topics.iter().map(|topic| topic.id).filter(|id| !ids.contains(id));
        catalog.deleted.extend(gone);
        catalog.deleted.sort_unstable();
        catalog.deleted.dedup();
        let known: BTreeSet<_> = before.topics.iter().flat_map(Topic::ids).collect();
        let all = catalog.topics.iter().flat_map(Topic::ids);
        let new: BTreeSet<_> = all.filter(|id| !known.contains(id)).collect();
        assert_eq!(catalog.generation, before.generation + 1, "each change is one generation");
        assert!(catalog.deleted.is_sorted(), "as it is searched");
        let is_deleted = |topic: &Topic| catalog.deleted.binary_search(&topic.id).is_ok();
        assert!(!catalog.topics.iter().any(is_deleted), "a topic is there or deleted");
        let change = Arc::new(TopicChange { catalog, new });
        let is_stored = Cell::new(false);
        let made = self.make_and_store(&change, homes, shards, &on_shard, &is_stored).await;
        if let Err(error) = made {
            // Once a copy of the catalog may have been replaced, the next start may know the topics.
            if !change.new.is_empty() && !is_stored.get() {
                for shard in 0..shards {
                    let _ = on_shard(shard, TopicStep::Unmake, &change).await;
                }
            }
            return Err(NotChanged::Disk(error));
        }
        *self.catalog.borrow_mut() = change.catalog.clone();
        self.is_swept.set(false);
        let mut result = Ok(());
        for shard in 0..shards {
            result = on_shard(shard, TopicStep::Adopt, &change).await.and(result);
        }
        let all_there = self.is_complete && homes.iter().all(|home| !home.health().is_offline());
        self.is_swept.set(result.is_ok() && all_there);
        Ok(result)
    }

    async fn make_and_store(
        &self,
        change: &Arc<TopicChange>,
        homes: &[Rc<LogDir>],
        shards: usize,
        on_shard: &impl AsyncFn(usize, TopicStep, &Arc<TopicChange>) -> Result<(), StorageError>,
        is_stored: &Cell<bool>,
    ) -> Result<(), StorageError> {
        if !change.new.is_empty() {
            // A directory with partitions and no catalog is refused. The start could not store it.
            if !self.is_everywhere.get() {
                let before = self.catalog.borrow().clone();
                store_everywhere(&before, homes, &Cell::new(false)).await?;
                self.is_everywhere.set(true);
            }
            for shard in 0..shards {
                on_shard(shard, TopicStep::Make, change).await?;
            }
        }
        store_everywhere(&change.catalog, homes, is_stored).await
    }
}

/// Stores the catalog in all directories in use. One is enough: another that fails holds an older one, and is offline.
/// `is_stored` is set once a copy may have been replaced.
async fn store_everywhere(
    catalog: &Catalog,
    homes: &[Rc<LogDir>],
    is_stored: &Cell<bool>,
) -> Result<(), StorageError> {
    let online: Vec<&Rc<LogDir>> =
        homes.iter().filter(|home| !home.health().is_offline()).collect();
    if online.is_empty() {
        return Err(StorageError::Offline);
    }
    let paths: Vec<&Path> = online.iter().map(|home| home.path()).collect();
    let store = async || catalog.store(&paths).await;
    let mut stored = store().await;
    for home in &online {
        if stored.as_ref().is_err_and(StorageError::is_full) {
            stored = with_reserve(home.reserve(), store).await;
        }
    }
    let failed = stored?;
    is_stored.set(true);
    for (path, error) in &failed {
        let home = online.iter().find(|home| home.path() == path).expect("stored there");
        home.health().set_offline(error);
    }
    match failed.into_iter().next() {
        Some((_, error)) if online.iter().all(|home| home.health().is_offline()) => Err(error),
        _ => Ok(()),
    }
}
