//! The embedded broker: a child process of this very program, with a temporary directory.

use crate::Failure;
use crate::args::Args;
use runtime::fs::TemporaryDir;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

const ASKED: &str = "embedded-broker";

/// Becomes the broker if this process was started as one.
pub(crate) fn serve_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != ASKED {
        return None;
    }
    runtime::process::die_with_parent();
    let own = ["weir", "serve"].map(OsString::from);
    Some(broker::cli::main(own.into_iter().chain(args)))
}

/// A running embedded broker; dropping it stops it and removes its data.
pub(crate) struct EmbeddedBroker {
    child: Child,
    address: String,
    settings: Vec<String>,
    path: PathBuf,
    _data: Option<TemporaryDir>,
}

fn cannot(why: impl std::fmt::Display) -> Failure {
    Failure::unreachable(format!("cannot start the embedded broker: {why}"))
}

impl EmbeddedBroker {
    pub(crate) fn start(args: &Args) -> Result<Self, Failure> {
        let (data, path) = match &args.data_dir {
            Some(path) => (None, path.clone()),
            None => {
                let temporary = TemporaryDir::new(&std::env::temp_dir(), "loadgen");
                let temporary = temporary.map_err(cannot)?;
                let path = temporary.path().to_owned();
                (Some(temporary), path)
            }
        };
        let mut settings = Vec::new();
        for setting in &args.broker_config {
            let (key, value) = setting.split_once('=').expect("checked when parsed");
            settings.extend([format!("--{key}"), value.to_owned()]);
        }
        let (child, address) = spawn(&path, "127.0.0.1:0", &settings)?;
        Ok(Self { child, address, settings, path, _data: data })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.path
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same data and address.
    pub(crate) fn start_again(&mut self) -> Result<(), Failure> {
        let (child, _) = spawn(&self.path, &self.address, &self.settings)?;
        self.child = child;
        Ok(())
    }
}

fn spawn(data: &Path, listen: &str, settings: &[String]) -> Result<(Child, String), Failure> {
    let program = std::env::current_exe().map_err(cannot)?;
    let mut child = Command::new(program)
        .arg(ASKED)
        .args(["--listeners", listen, "--log.dirs"])
        .arg(data)
        // Members come together: there is no one else to wait for.
        .args(["--group.initial.rebalance.delay.ms", "200"])
        .args(settings)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for loadgen, which then stops its broker.
        .process_group(0)
        .spawn()
        .map_err(cannot)?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    let _ = BufReader::new(stdout).read_line(&mut line);
    let Some(address) = line.trim().strip_prefix("listening on ") else {
        let mut said = String::new();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        for line in stderr.lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
            // Of a usage error the first line says what was wrong.
            if said.is_empty() || !said.starts_with("error:") {
                said = line;
            }
        }
        let _ = child.wait();
        return Err(cannot(said));
    };
    let address = address.to_owned();
    if let Some(stderr) = child.stderr.take() {
        // Its warnings are ours to show; its ordinary lines are not.
        let _ = runtime::thread::spawn("broker-log", None, move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if !line.contains(" INFO ") {
                    use std::io::Write;
                    let _ = writeln!(std::io::stderr(), "broker: {line}");
                }
            }
        });
    }
    Ok((child, address))
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // It may stand still after an interrupted pause.
        runtime::process::resume(self.child.id());
        runtime::process::terminate(self.child.id());
        let _ = self.child.wait();
    }
}
