//! AddOffsetsToTxn 0-4: v2 PRODUCER_FENCED, v3 flexible, v4 KIP-890. A group's offsets are records
//! of its partition of `__consumer_offsets`, which joins the transaction like any other.

use crate::coordinators::groups::home_of_group;
use crate::coordinators::transactions::{fenced_since, step_at};
use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use coordinator::ClientVersion;
use metadata::topic_settings::OFFSETS_TOPIC;
use model::{ErrorCode, Producer, ProducerId};
use std::rc::Rc;
use wire::WireError;
use wire::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

const PRODUCER_FENCED_SINCE: i16 = 2;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<AddOffsetsToTxnRequest>(request)?;
    let error = add(shard, asked).await.err().unwrap_or(ErrorCode::None);
    let error_code = fenced_since(PRODUCER_FENCED_SINCE, request.version, error).code();
    Ok(respond(shard, request, &AddOffsetsToTxnResponse { error_code, ..Default::default() }))
}

async fn add(shard: &Rc<Shard>, asked: AddOffsetsToTxnRequest) -> Result<(), ErrorCode> {
    if asked.transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let home = home_of_group(shard, &asked.group_id).await?;
    let partitions = [(OFFSETS_TOPIC.to_owned(), home.partition.0)];
    let producer = Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch };
    let id = asked.transactional_id.clone();
    let added = step_at(shard, &asked.transactional_id, move |_, coordinator, now| {
        coordinator.add_partitions(now, &id, producer, &partitions, ClientVersion::V1)
    });
    added.await?
}
