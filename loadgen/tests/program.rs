//! The program as its users run it: an embedded broker, exit codes, what it writes, what it notices.
#![allow(clippy::disallowed_methods)]

use runtime::fs::TemporaryDir;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Nobody listens there, and nobody is given it who asks for any port: one that was only just free
/// may be another test's a moment later.
const CLOSED: &str = "127.0.0.1:1";

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
        // The embedded broker tells where time went in it: in the measured time, and for each stage.
        let stages = json["broker_stages"].as_array().unwrap();
        let stage = |name: &str| stages.iter().find(|stage| stage["stage"] == name).unwrap();
        let requests = json["batches"]["requests"].as_u64().unwrap();
        for name in ["append", "sync", "produce", "fetch_wake_up", "send"] {
            let latency = &stage(name)["latency"];
            assert!(latency["count"].as_u64().unwrap() > 10, "{name}: {text}");
            assert!(latency["p50_ms"].as_f64().unwrap() < 10_000.0, "{name}: {text}");
        }
        let produced = stage("produce")["latency"]["count"].as_u64().unwrap();
        assert!(produced <= requests, "without the warm-up's: {produced} of {requests}");
        assert!(text.contains("in the broker (ms)"), "{text}");
    }
}

#[test]
fn metrics_that_cannot_be_read_leave_a_note_and_the_rest_of_the_report() {
    let dir = temporary();
    let mut args = words("--rate 1000 --duration 1s --warmup 200ms --quiet --broker-metrics");
    args.push(CLOSED);
    let output = loadgen(&args, &dir);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("no stages of the broker: http://{CLOSED}/metrics")), "{text}");
    let json = result(&dir);
    assert_eq!(json["broker_stages"], serde_json::json!([]), "{text}");
    assert_eq!(json["verification"]["complete"], true, "{text}");
    // Or it is told not to.
    let args =
        "--rate 1000 --duration 1s --warmup 200ms --quiet --broker-config weir.metrics.listen=";
    let output = loadgen(&words(args), &dir);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("verified: 0 lost") && !text.contains("in the broker"), "{text}");
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
    for (args, code, said) in [
        (&["--rate", "lots"][..], 1, "--rate"),
        (&["--no-such-flag"], 1, "--no-such-flag"),
        (&["--bootstrap-server", CLOSED], 5, "cannot reach broker"),
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

/// A broker of its own: this program's embedded one, on a free port.
struct OwnBroker {
    child: std::process::Child,
    address: String,
    _data: TemporaryDir,
}

impl OwnBroker {
    fn start() -> Self {
        let data = temporary();
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command
            .args(["embedded-broker", "--listeners", "127.0.0.1:0", "--log.dirs"])
            .arg(data.path());
        command.args(["--group.initial.rebalance.delay.ms", "200"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let (child, address) = listening(&mut command);
        Self { child, address, _data: data }
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program that says where it listens.
fn listening(command: &mut Command) -> (std::process::Child, String) {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    (child, address)
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn a_killed_broker_shows_its_outage_and_loses_nothing_it_promised() {
    let dir = temporary();
    let line = "--rate 2000 --partitions 3 --topics 2 --groups 2 --consumers 2 --late-groups 1 --late-after 1s \
                --duration 5s --warmup 300ms --fault kill@2s+500ms --heartbeat-interval-ms 200 \
                --key zipf:1000,1.1 --record-size lognormal:300,0.5,2000 --arrivals poisson --quiet";
    let output = loadgen(&words(line), &dir);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = result(&dir);
    let fault = &json["faults"][0];
    let outage = fault["outage_s"][1].as_f64().unwrap() - fault["outage_s"][0].as_f64().unwrap();
    assert!((0.5..4.0).contains(&outage), "{text}");
    assert!(json["latency"]["produce"]["max_ms"].as_f64().unwrap() > 500.0, "{text}");
    assert_eq!(json["verification"]["lost"], 0, "{text}");
    assert_eq!(json["verification"]["damaged"], 0, "{text}");
    assert_eq!(json["verification"]["complete"], true, "{text}");
    // Both groups saw everything: the late one from the start.
    let sent = json["throughput"]["sent_records"].as_u64().unwrap();
    assert!((9_000..11_000).contains(&sent), "{text}");
    assert_eq!(json["latency"]["end_to_end"]["count"].as_u64(), Some(2 * sent), "{text}");
    assert_eq!(json["partitions"].as_array().unwrap().len(), 6);
}

#[test]
fn a_stall_of_known_length_is_told_as_it_was() {
    let dir = temporary();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["selftest", "--rounds", "0", "--output"])
        .arg(dir.path().join("self"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let read = std::fs::read_to_string(dir.path().join("self/stall/result.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read).unwrap();
    // At every layer: the queue of the client, the request, the acknowledgement.
    for layer in ["client_queue", "service", "produce"] {
        let max = json["latency"][layer]["max_ms"].as_f64().unwrap();
        assert!((850.0..1300.0).contains(&max), "{layer}: {max}");
    }
    let late = json["latency"]["generator_lateness"]["p99_ms"].as_f64().unwrap();
    assert!(late < 100.0, "the generator went on: {late}");
    assert_eq!(json["latency"]["produce"]["count"], 20_000, "{text}");
}

#[test]
fn a_generator_that_is_too_slow_says_so_and_blames_nobody_else() {
    // gzip of so much text by one thread cannot keep the schedule.
    let dir = temporary();
    let line = "--rate 600k --partitions 4 --producers 1 --consumers 0 --duration 1s --warmup 200ms \
                --compression-type gzip --payload text --batch-size 262144 --quiet";
    let output = loadgen(&words(line), &dir);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = result(&dir);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert_eq!(json["bottleneck"], "generator", "{text}");
    assert!(text.contains("INVALID: the generator was the bottleneck"), "{text}");
    // What was planned is accounted for, sent or not.
    let (sent, unsent) = (&json["throughput"]["sent_records"], &json["unsent_records"]);
    assert_eq!(sent.as_u64().unwrap() + unsent.as_u64().unwrap(), 600_000, "{text}");
    assert_eq!(json["latency"]["produce"]["count"], 600_000, "{text}");
    assert_eq!(json["latency"]["produce"]["open"], *unsent, "{text}");
}

fn agent() -> (std::process::Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["agent", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    listening(&mut command)
}

#[test]
fn a_run_from_several_machines_adds_up() {
    let (dir, broker) = (temporary(), OwnBroker::start());
    let agents: Vec<_> = (0..2).map(|_| agent()).collect();
    let addresses: Vec<_> = agents.iter().map(|(_, address)| address.as_str()).collect();
    let addresses = addresses.join(",");
    let mut args = vec!["--bootstrap-server", &broker.address, "--agents", &addresses];
    args.extend(words("--rate 3000 --partitions 4 --producers 3 --consumers 3 --duration 2s --warmup 300ms --quiet"));
    let output = loadgen(&args, &dir);
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    for (mut agent, _) in agents {
        let _ = agent.kill();
        let _ = agent.wait();
    }
    assert!(matches!(output.status.code(), Some(0 | 4)), "{text}");
    let json = result(&dir);
    assert_eq!(json["throughput"]["sent_records"], 6000, "{text}");
    assert_eq!(json["latency"]["end_to_end"]["count"], 6000, "{text}");
    assert_eq!(json["latency"]["produce"]["count"], 6000, "{text}");
    assert_eq!(json["verification"]["lost"], 0, "{text}");
    assert_eq!(json["verification"]["complete"], true, "{text}");
    assert_eq!(json["agents"].as_array().unwrap().len(), 2);
    // An agent that is not there is named.
    let gone = ["--bootstrap-server", &broker.address, "--agents", "127.0.0.1:1", "--quiet"];
    let output = loadgen(&gone, &dir);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(5) && text.contains("agent 127.0.0.1:1"), "{text}");
}

#[test]
fn an_agent_that_dies_leaves_a_report_and_a_stranger_does_it_no_harm() {
    use std::io::Write;
    let (dir, broker) = (temporary(), OwnBroker::start());
    let (dies, stays) = (agent(), agent());
    // What is no message of ours: a length of 3.5 GB, and a short one that cannot be read.
    for bytes in [&[0xd0_u8; 64][..], b"\0\0\0\x04GET "] {
        std::net::TcpStream::connect(&stays.1).unwrap().write_all(bytes).unwrap();
    }
    // A server that is gone is passed over for the next one.
    let servers = format!("127.0.0.1:1,{}", broker.address);
    let addresses = format!("{},{}", dies.1, stays.1);
    let mut child = dies.0;
    let killer = runtime::thread::spawn("kill", None, move || {
        std::thread::sleep(Duration::from_millis(2500));
        let _ = child.kill();
        let _ = child.wait();
    })
    .unwrap();
    let mut args = vec!["--bootstrap-server", &servers, "--agents", &addresses];
    args.extend(words("--rate 1000 --partitions 4 --producers 2 --consumers 2 --duration 4s --warmup 300ms --drain-timeout 1s --quiet"));
    let output = loadgen(&args, &dir);
    killer.join().unwrap();
    let mut stays = stays.0;
    let _ = stays.kill();
    let _ = stays.wait();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{text}");
    let json = result(&dir);
    assert_eq!(json["verification"]["complete"], false, "{text}");
    let invalid = json["invalid"].to_string();
    assert!(invalid.contains("is not in the figures"), "{text}");
    // The other one's share is there.
    assert_eq!(json["throughput"]["sent_records"], 2000, "{text}");
}

#[test]
fn a_broker_that_vanishes_leaves_a_report_and_no_hang() {
    let (dir, mut broker) = (temporary(), OwnBroker::start());
    let address = broker.address.clone();
    let killer = runtime::thread::spawn("kill", None, move || {
        std::thread::sleep(Duration::from_millis(2500));
        let _ = broker.child.kill();
        let _ = broker.child.wait();
    })
    .unwrap();
    let line = "--rate 1000 --partitions 2 --duration 3s --warmup 300ms --request-timeout-ms 1500 \
                --drain-timeout 1s --quiet --assert lost==0";
    let mut args = vec!["--bootstrap-server", &address];
    args.extend(words(line));
    let output = loadgen(&args, &dir);
    killer.join().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(5), "{text}");
    let json = result(&dir);
    let sent = json["throughput"]["sent_records"].as_u64().unwrap();
    let failed = json["failed_records"].as_u64().unwrap();
    assert!(failed > 0 && failed < sent, "{text}");
    assert_eq!(json["latency"]["produce"]["open"].as_u64(), Some(failed), "{text}");
    assert_eq!(json["objectives"][0]["outcome"], "INCONCLUSIVE", "{text}");
}

#[test]
fn control_c_ends_early_and_still_reports_and_the_report_can_be_written_again() {
    let dir = temporary();
    let path = dir.path().join("result");
    let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(words("--rate 1000 --duration 60s --warmup 100ms --omb-json --output"))
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(3500));
    signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    // Not a terminal: whole lines, without control characters.
    assert!(progress.contains("planned") && !progress.contains('\x1b'), "{progress}");
    assert!(text.contains("verdict: interrupted"), "{text}");
    let before = std::fs::read_to_string(path.join("report.html")).unwrap();
    std::fs::remove_file(path.join("report.html")).unwrap();
    let again = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("report").arg(&path).output();
    assert!(again.unwrap().status.success());
    assert_eq!(std::fs::read_to_string(path.join("report.html")).unwrap(), before);
    assert!(!before.contains("http"), "the page needs nothing from elsewhere");
    let omb = std::fs::read_to_string(path.join("omb.json")).unwrap();
    let omb: serde_json::Value = serde_json::from_str(&omb).unwrap();
    assert!(omb["aggregatedEndToEndLatency99pct"].as_f64().unwrap() > 0.0);
    // The schema names every field of the result, and nothing is left out of it.
    let schema = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    let result = result(&dir);
    for name in result.as_object().unwrap().keys() {
        assert!(schema["properties"][name].is_object(), "{name}");
    }
}

#[test]
fn commands_of_many_runs_leave_their_tables() {
    let dir = temporary();
    let run = |line: &str, name: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(words(line))
            .arg("--output")
            .arg(dir.path().join(name))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(dir.path().join(path)).unwrap()).unwrap()
    };
    let (code, text) = run(
        "search --from 200 --max 400 --confirm 1 --assert e2e.p50<=5s --duration 700ms --warmup 100ms",
        "search",
    );
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(json("search/search.json")["confirmed_rate"], 400.0, "{text}");
    let (code, text) = run(
        "sweep --vary partitions=1,2 --vary acks=1,all --rate 300 --duration 400ms --warmup 100ms",
        "sweep",
    );
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(json("sweep/sweep.json")["points"].as_array().unwrap().len(), 4, "{text}");
    let page = std::fs::read_to_string(dir.path().join("sweep/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("acks=all"), "charts by option");
    // What is wrong is told before the first run.
    let (code, text) = run("sweep --vary partitions=1,none --rate 300", "bad");
    assert!(code == Some(1) && text.contains("--partitions"), "{text}");
    let too_few = "search --from 100 --max 100 --assert e2e.p99<=5s --duration 200ms --warmup 0s";
    let (code, text) = run(too_few, "few");
    assert!(code == Some(7) && text.contains("raise --duration"), "{text}");
    let (code, text) = run(
        "compare --rounds 2 --rate 300 --duration 400ms --warmup 100ms --acks=1 --acks=all",
        "compare",
    );
    assert!(code == Some(1) && text.contains("A"), "both sides must be given: {text}");
}

#[test]
fn a_topic_that_is_not_what_was_asked_for_is_refused_and_a_missed_objective_has_its_code() {
    let (dir, broker) = (temporary(), OwnBroker::start());
    let run = |line: &str| {
        let mut args = vec!["--bootstrap-server", &broker.address, "--topic", "there", "--quiet"];
        args.extend(words(line));
        let output = loadgen(&args, &dir);
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    };
    let make = "--partitions 2 --topic-config retention.ms=5000 --keep-topic --rate 500 --duration 1s \
                --warmup 100ms --assert produce.p50<=0ms --assert lost==0";
    let (code, text) = run(make);
    // A machine that stumbles makes the run invalid, which weighs more.
    assert!(matches!(code, 2 | 4), "{code} {text}");
    let json = result(&dir);
    assert_eq!(json["objectives"][0]["outcome"], "FAIL", "{text}");
    assert_eq!(json["objectives"][1]["outcome"], "PASS", "{text}");
    assert_eq!(json["topic_settings"]["retention.ms"], "5000");
    let (code, text) = run("--partitions 3");
    assert!(code == 1 && text.contains("has 2 partitions, not --partitions 3"), "{text}");
    let (code, text) = run("--topic-config retention.ms=6000");
    assert!(code == 1 && text.contains("retention.ms=5000, not 6000"), "{text}");
    let (code, text) = run("--topic-config no.such.setting=1");
    assert!(code == 1 && text.contains("no.such.setting"), "{text}");
}
