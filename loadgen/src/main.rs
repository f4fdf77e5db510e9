//! `loadgen`: offers a Kafka-compatible cluster a load on schedule, and reports honestly what came of it.
//!
//! Latency counts from the planned send time of each record, whatever delayed it; every record is
//! numbered, so loss, repetition and reordering are seen; a run in which loadgen itself was the
//! bottleneck is reported as invalid.
#![forbid(unsafe_code)]

mod calibrate;
mod ending;
mod judge;
mod load;
mod many;
mod options;
mod report;
mod run;
mod work;

use crate::calibrate::{selftest, sink};
use crate::ending::{Ending, Failure};
use crate::many::{compare, durability, plan, search, sweep};
use crate::options::cli::{self, Cli, Command};
use crate::run::session::on_runtime;
use crate::run::{embedded, execute};
use crate::work::agent;
use std::io::Write;
use std::process::ExitCode;

fn dispatch(cli: Cli) -> Result<Ending, Failure> {
    match cli.command {
        None => on_runtime(|session| execute::run(cli.run, session)),
        Some(Command::Search(args)) => on_runtime(|session| search::run(args, session)),
        Some(Command::Sweep(args)) => on_runtime(|session| sweep::run(args, session)),
        Some(Command::Compare(args)) => on_runtime(|session| compare::run(args, session)),
        Some(Command::Durability(args)) => on_runtime(|session| durability::run(args, session)),
        Some(Command::Plan(args)) => on_runtime(|session| plan::run(args, session)),
        Some(Command::Agent(args)) => on_runtime(|session| agent::serve(args, session)),
        Some(Command::Selftest(args)) => on_runtime(|session| selftest::run(args, session)),
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
