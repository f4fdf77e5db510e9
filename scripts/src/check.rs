//! The gate: what CI runs, in the order that finds most soonest.

use crate::steps::{self, Done};
use crate::{compat, mutants, regressions, tidy};

pub(crate) fn run_all_tests() -> Done {
    steps::run("cargo", &["test", "--workspace", "--quiet"])
}

pub(crate) fn run(without_compat: bool) -> Done {
    tidy::run()?;
    fmt()?;
    run_clippy()?;
    run_all_tests()?;
    regressions::check()?;
    mutants::run_some()?;
    if without_compat { Ok(()) } else { compat::run() }
}

fn fmt() -> Done {
    steps::run("cargo", &["fmt", "--all", "--check"])
}

fn run_clippy() -> Done {
    steps::run(
        "cargo",
        &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
    )
}

/// A simulated rig: one seed again, or so many.
pub(crate) fn sim(rig: &str, seed: Option<u64>, runs: u64) -> Done {
    let budget = match seed {
        Some(seed) => format!("WEIR_SEED={seed}"),
        None => format!("WEIR_RUNS={runs}"),
    };
    let rig = ["test", "--release", "--quiet", "-p", mutants::package_of(rig), "--test", rig, "--"];
    let args = [&[budget.as_str(), "cargo"], &rig[..], &["guarantees", "--nocapture"]];
    steps::run("env", &args.concat())
}

/// The attacks: bounds of memory, of time beside a smaller attack, and of the longest turn.
pub(crate) fn attack() -> Done {
    let tests = ["attacks", "slices", "overload", "bad_input"];
    let tests = tests.iter().flat_map(|test| ["--test", test]);
    let cargo = ["test", "--release", "--quiet", "-p", "weir"].into_iter().chain(tests);
    steps::run("cargo", &cargo.chain(["--", "--nocapture", "--test-threads=1"]).collect::<Vec<_>>())
}

/// A long run of one of the broker's rigs.
pub(crate) fn rig(file: &str, test: &str, name: &str, budget: u64, seed: u64) -> Done {
    let (budget, seed) = (format!("{name}={budget}"), format!("WEIR_SEED={seed}"));
    let cargo = ["cargo", "test", "--release", "--quiet", "-p", "weir", "--test", file];
    let args = [&[budget.as_str(), &seed], &cargo[..], &["--", test, "--nocapture"]];
    steps::run("env", &args.concat())
}
