//! Looks through a whole data directory without changing it; cuts what an operator gave up.
//!
//! The broker must be stopped: the caller holds the directory's lock.

use crate::StorageError;
use crate::directory::data_dir::DataDir;
use crate::directory::log_dir::LogDir;
use crate::journal::journal::Journal;
use crate::journal::known::{JOURNAL_FILES, KnownJournals, journal_path};
use crate::journal::replay::{PartitionNotes, Replay, replay_known};
use crate::log::log::{Log, open_file};
use crate::log::open::apply;
use crate::log::recovery::{Walk, walk};
use crate::log::segment::LogSegment;
use crate::log::segment_files::{SegmentFiles, UNFINISHED};
use crate::log::tail_cache::TailCache;
use model::{BatchFilter, LeaderEpoch, LogSettings, Offset, TopicPartition};
use runtime::buffer::ChunkWriter;
use runtime::file::{File, OpenOptions};
use runtime::{clock, fs};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Size of a journal file that a repair leaves; the next start makes it as large as configured.
const JOURNAL_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// Damage of one partition.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which.
    pub partition: TopicPartition,
    /// What is wrong, and where.
    pub what: StorageError,
    /// Records below are whole: what a cut keeps.
    pub keeps_below: Offset,
    /// Records were acknowledged as durable up to here, as far as anyone knows.
    pub known_below: Offset,
    /// The segment and the position at which a cut would cut; `None`: nothing to cut, only the
    /// memory of what is missing.
    cut: Option<(Offset, u32)>,
}

/// What was looked at.
#[derive(Debug, Default)]
pub struct Examined {
    /// Damage, by partition.
    pub findings: Vec<Finding>,
    /// Partitions.
    pub partitions: usize,
    /// Segments.
    pub segments: usize,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Batches that are whole and hold what no reader gets past, as their clients sent it.
    pub unreadable: Vec<Unreadable>,
}

/// Batches of a partition whose records cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Which.
    pub partition: TopicPartition,
    /// The first one's base offset.
    pub first: Offset,
    /// How many.
    pub batches: u64,
}

/// Reads every batch of every partition under `data_dir` and compares with what the journals know, of which
/// `known` must be there.
///
/// # Errors
/// The disk's.
pub async fn examine(
    data_dir: &Path,
    known: &KnownJournals,
) -> Result<(Examined, Replay), StorageError> {
    let found = replay_known(data_dir, known).await?;
    let root = data_dir.join("partitions");
    let names = fs::list(&root).map_err(|error| StorageError::of(&root, "list", &error))?;
    let mut examined = Examined::default();
    for partition in names.iter().filter_map(|name| TopicPartition::parse(name)) {
        let notes = found.notes_of(partition);
        let dir = root.join(partition.to_string());
        examined.partitions += 1;
        if let Some(finding) = examine_partition(partition, &dir, &notes, &mut examined).await? {
            examined.findings.push(finding);
        }
    }
    Ok((examined, found))
}

async fn examine_partition(
    partition: TopicPartition,
    dir: &Path,
    notes: &PartitionNotes,
    examined: &mut Examined,
) -> Result<Option<Finding>, StorageError> {
    let known_below = notes.durable();
    let log_start = notes.log_start.unwrap_or_default();
    let files = files_of(dir)?;
    let bases = files.bases.clone();
    let mut next = bases.first().copied().unwrap_or_default();
    let mut epoch = LeaderEpoch(i32::MIN);
    let (mut unreadable, mut scratch) = (None, Vec::new());
    for (number, &base) in bases.iter().enumerate() {
        let segment = LogSegment::of(&files, base);
        let path = segment.log_path(dir);
        let file = File::open(&path, OpenOptions::default());
        let file = file.map_err(|error| StorageError::of(&path, "open", &error))?;
        let finding = |position: u32, keeps: Offset, what| {
            // Of a compacted segment, whose name says where it ends, nothing is kept.
            let whole = segment.compacted.is_some();
            Finding {
                partition,
                what: StorageError::Corrupt {
                    path: path.clone(),
                    position: u64::from(position),
                    what,
                },
                keeps_below: if whole { base } else { keeps },
                known_below: known_below.max(bases.last().copied().unwrap_or_default()),
                cut: Some((base, if whole { 0 } else { position })),
            }
        };
        if base != next {
            return Ok(Some(finding(0, next, "the segment before it ends elsewhere")));
        }
        let gaps = segment.compacted.is_some();
        let plan = Walk { from: 0, offset: base, to: u64::MAX, check_crc: true, epoch, gaps };
        let walked = walk(&path, &file, plan, |batch, _| {
            epoch = batch.leader_epoch();
            if !batch.is_readable(&mut scratch) {
                let first = batch.base_offset();
                let found = unreadable.get_or_insert(Unreadable { partition, first, batches: 0 });
                found.batches += 1;
            }
        });
        let walked = walked.await?;
        examined.segments += 1;
        examined.bytes += u64::from(walked.end);
        next = walked.log_end;
        match bases.get(number + 1).copied() {
            // Deleted, and about to be removed.
            Some(to) if to <= log_start => next = to,
            Some(to) if to != next => {
                return Ok(Some(finding(walked.end, next, "not the batch that belongs here")));
            }
            Some(_) => {}
            None => {
                let end = with_journal(next, notes);
                if end < known_below {
                    let what = "an acknowledged batch is missing or unreadable";
                    return Ok(Some(finding(walked.end, end, what)));
                }
            }
        }
    }
    examined.unreadable.extend(unreadable);
    Ok(of_all_segments(partition, dir, notes, next, bases.is_empty()))
}

/// What is wrong with a partition whose segments are in order.
fn of_all_segments(
    partition: TopicPartition,
    dir: &Path,
    notes: &PartitionNotes,
    end: Offset,
    has_none: bool,
) -> Option<Finding> {
    let known_below = notes.durable();
    let finding =
        |what: StorageError| Finding { partition, what, keeps_below: end, known_below, cut: None };
    if let Some(damage) = &notes.damage {
        return Some(finding(damage.clone()));
    }
    let log_start = notes.log_start.unwrap_or_default();
    if has_none && with_journal(log_start, notes) < known_below {
        let what = "its segments are missing";
        let (path, position) = (dir.to_owned(), 0);
        return Some(finding(StorageError::Corrupt { path, position, what }));
    }
    None
}

/// Where the log ends once what is still only in the journal is put behind `end`.
fn with_journal(end: Offset, notes: &PartitionNotes) -> Offset {
    notes.appends.iter().fold(
        end,
        |end, append| {
            if append.at.offset <= end { end.max(append.end) } else { end }
        },
    )
}

fn files_of(dir: &Path) -> Result<SegmentFiles, StorageError> {
    let names = fs::list(dir).map_err(|error| StorageError::of(dir, "list", &error))?;
    Ok(SegmentFiles::of(&names))
}

/// What an operator gave up of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// All from its damage on.
    FromDamage,
    /// The records of batches that cannot be read: the batches stay, empty.
    Unreadable,
}

/// Cuts partitions in front of their damage, or empties their unreadable batches, and makes the journals forget what
/// is lost. What goes is copied to `quarantine` first. Everything else stays as it is.
///
/// # Errors
/// The disk's.
pub async fn mend(
    data_dir: &Path,
    given_up: &BTreeMap<TopicPartition, GivenUp>,
    found: &Replay,
) -> Result<Vec<PathBuf>, StorageError> {
    let cache = TailCache::new(0);
    let start = found.start_of(0);
    let journal = Journal::new(data_dir, 0, JOURNAL_FILE_BYTES, true, start);
    let home = LogDir::new(data_dir, true, &cache, Some(Rc::clone(&journal)), Arc::default());
    let mut kept = Vec::new();
    let mut logs = Vec::new();
    let root = data_dir.join("partitions");
    let names = fs::list(&root).map_err(|error| StorageError::of(&root, "list", &error))?;
    for partition in names.iter().filter_map(|name| TopicPartition::parse(name)) {
        let notes = &found.notes_of(partition);
        let bare = PartitionNotes { log_start: notes.log_start, ..PartitionNotes::default() };
        let given_up = given_up.get(&partition);
        if given_up.is_some() {
            let dir = home.partition_path(partition);
            let mut bases = files_of(&dir)?.bases;
            apply(&home, &dir, notes, &mut bases).await?;
        }
        let notes = match given_up {
            None => notes,
            Some(GivenUp::FromDamage) => {
                // The journal may have mended the end: what is cut is looked for again, as far as the log must go.
                let dir = home.partition_path(partition);
                let known = PartitionNotes { missed_below: Some(notes.durable()), ..bare.clone() };
                let mut ignored = Examined::default();
                let again = examine_partition(partition, &dir, &known, &mut ignored).await?;
                if let Some((base, position)) = again.and_then(|finding| finding.cut) {
                    kept.push(quarantine(data_dir, &dir, partition, base, position).await?);
                }
                &bare
            }
            Some(GivenUp::Unreadable) => {
                // Its segments are about to be written anew: from now on no journal says where in them anything
                // lies, only how far the log must go.
                let known = PartitionNotes { missed_below: Some(notes.durable()), ..bare };
                journal.carry(partition, known.carried(partition));
                continue;
            }
        };
        match Log::open(&home, partition, LogSettings::default(), notes).await {
            Ok((log, _)) => logs.push(log),
            Err(StorageError::Corrupt { .. }) => journal.carry(partition, notes.carried(partition)),
            Err(error) => return Err(error),
        }
    }
    home.sync_names().await?;
    home.sync_recovered().await?;
    journal.begin().await?;
    for log in &logs {
        log.close().await?;
    }
    journal.close().await?;
    // All that the journals knew is in this one now, and no start is to look for another.
    DataDir::note_repaired(data_dir, journal.known().into_iter().collect()).await?;
    remove_journals_but_the_first(data_dir, found).await?;
    for (partition, _) in given_up.iter().filter(|(_, what)| **what == GivenUp::Unreadable) {
        kept.extend(
            empty_unreadable(data_dir, &home.partition_path(*partition), *partition).await?,
        );
    }
    Ok(kept)
}

/// All that was in them is in the journal of shard 0 now.
async fn remove_journals_but_the_first(
    data_dir: &Path,
    found: &Replay,
) -> Result<(), StorageError> {
    for shard in found.shards.keys().filter(|shard| **shard != 0) {
        for file in 0..JOURNAL_FILES {
            let _ = fs::remove_file(&journal_path(data_dir, *shard, file));
        }
    }
    let dir = data_dir.join("journal");
    fs::sync_dir(&dir).await.map_err(|error| StorageError::of(&dir, "sync", &error))
}

/// A new directory for what goes of a partition.
fn quarantine_dir(data_dir: &Path, partition: TopicPartition) -> Result<PathBuf, StorageError> {
    let to = data_dir.join("quarantine").join(format!("{partition}-{}", clock::unix_ms()));
    fs::create_dir_all(&to).map_err(|error| StorageError::of(&to, "mkdir", &error))?;
    Ok(to)
}

/// The segments, once what was replaced cannot come back and what was known of the log, which may not be so any more,
/// is gone.
fn forget_known(dir: &Path) -> Result<SegmentFiles, StorageError> {
    let files = files_of(dir)?;
    let known = ["producers", "cleaned"].map(str::to_owned);
    for name in files.obsolete.iter().chain(&known) {
        let _ = fs::remove_file(&dir.join(name));
    }
    Ok(files)
}

/// Where a batch that cannot be read lies, and what takes its place.
struct Emptied {
    from: u32,
    to: u32,
    with: Vec<u8>,
}

/// Puts an empty batch in the place of each one that cannot be read: offsets and producers' sequences stay as they are.
async fn empty_unreadable(
    data_dir: &Path,
    dir: &Path,
    partition: TopicPartition,
) -> Result<Option<PathBuf>, StorageError> {
    let (files, mut to) = (forget_known(dir)?, None);
    let mut scratch = Vec::new();
    for &base in &files.bases {
        let segment = LogSegment::of(&files, base);
        let path = segment.log_path(dir);
        let source = open_file(&path, false, false)?;
        let plan = Walk {
            from: 0,
            offset: base,
            to: u64::MAX,
            check_crc: true,
            epoch: LeaderEpoch(i32::MIN),
            gaps: segment.compacted.is_some(),
        };
        let (mut emptied, mut filter) = (Vec::new(), BatchFilter::default());
        let walked = walk(&path, &source, plan, |batch, from| {
            if !batch.is_readable(&mut scratch) {
                let to = from + batch.bytes().len() as u32;
                let with = filter.emptied(batch).bytes().to_vec();
                emptied.push(Emptied { from, to, with });
            }
        });
        let end = walked.await?.end;
        if emptied.is_empty() {
            continue;
        }
        let to = match &to {
            Some(to) => to,
            None => to.insert(quarantine_dir(data_dir, partition)?),
        };
        copy(&path, &segment.log_path(to)).await?;
        fs::sync_dir(to).await.map_err(|error| StorageError::of(to, "sync", &error))?;
        // It counts once it has the segment's name: all of it, or nothing.
        let unfinished = path.with_extension(format!("log.{UNFINISHED}"));
        let _ = fs::remove_file(&unfinished);
        let target = open_file(&unfinished, false, true)?;
        let (mut from, mut written) = (0, 0);
        for piece in &emptied {
            let whole = u64::from(from)..u64::from(piece.from);
            written = copy_range((&source, &path), whole, (&target, &unfinished), written).await?;
            let mut writer = ChunkWriter::with_capacity(piece.with.len());
            writer.append(&piece.with);
            let mut pieces = vec![writer.disk_range(0..piece.with.len())];
            let put = target.write_at(&mut pieces, written, false).await;
            put.map_err(|error| StorageError::of(&unfinished, "write", &error))?;
            written += piece.with.len() as u64;
            from = piece.to;
        }
        let whole = u64::from(from)..u64::from(end);
        copy_range((&source, &path), whole, (&target, &unfinished), written).await?;
        let synced = target.sync(false).await;
        synced.map_err(|error| StorageError::of(&unfinished, "fsync", &error))?;
        let _ = fs::remove_file(&segment.index_path(dir));
        let renamed = fs::rename(&unfinished, &path);
        renamed.map_err(|error| StorageError::of(&unfinished, "rename", &error))?;
    }
    fs::sync_dir(dir).await.map_err(|error| StorageError::of(dir, "sync", &error))?;
    Ok(to)
}

/// Copies what lies behind a cut, then cuts.
async fn quarantine(
    data_dir: &Path,
    dir: &Path,
    partition: TopicPartition,
    base: Offset,
    position: u32,
) -> Result<PathBuf, StorageError> {
    let to = quarantine_dir(data_dir, partition)?;
    let files = forget_known(dir)?;
    let bases = files.bases.clone();
    for base in bases.iter().filter(|other| **other >= base) {
        let segment = LogSegment::of(&files, *base);
        copy(&segment.log_path(dir), &segment.log_path(&to)).await?;
    }
    fs::sync_dir(&to).await.map_err(|error| StorageError::of(&to, "sync", &error))?;
    for later in bases.iter().filter(|other| **other >= base) {
        let segment = LogSegment::of(&files, *later);
        let _ = fs::remove_file(&segment.index_path(dir));
        let mut path = segment.log_path(dir);
        let is_first = *later == bases[0];
        let goes = *later > base || position == 0 && !is_first;
        if goes || segment.compacted.is_some() {
            fs::remove_file(&path).map_err(|error| StorageError::of(&path, "unlink", &error))?;
            if goes {
                continue;
            }
            // The log begins where it did, with nothing in it.
            path = LogSegment::new(*later).log_path(dir);
        }
        let file = open_file(&path, false, segment.compacted.is_some())?;
        let cut = file.set_len(u64::from(position));
        cut.map_err(|error| StorageError::of(&path, "truncate", &error))?;
        let synced = file.sync(false).await;
        synced.map_err(|error| StorageError::of(&path, "fsync", &error))?;
    }
    fs::sync_dir(dir).await.map_err(|error| StorageError::of(dir, "sync", &error))?;
    Ok(to)
}

async fn copy(from: &Path, to: &Path) -> Result<(), StorageError> {
    let source = File::open(from, OpenOptions::default());
    let source = source.map_err(|error| StorageError::of(from, "open", &error))?;
    let target = open_file(to, false, true)?;
    copy_range((&source, from), 0..u64::MAX, (&target, to), 0).await?;
    target.sync(false).await.map_err(|error| StorageError::of(to, "fsync", &error))
}

/// Copies a range, as far as the file goes, to a position; returns the one behind it.
async fn copy_range(
    (source, from): (&File, &Path),
    range: Range<u64>,
    (target, to): (&File, &Path),
    mut at: u64,
) -> Result<u64, StorageError> {
    const PIECE: u64 = 4 * 1024 * 1024;
    let mut position = range.start;
    while position < range.end {
        let piece = PIECE.min(range.end - position) as usize;
        let (read, mut writer) =
            source.read_at(ChunkWriter::with_capacity(piece), position, piece).await;
        let read = read.map_err(|error| StorageError::of(from, "read", &error))?;
        if read == 0 {
            break;
        }
        let mut pieces = vec![writer.disk_range(0..read)];
        let written = target.write_at(&mut pieces, at, false).await;
        written.map_err(|error| StorageError::of(to, "write", &error))?;
        position += read as u64;
        at += read as u64;
    }
    Ok(at)
}
