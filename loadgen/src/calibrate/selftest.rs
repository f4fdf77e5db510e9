//! `loadgen selftest`: how fast this generator is here, what measuring costs, and whether it tells the
//! truth about a stall of known length.

use crate::calibrate::sink::{Sink, Stall};
use crate::ending::{Ending, Failure};
use crate::judge::result::RunResult;
use crate::many::statistics::median;
use crate::options::flags::parse_run;
use crate::report::output::{Output, pretty};
use crate::report::words::thousands;
use crate::run::execute::execute;
use crate::run::session::Session;
use crate::run::target::Target;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// The stall that must show: 1 s of 4 s at a steady rate.
const STALL: Stall = Stall { at: Duration::from_millis(1500), long: Duration::from_secs(1) };
const STALL_FLAGS: &str = "--rate 5000 --duration 4s --warmup 0s --partitions 4 --producers 1 \
                           --consumers 0 --acks 1 --linger-ms 1 --record-size 100";
/// Where percentiles of latencies from 0 to 1 s, had by a quarter of the records, must be.
const STALL_P90_MS: (f64, f64) = (500.0, 750.0);
const STALL_P99_MS: (f64, f64) = (880.0, 1150.0);
const CEILING_FLAGS: &str = "--rate max --duration 4s --warmup 1s --partitions 12 --producers 1 \
                             --consumers 0 --acks 1 --linger-ms 20 --batch-size 131072";

/// `loadgen selftest`.
#[derive(clap::Args, Debug)]
pub(crate) struct SelftestArgs {
    /// Runs of each kind, medians are shown; 0: only the stall
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=50))]
    rounds: u32,
    /// Directory for the results
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Median rate and cost of some runs.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Ceiling {
    record_bytes: u32,
    timed: bool,
    records_per_s: f64,
    cpu_s_per_million_records: f64,
    /// Of one core fully used.
    records_per_core_s: f64,
}

async fn against_sink(
    flags: &str,
    stall: Option<Stall>,
    session: &Session,
    output: &Output,
    name: &str,
) -> Result<RunResult, Failure> {
    let fixed = ["--quiet", "--topic=sink", "--keep-topic"];
    let mut run = parse_run(flags.split_whitespace().chain(fixed).map(Into::into))?;
    let sink = Sink::start(run.partitions, stall).map_err(Failure::unreachable)?;
    run.bootstrap_server = Some(sink.address().to_owned());
    run.broker_pid = Some(sink.pid());
    let dir = output.part(name)?;
    let target = Target::of(&run)?;
    execute(&run, &target, session, &dir).await
}

/// What the runs of each size of record come to.
fn ceilings_of(measured: &[(u32, bool, Vec<RunResult>)]) -> Vec<Ceiling> {
    measured
        .iter()
        .filter(|(.., results)| !results.is_empty())
        .map(|(record_bytes, timed, results)| {
            let of = |value: fn(&RunResult) -> f64| {
                median(&results.iter().map(value).collect::<Vec<_>>())
            };
            let cost = of(|r| r.resources.loadgen.cpu_s_per_million_records);
            Ceiling {
                record_bytes: *record_bytes,
                timed: *timed,
                records_per_s: of(|r| r.throughput.acknowledged_per_s),
                cpu_s_per_million_records: cost,
                records_per_core_s: 1e6 / cost.max(1e-9),
            }
        })
        .collect()
}

pub(crate) async fn run(args: SelftestArgs, session: Session) -> Result<Ending, Failure> {
    let output = Output::make(args.output.as_deref(), "selftest")?;
    let mut ceilings: Vec<(u32, bool, Vec<RunResult>)> =
        vec![(100, true, vec![]), (100, false, vec![]), (1024, true, vec![])];
    for round in 0..args.rounds {
        for (bytes, timed, results) in &mut ceilings {
            if session.is_interrupted() {
                return Ok(Ending::Interrupted);
            }
            let timing = if *timed { "" } else { "--without-timing" };
            let flags = format!("{CEILING_FLAGS} --record-size {bytes} {timing}");
            let name =
                format!("{bytes}-{}-{}", if *timed { "timed" } else { "untimed" }, round + 1);
            results.push(against_sink(&flags, None, &session, &output, &name).await?);
        }
    }
    let ceilings = ceilings_of(&ceilings);
    let stalled = against_sink(STALL_FLAGS, Some(STALL), &session, &output, "stall").await?;
    let (p90, p99) = (stalled.latency.produce.p90_ms, stalled.latency.produce.p99_ms);
    let within = |found: Option<f64>, (low, high): (f64, f64)| {
        found.is_some_and(|ms| low <= ms && ms <= high)
    };
    let honest = within(p90, STALL_P90_MS) && within(p99, STALL_P99_MS);
    let measuring = match &ceilings[..] {
        [timed, untimed, ..] => {
            timed.cpu_s_per_million_records / untimed.cpu_s_per_million_records - 1.0
        }
        _ => 0.0,
    };
    let mut text = String::new();
    for ceiling in ceilings.iter().filter(|ceiling| ceiling.timed) {
        text += &format!(
            "{:>5} B records: {} records/s offered by one producer thread; {:.3} CPU s per million, so {} \
             records/s of a whole core\n",
            ceiling.record_bytes,
            thousands(ceiling.records_per_s),
            ceiling.cpu_s_per_million_records,
            thousands(ceiling.records_per_core_s)
        );
    }
    text += &format!(
        "measuring costs {:.1} % of the generator's CPU at 100 B records\n",
        measuring * 100.0
    );
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.0}"));
    text += &format!(
        "a stall of 1 s in 4 s: produce p90 {} ms (true: 600), p99 {} ms (true: 960), max {:.0} ms: {}\n",
        ms(p90),
        ms(p99),
        stalled.latency.produce.max_ms,
        if honest { "told as it was" } else { "NOT TOLD AS IT WAS" }
    );
    let json = serde_json::json!({
        "format": "weir-loadgen-selftest", "format_version": 1,
        "commit": crate::run::environment::commit(),
        "ceilings": ceilings, "measuring_share": measuring,
        "stall": { "p90_ms": p90, "p99_ms": p99, "max_ms": stalled.latency.produce.max_ms, "honest": honest },
    });
    output.write("selftest.json", &pretty(&json))?;
    output.write("report.txt", &text)?;
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if honest { Ending::Fine } else { Ending::Invalid })
}
