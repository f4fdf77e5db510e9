//! SaslHandshake 0-1. This listener has no SASL, which a client is told as a Kafka without it tells it.

use crate::network::answer::read;
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

pub(crate) async fn handle(request: &Request) -> Result<SaslHandshakeResponse, WireError> {
    read::<SaslHandshakeRequest>(request)?;
    let error_code = ErrorCode::IllegalSaslState.code();
    Ok(SaslHandshakeResponse { error_code, ..Default::default() })
}
