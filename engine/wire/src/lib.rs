//! Bytes to requests and responses of the Kafka protocol, and back.
//!
//! In: byte slices. Out: frames, requests, bytes of responses. Never: sockets, state.
#![forbid(unsafe_code)]

pub mod api_key;
pub mod consumer_protocol;
pub mod error;
pub mod fetch;
pub mod frame;
pub mod header;
#[macro_use]
mod message;
pub mod messages;
pub mod primitives;
pub mod produce;

pub use api_key::ApiKey;
pub use error::WireError;
