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
}

/// Walks the batches of a segment from `from` (the start of a batch with offset `next`) and feeds
/// the index and epochs. Stops at the first position that does not hold the next batch.
pub(crate) async fn walk(
    path: &Path,
    file: &File,
    base: Offset,
    from: (u32, Offset),
    check_crc: bool,
    index: &mut SegmentIndex,
    epochs: &mut LeaderEpochs,
) -> Result<Walked, StorageError> {
    let length = file.len().map_err(|error| StorageError::of(path, "stat", &error))?;
    let (mut end, mut next) = from;
    // Direct reads begin at a block; what precedes `from` in it is skipped.
    let mut read_at = u64::from(end) / DISK_BLOCK_BYTES as u64 * DISK_BLOCK_BYTES as u64;
    let mut pending: Vec<u8> = Vec::new();
    let mut skip = (u64::from(end) - read_at) as usize;
    let mut last_epoch = LeaderEpoch(i32::MIN);
    'read: while read_at < length {
        let (result, writer) =
            file.read_at(ChunkWriter::with_capacity(READ_BYTES), read_at, READ_BYTES).await;
        let read = result.map_err(|error| StorageError::of(path, "read", &error))?;
        if read == 0 {
            break;
        }
        read_at += read as u64;
        let fresh = &writer.bytes()[skip.min(read)..];
        skip = 0;
        pending.extend_from_slice(fresh);
        let mut used = 0;
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
        pending.drain(..used);
    }
    Ok(Walked { end, log_end: next })
}
