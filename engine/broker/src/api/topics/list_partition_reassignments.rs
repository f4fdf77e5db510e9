//! ListPartitionReassignments 0 (KIP-455): on one node nothing is ever being moved.

use crate::network::answer::{Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use wire::WireError;
use wire::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    read::<ListPartitionReassignmentsRequest>(request)?;
    Ok(respond(shard, request, &ListPartitionReassignmentsResponse::default()))
}
