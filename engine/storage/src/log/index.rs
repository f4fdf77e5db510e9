//! The sparse index of a segment: offset, position, timestamp and header chain in 24 bytes.

use model::crc32c;
use model::limits::INDEX_INTERVAL_BYTES;
use model::{Offset, RecordBatch};

const MAGIC: &[u8; 8] = b"WEIRIDX1";
const HEADER_BYTES: usize = 20;
const ENTRY_BYTES: usize = 24;

/// Points at one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the batch less the segment's base offset.
    pub relative_offset: u32,
    /// Where the batch begins, in bytes from the segment's start.
    pub position: u32,
    /// Largest timestamp of the batches in front of it, ms since the Unix epoch; -1 if none.
    pub max_timestamp_before: i64,
    /// CRC-32C over the headers of the batches from the previous entry up to this one.
    pub header_chain: u32,
}

/// The index of one segment. Invariant: entries ascend in offset, position and timestamp.
#[derive(Clone, Default)]
pub struct SegmentIndex {
    entries: Vec<IndexEntry>,
    max_timestamp: i64,
    chain: crc32c::Digest,
}

impl SegmentIndex {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Vec::new(), max_timestamp: -1, chain: crc32c::Digest::default() }
    }

    /// Counts in a batch that begins at `position` and has this stored header.
    pub fn on_batch(
        &mut self,
        base: Offset,
        batch_base: Offset,
        position: u32,
        header: &[u8],
        max_timestamp: i64,
    ) {
        assert_eq!(header.len(), model::limits::BATCH_HEADER_BYTES, "the header as it is stored");
        let goes_on = self.entries.last().is_none_or(|last| last.position <= position);
        assert!(goes_on, "batches come in the order of their positions");
        let due = self.entries.last().is_none_or(|e| position - e.position >= INDEX_INTERVAL_BYTES);
        // No segment that is written today goes so far; of one that does, the rest is walked.
        let relative = u32::try_from(batch_base.since(base)).ok();
        if let Some(relative_offset) = relative.filter(|_| due) {
            self.entries.push(IndexEntry {
                relative_offset,
                position,
                max_timestamp_before: self.max_timestamp,
                header_chain: self.chain.finish(),
            });
            self.chain = crc32c::Digest::default();
        }
        self.chain.update(header);
        self.max_timestamp = self.max_timestamp.max(max_timestamp);
    }

    /// The last entry at or before an offset, less the segment's base; the segment's start if there is none.
    #[must_use]
    pub fn floor(&self, relative: i64) -> u32 {
        let after = self.entries.partition_point(|e| i64::from(e.relative_offset) <= relative);
        after.checked_sub(1).map_or(0, |index| self.entries[index].position)
    }

    /// Where to start looking for the first batch that reaches `timestamp`.
    #[must_use]
    pub fn floor_timestamp(&self, timestamp: i64) -> u32 {
        let after = self.entries.partition_point(|e| e.max_timestamp_before < timestamp);
        after.checked_sub(1).map_or(0, |index| self.entries[index].position)
    }

    /// Largest timestamp of the whole segment; -1 when empty.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Its entries.
    #[must_use]
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// Whether its entries are the first ones of another index of the same segment.
    #[must_use]
    pub fn agrees_with(&self, whole: &Self) -> bool {
        whole.entries.starts_with(&self.entries)
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> Option<IndexEntry> {
        self.entries.last().copied()
    }

    /// The file's bytes, for a log of `log_bytes`.
    #[must_use]
    pub fn encode(&self, log_bytes: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES + 12);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(self.entries.len() as u32).to_be_bytes());
        out.extend_from_slice(&log_bytes.to_be_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.relative_offset.to_be_bytes());
            out.extend_from_slice(&entry.position.to_be_bytes());
            out.extend_from_slice(&entry.max_timestamp_before.to_be_bytes());
            out.extend_from_slice(&entry.header_chain.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        assert_eq!(out.len(), HEADER_BYTES + self.entries.len() * ENTRY_BYTES, "as it is read");
        let ends = self.entries.last().is_none_or(|last| u64::from(last.position) < log_bytes);
        assert!(ends, "entries point into the log");
        let crc = crc32c::checksum(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads a file's bytes; `None` unless they are whole and of a log of `log_bytes` or of its
    /// beginning. The caller replays the batches from the last entry on to complete the index.
    #[must_use]
    pub fn decode(bytes: &[u8], log_bytes: u64) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let entries = body.strip_prefix(MAGIC)?.get(12..)?;
        let count = u32::from_be_bytes(body[8..12].try_into().ok()?) as usize;
        let length = u64::from_be_bytes(body[12..20].try_into().ok()?);
        let whole = u32::from_be_bytes(*crc) == crc32c::checksum(body);
        if !whole || length > log_bytes || entries.len() != count.checked_mul(ENTRY_BYTES)? {
            return None;
        }
        let entry = |bytes: &[u8]| IndexEntry {
            relative_offset: u32::from_be_bytes(bytes[..4].try_into().expect("4 bytes")),
            position: u32::from_be_bytes(bytes[4..8].try_into().expect("4 bytes")),
            max_timestamp_before: i64::from_be_bytes(bytes[8..16].try_into().expect("8 bytes")),
            header_chain: u32::from_be_bytes(bytes[16..20].try_into().expect("4 bytes")),
        };
        let entries: Vec<_> = entries.chunks_exact(ENTRY_BYTES).map(entry).collect();
        // Whoever made it: what does not ascend, or points behind its log, is no index of it.
        let ascend = |pair: &[IndexEntry]| {
            pair[0].position < pair[1].position && pair[0].relative_offset < pair[1].relative_offset
        };
        let fits = entries.last().is_none_or(|last| u64::from(last.position) < length);
        if !fits || !entries.windows(2).all(ascend) {
            return None;
        }
        let max_timestamp = entries.last().map_or(-1, |last| last.max_timestamp_before);
        Some(Self { entries, max_timestamp, chain: crc32c::Digest::default() })
    }
}

/// The header bytes of a batch, as the chain covers them.
#[must_use]
pub fn header_of<'a>(batch: RecordBatch<'a>) -> &'a [u8] {
    &batch.bytes()[..model::limits::BATCH_HEADER_BYTES]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sparse_searchable_and_survive_the_file() {
        let mut index = SegmentIndex::new();
        for batch in 0..100u32 {
            let base = Offset(1000 + i64::from(batch) * 10);
            index.on_batch(
                Offset(1000),
                base,
                batch * 10_000,
                &[batch as u8; 61],
                i64::from(batch),
            );
        }
        assert_eq!(index.entries.len(), 25);
        assert_eq!(index.floor(0), 0);
        assert_eq!(index.floor(45), 40_000);
        assert_eq!(index.floor(i64::MAX), 960_000);
        assert_eq!(index.floor_timestamp(0), 0);
        assert_eq!(index.floor_timestamp(5), 40_000);
        let bytes = index.encode(1_000_000);
        let back = SegmentIndex::decode(&bytes, 1_000_000).unwrap();
        assert_eq!(back.entries, index.entries);
        assert!(SegmentIndex::decode(&bytes, 999).is_none(), "another log's length");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(SegmentIndex::decode(&damaged, 1_000_000).is_none(), "byte {at}");
        }
    }
}
