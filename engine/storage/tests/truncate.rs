//! A log that is cut at its end: without a journal, together with compaction, and what is refused.

use model::record_batch::BatchBuilder;
use model::{
    Compression, LeaderEpoch, LogSettings, Offset, PartitionIndex, RecordBatch, TopicId,
    TopicPartition,
};
use runtime::simulated::{Disk, Simulation};
use runtime::{Io, Runtime, fs, timer};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::{CompactionPlan, Log, LogDir, PartitionNotes, Read, Replay, StorageError, TailCache};

const SETTINGS: LogSettings = LogSettings { segment_bytes: 20_000, segment_ms: i64::MAX };
/// Records of a batch.
const RECORDS: i64 = 3;

fn id() -> TopicPartition {
    TopicPartition { topic_id: TopicId([7; 16]), partition: PartitionIndex(0) }
}

fn home() -> Rc<LogDir> {
    let data = Path::new("/d");
    fs::create_dir_all(&data.join("partitions")).unwrap();
    LogDir::new(data, true, &TailCache::new(1 << 20), None, Arc::default())
}

/// Appends a batch whose values hold this number.
fn append(log: &Log, number: u8, epoch: i32) {
    let mut builder = BatchBuilder::default();
    builder.begin(0);
    for record in 0..RECORDS {
        builder.push(0, Some(&[record as u8]), Some(&[number; 900]), &[]);
    }
    let bytes = builder.finish(Compression::None).to_vec();
    let batch = RecordBatch::validate_produced(&bytes, 1 << 20).unwrap();
    log.append(batch, log.log_end(), LeaderEpoch(epoch)).unwrap();
}

async fn flush(log: &Log) {
    while log.is_dirty(true) {
        log.flush(true).await.unwrap();
    }
}

async fn filled(home: &Rc<LogDir>, batches: u8) -> Rc<Log> {
    let log = Log::create(home, id(), SETTINGS).unwrap();
    fs::sync_file_system(Path::new("/d")).await.unwrap();
    for number in 0..batches {
        append(&log, number, 1 + i32::from(number) / 10);
    }
    flush(&log).await;
    log
}

/// The number and the epoch of each batch.
async fn read_all(log: &Log) -> Vec<(i64, u8, i32)> {
    let (mut found, mut at) = (Vec::new(), log.log_start());
    while at < log.log_end() {
        let mut out = Vec::new();
        if log.read_cached(at, 1, log.log_end(), &mut out) == Read::Miss {
            log.read_disk(at, 1, log.log_end(), &mut out).await.unwrap();
        }
        let bytes = out.iter().map(|piece| &piece[..]).collect::<Vec<_>>().concat();
        let (batch, _) = RecordBatch::split_first(&bytes).unwrap();
        let mut scratch = Vec::new();
        let record = batch.records(&mut scratch).unwrap().next();
        let number = record.map_or(255, |record| record.unwrap().value.unwrap()[0]);
        found.push((batch.base_offset().0, number, batch.leader_epoch().0));
        at = batch.last_offset().plus(1);
    }
    found
}

fn on_twin<T>(disk: &Disk, body: impl Future<Output = T>) -> T {
    let machine = Runtime::new(Io::Simulated(Simulation::new(disk.clone(), 1))).unwrap();
    machine.block_on(body).unwrap()
}

#[test]
fn whole_batches_go_and_others_come_in_their_place() {
    for cut in [1, 2, 3, 20, 58, 59, 60, 61, 90, 118, 119] {
        let disk = Disk::default();
        let kept = cut / RECORDS;
        let expected = on_twin(&disk, async {
            let log = filled(&home(), 40).await;
            log.store_beside("producers", b"of what goes").await.unwrap();
            let end = log.truncate(Offset(cut)).await.unwrap();
            assert_eq!(end, Offset(kept * RECORDS), "the batch that holds {cut} goes");
            assert_eq!((log.log_end(), log.flushed().durable), (end, end));
            assert_eq!(log.load_beside("producers").await.unwrap(), None);
            assert!(log.epoch_of(end).is_none_or(|epoch| epoch.0 < 9), "no epoch begins there");
            for number in 100..110 {
                append(&log, number, 9);
            }
            flush(&log).await;
            assert_eq!(log.end_of_epoch(LeaderEpoch(8)).1, end.max(Offset(0)));
            read_all(&log).await
        });
        let new = (0..10).map(|n| ((kept + n) * RECORDS, 100 + n as u8, 9));
        let old = (0..kept).map(|n| (n * RECORDS, n as u8, 1 + n as i32 / 10));
        assert_eq!(expected, old.chain(new).collect::<Vec<_>>(), "cut at {cut}");
        disk.power_cut(cut as u64);
        let after = on_twin(&disk, async {
            let notes = Replay::default().notes_of(id());
            let (log, _) = Log::open(&home(), id(), SETTINGS, &notes).await.unwrap();
            read_all(&log).await
        });
        assert_eq!(after, expected, "and a start finds the same");
    }
}

/// Without a journal nothing else says that a log was to be cut: what a stop leaves must be a log.
#[test]
fn a_stop_in_the_middle_of_a_cut_leaves_a_whole_log_without_a_journal_too() {
    let notes = || Replay::default().notes_of(id());
    let open = async || Log::open(&home(), id(), SETTINGS, &notes()).await.unwrap().0;
    let (mut stopped, mut between) = (0, 0);
    for step in 0..60 {
        for seed in 0..8 {
            let disk = Disk::default();
            let before = on_twin(&disk, async {
                let log = filled(&home(), 60).await;
                log.close().await.unwrap();
                log.store_beside("producers", b"up to the end").await.unwrap();
                read_all(&log).await
            });
            let simulation = Simulation::new(disk.clone(), seed).stopping_at(step);
            let machine = Runtime::new(Io::Simulated(simulation)).unwrap();
            let ended = machine.block_on(async { open().await.truncate(Offset(31)).await });
            drop(machine);
            disk.power_cut(seed);
            let after = on_twin(&disk, async {
                let log = open().await;
                let found = read_all(&log).await;
                if found.len() < 60 {
                    let derived = log.load_beside("producers").await.unwrap();
                    assert_eq!(derived, None, "it knew of what is gone (step {step}, seed {seed})");
                }
                found
            });
            assert!(after.len() >= 10, "step {step}, seed {seed}: {after:?}");
            assert_eq!(after, before[..after.len()], "step {step}, seed {seed}");
            assert!(ended.is_err() || after.len() == 10, "what is done stays done");
            stopped += usize::from(ended.is_err());
            between += usize::from((11..60).contains(&after.len()));
        }
    }
    assert!(stopped > 50 && between > 10, "{stopped} stops, {between} in the middle of a cut");
}

#[test]
fn a_log_is_not_cut_back_to_where_it_does_not_begin() {
    on_twin(&Disk::default(), async {
        let log = filled(&home(), 30).await;
        log.delete_below(Offset(40)).await.unwrap();
        let refused = log.truncate(Offset(39)).await;
        assert!(matches!(refused, Err(StorageError::Unusable(_))), "{refused:?}");
        assert_eq!(log.log_end(), Offset(90));
        assert_eq!(log.truncate(Offset(90)).await.unwrap(), Offset(90), "nothing is behind it");
        assert_eq!(log.truncate(Offset(42)).await.unwrap(), Offset(42));
        append(&log, 1, 1);
        flush(&log).await;
    });
}

#[test]
fn what_is_compacted_goes_as_a_whole_and_compaction_gives_way() {
    on_twin(&Disk::default(), async {
        let log = filled(&home(), 40).await;
        let is_cutting = Rc::new(Cell::new(false));
        let plan = |rest| CompactionPlan {
            below: log.log_end(),
            now_ms: 0,
            min_lag_ms: 0,
            delete_retention_ms: 0,
            map_bytes: 1 << 20,
            last_batches: BTreeMap::new(),
            aborted: Vec::new(),
            stops: &|| false,
            rest,
        };
        let no_rest = || Duration::ZERO;
        let done = log.compact(&plan(&no_rest), async |_: &[Offset]| Ok(())).await.unwrap();
        assert!(!done.stopped && done.bytes_after < done.bytes_before);
        for number in 40..80 {
            append(&log, number, 5);
        }
        flush(&log).await;
        let end = log.truncate(Offset(50)).await.unwrap();
        assert_eq!(end, Offset(0), "one segment stands for all of these");
        assert!(read_all(&log).await.is_empty());
        for number in 0..40 {
            append(&log, number, 6);
        }
        flush(&log).await;
        // A cut that is asked for while the log is compacted has not long to wait.
        let (cutting, cut) = (Rc::clone(&is_cutting), Rc::clone(&log));
        let rest = || {
            if !is_cutting.replace(true) {
                let (cutting, cut) = (Rc::clone(&cutting), Rc::clone(&cut));
                runtime::spawn(async move {
                    assert_eq!(cut.truncate(Offset(60)).await.unwrap(), Offset(60));
                    cutting.set(false);
                });
            }
            Duration::from_millis(1)
        };
        let done = log.compact(&plan(&rest), async |_: &[Offset]| Ok(())).await.unwrap();
        assert!(done.stopped, "it gave way");
        timer::sleep(Duration::from_secs(1)).await;
        assert!(!is_cutting.get());
        let left = read_all(&log).await;
        assert_eq!(left.last(), Some(&(57, 19, 6)));
        assert_eq!(left.len(), 20);
        // Nor does one begin while the log is cut, and what it does not do excludes nobody.
        for number in 20..40 {
            append(&log, number, 7);
        }
        flush(&log).await;
        let (end, no_plan) = (log.log_end(), plan(&no_rest));
        let cut = log.truncate(Offset(end.0 - 1));
        let compacted = log.compact(&no_plan, async |_: &[Offset]| Ok(()));
        let (cut, compacted) = runtime::both(cut, compacted).await;
        assert!(cut.unwrap() < end && compacted.unwrap().stopped);
        let done = log.compact(&plan(&no_rest), async |_: &[Offset]| Ok(())).await.unwrap();
        assert!(!done.stopped, "once it is cut it may be");
    });
}

#[test]
fn a_log_is_not_cut_while_its_start_is_deleted() {
    on_twin(&Disk::default(), async {
        let log = filled(&home(), 40).await;
        let (start, end) = (Offset(30), log.log_end());
        let (deleted, cut) = runtime::both(log.delete_below(start), log.truncate(Offset(20))).await;
        assert!(deleted.is_ok() && cut.is_err(), "{deleted:?} {cut:?}");
        assert_eq!((log.log_start(), log.log_end()), (start, end));
        // And the other way round: what was to be deleted is not there any more.
        let (cut, deleted) = runtime::both(log.truncate(Offset(40)), log.delete_below(end)).await;
        assert!(cut.is_ok() && deleted.is_err(), "{cut:?} {deleted:?}");
        assert_eq!(log.log_start(), start);
        append(&log, 1, 1);
        flush(&log).await;
    });
}

/// A backup copied over newer files: one file holds again what another one does.
#[test]
fn files_of_different_times_are_told_as_damage() {
    on_twin(&Disk::default(), async {
        let home = home();
        let log = filled(&home, 20).await;
        log.close().await.unwrap();
        drop(log);
        let dir = home.partition_path(id());
        let first = fs::read(&dir.join(format!("{:020}.log", 0))).await.unwrap();
        let (batch, rest) = RecordBatch::split_first(&first).unwrap();
        let base = batch.last_offset().0 + 1;
        fs::replace(&dir.join(format!("{base:020}.log")), rest).await.unwrap();
        fs::remove_file(&dir.join("epochs")).unwrap();
        let opened = Log::open(&home, id(), SETTINGS, &PartitionNotes::default()).await;
        assert!(matches!(opened, Err(StorageError::Corrupt { .. })), "{:?}", opened.err());
    });
}
