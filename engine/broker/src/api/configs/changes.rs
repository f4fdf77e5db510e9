//! Changing a topic's settings, for both APIs that can.

use crate::api::rooms::Topics;
use crate::metadata::named::repeated;
use metadata::changes::{self, Refusal};
use metadata::in_force::SettingValues;
use model::{ErrorCode, ids};
use std::collections::BTreeSet;
use std::sync::Arc;
use wire::messages::AlterConfigsResourceResponse;

pub(crate) const RESOURCE_TOPIC: i8 = 2;
pub(crate) const RESOURCE_BROKER: i8 = 4;
pub(crate) const RESOURCE_BROKER_LOGGER: i8 = 8;
pub(crate) const RESOURCE_CLIENT_METRICS: i8 = 16;
pub(crate) const RESOURCE_GROUP: i8 = 32;

/// A resource as a request names it: its type and name.
pub(crate) type Resource = (i8, String);

/// Changes each resource by `change`, which is given its place in the request, and tells what became
/// of it. Only topics can be changed, and each only once in a request. `nothing_set`: what is asked sets nothing.
/// `is_well_formed`: whether what is asked can be, whatever the values and the resource; looked at first.
pub(crate) async fn change_each<F>(
    topics: Topics<'_>,
    resources: &[Resource],
    validate_only: bool,
    nothing_set: impl Fn(usize) -> bool,
    is_well_formed: impl Fn(usize) -> Result<(), Refusal>,
    change: impl Fn(usize) -> F,
) -> Vec<AlterConfigsResourceResponse>
where
    F: FnOnce(&mut SettingValues) -> Result<(), Refusal> + Send + 'static,
{
    let (mut responses, mut told) = (Vec::new(), BTreeSet::new());
    let repeated = repeated(resources);
    for (place, resource) in resources.iter().enumerate() {
        if !told.insert(resource) {
            continue;
        }
        let (resource_type, resource_name) = resource.clone();
        let changed = if repeated.contains(resource) {
            Err((ErrorCode::InvalidRequest, "the request names this resource twice".to_owned()))
        } else if resource_type == RESOURCE_BROKER && nothing_set(place) {
            // No setting of the broker can have been set here, so there is nothing to take back.
            Ok(())
        } else if resource_type != RESOURCE_TOPIC {
            Err(not_a_topic(resource_type))
        } else {
            async {
                is_well_formed(place)?;
                change_topic(topics, &resource_name, validate_only, change(place)).await
            }
            .await
        };
        let (error_code, error_message) = match changed {
            Ok(()) => (0, None),
            Err((error, why)) => (error.code(), Some(why)),
        };
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type,
            resource_name,
        });
    }
    responses
}

/// Why a resource that is no topic is not changed.
fn not_a_topic(resource_type: i8) -> Refusal {
    if resource_type == RESOURCE_BROKER {
        let why = "the broker's settings come from its file and flags, and change with a restart";
        return (ErrorCode::InvalidConfig, why.to_owned());
    }
    (ErrorCode::InvalidRequest, "only topics have settings that can be changed here".to_owned())
}

/// Why there is no topic of a name.
fn no_topic(name: &str) -> Refusal {
    if name.is_empty() {
        let why = "all topics together have no settings: name one";
        return (ErrorCode::InvalidRequest, why.to_owned());
    }
    if !ids::topic_name_is_valid(name) {
        let error = ErrorCode::InvalidTopicException;
        return (error, error.meaning().to_owned());
    }
    (ErrorCode::UnknownTopicOrPartition, format!("there is no topic {name}"))
}

/// Changes a topic's settings, or only checks whether it could be done.
async fn change_topic(
    topics: Topics<'_>,
    name: &str,
    validate_only: bool,
    change: impl FnOnce(&mut SettingValues) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), Refusal> {
    let image = topics.image();
    let Some(topic) = image.topic(name) else {
        let refusal = no_topic(name);
        if refusal.0 == ErrorCode::UnknownTopicOrPartition {
            // What is asked is looked at before, as by Kafka.
            change(&mut SettingValues::new())?;
        }
        return Err(refusal);
    };
    let (is_internal, node) = (topic.is_internal(), Arc::clone(topics.node()));
    let change = move |set: &mut SettingValues| {
        changes::change_settings(set, &node.config.set, is_internal, change)
    };
    if validate_only {
        return change(&mut topic.settings.clone());
    }
    topics.alter(topic.id, change).await
}
