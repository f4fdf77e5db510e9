//! OffsetForLeaderEpoch 2-4 (KIP-101, KIP-320): v3 replica id, v4 flexible. Answers the largest epoch
//! at or below the asked one, and where it ended.

use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use model::{ErrorCode, LeaderEpoch, TopicPartition};
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition, OffsetForLeaderTopicResult,
};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<OffsetForLeaderEpochRequest>(request)?;
    let image = shard.image();
    let mut topics = Vec::new();
    for topic in asked.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let known = image.topic(&topic.topic).and_then(|t| t.partition(asked.partition));
            let index = asked.partition;
            let mut answer = match known {
                Some(id) => {
                    shard.call(shard.owner_of(id), move |owner| look_up(owner, id, asked)).await
                }
                None => refused(ErrorCode::UnknownTopicOrPartition),
            };
            answer.partition = index;
            partitions.push(answer);
        }
        topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    Ok(respond(shard, request, &OffsetForLeaderEpochResponse { topics, ..Default::default() }))
}

fn refused(error: ErrorCode) -> EpochEndOffset {
    EpochEndOffset { error_code: error.code(), ..Default::default() }
}

async fn look_up(
    shard: Rc<Shard>,
    id: TopicPartition,
    asked: OffsetForLeaderPartition,
) -> EpochEndOffset {
    let Some(slot) = shard.slot(id) else { return refused(shard.why_absent(id)) };
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
