//! FindCoordinator 0-6: v1 key type, v3 flexible, v4 several keys (KIP-699). On one node every
//! group's and every transactional id's coordinator is here.

use crate::api::rooms::{Groups, Transactions};
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use crate::shard::node::Node;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;
const KEY_TYPE_SHARE: i8 = 2;

pub(crate) async fn handle(
    node: &Node,
    groups: Groups<'_>,
    transactions: Transactions<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<FindCoordinatorResponse, WireError> {
    let asked = read::<FindCoordinatorRequest>(request)?;
    if request.version >= 4 {
        let mut coordinators = Vec::new();
        for key in asked.coordinator_keys {
            size.add(60 + key.len() + node.advertised_to(request).host.len()).await?;
            coordinators
                .push(find((node, groups, transactions), request, key, asked.key_type).await);
        }
        let response = FindCoordinatorResponse { coordinators, ..Default::default() };
        return Ok(response);
    }
    let found = find((node, groups, transactions), request, asked.key, asked.key_type).await;
    let response = FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    };
    Ok(response)
}

async fn find(
    (node, groups, transactions): (&Node, Groups<'_>, Transactions<'_>),
    request: &Request,
    key: String,
    key_type: i8,
) -> Coordinator {
    let at = node.advertised_to(request);
    let refused = |key: String, error: ErrorCode, why: &str| Coordinator {
        key,
        error_code: error.code(),
        error_message: Some(why.to_owned()),
        ..Default::default()
    };
    let home = match key_type {
        KEY_TYPE_GROUP => groups.home(&key).await,
        KEY_TYPE_TRANSACTION => transactions.home(&key).await,
        KEY_TYPE_SHARE => {
            return refused(key, ErrorCode::InvalidRequest, "share groups are not served");
        }
        _ => return refused(key, ErrorCode::InvalidRequest, "unknown type of key"),
    };
    match home {
        Ok(_) => Coordinator {
            key,
            node_id: node.id().0,
            host: at.host.clone(),
            port: i32::from(at.port),
            ..Default::default()
        },
        Err(error) => refused(key, error, "the coordinator's internal topic cannot be made"),
    }
}
