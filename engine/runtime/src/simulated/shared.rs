//! What the machines of a world share: its clock, its network, and what their threads leave for each other.

use super::network::{CoreId, MachineId, Network};
use crate::nanos::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// What a thread runs.
pub(crate) type Body = Pin<Box<dyn Future<Output = ()>>>;

/// A thread that a machine wants to start.
pub(crate) struct Birth {
    pub(crate) machine: MachineId,
    pub(crate) core: CoreId,
    /// Called within the new thread.
    pub(crate) make: Box<dyn FnOnce() -> Body>,
}

/// Lines that are kept of what the machines say.
const LINES_KEPT: usize = 400;

/// See the file's first line.
pub(crate) struct Shared {
    pub(crate) now: Rc<Cell<Nanos>>,
    pub(crate) network: RefCell<Network>,
    /// Threads that others have something for.
    pub(crate) woken: RefCell<Vec<CoreId>>,
    pub(crate) births: RefCell<Vec<Birth>>,
    pub(crate) cores: Cell<CoreId>,
    /// Threads that run, or are about to.
    pub(crate) alive: RefCell<BTreeSet<CoreId>>,
    pub(crate) said: RefCell<VecDeque<String>>,
}

impl Shared {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            now: Rc::new(Cell::new(Nanos(1_000_000_000))),
            network: RefCell::new(Network::new(seed)),
            woken: RefCell::default(),
            births: RefCell::default(),
            cores: Cell::new(0),
            alive: RefCell::default(),
            said: RefCell::default(),
        })
    }

    pub(crate) fn next_core(&self) -> CoreId {
        self.cores.set(self.cores.get() + 1);
        self.alive.borrow_mut().insert(self.cores.get());
        self.cores.get()
    }

    pub(crate) fn say(&self, machine: MachineId, line: &str) {
        let mut said = self.said.borrow_mut();
        if said.len() >= LINES_KEPT {
            said.pop_front();
        }
        let ms = self.now.get().0 as f64 / 1e6;
        said.push_back(format!("{ms:10.3} machine {machine}: {}", line.trim_end()));
    }
}

/// How the clocks of a machine differ from the world's.
#[derive(Default)]
pub(crate) struct MachineClock {
    /// Added to the wall clock.
    pub(crate) offset_ms: Cell<i64>,
    /// Parts per million by which its time runs faster.
    drift_ppm: Cell<i64>,
    /// Since this moment of the world, at which its monotonic clock showed the other.
    since: Cell<(Nanos, Nanos)>,
}

const MILLION: i128 = 1_000_000;

impl MachineClock {
    /// From `now` on, a moment of the world, its time runs faster by so many parts per million.
    pub(crate) fn set_drift(&self, now: Nanos, drift_ppm: i64) {
        self.since.set((now, self.local(now)));
        self.drift_ppm.set(drift_ppm);
    }

    /// What its monotonic clock shows at a moment of the world.
    pub(crate) fn local(&self, world: Nanos) -> Nanos {
        let (since, local) = self.since.get();
        let passed = i128::from(world.since(since));
        let drift = passed * i128::from(self.drift_ppm.get()) / MILLION;
        Nanos((i128::from(local.0) + passed + drift) as u64)
    }

    /// The first moment of the world at which its monotonic clock shows this.
    pub(crate) fn world(&self, local: Nanos) -> Nanos {
        let (since, from) = self.since.get();
        let rate = MILLION + i128::from(self.drift_ppm.get());
        let passed = (i128::from(local.since(from)) * MILLION / rate) as u64;
        let mut world = Nanos(since.0.saturating_add(passed));
        while self.local(world) < local && world.0 < u64::MAX {
            world.0 += 1;
        }
        world
    }
}

/// Where a thread is in a world.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) shared: Rc<Shared>,
    pub(crate) machine: MachineId,
    pub(crate) core: CoreId,
    pub(crate) clock: Rc<MachineClock>,
}
