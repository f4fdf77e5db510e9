//! Heartbeat 0-4: v3 static members, v4 flexible.

use crate::coordinators::groups::step_at;
use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{HeartbeatRequest, HeartbeatResponse};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<HeartbeatRequest>(request)?;
    let group = asked.group_id.clone();
    let beat = step_at(shard, &group, move |_, c, now| c.heartbeat(now, &asked)).await;
    let error_code = beat.unwrap_or_else(|error| error).code();
    Ok(respond(shard, request, &HeartbeatResponse { error_code, ..Default::default() }))
}
