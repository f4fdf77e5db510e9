//! The settings of a topic, declared once: what CreateTopics accepts and DescribeConfigs shows.

use crate::config::Config;
use model::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use std::collections::BTreeMap;

/// One topic setting.
pub(crate) struct TopicSetting {
    /// Kafka's name.
    pub(crate) name: &'static str,
    /// The broker setting it comes from unless set, if there is one.
    pub(crate) from_broker: Option<&'static str>,
    /// Its value where neither says otherwise.
    pub(crate) default: &'static str,
    check: fn(&str) -> Result<(), String>,
    pub(crate) about: &'static str,
}

pub(crate) const TOPIC_SETTINGS: &[TopicSetting] = &[
    TopicSetting {
        name: "cleanup.policy",
        from_broker: None,
        default: "delete",
        check: |value| only(value, "delete"),
        about: "What happens to old records; only delete so far",
    },
    TopicSetting {
        name: "compression.type",
        from_broker: None,
        default: "producer",
        check: |value| only(value, "producer"),
        about: "Batches are kept as the producer compressed them; only producer so far",
    },
    TopicSetting {
        name: "max.message.bytes",
        from_broker: Some("message.max.bytes"),
        default: "1048588",
        check: |value| number(value, 100, 64 * 1024 * 1024),
        about: "Largest record batch, header included",
    },
    TopicSetting {
        name: "message.timestamp.type",
        from_broker: None,
        default: "CreateTime",
        check: |value| only(value, "CreateTime"),
        about: "Whose timestamps records carry; only CreateTime so far",
    },
    TopicSetting {
        name: "min.insync.replicas",
        from_broker: None,
        default: "1",
        check: |value| number(value, 1, i64::from(i32::MAX)),
        about: "Replicas that must be in sync for acks=all",
    },
    TopicSetting {
        name: "retention.bytes",
        from_broker: None,
        default: "-1",
        check: |value| number(value, -1, i64::MAX),
        about: "Kept for later: nothing is deleted by size yet",
    },
    TopicSetting {
        name: "retention.ms",
        from_broker: None,
        default: "-1",
        check: |value| number(value, -1, i64::MAX),
        about: "Kept for later: nothing is deleted by age yet",
    },
    TopicSetting {
        name: "segment.bytes",
        from_broker: Some("log.segment.bytes"),
        default: "1073741824",
        check: |value| number(value, i64::from(SEGMENT_BYTES_MIN), i64::from(SEGMENT_BYTES_MAX)),
        about: "A log file is closed before it grows beyond this",
    },
];

fn only(value: &str, supported: &str) -> Result<(), String> {
    if value == supported { Ok(()) } else { Err(format!("only {supported} is supported so far")) }
}

fn number(value: &str, low: i64, high: i64) -> Result<(), String> {
    match value.parse::<i64>() {
        Ok(n) if (low..=high).contains(&n) => Ok(()),
        _ => Err(format!("a whole number from {low} to {high} is expected")),
    }
}

/// Checks one setting of a topic to be created.
pub(crate) fn check(name: &str, value: Option<&str>) -> Result<(), String> {
    let setting = TOPIC_SETTINGS
        .iter()
        .find(|setting| setting.name == name)
        .ok_or_else(|| format!("unknown topic setting {name}"))?;
    let value = value.ok_or_else(|| format!("{name} has no value"))?;
    (setting.check)(value).map_err(|why| format!("{name}={value}: {why}"))
}

/// The value in force, and whether the topic set it itself.
pub(crate) fn value_of(
    setting: &TopicSetting,
    set: &BTreeMap<String, String>,
    config: &Config,
) -> (String, bool) {
    if let Some(value) = set.get(setting.name) {
        return (value.clone(), true);
    }
    let inherited = setting.from_broker.and_then(|name| config.set.get(name));
    (inherited.map_or(setting.default, String::as_str).to_owned(), false)
}

/// A numeric setting in force.
pub(crate) fn number_of(name: &str, set: &BTreeMap<String, String>, config: &Config) -> i64 {
    let setting = TOPIC_SETTINGS.iter().find(|s| s.name == name).expect("a declared setting");
    value_of(setting, set, config).0.parse().expect("checked when set")
}
