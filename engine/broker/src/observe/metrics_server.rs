//! `GET /metrics`, for Prometheus: what this broker counted, over as little HTTP as that takes.

use crate::observe::logging::warning_of;
use crate::observe::{request_counts, stages};
use crate::shard::node::Node;
use runtime::buffer::SharedBytes;
use runtime::notify::Notify;
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
use runtime::socket::{Listener, Socket};
use runtime::{clock, spawn, timer, watch};
use std::cell::Cell;
use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::directory::log_manager::SharedDir;

/// A request that is longer is not one of Prometheus.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Who has not asked and read by then is let go.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
/// Connections at a time; others wait for their turn.
const AT_A_TIME: usize = 16;

/// Answers everyone who connects, for ever.
pub(crate) async fn serve(node: Arc<Node>, listener: Listener) {
    let places = Rc::new(Notify::default());
    let taken = Rc::new(Cell::new(0));
    loop {
        places.until(|| (taken.get() < AT_A_TIME).then_some(())).await;
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                warning_of!(None, "metrics: cannot accept a connection: {error}");
                timer::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        taken.set(taken.get() + 1);
        let (node, places, taken) = (Arc::clone(&node), Rc::clone(&places), Rc::clone(&taken));
        spawn(async move {
            let until = clock::now() + SERVED_WITHIN;
            let _ = timer::before(Some(until), answer(&node, &socket)).await;
            socket.shutdown();
            taken.set(taken.get() - 1);
            places.notify();
        });
    }
}

async fn answer(node: &Node, socket: &Socket) {
    let mut pool = ReceivePool::new(4 * REQUEST_BYTES_MAX, 0);
    let mut buffer = ReceiveBuffer::new(&mut pool);
    let ended = |bytes: &[u8]| bytes.windows(4).any(|four| four == b"\r\n\r\n");
    while !ended(buffer.bytes()) && buffer.bytes().len() < REQUEST_BYTES_MAX {
        buffer.make_room(1, &mut pool);
        if !socket.receive(&mut buffer, 0).await.is_ok_and(|received| received > 0) {
            return;
        }
    }
    let (status, body) = respond(node, buffer.bytes());
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut pieces = vec![SharedBytes::copy_of(head.as_bytes())];
    // Who asks for the head alone is told how long the rest would be.
    if !buffer.bytes().starts_with(b"HEAD ") {
        pieces.push(SharedBytes::copy_of(body.as_bytes()));
    }
    let _ = socket.send(&mut pieces).await;
}

/// Status line and body for a request's bytes, whatever they are.
fn respond(node: &Node, request: &[u8]) -> (&'static str, String) {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some(target), Some(version)) if version.starts_with("HTTP/1.") => {
            // A proxy names the host as well (RFC 9112, 3.2.2).
            let path = target
                .strip_prefix("http://")
                .map_or(target, |named| named.find('/').map_or("/", |at| &named[at..]));
            match path.split('?').next() {
                Some("/metrics") => ("200 OK", metrics(node)),
                _ => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
            }
        }
        _ => ("400 Bad Request", "expected: GET /metrics HTTP/1.1\n".to_owned()),
    }
}

/// A name of a file as the value of a label.
fn label(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What is so now: each with its labels and values.
fn put_gauges(node: &Node, out: &mut String) {
    let mut family = |name: &str, about: &str, values: &[(String, f64)]| {
        let _ = writeln!(out, "# HELP {name} {about}\n# TYPE {name} gauge");
        for (labels, value) in values {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let one = |value: f64| [(String::new(), value)];
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("weir_build_info", "The program that runs.", &[(version, 1.0)]);
    family(
        "weir_connections",
        "Connections of clients.",
        &one(node.open_files.connections() as f64),
    );
    let most = node.open_files.connections_max as f64;
    family("weir_connections_max", "As many connections as there may be.", &one(most));
    let of_dirs = |value: &dyn Fn(&SharedDir) -> Option<f64>| -> Vec<(String, f64)> {
        let of = |dir: &SharedDir| Some((format!("{{dir=\"{}\"}}", label(&dir.path)), value(dir)?));
        node.dirs.iter().filter_map(of).collect()
    };
    let offline = of_dirs(&|dir| Some(f64::from(u8::from(dir.health.is_offline()))));
    family("weir_directory_offline", "Whether a data directory failed.", &offline);
    let space = |dir: &SharedDir| runtime::fs::space(&dir.path).ok();
    let total = of_dirs(&|dir| space(dir).map(|(total, _)| total as f64));
    family("weir_directory_total_bytes", "Size of a data directory's file system.", &total);
    let usable = of_dirs(&|dir| space(dir).map(|(_, usable)| usable as f64));
    family("weir_directory_free_bytes", "Free space for a data directory.", &usable);
    let began = node.began_unix_ms as f64 / 1000.0;
    family("process_start_time_seconds", "When it began, since the Unix epoch.", &one(began));
    if let Some((open, most)) = runtime::process::open_files() {
        family("process_open_fds", "Open files and connections.", &one(open as f64));
        family("process_max_fds", "As many as there may be.", &one(most as f64));
    }
}

fn metrics(node: &Node) -> String {
    let mut out = String::new();
    put_gauges(node, &mut out);
    request_counts::put_counts(&node.requests, &mut out);
    stages::put_histograms(&node.stages, &mut out);
    let io = runtime::process_io_counters();
    for (name, about, count) in [
        ("weir_io_submissions_total", "Operations submitted to io_uring.", io.submissions),
        ("weir_io_enters_total", "Calls of io_uring_enter.", io.enters),
        ("weir_io_writes_total", "Writes to files.", io.writes),
        ("weir_io_written_bytes_total", "Bytes of these writes.", io.written_bytes),
        ("weir_io_syncs_total", "Syncs of files, and writes that sync themselves.", io.syncs),
    ] {
        let _ = writeln!(out, "# HELP {name} {about}\n# TYPE {name} counter\n{name} {count}");
    }
    let name = "weir_long_turns_total";
    let about = "Turns in which a shard kept everybody waiting for longer than so many ms.";
    let _ = writeln!(out, "# HELP {name} {about}\n# TYPE {name} counter");
    for (length_ms, count) in watch::LENGTHS_MS.iter().zip(watch::long_turns()) {
        let _ = writeln!(out, "{name}{{over_ms=\"{length_ms}\"}} {count}");
    }
    if let Some(usage) = runtime::process::usage(std::process::id()) {
        let cpu = usage.user_s + usage.system_s;
        let _ = writeln!(
            out,
            "# HELP process_cpu_seconds_total CPU time.\n# TYPE process_cpu_seconds_total counter\n\
             process_cpu_seconds_total {cpu}\n# HELP process_resident_memory_bytes Resident memory.\n\
             # TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}",
            usage.resident_bytes
        );
    }
    out
}
