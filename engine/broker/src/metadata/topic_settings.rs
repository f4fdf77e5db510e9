//! The settings of a topic, declared once: what CreateTopics accepts AlterConfigs changes and
//! DescribeConfigs shows. A change takes effect with the next image.

use model::Compression;
use model::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SETTING_BYTES_MAX};
use partition::Durability;
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
    pub(crate) kind: Kind,
    pub(crate) about: &'static str,
}

/// What values a setting takes.
pub(crate) enum Kind {
    /// A whole number in this range.
    Number(i64, i64),
    /// A number from 0 to 1.
    Ratio,
    /// A version of Kafka's.
    Version,
    /// true or false.
    Flag,
    /// false: there is nothing to turn on.
    Off,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Some of these words, with commas.
    Words(&'static [&'static str]),
    /// Partitions with brokers, `1:2,3:4`, all by `*`, or none.
    Replicas,
}

impl Kind {
    /// The protocol's number of it (DescribeConfigs v3).
    pub(crate) fn code(&self) -> i8 {
        match self {
            Self::Flag | Self::Off => 1,
            Self::Word(_) | Self::Version => 2,
            Self::Number(_, high) if *high <= i64::from(i32::MAX) => 3,
            Self::Number(..) => 5,
            Self::Ratio => 6,
            Self::Words(_) | Self::Replicas => 7,
        }
    }

    /// The value as it is kept and told; spaces around it, and around the words of a list, mean nothing.
    fn read(&self, value: &str) -> Result<String, String> {
        let value = value.trim();
        let one_of = |words: &[&str], word: &str| {
            if words.contains(&word) {
                return Ok(word.to_owned());
            }
            Err(format!("{} is expected", words.join(", ")))
        };
        match self {
            Self::Number(low, high) => match value.parse::<i64>() {
                Ok(n) if (*low..=*high).contains(&n) => Ok(n.to_string()),
                _ => Err(format!("a whole number from {low} to {high} is expected")),
            },
            Self::Ratio => match value.parse::<f64>() {
                Ok(n) if (0.0..=1.0).contains(&n) => Ok(format!("{n:?}")),
                _ => Err("a number from 0 to 1 is expected".to_owned()),
            },
            Self::Version => {
                let numbers = value
                    .split(['.', '-'])
                    .all(|part| part.strip_prefix("IV").unwrap_or(part).parse::<u8>().is_ok());
                if numbers {
                    Ok(value.to_owned())
                } else {
                    Err("a version, as 2.8, is expected".to_owned())
                }
            }
            Self::Flag => one_of(&["true", "false"], &value.to_ascii_lowercase()),
            Self::Off => one_of(&["false"], &value.to_ascii_lowercase()),
            Self::Replicas => {
                let is_pair = |pair: &str| {
                    let numbers = pair.split_once(':');
                    numbers.is_some_and(|(partition, broker)| {
                        partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok()
                    })
                };
                let pairs: Vec<&str> = value.split(',').map(str::trim).collect();
                let are = value.is_empty() || value == "*" || pairs.iter().all(|p| is_pair(p));
                if are {
                    Ok(pairs.join(","))
                } else {
                    Err("*, or partition:broker,... is expected".to_owned())
                }
            }
            Self::Word(words) => one_of(words, value),
            // None of them.
            Self::Words(_) if value.is_empty() => Ok(String::new()),
            Self::Words(words) => {
                let read = value.split(',').map(|word| one_of(words, word.trim()));
                Ok(read.collect::<Result<Vec<_>, _>>()?.join(","))
            }
        }
    }
}

const MAX: i64 = i64::MAX;
const NEVER: &str = "9223372036854775807";

macro_rules! topic_settings {
    ($($name:literal, $from:expr, $default:expr, $kind:expr, $about:literal;)*) => {
        pub(crate) const TOPIC_SETTINGS: &[TopicSetting] = &[$(TopicSetting {
            name: $name,
            from_broker: $from,
            default: $default,
            kind: $kind,
            about: $about,
        },)*];
    };
}

topic_settings! {
    "cleanup.policy", Some("log.cleanup.policy"), "delete", Kind::Words(&["delete", "compact"]),
        "What happens to old records: delete obeys retention.*, compact keeps the newest of each key";
    "compression.gzip.level", None, "-1", Kind::Number(-1, 9),
        "Without effect: what the broker compresses it compresses at the codec's usual level";
    "compression.lz4.level", None, "9", Kind::Number(1, 17), "Without effect, as compression.gzip.level";
    "compression.type", Some("compression.type"), "producer",
        Kind::Word(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        "Codec that batches are kept in; producer: as they were sent";
    "compression.zstd.level", None, "3", Kind::Number(-131_072, 22),
        "Without effect, as compression.gzip.level";
    "delete.retention.ms", None, "86400000", Kind::Number(0, MAX),
        "How long compaction keeps tombstones, and markers of transactions without records";
    "file.delete.delay.ms", None, "60000", Kind::Number(0, MAX),
        "Without effect: files are deleted at once";
    "flush.messages", Some("log.flush.interval.messages"), NEVER, Kind::Number(1, MAX),
        "Records are synced once this many are not, whatever acks";
    "flush.ms", Some("log.flush.interval.ms"), NEVER, Kind::Number(0, MAX),
        "Records are synced after this long at most, whatever acks";
    "index.interval.bytes", None, "4096", Kind::Number(0, i32::MAX as i64),
        "Without effect: the index has an entry for each 32 KiB";
    "follower.replication.throttled.replicas", None, "", Kind::Replicas, "Without effect on one node";
    "leader.replication.throttled.replicas", None, "", Kind::Replicas, "Without effect on one node";
    "local.retention.bytes", None, "-2", Kind::Number(-2, MAX), "Without effect: there is no remote storage";
    "local.retention.ms", None, "-2", Kind::Number(-2, MAX), "Without effect: there is no remote storage";
    "max.compaction.lag.ms", None, NEVER, Kind::Number(1, MAX),
        "A record that is not the newest of its key is compacted away after about this long";
    "max.message.bytes", Some("message.max.bytes"), "1048588", Kind::Number(0, 64 * 1024 * 1024),
        "Largest record batch, header included";
    "message.format.version", None, "3.0-IV1", Kind::Version,
        "Without effect: records are kept in format 2, which every client since 0.11 speaks";
    "message.timestamp.after.max.ms", None, "3600000", Kind::Number(0, MAX),
        "A batch with a CreateTime further ahead of the broker's clock is refused";
    "message.timestamp.before.max.ms", None, NEVER, Kind::Number(0, MAX),
        "A batch with a CreateTime further behind the broker's clock is refused";
    "message.timestamp.type", Some("log.message.timestamp.type"), "CreateTime",
        Kind::Word(&["CreateTime", "LogAppendTime"]),
        "Whose timestamps records carry: their producer's, or the broker's at the append";
    "min.cleanable.dirty.ratio", None, "0.5", Kind::Ratio,
        "A log is compacted once this part of its closed files was not yet";
    "min.compaction.lag.ms", None, "0", Kind::Number(0, MAX),
        "Records written more recently than this are not compacted";
    "min.insync.replicas", Some("min.insync.replicas"), "1", Kind::Number(1, i32::MAX as i64),
        "Replicas that must be in sync for acks=all";
    "preallocate", None, "false", Kind::Flag,
        "Without effect: space is always taken ahead";
    "remote.log.copy.disable", None, "false", Kind::Flag, "Without effect: there is no remote storage";
    "remote.log.delete.on.disable", None, "false", Kind::Flag, "Without effect: there is no remote storage";
    "remote.storage.enable", None, "false", Kind::Off, "There is no remote storage";
    "retention.bytes", Some("log.retention.bytes"), "-1", Kind::Number(i64::MIN, MAX),
        "A partition larger than this loses its oldest log file, below 0: never";
    "retention.ms", Some("log.retention.ms"), "604800000", Kind::Number(-1, MAX),
        "Records older than this are deleted, -1: never";
    "segment.bytes", Some("log.segment.bytes"), "1073741824",
        Kind::Number(SEGMENT_BYTES_MIN as i64, SEGMENT_BYTES_MAX as i64),
        "A log file is closed before it grows beyond this";
    "segment.index.bytes", None, "10485760", Kind::Number(4, i32::MAX as i64),
        "Without effect: an index is as large as its log file needs";
    "segment.jitter.ms", None, "0", Kind::Number(0, MAX),
        "Without effect";
    "segment.ms", Some("log.roll.ms"), "604800000", Kind::Number(1, MAX),
        "A log file is closed once it is this old";
    "unclean.leader.election.enable", None, "false", Kind::Flag,
        "Without effect on one node";
    "weir.durability", Some("weir.durability"), "acks",
        Kind::Word(&["acks", "memory", "os", "disk"]),
        "What is answered when: acks (0 and 1: os, all: disk), or always memory, os or disk";
    "weir.record.validation", Some("weir.record.validation"), "uncompressed",
        Kind::Word(&["uncompressed", "all"]),
        "Which batches are looked at record by record before they are stored: those that are not compressed or must \
         be decompressed anyway, or all";
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

/// The setting with this name.
///
/// # Errors
/// There is none.
pub(crate) fn setting(name: &str) -> Result<&'static TopicSetting, String> {
    let found = TOPIC_SETTINGS.iter().find(|setting| setting.name == name);
    found.ok_or_else(|| format!("unknown topic setting {name}"))
}

/// Checks one setting of a topic; its value as it is to be kept.
pub(crate) fn read(name: &str, value: &str) -> Result<String, String> {
    let value_is = setting(name)?;
    if value.len() > SETTING_BYTES_MAX {
        let bytes = value.len();
        return Err(format!("{name}: a value of {bytes} bytes; {SETTING_BYTES_MAX} at most"));
    }
    value_is.kind.read(value).map_err(|why| format!("{name}={value}: {why}"))
}

/// Checks settings that have to do with each other; `on_broker` are those that were set on the broker.
pub(crate) fn check_together(
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> Result<(), String> {
    let [least, most] = ["min.compaction.lag.ms", "max.compaction.lag.ms"]
        .map(|name| number_of(name, set, on_broker));
    if least > most {
        return Err(format!(
            "min.compaction.lag.ms={least} is more than max.compaction.lag.ms={most}"
        ));
    }
    Ok(())
}

/// The names of internal topics: the broker's own records, which clients may only read.
pub(crate) fn is_internal(topic: &str) -> bool {
    topic == OFFSETS_TOPIC || topic == TRANSACTIONS_TOPIC
}

/// Where consumer groups and their offsets are kept.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Where transactional ids and their transactions are kept.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Where a value comes from (the protocol's number).
pub(crate) const SOURCE_TOPIC: i8 = 1;
pub(crate) const SOURCE_STATIC_BROKER: i8 = 4;
pub(crate) const SOURCE_DEFAULT: i8 = 5;

/// Kafka's name for a topic setting's default on the broker, where its brokers tell one: not for those that it
/// computes from several.
fn default_name(topic_setting: &'static str) -> Option<&'static str> {
    Some(match topic_setting {
        "cleanup.policy" => "log.cleanup.policy",
        "delete.retention.ms" => "log.cleaner.delete.retention.ms",
        "file.delete.delay.ms" => "log.segment.delete.delay.ms",
        "flush.messages" => "log.flush.interval.messages",
        "index.interval.bytes" => "log.index.interval.bytes",
        "local.retention.bytes" => "log.local.retention.bytes",
        "local.retention.ms" => "log.local.retention.ms",
        "max.compaction.lag.ms" => "log.cleaner.max.compaction.lag.ms",
        "max.message.bytes" => "message.max.bytes",
        "message.timestamp.after.max.ms" => "log.message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms" => "log.message.timestamp.before.max.ms",
        "message.timestamp.type" => "log.message.timestamp.type",
        "min.cleanable.dirty.ratio" => "log.cleaner.min.cleanable.ratio",
        "min.compaction.lag.ms" => "log.cleaner.min.compaction.lag.ms",
        "preallocate" => "log.preallocate",
        "retention.bytes" => "log.retention.bytes",
        "segment.bytes" => "log.segment.bytes",
        "segment.index.bytes" => "log.index.size.max.bytes",
        "flush.ms" | "retention.ms" | "segment.jitter.ms" | "segment.ms" => return None,
        name if name.contains(".replicas") && name.contains("throttled") => return None,
        name if name.starts_with("remote.") => return None,
        name => name,
    })
}

/// The values there are for a setting, the one in force first: name, value, source. The last resort is not among them
/// where it has no name.
pub(crate) fn values_of(
    setting: &TopicSetting,
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> Vec<(&'static str, String, i8)> {
    let mut values = Vec::new();
    if let Some(value) = set.get(setting.name) {
        values.push((setting.name, value.clone(), SOURCE_TOPIC));
    }
    if let Some(name) = setting.from_broker
        && let Some(value) = on_broker.get(name)
    {
        values.push((name, value.clone(), SOURCE_STATIC_BROKER));
    }
    if let Some(name) = default_name(setting.name) {
        values.push((name, setting.default.to_owned(), SOURCE_DEFAULT));
    }
    values
}

/// The value in force, and where it comes from.
pub(crate) fn value_of(
    setting: &TopicSetting,
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> (String, i8) {
    let from_topic = || Some((set.get(setting.name)?.clone(), SOURCE_TOPIC));
    let from_broker = || Some((on_broker.get(setting.from_broker?)?.clone(), SOURCE_STATIC_BROKER));
    from_topic()
        .or_else(from_broker)
        .unwrap_or_else(|| (setting.default.to_owned(), SOURCE_DEFAULT))
}

fn text_of(
    name: &str,
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> String {
    value_of(setting(name).expect("a declared setting"), set, on_broker).0
}

/// What a topic's settings mean for those who write to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteRules {
    /// `max.message.bytes`.
    pub(crate) batch_bytes_max: usize,
    /// `compression.type`, unless it is producer.
    pub(crate) codec: Option<Compression>,
    /// `message.timestamp.type` is LogAppendTime.
    pub(crate) stamps: bool,
    /// `cleanup.policy` has compact: every record needs a key.
    pub(crate) needs_keys: bool,
    /// Compressed batches are decompressed too, to look at their records: for their keys, or because
    /// `weir.record.validation` is all.
    pub(crate) unpacks: bool,
    /// `message.timestamp.before.max.ms` and `after.max.ms`.
    pub(crate) behind_ms_max: i64,
    pub(crate) ahead_ms_max: i64,
}

/// The rules in force for writers.
pub(crate) fn write_rules_of(
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> WriteRules {
    let number = |name| number_of(name, set, on_broker);
    WriteRules {
        batch_bytes_max: number("max.message.bytes") as usize,
        codec: match text_of("compression.type", set, on_broker).as_str() {
            "uncompressed" => Some(Compression::None),
            "gzip" => Some(Compression::Gzip),
            "snappy" => Some(Compression::Snappy),
            "lz4" => Some(Compression::Lz4),
            "zstd" => Some(Compression::Zstd),
            _ => None,
        },
        stamps: text_of("message.timestamp.type", set, on_broker) == "LogAppendTime",
        needs_keys: has_policy("compact", set, on_broker),
        unpacks: has_policy("compact", set, on_broker)
            || text_of("weir.record.validation", set, on_broker) == "all",
        behind_ms_max: number("message.timestamp.before.max.ms"),
        ahead_ms_max: number("message.timestamp.after.max.ms"),
    }
}

/// Whether `cleanup.policy` is compact alone.
pub(crate) fn only_compacts(
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> bool {
    has_policy("compact", set, on_broker) && !has_policy("delete", set, on_broker)
}

fn has_policy(
    policy: &str,
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> bool {
    text_of("cleanup.policy", set, on_broker).split(',').any(|word| word.trim() == policy)
}

/// The durability in force.
pub(crate) fn durability_of(
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> Durability {
    level("weir.durability", &text_of("weir.durability", set, on_broker)).expect("checked when set")
}

/// How its logs are kept.
pub(crate) fn log_settings_of(
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> LogSettings {
    let number = |name| number_of(name, set, on_broker);
    // Only closed files are compacted.
    let compacts = has_policy("compact", set, on_broker);
    let lag_ms = if compacts { number("max.compaction.lag.ms") } else { MAX };
    LogSettings {
        segment_bytes: number("segment.bytes") as u32,
        segment_ms: number("segment.ms").min(lag_ms),
    }
}

/// When and how a topic is compacted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactionRules {
    /// `min.cleanable.dirty.ratio`.
    pub(crate) dirty_ratio_min: f64,
    /// `min.compaction.lag.ms` and `max.compaction.lag.ms`.
    pub(crate) lag_ms_min: i64,
    pub(crate) lag_ms_max: i64,
    /// `delete.retention.ms`.
    pub(crate) delete_retention_ms: i64,
}

/// When its logs are compacted, if ever.
pub(crate) fn compaction_of(
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> Option<CompactionRules> {
    let number = |name| number_of(name, set, on_broker);
    let ratio = text_of("min.cleanable.dirty.ratio", set, on_broker);
    has_policy("compact", set, on_broker).then(|| CompactionRules {
        dirty_ratio_min: ratio.parse().expect("checked when set"),
        lag_ms_min: number("min.compaction.lag.ms"),
        lag_ms_max: number("max.compaction.lag.ms"),
        delete_retention_ms: number("delete.retention.ms"),
    })
}

/// How much of its logs is kept.
pub(crate) fn retention_of(
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> Retention {
    let deletes = has_policy("delete", set, on_broker);
    let limit = |name| Some(number_of(name, set, on_broker)).filter(|limit| deletes && *limit >= 0);
    Retention {
        age_ms: limit("retention.ms"),
        bytes: limit("retention.bytes").map(|bytes| bytes as u64),
    }
}

/// A numeric setting in force.
pub(crate) fn number_of(
    name: &str,
    set: &BTreeMap<String, String>,
    on_broker: &BTreeMap<String, String>,
) -> i64 {
    text_of(name, set, on_broker).parse().expect("checked when set")
}
