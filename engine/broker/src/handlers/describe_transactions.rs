//! DescribeTransactions 0 (KIP-664). There are no transactions yet.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, DescribedTransaction,
};

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DescribeTransactionsRequest>(request)?;
    let none = |transactional_id| DescribedTransaction {
        error_code: ErrorCode::TransactionalIdNotFound.code(),
        transactional_id,
        ..Default::default()
    };
    let transaction_states = asked.transactional_ids.into_iter().map(none).collect();
    let response = DescribeTransactionsResponse { transaction_states, ..Default::default() };
    Ok(respond(shard, request, &response))
}
