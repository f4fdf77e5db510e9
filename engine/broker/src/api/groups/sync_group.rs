//! SyncGroup 0-5: v3 static members, v4 flexible, v5 protocol type and name (KIP-559).

use crate::coordinators::groups::at_coordinator;
use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use coordinator::Answer;
use model::ErrorCode;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{SyncGroupRequest, SyncGroupResponse};

/// From here on a member says which protocol it means.
const SAYS_PROTOCOL_SINCE: i16 = 5;

pub(crate) async fn handle(shard: &Rc<Shard>, request: Request) -> Result<Outcome, WireError> {
    let asked = read::<SyncGroupRequest>(&request)?;
    let request = request.let_go();
    let says_protocol = asked.protocol_type.is_some() && asked.protocol_name.is_some();
    if request.version >= SAYS_PROTOCOL_SINCE && !says_protocol {
        let error_code = ErrorCode::InconsistentGroupProtocol.code();
        let response = SyncGroupResponse { error_code, ..Default::default() };
        return Ok(respond(shard, &request, &response));
    }
    let group = asked.group_id.clone();
    let answered = at_coordinator(shard, &group, move |shard, partition| async move {
        let step = partition.run_parked(&shard, move |coordinator, now, ticket| {
            coordinator.sync(now, &asked, ticket);
        });
        step.await
    })
    .await;
    let response = match answered {
        Ok(Answer::Sync(response)) => response,
        Ok(Answer::Join(_)) => unreachable!("a sync is answered as one"),
        Err(error) => SyncGroupResponse { error_code: error.code(), ..Default::default() },
    };
    Ok(respond(shard, &request, &response))
}
