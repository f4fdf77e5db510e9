//! The twin: the same verbs on a disk in memory, with virtual time and seeded faults.
//!
//! A `Simulation` is one thread of one machine, without a network: its sockets answer ENOSYS. A `World` has machines
//! of several threads, and a network between them.

mod backend;
mod disk;
mod network;
mod shared;

pub(crate) use backend::SimulatedBackend;
pub use backend::{Simulation, Stopped};
pub use disk::{Disk, Fault, SavedFile, Verb};
pub use network::Link;
pub(crate) use network::{CoreId, MachineId};
pub(crate) use shared::{Birth, Body, MachineClock, Place, Shared};
