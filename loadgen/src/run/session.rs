//! What commands share: the runtime's thread, and whether Ctrl-C was pressed.

use crate::ending::{Ending, Failure};
use runtime::clock::Nanos;
use runtime::notify::Notify;
use runtime::process::{self, StopSignals};
use runtime::{Io, Runtime, spawn, timer};
use std::cell::Cell;
use std::rc::Rc;

/// What commands share: the runtime's thread and whether Ctrl-C was pressed.
#[derive(Clone)]
pub(crate) struct Session {
    interrupted: Rc<Cell<bool>>,
    wake: Rc<Notify>,
}

impl Session {
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.get()
    }

    /// Sleeps, but not longer than until Ctrl-C is pressed (for the first time).
    pub(crate) async fn until(&self, at: Nanos) {
        let was = self.interrupted.get();
        let pressed = self.wake.until(|| (self.interrupted.get() && !was).then_some(()));
        let _ = timer::before(Some(at), pressed).await;
    }
}

/// Runs a command on this thread, with Ctrl-C listened for.
pub(crate) fn on_runtime<F: Future<Output = Result<Ending, Failure>>>(
    command: impl FnOnce(Session) -> F,
) -> Result<Ending, Failure> {
    let signals = StopSignals::listen().map_err(|error| Failure::usage(error.to_string()))?;
    let _ = process::raise_open_files();
    let runtime =
        Runtime::new(Io::Uring).map_err(|error| Failure::unreachable(error.to_string()))?;
    let session = Session { interrupted: Rc::default(), wake: Rc::default() };
    let listening = session.clone();
    let ran = runtime.block_on(async move {
        spawn(async move {
            signals.wait().await;
            listening.interrupted.set(true);
            listening.wake.notify();
        });
        command(session).await
    });
    ran.expect("only the twin stops")
}
