//! Judges that others wrote: test suites of Kafka clients, fetched from their registries at run time
//! and run against a broker with a clean directory. What is expected to pass, and why the rest is left
//! out, is in engine/weir/tests/compat/suites.toml; the list only grows.

use crate::compat::Broker;
use crate::python::install_python;
use crate::steps::{self, Done, free_address, top, works};
use crate::{connect, java_suites, java_tools, kafka, kgo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const LIST: &str = "engine/weir/tests/compat/suites.toml";

/// The suites, by name.
pub(crate) const SUITES: [&str; 9] = [
    "librdkafka",
    "kafka-python",
    "rdkafka",
    "rskafka",
    "kgo",
    "streams-smoke",
    "log-compaction-tester",
    "connect",
    "java-tools",
];

/// What is expected of a suite.
struct Expected {
    /// The package and its version.
    package: String,
    version: String,
    passing: Vec<String>,
    /// Not passed, with the reason.
    left_out: BTreeMap<String, String>,
    /// What some tests are run with.
    with: BTreeMap<String, String>,
}

impl Expected {
    fn read(suite: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(top().join(LIST)).map_err(|e| format!("{LIST}: {e}"))?;
        let table: toml::Table = text.parse().map_err(|error| format!("{LIST}: {error}"))?;
        let missing = |key: &str| format!("{LIST}: [{suite}] has no {key}");
        let table = table.get(suite).and_then(toml::Value::as_table).ok_or(missing("table"))?;
        let text = |key: &str| {
            let found = table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
            found.ok_or_else(|| missing(key))
        };
        let passing = table.get("passing").and_then(toml::Value::as_array);
        let texts = |value: &toml::Value| value.as_str().map(str::to_owned);
        let map = |key: &str| -> BTreeMap<String, String> {
            let found = table.get(key).and_then(toml::Value::as_table);
            let pair = |(name, value): (&String, &toml::Value)| Some((name.clone(), texts(value)?));
            found.into_iter().flatten().filter_map(pair).collect()
        };
        Ok(Self {
            package: text("package")?,
            version: text("version")?,
            passing: passing.ok_or_else(|| missing("passing"))?.iter().filter_map(texts).collect(),
            left_out: map("left_out"),
            with: map("with"),
        })
    }

    /// Compares with what happened: name and whether it passed.
    fn judge(&self, suite: &str, results: &BTreeMap<String, bool>) -> Done {
        let passed = |name: &str| results.get(name).copied().unwrap_or(false);
        let lost: Vec<&String> = self.passing.iter().filter(|name| !passed(name)).collect();
        for (name, why) in &self.left_out {
            if passed(name) {
                println!("    passes now, move it in {LIST}: {name}");
            } else {
                println!("    left out: {name}: {why}");
            }
        }
        for (name, _) in results.iter().filter(|(name, passed)| {
            **passed && !self.passing.contains(name) && !self.left_out.contains_key(*name)
        }) {
            println!("    passes and is not listed: {name}");
        }
        let (good, all) = (self.passing.len() - lost.len(), self.passing.len());
        println!(
            "    {suite} ({} {}): {good} of {all} expected ones pass, {} left out",
            self.package,
            self.version,
            self.left_out.len()
        );
        if lost.is_empty() { Ok(()) } else { Err(format!("{suite}: failed: {lost:?}")) }
    }
}

/// Runs a suite; with `only`, the tests whose name holds that.
pub(crate) fn run(suite: &str, only: &str) -> Done {
    println!("==> compat {suite}");
    let expected = Expected::read(suite)?;
    let home = top().join("target/compat").join(suite);
    std::fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    steps::run("cargo", &["build", "--quiet", "--release", "-p", "weir"])?;
    let data = home.join("data");
    let _ = std::fs::remove_dir_all(&data);
    let results = match suite {
        "librdkafka" => librdkafka(&expected, &home, &data, only),
        "kgo" => kgo::run(&expected.package, &expected.version, &home, &data, only),
        "streams-smoke" => java_suites::streams_smoke(&home, &data, only),
        "log-compaction-tester" => java_suites::log_compaction(&home, &data, only),
        "connect" => connect::run(&home, &data, only),
        "java-tools" => java_tools::run(&home, &data, only, &expected.left_out),
        "kafka-python" => kafka_python(&expected, &home, &data, only),
        _ => crate_tests(&expected, &home, &data, only),
    };
    let _ = std::fs::remove_dir_all(&data);
    let results = results?;
    if only.is_empty() {
        return expected.judge(suite, &results);
    }
    let failed: Vec<_> = results.iter().filter(|(_, passed)| !**passed).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("{suite}: failed: {failed:?}")) }
}

fn at(dir: &Path, program: &str, args: &[&str]) -> Done {
    println!("    {program} {}", args.join(" "));
    let log = std::fs::File::create(dir.join("build.log")).map_err(|error| error.to_string())?;
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    let status = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .status()
        .map_err(|error| format!("{program}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{program} {} failed: {status}; see {}/build.log", args.join(" "), dir.display()))
}

/// The sources of a crate, as cargo fetched them.
fn fetch_crate(home: &Path, package: &str, version: &str) -> Result<PathBuf, String> {
    let project = home.join("fetch");
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[lib]\npath = \"lib.rs\"\n\
         [dependencies]\n{package} = {{ version = \"={version}\", default-features = false }}\n[workspace]\n"
    );
    let made = std::fs::create_dir_all(&project)
        .and_then(|()| std::fs::write(project.join("Cargo.toml"), manifest))
        .and_then(|()| std::fs::write(project.join("lib.rs"), ""));
    made.map_err(|error| format!("{}: {error}", project.display()))?;
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1"])
        .current_dir(&project)
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("cargo cannot fetch {package} {version}"))?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let found = packages.iter().find(|p| p["name"] == package);
    let path = found.and_then(|p| p["manifest_path"].as_str()).map(PathBuf::from);
    let path = path.and_then(|path| path.parent().map(Path::to_owned));
    path.ok_or_else(|| format!("{package} {version} was not fetched"))
}

fn copy_dir(from: &Path, to: &Path) -> Done {
    let _ = std::fs::remove_dir_all(to);
    let (from, to) = (from.display().to_string(), to.display().to_string());
    if works("cp", &["-r", &from, &to]) {
        Ok(())
    } else {
        Err(format!("cannot copy {from} to {to}"))
    }
}

/// librdkafka as the published rdkafka-sys crate has it, built; the directory of its sources.
pub(crate) fn librdkafka_source() -> Result<PathBuf, String> {
    let expected = Expected::read("librdkafka")?;
    let home = top().join("target/compat/librdkafka");
    std::fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let source = home.join(format!("librdkafka-{}", expected.version));
    let config = std::fs::read_to_string(source.join("Makefile.config")).unwrap_or_default();
    if !source.join("src/librdkafka.a").exists() || !config.contains("WITH_RAPIDJSON=\ty") {
        // Some of its tests read statistics with it.
        let header = Path::new("/usr/include/rapidjson/schema.h");
        if !header.exists() && !steps::install_debian("rapidjson-dev") {
            return Err("librdkafka's tests need RapidJSON; install rapidjson-dev".into());
        }
        let fetched = fetch_crate(&home, &expected.package, &expected.version)?;
        copy_dir(&fetched.join("librdkafka"), &source)?;
        at(&source, "./configure", &["--disable-sasl", "--disable-ssl", "--disable-curl"])?;
        for dir in ["src", "src-cpp"] {
            at(&source, "make", &["-C", dir, "all", "-j2"])?;
        }
    }
    Ok(source)
}

/// librdkafka's test-runner.
fn librdkafka(
    expected: &Expected,
    home: &Path,
    data: &Path,
    only: &str,
) -> Result<BTreeMap<String, bool>, String> {
    let source = librdkafka_source()?;
    let tests = source.join("tests");
    if !tests.join("test-runner").exists() {
        at(&source, "make", &["-C", "tests", "test-runner", "-j2"])?;
    }
    let weir = top().join("target/release/weir");
    // One test's other producer is Kafka's Java client.
    let kafka = home.join("kafka");
    kafka::lay_out(&kafka)?;
    if !tests.join("java/TransactionProducerCli.class").exists() {
        let kafka = format!("KAFKA_PATH={}", kafka.display());
        at(&source, "make", &["-C", "tests/java", &kafka])?;
    }
    // Two tests make their topic with Kafka's own script: this is what stands for it.
    let bin = kafka.join("bin");
    let script =
        format!("#!/bin/sh\n{}\n", TOPICS_SCRIPT.replace("@weir@", &weir.display().to_string()));
    let made = std::fs::create_dir_all(&bin)
        .and_then(|()| std::fs::write(bin.join("kafka-topics.sh"), script));
    made.map_err(|error| format!("{}: {error}", bin.display()))?;
    steps::make_executable(&bin.join("kafka-topics.sh"))?;
    // Written for a cluster of three that looks for what to compact more often.
    let flags =
        "--num.partitions 4 --weir.clamp.replication.factor true --log.cleaner.backoff.ms 500";
    let flags: Vec<&str> = flags.split(' ').collect();
    let broker = Broker::start_release(data, &flags)?;
    let strict = [&flags[..], &["--auto.create.topics.enable", "false"]].concat();
    let strict = Broker::start_release(&data.join("strict"), &strict)?;
    let config = home.join("test.conf");
    let mut results = BTreeMap::new();
    for name in expected.passing.iter().filter(|name| name.contains(only)) {
        let start = Instant::now();
        let with = expected.with.get(name).map_or("-V 3.9.0", String::as_str);
        let broker = if with.contains("noautocreate") { &strict } else { &broker };
        std::fs::write(&config, format!("bootstrap.servers={}\n", broker.address))
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let version: &[&str] = if with.contains("-V") { &[] } else { &["-V", "3.9.0"] };
        // Each for itself, whole, and for at most so long.
        let output = Command::new("timeout")
            .args(["-k", "5", "900", "./test-runner", "-p1", "-L"])
            .args(version)
            .args(with.split(' '))
            .current_dir(&tests)
            .env("LD_LIBRARY_PATH", "../src:../src-cpp")
            .env("RDKAFKA_TEST_CONF", &config)
            .env("TESTS", name)
            .env("KAFKA_PATH", &kafka)
            .env("BROKERS", &broker.address)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("test-runner: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let said = without_colours(&said);
        let row = said.lines().rev().find(|l| l.contains(&format!("| {name} ")));
        let passed = output.status.success() && row.is_some_and(|row| row.contains("PASSED"));
        println!(
            "    {} {:>4} s {name}",
            if passed { "pass" } else { "FAIL" },
            start.elapsed().as_secs()
        );
        if !passed {
            let _ = std::fs::write(home.join(format!("{name}.log")), &said);
        }
        results.insert(name.clone(), passed);
    }
    strict.stop()?;
    broker.stop()?;
    Ok(results)
}

/// Text without a terminal's escape sequences.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// kafka-topics.sh in the little that the suite needs of it.
const TOPICS_SCRIPT: &str = r#"topic= partitions=-1 verb= configs=
while [ $# -gt 0 ]; do
  case "$1" in
    --create|--alter|--delete) verb="${1#--}";;
    --bootstrap-server) WEIR_BOOTSTRAP_SERVER="$2"; export WEIR_BOOTSTRAP_SERVER; shift;;
    --topic) topic="$2"; shift;;
    --partitions) partitions="$2"; shift;;
    --config) configs="$configs --config $2"; shift;;
    --replication-factor) shift;;
  esac
  shift
done
case "$verb" in
  create) exec @weir@ topic create "$topic" --partitions "$partitions" $configs;;
  alter) exec @weir@ topic alter "$topic" --partitions "$partitions";;
  delete) exec @weir@ topic delete "$topic";;
esac
exit 2"#;

/// kafka-python's integration tests, from its source distribution.
fn kafka_python(
    expected: &Expected,
    home: &Path,
    data: &Path,
    only: &str,
) -> Result<BTreeMap<String, bool>, String> {
    let tools =
        ["pytest", "pytest-timeout", "pytest-mock", "py", "python-snappy", "lz4", "zstandard"];
    let python = install_python("python-suite", &tools)?;
    let name = format!("kafka_python-{}", expected.version);
    let source = home.join(&name);
    if !source.join("test/service.py").exists() {
        let package = format!("{}=={}", expected.package, expected.version);
        let pip =
            ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", &package];
        at(home, &python, &pip)?;
        at(home, "tar", &["xzf", &format!("{name}.tar.gz")])?;
        // The distribution leaves out what starts servers; ours runs already.
        let write = |file: &str, text: &str| std::fs::write(source.join(file), text);
        write("test/__init__.py", "")
            .and_then(|()| write("test/service.py", SERVICE))
            .and_then(|()| std::fs::create_dir_all(source.join("servers/4.1.0/kafka-bin")))
            .and_then(|()| std::fs::create_dir_all(source.join("servers/4.1.0/resources")))
            .map_err(|error| format!("{}: {error}", source.display()))?;
    }
    let listen = free_address()?;
    let args = [
        "--node.id=0",
        "--num.partitions=4",
        "--group.initial.rebalance.delay.ms=0",
        "--group.min.session.timeout.ms=100",
        &format!("--listen={listen}"),
        &format!("--advertised.listeners={listen}"),
    ];
    let broker = Broker::start_release(data, &args)?;
    let mut results = BTreeMap::new();
    let wanted: Vec<&String> = expected.passing.iter().filter(|n| n.contains(only)).collect();
    let output = Command::new("timeout")
        .args(["-k", "5", "1200", &python, "-m", "pytest", "-v", "-W", "ignore"])
        .args([
            "--timeout",
            "90",
            "--timeout-method=signal",
            "--tb=short",
            "-p",
            "no:cacheprovider",
        ])
        .args(wanted.iter().map(|name| format!("test/integration/{name}")))
        .current_dir(&source)
        .env("KAFKA_URI", format!("kafka://{}", broker.address))
        .env("KAFKA_VERSION", "4.1.0")
        .env("PYTHONPATH", ".")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("pytest: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let _ = std::fs::write(home.join("pytest.log"), &said);
    for name in wanted {
        let passed = said.lines().any(|l| l.contains(&format!("/{name} ")) && l.contains("PASSED"));
        println!("    {} {name}", if passed { "pass" } else { "FAIL" });
        results.insert(name.clone(), passed);
    }
    broker.stop()?;
    Ok(results)
}
const SERVICE: &str = "class ExternalService:\n    def __init__(self, host, port):\n        \
                       self.host, self.port = host, port\n    def open(self): pass\n    \
                       def close(self): pass\n    def stop(self): pass\n    \
                       def dump_logs(self): pass\n\n\nclass SpawnedService(ExternalService):\n    pass\n";

/// The tests of a published Rust crate.
fn crate_tests(
    expected: &Expected,
    home: &Path,
    data: &Path,
    only: &str,
) -> Result<BTreeMap<String, bool>, String> {
    let source = home.join(format!("{}-{}", expected.package, expected.version));
    if !source.join("Cargo.toml").exists() {
        let fetched = fetch_crate(home, &expected.package, &expected.version)?;
        copy_dir(&fetched, &source)?;
        let manifest = source.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).map_err(|error| error.to_string())?;
        std::fs::write(&manifest, text + "\n[workspace]\n").map_err(|error| error.to_string())?;
        // It is to be built by the compiler that there is.
        let _ = std::fs::remove_file(source.join("rust-toolchain.toml"));
        let _ = std::fs::remove_file(source.join("Cargo.lock"));
    }
    // Some tests look for Kafka's own port and first id, whatever they are told.
    let args = [
        "--listen=127.0.0.1:9092",
        "--num.partitions=3",
        "--group.initial.rebalance.delay.ms=0",
        "--node.id=0",
        // One of them expects topics to be made when they are asked for, the other that they are not.
        &format!("--auto.create.topics.enable={}", expected.package == "rdkafka"),
    ];
    let broker = Broker::start_release(data, &args)?;
    let mut results = BTreeMap::new();
    let mut command = Command::new("cargo");
    command
        .args(["test", "--no-fail-fast", "--test", "*"])
        .current_dir(&source)
        .env("CARGO_TARGET_DIR", home.join("target"))
        .env_remove("RUSTFLAGS")
        .env("KAFKA_HOST", &broker.address)
        .env("KAFKA_VERSION", "3.9.0")
        .env("TEST_INTEGRATION", "1")
        .env("TEST_BROKER_IMPL", "kafka")
        .env("KAFKA_CONNECT", &broker.address)
        .stdin(Stdio::null());
    command.args(["--", "--test-threads=1"]);
    if !only.is_empty() {
        command.arg(only);
    }
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let _ = std::fs::write(home.join("test.log"), &said);
    for line in said.lines() {
        let Some((name, verdict)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        else {
            continue;
        };
        if verdict.starts_with("ok") || verdict.starts_with("FAILED") {
            results.insert(name.to_owned(), verdict.starts_with("ok"));
        }
    }
    broker.stop()?;
    Ok(results)
}
