//! DescribeTransactions 0 (KIP-664).

use crate::api::rooms::Transactions;
use crate::metadata::named::each_once;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use wire::WireError;
use wire::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, DescribedTransaction,
};

pub(crate) async fn handle(
    transactions: Transactions<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DescribeTransactionsResponse, WireError> {
    let asked = read::<DescribeTransactionsRequest>(request)?;
    let mut transaction_states = Vec::new();
    for id in each_once(asked.transactional_ids) {
        let name = id.clone();
        let found = transactions.step(&id, move |_, coordinator, _| coordinator.describe(&name));
        let described = found.await.unwrap_or_else(|error| DescribedTransaction {
            error_code: error.code(),
            transactional_id: id,
            ..Default::default()
        });
        let topics = described
            .topics
            .iter()
            .map(|topic| 10 + topic.topic.len() + 4 * topic.partitions.len());
        size.add(50 + described.transactional_id.len() + topics.sum::<usize>()).await?;
        transaction_states.push(described);
    }
    let response = DescribeTransactionsResponse { transaction_states, ..Default::default() };
    Ok(response)
}
