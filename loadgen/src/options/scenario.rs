//! Scenario files: the options by the same names, as TOML; and workloads of the OpenMessaging
//! Benchmark, as YAML. Both become flags in front of those that were given, so that there is one
//! definition of every option.

use crate::options::args::Args;
use std::ffi::OsString;
use std::path::Path;

/// Puts what a scenario or workload file says in front of the flags.
pub(crate) fn expand(args: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let Some((flag, path)) = file_of(&args) else { return Ok(args) };
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{flag} {path}: {error}"))?;
    let flags = match flag {
        "--scenario" => of_toml(&text),
        _ => of_workload(&text, Path::new(&path)),
    };
    let flags = flags.map_err(|why| format!("{flag} {path}: {why}"))?;
    // Behind the program and its command, in front of everything else.
    let first = args.iter().skip(1).position(|arg| arg.to_string_lossy().starts_with("--"));
    let mut line = args;
    let at = first.map_or(line.len(), |at| at + 1);
    line.splice(at..at, flags.into_iter().map(OsString::from));
    Ok(line)
}

fn file_of(args: &[OsString]) -> Option<(&'static str, String)> {
    for (at, arg) in args.iter().enumerate() {
        let arg = arg.to_string_lossy();
        for flag in ["--scenario", "--workload"] {
            if arg == flag {
                return Some((flag, args.get(at + 1)?.to_string_lossy().into_owned()));
            }
            if let Some(path) = arg.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')) {
                return Some((flag, path.to_owned()));
            }
        }
    }
    None
}

/// The flags that a scenario file stands for.
pub(crate) fn flags_of_file(path: &str) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    of_toml(&text).map_err(|why| format!("{path}: {why}"))
}

/// The options that a run was started with, as flags.
pub(crate) fn flags_of(args: &Args) -> Vec<String> {
    let value = serde_json::to_value(args).expect("options become values");
    flags(value.as_object().into_iter().flatten())
}

fn flags<'a>(options: impl Iterator<Item = (&'a String, &'a serde_json::Value)>) -> Vec<String> {
    use serde_json::Value;
    let mut flags = Vec::new();
    for (name, value) in options {
        match value {
            Value::Null | Value::Bool(false) => {}
            Value::Bool(true) => flags.push(format!("--{name}")),
            Value::String(text) => flags.push(format!("--{name}={text}")),
            Value::Array(values) => {
                for value in values {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    flags.push(format!("--{name}={text}"));
                }
            }
            other => flags.push(format!("--{name}={other}")),
        }
    }
    flags
}

fn of_toml(text: &str) -> Result<Vec<String>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let table = serde_json::to_value(table).map_err(|error| error.to_string())?;
    let table = table.as_object().ok_or("expected a table of options")?.clone();
    if let Some((name, _)) = table.iter().find(|(_, value)| value.is_object()) {
        return Err(format!("[{name}]: options stand at the top, without tables"));
    }
    Ok(flags(table.iter()))
}

/// A scenario that repeats a run: every option, with the seed it had.
pub(crate) fn text_of(args: &Args, seed: u64) -> String {
    let value = serde_json::to_value(args).expect("options become values");
    let mut out = format!("# loadgen --scenario THIS repeats the run\nseed = {seed}\n");
    for (name, value) in value.as_object().into_iter().flatten() {
        if value.is_null() || name == "seed" || value.as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        // JSON's strings, numbers, booleans and lists of strings are TOML's as well.
        out += &format!("{name} = {value}\n");
    }
    out
}

/// The fields of a workload that mean something here; others are refused by name rather than
/// ignored, but for those that say nothing about the load.
fn of_workload(text: &str, path: &Path) -> Result<Vec<String>, String> {
    let fields: std::collections::BTreeMap<String, serde_json::Value> =
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let mut flags = Vec::new();
    let number = |name: &str| fields.get(name).and_then(serde_json::Value::as_f64);
    let size = number("messageSize");
    let producers = number("producersPerTopic").unwrap_or(1.0);
    let topics = number("topics").unwrap_or(1.0);
    for (name, value) in &fields {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let count = || value.parse::<f64>().map_err(|_| format!("{name}: {value} is no number"));
        match name.as_str() {
            "topics" => flags.push(format!("--topics={value}")),
            "partitionsPerTopic" => flags.push(format!("--partitions={value}")),
            "messageSize" => flags.push(format!("--record-size={}", count()?.max(40.0))),
            "subscriptionsPerTopic" => flags.push(format!("--groups={value}")),
            "consumerPerSubscription" => flags.push(format!("--consumers={value}")),
            "producersPerTopic" => flags.push(format!("--producers={}", producers * topics)),
            "producerRate" if count()? > 0.0 => flags.push(format!("--rate={value}")),
            // There it means: look for the highest rate.
            "producerRate" => flags.push("--rate=max".to_owned()),
            "testDurationMinutes" => flags.push(format!("--duration={value}m")),
            "warmupDurationMinutes" => flags.push(format!("--warmup={value}m")),
            "randomBytesRatio" => {
                flags.push(format!("--compressibility={}", (1.0 - count()?).clamp(0.0, 1.0)));
            }
            "payloadFile" if size.is_none() || !value.is_empty() => {
                let beside = path.parent().unwrap_or(Path::new(".")).join(&value);
                let file = if beside.exists() { beside } else { Path::new(&value).to_owned() };
                // What the file must be is named by --payload's own error.
                if fields.get("useRandomizedPayloads") != Some(&true.into()) && file.exists() {
                    flags.push(format!("--payload=file:{}", file.display()));
                }
            }
            "keyDistributor" => match value.as_str() {
                "NO_KEY" => {}
                "KEY_ROUND_ROBIN" | "RANDOM_NANO" => flags.push("--key=sequential".to_owned()),
                other => return Err(format!("keyDistributor {other} is not known")),
            },
            "consumerBacklogSizeGB" if count()? == 0.0 => {}
            "name"
            | "useRandomizedPayloads"
            | "randomizedPayloadPoolSize"
            | "backlogDrainRatio"
            | "sampleRateMillis"
            | "payloadFile" => {}
            other => {
                return Err(format!(
                    "the field {other} has no counterpart here: leave it out, and say what it should do by flags"
                ));
            }
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::fs::TemporaryDir;

    fn expanded(name: &str, text: &str, line: &str) -> Result<String, String> {
        let dir = TemporaryDir::new(&std::env::temp_dir(), "scenario").unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let line = line.replace("FILE", &path.display().to_string());
        let args = expand(line.split_whitespace().map(OsString::from).collect())?;
        let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        Ok(args.join(" "))
    }

    #[test]
    fn flags_stand_behind_what_the_file_says() {
        let text =
            "rate = \"100k\"\npartitions = 12\nscale-consumers = true\nassert = [\"a\", \"b\"]\n";
        let line = expanded("s.toml", text, "loadgen search --scenario FILE --rate 5").unwrap();
        assert!(line.starts_with(
            "loadgen search --assert=a --assert=b --partitions=12 --rate=100k --scale-consumers --scenario"
        ), "{line}");
        assert!(line.ends_with("--rate 5"), "{line}");
        for (bad, said) in [("rate = ", "TOML"), ("[load]\nrate = 5", "[load]")] {
            let why = expanded("s.toml", bad, "loadgen --scenario FILE").unwrap_err();
            assert!(why.contains(said) && why.contains("s.toml"), "{why}");
        }
        assert!(expand(vec!["l".into(), "--scenario".into(), "/no/such".into()]).is_err());
    }

    #[test]
    fn a_workload_of_the_open_messaging_benchmark_is_read() {
        let text = "name: 1 topic 16 partitions\ntopics: 1\npartitionsPerTopic: 16\n\
            keyDistributor: \"NO_KEY\"\nmessageSize: 1024\nuseRandomizedPayloads: true\n\
            randomBytesRatio: 0.5\nrandomizedPayloadPoolSize: 1000\nsubscriptionsPerTopic: 2\n\
            consumerPerSubscription: 4\nproducersPerTopic: 4\nproducerRate: 50000\n\
            consumerBacklogSizeGB: 0\ntestDurationMinutes: 15\n";
        let line = expanded("w.yaml", text, "loadgen --workload FILE").unwrap();
        for flag in [
            "--partitions=16",
            "--record-size=1024",
            "--groups=2",
            "--consumers=4",
            "--producers=4",
            "--rate=50000",
            "--duration=15m",
            "--compressibility=0.5",
        ] {
            assert!(line.contains(flag), "{flag}: {line}");
        }
        let why = expanded("w.yaml", "consumerBacklogSizeGB: 5", "loadgen --workload FILE");
        assert!(why.unwrap_err().contains("consumerBacklogSizeGB"));
    }
}
