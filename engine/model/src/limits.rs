//! Every bound of the engine, with the proof that they fit together.

/// Bytes of a v2 batch before its first record.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes of a v2 batch that `batchLength` does not count (baseOffset and batchLength itself).
pub const BATCH_LENGTH_PREFIX_BYTES: usize = 12;
/// Fewest bytes a record can take: length, attributes, two deltas, two lengths, header count.
pub const RECORD_BYTES_MIN: usize = 7;
/// Default of `message.max.bytes`: the whole batch, header included (Kafka's default).
pub const MESSAGE_MAX_BYTES_DEFAULT: u32 = 1_048_588;
/// Default of `socket.request.max.bytes` (Kafka's default, 100 MiB).
pub const REQUEST_BYTES_MAX_DEFAULT: u32 = 100 * 1024 * 1024;
/// Fewest bytes a request frame can hold: api key, version, correlation id.
pub const REQUEST_BYTES_MIN: usize = 8;
/// Most bytes of a request frame of an API other than Produce. Names and small numbers: what clients and tools send is
/// far below.
pub const CONTROL_FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Memory that a control request may take when it is decoded, beyond four times its bytes.
pub const DECODE_BYTES_FREE: usize = 1024 * 1024;
/// Most bytes of an answer that is not a fetch's: below what librdkafka takes at most (`receive.message.max.bytes`,
/// 100,000,000 unless set).
pub const ANSWER_BYTES_MAX: usize = 95 * 1024 * 1024;
/// Longest topic name, in bytes (Kafka's).
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Longest string of the protocol, in bytes: older versions give its length in 16 bits (Kafka refuses longer ones in
/// all versions).
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;
/// Longest value of a topic's setting, in bytes.
pub const SETTING_BYTES_MAX: usize = 4096;
/// Most partitions one topic may be created with here.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 100_000;
/// Most partitions one request may make (Kafka's).
pub const PARTITIONS_PER_REQUEST_MAX: i64 = 10_000;
/// Most partitions of all topics together: about 8 KB each are held.
pub const PARTITIONS_MAX: usize = 250_000;
/// Unit of direct I/O and of every position handed to the disk.
pub const DISK_BLOCK_BYTES: usize = 4096;
/// One slab of a partition's tail cache, and one read from a segment.
pub const SLAB_BYTES: usize = 128 * 1024;
/// A segment's index has at most one entry for this many bytes.
pub const INDEX_INTERVAL_BYTES: u32 = 32 * 1024;
/// Default and largest `log.segment.bytes`: positions are 32 bits and stay below 2^31.
pub const SEGMENT_BYTES_MAX: u32 = 1024 * 1024 * 1024;
/// Smallest `log.segment.bytes`.
pub const SEGMENT_BYTES_MIN: u32 = 1024;
/// Most a decompressed batch may grow to, as a guard against decompression bombs.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most producers a partition remembers the last batches of; about 250 bytes each.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 100_000;

const _: () = assert!(CONTROL_FRAME_BYTES_MAX <= REQUEST_BYTES_MAX_DEFAULT as usize);
const _: () =
    assert!(SETTING_BYTES_MAX <= STRING_BYTES_MAX, "a setting can be told in every version");
const _: () = assert!(SLAB_BYTES.is_multiple_of(DISK_BLOCK_BYTES), "slabs are whole blocks");
const _: () = assert!(BATCH_LENGTH_PREFIX_BYTES < BATCH_HEADER_BYTES);
const _: () = assert!(
    (MESSAGE_MAX_BYTES_DEFAULT as usize) < REQUEST_BYTES_MAX_DEFAULT as usize,
    "the largest batch fits a request"
);
const _: () = assert!(
    SEGMENT_BYTES_MAX as u64 + REQUEST_BYTES_MAX_DEFAULT as u64 <= i32::MAX as u64,
    "a segment that takes one more batch past its limit still has 31-bit positions"
);
