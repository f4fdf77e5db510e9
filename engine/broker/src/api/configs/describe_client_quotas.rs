//! DescribeClientQuotas 0-1 (KIP-546): v1 flexible. Nobody has any.

use crate::metadata::named::repeated;
use crate::network::answer::read;
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse, QuotaComponent};

/// Who may have quotas, by type.
const ENTITIES: [&str; 3] = ["user", "client-id", "ip"];
/// How an entity is matched: by its name, the default one, any that is named.
const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const SPECIFIED: i8 = 2;

pub(crate) async fn handle(request: &Request) -> Result<DescribeClientQuotasResponse, WireError> {
    let asked = read::<DescribeClientQuotasRequest>(request)?;
    let response = match check(&asked.components) {
        Ok(()) => DescribeClientQuotasResponse { entries: Some(Vec::new()), ..Default::default() },
        Err((error, why)) => DescribeClientQuotasResponse {
            error_code: error.code(),
            error_message: Some(why.to_owned()),
            entries: None,
            ..Default::default()
        },
    };
    Ok(response)
}

/// Whether a filter can be one.
fn check(components: &[QuotaComponent]) -> Result<(), (ErrorCode, &'static str)> {
    let invalid = |why| Err((ErrorCode::InvalidRequest, why));
    for component in components {
        if component.entity_type.is_empty() {
            return invalid("the type of an entity is empty");
        }
        if !ENTITIES.contains(&component.entity_type.as_str()) {
            return Err((ErrorCode::UnsupportedVersion, "user, client-id or ip is expected"));
        }
        match (component.match_type, &component.matches) {
            (EXACT, Some(_)) | (DEFAULT | SPECIFIED, None) => {}
            (EXACT, None) => return invalid("an exact match has no name to match"),
            (DEFAULT | SPECIFIED, Some(_)) => return invalid("only an exact match has a name"),
            _ => return invalid("the type of a match is 0 exact, 1 default or 2 specified"),
        }
    }
    if !repeated(components.iter().map(|component| &component.entity_type)).is_empty() {
        return invalid("the filter names a type of entity twice");
    }
    let has_ip = components.iter().any(|component| component.entity_type == "ip");
    if has_ip && components.len() > 1 {
        return invalid("ip is not combined with user and client-id");
    }
    Ok(())
}
