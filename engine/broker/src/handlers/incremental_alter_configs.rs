//! IncrementalAlterConfigs 0-1 (KIP-339): v1 flexible. Sets, deletes, appends to and subtracts from
//! single settings.

use crate::config_changes::{self, RESOURCE_TOPIC};
use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use crate::topic_settings::{self, Kind, value_of};
use crate::topics::Refusal;
use model::ErrorCode;
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    AlterConfigsResourceResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    IncrementalConfig, IncrementalConfigsResource,
};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<IncrementalAlterConfigsRequest>(request)?;
    let mut responses = Vec::new();
    for resource in &asked.resources {
        let same = |other: &&IncrementalConfigsResource| {
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
    let response = IncrementalAlterConfigsResponse { responses, ..Default::default() };
    Ok(respond(shard, request, &response))
}

async fn alter(
    shard: &Rc<Shard>,
    resource: &IncrementalConfigsResource,
    validate_only: bool,
) -> Result<(), Refusal> {
    if resource.resource_type != RESOURCE_TOPIC {
        return Err(config_changes::not_a_topic(resource.resource_type));
    }
    let names = |config: &IncrementalConfig| config.name.clone();
    let all: Vec<String> = resource.configs.iter().map(names).collect();
    if let Some(twice) = all.iter().find(|name| all.iter().filter(|n| n == name).count() > 1) {
        let why = format!("{twice} is named twice");
        return Err((ErrorCode::InvalidRequest, why));
    }
    let (changes, node) = (resource.configs.clone(), shard.node.clone());
    let change = move |set: &mut BTreeMap<String, String>| {
        changes.iter().try_for_each(|change| apply(change, set, &node.config))
    };
    config_changes::change_topic(shard, &resource.resource_name, validate_only, change).await
}

fn apply(
    change: &IncrementalConfig,
    set: &mut BTreeMap<String, String>,
    config: &crate::config::Config,
) -> Result<(), Refusal> {
    let invalid = |why: String| (ErrorCode::InvalidConfig, why);
    let name = &change.name;
    let setting = topic_settings::setting(name).map_err(invalid)?;
    let value = match change.config_operation {
        DELETE => {
            set.remove(name);
            return Ok(());
        }
        SET => change.value.clone().unwrap_or_default(),
        operation @ (APPEND | SUBTRACT) => {
            if !matches!(setting.kind, Kind::Words(_)) {
                return Err(invalid(format!("{name} is no list: it can be set or deleted")));
            }
            let before = value_of(setting, set, config).0;
            let asked = change.value.clone().unwrap_or_default();
            let asked: Vec<&str> = asked.split(',').map(str::trim).collect();
            let mut words: Vec<&str> = before.split(',').map(str::trim).collect();
            words.retain(|word| !word.is_empty() && !asked.contains(word));
            if operation == APPEND {
                words.extend(asked);
            }
            words.join(",")
        }
        other => {
            let why = format!("operation {other} is none of 0 set, 1 delete, 2 append, 3 subtract");
            return Err((ErrorCode::InvalidRequest, why));
        }
    };
    topic_settings::check(name, Some(&value)).map_err(invalid)?;
    set.insert(name.clone(), value);
    Ok(())
}
