//! The command line: a run's options, or a command with its own.

use crate::ending::Failure;
use crate::options::args::Args;
use crate::options::scenario;
use clap::{Parser, Subcommand};
use std::ffi::OsString;

/// Offers a load on schedule (open loop), consumes it, verifies it, and reports latency from the
/// planned send time.
///
/// Exit codes: 0 fine; 1 bad usage; 2 an objective (--assert) missed; 3 records lost, repeated,
/// reordered or damaged; 4 invalid run (the generator was the bottleneck, or the rate was not
/// reached); 5 cluster unreachable or refusing; 6 a comparison found a regression; 7 an objective
/// cannot be judged; 130 interrupted.
#[derive(Parser, Debug)]
#[command(
    name = "loadgen",
    version,
    max_term_width = 110,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_precedence_over_arg = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: Args,
}

/// What to do; without a command: one run.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Find the highest rate that keeps an objective, by doubling, bisection and confirmation
    Search(crate::many::search::SearchArgs),
    /// Run every combination of some options, and show what each costs
    Sweep(crate::many::sweep::SweepArgs),
    /// Run A and B interleaved, and say with confidence intervals what differs
    Compare(crate::many::compare::CompareArgs),
    /// acks x durability x keys: throughput, latency, and what kill -9 loses of acknowledged records
    Durability(crate::many::durability::DurabilityArgs),
    /// Size a cluster from measurements of this machine, and check the prediction
    Plan(crate::many::plan::PlanArgs),
    /// Write a run's reports again, from its result.json
    Report(crate::report::ReportArgs),
    /// Offer a share of a run that another loadgen conducts (--agents)
    Agent(crate::work::agent::AgentArgs),
    /// How fast this generator is against a broker that only answers
    Selftest(crate::calibrate::selftest::SelftestArgs),
    /// Print the JSON schema of result.json
    Schema,
}

/// Reads the command line, with its scenario or workload file put in front of its flags.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Failure> {
    let args = scenario::expand(args.into_iter().collect()).map_err(Failure::usage)?;
    let cli = Cli::try_parse_from(args).map_err(|error| {
        if !error.use_stderr() {
            let _ = error.print();
            std::process::exit(0);
        }
        Failure::of_clap(&error)
    })?;
    let run = match &cli.command {
        None => Some(&cli.run),
        Some(Command::Search(args)) => Some(&args.run),
        Some(Command::Sweep(args)) => Some(&args.run),
        Some(Command::Compare(args)) => Some(&args.run),
        Some(Command::Durability(args)) => Some(&args.run),
        Some(Command::Plan(args)) => Some(&args.run),
        Some(_) => None,
    };
    run.map_or(Ok(()), Args::check).map_err(Failure::usage)?;
    Ok(cli)
}
