//! SaslAuthenticate 0-2: v1 session lifetime (KIP-368), v2 flexible. This listener has no SASL.

use crate::network::answer::read;
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse};

pub(crate) async fn handle(request: &Request) -> Result<SaslAuthenticateResponse, WireError> {
    read::<SaslAuthenticateRequest>(request)?;
    let response = SaslAuthenticateResponse {
        error_code: ErrorCode::IllegalSaslState.code(),
        error_message: Some("SASL is not served on this listener".to_owned()),
        ..Default::default()
    };
    Ok(response)
}
