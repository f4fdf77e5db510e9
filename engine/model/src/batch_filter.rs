//! Batches of which compaction keeps some records. What stays keeps its offset, its producer's
//! sequence and its timestamp; the CRC is made anew.

use crate::limits::{BATCH_HEADER_BYTES, BATCH_LENGTH_PREFIX_BYTES};
use crate::record_batch::{
    CRC_COVERS_FROM, DELETE_HORIZON_BIT, PART_RECORDS, RecordBatch, TRANSACTIONAL_BIT,
};
use crate::rest::at_once;
use crate::{BatchError, Compression, Record, crc32c};

/// What is left of a batch.
pub enum Filtered<'b> {
    /// All of it, as it was.
    Whole,
    /// These records of it.
    Part(RecordBatch<'b>),
    /// None of its records.
    Nothing,
}

/// Memory that filtering uses again and again.
#[derive(Default)]
pub struct BatchFilter {
    plain: Vec<u8>,
    kept: Vec<u8>,
    out: Vec<u8>,
}

impl BatchFilter {
    /// The records of `batch` that `keep` keeps. If one of them has no value and the batch has no
    /// delete horizon yet, it gets `horizon` (ms since the Unix epoch).
    ///
    /// # Errors
    /// Records that cannot be read.
    pub fn filter(
        &mut self,
        batch: RecordBatch<'_>,
        horizon: i64,
        keep: impl FnMut(Record<'_>) -> bool,
    ) -> Result<Filtered<'_>, BatchError> {
        at_once(self.filter_resting(batch, horizon, keep, &mut async || ()))
    }

    /// The same, with rests in between.
    ///
    /// # Errors
    /// As `filter`.
    pub async fn filter_resting(
        &mut self,
        batch: RecordBatch<'_>,
        horizon: i64,
        mut keep: impl FnMut(Record<'_>) -> bool,
        rest: &mut impl AsyncFnMut(),
    ) -> Result<Filtered<'_>, BatchError> {
        let Self { plain, kept, out } = self;
        kept.clear();
        let (mut count, mut max_delta, mut has_tombstone) = (0, i64::MIN, false);
        for (number, record) in batch.records_resting(plain, rest).await?.enumerate() {
            if number % PART_RECORDS == 0 {
                rest().await;
            }
            let record = record?;
            if keep(record) {
                count += 1;
                max_delta = max_delta.max(record.timestamp_delta);
                has_tombstone |= record.value.is_none();
                kept.extend_from_slice(record.bytes());
            }
        }
        let gets_horizon = has_tombstone && batch.delete_horizon().is_none();
        if count == 0 {
            return Ok(Filtered::Nothing);
        }
        if count == batch.record_count() && !gets_horizon {
            return Ok(Filtered::Whole);
        }
        let max_timestamp = if batch.is_log_append_time() {
            batch.max_timestamp()
        } else {
            batch.base_timestamp().saturating_add(max_delta)
        };
        let mut base_timestamp = batch.base_timestamp();
        if gets_horizon {
            // The base becomes the horizon, and the records' deltas count from there.
            let shift = base_timestamp.saturating_sub(horizon);
            base_timestamp = horizon;
            out.clear();
            for (number, record) in crate::record::Records::new(kept, count as usize).enumerate() {
                if number % PART_RECORDS == 0 {
                    rest().await;
                }
                let record = record?;
                record.put_shifted(out, record.timestamp_delta.saturating_add(shift));
            }
            std::mem::swap(kept, out);
        }
        let bits = if gets_horizon { DELETE_HORIZON_BIT } else { 0 };
        let part =
            assemble(out, batch, kept, count, bits, base_timestamp, max_timestamp, rest).await;
        Ok(Filtered::Part(part))
    }

    /// A batch without its records: what it says of offsets and of its producer stays.
    pub fn emptied(&mut self, batch: RecordBatch<'_>) -> RecordBatch<'_> {
        let (base, max) = (batch.base_timestamp(), batch.max_timestamp());
        at_once(assemble(&mut self.out, batch, &[], 0, 0, base, max, &mut async || ()))
    }

    /// A marker with the time from which on it may go.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn with_horizon(
        &mut self,
        marker: RecordBatch<'_>,
        horizon: i64,
    ) -> Result<RecordBatch<'_>, BatchError> {
        let Self { plain, kept, out } = self;
        kept.clear();
        let shift = marker.base_timestamp().saturating_sub(horizon);
        for record in marker.records(plain)? {
            let record = record?;
            record.put_shifted(kept, record.timestamp_delta.saturating_add(shift));
        }
        let (count, max) = (marker.record_count(), marker.max_timestamp());
        let bits = DELETE_HORIZON_BIT;
        Ok(at_once(assemble(out, marker, kept, count, bits, horizon, max, &mut async || ())))
    }
}

async fn assemble<'b>(
    out: &'b mut Vec<u8>,
    batch: RecordBatch<'_>,
    records: &[u8],
    count: i32,
    bits: u16,
    base_timestamp: i64,
    max_timestamp: i64,
    rest: &mut impl AsyncFnMut(),
) -> RecordBatch<'b> {
    out.clear();
    out.extend_from_slice(&batch.bytes()[..BATCH_HEADER_BYTES]);
    let codec = batch.compression().unwrap_or(Compression::None);
    // Without records there is nothing to compress, and readers skip the body.
    let codec = if count == 0 { Compression::None } else { codec };
    match codec {
        Compression::None => out.extend_from_slice(records),
        codec => codec.compress_resting(records, out, rest).await,
    }
    let length = (out.len() - BATCH_LENGTH_PREFIX_BYTES) as i32;
    // An empty batch must not seem to begin a transaction: its marker may be gone before it.
    let gone = if count == 0 { TRANSACTIONAL_BIT } else { 0 };
    let attributes = batch.attributes() & !7 & !gone | codec as u16 | bits;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[27..35].copy_from_slice(&base_timestamp.to_be_bytes());
    out[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    out[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::checksum(&out[CRC_COVERS_FROM..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    RecordBatch::split_first(out).expect("its length was set just now").0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, Marker, Producer, ProducerId};

    type Seen = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

    fn seen(batch: RecordBatch<'_>) -> Vec<Seen> {
        let mut scratch = Vec::new();
        let base = batch.base_timestamp();
        let one = |r: Record<'_>| {
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            let at = base + r.timestamp_delta;
            (r.offset_delta, at, owned(r.key), owned(r.value), r.headers().count())
        };
        batch.records(&mut scratch).unwrap().map(|r| one(r.unwrap())).collect()
    }

    fn built(codec: Compression) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        builder.begin(1_000);
        builder.set_producer(Producer { id: ProducerId(7), epoch: 2 }, 40, true);
        for n in 0..20i64 {
            let key = [n as u8];
            let value = (n % 5 != 0).then_some(&b"value"[..]);
            builder.push(1_000 + n, Some(&key), value, &[("h", Some(b"x"))]);
        }
        builder.finish(codec).to_vec()
    }

    #[test]
    fn what_is_kept_is_as_it_was_and_where_it_was() {
        let mut filter = BatchFilter::default();
        for codec in Compression::ALL {
            let bytes = built(codec);
            let (batch, _) = RecordBatch::split_first(&bytes).unwrap();
            let all = seen(batch);
            let keep = |r: Record<'_>| r.offset_delta % 3 == 1;
            let Ok(Filtered::Part(part)) = filter.filter(batch, 9_000, keep) else { panic!() };
            let expected: Vec<Seen> = all.iter().filter(|r| r.0 % 3 == 1).cloned().collect();
            assert_eq!(seen(part), expected, "{codec:?}");
            assert!(part.crc_matches() && part.is_transactional());
            assert_eq!(
                (part.base_offset(), part.last_offset()),
                (batch.base_offset(), batch.last_offset())
            );
            assert_eq!((part.producer(), part.last_sequence()), (batch.producer(), 59));
            assert_eq!((part.record_count(), part.max_timestamp()), (7, 1_019));
            // Number 10 is a tombstone and was kept.
            assert_eq!(part.delete_horizon(), Some(9_000));
            let part = part.bytes().to_vec();
            let (part, _) = RecordBatch::split_first(&part).unwrap();
            let whole = filter.filter(part, 10_000, |_| true).unwrap();
            assert!(matches!(whole, Filtered::Whole), "a horizon is set once");
            let Ok(Filtered::Part(live)) = filter.filter(part, 10_000, |r| r.value.is_some())
            else {
                panic!()
            };
            assert_eq!(live.delete_horizon(), Some(9_000));
            assert!(seen(live).iter().all(|r| r.1 < 2_000), "times stay");
            assert!(matches!(filter.filter(batch, 1, |_| false), Ok(Filtered::Nothing)));
        }
    }

    #[test]
    fn an_emptied_batch_says_where_and_whose_it_was() {
        let mut filter = BatchFilter::default();
        let bytes = built(Compression::Zstd);
        let (batch, _) = RecordBatch::split_first(&bytes).unwrap();
        let empty = filter.emptied(batch);
        assert_eq!((empty.bytes().len(), empty.record_count()), (BATCH_HEADER_BYTES, 0));
        assert!(empty.crc_matches() && seen(empty).is_empty() && !empty.is_transactional());
        assert_eq!((empty.last_offset_delta(), empty.last_sequence()), (19, 59));
        assert_eq!(empty.producer(), batch.producer());
    }

    #[test]
    fn a_marker_with_a_horizon_says_the_same() {
        let producer = Producer { id: ProducerId(7), epoch: 3 };
        let marker = Marker { producer, commit: false, coordinator_epoch: 9 };
        let mut builder = BatchBuilder::default();
        let batch = marker.put(&mut builder, 1_000);
        let mut filter = BatchFilter::default();
        let later = filter.with_horizon(batch, 5_000).unwrap();
        assert!(later.crc_matches() && later.is_control());
        assert_eq!((later.delete_horizon(), later.max_timestamp()), (Some(5_000), 1_000));
        assert_eq!(Marker::read(later), Some(marker));
        assert_eq!(seen(later)[0].1, 1_000);
    }
}
