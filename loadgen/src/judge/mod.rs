//! What was found, and whether it counts.

pub(crate) mod assertions;
pub(crate) mod judging;
pub(crate) mod result;
