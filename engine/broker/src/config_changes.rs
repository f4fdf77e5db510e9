//! Changing a topic's settings, for both APIs that can.

use crate::named::repeated;
use crate::shard::Shard;
use crate::topics::{self, Refusal};
use model::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use wire::messages::AlterConfigsResourceResponse;

pub(crate) const RESOURCE_TOPIC: i8 = 2;
pub(crate) const RESOURCE_BROKER: i8 = 4;

/// A resource as a request names it: its type and name.
pub(crate) type Resource = (i8, String);

/// Changes each resource by `change`, which is given its place in the request, and tells what became
/// of it. Only topics can be changed, and each only once in a request. `nothing_set`: what is asked sets nothing.
pub(crate) async fn change_each<F>(
    shard: &Rc<Shard>,
    resources: &[Resource],
    validate_only: bool,
    nothing_set: impl Fn(usize) -> bool,
    change: impl Fn(usize) -> F,
) -> Vec<AlterConfigsResourceResponse>
where
    F: FnOnce(&mut BTreeMap<String, String>) -> Result<(), Refusal> + Send + 'static,
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
            change_topic(shard, &resource_name, validate_only, change(place)).await
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

/// Changes a topic's settings, or only checks whether it could be done.
async fn change_topic(
    shard: &Rc<Shard>,
    name: &str,
    validate_only: bool,
    change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), Refusal> {
    let image = shard.image();
    let Some(topic) = image.by_name.get(name) else {
        let error = ErrorCode::UnknownTopicOrPartition;
        return Err((error, format!("there is no topic {name}")));
    };
    let is_internal = topic.is_internal();
    let change = move |set: &mut BTreeMap<String, String>| {
        let before = set.get("cleanup.policy").cloned();
        change(set)?;
        if is_internal && set.get("cleanup.policy") != before.as_ref() {
            let why = "an internal topic's cleanup.policy stays as it is";
            return Err((ErrorCode::InvalidConfig, why.to_owned()));
        }
        Ok(())
    };
    if validate_only {
        return change(&mut topic.settings.clone());
    }
    topics::alter(shard, topic.id, change).await
}
