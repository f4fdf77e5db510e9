//! What does it cost to know a producer's batch, and to remember it?

use benches::batch;
use criterion::{Criterion, criterion_group, criterion_main};
use model::record_batch::BatchBuilder;
use model::{Compression, Offset, Producer, ProducerId, RecordBatch};
use partition::{Admission, Producers};
use std::hint::black_box;

const PRODUCERS: i64 = 1_000;

fn produced(id: i64, sequence: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(1_000);
    builder.set_producer(Producer { id: ProducerId(id), epoch: 0 }, sequence, false);
    (0..64).for_each(|_| builder.push(1_000, None, Some(&[7; 1024]), &[]));
    builder.finish(Compression::None).to_vec()
}

fn producer_state(c: &mut Criterion) {
    let mut group = c.benchmark_group("producer state");
    // Batches of many producers in turn, as a busy partition gets them; numbers do not go on, so
    // each is admitted once and remembered ever after.
    let all: Vec<Vec<u8>> = (0..PRODUCERS).map(|id| produced(id, 0)).collect();
    let plain = batch(64, 1024);
    let (plain, _) = RecordBatch::split_first(&plain).expect("a good batch");
    let mut producers = Producers::default();
    let mut next = 0usize;
    group.bench_function("idempotent: admit, remember", |b| {
        b.iter(|| {
            let (batch, _) = RecordBatch::split_first(&all[next % all.len()]).expect("built");
            let base = Offset(next as i64 * 64);
            next += 1;
            black_box(producers.admit(batch, None)).expect("known or new");
            producers.on_batch(batch, base, 1_000);
            producers.on_written(base);
        });
    });
    group.bench_function("not idempotent", |b| {
        b.iter(|| black_box(producers.admit(black_box(plain), None)));
    });
    group.finish();
    assert_eq!(producers.iter().count() as i64, PRODUCERS.min(next as i64));
    let (known, _) = RecordBatch::split_first(&all[0]).expect("built");
    assert!(matches!(producers.admit(known, None), Ok(Admission::Duplicate(_))));
    println!("  check: {} producers known", producers.iter().count());
}

criterion_group!(benches, producer_state);
criterion_main!(benches);
