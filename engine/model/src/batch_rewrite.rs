//! Batches changed by the broker: another codec (`compression.type`), its own timestamp
//! (`LogAppendTime`). What stays is copied; the CRC is made anew.

use crate::limits::{BATCH_HEADER_BYTES, DECOMPRESSED_BYTES_MAX};
use crate::record_batch::{CRC_COVERS_FROM, RecordBatch, TIMESTAMP_TYPE_BIT};
use crate::{BatchError, Compression, crc32c};

/// What is changed of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchChanges {
    /// The codec its records are kept in.
    pub codec: Option<Compression>,
    /// The broker's time of the append, for all its records; ms since the Unix epoch.
    pub append_time: Option<i64>,
    /// The largest timestamp of its records, where its header says another.
    pub max_timestamp: Option<i64>,
    /// `BatchRewriter::unpack` was called for it just now.
    pub is_unpacked: bool,
}

impl BatchChanges {
    /// Whether nothing is.
    #[must_use]
    pub fn are_none(self) -> bool {
        self.codec.is_none() && self.append_time.is_none() && self.max_timestamp.is_none()
    }
}

/// Memory that rewriting uses again and again.
#[derive(Default)]
pub struct BatchRewriter {
    plain: Vec<u8>,
    out: Vec<u8>,
    /// Bytes unpacked since `begin_request`.
    unpacked: usize,
}

impl BatchRewriter {
    /// What is unpacked from now on belongs to another request.
    pub fn begin_request(&mut self) {
        self.unpacked = 0;
    }

    /// Bytes of memory it keeps.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.plain.capacity() + self.out.capacity()
    }

    /// The records of a batch, decompressed; `rewrite` can use them again.
    ///
    /// # Errors
    /// As `RecordBatch::records`, and `Unpacked` once those of a request are too many bytes: a few packed ones can
    /// stand for very many.
    pub async fn unpack(
        &mut self,
        batch: RecordBatch<'_>,
        rest: &mut impl AsyncFnMut(),
    ) -> Result<&[u8], BatchError> {
        self.plain.clear();
        if self.unpacked > DECOMPRESSED_BYTES_MAX {
            return Err(BatchError::Unpacked);
        }
        let codec = batch.compression().ok_or(BatchError::Codec)?;
        codec.decompress_resting(batch.body(), &mut self.plain, rest).await?;
        self.unpacked += self.plain.len();
        if self.unpacked > DECOMPRESSED_BYTES_MAX {
            Err(BatchError::Unpacked)
        } else {
            Ok(&self.plain)
        }
    }

    /// `batch` with these changes.
    ///
    /// # Errors
    /// As `unpack`.
    pub async fn rewrite(
        &mut self,
        batch: RecordBatch<'_>,
        changes: BatchChanges,
        rest: &mut impl AsyncFnMut(),
    ) -> Result<RecordBatch<'_>, BatchError> {
        let from = batch.compression().ok_or(BatchError::Codec)?;
        let to = changes.codec.unwrap_or(from);
        if to != from && from != Compression::None && !changes.is_unpacked {
            self.unpack(batch, rest).await?;
        }
        self.out.clear();
        self.out.extend_from_slice(&batch.bytes()[..BATCH_HEADER_BYTES]);
        let plain = if from == Compression::None { batch.body() } else { &self.plain };
        if to == from {
            self.out.extend_from_slice(batch.body());
        } else if to == Compression::None {
            self.out.extend_from_slice(plain);
        } else {
            to.compress_resting(plain, &mut self.out, rest).await;
        }
        let length = (self.out.len() - crate::limits::BATCH_LENGTH_PREFIX_BYTES) as i32;
        let mut attributes = batch.attributes() & !7 | to as u16;
        if changes.append_time.is_some() {
            attributes |= TIMESTAMP_TYPE_BIT;
        }
        if let Some(time) = changes.append_time.or(changes.max_timestamp) {
            self.out[35..43].copy_from_slice(&time.to_be_bytes());
        }
        self.out[8..12].copy_from_slice(&length.to_be_bytes());
        self.out[21..23].copy_from_slice(&attributes.to_be_bytes());
        let crc = crc32c::checksum(&self.out[CRC_COVERS_FROM..]);
        self.out[17..21].copy_from_slice(&crc.to_be_bytes());
        RecordBatch::split_first(&self.out).map(|(batch, _)| batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, at_once};

    #[test]
    fn records_survive_every_change_of_codec() {
        let mut rewriter = BatchRewriter::default();
        for from in Compression::ALL {
            for to in Compression::ALL {
                let mut builder = BatchBuilder::default();
                builder.begin(1_000);
                for n in 0..50i64 {
                    let value = [n as u8; 300];
                    builder.push(1_000 + n, Some(b"key"), Some(&value), &[("h", None)]);
                }
                builder.finish(from);
                let (before, _) = RecordBatch::split_first(builder.bytes()).unwrap();
                let changes = BatchChanges { codec: Some(to), ..BatchChanges::default() };
                let after = at_once(rewriter.rewrite(before, changes, &mut async || ())).unwrap();
                assert!(after.crc_matches());
                assert_eq!(after.compression(), Some(to));
                assert_eq!((after.base_timestamp(), after.max_timestamp()), (1_000, 1_049));
                let (mut one, mut two) = (Vec::new(), Vec::new());
                let records = |b: RecordBatch<'_>, scratch: &mut Vec<u8>| {
                    let of = |r: crate::Record<'_>| (r.offset_delta, r.value.map(<[u8]>::to_vec));
                    b.records(scratch).unwrap().map(|r| of(r.unwrap())).collect::<Vec<_>>()
                };
                assert_eq!(records(before, &mut one), records(after, &mut two));
                let stamped = {
                    let changes = BatchChanges { append_time: Some(77), ..BatchChanges::default() };
                    at_once(rewriter.rewrite(before, changes, &mut async || ())).unwrap()
                };
                assert!(stamped.crc_matches() && stamped.is_log_append_time());
                assert_eq!((stamped.max_timestamp(), stamped.record_count()), (77, 50));
                assert_eq!(stamped.compression(), Some(from));
            }
        }
    }
}
