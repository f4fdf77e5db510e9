//! Requests of a few kilobytes that once held a broker's memory or its threads: each beside a client that does nothing
//! wrong and is answered. Bounds are of memory, and of processor time in relation to a smaller attack.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, batch};
use model::{BatchBuilder, Compression, TopicId};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};
use wire::ApiKey;
use wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreatableTopic, CreatableTopicConfig,
    CreateTopicsRequest, CreateTopicsResponse, DescribeConfigsRequest, DescribeConfigsResource,
    DescribeConfigsResponse, DescribeGroupsRequest, HeartbeatRequest,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, IncrementalConfigsResource,
    JoinGroupProtocol, JoinGroupRequest, JoinGroupResponse, ListOffsetsPartition,
    ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic, Message, MetadataRequest,
    MetadataRequestTopic, MetadataResponse, OffsetCommitPartition, OffsetCommitRequest,
    OffsetCommitResponse, OffsetCommitTopic,
};

const MB: u64 = 1 << 20;

fn resident(broker: &Broker) -> u64 {
    runtime::process::usage(broker.child.id()).unwrap().resident_peak_bytes
}

/// Processor seconds of the broker while `attack` runs.
fn cpu_of(broker: &Broker, attack: impl FnOnce()) -> f64 {
    let cpu = || {
        let usage = runtime::process::usage(broker.child.id()).unwrap();
        usage.user_s + usage.system_s
    };
    let before = cpu();
    attack();
    cpu() - before
}

/// Whoever asks for next to nothing is answered.
fn is_answered(broker: &Broker) {
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let response: ApiVersionsResponse = client.ask(&ApiVersionsRequest::default(), 3);
    assert_eq!(response.error_code, 0);
}

fn named(name: &str, count: usize) -> MetadataRequest {
    let topic = || MetadataRequestTopic { name: Some(name.to_owned()), ..Default::default() };
    MetadataRequest { topics: Some((0..count).map(|_| topic()).collect()), ..Default::default() }
}

/// The connection is closed without an answer.
fn is_closed(mut client: Client, frame: &[u8]) {
    // It may be closed before all is sent.
    let _ = client.stream.write_all(frame);
    client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut byte = [0];
    let ended = client.stream.read(&mut byte);
    assert!(!matches!(ended, Ok(1..)), "closed, not answered");
    let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!ended.as_ref().is_err_and(timed_out), "closed, not left open");
}

#[test]
fn what_is_named_a_thousand_times_is_answered_once() {
    let broker = Broker::start(&["--weir.shards", "1"]);
    let mut client = broker.client();
    client.create("many", 5_000);
    let once: MetadataResponse = client.ask(&named("many", 1), 8);
    let before = resident(&broker);
    let response: MetadataResponse = client.ask(&named("many", 9_000), 8);
    assert_eq!(response.topics, once.topics);
    let resource = || DescribeConfigsResource {
        resource_type: 2,
        resource_name: "many".to_owned(),
        ..Default::default()
    };
    let configs = DescribeConfigsRequest {
        resources: (0..10_000).map(|_| resource()).collect(),
        include_documentation: true,
        ..Default::default()
    };
    let response: DescribeConfigsResponse = client.ask(&configs, 3);
    assert_eq!(response.results.len(), 1);
    // Another shape of the same: a group is described once, however often it is asked for.
    let groups =
        DescribeGroupsRequest { groups: vec!["g".to_owned(); 20_000], ..Default::default() };
    let response: wire::messages::DescribeGroupsResponse = client.ask(&groups, 5);
    assert_eq!(response.groups.len(), 1);
    let grown = resident(&broker) - before;
    assert!(grown < 60 * MB, "{} MB", grown / MB);
    is_answered(&broker);
}

#[test]
fn a_large_frame_is_refused_before_it_is_received_unless_it_is_a_produce() {
    let broker = Broker::start(&[]);
    let before = resident(&broker);
    for key in [ApiKey::Metadata, ApiKey::Fetch, ApiKey::JoinGroup, ApiKey::CreateTopics] {
        let mut frame = (50u32 << 20).to_be_bytes().to_vec();
        frame.extend_from_slice(&(key as i16).to_be_bytes());
        frame.resize(1 << 20, 0);
        is_closed(broker.client(), &frame);
    }
    // Elements of one byte each would take many times their bytes.
    let mut client = broker.client();
    let names =
        DescribeGroupsRequest { groups: vec![String::new(); 3 << 20], ..Default::default() };
    let frame = client.frame(ApiKey::DescribeGroups, 5, |out| names.encode(out, 5));
    is_closed(client, &frame);
    let grown = resident(&broker) - before;
    assert!(grown < 60 * MB, "{} MB", grown / MB);
    is_answered(&broker);
}

#[test]
fn work_grows_with_what_a_request_names_and_not_with_its_square() {
    let broker = Broker::start(&["--weir.shards", "1"]);
    let mut client = broker.client();
    client.create("t", 1);
    client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut create = |count: usize| {
        // Of no validity, so that none is made.
        let topic = |n| CreatableTopic {
            name: format!("no/such/{n}"),
            num_partitions: 1,
            ..Default::default()
        };
        let topics = (0..count).map(topic).collect();
        let request = CreateTopicsRequest { topics, ..Default::default() };
        cpu_of(&broker, || {
            let response: CreateTopicsResponse = client.ask(&request, 5);
            assert!(response.topics.len() == count && response.topics[0].error_code == 17);
        })
    };
    let (few, many) = (create(10_000).max(0.05), create(40_000));
    assert!(many < 12.0 * few, "{few} s for 10,000 topics, {many} s for 40,000");
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut change = |count: usize| {
        let resource = || IncrementalConfigsResource {
            resource_type: 2,
            resource_name: "t".to_owned(),
            ..Default::default()
        };
        let request = IncrementalAlterConfigsRequest {
            resources: (0..count).map(|_| resource()).collect(),
            ..Default::default()
        };
        cpu_of(&broker, || {
            let response: IncrementalAlterConfigsResponse = client.ask(&request, 1);
            assert_eq!(response.responses.len(), 1);
            assert_eq!(response.responses[0].error_code, 42, "it is named twice");
        })
    };
    let (few, many) = (change(2_000).max(0.02), change(16_000));
    assert!(many < 25.0 * few, "{few} s for 2,000 resources, {many} s for 16,000");
    is_answered(&broker);
}

/// A fetch of many partitions that waits for more than will ever come.
fn long_fetch(client: &mut Client, partitions: usize, max_wait_ms: i32) -> Vec<u8> {
    let limits = wire::fetch::FetchLimits {
        max_wait_ms,
        min_bytes: i32::MAX,
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 20,
        read_committed: false,
    };
    let ask = |_| wire::fetch::FetchAsk { partition: 0, offset: 0 };
    let asks: Vec<_> = (0..partitions).map(ask).collect();
    client.frame(ApiKey::Fetch, 4, |out| {
        wire::fetch::put_request(out, 4, limits, "t", TopicId::ZERO, &asks);
    })
}

#[test]
fn fetches_that_wait_keep_nobody_from_being_answered() {
    let broker = Broker::start(&["--weir.shards", "2", "--queued.max.request.bytes", "16777216"]);
    broker.client().create("t", 1);
    // 160 of 960 KB: ten times what may be worked off at a time, and each waits for five minutes.
    let mut waiting = Vec::new();
    for _ in 0..160 {
        let mut client = broker.client();
        client.stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let frame = long_fetch(&mut client, 60_000, 300_000);
        assert!((900_000..4 << 20).contains(&frame.len()), "{}", frame.len());
        let _ = client.stream.write_all(&frame);
        waiting.push(client);
        if waiting.len() % 20 == 0 {
            is_answered(&broker);
        }
    }
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let bytes = batch(10, 50_000);
    assert_eq!(client.produce("t", -1, &bytes).map(|(error, _)| error), Some(0));
    is_answered(&broker);
}

#[test]
fn senders_that_drip_give_way_to_those_that_send() {
    let broker = Broker::start(&["--weir.shards", "1", "--queued.max.request.bytes", "16777216"]);
    broker.client().create("t", 1);
    let drips = |_| {
        let mut client = broker.client();
        let mut frame = (15u32 << 20).to_be_bytes().to_vec();
        frame.extend_from_slice(&[0, 0, 0, 9]);
        client.send(&frame);
        client
    };
    let mut dripping: Vec<Client> = (0..8).map(drips).collect();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let dripper = runtime::thread::spawn("drip", None, move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for client in &mut dripping {
                let _ = client.stream.write_all(&[0; 100]);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    })
    .unwrap();
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    client.stream.set_write_timeout(Some(Duration::from_secs(120))).unwrap();
    // More than a chunk: it needs memory to be received in, which those hold that never end.
    let batches: Vec<Vec<u8>> = (0..3).map(|_| batch(20, 50_000)).collect();
    let batches: Vec<(i32, &[u8])> =
        batches.iter().enumerate().map(|(n, bytes)| (n as i32, &bytes[..])).collect();
    let frame = client.produce_frame("t", 1, &batches);
    client.send(&frame);
    let results = client.produced().expect("an answer");
    assert_eq!((results[0].0, results[0].1), (0, 0));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    dripper.join().unwrap();
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let dir = runtime::fs::TemporaryDir::new(&std::env::temp_dir(), "weir-test").unwrap();
    let args = ["--data-dir", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut child =
        common::weir(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    // Each is a line, or would be: far more than a pipe holds.
    for _ in 0..3_000 {
        let mut client = Client::connect(&address);
        let _ = client.stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let _ = client.stream.read(&mut [0]);
    }
    let mut client = Client::connect(&address);
    client.create("t", 1);
    // Refused batches as well.
    let mut damaged = batch(1, 100);
    *damaged.last_mut().unwrap() ^= 1;
    for _ in 0..3_000 {
        assert_eq!(client.produce("t", 1, &damaged).map(|(error, _)| error), Some(2));
    }
    assert_eq!(client.produce("t", 1, &batch(1, 100)), Some((0, 0)));
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
    let until = Instant::now() + Duration::from_secs(30);
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < until, "it stops when told to");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(ended.success(), "{ended}");
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("HTTP"), "{said}");
    assert!(said.lines().count() < 200, "{} lines", said.lines().count());
}

#[test]
fn who_is_silent_for_too_long_or_comes_too_often_is_closed() {
    let broker = Broker::start(&[
        "--weir.shards",
        "1",
        "--connections.max.idle.ms",
        "2000",
        "--max.connections.per.ip",
        "5",
    ]);
    let mut waits = broker.client();
    waits.create("t", 1);
    // It asks for something, and waits longer than one may be silent.
    let frame = long_fetch(&mut waits, 1, 8_000);
    waits.send(&frame);
    let mut silent: Vec<Client> = (0..3).map(|_| broker.client()).collect();
    // A part of a frame only, and nothing more.
    silent[0].send(&[0, 0, 0, 50, 0]);
    let before_last = broker.client();
    let mut over = broker.client();
    over.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(over.receive().is_none(), "the sixth");
    for mut client in silent {
        client.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(client.stream.read(&mut [0]).unwrap(), 0, "closed");
    }
    drop(before_last);
    waits.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(waits.receive().is_some(), "answered, not closed");
    is_answered(&broker);
}

fn bomb() -> Vec<u8> {
    // A record of 16 MiB of zeros, in a few hundred bytes.
    let mut builder = BatchBuilder::default();
    builder.begin(1_000);
    builder.push(1_000, Some(b"k"), Some(&vec![0; 16 << 20]), &[]);
    builder.finish(Compression::Zstd).to_vec()
}

#[test]
fn small_batches_that_unpack_to_very_much_are_refused_together() {
    let broker = Broker::start(&["--weir.shards", "1"]);
    let mut client = broker.client();
    let config = |name: &str, value: &str| CreatableTopicConfig {
        name: name.to_owned(),
        value: Some(value.to_owned()),
    };
    let topic = CreatableTopic {
        name: "t".to_owned(),
        num_partitions: 100,
        configs: vec![
            config("cleanup.policy", "compact"),
            config("message.timestamp.before.max.ms", "9223372036854775807"),
        ],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    let response: CreateTopicsResponse = client.ask(&request, 5);
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    let bomb = bomb();
    assert!(bomb.len() < 10_000, "{}", bomb.len());
    let batches: Vec<(i32, &[u8])> = (0..100).map(|partition| (partition, &bomb[..])).collect();
    let before = resident(&broker);
    let frame = client.produce_frame("t", 1, &batches);
    client.send(&frame);
    let results = client.produced().unwrap();
    let mut codes: BTreeMap<i16, usize> = BTreeMap::new();
    results.iter().for_each(|(_, error, _)| *codes.entry(*error).or_default() += 1);
    // 64 MiB of a request are unpacked: a bit less than four of them.
    assert_eq!(codes, BTreeMap::from([(0, 3), (10, 97)]));
    let grown = resident(&broker) - before;
    assert!(grown < 200 * MB, "{} MB", grown / MB);
    is_answered(&broker);
}

/// The metadata of a group's members is kept in one record, and told to its leader in one answer.
#[test]
fn a_group_has_a_size() {
    let broker = Broker::start(&["--weir.shards", "1", "--group.initial.rebalance.delay.ms", "0"]);
    let join = |member: &str, bytes: usize| JoinGroupRequest {
        group_id: "g".to_owned(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        member_id: member.to_owned(),
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupProtocol { name: "range".to_owned(), metadata: vec![7; bytes] }],
        ..Default::default()
    };
    let mut members = Vec::new();
    let mut refused = 0;
    for _ in 0..12 {
        let mut client = broker.client();
        let frame = client.frame(ApiKey::JoinGroup, 2, |out| join("", 3 << 20).encode(out, 2));
        client.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        client.send(&frame);
        // Who fits in waits for the others.
        if let Some(payload) = client.receive() {
            let mut body = common::body(&payload, ApiKey::JoinGroup, 2);
            let response = JoinGroupResponse::decode(&mut body, 2).unwrap();
            refused += usize::from(response.error_code == 81);
        }
        members.push(client);
    }
    assert!(refused >= 6, "GROUP_MAX_SIZE_REACHED: {refused}");
    is_answered(&broker);
}

#[test]
fn a_long_name_is_not_kept_for_each_of_its_partitions() {
    let broker = Broker::start(&["--weir.shards", "1"]);
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    client.create("t", 1);
    let before = resident(&broker);
    let long = "n".repeat(32_000);
    let partition = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: -1,
        ..Default::default()
    };
    // And entries without partitions behind others that are named twice.
    let of = |name: &str, indexes: Vec<i32>| ListOffsetsTopic {
        name: name.to_owned(),
        partitions: indexes.into_iter().map(partition).collect(),
    };
    let twice = (0..50_000).chain(0..50_000).collect();
    let mut topics = vec![of(&long, (0..100_000).collect()), of("a", twice)];
    topics.extend((0..10_000).map(|_| of("b", Vec::new())));
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let response: ListOffsetsResponse = client.ask(&request, 1);
    // As from Kafka, no topic of which nothing was asked.
    assert_eq!(response.topics.len(), 2);
    let limits = wire::fetch::FetchLimits {
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 20,
        read_committed: false,
    };
    let asks: Vec<_> =
        (0..50_000).map(|partition| wire::fetch::FetchAsk { partition, offset: 0 }).collect();
    let frame = client.frame(ApiKey::Fetch, 7, |out| {
        wire::fetch::put_request(out, 7, limits, &long, TopicId::ZERO, &asks);
    });
    client.send(&frame);
    assert!(client.receive().is_some());
    let partition = |_| OffsetCommitPartition { partition_index: 0, ..Default::default() };
    let commit = OffsetCommitRequest {
        group_id: long.clone(),
        generation_id: -1,
        topics: vec![OffsetCommitTopic {
            name: "t".to_owned(),
            partitions: (0..50_000).map(partition).collect(),
        }],
        ..Default::default()
    };
    let response: OffsetCommitResponse = client.ask(&commit, 2);
    assert_eq!(response.topics[0].partitions[0].error_code, 28, "INVALID_COMMIT_OFFSET_SIZE");
    let grown = resident(&broker) - before;
    assert!(grown < 150 * MB, "{} MB", grown / MB);
    is_answered(&broker);
}

#[test]
fn what_stands_behind_a_fetch_that_waits_keeps_no_memory_from_others() {
    let broker = Broker::start(&["--weir.shards", "1", "--queued.max.request.bytes", "16777216"]);
    broker.client().create("t", 1);
    let bytes = batch(10, 90_000);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut client = broker.client();
        let fetch = long_fetch(&mut client, 1, 300_000);
        client.send(&fetch);
        // As much as the sockets take.
        client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        for _ in 0..16 {
            let frame = client.produce_frame("t", -1, &[(0, &bytes)]);
            if client.stream.write_all(&frame).is_err() {
                break;
            }
        }
        waiting.push(client);
    }
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    for _ in 0..5 {
        assert_eq!(client.produce("t", -1, &bytes).map(|(error, _)| error), Some(0));
    }
    is_answered(&broker);
}

/// Does `work`, and holds that a client beside it that asks for next to nothing is answered again and again: its
/// longest wait is a small part of the work.
fn others_are_answered_while(what: &str, broker: &Broker, work: impl FnOnce()) {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let mut innocent = broker.client();
    innocent.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let watcher = runtime::thread::spawn("innocent", None, move || {
        let mut longest = Duration::ZERO;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let began = Instant::now();
            let _: ApiVersionsResponse = innocent.ask(&ApiVersionsRequest::default(), 3);
            longest = longest.max(began.elapsed());
            std::thread::sleep(Duration::from_millis(2));
        }
        longest
    })
    .unwrap();
    let began = Instant::now();
    work();
    let took = began.elapsed();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let longest = watcher.join().unwrap();
    println!("{what}: {took:?}, the longest wait beside it {longest:?}");
    assert!(longest < took / 3, "{what}: {took:?}, and someone waited {longest:?}");
}

#[test]
fn while_partitions_are_made_and_deleted_by_the_thousand_others_are_answered() {
    let broker = Broker::start(&["--weir.shards", "1"]);
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    for name in ["a", "b"] {
        others_are_answered_while("made", &broker, || client.create(name, 10_000));
    }
    let request = wire::messages::DeleteTopicsRequest {
        topic_names: vec!["a".to_owned(), "b".to_owned()],
        ..Default::default()
    };
    others_are_answered_while("deleted", &broker, || {
        let response: wire::messages::DeleteTopicsResponse = client.ask(&request, 4);
        assert!(response.responses.iter().all(|result| result.error_code == 0));
    });
}

/// So many requests for the metadata of everything, of which no answer is read.
fn ask_and_do_not_read(broker: &Broker, requests: usize) -> Client {
    let mut client = broker.client();
    let all = MetadataRequest { topics: None, ..Default::default() };
    for _ in 0..requests {
        let frame = client.frame(ApiKey::Metadata, 8, |out| all.encode(out, 8));
        client.send(&frame);
    }
    client
}

#[test]
fn who_does_not_read_keeps_no_place_from_those_who_do() {
    let args = ["--weir.shards", "1", "--weir.queued.max.answer.bytes", "8388608"];
    let broker = Broker::start(&args);
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    for topic in ["a", "b", "c", "d"] {
        client.create(topic, 5_000);
    }
    let before = resident(&broker);
    let silent: Vec<Client> = (0..16).map(|_| ask_and_do_not_read(&broker, 30)).collect();
    std::thread::sleep(Duration::from_secs(1));
    // Beside them, at first perhaps once some of them are closed. One of them alone must not take all that this gives
    // back: to be done with them one after another takes minutes.
    let all = MetadataRequest { topics: None, ..Default::default() };
    for _ in 0..3 {
        let response: MetadataResponse = client.ask(&all, 8);
        assert_eq!(response.topics.len(), 4);
    }
    let grown = resident(&broker) - before;
    println!("{} clients that do not read: {} MB", silent.len(), grown / MB);
    assert!(grown < 60 * MB, "{} MB", grown / MB);
    is_answered(&broker);
}

#[test]
fn what_stands_behind_answers_that_nobody_reads_keeps_no_memory_from_others() {
    let broker = Broker::start(&["--weir.shards", "1", "--queued.max.request.bytes", "8388608"]);
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.create("t", 1);
    client.create("large", 10_000);
    let bytes = batch(10, 90_000);
    let all = MetadataRequest { topics: None, ..Default::default() };
    let mut silent = Vec::new();
    for _ in 0..12 {
        let mut client = broker.client();
        // As much as the sockets take: an answer on its way, and a produce behind it.
        client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        for _ in 0..40 {
            let mut frames = client.frame(ApiKey::Metadata, 8, |out| all.encode(out, 8));
            frames.extend(client.produce_frame("t", -1, &[(0, &bytes)]));
            if client.stream.write_all(&frames).is_err() {
                break;
            }
        }
        silent.push(client);
    }
    for _ in 0..5 {
        assert_eq!(client.produce("t", -1, &bytes).map(|(error, _)| error), Some(0));
    }
    is_answered(&broker);
}

#[test]
fn what_stands_behind_a_fetch_that_waits_keeps_no_place_from_others() {
    let broker = Broker::start(&["--weir.shards", "1"]);
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    client.create("t", 1);
    client.create("large", 10_000);
    let all = MetadataRequest { topics: None, ..Default::default() };
    let waiting = [(); 4].map(|()| {
        let mut client = broker.client();
        let mut frames = long_fetch(&mut client, 1, 300_000);
        frames.extend(client.frame(ApiKey::Metadata, 8, |out| all.encode(out, 8)));
        client.send(&frames);
        client
    });
    std::thread::sleep(Duration::from_millis(500));
    let response: MetadataResponse = client.ask(&all, 8);
    assert_eq!(response.topics.len(), 2);
    drop(waiting);
}

/// A connection with a fetch that waits for minutes, and behind it `behind`, `times` over.
fn behind_a_waiting_fetch(
    broker: &Broker,
    times: usize,
    behind: impl Fn(&mut Client) -> Vec<u8>,
) -> Client {
    let mut client = broker.client();
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut frames = long_fetch(&mut client, 1, 300_000);
    for _ in 0..times {
        frames.extend(behind(&mut client));
    }
    // As much as the sockets take.
    let _ = client.stream.write_all(&frames);
    client
}

#[test]
fn small_requests_behind_a_fetch_that_waits_keep_none_of_others_from_being_read() {
    let broker = Broker::start(&["--weir.shards", "1", "--queued.max.request.bytes", "16777216"]);
    broker.client().create("t", 1);
    let heartbeat = |client: &mut Client| {
        let request = HeartbeatRequest { group_id: "g".repeat(15_000), ..Default::default() };
        client.frame(ApiKey::Heartbeat, 3, |out| request.encode(out, 3))
    };
    let waiting: Vec<Client> =
        (0..40).map(|_| behind_a_waiting_fetch(&broker, 31, heartbeat)).collect();
    is_answered(&broker);
    drop(waiting);
}

#[test]
fn answers_behind_a_fetch_that_waits_keep_no_memory_from_others() {
    let args = ["--weir.shards", "1", "--weir.queued.max.answer.bytes", "8388608"];
    let broker = Broker::start(&args);
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.create("t", 1);
    client.create("large", 8_000);
    let all = MetadataRequest { topics: None, ..Default::default() };
    let metadata =
        |client: &mut Client| client.frame(ApiKey::Metadata, 8, |out| all.encode(out, 8));
    let waiting: Vec<Client> =
        (0..30).map(|_| behind_a_waiting_fetch(&broker, 8, metadata)).collect();
    for _ in 0..3 {
        let response: MetadataResponse = client.ask(&all, 8);
        assert_eq!(response.topics.len(), 2);
    }
    drop(waiting);
}

#[test]
fn connections_end_with_their_clients_also_behind_a_fetch_that_waits() {
    let broker = Broker::start(&["--weir.shards", "1", "--max.connections", "40"]);
    broker.client().create("t", 1);
    let bytes = batch(1, 100);
    for _ in 0..3 {
        let produce = |client: &mut Client| client.produce_frame("t", -1, &[(0, &bytes)]);
        let waiting: Vec<Client> =
            (0..35).map(|_| behind_a_waiting_fetch(&broker, 1, produce)).collect();
        std::thread::sleep(Duration::from_millis(300));
        drop(waiting);
    }
    // There are places again: whoever comes is accepted in the order in which they came.
    is_answered(&broker);
}

#[test]
fn who_reads_slowly_is_not_taken_for_one_who_does_not_read() {
    let args = ["--weir.shards", "1", "--weir.queued.max.answer.bytes", "16777216"];
    let broker = Broker::start(&args);
    let mut client = broker.client();
    client.create("t", 8);
    let bytes = batch(10, 90_000);
    for partition in 0..8 {
        let frame = client.produce_frame("t", 1, &[(partition, &bytes)]);
        client.send(&frame);
        assert!(client.produced().is_some_and(|results| results[0].1 == 0));
    }
    for topic in ["a", "b", "c"] {
        client.create(topic, 5_000);
    }
    let mut slow = broker.client();
    let limits = wire::fetch::FetchLimits {
        max_wait_ms: 1000,
        min_bytes: 1,
        max_bytes: 7 << 20,
        partition_max_bytes: 7 << 20,
        read_committed: false,
    };
    let asks: Vec<_> =
        (0..8).map(|partition| wire::fetch::FetchAsk { partition, offset: 0 }).collect();
    let frame = slow.frame(ApiKey::Fetch, 4, |out| {
        wire::fetch::put_request(out, 4, limits, "t", TopicId::ZERO, &asks);
    });
    slow.send(&frame);
    let mut length = [0; 4];
    slow.stream.read_exact(&mut length).unwrap();
    let mut left = u32::from_be_bytes(length) as usize;
    assert!(left > 6 << 20, "{left}");
    // Large answers are short of memory all the while.
    let silent: Vec<Client> = (0..16).map(|_| ask_and_do_not_read(&broker, 30)).collect();
    let mut piece = vec![0; 20_000];
    while left > 0 {
        let wanted = piece.len().min(left);
        slow.stream.read_exact(&mut piece[..wanted]).expect("it is not closed");
        left -= wanted;
        std::thread::sleep(Duration::from_millis(60));
    }
    drop(silent);
}
