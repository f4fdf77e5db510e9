//! JoinGroup 0-9: v1 rebalance timeout, v4 two-step member ids (KIP-394), v5 static members (KIP-345),
//! v6 flexible, v7 protocol type, v8 reason, v9 skip assignment (KIP-814).

use crate::coordinators::groups::at_coordinator;
use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use coordinator::Answer;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{JoinGroupRequest, JoinGroupResponse};

/// Before this version the protocol's name may not be null.
const NULL_PROTOCOL_SINCE: i16 = 7;

pub(crate) async fn handle(shard: &Rc<Shard>, request: Request) -> Result<Outcome, WireError> {
    let asked = read::<JoinGroupRequest>(&request)?;
    let (client, version) = (request.client(), request.version);
    let request = request.let_go();
    let (group, member_id) = (asked.group_id.clone(), asked.member_id.clone());
    let answered = at_coordinator(shard, &group, move |shard, partition| async move {
        partition
            .run_parked(&shard, move |coordinator, now, ticket| {
                coordinator.join(now, version, &asked, &client, ticket);
            })
            .await
    })
    .await;
    let mut response = match answered {
        Ok(Answer::Join(response)) => response,
        Ok(Answer::Sync(_)) => unreachable!("a join is answered as one"),
        Err(error) => {
            JoinGroupResponse { error_code: error.code(), member_id, ..Default::default() }
        }
    };
    if version < NULL_PROTOCOL_SINCE {
        response.protocol_name.get_or_insert_default();
    }
    Ok(respond(shard, &request, &response))
}
