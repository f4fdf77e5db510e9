//! The disk of a simulated machine: what it holds, what of it is durable, and what a power cut leaves.
//!
//! The disk is as bad as the interfaces allow: until a sync, every 512-byte sector may come back
//! from a power cut in any of the versions written since (dropped, kept, torn, reordered), a
//! file's length in its old or new state, and each name in a directory bound to its old or new
//! file. A completed `dsync` write is durable itself and says nothing about earlier writes.

use crate::generator::Random;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub(super) const SECTOR_BYTES: usize = 512;
/// So many of the newest writes are remembered.
pub(super) const RECENT_WRITES: usize = 12;
pub(super) type Sector = [u8; SECTOR_BYTES];

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
    pub(super) state: Rc<RefCell<DiskState>>,
}

#[derive(Default)]
pub(super) struct DiskState {
    pub(super) nodes: Vec<Node>,
    /// What a running program sees.
    pub(super) names: BTreeMap<PathBuf, Entry>,
    /// What is certain to survive a power cut.
    pub(super) durable_names: BTreeMap<PathBuf, Entry>,
    pub(super) open: Vec<(usize, PathBuf)>,
    pub(super) next_write: u64,
    /// Writes under way: node and number.
    pub(super) in_flight: BTreeSet<(usize, u64)>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) failing: Option<i32>,
    /// Operations take so many times as long, and one time more.
    pub(super) slowness: u64,
    pub(super) faults: Vec<Fault>,
    /// Faults that were met.
    pub(super) faults_met: u64,
    /// One read in so many gives wrong bytes; 0: none.
    pub(super) lying_reads: u64,
    pub(super) lies: u64,
    /// The newest writes: node, position, length.
    pub(super) recent: VecDeque<(usize, u64, u64)>,
    /// Over every operation so far.
    pub(super) trace: u64,
}

impl DiskState {
    /// Whole blocks of all files that have a name, and one for each directory.
    pub(super) fn used_bytes(&self) -> u64 {
        let bytes = |entry: &Entry| match entry {
            Entry::File(node) => blocks_of(self.nodes[*node].len),
            Entry::Directory => BLOCK_BYTES,
        };
        self.names.values().map(bytes).sum()
    }

    /// Whether so many bytes more do not fit.
    pub(super) fn is_full_for(&self, bytes: u64) -> bool {
        let is_over = |max| self.used_bytes() + bytes > max;
        bytes > 0 && self.capacity_bytes.is_some_and(is_over)
    }

    /// Why an operation fails, if it does.
    pub(super) fn fault(&mut self, verb: Verb, path: &Path) -> Option<io::Error> {
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
    pub(super) fn record(&mut self, what: &str, numbers: &[u64], bytes: &[u8]) {
        let numbers = numbers.iter().flat_map(|number| number.to_be_bytes());
        for byte in what.bytes().chain(numbers).chain(bytes.iter().copied()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

pub(super) const BLOCK_BYTES: u64 = 4096;

pub(super) fn blocks_of(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    Directory,
    File(usize),
}

#[derive(Default, Clone)]
pub(super) struct Node {
    pub(super) durable: BTreeMap<u64, Sector>,
    /// Versions of a sector since it was last durable, oldest first, each with its write's number.
    pub(super) pending: BTreeMap<u64, Vec<(u64, Sector)>>,
    /// Numbers of the writes that have completed and are not yet durable.
    pub(super) completed: BTreeSet<u64>,
    pub(super) durable_len: u64,
    pub(super) len: u64,
}

impl Node {
    pub(super) fn sector(&self, index: u64) -> Sector {
        let latest = self.pending.get(&index).and_then(|versions| versions.last());
        latest.map(|(_, s)| *s).or_else(|| self.durable.get(&index).copied()).unwrap_or([0; 512])
    }

    pub(super) fn write(&mut self, number: u64, position: u64, bytes: &[u8], durable: bool) {
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
    pub(super) fn sync(&mut self, completed: &BTreeSet<u64>, len: u64) {
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

    pub(super) fn read(&self, position: u64, len: usize) -> Vec<u8> {
        self.read_as(position, len, |index| self.sector(index))
    }

    /// What was last made durable there: a read that missed the newest writes.
    pub(super) fn read_stale(&self, position: u64, len: usize) -> Vec<u8> {
        self.read_as(position, len, |index| {
            self.durable.get(&index).copied().unwrap_or([0; SECTOR_BYTES])
        })
    }

    pub(super) fn read_as(
        &self,
        position: u64,
        len: usize,
        sector: impl Fn(u64) -> Sector,
    ) -> Vec<u8> {
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

    pub(super) fn set_len(&mut self, number: u64, len: u64) {
        if len < self.len {
            let zeroes = vec![0; (self.len - len) as usize];
            self.write(number, len, &zeroes, false);
            self.completed.insert(number);
        }
        self.len = len;
    }

    pub(super) fn power_cut(&mut self, random: &mut Random) {
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

    /// Has every operation take up to so many times longer than it would; 0: as it would.
    pub fn set_slowness(&self, times: u64) {
        self.state.borrow_mut().slowness = times;
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
