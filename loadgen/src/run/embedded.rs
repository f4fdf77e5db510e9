//! The embedded broker: a child process of this very program, with a temporary directory.

use crate::ending::Failure;
use crate::options::args::Args;
use runtime::fs::TemporaryDir;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

const ASKED: &str = "embedded-broker";
const METRICS: &str = "--weir.metrics.listen";
/// Unless the user says otherwise. Members come together: there is no one else to wait for.
const OWN_SETTINGS: [[&str; 2]; 2] =
    [["--group.initial.rebalance.delay.ms", "200"], [METRICS, "127.0.0.1:0"]];

/// Becomes the broker if this process was started as one.
pub(crate) fn serve_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != ASKED {
        return None;
    }
    runtime::process::die_with_parent();
    let own = ["weir", "serve"].map(OsString::from);
    Some(weir::cli::main(own.into_iter().chain(args)))
}

/// A running embedded broker; dropping it stops it and removes its data.
pub(crate) struct EmbeddedBroker {
    child: Child,
    address: String,
    /// Where it tells Prometheus, unless it was told not to.
    metrics: Option<String>,
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
        let (child, address, metrics) = spawn(&path, "127.0.0.1:0", &settings)?;
        Ok(Self { child, address, metrics, settings, path, _data: data })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn metrics(&self) -> Option<String> {
        self.metrics.clone()
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
        let (child, _, metrics) = spawn(&self.path, &self.address, &self.settings)?;
        (self.child, self.metrics) = (child, metrics);
        Ok(())
    }
}

/// The process, where it listens, and where it tells Prometheus.
fn spawn(
    data: &Path,
    listen: &str,
    settings: &[String],
) -> Result<(Child, String, Option<String>), Failure> {
    let program = std::env::current_exe().map_err(cannot)?;
    let is_said = |name: &str| settings.iter().step_by(2).any(|setting| setting == name);
    let unsaid = OWN_SETTINGS.into_iter().filter(|[name, _]| !is_said(name));
    let mut child = Command::new(program)
        .arg(ASKED)
        .args(["--listeners", listen, "--log.dirs"])
        .arg(data)
        .args(unsaid.flatten())
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
    let mut stdout = BufReader::new(stdout);
    let _ = stdout.read_line(&mut line);
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
    let mut metrics = None;
    let said = settings.chunks_exact(2).find(|pair| pair[0] == METRICS);
    if said.is_none_or(|pair| !pair[1].is_empty()) {
        line.clear();
        let _ = stdout.read_line(&mut line);
        let told = line.trim().strip_prefix("metrics at http://");
        metrics = told.and_then(|told| told.strip_suffix("/metrics")).map(str::to_owned);
    }
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
    Ok((child, address, metrics))
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // It may stand still after an interrupted pause.
        runtime::process::resume(self.child.id());
        runtime::process::terminate(self.child.id());
        let _ = self.child.wait();
    }
}
