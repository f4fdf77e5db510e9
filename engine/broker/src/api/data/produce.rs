//! Path: hot. Produce 3-13: v7 zstd, v8 record errors, v9 flexible, v13 topic ids.
//!
//! The shard that reads the request appends what it owns and hands the frame, uncopied, to the
//! shards that own the rest; each answers partition by partition.

use crate::coordinators::transactions::{Target, prove};
use crate::network::answer::Outcome;
use crate::network::request::Request;
use crate::observe::stages::Stage;
use crate::partitions::batch_check::checked;
use crate::partitions::partition_slot::{Host, PartitionSlot};
use crate::shard::proofs::Proofs;
use crate::shard::requests::Token;
use crate::shard::shard::{Message, Shard};
use coordinator::ClientVersion;
use metadata::image::{MetadataImage, TopicImage};
use model::limits::DECOMPRESSED_BYTES_MAX;
use model::{BatchRewriter, ErrorCode, RecordBatch, TopicPartition, try_at_once};
use partition::{Acks, Demand};
use runtime::clock::Nanos;
use runtime::{Slice, clock};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use wire::produce::{ProducePartition, ProduceRequest, ProduceResult, put_response};
use wire::{ApiKey, WireError, header};

/// Most partitions of a request; each takes about 90 bytes while it is answered.
const PARTITIONS_PER_PRODUCE_MAX: usize = 100_000;
/// From here on a partition joins the transaction by being written to (KIP-890).
const JOINS_SINCE_VERSION: i16 = 12;
/// From here on a client knows an error that tells it to abort (KIP-890).
const ABORTABLE_SINCE_VERSION: i16 = 11;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let began = clock::now();
    let produce = ProduceRequest::read(request.body(), request.version)?;
    let partitions = produce.partitions().count();
    if partitions > PARTITIONS_PER_PRODUCE_MAX {
        let why = format!(
            "a produce of {partitions} partitions; {PARTITIONS_PER_PRODUCE_MAX} at most are taken"
        );
        return Ok(Outcome::Close(why));
    }
    let turn = produce.transactional_id.map(|id| shard.turns.take(id.to_owned()));
    let proofs = match &turn {
        Some(turn) => {
            turn.come().await;
            prove_all(shard, &produce, request.version).await
        }
        None => Proofs::default(),
    };
    let open = shard.requests.open(partitions);
    let image = shard.image();
    let appends = clock::now();
    let appending = Appending {
        shard,
        request,
        produce: &produce,
        image: &image,
        token: open.token,
        proofs: &proofs,
        others: Cell::new(0),
    };
    appending.all(appends).await;
    shard.stages().ended(Stage::Append, appends);
    let others = appending.others.get();
    for to in (0..shard.mailbox.shards()).filter(|to| *to != shard.id()) {
        if others & 1 << (to % 64) != 0 {
            let (frame, image) = (request.clone(), Arc::clone(&image));
            let proofs = proofs.clone();
            let sent = clock::now();
            let message = Message::Produce { frame, image, token: open.token, proofs, sent };
            shard.mailbox.send(to, message);
        }
    }
    // All is appended, or on its way in order: the next request may.
    drop(turn);
    open.until_produced().await;
    let results = open.take_produced();
    let outcome = outcome(shard, request, &produce, &results);
    open.give_back(results);
    shard.stages().ended(Stage::Produce, began);
    Ok(outcome)
}

/// What the client is told, once all partitions have a result.
fn outcome(
    shard: &Shard,
    request: &Request,
    produce: &ProduceRequest<'_>,
    results: &[ProduceResult],
) -> Outcome {
    let failed = results.iter().find(|result| result.error != ErrorCode::None).map(|r| r.error);
    match (produce.acks, failed) {
        (0, None) => Outcome::Silence,
        // Nothing may be answered; a closed connection makes the client look again.
        (0, Some(failed)) => Outcome::Close(format!("acks=0 produce failed: {}", failed.name())),
        _ => {
            let head = shard.encode_head(|out| {
                header::begin_response(
                    out,
                    ApiKey::Produce,
                    request.version,
                    request.correlation_id,
                );
                put_response(out, request.version, produce, results.iter().cloned());
                header::finish_frame(out, 0, 0);
            });
            let mut pieces = shard.take_pieces();
            pieces.push(head);
            Outcome::Respond(pieces)
        }
    }
}

/// Appends the partitions of another shard's request that this shard owns.
pub(crate) fn append_owned(
    shard: &Rc<Shard>,
    request: Request,
    image: Arc<MetadataImage>,
    token: Token,
    proofs: Proofs,
) {
    let began = clock::now();
    let turn = shard.produces.turn_behind(request.peer);
    let mut from = 0;
    if turn.is_none() {
        let produce = read_again(&request);
        let (request, image, proofs, others) = (&request, &image, &proofs, Cell::new(0));
        let appending =
            Appending { shard, request, produce: &produce, image, token, proofs, others };
        match appending.at_once(began) {
            None => {
                shard.stages().ended(Stage::Append, began);
                return;
            }
            Some(index) => from = index,
        }
    }
    // It takes long, or comes behind one that does.
    let turn = turn.unwrap_or_else(|| shard.produces.take(request.peer));
    let shard = Rc::clone(shard);
    runtime::spawn(async move {
        turn.come().await;
        let produce = read_again(&request);
        let (shard, request, image, proofs) = (&shard, &request, &image, &proofs);
        let others = Cell::new(0);
        let appending =
            Appending { shard, request, produce: &produce, image, token, proofs, others };
        appending.in_slices(from).await;
        shard.stages().ended(Stage::Append, began);
    });
}

fn read_again(request: &Request) -> ProduceRequest<'_> {
    ProduceRequest::read(request.body(), request.version).expect("the sending shard has read it")
}

/// So many bytes of batches, and so many for each partition, are appended between two looks at the clock.
const BYTES_A_LOOK: usize = 128 * 1024;
const BYTES_OF_PARTITION: usize = 2048;

/// The partitions of a request that are this shard's to append.
struct Appending<'a> {
    shard: &'a Rc<Shard>,
    request: &'a Request,
    produce: &'a ProduceRequest<'a>,
    image: &'a MetadataImage,
    token: Token,
    proofs: &'a Proofs,
    /// Other shards that own some, by number modulo 64.
    others: Cell<u64>,
}

impl Appending<'_> {
    /// Appends them behind what its connection sent before.
    async fn all(&self, began: Nanos) {
        let turn = self.shard.produces.turn_behind(self.request.peer);
        let from = match &turn {
            Some(turn) => {
                turn.come().await;
                0
            }
            None => match self.at_once(began) {
                None => return,
                Some(index) => index,
            },
        };
        let turn = turn.unwrap_or_else(|| self.shard.produces.take(self.request.peer));
        turn.come().await;
        self.in_slices(from).await;
    }

    /// Appends them without rest, as far as one slice lasts: then says at which it stopped.
    fn at_once(&self, began: Nanos) -> Option<usize> {
        let slice = Slice::begun(began);
        let mut rewriter = self.shard.take_rewriter();
        let (mut bytes, mut stopped) = (0, None);
        for (index, partition) in self.produce.partitions().enumerate() {
            let mut rest = async || {
                if slice.is_over() {
                    std::future::pending::<()>().await;
                }
            };
            if try_at_once(self.one(index, partition, &mut rewriter, &mut rest)).is_pending() {
                stopped = Some(index);
                break;
            }
            bytes += partition.records.map_or(0, <[u8]>::len) + BYTES_OF_PARTITION;
            if bytes >= BYTES_A_LOOK {
                bytes = 0;
                if slice.is_over() {
                    stopped = Some(index + 1);
                    break;
                }
            }
        }
        self.shard.give_back_rewriter(rewriter);
        stopped
    }

    /// Appends those from a place on in slices, of which only a few requests have one in a turn.
    async fn in_slices(&self, from: usize) {
        let _unpacked = self.shard.unpacked.take(DECOMPRESSED_BYTES_MAX).await;
        let mut slice = Slice::begin();
        let mut rewriter = self.shard.take_rewriter();
        for (index, partition) in self.produce.partitions().enumerate().skip(from) {
            let mut rest = async || slice.rest().await;
            self.one(index, partition, &mut rewriter, &mut rest).await;
            slice.rest().await;
        }
        self.shard.give_back_rewriter(rewriter);
    }

    /// Appends one of them, if it is this shard's. Nothing is done before the last rest.
    async fn one(
        &self,
        index: usize,
        asked: ProducePartition<'_>,
        rewriter: &mut BatchRewriter,
        rest: &mut impl AsyncFnMut(),
    ) {
        let (index, is_here) = (index as u32, usize::from(self.token.shard) == self.shard.id());
        let result = match resolve(self.image, &asked) {
            Err(error) if is_here => Some(ProduceResult::refused(error, None)),
            Ok((topic, id)) => match self.shard.owner_of(id) {
                owner if owner == self.shard.id() => {
                    self.append(index, topic, id, asked, rewriter, rest).await
                }
                owner => {
                    self.others.set(self.others.get() | 1 << (owner % 64));
                    return;
                }
            },
            Err(_) => return,
        };
        if let Some(result) = result {
            self.shard.answer_produce(self.token, index, result);
        }
    }

    async fn append(
        &self,
        index: u32,
        topic: &TopicImage,
        id: TopicPartition,
        asked: ProducePartition<'_>,
        rewriter: &mut BatchRewriter,
        rest: &mut impl AsyncFnMut(),
    ) -> Option<ProduceResult> {
        let proof = match self.proofs.of(index) {
            Ok(proof) => proof,
            Err(ErrorCode::InvalidTxnState) if self.request.version >= ABORTABLE_SINCE_VERSION => {
                return Some(ProduceResult::refused(ErrorCode::TransactionAbortable, None));
            }
            Err(error) => return Some(ProduceResult::refused(error, None)),
        };
        if self.shard.slot(id).is_none() {
            return Some(ProduceResult::refused(self.shard.why_absent(id), None));
        }
        let (acks, version) = (Acks::from_code(self.produce.acks), self.request.version);
        let batch = match checked(topic, asked, acks, version, rewriter, rest).await {
            Ok(batch) => batch,
            Err(refused) => return Some(refused),
        };
        // It may have gone meanwhile.
        let Some(slot) = self.shard.slot(id) else {
            return Some(ProduceResult::refused(self.shard.why_absent(id), None));
        };
        let demand = match (acks, topic.placed(id.partition.0)) {
            (Some(acks), Some(placed)) => {
                Demand::of(acks, topic.flushing.durability, topic.replication(placed))
            }
            _ => Err(ErrorCode::InvalidRequiredAcks),
        };
        match demand {
            Ok(demand) => {
                PartitionSlot::append(&slot, self.shard, batch, demand, proof, self.token, index)
            }
            Err(error) => Some(ProduceResult::refused(error, None)),
        }
    }
}

/// The coordinator's word on the partitions of a transactional request that need it. What is wrong
/// with a partition otherwise is found later.
async fn prove_all(shard: &Rc<Shard>, produce: &ProduceRequest<'_>, version: i16) -> Proofs {
    let targets: Vec<Target> = {
        let image = shard.image();
        let target = |(index, asked): (usize, ProducePartition<'_>)| {
            let (_, id) = resolve(&image, &asked).ok()?;
            let (batch, _) = RecordBatch::split_first(asked.records?).ok()?;
            let producer = batch.producer().filter(|_| batch.is_transactional())?;
            Some(Target { index: index as u32, id, producer })
        };
        produce.partitions().enumerate().filter_map(target).collect()
    };
    let joins = version >= JOINS_SINCE_VERSION;
    let client = if joins { ClientVersion::V2 } else { ClientVersion::V1 };
    prove(shard, produce.transactional_id.unwrap_or_default(), targets, client).await
}

/// Internal topics are the broker's own to write.
fn resolve<'i>(
    image: &'i MetadataImage,
    asked: &ProducePartition<'_>,
) -> Result<(&'i TopicImage, TopicPartition), ErrorCode> {
    match image.resolve(asked.topic, asked.partition) {
        Ok((topic, _)) if topic.is_internal() => Err(ErrorCode::InvalidTopicException),
        resolved => resolved,
    }
}
