//! The broker's log: one line per event on standard error, written by a thread of its own.
//!
//! Whoever has something to say never waits for whoever reads it: what does not fit the queue is dropped and counted,
//! and of many lines of one cause the first ones are written.

use runtime::clock::{self, Nanos};
use runtime::thread;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that wait to be written.
const QUEUE_LINES: usize = 4096;
/// Lines of one cause, and one peer where there is one, that each thread writes in `QUIET`.
const LINES_MAX: u64 = 10;
const QUIET: Duration = Duration::from_secs(10);
/// As long as the end of the process waits for whoever reads.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Causes and peers that a thread tells apart.
const CAUSES_MAX: usize = 1000;

enum Entry {
    Line(String),
    /// Tells that everything before is written.
    Flush(SyncSender<()>),
}

struct Log {
    queue: SyncSender<Entry>,
    dropped: AtomicU64,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// From now on lines are written by a thread. Before, and in programs that end soon, whoever has one writes it.
///
/// # Errors
/// No thread could be started.
pub(crate) fn start() -> Result<(), String> {
    let (queue, lines) = sync_channel(QUEUE_LINES);
    if LOG.set(Log { queue, dropped: AtomicU64::new(0) }).is_ok() {
        let spawned = thread::spawn("weir-log", None, move || write_for_ever(&lines));
        spawned.map_err(|error| format!("cannot start a thread: {error}"))?;
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tell(panic);
            flush();
        }));
    }
    Ok(())
}

fn write_for_ever(lines: &Receiver<Entry>) {
    // A closed standard error is no reason to stop serving.
    let write = |text: &str| drop(std::io::stderr().lock().write_all(text.as_bytes()));
    while let Ok(entry) = lines.recv() {
        let done = match entry {
            Entry::Line(text) => {
                write(&text);
                None
            }
            Entry::Flush(done) => Some(done),
        };
        let dropped = LOG.get().map_or(0, |log| log.dropped.swap(0, Ordering::Relaxed));
        if dropped > 0 {
            let why = format!("{dropped} lines were dropped: whoever reads this log is too slow");
            write(&formatted("WARN", &why));
        }
        if let Some(done) = done {
            let _ = done.try_send(());
        }
    }
}

/// Waits until everything said so far is written, or until nobody seems to read it.
pub fn flush() {
    let Some(log) = LOG.get() else { return };
    let until = clock::now() + FLUSH_MAX;
    while clock::now() < until {
        let (done, is_done) = sync_channel(1);
        // A full queue has no place for it either: a moment later it may.
        match log.queue.try_send(Entry::Flush(done)) {
            Ok(()) => {
                let _ = is_done.recv_timeout(FLUSH_MAX);
                return;
            }
            Err(full) => {
                let _ = is_done.recv_timeout(Duration::from_millis(10));
                drop(full);
            }
        }
    }
}

fn formatted(level: &str, text: &str) -> String {
    let stamp = storage::tools::inspect::time_of(clock::unix_ms());
    format!("{stamp} {level} {text}\n")
}

/// Writes one line: time, level, text.
pub fn line(level: &str, text: &str) {
    let text = formatted(level, text);
    if runtime::world::say(&text) {
        return;
    }
    match LOG.get() {
        Some(log) => {
            if log.queue.try_send(Entry::Line(text)).is_err() {
                log.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => drop(std::io::stderr().lock().write_all(text.as_bytes())),
    }
}

/// How often something was said lately.
struct Said {
    since: Nanos,
    lines: u64,
}

thread_local! {
    static SAID: RefCell<BTreeMap<(&'static str, Option<IpAddr>), Said>> = const { RefCell::new(BTreeMap::new()) };
}

/// As `line`, but for what is said too often: the first lines of each cause and peer in ten seconds, and then how many
/// more there were.
pub(crate) fn limited(
    level: &str,
    cause: &'static str,
    peer: Option<SocketAddr>,
    text: impl FnOnce() -> String,
) {
    let now = clock::now();
    let key = (cause, peer.map(|peer| peer.ip()));
    let before = SAID.with_borrow_mut(|said| {
        if said.len() >= CAUSES_MAX {
            said.retain(|_, said| now < said.since + QUIET);
        }
        // Of peers beyond those that are told apart, all together.
        let key =
            if said.len() >= CAUSES_MAX && !said.contains_key(&key) { (cause, None) } else { key };
        let said = said.entry(key).or_insert(Said { since: now, lines: 0 });
        let mut more = 0;
        if now >= said.since + QUIET {
            more = said.lines.saturating_sub(LINES_MAX);
            *said = Said { since: now, lines: 0 };
        }
        said.lines += 1;
        (said.lines <= LINES_MAX).then_some(more)
    });
    match before {
        Some(0) => line(level, &text()),
        Some(more) => line(level, &format!("{} ({more} more like it were not written)", text())),
        None => {}
    }
}

macro_rules! info {
    ($($arg:tt)*) => { $crate::observe::logging::line("INFO", &format!($($arg)*)) };
}
macro_rules! warning {
    ($($arg:tt)*) => { $crate::observe::logging::line("WARN", &format!($($arg)*)) };
}
macro_rules! error {
    ($($arg:tt)*) => { $crate::observe::logging::line("ERROR", &format!($($arg)*)) };
}
/// What clients can cause as often as they like: of this peer, or of all where it is not known.
macro_rules! warning_of {
    ($peer:expr, $($arg:tt)*) => {
        $crate::observe::logging::limited("WARN", concat!(file!(), ":", line!()), $peer, || format!($($arg)*))
    };
}
pub(crate) use {error, info, warning, warning_of};

/// What an operator can do about it.
pub(crate) fn remedy(error: &storage::StorageError) -> &'static str {
    match error {
        storage::StorageError::Corrupt { .. } => {
            "; restore it from a backup, or look at it with `weir repair` and let it cut what is lost"
        }
        _ => "",
    }
}
