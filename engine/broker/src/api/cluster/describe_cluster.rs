//! DescribeCluster 0-2 (KIP-700): v1 endpoint type, v2 fenced brokers.

use crate::api::authorized::{self, if_asked};
use crate::network::answer::read;
use crate::network::request::Request;
use crate::shard::node::Node;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse};

pub(crate) async fn handle(
    node: &Node,
    request: &Request,
) -> Result<DescribeClusterResponse, WireError> {
    let asked = read::<DescribeClusterRequest>(request)?;
    if asked.endpoint_type != 1 {
        let response = DescribeClusterResponse {
            error_code: ErrorCode::MismatchedEndpointType.code(),
            error_message: Some("this is a broker's endpoint".to_owned()),
            endpoint_type: asked.endpoint_type,
            ..Default::default()
        };
        return Ok(response);
    }
    let at = node.advertised_to(request);
    let broker = DescribeClusterBroker {
        broker_id: node.id().0,
        host: at.host.clone(),
        port: i32::from(at.port),
        ..Default::default()
    };
    let response = DescribeClusterResponse {
        cluster_id: node.cluster_id.clone(),
        controller_id: node.id().0,
        brokers: vec![broker],
        cluster_authorized_operations: if_asked(
            asked.include_cluster_authorized_operations,
            authorized::CLUSTER,
        ),
        ..Default::default()
    };
    Ok(response)
}
