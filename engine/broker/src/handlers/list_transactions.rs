//! ListTransactions 0-2 (KIP-664): v1 by duration (KIP-994), v2 by pattern (KIP-1152). There are no
//! transactions yet.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use wire::WireError;
use wire::messages::{ListTransactionsRequest, ListTransactionsResponse};

/// The states a transaction can be in, in Kafka's words.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<ListTransactionsRequest>(request)?;
    let unknown = asked.state_filters.into_iter().filter(|state| !STATES.contains(&state.as_str()));
    let response =
        ListTransactionsResponse { unknown_state_filters: unknown.collect(), ..Default::default() };
    Ok(respond(shard, request, &response))
}
