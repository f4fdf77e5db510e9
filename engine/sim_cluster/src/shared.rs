//! What the clients of a run share: its chances, what they saw, and how far it is.

use model::ErrorCode;
use runtime::random::Random;
use runtime::{clock, timer};
use sim::history::{History, Step};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Topics that the clients write: what workers make outputs from, those, and one without transactions.
pub(crate) const IN: &str = "in";
pub(crate) const OUT: &str = "out";
pub(crate) const PLAIN: &str = "plain";
/// Partitions of each.
pub(crate) const TOPICS: [(&str, i32); 3] = [(IN, 2), (OUT, 3), (PLAIN, 3)];
/// The group whose offsets workers commit in transactions.
pub(crate) const WORKERS: &str = "workers";

/// Where the broker listens.
pub(crate) const BROKER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(crate) const ADDRESS: SocketAddr = SocketAddr::new(BROKER, 9092);

/// What a run did, for reports and to show that it did something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Outcome {
    pub committed: u64,
    pub aborted: u64,
    /// Transactions of which the client does not know how they ended.
    pub unknown: u64,
    pub fenced: u64,
    pub sent: u64,
    pub acknowledged: u64,
    pub outputs: u64,
    pub polled: u64,
    pub lost_answers: u64,
    pub refused_for_now: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub stops: u64,
    pub pauses: u64,
    pub cut_links: u64,
    pub packets_lost: u64,
    pub joins: u64,
    pub commits: u64,
    pub topics_made: u64,
    pub topics_deleted: u64,
    /// Over everything that happened: equal for equal runs.
    pub trace: u64,
}

impl Outcome {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.unknown += other.unknown;
        self.fenced += other.fenced;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.outputs += other.outputs;
        self.polled += other.polled;
        self.lost_answers += other.lost_answers;
        self.refused_for_now += other.refused_for_now;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.stops += other.stops;
        self.pauses += other.pauses;
        self.cut_links += other.cut_links;
        self.packets_lost += other.packets_lost;
        self.joins += other.joins;
        self.commits += other.commits;
        self.topics_made += other.topics_made;
        self.topics_deleted += other.topics_deleted;
        self.trace ^= other.trace;
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Things go wrong.
    Troubled,
    /// Nothing goes wrong any more: what was begun ends.
    Ending,
    /// Nobody sends inputs any more: workers come to the end of what there is.
    Draining,
    /// Nobody sends anything any more: readers come to the end.
    Reading,
}

/// See the file's first line.
pub(crate) struct Shared {
    pub(crate) random: RefCell<Random>,
    pub(crate) history: RefCell<History>,
    pub(crate) outcome: RefCell<Outcome>,
    pub(crate) phase: Cell<Phase>,
    values: Cell<u64>,
    /// Clients of each kind that have not come to their end.
    pub(crate) senders: Cell<usize>,
    pub(crate) workers: Cell<usize>,
    pub(crate) others: Cell<usize>,
    /// What each of them does, for whoever waits for them.
    pub(crate) doing: RefCell<std::collections::BTreeMap<u64, String>>,
}

impl Shared {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            random: RefCell::new(Random::new(seed)),
            history: RefCell::default(),
            outcome: RefCell::default(),
            phase: Cell::new(Phase::Troubled),
            values: Cell::new(0),
            senders: Cell::new(0),
            workers: Cell::new(0),
            others: Cell::new(0),
            doing: RefCell::default(),
        })
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    pub(crate) fn one_in(&self, n: u64) -> bool {
        self.random.borrow_mut().one_in(n)
    }

    /// A value that nobody has sent.
    pub(crate) fn next_value(&self) -> u64 {
        self.values.set(self.values.get() + 1);
        self.values.get()
    }

    pub(crate) fn is_troubled(&self) -> bool {
        self.phase.get() == Phase::Troubled
    }

    pub(crate) fn keep(&self, step: Step) {
        if !step.operations.is_empty() {
            self.history.borrow_mut().steps.push(step);
        }
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Outcome)) {
        count(&mut self.outcome.borrow_mut());
    }

    pub(crate) fn does(&self, process: u64, what: impl Into<String>) {
        self.doing.borrow_mut().insert(process, what.into());
    }

    /// Up to so many milliseconds.
    pub(crate) async fn rest(&self, ms: u64) {
        let us = self.below(ms * 1000 + 1);
        timer::sleep(Duration::from_micros(us)).await;
    }
}

/// The time in a history.
pub(crate) fn tick() -> u64 {
    clock::now().0
}

/// What the history calls a partition.
pub(crate) fn name_of(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// Whether a client may be refused so while brokers come and go. No disk fails here, and whoever asks knows that there
/// is such a topic.
pub(crate) fn is_for_now(error: ErrorCode) -> bool {
    let never = [ErrorCode::KafkaStorageError, ErrorCode::UnknownTopicOrPartition];
    error.is_retriable() && !never.contains(&error)
}
