//! FindCoordinator 0-6: v1 key type, v3 flexible, v4 several keys. Groups and transactions are not
//! served yet, and the answer says so.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use model::ErrorCode;
use wire::WireError;
use wire::messages::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<FindCoordinatorRequest>(request)?;
    let error_code = ErrorCode::CoordinatorNotAvailable.code();
    let why =
        Some("consumer groups and transactions are not served yet; assign partitions".to_owned());
    let of = |key: &String| Coordinator {
        key: key.clone(),
        error_code,
        error_message: why.clone(),
        ..Default::default()
    };
    let response = FindCoordinatorResponse {
        error_code,
        coordinators: asked.coordinator_keys.iter().map(of).collect(),
        error_message: why.clone(),
        ..Default::default()
    };
    Ok(respond(shard, request, &response))
}
