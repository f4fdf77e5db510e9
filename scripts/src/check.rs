//! The gate: what CI runs, in the order that finds most soonest.

use crate::steps::{self, Done};
use crate::{compat, tidy};

pub(crate) fn run_all_tests() -> Done {
    steps::run("cargo", &["test", "--workspace", "--quiet"])
}

pub(crate) fn run(without_compat: bool) -> Done {
    tidy::run()?;
    fmt()?;
    run_clippy()?;
    run_all_tests()?;
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

pub(crate) fn sim(seed: Option<u64>) -> Done {
    if let Some(seed) = seed {
        let assignment = format!("WEIR_SEED={seed}");
        return steps::run(
            "env",
            &[&assignment, "cargo", "test", "-p", "storage", "--test", "power_cut"],
        );
    }
    steps::run("cargo", &["test", "-p", "storage", "--test", "power_cut"])
}
