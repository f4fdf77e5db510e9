//! DescribeTransactions 0 (KIP-664).

use crate::coordinators::transactions::step_at;
use crate::metadata::named::each_once;
use crate::network::answer::{AnswerSize, Outcome, read, respond};
use crate::network::request::Request;
use crate::shard::shard::Shard;
use std::rc::Rc;
use wire::WireError;
use wire::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, DescribedTransaction,
};

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DescribeTransactionsRequest>(request)?;
    let mut transaction_states = Vec::new();
    let mut size = AnswerSize::new(shard);
    for id in each_once(asked.transactional_ids) {
        let name = id.clone();
        let found = step_at(shard, &id, move |_, coordinator, _| coordinator.describe(&name));
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
    Ok(respond(shard, request, &response))
}
