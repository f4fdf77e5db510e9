//! OffsetDelete 0 (KIP-496).

use crate::api::rooms::Groups;
use crate::network::answer::read;
use crate::network::request::Request;
use wire::WireError;
use wire::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: &Request,
) -> Result<OffsetDeleteResponse, WireError> {
    let asked = read::<OffsetDeleteRequest>(request)?;
    let group = asked.group_id.clone();
    let deleted = groups
        .step(&group, move |here, coordinator, _| {
            let image = here.image();
            coordinator.delete_offsets(&asked, |topic, partition| image.has(topic, partition))
        })
        .await;
    let response = deleted.unwrap_or_else(|error| OffsetDeleteResponse {
        error_code: error.code(),
        ..Default::default()
    });
    Ok(response)
}
