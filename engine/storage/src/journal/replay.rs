//! Reads the journals of a data directory after a start: what each partition is owed.
//!
//! A frame is written only once the one before it is durable. So a bad frame with a good one behind
//! it was durable and has rotted; a bad frame with none behind it was being written and is torn.

use crate::StorageError;
use crate::journal::frame::{Entry, EntryKind, Frame, LogPosition};
use crate::journal::known::{Carried, JOURNAL_FILES, JournalStart, KnownJournal, KnownJournals};
use model::limits::DISK_BLOCK_BYTES;
use model::{Offset, TopicPartition};
use runtime::buffer::{ChunkWriter, SharedBytes};
use runtime::file::{File, OpenOptions};
use runtime::{fs, random};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes that belong in a segment and may not be there yet.
#[derive(Clone)]
pub struct JournaledAppend {
    /// Where they belong.
    pub at: LogPosition,
    /// The offset behind their last record.
    pub end: Offset,
    /// The bytes: whole batches.
    pub bytes: SharedBytes,
}

/// What the journals know of one partition.
#[derive(Clone, Default)]
pub struct PartitionNotes {
    /// Everything below is fsynced in its segments.
    pub synced: Option<LogPosition>,
    /// Records below are deleted.
    pub log_start: Option<Offset>,
    /// Records below were acknowledged as durable, says an earlier start that missed some.
    pub missed_below: Option<Offset>,
    /// What was journaled, in order.
    pub appends: Vec<JournaledAppend>,
    /// Everything from there on is to go: a cut that was begun, and of which nothing says that it was done.
    pub cut: Option<LogPosition>,
    /// Where acknowledged bytes of it have rotted in a journal.
    pub damage: Option<StorageError>,
}

impl PartitionNotes {
    /// The offset below which every record was durable before the stop.
    #[must_use]
    pub fn durable(&self) -> Offset {
        let journaled = self.appends.last().map_or(Offset::ZERO, |append| append.end);
        let synced = self.synced.map_or(Offset::ZERO, |synced| synced.offset);
        synced.max(journaled).max(self.missed_below.unwrap_or_default())
    }

    /// What the journal that follows must say of a partition that is not open: all of this, its bytes too, for
    /// nobody knows how far they were put in place.
    #[must_use]
    pub fn carried(&self, partition: TopicPartition) -> Vec<Carried> {
        let offset_note = |kind, offset| {
            let at = LogPosition { offset, ..LogPosition::default() };
            Carried { entry: Entry::note(kind, partition, at), bytes: None }
        };
        let mut out = Vec::new();
        if self.durable() > Offset::ZERO {
            out.push(offset_note(EntryKind::Missed, self.durable()));
        }
        let synced = self.synced.map(|at| Entry::note(EntryKind::Synced, partition, at));
        out.extend(synced.map(|entry| Carried { entry, bytes: None }));
        out.extend(self.log_start.map(|offset| offset_note(EntryKind::LogStart, offset)));
        let damaged = offset_note(EntryKind::Damaged, Offset::ZERO);
        out.extend(self.damage.as_ref().map(|_| damaged));
        let synced = self.synced.map_or(Offset::ZERO, |at| at.offset);
        for append in self.appends.iter().filter(|append| append.end > synced) {
            let (kind, len) = (EntryKind::Append, append.bytes.len() as u32);
            let entry = Entry { kind, partition, at: append.at, end: append.end, len, crc: 0 };
            out.push(Carried { entry, bytes: Some(append.bytes.clone()) });
        }
        // Last: what stands before it counts only up to there.
        let cut = self.cut.map(|at| Entry::note(EntryKind::Truncating, partition, at));
        out.extend(cut.map(|entry| Carried { entry, bytes: None }));
        assert!(out.iter().all(|known| known.entry.partition == partition), "what is its own");
        out
    }

    /// Takes in an entry of a journal; its bytes are whole, or have rotted there.
    fn on_entry(
        &mut self,
        entry: &Entry,
        bytes: Result<SharedBytes, StorageError>,
        damage: impl FnOnce() -> StorageError,
    ) {
        let offset = Some(entry.at.offset);
        match entry.kind {
            EntryKind::Append => match bytes {
                Ok(bytes) => {
                    self.appends.push(JournaledAppend { at: entry.at, end: entry.end, bytes });
                }
                Err(rotten) => self.damage = Some(rotten),
            },
            EntryKind::Synced => self.on_synced(entry.at),
            EntryKind::Truncating => self.on_truncating(entry.at),
            EntryKind::Truncated => {
                self.on_truncating(entry.at);
                self.cut = None;
            }
            EntryKind::LogStart => self.log_start = self.log_start.max(offset),
            EntryKind::Missed => self.missed_below = self.missed_below.max(offset),
            EntryKind::Damaged => self.damage = Some(damage()),
            EntryKind::PreviousDone | EntryKind::SnapshotWhole | EntryKind::Continued => {
                unreachable!("entries of the journal itself are not of a partition")
            }
        }
    }

    /// A cut was begun: of what was known before nothing counts behind its place.
    fn on_truncating(&mut self, to: LogPosition) {
        self.appends.retain(|append| append.at.offset < to.offset);
        for append in self.appends.iter_mut().filter(|append| append.end > to.offset) {
            // The place is the beginning of a batch, and these are whole batches.
            let kept = to.position.saturating_sub(append.at.position) as usize;
            append.bytes = append.bytes.slice(0..kept.min(append.bytes.len()));
            append.end = to.offset;
        }
        assert!(
            self.appends.iter().all(|append| append.end <= to.offset),
            "nothing lies behind a cut"
        );
        self.cut = Some(to);
        self.on_synced(self.synced.unwrap_or(to));
        self.missed_below = self.missed_below.map(|below| below.min(to.offset));
    }

    /// Everything below is synced; while a cut is under way no more than up to there.
    fn on_synced(&mut self, at: LogPosition) {
        let at = match self.cut {
            Some(cut) if at.offset > cut.offset => cut,
            _ => at,
        };
        let known =
            self.synced.filter(|known| self.cut.is_none_or(|cut| known.offset <= cut.offset));
        if known.is_none_or(|known| known.offset <= at.offset) {
            self.synced = Some(at);
        }
        let (synced, cut) = (self.synced.unwrap_or_default(), self.cut.unwrap_or(at));
        assert!(
            self.cut.is_none() || synced.offset <= cut.offset,
            "nothing is synced behind a cut"
        );
    }
}

/// What the journals of a directory say.
#[derive(Clone, Default)]
pub struct Replay {
    /// By partition.
    pub partitions: BTreeMap<TopicPartition, PartitionNotes>,
    /// How each shard's journal goes on, by shard.
    pub shards: BTreeMap<usize, JournalStart>,
    /// Bytes of all journal files read.
    pub bytes: u64,
    /// The last stop was none: what was written and not made durable may be there in part.
    pub was_cut_short: bool,
    /// A journal that must be there is not, or not all of it: acknowledged bytes of any partition of the
    /// directory may have been in it.
    pub lost: Option<StorageError>,
}

impl Replay {
    /// How the journal of a shard goes on.
    #[must_use]
    pub fn start_of(&self, shard: usize) -> JournalStart {
        self.shards.get(&shard).cloned().unwrap_or_else(|| JournalStart {
            id: random::seed(),
            sequence: 1,
            number: 0,
        })
    }

    /// What is known of a partition whose log is in this directory.
    #[must_use]
    pub fn notes_of(&self, partition: TopicPartition) -> PartitionNotes {
        let mut notes = self.partitions.get(&partition).cloned().unwrap_or_default();
        if let Some(lost) = &self.lost {
            notes.damage.get_or_insert_with(|| lost.clone());
        }
        notes
    }
}

/// The frames of one file.
#[derive(Default)]
pub struct Scan {
    /// Which journal, and which of its files.
    pub journal: u64,
    /// See `journal`.
    pub sequence: u64,
    /// The good frames, each with its position.
    pub frames: Vec<(usize, Frame)>,
    /// Positions at which a frame has rotted.
    pub rotten: Vec<usize>,
    /// Where the frames end.
    pub end: usize,
    /// How long the file was when its first good frame was written; 0: not known.
    pub file_bytes: u64,
    /// An older file is not needed, for a reason that does not stand in this one.
    is_committed: bool,
}

impl Scan {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.frames.iter().flat_map(|(_, frame)| &frame.entries).map(|(entry, _)| entry)
    }

    fn has_done_mark(&self) -> bool {
        self.is_committed || self.entries().any(|entry| entry.kind == EntryKind::PreviousDone)
    }

    /// The newest start that says here, by a note of this kind, how far it came; 0 if none does.
    fn start_noted(&self, kind: EntryKind) -> i64 {
        let starts = self.entries().filter(|entry| entry.kind == kind);
        starts.map(|entry| entry.at.offset.0).max().unwrap_or(0)
    }

    fn is_continued(&self) -> bool {
        self.entries().any(|entry| entry.kind == EntryKind::Continued)
    }

    /// Checksum of the last frame that the next file can name.
    fn last_crc(&self) -> Option<u32> {
        let is_mark = |frame: &Frame| {
            frame.entries.iter().any(|(entry, _)| entry.kind == EntryKind::Continued)
        };
        let frames = self.frames.iter().rev().map(|(_, frame)| frame);
        frames.into_iter().find(|frame| !is_mark(frame)).map(|frame| frame.crc)
    }

    /// Whether it is the first file of a start, which names no frame before it.
    fn begins_anew(&self) -> bool {
        self.frames.first().is_some_and(|(_, frame)| frame.id.number == 0 && frame.id.previous == 0)
    }
}

/// Finds the frames of a journal file's bytes. Any bytes are allowed.
#[must_use]
pub fn scan(bytes: &[u8]) -> Scan {
    let later = |from: usize| {
        let blocks = (from..bytes.len()).step_by(DISK_BLOCK_BYTES);
        blocks.filter_map(|at| Frame::decode(&bytes[at..]).map(|frame| (at, frame)))
    };
    // The file is named by its first frame; if that one has rotted, by the newest frame in it.
    let newest = || later(0).map(|(_, frame)| frame.id).max_by_key(|id| id.sequence);
    let Some(file) = Frame::decode(bytes).map(|frame| frame.id).or_else(newest) else {
        return Scan::default();
    };
    let mut scan = Scan {
        journal: file.journal,
        sequence: file.sequence,
        file_bytes: file.file_bytes,
        ..Scan::default()
    };
    let mut number = 0;
    let mut at = 0;
    while at < bytes.len() {
        let follows = |frame: &Frame| {
            (frame.id.journal, frame.id.sequence, frame.id.number)
                == (file.journal, file.sequence, number)
        };
        let (found, frame) = match Frame::decode(&bytes[at..]).filter(follows) {
            Some(frame) => (at, frame),
            None => {
                let same = |frame: &Frame| {
                    (frame.id.journal, frame.id.sequence) == (file.journal, file.sequence)
                        && frame.id.number > number
                };
                let Some(next) = later(at + DISK_BLOCK_BYTES).find(|(_, frame)| same(frame)) else {
                    break;
                };
                scan.rotten.push(at);
                next
            }
        };
        number = frame.id.number + 1;
        at = found + frame.bytes;
        scan.frames.push((found, frame));
    }
    scan.end = at;
    assert!(scan.frames.is_sorted_by_key(|(at, _)| *at), "frames as they lie in the file");
    assert!(scan.rotten.len() <= scan.frames.len(), "behind what has rotted a frame follows");
    scan
}

/// Reads every journal under `data_dir`.
///
/// # Errors
/// As `replay_known`.
pub async fn replay(data_dir: &Path) -> Result<Replay, StorageError> {
    replay_known(data_dir, &KnownJournals::default()).await
}

/// Reads every journal under `data_dir`; those in `known` must be there.
///
/// # Errors
/// The disk's. Damage is no error: it is told per partition, or of the whole directory in `lost`.
pub async fn replay_known(data_dir: &Path, known: &KnownJournals) -> Result<Replay, StorageError> {
    let dir = data_dir.join("journal");
    let names = match fs::list(&dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(StorageError::of(&dir, "list", &error)),
    };
    let mut replay = Replay::default();
    let shard_of = |name: &String| -> Option<usize> {
        let (shard, file) = name.split_once('.')?;
        file.parse().is_ok_and(|file: u64| file < JOURNAL_FILES).then(|| shard.parse().ok())?
    };
    let mut shards: Vec<usize> = names.iter().filter_map(shard_of).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut found = BTreeMap::new();
    for &shard in &shards {
        found.insert(shard, read_files(&dir, &names, shard, known, &mut replay).await?);
    }
    // A start whose end one shard noted had a whole snapshot in all of them.
    let scans = || found.values().flatten().map(|(_, scan, _)| scan);
    let committed =
        scans().map(|scan| scan.start_noted(EntryKind::PreviousDone)).max().unwrap_or(0);
    for (shard, mut files) in found {
        let starts = files.iter().map(|(_, scan, _)| scan.start_noted(EntryKind::SnapshotWhole));
        let is_known = known.journals.iter().any(|known| known.shard as usize == shard);
        if !is_known && starts.max().unwrap_or(0) < i64::from(known.start) {
            let (id, sequence) = files
                .last()
                .map_or((random::seed(), 0), |(_, scan, _)| (scan.journal, scan.sequence));
            replay.shards.insert(shard, JournalStart { id, sequence: sequence + 1, number: 0 });
            continue;
        }
        if let Some(start) = drop_unfinished(&mut files, committed) {
            replay.shards.insert(shard, start);
        }
        if let Some((path, newest, _)) = files.last()
            && newest.is_continued()
        {
            replay.lost.get_or_insert(missing(path));
        }
        replay_shard(&files, &mut replay.partitions);
        let is_there = |known: &&KnownJournal| {
            let newest = files.last().map_or((0, 0), |(_, scan, _)| (scan.journal, scan.sequence));
            known.shard as usize != shard || newest.0 == known.id && newest.1 >= known.sequence
        };
        if let Some(known) = known.journals.iter().find(|known| !is_there(known)) {
            let path = dir.join(format!("{shard}.{}", known.sequence % JOURNAL_FILES));
            replay.lost.get_or_insert(missing(&path));
        }
    }
    if let Some(known) =
        known.journals.iter().find(|known| !shards.contains(&(known.shard as usize)))
    {
        let path = dir.join(format!("{}.{}", known.shard, known.sequence % JOURNAL_FILES));
        replay.lost.get_or_insert(missing(&path));
    }
    Ok(replay)
}

/// A journal file as it was found.
type FoundFile = (PathBuf, Scan, SharedBytes);

/// The files of a shard that hold anything, oldest first.
async fn read_files(
    dir: &Path,
    names: &[String],
    shard: usize,
    known: &KnownJournals,
    replay: &mut Replay,
) -> Result<Vec<FoundFile>, StorageError> {
    let mut files = Vec::new();
    for file in 0..JOURNAL_FILES {
        let path = dir.join(format!("{shard}.{file}"));
        if !names.contains(&format!("{shard}.{file}")) {
            continue;
        }
        let bytes = read_whole(&path).await?;
        replay.bytes += bytes.len() as u64;
        let scan = scan(&bytes);
        let is_of = |known: &KnownJournal| known.shard as usize == shard;
        let counts = known.start == 0 || known.journals.iter().any(is_of);
        if counts && (bytes.len() as u64) < scan.file_bytes {
            let what = "the journal file was cut short, and records that were acknowledged may have been behind";
            let (path, position) = (path.clone(), bytes.len() as u64);
            replay.lost.get_or_insert(StorageError::Corrupt { path, position, what });
        }
        files.push((path, scan, bytes));
    }
    files.retain(|(_, scan, _)| !scan.frames.is_empty());
    files.sort_by_key(|(_, scan, _)| scan.sequence);
    assert!(files.len() as u64 <= JOURNAL_FILES, "each file once");
    Ok(files)
}

/// Where the shard's next journal begins. A snapshot that was never finished says nothing that its sources do not: it is
/// written over, and the files before it still count. Behind a rotten frame anything may follow.
fn drop_unfinished(files: &mut Vec<FoundFile>, committed: i64) -> Option<JournalStart> {
    let (_, newest, _) = files.last_mut()?;
    newest.is_committed = committed > 0
        && newest.start_noted(EntryKind::SnapshotWhole) == committed
        && newest.begins_anew();
    let unfinished = newest.begins_anew() && !newest.has_done_mark() && newest.rotten.is_empty();
    let step = if unfinished { JOURNAL_FILES } else { 1 };
    let start = JournalStart { id: newest.journal, sequence: newest.sequence + step, number: 0 };
    assert!(newest.sequence < start.sequence, "no file is written under a number that was used");
    if unfinished {
        files.pop();
    }
    Some(start)
}

/// What is said of every partition of the directory then.
fn missing(path: &Path) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        position: 0,
        what: "a journal file is missing or was replaced by an older one, and records that were acknowledged may \
               have been in it",
    }
}

async fn read_whole(path: &Path) -> Result<SharedBytes, StorageError> {
    let options = OpenOptions { direct: true, ..OpenOptions::default() };
    let file = File::open(path, options).map_err(|error| StorageError::of(path, "open", &error))?;
    let len = file.len().map_err(|error| StorageError::of(path, "stat", &error))?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(u32::MAX as usize);
    // The last frame of a process that was killed may be there and not last. A start removes files because of what it
    // says: what is read must be durable.
    let synced = file.sync(true).await;
    synced.map_err(|error| StorageError::of(path, "fdatasync", &error))?;
    let (read, writer) = file.read_at(ChunkWriter::with_capacity(len.max(1)), 0, len).await;
    read.map_err(|error| StorageError::of(path, "read", &error))?;
    Ok(writer.share(0..writer.filled().min(len)))
}

fn replay_shard(files: &[FoundFile], partitions: &mut BTreeMap<TopicPartition, PartitionNotes>) {
    let mut lost: Option<StorageError> = None;
    let rot = |path: &Path, position: usize| StorageError::Corrupt {
        path: path.to_owned(),
        position: position as u64,
        what: "a journal frame that was durable is unreadable, and with it records that were \
               acknowledged may be",
    };
    let done = files.iter().rposition(|(_, scan, _)| scan.has_done_mark());
    // A snapshot that has rotted is made up for by the files before it, which are still there: what
    // they say of any partition holds, and all of them are suspect.
    let is_whole = |number: &usize| files[*number].1.rotten.is_empty();
    let used = &files[done.filter(is_whole).unwrap_or(0)..];
    let Some((path, first, _)) = used.first() else { return };
    if done.is_none() && !first.begins_anew() {
        lost.get_or_insert(rot(path, 0));
    }
    for pair in used.windows(2) {
        let last = pair[0].1.last_crc();
        let (_, next) = &pair[1].1.frames[0];
        if next.id.number == 0 && last != Some(next.id.previous) {
            lost.get_or_insert(rot(&pair[0].0, pair[0].1.end));
        }
    }
    let mut seen = Vec::new();
    for (number, (path, scan, bytes)) in used.iter().enumerate() {
        if let Some(at) = scan.rotten.first() {
            lost.get_or_insert(rot(path, *at));
        }
        if number > 0 && scan.begins_anew() {
            // A start has finished what was begun before it, or says of whom it has not.
            for partition in &seen {
                partitions.entry(*partition).or_default().cut = None;
            }
        }
        for (index, (at, frame)) in scan.frames.iter().enumerate() {
            let frame_bytes = bytes.slice(*at..*at + frame.bytes);
            let is_last = number + 1 == used.len() && index + 1 == scan.frames.len();
            let whole = |index| frame.is_whole(index, &frame_bytes);
            if is_last && !(0..frame.entries.len()).all(whole) {
                break;
            }
            for (index, (entry, data)) in frame.entries.iter().enumerate() {
                if entry.kind.is_of_journal() {
                    continue;
                }
                seen.push(entry.partition);
                let notes = partitions.entry(entry.partition).or_default();
                let bytes = whole(index)
                    .then(|| frame_bytes.slice(*data..*data + entry.len as usize))
                    .ok_or_else(|| rot(path, *at + *data));
                notes.on_entry(entry, bytes, || rot(path, *at));
            }
        }
    }
    if let Some(lost) = lost {
        // Which partitions the lost frame held is not known: any of this journal's.
        for partition in seen {
            let notes = partitions.entry(partition).or_default();
            notes.damage.get_or_insert(lost.clone());
        }
    }
}
