//! Consumers: assigned partitions, fetched from their leaders, every record looked at.

use crate::args::Args;
use crate::client::{Connection, TopicView, end_offsets};
use crate::envelope::Envelope;
use crate::histogram::Latency;
use crate::run::{INTERVAL, Interval, Progress, Window};
use crate::verifier::{Seen, Verdict};
use model::{ErrorCode, RecordBatch, TopicId};
use runtime::buffer::{ChunkPool, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::timer;
use std::cell::RefCell;
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
    /// By partition and producer.
    pub(crate) seen: BTreeMap<(i32, u32), Seen>,
}

/// One consumer and its partitions.
pub(crate) struct Consumer {
    pub(crate) args: Arc<Args>,
    pub(crate) topic: TopicView,
    pub(crate) run: u64,
    pub(crate) window: Window,
    pub(crate) progress: Arc<Progress>,
    pub(crate) partitions: Vec<i32>,
    pub(crate) intervals: Sender<Interval>,
}

impl Consumer {
    /// Adds what was timed since the last call to the whole, and shows it to the main thread.
    fn send_interval(&self, outcome: &RefCell<ConsumerOutcome>) {
        let mut outcome = outcome.borrow_mut();
        let interval = std::mem::take(&mut outcome.e2e_interval);
        outcome.e2e.add(&interval);
        if interval.count() > 0 {
            let _ = self.intervals.send(Interval { kind: "e2e", latency: interval });
        }
    }

    /// Consumes until told to stop.
    pub(crate) async fn run(self, ready: impl Fn()) -> Result<ConsumerOutcome, String> {
        let outcome = RefCell::new(ConsumerOutcome::default());
        let mut by_leader: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in &self.partitions {
            let leader = self.topic.leaders[*partition as usize].clone();
            by_leader.entry(leader).or_default().push(*partition);
        }
        let me = Rc::new(self);
        let outcome = Rc::new(outcome);
        let left = Rc::new(std::cell::Cell::new(by_leader.len()));
        let done = Rc::new(runtime::notify::Notify::default());
        for (leader, partitions) in by_leader {
            let mut connection = Connection::open(&leader, &me.args.client_id).await?;
            let ends = end_offsets(&mut connection, &me.topic.name, &partitions).await?;
            let asks: Vec<FetchAsk> = partitions
                .iter()
                .map(|partition| FetchAsk {
                    partition: *partition,
                    offset: ends.get(partition).copied().unwrap_or(0),
                })
                .collect();
            for ask in &asks {
                let place = &me.progress.partitions[ask.partition as usize];
                place.position.store(ask.offset, Relaxed);
                place.high_watermark.store(ask.offset, Relaxed);
            }
            let (me, outcome) = (Rc::clone(&me), Rc::clone(&outcome));
            let (left, done) = (Rc::clone(&left), Rc::clone(&done));
            runtime::spawn(async move {
                me.follow(leader, connection, asks, &outcome).await;
                left.set(left.get() - 1);
                done.notify();
            });
        }
        ready();
        let (ticking, ticked) = (Rc::clone(&me), Rc::clone(&outcome));
        runtime::spawn(async move {
            loop {
                timer::sleep(INTERVAL).await;
                ticking.send_interval(&ticked);
            }
        });
        done.until(|| (left.get() == 0).then_some(())).await;
        me.send_interval(&outcome);
        Ok(std::mem::take(&mut *outcome.borrow_mut()))
    }

    async fn follow(
        &self,
        leader: String,
        mut connection: Connection,
        mut asks: Vec<FetchAsk>,
        outcome: &RefCell<ConsumerOutcome>,
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
        while !self.progress.consumers_stopping() {
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
                    if self.progress.consumers_stopping() {
                        return;
                    }
                    *outcome.borrow_mut().errors.entry(why).or_default() += 1;
                    // Gone: come back when it is.
                    while !self.progress.consumers_stopping() {
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
            let place = &self.progress.partitions[part.partition as usize];
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
        let Ok(records) = batch.records(scratch) else {
            outcome.corrupt += batch.record_count().max(1) as u64;
            return;
        };
        let mut count = 0;
        let place = &self.progress.partitions[partition as usize];
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
            if self.window.contains(envelope.planned) {
                outcome.e2e_interval.record(latency, 1);
                outcome.consumed += 1;
            } else {
                outcome.warmup_e2e.record(latency, 1);
            }
            if self.window.contains(now) {
                outcome.consumed_in_window += 1;
                outcome.bytes_in_window += record.value.map_or(0, <[u8]>::len) as u64;
            }
            place.last_planned.store(envelope.planned.0, Relaxed);
        }
        self.progress.consumed.fetch_add(count, Relaxed);
    }
}
