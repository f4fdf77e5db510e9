//! The messages of ACLs, quotas and SASL, as far as a cluster without security answers them.

use crate::message::Message;
use crate::primitives::{Field, Reader, Version, put_no_tags};
use crate::{ApiKey, WireError};

message! {
    /// Which ACLs are asked for: null matches all, 1 any.
    DescribeAclsRequest of DescribeAcls {
        resource_type_filter: i8 = 0, _,
        resource_name_filter: Option<String> = None, _,
        pattern_type_filter: i8 = 3, 1..,
        principal_filter: Option<String> = None, _,
        host_filter: Option<String> = None, _,
        operation: i8 = 0, _,
        permission_type: i8 = 0, _,
    }
}
message! {
    /// One ACL of a resource.
    AclDescription {
        principal: String = String::new(), _,
        host: String = String::new(), _,
        operation: i8 = 0, _,
        permission_type: i8 = 0, _,
    }
}
message! {
    /// A resource and its ACLs.
    DescribeAclsResource {
        resource_type: i8 = 0, _,
        resource_name: String = String::new(), _,
        pattern_type: i8 = 3, 1..,
        acls: Vec<AclDescription> = Vec::new(), _,
    }
}
message! {
    /// The ACLs found.
    DescribeAclsResponse of DescribeAcls {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        resources: Vec<DescribeAclsResource> = Vec::new(), _,
    }
}

message! {
    /// An ACL to make.
    AclCreation {
        resource_type: i8 = 0, _,
        resource_name: String = String::new(), _,
        resource_pattern_type: i8 = 3, 1..,
        principal: String = String::new(), _,
        host: String = String::new(), _,
        operation: i8 = 0, _,
        permission_type: i8 = 0, _,
    }
}
message! {
    /// ACLs to make.
    CreateAclsRequest of CreateAcls {
        creations: Vec<AclCreation> = Vec::new(), _,
    }
}
message! {
    /// What became of one.
    AclCreationResult {
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
    }
}
message! {
    /// What became of each.
    CreateAclsResponse of CreateAcls {
        throttle_time_ms: i32 = 0, _,
        results: Vec<AclCreationResult> = Vec::new(), _,
    }
}

message! {
    /// Which ACLs are to go.
    DeleteAclsFilter {
        resource_type_filter: i8 = 0, _,
        resource_name_filter: Option<String> = None, _,
        pattern_type_filter: i8 = 3, 1..,
        principal_filter: Option<String> = None, _,
        host_filter: Option<String> = None, _,
        operation: i8 = 0, _,
        permission_type: i8 = 0, _,
    }
}
message! {
    /// ACLs to delete.
    DeleteAclsRequest of DeleteAcls {
        filters: Vec<DeleteAclsFilter> = Vec::new(), _,
    }
}
message! {
    /// An ACL that a filter matched.
    DeleteAclsMatchingAcl {
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        resource_type: i8 = 0, _,
        resource_name: String = String::new(), _,
        pattern_type: i8 = 3, 1..,
        principal: String = String::new(), _,
        host: String = String::new(), _,
        operation: i8 = 0, _,
        permission_type: i8 = 0, _,
    }
}
message! {
    /// What became of a filter.
    DeleteAclsFilterResult {
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        matching_acls: Vec<DeleteAclsMatchingAcl> = Vec::new(), _,
    }
}
message! {
    /// What became of each filter.
    DeleteAclsResponse of DeleteAcls {
        throttle_time_ms: i32 = 0, _,
        filter_results: Vec<DeleteAclsFilterResult> = Vec::new(), _,
    }
}

message! {
    /// A part of an entity that quotas are asked for: match type 0 exact, 1 the default, 2 any.
    QuotaComponent {
        entity_type: String = String::new(), _,
        match_type: i8 = 0, _,
        matches: Option<String> = None, _,
    }
}
message! {
    /// Which quotas are asked for (KIP-546).
    DescribeClientQuotasRequest of DescribeClientQuotas {
        components: Vec<QuotaComponent> = Vec::new(), _,
        strict: bool = false, _,
    }
}
message! {
    /// A part of an entity; null is the default.
    QuotaEntity {
        entity_type: String = String::new(), _,
        entity_name: Option<String> = None, _,
    }
}
message! {
    /// A quota; its value is the bits of a double.
    QuotaValue {
        key: String = String::new(), _,
        value_bits: i64 = 0, _,
    }
}
message! {
    /// An entity and its quotas.
    QuotaEntry {
        entity: Vec<QuotaEntity> = Vec::new(), _,
        values: Vec<QuotaValue> = Vec::new(), _,
    }
}
message! {
    /// The quotas found.
    DescribeClientQuotasResponse of DescribeClientQuotas {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        entries: Option<Vec<QuotaEntry>> = None, _,
    }
}

message! {
    /// A user.
    ScramUser {
        name: String = String::new(), _,
    }
}
message! {
    /// Whose credentials are asked for; null: everyone's (KIP-554).
    DescribeUserScramCredentialsRequest of DescribeUserScramCredentials {
        users: Option<Vec<ScramUser>> = None, _,
    }
}
message! {
    /// How a user may authenticate.
    ScramCredential {
        mechanism: i8 = 0, _,
        iterations: i32 = 0, _,
    }
}
message! {
    /// A user's credentials.
    ScramUserResult {
        user: String = String::new(), _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        credential_infos: Vec<ScramCredential> = Vec::new(), _,
    }
}
message! {
    /// Each user's.
    DescribeUserScramCredentialsResponse of DescribeUserScramCredentials {
        throttle_time_ms: i32 = 0, _,
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        results: Vec<ScramUserResult> = Vec::new(), _,
    }
}

message! {
    /// How a client wants to authenticate.
    SaslHandshakeRequest of SaslHandshake {
        mechanism: String = String::new(), _,
    }
}
message! {
    /// Whether it may.
    SaslHandshakeResponse of SaslHandshake {
        error_code: i16 = 0, _,
        mechanisms: Vec<String> = Vec::new(), _,
    }
}
message! {
    /// A step of a mechanism.
    SaslAuthenticateRequest of SaslAuthenticate {
        auth_bytes: Vec<u8> = Vec::new(), _,
    }
}
message! {
    /// The answer to it.
    SaslAuthenticateResponse of SaslAuthenticate {
        error_code: i16 = 0, _,
        error_message: Option<String> = None, _,
        auth_bytes: Vec<u8> = Vec::new(), _,
        session_lifetime_ms: i64 = 0, 1..,
    }
}
