//! Batches whose records are not what their header says: refused where they enter, or harmless where they are stored.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, Client, fetch_all};
use model::varint::put_signed;
use model::{Compression, ErrorCode, crc32c};
use std::time::{SystemTime, UNIX_EPOCH};
use wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};

const DAY_MS: i64 = 86_400_000;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A record with every field as given.
fn rec(delta: i64, time: i64, key: Option<&[u8]>, value: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    put_signed(&mut body, time);
    put_signed(&mut body, delta);
    match key {
        None => put_signed(&mut body, -1),
        Some(key) => {
            put_signed(&mut body, key.len() as i64);
            body.extend_from_slice(key);
        }
    }
    put_signed(&mut body, value.len() as i64);
    body.extend_from_slice(value);
    put_signed(&mut body, 0);
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_signed(&mut out, body.len() as i64);
    out.extend_from_slice(body);
    out
}

/// A batch with every field as given, and a right checksum.
fn made(body: &[u8], count: i32, base_time: i64, max_time: i64, attributes: u16) -> Vec<u8> {
    let mut out = vec![0; 61];
    out[8..12].copy_from_slice(&(49 + body.len() as i32).to_be_bytes());
    out[16] = 2;
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    out[27..35].copy_from_slice(&base_time.to_be_bytes());
    out[35..43].copy_from_slice(&max_time.to_be_bytes());
    out[43..57].copy_from_slice(&[0xff; 14]);
    out[57..61].copy_from_slice(&count.to_be_bytes());
    out.extend_from_slice(body);
    let crc = crc32c::checksum(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out
}

fn packed(codec: Compression, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    codec.compress(body, &mut out);
    out
}

fn create(client: &mut Client, topic: &str, configs: &[(&str, &str)]) {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).to_owned(),
        value: Some((*value).to_owned()),
    };
    let new = CreatableTopic {
        name: topic.to_owned(),
        num_partitions: 1,
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![new], ..Default::default() };
    let response: CreateTopicsResponse = client.ask(&request, 7);
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
}

/// (error, offset, timestamp) of the first record of a topic at or after a time; -1: none, -3: the largest time.
fn by_time(client: &mut Client, topic: &str, timestamp: i64) -> (i16, i64, i64) {
    let partition = ListOffsetsPartition { partition_index: 0, timestamp, ..Default::default() };
    let topic = ListOffsetsTopic { name: topic.to_owned(), partitions: vec![partition] };
    let request = ListOffsetsRequest { topics: vec![topic], replica_id: -1, ..Default::default() };
    let response: ListOffsetsResponse = client.ask(&request, 7);
    let found = &response.topics[0].partitions[0];
    (found.error_code, found.offset, found.timestamp)
}

#[test]
fn records_that_no_reader_gets_past_are_refused() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    create(&mut client, "plain", &[]);
    create(&mut client, "all", &[("weir.record.validation", "all")]);
    create(&mut client, "gzip", &[("compression.type", "gzip")]);
    create(&mut client, "compacted", &[("cleanup.policy", "compact")]);
    let now = now();
    let good = rec(0, 0, Some(b"k"), b"v");
    let two = [rec(0, 0, Some(b"k"), b"v"), rec(1, 0, Some(b"k"), b"v")].concat();
    let deltas = |a, b| [rec(a, 0, Some(b"k"), b"v"), rec(b, 0, Some(b"k"), b"v")].concat();
    let bodies: Vec<(&str, Vec<u8>, i32)> = vec![
        ("one byte", vec![0xff], 1),
        ("a count below the records", two.clone(), 1),
        ("a count above the records", two.clone(), 3),
        ("a byte behind the last", [good.clone(), vec![0]].concat(), 1),
        ("a length beyond the body", [vec![100], good[1..].to_vec()].concat(), 1),
        ("a null header key", framed(&[0, 0, 0, 1, 2, b'v', 2, 1, 1]), 1),
        ("a negative header count", framed(&[0, 0, 0, 1, 2, b'v', 1]), 1),
        ("a record longer than its fields", framed(&[0, 0, 0, 2, b'k', 2, b'v', 0, 9]), 1),
        ("deltas 0, 0", deltas(0, 0), 2),
        ("deltas 1, 0", deltas(1, 0), 2),
        ("deltas 0, 5", deltas(0, 5), 2),
    ];
    for (what, body, count) in &bodies {
        let bytes = made(body, *count, now, now, 0);
        for topic in ["plain", "all", "gzip", "compacted"] {
            assert_eq!(client.produce(topic, -1, &bytes), Some((87, -1)), "{topic}: {what}");
        }
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let bytes = made(&packed(codec, body), *count, now, now, codec as u16);
            for topic in ["all", "compacted", "gzip"] {
                if topic == "gzip" && codec == Compression::Gzip {
                    // Nothing is unpacked there.
                    continue;
                }
                let result = client.produce(topic, -1, &bytes);
                assert_eq!(result, Some((87, -1)), "{topic}, {codec:?}: {what}");
            }
        }
    }
    let truncated = packed(Compression::Zstd, &two);
    let not_packed: [(&[u8], u16); 2] = [(b"not gzip", 1), (&truncated[..truncated.len() - 3], 4)];
    for (body, attributes) in not_packed {
        let bytes = made(body, 1, now, now, attributes);
        for topic in ["all", "compacted"] {
            assert_eq!(client.produce(topic, -1, &bytes), Some((87, -1)), "{topic}");
        }
    }
    // No topic takes more records than a batch can hold unpacked, nor a batch of none.
    let many = made(&packed(Compression::Gzip, &good), i32::MAX, now, now, 1);
    assert_eq!(client.produce("plain", -1, &many), Some((87, -1)));
    for topic in ["plain", "all", "gzip", "compacted"] {
        let bytes = made(&two, 2, now, now, 0);
        assert_eq!(client.produce(topic, -1, &bytes), Some((0, 0)), "{topic}: nothing was stored");
    }
}

#[test]
fn times_are_those_of_the_records() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    create(&mut client, "t", &[("message.timestamp.before.max.ms", "3600000")]);
    let now = now();
    let one = rec(0, 0, None, b"a");
    // The header says less than the record: put right.
    assert_eq!(client.produce("t", -1, &made(&one, 1, now, -1, 0)), Some((0, 0)));
    assert_eq!(by_time(&mut client, "t", now), (0, 0, now));
    assert_eq!(by_time(&mut client, "t", -3).2, now);
    // And more.
    assert_eq!(client.produce("t", -1, &made(&one, 1, now, now + 60_000, 0)), Some((0, 1)));
    assert_eq!(by_time(&mut client, "t", now + 1), (0, -1, -1));
    let (found, error) = fetch_all(&mut client, 0, 0);
    assert_eq!((found.len(), error), (2, ErrorCode::None), "checksums are right");
    // Records that are too far away, behind a header that says otherwise; and records that are not.
    for delta in [10 * DAY_MS, -10 * DAY_MS] {
        let bytes = made(&rec(0, delta, None, b"a"), 1, now, now, 0);
        assert_eq!(client.produce("t", -1, &bytes), Some((32, -1)), "{delta}");
    }
    let honest = made(&rec(0, now, None, b"a"), 1, 0, now, 0);
    assert_eq!(client.produce("t", -1, &honest), Some((0, 2)), "a base is no record's time");
}

#[test]
fn sizes_are_looked_at_again_where_they_change() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    let limits = [("compression.type", "uncompressed"), ("max.message.bytes", "100000")];
    create(&mut client, "t", &limits);
    create(&mut client, "u", &[("segment.bytes", "1024"), ("max.message.bytes", "5000000")]);
    let now = now();
    let body = rec(0, 0, None, &vec![0; 5_000_000]);
    let bytes = made(&packed(Compression::Zstd, &body), 1, now, now, 4);
    assert_eq!(client.produce("t", -1, &bytes), Some((10, -1)), "larger once unpacked");
    let body = rec(0, 0, None, &vec![0; 80_000_000]);
    let bytes = made(&packed(Compression::Zstd, &body), 1, now, now, 4);
    assert_eq!(client.produce("t", -1, &bytes), Some((10, -1)), "larger than is ever unpacked");
    let bytes = made(&rec(0, 0, None, &vec![0; 2_000_000]), 1, now, now, 0);
    assert_eq!(client.produce("u", -1, &bytes), Some((18, -1)), "larger than a file");
    let small = made(&rec(0, 0, None, b"v"), 1, now, now, 0);
    assert_eq!(client.produce("t", -1, &small), Some((0, 0)));
    assert_eq!(client.produce("u", -1, &small), Some((0, 0)));
}

/// A compressed batch that nobody unpacked where it came in: what reads it later goes on behind it.
#[test]
fn what_cannot_be_read_hides_nothing_behind_it_and_can_be_taken_out() {
    let mut broker = Broker::start(&["--log.retention.check.interval.ms", "200"]);
    let mut client = broker.client();
    let settings = [("segment.bytes", "1024"), ("segment.ms", "500")];
    create(&mut client, "t", &settings);
    let now = now();
    let nonsense = made(b"not gzip", 1, now - 5_000, now - 5_000, 1);
    assert_eq!(client.produce("t", -1, &nonsense), Some((0, 0)), "as it was sent");
    let good = made(&rec(0, 0, Some(b"k"), &[7; 500]), 1, now, now, 0);
    for offset in 1..6 {
        assert_eq!(client.produce("t", -1, &good), Some((0, offset)));
    }
    assert_eq!(by_time(&mut client, "t", now), (0, 1, now), "a time lookup goes on behind it");
    assert_eq!(by_time(&mut client, "t", now - 6_000), (0, 0, now - 5_000), "its header says it");
    assert_eq!(fetch_all(&mut client, 0, 0).0.len(), 6);
    // It is told for what it is, and can be taken out: of closed segments, and of those that grow.
    create(&mut client, "u", &[]);
    assert_eq!(client.produce("u", -1, &nonsense), Some((0, 0)));
    assert_eq!(client.produce("u", -1, &good), Some((0, 1)));
    let _ = broker.child.kill();
    let _ = broker.child.wait();
    let dir = broker.dir.path().to_owned();
    let repair = |args: &[&str]| {
        let repaired = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
            .arg("repair")
            .args(args)
            .arg(&dir)
            .output()
            .unwrap();
        assert!(repaired.status.success(), "{}", String::from_utf8_lossy(&repaired.stderr));
        String::from_utf8_lossy(&repaired.stdout).into_owned()
    };
    let told = repair(&[]);
    assert!(told.contains("t-0: no damage, but 1 batches"), "{told}");
    assert!(told.contains("--empty-unreadable") && !told.contains("quarantine"), "{told}");
    let told = repair(&["--empty-unreadable", "--partition", "t-0"]);
    assert!(told.contains("t-0: 1 batches are empty now") && told.contains("quarantine"), "{told}");
    assert!(!told.contains("u-0: 1 batches are empty now"), "{told}");
    let told = repair(&["--empty-unreadable"]);
    assert!(told.contains("\nu-0: 1 batches are empty now"), "{told}");
    assert!(!told.contains("\nt-0: "), "{told}");
    let told = repair(&[]);
    assert!(!told.contains("cannot be read"), "{told}");
    broker.kill_and_start_again();
    let mut client = broker.client();
    // The others are all there, where they were.
    assert_eq!(fetch_all(&mut client, 0, 0).0.len(), 6);
    assert_eq!(client.produce("t", -1, &good), Some((0, 6)));
    assert_eq!(client.produce("u", -1, &good), Some((0, 2)));
}

/// What `repair --cut` takes away of the last file is kept, and a directory of an older version is mended to its end.
#[test]
fn what_repair_cuts_is_kept_in_quarantine() {
    let mut broker = Broker::start(&[]);
    let mut client = broker.client();
    create(&mut client, "t", &[]);
    let now = now();
    let good = made(&rec(0, 0, Some(b"k"), &[7; 5_000]), 1, now, now, 0);
    for offset in 0..20 {
        assert_eq!(client.produce("t", -1, &good), Some((0, offset)));
    }
    let stopped = std::process::Command::new("kill").arg(broker.child.id().to_string()).status();
    assert!(stopped.unwrap().success() && broker.child.wait().unwrap().success());
    let dir = broker.dir.path().to_owned();
    let partition = std::fs::read_dir(dir.join("partitions")).unwrap().next().unwrap().unwrap();
    let log = partition.path().join("00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 0xff;
    std::fs::write(&log, &bytes).unwrap();
    for copy in ["superblock.0", "superblock.1"].map(|name| dir.join(name)) {
        let mut block = std::fs::read(&copy).unwrap();
        block[8..12].copy_from_slice(&4u32.to_be_bytes());
        let body = block.len() - 4;
        let crc = crc32c::checksum(&block[..body]);
        block[body..].copy_from_slice(&crc.to_be_bytes());
        std::fs::write(&copy, &block).unwrap();
    }
    let repaired = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["repair", "--cut"])
        .arg(&dir)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&repaired.stdout).into_owned();
    assert!(repaired.status.success(), "{told}{}", String::from_utf8_lossy(&repaired.stderr));
    assert!(told.contains("t-0: cut at offset 10") && told.contains("quarantine"), "{told}");
    let quarantined = std::fs::read_dir(dir.join("quarantine")).unwrap().next().unwrap().unwrap();
    let kept = std::fs::read(quarantined.path().join("00000000000000000000.log")).unwrap();
    assert_eq!(kept, bytes, "all that was there");
    broker.kill_and_start_again();
    let mut client = broker.client();
    assert_eq!(fetch_all(&mut client, 0, 0).0.len(), 10);
    assert_eq!(client.produce("t", -1, &good), Some((0, 10)));
}
