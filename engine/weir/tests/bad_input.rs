//! Bad input to the real program: each gets Kafka's error or a closed connection, and nothing else
//! is disturbed. Bad directories and flags: one clear line and an exit code.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, batch, body, weir};
use model::{TopicId, crc32c};
use runtime::fs::TemporaryDir;
use std::time::Duration;
use wire::ApiKey;
use wire::api_key::APIS;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, Message, MetadataRequest, MetadataRequestTopic,
    MetadataResponse,
};

fn said(args: &[&str]) -> (i32, String) {
    let output = weir(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::checksum(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn malformed_frames_close_their_connection_and_no_other() {
    let broker = Broker::start(&[]);
    let mut bystander = broker.client();
    bystander.create("t", 3);
    let counts = |count: [u8; 4]| {
        let mut client = broker.client();
        client.frame(ApiKey::Metadata, 1, |out| out.extend_from_slice(&count))
    };
    let unknown = [0, 0, 0, 10, 0, 99, 0, 0, 0, 0, 0, 1, 0, 0];
    let future = [0, 0, 0, 10, 0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff];
    let old_produce = [0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff];
    for (what, bytes) in [
        ("length below a header", [0, 0, 0, 3, 1, 2, 3].to_vec()),
        ("negative length", vec![0xff; 8]),
        ("length above the limit", [0x7f, 0xff, 0xff, 0xff, 0, 3].to_vec()),
        ("array count beyond the frame", counts([0x7f, 0xff, 0xff, 0xff])),
        ("array count cut", counts([0, 0, 0, 9])),
        ("unknown API", unknown.to_vec()),
        ("unserved version", future.to_vec()),
        ("produce 2, advertised only", old_produce.to_vec()),
    ] {
        let mut client = broker.client();
        client.send(&bytes);
        assert!(client.receive().is_none(), "{what}: closed");
        let (error, _) = bystander.produce("t", 1, &batch(1, 10)).expect(what);
        assert_eq!(error, 0, "{what}: others go on");
    }
}

#[test]
fn garbage_to_any_api_disturbs_nobody() {
    let broker = Broker::start(&[]);
    let mut bystander = broker.client();
    bystander.create("t", 1);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 33
    };
    for api in APIS {
        for version in api.version_min..=api.version_max {
            for _ in 0..5 {
                let mut client = broker.client();
                // Small numbers are plausible counts and lengths: they get further than noise.
                let body: Vec<u8> = (0..random() % 120)
                    .map(|_| if random() % 3 == 0 { random() as u8 } else { (random() % 4) as u8 })
                    .collect();
                let frame = client.frame(api.key, version, |out| out.extend_from_slice(&body));
                client.send(&frame);
                // It hangs up without a look at what became of it.
            }
        }
        let (error, _) = bystander.produce("t", 1, &batch(1, 10)).expect(api.name);
        assert_eq!(error, 0, "{}: others go on", api.name);
    }
}

#[test]
fn a_version_from_the_future_is_told_the_ranges() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    let frame =
        client.frame(ApiKey::ApiVersions, 4, |out| ApiVersionsRequest::default().encode(out, 4));
    let mut future = frame;
    future[6..8].copy_from_slice(&99i16.to_be_bytes());
    client.send(&future);
    let payload = client.receive().expect("an answer");
    let response =
        ApiVersionsResponse::decode(&mut body(&payload, ApiKey::ApiVersions, 0), 0).unwrap();
    assert_eq!(response.error_code, 35);
    assert!(response.api_keys.iter().any(|api| api.api_key == 18 && api.max_version == 4));
}

#[test]
fn each_bad_batch_has_its_error_and_the_connection_goes_on() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 1);
    let good = batch(3, 100);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let edit = |at: usize, byte: u8| {
        let mut edited = good.clone();
        edited[at] = byte;
        sealed(edited)
    };
    let mut old = good.clone();
    old[16] = 1;
    for (what, bytes, code) in [
        ("flipped bit", flipped, 2),
        ("cut", good[..good.len() - 1].to_vec(), 87),
        ("empty", Vec::new(), 87),
        ("two batches", [good.clone(), good.clone()].concat(), 87),
        ("count", edit(60, 9), 87),
        ("codec", edit(22, 7), 87),
        ("base offset", edit(7, 1), 87),
        ("control bit", edit(22, 1 << 5), 87),
        ("old format", old, 87),
        ("too large", batch(1, 2_000_000), 10),
    ] {
        let (error, base) = client.produce("t", -1, &bytes).expect(what);
        assert_eq!((error, base), (code, -1), "{what}");
    }
    assert_eq!(client.produce("t", 5, &good).unwrap().0, 21, "acks outside -1, 0, 1");
    assert_eq!(client.produce("nope", 1, &good).unwrap().0, 3, "unknown topic");
    assert_eq!(client.produce("t", -1, &good), Some((0, 0)), "nothing was appended before");
    let frame = client.produce_frame("t", 0, &[(0, &good[..50])]);
    client.send(&frame);
    assert!(client.receive().is_none(), "acks=0: a closed connection is the only answer");
}

#[test]
fn pipelined_requests_are_answered_in_order_across_shards() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 5);
    let good = batch(2, 50);
    let mut bytes = Vec::new();
    let first = client.correlation_id + 1;
    for round in 0..60 {
        let acks = if round % 2 == 0 { -1 } else { 1 };
        bytes.extend(client.produce_frame(
            "t",
            acks,
            &[(round % 5, &good), ((round + 1) % 5, &good)],
        ));
    }
    client.send(&bytes);
    let mut ends = [0i64; 5];
    for round in 0..60 {
        let payload = client.receive().unwrap();
        assert_eq!(payload[..4], (first + round).to_be_bytes(), "request order");
        wire::produce::read_response(
            body(&payload, ApiKey::Produce, 9),
            9,
            |_, partition, error, base| {
                assert_eq!(error.code(), 0);
                assert_eq!(base, ends[partition as usize], "arrival order in each partition");
                ends[partition as usize] += 2;
            },
        )
        .unwrap();
    }
}

fn fetch_frame(
    client: &mut Client,
    version: i16,
    id: TopicId,
    asks: &[FetchAsk],
    wait_ms: i32,
) -> Vec<u8> {
    let limits = FetchLimits {
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 20,
        read_committed: false,
    };
    client.frame(ApiKey::Fetch, version, |out| {
        fetch::put_request(out, version, limits, "t", id, asks)
    })
}

#[test]
fn a_waiting_fetch_wakes_with_the_record_by_name_and_by_id_on_every_shard() {
    let broker = Broker::start(&[]);
    let mut producer = broker.client();
    producer.create("t", 4);
    let topic = MetadataRequestTopic { name: Some("t".to_owned()), ..Default::default() };
    let asked = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let response: MetadataResponse = producer.ask(&asked, 12);
    let id = response.topics[0].topic_id;
    let mut offsets = [0i64; 4];
    for (round, version) in [4, 11, 12, 13, 18, 12, 18, 4].into_iter().enumerate() {
        let partition = round % 4;
        let mut consumer = broker.client();
        let asks: Vec<_> =
            (0..4).map(|p| FetchAsk { partition: p, offset: offsets[p as usize] }).collect();
        let frame = fetch_frame(&mut consumer, version, id, &asks, 60_000);
        consumer.send(&frame);
        std::thread::sleep(Duration::from_millis(50));
        let records = batch(1, 30);
        let frame = producer.produce_frame("t", -1, &[(partition as i32, &records)]);
        producer.send(&frame);
        assert_eq!(producer.produced().unwrap()[0].1, 0);
        let payload = consumer.receive().expect("long before the minute is over");
        let mut found = Vec::new();
        fetch::read_response(body(&payload, ApiKey::Fetch, version), version, |part| {
            assert_eq!(part.error.code(), 0);
            if !part.records.is_empty() {
                found.push((part.partition, part.records[16..].to_vec()));
            }
        })
        .unwrap();
        assert_eq!(found, [(partition as i32, records[16..].to_vec())], "v{version}");
        offsets[partition] += 1;
    }
    let mut consumer = broker.client();
    let asks = [FetchAsk { partition: 0, offset: 99 }, FetchAsk { partition: 9, offset: 0 }];
    let frame = fetch_frame(&mut consumer, 12, id, &asks, 60_000);
    consumer.send(&frame);
    let payload = consumer.receive().unwrap();
    let mut errors = Vec::new();
    let read = |part: fetch::Fetched<'_>| errors.push(part.error.code());
    fetch::read_response(body(&payload, ApiKey::Fetch, 12), 12, read).unwrap();
    assert_eq!(errors, [1, 3], "out of range, unknown partition");
}

#[test]
fn an_announced_frame_takes_no_memory_until_it_comes() {
    let broker = Broker::start(&[]);
    let pid = broker.child.id();
    let before = runtime::process::usage(pid).unwrap().resident_bytes;
    let mut clients: Vec<_> = (0..20).map(|_| broker.client()).collect();
    for client in &mut clients {
        client.send(&(100u32 * 1024 * 1024).to_be_bytes());
        client.send(&[0; 10_000]);
    }
    std::thread::sleep(Duration::from_millis(300));
    let after = runtime::process::usage(pid).unwrap().resident_bytes;
    assert!(after < before + 20 * 1024 * 1024, "2 GB announced, took {}", after - before);
}

#[test]
fn an_idle_connection_takes_pages_and_not_a_whole_chunk() {
    let broker = Broker::start(&[]);
    let pid = broker.child.id();
    broker.client().create("t", 1);
    let before = runtime::process::usage(pid).unwrap().resident_bytes;
    let open: Vec<Client> = (0..300)
        .map(|_| {
            // Each has been served once.
            let mut client = broker.client();
            let _: MetadataResponse = client.ask(&MetadataRequest::default(), 9);
            client
        })
        .collect();
    let after = runtime::process::usage(pid).unwrap().resident_bytes;
    let each = after.saturating_sub(before) / open.len() as u64;
    assert!(each < 64 * 1024, "{each} bytes for each idle connection");
}

#[test]
fn bad_directories_and_flags_are_explained() {
    let broker = Broker::start(&[]);
    let dir = broker.dir.path().to_str().unwrap();
    let (code, text) = said(&["--data-dir", dir, "--listen", "127.0.0.1:0"]);
    assert!(code == 1 && text.contains("in use by another running broker"), "{code} {text}");
    assert_eq!(text.trim().lines().count(), 1, "one line: {text}");
    let other = TemporaryDir::new(&std::env::temp_dir(), "weir-bad-dir").unwrap();
    let path = other.path().to_str().unwrap();
    let (code, text) = said(&["--data-dir", path, "--listen", &broker.address]);
    assert!(code == 1 && text.contains("cannot listen"), "{code} {text}");
    let file = other.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let (code, text) = said(&["--data-dir", file.to_str().unwrap()]);
    assert!(code == 1 && text.contains("cannot be made"), "{code} {text}");
    for number in 0..2 {
        let _ = std::fs::write(
            other.path().join(format!("superblock.{number}")),
            b"WEIRSUPR\0\0\0\x63 from the future",
        );
    }
    let (code, text) = said(&["--data-dir", path, "--listen", "127.0.0.1:0"]);
    assert!(code == 1 && text.contains("format version 99"), "{code} {text}");
    let (code, text) = said(&["--node.id", "many"]);
    assert!(code == 2 && text.contains("node.id"), "{code} {text}");
    let (code, text) = said(&["--no-such-flag"]);
    assert!(code == 2 && text.contains("--no-such-flag"), "{code} {text}");
}
