//! Every batch of a log, in order: what state that follows from a log is read with.

use model::{Offset, RecordBatch};
use storage::{Log, Read, StorageError};

const READ_BYTES: usize = 1024 * 1024;

/// Visits the batches from the one that holds `from` up to `end`; returns their bytes.
pub(crate) async fn walk(
    log: &Log,
    from: Offset,
    end: Offset,
    mut visit: impl FnMut(RecordBatch<'_>) -> Result<(), StorageError>,
) -> Result<u64, StorageError> {
    let (mut pieces, mut bytes) = (Vec::new(), Vec::new());
    let (mut offset, mut total) = (from, 0);
    while offset < end {
        pieces.clear();
        if log.read_cached(offset, READ_BYTES, end, &mut pieces) == Read::Miss {
            log.read_disk(offset, READ_BYTES, end, &mut pieces).await?;
        }
        bytes.clear();
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        let (mut rest, before) = (&bytes[..], offset);
        while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
            rest = tail;
            if batch.last_offset() >= offset {
                visit(batch)?;
                total += batch.bytes().len() as u64;
                offset = batch.last_offset().plus(1);
            }
        }
        if offset == before {
            let why = format!("{}: no batch at offset {offset}", log.id());
            return Err(StorageError::Unusable(why));
        }
        runtime::timer::next_turn().await;
    }
    Ok(total)
}
