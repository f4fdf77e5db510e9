//! A raw client: bytes to and from a broker, nothing negotiated.
#![allow(dead_code, clippy::disallowed_methods)]

use model::record_batch::BatchBuilder;
use model::{Compression, ErrorCode, RecordBatch, TopicRef, crc32c};
use runtime::fs::TemporaryDir;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use wire::ApiKey;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::header::{begin_request, finish_frame, read_response_header};
use wire::messages::{CreatableTopic, CreateTopicsRequest, CreateTopicsResponse, Message};
use wire::primitives::Reader;
use wire::produce;

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) correlation_id: i32,
}

impl Client {
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, correlation_id: 0 }
    }

    /// A whole frame with this body.
    pub(crate) fn frame(
        &mut self,
        key: ApiKey,
        version: i16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Vec<u8> {
        self.correlation_id += 1;
        let mut out = Vec::new();
        begin_request(&mut out, key, version, self.correlation_id, "test");
        body(&mut out);
        finish_frame(&mut out, 0, 0);
        out
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker reads");
    }

    /// The next response's payload; `None` if the broker closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut payload = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        Some(payload)
    }

    pub(crate) fn ask<Q: Message, A: Message>(&mut self, request: &Q, version: i16) -> A {
        let frame = self.frame(Q::KEY, version, |out| request.encode(out, version));
        self.send(&frame);
        let payload = self.receive().expect("an answer");
        let (id, mut body) = read_response_header(&payload, Q::KEY, version).unwrap();
        assert_eq!(id, self.correlation_id);
        A::decode(&mut body, version).unwrap()
    }

    pub(crate) fn create(&mut self, topic: &str, partitions: i32) {
        let new = CreatableTopic {
            name: topic.to_owned(),
            num_partitions: partitions,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![new], ..Default::default() };
        let response: CreateTopicsResponse = self.ask(&request, 7);
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    pub(crate) fn produce_frame(
        &mut self,
        topic: &str,
        acks: i16,
        batches: &[(i32, &[u8])],
    ) -> Vec<u8> {
        self.frame(ApiKey::Produce, 9, |out| {
            produce::put_request(
                out,
                9,
                acks,
                1000,
                TopicRef::Name(topic),
                batches.iter().copied(),
            );
        })
    }

    /// (partition, error number, base offset) of each partition; `None` if closed.
    pub(crate) fn produced(&mut self) -> Option<Vec<(i32, i16, i64)>> {
        let payload = self.receive()?;
        let (_, body) = read_response_header(&payload, ApiKey::Produce, 9).unwrap();
        let mut results = Vec::new();
        produce::read_response(body, 9, |_, p, error, base| results.push((p, error.code(), base)))
            .unwrap();
        Some(results)
    }

    pub(crate) fn produce(&mut self, topic: &str, acks: i16, batch: &[u8]) -> Option<(i16, i64)> {
        let frame = self.produce_frame(topic, acks, &[(0, batch)]);
        self.send(&frame);
        self.produced().map(|results| (results[0].1, results[0].2))
    }
}

pub(crate) fn batch(records: u8, value_bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(1_000);
    for record in 0..records {
        builder.push(1_000 + i64::from(record), None, Some(&vec![record; value_bytes]), &[]);
    }
    builder.finish(Compression::None).to_vec()
}

pub(crate) fn body(payload: &[u8], key: ApiKey, version: i16) -> Reader<'_> {
    read_response_header(payload, key, version).unwrap().1
}

/// Every batch of a partition of topic `t` from `offset` on: base offset and checksum of what
/// producers decide; and the error that ended it, if one did.
pub(crate) fn fetch_all(
    client: &mut Client,
    partition: i32,
    offset: i64,
) -> (BTreeMap<i64, u32>, ErrorCode) {
    let mut found = BTreeMap::new();
    let error = visit_all(client, FetchAsk { partition, offset }, |batch, offset| {
        assert!(batch.crc_matches());
        assert!(batch.base_offset().0 <= offset && offset <= batch.last_offset().0);
        found.insert(batch.base_offset().0, crc32c::checksum(&batch.bytes()[16..]));
    });
    (found, error)
}

/// Fetches a partition of topic `t` until nothing more comes, and shows every batch with the offset
/// that was looked for. Returns the error that ended it, if one did.
fn visit_all(
    client: &mut Client,
    mut ask: FetchAsk,
    mut visit: impl FnMut(RecordBatch<'_>, i64),
) -> ErrorCode {
    let limits = FetchLimits {
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: 8 << 20,
        partition_max_bytes: 4 << 20,
        read_committed: false,
    };
    loop {
        let frame = client.frame(ApiKey::Fetch, 12, |out| {
            fetch::put_request(out, 12, limits, "t", model::TopicId::ZERO, &[ask]);
        });
        client.send(&frame);
        let payload = client.receive().expect("an answer");
        let (before, mut error) = (ask.offset, ErrorCode::None);
        fetch::read_response(body(&payload, ApiKey::Fetch, 12), 12, |fetched| {
            error = fetched.error;
            let mut rest = fetched.records;
            while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                visit(batch, ask.offset);
                ask.offset = batch.last_offset().0 + 1;
                rest = tail;
            }
        })
        .unwrap();
        if ask.offset == before || error != ErrorCode::None {
            return error;
        }
    }
}

/// The program with small caches.
pub(crate) fn weir(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    serve(&mut command, args);
    command
}

/// The same, where so many files may be open.
fn weir_with_open_files(files: u64, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(limited).arg(env!("CARGO_BIN_EXE_weir"));
    serve(&mut command, args);
    command
}

fn serve(command: &mut Command, args: &[&str]) {
    command.arg("serve").args(args).args(["--weir.tail.cache.bytes", "4194304"]);
}

/// A running program in a directory of its own; dropping it is kill -9.
pub(crate) struct Broker {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) dir: TemporaryDir,
    args: Vec<String>,
    open_files: Option<u64>,
}

impl Broker {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_under(&std::env::temp_dir(), args)
    }

    /// With its directory under `parent`.
    pub(crate) fn start_under(parent: &Path, args: &[&str]) -> Self {
        Self::start_limited(parent, args, None)
    }

    /// Where so many files may be open.
    pub(crate) fn start_with_open_files(files: u64, args: &[&str]) -> Self {
        Self::start_limited(&std::env::temp_dir(), args, Some(files))
    }

    fn start_limited(parent: &Path, args: &[&str], open_files: Option<u64>) -> Self {
        let dir = TemporaryDir::new(parent, "weir-test").unwrap();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (child, address) = Self::spawn(&dir, &args, open_files);
        Self { child, address, dir, args, open_files }
    }

    fn spawn(dir: &TemporaryDir, args: &[String], open_files: Option<u64>) -> (Child, String) {
        let mut all = vec!["--data-dir", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"];
        all.extend(args.iter().map(String::as_str));
        let mut command = match open_files {
            Some(files) => weir_with_open_files(files, &all),
            None => weir(&all),
        };
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("it starts").to_owned();
        (child, address)
    }

    pub(crate) fn kill_and_start_again(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self.address) = Self::spawn(&self.dir, &self.args, self.open_files);
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.address)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file system of its own, if this machine lets us mount one.
pub(crate) struct Mounted(pub(crate) TemporaryDir);

impl Mounted {
    pub(crate) fn tmpfs(bytes: u64) -> Option<Self> {
        let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-full").unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Mounted {
    /// A file system in a file, made by this program; `None` where it may not be made or mounted.
    pub(crate) fn image(mkfs: &str, quietly: &[&str], bytes: u64) -> Option<(Self, TemporaryDir)> {
        let outside = TemporaryDir::new(&std::env::temp_dir(), "weir-image").unwrap();
        let image = outside.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let ran = |command: &mut Command| {
            let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-full").unwrap();
        let is_made = ran(Command::new(mkfs).args(quietly).arg(&image));
        let mount = || ran(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(dir.path()));
        (is_made && mount()).then(|| (Self(dir), outside))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// A record with its offset, key and value.
pub(crate) type Found = (i64, Vec<u8>, Vec<u8>);

/// Every record of partition 0 of topic `t`; and the error that ended it, if one did.
pub(crate) fn fetch_all_records(client: &mut Client) -> (Vec<Found>, ErrorCode) {
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    let error = visit_all(client, FetchAsk { partition: 0, offset: 0 }, |batch, offset| {
        for record in batch.records(&mut scratch).unwrap() {
            let record = record.unwrap();
            let at = batch.base_offset().0 + i64::from(record.offset_delta);
            if at >= offset {
                let owned = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
                found.push((at, owned(record.key), owned(record.value)));
            }
        }
    });
    (found, error)
}
