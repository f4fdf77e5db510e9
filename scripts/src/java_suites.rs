//! Judges that Apache Kafka's developers wrote for their own broker, from the test jars on Maven Central: Kafka Streams'
//! smoke test and the tester of log compaction; each also while clients and the broker are killed.

use crate::compat::Broker;
use crate::kafka;
use crate::steps::{Done, top, works};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of Kafka's own, beside its broker: artifact and classifier.
const JARS: [(&str, &str); 5] = [
    ("kafka-streams", ""),
    ("kafka-streams", "test"),
    ("kafka-clients", "test"),
    ("kafka-server-common", "test"),
    ("kafka_2.13", "test"),
];
/// Of others: group, artifact, version.
const OTHERS: [(&str, &str, &str); 3] = [
    ("org.junit.jupiter", "junit-jupiter", "5.13.1"),
    ("org.hamcrest", "hamcrest", "3.0"),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
];
const PARTITIONS: &str = "5";
/// What the smoke test reads and writes.
const TOPICS: [&str; 15] = [
    "data",
    "echo",
    "max",
    "min",
    "min-suppressed",
    "min-raw",
    "dif",
    "sum",
    "sws-raw",
    "sws-suppressed",
    "cnt",
    "avg",
    "tagg",
    "fk",
    "repartition",
];
/// A judge that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(420);

/// A program of Java that is killed when dropped.
pub(crate) struct Jvm {
    child: Child,
    log: PathBuf,
}

impl Jvm {
    /// Of these classes; what it says goes to a file of its name in `work`.
    pub(crate) fn start(
        work: &Path,
        name: &str,
        classes: &str,
        main: &str,
        args: &[&str],
    ) -> Result<Self, String> {
        let log = work.join(format!("{name}.log"));
        let failed = |error: std::io::Error| format!("{}: {error}", log.display());
        let out = File::create(&log).map_err(failed)?;
        let child = Command::new("java")
            .args(["-Xmx300m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .arg(format!("-Djava.io.tmpdir={}", work.display()))
            .args(["-cp", classes, main])
            .args(args)
            .stdin(Stdio::null())
            .stderr(out.try_clone().map_err(failed)?)
            .stdout(out)
            .spawn()
            .map_err(|error| format!("java: {error}"))?;
        Ok(Self { child, log })
    }

    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it ends well, in time.
    pub(crate) fn ends_well(&mut self) -> bool {
        let until = Instant::now() + LONGEST;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.success();
            }
            sleep(Duration::from_millis(200));
        }
        false
    }

    /// Asks it to end, and waits until it has.
    fn stop(mut self) -> String {
        let _ = works("kill", &["-TERM", &self.child.id().to_string()]);
        self.ends_well();
        self.said()
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The class path, its jars fetched once.
fn classes() -> Result<String, String> {
    let libs = kafka::libs()?;
    let home = top().join("target/compat/kafka-tests").join(kafka::VERSION);
    let own = JARS
        .map(|(artifact, classifier)| ("org.apache.kafka", artifact, kafka::VERSION, classifier));
    let others = OTHERS.map(|(group, artifact, version)| (group, artifact, version, ""));
    let tests = kafka::fetch(&home, &[&own[..], &others[..]].concat(), "slf4j-simple-1.7.36.jar")?;
    Ok(format!("{}/*:{}/*", libs.display(), tests.display()))
}

/// A broker that can be killed and started again where it was.
pub(crate) struct Killed<'a> {
    broker: Option<Broker>,
    data: &'a Path,
    args: &'a [&'a str],
    pub(crate) address: String,
}

impl<'a> Killed<'a> {
    pub(crate) fn start(data: &'a Path, args: &'a [&'a str]) -> Result<Self, String> {
        let _ = std::fs::remove_dir_all(data);
        let broker = Broker::start_release(data, args)?;
        let address = broker.address.clone();
        Ok(Self { broker: Some(broker), data, args, address })
    }

    /// kill -9 and a start on the same directory, so many times.
    pub(crate) fn kill(&mut self, times: u32, between: Duration) -> Done {
        for _ in 0..times {
            self.broker = None;
            sleep(Duration::from_secs(1));
            let args = [&["--listen", &self.address], self.args].concat();
            self.broker = Some(Broker::start_release(self.data, &args)?);
            sleep(between);
        }
        Ok(())
    }

    pub(crate) fn stop(mut self) -> Done {
        self.broker.take().map_or(Ok(()), Broker::stop)
    }
}

pub(crate) fn empty(dir: &Path) -> Done {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// Runs each of these, tells how long it took, and whether it passed.
pub(crate) fn each(
    names: &[&str],
    only: &str,
    run: impl Fn(&str) -> Result<bool, String>,
) -> Result<BTreeMap<String, bool>, String> {
    let mut results = BTreeMap::new();
    for name in names.iter().filter(|name| name.contains(only)) {
        let began = Instant::now();
        let passed = run(name)?;
        let verdict = if passed { "pass" } else { "FAIL" };
        println!("    {verdict} {:>4} s {name}", began.elapsed().as_secs());
        results.insert((*name).to_owned(), passed);
    }
    Ok(results)
}

/// 20,000 records through every operator of Kafka Streams, exactly once, by two clients of three threads.
pub(crate) fn streams_smoke(
    home: &Path,
    data: &Path,
    only: &str,
) -> Result<BTreeMap<String, bool>, String> {
    each(&["while a client is killed", "while the broker is killed"], only, |name| {
        let work = home.join(name.replace(' ', "-"));
        empty(&work)?;
        let args = ["--group.initial.rebalance.delay.ms", "0"];
        let mut broker = Killed::start(data, &args)?;
        let weir = top().join("target/release/weir").display().to_string();
        for topic in TOPICS {
            let create =
                ["topic", "-b", &broker.address, "create", topic, "--partitions", PARTITIONS];
            if !works(&weir, &create) {
                return Err(format!("topic {topic} cannot be made"));
            }
        }
        // Each with a place of its own for its state.
        let properties = |who: &str| -> Result<String, String> {
            let file = work.join(format!("{who}.properties"));
            let text = format!(
                "bootstrap.servers={}\nprocessing.guarantee=exactly_once_v2\nnum.stream.threads=3\n\
                 num.standby.replicas=1\nreplication.factor=1\nbuffered.records.per.partition=100\n\
                 commit.interval.ms=1000\nauto.offset.reset=earliest\nacks=all\n\
                 acceptable.recovery.lag=9223372036854775807\nsession.timeout.ms=10000\nstate.dir={}\n",
                broker.address,
                work.join(format!("state-{who}")).display()
            );
            std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(file.display().to_string())
        };
        let start = |who: &str, what: &str| {
            let main = "org.apache.kafka.streams.tests.StreamsSmokeTest";
            Jvm::start(&work, who, &classes()?, main, &[&properties(who)?, what])
        };
        let first = start("first", "process")?;
        sleep(Duration::from_secs(10));
        let mut second = start("second", "process")?;
        let mut driver = start("driver", "run")?;
        sleep(Duration::from_secs(30));
        if name.contains("client") {
            drop(second);
            sleep(Duration::from_secs(10));
            second = start("third", "process")?;
        } else {
            broker.kill(5, Duration::from_secs(14))?;
        }
        let ended_well = driver.ends_well();
        let said = driver.said();
        let clients = first.stop() + &second.stop();
        broker.stop()?;
        let has = |line: &str| said.lines().any(|said| said == line);
        // It ends well also when its results are wrong.
        Ok(ended_well
            && has("SUCCESS")
            && has("ALL-RECORDS-DELIVERED")
            && !clients.contains("SMOKE-TEST-CLIENT-EXCEPTION"))
    })
}

/// Writes keys again and again and some tombstones, waits for the cleaner, and compares what is left with what was
/// written, key by key.
pub(crate) fn log_compaction(
    home: &Path,
    data: &Path,
    only: &str,
) -> Result<BTreeMap<String, bool>, String> {
    let names = ["uncompressed", "zstd, three topics", "snappy, while the broker is killed"];
    each(&names, only, |name| {
        let work = home.join(name.replace([' ', ','], "-"));
        empty(&work)?;
        let args = ["--log.cleaner.backoff.ms", "200", "--log.segment.bytes", "200000"];
        let mut broker = Killed::start(data, &args)?;
        let (codec, messages, topics) = match name {
            "uncompressed" => ("none", "100000", "1"),
            "zstd, three topics" => ("zstd", "100000", "3"),
            _ => ("snappy", "500000", "2"),
        };
        let arguments = format!(
            "--bootstrap-server {} --messages {messages} --duplicates 10 --percent-deletes 10 --topics {topics} \
             --compression-type {codec} --sleep 5",
            broker.address
        );
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let mut tester = Jvm::start(
            &work,
            "tester",
            &classes()?,
            "kafka.tools.LogCompactionTester",
            &arguments,
        )?;
        if name.contains("killed") {
            sleep(Duration::from_secs(4));
            broker.kill(4, Duration::from_secs(4))?;
        }
        let ended_well = tester.ends_well();
        let said = tester.said();
        broker.stop()?;
        // A broker that compacts nothing would pass as well.
        let reduction = said.split_once("% reduction)").and_then(|(before, _)| {
            before.rsplit_once('(').and_then(|(_, percent)| percent.parse::<f64>().ok())
        });
        Ok(ended_well
            && said.contains("Data verification is completed")
            && reduction.is_some_and(|percent| percent >= 50.0))
    })
}
