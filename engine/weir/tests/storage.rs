//! The real program and its disk: kill -9 under load, deletion, a disk that fills up and empties.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Client, Mounted, batch};
use model::record_batch::BatchBuilder;
use model::{Compression, crc32c};
use runtime::fs::TemporaryDir;
use runtime::random::Random;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopic,
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};

struct Broker {
    child: Child,
    address: String,
}

impl Broker {
    fn start(dirs: &str, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["serve", "--log.dirs", dirs, "--listeners", "127.0.0.1:0"])
            .args(["--weir.tail.cache.bytes", "8388608"])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("it starts").to_owned();
        Self { child, address }
    }

    fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    fn stop(mut self) {
        runtime::process::terminate(self.child.id());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Broker {
    /// kill -9.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn temporary(name: &str) -> TemporaryDir {
    TemporaryDir::new(&std::env::temp_dir(), name).unwrap()
}

fn create(client: &mut Client, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).to_owned(),
        value: Some((*value).to_owned()),
    };
    let new = CreatableTopic {
        name: topic.to_owned(),
        num_partitions: partitions,
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![new], ..Default::default() };
    let response: CreateTopicsResponse = client.ask(&request, 7);
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
}

/// Every batch of a partition from `offset` on; nothing may stand in the way.
fn fetch_all(client: &mut Client, partition: i32, offset: i64) -> BTreeMap<i64, u32> {
    let (found, error) = common::fetch_all(client, partition, offset);
    assert_eq!(error, model::ErrorCode::None, "partition {partition}");
    found
}

fn earliest(client: &mut Client, partition: i32) -> i64 {
    let asked =
        ListOffsetsPartition { partition_index: partition, timestamp: -2, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".to_owned(), partitions: vec![asked] };
    let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
    let response: ListOffsetsResponse = client.ask(&request, 5);
    response.topics[0].partitions[0].offset
}

const PARTITIONS: i32 = 12;
const WRITERS: i32 = 3;

/// What was acknowledged: partition, base offset, checksum.
type Acked = (i32, i64, u32);

/// Writes to the partitions of `writer` until the broker is gone.
fn write(address: &str, writer: i32, seed: u64, acked: &std::sync::mpsc::Sender<Acked>) {
    let mut random = Random::new(seed);
    let mut client = Client::connect(address);
    let mut builder = BatchBuilder::default();
    for number in 0i64.. {
        let mut batches = Vec::new();
        for partition in (0..PARTITIONS).filter(|partition| partition % WRITERS == writer) {
            if random.one_in(3) {
                continue;
            }
            builder.begin(number);
            let large = random.one_in(10);
            for _ in 0..=random.below(5) {
                let mut value = vec![0; random.below(if large { 90_000 } else { 2_000 }) as usize];
                let ends = value.len().min(32);
                random.fill(&mut value[..ends]);
                builder.push(number, None, Some(&value), &[]);
            }
            batches.push((partition, builder.finish(Compression::None).to_vec()));
        }
        let acks = if random.one_in(3) { 1 } else { -1 };
        let views: Vec<_> = batches.iter().map(|(p, bytes)| (*p, &bytes[..])).collect();
        let frame = client.produce_frame("t", acks, &views);
        if std::io::Write::write_all(&mut client.stream, &frame).is_err() {
            return;
        }
        let Some(results) = client.produced() else { return };
        for (partition, error, base) in results {
            assert_eq!(error, 0, "partition {partition}");
            let (_, bytes) = batches.iter().find(|(p, _)| *p == partition).expect("asked for");
            acked.send((partition, base, crc32c::checksum(&bytes[16..]))).unwrap();
        }
    }
}

/// kill -9 in the middle of the load, again and again: what was acknowledged, with acks=1 or all, is
/// there after the restart, at its offset, as it was sent.
#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let cycles: u64 = std::env::var("WEIR_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let seed = std::env::var("WEIR_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1u64);
    let dir = temporary("weir-kill");
    let dirs = format!("{0}/a,{0}/b", dir.path().display());
    let more = ["--weir.journal.bytes", "25165824", "--log.segment.bytes", "1048576"];
    let mut expected: Vec<BTreeMap<i64, u32>> = vec![BTreeMap::new(); PARTITIONS as usize];
    let mut random = Random::new(seed);
    let (mut checked, mut slowest) = (0, Duration::ZERO);
    for cycle in 0..=cycles {
        let began = Instant::now();
        let broker = Broker::start(&dirs, &more);
        slowest = slowest.max(began.elapsed());
        let mut client = broker.client();
        if cycle == 0 {
            create(&mut client, "t", PARTITIONS, &[]);
        }
        for (partition, acked) in expected.iter_mut().enumerate() {
            // All of it now and then, else what came last: each cycle adds to it.
            let newest = acked.keys().next_back().copied().unwrap_or(0);
            let from = if cycle % 10 == 0 || cycle == cycles { 0 } else { (newest - 500).max(0) };
            let found = fetch_all(&mut client, partition as i32, from);
            for (base, crc) in acked.range(from..) {
                assert_eq!(
                    found.get(base),
                    Some(crc),
                    "seed {seed}, cycle {cycle}: acknowledged batch {base} of partition {partition}"
                );
                checked += 1;
            }
            acked.extend(found);
        }
        if cycle == cycles {
            println!(
                "{cycles} times killed, {checked} acknowledged batches found; seed {seed}; slowest start {slowest:?}"
            );
            broker.stop();
            return;
        }
        let (sender, receiver) = channel();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (address, sender) = (broker.address.clone(), sender.clone());
                let seed = random.next_u64();
                std::thread::spawn(move || write(&address, writer, seed, &sender))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(20 + random.below(250)));
        drop(broker);
        drop(sender);
        for (partition, base, crc) in receiver {
            let before = expected[partition as usize].insert(base, crc);
            assert!(before.is_none(), "an offset is given out once");
        }
        writers.into_iter().for_each(|writer| writer.join().expect("no writer fails"));
    }
}

/// A partition whose directory is not there is refused, never made anew elsewhere; the others go on.
#[test]
fn a_missing_directory_is_waited_for() {
    let dir = temporary("weir-missing");
    let (first, both) =
        (format!("{}/a", dir.path().display()), format!("{0}/a,{0}/b", dir.path().display()));
    let more = ["--weir.shards", "1", "--weir.journal.bytes", "25165824"];
    let broker = Broker::start(&both, &more);
    let mut client = broker.client();
    create(&mut client, "t", 4, &[]);
    let bytes = batch(2, 100);
    let produce = |client: &mut Client| -> Vec<i16> {
        let all: Vec<_> = (0..4).map(|partition| (partition, &bytes[..])).collect();
        let frame = client.produce_frame("t", -1, &all);
        client.send(&frame);
        let mut results = client.produced().expect("answered");
        results.sort_unstable();
        results.into_iter().map(|(_, error, _)| error).collect()
    };
    assert_eq!(produce(&mut client), [0; 4]);
    broker.stop();
    let broker = Broker::start(&first, &more);
    let mut client = broker.client();
    let refused = model::ErrorCode::KafkaStorageError.code();
    let errors = produce(&mut client);
    assert_eq!(errors.iter().filter(|error| **error == refused).count(), 2, "{errors:?}");
    assert_eq!(errors.iter().filter(|error| **error == 0).count(), 2, "{errors:?}");
    // Also after kill -9, when journals are read.
    drop(broker);
    let broker = Broker::start(&both, &more);
    let mut client = broker.client();
    for (partition, error) in errors.iter().enumerate() {
        let found = fetch_all(&mut client, partition as i32, 0).len();
        assert_eq!(found, if *error == 0 { 2 } else { 1 }, "partition {partition}");
    }
    assert_eq!(produce(&mut client), [0; 4]);
    broker.stop();
}

fn bytes_under(dir: &Path) -> u64 {
    let mut total = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let meta = entry.metadata().unwrap();
        total += if meta.is_dir() { bytes_under(&entry.path()) } else { meta.len() };
    }
    total
}

#[test]
fn retention_and_delete_records_delete_and_what_is_deleted_stays_so() {
    let dir = temporary("weir-retention");
    let path = dir.path().display().to_string();
    let more = ["--log.retention.check.interval.ms", "100", "--weir.journal.bytes", "25165824"];
    let broker = Broker::start(&path, &more);
    let mut client = broker.client();
    let settings =
        [("segment.bytes", "1048576"), ("retention.bytes", "3145728"), ("retention.ms", "-1")];
    create(&mut client, "t", 1, &settings);
    let bytes = batch(10, 10_000);
    for _ in 0..100 {
        assert_eq!(client.produce("t", -1, &bytes).unwrap().0, 0);
    }
    let partitions = dir.path().join("partitions");
    let deadline = Instant::now() + Duration::from_secs(20);
    while bytes_under(&partitions) > 6 << 20 {
        assert!(Instant::now() < deadline, "{} bytes are left", bytes_under(&partitions));
        std::thread::sleep(Duration::from_millis(50));
    }
    let kept = earliest(&mut client, 0);
    assert!(kept > 0 && kept < 1000, "{kept}");
    let delete = |client: &mut Client, offset| {
        let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
        let topics = vec![DeleteRecordsTopic { name: "t".to_owned(), partitions }];
        let request = DeleteRecordsRequest { topics, timeout_ms: 1000 };
        let response: DeleteRecordsResponse = client.ask(&request, 2);
        let result = &response.topics[0].partitions[0];
        (result.error_code, result.low_watermark)
    };
    assert_eq!(delete(&mut client, 905), (0, 905));
    assert_eq!(delete(&mut client, 1001).0, model::ErrorCode::OffsetOutOfRange.code());
    assert_eq!(earliest(&mut client, 0), 905);
    drop(broker);
    let broker = Broker::start(&path, &more);
    let mut client = broker.client();
    assert_eq!(earliest(&mut client, 0), 905, "also after kill -9");
    let found = fetch_all(&mut client, 0, 905);
    assert_eq!(found.keys().next(), Some(&900), "the batch that holds the first record");
    assert_eq!(delete(&mut client, -1), (0, 1000), "all that consumers may see");
    assert!(fetch_all(&mut client, 0, 1000).is_empty());
    assert_eq!(client.produce("t", -1, &bytes), Some((0, 1000)));
    broker.stop();
    let broker = Broker::start(&path, &more);
    assert_eq!(earliest(&mut broker.client(), 0), 1000, "also after a clean stop");
    broker.stop();
}

#[test]
fn what_nobody_waits_for_is_synced_too_where_the_topic_asks_for_it() {
    // With acks=0 no answer waits for the sync; consumers, who see only what is synced, do.
    let dir = temporary("weir-acks-0");
    let broker = Broker::start(&dir.path().display().to_string(), &[]);
    let mut client = broker.client();
    create(&mut client, "t", 1, &[("weir.durability", "disk")]);
    let bytes = batch(10, 100);
    let frame = client.produce_frame("t", 0, &[(0, &bytes)]);
    client.send(&frame);
    let deadline = Instant::now() + Duration::from_secs(20);
    while fetch_all(&mut client, 0, 0).is_empty() {
        assert!(Instant::now() < deadline, "the records are never seen");
        std::thread::sleep(Duration::from_millis(10));
    }
    broker.stop();
}

#[test]
fn a_full_disk_refuses_produce_serves_reads_and_recovers_by_itself() {
    let Some(disk) = Mounted::tmpfs(64 << 20) else {
        println!("skipped: no tmpfs may be mounted here");
        return;
    };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 16 << 20]).unwrap();
    let path = disk.0.path().join("data");
    let more = ["--weir.shards", "1", "--weir.journal.bytes", "25165824"];
    let broker = Broker::start(&path.display().to_string(), &more);
    let mut client = broker.client();
    create(&mut client, "t", 2, &[("segment.bytes", "1048576")]);
    let bytes = batch(10, 50_000);
    let mut accepted = 0;
    let refused = model::ErrorCode::KafkaStorageError.code();
    loop {
        let (error, _) = client.produce("t", -1, &bytes).expect("answered, not closed");
        if error == refused {
            break;
        }
        assert_eq!(error, 0);
        accepted += 1;
        assert!(accepted < 200, "the disk fills up");
    }
    assert_eq!(fetch_all(&mut client, 0, 0).len(), accepted, "reads go on");
    std::fs::remove_file(ballast).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.produce("t", -1, &bytes).expect("answered").0 != 0 {
        assert!(Instant::now() < deadline, "it recovers by itself");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fetch_all(&mut client, 0, 0).len(), accepted + 1);
    broker.stop();
    let broker = Broker::start(&path.display().to_string(), &more);
    assert_eq!(fetch_all(&mut broker.client(), 0, 0).len(), accepted + 1);
    broker.stop();
}
