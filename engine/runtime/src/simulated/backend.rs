//! The twin of the ring: operations on the simulated disk, each done after a drawn latency.

use super::disk::{BLOCK_BYTES, Disk, DiskState, Entry, Node, RECENT_WRITES, Verb, blocks_of};
use super::network::{Done, MachineId, Network};
use super::shared::{MachineClock, Place};
use crate::generator::Random;
use crate::nanos::Nanos;
use crate::op::{Op, Slot, SlotState, Slots, advance_writer};
use crate::open_options::OpenOptions;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Waker;

const EPOCH_UNIX_MS: i64 = 1_700_000_000_000;
/// How a simulated machine behaves.
pub struct Simulation {
    disk: Disk,
    random: Random,
    stop_at_step: Option<u64>,
    unix_offset_ms: i64,
}

impl Simulation {
    /// A machine with this disk, its chances drawn from `seed`.
    #[must_use]
    pub fn new(disk: Disk, seed: u64) -> Self {
        Self { disk, random: Random::new(seed), stop_at_step: None, unix_offset_ms: 0 }
    }

    /// A machine whose wall clock is off by so much, and jumps.
    #[must_use]
    pub fn with_wrong_clock(mut self, offset_ms: i64) -> Self {
        self.unix_offset_ms = offset_ms;
        self
    }

    /// Stops the machine at the `step`-th I/O step; `block_on` then returns `Stopped`.
    #[must_use]
    pub fn stopping_at(mut self, step: u64) -> Self {
        self.stop_at_step = Some(step);
        self
    }

    pub(crate) fn into_backend(self) -> SimulatedBackend {
        let now = Rc::new(Cell::new(Nanos(1_000_000_000)));
        let mut backend = SimulatedBackend::new(self.disk, self.random, now);
        backend.stop_at_step = self.stop_at_step;
        backend.unix_offset_ms = self.unix_offset_ms;
        backend
    }
}

/// The simulation stopped the machine (power cut) before the future finished.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped;

/// The twin of the ring.
pub(crate) struct SimulatedBackend {
    disk: Disk,
    random: Random,
    stop_at_step: Option<u64>,
    unix_offset_ms: i64,
    steps: u64,
    /// The machine has stopped: nothing that it does counts.
    halted: bool,
    /// The world's clock.
    now: Rc<Cell<Nanos>>,
    clock: Rc<MachineClock>,
    /// In a world, which has a network.
    place: Option<Place>,
    /// (when, tie-break, slot, result).
    events: BinaryHeap<Reverse<(Nanos, u64, u32, i32)>>,
    sequence: u64,
    /// Per slot: what a sync in flight will make durable.
    syncs: BTreeMap<u32, (usize, BTreeSet<u64>, u64)>,
    /// Per slot: which write of which node completes.
    writes: BTreeMap<u32, (usize, u64)>,
    /// Per slot: what was received.
    received: BTreeMap<u32, Vec<u8>>,
}

impl SimulatedBackend {
    fn new(disk: Disk, random: Random, now: Rc<Cell<Nanos>>) -> Self {
        Self {
            disk,
            random,
            stop_at_step: None,
            unix_offset_ms: 0,
            steps: 0,
            halted: false,
            now,
            clock: Rc::default(),
            place: None,
            events: BinaryHeap::new(),
            sequence: 0,
            syncs: BTreeMap::new(),
            writes: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    /// A thread of a machine in a world.
    pub(crate) fn in_world(disk: Disk, seed: u64, place: Place) -> Self {
        let mut backend = Self::new(disk, Random::new(seed), Rc::clone(&place.shared.now));
        backend.clock = Rc::clone(&place.clock);
        backend.place = Some(place);
        backend
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// From now on nothing that it does counts.
    pub(crate) fn halt(&mut self) {
        self.halted = true;
    }

    /// What the machine's monotonic clock shows.
    pub(crate) fn now(&self) -> Nanos {
        self.clock.local(self.now.get())
    }

    pub(crate) fn unix_ms(&self) -> i64 {
        let ms = (self.now().0 / 1_000_000) as i64;
        // A wrong clock is set right, and wrong again, each second.
        let offset = if (ms / 1000) % 2 == 0 { self.unix_offset_ms } else { 0 };
        EPOCH_UNIX_MS + ms + offset + self.clock.offset_ms.get()
    }

    /// Asks the network; `None` without one, or once the machine has stopped.
    fn with_network<T>(&mut self, f: impl FnOnce(&mut Network, MachineId) -> T) -> Option<T> {
        if self.halted {
            return None;
        }
        let place = self.place.as_ref()?;
        let mut network = place.shared.network.borrow_mut();
        network.set_now(place.shared.now.get());
        Some(f(&mut network, place.machine))
    }

    pub(crate) fn bind(&mut self, address: SocketAddr, is_shared: bool) -> io::Result<i32> {
        self.with_network(|network, machine| network.bind(machine, address, is_shared))
            .unwrap_or_else(|| Err(no_network()))
    }

    pub(crate) fn socket(&mut self, address: SocketAddr) -> io::Result<i32> {
        self.with_network(|network, machine| network.socket(machine, address))
            .ok_or_else(no_network)
    }

    pub(crate) fn local_address(&mut self, fd: i32) -> io::Result<SocketAddr> {
        self.with_network(|network, _| network.local_address(fd))
            .unwrap_or_else(|| Err(no_network()))
    }

    pub(crate) fn peer_address(&mut self, fd: i32) -> Option<SocketAddr> {
        self.with_network(|network, _| network.peer_address(fd)).flatten()
    }

    pub(crate) fn has_hung_up(&mut self, fd: i32) -> bool {
        self.with_network(|network, _| network.has_hung_up(fd)).unwrap_or(true)
    }

    pub(crate) fn unacknowledged_bytes(&mut self, fd: i32) -> i32 {
        self.with_network(|network, _| network.unacknowledged_bytes(fd)).unwrap_or(0)
    }

    pub(crate) fn shutdown(&mut self, fd: i32) {
        self.with_network(|network, _| network.shutdown(fd));
    }

    pub(crate) fn close_socket(&mut self, fd: i32) {
        self.with_network(|network, _| network.close(fd));
    }

    /// Ends what waits for bytes from the network.
    pub(crate) fn cancel(&mut self, index: u32, op: &Op) {
        let core = self.place.as_ref().map_or(0, |place| place.core);
        if let Op::Receive { fd, .. } = op {
            self.with_network(|network, _| network.cancel((core, index), *fd));
        }
    }

    /// Something of the network is done: this thread learns of it a moment later.
    pub(crate) fn deliver(&mut self, done: Done) {
        let at = Nanos(self.now.get().0 + 500 + self.random.below(10_000));
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, done.slot, done.result)));
        if !done.bytes.is_empty() {
            self.received.insert(done.slot, done.bytes);
        }
    }

    /// Operations of sockets go to the network; false for all others.
    fn push_to_network(&mut self, index: u32, op: &mut Op) -> bool {
        let Some(core) = self.place.as_ref().map(|place| place.core) else { return false };
        let waiter = (core, index);
        let pushed = match op {
            Op::Accept { fd } => self.with_network(|network, _| network.accept(waiter, *fd)),
            Op::Connect { fd, .. } => self.with_network(|network, _| network.connect(waiter, *fd)),
            Op::Receive { fd, into, len_max } => {
                let len = into.remaining().min(*len_max);
                self.with_network(|network, _| network.receive(waiter, *fd, len))
            }
            Op::Send { fd, pieces } => {
                let bytes = pieces.iter().map(|piece| &**piece).collect::<Vec<_>>().concat();
                self.with_network(|network, _| network.send(waiter, *fd, bytes))
            }
            Op::Readable { fd } => self.with_network(|network, _| network.readable(waiter, *fd)),
            _ => return false,
        };
        // A machine that has stopped never hears of it.
        let _: Option<()> = pushed;
        true
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    fn stopped(&self) -> bool {
        self.halted || self.stop_at_step.is_some_and(|at| self.steps > at)
    }

    /// Counts an I/O step; false once the machine has stopped and nothing may change any more.
    fn count_step(&mut self) -> bool {
        self.steps += 1;
        !self.stopped()
    }

    pub(crate) fn push(&mut self, index: u32, slot: &mut Slot) {
        let alive = self.count_step();
        let latency_ns = 1_000 + self.random.below(200_000);
        if self.push_to_network(index, &mut slot.op) {
            return;
        }
        let disk = self.disk.clone();
        let state = &mut *disk.state.borrow_mut();
        let result = match alive {
            true => self.act(index, &mut slot.op, state),
            false => 0,
        };
        self.sequence += 1;
        let at = Nanos(self.now.get().0 + latency_ns * (1 + state.slowness));
        self.events.push(Reverse((at, self.sequence, index, result)));
    }

    /// Does an operation on the disk, as far as it is done before it completes; its result.
    fn act(&mut self, index: u32, op: &mut Op, state: &mut DiskState) -> i32 {
        let (verb, fd) = match op {
            Op::Read { fd, .. } => (Verb::Read, *fd),
            Op::Write { fd, .. } => (Verb::Write, *fd),
            Op::Sync { fd, .. } => (Verb::Sync, *fd),
            Op::Allocate { fd, .. } => (Verb::Allocate, *fd),
            Op::None => unreachable!("an empty slot is never submitted"),
            Op::Unlink { .. }
            | Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Receive { .. }
            | Op::Send { .. }
            | Op::Readable { .. } => return -libc::ENOSYS,
        };
        let (node, path) = state.open[fd as usize].clone();
        if let Some(fault) = state.fault(verb, &path) {
            let errno = fault.raw_os_error().unwrap_or(libc::EIO);
            if verb == Verb::Sync && matches!(errno, libc::EIO | libc::ENOSPC) {
                // As real kernels do: the pages count as clean now, a later sync skips them.
                state.nodes[node].completed.clear();
            }
            return -errno;
        }
        if let Some(errno) = state.failing.filter(|_| verb != Verb::Read) {
            if verb == Verb::Sync {
                state.nodes[node].completed.clear();
            }
            return -errno;
        }
        match op {
            Op::Read { into, position, len_max, .. } => {
                let len = into.remaining().min(*len_max);
                let bytes = self.read(state, node, *position, len);
                // The completion counts the bytes: only the memory is filled here.
                let (start, _) = into.spare(len);
                copy_to(&bytes, start);
                bytes.len() as i32
            }
            Op::Write { pieces, position, dsync, .. } => {
                let bytes = pieces.iter().map(|p| p.snapshot()).collect::<Vec<_>>().concat();
                self.write(index, state, node, *position, &bytes, *dsync)
            }
            Op::Sync { .. } => {
                let completed = state.nodes[node].completed.clone();
                let len = state.nodes[node].len;
                state.record("sync", &[node as u64], &[]);
                self.syncs.insert(index, (node, completed, len));
                0
            }
            Op::Allocate { position, bytes, .. } => {
                let end = *position + *bytes;
                let more = blocks_of(end).saturating_sub(blocks_of(state.nodes[node].len));
                if state.is_full_for(more) {
                    return -libc::ENOSPC;
                }
                state.nodes[node].len = state.nodes[node].len.max(end);
                0
            }
            _ => unreachable!("only these have a file"),
        }
    }

    fn read(&mut self, state: &mut DiskState, node: usize, position: u64, len: usize) -> Vec<u8> {
        let mut bytes = state.nodes[node].read(position, len);
        if state.lying_reads > 0 && self.random.one_in(state.lying_reads) {
            let told = if self.random.one_in(2) {
                state.nodes[node].read_stale(position, len)
            } else {
                let elsewhere = self.random.below(64) * 4096;
                state.nodes[node].read(elsewhere, len)
            };
            let shared = told.len().min(bytes.len());
            state.lies += u64::from(bytes[..shared] != told[..shared]);
            bytes[..shared].copy_from_slice(&told[..shared]);
        }
        state.record("read", &[node as u64, position, bytes.len() as u64], &[]);
        bytes
    }

    fn write(
        &mut self,
        index: u32,
        state: &mut DiskState,
        node: usize,
        position: u64,
        bytes: &[u8],
        dsync: bool,
    ) -> i32 {
        let end = blocks_of(position + bytes.len() as u64);
        if state.is_full_for(end.saturating_sub(blocks_of(state.nodes[node].len))) {
            return -libc::ENOSPC;
        }
        let number = state.next_write;
        state.next_write += 1;
        // Sometimes only the front is taken, at a block boundary.
        let mut taken = bytes.len();
        if taken > 8192 && self.random.one_in(20) {
            taken = (self.random.below(taken as u64 / 4096 - 1) as usize + 1) * 4096;
        }
        state.nodes[node].write(number, position, &bytes[..taken], false);
        state.recent.push_back((node, position, taken as u64));
        if state.recent.len() > RECENT_WRITES {
            state.recent.pop_front();
        }
        let numbers = [node as u64, position, taken as u64, u64::from(dsync)];
        state.record("write", &numbers, &bytes[..taken.min(256)]);
        state.in_flight.insert((node, number));
        if dsync {
            // It promises its own range, not what was allocated behind.
            let len = position + taken as u64;
            self.syncs.insert(index, (node, BTreeSet::from([number]), len));
        }
        self.writes.insert(index, (node, number));
        taken as i32
    }

    /// Lets time pass to the next event and completes it.
    pub(crate) fn step(
        &mut self,
        wait: bool,
        next_timer: Option<Nanos>,
        slots: &mut Slots,
        wake: &mut Vec<Waker>,
    ) -> Result<(), Stopped> {
        if self.stopped() {
            return Err(Stopped);
        }
        if !wait {
            return Ok(());
        }
        match (self.next_event(), next_timer) {
            (None, None) => panic!("the simulated machine waits for nothing: a lost wake-up"),
            (Some(event), timer) if timer.is_none_or(|timer| event <= timer) => {
                self.now.set(self.now.get().max(event));
                self.complete_next(slots, wake);
            }
            (_, Some(timer)) => self.now.set(self.now.get().max(timer)),
            (Some(_), None) => unreachable!("covered by the guard above"),
        }
        Ok(())
    }

    /// When the next operation is done, by the world's clock.
    pub(crate) fn next_event(&self) -> Option<Nanos> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// When a timer of this machine fires, by the world's clock.
    pub(crate) fn world_time(&self, local: Nanos) -> Nanos {
        self.clock.world(local)
    }

    /// Completes everything that is due.
    pub(crate) fn complete_due(&mut self, slots: &mut Slots, wake: &mut Vec<Waker>) {
        while self.next_event().is_some_and(|at| at <= self.now.get()) {
            self.complete_next(slots, wake);
        }
    }

    fn complete_next(&mut self, slots: &mut Slots, wake: &mut Vec<Waker>) {
        let Some(Reverse((_, _, index, mut result))) = self.events.pop() else {
            unreachable!("asked for because there is one");
        };
        let mut state = self.disk.state.borrow_mut();
        if let Some((node, number)) = self.writes.remove(&index) {
            state.in_flight.remove(&(node, number));
            state.nodes[node].completed.insert(number);
        }
        if let Some((node, completed, len)) = self.syncs.remove(&index) {
            // A dsync write promises its own range only; a file sync the whole length.
            let len = if matches!(slots.get(index).op, Op::Write { .. }) {
                state.nodes[node].durable_len.max(len)
            } else {
                len
            };
            state.nodes[node].sync(&completed, len);
        }
        drop(state);
        let slot = slots.get(index);
        if let (Op::Receive { into, .. }, Some(bytes)) =
            (&mut slot.op, self.received.remove(&index))
        {
            let (start, room) = into.spare(bytes.len());
            assert!(room >= bytes.len(), "no more is received than was asked for");
            copy_to(&bytes, start);
        }
        if matches!(slot.op, Op::Accept { .. }) && slot.state == SlotState::Orphaned && result >= 0
        {
            self.close_socket(result);
            result = -libc::ECANCELED;
        }
        advance_writer(slots.get(index), result);
        wake.extend(slots.complete(index, result));
    }

    pub(crate) fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<i32> {
        let alive = self.count_step();
        let mut state = self.disk.state.borrow_mut();
        if let Some(fault) = state.fault(Verb::Open, path).filter(|_| alive) {
            return Err(fault);
        }
        let node = match state.names.get(path) {
            Some(Entry::File(node)) => *node,
            Some(Entry::Directory) => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
            None if options.create => {
                let parent = path.parent().unwrap_or(Path::new("/"));
                // Past its stop the program runs to its next wait; nothing it does counts.
                if alive && state.names.get(parent) != Some(&Entry::Directory) {
                    return Err(not_found());
                }
                state.nodes.push(Node::default());
                let node = state.nodes.len() - 1;
                if alive {
                    state.names.insert(path.to_owned(), Entry::File(node));
                }
                node
            }
            None => return Err(not_found()),
        };
        state.open.push((node, path.to_owned()));
        Ok(state.open.len() as i32 - 1)
    }

    pub(crate) fn set_len(&mut self, fd: i32, len: u64) -> io::Result<()> {
        if self.count_step() {
            let mut state = self.disk.state.borrow_mut();
            let (node, path) = state.open[fd as usize].clone();
            if let Some(fault) = state.fault(Verb::Truncate, &path) {
                return Err(fault);
            }
            let number = state.next_write;
            state.next_write += 1;
            state.nodes[node].set_len(number, len);
        }
        Ok(())
    }

    pub(crate) fn len(&mut self, fd: i32) -> io::Result<u64> {
        let mut state = self.disk.state.borrow_mut();
        let (node, path) = state.open[fd as usize].clone();
        match state.fault(Verb::Stat, &path) {
            Some(fault) => Err(fault),
            None => Ok(state.nodes[node].len),
        }
    }

    pub(crate) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        if self.count_step() {
            let mut state = self.disk.state.borrow_mut();
            if !state.names.contains_key(path) {
                if let Some(fault) = state.fault(Verb::MakeDir, path) {
                    return Err(fault);
                }
                if state.is_full_for(BLOCK_BYTES) {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
            }
            for ancestor in path.ancestors().filter(|a| a.parent().is_some()) {
                state.names.entry(ancestor.to_owned()).or_insert(Entry::Directory);
            }
        }
        Ok(())
    }

    /// Also once the machine has stopped: the program runs to its next wait, and an empty directory would be damage to it.
    pub(crate) fn list(&mut self, path: &Path) -> io::Result<Vec<String>> {
        let stopped = self.stopped();
        let mut state = self.disk.state.borrow_mut();
        if state.names.get(path) != Some(&Entry::Directory) {
            // One that was made past the stop was not.
            return if stopped { Ok(Vec::new()) } else { Err(not_found()) };
        }
        if let Some(fault) = state.fault(Verb::List, path) {
            return Err(fault);
        }
        let below = state.names.range(path.to_owned()..).take_while(|(p, _)| p.starts_with(path));
        let children = below.map(|(p, _)| p).filter(|p| p.parent() == Some(path));
        Ok(children.filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect())
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.count_step() {
            let mut state = self.disk.state.borrow_mut();
            if let Some(fault) = state.fault(Verb::Rename, to) {
                return Err(fault);
            }
            let entry = state.names.remove(from).ok_or_else(not_found)?;
            state.names.insert(to.to_owned(), entry);
            let below: Vec<PathBuf> =
                state.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
            for path in below {
                let entry = state.names.remove(&path).expect("listed just now");
                let moved = to.join(path.strip_prefix(from).expect("below it"));
                state.names.insert(moved, entry);
            }
            state.record("rename", &[], to.as_os_str().as_encoded_bytes());
        }
        Ok(())
    }

    pub(crate) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        if self.count_step() {
            let mut state = self.disk.state.borrow_mut();
            if let Some(fault) = state.fault(Verb::Unlink, path) {
                return Err(fault);
            }
            state.names.remove(path).ok_or_else(not_found)?;
        }
        Ok(())
    }

    pub(crate) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        if self.count_step() {
            let mut state = self.disk.state.borrow_mut();
            if state.names.keys().any(|name| name.parent() == Some(path)) {
                return Err(io::Error::from_raw_os_error(libc::ENOTEMPTY));
            }
            state.names.remove(path).ok_or_else(not_found)?;
        }
        Ok(())
    }

    pub(crate) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        if self.count_step() {
            let mut state = self.disk.state.borrow_mut();
            if state.names.contains_key(path) {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            if let Some(fault) = state.fault(Verb::MakeDir, path) {
                return Err(fault);
            }
            if state.is_full_for(BLOCK_BYTES) {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            state.names.insert(path.to_owned(), Entry::Directory);
        }
        Ok(())
    }

    pub(crate) fn space(&self) -> (i64, i64) {
        let state = self.disk.state.borrow();
        let all = state.capacity_bytes.map_or(1 << 40, |bytes| bytes as i64);
        (all, all - state.used_bytes() as i64)
    }

    pub(crate) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        if self.count_step() {
            self.disk.state.borrow_mut().names.retain(|p, _| !p.starts_with(path));
        }
        Ok(())
    }

    /// `None` once the machine has stopped.
    pub(crate) fn sync_everything(&mut self, path: &Path) -> Option<io::Result<()>> {
        if !self.count_step() {
            return None;
        }
        let mut state = self.disk.state.borrow_mut();
        let state = &mut *state;
        if let Some(fault) = state.fault(Verb::Sync, path) {
            state.nodes.iter_mut().for_each(|node| node.completed.clear());
            return Some(Err(fault));
        }
        if let Some(errno) = state.failing {
            state.nodes.iter_mut().for_each(|node| node.completed.clear());
            return Some(Err(io::Error::from_raw_os_error(errno)));
        }
        for node in &mut state.nodes {
            let (completed, len) = (node.completed.clone(), node.len);
            node.sync(&completed, len);
        }
        state.durable_names.clone_from(&state.names);
        state.record("sync everything", &[], &[]);
        Some(Ok(()))
    }

    /// `None` once the machine has stopped.
    pub(crate) fn sync_dir(&mut self, path: &Path) -> Option<io::Result<()>> {
        if !self.count_step() {
            return None;
        }
        let mut state = self.disk.state.borrow_mut();
        if let Some(errno) = state.failing {
            return Some(Err(io::Error::from_raw_os_error(errno)));
        }
        if let Some(fault) = state.fault(Verb::SyncDir, path) {
            return Some(Err(fault));
        }
        let DiskState { names, durable_names, .. } = &mut *state;
        durable_names.retain(|p, _| p.parent() != Some(path) || names.contains_key(p));
        for (name, entry) in names.iter().filter(|(p, _)| p.parent() == Some(path)) {
            durable_names.insert(name.clone(), *entry);
        }
        // The directory itself lasts once its name in its parent was made durable.
        Some(Ok(()))
    }
}

fn no_network() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSYS)
}

/// With its number, as a kernel gives it.
fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

#[allow(unsafe_code)]
fn copy_to(bytes: &[u8], start: *mut u8) {
    // SAFETY: `start` has room for as many bytes as the read asked for, and only the slot's writer,
    // which the twin holds, writes there.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
}
