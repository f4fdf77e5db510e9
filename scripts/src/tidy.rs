//! The rules of the house that no compiler checks.

use crate::steps::{Done, rust_files, top};
use crate::{mutants, regressions, structure};
use std::fs;

/// Which rooms a room may use. Anything else is a change of the architecture: change
/// engine/ARCHITECTURE.md first.
const MAY_USE: &[(&str, &[&str])] = &[
    ("engine/model", &[]),
    ("engine/transcript", &[]),
    ("engine/runtime", &[]),
    ("engine/wire", &["model"]),
    ("engine/storage", &["model", "runtime"]),
    ("engine/partition", &["model"]),
    ("engine/metadata", &["model", "partition"]),
    ("engine/coordinator", &["model", "wire"]),
    ("engine/client", &["model", "runtime", "wire"]),
    (
        "engine/broker",
        &["model", "runtime", "wire", "storage", "partition", "metadata", "coordinator"],
    ),
    ("engine/weir", &["model", "runtime", "wire", "storage", "client", "broker"]),
    ("engine/sim", &["model", "runtime", "storage", "partition", "coordinator", "wire"]),
    ("engine/sim_cluster", &["model", "runtime", "wire", "client", "broker", "sim"]),
    ("loadgen", &["model", "runtime", "wire", "client", "weir"]),
    ("benches", &["model", "runtime", "wire", "client", "storage", "partition", "broker"]),
    ("scripts", &[]),
];

/// What tells where things are.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "engine/ARCHITECTURE.md",
    "engine/OPERATING.md",
    "engine/TESTING.md",
    "engine/storage/FORMAT.md",
    "loadgen/README.md",
    "benches/README.md",
];

/// Files that are longer for a reason; others may not grow past `LINES_MAX`.
const LINES_MAX: usize = 1000;
const LONGER: &[(&str, usize)] = &[];

pub(crate) fn run() -> Done {
    println!("==> tidy");
    let mut complaints = Vec::new();
    for (room, allowed) in MAY_USE {
        let manifest = fs::read_to_string(top().join(room).join("Cargo.toml")).unwrap_or_default();
        complaints.extend(forbidden_edges(room, &manifest, allowed));
    }
    for path in rust_files(&top()) {
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.strip_prefix(top()).unwrap_or(&path).display().to_string();
        complaints.extend(complaints_of(&name, &text));
    }
    complaints.extend(structure::complaints(MAY_USE.iter().map(|(room, _)| *room))?);
    complaints.extend(stale_paths()?);
    complaints.extend(mutants::stale()?);
    complaints.extend(regressions::stale()?);
    for complaint in &complaints {
        println!("    {complaint}");
    }
    if complaints.is_empty() { Ok(()) } else { Err(format!("{} complaints", complaints.len())) }
}

fn forbidden_edges(room: &str, manifest: &str, allowed: &[&str]) -> Vec<String> {
    let rooms = MAY_USE.iter().map(|(path, _)| path.rsplit('/').next().expect("not empty"));
    // Tests may use what measures them.
    let built = manifest.split("[dev-dependencies]").next().unwrap_or_default();
    let is_used = |name: &str| built.lines().any(|line| line.starts_with(&format!("{name}.")));
    rooms
        .filter(|name| is_used(name) && !allowed.contains(name))
        .map(|name| format!("{room} may not use {name}: see MAY_USE in scripts/src/tidy.rs"))
        .collect()
}

/// Files that a document names, `in/this.rs` form with or without `src/`, and that are not there.
fn stale_paths() -> Result<Vec<String>, String> {
    let there: Vec<String> = rust_files(&top())
        .iter()
        .map(|path| format!("/{}", path.strip_prefix(top()).unwrap_or(path).display()))
        .collect();
    let mut complaints = Vec::new();
    for document in DOCUMENTS {
        let text =
            fs::read_to_string(top().join(document)).map_err(|e| format!("{document}: {e}"))?;
        complaints.extend(stale_paths_of(document, &text, &there));
    }
    Ok(complaints)
}

fn stale_paths_of(document: &str, text: &str, there: &[String]) -> Vec<String> {
    let named = text.split('`').skip(1).step_by(2).filter(|code| code.ends_with(".rs"));
    let is_there = |named: &str| {
        let end = format!("/{named}").replace("/src/", "/");
        there.iter().any(|path| path.replace("/src/", "/").ends_with(&end))
    };
    named
        .filter(|named| !is_there(named))
        .map(|named| format!("{document}: there is no file {named}"))
        .collect()
}

fn complaints_of(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//! ") {
        complaints.push(format!("{name}: the first line says what the file is, as `//! ...`"));
    }
    let lines = text.lines().count();
    let max = LONGER.iter().find(|(file, _)| *file == name).map_or(LINES_MAX, |(_, max)| *max);
    if lines > max {
        complaints.push(format!("{name}: {lines} lines, {max} at most; split it by noun"));
    }
    let leftovers =
        [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X"), concat!("db", "g!(")];
    for leftover in leftovers {
        if text.contains(leftover) {
            complaints.push(format!("{name}: a leftover {leftover}"));
        }
    }
    let unsafe_rooms = ["engine/runtime/"];
    let block = concat!("unsafe", " {");
    if text.contains(block) && !unsafe_rooms.iter().any(|room| name.starts_with(room)) {
        complaints.push(format!("{name}: unsafe code lives in engine/runtime only"));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_tidy() {
        run().unwrap();
    }

    #[test]
    fn planted_faults_are_found() {
        let edge = forbidden_edges("engine/partition", "storage.workspace = true\n", &["model"]);
        assert_eq!(edge.len(), 1, "{edge:?}");
        assert_eq!(forbidden_edges("engine/wire", "model.workspace = true\n", &["model"]).len(), 0);
        assert_eq!(complaints_of("a.rs", "fn main() {}").len(), 1);
        let long = format!("//! x\n{}", "\n".repeat(1001));
        assert_eq!(complaints_of("a.rs", &long).len(), 1);
        let there = ["/engine/a/src/b/c.rs".to_owned()];
        let stale = |named: &str| stale_paths_of("d", &format!("see `{named}`, `x`"), &there).len();
        assert_eq!((stale("b/c.rs"), stale("a/src/b/c.rs"), stale("a/b/c.rs")), (0, 0, 0));
        assert_eq!((stale("a/c.rs"), stale("d.rs")), (1, 1));
        let hidden = format!("//! x\nfn f() {{ {} }} }}", concat!("unsafe", " { g()"));
        assert_eq!(complaints_of("engine/wire/a.rs", &hidden).len(), 1);
    }
}
