//! What does it cost to append a batch to a log, to find an offset, and to read the tail?

#![allow(clippy::disallowed_methods)]

use benches::batch;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::{
    LeaderEpoch, LogSettings, Offset, PartitionIndex, RecordBatch, TopicId, TopicPartition,
};
use runtime::fs::TemporaryDir;
use runtime::notify::Notify;
use runtime::{Io, Runtime};
use std::cell::Cell;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use storage::{Journal, Log, LogDir, Replay, TailCache};

/// Partitions that sync a little, all at once.
const PARTITIONS: usize = 1024;
const JOURNAL_FILE_BYTES: u64 = 32 << 20;

fn partition(number: usize) -> TopicPartition {
    TopicPartition { topic_id: TopicId([1; 16]), partition: PartitionIndex(number as i32) }
}

/// A log directory of its own, with or without a journal.
async fn home(path: &Path, with_journal: bool, cache: &Rc<TailCache>) -> Rc<LogDir> {
    runtime::fs::create_dir_all(&path.join("partitions")).expect("made");
    let journal = with_journal
        .then(|| Journal::new(path, 0, JOURNAL_FILE_BYTES, true, Replay::default().start_of(0)));
    if let Some(journal) = &journal {
        journal.begin().await.expect("begun");
    }
    LogDir::new(path, true, cache, journal, Arc::default())
}

/// Appends a little to every log and waits until all of it is durable.
async fn sync_all(logs: &[Rc<Log>], bytes: &[u8]) {
    let view = RecordBatch::validate_produced(bytes, 1 << 20).expect("a good batch");
    let left = Rc::new(Cell::new(logs.len()));
    let done = Rc::new(Notify::default());
    for log in logs {
        log.append(view, log.log_end(), LeaderEpoch(1)).expect("append");
        let (log, left, done) = (Rc::clone(log), Rc::clone(&left), Rc::clone(&done));
        runtime::spawn(async move {
            let flushed = log.flush(true).await.expect("flush");
            assert_eq!(flushed.durable, log.log_end());
            left.set(left.get() - 1);
            if left.get() == 0 {
                done.notify();
            }
        });
    }
    done.until(|| (left.get() == 0).then_some(())).await;
}

fn log_append(c: &mut Criterion) {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-bench").expect("a directory");
    let runtime = Runtime::new(Io::Uring).expect("io_uring");
    let cache = TailCache::new(64 << 20);
    let bytes = batch(63, 1024);
    let view = RecordBatch::validate_produced(&bytes, 1 << 20).expect("a good batch");
    let one = runtime.block_on(home(&dir.path().join("one"), true, &cache)).unwrap();
    let create =
        |home: &Rc<LogDir>, number| Log::create(home, partition(number), LogSettings::default());
    let log = runtime.block_on(async { create(&one, 0) }).unwrap().expect("a log");
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("append and flush 64 KiB, os", |b| {
        b.iter(|| {
            log.append(view, log.log_end(), LeaderEpoch(1)).expect("append");
            runtime.block_on(log.flush(false)).unwrap().expect("flush")
        });
    });
    group.bench_function("append and flush 64 KiB, disk", |b| {
        b.iter(|| {
            log.append(view, log.log_end(), LeaderEpoch(1)).expect("append");
            runtime.block_on(log.flush(true)).unwrap().expect("flush")
        });
    });
    group.finish();
    let end = log.log_end();
    assert!(end.0 > 0 && end.0 % 63 == 0, "whole batches: {end}");
    let mut pieces = Vec::new();
    c.bench_function("log/read the newest batch from memory", |b| {
        b.iter(|| {
            pieces.clear();
            log.read_cached(black_box(Offset(end.0 - 1)), 1 << 20, end, &mut pieces)
        });
    });
    assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), bytes.len());
    println!("  check: {} batches appended, the newest read", end.0 / 63);
}

/// The same work as a program does it that syncs each file by itself: write, fdatasync, next.
fn sync_all_by_std(files: &[std::fs::File], position: &mut u64, bytes: &[u8]) {
    for file in files {
        file.write_all_at(bytes, *position).expect("written");
        file.sync_data().expect("synced");
    }
    *position += bytes.len() as u64;
}

fn many_syncs(c: &mut Criterion, records: u32, record_bytes: usize) {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-bench").expect("a directory");
    let runtime = Runtime::new(Io::Uring).expect("io_uring");
    let bytes = batch(records, record_bytes);
    let mut group =
        c.benchmark_group(format!("sync of {PARTITIONS} partitions, {} bytes each", bytes.len()));
    group.sample_size(10);
    for with_journal in [true, false] {
        let cache = TailCache::new(PARTITIONS * 256 * 1024);
        let name = if with_journal { "shared journal" } else { "each its segment, 1,024 at once" };
        let home = runtime.block_on(home(&dir.path().join(name), with_journal, &cache)).unwrap();
        let logs: Vec<_> = runtime
            .block_on(async {
                let create = |n| Log::create(&home, partition(n), LogSettings::default());
                (0..PARTITIONS).map(|n| create(n).expect("a log")).collect()
            })
            .unwrap();
        // The first round makes files; it is not what is asked.
        runtime.block_on(sync_all(&logs, &bytes)).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| runtime.block_on(sync_all(&logs, &bytes)).unwrap());
        });
        let end = logs[0].log_end();
        assert!(end.0 > 0 && logs.iter().all(|log| log.log_end() == end));
        println!("  check: {PARTITIONS} logs are durable up to offset {end}");
    }
    let create = |number: usize| {
        let options = std::fs::File::options().create(true).write(true).truncate(true).clone();
        options.open(dir.path().join(format!("{number}"))).expect("a file")
    };
    let files: Vec<_> = (0..PARTITIONS).map(create).collect();
    let mut position = 0;
    sync_all_by_std(&files, &mut position, &bytes);
    group.bench_function("one fdatasync each, one after another", |b| {
        b.iter(|| sync_all_by_std(&files, &mut position, &bytes));
    });
    let is_whole =
        |file: &std::fs::File| file.metadata().is_ok_and(|found| found.len() == position);
    assert!(files.iter().all(is_whole));
    println!("  check: {PARTITIONS} files of {position} bytes");
    group.finish();
}

fn small_syncs(c: &mut Criterion) {
    many_syncs(c, 1, 200);
    many_syncs(c, 4, 900);
}

criterion_group!(benches, log_append, small_syncs);
criterion_main!(benches);
