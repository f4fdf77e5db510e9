//! InitProducerId 0-5: v2 flexible, v3 another epoch of an id that one has (KIP-360), v4
//! PRODUCER_FENCED, v5 KIP-890.

use crate::api::rooms::Transactions;
use crate::coordinators::transactions::fenced_since;
use crate::network::answer::read;
use crate::network::request::Request;
use model::{ErrorCode, Producer, ProducerId};
use wire::WireError;
use wire::messages::{InitProducerIdRequest, InitProducerIdResponse};

const PRODUCER_FENCED_SINCE: i16 = 4;

pub(crate) async fn handle(
    transactions: Transactions<'_>,
    request: &Request,
) -> Result<InitProducerIdResponse, WireError> {
    let asked = read::<InitProducerIdRequest>(request)?;
    let response = match init(transactions, asked).await {
        Ok(producer) => InitProducerIdResponse {
            producer_id: producer.id.0,
            producer_epoch: producer.epoch,
            ..Default::default()
        },
        Err(error) => InitProducerIdResponse {
            error_code: fenced_since(PRODUCER_FENCED_SINCE, request.version, error).code(),
            ..Default::default()
        },
    };
    Ok(response)
}

async fn init(
    transactions: Transactions<'_>,
    asked: InitProducerIdRequest,
) -> Result<Producer, ErrorCode> {
    if (asked.producer_id == -1) != (asked.producer_epoch == -1) {
        return Err(ErrorCode::InvalidRequest);
    }
    let Some(id) = asked.transactional_id else {
        // Nobody else can have the id: there is nothing to bump or fence.
        return Ok(Producer { id: transactions.take_producer_id()?, epoch: 0 });
    };
    if id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    // Some clients say 0 and 0 where they have none.
    let claims = asked.producer_id > 0 || asked.producer_epoch > 0;
    let has = Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch };
    let (name, timeout_ms) = (id.clone(), asked.transaction_timeout_ms);
    let step = transactions.step(&id, move |here, coordinator, now| {
        let fresh = here.take_producer_id()?;
        coordinator.init_producer_id(now, &name, timeout_ms, claims.then_some(has), fresh)
    });
    step.await?
}
