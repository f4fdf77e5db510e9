//! The program as its users run it: an embedded broker, exit codes, what it writes, what it notices.
#![allow(clippy::disallowed_methods)]

use runtime::fs::TemporaryDir;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn loadgen(args: &[&str], output: &TemporaryDir) -> Output {
    let result = output.path().join("result");
    let _ = std::fs::remove_dir_all(&result);
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(args)
        .arg("--output")
        .arg(&result)
        .output()
        .unwrap()
}

fn result(output: &TemporaryDir) -> serde_json::Value {
    let text = std::fs::read_to_string(output.path().join("result/result.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn temporary() -> TemporaryDir {
    TemporaryDir::new(&std::env::temp_dir(), "loadgen-test").unwrap()
}

#[test]
fn one_command_runs_verifies_and_reports() {
    let dir = temporary();
    for codec in ["none", "zstd"] {
        let args = [
            "--rate",
            "5000",
            "--partitions",
            "4",
            "--duration",
            "2s",
            "--warmup",
            "500ms",
            "--compression-type",
            codec,
            "--key",
            "uniform:1000",
            "--seed",
            "7",
            "--quiet",
        ];
        let output = loadgen(&args, &dir);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = result(&dir);
        // A busy machine may make the run invalid; it must never lose or repeat a record.
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 4)), "{code:?} {text}");
        assert_eq!(json["exit_code"], code.unwrap());
        for kind in ["lost", "duplicated", "out_of_order", "damaged"] {
            assert_eq!(json["verification"][kind], 0, "{kind}: {text}");
        }
        assert_eq!(json["verification"]["complete"], true, "{text}");
        assert_eq!(json["throughput"]["offered_records"], 10_000);
        assert_eq!(json["throughput"]["sent_records"], 10_000, "{text}");
        assert_eq!(json["latency"]["end_to_end"]["count"], 10_000, "{text}");
        assert!(json["resources"]["broker"]["resident_peak_bytes"].as_u64().unwrap() > 1 << 20);
        for file in [
            "report.txt",
            "report.md",
            "report.html",
            "scenario.toml",
            "produce.hlog",
            "end_to_end.hlog",
            "lag.csv",
        ] {
            let bytes = std::fs::read(dir.path().join("result").join(file)).unwrap();
            assert!(bytes.len() > 40, "{file}");
        }
        assert!(text.contains("verified: 0 lost, 0 duplicated"), "{text}");
    }
}

#[test]
fn groups_grow_and_shrink_and_see_everything_once() {
    let dir = temporary();
    let args = "--rate 2000 --partitions 6 --groups 2 --consumers 3 --scale-consumers --duration 4s \
                --warmup 500ms --heartbeat-interval-ms 100 --fetch-max-wait-ms 50 --quiet";
    let output = loadgen(&args.split_whitespace().collect::<Vec<_>>(), &dir);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = result(&dir);
    assert!(matches!(output.status.code(), Some(0 | 4)), "{text}");
    for kind in ["lost", "duplicated", "out_of_order", "damaged", "redelivered"] {
        assert_eq!(json["verification"][kind], 0, "{kind}: {text}");
    }
    assert_eq!(json["verification"]["complete"], true, "{text}");
    // Each group saw every record.
    assert_eq!(json["latency"]["end_to_end"]["count"], 2 * 8000, "{text}");
    // Two groups that went from one to three members and back again: everyone moved several times.
    let moved = json["verification"]["assignments"].as_u64().unwrap();
    assert!(moved >= 2 * (1 + 2 + 3), "{moved}: {text}");
}

#[test]
fn endings_have_their_exit_codes_and_one_clear_line() {
    let dir = temporary();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (args, code, said) in [
        (&["--rate", "lots"][..], 1, "--rate"),
        (&["--no-such-flag"], 1, "--no-such-flag"),
        (&["--bootstrap-server", &closed], 5, "cannot reach broker"),
        (&["--bootstrap-server", "no-such-host.invalid:1"], 5, "cannot reach broker"),
        (&["--replication-factor", "3", "--quiet"], 5, "INVALID_REPLICATION_FACTOR"),
    ] {
        let output = loadgen(args, &dir);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(said) && !text.contains("panicked"), "{args:?}: {text}");
    }
}

#[test]
fn a_stall_of_the_broker_shows_in_the_percentiles() {
    // The classic lie: a tool that waits for the broker times few records during a stall. Here a
    // 900 ms stall in 4 s must show: more than a fifth of all records was planned in it.
    let dir = temporary();
    let data = temporary();
    let mut broker = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    broker.args(["embedded-broker", "--listeners", "127.0.0.1:0", "--log.dirs"]).arg(data.path());
    broker.args(["--group.initial.rebalance.delay.ms", "200"]);
    broker.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = broker.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    let pid = child.id();
    let stopper = runtime::thread::spawn("stall", None, move || {
        // The program's own head start and warm-up are about a second and a half.
        std::thread::sleep(Duration::from_millis(2900));
        signal(pid, "STOP");
        std::thread::sleep(Duration::from_millis(900));
        signal(pid, "CONT");
    })
    .unwrap();
    let args = [
        "--bootstrap-server",
        &address,
        "--rate",
        "2000",
        "--partitions",
        "2",
        "--duration",
        "4s",
        "--warmup",
        "1s",
        "--quiet",
    ];
    let output = loadgen(&args, &dir);
    stopper.join().unwrap();
    let _ = child.kill();
    let _ = child.wait();
    let json = result(&dir);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let p90 = json["latency"]["produce"]["p90_ms"].as_f64().unwrap();
    assert!(p90 > 200.0, "a stall of 900 ms is in the p90: {text}");
    assert_eq!(json["throughput"]["sent_records"], 8000, "the schedule does not slow down: {text}");
    assert_eq!(json["verification"]["lost"], 0, "{text}");
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}
