//! The twin: the same verbs on a disk in memory, with virtual time and seeded faults.
//!
//! The disk is as bad as the interfaces allow: until a sync, every 512-byte sector may come back
//! from a power cut in any of the versions written since (dropped, kept, torn, reordered), a
//! file's length in its old or new state, and each name in a directory bound to its old or new
//! file. A completed `dsync` write is durable itself and says nothing about earlier writes.
//! Sockets are not simulated: they answer ENOSYS.

use crate::generator::Random;
use crate::nanos::Nanos;
use crate::op::{Op, Slot, Slots, advance_writer};
use crate::open_options::OpenOptions;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Waker;

const SECTOR_BYTES: usize = 512;
/// So many of the newest writes are remembered.
const RECENT_WRITES: usize = 12;
type Sector = [u8; SECTOR_BYTES];
const EPOCH_UNIX_MS: i64 = 1_700_000_000_000;

/// What a program does to a file or a name, as faults name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Open,
    Stat,
    Read,
    Write,
    Sync,
    Allocate,
    Truncate,
    Rename,
    Unlink,
    MakeDir,
    List,
    SyncDir,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::Stat,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::Allocate,
        Self::Truncate,
        Self::Rename,
        Self::Unlink,
        Self::MakeDir,
        Self::List,
        Self::SyncDir,
    ];
}

/// An operation that fails.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which operation.
    pub verb: Verb,
    /// On paths that hold this.
    pub path: String,
    /// Not the first so many.
    pub after: u64,
    /// But then so many.
    pub times: u64,
    /// With this number.
    pub errno: i32,
}

/// A disk that outlives the runtimes that use it, as a real one outlives a power cut.
#[derive(Clone, Default)]
pub struct Disk {
    state: Rc<RefCell<DiskState>>,
}

#[derive(Default)]
struct DiskState {
    nodes: Vec<Node>,
    /// What a running program sees.
    names: BTreeMap<PathBuf, Entry>,
    /// What is certain to survive a power cut.
    durable_names: BTreeMap<PathBuf, Entry>,
    open: Vec<(usize, PathBuf)>,
    next_write: u64,
    /// Writes under way: node and number.
    in_flight: BTreeSet<(usize, u64)>,
    capacity_bytes: Option<u64>,
    failing: Option<i32>,
    faults: Vec<Fault>,
    /// Faults that were met.
    faults_met: u64,
    /// One read in so many gives wrong bytes; 0: none.
    lying_reads: u64,
    lies: u64,
    /// The newest writes: node, position, length.
    recent: VecDeque<(usize, u64, u64)>,
    /// Over every operation so far.
    trace: u64,
}

impl DiskState {
    /// Whole blocks of all files that have a name, and one for each directory.
    fn used_bytes(&self) -> u64 {
        let bytes = |entry: &Entry| match entry {
            Entry::File(node) => blocks_of(self.nodes[*node].len),
            Entry::Directory => BLOCK_BYTES,
        };
        self.names.values().map(bytes).sum()
    }

    /// Whether so many bytes more do not fit.
    fn is_full_for(&self, bytes: u64) -> bool {
        let is_over = |max| self.used_bytes() + bytes > max;
        bytes > 0 && self.capacity_bytes.is_some_and(is_over)
    }

    /// Why an operation fails, if it does.
    fn fault(&mut self, verb: Verb, path: &Path) -> Option<io::Error> {
        if self.faults.is_empty() {
            return None;
        }
        let text = path.to_string_lossy();
        for fault in &mut self.faults {
            if fault.verb != verb || fault.times == 0 || !text.contains(&fault.path) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times -= 1;
            self.faults_met += 1;
            return Some(io::Error::from_raw_os_error(fault.errno));
        }
        None
    }

    /// Folds an operation into the trace (FNV-1a).
    fn record(&mut self, what: &str, numbers: &[u64], bytes: &[u8]) {
        let numbers = numbers.iter().flat_map(|number| number.to_be_bytes());
        for byte in what.bytes().chain(numbers).chain(bytes.iter().copied()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

const BLOCK_BYTES: u64 = 4096;

fn blocks_of(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Directory,
    File(usize),
}

#[derive(Default, Clone)]
struct Node {
    durable: BTreeMap<u64, Sector>,
    /// Versions of a sector since it was last durable, oldest first, each with its write's number.
    pending: BTreeMap<u64, Vec<(u64, Sector)>>,
    /// Numbers of the writes that have completed and are not yet durable.
    completed: BTreeSet<u64>,
    durable_len: u64,
    len: u64,
}

impl Node {
    fn sector(&self, index: u64) -> Sector {
        let latest = self.pending.get(&index).and_then(|versions| versions.last());
        latest.map(|(_, s)| *s).or_else(|| self.durable.get(&index).copied()).unwrap_or([0; 512])
    }

    fn write(&mut self, number: u64, position: u64, bytes: &[u8], durable: bool) {
        let end = position + bytes.len() as u64;
        let first = position / SECTOR_BYTES as u64;
        for index in first..end.div_ceil(SECTOR_BYTES as u64) {
            let start = index * SECTOR_BYTES as u64;
            let mut sector = self.sector(index);
            for (at, byte) in sector.iter_mut().enumerate() {
                let offset = start + at as u64;
                if offset >= position && offset < end {
                    *byte = bytes[(offset - position) as usize];
                }
            }
            if durable {
                self.pending.remove(&index);
                self.durable.insert(index, sector);
            } else {
                self.pending.entry(index).or_default().push((number, sector));
            }
        }
        self.len = self.len.max(end);
        if durable {
            self.durable_len = self.durable_len.max(end);
        }
    }

    /// Makes the writes in `completed` durable, and the length as it was then.
    fn sync(&mut self, completed: &BTreeSet<u64>, len: u64) {
        for (index, versions) in &mut self.pending {
            if let Some(last) = versions.iter().rposition(|(n, _)| completed.contains(n)) {
                self.durable.insert(*index, versions[last].1);
                versions.drain(..=last);
            }
        }
        self.pending.retain(|_, versions| !versions.is_empty());
        self.completed.retain(|number| !completed.contains(number));
        self.durable_len = len;
    }

    fn read(&self, position: u64, len: usize) -> Vec<u8> {
        self.read_as(position, len, |index| self.sector(index))
    }

    /// What was last made durable there: a read that missed the newest writes.
    fn read_stale(&self, position: u64, len: usize) -> Vec<u8> {
        self.read_as(position, len, |index| {
            self.durable.get(&index).copied().unwrap_or([0; SECTOR_BYTES])
        })
    }

    fn read_as(&self, position: u64, len: usize, sector: impl Fn(u64) -> Sector) -> Vec<u8> {
        let end = (position + len as u64).min(self.len).max(position);
        let mut out = Vec::with_capacity((end - position) as usize);
        let mut at = position;
        while at < end {
            let (index, from) = (at / SECTOR_BYTES as u64, (at % SECTOR_BYTES as u64) as usize);
            let to = (from + (end - at) as usize).min(SECTOR_BYTES);
            out.extend_from_slice(&sector(index)[from..to]);
            at += (to - from) as u64;
        }
        out
    }

    fn set_len(&mut self, number: u64, len: u64) {
        if len < self.len {
            let zeroes = vec![0; (self.len - len) as usize];
            self.write(number, len, &zeroes, false);
            self.completed.insert(number);
        }
        self.len = len;
    }

    fn power_cut(&mut self, random: &mut Random) {
        // Often all or nothing, which is what real disks mostly do; else each sector for itself.
        let style = random.below(4);
        for (index, versions) in std::mem::take(&mut self.pending) {
            let choice = match style {
                0 => 0,
                1 => versions.len() as u64,
                _ => random.below(versions.len() as u64 + 1),
            };
            if choice > 0 {
                self.durable.insert(index, versions[choice as usize - 1].1);
            }
        }
        self.completed.clear();
        if random.one_in(2) {
            self.durable_len = self.len;
        }
        self.len = self.durable_len;
        let end = self.len.div_ceil(SECTOR_BYTES as u64);
        self.durable.retain(|index, _| *index < end);
    }
}

impl Disk {
    /// Cuts the power: what was not synced is lost, kept or torn as the seed decides.
    pub fn power_cut(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut state = self.state.borrow_mut();
        let paths: BTreeSet<PathBuf> =
            state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        for path in paths {
            let (new, old) =
                (state.names.get(&path).copied(), state.durable_names.get(&path).copied());
            let kept = if new != old && random.one_in(2) { new } else { old };
            match kept {
                Some(entry) => state.durable_names.insert(path, entry),
                None => state.durable_names.remove(&path),
            };
        }
        // A name whose directory did not survive is gone with it.
        let survivors = state.durable_names.clone();
        state.durable_names.retain(|path, _| {
            let mut ancestors = path.ancestors().skip(1).filter(|a| a.parent().is_some());
            ancestors.all(|a| survivors.get(a) == Some(&Entry::Directory))
        });
        state.names = state.durable_names.clone();
        for node in &mut state.nodes {
            node.power_cut(&mut random);
        }
        state.open.clear();
        state.in_flight.clear();
    }

    /// Kills the program but not the machine: everything written is there.
    pub fn kill(&self) {
        let mut state = self.state.borrow_mut();
        state.open.clear();
        state.in_flight.clear();
        for node in &mut state.nodes {
            // The kernel finishes what was in flight: a later sync covers it.
            let numbers = node.pending.values().flatten().map(|(number, _)| *number);
            node.completed.extend(numbers);
        }
    }

    /// As `kill`, but of writes that were under way only a part may have been done, from its front, or nothing.
    pub fn kill_torn(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut state = self.state.borrow_mut();
        for (node, number) in std::mem::take(&mut state.in_flight) {
            let node = &mut state.nodes[node];
            let of_it = |versions: &Vec<(u64, Sector)>| versions.iter().any(|(n, _)| *n == number);
            let sectors: Vec<u64> =
                node.pending.iter().filter(|(_, v)| of_it(v)).map(|(index, _)| *index).collect();
            let kept = random.below(sectors.len() as u64 + 1) as usize;
            for index in &sectors[kept..] {
                let versions = node.pending.get_mut(index).expect("listed just now");
                versions.retain(|(n, _)| *n != number);
            }
            node.pending.retain(|_, versions| !versions.is_empty());
        }
        drop(state);
        self.kill();
    }

    /// Makes an operation fail, beside those that do already.
    pub fn add_fault(&self, fault: Fault) {
        self.state.borrow_mut().faults.push(fault);
    }

    /// Nothing fails any more. Returns how many faults were met so far.
    pub fn clear_faults(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.faults.clear();
        state.faults_met
    }

    /// Everything under a path: names and bytes. For `restore`.
    #[must_use]
    pub fn copy_of(&self, path: &Path) -> SavedFile {
        let state = self.state.borrow();
        let Some(Entry::File(node)) = state.names.get(path).copied() else {
            return SavedFile(None);
        };
        SavedFile(Some(state.nodes[node].clone()))
    }

    /// Puts a file back as it was when it was copied, durably; or removes it, if there was none.
    pub fn restore(&self, path: &Path, saved: &SavedFile) {
        let mut state = self.state.borrow_mut();
        match &saved.0 {
            Some(node) => {
                let mut node = node.clone();
                let completed =
                    node.pending.values().flatten().map(|(number, _)| *number).collect();
                let len = node.len;
                node.sync(&completed, len);
                state.nodes.push(node);
                let entry = Entry::File(state.nodes.len() - 1);
                state.names.insert(path.to_owned(), entry);
                state.durable_names.insert(path.to_owned(), entry);
            }
            None => {
                state.names.remove(path);
                state.durable_names.remove(path);
            }
        }
    }

    /// Cuts a file, now and durably.
    pub fn cut(&self, path: &Path, len: u64) {
        let mut state = self.state.borrow_mut();
        let Some(Entry::File(node)) = state.names.get(path).copied() else { return };
        let node = &mut state.nodes[node];
        node.set_len(u64::MAX, len.min(node.len));
        let completed = node.pending.values().flatten().map(|(number, _)| *number).collect();
        let len = node.len;
        node.sync(&completed, len);
    }

    /// Overwrites bytes of a file, now and durably.
    pub fn scribble(&self, path: &Path, position: u64, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let Some(Entry::File(node)) = state.names.get(path).copied() else { return };
        let len = state.nodes[node].len.saturating_sub(position).min(bytes.len() as u64);
        state.nodes[node].write(u64::MAX, position, &bytes[..len as usize], true);
    }

    /// Limits the bytes that files may take, in whole blocks; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.borrow_mut().capacity_bytes = bytes;
    }

    /// Makes every later write, sync and allocation fail with this errno; `None` heals the disk.
    pub fn set_failing(&self, errno: Option<i32>) {
        self.state.borrow_mut().failing = errno;
    }

    /// From now on one read in `one_in` comes from another place or from before the last writes; 0
    /// stops it. Returns how many reads have lied so far.
    pub fn set_lying_reads(&self, one_in: u64) -> u64 {
        let mut state = self.state.borrow_mut();
        state.lying_reads = one_in;
        state.lies
    }

    /// A number over every operation so far: equal for equal histories.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.state.borrow().trace
    }

    /// Where the newest writes went: file, position, length.
    #[must_use]
    pub fn recent_writes(&self) -> Vec<(PathBuf, u64, u64)> {
        let state = self.state.borrow();
        let name_of = |node: usize| {
            let mut names = state.names.iter();
            names.find(|(_, entry)| **entry == Entry::File(node)).map(|(path, _)| path.clone())
        };
        let place = |&(node, at, len): &(usize, u64, u64)| Some((name_of(node)?, at, len));
        state.recent.iter().filter_map(place).collect()
    }

    /// Every file a running program sees, with its length.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state.borrow();
        let file = |(path, entry): (&PathBuf, &Entry)| match entry {
            Entry::File(node) => Some((path.clone(), state.nodes[*node].len)),
            Entry::Directory => None,
        };
        state.names.iter().filter_map(file).collect()
    }

    /// Flips one bit of a file, now and durably: rot.
    pub fn flip_bit(&self, path: &Path, position: u64, bit: u8) {
        let byte = self.byte_at(path, position).expect("a byte of a file") ^ (1 << bit);
        let mut state = self.state.borrow_mut();
        let Some(Entry::File(node)) = state.names.get(path).copied() else { return };
        state.nodes[node].write(u64::MAX, position, &[byte], true);
    }

    /// The byte that a program would read there; `None` outside of any file.
    #[must_use]
    pub fn byte_at(&self, path: &Path, position: u64) -> Option<u8> {
        let state = self.state.borrow();
        let Some(Entry::File(node)) = state.names.get(path).copied() else { return None };
        state.nodes[node].read(position, 1).first().copied()
    }
}

/// A file as it was; by default there was none.
#[derive(Clone, Default)]
pub struct SavedFile(Option<Node>);

impl SavedFile {
    /// Whether a program would read the same.
    #[must_use]
    pub fn holds_as(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(two)) => {
                one.len == two.len && one.read(0, one.len as usize) == two.read(0, two.len as usize)
            }
            _ => false,
        }
    }
}

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
