//! Checks the history of a broker's clients: what was lost, repeated, torn, out of order or cyclic.
//!
//! In: a [`History`], also as JSON lines. Out: each [`Anomaly`], mostly as in Jepsen's
//! `tests.kafka`. Never: a connection or a clock.
//!
//! A line is one JSON object (broken here to fit), the steps of a process in order:
//! ```json
//! {"step":{"process":1,"producer":"p-1","transactional":true,"outcome":"committed","start":10,
//!   "commit":40,"end":50,"operations":[{"assign":[["in-0",4],["in-1",null]]},
//!   {"poll":{"records":[{"partition":"in-0","offset":4,"value":17}],"uncommitted":false,"at":20}},
//!   {"send":{"partition":"out","value":18,"offset":9,"acknowledged":true,"input":["in-0",4]}}]}}
//! {"final":{"partition":"out","records":[[8,5],[9,18]],"log_start":8}}
//! {"drained":true}
//! ```
//! May be absent or null: `producer`, `offset`, `input`, `log_start`, and the times, which are
//! nanoseconds of one clock.
//!
//! Clients see to it that every value is sent once, that all that was sent is in the history (a
//! step cut short with outcome `unknown`), and that a consumer whose position may have moved, by a
//! rebalance, a seek or an abort, says so with `assign`. Compacted topics cannot be checked.

// Fields and variants whose names say it all have no more to say.
#![allow(missing_docs)]

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A partition of a topic, by any name that the clients agree on.
pub type Partition = String;

/// How a step ended, as far as its client knows. A plain step's acknowledged sends count as
/// committed whatever its outcome, the others as failed if it is `Aborted`, else as unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Committed,
    /// Certainly without effect.
    Aborted,
    /// Counts as committed once a read-committed reader got one of its values.
    #[default]
    Unknown,
}

/// A record at its place; the offset is -1 where it is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub partition: Partition,
    pub offset: i64,
    pub value: u64,
}

/// A record that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    pub partition: Partition,
    pub value: u64,
    /// Where the broker said that it is.
    pub offset: Option<i64>,
    /// Whether the broker said that it has it. If not, no commit promises this record.
    pub acknowledged: bool,
    /// The record that this one was made from: there must be exactly one such output.
    pub input: Option<(Partition, i64)>,
}

/// One thing that a client did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Of one record.
    Send(Send),
    /// By a read-committed consumer or not. Without a time, it returned before the step's end.
    Poll { records: Vec<Record>, uncommitted: bool, at: Option<u64> },
    /// Positions that may have jumped. With an offset: the consumer claims that the next record is
    /// the first committed one from there.
    Assign(Vec<(Partition, Option<i64>)>),
}

/// A transaction, or plain operations with one outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// A client that does one thing after the other.
    pub process: u64,
    /// Its producer's name or transactional id: for people only.
    pub producer: Option<String>,
    /// Whether the sends are one transaction.
    pub transactional: bool,
    pub outcome: Outcome,
    pub start: Option<u64>,
    /// When the client asked to commit, if it did.
    pub commit: Option<u64>,
    /// When the client knew the outcome, or gave up.
    pub end: Option<u64>,
    pub operations: Vec<Operation>,
}

/// All that a read-committed consumer read of a partition when all else was over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalRead {
    pub partition: Partition,
    /// Offsets and values.
    pub records: Vec<(i64, u64)>,
    /// Where the log begins, if its head was deleted: what was below is not missed.
    pub log_start: Option<i64>,
}

/// All that clients saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Of one process in the order they were completed; of several in any.
    pub steps: Vec<Step>,
    /// One of a partition at most.
    pub finals: Vec<FinalRead>,
    /// In the end consumers together polled all partitions to their ends, and what makes outputs
    /// from inputs was done with all of them.
    pub drained: bool,
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Step(Step),
    Final(FinalRead),
    Drained(bool),
}

/// Reads JSON lines; empty ones are skipped.
///
/// # Errors
/// Names the first line that is malformed.
pub fn read_lines(text: &str) -> Result<History, String> {
    let mut history = History::default();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let line = serde_json::from_str(line).map_err(|error| {
            // It says "line 1": of the one line that it was given.
            format!("line {number}: {}", error.to_string().replace("line 1 column", "column"))
        })?;
        match line {
            Line::Step(step) => history.steps.push(step),
            Line::Final(read) => history.finals.push(read),
            Line::Drained(drained) => history.drained = drained,
        }
    }
    Ok(history)
}

/// Who did something: a step, by its index in the history, of a process; or the final read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    Step { step: usize, process: u64 },
    FinalRead,
}

/// What a broker should not have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// Committed, but absent from a final read that covers its place; or read by no one though a
    /// consumer went over its offset without a jump. `read_by`: before it vanished.
    LostWrite { record: Record, writer: Party, passed_by: Party, read_by: Option<Party> },
    /// Committed and not lost, but never polled, though the history is drained.
    Unseen { record: Record, writer: Party },
    /// A value was read at two offsets, or was acknowledged at the other one.
    Duplicate { record: Record, other: i64 },
    /// A read-committed reader got a value of an aborted transaction or a failed send (G1a).
    AbortedRead { record: Record, writer: Party, reader: Party },
    /// A read-committed reader got a transaction's value in this very transaction, or before its
    /// client asked to commit (before it began, if that time is not known).
    PrecommittedRead { record: Record, writer: Party, reader: Party },
    /// A value was read that no one sent to this partition.
    UnsentRead { record: Record, reader: Party },
    /// An offset has different values: each with who was the first to read it there, or no one if
    /// just its acknowledgement says so.
    InconsistentOffsets { partition: Partition, offset: i64, values: Vec<(u64, Option<Party>)> },
    /// From `from` to this record a consumer went over committed values (some are shown) that
    /// someone read there. Internal: within one step.
    PollSkip { internal: bool, record: Record, reader: Party, from: i64, skipped: Vec<(i64, u64)> },
    /// A consumer that was at `from` got this record, which is not behind it.
    NonmonotonicPoll { internal: bool, record: Record, reader: Party, from: i64 },
    /// Of a process's acknowledged sends to a partition this one is not behind the one before.
    NonmonotonicSend { internal: bool, record: Record, writer: Party, from: i64 },
    /// Informational: other records are between two sends of a step.
    SendSkip { record: Record, writer: Party, from: i64 },
    /// Final reads have some values of a transaction and not others, whether its client knew that
    /// it was committed or not.
    TornTransaction { writer: Party, outcome: Outcome, missing: Vec<Record> },
    /// An input has no committed output, though a later one in its partition has, or the history is
    /// drained. With the values that were tried.
    MissingOutput { partition: Partition, offset: i64, tried: Vec<u64> },
    /// An input has several outputs in final reads.
    DuplicateOutput { partition: Partition, offset: i64, values: Vec<u64> },
    /// Steps that are before themselves: a transaction is before the step that read its value, and
    /// a process's step before its next one (G1c). Informational are those in which a transaction
    /// is also before the one with the next record of a partition, and those of only such links
    /// (G0). With the first of the links of reading, or else of writing.
    Cycle { writes_only: bool, links: Vec<(Party, Party)> },
}

impl Anomaly {
    /// Its name, as Jepsen's if Jepsen has one.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::LostWrite { .. } => "lost-write",
            Self::Unseen { .. } => "unseen",
            Self::Duplicate { .. } => "duplicate",
            Self::AbortedRead { .. } => "aborted-read",
            Self::PrecommittedRead { .. } => "precommitted-read",
            Self::UnsentRead { .. } => "unsent-read",
            Self::InconsistentOffsets { .. } => "inconsistent-offsets",
            Self::PollSkip { internal: true, .. } => "int-poll-skip",
            Self::PollSkip { .. } => "poll-skip",
            Self::NonmonotonicPoll { internal: true, .. } => "int-nonmonotonic-poll",
            Self::NonmonotonicPoll { .. } => "nonmonotonic-poll",
            Self::NonmonotonicSend { internal: true, .. } => "int-nonmonotonic-send",
            Self::NonmonotonicSend { .. } => "nonmonotonic-send",
            Self::SendSkip { .. } => "int-send-skip",
            Self::TornTransaction { .. } => "torn-transaction",
            Self::MissingOutput { .. } => "missing-output",
            Self::DuplicateOutput { .. } => "duplicate-output",
            Self::Cycle { writes_only: true, .. } => "g0",
            Self::Cycle { .. } => "g1c",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self:?}", self.name())
    }
}

/// All anomalies of a history, in time that is linear but for sorting.
///
/// # Panics
/// When a value was sent twice.
#[must_use]
pub fn check(history: &History) -> Vec<Anomaly> {
    Checker::check(history, false)
}

/// As [`check`], and what Kafka allows: `int-send-skip` and, since it does not isolate writes of
/// transactions from each other, cycles through write-write links (`g0`, more of `g1c`).
#[must_use]
pub fn check_strictly(history: &History) -> Vec<Anomaly> {
    Checker::check(history, true)
}

/// In place of an index: none; as a step: the final read.
const NONE: u32 = u32::MAX;
/// Of a long list so many are shown.
const SHOWN: usize = 8;

fn small(index: usize) -> u32 {
    u32::try_from(index).ok().filter(|index| *index != NONE).expect("fewer than 2^32 - 1")
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    partition: u32,
    offset: i64,
    value: u64,
}

/// What is somewhere, its send, and who was the first to read it there.
type Spot = (Place, u32, Option<u32>);

/// A send, and what became of it.
#[derive(Clone, Copy, Default)]
struct Sent {
    step: u32,
    /// Where it was first read, else where it was acknowledged, else -1.
    place: Place,
    acknowledged: bool,
    state: Outcome,
    read: Option<u32>,
    /// The step that went over it without a jump.
    passed: Option<u32>,
    polled: bool,
    /// In the final read.
    kept: bool,
}

/// A record that was read.
#[derive(Clone, Copy)]
struct Got {
    step: u32,
    place: Place,
    committed: bool,
    send: u32,
}

/// How far a process got in a partition since its position last jumped.
#[derive(Clone, Copy)]
struct Cursor {
    last: i64,
    step: u32,
    /// Index in the log of what is behind `last`.
    spot: usize,
}

#[derive(Default)]
struct Checker<'a> {
    steps: &'a [Step],
    drained: bool,
    strict: bool,
    numbers: BTreeMap<&'a str, u32>,
    /// By number of the partition, as the final reads.
    names: Vec<&'a str>,
    finals: Vec<Option<&'a FinalRead>>,
    /// As in the history; so are the reads.
    sends: Vec<Sent>,
    reads: Vec<Got>,
    /// Partition and offset of an input, and the send made from it.
    inputs: Vec<(u32, i64, u32)>,
    /// All that is known to be anywhere, in order.
    log: Vec<Spot>,
    /// By process and partition; so is the last acknowledged send's offset and step.
    cursors: BTreeMap<(u64, u32), Cursor>,
    ends: BTreeMap<(u64, u32), (i64, u32)>,
    found: Vec<Anomaly>,
}

impl<'a> Checker<'a> {
    fn check(history: &'a History, strict: bool) -> Vec<Anomaly> {
        let (steps, drained) = (&history.steps, history.drained);
        let mut checker = Self { steps, drained, strict, ..Self::default() };
        checker.collect(&history.finals);
        checker.place();
        checker.walk();
        checker.check_writes();
        checker.check_outputs();
        checker.check_cycles();
        checker.found
    }

    fn number(&mut self, name: &'a str) -> u32 {
        let next = small(self.names.len());
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.names.push(name);
            self.finals.push(None);
        }
        number
    }

    fn collect(&mut self, finals: &'a [FinalRead]) {
        for (step, whole) in (0..).zip(self.steps) {
            for operation in &whole.operations {
                match operation {
                    Operation::Send(one) => {
                        if let Some((name, offset)) = &one.input {
                            let (name, send) = (self.number(name), small(self.sends.len()));
                            self.inputs.push((name, *offset, send));
                        }
                        let &Send { offset, value, acknowledged, .. } = one;
                        let is_safe = !whole.transactional || whole.outcome == Outcome::Committed;
                        let state = match whole.outcome {
                            _ if acknowledged && is_safe => Outcome::Committed,
                            Outcome::Aborted => Outcome::Aborted,
                            _ => Outcome::Unknown,
                        };
                        let offset = offset.map_or(-1, |offset| offset.max(-1));
                        let place = Place { partition: self.number(&one.partition), offset, value };
                        let sent = Sent { step, place, acknowledged, state, ..Sent::default() };
                        self.sends.push(sent);
                    }
                    Operation::Poll { records, uncommitted, .. } => {
                        for &Record { ref partition, offset, value } in records {
                            let place = Place { partition: self.number(partition), offset, value };
                            self.reads.push(Got {
                                step,
                                place,
                                committed: !uncommitted,
                                send: NONE,
                            });
                        }
                    }
                    Operation::Assign(_) => {}
                }
            }
        }
        for read in finals {
            let partition = self.number(&read.partition);
            self.finals[partition as usize] = Some(read);
            for &(offset, value) in &read.records {
                let place = Place { partition, offset, value };
                self.reads.push(Got { step: NONE, place, committed: true, send: NONE });
            }
        }
    }

    fn record(&self, Place { partition, offset, value }: Place) -> Record {
        Record { partition: self.names[partition as usize].to_owned(), offset, value }
    }

    fn party(&self, step: u32) -> Party {
        let of = |step: usize| Some((step, self.steps.get(step)?.process));
        of(step as usize).map_or(Party::FinalRead, |(step, process)| Party::Step { step, process })
    }

    fn reader(&self, read: Option<u32>) -> Option<Party> {
        read.map(|read| self.party(self.reads[read as usize].step))
    }

    /// Finds the send of each read, decides what unknown sends came to, lays out the log.
    fn place(&mut self) {
        let mut values: Vec<_> = self.sends.iter().map(|sent| sent.place.value).zip(0..).collect();
        values.sort_unstable();
        let twice = values.windows(2).find(|pair| pair[0].0 == pair[1].0);
        assert_eq!(twice, None, "a value was sent twice");
        let mut resolved = vec![false; self.steps.len()];
        let mut odd = BTreeSet::new();
        for read in 0..small(self.reads.len()) {
            let Got { step, place, committed, .. } = self.reads[read as usize];
            let found = values.binary_search_by_key(&place.value, |(value, _)| *value);
            let index = found.map_or(NONE, |found| values[found].1);
            let sent = self.sends.get_mut(index as usize);
            let Some(sent) = sent.filter(|sent| sent.place.partition == place.partition) else {
                if odd.insert((place, place.offset)) {
                    self.log.push((place, NONE, Some(read)));
                    let (record, reader) = (self.record(place), self.party(step));
                    self.found.push(Anomaly::UnsentRead { record, reader });
                }
                continue;
            };
            self.reads[read as usize].send = index;
            sent.polled |= step != NONE;
            sent.kept |= step == NONE;
            if committed && sent.state == Outcome::Unknown {
                sent.state = Outcome::Committed;
                resolved[sent.step as usize] = true;
            }
            let (known, is_first) = (sent.place, sent.read.is_none());
            if is_first {
                (sent.place, sent.read) = (place, Some(read));
            }
            if known.offset >= 0 && known != place && odd.insert((place, known.offset)) {
                let (at, read) = if is_first { (known, None) } else { (place, Some(read)) };
                self.log.push((at, index, read));
                let (record, other) = (self.record(place), known.offset);
                self.found.push(Anomaly::Duplicate { record, other });
            }
        }
        for (sent, send) in self.sends.iter_mut().zip(0..) {
            // One visible record of a transaction shows that it was committed.
            let is_unknown = sent.state == Outcome::Unknown && sent.acknowledged;
            if is_unknown && resolved[sent.step as usize] {
                sent.state = Outcome::Committed;
            }
            if sent.place.offset >= 0 {
                self.log.push((sent.place, send, sent.read));
            }
        }
        self.log.sort_unstable();
        self.log.dedup_by_key(|spot| spot.0);
        let of = |spot: &Spot| (spot.0.partition, spot.0.offset);
        for spots in self.log.chunk_by(|a, b| of(a) == of(b)).filter(|spots| spots.len() > 1) {
            let Record { partition, offset, .. } = self.record(spots[0].0);
            let values = spots.iter().map(|(at, _, read)| (at.value, self.reader(*read))).collect();
            self.found.push(Anomaly::InconsistentOffsets { partition, offset, values });
        }
    }

    /// Goes through the history in order.
    fn walk(&mut self) {
        let (mut send, mut read) = (0, 0);
        for (number, step) in (0..).zip(self.steps) {
            for operation in &step.operations {
                match operation {
                    Operation::Send(one) => {
                        self.check_send(self.sends[send], one.offset);
                        send += 1;
                    }
                    Operation::Poll { records, at, .. } => {
                        for _ in records {
                            self.check_read(self.reads[read], at.or(step.end));
                            self.follow(self.reads[read], step.process);
                            read += 1;
                        }
                    }
                    Operation::Assign(assigned) => {
                        for (name, position) in assigned {
                            let key = (step.process, self.number(name));
                            self.cursors.remove(&key);
                            let cursor = position.map(|first| self.start(key.1, first, number));
                            self.cursors.extend(cursor.map(|cursor| (key, cursor)));
                        }
                    }
                }
            }
        }
        for read in read..self.reads.len() {
            self.check_read(self.reads[read], None);
            self.follow(self.reads[read], u64::MAX);
        }
    }

    /// Whether a read-committed reader might see this value, then.
    fn check_read(&mut self, got: Got, at: Option<u64>) {
        let Some(sent) = self.sends.get(got.send as usize) else { return };
        let step = &self.steps[sent.step as usize];
        let (is_own, since) = (sent.step == got.step, step.commit.or(step.start));
        let is_early = is_own || at.zip(since).is_some_and(|(at, since)| at < since);
        let is_aborted = sent.state == Outcome::Aborted;
        if got.committed && (is_aborted || is_early && step.transactional) {
            let (writer, reader) = (self.party(sent.step), self.party(got.step));
            let record = self.record(got.place);
            self.found.push(if is_aborted && !is_own {
                Anomaly::AbortedRead { record, writer, reader }
            } else {
                Anomaly::PrecommittedRead { record, writer, reader }
            });
        }
    }

    /// A cursor that will read this offset next.
    fn start(&self, partition: u32, first: i64, step: u32) -> Cursor {
        let is_before = |(at, ..): &Spot| (at.partition, at.offset) < (partition, first);
        Cursor { last: first - 1, step, spot: self.log.partition_point(is_before) }
    }

    fn follow(&mut self, got: Got, process: u64) {
        let (step, Place { partition, offset, .. }) = (got.step, got.place);
        let cursor = self.cursors.get(&(process, partition)).copied();
        // Where there is no position it may begin anywhere.
        let mut cursor = cursor.unwrap_or_else(|| self.start(partition, offset, step));
        let (from, internal) = (cursor.last, cursor.step == step);
        let told = |checker: &Self| (checker.record(got.place), checker.party(step));
        if offset <= from {
            let (record, reader) = told(self);
            self.found.push(Anomaly::NonmonotonicPoll { internal, record, reader, from });
            cursor = self.start(partition, offset, step);
        }
        let mut skipped = Vec::new();
        while let Some(&(at, index, read)) = self.log.get(cursor.spot)
            && (at.partition, at.offset) <= (partition, offset)
        {
            cursor.spot += 1;
            let is_deleted = self.is_deleted(at);
            let sent = self.sends.get_mut(index as usize).filter(|_| !is_deleted && step != NONE);
            let Some(sent) = sent.filter(|sent| sent.state == Outcome::Committed) else { continue };
            if read.is_none() {
                sent.passed = Some(step);
            } else if at.offset < offset && skipped.len() < SHOWN {
                skipped.push((at.offset, at.value));
            }
        }
        if !skipped.is_empty() {
            let (record, reader) = told(self);
            self.found.push(Anomaly::PollSkip { internal, record, reader, from, skipped });
        }
        (cursor.last, cursor.step) = (offset, step);
        self.cursors.insert((process, partition), cursor);
    }

    fn check_send(&mut self, sent: Sent, offset: Option<i64>) {
        let place = Place { offset: offset.unwrap_or(sent.place.offset), ..sent.place };
        if !sent.acknowledged || place.offset < 0 {
            return;
        }
        let key = (self.steps[sent.step as usize].process, place.partition);
        let before = self.ends.insert(key, (place.offset, sent.step));
        let Some((from, before)) = before else { return };
        let (internal, writer) = (before == sent.step, self.party(sent.step));
        let record = self.record(place);
        if place.offset <= from {
            self.found.push(Anomaly::NonmonotonicSend { internal, record, writer, from });
        } else if self.strict && internal {
            let next = self.log[self.start(key.1, from + 1, NONE).spot].0.offset;
            let skip = Anomaly::SendSkip { record, writer, from };
            self.found.extend((next < place.offset).then_some(skip));
        }
    }

    /// Whether it was in a log's head that was deleted, if not known otherwise.
    fn is_deleted(&self, place: Place) -> bool {
        self.finals[place.partition as usize].and_then(|one| one.log_start)
            > Some(place.offset.max(0))
    }

    /// Whether a final read should have it and has not.
    fn is_missing(&self, sent: &Sent) -> bool {
        let is_read = self.finals[sent.place.partition as usize].is_some();
        is_read && !sent.kept && !self.is_deleted(sent.place)
    }

    /// What was committed must stay, and be seen, and be all of a transaction.
    fn check_writes(&mut self) {
        let mut found = Vec::new();
        for sends in self.sends.chunk_by(|a, b| a.step == b.step) {
            let step = &self.steps[sends[0].step as usize];
            let (writer, outcome) = (self.party(sends[0].step), step.outcome);
            let committed = || sends.iter().filter(|sent| sent.state == Outcome::Committed);
            let missing = committed().filter(|sent| self.is_missing(sent));
            let missing: Vec<_> = missing.map(|sent| self.record(sent.place)).collect();
            let is_partial = !missing.is_empty() && sends.iter().any(|sent| sent.kept);
            let is_torn = step.transactional && is_partial;
            if is_torn {
                found.push(Anomaly::TornTransaction { writer, outcome, missing });
            }
            for sent in committed() {
                if self.is_missing(sent) || sent.read.is_none() && sent.passed.is_some() {
                    // If nobody knows that it was committed, it is not known which half is wrong.
                    if !is_torn || outcome == Outcome::Committed {
                        let (record, read_by) = (self.record(sent.place), self.reader(sent.read));
                        let passed_by = self.party(sent.passed.unwrap_or(NONE));
                        found.push(Anomaly::LostWrite { record, writer, passed_by, read_by });
                    }
                } else if self.drained && !sent.polled && !self.is_deleted(sent.place) {
                    found.push(Anomaly::Unseen { record: self.record(sent.place), writer });
                }
            }
        }
        self.found.extend(found);
    }

    /// Each input has one output.
    fn check_outputs(&mut self) {
        let mut inputs = std::mem::take(&mut self.inputs);
        inputs.sort_unstable();
        for inputs in inputs.chunk_by(|a, b| a.0 == b.0) {
            let name = self.names[inputs[0].0 as usize];
            let (mut present, mut attempts) = (BTreeSet::new(), BTreeMap::new());
            for &(_, offset, send) in inputs {
                let sent = &self.sends[send as usize];
                attempts.entry(offset).or_insert_with(Vec::new).push(sent);
                // What the final reads could not show counts too.
                if sent.kept || sent.state != Outcome::Aborted && !self.is_missing(sent) {
                    present.insert(offset);
                }
            }
            let mut all: BTreeSet<i64> = attempts.keys().copied().collect();
            let read = self.finals[inputs[0].0 as usize].map(|read| &read.records);
            all.extend(read.into_iter().flatten().map(|record| record.0));
            for offset in all {
                let sent = attempts.get(&offset).into_iter().flatten();
                let kept = sent.clone().filter(|sent| sent.kept).map(|sent| sent.place.value);
                let (partition, values) = (name.to_owned(), kept.collect::<Vec<_>>());
                let is_due = self.drained || present.last() > Some(&offset);
                if values.len() > 1 {
                    self.found.push(Anomaly::DuplicateOutput { partition, offset, values });
                } else if is_due && !present.contains(&offset) {
                    let tried = sent.map(|sent| sent.place.value).collect();
                    self.found.push(Anomaly::MissingOutput { partition, offset, tried });
                }
            }
        }
    }

    /// Cycles through what certainly orders steps; strictly, also through writes.
    fn check_cycles(&mut self) {
        let commits = |send: u32| {
            let sent = self.sends.get(send as usize)?;
            let is_transaction = self.steps[sent.step as usize].transactional;
            (is_transaction && sent.state == Outcome::Committed).then_some(sent.step)
        };
        // Plain sends are left out: one may be read before its step is over.
        let reads = self.reads.iter().filter(|got| got.committed && got.step != NONE);
        let mut reads: Vec<_> =
            reads.filter_map(|got| Some((commits(got.send)?, got.step))).collect();
        reads.dedup();
        // The order of a process is sound here: where a read links from, its step commits; where it
        // links to, its step is under way.
        let (mut order, mut last) = (Vec::new(), BTreeMap::new());
        for (step, number) in self.steps.iter().zip(0..) {
            order.extend(last.insert(step.process, number).map(|before| (before, number)));
        }
        if self.strict {
            let of_commit = |spot: &Spot| Some((spot.0.partition, commits(spot.1)?));
            let spots: Vec<_> = self.log.iter().filter_map(of_commit).collect();
            let pairs = spots.windows(2).filter(|pair| pair[0].0 == pair[1].0);
            let writes: Vec<_> = pairs.map(|pair| (pair[0].1, pair[1].1)).collect();
            self.find_cycles(&writes, &[], true);
            order.extend(writes);
        }
        self.find_cycles(&reads, &order, false);
    }

    /// Tells of cycles through these links and perhaps others.
    fn find_cycles(&mut self, links: &[(u32, u32)], others: &[(u32, u32)], writes_only: bool) {
        let mut to = vec![Vec::new(); self.steps.len()];
        for link in links.iter().chain(others) {
            to[link.0 as usize].push(link.1);
        }
        let lots = components(&to);
        let mut cycles = BTreeMap::<u32, Vec<_>>::new();
        for &(from, to) in links {
            if from != to && lots[from as usize] == lots[to as usize] {
                let links = cycles.entry(lots[from as usize]).or_default();
                let link = (self.party(from), self.party(to));
                links.extend((links.len() < SHOWN).then_some(link));
            }
        }
        self.found.extend(cycles.into_values().map(|links| Anomaly::Cycle { writes_only, links }));
    }
}

/// The number of each node's strongly connected component: Tarjan's way, but with a stack of its
/// own, because paths have a million nodes.
fn components(to: &[Vec<u32>]) -> Vec<u32> {
    let mut lots = vec![NONE; to.len()];
    let (mut order, mut low) = (lots.clone(), lots.clone());
    let (mut visited, mut count, mut open, mut calls) = (0, 0, Vec::new(), Vec::new());
    for root in 0..to.len() {
        calls.extend((order[root] == NONE).then_some((root, 0)));
        while let Some(&mut (node, ref mut next)) = calls.last_mut() {
            if order[node] == NONE {
                (order[node], low[node]) = (visited, visited);
                visited += 1;
                open.push(node);
            }
            if let Some(child) = to[node].get(*next).map(|child| *child as usize) {
                *next += 1;
                if order[child] == NONE {
                    calls.push((child, 0));
                } else if lots[child] == NONE {
                    low[node] = low[node].min(order[child]);
                }
                continue;
            }
            calls.pop();
            if let Some(&(caller, _)) = calls.last() {
                low[caller] = low[caller].min(low[node]);
            }
            if low[node] == order[node] {
                let first = open.iter().rposition(|one| *one == node).expect("still open");
                open.drain(first..).for_each(|member| lots[member] = count);
                count += 1;
            }
        }
    }
    lots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(word: &str) -> Operation {
        let (partition, acknowledged) = (word[1..2].to_owned(), !word.starts_with('~'));
        let (offset, value) = word[2..].split_once('=').unwrap_or((&word[2..], "0"));
        let (value, input) = value.split_once('<').unwrap_or((value, ""));
        let (offset, value) = (offset.parse().ok(), value.parse().unwrap());
        let input = input.split_at_checked(1).map(|(of, at)| (of.to_owned(), at.parse().unwrap()));
        let record = Record { partition: partition.clone(), offset: offset.unwrap_or(-1), value };
        match &word[..1] {
            "!" => Operation::Assign(vec![(partition, offset)]),
            "+" | "~" => Operation::Send(Send { partition, value, offset, acknowledged, input }),
            kind => Operation::Poll { records: vec![record], uncommitted: kind == "*", at: None },
        }
    }

    /// `1C` is a committed step of process 1, others `A`borted, `U`nknown, `P`lain; `+` is a send,
    /// `~` without acknowledgement, `-` a poll, `*` an uncommitted one, `!` an assignment: with
    /// partition, offset, value and input. `F` is a final read, `D`: drained.
    fn history(text: &str) -> History {
        let mut history = History { drained: text.ends_with('D'), ..History::default() };
        let mut times = 0..if history.drained { u64::MAX } else { 0 };
        for (head, rest) in text.split(" | ").filter_map(|part| part.split_at_checked(2)) {
            let ((first, kind), words) = (head.split_at(1), rest.split_whitespace());
            if first == "F" {
                let pairs = words.filter_map(|word| word.split_once('='));
                let records = pairs.map(|(at, one)| (at.parse().unwrap(), one.parse().unwrap()));
                let log_start = rest.split_once('^').map(|(_, start)| start.parse().unwrap());
                let (partition, records) = (kind.to_owned(), records.collect());
                history.finals.push(FinalRead { partition, records, log_start });
            } else {
                let outcome = [Outcome::Committed, Outcome::Aborted, Outcome::Unknown];
                let outcome = outcome["CAU".find(kind).unwrap_or(0)];
                let (process, transactional) = (first.parse().unwrap(), kind != "P");
                let (operations, end) = (words.map(operation).collect(), times.next());
                let step = Step { process, transactional, outcome, operations, ..Step::default() };
                history.steps.push(Step { commit: end, end, ..step });
            }
        }
        history
    }

    fn names(found: &[Anomaly]) -> String {
        let names: BTreeSet<_> = found.iter().map(Anomaly::name).collect();
        names.into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_planted_anomaly_is_named_and_no_other() {
        for (expected, text) in [
            ("lost-write", "1P +a0=1 +a1=2 +a2=3 | 2P -a0=1 | 2P -a2=3"),
            ("lost-write", "1P +a0=1 +a5=2 | 2P !a0 -a5=2"),
            ("lost-write", "1P +a?=1 +a1=2 | Fa 1=2"),
            ("lost-write", "1U +a0=1 +a1=2 | 2P -a0=1 | Fa "),
            ("duplicate", "1P +a0=1 | Fa 0=1 1=1"),
            ("duplicate", "1P +a0=1 | 2P -a1=1"),
            ("aborted-read", "1A +a0=1 | 2P -a0=1"),
            ("precommitted-read", "1C +a0=1 -a0=1"),
            ("precommitted-read", "2P -a0=1 | 1C +a0=1 | D"),
            ("unsent-read", "1P +a0=1 | 2P -a0=1 -a1=9"),
            ("lost-write unsent-read", "1P +a0=1 | Fb 0=1 | Fa "),
            ("inconsistent-offsets", "1P +a?=1 | 4P +a?=2 | 2P -a0=1 | 3P -a0=2"),
            ("inconsistent-offsets", "1A +a0=1 | 4P +a?=2 | Fa 0=2"),
            ("unseen", "1P +a0=1 +a1=2 | 2P -a0=1 | Fa 0=1 1=2 | D"),
            ("poll-skip", "1P +a0=1 +a1=2 +a2=3 | Fa 0=1 1=2 2=3 | 3P -a0=1 | 3P -a2=3"),
            ("poll-skip", "1P +a0=1 +a1=2 | Fa 0=1 1=2 | 2P !a0 | 2P -a1=2"),
            ("int-poll-skip", "1P +a0=1 +a1=2 +a2=3 | 3P -a1=2 | 2P -a0=1 -a2=3"),
            ("nonmonotonic-poll", "1P +a0=1 +a1=2 | 2P -a0=1 -a1=2 | 2P -a1=2"),
            ("int-nonmonotonic-poll", "1P +a0=1 +a1=2 | 2P -a1=2 -a0=1"),
            ("nonmonotonic-send", "1P +a5=1 | 1C +a3=2"),
            ("int-nonmonotonic-send", "1C +a5=1 +a3=2"),
            ("lost-write torn-transaction", "1C +a0=1 +b0=2 | Fa 0=1 | Fb "),
            ("torn-transaction", "1U +a0=1 +b0=2 | Fa 0=1 | Fb "),
            ("missing-output", "1P +i0=1 +i1=2 | 2C -i0=1 -i1=2 +b0=3<i1 | Fi 0=1 1=2 | Fb 0=3"),
            ("missing-output", "1P +i0=1 | 2A -i0=1 +b0=3<i0 | 3P -i0=1 | Fb  | D"),
            ("duplicate-output", "1P +i0=1 | 2C +b0=3<i0 | 2C +b2=4<i0 | Fb 0=3 2=4"),
            ("g1c", "1C +a0=1 -b0=2 | 2C +b0=2 -a0=1"),
            ("g1c", "1C -b0=2 | 1C +a0=1 | 2C -a0=1 +b0=2"),
        ] {
            let found = check(&history(text));
            assert_eq!(names(&found), expected, "{text}\n{found:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_named_only_if_asked_for() {
        for (strictly, text) in [
            // After an assignment, before the log's start.
            ("", "1P +a0=1 +a1=2 +a2=3 | Fa 0=1 1=2 2=3 | 2P -a0=1 | 2P !a -a2=3 !a -a1=2"),
            ("", "1P +a0=1 +a1=2 +a2=3 +b?=4 | Fa 2=3 ^2 | 2P -a0=1 -a2=3 | Fb ^1 | D"),
            // What is not known may be, all of it, or not be.
            ("", "1U +a0=1 +b0=2 | 1P ~a?=3 | 1C ~a?=4 +c0=5 | Fa  | Fb  | Fc 0=5"),
            ("", "1U +a0=1 +b0=2 | 1P ~a?=3 | 1C ~a?=4 | Fa 0=1 2=3 3=4 | Fb 0=2"),
            // Aborted records and outputs; uncommitted and plain ones are read at once.
            ("", "1A +a0=1 *a0=1 | 1P +a2=2 | 2P *a0=1 *a2=2 | 3P !a0 -a2=2 | Fa 2=2 | D"),
            ("", "1P +i0=1 +i1=2 | 2A +b0=3<i0 | 2C +b2=4<i0 | Fb 2=4 | Fi 0=1 1=2"),
            ("", "1P +a0=1 -b0=2 -a0=1 | 2P +b0=2 -a0=1"),
            ("int-send-skip", "1C +a0=1 +a2=3 | 2P +a1=2"),
            ("g0", "1C +a0=1 +b1=2 | 2C +b0=3 +a1=4"),
            ("g1c", "1C +a0=1 -b0=2 | 2C +a1=3 +b0=2"),
        ] {
            assert_eq!(check(&history(text)), [], "{text}");
            assert_eq!(names(&check_strictly(&history(text))), strictly, "{text}");
        }
    }

    /// A broker in memory and clients whose operations interleave.
    #[derive(Default)]
    struct Rig {
        random: u64,
        /// Each byte a record: `C`ommitted, `A`borted or a marker, or of a process's transaction.
        logs: [Vec<u8>; 4],
        positions: [[usize; 4]; 9],
        words: [String; 9],
        text: String,
    }

    impl Rig {
        fn below(&mut self, limit: usize) -> usize {
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (self.random >> 33) as usize % limit
        }

        fn send(&mut self, process: usize, to: usize, input: &str) {
            let offset = self.logs[to].len();
            self.words[process] += &format!(" +{to}{offset}={}{input}", offset * 4 + to);
            self.logs[to].push(if process == 3 { b'C' } else { process as u8 });
        }

        fn poll(&mut self, process: usize, from: usize, most: usize) -> Vec<usize> {
            let (mut offsets, position) = (Vec::new(), &mut self.positions[process][from]);
            while offsets.len() < most
                && let Some(state @ (b'A' | b'C')) = self.logs[from].get(*position)
            {
                if *state == b'C' {
                    self.words[process] += &format!(" -{from}{position}={}", *position * 4 + from);
                    offsets.push(*position);
                }
                *position += 1;
            }
            offsets
        }

        /// 0 to 2 have transactions, 3 plain sends; 4 and 5 make outputs of inputs; 6, 7 only poll.
        fn tick(&mut self, process: usize) {
            let of = self.below(4);
            if self.words[process].len() > 20 + self.below(90) {
                self.finish(process);
            } else if let 4 | 5 = process {
                let from = process - 4;
                self.words[process] += &format!(" !{from}{}", self.positions[process][from]);
                for offset in self.poll(process, from, 3) {
                    self.send(process, process - 2, &format!("<{from}{offset}"));
                }
            } else if process > 5 || self.below(3) == 0 {
                self.poll(process, of, 5);
            } else {
                self.send(process, of % 2, "");
            }
        }

        fn finish(&mut self, process: usize) {
            let fates = [(b'A', 'A'), (b'A', 'U'), (b'C', 'U'), (b'C', 'C')];
            let fate = fates[self.below(9).min(3)];
            let (state, outcome) = if let 3 | 6.. = process { (b'C', 'P') } else { fate };
            let words = std::mem::take(&mut self.words[process]);
            if let (b'A', 4 | 5, Some(begin)) = (state, process, words.get(3..)) {
                let position = begin.split(' ').next().unwrap().parse().unwrap();
                self.positions[process][process - 4] = position;
            }
            for log in &mut self.logs {
                log.iter_mut().filter(|of| **of == process as u8).for_each(|of| *of = state);
                log.push(b'A');
            }
            self.text += &format!("{process}{outcome}{words} | ");
        }
    }

    fn generated(seed: u64) -> History {
        let mut rig = Rig { random: seed, ..Rig::default() };
        for tick in 0..8_000 {
            // In the end the rest of the inputs is processed.
            let process = if tick < 6_000 { rig.below(8) } else { 4 + tick % 2 };
            rig.tick(process);
            if tick == 6_000 || tick == 7_999 {
                (0..8).for_each(|process| rig.finish(process));
            }
        }
        for from in 0..4 {
            let offsets = rig.poll(8, from, usize::MAX).into_iter();
            let words = offsets.map(|offset| format!(" {offset}={}", offset * 4 + from));
            rig.text += &format!("F{from}{} | ", words.collect::<String>());
        }
        rig.finish(8);
        history(&(rig.text + "D"))
    }

    #[test]
    fn generated_histories_are_clean_until_one_anomaly_is_planted() {
        for seed in 1..20 {
            assert_eq!(check(&generated(seed)), [], "{seed}");
        }
        // Nor has a long path, for which a stack of calls would not do.
        let steps = vec![Step::default(); 1_000_000];
        assert_eq!(check(&History { steps, ..History::default() }), []);
        let clean = generated(20);
        assert_eq!(names(&check_strictly(&clean)), "g0 g1c int-send-skip");
        let (offset, value) = clean.finals[2].records[9];
        let word = operation(&format!("-2{offset}={value}"));
        let each = |h: &mut History, f: &dyn Fn(&mut Step)| h.steps.iter_mut().for_each(f);
        let hide = |h: &mut History| each(h, &|step| step.operations.retain(|one| *one != word));
        let lose = |h: &mut History| h.finals[2].records.retain(|one| one.1 != value);
        let repeat = |h: &mut History| {
            let input = h.finals[0].records[9].0;
            h.steps.extend(history(&format!("9P +299999=99999<0{input}")).steps);
            h.finals[2].records.push((99_999, 99_999));
        };
        let reverse = |h: &mut History| each(h, &|step| step.operations.reverse());
        let plants: [(&str, &dyn Fn(&mut History)); 11] = [
            ("lost-write torn-transaction missing-output", &lose),
            ("unseen", &hide),
            ("duplicate", &|h| h.finals[2].records.push((99_999, value))),
            ("duplicate-output", &repeat),
            ("unsent-read inconsistent-offsets", &|h| h.finals[2].records[9].1 = 99_999),
            ("aborted-read", &|h| each(h, &|step| step.outcome = Outcome::Aborted)),
            ("precommitted-read", &|h| each(h, &|step| step.commit = Some(99_999))),
            ("int-poll-skip", &|h| drop(h.steps.last_mut().unwrap().operations.remove(9))),
            ("poll-skip", &|h| h.steps.retain(|one| one.process != 6 || one.end.unwrap() % 2 > 0)),
            ("int-nonmonotonic-poll int-nonmonotonic-send", &reverse),
            ("g1c nonmonotonic-poll nonmonotonic-send", &|h| h.steps.reverse()),
        ];
        for (expected, plant) in plants {
            let mut history = clean.clone();
            plant(&mut history);
            let found = names(&check(&history));
            let is_named = |name| found.split(' ').any(|one| one == name);
            assert!(expected.split(' ').all(is_named), "{expected}: {found}");
        }
    }

    #[test]
    fn json_lines_are_read_and_faults_are_located() {
        let lines = include_str!("history.rs").lines().filter_map(|line| line.strip_prefix("//! "));
        let lines: Vec<_> = lines.skip_while(|line| *line != "```json").skip(1).take(6).collect();
        let text = format!("{}\n\n{}\n{}", lines[..4].concat(), lines[4], lines[5]);
        let history = read_lines(&text).unwrap();
        assert_eq!((history.finals[0].log_start, history.drained), (Some(8), true));
        let step = serde_json::to_string(&Line::Step(history.steps[0].clone())).unwrap();
        assert_eq!(read_lines(&step).unwrap().steps, history.steps);
        for (from, to, expected) in [
            ("true}", "true", "line 4: EOF while parsing an object at column 15"),
            ("log_start", "begin", "line 3: unknown field `begin`, expected one of"),
            ("\"process\":1,", "", "line 1: missing field `process` at column"),
        ] {
            let error = read_lines(&text.replace(from, to)).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
