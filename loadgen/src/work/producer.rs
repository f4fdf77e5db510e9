//! Producers: records by the schedule into batches, batches to their leaders, answers timed.
//!
//! A batch is sent when it is full or has waited `linger`; each request takes one ready batch per
//! partition. A send that may yet succeed is repeated until the delivery time-out; where the first
//! try may have been stored already, its records are remembered as unsure, so that a copy is not held
//! against the broker. When buffers are full the producer falls behind its schedule, and the delay
//! shows in the latencies, which count from the plan.

use crate::load::keys::{Keys, partition_of};
use crate::load::payload::Payloads;
use crate::load::schedule::Schedule;
use crate::options::args::{Args, Partitioner};
use crate::work::envelope::{ENVELOPE_BYTES, Envelope};
use crate::work::histogram::{Latency, Run};
use crate::work::layout::Layout;
use crate::work::progress::{INTERVAL, Interval, Kind, Progress, Window};
use crate::work::verifier::Span;
use client::{Connection, describe, receive_frame};
use model::record_batch::BatchBuilder;
use model::{ErrorCode, TopicRef, limits};
use runtime::buffer::{ChunkPool, ChunkWriter, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::random::Random;
use runtime::socket::Socket;
use runtime::{spawn, timer};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::task::Poll;
use std::time::Duration;
use wire::header::{finish_frame, read_response_header};
use wire::messages::{InitProducerIdRequest, InitProducerIdResponse};
use wire::{ApiKey, produce};

/// The clock is looked at this often at most: a producer sends everything that became due since.
const TICK: Duration = Duration::from_micros(250);
const REQUEST_CHUNK_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of batches in a request, unless one batch alone is larger.
const REQUEST_BYTES: usize = 1024 * 1024;
/// Records made before others get a turn.
const BURST_RECORDS: u64 = 2_000;
/// Records made between two looks at the clock.
const CLOCK_RECORDS: u64 = 64;
/// A lane without its broker tries again after so long; leaders are asked for no more often.
const RETRY: Duration = Duration::from_millis(100);
/// What a record takes beyond key and value, at most.
const RECORD_OVERHEAD: usize = 40;

/// What a producer found, for the report.
#[derive(Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct ProducerOutcome {
    pub(crate) number: usize,
    /// From plan to acknowledgement, measured window only; what failed or was never sent counts as
    /// a lower bound.
    pub(crate) ack: Latency,
    /// The part of `ack` since the last interval was sent off.
    ack_interval: Latency,
    /// From sending the request to its answer.
    pub(crate) service: Latency,
    /// From plan to hand-over: how late loadgen itself was.
    pub(crate) lateness: Latency,
    /// The same while buffers were full, or the time so lost was made up for: the cluster's doing.
    pub(crate) held_back: Latency,
    /// From hand-over of a batch's first record to its request: linger, and the queue of a client.
    pub(crate) queue: Latency,
    pub(crate) warmup_ack: Latency,
    /// Records planned in the window that were handed over, acknowledged, failed, never sent.
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) acked: u64,
    pub(crate) failed: u64,
    pub(crate) unsent: u64,
    /// Acknowledged within the window, whenever planned.
    pub(crate) acked_in_window: u64,
    pub(crate) batches: u64,
    pub(crate) batch_records: u64,
    pub(crate) batch_bytes: u64,
    /// Of the records in batches, before compression.
    pub(crate) raw_bytes: u64,
    pub(crate) requests: u64,
    /// Batches that were sent again.
    pub(crate) retries: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Per slot: what happened to its numbers.
    pub(crate) sequences: Vec<SlotNumbers>,
}

/// The numbers of a producer in one partition.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct SlotNumbers {
    pub(crate) sent: u64,
    /// Not acknowledged in the end.
    pub(crate) failed: Vec<Span>,
    /// Sent again though the first try may have been stored.
    pub(crate) unsure: Vec<Span>,
    /// How many were acknowledged.
    pub(crate) acked: u64,
}

/// A batch being filled.
struct Filling {
    builder: BatchBuilder,
    planned: Vec<Nanos>,
    first_sequence: u64,
    opened: Nanos,
    number: u64,
}

/// A batch on its way.
struct Sealed {
    slot: usize,
    bytes: Vec<u8>,
    planned: Vec<Nanos>,
    first_sequence: u64,
    opened: Nanos,
    attempts: u32,
}

impl Sealed {
    fn span(&self) -> Span {
        (self.first_sequence, self.first_sequence + self.planned.len() as u64)
    }
}

struct InFlight {
    sent_at: Nanos,
    batches: Vec<Sealed>,
}

/// One leader's connection and what waits for it.
struct Lane {
    address: String,
    link: RefCell<Option<Link>>,
    ready: RefCell<VecDeque<Sealed>>,
    in_flight: RefCell<VecDeque<InFlight>>,
    sending: Cell<bool>,
}

struct Link {
    connection: Connection,
    version: i16,
}

/// One producer.
pub(crate) struct Producer {
    pub(crate) args: Arc<Args>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) bootstrap: String,
    pub(crate) run: u64,
    pub(crate) seed: u64,
    pub(crate) number: usize,
    pub(crate) schedule: Schedule,
    pub(crate) window: Window,
    /// Added to this machine's clock to get the run's.
    pub(crate) clock_offset: i64,
    pub(crate) payloads: Arc<Payloads>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) intervals: Sender<Interval>,
}

struct State {
    producer: Producer,
    /// What the cluster knows this producer by, if it is idempotent.
    identity: Cell<Option<model::Producer>>,
    lanes: RefCell<Vec<Rc<Lane>>>,
    lane_of: RefCell<Vec<usize>>,
    outcome: RefCell<ProducerOutcome>,
    buffered_bytes: Cell<u64>,
    refreshing: Cell<bool>,
    changed: Notify,
    spare: RefCell<Vec<(Vec<u8>, Vec<Nanos>)>>,
    chunks: RefCell<ChunkPool>,
    scratch: RefCell<Vec<u8>>,
}

impl Producer {
    /// Runs the schedule to its end and waits for the answers.
    pub(crate) async fn run(self) -> Result<ProducerOutcome, String> {
        let slots = self.layout.slots();
        let state = Rc::new(State {
            identity: Cell::new(None),
            lanes: RefCell::default(),
            lane_of: RefCell::default(),
            outcome: RefCell::new(ProducerOutcome {
                number: self.number,
                sequences: vec![SlotNumbers::default(); slots],
                ..ProducerOutcome::default()
            }),
            buffered_bytes: Cell::new(0),
            refreshing: Cell::new(false),
            changed: Notify::default(),
            spare: RefCell::default(),
            chunks: RefCell::new(ChunkPool::new(REQUEST_CHUNK_BYTES, 64, 0)),
            scratch: RefCell::default(),
            producer: self,
        });
        state.lead(&state.producer.layout.leaders);
        let lanes = state.lanes.borrow().clone();
        for lane in &lanes {
            state.connect(lane).await?;
        }
        if state.producer.args.enable_idempotence {
            let leader = &state.producer.layout.leaders[0];
            state.identity.set(Some(identity_at(leader, &state.producer.args.client_id).await?));
        }
        let ticking = Rc::clone(&state);
        spawn(async move {
            loop {
                timer::sleep(INTERVAL).await;
                ticking.send_interval();
                ticking.give_up_silent();
            }
        });
        state.produce().await;
        state.drain().await;
        state.send_interval();
        for lane in state.lanes.borrow().iter() {
            if let Some(link) = lane.link.borrow_mut().take() {
                link.connection.socket.shutdown();
            }
        }
        Ok(std::mem::take(&mut *state.outcome.borrow_mut()))
    }
}

/// Asks for a producer id that nobody has.
async fn identity_at(address: &str, client_id: &str) -> Result<model::Producer, String> {
    let mut connection = Connection::open(address, client_id).await?;
    let answer: InitProducerIdResponse = connection.ask(&InitProducerIdRequest::default()).await?;
    match ErrorCode::from_code(answer.error_code) {
        ErrorCode::None => Ok(model::Producer {
            id: model::ProducerId(answer.producer_id),
            epoch: answer.producer_epoch,
        }),
        error => Err(format!("{address} gives out no producer id: {}", error.name())),
    }
}

impl State {
    /// Gives every partition the lane of its leader.
    fn lead(&self, leaders: &[String]) {
        let mut lanes = self.lanes.borrow_mut();
        let mut lane_of = Vec::with_capacity(leaders.len());
        for leader in leaders {
            let known = lanes.iter().position(|lane| lane.address == *leader);
            lane_of.push(known.unwrap_or_else(|| {
                lanes.push(Rc::new(Lane {
                    address: leader.clone(),
                    link: RefCell::default(),
                    ready: RefCell::default(),
                    in_flight: RefCell::default(),
                    sending: Cell::new(false),
                }));
                lanes.len() - 1
            }));
        }
        *self.lane_of.borrow_mut() = lane_of;
    }

    /// Adds what was timed since the last call to the whole, and shows it to the main thread.
    fn send_interval(&self) {
        let mut outcome = self.outcome.borrow_mut();
        let interval = std::mem::take(&mut outcome.ack_interval);
        outcome.ack.add(&interval);
        if interval.count() > 0 {
            let _ =
                self.producer.intervals.send(Interval { kind: Kind::Produce, latency: interval });
        }
    }

    /// Gives up connections whose oldest request waits too long.
    fn give_up_silent(&self) {
        let limit = Duration::from_millis(self.producer.args.request_timeout_ms);
        let lanes = self.lanes.borrow().clone();
        for lane in &lanes {
            let oldest = lane.in_flight.borrow().front().map(|request| request.sent_at);
            if oldest.is_some_and(|sent_at| clock::now() >= sent_at + limit) {
                self.lose(lane, "no answer within the request time-out");
            }
        }
    }

    async fn connect(self: &Rc<Self>, lane: &Rc<Lane>) -> Result<(), String> {
        let mut connection = Connection::open(&lane.address, &self.producer.args.client_id).await?;
        let version = connection.version(ApiKey::Produce, 11)?;
        let (socket, mut buffer, mut pool) = connection.take_receiver();
        let mine = Rc::as_ptr(&socket);
        *lane.link.borrow_mut() = Some(Link { connection, version });
        let (state, lane) = (Rc::clone(self), Rc::clone(lane));
        spawn(async move {
            let why = loop {
                let received = receive_frame(&socket, &mut buffer, &mut pool).await;
                match received.and_then(|frame| state.on_response(&lane, &frame, version)) {
                    Ok(()) => {}
                    Err(why) => break why,
                }
            };
            // Another connection may have taken the place of a lost one.
            let still = lane.link.borrow().as_ref().map(|link| Rc::as_ptr(&link.connection.socket));
            if still == Some(mine) {
                state.lose(&lane, &why);
                state.refresh().await;
            }
        });
        Ok(())
    }

    /// The connection is gone: whether what was in flight was stored is unknown.
    fn lose(&self, lane: &Lane, why: &str) {
        if let Some(link) = lane.link.borrow_mut().take() {
            link.connection.socket.shutdown();
        }
        let lost: Vec<InFlight> = lane.in_flight.borrow_mut().drain(..).collect();
        for batch in lost.into_iter().flat_map(|request| request.batches) {
            self.retry_or_fail(batch, why, true);
        }
        self.changed.notify();
    }

    /// Asks who leads now, until someone tells, and moves what waits.
    async fn refresh(self: &Rc<Self>) {
        if self.refreshing.replace(true) {
            return;
        }
        timer::sleep(RETRY).await;
        let layout = &self.producer.layout;
        let known: Vec<String> =
            self.lanes.borrow().iter().map(|lane| lane.address.clone()).collect();
        let servers = self.producer.bootstrap.split(',').map(str::to_owned).chain(known);
        for server in servers {
            let asked = async {
                let client_id = &self.producer.args.client_id;
                let mut connection = Connection::open(server.trim(), client_id).await?;
                let mut leaders = Vec::new();
                for topic in &layout.topics {
                    let view = describe(&mut connection, topic).await?;
                    leaders.extend(view.ok_or("no leader")?.leaders);
                }
                Ok::<_, String>(leaders)
            };
            if let Ok(leaders) = asked.await
                && leaders.len() == layout.slots()
            {
                self.lead(&leaders);
                let lanes = self.lanes.borrow().clone();
                let waiting: Vec<Sealed> = lanes
                    .iter()
                    .flat_map(|lane| std::mem::take(&mut *lane.ready.borrow_mut()))
                    .collect();
                waiting.into_iter().for_each(|batch| self.enqueue(batch));
                break;
            }
        }
        self.refreshing.set(false);
        self.send_ready();
        self.changed.notify();
    }

    /// Puts a batch where it belongs: before later ones of its partition.
    fn enqueue(&self, batch: Sealed) {
        let lane = Rc::clone(&self.lanes.borrow()[self.lane_of.borrow()[batch.slot]]);
        let mut ready = lane.ready.borrow_mut();
        let later = if batch.attempts == 0 {
            None
        } else {
            ready.iter().position(|other| {
                other.slot == batch.slot && other.first_sequence > batch.first_sequence
            })
        };
        match later {
            Some(at) => ready.insert(at, batch),
            None => ready.push_back(batch),
        }
    }

    /// `unsure`: this try may have been stored.
    fn retry_or_fail(&self, mut batch: Sealed, why: &str, unsure: bool) {
        let limit = Duration::from_millis(self.producer.args.delivery_timeout_ms);
        if clock::now() >= batch.opened + limit || self.producer.progress.stopping() {
            self.fail(batch, why);
            return;
        }
        {
            let mut outcome = self.outcome.borrow_mut();
            *outcome.errors.entry(format!("retried: {why}")).or_default() +=
                batch.planned.len() as u64;
            outcome.retries += 1;
            if unsure {
                let span = batch.span();
                outcome.sequences[batch.slot].unsure.push(span);
            }
        }
        batch.attempts += 1;
        self.enqueue(batch);
    }

    fn fail(&self, batch: Sealed, why: &str) {
        let now = clock::now();
        let records = batch.planned.len() as u64;
        let mut outcome = self.outcome.borrow_mut();
        *outcome.errors.entry(why.to_owned()).or_default() += records;
        for planned in batch.planned.iter().filter(|at| self.producer.window.contains(**at)) {
            outcome.failed += 1;
            // It was never acknowledged: its latency has no end.
            outcome.ack_interval.record_open(now.since(*planned));
        }
        outcome.sequences[batch.slot].failed.push(batch.span());
        drop(outcome);
        self.producer.progress.failed.fetch_add(records, Relaxed);
        self.recycle(batch);
    }

    fn recycle(&self, mut batch: Sealed) {
        self.buffered_bytes.set(self.buffered_bytes.get() - batch.bytes.len() as u64);
        batch.bytes.clear();
        batch.planned.clear();
        self.spare.borrow_mut().push((batch.bytes, batch.planned));
    }

    fn on_response(self: &Rc<Self>, lane: &Lane, frame: &[u8], version: i16) -> Result<(), String> {
        let now = clock::now();
        let malformed = |error| format!("malformed produce response: {error}");
        let (_, body) = read_response_header(frame, ApiKey::Produce, version).map_err(malformed)?;
        let request = lane.in_flight.borrow_mut().pop_front();
        let request = request.ok_or("a response nobody asked for")?;
        let mut batches: VecDeque<Sealed> = request.batches.into();
        let layout = &self.producer.layout;
        let mut moved = false;
        let read = produce::read_response(body, version, |topic, partition, error, _| {
            let TopicRef::Name(topic) = topic else { return };
            let is_it = |batch: &Sealed| layout.is(batch.slot, topic, partition);
            // Answers come in the order of the request, where a broker is not odd.
            let at = if batches.front().is_some_and(is_it) {
                Some(0)
            } else {
                batches.iter().position(is_it)
            };
            let Some(batch) = at.and_then(|at| batches.remove(at)) else { return };
            if error == ErrorCode::None {
                self.acknowledge(batch, request.sent_at, now);
            } else if error == ErrorCode::OutOfOrderSequenceNumber && self.identity.get().is_some()
            {
                // One before it is being sent again.
                self.retry_or_fail(batch, &error.name(), false);
            } else if error.is_retriable() {
                moved = true;
                self.retry_or_fail(batch, &error.name(), error == ErrorCode::RequestTimedOut);
            } else {
                self.fail(batch, &error.name());
            }
        });
        for forgotten in batches {
            self.fail(forgotten, "the response left it out");
        }
        read.map_err(malformed)?;
        if moved {
            spawn({
                let state = Rc::clone(self);
                async move { state.refresh().await }
            });
        }
        self.changed.notify();
        Ok(())
    }

    fn acknowledge(&self, batch: Sealed, sent_at: Nanos, now: Nanos) {
        let window = self.producer.window;
        let timed = !self.producer.args.without_timing;
        let mut outcome = self.outcome.borrow_mut();
        let outcome = &mut *outcome;
        let mut in_window = 0;
        let mut run = Run::default();
        for planned in &batch.planned {
            if window.contains(*planned) {
                in_window += 1;
                if timed {
                    outcome.ack_interval.record_next(&mut run, now.since(*planned));
                }
            } else if timed {
                outcome.warmup_ack.record(now.since(*planned), 1);
            }
        }
        outcome.ack_interval.record_run(&mut run);
        if in_window > 0 && timed {
            outcome.service.record(now.since(sent_at), in_window);
            outcome.queue.record(sent_at.since(batch.opened), in_window);
        }
        outcome.acked += in_window;
        outcome.sequences[batch.slot].acked += batch.planned.len() as u64;
        if window.contains(now) {
            outcome.acked_in_window += batch.planned.len() as u64;
        }
        self.producer.progress.acked.fetch_add(batch.planned.len() as u64, Relaxed);
        self.recycle(batch);
    }

    fn open_batch(&self) -> Filling {
        let mut builder = BatchBuilder::default();
        builder.begin(clock::unix_ms());
        let planned = Vec::new();
        Filling { builder, planned, first_sequence: 0, opened: Nanos(0), number: 0 }
    }

    async fn produce(self: &Rc<Self>) {
        let args = &self.producer.args;
        let mut making = Making::begin(self);
        loop {
            let (now, next_due, burst) = making.burst(self);
            self.send_ready();
            let Some(next_due) = next_due else { break };
            let full = self.buffered_bytes.get() >= args.buffer_memory;
            if burst >= BURST_RECORDS && !full {
                runtime::yield_now().await;
                continue;
            }
            let mut wake_at = if full { now + RETRY } else { next_due.max(now + TICK) };
            if let Some((due, ..)) = making.lingering.front() {
                wake_at = wake_at.min((*due).max(now + TICK));
            }
            if full {
                self.until_changed_or(wake_at).await;
            } else {
                timer::sleep_until(wake_at).await;
            }
        }
        making.count_unsent(self);
    }

    async fn until_changed_or(&self, at: Nanos) {
        let mut changed = false;
        let mut notified =
            pin!(self.changed.until(|| std::mem::replace(&mut changed, true).then_some(())));
        let mut sleep = pin!(timer::sleep_until(at));
        std::future::poll_fn(|cx| match (notified.as_mut().poll(cx), sleep.as_mut().poll(cx)) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
    }

    fn seal(&self, slot: usize, batch: &mut Filling, outcome: &mut ProducerOutcome) {
        let args = &self.producer.args;
        let (mut bytes, planned) = self.spare.borrow_mut().pop().unwrap_or_default();
        if let Some(identity) = self.identity.get() {
            // Sequence numbers wrap as Kafka's do: after the largest comes 0.
            let sequence = (batch.first_sequence & i32::MAX as u64) as i32;
            batch.builder.set_producer(identity, sequence, false);
        }
        bytes.extend_from_slice(batch.builder.finish(args.compression_type));
        let records = batch.planned.len() as u64;
        outcome.batches += 1;
        outcome.batch_records += records;
        outcome.batch_bytes += bytes.len() as u64;
        self.buffered_bytes.set(self.buffered_bytes.get() + bytes.len() as u64);
        let sealed = Sealed {
            slot,
            bytes,
            planned: std::mem::replace(&mut batch.planned, planned),
            first_sequence: batch.first_sequence,
            opened: batch.opened,
            attempts: 0,
        };
        batch.first_sequence += records;
        batch.builder.begin(0);
        self.enqueue(sealed);
    }

    fn send_ready(self: &Rc<Self>) {
        for lane in self.lanes.borrow().iter() {
            if !lane.sending.get() && !lane.ready.borrow().is_empty() {
                lane.sending.set(true);
                spawn(Rc::clone(self).send(Rc::clone(lane)));
            }
        }
    }

    /// Fails what waits on a lane longer than it may.
    fn expire(&self, lane: &Lane, why: &str) {
        let limit = Duration::from_millis(self.producer.args.delivery_timeout_ms);
        let now = clock::now();
        let all = std::mem::take(&mut *lane.ready.borrow_mut());
        for batch in all {
            if now >= batch.opened + limit || self.producer.progress.stopping() {
                self.fail(batch, why);
            } else {
                lane.ready.borrow_mut().push_back(batch);
            }
        }
    }

    /// One batch per partition, in order: later batches of a partition wait.
    fn take_ready(&self, lane: &Lane) -> Vec<Sealed> {
        let mut ready = lane.ready.borrow_mut();
        let (mut batches, mut kept): (Vec<Sealed>, VecDeque<Sealed>) = Default::default();
        let mut slots = Vec::with_capacity(16);
        let mut bytes = 0;
        while let Some(batch) = ready.pop_front() {
            if bytes >= REQUEST_BYTES {
                kept.push_back(batch);
                kept.append(&mut ready);
                break;
            }
            let fits = bytes + batch.bytes.len() <= REQUEST_BYTES || batches.is_empty();
            if fits && !slots.contains(&batch.slot) {
                bytes += batch.bytes.len();
                slots.push(batch.slot);
                batches.push(batch);
            } else {
                slots.push(batch.slot);
                kept.push_back(batch);
            }
        }
        *ready = kept;
        // Neighbours of one topic share its head in the request.
        if self.producer.layout.topics.len() > 1 {
            batches.sort_by_key(|batch| batch.slot);
        }
        batches
    }

    /// Sends what is ready on a lane while requests may be in flight.
    async fn send(self: Rc<Self>, lane: Rc<Lane>) {
        let args = &self.producer.args;
        let layout = &self.producer.layout;
        let mut pieces: Vec<SharedBytes> = Vec::new();
        while !lane.ready.borrow().is_empty() {
            let in_flight = || lane.in_flight.borrow().len() < args.max_in_flight as usize;
            self.changed.until(|| in_flight().then_some(())).await;
            if lane.link.borrow().is_none()
                && let Err(why) = self.connect(&lane).await
            {
                self.expire(&lane, &why);
                timer::sleep(RETRY).await;
                self.refresh().await;
                continue;
            }
            let batches = self.take_ready(&lane);
            if batches.is_empty() {
                continue;
            }
            let socket: Rc<Socket> = {
                let mut link = lane.link.borrow_mut();
                let Some(link) = link.as_mut() else {
                    drop(link);
                    batches.into_iter().for_each(|batch| self.enqueue(batch));
                    continue;
                };
                let mut out = self.scratch.borrow_mut();
                out.clear();
                link.connection.begin(&mut out, ApiKey::Produce, link.version);
                let parts = batches.iter().map(|batch| {
                    let (topic, partition) = layout.place(batch.slot);
                    (TopicRef::Name(topic), partition, &batch.bytes[..])
                });
                produce::put_topics_request(
                    &mut out,
                    link.version,
                    args.acks.code(),
                    args.request_timeout_ms as i32,
                    parts,
                );
                finish_frame(&mut out, 0, 0);
                pieces.push(self.keep(&out));
                Rc::clone(&link.connection.socket)
            };
            self.outcome.borrow_mut().requests += 1;
            let sent_at = clock::now();
            if args.acks.code() == 0 {
                let sent = socket.send(&mut pieces).await.is_ok();
                for batch in batches {
                    if sent {
                        self.acknowledge(batch, sent_at, clock::now());
                    } else {
                        self.fail(batch, "send failed");
                    }
                }
            } else {
                lane.in_flight.borrow_mut().push_back(InFlight { sent_at, batches });
                if socket.send(&mut pieces).await.is_err() {
                    socket.shutdown();
                }
            }
        }
        lane.sending.set(false);
    }

    fn keep(&self, bytes: &[u8]) -> SharedBytes {
        let mut chunks = self.chunks.borrow_mut();
        if bytes.len() > REQUEST_CHUNK_BYTES {
            return SharedBytes::copy_of(bytes);
        }
        let mut chunk: ChunkWriter = chunks.take_or_grow();
        chunk.append(bytes);
        let kept = chunk.share(0..bytes.len());
        chunks.retire(chunk);
        kept
    }

    /// Waits until every batch was answered or has waited too long.
    async fn drain(self: &Rc<Self>) {
        let give_up = clock::now() + Duration::from_millis(self.producer.args.request_timeout_ms);
        loop {
            let idle = |lane: &Rc<Lane>| {
                lane.ready.borrow().is_empty()
                    && lane.in_flight.borrow().is_empty()
                    && !lane.sending.get()
            };
            if self.lanes.borrow().iter().all(idle) {
                return;
            }
            let now = clock::now();
            if now >= give_up || self.producer.progress.stopping() {
                break;
            }
            self.send_ready();
            self.until_changed_or(now + Duration::from_millis(20)).await;
        }
        let lanes = self.lanes.borrow().clone();
        for lane in &lanes {
            if let Some(link) = lane.link.borrow_mut().take() {
                link.connection.socket.shutdown();
            }
            let requests: Vec<InFlight> = lane.in_flight.borrow_mut().drain(..).collect();
            for batch in requests.into_iter().flat_map(|request| request.batches) {
                self.fail(batch, "no answer in time");
            }
            let due: Vec<Sealed> = lane.ready.borrow_mut().drain(..).collect();
            due.into_iter().for_each(|batch| self.fail(batch, "not sent in time"));
        }
    }
}
/// Records on their way from the schedule into batches.
struct Making {
    linger: Duration,
    partitioner: Partitioner,
    keyed: bool,
    batch_size: usize,
    /// Producers of this run: asked once, since it asks the kernel for the cores.
    producers: u64,
    /// What could not be handed over by then is counted as never sent.
    over_at: Nanos,
    schedule: Schedule,
    random: Random,
    filling: Vec<Filling>,
    /// When which batch is due, by its slot and number.
    lingering: VecDeque<(Nanos, usize, u64)>,
    value: Vec<u8>,
    key: Vec<u8>,
    cursor: usize,
    slot: usize,
    made: u64,
    batch_number: u64,
    held_back: bool,
    late_run: Run,
}

impl Making {
    fn begin(state: &State) -> Self {
        let producer = &state.producer;
        let args = &producer.args;
        let slots = producer.layout.slots();
        let grace = Duration::from_secs_f64((producer.window.seconds() / 10.0).max(2.0));
        Self {
            linger: Duration::from_secs_f64(args.linger_ms / 1000.0),
            partitioner: args.partitioner(),
            keyed: args.key != Keys::None,
            batch_size: (args.batch_size as usize).max(limits::BATCH_HEADER_BYTES),
            producers: args.producer_count() as u64,
            over_at: producer.window.end() + grace,
            schedule: producer.schedule.clone(),
            random: Random::new(producer.seed ^ ((producer.number as u64 + 1) << 32)),
            filling: (0..slots).map(|_| state.open_batch()).collect(),
            lingering: VecDeque::new(),
            value: vec![0; args.record_size.max()],
            key: Vec::new(),
            // Producers begin at different places, so that they do not move in step.
            cursor: producer.payloads.start_of(producer.number, args.producer_count()),
            slot: producer.number * slots / args.producer_count().max(1) % slots,
            made: 0,
            batch_number: 0,
            held_back: false,
            late_run: Run::default(),
        }
    }

    /// Makes the records that are due, up to a number, and seals the batches that are. Returns the time then, when the
    /// next record is due (`None`: there is none any more), and how many were made.
    fn burst(&mut self, state: &State) -> (Nanos, Option<Nanos>, u64) {
        let producer = &state.producer;
        let (mut now, mut unix_ms) = (clock::now(), clock::unix_ms());
        let (mut burst, mut bytes_made, mut next_due) = (0, 0u64, None);
        let mut outcome = state.outcome.borrow_mut();
        while !producer.progress.stopping() {
            if burst % CLOCK_RECORDS == CLOCK_RECORDS - 1 {
                (now, unix_ms) = (clock::now(), clock::unix_ms());
            }
            let planned = self.schedule.due(now);
            if self.is_over(producer, planned, now) {
                break;
            }
            next_due = Some(planned);
            if planned > now {
                self.held_back = false;
                break;
            }
            if state.buffered_bytes.get() >= producer.args.buffer_memory {
                self.held_back = true;
                break;
            }
            if burst >= BURST_RECORDS {
                break;
            }
            bytes_made += self.make(state, planned, (now, unix_ms), &mut outcome);
            self.schedule.advance();
            self.made += 1;
            burst += 1;
        }
        outcome.lateness.record_run(&mut self.late_run);
        outcome.raw_bytes += bytes_made;
        producer.progress.sent.fetch_add(burst, Relaxed);
        let now = clock::now();
        self.seal_due(state, now, next_due.is_some(), &mut outcome);
        (now, next_due, burst)
    }

    fn is_over(&self, producer: &Producer, planned: Nanos, now: Nanos) -> bool {
        let number = self.made * self.producers + producer.number as u64;
        !producer.window.is_before_end(planned)
            || now >= self.over_at
            || producer.progress.records_max.is_some_and(|max| number >= max)
    }

    /// Puts a record into its batch; returns its bytes.
    fn make(
        &mut self,
        state: &State,
        planned: Nanos,
        (now, unix_ms): (Nanos, i64),
        outcome: &mut ProducerOutcome,
    ) -> u64 {
        let producer = &state.producer;
        let (args, layout) = (&producer.args, &producer.layout);
        let size = args.record_size.next(&mut self.random);
        let (random, number, key_size) = (&mut self.random, producer.number, args.key_size);
        let has_key = self.keyed
            && args.key.next(random, number, self.made, key_size as usize, &mut self.key);
        if self.partitioner == Partitioner::Murmur2 {
            let (first, partitions) = layout.span_of(self.made as usize % layout.topics.len());
            self.slot = first + partition_of(&self.key, partitions);
        }
        let key_bytes = if has_key { self.key.len() } else { 0 };
        let batch = &mut self.filling[self.slot];
        let bytes = batch.builder.len() + size + key_bytes + RECORD_OVERHEAD;
        if !batch.builder.is_empty() && bytes > self.batch_size {
            state.seal(self.slot, batch, outcome);
            if self.partitioner == Partitioner::Sticky {
                self.slot = (self.slot + 1) % layout.slots();
            }
        }
        let batch = &mut self.filling[self.slot];
        if batch.builder.is_empty() {
            self.batch_number += 1;
            (batch.opened, batch.number) = (now, self.batch_number);
            batch.builder.begin(unix_ms);
            self.lingering.push_back((now + self.linger, self.slot, self.batch_number));
        }
        let identity = Envelope {
            run: producer.run,
            producer: producer.number as u32,
            sequence: batch.first_sequence + batch.planned.len() as u64,
            planned: Nanos(planned.0.wrapping_add_signed(producer.clock_offset)),
        };
        let value = &mut self.value[..size];
        let payload = producer.payloads.take(&mut self.cursor, size - ENVELOPE_BYTES);
        value[ENVELOPE_BYTES..].copy_from_slice(payload);
        identity.write(value);
        batch.builder.push(unix_ms, has_key.then_some(&self.key[..]), Some(value), &[]);
        batch.planned.push(planned);
        if producer.window.contains(planned) {
            if !args.without_timing {
                let late = now.since(planned);
                if self.held_back {
                    outcome.held_back.record(late, 1);
                } else {
                    outcome.lateness.record_next(&mut self.late_run, late);
                }
            }
            outcome.sent += 1;
            outcome.sent_bytes += (size + key_bytes) as u64;
        }
        if self.partitioner == Partitioner::RoundRobin {
            self.slot = (self.slot + 1) % layout.slots();
        }
        (size + key_bytes) as u64
    }

    /// Seals the batches that waited for as long as they may, or all once nothing more is planned.
    fn seal_due(
        &mut self,
        state: &State,
        now: Nanos,
        goes_on: bool,
        outcome: &mut ProducerOutcome,
    ) {
        while let Some(&(due, at, number)) = self.lingering.front() {
            let batch = &mut self.filling[at];
            let gone = batch.number != number || batch.builder.is_empty();
            if !gone && due > now && goes_on {
                break;
            }
            self.lingering.pop_front();
            if !gone {
                state.seal(at, batch, outcome);
                if self.partitioner == Partitioner::Sticky && at == self.slot {
                    self.slot = (self.slot + 1) % self.filling.len();
                }
            }
        }
    }

    /// Planned, but its time never came: its latency has no end either.
    fn count_unsent(mut self, state: &State) {
        let producer = &state.producer;
        let mut outcome = state.outcome.borrow_mut();
        for (slot, batch) in self.filling.iter().enumerate() {
            outcome.sequences[slot].sent = batch.first_sequence + batch.planned.len() as u64;
        }
        let now = clock::now();
        let limited = producer.progress.records_max.is_some() || producer.progress.stopping();
        while self.schedule.is_open_loop() && !limited {
            let planned = self.schedule.due(now);
            if !producer.window.is_before_end(planned) {
                break;
            }
            if producer.window.contains(planned) {
                outcome.unsent += 1;
                outcome.ack_interval.record_open(now.since(planned));
                // Whose fault that was shows as for those that were handed over.
                let late = match self.held_back {
                    true => &mut outcome.held_back,
                    false => &mut outcome.lateness,
                };
                late.record_open(now.since(planned));
            }
            self.schedule.advance();
        }
    }
}
