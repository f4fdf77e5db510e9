//! Sees each record once: what is lost, repeated, out of order.

use std::collections::BTreeMap;

/// What was seen of one producer's records in one partition, by sequence number from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    next: u64,
    /// Gaps below `next`: first number to the number behind the last.
    gaps: BTreeMap<u64, u64>,
}

/// What one record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    InOrder,
    /// Came after a later one.
    OutOfOrder,
    /// Came before.
    Duplicate,
}

impl Seen {
    pub(crate) fn see(&mut self, sequence: u64) -> Verdict {
        if sequence >= self.next {
            if sequence > self.next {
                self.gaps.insert(self.next, sequence);
            }
            self.next = sequence + 1;
            return Verdict::InOrder;
        }
        let Some((&first, &behind)) = self.gaps.range(..=sequence).next_back() else {
            return Verdict::Duplicate;
        };
        if sequence >= behind {
            return Verdict::Duplicate;
        }
        self.gaps.remove(&first);
        if first < sequence {
            self.gaps.insert(first, sequence);
        }
        if sequence + 1 < behind {
            self.gaps.insert(sequence + 1, behind);
        }
        Verdict::OutOfOrder
    }

    /// What was seen, as ranges in order: first number to the number behind the last.
    fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        let mut from = 0;
        for (&first, &behind) in &self.gaps {
            if from < first {
                ranges.push((from, first));
            }
            from = behind;
        }
        if from < self.next {
            ranges.push((from, self.next));
        }
        ranges
    }

    /// Adds what another consumer of the same group saw; returns how many numbers both did.
    pub(crate) fn join(&mut self, other: &Self) -> u64 {
        let mut all = self.ranges();
        all.extend(other.ranges());
        all.sort_unstable();
        let (mut twice, mut joined): (u64, Vec<(u64, u64)>) = (0, Vec::new());
        for (first, behind) in all {
            match joined.last_mut() {
                Some(last) if first <= last.1 => {
                    twice += last.1.min(behind) - first;
                    last.1 = last.1.max(behind);
                }
                _ => joined.push((first, behind)),
            }
        }
        self.next = joined.last().map_or(0, |(_, behind)| *behind);
        self.gaps.clear();
        let mut from = 0;
        for (first, behind) in joined {
            if from < first {
                self.gaps.insert(from, first);
            }
            from = behind;
        }
        twice
    }

    /// Numbers below `sent` that were not seen and are not in `failed` (ranges whose send was not
    /// acknowledged, so that nothing was promised).
    pub(crate) fn lost(&self, sent: u64, failed: &[(u64, u64)]) -> u64 {
        let tail = (self.next < sent).then_some((self.next, sent));
        let missing = self.gaps.iter().map(|(&first, &behind)| (first, behind)).chain(tail);
        let overlap = |first: u64, behind: u64| -> u64 {
            failed.iter().map(|&(f, b)| behind.min(b).saturating_sub(first.max(f))).sum()
        };
        missing.map(|(first, behind)| behind - first - overlap(first, behind)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_repetition_and_reordering_are_told_apart() {
        let mut seen = Seen::default();
        let verdicts: Vec<_> = [0, 1, 4, 2, 2, 9, 1].iter().map(|n| seen.see(*n)).collect();
        use Verdict::{Duplicate, InOrder, OutOfOrder};
        assert_eq!(
            verdicts,
            [InOrder, InOrder, InOrder, OutOfOrder, Duplicate, InOrder, Duplicate]
        );
        // Missing: 3, 5 to 8, and 10, 11.
        assert_eq!(seen.lost(12, &[]), 7);
        assert_eq!(seen.lost(12, &[(5, 7), (11, 12)]), 4);
        assert_eq!(Seen::default().lost(3, &[]), 3);
    }

    #[test]
    fn what_two_consumers_saw_is_joined() {
        let see = |numbers: &[u64]| {
            let mut seen = Seen::default();
            for number in numbers {
                seen.see(*number);
            }
            seen
        };
        let mut seen = see(&[0, 1, 2, 3, 8]);
        assert_eq!(seen.join(&see(&[2, 3, 4, 5])), 2);
        assert_eq!(seen.join(&see(&[])), 0);
        assert_eq!(seen.lost(10, &[]), 3);
        assert_eq!(seen.join(&see(&[6, 7, 8, 9])), 1);
        assert_eq!(seen.lost(10, &[]), 0);
        assert_eq!(seen.see(9), Verdict::Duplicate);
        assert_eq!(seen.see(10), Verdict::InOrder);
    }
}
