//! Settings and quotas.

pub(crate) mod alter_configs;
pub(crate) mod changes;
pub(crate) mod describe_client_quotas;
pub(crate) mod describe_configs;
pub(crate) mod incremental_alter_configs;
pub(crate) mod list_config_resources;
