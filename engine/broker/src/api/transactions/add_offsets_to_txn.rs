//! AddOffsetsToTxn 0-4: v2 PRODUCER_FENCED, v3 flexible, v4 KIP-890. A group's offsets are records
//! of its partition of `__consumer_offsets`, which joins the transaction like any other.

use crate::api::rooms::{Groups, Transactions};
use crate::coordinators::transactions::fenced_since;
use crate::network::answer::read;
use crate::network::request::Request;
use coordinator::ClientVersion;
use metadata::topic_settings::OFFSETS_TOPIC;
use model::{ErrorCode, Producer, ProducerId};
use wire::WireError;
use wire::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

const PRODUCER_FENCED_SINCE: i16 = 2;

pub(crate) async fn handle(
    groups: Groups<'_>,
    transactions: Transactions<'_>,
    request: &Request,
) -> Result<AddOffsetsToTxnResponse, WireError> {
    let asked = read::<AddOffsetsToTxnRequest>(request)?;
    let error = add(groups, transactions, asked).await.err().unwrap_or(ErrorCode::None);
    let error_code = fenced_since(PRODUCER_FENCED_SINCE, request.version, error).code();
    Ok(AddOffsetsToTxnResponse { error_code, ..Default::default() })
}

async fn add(
    groups: Groups<'_>,
    transactions: Transactions<'_>,
    asked: AddOffsetsToTxnRequest,
) -> Result<(), ErrorCode> {
    if asked.transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let home = groups.home(&asked.group_id).await?;
    let partitions = [(OFFSETS_TOPIC.to_owned(), home.partition.0)];
    let producer = Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch };
    let id = asked.transactional_id.clone();
    let added = transactions.step(&asked.transactional_id, move |_, coordinator, now| {
        coordinator.add_partitions(now, &id, producer, &partitions, ClientVersion::V1)
    });
    added.await?
}
