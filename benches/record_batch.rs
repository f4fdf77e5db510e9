//! What does it cost to check a produced batch, and to build one?

use benches::batch;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::RecordBatch;
use std::hint::black_box;

fn record_batch(c: &mut Criterion) {
    for (name, records) in [("4KiB", 4), ("64KiB", 63), ("1MiB", 1000)] {
        let bytes = batch(records, 1024);
        let mut group = c.benchmark_group(format!("record_batch/{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("validate", |b| {
            b.iter(|| RecordBatch::validate_produced(black_box(&bytes), 1 << 24).is_ok());
        });
        let found = RecordBatch::validate_produced(&bytes, 1 << 24).expect("a good batch");
        assert_eq!((found.record_count() as u32, found.bytes().len()), (records, bytes.len()));
        let mut damaged = bytes.clone();
        *damaged.last_mut().expect("not empty") ^= 1;
        assert!(RecordBatch::validate_produced(&damaged, 1 << 24).is_err());
        println!("  check: {records} records in {} bytes; a changed byte is noticed", bytes.len());
        group.bench_function("build", |b| b.iter(|| batch(black_box(records), 1024).len()));
        group.finish();
    }
}

criterion_group!(benches, record_batch);
criterion_main!(benches);
