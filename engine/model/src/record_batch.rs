//! A v2 record batch: header view, the checks of a produced batch, and the 12 bytes a broker sets.

use crate::limits::{
    BATCH_HEADER_BYTES, BATCH_LENGTH_PREFIX_BYTES, DECOMPRESSED_BYTES_MAX, RECORD_BYTES_MIN,
};
use crate::record::Records;
use crate::rest::at_once;
use crate::{BatchError, Compression, LeaderEpoch, Offset, Producer, ProducerId, crc32c};

/// Where the bytes that the CRC covers begin (attributes).
pub const CRC_COVERS_FROM: usize = 21;
pub(crate) const TIMESTAMP_TYPE_BIT: u16 = 1 << 3;
pub(crate) const TRANSACTIONAL_BIT: u16 = 1 << 4;
const CONTROL_BIT: u16 = 1 << 5;
pub(crate) const DELETE_HORIZON_BIT: u16 = 1 << 6;

/// A whole batch: at least a header, and exactly as long as it says.
#[derive(Clone, Copy)]
pub struct RecordBatch<'a> {
    bytes: &'a [u8],
}

impl<'a> RecordBatch<'a> {
    /// The batch at the front of `bytes`, and what follows it. Checks lengths and magic only.
    ///
    /// # Errors
    /// `Length` also when the batch is cut short, as the last one of a fetch may be.
    pub fn split_first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BatchError> {
        let total = Self::total_bytes(bytes).ok_or(BatchError::Length)?;
        if bytes.len() < total || total < BATCH_HEADER_BYTES {
            return Err(BatchError::Length);
        }
        let (batch, rest) = bytes.split_at(total);
        if batch[16] != 2 {
            return Err(if batch[16] < 2 { BatchError::OldMagic } else { BatchError::Magic });
        }
        Ok((Self { bytes: batch }, rest))
    }

    /// Bytes of the batch whose first 12 bytes are at the front of `prefix`, as it says itself;
    /// `None` when there are fewer than 12 or the length is negative.
    #[must_use]
    pub fn total_bytes(prefix: &[u8]) -> Option<usize> {
        let length = i32::from_be_bytes(prefix.get(8..12)?.try_into().expect("4 bytes"));
        usize::try_from(length).ok()?.checked_add(BATCH_LENGTH_PREFIX_BYTES)
    }

    /// The one batch of a produce request, checked in full from its header and CRC, but without
    /// looking at single records: the broker's hot path.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn validate_produced(bytes: &'a [u8], bytes_max: usize) -> Result<Self, BatchError> {
        if bytes.is_empty() {
            return Err(BatchError::NotOne);
        }
        if bytes.len() < BATCH_HEADER_BYTES {
            // Formats 0 and 1 have their magic at the same place, and can be shorter.
            let old = bytes.get(16).is_some_and(|&magic| magic < 2);
            return Err(if old { BatchError::OldMagic } else { BatchError::Length });
        }
        if bytes[16] < 2 {
            return Err(BatchError::OldMagic);
        }
        if Self::total_bytes(bytes).is_some_and(|total| total > bytes.len()) {
            // There is not one whole batch.
            return Err(BatchError::NotOne);
        }
        let (batch, rest) = Self::split_first(bytes)?;
        if !rest.is_empty() {
            let is_another = Self::split_first(rest).is_ok();
            return Err(if is_another { BatchError::NotOne } else { BatchError::Length });
        }
        if bytes.len() > bytes_max {
            return Err(BatchError::TooLarge);
        }
        if !batch.crc_matches() {
            return Err(BatchError::Crc);
        }
        batch.check_header()?;
        Ok(batch)
    }

    fn check_header(self) -> Result<(), BatchError> {
        let attributes = self.attributes();
        if self.base_offset() != Offset::ZERO
            || attributes & (CONTROL_BIT | DELETE_HORIZON_BIT) != 0
        {
            return Err(BatchError::ReservedField);
        }
        if attributes & TIMESTAMP_TYPE_BIT != 0 {
            return Err(BatchError::TimestampType);
        }
        let Some(codec) = Compression::from_bits(attributes & 7) else {
            return Err(BatchError::Codec);
        };
        let count = self.record_count();
        if count < 1 || self.last_offset_delta() != count - 1 {
            return Err(BatchError::Count);
        }
        let body = self.bytes.len() - BATCH_HEADER_BYTES;
        // What is compressed may be unpacked up to a bound: it holds no more records than fit there.
        let room = if codec == Compression::None { body } else { DECOMPRESSED_BYTES_MAX };
        if (count as usize).saturating_mul(RECORD_BYTES_MIN) > room {
            return Err(BatchError::Count);
        }
        let idempotent = self.producer_id() >= 0;
        let sequenced = self.producer_epoch() >= 0 && self.base_sequence() >= 0;
        // Without a producer id the other two mean nothing: kafkajs sends zeroes.
        if idempotent && !sequenced || attributes & TRANSACTIONAL_BIT != 0 && !idempotent {
            return Err(BatchError::Producer);
        }
        Ok(())
    }

    /// All bytes, header included.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the CRC field equals the CRC-32C from the attributes to the end.
    #[must_use]
    pub fn crc_matches(self) -> bool {
        self.u32_at(17) == crc32c::checksum(&self.bytes[CRC_COVERS_FROM..])
    }

    /// Offset of the first record.
    #[must_use]
    pub fn base_offset(self) -> Offset {
        Offset(self.i64_at(0))
    }

    /// Offset of the last record; its own if the batch was compacted.
    #[must_use]
    pub fn last_offset(self) -> Offset {
        Offset(self.base_offset().0.saturating_add(i64::from(self.last_offset_delta())))
    }

    /// The epoch of the leader that appended it (KIP-101).
    #[must_use]
    pub fn leader_epoch(self) -> LeaderEpoch {
        LeaderEpoch(self.i32_at(12))
    }

    /// Bits 0-2 codec, 3 log-append time, 4 transactional, 5 control, 6 delete horizon.
    #[must_use]
    pub fn attributes(self) -> u16 {
        u16::from_be_bytes([self.bytes[21], self.bytes[22]])
    }

    /// The codec; `None` if the number is unknown.
    #[must_use]
    pub fn compression(self) -> Option<Compression> {
        Compression::from_bits(self.attributes() & 7)
    }

    /// Whether timestamps are the broker's (attribute bit 3).
    #[must_use]
    pub fn is_log_append_time(self) -> bool {
        self.attributes() & TIMESTAMP_TYPE_BIT != 0
    }

    /// Whether its records are part of a transaction (attribute bit 4).
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.attributes() & TRANSACTIONAL_BIT != 0
    }

    /// Whether it holds the broker's own marker instead of records (attribute bit 5).
    #[must_use]
    pub fn is_control(self) -> bool {
        self.attributes() & CONTROL_BIT != 0
    }

    /// Until when compaction keeps its tombstones or its marker, in ms since the Unix epoch, once
    /// it has decided (attribute bit 6).
    #[must_use]
    pub fn delete_horizon(self) -> Option<i64> {
        (self.attributes() & DELETE_HORIZON_BIT != 0).then(|| self.base_timestamp())
    }

    /// The idempotent producer that wrote it, if one did.
    #[must_use]
    pub fn producer(self) -> Option<Producer> {
        let id = ProducerId(self.producer_id());
        (id.0 >= 0).then(|| Producer { id, epoch: self.producer_epoch() })
    }

    /// Sequence number of the last record: after the largest number comes 0.
    #[must_use]
    pub fn last_sequence(self) -> i32 {
        crate::ids::sequence_after(self.base_sequence(), self.last_offset_delta())
    }

    /// Records from the first to the last offset, minus one.
    #[must_use]
    pub fn last_offset_delta(self) -> i32 {
        self.i32_at(23)
    }

    /// Milliseconds since the Unix epoch that record deltas add to.
    #[must_use]
    pub fn base_timestamp(self) -> i64 {
        self.i64_at(27)
    }

    /// Largest timestamp of its records, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn max_timestamp(self) -> i64 {
        self.i64_at(35)
    }

    /// The idempotent producer (KIP-98), -1 for none.
    #[must_use]
    pub fn producer_id(self) -> i64 {
        self.i64_at(43)
    }

    /// That producer's epoch, -1 for none.
    #[must_use]
    pub fn producer_epoch(self) -> i16 {
        i16::from_be_bytes([self.bytes[51], self.bytes[52]])
    }

    /// Sequence number of the first record, -1 for none.
    #[must_use]
    pub fn base_sequence(self) -> i32 {
        self.i32_at(53)
    }

    /// How many records are inside.
    #[must_use]
    pub fn record_count(self) -> i32 {
        self.i32_at(57)
    }

    /// The records as they are stored, perhaps compressed.
    #[must_use]
    pub fn body(self) -> &'a [u8] {
        &self.bytes[BATCH_HEADER_BYTES..]
    }

    /// The records, decompressed into `scratch` when they must be.
    ///
    /// # Errors
    /// `Codec` for an unknown codec, `Records` for bytes that do not decompress, `TooLarge` if they become too many.
    pub fn records<'s>(self, scratch: &'s mut Vec<u8>) -> Result<Records<'s>, BatchError>
    where
        'a: 's,
    {
        at_once(self.records_resting(scratch, &mut async || ()))
    }

    /// The same, with rests while they are decompressed.
    ///
    /// # Errors
    /// As `records`.
    pub async fn records_resting<'s>(
        self,
        scratch: &'s mut Vec<u8>,
        rest: &mut impl AsyncFnMut(),
    ) -> Result<Records<'s>, BatchError>
    where
        'a: 's,
    {
        let count = usize::try_from(self.record_count()).map_err(|_| BatchError::Count)?;
        match self.compression().ok_or(BatchError::Codec)? {
            Compression::None => Ok(Records::new(self.body(), count)),
            codec => {
                scratch.clear();
                codec.decompress_resting(self.body(), scratch, rest).await?;
                Ok(Records::new(scratch, count))
            }
        }
    }

    /// Whether all its records can be read; `scratch` is used to decompress.
    pub fn is_readable(self, scratch: &mut Vec<u8>) -> bool {
        at_once(self.readable_resting(scratch, &mut async || ())).is_some()
    }

    /// Its records, if all of them can be read.
    pub async fn readable_resting<'s>(
        self,
        scratch: &'s mut Vec<u8>,
        rest: &mut impl AsyncFnMut(),
    ) -> Option<Records<'s>>
    where
        'a: 's,
    {
        let last = self.last_offset_delta();
        let records = self.records_resting(scratch, rest).await.ok()?;
        for (number, record) in records.clone().enumerate() {
            if !(0..=last).contains(&record.ok()?.offset_delta) {
                return None;
            }
            if number % PART_RECORDS == 0 {
                rest().await;
            }
        }
        Some(records)
    }

    fn i64_at(self, at: usize) -> i64 {
        i64::from_be_bytes(self.bytes[at..at + 8].try_into().expect("8 bytes"))
    }

    fn i32_at(self, at: usize) -> i32 {
        i32::from_be_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    fn u32_at(self, at: usize) -> u32 {
        self.i32_at(at) as u32
    }
}

/// The first 16 bytes a broker stores for a batch: its own base offset and leader epoch around the
/// producer's length. Nothing here is under the CRC.
#[must_use]
pub fn stored_prefix(batch: RecordBatch<'_>, base: Offset, epoch: LeaderEpoch) -> [u8; 16] {
    let mut prefix = [0; 16];
    prefix[..8].copy_from_slice(&base.0.to_be_bytes());
    prefix[8..12].copy_from_slice(&batch.bytes[8..12]);
    prefix[12..].copy_from_slice(&epoch.0.to_be_bytes());
    prefix
}

/// Records between two rests.
pub(crate) const PART_RECORDS: usize = 1024;
/// A larger batch's memory is given back when the next one begins.
const BYTES_KEPT: usize = 2 * 1024 * 1024;

/// Writes batches, one after another, into a buffer that is reused: no allocation per record.
///
/// Use: `begin`, `push` each record, `finish`; the batch is then `bytes()`.
#[derive(Default)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    packed: Vec<u8>,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    stamp: Stamp,
}

/// Who writes a batch, as its header says it.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    producer: Producer,
    base_sequence: i32,
    bits: u16,
}

impl Default for Stamp {
    fn default() -> Self {
        let nobody = Producer { id: ProducerId(-1), epoch: -1 };
        Self { producer: nobody, base_sequence: -1, bits: 0 }
    }
}

impl BatchBuilder {
    /// Starts an empty batch whose first timestamp is `base_timestamp` (ms since the Unix epoch).
    pub fn begin(&mut self, base_timestamp: i64) {
        self.bytes.clear();
        // Of one large batch not for ever.
        self.bytes.shrink_to(BYTES_KEPT);
        self.packed.shrink_to(BYTES_KEPT);
        self.bytes.resize(BATCH_HEADER_BYTES, 0);
        self.base_timestamp = base_timestamp;
        self.max_timestamp = base_timestamp;
        self.count = 0;
        self.stamp = Stamp::default();
    }

    /// The batch begun is of an idempotent producer; `base_sequence` is -1 for the broker's own
    /// transactional records.
    pub fn set_producer(&mut self, producer: Producer, base_sequence: i32, transactional: bool) {
        let bits = if transactional { TRANSACTIONAL_BIT } else { 0 };
        self.stamp = Stamp { producer, base_sequence, bits };
    }

    /// The batch begun is a marker.
    pub(crate) fn set_control(&mut self) {
        self.stamp.bits |= CONTROL_BIT;
    }

    /// Adds a record; `headers` are (key, value) pairs.
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        let delta = timestamp - self.base_timestamp;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        crate::record::put_record(&mut self.bytes, delta, self.count, key, value, headers);
        self.count += 1;
    }

    /// Records so far.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// Bytes so far, header included, before compression.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no record was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Compresses the records and fills in the header; the batch is what `bytes` then returns.
    pub fn finish(&mut self, codec: Compression) -> &[u8] {
        assert!(self.count > 0, "a batch has at least one record");
        if codec != Compression::None {
            self.packed.clear();
            codec.compress(&self.bytes[BATCH_HEADER_BYTES..], &mut self.packed);
            self.bytes.truncate(BATCH_HEADER_BYTES);
            self.bytes.extend_from_slice(&self.packed);
        }
        let length = (self.bytes.len() - BATCH_LENGTH_PREFIX_BYTES) as i32;
        let header = &mut self.bytes[..BATCH_HEADER_BYTES];
        header[8..12].copy_from_slice(&length.to_be_bytes());
        header[12..16].copy_from_slice(&(-1i32).to_be_bytes());
        header[16] = 2;
        let Stamp { producer, base_sequence, bits } = self.stamp;
        header[21..23].copy_from_slice(&(codec as u16 | bits).to_be_bytes());
        header[23..27].copy_from_slice(&(self.count - 1).to_be_bytes());
        header[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        header[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        header[43..51].copy_from_slice(&producer.id.0.to_be_bytes());
        header[51..53].copy_from_slice(&producer.epoch.to_be_bytes());
        header[53..57].copy_from_slice(&base_sequence.to_be_bytes());
        header[57..61].copy_from_slice(&self.count.to_be_bytes());
        let crc = crc32c::checksum(&self.bytes[CRC_COVERS_FROM..]);
        self.bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        &self.bytes
    }

    /// The finished batch.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(codec: Compression, records: i32) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        builder.begin(1_000);
        for index in 0..records {
            let value = vec![index as u8; 100];
            let headers = [("h", Some(&b"v"[..])), ("none", None)];
            builder.push(1_000 + i64::from(index), Some(b"key"), Some(&value), &headers);
        }
        builder.finish(codec).to_vec()
    }

    fn sealed(mut bytes: Vec<u8>, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        edit(&mut bytes);
        let crc = crc32c::checksum(&bytes[CRC_COVERS_FROM..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    #[test]
    fn built_batches_validate_and_read_back() {
        for codec in Compression::ALL {
            let bytes = batch(codec, 10);
            let view = RecordBatch::validate_produced(&bytes, 1 << 20).unwrap();
            assert_eq!(view.record_count(), 10);
            assert_eq!(view.max_timestamp(), 1_009);
            let mut scratch = Vec::new();
            let records: Vec<_> = view.records(&mut scratch).unwrap().map(|r| r.unwrap()).collect();
            assert_eq!(records.len(), 10);
            assert_eq!(records[3].key, Some(&b"key"[..]));
            assert_eq!(records[3].value, Some(&[3u8; 100][..]));
            assert_eq!((records[3].offset_delta, records[3].timestamp_delta), (3, 3));
            let headers: Vec<_> = records[3].headers().map(|h| h.unwrap()).collect();
            assert_eq!(headers, [(&b"h"[..], Some(&b"v"[..])), (&b"none"[..], None)]);
        }
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let good = batch(Compression::None, 3);
        let verdict = |bytes: Vec<u8>| RecordBatch::validate_produced(&bytes, 4096).err();
        assert_eq!(verdict(good.clone()), None);
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(verdict(flipped), Some(BatchError::Crc));
        assert_eq!(verdict(good[..good.len() - 1].to_vec()), Some(BatchError::NotOne));
        assert_eq!(verdict([&good[..], b"x"].concat()), Some(BatchError::Length));
        assert_eq!(verdict(good[..30].to_vec()), Some(BatchError::Length));
        let edits: [(&str, usize, u8, BatchError); 9] = [
            ("base offset", 7, 1, BatchError::ReservedField),
            ("magic 1", 16, 1, BatchError::OldMagic),
            ("magic 3", 16, 3, BatchError::Magic),
            ("control bit", 22, 1 << 5, BatchError::ReservedField),
            ("log append time", 22, 1 << 3, BatchError::TimestampType),
            ("codec 5", 22, 5, BatchError::Codec),
            ("last offset delta", 26, 7, BatchError::Count),
            ("count", 60, 200, BatchError::Count),
            ("producer id without sequence", 43, 0, BatchError::Producer),
        ];
        for (what, at, byte, expected) in edits {
            let edited = sealed(good.clone(), |b| b[at] = byte);
            assert_eq!(verdict(edited), Some(expected), "{what}");
        }
        // Both counts lie alike: more records than the bytes could hold.
        let lie = sealed(good.clone(), |b| {
            b[23..27].copy_from_slice(&999_999i32.to_be_bytes());
            b[57..61].copy_from_slice(&1_000_000i32.to_be_bytes());
        });
        assert_eq!(verdict(lie), Some(BatchError::Count));
        assert_eq!(
            RecordBatch::validate_produced(&good, good.len() - 1).err(),
            Some(BatchError::TooLarge)
        );
    }

    #[test]
    fn the_stored_prefix_leaves_the_crc_true() {
        let mut bytes = batch(Compression::Lz4, 5);
        let prefix =
            stored_prefix(RecordBatch::split_first(&bytes).unwrap().0, Offset(77), LeaderEpoch(4));
        bytes[..16].copy_from_slice(&prefix);
        let (stored, _) = RecordBatch::split_first(&bytes).unwrap();
        assert!(stored.crc_matches());
        assert_eq!((stored.base_offset(), stored.last_offset()), (Offset(77), Offset(81)));
        assert_eq!(stored.leader_epoch(), LeaderEpoch(4));
    }

    #[test]
    fn any_bytes_are_refused_without_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let good = batch(Compression::None, 3);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            bytes.truncate((state >> 40) as usize % (bytes.len() + 1));
            let _ = RecordBatch::validate_produced(&bytes, 1 << 20);
            if let Ok((view, _)) = RecordBatch::split_first(&bytes) {
                let mut scratch = Vec::new();
                if let Ok(records) = view.records(&mut scratch) {
                    for record in records {
                        let Ok(record) = record else { break };
                        record.headers().for_each(drop);
                    }
                }
            }
        }
    }
}
