//! Consumers: members of groups; what they are assigned is fetched from the leaders, every record
//! looked at.

use crate::args::Args;
use crate::envelope::Envelope;
use crate::histogram::Latency;
use crate::member::Member;
use crate::run::{INTERVAL, Interval, PartitionPlace, Progress};
use crate::verifier::{Seen, Verdict};
use client::{Connection, TopicView};
use model::{ErrorCode, RecordBatch, TopicId};
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

/// What a consumer found, for the report.
#[derive(Default)]
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
    pub(crate) duplicates: u64,
    pub(crate) out_of_order: u64,
    pub(crate) corrupt: u64,
    pub(crate) foreign: u64,
    pub(crate) fetches: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Assignments this member had.
    pub(crate) rebalances: u64,
    /// Of the current assignment, by partition and producer.
    seen: BTreeMap<(i32, u32), Seen>,
    /// Of each assignment that is over, by group, partition and producer.
    pub(crate) sessions: Vec<((usize, i32, u32), Seen)>,
}

/// One member of a group.
pub(crate) struct Consumer {
    pub(crate) args: Arc<Args>,
    pub(crate) topic: TopicView,
    pub(crate) run: u64,
    pub(crate) bootstrap: String,
    /// Which group, from 0.
    pub(crate) group: usize,
    /// Which member of it, from 0.
    pub(crate) number: usize,
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
    changed: Notify,
}

impl Consumer {
    fn place(&self, partition: i32) -> &PartitionPlace {
        let partitions = self.topic.leaders.len();
        &self.progress.partitions[self.group * partitions + partition as usize]
    }

    /// Adds what was timed since the last call to the whole, and shows it to the main thread.
    fn send_interval(&self, outcome: &RefCell<ConsumerOutcome>) {
        let mut outcome = outcome.borrow_mut();
        let interval = std::mem::take(&mut outcome.e2e_interval);
        outcome.e2e.add(&interval);
        if interval.count() > 0 {
            let _ = self.intervals.send(Interval { kind: "e2e", latency: interval });
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
        let (start, end) = (self.progress.starts_at(), window.end);
        clock::now().since(start) as f64 / end.since(start).max(1) as f64
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
        while me.elapsed() < comes && !me.progress.consumers_stopping() {
            timer::sleep(Duration::from_millis(20)).await;
        }
        let partitions = me.topic.leaders.len() as i32;
        let mut member = Member::new(
            &me.args,
            me.bootstrap.clone(),
            group_id(me.run, me.group),
            &me.topic.name,
            partitions,
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
                *outcome.borrow_mut().errors.entry(why).or_default() += 1;
                timer::sleep(Duration::from_millis(100)).await;
            }
        }
        member.leave().await;
        me.send_interval(&outcome);
        let outcome = std::mem::take(&mut *outcome.borrow_mut());
        Ok(outcome)
    }

    /// Consumes an assignment until it is not valid any more.
    async fn consume(
        self: &Rc<Self>,
        member: &mut Member,
        assigned: Vec<i32>,
        outcome: &Rc<RefCell<ConsumerOutcome>>,
        over: impl Fn() -> bool,
    ) -> Result<(), String> {
        let committed = member.committed(&assigned).await?;
        let mut by_leader: BTreeMap<String, Vec<FetchAsk>> = BTreeMap::new();
        for (&partition, committed) in assigned.iter().zip(committed) {
            let start = self.starts.get(partition as usize).copied().unwrap_or(0);
            let offset = if committed >= 0 { committed } else { start };
            self.place(partition).position.store(offset, Relaxed);
            let Some(leader) = self.topic.leaders.get(partition as usize) else {
                return Err(format!("partition {partition} is not known"));
            };
            by_leader.entry(leader.clone()).or_default().push(FetchAsk { partition, offset });
        }
        let session = Rc::new(Session::default());
        for (leader, asks) in by_leader {
            let connection = Connection::open(&leader, &self.args.client_id).await?;
            let (me, outcome) = (Rc::clone(self), Rc::clone(outcome));
            let session = Rc::clone(&session);
            session.running.set(session.running.get() + 1);
            runtime::spawn(async move {
                me.follow(leader, connection, asks, &outcome, &session).await;
                session.running.set(session.running.get() - 1);
                session.changed.notify();
            });
        }
        self.progress.members_ready.fetch_add(1, Relaxed);
        let beat_every = Duration::from_millis(self.args.heartbeat_interval_ms);
        let commit_every = Duration::from_millis(self.args.auto_commit_interval_ms);
        let (mut beat_at, mut commit_at) = (clock::now() + beat_every, clock::now() + commit_every);
        let positions = || -> Vec<(i32, i64)> {
            assigned.iter().map(|p| (*p, self.place(*p).position.load(Relaxed))).collect()
        };
        let count = |why: String| {
            *outcome.borrow_mut().errors.entry(why).or_default() += 1;
        };
        while !over() {
            timer::sleep(Duration::from_millis(20).min(beat_every)).await;
            let now = clock::now();
            if now >= beat_at {
                beat_at = now + beat_every;
                match member.heartbeat().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(why) => count(why),
                }
            }
            if now >= commit_at {
                commit_at = now + commit_every;
                if let Err(why) = member.commit(&positions()).await {
                    count(why);
                }
            }
        }
        session.stop.set(true);
        session.changed.until(|| (session.running.get() == 0).then_some(())).await;
        self.progress.members_ready.fetch_sub(1, Relaxed);
        // What this assignment saw is kept apart: the next one may see some of it again.
        let seen = std::mem::take(&mut outcome.borrow_mut().seen);
        let group = self.group;
        let sessions = seen.into_iter().map(|((p, producer), seen)| ((group, p, producer), seen));
        outcome.borrow_mut().sessions.extend(sessions);
        if let Err(why) = member.commit(&positions()).await {
            // What was read since the last commit comes again.
            count(why);
        }
        Ok(())
    }

    async fn follow(
        &self,
        leader: String,
        mut connection: Connection,
        mut asks: Vec<FetchAsk>,
        outcome: &RefCell<ConsumerOutcome>,
        session: &Session,
    ) {
        let limits = FetchLimits {
            max_wait_ms: self.args.fetch_max_wait_ms,
            min_bytes: self.args.fetch_min_bytes,
            max_bytes: 50 * 1024 * 1024,
            partition_max_bytes: self.args.max_partition_fetch_bytes,
        };
        let mut out = Vec::new();
        let mut scratch = Vec::new();
        let mut pool = ChunkPool::new(64 * 1024, 4, 1);
        let mut pieces: Vec<SharedBytes> = Vec::new();
        while !session.stop.get() {
            let fetched = async {
                let version = connection.version(ApiKey::Fetch, FETCH_VERSION_MAX)?;
                out.clear();
                connection.begin(&mut out, ApiKey::Fetch, version);
                fetch::put_request(
                    &mut out,
                    version,
                    limits,
                    &self.topic.name,
                    TopicId::ZERO,
                    &asks,
                );
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
                self.on_response(&frame, version, &mut asks, &mut scratch, outcome)
            });
            match result {
                Ok(true) => {}
                Ok(false) => timer::sleep(Duration::from_millis(50)).await,
                Err(why) => {
                    if session.stop.get() {
                        return;
                    }
                    *outcome.borrow_mut().errors.entry(why).or_default() += 1;
                    // Gone: come back when it is.
                    while !session.stop.get() {
                        timer::sleep(Duration::from_millis(100)).await;
                        if let Ok(again) = Connection::open(&leader, &self.args.client_id).await {
                            connection = again;
                            break;
                        }
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
        asks: &mut [FetchAsk],
        scratch: &mut Vec<u8>,
        outcome: &RefCell<ConsumerOutcome>,
    ) -> Result<bool, String> {
        let now = clock::now();
        let mut outcome = outcome.borrow_mut();
        let outcome = &mut *outcome;
        outcome.fetches += 1;
        let mut fine = true;
        let malformed = |error| format!("malformed fetch response: {error}");
        let (_, body) = read_response_header(frame, ApiKey::Fetch, version).map_err(malformed)?;
        let top = fetch::read_response(body, version, |part| {
            if part.error != ErrorCode::None {
                *outcome.errors.entry(format!("fetch {}", part.error.name())).or_default() += 1;
                fine = false;
                return;
            }
            let Some(ask) = asks.iter_mut().find(|ask| ask.partition == part.partition) else {
                return;
            };
            let place = self.place(part.partition);
            place.high_watermark.store(part.high_watermark, Relaxed);
            let mut rest = part.records;
            // The last batch may be cut: it comes again, whole, with the next fetch.
            while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                rest = tail;
                self.take_batch(batch, part.partition, ask, now, scratch, outcome);
            }
            place.position.store(ask.offset, Relaxed);
        })
        .map_err(malformed)?;
        match top {
            ErrorCode::None => Ok(fine),
            error => Err(format!("fetch {}", error.name())),
        }
    }

    fn take_batch(
        &self,
        batch: RecordBatch<'_>,
        partition: i32,
        ask: &mut FetchAsk,
        now: Nanos,
        scratch: &mut Vec<u8>,
        outcome: &mut ConsumerOutcome,
    ) {
        let from = ask.offset;
        if batch.last_offset().0 < from {
            return;
        }
        ask.offset = batch.last_offset().0 + 1;
        if !batch.crc_matches() {
            outcome.corrupt += batch.record_count().max(1) as u64;
            return;
        }
        let base = batch.base_offset().0;
        let window = self.progress.window();
        let Ok(records) = batch.records(scratch) else {
            outcome.corrupt += batch.record_count().max(1) as u64;
            return;
        };
        let mut count = 0;
        let place = self.place(partition);
        for record in records {
            let Ok(record) = record else {
                outcome.corrupt += 1;
                return;
            };
            if base + i64::from(record.offset_delta) < from {
                continue;
            }
            count += 1;
            let Some(envelope) = record.value.and_then(Envelope::read) else {
                outcome.foreign += 1;
                continue;
            };
            if envelope.run != self.run {
                outcome.foreign += 1;
                continue;
            }
            let seen = outcome.seen.entry((partition, envelope.producer)).or_default();
            match seen.see(envelope.sequence) {
                Verdict::InOrder => {}
                Verdict::OutOfOrder => outcome.out_of_order += 1,
                Verdict::Duplicate => {
                    outcome.duplicates += 1;
                    continue;
                }
            }
            let latency = now.since(envelope.planned);
            if window.contains(envelope.planned) {
                outcome.e2e_interval.record(latency, 1);
                outcome.consumed += 1;
            } else {
                outcome.warmup_e2e.record(latency, 1);
            }
            if window.contains(now) {
                outcome.consumed_in_window += 1;
                outcome.bytes_in_window += record.value.map_or(0, <[u8]>::len) as u64;
            }
            place.last_planned.store(envelope.planned.0, Relaxed);
        }
        self.progress.consumed.fetch_add(count, Relaxed);
    }
}
