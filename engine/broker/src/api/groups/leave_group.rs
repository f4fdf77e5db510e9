//! LeaveGroup 0-5: v3 several members, also by instance id, v4 flexible, v5 reason.

use crate::coordinators::groups::step_at;
use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{LeaveGroupRequest, LeaveGroupResponse};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<LeaveGroupRequest>(request)?;
    let (group, version) = (asked.group_id.clone(), request.version);
    let left = step_at(shard, &group, move |_, c, now| c.leave(now, version, &asked)).await;
    let response = left.unwrap_or_else(|error| LeaveGroupResponse {
        error_code: error.code(),
        ..Default::default()
    });
    Ok(respond(shard, request, &response))
}
