//! What is trusted after a stop: walks a segment and finds where its batches end.

use crate::StorageError;
use crate::log::index::{SegmentIndex, header_of};
use crate::log::leader_epochs::LeaderEpochs;
use model::limits::{BATCH_HEADER_BYTES, DISK_BLOCK_BYTES, REQUEST_BYTES_MAX_DEFAULT};
use model::{LeaderEpoch, Offset, RecordBatch};
use runtime::buffer::ChunkWriter;
use runtime::file::File;
use std::path::Path;

/// Reads begin small, because often nothing is there, and grow.
const READ_BYTES_FIRST: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 1024 * 1024;

/// What a walk covers and demands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// Position of the first batch.
    pub(crate) from: u32,
    /// Its offset.
    pub(crate) offset: Offset,
    /// Nothing from here on is looked at.
    pub(crate) to: u64,
    /// Whether each batch's CRC is checked, or only its header.
    pub(crate) check_crc: bool,
    /// The epoch of the batch in front: bytes of an earlier time, which may lie behind the end, have
    /// a lower one.
    pub(crate) epoch: LeaderEpoch,
    /// Whether offsets may be left out between batches: the segment was compacted.
    pub(crate) gaps: bool,
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walked {
    /// Position behind the last good batch.
    pub(crate) end: u32,
    /// The next offset.
    pub(crate) log_end: Offset,
    /// Whether nothing but zeroes, or nothing, follows directly: no write was torn there.
    pub(crate) rest_is_empty: bool,
}

/// Walks the batches of a segment, shows each with its position, and stops at the first position
/// that does not hold the next batch.
pub(crate) async fn walk(
    path: &Path,
    file: &File,
    walk: Walk,
    mut visit: impl FnMut(RecordBatch<'_>, u32),
) -> Result<Walked, StorageError> {
    let length = file.len().map_err(|error| StorageError::of(path, "stat", &error))?.min(walk.to);
    let (mut end, mut next) = (walk.from, walk.offset);
    // Direct reads begin at a block; what precedes `from` in it is skipped.
    let mut read_at = u64::from(end) / DISK_BLOCK_BYTES as u64 * DISK_BLOCK_BYTES as u64;
    let mut pending: Vec<u8> = Vec::new();
    let mut skip = (u64::from(end) - read_at) as usize;
    let mut last_epoch = walk.epoch;
    let mut used = 0;
    let mut read_bytes = READ_BYTES_FIRST;
    'read: while read_at < length {
        let (result, writer) =
            file.read_at(ChunkWriter::with_capacity(read_bytes), read_at, read_bytes).await;
        read_bytes = (read_bytes * 8).min(READ_BYTES_MAX);
        let read = result.map_err(|error| StorageError::of(path, "read", &error))?;
        if read == 0 {
            break;
        }
        let within = read.min((length - read_at) as usize);
        read_at += read as u64;
        let fresh = &writer.bytes()[skip.min(within)..within];
        skip = 0;
        pending.extend_from_slice(fresh);
        used = 0;
        loop {
            let rest = &pending[used..];
            match RecordBatch::total_bytes(rest) {
                None if rest.len() >= 12 => break 'read,
                Some(total)
                    if !(BATCH_HEADER_BYTES..=REQUEST_BYTES_MAX_DEFAULT as usize)
                        .contains(&total) =>
                {
                    break 'read;
                }
                Some(total) if total <= rest.len() => {}
                _ => break,
            }
            let Ok((batch, _)) = RecordBatch::split_first(rest) else { break 'read };
            let follows = batch.base_offset() == next || walk.gaps && batch.base_offset() > next;
            let good = follows
                && batch.last_offset_delta() >= 0
                && last_epoch <= batch.leader_epoch()
                && (!walk.check_crc || batch.crc_matches());
            if !good {
                break 'read;
            }
            visit(batch, end);
            last_epoch = batch.leader_epoch();
            end += batch.bytes().len() as u32;
            next = batch.last_offset().plus(1);
            used += batch.bytes().len();
        }
        pending.drain(..std::mem::take(&mut used));
    }
    assert!(walk.from <= end && walk.offset <= next, "a walk goes forward");
    let rest = &pending[used..];
    let rest_is_empty = rest.iter().take(DISK_BLOCK_BYTES).all(|byte| *byte == 0);
    Ok(Walked { end, log_end: next, rest_is_empty })
}

/// As `walk`, filling an index of the segment with this base offset and the epochs.
pub(crate) async fn walk_into(
    path: &Path,
    file: &File,
    base: Offset,
    plan: Walk,
    index: &mut SegmentIndex,
    epochs: &mut LeaderEpochs,
) -> Result<Walked, StorageError> {
    walk(path, file, plan, |batch, position| {
        let offset = batch.base_offset();
        index.on_batch(base, offset, position, header_of(batch), batch.max_timestamp());
        epochs.on_append(batch.leader_epoch(), offset);
    })
    .await
}
