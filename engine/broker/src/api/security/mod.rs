//! ACLs, SASL and SCRAM, as a cluster without them answers.

pub(crate) mod create_acls;
pub(crate) mod delete_acls;
pub(crate) mod describe_acls;
pub(crate) mod describe_user_scram_credentials;
pub(crate) mod sasl_authenticate;
pub(crate) mod sasl_handshake;
