//! Time: monotonic nanoseconds and wall-clock milliseconds, virtual in the twin.
#![allow(clippy::disallowed_methods)]
#![allow(unsafe_code)]

use crate::reactor::{Backend, try_with_core};
use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds of the machine's monotonic clock (`CLOCK_MONOTONIC`): comparable between threads
/// and processes of one machine, not between machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Nanoseconds from `earlier` to here; 0 if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Nanos {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ns))
    }
}

/// The monotonic clock.
#[must_use]
pub fn now() -> Nanos {
    simulated().map_or_else(monotonic, |(now, _)| now)
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn unix_ms() -> i64 {
    simulated().map_or_else(
        || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        },
        |(_, unix_ms)| unix_ms,
    )
}

fn simulated() -> Option<(Nanos, i64)> {
    try_with_core(|core| match &*core.backend.borrow() {
        Backend::Ring(_) => None,
        Backend::Simulated(twin) => Some((twin.now(), twin.unix_ms())),
    })
    .flatten()
}

fn monotonic() -> Nanos {
    read(libc::CLOCK_MONOTONIC)
}

/// CPU time of this thread.
pub(crate) fn thread_cpu() -> Nanos {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(failed, 0, "both clocks exist on every Linux");
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
