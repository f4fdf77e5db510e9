//! Latency histograms: every value from 1 ns to 1 h with 3 digits; nothing is sampled or dropped.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};

/// Largest value; a larger one is counted here and reported.
const MAX_NS: u64 = 3_600_000_000_000;
/// With fewer samples beyond a percentile it is chance, and not told.
const SAMPLES_BEYOND_MIN: f64 = 10.0;

/// The percentiles of every table, with their names.
pub(crate) const PERCENTILES: [(&str, f64); 6] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p95", 95.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
];

/// A histogram of nanoseconds.
#[derive(Clone)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
    clamped: u64,
    /// Values that ended without their event: the true one is at least what was counted.
    open: u64,
    open_min: u64,
}

/// Values in a row that fall into one bucket.
#[derive(Default)]
pub(crate) struct Run {
    bucket: u64,
    value: u64,
    count: u64,
}

/// Which bucket of three digits a value falls into: its highest 11 bits, and where they are. Never 0.
fn bucket_of(ns: u64) -> u64 {
    let shift = 53u32.saturating_sub(ns.leading_zeros());
    (ns >> shift) | u64::from(shift + 1) << 48
}

impl Default for Latency {
    fn default() -> Self {
        // It grows with its largest value: each of a thousand producers has several.
        let histogram = Histogram::new(3).expect("three digits are valid");
        Self { histogram, clamped: 0, open: 0, open_min: u64::MAX }
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

    /// Counts one value, joined with those before it that fall into the same bucket: neighbours of a
    /// batch mostly do, and to find a bucket costs more than to see that it is the same.
    pub(crate) fn record_next(&mut self, run: &mut Run, ns: u64) {
        let bucket = bucket_of(ns);
        if bucket == run.bucket {
            run.count += 1;
        } else {
            self.record_run(run);
            *run = Run { bucket, value: ns, count: 1 };
        }
    }

    /// Counts what `record_next` has joined so far.
    pub(crate) fn record_run(&mut self, run: &mut Run) {
        let run = std::mem::take(run);
        if run.count > 0 {
            self.record(run.value, run.count);
        }
    }

    /// Counts a value that would have been at least `ns`.
    pub(crate) fn record_open(&mut self, ns: u64) {
        self.record(ns, 1);
        self.open += 1;
        self.open_min = self.open_min.min(ns);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("equal bounds");
        self.clamped += other.clamped;
        self.open += other.open;
        self.open_min = self.open_min.min(other.open_min);
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn clamped(&self) -> u64 {
        self.clamped
    }

    /// How many values are lower bounds only.
    pub(crate) fn open(&self) -> u64 {
        self.open
    }

    /// Values from here on may be lower bounds.
    pub(crate) fn open_from_ms(&self) -> Option<f64> {
        (self.open > 0).then(|| self.open_min as f64 / 1e6)
    }

    /// The value at a percentile in milliseconds; `None` with fewer than 10 samples beyond it, for
    /// then it is chance.
    pub(crate) fn percentile_ms(&self, percentile: f64) -> Option<f64> {
        let beyond = self.count() as f64 * (1.0 - percentile / 100.0);
        (beyond >= SAMPLES_BEYOND_MIN || percentile <= 50.0 && self.count() > 0)
            .then(|| self.histogram.value_at_percentile(percentile) as f64 / 1e6)
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.histogram.max() as f64 / 1e6
    }

    pub(crate) fn inner(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// The curve as (percentile, ms): steps that halve what is left, eight to each half.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        let mut curve = Vec::new();
        if self.count() == 0 {
            return curve;
        }
        for step in 0.. {
            let left = 0.5f64.powf(f64::from(step) / 8.0);
            if left * (self.count() as f64) < 1.0 {
                break;
            }
            let percentile = (1.0 - left) * 100.0;
            curve.push((percentile, self.histogram.value_at_percentile(percentile) as f64 / 1e6));
        }
        curve.push((100.0, self.max_ms()));
        curve
    }

    /// Counts below each of these edges (ms, rising), and at last those above all.
    pub(crate) fn counts_between(&self, edges_ms: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; edges_ms.len() + 1];
        for value in self.histogram.iter_recorded() {
            let ms = value.value_iterated_to() as f64 / 1e6;
            counts[edges_ms.partition_point(|edge| *edge <= ms)] += value.count_at_value();
        }
        counts
    }
}

/// As HdrHistogram's own bytes (V2), so that load machines can be joined.
impl serde::Serialize for Latency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&self.histogram, &mut bytes)
            .map_err(|error| serde::ser::Error::custom(format!("{error:?}")))?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        (hex, self.clamped, self.open, self.open_min).serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Latency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let (hex, clamped, open, open_min) = <(String, u64, u64, u64)>::deserialize(deserializer)?;
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
        let bytes = bytes.ok_or_else(|| D::Error::custom("no hexadecimal digits"))?;
        let read: Histogram<u64> = Deserializer::new()
            .deserialize(&mut &bytes[..])
            .map_err(|error| D::Error::custom(format!("no histogram: {error:?}")))?;
        let mut latency = Self { clamped, open, open_min, ..Self::default() };
        latency.histogram.add(&read).map_err(|error| D::Error::custom(format!("{error:?}")))?;
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::random::Random;

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

    #[test]
    fn merged_percentiles_are_those_of_the_union_and_nothing_is_lost() {
        let (mut parts, mut whole) = (vec![Latency::default(); 7], Latency::default());
        let mut exact = Vec::new();
        let mut random = Random::new(11);
        for n in 0..100_000 {
            let ns = 1 << random.below(34) | random.below(1 << 20);
            parts[n % 7].record(ns, 1);
            whole.record(ns, 1);
            exact.push(ns);
        }
        let mut merged = Latency::default();
        for part in &parts {
            // Over the wire and back, as from another load machine.
            let text = serde_json::to_string(part).unwrap();
            merged.add(&serde_json::from_str(&text).unwrap());
        }
        exact.sort_unstable();
        assert_eq!(merged.count(), 100_000);
        for percentile in [1.0, 50.0, 90.0, 99.0, 99.9] {
            let found = merged.percentile_ms(percentile).unwrap();
            assert_eq!(Some(found), whole.percentile_ms(percentile));
            let at = (percentile / 100.0 * exact.len() as f64).ceil() as usize - 1;
            let true_ms = exact[at] as f64 / 1e6;
            // The stated error of three digits.
            assert!((found / true_ms - 1.0).abs() <= 1e-3, "p{percentile}: {found} for {true_ms}");
        }
        assert_eq!(merged.counts_between(&[0.1, 1.0, 10.0]).iter().sum::<u64>(), 100_000);
        let curve = merged.curve();
        assert!(curve.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }

    #[test]
    fn joined_values_count_as_single_ones_do() {
        let mut random = Random::new(3);
        let (mut joined, mut single) = (Latency::default(), Latency::default());
        for _ in 0..2_000 {
            let mut run = Run::default();
            let bits = 1 + random.below(36);
            let mut ns = random.below(1 << bits);
            for _ in 0..random.below(40) {
                joined.record_next(&mut run, ns);
                single.record(ns, 1);
                ns = ns.saturating_sub(random.below(700));
            }
            joined.record_run(&mut run);
        }
        assert_eq!(joined.count(), single.count());
        assert!(joined.histogram == single.histogram, "bucket by bucket");
    }

    #[test]
    fn what_never_ended_counts_as_a_lower_bound() {
        let mut latency = Latency::default();
        latency.record(1_000_000, 90);
        (0..10).for_each(|_| latency.record_open(500_000_000));
        assert_eq!((latency.count(), latency.open()), (100, 10));
        assert_eq!(latency.open_from_ms(), Some(500.0));
        assert!(latency.percentile_ms(89.0).unwrap() < 2.0);
        assert!(latency.max_ms() >= 499.0);
    }
}
