//! The storage room through many lives of one machine: appends, flushes, deletions, restarts, power
//! cuts at any step, failing, full and lying disks, rot.
//!
//! The oracle knows what was appended and what was promised. After every start: each promised record
//! is there, at its offset, once; nothing is there that was not appended; a log that lacks something
//! says so instead of opening.

use model::record_batch::BatchBuilder;
use model::{
    BrokerId, Compression, LeaderEpoch, LogSettings, Offset, PartitionIndex, RecordBatch, TopicId,
    TopicPartition,
};
use runtime::notify::Notify;
use runtime::random::Random;
use runtime::simulated::{Disk, Simulation};
use runtime::{Io, Runtime, timer};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::directory::data_dir::DataDir;
use storage::{Journal, Log, LogDir, Read, Replay, StorageError, TailCache, replay};

const DATA: &str = "/data";
const LIVES: u64 = 6;

/// What a run did, for reports and to show that it did something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Times the power went.
    pub power_cuts: u64,
    /// Times the program was killed and the machine went on.
    pub kills: u64,
    /// Records found again after a start.
    pub verified: u64,
    /// Flipped bits.
    pub flips: u64,
    /// Damage that was reported.
    pub reported: u64,
    /// Reads that returned wrong bytes.
    pub lies: u64,
    /// Lives in which the disk failed.
    pub failures: u64,
    /// Records deleted.
    pub deleted: u64,
    /// Records cut from ends of logs.
    pub cut: u64,
    /// Frames of journals.
    pub frames: u64,
    /// Over every disk operation: equal for equal histories.
    pub trace: u64,
}

impl Outcome {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.verified += other.verified;
        self.flips += other.flips;
        self.reported += other.reported;
        self.lies += other.lies;
        self.failures += other.failures;
        self.deleted += other.deleted;
        self.cut += other.cut;
        self.frames += other.frames;
        self.trace ^= other.trace;
    }
}

struct Batch {
    base: i64,
    records: i64,
    epoch: LeaderEpoch,
    /// The bytes behind the 16 that the log sets.
    bytes: Vec<u8>,
}

/// What one partition was given and what was promised.
#[derive(Default)]
struct Expected {
    batches: Vec<Batch>,
    written: i64,
    durable: i64,
    /// Deletion up to here was promised.
    deleted: i64,
    /// Deletion up to here was asked for.
    deleting: i64,
    /// Damage was reported that no restart heals.
    lost: bool,
}

struct Machine {
    disk: Disk,
    expected: Vec<RefCell<Expected>>,
    outcome: RefCell<Outcome>,
    incarnation: Cell<u32>,
    failed: Cell<bool>,
    journal_bytes: u64,
    segment_bytes: u32,
    cache_bytes: usize,
    open_files: usize,
}

fn partition(number: usize) -> TopicPartition {
    let mut id = [7; 16];
    id[0] = number as u8;
    TopicPartition { topic_id: TopicId(id), partition: PartitionIndex(number as i32) }
}

fn batch(random: &mut Random, large: bool) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(random.below(1_000_000) as i64);
    for _ in 0..1 + random.below(4) {
        let bytes = if large && random.one_in(4) { 150_000 } else { 3_000 };
        let mut value = vec![0; random.below(bytes) as usize];
        // Only the ends differ from record to record: filling all of it would be most of the work.
        let ends = value.len().min(64);
        random.fill(&mut value[..ends]);
        builder.push(random.below(1_000_000) as i64, None, Some(&value), &[]);
    }
    builder.finish(Compression::None).to_vec()
}

/// Runs one seed.
///
/// # Panics
/// When a promise is broken.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let partitions = 1 + random.below(6) as usize;
    let machine = Rc::new(Machine {
        disk: Disk::default(),
        expected: (0..partitions).map(|_| RefCell::default()).collect(),
        outcome: RefCell::default(),
        incarnation: Cell::new(0),
        failed: Cell::new(false),
        journal_bytes: [64, 128, 512][random.below(3) as usize] * 1024,
        segment_bytes: 100_000 + random.below(500_000) as u32,
        cache_bytes: if random.one_in(3) { 0 } else { 4 << 20 },
        // On every other machine fewer than logs that write.
        open_files: [2, 2000][seed as usize % 2],
    });
    for life in 0..LIVES {
        machine.live_once(&mut random, seed.wrapping_mul(31) ^ life, life + 1 == LIVES);
    }
    let mut outcome = machine.outcome.borrow().clone();
    outcome.lies = machine.disk.set_lying_reads(0);
    outcome.trace = machine.disk.trace();
    outcome
}

impl Machine {
    fn live_once(self: &Rc<Self>, random: &mut Random, seed: u64, is_last: bool) {
        let mut simulation = Simulation::new(self.disk.clone(), random.next_u64());
        let stops = !is_last && !random.one_in(3);
        if stops {
            let steps = if random.one_in(4) { 30 } else { 400 };
            simulation = simulation.stopping_at(5 + random.below(steps));
        }
        self.disk.set_capacity(random.one_in(6).then_some(4_000_000));
        self.disk.set_lying_reads(0);
        let fails = !is_last && random.one_in(6);
        let lies = random.one_in(6);
        let appends = if is_last { 3 } else { 3 + random.below(25) };
        let runtime = Runtime::new(Io::Simulated(simulation)).expect("the twin always starts");
        let life = Life { machine: Rc::clone(self), seed: random.next_u64(), appends, fails, lies };
        let settled = runtime.block_on(life.run()) == Ok(true);
        drop(runtime);
        let failed = self.failed.replace(false);
        self.disk.set_failing(None);
        self.disk.set_lying_reads(0);
        self.outcome.borrow_mut().failures += u64::from(failed);
        // After a failed write or sync a kernel may have dropped what it held: only power cut is fair.
        if random.one_in(3) && !failed {
            self.disk.kill();
            self.outcome.borrow_mut().kills += 1;
        } else {
            self.disk.power_cut(seed);
            self.outcome.borrow_mut().power_cuts += 1;
            for expected in &self.expected {
                let mut expected = expected.borrow_mut();
                expected.written = expected.durable;
            }
        }
        if settled && !is_last && random.one_in(3) {
            self.rot(random);
        }
    }

    /// Flips a bit somewhere, starts, and sees that the damage is harmless or told; then flips it
    /// back and sees that nothing was made worse.
    fn rot(self: &Rc<Self>, random: &mut Random) {
        let files = self.disk.files();
        let is_data = |path: &Path| !path.to_string_lossy().ends_with(".tmp");
        let files: Vec<_> =
            files.into_iter().filter(|(path, len)| *len > 0 && is_data(path)).collect();
        if files.is_empty() {
            return;
        }
        // Often where something was just written: that is where a start looks.
        let recent = self.disk.recent_writes();
        let recent = recent.into_iter().filter(|(path, ..)| is_data(path)).collect::<Vec<_>>();
        let (path, position) = if !recent.is_empty() && random.one_in(2) {
            let (path, at, len) = &recent[random.below(recent.len() as u64) as usize];
            (path.clone(), at + random.below((*len).max(1)))
        } else {
            let (path, len) = &files[random.below(files.len() as u64) as usize];
            // Mostly where something is: files are preallocated.
            let used = if random.one_in(4) { *len } else { (*len).min(20_000) };
            (path.clone(), random.below(used))
        };
        if self.disk.byte_at(&path, position).is_none() {
            return;
        }
        let (path, bit) = (&path, random.below(8) as u8);
        self.disk.set_capacity(None);
        self.disk.flip_bit(path, position, bit);
        self.outcome.borrow_mut().flips += 1;
        let rotten = self.disk.byte_at(path, position);
        for may_rot in [true, false] {
            if !may_rot {
                // As a restore from a backup would, unless the program wrote there meanwhile.
                if self.disk.byte_at(path, position) != rotten {
                    return;
                }
                self.disk.flip_bit(path, position, bit);
            }
            let simulation = Simulation::new(self.disk.clone(), random.next_u64());
            let runtime = Runtime::new(Io::Simulated(simulation)).expect("the twin always starts");
            let life = Life {
                machine: Rc::clone(self),
                seed: random.next_u64(),
                appends: 0,
                fails: false,
                lies: false,
            };
            runtime.block_on(life.look(may_rot)).expect("not stopped");
            drop(runtime);
            self.disk.kill();
        }
    }
}

struct Life {
    machine: Rc<Machine>,
    seed: u64,
    appends: u64,
    fails: bool,
    lies: bool,
}

struct Opened {
    home: Rc<LogDir>,
    dir: DataDir,
    logs: Vec<Option<Rc<Log>>>,
}

impl Life {
    /// Starts as a broker does: journals, then every log, then a new journal.
    async fn open(&self, may_rot: bool) -> Result<Opened, StorageError> {
        let machine = &self.machine;
        let path = Path::new(DATA);
        let dir = DataDir::open(path, BrokerId(1)).await?;
        assert!(machine.incarnation.get() < dir.superblock().incarnation, "epochs never repeat");
        machine.incarnation.set(dir.superblock().incarnation);
        let Replay { partitions, shards, .. } = replay(path).await?;
        let cache = TailCache::new(machine.cache_bytes);
        let start = shards.get(&0).cloned().unwrap_or_else(|| Replay::default().start_of(0));
        let journal = Journal::new(path, 0, machine.journal_bytes, true, start);
        let home = LogDir::new(path, true, &cache, Some(Rc::clone(&journal)), Arc::default());
        home.keep_open(machine.open_files);
        home.sync_names().await?;
        let mut logs = Vec::new();
        for number in 0..machine.expected.len() {
            let id = partition(number);
            let notes = partitions.get(&id).cloned().unwrap_or_default();
            let settings =
                LogSettings { segment_bytes: machine.segment_bytes, ..LogSettings::default() };
            match Log::open(&home, id, settings, &notes).await {
                Ok((log, _)) => logs.push(Some(log)),
                Err(error @ StorageError::Corrupt { .. }) => {
                    let known = machine.expected[number].borrow().lost;
                    assert!(may_rot || known, "damage where none was done: {error}");
                    machine.outcome.borrow_mut().reported += 1;
                    journal.carry(id, notes.carried(id));
                    machine.expected[number].borrow_mut().lost |= notes.damage.is_some();
                    logs.push(None);
                }
                Err(error) => return Err(error),
            }
        }
        home.sync_names().await?;
        home.sync_recovered().await?;
        journal.begin().await?;
        Ok(Opened { home, dir, logs })
    }

    /// Reads a whole log and compares it with what was appended.
    async fn check(&self, number: usize, log: &Log, may_rot: bool, is_start: bool) {
        let promised = {
            let expected = self.machine.expected[number].borrow();
            expected.durable.max(expected.written)
        };
        let (start, end) = (log.log_start(), Offset(log.flushed().written.0));
        assert!(
            promised <= end.0,
            "partition {number}: promised up to {promised}, found {}..{}",
            start.0,
            end.0
        );
        let found = match read_all(log, start, end).await {
            Ok(found) => found,
            Err(error @ StorageError::Corrupt { .. }) => {
                assert!(may_rot || self.lies, "damage where none was done: {error}");
                self.machine.outcome.borrow_mut().reported += 1;
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let mut expected = self.machine.expected[number].borrow_mut();
        assert!(expected.deleted <= start.0, "deleted records stay deleted");
        assert!(start.0 <= expected.deleting, "nothing is deleted unasked");
        let appended = expected.batches.iter().filter(|b| b.base + b.records > start.0);
        let mut appended = appended.take_while(|b| b.base < end.0);
        for batch in &found {
            let wanted = appended.next().expect("nothing appears that was not appended");
            assert!(
                (batch.base, batch.records, batch.epoch)
                    == (wanted.base, wanted.records, wanted.epoch)
                    && batch.bytes == wanted.bytes,
                "partition {number}, offset {}: what was appended there",
                wanted.base
            );
            let epoch = log.epoch_of(Offset(wanted.base));
            assert_eq!(epoch, Some(wanted.epoch), "partition {number}, offset {}", wanted.base);
        }
        assert!(appended.next().is_none(), "everything up to the end is there");
        drop(appended);
        self.machine.outcome.borrow_mut().verified += found.len() as u64;
        if is_start {
            expected.batches.retain(|b| b.base < end.0);
            expected.written = end.0;
            // A start makes durable what it found.
            expected.durable = end.0;
        }
    }

    /// Only starts and looks.
    async fn look(&self, may_rot: bool) {
        let opened = match self.open(may_rot).await {
            Ok(opened) => opened,
            // A whole directory that says it is damaged: loud enough.
            Err(StorageError::Corrupt { .. } | StorageError::Unusable(_)) if may_rot => return,
            Err(error) => panic!("{error}"),
        };
        for (number, log) in opened.logs.iter().enumerate() {
            if let Some(log) = log {
                self.check(number, log, may_rot, true).await;
            }
        }
    }

    /// True if it ended with everything told to the disk that there was to tell.
    async fn run(self) -> bool {
        let opened = match self.open(false).await {
            Ok(opened) => opened,
            Err(StorageError::Full { .. }) => return false,
            Err(error) => panic!("{error}"),
        };
        for (number, log) in opened.logs.iter().enumerate() {
            if let Some(log) = log {
                self.check(number, log, false, true).await;
            }
        }
        if self.lies {
            self.machine.disk.set_lying_reads(3);
        }
        let epoch = opened.dir.leader_epoch();
        let life = Rc::new(self);
        let (running, done) = (Rc::new(Cell::new(0)), Rc::new(Notify::default()));
        for (number, log) in opened.logs.iter().enumerate() {
            let Some(log) = log.clone() else { continue };
            running.set(running.get() + 1);
            let (life, running, done) = (Rc::clone(&life), Rc::clone(&running), Rc::clone(&done));
            runtime::spawn(async move {
                life.use_log(number, &log, epoch).await;
                running.set(running.get() - 1);
                done.notify();
            });
        }
        if life.fails {
            let mut random = Random::new(life.seed ^ 99);
            timer::sleep(Duration::from_micros(random.below(20_000))).await;
            life.machine.disk.set_failing(Some(5));
            life.machine.failed.set(true);
            // It may answer again later; what it lost meanwhile it does not tell.
            timer::sleep(Duration::from_micros(random.below(5_000))).await;
            life.machine.disk.set_failing(None);
        }
        done.until(|| (running.get() == 0).then_some(())).await;
        life.machine.disk.set_lying_reads(0);
        if life.fails || opened.home.health().is_offline() {
            return false;
        }
        life.end(opened).await
    }

    async fn end(&self, opened: Opened) -> bool {
        let mut random = Random::new(self.seed ^ 7);
        let journal = opened.home.journal().expect("given one");
        if random.one_in(3) {
            for (number, log) in opened.logs.iter().enumerate() {
                let Some(log) = log else { continue };
                match log.close().await {
                    Ok(()) => {
                        let mut expected = self.machine.expected[number].borrow_mut();
                        (expected.written, expected.durable) = (log.log_end().0, log.log_end().0);
                    }
                    Err(_) => return false,
                }
            }
            if journal.close().await.is_err() {
                return false;
            }
            self.machine.outcome.borrow_mut().frames += journal.frames();
            return opened.dir.close_clean().await.is_ok();
        }
        // Long enough for everything that is written down late.
        timer::sleep(Duration::from_millis(200)).await;
        self.machine.outcome.borrow_mut().frames += journal.frames();
        !opened.home.health().is_offline() && self.everything_is_durable(&opened)
    }

    /// Records that are only written may go with a flipped bit: nobody knows them durable.
    fn everything_is_durable(&self, opened: &Opened) -> bool {
        let logs = opened.logs.iter().flatten();
        logs.into_iter().all(|log| log.flushed().durable == log.log_end())
    }

    async fn use_log(&self, number: usize, log: &Rc<Log>, epoch: LeaderEpoch) {
        let mut random = Random::new(self.seed ^ (number as u64 * 7919));
        let expected = &self.machine.expected[number];
        let large = random.one_in(3);
        for _ in 0..self.appends {
            for _ in 0..=random.below(3) {
                let bytes = batch(&mut random, large);
                let view = RecordBatch::validate_produced(&bytes, 1 << 21).expect("well-formed");
                let base = log.log_end();
                if log.append(view, base, epoch).is_err() {
                    return;
                }
                let records = i64::from(view.record_count());
                let bytes = bytes[16..].to_vec();
                let appended = Batch { base: base.0, records, epoch, bytes };
                expected.borrow_mut().batches.push(appended);
            }
            if random.one_in(4) {
                continue;
            }
            let durable = !random.one_in(3);
            match log.flush(durable).await {
                Ok(flushed) => {
                    let mut expected = expected.borrow_mut();
                    assert!(expected.written <= flushed.written.0, "progress is kept");
                    (expected.written, expected.durable) = (flushed.written.0, flushed.durable.0);
                    assert!(flushed.durable <= flushed.written);
                }
                Err(StorageError::Full { .. }) => {
                    let mut expected = expected.borrow_mut();
                    let end = log.log_end().0;
                    assert!(expected.written <= end, "what was promised is not dropped");
                    expected.batches.retain(|b| b.base < end);
                }
                Err(_) => {
                    assert!(self.fails && log.is_offline(), "only a failing disk fails");
                    return;
                }
            }
            if random.one_in(8) {
                self.delete(number, log, &mut random).await;
            }
            if random.one_in(12) && !self.cut(number, log, &mut random).await {
                return;
            }
            if random.one_in(4) {
                self.check(number, log, false, false).await;
            }
            if random.one_in(6) {
                timer::sleep(Duration::from_micros(random.below(50_000))).await;
            }
        }
        if random.one_in(2) {
            while log.is_dirty(true) {
                if log.flush(true).await.is_err() {
                    let end = log.log_end().0;
                    expected.borrow_mut().batches.retain(|b| b.base < end);
                    return;
                }
            }
            let flushed = log.flushed();
            let mut expected = expected.borrow_mut();
            (expected.written, expected.durable) = (flushed.written.0, flushed.durable.0);
        }
    }

    /// Cuts the log at a batch, or in it. False once the log is of no more use.
    async fn cut(&self, number: usize, log: &Rc<Log>, random: &mut Random) -> bool {
        let expected = &self.machine.expected[number];
        let (to, base) = {
            let mut expected = expected.borrow_mut();
            let (start, end) = (log.log_start().0, log.log_end().0);
            let left = expected.batches.iter().filter(|b| start <= b.base && b.base < end);
            let left: Vec<(i64, i64)> = left.map(|batch| (batch.base, batch.records)).collect();
            if left.is_empty() {
                return true;
            }
            // Mostly near the end, as a replica that was led for a while by another.
            let near = if random.one_in(3) { left.len() } else { left.len().min(6) };
            let (base, records) = left[left.len() - 1 - random.below(near as u64) as usize];
            // From now on nothing of it is promised.
            expected.written = expected.written.min(base);
            expected.durable = expected.durable.min(base);
            (base + random.below(records as u64) as i64, base)
        };
        match log.truncate(Offset(to)).await {
            Ok(end) => {
                assert_eq!(end.0, base, "it ends at the batch that was cut");
                assert_eq!((log.log_end(), log.flushed().durable), (end, end), "and is durable");
                let mut expected = expected.borrow_mut();
                let gone = expected.batches.iter().filter(|b| b.base >= base);
                self.machine.outcome.borrow_mut().cut +=
                    gone.map(|b| b.records as u64).sum::<u64>();
                expected.batches.retain(|b| b.base < base);
                (expected.written, expected.durable) = (base, base);
                true
            }
            Err(StorageError::Full { .. }) => {
                assert!(log.log_end().0 >= base, "nothing was cut");
                true
            }
            Err(StorageError::Corrupt { .. }) if self.lies => {
                assert!(log.log_end().0 > base, "nothing was cut");
                true
            }
            // The journal had no room for the end of it: a start finishes it.
            Err(StorageError::Offline) if log.is_offline() => false,
            Err(error) => {
                assert!(self.fails && log.is_offline(), "only a failing disk fails: {error}");
                false
            }
        }
    }

    async fn delete(&self, number: usize, log: &Rc<Log>, random: &mut Random) {
        let expected = &self.machine.expected[number];
        let (start, end) = (log.log_start().0, log.flushed().durable.0);
        if end <= start {
            return;
        }
        let at = start + 1 + random.below((end - start) as u64) as i64;
        let asked = expected.borrow().deleting.max(at);
        expected.borrow_mut().deleting = asked;
        if log.delete_below(Offset(at)).await.is_ok() {
            let mut expected = expected.borrow_mut();
            self.machine.outcome.borrow_mut().deleted += (at - start) as u64;
            expected.deleted = expected.deleted.max(at);
        }
    }
}

async fn read_all(log: &Log, start: Offset, end: Offset) -> Result<Vec<Batch>, StorageError> {
    let (mut offset, mut batches, mut out) = (start, Vec::new(), Vec::new());
    while offset < end {
        out.clear();
        if log.read_cached(offset, 100_000, end, &mut out) == Read::Miss {
            log.read_disk(offset, 100_000, end, &mut out).await?;
        }
        let bytes = out.iter().map(|piece| &piece[..]).collect::<Vec<_>>().concat();
        let mut rest = &bytes[..];
        let before = offset;
        while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
            assert!(batch.crc_matches(), "what is read is whole");
            let holds = batch.base_offset() <= offset && offset <= batch.last_offset();
            assert!(holds, "no gap, no repetition");
            batches.push(Batch {
                base: batch.base_offset().0,
                records: i64::from(batch.record_count()),
                epoch: batch.leader_epoch(),
                bytes: batch.bytes()[16..].to_vec(),
            });
            offset = batch.last_offset().plus(1);
            rest = tail;
        }
        assert!(before < offset, "every read makes progress");
    }
    Ok(batches)
}
