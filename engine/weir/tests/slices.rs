//! Work that a client decides on comes in slices: what the broker's own watchdog counted as long turns, after each.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client};
use model::{BatchBuilder, Compression, Producer, ProducerId};
use runtime::random::Random;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use wire::api_key::APIS;
use wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResource,
    DescribeConfigsResponse, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopic, MetadataRequest, MetadataRequestTopic, MetadataResponse,
    OffsetCommitPartition, OffsetCommitRequest, OffsetCommitResponse, OffsetCommitTopic,
    OffsetFetchRequest, OffsetFetchResponse, OffsetFetchTopic,
};

/// A turn never takes so long, also of a build for tests, which is some times slower than others. (What is left in one
/// go is to read a request of up to 4 MiB and to write its answer: about 50 ms in such a build.)
const LONGEST_MS: u64 = 200;

/// How many turns took longer than so many ms.
fn turns_over(metrics: &str, length_ms: u64) -> u64 {
    let mut stream = TcpStream::connect(metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let name = format!("weir_long_turns_total{{over_ms=\"{length_ms}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
    line.parse().unwrap()
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap().to_string()
}

fn create(client: &mut Client, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let always = [("message.timestamp.before.max.ms", "9223372036854775807")];
    let configs = configs.iter().chain(&always);
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).to_owned(),
        value: Some((*value).to_owned()),
    };
    let topic = CreatableTopic {
        name: name.to_owned(),
        num_partitions: partitions,
        configs: configs.map(config).collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    let response: CreateTopicsResponse = client.ask(&request, 5);
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
}

/// A batch of so many records with keys, a few bytes each.
fn many_records(codec: Compression, count: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(1_000);
    for n in 0..count {
        builder.push(1_000 + n, Some(&(n as u32 % 5000).to_be_bytes()), Some(b"v"), &[]);
    }
    builder.finish(codec).to_vec()
}

/// Does `work` and tells how many long turns came of it.
fn watched(metrics: &str, what: &str, work: impl FnOnce()) {
    let before = [2, 10, LONGEST_MS].map(|length| turns_over(metrics, length));
    let began = Instant::now();
    work();
    let after = [2, 10, LONGEST_MS].map(|length| turns_over(metrics, length));
    let turns: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    println!("{what}: {:?}, turns over 2, 10 and {LONGEST_MS} ms: {turns:?}", began.elapsed());
    assert_eq!(turns[2], 0, "{what}: turns over 2, 10 and {LONGEST_MS} ms: {turns:?}");
}

#[test]
fn nothing_that_a_client_sends_keeps_a_shard_to_itself() {
    let metrics = free_address();
    let broker = Broker::start(&[
        "--weir.metrics.listen",
        &metrics,
        "--weir.shards",
        "2",
        "--log.cleaner.backoff.ms",
        "100",
        "--message.max.bytes",
        "20000000",
    ]);
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    create(&mut client, "plain", 8, &[]);
    create(&mut client, "packed", 8, &[("compression.type", "gzip")]);
    let often = [("cleanup.policy", "compact"), ("segment.bytes", "8388608")];
    let dirty = [("min.cleanable.dirty.ratio", "0.01"), ("segment.ms", "100")];
    create(&mut client, "compacted", 2, &[often, dirty].concat());
    let ok = |results: Vec<(i32, i16, i64)>| {
        assert!(results.iter().all(|(_, error, _)| *error == 0), "{results:?}");
    };
    let produce = |client: &mut Client, topic: &str, batch: &[u8], partitions: i32| {
        let batches: Vec<(i32, &[u8])> = (0..partitions).map(|p| (p, batch)).collect();
        let frame = client.produce_frame(topic, 1, &batches);
        client.send(&frame);
        ok(client.produced().unwrap());
    };
    let loose = many_records(Compression::None, 400_000);
    watched(&metrics, "records walked", || produce(&mut client, "plain", &loose, 8));
    let tight = many_records(Compression::Zstd, 400_000);
    watched(&metrics, "recompressed", || produce(&mut client, "packed", &tight, 8));
    watched(&metrics, "unpacked", || produce(&mut client, "compacted", &tight, 2));
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let tight = many_records(codec, 1_500_000);
        create(&mut client, codec.name(), 1, &[]);
        produce(&mut client, codec.name(), &tight, 1);
        watched(&metrics, &format!("looked up in {}", codec.name()), || {
            let partition = ListOffsetsPartition {
                timestamp: 1_000 + 1_499_999,
                current_leader_epoch: -1,
                ..Default::default()
            };
            let topic =
                ListOffsetsTopic { name: codec.name().to_owned(), partitions: vec![partition] };
            let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
            let response: ListOffsetsResponse = client.ask(&request, 5);
            assert_eq!(response.topics[0].partitions[0].offset, 1_499_999);
        });
    }
    watched(&metrics, "compacted", || {
        let until = Instant::now() + Duration::from_secs(60);
        let partitions = broker.dir.path().join("partitions");
        let cleaned = || {
            let dirs = std::fs::read_dir(&partitions).unwrap().flatten();
            dirs.filter(|dir| dir.path().join("cleaned").exists()).count()
        };
        while cleaned() < 2 {
            assert!(Instant::now() < until, "it is compacted");
            std::thread::sleep(Duration::from_millis(150));
            produce(&mut client, "compacted", &many_records(Compression::Zstd, 10), 2);
        }
    });
    for name in ["many", "more"] {
        watched(&metrics, "partitions made", || create(&mut client, name, 10_000, &[]));
    }
    watched(&metrics, "metadata of all told", || {
        let request = MetadataRequest { topics: None, ..Default::default() };
        let response: MetadataResponse = client.ask(&request, 8);
        let most = response.topics.iter().map(|topic| topic.partitions.len()).max();
        assert_eq!(most, Some(10_000));
    });
}

/// As many different names as fit into the largest frame of their kind.
fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("{:06}{n:06}", n * 7919 % 1_000_000))
}

#[test]
fn requests_that_name_very_much_come_in_slices() {
    let metrics = free_address();
    let args = ["--weir.metrics.listen", &metrics, "--weir.shards", "2"];
    let broker = Broker::start(&[&args[..], &["--auto.create.topics.enable", "false"]].concat());
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    client.create("t", 10);
    let many = 80_000;
    watched(&metrics, "Metadata", || {
        let topic = |name| MetadataRequestTopic { name: Some(name), ..Default::default() };
        let topics = Some(names(many).map(topic).collect());
        let request = MetadataRequest { topics, ..Default::default() };
        let response: MetadataResponse = client.ask(&request, 9);
        assert_eq!(response.topics.len(), many);
    });
    watched(&metrics, "FindCoordinator", || {
        let request = FindCoordinatorRequest {
            coordinator_keys: names(many).collect(),
            ..Default::default()
        };
        let response: FindCoordinatorResponse = client.ask(&request, 4);
        assert_eq!(response.coordinators.len(), many);
    });
    watched(&metrics, "DescribeGroups", || {
        let request = DescribeGroupsRequest { groups: names(many).collect(), ..Default::default() };
        let response: DescribeGroupsResponse = client.ask(&request, 5);
        assert_eq!(response.groups.len(), many);
    });
    watched(&metrics, "DeleteTopics", || {
        let request =
            DeleteTopicsRequest { topic_names: names(many).collect(), ..Default::default() };
        let response: DeleteTopicsResponse = client.ask(&request, 5);
        assert_eq!(response.responses.len(), many);
    });
    watched(&metrics, "DescribeConfigs", || {
        let resource = |resource_name| DescribeConfigsResource {
            resource_type: 2,
            resource_name,
            ..Default::default()
        };
        let resources = names(many / 2).map(resource).collect();
        let request = DescribeConfigsRequest { resources, ..Default::default() };
        let response: DescribeConfigsResponse = client.ask(&request, 4);
        assert_eq!(response.results.len(), many / 2);
    });
    watched(&metrics, "ListOffsets", || {
        let partition = |partition_index| ListOffsetsPartition {
            partition_index,
            timestamp: -1,
            current_leader_epoch: -1,
        };
        let partitions = (0..many as i32).map(partition).collect();
        let topics = vec![ListOffsetsTopic { name: "t".to_owned(), partitions }];
        let request = ListOffsetsRequest { topics, ..Default::default() };
        let response: ListOffsetsResponse = client.ask(&request, 6);
        assert_eq!(response.topics[0].partitions.len(), many);
    });
    let group = || "g".to_owned();
    watched(&metrics, "OffsetCommit", || {
        let partition = |partition_index| OffsetCommitPartition {
            partition_index,
            committed_offset: 5,
            ..Default::default()
        };
        let partitions = (0..many as i32).map(partition).collect();
        let topics = vec![OffsetCommitTopic { name: "t".to_owned(), partitions }];
        let request = OffsetCommitRequest {
            group_id: group(),
            generation_id: -1,
            topics,
            ..Default::default()
        };
        let response: OffsetCommitResponse = client.ask(&request, 8);
        assert_eq!(response.topics[0].partitions.len(), many);
    });
    watched(&metrics, "OffsetFetch", || {
        let partition_indexes = (0..many as i32).collect();
        let topics = Some(vec![OffsetFetchTopic { name: "t".to_owned(), partition_indexes }]);
        let request = OffsetFetchRequest { group_id: group(), topics, ..Default::default() };
        let response: OffsetFetchResponse = client.ask(&request, 7);
        assert_eq!(response.topics[0].partitions.len(), many);
    });
}

#[test]
fn what_comes_behind_slow_work_of_its_connection_stays_behind_it() {
    let broker = Broker::start(&["--weir.shards", "2", "--message.max.bytes", "20000000"]);
    let mut client = broker.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    create(&mut client, "packed", 4, &[("compression.type", "lz4")]);
    let producer = Producer { id: ProducerId(77), epoch: 0 };
    let (mut sequence, mut sent) = (0, Vec::new());
    // Many records and few in turn, each with the sequence that follows: the broker refuses what overtakes.
    for count in [1, 200_000, 1, 1, 150_000, 1, 300_000, 3, 2, 1] {
        let mut builder = BatchBuilder::default();
        builder.begin(1_000);
        builder.set_producer(producer, sequence, false);
        for n in 0..count {
            builder.push(1_000, Some(&i64::from(n).to_be_bytes()), Some(b"value"), &[]);
        }
        let batch = builder.finish(Compression::Zstd).to_vec();
        let batches: Vec<(i32, &[u8])> = (0..4).map(|p| (p, &batch[..])).collect();
        let frame = client.produce_frame("packed", 1, &batches);
        client.send(&frame);
        sent.push(i64::from(sequence));
        sequence += count;
    }
    for base in sent {
        let mut results = client.produced().unwrap();
        results.sort_unstable();
        let expected: Vec<_> = (0..4).map(|partition| (partition, 0, base)).collect();
        assert_eq!(results, expected);
    }
}

#[test]
fn what_was_sent_without_waiting_is_stored_although_its_client_has_gone() {
    let broker = Broker::start(&["--weir.shards", "2", "--message.max.bytes", "20000000"]);
    let mut client = broker.client();
    create(&mut client, "packed", 4, &[("compression.type", "gzip")]);
    let batch = many_records(Compression::Zstd, 150_000);
    let mut leaving = broker.client();
    for _ in 0..3 {
        let batches: Vec<(i32, &[u8])> = (0..4).map(|p| (p, &batch[..])).collect();
        let frame = leaving.produce_frame("packed", 0, &batches);
        leaving.send(&frame);
    }
    drop(leaving);
    let partition = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: -1,
        current_leader_epoch: -1,
    };
    let topic =
        ListOffsetsTopic { name: "packed".to_owned(), partitions: (0..4).map(partition).collect() };
    let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let response: ListOffsetsResponse = client.ask(&request, 5);
        let ends: Vec<i64> = response.topics[0].partitions.iter().map(|p| p.offset).collect();
        if ends == [450_000; 4] {
            break;
        }
        assert!(Instant::now() < until, "only {ends:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A body that is no request, and looks like one: small numbers pass for counts, lengths and flags; then, sometimes, very
/// many equal elements.
fn nearly_a_request(random: &mut Random) -> Vec<u8> {
    let mut body: Vec<u8> = (0..random.below(80))
        .map(|_| if random.below(3) == 0 { random.below(256) as u8 } else { random.below(4) as u8 })
        .collect();
    if random.below(2) == 0 {
        let (elements, bytes) = (random.below(60_000) as usize, 1 + random.below(12) as usize);
        match random.below(2) {
            0 => body.extend((elements as u32).to_be_bytes()),
            _ => wire::primitives::put_count(&mut body, Some(elements), true),
        }
        let element: Vec<u8> = (0..bytes).map(|_| random.below(3) as u8).collect();
        body.extend(element.repeat(elements));
    }
    body
}

#[test]
fn whatever_is_sent_to_any_api_takes_little_time_and_memory() {
    let metrics = free_address();
    let broker = Broker::start(&["--weir.shards", "1", "--weir.metrics.listen", &metrics]);
    let mut innocent = broker.client();
    create(&mut innocent, "t", 3, &[]);
    let resident = || runtime::process::usage(broker.child.id()).unwrap().resident_peak_bytes;
    let before = resident();
    // Another one by hand: WEIR_SEED.
    let seed = std::env::var("WEIR_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for api in APIS {
        for version in api.version_min..=api.version_max {
            // Several on a connection, as long as it is open; nobody waits for what waits.
            for _ in 0..10 {
                let mut client = broker.client();
                client.stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
                for _ in 0..3 {
                    let body = nearly_a_request(&mut random);
                    let frame = client.frame(api.key, version, |out| out.extend(body));
                    if client.stream.write_all(&frame).is_err() {
                        break;
                    }
                }
            }
        }
        let all = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
        let _: MetadataResponse = innocent.ask(&all, 8);
        let long = turns_over(&metrics, LONGEST_MS);
        assert_eq!(long, 0, "{}: a turn of more than {LONGEST_MS} ms", api.name);
    }
    let grown = resident() - before;
    println!("grown by {} MB", grown / 1_000_000);
    assert!(grown < 150_000_000, "{grown}");
}
