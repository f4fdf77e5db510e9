//! Path: hot. Produce 3-13: v7 zstd, v8 record errors, v9 flexible, v13 topic ids.
//!
//! The shard that reads the request appends what it owns and hands the frame, uncopied, to the
//! shards that own the rest; each answers partition by partition.

use crate::dispatch::Outcome;
use crate::image::{MetadataImage, TopicImage};
use crate::partition_slot::PartitionSlot;
use crate::requests::Token;
use crate::shard::{Message, Request, Shard};
use crate::stages::Stage;
use crate::transactions::{Proofs, Target, prove};
use coordinator::ClientVersion;
use model::batch_rewrite::BatchChanges;
use model::record::Records;
use model::{
    BatchError, BatchRewriter, Compression, ErrorCode, Record, RecordBatch, TopicPartition,
    walk_records,
};
use runtime::clock;
use std::rc::Rc;
use wire::produce::{ProducePartition, ProduceRequest, ProduceResult, put_response};
use wire::{ApiKey, WireError, header};

const ZSTD_SINCE_VERSION: i16 = 7;
/// Most partitions of a request; each takes about 90 bytes while it is answered.
const PARTITIONS_PER_PRODUCE_MAX: usize = 100_000;
/// From here on a partition joins the transaction by being written to (KIP-890).
const JOINS_SINCE_VERSION: i16 = 12;

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
    let turn = produce.transactional_id.map(|id| shard.turns.take(id));
    let proofs = match &turn {
        Some(turn) => {
            turn.come().await;
            prove_all(shard, &produce, request.version).await
        }
        None => Proofs::default(),
    };
    let open = shard.requests.open(partitions);
    let mut others = 0u64;
    let appends = clock::now();
    {
        let image = shard.image();
        shard.rewriter.borrow_mut().begin_request();
        for (index, partition) in produce.partitions().enumerate() {
            let index = index as u32;
            let known = resolve(&image, &partition);
            let result = match known {
                _ if !matches!(produce.acks, -1..=1) => {
                    Some(ProduceResult::refused(ErrorCode::InvalidRequiredAcks, None))
                }
                Err(error) => Some(ProduceResult::refused(error, None)),
                Ok((topic, id)) => match shard.owner_of(id) {
                    owner if owner == shard.id() => append_one(
                        shard,
                        topic,
                        id,
                        partition,
                        &produce,
                        request.version,
                        open.token,
                        index,
                        &proofs,
                    ),
                    owner => {
                        others |= 1 << (owner % 64);
                        None
                    }
                },
            };
            if let Some(result) = result {
                shard.requests.on_produced(open.token, index, result);
            }
        }
    }
    shard.stages().ended(Stage::Append, appends);
    for to in (0..shard.mailbox.shards()).filter(|to| *to != shard.id()) {
        if others & 1 << (to % 64) != 0 {
            let (frame, image) = (request.clone(), shard.image());
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
    let failed = results.iter().find(|result| result.error != ErrorCode::None).map(|r| r.error);
    let outcome = match (produce.acks, failed) {
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
                put_response(out, request.version, &produce, results.iter().cloned());
                header::finish_frame(out, 0, 0);
            });
            let mut pieces = shard.take_pieces();
            pieces.push(head);
            Outcome::Respond(pieces)
        }
    };
    open.give_back(results);
    shard.stages().ended(Stage::Produce, began);
    Ok(outcome)
}

/// Appends the partitions of another shard's request that this shard owns.
pub(crate) fn append_owned(
    shard: &Rc<Shard>,
    request: &Request,
    image: &MetadataImage,
    token: Token,
    proofs: &Proofs,
) {
    let began = clock::now();
    let produce = ProduceRequest::read(request.body(), request.version)
        .expect("the sending shard has read it");
    shard.rewriter.borrow_mut().begin_request();
    for (index, partition) in produce.partitions().enumerate() {
        let index = index as u32;
        let Ok((topic, id)) = resolve(image, &partition) else { continue };
        if shard.owner_of(id) != shard.id() {
            continue;
        }
        let done = append_one(
            shard,
            topic,
            id,
            partition,
            &produce,
            request.version,
            token,
            index,
            proofs,
        );
        if let Some(result) = done {
            shard.answer_produce(token, index, result);
        }
    }
    shard.stages().ended(Stage::Append, began);
}

fn append_one(
    shard: &Rc<Shard>,
    topic: &TopicImage,
    id: TopicPartition,
    partition: ProducePartition<'_>,
    produce: &ProduceRequest<'_>,
    version: i16,
    token: Token,
    index: u32,
    proofs: &Proofs,
) -> Option<ProduceResult> {
    let proof = match proofs.of(index) {
        Ok(proof) => proof,
        Err(error) => return Some(ProduceResult::refused(error, None)),
    };
    let Some(slot) = shard.slot(id) else {
        return Some(ProduceResult::refused(shard.why_absent(id), None));
    };
    let mut rewriter = shard.rewriter.borrow_mut();
    let validated = validate(topic, partition, produce.acks, version).and_then(|batch| {
        let changes = check_records(topic, batch, &mut rewriter)?;
        Ok((batch, changes))
    });
    let (batch, changes) = match validated {
        Ok(validated) => validated,
        Err(refused) => return Some(refused),
    };
    let batch = if changes.are_none() {
        batch
    } else {
        match rewriter.rewrite(batch, changes) {
            Ok(batch) => batch,
            Err(error) => return Some(refused(error)),
        }
    };
    let bytes = batch.bytes().len();
    if bytes > topic.rules.batch_bytes_max {
        return Some(refused(BatchError::TooLarge));
    }
    if bytes > topic.log.segment_bytes as usize {
        let why = Some("the batch is larger than segment.bytes");
        return Some(ProduceResult::refused(ErrorCode::RecordListTooLarge, why));
    }
    PartitionSlot::append(&slot, shard, batch, produce.acks, proof, token, index)
}

fn refused(error: BatchError) -> ProduceResult {
    ProduceResult::refused(error.error_code(), Some(error.meaning()))
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

fn validate<'a>(
    topic: &TopicImage,
    partition: ProducePartition<'a>,
    acks: i16,
    version: i16,
) -> Result<RecordBatch<'a>, ProduceResult> {
    let rules = &topic.rules;
    if acks == -1 && rules.min_insync_replicas > 1 {
        let why = Some("min.insync.replicas is above 1, and there is 1 broker");
        return Err(ProduceResult::refused(ErrorCode::NotEnoughReplicas, why));
    }
    let bytes = partition.records.unwrap_or_default();
    let batch = RecordBatch::validate_produced(bytes, rules.batch_bytes_max).map_err(|error| {
        let peer_is_wrong = error != BatchError::TooLarge;
        if peer_is_wrong {
            crate::logging::warning_of!(
                None,
                "batch for {}-{} refused: {}",
                topic.name,
                partition.partition,
                error.meaning()
            );
        }
        ProduceResult::refused(error.error_code(), Some(error.meaning()))
    })?;
    if batch.compression() == Some(Compression::Zstd) && version < ZSTD_SINCE_VERSION {
        let why = Some("zstd needs Produce version 7");
        return Err(ProduceResult::refused(ErrorCode::UnsupportedCompressionType, why));
    }
    Ok(batch)
}

/// Looks at the records, if they are not compressed, if they must be decompressed anyway, or if the topic wants it:
/// whatever is stored is what its header says. Returns what is to be changed of the batch.
fn check_records(
    topic: &TopicImage,
    batch: RecordBatch<'_>,
    rewriter: &mut BatchRewriter,
) -> Result<BatchChanges, ProduceResult> {
    let rules = &topic.rules;
    let codec = rules.codec.filter(|codec| batch.compression() != Some(*codec));
    let append_time = rules.stamps.then(clock::unix_ms);
    let mut changes = BatchChanges { codec, append_time, ..BatchChanges::default() };
    let is_packed = batch.compression() != Some(Compression::None);
    let (first, last) = if is_packed && !rules.unpacks && codec.is_none() {
        (batch.base_timestamp(), batch.max_timestamp())
    } else {
        changes.is_unpacked = is_packed;
        let body = if is_packed { rewriter.unpack(batch).map_err(refused)? } else { batch.body() };
        let found = walk_records(body, batch.record_count(), batch.base_timestamp());
        let found = found.map_err(|error| {
            tell_refused(topic, error);
            refused(error)
        })?;
        let says_other = found.max_timestamp != batch.max_timestamp();
        changes.max_timestamp = (says_other && !rules.stamps).then_some(found.max_timestamp);
        if rules.needs_keys && found.without_key > 0 {
            let why = Some("a compacted topic takes only records with a key");
            let bad = records_that(body, batch, |record| record.key.is_none());
            let refused = ProduceResult::refused(ErrorCode::InvalidRecord, why);
            return Err(ProduceResult { bad_records: Some(bad.into()), ..refused });
        }
        (found.min_timestamp, found.max_timestamp)
    };
    if rules.stamps {
        return Ok(changes);
    }
    let now = clock::unix_ms();
    let (latest, earliest) =
        (now.saturating_add(rules.ahead_ms_max), now.saturating_sub(rules.behind_ms_max));
    // -1 is no time.
    let is_far = |time: i64| time > latest || time < earliest && time != -1;
    if !is_far(first) && !is_far(last) {
        return Ok(changes);
    }
    let why = Some("its time is further from the broker's clock than the topic allows");
    let mut refusal = ProduceResult::refused(ErrorCode::InvalidTimestamp, why);
    if !is_packed {
        let base = batch.base_timestamp();
        let far = |record: Record<'_>| is_far(base.saturating_add(record.timestamp_delta));
        refusal.bad_records = Some(records_that(batch.body(), batch, far).into());
    }
    Err(refusal)
}

/// Records of a refused batch that are told one by one; of more the first ones.
const BAD_RECORDS_MAX: usize = 500;

/// The records for which `is_bad`, by their place in the batch.
fn records_that(
    body: &[u8],
    batch: RecordBatch<'_>,
    is_bad: impl Fn(Record<'_>) -> bool,
) -> Vec<i32> {
    let count = usize::try_from(batch.record_count()).unwrap_or(0);
    let records = Records::new(body, count).map_while(Result::ok);
    let bad = records.filter(|record| is_bad(*record)).map(|record| record.offset_delta);
    bad.take(BAD_RECORDS_MAX).collect()
}

fn tell_refused(topic: &TopicImage, error: BatchError) {
    crate::logging::warning_of!(None, "batch for {} refused: {}", topic.name, error.meaning());
}
