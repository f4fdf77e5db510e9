//! `weir topic | group | config | transaction` as people use them: tables, JSON, exit codes.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{Broker, batch};
use serde_json::Value;
use std::process::{Command, Output};
use wire::messages::{
    OffsetCommitPartition, OffsetCommitRequest, OffsetCommitResponse, OffsetCommitTopic,
};

fn weir(address: &str, args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(args.split_whitespace())
        .env("WEIR_BOOTSTRAP_SERVER", address)
        .output()
        .unwrap()
}

/// What it prints when it succeeds.
fn done(broker: &Broker, args: &str) -> String {
    let output = weir(&broker.address, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(broker: &Broker, args: &str) -> Value {
    serde_json::from_str(&done(broker, &format!("{args} --format json"))).unwrap()
}

/// What it says when the cluster refuses.
fn refused(broker: &Broker, args: &str) -> String {
    let output = weir(&broker.address, args);
    assert_eq!(output.status.code(), Some(1), "{args}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn topics_are_made_shown_changed_and_deleted() {
    let broker = Broker::start(&[]);
    done(&broker, "topic create t --partitions 2 --config retention.ms=1000 --dry-run");
    assert_eq!(json(&broker, "topic list"), serde_json::json!([]));
    done(&broker, "topic create t --partitions 2 --config retention.ms=1000");
    assert!(refused(&broker, "topic create t").contains("TOPIC_ALREADY_EXISTS"));
    done(&broker, "topic create t --if-not-exists");
    assert!(refused(&broker, "topic create a/b").contains("INVALID_TOPIC_EXCEPTION"));
    assert!(refused(&broker, "topic create u -c nope=1").contains("unknown topic setting nope"));
    let (error, _) = broker.client().produce("t", -1, &batch(7, 100)).unwrap();
    assert_eq!(error, 0);
    done(&broker, "topic alter t --partitions 3");
    assert!(refused(&broker, "topic alter t --partitions 1").contains("INVALID_PARTITIONS"));
    let shown = json(&broker, "topic describe t");
    assert_eq!(shown[0]["settings"]["retention.ms"], "1000");
    let partitions = shown[0]["partitions"].as_array().unwrap();
    assert_eq!((partitions.len(), &partitions[0]["end"]), (3, &Value::from(7)));
    assert!(partitions[0]["bytes"].as_i64().unwrap() > 700);
    done(&broker, "topic trim t --partition 0 --offset 5");
    let shown = json(&broker, "topic describe t");
    assert_eq!(shown[0]["partitions"][0]["start"], 5);
    let table = done(&broker, "topic list");
    assert!(table.starts_with("TOPIC  PARTITIONS  REPLICAS  INTERNAL\n"), "{table}");
    done(&broker, "topic delete t");
    assert!(refused(&broker, "topic delete t").contains("UNKNOWN_TOPIC_OR_PARTITION"));
    done(&broker, "topic delete t --if-exists");
    assert!(refused(&broker, "topic describe t").contains("UNKNOWN_TOPIC_OR_PARTITION"));
}

#[test]
fn settings_are_shown_with_their_source_and_changed() {
    let broker = Broker::start(&["--log.retention.ms", "5000"]);
    done(&broker, "topic create t");
    done(&broker, "config set topic t compression.type=lz4 max.message.bytes=5000");
    let shown = json(&broker, "config describe topic t");
    let sources: Vec<_> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["source"].as_str().unwrap()))
        .collect();
    let expected =
        [("compression.type", "topic"), ("max.message.bytes", "topic"), ("retention.ms", "broker")];
    assert_eq!(sources, expected);
    done(&broker, "config unset topic t compression.type");
    assert!(refused(&broker, "config set topic t retention.ms=soon").contains("INVALID_CONFIG"));
    assert!(refused(&broker, "config set broker 1 node.id=2").contains("restart"));
    let all = json(&broker, "config describe topic t --all --documentation");
    assert!(all.as_array().unwrap().len() > 15);
    assert!(all.as_array().unwrap().iter().all(|row| row["about"].as_str().unwrap().len() > 5));
    let of_broker = json(&broker, "config describe broker 1");
    assert!(of_broker.to_string().contains("log.retention.ms"));
}

#[test]
fn lag_is_shown_and_offsets_are_moved_only_when_told_to() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.create("t", 2);
    for _ in 0..3 {
        client.produce("t", -1, &batch(10, 50)).unwrap();
    }
    let partition = OffsetCommitPartition { committed_offset: 12, ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: "g".to_owned(),
        topics: vec![OffsetCommitTopic { name: "t".to_owned(), partitions: vec![partition] }],
        ..Default::default()
    };
    let kept: OffsetCommitResponse = client.ask(&request, 7);
    assert_eq!(kept.topics[0].partitions[0].error_code, 0);
    let lag = |broker: &Broker| {
        let shown = json(broker, "group describe g");
        let row = &shown[0];
        (row["current_offset"].as_i64(), row["log_end_offset"].as_i64(), row["lag"].as_i64())
    };
    assert_eq!(lag(&broker), (Some(12), Some(30), Some(18)));
    assert_eq!(json(&broker, "group list")[0]["state"], "Empty");
    // A look changes nothing.
    let looked = json(&broker, "group reset-offsets g --shift-by -2");
    assert_eq!(looked[0]["new_offset"], 10);
    assert_eq!(lag(&broker).0, Some(12));
    for (to, offset) in [
        ("--shift-by -2", 10),
        ("--to-earliest", 0),
        ("--to-latest", 30),
        ("--to-offset 99", 30),
        ("--to-datetime 2001-01-01", 30),
        ("--to-datetime 1970-01-01T00:00:01.003Z", 3),
    ] {
        done(&broker, &format!("group reset-offsets g --topic t:0 {to} --execute"));
        assert_eq!(lag(&broker).0, Some(offset), "{to}");
    }
    assert!(
        refused(&broker, "group reset-offsets g --topic t:7 --to-latest").contains("partition 7")
    );
    let output = weir(&broker.address, "group reset-offsets g --to-latest --to-earliest");
    assert_eq!(output.status.code(), Some(2), "one aim at a time");
    done(&broker, "group delete-offsets g --topic t:0");
    assert!(refused(&broker, "group describe g").contains("GROUP_ID_NOT_FOUND"));
    assert!(refused(&broker, "group delete g").contains("GROUP_ID_NOT_FOUND"));
    assert_eq!(json(&broker, "transaction list"), serde_json::json!([]));
    assert!(refused(&broker, "transaction describe x").contains("TRANSACTIONAL_ID_NOT_FOUND"));
}

#[test]
fn an_unreachable_cluster_is_named() {
    let output = weir("127.0.0.1:1", "topic list");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot reach broker 127.0.0.1:1"), "{said}");
    let script = weir("", "completion bash");
    assert!(script.status.success() && script.stdout.len() > 10_000);
}

#[test]
fn each_command_says_what_it_is_for() {
    for (command, says) in [
        (&["--help"][..], "A Kafka-compatible broker"),
        (&["topic", "--help"], "Create, list, describe"),
        (&["group", "--help"], "List and describe consumer groups"),
        (&["config", "--help"], "Show and change the settings"),
        (&["transaction", "--help"], "List and describe transactions"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with(says), "{command:?}: {text}");
    }
}
