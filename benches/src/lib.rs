//! What the benches share: batches of a known shape, and a client that does nothing of its own.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods)]

use model::record_batch::BatchBuilder;
use model::{Compression, ErrorCode};
use std::io::{Read, Write};
use std::net::TcpStream;
use wire::ApiKey;
use wire::fetch::{FetchLimits, FetchResult};
use wire::header::{begin_request, finish_frame};
use wire::messages::{CreatableTopic, CreateTopicsRequest, Message};

/// What a consumer of the usual settings asks for.
pub const FETCH_LIMITS: FetchLimits = FetchLimits {
    max_wait_ms: 500,
    min_bytes: 1,
    max_bytes: 1 << 20,
    partition_max_bytes: 1 << 20,
    read_committed: false,
};

/// The answer for a partition that has 1 KiB of records.
#[must_use]
pub fn fetched() -> FetchResult {
    FetchResult {
        error: ErrorCode::None,
        last_stable_offset: 0,
        high_watermark: 9,
        log_start_offset: 0,
        records_bytes: 1024,
    }
}

/// A batch of `records` values of `value_bytes` bytes that no codec can shrink.
#[must_use]
pub fn batch(records: u32, value_bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    let mut random = runtime::random::Random::new(7);
    let mut value = vec![0; value_bytes];
    builder.begin(1_700_000_000_000);
    for record in 0..records {
        random.fill(&mut value);
        builder.push(1_700_000_000_000 + i64::from(record), None, Some(&value), &[]);
    }
    builder.finish(Compression::None).to_vec()
}

/// A client that allocates nothing while it counts.
pub struct Client {
    stream: TcpStream,
    memory: Vec<u8>,
}

impl Client {
    /// # Panics
    /// If the socket is closed already.
    #[must_use]
    pub fn new(stream: TcpStream, answer_bytes_max: usize) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self { stream, memory: vec![0; answer_bytes_max] }
    }

    /// Sends a frame; the answer's bytes, without their length.
    ///
    /// # Panics
    /// If the server goes, or answers with more than was reckoned with.
    pub fn exchange(&mut self, frame: &[u8]) -> &[u8] {
        self.stream.write_all(frame).expect("the broker reads");
        self.stream.read_exact(&mut self.memory[..4]).expect("an answer");
        let length = u32::from_be_bytes(self.memory[..4].try_into().expect("4 bytes")) as usize;
        self.stream.read_exact(&mut self.memory[..length]).expect("an answer");
        &self.memory[..length]
    }
}

/// A whole request.
pub fn frame(key: ApiKey, version: i16, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    begin_request(&mut out, key, version, 1, "benches");
    body(&mut out);
    finish_frame(&mut out, 0, 0);
    out
}

/// Makes a topic.
pub fn create_topic(client: &mut Client, name: &str, partitions: i32) {
    let topic = CreatableTopic {
        name: name.to_owned(),
        num_partitions: partitions,
        replication_factor: 1,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    client.exchange(&frame(ApiKey::CreateTopics, 7, |out| request.encode(out, 7)));
}
