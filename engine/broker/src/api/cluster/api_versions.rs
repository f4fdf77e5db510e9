//! ApiVersions 0-4: v1 throttle time, v3 flexible and the client's software (KIP-511).
//!
//! A version from the future is answered in version 0 with error 35 and the ranges, so that the
//! client can step down.

use crate::network::answer::read;
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::api_key::{APIS, ApiKey};
use wire::messages::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse, Feature};

/// The features there are. One tells clients of KIP-890 to use it.
pub(crate) fn features() -> Vec<Feature> {
    vec![Feature { name: "transaction.version".to_owned(), min_level: 0, level: 2 }]
}

/// The response, and the version to encode it in: of versions that are not known the oldest.
pub(crate) fn handle(request: &Request) -> Result<(i16, ApiVersionsResponse), WireError> {
    let ranges = APIS.iter().map(|api| ApiVersion {
        api_key: api.key as i16,
        min_version: api.advertised_min,
        max_version: api.version_max,
    });
    let api_keys = ranges.collect();
    let mut response = ApiVersionsResponse { api_keys, features: features(), ..Default::default() };
    let api = ApiKey::ApiVersions.api();
    if !(api.version_min..=api.version_max).contains(&request.version) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return Ok((0, response));
    }
    read::<ApiVersionsRequest>(request)?;
    Ok((request.version, response))
}
