//! The data directories of a node at a start: what each holds, and what they say together.
//!
//! In: paths. Out: the catalog, what the journals know, and where each partition is. A start makes no partition and
//! removes none but those of topics that the catalog knows as deleted: what is found nowhere is refused, what nobody
//! knows is kept.

use crate::StorageError;
use crate::directory::catalog::{Catalog, LoadedCatalog};
use crate::directory::data_dir::DataDir;
use crate::directory::log_dir::remove_partition;
use crate::directory::reserve::{Reserve, with_reserve};
use crate::directory::topic_changes::CatalogStore;
use crate::journal::replay::{Replay, replay_known};
use model::limits::PARTITIONS_PER_TOPIC_MAX;
use model::{BrokerId, TopicPartition};
use runtime::timer;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const TRIES: usize = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Where the log of a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the directory of this number.
    In(usize),
    /// In more than one, each with records.
    InSeveral(Vec<PathBuf>),
}

/// One usable data directory.
pub struct FoundDir {
    /// It, locked.
    pub dir: DataDir,
    /// What its journals know.
    pub replay: Replay,
    /// Its reserve.
    pub reserve: Arc<Reserve>,
}

/// What all shards need to open their logs; directories by number.
#[derive(Default)]
pub struct Recovery {
    /// What the journals of each directory know.
    pub replays: Vec<Replay>,
    /// Where each partition that the catalog knows is.
    pub places: BTreeMap<TopicPartition, Place>,
}

/// What a start found.
pub struct Found {
    /// Usable directories; at least one.
    pub dirs: Vec<FoundDir>,
    /// Those that cannot be used, and why.
    pub failed: Vec<(PathBuf, StorageError)>,
    /// The topics.
    pub catalog: Catalog,
    /// Where each partition that the catalog knows is.
    pub places: BTreeMap<TopicPartition, Place>,
    /// What the operator should read, each a sentence.
    pub warnings: Vec<String>,
    /// Every directory holds the catalog.
    is_stored: bool,
}

impl Found {
    /// The directories, with their reserves; and what their logs are opened with.
    #[must_use]
    pub fn split(self) -> (Vec<(DataDir, Arc<Reserve>)>, Recovery) {
        let (mut dirs, mut replays) = (Vec::new(), Vec::new());
        for FoundDir { dir, replay, reserve } in self.dirs {
            dirs.push((dir, reserve));
            replays.push(replay);
        }
        (dirs, Recovery { replays, places: self.places })
    }

    /// What changes the catalog from here on.
    #[must_use]
    pub fn catalog_store(&self) -> CatalogStore {
        CatalogStore::new(self.catalog.clone(), self.is_complete(), self.is_stored)
    }

    /// Whether all directories that may hold partitions are there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let ids: BTreeSet<_> =
            self.dirs.iter().map(|found| found.dir.superblock().directory_id).collect();
        self.failed.is_empty() && self.catalog.directories.iter().all(|id| ids.contains(id))
    }
}

/// Locks and reads the directories, and puts in order what the last process left half done.
///
/// # Errors
/// None of them can be used, or one belongs elsewhere; the text says what to do.
pub async fn find(paths: &[PathBuf], node_id: BrokerId) -> Result<Found, StorageError> {
    let (opened, mut failed) = DataDir::open_all(paths, node_id).await?;
    let mut dirs: Vec<FoundDir> = Vec::new();
    let mut listed: Vec<Vec<TopicPartition>> = Vec::new();
    for dir in opened {
        let read = async || {
            let partitions = dir.partitions()?;
            Ok::<_, StorageError>((
                replay_known(dir.path(), &dir.superblock().journals).await?,
                partitions,
            ))
        };
        match patiently(read).await {
            Ok((mut replay, partitions)) => {
                replay.was_cut_short = !dir.was_clean();
                let reserve = Arc::new(Reserve::of(dir.path()));
                dirs.push(FoundDir { dir, replay, reserve });
                listed.push(partitions);
            }
            Err(error) => failed.push((dir.path().to_owned(), error)),
        }
    }
    let LoadedCatalog { mut catalog, damaged, renamed, mut is_behind } =
        load_catalog(&mut dirs, &mut listed, &mut failed).await?;
    let mut warnings = Vec::new();
    for path in damaged {
        warnings.push(format!(
            "{}: this copy of the catalog is damaged; another one counts",
            path.display()
        ));
    }
    for (old, new) in renamed {
        warnings.push(format!(
            "two topics are called {old}: directories that were not there at the same time each got one; the one of \
             the older catalog is called {new} from now on"
        ));
    }
    let (none, places) = (Catalog::default(), BTreeMap::new());
    let mut found = Found { dirs, failed, catalog: none, places, warnings, is_stored: true };
    is_behind |= found.place_partitions(&mut catalog, &listed).await;
    let ids: Vec<_> = found.dirs.iter().map(|found| found.dir.superblock().directory_id).collect();
    let missing = catalog.directories.iter().filter(|id| !ids.contains(id)).count();
    if missing > 0 {
        found.warnings.push(format!(
            "{missing} of the directories that may hold partitions are not there; partitions that are found nowhere \
             are refused"
        ));
    }
    let new: Vec<_> = ids.iter().filter(|id| !catalog.directories.contains(id)).copied().collect();
    is_behind |= !new.is_empty();
    catalog.directories.extend(new);
    if missing == 0 && found.failed.is_empty() && !catalog.deleted.is_empty() && !is_behind {
        // Nothing of them is left anywhere, and no copy names them: one that is behind could bring them back if the
        // store below is cut short.
        catalog.deleted.clear();
        is_behind = true;
    }
    if is_behind {
        catalog.generation += 1;
        found.store(&catalog).await?;
    }
    found.catalog = catalog;
    Ok(found)
}

/// Tries again, a few times, what failed for want of files or memory: that is no directory's fault.
async fn patiently<T>(work: impl AsyncFn() -> Result<T, StorageError>) -> Result<T, StorageError> {
    for _ in 1..TRIES {
        match work().await {
            Err(error) if error.is_passing() => timer::sleep(BETWEEN_TRIES).await,
            other => return other,
        }
    }
    work().await
}

/// The catalog of all directories; one whose copies cannot be read is not used.
async fn load_catalog(
    dirs: &mut Vec<FoundDir>,
    listed: &mut Vec<Vec<TopicPartition>>,
    failed: &mut Vec<(PathBuf, StorageError)>,
) -> Result<LoadedCatalog, StorageError> {
    let mut at = 0;
    while at < dirs.len() {
        let load = async || Catalog::load_all(&[dirs[at].dir.path()]).await;
        match patiently(load).await {
            Err(error) if !matches!(error, StorageError::Corrupt { .. }) => {
                failed.push((dirs.remove(at).dir.path().to_owned(), error));
                listed.remove(at);
            }
            _ => at += 1,
        }
    }
    if dirs.is_empty() {
        return Err(failed.first().expect("there is at least one directory").1.clone());
    }
    let paths: Vec<&Path> = dirs.iter().map(|found| found.dir.path()).collect();
    let loaded = Catalog::load_all(&paths).await?;
    if loaded.catalog.generation == 0 && listed.iter().any(|partitions| !partitions.is_empty()) {
        return Err(StorageError::Unusable(format!(
            "{}: holds partitions, but no copy of the catalog says of which topics; restore \
             catalog.0 from a backup",
            paths[0].display()
        )));
    }
    Ok(loaded)
}

/// Removes a partition's empty directory: it was made for a topic that never was.
fn remove_unused(data_dir: &Path, id: TopicPartition, is_complete: bool) {
    if is_complete {
        let _ = runtime::fs::remove_dir(&data_dir.join("partitions").join(id.to_string()));
    }
}

impl Found {
    /// Finds out where each partition is. True if the catalog was changed: it was behind.
    async fn place_partitions(
        &mut self,
        catalog: &mut Catalog,
        listed: &[Vec<TopicPartition>],
    ) -> bool {
        // While a directory is missing, its catalog may know what nobody else does.
        let ids: BTreeSet<_> =
            self.dirs.iter().map(|found| found.dir.superblock().directory_id).collect();
        let is_complete =
            self.failed.is_empty() && catalog.directories.iter().all(|id| ids.contains(id));
        let mut topics: BTreeMap<_, _> =
            catalog.topics.iter_mut().map(|topic| (topic.id, topic)).collect();
        let mut grew = false;
        let mut unknown: BTreeMap<_, usize> = BTreeMap::new();
        for (number, partitions) in listed.iter().enumerate() {
            let path = self.dirs[number].dir.path().to_owned();
            for &id in partitions {
                let is_empty = || self.dirs[number].dir.is_empty(id).unwrap_or(false);
                if catalog.deleted.binary_search(&id.topic_id).is_ok() {
                    match remove_partition(&path, id).await {
                        Ok(()) => self.warnings.push(format!(
                            "{}: removed {id}: its topic was deleted",
                            path.display()
                        )),
                        Err(error) => self.warnings.push(format!("{id} is not removed: {error}")),
                    }
                    continue;
                }
                let topic = topics.get_mut(&id.topic_id);
                let may_be = (0..PARTITIONS_PER_TOPIC_MAX).contains(&id.partition.0);
                let Some(topic) = topic.filter(|_| may_be) else {
                    if is_empty() {
                        remove_unused(&path, id, is_complete);
                    } else {
                        *unknown.entry((number, id.topic_id)).or_default() += 1;
                    }
                    continue;
                };
                if id.partition.0 >= topic.partitions {
                    if is_empty() {
                        remove_unused(&path, id, is_complete);
                        continue;
                    }
                    topic.partitions = id.partition.0 + 1;
                    grew = true;
                    self.warnings.push(format!(
                        "{}: holds records of partition {} of {}, which the catalog did not know; it has {} \
                         partitions again",
                        path.display(), id.partition, topic.name, topic.partitions
                    ));
                }
                let place = match self.places.remove(&id) {
                    None => Place::In(number),
                    Some(known) => self.also_in(id, known, number),
                };
                self.places.insert(id, place);
            }
        }
        for ((number, topic), count) in unknown {
            self.warnings.push(format!(
                "{}: holds {count} partitions of topic id {topic}, which no copy of the catalog knows: they are kept \
                 and not served; restore the catalog that knows it, or remove their directories",
                self.dirs[number].dir.path().display()
            ));
        }
        grew
    }

    /// Where a partition is that was found once more: an empty directory is none.
    fn also_in(&self, id: TopicPartition, known: Place, number: usize) -> Place {
        let path = |number: usize| self.dirs[number].dir.path().to_owned();
        let is_empty = |number: usize| self.dirs[number].dir.is_empty(id);
        match known {
            Place::In(other) => match (is_empty(number).unwrap_or(false), is_empty(other)) {
                (true, _) => Place::In(other),
                (false, Ok(true)) => Place::In(number),
                (false, _) => Place::InSeveral(vec![path(other), path(number)]),
            },
            Place::InSeveral(mut places) => {
                places.push(path(number));
                Place::InSeveral(places)
            }
        }
    }

    /// Stores the catalog everywhere. On a full disk the next change does.
    async fn store(&mut self, catalog: &Catalog) -> Result<(), StorageError> {
        let store = async || {
            let paths: Vec<&Path> = self.dirs.iter().map(|found| found.dir.path()).collect();
            catalog.store(&paths).await
        };
        let mut stored = store().await;
        for found in &self.dirs {
            if stored.as_ref().is_err_and(StorageError::is_full) {
                stored = with_reserve(&found.reserve, store).await;
            }
        }
        self.is_stored = stored.is_ok();
        match stored {
            Ok(failed) => {
                self.failed.extend(failed.iter().cloned());
                let mut kept = Vec::new();
                let mut numbers = Vec::new();
                for (number, found) in std::mem::take(&mut self.dirs).into_iter().enumerate() {
                    if failed.iter().all(|(path, _)| path != found.dir.path()) {
                        numbers.push(number);
                        kept.push(found);
                    }
                }
                self.dirs = kept;
                // Partitions of a directory that has just failed are found nowhere any more.
                let place = |place: Place| match place {
                    Place::In(number) => {
                        numbers.iter().position(|kept| *kept == number).map(Place::In)
                    }
                    several @ Place::InSeveral(_) => Some(several),
                };
                let places = std::mem::take(&mut self.places).into_iter();
                self.places = places.filter_map(|(id, at)| Some((id, place(at)?))).collect();
                match self.dirs.is_empty() {
                    true => Err(failed.into_iter().next().expect("one at least failed").1),
                    false => Ok(()),
                }
            }
            Err(error) if error.is_passing() => {
                self.warnings.push(format!("the catalog is not stored anew: {error}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
