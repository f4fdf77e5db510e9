//! Why bytes are not an acceptable batch.

use crate::ErrorCode;
use crate::compression::CompressionError;

/// Why bytes are not an acceptable batch. Each maps to one Kafka error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than a header, or `batchLength` disagrees with the bytes (`CORRUPT_MESSAGE`).
    Length,
    /// Magic is 0 or 1: message sets older than Kafka 0.11 (`UNSUPPORTED_FOR_MESSAGE_FORMAT`).
    OldMagic,
    /// Magic is unknown (`CORRUPT_MESSAGE`).
    Magic,
    /// The checksum does not match (`CORRUPT_MESSAGE`).
    Crc,
    /// Codec number above 4 (`INVALID_RECORD`).
    Codec,
    /// The record count, last offset delta and size cannot all be true (`INVALID_RECORD`).
    Count,
    /// Not one batch for the partition, but none or several (`INVALID_RECORD`).
    NotOne,
    /// The records are not what the header says, or do not decompress (`INVALID_RECORD`).
    Records,
    /// A client set what only a broker may: base offset, control or horizon bit (`INVALID_RECORD`).
    ReservedField,
    /// A client claimed log-append time (`INVALID_TIMESTAMP`).
    TimestampType,
    /// Producer id, epoch and sequence do not fit together (`INVALID_RECORD`).
    Producer,
    /// Larger than `max.message.bytes` (`MESSAGE_TOO_LARGE`).
    TooLarge,
    /// It unpacks to more than `limits::DECOMPRESSED_BYTES_MAX`, alone or with others (`MESSAGE_TOO_LARGE`).
    Unpacked,
}

impl BatchError {
    /// The code a producer is answered with.
    #[must_use]
    pub fn error_code(self) -> ErrorCode {
        match self {
            Self::Length | Self::Magic | Self::Crc => ErrorCode::CorruptMessage,
            Self::OldMagic => ErrorCode::InvalidRecord,
            Self::Codec
            | Self::Count
            | Self::NotOne
            | Self::Records
            | Self::ReservedField
            | Self::Producer => ErrorCode::InvalidRecord,
            Self::TimestampType => ErrorCode::InvalidTimestamp,
            Self::TooLarge | Self::Unpacked => ErrorCode::MessageTooLarge,
        }
    }

    /// One sentence for the log and for `error_message`.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Length => "batchLength disagrees with the bytes received",
            Self::OldMagic => "message format 0 or 1; version 2 is required",
            Self::Magic => "unknown magic; version 2 is required",
            Self::Crc => "the batch's CRC-32C does not match its bytes",
            Self::Codec => "unknown compression codec",
            Self::Count => "record count, last offset delta and size contradict each other",
            Self::NotOne => "one batch for each partition is expected",
            Self::Records => "the records are not what the batch's header says",
            Self::ReservedField => "a field that only a broker may set was set",
            Self::TimestampType => "a producer may not claim LogAppendTime",
            Self::Producer => "producer id, epoch and sequence contradict each other",
            Self::TooLarge => "the batch is larger than max.message.bytes",
            Self::Unpacked => "the records of the request unpack to more than 64 MiB",
        }
    }
}

impl From<CompressionError> for BatchError {
    fn from(error: CompressionError) -> Self {
        match error {
            CompressionError::TooLarge => Self::Unpacked,
            CompressionError::Malformed => Self::Records,
        }
    }
}
