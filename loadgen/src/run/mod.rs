//! One run, from its topics to its report, watched as it goes.

pub(crate) mod broker_stages;
pub(crate) mod embedded;
pub(crate) mod environment;
pub(crate) mod execute;
pub(crate) mod faults;
pub(crate) mod lag;
pub(crate) mod monitor;
pub(crate) mod session;
pub(crate) mod target;
