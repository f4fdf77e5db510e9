//! Path: hot. Fetch 4 to 18 over borrowed bytes; records are sent beside the response, not copied.
//!
//! v5 log start offset, v7 sessions (KIP-227), v9 leader epochs, v11 rack,
//! v12 flexible, v13 topic ids (KIP-516), v15 replica id becomes a tag, v16 to v18 tags only.

use crate::WireError;
use crate::primitives::{Reader, put_count, put_no_tags, put_string};
use model::varint::put_unsigned;
use model::{ErrorCode, TopicId, TopicRef};

/// A fetch request whose partitions are read as they are iterated.
#[derive(Clone, Copy)]
pub struct FetchRequest<'a> {
    /// Below 0 for consumers; others may not pose as followers.
    pub replica_id: i32,
    /// Longest wait for `min_bytes`.
    pub max_wait_ms: i32,
    /// Answer once this many bytes are there.
    pub min_bytes: i32,
    /// Most bytes of all partitions together (the first batch may exceed it, KIP-74).
    pub max_bytes: i32,
    /// 0 read_uncommitted, 1 read_committed.
    pub isolation_level: i8,
    /// The session asked for; 0 for none.
    pub session_id: i32,
    /// -1 no session, 0 new session, above 0 incremental.
    pub session_epoch: i32,
    topics: Reader<'a>,
    forgotten: Reader<'a>,
    version: i16,
}

/// One partition asked for.
#[derive(Clone, Copy, Debug)]
pub struct FetchPartition<'a> {
    /// The topic.
    pub topic: TopicRef<'a>,
    /// The partition in it.
    pub partition: i32,
    /// What the consumer believes; -1 for no check (KIP-320).
    pub current_leader_epoch: i32,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Most bytes of this partition (the first batch may exceed it).
    pub partition_max_bytes: i32,
}

impl<'a> FetchRequest<'a> {
    /// Reads the head and walks the rest once, so that iterating cannot fail later.
    ///
    /// # Errors
    /// Malformed bytes anywhere in the request.
    pub fn read(mut reader: Reader<'a>, version: i16) -> Result<Self, WireError> {
        let replica_id = if version <= 14 { reader.i32()? } else { -1 };
        let (max_wait_ms, min_bytes, max_bytes) = (reader.i32()?, reader.i32()?, reader.i32()?);
        let isolation_level = reader.i8()?;
        let (mut session_id, mut session_epoch) = (0, -1);
        if version >= 7 {
            (session_id, session_epoch) = (reader.i32()?, reader.i32()?);
        }
        let mut request = Self {
            replica_id,
            max_wait_ms,
            min_bytes,
            max_bytes,
            isolation_level,
            session_id,
            session_epoch,
            topics: reader,
            forgotten: reader,
            version,
        };
        let mut walk = request.walk()?;
        while walk.next_partition()?.is_some() {}
        let mut reader = walk.reader;
        request.forgotten = reader;
        let flexible = version >= 12;
        if version >= 7 {
            for _ in 0..reader.count(flexible)?.unwrap_or(0) {
                topic_ref(&mut reader, version)?;
                for _ in 0..reader.count(flexible)?.unwrap_or(0) {
                    reader.i32()?;
                }
                reader.skip_tags(flexible)?;
            }
        }
        if version >= 11 {
            reader.string(flexible)?;
        }
        if version >= 15 {
            request.replica_id = replica_state(&mut reader)?.unwrap_or(-1);
        } else {
            reader.skip_tags(flexible)?;
        }
        Ok(request)
    }

    fn walk(&self) -> Result<Walk<'a>, WireError> {
        let mut reader = self.topics;
        let topics_left = reader.count(self.version >= 12)?.unwrap_or(0);
        Ok(Walk {
            reader,
            version: self.version,
            topics_left,
            partitions_left: 0,
            topic: TopicRef::Name(""),
            in_topic: false,
        })
    }

    /// The partitions in request order.
    pub fn partitions(&self) -> impl Iterator<Item = FetchPartition<'a>> + use<'a> {
        let mut walk = self.walk().expect("walked when read");
        std::iter::from_fn(move || walk.next_partition().expect("walked when read"))
    }

    /// Visits the partitions that leave the session.
    pub fn forgotten(&self, mut visit: impl FnMut(TopicRef<'a>, i32)) {
        const WALKED: &str = "walked when read";
        let (mut reader, flexible) = (self.forgotten, self.version >= 12);
        let topics = if self.version >= 7 { reader.count(flexible).expect(WALKED) } else { None };
        for _ in 0..topics.unwrap_or(0) {
            let topic = topic_ref(&mut reader, self.version).expect(WALKED);
            for _ in 0..reader.count(flexible).expect(WALKED).unwrap_or(0) {
                visit(topic, reader.i32().expect(WALKED));
            }
            reader.skip_tags(flexible).expect(WALKED);
        }
    }
}

/// The broker id in the ReplicaState tag (1) of a v15 request, if it has one.
fn replica_state(reader: &mut Reader<'_>) -> Result<Option<i32>, WireError> {
    let mut replica = None;
    for _ in 0..reader.unsigned()? {
        let tag = reader.unsigned()?;
        let bytes = reader.unsigned()? as usize;
        let mut field = Reader::new(reader.take(bytes)?);
        if tag == 1 {
            replica = Some(field.i32()?);
        }
    }
    Ok(replica)
}

fn topic_ref<'a>(reader: &mut Reader<'a>, version: i16) -> Result<TopicRef<'a>, WireError> {
    if version >= 13 {
        return reader.topic_id().map(TopicRef::Id);
    }
    Ok(TopicRef::Name(reader.string(version >= 12)?.ok_or(WireError::Null)?))
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
    fn next_partition(&mut self) -> Result<Option<FetchPartition<'a>>, WireError> {
        let (version, flexible) = (self.version, self.version >= 12);
        let reader = &mut self.reader;
        while self.partitions_left == 0 {
            if std::mem::take(&mut self.in_topic) {
                reader.skip_tags(flexible)?;
            }
            if self.topics_left == 0 {
                return Ok(None);
            }
            self.topics_left -= 1;
            self.topic = topic_ref(reader, version)?;
            self.partitions_left = reader.count(flexible)?.unwrap_or(0);
            self.in_topic = true;
        }
        self.partitions_left -= 1;
        let partition = reader.i32()?;
        let current_leader_epoch = if version >= 9 { reader.i32()? } else { -1 };
        let fetch_offset = reader.i64()?;
        if version >= 12 {
            reader.i32()?;
        }
        if version >= 5 {
            reader.i64()?;
        }
        let partition_max_bytes = reader.i32()?;
        reader.skip_tags(flexible)?;
        Ok(Some(FetchPartition {
            topic: self.topic,
            partition,
            current_leader_epoch,
            fetch_offset,
            partition_max_bytes,
        }))
    }
}

/// What one partition's part of the response says; its records follow as `records_bytes` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchResult {
    /// None, or why there are no records.
    pub error: ErrorCode,
    /// First offset not yet visible; -1 if unknown.
    pub high_watermark: i64,
    /// First offset that readers of committed records may not see yet (KIP-98); -1 if unknown.
    pub last_stable_offset: i64,
    /// First offset kept; -1 if unknown.
    pub log_start_offset: i64,
    /// Bytes of records.
    pub records_bytes: usize,
}

impl FetchResult {
    /// No records, because of `error`.
    #[must_use]
    pub fn refused(error: ErrorCode) -> Self {
        Self {
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            records_bytes: 0,
        }
    }
}

/// An aborted transaction that has records in what is sent: its reader leaves them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer_id: i64,
    /// Its first record.
    pub first_offset: i64,
}

/// What a response says of the fetch as a whole.
#[derive(Clone, Copy)]
pub struct FetchHead<'s> {
    /// None, or why there is nothing at all.
    pub error: ErrorCode,
    /// The session to go on with; 0: none.
    pub session_id: i32,
    /// Which partitions, in request order, are worth telling; `None`: all.
    pub told: Option<&'s [bool]>,
}

/// Appends the response body. `results` gives one result for each partition in request order;
/// after the own bytes of each that is told `cut` gets the position in `out` where its records
/// belong. `aborted` gives each one's aborted transactions by its place in the request.
pub fn put_response<'a>(
    out: &mut Vec<u8>,
    version: i16,
    request: &FetchRequest<'_>,
    head: FetchHead<'_>,
    results: impl IntoIterator<Item = FetchResult>,
    aborted: impl Fn(usize) -> &'a [AbortedTransaction],
    mut cut: impl FnMut(usize),
) {
    let flexible = version >= 12;
    let mut results = results.into_iter();
    out.extend_from_slice(&0i32.to_be_bytes());
    if version >= 7 {
        out.extend_from_slice(&head.error.code().to_be_bytes());
        out.extend_from_slice(&head.session_id.to_be_bytes());
    }
    let mut walk = request.walk().expect(WALKED);
    let topics = if head.error == ErrorCode::None { walk.topics_left } else { 0 };
    let told = |from: usize, count: usize| match head.told {
        Some(told) => told[from..from + count].iter().filter(|told| **told).count(),
        None => count,
    };
    let topics_told = match head.told {
        None => topics,
        Some(_) => topics_told(&walk, version, topics, told),
    };
    put_count(out, Some(topics_told), flexible);
    let mut index = 0;
    for _ in 0..topics {
        // Position the walk at the next topic's head by reading it here.
        let topic = topic_ref(&mut walk.reader, version).expect(WALKED);
        let partitions = walk.reader.count(flexible).expect(WALKED).unwrap_or(0);
        let partitions_told = told(index, partitions);
        if partitions_told > 0 || head.told.is_none() {
            match topic {
                TopicRef::Id(id) => out.extend_from_slice(&id.0),
                TopicRef::Name(name) => put_string(out, Some(name), flexible),
            }
            put_count(out, Some(partitions_told), flexible);
        }
        walk.partitions_left = partitions;
        for _ in 0..partitions {
            let asked = walk.next_partition().ok().flatten().expect(WALKED);
            let result = results.next().expect("one result for each partition");
            index += 1;
            if head.told.is_some_and(|told| !told[index - 1]) {
                continue;
            }
            // For read_uncommitted Kafka sends null.
            let aborted = (request.isolation_level == 1).then(|| aborted(index - 1));
            put_result(out, version, asked.partition, result, aborted);
            cut(out.len());
            put_no_tags(out, flexible);
        }
        walk.reader.skip_tags(flexible).expect(WALKED);
        if partitions_told > 0 || head.told.is_none() {
            put_no_tags(out, flexible);
        }
    }
    put_no_tags(out, flexible);
}

const WALKED: &str = "walked when read";

/// How many of the next topics have a partition that is told; `told` counts those from a place in the request on.
fn topics_told(
    walk: &Walk<'_>,
    version: i16,
    topics: usize,
    told: impl Fn(usize, usize) -> usize,
) -> usize {
    let flexible = version >= 12;
    let (mut reader, mut index, mut topics_told) = (walk.reader, 0, 0);
    for _ in 0..topics {
        topic_ref(&mut reader, version).expect(WALKED);
        let count = reader.count(flexible).expect(WALKED).unwrap_or(0);
        topics_told += usize::from(told(index, count) > 0);
        index += count;
        let mut topic = Walk { reader, partitions_left: count, ..*walk };
        for _ in 0..count {
            topic.next_partition().expect(WALKED);
        }
        reader = topic.reader;
        reader.skip_tags(flexible).expect(WALKED);
    }
    topics_told
}

fn put_result(
    out: &mut Vec<u8>,
    version: i16,
    partition: i32,
    result: FetchResult,
    aborted: Option<&[AbortedTransaction]>,
) {
    let flexible = version >= 12;
    out.extend_from_slice(&partition.to_be_bytes());
    out.extend_from_slice(&result.error.code().to_be_bytes());
    out.extend_from_slice(&result.high_watermark.to_be_bytes());
    out.extend_from_slice(&result.last_stable_offset.to_be_bytes());
    if version >= 5 {
        out.extend_from_slice(&result.log_start_offset.to_be_bytes());
    }
    put_count(out, aborted.map(<[_]>::len), flexible);
    for transaction in aborted.unwrap_or_default() {
        out.extend_from_slice(&transaction.producer_id.to_be_bytes());
        out.extend_from_slice(&transaction.first_offset.to_be_bytes());
        put_no_tags(out, flexible);
    }
    if version >= 11 {
        out.extend_from_slice(&(-1i32).to_be_bytes());
    }
    if flexible {
        put_unsigned(out, result.records_bytes as u64 + 1);
    } else {
        out.extend_from_slice(&(result.records_bytes as i32).to_be_bytes());
    }
}

/// Writes the body of the full request that an incremental one stands for: limits of `request`,
/// partitions of the session.
pub fn put_full_request<'p>(
    out: &mut Vec<u8>,
    version: i16,
    request: &FetchRequest<'_>,
    partitions: impl Iterator<Item = FetchPartition<'p>> + Clone,
) {
    let flexible = version >= 12;
    if version <= 14 {
        out.extend_from_slice(&request.replica_id.to_be_bytes());
    }
    out.extend_from_slice(&request.max_wait_ms.to_be_bytes());
    out.extend_from_slice(&request.min_bytes.to_be_bytes());
    out.extend_from_slice(&request.max_bytes.to_be_bytes());
    out.push(request.isolation_level as u8);
    if version >= 7 {
        out.extend_from_slice(&request.session_id.to_be_bytes());
        out.extend_from_slice(&request.session_epoch.to_be_bytes());
    }
    // Neighbours of one topic share its head.
    let mut topics = 0;
    let mut last = None;
    for partition in partitions.clone() {
        if last.replace(partition.topic) != Some(partition.topic) {
            topics += 1;
        }
    }
    put_count(out, Some(topics), flexible);
    let mut rest = partitions.peekable();
    while let Some(first) = rest.peek().copied() {
        match first.topic {
            TopicRef::Id(id) => out.extend_from_slice(&id.0),
            TopicRef::Name(name) => put_string(out, Some(name), flexible),
        }
        let same = rest.clone().take_while(|p| p.topic == first.topic).count();
        put_count(out, Some(same), flexible);
        for asked in rest.by_ref().take(same) {
            out.extend_from_slice(&asked.partition.to_be_bytes());
            if version >= 9 {
                out.extend_from_slice(&asked.current_leader_epoch.to_be_bytes());
            }
            out.extend_from_slice(&asked.fetch_offset.to_be_bytes());
            if version >= 12 {
                out.extend_from_slice(&(-1i32).to_be_bytes());
            }
            if version >= 5 {
                out.extend_from_slice(&(-1i64).to_be_bytes());
            }
            out.extend_from_slice(&asked.partition_max_bytes.to_be_bytes());
            put_no_tags(out, flexible);
        }
        put_no_tags(out, flexible);
    }
    if version >= 7 {
        put_count(out, Some(0), flexible);
    }
    if version >= 11 {
        put_string(out, Some(""), flexible);
    }
    put_no_tags(out, flexible);
}

/// The client's side: one partition to ask for.
#[derive(Clone, Copy, Debug)]
pub struct FetchAsk {
    /// The partition.
    pub partition: i32,
    /// First offset wanted.
    pub offset: i64,
}

/// The client's side: limits of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Longest wait for `min_bytes`.
    pub max_wait_ms: i32,
    /// Answer once this many bytes are there.
    pub min_bytes: i32,
    /// Most bytes in all.
    pub max_bytes: i32,
    /// Most bytes of one partition.
    pub partition_max_bytes: i32,
    /// Only what is committed (isolation level 1).
    pub read_committed: bool,
}

/// The client's side: writes a sessionless request for one topic (v4 to v18).
pub fn put_request(
    out: &mut Vec<u8>,
    version: i16,
    limits: FetchLimits,
    topic: &str,
    topic_id: TopicId,
    partitions: &[FetchAsk],
) {
    let topic = if version >= 13 { TopicRef::Id(topic_id) } else { TopicRef::Name(topic) };
    put_topics_request(out, version, limits, partitions.iter().map(|ask| (topic, *ask)));
}

/// The client's side: as `put_request`, of several topics. Neighbours of one topic share its head.
pub fn put_topics_request<'t>(
    out: &mut Vec<u8>,
    version: i16,
    limits: FetchLimits,
    partitions: impl Iterator<Item = (TopicRef<'t>, FetchAsk)> + Clone,
) {
    let request = FetchRequest {
        replica_id: -1,
        max_wait_ms: limits.max_wait_ms,
        min_bytes: limits.min_bytes,
        max_bytes: limits.max_bytes,
        isolation_level: i8::from(limits.read_committed),
        session_id: 0,
        session_epoch: -1,
        topics: Reader::new(&[]),
        forgotten: Reader::new(&[]),
        version,
    };
    let asked = partitions.map(|(topic, ask)| FetchPartition {
        topic,
        partition: ask.partition,
        current_leader_epoch: -1,
        fetch_offset: ask.offset,
        partition_max_bytes: limits.partition_max_bytes,
    });
    put_full_request(out, version, &request, asked);
}

/// The client's side: one partition's part of a response.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<'a> {
    /// The topic.
    pub topic: TopicRef<'a>,
    /// The partition in it.
    pub partition: i32,
    /// None, or why there are no records.
    pub error: ErrorCode,
    /// First offset not yet visible.
    pub high_watermark: i64,
    /// First offset that readers of committed records may not see yet.
    pub last_stable_offset: i64,
    /// Aborted transactions with records here, if only committed records were asked for.
    pub aborted: AbortedTransactions<'a>,
    /// Batches; the last may be cut.
    pub records: &'a [u8],
}

/// The aborted transactions of a response, read as they are iterated.
#[derive(Clone, Copy, Debug)]
pub struct AbortedTransactions<'a> {
    reader: Reader<'a>,
    left: usize,
    flexible: bool,
}

impl Iterator for AbortedTransactions<'_> {
    type Item = AbortedTransaction;

    fn next(&mut self) -> Option<AbortedTransaction> {
        const WALKED: &str = "walked when read";
        self.left = self.left.checked_sub(1)?;
        let producer_id = self.reader.i64().expect(WALKED);
        let first_offset = self.reader.i64().expect(WALKED);
        self.reader.skip_tags(self.flexible).expect(WALKED);
        Some(AbortedTransaction { producer_id, first_offset })
    }
}

/// The client's side: visits the partitions of a response; returns the top-level error.
///
/// # Errors
/// Malformed bytes.
pub fn read_response<'a>(
    mut reader: Reader<'a>,
    version: i16,
    mut visit: impl FnMut(Fetched<'a>),
) -> Result<ErrorCode, WireError> {
    let flexible = version >= 12;
    reader.i32()?;
    let mut top_error = ErrorCode::None;
    if version >= 7 {
        top_error = ErrorCode::from_code(reader.i16()?);
        reader.i32()?;
    }
    for _ in 0..reader.count(flexible)?.unwrap_or(0) {
        let topic = topic_ref(&mut reader, version)?;
        for _ in 0..reader.count(flexible)?.unwrap_or(0) {
            let partition = reader.i32()?;
            let error = ErrorCode::from_code(reader.i16()?);
            let (high_watermark, last_stable_offset) = (reader.i64()?, reader.i64()?);
            if version >= 5 {
                reader.i64()?;
            }
            let left = reader.count(flexible)?.unwrap_or(0);
            let aborted = AbortedTransactions { reader, left, flexible };
            for _ in 0..left {
                reader.i64()?;
                reader.i64()?;
                reader.skip_tags(flexible)?;
            }
            if version >= 11 {
                reader.i32()?;
            }
            let records = reader.byte_string(flexible)?.unwrap_or_default();
            reader.skip_tags(flexible)?;
            visit(Fetched {
                topic,
                partition,
                error,
                high_watermark,
                last_stable_offset,
                aborted,
                records,
            });
        }
        reader.skip_tags(flexible)?;
    }
    reader.skip_tags(flexible)?;
    Ok(top_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages as theirs;
    use kafka_protocol::protocol::{Decodable, Encodable};

    const WHOLE: FetchHead<'_> = FetchHead { error: ErrorCode::None, session_id: 0, told: None };
    const LIMITS: FetchLimits = FetchLimits {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partition_max_bytes: 9,
        read_committed: true,
    };

    #[test]
    fn requests_and_responses_agree_with_an_independent_codec() {
        let id = TopicId::from_random([3; 16]);
        for version in 4..=18 {
            let asks =
                [FetchAsk { partition: 3, offset: 70 }, FetchAsk { partition: 1, offset: 0 }];
            let mut ours = Vec::new();
            put_request(&mut ours, version, LIMITS, "topic", id, &asks);
            let request = theirs::FetchRequest::decode(&mut &ours[..], version).unwrap();
            let mut bytes = Vec::new();
            request.encode(&mut bytes, version).unwrap();
            assert_eq!(bytes, ours, "v{version}");

            let request = FetchRequest::read(Reader::new(&ours), version).unwrap();
            assert_eq!((request.replica_id, request.max_wait_ms, request.min_bytes), (-1, 500, 1));
            let seen: Vec<_> = request.partitions().collect();
            assert_eq!((seen[0].partition, seen[0].fetch_offset), (3, 70));
            let named = TopicRef::Name("topic");
            assert_eq!(seen[1].topic, if version >= 13 { TopicRef::Id(id) } else { named });

            let results = [
                FetchResult {
                    error: ErrorCode::None,
                    high_watermark: 9,
                    last_stable_offset: 7,
                    log_start_offset: 2,
                    records_bytes: 5,
                },
                FetchResult::refused(ErrorCode::OffsetOutOfRange),
            ];
            let (mut head, mut cuts) = (Vec::new(), Vec::new());
            let gone = [1, 2].map(|n| AbortedTransaction { producer_id: n, first_offset: n * 3 });
            let aborted = |index: usize| &gone[..2 - index * 2];
            put_response(&mut head, version, &request, WHOLE, results, aborted, |at| {
                cuts.push(at);
            });
            assert_eq!(cuts.len(), 2);
            let ours = [&head[..cuts[0]], b"batch", &head[cuts[0]..]].concat();
            let response = theirs::FetchResponse::decode(&mut &ours[..], version).unwrap();
            let mut bytes = Vec::new();
            response.encode(&mut bytes, version).unwrap();
            assert_eq!(bytes, ours, "v{version}");
            let mut seen = Vec::new();
            read_response(Reader::new(&ours), version, |f| {
                let aborted: Vec<_> = f.aborted.collect();
                seen.push((f.partition, f.error, f.records, f.last_stable_offset, aborted));
            })
            .unwrap();
            assert_eq!(seen[0], (3, ErrorCode::None, &b"batch"[..], 7, gone.to_vec()));
            assert_eq!((seen[1].1, seen[1].4.len()), (ErrorCode::OffsetOutOfRange, 0));
        }
    }

    #[test]
    fn damage_never_panics() {
        for version in [4, 11, 12, 15, 18] {
            let mut bytes = Vec::new();
            let asks = [FetchAsk { partition: 3, offset: 70 }];
            put_request(&mut bytes, version, LIMITS, "topic", TopicId::ZERO, &asks);
            for at in 0..bytes.len() {
                for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[at] = value;
                    let Ok(request) = FetchRequest::read(Reader::new(&damaged), version) else {
                        continue;
                    };
                    let results =
                        request.partitions().map(|_| FetchResult::refused(ErrorCode::None));
                    let out = &mut Vec::new();
                    put_response(out, version, &request, WHOLE, results, |_| &[], |_| {});
                }
            }
        }
    }
}
