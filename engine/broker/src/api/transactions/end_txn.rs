//! EndTxn 0-5: v2 PRODUCER_FENCED, v3 flexible, v5 another epoch with each transaction (KIP-890).
//!
//! The outcome is durable when this is answered; usually the markers are too, so that what the
//! client does next finds them.

use crate::coordinators::state_log::at_home;
use crate::coordinators::transactions::{TransactionLog, fenced_since, until_told};
use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use coordinator::ClientVersion;
use model::{ErrorCode, Producer, ProducerId};
use std::rc::Rc;
use wire::WireError;
use wire::messages::{EndTxnRequest, EndTxnResponse};

const PRODUCER_FENCED_SINCE: i16 = 2;
const EPOCH_BUMPED_SINCE: i16 = 5;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<EndTxnRequest>(request)?;
    let bumps = request.version >= EPOCH_BUMPED_SINCE;
    let version = if bumps { ClientVersion::V2 } else { ClientVersion::V1 };
    let response = match end(shard, asked, version).await {
        Ok(producer) => EndTxnResponse {
            producer_id: producer.id.0,
            producer_epoch: producer.epoch,
            ..Default::default()
        },
        Err(error) => EndTxnResponse {
            error_code: fenced_since(PRODUCER_FENCED_SINCE, request.version, error).code(),
            ..Default::default()
        },
    };
    Ok(respond(shard, request, &response))
}

async fn end(
    shard: &Rc<Shard>,
    asked: EndTxnRequest,
    version: ClientVersion,
) -> Result<Producer, ErrorCode> {
    let id = asked.transactional_id;
    if id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let producer = Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch };
    let name = id.clone();
    at_home(shard, &id, move |shard, log: Rc<TransactionLog>| async move {
        let step = log.run(&shard, |shard, coordinator, now| {
            let fresh = shard.take_producer_id()?;
            coordinator.end(now, &name, producer, asked.committed, version, fresh)
        });
        let ended = step.await??;
        until_told(&log, &name).await;
        Ok(ended)
    })
    .await
}
