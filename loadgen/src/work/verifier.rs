//! Sees each record once: what is lost, repeated, out of order.

use std::collections::BTreeMap;

/// Numbers from the first to the one behind the last.
pub(crate) type Span = (u64, u64);

/// What was seen of one producer's records in one partition, by sequence number from 0.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Seen {
    next: u64,
    /// Gaps below `next`: first number to the number behind the last.
    gaps: BTreeMap<u64, u64>,
    /// Seen more than once.
    pub(crate) repeated: Vec<Span>,
    /// Seen after a later one.
    pub(crate) late: Vec<Span>,
}

/// Adds one number to spans that mostly grow at their end.
fn note(spans: &mut Vec<Span>, number: u64) {
    match spans.last_mut() {
        Some(last) if last.1 == number => last.1 += 1,
        _ => spans.push((number, number + 1)),
    }
}

/// How many numbers of `spans` lie in one of `others`, which do not overlap.
pub(crate) fn shared(spans: &[Span], others: &[Span]) -> u64 {
    let of = |&(first, behind): &Span| -> u64 {
        others.iter().map(|&(f, b)| behind.min(b).saturating_sub(first.max(f))).sum()
    };
    spans.iter().map(of).sum()
}

/// How many numbers there are in `spans`.
pub(crate) fn length(spans: &[Span]) -> u64 {
    spans.iter().map(|(first, behind)| behind - first).sum()
}

/// The spans in order, joined where they touch or overlap.
pub(crate) fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut all: Vec<Span> = Vec::with_capacity(spans.len());
    for (first, behind) in spans {
        match all.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(behind),
            _ => all.push((first, behind)),
        }
    }
    all
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
        let gap = self.gaps.range(..=sequence).next_back().map(|(first, behind)| (*first, *behind));
        let Some((first, behind)) = gap.filter(|(_, behind)| sequence < *behind) else {
            note(&mut self.repeated, sequence);
            return Verdict::Duplicate;
        };
        note(&mut self.late, sequence);
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
    fn ranges(&self) -> Vec<Span> {
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
        let mine = length(&all);
        let theirs = other.ranges();
        let sum = mine + length(&theirs);
        all.extend(theirs);
        let all = joined(all);
        self.next = all.last().map_or(0, |(_, behind)| *behind);
        self.gaps.clear();
        let mut from = 0;
        for &(first, behind) in &all {
            if from < first {
                self.gaps.insert(from, first);
            }
            from = behind;
        }
        self.repeated.extend_from_slice(&other.repeated);
        self.late.extend_from_slice(&other.late);
        sum - length(&all)
    }

    /// Numbers below `sent` that were not seen, but for those in `failed` (joined spans whose send
    /// was not acknowledged, so that nothing was promised).
    pub(crate) fn lost(&self, sent: u64, failed: &[Span]) -> Vec<Span> {
        let tail = (self.next < sent).then_some((self.next, sent));
        let missing = self.gaps.iter().map(|(&first, &behind)| (first, behind)).chain(tail);
        let mut lost = Vec::new();
        for (mut first, behind) in missing {
            for &(f, b) in failed {
                if b <= first || f >= behind {
                    continue;
                }
                if first < f {
                    lost.push((first, f));
                }
                first = first.max(b);
            }
            if first < behind {
                lost.push((first, behind));
            }
        }
        lost
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
        assert_eq!(length(&seen.lost(12, &[])), 7);
        assert_eq!(seen.lost(12, &[(5, 7), (11, 12)]), [(3, 4), (7, 9), (10, 11)]);
        assert_eq!((seen.repeated.len(), length(&seen.late)), (2, 1));
        assert_eq!(shared(&seen.repeated, &[(0, 2)]), 1);
        assert_eq!(Seen::default().lost(3, &[]), [(0, 3)]);
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
        assert_eq!(length(&seen.lost(10, &[])), 3);
        assert_eq!(seen.join(&see(&[6, 7, 8, 9])), 1);
        assert_eq!(seen.lost(10, &[]), []);
        assert_eq!(seen.see(9), Verdict::Duplicate);
        assert_eq!(seen.see(10), Verdict::InOrder);
    }
}
