//! Data directories: what is in them, who has it open, how topics come and go.
//!
//! In: paths, changes of topics. Out: logs, the catalogue, health. Never: records.

pub mod catalog;
pub mod data_dir;
pub mod data_dirs;
pub mod log_dir;
pub mod log_manager;
pub(crate) mod open_file;
pub mod reserve;
pub(crate) mod tenant;
pub mod topic_changes;
