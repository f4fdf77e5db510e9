//! The topics of a directory: ids, names, partition counts and settings.

use crate::StorageError;
use model::{TopicId, crc32c};
use runtime::fs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"WEIRCATL";
const VERSION: u32 = 2;
/// Copies in each directory.
const COPIES: usize = 2;

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogTopic {
    /// Its id, never reused.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// Settings that differ from the broker's, by Kafka's names.
    pub settings: BTreeMap<String, String>,
}

/// All topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Grows with each change; 0: there never was one.
    pub generation: u64,
    /// Every data directory that may hold partitions, by its id.
    pub directories: Vec<TopicId>,
    /// By creation.
    pub topics: Vec<CatalogTopic>,
}

impl Catalog {
    /// Reads the newest good copy in these directories; none at all is an empty catalog.
    ///
    /// # Errors
    /// Unreadable, or copies exist and all are damaged.
    pub async fn load(directories: &[&Path]) -> Result<Self, StorageError> {
        let (mut newest, mut damaged) = (Self::default(), None);
        for copy in Self::paths(directories) {
            match fs::read(&copy).await {
                Ok(bytes) => match Self::decode(&bytes) {
                    Some(read) if read.generation > newest.generation => newest = read,
                    Some(_) => {}
                    None => damaged = Some(copy),
                },
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StorageError::of(&copy, "read", &error)),
            }
        }
        match damaged {
            Some(path) if newest.generation == 0 => Err(StorageError::Corrupt {
                path,
                position: 0,
                what: "every copy of the catalog of topics fails its checksum; restore one from a \
                       backup",
            }),
            _ => Ok(newest),
        }
    }

    fn paths(directories: &[&Path]) -> Vec<PathBuf> {
        let copies = |dir: &&Path| -> Vec<PathBuf> {
            (0..COPIES).map(|copy| dir.join(format!("catalog.{copy}"))).collect()
        };
        directories.iter().flat_map(copies).collect()
    }

    /// Replaces both copies in a directory, durably, one after the other.
    ///
    /// # Errors
    /// The disk's.
    pub async fn store(&self, directory: &Path) -> Result<(), StorageError> {
        let bytes = self.encode();
        for path in Self::paths(&[directory]) {
            let stored = fs::replace(&path, &bytes).await;
            stored.map_err(|error| StorageError::of(&path, "replace", &error))?;
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let put = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(&(text.len() as u16).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&(self.directories.len() as u32).to_be_bytes());
        self.directories.iter().for_each(|id| out.extend_from_slice(&id.0));
        out.extend_from_slice(&(self.topics.len() as u32).to_be_bytes());
        for topic in &self.topics {
            out.extend_from_slice(&topic.id.0);
            put(&mut out, &topic.name);
            out.extend_from_slice(&topic.partitions.to_be_bytes());
            out.extend_from_slice(&(topic.settings.len() as u32).to_be_bytes());
            for (name, value) in &topic.settings {
                put(&mut out, name);
                put(&mut out, value);
            }
        }
        let crc = crc32c::checksum(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
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
        if number(&mut rest)? != VERSION {
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
            let name = text(&mut rest)?;
            let partitions = i32::try_from(number(&mut rest)?).ok()?;
            let mut settings = BTreeMap::new();
            for _ in 0..number(&mut rest)? {
                settings.insert(text(&mut rest)?, text(&mut rest)?);
            }
            topics.push(CatalogTopic { id, name, partitions, settings });
        }
        rest.is_empty().then_some(Self { generation, directories, topics })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_round_trips_and_damage_is_noticed() {
        let topic = |n: u8| CatalogTopic {
            id: TopicId::from_random([n; 16]),
            name: format!("topic-{n}"),
            partitions: i32::from(n),
            settings: BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]),
        };
        let (generation, directories) = (9, vec![TopicId([3; 16])]);
        let catalog = Catalog { generation, directories, topics: (1..5).map(topic).collect() };
        let bytes = catalog.encode();
        assert_eq!(Catalog::decode(&bytes), Some(catalog));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Catalog::decode(&damaged), None, "byte {at}");
        }
    }
}
