//! What does it cost to read a produce or fetch request, and to write the response?

use benches::{FETCH_LIMITS, fetched};
use criterion::{Criterion, criterion_group, criterion_main};
use model::{ErrorCode, Offset, TopicId, TopicRef};
use std::hint::black_box;
use wire::fetch::{self, FetchAsk, FetchHead, FetchRequest};
use wire::primitives::Reader;
use wire::produce::{self, ProduceRequest, ProduceResult};

const HEAD: FetchHead<'_> = FetchHead { error: ErrorCode::None, session_id: 0, told: None };

fn wire_decode(c: &mut Criterion) {
    for partitions in [1, 100] {
        let records = [0; 1024];
        let mut bytes = Vec::new();
        let batches = (0..partitions).map(|p| (p, &records[..])).collect::<Vec<_>>();
        produce::put_request(&mut bytes, 9, -1, 1500, TopicRef::Name("topic"), batches.into_iter());
        let mut out = Vec::new();
        c.bench_function(&format!("wire/produce v9, {partitions} partitions"), |b| {
            b.iter(|| {
                let request = ProduceRequest::read(Reader::new(black_box(&bytes)), 9).unwrap();
                out.clear();
                let done =
                    request.partitions().map(|_| ProduceResult::appended(Offset(1), Offset(0), -1));
                produce::put_response(&mut out, 9, &request, done);
                out.len()
            });
        });
        let (mut told, body) = (0, Reader::new(&out));
        produce::read_response(body, 9, |_, partition, error, base| {
            assert_eq!((partition, error, base), (told, ErrorCode::None, 1));
            told += 1;
        })
        .expect("as it was written");
        assert_eq!(told, partitions);
        let asks: Vec<_> =
            (0..partitions).map(|partition| FetchAsk { partition, offset: 7 }).collect();
        let mut bytes = Vec::new();
        fetch::put_request(&mut bytes, 12, FETCH_LIMITS, "topic", TopicId::ZERO, &asks);
        c.bench_function(&format!("wire/fetch v12, {partitions} partitions"), |b| {
            b.iter(|| {
                let request = FetchRequest::read(Reader::new(black_box(&bytes)), 12).unwrap();
                out.clear();
                let found = request.partitions().map(|_| fetched());
                fetch::put_response(&mut out, 12, &request, HEAD, found, |_| &[], |_| {});
                out.len()
            });
        });
        let request = FetchRequest::read(Reader::new(&bytes), 12).expect("as it was written");
        assert!(request.partitions().map(|asked| asked.partition).eq(0..partitions));
        println!("  check: {partitions} partitions read and answered, {} bytes", out.len());
    }
}

criterion_group!(benches, wire_decode);
criterion_main!(benches);
