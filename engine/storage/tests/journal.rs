//! What a start reads in journals: frames made by hand, in the twin.

use model::limits::DISK_BLOCK_BYTES;
use model::{Offset, PartitionIndex, TopicId, TopicPartition, crc32c};
use runtime::random::Random;
use runtime::simulated::{Disk, Simulation};
use runtime::{Io, Runtime};
use std::path::Path;
use storage::journal::frame::{Entry, EntryKind, Frame, FrameId, LogPosition, encode_head};
use storage::journal::replay::scan;
use storage::{Replay, replay};

const PARTITION: TopicPartition =
    TopicPartition { topic_id: TopicId([4; 16]), partition: PartitionIndex(0) };

/// A file of the journal: each frame appends some bytes for the partition.
struct Made {
    bytes: Vec<u8>,
    last: u32,
    starts: Vec<usize>,
}

fn file(sequence: u64, mut previous: u32, offsets: std::ops::Range<i64>, is_done: bool) -> Made {
    let mut made = Made { bytes: Vec::new(), last: 0, starts: Vec::new() };
    for (number, offset) in offsets.enumerate() {
        let data = vec![offset as u8; 300];
        let at = LogPosition {
            segment: Offset(0),
            position: offset as u32 * 300,
            offset: Offset(offset),
        };
        let mut entries = vec![Entry {
            kind: EntryKind::Append,
            partition: PARTITION,
            at,
            end: Offset(offset + 1),
            len: 300,
            crc: crc32c::checksum(&data),
        }];
        if is_done && number == 0 {
            entries.push(Entry::previous_done());
        }
        let mut head = Vec::new();
        let id = FrameId { journal: 9, sequence, number: number as u32, previous, file_bytes: 0 };
        previous = encode_head(id, &entries, &mut head);
        made.starts.push(made.bytes.len());
        made.bytes.extend_from_slice(&head);
        made.bytes.extend_from_slice(&data);
        made.bytes.resize(made.bytes.len().next_multiple_of(DISK_BLOCK_BYTES), 0);
    }
    made.last = previous;
    made
}

fn replayed(files: &[(u64, &[u8])]) -> Replay {
    let machine = Runtime::new(Io::Simulated(Simulation::new(Disk::default(), 1))).unwrap();
    let found = machine.block_on(async {
        runtime::fs::create_dir_all(Path::new("/d/journal")).unwrap();
        for (sequence, bytes) in files {
            let path = storage::journal::known::journal_path(Path::new("/d"), 0, *sequence);
            runtime::fs::replace(&path, bytes).await.unwrap();
        }
        replay(Path::new("/d")).await.unwrap()
    });
    found.unwrap()
}

fn durable(found: &Replay) -> (i64, bool) {
    let notes = found.partitions.get(&PARTITION).cloned().unwrap_or_default();
    (notes.durable().0, notes.damage.is_some())
}

#[test]
fn what_is_torn_is_the_last_frame_and_all_else_that_is_bad_has_rotted() {
    let first = file(1, 0, 0..3, true);
    let second = file(2, first.last, 3..5, false);
    let read = |first: &[u8], second: &[u8]| durable(&replayed(&[(1, first), (2, second)]));
    assert_eq!(read(&first.bytes, &second.bytes), (5, false));
    let with = |made: &Made, frame: usize, at: usize| {
        let mut bytes = made.bytes.clone();
        bytes[made.starts[frame] + at] ^= 1;
        bytes
    };
    // Head and bytes of each frame. The last one of all may have been torn: its record is gone.
    for at in [3, 70, 200] {
        for frame in 0..3 {
            assert!(read(&with(&first, frame, at), &second.bytes).1, "frame {frame}, byte {at}");
        }
        assert!(read(&first.bytes, &with(&second, 0, at)).1, "byte {at}");
        assert_eq!(read(&first.bytes, &with(&second, 1, at)), (4, false), "byte {at}");
    }
    // A file that is cut short at a frame, and the file before it gone.
    assert!(read(&first.bytes[..first.starts[2]], &second.bytes).1);
    assert!(durable(&replayed(&[(2, &second.bytes)])).1);
    // Once it says that older ones are done with, they do not count, whole or not.
    let second = file(2, first.last, 3..5, true);
    assert_eq!(read(&with(&first, 1, 3), &second.bytes), (5, false));
    assert_eq!(replayed(&[(2, &second.bytes)]).start_of(0).sequence, 3);
}

/// The snapshot that begins a file has rotted, and a later frame says that older files are done with:
/// what only those know still counts, and is suspect.
#[test]
fn a_rotten_snapshot_does_not_hide_what_older_files_know() {
    let first = file(1, 0, 0..3, true);
    let mut second = file(2, first.last, 3..5, false);
    let done = {
        let id =
            FrameId { journal: 9, sequence: 2, number: 2, previous: second.last, file_bytes: 0 };
        let mut head = Vec::new();
        encode_head(id, &[Entry::previous_done()], &mut head);
        head.resize(DISK_BLOCK_BYTES, 0);
        head
    };
    second.bytes.extend_from_slice(&done);
    let read = |second: &[u8]| durable(&replayed(&[(1, &first.bytes), (2, second)]));
    assert_eq!(read(&second.bytes), (5, false));
    let mut rotten = second.bytes.clone();
    rotten[70] ^= 1;
    // Only the older file is left to say so: the other frames are not of this partition.
    let found = replayed(&[(1, &first.bytes), (2, &rotten)]);
    let notes = &found.partitions[&PARTITION];
    assert!(notes.damage.is_some());
    assert!(notes.appends.iter().any(|append| append.end == Offset(1)), "the first file counts");
}

/// A start that was cut short while it wrote its first file: that file says nothing, the ones before
/// it still count, and the next start writes over it.
#[test]
fn a_snapshot_that_was_never_finished_does_not_count() {
    let first = file(1, 0, 0..3, true);
    let second = file(2, first.last, 3..5, false);
    let third = file(3, 0, 5..6, false);
    let found = replayed(&[(1, &first.bytes), (2, &second.bytes), (3, &third.bytes)]);
    assert_eq!((durable(&found), found.start_of(0).sequence), ((5, false), 6));
    let mut torn = second.bytes.clone();
    torn[second.starts[1] + 200] ^= 1;
    let found = replayed(&[(1, &first.bytes), (2, &torn), (3, &third.bytes)]);
    assert_eq!(durable(&found), (4, false));
}

#[test]
fn any_bytes_are_read_without_panic_or_much_memory() {
    let whole = file(1, 0, 0..6, true).bytes;
    let mut random = Random::new(11);
    for _ in 0..4_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next_u64() as u8,
                1 => random.fill(&mut bytes[at..]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let found = scan(&bytes);
        assert!(found.frames.len() <= bytes.len() / DISK_BLOCK_BYTES + 1);
        let _ = Frame::decode(&bytes);
    }
}

/// The mark that ends a start's snapshot has rotted, and acknowledged records lie behind it: that is no snapshot that
/// was never finished.
#[test]
fn a_rotten_end_of_a_snapshot_is_told() {
    let first = file(1, 0, 0..3, true);
    let second = file(2, first.last, 3..5, false);
    let at = LogPosition { segment: Offset(0), position: 1500, offset: Offset(5) };
    let data = vec![5u8; 300];
    let note = Entry::note(EntryKind::Synced, PARTITION, at);
    let (kind, partition, end, crc) =
        (EntryKind::Append, PARTITION, Offset(6), crc32c::checksum(&data));
    let append = Entry { kind, partition, at, end, len: 300, crc };
    let (mut third, mut previous, mut starts) = (Vec::new(), 0, Vec::new());
    for (number, entry) in [note, Entry::previous_done(), append].into_iter().enumerate() {
        let mut head = Vec::new();
        let number = number as u32;
        let id = FrameId { journal: 9, sequence: 3, number, previous, file_bytes: 0 };
        previous = encode_head(id, &[entry], &mut head);
        starts.push(third.len());
        third.extend_from_slice(&head);
        third.extend_from_slice(&data[..entry.len as usize]);
        third.resize(third.len().next_multiple_of(DISK_BLOCK_BYTES), 0);
    }
    let read =
        |third: &[u8]| durable(&replayed(&[(1, &first.bytes), (2, &second.bytes), (3, third)]));
    assert_eq!(read(&third), (6, false));
    third[starts[1] + 70] ^= 1;
    assert!(read(&third).1, "the record behind it was durable: the damage is told");
}
