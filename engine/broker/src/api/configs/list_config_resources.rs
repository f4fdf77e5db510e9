//! ListConfigResources 0-1 (KIP-1142): topics and this broker; there are no other resources.

use crate::api::configs::changes::{
    RESOURCE_BROKER, RESOURCE_BROKER_LOGGER, RESOURCE_CLIENT_METRICS, RESOURCE_GROUP,
    RESOURCE_TOPIC,
};
use crate::api::rooms::Topics;
use crate::network::answer::read;
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse};

/// Types that there can be.
const RESOURCES: [i8; 5] = [
    RESOURCE_TOPIC,
    RESOURCE_BROKER,
    RESOURCE_BROKER_LOGGER,
    RESOURCE_CLIENT_METRICS,
    RESOURCE_GROUP,
];

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
) -> Result<ListConfigResourcesResponse, WireError> {
    let asked = read::<ListConfigResourcesRequest>(request)?;
    if asked.resource_types.iter().any(|asked| !RESOURCES.contains(asked)) {
        let error_code = ErrorCode::UnsupportedVersion.code();
        let response = ListConfigResourcesResponse { error_code, ..Default::default() };
        return Ok(response);
    }
    // Version 0 asks only for client metrics, of which there are none.
    let wanted = |resource_type: i8| {
        request.version > 0
            && (asked.resource_types.is_empty() || asked.resource_types.contains(&resource_type))
    };
    let mut config_resources = Vec::new();
    if wanted(RESOURCE_TOPIC) {
        let image = topics.image();
        config_resources.extend(image.by_name.keys().map(|name| ConfigResource {
            resource_name: name.to_string(),
            resource_type: RESOURCE_TOPIC,
        }));
    }
    if wanted(RESOURCE_BROKER) {
        let resource_name = topics.node().config.node_id.to_string();
        config_resources.push(ConfigResource { resource_name, resource_type: RESOURCE_BROKER });
    }
    let response = ListConfigResourcesResponse { config_resources, ..Default::default() };
    Ok(response)
}
