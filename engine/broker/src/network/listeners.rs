//! Where the broker listens, and what the clients of each listener are told: Kafka's `listeners`,
//! `advertised.listeners` and `listener.security.protocol.map`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// The one protocol that is served.
pub const PLAINTEXT: &str = "PLAINTEXT";
/// Names that Kafka maps to themselves unless told otherwise; also the protocols there are.
const PROTOCOLS: [&str; 4] = [PLAINTEXT, "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

/// One listener as it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSetting {
    /// Its name, in capitals.
    pub name: String,
    /// The host as it was given; empty: all addresses.
    pub host: String,
    /// What it resolves to.
    pub address: SocketAddr,
    /// What its clients are told to connect to; `None`: what it listens on. Port 0: the port listened on.
    pub advertised: Option<Endpoint>,
}

/// A host, without brackets, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Reads the three settings.
///
/// # Errors
/// What is wrong with which of them; one line.
pub(crate) fn read(
    listeners: &str,
    advertised: &str,
    protocols: &str,
) -> Result<Vec<ListenerSetting>, String> {
    let protocols = protocol_map(protocols)?;
    let mut told = BTreeMap::new();
    for (name, endpoint) in named("advertised.listeners", advertised)? {
        let is_all = endpoint.host.is_empty()
            || endpoint.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified());
        if is_all {
            return Err(format!(
                "advertised.listeners={advertised:?} has {endpoint}, no address that clients can connect to: name \
                 this machine as they know it"
            ));
        }
        told.insert(name, endpoint);
    }
    let mut found: Vec<ListenerSetting> = Vec::new();
    for (name, endpoint) in named("listeners", listeners)? {
        let of = format!("listeners={listeners:?}");
        match protocols.get(&name).map(String::as_str) {
            Some(PLAINTEXT) => {}
            Some(protocol) => {
                return Err(format!(
                    "{of}: {name} is a listener for {protocol}, and only PLAINTEXT is served"
                ));
            }
            None => {
                return Err(format!(
                    "{of}: nothing says what {name} is for: add {name}:PLAINTEXT to listener.security.protocol.map"
                ));
            }
        }
        let address = resolve(&of, &endpoint)?;
        let overlaps = |other: &&ListenerSetting| {
            let (one, other) = (address.ip(), other.address.ip());
            one == other || one.is_unspecified() || other.is_unspecified()
        };
        let mut at_port = found.iter().filter(|f| f.address.port() == address.port());
        if let Some(other) = at_port.find(overlaps)
            && address.port() != 0
        {
            let other = &other.name;
            return Err(format!("{of}: {other} and {name} listen on the same address and port"));
        }
        let advertised = told.remove(&name);
        // Kafka refuses these two as well: nobody could connect to what is told.
        if advertised.is_none() && !endpoint.host.is_empty() && address.ip().is_unspecified() {
            return Err(format!(
                "{of}: {name} listens on all addresses: say in advertised.listeners to which one clients are to \
                 connect, as {name}://this-machine.example:{} is",
                endpoint.port
            ));
        }
        found.push(ListenerSetting { name, host: endpoint.host, address, advertised });
    }
    if found.is_empty() {
        return Err(format!("listeners={listeners:?} names no listener"));
    }
    match told.keys().next() {
        None => Ok(found),
        Some(name) => Err(format!(
            "advertised.listeners={advertised:?}: there is no listener {name}; listeners={listeners:?}"
        )),
    }
}

/// A list of endpoints with the names of their listeners.
fn named(setting: &str, text: &str) -> Result<Vec<(String, Endpoint)>, String> {
    let mut found: Vec<(String, Endpoint)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, address) = part.split_once("://").unwrap_or((PLAINTEXT, part));
        let name = name.to_ascii_uppercase();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("{setting}={text:?}: {name:?} is no name of a listener"));
        }
        if found.iter().any(|(other, _)| *other == name) {
            return Err(format!(
                "{setting}={text:?}: several are called {name}; give each a name of its own, as \
                 INTERNAL://:29092,EXTERNAL://:9092 does"
            ));
        }
        found.push((name, endpoint(setting, address)?));
    }
    Ok(found)
}

/// Reads `HOST:PORT`.
///
/// # Errors
/// It is none; one line.
pub(crate) fn endpoint(setting: &str, text: &str) -> Result<Endpoint, String> {
    let is_not =
        || format!("{setting}={text:?} is not HOST:PORT, as 127.0.0.1:9092 or [::1]:9092 is");
    let (host, port) = text.rsplit_once(':').ok_or_else(is_not)?;
    let port = port.parse().map_err(|_| is_not())?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match inner {
        Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
        None if !host.contains([':', '[', ']', '/', ' ', '\t']) => host,
        _ => return Err(is_not()),
    };
    Ok(Endpoint { host: host.to_owned(), port })
}

/// The address of an endpoint; of an empty host all addresses.
///
/// # Errors
/// It cannot be resolved; one line.
pub(crate) fn resolve(of: &str, endpoint: &Endpoint) -> Result<SocketAddr, String> {
    let host = if endpoint.host.is_empty() { "0.0.0.0" } else { &endpoint.host };
    let found = (host, endpoint.port).to_socket_addrs();
    let mut found = found.map_err(|error| format!("{of}: {host} cannot be resolved: {error}"))?;
    found.next().ok_or_else(|| format!("{of}: {host} has no address"))
}

/// `NAME:PROTOCOL` pairs; the four protocols stand for themselves.
fn protocol_map(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut map: BTreeMap<String, String> =
        PROTOCOLS.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let of = format!("listener.security.protocol.map={text:?}");
        let (name, protocol) = pair.split_once(':').ok_or_else(|| {
            format!("{of}: {pair:?} is not NAME:PROTOCOL, as INTERNAL:PLAINTEXT is")
        })?;
        let protocol = protocol.trim().to_uppercase();
        if !PROTOCOLS.contains(&protocol.as_str()) {
            let known = PROTOCOLS.join(", ");
            return Err(format!("{of}: {protocol:?} is no protocol; Kafka's are {known}"));
        }
        map.insert(name.trim().to_uppercase(), protocol);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,SECURE:SSL";

    #[test]
    fn each_listener_tells_its_own_address() {
        let found = read(
            "INTERNAL://127.0.0.1:1, external://[::1]:2,PLAINTEXT://localhost:0",
            "EXTERNAL://kafka.example:9",
            MAP,
        );
        let found = found.unwrap();
        let names: Vec<&str> = found.iter().map(|listener| listener.name.as_str()).collect();
        assert_eq!(names, ["INTERNAL", "EXTERNAL", "PLAINTEXT"]);
        assert_eq!(found[1].address, "[::1]:2".parse().unwrap());
        let told = found[1].advertised.clone().unwrap();
        assert_eq!(told, Endpoint { host: "kafka.example".to_owned(), port: 9 });
        assert_eq!(found[2].host, "localhost");
        assert!(found[0].advertised.is_none() && found[2].advertised.is_none());
    }

    #[test]
    fn addresses_are_taken_as_clients_are_told_them() {
        let told =
            |text: &str| read("[::1]:7", text, "").map(|mut f| f.remove(0).advertised.unwrap());
        let is = |host: &str, port| Ok(Endpoint { host: host.to_owned(), port });
        assert_eq!(told("PLAINTEXT://[::1]:9092"), is("::1", 9092));
        assert_eq!(told("kafka.example:9"), is("kafka.example", 9));
        for wrong in [
            "::1",
            "::1:9092",
            "[x]:1",
            "0.0.0.0:9092",
            ":9092",
            "[::]:1",
            "[::ffff:0.0.0.0]:1",
            "a b:1",
            "a:1,b:2",
            "SSL://a:1",
        ] {
            assert!(told(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read(":7", "", "").unwrap()[0].address, "0.0.0.0:7".parse().unwrap());
        assert_eq!(Endpoint { host: "::1".to_owned(), port: 9092 }.to_string(), "[::1]:9092");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (listeners, advertised, map, said) in [
            ("nonsense", "", "", "HOST:PORT"),
            ("", "", "", "names no listener"),
            ("SSL://h:1", "", "", "only PLAINTEXT"),
            ("SECURE://127.0.0.1:1", "", MAP, "only PLAINTEXT"),
            ("INTERNAL://127.0.0.1:1", "", "", "INTERNAL:PLAINTEXT"),
            ("127.0.0.1:1,127.0.0.1:2", "", "", "name of its own"),
            ("INTERNAL://127.0.0.1:1,EXTERNAL://127.0.0.1:1", "", MAP, "same address"),
            ("INTERNAL://[::]:1,EXTERNAL://:1", "INTERNAL://a:1", MAP, "same address"),
            ("INTERNAL://127.0.0.1:1,EXTERNAL://:1", "", MAP, "same address"),
            ("127.0.0.1:1", "EXTERNAL://a:1", MAP, "no listener EXTERNAL"),
            ("0.0.0.0:9092", "", "", "advertised.listeners"),
            ("[::]:9092", "", "", "advertised.listeners"),
            ("127.0.0.1:1", "", "A:TLS", "no protocol"),
            ("127.0.0.1:1", "", "A", "NAME:PROTOCOL"),
            ("A B://127.0.0.1:1", "", "", "no name"),
            ("http://127.0.0.1:1/", "", "HTTP:PLAINTEXT", "HOST:PORT"),
        ] {
            let error = read(listeners, advertised, map).unwrap_err();
            assert!(error.contains(said), "{listeners} {advertised} {map}: {error}");
        }
    }
}
