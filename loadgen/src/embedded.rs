//! The embedded broker: a child process of this very program, with a temporary directory.

use crate::Failure;
use crate::args::Args;
use runtime::fs::TemporaryDir;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
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
    _data: Option<TemporaryDir>,
}

impl EmbeddedBroker {
    pub(crate) fn start(args: &Args) -> Result<Self, Failure> {
        let cannot =
            |why: String| Failure::unreachable(format!("cannot start the embedded broker: {why}"));
        let (data, path) = match &args.data_dir {
            Some(path) => (None, path.clone()),
            None => {
                let temporary = TemporaryDir::new(&std::env::temp_dir(), "loadgen");
                let temporary = temporary.map_err(|error| cannot(error.to_string()))?;
                let path = temporary.path().to_owned();
                (Some(temporary), path)
            }
        };
        let program = std::env::current_exe().map_err(|error| cannot(error.to_string()))?;
        let mut child = Command::new(program)
            .arg(ASKED)
            .args(["--listeners", "127.0.0.1:0", "--log.dirs"])
            .arg(path)
            // Members come together: there is no one else to wait for.
            .args(["--group.initial.rebalance.delay.ms", "200"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for loadgen, which then stops its broker.
            .process_group(0)
            .spawn()
            .map_err(|error| cannot(error.to_string()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        let _ = BufReader::new(stdout).read_line(&mut line);
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            let mut said = String::new();
            let stderr = BufReader::new(child.stderr.take().expect("piped"));
            for line in stderr.lines().map_while(Result::ok) {
                said = line;
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
        Ok(Self { child, address, _data: data })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        runtime::process::terminate(self.child.id());
        let _ = self.child.wait();
    }
}
