//! Latency histograms: every value from 1 ns to 1 h with 3 digits; nothing is sampled or dropped.

use hdrhistogram::Histogram;

/// Largest value; a larger one is counted here and reported.
const MAX_NS: u64 = 3_600_000_000_000;

/// The percentiles of every table, with their names.
pub(crate) const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// A histogram of nanoseconds.
#[derive(Clone)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
    clamped: u64,
}

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_NS, 3).expect("bounds are valid");
        Self { histogram, clamped: 0 }
    }
}

impl Latency {
    /// Counts `n` values of `ns`.
    pub(crate) fn record(&mut self, ns: u64, n: u64) {
        if ns > MAX_NS {
            self.clamped += n;
        }
        let value = ns.clamp(1, MAX_NS);
        self.histogram.record_n(value, n).expect("clamped into the bounds");
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("equal bounds");
        self.clamped += other.clamped;
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn clamped(&self) -> u64 {
        self.clamped
    }

    /// The value at a percentile in milliseconds; `None` with fewer than 10 samples beyond it, for
    /// then it is chance.
    pub(crate) fn percentile_ms(&self, percentile: f64) -> Option<f64> {
        let beyond = self.count() as f64 * (1.0 - percentile / 100.0);
        (beyond >= 10.0 || percentile <= 50.0 && self.count() > 0)
            .then(|| self.histogram.value_at_percentile(percentile) as f64 / 1e6)
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.histogram.max() as f64 / 1e6
    }

    pub(crate) fn inner(&self) -> &Histogram<u64> {
        &self.histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_without_enough_samples_are_not_given() {
        let mut latency = Latency::default();
        for ms in 1..=1000 {
            latency.record(ms * 1_000_000, 1);
        }
        assert!((latency.percentile_ms(99.0).unwrap() - 990.0).abs() < 1.0);
        assert_eq!(latency.percentile_ms(99.9), None);
        latency.record(u64::MAX, 2);
        assert_eq!((latency.clamped(), latency.count()), (2, 1002));
    }
}
