//! The control batch that ends a transaction in a partition (KIP-98).

use crate::{BatchBuilder, Compression, Producer, RecordBatch};

const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Whose transaction ends. Its epoch may be newer than that of the records.
    pub producer: Producer,
    /// Committed, else aborted.
    pub commit: bool,
    /// The epoch of the coordinator that decided it.
    pub coordinator_epoch: i32,
}

impl Marker {
    /// Writes it as a batch of one record, stamped with this time (ms since the Unix epoch).
    pub fn put<'b>(&self, builder: &'b mut BatchBuilder, unix_ms: i64) -> RecordBatch<'b> {
        let kind = if self.commit { COMMIT } else { ABORT };
        let mut key = [0; 4];
        key[..2].copy_from_slice(&VERSION.to_be_bytes());
        key[2..].copy_from_slice(&kind.to_be_bytes());
        let mut value = [0; 6];
        value[..2].copy_from_slice(&VERSION.to_be_bytes());
        value[2..].copy_from_slice(&self.coordinator_epoch.to_be_bytes());
        builder.begin(unix_ms);
        builder.set_producer(self.producer, -1, true);
        builder.set_control();
        builder.push(unix_ms, Some(&key), Some(&value), &[]);
        let (batch, _) =
            RecordBatch::split_first(builder.finish(Compression::None)).expect("built just now");
        batch
    }

    /// What a control batch says; `None` if it is no marker, or one of a kind this does not know.
    #[must_use]
    pub fn read(batch: RecordBatch<'_>) -> Option<Self> {
        let producer = batch.producer().filter(|_| batch.is_control())?;
        let mut scratch = Vec::new();
        let record = batch.records(&mut scratch).ok()?.next()?.ok()?;
        let (key, value) = (record.key?, record.value?);
        let commit = match i16::from_be_bytes(key.get(2..4)?.try_into().ok()?) {
            ABORT => false,
            COMMIT => true,
            _ => return None,
        };
        let coordinator_epoch = i32::from_be_bytes(value.get(2..6)?.try_into().ok()?);
        Some(Self { producer, commit, coordinator_epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProducerId;

    #[test]
    fn markers_read_back_and_take_one_offset() {
        let mut builder = BatchBuilder::default();
        for commit in [true, false] {
            let producer = Producer { id: ProducerId(7), epoch: 3 };
            let marker = Marker { producer, commit, coordinator_epoch: 9 };
            let batch = marker.put(&mut builder, 1_000);
            assert!(batch.is_control() && batch.is_transactional() && batch.crc_matches());
            assert_eq!((batch.record_count(), batch.base_sequence()), (1, -1));
            assert_eq!(Marker::read(batch), Some(marker));
        }
        builder.begin(0);
        builder.push(0, Some(b"\0\0\0\x01"), Some(b"\0\0\0\0\0\0"), &[]);
        let bytes = builder.finish(Compression::None).to_vec();
        let (plain, _) = RecordBatch::split_first(&bytes).unwrap();
        assert_eq!(Marker::read(plain), None);
    }
}
