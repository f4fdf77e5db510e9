//! `weir topic | group | config | transaction`: administration over the wire, of any Kafka cluster.
//!
//! In: flags. Out: a table or JSON on standard output. Never: anything of this process's broker.

mod config;
mod group;
mod offsets;
mod topic;
mod transaction;
mod view;

use clap::{ArgAction, Args, FromArgMatches, Subcommand, ValueEnum};
use client::Cluster;
use model::ErrorCode;
use runtime::{Io, Runtime};
use std::io::Write;
use std::process::ExitCode;

#[derive(Subcommand)]
enum Admin {
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(topic::Verb),
    /// List and describe consumer groups, their lag and members; reset and delete offsets
    #[command(subcommand)]
    Group(group::Verb),
    /// Show and change the settings of topics; show those of brokers
    #[command(subcommand)]
    Config(config::Verb),
    /// List and describe transactions
    #[command(subcommand)]
    Transaction(transaction::Verb),
}

/// What every verb takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Where {
    /// Brokers to start from
    #[arg(
        long,
        short = 'b',
        global = true,
        env = "WEIR_BOOTSTRAP_SERVER",
        value_name = "HOST:PORT[,...]",
        default_value = "127.0.0.1:9092"
    )]
    bootstrap_server: String,
    /// How the answer is shown
    #[arg(long, global = true, value_enum, default_value = "table")]
    format: Format,
}

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// The verbs' own subcommands, for `weir`'s command line.
pub(crate) fn augment(command: clap::Command) -> clap::Command {
    // Arguments that are added bring a description of their own, which is not the command's.
    let keeping_about = |command: clap::Command, add: fn(clap::Command) -> clap::Command| {
        let about = command.get_about().cloned().unwrap_or_default();
        add(command).about(about).long_about(None::<&'static str>)
    };
    let command = keeping_about(command, Admin::augment_subcommands);
    let names = ["topic", "group", "config", "transaction"];
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |verb| keeping_about(verb, Where::augment_args))
    })
}

/// Runs the verb if it is one of these.
pub(crate) fn run(matches: &clap::ArgMatches) -> Option<ExitCode> {
    let admin = Admin::from_arg_matches(matches).ok()?;
    let (_, below) = matches.subcommand()?;
    let place = Where::from_arg_matches(below).ok()?;
    let runtime = match Runtime::new(Io::Uring) {
        Ok(runtime) => runtime,
        Err(error) => return Some(failed(&error.to_string())),
    };
    let done = runtime.block_on(async {
        let mut cluster = Cluster::open(&place.bootstrap_server, "weir-admin").await?;
        let cluster = &mut cluster;
        match admin {
            Admin::Topic(verb) => topic::run(cluster, verb, place.format).await,
            Admin::Group(verb) => group::run(cluster, verb, place.format).await,
            Admin::Config(verb) => config::run(cluster, verb, place.format).await,
            Admin::Transaction(verb) => transaction::run(cluster, verb, place.format).await,
        }
    });
    Some(match done.expect("only the twin stops") {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    })
}

fn failed(why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "weir: {why}");
    ExitCode::FAILURE
}

/// An error in words: what it was about, Kafka's name of it, and what the broker said.
fn refused(what: &str, code: i16, said: Option<&str>) -> String {
    let error = ErrorCode::from_code(code);
    let said = said.filter(|said| !said.is_empty()).unwrap_or_else(|| error.meaning());
    format!("{what}: {} ({said})", error.name())
}

/// All of them in one text, or fine.
fn all_fine(failures: Vec<String>) -> Result<(), String> {
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\nweir: ")) }
}

/// NAME=VALUE.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A flag that only looks.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct DryRun {
    /// Check, and change nothing
    #[arg(long, action = ArgAction::SetTrue)]
    dry_run: bool,
}
