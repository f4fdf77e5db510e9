//! The settings of a topic, declared once: what CreateTopics accepts AlterConfigs changes and
//! DescribeConfigs shows. A change takes effect with the next image.

use model::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SETTING_BYTES_MAX};

/// One topic setting.
pub struct TopicSetting {
    /// Kafka's name.
    pub name: &'static str,
    /// The broker setting it comes from unless set, if there is one.
    pub from_broker: Option<&'static str>,
    /// Its value where neither says otherwise.
    pub default: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it does, as DescribeConfigs tells it.
    pub about: &'static str,
}

/// What values a setting takes.
pub enum Kind {
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
    #[must_use]
    pub fn code(&self) -> i8 {
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
    ///
    /// # Errors
    /// It is none of its values; one line says what is expected.
    pub fn read(&self, value: &str) -> Result<String, String> {
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
        /// Every setting of a topic, in the order of their names.
        pub const TOPIC_SETTINGS: &[TopicSetting] = &[$(TopicSetting {
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

/// The setting with this name.
///
/// # Errors
/// There is none.
pub fn setting(name: &str) -> Result<&'static TopicSetting, String> {
    let found = TOPIC_SETTINGS.iter().find(|setting| setting.name == name);
    found.ok_or_else(|| format!("unknown topic setting {name}"))
}

/// Checks one setting of a topic; its value as it is to be kept.
///
/// # Errors
/// There is no such setting, or it has no such value; one line.
pub fn read(name: &str, value: &str) -> Result<String, String> {
    let value_is = setting(name)?;
    if value.len() > SETTING_BYTES_MAX {
        let bytes = value.len();
        return Err(format!("{name}: a value of {bytes} bytes; {SETTING_BYTES_MAX} at most"));
    }
    value_is.kind.read(value).map_err(|why| format!("{name}={value}: {why}"))
}

/// The names of internal topics: the broker's own records, which clients may only read.
#[must_use]
pub fn is_internal(topic: &str) -> bool {
    topic == OFFSETS_TOPIC || topic == TRANSACTIONS_TOPIC
}

/// Where consumer groups and their offsets are kept.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Where transactional ids and their transactions are kept.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Kafka's name for a topic setting's default on the broker, where its brokers tell one: not for those that it
/// computes from several.
pub(crate) fn default_name(topic_setting: &'static str) -> Option<&'static str> {
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
