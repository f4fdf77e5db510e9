//! What `doorbell` is made of: a test puts a model of memory in its place.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
