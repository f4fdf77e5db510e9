//! What the program says to those who start it wrongly, and what it takes from files of others.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use common::weir;
use runtime::fs::TemporaryDir;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs it to its end: its exit code and what it says on standard error.
fn told(args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn temporary() -> TemporaryDir {
    TemporaryDir::new(&std::env::temp_dir(), "weir-test").unwrap()
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let dir = temporary();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("kafka.toml"), "listeners=PLAINTEXT://:9092\n").unwrap();
    std::fs::write(at("near.toml"), "log.segment.byte = 1\n").unwrap();
    std::fs::write(at("list.toml"), "log.dirs = [\"a\"]\n").unwrap();
    std::fs::write(at("secure.properties"), "ssl.keystore.location=/k\n").unwrap();
    std::fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink("/no/such/place", at("link")).unwrap();
    for (args, code, said) in [
        (["serve", "--log.dir", "d"], 2, "'--log.dirs'"),
        (["serve", "--config", &at("kafka.toml")], 2, ".properties"),
        (["serve", "--config", &at("near.toml")], 2, "is it log.segment.bytes?"),
        (["serve", "--config", &at("list.toml")], 2, "type array"),
        (["serve", "--config", &at("secure.properties")], 2, "no TLS"),
        (["serve", "--config", &at("none.toml")], 2, "none.toml: No such file"),
        (["serve", "--log.dirs", &at("link")], 1, "a link that leads nowhere"),
        (["serve", "--log.dirs", &at("file")], 1, "Not a directory"),
        (["inspect", "--details", &at(".")], 1, "name files in it"),
    ] {
        let (found, text) = told(&args);
        assert_eq!(found, Some(code), "{args:?}: {text}");
        assert!(text.contains(said), "{args:?}: {text}");
    }
}

#[test]
fn a_directory_that_holds_something_else_is_left_alone() {
    let dir = temporary();
    let names = |path: &Path| -> Vec<_> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    // As a directory of Apache Kafka is, and as the top of a file system is.
    for (name, is_taken) in [("meta.properties", false), ("lost+found", true), (".hidden", true)] {
        let data = dir.path().join(format!("with-{name}"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join(name), "").unwrap();
        let args = ["--log.dirs", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let mut child = weir(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.starts_with("listening on"), is_taken, "{name}");
        if !is_taken {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert!(said.contains(name) && said.contains("empty directory"), "{said}");
            assert_eq!(names(&data), [name]);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn a_server_properties_of_kafka_starts_it() {
    let dir = temporary();
    let data = dir.path().join("data");
    let file = dir.path().join("server.properties");
    let text = format!(
        "process.roles=broker,controller\nnode.id=7\n\
         listeners=PLAINTEXT://127.0.0.1:0,CONTROLLER://:9093\ncontroller.listener.names=CONTROLLER\n\
         advertised.listeners=PLAINTEXT://localhost:0,CONTROLLER://localhost:9093\n\
         log.dirs={}\nlog.retention.hours=1\nnum.io.threads=8\n",
        data.display()
    );
    std::fs::write(&file, text).unwrap();
    let args = ["--config", file.to_str().unwrap(), "--num.partitions", "3"];
    let mut child = weir(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").expect("it starts").to_owned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    let described =
        command.args(["config", "-b", &address, "describe", "broker", "7"]).output().unwrap();
    runtime::process::terminate(child.id());
    assert!(child.wait().unwrap().success());
    let described = String::from_utf8(described.stdout).unwrap();
    for (name, value) in [("log.retention.ms", "3600000"), ("num.partitions", "3")] {
        let row = described.lines().find(|line| line.starts_with(name));
        assert!(row.is_some_and(|row| row.contains(value)), "{described}");
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("ignored: num.io.threads, process.roles"), "{said}");
    assert!(data.join("superblock.0").exists());
}
