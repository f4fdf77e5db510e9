//! The engine's rooms in one process, driven by a seed, on a disk that fails as the seed decides.
//!
//! In: a seed. Out: what was checked, or a panic that names the seed. Never: real files or time.
#![forbid(unsafe_code)]

pub mod compaction_rig;
pub mod group_rig;
pub mod history;
pub mod node_rig;
pub mod seeds;
pub mod storage_rig;
