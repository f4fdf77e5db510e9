//! JoinGroup 0-9: v1 rebalance timeout, v4 two-step member ids (KIP-394), v5 static members (KIP-345),
//! v6 flexible, v7 protocol type, v8 reason, v9 skip assignment (KIP-814).

use crate::api::rooms::Groups;
use crate::network::answer::read;
use crate::network::request::Request;
use coordinator::Answer;
use wire::WireError;
use wire::messages::{JoinGroupRequest, JoinGroupResponse};

/// Before this version the protocol's name may not be null.
const NULL_PROTOCOL_SINCE: i16 = 7;

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: Request,
) -> Result<JoinGroupResponse, WireError> {
    let asked = read::<JoinGroupRequest>(&request)?;
    let (client, version) = (request.client(), request.version);
    drop(request);
    let (group, member_id) = (asked.group_id.clone(), asked.member_id.clone());
    let step = groups.parked(&group, move |coordinator, now, ticket| {
        coordinator.join(now, version, &asked, &client, ticket);
    });
    let mut response = match step.await {
        Ok(Answer::Join(response)) => response,
        Ok(Answer::Sync(_)) => unreachable!("a join is answered as one"),
        Err(error) => {
            JoinGroupResponse { error_code: error.code(), member_id, ..Default::default() }
        }
    };
    if version < NULL_PROTOCOL_SINCE {
        response.protocol_name.get_or_insert_default();
    }
    Ok(response)
}
