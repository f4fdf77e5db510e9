//! `loadgen`: offers a Kafka-compatible cluster a load on schedule, and reports honestly what came of it.
//!
//! Latency counts from the planned send time of each record, whatever delayed it; every record is
//! numbered, so loss, repetition and reordering are seen; a run in which loadgen itself was the
//! bottleneck is reported as invalid.
#![forbid(unsafe_code)]

mod agent;
mod args;
mod assertions;
mod broker_stages;
mod compare;
mod consumer;
mod crew;
mod durability;
mod embedded;
mod envelope;
mod environment;
mod faults;
mod histogram;
mod judge;
mod lag;
mod layout;
mod load;
mod member;
mod monitor;
mod plan;
mod producer;
mod report;
mod result;
mod run;
mod scenario;
mod search;
mod selftest;
mod sink;
mod statistics;
mod sweep;
mod target;
mod verifier;

use args::{Cli, Command};
use std::io::Write;
use std::process::ExitCode;

/// How a run ended, as the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Fine = 0,
    BadUsage = 1,
    ObjectiveMissed = 2,
    RecordsLostOrRepeated = 3,
    Invalid = 4,
    Unreachable = 5,
    Regression = 6,
    Inconclusive = 7,
    Interrupted = 130,
}

impl Ending {
    const ALL: [Self; 9] = [
        Self::Fine,
        Self::BadUsage,
        Self::ObjectiveMissed,
        Self::RecordsLostOrRepeated,
        Self::Invalid,
        Self::Unreachable,
        Self::Regression,
        Self::Inconclusive,
        Self::Interrupted,
    ];

    /// The ending with this exit code.
    fn of(code: i32) -> Self {
        Self::ALL.into_iter().find(|ending| *ending as i32 == code).unwrap_or(Self::Invalid)
    }

    /// The last line of a report.
    fn verdict(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::BadUsage => "BAD USAGE",
            Self::ObjectiveMissed => "OBJECTIVE MISSED",
            Self::RecordsLostOrRepeated => "RECORDS LOST, REPEATED, REORDERED OR DAMAGED",
            Self::Invalid => "INVALID RUN",
            Self::Unreachable => "THE CLUSTER DOES NOT ANSWER",
            Self::Regression => "REGRESSION",
            Self::Inconclusive => "AN OBJECTIVE CANNOT BE JUDGED",
            Self::Interrupted => "interrupted; the figures cover what ran",
        }
    }
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

fn dispatch(cli: Cli) -> Result<Ending, Failure> {
    match cli.command {
        None => run::on_runtime(|session| run::run(cli.run, session)),
        Some(Command::Search(args)) => run::on_runtime(|session| search::run(args, session)),
        Some(Command::Sweep(args)) => run::on_runtime(|session| sweep::run(args, session)),
        Some(Command::Compare(args)) => run::on_runtime(|session| compare::run(args, session)),
        Some(Command::Durability(args)) => {
            run::on_runtime(|session| durability::run(args, session))
        }
        Some(Command::Plan(args)) => run::on_runtime(|session| plan::run(args, session)),
        Some(Command::Agent(args)) => run::on_runtime(|session| agent::serve(args, session)),
        Some(Command::Selftest(args)) => run::on_runtime(|session| selftest::run(args, session)),
        Some(Command::Report(args)) => report::again(&args),
        Some(Command::Schema) => report::schema(),
    }
}

fn main() -> ExitCode {
    if let Some(code) = embedded::serve_if_asked().or_else(sink::serve_if_asked) {
        return code;
    }
    let ended = args::parse(std::env::args_os()).and_then(dispatch);
    let ending = ended.unwrap_or_else(|failure| {
        let _ = writeln!(std::io::stderr(), "loadgen: {}", failure.why.trim_end());
        failure.ending
    });
    ExitCode::from(ending as u8)
}
