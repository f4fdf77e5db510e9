//! Transactions on their shard: the state of `__transaction_state`, the markers that end them, and
//! the coordinator's word on what a producer may write.

use crate::coordinators::groups::GroupLog;
use crate::coordinators::state_log::{self, Here, Machine, Records, StateLog, Written};
use crate::observe::logging::warning;
use crate::partitions::partition_slot::Writer;
use crate::shard::proofs::Proofs;
use crate::shard::shard::Shard;
use coordinator::{ClientVersion, Ending, Now, TransactionCoordinator, TransactionEffects};
use metadata::topic_settings::TRANSACTIONS_TOPIC;
use model::{ErrorCode, LeaderEpoch, Marker, Producer, ProducerId, TopicPartition};
use partition::Proof;
use runtime::notify::Notify;
use runtime::{clock, timer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use wire::WireError;

/// The transactional ids of one partition of `__transaction_state`.
pub(crate) type TransactionLog = StateLog<TransactionCoordinator>;

/// Markers that could not be written are tried again after so long.
const RETRY: Duration = Duration::from_millis(200);
/// So long a client that ends its transaction is kept waiting for the markers; what it does next
/// finds them there then. Its outcome is decided before, whatever happens.
const MARKERS_WITHIN: Duration = Duration::from_secs(2);
/// Ids that were not used for long are looked for so often.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
/// Coordinator epochs per start and log: one each time the log is read.
const EPOCHS_PER_START: i32 = 4096;

/// The epoch of the coordinator that takes a log over for the `loads`th time in this start: larger than
/// that of any before it. A log that is read too often has the same epoch again, rather than one of the
/// next start.
fn coordinator_epoch(start: LeaderEpoch, loads: i32) -> i32 {
    start.0.min(i32::MAX / EPOCHS_PER_START - 1) * EPOCHS_PER_START
        + loads.min(EPOCHS_PER_START - 1)
}

/// Whoever ended a transaction and waits for its markers.
#[derive(Default)]
pub(crate) struct Ended {
    completed: Notify,
}

impl Machine for TransactionCoordinator {
    const TOPIC: &'static str = TRANSACTIONS_TOPIC;
    const WHAT: &'static str = "transactions";
    type Effects = Vec<Ending>;
    type Beside = Ended;

    fn begin(shard: &Shard, epoch: LeaderEpoch, loads: i32) -> Self {
        let epoch = coordinator_epoch(epoch, loads);
        Self::new(shard.node.config.transactions.clone(), epoch)
    }

    fn partitions(shard: &Shard) -> i32 {
        shard.node.config.transactions_partitions
    }

    fn replay(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        _: Option<ProducerId>,
    ) -> Result<(), WireError> {
        Self::replay(self, key, value)
    }

    fn on_marker(&mut self, _: Marker) {}

    fn on_loaded(&mut self, now: Now) {
        Self::on_loaded(self, now);
    }

    fn count(&self) -> usize {
        Self::count(self)
    }

    fn next_deadline(&self) -> Option<u64> {
        Self::next_deadline(self)
    }

    fn on_time(&mut self, here: Here<'_>, now: Now) {
        // It is of use only where epochs have run out.
        Self::on_time(self, now, || here.take_producer_id().unwrap_or_default());
    }

    fn take_effects(&mut self) -> (Records, Self::Effects) {
        let TransactionEffects { records, endings } = Self::take_effects(self);
        (Records { plain: records, ..Records::default() }, endings)
    }

    fn settle(log: &Rc<TransactionLog>, shard: &Rc<Shard>, endings: Vec<Ending>, at: Written) {
        for ending in endings {
            runtime::spawn(tell(Rc::clone(log), Rc::clone(shard), ending, at));
        }
    }

    /// What was decided before and not told everywhere is told now.
    fn on_reloaded(log: &Rc<TransactionLog>, shard: &Rc<Shard>) {
        let _ = log.step(shard, |_, _, _| ());
    }

    fn on_unloaded(log: &TransactionLog) {
        log.beside.completed.notify();
    }
}

/// Tells every partition how a transaction ended, once that is durable, and records that it is done.
/// If the state is thrown away meanwhile, it is told again when the state has been read.
async fn tell(log: Rc<TransactionLog>, shard: Rc<Shard>, ending: Ending, decided: Written) {
    if log.until_durable(decided).await.is_err() {
        return;
    }
    let mut left = ending.partitions.clone();
    loop {
        // Whoever read the state anew tells it from then on.
        let is_current = log.is_loaded() && log.peek(|c| c.is_current(&ending));
        if !is_current || log.slot().is_closing() || shard.stopping.get() {
            return;
        }
        left = mark_all(&shard, &ending.marker, left).await;
        if left.is_empty() {
            break;
        }
        log.slot().complain(&format!(
            "the marker of transactional id {:?} cannot be written to {} partitions yet",
            ending.transactional_id,
            left.len()
        ));
        timer::sleep(RETRY).await;
    }
    // Nobody waits for this record: what comes after it in the log is durable only with it, and a stop
    // before that tells the ending once more. An error throws the state away, which does so too.
    if log.is_loaded() {
        let _ = log.step(&shard, |_, coordinator, now| coordinator.complete(now, &ending));
    }
    log.beside.completed.notify();
}

/// Writes a marker to partitions; returns those where it is to be tried again.
async fn mark_all(
    shard: &Rc<Shard>,
    marker: &Marker,
    partitions: Vec<(String, i32)>,
) -> Vec<(String, i32)> {
    // A topic that is gone has nothing to end. Shards learn of a new one one after another, the first
    // before all others: only what it does not know is gone.
    let image = shard.call(0, |first| async move { first.image() }).await;
    let named = |(topic, index): &(String, i32)| {
        image.topic(topic).and_then(|topic| topic.partition(*index))
    };
    let known: Vec<_> = partitions.iter().filter_map(|p| Some((named(p)?, p.clone()))).collect();
    let ids: Vec<TopicPartition> = known.iter().map(|(id, _)| *id).collect();
    let mut left = Vec::new();
    for ((_, partition), result) in
        known.into_iter().zip(mark(shard, *marker, ids, Writer::Coordinator).await)
    {
        match result {
            // Whoever has a newer epoch has ended it already.
            Ok(()) | Err(ErrorCode::InvalidProducerEpoch) => {}
            Err(_) => left.push(partition),
        }
    }
    left
}

/// Writes a marker to partitions, wherever they are; the results in the same order, once durable.
pub(crate) async fn mark(
    shard: &Rc<Shard>,
    marker: Marker,
    partitions: Vec<TopicPartition>,
    writer: Writer,
) -> Vec<Result<(), ErrorCode>> {
    let owners = shard.mailbox.shards();
    let theirs = |owner| -> Vec<TopicPartition> {
        partitions.iter().copied().filter(|id| shard.owner_of(*id) == owner).collect()
    };
    let results: RefCell<BTreeMap<TopicPartition, Result<(), ErrorCode>>> = RefCell::default();
    let tell = |owner| {
        let (ids, results) = (theirs(owner), &results);
        async move {
            if !ids.is_empty() {
                let found =
                    shard.call(owner, move |there| mark_here(there, marker, ids, writer)).await;
                results.borrow_mut().extend(found);
            }
        }
    };
    runtime::all((0..owners).map(tell).collect()).await;
    let results = results.into_inner();
    partitions.iter().map(|id| results[id]).collect()
}

async fn mark_here(
    shard: Rc<Shard>,
    marker: Marker,
    partitions: Vec<TopicPartition>,
    writer: Writer,
) -> Vec<(TopicPartition, Result<(), ErrorCode>)> {
    // All are appended before one is waited for: one sync for all.
    let (mut begun, mut groups, mut results) = (Vec::new(), Vec::new(), Vec::new());
    for id in partitions {
        if let Some(log) = shard.follower::<GroupLog>(id) {
            groups.push((id, log));
            continue;
        }
        let Some(slot) = shard.slot(id) else {
            results.push((id, Err(shard.why_absent(id))));
            continue;
        };
        match slot.append_marker(&shard, &marker, writer) {
            Ok(end) => begun.push((id, slot.failures(), slot, end)),
            Err(error) => results.push((id, Err(error))),
        }
    }
    for (id, log) in groups {
        results.push((id, log.mark(&shard, marker, writer).await));
    }
    for (id, failures, slot, end) in begun {
        results.push((id, slot.until_committed(end, failures).await));
    }
    results
}

/// Waits until every partition has the markers of an ending, but not for ever.
pub(crate) async fn until_told(log: &TransactionLog, id: &str) {
    let deadline = clock::now() + MARKERS_WITHIN;
    let over = || (!log.is_loaded() || !log.peek(|c| c.is_ending(id))).then_some(());
    timer::before(Some(deadline), log.beside.completed.until(over)).await;
}

/// One step of a transactional id's coordinator; returns once all it rests on is durable.
async fn step_at<T: Send + 'static>(
    shard: &Rc<Shard>,
    id: &str,
    step: impl FnOnce(Here<'_>, &mut TransactionCoordinator, Now) -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    state_log::step_at(shard, id, step).await
}

/// PRODUCER_FENCED, to clients that know it; the others know an older word for it.
pub(crate) fn fenced_since(since: i16, version: i16, error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced if version < since => ErrorCode::InvalidProducerEpoch,
        other => other,
    }
}

/// A partition that a producer writes to in its transaction.
#[derive(Clone)]
pub(crate) struct Target {
    /// Its place in the request.
    pub(crate) index: u32,
    pub(crate) id: TopicPartition,
    pub(crate) producer: Producer,
}

/// Asks the coordinator about those partitions in which the producer has no transaction open: with
/// `V2` they join it, with `V1` they must have joined it before (KIP-890).
pub(crate) async fn prove(
    shard: &Rc<Shard>,
    transactional_id: &str,
    written: Vec<Target>,
    version: ClientVersion,
) -> Proofs {
    let mut proofs = BTreeMap::new();
    let mut unknown = Vec::new();
    for owner in 0..shard.mailbox.shards() {
        let theirs: Vec<_> =
            written.iter().filter(|w| shard.owner_of(w.id) == owner).cloned().collect();
        if theirs.is_empty() {
            continue;
        }
        let begun = if owner == shard.id() {
            begin_proofs(shard, &theirs)
        } else {
            shard.call(owner, move |there| async move { begin_proofs(&there, &theirs) }).await
        };
        unknown.extend(begun);
    }
    if unknown.is_empty() {
        return Proofs::default();
    }
    // The coordinator knows topics by their names.
    let image = shard.image();
    let named = |(w, _): &(Target, Proof)| {
        let topic = image.by_id.get(&w.id.topic_id).map(|topic| topic.name.to_string());
        (w.producer, (topic.unwrap_or_default(), w.id.partition.0))
    };
    let asked: Vec<(Producer, (String, i32))> = unknown.iter().map(named).collect();
    let name = transactional_id.to_owned();
    let answered = step_at(shard, transactional_id, move |_, coordinator, now| {
        if version == ClientVersion::V1 {
            let verify = |(who, partition): &_| coordinator.verify(&name, *who, partition);
            return asked.iter().map(verify).collect::<Vec<_>>();
        }
        // One record for all partitions of a producer: and a request has only one.
        let mut joined: BTreeMap<Producer, Result<(), ErrorCode>> = BTreeMap::new();
        for (producer, _) in &asked {
            joined.entry(*producer).or_insert_with(|| {
                let own = asked.iter().filter(|(other, _)| other == producer);
                let partitions: Vec<_> = own.map(|(_, partition)| partition.clone()).collect();
                coordinator.add_partitions(now, &name, *producer, &partitions, version)
            });
        }
        asked.iter().map(|(producer, _)| joined[producer]).collect()
    })
    .await;
    let results = answered.unwrap_or_else(|error| vec![Err(error); unknown.len()]);
    for ((w, proof), result) in unknown.into_iter().zip(results) {
        proofs.insert(w.index, result.map(|()| proof).map_err(|error| for_writer(error, version)));
    }
    Proofs::new(proofs)
}

/// The partitions in which the producer has no transaction open.
fn begin_proofs(shard: &Shard, written: &[Target]) -> Vec<(Target, Proof)> {
    let now_ms = clock::unix_ms();
    let begin = |w: &Target| {
        // What is not there is refused later, with its own error.
        let slot = shard.slot(w.id)?;
        let mut producers = slot.producers.borrow_mut();
        let is_open = producers.is_open(w.producer);
        (!is_open).then(|| (w.clone(), producers.begin_proof(w.producer.id, now_ms)))
    };
    written.iter().filter_map(begin).collect()
}

/// What a coordinator's refusal is to who writes: these clients know few errors here.
fn for_writer(error: ErrorCode, version: ClientVersion) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::ConcurrentTransactions | ErrorCode::CoordinatorNotAvailable
            if version == ClientVersion::V1 =>
        {
            ErrorCode::NotEnoughReplicas
        }
        other => other,
    }
}

/// Reads every partition's transactions, and forgets what is old from time to time, for ever.
pub(crate) async fn look_after(shard: Rc<Shard>) {
    loop {
        for log in shard.followers::<TransactionLog>() {
            if let Err(error) = log.run(&shard, |_, coordinator, now| coordinator.expire(now)).await
            {
                warning!("transactions of {}: {}", log.slot().id, error.name());
            }
        }
        let before = clock::unix_ms().saturating_sub(shard.node.config.producer_id_expiration_ms);
        for slot in shard.all_slots() {
            slot.producers.borrow_mut().expire(before);
        }
        timer::sleep(EXPIRE_EVERY).await;
    }
}
