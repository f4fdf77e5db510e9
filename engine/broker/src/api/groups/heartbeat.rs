//! Heartbeat 0-4: v3 static members, v4 flexible.

use crate::api::rooms::Groups;
use crate::network::answer::read;
use crate::network::request::Request;
use wire::WireError;
use wire::messages::{HeartbeatRequest, HeartbeatResponse};

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: &Request,
) -> Result<HeartbeatResponse, WireError> {
    let asked = read::<HeartbeatRequest>(request)?;
    let group = asked.group_id.clone();
    let beat = groups.step(&group, move |_, c, now| c.heartbeat(now, &asked)).await;
    let error_code = beat.unwrap_or_else(|error| error).code();
    Ok(HeartbeatResponse { error_code, ..Default::default() })
}
