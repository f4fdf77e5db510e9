//! ListOffsets 1-10: v2 isolation, v4 leader epochs, v7 largest timestamp, v8 and v9 tiered offsets,
//! v10 timeout. Timestamps are found exactly, inside batches.

use crate::api::rooms::Partitions;
use crate::metadata::named::repeated;
use crate::network::answer::read;
use crate::network::request::Request;
use crate::partitions::partition_slot::PartitionSlot;
use model::{ErrorCode, Offset};
use runtime::budget::Budget;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

/// The isolation level that sees only what is committed.
pub(crate) const READ_COMMITTED: i8 = 1;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

pub(crate) async fn handle(
    held: Partitions<'_>,
    request: &Request,
) -> Result<ListOffsetsResponse, WireError> {
    let asked = read::<ListOffsetsRequest>(request)?;
    let image = held.image();
    let read_committed = asked.isolation_level == READ_COMMITTED;
    // Topics by number: a name may be long, and is not kept for each of its partitions.
    let numbers: Vec<usize> = {
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        asked
            .topics
            .iter()
            .map(|topic| {
                let next = known.len();
                *known.entry(&topic.name).or_insert(next)
            })
            .collect()
    };
    let named = asked.topics.iter().zip(&numbers).flat_map(|(topic, number)| {
        topic.partitions.iter().map(|asked| (*number, asked.partition_index))
    });
    let (repeated, mut told) = (repeated(named), BTreeSet::new());
    let mut topics = Vec::new();
    for (topic, number) in asked.topics.into_iter().zip(numbers) {
        let (mut partitions, mut all_told) = (Vec::new(), !topic.partitions.is_empty());
        for asked in topic.partitions {
            let key = (number, asked.partition_index);
            if repeated.contains(&key) {
                if told.insert(key) {
                    let refused = refused(ErrorCode::InvalidRequest);
                    let partition_index = asked.partition_index;
                    partitions.push(ListOffsetsPartitionResponse { partition_index, ..refused });
                    all_told = false;
                }
                continue;
            }
            all_told = false;
            if asked.timestamp < oldest_sentinel(request.version) {
                let partition_index = asked.partition_index;
                let refused = refused(ErrorCode::UnsupportedVersion);
                partitions.push(ListOffsetsPartitionResponse { partition_index, ..refused });
                continue;
            }
            let known = image.topic(&topic.name).and_then(|t| t.partition(asked.partition_index));
            let index = asked.partition_index;
            let mut answer = match known {
                Some(id) => {
                    let found = held.at(id, move |slot, unpacked| async move {
                        Ok(look_up(&slot, &unpacked, asked, read_committed).await)
                    });
                    found.await.unwrap_or_else(refused)
                }
                None => refused(ErrorCode::UnknownTopicOrPartition),
            };
            answer.partition_index = index;
            partitions.push(answer);
        }
        // Nor is a topic of which nothing is asked told.
        if all_told || partitions.is_empty() {
            continue;
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    Ok(ListOffsetsResponse { topics, ..Default::default() })
}

/// The least timestamp that has a meaning in a version.
fn oldest_sentinel(version: i16) -> i64 {
    match version {
        ..7 => EARLIEST,
        7 => MAX_TIMESTAMP,
        8 => EARLIEST_LOCAL,
        _ => LATEST_TIERED,
    }
}

fn refused(error: ErrorCode) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse { error_code: error.code(), ..Default::default() }
}

async fn look_up(
    slot: &PartitionSlot,
    unpacked: &Rc<Budget>,
    asked: ListOffsetsPartition,
    read_committed: bool,
) -> ListOffsetsPartitionResponse {
    if let Err(error) = slot.leader.borrow().check_epoch(asked.current_leader_epoch) {
        return refused(error.error_code());
    }
    let (log_start, epoch) = {
        let leader = slot.leader.borrow();
        (leader.log_start(), leader.epoch())
    };
    let visible_end = slot.visible_end(read_committed);
    let at = |offset: Offset, timestamp: i64| ListOffsetsPartitionResponse {
        offset: offset.0,
        timestamp,
        // The epoch of the record there; for the end, of the leader.
        leader_epoch: slot.log.epoch_of(offset).unwrap_or(epoch).0,
        ..Default::default()
    };
    let wanted = match asked.timestamp {
        LATEST => return at(visible_end, -1),
        EARLIEST | EARLIEST_LOCAL => return at(log_start, -1),
        LATEST_TIERED => return ListOffsetsPartitionResponse::default(),
        MAX_TIMESTAMP => match slot.log.max_timestamp().await {
            Ok(timestamp) if timestamp >= 0 => timestamp,
            Ok(_) => return ListOffsetsPartitionResponse::default(),
            Err(error) => return failed(&error),
        },
        timestamp if timestamp >= 0 => timestamp,
        _ => return refused(ErrorCode::UnsupportedVersion),
    };
    match slot.log.find_timestamp(wanted, visible_end, unpacked).await {
        Ok(Some(found)) => at(found.offset, found.timestamp),
        Ok(None) => ListOffsetsPartitionResponse::default(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &storage::StorageError) -> ListOffsetsPartitionResponse {
    crate::observe::logging::warning_of!(None, "lookup by time failed: {error}");
    refused(ErrorCode::KafkaStorageError)
}
