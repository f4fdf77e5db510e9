//! ListPartitionReassignments 0 (KIP-455): on one node nothing is ever being moved.

use crate::network::answer::read;
use crate::network::request::Request;
use wire::WireError;
use wire::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

pub(crate) async fn handle(
    request: &Request,
) -> Result<ListPartitionReassignmentsResponse, WireError> {
    read::<ListPartitionReassignmentsRequest>(request)?;
    Ok(ListPartitionReassignmentsResponse::default())
}
