//! Somebody who makes and deletes topics: what was made is there, with its records; what was deleted never comes back.

use crate::peer::{Peer, one_record};
use crate::shared::{Phase, Shared, TOPICS, is_for_now};
use model::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use wire::messages::{
    CreatableTopic, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicState,
    DeleteTopicsRequest, DeleteTopicsResponse, MetadataRequest, MetadataRequestTopic,
    MetadataResponse,
};

/// What is certain of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its making was acknowledged; so many of its records were, too.
    There(u64),
    /// Asked to be made or to go, and not answered.
    Unknown,
    Gone,
}

/// Makes the topics that the others write.
pub(crate) async fn make_ours(shared: Rc<Shared>) {
    let mut peer = Peer::new(&shared);
    for (topic, partitions) in TOPICS {
        while make(&mut peer, topic, partitions).await != Some(true) {
            shared.rest(10).await;
        }
    }
}

/// Whether it is there; `None`: not known.
async fn make(peer: &mut Peer, topic: &str, partitions: i32) -> Option<bool> {
    let new =
        CreatableTopic { name: topic.to_owned(), num_partitions: partitions, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![new], timeout_ms: 5000, validate_only: false };
    let answer: CreateTopicsResponse = peer.ask(&request, 7).await?;
    match ErrorCode::from_code(answer.topics[0].error_code) {
        ErrorCode::None | ErrorCode::TopicAlreadyExists => Some(true),
        error => {
            assert!(is_for_now(error), "{error:?}");
            None
        }
    }
}

async fn is_there(peer: &mut Peer, topic: &str) -> Option<bool> {
    let asked = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![asked]), ..Default::default() };
    let answer: MetadataResponse = peer.ask(&request, 9).await?;
    match ErrorCode::from_code(answer.topics[0].error_code) {
        ErrorCode::None => Some(true),
        ErrorCode::UnknownTopicOrPartition => Some(false),
        error => panic!("{topic}: {error:?}"),
    }
}

/// See the file's first line.
pub(crate) async fn change(shared: Rc<Shared>, process: u64) {
    let mut peer = Peer::new(&shared);
    let mut topics: BTreeMap<String, Fate> = BTreeMap::new();
    // Those whose making was answered. One that was not may still be on its way.
    let mut made: BTreeSet<String> = BTreeSet::new();
    let mut next = 0;
    loop {
        let drains = shared.phase.get() == Phase::Reading;
        shared.does(process, "changes topics");
        let known: Vec<String> = topics.keys().cloned().collect();
        let chosen = known.get(shared.below(known.len() as u64 + 1) as usize);
        match (shared.below(4), chosen) {
            (0, _) if shared.is_troubled() => {
                next += 1;
                let name = format!("topic-{process}-{next}");
                topics.insert(name.clone(), Fate::Unknown);
                if make(&mut peer, &name, 1 + shared.below(3) as i32).await == Some(true) {
                    made.insert(name.clone());
                    topics.insert(name, Fate::There(0));
                    shared.count(|outcome| outcome.topics_made += 1);
                }
            }
            (1, Some(name)) if shared.is_troubled() && topics[name] != Fate::Gone => {
                topics.insert(name.clone(), Fate::Unknown);
                let was_there = delete(&mut peer, name).await;
                if was_there.is_some_and(|was_there| was_there || made.contains(name)) {
                    topics.insert(name.clone(), Fate::Gone);
                    shared.count(|outcome| outcome.topics_deleted += 1);
                }
            }
            (2, Some(name)) => {
                if let Fate::There(records) = topics[name] {
                    send_one(&mut peer, &mut topics, name, records).await;
                }
            }
            (_, Some(name)) => look(&mut peer, name, topics[name]).await,
            _ => {}
        }
        if drains {
            for (name, fate) in &topics {
                look(&mut peer, name, *fate).await;
            }
            return;
        }
        shared.rest(40).await;
    }
}

/// Whether it was there and is deleted now; `None`: that is not known.
async fn delete(peer: &mut Peer, name: &str) -> Option<bool> {
    let state = DeleteTopicState { name: Some(name.to_owned()), ..Default::default() };
    let request = DeleteTopicsRequest {
        topics: vec![state],
        topic_names: vec![name.to_owned()],
        timeout_ms: 5000,
    };
    let answer: DeleteTopicsResponse = peer.ask(&request, 6).await?;
    match ErrorCode::from_code(answer.responses[0].error_code) {
        ErrorCode::None => Some(true),
        ErrorCode::UnknownTopicOrPartition => Some(false),
        error => {
            assert!(is_for_now(error), "{error:?}");
            None
        }
    }
}

async fn send_one(peer: &mut Peer, topics: &mut BTreeMap<String, Fate>, name: &str, records: u64) {
    let batch = one_record(records);
    if let Some((error, base)) = peer.produce(9, None, -1, (name, 0), &batch).await {
        if error != ErrorCode::None {
            assert!(is_for_now(error), "{name}: {error:?}");
            return;
        }
        // Unanswered ones may be there, too.
        assert!(
            base >= records as i64,
            "{name}: {records} were there, and the next has offset {base}"
        );
        topics.insert(name.to_owned(), Fate::There(records + 1));
    }
}

async fn look(peer: &mut Peer, name: &str, fate: Fate) {
    let Some(found) = is_there(peer, name).await else { return };
    match fate {
        Fate::There(records) => {
            assert!(found, "{name} was made, and is not there");
            let Some(got) = peer.fetch(name, &[(0, 0)], false, 1 << 20).await else { return };
            if got[0].error == ErrorCode::None {
                let there = got[0].records.len() as u64;
                assert!(there >= records, "{name}: {there} of {records} records are there");
            }
        }
        Fate::Gone => assert!(!found, "{name} was deleted, and is there"),
        Fate::Unknown => {}
    }
}
