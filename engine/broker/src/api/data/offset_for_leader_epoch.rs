//! OffsetForLeaderEpoch 2-4 (KIP-101, KIP-320): v3 replica id, v4 flexible. Answers the largest epoch
//! at or below the asked one, and where it ended.

use crate::api::rooms::Partitions;
use crate::network::answer::read;
use crate::network::request::Request;
use crate::partitions::partition_slot::PartitionSlot;
use model::{ErrorCode, LeaderEpoch};
use wire::WireError;
use wire::messages::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition, OffsetForLeaderTopicResult,
};

pub(crate) async fn handle(
    held: Partitions<'_>,
    request: &Request,
) -> Result<OffsetForLeaderEpochResponse, WireError> {
    let asked = read::<OffsetForLeaderEpochRequest>(request)?;
    let image = held.image();
    let mut topics = Vec::new();
    for topic in asked.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let known = image.topic(&topic.topic).and_then(|t| t.partition(asked.partition));
            let index = asked.partition;
            let mut answer = match known {
                Some(id) => {
                    let found =
                        held.at(id, move |slot, _| async move { Ok(look_up(&slot, asked)) });
                    found.await.unwrap_or_else(refused)
                }
                None => refused(ErrorCode::UnknownTopicOrPartition),
            };
            answer.partition = index;
            partitions.push(answer);
        }
        topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    Ok(OffsetForLeaderEpochResponse { topics, ..Default::default() })
}

fn refused(error: ErrorCode) -> EpochEndOffset {
    EpochEndOffset { error_code: error.code(), ..Default::default() }
}

fn look_up(slot: &PartitionSlot, asked: OffsetForLeaderPartition) -> EpochEndOffset {
    if let Err(error) = slot.leader.borrow().check_epoch(asked.current_leader_epoch) {
        return refused(error.error_code());
    }
    let (asked, current) = (LeaderEpoch(asked.leader_epoch), slot.leader.borrow().epoch());
    if asked.0 < 0 || asked > current {
        return EpochEndOffset::default();
    }
    // The current epoch ends where the log ends, also before it appended anything.
    let (epoch, end) =
        if asked == current { (current, slot.log.log_end()) } else { slot.log.end_of_epoch(asked) };
    EpochEndOffset { leader_epoch: epoch.0, end_offset: end.0, ..Default::default() }
}
