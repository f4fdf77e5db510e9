//! One thread, one ring: tasks, timers, buffers, files, sockets, mailboxes; and a simulated twin.
//!
//! In: submissions. Out: completions, wake-ups, time, random numbers. Never: anything of Kafka.
//!
//! Everything here belongs to the thread that runs it: a future, a file or a socket never leaves
//! its thread. What crosses threads is `buffer::SharedBytes` (immutable) and `mailbox` messages.

pub mod allocations;
pub mod budget;
pub mod buffer;
pub mod clock;
mod doorbell;
pub mod file;
pub mod fs;
pub mod mailbox;
pub mod notify;
mod op;
pub mod process;
pub mod random;
mod reactor;
pub mod receive_buffer;
mod ring;
pub mod simulated;
mod slice;
pub mod socket;
pub mod thread;
pub mod timer;
pub mod watch;

/// What `doorbell` is made of: a test puts a model of memory in its place.
mod atomics {
    pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

pub use slice::Slice;

pub use ring::{Counters, process_io_counters};

pub use reactor::{Io, Runtime, RuntimeError, Stopped, all, both, io_counters, spawn, yield_now};
