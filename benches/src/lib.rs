//! What the benches share: batches of a known shape.
#![forbid(unsafe_code)]

use model::record_batch::BatchBuilder;
use model::{Compression, ErrorCode};
use wire::fetch::{FetchLimits, FetchResult};

/// What a consumer of the usual settings asks for.
pub const FETCH_LIMITS: FetchLimits = FetchLimits {
    max_wait_ms: 500,
    min_bytes: 1,
    max_bytes: 1 << 20,
    partition_max_bytes: 1 << 20,
    read_committed: false,
};

/// The answer for a partition that has 1 KiB of records.
#[must_use]
pub fn fetched() -> FetchResult {
    FetchResult {
        error: ErrorCode::None,
        last_stable_offset: 0,
        high_watermark: 9,
        log_start_offset: 0,
        records_bytes: 1024,
    }
}

/// A batch of `records` values of `value_bytes` bytes that no codec can shrink.
#[must_use]
pub fn batch(records: u32, value_bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    let mut random = runtime::random::Random::new(7);
    let mut value = vec![0; value_bytes];
    builder.begin(1_700_000_000_000);
    for record in 0..records {
        random.fill(&mut value);
        builder.push(1_700_000_000_000 + i64::from(record), None, Some(&value), &[]);
    }
    builder.finish(Compression::None).to_vec()
}
