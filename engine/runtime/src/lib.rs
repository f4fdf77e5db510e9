//! One thread, one ring: tasks, timers, buffers, files, sockets, mailboxes; and a simulated twin.
//!
//! In: submissions. Out: completions, wake-ups, time, random numbers. Never: anything of Kafka.
//!
//! Everything here belongs to the thread that runs it: a future, a file or a socket never leaves
//! its thread. What crosses threads is `buffer::SharedBytes` (immutable) and `mailbox` messages.

pub mod allocations;
pub mod answers;
mod atomics;
pub mod budget;
pub mod buffer;
pub mod clock;
mod doorbell;
pub mod file;
pub mod fs;
mod generator;
pub mod mailbox;
mod nanos;
pub mod notify;
mod op;
mod open_options;
pub mod process;
pub mod random;
mod reactor;
pub mod receive_buffer;
mod ring;
pub mod simulated;
mod slice;
mod sockaddr;
pub mod socket;
mod submit;
pub mod thread;
mod thread_core;
pub mod threads;
pub mod timer;
mod timers;
pub mod turns;
pub mod watch;
pub mod world;

pub use simulated::Stopped;
pub use slice::Slice;

pub use ring::{Counters, process_io_counters};

pub use reactor::{Io, Runtime, RuntimeError, all, both, io_counters, spawn, yield_now};
