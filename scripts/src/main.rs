//! `cargo xtask`: one verb per job. Run from anywhere in the checkout.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods)]

mod bench;
mod check;
mod compat;
mod steps;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "xtask", about = "What developers of Weir run")]
struct Xtask {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything CI runs: tidy, fmt, clippy, tests, real clients
    Check {
        /// Leave out the real clients
        #[arg(long)]
        without_compat: bool,
    },
    /// The house's own rules: dependency directions, first lines, sizes, leftovers
    Tidy,
    /// Real clients against a real broker: produce, consume, restart, kill -9
    Compat,
    /// The storage rig with one seed, or with many
    Sim {
        /// The seed to repeat
        seed: Option<u64>,
    },
    /// Whole-system measurements, as ratios in one run: floor, sink
    Bench {
        /// Which
        #[arg(value_parser = ["floor", "sink"])]
        scenario: String,
        /// Rounds, interleaved; medians are shown
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
}

fn main() -> ExitCode {
    let done = match Xtask::parse().verb {
        Verb::Check { without_compat } => check::run(without_compat),
        Verb::Tidy => tidy::run(),
        Verb::Compat => compat::run(),
        Verb::Sim { seed } => check::sim(seed),
        Verb::Bench { scenario, rounds } => bench::run(&scenario, rounds),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
