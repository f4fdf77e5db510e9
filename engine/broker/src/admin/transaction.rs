//! `weir transaction`.

use super::view::View;
use super::{Format, all_fine, refused};
use clap::Subcommand;
use client::Cluster;
use serde_json::json;
use wire::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ListTransactionsRequest,
    ListTransactionsResponse,
};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// The transactional ids that the brokers know
    List {
        /// Only in this state, as Ongoing; may be repeated
        #[arg(long)]
        state: Vec<String>,
    },
    /// State, producer and partitions of transactional ids
    Describe {
        #[arg(required = true, value_name = "TRANSACTIONAL-ID")]
        ids: Vec<String>,
    },
}

pub(crate) async fn run(cluster: &mut Cluster, verb: Verb, format: Format) -> Result<(), String> {
    match verb {
        Verb::List { state } => {
            let mut view = View::new(&["TRANSACTIONAL-ID", "PRODUCER-ID", "STATE", "COORDINATOR"]);
            let request =
                ListTransactionsRequest { state_filters: state.clone(), ..Default::default() };
            for node in cluster.nodes().to_vec() {
                let response: ListTransactionsResponse =
                    cluster.ask_at(&node.address, &request).await?;
                if response.error_code != 0 {
                    return Err(refused(&node.address, response.error_code, None));
                }
                if let Some(unknown) = response.unknown_state_filters.first() {
                    return Err(format!("{unknown:?} is no state of a transaction"));
                }
                for found in response.transaction_states {
                    view.row(vec![
                        json!(found.transactional_id),
                        json!(found.producer_id),
                        json!(found.transaction_state),
                        json!(node.id),
                    ]);
                }
            }
            view.show(format);
            Ok(())
        }
        Verb::Describe { ids } => {
            let columns =
                ["TRANSACTIONAL-ID", "PRODUCER-ID", "EPOCH", "STATE", "TIMEOUT-MS", "PARTITIONS"];
            let mut view = View::new(&columns);
            let request = DescribeTransactionsRequest { transactional_ids: ids };
            let response: DescribeTransactionsResponse = cluster.ask(&request).await?;
            let mut failures = Vec::new();
            for found in response.transaction_states {
                if found.error_code != 0 {
                    failures.push(refused(&found.transactional_id, found.error_code, None));
                    continue;
                }
                let named = |topic: &wire::messages::TransactionTopic| {
                    let of = |index: &i32| format!("{}-{index}", topic.topic);
                    topic.partitions.iter().map(of).collect::<Vec<_>>()
                };
                let partitions: Vec<String> = found.topics.iter().flat_map(named).collect();
                view.row(vec![
                    json!(found.transactional_id),
                    json!(found.producer_id),
                    json!(found.producer_epoch),
                    json!(found.transaction_state),
                    json!(found.transaction_timeout_ms),
                    json!(partitions),
                ]);
            }
            if !view.is_empty() || failures.is_empty() {
                view.show(format);
            }
            all_fine(failures)
        }
    }
}
