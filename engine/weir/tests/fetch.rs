//! Fetches that wait, over partitions of several shards: what comes is told at once, to everyone, in order.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, batch, body};
use model::RecordBatch;
use runtime::random::Random;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::ApiKey;
use wire::fetch::{FetchAsk, FetchLimits, put_request, read_response};

const PARTITIONS: i32 = 6;
/// Who is told at once is told long before this.
const MAX_WAIT_MS: i32 = 8_000;
const AT_ONCE: Duration = Duration::from_secs(4);

fn start() -> Broker {
    let broker = Broker::start(&["--weir.shards", "3"]);
    broker.client().create("t", PARTITIONS);
    broker
}

/// Asks for what lies behind each of these offsets.
fn ask(client: &mut Client, offsets: &[i64], min_bytes: i32) {
    let limits = FetchLimits {
        max_wait_ms: MAX_WAIT_MS,
        min_bytes,
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 16,
        read_committed: false,
    };
    let asks: Vec<_> = (0..)
        .zip(offsets)
        .map(|(partition, offset)| FetchAsk { partition, offset: *offset })
        .collect();
    let frame = client.frame(ApiKey::Fetch, 12, |out| {
        put_request(out, 12, limits, "t", model::TopicId::ZERO, &asks);
    });
    client.send(&frame);
}

/// Bytes of records by partition; moves the offsets behind them.
fn told(client: &mut Client, offsets: &mut [i64]) -> BTreeMap<i32, usize> {
    let payload = client.receive().expect("an answer");
    let mut bytes = BTreeMap::new();
    read_response(body(&payload, ApiKey::Fetch, 12), 12, |fetched| {
        let offset = &mut offsets[fetched.partition as usize];
        let mut rest = fetched.records;
        while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
            assert_eq!(batch.base_offset().0, *offset, "none is left out, none comes twice");
            *offset = batch.last_offset().0 + 1;
            rest = tail;
        }
        if !fetched.records.is_empty() {
            bytes.insert(fetched.partition, fetched.records.len());
        }
    })
    .unwrap();
    bytes
}

fn produce(client: &mut Client, acks: i16, partition: i32, records: &[u8]) {
    let frame = client.produce_frame("t", acks, &[(partition, records)]);
    client.send(&frame);
    assert_eq!(client.produced().unwrap()[0].1, 0);
}

#[test]
fn a_waiting_fetch_is_answered_when_any_of_its_partitions_moves() {
    let broker = start();
    let (mut waiting, mut producer) = (broker.client(), broker.client());
    let (mut offsets, records) = ([0; PARTITIONS as usize], batch(3, 100));
    for round in 0..4 {
        for partition in 0..PARTITIONS {
            ask(&mut waiting, &offsets, 1);
            std::thread::sleep(Duration::from_millis(20));
            let began = Instant::now();
            produce(&mut producer, [1, -1][round % 2], partition, &records);
            assert_eq!(told(&mut waiting, &mut offsets), [(partition, records.len())].into());
            assert!(began.elapsed() < AT_ONCE, "partition {partition}: {:?}", began.elapsed());
        }
    }
}

#[test]
fn a_fetch_that_wants_more_bytes_waits_for_them_and_no_longer() {
    let broker = start();
    let (mut waiting, mut producer) = (broker.client(), broker.client());
    let (mut offsets, records) = ([0; PARTITIONS as usize], batch(3, 100));
    for order in [[0, 1, 2, 3], [3, 3, 3, 3], [5, 0, 5, 0], [2, 4, 4, 1]] {
        ask(&mut waiting, &offsets, 4 * records.len() as i32);
        for (number, partition) in order.into_iter().enumerate() {
            std::thread::sleep(Duration::from_millis(20));
            if number == 3 {
                waiting.stream.set_nonblocking(true).unwrap();
                assert!(waiting.stream.peek(&mut [0]).is_err(), "three are not enough");
                waiting.stream.set_nonblocking(false).unwrap();
            }
            produce(&mut producer, 1, partition, &records);
        }
        let began = Instant::now();
        let bytes: usize = told(&mut waiting, &mut offsets).values().sum();
        assert_eq!(bytes, 4 * records.len(), "{order:?}");
        assert!(began.elapsed() < AT_ONCE, "{order:?}: {:?}", began.elapsed());
    }
}

#[test]
fn readers_of_any_wants_see_everything_while_producers_write() {
    let seed = 20_261_121;
    println!("seed {seed}");
    let broker = start();
    let readers = 3;
    let done = AtomicU64::new(0);
    let enough = 1_800;
    std::thread::scope(|scope| {
        for reader in 0..readers {
            let (mut client, done) = (broker.client(), &done);
            scope.spawn(move || {
                let mut random = Random::new(seed + reader);
                let mut offsets = [0; PARTITIONS as usize];
                while offsets.iter().sum::<i64>() < enough {
                    let wants = 1 + random.below(700) as i32;
                    ask(&mut client, &offsets, wants);
                    let began = Instant::now();
                    let bytes: usize = told(&mut client, &mut offsets).values().sum();
                    assert!(bytes >= wants as usize, "{bytes} of {wants} in {:?}", began.elapsed());
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let (mut client, mut random) = (broker.client(), Random::new(seed));
        let (records, began) = (batch(3, 100), Instant::now());
        while done.load(Ordering::SeqCst) < readers && began.elapsed() < Duration::from_secs(60) {
            let partition = random.below(PARTITIONS as u64) as i32;
            produce(&mut client, [1, -1][random.below(2) as usize], partition, &records);
            if random.one_in(8) {
                std::thread::sleep(Duration::from_millis(random.below(8)));
            }
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), readers);
}
