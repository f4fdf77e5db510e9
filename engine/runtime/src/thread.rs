//! Threads: named, and pinned to a core where asked.
#![allow(unsafe_code)]

use std::io;
use std::thread::JoinHandle;

/// Starts a thread with this name. Pinning to `cpu` is best effort: a container may forbid it.
///
/// # Errors
/// When the system has no room for another thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    cpu: Option<usize>,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(cpu) = cpu {
            pin_current(cpu);
        }
        body()
    })
}

/// CPUs this process may run on, in order.
#[must_use]
pub fn cpus() -> Vec<usize> {
    // SAFETY: plain C structure; all zeroes is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid and its size is given.
    let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if failed != 0 {
        return (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    }
    // SAFETY: the index stays below CPU_SETSIZE.
    let is_set = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    (0..libc::CPU_SETSIZE as usize).filter(is_set).collect()
}

/// Pins the calling thread, best effort.
pub fn pin_current(cpu: usize) {
    // SAFETY: plain C structure; all zeroes is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu < libc::CPU_SETSIZE as usize {
        // SAFETY: the index is below CPU_SETSIZE; the call only reads `set`.
        unsafe {
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
        }
    }
}
