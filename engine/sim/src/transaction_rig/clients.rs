//! The clients of the rig: what each does next, what it makes of an answer, and what it tells the
//! history.

use super::{
    Answer, Broker, CLIENTS, GONE, INPUTS, OFFSETS, OUTPUTS, Outcome, Place, Profile, Request,
    Stage, TROUBLED_STEPS, Task, Work, place,
};
use crate::history::{self, FinalRead, History, Operation, Outcome as Ended, Record, Send, Step};
use coordinator::ClientVersion;
use model::{BatchBuilder, Compression, ErrorCode, Offset, Producer};
use runtime::random::Random;
use std::collections::BTreeMap;
use wire::messages::OffsetFetchTopic;

/// What a client does next in its transaction.
#[derive(Clone, Debug)]
enum Doing {
    /// It has no producer id, or must not trust the one it has.
    Starting,
    Idle,
    /// Asked where its group is.
    Locating,
    /// These requests are to come.
    Working(Vec<Todo>),
    Ending(bool),
}

#[derive(Clone, Debug)]
enum Todo {
    Add(Place),
    Send(Place, u64, Option<(String, i64)>),
    Commit(i64),
}

struct Client {
    doing: Doing,
    producer: Option<Producer>,
    sequences: BTreeMap<Place, i32>,
    step: Step,
    /// What is asked and not answered; asked again if the answer is lost.
    asked: Option<Request>,
    waits: bool,
    asleep_until: u64,
    /// A commit was asked for, and an answer got lost.
    in_doubt: bool,
}

/// Everyone.
struct World {
    broker: Broker,
    clients: Vec<Client>,
    history: History,
    random: Random,
    value: u64,
    tick: u64,
    positions: BTreeMap<(u64, Place), Offset>,
    troubled: bool,
}

/// Runs one world to its end; panics at an anomaly.
pub(super) fn run(seed: u64) -> Outcome {
    let client = |_| Client {
        doing: Doing::Starting,
        producer: None,
        sequences: BTreeMap::new(),
        step: Step::default(),
        asked: None,
        waits: false,
        asleep_until: 0,
        in_doubt: false,
    };
    let mut world = World {
        broker: Broker::new(),
        clients: (0..CLIENTS).map(client).collect(),
        history: History::default(),
        random: Random::new(seed),
        value: 0,
        tick: 0,
        positions: BTreeMap::new(),
        troubled: true,
    };
    for _ in 0..TROUBLED_STEPS {
        world.step();
    }
    world.finish();
    let anomalies = history::check(&world.history);
    assert!(
        anomalies.is_empty(),
        "seed {seed}: {} anomalies, as {}",
        anomalies.len(),
        anomalies[0]
    );
    world.broker.outcome
}

impl World {
    fn step(&mut self) {
        self.tick += 1;
        let random = &mut self.random;
        match random.below(100) {
            0..45 => {
                let count = self.broker.tasks.len() as u64;
                if count > 0 {
                    let index = random.below(count) as usize;
                    if let Some((client, answer)) = self.broker.advance(index, random) {
                        self.on_answer(client, answer);
                    }
                }
            }
            45..65 => {
                let number = random.below(self.broker.parts.len() as u64) as usize;
                let snapshot = random.one_in(20);
                let part = self.broker.parts.values_mut().nth(number).expect("in range");
                part.flush(snapshot);
            }
            65..92 => {
                let number = random.below(CLIENTS as u64) as usize;
                self.act(number);
            }
            92..97 => self.poll(),
            97..99 => self.broker.tick(),
            _ => self.trouble(),
        }
    }

    fn trouble(&mut self) {
        if !self.troubled {
            return;
        }
        let number = self.random.below(CLIENTS as u64) as usize;
        match self.random.below(20) {
            0..6 => self.clients[number].asleep_until = self.broker.ms + self.random.below(150),
            6..9 => self.restart_client(number),
            10..13 => {
                // It has waited long enough, and asks again.
                self.give_up(number);
                self.on_answer(number, Answer::Lost);
            }
            9 => {
                self.broker.crash(&mut self.random);
                for client in 0..CLIENTS {
                    self.on_answer(client, Answer::Lost);
                }
            }
            _ => {}
        }
    }

    /// A client's process ends, and another begins in its place.
    fn restart_client(&mut self, number: usize) {
        self.end_step(number, None);
        self.give_up(number);
        let client = &mut self.clients[number];
        (client.doing, client.producer, client.asked) = (Doing::Starting, None, None);
        client.waits = false;
    }

    /// What was asked goes its way, and may arrive late; its answer goes nowhere.
    fn give_up(&mut self, number: usize) {
        for task in &mut self.broker.tasks {
            if let Work::Serve { client, .. } | Work::Answer { client, .. } = &mut task.work
                && *client == number
            {
                *client += GONE;
            }
        }
    }

    /// Whether a commit was ever asked for decides what is known of an unfinished transaction.
    fn end_step(&mut self, number: usize, outcome: Option<Ended>) {
        let client = &mut self.clients[number];
        let step = std::mem::take(&mut client.step);
        let outcome = outcome.unwrap_or(match (step.commit, client.in_doubt) {
            (Some(_), true) => Ended::Unknown,
            (Some(_), false) if client.waits => Ended::Unknown,
            _ => Ended::Aborted,
        });
        client.in_doubt = false;
        if step.operations.is_empty() {
            return;
        }
        let transactional = Profile::of(number).transactional;
        let outcome = if transactional { outcome } else { Ended::Unknown };
        let counts = &mut self.broker.outcome;
        match outcome {
            Ended::Committed => counts.committed += 1,
            Ended::Aborted => counts.aborted += 1,
            Ended::Unknown => counts.unknown += 1,
        }
        let end = Some(self.tick);
        let process = number as u64;
        self.history.steps.push(Step { process, transactional, outcome, end, ..step });
    }

    fn act(&mut self, number: usize) {
        let ms = self.broker.ms;
        let client = &mut self.clients[number];
        if client.waits || client.asleep_until > ms {
            return;
        }
        let profile = Profile::of(number);
        if let Some(request) = client.asked.clone() {
            self.ask(number, request);
            return;
        }
        let producer = client.producer.unwrap_or_default();
        match client.doing.clone() {
            Doing::Starting => self.ask(number, Request::Init(None)),
            Doing::Locating => {}
            Doing::Idle => match profile.input {
                Some(input) => {
                    self.clients[number].doing = Doing::Locating;
                    self.ask(number, Request::Fetch(input));
                }
                None if self.troubled => self.begin(number),
                None => {}
            },
            Doing::Working(mut todo) if !todo.is_empty() => {
                let next = todo.remove(0);
                self.clients[number].doing = Doing::Working(todo);
                let request = match next {
                    Todo::Add(at) => Request::Add(producer, at),
                    Todo::Commit(offset) => {
                        Request::Commit(producer, profile.input.expect("a worker's"), offset)
                    }
                    Todo::Send(at, value, input) => self.batch(number, at, value, input),
                };
                self.ask(number, request);
            }
            Doing::Working(_) if !profile.transactional => {
                self.end_step(number, None);
                self.clients[number].doing = Doing::Idle;
            }
            Doing::Working(_) => {
                let commit = !self.random.one_in(5);
                let client = &mut self.clients[number];
                client.doing = Doing::Ending(commit);
                client.step.commit = commit.then_some(self.tick);
                self.ask(number, Request::End(producer, commit));
            }
            Doing::Ending(commit) => self.ask(number, Request::End(producer, commit)),
        }
    }

    fn batch(
        &mut self,
        number: usize,
        at: Place,
        value: u64,
        input: Option<(String, i64)>,
    ) -> Request {
        let client = &mut self.clients[number];
        let producer = client.producer.expect("it has begun");
        let sequence = client.sequences.entry(at.clone()).or_default();
        let mut builder = BatchBuilder::default();
        builder.begin(0);
        builder.set_producer(producer, *sequence, Profile::of(number).transactional);
        *sequence += 1;
        builder.push(0, None, Some(&value.to_be_bytes()), &[]);
        let partition = name_of(&at);
        let send = Send { partition, value, offset: None, acknowledged: false, input };
        client.step.operations.push(Operation::Send(send));
        Request::Produce(producer, at, builder.finish(Compression::None).to_vec())
    }

    /// Chooses what the next transaction writes.
    fn begin(&mut self, number: usize) {
        let profile = Profile::of(number);
        let mut todo = Vec::new();
        let mut added = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let at = match self.random.below(2) {
                0 if profile.transactional => place("in", self.random.below(2) as i32),
                _ => place("out", self.random.below(OUTPUTS as u64) as i32),
            };
            self.value += 1;
            if profile.transactional && profile.version == ClientVersion::V1 && !added.contains(&at)
            {
                added.push(at.clone());
                todo.push(Todo::Add(at.clone()));
            }
            todo.push(Todo::Send(at, self.value, None));
        }
        let client = &mut self.clients[number];
        client.doing = Doing::Working(todo);
        client.step = Step { start: Some(self.tick), ..Step::default() };
    }

    /// A worker knows where its group is: it makes an output of each input.
    fn begin_work(&mut self, number: usize, from: Offset) {
        let profile = Profile::of(number);
        let input = place("in", profile.input.expect("a worker has one"));
        let (records, next) = self.broker.parts[&input].read(from, 3);
        let client = &mut self.clients[number];
        if next == from {
            client.doing = Doing::Idle;
            return;
        }
        let mut step = Step { start: Some(self.tick), ..Step::default() };
        // Where its group is, it stands.
        step.operations.push(Operation::Assign(vec![(name_of(&input), None)]));
        let seen = |(offset, value): &(Offset, u64)| Record {
            partition: name_of(&input),
            offset: offset.0,
            value: *value,
        };
        let records_seen = records.iter().map(seen).collect();
        step.operations.push(Operation::Poll {
            records: records_seen,
            uncommitted: false,
            at: Some(self.tick),
        });
        let mut todo = Vec::new();
        let v1 = profile.version == ClientVersion::V1;
        for (offset, _) in &records {
            let at = place("out", (offset.0 % i64::from(OUTPUTS)) as i32);
            self.value += 1;
            if v1 {
                todo.push(Todo::Add(at.clone()));
            }
            todo.push(Todo::Send(at, self.value, Some((name_of(&input), offset.0))));
        }
        if v1 {
            todo.push(Todo::Add(place(OFFSETS, 0)));
        }
        todo.push(Todo::Commit(next.0));
        (client.doing, client.step) = (Doing::Working(todo), step);
    }

    fn ask(&mut self, number: usize, request: Request) {
        let client = &mut self.clients[number];
        (client.asked, client.waits) = (Some(request.clone()), true);
        let work = Work::Serve { client: number, request, stage: Stage::Begun };
        self.broker.tasks.push(Task { work, waits: None });
    }

    fn on_answer(&mut self, number: usize, answer: Answer) {
        if number >= GONE {
            return;
        }
        let client = &mut self.clients[number];
        if !client.waits {
            return;
        }
        client.waits = false;
        let ends = matches!(client.asked, Some(Request::End(_, true)));
        match answer {
            Answer::Lost => client.in_doubt |= ends,
            Answer::Refused(
                ErrorCode::ConcurrentTransactions | ErrorCode::UnstableOffsetCommit,
            ) => {
                if matches!(client.doing, Doing::Locating) {
                    (client.asked, client.doing) = (None, Doing::Idle);
                }
            }
            Answer::Refused(error) => {
                if matches!(error, ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch) {
                    self.broker.outcome.fenced += 1;
                }
                assert!(
                    matches!(
                        error,
                        ErrorCode::ProducerFenced
                            | ErrorCode::InvalidProducerEpoch
                            | ErrorCode::InvalidTxnState
                            | ErrorCode::InvalidProducerIdMapping
                    ),
                    "client {number} is refused by {error:?}"
                );
                self.end_step(number, None);
                let client = &mut self.clients[number];
                (client.doing, client.producer, client.asked) = (Doing::Starting, None, None);
                // Else two of one transactional id would do nothing but fence each other.
                client.asleep_until = self.broker.ms + 10 + self.random.below(100);
            }
            answer => {
                let asked = client.asked.take();
                self.on_success(number, asked.expect("it waited for this"), answer);
            }
        }
    }

    fn on_success(&mut self, number: usize, asked: Request, answer: Answer) {
        let client = &mut self.clients[number];
        match (asked, answer) {
            (Request::Init(_), Answer::Producer(producer)) => {
                (client.producer, client.doing) = (Some(producer), Doing::Idle);
                client.sequences.clear();
            }
            (Request::Produce(..), Answer::At(base)) => {
                let last = client.step.operations.last_mut();
                let Some(Operation::Send(send)) = last else { unreachable!("it was sent last") };
                (send.offset, send.acknowledged) = (Some(base.0), true);
                self.broker.outcome.outputs += u64::from(send.input.is_some());
            }
            (Request::Fetch(_), Answer::At(from)) => self.begin_work(number, from),
            (Request::End(_, commit), Answer::Producer(next)) => {
                if client.producer != Some(next) {
                    client.producer = Some(next);
                    client.sequences.clear();
                }
                client.doing = Doing::Idle;
                let outcome = if commit { Ended::Committed } else { Ended::Aborted };
                self.end_step(number, Some(outcome));
            }
            (Request::Add(..) | Request::Commit(..), Answer::Done) => {}
            (asked, answer) => unreachable!("{asked:?} is not answered by {answer:?}"),
        }
    }

    /// A reader of committed records goes on.
    fn poll(&mut self) {
        let reader = 100 + self.random.below(2);
        let topic = if self.random.one_in(2) { "in" } else { "out" };
        let at = place(topic, self.random.below(2) as i32);
        self.poll_at(reader, &at, 5);
    }

    fn poll_at(&mut self, reader: u64, at: &Place, batches: usize) {
        let position = self.positions.entry((reader, at.clone())).or_default();
        let (records, next) = self.broker.parts[at].read(*position, batches);
        *position = next;
        if records.is_empty() {
            return;
        }
        self.broker.outcome.polled += records.len() as u64;
        let seen = |(offset, value): (Offset, u64)| Record {
            partition: name_of(at),
            offset: offset.0,
            value,
        };
        let records = records.into_iter().map(seen).collect();
        let poll = Operation::Poll { records, uncommitted: false, at: Some(self.tick) };
        self.history.steps.push(Step {
            process: reader,
            outcome: Ended::Committed,
            operations: vec![poll],
            ..Step::default()
        });
    }

    /// All goes well from here on: everything that was begun ends, and all is read.
    fn finish(&mut self) {
        self.troubled = false;
        // Of two with the same transactional id one goes on.
        for number in 0..CLIENTS {
            let rests = number % 2 == 1;
            if rests {
                self.restart_client(number);
            }
            self.clients[number].asleep_until = if rests { u64::MAX } else { 0 };
        }
        for round in 0.. {
            let doing = || self.clients.iter().map(|client| &client.doing).collect::<Vec<_>>();
            assert!(round < 2_000, "it does not come to rest: {:?}", doing());
            for _ in 0..200 {
                self.step();
            }
            let consumed = (0..INPUTS).all(|index| {
                let topics =
                    [OffsetFetchTopic { name: "in".to_owned(), partition_indexes: vec![index] }];
                let found = self.broker.groups.fetch("workers", Some(&topics), true);
                let part = &self.broker.parts[&place("in", index)];
                found[0].partitions[0].committed_offset.max(0) == part.end.0
            });
            let idle = self.clients.iter().all(|client| {
                matches!(client.doing, Doing::Idle | Doing::Locating | Doing::Starting)
            });
            let flushed = self.broker.parts.values().all(|part| part.stable() == part.end);
            if consumed && idle && flushed {
                break;
            }
        }
        for client in 0..CLIENTS {
            self.end_step(client, None);
        }
        let places: Vec<Place> = self
            .broker
            .parts
            .keys()
            .filter(|(topic, _)| !topic.starts_with("__"))
            .cloned()
            .collect();
        for at in places {
            for reader in [100, 101] {
                self.poll_at(reader, &at, usize::MAX);
            }
            let (records, _) = self.broker.parts[&at].read(Offset::ZERO, usize::MAX);
            let records = records.into_iter().map(|(offset, value)| (offset.0, value)).collect();
            self.history.finals.push(FinalRead {
                partition: name_of(&at),
                records,
                log_start: None,
            });
        }
        self.history.drained = true;
    }
}

/// What the history calls it.
fn name_of(place: &Place) -> String {
    format!("{}-{}", place.0, place.1)
}
