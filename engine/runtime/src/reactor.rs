//! The loop of a thread: run ready tasks, fire timers, submit once, wait, reap.
//!
//! One turn runs everything that is ready before it enters the kernel once, so work that arrives
//! together is answered together. Completions are only recorded while reaping; the code that
//! waits for them runs afterwards, from the task queue, never inside the reap.

use crate::nanos::Nanos;
use crate::ring::{Counters, Ring};
use crate::simulated::{Body, SimulatedBackend, Stopped};
use crate::thread_core::{Backend, Core, MAIN, MeshEnd, TaskWaker, replace_core, with_core};
use crate::watch;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
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

/// What a thread in a world was given to run.
pub(crate) enum Main {
    /// To be made within it.
    Made(Option<Box<dyn FnOnce() -> Body>>),
    Begun(Body),
}

/// How a turn of a thread in a world ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is more to do at once.
    Ready,
    /// It waits for an operation, a timer or another thread.
    Waits,
    /// What it was given is done.
    Over,
}

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
        let backend = match io {
            Io::Uring => Backend::Ring(Ring::new().map_err(|os_error| RuntimeError { os_error })?),
            Io::Simulated(simulation) => Backend::Simulated(simulation.into_backend()),
        };
        Ok(Self::with_backend(backend))
    }

    pub(crate) fn with_backend(backend: Backend) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
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
        Self { core: Rc::new(core) }
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
        let waker = self.main_waker();
        let mut wake = Vec::with_capacity(64);
        core.main_ready.set(true);
        let (mut began, mut watched) = (crate::clock::now(), watch::clock());
        loop {
            if let Some(output) = self.run_ready(future.as_mut(), &waker, began) {
                return Ok(output);
            }
            let mesh = core.mesh.borrow().clone();
            let parked = self.lie_down(mesh.as_deref());
            let next_timer = core.timers.borrow_mut().next_at();
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

    fn main_waker(&self) -> Waker {
        let queued = AtomicBool::new(false);
        Waker::from(Arc::new(TaskWaker { core: self.core.id, index: MAIN, queued }))
    }

    /// Runs what is ready, and what becomes ready meanwhile, up to a bound that keeps I/O going. The output of `main` if
    /// it is done.
    fn run_ready<F: Future + ?Sized>(
        &self,
        main: Pin<&mut F>,
        waker: &Waker,
        began: Nanos,
    ) -> Option<F::Output> {
        let core = &*self.core;
        if core.main_ready.replace(false)
            && let Poll::Ready(output) = main.poll(&mut Context::from_waker(waker))
        {
            return Some(output);
        }
        for number in 1..=TASKS_A_TURN {
            let Some(index) = core.ready.borrow_mut().pop_front() else { break };
            core.run_task(index);
            if number % TASKS_A_LOOK == 0 && crate::clock::now() >= began + TURN {
                break;
            }
        }
        None
    }

    /// Sends what is to be sent to other threads; whether this one has nothing to do and may wait.
    fn lie_down(&self, mesh: Option<&dyn MeshEnd>) -> bool {
        let core = &*self.core;
        if let Some(mesh) = mesh {
            mesh.deliver();
        }
        let idle = core.ready.borrow().is_empty() && !core.main_ready.get();
        idle && mesh.is_none_or(MeshEnd::park)
    }

    /// One turn of a thread in a world: what is due is done, then what is ready runs.
    pub(crate) fn turn(&self, main: &mut Main) -> Turn {
        let before = replace_core(Some(Rc::clone(&self.core)));
        assert!(before.is_none(), "runtimes do not nest");
        let core = &*self.core;
        let mesh = core.mesh.borrow().clone();
        if let Some(mesh) = &mesh {
            mesh.unpark();
        }
        let mut wake = Vec::new();
        if let Backend::Simulated(twin) = &mut *core.backend.borrow_mut() {
            twin.complete_due(&mut core.slots.borrow_mut(), &mut wake);
        }
        wake.drain(..).for_each(Waker::wake);
        let began = crate::clock::now();
        core.timers.borrow_mut().fire(began);
        let body = match main {
            Main::Begun(body) => body,
            Main::Made(make) => {
                let make = make.take().expect("made once");
                *main = Main::Begun(make());
                let Main::Begun(body) = main else { unreachable!("set just now") };
                body
            }
        };
        let is_over = self.run_ready(body.as_mut(), &self.main_waker(), began).is_some();
        let mesh = core.mesh.borrow().clone();
        let waits = self.lie_down(mesh.as_deref());
        let turn = match (is_over, waits) {
            (true, _) => Turn::Over,
            (false, false) => Turn::Ready,
            (false, true) => Turn::Waits,
        };
        replace_core(None);
        turn
    }

    /// When a thread that waits has something to do, by the world's clock.
    pub(crate) fn next_at(&self) -> Option<Nanos> {
        let timer = self.core.timers.borrow_mut().next_at();
        match &*self.core.backend.borrow() {
            Backend::Ring(_) => None,
            Backend::Simulated(twin) => {
                let timer = timer.map(|at| twin.world_time(at));
                [timer, twin.next_event()].into_iter().flatten().min()
            }
        }
    }

    /// The twin's end of a thread in a world.
    pub(crate) fn with_own_twin<T>(&self, f: impl FnOnce(&mut SimulatedBackend) -> T) -> T {
        match &mut *self.core.backend.borrow_mut() {
            Backend::Ring(_) => unreachable!("worlds are simulated"),
            Backend::Simulated(twin) => f(twin),
        }
    }

    /// Drops what a thread in a world runs, as its own.
    pub(crate) fn end(self, main: Main) {
        replace_core(Some(Rc::clone(&self.core)));
        drop(main);
        replace_core(None);
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
