//! What one core owns: its partitions, its connections, its place in the mesh. Routes, never
//! decides.

use crate::config::Config;
use crate::fetch_sessions::FetchSessions;
use crate::groups::GroupLog;
use crate::handlers::fetch::FetchShare;
use crate::image::{MetadataImage, TopicImage};
use crate::memory::AnswerMemory;
use crate::open_files::OpenFiles;
use crate::parked_fetches::ParkedFetches;
use crate::partition_slot::PartitionSlot;
use crate::placement::shard_of;
use crate::producer_state::ProducerState;
use crate::requests::{Requests, Token};
use crate::stages::{Stage, StageTimes};
use crate::topic_settings::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::transactions::{ProducerIds, Proofs, TransactionLog, Turns};
use model::{BatchRewriter, TopicPartition};
use partition::Leader;
use runtime::budget::Budget;
use runtime::buffer::{ChunkPool, ChunkWriter, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::mailbox::Mailbox;
use runtime::notify::Notify;
use runtime::receive_buffer::ReceivePool;
use rustc_hash::FxHashMap;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;
use storage::journal::JOURNAL_FILES;
use storage::{Health, Journal, Log, LogDir, PartitionNotes, Replay, StorageError, TailCache};
use wire::produce::ProduceResult;

/// What shards send each other.
pub(crate) enum Message {
    /// A produce request whose partitions of the receiving shard it is to append. The sender's
    /// image goes along, so that both agree on whose each partition is.
    Produce { frame: Request, image: Arc<MetadataImage>, token: Token, proofs: Proofs, sent: Nanos },
    /// The result of one partition.
    Produced { token: Token, index: u32, result: ProduceResult },
    /// A fetch request whose partitions of the receiving shard it is to read into the share.
    Fetch {
        frame: Request,
        image: Arc<MetadataImage>,
        token: Token,
        share: Box<FetchShare>,
        sent: Nanos,
    },
    /// The share, read.
    Fetched { token: Token, share: Box<FetchShare> },
    /// A partition that a fetch found empty has new records, since then: the share, read again.
    Refreshed { token: Token, share: Box<FetchShare>, at: Nanos },
    /// The same, but the share must be asked for.
    Moved { token: Token, at: Nanos },
    /// Anything rare: runs on the receiving shard.
    Call(Box<dyn FnOnce(&Rc<Shard>) + Send>),
}

/// A call to another shard whose output is awaited.
#[derive(Default)]
struct Call {
    output: Option<Box<dyn Any>>,
    waker: Option<Waker>,
}

/// A request frame: its payload, and where the body begins in it.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) payload: SharedBytes,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) body_at: u32,
    /// Who sent it, if its connection knows.
    pub(crate) peer: Option<SocketAddr>,
}

impl Request {
    pub(crate) fn body(&self) -> wire::primitives::Reader<'_> {
        wire::primitives::Reader::new(self.body_bytes())
    }

    pub(crate) fn body_bytes(&self) -> &[u8] {
        &self.payload[self.body_at as usize..]
    }

    /// Who asks, as group members are shown.
    pub(crate) fn client(&self) -> coordinator::Client {
        let header = wire::header::RequestHeader::read(&self.payload).ok();
        let id = header.and_then(|(_, header, _)| header.client_id).unwrap_or_default();
        let host =
            self.peer.map_or_else(|| "/unknown".to_owned(), |peer| format!("/{}", peer.ip()));
        coordinator::Client { id: id.to_owned(), host }
    }
}

/// Facts all shards share, fixed at the start.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) cluster_id: String,
    pub(crate) epoch: model::LeaderEpoch,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) dirs: Vec<NodeDir>,
    /// Where each partition was found at the start, by number of directory.
    pub(crate) found: BTreeMap<TopicPartition, usize>,
    /// A directory that may hold partitions is not there: one that is found nowhere is not made
    /// anew.
    pub(crate) is_incomplete: bool,
    /// Of each shard.
    pub(crate) stages: Vec<StageTimes>,
    pub(crate) open_files: Arc<OpenFiles>,
}

/// A data directory, as all shards know it.
pub(crate) struct NodeDir {
    pub(crate) path: PathBuf,
    pub(crate) health: Arc<Health>,
}

/// What a start found in the journals, by directory; gone once every partition was opened.
pub(crate) struct Recovery {
    pub(crate) replays: Vec<Replay>,
}

/// What an operator can do about it.
pub(crate) fn remedy(error: &StorageError) -> &'static str {
    match error {
        StorageError::Corrupt { .. } => {
            "; restore it from a backup, or look at it with `weir repair` and let it cut what is lost"
        }
        _ => "",
    }
}

/// Forgets a call whose caller went away.
struct Calling<'a> {
    shard: &'a Shard,
    number: u64,
}

impl Calling<'_> {
    async fn output<T: 'static>(self) -> T {
        let output = poll_fn(|cx| {
            let mut calls = self.shard.calls.borrow_mut();
            let call = calls.get_mut(&self.number).expect("ours until dropped");
            match call.output.take() {
                Some(output) => Poll::Ready(output),
                None => {
                    call.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        *output.downcast().expect("the call returns what it returns")
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.shard.calls.borrow_mut().remove(&self.number);
    }
}

/// Partitions opened or closed at a time.
const AT_A_TIME: usize = 32;

/// Received bytes per chunk: Kafka's largest default batch and room for its request.
pub(crate) const RECEIVE_CHUNK_BYTES: usize = 1024 * 1024 + 64 * 1024;
const HEAD_CHUNK_BYTES: usize = 64 * 1024;

/// One core's world.
pub(crate) struct Shard {
    pub(crate) node: Arc<Node>,
    pub(crate) mailbox: Rc<Mailbox<Message>>,
    pub(crate) requests: Requests,
    pub(crate) receive_pool: RefCell<ReceivePool>,
    pub(crate) stopping: Cell<bool>,
    pub(crate) changed: Notify,
    pub(crate) ready: Cell<bool>,
    pub(crate) stopped: Cell<bool>,
    image: RefCell<Arc<MetadataImage>>,
    /// Looked up for every batch: by a hash, which with thousands of partitions costs two misses of the
    /// cache, where a tree costs five.
    slots: RefCell<FxHashMap<TopicPartition, Rc<PartitionSlot>>>,
    homes: Vec<Rc<LogDir>>,
    /// Partitions of this shard by directory.
    homed: RefCell<Vec<usize>>,
    /// The journals are begun: clients may come.
    pub(crate) begun: Cell<bool>,
    head_pool: RefCell<ChunkPool>,
    head: RefCell<ChunkWriter>,
    scratch: RefCell<Vec<u8>>,
    spare_pieces: RefCell<Vec<Vec<SharedBytes>>>,
    spare_shares: RefCell<Vec<Box<FetchShare>>>,
    pub(crate) parked_fetches: ParkedFetches,
    /// Requests being worked off.
    pub(crate) request_memory: Rc<Budget>,
    /// Requests too large for a receive chunk, from before they are received.
    pub(crate) large_request_memory: Rc<Budget>,
    pub(crate) answer_memory: Rc<AnswerMemory>,
    groups: RefCell<BTreeMap<TopicPartition, Rc<GroupLog>>>,
    transactions: RefCell<BTreeMap<TopicPartition, Rc<TransactionLog>>>,
    pub(crate) turns: Turns,
    /// How many requests came: whether anyone wants this core.
    pub(crate) requests_begun: Cell<u64>,
    pub(crate) fetch_sessions: FetchSessions,
    pub(crate) rewriter: RefCell<BatchRewriter>,
    calls: RefCell<BTreeMap<u64, Call>>,
    next_call: Cell<u64>,
}

impl Shard {
    pub(crate) fn new(
        node: Arc<Node>,
        mailbox: Rc<Mailbox<Message>>,
        recovery: &Recovery,
    ) -> Rc<Self> {
        let cache = TailCache::new(node.config.tail_cache_bytes);
        let home = |(dir, replay): (&NodeDir, &Replay)| {
            let file_bytes = node.config.journal_bytes / JOURNAL_FILES / 4096 * 4096;
            let start = replay.start_of(mailbox.shard());
            let direct = node.config.direct_io;
            let journal = (file_bytes > 0)
                .then(|| Journal::new(&dir.path, mailbox.shard(), file_bytes, direct, start));
            let home = LogDir::new(&dir.path, direct, &cache, journal, Arc::clone(&dir.health));
            home.keep_open(node.open_files.of_log_dir);
            home
        };
        let homes: Vec<_> = node.dirs.iter().zip(&recovery.replays).map(home).collect();
        let mut head_pool = ChunkPool::new(HEAD_CHUNK_BYTES, 64, 4);
        let shards = mailbox.shards();
        Rc::new(Self {
            requests: Requests::new(mailbox.shard()),
            receive_pool: RefCell::new(ReceivePool::new(RECEIVE_CHUNK_BYTES, 16)),
            stopping: Cell::new(false),
            changed: Notify::default(),
            ready: Cell::new(false),
            stopped: Cell::new(false),
            image: RefCell::default(),
            slots: RefCell::default(),
            homed: RefCell::new(vec![0; homes.len()]),
            homes,
            begun: Cell::new(false),
            head: RefCell::new(head_pool.take_or_grow()),
            head_pool: RefCell::new(head_pool),
            scratch: RefCell::default(),
            spare_pieces: RefCell::default(),
            spare_shares: RefCell::default(),
            parked_fetches: ParkedFetches::default(),
            request_memory: Budget::new(node.config.queued_request_bytes_max / shards),
            large_request_memory: Budget::new(node.config.queued_request_bytes_max / shards),
            answer_memory: AnswerMemory::new(node.config.queued_answer_bytes_max / shards),
            groups: RefCell::default(),
            transactions: RefCell::default(),
            turns: Turns::default(),
            requests_begun: Cell::new(0),
            fetch_sessions: FetchSessions::new(
                mailbox.shard(),
                node.config.fetch_sessions_max.div_ceil(mailbox.shards()),
            ),
            rewriter: RefCell::default(),
            calls: RefCell::default(),
            next_call: Cell::new(0),
            node,
            mailbox,
        })
    }

    pub(crate) fn id(&self) -> usize {
        self.mailbox.shard()
    }

    pub(crate) fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.image.borrow())
    }

    /// Where this shard notes how long things take.
    pub(crate) fn stages(&self) -> &StageTimes {
        &self.node.stages[self.id()]
    }

    pub(crate) fn owner_of(&self, partition: TopicPartition) -> usize {
        shard_of(partition, self.mailbox.shards())
    }

    pub(crate) fn slot(&self, partition: TopicPartition) -> Option<Rc<PartitionSlot>> {
        self.slots.borrow().get(&partition).cloned()
    }

    /// What each partition of this shard takes on the disk: directory, partition, bytes.
    pub(crate) fn sizes(&self) -> Vec<(usize, TopicPartition, u64)> {
        let number = |slot: &PartitionSlot| {
            self.homes.iter().position(|home| Rc::ptr_eq(home, slot.log.home()))
        };
        let slots = self.slots.borrow();
        let size = |slot: &Rc<PartitionSlot>| Some((number(slot)?, slot.id, slot.log.size_bytes()));
        slots.values().filter_map(size).collect()
    }

    /// The groups that live in a partition of `__consumer_offsets`, if it is this shard's.
    pub(crate) fn group_log(&self, id: TopicPartition) -> Option<Rc<GroupLog>> {
        self.groups.borrow().get(&id).cloned()
    }

    /// All of this shard's.
    pub(crate) fn group_logs(&self) -> Vec<Rc<GroupLog>> {
        self.groups.borrow().values().cloned().collect()
    }

    /// The transactional ids that live in a partition of `__transaction_state`, if it is this
    /// shard's.
    pub(crate) fn transaction_log(&self, id: TopicPartition) -> Option<Rc<TransactionLog>> {
        self.transactions.borrow().get(&id).cloned()
    }

    /// All of this shard's.
    pub(crate) fn transaction_logs(&self) -> Vec<Rc<TransactionLog>> {
        self.transactions.borrow().values().cloned().collect()
    }

    /// Every partition of this shard.
    pub(crate) fn all_slots(&self) -> Vec<Rc<PartitionSlot>> {
        self.slots.borrow().values().cloned().collect()
    }

    /// Why a partition of this shard has no slot: gone meanwhile, or its log could not be opened.
    pub(crate) fn why_absent(&self, id: TopicPartition) -> model::ErrorCode {
        if self.image.borrow().by_id.contains_key(&id.topic_id) {
            model::ErrorCode::KafkaStorageError
        } else {
            model::ErrorCode::UnknownTopicOrPartition
        }
    }

    /// Takes over a new image: opens partitions that are new here, closes and removes those that
    /// are gone. With `recovery` it is the first one of this start. Returns the first failure; the
    /// other partitions are served all the same.
    pub(crate) async fn adopt(
        self: &Rc<Self>,
        image: Arc<MetadataImage>,
        recovery: Option<&Recovery>,
    ) -> Result<(), StorageError> {
        let mut new = Vec::new();
        for topic in image.by_id.values() {
            for index in 0..topic.partitions {
                let id = topic.partition(index).expect("in range");
                if self.owner_of(id) == self.id() && !self.slots.borrow().contains_key(&id) {
                    new.push((id, topic));
                }
            }
        }
        // Opening waits for the disk more than it computes: many at a time.
        let (queue, opened) = (RefCell::new(new), RefCell::new(Vec::new()));
        let failure = RefCell::new(None);
        let opener = || async {
            loop {
                let next = queue.borrow_mut().pop();
                let Some((id, topic)) = next else { break };
                match self.open(id, topic, recovery).await {
                    Ok((log, producers)) => {
                        opened.borrow_mut().push((id, log, producers, topic.flushing));
                    }
                    Err(error) => {
                        crate::logging::error!(
                            "partition {} of {} ({id}) is not served: {error}{}",
                            id.partition,
                            topic.name,
                            remedy(&error)
                        );
                        *failure.borrow_mut() = Some(error);
                    }
                }
            }
        };
        let openers = queue.borrow().len().min(AT_A_TIME);
        runtime::all((0..openers).map(|_| opener()).collect()).await;
        let (opened, mut result) = (opened.into_inner(), failure.into_inner().map_or(Ok(()), Err));
        // New directories last before anything is acknowledged in them.
        for home in &self.homes {
            let synced = match home.sync_names().await {
                Ok(()) => home.sync_recovered().await,
                failed => failed,
            };
            if let Err(error) = synced {
                self.on_directory_failed(home, &error);
                result = Err(error);
            }
        }
        for (id, log, producers, flushing) in opened {
            let leader = Leader::new(self.node.epoch, log.log_start(), log.log_end());
            let slot = PartitionSlot::new(id, leader, log, producers, flushing);
            match image.by_id[&id.topic_id].name.as_str() {
                OFFSETS_TOPIC => {
                    let log = GroupLog::new(self, Rc::clone(&slot));
                    self.groups.borrow_mut().insert(id, log);
                }
                TRANSACTIONS_TOPIC => {
                    let log = TransactionLog::new(self, Rc::clone(&slot));
                    self.transactions.borrow_mut().insert(id, log);
                }
                _ => {}
            }
            self.slots.borrow_mut().insert(id, slot);
        }
        for slot in self.slots.borrow().values() {
            if let Some(topic) = image.by_id.get(&slot.id.topic_id) {
                slot.log.set_settings(topic.log);
                slot.set_flushing(topic.flushing);
            }
        }
        let gone: Vec<_> = self
            .slots
            .borrow()
            .values()
            .filter(|slot| !image.by_id.contains_key(&slot.id.topic_id))
            .cloned()
            .collect();
        let before = std::mem::replace(&mut *self.image.borrow_mut(), Arc::clone(&image));
        self.parked_fetches.forget_all();
        // A topic that went may have had no partition here, and offsets all the same.
        if before.by_id.keys().any(|id| !image.by_id.contains_key(id)) {
            for partition in self.group_logs() {
                partition.on_topics(self);
            }
        }
        for slot in gone {
            self.slots.borrow_mut().remove(&slot.id);
            self.groups.borrow_mut().remove(&slot.id);
            self.transactions.borrow_mut().remove(&slot.id);
            let _ = slot.close(self, false).await;
            let home = slot.log.home();
            if let Some(number) = self.homes.iter().position(|other| Rc::ptr_eq(other, home)) {
                self.homed.borrow_mut()[number] -= 1;
            }
            let path = home.partition_path(slot.id);
            if let Err(error) = runtime::fs::remove_dir_all(&path) {
                result = Err(StorageError::of(&path, "remove", &error));
            }
        }
        result
    }

    async fn open(
        &self,
        id: TopicPartition,
        topic: &TopicImage,
        recovery: Option<&Recovery>,
    ) -> Result<(Rc<Log>, ProducerState), StorageError> {
        let settings = topic.log;
        let found = recovery.and_then(|_| self.node.found.get(&id).copied());
        if recovery.is_some() && found.is_none() && self.node.is_incomplete {
            return Err(StorageError::Unusable(
                "no directory of log.dirs that can be read holds it; bring the missing one back, or \
                 delete the topic"
                    .into(),
            ));
        }
        let number = found.map_or_else(|| self.least_used_dir(), Ok)?;
        let home = &self.homes[number];
        self.homed.borrow_mut()[number] += 1;
        let Some(recovery) = recovery else {
            return Ok((Log::create(home, id, settings)?, ProducerState::default()));
        };
        let none = PartitionNotes::default();
        let notes = recovery.replays[number].partitions.get(&id).unwrap_or(&none);
        let opened = async {
            let (log, recovered) = Log::open(home, id, settings, notes).await?;
            let producers = ProducerState::recover(&log).await?;
            Ok((log, recovered, producers))
        };
        match opened.await {
            Ok((log, recovered, producers)) => {
                if recovered.was_torn {
                    crate::logging::info!(
                        "partition {id}: a write torn by the last stop was cut off at offset {}; \
                         nothing in it was acknowledged as durable",
                        log.log_end()
                    );
                }
                Ok((log, producers))
            }
            Err(error) => {
                if let Some(journal) = home.journal() {
                    journal.carry(notes.carried(id));
                }
                if matches!(error, StorageError::Io { .. }) {
                    self.on_directory_failed(home, &error);
                }
                Err(error)
            }
        }
    }

    /// Its part of each data directory.
    pub(crate) fn homes(&self) -> &[Rc<LogDir>] {
        &self.homes
    }

    /// The directory that a new partition goes to.
    fn least_used_dir(&self) -> Result<usize, StorageError> {
        let homed = self.homed.borrow();
        let online = (0..self.homes.len()).filter(|n| !self.homes[*n].health().is_offline());
        // Shards begin at different ones, so that few partitions spread too.
        let turn = |number: usize| {
            (number + self.homes.len() - self.id() % self.homes.len()) % self.homes.len()
        };
        online.min_by_key(|n| (homed[*n], turn(*n))).ok_or(StorageError::Offline)
    }

    /// Begins the journals once every shard has opened its partitions.
    pub(crate) async fn begin_journals(&self) {
        for home in &self.homes {
            let Some(journal) = home.journal() else { continue };
            match journal.begin().await {
                Ok(()) => {}
                Err(error) if error.is_full() => crate::logging::warning!(
                    "{error}; until there is room for the journal every partition syncs alone"
                ),
                Err(error) => self.on_directory_failed(home, &error),
            }
        }
        self.begun.set(true);
        self.changed.notify();
    }

    /// A write or sync failed: the directory is not used again before the next start. The process
    /// ends when it was the last one.
    pub(crate) fn on_directory_failed(&self, home: &LogDir, failure: &StorageError) {
        home.health().set_offline();
        crate::logging::error!(
            "{}: the directory is offline: {failure}; its partitions are refused until the disk is \
             mended and the broker restarted",
            home.path().display()
        );
        if self.node.dirs.iter().all(|dir| dir.health.is_offline()) {
            crate::logging::error!("no data directory is left: stopping");
            std::process::exit(1);
        }
    }

    /// Looks for records to delete, for ever.
    pub(crate) async fn retain_for_ever(self: Rc<Self>) {
        let every = Duration::from_millis(self.node.config.retention_check_ms);
        loop {
            runtime::timer::sleep(every).await;
            for slot in self.all_slots() {
                let image = self.image();
                let Some(topic) = image.by_id.get(&slot.id.topic_id) else { continue };
                slot.retain(topic.retention).await;
            }
        }
    }

    /// Closes every partition; true if all of it is durable and need not be scanned.
    pub(crate) async fn close_all(self: &Rc<Self>) -> bool {
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        let queue = RefCell::new(slots.values().collect::<Vec<_>>());
        let all_closed = Cell::new(true);
        let closer = || async {
            loop {
                let next = queue.borrow_mut().pop();
                let Some(slot) = next else { break };
                if let Err(error) = slot.close(self, true).await {
                    crate::logging::error!("partition {}: not closed cleanly: {error}", slot.id);
                    all_closed.set(false);
                }
            }
        };
        runtime::all((0..AT_A_TIME.min(slots.len())).map(|_| closer()).collect()).await;
        let mut clean = all_closed.get();
        for home in &self.homes {
            let Some(journal) = home.journal() else { continue };
            if let Err(error) = if clean { journal.close().await } else { Ok(()) } {
                crate::logging::error!("{}: journal not closed: {error}", home.path().display());
                clean = false;
            }
        }
        // The journals have written down what is known of each log: only now may those go.
        drop(slots);
        clean
    }

    /// Runs `body` on shard `to` and waits for what it returns. For rare things. Once begun it runs
    /// to its end, also if the caller goes away: a client that hangs up leaves nothing half done.
    pub(crate) async fn call<T: Send + 'static, F: Future<Output = T> + 'static>(
        self: &Rc<Self>,
        to: usize,
        body: impl FnOnce(Rc<Self>) -> F + Send + 'static,
    ) -> T {
        let (number, from) = (self.next_call.get(), self.id());
        self.next_call.set(number + 1);
        self.calls.borrow_mut().insert(number, Call::default());
        let place = Calling { shard: self, number };
        if to == from {
            let body = body(Rc::clone(self));
            let back = Rc::clone(self);
            runtime::spawn(async move {
                let output = body.await;
                back.on_called(number, Box::new(output));
            });
            return place.output().await;
        }
        self.mailbox.until_room().await;
        self.mailbox.send(
            to,
            Message::Call(Box::new(move |there| {
                let there = Rc::clone(there);
                runtime::spawn(async move {
                    let output = body(Rc::clone(&there)).await;
                    let answer = Message::Call(Box::new(move |back: &Rc<Self>| {
                        back.on_called(number, Box::new(output));
                    }));
                    there.mailbox.send(from, answer);
                });
            })),
        );
        place.output().await
    }

    /// A call has returned; its caller may be gone.
    fn on_called(&self, number: u64, output: Box<dyn Any>) {
        if let Some(call) = self.calls.borrow_mut().get_mut(&number) {
            call.output = Some(output);
            if let Some(waker) = call.waker.take() {
                waker.wake();
            }
        }
    }

    /// Serves what other shards send.
    pub(crate) async fn serve_mailbox(self: Rc<Self>) {
        for received in 1u64.. {
            if received % 256 == 0 {
                // A peer that never pauses must not keep everything else here from running.
                runtime::yield_now().await;
            }
            match self.mailbox.receive().await {
                Message::Produce { frame, image, token, proofs, sent } => {
                    self.stages().ended(Stage::ShardQueue, sent);
                    crate::handlers::produce::append_owned(&self, &frame, &image, token, &proofs);
                }
                Message::Produced { token, index, result } => {
                    self.requests.on_produced(token, index, result);
                }
                Message::Fetch { frame, image, token, share, sent } => {
                    self.stages().ended(Stage::ShardQueue, sent);
                    crate::handlers::fetch::read_owned(&self, frame, image, token, share);
                }
                Message::Fetched { token, share } => {
                    self.give_back_shares(self.requests.on_share(token, share));
                }
                Message::Refreshed { token, share, at } => {
                    self.give_back_shares(self.requests.on_refreshed(token, share, at));
                }
                Message::Moved { token, at } => self.requests.on_moved(token, at, true),
                Message::Call(call) => call(&self),
            }
        }
    }

    pub(crate) fn answer_produce(&self, token: Token, index: u32, result: ProduceResult) {
        if usize::from(token.shard) == self.id() {
            self.requests.on_produced(token, index, result);
        } else {
            let to = usize::from(token.shard);
            self.mailbox.send(to, Message::Produced { token, index, result });
        }
    }

    pub(crate) fn answer_moved(&self, token: Token) {
        let at = clock::now();
        if usize::from(token.shard) == self.id() {
            self.requests.on_moved(token, at, false);
        } else if !self.parked_fetches.on_moved(token, at) {
            self.mailbox.send(usize::from(token.shard), Message::Moved { token, at });
        }
    }

    /// Encodes a response head with `encode` and returns it as bytes that can be sent; the memory
    /// is used again.
    pub(crate) fn encode_head(&self, encode: impl FnOnce(&mut Vec<u8>)) -> SharedBytes {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        encode(&mut scratch);
        self.keep(&scratch)
    }

    /// Copies `bytes` into memory that can be sent.
    fn keep(&self, bytes: &[u8]) -> SharedBytes {
        if bytes.len() > HEAD_CHUNK_BYTES {
            return SharedBytes::copy_of(bytes);
        }
        let mut head = self.head.borrow_mut();
        if head.remaining() < bytes.len() {
            let mut pool = self.head_pool.borrow_mut();
            let full = std::mem::replace(&mut *head, pool.take_or_grow());
            pool.retire(full);
        }
        let start = head.filled();
        head.append(bytes);
        head.share(start..start + bytes.len())
    }

    pub(crate) fn take_pieces(&self) -> Vec<SharedBytes> {
        self.spare_pieces.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_back_pieces(&self, mut pieces: Vec<SharedBytes>) {
        pieces.clear();
        self.spare_pieces.borrow_mut().push(pieces);
    }

    pub(crate) fn take_share(&self) -> Box<FetchShare> {
        self.spare_shares.borrow_mut().pop().unwrap_or_default()
    }

    /// A share for another shard to fill. Refreshed shares come from there, so boxes would gather here:
    /// what is too many goes along.
    pub(crate) fn take_share_to_send(&self) -> Box<FetchShare> {
        const KEPT: usize = 8;
        let mut share = self.take_share();
        let mut spare = self.spare_shares.borrow_mut();
        if spare.len() > KEPT {
            share.others.extend(spare.pop());
        }
        share
    }

    /// Keeps shares, and those within them, for reuse.
    pub(crate) fn give_back_shares(&self, shares: impl IntoIterator<Item = Box<FetchShare>>) {
        for mut share in shares {
            self.give_back_shares(share.others.drain(..));
            share.clear();
            self.spare_shares.borrow_mut().push(share);
        }
    }
}
