//! ListGroups 0-5: v3 flexible, v4 states (KIP-518), v5 types (KIP-848).

use crate::coordinators::state_log::step_at_all;
use crate::network::answer::{AnswerSize, Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use coordinator::GroupCoordinator;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{ListGroupsRequest, ListGroupsResponse};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<ListGroupsRequest>(request)?;
    let mut response = ListGroupsResponse::default();
    let mut size = AnswerSize::new(shard);
    for listed in
        step_at_all(shard, move |_, coordinator: &mut GroupCoordinator, _| coordinator.list(&asked))
            .await
    {
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
    Ok(respond(shard, request, &response))
}
