//! Several simulated machines in one thread: each with threads, a disk, clocks and sockets of its own, and a network
//! between them. Time is virtual, and equal seeds make equal worlds.
//!
//! A thread of a machine has its turn when something is due there. A turn takes a little time, now and then much more,
//! as on machines that others use too; so that what came first is not always done first.

use crate::clock::Nanos;
use crate::generator::Random;
use crate::reactor::{Main, Runtime, Turn};
use crate::simulated::{
    Birth, Body, CoreId, Disk, Link, MachineClock, MachineId, Place, Shared, SimulatedBackend,
};
use crate::thread_core::{Backend, with_twin};
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// A turn takes up to so long.
const TURN_NS: u64 = 15_000;
/// One turn in so many takes up to `PREEMPTED`.
const PREEMPTED_ONE_IN: u64 = 300;
const PREEMPTED: Duration = Duration::from_millis(3);
/// From one thread of a machine to the other a wake-up takes up to so long.
const WAKE_NS: u64 = 30_000;

/// One machine of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineNumber(MachineId);

struct Machine {
    disk: Disk,
    clock: Rc<MachineClock>,
}

struct Thread {
    core: CoreId,
    machine: MachineId,
    runtime: Runtime,
    main: Main,
    /// It has more to do at once.
    is_ready: bool,
    /// Another thread has something for it, from then on.
    woken_at: Option<Nanos>,
    /// Its last turn goes on until then.
    busy_until: Nanos,
}

/// See the file's first lines.
pub struct World {
    shared: Rc<Shared>,
    random: Random,
    machines: Vec<Machine>,
    threads: Vec<Thread>,
}

/// Keeps a line that a machine says for whoever looks for what went wrong; false on a real machine.
#[must_use]
pub fn say(line: &str) -> bool {
    with_twin(|twin| twin.place().map(|place| place.shared.say(place.machine, line))).is_some()
}

impl World {
    /// A world whose every chance is drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let shared = Shared::new(random.next_u64());
        Self { shared, random, machines: Vec::new(), threads: Vec::new() }
    }

    /// One more machine, which nothing runs on.
    pub fn add_machine(&mut self, address: IpAddr, disk: Disk) -> MachineNumber {
        let number = self.shared.network.borrow_mut().add_machine(address);
        assert_eq!(number, self.machines.len(), "the network knows the same machines");
        self.machines.push(Machine { disk, clock: Rc::default() });
        MachineNumber(number)
    }

    /// The world's clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.shared.now.get()
    }

    /// A number over everything that happened in the network and on the disks: equal for equal histories.
    #[must_use]
    pub fn trace(&self) -> u64 {
        let disks = self.machines.iter().map(|machine| machine.disk.trace());
        disks.fold(self.shared.network.borrow().trace(), |trace, disk| {
            (trace ^ disk).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// Packets that were lost and connections that were refused so far.
    #[must_use]
    pub fn packets_lost(&self) -> u64 {
        self.shared.network.borrow().lost
    }

    /// Whether something is still to come from connections that were closed: what was sent on them arrives late, as long
    /// as a link was cut.
    #[must_use]
    pub fn has_last_words(&self) -> bool {
        self.shared.network.borrow().has_last_words()
    }

    /// Starts a program on a machine, which gets power for it.
    pub fn start<F: Future<Output = ()> + 'static>(
        &mut self,
        machine: MachineNumber,
        make: impl FnOnce() -> F + 'static,
    ) {
        self.shared.network.borrow_mut().on_power(machine.0);
        let core = self.shared.next_core();
        let make: Box<dyn FnOnce() -> Body> = Box::new(move || Box::pin(make()));
        self.add_thread(Birth { machine: machine.0, core, make });
    }

    fn add_thread(&mut self, Birth { machine, core, make }: Birth) {
        let of = &self.machines[machine];
        let place =
            Place { shared: Rc::clone(&self.shared), machine, core, clock: Rc::clone(&of.clock) };
        let twin = SimulatedBackend::in_world(of.disk.clone(), self.random.next_u64(), place);
        self.threads.push(Thread {
            core,
            machine,
            runtime: Runtime::with_backend(Backend::Simulated(twin)),
            main: Main::Made(Some(make)),
            is_ready: true,
            woken_at: None,
            busy_until: self.now() + Duration::from_nanos(self.random.below(TURN_NS)),
        });
    }

    /// Whether a program runs there.
    #[must_use]
    pub fn is_running(&self, machine: MachineNumber) -> bool {
        self.threads.iter().any(|thread| thread.machine == machine.0)
    }

    /// Ends the programs of a machine at once, as SIGKILL does: writes under way may be done in part, and the kernel
    /// closes their connections.
    pub fn kill(&mut self, machine: MachineNumber) {
        self.halt(machine);
        self.shared.network.borrow_mut().on_killed(machine.0);
        self.drop_threads(machine);
        self.machines[machine.0].disk.kill_torn(self.random.next_u64());
    }

    /// Takes the power from a machine: nobody is told, and its disk keeps what it was made to keep.
    pub fn cut_power(&mut self, machine: MachineNumber) {
        self.halt(machine);
        self.shared.network.borrow_mut().on_power_cut(machine.0);
        self.drop_threads(machine);
        self.machines[machine.0].disk.power_cut(self.random.next_u64());
    }

    fn halt(&self, machine: MachineNumber) {
        for thread in self.threads.iter().filter(|thread| thread.machine == machine.0) {
            thread.runtime.with_own_twin(SimulatedBackend::halt);
        }
    }

    fn drop_threads(&mut self, machine: MachineNumber) {
        let is_of = |thread: &mut Thread| thread.machine == machine.0;
        let ended: Vec<Thread> = self.threads.extract_if(.., is_of).collect();
        self.shared.births.borrow_mut().retain(|birth| birth.machine != machine.0);
        for thread in ended {
            self.end(thread);
        }
    }

    fn end(&self, thread: Thread) {
        self.shared.alive.borrow_mut().remove(&thread.core);
        thread.runtime.end(thread.main);
    }

    /// Has a machine stand still for so long.
    pub fn pause(&mut self, machine: MachineNumber, time: Duration) {
        let until = self.now() + time;
        for thread in self.threads.iter_mut().filter(|thread| thread.machine == machine.0) {
            thread.busy_until = thread.busy_until.max(until);
        }
    }

    /// Sets how far a machine's wall clock is off, and by how many parts per million its time runs faster.
    pub fn set_clock(&mut self, machine: MachineNumber, offset_ms: i64, drift_ppm: i64) {
        let clock = &self.machines[machine.0].clock;
        clock.offset_ms.set(offset_ms);
        clock.set_drift(self.now(), drift_ppm);
    }

    /// Loses everything from one machine to the other, or carries it again.
    pub fn cut_link(&mut self, from: MachineNumber, to: MachineNumber, is_cut: bool) {
        self.shared.network.borrow_mut().set_cut(from.0, to.0, is_cut);
    }

    /// How what goes from one machine to the other is carried.
    pub fn set_link(&mut self, from: MachineNumber, to: MachineNumber, link: Link) {
        self.shared.network.borrow_mut().set_link(from.0, to.0, link);
    }

    /// Lets the world go on for so long, or until nothing runs that will ever do anything again.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now() + time;
        self.run_until(until, |_| false);
    }

    /// The same, until that moment or until `is_over`.
    pub fn run_until(&mut self, until: Nanos, mut is_over: impl FnMut(&Self) -> bool) {
        while !is_over(self) {
            match self.next() {
                Some((at, what)) if at <= until => self.step(at, what),
                _ => {
                    self.shared.now.set(self.now().max(until));
                    return;
                }
            }
        }
    }

    /// What is due next: the network, or a thread.
    fn next(&mut self) -> Option<(Nanos, Option<usize>)> {
        let births = std::mem::take(&mut *self.shared.births.borrow_mut());
        births.into_iter().for_each(|birth| self.add_thread(birth));
        let of_network = self.shared.network.borrow().next_at().map(|at| (at, None));
        let of_threads = self.threads.iter().enumerate().filter_map(|(number, thread)| {
            let at = match thread.is_ready {
                true => Some(thread.busy_until),
                false => [thread.woken_at, thread.runtime.next_at()].into_iter().flatten().min(),
            };
            Some((at?.max(thread.busy_until), Some(number)))
        });
        of_network.into_iter().chain(of_threads).min()
    }

    fn step(&mut self, at: Nanos, what: Option<usize>) {
        self.shared.now.set(self.now().max(at));
        match what {
            None => self.shared.network.borrow_mut().step(at),
            Some(number) => self.turn(number),
        }
        let done = std::mem::take(&mut self.shared.network.borrow_mut().done);
        for done in done {
            if let Some(thread) = self.threads.iter().find(|thread| thread.core == done.core) {
                thread.runtime.with_own_twin(|twin| twin.deliver(done));
            }
        }
        let woken = std::mem::take(&mut *self.shared.woken.borrow_mut());
        for core in woken {
            let at = self.now() + Duration::from_nanos(self.random.below(WAKE_NS));
            if let Some(thread) = self.threads.iter_mut().find(|thread| thread.core == core) {
                thread.woken_at = Some(thread.woken_at.map_or(at, |before| before.min(at)));
            }
        }
    }

    fn turn(&mut self, number: usize) {
        let now = self.now();
        let thread = &mut self.threads[number];
        thread.woken_at = None;
        let turn = thread.runtime.turn(&mut thread.main);
        let most = match self.random.one_in(PREEMPTED_ONE_IN) {
            true => PREEMPTED.as_nanos() as u64,
            false => TURN_NS,
        };
        thread.busy_until = now + Duration::from_nanos(500 + self.random.below(most));
        thread.is_ready = turn == Turn::Ready;
        if turn == Turn::Over {
            let thread = self.threads.remove(number);
            self.end(thread);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.said.borrow().iter().for_each(|line| eprintln!("{line}"));
        }
        for machine in 0..self.machines.len() {
            self.halt(MachineNumber(machine));
            self.drop_threads(MachineNumber(machine));
        }
    }
}
