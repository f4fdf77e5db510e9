//! Compaction through many lives of one machine: keyed records, tombstones, transactions, power cuts at
//! any step, small key maps, deletions in between.
//!
//! The oracle knows every record and how its transaction ended. After every start and every
//! compaction: what a reader of committed records makes of the log, key by key, is what it would make
//! of all of them; what is left is as it was written; every producer's sequence goes on.

use model::record_batch::BatchBuilder;
use model::{
    BrokerId, Compression, LeaderEpoch, LogSettings, Marker, Offset, PartitionIndex, Producer,
    ProducerId, RecordBatch, TopicId, TopicPartition,
};
use partition::Producers;
use runtime::random::Random;
use runtime::simulated::{Disk, Simulation};
use runtime::{Io, Runtime};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use storage::directory::data_dir::DataDir;
use storage::{
    AbortedSpan, CompactionPlan, Journal, Log, LogDir, Read, StorageError, TailCache, replay,
};

const DATA: &str = "/data";
const LIVES: u64 = 6;
const SETTINGS: LogSettings = LogSettings { segment_bytes: 12_000, segment_ms: i64::MAX };
/// What the rig's partition keeps its producers in, as the broker does.
const PRODUCERS: &str = "producers";
const TRANSACTIONAL: i64 = 3;
/// Each life has producers of its own: those before are idle from then on.
const PRODUCERS_PER_LIFE: i64 = 6;
/// More than a small map has room for.
const KEYS: u64 = 110;
/// How long tombstones stay, in runs where they do.
const RETENTION_MS: i64 = 1_500;

/// What a run did, for reports and to show that it did something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Outcome {
    pub power_cuts: u64,
    pub records: u64,
    pub compactions: u64,
    pub bytes_removed: u64,
    /// Compactions that another change of the log, or the end of a life, put an end to.
    pub given_up: u64,
    pub aborted: u64,
    pub markers_forgotten: u64,
    pub checks: u64,
    /// Reads at offsets of which the record is gone.
    pub holes: u64,
    pub deleted: u64,
}

impl Outcome {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.power_cuts += other.power_cuts;
        self.records += other.records;
        self.compactions += other.compactions;
        self.bytes_removed += other.bytes_removed;
        self.given_up += other.given_up;
        self.aborted += other.aborted;
        self.markers_forgotten += other.markers_forgotten;
        self.checks += other.checks;
        self.holes += other.holes;
        self.deleted += other.deleted;
    }
}

/// A record that was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    key: u8,
    value: Option<u64>,
    at_ms: i64,
    producer: Option<ProducerId>,
    transactional: bool,
}

/// What was appended, and how far it was promised.
#[derive(Default)]
struct Oracle {
    records: BTreeMap<i64, Written>,
    markers: BTreeMap<i64, Marker>,
    end: i64,
    durable: i64,
    deleted: i64,
    deleting: i64,
    sequences: BTreeMap<ProducerId, i32>,
}

impl Oracle {
    /// The log ends earlier after a stop: what was not promised may be gone.
    fn cut(&mut self, end: i64) {
        assert!(self.durable <= end && end <= self.end, "{} <= {end}", self.durable);
        self.records.split_off(&end);
        self.markers.split_off(&end);
        self.end = end;
        self.durable = end;
    }

    /// The first record from `from` on whose transaction has not ended.
    fn first_undecided(&self, from: i64) -> Option<i64> {
        let open = |(offset, record): &(&i64, &Written)| {
            record.transactional
                && !self
                    .markers
                    .range(**offset..)
                    .any(|(_, marker)| Some(marker.producer.id) == record.producer)
        };
        self.records.range(from..).find(open).map(|(offset, _)| *offset)
    }

    /// Each key's newest value, and when it was written, among records a reader of committed ones sees, below `stable`; no
    /// value is a tombstone, or never written.
    fn newest(&self, from: i64, stable: i64) -> BTreeMap<u8, (Option<u64>, i64)> {
        let mut newest = BTreeMap::new();
        for (offset, record) in self.records.range(from..stable) {
            let committed = !record.transactional || {
                let ends = self.markers.range(offset..);
                let mut own = ends.filter(|(_, m)| Some(m.producer.id) == record.producer);
                own.next().is_some_and(|(_, marker)| marker.commit)
            };
            if committed {
                newest.insert(record.key, (record.value, record.at_ms));
            }
        }
        newest
    }
}

struct Machine {
    disk: Disk,
    oracle: RefCell<Oracle>,
    outcome: RefCell<Outcome>,
    /// ms since the Unix epoch.
    now_ms: Cell<i64>,
    retention_ms: i64,
}

/// Lives a few lives; panics if a promise is broken.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let machine = Rc::new(Machine {
        disk: Disk::default(),
        oracle: RefCell::default(),
        outcome: RefCell::default(),
        now_ms: Cell::new(1_000_000),
        retention_ms: if random.one_in(3) { 0 } else { RETENTION_MS },
    });
    for generation in 0..LIVES as i64 {
        let is_last = generation + 1 == LIVES as i64;
        let mut simulation = Simulation::new(machine.disk.clone(), random.next_u64());
        if !is_last {
            simulation = simulation.stopping_at(20 + random.below(1_500));
        }
        let runtime = Runtime::new(Io::Simulated(simulation)).expect("the twin always starts");
        let own = Random::new(random.next_u64());
        let life = Life { machine: Rc::clone(&machine), random: own, generation };
        let _ = runtime.block_on(life.run());
        drop(runtime);
        machine.disk.power_cut(random.next_u64());
        machine.outcome.borrow_mut().power_cuts += 1;
    }
    machine.outcome.borrow().clone()
}

struct Life {
    machine: Rc<Machine>,
    random: Random,
    generation: i64,
}

struct Opened {
    log: Rc<Log>,
    producers: RefCell<Producers>,
    _dir: DataDir,
}

fn partition() -> TopicPartition {
    TopicPartition { topic_id: TopicId([7; 16]), partition: PartitionIndex(0) }
}

async fn read_at(log: &Log, offset: Offset, end: Offset) -> Vec<u8> {
    let mut out = Vec::new();
    if log.read_cached(offset, 20_000, end, &mut out) == Read::Miss {
        log.read_disk(offset, 20_000, end, &mut out).await.expect("nothing rots here");
    }
    out.iter().flat_map(|piece| piece.to_vec()).collect()
}

impl Opened {
    /// As a broker opens a partition: the log, then its producers from their snapshot on.
    async fn open(has_snapshot: bool) -> Result<Self, StorageError> {
        let data = Path::new(DATA);
        let dir = DataDir::open(data, BrokerId(1)).await?;
        let found = replay(data).await?;
        let journal = Journal::new(data, 0, 1 << 20, true, found.start_of(0));
        let cache = TailCache::new(64 * 1024);
        let home = LogDir::new(data, true, &cache, Some(Rc::clone(&journal)), Arc::default());
        home.sync_names().await?;
        let notes = found.partitions.get(&partition()).cloned().unwrap_or_default();
        let (log, _) = Log::open(&home, partition(), SETTINGS, &notes).await?;
        home.sync_names().await?;
        home.sync_recovered().await?;
        journal.begin().await?;
        let stored = log.load_beside(PRODUCERS).await?.filter(|_| has_snapshot);
        let stored = stored.and_then(|bytes| Producers::decode(&bytes));
        let (mut producers, from) = stored.unwrap_or((Producers::default(), log.log_start()));
        let end = log.log_end();
        assert!(from <= end, "a snapshot knows no more than the log");
        if from < log.log_start() {
            producers.on_log_start_unread(log.log_start());
        }
        each_batch(&log, from.max(log.log_start()), end, |batch| {
            producers.on_batch(batch, batch.base_offset(), 0);
        })
        .await;
        producers.on_written(end);
        producers.on_high_watermark(end);
        Ok(Self { log, producers: RefCell::new(producers), _dir: dir })
    }

    async fn flush(&self) -> Result<(), StorageError> {
        while self.log.is_dirty(true) {
            self.log.flush(true).await?;
        }
        Ok(())
    }

    fn stable(&self) -> Offset {
        self.producers.borrow().last_stable_offset(self.log.flushed().durable)
    }

    /// What a reader of committed records makes of `from..stable`, as clients do it: with the list
    /// of aborted transactions and the markers.
    async fn newest(&self, from: Offset, stable: Offset) -> BTreeMap<u8, Option<u64>> {
        let mut aborted: Vec<_> = self.producers.borrow().aborted(from, stable).collect();
        aborted.sort_by_key(|aborted| aborted.first);
        let (mut newest, mut hidden) = (BTreeMap::new(), BTreeSet::new());
        let mut scratch = Vec::new();
        each_batch(&self.log, from, stable, |batch| {
            while aborted.first().is_some_and(|a| a.first <= batch.last_offset()) {
                hidden.insert(aborted.remove(0).producer);
            }
            let producer = batch.producer().map(|producer| producer.id);
            if batch.is_control() {
                if Marker::read(batch).is_some_and(|marker| !marker.commit) {
                    hidden.remove(&producer.expect("a marker has one"));
                }
                return;
            }
            if batch.is_transactional() && producer.is_some_and(|id| hidden.contains(&id)) {
                return;
            }
            for record in batch.records(&mut scratch).expect("it was written whole") {
                let record = record.expect("it was written whole");
                let at = batch.base_offset().plus(i64::from(record.offset_delta));
                if at >= from && at < stable {
                    let value =
                        record.value.map(|v| u64::from_be_bytes(v[..8].try_into().expect("8")));
                    newest.insert(record.key.expect("all have one")[0], value);
                }
            }
        })
        .await;
        newest
    }
}

async fn each_batch(log: &Log, from: Offset, end: Offset, mut visit: impl FnMut(RecordBatch<'_>)) {
    let mut offset = from;
    while offset < end {
        let bytes = read_at(log, offset, end).await;
        let (mut rest, before) = (&bytes[..], offset);
        while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
            rest = tail;
            if batch.last_offset() >= offset {
                assert!(batch.crc_matches());
                visit(batch);
                offset = batch.last_offset().plus(1);
            }
        }
        assert!(offset > before, "nothing is at offset {offset} of {end}");
    }
}

impl Life {
    async fn run(mut self) {
        // Sometimes the snapshot is lost: all of it follows from the log.
        let has_snapshot = !self.random.one_in(3);
        let Ok(opened) = Opened::open(has_snapshot).await else {
            panic!("it opens after any stop")
        };
        let opened = Rc::new(opened);
        self.machine.oracle.borrow_mut().cut(opened.log.log_end().0);
        self.forget_sequences(&opened);
        self.check(&opened).await;
        let open: Vec<ProducerId> = {
            let producers = opened.producers.borrow();
            producers.iter().filter(|p| p.open_since.is_some()).map(|p| p.producer.id).collect()
        };
        open.into_iter().for_each(|id| self.end(&opened, id));
        for _ in 0..12 {
            for _ in 0..3 + self.random.below(30) {
                self.append(&opened);
            }
            let compacts = self.random.one_in(2);
            if self.random.one_in(8) {
                self.delete(&opened).await;
            }
            // Appends go on while it compacts.
            if compacts {
                let other = Rc::clone(&opened);
                let machine = Rc::clone(&self.machine);
                let mut random = Random::new(self.random.next_u64());
                runtime::both(compact(&machine, &other, &mut random), self.flush(&opened)).await;
                self.check(&opened).await;
            } else {
                self.flush(&opened).await;
            }
            self.machine.now_ms.set(self.machine.now_ms.get() + 400);
        }
        self.check(&opened).await;
    }

    /// What was not durable is sent again: with the sequence that the log knows.
    fn forget_sequences(&self, opened: &Opened) {
        let mut oracle = self.machine.oracle.borrow_mut();
        let durable: BTreeMap<ProducerId, i32> = oracle
            .records
            .values()
            .filter_map(|record| record.producer)
            .fold(BTreeMap::new(), |mut counts, id| {
                *counts.entry(id).or_default() += 1;
                counts
            });
        // Exactly the records that are there count, compacted away or not; unless the last one was
        // deleted with the start of the log.
        let shown: BTreeMap<ProducerId, i32> =
            opened.producers.borrow().iter().map(|s| (s.producer.id, s.last_sequence)).collect();
        for (id, count) in &durable {
            let last = oracle.records.iter().rev().find(|(_, record)| record.producer == Some(*id));
            let known = shown.get(id).copied().unwrap_or(-1);
            if known >= 0 || last.is_some_and(|(offset, _)| *offset >= opened.log.log_start().0) {
                assert_eq!(known + 1, *count, "{id} goes on elsewhere");
            }
        }
        oracle.sequences = durable;
    }

    fn append(&mut self, opened: &Opened) {
        let random = &mut self.random;
        let id = ProducerId(self.generation * PRODUCERS_PER_LIFE + random.below(6) as i64);
        let transactional = id.0 % PRODUCERS_PER_LIFE >= TRANSACTIONAL;
        let is_open = opened.producers.borrow().is_open(Producer { id, epoch: 0 });
        if transactional && is_open && random.one_in(3) {
            self.end(opened, id);
            return;
        }
        let mut builder = BatchBuilder::default();
        let now_ms = self.machine.now_ms.get();
        let mut oracle = self.machine.oracle.borrow_mut();
        let base = Offset(oracle.end);
        builder.begin(now_ms);
        let has_producer = transactional || !random.one_in(3);
        if has_producer {
            let sequence = oracle.sequences.get(&id).copied().unwrap_or(0);
            builder.set_producer(Producer { id, epoch: 0 }, sequence, transactional);
        }
        for n in 0..1 + random.below(6) {
            let key = random.below(KEYS) as u8;
            let value = (!random.one_in(5)).then(|| random.next_u64());
            let bytes = value.map(|value| {
                let mut bytes = value.to_be_bytes().to_vec();
                bytes.resize(8 + random.below(200) as usize, 7);
                bytes
            });
            let at_ms = now_ms + random.below(50) as i64;
            builder.push(at_ms, Some(&[key]), bytes.as_deref(), &[("h", None)]);
            let producer = has_producer.then_some(id);
            let record = Written { key, value, at_ms, producer, transactional };
            let offset = oracle.end;
            oracle.records.insert(offset, record);
            oracle.end += 1;
            if has_producer {
                *oracle.sequences.entry(id).or_default() += 1;
            }
            let _ = n;
        }
        let codec = Compression::ALL[random.below(5) as usize];
        let bytes = builder.finish(codec).to_vec();
        let (batch, _) = RecordBatch::split_first(&bytes).expect("built just now");
        self.machine.outcome.borrow_mut().records += batch.record_count() as u64;
        self.put(opened, batch, base);
    }

    /// The transaction of a producer ends, one way or the other.
    fn end(&mut self, opened: &Opened, id: ProducerId) {
        let marker = Marker {
            producer: Producer { id, epoch: 0 },
            commit: self.random.one_in(2),
            coordinator_epoch: 1,
        };
        let mut builder = BatchBuilder::default();
        let batch = marker.put(&mut builder, self.machine.now_ms.get());
        let mut oracle = self.machine.oracle.borrow_mut();
        let base = Offset(oracle.end);
        oracle.markers.insert(base.0, marker);
        oracle.end += 1;
        self.machine.outcome.borrow_mut().aborted += u64::from(!marker.commit);
        self.put(opened, batch, base);
    }

    fn put(&self, opened: &Opened, batch: RecordBatch<'_>, base: Offset) {
        opened.log.append(batch, base, LeaderEpoch(1)).expect("the disk is well");
        opened.producers.borrow_mut().on_batch(batch, base, 0);
    }

    async fn flush(&self, opened: &Opened) {
        let end = self.machine.oracle.borrow().end;
        opened.flush().await.expect("the disk is well");
        let mut oracle = self.machine.oracle.borrow_mut();
        oracle.durable = oracle.durable.max(end);
        let mut producers = opened.producers.borrow_mut();
        producers.on_written(Offset(end));
        producers.on_high_watermark(Offset(end));
    }

    async fn delete(&mut self, opened: &Opened) {
        self.flush(opened).await;
        let (from, to) = (opened.log.log_start().0, opened.stable().0);
        let start = from + self.random.below(((to - from) / 4).max(1) as u64) as i64;
        self.machine.oracle.borrow_mut().deleting = start;
        opened.log.delete_below(Offset(start)).await.expect("the disk is well");
        opened.producers.borrow_mut().on_log_start(Offset(start));
        self.machine.oracle.borrow_mut().deleted = start;
        self.machine.outcome.borrow_mut().deleted += 1;
    }

    async fn check(&mut self, opened: &Opened) {
        self.flush(opened).await;
        let log = &opened.log;
        let (start, stable) = (log.log_start(), opened.stable());
        {
            let oracle = self.machine.oracle.borrow();
            assert!(oracle.deleted <= start.0 && start.0 <= oracle.deleting.max(oracle.deleted));
            assert_eq!(log.log_end().0, oracle.end);
        }
        // Deleting took the start of some keys' history: only what began behind it can be compared.
        let found = opened.newest(start, stable).await;
        {
            let oracle = self.machine.oracle.borrow();
            let expected = oracle.newest(start.0, stable.0);
            // A tombstone is there for whoever has read what it deletes.
            for (key, (value, at_ms)) in &expected {
                let is_fresh = self.machine.now_ms.get() - at_ms < RETENTION_MS - 500;
                if value.is_none() && self.machine.retention_ms > 0 && is_fresh {
                    assert!(found.contains_key(key), "the tombstone of {key} went too early");
                }
            }
            // What is decided is visible.
            let undecided = oracle.first_undecided(stable.0);
            assert_eq!(stable.0, undecided.unwrap_or(oracle.end), "the last stable offset");
            let seen = |(key, value): (u8, Option<u64>)| Some((key, value?));
            let expected = expected.into_iter().map(|(key, (value, _))| (key, value));
            let expected: BTreeMap<u8, u64> = expected.filter_map(seen).collect();
            let found: BTreeMap<u8, u64> = found.into_iter().filter_map(seen).collect();
            assert_eq!(found, expected, "what a reader makes of {start}..{stable}");
        }
        // What is left is what was written, where it was written.
        let (mut scratch, mut last) = (Vec::new(), -1);
        let end = log.log_end();
        each_batch(log, start, end, |batch| {
            let oracle = self.machine.oracle.borrow();
            assert!(batch.base_offset().0 > last, "offsets ascend");
            last = batch.last_offset().0;
            if batch.is_control() {
                let known = oracle.markers.get(&batch.base_offset().0).copied();
                assert_eq!(Marker::read(batch), known);
                return;
            }
            for record in batch.records(&mut scratch).expect("it was written whole") {
                let record = record.expect("it was written whole");
                let offset = batch.base_offset().0 + i64::from(record.offset_delta);
                let written = &oracle.records[&offset];
                let value = record.value.map(|v| u64::from_be_bytes(v[..8].try_into().expect("8")));
                let at_ms = batch.base_timestamp() + record.timestamp_delta;
                assert_eq!(record.key, Some(&[written.key][..]));
                assert_eq!((value, at_ms), (written.value, written.at_ms), "offset {offset}");
                assert_eq!(record.headers().count(), 1);
                assert_eq!(batch.producer().map(|p| p.id), written.producer);
            }
        })
        .await;
        // A reader may stand anywhere, also where nothing is left.
        for _ in 0..4 {
            if start < end {
                let at = start.plus(self.random.below(end.since(start) as u64) as i64);
                let bytes = read_at(log, at, end).await;
                let (batch, _) = RecordBatch::split_first(&bytes).expect("something follows");
                assert!(batch.last_offset() >= at);
                let hole = batch.base_offset() > at;
                self.machine.outcome.borrow_mut().holes += u64::from(hole);
            }
        }
        self.machine.outcome.borrow_mut().checks += 1;
    }
}

async fn compact(machine: &Machine, opened: &Opened, random: &mut Random) {
    let aborted = {
        let producers = opened.producers.borrow();
        let span = |a: partition::Aborted| AbortedSpan {
            producer: a.producer,
            first: a.first,
            last: a.last,
        };
        producers.aborted(opened.log.log_start(), opened.log.log_end()).map(span).collect()
    };
    let gives_up = random.one_in(6).then(|| random.below(30));
    let asked = Cell::new(0);
    let stops = || {
        asked.set(asked.get() + 1);
        gives_up.is_some_and(|after| asked.get() > after)
    };
    let plan = CompactionPlan {
        below: opened.stable(),
        now_ms: machine.now_ms.get(),
        min_lag_ms: 0,
        delete_retention_ms: machine.retention_ms,
        // Often less than the keys there are.
        map_bytes: if random.one_in(2) { 64 * 24 } else { 100_000 },
        last_batches: opened.producers.borrow().last_batches().collect(),
        aborted,
        stops: &stops,
        rest: &|| std::time::Duration::ZERO,
    };
    let forget = async |markers: &[Offset]| {
        opened.producers.borrow_mut().forget_aborted(markers);
        machine.outcome.borrow_mut().markers_forgotten += markers.len() as u64;
        // All of it durable, then the snapshot: it never knows more than the log.
        let end = opened.log.log_end();
        let bytes = opened.producers.borrow().encode(end);
        opened.flush().await?;
        opened.log.store_beside(PRODUCERS, &bytes).await
    };
    let done = opened.log.compact(&plan, forget).await.expect("the disk is well");
    let mut outcome = machine.outcome.borrow_mut();
    outcome.compactions += 1;
    outcome.given_up += u64::from(done.stopped);
    outcome.bytes_removed += done.bytes_before - done.bytes_after.min(done.bytes_before);
}
