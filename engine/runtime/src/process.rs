//! This process and others: signals, CPU time, memory, descriptors.
#![allow(unsafe_code)]

use crate::op::Op;
use crate::submit::submit;
use std::io;
use std::os::fd::RawFd;

/// SIGINT, SIGTERM and SIGHUP (a terminal that was closed) as something a thread can wait for. SIGUSR1 and SIGUSR2,
/// which log rotation may send, are ignored.
pub struct StopSignals {
    fd: RawFd,
}

impl StopSignals {
    /// Blocks these signals for this thread and those it starts later, and listens for them. Call
    /// before starting threads.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn listen() -> io::Result<Self> {
        // SAFETY: `set` is initialised by sigemptyset before it is used.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGHUP);
            libc::signal(libc::SIGUSR1, libc::SIG_IGN);
            libc::signal(libc::SIGUSR2, libc::SIG_IGN);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { fd }) }
    }

    /// Waits for the next one.
    pub async fn wait(&self) {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            submit(Op::Readable { fd: self.fd }).await;
            // SAFETY: the buffer is as long as one siginfo.
            let read = unsafe { libc::read(self.fd, info.as_mut_ptr().cast(), info.len()) };
            if read > 0 {
                return;
            }
        }
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { libc::close(self.fd) };
    }
}

/// This machine's name, if it has one.
#[must_use]
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty() && name != "(none)")
}

/// Asks a process to stop (SIGTERM).
pub fn terminate(pid: u32) {
    signal(pid, libc::SIGTERM);
}

/// Ends a process at once (SIGKILL).
pub fn kill(pid: u32) {
    signal(pid, libc::SIGKILL);
}

/// Makes a process stand still (SIGSTOP).
pub fn pause(pid: u32) {
    signal(pid, libc::SIGSTOP);
}

/// Lets a paused process go on (SIGCONT).
pub fn resume(pid: u32) {
    signal(pid, libc::SIGCONT);
}

fn signal(pid: u32, number: libc::c_int) {
    // SAFETY: a plain system call.
    unsafe { libc::kill(pid as libc::pid_t, number) };
}

/// Makes the kernel end this process when its parent dies, so that no child is left behind.
pub fn die_with_parent() {
    // SAFETY: a plain system call.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Lets timers of this thread fire on time instead of up to 50 microseconds late.
pub fn precise_timers() {
    // SAFETY: a plain system call.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// What a process used so far, from /proc.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time in user mode, in seconds.
    pub user_s: f64,
    /// CPU time in the kernel, in seconds.
    pub system_s: f64,
    /// Largest resident memory so far, in bytes.
    pub resident_peak_bytes: u64,
    /// Resident memory now, in bytes.
    pub resident_bytes: u64,
    /// Bytes its writes sent towards the disks (0 where /proc does not tell).
    pub disk_write_bytes: u64,
}

/// Usage of a process; `None` when it is gone.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // SAFETY: a plain library call.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let seconds = |index: usize| fields.get(index)?.parse::<f64>().ok().map(|t| t / ticks);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let number = |text: &str, name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    // `schedstat` counts nanoseconds where `stat` counts ticks of 10 ms, but only per thread.
    Some(Usage {
        user_s: seconds(11)?,
        system_s: seconds(12)?,
        resident_peak_bytes: number(&status, "VmHWM:") * 1024,
        resident_bytes: number(&status, "VmRSS:") * 1024,
        disk_write_bytes: number(&io, "write_bytes:"),
    })
}

/// The share of CPU time the hypervisor kept from this machine since boot, as (stolen, total) in
/// ticks over all CPUs.
#[must_use]
pub fn stolen_ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    (ticks.get(7).copied().unwrap_or(0), ticks.iter().take(8).sum())
}

/// Files and connections that this process has open, and as many as it may have; `None` where /proc does not tell.
#[must_use]
pub fn open_files() -> Option<(u64, u64)> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place, which the call only writes.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    // One is open to list them.
    (told == 0).then_some((open.saturating_sub(1), limit.rlim_cur))
}

/// Raises the limit of open files as far as allowed; returns the limit now in force.
#[must_use]
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place; the calls only read and write it.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let wanted = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) == 0 {
            limit.rlim_cur = limit.rlim_max;
        }
    }
    limit.rlim_cur
}
