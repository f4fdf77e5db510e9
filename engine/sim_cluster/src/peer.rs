//! A client's connection: real frames over a simulated socket, made again after each loss.

use crate::shared::{ADDRESS, Shared};
use client::{receive_frame, within};
use model::{BatchBuilder, Compression, ErrorCode, RecordBatch, TopicRef};
use runtime::buffer::SharedBytes;
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
use runtime::socket::Socket;
use std::rc::Rc;
use std::time::Duration;
use wire::ApiKey;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::header::{begin_request, finish_frame, read_response_header};
use wire::messages::{Message, OffsetFetchRequest, OffsetFetchResponse, OffsetFetchTopic};
use wire::produce;

/// A client gives up an answer after so long.
pub(crate) const PATIENCE: Duration = Duration::from_millis(400);
const CHUNK_BYTES: usize = 64 * 1024;
/// Topics by name.
pub(crate) const FETCH_VERSION: i16 = 12;

struct Open {
    socket: Socket,
    buffer: ReceiveBuffer,
    pool: ReceivePool,
}

/// See the file's first line.
pub(crate) struct Peer {
    shared: Rc<Shared>,
    open: Option<Open>,
    correlation_id: i32,
}

/// What a fetch got of a partition.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) partition: i32,
    pub(crate) error: ErrorCode,
    /// Offsets and values, from the position on.
    pub(crate) records: Vec<(i64, u64)>,
    /// Where to go on.
    pub(crate) next: i64,
    pub(crate) high_watermark: i64,
    pub(crate) last_stable: i64,
}

impl Peer {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        Self { shared: Rc::clone(shared), open: None, correlation_id: 0 }
    }

    /// Ends the connection, if there is one.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    async fn connect(&mut self) -> Option<()> {
        if self.open.is_none() {
            let socket = within(PATIENCE, Socket::connect(ADDRESS)).await?.ok()?;
            let mut pool = ReceivePool::new(CHUNK_BYTES, 2);
            let buffer = ReceiveBuffer::new(&mut pool);
            self.open = Some(Open { socket, buffer, pool });
        }
        Some(())
    }

    /// Sends a request without waiting for anything; false: the connection is gone.
    pub(crate) async fn send(
        &mut self,
        key: ApiKey,
        version: i16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if self.connect().await.is_none() {
            return false;
        }
        self.correlation_id += 1;
        let mut out = Vec::new();
        begin_request(&mut out, key, version, self.correlation_id, "sim");
        body(&mut out);
        finish_frame(&mut out, 0, 0);
        let open = self.open.as_mut().expect("connected above");
        let sent = within(PATIENCE, open.socket.send(&mut vec![SharedBytes::copy_of(&out)])).await;
        let is_sent = matches!(sent, Some(Ok(())));
        if !is_sent {
            self.close();
        }
        is_sent
    }

    /// A request and its answer's frame; `None`: lost, or not waited for.
    pub(crate) async fn exchange(
        &mut self,
        key: ApiKey,
        version: i16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Option<SharedBytes> {
        // Some have no patience: what they asked for may be under way for long.
        let impatient = self.shared.is_troubled() && self.shared.one_in(40);
        let patience = match impatient {
            true => Duration::from_micros(self.shared.below(3_000)),
            false => PATIENCE,
        };
        if !self.send(key, version, body).await {
            self.shared.count(|outcome| outcome.lost_answers += 1);
            return None;
        }
        let number = self.correlation_id;
        self.receive(patience, key, version, number).await
    }

    /// The next answer, which is to be that of this request; `None`: lost, or not waited for.
    pub(crate) async fn receive(
        &mut self,
        patience: Duration,
        key: ApiKey,
        version: i16,
        number: i32,
    ) -> Option<SharedBytes> {
        let Open { socket, buffer, pool } = self.open.as_mut()?;
        let received = within(patience, receive_frame(socket, buffer, pool)).await;
        let Some(frame) = received.and_then(Result::ok) else {
            self.close();
            self.shared.count(|outcome| outcome.lost_answers += 1);
            return None;
        };
        let (id, _) = read_response_header(&frame, key, version).expect("well formed");
        assert_eq!(id, number, "answers come in the order of their requests");
        Some(frame)
    }

    /// The number of the request sent last.
    pub(crate) fn last_number(&self) -> i32 {
        self.correlation_id
    }

    pub(crate) async fn ask<Q: Message, A: Message>(
        &mut self,
        request: &Q,
        version: i16,
    ) -> Option<A> {
        let frame = self.exchange(Q::KEY, version, |out| request.encode(out, version)).await?;
        let (_, mut body) = read_response_header(&frame, Q::KEY, version).expect("well formed");
        Some(A::decode(&mut body, version).expect("well formed"))
    }

    /// How far a group is in a partition, as far as no transaction may still change that.
    pub(crate) async fn committed(
        &mut self,
        group: &str,
        topic: &str,
        partition: i32,
    ) -> Option<(ErrorCode, i64)> {
        let topic = OffsetFetchTopic { name: topic.to_owned(), partition_indexes: vec![partition] };
        let request = OffsetFetchRequest {
            group_id: group.to_owned(),
            topics: Some(vec![topic]),
            require_stable: true,
            ..Default::default()
        };
        let answer: OffsetFetchResponse = self.ask(&request, 7).await?;
        if answer.error_code != 0 {
            return Some((ErrorCode::from_code(answer.error_code), 0));
        }
        let found = &answer.topics[0].partitions[0];
        Some((ErrorCode::from_code(found.error_code), found.committed_offset.max(0)))
    }

    /// What became of a batch, and where it is.
    pub(crate) async fn produce(
        &mut self,
        version: i16,
        transactional_id: Option<&str>,
        acks: i16,
        (topic, partition): (&str, i32),
        batch: &[u8],
    ) -> Option<(ErrorCode, i64)> {
        let parts = std::iter::once((partition, batch));
        let topic = TopicRef::Name(topic);
        let body = |out: &mut Vec<u8>| match transactional_id {
            Some(id) => {
                produce::put_transactional_request(out, version, id, 1000, topic, parts);
            }
            None => produce::put_request(out, version, acks, 1000, topic, parts),
        };
        let frame = self.exchange(ApiKey::Produce, version, body).await?;
        let (_, body) = read_response_header(&frame, ApiKey::Produce, version).expect("as sent");
        let mut result = None;
        produce::read_response(body, version, |_, index, error, base| {
            assert_eq!(index, partition);
            result = Some((error, base));
        })
        .expect("well formed");
        result
    }

    /// The committed records of partitions of a topic from these offsets on, or all.
    pub(crate) async fn fetch(
        &mut self,
        topic: &str,
        from: &[(i32, i64)],
        committed: bool,
        bytes: i32,
    ) -> Option<Vec<Got>> {
        let wait_ms = self.shared.below(60) as i32;
        self.fetch_within(topic, from, committed, bytes, wait_ms).await
    }

    /// The same, with a time that the broker may wait for records.
    pub(crate) async fn fetch_within(
        &mut self,
        topic: &str,
        from: &[(i32, i64)],
        committed: bool,
        bytes: i32,
        max_wait_ms: i32,
    ) -> Option<Vec<Got>> {
        let asks: Vec<FetchAsk> = from
            .iter()
            .map(|(partition, offset)| FetchAsk { partition: *partition, offset: *offset })
            .collect();
        let limits = FetchLimits {
            max_wait_ms,
            min_bytes: 1,
            max_bytes: bytes,
            partition_max_bytes: bytes,
            read_committed: committed,
        };
        let id = model::TopicId::ZERO;
        let body = |out: &mut Vec<u8>| {
            fetch::put_request(out, FETCH_VERSION, limits, topic, id, &asks);
        };
        let frame = match max_wait_ms as u128 > PATIENCE.as_millis() {
            false => self.exchange(ApiKey::Fetch, FETCH_VERSION, body).await?,
            // Who asks for so long a wait has the patience for it.
            true => {
                if !self.send(ApiKey::Fetch, FETCH_VERSION, body).await {
                    return None;
                }
                let patience = Duration::from_millis(max_wait_ms as u64) + PATIENCE;
                let number = self.correlation_id;
                self.receive(patience, ApiKey::Fetch, FETCH_VERSION, number).await?
            }
        };
        let (_, body) =
            read_response_header(&frame, ApiKey::Fetch, FETCH_VERSION).expect("as sent");
        let mut got = Vec::new();
        let error = fetch::read_response(body, FETCH_VERSION, |part| {
            let position = from.iter().find(|(partition, _)| *partition == part.partition);
            got.push(got_of(&part, position.expect("asked for").1, committed));
        });
        assert_eq!(error.expect("well formed"), ErrorCode::None);
        Some(got)
    }
}

/// A batch of one record, sent without a producer id.
pub(crate) fn one_record(value: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(0);
    builder.push(0, None, Some(&value.to_be_bytes()), &[]);
    builder.finish(Compression::None).to_vec()
}

/// What a consumer makes of its part of an answer.
pub(crate) fn got_of(part: &fetch::Fetched<'_>, position: i64, committed: bool) -> Got {
    let mut got = Got {
        partition: part.partition,
        error: part.error,
        records: Vec::new(),
        next: position,
        high_watermark: part.high_watermark,
        last_stable: part.last_stable_offset,
    };
    let mut aborted: Vec<_> = part.aborted.collect();
    aborted.sort_by_key(|transaction| transaction.first_offset);
    let mut hidden = std::collections::BTreeSet::new();
    let mut scratch = Vec::new();
    let mut rest = part.records;
    while let Ok((batch, behind)) = RecordBatch::split_first(rest) {
        rest = behind;
        assert!(batch.crc_matches(), "a batch comes as it was stored");
        let last = batch.last_offset().0;
        // As the Java client does it: from the first record of an aborted transaction to its marker.
        while let Some(transaction) = aborted.first().filter(|a| a.first_offset <= last) {
            hidden.insert(transaction.producer_id);
            aborted.remove(0);
        }
        if last < position {
            continue;
        }
        got.next = last + 1;
        if batch.is_control() {
            hidden.remove(&batch.producer_id());
            continue;
        }
        if committed && batch.is_transactional() && hidden.contains(&batch.producer_id()) {
            continue;
        }
        for record in batch.records(&mut scratch).expect("as it was sent") {
            let record = record.expect("as it was sent");
            let offset = batch.base_offset().0 + i64::from(record.offset_delta);
            let value = record.value.and_then(|value| value.first_chunk());
            if offset >= position {
                got.records.push((offset, u64::from_be_bytes(*value.expect("8 bytes at least"))));
            }
        }
    }
    got
}
