//! Few files may be open: partitions and connections beyond that are served all the same, or wait.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, batch, fetch_all};
use std::time::Duration;
use wire::ApiKey;
use wire::messages::{ApiVersionsRequest, Message};

/// Asks, and says whether there was an answer within a moment.
fn is_served(client: &mut Client) -> bool {
    let request = ApiVersionsRequest::default();
    let frame = client.frame(ApiKey::ApiVersions, 3, |out| request.encode(out, 3));
    client.send(&frame);
    hears(client, Duration::from_millis(300))
}

fn hears(client: &Client, within: Duration) -> bool {
    client.stream.set_read_timeout(Some(within)).unwrap();
    let heard = client.stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
    client.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    heard
}

#[test]
fn connections_beyond_the_limit_wait_until_one_is_closed() {
    let broker = Broker::start(&["--weir.shards", "2", "--max.connections", "5"]);
    let mut open: Vec<Client> = (0..5).map(|_| broker.client()).collect();
    assert!(open.iter_mut().all(is_served));
    let mut late: Vec<Client> = (0..4).map(|_| broker.client()).collect();
    assert!(!late.iter_mut().any(is_served), "five are open");
    drop(open.drain(..2));
    // Which of them come next is the kernel's choice of a shard.
    std::thread::sleep(Duration::from_millis(500));
    let heard = |client: &&Client| hears(client, Duration::from_millis(100));
    assert_eq!(late.iter().filter(heard).count(), 2);
    open.clear();
    assert!(late.iter().all(|client| hears(client, Duration::from_secs(5))), "all have come");
}

#[test]
fn more_partitions_and_clients_than_files_are_served_or_wait() {
    const PARTITIONS: i32 = 500;
    // Logs may have 200 of them; 72 are left for connections.
    let mut broker = Broker::start_with_open_files(400, &["--weir.shards", "2"]);
    let mut client = broker.client();
    client.create("t", PARTITIONS);
    let mut others: Vec<Client> = (0..71).map(|_| broker.client()).collect();
    assert!(others.iter_mut().all(is_served));
    let mut waits: Vec<Client> = (0..30).map(|_| broker.client()).collect();
    assert!(!waits.iter_mut().take(3).any(is_served));
    let records = batch(3, 100);
    for round in 0..3 {
        let all: Vec<_> = (0..PARTITIONS).map(|partition| (partition, &records[..])).collect();
        let frame = client.produce_frame("t", if round == 1 { -1 } else { 1 }, &all);
        client.send(&frame);
        let produced = client.produced().unwrap();
        assert!(produced.iter().all(|(_, error, base)| (*error, *base) == (0, 3 * round)));
    }
    drop((others, waits));
    broker.kill_and_start_again();
    let mut client = broker.client();
    for partition in 0..PARTITIONS {
        let (found, error) = fetch_all(&mut client, partition, 0);
        assert_eq!((found.len(), error), (3, model::ErrorCode::None), "partition {partition}");
    }
}
