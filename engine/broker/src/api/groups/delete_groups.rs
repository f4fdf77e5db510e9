//! DeleteGroups 0-2: v2 flexible.

use crate::api::rooms::Groups;
use crate::metadata::named::each_once;
use crate::network::answer::read;
use crate::network::request::Request;
use wire::WireError;
use wire::messages::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: &Request,
) -> Result<DeleteGroupsResponse, WireError> {
    let asked = read::<DeleteGroupsRequest>(request)?;
    let mut results = Vec::new();
    for group_id in each_once(asked.groups_names) {
        let group = group_id.clone();
        let deleted = groups.step(&group_id, move |_, c, _| c.delete_group(&group)).await;
        let error_code = deleted.unwrap_or_else(|error| error).code();
        results.push(DeletableGroupResult { group_id, error_code });
    }
    Ok(DeleteGroupsResponse { results, ..Default::default() })
}
