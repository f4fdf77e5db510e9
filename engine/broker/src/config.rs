//! Every setting of the broker, declared once: flags, TOML keys, `--help` and DescribeConfigs.

pub use crate::network::listeners::PLAINTEXT;
use crate::network::listeners::{self, ListenerSetting};
use Kind::{Flag, Int, Long, OfTopics, Text};
use coordinator::{CoordinatorConfig, TransactionConfig};
use metadata::topic_settings::{TOPIC_SETTINGS, TopicSetting};
use model::BrokerId;
use model::limits::{
    PARTITIONS_PER_TOPIC_MAX, REQUEST_BYTES_MAX_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Three files of at least four frames.
const JOURNAL_BYTES_MIN: u64 = 24 * 1024 * 1024;
const INT_MAX: i64 = i32::MAX as i64;
const MAX: i64 = i64::MAX;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Kafka's name where Kafka has one: the TOML key and the long flag.
    pub name: &'static str,
    /// A second, shorter flag.
    pub alias: Option<&'static str>,
    /// What it is unless set.
    pub default: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it does.
    pub about: &'static str,
}

/// What values a setting takes. The text is what `--help` calls them.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number in this range, of 32 bits in Kafka.
    Int(&'static str, i64, i64),
    /// A whole number in this range, of 64 bits in Kafka.
    Long(&'static str, i64, i64),
    /// true or false.
    Flag,
    /// Text; what it must be is checked by whoever reads it.
    Text(&'static str),
    /// What the topic setting takes that comes from it unless set.
    OfTopics(&'static str),
}

impl Kind {
    /// What `--help` calls its values.
    #[must_use]
    pub fn value_name(self) -> &'static str {
        match self {
            Self::Flag => "BOOL",
            Self::Int(name, ..)
            | Self::Long(name, ..)
            | Self::Text(name)
            | Self::OfTopics(name) => name,
        }
    }
}

macro_rules! settings {
    (@alias) => { None };
    (@alias $alias:literal) => { Some($alias) };
    ($($name:literal $(/ $alias:literal)? = $default:expr, $kind:expr, $about:literal;)*) => {
        /// The settings, in the order of `--help`.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            name: $name,
            alias: settings!(@alias $($alias)?),
            default: $default,
            kind: $kind,
            about: $about,
        },)*];
    };
}

settings! {
    "log.dirs" / "data-dir" = "weir-data", Text("DIR[,DIR]"),
    "Directories that hold the data; made if absent; partitions are spread over them";
    "listeners" / "listen" = "127.0.0.1:9092", Text("[NAME://]HOST:PORT[,...]"),
    "Addresses to listen on, PLAINTEXT unless they have a name; no host: all addresses; port 0 picks a \
     free one";
    "advertised.listeners" = "", Text("[NAME://]HOST:PORT[,...]"),
    "What the clients of each listener are told to connect to; those not named here: what they listen on";
    "listener.security.protocol.map" = "PLAINTEXT:PLAINTEXT", Text("NAME:PROTOCOL[,...]"),
    "What each listener with a name of its own is for: INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT; no other \
     protocol is served";
    "weir.metrics.listen" = "", Text("HOST:PORT"),
    "Address that answers GET /metrics, for Prometheus; empty: none";
    "node.id" = "1", Int("N", 0, INT_MAX),
    "This broker's id";
    "num.partitions" = "1", Int("N", 1, PARTITIONS_PER_TOPIC_MAX as i64),
    "Partitions of a topic that is created without saying how many";
    "auto.create.topics.enable" = "true", Flag,
    "Create a topic when a client asks for its metadata";
    "message.max.bytes" = "1048588", Int("BYTES", 100, 64 << 20),
    "Largest record batch, header included; topics may set max.message.bytes";
    "log.segment.bytes" = "1073741824", Int("BYTES", SEGMENT_BYTES_MIN as i64, SEGMENT_BYTES_MAX as i64),
    "A log file is closed before it grows beyond this; topics may set segment.bytes";
    "log.roll.ms" = "604800000", OfTopics("MS"),
    "A log file is closed once it is this old; topics may set segment.ms";
    "log.retention.ms" = "604800000", OfTopics("MS"),
    "Records older than this are deleted, -1: never; topics may set retention.ms";
    "log.retention.bytes" = "-1", OfTopics("BYTES"),
    "A partition larger than this loses its oldest log file, -1: never; topics may set retention.bytes";
    "log.retention.check.interval.ms" = "300000", Long("MS", 1, MAX),
    "How often to look for records to delete";
    "log.flush.interval.messages" = "9223372036854775807", OfTopics("N"),
    "Records are synced once this many are not, whatever acks; topics may set flush.messages";
    "log.flush.interval.ms" = "9223372036854775807", OfTopics("MS"),
    "Records are synced after this long at most, whatever acks; topics may set flush.ms";
    "weir.durability" = "acks", OfTopics("LEVEL"),
    "What is answered when: acks (0 and 1: os, all: disk), or for all of them memory, os (survives kill \
     -9) or disk (survives a power cut); topics may set weir.durability";
    "weir.journal.bytes" = "100663296", Long("BYTES", 0, 1 << 32),
    "Space per shard and directory that makes small writes of many partitions durable at once; bounds \
     what a start after a crash reads; 0: every partition syncs alone";
    "log.cleanup.policy" = "delete", OfTopics("POLICY"),
    "What happens to old records: delete, compact or both; topics may set cleanup.policy";
    "log.cleaner.backoff.ms" = "15000", Long("MS", 1, MAX),
    "How often to look for logs to compact";
    "log.cleaner.dedupe.buffer.size" = "33554432", Long("BYTES", 4096, 1 << 40),
    "Memory per shard for the keys of the log that is being compacted, 32 bytes each; if they do not fit, \
     it takes more passes";
    "compression.type" = "producer", OfTopics("CODEC"),
    "Codec that batches are kept in: producer (as sent), uncompressed, gzip, snappy, lz4 or zstd; topics \
     may set compression.type";
    "log.message.timestamp.type" = "CreateTime", OfTopics("TYPE"),
    "CreateTime or LogAppendTime; topics may set message.timestamp.type";
    "min.insync.replicas" = "1", OfTopics("N"),
    "Replicas that must be in sync for acks=all; topics may set min.insync.replicas";
    "offsets.topic.num.partitions" = "50", Int("N", 1, 10_000),
    "Partitions of __consumer_offsets when it is made; groups are spread over them";
    "offsets.retention.minutes" = "10080", Int("MINUTES", 1, INT_MAX),
    "Offsets of a group without members are forgotten after this long";
    "offsets.retention.check.interval.ms" = "600000", Long("MS", 1, MAX),
    "How often to look for offsets to forget";
    "offset.metadata.max.bytes" = "4096", Int("BYTES", 0, 32_000),
    "Largest note that a consumer may keep with an offset";
    "group.initial.rebalance.delay.ms" = "3000", Int("MS", 0, INT_MAX),
    "How long the first rebalance of an empty group waits for more members";
    "group.min.session.timeout.ms" = "6000", Int("MS", 1, INT_MAX),
    "Shortest session that a group member may ask for";
    "group.max.session.timeout.ms" = "1800000", Int("MS", 1, INT_MAX),
    "Longest session that a group member may ask for";
    "group.max.size" = "2147483647", Int("N", 1, INT_MAX),
    "The most members that a group may have";
    "weir.groups.per.partition.max" = "10000", Int("N", 1, INT_MAX),
    "The most groups in one partition of __consumer_offsets; further ones are refused";
    "transaction.state.log.num.partitions" = "50", Int("N", 1, 10_000),
    "Partitions of __transaction_state when it is made; transactional ids are spread over them";
    "transaction.max.timeout.ms" = "900000", Int("MS", 1, INT_MAX),
    "Longest transaction timeout that a producer may ask for";
    "transactional.id.expiration.ms" = "604800000", Int("MS", 1, MAX),
    "A transactional id that was not used for this long is forgotten";
    "weir.transactional.ids.per.partition.max" = "10000", Int("N", 1, INT_MAX),
    "The most transactional ids in one partition of __transaction_state; further ones are refused";
    "producer.id.expiration.ms" = "86400000", Int("MS", 1, MAX),
    "The last batches of a producer that has not written for this long are forgotten";
    "max.incremental.fetch.session.cache.slots" = "1000", Int("N", 0, 1_000_000),
    "Fetch sessions kept, over all shards; the oldest unused one makes room";
    "socket.request.max.bytes" = "104857600", Int("BYTES", 1024, REQUEST_BYTES_MAX_DEFAULT as i64),
    "A connection that announces a larger request is closed";
    "max.connections" = "2147483647", Int("N", 1, INT_MAX),
    "Connections at a time, over all shards, and never more than half of the limit of open files; others \
     wait until one is closed";
    "max.connections.per.ip" = "2147483647", Int("N", 1, INT_MAX),
    "Connections at a time from one address; more are closed at once";
    "max.connection.creation.rate" = "2147483647", Int("N", 1, INT_MAX),
    "New connections a second, over all shards; those of one second may come at once, others wait";
    "connections.max.idle.ms" = "600000", Long("MS", 1000, INT_MAX * 1000),
    "A connection on which nothing comes for this long, and nothing is being answered, is closed";
    "queued.max.request.bytes" = "134217728", Long("BYTES", 1 << 20, 1 << 40),
    "Requests being worked off at a time, over all shards; as much again for those of more than 1 MiB \
     while they are received, and for fetches that wait for records. Others wait in their connections, \
     and a fetch half a second at most";
    "weir.queued.max.answer.bytes" = "134217728", Long("BYTES", 1 << 20, 1 << 40),
    "Answers to fetches that clients have not taken yet, over all shards; as it is used up, fetches are \
     answered with less at a time. As much again for all other answers: beyond it large ones wait, and \
     connections that do not read theirs are closed";
    "weir.clamp.replication.factor" = "false", Flag,
    "A topic asked for with more replicas than there are brokers gets as many as there are, instead of \
     being refused: for programs written for a larger cluster";
    "weir.record.validation" = "uncompressed", OfTopics("BATCHES"),
    "Which batches are looked at record by record before they are stored: uncompressed (and what must be \
     decompressed anyway: compacted topics, another compression.type), or all, which costs the \
     decompression; topics may set weir.record.validation";
    "weir.shards" / "shards" = "0", Int("N", 0, 256),
    "Threads that serve, each with its core and ring; 0: one per core, and no more than the CPU quota of \
     the container gives time for";
    "weir.tail.cache.bytes" = "67108864", Long("BYTES", 1 << 20, 1 << 40),
    "Memory per shard that holds the newest records, taken at the start";
    "weir.direct.io" = "true", Flag,
    "Write past the page cache (O_DIRECT) where the file system can";
}

impl Setting {
    /// The setting of this name.
    fn of(name: &str) -> &'static Self {
        SETTINGS.iter().find(|setting| setting.name == name).expect("declared")
    }

    /// The topic setting that comes from this one.
    pub(crate) fn of_topics(&self) -> Option<&'static TopicSetting> {
        TOPIC_SETTINGS.iter().find(|topic| topic.from_broker == Some(self.name))
    }

    /// A value as it is kept and told.
    fn read(&self, value: &str) -> Result<String, String> {
        let name = self.name;
        let read = match self.kind {
            Int(_, low, high) | Long(_, low, high) => {
                let parsed = value.parse::<i64>().ok().filter(|n| (low..=high).contains(n));
                let what = || format!("is not a whole number from {low} to {high}");
                parsed.map(|n| n.to_string()).ok_or_else(what)
            }
            Flag => {
                let is = |word: &&str| value.eq_ignore_ascii_case(word);
                let found = ["true", "false"].into_iter().find(is).map(str::to_owned);
                found.ok_or_else(|| "is neither true nor false".to_owned())
            }
            Text(_) | OfTopics(_) => Ok(value.to_owned()),
        };
        let read = read.map_err(|what| format!("{name}={value:?} {what}"))?;
        match self.of_topics() {
            Some(topic) => topic.kind.read(&read).map_err(|why| format!("{name}={value:?}: {why}")),
            None => Ok(read),
        }
    }
}

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
        let mut said = BTreeMap::new();
        for (name, value) in pairs {
            let known = SETTINGS.iter().find(|s| s.name == name || s.alias == Some(&name));
            let Some(setting) = known else {
                return Err(format!("unknown setting {name:?}{}", near(&name)));
            };
            said.insert(setting.name, (setting, value));
        }
        // What is overridden is not looked at.
        let mut set = BTreeMap::new();
        for (name, (setting, value)) in said {
            set.insert(name.to_owned(), setting.read(&value)?);
        }
        let values = Values(set);
        let (get, number) = (|name| values.text(name), |name| values.number(name));
        let config = Self {
            data_dirs: values.data_dirs()?,
            journal_bytes: values.journal_bytes()?,
            retention_check_ms: number("log.retention.check.interval.ms") as u64,
            listeners: listeners::read(
                get("listeners"),
                get("advertised.listeners"),
                get("listener.security.protocol.map"),
            )?,
            metrics_listen: values.metrics_listen()?,
            node_id: BrokerId(number("node.id") as i32),
            num_partitions: number("num.partitions") as i32,
            auto_create_topics: values.flag("auto.create.topics.enable"),
            message_max_bytes: number("message.max.bytes") as u32,
            segment_bytes: number("log.segment.bytes") as u32,
            request_bytes_max: number("socket.request.max.bytes") as u32,
            connections_max: number("max.connections") as usize,
            connections_per_ip_max: number("max.connections.per.ip") as usize,
            connections_per_s_max: number("max.connection.creation.rate") as usize,
            connections_idle_max: Duration::from_millis(number("connections.max.idle.ms") as u64),
            queued_request_bytes_max: number("queued.max.request.bytes") as usize,
            queued_answer_bytes_max: number("weir.queued.max.answer.bytes") as usize,
            groups: values.groups()?,
            offsets_partitions: number("offsets.topic.num.partitions") as i32,
            offsets_check_ms: number("offsets.retention.check.interval.ms") as u64,
            cleaner_backoff_ms: number("log.cleaner.backoff.ms") as u64,
            cleaner_map_bytes: number("log.cleaner.dedupe.buffer.size") as usize,
            clamps_replication: values.flag("weir.clamp.replication.factor"),
            transactions: values.transactions(),
            transactions_partitions: number("transaction.state.log.num.partitions") as i32,
            producer_id_expiration_ms: number("producer.id.expiration.ms"),
            fetch_sessions_max: number("max.incremental.fetch.session.cache.slots") as usize,
            shards: number("weir.shards") as usize,
            tail_cache_bytes: number("weir.tail.cache.bytes") as usize,
            direct_io: values.flag("weir.direct.io"),
            set: BTreeMap::new(),
        };
        let at_metrics = |listener: &ListenerSetting| {
            config.metrics_listen.is_some_and(|at| at == listener.address && at.port() != 0)
        };
        if let Some(listener) = config.listeners.iter().find(|listener| at_metrics(listener)) {
            return Err(format!("weir.metrics.listen is where {} listens, too", listener.name));
        }
        Ok(Self { set: values.0, ..config })
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

/// What was set, each value as its setting keeps it.
struct Values(BTreeMap<String, String>);

impl Values {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or(Setting::of(name).default, String::as_str)
    }

    fn number(&self, name: &str) -> i64 {
        self.text(name).parse().expect("read as a number")
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    fn data_dirs(&self) -> Result<Vec<PathBuf>, String> {
        let dirs = self.text("log.dirs");
        let found: Vec<PathBuf> = dirs.split(',').map(|dir| PathBuf::from(dir.trim())).collect();
        let repeats = |dir| found.iter().filter(|other| *other == dir).count() > 1;
        if found.iter().any(|dir| dir.as_os_str().is_empty() || repeats(dir)) {
            return Err(format!(
                "log.dirs={dirs:?} is not a list of different directories, as /disk1,/disk2 is"
            ));
        }
        Ok(found)
    }

    fn journal_bytes(&self) -> Result<u64, String> {
        let bytes = self.number("weir.journal.bytes") as u64;
        if bytes > 0 && bytes < JOURNAL_BYTES_MIN {
            return Err(format!(
                "weir.journal.bytes={bytes} is neither 0 nor at least {JOURNAL_BYTES_MIN}"
            ));
        }
        Ok(bytes)
    }

    fn metrics_listen(&self) -> Result<Option<SocketAddr>, String> {
        let name = "weir.metrics.listen";
        match self.text(name) {
            "" => Ok(None),
            text => listeners::resolve(name, &listeners::endpoint(name, text)?).map(Some),
        }
    }

    fn groups(&self) -> Result<CoordinatorConfig, String> {
        let number = |name| self.number(name);
        let groups = CoordinatorConfig {
            session_timeout_ms_min: number("group.min.session.timeout.ms") as i32,
            session_timeout_ms_max: number("group.max.session.timeout.ms") as i32,
            initial_rebalance_delay_ms: number("group.initial.rebalance.delay.ms") as u64,
            group_size_max: number("group.max.size") as usize,
            groups_max: number("weir.groups.per.partition.max") as usize,
            offset_metadata_bytes_max: number("offset.metadata.max.bytes") as usize,
            offsets_retention_ms: number("offsets.retention.minutes") * 60_000,
        };
        if groups.session_timeout_ms_min > groups.session_timeout_ms_max {
            return Err(format!(
                "group.min.session.timeout.ms={} is above group.max.session.timeout.ms={}: no member could join",
                groups.session_timeout_ms_min, groups.session_timeout_ms_max
            ));
        }
        Ok(groups)
    }

    fn transactions(&self) -> TransactionConfig {
        TransactionConfig {
            timeout_ms_max: self.number("transaction.max.timeout.ms") as i32,
            id_expiration_ms: self.number("transactional.id.expiration.ms"),
            ids_max: self.number("weir.transactional.ids.per.partition.max") as usize,
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
        let overridden = config(&[("node.id", "x"), ("node.id", "7")]).unwrap();
        assert_eq!(overridden.node_id, BrokerId(7));
    }

    #[test]
    fn what_topics_take_over_has_its_topic_setting() {
        for setting in SETTINGS {
            let is_of_topics = matches!(setting.kind, OfTopics(_));
            assert!(!is_of_topics || setting.of_topics().is_some(), "{}", setting.name);
            assert_eq!(setting.read(setting.default).as_deref(), Ok(setting.default));
        }
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
