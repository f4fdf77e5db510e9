//! The settings in force for a topic, and what they mean for those who write, keep and compact.

use crate::topic_settings::{TopicSetting, default_name, setting};
use model::{Compression, LogSettings, Retention};
use partition::Durability;
use std::collections::BTreeMap;

/// Settings that were set, by Kafka's names; each was checked when it was.
pub type SettingValues = BTreeMap<String, String>;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Set on the topic.
    Topic,
    /// Set on the broker, in its file or flags.
    Broker,
    /// Nobody set it.
    Default,
}

impl Source {
    /// The protocol's number of it (DescribeConfigs v1).
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::Broker => 4,
            Self::Default => 5,
        }
    }
}

/// A value of a setting: the name by which it was set, what it is, who set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The topic's name of the setting, or the broker's.
    pub name: &'static str,
    /// The value.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
}

/// The settings of a topic over those of the broker.
#[derive(Clone, Copy, Debug)]
pub struct InForce<'a> {
    /// Set on the topic.
    pub on_topic: &'a SettingValues,
    /// Set on the broker.
    pub on_broker: &'a SettingValues,
}

/// What a topic's settings mean for those who write to it.
#[derive(Clone, Copy, Debug)]
pub struct WriteRules {
    /// `max.message.bytes`.
    pub batch_bytes_max: usize,
    /// `compression.type`, unless it is producer.
    pub codec: Option<Compression>,
    /// `message.timestamp.type` is LogAppendTime.
    pub stamps: bool,
    /// `cleanup.policy` has compact: every record needs a key.
    pub needs_keys: bool,
    /// Compressed batches are decompressed too, to look at their records: for their keys, or because
    /// `weir.record.validation` is all.
    pub unpacks: bool,
    /// `message.timestamp.before.max.ms`.
    pub behind_ms_max: i64,
    /// `message.timestamp.after.max.ms`.
    pub ahead_ms_max: i64,
}

/// When and how a topic is compacted.
#[derive(Clone, Copy, Debug)]
pub struct CompactionRules {
    /// `min.cleanable.dirty.ratio`.
    pub dirty_ratio_min: f64,
    /// `min.compaction.lag.ms`.
    pub lag_ms_min: i64,
    /// `max.compaction.lag.ms`.
    pub lag_ms_max: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
}

/// When a partition's records are made safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushing {
    /// `weir.durability`.
    pub durability: Durability,
    /// `flush.messages`.
    pub messages: i64,
    /// `flush.ms`.
    pub ms: i64,
}

/// Reads a durability level.
///
/// # Errors
/// It is none; one line.
pub fn durability(name: &str, value: &str) -> Result<Durability, String> {
    match value {
        "acks" => Ok(Durability::Acks),
        "memory" => Ok(Durability::Memory),
        "os" => Ok(Durability::Os),
        "disk" => Ok(Durability::Disk),
        other => Err(format!("{name}={other:?}: acks, memory, os or disk is expected")),
    }
}

impl InForce<'_> {
    /// The values there are for a setting, the one in force first. The last resort is not among them where it has no
    /// name.
    #[must_use]
    pub fn values_of(self, setting: &TopicSetting) -> Vec<Value> {
        let mut values: Vec<Value> = self.set_values_of(setting).collect();
        if let Some(name) = default_name(setting.name) {
            values.push(Value { name, value: setting.default.to_owned(), source: Source::Default });
        }
        values
    }

    /// The value in force, and where it comes from.
    #[must_use]
    pub fn value_of(self, setting: &TopicSetting) -> Value {
        let default = || Value {
            name: setting.name,
            value: setting.default.to_owned(),
            source: Source::Default,
        };
        self.set_values_of(setting).next().unwrap_or_else(default)
    }

    fn set_values_of(self, setting: &TopicSetting) -> impl Iterator<Item = Value> {
        let on_topic = self.on_topic.get(setting.name);
        let on_topic =
            on_topic.map(|v| Value { name: setting.name, value: v.clone(), source: Source::Topic });
        let on_broker = setting.from_broker.and_then(|name| {
            let value = self.on_broker.get(name)?.clone();
            Some(Value { name, value, source: Source::Broker })
        });
        on_topic.into_iter().chain(on_broker)
    }

    fn text(self, name: &str) -> String {
        self.value_of(setting(name).expect("a declared setting")).value
    }

    /// A numeric setting in force.
    ///
    /// # Panics
    /// There is no such setting, or it is no number.
    #[must_use]
    pub fn number(self, name: &str) -> i64 {
        self.text(name).parse().expect("checked when set")
    }

    fn has_policy(self, policy: &str) -> bool {
        self.text("cleanup.policy").split(',').any(|word| word.trim() == policy)
    }

    /// Checks settings that have to do with each other.
    ///
    /// # Errors
    /// They contradict each other; one line.
    pub fn check_together(self) -> Result<(), String> {
        let [least, most] =
            ["min.compaction.lag.ms", "max.compaction.lag.ms"].map(|name| self.number(name));
        if least > most {
            return Err(format!(
                "min.compaction.lag.ms={least} is more than max.compaction.lag.ms={most}"
            ));
        }
        Ok(())
    }

    /// The rules for writers.
    #[must_use]
    pub fn write_rules(self) -> WriteRules {
        let compacts = self.has_policy("compact");
        WriteRules {
            batch_bytes_max: self.number("max.message.bytes") as usize,
            codec: match self.text("compression.type").as_str() {
                "uncompressed" => Some(Compression::None),
                "gzip" => Some(Compression::Gzip),
                "snappy" => Some(Compression::Snappy),
                "lz4" => Some(Compression::Lz4),
                "zstd" => Some(Compression::Zstd),
                _ => None,
            },
            stamps: self.text("message.timestamp.type") == "LogAppendTime",
            needs_keys: compacts,
            unpacks: compacts || self.text("weir.record.validation") == "all",
            behind_ms_max: self.number("message.timestamp.before.max.ms"),
            ahead_ms_max: self.number("message.timestamp.after.max.ms"),
        }
    }

    /// Whether `cleanup.policy` is compact alone.
    #[must_use]
    pub fn only_compacts(self) -> bool {
        self.has_policy("compact") && !self.has_policy("delete")
    }

    /// When its records are made safe.
    #[must_use]
    pub fn flushing(self) -> Flushing {
        let level = durability("weir.durability", &self.text("weir.durability"));
        Flushing {
            durability: level.expect("checked when set"),
            messages: self.number("flush.messages"),
            ms: self.number("flush.ms"),
        }
    }

    /// How its logs are cut into files.
    #[must_use]
    pub fn log_settings(self) -> LogSettings {
        // Only closed files are compacted.
        let compacts = self.has_policy("compact");
        let lag_ms = if compacts { self.number("max.compaction.lag.ms") } else { i64::MAX };
        LogSettings {
            segment_bytes: self.number("segment.bytes") as u32,
            segment_ms: self.number("segment.ms").min(lag_ms),
        }
    }

    /// When its logs are compacted, if ever.
    #[must_use]
    pub fn compaction(self) -> Option<CompactionRules> {
        let ratio = self.text("min.cleanable.dirty.ratio");
        self.has_policy("compact").then(|| CompactionRules {
            dirty_ratio_min: ratio.parse().expect("checked when set"),
            lag_ms_min: self.number("min.compaction.lag.ms"),
            lag_ms_max: self.number("max.compaction.lag.ms"),
            delete_retention_ms: self.number("delete.retention.ms"),
        })
    }

    /// How much of its logs is kept.
    #[must_use]
    pub fn retention(self) -> Retention {
        let deletes = self.has_policy("delete");
        let limit = |name| Some(self.number(name)).filter(|limit| deletes && *limit >= 0);
        Retention {
            age_ms: limit("retention.ms"),
            bytes: limit("retention.bytes").map(|bytes| bytes as u64),
        }
    }
}
