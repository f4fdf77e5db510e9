//! Where each leader epoch of a partition began (KIP-101).

use model::{LeaderEpoch, Offset, crc32c};

const MAGIC: &[u8; 8] = b"WEIREPOC";

/// Epochs with their first offsets. Invariant: both ascend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl LeaderEpochs {
    /// Notes that `epoch` appends at `offset`; true if the epoch is new.
    pub fn on_append(&mut self, epoch: LeaderEpoch, offset: Offset) -> bool {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return false;
        }
        let follows = self.starts.last().is_none_or(|(_, start)| *start < offset);
        assert!(follows, "each epoch begins behind the one before it");
        self.starts.push((epoch, offset));
        true
    }

    /// The newest epoch that appended anything.
    #[must_use]
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|(epoch, _)| *epoch)
    }

    /// The largest epoch at or below `asked` of which records are left, and where it ended (KIP-279). One from before
    /// all that is left ended where that begins: whoever has read that far goes on there.
    #[must_use]
    pub fn end_of(
        &self,
        asked: LeaderEpoch,
        log_start: Offset,
        log_end: Offset,
    ) -> (LeaderEpoch, Offset) {
        assert!(log_start <= log_end, "a log begins before it ends");
        let first = self.starts.partition_point(|(_, start)| *start <= log_start).saturating_sub(1);
        let left = &self.starts[first..];
        let after = left.partition_point(|(epoch, _)| *epoch <= asked);
        let end = left.get(after).map_or(log_end, |(_, start)| (*start).max(log_start));
        let epoch = after.checked_sub(1).map_or(asked, |at| left[at].0);
        assert!(log_start <= end, "an epoch ends where there are records, or where they begin");
        (epoch, end)
    }

    /// The epoch that appended `offset`.
    #[must_use]
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|(_, start)| *start <= offset);
        Some(self.starts.get(after.checked_sub(1)?)?.0)
    }

    /// Forgets epochs that began at or behind `log_end`.
    pub fn truncate(&mut self, log_end: Offset) {
        self.starts.retain(|(_, start)| *start < log_end);
        assert!(
            self.starts.iter().all(|(_, start)| *start < log_end),
            "nothing begins behind the end"
        );
    }

    /// Each epoch with its first offset.
    #[must_use]
    pub fn starts(&self) -> &[(LeaderEpoch, Offset)] {
        &self.starts
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(self.starts.len() as u32).to_be_bytes());
        for (epoch, start) in &self.starts {
            out.extend_from_slice(&epoch.0.to_be_bytes());
            out.extend_from_slice(&start.0.to_be_bytes());
        }
        let crc = crc32c::checksum(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads a file's bytes; any bytes are allowed.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let entries = body.strip_prefix(MAGIC)?.get(4..)?;
        if u32::from_be_bytes(*crc) != crc32c::checksum(body) || !entries.len().is_multiple_of(12) {
            return None;
        }
        let starts = entries.chunks_exact(12).map(|entry| {
            let epoch = i32::from_be_bytes(entry[..4].try_into().expect("4 bytes"));
            let start = i64::from_be_bytes(entry[4..].try_into().expect("8 bytes"));
            (LeaderEpoch(epoch), Offset(start))
        });
        Some(Self { starts: starts.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next() {
        let mut epochs = LeaderEpochs::default();
        assert!(epochs.on_append(LeaderEpoch(2), Offset(0)));
        assert!(!epochs.on_append(LeaderEpoch(2), Offset(5)));
        assert!(epochs.on_append(LeaderEpoch(5), Offset(10)));
        let end = |epoch| epochs.end_of(LeaderEpoch(epoch), Offset(0), Offset(20));
        assert_eq!(end(1), (LeaderEpoch(1), Offset(0)), "from before all that is known");
        assert_eq!(end(2), (LeaderEpoch(2), Offset(10)));
        assert_eq!(end(4), (LeaderEpoch(2), Offset(10)));
        assert_eq!(end(9), (LeaderEpoch(5), Offset(20)));
        assert_eq!(epochs.epoch_of(Offset(10)), Some(LeaderEpoch(5)));
        assert_eq!(LeaderEpochs::decode(&epochs.encode()), Some(epochs));
    }

    /// As Apache Kafka 4.1 answers them, of epochs 0, 2 and 4 from 0, 10 and 20 on.
    #[test]
    fn epochs_whose_records_are_deleted_end_where_what_is_left_begins() {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in [(0, 0), (2, 10), (4, 20)] {
            epochs.on_append(LeaderEpoch(epoch), Offset(start));
        }
        let ends = |epochs: &LeaderEpochs, log_start| {
            let end = |epoch| epochs.end_of(LeaderEpoch(epoch), Offset(log_start), Offset(30));
            [0, 1, 2, 3, 4].map(end).map(|(epoch, end)| (epoch.0, end.0))
        };
        assert_eq!(ends(&epochs, 0), [(0, 10), (0, 10), (2, 20), (2, 20), (4, 30)]);
        assert_eq!(ends(&epochs, 15), [(0, 15), (1, 15), (2, 20), (2, 20), (4, 30)]);
        assert_eq!(ends(&epochs, 30), [(0, 30), (1, 30), (2, 30), (3, 30), (4, 30)]);
        assert_eq!(ends(&LeaderEpochs::default(), 30)[3], (3, 30), "nothing was ever appended");
    }
}
