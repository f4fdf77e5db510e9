//! A data directory: whose it is, whether it was left clean, and its lock.

use crate::StorageError;
use crate::directory::reserve::{Reserve, with_reserve};
use crate::journal::known::{KnownJournal, KnownJournals};
use model::{BrokerId, LeaderEpoch, TopicId, TopicPartition, crc32c};
use runtime::file::{File, OpenOptions};
use runtime::{fs, random};
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"WEIRSUPR";
/// The on-disk format this program writes.
pub const FORMAT_VERSION: u32 = 5;
/// The oldest that it reads: version 3 added compacted segments, `producers` and `cleaned`; version 4 a superblock
/// that is written in place and knows the journals, `start` and deleted topics in the catalog; version 5 cuts of logs in
/// the journal.
const FORMAT_VERSION_MIN: u32 = 2;
/// Of versions 2 and 3, without the checksum.
const FIXED_BYTES: usize = 61;
const BLOCK_BYTES: usize = model::limits::DISK_BLOCK_BYTES;
const KNOWN_JOURNAL_BYTES: usize = 20;

/// What a directory knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The on-disk format of the program that wrote it.
    pub format_version: u32,
    /// Counts writes of it.
    pub generation: u64,
    /// The cluster it belongs to.
    pub cluster_id: TopicId,
    /// The node it belongs to.
    pub node_id: BrokerId,
    /// This directory.
    pub directory_id: TopicId,
    /// Counts starts: the leader epoch of everything appended since the last one.
    pub incarnation: u32,
    /// Whether the last stop was clean.
    pub clean: bool,
    /// Journals that must be there.
    pub journals: KnownJournals,
}

/// An open, locked data directory.
pub struct DataDir {
    path: PathBuf,
    superblock: Superblock,
    was_clean: bool,
    is_new: bool,
    _lock: File,
}

impl DataDir {
    /// Opens or makes one directory; see `open_all`.
    ///
    /// # Errors
    /// As `open_all`.
    pub async fn open(path: &Path, node_id: BrokerId) -> Result<Self, StorageError> {
        let (mut opened, mut failed) = Self::open_all(&[path.to_owned()], node_id).await?;
        opened.pop().ok_or_else(|| failed.pop().expect("one or the other").1)
    }

    /// Opens or makes the directories of a node, locks them, and durably notes in each that it is in
    /// use, with an incarnation above that of all. Those whose disk fails come back apart.
    ///
    /// # Errors
    /// One is in use by another process, belongs to another node or cluster, or is of another format
    /// version; the text says what to do.
    pub async fn open_all(
        paths: &[PathBuf],
        node_id: BrokerId,
    ) -> Result<(Vec<Self>, Vec<(PathBuf, StorageError)>), StorageError> {
        for path in paths {
            if let Some(name) = Self::foreign_file(path) {
                return Err(StorageError::Unusable(format!(
                    "{}: is no data directory of Weir, and not empty: it holds {name:?}; choose an empty directory \
                     for --log.dirs, or one that is not there yet",
                    path.display()
                )));
            }
        }
        let (mut locked, mut failed) = (Vec::new(), Vec::new());
        for path in paths {
            match Self::lock(path, node_id).await {
                Ok(opened) => locked.push((path, opened)),
                Err(error @ StorageError::Unusable(_)) => return Err(error),
                Err(error) => failed.push((path.clone(), error)),
            }
        }
        let known = || locked.iter().filter_map(|(_, (_, stored, _))| stored.as_ref());
        let cluster_id = known().next().map_or_else(random_id, |superblock| superblock.cluster_id);
        if let Some((path, _)) = locked.iter().find(|(_, (_, stored, _))| {
            stored.as_ref().is_some_and(|stored| stored.cluster_id != cluster_id)
        }) {
            return Err(StorageError::Unusable(format!(
                "{}: belongs to another cluster than the first directory; list only directories of one cluster in log.dirs",
                path.display()
            )));
        }
        let incarnation = known().map(|superblock| superblock.incarnation).max().unwrap_or(0) + 1;
        let mut opened = Vec::new();
        for (path, (lock, stored, is_damaged)) in locked {
            let is_upgrade =
                stored.as_ref().is_some_and(|stored| stored.format_version < FORMAT_VERSION);
            let was_clean = stored.as_ref().is_some_and(|stored| stored.clean);
            let is_new = stored.is_none();
            let superblock = Superblock {
                format_version: FORMAT_VERSION,
                generation: stored.as_ref().map_or(0, |stored| stored.generation),
                cluster_id,
                node_id,
                directory_id: stored.as_ref().map_or_else(random_id, |stored| stored.directory_id),
                incarnation,
                clean: false,
                journals: stored.map(|stored| stored.journals).unwrap_or_default(),
            };
            let mut dir = Self { path: path.clone(), superblock, was_clean, is_new, _lock: lock };
            match dir.begin(is_damaged || is_upgrade || is_new).await {
                Ok(()) => opened.push(dir),
                Err(error) => failed.push((path.clone(), error)),
            }
        }
        assert_eq!(opened.len() + failed.len(), paths.len(), "each is opened or has failed");
        assert!(opened.iter().all(|dir| dir.superblock.incarnation == incarnation), "one start");
        Ok((opened, failed))
    }

    /// Locks a directory that exists, without noting a start: for tools.
    ///
    /// # Errors
    /// In use, unreadable, or no data directory.
    pub async fn hold(path: &Path) -> Result<(File, Superblock), StorageError> {
        let unusable = |why: String| StorageError::Unusable(format!("{}: {why}", path.display()));
        let (Some(superblock), _) = Self::read_superblock(path).await? else {
            return Err(unusable("is no Weir data directory: it has no superblock".into()));
        };
        let options = OpenOptions { create: true, write: true, direct: false };
        let lock = File::open(&path.join("lock"), options);
        let lock = lock.map_err(|error| StorageError::of(path, "open", &error))?;
        if !lock.try_lock().map_err(|error| StorageError::of(path, "lock", &error))? {
            return Err(unusable("in use by a running broker; stop it first".into()));
        }
        Ok((lock, superblock))
    }

    /// Notes, in a directory that is held, that a repair left these journals alone.
    ///
    /// # Errors
    /// The disk's.
    pub async fn note_repaired(
        path: &Path,
        journals: Vec<KnownJournal>,
    ) -> Result<(), StorageError> {
        let (Some(mut superblock), _) = Self::read_superblock(path).await? else { return Ok(()) };
        superblock.journals = KnownJournals { start: superblock.incarnation, journals };
        // The journal was written as this program does it: older ones are not to read it.
        superblock.format_version = FORMAT_VERSION;
        for _ in 0..2 {
            Self::store_superblock(path, &mut superblock).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, both_copies: bool) -> Result<(), StorageError> {
        self.write_superblock().await?;
        if both_copies {
            // Both copies know this start: they never differ by more than one, nor in their format, so
            // that an older program finds none that it would take.
            self.write_superblock().await?;
        }
        // At every start: a crash may have come between making these names and making them last.
        let path = self.path.clone();
        for made in [Some(&*path), path.parent().filter(|p| !p.as_os_str().is_empty())] {
            let Some(made) = made else { continue };
            fs::sync_dir(made).await.map_err(|error| StorageError::of(made, "sync", &error))?;
        }
        Ok(())
    }

    async fn lock(
        path: &Path,
        node_id: BrokerId,
    ) -> Result<(File, Option<Superblock>, bool), StorageError> {
        let unusable = |why: String| StorageError::Unusable(format!("{}: {why}", path.display()));
        let refused = |error: &io::Error, why: &str| {
            match error.raw_os_error() {
            // EIO and a read-only file system are the disk's; the rest is the operator's.
            Some(5 | 30) => StorageError::of(path, "open", error),
            _ if error.kind() == io::ErrorKind::AlreadyExists => unusable(
                "is there and is no directory (a file, or a link that leads nowhere); choose another --log.dirs or \
                 remove it"
                    .to_owned(),
            ),
            _ => unusable(format!(
                "cannot be {why}: {error}; choose another --log.dirs or fix its owner and mode"
            )),
        }
        };
        let partitions = path.join("partitions");
        fs::create_dir_all(&partitions).map_err(|error| refused(&error, "made"))?;
        let options = OpenOptions { create: true, write: true, direct: false };
        let lock = File::open(&path.join("lock"), options);
        let lock = lock.map_err(|error| refused(&error, "written"))?;
        if !lock.try_lock().map_err(|error| StorageError::of(path, "lock", &error))? {
            return Err(unusable(
                "in use by another running broker; stop that one, or choose another --log.dirs"
                    .into(),
            ));
        }
        let (stored, is_damaged) = Self::read_superblock(path).await?;
        if stored.is_none() {
            Self::check_new(path)?;
        }
        match &stored {
            Some(stored) if stored.node_id != node_id => Err(unusable(format!(
                "belongs to node {}, and this is node {node_id}; start with --node.id {0} or choose another --log.dirs",
                stored.node_id
            ))),
            _ => Ok((lock, stored, is_damaged)),
        }
    }

    /// Something in a directory that was never ours: another program's data, which is not to be mixed with ours. What
    /// cannot be listed is told of when it is opened.
    fn foreign_file(path: &Path) -> Option<String> {
        let names = fs::list(path).ok()?;
        let is_ours = |name: &str| {
            let own = ["partitions", "journal", "deleted", "quarantine", "lock"];
            own.contains(&name)
                || ["superblock.", "catalog.", "reserve"].iter().any(|own| name.starts_with(own))
        };
        if names.iter().any(|name| name.starts_with("superblock.")) {
            return None;
        }
        // A file system's own directory, and hidden files, are nobody's data.
        let is_nothing = |name: &str| name == "lost+found" || name.starts_with('.');
        names.into_iter().find(|name| !is_ours(name) && !is_nothing(name))
    }

    /// A directory without a superblock is new only if nothing else is in it either.
    fn check_new(path: &Path) -> Result<(), StorageError> {
        let partitions = path.join("partitions");
        for dir in [&partitions, &path.join("journal")] {
            let names = match fs::list(dir) {
                Ok(names) => names,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StorageError::of(dir, "list", &error)),
            };
            if !names.is_empty() {
                return Err(StorageError::Corrupt {
                    path: path.join("superblock.0"),
                    position: 0,
                    what: "both copies of the superblock are missing, and the directory holds partitions or journals; \
                           restore one of them from a backup",
                });
            }
        }
        Ok(())
    }

    /// The newest good copy, and whether the other one is damaged or missing.
    async fn read_superblock(path: &Path) -> Result<(Option<Superblock>, bool), StorageError> {
        let (mut best, mut damaged): (Option<Superblock>, _) = (None, None);
        let mut is_missing = false;
        for copy in 0..2 {
            let file = path.join(format!("superblock.{copy}"));
            match fs::read(&file).await {
                Ok(bytes) => match Superblock::decode(&bytes) {
                    Ok(read) if best.as_ref().is_none_or(|b| b.generation < read.generation) => {
                        best = Some(read);
                    }
                    Ok(_) => {}
                    Err(why) if Superblock::is_newer(&bytes) => {
                        return Err(StorageError::Unusable(format!("{}: {why}", file.display())));
                    }
                    Err(why) => {
                        let is_other = Superblock::is_whole(&bytes);
                        damaged = Some((file, why, is_other));
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => is_missing = true,
                Err(error) => return Err(StorageError::of(&file, "read", &error)),
            }
        }
        match (best, damaged) {
            // Of another version, or no directory of ours at all: someone has to look. Rot is this directory's alone.
            (None, Some((file, why, is_other))) if is_other || Self::check_new(path).is_ok() => {
                Err(StorageError::Unusable(format!("{}: {why}", file.display())))
            }
            (None, Some((path, ..))) => Err(StorageError::Corrupt {
                path,
                position: 0,
                what: "the superblock is damaged and its other copy is missing or damaged too; restore one of them \
                       from a backup",
            }),
            (Some(mut best), damaged) if damaged.is_some() || is_missing => {
                // The other copy may have been the newer one, of one start more. It is written next.
                best.incarnation += 1;
                best.generation += 2;
                best.clean = false;
                Ok((Some(best), true))
            }
            (best, _) => Ok((best, false)),
        }
    }

    async fn write_superblock(&mut self) -> Result<(), StorageError> {
        Self::store_superblock(&self.path, &mut self.superblock).await
    }

    async fn store_superblock(
        path: &Path,
        superblock: &mut Superblock,
    ) -> Result<(), StorageError> {
        superblock.generation += 1;
        assert_eq!(superblock.format_version, FORMAT_VERSION, "what is written is of this version");
        let file = path.join(format!("superblock.{}", superblock.generation % 2));
        let bytes = superblock.encode();
        let found = File::open(&file, OpenOptions::default()).and_then(|file| file.len());
        // In place once it is there: a start must not need space. What is torn then is made up for by the other copy.
        let is_there = found.is_ok_and(|len| len >= bytes.len() as u64);
        let write = async || {
            let written = if is_there {
                fs::overwrite(&file, &bytes).await
            } else {
                fs::replace(&file, &bytes).await
            };
            written.map_err(|error| StorageError::of(&file, "replace", &error))
        };
        // Some file systems write in place nowhere.
        with_reserve(&Reserve::of(path), write).await
    }

    /// Notes the journals that this start has begun, before anything in them counts: from then on they must be there.
    ///
    /// # Errors
    /// The disk's.
    pub async fn note_journals(&mut self, journals: Vec<KnownJournal>) -> Result<(), StorageError> {
        let names = |journals: &[KnownJournal]| -> Vec<(u32, u64)> {
            journals.iter().map(|journal| (journal.shard, journal.id)).collect()
        };
        let known = &self.superblock.journals;
        assert!(known.start <= self.superblock.incarnation, "no journal is of a later start");
        if known.start == self.superblock.incarnation && known.journals == journals {
            return Ok(());
        }
        // Others than before, or fewer: those that are not used any more are about to go, and neither copy may
        // ask for them.
        let are_others = names(&self.superblock.journals.journals) != names(&journals);
        let journals = KnownJournals { start: self.superblock.incarnation, journals };
        let before = std::mem::replace(&mut self.superblock.journals, journals);
        let mut written = self.write_superblock().await;
        if are_others && written.is_ok() {
            written = self.write_superblock().await;
        }
        if written.is_err() {
            // It is tried again: what may not be on the disk is not taken for noted.
            self.superblock.journals = before;
        }
        written
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it knows of itself.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The leader epoch of this start: never used before in this directory.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(i32::try_from(self.superblock.incarnation).expect("starts stay below 2^31"))
    }

    /// Whether it was left clean, so that logs need not be scanned.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// Whether this start made it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The partitions that have a directory here.
    ///
    /// # Errors
    /// The disk's.
    pub fn partitions(&self) -> Result<Vec<TopicPartition>, StorageError> {
        let root = self.path.join("partitions");
        let names = fs::list(&root).map_err(|error| StorageError::of(&root, "list", &error))?;
        Ok(names.iter().filter_map(|name| TopicPartition::parse(name)).collect())
    }

    /// Whether a partition's directory holds nothing: it was made, and its topic never was.
    ///
    /// # Errors
    /// The disk's.
    pub fn is_empty(&self, partition: TopicPartition) -> Result<bool, StorageError> {
        let dir = self.path.join("partitions").join(partition.to_string());
        let names = fs::list(&dir).map_err(|error| StorageError::of(&dir, "list", &error))?;
        Ok(names.is_empty())
    }

    /// Notes a clean stop, once every log was closed.
    ///
    /// # Errors
    /// The disk's; the next start then scans.
    pub async fn close_clean(mut self) -> Result<(), StorageError> {
        assert!(!self.superblock.clean, "a directory that is used is not clean");
        self.superblock.clean = true;
        self.write_superblock().await
    }
}

fn random_id() -> TopicId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random::seed().to_be_bytes());
    bytes[8..].copy_from_slice(&random::seed().to_be_bytes());
    TopicId::from_random(bytes)
}

impl Superblock {
    /// Whole blocks, the checksum at their end.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.format_version.to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&self.cluster_id.0);
        out.extend_from_slice(&self.node_id.0.to_be_bytes());
        out.extend_from_slice(&self.directory_id.0);
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.push(u8::from(self.clean));
        assert_eq!(out.len(), FIXED_BYTES);
        out.extend_from_slice(&(self.journals.journals.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.journals.start.to_be_bytes());
        for journal in &self.journals.journals {
            out.extend_from_slice(&journal.shard.to_be_bytes());
            out.extend_from_slice(&journal.id.to_be_bytes());
            out.extend_from_slice(&journal.sequence.to_be_bytes());
        }
        out.resize((out.len() + 4).next_multiple_of(BLOCK_BYTES) - 4, 0);
        let crc = crc32c::checksum(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        assert!(out.len().is_multiple_of(BLOCK_BYTES), "whole blocks");
        assert!(Self::is_whole(&out), "as it is read");
        out
    }

    /// Whether these bytes are as some program wrote them.
    fn is_whole(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
            && bytes
                .split_last_chunk::<4>()
                .is_some_and(|(body, crc)| u32::from_be_bytes(*crc) == crc32c::checksum(body))
    }

    /// Whether a newer program wrote these bytes: no damage, whatever the other copy says.
    fn is_newer(bytes: &[u8]) -> bool {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else { return false };
        let version = body.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<4>());
        version.is_some_and(|version| u32::from_be_bytes(*version) > FORMAT_VERSION)
            && u32::from_be_bytes(*crc) == crc32c::checksum(body)
    }

    /// Reads a copy's bytes; any bytes are allowed.
    ///
    /// # Errors
    /// What is wrong with them, and what to do.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.get(..8) != Some(MAGIC) {
            return Err("not a Weir data directory; choose another --log.dirs".into());
        }
        let u32_at = |at: usize| {
            bytes.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().expect("4 bytes")))
        };
        let version = u32_at(8).unwrap_or(0);
        let fits = if version < 4 {
            bytes.len() == FIXED_BYTES + 4
        } else {
            bytes.len() >= BLOCK_BYTES && bytes.len().is_multiple_of(BLOCK_BYTES)
        };
        let whole = fits
            && bytes
                .split_last_chunk::<4>()
                .is_some_and(|(body, crc)| u32::from_be_bytes(*crc) == crc32c::checksum(body));
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
            return Err(format!(
                "format version {version}, and this program reads versions {FORMAT_VERSION_MIN} to \
                 {FORMAT_VERSION}; use the program that wrote it, or choose another --log.dirs"
            ));
        }
        if !whole {
            return Err("the superblock is damaged and its other copy is missing or damaged too; \
                        restore the directory from a backup"
                .into());
        }
        let (mut journals, mut at) = (Vec::new(), FIXED_BYTES + 8);
        let start = if version < 4 { 0 } else { u32_at(FIXED_BYTES + 4).expect("length checked") };
        let count = if version < 4 { 0 } else { u32_at(FIXED_BYTES).expect("length checked") };
        for _ in 0..count {
            let Some(entry) = bytes[..bytes.len() - 4].get(at..at + KNOWN_JOURNAL_BYTES) else {
                return Err(
                    "the superblock names more journals than it holds; restore it from a backup"
                        .into(),
                );
            };
            journals.push(KnownJournal {
                shard: u32::from_be_bytes(entry[..4].try_into().expect("4 bytes")),
                id: u64::from_be_bytes(entry[4..12].try_into().expect("8 bytes")),
                sequence: u64::from_be_bytes(entry[12..20].try_into().expect("8 bytes")),
            });
            at += KNOWN_JOURNAL_BYTES;
        }
        Ok(Self {
            format_version: version,
            generation: u64::from_be_bytes(bytes[12..20].try_into().expect("8 bytes")),
            cluster_id: TopicId(bytes[20..36].try_into().expect("16 bytes")),
            node_id: BrokerId(u32_at(36).expect("length checked") as i32),
            directory_id: TopicId(bytes[40..56].try_into().expect("16 bytes")),
            incarnation: u32_at(56).expect("length checked"),
            clean: bytes[60] == 1,
            journals: KnownJournals { start, journals },
        })
    }
}
