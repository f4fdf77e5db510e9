//! DescribeProducers 0 (KIP-664).

use crate::metadata::named::partitions_once;
use crate::network::answer::{AnswerSize, Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use model::{ErrorCode, TopicPartition, ids};
use partition::ShownProducer;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    DescribeProducersPartition, DescribeProducersRequest, DescribeProducersResponse,
    DescribeProducersTopicResponse, ProducerState,
};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DescribeProducersRequest>(request)?;
    let image = shard.image();
    let mut topics = Vec::new();
    let mut size = AnswerSize::new(shard);
    let topics_asked = asked.topics.into_iter().map(|topic| (topic.name, topic.partition_indexes));
    for (name, indexes) in partitions_once(topics_asked.collect()) {
        let mut partitions = Vec::new();
        for index in indexes {
            let known = image.topic(&name).and_then(|topic| topic.partition(index));
            let found = match known {
                Some(id) => shard.call(shard.owner_of(id), move |owner| look(owner, id)).await,
                None if !ids::topic_name_is_valid(&name) => Err(ErrorCode::InvalidTopicException),
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            let producers = found.as_ref().map_or(0, Vec::len);
            size.add(name.len() + 100 + producers * size_of::<ProducerState>()).await?;
            let error = found.as_ref().err().copied().unwrap_or(ErrorCode::None);
            partitions.push(DescribeProducersPartition {
                partition_index: index,
                error_code: error.code(),
                error_message: found.is_err().then(|| error.meaning().to_owned()),
                active_producers: found.unwrap_or_default(),
            });
        }
        topics.push(DescribeProducersTopicResponse { name, partitions });
    }
    Ok(respond(shard, request, &DescribeProducersResponse { topics, ..Default::default() }))
}

async fn look(shard: Rc<Shard>, id: TopicPartition) -> Result<Vec<ProducerState>, ErrorCode> {
    let slot = shard.slot(id).ok_or_else(|| shard.why_absent(id))?;
    let shown = |shown: ShownProducer| ProducerState {
        producer_id: shown.producer.id.0,
        producer_epoch: i32::from(shown.producer.epoch),
        last_sequence: shown.last_sequence,
        last_timestamp: shown.last_ms,
        coordinator_epoch: shown.coordinator_epoch,
        current_txn_start_offset: shown.open_since.map_or(-1, |offset| offset.0),
    };
    Ok(slot.producers.borrow().iter().map(shown).collect())
}
