//! The leader's view of a partition whose ISR is the leader alone, and its HighWatermark.

use model::{ErrorCode, LeaderEpoch, Offset};
use std::collections::VecDeque;

/// How safe a batch must be before it is committed: what its producer asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The write completed: survives kill -9 (`acks=0` and `acks=1`).
    Written,
    /// It is fsynced: survives a power cut (`acks=all`).
    Durable,
}

/// The HighWatermark moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// Where it was.
    pub from: Offset,
    /// Where it is.
    pub to: Offset,
}

/// Why a fetch or lookup is refused. Each maps to one Kafka error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// Below the log start or above the log end (`OFFSET_OUT_OF_RANGE`).
    OffsetOutOfRange,
    /// The client knows an older epoch (`FENCED_LEADER_EPOCH`, KIP-320).
    FencedLeaderEpoch,
    /// The client knows an epoch this leader does not (`UNKNOWN_LEADER_EPOCH`, KIP-320).
    UnknownLeaderEpoch,
}

impl FetchError {
    /// The code it is answered with.
    #[must_use]
    pub fn error_code(self) -> ErrorCode {
        match self {
            Self::OffsetOutOfRange => ErrorCode::OffsetOutOfRange,
            Self::FencedLeaderEpoch => ErrorCode::FencedLeaderEpoch,
            Self::UnknownLeaderEpoch => ErrorCode::UnknownLeaderEpoch,
        }
    }
}

/// Leader state of one partition.
///
/// The HighWatermark passes a batch once the batch and all before it have reached the level their
/// producers asked for: a consumer never sees an `acks=all` record that a power cut could take.
///
/// Invariant: `log_start <= high_watermark <= log_end` and `durable <= written <= log_end`.
#[derive(Debug)]
pub struct Leader {
    epoch: LeaderEpoch,
    log_start: Offset,
    log_end: Offset,
    high_watermark: Offset,
    written: Offset,
    durable: Offset,
    /// Ends of appended spans above the HighWatermark with the level each needs; equal neighbours
    /// are one span. Invariant: ends ascend, the last is `log_end`.
    pending: VecDeque<(Offset, Level)>,
}

impl Leader {
    /// A leader that starts on a log of which everything is durable.
    #[must_use]
    pub fn new(epoch: LeaderEpoch, log_start: Offset, log_end: Offset) -> Self {
        assert!(log_start <= log_end);
        Self {
            epoch,
            log_start,
            log_end,
            high_watermark: log_end,
            written: log_end,
            durable: log_end,
            pending: VecDeque::new(),
        }
    }

    /// The epoch of this leadership.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// First offset kept.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The offset the next record gets.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// First offset consumers may not see yet.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// First offset whose write has not completed.
    #[must_use]
    pub fn written(&self) -> Offset {
        self.written
    }

    /// `records` were appended at the log end, to be committed at `level`.
    pub fn on_appended(&mut self, records: i64, level: Level) {
        assert!(records > 0, "a batch has records");
        let before = self.pending.back().map_or(self.high_watermark, |(end, _)| *end);
        assert_eq!(before, self.log_end, "what waits reaches to the log's end");
        self.log_end = self.log_end.plus(records);
        match self.pending.back_mut() {
            Some((end, last)) if *last == level => *end = self.log_end,
            _ => self.pending.push_back((self.log_end, level)),
        }
    }

    /// The disk got as far as this. Returns the move of the HighWatermark, if it moved.
    pub fn on_flushed(&mut self, written: Offset, durable: Offset) -> Option<Advanced> {
        assert!(self.written <= written && written <= self.log_end, "writes go forward");
        assert!(self.durable <= durable && durable <= written, "durable follows written");
        (self.written, self.durable) = (written, durable);
        let ends = self.pending.back().is_none_or(|(end, _)| *end == self.log_end);
        assert!(ends, "what waits reaches to the log's end");
        let from = self.high_watermark;
        while let Some(&(end, level)) = self.pending.front() {
            let reached = match level {
                Level::Written => written,
                Level::Durable => durable,
            };
            self.high_watermark = self.high_watermark.max(reached.min(end));
            if reached < end {
                break;
            }
            self.pending.pop_front();
        }
        assert!(from <= self.high_watermark, "HighWatermark never moves back");
        assert!(self.high_watermark <= self.log_end);
        (from < self.high_watermark).then_some(Advanced { from, to: self.high_watermark })
    }

    /// Everything above `written` was dropped because the disk refused it.
    pub fn on_unwritten_dropped(&mut self) {
        self.log_end = self.written;
        while self.pending.back().is_some_and(|(end, _)| *end > self.written) {
            let (_, level) = self.pending.pop_back().expect("looked at above");
            let before = self.pending.back().map_or(self.high_watermark, |(end, _)| *end);
            if before < self.written {
                self.pending.push_back((self.written, level));
            }
        }
        assert!(self.high_watermark <= self.log_end, "what is committed is never dropped");
        assert!(self.log_start <= self.log_end, "what is dropped was above the log's start");
    }

    /// Records below `offset`, which are committed, were deleted.
    pub fn on_log_start(&mut self, offset: Offset) {
        assert!(offset <= self.high_watermark, "only committed records are deleted");
        self.log_start = self.log_start.max(offset);
        assert!(self.log_start <= self.log_end, "a log begins before it ends");
    }

    /// How far the disk was when it was last told.
    #[must_use]
    pub fn durable(&self) -> Offset {
        self.durable
    }

    /// Whether a client that believes in `current_leader_epoch` (-1: does not say) may go on.
    ///
    /// # Errors
    /// It is behind or ahead of this leader.
    pub fn check_epoch(&self, current_leader_epoch: i32) -> Result<(), FetchError> {
        match current_leader_epoch {
            -1 => Ok(()),
            epoch if epoch < self.epoch.0 => Err(FetchError::FencedLeaderEpoch),
            epoch if epoch > self.epoch.0 => Err(FetchError::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// Whether a consumer may fetch from `offset`.
    ///
    /// # Errors
    /// Wrong epoch, or an offset outside the log.
    pub fn check_fetch(&self, offset: Offset, epoch: i32) -> Result<(), FetchError> {
        self.check_epoch(epoch)?;
        if offset < self.log_start || self.log_end < offset {
            return Err(FetchError::OffsetOutOfRange);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader() -> Leader {
        Leader::new(LeaderEpoch(3), Offset(10), Offset(20))
    }

    #[test]
    fn each_batch_is_committed_at_the_level_its_producer_asked_for() {
        let mut leader = leader();
        leader.on_appended(5, Level::Written);
        leader.on_appended(5, Level::Durable);
        leader.on_appended(5, Level::Written);
        let advanced = leader.on_flushed(Offset(35), Offset(20));
        assert_eq!(advanced, Some(Advanced { from: Offset(20), to: Offset(25) }));
        assert_eq!(leader.on_flushed(Offset(35), Offset(27)).unwrap().to, Offset(27));
        assert_eq!(leader.on_flushed(Offset(35), Offset(30)).unwrap().to, Offset(35));
        assert_eq!(leader.on_flushed(Offset(35), Offset(35)), None);
    }

    #[test]
    fn dropping_the_unwritten_keeps_what_was_written() {
        let mut leader = leader();
        leader.on_appended(5, Level::Durable);
        leader.on_appended(5, Level::Written);
        leader.on_flushed(Offset(22), Offset(20));
        leader.on_unwritten_dropped();
        assert_eq!(leader.log_end(), Offset(22));
        leader.on_appended(1, Level::Written);
        assert_eq!(leader.on_flushed(Offset(23), Offset(20)), None);
        assert_eq!(leader.on_flushed(Offset(23), Offset(22)).unwrap().to, Offset(23));
    }

    #[test]
    fn epochs_and_offsets_are_checked() {
        let leader = leader();
        assert_eq!(leader.check_fetch(Offset(10), -1), Ok(()));
        assert_eq!(leader.check_fetch(Offset(20), 3), Ok(()));
        assert_eq!(leader.check_fetch(Offset(9), 3), Err(FetchError::OffsetOutOfRange));
        assert_eq!(leader.check_fetch(Offset(21), 3), Err(FetchError::OffsetOutOfRange));
        assert_eq!(leader.check_fetch(Offset(10), 2), Err(FetchError::FencedLeaderEpoch));
        assert_eq!(leader.check_fetch(Offset(10), 4), Err(FetchError::UnknownLeaderEpoch));
    }
}
