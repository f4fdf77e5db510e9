//! Removes each rule of storage and coordinator in turn, in a copy of the checkout, and demands that
//! their rig notices.

use crate::steps::{Done, top};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

struct Mutant {
    name: String,
    file: String,
    from: String,
    to: String,
    seed: Option<i64>,
    /// The rig of `sim` that is to notice: storage unless said.
    rig: String,
    /// The tests that catch it, where the rig cannot come to it.
    by: Option<String>,
}

/// What the names of the rigs' main tests have in common.
const RIG_TESTS: &str = "guarantees";
const LIST: &str = "engine/sim/mutants.toml";

/// A quarter of the mutants, another one with each commit, by the seeds that caught them before.
pub(crate) fn run_some() -> Done {
    println!("==> mutants, a quarter of them");
    let commits =
        Command::new("git").args(["rev-list", "--count", "HEAD"]).current_dir(top()).output();
    let commits = commits.map_err(|error| format!("git: {error}"))?;
    let turn = String::from_utf8_lossy(&commits.stdout).trim().parse().unwrap_or(0usize);
    run_chosen(&|number, _| number % 4 == turn % 4, 300, false)
}

/// Runs the mutants whose name holds `only`, or that are of that rig, each with at most `runs` seeds. With `update` the seed
/// that caught each is written into the list.
pub(crate) fn run(only: &str, runs: u64, update: bool) -> Done {
    run_chosen(&|_, mutant| mutant.rig == only || mutant.name.contains(only), runs, update)
}

/// A run of the compaction rig takes as long as ten of another.
fn seeds_of(rig: &str, runs: u64) -> u64 {
    if rig == "compaction" { runs.div_ceil(10) } else { runs }
}

fn run_chosen(chosen: &dyn Fn(usize, &Mutant) -> bool, runs: u64, update: bool) -> Done {
    let text = read_list()?;
    let mutants = read(&text)?;
    let copy = top().join("target/mutants/checkout");
    copy_checkout(&copy)?;
    for rig in crate::check::RIGS {
        if test(&copy, rig, seeds_of(rig, runs.min(50)), None)?.is_some() {
            return Err(format!("the rig {rig} fails without any mutant"));
        }
    }
    let (mut missed, mut listed) = (Vec::new(), text);
    for (_, mutant) in mutants.iter().enumerate().filter(|(n, mutant)| chosen(*n, mutant)) {
        let path = copy.join(&mutant.file);
        let original =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", mutant.file))?;
        if let Some(complaint) = mutant.stale_in(&original) {
            return Err(complaint);
        }
        let write = |text: &str| {
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", mutant.file))
        };
        write(&original.replace(&mutant.from, &mutant.to))?;
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
        write(&original)?;
        let seconds = start.elapsed().as_secs_f64();
        match caught.map_err(|error| format!("{}: {error}", mutant.name))? {
            Some(seed) => {
                println!("    caught by seed {seed:>4} in {seconds:>5.1} s: {}", mutant.name);
                listed = with_seed(&listed, &mutant.name, seed);
            }
            None if by_tests => {
                println!("    caught by tests in {seconds:>5.1} s: {}", mutant.name);
            }
            None => {
                println!("    MISSED by {runs} seeds, {seconds:>5.1} s: {}", mutant.name);
                missed.push(mutant.name.clone());
            }
        }
    }
    if update {
        std::fs::write(top().join(LIST), listed).map_err(|error| format!("{LIST}: {error}"))?;
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("missed: {}", missed.join("; "))) }
}

fn read_list() -> Result<String, String> {
    std::fs::read_to_string(top().join(LIST)).map_err(|error| format!("{LIST}: {error}"))
}

impl Mutant {
    fn stale_in(&self, text: &str) -> Option<String> {
        let count = text.matches(&self.from).count();
        let Self { name, file, .. } = self;
        (count != 1)
            .then(|| format!("{LIST}: {name}: {file} holds its text {count} times instead of once"))
    }
}

/// Mutants whose text the code holds no more, or more than once.
pub(crate) fn stale() -> Result<Vec<String>, String> {
    let stale_in_file = |mutant: &Mutant| match std::fs::read_to_string(top().join(&mutant.file)) {
        Ok(text) => mutant.stale_in(&text),
        Err(error) => Some(format!("{LIST}: {}: {}: {error}", mutant.name, mutant.file)),
    };
    Ok(read(&read_list()?)?.iter().filter_map(stale_in_file).collect())
}

fn read(text: &str) -> Result<Vec<Mutant>, String> {
    let table: toml::Table = text.parse().map_err(|error| format!("{LIST}: {error}"))?;
    let list = table.get("mutant").and_then(toml::Value::as_array).ok_or("no mutants")?;
    let mutant = |entry: &toml::Value| {
        let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
        let seed = entry.get("seed").and_then(toml::Value::as_integer);
        Some(Mutant {
            name: text("name")?,
            file: text("file")?,
            from: text("from")?,
            to: text("to")?,
            seed,
            rig: text("rig").unwrap_or_else(|| "storage".to_owned()),
            by: text("by"),
        })
    };
    list.iter().map(mutant).collect::<Option<_>>().ok_or(format!("{LIST}: a key is missing"))
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

/// The files that git knows, as they are now.
fn copy_checkout(to: &Path) -> Done {
    let listed = Command::new("git").arg("ls-files").current_dir(top()).output();
    let listed = listed.map_err(|error| format!("git: {error}"))?;
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let (source, target) = (top().join(name), to.join(name));
        let Ok(bytes) = std::fs::read(&source) else { continue };
        // An unchanged file keeps its time, so that little is built again.
        if std::fs::read(&target).is_ok_and(|before| before == bytes) {
            continue;
        }
        let made = std::fs::create_dir_all(target.parent().unwrap_or(to));
        made.and_then(|()| std::fs::write(&target, bytes)).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// Whether a package's tests fail.
fn fails(copy: &Path, package: &str) -> Result<bool, String> {
    let output = Command::new("cargo")
        .args(["test", "--quiet", "-p", package])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", top().join("target/mutants/target"))
        .env("RUSTFLAGS", "-A warnings")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| format!("cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(!output.status.success() && said.contains("FAILED"))
}

/// The first seed that fails, if one does.
fn test(copy: &Path, rig: &str, runs: u64, seed: Option<i64>) -> Result<Option<i64>, String> {
    let build = Command::new("cargo")
        .args(["test", "--quiet", "-p", "sim", "--test", rig, "--no-run"])
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
        .args(["test", "--quiet", "-p", "sim", "--test", rig])
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
