//! Kafka Connect as a judge: two distributed workers copy a growing file and the changes of a PostgreSQL table (Debezium),
//! exactly once, while a worker or the broker is killed; what committed readers find is compared with what was written.

use crate::java_suites::{Jvm, Killed, each, empty};
use crate::kafka;
use crate::steps::{self, Done, free_address, top, works};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For Java 17 and Connect 4.
const DEBEZIUM: &str = "3.6.1.Final";
const WORKERS: [&str; 2] = ["first", "second"];
/// What is written goes on for so many rounds, with trouble in some of them.
const ROUNDS: usize = 30;
const ROUND: Duration = Duration::from_millis(1500);
const LINES_A_ROUND: usize = 400;
const ROWS_A_ROUND: usize = 40;
/// Rows that are there before Debezium comes.
const ROWS_BEFORE: usize = 500;
/// The topic that Debezium writes them to.
const CHANGES: &str = "shop.public.orders";
/// Who has not caught up by then hangs.
const CATCHES_UP: Duration = Duration::from_secs(150);

/// A PostgreSQL server with an empty database and logical decoding, gone when dropped.
struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    port: String,
}

impl Postgres {
    fn start() -> Result<Self, String> {
        let bin = Self::programs()?;
        let dir = std::env::temp_dir().join(format!("weir-connect-{}", std::process::id()));
        empty(&dir)?;
        let address = free_address()?;
        let port = address.rsplit_once(':').expect("host:port").1.to_owned();
        let postgres = Self { bin, dir, port };
        if Self::is_root() {
            // It refuses to be run by root.
            let dir = postgres.dir.display().to_string();
            steps::run("chown", &["postgres", &dir])?;
        }
        let data = postgres.dir.join("data").display().to_string();
        postgres.own("initdb", &["-D", &data, "-A", "trust", "-U", "postgres"])?;
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c wal_level=logical -c fsync=off -c unix_socket_directories={}",
            postgres.port,
            postgres.dir.display()
        );
        let log = postgres.dir.join("log").display().to_string();
        postgres.own("pg_ctl", &["-D", &data, "-w", "-l", &log, "-o", &options, "start"])?;
        Ok(postgres)
    }

    fn is_root() -> bool {
        let asked = Command::new("id").arg("-u").output();
        asked.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
    }

    /// Where its programs are: Debian keeps them out of the path.
    fn programs() -> Result<PathBuf, String> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
        let path = std::env::var_os("PATH").unwrap_or_default();
        found.extend(std::env::split_paths(&path));
        let is_there = |dir: &PathBuf| dir.join("initdb").exists();
        let missing =
            "Debezium needs PostgreSQL's server (initdb), and there is none; install postgresql";
        found.into_iter().find(is_there).ok_or_else(|| missing.to_owned())
    }

    /// One of its programs, as a user that it accepts.
    fn own(&self, program: &str, args: &[&str]) -> Done {
        let program = self.bin.join(program).display().to_string();
        let status = if Self::is_root() {
            let args = [&["-u", "postgres", "--", &program], args].concat();
            Command::new("runuser").args(args).current_dir(&self.dir).stdout(Stdio::null()).status()
        } else {
            Command::new(&program).args(args).stdout(Stdio::null()).status()
        };
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{program}: {status}")),
            Err(error) => Err(format!("{program}: {error}")),
        }
    }

    fn execute(&self, sql: &str) -> Done {
        let psql = self.bin.join("psql").display().to_string();
        let args = [
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            &self.port,
            "-U",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ];
        if works(&psql, &args) { Ok(()) } else { Err(format!("PostgreSQL does not take: {sql}")) }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.dir.join("data").display().to_string();
        let _ = self.own("pg_ctl", &["-D", &data, "-m", "immediate", "stop"]);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The classes of a worker, and the directory of its plug-ins.
fn fetched() -> Result<(String, PathBuf), String> {
    let home = top().join("target/compat/kafka-connect");
    let kafka = |artifact| ("org.apache.kafka", artifact, kafka::VERSION, "");
    let worker = [
        kafka("connect-runtime"),
        kafka("connect-json"),
        kafka("kafka-tools"),
        ("org.slf4j", "slf4j-simple", "1.7.36", ""),
    ];
    let libs = kafka::fetch(&home.join("worker"), &worker, "slf4j-simple-1.7.36.jar")?;
    let plugins = home.join("plugins");
    let file = [kafka("connect-file")];
    let debezium = [("io.debezium", "debezium-connector-postgres", DEBEZIUM, "")];
    let last = format!("debezium-connector-postgres-{DEBEZIUM}.jar");
    let places = [
        (
            "file",
            kafka::fetch(
                &home.join("file"),
                &file,
                &format!("connect-file-{}.jar", kafka::VERSION),
            )?,
        ),
        ("debezium", kafka::fetch(&home.join("debezium"), &debezium, &last)?),
    ];
    let failed = |error: std::io::Error| format!("{}: {error}", plugins.display());
    std::fs::create_dir_all(&plugins).map_err(failed)?;
    for (name, libs) in places {
        let link = plugins.join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(libs, link).map_err(failed)?;
    }
    Ok((format!("{}/*", libs.display()), plugins))
}

/// Asks a worker's REST interface; its status and answer, if it answers.
fn ask(address: &str, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(90))).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

/// Asks until the answer is a good one.
fn until_done(address: &str, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let until = Instant::now() + CATCHES_UP;
    let mut last = None;
    while Instant::now() < until {
        match ask(address, method, path, body) {
            Some((200..=299, answer)) => return Ok(answer),
            // It does not serve yet, or the group is being balanced.
            other => last = other,
        }
        sleep(Duration::from_millis(500));
    }
    Err(format!("Connect: {method} {path}: {last:?}"))
}

/// One Connect cluster, what is given to it, and what is expected of it.
struct Run<'a> {
    work: &'a Path,
    classes: String,
    plugins: PathBuf,
    bootstrap: String,
    workers: BTreeMap<&'static str, (String, Jvm)>,
    lines: Vec<String>,
    /// Of each row, its amounts in order.
    amounts: BTreeMap<u64, Vec<u64>>,
}

impl<'a> Run<'a> {
    fn start_worker(&mut self, name: &'static str, address: &str) -> Done {
        let store = |what: &str| {
            format!("{what}.storage.topic=connect-{what}\n{what}.storage.replication.factor=1\n")
        };
        let text = format!(
            "bootstrap.servers={}\ngroup.id=connect\nlisteners=http://{address}\nplugin.path={}\n\
             plugin.discovery=service_load\nexactly.once.source.support=enabled\noffset.flush.interval.ms=1000\n\
             session.timeout.ms=10000\nscheduled.rebalance.max.delay.ms=2000\n\
             key.converter=org.apache.kafka.connect.json.JsonConverter\n\
             value.converter=org.apache.kafka.connect.json.JsonConverter\n\
             key.converter.schemas.enable=false\nvalue.converter.schemas.enable=false\n{}{}{}",
            self.bootstrap,
            self.plugins.display(),
            store("offset"),
            store("config"),
            store("status")
        );
        let file = self.work.join(format!("{name}.properties"));
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let main = "org.apache.kafka.connect.cli.ConnectDistributed";
        let file = file.display().to_string();
        let jvm = Jvm::start(self.work, name, &self.classes, main, &[&file])?;
        self.workers.insert(name, (address.to_owned(), jvm));
        Ok(())
    }

    /// Any worker's address.
    fn rest(&self) -> &str {
        &self.workers.values().next().expect("one is always there").0
    }

    fn connector(&self, name: &str, class: &str, settings: &Value) -> Done {
        let mut config = json!({ "connector.class": class, "tasks.max": "1" });
        let Value::Object(all) = &mut config else { unreachable!("made above") };
        all.extend(settings.as_object().expect("a table").clone());
        until_done(self.rest(), "PUT", &format!("/connectors/{name}/config"), &config).map(drop)
    }

    /// The worker that runs a connector's task.
    fn worker_of(&self, connector: &str) -> Result<&'static str, String> {
        let path = format!("/connectors/{connector}/status");
        let status = until_done(self.rest(), "GET", &path, &Value::Null)?;
        let id = status["tasks"][0]["worker_id"].as_str().unwrap_or_default();
        let found = self.workers.iter().find(|(_, (address, _))| address == id);
        found.map(|(name, _)| *name).ok_or_else(|| format!("no worker runs {connector}: {status}"))
    }

    /// Another round of lines and of changes, each in a transaction of the database's own.
    fn write(&mut self, round: usize, postgres: &Postgres) -> Done {
        let file = self.work.join("lines.txt");
        let failed = |error: std::io::Error| format!("{}: {error}", file.display());
        let mut text = String::new();
        for _ in 0..LINES_A_ROUND {
            let line = format!("line {}", self.lines.len());
            text += &line;
            text.push('\n');
            self.lines.push(line);
        }
        let mut open = OpenOptions::new().append(true).create(true).open(&file).map_err(failed)?;
        open.write_all(text.as_bytes()).map_err(failed)?;
        let from = self.amounts.len() as u64 + 1;
        let amount = round as u64;
        let changed = from / 2;
        let to = from + ROWS_A_ROUND as u64 - 1;
        postgres.execute(&format!(
            "begin; insert into orders select id, {amount} from generate_series({from}, {to}) id; \
             update orders set amount = {amount} where id between {changed} and {}; commit",
            changed + 9
        ))?;
        (from..=to).for_each(|id| drop(self.amounts.insert(id, vec![amount])));
        for id in changed..changed + 10 {
            self.amounts.get_mut(&id).expect("a row from before").push(amount);
        }
        Ok(())
    }

    /// What committed readers find in a topic from its beginning, within `wait` of silence.
    fn committed(&self, topic: &str, wait: Duration) -> Result<Vec<String>, String> {
        let main = "org.apache.kafka.tools.consumer.ConsoleConsumer";
        let output = Command::new("java")
            .args(["-cp", &self.classes, main, "--bootstrap-server", &self.bootstrap])
            .args(["--topic", topic, "--from-beginning", "--isolation-level", "read_committed"])
            .args(["--timeout-ms", &wait.as_millis().to_string()])
            .stderr(Stdio::null())
            .output()
            .map_err(|error| format!("java: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// What is found of a topic once so many records are there, and for a while after.
    fn settled(&self, topic: &str, expected: usize) -> Result<Vec<String>, String> {
        let until = Instant::now() + CATCHES_UP;
        loop {
            let found = self.committed(topic, Duration::from_secs(6))?;
            if found.len() >= expected || Instant::now() >= until {
                return Ok(found);
            }
        }
    }

    /// Whether every line is there once and in order.
    fn lines_are_right(&self) -> Result<bool, String> {
        let found = self.settled("lines", self.lines.len())?;
        println!("    {} of {} lines", found.len(), self.lines.len());
        Ok(found == self.lines)
    }

    /// Whether each change is there once, those of a row in order.
    fn changes_are_right(&self) -> Result<bool, String> {
        let expected: usize = self.amounts.values().map(Vec::len).sum();
        let found = self.settled(CHANGES, expected)?;
        println!("    {} of {expected} changes", found.len());
        let mut amounts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for change in found {
            let change: Value = serde_json::from_str(&change).map_err(|error| error.to_string())?;
            let (id, amount) = (&change["after"]["id"], &change["after"]["amount"]);
            let (Some(id), Some(amount)) = (id.as_u64(), amount.as_u64()) else { return Ok(false) };
            amounts.entry(id).or_default().push(amount);
        }
        Ok(amounts == self.amounts)
    }

    /// Whether the sink has written every line at least once, which is what it promises.
    fn sink_is_right(&self) -> Result<bool, String> {
        let file = self.work.join("sunk.txt");
        let until = Instant::now() + CATCHES_UP;
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let sunk: std::collections::BTreeSet<&str> = text.lines().collect();
            if self.lines.iter().all(|line| sunk.contains(line.as_str())) {
                return Ok(true);
            }
            if Instant::now() >= until {
                println!("    {} of {} lines in the sink", sunk.len(), self.lines.len());
                return Ok(false);
            }
            sleep(Duration::from_millis(500));
        }
    }
}

/// Copies a file and a table while something is killed.
pub(crate) fn run(home: &Path, data: &Path, only: &str) -> Result<BTreeMap<String, bool>, String> {
    let names = ["while a worker is killed", "while the broker is killed"];
    each(&names, only, |name| {
        let work = home.join(name.replace(' ', "-"));
        empty(&work)?;
        let (classes, plugins) = fetched()?;
        let postgres = Postgres::start()?;
        postgres.execute("create table orders (id bigint primary key, amount bigint not null)")?;
        postgres.execute(&format!(
            "insert into orders select id, 0 from generate_series(1, {ROWS_BEFORE}) id"
        ))?;
        let mut broker = Killed::start(data, &["--group.initial.rebalance.delay.ms", "0"])?;
        let mut run = Run {
            work: &work,
            classes,
            plugins,
            bootstrap: broker.address.clone(),
            workers: BTreeMap::new(),
            lines: Vec::new(),
            amounts: (1..=ROWS_BEFORE as u64).map(|id| (id, vec![0])).collect(),
        };
        for worker in WORKERS {
            run.start_worker(worker, &free_address()?)?;
        }
        let text = "org.apache.kafka.connect.storage.StringConverter";
        let file = work.join("lines.txt").display().to_string();
        let source = json!({
            "file": file, "topic": "lines", "batch.size": "50", "exactly.once.support": "required",
            "transaction.boundary": "poll", "key.converter": text, "value.converter": text
        });
        std::fs::write(&file, "").map_err(|error| format!("{file}: {error}"))?;
        run.connector("lines", "org.apache.kafka.connect.file.FileStreamSourceConnector", &source)?;
        let database = json!({
            "database.hostname": "127.0.0.1", "database.port": postgres.port, "database.user": "postgres",
            "database.password": "none", "database.dbname": "postgres", "topic.prefix": "shop",
            "table.include.list": "public.orders", "plugin.name": "pgoutput",
            "exactly.once.support": "required", "poll.interval.ms": "100"
        });
        let debezium = "io.debezium.connector.postgresql.PostgresConnector";
        run.connector("orders", debezium, &database)?;
        let sink = json!({
            "file": work.join("sunk.txt").display().to_string(), "topics": "lines",
            "key.converter": text, "value.converter": text
        });
        run.connector("sink", "org.apache.kafka.connect.file.FileStreamSinkConnector", &sink)?;
        // What changes before Debezium has read the table it finds changed.
        if run.settled(CHANGES, ROWS_BEFORE)?.len() != ROWS_BEFORE {
            return Err("Debezium has not read the table as it was".to_owned());
        }
        for round in 1..=ROUNDS {
            run.write(round, &postgres)?;
            sleep(ROUND);
            if name.contains("broker") && [6, 12, 18].contains(&round) {
                broker.kill(1, Duration::from_secs(2))?;
            }
            // First whoever reads the file, then whoever reads the table.
            let of = if round == 6 { "lines" } else { "orders" };
            if name.contains("worker") && [6, 18].contains(&round) {
                let worker = run.worker_of(of)?;
                let (address, killed) = run.workers.remove(worker).expect("named by its address");
                drop(killed);
                sleep(Duration::from_secs(3));
                run.start_worker(worker, &address)?;
            }
        }
        let right = run.lines_are_right()? & run.changes_are_right()? & run.sink_is_right()?;
        let workers = std::mem::take(&mut run.workers);
        drop(workers);
        broker.stop()?;
        Ok(right)
    })
}
