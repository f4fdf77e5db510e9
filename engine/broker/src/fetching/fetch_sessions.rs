//! Fetch sessions (KIP-227): a consumer of many partitions names only what changed, and is told only
//! what changed.
//!
//! A session stands for a full request: that is written out and served like any other. Its answer
//! leaves out what the client knows. Sessions live on the shard of their connection; a client that
//! comes back to another shard begins a new one.

use model::limits::TOPIC_NAME_BYTES_MAX;
use model::{ErrorCode, TopicId, TopicRef};
use runtime::clock::{self, Nanos};
use runtime::random;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::fetch::{FetchPartition, FetchRequest, FetchResult, put_full_request};

/// A session that was used within this time is not thrown out for a new one (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
const KEPT_FOR: Duration = Duration::from_secs(120);
/// Most partitions of one session, and of all sessions of a shard: what clients may hold in memory
/// (about 100 bytes each) is bounded.
const PARTITIONS_MAX: usize = 100_000;
const PARTITIONS_OF_ALL_MAX: usize = 1_000_000;

/// A topic as the session's client names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TopicKey {
    Name(Box<str>),
    Id(TopicId),
}

impl TopicKey {
    fn of(topic: TopicRef<'_>) -> Self {
        match topic {
            TopicRef::Name(name) => Self::Name(name.into()),
            TopicRef::Id(id) => Self::Id(id),
        }
    }

    fn as_ref(&self) -> TopicRef<'_> {
        match self {
            Self::Name(name) => TopicRef::Name(name),
            Self::Id(id) => TopicRef::Id(*id),
        }
    }
}

struct SessionPartition {
    topic: TopicKey,
    partition: i32,
    current_leader_epoch: i32,
    fetch_offset: i64,
    partition_max_bytes: i32,
    /// What the client was last told; nothing yet, or an error last: -1.
    high_watermark: i64,
    log_start_offset: i64,
    /// The client does not want it any more; it goes when all that the request names was looked at.
    is_forgotten: bool,
}

impl SessionPartition {
    fn new(asked: FetchPartition<'_>) -> Self {
        Self {
            topic: TopicKey::of(asked.topic),
            partition: asked.partition,
            current_leader_epoch: asked.current_leader_epoch,
            fetch_offset: asked.fetch_offset,
            partition_max_bytes: asked.partition_max_bytes,
            high_watermark: -1,
            log_start_offset: -1,
            is_forgotten: false,
        }
    }

    fn place(&self, topic: TopicRef<'_>, partition: i32) -> Ordering {
        self.topic.as_ref().cmp(&topic).then(self.partition.cmp(&partition))
    }

    fn asked(&self) -> FetchPartition<'_> {
        FetchPartition {
            topic: self.topic.as_ref(),
            partition: self.partition,
            current_leader_epoch: self.current_leader_epoch,
            fetch_offset: self.fetch_offset,
            partition_max_bytes: self.partition_max_bytes,
        }
    }
}

struct Session {
    /// The epoch of the next request.
    epoch: i32,
    uses_ids: bool,
    last_used: Nanos,
    /// By topic and partition.
    partitions: Vec<SessionPartition>,
    /// The partition that is served first: behind the one that was last.
    first: usize,
    /// Whether each partition of the last request is told, in that request's order.
    told: Vec<bool>,
}

impl Session {
    /// Changes what a request asks of a partition, or notes it among the new ones.
    fn set(&mut self, asked: FetchPartition<'_>, new: &mut Vec<SessionPartition>) {
        let place = self.partitions.binary_search_by(|p| p.place(asked.topic, asked.partition));
        match place {
            Ok(at) if self.partitions[at].is_forgotten => {
                self.partitions[at] = SessionPartition::new(asked);
            }
            Ok(at) => {
                let known = &mut self.partitions[at];
                known.current_leader_epoch = asked.current_leader_epoch;
                known.fetch_offset = asked.fetch_offset;
                known.partition_max_bytes = asked.partition_max_bytes;
            }
            Err(_) => new.push(SessionPartition::new(asked)),
        }
    }

    /// Lets go of what was forgotten and takes in what is new, of which the last mention counts.
    fn settle(&mut self, mut new: Vec<SessionPartition>) {
        self.partitions.retain(|partition| !partition.is_forgotten);
        if !new.is_empty() {
            self.partitions.append(&mut new);
            self.partitions.sort_by(|a, b| a.place(b.topic.as_ref(), b.partition));
            self.partitions.dedup_by(|later, earlier| {
                let same = later.topic == earlier.topic && later.partition == earlier.partition;
                if same {
                    std::mem::swap(later, earlier);
                }
                same
            });
        }
    }

    fn forget(&mut self, topic: TopicRef<'_>, partition: i32) {
        if let Ok(at) = self.partitions.binary_search_by(|p| p.place(topic, partition)) {
            self.partitions[at].is_forgotten = true;
        }
    }
}

/// Whether every name is one that a topic may have: longer ones would be kept for each of their partitions.
fn names_are_short(fetch: &FetchRequest<'_>) -> bool {
    fetch.partitions().all(|asked| match asked.topic {
        TopicRef::Name(name) => name.len() <= TOPIC_NAME_BYTES_MAX,
        TopicRef::Id(_) => true,
    })
}

/// Partitions that all sessions hold together.
fn held(sessions: &BTreeMap<i32, Session>) -> usize {
    sessions.values().map(|session| session.partitions.len()).sum()
}

/// What a request is to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// No session: everything asked for is answered.
    Sessionless,
    /// It asks for a new session.
    New,
    /// It goes on with this one.
    Goes(i32),
}

/// The sessions of a shard's connections.
pub(crate) struct FetchSessions {
    shard: usize,
    slots: usize,
    sessions: RefCell<BTreeMap<i32, Session>>,
}

impl FetchSessions {
    pub(crate) fn new(shard: usize, slots: usize) -> Self {
        Self { shard, slots, sessions: RefCell::default() }
    }

    /// Finds out what the request is to its session, and brings that up to date.
    pub(crate) fn begin(&self, fetch: &FetchRequest<'_>, version: i16) -> Result<Part, ErrorCode> {
        let mut sessions = self.sessions.borrow_mut();
        match (fetch.session_id, fetch.session_epoch) {
            (0, -1) => Ok(Part::Sessionless),
            (0, 0) => Ok(Part::New),
            (0, _) => Err(ErrorCode::FetchSessionIdNotFound),
            (id, epoch) => {
                let Some(session) = sessions.get_mut(&id) else {
                    // Beginning anew or ending needs no old session.
                    return match epoch {
                        0 => Ok(Part::New),
                        -1 => Ok(Part::Sessionless),
                        _ => Err(ErrorCode::FetchSessionIdNotFound),
                    };
                };
                if epoch <= 0 {
                    sessions.remove(&id);
                    return Ok(if epoch == 0 { Part::New } else { Part::Sessionless });
                }
                if epoch != session.epoch {
                    return Err(ErrorCode::InvalidFetchSessionEpoch);
                }
                if session.uses_ids != (version >= 13) {
                    return Err(ErrorCode::FetchSessionTopicIdError);
                }
                if !names_are_short(fetch) {
                    sessions.remove(&id);
                    return Err(ErrorCode::FetchSessionIdNotFound);
                }
                session.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
                session.last_used = clock::now();
                let before = session.partitions.len();
                fetch.forgotten(|topic, partition| session.forget(topic, partition));
                let mut new = Vec::new();
                fetch.partitions().for_each(|asked| session.set(asked, &mut new));
                session.settle(new);
                let now = session.partitions.len();
                if now > before && (now > PARTITIONS_MAX || held(&sessions) > PARTITIONS_OF_ALL_MAX)
                {
                    // The client asks in full from now on, or for less.
                    sessions.remove(&id);
                    return Err(ErrorCode::FetchSessionIdNotFound);
                }
                Ok(Part::Goes(id))
            }
        }
    }

    /// Writes the full request that a session's incremental one stands for.
    pub(crate) fn put_full_request(
        &self,
        out: &mut Vec<u8>,
        version: i16,
        id: i32,
        fetch: &FetchRequest<'_>,
    ) {
        let sessions = self.sessions.borrow();
        let session = sessions.get(&id).expect("begun just now");
        let (back, front) =
            session.partitions.split_at(session.first.min(session.partitions.len()));
        let order = front.iter().chain(back).map(SessionPartition::asked);
        put_full_request(out, version, fetch, order);
    }

    /// Makes a session that has been answered in full, if there is room. Returns its id, or 0.
    pub(crate) fn create(
        &self,
        fetch: &FetchRequest<'_>,
        version: i16,
        results: impl Iterator<Item = FetchResult>,
    ) -> i32 {
        let mut sessions = self.sessions.borrow_mut();
        let partitions = fetch.partitions().count();
        let fits =
            partitions <= PARTITIONS_MAX && held(&sessions) + partitions <= PARTITIONS_OF_ALL_MAX;
        if self.slots == 0 || partitions == 0 || !fits || !names_are_short(fetch) {
            return 0;
        }
        if sessions.len() >= self.slots {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.last_used);
            let (id, last_used) = oldest.map(|(id, s)| (*id, s.last_used)).expect("slots above 0");
            if clock::now() < last_used + KEPT_FOR {
                return 0;
            }
            sessions.remove(&id);
        }
        let mut session = Session {
            epoch: 1,
            uses_ids: version >= 13,
            last_used: clock::now(),
            partitions: Vec::new(),
            first: 0,
            told: Vec::new(),
        };
        for (asked, result) in fetch.partitions().zip(results) {
            let mut partition = SessionPartition::new(asked);
            if result.error == ErrorCode::None {
                partition.high_watermark = result.high_watermark;
                partition.log_start_offset = result.log_start_offset;
            }
            session.partitions.push(partition);
        }
        session.partitions.sort_by(|a, b| a.place(b.topic.as_ref(), b.partition));
        session.partitions.dedup_by(|a, b| a.topic == b.topic && a.partition == b.partition);
        let id = loop {
            // Which shard it is on is part of the id, so that no two shards give out the same.
            let id = (random::seed() & 0x007f_ffff) as i32 * 256 + (self.shard & 0xff) as i32;
            if id != 0 && !sessions.contains_key(&id) {
                break id;
            }
        };
        sessions.insert(id, session);
        id
    }

    /// Decides what of a session's results is worth telling and gives that, by partition of the
    /// full request, to `with`. False if the session is gone.
    pub(crate) fn tell(
        &self,
        id: i32,
        results: impl Iterator<Item = FetchResult>,
        with: impl FnOnce(&[bool]),
    ) -> bool {
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get_mut(&id) else { return false };
        let count = session.partitions.len();
        let first = session.first.min(count);
        session.told.clear();
        let mut last_served = None;
        for (turn, result) in results.enumerate() {
            let Some(known) = session.partitions.get_mut((first + turn) % count.max(1)) else {
                return false;
            };
            let failed = result.error != ErrorCode::None;
            let told = failed
                || result.records_bytes > 0
                || result.high_watermark != known.high_watermark
                || result.log_start_offset != known.log_start_offset;
            if result.records_bytes > 0 {
                last_served = Some(turn);
            }
            (known.high_watermark, known.log_start_offset) =
                if failed { (-1, -1) } else { (result.high_watermark, result.log_start_offset) };
            session.told.push(told);
        }
        if session.told.len() != count {
            return false;
        }
        if let Some(turn) = last_served {
            session.first = (first + turn + 1) % count;
        }
        with(&session.told);
        true
    }
}
