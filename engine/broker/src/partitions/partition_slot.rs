//! One partition on its shard: decide (partition), do (storage), settle (release who waits).
//!
//! One append at a time enters between `accept` and `on_appended`: both run in one synchronous
//! call. Flushes follow from the partition's own task, one at a time; appends made during a flush
//! form the next group.

use crate::observe::logging::{error, warning};
use crate::observe::stages::{Stage, StageTimes};
use crate::partitions::producer_state::ProducerState;
use crate::shard::requests::Token;
use metadata::in_force::Flushing;
use model::{BatchBuilder, ErrorCode, Marker, Offset, RecordBatch, Retention, TopicPartition};
use partition::{Admission, Answer, Demand, Leader, Level, Proof};
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::timer;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use storage::Log;
use storage::directory::reserve::with_reserve;
use wire::produce::ProduceResult;

const COMPACTION_RESTS: Duration = Duration::from_secs(60);

/// What a partition needs of whoever has it: a host.
pub(crate) trait Host: 'static {
    /// The result of a partition of a produce, for whoever asked.
    fn answer_produce(&self, token: Token, index: u32, result: ProduceResult);
    /// A fetch that found too little may find more now.
    fn answer_moved(&self, token: Token);
    /// Where it notes how long things take.
    fn stages(&self) -> &StageTimes;
    /// Records of a partition were lost to a full or failed disk.
    fn on_lost(self: Rc<Self>, id: TopicPartition);
}

/// Who waits for an append to reach its level.
struct AckWaiter {
    end: Offset,
    base: Offset,
    token: Token,
    index: u32,
    /// The broker's own stamp, -1 if there is none.
    append_time: i64,
}

/// Who writes a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    Coordinator,
    /// By WriteTxnMarkers.
    Operator,
}

/// What a partition's flush task does next.
enum Work {
    /// Flush, with a sync or without.
    Flush(bool),
    /// Someone else flushed: tell who waits.
    Settle,
    Close,
}

/// A partition and everyone who waits for it.
pub(crate) struct PartitionSlot {
    pub(crate) id: TopicPartition,
    pub(crate) leader: RefCell<Leader>,
    pub(crate) log: Rc<Log>,
    pub(crate) producers: ProducerState,
    written_waiters: RefCell<VecDeque<AckWaiter>>,
    committed_waiters: RefCell<VecDeque<AckWaiter>>,
    fetch_waiters: RefCell<Vec<Token>>,
    flushing: Cell<Flushing>,
    look_again: Cell<bool>,
    /// Someone here waits until the log is durable up to this.
    durable_wanted: Cell<Offset>,
    /// The HighWatermark moved, or a flush failed.
    settled: Notify,
    /// Flushes that failed and dropped what was appended.
    failures: Cell<u64>,
    /// When the oldest record that is not synced was appended.
    unsynced_since: Cell<Option<Nanos>>,
    flusher_runs: Cell<bool>,
    closing: Cell<bool>,
    quiet_until: Cell<Nanos>,
    /// After a failure compaction lets the partition be for a while.
    compaction_rests_until: Cell<Nanos>,
}

impl PartitionSlot {
    pub(crate) fn new(
        id: TopicPartition,
        leader: Leader,
        log: Rc<Log>,
        producers: ProducerState,
        flushing: Flushing,
    ) -> Rc<Self> {
        Rc::new(Self {
            id,
            leader: RefCell::new(leader),
            log,
            producers,
            written_waiters: RefCell::default(),
            committed_waiters: RefCell::default(),
            fetch_waiters: RefCell::default(),
            flushing: Cell::new(flushing),
            look_again: Cell::new(false),
            durable_wanted: Cell::default(),
            settled: Notify::default(),
            failures: Cell::new(0),
            unsynced_since: Cell::new(None),
            flusher_runs: Cell::new(false),
            closing: Cell::new(false),
            quiet_until: Cell::default(),
            compaction_rests_until: Cell::default(),
        })
    }

    /// Appends a validated batch, or finds that it is there already. The result comes now
    /// (`acks=0`, refusals) or to `token` once the level that is demanded is reached. `proof` is
    /// what the coordinator's word on its transaction was asked with.
    pub(crate) fn append<H: Host>(
        self: &Rc<Self>,
        host: &Rc<H>,
        batch: RecordBatch<'_>,
        demand: Demand,
        proof: Option<Proof>,
        token: Token,
        index: u32,
    ) -> Option<ProduceResult> {
        let append_time = if batch.is_log_append_time() { batch.max_timestamp() } else { -1 };
        let Demand { level, answer } = demand;
        let admission = match batch.producer() {
            Some(_) => self.producers.borrow().admit(batch, proof),
            None => Ok(Admission::New),
        };
        let (base, append_time, records) = match admission {
            // It was appended before: the answer waits for what the first one waits for.
            Ok(Admission::Duplicate(known)) => {
                (known.base, known.append_time, known.last.since(known.base) + 1)
            }
            Ok(Admission::New) => match self.enter(host, batch, level) {
                Ok(base) => (base, append_time, i64::from(batch.last_offset_delta()) + 1),
                Err(ErrorCode::KafkaStorageError) => {
                    let why = "the partition's disk failed; see the broker's log";
                    return Some(ProduceResult::refused(ErrorCode::KafkaStorageError, Some(why)));
                }
                Err(error) => return Some(ProduceResult::refused(error, None)),
            },
            Err(error) => return Some(ProduceResult::refused(error, None)),
        };
        if answer == Answer::AtOnce {
            if level == Level::Durable {
                // Nobody waits for the sync, but consumers see the records only after it.
                self.want_durable(base.plus(records));
            }
            let log_start = self.leader.borrow().log_start();
            return Some(ProduceResult::appended(base, log_start, append_time));
        }
        let waiter = AckWaiter { end: base.plus(records), base, token, index, append_time };
        let (reached, waiters) = {
            let leader = self.leader.borrow();
            match level {
                Level::Written => (leader.written(), &self.written_waiters),
                Level::Durable => (leader.high_watermark(), &self.committed_waiters),
            }
        };
        if waiter.end <= reached {
            let log_start = self.leader.borrow().log_start();
            return Some(ProduceResult::appended(base, log_start, append_time));
        }
        // Almost always at the end; a duplicate of what is still awaited goes beside it.
        let mut waiters = waiters.borrow_mut();
        let at = waiters.partition_point(|other| other.end <= waiter.end);
        waiters.insert(at, waiter);
        None
    }

    fn want_durable(&self, end: Offset) {
        self.durable_wanted.set(self.durable_wanted.get().max(end));
    }

    /// Puts a batch at the log's end, to be made safe soon; returns its base offset.
    fn enter<H: Host>(
        self: &Rc<Self>,
        host: &Rc<H>,
        batch: RecordBatch<'_>,
        level: Level,
    ) -> Result<Offset, ErrorCode> {
        if self.closing.get() {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let (base, epoch) = {
            let leader = self.leader.borrow();
            (leader.log_end(), leader.epoch())
        };
        if self.log.append(batch, base, epoch).is_err() {
            return Err(ErrorCode::KafkaStorageError);
        }
        let records = i64::from(batch.last_offset_delta()) + 1;
        self.leader.borrow_mut().on_appended(records, level);
        let snapshot = self.producers.on_appended(batch, base, base.plus(records));
        snapshot.into_iter().for_each(|end| self.want_durable(end));
        if self.unsynced_since.get().is_none() {
            self.unsynced_since.set(Some(clock::now()));
        }
        if !self.flusher_runs.replace(true) {
            runtime::spawn(Rc::clone(self).flush_until_closed(Rc::clone(host)));
        }
        self.log.changed().notify();
        Ok(base)
    }

    /// Appends the broker's own records; they are synced. Returns where the log ends then.
    pub(crate) fn append_own<H: Host>(
        self: &Rc<Self>,
        host: &Rc<H>,
        batch: RecordBatch<'_>,
    ) -> Result<Offset, ErrorCode> {
        let base = self.enter(host, batch, Level::Durable)?;
        let end = base.plus(i64::from(batch.last_offset_delta()) + 1);
        self.want_durable(end);
        self.log.changed().notify();
        Ok(end)
    }

    /// Appends the marker that ends a transaction here. Returns where the log ends then.
    pub(crate) fn append_marker<H: Host>(
        self: &Rc<Self>,
        host: &Rc<H>,
        marker: &Marker,
        writer: Writer,
    ) -> Result<Offset, ErrorCode> {
        let marker = &match writer {
            Writer::Coordinator => *marker,
            Writer::Operator => self.producers.borrow().by_operator(*marker),
        };
        self.producers.borrow().check_marker(marker)?;
        let mut builder = BatchBuilder::default();
        self.append_own(host, marker.put(&mut builder, clock::unix_ms()))
    }

    /// First offset that readers of committed records may not see yet.
    pub(crate) fn last_stable_offset(&self) -> Offset {
        let leader = self.leader.borrow();
        let stable = self.producers.borrow().last_stable_offset(leader.high_watermark());
        // The start of an open transaction may have been deleted.
        stable.max(leader.log_start())
    }

    /// First offset that a reader may not see yet.
    pub(crate) fn visible_end(&self, read_committed: bool) -> Offset {
        if read_committed {
            self.last_stable_offset()
        } else {
            self.leader.borrow().high_watermark()
        }
    }

    /// How often appended records were dropped because the disk refused them.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.get()
    }

    /// Waits until everything below `end` is committed; `failures` is what `failures()` said when
    /// it was appended.
    pub(crate) async fn until_committed(
        &self,
        end: Offset,
        failures: u64,
    ) -> Result<(), ErrorCode> {
        let reached = || {
            if self.failures.get() != failures || self.closing.get() {
                return Some(Err(ErrorCode::KafkaStorageError));
            }
            (self.leader.borrow().high_watermark() >= end).then_some(Ok(()))
        };
        self.settled.until(reached).await
    }

    /// Waits until all that was appended is written, or dropped because it cannot be.
    pub(crate) async fn until_written(&self) -> Result<(), storage::StorageError> {
        let over = || {
            if self.log.is_offline() || self.closing.get() {
                return Some(Err(storage::StorageError::Offline));
            }
            let end = self.leader.borrow().log_end();
            (self.log.flushed().written >= end).then_some(Ok(()))
        };
        self.log.changed().until(over).await
    }

    /// Whether the partition ends, or has ended.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Takes over changed settings.
    pub(crate) fn set_flushing(&self, flushing: Flushing) {
        if self.flushing.replace(flushing) != flushing {
            // The flush task looks again at what there is to do, and until when.
            self.look_again.set(true);
            self.log.changed().notify();
        }
    }

    /// Whether what is appended is to be synced, not only written.
    fn wants_sync(&self) -> bool {
        !self.committed_waiters.borrow().is_empty()
            || self.durable_wanted.get() > self.log.flushed().durable
            || self.log.unsynced_records() >= self.flushing.get().messages
            || self.sync_at().is_some_and(|at| clock::now() >= at)
    }

    /// When `flush.ms` asks for a sync.
    fn sync_at(&self) -> Option<Nanos> {
        let ms = self.flushing.get().ms;
        let since = self.unsynced_since.get().filter(|_| ms < i64::MAX)?;
        Some(since + Duration::from_millis(ms as u64))
    }

    /// What there is to do, if anything.
    fn work(&self) -> Option<Work> {
        if self.closing.get() {
            return Some(Work::Close);
        }
        if self.look_again.take() {
            return Some(Work::Settle);
        }
        let flushed = self.log.flushed();
        let known = {
            let leader = self.leader.borrow();
            (leader.written(), leader.durable())
        };
        if known != (flushed.written, flushed.durable) {
            return Some(Work::Settle);
        }
        let waits = !self.written_waiters.borrow().is_empty()
            || !self.committed_waiters.borrow().is_empty()
            || self.settled.has_waiters();
        if self.log.is_offline() {
            return waits.then_some(Work::Flush(true));
        }
        let durable = self.wants_sync();
        self.log.is_dirty(durable).then_some(Work::Flush(durable))
    }

    async fn flush_until_closed<H: Host>(self: Rc<Self>, host: Rc<H>) {
        loop {
            // Everything else that is ready in this turn appends first: one group, one write.
            let unsynced = self.log.unsynced_records() > 0;
            let at = if unsynced { self.sync_at() } else { None };
            let work = timer::before(at, self.log.changed().until(|| self.work())).await;
            let failure = match work {
                Some(Work::Close) => {
                    self.flusher_runs.set(false);
                    self.log.changed().notify();
                    return;
                }
                Some(Work::Settle) => None,
                Some(Work::Flush(durable)) => self.flush(&*host, durable).await,
                None => self.flush(&*host, true).await,
            };
            self.settle(&*host);
            if let Some(failure) = failure {
                self.on_failure(&*host, &failure);
                Rc::clone(&host).on_lost(self.id);
            }
        }
    }

    async fn flush(&self, host: &impl Host, durable: bool) -> Option<storage::StorageError> {
        let began = clock::now();
        let failure = self.log.flush(durable).await.err();
        host.stages().ended(if durable { Stage::Sync } else { Stage::Write }, began);
        failure
    }

    /// Tells the leader how far the disk is, and everyone who waits for that. Also a flush that
    /// failed may have got somewhere first.
    fn settle(self: &Rc<Self>, host: &impl Host) {
        let flushed = self.log.flushed();
        if flushed.durable == self.log.log_end() {
            self.unsynced_since.set(None);
        } else if flushed.durable > self.leader.borrow().durable() {
            self.unsynced_since.set(Some(clock::now()));
        }
        let advanced = self.leader.borrow_mut().on_flushed(flushed.written, flushed.durable);
        self.producers.borrow_mut().on_written(flushed.written);
        if self.producers.is_due(flushed.durable) {
            runtime::spawn(Rc::clone(self).save_producers());
        }
        self.release(host);
        if let Some(advanced) = advanced {
            self.producers.borrow_mut().on_high_watermark(advanced.to);
            self.settled.notify();
            self.wake_fetches(host);
        }
    }

    /// What a start would else read from the log.
    async fn save_producers(self: Rc<Self>) {
        if let Err(failure) = self.producers.save_due(&self.log).await {
            warning!("partition {}: snapshot of producers not written: {failure}", self.id);
        }
    }

    fn on_failure(&self, host: &impl Host, failure: &storage::StorageError) {
        if failure.is_passing() {
            self.complain(&format!("appends are refused: {failure}"));
        }
        self.tell_failure();
        self.leader.borrow_mut().on_unwritten_dropped();
        self.producers.on_dropped(self.leader.borrow().log_end());
        self.durable_wanted.set(self.leader.borrow().log_end().min(self.durable_wanted.get()));
        self.failures.set(self.failures.get() + 1);
        self.settled.notify();
        self.refuse_waiters(host);
        self.wake_fetches(host);
    }

    /// Says, once, what took this partition alone offline; a failed directory tells of itself.
    fn tell_failure(&self) {
        if let Some(failure) = self.log.take_failure()
            && failure.concern() != storage::Concern::Directory
        {
            error!(
                "partition {} is offline: {failure}; it is refused until this is mended and the broker restarted, \
                 others go on",
                self.id
            );
        }
    }

    /// Compaction failed here: it is tried again later.
    pub(crate) fn rest_compaction(&self) {
        self.compaction_rests_until.set(clock::now() + COMPACTION_RESTS);
    }

    pub(crate) fn compaction_rests(&self) -> bool {
        clock::now() < self.compaction_rests_until.get()
    }

    /// Writes down what is known of the producers now; it is on the disk when this returns.
    pub(crate) async fn save_producers_now(&self) -> Result<(), storage::StorageError> {
        let failures = self.failures.get();
        let end = self.log.log_end();
        let snapshot = self.producers.take(end);
        self.want_durable(end);
        self.log.changed().notify();
        // Of what is not durable yet a snapshot on the disk must not know.
        let reached = || {
            let over =
                self.failures.get() != failures || self.closing.get() || self.log.is_offline();
            (over || self.log.flushed().durable >= end).then_some(over)
        };
        if self.log.changed().until(reached).await {
            if self.failures.get() != failures && !self.log.is_offline() && !self.closing.get() {
                // There was no space: with a little of it, it can be tried again.
                return Err(storage::StorageError::Full {
                    path: self.log.home().path().to_owned(),
                });
            }
            return Err(storage::StorageError::Offline);
        }
        self.producers.save(&self.log, snapshot).await
    }

    /// Clients retry many times a second: one line in ten seconds says it.
    pub(crate) fn complain(&self, what: &str) {
        let now = clock::now();
        if now >= self.quiet_until.get() {
            self.quiet_until.set(now + Duration::from_secs(10));
            warning!("partition {}: {what}", self.id);
        }
    }

    fn release(&self, host: &impl Host) {
        let (written, committed, log_start) = {
            let leader = self.leader.borrow();
            (leader.written(), leader.high_watermark(), leader.log_start())
        };
        for (waiters, reached) in
            [(&self.written_waiters, written), (&self.committed_waiters, committed)]
        {
            let mut waiters = waiters.borrow_mut();
            while waiters.front().is_some_and(|waiter| waiter.end <= reached) {
                let waiter = waiters.pop_front().expect("looked at above");
                let result = ProduceResult::appended(waiter.base, log_start, waiter.append_time);
                host.answer_produce(waiter.token, waiter.index, result);
            }
        }
    }

    fn refuse_waiters(&self, host: &impl Host) {
        let why = "the partition's disk is full or failed; see the broker's log";
        for waiters in [&self.written_waiters, &self.committed_waiters] {
            for waiter in waiters.borrow_mut().drain(..) {
                let result = ProduceResult::refused(ErrorCode::KafkaStorageError, Some(why));
                host.answer_produce(waiter.token, waiter.index, result);
            }
        }
    }

    /// Tells `token` once when the HighWatermark moves. One entry a request slot at most.
    pub(crate) fn wait_for_records(&self, token: Token) {
        let mut waiters = self.fetch_waiters.borrow_mut();
        match waiters.iter_mut().find(|waiting| waiting.is_same_slot(token)) {
            Some(waiting) => *waiting = token,
            None => waiters.push(token),
        }
    }

    fn wake_fetches(&self, host: &impl Host) {
        for token in self.fetch_waiters.borrow_mut().drain(..) {
            host.answer_moved(token);
        }
    }

    /// Deletes the records below `offset`; `None`: all that consumers may see. Returns the new log
    /// start.
    pub(crate) async fn delete_records(&self, offset: Option<Offset>) -> Result<Offset, ErrorCode> {
        let high_watermark = self.leader.borrow().high_watermark();
        let start = offset.unwrap_or(high_watermark);
        if start < Offset::ZERO || start > high_watermark {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if self.log.is_offline() || self.closing.get() {
            return Err(ErrorCode::KafkaStorageError);
        }
        if let Err(failure) = self.delete_below(start).await {
            warning!("partition {}: deleting records below {start} failed: {failure}", self.id);
            return Err(ErrorCode::KafkaStorageError);
        }
        let mut leader = self.leader.borrow_mut();
        leader.on_log_start(self.log.log_start());
        self.producers.borrow_mut().on_log_start(leader.log_start());
        Ok(leader.log_start())
    }

    async fn delete_below(&self, start: Offset) -> Result<(), storage::StorageError> {
        if self.producers.is_stale_at(start) {
            let reserve = self.log.home().reserve();
            with_reserve(reserve, async || self.save_producers_now().await).await?;
        }
        self.log.delete_below(start).await
    }

    /// Deletes what retention does not keep.
    pub(crate) async fn retain(&self, retention: Retention) {
        let below = self.last_stable_offset();
        let chosen = match self.log.retained(retention, clock::unix_ms(), below).await {
            Ok(Some(start)) => self.delete_below(start).await.map(|()| Some(start)),
            other => other,
        };
        match chosen {
            Ok(Some(start)) => {
                self.leader.borrow_mut().on_log_start(start);
                self.producers.borrow_mut().on_log_start(start);
                crate::observe::logging::info!(
                    "partition {}: records below {start} deleted",
                    self.id
                );
            }
            Ok(None) => {}
            Err(failure) => warning!("partition {}: retention failed: {failure}", self.id),
        }
    }

    /// Ends the partition: no more appends, the flush in progress finishes. With `keep` everything
    /// is made durable and the log closed cleanly.
    pub(crate) async fn close(
        &self,
        host: &impl Host,
        keep: bool,
    ) -> Result<(), storage::StorageError> {
        self.closing.set(true);
        self.log.changed().notify();
        self.settled.notify();
        self.log.changed().until(|| (!self.flusher_runs.get()).then_some(())).await;
        let closed = if keep {
            self.log.close().await
        } else {
            self.log.forget();
            Ok(())
        };
        if keep && closed.is_ok() {
            let end = self.log.log_end();
            self.leader.borrow_mut().on_flushed(end, end);
            self.release(host);
            if let Err(failure) = self.producers.close(&self.log, end).await {
                warning!("partition {}: snapshot of producers not written: {failure}", self.id);
            }
        }
        self.refuse_waiters(host);
        self.wake_fetches(host);
        closed
    }
}

impl Token {
    fn is_same_slot(self, other: Self) -> bool {
        self.shard == other.shard && self.slot_number() == other.slot_number()
    }
}
