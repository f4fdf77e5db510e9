//! The files of a report, and their directory.

use crate::ending::Failure;
use runtime::clock;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A directory for files, made before anything runs.
pub(crate) struct Output {
    dir: PathBuf,
}

impl Output {
    /// The directory asked for, or a new one under `loadgen-results`; one that holds a result is
    /// refused.
    pub(crate) fn make(asked: Option<&Path>, what: &str) -> Result<Self, Failure> {
        let dir = asked.map_or_else(
            || {
                let seconds = clock::unix_ms() / 1000;
                let name = format!("{seconds}-{what}-{:06x}", runtime::random::seed() >> 40);
                PathBuf::from("loadgen-results").join(name)
            },
            Path::to_owned,
        );
        let holds = [
            "result.json",
            "search.json",
            "sweep.json",
            "compare.json",
            "plan.json",
            "durability.json",
        ];
        if holds.iter().any(|name| dir.join(name).exists()) {
            let why = format!("--output {}: holds a result already; choose another", dir.display());
            return Err(Failure::usage(why));
        }
        runtime::fs::create_dir_all(&dir).map_err(|error| {
            Failure::usage(format!("--output {}: cannot be made: {error}", dir.display()))
        })?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory inside, for one of several runs.
    pub(crate) fn part(&self, name: &str) -> Result<PathBuf, Failure> {
        let dir = self.dir.join(name);
        runtime::fs::create_dir_all(&dir)
            .map_err(|error| Failure::usage(format!("{}: {error}", dir.display())))?;
        Ok(dir)
    }

    /// Leaves no empty directory behind a run that never began.
    pub(crate) fn abandon(&self) {
        let _ = std::fs::remove_dir(&self.dir);
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, bytes: &str) -> Result<(), Failure> {
        write(&self.dir, name, bytes)
    }
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) -> Result<(), Failure> {
    std::fs::write(dir.join(name), text)
        .map_err(|error| Failure::usage(format!("{}/{name}: {error}", dir.display())))
}

/// JSON as people read it.
pub(crate) fn pretty<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).expect("a value becomes text") + "\n"
}

/// Prints a report and where its files are.
pub(crate) fn show(text: &str, dir: &Path) {
    let mut out = std::io::stdout();
    // A closed standard output loses the show, not the files.
    let _ = out
        .write_all(text.as_bytes())
        .and_then(|()| writeln!(out, "\nreport: {}/report.html", dir.display()));
}
