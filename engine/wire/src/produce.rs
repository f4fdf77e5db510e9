//! Path: hot. Produce 3 to 13 over borrowed bytes: nothing is allocated, nothing copied.
//!
//! v5 adds log start offset, v7 zstd, v8 record errors (KIP-467), v9 flexible, v10 leader hints
//! (KIP-951, tagged, not sent), v11 and v12
//! nothing on the wire (KIP-890), v13 topic ids (KIP-516).

use crate::WireError;
use crate::primitives::{Reader, put_count, put_no_tags, put_string};
use model::{ErrorCode, Offset, TopicRef};
use std::sync::Arc;

/// A produce request whose partitions are read as they are iterated.
#[derive(Clone, Copy)]
pub struct ProduceRequest<'a> {
    /// Set by transactional producers only.
    pub transactional_id: Option<&'a str>,
    /// -1 all, 0 none, 1 leader; anything else is the client's error.
    pub acks: i16,
    /// How long the broker may wait for replicas.
    pub timeout_ms: i32,
    topics: Reader<'a>,
    version: i16,
}

/// One partition's records.
#[derive(Clone, Copy)]
pub struct ProducePartition<'a> {
    /// The topic: by name, from v13 by id.
    pub topic: TopicRef<'a>,
    /// The partition in it.
    pub partition: i32,
    /// Its batch, if any.
    pub records: Option<&'a [u8]>,
}

impl<'a> ProduceRequest<'a> {
    /// Reads the head and walks the rest once, so that iterating cannot fail later.
    ///
    /// # Errors
    /// Malformed bytes anywhere in the request.
    pub fn read(mut reader: Reader<'a>, version: i16) -> Result<Self, WireError> {
        let flexible = version >= 9;
        let transactional_id = reader.string(flexible)?;
        let acks = reader.i16()?;
        let timeout_ms = reader.i32()?;
        let request = Self { transactional_id, acks, timeout_ms, topics: reader, version };
        let mut walk = request.walk()?;
        while walk.next_partition()?.is_some() {}
        Ok(request)
    }

    fn walk(&self) -> Result<Walk<'a>, WireError> {
        let (mut reader, version) = (self.topics, self.version);
        let topics_left = reader.count(version >= 9)?.unwrap_or(0);
        let topic = TopicRef::Name("");
        Ok(Walk { reader, version, topics_left, partitions_left: 0, topic, in_topic: false })
    }

    /// The partitions in request order.
    pub fn partitions(&self) -> impl Iterator<Item = ProducePartition<'a>> + use<'a> {
        let mut walk = self.walk().expect("walked when read");
        std::iter::from_fn(move || walk.next_partition().expect("walked when read"))
    }
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    topics_left: usize,
    partitions_left: usize,
    topic: TopicRef<'a>,
    in_topic: bool,
}

impl<'a> Walk<'a> {
    fn next_partition(&mut self) -> Result<Option<ProducePartition<'a>>, WireError> {
        let flexible = self.version >= 9;
        while self.partitions_left == 0 {
            if std::mem::take(&mut self.in_topic) {
                self.reader.skip_tags(flexible)?;
            }
            if self.topics_left == 0 {
                return Ok(None);
            }
            self.topics_left -= 1;
            self.topic = topic_ref(&mut self.reader, self.version)?;
            self.partitions_left = self.reader.count(flexible)?.unwrap_or(0);
            self.in_topic = true;
        }
        self.partitions_left -= 1;
        let partition = self.reader.i32()?;
        let records = self.reader.byte_string(flexible)?;
        self.reader.skip_tags(flexible)?;
        Ok(Some(ProducePartition { topic: self.topic, partition, records }))
    }
}

fn topic_ref<'a>(reader: &mut Reader<'a>, version: i16) -> Result<TopicRef<'a>, WireError> {
    if version >= 13 {
        return reader.topic_id().map(TopicRef::Id);
    }
    Ok(TopicRef::Name(reader.string(version >= 9)?.ok_or(WireError::Null)?))
}

fn put_topic(out: &mut Vec<u8>, topic: TopicRef<'_>, version: i16) {
    match topic {
        TopicRef::Name(name) => put_string(out, Some(name), version >= 9),
        TopicRef::Id(id) => out.extend_from_slice(&id.0),
    }
}

/// What became of one partition's batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceResult {
    /// None, or why not.
    pub error: ErrorCode,
    /// Offset of the batch's first record; -1 on error.
    pub base_offset: i64,
    /// The broker's timestamp for LogAppendTime topics, else -1.
    pub log_append_time: i64,
    /// The partition's first offset; -1 if unknown.
    pub log_start_offset: i64,
    /// Why, in words (v8 on).
    pub message: Option<&'static str>,
    /// The records, by their place in the batch, for which it was refused, where that is known
    /// (v8 on, KIP-467).
    pub bad_records: Option<Arc<[i32]>>,
}

impl ProduceResult {
    /// A refusal.
    #[must_use]
    pub fn refused(error: ErrorCode, message: Option<&'static str>) -> Self {
        Self {
            error,
            base_offset: -1,
            log_append_time: -1,
            log_start_offset: -1,
            message,
            bad_records: None,
        }
    }

    /// An append at `base_offset`; `log_append_time` is -1 unless the broker stamps.
    #[must_use]
    pub fn appended(base_offset: Offset, log_start: Offset, log_append_time: i64) -> Self {
        Self {
            error: ErrorCode::None,
            base_offset: base_offset.0,
            log_append_time,
            log_start_offset: log_start.0,
            message: None,
            bad_records: None,
        }
    }
}

/// Appends the response body: one result for each partition of the request, in its order.
pub fn put_response(
    out: &mut Vec<u8>,
    version: i16,
    request: &ProduceRequest<'_>,
    results: impl IntoIterator<Item = ProduceResult>,
) {
    let flexible = version >= 9;
    let mut results = results.into_iter();
    let mut walk = request.topics;
    let topics = walk.count(flexible).ok().flatten().unwrap_or(0);
    put_count(out, Some(topics), flexible);
    for _ in 0..topics {
        let topic = topic_ref(&mut walk, version).expect("walked when read");
        put_topic(out, topic, version);
        let partitions = walk.count(flexible).ok().flatten().unwrap_or(0);
        put_count(out, Some(partitions), flexible);
        for _ in 0..partitions {
            let index = walk.i32().expect("walked when read");
            walk.byte_string(flexible).and_then(|_| walk.skip_tags(flexible)).expect("walked");
            let result = results.next().expect("one result for each partition");
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(&result.error.code().to_be_bytes());
            out.extend_from_slice(&result.base_offset.to_be_bytes());
            out.extend_from_slice(&result.log_append_time.to_be_bytes());
            if version >= 5 {
                out.extend_from_slice(&result.log_start_offset.to_be_bytes());
            }
            if version >= 8 {
                let bad = result.bad_records.as_deref().unwrap_or_default();
                put_count(out, Some(bad.len()), flexible);
                for index in bad {
                    out.extend_from_slice(&index.to_be_bytes());
                    put_string(out, result.message, flexible);
                    put_no_tags(out, flexible);
                }
                put_string(out, result.message, flexible);
            }
            put_no_tags(out, flexible);
        }
        walk.skip_tags(flexible).expect("walked when read");
        put_no_tags(out, flexible);
    }
    out.extend_from_slice(&0i32.to_be_bytes());
    put_no_tags(out, flexible);
}

/// The client's side: writes a request for one topic, named as the version asks. `partitions` gives
/// index and batch.
pub fn put_request<'b>(
    out: &mut Vec<u8>,
    version: i16,
    acks: i16,
    timeout_ms: i32,
    topic: TopicRef<'_>,
    partitions: impl Iterator<Item = (i32, &'b [u8])> + Clone,
) {
    let parts = partitions.map(|(partition, batch)| (topic, partition, batch));
    put_topics_request(out, version, acks, timeout_ms, parts);
}

/// The client's side: as `put_request` with acks=all, in a transaction.
pub fn put_transactional_request<'b>(
    out: &mut Vec<u8>,
    version: i16,
    transactional_id: &str,
    timeout_ms: i32,
    topic: TopicRef<'_>,
    partitions: impl Iterator<Item = (i32, &'b [u8])> + Clone,
) {
    let parts = partitions.map(|(partition, batch)| (topic, partition, batch));
    put_string(out, Some(transactional_id), version >= 9);
    put_behind_id(out, version, -1, timeout_ms, parts);
}

/// The client's side: as `put_request`, to several topics. Neighbours of one topic share its head.
pub fn put_topics_request<'t, 'b>(
    out: &mut Vec<u8>,
    version: i16,
    acks: i16,
    timeout_ms: i32,
    parts: impl Iterator<Item = (TopicRef<'t>, i32, &'b [u8])> + Clone,
) {
    put_string(out, None, version >= 9);
    put_behind_id(out, version, acks, timeout_ms, parts);
}

fn put_behind_id<'t, 'b>(
    out: &mut Vec<u8>,
    version: i16,
    acks: i16,
    timeout_ms: i32,
    parts: impl Iterator<Item = (TopicRef<'t>, i32, &'b [u8])> + Clone,
) {
    let flexible = version >= 9;
    out.extend_from_slice(&acks.to_be_bytes());
    out.extend_from_slice(&timeout_ms.to_be_bytes());
    let (mut topics, mut last) = (0, None);
    for (topic, ..) in parts.clone() {
        topics += usize::from(last.replace(topic) != Some(topic));
    }
    put_count(out, Some(topics), flexible);
    let mut rest = parts.peekable();
    while let Some((topic, ..)) = rest.peek().copied() {
        put_topic(out, topic, version);
        let same = rest.clone().take_while(|(other, ..)| *other == topic).count();
        put_count(out, Some(same), flexible);
        for (_, index, batch) in rest.by_ref().take(same) {
            out.extend_from_slice(&index.to_be_bytes());
            put_count(out, Some(batch.len()), flexible);
            out.extend_from_slice(batch);
            put_no_tags(out, flexible);
        }
        put_no_tags(out, flexible);
    }
    put_no_tags(out, flexible);
}

/// The client's side: visits (partition, error, base offset) of a response.
///
/// # Errors
/// Malformed bytes.
pub fn read_response<'a>(
    mut reader: Reader<'a>,
    version: i16,
    mut visit: impl FnMut(TopicRef<'a>, i32, ErrorCode, i64),
) -> Result<(), WireError> {
    let flexible = version >= 9;
    for _ in 0..reader.count(flexible)?.unwrap_or(0) {
        let topic = topic_ref(&mut reader, version)?;
        for _ in 0..reader.count(flexible)?.unwrap_or(0) {
            let (index, error, base) = (reader.i32()?, reader.i16()?, reader.i64()?);
            reader.i64()?;
            if version >= 5 {
                reader.i64()?;
            }
            if version >= 8 {
                for _ in 0..reader.count(flexible)?.unwrap_or(0) {
                    reader.i32()?;
                    reader.string(flexible)?;
                    reader.skip_tags(flexible)?;
                }
                reader.string(flexible)?;
            }
            reader.skip_tags(flexible)?;
            visit(topic, index, ErrorCode::from_code(error), base);
        }
        reader.skip_tags(flexible)?;
    }
    reader.i32()?;
    reader.skip_tags(flexible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages as theirs;
    use kafka_protocol::protocol::{Decodable, Encodable};

    #[test]
    fn requests_and_responses_agree_with_an_independent_codec() {
        for version in 3..=13 {
            let mut ours = Vec::new();
            let batches = [(0, &b"first"[..]), (5, b"second"), (2, b"")];
            let id = TopicRef::Id(model::TopicId::from_random([7; 16]));
            let topic = if version >= 13 { id } else { TopicRef::Name("topic") };
            put_request(&mut ours, version, -1, 1500, topic, batches.into_iter());
            let request = theirs::ProduceRequest::decode(&mut &ours[..], version).unwrap();
            assert_eq!(request.timeout_ms, 1500);
            let mut bytes = Vec::new();
            request.encode(&mut bytes, version).unwrap();
            assert_eq!(bytes, ours, "v{version}");

            let request = ProduceRequest::read(Reader::new(&ours), version).unwrap();
            let seen: Vec<_> = request.partitions().map(|p| (p.partition, p.records)).collect();
            assert_eq!(seen, batches.map(|(i, b)| (i, Some(b))));
            assert_eq!((request.acks, request.transactional_id), (-1, None));

            let results = [
                ProduceResult::appended(Offset(7), Offset(1), -1),
                ProduceResult {
                    bad_records: Some(Arc::new([3, 5])),
                    ..ProduceResult::refused(ErrorCode::CorruptMessage, Some("bad"))
                },
                ProduceResult::appended(Offset(8), Offset(2), 1_700_000_000_000),
            ];
            let mut ours = Vec::new();
            put_response(&mut ours, version, &request, results);
            let response = theirs::ProduceResponse::decode(&mut &ours[..], version).unwrap();
            let mut bytes = Vec::new();
            response.encode(&mut bytes, version).unwrap();
            assert_eq!(bytes, ours, "v{version}");
            let mut seen = Vec::new();
            read_response(Reader::new(&ours), version, |_, p, e, o| seen.push((p, e, o))).unwrap();
            assert_eq!(
                seen,
                [
                    (0, ErrorCode::None, 7),
                    (5, ErrorCode::CorruptMessage, -1),
                    (2, ErrorCode::None, 8)
                ]
            );
        }
    }

    #[test]
    fn every_cut_is_an_error_and_no_damage_panics() {
        let mut bytes = Vec::new();
        put_request(&mut bytes, 9, 1, 1, TopicRef::Name("t"), [(0, &b"records"[..])].into_iter());
        for cut in 0..bytes.len() {
            assert!(
                ProduceRequest::read(Reader::new(&bytes[..cut]), 9).is_err()
                    || cut + 1 == bytes.len()
            );
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                if let Ok(request) = ProduceRequest::read(Reader::new(&damaged), 9) {
                    let results =
                        request.partitions().map(|_| ProduceResult::refused(ErrorCode::None, None));
                    put_response(&mut Vec::new(), 9, &request, results);
                }
            }
        }
    }

    #[test]
    fn neighbours_of_a_topic_share_its_head() {
        let (a, b) = (TopicRef::Name("a"), TopicRef::Name("b"));
        let parts = [(a, 0, &b"x"[..]), (a, 3, &b"y"[..]), (b, 0, &b"z"[..])];
        for version in [3, 8, 9, 12] {
            let mut bytes = Vec::new();
            put_topics_request(&mut bytes, version, 1, 1000, parts.into_iter());
            let request = theirs::ProduceRequest::decode(&mut &bytes[..], version).unwrap();
            assert_eq!(request.topic_data.len(), 2, "v{version}");
            let mut again = Vec::new();
            request.encode(&mut again, version).unwrap();
            assert_eq!(again, bytes, "v{version}");
            let request = ProduceRequest::read(Reader::new(&bytes), version).unwrap();
            let seen: Vec<_> =
                request.partitions().map(|p| (p.topic, p.partition, p.records.unwrap())).collect();
            assert_eq!(seen, parts, "v{version}");
        }
    }
}
