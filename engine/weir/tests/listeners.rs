//! The real program with several listeners: whoever comes through one is told that one's address, in every answer that
//! names a broker; and how often connections may begin.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use common::{Broker, Client, weir};
use runtime::fs::TemporaryDir;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use wire::messages::{
    DescribeClusterRequest, DescribeClusterResponse, DescribeConfigsRequest,
    DescribeConfigsResource, DescribeConfigsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, MetadataRequest, MetadataResponse,
};

/// A program with these listeners, and where each of them is.
struct Listening {
    child: Child,
    addresses: Vec<String>,
    _dir: TemporaryDir,
}

impl Listening {
    fn start(args: &[&str]) -> Self {
        let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-test").unwrap();
        let mut all = vec!["--data-dir", dir.path().to_str().unwrap()];
        all.extend(args);
        // The line behind those of the listeners.
        all.extend(["--weir.metrics.listen", "127.0.0.1:0"]);
        let mut child = weir(&all).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let addresses =
            lines.map_while(|line| line.strip_prefix("listening on ").map(str::to_owned)).collect();
        Self { child, addresses, _dir: dir }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What every API that names brokers tells this client to connect to.
fn told(client: &mut Client) -> String {
    let metadata: MetadataResponse =
        client.ask(&MetadataRequest { topics: Some(vec![]), ..Default::default() }, 9);
    let broker = &metadata.brokers[0];
    let told = format!("{}:{}", broker.host, broker.port);
    let cluster: DescribeClusterResponse =
        client.ask(&DescribeClusterRequest { endpoint_type: 1, ..Default::default() }, 1);
    assert_eq!(told, format!("{}:{}", cluster.brokers[0].host, cluster.brokers[0].port));
    let one = FindCoordinatorRequest { key: "g".to_owned(), ..Default::default() };
    let found: FindCoordinatorResponse = client.ask(&one, 3);
    assert_eq!(told, format!("{}:{}", found.host, found.port));
    let several =
        FindCoordinatorRequest { coordinator_keys: vec!["g".to_owned()], ..Default::default() };
    let found: FindCoordinatorResponse = client.ask(&several, 4);
    let found = &found.coordinators[0];
    assert_eq!(told, format!("{}:{}", found.host, found.port));
    told
}

fn settings(client: &mut Client, names: &[&str]) -> Vec<String> {
    let resource = DescribeConfigsResource {
        resource_type: 4,
        resource_name: "1".to_owned(),
        configuration_keys: Some(names.iter().map(|name| (*name).to_owned()).collect()),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let response: DescribeConfigsResponse = client.ask(&request, 4);
    let of = |name: &&str| {
        let mut entries = response.results[0].configs.iter();
        entries.find(|entry| entry.name == **name).and_then(|entry| entry.value.clone()).unwrap()
    };
    names.iter().map(of).collect()
}

#[test]
fn each_listener_tells_its_own_address() {
    let broker = Listening::start(&[
        "--listeners",
        "INTERNAL://127.0.0.1:0,EXTERNAL://localhost:0,PLAINTEXT://127.0.0.1:0",
        "--advertised.listeners",
        "EXTERNAL://kafka.example:9094,INTERNAL://[::1]:9",
        "--listener.security.protocol.map",
        "INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT",
        "--weir.shards",
        "2",
    ]);
    let addresses = &broker.addresses;
    assert_eq!(addresses.len(), 3);
    // Several connections each: any shard may have accepted them.
    for _ in 0..4 {
        let [internal, external, own] =
            [0, 1, 2].map(|listener| told(&mut Client::connect(&addresses[listener])));
        assert_eq!([internal, external], ["::1:9", "kafka.example:9094"]);
        assert_eq!(own, addresses[2]);
    }
    let names = ["listeners", "advertised.listeners", "listener.security.protocol.map"];
    let found = settings(&mut Client::connect(&addresses[0]), &names);
    let port = |listener: usize| addresses[listener].rsplit_once(':').unwrap().1;
    let at = [port(0), port(1), port(2)];
    assert_eq!(
        found[0],
        format!(
            "INTERNAL://127.0.0.1:{},EXTERNAL://localhost:{},PLAINTEXT://127.0.0.1:{}",
            at[0], at[1], at[2]
        )
    );
    assert_eq!(
        found[1],
        format!("INTERNAL://[::1]:9,EXTERNAL://kafka.example:9094,PLAINTEXT://127.0.0.1:{}", at[2])
    );
    assert_eq!(found[2], "INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT");
}

#[test]
fn a_host_is_told_as_it_was_given_and_no_host_is_this_machine() {
    let named = Listening::start(&["--listeners", "localhost:0"]);
    let told_named = told(&mut Client::connect(&named.addresses[0]));
    assert!(told_named.starts_with("localhost:"), "{told_named}");
    let all = Listening::start(&["--listeners", "PLAINTEXT://:0"]);
    let port = all.addresses[0].rsplit_once(':').unwrap().1;
    let told_all = told(&mut Client::connect(&format!("127.0.0.1:{port}")));
    let host = runtime::process::host_name().unwrap_or_else(|| "127.0.0.1".to_owned());
    assert_eq!(told_all, format!("{host}:{port}"));
}

#[test]
fn where_it_cannot_listen_it_says_why() {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-test").unwrap();
    let data = dir.path().join("data");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (listeners, code, said) in [
        (taken.as_str(), 1, "stop what listens there"),
        ("203.0.113.5:9092", 1, "no such address"),
        ("0.0.0.0:9092", 2, "advertised.listeners"),
        ("INTERNAL://127.0.0.1:0", 2, "listener.security.protocol.map"),
        ("SSL://127.0.0.1:0", 2, "only PLAINTEXT"),
    ] {
        let args = ["--data-dir", data.to_str().unwrap(), "--listeners", listeners];
        let mut child = weir(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{listeners}: {told}");
        assert!(told.contains(said), "{listeners}: {told}");
        assert!(!data.exists(), "{listeners}: no directory is touched");
    }
}

#[test]
fn connections_begin_no_more_often_than_they_may() {
    let broker = Broker::start(&["--max.connection.creation.rate", "10", "--weir.shards", "1"]);
    let began = Instant::now();
    for _ in 0..25 {
        let _ = told(&mut broker.client());
    }
    // Ten at once, and fifteen at ten a second.
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
}

#[test]
fn who_is_killed_starts_again_at_once_on_its_port() {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-test").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.4:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let free = std::net::TcpListener::bind("127.0.0.5:0").unwrap();
    let metrics = free.local_addr().unwrap().to_string();
    drop(free);
    let args = [
        "--data-dir",
        dir.path().to_str().unwrap(),
        "--listeners",
        &address,
        "--weir.metrics.listen",
        &metrics,
    ];
    for _ in 0..5 {
        let mut child = weir(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "it starts");
        // Connections that are open and wait for answers make the kernel's work longer.
        let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(&address)).collect();
        clients.iter_mut().for_each(|client| drop(told(client)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
