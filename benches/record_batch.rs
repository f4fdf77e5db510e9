//! What does it cost to check a produced batch, to look at its records, and to build one?

use benches::batch;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::{Compression, RecordBatch, walk_records};
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

/// What looking at each record adds to the checksum of a batch of 16 KiB, the default of clients.
fn walk(c: &mut Criterion) {
    for (name, value_bytes) in [("100B", 100), ("1KiB", 1024)] {
        let records = (16 * 1024 / (value_bytes + 10)) as u32;
        let bytes = batch(records, value_bytes);
        let mut group = c.benchmark_group(format!("record_batch/16KiB of {name}"));
        group.throughput(Throughput::Elements(u64::from(records)));
        group.bench_function("validate", |b| {
            b.iter(|| RecordBatch::validate_produced(black_box(&bytes), 1 << 24).is_ok());
        });
        let (found, _) = RecordBatch::split_first(&bytes).expect("built");
        group.bench_function("walk", |b| {
            let count = found.record_count();
            b.iter(|| walk_records(black_box(found.body()), count, 0).is_ok());
        });
        for codec in [Compression::Lz4, Compression::Zstd] {
            let mut packed = Vec::new();
            codec.compress(found.body(), &mut packed);
            let mut scratch = Vec::new();
            group.bench_function(format!("unpack {codec:?}"), |b| {
                b.iter(|| {
                    scratch.clear();
                    codec.decompress(black_box(&packed), &mut scratch).is_ok()
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, record_batch, walk);
criterion_main!(benches);
