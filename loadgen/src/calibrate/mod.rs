//! loadgen measured by itself.

pub(crate) mod selftest;
pub(crate) mod sink;
