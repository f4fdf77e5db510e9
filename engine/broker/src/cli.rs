//! The command line of `weir`.

use crate::config::{Config, SETTINGS, pairs_of_toml};
use crate::server;
use clap::{Arg, ArgMatches, Command};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

fn command() -> Command {
    let mut serve = Command::new("serve").about("Run a broker").arg(
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("TOML file with the settings below, by the same names; flags win over it"),
    );
    for setting in SETTINGS {
        let help = if setting.default.is_empty() {
            setting.about.to_owned()
        } else {
            format!("{} [default: {}]", setting.about, setting.default)
        };
        let mut arg = Arg::new(setting.name).long(setting.name).value_name(setting.kind).help(help);
        if let Some(alias) = setting.alias {
            arg = arg.visible_alias(alias);
        }
        serve = serve.arg(arg);
    }
    Command::new("weir")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A Kafka-compatible broker: one thread and one io_uring per core")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve)
}

/// Runs the program with these arguments. Exit codes: 0 stopped as asked, 1 could not start or go
/// on, 2 wrong usage or settings.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
    };
    let (_, serve) = matches.subcommand().expect("clap requires one");
    let config = match config_of(serve) {
        Ok(config) => config,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "weir: {why}");
            return ExitCode::from(2);
        }
    };
    let ready = |address| {
        let mut out = std::io::stdout();
        let _ = writeln!(out, "listening on {address}").and_then(|()| out.flush());
    };
    match server::run(config, ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "weir: {why}");
            ExitCode::FAILURE
        }
    }
}

fn config_of(serve: &ArgMatches) -> Result<Config, String> {
    let mut pairs = Vec::new();
    if let Some(file) = serve.get_one::<String>("config") {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        pairs = pairs_of_toml(&text).map_err(|error| format!("{file}: {error}"))?;
    }
    for setting in SETTINGS {
        if let Some(value) = serve.get_one::<String>(setting.name) {
            pairs.push((setting.name.to_owned(), value.clone()));
        }
    }
    Config::from_pairs(pairs)
}
