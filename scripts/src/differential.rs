//! The same requests to Weir and to Apache Kafka, and their answers compared: the test is in
//! engine/weir/tests/differential.rs, and what may differ in compat/differences.toml beside it.

use crate::kafka;
use crate::steps::{self, Done};

/// What makes the answers of a run those of every run: nothing is deleted by the clock, no feature is on that needs
/// several brokers.
const SETTINGS: &str =
    "auto.create.topics.enable=false\nlog.initial.task.delay.ms=100000000\nnum.partitions=1\n";
const FEATURES: [&str; 2] = ["--feature", "eligible.leader.replicas.version=0"];

/// Asks so many requests of a seed; with `only`, differences of other APIs are not told.
pub(crate) fn run(seed: u64, runs: u64, only: &str) -> Done {
    println!("==> differential, seed {seed}, {runs} requests");
    let libs = kafka::libs()?;
    kafka::with_broker_of(&libs, SETTINGS, &FEATURES, |address, _, _| {
        let variables = [
            format!("WEIR_KAFKA={address}"),
            format!("WEIR_SEED={seed}"),
            format!("WEIR_RUNS={runs}"),
            format!("WEIR_ONLY={only}"),
        ];
        let cargo = ["cargo", "test", "--quiet", "-p", "weir", "--test", "differential", "--"];
        let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
        steps::run("env", &[&variables[..], &cargo, &["--ignored", "--nocapture"]].concat())
    })
}
