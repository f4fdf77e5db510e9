//! Producers: records by the schedule into batches, batches to their leaders, answers timed.
//!
//! A batch is sent when it is full or has waited `linger`; each request takes one ready batch per
//! partition. A send that fails is counted and not repeated, so that order holds and nothing is
//! sent twice by us. When buffers are full the producer falls behind its schedule, and the delay
//! shows in the latencies, which count from the plan.

use crate::args::Args;
use crate::envelope::{ENVELOPE_BYTES, Envelope};
use crate::histogram::Latency;
use crate::run::{INTERVAL, Interval, Progress, Window};
use crate::schedule::Schedule;
use client::{Connection, TopicView, receive_frame};
use model::record_batch::BatchBuilder;
use model::{ErrorCode, limits};
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
use wire::ApiKey;
use wire::fetch::TopicRef;
use wire::header::{finish_frame, read_response_header};
use wire::produce;

/// The clock is looked at this often at most: a producer sends everything that became due since.
const TICK: Duration = Duration::from_micros(250);
const PAYLOAD_POOL_BYTES: usize = 64 * 1024 * 1024;
const REQUEST_CHUNK_BYTES: usize = 2 * 1024 * 1024;
/// Records made before others get a turn.
const BURST_RECORDS: u64 = 2_000;

/// What a producer found, for the report.
#[derive(Default)]
pub(crate) struct ProducerOutcome {
    /// From plan to acknowledgement, measured window only.
    pub(crate) ack: Latency,
    /// The part of `ack` since the last interval was sent off.
    ack_interval: Latency,
    /// From sending the request to its answer.
    pub(crate) service: Latency,
    /// From plan to hand-over: how late loadgen itself was.
    pub(crate) lateness: Latency,
    pub(crate) warmup_ack: Latency,
    /// Records planned in the window that were handed over, acknowledged, failed.
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) failed: u64,
    /// Acknowledged within the window, whenever planned.
    pub(crate) acked_in_window: u64,
    pub(crate) batches: u64,
    pub(crate) batch_records: u64,
    pub(crate) batch_bytes: u64,
    pub(crate) requests: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Per partition: records numbered, and ranges of numbers that were not acknowledged.
    pub(crate) sequences: Vec<(u64, Vec<(u64, u64)>)>,
}

/// Payload bytes shared by the producers of a thread: random, so that no codec can shrink them.
pub(crate) struct Payloads {
    pool: Vec<u8>,
}

impl Payloads {
    pub(crate) fn new(seed: u64, record_bytes: usize) -> Rc<Self> {
        let mut pool = vec![0; PAYLOAD_POOL_BYTES + record_bytes];
        Random::new(seed).fill(&mut pool);
        Rc::new(Self { pool })
    }

    fn at(&self, number: u64, len: usize) -> &[u8] {
        // A stride that is prime to the pool walks all of it before it repeats.
        let start = (number.wrapping_mul(1_000_003) % PAYLOAD_POOL_BYTES as u64) as usize;
        &self.pool[start..start + len]
    }
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
    partition: i32,
    bytes: Vec<u8>,
    planned: Vec<Nanos>,
    first_sequence: u64,
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
    pub(crate) topic: TopicView,
    pub(crate) run: u64,
    pub(crate) number: usize,
    pub(crate) schedule: Schedule,
    pub(crate) window: Window,
    pub(crate) payloads: Rc<Payloads>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) intervals: Sender<Interval>,
}

struct State {
    producer: Producer,
    lanes: Vec<Rc<Lane>>,
    lane_of: Vec<usize>,
    outcome: RefCell<ProducerOutcome>,
    buffered_bytes: Cell<u64>,
    changed: Notify,
    spare: RefCell<Vec<(Vec<u8>, Vec<Nanos>)>>,
    chunks: RefCell<ChunkPool>,
    scratch: RefCell<Vec<u8>>,
}

impl Producer {
    /// Runs the schedule to its end and waits for the answers.
    pub(crate) async fn run(self) -> Result<ProducerOutcome, String> {
        let mut addresses: Vec<String> = self.topic.leaders.clone();
        addresses.sort();
        addresses.dedup();
        let lane_of = self.topic.leaders.iter().map(|leader| {
            addresses.iter().position(|address| address == leader).expect("every leader is listed")
        });
        let lane_of = lane_of.collect();
        let lanes = addresses.into_iter().map(|address| {
            Rc::new(Lane {
                address,
                link: RefCell::default(),
                ready: RefCell::default(),
                in_flight: RefCell::default(),
                sending: Cell::new(false),
            })
        });
        let partitions = self.topic.leaders.len();
        let state = Rc::new(State {
            lanes: lanes.collect(),
            lane_of,
            outcome: RefCell::new(ProducerOutcome {
                sequences: vec![(0, Vec::new()); partitions],
                ..ProducerOutcome::default()
            }),
            buffered_bytes: Cell::new(0),
            changed: Notify::default(),
            spare: RefCell::default(),
            chunks: RefCell::new(ChunkPool::new(REQUEST_CHUNK_BYTES, 64, 2)),
            scratch: RefCell::default(),
            producer: self,
        });
        for lane in &state.lanes {
            state.connect(lane).await?;
        }
        let ticking = Rc::clone(&state);
        spawn(async move {
            loop {
                timer::sleep(INTERVAL).await;
                ticking.send_interval();
            }
        });
        state.produce().await;
        state.drain().await;
        state.send_interval();
        for lane in &state.lanes {
            if let Some(link) = lane.link.borrow_mut().take() {
                link.connection.socket.shutdown();
            }
        }
        Ok(std::mem::take(&mut *state.outcome.borrow_mut()))
    }
}

impl State {
    /// Adds what was timed since the last call to the whole, and shows it to the main thread.
    fn send_interval(&self) {
        let mut outcome = self.outcome.borrow_mut();
        let interval = std::mem::take(&mut outcome.ack_interval);
        outcome.ack.add(&interval);
        if interval.count() > 0 {
            let _ = self.producer.intervals.send(Interval { kind: "ack", latency: interval });
        }
    }

    async fn connect(self: &Rc<Self>, lane: &Rc<Lane>) -> Result<(), String> {
        let mut connection = Connection::open(&lane.address, &self.producer.args.client_id).await?;
        let version = connection.version(ApiKey::Produce, 11)?;
        let (socket, mut buffer, mut pool) = connection.take_receiver();
        *lane.link.borrow_mut() = Some(Link { connection, version });
        let (state, lane) = (Rc::clone(self), Rc::clone(lane));
        spawn(async move {
            loop {
                match receive_frame(&socket, &mut buffer, &mut pool).await {
                    Ok(frame) => {
                        if let Err(why) = state.on_response(&lane, &frame, version) {
                            state.lose(&lane, &why);
                            return;
                        }
                    }
                    Err(why) => {
                        state.lose(&lane, &why);
                        return;
                    }
                }
            }
        });
        Ok(())
    }

    /// The connection is gone: what was in flight is not acknowledged.
    fn lose(&self, lane: &Lane, why: &str) {
        if let Some(link) = lane.link.borrow_mut().take() {
            link.connection.socket.shutdown();
        }
        let lost: Vec<InFlight> = lane.in_flight.borrow_mut().drain(..).collect();
        for request in lost {
            for batch in request.batches {
                self.fail(batch, why);
            }
        }
        self.changed.notify();
    }

    fn fail(&self, batch: Sealed, why: &str) {
        let records = batch.planned.len() as u64;
        let mut outcome = self.outcome.borrow_mut();
        *outcome.errors.entry(why.to_owned()).or_default() += records;
        let in_window = self.in_window(&batch.planned);
        outcome.failed += in_window;
        let (first, behind) = (batch.first_sequence, batch.first_sequence + records);
        outcome.sequences[batch.partition as usize].1.push((first, behind));
        drop(outcome);
        self.producer.progress.failed.fetch_add(records, Relaxed);
        self.recycle(batch);
    }

    fn in_window(&self, planned: &[Nanos]) -> u64 {
        planned.iter().filter(|at| self.producer.window.contains(**at)).count() as u64
    }

    fn recycle(&self, mut batch: Sealed) {
        self.buffered_bytes.set(self.buffered_bytes.get() - batch.bytes.len() as u64);
        batch.bytes.clear();
        batch.planned.clear();
        self.spare.borrow_mut().push((batch.bytes, batch.planned));
    }

    fn on_response(&self, lane: &Lane, frame: &[u8], version: i16) -> Result<(), String> {
        let now = clock::now();
        let (_, body) = read_response_header(frame, ApiKey::Produce, version)
            .map_err(|error| format!("malformed produce response: {error}"))?;
        let request = lane.in_flight.borrow_mut().pop_front();
        let mut request = request.ok_or("a response nobody asked for")?;
        let read = produce::read_response(body, version, |partition, error, _| {
            let at = request.batches.iter().position(|batch| batch.partition == partition);
            let Some(at) = at else { return };
            let batch = request.batches.swap_remove(at);
            if error == ErrorCode::None {
                self.acknowledge(batch, request.sent_at, now);
            } else {
                self.fail(batch, &error.name());
            }
        });
        for forgotten in request.batches {
            self.fail(forgotten, "the response left it out");
        }
        read.map_err(|error| format!("malformed produce response: {error}"))?;
        self.changed.notify();
        Ok(())
    }

    fn acknowledge(&self, batch: Sealed, sent_at: Nanos, now: Nanos) {
        let window = self.producer.window;
        let mut outcome = self.outcome.borrow_mut();
        let outcome = &mut *outcome;
        let mut in_window = 0;
        for planned in &batch.planned {
            if window.contains(*planned) {
                outcome.ack_interval.record(now.since(*planned), 1);
                in_window += 1;
            } else {
                outcome.warmup_ack.record(now.since(*planned), 1);
            }
        }
        if in_window > 0 {
            outcome.service.record(now.since(sent_at), in_window);
        }
        outcome.acked += in_window;
        if window.contains(now) {
            outcome.acked_in_window += batch.planned.len() as u64;
        }
        self.producer.progress.acked.fetch_add(batch.planned.len() as u64, Relaxed);
        self.recycle(batch);
    }

    fn open_batch(&self, at: Nanos, sequence: u64, number: u64) -> Filling {
        let (_, planned) = self.spare.borrow_mut().pop().unwrap_or_default();
        let mut builder = BatchBuilder::default();
        builder.begin(clock::unix_ms());
        Filling { builder, planned, first_sequence: sequence, opened: at, number }
    }

    async fn produce(self: &Rc<Self>) {
        let producer = &self.producer;
        let args = &producer.args;
        let partitions = self.lane_of.len();
        let linger = Duration::from_secs_f64(args.linger_ms / 1000.0);
        let mut filling: Vec<Filling> =
            (0..partitions).map(|_| self.open_batch(Nanos(0), 0, 0)).collect();
        let mut lingering: VecDeque<(Nanos, usize, u64)> = VecDeque::new();
        let mut value = vec![0; args.record_size as usize];
        let mut key = vec![0; args.key_size as usize];
        // Producers begin at different partitions, so that they do not move in step.
        let mut partition = producer.number % partitions;
        let (mut made, mut batch_number) = (0u64, 0u64);
        let record_bytes = value.len() + key.len() + 40;
        loop {
            let now = clock::now();
            let mut burst = 0;
            let mut next_due = None;
            while !producer.progress.stopping() {
                let planned = if producer.schedule.is_open_loop() {
                    producer.schedule.planned(made)
                } else {
                    now
                };
                let over = !producer.window.is_before_end(planned)
                    || producer.progress.records_max.is_some_and(|max| {
                        made * args.producer_count() as u64 + producer.number as u64 >= max
                    });
                if over {
                    break;
                }
                next_due = Some(planned);
                if planned > now
                    || burst >= BURST_RECORDS
                    || self.buffered_bytes.get() >= args.buffer_memory
                {
                    break;
                }
                let batch = &mut filling[partition];
                if batch.builder.record_count() > 0
                    && batch.builder.len() + record_bytes
                        > (args.batch_size as usize).max(record_bytes + limits::BATCH_HEADER_BYTES)
                {
                    self.seal(partition, batch);
                }
                if batch.builder.is_empty() {
                    batch_number += 1;
                    (batch.opened, batch.number) = (now, batch_number);
                    batch.builder.begin(clock::unix_ms());
                    lingering.push_back((now + linger, partition, batch_number));
                }
                let sequence = batch.first_sequence + batch.planned.len() as u64;
                let identity = Envelope {
                    run: producer.run,
                    producer: producer.number as u32,
                    sequence,
                    planned,
                };
                value[ENVELOPE_BYTES..].copy_from_slice(
                    producer.payloads.at(made, args.record_size as usize - ENVELOPE_BYTES),
                );
                identity.write(&mut value);
                let key = if key.is_empty() {
                    None
                } else {
                    let bytes = producer.payloads.at(made ^ 0x5555, key.len());
                    key.copy_from_slice(bytes);
                    Some(&key[..])
                };
                let unix_ms = clock::unix_ms();
                batch.builder.push(unix_ms, key, Some(&value), &[]);
                batch.planned.push(planned);
                if producer.window.contains(planned) {
                    let mut outcome = self.outcome.borrow_mut();
                    outcome.lateness.record(now.since(planned), 1);
                    outcome.sent += 1;
                }
                made += 1;
                burst += 1;
                partition = (partition + 1) % partitions;
            }
            producer.progress.sent.fetch_add(burst, Relaxed);
            let now = clock::now();
            while let Some(&(due, partition, number)) = lingering.front() {
                let batch = &mut filling[partition];
                let gone = batch.number != number || batch.builder.is_empty();
                if !gone && due > now && next_due.is_some() {
                    break;
                }
                lingering.pop_front();
                if !gone {
                    self.seal(partition, batch);
                }
            }
            self.send_ready();
            let Some(next_due) = next_due else { break };
            let full = self.buffered_bytes.get() >= args.buffer_memory;
            if burst >= BURST_RECORDS && !full {
                runtime::yield_now().await;
                continue;
            }
            let mut wake_at =
                if full { now + Duration::from_millis(100) } else { next_due.max(now + TICK) };
            if let Some((due, ..)) = lingering.front() {
                wake_at = wake_at.min((*due).max(now + TICK));
            }
            if full {
                self.until_changed_or(wake_at).await;
            } else {
                timer::sleep_until(wake_at).await;
            }
        }
        let mut outcome = self.outcome.borrow_mut();
        for (partition, batch) in filling.iter().enumerate() {
            outcome.sequences[partition].0 = batch.first_sequence + batch.planned.len() as u64;
        }
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

    fn seal(&self, partition: usize, batch: &mut Filling) {
        let args = &self.producer.args;
        let (mut bytes, planned) = self.spare.borrow_mut().pop().unwrap_or_default();
        bytes.extend_from_slice(batch.builder.finish(args.compression_type));
        let records = batch.planned.len() as u64;
        {
            let mut outcome = self.outcome.borrow_mut();
            outcome.batches += 1;
            outcome.batch_records += records;
            outcome.batch_bytes += bytes.len() as u64;
        }
        self.buffered_bytes.set(self.buffered_bytes.get() + bytes.len() as u64);
        let sealed = Sealed {
            partition: partition as i32,
            bytes,
            planned: std::mem::replace(&mut batch.planned, planned),
            first_sequence: batch.first_sequence,
        };
        batch.first_sequence += records;
        batch.builder.begin(0);
        self.lanes[self.lane_of[partition]].ready.borrow_mut().push_back(sealed);
    }

    fn send_ready(self: &Rc<Self>) {
        for lane in &self.lanes {
            if !lane.sending.get() && !lane.ready.borrow().is_empty() {
                lane.sending.set(true);
                spawn(Rc::clone(self).send(Rc::clone(lane)));
            }
        }
    }

    /// Sends what is ready on a lane while requests may be in flight.
    async fn send(self: Rc<Self>, lane: Rc<Lane>) {
        let args = &self.producer.args;
        let mut pieces: Vec<SharedBytes> = Vec::new();
        while !lane.ready.borrow().is_empty() {
            let in_flight = || lane.in_flight.borrow().len() < args.max_in_flight as usize;
            self.changed.until(|| in_flight().then_some(())).await;
            if lane.link.borrow().is_none() && self.connect(&lane).await.is_err() {
                // Away for now: what is due until it comes back fails.
                timer::sleep(Duration::from_millis(100)).await;
                let due: Vec<Sealed> = lane.ready.borrow_mut().drain(..).collect();
                for batch in due {
                    self.fail(batch, "broker unreachable");
                }
                continue;
            }
            // One batch per partition, in order: later batches of a partition wait.
            let mut batches: Vec<Sealed> = Vec::new();
            {
                let mut ready = lane.ready.borrow_mut();
                let mut kept = VecDeque::with_capacity(ready.len());
                let mut bytes = 0;
                while let Some(batch) = ready.pop_front() {
                    let fits = bytes + batch.bytes.len() <= 1024 * 1024 || batches.is_empty();
                    let taken = batches.iter().any(|b| b.partition == batch.partition)
                        || kept.iter().any(|b: &Sealed| b.partition == batch.partition);
                    if fits && !taken {
                        bytes += batch.bytes.len();
                        batches.push(batch);
                    } else {
                        kept.push_back(batch);
                    }
                }
                *ready = kept;
            }
            let socket: Rc<Socket> = {
                let mut link = lane.link.borrow_mut();
                let Some(link) = link.as_mut() else { continue };
                let mut out = self.scratch.borrow_mut();
                out.clear();
                link.connection.begin(&mut out, ApiKey::Produce, link.version);
                produce::put_request(
                    &mut out,
                    link.version,
                    args.acks.code(),
                    args.request_timeout_ms as i32,
                    TopicRef::Name(&self.producer.topic.name),
                    batches.iter().map(|batch| (batch.partition, &batch.bytes[..])),
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
            if self.lanes.iter().all(idle) {
                return;
            }
            let now = clock::now();
            if now >= give_up || self.producer.progress.aborted() {
                break;
            }
            self.send_ready();
            self.until_changed_or(now + Duration::from_millis(20)).await;
        }
        for lane in &self.lanes {
            self.lose(lane, "no answer in time");
            let due: Vec<Sealed> = lane.ready.borrow_mut().drain(..).collect();
            for batch in due {
                self.fail(batch, "not sent in time");
            }
        }
    }
}
