//! Consumers: members of groups; what they are assigned is fetched from the leaders, every record
//! looked at.

use crate::judge::result::Anomaly;
use crate::options::args::{Args, Isolation, OffsetReset, Verify};
use crate::work::envelope::{Envelope, is_intact};
use crate::work::histogram::Latency;
use crate::work::layout::Layout;
use crate::work::member::Member;
use crate::work::progress::{INTERVAL, Interval, Kind, PartitionPlace, Progress, Window};
use crate::work::verifier::{Seen, Verdict};
use client::{Connection, describe, end_offsets};
use model::{ErrorCode, RecordBatch, TopicRef};
use runtime::buffer::{ChunkPool, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::timer;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::time::Duration;
use wire::ApiKey;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::header::{finish_frame, read_response_header};

/// Up to here loadgen fetches by topic name.
const FETCH_VERSION_MAX: i16 = 12;
/// Anomalies that a consumer tells with their offsets; all are counted.
const ANOMALIES_MAX: usize = 200;
const RETRY: Duration = Duration::from_millis(100);

/// A record's time since its plan, on the run's clock; 0 where two clocks disagree by more.
fn latency(at: Nanos, planned: Nanos) -> u64 {
    at.0.saturating_sub(planned.0)
}

/// What a consumer found, for the report.
#[derive(Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct ConsumerOutcome {
    /// From plan to receipt, measured window only.
    pub(crate) e2e: Latency,
    /// The part of `e2e` since the last interval was sent off.
    e2e_interval: Latency,
    pub(crate) warmup_e2e: Latency,
    /// Records planned in the window that were received.
    pub(crate) consumed: u64,
    /// Received within the window, whenever planned.
    pub(crate) consumed_in_window: u64,
    pub(crate) bytes_in_window: u64,
    /// Received before they were planned, by two machines' clocks.
    pub(crate) before_plan: u64,
    pub(crate) duplicates: u64,
    pub(crate) out_of_order: u64,
    pub(crate) corrupt: u64,
    pub(crate) foreign: u64,
    pub(crate) fetches: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Assignments this member had.
    pub(crate) rebalances: u64,
    pub(crate) anomalies: Vec<Anomaly>,
    /// Of the current assignment, by slot and producer.
    #[serde(skip)]
    seen: BTreeMap<(usize, u32), Seen>,
    /// Of each assignment that is over, by group, slot and producer.
    pub(crate) sessions: Vec<((usize, usize, u32), Seen)>,
}

impl ConsumerOutcome {
    /// Keeps what is not as it should be, up to a number.
    fn tell(&mut self, what: Anomaly) {
        if self.anomalies.len() < ANOMALIES_MAX {
            self.anomalies.push(what);
        }
    }

    fn count(&mut self, why: String) {
        *self.errors.entry(why).or_default() += 1;
    }
}

/// One member of a group.
pub(crate) struct Consumer {
    pub(crate) args: Arc<Args>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) run: u64,
    pub(crate) bootstrap: String,
    /// Which group, from 0.
    pub(crate) group: usize,
    /// Which member of it, from 0.
    pub(crate) number: usize,
    /// Added to this machine's clock to get the run's.
    pub(crate) clock_offset: i64,
    pub(crate) progress: Arc<Progress>,
    /// Where the run begins in each partition.
    pub(crate) starts: Arc<Vec<i64>>,
    pub(crate) intervals: Sender<Interval>,
}

/// The id of a run's group.
pub(crate) fn group_id(run: u64, group: usize) -> String {
    format!("loadgen-{run:012x}-{group}")
}

/// Fetching that goes on until it is told to stop.
#[derive(Default)]
struct Session {
    stop: Cell<bool>,
    running: Cell<usize>,
    /// Until when the member is busy with records it has.
    busy_until: Cell<u64>,
    /// Leaders moved: the fetchers must be set up anew.
    moved: Cell<bool>,
    changed: Notify,
}

impl Consumer {
    fn place(&self, slot: usize) -> &PartitionPlace {
        &self.progress.places[self.group * self.layout.slots() + slot]
    }

    /// Adds what was timed since the last call to the whole, and shows it to the main thread.
    fn send_interval(&self, outcome: &RefCell<ConsumerOutcome>) {
        let mut outcome = outcome.borrow_mut();
        let interval = std::mem::take(&mut outcome.e2e_interval);
        outcome.e2e.add(&interval);
        if interval.count() > 0 {
            let _ = self.intervals.send(Interval { kind: Kind::EndToEnd, latency: interval });
        }
    }

    /// When this member comes and goes, if the group grows and shrinks.
    fn stay(&self) -> (f64, f64) {
        let count = self.args.consumer_count() as f64;
        if self.args.scale_consumers && self.number > 0 {
            let share = self.number as f64 / count;
            (share / 2.0, 1.0 - share / 2.0)
        } else {
            (0.0, f64::INFINITY)
        }
    }

    /// How much of the run is over: 0 at its start, 1 at its end.
    fn elapsed(&self) -> f64 {
        let Some(window) = self.progress.window.get() else { return 0.0 };
        let (start, end) = (self.progress.starts_at(), window.end());
        clock::now().since(start) as f64 / end.since(start).max(1) as f64
    }

    fn may_come(&self, comes: f64) -> bool {
        if !self.args.is_late(self.group) {
            return self.elapsed() >= comes;
        }
        let known = self.progress.window.get().is_some();
        known && clock::now() >= self.progress.starts_at() + self.args.late_after
    }

    /// Joins, consumes and commits until told to stop.
    pub(crate) async fn run(self) -> Result<ConsumerOutcome, String> {
        let me = Rc::new(self);
        let outcome = Rc::new(RefCell::new(ConsumerOutcome::default()));
        let (ticking, ticked) = (Rc::clone(&me), Rc::clone(&outcome));
        runtime::spawn(async move {
            loop {
                timer::sleep(INTERVAL).await;
                ticking.send_interval(&ticked);
            }
        });
        let (comes, goes) = me.stay();
        while !me.may_come(comes) && !me.progress.consumers_stopping() {
            timer::sleep(Duration::from_millis(20)).await;
        }
        let mut member = Member::new(
            &me.args,
            me.bootstrap.clone(),
            group_id(me.run, me.group),
            Arc::clone(&me.layout),
        );
        let over = || me.progress.consumers_stopping() || me.elapsed() >= goes;
        while !over() {
            let mut errors = BTreeMap::new();
            let joined = member.join(&mut errors, over).await;
            for (why, count) in errors {
                *outcome.borrow_mut().errors.entry(why).or_default() += count;
            }
            let Some(assigned) = joined? else { break };
            outcome.borrow_mut().rebalances += 1;
            if let Err(why) = me.consume(&mut member, assigned, &outcome, over).await {
                outcome.borrow_mut().count(why);
                timer::sleep(RETRY).await;
            }
        }
        member.leave().await;
        me.send_interval(&outcome);
        let outcome = std::mem::take(&mut *outcome.borrow_mut());
        Ok(outcome)
    }

    /// Who leads each slot now, as far as anyone tells.
    async fn leaders(&self) -> Vec<String> {
        let mut leaders = Vec::new();
        let asked = async {
            let mut connection = Connection::open(&self.bootstrap, &self.args.client_id).await?;
            for topic in &self.layout.topics {
                leaders.extend(describe(&mut connection, topic).await?.ok_or("no leader")?.leaders);
            }
            Ok::<_, String>(())
        };
        let known = asked.await.is_ok() && leaders.len() == self.layout.slots();
        if known { leaders } else { self.layout.leaders.clone() }
    }

    /// Where to begin where nothing is committed.
    async fn begin(&self, slot: usize) -> Result<i64, String> {
        if self.args.is_late(self.group) && self.args.auto_offset_reset == OffsetReset::Latest {
            let (topic, partition) = self.layout.place(slot);
            let leader = &self.layout.leaders[slot];
            let mut connection = Connection::open(leader, &self.args.client_id).await?;
            let ends = end_offsets(&mut connection, topic, &[partition]).await?;
            return ends
                .get(&partition)
                .copied()
                .ok_or_else(|| "the end offset is not known".to_owned());
        }
        Ok(self.starts.get(slot).copied().unwrap_or(0))
    }

    /// Consumes an assignment until it is not valid any more.
    async fn consume(
        self: &Rc<Self>,
        member: &mut Member,
        assigned: Vec<usize>,
        outcome: &Rc<RefCell<ConsumerOutcome>>,
        over: impl Fn() -> bool,
    ) -> Result<(), String> {
        let committed = member.committed(&assigned).await?;
        for (&slot, committed) in assigned.iter().zip(committed) {
            let offset = if committed >= 0 { committed } else { self.begin(slot).await? };
            self.place(slot).position.store(offset, Relaxed);
        }
        let positions = || -> Vec<(usize, i64)> {
            assigned.iter().map(|slot| (*slot, self.place(*slot).position.load(Relaxed))).collect()
        };
        self.progress.members_ready.fetch_add(1, Relaxed);
        let beat_every = Duration::from_millis(self.args.heartbeat_interval_ms);
        let commit_every = Duration::from_millis(self.args.auto_commit_interval_ms);
        let (mut beat_at, mut commit_at) = (clock::now() + beat_every, clock::now() + commit_every);
        let mut leaders = self.layout.leaders.clone();
        let mut valid = true;
        while valid && !over() {
            let session = self.fetch_from(&leaders, &positions(), outcome).await;
            while !over() && !session.moved.get() {
                timer::sleep(Duration::from_millis(20).min(beat_every)).await;
                let now = clock::now();
                if now >= beat_at {
                    beat_at = now + beat_every;
                    match member.heartbeat().await {
                        Ok(true) => {}
                        Ok(false) => {
                            valid = false;
                            break;
                        }
                        Err(why) => outcome.borrow_mut().count(why),
                    }
                }
                if now >= commit_at {
                    commit_at = now + commit_every;
                    if let Err(why) = member.commit(&positions()).await {
                        outcome.borrow_mut().count(why);
                    }
                }
            }
            session.stop.set(true);
            session.changed.until(|| (session.running.get() == 0).then_some(())).await;
            if session.moved.get() {
                timer::sleep(RETRY).await;
                leaders = self.leaders().await;
            }
        }
        self.progress.members_ready.fetch_sub(1, Relaxed);
        // What this assignment saw is kept apart: the next one may see some of it again.
        let seen = std::mem::take(&mut outcome.borrow_mut().seen);
        let group = self.group;
        let sessions =
            seen.into_iter().map(|((slot, producer), seen)| ((group, slot, producer), seen));
        outcome.borrow_mut().sessions.extend(sessions);
        if let Err(why) = member.commit(&positions()).await {
            // What was read since the last commit comes again.
            outcome.borrow_mut().count(why);
        }
        Ok(())
    }

    /// Starts a fetcher per leader.
    async fn fetch_from(
        self: &Rc<Self>,
        leaders: &[String],
        positions: &[(usize, i64)],
        outcome: &Rc<RefCell<ConsumerOutcome>>,
    ) -> Rc<Session> {
        let mut by_leader: BTreeMap<&str, Vec<(usize, i64)>> = BTreeMap::new();
        for &(slot, offset) in positions {
            by_leader.entry(&leaders[slot]).or_default().push((slot, offset));
        }
        let session = Rc::new(Session::default());
        for (leader, asks) in by_leader {
            let (me, outcome) = (Rc::clone(self), Rc::clone(outcome));
            let (session, leader) = (Rc::clone(&session), leader.to_owned());
            session.running.set(session.running.get() + 1);
            runtime::spawn(async move {
                me.follow(leader, asks, &outcome, &session).await;
                session.running.set(session.running.get() - 1);
                session.changed.notify();
            });
        }
        session
    }

    fn limits(&self) -> FetchLimits {
        FetchLimits {
            max_wait_ms: self.args.fetch_max_wait_ms,
            min_bytes: self.args.fetch_min_bytes,
            max_bytes: 50 * 1024 * 1024,
            partition_max_bytes: self.args.max_partition_fetch_bytes,
            read_committed: self.args.isolation_level == Isolation::ReadCommitted,
        }
    }

    async fn follow(
        &self,
        leader: String,
        mut asks: Vec<(usize, i64)>,
        outcome: &RefCell<ConsumerOutcome>,
        session: &Session,
    ) {
        asks.sort_unstable();
        let mut out = Vec::new();
        let mut scratch = Vec::new();
        let mut pool = ChunkPool::new(64 * 1024, 4, 1);
        let mut pieces: Vec<SharedBytes> = Vec::new();
        let mut connection: Option<Connection> = None;
        while !session.stop.get() {
            let fetched = async {
                if connection.is_none() {
                    connection = Some(Connection::open(&leader, &self.args.client_id).await?);
                }
                let connection = connection.as_mut().expect("made above");
                let version = connection.version(ApiKey::Fetch, FETCH_VERSION_MAX)?;
                out.clear();
                connection.begin(&mut out, ApiKey::Fetch, version);
                let asked = asks.iter().map(|&(slot, offset)| {
                    let (topic, partition) = self.layout.place(slot);
                    (TopicRef::Name(topic), FetchAsk { partition, offset })
                });
                fetch::put_topics_request(&mut out, version, self.limits(), asked);
                finish_frame(&mut out, 0, 0);
                if out.len() <= 64 * 1024 {
                    let mut chunk = pool.take_or_grow();
                    chunk.append(&out);
                    pieces.push(chunk.share(0..out.len()));
                    pool.retire(chunk);
                } else {
                    pieces.push(SharedBytes::copy_of(&out));
                }
                connection.socket.send(&mut pieces).await.map_err(|error| error.to_string())?;
                let frame = connection.receive().await?;
                Ok::<_, String>((version, frame))
            }
            .await;
            let result = fetched.and_then(|(version, frame)| {
                self.on_response(&frame, version, &mut asks, &mut scratch, outcome, session)
            });
            match result {
                Ok(true) => {
                    let busy_until = Nanos(session.busy_until.get());
                    while busy_until > clock::now() && !session.stop.get() {
                        let step = clock::now() + RETRY;
                        timer::sleep_until(busy_until.min(step)).await;
                    }
                }
                Ok(false) => timer::sleep(Duration::from_millis(50)).await,
                Err(why) => {
                    connection = None;
                    if !session.stop.get() {
                        outcome.borrow_mut().count(why);
                        timer::sleep(RETRY).await;
                        // Someone else may lead now.
                        session.moved.set(true);
                        return;
                    }
                }
            }
        }
    }

    /// Takes in one response; false if a partition had an error that may pass.
    fn on_response(
        &self,
        frame: &[u8],
        version: i16,
        asks: &mut [(usize, i64)],
        scratch: &mut Vec<u8>,
        outcome: &RefCell<ConsumerOutcome>,
        session: &Session,
    ) -> Result<bool, String> {
        let now = clock::now();
        let mut outcome = outcome.borrow_mut();
        let outcome = &mut *outcome;
        outcome.fetches += 1;
        let mut fine = true;
        let malformed = |error| format!("malformed fetch response: {error}");
        let (_, body) = read_response_header(frame, ApiKey::Fetch, version).map_err(malformed)?;
        let mut taker = Taker {
            consumer: self,
            delay_ns: self.args.record_delay_ns(),
            timed: !self.args.without_timing,
            window: self.progress.window(),
            busy_until: session.busy_until.get(),
            now,
            scratch,
        };
        let top = fetch::read_response(body, version, |part| {
            if part.error != ErrorCode::None {
                outcome.count(format!("fetch {}", part.error.name()));
                session
                    .moved
                    .set(session.moved.get() || part.error == ErrorCode::NotLeaderOrFollower);
                fine = false;
                return;
            }
            let TopicRef::Name(topic) = part.topic else { return };
            let Some(slot) = self.layout.slot_of(topic, part.partition) else { return };
            let Ok(at) = asks.binary_search_by_key(&slot, |(slot, _)| *slot) else { return };
            let ask = &mut asks[at];
            let mut rest = part.records;
            // The last batch may be cut: it comes again, whole, with the next fetch.
            while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                rest = tail;
                taker.take_batch(batch, ask, outcome);
            }
            self.place(slot).position.store(ask.1, Relaxed);
        })
        .map_err(malformed)?;
        session.busy_until.set(taker.busy_until);
        match top {
            ErrorCode::None => Ok(fine),
            error => Err(format!("fetch {}", error.name())),
        }
    }
}

/// Takes in the batches of one response.
struct Taker<'c> {
    consumer: &'c Consumer,
    delay_ns: u64,
    timed: bool,
    window: Window,
    busy_until: u64,
    now: Nanos,
    scratch: &'c mut Vec<u8>,
}

impl Taker<'_> {
    /// When the application gets to the next record, on this machine's clock.
    fn handled_at(&mut self) -> Nanos {
        if self.delay_ns > 0 {
            self.busy_until = self.busy_until.max(self.now.0) + self.delay_ns;
            return Nanos(self.busy_until);
        }
        self.now
    }

    fn anomaly(&self, kind: &str, slot: usize, offset: i64, of: Option<&Envelope>) -> Anomaly {
        let (topic, partition) = self.consumer.layout.place(slot);
        Anomaly {
            kind: kind.to_owned(),
            group: Some(self.consumer.group),
            topic: topic.to_owned(),
            partition,
            offset: Some(offset),
            producer: of.map(|envelope| envelope.producer),
            sequence: of.map(|envelope| envelope.sequence),
            records: 1,
        }
    }

    fn tell_damaged(&self, batch: RecordBatch<'_>, slot: usize, outcome: &mut ConsumerOutcome) {
        let records = batch.record_count().max(1) as u64;
        outcome.corrupt += records;
        let what = self.anomaly("damaged batch", slot, batch.base_offset().0, None);
        outcome.tell(Anomaly { records, ..what });
    }

    /// Whether a record was not seen before; tells of what is not as it was sent.
    fn is_new(
        &self,
        seen: &mut Seen,
        (slot, offset): (usize, i64),
        envelope: &Envelope,
        outcome: &mut ConsumerOutcome,
    ) -> bool {
        match seen.see(envelope.sequence) {
            Verdict::InOrder => true,
            Verdict::OutOfOrder => {
                outcome.out_of_order += 1;
                outcome.tell(self.anomaly("out of order", slot, offset, Some(envelope)));
                true
            }
            Verdict::Duplicate => {
                outcome.duplicates += 1;
                outcome.tell(self.anomaly("duplicate", slot, offset, Some(envelope)));
                false
            }
        }
    }

    /// Counts a record in; returns when it was planned.
    fn count(&mut self, envelope: &Envelope, value: &[u8], outcome: &mut ConsumerOutcome) -> Nanos {
        // The window is kept in this machine's clock, plans in the run's.
        let planned = envelope.planned.0.wrapping_add_signed(-self.consumer.clock_offset);
        let (planned, handled) = (Nanos(planned), self.handled_at());
        outcome.before_plan += u64::from(handled < planned);
        if self.window.contains(planned) {
            if self.timed {
                outcome.e2e_interval.record(latency(handled, planned), 1);
            }
            outcome.consumed += 1;
        } else if self.timed {
            outcome.warmup_e2e.record(latency(handled, planned), 1);
        }
        if self.window.contains(handled) {
            outcome.consumed_in_window += 1;
            outcome.bytes_in_window += value.len() as u64;
        }
        planned
    }

    fn take_batch(
        &mut self,
        batch: RecordBatch<'_>,
        ask: &mut (usize, i64),
        outcome: &mut ConsumerOutcome,
    ) {
        let (slot, from) = *ask;
        if batch.last_offset().0 < from {
            return;
        }
        ask.1 = batch.last_offset().0 + 1;
        let consumer = self.consumer;
        let base = batch.base_offset().0;
        if !batch.crc_matches() {
            self.tell_damaged(batch, slot, outcome);
            return;
        }
        let mut scratch = std::mem::take(self.scratch);
        let Ok(records) = batch.records(&mut scratch) else {
            self.tell_damaged(batch, slot, outcome);
            *self.scratch = scratch;
            return;
        };
        let full = consumer.args.verify == Verify::Full;
        let mut count = 0;
        let mut last_planned = None;
        // Records of a batch mostly come from one producer: its place is looked up once.
        let mut current: Option<(u32, Seen)> = None;
        for record in records {
            let Ok(record) = record else {
                outcome.corrupt += 1;
                outcome.tell(self.anomaly("damaged record", slot, base, None));
                break;
            };
            let offset = base + i64::from(record.offset_delta);
            if offset < from {
                continue;
            }
            count += 1;
            let own = record.value.and_then(|value| Some((Envelope::read(value)?, value)));
            let own = own.filter(|(envelope, _)| envelope.run == consumer.run);
            let Some((envelope, value)) = own else {
                outcome.foreign += 1;
                continue;
            };
            if full && !is_intact(value) {
                outcome.corrupt += 1;
                outcome.tell(self.anomaly("damaged record", slot, offset, Some(&envelope)));
                continue;
            }
            if current.as_ref().is_none_or(|(producer, _)| *producer != envelope.producer) {
                if let Some((producer, seen)) = current.take() {
                    outcome.seen.insert((slot, producer), seen);
                }
                let seen = outcome.seen.remove(&(slot, envelope.producer)).unwrap_or_default();
                current = Some((envelope.producer, seen));
            }
            let seen = &mut current.as_mut().expect("set above").1;
            if self.is_new(seen, (slot, offset), &envelope, outcome) {
                last_planned = Some(self.count(&envelope, value, outcome));
            }
        }
        if let Some((producer, seen)) = current {
            outcome.seen.insert((slot, producer), seen);
        }
        *self.scratch = scratch;
        if let Some(planned) = last_planned {
            consumer.place(slot).last_planned.store(planned.0, Relaxed);
        }
        consumer.progress.consumed.fetch_add(count, Relaxed);
    }
}
