//! The command line of `weir`.

use crate::{admin, properties, tools};
use broker::config::{Config, SETTINGS, pairs_of_toml};
use broker::observe::logging;
use broker::server;
use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::Shell;
use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use storage::tools::repair::GivenUp;

fn command() -> Command {
    let completion = Command::new("completion")
        .about("Print a script that completes weir's commands in a shell")
        .arg(Arg::new("shell").required(true).value_parser(clap::value_parser!(Shell)));
    let command = Command::new("weir")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A Kafka-compatible broker: one thread and one io_uring per core")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve_command())
        .subcommand(inspect_command())
        .subcommand(repair_command())
        .subcommand(completion);
    admin::augment(command)
}

fn serve_command() -> Command {
    let mut serve = Command::new("serve").about("Run a broker").arg(
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help(
                "File with the settings below, by the same names: TOML, or Kafka's server.properties if its name ends \
                 in .properties; flags win over it",
            ),
    );
    for setting in SETTINGS {
        let help = if setting.default.is_empty() {
            setting.about.to_owned()
        } else {
            format!("{} [default: {}]", setting.about, setting.default)
        };
        let mut arg = Arg::new(setting.name)
            .long(setting.name)
            .value_name(setting.kind.value_name())
            .help(help);
        if let Some(alias) = setting.alias {
            arg = arg.visible_alias(alias);
        }
        serve = serve.arg(arg);
    }
    serve
}

fn inspect_command() -> Command {
    Command::new("inspect")
        .about("Print files of a data directory in words, and find damage in them")
        .arg(
            Arg::new("details")
                .long("details")
                .action(ArgAction::SetTrue)
                .help("Every batch, frame and entry"),
        )
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .required(true)
                .num_args(1..)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Segments (.log), indexes (.idx), journals, superblocks, catalogs, epochs"),
        )
}

fn repair_command() -> Command {
    Command::new("repair")
                .about("Look for damage in data directories; cut off what is lost, if told to")
                .long_about(
                    "Reads every batch and every journal of stopped brokers' data directories and tells what is \
                     damaged: which file, where, and what a cut would keep. Also tells which whole batches hold \
                     records that no reader gets past. Changes nothing unless --cut or --empty-unreadable \
                     is given. What goes is copied to DIR/quarantine first. Exit code 3: damage is left.",
                )
                .arg(
                    Arg::new("partition")
                        .long("partition")
                        .value_name("TOPIC-N")
                        .action(ArgAction::Append)
                        .help("Only these partitions; all damaged ones otherwise"),
                )
                .arg(
                    Arg::new("cut")
                        .long("cut")
                        .action(ArgAction::SetTrue)
                        .help("Cut each damaged partition in front of its damage: later records are lost"),
                )
                .arg(
                    Arg::new("empty-unreadable")
                        .long("empty-unreadable")
                        .action(ArgAction::SetTrue)
                        .conflicts_with("cut")
                        .help("Take the records out of batches that cannot be read; offsets stay as they are"),
                )
                .arg(
                    Arg::new("dirs")
                        .value_name("DIR")
                        .required(true)
                        .num_args(1..)
                        .value_parser(clap::value_parser!(PathBuf))
                        .help("Data directories (log.dirs)"),
                )
}

/// Runs the program with these arguments. Exit codes: 0 done or stopped as asked, 1 could not start
/// or go on, or the cluster refused, 2 wrong usage or settings, 3 damage found (`inspect`, `repair`).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
    };
    let serve = match matches.subcommand().expect("clap requires one") {
        ("inspect", args) => {
            let files: Vec<PathBuf> =
                args.get_many("files").into_iter().flatten().cloned().collect();
            return tools::inspect(&files, args.get_flag("details"));
        }
        ("repair", args) => {
            let dirs: Vec<PathBuf> = args.get_many("dirs").into_iter().flatten().cloned().collect();
            let only: Vec<String> =
                args.get_many("partition").into_iter().flatten().cloned().collect();
            let give_up = if args.get_flag("cut") {
                Some(GivenUp::FromDamage)
            } else {
                args.get_flag("empty-unreadable").then_some(GivenUp::Unreadable)
            };
            return tools::repair(&dirs, &only, give_up);
        }
        ("completion", args) => {
            let shell: Shell = *args.get_one("shell").expect("clap requires it");
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "weir", &mut script);
            let _ = std::io::stdout().write_all(&script);
            return ExitCode::SUCCESS;
        }
        ("serve", serve) => serve,
        _ => return admin::run(&matches).unwrap_or(ExitCode::from(2)),
    };
    let config = match config_of(serve) {
        Ok(config) => config,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "weir: {why}");
            return ExitCode::from(2);
        }
    };
    let ready = |addresses: &[SocketAddr], metrics: Option<SocketAddr>| {
        let mut out = std::io::stdout();
        for address in addresses {
            let _ = writeln!(out, "listening on {address}");
        }
        if let Some(metrics) = metrics {
            let _ = writeln!(out, "metrics at http://{metrics}/metrics");
        }
        let _ = out.flush();
    };
    let ended = server::run(config, ready);
    logging::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "weir: {why}");
            ExitCode::FAILURE
        }
    }
}

fn pairs_of_file(file: &str) -> Result<Vec<(String, String)>, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    if Path::new(file).extension().is_some_and(|extension| extension == "properties") {
        let read = properties::read(&bytes)?;
        if !read.ignored.is_empty() {
            let names = read.ignored.join(", ");
            logging::line(
                "WARN",
                &format!("{file}: these mean nothing to weir, and are ignored: {names}"),
            );
        }
        return Ok(read.pairs);
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    pairs_of_toml(&text).map_err(|error| {
        format!("{error}(a file in the form of Kafka's server.properties must be called so, .properties at its end)")
    })
}

fn config_of(serve: &ArgMatches) -> Result<Config, String> {
    let mut pairs = Vec::new();
    if let Some(file) = serve.get_one::<String>("config") {
        pairs = pairs_of_file(file).map_err(|error| format!("{file}: {error}"))?;
    }
    for setting in SETTINGS {
        if let Some(value) = serve.get_one::<String>(setting.name) {
            pairs.push((setting.name.to_owned(), value.clone()));
        }
    }
    Config::from_pairs(pairs)
}
