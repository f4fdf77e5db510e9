//! SyncGroup 0-5: v3 static members, v4 flexible, v5 protocol type and name (KIP-559).

use crate::api::rooms::Groups;
use crate::network::answer::read;
use crate::network::request::Request;
use coordinator::Answer;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{SyncGroupRequest, SyncGroupResponse};

/// From here on a member says which protocol it means.
const SAYS_PROTOCOL_SINCE: i16 = 5;

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: Request,
) -> Result<SyncGroupResponse, WireError> {
    let asked = read::<SyncGroupRequest>(&request)?;
    let version = request.version;
    drop(request);
    let says_protocol = asked.protocol_type.is_some() && asked.protocol_name.is_some();
    if version >= SAYS_PROTOCOL_SINCE && !says_protocol {
        let error_code = ErrorCode::InconsistentGroupProtocol.code();
        let response = SyncGroupResponse { error_code, ..Default::default() };
        return Ok(response);
    }
    let group = asked.group_id.clone();
    let step = groups.parked(&group, move |coordinator, now, ticket| {
        coordinator.sync(now, &asked, ticket);
    });
    let response = match step.await {
        Ok(Answer::Sync(response)) => response,
        Ok(Answer::Join(_)) => unreachable!("a sync is answered as one"),
        Err(error) => SyncGroupResponse { error_code: error.code(), ..Default::default() },
    };
    Ok(response)
}
