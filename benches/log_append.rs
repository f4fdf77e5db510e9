//! What does it cost to append a batch to a log, to find an offset, and to read the tail?

use benches::batch;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::{LeaderEpoch, Offset, RecordBatch};
use runtime::fs::TemporaryDir;
use runtime::{Io, Runtime};
use std::hint::black_box;
use storage::{Log, LogSettings, TailCache};

const SETTINGS: LogSettings = LogSettings { segment_bytes: 1 << 30, direct: true };

fn log_append(c: &mut Criterion) {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-bench").expect("a directory");
    let runtime = Runtime::new(Io::Uring).expect("io_uring");
    let cache = TailCache::new(64 << 20);
    let bytes = batch(63, 1024);
    let view = RecordBatch::validate_produced(&bytes, 1 << 20).expect("a good batch");
    let path = dir.path().join("append");
    let log = runtime.block_on(Log::create(&path, SETTINGS, &cache)).unwrap().expect("a log");
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
    let mut pieces = Vec::new();
    c.bench_function("log/read the newest batch from memory", |b| {
        b.iter(|| {
            pieces.clear();
            log.read_cached(black_box(Offset(end.0 - 1)), 1 << 20, end, &mut pieces)
        });
    });
}

criterion_group!(benches, log_append);
criterion_main!(benches);
