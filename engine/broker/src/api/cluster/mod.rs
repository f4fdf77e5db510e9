//! The broker itself: versions, features, directories, quorum.

pub(crate) mod api_versions;
pub(crate) mod describe_cluster;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_quorum;
pub(crate) mod update_features;
