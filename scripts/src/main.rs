//! `cargo xtask`: one verb per job. Run from anywhere in the checkout.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods)]

mod bench;
mod check;
mod compat;
mod connect;
mod cores;
mod differential;
mod edits;
mod exactly_once;
mod java_suites;
mod java_tools;
mod kafka;
mod kgo;
mod many;
mod measure;
mod mutants;
mod peers;
mod profile;
mod python;
mod regressions;
mod results;
mod soak;
mod started;
mod steps;
mod structure;
mod suites;
mod tail;
mod tansu;
mod tidy;
mod versus;

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
    /// Everything CI runs: tidy, fmt, clippy, tests, counts of work, a quarter of the mutants, real clients
    Check {
        /// Leave out the real clients
        #[arg(long)]
        without_compat: bool,
    },
    /// The house's own rules: dependency directions, first lines, sizes, leftovers
    Tidy,
    /// Real clients against a real broker: produce, consume, restart, kill -9; or a client's own suite
    Compat {
        /// A suite that a client's authors wrote, fetched from its registry
        #[arg(value_parser = suites::SUITES)]
        suite: Option<String>,
        /// Only its tests whose name holds this
        #[arg(default_value = "")]
        only: String,
    },
    /// Thousands of requests, valid and not, to Weir and to Apache Kafka: the same answers and effects (needs Java
    /// and Maven)
    Differential {
        /// Of the requests
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many
        #[arg(long, default_value_t = 3000)]
        runs: u64,
        /// Tell only differences of this API
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Every attack that is a test, on the program as it is released: what each did, and the longest wait beside it
    Attack,
    /// A simulated rig with one seed, or with many
    Sim {
        /// Which: storage on a failing disk, consumer groups, transactions, or compaction
        #[arg(long, default_value = "storage", value_parser = mutants::RIGS)]
        rig: String,
        /// The seed to repeat
        seed: Option<u64>,
        /// How many seeds, from 0 on
        #[arg(long, default_value_t = 1000)]
        runs: u64,
    },
    /// kill -9 of the real program under load, again and again
    Kill {
        /// How often
        #[arg(long, default_value_t = 200)]
        cycles: u64,
        /// Of the load
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// A job in transactions while its workers and the broker are killed; its history is checked
    ExactlyOnce {
        /// Seconds of kills
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Of the kills
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Power cuts under ext4, XFS and btrfs, on a device that remembers every write (needs root)
    PowerCut {
        /// Crash images to build, mount and check
        #[arg(long, default_value_t = 200)]
        images: u64,
        /// Of the load and the images
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Clients that ask and do not read, or send and do not end: memory is bounded, others are served
    Overload {
        /// How many of them
        #[arg(long, default_value_t = 1000)]
        connections: u64,
    },
    /// Removes each rule of storage and coordinator in turn: their rig must notice every time
    Mutants {
        /// Only those whose name holds this
        #[arg(default_value = "")]
        only: String,
        /// Seeds that each may survive
        #[arg(long, default_value_t = 1000)]
        runs: u64,
        /// Write the seeds that caught them into the list
        #[arg(long)]
        update: bool,
    },
    /// Whole-system measurements, as ratios in one run: the bare-ring floor; readers beside bare sends; two shards beside one; loadgen against a server
    /// that only answers; groups; producers beside compaction; many partitions and connections; loadgen
    /// beside librdkafka's performance tool; Weir beside Apache Kafka, and beside tansu
    Bench {
        /// Which
        #[arg(value_parser = ["floor", "tail", "cores", "sink", "groups", "compaction", "many", "librdkafka", "kafka", "tansu"])]
        #[arg(required_unless_present_any = ["check", "update", "compare", "prove"])]
        scenario: Option<String>,
        /// Instead: counts (instructions, allocations, operations, syncs) beside those committed
        #[arg(long)]
        check: bool,
        /// Instead: commit these counts, shown beside those of before
        #[arg(long)]
        update: bool,
        /// Instead: time of the hot steps beside those of another commit, interleaved; advice
        #[arg(long, value_name = "COMMIT")]
        compare: Option<String>,
        /// Instead: try the guard: ten checks of what is unchanged find nothing, and each deliberate slow-down of
        /// benches/slow_downs.toml is noticed
        #[arg(long)]
        prove: bool,
        /// Rounds, interleaved; medians are shown
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// A broker under a steady mix for long: its memory and open files must stay as they are
    Soak {
        /// How long; in less than ten, caches and tables still fill
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..))]
        minutes: u64,
    },
    /// Where the broker's time goes: a flame graph and its top, under one of some loads (needs perf)
    Profile {
        /// Which
        #[arg(value_parser = profile::NAMES)]
        scenario: String,
        /// Seconds to sample
        #[arg(long, default_value_t = 8)]
        seconds: u64,
    },
    /// Runs what results/ keeps, and puts it there: README, reports, raw data, a line in the ledger
    Results {
        /// Which
        #[arg(required = true, value_parser = results::NAMES)]
        names: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Xtask::parse().verb {
        Verb::Check { without_compat } => check::run(without_compat),
        Verb::Tidy => tidy::run(),
        Verb::Compat { suite: None, .. } => compat::run(),
        Verb::Compat { suite: Some(suite), only } => suites::run(&suite, &only),
        Verb::Attack => check::attack(),
        Verb::Differential { seed, runs, only } => differential::run(seed, runs, &only),
        Verb::Sim { rig, seed, runs } => check::sim(&rig, seed, runs),
        Verb::Kill { cycles, seed } => check::rig("storage", "kill_9", "WEIR_KILLS", cycles, seed),
        Verb::ExactlyOnce { seconds, seed } => exactly_once::run(seconds, seed),
        Verb::Overload { connections } => {
            check::rig("overload", "bounded", "WEIR_CONNECTIONS", connections, 1)
        }
        Verb::PowerCut { images, seed } => {
            check::rig("power_cut", "power_cut", "WEIR_IMAGES", images, seed)
        }
        Verb::Mutants { only, runs, update } => mutants::run(&only, runs, update),
        Verb::Bench { check: true, .. } => regressions::check(),
        Verb::Bench { update: true, .. } => regressions::update(),
        Verb::Bench { prove: true, .. } => regressions::prove(),
        Verb::Bench { compare: Some(commit), rounds, .. } => {
            regressions::compare_with(&commit, rounds)
        }
        Verb::Bench { scenario, rounds, .. } => {
            bench::run(&scenario.expect("clap demands it"), rounds)
        }
        Verb::Soak { minutes } => soak::run(minutes).map(drop),
        Verb::Profile { scenario, seconds } => profile::run(&scenario, seconds),
        Verb::Results { names } => names.iter().try_for_each(|name| results::run(name)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
