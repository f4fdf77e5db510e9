//! A coordinator's hands: reads its state from an internal topic, appends its records there, holds
//! every answer until they are durable, and tells it the time.
//!
//! One `StateLog` per partition of that topic, on the shard that owns it. A record that could not be
//! made durable throws the state away: it is read again from the log, and clients find out by an
//! error that makes them look for their coordinator anew.

use crate::metadata::topics;
use crate::observe::logging::{error, info, warning};
use crate::partitions::log_walk::walk;
use crate::partitions::partition_slot::{PartitionSlot, Writer};
use crate::shard::shard::{Follower, Shard};
use coordinator::{LogRecord, Now};
use metadata::changes::NewTopic;
use metadata::image::MetadataImage;
use model::{
    BatchBuilder, Compression, ErrorCode, LeaderEpoch, Marker, Offset, Producer, ProducerId,
    RecordBatch, TopicName, TopicPartition,
};
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::timer;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::StorageError;
use wire::WireError;

/// One batch of the coordinator's records holds about so many bytes at most, if it holds several.
const BATCH_BYTES: usize = 256 * 1024;
/// A log that could not be read is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);

/// What a step wants appended.
#[derive(Default)]
pub(crate) struct Records {
    pub(crate) plain: Vec<LogRecord>,
    /// Parts of that producer's transaction, which the caller has made sure of.
    pub(crate) transactional: Vec<(Producer, LogRecord)>,
}

/// State that follows from the records of an internal topic.
pub(crate) trait Machine: Sized + 'static {
    /// Where its records are.
    const TOPIC: &'static str;
    /// What it holds, in one word.
    const WHAT: &'static str;
    /// What a step brings about besides records, once those are durable.
    type Effects;
    /// What belongs to the log here and is not read from it.
    type Beside: Default;

    /// A machine that knows nothing yet; its log, led in this epoch, is about to be read for the `loads`th time.
    fn begin(shard: &Shard, epoch: LeaderEpoch, loads: i32) -> Self;
    /// How many partitions its topic is made with.
    fn partitions(shard: &Shard) -> i32;
    /// Takes in a record; `in_transaction` is its producer, if it was written with a transaction.
    fn replay(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        in_transaction: Option<ProducerId>,
    ) -> Result<(), WireError>;
    /// Takes in a marker.
    fn on_marker(&mut self, marker: Marker);
    fn on_loaded(&mut self, now: Now);
    /// How many it holds.
    fn count(&self) -> usize;
    fn next_deadline(&self) -> Option<u64>;
    fn on_time(&mut self, here: Here<'_>, now: Now);
    fn take_effects(&mut self) -> (Records, Self::Effects);
    /// Brings about what a step does besides its records.
    fn settle(log: &Rc<StateLog<Self>>, shard: &Rc<Shard>, effects: Self::Effects, at: Written);
    /// The state is read anew from the log.
    fn on_reloaded(log: &Rc<StateLog<Self>>, shard: &Rc<Shard>);
    /// Topics went.
    fn on_topics(_: &Rc<StateLog<Self>>, _: &Rc<Shard>) {}
    /// The state was thrown away.
    fn on_unloaded(log: &StateLog<Self>);
}

/// What a step may ask of the shard that it runs on.
#[derive(Clone, Copy)]
pub(crate) struct Here<'a>(&'a Shard);

impl Here<'_> {
    /// Which topics there are.
    pub(crate) fn image(self) -> Arc<MetadataImage> {
        self.0.image()
    }

    /// A producer id that nobody has yet.
    ///
    /// # Errors
    /// There are none left.
    pub(crate) fn take_producer_id(self) -> Result<ProducerId, ErrorCode> {
        self.0.take_producer_id()
    }
}

/// Whether the coordinator knows what its log says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unloaded { retry_at: Nanos },
    Loading,
    Loaded,
}

/// Where the log ended after a step, and how often it had failed by then: what the step's answers
/// wait for.
#[derive(Clone, Copy)]
pub(crate) struct Written {
    end: Offset,
    failures: u64,
}

/// One partition of an internal topic, and the state that it holds.
pub(crate) struct StateLog<M: Machine> {
    slot: Rc<PartitionSlot>,
    state: Cell<State>,
    machine: RefCell<M>,
    pub(crate) beside: M::Beside,
    /// The state or the next deadline changed.
    changed: Notify,
    /// How often the state was read.
    loads: Cell<i32>,
    /// What `slot.failures()` was when the state was read.
    failures: Cell<u64>,
    /// What the keeper of time waits for.
    armed_for: Cell<Option<u64>>,
    keeper_runs: Cell<bool>,
    builder: RefCell<BatchBuilder>,
}

pub(crate) fn now() -> Now {
    Now { ms: clock::now().0 / 1_000_000, unix_ms: clock::unix_ms() }
}

/// Java's hash of a string, as every Kafka client and tool computes it: over UTF-16 units.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The partition of an internal topic that a name lives in.
pub(crate) fn partition_of_name(name: &str, partitions: i32) -> i32 {
    (java_hash(name) & i32::MAX) % partitions
}

/// Makes the machine's topic if it is not there. Returns its id for a name's partition.
pub(crate) async fn home_of<M: Machine>(
    shard: &Rc<Shard>,
    name: &str,
) -> Result<TopicPartition, ErrorCode> {
    if shard.image().topic(M::TOPIC).is_none() {
        // A start reads what compaction has not got to yet: no more than a few such files.
        let settings = [
            ("cleanup.policy", "compact"),
            ("compression.type", "producer"),
            ("segment.bytes", "16777216"),
        ];
        let topic = NewTopic {
            name: TopicName::new(M::TOPIC).expect("a valid name"),
            partitions: M::partitions(shard),
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        // Someone else may have made it meanwhile: only what is there then counts.
        topics::create(shard, vec![topic]).await;
    }
    let image = shard.image();
    let topic = image.topic(M::TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
    let index = partition_of_name(name, topic.count());
    topic.partition(index).ok_or(ErrorCode::CoordinatorNotAvailable)
}

/// Runs `body` with the partition that a name lives in, on the shard that owns it.
pub(crate) async fn at_home<M: Machine, T: Send + 'static, F>(
    shard: &Rc<Shard>,
    name: &str,
    body: impl FnOnce(Rc<Shard>, Rc<StateLog<M>>) -> F + Send + 'static,
) -> Result<T, ErrorCode>
where
    F: Future<Output = Result<T, ErrorCode>> + 'static,
{
    let id = home_of::<M>(shard, name).await?;
    shard
        .call(shard.owner_of(id), move |owner| async move {
            let log =
                owner.follower::<StateLog<M>>(id).ok_or(ErrorCode::CoordinatorNotAvailable)?;
            body(Rc::clone(&owner), log).await
        })
        .await
}

/// One step where a name lives; returns once all it rests on is durable.
pub(crate) async fn step_at<M: Machine, T: Send + 'static>(
    shard: &Rc<Shard>,
    name: &str,
    step: impl FnOnce(Here<'_>, &mut M, Now) -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    at_home(
        shard,
        name,
        move |shard, log: Rc<StateLog<M>>| async move { log.run(&shard, step).await },
    )
    .await
}

/// Runs `step` on every partition, on all shards.
pub(crate) async fn step_at_all<M: Machine, T: Send + 'static>(
    shard: &Rc<Shard>,
    step: impl Fn(Here<'_>, &mut M, Now) -> T + Send + Clone + 'static,
) -> Vec<Result<T, ErrorCode>> {
    let mut all = Vec::new();
    for to in 0..shard.mailbox.shards() {
        let step = step.clone();
        let theirs = shard.call(to, move |owner| async move {
            let mut results = Vec::new();
            for log in owner.followers::<StateLog<M>>() {
                results.push(log.run(&owner, step.clone()).await);
            }
            results
        });
        all.extend(theirs.await);
    }
    all
}

impl<M: Machine> Follower for StateLog<M> {
    fn on_topics(self: Rc<Self>, shard: &Rc<Shard>) {
        M::on_topics(&self, shard);
    }

    fn on_lost(self: Rc<Self>, shard: &Rc<Shard>) {
        let shard = Rc::clone(shard);
        runtime::spawn(async move {
            // A log that cannot be read now is tried again when it is asked for.
            let _ = self.until_loaded(&shard).await;
        });
    }
}

impl<M: Machine> StateLog<M> {
    pub(crate) fn new(shard: &Shard, slot: Rc<PartitionSlot>) -> Rc<Self> {
        let machine = M::begin(shard, slot.leader.borrow().epoch(), 0);
        Rc::new(Self {
            state: Cell::new(State::Unloaded { retry_at: Nanos::default() }),
            machine: RefCell::new(machine),
            beside: M::Beside::default(),
            changed: Notify::default(),
            loads: Cell::new(0),
            failures: Cell::new(slot.failures()),
            armed_for: Cell::new(None),
            keeper_runs: Cell::new(false),
            builder: RefCell::default(),
            slot,
        })
    }

    /// The partition that the records are in.
    pub(crate) fn slot(&self) -> &Rc<PartitionSlot> {
        &self.slot
    }

    /// One step; its value is given once what it wrote, and all that was written before, is
    /// durable.
    pub(crate) async fn run<T>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        step: impl FnOnce(Here<'_>, &mut M, Now) -> T,
    ) -> Result<T, ErrorCode> {
        self.until_loaded(shard).await?;
        let (value, written) = self.step(shard, step)?;
        self.until_durable(written).await?;
        Ok(value)
    }

    pub(crate) async fn until_durable(&self, written: Written) -> Result<(), ErrorCode> {
        let durable = self.slot.until_committed(written.end, written.failures).await;
        durable.map_err(|_| ErrorCode::CoordinatorNotAvailable)
    }

    /// One step, and what it brings about; returns where the log ends then.
    pub(crate) fn step<T>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        step: impl FnOnce(Here<'_>, &mut M, Now) -> T,
    ) -> Result<(T, Written), ErrorCode> {
        let (value, (records, effects), deadline) = {
            let mut machine = self.machine.borrow_mut();
            let value = step(Here(shard), &mut machine, now());
            (value, machine.take_effects(), machine.next_deadline())
        };
        let end = match self.append(shard, &records) {
            Ok(end) => end,
            Err(why) => {
                self.unload(&format!("its records cannot be appended ({})", why.name()));
                return Err(ErrorCode::CoordinatorNotAvailable);
            }
        };
        let written = Written { end, failures: self.failures.get() };
        M::settle(self, shard, effects, written);
        if deadline != self.armed_for.get() {
            self.changed.notify();
        }
        Ok((value, written))
    }

    /// Appends records; returns where the log ends.
    fn append(self: &Rc<Self>, shard: &Rc<Shard>, records: &Records) -> Result<Offset, ErrorCode> {
        let mut end = self.slot.leader.borrow().log_end();
        let plain = records.plain.iter().map(|record| (None, record));
        let transactional = records.transactional.iter().map(|(who, record)| (Some(*who), record));
        let mut rest = plain.chain(transactional).peekable();
        let unix_ms = clock::unix_ms();
        let mut builder = self.builder.borrow_mut();
        while let Some(&(producer, _)) = rest.peek() {
            builder.begin(unix_ms);
            if let Some(producer) = producer {
                builder.set_producer(producer, -1, true);
            }
            while builder.is_empty() || builder.len() < BATCH_BYTES {
                let Some((_, record)) = rest.next_if(|(who, _)| *who == producer) else { break };
                builder.push(unix_ms, Some(&record.key), record.value.as_deref(), &[]);
            }
            let bytes = builder.finish(Compression::None);
            let (batch, _) = RecordBatch::split_first(bytes).expect("built just now");
            end = self.slot.append_own(shard, batch)?;
        }
        Ok(end)
    }

    /// Writes a marker, and lets the state know of it; returns once it is durable.
    pub(crate) async fn mark(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        marker: Marker,
        writer: Writer,
    ) -> Result<(), ErrorCode> {
        // A state that cannot be read now will find the marker in the log.
        let loaded = self.until_loaded(shard).await.is_ok();
        let (end, failures) =
            (self.slot.append_marker(shard, &marker, writer)?, self.slot.failures());
        if loaded {
            self.step(shard, |_, machine, _| machine.on_marker(marker))?;
        }
        self.slot.until_committed(end, failures).await
    }

    /// Throws the state away; it is read again when it is asked for.
    fn unload(&self, why: &str) {
        if self.state.get() != State::Loaded {
            return;
        }
        self.slot.complain(&format!("{}: {why}; they are read again from the log", M::WHAT));
        self.state.set(State::Unloaded { retry_at: Nanos::default() });
        M::on_unloaded(self);
        self.changed.notify();
    }

    /// Looks at the state, as it is just now.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.machine.borrow())
    }

    /// Whether the state is what the log says.
    pub(crate) fn is_loaded(&self) -> bool {
        self.state.get() == State::Loaded
    }

    /// Waits until the state is what the log says.
    pub(crate) async fn until_loaded(self: &Rc<Self>, shard: &Rc<Shard>) -> Result<(), ErrorCode> {
        loop {
            if self.slot.failures() != self.failures.get() {
                self.unload("records were lost to a full or failed disk");
            }
            match self.state.get() {
                State::Loaded => return Ok(()),
                State::Loading => {
                    let over = || (self.state.get() != State::Loading).then_some(());
                    self.changed.until(over).await;
                }
                State::Unloaded { retry_at } if clock::now() < retry_at => {
                    return Err(ErrorCode::CoordinatorNotAvailable);
                }
                State::Unloaded { .. } => {
                    // In a task of its own: who asked may go away.
                    self.state.set(State::Loading);
                    let (me, shard) = (Rc::clone(self), Rc::clone(shard));
                    runtime::spawn(async move { me.load(&shard).await });
                }
            }
        }
    }

    async fn load(self: &Rc<Self>, shard: &Rc<Shard>) {
        self.failures.set(self.slot.failures());
        self.loads.set(self.loads.get().saturating_add(1));
        let mut machine = M::begin(shard, self.slot.leader.borrow().epoch(), self.loads.get());
        let began = clock::now();
        match self.replay(&mut machine).await {
            Ok(bytes) => {
                // Told once: on a full disk it is read again for each step that fails.
                if machine.count() > 0 && !self.keeper_runs.get() {
                    info!(
                        "{} of {} {}: {} read from {bytes} bytes in {} ms",
                        M::WHAT,
                        M::TOPIC,
                        self.slot.id,
                        machine.count(),
                        clock::now().since(began) / 1_000_000
                    );
                }
                machine.on_loaded(now());
                *self.machine.borrow_mut() = machine;
                self.state.set(State::Loaded);
                self.changed.notify();
                M::on_reloaded(self, shard);
                if !self.keeper_runs.replace(true) {
                    runtime::spawn(Rc::clone(self).keep_time(Rc::clone(shard)));
                }
            }
            Err(why) => {
                error!(
                    "{} of {} {}: not served: {why}{}",
                    M::WHAT,
                    M::TOPIC,
                    self.slot.id,
                    crate::observe::logging::remedy(&why)
                );
                self.state.set(State::Unloaded { retry_at: clock::now() + RETRY });
                self.changed.notify();
            }
        }
    }

    /// Reads the whole log; returns its bytes.
    async fn replay(&self, machine: &mut M) -> Result<u64, StorageError> {
        // What was appended and is not written yet cannot be read yet.
        self.slot.until_written().await?;
        let (start, end) = {
            let leader = self.slot.leader.borrow();
            (leader.log_start(), leader.log_end())
        };
        let (mut unknown, mut scratch) = (0u64, Vec::new());
        let damaged = |base: Offset| {
            StorageError::Unusable(format!("{}: the batch at {base} cannot be read", self.slot.id))
        };
        let total = walk(&self.slot.log, start, end, |batch| {
            let base = batch.base_offset();
            if batch.is_control() {
                Marker::read(batch).into_iter().for_each(|marker| machine.on_marker(marker));
                return Ok(());
            }
            let producer = batch.producer().filter(|_| batch.is_transactional());
            let in_transaction = producer.map(|producer| producer.id);
            for record in batch.records(&mut scratch).map_err(|_| damaged(base))? {
                let record = record.map_err(|_| damaged(base))?;
                if base.plus(i64::from(record.offset_delta)) < start {
                    continue;
                }
                let key = record.key.unwrap_or_default();
                let read = machine.replay(key, record.value, in_transaction);
                unknown += u64::from(read.is_err());
            }
            Ok(())
        })
        .await?;
        if unknown > 0 {
            warning!(
                "{} of {} {}: {unknown} records not understood",
                M::WHAT,
                M::TOPIC,
                self.slot.id
            );
        }
        Ok(total)
    }

    async fn keep_time(self: Rc<Self>, shard: Rc<Shard>) {
        loop {
            let deadline = match self.state.get() {
                State::Loaded => self.machine.borrow().next_deadline(),
                _ => None,
            };
            self.armed_for.set(deadline);
            let moved = || {
                let state = self.state.get();
                let next = self.machine.try_borrow().ok().and_then(|c| c.next_deadline());
                let is_other = state == State::Loaded && next != deadline;
                (self.slot.is_closing() || is_other).then_some(())
            };
            let at = deadline.map(|ms| Nanos(ms * 1_000_000));
            let woken = timer::before(at, self.changed.until(moved)).await;
            if self.slot.is_closing() {
                return;
            }
            if woken.is_none() && self.until_loaded(&shard).await.is_ok() {
                let _ = self.step(&shard, |here, machine, now| machine.on_time(here, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_in_java() {
        // As String.hashCode() says in a JVM.
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("group1"), -1_237_460_590);
        assert_eq!(java_hash("my-group"), -1_906_497_762);
        assert_eq!(java_hash("gruppe-ä😀"), -1_282_783_819);
        assert_eq!(partition_of_name("group1", 50), 8);
    }
}
