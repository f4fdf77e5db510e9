//! Clients that do not wait: many requests on their way on one connection, and answers that nobody reads.

use crate::peer::{PATIENCE, Peer, one_record};
use crate::shared::{IN, PLAIN, Shared, TOPICS, is_for_now, name_of, tick};
use model::{ErrorCode, TopicRef};
use sim::history::{Operation, Outcome as Ended, Send, Step};
use std::collections::VecDeque;
use std::rc::Rc;
use wire::ApiKey;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::header::read_response_header;
use wire::messages::{Message, MetadataRequest, MetadataResponse};
use wire::produce;

const VERSION: i16 = 9;
const METADATA_VERSION: i16 = 9;
const ON_THEIR_WAY_MAX: usize = 6;

/// What is on its way: a produce with the value for each partition, or a question between.
enum Asked {
    Produce { number: i32, values: Vec<(i32, u64)> },
    Metadata { number: i32 },
}

/// Sends to all partitions of a topic at once, several requests ahead of their answers, with others between.
pub(crate) async fn send_ahead(shared: Rc<Shared>, process: u64, acks: i16) {
    let mut peer = Peer::new(&shared);
    let mut asked: VecDeque<Asked> = VecDeque::new();
    while shared.is_troubled() || !asked.is_empty() {
        shared.does(process, "sends ahead");
        let has_room = asked.len() < ON_THEIR_WAY_MAX && shared.is_troubled();
        let is_there = if has_room && !shared.one_in(3) {
            send_next(&shared, &mut peer, &mut asked, acks).await
        } else if let Some(oldest) = asked.pop_front() {
            take(&shared, &mut peer, process, oldest).await
        } else {
            true
        };
        if !is_there {
            // Nobody knows what became of these.
            for lost in asked.drain(..) {
                keep(&shared, process, &lost, |_| None);
            }
            shared.rest(10).await;
        }
        if asked.is_empty() || shared.one_in(4) {
            shared.rest(8).await;
        }
    }
}

/// False: the connection is gone, and all that was on its way.
async fn send_next(
    shared: &Shared,
    peer: &mut Peer,
    asked: &mut VecDeque<Asked>,
    acks: i16,
) -> bool {
    if shared.one_in(5) {
        let request = MetadataRequest { topics: None, ..Default::default() };
        let body = |out: &mut Vec<u8>| request.encode(out, METADATA_VERSION);
        let is_sent = peer.send(ApiKey::Metadata, METADATA_VERSION, body).await;
        asked.push_back(Asked::Metadata { number: peer.last_number() });
        return is_sent;
    }
    let mut values = Vec::new();
    let mut batches = Vec::new();
    for partition in 0..TOPICS[2].1 {
        let value = shared.next_value();
        batches.push((partition, one_record(value)));
        values.push((partition, value));
    }
    shared.count(|outcome| outcome.sent += values.len() as u64);
    let parts = batches.iter().map(|(partition, batch)| (*partition, &batch[..]));
    let body = |out: &mut Vec<u8>| {
        produce::put_request(out, VERSION, acks, 1000, TopicRef::Name(PLAIN), parts);
    };
    let is_sent = peer.send(ApiKey::Produce, VERSION, body).await;
    asked.push_back(Asked::Produce { number: peer.last_number(), values });
    is_sent
}

async fn take(shared: &Shared, peer: &mut Peer, process: u64, oldest: Asked) -> bool {
    match &oldest {
        Asked::Metadata { number } => {
            let frame = peer.receive(PATIENCE, ApiKey::Metadata, METADATA_VERSION, *number).await;
            let Some(frame) = frame else { return false };
            let header = read_response_header(&frame, ApiKey::Metadata, METADATA_VERSION);
            let (_, mut body) = header.expect("well formed");
            let told = MetadataResponse::decode(&mut body, METADATA_VERSION).expect("well formed");
            let is_ours = |name: &str| TOPICS.iter().any(|(topic, _)| *topic == name);
            let ours = told.topics.iter().filter(|t| t.name.as_deref().is_some_and(is_ours));
            assert_eq!(ours.count(), TOPICS.len(), "the first topics are there");
            true
        }
        Asked::Produce { number, .. } => {
            let frame = peer.receive(PATIENCE, ApiKey::Produce, VERSION, *number).await;
            let mut results = Vec::new();
            if let Some(frame) = &frame {
                let header = read_response_header(frame, ApiKey::Produce, VERSION);
                let (_, body) = header.expect("well formed");
                produce::read_response(body, VERSION, |_, partition, error, base| {
                    assert!(error == ErrorCode::None || is_for_now(error), "{error:?}");
                    results.push((partition, (error == ErrorCode::None).then_some(base)));
                })
                .expect("well formed");
                assert_eq!(results.len(), TOPICS[2].1 as usize, "a result of each partition");
            }
            keep(shared, process, &oldest, |partition| {
                results.iter().find(|(of, _)| *of == partition)?.1
            });
            frame.is_some()
        }
    }
}

/// Tells the history of a produce; `base_of` says where the record of a partition is, if that is known.
fn keep(shared: &Shared, process: u64, asked: &Asked, base_of: impl Fn(i32) -> Option<i64>) {
    let Asked::Produce { values, .. } = asked else { return };
    let mut operations = Vec::new();
    for (partition, value) in values {
        let offset = base_of(*partition);
        shared.count(|outcome| outcome.acknowledged += u64::from(offset.is_some()));
        operations.push(Operation::Send(Send {
            partition: name_of(PLAIN, *partition),
            value: *value,
            offset,
            acknowledged: offset.is_some(),
            input: None,
        }));
    }
    let end = Some(tick());
    shared.keep(Step { process, outcome: Ended::Unknown, operations, end, ..Step::default() });
}

/// Asks for much, reads nothing, and goes: nobody else is to notice.
pub(crate) async fn ask_and_not_read(shared: Rc<Shared>, process: u64) {
    let mut peer = Peer::new(&shared);
    while shared.is_troubled() {
        shared.does(process, "does not read");
        for _ in 0..shared.below(40) {
            let asks: Vec<FetchAsk> =
                (0..TOPICS[0].1).map(|partition| FetchAsk { partition, offset: 0 }).collect();
            let limits = FetchLimits {
                max_wait_ms: shared.below(100) as i32,
                min_bytes: 1 << shared.below(20),
                max_bytes: 1 << 20,
                partition_max_bytes: 1 << 20,
                read_committed: true,
            };
            let id = model::TopicId::ZERO;
            let body = |out: &mut Vec<u8>| fetch::put_request(out, 12, limits, IN, id, &asks);
            let is_sent = match shared.one_in(3) {
                true => {
                    let request = MetadataRequest { topics: None, ..Default::default() };
                    let body = |out: &mut Vec<u8>| request.encode(out, METADATA_VERSION);
                    peer.send(ApiKey::Metadata, METADATA_VERSION, body).await
                }
                false => peer.send(ApiKey::Fetch, 12, body).await,
            };
            if !is_sent {
                break;
            }
        }
        shared.rest(120).await;
        peer.close();
    }
}
