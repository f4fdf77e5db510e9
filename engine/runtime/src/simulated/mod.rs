//! The twin: the same verbs on a disk in memory, with virtual time and seeded faults.
//!
//! Sockets are not simulated: they answer ENOSYS.

mod backend;
mod disk;

pub(crate) use backend::SimulatedBackend;
pub use backend::{Simulation, Stopped};
pub use disk::{Disk, Fault, SavedFile, Verb};
