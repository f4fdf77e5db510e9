//! Clients that ask and do not read, or send and do not end: the broker's memory stays within what is
//! configured, and everyone else is served.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, batch, body, fetch_all};
use model::RecordBatch;
use std::io::ErrorKind::ConnectionReset;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use wire::ApiKey;
use wire::fetch::{FetchAsk, FetchLimits, put_request, read_response};

const MB: u64 = 1 << 20;
const PARTITIONS: i32 = 12;
/// Of each batch.
const BATCH_BYTES: usize = 100_000;
const BATCHES: usize = 20;

/// 4 MB of cache a shard, and 8 MB each of requests and answers.
fn start() -> Broker {
    let broker = Broker::start(&[
        "--weir.shards",
        "2",
        "--queued.max.request.bytes",
        "8388608",
        "--weir.queued.max.answer.bytes",
        "8388608",
    ]);
    let mut client = broker.client();
    client.create("t", PARTITIONS);
    produce(&mut client, BATCHES);
    broker
}

/// Batches for each partition.
fn produce(client: &mut Client, count: usize) {
    let records = batch(100, BATCH_BYTES / 100);
    let batches: Vec<_> = (0..PARTITIONS).map(|partition| (partition, &records[..])).collect();
    for _ in 0..count {
        // Two requests, as producers send no more than 1 MiB in one.
        for half in batches.chunks(6) {
            let frame = client.produce_frame("t", 1, half);
            client.send(&frame);
            assert!(client.produced().unwrap().iter().all(|(_, error, _)| *error == 0));
        }
    }
}

/// How many do not read, or do not end: 60, or `WEIR_CONNECTIONS`.
fn connections() -> usize {
    std::env::var("WEIR_CONNECTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// What is configured, caches on their way, and what one connection may always have: a batch of each shard,
/// with what was read around it.
fn assert_bounded(what: &str, grown: u64, connection_bytes: usize) {
    let bound = 60 * MB + (connections() * connection_bytes) as u64;
    println!("{} {what}: grown by {} MB of {} MB", connections(), grown / MB, bound / MB);
    assert!(grown < bound);
}

/// How much more memory the broker took, at the most, while this was done.
fn grown_by(broker: &Broker, body: impl FnOnce()) -> u64 {
    let usage = || runtime::process::usage(broker.child.id()).unwrap();
    let before = usage().resident_bytes;
    body();
    usage().resident_peak_bytes - before
}

/// So many fetches of all partitions from this offset on.
fn ask_without_reading(client: &mut Client, offset: i64, partition_max_bytes: i32, times: usize) {
    let limits = FetchLimits {
        // What is asked for may be made only then, and a disk may be slow.
        max_wait_ms: 60_000,
        min_bytes: 1,
        max_bytes: 50 << 20,
        partition_max_bytes,
        read_committed: false,
    };
    let asks: Vec<_> = (0..PARTITIONS).map(|partition| FetchAsk { partition, offset }).collect();
    let mut frames = Vec::new();
    for _ in 0..times {
        frames.extend(client.frame(ApiKey::Fetch, 12, |out| {
            put_request(out, 12, limits, "t", model::TopicId::ZERO, &asks);
        }));
    }
    push(client, &frames);
}

/// Sends as much as the broker takes within a moment.
fn push(client: &mut Client, bytes: &[u8]) {
    client.stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    let _ = client.stream.write_all(bytes);
}

fn still_serves(broker: &Broker, batches: usize) {
    let mut client = broker.client();
    for partition in 0..PARTITIONS {
        let (found, error) = fetch_all(&mut client, partition, 0);
        assert_eq!((found.len(), error), (batches, model::ErrorCode::None));
    }
    produce(&mut client, 1);
}

/// Whoever reads at last gets what was asked for, and whole, from wherever it was kept meanwhile.
fn reads_at_last(stuck: &mut [Client]) {
    for client in stuck {
        for _ in 0..40 {
            let answer = client.receive().expect("an answer for each request");
            let mut batches = 0;
            read_response(body(&answer, ApiKey::Fetch, 12), 12, |fetched| {
                let mut rest = fetched.records;
                while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                    assert!(batch.crc_matches());
                    (rest, batches) = (tail, batches + 1);
                }
            })
            .unwrap();
            assert!(batches > 0);
        }
    }
}

#[test]
fn what_nobody_reads_is_bounded_when_it_is_on_disk() {
    let broker = start();
    let mut stuck: Vec<Client> = (0..connections()).map(|_| broker.client()).collect();
    let grown = grown_by(&broker, || {
        stuck.iter_mut().for_each(|client| ask_without_reading(client, 0, 1 << 20, 40));
        std::thread::sleep(Duration::from_millis(500));
        still_serves(&broker, BATCHES);
    });
    assert_bounded("clients that do not read what is old", grown, 7 * BATCH_BYTES);
    reads_at_last(&mut stuck);
}

#[test]
fn what_nobody_reads_is_bounded_when_it_is_new() {
    let broker = start();
    let mut producer = broker.client();
    let mut stuck: Vec<Client> = (0..connections()).map(|_| broker.client()).collect();
    let grown = grown_by(&broker, || {
        for (number, client) in stuck.iter_mut().enumerate() {
            let offset = 100 * (BATCHES + number) as i64;
            ask_without_reading(client, offset, 1 << 20, 40);
            produce(&mut producer, 1);
        }
        still_serves(&broker, BATCHES + connections());
    });
    assert_bounded("clients that do not read what is new", grown, 7 * BATCH_BYTES);
    reads_at_last(&mut stuck);
}

#[test]
fn who_is_silent_holds_no_memory_and_is_heard_again() {
    const CLIENTS: usize = 100;
    let broker = start();
    let usage = || runtime::process::usage(broker.child.id()).unwrap();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| broker.client()).collect();
    // Less than half of a receive chunk: the next request goes behind it.
    let large = batch(100, 5_000);
    let small = batch(1, 100);
    let mut end = 100 * BATCHES as i64;
    let mut produce = |client: &mut Client, batch: &[u8], records: i64| {
        assert_eq!(client.produce("t", 1, batch), Some((0, end)));
        end += records;
    };
    std::thread::sleep(Duration::from_secs(3));
    let before = usage().resident_bytes;
    clients.iter_mut().for_each(|client| produce(client, &large, 100));
    // Some speak just when they are about to be taken for silent.
    for round in 0..5u64 {
        let (speaks, silent) = clients.split_at_mut(CLIENTS / 2);
        for (number, client) in speaks.iter_mut().enumerate() {
            produce(client, &small, 1);
            std::thread::sleep(Duration::from_micros(20_000 + 150 * (number as u64 + round)));
        }
        assert!(silent.iter_mut().all(|client| !hears(client)));
    }
    std::thread::sleep(Duration::from_secs(3));
    let left = usage().resident_bytes.saturating_sub(before);
    println!("{CLIENTS} silent connections: {} MB", left / MB);
    assert!(left < 25 * MB, "{left} bytes: only some chunks are kept for whoever comes next");
    // Nobody comes: what none has needed for ten seconds is not kept either.
    let until = Instant::now() + Duration::from_secs(60);
    let goes = || {
        std::thread::sleep(Duration::from_millis(500));
        usage().resident_bytes.saturating_sub(before) < 8 * MB
    };
    while !goes() {
        assert!(Instant::now() < until, "spare chunks stay for ever");
    }
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| produce(client, &large, 100));
    }
}

/// Whether something came unasked.
fn hears(client: &Client) -> bool {
    client.stream.set_nonblocking(true).unwrap();
    let heard = client.stream.peek(&mut [0]).is_ok();
    client.stream.set_nonblocking(false).unwrap();
    heard
}

/// The beginning of a request of 20 MB: a produce request, as far as its head tells.
fn large_that_does_not_end() -> Vec<u8> {
    let mut frame = (20u32 << 20).to_be_bytes().to_vec();
    frame.resize(8 << 20, 0);
    frame[7] = 9;
    frame
}

#[test]
fn a_large_request_that_stalls_is_given_up_however_often_its_silence_is_looked_at() {
    let broker = start();
    let mut client = broker.client();
    client.send(&large_that_does_not_end());
    client.stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let ended = client.stream.read(&mut [0]);
    assert!(
        matches!(&ended, Ok(0))
            || ended.as_ref().is_err_and(|error| error.kind() == ConnectionReset),
        "{ended:?}"
    );
    // What it held is free.
    serves_a_large_one(&broker);
}

/// A large request that ends has its turn.
fn serves_a_large_one(broker: &Broker) {
    let mut client = broker.client();
    let records = batch(100, BATCH_BYTES / 100);
    let batches: Vec<_> = (0..3 * PARTITIONS).map(|n| (n % PARTITIONS, &records[..])).collect();
    let frame = client.produce_frame("t", 1, &batches);
    assert!(frame.len() > 3_000_000);
    client.send(&frame);
    assert!(client.produced().is_some());
}

#[test]
fn large_requests_that_do_not_end_are_bounded_and_small_ones_pass_them() {
    let broker = start();
    let mut stuck: Vec<Client> = (0..connections()).map(|_| broker.client()).collect();
    let frame = large_that_does_not_end();
    let grown = grown_by(&broker, || {
        stuck.iter_mut().for_each(|client| push(client, &frame));
        still_serves(&broker, BATCHES);
    });
    // A receive chunk each, and a few that grow.
    assert_bounded("clients that do not end a large request", grown, 1_200_000);
    // They go.
    drop(stuck);
    serves_a_large_one(&broker);
}
