//! DescribeTransactions 0 (KIP-664).

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use crate::transactions::step_at;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, DescribedTransaction,
};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DescribeTransactionsRequest>(request)?;
    let mut transaction_states = Vec::new();
    for id in asked.transactional_ids {
        let name = id.clone();
        let found = step_at(shard, &id, move |_, coordinator, _| coordinator.describe(&name));
        transaction_states.push(found.await.unwrap_or_else(|error| DescribedTransaction {
            error_code: error.code(),
            transactional_id: id,
            ..Default::default()
        }));
    }
    let response = DescribeTransactionsResponse { transaction_states, ..Default::default() };
    Ok(respond(shard, request, &response))
}
