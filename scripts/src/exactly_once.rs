//! A job that reads, processes and writes in transactions with confluent-kafka, while its workers and
//! the broker are killed; what everyone saw goes to the history checker.

use crate::python::install_python;
use crate::steps::{self, Done, top};

/// Kills for so many seconds, then looks at what came of it.
pub(crate) fn run(seconds: u64, seed: u64) -> Done {
    println!("==> exactly once, kills for {seconds} s, seed {seed}");
    let python = match install_python("python-new", &["confluent-kafka"]) {
        Ok(python) => python,
        Err(why) => {
            println!("    SKIPPED: {why}");
            return Ok(());
        }
    };
    let build = ["build", "--quiet", "-p", "weir", "-p", "sim", "--bins"];
    steps::run("cargo", &build)?;
    let home = top().join("target/compat").join(format!("exactly-once-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&home);
    let text = |path: std::path::PathBuf| path.display().to_string();
    let (weir, checker) =
        (text(top().join("target/debug/weir")), top().join("target/debug/history"));
    let script = text(top().join("engine/weir/tests/compat/exactly_once.py"));
    let (data, history) = (text(home.clone()), text(home.with_extension("jsonl")));
    let (seconds, seed) = (seconds.to_string(), seed.to_string());
    steps::run(&python, &[&script, &weir, &data, &history, &seconds, &seed])?;
    steps::run(&text(checker), &[&history])?;
    let _ = std::fs::remove_dir_all(&home);
    let _ = std::fs::remove_file(home.with_extension("jsonl"));
    Ok(())
}
