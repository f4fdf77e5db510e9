//! The coordinator of the transactional ids of one partition of `__transaction_state`: who has an id,
//! what its transaction has touched, how it ends (KIP-98, KIP-360, KIP-588, KIP-664, KIP-890).
//!
//! A transaction ends in two steps. Its outcome is decided when the record of `PrepareCommit` or
//! `PrepareAbort` is durable; then its client is answered, and every partition gets a marker; then
//! `complete` is recorded. A coordinator that stops in between goes on where it was.

use crate::records::LogRecord;
use crate::step::Now;
use crate::transaction::{EPOCH_LAST, Transaction, TransactionState};
use crate::transaction_records::{read_transaction, transaction_record};
use model::{ErrorCode, Marker, Producer, ProducerId};
use std::collections::{BTreeMap, BTreeSet};
use wire::WireError;
use wire::messages::{DescribedTransaction, ListedTransaction, TransactionTopic};

/// The bounds of all transactions.
#[derive(Clone, Debug)]
pub struct TransactionConfig {
    /// Longest timeout a client may ask for (`transaction.max.timeout.ms`).
    pub timeout_ms_max: i32,
    /// An id that was not used for so long is forgotten (`transactional.id.expiration.ms`).
    pub id_expiration_ms: i64,
    /// Transactional ids of one coordinator: of one partition of `__transaction_state`.
    pub ids_max: usize,
}

/// A transaction whose outcome is decided: every partition is to get the marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Whose.
    pub transactional_id: String,
    /// What the partitions are told.
    pub marker: Marker,
    /// Which.
    pub partitions: Vec<(String, i32)>,
}

/// What a step brings about, besides what it returns. None of it leaves before the records are
/// durable.
#[derive(Debug, Default)]
pub struct TransactionEffects {
    /// To be appended, in this order.
    pub records: Vec<LogRecord>,
    /// To be told to partitions.
    pub endings: Vec<Ending>,
}

/// How a client ends its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientVersion {
    /// It keeps its epoch.
    V1,
    /// It gets another epoch with each transaction, and partitions join as they are written to
    /// (KIP-890).
    V2,
}

/// The transactional ids of one partition.
pub struct TransactionCoordinator {
    config: TransactionConfig,
    transactions: BTreeMap<String, Transaction>,
    deadlines: BTreeSet<(u64, String)>,
    effects: TransactionEffects,
    /// The epoch that markers carry: grows with each time the log was taken over.
    epoch: i32,
}

impl TransactionCoordinator {
    /// A coordinator that knows no id yet. `epoch` grows with every start.
    #[must_use]
    pub fn new(config: TransactionConfig, epoch: i32) -> Self {
        Self {
            config,
            transactions: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            effects: TransactionEffects::default(),
            epoch,
        }
    }

    /// What the steps since the last call brought about.
    pub fn take_effects(&mut self) -> TransactionEffects {
        std::mem::take(&mut self.effects)
    }

    /// Takes in a record that was read back from the log. A record of a kind that newer software
    /// wrote is passed over.
    ///
    /// # Errors
    /// Bytes that are no such record.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), WireError> {
        match read_transaction(key, value)? {
            Some((id, Some(transaction))) => drop(self.transactions.insert(id, transaction)),
            Some((id, None)) => drop(self.transactions.remove(&id)),
            None => {}
        }
        Ok(())
    }

    /// The log has been read: what was begun goes on, what was decided is told.
    pub fn on_loaded(&mut self, now: Now) {
        let ids: Vec<String> = self.transactions.keys().cloned().collect();
        for id in ids {
            let transaction = &self.transactions[&id];
            if transaction.state == TransactionState::Ongoing {
                // How much of its time is left; a clock that jumped takes none of it away twice.
                let timeout = i64::from(transaction.timeout_ms.max(0));
                let left = (transaction.started_ms.saturating_add(timeout))
                    .saturating_sub(now.unix_ms)
                    .clamp(0, timeout);
                self.arm(&id, Some(now.ms + left as u64));
            } else if transaction.state.is_ending() {
                self.tell(&id);
            }
        }
    }

    /// How many ids it knows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.transactions.len()
    }

    /// When `on_time` has something to do, if ever (monotonic milliseconds).
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Aborts transactions that ran for too long; their producers are fenced. `fresh` makes
    /// producer ids.
    pub fn on_time(&mut self, now: Now, mut fresh: impl FnMut() -> ProducerId) {
        while let Some((at, id)) = self.deadlines.first().cloned() {
            if at > now.ms {
                break;
            }
            self.prepare(now, &id, false, true, false, fresh());
        }
    }

    /// Forgets ids that nobody has used for long.
    pub fn expire(&mut self, now: Now) {
        let limit = now.unix_ms.saturating_sub(self.config.id_expiration_ms);
        let is_old = |(id, t): (&String, &Transaction)| {
            let idle = t.state != TransactionState::Ongoing && !t.state.is_ending();
            (idle && t.updated_ms <= limit).then(|| id.clone())
        };
        let old: Vec<String> = self.transactions.iter().filter_map(is_old).collect();
        for id in old {
            self.transactions.remove(&id);
            self.effects.records.push(transaction_record(&id, None));
        }
    }

    fn arm(&mut self, id: &str, deadline: Option<u64>) {
        let transaction = self.transactions.get_mut(id).expect("asked for by who has it");
        if let Some(before) = std::mem::replace(&mut transaction.deadline, deadline) {
            self.deadlines.remove(&(before, id.to_owned()));
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, id.to_owned()));
        }
    }

    fn store(&mut self, id: &str) {
        self.effects.records.push(transaction_record(id, self.transactions.get(id)));
    }

    fn tell(&mut self, id: &str) {
        let transaction = &self.transactions[id];
        self.effects.endings.push(Ending {
            transactional_id: id.to_owned(),
            marker: Marker {
                producer: transaction.producer,
                commit: transaction.state == TransactionState::PrepareCommit,
                coordinator_epoch: self.epoch,
            },
            partitions: transaction.partitions.iter().cloned().collect(),
        });
    }

    fn prepare(
        &mut self,
        now: Now,
        id: &str,
        commit: bool,
        bumps: bool,
        keeps_holder: bool,
        fresh: ProducerId,
    ) {
        self.arm(id, None);
        let transaction = self.transactions.get_mut(id).expect("asked for by who has it");
        transaction.prepare(commit, bumps, keeps_holder, fresh, now.unix_ms);
        self.store(id);
        self.tell(id);
    }

    /// A client takes a transactional id over, or asks for another epoch of it (KIP-360: then
    /// `expected` is what it has). `fresh` is a producer id nobody has yet.
    ///
    /// # Errors
    /// As Kafka's; `ConcurrentTransactions` while the transaction of who had it is being aborted.
    pub fn init_producer_id(
        &mut self,
        now: Now,
        id: &str,
        timeout_ms: i32,
        expected: Option<Producer>,
        fresh: ProducerId,
    ) -> Result<Producer, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        if timeout_ms <= 0 || timeout_ms > self.config.timeout_ms_max {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        if !self.transactions.contains_key(id) {
            return self.begin_id(now, id, timeout_ms, fresh);
        }
        let transaction = self.transactions.get_mut(id).expect("looked at above");
        let is_exhausted = |epoch: i16| epoch >= EPOCH_LAST;
        if let Some(expected) = expected {
            let came_back = Some(expected.id) == transaction.previous_id
                && is_exhausted(expected.epoch)
                && transaction.producer.epoch == 0;
            if expected.id != transaction.producer.id && !came_back {
                return Err(ErrorCode::ProducerFenced);
            }
        }
        match transaction.state {
            state if state.is_ending() => return Err(ErrorCode::ConcurrentTransactions),
            TransactionState::Ongoing => {
                if expected.is_some_and(|expected| expected != transaction.producer) {
                    return Err(ErrorCode::ProducerFenced);
                }
                self.prepare(now, id, false, true, false, fresh);
                return Err(ErrorCode::ConcurrentTransactions);
            }
            _ => {}
        }
        let current = transaction.producer;
        match expected {
            // The answer to its last try was lost.
            Some(expected)
                if expected != current
                    && (expected.id == current.id
                        && Some(expected.epoch) == transaction.last_epoch
                        || Some(expected.id) == transaction.previous_id) => {}
            Some(expected) if expected.epoch != current.epoch => {
                return Err(ErrorCode::ProducerFenced);
            }
            _ if is_exhausted(current.epoch) => {
                transaction.previous_id = Some(current.id);
                transaction.producer = Producer { id: fresh, epoch: 0 };
                transaction.last_epoch = None;
            }
            _ => {
                transaction.producer.epoch += 1;
                transaction.last_epoch = expected.map(|expected| expected.epoch);
            }
        }
        transaction.state = TransactionState::Empty;
        transaction.started_ms = -1;
        transaction.timeout_ms = timeout_ms;
        transaction.updated_ms = now.unix_ms;
        let producer = transaction.producer;
        self.store(id);
        Ok(producer)
    }

    /// A transactional id is used for the first time.
    fn begin_id(
        &mut self,
        now: Now,
        id: &str,
        timeout_ms: i32,
        fresh: ProducerId,
    ) -> Result<Producer, ErrorCode> {
        if self.transactions.len() >= self.config.ids_max {
            // Names cost a client nothing.
            return Err(ErrorCode::PolicyViolation);
        }
        let producer = Producer { id: fresh, epoch: 0 };
        let transaction = Transaction::new(producer, timeout_ms, now.unix_ms);
        self.transactions.insert(id.to_owned(), transaction);
        self.store(id);
        Ok(producer)
    }

    /// Partitions join a producer's transaction; the first ones begin it.
    ///
    /// # Errors
    /// As Kafka's.
    pub fn add_partitions(
        &mut self,
        now: Now,
        id: &str,
        producer: Producer,
        partitions: &[(String, i32)],
        version: ClientVersion,
    ) -> Result<(), ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let transaction =
            self.transactions.get_mut(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        transaction.check(producer)?;
        if transaction.state.is_ending() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let is_new = |partition: &(String, i32)| !transaction.partitions.contains(partition);
        let begins = transaction.state != TransactionState::Ongoing;
        if !begins && !partitions.iter().any(is_new) {
            return Ok(());
        }
        transaction.partitions.extend(partitions.iter().cloned());
        transaction.updated_ms = now.unix_ms;
        transaction.client_version = if version == ClientVersion::V2 { 2 } else { 0 };
        if begins {
            transaction.state = TransactionState::Ongoing;
            transaction.started_ms = now.unix_ms;
            // From here on a lost answer to an earlier bump is of no use any more.
            transaction.last_epoch = None;
            let deadline = now.ms + transaction.timeout_ms.max(0) as u64;
            self.arm(id, Some(deadline));
        }
        self.store(id);
        Ok(())
    }

    /// Whether this partition is in the transaction that this producer has open.
    ///
    /// # Errors
    /// It is not: as Kafka's.
    pub fn verify(
        &self,
        id: &str,
        producer: Producer,
        partition: &(String, i32),
    ) -> Result<(), ErrorCode> {
        let transaction = self.transactions.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        transaction.check(producer)?;
        if transaction.state.is_ending() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let is_in = transaction.state == TransactionState::Ongoing
            && transaction.partitions.contains(partition);
        if is_in { Ok(()) } else { Err(ErrorCode::InvalidTxnState) }
    }

    /// A client ends its transaction. Returns who it is from then on.
    ///
    /// # Errors
    /// As Kafka's.
    pub fn end(
        &mut self,
        now: Now,
        id: &str,
        producer: Producer,
        commit: bool,
        version: ClientVersion,
        fresh: ProducerId,
    ) -> Result<Producer, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let transaction =
            self.transactions.get_mut(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        let (state, current) = (transaction.state, transaction.producer);
        let matching = match state {
            TransactionState::PrepareCommit | TransactionState::CompleteCommit => commit,
            TransactionState::PrepareAbort | TransactionState::CompleteAbort => !commit,
            _ => true,
        };
        // With KIP-890 a repeated request has the epoch before; the same epoch is a new request.
        let has_ended = !matches!(state, TransactionState::Empty | TransactionState::Ongoing);
        let is_repeated = version == ClientVersion::V2
            && has_ended
            && (producer.id == current.id && producer.epoch.checked_add(1) == Some(current.epoch)
                || Some(producer.id) == transaction.previous_id
                    && producer.epoch >= EPOCH_LAST
                    && current.epoch == 0);
        if !is_repeated {
            transaction.check(producer)?;
        }
        let invalid = Err(ErrorCode::InvalidTxnState);
        match state {
            TransactionState::Ongoing => {
                let bumps = version == ClientVersion::V2;
                self.prepare(now, id, commit, bumps, true, fresh);
                Ok(self.transactions[id].next_producer())
            }
            _ if state.is_ending() => {
                // A client of KIP-890 that was not fenced has an older epoch by now.
                if version == ClientVersion::V2 && !is_repeated {
                    return Err(ErrorCode::ProducerFenced);
                }
                if matching { Err(ErrorCode::ConcurrentTransactions) } else { invalid }
            }
            TransactionState::CompleteCommit | TransactionState::CompleteAbort
                if version == ClientVersion::V1 || is_repeated =>
            {
                if matching {
                    Ok(current)
                } else {
                    invalid
                }
            }
            // Nothing was begun. A client of KIP-890 cannot know that, and may abort.
            _ if version == ClientVersion::V2 && !commit => {
                self.prepare(now, id, false, true, true, fresh);
                Ok(self.transactions[id].next_producer())
            }
            _ => invalid,
        }
    }

    /// Every partition of this ending has its marker.
    pub fn complete(&mut self, now: Now, ending: &Ending) {
        if self.is_current(ending) {
            let transaction = self.transactions.get_mut(&ending.transactional_id);
            transaction.expect("it is current").complete(now.unix_ms);
            self.store(&ending.transactional_id);
        }
    }

    /// Whether this ending is the one that partitions are being told, by this coordinator. Another
    /// one that was told of it before must not go on: a later transaction may have begun.
    #[must_use]
    pub fn is_current(&self, ending: &Ending) -> bool {
        let known = self.transactions.get(&ending.transactional_id);
        ending.marker.coordinator_epoch == self.epoch
            && known.is_some_and(|transaction| {
                transaction.state.is_ending() && transaction.producer == ending.marker.producer
            })
    }

    /// Whether the outcome of its transaction is decided and partitions are being told.
    #[must_use]
    pub fn is_ending(&self, id: &str) -> bool {
        self.transactions.get(id).is_some_and(|transaction| transaction.state.is_ending())
    }

    /// The ids in one of these states, or of these producers; none named: all.
    #[must_use]
    pub fn list(
        &self,
        now: Now,
        states: &[TransactionState],
        producers: &BTreeSet<i64>,
        running_ms: i64,
    ) -> Vec<ListedTransaction> {
        let wanted = |t: &Transaction| {
            // What never ran began at -1, as in Kafka: longer ago than any time.
            let never_ran = t.state == TransactionState::Empty;
            let started_ms = if never_ran { -1 } else { t.started_ms };
            let lasted_ms = now.unix_ms.saturating_sub(started_ms);
            (states.is_empty() || states.contains(&t.state))
                && (producers.is_empty() || producers.contains(&t.producer.id.0))
                && (running_ms < 0 || lasted_ms > running_ms)
        };
        let shown = |(id, t): (&String, &Transaction)| ListedTransaction {
            transactional_id: id.clone(),
            producer_id: t.producer.id.0,
            transaction_state: t.state.name().to_owned(),
        };
        self.transactions.iter().filter(|(_, t)| wanted(t)).map(shown).collect()
    }

    /// All that is known of an id.
    #[must_use]
    pub fn describe(&self, id: &str) -> DescribedTransaction {
        let Some(transaction) = self.transactions.get(id) else {
            let error = if id.is_empty() {
                ErrorCode::InvalidRequest
            } else {
                ErrorCode::TransactionalIdNotFound
            };
            return DescribedTransaction {
                error_code: error.code(),
                transactional_id: id.to_owned(),
                ..Default::default()
            };
        };
        let topic = |(topic, partitions): (&str, Vec<i32>)| TransactionTopic {
            topic: topic.to_owned(),
            partitions,
        };
        DescribedTransaction {
            error_code: 0,
            transactional_id: id.to_owned(),
            transaction_state: transaction.state.name().to_owned(),
            transaction_timeout_ms: transaction.timeout_ms,
            transaction_start_time_ms: transaction.started_ms,
            producer_id: transaction.producer.id.0,
            producer_epoch: transaction.producer.epoch,
            topics: transaction.by_topic().into_iter().map(topic).collect(),
        }
    }

    /// The epoch that markers carry.
    #[must_use]
    pub fn epoch(&self) -> i32 {
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "t";

    struct Rig {
        coordinator: TransactionCoordinator,
        now: Now,
        fresh: i64,
        log: Vec<LogRecord>,
        endings: Vec<Ending>,
    }

    fn config() -> TransactionConfig {
        TransactionConfig { timeout_ms_max: 900_000, id_expiration_ms: 1_000_000, ids_max: 100 }
    }

    fn at(producer: Producer, epoch: i16) -> Producer {
        Producer { epoch, ..producer }
    }

    impl Rig {
        fn new() -> Self {
            let coordinator = TransactionCoordinator::new(config(), 1);
            let now = Now { ms: 0, unix_ms: 1_000 };
            Self { coordinator, now, fresh: 100, log: Vec::new(), endings: Vec::new() }
        }

        fn fresh(&mut self) -> ProducerId {
            self.fresh += 1;
            ProducerId(self.fresh)
        }

        fn settle(&mut self) {
            let effects = self.coordinator.take_effects();
            self.log.extend(effects.records);
            self.endings.extend(effects.endings);
        }

        fn init(&mut self, expected: Option<Producer>) -> Result<Producer, ErrorCode> {
            let fresh = self.fresh();
            let got = self.coordinator.init_producer_id(self.now, T, 60_000, expected, fresh);
            self.settle();
            got
        }

        fn add(&mut self, producer: Producer) -> Result<(), ErrorCode> {
            let partitions = [("a".to_owned(), 0), ("b".to_owned(), 3)];
            let version = ClientVersion::V1;
            let got = self.coordinator.add_partitions(self.now, T, producer, &partitions, version);
            self.settle();
            got
        }

        fn end(
            &mut self,
            producer: Producer,
            commit: bool,
            version: ClientVersion,
        ) -> Result<Producer, ErrorCode> {
            let fresh = self.fresh();
            let got = self.coordinator.end(self.now, T, producer, commit, version, fresh);
            self.settle();
            got
        }

        fn complete(&mut self) -> Ending {
            assert_eq!(self.endings.len(), 1, "one ending is told once");
            let ending = self.endings.remove(0);
            self.coordinator.complete(self.now, &ending);
            self.settle();
            ending
        }

        fn state(&self) -> String {
            self.coordinator.describe(T).transaction_state
        }

        /// What a start finds.
        fn restart(&mut self) {
            let mut coordinator = TransactionCoordinator::new(config(), self.coordinator.epoch + 1);
            for record in &self.log {
                coordinator.replay(&record.key, record.value.as_deref()).unwrap();
            }
            coordinator.on_loaded(self.now);
            self.coordinator = coordinator;
            self.endings.clear();
            self.settle();
        }
    }

    #[test]
    fn a_transaction_is_begun_decided_told_and_done() {
        let mut rig = Rig::new();
        let producer = rig.init(None).unwrap();
        assert_eq!(rig.add(producer), Ok(()));
        let a = ("a".to_owned(), 0);
        assert_eq!(rig.coordinator.verify(T, producer, &a), Ok(()));
        let other = ("a".to_owned(), 1);
        assert_eq!(rig.coordinator.verify(T, producer, &other), Err(ErrorCode::InvalidTxnState));
        assert_eq!(rig.end(producer, true, ClientVersion::V1), Ok(producer));
        assert_eq!(rig.state(), "PrepareCommit");
        // Until all know, nothing else goes on.
        let busy = Err(ErrorCode::ConcurrentTransactions);
        assert_eq!(rig.end(producer, true, ClientVersion::V1).map(drop), busy);
        assert_eq!(rig.add(producer), busy);
        assert_eq!(rig.init(None).map(drop), busy);
        assert_eq!(rig.coordinator.verify(T, producer, &a), busy);
        let invalid = Err(ErrorCode::InvalidTxnState);
        assert_eq!(rig.end(producer, false, ClientVersion::V1).map(drop), invalid);
        let ending = rig.complete();
        assert_eq!((ending.marker.producer, ending.marker.commit), (producer, true));
        assert_eq!(ending.partitions.len(), 2);
        // The same once more is the answer to a request that was repeated.
        assert_eq!(rig.end(producer, true, ClientVersion::V1), Ok(producer));
        assert_eq!(rig.end(producer, false, ClientVersion::V1).map(drop), invalid);
        assert_eq!(rig.coordinator.verify(T, producer, &a), invalid);
    }

    #[test]
    fn a_decided_transaction_is_told_again_after_a_stop() {
        let mut rig = Rig::new();
        let producer = rig.init(None).unwrap();
        rig.add(producer).unwrap();
        rig.restart();
        assert_eq!((rig.state().as_str(), rig.endings.len()), ("Ongoing", 0));
        assert!(rig.coordinator.next_deadline().is_some());
        rig.end(producer, false, ClientVersion::V1).unwrap();
        rig.restart();
        // Who told it before has no more to say.
        let late = Ending {
            marker: Marker { coordinator_epoch: 2, ..rig.endings[0].marker },
            ..rig.endings[0].clone()
        };
        rig.coordinator.complete(rig.now, &late);
        assert!(!rig.coordinator.is_current(&late) && rig.state() == "PrepareAbort");
        let ending = rig.complete();
        assert!(!ending.marker.commit && ending.marker.coordinator_epoch == 3);
        rig.restart();
        assert_eq!((rig.state().as_str(), rig.endings.len()), ("CompleteAbort", 0));
    }

    #[test]
    fn who_takes_the_id_over_fences_and_aborts() {
        let mut rig = Rig::new();
        let old = rig.init(None).unwrap();
        rig.add(old).unwrap();
        assert_eq!(rig.init(None), Err(ErrorCode::ConcurrentTransactions));
        // The zombie is out from here on, and its transaction is aborted with the newer epoch.
        assert_eq!(rig.add(old), Err(ErrorCode::ProducerFenced));
        let ending = rig.complete();
        assert_eq!((ending.marker.producer.epoch, ending.marker.commit), (old.epoch + 1, false));
        let new = rig.init(None).unwrap();
        assert_eq!(new, at(old, 2));
        let fenced = Err(ErrorCode::ProducerFenced);
        assert_eq!(rig.end(old, true, ClientVersion::V1), fenced);
        assert_eq!(rig.end(at(old, 1), true, ClientVersion::V2), fenced);
        let stranger = Producer { id: ProducerId(5), epoch: 2 };
        assert_eq!(rig.add(stranger), Err(ErrorCode::InvalidProducerIdMapping));
        let nobody = rig.coordinator.verify("other", new, &("a".to_owned(), 0));
        assert_eq!(nobody, Err(ErrorCode::InvalidProducerIdMapping));
    }

    #[test]
    fn with_kip_890_each_transaction_has_an_epoch_of_its_own() {
        let mut rig = Rig::new();
        let first = rig.init(None).unwrap();
        rig.add(first).unwrap();
        assert_eq!(rig.end(first, true, ClientVersion::V2), Ok(at(first, 1)));
        // Repeated while markers are written, and after.
        let busy = Err(ErrorCode::ConcurrentTransactions);
        assert_eq!(rig.end(first, true, ClientVersion::V2), busy);
        assert_eq!(rig.complete().marker.producer, at(first, 1));
        assert_eq!(rig.end(first, true, ClientVersion::V2), Ok(at(first, 1)));
        let invalid = Err(ErrorCode::InvalidTxnState);
        assert_eq!(rig.end(first, false, ClientVersion::V2), invalid);
        // With the new epoch it is a request of its own: there is nothing to commit.
        assert_eq!(rig.end(at(first, 1), true, ClientVersion::V2), invalid);
        // It may abort what it cannot know was never begun, and has the next epoch then.
        assert_eq!(rig.end(at(first, 1), false, ClientVersion::V2), Ok(at(first, 2)));
        assert!(rig.complete().partitions.is_empty());
        rig.add(at(first, 2)).unwrap();
        // A request from before is no repetition once another transaction was begun.
        assert_eq!(rig.end(at(first, 1), true, ClientVersion::V2), Err(ErrorCode::ProducerFenced));
    }

    #[test]
    fn epochs_that_run_out_go_on_with_another_id() {
        let mut rig = Rig::new();
        let mut producer = rig.init(None).unwrap();
        for _ in 0..EPOCH_LAST {
            producer = rig.init(None).unwrap();
        }
        assert_eq!(producer.epoch, EPOCH_LAST);
        rig.add(producer).unwrap();
        let next = rig.end(producer, true, ClientVersion::V2).unwrap();
        assert_ne!(next.id, producer.id);
        assert_eq!(next.epoch, 0);
        assert_eq!(rig.complete().marker.producer, at(producer, i16::MAX));
        assert_eq!(rig.end(producer, true, ClientVersion::V2), Ok(next));
        rig.add(next).unwrap();
        rig.end(next, true, ClientVersion::V1).unwrap();
        rig.complete();
        // And by taking the id over.
        for _ in 0..EPOCH_LAST {
            producer = rig.init(None).unwrap();
        }
        let after = rig.init(None).unwrap();
        assert!(after.id != producer.id && after.epoch == 0);
        // The answer was lost; and once someone else has it, it is not for who had the old one.
        assert_eq!(rig.init(Some(producer)), Ok(after));
        assert_eq!(rig.init(None), Ok(at(after, 1)));
        assert_eq!(rig.init(Some(producer)), Err(ErrorCode::ProducerFenced));
    }

    #[test]
    fn another_epoch_is_given_to_who_has_the_last_one() {
        let mut rig = Rig::new();
        let first = rig.init(None).unwrap();
        let second = rig.init(Some(first)).unwrap();
        assert_eq!(second, at(first, 1));
        // Its answer was lost: the same again.
        assert_eq!(rig.init(Some(first)), Ok(second));
        assert_eq!(rig.init(Some(second)), Ok(at(first, 2)));
        assert_eq!(rig.init(Some(first)), Err(ErrorCode::ProducerFenced));
        let stranger = Producer { id: ProducerId(5), epoch: 2 };
        assert_eq!(rig.init(Some(stranger)), Err(ErrorCode::ProducerFenced));
    }

    #[test]
    fn what_runs_too_long_is_aborted_and_its_producer_fenced() {
        let mut rig = Rig::new();
        let producer = rig.init(None).unwrap();
        rig.add(producer).unwrap();
        let deadline = rig.coordinator.next_deadline().unwrap();
        assert_eq!(deadline, 60_000);
        rig.now = Now { ms: 60_000, unix_ms: 61_000 };
        rig.coordinator.on_time(rig.now, || ProducerId(9));
        rig.settle();
        assert_eq!(rig.coordinator.next_deadline(), None);
        let fenced = Err(ErrorCode::ProducerFenced);
        assert_eq!(rig.end(producer, true, ClientVersion::V1), fenced);
        let invalid = Err(ErrorCode::InvalidTxnState);
        assert_eq!(rig.end(producer, true, ClientVersion::V2), invalid);
        assert_eq!(rig.complete().marker.producer, at(producer, 1));
        assert_eq!(rig.end(producer, true, ClientVersion::V2), invalid);
        assert_eq!(rig.end(producer, false, ClientVersion::V1), fenced);
        // It may only learn that it was aborted, as if it had asked for that.
        assert_eq!(rig.end(producer, false, ClientVersion::V2), Ok(at(producer, 1)));
    }

    #[test]
    fn requests_without_sense_are_refused_and_idle_ids_forgotten() {
        let mut rig = Rig::new();
        let now = rig.now;
        let mut init = |id: &str, timeout| {
            rig.coordinator.init_producer_id(now, id, timeout, None, ProducerId(1)).map(drop)
        };
        assert_eq!(init("", 1), Err(ErrorCode::InvalidRequest));
        assert_eq!(init("x", 0), Err(ErrorCode::InvalidTransactionTimeout));
        assert_eq!(init("x", 900_001), Err(ErrorCode::InvalidTransactionTimeout));
        let producer = rig.init(None).unwrap();
        let invalid = Err(ErrorCode::InvalidTxnState);
        assert_eq!(rig.end(producer, true, ClientVersion::V1), invalid);
        assert_eq!(rig.end(producer, false, ClientVersion::V1), invalid);
        rig.now.unix_ms += 999_999;
        rig.coordinator.expire(rig.now);
        assert_eq!(rig.coordinator.count(), 1);
        rig.now.unix_ms += 1;
        rig.coordinator.expire(rig.now);
        rig.settle();
        assert_eq!(rig.coordinator.count(), 0);
        rig.restart();
        assert_eq!(rig.coordinator.count(), 0);
    }

    #[test]
    fn beyond_so_many_ids_no_new_one_is_taken() {
        let mut rig = Rig::new();
        rig.coordinator.config.ids_max = 1;
        let first = rig.init(None).unwrap();
        let other = rig.coordinator.init_producer_id(rig.now, "other", 1, None, ProducerId(7));
        assert_eq!(other, Err(ErrorCode::PolicyViolation));
        assert_eq!(rig.init(None), Ok(at(first, 1)));
    }

    #[test]
    fn when_a_transaction_began_is_told_until_the_next_one() {
        let mut rig = Rig::new();
        let producer = rig.init(None).unwrap();
        let began = |rig: &Rig| rig.coordinator.describe(T).transaction_start_time_ms;
        assert_eq!(began(&rig), -1);
        assert_eq!(rig.add(producer), Ok(()));
        rig.now.unix_ms += 500;
        rig.end(producer, true, ClientVersion::V1).unwrap();
        rig.complete();
        assert_eq!(began(&rig), 1_000);
        rig.restart();
        assert_eq!(began(&rig), 1_000);
        let longer_than =
            |rig: &Rig, ms: i64| rig.coordinator.list(rig.now, &[], &BTreeSet::new(), ms).len();
        assert_eq!((longer_than(&rig, 499), longer_than(&rig, 500)), (1, 0));
        rig.init(Some(producer)).unwrap();
        assert_eq!(began(&rig), -1);
    }
}
