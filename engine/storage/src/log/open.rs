//! Opening a log after a start: puts journaled bytes in their place, tells torn from rotten.
//!
//! What the journals know to be durable must be there: if it is not, bytes have rotted, nothing is
//! cut and the log refuses to open. What lies behind it was never promised: it is kept as far as it
//! is whole. The work is bounded by what the journal holds, not by the log's size.

use crate::StorageError;
use crate::directory::log_dir::LogDir;
use crate::journal::frame::LogPosition;
use crate::journal::replay::{JournaledAppend, PartitionNotes};
use crate::log::index::SegmentIndex;
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::log::{Log, block_floor, open_file};
use crate::log::recovery::{Walk, Walked, walk_into};
use crate::log::retain::{START_FILE, decode_start};
use crate::log::segment::LogSegment;
use crate::log::segment_files::SegmentFiles;
use crate::log::truncate::cut_files;
use model::limits::DISK_BLOCK_BYTES;
use model::{LeaderEpoch, LogSettings, Offset, TopicPartition};
use runtime::buffer::ChunkWriter;
use runtime::file::File;
use runtime::{clock, fs};
use std::io;
use std::path::Path;
use std::rc::Rc;

/// What opening a log did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes written from the journal into segments.
    pub replayed_bytes: u64,
    /// Bytes found behind what was known durable, and kept.
    pub found_bytes: u64,
    /// Whether a torn end was cut off.
    pub was_torn: bool,
}

impl Log {
    /// Opens the log of a partition after a start. What it found and wrote is durable once
    /// `LogDir::sync_recovered` has run, which must be before it is used.
    ///
    /// # Errors
    /// The disk's, or `Corrupt`: records that were acknowledged are not there as they were.
    pub async fn open(
        home: &Rc<LogDir>,
        id: TopicPartition,
        settings: LogSettings,
        notes: &PartitionNotes,
    ) -> Result<(Rc<Self>, Recovered), StorageError> {
        let dir = home.partition_path(id);
        let names = match fs::list(&dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let log = Self::open_absent(home, id, settings, notes)?;
                return Ok((log, Recovered::default()));
            }
            Err(error) => return Err(StorageError::of(&dir, "list", &error)),
        };
        let files = SegmentFiles::of(&names);
        remove_obsolete(&dir, &files).await?;
        let mut bases = files.bases.clone();
        if let (Some(place), None) = (notes.cut, &notes.damage) {
            finish_cut(home, &dir, &files, &mut bases, place).await?;
        }
        let stored_start = load_start(&dir.join(START_FILE), &names).await?;
        let deleted_all = match stored_start {
            Stored::Whole(start) => deleted_all(start, &bases, notes),
            Stored::Damaged if bases.is_empty() && notes.durable() == Offset::ZERO => {
                let what = "where the log begins is not known, and no record says it";
                return Err(StorageError::Corrupt {
                    path: dir.join(START_FILE),
                    position: 0,
                    what,
                });
            }
            _ => None,
        };
        let notes = deleted_all.as_ref().unwrap_or(notes);
        let log_start = notes.log_start.max(stored_start.whole());
        let replayed_bytes = apply(home, &dir, notes, &mut bases).await?;
        let mut recovered = Recovered { replayed_bytes, ..Recovered::default() };
        if let Some(damage) = &notes.damage {
            return Err(damage.clone());
        }
        complete(&dir, &files, notes, log_start, &mut bases)?;
        remove_deleted(&dir, log_start, &files, &mut bases)?;
        let mut segments = segments_of(home, &dir, &files, &bases)?;
        let epochs_path = dir.join("epochs");
        let stored = load_epochs(&epochs_path).await?;
        let active = segments.last().expect("there is one").base;
        let at_its_start = LogPosition { segment: active, position: 0, offset: active };
        let from = notes.synced.filter(|synced| synced.segment == active).unwrap_or(at_its_start);
        let mut epochs = epochs_until(home, &dir, stored.clone(), &segments, from).await?;
        let active = segments.last_mut().expect("there is one");
        let mut log_end =
            recover_active(home, &dir, active, from, notes, &mut epochs, &mut recovered).await?;
        if let Some(start) = stored_start.whole().filter(|start| log_end < *start) {
            // Of segments that were all deleted some came back: the log goes on where it was.
            remove_segments(&dir, &files, &bases)?;
            (segments, log_end) = (vec![LogSegment::new(start)], start);
        }
        if stored.unwrap_or_default() != epochs {
            // The journal begins with a note that all of this is synced: no start reads it again.
            store_found(&epochs_path, &epochs).await?;
            home.owes_sync.set(true);
        }
        let first = segments[0].base;
        let log_start = log_start.unwrap_or(first).max(first).min(log_end);
        Ok((Self::new(home, id, settings, segments, log_start, log_end, epochs), recovered))
    }
}

impl Log {
    /// The log of a partition without a directory: the topic was made durable, its directory not yet, and nothing was
    /// ever appended.
    fn open_absent(
        home: &Rc<LogDir>,
        id: TopicPartition,
        settings: LogSettings,
        notes: &PartitionNotes,
    ) -> Result<Rc<Self>, StorageError> {
        if notes.durable() > Offset::ZERO {
            let (path, position) = (home.partition_path(id), 0);
            let what = "the directory of a partition with acknowledged records is missing";
            return Err(StorageError::Corrupt { path, position, what });
        }
        Self::create(home, id, settings)
    }
}

/// Removes segments that compacted ones have replaced.
async fn remove_obsolete(dir: &Path, files: &SegmentFiles) -> Result<(), StorageError> {
    if !files.obsolete.is_empty() {
        // What replaced them must not be lost after they are gone.
        let synced = fs::sync_dir(dir).await;
        synced.map_err(|error| StorageError::of(dir, "sync", &error))?;
    }
    for name in &files.obsolete {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(|error| StorageError::of(&path, "unlink", &error))?;
    }
    Ok(())
}

/// What is known of a log all of whose segments were deleted up to `start`: the file in which it was last known to be
/// synced went with others, of which some may have come back. `None`: it is not such a one.
fn deleted_all(start: Offset, bases: &[Offset], notes: &PartitionNotes) -> Option<PartitionNotes> {
    let synced_in = notes.synced.unwrap_or_default().segment;
    let is_gone = bases.last().is_none_or(|last| *last < synced_in);
    (is_gone && start >= notes.durable()).then(|| PartitionNotes {
        synced: Some(LogPosition { segment: start, position: 0, offset: start }),
        log_start: Some(start),
        missed_below: notes.missed_below,
        appends: Vec::new(),
        cut: None,
        damage: notes.damage.clone(),
    })
}

/// Whether all segments are there that must be; adds those that have no file yet.
fn complete(
    dir: &Path,
    files: &SegmentFiles,
    notes: &PartitionNotes,
    log_start: Option<Offset>,
    bases: &mut Vec<Offset>,
) -> Result<(), StorageError> {
    let missing = |base, what| {
        let path = LogSegment::new(base).log_path(dir);
        Err(StorageError::Corrupt { path, position: 0, what })
    };
    let synced = notes.synced.unwrap_or_default();
    if bases.last().is_none_or(|last| *last < synced.segment) {
        // Sealed, and nothing yet in the segment that follows: it gets its file when it does.
        if synced.position > 0 {
            return missing(synced.segment, "a segment with acknowledged records is missing");
        }
        bases.push(synced.segment);
    }
    if let Some(end) = bases.last().and_then(|last| files.compacted_at(*last)) {
        // Only closed segments are compacted: what follows has no file yet.
        bases.push(end.end);
    }
    assert!(!bases.is_empty(), "a log has a segment");
    let begins_at = log_start.unwrap_or_default();
    let is_known = notes.synced.is_some();
    if is_known && bases.first().is_some_and(|first| *first > begins_at) {
        return missing(
            begins_at,
            "the first segment is missing, and its records were not deleted",
        );
    }
    Ok(())
}

/// The segments with these bases; all but the last are closed.
fn segments_of(
    home: &LogDir,
    dir: &Path,
    files: &SegmentFiles,
    bases: &[Offset],
) -> Result<Vec<LogSegment>, StorageError> {
    assert!(bases.is_sorted(), "segments ascend");
    let mut segments: Vec<LogSegment> =
        bases.iter().map(|base| LogSegment::of(files, *base)).collect();
    let (_, sealed) = segments.split_last_mut().expect("there is one");
    for segment in sealed {
        let path = segment.log_path(dir);
        let length = length_of(&open_file(&path, home.direct, false)?, &path)?;
        (segment.end, segment.allocated, segment.index) = (length as u32, length, None);
        segment.began_ms = clock::unix_ms();
    }
    Ok(segments)
}

/// The epochs of what lies before `from`: as they were stored, or as the segments say.
async fn epochs_until(
    home: &Rc<LogDir>,
    dir: &Path,
    stored: Option<LeaderEpochs>,
    segments: &[LogSegment],
    from: LogPosition,
) -> Result<LeaderEpochs, StorageError> {
    let mut epochs = match stored {
        Some(epochs) => epochs,
        None if from.offset > segments[0].base => epochs_of(home, dir, segments, from).await?,
        None => LeaderEpochs::default(),
    };
    epochs.truncate(from.offset);
    Ok(epochs)
}

/// The epochs as they were stored; `None`: there are none that can be read.
async fn load_epochs(path: &Path) -> Result<Option<LeaderEpochs>, StorageError> {
    match fs::read(path).await {
        Ok(bytes) => Ok(LeaderEpochs::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::of(path, "read", &error)),
    }
}

/// Finishes a cut that the stop came upon.
async fn finish_cut(
    home: &Rc<LogDir>,
    dir: &Path,
    files: &SegmentFiles,
    bases: &mut Vec<Offset>,
    place: LogPosition,
) -> Result<(), StorageError> {
    let is_kept = place.position > 0;
    let kept = bases.partition_point(|base| match is_kept {
        true => *base <= place.segment,
        false => *base < place.segment,
    });
    let gone = bases.drain(kept..).map(|base| LogSegment::of(files, base).log_path(dir));
    let gone: Vec<_> = gone.collect();
    let path = LogSegment::new(place.segment).log_path(dir);
    if is_kept {
        let is_whole = bases.last() == Some(&place.segment)
            && length_of(&open_file(&path, home.direct, false)?, &path)?
                >= u64::from(place.position);
        if !is_whole {
            let what =
                "a segment with acknowledged records is missing, or shorter than what was synced";
            return Err(StorageError::Corrupt { path, position: 0, what });
        }
    }
    cut_files(dir, home.direct, &gone, is_kept.then_some((path.as_path(), place.position))).await
}

/// What a small file beside the segments says.
#[derive(Clone, Copy)]
enum Stored {
    Nothing,
    Whole(Offset),
    Damaged,
}

impl Stored {
    /// The start, if it could be read.
    fn whole(&self) -> Option<Offset> {
        match self {
            Self::Whole(start) => Some(*start),
            _ => None,
        }
    }
}

async fn load_start(path: &Path, names: &[String]) -> Result<Stored, StorageError> {
    if !names.iter().any(|name| name == START_FILE) {
        return Ok(Stored::Nothing);
    }
    let bytes = fs::read(path).await.map_err(|error| StorageError::of(path, "read", &error))?;
    Ok(decode_start(&bytes).map_or(Stored::Damaged, Stored::Whole))
}

/// Puts the epochs that were found in the place of those that were known. On a full disk those go: a start
/// that finds no file reads every batch, and one that finds an old file would believe it.
async fn store_found(path: &Path, epochs: &LeaderEpochs) -> Result<(), StorageError> {
    let Err(error) = fs::replace_before_sync(path, &epochs.encode()).await else { return Ok(()) };
    let failure = StorageError::of(path, "replace", &error);
    if !failure.is_full() {
        return Err(failure);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::of(path, "unlink", &error))
        }
        _ => Ok(()),
    }
}

fn length_of(file: &File, path: &Path) -> Result<u64, StorageError> {
    file.len().map_err(|error| StorageError::of(path, "stat", &error))
}

/// Walks the active segment from what is known synced to its end, and makes what was found durable.
async fn recover_active(
    home: &Rc<LogDir>,
    dir: &Path,
    active: &mut LogSegment,
    from: LogPosition,
    notes: &PartitionNotes,
    epochs: &mut LeaderEpochs,
    recovered: &mut Recovered,
) -> Result<Offset, StorageError> {
    active.began_ms = clock::unix_ms();
    let path = active.log_path(dir);
    let file = match open_file(&path, home.direct, false) {
        Ok(file) => file,
        // Only a file that is not there is an empty one: any other failure is the disk's.
        Err(error)
            if error.is_not_found() && from.position == 0 && notes.durable() <= from.offset =>
        {
            return Ok(from.offset);
        }
        Err(error) => return Err(error),
    };
    let length = length_of(&file, &path)?;
    if length < u64::from(from.position) {
        let what = "the file is shorter than what was synced";
        return Err(StorageError::Corrupt { path, position: length, what });
    }
    let mut index = SegmentIndex::new();
    let plan = Walk {
        from: from.position,
        offset: from.offset,
        to: u64::MAX,
        check_crc: true,
        epoch: epochs.latest().unwrap_or(LeaderEpoch(i32::MIN)),
        gaps: false,
    };
    let Walked { end, log_end, rest_is_empty } =
        walk_into(&path, &file, active.base, plan, &mut index, epochs).await?;
    if log_end < notes.durable() {
        let what = "an acknowledged batch is missing or unreadable; what follows it was kept";
        return Err(StorageError::Corrupt { path, position: u64::from(end), what });
    }
    recovered.found_bytes = u64::from(end.saturating_sub(from.position));
    recovered.was_torn = !rest_is_empty;
    let moved = end != from.position;
    if !rest_is_empty {
        let cut = file.set_len(u64::from(end));
        cut.map_err(|error| StorageError::of(&path, "truncate", &error))?;
    }
    if moved || !rest_is_empty {
        // Whatever is visible from now on is to be durable.
        home.owes_sync.set(true);
    }
    active.last_block = read_last_block(&path, &file, end).await?;
    if home.was_cut_short.get() && u64::from(end).next_multiple_of(DISK_BLOCK_BYTES as u64) > length
    {
        fill_last_block(&path, &file, end, &active.last_block).await?;
        home.owes_sync.set(true);
    }
    assert!(from.position <= end && from.offset <= log_end, "a walk goes forward");
    assert!(active.base <= log_end, "a segment ends behind its base");
    active.end = end;
    active.boundary = end;
    active.allocated = length_of(&file, &path)? / DISK_BLOCK_BYTES as u64 * DISK_BLOCK_BYTES as u64;
    active.index = (from.position == 0).then_some(index);
    active.index_length = (!moved && rest_is_empty).then_some(end);
    Ok(log_end)
}

/// Fills the block in which the file ends with zeros. A write that made the file longer, and that a power cut undid but
/// for what it had put into this block, would be there again once the file is longer: batches that nobody was promised,
/// in the place of later ones.
async fn fill_last_block(
    path: &Path,
    file: &File,
    end: u32,
    last_block: &[u8],
) -> Result<(), StorageError> {
    let mut writer = ChunkWriter::with_capacity(DISK_BLOCK_BYTES);
    writer.append(last_block);
    writer.append(&vec![0; DISK_BLOCK_BYTES - last_block.len()]);
    let mut pieces = vec![writer.disk_range(0..DISK_BLOCK_BYTES)];
    let written = file.write_at(&mut pieces, u64::from(block_floor(end)), false).await;
    written.map_err(|error| StorageError::of(path, "write", &error))
}

/// Removes segments whose records were all deleted before the stop.
fn remove_deleted(
    dir: &Path,
    log_start: Option<Offset>,
    files: &SegmentFiles,
    bases: &mut Vec<Offset>,
) -> Result<(), StorageError> {
    let Some(log_start) = log_start else { return Ok(()) };
    let kept = bases.partition_point(|base| *base <= log_start).saturating_sub(1);
    let deleted: Vec<Offset> = bases.drain(..kept).collect();
    assert!(!bases.is_empty(), "the last segment stays");
    remove_segments(dir, files, &deleted)
}

fn remove_segments(dir: &Path, files: &SegmentFiles, bases: &[Offset]) -> Result<(), StorageError> {
    for base in bases {
        let segment = LogSegment::of(files, *base);
        for path in [segment.index_path(dir), segment.log_path(dir)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StorageError::of(&path, "unlink", &error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The epochs of a log whose file of them is gone or damaged: read from every batch.
async fn epochs_of(
    home: &Rc<LogDir>,
    dir: &Path,
    segments: &[LogSegment],
    to: LogPosition,
) -> Result<LeaderEpochs, StorageError> {
    let mut epochs = LeaderEpochs::default();
    let mut end = Offset::ZERO;
    for segment in segments.iter().filter(|segment| segment.base < to.offset) {
        let path = segment.log_path(dir);
        let file = open_file(&path, home.direct, false)?;
        let mut ignored = SegmentIndex::new();
        let base = segment.base;
        let plan = Walk {
            from: 0,
            offset: base,
            to: u64::MAX,
            check_crc: false,
            epoch: epochs.latest().unwrap_or(LeaderEpoch(i32::MIN)),
            gaps: segment.compacted.is_some(),
        };
        if base < end {
            let what = "the segment before it goes further: files of different times lie together";
            return Err(StorageError::Corrupt { path, position: 0, what });
        }
        end = walk_into(&path, &file, base, plan, &mut ignored, &mut epochs).await?.log_end;
    }
    Ok(epochs)
}

/// Puts journaled bytes that may not be in their segments there; makes segments that have no file
/// yet. Returns how many bytes. They are durable after `LogDir::sync_recovered`.
pub(crate) async fn apply(
    home: &Rc<LogDir>,
    dir: &Path,
    notes: &PartitionNotes,
    bases: &mut Vec<Offset>,
) -> Result<u64, StorageError> {
    let synced = notes.synced.unwrap_or_default();
    // A segment is sealed, synced and cut to its length, before anything of the next is journaled.
    let last = bases.last().copied().unwrap_or_default().max(synced.segment);
    let last = notes.appends.iter().map(|append| append.at.segment).max().unwrap_or(last).max(last);
    let owed = |append: &&JournaledAppend| append.end > synced.offset && append.at.segment == last;
    let mut owed = notes.appends.iter().filter(owed).peekable();
    let mut written = 0;
    while let Some(first) = owed.next() {
        // What lies side by side is written at once.
        let mut bytes = first.bytes.to_vec();
        let follows = |bytes: &Vec<u8>, next: &JournaledAppend| {
            next.at.segment == first.at.segment
                && next.at.position as usize == first.at.position as usize + bytes.len()
        };
        while let Some(next) = owed.next_if(|next| follows(&bytes, next)) {
            bytes.extend_from_slice(&next.bytes);
        }
        let base = first.at.segment;
        let is_known = bases.binary_search(&base);
        let path = LogSegment::new(base).log_path(dir);
        let file = open_file(&path, home.direct, is_known.is_err())?;
        if let Err(at) = is_known {
            bases.insert(at, base);
        }
        patch(&file, &path, u64::from(first.at.position), &bytes).await?;
        written += bytes.len() as u64;
    }
    if written > 0 {
        home.owes_sync.set(true);
    }
    Ok(written)
}

/// Writes bytes at any position, leaving what is around them as it is.
async fn patch(file: &File, path: &Path, at: u64, bytes: &[u8]) -> Result<(), StorageError> {
    let block = DISK_BLOCK_BYTES as u64;
    let (start, end) = (at / block * block, (at + bytes.len() as u64).next_multiple_of(block));
    let length = length_of(file, path)?;
    if length < end
        && let Err(error) = file.allocate(length, end - length).await
    {
        // What it got before there was no more goes back.
        let _ = file.set_len(length);
        return Err(StorageError::of(path, "fallocate", &error));
    }
    let mut around = vec![0; (end - start) as usize];
    let edges = [start, end - block];
    for &edge in if start == end - block { &edges[..1] } else { &edges[..] } {
        if edge >= length {
            continue;
        }
        let (read, writer) = file
            .read_at(ChunkWriter::with_capacity(DISK_BLOCK_BYTES), edge, DISK_BLOCK_BYTES)
            .await;
        read.map_err(|error| StorageError::of(path, "read", &error))?;
        let place = (edge - start) as usize;
        around[place..place + writer.filled()].copy_from_slice(writer.bytes());
    }
    let place = (at - start) as usize;
    around[place..place + bytes.len()].copy_from_slice(bytes);
    let mut writer = ChunkWriter::with_capacity(around.len());
    writer.append(&around);
    let written = file.write_at(&mut vec![writer.disk_range(0..around.len())], start, false).await;
    written.map_err(|error| StorageError::of(path, "write", &error))
}

/// The start of the block in which a segment ends, to be written again with what follows.
async fn read_last_block(path: &Path, file: &File, end: u32) -> Result<Vec<u8>, StorageError> {
    let from = block_floor(end);
    if from == end {
        return Ok(Vec::new());
    }
    let writer = ChunkWriter::with_capacity(DISK_BLOCK_BYTES);
    let (read, writer) = file.read_at(writer, u64::from(from), DISK_BLOCK_BYTES).await;
    read.map_err(|error| StorageError::of(path, "read", &error))?;
    let bytes = writer.bytes().get(..(end - from) as usize);
    bytes.map(<[u8]>::to_vec).ok_or(StorageError::Corrupt {
        path: path.to_owned(),
        position: u64::from(from),
        what: "the file ends before its last batch",
    })
}
