//! The cluster under load: one of the user's, or an embedded broker; what it uses, and what faults do
//! to it.

use crate::ending::Failure;
use crate::options::args::Args;
use crate::run::embedded::EmbeddedBroker;
use crate::run::faults::{Action, Fault};
use runtime::process::{self, Usage};
use runtime::{clock, timer};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How often it is looked whether the load is over.
const STEP: Duration = Duration::from_millis(20);

/// Where the load goes.
pub(crate) struct Target {
    servers: String,
    embedded: RefCell<Option<EmbeddedBroker>>,
    pid: Cell<Option<u32>>,
    metrics: Option<String>,
    /// What processes used that are gone.
    before: Cell<Usage>,
    pub(crate) data_dir: Option<PathBuf>,
}

impl Target {
    /// Starts the embedded broker if no cluster is named.
    pub(crate) fn of(args: &Args) -> Result<Self, Failure> {
        let embedded = match args.bootstrap_server {
            Some(_) => None,
            None => Some(EmbeddedBroker::start(args)?),
        };
        let servers = embedded.as_ref().map_or_else(
            || args.bootstrap_server.clone().unwrap_or_default(),
            |broker| broker.address().to_owned(),
        );
        let data_dir = embedded.as_ref().map(|broker| broker.data_dir().to_owned());
        let pid = embedded.as_ref().map(EmbeddedBroker::pid).or(args.broker_pid);
        Ok(Self {
            servers,
            embedded: RefCell::new(embedded),
            pid: Cell::new(pid),
            metrics: args.broker_metrics.clone(),
            before: Cell::default(),
            data_dir,
        })
    }

    pub(crate) fn servers(&self) -> &str {
        &self.servers
    }

    /// Where Weir tells Prometheus.
    pub(crate) fn metrics(&self) -> Option<String> {
        let embedded = self.embedded.borrow();
        let own = embedded.as_ref().and_then(EmbeddedBroker::metrics);
        self.metrics.clone().or(own)
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.data_dir.is_some()
    }

    /// What the broker used so far, if it runs here.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let pid = self.pid.get()?;
        let before = self.before.get();
        let now = process::usage(pid).unwrap_or_default();
        Some(sum(before, now))
    }

    /// Makes trouble, and ends it; at the latest when the load is over (`running` is false).
    pub(crate) async fn suffer(&self, fault: &Fault, running: &Cell<bool>) -> Result<(), String> {
        match &fault.action {
            Action::Kill => {
                if let Some(pid) = self.pid.get() {
                    let used = process::usage(pid).unwrap_or_default();
                    self.before.set(sum(self.before.get(), used));
                }
                if let Some(broker) = &mut *self.embedded.borrow_mut() {
                    broker.kill();
                }
                self.pid.set(None);
                last(fault.long, running).await;
                if let Some(broker) = &mut *self.embedded.borrow_mut() {
                    broker.start_again().map_err(|failure| failure.why)?;
                    self.pid.set(Some(broker.pid()));
                }
                Ok(())
            }
            Action::Pause => {
                let pid = self.pid.get().ok_or("there is no process to pause")?;
                process::pause(pid);
                last(fault.long, running).await;
                process::resume(pid);
                Ok(())
            }
            Action::Exec(command) => {
                let mut child = Command::new("sh")
                    .args(["-c", command])
                    .spawn()
                    .map_err(|error| format!("sh -c {command:?}: {error}"))?;
                loop {
                    match child.try_wait() {
                        Ok(Some(status)) if status.success() => return Ok(()),
                        Ok(Some(status)) => return Err(format!("{command:?} ended with {status}")),
                        Ok(None) if running.get() => timer::sleep(STEP).await,
                        Ok(None) => return Err(format!("{command:?} still runs at the end")),
                        Err(error) => return Err(error.to_string()),
                    }
                }
            }
        }
    }
}

/// Waits so long, but not longer than the load goes on.
async fn last(long: Duration, running: &Cell<bool>) {
    let until = clock::now() + long;
    while running.get() && clock::now() < until {
        timer::sleep_until(until.min(clock::now() + STEP)).await;
    }
}

fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        user_s: a.user_s + b.user_s,
        system_s: a.system_s + b.system_s,
        resident_peak_bytes: a.resident_peak_bytes.max(b.resident_peak_bytes),
        resident_bytes: b.resident_bytes,
        disk_write_bytes: a.disk_write_bytes + b.disk_write_bytes,
    }
}
