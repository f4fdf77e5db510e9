//! OffsetDelete 0 (KIP-496).

use crate::coordinators::groups::step_at;
use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<OffsetDeleteRequest>(request)?;
    let group = asked.group_id.clone();
    let deleted = step_at(shard, &group, move |shard, coordinator, _| {
        let image = shard.image();
        coordinator.delete_offsets(&asked, |topic, partition| image.has(topic, partition))
    })
    .await;
    let response = deleted.unwrap_or_else(|error| OffsetDeleteResponse {
        error_code: error.code(),
        ..Default::default()
    });
    Ok(respond(shard, request, &response))
}
