//! LeaveGroup 0-5: v3 several members, also by instance id, v4 flexible, v5 reason.

use crate::api::rooms::Groups;
use crate::network::answer::read;
use crate::network::request::Request;
use wire::WireError;
use wire::messages::{LeaveGroupRequest, LeaveGroupResponse};

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: &Request,
) -> Result<LeaveGroupResponse, WireError> {
    let asked = read::<LeaveGroupRequest>(request)?;
    let (group, version) = (asked.group_id.clone(), request.version);
    let left = groups.step(&group, move |_, c, now| c.leave(now, version, &asked)).await;
    let response = left.unwrap_or_else(|error| LeaveGroupResponse {
        error_code: error.code(),
        ..Default::default()
    });
    Ok(response)
}
