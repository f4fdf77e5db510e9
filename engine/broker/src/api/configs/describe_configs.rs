//! DescribeConfigs 1-4: v3 documentation and types, v4 flexible.

use crate::api::configs::changes::{
    RESOURCE_BROKER, RESOURCE_BROKER_LOGGER, RESOURCE_CLIENT_METRICS, RESOURCE_GROUP,
    RESOURCE_TOPIC,
};
use crate::api::rooms::Topics;
use crate::metadata::broker_settings;
use crate::metadata::named::each_once;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use metadata::in_force::{InForce, Value};
use metadata::topic_settings::{TOPIC_SETTINGS, TopicSetting};
use model::{ErrorCode, ids};
use std::collections::BTreeMap;
use wire::WireError;
use wire::messages::{
    DescribeConfigsEntry, DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};

pub(crate) async fn handle(
    topics: Topics<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DescribeConfigsResponse, WireError> {
    let asked = read::<DescribeConfigsRequest>(request)?;
    let shown =
        Shown { documentation: asked.include_documentation, synonyms: asked.include_synonyms };
    let describe = |resource: DescribeConfigsResource| {
        let wanted = |name: &str| match &resource.configuration_keys {
            Some(keys) if !keys.is_empty() => keys.iter().any(|key| key == name),
            _ => true,
        };
        let result = match resource.resource_type {
            RESOURCE_TOPIC => topic(topics, &resource.resource_name, shown),
            RESOURCE_BROKER => broker(topics, &resource.resource_name, shown),
            // There are such things, and nothing about them can be set.
            RESOURCE_BROKER_LOGGER => {
                broker(topics, &resource.resource_name, shown).map(|_| vec![])
            }
            RESOURCE_CLIENT_METRICS | RESOURCE_GROUP => Ok(Vec::new()),
            _ => Err((ErrorCode::InvalidRequest, "there is nothing of this type")),
        };
        let mut described = DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        };
        match result {
            Ok(mut entries) => {
                entries.retain(|entry| wanted(&entry.name));
                described.configs = entries;
            }
            Err((error, why)) => {
                described.error_code = error.code();
                described.error_message = Some(why.to_owned());
            }
        }
        described
    };
    // Each resource once, whatever is asked of it where it is named again.
    let key = |resource: &DescribeConfigsResource| {
        (resource.resource_type, resource.resource_name.clone())
    };
    let mut resources = BTreeMap::new();
    let order = each_once(asked.resources.iter().map(key));
    for resource in asked.resources {
        resources.entry(key(&resource)).or_insert(resource);
    }
    let mut results = Vec::new();
    for key in order {
        let described = describe(resources.remove(&key).expect("each key has one"));
        let configs = described.configs.iter().map(bytes_of).sum::<usize>();
        size.add(described.resource_name.len() + configs).await?;
        results.push(described);
    }
    Ok(DescribeConfigsResponse { results, ..Default::default() })
}

/// What an entry takes in the answer, about.
fn bytes_of(entry: &DescribeConfigsEntry) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let synonym = |s: &DescribeConfigsSynonym| 10 + s.name.len() + text(&s.value);
    let synonyms: usize = entry.synonyms.iter().map(synonym).sum();
    20 + entry.name.len() + text(&entry.value) + text(&entry.documentation) + synonyms
}

/// What is shown beside the values.
#[derive(Clone, Copy)]
struct Shown {
    documentation: bool,
    synonyms: bool,
}

type Described = Result<Vec<DescribeConfigsEntry>, (ErrorCode, &'static str)>;

fn topic(topics: Topics<'_>, name: &str, shown: Shown) -> Described {
    if !ids::topic_name_is_valid(name) {
        let error = ErrorCode::InvalidTopicException;
        return Err((error, error.meaning()));
    }
    let image = topics.image();
    let Some(topic) = image.topic(name) else {
        return Err((ErrorCode::UnknownTopicOrPartition, "no such topic"));
    };
    let in_force = InForce { on_topic: &topic.settings, on_broker: topics.on_broker() };
    let entry = |setting: &TopicSetting| {
        let synonym = |value: Value| DescribeConfigsSynonym {
            name: value.name.to_owned(),
            value: Some(value.value),
            source: value.source.code(),
        };
        let synonyms = match shown.synonyms {
            true => in_force.values_of(setting).into_iter().map(synonym).collect(),
            false => Vec::new(),
        };
        let value = in_force.value_of(setting);
        DescribeConfigsEntry {
            name: setting.name.to_owned(),
            value: Some(value.value),
            config_source: value.source.code(),
            synonyms,
            config_type: setting.kind.code(),
            documentation: shown.documentation.then(|| setting.about.to_owned()),
            ..Default::default()
        }
    };
    Ok(TOPIC_SETTINGS.iter().map(entry).collect())
}

fn broker(topics: Topics<'_>, name: &str, shown: Shown) -> Described {
    let config = &topics.node().config;
    if !name.is_empty() && name != config.node_id.to_string() {
        return Err((ErrorCode::InvalidRequest, "this broker has another id"));
    }
    if name.is_empty() {
        // What was set for all brokers at run time: nothing can be.
        return Ok(Vec::new());
    }
    Ok(broker_settings::all(topics.node(), shown.documentation, shown.synonyms))
}
