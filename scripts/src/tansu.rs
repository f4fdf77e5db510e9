//! tansu from crates.io: a broker in Rust that keeps records in memory, SQLite, PostgreSQL or S3.

use crate::started::{PARTITIONS, empty_home, with_started};
use crate::steps::{self, Done, free_address, top};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is built.
pub(crate) const VERSION: &str = "0.6.0";
/// Nothing outlives the process.
pub(crate) const MEMORY: &str = "memory://tansu/";
/// A commit is in the page cache (`journal_mode = WAL`, `synchronous = normal`).
pub(crate) const SQLITE: &str = "sqlite://tansu.db";

/// The program, built once; that takes a quarter of an hour on two cores.
///
/// # Errors
/// Nothing to fetch from, or it does not build; the text says which.
pub(crate) fn program() -> Result<PathBuf, String> {
    let root = top().join("target/compat/tansu").join(VERSION);
    let program = root.join("bin/tansu");
    if !program.exists() {
        let root = root.display().to_string();
        let install = ["install", "tansu", "--version", VERSION, "--locked", "--quiet"];
        let kinds = ["--features", "dynostore,libsql", "--root", &root];
        steps::run("cargo", &[&install[..], &kinds].concat())?;
    }
    Ok(program)
}

/// A fresh tansu that keeps its records in `storage`, with the topics that the drivers write to.
pub(crate) fn with_broker(
    program: &Path,
    storage: &str,
    body: impl FnOnce(&str, u32, &Path) -> Done,
) -> Done {
    let home = empty_home()?;
    let listen = free_address()?;
    let mut server = Command::new(program);
    server
        .args(["broker", "--silent", "--storage-engine", storage])
        .args(["--listener-url", &format!("tcp://{listen}")])
        .args(["--advertised-listener-url", &format!("tcp://{listen}")])
        // SQLite's file is made where it runs.
        .current_dir(&home);
    with_started("tansu", &listen, &home, &mut server, |address, pid, home| {
        // A topic that is made by being written to has a number of partitions of tansu's own.
        let made = Command::new(top().join("target/release/weir"))
            .args(["topic", "create", "neutral", "--partitions", PARTITIONS])
            .args(["--bootstrap-server", address])
            .stdout(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("tansu makes no topic".into());
        }
        body(address, pid, home)
    })
}
