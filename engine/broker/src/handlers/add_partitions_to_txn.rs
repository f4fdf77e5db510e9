//! AddPartitionsToTxn 0-3: v2 PRODUCER_FENCED, v3 flexible. v4 on is between brokers.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use crate::transactions::{fenced_since, step_at};
use coordinator::ClientVersion;
use model::{ErrorCode, Producer, ProducerId};
use std::rc::Rc;
use wire::WireError;
use wire::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, TopicErrors};

const PRODUCER_FENCED_SINCE: i16 = 2;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<AddPartitionsToTxnRequest>(request)?;
    let image = shard.image();
    let is_there = |topic: &str, index: i32| {
        image.has(topic, index) && !crate::topic_settings::is_internal(topic)
    };
    let of = |topic: &wire::messages::AddPartitionsToTxnTopic| {
        let name = topic.name.clone();
        topic.partitions.iter().map(move |index| (name.clone(), *index)).collect::<Vec<_>>()
    };
    let partitions: Vec<(String, i32)> = asked.topics.iter().flat_map(of).collect();
    let all_there = partitions.iter().all(|(topic, index)| is_there(topic, *index));
    let error = if all_there {
        let producer = Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch };
        let id = asked.transactional_id.clone();
        let added = step_at(shard, &asked.transactional_id, move |_, coordinator, now| {
            coordinator.add_partitions(now, &id, producer, &partitions, ClientVersion::V1)
        });
        added.await.and_then(|added| added).err().unwrap_or(ErrorCode::None)
    } else {
        ErrorCode::OperationNotAttempted
    };
    let error = fenced_since(PRODUCER_FENCED_SINCE, request.version, error);
    let one = |topic: &str, index: i32| {
        let missing = !is_there(topic, index);
        (index, if missing { ErrorCode::UnknownTopicOrPartition } else { error })
    };
    let results = asked.topics.iter().map(|topic| {
        let errors = topic.partitions.iter().map(|index| one(&topic.name, *index));
        TopicErrors::new(&topic.name, errors)
    });
    let results = results.collect();
    Ok(respond(shard, request, &AddPartitionsToTxnResponse { results, ..Default::default() }))
}
