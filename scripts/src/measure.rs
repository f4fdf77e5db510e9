//! What benches measure with: a server, a run of loadgen beside it, and its numbers.

use crate::steps::{Done, top};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// What `weir` is started with.
pub(crate) const WEIR_ARGS: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

/// Runs loadgen with these arguments against a broker; what its result.json holds.
pub(crate) fn loadgen_result(
    args: &str,
    address: &str,
    broker_pid: u32,
    output: &std::path::Path,
) -> Result<String, String> {
    let status = Command::new(top().join("target/release/loadgen"))
        .args(args.split_whitespace())
        .args(["--quiet", "--bootstrap-server", address])
        .args(["--broker-pid", &broker_pid.to_string(), "--output"])
        .arg(output)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("loadgen: {error}"))?;
    let result = std::fs::read_to_string(output.join("result.json"));
    result.map_err(|_| format!("loadgen left no result: {status}"))
}

/// Runs `body` with the address, process and directory of a fresh broker.
pub(crate) fn with_weir(
    args: &[&str],
    body: impl FnOnce(&str, u32, &std::path::Path) -> Done,
) -> Done {
    with_program(&top().join("target/release/weir"), "bench", args, body)
}

/// As `with_weir`, of any program that says where it listens.
pub(crate) fn with_server(
    program: &std::path::Path,
    home: &str,
    args: &[&str],
    body: impl FnOnce(&str, u32, &std::path::Path) -> Done,
) -> Done {
    let home = top().join("target").join(home);
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    let mut server = Command::new(program)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let mut line = String::new();
    let stdout = server.stdout.take().expect("piped");
    let read = BufReader::new(stdout).read_line(&mut line);
    let done = match (read, line.trim().strip_prefix("listening on ")) {
        (Ok(_), Some(address)) => body(address, server.id(), &home),
        _ => Err(format!("{} did not start", program.display())),
    };
    let _ = server.kill();
    let _ = server.wait();
    let _ = std::fs::remove_dir_all(&home);
    done
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn number(result: &str, pointer: &str) -> Result<f64, String> {
    let json: serde_json::Value =
        serde_json::from_str(result).map_err(|error| error.to_string())?;
    let value = json.pointer(pointer).and_then(serde_json::Value::as_f64);
    value.ok_or_else(|| format!("the result has no {pointer}"))
}

/// As `with_weir`, of a broker built in another way, with its directory of that name.
pub(crate) fn with_program(
    weir: &std::path::Path,
    home: &str,
    args: &[&str],
    body: impl FnOnce(&str, u32, &std::path::Path) -> Done,
) -> Done {
    let data = top().join("target").join(home).join("data");
    let data = ["--data-dir", data.to_str().ok_or("the checkout's name is no text")?];
    with_server(weir, home, &[&WEIR_ARGS[..], args, &data].concat(), body)
}
