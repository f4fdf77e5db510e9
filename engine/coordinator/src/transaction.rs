//! One transactional id: who has it, what its transaction has touched; rules that need nothing else.

use model::{ErrorCode, Producer, ProducerId};
use std::collections::{BTreeMap, BTreeSet};

/// The last epoch that clients are given: the one after it is kept for fencing them.
pub(crate) const EPOCH_LAST: i16 = i16::MAX - 1;

macro_rules! transaction_states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// Where a transaction is in its life, in Kafka's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum TransactionState { $($(#[$doc])* $name = $code,)* }

        impl TransactionState {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word that tools show.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

transaction_states! {
    /// None was begun yet.
    Empty = 0;
    /// It has partitions, and may get more.
    Ongoing = 1;
    /// It is committed; not every partition knows yet.
    PrepareCommit = 2;
    /// It is aborted; not every partition knows yet.
    PrepareAbort = 3;
    /// The last one was committed.
    CompleteCommit = 4;
    /// The last one was aborted.
    CompleteAbort = 5;
    /// It expired. Never stored here: its record goes.
    Dead = 6;
    /// Kafka fences in two steps. Never met here, but tools may ask for it.
    PrepareEpochFence = 7;
}

impl TransactionState {
    pub(crate) fn code(self) -> i8 {
        self as i8
    }

    pub(crate) fn from_code(code: i8) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.code() == code)
    }

    /// Whether its outcome is decided and partitions are being told.
    pub(crate) fn is_ending(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }
}

/// What is known of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    /// Who has it now.
    pub(crate) producer: Producer,
    /// Its producer id before that one ran out of epochs.
    pub(crate) previous_id: Option<ProducerId>,
    /// Its producer id from the end of this transaction on, if that is to change.
    pub(crate) next_id: Option<ProducerId>,
    /// The epoch before the present one, if its holder may come back for that (KIP-360).
    pub(crate) last_epoch: Option<i16>,
    pub(crate) timeout_ms: i32,
    pub(crate) state: TransactionState,
    pub(crate) partitions: BTreeSet<(String, i32)>,
    /// ms since the Unix epoch; -1 if there is none.
    pub(crate) started_ms: i64,
    pub(crate) updated_ms: i64,
    /// 2 if its client bumps the epoch with each transaction (KIP-890).
    pub(crate) client_version: i16,
    /// When it is aborted if it has not ended (monotonic ms). Not stored.
    pub(crate) deadline: Option<u64>,
}

impl Transaction {
    pub(crate) fn new(producer: Producer, timeout_ms: i32, unix_ms: i64) -> Self {
        Self {
            producer,
            previous_id: None,
            next_id: None,
            last_epoch: None,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: BTreeSet::new(),
            started_ms: -1,
            updated_ms: unix_ms,
            client_version: 0,
            deadline: None,
        }
    }

    /// Its partitions by topic.
    pub(crate) fn by_topic(&self) -> BTreeMap<&str, Vec<i32>> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in &self.partitions {
            topics.entry(topic).or_default().push(*partition);
        }
        topics
    }

    /// Whether who asks is who has it.
    pub(crate) fn check(&self, producer: Producer) -> Result<(), ErrorCode> {
        if producer.id != self.producer.id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if producer.epoch != self.producer.epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        Ok(())
    }

    /// Decides the outcome. `bumps`: markers carry the next epoch, so that what the producer sent
    /// before and comes late is refused; `keeps_holder`: its client goes on with that epoch, else it
    /// is fenced. `fresh` is the id to go on with when the epochs run out.
    pub(crate) fn prepare(
        &mut self,
        commit: bool,
        bumps: bool,
        keeps_holder: bool,
        fresh: ProducerId,
        unix_ms: i64,
    ) {
        self.state =
            if commit { TransactionState::PrepareCommit } else { TransactionState::PrepareAbort };
        (self.deadline, self.updated_ms) = (None, unix_ms);
        if bumps {
            if self.producer.epoch >= EPOCH_LAST {
                self.next_id = Some(fresh);
            }
            self.last_epoch = keeps_holder.then_some(self.producer.epoch);
            self.producer.epoch = self.producer.epoch.saturating_add(1);
        }
    }

    /// Every partition knows.
    pub(crate) fn complete(&mut self, unix_ms: i64) {
        self.state = match self.state {
            TransactionState::PrepareCommit => TransactionState::CompleteCommit,
            _ => TransactionState::CompleteAbort,
        };
        if let Some(next) = self.next_id.take() {
            self.previous_id = Some(self.producer.id);
            self.producer = Producer { id: next, epoch: 0 };
        }
        self.partitions.clear();
        self.updated_ms = unix_ms;
    }

    /// Who its client is once this transaction has ended.
    pub(crate) fn next_producer(&self) -> Producer {
        self.next_id.map_or(self.producer, |id| Producer { id, epoch: 0 })
    }
}
