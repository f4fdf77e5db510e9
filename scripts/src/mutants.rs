//! Removes each rule of storage and coordinator in turn, in a copy of the checkout, and demands that
//! their rig notices.

use crate::edits::{self, Edit, copy_checkout};
use crate::steps::{Done, top};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The rigs, of which each is a test of `package_of` it.
pub(crate) const RIGS: [&str; 5] = ["storage", "node", "groups", "compaction", "cluster"];

/// Whole brokers are a crate of their own: the rigs of rooms need not wait for a broker to be compiled.
pub(crate) fn package_of(rig: &str) -> &'static str {
    if rig == "cluster" { "sim_cluster" } else { "sim" }
}

struct Mutant {
    edit: Edit,
    /// The one that caught it.
    seed: Option<i64>,
    /// The rig of `sim` that is to notice: storage unless said.
    rig: String,
    /// The tests that catch it, where the rig cannot come to it.
    by: Option<String>,
}

/// What the names of the rigs' main tests have in common.
const RIG_TESTS: &str = "guarantees";
const LIST: &str = "engine/sim/mutants.toml";

/// Of the mutants a check runs one in so many, others with each commit.
const ONE_IN: usize = 6;

/// Some of the mutants, by the seeds that caught them before.
pub(crate) fn run_some() -> Done {
    println!("==> mutants, one in {ONE_IN} of them");
    let commits =
        Command::new("git").args(["rev-list", "--count", "HEAD"]).current_dir(top()).output();
    let commits = commits.map_err(|error| format!("git: {error}"))?;
    let turn = String::from_utf8_lossy(&commits.stdout).trim().parse().unwrap_or(0usize);
    run_chosen(&|number, _| number % ONE_IN == turn % ONE_IN, 300, false)
}

/// Runs the mutants whose name holds `only`, or that are of that rig, each with at most `runs` seeds. With `update` the seed
/// that caught each is written into the list.
pub(crate) fn run(only: &str, runs: u64, update: bool) -> Done {
    run_chosen(&|_, mutant| mutant.rig == only || mutant.edit.name.contains(only), runs, update)
}

/// A run of these takes as long as several of another.
fn seeds_of(rig: &str, runs: u64) -> u64 {
    match rig {
        "compaction" => runs.div_ceil(10),
        "cluster" => runs.div_ceil(4),
        _ => runs,
    }
}

fn run_chosen(chosen: &dyn Fn(usize, &Mutant) -> bool, runs: u64, update: bool) -> Done {
    let mutants = read()?;
    let text =
        std::fs::read_to_string(top().join(LIST)).map_err(|error| format!("{LIST}: {error}"))?;
    let copy = copy_checkout("mutants")?;
    for rig in RIGS {
        if test(&copy, rig, seeds_of(rig, runs.min(50)), None)?.is_some() {
            return Err(format!("the rig {rig} fails without any mutant"));
        }
    }
    let (mut missed, mut listed) = (Vec::new(), text);
    for (_, mutant) in mutants.iter().enumerate().filter(|(n, mutant)| chosen(*n, mutant)) {
        let name = &mutant.edit.name;
        let original = mutant.edit.apply(&copy)?;
        let start = Instant::now();
        // The seed that caught it before first: most changes leave it so.
        let by_tests = match &mutant.by {
            Some(package) => fails(&copy, package)?,
            None => false,
        };
        let rig = &mutant.rig;
        let known = mutant.seed.and_then(|seed| test(&copy, rig, 1, Some(seed)).transpose());
        let known = known.transpose();
        let caught = match known {
            _ if mutant.by.is_some() => Ok(None),
            Ok(Some(seed)) => Ok(Some(seed)),
            Ok(None) => test(&copy, rig, seeds_of(rig, runs), None),
            Err(error) => Err(error),
        };
        mutant.edit.restore(&copy, &original)?;
        let seconds = start.elapsed().as_secs_f64();
        match caught.map_err(|error| format!("{name}: {error}"))? {
            Some(seed) => {
                println!("    caught by seed {seed:>4} in {seconds:>5.1} s: {name}");
                listed = with_seed(&listed, name, seed);
            }
            None if by_tests => {
                println!("    caught by tests in {seconds:>5.1} s: {name}");
            }
            None => {
                println!("    MISSED by {runs} seeds, {seconds:>5.1} s: {name}");
                missed.push(name.clone());
            }
        }
    }
    if update {
        std::fs::write(top().join(LIST), listed).map_err(|error| format!("{LIST}: {error}"))?;
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("missed: {}", missed.join("; "))) }
}

/// Mutants whose text the code holds no more, or more than once.
pub(crate) fn stale() -> Result<Vec<String>, String> {
    edits::stale(LIST, "mutant")
}

fn read() -> Result<Vec<Mutant>, String> {
    let mutant = |edit: Edit| Mutant {
        seed: edit.number("seed"),
        rig: edit.text("rig").unwrap_or("storage").to_owned(),
        by: edit.text("by").map(str::to_owned),
        edit,
    };
    Ok(edits::read(LIST, "mutant")?.into_iter().map(mutant).collect())
}

fn with_seed(text: &str, name: &str, seed: i64) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("[[mutant]]") {
            inside = false;
        }
        if inside && line.starts_with("seed = ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line.starts_with("name = ") && line.contains(name) {
            inside = true;
            out.push_str(&format!("seed = {seed}\n"));
        }
    }
    out
}

/// Whether a package's tests fail; `package` may go on with which of them, as `--test name`.
fn fails(copy: &Path, package: &str) -> Result<bool, String> {
    let output = Command::new("cargo")
        .args(["test", "--quiet", "-p"])
        .args(package.split_whitespace())
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", top().join("target/mutants/target"))
        .env("RUSTFLAGS", "-A warnings")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| format!("cargo: {error}"))?;
    // Not that it does not build. A test that aborts fails too.
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(!output.status.success() && said.contains("test failed, to rerun"))
}

/// The first seed that fails, if one does.
fn test(copy: &Path, rig: &str, runs: u64, seed: Option<i64>) -> Result<Option<i64>, String> {
    let build = Command::new("cargo")
        .args(["test", "--quiet", "-p", package_of(rig), "--test", rig, "--no-run"])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", top().join("target/mutants/target"))
        .env("RUSTFLAGS", "-A warnings")
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !build.status.success() {
        return Err(format!("does not build:\n{}", String::from_utf8_lossy(&build.stderr)));
    }
    let mut command = Command::new("cargo");
    command
        .args(["test", "--quiet", "-p", package_of(rig), "--test", rig])
        .arg(RIG_TESTS)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", top().join("target/mutants/target"))
        .env("RUSTFLAGS", "-A warnings")
        .env("WEIR_RUNS", runs.to_string())
        .stdin(Stdio::null());
    if let Some(seed) = seed {
        command.env("WEIR_SEED", seed.to_string());
    }
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let seed = said
        .lines()
        .find_map(|line| line.split_once("seed ")?.1.split_once(" failed")?.0.parse().ok());
    seed.map(Some).ok_or(format!("failed without naming a seed:\n{said}"))
}
