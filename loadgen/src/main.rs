//! `loadgen`: offers a Kafka-compatible cluster a load on schedule, and reports honestly what came of it.
//!
//! Latency counts from the planned send time of each record, whatever delayed it; every record is
//! numbered, so loss, repetition and reordering are seen; a run in which loadgen itself was the
//! bottleneck is reported as invalid.
#![forbid(unsafe_code)]

mod args;
mod consumer;
mod embedded;
mod envelope;
mod histogram;
mod member;
mod producer;
mod report;
mod run;
mod schedule;
mod verifier;

use std::io::Write;
use std::process::ExitCode;

/// How a run ended, as the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Fine = 0,
    BadUsage = 1,
    RecordsLostOrRepeated = 3,
    Invalid = 4,
    Unreachable = 5,
    Interrupted = 130,
}

/// An error that ends the program: what went wrong and how it exits.
#[derive(Debug)]
struct Failure {
    ending: Ending,
    why: String,
}

impl Failure {
    fn unreachable(why: impl Into<String>) -> Self {
        Self { ending: Ending::Unreachable, why: why.into() }
    }

    fn usage(why: impl Into<String>) -> Self {
        Self { ending: Ending::BadUsage, why: why.into() }
    }
}

fn main() -> ExitCode {
    if let Some(code) = embedded::serve_if_asked() {
        return code;
    }
    let ended = args::parse(std::env::args_os()).and_then(run::run);
    let ending = ended.unwrap_or_else(|failure| {
        let _ = writeln!(std::io::stderr(), "loadgen: {}", failure.why.trim_end());
        failure.ending
    });
    ExitCode::from(ending as u8)
}
