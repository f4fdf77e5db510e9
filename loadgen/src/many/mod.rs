//! Many runs, and what they say together.

pub(crate) mod compare;
pub(crate) mod durability;
pub(crate) mod plan;
pub(crate) mod search;
pub(crate) mod statistics;
pub(crate) mod sweep;
