//! One frame of the journal: a checksummed head with a table of entries, then their bytes. No I/O.

use model::limits::DISK_BLOCK_BYTES;
use model::{Offset, PartitionIndex, TopicId, TopicPartition, crc32c};

const MAGIC: &[u8; 8] = b"WEIRJRNL";
/// The head before the table.
pub const HEAD_BYTES: usize = 64;
/// One entry of the table.
pub const ENTRY_BYTES: usize = 64;
/// No frame is longer.
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A place in a partition's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Base offset of the segment.
    pub segment: Offset,
    /// Byte position in it.
    pub position: u32,
    /// The offset of the batch that begins there.
    pub offset: Offset,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// These bytes belong at that place of the segment.
    Append,
    /// Everything of the log below that place is fsynced in its segments.
    Synced,
    /// Records below that offset are deleted.
    LogStart,
    /// Nothing in the file before this one is needed any more.
    PreviousDone,
    /// Records below that offset were acknowledged as durable, and a start did not find them all.
    Missed,
    /// A journal lost acknowledged bytes of it, nobody knows which.
    Damaged,
    /// All that a start knew stands in front of this, in this file; its offset says which start.
    SnapshotWhole,
    /// The next file was begun, and what follows is there.
    Continued,
    /// Everything from that place on goes.
    Truncating,
    /// It is gone.
    Truncated,
}

/// One entry of a frame's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub kind: EntryKind,
    /// Of which partition.
    pub partition: TopicPartition,
    /// Where; for `LogStart` and `Missed` only the offset counts, for `PreviousDone` and `SnapshotWhole` it is the
    /// number of the start that wrote it (0: none), for `Damaged` and `Continued` nothing counts.
    pub at: LogPosition,
    /// For `Append`: the offset behind its last record.
    pub end: Offset,
    /// For `Append`: how many bytes.
    pub len: u32,
    /// For `Append`: CRC-32C of the bytes.
    pub crc: u32,
}

impl EntryKind {
    const ALL: [Self; 10] = [
        Self::Append,
        Self::Synced,
        Self::LogStart,
        Self::PreviousDone,
        Self::Missed,
        Self::Damaged,
        Self::SnapshotWhole,
        Self::Continued,
        Self::Truncating,
        Self::Truncated,
    ];

    /// Whether it speaks of the journal, not of a partition.
    #[must_use]
    pub fn is_of_journal(self) -> bool {
        matches!(self, Self::PreviousDone | Self::SnapshotWhole | Self::Continued)
    }

    fn number(self) -> u32 {
        Self::ALL.iter().position(|kind| *kind == self).expect("listed") as u32 + 1
    }
}

impl Entry {
    /// An entry without bytes.
    #[must_use]
    pub fn note(kind: EntryKind, partition: TopicPartition, at: LogPosition) -> Self {
        Self { kind, partition, at, end: at.offset, len: 0, crc: 0 }
    }

    /// A note on the journal itself, of start number `start`.
    #[must_use]
    pub fn of_journal(kind: EntryKind, start: u32) -> Self {
        assert!(kind.is_of_journal(), "of the journal");
        let partition =
            TopicPartition { topic_id: TopicId::ZERO, partition: PartitionIndex::default() };
        let at = LogPosition { offset: Offset(i64::from(start)), ..LogPosition::default() };
        Self::note(kind, partition, at)
    }

    /// The note that closes the file before this one.
    #[must_use]
    pub fn previous_done() -> Self {
        Self::of_journal(EntryKind::PreviousDone, 0)
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        assert!(self.len == 0 || self.kind == EntryKind::Append, "only appends have bytes");
        let mut out = [0; ENTRY_BYTES];
        out[..4].copy_from_slice(&self.kind.number().to_be_bytes());
        out[4..8].copy_from_slice(&self.partition.partition.0.to_be_bytes());
        out[8..24].copy_from_slice(&self.partition.topic_id.0);
        out[24..32].copy_from_slice(&self.at.segment.0.to_be_bytes());
        out[32..36].copy_from_slice(&self.at.position.to_be_bytes());
        out[36..40].copy_from_slice(&self.len.to_be_bytes());
        out[40..48].copy_from_slice(&self.at.offset.0.to_be_bytes());
        out[48..56].copy_from_slice(&self.end.0.to_be_bytes());
        out[56..60].copy_from_slice(&self.crc.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let kind = u32_at(bytes, 0).checked_sub(1)?;
        // A place lies in its segment.
        let (segment, offset) = (u64_at(bytes, 24) as i64, u64_at(bytes, 40) as i64);
        (0 <= segment && segment <= offset).then_some(())?;
        Some(Self {
            kind: *EntryKind::ALL.get(kind as usize)?,
            partition: TopicPartition {
                topic_id: TopicId(bytes[8..24].try_into().expect("16 bytes")),
                partition: PartitionIndex(u32_at(bytes, 4) as i32),
            },
            at: LogPosition {
                segment: Offset(u64_at(bytes, 24) as i64),
                position: u32_at(bytes, 32),
                offset: Offset(u64_at(bytes, 40) as i64),
            },
            end: Offset(u64_at(bytes, 48) as i64),
            len: u32_at(bytes, 36),
            crc: u32_at(bytes, 56),
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Which frame it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameId {
    /// Of which journal: random, so that another journal's file is never taken for this one's.
    pub journal: u64,
    /// Counts the files that were begun.
    pub sequence: u64,
    /// Counts the frames of the file.
    pub number: u32,
    /// Checksum of the head of the frame before it, also across files.
    pub previous: u32,
    /// Length of the file: a shorter one was cut. 0: not known.
    pub file_bytes: u64,
}

/// Bytes on disk of a frame with so many entries and bytes.
#[must_use]
pub fn frame_bytes(entries: usize, data: usize) -> usize {
    (HEAD_BYTES + entries * ENTRY_BYTES + data).next_multiple_of(DISK_BLOCK_BYTES)
}

/// The head and table of a frame, and the checksum that the next frame names.
pub fn encode_head(id: FrameId, entries: &[Entry], out: &mut Vec<u8>) -> u32 {
    let data: usize = entries.iter().map(|entry| entry.len as usize).sum();
    let total = frame_bytes(entries.len(), data);
    assert!(total <= FRAME_BYTES_MAX, "a frame of {total} bytes");
    out.clear();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&id.journal.to_be_bytes());
    out.extend_from_slice(&id.sequence.to_be_bytes());
    out.extend_from_slice(&id.number.to_be_bytes());
    out.extend_from_slice(&id.previous.to_be_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    out.extend_from_slice(&(data as u32).to_be_bytes());
    out.extend_from_slice(&id.file_bytes.to_be_bytes());
    out.resize(HEAD_BYTES, 0);
    entries.iter().for_each(|entry| out.extend_from_slice(&entry.encode()));
    assert_eq!(out.len(), HEAD_BYTES + entries.len() * ENTRY_BYTES, "as it is read");
    let crc = crc32c::checksum(out);
    out[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&crc.to_be_bytes());
    crc
}

/// A frame whose head is whole; its entries' bytes may not be.
#[derive(Debug)]
pub struct Frame {
    /// Which one.
    pub id: FrameId,
    /// Checksum of its head, which the next frame names.
    pub crc: u32,
    /// Its entries, each with where its bytes begin in the frame.
    pub entries: Vec<(Entry, usize)>,
    /// Bytes on disk.
    pub bytes: usize,
}

impl Frame {
    /// Reads the frame at the front of `bytes`; `None` unless its head and table are whole and the
    /// frame lies within `bytes`.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        if !head.starts_with(MAGIC) {
            return None;
        }
        let (count, data) = (u32_at(head, 32) as usize, u32_at(head, 36) as usize);
        if count > FRAME_BYTES_MAX / ENTRY_BYTES || data > FRAME_BYTES_MAX {
            return None;
        }
        let total = frame_bytes(count, data);
        let table = bytes.get(..total)?.get(HEAD_BYTES..HEAD_BYTES + count * ENTRY_BYTES)?;
        let mut digest = crc32c::Digest::default();
        digest.update(&head[..HEAD_BYTES - 4]);
        digest.update(&[0; 4]);
        digest.update(table);
        let crc = digest.finish();
        if crc != u32_at(head, HEAD_BYTES - 4) {
            return None;
        }
        let mut at = HEAD_BYTES + table.len();
        let mut entries = Vec::with_capacity(count);
        for entry in table.as_chunks::<ENTRY_BYTES>().0 {
            let entry = Entry::decode(entry)?;
            entries.push((entry, at));
            at = at.checked_add(entry.len as usize)?;
        }
        if at != HEAD_BYTES + table.len() + data {
            return None;
        }
        let id = FrameId {
            journal: u64_at(head, 8),
            sequence: u64_at(head, 16),
            number: u32_at(head, 24),
            previous: u32_at(head, 28),
            file_bytes: u64_at(head, 40),
        };
        Some(Self { id, crc, entries, bytes: total })
    }

    /// Whether the bytes of entry number `index` are whole in `bytes`, the frame's.
    #[must_use]
    pub fn is_whole(&self, index: usize, bytes: &[u8]) -> bool {
        let (entry, at) = &self.entries[index];
        let data = bytes.get(*at..*at + entry.len as usize);
        data.is_some_and(|data| entry.len == 0 || crc32c::checksum(data) == entry.crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::limits::DISK_BLOCK_BYTES;

    fn frame(data: &[&[u8]]) -> Vec<u8> {
        let partition = TopicPartition { topic_id: TopicId([9; 16]), partition: PartitionIndex(3) };
        let entry = |bytes: &&[u8]| Entry {
            kind: EntryKind::Append,
            partition,
            at: LogPosition { segment: Offset(5), position: 77, offset: Offset(6) },
            end: Offset(8),
            len: bytes.len() as u32,
            crc: crc32c::checksum(bytes),
        };
        let mut entries: Vec<_> = data.iter().map(entry).collect();
        entries.push(Entry::previous_done());
        let mut out = Vec::new();
        let id = FrameId { journal: 1, sequence: 2, number: 3, previous: 4, file_bytes: 5 };
        encode_head(id, &entries, &mut out);
        data.iter().for_each(|bytes| out.extend_from_slice(bytes));
        out.resize(out.len().next_multiple_of(DISK_BLOCK_BYTES), 0);
        out
    }

    #[test]
    fn a_place_that_is_not_in_its_segment_is_not_read() {
        let of = |segment, offset| {
            let partition =
                TopicPartition { topic_id: TopicId([9; 16]), partition: PartitionIndex(3) };
            let at = LogPosition { segment: Offset(segment), position: 0, offset: Offset(offset) };
            let entry = Entry::note(EntryKind::Synced, partition, at);
            let mut out = Vec::new();
            encode_head(FrameId::default(), &[entry], &mut out);
            out.resize(out.len().next_multiple_of(DISK_BLOCK_BYTES), 0);
            Frame::decode(&out).is_some()
        };
        assert!(of(5, 5) && of(0, 0));
        assert!(!of(5, 4) && !of(-1, 4));
    }

    #[test]
    fn a_frame_reads_back_and_every_flipped_bit_is_noticed_where_it_lies() {
        let bytes = frame(&[b"first", b"", &[7; 5000]]);
        let read = Frame::decode(&bytes).unwrap();
        assert_eq!((read.bytes, read.entries.len()), (bytes.len(), 4));
        assert!((0..4).all(|index| read.is_whole(index, &bytes)));
        assert_eq!(
            read.id,
            FrameId { journal: 1, sequence: 2, number: 3, previous: 4, file_bytes: 5 }
        );
        let head = HEAD_BYTES + 4 * ENTRY_BYTES;
        for at in 0..head + 5 + 5000 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 16;
            match Frame::decode(&damaged) {
                None => assert!(at < head, "byte {at}"),
                Some(read) => {
                    let broken: Vec<_> = (0..4).filter(|i| !read.is_whole(*i, &damaged)).collect();
                    assert_eq!(broken, [if at < head + 5 { 0 } else { 2 }], "byte {at}");
                }
            }
        }
        for len in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..len]).is_none());
        }
    }
}
