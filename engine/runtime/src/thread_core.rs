//! What a thread has: its tasks, its operations in flight, its deadlines, and what carries them out.

use crate::op::{Op, Slots};
use crate::ring::Ring;
use crate::simulated::SimulatedBackend;
use crate::timers::Timers;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// What the loop does for the mesh once per turn.
pub(crate) trait MeshEnd {
    /// Sends what had spilled, and wakes the receiver if anything came.
    fn deliver(&self);
    /// Announces that the thread is about to wait; false if a message is there already.
    fn park(&self) -> bool;
    /// The thread runs again.
    fn unpark(&self);
}

pub(crate) enum Backend {
    Ring(Ring),
    Simulated(SimulatedBackend),
}

pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) tasks: RefCell<Vec<Option<Task>>>,
    pub(crate) free_tasks: RefCell<Vec<usize>>,
    pub(crate) ready: RefCell<VecDeque<usize>>,
    pub(crate) main_ready: Cell<bool>,
    pub(crate) slots: RefCell<Slots>,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) backend: RefCell<Backend>,
    pub(crate) mesh: RefCell<Option<Rc<dyn MeshEnd>>>,
}

pub(crate) struct Task {
    /// Taken out while it runs: what it does may move the tasks.
    idle: Option<(Pin<Box<dyn Future<Output = ()>>>, Waker)>,
    state: Arc<TaskWaker>,
}

/// The number of the future that the thread was given.
pub(crate) const MAIN: usize = usize::MAX;

/// Wakes a task of one thread. Sound to send anywhere, but waking from another thread is a bug of
/// ours (threads talk by mailbox) and stops the program.
pub(crate) struct TaskWaker {
    pub(crate) core: u64,
    pub(crate) index: usize,
    pub(crate) queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        try_with_core(|core| {
            assert_eq!(core.id, self.core, "a task is woken from its own thread");
            if self.index == MAIN {
                core.main_ready.set(true);
            } else if !self.queued.load(Ordering::Relaxed) {
                // Not a swap, which locks: nobody else writes it, as asserted.
                self.queued.store(true, Ordering::Relaxed);
                core.ready.borrow_mut().push_back(self.index);
            }
        });
    }
}

thread_local! {
    static CORE: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

pub(crate) fn with_core<T>(f: impl FnOnce(&Core) -> T) -> T {
    try_with_core(f).expect("called outside of Runtime::block_on")
}

pub(crate) fn try_with_core<T>(f: impl FnOnce(&Core) -> T) -> Option<T> {
    CORE.try_with(|core| core.try_borrow().ok()?.as_deref().map(f)).ok().flatten()
}

impl Core {
    pub(crate) fn submit(&self, op: Op) -> u32 {
        let mut slots = self.slots.borrow_mut();
        let index = slots.insert(op);
        match &mut *self.backend.borrow_mut() {
            Backend::Ring(ring) => ring.push(index, slots.get(index)),
            Backend::Simulated(twin) => twin.push(index, slots.get(index)),
        }
        index
    }

    pub(crate) fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>) {
        let mut tasks = self.tasks.borrow_mut();
        let index = self.free_tasks.borrow_mut().pop().unwrap_or_else(|| {
            tasks.push(None);
            tasks.len() - 1
        });
        let state = Arc::new(TaskWaker { core: self.id, index, queued: AtomicBool::new(true) });
        let waker = Waker::from(Arc::clone(&state));
        tasks[index] = Some(Task { idle: Some((future, waker)), state });
        self.ready.borrow_mut().push_back(index);
    }

    pub(crate) fn run_task(&self, index: usize) {
        let (mut future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks[index].as_mut() else { return };
            task.state.queued.store(false, Ordering::Relaxed);
            let Some(idle) = task.idle.take() else { return };
            idle
        };
        let finished = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if finished {
            // Dropped with no borrow held: a future's end may spawn or wake.
            drop(future);
            self.tasks.borrow_mut()[index] = None;
            self.free_tasks.borrow_mut().push(index);
        } else if let Some(task) = self.tasks.borrow_mut()[index].as_mut() {
            task.idle = Some((future, waker));
        }
    }
}

/// Puts another core in place of the calling thread's; returns that.
pub(crate) fn replace_core(core: Option<Rc<Core>>) -> Option<Rc<Core>> {
    CORE.with(|current| current.replace(core))
}

/// The twin, if this thread runs in one; `None` on the ring and outside of any runtime.
pub(crate) fn with_twin<T>(f: impl FnOnce(&mut SimulatedBackend) -> T) -> Option<T> {
    try_with_core(|core| match &mut *core.backend.borrow_mut() {
        Backend::Ring(_) => None,
        Backend::Simulated(twin) => Some(f(twin)),
    })
    .flatten()
}
