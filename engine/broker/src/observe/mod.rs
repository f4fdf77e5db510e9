//! What operators see: the log, metrics, times of stages.
//!
//! In: counts. Out: lines, pages. Never: decisions.

pub mod logging;
pub(crate) mod metrics_server;
pub(crate) mod request_counts;
pub(crate) mod stages;
