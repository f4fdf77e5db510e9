//! The watchdog of turns: how long the loops of this process kept their rings waiting.
//!
//! A turn begins when the kernel was asked for what has happened and ends when it is asked again; what comes meanwhile
//! waits. Nothing should keep a thread for longer than a few slices (`Slice`).

use crate::clock::{self, Nanos};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Turns are counted from here on.
const LONG: Duration = Duration::from_millis(2);
/// The lengths that are told apart, in ms: the first is `LONG`.
pub const LENGTHS_MS: [u64; 6] = [2, 10, 50, 200, 1000, 5000];

static LONGER: [AtomicU64; LENGTHS_MS.len()] = [const { AtomicU64::new(0) }; LENGTHS_MS.len()];

/// How many turns took longer than each of `LENGTHS_MS`, in all threads since the start.
#[must_use]
pub fn long_turns() -> [u64; LENGTHS_MS.len()] {
    std::array::from_fn(|number| LONGER[number].load(Ordering::Relaxed))
}

/// Tests run on machines that give a thread its core only now and then: their builds measure CPU time, which costs a
/// system call a turn. Others measure time as everybody who waits does.
pub(crate) fn clock() -> Nanos {
    if cfg!(debug_assertions) { clock::thread_cpu() } else { clock::now() }
}

/// Counts a turn.
pub(crate) fn on_turn(began: Nanos, ended: Nanos) {
    let ns = ended.since(began);
    if ns < LONG.as_nanos() as u64 {
        return;
    }
    for (length_ms, longer) in LENGTHS_MS.iter().zip(&LONGER) {
        if ns >= length_ms * 1_000_000 {
            longer.fetch_add(1, Ordering::Relaxed);
        }
    }
}
