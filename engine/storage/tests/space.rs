//! Space and what frees it, in the twin: full disks, deletion under whoever works on a log, offsets far apart.

use model::record_batch::BatchBuilder;
use model::{
    Compression, LeaderEpoch, LogSettings, Offset, PartitionIndex, RecordBatch, TopicId,
    TopicPartition,
};
use runtime::random::Random;
use runtime::simulated::{Disk, Fault, Simulation, Verb};
use runtime::{Io, Runtime, timer};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::{Journal, Log, LogDir, PartitionNotes, Read, Replay, TailCache, replay};

const SETTINGS: LogSettings = LogSettings { segment_bytes: 400_000, segment_ms: i64::MAX };
const ENOSPC: i32 = 28;
const EMFILE: i32 = 24;

fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic_id: TopicId([7; 16]), partition: PartitionIndex(number) }
}

fn batch(value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(1);
    builder.push(1, None, Some(value), &[]);
    builder.finish(Compression::None).to_vec()
}

fn append(log: &Log, bytes: &[u8]) {
    let view = RecordBatch::validate_produced(bytes, 1 << 21).unwrap();
    log.append(view, log.log_end(), LeaderEpoch(1)).unwrap();
}

async fn flush_all(log: &Log, durable: bool) {
    while log.is_dirty(durable) {
        log.flush(durable).await.unwrap();
    }
}

fn on_twin<T>(disk: &Disk, body: impl Future<Output = T>) -> T {
    let machine = Runtime::new(Io::Simulated(Simulation::new(disk.clone(), 1))).unwrap();
    machine.block_on(body).unwrap()
}

async fn start(with_journal: bool) -> (Rc<LogDir>, Replay) {
    let data = Path::new("/d");
    runtime::fs::create_dir_all(&data.join("partitions")).unwrap();
    for dir in [Path::new("/"), data] {
        runtime::fs::sync_dir(dir).await.unwrap();
    }
    let found = replay(data).await.unwrap();
    let cache = TailCache::new(8 << 20);
    let journal = with_journal.then(|| Journal::new(data, 0, 1 << 20, true, found.start_of(0)));
    (LogDir::new(data, true, &cache, journal, Arc::default()), found)
}

/// A disk without space and a journal that is used up: deleting, which alone gives space back, still works, and a
/// start after it finds nothing that was deleted.
#[test]
fn records_are_deleted_when_disk_and_journal_are_full() {
    let disk = Disk::default();
    let (deleted, kept) = on_twin(&disk, async {
        let (home, _) = start(true).await;
        let old = Log::create(&home, partition(0), SETTINGS).unwrap();
        let large = LogSettings { segment_bytes: 1 << 30, ..SETTINGS };
        let new = Log::create(&home, partition(1), large).unwrap();
        home.sync_names().await.unwrap();
        home.journal().unwrap().begin().await.unwrap();
        for _ in 0..20 {
            append(&old, &batch(&[1; 100_000]));
            flush_all(&old, true).await;
        }
        timer::sleep(Duration::from_millis(100)).await;
        disk.set_capacity(Some(1));
        // Large ones, then small ones: until the last block of the journal is used.
        for bytes in [20_000, 100] {
            while {
                append(&new, &batch(&vec![2; bytes]));
                new.flush(true).await.is_ok()
            } {}
        }
        for at in [4, 10] {
            old.delete_below(Offset(at)).await.unwrap();
        }
        // It goes on by itself once there is space.
        disk.set_capacity(None);
        timer::sleep(Duration::from_secs(3)).await;
        append(&new, &batch(&[3; 100]));
        flush_all(&new, true).await;
        (old.log_start(), new.log_end())
    });
    assert!(deleted >= Offset(10));
    disk.power_cut(3);
    on_twin(&disk, async {
        let (home, found) = start(true).await;
        for (number, start, end) in [(0, deleted, Offset(20)), (1, Offset(0), kept)] {
            let notes = found.notes_of(partition(number));
            let (log, _) = Log::open(&home, partition(number), SETTINGS, &notes).await.unwrap();
            assert_eq!((log.log_start(), log.log_end()), (start, end));
        }
    });
}

/// All of a log is deleted while the journal has room for nothing else: the next start does not look for what went.
#[test]
fn a_log_that_was_deleted_whole_opens_again() {
    // At once; or in so many steps that the blocks kept for that are used up too.
    // (Of its files some come back with a power cut: not in every one.)
    for seed in 0..6 {
        a_log_deleted_in_steps_opens_again(1, seed);
    }
    a_log_deleted_in_steps_opens_again(30, 0);
}

fn a_log_deleted_in_steps_opens_again(steps: i64, seed: u64) {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (home, _) = start(true).await;
        let old = Log::create(&home, partition(0), SETTINGS).unwrap();
        let large = LogSettings { segment_bytes: 1 << 30, ..SETTINGS };
        let new = Log::create(&home, partition(1), large).unwrap();
        home.sync_names().await.unwrap();
        home.journal().unwrap().begin().await.unwrap();
        append(&old, &batch(&[1; 100_000]));
        flush_all(&old, true).await;
        for _ in 1..steps.max(2) {
            append(&old, &batch(&[1; 100]));
        }
        let end = old.log_end();
        flush_all(&old, true).await;
        timer::sleep(Duration::from_millis(100)).await;
        disk.set_capacity(Some(1));
        for bytes in [20_000, 100] {
            while {
                append(&new, &batch(&vec![2; bytes]));
                new.flush(true).await.is_ok()
            } {}
        }
        // There is space again; the journal finds out a second later.
        disk.set_capacity(None);
        for at in end.0 + 1 - steps.min(end.0)..=end.0 {
            old.delete_below(Offset(at)).await.unwrap();
        }
    });
    let end = Offset(steps.max(2));
    disk.power_cut(seed);
    on_twin(&disk, async {
        let (home, found) = start(true).await;
        let notes = found.notes_of(partition(0));
        let (log, _) = Log::open(&home, partition(0), SETTINGS, &notes).await.unwrap();
        assert_eq!((log.log_start(), log.log_end()), (end, end));
    });
}

/// A process is killed while it writes where a log begins, the next one starts, and then the power goes: what the start
/// removed was deleted for good, or it removed nothing.
#[test]
fn a_start_believes_the_journal_only_once_it_is_durable() {
    for (step, seed) in (0..40).flat_map(|step| (0..2).map(move |seed| (step, seed))) {
        let disk = Disk::default();
        let filled = async {
            let (home, _) = start(true).await;
            let log = Log::create(&home, partition(0), SETTINGS).unwrap();
            home.sync_names().await.unwrap();
            home.journal().unwrap().begin().await.unwrap();
            for _ in 0..12 {
                append(&log, &batch(&[1; 70_000]));
                flush_all(&log, true).await;
            }
            timer::sleep(Duration::from_millis(100)).await;
            log.close().await.unwrap();
        };
        on_twin(&disk, filled);
        disk.kill();
        let simulation = Simulation::new(disk.clone(), 1).stopping_at(60 + step);
        let machine = Runtime::new(Io::Simulated(simulation)).unwrap();
        let _ = machine.block_on(async {
            let (home, found) = start(true).await;
            let notes = found.notes_of(partition(0));
            let (log, _) = Log::open(&home, partition(0), SETTINGS, &notes).await.unwrap();
            home.sync_recovered().await.unwrap();
            home.journal().unwrap().begin().await.unwrap();
            timer::sleep(Duration::from_millis(100)).await;
            let _ = log.delete_below(Offset(8)).await;
        });
        drop(machine);
        disk.kill();
        on_twin(&disk, async {
            let (home, found) = start(true).await;
            let notes = found.notes_of(partition(0));
            drop(Log::open(&home, partition(0), SETTINGS, &notes).await.unwrap());
        });
        disk.power_cut(seed);
        on_twin(&disk, async {
            let (home, found) = start(true).await;
            let notes = found.notes_of(partition(0));
            let opened = Log::open(&home, partition(0), SETTINGS, &notes).await;
            let (log, _) = opened.unwrap_or_else(|error| panic!("step {step}: {error}"));
            assert!([Offset(0), Offset(8)].contains(&log.log_start()), "{}", log.log_start());
            assert_eq!(log.log_end(), Offset(12));
        });
    }
}

/// Without a journal a file beside the segments says where a log begins.
#[test]
fn where_a_log_begins_is_known_without_a_journal() {
    for at in [5, 3] {
        let disk = Disk::default();
        on_twin(&disk, async {
            let (home, _) = start(false).await;
            let log = Log::create(&home, partition(0), SETTINGS).unwrap();
            home.sync_names().await.unwrap();
            for _ in 0..5 {
                append(&log, &batch(&[5; 1000]));
            }
            flush_all(&log, true).await;
            log.delete_below(Offset(at)).await.unwrap();
        });
        disk.power_cut(at as u64);
        on_twin(&disk, async {
            let (home, _) = start(false).await;
            let none = PartitionNotes::default();
            let (log, _) = Log::open(&home, partition(0), SETTINGS, &none).await.unwrap();
            assert_eq!((log.log_start(), log.log_end()), (Offset(at), Offset(5)));
        });
    }
}

/// Of the files of a log that was deleted whole some come back with a power cut, others not: offsets go on all the same.
#[test]
fn deleted_segments_that_come_back_are_not_the_logs_end() {
    for seed in 0..16 {
        let disk = Disk::default();
        on_twin(&disk, async {
            let (home, _) = start(false).await;
            let log = Log::create(&home, partition(0), SETTINGS).unwrap();
            home.sync_names().await.unwrap();
            for _ in 0..12 {
                append(&log, &batch(&[5; 150_000]));
                flush_all(&log, true).await;
            }
            log.delete_below(Offset(12)).await.unwrap();
        });
        disk.power_cut(seed);
        on_twin(&disk, async {
            let (home, _) = start(false).await;
            let none = PartitionNotes::default();
            let (log, _) = Log::open(&home, partition(0), SETTINGS, &none).await.unwrap();
            assert_eq!((log.log_start(), log.log_end()), (Offset(12), Offset(12)), "seed {seed}");
        });
    }
}

/// A segment rolls before an offset in it, relative to its base, needs more than 31 bits.
#[test]
fn offsets_far_apart_are_found() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (home, _) = start(true).await;
        let settings = LogSettings { segment_bytes: 1 << 30, segment_ms: i64::MAX };
        let log = Log::create(&home, partition(0), settings).unwrap();
        home.journal().unwrap().begin().await.unwrap();
        let mut bases = Vec::new();
        for number in 0..400u64 {
            let mut value = vec![0; 1_000];
            Random::new(number).fill(&mut value);
            let mut builder = BatchBuilder::default();
            builder.begin(1);
            builder.push(1, None, Some(&value), &[]);
            let mut bytes = builder.finish(Compression::Gzip).to_vec();
            // As many records as a compressed batch may claim.
            let count = (model::limits::DECOMPRESSED_BYTES_MAX / 7) as i32;
            bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
            let crc = model::crc32c::checksum(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            bases.push(log.log_end());
            append(&log, &bytes);
            flush_all(&log, false).await;
        }
        for base in bases {
            let (mut out, below) = (Vec::new(), log.log_end());
            if log.read_cached(base, 1, below, &mut out) == Read::Miss {
                log.read_disk(base, 1, below, &mut out).await.unwrap();
            }
            let bytes = out.iter().map(|piece| &piece[..]).collect::<Vec<_>>().concat();
            let (found, _) = RecordBatch::split_first(&bytes).unwrap();
            assert_eq!(found.base_offset(), base);
        }
    });
    let files = disk.files();
    let stems = files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
    let stem = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
    let bases: Vec<i64> = stems.filter_map(|(path, _)| stem(path)).collect();
    assert!(bases.len() > 1 && bases.windows(2).all(|pair| pair[1] - pair[0] <= 1 << 31));
}

/// Whoever works on a log when its partition is deleted meets missing files: that is nobody's failure.
#[test]
fn a_log_deleted_under_its_flush_takes_nothing_offline() {
    for after_us in (0..3_000).step_by(50) {
        let disk = Disk::default();
        on_twin(&disk, async {
            let (home, _) = start(true).await;
            let log = Log::create(&home, partition(0), SETTINGS).unwrap();
            home.journal().unwrap().begin().await.unwrap();
            append(&log, &batch(b"journaled"));
            log.flush(true).await.unwrap();
            let working = Rc::clone(&log);
            runtime::spawn(async move {
                let large = batch(&[9; 90_000]);
                let view = RecordBatch::validate_produced(&large, 1 << 21).unwrap();
                let _ = working.append(view, working.log_end(), LeaderEpoch(1));
                while working.flush(true).await.is_ok() && working.is_dirty(true) {}
                let _ = working.delete_below(Offset(1)).await;
                let _ = working.close().await;
            });
            timer::sleep(Duration::from_micros(after_us)).await;
            log.forget();
            runtime::fs::remove_dir_all(&home.partition_path(partition(0))).unwrap();
            log.until_unused().await;
            timer::sleep(Duration::from_millis(20)).await;
            assert!(!home.health().is_offline(), "deleted after {after_us} us");
        });
    }
}

/// Too many open files, or no space, for what is only moved on to its segment refuses nobody.
#[test]
fn what_is_journaled_is_safe_while_its_segment_cannot_be_written() {
    for errno in [ENOSPC, EMFILE] {
        let disk = Disk::default();
        on_twin(&disk, async {
            let (home, _) = start(true).await;
            let log = Log::create(&home, partition(0), SETTINGS).unwrap();
            home.sync_names().await.unwrap();
            home.journal().unwrap().begin().await.unwrap();
            for verb in [Verb::Open, Verb::Allocate, Verb::Write] {
                let path = ".log".to_owned();
                disk.add_fault(Fault { verb, path, after: 0, times: u64::MAX, errno });
            }
            for number in 1..40 {
                append(&log, &batch(&[1; 5_000]));
                let flushed = log.flush(true).await.unwrap();
                assert_eq!(flushed.durable, Offset(number), "errno {errno}");
                timer::sleep(Duration::from_millis(30)).await;
            }
            // Nothing else is to be done: that it could not be moved is told to nobody.
            timer::sleep(Duration::from_secs(2)).await;
            assert!(log.flush(false).await.is_ok());
            assert!(!log.is_offline());
            disk.clear_faults();
            timer::sleep(Duration::from_secs(2)).await;
            append(&log, &batch(&[1; 5_000]));
            flush_all(&log, true).await;
        });
        disk.power_cut(errno as u64);
        on_twin(&disk, async {
            let (home, found) = start(true).await;
            let notes = found.notes_of(partition(0));
            let (log, _) = Log::open(&home, partition(0), SETTINGS, &notes).await.unwrap();
            assert_eq!(log.log_end(), Offset(40));
        });
    }
}
