//! DeleteAcls 1-3: v2 flexible. There is none, and no authorizer.

use super::describe_acls::NO_AUTHORIZER;
use crate::network::answer::{AnswerSize, Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{DeleteAclsFilterResult, DeleteAclsRequest, DeleteAclsResponse};

pub(crate) async fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DeleteAclsRequest>(request)?;
    AnswerSize::new(shard).add(asked.filters.len() * 50).await?;
    let refused = DeleteAclsFilterResult {
        error_code: ErrorCode::SecurityDisabled.code(),
        error_message: Some(NO_AUTHORIZER.to_owned()),
        matching_acls: Vec::new(),
    };
    let filter_results = vec![refused; asked.filters.len()];
    Ok(respond(shard, request, &DeleteAclsResponse { filter_results, ..Default::default() }))
}
