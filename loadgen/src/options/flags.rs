//! A run's options as a line of flags: read, and changed.

use crate::ending::Failure;
use crate::options::args::Args;
use crate::options::scenario;
use clap::Parser;
use std::ffi::OsString;

/// The line of one run.
#[derive(Parser, Debug)]
#[command(name = "loadgen", args_override_self = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    run: Args,
}

/// Reads a run's options from flags; errors name the flag.
pub(crate) fn parse_run(flags: impl IntoIterator<Item = OsString>) -> Result<Args, Failure> {
    let line = std::iter::once("loadgen".into()).chain(flags).collect();
    let line = scenario::expand(line).map_err(Failure::usage)?;
    let Line { run } = Line::try_parse_from(line).map_err(|error| Failure::of_clap(&error))?;
    run.check().map_err(Failure::usage)?;
    Ok(run)
}

/// One run's options with these flags put behind; errors name the flag.
pub(crate) fn with_flags(args: &Args, flags: &[String]) -> Result<Args, Failure> {
    let line = scenario::flags_of(args).into_iter().chain(flags.iter().cloned());
    let mut run = parse_run(line.map(OsString::from))?;
    run.quiet = args.quiet;
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ending::Ending;
    use crate::options::args::*;

    fn parsed(line: &str) -> Result<Args, Failure> {
        parse_run(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn nonsense_and_contradictions_are_refused_with_their_own_exit_code() {
        for (bad, named) in [
            ("--rate x", "--rate"),
            ("--partitions 0", "--partitions"),
            ("--acks 2", "--acks"),
            ("--nope", "--nope"),
            ("--partitioner murmur2", "--key"),
            ("--late-groups 2", "--late-groups"),
            ("--consumers 0 --scale-consumers", "--consumers"),
            ("--compressibility 0.5 --payload text", "--payload"),
            ("--fault kill@5s --bootstrap-server x:1", "--fault"),
            ("--fault kill@50s", "--fault"),
            ("--consumers 0 --assert e2e.p99<=5ms", "--consumers"),
            ("--acks 0 --assert produce.p99<=5ms", "--acks"),
            ("--agents a:1", "--bootstrap-server"),
            ("--topic-config x", "KEY=VALUE"),
            ("--consume-rate 5k --consumer-delay 1ms", "--consumer-delay"),
        ] {
            let failure = parsed(bad).expect_err(bad);
            assert_eq!(failure.ending, Ending::BadUsage);
            assert!(failure.why.contains(named), "{bad}: {}", failure.why);
        }
    }

    #[test]
    fn options_become_flags_and_come_back_the_same() {
        let line = "--rate-profile burst:1k,5k,1s,4s --arrivals poisson --record-size uniform:100..900 \
                    --key zipf:1000,1.1 --topic-config retention.ms=1 --topic-config a=b --acks 1 \
                    --fault pause@5s+2s --assert e2e.p99<=25ms --compression-type zstd --duration 90s \
                    --scale-consumers --seed 4 --consumer-delay 20us --partitioner round-robin";
        let first = parsed(line).unwrap();
        let again = with_flags(&first, &[]).unwrap();
        let json = |args: &Args| serde_json::to_value(args).unwrap();
        assert_eq!(json(&first), json(&again));
        let changed = with_flags(&first, &["--acks=all".to_owned()]).unwrap();
        assert_eq!(changed.acks, Acks::All);
        assert_eq!(changed.topic_config.len(), 2);
    }

    #[test]
    fn the_scenarios_we_ship_are_read() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/scenarios");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let args = ["--scenario".into(), path.clone().into_os_string()];
            let failure = parse_run(args).err().map(|failure| failure.why);
            assert_eq!(failure, None, "{}", path.display());
            count += 1;
        }
        assert!(count >= 5);
    }

    #[test]
    fn a_consume_rate_is_a_delay() {
        assert_eq!(parsed("--consume-rate 5k").unwrap().record_delay_ns(), 200_000);
        assert_eq!(parsed("--consumer-delay 50us").unwrap().record_delay_ns(), 50_000);
    }

    #[test]
    fn bytes_per_second_become_records() {
        let args = parsed("--rate 50MB --record-size 984 --key uniform:5").unwrap();
        assert_eq!(args.records_per_s(), Some(50_000.0));
    }
}
