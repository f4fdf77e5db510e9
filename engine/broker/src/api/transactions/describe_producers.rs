//! DescribeProducers 0 (KIP-664).

use crate::api::rooms::Partitions;
use crate::metadata::named::partitions_once;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use crate::partitions::partition_slot::PartitionSlot;
use model::{ErrorCode, ids};
use partition::ShownProducer;
use wire::WireError;
use wire::messages::{
    DescribeProducersPartition, DescribeProducersRequest, DescribeProducersResponse,
    DescribeProducersTopicResponse, ProducerState,
};

pub(crate) async fn handle(
    partitions_of: Partitions<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DescribeProducersResponse, WireError> {
    let asked = read::<DescribeProducersRequest>(request)?;
    let image = partitions_of.image();
    let mut topics = Vec::new();
    let topics_asked = asked.topics.into_iter().map(|topic| (topic.name, topic.partition_indexes));
    for (name, indexes) in partitions_once(topics_asked.collect()) {
        let mut partitions = Vec::new();
        for index in indexes {
            let known = image.topic(&name).and_then(|topic| topic.partition(index));
            let found = match known {
                Some(id) => partitions_of.at(id, |slot, _| async move { Ok(look(&slot)) }).await,
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
    Ok(DescribeProducersResponse { topics, ..Default::default() })
}

fn look(slot: &PartitionSlot) -> Vec<ProducerState> {
    let shown = |shown: ShownProducer| ProducerState {
        producer_id: shown.producer.id.0,
        producer_epoch: i32::from(shown.producer.epoch),
        last_sequence: shown.last_sequence,
        last_timestamp: shown.last_ms,
        coordinator_epoch: shown.coordinator_epoch,
        current_txn_start_offset: shown.open_since.map_or(-1, |offset| offset.0),
    };
    slot.producers.borrow().iter().map(shown).collect()
}
