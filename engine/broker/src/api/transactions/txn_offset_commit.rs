//! TxnOffsetCommit 0-5: v2 leader epochs, v3 flexible and who in the group commits (KIP-447), v5 the
//! offsets join the transaction by this (KIP-890).

use crate::api::groups::offset_commit::{COMMIT_BYTES_MAX, RECORD_BYTES};
use crate::api::rooms::{Groups, Transactions};
use crate::coordinators::state_log::Here;
use crate::coordinators::transactions::Target;
use crate::network::answer::read;
use crate::network::request::Request;
use coordinator::{ClientVersion, GroupCoordinator};
use model::{ErrorCode, Producer, ProducerId};
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    TopicErrors, TxnOffsetCommitPartition, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
    TxnOffsetCommitTopic,
};

const JOINS_SINCE: i16 = 5;
/// From here on a client knows an error that tells it to abort (KIP-890).
const ABORTABLE_SINCE: i16 = 4;

pub(crate) async fn handle(
    groups: Groups<'_>,
    transactions: Transactions<'_>,
    request: &Request,
) -> Result<TxnOffsetCommitResponse, WireError> {
    let asked = Rc::new(read::<TxnOffsetCommitRequest>(request)?);
    let image = transactions.image();
    let is_there = |topic: &TxnOffsetCommitTopic| {
        topic.partitions.iter().any(|p| image.has(&topic.name, p.partition_index))
    };
    if !asked.topics.iter().any(is_there) {
        // Nothing can be kept: nothing joins the transaction.
        let response = refused(&asked, ErrorCode::UnknownTopicOrPartition);
        return Ok(response);
    }
    let joins = request.version >= JOINS_SINCE;
    let version = if joins { ClientVersion::V2 } else { ClientVersion::V1 };
    let committed = commit(groups, transactions, &asked, version, request.version).await;
    let mut response = committed.unwrap_or_else(|error| refused(&asked, error));
    // What is not there is told whatever else is wrong.
    for topic in &mut response.topics {
        for partition in &mut topic.partitions {
            if !image.has(&topic.name, partition.partition_index) {
                partition.error_code = ErrorCode::UnknownTopicOrPartition.code();
            }
        }
    }
    Ok(response)
}

async fn commit(
    groups: Groups<'_>,
    transactions: Transactions<'_>,
    asked: &Rc<TxnOffsetCommitRequest>,
    version: ClientVersion,
    api_version: i16,
) -> Result<TxnOffsetCommitResponse, ErrorCode> {
    if asked.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let of = |topic: &TxnOffsetCommitTopic| {
        let beside = asked.group_id.len() + topic.name.len() + RECORD_BYTES;
        let metadata =
            |p: &TxnOffsetCommitPartition| p.committed_metadata.as_ref().map_or(0, String::len);
        topic.partitions.iter().map(|p| beside + metadata(p)).sum::<usize>()
    };
    if asked.topics.iter().map(of).sum::<usize>() > COMMIT_BYTES_MAX {
        return Err(ErrorCode::InvalidCommitOffsetSize);
    }
    if asked.transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let producer = Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch };
    let id = groups.home(&asked.group_id).await?;
    let target = Target { index: 0, id, producer };
    let proofs = transactions.prove(&asked.transactional_id, vec![target], version).await;
    let abortable = |error| match error {
        ErrorCode::InvalidTxnState if api_version >= ABORTABLE_SINCE => {
            ErrorCode::TransactionAbortable
        }
        other => other,
    };
    let proof = proofs.of(0).map_err(abortable)?;
    let for_coordinator = TxnOffsetCommitRequest::clone(asked);
    let step = move |here: Here<'_>, coordinator: &mut GroupCoordinator, now| {
        let image = here.image();
        let knows = |topic: &str, partition: i32| image.has(topic, partition);
        coordinator.commit_in_transaction(now, &for_coordinator, knows)
    };
    groups.step_in_transaction(&asked.group_id, producer, proof, step).await
}

fn refused(asked: &TxnOffsetCommitRequest, error: ErrorCode) -> TxnOffsetCommitResponse {
    let topics = asked.topics.iter().map(|topic| {
        let indexes = topic.partitions.iter().map(|partition| partition.partition_index);
        TopicErrors::new(&topic.name, indexes.map(|index| (index, error)))
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}
