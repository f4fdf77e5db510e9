//! What the benches share: batches of a known shape.
#![forbid(unsafe_code)]

use model::Compression;
use model::record_batch::BatchBuilder;

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
