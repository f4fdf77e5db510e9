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
mod cli;
mod compare;
mod consumer;
mod crew;
mod durability;
mod embedded;
mod ending;
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
mod options;
mod plan;
mod producer;
mod progress;
mod report;
mod result;
mod run;
mod scenario;
mod search;
mod selftest;
mod session;
mod sink;
mod statistics;
mod sweep;
mod target;
mod verifier;

use cli::{Cli, Command};
use ending::{Ending, Failure};
use std::io::Write;
use std::process::ExitCode;

fn dispatch(cli: Cli) -> Result<Ending, Failure> {
    match cli.command {
        None => session::on_runtime(|session| run::run(cli.run, session)),
        Some(Command::Search(args)) => session::on_runtime(|session| search::run(args, session)),
        Some(Command::Sweep(args)) => session::on_runtime(|session| sweep::run(args, session)),
        Some(Command::Compare(args)) => session::on_runtime(|session| compare::run(args, session)),
        Some(Command::Durability(args)) => {
            session::on_runtime(|session| durability::run(args, session))
        }
        Some(Command::Plan(args)) => session::on_runtime(|session| plan::run(args, session)),
        Some(Command::Agent(args)) => session::on_runtime(|session| agent::serve(args, session)),
        Some(Command::Selftest(args)) => {
            session::on_runtime(|session| selftest::run(args, session))
        }
        Some(Command::Report(args)) => report::again(&args),
        Some(Command::Schema) => report::schema(),
    }
}

fn main() -> ExitCode {
    if let Some(code) = embedded::serve_if_asked().or_else(sink::serve_if_asked) {
        return code;
    }
    let ended = cli::parse(std::env::args_os()).and_then(dispatch);
    let ending = ended.unwrap_or_else(|failure| {
        let _ = writeln!(std::io::stderr(), "loadgen: {}", failure.why.trim_end());
        failure.ending
    });
    ExitCode::from(ending as u8)
}
