//! What one core owns: its partitions, its connections, its place in the mesh. Routes, never
//! decides.

use crate::fetching::fetch_sessions::FetchSessions;
use crate::fetching::parked_fetches::ParkedFetches;
use crate::fetching::share::FetchShare;
use crate::network::memory::{AnswerMemory, RequestMemory};
use crate::network::request::Request;
use crate::observe::logging::remedy;
use crate::observe::request_counts::RequestCounts;
use crate::observe::stages::StageTimes;
use crate::partitions::partition_slot::{Host, PartitionSlot};
use crate::partitions::producer_state::ProducerState;
use crate::shard::catalogue::Catalogue;
use crate::shard::node::Node;
use crate::shard::placement::shard_of;
use crate::shard::producer_ids::ProducerIds;
use crate::shard::proofs::Proofs;
use crate::shard::requests::{Requests, Token};
use crate::shard::turns::SlowProduces;
use metadata::image::{MetadataImage, TopicImage};
use model::limits::DECOMPRESSED_BYTES_MAX;
use model::{BatchRewriter, ErrorCode, ProducerId, TopicPartition};
use partition::Leader;
use runtime::Slice;
use runtime::answers::Answers;
use runtime::budget::Budget;
use runtime::buffer::{ChunkPool, ChunkWriter, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::mailbox::Mailbox;
use runtime::notify::Notify;
use runtime::receive_buffer::ReceivePool;
use runtime::turns::Turns;
use rustc_hash::FxHashMap;
use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::directory::data_dirs::Recovery;
use storage::directory::log_manager::{LogManagerConfig, Opened, Refusal};
use storage::directory::topic_changes::{CatalogStore, TopicChange, TopicStep};
use storage::{Log, LogDir, LogManager, StorageError, TailCache};
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

/// State on a shard that follows from the records of a partition of an internal topic.
pub(crate) trait Follower: Any {
    /// Topics went.
    fn on_topics(self: Rc<Self>, shard: &Rc<Shard>);
    /// Records of the partition were lost: the state is to be read again.
    fn on_lost(self: Rc<Self>, shard: &Rc<Shard>);
}

/// What follows from the records of one internal topic.
pub(crate) struct FollowerKind {
    pub(crate) topic: &'static str,
    /// The state of one of its partitions, before anything of it is read.
    pub(crate) begin: fn(&Shard, Rc<PartitionSlot>) -> Rc<dyn Follower>,
    /// Does for all of the shard what is done from time to time, for ever.
    pub(crate) look_after: fn(Rc<Shard>) -> Pin<Box<dyn Future<Output = ()>>>,
}

/// Partitions closed at a time.
const AT_A_TIME: usize = 32;
/// What could not be done for want of space is tried again so often.
const MEND_EVERY: Duration = Duration::from_secs(5);

/// Received bytes per chunk: Kafka's largest default batch and room for its request.
pub(crate) const RECEIVE_CHUNK_BYTES: usize = 1024 * 1024 + 64 * 1024;
const HEAD_CHUNK_BYTES: usize = 64 * 1024;
/// Requests of a shard that decompress in slices at a time: so many slices are in a turn.
const UNPACKING_AT_A_TIME: usize = 2;
/// The same of large answers; two at least, since nobody waits for more than half of a budget.
const LARGE_ANSWERS_AT_A_TIME: usize = 2;
/// A larger answer's memory is given back once it is made.
const SCRATCH_BYTES_KEPT: usize = 1024 * 1024;

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
    pub(crate) logs: LogManager,
    /// On shard 0.
    catalogue: OnceCell<Rc<Catalogue>>,
    /// The journals are begun: clients may come.
    pub(crate) begun: Cell<bool>,
    head_pool: RefCell<ChunkPool>,
    head: RefCell<ChunkWriter>,
    scratch: RefCell<Vec<u8>>,
    spare_pieces: RefCell<Vec<Vec<SharedBytes>>>,
    spare_shares: RefCell<Vec<Box<FetchShare>>>,
    pub(crate) parked_fetches: ParkedFetches,
    pub(crate) request_memory: RequestMemory,
    /// Of answers to fetches, and of all others: heavy reading keeps nobody from large metadata.
    pub(crate) answer_memory: Rc<AnswerMemory>,
    pub(crate) other_answer_memory: Rc<AnswerMemory>,
    /// Places for those that make large answers, and for large requests other than produces and fetches.
    pub(crate) large_answers: Rc<Budget>,
    follower_kinds: &'static [FollowerKind],
    followers: RefCell<BTreeMap<TopicPartition, Rc<dyn Follower>>>,
    /// Requests that write in a transaction, by transactional id.
    pub(crate) turns: Rc<Turns<String>>,
    pub(crate) produces: SlowProduces,
    /// Memory for what is decompressed in slices, and a bound on how much of that goes on at a time.
    pub(crate) unpacked: Rc<Budget>,
    /// How many requests came: whether anyone wants this core.
    pub(crate) requests_begun: Cell<u64>,
    pub(crate) fetch_sessions: FetchSessions,
    spare_rewriters: RefCell<Vec<BatchRewriter>>,
    producer_ids: ProducerIds,
    /// Calls to shards whose outputs are awaited.
    calls: Answers<Box<dyn Any>>,
}

impl Shard {
    pub(crate) fn new(
        node: Arc<Node>,
        mailbox: Rc<Mailbox<Message>>,
        recovery: &Recovery,
        follower_kinds: &'static [FollowerKind],
    ) -> Rc<Self> {
        let cache = TailCache::new(node.config.tail_cache_bytes);
        let keeping = LogManagerConfig {
            shard: mailbox.shard(),
            journal_bytes: node.config.journal_bytes,
            direct_io: node.config.direct_io,
            open_files: node.open_files.of_log_dir,
            start: node.epoch.0 as u32,
        };
        let logs = LogManager::new(&node.dirs, &recovery.replays, &cache, &keeping);
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
            logs,
            catalogue: OnceCell::new(),
            begun: Cell::new(false),
            head: RefCell::new(head_pool.take_or_grow()),
            head_pool: RefCell::new(head_pool),
            scratch: RefCell::default(),
            spare_pieces: RefCell::default(),
            spare_shares: RefCell::default(),
            parked_fetches: ParkedFetches::default(),
            request_memory: RequestMemory::new(node.config.queued_request_bytes_max / shards),
            answer_memory: AnswerMemory::new(node.config.queued_answer_bytes_max / shards),
            other_answer_memory: AnswerMemory::new(node.config.queued_answer_bytes_max / shards),
            large_answers: Budget::new(LARGE_ANSWERS_AT_A_TIME),
            follower_kinds,
            followers: RefCell::default(),
            turns: Rc::default(),
            produces: SlowProduces::default(),
            unpacked: Budget::new(UNPACKING_AT_A_TIME * DECOMPRESSED_BYTES_MAX),
            requests_begun: Cell::new(0),
            fetch_sessions: FetchSessions::new(
                mailbox.shard(),
                node.config.fetch_sessions_max.div_ceil(mailbox.shards()),
            ),
            spare_rewriters: RefCell::default(),
            producer_ids: ProducerIds::default(),
            calls: Answers::default(),
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

    /// How many requests of each API it has begun.
    pub(crate) fn request_counts(&self) -> &RequestCounts {
        &self.node.requests[self.id()]
    }

    /// Where this shard notes how long things take.
    pub(crate) fn stages(&self) -> &StageTimes {
        &self.node.stages[self.id()]
    }

    /// Gives shard 0 the catalogue read at the start.
    pub(crate) fn keep_catalogue(&self, store: CatalogStore) {
        let kept = self.catalogue.set(Rc::new(Catalogue::new(store)));
        assert!(kept.is_ok() && self.id() == 0, "one catalogue, on shard 0");
    }

    /// The catalogue. Other shards reach it by `call`.
    pub(crate) fn catalogue(&self) -> Rc<Catalogue> {
        Rc::clone(self.catalogue.get().expect("topics are changed on shard 0"))
    }

    /// A producer id that nobody has yet.
    ///
    /// # Errors
    /// There are none left.
    pub(crate) fn take_producer_id(&self) -> Result<ProducerId, ErrorCode> {
        self.producer_ids.take(&self.node.producer_id_authority)
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
            self.homes().iter().position(|home| Rc::ptr_eq(home, slot.log.home()))
        };
        let slots = self.slots.borrow();
        let size = |slot: &Rc<PartitionSlot>| Some((number(slot)?, slot.id, slot.log.size_bytes()));
        slots.values().filter_map(size).collect()
    }

    /// What follows from a partition of this shard, if it is of that kind.
    pub(crate) fn follower<T: Follower>(&self, id: TopicPartition) -> Option<Rc<T>> {
        let found: Rc<dyn Any> = Rc::clone(self.followers.borrow().get(&id)?) as Rc<dyn Any>;
        found.downcast().ok()
    }

    /// All of this shard's of that kind.
    pub(crate) fn followers<T: Follower>(&self) -> Vec<Rc<T>> {
        let followers = self.followers.borrow();
        let any = followers.values().map(|follower| Rc::clone(follower) as Rc<dyn Any>);
        any.filter_map(|follower| follower.downcast().ok()).collect()
    }

    /// Every partition of this shard.
    pub(crate) fn all_slots(&self) -> Vec<Rc<PartitionSlot>> {
        self.slots.borrow().values().cloned().collect()
    }

    /// Why a partition of this shard has no slot: closed, gone meanwhile, or its log could not be opened.
    pub(crate) fn why_absent(&self, id: TopicPartition) -> ErrorCode {
        if self.stopping.get() {
            ErrorCode::NotLeaderOrFollower
        } else if self.image.borrow().by_id.contains_key(&id.topic_id) {
            ErrorCode::KafkaStorageError
        } else {
            ErrorCode::UnknownTopicOrPartition
        }
    }

    /// Those of a topic's partitions that this node has, and this shard of it.
    fn own(&self, topic: &TopicImage) -> impl Iterator<Item = TopicPartition> {
        let ids = (0..topic.count()).map(|index| topic.partition(index).expect("in range"));
        ids.filter(|id| self.has(topic, *id))
    }

    /// Whether a partition of this topic is on this node, and on this shard of it.
    fn has(&self, topic: &TopicImage, id: TopicPartition) -> bool {
        let placed = topic.placed(id.partition.0);
        self.owner_of(id) == self.id()
            && placed.is_some_and(|placed| placed.replicas.contains(&self.node.id()))
    }

    /// Opens the partitions that the catalog knew at the start. What cannot be opened is refused, and told.
    pub(crate) async fn open_all(self: &Rc<Self>, image: Arc<MetadataImage>, found: &Recovery) {
        let own =
            |topic: &Arc<TopicImage>| self.own(topic).map(|id| (id, topic.log)).collect::<Vec<_>>();
        let wanted = image.by_id.values().flat_map(own).collect();
        let opened = self.logs.open(wanted, found).await;
        *self.image.borrow_mut() = image;
        self.tell_refused();
        self.serve_opened(opened).await;
    }

    fn tell_refused(&self) {
        let image = self.image();
        for Refusal { id, error } in self.logs.refusals() {
            let name = image.by_id.get(&id.topic_id).map_or("?", |topic| &*topic.name);
            crate::observe::logging::error!(
                "partition {} of {name} ({id}) is not served: {error}{}",
                id.partition,
                remedy(&error)
            );
        }
    }

    /// Serves partitions whose logs were opened, many at a time: what is known of their producers is read first.
    async fn serve_opened(self: &Rc<Self>, opened: Vec<Opened>) {
        let queue = RefCell::new(opened);
        let server = || async {
            loop {
                let next = queue.borrow_mut().pop();
                let Some(Opened { id, log, recovered }) = next else { break };
                if recovered.was_torn {
                    crate::observe::logging::info!(
                        "partition {id}: a write torn by the last stop was cut off at offset {}; \
                         nothing in it was acknowledged as durable",
                        log.log_end()
                    );
                }
                let producers = ProducerState::recover(&log).await;
                // The topic may have been deleted meanwhile.
                let image = self.image();
                match image.by_id.get(&id.topic_id) {
                    Some(topic) => self.serve(id, topic, log, producers),
                    None => {
                        if let Err(error) = self.logs.remove(&log).await {
                            crate::observe::logging::warning!(
                                "partition {id} is not removed: {error}"
                            );
                        }
                        let _ = self.logs.sync_removed().await;
                    }
                }
            }
        };
        let servers = queue.borrow().len().min(AT_A_TIME);
        runtime::all((0..servers).map(|_| server()).collect()).await;
    }

    /// Begins to serve a partition.
    fn serve(
        self: &Rc<Self>,
        id: TopicPartition,
        topic: &TopicImage,
        log: Rc<Log>,
        producers: ProducerState,
    ) {
        // Never below an epoch that is in the log: a superblock may have been restored from an older copy.
        let after = |epoch: model::LeaderEpoch| model::LeaderEpoch(epoch.0.saturating_add(1));
        let Some(placed) = topic.placed(id.partition.0) else {
            unreachable!("a partition is served as part of its topic")
        };
        let epoch = log
            .latest_epoch()
            .map_or(placed.leader_epoch, |latest| placed.leader_epoch.max(after(latest)));
        let leader = Leader::new(epoch, log.log_start(), log.log_end());
        let slot = PartitionSlot::new(id, leader, log, producers, topic.flushing);
        if let Some(kind) = self.follower_kinds.iter().find(|kind| topic.name == kind.topic) {
            let follower = (kind.begin)(self, Rc::clone(&slot));
            self.followers.borrow_mut().insert(id, follower);
        }
        self.slots.borrow_mut().insert(id, slot);
    }

    /// Does this shard's part of a change of topics.
    ///
    /// # Errors
    /// The disk's; of `Make`: nothing was made.
    pub(crate) async fn change_topics(
        self: &Rc<Self>,
        step: TopicStep,
        change: &TopicChange,
        image: Arc<MetadataImage>,
    ) -> Result<(), StorageError> {
        let is_here = |id: &TopicPartition| {
            image.by_id.get(&id.topic_id).is_some_and(|topic| self.has(topic, *id))
        };
        let new: Vec<TopicPartition> = change.new.iter().copied().filter(is_here).collect();
        match step {
            TopicStep::Make => self.logs.make(&new).await,
            TopicStep::Unmake => {
                self.logs.unmake(&new);
                Ok(())
            }
            TopicStep::Adopt => self.adopt(image, &new).await,
        }
    }

    /// Takes over a new image: serves partitions that are new, closes and removes those that are gone. Returns the
    /// first failure; everything else is done all the same.
    async fn adopt(
        self: &Rc<Self>,
        image: Arc<MetadataImage>,
        new: &[TopicPartition],
    ) -> Result<(), StorageError> {
        let mut result = Ok(());
        let mut slice = Slice::begin();
        for &id in new {
            let topic = &image.by_id[&id.topic_id];
            match self.logs.create(id, topic.log) {
                Ok(log) => self.serve(id, topic, log, ProducerState::default()),
                Err(error) => result = Err(error),
            }
            slice.rest().await;
        }
        for slot in self.slots.borrow().values() {
            if let Some(topic) = image.by_id.get(&slot.id.topic_id) {
                slot.log.set_settings(topic.log);
                slot.set_flushing(topic.flushing);
            }
        }
        let is_gone = |id: TopicPartition| !image.by_id.contains_key(&id.topic_id);
        let gone: Vec<_> =
            self.slots.borrow().values().filter(|slot| is_gone(slot.id)).cloned().collect();
        let before = std::mem::replace(&mut *self.image.borrow_mut(), Arc::clone(&image));
        self.parked_fetches.forget_all();
        // A topic that went may have had no partition here, and offsets all the same.
        let some_went = before.by_id.keys().any(|id| !image.by_id.contains_key(id));
        if some_went {
            let followers: Vec<_> = self.followers.borrow().values().cloned().collect();
            for follower in followers {
                follower.on_topics(self);
            }
        }
        for slot in gone {
            self.slots.borrow_mut().remove(&slot.id);
            self.followers.borrow_mut().remove(&slot.id);
            let _ = slot.close(&**self, false).await;
            result = self.logs.remove(&slot.log).await.and(result);
            slice.rest().await;
        }
        if some_went {
            result = self.logs.remove_refused(is_gone).await.and(result);
            result = self.logs.sync_removed().await.and(result);
        }
        result
    }

    /// Tries again, for ever, what was refused for want of space or files, and takes back the reserves.
    pub(crate) async fn mend_for_ever(self: Rc<Self>) {
        loop {
            runtime::timer::sleep(MEND_EVERY).await;
            if self.stopping.get() {
                return;
            }
            let opened = self.logs.open_refused().await;
            for opened in &opened {
                crate::observe::logging::info!("partition {} is served again", opened.id);
            }
            self.serve_opened(opened).await;
            for home in
                self.homes().iter().filter(|home| self.id() == 0 && !home.health().is_offline())
            {
                if let Err(error) = home.reserve().take().await {
                    crate::observe::logging::warning!("the reserve is not taken: {error}");
                }
            }
        }
    }

    /// Its part of each data directory.
    pub(crate) fn homes(&self) -> &[Rc<LogDir>] {
        self.logs.homes()
    }

    /// The logs of all its partitions.
    pub(crate) fn all_logs(&self) -> Vec<Rc<Log>> {
        self.slots.borrow().values().map(|slot| Rc::clone(&slot.log)).collect()
    }

    /// Clients may come: every shard has opened its partitions and begun its journals.
    pub(crate) fn on_begun(&self) {
        self.begun.set(true);
        self.changed.notify();
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
                if let Err(error) = slot.close(&**self, true).await {
                    crate::observe::logging::error!(
                        "partition {}: not closed cleanly: {error}",
                        slot.id
                    );
                    all_closed.set(false);
                }
            }
        };
        runtime::all((0..AT_A_TIME.min(slots.len())).map(|_| closer()).collect()).await;
        let mut clean = all_closed.get();
        for home in self.homes() {
            let Some(journal) = home.journal() else { continue };
            if let Err(error) = if clean { journal.close().await } else { Ok(()) } {
                crate::observe::logging::error!(
                    "{}: journal not closed: {error}",
                    home.path().display()
                );
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
        let (place, from) = (self.calls.open(), self.id());
        let id = place.id();
        let output =
            |output: Box<dyn Any>| *output.downcast().expect("the call returns what it returns");
        if to == from {
            let body = body(Rc::clone(self));
            let back = Rc::clone(self);
            runtime::spawn(async move {
                let output = body.await;
                back.calls.give(id, Box::new(output));
            });
            return output(place.await);
        }
        self.mailbox.until_room().await;
        self.mailbox.send(
            to,
            Message::Call(Box::new(move |there| {
                let there = Rc::clone(there);
                runtime::spawn(async move {
                    let output = body(Rc::clone(&there)).await;
                    let answer = Message::Call(Box::new(move |back: &Rc<Self>| {
                        back.calls.give(id, Box::new(output));
                    }));
                    there.mailbox.send(from, answer);
                });
            })),
        );
        output(place.await)
    }

    /// Whether requests have places of which there are only a few, or wait for them or for memory: of one connection
    /// they come one at a time then, else a single one would take all that is given back.
    pub(crate) fn places_are_taken(&self) -> bool {
        self.unpacked.is_used()
            || self.large_answers.is_used()
            || self.other_answer_memory.is_short()
    }

    /// Memory to change the batches of a request in.
    pub(crate) fn take_rewriter(&self) -> BatchRewriter {
        let mut rewriter = self.spare_rewriters.borrow_mut().pop().unwrap_or_default();
        rewriter.begin_request();
        rewriter
    }

    pub(crate) fn give_back_rewriter(&self, rewriter: BatchRewriter) {
        if rewriter.capacity() <= 4 * SCRATCH_BYTES_KEPT {
            self.spare_rewriters.borrow_mut().push(rewriter);
        }
    }

    /// Encodes a response head with `encode` and returns it as bytes that can be sent; the memory
    /// is used again.
    pub(crate) fn encode_head(&self, encode: impl FnOnce(&mut Vec<u8>)) -> SharedBytes {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        encode(&mut scratch);
        let kept = self.keep(&scratch);
        // Of one large answer not for ever.
        scratch.shrink_to(SCRATCH_BYTES_KEPT);
        kept
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

impl Host for Shard {
    fn answer_produce(&self, token: Token, index: u32, result: ProduceResult) {
        if usize::from(token.shard) == self.id() {
            self.requests.on_produced(token, index, result);
        } else {
            let to = usize::from(token.shard);
            self.mailbox.send(to, Message::Produced { token, index, result });
        }
    }

    fn answer_moved(&self, token: Token) {
        let at = clock::now();
        if usize::from(token.shard) == self.id() {
            self.requests.on_moved(token, at, false);
        } else if !self.parked_fetches.on_moved(token, at) {
            self.mailbox.send(usize::from(token.shard), Message::Moved { token, at });
        }
    }

    fn stages(&self) -> &StageTimes {
        self.stages()
    }

    fn on_lost(self: Rc<Self>, id: TopicPartition) {
        let follower = self.followers.borrow().get(&id).cloned();
        if let Some(follower) = follower {
            follower.on_lost(&self);
        }
    }
}
