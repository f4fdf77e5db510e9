//! The broker's log: one line per event on standard error.

/// Writes one line: time, level, text.
pub(crate) fn line(level: &str, text: &str) {
    use std::io::Write;
    let ms = runtime::clock::unix_ms();
    let (days, second) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000) / 1000);
    // Civil date from days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s, ms) = (second / 3600, second / 60 % 60, second % 60, ms.rem_euclid(1000));
    let stamp = format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z");
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
