//! DeleteAcls 1-3: v2 flexible. There is none, and no authorizer.

use super::describe_acls::NO_AUTHORIZER;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{DeleteAclsFilterResult, DeleteAclsRequest, DeleteAclsResponse};

pub(crate) async fn handle(
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DeleteAclsResponse, WireError> {
    let asked = read::<DeleteAclsRequest>(request)?;
    size.add(asked.filters.len() * 50).await?;
    let refused = DeleteAclsFilterResult {
        error_code: ErrorCode::SecurityDisabled.code(),
        error_message: Some(NO_AUTHORIZER.to_owned()),
        matching_acls: Vec::new(),
    };
    let filter_results = vec![refused; asked.filters.len()];
    Ok(DeleteAclsResponse { filter_results, ..Default::default() })
}
