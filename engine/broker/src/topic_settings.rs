//! The settings of a topic, declared once: what CreateTopics accepts and DescribeConfigs shows.

use crate::config::Config;
use model::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use std::collections::BTreeMap;
use storage::{LogSettings, Retention};

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
        name: "flush.messages",
        from_broker: Some("log.flush.interval.messages"),
        default: "9223372036854775807",
        check: |value| number(value, 1, i64::MAX),
        about: "Records are synced once there are so many, whatever acks",
    },
    TopicSetting {
        name: "flush.ms",
        from_broker: Some("log.flush.interval.ms"),
        default: "9223372036854775807",
        check: |value| number(value, 0, i64::MAX),
        about: "Records are synced after so long, whatever acks",
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
        from_broker: Some("log.retention.bytes"),
        default: "-1",
        check: |value| number(value, -1, i64::MAX),
        about: "A partition larger than this loses its oldest log file, -1: never",
    },
    TopicSetting {
        name: "retention.ms",
        from_broker: Some("log.retention.ms"),
        default: "604800000",
        check: |value| number(value, -1, i64::MAX),
        about: "Records older than this are deleted, -1: never",
    },
    TopicSetting {
        name: "segment.bytes",
        from_broker: Some("log.segment.bytes"),
        default: "1073741824",
        check: |value| number(value, i64::from(SEGMENT_BYTES_MIN), i64::from(SEGMENT_BYTES_MAX)),
        about: "A log file is closed before it grows beyond this",
    },
    TopicSetting {
        name: "segment.ms",
        from_broker: Some("log.roll.ms"),
        default: "604800000",
        check: |value| number(value, 1, i64::MAX),
        about: "A log file is closed once it is so old",
    },
    TopicSetting {
        name: "weir.durability",
        from_broker: Some("weir.durability"),
        default: "acks",
        check: |value| level("weir.durability", value).map(drop),
        about: "What is answered when: acks (0 and 1: os, all: disk), or always memory, os or disk",
    },
];

/// How safe a batch is made before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// As its producer's acks ask.
    Acks,
    /// In memory: written soon.
    Memory,
    /// Written: survives kill -9.
    Os,
    /// Synced: survives a power cut.
    Disk,
}

/// Reads a durability level.
pub(crate) fn level(name: &str, value: &str) -> Result<Durability, String> {
    match value {
        "acks" => Ok(Durability::Acks),
        "memory" => Ok(Durability::Memory),
        "os" => Ok(Durability::Os),
        "disk" => Ok(Durability::Disk),
        other => Err(format!("{name}={other:?}: acks, memory, os or disk is expected")),
    }
}

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

/// The durability in force.
pub(crate) fn durability_of(set: &BTreeMap<String, String>, config: &Config) -> Durability {
    let setting = TOPIC_SETTINGS.iter().find(|s| s.name == "weir.durability");
    let value = value_of(setting.expect("a declared setting"), set, config).0;
    level("weir.durability", &value).expect("checked when set")
}

/// How its logs are kept.
pub(crate) fn log_settings_of(set: &BTreeMap<String, String>, config: &Config) -> LogSettings {
    LogSettings {
        segment_bytes: number_of("segment.bytes", set, config) as u32,
        segment_ms: number_of("segment.ms", set, config),
    }
}

/// How much of its logs is kept.
pub(crate) fn retention_of(set: &BTreeMap<String, String>, config: &Config) -> Retention {
    let limit = |name| Some(number_of(name, set, config)).filter(|limit| *limit >= 0);
    Retention {
        age_ms: limit("retention.ms"),
        bytes: limit("retention.bytes").map(|bytes| bytes as u64),
    }
}

/// A numeric setting in force.
pub(crate) fn number_of(name: &str, set: &BTreeMap<String, String>, config: &Config) -> i64 {
    let setting = TOPIC_SETTINGS.iter().find(|s| s.name == name).expect("a declared setting");
    value_of(setting, set, config).0.parse().expect("checked when set")
}
