//! DeleteGroups 0-2: v2 flexible.

use crate::coordinators::groups::step_at;
use crate::metadata::named::each_once;
use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DeleteGroupsRequest>(request)?;
    let mut results = Vec::new();
    for group_id in each_once(asked.groups_names) {
        let group = group_id.clone();
        let deleted = step_at(shard, &group_id, move |_, c, _| c.delete_group(&group)).await;
        let error_code = deleted.unwrap_or_else(|error| error).code();
        results.push(DeletableGroupResult { group_id, error_code });
    }
    Ok(respond(shard, request, &DeleteGroupsResponse { results, ..Default::default() }))
}
