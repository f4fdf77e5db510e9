//! Whether a produced batch may be stored, and what is changed of it before: its header, its records, its topic's rules.

use metadata::image::TopicImage;
use model::batch_rewrite::BatchChanges;
use model::record::Records;
use model::{
    BatchError, BatchRewriter, Compression, ErrorCode, Record, RecordBatch, walk_records_resting,
};
use partition::Acks;
use runtime::clock;
use wire::produce::{ProducePartition, ProduceResult};

const ZSTD_SINCE_VERSION: i16 = 7;
/// Records of a refused batch that are told one by one; of more the first ones.
const BAD_RECORDS_MAX: usize = 500;
/// Records between two rests.
const RECORDS_A_REST: usize = 1024;

/// The batch of a partition as it is to be stored.
pub(crate) async fn checked<'a>(
    topic: &TopicImage,
    asked: ProducePartition<'a>,
    acks: Option<Acks>,
    version: i16,
    rewriter: &'a mut BatchRewriter,
    rest: &mut impl AsyncFnMut(),
) -> Result<RecordBatch<'a>, ProduceResult> {
    let batch = match validate(topic, asked, version) {
        // Before it is looked at more closely, as by Kafka.
        found if acks.is_none() => {
            let early = [ErrorCode::InvalidRecord, ErrorCode::UnsupportedCompressionType];
            let refused = ProduceResult::refused(ErrorCode::InvalidRequiredAcks, None);
            return Err(found.err().filter(|e| early.contains(&e.error)).unwrap_or(refused));
        }
        found => found?,
    };
    let changes = check_records(topic, batch, rewriter, rest).await?;
    let batch = if changes.are_none() {
        batch
    } else {
        rewriter.rewrite(batch, changes, rest).await.map_err(refused)?
    };
    let bytes = batch.bytes().len();
    if bytes > topic.rules.batch_bytes_max {
        return Err(refused(BatchError::TooLarge));
    }
    if bytes > topic.log.segment_bytes as usize {
        let why = Some("the batch is larger than segment.bytes");
        return Err(ProduceResult::refused(ErrorCode::RecordListTooLarge, why));
    }
    Ok(batch)
}

fn refused(error: BatchError) -> ProduceResult {
    ProduceResult::refused(error.error_code(), Some(error.meaning()))
}

fn validate<'a>(
    topic: &TopicImage,
    partition: ProducePartition<'a>,
    version: i16,
) -> Result<RecordBatch<'a>, ProduceResult> {
    let rules = &topic.rules;
    let bytes = partition.records.unwrap_or_default();
    let batch = RecordBatch::validate_produced(bytes, rules.batch_bytes_max).map_err(|error| {
        let peer_is_wrong = error != BatchError::TooLarge;
        if peer_is_wrong {
            crate::observe::logging::warning_of!(
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
async fn check_records(
    topic: &TopicImage,
    batch: RecordBatch<'_>,
    rewriter: &mut BatchRewriter,
    rest: &mut impl AsyncFnMut(),
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
        let body = match is_packed {
            true => rewriter.unpack(batch, rest).await.map_err(refused)?,
            false => batch.body(),
        };
        let (count, base) = (batch.record_count(), batch.base_timestamp());
        let found = walk_records_resting(body, count, base, rest).await;
        let found = found.map_err(|error| {
            tell_refused(topic, error);
            refused(error)
        })?;
        let says_other = found.max_timestamp != batch.max_timestamp();
        changes.max_timestamp = (says_other && !rules.stamps).then_some(found.max_timestamp);
        if rules.needs_keys && found.without_key > 0 {
            let why = Some("a compacted topic takes only records with a key");
            let bad = records_that(body, batch, |record| record.key.is_none(), rest).await;
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
        refusal.bad_records = Some(records_that(batch.body(), batch, far, rest).await.into());
    }
    Err(refusal)
}

/// The records for which `is_bad`, by their place in the batch.
async fn records_that(
    body: &[u8],
    batch: RecordBatch<'_>,
    is_bad: impl Fn(Record<'_>) -> bool,
    rest: &mut impl AsyncFnMut(),
) -> Vec<i32> {
    let mut bad = Vec::new();
    let count = usize::try_from(batch.record_count()).unwrap_or(0);
    for (number, record) in Records::new(body, count).map_while(Result::ok).enumerate() {
        if number % RECORDS_A_REST == RECORDS_A_REST - 1 {
            rest().await;
        }
        if is_bad(record) {
            bad.push(record.offset_delta);
            if bad.len() == BAD_RECORDS_MAX {
                break;
            }
        }
    }
    bad
}

fn tell_refused(topic: &TopicImage, error: BatchError) {
    crate::observe::logging::warning_of!(
        None,
        "batch for {} refused: {}",
        topic.name,
        error.meaning()
    );
}
