//! AddPartitionsToTxn 0-3: v2 PRODUCER_FENCED, v3 flexible. v4 on is between brokers.

use crate::api::rooms::Transactions;
use crate::coordinators::transactions::fenced_since;
use crate::metadata::named::partitions_once;
use crate::network::answer::read;
use crate::network::request::Request;
use coordinator::ClientVersion;
use model::{ErrorCode, Producer, ProducerId};
use std::collections::BTreeSet;
use wire::WireError;
use wire::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, TopicErrors};

const PRODUCER_FENCED_SINCE: i16 = 2;

pub(crate) async fn handle(
    transactions: Transactions<'_>,
    request: &Request,
) -> Result<AddPartitionsToTxnResponse, WireError> {
    let asked = read::<AddPartitionsToTxnRequest>(request)?;
    let image = transactions.image();
    let is_there = |topic: &str, index: i32| {
        image.has(topic, index) && !metadata::topic_settings::is_internal(topic)
    };
    let mut named: BTreeSet<(&str, i32)> = BTreeSet::new();
    for topic in &asked.topics {
        named.extend(topic.partitions.iter().map(|index| (topic.name.as_str(), *index)));
    }
    let all_there = named.iter().all(|(topic, index)| is_there(topic, *index));
    let error = if all_there {
        // Names of their own only for partitions that are there.
        let own = |(topic, index): (&str, i32)| (topic.to_owned(), index);
        let partitions: Vec<(String, i32)> = named.into_iter().map(own).collect();
        let producer = Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch };
        let id = asked.transactional_id.clone();
        let added = transactions.step(&asked.transactional_id, move |_, coordinator, now| {
            coordinator.add_partitions(now, &id, producer, &partitions, ClientVersion::V1)
        });
        added.await.and_then(|added| added).err().unwrap_or(ErrorCode::None)
    } else {
        ErrorCode::OperationNotAttempted
    };
    let error = fenced_since(PRODUCER_FENCED_SINCE, request.version, error);
    let one = |topic: &str, index: i32| {
        let error = match is_there(topic, index) {
            true => error,
            // Clients do not write to internal topics.
            false if metadata::topic_settings::is_internal(topic) => {
                ErrorCode::TopicAuthorizationFailed
            }
            false => ErrorCode::UnknownTopicOrPartition,
        };
        (index, error)
    };
    let asked = asked.topics.into_iter().map(|topic| (topic.name, topic.partitions));
    let once = partitions_once(asked.collect()).into_iter();
    let results =
        once.filter(|(_, partitions)| !partitions.is_empty()).map(|(topic, partitions)| {
            TopicErrors::new(&topic, partitions.iter().map(|index| one(&topic, *index)))
        });
    let results = results.collect();
    Ok(AddPartitionsToTxnResponse { results, ..Default::default() })
}
