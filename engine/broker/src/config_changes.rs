//! Changing a topic's settings, for both APIs that can.

use crate::shard::Shard;
use crate::topics::{self, Refusal};
use model::ErrorCode;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(crate) const RESOURCE_TOPIC: i8 = 2;
pub(crate) const RESOURCE_BROKER: i8 = 4;

/// What a result looks like in a response.
pub(crate) fn outcome(result: Result<(), Refusal>) -> (i16, Option<String>) {
    match result {
        Ok(()) => (0, None),
        Err((error, why)) => (error.code(), Some(why)),
    }
}

/// Why a resource that is no topic is not changed.
pub(crate) fn not_a_topic(resource_type: i8) -> Refusal {
    if resource_type == RESOURCE_BROKER {
        let why = "the broker's settings come from its file and flags, and change with a restart";
        return (ErrorCode::InvalidConfig, why.to_owned());
    }
    (ErrorCode::InvalidRequest, "only topics have settings that can be changed here".to_owned())
}

/// Changes a topic's settings, or only checks whether it could be done.
pub(crate) async fn change_topic(
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
