//! Threads with a runtime of their own; in a world, threads of the same machine.

use crate::reactor::{Io, Runtime};
use crate::simulated::{Birth, CoreId, Shared};
use crate::thread_core::with_twin;
use crate::{thread, timer};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that runs a future of its own.
pub struct RunningThread(Kind);

enum Kind {
    Real(JoinHandle<()>),
    Simulated(Rc<Shared>, CoreId),
}

/// Starts a thread that makes a future and runs it to its end.
///
/// # Errors
/// When the system has no room for another thread.
///
/// # Panics
/// The new thread, if the kernel has no ring for it.
pub fn start<F: Future<Output = ()> + 'static>(
    name: &str,
    cpu: Option<usize>,
    make: impl FnOnce() -> F + Send + 'static,
) -> io::Result<RunningThread> {
    let place = with_twin(|twin| twin.place().cloned()).flatten();
    let Some(place) = place else {
        let run = move || {
            let runtime =
                Runtime::new(Io::Uring).expect("the thread that starts this one has a ring");
            runtime.block_on(make()).expect("only the twin stops");
        };
        return thread::spawn(name, cpu, run).map(|thread| RunningThread(Kind::Real(thread)));
    };
    let core = place.shared.next_core();
    let birth = Birth { machine: place.machine, core, make: Box::new(move || Box::pin(make())) };
    place.shared.births.borrow_mut().push(birth);
    Ok(RunningThread(Kind::Simulated(place.shared, core)))
}

impl RunningThread {
    /// Waits for its end. Blocks the calling thread: for the end of a program.
    pub async fn join(self) {
        match self.0 {
            // What it panicked with was told by the panic itself.
            Kind::Real(thread) => drop(thread.join()),
            Kind::Simulated(shared, core) => {
                while shared.alive.borrow().contains(&core) {
                    timer::sleep(Duration::from_micros(100)).await;
                }
            }
        }
    }
}
