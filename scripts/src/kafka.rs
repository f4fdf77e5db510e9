//! Apache Kafka from Maven Central: its tools, its client and its broker, where there is a JVM.

use crate::steps::{self, top};
use std::path::{Path, PathBuf};

/// What is fetched. Its broker needs Java 17.
pub(crate) const VERSION: &str = "4.1.0";

/// The directory of its jars, fetched once.
///
/// # Errors
/// No Java, no Maven, or nothing to fetch from; the text says which.
pub(crate) fn libs() -> Result<PathBuf, String> {
    let home = top().join("target/compat/apache-kafka").join(VERSION);
    let libs = home.join("libs");
    if libs.join(format!("kafka-clients-{VERSION}.jar")).exists() {
        return Ok(libs);
    }
    for (program, flag) in [("java", "-version"), ("mvn", "--version")] {
        if !steps::works(program, &[flag]) {
            return Err(format!("Apache Kafka needs {program}, and there is none; install it"));
        }
    }
    let dependency = |artifact: &str| {
        format!(
            "<dependency><groupId>org.apache.kafka</groupId><artifactId>{artifact}</artifactId>\
             <version>{VERSION}</version></dependency>"
        )
    };
    let manifest = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>peers</groupId><artifactId>peers</artifactId><version>1</version>\
         <packaging>pom</packaging><dependencies>{}{}</dependencies></project>",
        dependency("kafka_2.13"),
        dependency("kafka-tools")
    );
    std::fs::create_dir_all(&home)
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
