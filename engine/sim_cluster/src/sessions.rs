//! Readers in incremental fetch sessions (KIP-227): only what has changed is asked and told, and nothing is missed.

use crate::peer::{FETCH_VERSION, Got, PATIENCE, Peer, got_of};
use crate::readers::seen;
use crate::shared::{Phase, Shared, is_for_now, tick};
use model::ErrorCode;
use sim::history::{Operation, Outcome as Ended, Step};
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::ApiKey;
use wire::fetch;
use wire::header::read_response_header;
use wire::messages::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};
use wire::primitives::{Reader, put_count, put_no_tags, put_string};

/// The first offset that is not there yet.
const LATEST: i64 = -1;

/// What the broker and this reader agree on.
#[derive(Default)]
struct Session {
    id: i32,
    epoch: i32,
    /// Positions as the broker knows them.
    told: BTreeMap<i32, i64>,
}

/// Reads all partitions of a topic in sessions, from their beginnings to their ends, as long as somebody writes.
pub(crate) async fn read_in_sessions(shared: Rc<Shared>, process: u64, topic: (&str, i32)) {
    let mut peer = Peer::new(&shared);
    let mut session = Session::default();
    let mut positions: BTreeMap<i32, i64> = (0..topic.1).map(|partition| (partition, 0)).collect();
    loop {
        let phase = shared.phase.get();
        shared.does(process, format!("reads {} in a session from {positions:?}", topic.0));
        if phase == Phase::Troubled && shared.one_in(100) {
            session = Session::default();
        }
        match fetch_next(&shared, &mut peer, &mut session, topic.0, &positions).await {
            Some(got) => keep(&shared, process, topic.0, &mut positions, &got),
            None => {
                session = Session::default();
                shared.rest(20).await;
            }
        }
        if phase == Phase::Reading {
            let ends = ends_of(&mut peer, topic).await;
            if ends.is_some_and(|ends| ends == positions) {
                return;
            }
        }
        shared.rest(10).await;
    }
}

fn keep(
    shared: &Shared,
    process: u64,
    topic: &str,
    positions: &mut BTreeMap<i32, i64>,
    got: &[Got],
) {
    for got in got {
        if got.error != ErrorCode::None {
            assert!(is_for_now(got.error), "{topic}: {:?}", got.error);
            continue;
        }
        positions.insert(got.partition, got.next);
        let records = seen(topic, got);
        if records.is_empty() {
            continue;
        }
        shared.count(|outcome| outcome.polled += records.len() as u64);
        let poll = Operation::Poll { records, uncommitted: false, at: Some(tick()) };
        let operations = vec![poll];
        shared.keep(Step { process, outcome: Ended::Committed, operations, ..Step::default() });
    }
}

/// What a session's next fetch tells; `None`: the session is over.
async fn fetch_next(
    shared: &Shared,
    peer: &mut Peer,
    session: &mut Session,
    topic: &str,
    positions: &BTreeMap<i32, i64>,
) -> Option<Vec<Got>> {
    let is_new = |(partition, at): &(&i32, &i64)| session.told.get(partition) != Some(at);
    let changed: Vec<(i32, i64)> =
        positions.iter().filter(is_new).map(|(partition, at)| (*partition, *at)).collect();
    let wait_ms = shared.below(60) as i32;
    let (id, epoch) = (session.id, session.epoch);
    let body = |out: &mut Vec<u8>| put_request(out, wait_ms, (id, epoch), topic, &changed);
    if !peer.send(ApiKey::Fetch, FETCH_VERSION, body).await {
        return None;
    }
    let number = peer.last_number();
    let frame = peer.receive(PATIENCE, ApiKey::Fetch, FETCH_VERSION, number).await?;
    let (_, body) = read_response_header(&frame, ApiKey::Fetch, FETCH_VERSION).expect("as sent");
    let told = session_of(body);
    let mut got = Vec::new();
    let error = fetch::read_response(body, FETCH_VERSION, |part| {
        let position = positions.get(&part.partition).expect("a partition of the session");
        got.push(got_of(&part, *position, true));
    });
    match error.expect("well formed") {
        ErrorCode::None => {}
        ErrorCode::FetchSessionIdNotFound | ErrorCode::InvalidFetchSessionEpoch => return None,
        error => panic!("a session's fetch is refused: {error:?}"),
    }
    assert!(session.id == 0 || told == session.id, "the answer is of this session");
    session.id = told;
    session.told.extend(changed);
    session.epoch += 1;
    if told == 0 {
        // None was made: each is a full one.
        *session = Session::default();
    }
    Some(got)
}

/// The session's number, behind throttle time and error.
fn session_of(mut body: Reader<'_>) -> i32 {
    let number = (|| {
        body.i32()?;
        body.i16()?;
        body.i32()
    })();
    number.expect("well formed")
}

fn put_request(
    out: &mut Vec<u8>,
    wait_ms: i32,
    (id, epoch): (i32, i32),
    topic: &str,
    changed: &[(i32, i64)],
) {
    out.extend_from_slice(&(-1i32).to_be_bytes());
    for number in [wait_ms, 1, 1 << 20] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    // Only what is committed.
    out.push(1);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&epoch.to_be_bytes());
    put_count(out, Some(usize::from(!changed.is_empty())), true);
    if !changed.is_empty() {
        put_string(out, Some(topic), true);
        put_count(out, Some(changed.len()), true);
        for (partition, at) in changed {
            out.extend_from_slice(&partition.to_be_bytes());
            out.extend_from_slice(&(-1i32).to_be_bytes());
            out.extend_from_slice(&at.to_be_bytes());
            out.extend_from_slice(&(-1i32).to_be_bytes());
            out.extend_from_slice(&(-1i64).to_be_bytes());
            out.extend_from_slice(&(1i32 << 20).to_be_bytes());
            put_no_tags(out, true);
        }
        put_no_tags(out, true);
    }
    put_count(out, Some(0), true);
    put_string(out, Some(""), true);
    put_no_tags(out, true);
}

/// Where each partition ends for readers of what is committed.
pub(crate) async fn ends_of(
    peer: &mut Peer,
    (topic, partitions): (&str, i32),
) -> Option<BTreeMap<i32, i64>> {
    let asked = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: LATEST,
        ..Default::default()
    };
    let partitions = (0..partitions).map(asked).collect();
    let topics = vec![ListOffsetsTopic { name: topic.to_owned(), partitions }];
    let request = ListOffsetsRequest { isolation_level: 1, topics, ..Default::default() };
    let answer: ListOffsetsResponse = peer.ask(&request, 5).await?;
    let found = answer.topics[0].partitions.iter();
    found.map(|p| (p.error_code == 0).then_some((p.partition_index, p.offset))).collect()
}
