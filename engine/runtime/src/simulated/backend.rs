//! The twin of the ring: operations on the simulated disk, each done after a drawn latency.

use super::disk::{BLOCK_BYTES, Disk, DiskState, Entry, Node, RECENT_WRITES, Verb, blocks_of};
use crate::generator::Random;
use crate::nanos::Nanos;
use crate::op::{Op, Slot, Slots, advance_writer};
use crate::open_options::OpenOptions;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::path::{Path, PathBuf};
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
        SimulatedBackend {
            disk: self.disk,
            random: self.random,
            stop_at_step: self.stop_at_step,
            unix_offset_ms: self.unix_offset_ms,
            steps: 0,
            now: Nanos(1_000_000_000),
            events: BinaryHeap::new(),
            sequence: 0,
            syncs: BTreeMap::new(),
            writes: BTreeMap::new(),
        }
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
    now: Nanos,
    /// (when, tie-break, slot, result).
    events: BinaryHeap<Reverse<(Nanos, u64, u32, i32)>>,
    sequence: u64,
    /// Per slot: what a sync in flight will make durable.
    syncs: BTreeMap<u32, (usize, BTreeSet<u64>, u64)>,
    /// Per slot: which write of which node completes.
    writes: BTreeMap<u32, (usize, u64)>,
}

impl SimulatedBackend {
    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    pub(crate) fn unix_ms(&self) -> i64 {
        let ms = (self.now.0 / 1_000_000) as i64;
        // A wrong clock is set right, and wrong again, each second.
        let offset = if (ms / 1000) % 2 == 0 { self.unix_offset_ms } else { 0 };
        EPOCH_UNIX_MS + ms + offset
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    fn stopped(&self) -> bool {
        self.stop_at_step.is_some_and(|at| self.steps > at)
    }

    /// Counts an I/O step; false once the machine has stopped and nothing may change any more.
    fn count_step(&mut self) -> bool {
        self.steps += 1;
        !self.stopped()
    }

    pub(crate) fn push(&mut self, index: u32, slot: &mut Slot) {
        let alive = self.count_step();
        let latency_ns = 1_000 + self.random.below(200_000);
        let mut state = self.disk.state.borrow_mut();
        let state = &mut *state;
        let opened = match &slot.op {
            Op::Read { fd, .. } => Some((Verb::Read, *fd)),
            Op::Write { fd, .. } => Some((Verb::Write, *fd)),
            Op::Sync { fd, .. } => Some((Verb::Sync, *fd)),
            Op::Allocate { fd, .. } => Some((Verb::Allocate, *fd)),
            _ => None,
        };
        let may_fail = alive && !state.faults.is_empty();
        let fault = opened.filter(|_| may_fail).and_then(|(verb, fd)| {
            let (node, path) = state.open[fd as usize].clone();
            let fault = state.fault(verb, &path)?;
            let errno = fault.raw_os_error();
            if verb == Verb::Sync && matches!(errno, Some(libc::EIO | libc::ENOSPC)) {
                // As real kernels do: the pages count as clean now, a later sync skips them.
                state.nodes[node].completed.clear();
            }
            errno
        });
        let node = opened.map_or(0, |(_, fd)| state.open[fd as usize].0);
        let node_of = |_: i32| node;
        let result = match &mut slot.op {
            _ if !alive => 0,
            _ if fault.is_some() => -fault.unwrap_or(libc::EIO),
            Op::Read { fd, into, position, len_max } => {
                let len = into.remaining().min(*len_max);
                let node = node_of(*fd);
                let mut bytes = state.nodes[node].read(*position, len);
                if state.lying_reads > 0 && self.random.one_in(state.lying_reads) {
                    let told = if self.random.one_in(2) {
                        state.nodes[node].read_stale(*position, len)
                    } else {
                        let elsewhere = self.random.below(64) * 4096;
                        state.nodes[node].read(elsewhere, len)
                    };
                    let shared = told.len().min(bytes.len());
                    state.lies += u64::from(bytes[..shared] != told[..shared]);
                    bytes[..shared].copy_from_slice(&told[..shared]);
                }
                state.record("read", &[node as u64, *position, bytes.len() as u64], &[]);
                // The completion counts the bytes: only the memory is filled here.
                let (start, _) = into.spare(len);
                copy_to(&bytes, start);
                bytes.len() as i32
            }
            Op::Write { .. } | Op::Sync { .. } | Op::Allocate { .. } if state.failing.is_some() => {
                if let Op::Sync { fd, .. } = &slot.op {
                    // As real kernels do: the pages count as clean now, a later sync skips them.
                    let node = node_of(*fd);
                    state.nodes[node].completed.clear();
                }
                -state.failing.unwrap_or(libc::EIO)
            }
            Op::Write { fd, pieces, position, .. }
                if {
                    let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
                    let len = state.nodes[node_of(*fd)].len;
                    let end = blocks_of(*position + bytes);
                    state.is_full_for(end.saturating_sub(blocks_of(len)))
                } =>
            {
                -libc::ENOSPC
            }
            Op::Write { fd, pieces, position, dsync } => {
                let node = node_of(*fd);
                let bytes = pieces.iter().map(|p| p.snapshot()).collect::<Vec<_>>().concat();
                let number = state.next_write;
                state.next_write += 1;
                // Sometimes only the front is taken, at a block boundary.
                let mut taken = bytes.len();
                if taken > 8192 && self.random.one_in(20) {
                    taken = (self.random.below(taken as u64 / 4096 - 1) as usize + 1) * 4096;
                }
                state.nodes[node].write(number, *position, &bytes[..taken], false);
                state.recent.push_back((node, *position, taken as u64));
                if state.recent.len() > RECENT_WRITES {
                    state.recent.pop_front();
                }
                let numbers = [node as u64, *position, taken as u64, u64::from(*dsync)];
                state.record("write", &numbers, &bytes[..taken.min(256)]);
                state.in_flight.insert((node, number));
                if *dsync {
                    // It promises its own range, not what was allocated behind.
                    let len = *position + taken as u64;
                    self.syncs.insert(index, (node, BTreeSet::from([number]), len));
                }
                self.writes.insert(index, (node, number));
                taken as i32
            }
            Op::Sync { fd, .. } => {
                let node = node_of(*fd);
                let completed = state.nodes[node].completed.clone();
                let len = state.nodes[node].len;
                state.record("sync", &[node as u64], &[]);
                self.syncs.insert(index, (node, completed, len));
                0
            }
            Op::Allocate { fd, position, bytes } => {
                let node = node_of(*fd);
                let end = *position + *bytes;
                let more = blocks_of(end).saturating_sub(blocks_of(state.nodes[node].len));
                if state.is_full_for(more) {
                    -libc::ENOSPC
                } else {
                    state.nodes[node].len = state.nodes[node].len.max(end);
                    0
                }
            }
            Op::None => unreachable!("an empty slot is never submitted"),
            Op::Unlink { .. }
            | Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Receive { .. }
            | Op::Send { .. }
            | Op::Readable { .. } => -libc::ENOSYS,
        };
        self.sequence += 1;
        let at = Nanos(self.now.0 + latency_ns);
        self.events.push(Reverse((at, self.sequence, index, result)));
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
        let next_event = self.events.peek().map(|Reverse((at, ..))| *at);
        match (next_event, next_timer) {
            (None, None) => panic!("the simulated machine waits for nothing: a lost wake-up"),
            (Some(event), timer) if timer.is_none_or(|timer| event <= timer) => {
                let Some(Reverse((at, _, index, result))) = self.events.pop() else {
                    unreachable!("peeked above");
                };
                self.now = self.now.max(at);
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
                advance_writer(slots.get(index), result);
                wake.extend(slots.complete(index, result));
            }
            (_, Some(timer)) => self.now = self.now.max(timer),
            (Some(_), None) => unreachable!("covered by the guard above"),
        }
        Ok(())
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

    pub(crate) fn list(&mut self, path: &Path) -> io::Result<Vec<String>> {
        if self.stopped() {
            return Ok(Vec::new());
        }
        let mut state = self.disk.state.borrow_mut();
        if state.names.get(path) != Some(&Entry::Directory) {
            return Err(not_found());
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
