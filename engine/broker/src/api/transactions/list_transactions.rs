//! ListTransactions 0-2 (KIP-664): v1 by duration (KIP-994), v2 by pattern (KIP-1152).

use crate::api::rooms::Transactions;
use crate::metadata::named::each_once;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use coordinator::TransactionState;
use model::ErrorCode;
use std::collections::BTreeSet;
use wire::WireError;
use wire::messages::{ListTransactionsRequest, ListTransactionsResponse};

pub(crate) async fn handle(
    transactions: Transactions<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<ListTransactionsResponse, WireError> {
    let asked = read::<ListTransactionsRequest>(request)?;
    let mut response = ListTransactionsResponse::default();
    let pattern = asked.transactional_id_pattern.filter(|pattern| !pattern.is_empty());
    let Ok(pattern) = pattern.map(|p| regex_lite::Regex::new(&format!("^(?:{p})$"))).transpose()
    else {
        response.error_code = ErrorCode::InvalidRegularExpression.code();
        return Ok(response);
    };
    let mut states = Vec::new();
    for name in each_once(asked.state_filters) {
        match TransactionState::ALL.iter().find(|state| state.name() == name) {
            Some(state) if states.contains(state) => {}
            Some(state) => states.push(*state),
            None => response.unknown_state_filters.push(name),
        }
    }
    // Only states that do not exist were asked for: nothing can be in one.
    if !states.is_empty() || response.unknown_state_filters.is_empty() {
        let (producers, running_ms) =
            (asked.producer_id_filters.into_iter().collect::<BTreeSet<_>>(), asked.duration_filter);
        let found = transactions.step_all(move |_, coordinator, now| {
            coordinator.list(now, &states, &producers, running_ms)
        });
        for listed in found.await {
            match listed {
                Ok(listed) => {
                    let bytes = listed.iter().map(|found| 40 + found.transactional_id.len());
                    size.add(bytes.sum()).await?;
                    response.transaction_states.extend(listed);
                }
                Err(error) => response.error_code = error.code(),
            }
        }
    }
    if let Some(pattern) = pattern {
        response.transaction_states.retain(|found| pattern.is_match(&found.transactional_id));
    }
    Ok(response)
}
