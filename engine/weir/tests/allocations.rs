//! Once warm, produce and fetch allocate nothing per request, on one shard or across two.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Client, batch};
use runtime::fs::TemporaryDir;
use std::io::{Read, Write};
use std::sync::mpsc::channel;
use wire::ApiKey;
use wire::fetch::{FetchAsk, FetchLimits, put_request};

#[global_allocator]
static ALLOCATOR: runtime::allocations::Counting = runtime::allocations::Counting;

const REQUESTS: u64 = 3_000;

/// Sends prepared bytes and reads the answer into prepared memory: the client allocates nothing.
fn exchange(client: &mut Client, frame: &[u8], memory: &mut [u8]) {
    client.stream.write_all(frame).unwrap();
    answer(client, memory);
}

fn answer(client: &mut Client, memory: &mut [u8]) {
    client.stream.read_exact(&mut memory[..4]).unwrap();
    let length = u32::from_be_bytes(memory[..4].try_into().unwrap()) as usize;
    client.stream.read_exact(&mut memory[..length]).unwrap();
}

#[test]
fn produce_and_fetch_allocate_nothing_per_request_once_warm() {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-allocations").unwrap();
    let (sender, receiver) = channel();
    let pairs = [
        ("log.dirs", dir.path().to_str().unwrap()),
        ("listeners", "127.0.0.1:0"),
        ("weir.shards", "2"),
        ("weir.tail.cache.bytes", "16777216"),
    ];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = broker::config::Config::from_pairs(pairs).unwrap();
    let serving = runtime::thread::spawn("broker", None, move || {
        broker::server::run(config, |addresses, _| sender.send(addresses[0]).unwrap()).unwrap();
    });
    let address = receiver.recv().unwrap().to_string();
    let mut client = Client::connect(&address);
    let mut waiting = Client::connect(&address);
    client.create("t", 4);
    let records = batch(3, 300);
    let batches: Vec<_> = (0..4).map(|partition| (partition, &records[..])).collect();
    let produce = client.produce_frame("t", -1, &batches);
    let limits = FetchLimits {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partition_max_bytes: 4096,
        read_committed: false,
    };
    let mut memory = vec![0; 1 << 20];
    let mut total = [0; 2];
    for phase in 0..2 {
        let before = runtime::allocations::count();
        let mut own = 0;
        for request in 0..REQUESTS {
            exchange(&mut client, &produce, &mut memory);
            let counted = runtime::allocations::count();
            let offset = (phase * REQUESTS + request) as i64 * 3;
            let asks = [0, 1, 2, 3].map(|partition| FetchAsk { partition, offset });
            let fetch = client.frame(ApiKey::Fetch, 12, |out| {
                put_request(out, 12, limits, "t", model::TopicId::ZERO, &asks);
            });
            let next = [0, 1, 2, 3].map(|partition| FetchAsk { partition, offset: offset + 3 });
            let ahead = waiting.frame(ApiKey::Fetch, 12, |out| {
                put_request(out, 12, limits, "t", model::TopicId::ZERO, &next);
            });
            own += runtime::allocations::count() - counted;
            exchange(&mut client, &fetch, &mut memory);
            // One that waits: the next request's records answer it.
            if request > 0 {
                answer(&mut waiting, &mut memory);
            }
            if request + 1 < REQUESTS {
                waiting.stream.write_all(&ahead).unwrap();
            }
        }
        total[phase as usize] = runtime::allocations::count() - before - own;
    }
    // Tables that grow with the data double now and then; a request that allocated would show as
    // at least one for each.
    let [cold, warm] = total;
    println!("allocations of the broker for {} requests: cold {cold}, warm {warm}", 2 * REQUESTS);
    assert!(warm < REQUESTS / 50, "warm: {warm} allocations for {} requests", 2 * REQUESTS);
    // The broker serves until the process ends.
    drop(serving);
}
