//! Kafka's nouns, as values that cannot be wrong.
//!
//! In: bytes and integers. Out: typed values. Never: I/O, time, request schemas.
#![forbid(unsafe_code)]

mod batch_error;
pub mod batch_filter;
pub mod batch_rewrite;
pub mod calendar;
pub mod compression;
pub mod crc32c;
pub mod error_code;
pub mod ids;
pub mod limits;
pub mod marker;
pub mod offset;
pub mod record;
pub mod record_batch;
pub mod record_walk;
pub mod rest;
pub mod topic;
pub mod varint;

pub use batch_error::BatchError;
pub use batch_filter::{BatchFilter, Filtered};
pub use batch_rewrite::BatchRewriter;
pub use compression::Compression;
pub use error_code::ErrorCode;
pub use ids::{
    BrokerId, GroupId, PartitionIndex, Producer, ProducerId, TopicId, TopicName, TopicPartition,
};
pub use marker::Marker;
pub use offset::{LeaderEpoch, Offset};
pub use record::Record;
pub use record_batch::{BatchBuilder, RecordBatch};
pub use record_walk::{RecordsFound, walk_records, walk_records_resting};
pub use rest::{at_once, try_at_once};
pub use topic::{LogSettings, Retention, Topic, TopicRef};
