//! IncrementalAlterConfigs 0-1 (KIP-339): v1 flexible. Sets, deletes, appends to and subtracts from
//! single settings.

use crate::api::configs::changes::change_each;
use crate::api::rooms::Topics;
use crate::config::Config;
use crate::metadata::named::repeated;
use crate::network::answer::read;
use crate::network::request::Request;
use metadata::changes::Refusal;
use metadata::in_force::{InForce, SettingValues};
use metadata::topic_settings::{self, Kind};
use model::ErrorCode;
use std::sync::Arc;
use wire::WireError;
use wire::messages::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, IncrementalConfig,
};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
) -> Result<IncrementalAlterConfigsResponse, WireError> {
    let asked = read::<IncrementalAlterConfigsRequest>(request)?;
    let resources: Vec<_> =
        asked.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())).collect();
    let change = |place: usize| {
        let (changes, node) = (asked.resources[place].configs.clone(), Arc::clone(topics.node()));
        move |set: &mut SettingValues| apply_all(&changes, set, &node.config)
    };
    let nothing_set =
        |place: usize| asked.resources[place].configs.iter().all(|c| c.config_operation == DELETE);
    let well_formed = |place: usize| is_well_formed(&asked.resources[place].configs);
    let responses =
        change_each(topics, &resources, asked.validate_only, nothing_set, well_formed, change)
            .await;
    let response = IncrementalAlterConfigsResponse { responses, ..Default::default() };
    Ok(response)
}

fn is_well_formed(changes: &[IncrementalConfig]) -> Result<(), Refusal> {
    if let Some(name) = repeated(changes.iter().map(|change| &change.name)).first() {
        return Err((ErrorCode::InvalidRequest, format!("{name} is named twice")));
    }
    let needs_value = |c: &&IncrementalConfig| c.config_operation != DELETE && c.value.is_none();
    if let Some(change) = changes.iter().find(needs_value) {
        return Err((ErrorCode::InvalidRequest, format!("{} has no value", change.name)));
    }
    for change in changes.iter().filter(|c| matches!(c.config_operation, APPEND | SUBTRACT)) {
        let name = &change.name;
        let invalid = |why: String| (ErrorCode::InvalidConfig, why);
        let setting = topic_settings::setting(name).map_err(invalid)?;
        if !matches!(setting.kind, Kind::Words(_) | Kind::Replicas) {
            return Err(invalid(format!("{name} is no list: it can be set or deleted")));
        }
    }
    Ok(())
}

fn apply_all(
    changes: &[IncrementalConfig],
    set: &mut SettingValues,
    config: &Config,
) -> Result<(), Refusal> {
    changes.iter().try_for_each(|change| apply(change, set, config))
}

fn apply(
    change: &IncrementalConfig,
    set: &mut SettingValues,
    config: &Config,
) -> Result<(), Refusal> {
    let invalid = |why: String| (ErrorCode::InvalidConfig, why);
    let name = &change.name;
    if change.config_operation == DELETE {
        // Of whatever is not set, known or not: MirrorMaker 2 deletes what is a default at its source.
        set.remove(name);
        return Ok(());
    }
    let setting = topic_settings::setting(name).map_err(invalid)?;
    let value = match change.config_operation {
        SET => change.value.clone().unwrap_or_default(),
        operation @ (APPEND | SUBTRACT) => {
            let in_force = InForce { on_topic: set, on_broker: &config.set };
            let before = in_force.value_of(setting).value;
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
    let value = topic_settings::read(name, &value).map_err(invalid)?;
    set.insert(name.clone(), value);
    Ok(())
}
