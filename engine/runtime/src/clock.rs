//! Time: monotonic nanoseconds and wall-clock milliseconds, virtual in the twin.
#![allow(clippy::disallowed_methods)]
#![allow(unsafe_code)]

pub use crate::nanos::Nanos;
use crate::thread_core::{Backend, try_with_core};
use std::time::{SystemTime, UNIX_EPOCH};

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
