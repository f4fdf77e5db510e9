//! How fast is a log compacted, by one core, reading and checksumming all of it twice?

#![allow(clippy::disallowed_methods)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::record_batch::BatchBuilder;
use model::{
    Compression, LeaderEpoch, LogSettings, Offset, PartitionIndex, RecordBatch, TopicId,
    TopicPartition,
};
use runtime::fs::TemporaryDir;
use runtime::{Io, Runtime};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{CompactionPlan, Log, LogDir, TailCache};

const LOG_BYTES: u64 = 64 << 20;
const KEYS: u64 = 20_000;
const SETTINGS: LogSettings = LogSettings { segment_bytes: 16 << 20, segment_ms: i64::MAX };

/// A log of so many bytes, every key many times over, and how many records it has.
async fn filled(home: &Rc<LogDir>, number: i32, value_bytes: usize) -> Rc<Log> {
    let id = TopicPartition { topic_id: TopicId([2; 16]), partition: PartitionIndex(number) };
    let log = Log::create(home, id, SETTINGS).expect("a log");
    let (mut builder, mut n) = (BatchBuilder::default(), 0u64);
    let value = vec![7; value_bytes];
    while log.size_bytes() < LOG_BYTES {
        builder.begin(1_000);
        while builder.len() < 60_000 {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("key-{:012}", (n >> 33) % KEYS);
            builder.push(1_000, Some(key.as_bytes()), Some(&value), &[]);
        }
        let (batch, _) =
            RecordBatch::split_first(builder.finish(Compression::None)).expect("built just now");
        log.append(batch, log.log_end(), LeaderEpoch(1)).expect("append");
        if log.is_dirty(true) {
            log.flush(true).await.expect("flush");
        }
    }
    while log.is_dirty(true) {
        log.flush(true).await.expect("flush");
    }
    log
}

async fn compacted(log: &Log) -> (Duration, u64, u64) {
    let plan = CompactionPlan {
        below: log.log_end(),
        now_ms: 1_000,
        min_lag_ms: 0,
        delete_retention_ms: 0,
        map_bytes: 32 << 20,
        last_batches: BTreeMap::new(),
        aborted: Vec::new(),
        stops: &|| false,
        rest: &|| Duration::ZERO,
    };
    let began = Instant::now();
    let done = log.compact(&plan, async |_: &[Offset]| Ok(())).await.expect("compaction");
    (began.elapsed(), done.bytes_before, done.bytes_after)
}

fn compaction(c: &mut Criterion) {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-bench").expect("a directory");
    let runtime = Runtime::new(Io::Uring).expect("io_uring");
    let cache = TailCache::new(16 << 20);
    let mut group = c.benchmark_group("compaction");
    group.sample_size(10).throughput(Throughput::Bytes(LOG_BYTES));
    let mut number = 0;
    for (name, value_bytes) in [("1 KiB records", 1024), ("100-byte records", 100)] {
        let mut shown = (0, 0);
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    number += 1;
                    let path = dir.path().join(number.to_string());
                    total += runtime
                        .block_on(async {
                            runtime::fs::create_dir_all(&path.join("partitions")).expect("made");
                            let home = LogDir::new(&path, true, &cache, None, Arc::default());
                            let log = filled(&home, number, value_bytes).await;
                            let (took, before, after) = compacted(&log).await;
                            assert!(before > LOG_BYTES / 2 && after < before, "{before} {after}");
                            shown = (before, after);
                            took
                        })
                        .expect("only the twin stops");
                    let _ = runtime::fs::remove_dir_all(&path);
                }
                total
            });
        });
        println!("  check: {} KB became {} KB", shown.0 / 1024, shown.1 / 1024);
    }
    group.finish();
}

criterion_group!(benches, compaction);
criterion_main!(benches);
