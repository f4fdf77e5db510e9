//! What the broker asks of the kernel and the allocator for scripted loads, per 1,000 records.
//! `cargo xtask bench --check` compares it with what is committed.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods)]

use benches::{Client, FETCH_LIMITS, batch, create_topic, frame};
use model::{TopicId, TopicRef};
use runtime::fs::TemporaryDir;
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::Duration;
use wire::ApiKey;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::produce;

#[global_allocator]
static ALLOCATOR: runtime::allocations::Counting = runtime::allocations::Counting;

const REQUESTS: u64 = 2_000;
const PARTITIONS: i32 = 4;

/// One connection, one request at a time, one shard: what the broker does depends on nothing else.
fn main() {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-counts").expect("a directory");
    let pairs = [
        ("log.dirs", dir.path().to_str().expect("a name of letters")),
        ("listeners", "127.0.0.1:0"),
        ("weir.shards", "1"),
        ("weir.tail.cache.bytes", "16777216"),
    ];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = broker::config::Config::from_pairs(pairs).expect("good settings");
    let (sender, receiver) = channel();
    let serving = runtime::thread::spawn("broker", None, move || {
        broker::server::run(config, |addresses, _| {
            sender.send(addresses[0]).expect("someone waits")
        })
        .expect("it starts");
    });
    let address = receiver.recv().expect("it starts");
    let stream = TcpStream::connect(address).expect("it listens");
    let mut client = Client::new(stream, 1 << 20);
    create_topic(&mut client, "t", PARTITIONS);
    let records = batch(25, 100);
    let thousands = (REQUESTS * 25 * PARTITIONS as u64) as f64 / 1000.0;
    for (name, acks) in [("acks=1", 1), ("acks=all", -1)] {
        let request = frame(ApiKey::Produce, 9, |out| {
            let batches = (0..PARTITIONS).map(|partition| (partition, &records[..]));
            produce::put_request(out, 9, acks, 1000, TopicRef::Name("t"), batches);
        });
        // Tables have the size they will keep, and the log its slabs.
        for _ in 0..REQUESTS {
            client.exchange(&request);
        }
        shown(&format!("produce 25 x 100 B, 4 partitions, {name}"), thousands, || {
            for _ in 0..REQUESTS {
                client.exchange(&request);
            }
        });
    }
    // Each phase and its warm-up produced so many batches a partition.
    let newest = (4 * REQUESTS as i64 - 1) * 25;
    for (name, first, step) in [("from disk", 0, 25), ("from memory", newest, 0)] {
        let fetches: Vec<Vec<u8>> =
            (0..REQUESTS as i64).map(|number| fetch_frame(first + number * step)).collect();
        let mut bytes = 0;
        let mut all = || bytes = fetches.iter().map(|f| client.exchange(f).len() as u64).sum();
        all();
        shown(&format!("fetch 25 x 100 B, 4 partitions, {name}"), thousands, all);
        assert!(bytes > REQUESTS * PARTITIONS as u64 * records.len() as u64, "{bytes}");
    }
    // The broker serves until the process ends.
    drop(serving);
}

fn fetch_frame(offset: i64) -> Vec<u8> {
    let asks: Vec<_> = (0..PARTITIONS).map(|partition| FetchAsk { partition, offset }).collect();
    let limits = FetchLimits { partition_max_bytes: 3_000, ..FETCH_LIMITS };
    frame(ApiKey::Fetch, 12, |out| {
        fetch::put_request(out, 12, limits, "t", TopicId::ZERO, &asks);
    })
}

/// Runs the work; prints what it took, per 1,000 records.
fn shown(name: &str, thousands: f64, work: impl FnOnce()) {
    let (before, allocations) = (runtime::process_io_counters(), runtime::allocations::count());
    work();
    // What an acknowledged request leaves behind is done a moment later.
    std::thread::sleep(Duration::from_millis(200));
    let after = runtime::process_io_counters();
    for (what, count) in [
        ("allocations", runtime::allocations::count() - allocations),
        ("submissions", after.submissions - before.submissions),
        ("enters", after.enters - before.enters),
        ("writes", after.writes - before.writes),
        ("syncs", after.syncs - before.syncs),
        ("KB written", (after.written_bytes - before.written_bytes) / 1024),
    ] {
        println!("{name}: {what}\t{:.3}", count as f64 / thousands);
    }
}
