//! One partition on its shard: decide (partition), do (storage), settle (release who waits).
//!
//! One append at a time enters between `accept` and `on_appended`: both run in one synchronous
//! call. Flushes follow from the partition's own task, one at a time; appends made during a flush
//! form the next group.

use crate::logging::{error, warning};
use crate::requests::Token;
use crate::shard::Shard;
use model::{ErrorCode, Offset, RecordBatch, TopicPartition};
use partition::{Leader, Level};
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use storage::Log;
use wire::produce::ProduceResult;

/// Who waits for an append to reach its level.
struct AckWaiter {
    end: Offset,
    base: Offset,
    token: Token,
    index: u32,
}

/// A partition and everyone who waits for it.
pub(crate) struct PartitionSlot {
    pub(crate) id: TopicPartition,
    pub(crate) leader: RefCell<Leader>,
    pub(crate) log: Rc<Log>,
    written_waiters: RefCell<VecDeque<AckWaiter>>,
    committed_waiters: RefCell<VecDeque<AckWaiter>>,
    fetch_waiters: RefCell<Vec<Token>>,
    dirty: Notify,
    flusher_runs: Cell<bool>,
    closing: Cell<bool>,
    quiet_until: Cell<Nanos>,
}

impl PartitionSlot {
    pub(crate) fn new(id: TopicPartition, leader: Leader, log: Rc<Log>) -> Rc<Self> {
        Rc::new(Self {
            id,
            leader: RefCell::new(leader),
            log,
            written_waiters: RefCell::default(),
            committed_waiters: RefCell::default(),
            fetch_waiters: RefCell::default(),
            dirty: Notify::default(),
            flusher_runs: Cell::new(false),
            closing: Cell::new(false),
            quiet_until: Cell::default(),
        })
    }

    /// Appends a validated batch. The result comes now (`acks=0`, refusals) or to `token` once the
    /// level that `acks` asks for is reached.
    pub(crate) fn append(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        batch: RecordBatch<'_>,
        acks: i16,
        token: Token,
        index: u32,
    ) -> Option<ProduceResult> {
        if self.closing.get() {
            return Some(ProduceResult::refused(ErrorCode::NotLeaderOrFollower, None));
        }
        let (base, epoch, log_start) = {
            let leader = self.leader.borrow();
            (leader.log_end(), leader.epoch(), leader.log_start())
        };
        if self.log.append(batch, base, epoch).is_err() {
            let why = "the partition's disk failed; see the broker's log";
            return Some(ProduceResult::refused(ErrorCode::KafkaStorageError, Some(why)));
        }
        let records = i64::from(batch.last_offset_delta()) + 1;
        let level = if acks == -1 { Level::Durable } else { Level::Written };
        self.leader.borrow_mut().on_appended(records, level);
        if !self.flusher_runs.replace(true) {
            runtime::spawn(Rc::clone(self).flush_until_closed(Rc::clone(shard)));
        }
        self.dirty.notify();
        let waiter = AckWaiter { end: base.plus(records), base, token, index };
        match acks {
            0 => return Some(ProduceResult::appended(base, log_start)),
            1 => self.written_waiters.borrow_mut().push_back(waiter),
            _ => self.committed_waiters.borrow_mut().push_back(waiter),
        }
        None
    }

    async fn flush_until_closed(self: Rc<Self>, shard: Rc<Shard>) {
        loop {
            // Everything else that is ready in this turn appends first: one group, one write.
            let durable = self
                .dirty
                .until(|| {
                    let durable = !self.committed_waiters.borrow().is_empty();
                    (self.closing.get() || self.log.is_dirty(durable)).then_some(durable)
                })
                .await;
            if self.closing.get() {
                self.flusher_runs.set(false);
                self.dirty.notify();
                return;
            }
            let failure = self.log.flush(durable).await.err();
            // Also a flush that failed may have got somewhere first.
            let flushed = self.log.flushed();
            let advanced = self.leader.borrow_mut().on_flushed(flushed.written, flushed.durable);
            self.release(&shard);
            if advanced.is_some() {
                self.wake_fetches(&shard);
            }
            if let Some(failure) = failure {
                if failure.is_full() {
                    // Clients retry many times a second: one line in ten seconds says it.
                    let now = clock::now();
                    if now >= self.quiet_until.get() {
                        self.quiet_until.set(now + Duration::from_secs(10));
                        warning!("partition {}: {failure}", self.id);
                    }
                } else {
                    error!("partition {} is offline: {failure}; restart after repair", self.id);
                }
                self.leader.borrow_mut().on_unwritten_dropped();
                self.refuse_waiters(&shard);
            }
        }
    }

    fn release(&self, shard: &Shard) {
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
                let result = ProduceResult::appended(waiter.base, log_start);
                shard.answer_produce(waiter.token, waiter.index, result);
            }
        }
    }

    fn refuse_waiters(&self, shard: &Shard) {
        let why = "the partition's disk is full or failed; see the broker's log";
        for waiters in [&self.written_waiters, &self.committed_waiters] {
            for waiter in waiters.borrow_mut().drain(..) {
                let result = ProduceResult::refused(ErrorCode::KafkaStorageError, Some(why));
                shard.answer_produce(waiter.token, waiter.index, result);
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

    fn wake_fetches(&self, shard: &Shard) {
        for token in self.fetch_waiters.borrow_mut().drain(..) {
            shard.answer_moved(token);
        }
    }

    /// Ends the partition: no more appends, the flush in progress finishes. With `keep` everything
    /// is made durable and the log closed cleanly.
    pub(crate) async fn close(
        &self,
        shard: &Shard,
        keep: bool,
    ) -> Result<(), storage::StorageError> {
        self.closing.set(true);
        self.dirty.notify();
        self.dirty.until(|| (!self.flusher_runs.get()).then_some(())).await;
        let closed = if keep { self.log.close().await } else { Ok(()) };
        if keep && closed.is_ok() {
            let end = self.log.log_end();
            self.leader.borrow_mut().on_flushed(end, end);
            self.release(shard);
        }
        self.refuse_waiters(shard);
        self.wake_fetches(shard);
        closed
    }
}

impl Token {
    fn is_same_slot(self, other: Self) -> bool {
        self.shard == other.shard && self.slot_number() == other.slot_number()
    }
}
