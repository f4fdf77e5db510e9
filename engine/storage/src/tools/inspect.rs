//! Files of a data directory in words, and what is wrong with them.

use crate::StorageError;
use crate::directory::catalog::Catalog;
use crate::directory::data_dir::Superblock;
use crate::journal::frame::EntryKind;
use crate::journal::known::KnownJournal;
use crate::journal::replay::scan;
use crate::log::index::SegmentIndex;
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::recovery::{Walk, Walked, walk};
use crate::log::retain::decode_start;
use crate::log::segment_files::parse_stem;
use model::{Compression, LeaderEpoch, Offset, RecordBatch, crc32c};
use runtime::buffer::ChunkWriter;
use runtime::file::{File, OpenOptions};
use runtime::fs;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// How far behind a bad batch a good one is looked for.
const SEARCH_BYTES: usize = 8 * 1024 * 1024;

/// What a file says of itself.
#[derive(Debug, Default)]
pub struct Inspected {
    /// Several lines.
    pub text: String,
    /// What is wrong; empty if nothing is.
    pub damage: Vec<String>,
}

macro_rules! say {
    ($out:expr, $($arg:tt)*) => { writeln!($out.text, $($arg)*).expect("a string takes text") };
}

/// Reads one file and says what is in it; with `details` every batch, frame and entry.
///
/// # Errors
/// It cannot be read, or is none of a data directory's files.
pub async fn inspect(path: &Path, details: bool) -> Result<Inspected, StorageError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut out = Inspected::default();
    if let Some((base, compacted)) = name.strip_suffix(".log").and_then(parse_stem) {
        segment(path, base, compacted.is_some(), details, &mut out).await?;
        return Ok(out);
    }
    let bytes = fs::read(path).await.map_err(|error| StorageError::of(path, "read", &error))?;
    match bytes.get(..8) {
        Some(b"WEIRSUPR") => superblock(&bytes, &mut out),
        Some(b"WEIRCATL") => catalog(&bytes, details, &mut out),
        Some(b"WEIRIDX1") => index(&bytes, details, &mut out),
        Some(b"WEIREPOC") => epochs(&bytes, &mut out),
        Some(b"WEIRPROD") => producers(&bytes, &mut out),
        Some(b"WEIRCLND") => cleaned(&bytes, &mut out),
        Some(b"WEIRSTRT") => start(&bytes, &mut out),
        _ if name.ends_with(".idx") || name == "epochs" || name.starts_with("catalog") => {
            out.damage.push("its first bytes are not those of such a file".to_owned());
        }
        _ if path.parent().is_some_and(|dir| dir.ends_with("journal")) => {
            journal(&bytes, details, &mut out);
        }
        Some(b"WEIRJRNL") => journal(&bytes, details, &mut out),
        _ => {
            return Err(StorageError::Unusable(format!(
                "{}: not a segment, index, journal, superblock, catalog or file of epochs",
                path.display()
            )));
        }
    }
    Ok(out)
}

/// A time as people write it, UTC.
#[must_use]
pub fn time_of(unix_ms: i64) -> String {
    if unix_ms < 0 {
        return "none".to_owned();
    }
    let (days, seconds) = (unix_ms.div_euclid(86_400_000), unix_ms.rem_euclid(86_400_000) / 1000);
    let (year, month, day) = model::calendar::date_of(days);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", unix_ms.rem_euclid(1000))
}

async fn segment(
    path: &Path,
    base: Offset,
    compacted: bool,
    details: bool,
    out: &mut Inspected,
) -> Result<(), StorageError> {
    let file = File::open(path, OpenOptions::default());
    let file = file.map_err(|error| StorageError::of(path, "open", &error))?;
    let length = file.len().map_err(|error| StorageError::of(path, "stat", &error))?;
    let plan = Walk {
        from: 0,
        offset: base,
        to: u64::MAX,
        check_crc: true,
        epoch: LeaderEpoch(i32::MIN),
        gaps: compacted,
    };
    let (mut batches, mut records) = (0u64, 0u64);
    let (mut first_ms, mut last_ms) = (i64::MAX, i64::MIN);
    let mut codecs: BTreeMap<&str, u64> = BTreeMap::new();
    let mut epochs: Vec<i32> = Vec::new();
    let mut lines = String::new();
    let mut rebuilt = SegmentIndex::new();
    let walked = walk(path, &file, plan, |batch, position| {
        batches += 1;
        records += u64::from(batch.record_count().unsigned_abs());
        first_ms = first_ms.min(batch.base_timestamp());
        last_ms = last_ms.max(batch.max_timestamp());
        let codec = batch.compression().map_or("unknown", Compression::name);
        *codecs.entry(codec).or_default() += 1;
        if epochs.last() != Some(&batch.leader_epoch().0) {
            epochs.push(batch.leader_epoch().0);
        }
        let header = crate::log::index::header_of(batch);
        rebuilt.on_batch(base, batch.base_offset(), position, header, batch.max_timestamp());
        if details {
            let _ = writeln!(
                lines,
                "  at {position}: offsets {}..={}, {} records, {} bytes, {codec}, epoch {}, producer {}, until {}",
                batch.base_offset(),
                batch.last_offset(),
                batch.record_count(),
                batch.bytes().len(),
                batch.leader_epoch(),
                batch.producer_id(),
                time_of(batch.max_timestamp())
            );
        }
    })
    .await?;
    let kind = if compacted { "compacted segment" } else { "segment" };
    say!(out, "{kind} with base offset {base}: {batches} batches, {records} records");
    if batches > 0 {
        let codecs: Vec<_> = codecs.iter().map(|(name, n)| format!("{n} {name}")).collect();
        say!(out, "  offsets {base} to {}, {} bytes", walked.log_end.0 - 1, walked.end);
        say!(out, "  timestamps {} to {}", time_of(first_ms), time_of(last_ms));
        say!(out, "  batches: {}; leader epochs {epochs:?}", codecs.join(", "));
    }
    out.text.push_str(&lines);
    if length > u64::from(walked.end) {
        tell_rest(path, &file, length, &walked, out).await?;
    }
    tell_index(path, walked.end, &rebuilt, out).await;
    Ok(())
}

/// What follows behind the last batch.
async fn tell_rest(
    path: &Path,
    file: &File,
    length: u64,
    walked: &Walked,
    out: &mut Inspected,
) -> Result<(), StorageError> {
    let rest = length - u64::from(walked.end);
    if walked.rest_is_empty {
        say!(out, "  then {rest} bytes of preallocated space");
    } else {
        let follows = good_batch_behind(path, file, walked.end, walked.log_end).await?;
        let place = format!("byte {} (offset {})", walked.end, walked.log_end);
        out.damage.push(match follows {
            Some((position, offset)) => format!(
                "{place}: not the next batch, and a good one with offset {offset} follows at byte {position}"
            ),
            None => format!(
                "{place}: {rest} bytes that are no batch: a torn write, unless the journal knows better"
            ),
        });
    }
    Ok(())
}

/// Whether a segment's index is that of its batches.
async fn tell_index(path: &Path, end: u32, rebuilt: &SegmentIndex, out: &mut Inspected) {
    let index_path = path.with_extension("idx");
    if let Ok(bytes) = fs::read(&index_path).await {
        match SegmentIndex::decode(&bytes, u64::from(end)) {
            Some(stored) if stored.agrees_with(rebuilt) => say!(out, "  its index agrees"),
            Some(_) => out.damage.push(format!(
                "its index {} does not agree with it; remove the index, it is made again",
                index_path.display()
            )),
            None => out.damage.push(format!(
                "its index {} is damaged or of another log; remove it, it is made again",
                index_path.display()
            )),
        }
    }
}

/// The first whole batch behind `from` with an offset above what is missing.
async fn good_batch_behind(
    path: &Path,
    file: &File,
    from: u32,
    missing: Offset,
) -> Result<Option<(u64, Offset)>, StorageError> {
    let start = u64::from(from) + 1;
    let (read, writer) =
        file.read_at(ChunkWriter::with_capacity(SEARCH_BYTES), start, SEARCH_BYTES).await;
    read.map_err(|error| StorageError::of(path, "read", &error))?;
    let bytes = writer.bytes();
    let found = (0..bytes.len()).find_map(|at| {
        // The magic byte first: most positions are ruled out by it.
        if bytes.get(at + 16) != Some(&2) {
            return None;
        }
        let (batch, _) = RecordBatch::split_first(&bytes[at..]).ok()?;
        (batch.base_offset() > missing && batch.crc_matches())
            .then(|| (start + at as u64, batch.base_offset()))
    });
    Ok(found)
}

/// The body of a file that ends with a CRC over it.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    (u32::from_be_bytes(*crc) == crc32c::checksum(body)).then_some(body)
}

fn producers(bytes: &[u8], out: &mut Inspected) {
    let number = |body: &[u8]| {
        let end = i64::from_be_bytes(body.get(8..16)?.try_into().ok()?);
        Some((end, u32::from_be_bytes(body.get(16..20)?.try_into().ok()?)))
    };
    match checked(bytes).and_then(number) {
        Some((end, known)) => say!(out, "producers known at offset {end}: {known}"),
        None => out.damage.push("damaged; the next start reads the whole log instead".to_owned()),
    }
}

fn cleaned(bytes: &[u8], out: &mut Inspected) {
    let offset = |body: &[u8]| Some(i64::from_be_bytes(body.get(8..16)?.try_into().ok()?));
    match checked(bytes).and_then(offset) {
        Some(offset) => say!(out, "compacted up to offset {offset}"),
        None => out.damage.push("damaged; all is compacted once more".to_owned()),
    }
}

fn superblock(bytes: &[u8], out: &mut Inspected) {
    match Superblock::decode(bytes) {
        Err(why) => out.damage.push(why),
        Ok(superblock) => {
            say!(
                out,
                "superblock of format version {}, generation {}",
                superblock.format_version,
                superblock.generation
            );
            say!(out, "  cluster {}, node {}", superblock.cluster_id, superblock.node_id);
            say!(out, "  directory {}", superblock.directory_id);
            say!(out, "  started {} times; leader epoch of the last start", superblock.incarnation);
            say!(
                out,
                "  {}",
                if superblock.clean { "stopped cleanly" } else { "in use, or not stopped cleanly" }
            );
            for journal in &superblock.journals.journals {
                let KnownJournal { shard, id, sequence } = journal;
                say!(out, "  journal {id:016x} of shard {shard} began file {sequence}");
            }
        }
    }
}

fn catalog(bytes: &[u8], details: bool, out: &mut Inspected) {
    let Some(catalog) = Catalog::decode(bytes) else {
        out.damage.push("its checksum does not match".to_owned());
        return;
    };
    say!(
        out,
        "catalog, generation {}: {} topics, {} directories, {} deleted topics",
        catalog.generation,
        catalog.topics.len(),
        catalog.directories.len(),
        catalog.deleted.len()
    );
    for topic in &catalog.topics {
        say!(out, "  {} ({}), {} partitions", topic.name, topic.id, topic.partitions);
        for (name, value) in topic.settings.iter().filter(|_| details) {
            say!(out, "    {name}={value}");
        }
    }
}

fn index(bytes: &[u8], details: bool, out: &mut Inspected) {
    let Some(index) = SegmentIndex::decode(bytes, u64::MAX) else {
        out.damage.push("its checksum or lengths do not match; remove it, it is made again".into());
        return;
    };
    say!(
        out,
        "index of {} entries; largest timestamp {}",
        index.entries().len(),
        time_of(index.max_timestamp())
    );
    for entry in index.entries().iter().filter(|_| details) {
        say!(
            out,
            "  offset +{} at byte {}, before it until {}",
            entry.relative_offset,
            entry.position,
            time_of(entry.max_timestamp_before)
        );
    }
}

fn start(bytes: &[u8], out: &mut Inspected) {
    match decode_start(bytes) {
        Some(offset) => say!(out, "the log begins at offset {offset}"),
        None => out.damage.push("its checksum does not match".to_owned()),
    }
}

fn epochs(bytes: &[u8], out: &mut Inspected) {
    let Some(epochs) = LeaderEpochs::decode(bytes) else {
        out.damage.push("its checksum does not match; remove it, it is made again".into());
        return;
    };
    say!(out, "leader epochs");
    for (epoch, start) in epochs.starts() {
        say!(out, "  epoch {epoch} from offset {start}");
    }
}

fn journal(bytes: &[u8], details: bool, out: &mut Inspected) {
    let found = scan(bytes);
    if found.frames.is_empty() {
        say!(out, "journal file without frames, {} bytes", bytes.len());
        return;
    }
    let entries = || found.frames.iter().flat_map(|(_, frame)| &frame.entries);
    let count = |kind| entries().filter(|(entry, _)| entry.kind == kind).count();
    say!(
        out,
        "journal {:016x}, file {}: {} frames up to byte {} of {}",
        found.journal,
        found.sequence,
        found.frames.len(),
        found.end,
        bytes.len()
    );
    say!(
        out,
        "  {} appends, {} synced, {} log starts{}",
        count(EntryKind::Append),
        count(EntryKind::Synced),
        count(EntryKind::LogStart),
        if count(EntryKind::PreviousDone) > 0 { "; older files are done with" } else { "" }
    );
    for at in &found.rotten {
        out.damage.push(format!("a frame at byte {at} is unreadable, and later ones are whole"));
    }
    let last = found.frames.len() - 1;
    for (number, (at, frame)) in found.frames.iter().enumerate() {
        if details {
            say!(out, "  frame {} at byte {at}, {} bytes", frame.id.number, frame.bytes);
        }
        for (index, (entry, data)) in frame.entries.iter().enumerate() {
            if details {
                say!(
                    out,
                    "    {:?} {} segment {} byte {} offset {} to {}, {} bytes",
                    entry.kind,
                    entry.partition,
                    entry.at.segment,
                    entry.at.position,
                    entry.at.offset,
                    entry.end,
                    entry.len
                );
            }
            if !frame.is_whole(index, &bytes[*at..*at + frame.bytes]) {
                let torn = if number == last { " (torn, if no later file follows)" } else { "" };
                out.damage.push(format!(
                    "bytes of {} at byte {} are bad{torn}",
                    entry.partition,
                    at + data
                ));
            }
        }
    }
}
