//! DescribeAcls 1-3: v2 flexible. There is no authorizer, and every client is told so, as by a Kafka without one.

use crate::network::answer::read;
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{DescribeAclsRequest, DescribeAclsResponse};

/// What each of the three APIs of ACLs says.
pub(crate) const NO_AUTHORIZER: &str = "No Authorizer is configured.";

pub(crate) async fn handle(request: &Request) -> Result<DescribeAclsResponse, WireError> {
    read::<DescribeAclsRequest>(request)?;
    let response = DescribeAclsResponse {
        error_code: ErrorCode::SecurityDisabled.code(),
        error_message: Some(NO_AUTHORIZER.to_owned()),
        ..Default::default()
    };
    Ok(response)
}
