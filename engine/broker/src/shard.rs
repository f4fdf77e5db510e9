//! What one core owns: its partitions, its connections, its place in the mesh. Routes, never
//! decides.

use crate::config::Config;
use crate::handlers::fetch::FetchShare;
use crate::image::MetadataImage;
use crate::partition_slot::PartitionSlot;
use crate::placement::shard_of;
use crate::requests::{Requests, Token};
use model::TopicPartition;
use partition::Leader;
use runtime::buffer::{ChunkPool, ChunkWriter, SharedBytes};
use runtime::mailbox::Mailbox;
use runtime::notify::Notify;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use storage::data_dir::DataDir;
use storage::{Log, LogSettings, StorageError, TailCache};
use wire::produce::ProduceResult;

/// What shards send each other.
pub(crate) enum Message {
    /// A produce request whose partitions of the receiving shard it is to append. The sender's
    /// image goes along, so that both agree on whose each partition is.
    Produce { frame: Request, image: Arc<MetadataImage>, token: Token },
    /// The result of one partition.
    Produced { token: Token, index: u32, result: ProduceResult },
    /// A fetch request whose partitions of the receiving shard it is to read into the share.
    Fetch { frame: Request, image: Arc<MetadataImage>, token: Token, share: Box<FetchShare> },
    /// The share, read.
    Fetched { token: Token, share: Box<FetchShare> },
    /// A partition that a fetch found empty has new records.
    Moved { token: Token },
    /// Anything rare: runs on the receiving shard.
    Call(Box<dyn FnOnce(&Rc<Shard>) + Send>),
}

/// A request frame: its payload, and where the body begins in it.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) payload: SharedBytes,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) body_at: u32,
}

impl Request {
    pub(crate) fn body(&self) -> wire::primitives::Reader<'_> {
        wire::primitives::Reader::new(&self.payload[self.body_at as usize..])
    }
}

/// Facts all shards share, fixed at the start.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) cluster_id: String,
    pub(crate) epoch: model::LeaderEpoch,
    pub(crate) was_clean: bool,
}

/// Received bytes per chunk: Kafka's largest default batch and room for its request.
const RECEIVE_CHUNK_BYTES: usize = 1024 * 1024 + 64 * 1024;
const HEAD_CHUNK_BYTES: usize = 64 * 1024;

/// One core's world.
pub(crate) struct Shard {
    pub(crate) node: Arc<Node>,
    pub(crate) mailbox: Rc<Mailbox<Message>>,
    pub(crate) requests: Requests,
    pub(crate) receive_pool: RefCell<ChunkPool>,
    pub(crate) stopping: Cell<bool>,
    pub(crate) changed: Notify,
    pub(crate) ready: Cell<bool>,
    pub(crate) stopped: Cell<bool>,
    image: RefCell<Arc<MetadataImage>>,
    slots: RefCell<BTreeMap<TopicPartition, Rc<PartitionSlot>>>,
    tail_cache: Rc<TailCache>,
    head_pool: RefCell<ChunkPool>,
    head: RefCell<ChunkWriter>,
    scratch: RefCell<Vec<u8>>,
    spare_pieces: RefCell<Vec<Vec<SharedBytes>>>,
    spare_shares: RefCell<Vec<Box<FetchShare>>>,
    calls: RefCell<BTreeMap<u64, Option<Box<dyn Any>>>>,
    next_call: Cell<u64>,
}

impl Shard {
    pub(crate) fn new(node: Arc<Node>, mailbox: Rc<Mailbox<Message>>) -> Rc<Self> {
        let mut head_pool = ChunkPool::new(HEAD_CHUNK_BYTES, 64, 4);
        Rc::new(Self {
            requests: Requests::new(mailbox.shard()),
            receive_pool: RefCell::new(ChunkPool::new(RECEIVE_CHUNK_BYTES, 16, 2)),
            stopping: Cell::new(false),
            changed: Notify::default(),
            ready: Cell::new(false),
            stopped: Cell::new(false),
            image: RefCell::default(),
            slots: RefCell::default(),
            tail_cache: TailCache::new(node.config.tail_cache_bytes),
            head: RefCell::new(head_pool.take_or_grow()),
            head_pool: RefCell::new(head_pool),
            scratch: RefCell::default(),
            spare_pieces: RefCell::default(),
            spare_shares: RefCell::default(),
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

    pub(crate) fn owner_of(&self, partition: TopicPartition) -> usize {
        shard_of(partition, self.mailbox.shards())
    }

    pub(crate) fn slot(&self, partition: TopicPartition) -> Option<Rc<PartitionSlot>> {
        self.slots.borrow().get(&partition).cloned()
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
    /// are gone. Returns the first failure; the other partitions are served all the same.
    pub(crate) async fn adopt(
        self: &Rc<Self>,
        image: Arc<MetadataImage>,
        fresh: bool,
    ) -> Result<(), StorageError> {
        let mut result = Ok(());
        for topic in image.by_id.values() {
            for index in 0..topic.partitions {
                let id = topic.partition(index).expect("in range");
                if self.owner_of(id) != self.id() || self.slots.borrow().contains_key(&id) {
                    continue;
                }
                match self.open(id, &topic.settings, fresh).await {
                    Ok(slot) => drop(self.slots.borrow_mut().insert(id, slot)),
                    Err(error) => {
                        crate::logging::error!(
                            "partition {} of {} cannot be opened: {error}",
                            index,
                            topic.name
                        );
                        result = Err(error);
                    }
                }
            }
        }
        let gone: Vec<_> = self
            .slots
            .borrow()
            .values()
            .filter(|slot| !image.by_id.contains_key(&slot.id.topic_id))
            .cloned()
            .collect();
        *self.image.borrow_mut() = image;
        for slot in gone {
            self.slots.borrow_mut().remove(&slot.id);
            let _ = slot.close(self, false).await;
            let path = DataDir::partition_path(&self.node.config.data_dir, slot.id);
            if let Err(error) = runtime::fs::remove_dir_all(&path) {
                result = Err(StorageError::of(&path, "remove", &error));
            }
        }
        result
    }

    async fn open(
        &self,
        id: TopicPartition,
        settings: &BTreeMap<String, String>,
        fresh: bool,
    ) -> Result<Rc<PartitionSlot>, StorageError> {
        let config = &self.node.config;
        let path = DataDir::partition_path(&config.data_dir, id);
        let settings = LogSettings {
            segment_bytes: crate::topic_settings::number_of("segment.bytes", settings, config)
                as u32,
            direct: config.direct_io,
        };
        let log = if fresh {
            Log::create(&path, settings, &self.tail_cache).await?
        } else {
            let (log, cut) =
                Log::open(&path, settings, &self.tail_cache, self.node.was_clean).await?;
            if cut > 0 && !self.node.was_clean {
                crate::logging::info!(
                    "partition {id}: last segment cut by {cut} bytes (preallocated or torn) at offset {}",
                    log.log_end()
                );
            }
            log
        };
        let leader = Leader::new(self.node.epoch, log.log_start(), log.log_end());
        Ok(PartitionSlot::new(id, leader, log))
    }

    /// Closes every partition; true if all of it is durable and need not be scanned.
    pub(crate) async fn close_all(self: &Rc<Self>) -> bool {
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        let mut clean = true;
        for slot in slots.into_values() {
            if let Err(error) = slot.close(self, true).await {
                crate::logging::error!("partition {}: not closed cleanly: {error}", slot.id);
                clean = false;
            }
        }
        clean
    }

    /// Runs `body` on shard `to` and waits for what it returns. For rare things.
    pub(crate) async fn call<T: Send + 'static, F: Future<Output = T> + 'static>(
        self: &Rc<Self>,
        to: usize,
        body: impl FnOnce(Rc<Self>) -> F + Send + 'static,
    ) -> T {
        if to == self.id() {
            return body(Rc::clone(self)).await;
        }
        let (number, from) = (self.next_call.get(), self.id());
        self.next_call.set(number + 1);
        self.calls.borrow_mut().insert(number, None);
        self.mailbox.until_room().await;
        self.mailbox.send(
            to,
            Message::Call(Box::new(move |there| {
                let there = Rc::clone(there);
                runtime::spawn(async move {
                    let output = body(Rc::clone(&there)).await;
                    let answer = Message::Call(Box::new(move |back: &Rc<Self>| {
                        if let Some(place) = back.calls.borrow_mut().get_mut(&number) {
                            *place = Some(Box::new(output));
                        }
                        back.changed.notify();
                    }));
                    there.mailbox.send(from, answer);
                });
            })),
        );
        let taken = || self.calls.borrow_mut().get_mut(&number).and_then(Option::take);
        let output = self.changed.until(taken).await;
        self.calls.borrow_mut().remove(&number);
        *output.downcast().expect("the call returns what it returns")
    }

    /// Serves what other shards send.
    pub(crate) async fn serve_mailbox(self: Rc<Self>) {
        for received in 1u64.. {
            if received % 256 == 0 {
                // A peer that never pauses must not keep everything else here from running.
                runtime::yield_now().await;
            }
            match self.mailbox.receive().await {
                Message::Produce { frame, image, token } => {
                    crate::handlers::produce::append_owned(&self, &frame, &image, token);
                }
                Message::Produced { token, index, result } => {
                    self.requests.on_produced(token, index, result);
                }
                Message::Fetch { frame, image, token, share } => {
                    crate::handlers::fetch::read_owned(&self, frame, image, token, share);
                }
                Message::Fetched { token, share } => self.requests.on_share(token, share),
                Message::Moved { token } => self.requests.on_moved(token),
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
        if usize::from(token.shard) == self.id() {
            self.requests.on_moved(token);
        } else {
            self.mailbox.send(usize::from(token.shard), Message::Moved { token });
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

    pub(crate) fn give_back_share(&self, mut share: Box<FetchShare>) {
        share.clear();
        self.spare_shares.borrow_mut().push(share);
    }
}
