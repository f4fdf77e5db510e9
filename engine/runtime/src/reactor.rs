//! The loop of a thread: run ready tasks, fire timers, submit once, wait, reap.
//!
//! One turn runs everything that is ready before it enters the kernel once, so work that arrives
//! together is answered together. Completions are only recorded while reaping; the code that
//! waits for them runs afterwards, from the task queue, never inside the reap.

use crate::nanos::Nanos;
use crate::ring::{Counters, Ring};
use crate::simulated::Stopped;
use crate::thread_core::{Backend, Core, MAIN, TaskWaker, replace_core, with_core};
use crate::watch;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{fmt, io};

/// What carries out the operations of a thread.
pub enum Io {
    /// The kernel's io_uring.
    Uring,
    /// The simulated twin: virtual time, a disk in memory, seeded faults.
    Simulated(crate::simulated::Simulation),
}

/// Why a thread's runtime could not be made; the text says what to do.
#[derive(Debug)]
pub struct RuntimeError {
    os_error: io::Error,
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.os_error.raw_os_error() {
            Some(libc::ENOSYS) => {
                "this kernel has no io_uring; Linux 6.1 or newer with CONFIG_IO_URING is needed"
            }
            Some(libc::EPERM | libc::EACCES) => {
                "io_uring is forbidden here; set sysctl kernel.io_uring_disabled=0, or in a \
                 container allow io_uring_setup, io_uring_enter and io_uring_register in its \
                 seccomp profile (docker: --security-opt seccomp=unconfined)"
            }
            Some(libc::EINVAL) => {
                "this kernel's io_uring is too old (it lacks DEFER_TASKRUN); Linux 6.1 or newer \
                 is needed"
            }
            Some(libc::ENOMEM) => {
                "too little lockable memory for a ring; raise it with `ulimit -l 65536` \
                 (RLIMIT_MEMLOCK; systemd: LimitMEMLOCK=64M)"
            }
            Some(libc::EMFILE | libc::ENFILE) => {
                "too many open files; raise the limit with `ulimit -n 65536`"
            }
            _ => "io_uring could not be set up",
        };
        write!(f, "cannot set up io_uring: {} ({advice})", self.os_error)
    }
}

impl std::error::Error for RuntimeError {}

/// Tasks of a turn at most, and between two looks at the clock.
const TASKS_A_TURN: usize = 4096;
const TASKS_A_LOOK: usize = 16;
/// After so long the kernel is asked what else has come, also while tasks are ready.
const TURN: Duration = Duration::from_millis(1);

/// One thread's executor, reactor and clock.
pub struct Runtime {
    core: Rc<Core>,
}

impl Runtime {
    /// Makes the runtime of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses a ring; the error's text names the remedy.
    pub fn new(io: Io) -> Result<Self, RuntimeError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let backend = match io {
            Io::Uring => Backend::Ring(Ring::new().map_err(|os_error| RuntimeError { os_error })?),
            Io::Simulated(simulation) => Backend::Simulated(simulation.into_backend()),
        };
        let core = Core {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tasks: RefCell::default(),
            free_tasks: RefCell::default(),
            ready: RefCell::default(),
            main_ready: Cell::new(true),
            slots: RefCell::default(),
            timers: RefCell::default(),
            backend: RefCell::new(backend),
            mesh: RefCell::new(None),
        };
        Ok(Self { core: Rc::new(core) })
    }

    /// The descriptor by which other rings can wake this one; -1 in the twin.
    #[must_use]
    pub fn ring_fd(&self) -> i32 {
        match &*self.core.backend.borrow() {
            Backend::Ring(ring) => ring.raw_fd(),
            Backend::Simulated(_) => -1,
        }
    }

    /// Runs `future` and whatever it spawns until `future` is done.
    ///
    /// # Errors
    /// `Stopped` when a simulated power cut came first; never on a real machine.
    ///
    /// # Panics
    /// When called inside another runtime, or when the ring breaks (a bug or a dead kernel).
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        let before = replace_core(Some(Rc::clone(&self.core)));
        assert!(before.is_none(), "runtimes do not nest");
        let output = self.run(future);
        replace_core(None);
        output
    }

    fn run<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        let core = &*self.core;
        let mut future = pin!(future);
        let waker = Waker::from(Arc::new(TaskWaker {
            core: core.id,
            index: MAIN,
            queued: AtomicBool::new(false),
        }));
        let mut wake = Vec::with_capacity(64);
        core.main_ready.set(true);
        let (mut began, mut watched) = (crate::clock::now(), watch::clock());
        loop {
            if core.main_ready.replace(false)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Ok(output);
            }
            // Tasks woken during this turn run in this turn too, up to a bound that keeps I/O going.
            for number in 1..=TASKS_A_TURN {
                let Some(index) = core.ready.borrow_mut().pop_front() else { break };
                core.run_task(index);
                if number % TASKS_A_LOOK == 0 && crate::clock::now() >= began + TURN {
                    break;
                }
            }
            let mesh = core.mesh.borrow().clone();
            if let Some(mesh) = &mesh {
                mesh.deliver();
            }
            let idle = core.ready.borrow().is_empty() && !core.main_ready.get();
            let next_timer = core.timers.borrow_mut().next_at();
            let parked = idle && mesh.as_ref().is_none_or(|mesh| mesh.park());
            watch::on_turn(watched, watch::clock());
            self.enter(parked, next_timer, &mut wake)?;
            if parked && let Some(mesh) = &mesh {
                mesh.unpark();
            }
            for waker in wake.drain(..) {
                waker.wake();
            }
            began = crate::clock::now();
            watched = if cfg!(debug_assertions) { watch::clock() } else { began };
            core.timers.borrow_mut().fire(began);
        }
    }

    fn enter(
        &self,
        wait: bool,
        next_timer: Option<Nanos>,
        wake: &mut Vec<Waker>,
    ) -> Result<(), Stopped> {
        let core = &*self.core;
        // In the twin the clock is inside the backend, so it is read before the backend is borrowed.
        let timeout_ns = next_timer.map(|at| at.0.saturating_sub(crate::clock::now().0));
        match &mut *core.backend.borrow_mut() {
            Backend::Ring(ring) => {
                let wait = wait && timeout_ns != Some(0);
                ring.enter(wait, timeout_ns).expect("io_uring_enter works once the ring is set up");
                ring.reap(&mut core.slots.borrow_mut(), wake);
                Ok(())
            }
            Backend::Simulated(twin) => {
                twin.step(wait, next_timer, &mut core.slots.borrow_mut(), wake)
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Futures first (they orphan their slots), then the ring, then the slots.
        replace_core(Some(Rc::clone(&self.core)));
        let tasks = std::mem::take(&mut *self.core.tasks.borrow_mut());
        drop(tasks);
        replace_core(None);
        *self.core.mesh.borrow_mut() = None;
        if let Backend::Ring(ring) = &mut *self.core.backend.borrow_mut() {
            ring.drain(&mut self.core.slots.borrow_mut());
        }
    }
}

/// Runs `future` on this thread, beside everything else.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    with_core(|core| core.spawn(Box::pin(future)));
}

/// Lets every other ready task of this thread run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs two futures side by side to their ends.
pub async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut a_output, mut b_output) = (None, None);
    std::future::poll_fn(|cx| {
        if a_output.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(cx)
        {
            a_output = Some(output);
        }
        if b_output.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(cx)
        {
            b_output = Some(output);
        }
        if a_output.is_some() && b_output.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (a_output.expect("ready"), b_output.expect("ready"))
}

/// Runs futures side by side to their ends. Each wake polls all that are left: for a few dozen.
pub async fn all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut left: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        left.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if left.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What this thread's ring did so far; zeroes in the twin.
#[must_use]
pub fn io_counters() -> Counters {
    with_core(|core| match &*core.backend.borrow() {
        Backend::Ring(ring) => ring.counters.read(),
        Backend::Simulated(_) => Counters::default(),
    })
}
