//! The topics of a directory: ids, names, partition counts and settings.

use crate::StorageError;
use model::{Topic, TopicId, TopicName, crc32c};
use runtime::fs;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"WEIRCATL";
const VERSION: u32 = 3;
/// The oldest that is read: version 3 added deleted topics.
const VERSION_MIN: u32 = 2;
/// Copies in each directory.
const COPIES: usize = 2;

/// All topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Grows with each change; 0: there never was one.
    pub generation: u64,
    /// Every data directory that may hold partitions, by its id.
    pub directories: Vec<TopicId>,
    /// By creation.
    pub topics: Vec<Topic>,
    /// Topics that were deleted, and that a directory may still hold: only what is named here is removed at a start.
    pub deleted: Vec<TopicId>,
}

/// What the copies in some directories say together.
#[derive(Debug, Default)]
pub struct LoadedCatalog {
    /// The topics of all of them, but for those that one of them knows as deleted.
    pub catalog: Catalog,
    /// Copies that fail their checksum.
    pub damaged: Vec<PathBuf>,
    /// Topics that got another name, because another topic has theirs: the old name and the new one.
    pub renamed: Vec<(TopicName, TopicName)>,
    /// Directories whose copies say something else, in whole or in part.
    pub is_behind: bool,
}

impl Catalog {
    /// What these directories say together; none at all is an empty catalog.
    ///
    /// # Errors
    /// As `load_all`.
    pub async fn load(directories: &[&Path]) -> Result<Self, StorageError> {
        Ok(Self::load_all(directories).await?.catalog)
    }

    /// The same, with what else was found.
    ///
    /// # Errors
    /// Unreadable, or copies exist and all are damaged.
    pub async fn load_all(directories: &[&Path]) -> Result<LoadedCatalog, StorageError> {
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        let mut missing = 0;
        for directory in directories {
            let mut newest: Option<Self> = None;
            for copy in Self::paths(&[directory]) {
                match fs::read(&copy).await {
                    Ok(bytes) => match Self::decode(&bytes) {
                        Some(read) => {
                            let is_newer = |known: &Self| read.generation > known.generation;
                            if newest.as_ref().is_none_or(is_newer) {
                                newest = Some(read);
                            }
                        }
                        None => damaged.push(copy),
                    },
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing += 1,
                    Err(error) => return Err(StorageError::of(&copy, "read", &error)),
                }
            }
            found.extend(newest);
        }
        if found.is_empty()
            && let Some(path) = damaged.first()
        {
            return Err(StorageError::Corrupt {
                path: path.clone(),
                position: 0,
                what: "every copy of the catalog of topics fails its checksum; restore one from a \
                       backup",
            });
        }
        let mut loaded = Self::merged(found);
        loaded.is_behind |= !damaged.is_empty() || missing > 0;
        loaded.damaged = damaged;
        Ok(loaded)
    }

    /// Directories that were there at different times may each know topics that the others do not: all count, but
    /// those that one knows as deleted.
    fn merged(mut found: Vec<Self>) -> LoadedCatalog {
        found.sort_by_key(|catalog| std::cmp::Reverse(catalog.generation));
        let mut rest = found.into_iter();
        let Some(mut catalog) = rest.next() else { return LoadedCatalog::default() };
        let first = catalog.clone();
        let (mut renamed, mut is_behind) = (Vec::new(), false);
        let older: Vec<Self> = rest.collect();
        for other in &older {
            is_behind |= *other != first;
            let deleted = other.deleted.iter().filter(|id| !first.deleted.contains(id));
            catalog.deleted.extend(deleted);
            let directories = other.directories.iter().filter(|id| !first.directories.contains(id));
            catalog.directories.extend(directories);
        }
        catalog.deleted.sort_unstable();
        catalog.deleted.dedup();
        catalog.directories.dedup();
        let mut at: BTreeMap<TopicId, usize> =
            catalog.topics.iter().enumerate().map(|(at, topic)| (topic.id, at)).collect();
        let mut names: BTreeSet<TopicName> =
            catalog.topics.iter().map(|topic| topic.name.clone()).collect();
        for topic in older.into_iter().flat_map(|other| other.topics) {
            if let Some(at) = at.get(&topic.id) {
                let known = &mut catalog.topics[*at];
                known.partitions = known.partitions.max(topic.partitions);
                continue;
            }
            if catalog.deleted.binary_search(&topic.id).is_ok() {
                continue;
            }
            let mut topic = topic;
            if names.contains(&topic.name) {
                let name = format!("{:.200}.{}", topic.name, &topic.id.to_string()[..8]);
                let Some(name) = TopicName::new(&name) else {
                    unreachable!("a valid name stays one: {name}")
                };
                renamed.push((topic.name.clone(), name.clone()));
                topic.name = name;
            }
            names.insert(topic.name.clone());
            at.insert(topic.id, catalog.topics.len());
            catalog.topics.push(topic);
        }
        assert!(catalog.deleted.is_sorted(), "as it is searched");
        let deleted = std::mem::take(&mut catalog.deleted);
        catalog.topics.retain(|topic| deleted.binary_search(&topic.id).is_err());
        catalog.deleted = deleted;
        let ids: BTreeSet<TopicId> = catalog.topics.iter().map(|topic| topic.id).collect();
        assert_eq!(ids.len(), catalog.topics.len(), "each topic once");
        assert!(names.len() >= ids.len(), "each under a name of its own");
        LoadedCatalog { catalog, damaged: Vec::new(), renamed, is_behind }
    }

    fn paths(directories: &[&Path]) -> Vec<PathBuf> {
        let copies = |dir: &&Path| -> Vec<PathBuf> {
            (0..COPIES).map(|copy| dir.join(format!("catalog.{copy}"))).collect()
        };
        directories.iter().flat_map(copies).collect()
    }

    /// Replaces the copies in these directories, durably. Nothing is changed anywhere if there is no space for one of
    /// them, or if what is to be stored could not be read back. Directories that fail otherwise come back with why.
    ///
    /// # Errors
    /// `Full`, or `Unusable`: a name or a value is too long.
    pub async fn store(
        &self,
        directories: &[&Path],
    ) -> Result<Vec<(PathBuf, StorageError)>, StorageError> {
        let too_long = || {
            StorageError::Unusable(
                "a topic's name or the value of a setting is too long: 65,535 bytes at most".into(),
            )
        };
        let bytes = self.encode().ok_or_else(too_long)?;
        if Self::decode(&bytes).as_ref() != Some(self) {
            return Err(too_long());
        }
        let paths = Self::paths(directories);
        let failed = fs::replace_all(&paths, &bytes).await;
        let failed = failed.map_err(|error| StorageError::of(&paths[0], "replace", &error))?;
        let mut by_directory: Vec<(PathBuf, StorageError)> = Vec::new();
        for (path, error) in failed {
            let directory = path.parent().unwrap_or(Path::new("."));
            if !by_directory.iter().any(|(known, _)| known == directory) {
                let error = StorageError::of(&path, "replace", &error);
                by_directory.push((directory.to_owned(), error));
            }
        }
        Ok(by_directory)
    }

    /// `None` if a text is too long.
    fn encode(&self) -> Option<Vec<u8>> {
        let mut out = MAGIC.to_vec();
        let put = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
            out.extend_from_slice(text.as_bytes());
            Some(())
        };
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&(self.directories.len() as u32).to_be_bytes());
        self.directories.iter().for_each(|id| out.extend_from_slice(&id.0));
        out.extend_from_slice(&(self.topics.len() as u32).to_be_bytes());
        for topic in &self.topics {
            out.extend_from_slice(&topic.id.0);
            put(&mut out, &topic.name)?;
            out.extend_from_slice(&topic.partitions.to_be_bytes());
            out.extend_from_slice(&(topic.settings.len() as u32).to_be_bytes());
            for (name, value) in &topic.settings {
                put(&mut out, name)?;
                put(&mut out, value)?;
            }
        }
        out.extend_from_slice(&(self.deleted.len() as u32).to_be_bytes());
        self.deleted.iter().for_each(|id| out.extend_from_slice(&id.0));
        let crc = crc32c::checksum(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        Some(out)
    }

    /// Reads a copy's bytes; any bytes are allowed.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
            let (taken, tail) = rest.split_at_checked(len)?;
            *rest = tail;
            Some(taken)
        }
        fn number(rest: &mut &[u8]) -> Option<u32> {
            Some(u32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
        }
        fn text(rest: &mut &[u8]) -> Option<String> {
            let len = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
            String::from_utf8(take(rest, usize::from(len))?.to_vec()).ok()
        }
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if u32::from_be_bytes(*crc) != crc32c::checksum(body) {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC)?;
        let version = number(&mut rest)?;
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return None;
        }
        let generation = u64::from_be_bytes(take(&mut rest, 8)?.try_into().ok()?);
        let mut directories = Vec::new();
        for _ in 0..number(&mut rest)? {
            directories.push(TopicId(take(&mut rest, 16)?.try_into().ok()?));
        }
        let mut topics = Vec::new();
        for _ in 0..number(&mut rest)? {
            let id = TopicId(take(&mut rest, 16)?.try_into().ok()?);
            let name = TopicName::new(&text(&mut rest)?)?;
            let partitions = i32::try_from(number(&mut rest)?).ok()?;
            let mut settings = BTreeMap::new();
            for _ in 0..number(&mut rest)? {
                settings.insert(text(&mut rest)?, text(&mut rest)?);
            }
            topics.push(Topic { id, name, partitions, settings });
        }
        let mut deleted = Vec::new();
        for _ in 0..if version < 3 { 0 } else { number(&mut rest)? } {
            deleted.push(TopicId(take(&mut rest, 16)?.try_into().ok()?));
        }
        // Whoever wrote it: a topic is there once, under a name of its own.
        let ids: BTreeSet<TopicId> = topics.iter().map(|topic: &Topic| topic.id).collect();
        let names: BTreeSet<&TopicName> = topics.iter().map(|topic| &topic.name).collect();
        let are_once = ids.len() == topics.len() && names.len() == topics.len();
        (rest.is_empty() && are_once).then_some(Self { generation, directories, topics, deleted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_round_trips_and_damage_is_noticed() {
        let topic = |n: u8| Topic {
            id: TopicId::from_random([n; 16]),
            name: TopicName::new(&format!("topic-{n}")).unwrap(),
            partitions: i32::from(n),
            settings: BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]),
        };
        let (generation, directories) = (9, vec![TopicId([3; 16])]);
        let (topics, deleted) = ((1..5).map(topic).collect(), vec![TopicId([4; 16])]);
        let catalog = Catalog { generation, directories, topics, deleted };
        let bytes = catalog.encode().unwrap();
        assert_eq!(Catalog::decode(&bytes).as_ref(), Some(&catalog));
        let mut twice = catalog.clone();
        twice.topics.push(topic(1));
        assert_eq!(Catalog::decode(&twice.encode().unwrap()), None, "a topic is there once");
        let mut long = catalog;
        long.topics[0].settings.insert("retention.ms".into(), "0".repeat(65_536));
        assert!(long.encode().is_none(), "a value that would be cut is not stored");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Catalog::decode(&damaged), None, "byte {at}");
        }
    }
    #[test]
    fn copies_that_know_different_topics_count_together() {
        let topic = |n: u8, name: &str, partitions| Topic {
            id: TopicId([n; 16]),
            name: TopicName::new(name).unwrap(),
            partitions,
            settings: BTreeMap::new(),
        };
        let catalog = |generation, topics: &[Topic], deleted: &[u8]| Catalog {
            generation,
            directories: vec![TopicId([generation as u8; 16])],
            topics: topics.to_vec(),
            deleted: deleted.iter().map(|n| TopicId([*n; 16])).collect(),
        };
        let a = catalog(3, &[topic(1, "t", 4), topic(2, "x", 1), topic(5, "gone", 1)], &[]);
        let b = catalog(6, &[topic(1, "t", 2), topic(3, "x", 1), topic(4, "y", 1)], &[5]);
        let loaded = Catalog::merged(vec![a, b.clone()]);
        let names: Vec<_> = loaded.catalog.topics.iter().map(|t| (t.id.0[0], &*t.name)).collect();
        let renamed = &*loaded.renamed[0].1;
        assert_eq!(names, [(1, "t"), (3, "x"), (4, "y"), (2, renamed)]);
        assert!(renamed.starts_with("x.") && loaded.is_behind);
        assert_eq!(loaded.catalog.topics[0].partitions, 4);
        assert_eq!(loaded.catalog.directories.len(), 2);
        assert!(!Catalog::merged(vec![b.clone(), b]).is_behind);
    }
}
