//! franz-go's own tests of its client kgo, from the Go module proxy: groups, transactions, and what they do when
//! members come and go.

use crate::compat::Broker;
use crate::steps;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

const GROUPS: [&str; 3] = ["TestGroupETL/", "TestGroupSimple/", "TestTxnEtl/"];

/// Tests that passed and failed, by name; a skipped one is neither.
pub(crate) fn run(
    package: &str,
    version: &str,
    home: &Path,
    data: &Path,
    only: &str,
) -> Result<BTreeMap<String, bool>, String> {
    if !steps::works("go", &["version"]) {
        return Err("kgo's tests need Go; install it".to_owned());
    }
    let go = |args: &[&str], address: &str| {
        let output = Command::new("go")
            .args(args)
            .current_dir(home)
            .env("KGO_SEEDS", address)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("go: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok::<_, String>((said, String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    std::fs::write(home.join("go.mod"), "module judge\n\ngo 1.24\n")
        .map_err(|error| format!("{}: {error}", home.display()))?;
    let _ = std::fs::remove_file(home.join("go.sum"));
    go(&["get", "-t", &format!("{package}@v{version}")], "")?;
    // Its topics have three replicas where it is not told otherwise.
    let args = ["--weir.clamp.replication.factor=true", "--group.initial.rebalance.delay.ms=0"];
    let broker = Broker::start_release(data, &args)?;
    let pattern = if only.is_empty() { "." } else { only };
    let test = ["test", "-count=1", "-timeout=900s", "-json", "-run", pattern, package];
    let (said, errors) = go(&test, &broker.address)?;
    let _ = std::fs::write(home.join("test.log"), said.clone() + &errors);
    broker.stop()?;
    let mut results = BTreeMap::new();
    for line in said.lines() {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(name) = event["Test"].as_str() else { continue };
        // Parts of tests only where they are of groups: hundreds of others do not ask the broker.
        if name.contains('/') && !GROUPS.iter().any(|group| name.starts_with(group)) {
            continue;
        }
        match event["Action"].as_str() {
            Some("pass") => drop(results.insert(name.to_owned(), true)),
            Some("fail") => drop(results.insert(name.to_owned(), false)),
            _ => {}
        }
    }
    if results.is_empty() {
        return Err(format!("kgo's tests did not run; see {}/test.log", home.display()));
    }
    Ok(results)
}
