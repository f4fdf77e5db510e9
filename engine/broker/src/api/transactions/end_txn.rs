//! EndTxn 0-5: v2 PRODUCER_FENCED, v3 flexible, v5 another epoch with each transaction (KIP-890).
//!
//! The outcome is durable when this is answered; usually the markers are too, so that what the
//! client does next finds them.

use crate::api::rooms::Transactions;
use crate::coordinators::transactions::fenced_since;
use crate::network::answer::read;
use crate::network::request::Request;
use coordinator::ClientVersion;
use model::{ErrorCode, Producer, ProducerId};
use wire::WireError;
use wire::messages::{EndTxnRequest, EndTxnResponse};

const PRODUCER_FENCED_SINCE: i16 = 2;
const EPOCH_BUMPED_SINCE: i16 = 5;

pub(crate) async fn handle(
    transactions: Transactions<'_>,
    request: &Request,
) -> Result<EndTxnResponse, WireError> {
    let asked = read::<EndTxnRequest>(request)?;
    let bumps = request.version >= EPOCH_BUMPED_SINCE;
    let version = if bumps { ClientVersion::V2 } else { ClientVersion::V1 };
    let response = match end(transactions, asked, version).await {
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
    Ok(response)
}

async fn end(
    transactions: Transactions<'_>,
    asked: EndTxnRequest,
    version: ClientVersion,
) -> Result<Producer, ErrorCode> {
    let id = asked.transactional_id;
    if id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let producer = Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch };
    transactions.end(&id, producer, asked.committed, version).await
}
