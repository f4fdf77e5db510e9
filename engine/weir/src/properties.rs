//! Settings from a `server.properties` of Apache Kafka: what Weir has, in Weir's words; what it cannot do is refused, and
//! what means nothing here is named.

use broker::config::{PLAINTEXT, SETTINGS};
use std::collections::BTreeMap;

/// What a file sets.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    /// Settings of Weir, by name.
    pub(crate) pairs: Vec<(String, String)>,
    /// Names that mean nothing here.
    pub(crate) ignored: Vec<String>,
}

/// Other names that Kafka has for a setting, with what a value counts in. The first that is set wins, behind the
/// setting's own name.
const SYNONYMS: [(&str, &str, i64); 5] = [
    ("broker.id", "node.id", 1),
    ("log.dir", "log.dirs", 1),
    ("log.retention.minutes", "log.retention.ms", 60_000),
    ("log.retention.hours", "log.retention.ms", 3_600_000),
    ("log.roll.hours", "log.roll.ms", 3_600_000),
];

/// What asks for security that is not there: whoever set it must not find the port open.
const SECURITY: [&str; 4] = ["sasl.", "ssl.", "authorizer.class.name", "super.users"];
/// Kafka's way to say that a setting is not used.
const UNUSED: [(&str, &str); 2] = [("queued.max.request.bytes", "-1"), ("broker.id", "-1")];
/// What Kafka listens on unless told otherwise.
const LISTENERS: &str = "PLAINTEXT://:9092";

/// Reads the text of such a file.
///
/// # Errors
/// It is malformed, or asks for what Weir cannot do; one line.
pub(crate) fn read(bytes: &[u8]) -> Result<Properties, String> {
    let found = java_properties::read(bytes).map_err(|error| error.to_string())?;
    let mut found: BTreeMap<String, String> =
        found.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect();
    for (name, value) in &found {
        let is_set = !matches!(value.as_str(), "" | "none" | "None" | "DEFAULT");
        // Of one listener as of all: listener.name.NAME.ssl.keystore.location.
        let of_listener = name.strip_prefix("listener.name.").and_then(|rest| rest.split_once('.'));
        let base = of_listener.map_or(name.as_str(), |(_, base)| base);
        let is_secure = SECURITY.iter().any(|prefix| base.starts_with(prefix))
            || (name == "security.inter.broker.protocol" && value != PLAINTEXT);
        if is_set && is_secure {
            return Err(format!(
                "{name}={value:?}: Weir has no TLS, no SASL and no ACLs; remove what asks for them if everybody who \
                 reaches the port may do everything"
            ));
        }
    }
    found.retain(|name, value| !UNUSED.contains(&(name, value)));
    without_controllers(&mut found);
    found.entry("listeners".to_owned()).or_insert_with(|| LISTENERS.to_owned());
    let mut read = Properties::default();
    for (synonym, name, unit) in SYNONYMS {
        let Some(value) = found.remove(synonym) else { continue };
        if found.contains_key(name) {
            continue;
        }
        let value = match unit {
            1 => value,
            _ => in_ms(synonym, &value, unit)?,
        };
        found.insert(name.to_owned(), value);
    }
    for (name, value) in found {
        match SETTINGS.iter().any(|setting| setting.name == name) {
            true => read.pairs.push((name, value)),
            false => read.ignored.push(name),
        }
    }
    Ok(read)
}

/// Minutes or hours in milliseconds; below zero means never.
fn in_ms(name: &str, value: &str, unit_ms: i64) -> Result<String, String> {
    let number: i64 = value.parse().map_err(|_| format!("{name}={value:?} is no whole number"))?;
    let ms = if number < 0 { Some(-1) } else { number.checked_mul(unit_ms) };
    let ms = ms.ok_or_else(|| format!("{name}={value:?} is too large"))?;
    Ok(ms.to_string())
}

/// Leaves out the listeners of the controllers: there is no quorum that would talk through them.
fn without_controllers(found: &mut BTreeMap<String, String>) {
    let Some(controllers) = found.remove("controller.listener.names") else { return };
    let controllers: Vec<String> =
        controllers.split(',').map(|name| name.trim().to_uppercase()).collect();
    let is_controller = |entry: &str, end: &str| {
        let name = entry.split_once(end).map_or(PLAINTEXT, |(name, _)| name);
        controllers.contains(&name.trim().to_uppercase())
    };
    for (setting, end) in [
        ("listeners", "://"),
        ("advertised.listeners", "://"),
        ("listener.security.protocol.map", ":"),
    ] {
        let Some(list) = found.get_mut(setting) else { continue };
        let left: Vec<&str> = list.split(',').filter(|entry| !is_controller(entry, end)).collect();
        *list = left.join(",");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> BTreeMap<String, String> {
        read(text.as_bytes()).unwrap().pairs.into_iter().collect()
    }

    #[test]
    fn the_file_of_a_fresh_kafka_is_understood() {
        let text = "# KRaft\n\
            process.roles=broker,controller\n\
            node.id = 1\n\
            controller.quorum.bootstrap.servers=localhost:9093\n\
            listeners=PLAINTEXT://:9092,CONTROLLER://:9093\n\
            inter.broker.listener.name=PLAINTEXT\n\
            advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
            controller.listener.names=CONTROLLER\n\
            listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,\\\n    SSL:SSL\n\
            num.network.threads=3\n\
            log.dirs=/tmp/kraft\\u002dlogs\n\
            num.partitions=1\n\
            log.retention.hours=168\n\
            log.segment.bytes=1073741824\n";
        let read = read(text.as_bytes()).unwrap();
        assert_eq!(
            read.ignored,
            [
                "controller.quorum.bootstrap.servers",
                "inter.broker.listener.name",
                "num.network.threads",
                "process.roles",
            ]
        );
        let pairs: BTreeMap<String, String> = read.pairs.into_iter().collect();
        for (name, value) in [
            ("node.id", "1"),
            ("listeners", "PLAINTEXT://:9092"),
            ("advertised.listeners", "PLAINTEXT://localhost:9092"),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,SSL:SSL"),
            ("log.dirs", "/tmp/kraft-logs"),
            ("log.retention.ms", "604800000"),
            ("log.segment.bytes", "1073741824"),
            ("num.partitions", "1"),
        ] {
            assert_eq!(pairs[name], value, "{name}");
        }
        assert_eq!(pairs.len(), 8);
    }

    #[test]
    fn of_several_names_the_one_that_kafka_prefers_wins() {
        let ms = "log.retention.ms";
        assert_eq!(pairs("log.retention.hours=1\nlog.retention.minutes=2")[ms], "120000");
        assert_eq!(pairs("log.retention.minutes=2\nlog.retention.ms=3")[ms], "3");
        assert_eq!(pairs("log.retention.hours=-1")[ms], "-1");
        assert_eq!(pairs("broker.id=7")["node.id"], "7");
        let unused = pairs("queued.max.request.bytes=-1\nbroker.id=-1\n");
        assert_eq!(unused.keys().collect::<Vec<_>>(), ["listeners"]);
        assert_eq!(pairs("advertised.listeners=PLAINTEXT://k:1")["listeners"], LISTENERS);
        assert_eq!(pairs("log.dir=/a\nlog.dirs=/b")["log.dirs"], "/b");
    }

    #[test]
    fn what_asks_for_security_is_refused() {
        for text in [
            "ssl.keystore.location=/k",
            "sasl.enabled.mechanisms=PLAIN",
            "authorizer.class.name=x.Y",
            "listener.name.external.ssl.keystore.location=/k",
            "security.inter.broker.protocol=SASL_SSL",
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.contains("no TLS") && error.contains('='), "{error}");
        }
        for fine in [
            "authorizer.class.name=\nssl.client.auth=none\nssl.principal.mapping.rules=DEFAULT\n",
            "security.inter.broker.protocol=PLAINTEXT\nlistener.name.plaintext.max.connections=5\n",
        ] {
            assert!(read(fine.as_bytes()).is_ok(), "{fine}");
        }
        for wrong in ["a=\\uXYZW", "log.roll.hours=x", "log.roll.hours=9223372036854775807"] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
