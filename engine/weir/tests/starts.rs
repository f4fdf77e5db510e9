//! The real program and its starts: directories that are missing or spoilt, full disks, journals and catalogs that are
//! gone or old. Nothing acknowledged is made anew, nothing refused is served before it is mended.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use common::{Client, Mounted, batch, fetch_all};
use model::ErrorCode;
use runtime::fs::TemporaryDir;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopic,
    DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};

struct Broker {
    child: Child,
    address: String,
}

impl Broker {
    fn try_start(dirs: &str, log: &Path, shards: &str) -> Option<Self> {
        let stderr = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["serve", "--log.dirs", dirs, "--listeners", "127.0.0.1:0"])
            .args(["--weir.tail.cache.bytes", "4194304", "--weir.journal.bytes", "25165824"])
            .args(["--weir.shards", shards])
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on ").map(str::to_owned) else {
            let _ = child.wait();
            return None;
        };
        Some(Self { child, address })
    }

    fn start(dirs: &str, log: &Path) -> Self {
        let told = || std::fs::read_to_string(log).unwrap_or_default();
        Self::try_start(dirs, log, "1").unwrap_or_else(|| panic!("it starts: {}", told()))
    }

    fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    fn stop(mut self) {
        runtime::process::terminate(self.child.id());
        assert!(self.child.wait().unwrap().success(), "it stops cleanly");
    }

    fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Broker {
    /// kill -9.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A place for data directories and what brokers say there.
struct Place {
    dir: TemporaryDir,
    log: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = TemporaryDir::new(&std::env::temp_dir(), name).unwrap();
        let log = dir.path().join("log.txt");
        Self { dir, log }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn dirs(&self, names: &[&str]) -> String {
        let paths: Vec<_> =
            names.iter().map(|name| self.data(name).display().to_string()).collect();
        paths.join(",")
    }

    fn told(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let partitions = std::fs::read_dir(data.join("partitions")).unwrap().flatten();
    let files = partitions.flat_map(|dir| std::fs::read_dir(dir.path()).unwrap().flatten());
    let mut paths: Vec<_> = files.map(|file| file.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Produces a batch to each partition of a topic; (error, base offset) of each.
fn produce_all(client: &mut Client, topic: &str, count: i32, bytes: &[u8]) -> Vec<(i16, i64)> {
    let all: Vec<_> = (0..count).map(|partition| (partition, bytes)).collect();
    let frame = client.produce_frame(topic, -1, &all);
    client.send(&frame);
    let mut results = client.produced().expect("answered");
    results.sort_unstable();
    results.into_iter().map(|(_, error, base)| (error, base)).collect()
}

fn delete_topic(client: &mut Client, topic: &str) -> i16 {
    let state = DeleteTopicState { name: Some(topic.to_owned()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![state], ..Default::default() };
    let response: DeleteTopicsResponse = client.ask(&request, 6);
    response.responses[0].error_code
}

fn delete_records(client: &mut Client, topic: &str, partitions: i32) -> Vec<(i16, i64)> {
    let partition = |index| DeleteRecordsPartition { partition_index: index, offset: -1 };
    let partitions = (0..partitions).map(partition).collect();
    let topic = DeleteRecordsTopic { name: topic.to_owned(), partitions };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 5000 };
    let response: DeleteRecordsResponse = client.ask(&request, 2);
    response.topics[0].partitions.iter().map(|p| (p.error_code, p.low_watermark)).collect()
}

/// Takes all the space of a file system but `left` bytes.
fn fill(dir: &Path, left: u64) -> PathBuf {
    let path = dir.join("ballast");
    // There may be no space for its name.
    let Ok(mut file) = std::fs::File::create(&path) else { return path };
    let piece = vec![1u8; 4096];
    let mut bytes = 0;
    while file.write_all(&piece).is_ok() {
        bytes += 4096;
    }
    file.set_len(bytes - left).unwrap();
    path
}

/// KAFKA_STORAGE_ERROR.
const REFUSED: i16 = 56;

#[test]
fn a_partition_of_a_missing_directory_stays_refused_when_topics_change() {
    let place = Place::new("weir-missing");
    let (first, both) = (place.dirs(&["a"]), place.dirs(&["a", "b"]));
    let bytes = batch(2, 100);
    let broker = Broker::start(&both, &place.log);
    let mut client = broker.client();
    client.create("t", 4);
    assert_eq!(produce_all(&mut client, "t", 4, &bytes), [(0, 0); 4]);
    broker.stop();
    let broker = Broker::start(&first, &place.log);
    let mut client = broker.client();
    let before = produce_all(&mut client, "t", 4, &bytes);
    assert_eq!(before.iter().filter(|(error, _)| *error == REFUSED).count(), 2, "{before:?}");
    client.create("other", 1);
    let after = produce_all(&mut client, "t", 4, &bytes);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.0, after.0, "refused or served as before: {after:?}");
    }
    broker.stop();
    let broker = Broker::start(&both, &place.log);
    let ends: Vec<i64> = produce_all(&mut broker.client(), "t", 4, &bytes)
        .into_iter()
        .map(|(_, base)| base)
        .collect();
    let expected = before.iter().map(|(error, _)| if *error == 0 { 6 } else { 2 });
    assert_eq!(ends, expected.collect::<Vec<_>>(), "all that was acknowledged is there");
}

#[test]
fn a_partition_with_rot_in_the_journal_is_not_overwritten() {
    let place = Place::new("weir-rot");
    let (data, dirs) = (place.data("d"), place.dirs(&["d"]));
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    client.create("t", 1);
    for _ in 0..20 {
        // Large ones go to the segment itself.
        assert_eq!(client.produce("t", -1, &batch(2, 70_000)).unwrap().0, 0);
    }
    let small = batch(2, 1000);
    assert_eq!(client.produce("t", -1, &small).unwrap().0, 0);
    std::thread::sleep(Duration::from_millis(100));
    drop(broker);
    // The small one is in the journal alone.
    let journal = data.join("journal/0.1");
    let bytes = std::fs::read(&journal).unwrap();
    let is_value = |window: &[u8]| window.iter().all(|byte| *byte == 1);
    flip(&journal, bytes.windows(200).position(is_value).unwrap());
    let segment = segments(&data).pop().unwrap();
    let whole = std::fs::read(&segment).unwrap();
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    assert_eq!(client.produce("t", -1, &small).unwrap().0, REFUSED);
    client.create("other", 1);
    assert_eq!(client.produce("t", -1, &batch(9, 70_000)).unwrap().0, REFUSED, "still refused");
    assert_eq!(client.produce("other", -1, &small).unwrap(), (0, 0), "others go on");
    broker.stop();
    let now = std::fs::read(&segment).unwrap();
    let same = whole.iter().zip(&now).take_while(|(a, b)| a == b).count();
    assert!(same > 2_000_000, "the segment is as it was: {same} bytes");
}

#[test]
fn a_start_on_a_full_disk_forgets_nothing_that_was_journaled() {
    for left in [0, 20 * 1024] {
        let Some(disk) = Mounted::tmpfs(64 << 20) else {
            println!("skipped: no tmpfs may be mounted here");
            return;
        };
        let place = Place::new("weir-full-start");
        let dirs = disk.0.path().join("data").display().to_string();
        let broker = Broker::start(&dirs, &place.log);
        let mut client = broker.client();
        client.create("t", 1);
        client.create("gone", 1);
        assert_eq!(client.produce("t", -1, &batch(1, 40_000)), Some((0, 0)));
        assert_eq!(client.produce("gone", -1, &batch(1, 900_000)), Some((0, 0)));
        let ballast = fill(disk.0.path(), left);
        drop(broker);
        let broker = Broker::start(&dirs, &place.log);
        let mut client = broker.client();
        let (found, error) = fetch_all(&mut client, 0, 0);
        assert_eq!((found.len(), error), (1, ErrorCode::None), "{left} left: {}", place.told());
        // A full disk is left by deleting.
        assert_eq!(delete_topic(&mut client, "gone"), 0, "{}", place.told());
        let began = Instant::now();
        while client.produce("t", -1, &batch(1, 100_000)).unwrap().0 != 0 {
            assert!(began.elapsed() < Duration::from_secs(30), "{}", place.told());
            std::thread::sleep(Duration::from_millis(50));
        }
        broker.stop();
        std::fs::remove_file(ballast).unwrap();
        let broker = Broker::start(&dirs, &place.log);
        let (found, error) = fetch_all(&mut broker.client(), 0, 0);
        assert_eq!((found.len(), error), (2, ErrorCode::None));
    }
}

#[test]
fn a_full_disk_is_left_by_deleting_records_and_its_refusals_cost_no_memory() {
    let Some(disk) = Mounted::tmpfs(64 << 20) else {
        println!("skipped: no tmpfs may be mounted here");
        return;
    };
    let place = Place::new("weir-full");
    let dirs = disk.0.path().join("data").display().to_string();
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    client.create("t", 1);
    let bytes = batch(1, 500_000);
    while client.produce("t", -1, &bytes).unwrap().0 == 0 {}
    let small = batch(1, 2_000);
    while client.produce("t", 1, &small).unwrap().0 == 0 {}
    fill(disk.0.path(), 0);
    let before = broker.resident_kb();
    for _ in 0..3_000 {
        assert_eq!(client.produce("t", 1, &small).unwrap().0, REFUSED);
    }
    let after = broker.resident_kb();
    assert!(after < before + 10_000, "resident {before} KiB, then {after} KiB");
    // Down to the end, for which a new file is begun.
    let deleted = delete_records(&mut client, "t", 1);
    assert!(deleted[0].0 == 0 && deleted[0].1 > 10, "{deleted:?}: {}", place.told());
    assert_eq!(client.produce("t", -1, &bytes), Some((0, deleted[0].1)));
}

/// On real file systems, with not a byte left: a start, commits of a group that never was, settings, and deleting,
/// after which it goes on by itself.
fn is_left_by_deleting(mkfs: &str, quietly: &[&str]) {
    let Some((disk, _image)) = Mounted::image(mkfs, quietly, 320 << 20) else {
        println!("skipped: {mkfs} does not work here");
        return;
    };
    let place = Place::new("weir-full-fs");
    let dirs = disk.0.path().join("data").display().to_string();
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    client.create("t", 1);
    client.create("large", 1);
    assert_eq!(client.produce("t", -1, &batch(1, 2_000)), Some((0, 0)));
    let bytes = batch(1, 900_000);
    let mut acknowledged = 0;
    while client.produce("large", -1, &bytes).unwrap().0 == 0 {
        acknowledged += 1;
    }
    while client.produce("t", -1, &batch(1, 60_000)).unwrap().0 == 0 {}
    fill(disk.0.path(), 0);
    let (kept, _) = fetch_all(&mut client, 0, 0);
    let told = || place.told();
    broker.stop();
    drop(Broker::start(&dirs, &place.log));
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    let deleted = delete_records(&mut client, "large", 1);
    assert_eq!(deleted, [(0, acknowledged)], "{mkfs}: {}", told());
    let began = Instant::now();
    loop {
        let answer = client.produce("large", -1, &bytes).unwrap();
        if answer == (0, acknowledged) {
            break;
        }
        assert_eq!(answer.0, REFUSED, "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(30), "{mkfs}: {}", told());
        std::thread::sleep(Duration::from_millis(100));
    }
    // What could not be put in place for want of space is served again.
    loop {
        let (found, error) = fetch_all(&mut client, 0, 0);
        if kept.iter().all(|(base, crc)| found.get(base) == Some(crc)) {
            break;
        }
        let waited = began.elapsed() < Duration::from_secs(30);
        assert!(waited, "{mkfs}: {} of {}, {error:?}: {}", found.len(), kept.len(), told());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(delete_topic(&mut client, "large"), 0, "{mkfs}: {}", told());
    client.create("more", 3);
}

#[test]
fn a_full_disk_is_left_by_deleting_on_ext4() {
    is_left_by_deleting("mkfs.ext4", &["-q", "-F"]);
}

#[test]
fn a_full_disk_is_left_by_deleting_on_xfs() {
    is_left_by_deleting("mkfs.xfs", &["-q", "-f"]);
}

#[test]
fn a_full_disk_is_left_by_deleting_on_btrfs() {
    is_left_by_deleting("mkfs.btrfs", &["-q", "-f"]);
}

#[test]
fn one_path_that_cannot_be_opened_refuses_its_partition_alone() {
    let place = Place::new("weir-path");
    let both = place.dirs(&["a", "b"]);
    let broker = Broker::start(&both, &place.log);
    let mut client = broker.client();
    client.create("t", 4);
    let bytes = batch(1, 1_000);
    assert_eq!(produce_all(&mut client, "t", 4, &bytes), [(0, 0); 4]);
    drop(broker);
    // Journaled, and in no segment yet. Something else has the name of one.
    let partition = std::fs::read_dir(place.data("b").join("partitions")).unwrap().next().unwrap();
    let obstacle = partition.unwrap().path().join("00000000000000000000.log");
    std::fs::create_dir(&obstacle).unwrap();
    let broker = Broker::start(&both, &place.log);
    let mut client = broker.client();
    client.create("other", 1);
    let results = produce_all(&mut client, "t", 4, &bytes);
    let refused = results.iter().filter(|(error, _)| *error == REFUSED).count();
    assert_eq!(refused, 1, "the others of that directory go on: {results:?}");
    broker.stop();
    std::fs::remove_dir(&obstacle).unwrap();
    let broker = Broker::start(&both, &place.log);
    let mut client = broker.client();
    for (partition, (error, _)) in results.iter().enumerate() {
        let (found, told) = fetch_all(&mut client, partition as i32, 0);
        let expected = if *error == 0 { 2 } else { 1 };
        assert_eq!((found.len(), told), (expected, ErrorCode::None), "partition {partition}");
    }
}

/// The number of shards grows, and the start cannot begin one of their journals: what went from one shard to another
/// is still known.
#[test]
fn a_start_that_stops_between_two_shards_forgets_nothing() {
    let place = Place::new("weir-shards");
    let (data, dirs) = (place.data("d"), place.dirs(&["d"]));
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    client.create("t", 2);
    let bytes = batch(7, 100);
    assert_eq!(produce_all(&mut client, "t", 2, &bytes), [(0, 0); 2]);
    assert_eq!(delete_records(&mut client, "t", 2), [(0, 7); 2]);
    broker.stop();
    // A directory in the place of a file: it cannot be opened.
    let obstacle = data.join("journal/1.1");
    std::fs::create_dir(&obstacle).unwrap();
    assert!(Broker::try_start(&dirs, &place.log, "2").is_none(), "it cannot start");
    std::fs::remove_dir(&obstacle).unwrap();
    let broker = Broker::try_start(&dirs, &place.log, "2").expect("it starts");
    assert_eq!(produce_all(&mut broker.client(), "t", 2, &bytes), [(0, 7); 2]);
}

#[test]
fn rot_that_only_deduplication_reads_costs_that_alone() {
    let place = Place::new("weir-producers");
    let (data, dirs) = (place.data("d"), place.dirs(&["d"]));
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    client.create("t", 1);
    for _ in 0..5 {
        assert_eq!(client.produce("t", -1, &batch(3, 1000)).unwrap().0, 0);
    }
    client.create("u", 1);
    assert_eq!(client.produce("u", -1, &batch(3, 1)).unwrap().0, 0);
    broker.stop();
    let length = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    flip(&segments(&data).into_iter().max_by_key(length).unwrap(), 500);
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    assert_eq!(client.produce("u", -1, &batch(3, 1)).unwrap(), (0, 3));
    assert_eq!(client.produce("t", -1, &batch(3, 1)).unwrap(), (0, 15), "it goes on");
    let (_, error) = fetch_all(&mut client, 0, 0);
    assert_ne!(error, ErrorCode::None, "the rotten batch itself is told");
    assert!(place.told().contains("is forgotten"), "{}", place.told());
}

#[test]
fn a_journal_that_is_gone_after_a_kill_is_told_of_every_partition() {
    let place = Place::new("weir-journal");
    let (data, dirs) = (place.data("d"), place.dirs(&["d"]));
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    client.create("t", 1);
    for _ in 0..20 {
        assert_eq!(client.produce("t", -1, &batch(1, 100)).unwrap().0, 0);
    }
    drop(broker);
    let kept = place.dir.path().join("kept");
    for cut_short in [false, true] {
        let file = data.join("journal/0.1");
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&kept, &whole).unwrap();
        if cut_short {
            std::fs::write(&file, &whole[..8192]).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        let copy = place.data("copy");
        let _ = std::fs::remove_dir_all(&copy);
        assert!(Command::new("cp").arg("-a").arg(&data).arg(&copy).status().unwrap().success());
        let broker = Broker::start(&copy.display().to_string(), &place.log);
        let mut client = broker.client();
        assert_eq!(client.produce("t", -1, &batch(1, 100)).unwrap().0, REFUSED, "{cut_short}");
        client.create("other", 1);
        assert_eq!(client.produce("t", -1, &batch(1, 100)).unwrap().0, REFUSED, "still");
        drop(broker);
        std::fs::write(&file, &whole).unwrap();
    }
    let broker = Broker::start(&dirs, &place.log);
    assert_eq!(fetch_all(&mut broker.client(), 0, 0).0.len(), 20, "with its journal all is there");
}

/// Each of two directories is alone for a while, and topics are made; then both are there again.
#[test]
fn directories_that_were_alone_in_turn_lose_no_topic() {
    let place = Place::new("weir-turns");
    let (a, b, both) = (place.dirs(&["a"]), place.dirs(&["b"]), place.dirs(&["a", "b"]));
    let bytes = batch(1, 100);
    let broker = Broker::start(&both, &place.log);
    broker.client().create("t", 2);
    broker.stop();
    let broker = Broker::start(&a, &place.log);
    let mut client = broker.client();
    client.create("x", 1);
    for base in 0..50 {
        assert_eq!(client.produce("x", -1, &bytes), Some((0, base)));
    }
    broker.stop();
    let broker = Broker::start(&b, &place.log);
    let mut client = broker.client();
    for topic in ["y1", "y2", "y3"] {
        client.create(topic, 1);
        assert_eq!(client.produce(topic, -1, &bytes), Some((0, 0)));
    }
    broker.stop();
    let broker = Broker::start(&both, &place.log);
    let mut client = broker.client();
    assert_eq!(client.produce("x", -1, &bytes), Some((0, 50)), "{}", place.told());
    for topic in ["y1", "y2", "y3"] {
        assert_eq!(client.produce(topic, -1, &bytes), Some((0, 1)));
    }
    // Deleted while b is away, it stays deleted once b is back.
    broker.stop();
    let broker = Broker::start(&a, &place.log);
    assert_eq!(delete_topic(&mut broker.client(), "t"), 0);
    broker.stop();
    let broker = Broker::start(&both, &place.log);
    let found = delete_topic(&mut broker.client(), "t");
    assert_eq!(found, ErrorCode::UnknownTopicOrPartition.code());
    let left = std::fs::read_dir(place.data("b").join("partitions")).unwrap().count();
    assert!(left <= 4, "{left} partitions are left in b");
}

#[test]
fn a_value_that_is_too_long_is_refused_and_the_catalog_stays_readable() {
    let place = Place::new("weir-long");
    let dirs = place.dirs(&["d"]);
    let broker = Broker::start(&dirs, &place.log);
    let mut client = broker.client();
    client.create("t", 1);
    assert_eq!(client.produce("t", -1, &batch(3, 1000)).unwrap().0, 0);
    for length in [70_000, 40_000, 5_000] {
        let value = "0".repeat(length) + "1000000";
        let config = CreatableTopicConfig { name: "retention.ms".to_owned(), value: Some(value) };
        let new = CreatableTopic {
            name: "long".to_owned(),
            num_partitions: 1,
            configs: vec![config],
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![new], ..Default::default() };
        let frame = client.frame(wire::ApiKey::CreateTopics, 7, |out| {
            wire::messages::Message::encode(&request, out, 7);
        });
        client.send(&frame);
        // Refused in an answer, or as what no client may send.
        if let Some(payload) = client.receive() {
            let mut body = common::body(&payload, wire::ApiKey::CreateTopics, 7);
            let response: CreateTopicsResponse =
                wire::messages::Message::decode(&mut body, 7).unwrap();
            assert_ne!(response.topics[0].error_code, 0, "{length}");
        }
        client = broker.client();
    }
    broker.stop();
    let broker = Broker::start(&dirs, &place.log);
    assert_eq!(fetch_all(&mut broker.client(), 0, 0).0.len(), 1);
}

/// A start that cannot listen has touched nothing: the next one finds a clean stop.
#[test]
fn a_port_in_use_leaves_the_directory_as_it_was() {
    let place = Place::new("weir-port");
    let dirs = place.dirs(&["d"]);
    let broker = Broker::start(&dirs, &place.log);
    broker.client().create("t", 1);
    broker.stop();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["serve", "--log.dirs", &dirs, "--listeners", &address, "--weir.shards", "1"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot listen"));
    let broker = Broker::start(&dirs, &place.log);
    assert!(!place.told().contains("not stopped cleanly"), "{}", place.told());
    broker.stop();
}
