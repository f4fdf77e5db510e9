//! AlterConfigs 0-2: v2 flexible. Replaces all of a topic's settings; what is not named goes back to
//! its default.

use crate::config_changes::{self, RESOURCE_TOPIC};
use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use crate::topic_settings;
use crate::topics::Refusal;
use model::ErrorCode;
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<AlterConfigsRequest>(request)?;
    let mut responses = Vec::new();
    for resource in &asked.resources {
        let same = |other: &&AlterConfigsResource| {
            other.resource_type == resource.resource_type
                && other.resource_name == resource.resource_name
        };
        let altered = if asked.resources.iter().filter(same).count() > 1 {
            Err((ErrorCode::InvalidRequest, "the request names this resource twice".to_owned()))
        } else {
            alter(shard, resource, asked.validate_only).await
        };
        let (error_code, error_message) = config_changes::outcome(altered);
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
        });
    }
    Ok(respond(shard, request, &AlterConfigsResponse { responses, ..Default::default() }))
}

async fn alter(
    shard: &Rc<Shard>,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Refusal> {
    if resource.resource_type != RESOURCE_TOPIC {
        return Err(config_changes::not_a_topic(resource.resource_type));
    }
    let mut settings = BTreeMap::new();
    for config in &resource.configs {
        let Some(value) = &config.value else { continue };
        topic_settings::check(&config.name, Some(value))
            .map_err(|why| (ErrorCode::InvalidConfig, why))?;
        settings.insert(config.name.clone(), value.clone());
    }
    let replace = move |set: &mut BTreeMap<String, String>| {
        *set = settings;
        Ok(())
    };
    config_changes::change_topic(shard, &resource.resource_name, validate_only, replace).await
}
