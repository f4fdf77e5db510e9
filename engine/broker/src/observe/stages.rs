//! How long each stage of a request takes on this broker: a histogram per stage and shard, written by its
//! shard alone and readable by all.

use runtime::clock::{Nanos, now};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A stage, in the order in which a record comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    ShardQueue,
    Append,
    Write,
    Sync,
    Produce,
    FetchWakeUp,
    Send,
}

/// Every stage, as it is told.
const STAGES: [(Stage, &str); 7] = [
    // From the shard that read a request to the one that owns its partition.
    (Stage::ShardQueue, "shard_queue"),
    // The appends of a produce request on one shard: checksums, and the copy into memory.
    (Stage::Append, "append"),
    // Writing what was appended to a segment; it then survives kill -9.
    (Stage::Write, "write"),
    // Writing and syncing, in the journal or a segment; it then survives a power cut.
    (Stage::Sync, "sync"),
    // A whole produce request, from its last byte read to its answer made.
    (Stage::Produce, "produce"),
    // From where records became visible to the answer of a fetch that waited for them.
    (Stage::FetchWakeUp, "fetch_wake_up"),
    // Handing answers to the socket, until it took all of them.
    (Stage::Send, "send"),
];

/// Durations below this are one bucket.
const FLOOR_NS: u64 = 1 << FLOOR_BITS;
const FLOOR_BITS: u32 = 10;
/// Above it each power of two is cut into so many buckets: a quantile is true to a fifth.
const CUTS: u64 = 4;
const CUT_BITS: u32 = CUTS.trailing_zeros();
/// Everything beyond 2^36 ns, about 69 s, is one bucket.
const POWERS: usize = 26;
const BUCKETS: usize = 1 + POWERS * CUTS as usize + 1;

struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0) }
    }
}

/// The bucket of a duration.
fn bucket_of(ns: u64) -> usize {
    if ns < FLOOR_NS {
        return 0;
    }
    let power = ns.ilog2();
    let cut = (ns >> (power - CUT_BITS)) - CUTS;
    let bucket = 1 + u64::from(power - FLOOR_BITS) * CUTS + cut;
    (bucket as usize).min(BUCKETS - 1)
}

/// The first duration that is beyond a bucket; `None`: it has no end.
fn end_of(bucket: usize) -> Option<u64> {
    match bucket {
        0 => Some(FLOOR_NS),
        _ if bucket == BUCKETS - 1 => None,
        _ => {
            let (power, cut) = ((bucket as u64 - 1) / CUTS, (bucket as u64 - 1) % CUTS);
            Some((CUTS + cut + 1) << (power as u32 + FLOOR_BITS - CUT_BITS))
        }
    }
}

/// The stages of one shard.
#[derive(Default)]
pub(crate) struct StageTimes {
    histograms: [Histogram; STAGES.len()],
}

impl StageTimes {
    /// Counts a stage that began then and ends now.
    pub(crate) fn ended(&self, stage: Stage, began: Nanos) {
        let ns = now().since(began);
        let histogram = &self.histograms[stage as usize];
        // Only its shard writes: no locked instruction is needed.
        let add = |counter: &AtomicU64, more| {
            counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        };
        add(&histogram.counts[bucket_of(ns)], 1);
        add(&histogram.sum_ns, ns);
    }
}

/// All shards' stages together, as a Prometheus histogram.
pub(crate) fn put_histograms(shards: &[StageTimes], out: &mut String) {
    out.push_str(
        "# HELP weir_stage_seconds How long each stage of a request takes on this broker.\n\
         # TYPE weir_stage_seconds histogram\n",
    );
    for (at, (_, name)) in STAGES.iter().enumerate() {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut count = 0;
        for bucket in 0..BUCKETS {
            let of = |shard: &StageTimes| read(&shard.histograms[at].counts[bucket]);
            count += shards.iter().map(of).sum::<u64>();
            let end = end_of(bucket).map_or("+Inf".to_owned(), |ns| (ns as f64 / 1e9).to_string());
            let _ =
                writeln!(out, "weir_stage_seconds_bucket{{stage=\"{name}\",le=\"{end}\"}} {count}");
        }
        let sum: u64 = shards.iter().map(|shard| read(&shard.histograms[at].sum_ns)).sum();
        let _ = writeln!(out, "weir_stage_seconds_sum{{stage=\"{name}\"}} {}", sum as f64 / 1e9);
        let _ = writeln!(out, "weir_stage_seconds_count{{stage=\"{name}\"}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_the_bucket_whose_bounds_hold_it() {
        let edges = (0..63).flat_map(|power| {
            let at = 1u64 << power;
            [at - 1, at, at + 1, at + at / 4, at + at / 2 - 1, at + at / 2]
        });
        for ns in edges {
            let bucket = bucket_of(ns);
            assert!(end_of(bucket).is_none_or(|end| ns < end), "{ns} in {bucket}");
            let begin = bucket.checked_sub(1).and_then(end_of).unwrap_or(0);
            assert!(begin <= ns, "{ns} in {bucket}");
        }
        let ends: Vec<u64> = (0..BUCKETS - 1).map(|bucket| end_of(bucket).unwrap()).collect();
        assert!(ends.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= pair[0] * 5 / 4));
        assert_eq!(*ends.last().unwrap(), 1 << 36);
    }

    #[test]
    fn stages_are_told_by_their_own_names_and_add_up_over_shards() {
        assert!(STAGES.iter().enumerate().all(|(at, (stage, _))| *stage as usize == at));
        let shards = [StageTimes::default(), StageTimes::default()];
        shards[0].ended(Stage::Sync, now());
        shards[1].ended(Stage::Sync, now());
        let mut out = String::new();
        put_histograms(&shards, &mut out);
        assert!(out.contains("weir_stage_seconds_count{stage=\"sync\"} 2\n"), "{out}");
        assert!(out.contains("weir_stage_seconds_bucket{stage=\"sync\",le=\"+Inf\"} 2\n"));
        assert!(out.contains("weir_stage_seconds_count{stage=\"append\"} 0\n"));
    }
}
