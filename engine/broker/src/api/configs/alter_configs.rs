//! AlterConfigs 0-2: v2 flexible. Replaces all of a topic's settings; what is not named goes back to
//! its default.

use crate::api::configs::changes::change_each;
use crate::api::rooms::Topics;
use crate::metadata::named::repeated;
use crate::network::answer::read;
use crate::network::request::Request;
use metadata::changes::Refusal;
use metadata::topic_settings;
use model::ErrorCode;
use std::collections::BTreeMap;
use wire::WireError;
use wire::messages::{AlterConfigsRequest, AlterConfigsResponse, AlterableConfig};

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
) -> Result<AlterConfigsResponse, WireError> {
    let asked = read::<AlterConfigsRequest>(request)?;
    let resources: Vec<_> =
        asked.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())).collect();
    let change = |place: usize| {
        let configs = asked.resources[place].configs.clone();
        move |set: &mut BTreeMap<String, String>| replace(set, configs)
    };
    let nothing_set = |place: usize| asked.resources[place].configs.is_empty();
    let well_formed = |place: usize| is_well_formed(&asked.resources[place].configs);
    let responses =
        change_each(topics, &resources, asked.validate_only, nothing_set, well_formed, change)
            .await;
    Ok(AlterConfigsResponse { responses, ..Default::default() })
}

fn is_well_formed(configs: &[AlterableConfig]) -> Result<(), Refusal> {
    if let Some(name) = repeated(configs.iter().map(|config| &config.name)).first() {
        return Err((ErrorCode::InvalidRequest, format!("{name} is named twice")));
    }
    if let Some(config) = configs.iter().find(|config| config.value.is_none()) {
        return Err((ErrorCode::InvalidRequest, format!("{} has no value", config.name)));
    }
    Ok(())
}

fn replace(
    set: &mut BTreeMap<String, String>,
    configs: Vec<AlterableConfig>,
) -> Result<(), Refusal> {
    set.clear();
    for AlterableConfig { name, value } in configs {
        let value = value.unwrap_or_default();
        let value =
            topic_settings::read(&name, &value).map_err(|why| (ErrorCode::InvalidConfig, why))?;
        set.insert(name, value);
    }
    Ok(())
}
