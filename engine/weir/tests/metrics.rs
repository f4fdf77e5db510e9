//! What Prometheus is told, and who else may knock there.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, batch};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use wire::ApiKey;
use wire::fetch::{FetchAsk, FetchLimits, put_request};

fn asked(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // What was not read of a request may reset the connection behind the answer.
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..length]);
    }
    String::from_utf8(answer).unwrap()
}

fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// A free port of an address of this machine on which nothing else here listens or connects: on the
/// usual one another test's broker may be given it before this one's.
fn free_on(address: &str) -> String {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().to_string()
}

#[test]
fn every_stage_of_a_request_is_told_with_how_long_it_took() {
    let free = free_on("127.0.0.2");
    let broker = Broker::start(&["--weir.metrics.listen", &free, "--weir.shards", "2"]);
    let mut client = broker.client();
    client.create("t", 4);
    let records = batch(3, 300);
    let batches: Vec<_> = (0..4).map(|partition| (partition, &records[..])).collect();
    for acks in [1, -1] {
        for _ in 0..10 {
            let frame = client.produce_frame("t", acks, &batches);
            client.send(&frame);
            assert!(client.receive().is_some());
        }
    }
    // A fetch that waits, of every partition, is answered by the next append.
    let mut waiting = broker.client();
    let limits = FetchLimits {
        max_wait_ms: 20_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 20,
        read_committed: false,
    };
    let asks = [0, 1, 2, 3].map(|partition| FetchAsk { partition, offset: 60 });
    let frame = waiting.frame(ApiKey::Fetch, 12, |out| {
        put_request(out, 12, limits, "t", model::TopicId::ZERO, &asks);
    });
    waiting.send(&frame);
    std::thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    let frame = client.produce_frame("t", -1, &batches);
    client.send(&frame);
    assert!(client.receive().is_some() && waiting.receive().is_some());
    assert!(began.elapsed() < Duration::from_secs(10));
    let answer = asked(&free, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, metrics) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let count = |stage: &str| {
        let (count, sum) = ["count", "sum"]
            .map(|what| value(metrics, &format!("weir_stage_seconds_{what}{{stage=\"{stage}\"}}")))
            .into();
        assert!(sum > 0.0 && sum < 60.0 * count, "{stage}: {sum} s in {count}");
        let all = format!("weir_stage_seconds_bucket{{stage=\"{stage}\",le=\"+Inf\"}}");
        assert_eq!(value(metrics, &all), count);
        count
    };
    assert_eq!(count("produce"), 21.0);
    assert!(count("append") >= 21.0 && count("shard_queue") >= 21.0);
    assert!(count("write") >= 10.0 && count("sync") >= 11.0 && count("send") >= 23.0);
    assert_eq!(count("fetch_wake_up"), 1.0);
    assert!(value(metrics, "weir_io_syncs_total") >= 11.0);
    assert!(value(metrics, "process_resident_memory_bytes") > 1e6);
    assert_eq!(value(metrics, "weir_requests_total{api=\"Produce\"}"), 21.0);
    assert_eq!(value(metrics, "weir_requests_total{api=\"Fetch\"}"), 1.0);
    assert_eq!(value(metrics, "weir_connections"), 2.0);
    assert!(value(metrics, "weir_connections_max") > 2.0);
    assert!(value(metrics, "process_open_fds") > 4.0);
    assert!(value(metrics, "process_max_fds") > value(metrics, "process_open_fds"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let age = now.as_secs_f64() - value(metrics, "process_start_time_seconds");
    assert!((0.0..600.0).contains(&age), "{age}");
    let dir = broker.dir.path().display();
    assert_eq!(value(metrics, &format!("weir_directory_offline{{dir=\"{dir}\"}}")), 0.0);
    let bytes =
        |what: &str| value(metrics, &format!("weir_directory_{what}_bytes{{dir=\"{dir}\"}}"));
    assert!(bytes("free") > 0.0 && bytes("free") <= bytes("total"));
}

#[test]
fn whoever_is_not_prometheus_gets_an_error_and_harms_nobody() {
    let free = free_on("127.0.0.3");
    let broker = Broker::start(&["--weir.metrics.listen", &free]);
    // More than are served at a time: they say nothing and are let go.
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(&free).unwrap()).collect();
    drop(silent);
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "400"),
        (b"\xff\xfe\x00\r\n\r\n", "400"),
        (&[b'x'; 20_000], "400"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", "200"),
        (b"GET /metrics?name=x HTTP/1.1\r\n\r\n", "200"),
        (b"GET http://somewhere:9/metrics HTTP/1.1\r\n\r\n", "200"),
        (b"GET http://somewhere HTTP/1.1\r\n\r\n", "404"),
        (b"GET /metricsx HTTP/1.1\r\n\r\n", "404"),
    ] {
        let answer = asked(&free, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:.80}");
    }
    let head = asked(&free, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    broker.client().create("t", 1);
}
