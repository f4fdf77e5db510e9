//! Kafka's own command lines, put to Apache Kafka and to Weir one after another: what they print and their exit codes are
//! compared.

use crate::compat::Broker;
use crate::kafka;
use crate::steps::top;
use regex_lite::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const CASES: &str = "engine/weir/tests/compat/java_tools.tsv";
/// A command that takes longer hangs.
const SECONDS_MAX: &str = "40";
/// A consumer that goes on beside what comes after it, and its kill -9.
const BEGINS_BESIDE: &str = "bg";
const ENDS_BESIDE: &str = "stop-bg";

/// Files that commands are given.
const FILES: [(&str, &str); 6] = [
    ("delete.json", r#"{"version":1,"partitions":[{"topic":"d1","partition":0,"offset":-1}]}"#),
    (
        "delete-above.json",
        r#"{"version":1,"partitions":[{"topic":"d1","partition":0,"offset":999}]}"#,
    ),
    ("move.json", r#"{"version":1,"topics":[{"topic":"t1"}]}"#),
    (
        "reassign.json",
        r#"{"version":1,"partitions":[{"topic":"t1","partition":0,"replicas":[1]},{"topic":"t1","partition":1,"replicas":[1]}]}"#,
    ),
    (
        "reassign-7.json",
        r#"{"version":1,"partitions":[{"topic":"t1","partition":0,"replicas":[7]}]}"#,
    ),
    (
        "reassign-u1.json",
        r#"{"version":1,"partitions":[{"topic":"u1","partition":0,"replicas":[1],"log_dirs":["any"]}]}"#,
    ),
];

/// What differs from run to run, or is said in other words: pattern and what stands for it.
const ALIKE: [(&str, &str); 20] = [
    // Of an error its class counts; texts are each broker's own.
    (r"(Exception|Error): .*", "$1"),
    (r"(?i)(error|failed)[^.]*(due to|because|reason|:).*", "$1"),
    (r"127\.0\.0\.1[: ][0-9]+", "BROKER"),
    (r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID"),
    (r"TopicId: [A-Za-z0-9_-]{22}", "TopicId: ID"),
    (r"Cluster ID: .*", "Cluster ID: ID"),
    (r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.,]+Z?", "TIME"),
    (r"[0-9]{2}:[0-9]{2}:[0-9]{2}[:.,][0-9]{3}", "TIME"),
    (r"console-consumer-[0-9]+", "console-consumer-N"),
    (r"(performance-producer|perf-consumer|test-group)-[A-Za-z0-9_-]+", "$1-N"),
    (r"[0-9]{13,19}", "N"),
    (r"(/[A-Za-z0-9_.-]+){2,}", "DIR"),
    (r#""(size|timestamp|avg_throughput|time)":"?[0-9A-Z.]+"?"#, "$1: N"),
    (r"[0-9.]+ (records/sec|ms|MB/sec)", "N $1"),
    (r"^([0-9]+ records sent).*", "$1"),
    (r"^TIME, TIME, .*", "PERF"),
    (r"(?i)epoch: [0-9]+", "Epoch: N"),
    // What only one of the two has: settings of our own, and one that old tools set.
    (r"^.*(weir\.|message\.format\.version).*$", ""),
    (r"[ \t]+", " "),
    (r" +$", ""),
];

struct Case {
    name: String,
    input: String,
    args: Vec<String>,
}

fn cases() -> Result<Vec<Case>, String> {
    let text = std::fs::read_to_string(top().join(CASES)).map_err(|e| format!("{CASES}: {e}"))?;
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|row| {
        let columns: Vec<&str> = row.split('\t').collect();
        let [name, input, args] = columns[..] else {
            return Err(format!("{CASES}: {row:?} has not three columns"));
        };
        let input = if input == "-" { String::new() } else { unescaped(input) };
        let args = args.split(' ').map(str::to_owned).collect();
        Ok(Case { name: name.to_owned(), input, args })
    })
    .collect()
}

fn unescaped(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

/// What was printed, as lines that are compared.
fn alike(text: &str, patterns: &[(Regex, &str)]) -> BTreeSet<String> {
    let is_said = |line: &&str| !line.trim_start().starts_with("at ") && !line.contains("SLF4J");
    let one = |line: &str| {
        patterns.iter().fold(line.to_owned(), |line, (pattern, stands)| {
            pattern.replace_all(&line, *stands).into_owned()
        })
    };
    text.lines().filter(is_said).map(one).filter(|line| !line.trim().is_empty()).collect()
}

fn command(libs: &Path, address: &str, files: &Path, args: &[String]) -> Vec<String> {
    let put = |arg: &String| {
        let arg = arg.replace("@B", address).replace("@F", &files.display().to_string());
        match arg.strip_prefix("T.") {
            Some(rest) => format!("org.apache.kafka.tools.{rest}"),
            None => arg,
        }
    };
    let flags = ["-Xmx300m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"];
    let mut all: Vec<String> = flags.map(str::to_owned).to_vec();
    all.push(format!("{}/*", libs.display()));
    all.extend(args.iter().map(put));
    all
}

/// Puts every case to one broker: what each printed, by name.
fn ask_all(
    cases: &[Case],
    libs: &Path,
    address: &str,
    files: &Path,
    only: &str,
) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let patterns: Vec<(Regex, &str)> =
        ALIKE.map(|(pattern, stands)| (Regex::new(pattern).expect("tried"), stands)).into();
    let failed = |error: std::io::Error| format!("java: {error}");
    let mut beside: Option<Child> = None;
    let mut found = BTreeMap::new();
    for case in cases.iter().filter(|case| case.name.contains(only)) {
        let args = command(libs, address, files, &case.args);
        if case.name == BEGINS_BESIDE {
            let mut java = Command::new("java");
            java.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            beside = Some(java.spawn().map_err(failed)?);
            sleep(Duration::from_secs(8));
            continue;
        }
        if case.name == ENDS_BESIDE
            && let Some(mut child) = beside.take()
        {
            let _ = child.kill();
            let _ = child.wait();
            sleep(Duration::from_secs(12));
        }
        let mut child = Command::new("timeout")
            .args(["-k", "2", SECONDS_MAX, "java"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let _ = child.stdin.take().expect("piped").write_all(case.input.as_bytes());
        let output = child.wait_with_output().map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + "\n"
            + &String::from_utf8_lossy(&output.stderr);
        let mut lines = alike(&said, &patterns);
        lines.insert(format!("exit code {}", output.status.code().unwrap_or(-1)));
        found.insert(case.name.clone(), lines);
    }
    if let Some(mut child) = beside {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(found)
}

/// Whether Weir's answer to each command is Kafka's. What differs and is not among `known` is told.
pub(crate) fn run(
    home: &Path,
    data: &Path,
    only: &str,
    known: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, bool>, String> {
    let cases = cases()?;
    let libs = kafka::libs()?;
    let files: PathBuf = home.join("files");
    std::fs::create_dir_all(&files).map_err(|error| format!("{}: {error}", files.display()))?;
    for (name, text) in FILES {
        let file = files.join(name);
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let mut wanted = BTreeMap::new();
    // As in the differential test: with several brokers in mind it would pin a setting.
    let format = ["--feature", "eligible.leader.replicas.version=0"];
    let settings = "num.partitions=1\n";
    kafka::with_broker_of(&libs, settings, &format, |address, _, _| {
        wanted = ask_all(&cases, &libs, address, &files, only)?;
        Ok(())
    })?;
    let broker = Broker::start_release(data, &["--group.initial.rebalance.delay.ms", "0"])?;
    let found = ask_all(&cases, &libs, &broker.address, &files, only)?;
    broker.stop()?;
    let mut results = BTreeMap::new();
    for (name, wanted) in &wanted {
        let found = found.get(name).cloned().unwrap_or_default();
        if found != *wanted && !known.contains_key(name) {
            println!("    differs: {name}");
            wanted.difference(&found).for_each(|line| println!("        Kafka: {line:.200}"));
            found.difference(wanted).for_each(|line| println!("        Weir:  {line:.200}"));
        }
        results.insert(name.clone(), found == *wanted);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_the_same_and_what_is_not_is_not() {
        let patterns: Vec<(Regex, &str)> =
            ALIKE.map(|(pattern, stands)| (Regex::new(pattern).unwrap(), stands)).into();
        let same = |a: &str, b: &str| alike(a, &patterns) == alike(b, &patterns);
        assert!(same("x.TopicExistsException: one text\n\tat a.b", "x.TopicExistsException: two"));
        assert!(!same("x.TopicExistsException: a", "x.InvalidTopicException: a"));
        assert!(same("TopicId: AAAAAAAAAAAAAAAAAAAAAQ", "TopicId: BAAAAAAAAAAAAAAAAAAAAQ"));
        assert!(!same("t1:0:5", "t1:0:6"));
        assert!(same("b\na", "a\nb"));
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let cases = cases().unwrap();
        let names: BTreeSet<&String> = cases.iter().map(|case| &case.name).collect();
        assert!(cases.len() > 100 && names.len() == cases.len());
    }
}
