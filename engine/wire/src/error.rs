//! Why bytes from a peer are not a message: always the peer's fault.

use model::limits::{ANSWER_BYTES_MAX, CONTROL_FRAME_BYTES_MAX};
use std::fmt;

/// Malformed input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The message ends inside a field.
    Truncated,
    /// A count or length is negative, or larger than the bytes that remain could hold.
    Count,
    /// A varint has more bytes than its type.
    Varint,
    /// A string is not UTF-8.
    Utf8,
    /// A field that may not be null is.
    Null,
    /// A frame announces fewer bytes than a header has, or more than allowed.
    FrameLength(i32),
    /// What is read would take many times its bytes in memory.
    Memory,
    /// A request of an API that has only small ones announces more bytes than those may have.
    ControlFrameLength(i16, i32),
    /// What is asked for would be a larger answer than any client takes.
    AnswerTooLarge,
    /// Clients that do not read their answers hold the memory for them.
    NoMemory,
    /// The API key is not one this side knows.
    UnknownApi(i16),
    /// The API is known, this version of it is not served.
    UnsupportedVersion(i16, i16),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "the message ends inside a field"),
            Self::Count => write!(f, "a count exceeds the bytes that remain"),
            Self::Varint => write!(f, "a varint is too long"),
            Self::Utf8 => write!(f, "a string is not UTF-8"),
            Self::Null => write!(f, "a field that may not be null is null"),
            Self::FrameLength(length) => {
                write!(f, "frame length {length} is out of range")?;
                match &length.to_be_bytes() {
                    [0x16, 3, ..] => {
                        write!(f, ": it is a TLS client, and this listener has no TLS")
                    }
                    b"GET " | b"POST" | b"HEAD" | b"PUT " => write!(f, ": it is an HTTP client"),
                    _ => Ok(()),
                }
            }
            Self::Memory => write!(f, "it would take more than four times its bytes in memory"),
            Self::ControlFrameLength(key, length) => write!(
                f,
                "a request of API key {key} with {length} bytes; {CONTROL_FRAME_BYTES_MAX} at most are taken"
            ),
            Self::AnswerTooLarge => {
                write!(
                    f,
                    "its answer would be larger than {ANSWER_BYTES_MAX} bytes; ask for less at a time"
                )
            }
            Self::NoMemory => write!(
                f,
                "there is no memory for its answer: other clients do not read theirs, and hold all of \
                 weir.queued.max.answer.bytes"
            ),
            Self::UnknownApi(key) => write!(f, "API key {key} is not served"),
            Self::UnsupportedVersion(key, version) => {
                write!(f, "version {version} of API key {key} is not served")
            }
        }
    }
}

impl std::error::Error for WireError {}

// It is handed up from each field that is read: in a register.
const _: () = assert!(size_of::<WireError>() <= 8);
