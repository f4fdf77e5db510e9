//! What is trusted after a stop: walks a segment and finds where its batches end.

use crate::StorageError;
use crate::index::{SegmentIndex, header_of};
use crate::leader_epochs::LeaderEpochs;
use model::limits::{DISK_BLOCK_BYTES, REQUEST_BYTES_MAX_DEFAULT};
use model::{LeaderEpoch, Offset, RecordBatch};
use runtime::buffer::ChunkWriter;
use runtime::file::File;
use std::path::Path;

const READ_BYTES: usize = 1024 * 1024;

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

/// Walks the batches of a segment from `from` (the start of a batch with offset `next`) and feeds
/// the index and epochs. Looks at nothing from position `to` on. Stops at the first position that does not hold the next batch.
pub(crate) async fn walk(
    path: &Path,
    file: &File,
    base: Offset,
    from: (u32, Offset),
    to: u64,
    check_crc: bool,
    index: &mut SegmentIndex,
    epochs: &mut LeaderEpochs,
) -> Result<Walked, StorageError> {
    let length = file.len().map_err(|error| StorageError::of(path, "stat", &error))?.min(to);
    let (mut end, mut next) = from;
    // Direct reads begin at a block; what precedes `from` in it is skipped.
    let mut read_at = u64::from(end) / DISK_BLOCK_BYTES as u64 * DISK_BLOCK_BYTES as u64;
    let mut pending: Vec<u8> = Vec::new();
    let mut skip = (u64::from(end) - read_at) as usize;
    // Bytes of an earlier time may lie behind the end; their epoch is below that of what precedes.
    let mut last_epoch = epochs.latest().unwrap_or(LeaderEpoch(i32::MIN));
    let mut used = 0;
    'read: while read_at < length {
        let (result, writer) =
            file.read_at(ChunkWriter::with_capacity(READ_BYTES), read_at, READ_BYTES).await;
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
                Some(total) if !(61..=REQUEST_BYTES_MAX_DEFAULT as usize).contains(&total) => {
                    break 'read;
                }
                Some(total) if total <= rest.len() => {}
                _ => break,
            }
            let Ok((batch, _)) = RecordBatch::split_first(rest) else { break 'read };
            let good = batch.base_offset() == next
                && batch.last_offset_delta() >= 0
                && last_epoch <= batch.leader_epoch()
                && (!check_crc || batch.crc_matches());
            if !good {
                break 'read;
            }
            index.on_batch(base, next, end, header_of(batch), batch.max_timestamp());
            epochs.on_append(batch.leader_epoch(), next);
            last_epoch = batch.leader_epoch();
            end += batch.bytes().len() as u32;
            next = batch.last_offset().plus(1);
            used += batch.bytes().len();
        }
        pending.drain(..std::mem::take(&mut used));
    }
    let rest = &pending[used..];
    let rest_is_empty = rest.iter().take(DISK_BLOCK_BYTES).all(|byte| *byte == 0);
    Ok(Walked { end, log_end: next, rest_is_empty })
}
