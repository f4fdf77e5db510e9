//! Batches changed by the broker: another codec (`compression.type`), its own timestamp
//! (`LogAppendTime`). What stays is copied; the CRC is made anew.

use crate::limits::BATCH_HEADER_BYTES;
use crate::record_batch::{BatchError, CRC_COVERS_FROM, RecordBatch, TIMESTAMP_TYPE_BIT};
use crate::{Compression, crc32c};

/// Memory that rewriting uses again and again.
#[derive(Default)]
pub struct BatchRewriter {
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl BatchRewriter {
    /// `batch` with its records in `codec` and, if `append_time` is given (ms since the Unix
    /// epoch), with that as the time of all its records.
    ///
    /// # Errors
    /// `Codec` when the records do not decompress.
    pub fn rewrite(
        &mut self,
        batch: RecordBatch<'_>,
        codec: Option<Compression>,
        append_time: Option<i64>,
    ) -> Result<RecordBatch<'_>, BatchError> {
        let from = batch.compression().ok_or(BatchError::Codec)?;
        let to = codec.unwrap_or(from);
        self.out.clear();
        self.out.extend_from_slice(&batch.bytes()[..BATCH_HEADER_BYTES]);
        if to == from {
            self.out.extend_from_slice(batch.body());
        } else {
            let plain = if from == Compression::None {
                batch.body()
            } else {
                self.plain.clear();
                from.decompress(batch.body(), &mut self.plain).map_err(|_| BatchError::Codec)?;
                &self.plain
            };
            if to == Compression::None {
                self.out.extend_from_slice(plain);
            } else {
                to.compress(plain, &mut self.out);
            }
        }
        let length = (self.out.len() - crate::limits::BATCH_LENGTH_PREFIX_BYTES) as i32;
        let mut attributes = batch.attributes() & !7 | to as u16;
        if let Some(time) = append_time {
            attributes |= TIMESTAMP_TYPE_BIT;
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
    use crate::BatchBuilder;

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
                let after = rewriter.rewrite(before, Some(to), None).unwrap();
                assert!(after.crc_matches());
                assert_eq!(after.compression(), Some(to));
                assert_eq!((after.base_timestamp(), after.max_timestamp()), (1_000, 1_049));
                let (mut one, mut two) = (Vec::new(), Vec::new());
                let records = |b: RecordBatch<'_>, scratch: &mut Vec<u8>| {
                    let of = |r: crate::Record<'_>| (r.offset_delta, r.value.map(<[u8]>::to_vec));
                    b.records(scratch).unwrap().map(|r| of(r.unwrap())).collect::<Vec<_>>()
                };
                assert_eq!(records(before, &mut one), records(after, &mut two));
                let stamped = rewriter.rewrite(before, None, Some(77)).unwrap();
                assert!(stamped.crc_matches() && stamped.is_log_append_time());
                assert_eq!((stamped.max_timestamp(), stamped.record_count()), (77, 50));
                assert_eq!(stamped.compression(), Some(from));
            }
        }
    }
}
