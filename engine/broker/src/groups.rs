//! The coordinator's hands: reads its state from `__consumer_offsets`, appends its records there,
//! holds every answer until they are durable, and tells it the time.
//!
//! One `GroupPartition` per partition of that topic, on the shard that owns it. A record that could
//! not be made durable throws the state away: it is read again from the log, and members find out by
//! an error that makes them look for their coordinator anew.

use crate::logging::{error, info, warning};
use crate::partition_slot::PartitionSlot;
use crate::shard::Shard;
use crate::topic_settings::OFFSETS_TOPIC;
use crate::topics;
use coordinator::{Answer, Effects, GroupCoordinator, LogRecord, Now, Ticket, read_record};
use model::{BatchBuilder, Compression, ErrorCode, Offset, RecordBatch, TopicPartition};
use runtime::clock::{self, Nanos};
use runtime::notify::Notify;
use runtime::{random, timer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;
use storage::{Read, StorageError};

/// One batch of the coordinator's records holds about so many bytes at most, if it holds several.
const BATCH_BYTES: usize = 256 * 1024;
const READ_BYTES: usize = 1024 * 1024;
/// After so many bytes of records, and so many times what is alive, the log is written anew.
const REWRITE_BYTES_MIN: u64 = 8 * 1024 * 1024;
const REWRITE_FACTOR: u64 = 4;
/// A log that could not be read is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);

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
struct Written {
    end: Offset,
    failures: u64,
}

/// A join or sync whose answer is awaited.
enum Parked {
    Waiting(Option<Waker>),
    Done(Result<(Answer, Written), ErrorCode>),
}

/// The groups of one partition of `__consumer_offsets`.
pub(crate) struct GroupPartition {
    slot: Rc<PartitionSlot>,
    state: Cell<State>,
    coordinator: RefCell<GroupCoordinator>,
    parked: RefCell<BTreeMap<Ticket, Parked>>,
    next_ticket: Cell<u64>,
    /// The state or the next deadline changed.
    changed: Notify,
    /// What `slot.failures()` was when the state was read.
    failures: Cell<u64>,
    /// What the keeper of time waits for.
    armed_for: Cell<Option<u64>>,
    keeper_runs: Cell<bool>,
    /// Bytes of records since the log was last written anew, and what that took.
    appended_bytes: Cell<u64>,
    live_bytes: Cell<u64>,
    rewriting: Cell<bool>,
    builder: RefCell<BatchBuilder>,
}

/// Forgets the ticket of a request that is given up.
struct Place<'a> {
    partition: &'a GroupPartition,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.partition.parked.borrow_mut().remove(&self.ticket);
    }
}

fn now() -> Now {
    Now { ms: clock::now().0 / 1_000_000, unix_ms: clock::unix_ms() }
}

/// Java's hash of a string, as every Kafka client and tool computes it: over UTF-16 units.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The partition of `__consumer_offsets` that a group lives in.
pub(crate) fn partition_of_group(group: &str, partitions: i32) -> i32 {
    (java_hash(group) & i32::MAX) % partitions
}

/// Makes `__consumer_offsets` if it is not there. Returns its id for a group's partition.
pub(crate) async fn home_of_group(
    shard: &Rc<Shard>,
    group: &str,
) -> Result<TopicPartition, ErrorCode> {
    if !shard.image().by_name.contains_key(OFFSETS_TOPIC) {
        let settings = [
            ("cleanup.policy", "compact"),
            ("compression.type", "producer"),
            ("segment.bytes", "104857600"),
        ];
        let topic = topics::NewTopic {
            name: OFFSETS_TOPIC.to_owned(),
            partitions: shard.node.config.offsets_partitions,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        // Someone else may have made it meanwhile: only what is there then counts.
        topics::create(shard, vec![topic]).await;
    }
    let image = shard.image();
    let topic = image.by_name.get(OFFSETS_TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
    let index = partition_of_group(group, topic.partitions);
    topic.partition(index).ok_or(ErrorCode::CoordinatorNotAvailable)
}

/// Runs `body` with the partition that a group lives in, on the shard that owns it.
pub(crate) async fn at_coordinator<T: Send + 'static, F>(
    shard: &Rc<Shard>,
    group: &str,
    body: impl FnOnce(Rc<Shard>, Rc<GroupPartition>) -> F + Send + 'static,
) -> Result<T, ErrorCode>
where
    F: Future<Output = Result<T, ErrorCode>> + 'static,
{
    let id = home_of_group(shard, group).await?;
    shard
        .call(shard.owner_of(id), move |owner| async move {
            let partition = owner.group_partition(id).ok_or(ErrorCode::CoordinatorNotAvailable)?;
            body(Rc::clone(&owner), partition).await
        })
        .await
}

/// One step of a group's coordinator; returns once all it rests on is durable.
pub(crate) async fn step_at<T: Send + 'static>(
    shard: &Rc<Shard>,
    group: &str,
    step: impl FnOnce(&Shard, &mut GroupCoordinator, Now) -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    at_coordinator(shard, group, move |shard, partition| async move {
        partition.run(&shard, step).await
    })
    .await
}

/// Runs `step` for every partition's coordinator, on all shards.
pub(crate) async fn step_at_all<T: Send + 'static>(
    shard: &Rc<Shard>,
    step: impl Fn(&Shard, &mut GroupCoordinator, Now) -> T + Send + Clone + 'static,
) -> Vec<Result<T, ErrorCode>> {
    let mut all = Vec::new();
    for to in 0..shard.mailbox.shards() {
        let step = step.clone();
        let theirs = shard.call(to, move |owner| async move {
            let mut results = Vec::new();
            for partition in owner.group_partitions() {
                results.push(partition.run(&owner, step.clone()).await);
            }
            results
        });
        all.extend(theirs.await);
    }
    all
}

impl GroupPartition {
    pub(crate) fn new(shard: &Shard, slot: Rc<PartitionSlot>) -> Rc<Self> {
        let config = shard.node.config.groups.clone();
        Rc::new(Self {
            state: Cell::new(State::Unloaded { retry_at: Nanos::default() }),
            coordinator: RefCell::new(GroupCoordinator::new(config, random::seed())),
            parked: RefCell::default(),
            next_ticket: Cell::new(0),
            changed: Notify::default(),
            failures: Cell::new(slot.failures()),
            armed_for: Cell::new(None),
            keeper_runs: Cell::new(false),
            appended_bytes: Cell::new(0),
            live_bytes: Cell::new(0),
            rewriting: Cell::new(false),
            builder: RefCell::default(),
            slot,
        })
    }

    /// One step; its value is given once what it wrote, and all that was written before, is
    /// durable.
    pub(crate) async fn run<T>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        step: impl FnOnce(&Shard, &mut GroupCoordinator, Now) -> T,
    ) -> Result<T, ErrorCode> {
        self.until_loaded(shard).await?;
        let (value, written) = self.step(shard, step)?;
        self.until_durable(written).await?;
        Ok(value)
    }

    /// As `run`, for a step whose answer may come later, to the ticket it is given.
    pub(crate) async fn run_parked(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        step: impl FnOnce(&mut GroupCoordinator, Now, Ticket),
    ) -> Result<Answer, ErrorCode> {
        self.until_loaded(shard).await?;
        let ticket = Ticket(self.next_ticket.get());
        self.next_ticket.set(ticket.0 + 1);
        self.parked.borrow_mut().insert(ticket, Parked::Waiting(None));
        let place = Place { partition: self, ticket };
        self.step(shard, |_, coordinator, now| step(coordinator, now, ticket))?;
        let (answer, written) = poll_fn(|cx| {
            let mut parked = self.parked.borrow_mut();
            let entry = parked.get_mut(&place.ticket).expect("ours until dropped");
            if let Parked::Waiting(waker) = entry {
                *waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let Parked::Done(result) = std::mem::replace(entry, Parked::Waiting(None)) else {
                unreachable!("looked at above");
            };
            Poll::Ready(result)
        })
        .await?;
        self.until_durable(written).await?;
        Ok(answer)
    }

    async fn until_durable(&self, written: Written) -> Result<(), ErrorCode> {
        let durable = self.slot.until_committed(written.end, written.failures).await;
        durable.map_err(|_| ErrorCode::CoordinatorNotAvailable)
    }

    /// One step, and what it brings about; returns where the log ends then.
    fn step<T>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        step: impl FnOnce(&Shard, &mut GroupCoordinator, Now) -> T,
    ) -> Result<(T, Written), ErrorCode> {
        let (value, effects, deadline) = {
            let mut coordinator = self.coordinator.borrow_mut();
            let value = step(shard, &mut coordinator, now());
            (value, coordinator.take_effects(), coordinator.next_deadline())
        };
        let Effects { records, answers } = effects;
        let end = match self.append(shard, &records) {
            Ok(end) => end,
            Err(why) => {
                self.unload(&format!("its records cannot be appended ({})", why.name()));
                return Err(ErrorCode::CoordinatorNotAvailable);
            }
        };
        let written = Written { end, failures: self.failures.get() };
        for (ticket, answer) in answers {
            self.answer(ticket, Ok((answer, written)));
        }
        if deadline != self.armed_for.get() {
            self.changed.notify();
        }
        let appended = self.appended_bytes.get();
        let most = REWRITE_BYTES_MIN.max(self.live_bytes.get() * REWRITE_FACTOR);
        if appended > most && !self.rewriting.replace(true) {
            let (me, shard) = (Rc::clone(self), Rc::clone(shard));
            runtime::spawn(async move {
                me.rewrite(&shard).await;
                me.rewriting.set(false);
            });
        }
        Ok((value, written))
    }

    fn answer(&self, ticket: Ticket, result: Result<(Answer, Written), ErrorCode>) {
        let mut parked = self.parked.borrow_mut();
        // Whoever gave up is not there any more.
        if let Some(entry) = parked.get_mut(&ticket)
            && let Parked::Waiting(Some(waker)) = std::mem::replace(entry, Parked::Done(result))
        {
            waker.wake();
        }
    }

    /// Appends records; returns where the log ends.
    fn append(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        records: &[LogRecord],
    ) -> Result<Offset, ErrorCode> {
        let mut end = self.slot.leader.borrow().log_end();
        let unix_ms = clock::unix_ms();
        let mut rest = records.iter().peekable();
        let mut builder = self.builder.borrow_mut();
        while rest.peek().is_some() {
            builder.begin(unix_ms);
            while builder.is_empty() || builder.len() < BATCH_BYTES {
                let Some(record) = rest.next() else { break };
                builder.push(unix_ms, Some(&record.key), record.value.as_deref(), &[]);
            }
            let bytes = builder.finish(Compression::None);
            self.appended_bytes.set(self.appended_bytes.get() + bytes.len() as u64);
            let (batch, _) = RecordBatch::split_first(bytes).expect("built just now");
            end = self.slot.append_own(shard, batch)?;
        }
        Ok(end)
    }

    /// Throws the state away; it is read again when it is asked for.
    fn unload(&self, why: &str) {
        if self.state.get() != State::Loaded {
            return;
        }
        self.slot.complain(&format!("groups: {why}; they are read again from the log"));
        self.state.set(State::Unloaded { retry_at: Nanos::default() });
        let tickets: Vec<Ticket> = self.parked.borrow().keys().copied().collect();
        for ticket in tickets {
            self.answer(ticket, Err(ErrorCode::CoordinatorNotAvailable));
        }
        self.changed.notify();
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
        let config = shard.node.config.groups.clone();
        let mut coordinator = GroupCoordinator::new(config, random::seed());
        let began = clock::now();
        match self.replay(&mut coordinator).await {
            Ok(bytes) => {
                let groups = coordinator.group_ids().count();
                // Told once: on a full disk it is read again for each commit that fails.
                if groups > 0 && !self.keeper_runs.get() {
                    info!(
                        "groups of {OFFSETS_TOPIC} {}: {groups} read from {bytes} bytes in {} ms",
                        self.slot.id,
                        clock::now().since(began) / 1_000_000
                    );
                }
                coordinator.on_loaded(now());
                *self.coordinator.borrow_mut() = coordinator;
                self.appended_bytes.set(bytes);
                self.state.set(State::Loaded);
                self.changed.notify();
                // Topics may have gone while this was not there to see it.
                self.on_topics(shard);
                if !self.keeper_runs.replace(true) {
                    runtime::spawn(Rc::clone(self).keep_time(Rc::clone(shard)));
                }
            }
            Err(why) => {
                error!(
                    "groups of {OFFSETS_TOPIC} {}: not served: {why}{}",
                    self.slot.id,
                    crate::shard::remedy(&why)
                );
                self.state.set(State::Unloaded { retry_at: clock::now() + RETRY });
                self.changed.notify();
            }
        }
    }

    /// Reads the whole log; returns its bytes.
    async fn replay(&self, coordinator: &mut GroupCoordinator) -> Result<u64, StorageError> {
        let (mut offset, end) = {
            let leader = self.slot.leader.borrow();
            (leader.log_start(), leader.log_end())
        };
        let (mut pieces, mut bytes, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
        let (mut total, mut unknown) = (0, 0u64);
        while offset < end {
            pieces.clear();
            let log = &self.slot.log;
            if log.read_cached(offset, READ_BYTES, end, &mut pieces) == Read::Miss {
                log.read_disk(offset, READ_BYTES, end, &mut pieces).await?;
            }
            bytes.clear();
            pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
            let mut rest = &bytes[..];
            let before = offset;
            while let Ok((batch, tail)) = RecordBatch::split_first(rest) {
                rest = tail;
                if batch.last_offset() < offset {
                    continue;
                }
                let base = batch.base_offset();
                let Ok(records) = batch.records(&mut scratch) else {
                    let why = format!("{}: the batch at {base} cannot be read", self.slot.id);
                    return Err(StorageError::Unusable(why));
                };
                for record in records {
                    let Ok(record) = record else {
                        let why =
                            format!("{}: a record behind {base} cannot be read", self.slot.id);
                        return Err(StorageError::Unusable(why));
                    };
                    if base.plus(i64::from(record.offset_delta)) < offset {
                        continue;
                    }
                    match read_record(record.key.unwrap_or_default(), record.value) {
                        Ok(stored) => coordinator.replay(stored),
                        Err(_) => unknown += 1,
                    }
                }
                total += batch.bytes().len() as u64;
                offset = batch.last_offset().plus(1);
            }
            if offset == before {
                let why = format!("{}: no batch at offset {offset}", self.slot.id);
                return Err(StorageError::Unusable(why));
            }
            runtime::yield_now().await;
        }
        if unknown > 0 {
            warning!(
                "groups of {OFFSETS_TOPIC} {}: {unknown} records not understood",
                self.slot.id
            );
        }
        Ok(total)
    }

    /// Forgets offsets of topics that are gone.
    pub(crate) fn on_topics(self: &Rc<Self>, shard: &Rc<Shard>) {
        if self.state.get() == State::Loaded {
            let _ = self.step(shard, |shard, coordinator, _| {
                let image = shard.image();
                coordinator.on_topics(|topic| image.by_name.contains_key(topic));
            });
        }
    }

    async fn keep_time(self: Rc<Self>, shard: Rc<Shard>) {
        loop {
            let deadline = match self.state.get() {
                State::Loaded => self.coordinator.borrow().next_deadline(),
                _ => None,
            };
            self.armed_for.set(deadline);
            let moved = || {
                let state = self.state.get();
                let next = self.coordinator.try_borrow().ok().and_then(|c| c.next_deadline());
                let is_other = state == State::Loaded && next != deadline;
                (self.slot.is_closing() || is_other).then_some(())
            };
            let at = deadline.map(|ms| Nanos(ms * 1_000_000));
            let woken = timer::before(at, self.changed.until(moved)).await;
            if self.slot.is_closing() {
                return;
            }
            if woken.is_none() && self.until_loaded(&shard).await.is_ok() {
                let _ = self.step(&shard, |_, coordinator, now| coordinator.on_time(now));
            }
        }
    }

    /// Writes all that is alive at the end of the log and deletes what was before it: until the
    /// log is compacted this keeps it, and every start, short.
    async fn rewrite(self: &Rc<Self>, shard: &Rc<Shard>) {
        let failures = self.failures.get();
        let start = self.slot.leader.borrow().log_end();
        let before = self.appended_bytes.replace(0);
        let ids: Vec<String> = self.coordinator.borrow().group_ids().map(str::to_owned).collect();
        let mut batch = Vec::new();
        let mut ids = ids.into_iter().peekable();
        while let Some(id) = ids.next() {
            // A group's records are taken and appended in one go: later ones come after them.
            batch.extend(self.coordinator.borrow().records_of(&id));
            let bytes: usize =
                batch.iter().map(|r| r.key.len() + r.value.as_ref().map_or(0, Vec::len)).sum();
            if bytes < BATCH_BYTES && ids.peek().is_some() {
                continue;
            }
            let Ok(end) = self.append(shard, &batch) else { return };
            batch.clear();
            if self.slot.until_committed(end, failures).await.is_err()
                || self.state.get() != State::Loaded
            {
                return;
            }
        }
        let live = self.appended_bytes.get();
        self.live_bytes.set(live);
        if self.slot.delete_records(Some(start)).await.is_ok() {
            info!(
                "groups of {OFFSETS_TOPIC} {}: {} KB of records written anew as {} KB",
                self.slot.id,
                before / 1024,
                live / 1024
            );
        }
    }
}

/// Reads every partition's groups, and forgets old offsets from time to time, for ever.
pub(crate) async fn look_after(shard: Rc<Shard>) {
    let every = Duration::from_millis(shard.node.config.offsets_check_ms);
    loop {
        for partition in shard.group_partitions() {
            let _ =
                partition.run(&shard, |_, coordinator, now| coordinator.expire_offsets(now)).await;
        }
        timer::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hash_as_in_java() {
        // As String.hashCode() says in a JVM.
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("group1"), -1_237_460_590);
        assert_eq!(java_hash("my-group"), -1_906_497_762);
        assert_eq!(java_hash("gruppe-ä😀"), -1_282_783_819);
        assert_eq!(partition_of_group("group1", 50), 8);
    }
}
