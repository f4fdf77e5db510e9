//! `weir topic | group | config | transaction`: administration over the wire, of any Kafka cluster.
//!
//! In: flags. Out: a table or JSON on standard output. Never: anything of this process's broker.

mod config;
mod failures;
mod flags;
mod group;
mod offsets;
mod topic;
mod transaction;
mod view;

use crate::admin::view::Format;
use clap::{Args, FromArgMatches, Subcommand};
use client::Cluster;
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
