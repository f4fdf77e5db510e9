//! `weir inspect` and `weir repair`: data directories of stopped brokers.

use model::{TopicId, TopicName, TopicPartition};
use runtime::{Io, Runtime};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use storage::StorageError;
use storage::directory::catalog::Catalog;
use storage::directory::data_dir::DataDir;
use storage::tools::repair::{Examined, GivenUp, examine, mend};

const DAMAGED: u8 = 3;

macro_rules! say {
    ($($arg:tt)*) => {
        // A closed pipe is no failure of ours.
        let _ = writeln!(std::io::stdout(), $($arg)*);
    };
}

fn complain(what: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "weir: {what}");
}

fn on_ring<T>(body: impl Future<Output = T>) -> Option<T> {
    match Runtime::new(Io::Uring) {
        Ok(runtime) => Some(runtime.block_on(body).expect("only the twin stops")),
        Err(error) => {
            complain(error);
            None
        }
    }
}

/// Prints files in words.
pub(crate) fn inspect(files: &[PathBuf], details: bool) -> ExitCode {
    let inspected = on_ring(async {
        let mut worst = 0;
        for file in files {
            if file.is_dir() {
                complain(format!(
                    "{0}: is a directory; name files in it, as {0}/superblock.0 or {0}/partitions/*/*.log are; \
                     `weir repair` looks at whole directories",
                    file.display()
                ));
                worst = worst.max(1);
                continue;
            }
            match storage::tools::inspect::inspect(file, details).await {
                Ok(inspected) => {
                    say!("{}: {}", file.display(), inspected.text.trim_end());
                    for damage in &inspected.damage {
                        say!("  DAMAGED: {damage}");
                        worst = worst.max(DAMAGED);
                    }
                }
                Err(error) => {
                    complain(error);
                    worst = worst.max(1);
                }
            }
        }
        worst
    });
    ExitCode::from(inspected.unwrap_or(1))
}

/// Looks for damage, and cuts it off if told to.
pub(crate) fn repair(dirs: &[PathBuf], only: &[String], give_up: Option<GivenUp>) -> ExitCode {
    let repaired = on_ring(async {
        let paths: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        let names = names_of(&paths).await?;
        let mut left = false;
        let mut seen = Vec::new();
        for dir in dirs {
            left |= repair_dir(dir, &names, only, give_up, &mut seen).await?;
        }
        if let Some(unknown) = only.iter().find(|name| !seen.contains(*name)) {
            say!("{unknown}: no damage found");
        }
        Ok::<_, StorageError>(left)
    });
    match repaired {
        Some(Ok(false)) => ExitCode::SUCCESS,
        Some(Ok(true)) => ExitCode::from(DAMAGED),
        Some(Err(error)) => {
            complain(error);
            ExitCode::FAILURE
        }
        None => ExitCode::FAILURE,
    }
}

async fn names_of(dirs: &[&Path]) -> Result<BTreeMap<TopicId, TopicName>, StorageError> {
    let catalog = Catalog::load(dirs).await?;
    Ok(catalog.topics.into_iter().map(|topic| (topic.id, topic.name)).collect())
}

async fn repair_dir(
    dir: &Path,
    names: &BTreeMap<TopicId, TopicName>,
    only: &[String],
    give_up: Option<GivenUp>,
    seen: &mut Vec<String>,
) -> Result<bool, StorageError> {
    let (_lock, superblock) = DataDir::hold(dir).await?;
    let (examined, found) = examine(dir, &superblock.journals).await?;
    say!(
        "{}: {} partitions, {} segments, {} bytes of batches read; {}",
        dir.display(),
        examined.partitions,
        examined.segments,
        examined.bytes,
        if superblock.clean { "stopped cleanly" } else { "not stopped cleanly" }
    );
    let name_of = |id: TopicPartition| match names.get(&id.topic_id) {
        Some(name) => format!("{name}-{}", id.partition),
        None => id.to_string(),
    };
    let is_chosen = |name: &String| only.is_empty() || only.contains(name);
    let mut chosen = BTreeMap::new();
    let mut left = false;
    for finding in &examined.findings {
        let name = name_of(finding.partition);
        say!("{name}: {}", finding.what);
        say!(
            "  whole below offset {}; acknowledged as durable below {}",
            finding.keeps_below,
            finding.known_below
        );
        if give_up == Some(GivenUp::FromDamage) && is_chosen(&name) {
            chosen.insert(finding.partition, GivenUp::FromDamage);
        } else {
            left = true;
        }
        seen.push(name);
    }
    let damaged = |partition| examined.findings.iter().any(|found| found.partition == partition);
    for found in &examined.unreadable {
        let name = name_of(found.partition);
        say!(
            "{name}: no damage, but {} batches hold records that cannot be read, as their clients sent them; the first \
             is at offset {}. Move groups behind them with `weir group reset-offsets`, or let --empty-unreadable take \
             their records out",
            found.batches,
            found.first
        );
        if give_up == Some(GivenUp::Unreadable) && is_chosen(&name) {
            if damaged(found.partition) {
                say!("  it is damaged as well: nothing was taken out; cut it first");
            } else {
                chosen.insert(found.partition, GivenUp::Unreadable);
            }
        }
        seen.push(name);
    }
    if !chosen.is_empty() {
        for kept in mend(dir, &chosen, &found).await? {
            say!("  what was there is in {}", kept.display());
        }
        tell_changed(&examined, &chosen, name_of);
    } else if left && give_up.is_none() {
        say!("nothing was changed; restore the files from a backup, or cut with --cut");
    }
    Ok(left)
}

/// What was done to those that were chosen.
fn tell_changed(
    examined: &Examined,
    chosen: &BTreeMap<TopicPartition, GivenUp>,
    name_of: impl Fn(TopicPartition) -> String,
) {
    for finding in &examined.findings {
        if chosen.contains_key(&finding.partition) {
            say!("{}: cut at offset {}", name_of(finding.partition), finding.keeps_below);
        }
    }
    for found in &examined.unreadable {
        if chosen.get(&found.partition) == Some(&GivenUp::Unreadable) {
            say!("{}: {} batches are empty now", name_of(found.partition), found.batches);
        }
    }
}
