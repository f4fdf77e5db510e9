//! Real, unmodified clients against the real binary: what goes in comes out byte for byte, also after
//! a restart and after kill -9; programs with groups, commits and transactions as people write them.
//! Clients are installed in target/compat; what cannot be is skipped aloud.

use crate::python::install_python;
use crate::steps::{self, Done, top, works};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

struct Client {
    name: &'static str,
    program: String,
    script: &'static str,
    /// Programs as people write them with it: groups, commits, lag, transactions, compacted topics.
    programs: &'static [&'static str],
}

/// Installs the clients and runs the rounds.
pub(crate) fn run() -> Done {
    println!("==> compat");
    let home = top().join("target/compat");
    std::fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let mut skipped = Vec::new();
    let clients = install(&home, &mut skipped);
    let has_kcat = works("kcat", &["-V"]) || steps::install_debian("kcat");
    if !has_kcat {
        skipped.push("kcat: not installed, and apt-get could not".to_owned());
    }
    steps::run("cargo", &["build", "--quiet", "-p", "weir"])?;
    let data = home.join(format!("data-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&data);
    let result = rounds(&data, &clients, has_kcat);
    let _ = std::fs::remove_dir_all(&data);
    for skip in &skipped {
        println!("    SKIPPED {skip}");
    }
    result?;
    let ran = clients.len() + usize::from(has_kcat);
    println!("    compat: {ran} clients passed, {} skipped", skipped.len());
    crate::exactly_once::run(8, 1)
}

fn install(home: &Path, skipped: &mut Vec<String>) -> Vec<Client> {
    let mut clients = Vec::new();
    let venv = |name: &str, packages: &[&str], skipped: &mut Vec<String>| -> Option<String> {
        install_python(name, packages).map_err(|why| skipped.push(format!("{name}: {why}"))).ok()
    };
    let codecs = ["python-snappy", "lz4", "zstandard", "cramjam"];
    let new = [&["confluent-kafka", "kafka-python", "aiokafka"], &codecs[..]].concat();
    if let Some(python) = venv("python-new", &new, skipped) {
        for (name, script, programs) in [
            ("confluent-kafka", "confluent.py", &["programs_confluent.py"][..]),
            (
                "kafka-python (newest)",
                "kafka_python.py",
                &["programs_kafka_python.py", "ledger_kafka_python.py"],
            ),
            ("aiokafka", "aiokafka_client.py", &["programs_aiokafka.py"]),
        ] {
            clients.push(Client { name, program: python.clone(), script, programs });
        }
    }
    for (home, name, package, programs) in [
        (
            "python-old",
            "kafka-python 2.0.2",
            "kafka-python==2.0.2",
            &["programs_kafka_python.py"][..],
        ),
        (
            "python-23",
            "kafka-python 2.3.0",
            "kafka-python==2.3.0",
            &["programs_kafka_python.py", "registry_kafka_python.py"],
        ),
    ] {
        if let Some(python) = venv(home, &[&[package, "six"], &codecs[..]].concat(), skipped) {
            clients.push(Client { name, program: python, script: "kafka_python.py", programs });
        }
    }
    let node = home.join("node");
    for (name, package, script, programs) in [
        ("kafkajs", "kafkajs", "kafkajs_client.js", &["programs_kafkajs.js"]),
        (
            "platformatic",
            "@platformatic/kafka",
            "platformatic_client.mjs",
            &["platformatic_client.mjs"],
        ),
    ] {
        let there = node.join("node_modules").join(package).exists();
        let prefix = node.display().to_string();
        if there || works("npm", &["install", "--silent", "--prefix", &prefix, package]) {
            clients.push(Client { name, program: "node".to_owned(), script, programs });
        } else {
            skipped.push(format!("{name}: npm could not install it"));
        }
    }
    clients
}

/// Produce and consume; restart; kill -9: after each everything is still there, once.
fn rounds(data: &Path, clients: &[Client], has_kcat: bool) -> Done {
    let broker = Broker::start(data)?;
    for client in clients {
        client.run("produce", &broker.address)?;
        client.run("consume", &broker.address)?;
    }
    if has_kcat {
        kcat_produce(&broker.address, "kcat")?;
        kcat_consume(&broker.address, "kcat", 1000)?;
    }
    programs(clients, "programs", &broker.address)?;
    let reads_kafkajs = has_kcat && clients.iter().any(|client| client.name == "kafkajs");
    if reads_kafkajs {
        kcat_reads_kafkajs(&broker.address)?;
    }
    println!("    restart");
    broker.stop()?;
    let broker = Broker::start(data)?;
    for client in clients {
        client.run("consume", &broker.address)?;
    }
    if has_kcat {
        kcat_consume(&broker.address, "kcat", 1000)?;
        kcat_produce(&broker.address, "kcat")?;
    }
    println!("    kill -9");
    drop(broker);
    let broker = Broker::start(data)?;
    for client in clients {
        client.run("consume", &broker.address)?;
    }
    programs(clients, "committed", &broker.address)?;
    if has_kcat {
        kcat_consume(&broker.address, "kcat", 2000)?;
    }
    if reads_kafkajs {
        kcat_reads_kafkajs(&broker.address)?;
    }
    broker.stop()
}

impl Client {
    fn run(&self, mode: &str, address: &str) -> Done {
        let output = self.command(self.script, mode, address).output();
        self.judge(self.script, mode, output)
    }

    fn command(&self, script: &str, mode: &str, address: &str) -> Command {
        let scripts = top().join("engine/weir/tests/compat");
        let modules: PathBuf = top().join("target/compat/node/node_modules");
        let prefix: String = self.name.chars().filter(char::is_ascii_alphanumeric).collect();
        // A client that waits for ever is a failure, not a hang.
        let mut command = Command::new("timeout");
        command
            .args(["-k", "5", "180", &self.program])
            .arg(scripts.join(script))
            .args([mode, address, &prefix])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONWARNINGS", "ignore")
            .env("NODE_PATH", modules)
            .env("KAFKAJS_NO_PARTITIONER_WARNING", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn judge(
        &self,
        script: &str,
        mode: &str,
        output: std::io::Result<std::process::Output>,
    ) -> Done {
        let output = output.map_err(|error| format!("{}: {error}", self.name))?;
        if output.status.success() {
            println!("    {} {mode}: ok ({script})", self.name);
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("{} {mode} failed ({script}): {}\n{said}", self.name, output.status))
    }
}

/// Everyone's programs at once: they mostly wait for each other's sessions to end.
fn programs(clients: &[Client], mode: &str, address: &str) -> Done {
    let each = clients.iter().flat_map(|client| client.programs.iter().map(move |p| (client, *p)));
    let started: Vec<_> = each
        .map(|(client, script)| (client, script, client.command(script, mode, address).spawn()))
        .collect();
    let mut done = Ok(());
    for (client, script, child) in started {
        let judged = client.judge(script, mode, child.and_then(Child::wait_with_output));
        if done.is_ok() {
            done = judged;
        }
    }
    done
}

fn kcat_produce(address: &str, topic: &str) -> Done {
    let mut kcat = Command::new("kcat")
        .args(["-P", "-b", address, "-t", topic, "-K", ":", "-z", "lz4", "-X", "acks=all"])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("kcat: {error}"))?;
    let lines: String = (0..1000).map(|n| format!("key{n}:value {n}\n")).collect();
    let written = kcat.stdin.take().expect("piped").write_all(lines.as_bytes());
    written.map_err(|error| format!("kcat: {error}"))?;
    let status = kcat.wait().map_err(|error| format!("kcat: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("kcat -P failed: {status}")) }
}

fn kcat_consume(address: &str, topic: &str, records: usize) -> Done {
    let expected: String =
        (0..records).map(|n| format!("{n} key{0}:value {0}\n", n % 1000)).collect();
    kcat_reads(address, topic, "0", "%o %k:%s\n", &expected)
}

/// What kafkajs wrote, without compression and with gzip: keys, null keys, values, headers.
fn kcat_reads_kafkajs(address: &str) -> Done {
    let line = |codec: usize, n: usize| {
        let key = if n % 2 == 1 { format!("key-{n}") } else { "NULL".to_owned() };
        format!("{} {key}:value-{codec}-{n} h={n}\n", codec * 100 + n)
    };
    let expected: String =
        [0, 1].into_iter().flat_map(|codec| (0..100).map(move |n| line(codec, n))).collect();
    kcat_reads(address, "kafkajs-kafkajs", "1", "%o %k:%s %h\n", &expected)
}

fn kcat_reads(address: &str, topic: &str, partition: &str, format: &str, expected: &str) -> Done {
    let output = Command::new("kcat")
        .args(["-C", "-b", address, "-t", topic, "-p", partition, "-e", "-q", "-Z"])
        .args(["-o", "beginning", "-f", format])
        .output()
        .map_err(|error| format!("kcat: {error}"))?;
    let got = String::from_utf8_lossy(&output.stdout);
    if got == expected {
        println!("    kcat reads {topic}: ok, {} records", expected.lines().count());
        return Ok(());
    }
    let (got, wanted) =
        got.lines().chain([""]).zip(expected.lines()).find(|(g, w)| g != w).unwrap_or_default();
    Err(format!("kcat: {topic}: expected {wanted:?}, read {got:?} ({})", output.status))
}

/// A running `weir serve`; dropping it is kill -9.
pub(crate) struct Broker {
    child: Child,
    pub(crate) address: String,
}

impl Broker {
    fn start(data: &Path) -> Result<Self, String> {
        let no_delay = ["--group.initial.rebalance.delay.ms", "0"];
        Self::start_as("debug", data, &[&["--listen", "127.0.0.1:0"], &no_delay[..]].concat())
    }

    /// The optimised program with these flags; on a free port unless they say where.
    pub(crate) fn start_release(data: &Path, args: &[&str]) -> Result<Self, String> {
        let says_where = args.iter().any(|arg| arg.starts_with("--listen"));
        let listen: &[&str] = if says_where { &[] } else { &["--listen", "127.0.0.1:0"] };
        Self::start_as("release", data, &[listen, args].concat())
    }

    fn start_as(profile: &str, data: &Path, args: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(top().join("target").join(profile).join("weir"))
            .arg("serve")
            .args(args)
            .arg("--data-dir")
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("weir: {error}"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).map_err(|error| format!("weir: {error}"))?;
        let address = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let Some(address) = address else {
            let _ = child.kill();
            return Err("weir did not start; run it by hand to see why".to_owned());
        };
        Ok(Self { child, address })
    }

    pub(crate) fn stop(mut self) -> Done {
        let pid = self.child.id().to_string();
        if !works("kill", &["-INT", &pid]) {
            return Err("weir is gone before it was stopped".to_owned());
        }
        let status = self.child.wait().map_err(|error| format!("weir: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("weir stopped with {status}")) }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
