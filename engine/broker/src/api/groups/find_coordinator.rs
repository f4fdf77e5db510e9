//! FindCoordinator 0-6: v1 key type, v3 flexible, v4 several keys (KIP-699). On one node every
//! group's and every transactional id's coordinator is here.

use crate::coordinators::groups::home_of_group;
use crate::coordinators::state_log::home_of;
use crate::network::answer::{AnswerSize, Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use coordinator::TransactionCoordinator;
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
        let (mut coordinators, mut size) = (Vec::new(), AnswerSize::new(shard));
        for key in asked.coordinator_keys {
            size.add(60 + key.len() + shard.node.advertised_to(request).host.len()).await?;
            coordinators.push(find(shard, request, key, asked.key_type).await);
        }
        let response = FindCoordinatorResponse { coordinators, ..Default::default() };
        return Ok(respond(shard, request, &response));
    }
    let found = find(shard, request, asked.key, asked.key_type).await;
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

async fn find(shard: &Rc<Shard>, request: &Request, key: String, key_type: i8) -> Coordinator {
    let at = shard.node.advertised_to(request);
    let refused = |key: String, error: ErrorCode, why: &str| Coordinator {
        key,
        error_code: error.code(),
        error_message: Some(why.to_owned()),
        ..Default::default()
    };
    let home = match key_type {
        KEY_TYPE_GROUP => home_of_group(shard, &key).await,
        KEY_TYPE_TRANSACTION => home_of::<TransactionCoordinator>(shard, &key).await,
        KEY_TYPE_SHARE => {
            return refused(key, ErrorCode::InvalidRequest, "share groups are not served");
        }
        _ => return refused(key, ErrorCode::InvalidRequest, "unknown type of key"),
    };
    match home {
        Ok(_) => Coordinator {
            key,
            node_id: shard.node.id().0,
            host: at.host.clone(),
            port: i32::from(at.port),
            ..Default::default()
        },
        Err(error) => refused(key, error, "the coordinator's internal topic cannot be made"),
    }
}
