//! What a run's threads see of each other: what is measured, how far all are, when to stop.

use crate::options::args::Args;
use crate::work::histogram::Latency;
use runtime::clock::Nanos;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::Duration;

/// How often the series and the histogram logs get a point.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// The measured part of a run. Records count by their planned time, arrivals by their own.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Window {
    start_ns: u64,
    end_ns: u64,
}

impl Window {
    pub(crate) fn new(start: Nanos, end: Nanos) -> Self {
        Self { start_ns: start.0, end_ns: end.0 }
    }

    pub(crate) fn start(self) -> Nanos {
        Nanos(self.start_ns)
    }

    pub(crate) fn end(self) -> Nanos {
        Nanos(self.end_ns)
    }

    pub(crate) fn contains(self, at: Nanos) -> bool {
        self.start_ns <= at.0 && at.0 < self.end_ns
    }

    pub(crate) fn is_before_end(self, at: Nanos) -> bool {
        at.0 < self.end_ns
    }

    pub(crate) fn seconds(self) -> f64 {
        (self.end_ns - self.start_ns) as f64 / 1e9
    }
}

/// Which latencies an interval holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Kind {
    Produce,
    EndToEnd,
}

/// A second's latencies from one worker.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Interval {
    pub(crate) kind: Kind,
    pub(crate) latency: Latency,
}

/// Where a group is in a partition.
#[derive(Default)]
pub(crate) struct PartitionPlace {
    pub(crate) position: AtomicI64,
    pub(crate) last_planned: AtomicU64,
}

/// Counters every thread sees; single numbers only, for show and for stopping.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) sent: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) consumed: AtomicU64,
    /// Per group and slot.
    pub(crate) places: Vec<PartitionPlace>,
    /// Per slot, where the run begins.
    pub(crate) starts: Vec<i64>,
    pub(crate) records_max: Option<u64>,
    /// Members that have an assignment.
    pub(crate) members_ready: AtomicU64,
    /// What is measured; set before the first record is planned.
    pub(crate) window: OnceLock<Window>,
    starts_at: AtomicU64,
    stop: AtomicBool,
    stop_consumers: AtomicBool,
}

impl Progress {
    pub(crate) fn new(args: &Args, starts: Vec<i64>) -> Self {
        let place = |at: usize| PartitionPlace {
            position: AtomicI64::new(starts[at % starts.len()]),
            last_planned: AtomicU64::new(0),
        };
        Self {
            places: (0..starts.len() * args.groups as usize).map(place).collect(),
            starts,
            records_max: args.num_records,
            ..Self::default()
        }
    }

    /// Fixes when the first record is planned, and what is measured.
    pub(crate) fn begin(&self, start: Nanos, window: Window) {
        self.starts_at.store(start.0, Relaxed);
        let _ = self.window.set(window);
    }

    /// Ends the schedule early, and what waits for answers.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub(crate) fn stop_consumers(&self) {
        self.stop_consumers.store(true, Relaxed);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(crate) fn consumers_stopping(&self) -> bool {
        self.stop_consumers.load(Relaxed)
    }

    /// What is measured; before it is known, nothing.
    pub(crate) fn window(&self) -> Window {
        let never = Nanos(u64::MAX);
        self.window.get().copied().unwrap_or(Window::new(never, never))
    }

    /// When the first record is planned.
    pub(crate) fn starts_at(&self) -> Nanos {
        Nanos(self.starts_at.load(Relaxed))
    }
}
