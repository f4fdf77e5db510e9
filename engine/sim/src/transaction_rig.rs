//! Exactly once, end to end in one process: transactional and idempotent producers, workers that read,
//! process and write, zombies, time-outs, lost answers, coordinators that start again, power cuts.
//!
//! The rooms are the engine's own: producers of a partition, transaction and group coordinators. How
//! requests go from one to the other is written here once more, in single steps of which any may be
//! the last, as `broker/src/coordinators/transactions.rs` does it with real logs. What clients saw goes to
//! `history`, which must find nothing.

mod clients;

use coordinator::{
    ClientVersion, CoordinatorConfig, Ending, GroupCoordinator, Now, TransactionConfig,
    TransactionCoordinator, read_record,
};
use model::{
    BatchBuilder, Compression, ErrorCode, Marker, Offset, Producer, ProducerId, RecordBatch,
};
use partition::{Admission, Producers, Proof};
use runtime::random::Random;
use std::collections::BTreeMap;
use wire::messages::{
    OffsetFetchTopic, TxnOffsetCommitPartition, TxnOffsetCommitRequest, TxnOffsetCommitTopic,
};

const OFFSETS: &str = "__consumer_offsets";
const STATE: &str = "__transaction_state";
const INPUTS: i32 = 2;
const OUTPUTS: i32 = 3;
const TIMEOUT_MS: i32 = 60;
/// Steps of a run in which things go wrong.
const TROUBLED_STEPS: u64 = 25_000;

/// What a run did, for reports and to show that it did something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Outcome {
    pub committed: u64,
    pub aborted: u64,
    /// Transactions of which the client does not know how they ended.
    pub unknown: u64,
    pub fenced: u64,
    pub timed_out: u64,
    pub crashes: u64,
    pub lost_answers: u64,
    pub duplicates: u64,
    pub outputs: u64,
    pub polled: u64,
    pub markers: u64,
    /// Proofs that a marker made void.
    pub late: u64,
}

impl Outcome {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.unknown += other.unknown;
        self.fenced += other.fenced;
        self.timed_out += other.timed_out;
        self.crashes += other.crashes;
        self.lost_answers += other.lost_answers;
        self.duplicates += other.duplicates;
        self.outputs += other.outputs;
        self.polled += other.polled;
        self.markers += other.markers;
        self.late += other.late;
    }
}

/// Runs one world to its end; panics at an anomaly.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    clients::run(seed)
}

type Place = (String, i32);

fn place(topic: &str, index: i32) -> Place {
    (topic.to_owned(), index)
}

/// One log: what of it is durable, and what follows from it.
#[derive(Default)]
struct Part {
    batches: Vec<(Offset, Vec<u8>)>,
    end: Offset,
    durable: Offset,
    producers: Producers,
    snapshot: Option<Vec<u8>>,
}

impl Part {
    fn append(&mut self, bytes: &[u8]) -> Offset {
        let (batch, _) = RecordBatch::split_first(bytes).expect("whole batches are appended");
        self.producers.on_batch(batch, self.end, 0);
        self.batches.push((self.end, bytes.to_vec()));
        self.end = self.end.plus(i64::from(batch.last_offset_delta()) + 1);
        self.end
    }

    fn flush(&mut self, takes_snapshot: bool) {
        self.durable = self.end;
        self.producers.on_written(self.end);
        self.producers.on_high_watermark(self.end);
        if takes_snapshot {
            self.snapshot = Some(self.producers.encode(self.end));
        }
    }

    /// The power went: what was not durable may be gone. All else follows from the rest.
    fn restart(&mut self, random: &mut Random) {
        let first = self.batches.partition_point(|(base, _)| *base < self.durable);
        let lost = self.batches.len() - first;
        let kept = first + random.below(lost as u64 + 1) as usize;
        if let Some((base, _)) = self.batches.get(kept) {
            self.end = *base;
        }
        self.batches.truncate(kept);
        let replay = |mut producers: Producers, from: Offset| {
            for (base, bytes) in self.batches.iter().filter(|(base, _)| *base >= from) {
                let (batch, _) = RecordBatch::split_first(bytes).expect("as appended");
                producers.on_batch(batch, *base, 0);
            }
            producers.on_written(self.end);
            producers.on_high_watermark(self.end);
            producers
        };
        let whole = replay(Producers::default(), Offset::ZERO);
        if let Some((producers, from)) = self.snapshot.as_deref().and_then(Producers::decode) {
            let from_snapshot = replay(producers, from);
            assert_eq!(from_snapshot.encode(self.end), whole.encode(self.end));
        }
        self.producers = whole;
        self.durable = self.end;
    }

    fn stable(&self) -> Offset {
        self.producers.last_stable_offset(self.durable)
    }

    /// What a reader of committed records gets from `from` on, at most so many batches; and where it
    /// goes on.
    fn read(&self, from: Offset, batches_max: usize) -> (Vec<(Offset, u64)>, Offset) {
        let to = self.stable();
        let aborted: Vec<_> = self.producers.aborted(from, to).collect();
        let at = self.batches.partition_point(|(base, _)| *base <= from).saturating_sub(1);
        let (mut found, mut next) = (Vec::new(), from);
        let mut scratch = Vec::new();
        let rest = self.batches[at..].iter().take_while(|(base, _)| *base < to);
        for (base, bytes) in rest.take(batches_max) {
            let (batch, _) = RecordBatch::split_first(bytes).expect("as appended");
            let end = base.plus(i64::from(batch.last_offset_delta()) + 1);
            if end <= from {
                continue;
            }
            next = end;
            let hides = |a: &partition::Aborted| {
                batch.producer().is_some_and(|p| p.id == a.producer)
                    && a.first <= *base
                    && *base <= a.last
            };
            if batch.is_control() || batch.is_transactional() && aborted.iter().any(hides) {
                continue;
            }
            for record in batch.records(&mut scratch).expect("as appended") {
                let record = record.expect("as appended");
                let offset = base.plus(i64::from(record.offset_delta));
                let value = record.value.expect("all have one");
                if offset >= from {
                    let value = u64::from_be_bytes(value.try_into().expect("8 bytes"));
                    found.push((offset, value));
                }
            }
        }
        (found, next)
    }
}

/// What a client asks for.
#[derive(Clone, Debug)]
enum Request {
    Init(Option<Producer>),
    Add(Producer, Place),
    Produce(Producer, Place, Vec<u8>),
    /// Of a group: this far in this input partition.
    Commit(Producer, i32, i64),
    Fetch(i32),
    End(Producer, bool),
}

#[derive(Clone, Debug)]
enum Answer {
    Producer(Producer),
    Done,
    At(Offset),
    Refused(ErrorCode),
    /// The connection broke.
    Lost,
}

/// Something under way in the broker.
struct Task {
    work: Work,
    /// Nothing more happens before this log is durable up to there.
    waits: Option<(Place, Offset)>,
}

enum Work {
    Serve { client: usize, request: Request, stage: Stage },
    Answer { client: usize, answer: Answer },
    Tell { ending: Ending, left: Vec<Place>, waits_for: Vec<(Place, Offset)> },
}

#[derive(Clone, Copy)]
enum Stage {
    Begun,
    /// The coordinator has this still to say.
    Asked(Proof),
    Proven(Option<Proof>),
}

struct Broker {
    parts: BTreeMap<Place, Part>,
    transactions: TransactionCoordinator,
    groups: GroupCoordinator,
    tasks: Vec<Task>,
    epoch: i32,
    fresh: i64,
    ms: u64,
    outcome: Outcome,
}

fn group_config() -> CoordinatorConfig {
    CoordinatorConfig {
        session_timeout_ms_min: 1,
        session_timeout_ms_max: 100_000,
        initial_rebalance_delay_ms: 0,
        groups_max: 1000,
        group_size_max: 100,
        offset_metadata_bytes_max: 100,
        offsets_retention_ms: i64::MAX,
    }
}

fn transaction_config() -> TransactionConfig {
    TransactionConfig { timeout_ms_max: 100_000, id_expiration_ms: i64::MAX, ids_max: 1000 }
}

impl Broker {
    fn new() -> Self {
        let mut parts = BTreeMap::new();
        for (topic, count) in [("in", INPUTS), ("out", OUTPUTS), (OFFSETS, 1), (STATE, 1)] {
            for index in 0..count {
                parts.insert(place(topic, index), Part::default());
            }
        }
        Self {
            parts,
            transactions: TransactionCoordinator::new(transaction_config(), 1),
            groups: GroupCoordinator::new(group_config(), 1),
            tasks: Vec::new(),
            epoch: 1,
            fresh: 0,
            ms: 0,
            outcome: Outcome::default(),
        }
    }

    fn now(&self) -> Now {
        Now { ms: self.ms, unix_ms: 1_000_000 + self.ms as i64 }
    }

    fn fresh(&mut self) -> ProducerId {
        self.fresh += 1;
        ProducerId(self.fresh)
    }

    fn part(&mut self, at: &Place) -> &mut Part {
        self.parts.get_mut(at).expect("all are made at the start")
    }

    /// Appends what a coordinator's step wants appended; endings wait until that is durable.
    fn settle(&mut self) -> [(Place, Offset); 2] {
        let mut builder = BatchBuilder::default();
        let transactions = self.transactions.take_effects();
        let groups = self.groups.take_effects();
        let plain = transactions.records.iter().map(|record| (STATE, None, record));
        let offsets = groups.records.iter().map(|record| (OFFSETS, None, record));
        let pending = groups.transactional.iter().map(|(p, record)| (OFFSETS, Some(*p), record));
        for (topic, producer, record) in plain.chain(offsets).chain(pending) {
            builder.begin(0);
            if let Some(producer) = producer {
                builder.set_producer(producer, -1, true);
            }
            builder.push(0, Some(&record.key), record.value.as_deref(), &[]);
            let bytes = builder.finish(Compression::None);
            self.parts.get_mut(&place(topic, 0)).expect("made at the start").append(bytes);
        }
        let ends =
            [STATE, OFFSETS].map(|topic| (place(topic, 0), self.parts[&place(topic, 0)].end));
        for ending in transactions.endings {
            let left = ending.partitions.clone();
            let work = Work::Tell { ending, left, waits_for: Vec::new() };
            self.tasks.push(Task { work, waits: Some(ends[0].clone()) });
        }
        ends
    }

    fn answer(&mut self, client: usize, answer: Answer, waits: Option<(Place, Offset)>) {
        self.tasks.push(Task { work: Work::Answer { client, answer }, waits });
    }

    /// The next step of something under way; an answer if that is what it is.
    fn advance(&mut self, index: usize, random: &mut Random) -> Option<(usize, Answer)> {
        if let Some((at, end)) = &self.tasks[index].waits
            && self.parts[at].durable < *end
        {
            return None;
        }
        let Task { work, .. } = self.tasks.swap_remove(index);
        match work {
            Work::Answer { client, answer } => {
                if random.one_in(40) {
                    self.outcome.lost_answers += 1;
                    return Some((client, Answer::Lost));
                }
                return Some((client, answer));
            }
            Work::Serve { client, request, stage } => self.serve(client, request, stage),
            Work::Tell { ending, left, waits_for } => self.tell(ending, left, waits_for, random),
        }
        None
    }

    fn tell(
        &mut self,
        ending: Ending,
        mut left: Vec<Place>,
        mut waits_for: Vec<(Place, Offset)>,
        random: &mut Random,
    ) {
        if left.is_empty() {
            if let Some(waits) = waits_for.pop() {
                let work = Work::Tell { ending, left, waits_for };
                self.tasks.push(Task { work, waits: Some(waits) });
                return;
            }
            let now = self.now();
            self.transactions.complete(now, &ending);
            self.settle();
            return;
        }
        let at = left.swap_remove(random.below(left.len() as u64) as usize);
        let part = self.part(&at);
        if part.producers.check_marker(&ending.marker).is_ok() {
            let mut builder = BatchBuilder::default();
            let bytes = ending.marker.put(&mut builder, 0).bytes().to_vec();
            waits_for.push((at.clone(), part.append(&bytes)));
            self.outcome.markers += 1;
            if at.0 == OFFSETS {
                self.groups.on_marker(ending.marker.producer.id, ending.marker.commit);
                self.settle();
            }
        }
        self.tasks.push(Task { work: Work::Tell { ending, left, waits_for }, waits: None });
    }

    /// The partition that a request is about to write to in its producer's transaction.
    fn target(client: &Profile, request: &Request) -> Option<(Producer, Place)> {
        match request {
            Request::Produce(producer, at, _) if client.transactional => {
                Some((*producer, at.clone()))
            }
            Request::Commit(producer, ..) => Some((*producer, place(OFFSETS, 0))),
            _ => None,
        }
    }

    fn serve(&mut self, client: usize, request: Request, stage: Stage) {
        let profile = Profile::of(client);
        let (id, version) = (profile.transactional_id(), profile.version);
        let again = |stage, waits| Task {
            work: Work::Serve { client, request: request.clone(), stage },
            waits,
        };
        let now = self.now();
        match (stage, Self::target(&profile, &request)) {
            (Stage::Begun, Some((producer, at))) => {
                let producers = &mut self.part(&at).producers;
                let stage = if producers.is_open(producer) {
                    Stage::Proven(None)
                } else {
                    Stage::Asked(producers.begin_proof(producer.id, 0))
                };
                self.tasks.push(again(stage, None));
            }
            (Stage::Asked(proof), Some((producer, at))) => {
                let allowed = match version {
                    ClientVersion::V1 => self.transactions.verify(&id, producer, &at),
                    ClientVersion::V2 => {
                        self.transactions.add_partitions(now, &id, producer, &[at], version)
                    }
                };
                let [state, _] = self.settle();
                match allowed {
                    Ok(()) => self.tasks.push(again(Stage::Proven(Some(proof)), Some(state))),
                    Err(error) => self.answer(client, Answer::Refused(error), Some(state)),
                }
            }
            (Stage::Proven(proof), _) => self.write(client, &request, proof),
            (_, None) => match request {
                Request::Produce(..) => self.write(client, &request, None),
                request => self.ask(client, request),
            },
        }
    }

    fn write(&mut self, client: usize, request: &Request, proof: Option<Proof>) {
        match request {
            Request::Produce(_, at, bytes) => {
                let (batch, _) = RecordBatch::split_first(bytes).expect("clients build whole ones");
                let part = self.parts.get_mut(at).expect("made at the start");
                match part.producers.admit(batch, proof) {
                    Ok(Admission::New) => {
                        let (base, end) = (part.end, part.append(bytes));
                        self.answer(client, Answer::At(base), Some((at.clone(), end)));
                    }
                    Ok(Admission::Duplicate(known)) => {
                        self.outcome.duplicates += 1;
                        let waits = Some((at.clone(), known.last.plus(1)));
                        self.answer(client, Answer::At(known.base), waits);
                    }
                    Err(error) => {
                        let late = error == ErrorCode::InvalidTxnState && proof.is_some();
                        self.outcome.late += u64::from(late);
                        self.answer(client, Answer::Refused(error), None);
                    }
                }
            }
            Request::Commit(producer, input, offset) => {
                let at = place(OFFSETS, 0);
                let admitted = self.parts[&at].producers.admit_transactional(*producer, proof);
                if let Err(error) = admitted {
                    self.answer(client, Answer::Refused(error), None);
                    return;
                }
                let partition = TxnOffsetCommitPartition {
                    partition_index: *input,
                    committed_offset: *offset,
                    ..Default::default()
                };
                let topic =
                    TxnOffsetCommitTopic { name: "in".to_owned(), partitions: vec![partition] };
                let request = TxnOffsetCommitRequest {
                    group_id: "workers".to_owned(),
                    producer_id: producer.id.0,
                    producer_epoch: producer.epoch,
                    topics: vec![topic],
                    ..Default::default()
                };
                let now = self.now();
                let done = self.groups.commit_in_transaction(now, &request, |_, _| true);
                assert_eq!(done.topics[0].partitions[0].error_code, 0);
                let [_, offsets] = self.settle();
                self.answer(client, Answer::Done, Some(offsets));
            }
            _ => unreachable!("only these write to partitions"),
        }
    }

    fn ask(&mut self, client: usize, request: Request) {
        let profile = Profile::of(client);
        let (id, now, fresh) = (profile.transactional_id(), self.now(), self.fresh());
        let is_fetch = matches!(request, Request::Fetch(_));
        let answer = match request {
            Request::Init(_) if !profile.transactional => {
                Ok(Answer::Producer(Producer { id: fresh, epoch: 0 }))
            }
            Request::Init(expected) => self
                .transactions
                .init_producer_id(now, &id, TIMEOUT_MS, expected, fresh)
                .map(Answer::Producer),
            Request::Add(producer, at) => self
                .transactions
                .add_partitions(now, &id, producer, &[at], ClientVersion::V1)
                .map(|()| Answer::Done),
            Request::End(producer, commit) => self
                .transactions
                .end(now, &id, producer, commit, profile.version, fresh)
                .map(Answer::Producer),
            Request::Fetch(input) => {
                let topics =
                    [OffsetFetchTopic { name: "in".to_owned(), partition_indexes: vec![input] }];
                let found = self.groups.fetch("workers", Some(&topics), true);
                let found = &found[0].partitions[0];
                match ErrorCode::from_code(found.error_code) {
                    ErrorCode::None => Ok(Answer::At(Offset(found.committed_offset.max(0)))),
                    error => Err(error),
                }
            }
            Request::Produce(..) | Request::Commit(..) => unreachable!("these write"),
        };
        let [state, offsets] = self.settle();
        let waits = if is_fetch { offsets } else { state };
        self.answer(client, answer.unwrap_or_else(Answer::Refused), Some(waits));
    }

    /// Time passes: what took too long is aborted.
    fn tick(&mut self) {
        self.ms += 1;
        let due = self.transactions.next_deadline().is_some_and(|at| at <= self.ms);
        if due {
            let now = self.now();
            let mut fresh = self.fresh;
            let mut next = || {
                fresh += 1;
                ProducerId(fresh)
            };
            self.transactions.on_time(now, &mut next);
            self.fresh = fresh;
            self.outcome.timed_out += 1;
            self.settle();
        }
    }

    /// The power goes and comes back. Who waited for an answer gets none.
    fn crash(&mut self, random: &mut Random) {
        self.outcome.crashes += 1;
        self.epoch += 1;
        self.tasks.clear();
        for part in self.parts.values_mut() {
            part.restart(random);
        }
        self.transactions = TransactionCoordinator::new(transaction_config(), self.epoch);
        self.groups = GroupCoordinator::new(group_config(), 1);
        let mut scratch = Vec::new();
        for topic in [STATE, OFFSETS] {
            for (_, bytes) in &self.parts[&place(topic, 0)].batches {
                let (batch, _) = RecordBatch::split_first(bytes).expect("as appended");
                if let Some(marker) = Marker::read(batch) {
                    self.groups.on_marker(marker.producer.id, marker.commit);
                    continue;
                }
                let producer = batch.producer().map(|producer| producer.id);
                for record in batch.records(&mut scratch).expect("as appended") {
                    let record = record.expect("as appended");
                    let key = record.key.expect("all have one");
                    if topic == STATE {
                        self.transactions.replay(key, record.value).expect("its own records");
                    } else {
                        let stored = read_record(key, record.value).expect("its own records");
                        self.groups.replay(stored, producer);
                    }
                }
            }
        }
        let now = self.now();
        self.groups.on_loaded(now);
        self.transactions.on_loaded(now);
        self.settle();
    }
}

/// What kind of client it is, by its number.
struct Profile {
    transactional: bool,
    version: ClientVersion,
    /// A worker, on this input.
    input: Option<i32>,
    /// Two have the same transactional id: one of them is a zombie.
    pair: usize,
}

const CLIENTS: usize = 10;
/// Added to the number of a client that does not wait for the answer any more.
const GONE: usize = 1_000;

impl Profile {
    fn of(client: usize) -> Self {
        let client = client % GONE;
        let pair = client / 2;
        Self {
            // 0 and 1 are idempotent only; 2 to 5 write to the inputs; 6 to 9 are workers.
            transactional: client >= 2,
            version: if pair.is_multiple_of(2) { ClientVersion::V2 } else { ClientVersion::V1 },
            input: (client >= 6).then_some((pair as i32) % INPUTS),
            pair,
        }
    }

    fn transactional_id(&self) -> String {
        format!("t-{}", self.pair)
    }
}
