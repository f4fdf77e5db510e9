//! Threads: named, and pinned to a core where asked.
#![allow(clippy::disallowed_methods)]
#![allow(unsafe_code)]

use std::io;
use std::path::Path;
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

/// CPUs' worth of time that the control group of this process, or one above it, gets at most (`cpu.max`), rounded up;
/// `None` without a limit.
#[must_use]
pub fn cpu_quota() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let group = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    let limits = group.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup"));
    let texts = limits.filter_map(|group| std::fs::read_to_string(group.join("cpu.max")).ok());
    texts.filter_map(|text| quota_of(&text)).min()
}

fn quota_of(text: &str) -> Option<usize> {
    let (quota_us, period_us) = text.trim().split_once(' ')?;
    let (quota_us, period_us): (u64, u64) = (quota_us.parse().ok()?, period_us.parse().ok()?);
    (period_us > 0).then(|| (quota_us.div_ceil(period_us) as usize).max(1))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_rounded_up_to_whole_processors() {
        assert_eq!(quota_of("max 100000\n"), None);
        assert_eq!(quota_of("200000 100000\n"), Some(2));
        assert_eq!(quota_of("150000 100000\n"), Some(2));
        assert_eq!(quota_of("1000 100000\n"), Some(1));
        assert_eq!(quota_of("nonsense"), None);
    }
}
