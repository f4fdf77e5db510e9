//! The hot steps on the way of a record, each with its memory made beforehand. They return a check of the
//! work done.

use benches::{FETCH_LIMITS, batch, fetched};
use model::record_batch::BatchBuilder;
use model::{
    Compression, ErrorCode, Offset, Producer, ProducerId, RecordBatch, TopicId, TopicRef, crc32c,
};
use partition::Producers;
use std::hint::black_box;
use wire::fetch::{self, FetchAsk, FetchHead, FetchRequest};
use wire::primitives::Reader;
use wire::produce::{self, ProduceRequest, ProduceResult};

pub(crate) type Step = Box<dyn FnMut() -> u64>;

const HEAD: FetchHead<'_> = FetchHead { error: ErrorCode::None, session_id: 0, told: None };

/// All of them, by name.
pub(crate) fn steps() -> Vec<(&'static str, Step)> {
    vec![
        ("checksum of 64 KiB", checksum()),
        ("validate a produced batch of 63 x 1 KiB", validate(63, 1024)),
        ("validate a produced batch of 100 x 100 B", validate(100, 100)),
        ("walk the records of a batch of 100 x 100 B", walk()),
        ("build a batch of 100 x 100 B", build()),
        ("read the records of a batch of 100 x 100 B", read_records(Compression::None)),
        ("read the records of an lz4 batch of 100 x 100 B", read_records(Compression::Lz4)),
        ("admit and remember an idempotent batch", producer_state()),
        ("produce v9 of 12 partitions: read, answer", produce_request(12)),
        ("fetch v12 of 12 partitions: read, answer", fetch_request(12)),
        ("fetch v12 of 1,000 partitions: read, answer", fetch_request(1000)),
    ]
}

fn checksum() -> Step {
    let bytes = vec![0xa5; 64 << 10];
    Box::new(move || u64::from(crc32c::checksum(black_box(&bytes))))
}

fn validate(records: u32, value_bytes: usize) -> Step {
    let bytes = batch(records, value_bytes);
    Box::new(move || {
        let found = RecordBatch::validate_produced(black_box(&bytes), 1 << 24).expect("good");
        found.last_offset().0 as u64
    })
}

fn walk() -> Step {
    let bytes = batch(100, 100);
    Box::new(move || {
        let (batch, _) = RecordBatch::split_first(black_box(&bytes)).expect("built");
        let found = model::walk_records(batch.body(), batch.record_count(), 0).expect("good");
        found.max_timestamp as u64
    })
}

fn build() -> Step {
    let mut builder = BatchBuilder::default();
    let value = [7; 100];
    Box::new(move || {
        builder.begin(1_700_000_000_000);
        for record in 0..100 {
            builder.push(1_700_000_000_000 + record, Some(b"key"), Some(black_box(&value)), &[]);
        }
        builder.finish(Compression::None).len() as u64
    })
}

fn read_records(codec: Compression) -> Step {
    let mut builder = BatchBuilder::default();
    builder.begin(1_000);
    (0..100).for_each(|n| builder.push(1_000 + n, Some(b"key"), Some(&[n as u8; 100]), &[]));
    let bytes = builder.finish(codec).to_vec();
    let mut scratch = Vec::new();
    Box::new(move || {
        let (batch, _) = RecordBatch::split_first(black_box(&bytes)).expect("built");
        let records = batch.records(&mut scratch).expect("good");
        records.map(|record| record.expect("good").value.map_or(0, <[u8]>::len) as u64).sum()
    })
}

fn producer_state() -> Step {
    let made = |id| {
        let mut builder = BatchBuilder::default();
        builder.begin(1_000);
        builder.set_producer(Producer { id: ProducerId(id), epoch: 0 }, 0, false);
        builder.push(1_000, None, Some(&[7; 100]), &[]);
        builder.finish(Compression::None).to_vec()
    };
    let all: Vec<Vec<u8>> = (0..100).map(made).collect();
    let (mut producers, mut next) = (Producers::default(), 0usize);
    Box::new(move || {
        let (batch, _) = RecordBatch::split_first(&all[next % all.len()]).expect("built");
        let base = Offset(next as i64);
        next += 1;
        let admitted = producers.admit(batch, None).is_ok();
        producers.on_batch(batch, base, 1_000);
        producers.on_written(base);
        u64::from(admitted)
    })
}

fn produce_request(partitions: i32) -> Step {
    let records = [0; 1024];
    let mut bytes = Vec::new();
    let batches = (0..partitions).map(|partition| (partition, &records[..]));
    produce::put_request(&mut bytes, 9, -1, 1500, TopicRef::Name("topic"), batches);
    let mut out = Vec::new();
    Box::new(move || {
        let request = ProduceRequest::read(Reader::new(black_box(&bytes)), 9).expect("good");
        out.clear();
        let done = request.partitions().map(|_| ProduceResult::appended(Offset(1), Offset(0), -1));
        produce::put_response(&mut out, 9, &request, done);
        out.len() as u64
    })
}

fn fetch_request(partitions: i32) -> Step {
    let asks: Vec<_> = (0..partitions).map(|partition| FetchAsk { partition, offset: 7 }).collect();
    let mut bytes = Vec::new();
    fetch::put_request(&mut bytes, 12, FETCH_LIMITS, "topic", TopicId::ZERO, &asks);
    let mut out = Vec::new();
    Box::new(move || {
        let request = FetchRequest::read(Reader::new(black_box(&bytes)), 12).expect("good");
        out.clear();
        let found = request.partitions().map(|_| fetched());
        fetch::put_response(&mut out, 12, &request, HEAD, found, |_| &[], |_| {});
        out.len() as u64
    })
}
