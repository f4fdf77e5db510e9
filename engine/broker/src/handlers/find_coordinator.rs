//! FindCoordinator 0-6: v1 key type, v3 flexible, v4 several keys (KIP-699). On one node every
//! group's coordinator is here. Transactions are not served yet, and the answer says so.

use crate::dispatch::{Outcome, read, respond};
use crate::groups::home_of_group;
use crate::shard::{Request, Shard};
use model::ErrorCode;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;
const KEY_TYPE_SHARE: i8 = 2;

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<FindCoordinatorRequest>(request)?;
    if request.version >= 4 {
        let mut coordinators = Vec::new();
        for key in asked.coordinator_keys {
            coordinators.push(find(shard, key, asked.key_type).await);
        }
        let response = FindCoordinatorResponse { coordinators, ..Default::default() };
        return Ok(respond(shard, request, &response));
    }
    let found = find(shard, asked.key, asked.key_type).await;
    let response = FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    };
    Ok(respond(shard, request, &response))
}

async fn find(shard: &Rc<Shard>, key: String, key_type: i8) -> Coordinator {
    let refused = |key: String, error: ErrorCode, why: &str| Coordinator {
        key,
        error_code: error.code(),
        error_message: Some(why.to_owned()),
        ..Default::default()
    };
    match key_type {
        KEY_TYPE_GROUP => match home_of_group(shard, &key).await {
            Ok(_) => Coordinator {
                key,
                node_id: shard.node.config.node_id,
                host: shard.node.host.clone(),
                port: i32::from(shard.node.port),
                ..Default::default()
            },
            Err(error) => refused(key, error, "the topic __consumer_offsets cannot be made"),
        },
        KEY_TYPE_TRANSACTION => {
            let why = "transactions are not served yet";
            refused(key, ErrorCode::CoordinatorNotAvailable, why)
        }
        KEY_TYPE_SHARE => refused(key, ErrorCode::InvalidRequest, "share groups are not served"),
        _ => refused(key, ErrorCode::InvalidRequest, "unknown type of key"),
    }
}
