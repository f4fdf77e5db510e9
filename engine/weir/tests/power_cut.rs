//! Power cuts under real file systems: ext4, XFS, btrfs on a device that remembers every write and every flush.
//!
//! The device is a FUSE file behind a loop device. While a broker serves a load from it, every block
//! write and flush is kept in order; each acknowledgement notes how many flushes were done. A crash
//! image is what a flush had made safe plus any part of what came later: dropped, torn at 512 bytes,
//! kept. Each is mounted and served again: what was acknowledged before that flush must be there.
//! Needs root, FUSE, loop devices and mkfs; says so and passes where they are not to be had.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use common::{Client, batch};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use model::crc32c;
use runtime::fs::TemporaryDir;
use runtime::random::Random;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};
use wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};

/// XFS makes none smaller than 300 MiB.
const DEVICE_BYTES: u64 = 320 << 20;
/// The load ends there, before the device is full.
const LOAD_BYTES: usize = 60 << 20;
const PARTITIONS: i32 = 6;
const IMAGE: INodeNo = INodeNo(2);

#[derive(Default)]
struct Device {
    bytes: Vec<u8>,
    writes: Vec<(u64, Vec<u8>)>,
    /// For each flush, how many writes were done before it.
    flushes: Vec<usize>,
    /// Every write and flush fails (EIO).
    is_failing: bool,
}

struct DeviceFs(Arc<Mutex<Device>>);

fn attributes(ino: INodeNo) -> FileAttr {
    let is_dir = ino == INodeNo::ROOT;
    FileAttr {
        ino,
        size: if is_dir { 0 } else { DEVICE_BYTES },
        blocks: DEVICE_BYTES / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_dir { FileType::Directory } else { FileType::RegularFile },
        perm: 0o777,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

const FOR_LONG: Duration = Duration::from_secs(3600);

impl Filesystem for DeviceFs {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("disk") => reply.entry(&FOR_LONG, &attributes(IMAGE), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_LONG, &attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let device = self.0.lock().unwrap();
        let from = (offset as usize).min(device.bytes.len());
        let to = (from + size as usize).min(device.bytes.len());
        reply.data(&device.bytes[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut device = self.0.lock().unwrap();
        if device.is_failing {
            reply.error(Errno::EIO);
            return;
        }
        let from = offset as usize;
        device.bytes[from..from + data.len()].copy_from_slice(data);
        device.writes.push((offset, data.to_vec()));
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut device = self.0.lock().unwrap();
        if device.is_failing {
            reply.error(Errno::EIO);
            return;
        }
        let writes = device.writes.len();
        device.flushes.push(writes);
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        // The loop device discards or zeroes a range.
        let mut device = self.0.lock().unwrap();
        let (from, to) = (offset as usize, (offset + length).min(DEVICE_BYTES) as usize);
        device.bytes[from..to].fill(0);
        device.writes.push((offset, vec![0; to - from]));
        reply.ok();
    }
}

fn run(program: &str, args: &[&OsStr]) -> bool {
    let mut command = Command::new(program);
    let status = command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A file system on an image, mounted until dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).ok()?;
        let args = [OsStr::new("-o"), OsStr::new("loop"), image.as_os_str(), at.as_os_str()];
        run("mount", &args).then_some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &[self.0.as_os_str()]);
    }
}

struct Broker(Child, String);

impl Broker {
    fn start(dir: &Path) -> Self {
        Self::start_in(dir.join("data").as_os_str())
    }

    fn start_in(dirs: &OsStr) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["serve", "--listeners", "127.0.0.1:0", "--weir.shards", "1"])
            .args(["--weir.journal.bytes", "25165824", "--weir.tail.cache.bytes", "8388608"])
            .args(["--log.segment.bytes", "1048576", "--log.dirs"])
            .arg(dirs)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("it starts").to_owned();
        Self(child, address)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Acked {
    partition: i32,
    base: i64,
    crc: u32,
    /// Flushes done when it was acknowledged.
    flushes: usize,
}

/// Serves a load for a while; what was acknowledged as durable, and when.
fn load(address: &str, device: &Mutex<Device>, seed: u64) -> Vec<Acked> {
    let mut random = Random::new(seed);
    let mut client = Client::connect(address);
    client.create("t", PARTITIONS);
    let mut acked = Vec::new();
    let until = Instant::now() + Duration::from_millis(1500);
    let mut sent = 0;
    while Instant::now() < until && sent < LOAD_BYTES {
        let chosen: Vec<i32> = (0..PARTITIONS).filter(|_| random.one_in(2)).collect();
        let batches: Vec<(i32, Vec<u8>)> = chosen
            .iter()
            .map(|partition| {
                let large = random.one_in(8);
                let bytes = random.below(if large { 40_000 } else { 1_500 }) as usize;
                (*partition, batch(1 + random.below(4) as u8, bytes))
            })
            .collect();
        if batches.is_empty() {
            continue;
        }
        let views: Vec<_> = batches.iter().map(|(p, bytes)| (*p, &bytes[..])).collect();
        let frame = client.produce_frame("t", -1, &views);
        client.send(&frame);
        sent += frame.len();
        let results = client.produced().expect("answered");
        let flushes = device.lock().unwrap().flushes.len();
        for (partition, error, base) in results {
            assert_eq!(error, 0, "after {sent} bytes");
            let (_, bytes) = batches.iter().find(|(p, _)| *p == partition).expect("asked for");
            acked.push(Acked { partition, base, crc: crc32c::checksum(&bytes[16..]), flushes });
        }
    }
    acked
}

/// Every batch of a partition. The cut may have come before the topic was made: then there is none.
fn fetch_all(client: &mut Client, partition: i32) -> BTreeMap<i64, u32> {
    common::fetch_all(client, partition, 0).0
}

/// What a power cut may leave: all before flush number `flush`, and any part of what came after.
fn write_image(device: &Device, flush: usize, random: &mut Random, to: &Path) {
    let safe = device.flushes[flush];
    let pending = device.flushes.get(flush + 1).map_or(device.writes.len(), |end| *end) - safe;
    let until = safe + random.below(pending as u64 + 1) as usize;
    let mut file = std::fs::File::create(to).unwrap();
    file.set_len(DEVICE_BYTES).unwrap();
    let style = random.below(3);
    for (number, (offset, bytes)) in device.writes[..until].iter().enumerate() {
        let kept = match if number < safe {
            2
        } else if style < 2 {
            style
        } else {
            random.below(3)
        } {
            0 => 0,
            1 => (random.below(bytes.len() as u64 / 512 + 1) * 512) as usize,
            _ => bytes.len(),
        };
        file.seek(SeekFrom::Start(*offset)).unwrap();
        file.write_all(&bytes[..kept]).unwrap();
    }
}

fn mount_device(dir: &Path) -> Option<(BackgroundSession, Arc<Mutex<Device>>)> {
    let at = dir.join("fuse");
    std::fs::create_dir_all(&at).ok()?;
    let bytes = vec![0; DEVICE_BYTES as usize];
    let device = Arc::new(Mutex::new(Device { bytes, ..Device::default() }));
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("weir-device".to_owned())];
    let session = fuser::spawn_mount(DeviceFs(Arc::clone(&device)), &at, &config).ok()?;
    Some((session, device))
}

/// A file system that is tried.
struct FileSystem {
    mkfs: &'static str,
    quietly: &'static [&'static str],
}

const EXT4: FileSystem = FileSystem { mkfs: "mkfs.ext4", quietly: &["-q", "-F"] };
const XFS: FileSystem = FileSystem { mkfs: "mkfs.xfs", quietly: &["-q", "-f"] };
const BTRFS: FileSystem = FileSystem { mkfs: "mkfs.btrfs", quietly: &["-q", "-f"] };

/// A file system on a device that remembers, until dropped.
struct Disk {
    mounted: Mounted,
    session: BackgroundSession,
    device: Arc<Mutex<Device>>,
    dir: TemporaryDir,
}

impl Disk {
    /// `None`, and a line that says why, where this machine does not allow it.
    fn mount(file_system: &FileSystem) -> Option<Self> {
        let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-power").unwrap();
        let Some((session, device)) = mount_device(dir.path()) else {
            println!("skipped: FUSE cannot be mounted here");
            return None;
        };
        let disk = dir.path().join("fuse/disk");
        let quietly = file_system.quietly.iter().map(OsStr::new);
        let args: Vec<&OsStr> = quietly.chain([disk.as_os_str()]).collect();
        if !run(file_system.mkfs, &args) {
            println!("skipped: {} does not work here", file_system.mkfs);
            return None;
        }
        let Some(mounted) = Mounted::new(&disk, dir.path().join("mnt")) else {
            println!("skipped: loop devices cannot be mounted here");
            return None;
        };
        Some(Self { mounted, session, device, dir })
    }
}

#[test]
fn a_failing_disk_takes_its_directory_offline_and_the_other_goes_on() {
    let Some(Disk { mounted, session, device, dir }) = Disk::mount(&EXT4) else { return };
    let sound = dir.path().join("sound");
    let dirs = format!("{},{}", mounted.0.join("data").display(), sound.display());
    let broker = Broker::start_in(OsStr::new(&dirs));
    let mut client = Client::connect(&broker.1);
    client.create("t", PARTITIONS);
    let bytes = batch(3, 500);
    let produce = |client: &mut Client| -> Vec<i16> {
        let all: Vec<_> = (0..PARTITIONS).map(|partition| (partition, &bytes[..])).collect();
        let frame = client.produce_frame("t", -1, &all);
        client.send(&frame);
        let mut errors = vec![0; PARTITIONS as usize];
        for (partition, error, _) in client.produced().expect("answered") {
            errors[partition as usize] = error;
        }
        errors
    };
    assert_eq!(produce(&mut client), [0; PARTITIONS as usize]);
    device.lock().unwrap().is_failing = true;
    let refused = model::ErrorCode::KafkaStorageError.code();
    let errors = produce(&mut client);
    let failed: Vec<usize> =
        (0..errors.len()).filter(|partition| errors[*partition] == refused).collect();
    assert_eq!(failed.len(), PARTITIONS as usize / 2, "{errors:?}");
    device.lock().unwrap().is_failing = false;
    assert_eq!(produce(&mut client), errors, "a disk that failed is not tried again");
    for partition in (0..PARTITIONS).filter(|partition| !failed.contains(&(*partition as usize))) {
        assert_eq!(fetch_all(&mut client, partition).len(), 3, "the others go on");
    }
    drop(broker);
    drop(mounted);
    // Mended: what was acknowledged before is there.
    let disk = dir.path().join("fuse/disk");
    let mounted = Mounted::new(&disk, dir.path().join("mnt")).expect("ext4 recovers");
    let broker = Broker::start_in(OsStr::new(&dirs));
    let mut client = Client::connect(&broker.1);
    for partition in 0..PARTITIONS {
        let found = fetch_all(&mut client, partition).len();
        let acknowledged = if failed.contains(&(partition as usize)) { 1 } else { 3 };
        assert!(found >= acknowledged, "partition {partition}: {found}");
    }
    assert_eq!(produce(&mut client), [0; PARTITIONS as usize]);
    drop(broker);
    drop(mounted);
    drop(session);
}

/// A record that is only written (acks=1) is synced once flush.ms or flush.messages say so, or at once
/// with weir.durability=disk; without them it is not.
#[test]
fn flush_settings_sync_written_records() {
    let Some(Disk { mounted, session, device, .. }) = Disk::mount(&EXT4) else { return };
    let broker = Broker::start(&mounted.0);
    let mut client = Client::connect(&broker.1);
    let bytes = batch(3, 500);
    let mut create = |name: &str, value: &str| {
        let config = CreatableTopicConfig { name: name.to_owned(), value: Some(value.to_owned()) };
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: 1,
            configs: vec![config],
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let response: CreateTopicsResponse = client.ask(&request, 7);
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
        assert_eq!(client.produce(name, 1, &bytes), Some((0, 0)), "makes the files");
    };
    // The last one syncs nothing.
    let settings = [
        ("flush.ms", "50"),
        ("flush.messages", "3"),
        ("weir.durability", "disk"),
        ("segment.bytes", "1048576"),
    ];
    settings.iter().for_each(|(name, value)| create(name, value));
    let flushes = || device.lock().unwrap().flushes.len();
    let mut after = |name: &str| {
        std::thread::sleep(Duration::from_millis(300));
        let before = flushes();
        assert_eq!(client.produce(name, 1, &bytes).map(|(error, _)| error), Some(0));
        std::thread::sleep(Duration::from_millis(300));
        flushes() - before
    };
    for (name, _) in &settings[..3] {
        assert!(after(name) > 0, "{name}");
    }
    // The file system commits by itself every few seconds: not in every attempt.
    assert!((0..5).any(|_| after("segment.bytes") == 0), "nothing asked for a sync");
    drop(broker);
    drop(mounted);
    drop(session);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_under_ext4() {
    survives_power_cuts(&EXT4, 12);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_under_xfs() {
    survives_power_cuts(&XFS, 4);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_under_btrfs() {
    survives_power_cuts(&BTRFS, 4);
}

/// Cuts the power at so many moments, unless `WEIR_IMAGES` says how many.
fn survives_power_cuts(file_system: &FileSystem, images: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (images, seed) =
        (number("WEIR_IMAGES").unwrap_or(images), number("WEIR_SEED").unwrap_or(1));
    let Some(Disk { mounted, session, device, dir }) = Disk::mount(file_system) else { return };
    let broker = Broker::start(&mounted.0);
    let before = device.lock().unwrap().flushes.len();
    let acked = load(&broker.1, &device, seed);
    drop(broker);
    drop(mounted);
    let device = std::mem::take(&mut *device.lock().unwrap());
    drop(session);
    let mut random = Random::new(seed);
    let (mut checked, image) = (0, dir.path().join("crash.img"));
    for number in 0..images {
        let flush = before + random.below((device.flushes.len() - before) as u64) as usize;
        write_image(&device, flush, &mut random, &image);
        let mounted = Mounted::new(&image, dir.path().join("crash"));
        let mounted = mounted.expect("the file system recovers");
        let broker = Broker::start(&mounted.0);
        let mut client = Client::connect(&broker.1);
        let found: Vec<_> = (0..PARTITIONS).map(|p| fetch_all(&mut client, p)).collect();
        for acked in acked.iter().filter(|acked| acked.flushes <= flush + 1) {
            assert_eq!(
                found[acked.partition as usize].get(&acked.base),
                Some(&acked.crc),
                "seed {seed}, image {number}, cut after flush {flush}: partition {}, offset {}",
                acked.partition,
                acked.base
            );
            checked += 1;
        }
        drop(broker);
    }
    println!(
        "{}: {images} crash images of {} writes and {} flushes: {checked} acknowledged batches found; seed {seed}",
        file_system.mkfs,
        device.writes.len(),
        device.flushes.len()
    );
    assert!(checked > 0, "something was acknowledged before the cuts");
}
