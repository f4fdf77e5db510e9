//! The broker's log: one line per event on standard error.

/// Writes one line: time, level, text.
pub(crate) fn line(level: &str, text: &str) {
    use std::io::Write;
    let stamp = storage::inspect::time_of(runtime::clock::unix_ms());
    // A closed standard error is no reason to stop serving.
    let _ = writeln!(std::io::stderr().lock(), "{stamp} {level} {text}");
}

macro_rules! info {
    ($($arg:tt)*) => { $crate::logging::line("INFO", &format!($($arg)*)) };
}
macro_rules! warning {
    ($($arg:tt)*) => { $crate::logging::line("WARN", &format!($($arg)*)) };
}
macro_rules! error {
    ($($arg:tt)*) => { $crate::logging::line("ERROR", &format!($($arg)*)) };
}
pub(crate) use {error, info, warning};
