//! Apache Kafka from Maven Central: its tools, its client and its broker, where there is a JVM.

use crate::started::{PARTITIONS, empty_home, with_started};
use crate::steps::{self, Done, free_address, top};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is fetched. Its broker needs Java 17.
pub(crate) const VERSION: &str = "4.1.0";

/// The directory of its jars, fetched once.
///
/// # Errors
/// No Java, no Maven, or nothing to fetch from; the text says which.
pub(crate) fn libs() -> Result<PathBuf, String> {
    let home = top().join("target/compat/apache-kafka").join(VERSION);
    let own =
        ["kafka_2.13", "kafka-tools"].map(|artifact| ("org.apache.kafka", artifact, VERSION, ""));
    fetch(&home, &own, &format!("kafka-clients-{VERSION}.jar"))
}

/// Fetches these (group, artifact, version, classifier or nothing) and all they need, once: until `last` is there.
///
/// # Errors
/// As `libs`.
pub(crate) fn fetch(
    home: &Path,
    wanted: &[(&str, &str, &str, &str)],
    last: &str,
) -> Result<PathBuf, String> {
    let libs = home.join("libs");
    if libs.join(last).exists() {
        return Ok(libs);
    }
    for (program, flag) in [("java", "-version"), ("mvn", "--version")] {
        if !steps::works(program, &[flag]) {
            return Err(format!("Apache Kafka needs {program}, and there is none; install it"));
        }
    }
    let dependency = |(group, artifact, version, classifier): &(&str, &str, &str, &str)| {
        let classifier = match *classifier {
            "" => String::new(),
            classifier => format!("<classifier>{classifier}</classifier>"),
        };
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version>{classifier}</dependency>"
        )
    };
    let manifest = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>peers</groupId><artifactId>peers</artifactId><version>1</version>\
         <packaging>pom</packaging><dependencies>{}</dependencies></project>",
        wanted.iter().map(dependency).collect::<String>()
    );
    std::fs::create_dir_all(home)
        .and_then(|()| std::fs::write(home.join("pom.xml"), manifest))
        .map_err(|error| format!("{}: {error}", home.display()))?;
    let file = home.join("pom.xml").display().to_string();
    let to = format!("-DoutputDirectory={}", libs.display());
    steps::run("mvn", &["-q", "-B", "-f", &file, "dependency:copy-dependencies", &to])?;
    Ok(libs)
}

/// `bin/kafka-run-class.sh` in a directory laid out as Kafka's releases, with its jars beside it.
pub(crate) fn lay_out(home: &Path) -> Result<(), String> {
    let libs = libs()?;
    let bin = home.join("bin");
    let script = bin.join("kafka-run-class.sh");
    let text = format!("#!/bin/sh\nexec java -cp \"$CLASSPATH:{}/*\" \"$@\"\n", libs.display());
    let failed = |error: std::io::Error| format!("{}: {error}", home.display());
    std::fs::create_dir_all(&bin).and_then(|()| std::fs::write(&script, text)).map_err(failed)?;
    let _ = std::fs::remove_file(home.join("libs"));
    std::os::unix::fs::symlink(&libs, home.join("libs")).map_err(failed)?;
    steps::make_executable(&script)
}

/// A fresh Apache Kafka of one node, with the flags its own start script gives the JVM.
pub(crate) fn with_broker(
    libs: &Path,
    settings: &str,
    body: impl FnOnce(&str, u32, &Path) -> Done,
) -> Done {
    with_broker_of(libs, settings, &[], body)
}

/// The same, its directory formatted with these flags beside.
pub(crate) fn with_broker_of(
    libs: &Path,
    settings: &str,
    format: &[&str],
    body: impl FnOnce(&str, u32, &Path) -> Done,
) -> Done {
    let home = empty_home()?;
    let [listen, controller] = [free_address()?, free_address()?];
    let properties = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{controller}\n\
         listeners=PLAINTEXT://{listen},CONTROLLER://{controller}\n\
         advertised.listeners=PLAINTEXT://{listen}\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={}\nnum.partitions={PARTITIONS}\noffsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n{settings}",
        home.join("data").display()
    );
    let file = home.join("server.properties");
    std::fs::write(&file, properties).map_err(|error| error.to_string())?;
    let classes = format!("{}/*", libs.display());
    let formatted = Command::new("java")
        .args(["-cp", &classes, "kafka.tools.StorageTool", "format", "-t"])
        .arg("MkU3OEVBNTcwNTJENDM2Qg")
        .args(format)
        .arg("-c")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !formatted.is_ok_and(|status| status.success()) {
        return Err(format!("Apache Kafka cannot format {}", home.display()));
    }
    let mut server = Command::new("java");
    server
        .args("-Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20".split(' '))
        .args("-XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent".split(' '))
        .args(["-Djava.awt.headless=true", "-cp", &classes, "kafka.Kafka"])
        .arg(&file);
    with_started("Apache Kafka", &listen, &home, &mut server, body)
}
