//! Every setting of the broker, declared once: flags, TOML keys, `--help` and DescribeConfigs.

pub use crate::network::listeners::PLAINTEXT;
use crate::network::listeners::{self, ListenerSetting};
use coordinator::{CoordinatorConfig, TransactionConfig};
use model::{BrokerId, limits};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Three files of at least four frames.
const JOURNAL_BYTES_MIN: u64 = 24 * 1024 * 1024;
const INT_MAX: i64 = i32::MAX as i64;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Kafka's name where Kafka has one: the TOML key and the long flag.
    pub name: &'static str,
    /// A second, shorter flag.
    pub alias: Option<&'static str>,
    /// What it is unless set.
    pub default: &'static str,
    /// The value's kind in `--help`.
    pub kind: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// The settings, in the order of `--help`.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "log.dirs",
        alias: Some("data-dir"),
        default: "weir-data",
        kind: "DIR[,DIR]",
        about: "Directories that hold the data; made if absent; partitions are spread over them",
    },
    Setting {
        name: "listeners",
        alias: Some("listen"),
        default: "127.0.0.1:9092",
        kind: "[NAME://]HOST:PORT[,...]",
        about: "Addresses to listen on, PLAINTEXT unless they have a name; no host: all addresses; port 0 picks a \
                free one",
    },
    Setting {
        name: "advertised.listeners",
        alias: None,
        default: "",
        kind: "[NAME://]HOST:PORT[,...]",
        about: "What the clients of each listener are told to connect to; those not named here: what they listen on",
    },
    Setting {
        name: "listener.security.protocol.map",
        alias: None,
        default: "PLAINTEXT:PLAINTEXT",
        kind: "NAME:PROTOCOL[,...]",
        about: "What each listener with a name of its own is for: INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT; no other \
                protocol is served",
    },
    Setting {
        name: "weir.metrics.listen",
        alias: None,
        default: "",
        kind: "HOST:PORT",
        about: "Address that answers GET /metrics, for Prometheus; empty: none",
    },
    Setting { name: "node.id", alias: None, default: "1", kind: "N", about: "This broker's id" },
    Setting {
        name: "num.partitions",
        alias: None,
        default: "1",
        kind: "N",
        about: "Partitions of a topic that is created without saying how many",
    },
    Setting {
        name: "auto.create.topics.enable",
        alias: None,
        default: "true",
        kind: "BOOL",
        about: "Create a topic when a client asks for its metadata",
    },
    Setting {
        name: "message.max.bytes",
        alias: None,
        default: "1048588",
        kind: "BYTES",
        about: "Largest record batch, header included; topics may set max.message.bytes",
    },
    Setting {
        name: "log.segment.bytes",
        alias: None,
        default: "1073741824",
        kind: "BYTES",
        about: "A log file is closed before it grows beyond this; topics may set segment.bytes",
    },
    Setting {
        name: "log.roll.ms",
        alias: None,
        default: "604800000",
        kind: "MS",
        about: "A log file is closed once it is this old; topics may set segment.ms",
    },
    Setting {
        name: "log.retention.ms",
        alias: None,
        default: "604800000",
        kind: "MS",
        about: "Records older than this are deleted, -1: never; topics may set retention.ms",
    },
    Setting {
        name: "log.retention.bytes",
        alias: None,
        default: "-1",
        kind: "BYTES",
        about: "A partition larger than this loses its oldest log file, -1: never; topics may set \
                retention.bytes",
    },
    Setting {
        name: "log.retention.check.interval.ms",
        alias: None,
        default: "300000",
        kind: "MS",
        about: "How often to look for records to delete",
    },
    Setting {
        name: "log.flush.interval.messages",
        alias: None,
        default: "9223372036854775807",
        kind: "N",
        about: "Records are synced once this many are not, whatever acks; topics may set \
                flush.messages",
    },
    Setting {
        name: "log.flush.interval.ms",
        alias: None,
        default: "9223372036854775807",
        kind: "MS",
        about: "Records are synced after this long at most, whatever acks; topics may set flush.ms",
    },
    Setting {
        name: "weir.durability",
        alias: None,
        default: "acks",
        kind: "LEVEL",
        about: "What is answered when: acks (0 and 1: os, all: disk), or for all of them memory, os \
                (survives kill -9) or disk (survives a power cut); topics may set weir.durability",
    },
    Setting {
        name: "weir.journal.bytes",
        alias: None,
        default: "100663296",
        kind: "BYTES",
        about: "Space per shard and directory that makes small writes of many partitions durable \
                at once; bounds what a start after a crash reads; 0: every partition syncs alone",
    },
    Setting {
        name: "log.cleanup.policy",
        alias: None,
        default: "delete",
        kind: "POLICY",
        about: "What happens to old records: delete, compact or both; topics may set cleanup.policy",
    },
    Setting {
        name: "log.cleaner.backoff.ms",
        alias: None,
        default: "15000",
        kind: "MS",
        about: "How often to look for logs to compact",
    },
    Setting {
        name: "log.cleaner.dedupe.buffer.size",
        alias: None,
        default: "33554432",
        kind: "BYTES",
        about: "Memory per shard for the keys of the log that is being compacted, 32 bytes each; if \
                they do not fit, it takes more passes",
    },
    Setting {
        name: "compression.type",
        alias: None,
        default: "producer",
        kind: "CODEC",
        about: "Codec that batches are kept in: producer (as sent), uncompressed, gzip, snappy, lz4 \
                or zstd; topics may set compression.type",
    },
    Setting {
        name: "log.message.timestamp.type",
        alias: None,
        default: "CreateTime",
        kind: "TYPE",
        about: "CreateTime or LogAppendTime; topics may set message.timestamp.type",
    },
    Setting {
        name: "min.insync.replicas",
        alias: None,
        default: "1",
        kind: "N",
        about: "Replicas that must be in sync for acks=all; topics may set min.insync.replicas",
    },
    Setting {
        name: "offsets.topic.num.partitions",
        alias: None,
        default: "50",
        kind: "N",
        about: "Partitions of __consumer_offsets when it is made; groups are spread over them",
    },
    Setting {
        name: "offsets.retention.minutes",
        alias: None,
        default: "10080",
        kind: "MINUTES",
        about: "Offsets of a group without members are forgotten after this long",
    },
    Setting {
        name: "offsets.retention.check.interval.ms",
        alias: None,
        default: "600000",
        kind: "MS",
        about: "How often to look for offsets to forget",
    },
    Setting {
        name: "offset.metadata.max.bytes",
        alias: None,
        default: "4096",
        kind: "BYTES",
        about: "Largest note that a consumer may keep with an offset",
    },
    Setting {
        name: "group.initial.rebalance.delay.ms",
        alias: None,
        default: "3000",
        kind: "MS",
        about: "How long the first rebalance of an empty group waits for more members",
    },
    Setting {
        name: "group.min.session.timeout.ms",
        alias: None,
        default: "6000",
        kind: "MS",
        about: "Shortest session that a group member may ask for",
    },
    Setting {
        name: "group.max.session.timeout.ms",
        alias: None,
        default: "1800000",
        kind: "MS",
        about: "Longest session that a group member may ask for",
    },
    Setting {
        name: "group.max.size",
        alias: None,
        default: "2147483647",
        kind: "N",
        about: "The most members that a group may have",
    },
    Setting {
        name: "weir.groups.per.partition.max",
        alias: None,
        default: "10000",
        kind: "N",
        about: "The most groups in one partition of __consumer_offsets; further ones are refused",
    },
    Setting {
        name: "transaction.state.log.num.partitions",
        alias: None,
        default: "50",
        kind: "N",
        about: "Partitions of __transaction_state when it is made; transactional ids are spread \
                over them",
    },
    Setting {
        name: "transaction.max.timeout.ms",
        alias: None,
        default: "900000",
        kind: "MS",
        about: "Longest transaction timeout that a producer may ask for",
    },
    Setting {
        name: "transactional.id.expiration.ms",
        alias: None,
        default: "604800000",
        kind: "MS",
        about: "A transactional id that was not used for this long is forgotten",
    },
    Setting {
        name: "weir.transactional.ids.per.partition.max",
        alias: None,
        default: "10000",
        kind: "N",
        about: "The most transactional ids in one partition of __transaction_state; further ones are refused",
    },
    Setting {
        name: "producer.id.expiration.ms",
        alias: None,
        default: "86400000",
        kind: "MS",
        about: "The last batches of a producer that has not written for this long are forgotten",
    },
    Setting {
        name: "max.incremental.fetch.session.cache.slots",
        alias: None,
        default: "1000",
        kind: "N",
        about: "Fetch sessions kept, over all shards; the oldest unused one makes room",
    },
    Setting {
        name: "socket.request.max.bytes",
        alias: None,
        default: "104857600",
        kind: "BYTES",
        about: "A connection that announces a larger request is closed",
    },
    Setting {
        name: "max.connections",
        alias: None,
        default: "2147483647",
        kind: "N",
        about: "Connections at a time, over all shards, and never more than half of the limit of open files; \
                others wait until one is closed",
    },
    Setting {
        name: "max.connections.per.ip",
        alias: None,
        default: "2147483647",
        kind: "N",
        about: "Connections at a time from one address; more are closed at once",
    },
    Setting {
        name: "max.connection.creation.rate",
        alias: None,
        default: "2147483647",
        kind: "N",
        about: "New connections a second, over all shards; those of one second may come at once, others wait",
    },
    Setting {
        name: "connections.max.idle.ms",
        alias: None,
        default: "600000",
        kind: "MS",
        about: "A connection on which nothing comes for this long, and nothing is being answered, is closed",
    },
    Setting {
        name: "queued.max.request.bytes",
        alias: None,
        default: "134217728",
        kind: "BYTES",
        about: "Requests being worked off at a time, over all shards; as much again for those of more than 1 MiB \
                while they are received, and for fetches that wait for records. Others wait in their \
                connections, and a fetch half a second at most",
    },
    Setting {
        name: "weir.queued.max.answer.bytes",
        alias: None,
        default: "134217728",
        kind: "BYTES",
        about: "Answers to fetches that clients have not taken yet, over all shards; as it is used up, fetches are \
                answered with less at a time. As much again for all other answers: beyond it large ones wait, and \
                connections that do not read theirs are closed",
    },
    Setting {
        name: "weir.clamp.replication.factor",
        alias: None,
        default: "false",
        kind: "BOOL",
        about: "A topic asked for with more replicas than there are brokers gets as many as there \
                are, instead of being refused: for programs written for a larger cluster",
    },
    Setting {
        name: "weir.record.validation",
        alias: None,
        default: "uncompressed",
        kind: "BATCHES",
        about: "Which batches are looked at record by record before they are stored: uncompressed (and what must be \
                decompressed anyway: compacted topics, another compression.type), or all, which costs the \
                decompression; topics may set weir.record.validation",
    },
    Setting {
        name: "weir.shards",
        alias: Some("shards"),
        default: "0",
        kind: "N",
        about: "Threads that serve, each with its core and ring; 0: one per core, and no more than the CPU quota of \
                the container gives time for",
    },
    Setting {
        name: "weir.tail.cache.bytes",
        alias: None,
        default: "67108864",
        kind: "BYTES",
        about: "Memory per shard that holds the newest records, taken at the start",
    },
    Setting {
        name: "weir.direct.io",
        alias: None,
        default: "true",
        kind: "BOOL",
        about: "Write past the page cache (O_DIRECT) where the file system can",
    },
];

/// The settings of a run.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub data_dirs: Vec<PathBuf>,
    /// Per shard and directory; 0: none.
    pub journal_bytes: u64,
    pub retention_check_ms: u64,
    pub listeners: Vec<ListenerSetting>,
    /// Where Prometheus may ask.
    pub metrics_listen: Option<SocketAddr>,
    pub node_id: BrokerId,
    pub num_partitions: i32,
    pub auto_create_topics: bool,
    pub message_max_bytes: u32,
    pub segment_bytes: u32,
    pub request_bytes_max: u32,
    pub connections_max: usize,
    pub connections_per_ip_max: usize,
    pub connections_per_s_max: usize,
    pub connections_idle_max: Duration,
    pub queued_request_bytes_max: usize,
    pub queued_answer_bytes_max: usize,
    pub groups: CoordinatorConfig,
    pub offsets_partitions: i32,
    pub offsets_check_ms: u64,
    pub cleaner_backoff_ms: u64,
    /// Per shard, while it compacts.
    pub cleaner_map_bytes: usize,
    /// A topic asked for with more replicas than there are brokers gets as many as there are.
    pub clamps_replication: bool,
    pub transactions: TransactionConfig,
    pub transactions_partitions: i32,
    pub producer_id_expiration_ms: i64,
    pub fetch_sessions_max: usize,
    pub shards: usize,
    pub tail_cache_bytes: usize,
    pub direct_io: bool,
    /// What was set by file or flag, by name: for DescribeConfigs.
    pub set: BTreeMap<String, String>,
}

impl Config {
    /// Builds the settings from names and values; a later value wins.
    ///
    /// # Errors
    /// An unknown name or a value out of range; the text says which and what is allowed.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let mut set = BTreeMap::new();
        for (name, value) in pairs {
            let known = SETTINGS.iter().find(|s| s.name == name || s.alias == Some(&name));
            let Some(setting) = known else {
                return Err(format!("unknown setting {name:?}{}", near(&name)));
            };
            set.insert(setting.name.to_owned(), value);
        }
        let get = |name: &str| -> &str {
            set.get(name).map_or_else(
                || SETTINGS.iter().find(|s| s.name == name).expect("declared").default,
                String::as_str,
            )
        };
        let number = |name: &str, range: std::ops::RangeInclusive<i64>| -> Result<i64, String> {
            let value = get(name);
            let parsed = value.parse::<i64>().ok().filter(|n| range.contains(n));
            parsed.ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                format!("{name}={value:?} is not a whole number from {low} to {high}")
            })
        };
        let flag = |name: &str| match get(name) {
            text if text.eq_ignore_ascii_case("true") => Ok(true),
            text if text.eq_ignore_ascii_case("false") => Ok(false),
            other => Err(format!("{name}={other:?} is neither true nor false")),
        };
        let segment = i64::from(limits::SEGMENT_BYTES_MIN)..=i64::from(limits::SEGMENT_BYTES_MAX);
        let dirs = get("log.dirs");
        let data_dirs: Vec<PathBuf> =
            dirs.split(',').map(|dir| PathBuf::from(dir.trim())).collect();
        let repeats = |dir| data_dirs.iter().filter(|other| *other == dir).count() > 1;
        if data_dirs.iter().any(|dir| dir.as_os_str().is_empty() || repeats(dir)) {
            return Err(format!(
                "log.dirs={dirs:?} is not a list of different directories, as /disk1,/disk2 is"
            ));
        }
        let journal_bytes = number("weir.journal.bytes", 0..=1 << 32)? as u64;
        if journal_bytes > 0 && journal_bytes < JOURNAL_BYTES_MIN {
            return Err(format!(
                "weir.journal.bytes={journal_bytes} is neither 0 nor at least {JOURNAL_BYTES_MIN}"
            ));
        }
        let mut read = Vec::new();
        for setting in metadata::topic_settings::TOPIC_SETTINGS {
            if let Some(name) = setting.from_broker
                && let Some(value) = set.get(name)
            {
                let value = metadata::topic_settings::read(setting.name, value)
                    .map_err(|why| format!("{name}: {why}"))?;
                read.push((name, value));
            }
        }
        let groups = CoordinatorConfig {
            session_timeout_ms_min: number("group.min.session.timeout.ms", 1..=INT_MAX)? as i32,
            session_timeout_ms_max: number("group.max.session.timeout.ms", 1..=INT_MAX)? as i32,
            initial_rebalance_delay_ms: number("group.initial.rebalance.delay.ms", 0..=INT_MAX)?
                as u64,
            group_size_max: number("group.max.size", 1..=INT_MAX)? as usize,
            groups_max: number("weir.groups.per.partition.max", 1..=INT_MAX)? as usize,
            offset_metadata_bytes_max: number("offset.metadata.max.bytes", 0..=32_000)? as usize,
            offsets_retention_ms: number("offsets.retention.minutes", 1..=INT_MAX)? * 60_000,
        };
        if groups.session_timeout_ms_min > groups.session_timeout_ms_max {
            return Err(format!(
                "group.min.session.timeout.ms={} is above group.max.session.timeout.ms={}: no \
                 member could join",
                groups.session_timeout_ms_min, groups.session_timeout_ms_max
            ));
        }
        let config = Self {
            data_dirs,
            journal_bytes,
            retention_check_ms: number("log.retention.check.interval.ms", 1..=i64::MAX)? as u64,
            listeners: listeners::read(
                get("listeners"),
                get("advertised.listeners"),
                get("listener.security.protocol.map"),
            )?,
            metrics_listen: match get("weir.metrics.listen") {
                "" => None,
                text => {
                    let endpoint = listeners::endpoint("weir.metrics.listen", text)?;
                    Some(listeners::resolve("weir.metrics.listen", &endpoint)?)
                }
            },
            node_id: BrokerId(number("node.id", 0..=i64::from(i32::MAX))? as i32),
            num_partitions: number(
                "num.partitions",
                1..=i64::from(limits::PARTITIONS_PER_TOPIC_MAX),
            )? as i32,
            auto_create_topics: flag("auto.create.topics.enable")?,
            message_max_bytes: number("message.max.bytes", 100..=64 * 1024 * 1024)? as u32,
            segment_bytes: number("log.segment.bytes", segment)? as u32,
            request_bytes_max: number(
                "socket.request.max.bytes",
                1024..=i64::from(limits::REQUEST_BYTES_MAX_DEFAULT),
            )? as u32,
            connections_max: number("max.connections", 1..=INT_MAX)? as usize,
            connections_per_ip_max: number("max.connections.per.ip", 1..=INT_MAX)? as usize,
            connections_per_s_max: number("max.connection.creation.rate", 1..=INT_MAX)? as usize,
            connections_idle_max: Duration::from_millis(number(
                "connections.max.idle.ms",
                1000..=i64::from(i32::MAX) * 1000,
            )? as u64),
            queued_request_bytes_max: number("queued.max.request.bytes", 1 << 20..=1 << 40)?
                as usize,
            queued_answer_bytes_max: number("weir.queued.max.answer.bytes", 1 << 20..=1 << 40)?
                as usize,
            groups,
            offsets_partitions: number("offsets.topic.num.partitions", 1..=10_000)? as i32,
            offsets_check_ms: number("offsets.retention.check.interval.ms", 1..=i64::MAX)? as u64,
            cleaner_backoff_ms: number("log.cleaner.backoff.ms", 1..=i64::MAX)? as u64,
            cleaner_map_bytes: number("log.cleaner.dedupe.buffer.size", 4096..=1 << 40)? as usize,
            clamps_replication: flag("weir.clamp.replication.factor")?,
            transactions: TransactionConfig {
                timeout_ms_max: number("transaction.max.timeout.ms", 1..=INT_MAX)? as i32,
                id_expiration_ms: number("transactional.id.expiration.ms", 1..=i64::MAX)?,
                ids_max: number("weir.transactional.ids.per.partition.max", 1..=INT_MAX)? as usize,
            },
            transactions_partitions: number("transaction.state.log.num.partitions", 1..=10_000)?
                as i32,
            producer_id_expiration_ms: number("producer.id.expiration.ms", 1..=i64::MAX)?,
            fetch_sessions_max: number("max.incremental.fetch.session.cache.slots", 0..=1_000_000)?
                as usize,
            shards: number("weir.shards", 0..=256)? as usize,
            tail_cache_bytes: number("weir.tail.cache.bytes", 1 << 20..=1 << 40)? as usize,
            direct_io: flag("weir.direct.io")?,
            set: BTreeMap::new(),
        };
        let at_metrics = |listener: &ListenerSetting| {
            config.metrics_listen.is_some_and(|at| at == listener.address && at.port() != 0)
        };
        if let Some(listener) = config.listeners.iter().find(|listener| at_metrics(listener)) {
            return Err(format!("weir.metrics.listen is where {} listens, too", listener.name));
        }
        // As they are kept and told.
        set.extend(read.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Ok(Self { set, ..config })
    }

    /// A setting's value as text, and whether it was set rather than default.
    #[must_use]
    pub fn value_of(&self, setting: &Setting) -> (String, bool) {
        match self.set.get(setting.name) {
            Some(value) => (value.clone(), true),
            None => (setting.default.to_owned(), false),
        }
    }
}

/// The known names that are most like this one, if any is, as an error ends.
fn near(name: &str) -> String {
    let mut names: Vec<(usize, &str)> = SETTINGS
        .iter()
        .map(|setting| (strsim::levenshtein(name, setting.name), setting.name))
        .collect();
    names.sort_unstable();
    let near = names.iter().take_while(|(distance, _)| *distance <= 1 + name.len() / 4);
    let near: Vec<&str> = near.take(3).map(|(_, name)| *name).collect();
    match near.is_empty() {
        true => "; `weir serve --help` lists all there are".to_owned(),
        false => format!("; is it {}? `weir serve --help` lists all there are", near.join(" or ")),
    }
}

/// Reads a TOML file into names and values; tables join with dots, as `log.dirs = "d"` does.
///
/// # Errors
/// Malformed TOML, or a value that is not a string, number or boolean.
pub fn pairs_of_toml(text: &str) -> Result<Vec<(String, String)>, String> {
    fn walk(
        prefix: &str,
        value: &toml::Value,
        out: &mut Vec<(String, String)>,
    ) -> Result<(), String> {
        let text = match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let name =
                        if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&name, value, out)?;
                }
                return Ok(());
            }
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Float(number) => number.to_string(),
            other => {
                let kind = other.type_str();
                return Err(format!(
                    "{prefix}: a value of the type {kind} is not expected here, but one of a string, \
                                    number or boolean"
                ));
            }
        };
        out.push((prefix.to_owned(), text));
        Ok(())
    }
    let table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
    let mut pairs = Vec::new();
    walk("", &toml::Value::Table(table), &mut pairs)?;
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Result<Config, String> {
        Config::from_pairs(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn defaults_work_and_later_values_win() {
        let port = |pairs: &[(&str, &str)]| config(pairs).unwrap().listeners[0].address.port();
        assert_eq!(port(&[]), 9092);
        let set = [("listen", "127.0.0.1:1"), ("listeners", "PLAINTEXT://127.0.0.1:2")];
        assert_eq!(port(&set), 2);
    }

    #[test]
    fn wrong_values_are_named_with_what_is_allowed() {
        for (name, value, said) in [
            ("node.id", "x", "whole number from 0"),
            ("log.segment.bytes", "5", "from 1024"),
            ("listeners", "nonsense", "HOST:PORT"),
            ("weir.metrics.listen", "nonsense", "HOST:PORT"),
            ("weir.direct.io", "maybe", "true nor false"),
            ("log.dirs", "a,,b", "different directories"),
            ("weir.journal.bytes", "5", "at least"),
            ("weir.durability", "ram", "memory"),
            ("group.min.session.timeout.ms", "1800001", "group.max.session.timeout.ms"),
            ("compression.type", "brotli", "zstd"),
            ("no.such.thing", "1", "unknown setting"),
            ("weir.metrics.listen", "127.0.0.1:9092", "where PLAINTEXT listens"),
        ] {
            let error = config(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_name_that_is_nearly_right_is_told() {
        let said = |name: &str| config(&[(name, "1")]).unwrap_err();
        assert!(said("log.segment.byte").contains("is it log.segment.bytes?"));
        assert!(said("log.retention.hour").contains("log.retention.ms"));
        assert!(!said("zookeeper.connect").contains("is it"));
    }

    #[test]
    fn toml_has_the_same_names() {
        let pairs =
            pairs_of_toml("node.id = 7\n[log]\ndirs = \"d\"\nsegment.bytes = 1048576\n").unwrap();
        let config = Config::from_pairs(pairs).unwrap();
        assert_eq!((config.node_id, config.data_dirs), (BrokerId(7), vec![PathBuf::from("d")]));
        assert!(pairs_of_toml("a = [1]").unwrap_err().contains("type array"));
    }
}
