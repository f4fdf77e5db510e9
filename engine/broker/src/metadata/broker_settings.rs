//! The broker's settings as programs ask for them: Kafka's names, types and sources; beside our own settings those that
//! say how this broker is, whatever anybody sets.

use crate::config::{Kind, SETTINGS, Setting};
use crate::network::listeners::Endpoint;
use crate::shard::node::{Node, ServedListener};
use metadata::in_force::Source;
use wire::messages::{DescribeConfigsEntry, DescribeConfigsSynonym};

const BOOLEAN: i8 = 1;
const STRING: i8 = 2;
const INT: i8 = 3;
const SHORT: i8 = 4;
const LONG: i8 = 5;
const DOUBLE: i8 = 6;
const LIST: i8 = 7;

/// What is asked for of every Kafka broker and cannot be set here: name, type, value.
const FIXED: [(&str, i8, Option<&str>); 23] = [
    ("authorizer.class.name", STRING, Some("")),
    ("controlled.shutdown.enable", BOOLEAN, Some("true")),
    ("default.replication.factor", INT, Some("1")),
    ("delete.topic.enable", BOOLEAN, Some("true")),
    ("inter.broker.listener.name", STRING, None),
    ("log.cleaner.delete.retention.ms", LONG, Some("86400000")),
    ("log.cleaner.enable", BOOLEAN, Some("true")),
    ("log.cleaner.max.compaction.lag.ms", LONG, Some("9223372036854775807")),
    ("log.cleaner.min.cleanable.ratio", DOUBLE, Some("0.5")),
    ("log.cleaner.min.compaction.lag.ms", LONG, Some("0")),
    ("log.cleaner.threads", INT, Some("1")),
    ("log.message.timestamp.after.max.ms", LONG, Some("3600000")),
    ("log.message.timestamp.before.max.ms", LONG, Some("9223372036854775807")),
    ("log.retention.hours", INT, Some("168")),
    ("log.retention.minutes", INT, None),
    ("log.roll.hours", INT, Some("168")),
    ("offsets.topic.replication.factor", SHORT, Some("1")),
    ("process.roles", LIST, Some("broker,controller")),
    ("replica.lag.time.max.ms", LONG, Some("30000")),
    ("security.inter.broker.protocol", STRING, Some("PLAINTEXT")),
    ("transaction.state.log.min.isr", INT, Some("1")),
    ("transaction.state.log.replication.factor", SHORT, Some("1")),
    ("unclean.leader.election.enable", BOOLEAN, Some("false")),
];

/// The protocol's number of a setting's type (DescribeConfigs v3).
fn type_of(setting: &Setting) -> i8 {
    match (setting.kind, setting.of_topics()) {
        (_, Some(topic)) => topic.kind.code(),
        (Kind::Int(..), _) => INT,
        (Kind::Long(..), _) => LONG,
        (Kind::Flag, _) => BOOLEAN,
        (Kind::Text(_) | Kind::OfTopics(_), None) => STRING,
    }
}

/// Addresses of listeners as Kafka writes them.
fn endpoints(listeners: &[ServedListener], of: impl Fn(&ServedListener) -> &Endpoint) -> String {
    let each: Vec<String> =
        listeners.iter().map(|listener| format!("{}://{}", listener.name, of(listener))).collect();
    each.join(",")
}

/// Every setting, in the order of their names.
pub(crate) fn all(node: &Node, documentation: bool, synonyms: bool) -> Vec<DescribeConfigsEntry> {
    let of = |setting: &Setting| {
        let (value, is_set) = node.config.value_of(setting);
        let value = match setting.name {
            "listeners" => endpoints(&node.listeners, |listener| &listener.at),
            "advertised.listeners" => endpoints(&node.listeners, |listener| &listener.advertised),
            _ => value,
        };
        let synonym = |value: &str, source| DescribeConfigsSynonym {
            name: setting.name.to_owned(),
            value: Some(value.to_owned()),
            source,
        };
        let set = is_set.then(|| synonym(&value, Source::Broker.code()));
        let default = synonym(setting.default, Source::Default.code());
        DescribeConfigsEntry {
            name: setting.name.to_owned(),
            read_only: true,
            config_source: if is_set { Source::Broker.code() } else { Source::Default.code() },
            synonyms: match synonyms {
                true => set.into_iter().chain([default]).collect(),
                false => Vec::new(),
            },
            config_type: type_of(setting),
            documentation: documentation.then(|| setting.about.to_owned()),
            value: Some(value),
            ..Default::default()
        }
    };
    let fixed = |(name, config_type, value): &(&str, i8, Option<&str>)| DescribeConfigsEntry {
        name: (*name).to_owned(),
        value: value.map(str::to_owned),
        read_only: true,
        config_source: Source::Default.code(),
        config_type: *config_type,
        documentation: documentation.then(|| "How this broker is: it cannot be set".to_owned()),
        ..Default::default()
    };
    let own_id = ("broker.id", INT, node.config.node_id.to_string());
    let id = fixed(&(own_id.0, own_id.1, Some(own_id.2.as_str())));
    let mut entries: Vec<_> =
        SETTINGS.iter().map(of).chain(FIXED.iter().map(fixed)).chain([id]).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_is_told_twice() {
        for (name, ..) in FIXED {
            assert!(SETTINGS.iter().all(|setting| setting.name != name), "{name}");
        }
    }

    #[test]
    fn listeners_are_told_as_kafka_writes_them() {
        let served = |name: &str, host: &str, port| ServedListener {
            name: name.to_owned(),
            at: Endpoint { host: host.to_owned(), port },
            advertised: Endpoint { host: "db.example".to_owned(), port },
        };
        let listeners = [served("PLAINTEXT", "::1", 9092), served("EXTERNAL", "", 9)];
        let at = endpoints(&listeners, |listener| &listener.at);
        assert_eq!(at, "PLAINTEXT://[::1]:9092,EXTERNAL://:9");
        let told = endpoints(&listeners, |listener| &listener.advertised);
        assert_eq!(told, "PLAINTEXT://db.example:9092,EXTERNAL://db.example:9");
    }
}
