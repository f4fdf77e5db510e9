//! SaslHandshake 0-1. This listener has no SASL, which a client is told as a Kafka without it tells it.

use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    read::<SaslHandshakeRequest>(request)?;
    let error_code = ErrorCode::IllegalSaslState.code();
    Ok(respond(shard, request, &SaslHandshakeResponse { error_code, ..Default::default() }))
}
