//! What a batch must reach, and when its producer is answered: from `acks`, the topic's durability and who is in sync.

use crate::leader::Level;
use model::ErrorCode;

/// Which answer a producer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// 0: none.
    None,
    /// 1: the leader has it.
    Leader,
    /// -1: every replica in sync has it.
    All,
}

impl Acks {
    /// What a request's number means; `None` for numbers that mean nothing.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Leader),
            -1 => Some(Self::All),
            _ => None,
        }
    }
}

/// How safe a topic wants its batches before they are answered (`weir.durability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As their producers' acks ask.
    Acks,
    /// In memory: written soon.
    Memory,
    /// Written: survives kill -9.
    Os,
    /// Synced: survives a power cut.
    Disk,
}

/// Who has a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    /// All that are to have it.
    pub replicas: usize,
    /// Those that have what is committed.
    pub in_sync: usize,
    /// `min.insync.replicas`.
    pub in_sync_min: usize,
}

/// When a producer is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As soon as the batch is in memory.
    AtOnce,
    /// Once the batch has reached its level.
    WhenReached,
}

/// What is to become of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Consumers see it, and all before it, once it is so safe.
    pub level: Level,
    /// And its producer is answered then.
    pub answer: Answer,
}

impl Demand {
    /// What these acks ask of a topic of this durability.
    ///
    /// # Errors
    /// `NotEnoughReplicas`: all of them are asked for, and too few are in sync. As in Kafka never more are needed than
    /// the partition has.
    pub fn of(
        acks: Acks,
        durability: Durability,
        replication: Replication,
    ) -> Result<Self, ErrorCode> {
        assert!(replication.in_sync <= replication.replicas, "who is in sync is a replica");
        let needed = replication.in_sync_min.min(replication.replicas);
        if acks == Acks::All && replication.in_sync < needed {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        let level = match durability {
            Durability::Acks if acks == Acks::All => Level::Durable,
            Durability::Disk => Level::Durable,
            Durability::Acks | Durability::Memory | Durability::Os => Level::Written,
        };
        let is_at_once = acks == Acks::None || durability == Durability::Memory;
        let answer = if is_at_once { Answer::AtOnce } else { Answer::WhenReached };
        Ok(Self { level, answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Replication = Replication { replicas: 1, in_sync: 1, in_sync_min: 1 };

    fn of(code: i16, durability: Durability) -> (Level, Answer) {
        let acks = Acks::from_code(code).expect("a number that means something");
        let demand = Demand::of(acks, durability, ALONE).expect("one of one is in sync");
        (demand.level, demand.answer)
    }

    #[test]
    fn acks_decide_unless_the_topic_does() {
        use Answer::{AtOnce, WhenReached};
        use Level::{Durable, Written};
        let cases = [
            (0, Durability::Acks, Written, AtOnce),
            (1, Durability::Acks, Written, WhenReached),
            (-1, Durability::Acks, Durable, WhenReached),
            (0, Durability::Memory, Written, AtOnce),
            (1, Durability::Memory, Written, AtOnce),
            (-1, Durability::Memory, Written, AtOnce),
            (0, Durability::Os, Written, AtOnce),
            (1, Durability::Os, Written, WhenReached),
            (-1, Durability::Os, Written, WhenReached),
            (0, Durability::Disk, Durable, AtOnce),
            (1, Durability::Disk, Durable, WhenReached),
            (-1, Durability::Disk, Durable, WhenReached),
        ];
        for (code, durability, level, answer) in cases {
            assert_eq!(of(code, durability), (level, answer), "acks={code}, {durability:?}");
        }
        assert!([-2, 2, i16::MAX].iter().all(|code| Acks::from_code(*code).is_none()));
    }

    #[test]
    fn all_in_sync_means_no_more_than_there_are() {
        let refused = Err(ErrorCode::NotEnoughReplicas);
        for (replicas, in_sync, in_sync_min, fits) in
            [(1, 1, 2, true), (3, 1, 2, false), (3, 2, 2, true), (3, 2, 5, false), (3, 3, 5, true)]
        {
            let replication = Replication { replicas, in_sync, in_sync_min };
            let all = Demand::of(Acks::All, Durability::Acks, replication);
            assert_eq!(all.is_ok(), fits, "{replication:?}");
            assert!(fits || all == refused);
            assert!(Demand::of(Acks::Leader, Durability::Acks, replication).is_ok());
        }
    }
}
