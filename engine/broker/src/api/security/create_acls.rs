//! CreateAcls 1-3: v2 flexible. None can be made: there is no authorizer.

use super::describe_acls::NO_AUTHORIZER;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{AclCreationResult, CreateAclsRequest, CreateAclsResponse};

pub(crate) async fn handle(
    request: &Request,
    size: &mut AnswerSize,
) -> Result<CreateAclsResponse, WireError> {
    let asked = read::<CreateAclsRequest>(request)?;
    size.add(asked.creations.len() * 50).await?;
    let refused = AclCreationResult {
        error_code: ErrorCode::SecurityDisabled.code(),
        error_message: Some(NO_AUTHORIZER.to_owned()),
    };
    let results = vec![refused; asked.creations.len()];
    Ok(CreateAclsResponse { results, ..Default::default() })
}
