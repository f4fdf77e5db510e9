//! ListGroups 0-5: v3 flexible, v4 states (KIP-518), v5 types (KIP-848).

use crate::api::rooms::Groups;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use wire::WireError;
use wire::messages::{ListGroupsRequest, ListGroupsResponse};

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<ListGroupsResponse, WireError> {
    let asked = read::<ListGroupsRequest>(request)?;
    let mut response = ListGroupsResponse::default();
    for listed in groups.step_all(move |_, coordinator, _| coordinator.list(&asked)).await {
        match listed {
            Ok(groups) => {
                let bytes = groups.iter().map(|g| 40 + g.group_id.len() + g.protocol_type.len());
                size.add(bytes.sum()).await?;
                response.groups.extend(groups);
            }
            Err(error) => response.error_code = error.code(),
        }
    }
    response.groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
    Ok(response)
}
