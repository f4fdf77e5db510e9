//! When each record is to be sent: a value, fixed before the run.

use runtime::clock::Nanos;

/// A constant rate, shared by producers that take turns. Record `n` of producer `p` of `P` is record
/// `n * P + p` of the whole schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start: Nanos,
    rate: u64,
    producers: u64,
    producer: u64,
}

impl Schedule {
    /// The part of producer `producer` (from 0) of `producers` in a schedule of `rate` records per
    /// second; rate 0 has no plan.
    pub(crate) fn new(start: Nanos, rate: u64, producers: usize, producer: usize) -> Self {
        Self { start, rate, producers: producers as u64, producer: producer as u64 }
    }

    /// Whether there is a plan.
    pub(crate) fn is_open_loop(&self) -> bool {
        self.rate > 0
    }

    /// When this producer's record number `n` is planned.
    pub(crate) fn planned(&self, n: u64) -> Nanos {
        let number = u128::from(n * self.producers + self.producer);
        let ns = number * 1_000_000_000 / u128::from(self.rate.max(1));
        Nanos(self.start.0 + u64::try_from(ns).unwrap_or(u64::MAX / 2))
    }

    /// Records planned for all producers within `seconds`.
    pub(crate) fn planned_within(rate: u64, seconds: f64) -> u64 {
        (rate as f64 * seconds).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_together_keep_the_rate_without_drift() {
        let part = |p| Schedule::new(Nanos(1_000), 30_000, 3, p);
        let mut all: Vec<_> =
            (0..3).flat_map(|p| (0..10_000).map(move |n| part(p).planned(n))).collect();
        all.sort_unstable();
        for (number, at) in all.iter().enumerate() {
            assert_eq!(at.0, 1_000 + number as u64 * 1_000_000_000 / 30_000);
        }
    }
}
