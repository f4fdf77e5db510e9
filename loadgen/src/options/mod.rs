//! Every option, once: on the command line, in files, as flags for another run.

pub(crate) mod args;
pub(crate) mod cli;
pub(crate) mod flags;
pub(crate) mod scenario;
