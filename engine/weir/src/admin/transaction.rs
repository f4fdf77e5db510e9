//! `weir transaction`.

use super::failures::{all_fine, refused};
use super::offsets::leaders_of;
use super::view::{Format, View, print};
use clap::Subcommand;
use client::Cluster;
use model::ErrorCode;
use runtime::{clock, timer};
use serde_json::json;
use std::time::Duration;
use wire::messages::{
    DescribeProducersRequest, DescribeProducersResponse, DescribeProducersTopic,
    DescribeTransactionsRequest, DescribeTransactionsResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListTransactionsRequest, ListTransactionsResponse, ProducerState,
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// The transactional ids that the brokers know
    List {
        /// Only in this state, as Ongoing; may be repeated
        #[arg(long)]
        state: Vec<String>,
        /// Only those whose transaction has run for so long
        #[arg(long, value_name = "MS", default_value_t = -1)]
        running_longer_than_ms: i64,
    },
    /// State, producer and partitions of transactional ids
    Describe {
        #[arg(required = true, value_name = "TRANSACTIONAL-ID")]
        ids: Vec<String>,
    },
    /// The producers that a topic's partitions know, and since where their transactions are open
    Producers {
        topic: String,
        /// Only those with an open transaction: what holds back readers of committed records
        #[arg(long)]
        open: bool,
    },
    /// Aborts the transaction of a transactional id and fences its producer; or, with --topic, the
    /// one that hangs in a partition and that no coordinator knows any more
    Abort {
        #[arg(value_name = "TRANSACTIONAL-ID", required_unless_present = "topic")]
        id: Option<String>,
        /// Where it hangs
        #[arg(long, requires = "partition", requires = "start_offset", conflicts_with = "id")]
        topic: Option<String>,
        #[arg(long)]
        partition: Option<i32>,
        /// Where it begins there, as `weir transaction producers` shows it
        #[arg(long)]
        start_offset: Option<i64>,
    },
}

/// Asked for when a transactional id is taken over for a moment.
const TIMEOUT_MS: i32 = 60_000;
const ATTEMPTS: u32 = 100;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

pub(crate) async fn run(cluster: &mut Cluster, verb: Verb, format: Format) -> Result<(), String> {
    match verb {
        Verb::List { state, running_longer_than_ms } => {
            list(cluster, state, running_longer_than_ms, format).await
        }
        Verb::Describe { ids } => describe(cluster, ids, format).await,
        Verb::Producers { topic, open } => producers(cluster, &topic, open, format).await,
        Verb::Abort { id: Some(id), .. } => abort(cluster, &id).await,
        Verb::Abort { topic: Some(topic), partition, start_offset, .. } => {
            let place = (partition.unwrap_or_default(), start_offset.unwrap_or_default());
            abort_hanging(cluster, topic, place.0, place.1).await
        }
        Verb::Abort { .. } => Err("a transactional id or a place is expected".to_owned()),
    }
}

async fn list(
    cluster: &mut Cluster,
    states: Vec<String>,
    running_ms: i64,
    format: Format,
) -> Result<(), String> {
    let mut view = View::new(&["TRANSACTIONAL-ID", "PRODUCER-ID", "STATE", "COORDINATOR"]);
    let request = ListTransactionsRequest {
        state_filters: states,
        duration_filter: running_ms,
        ..Default::default()
    };
    for node in cluster.nodes().to_vec() {
        let response: ListTransactionsResponse = cluster.ask_at(&node.address, &request).await?;
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

async fn describe(cluster: &mut Cluster, ids: Vec<String>, format: Format) -> Result<(), String> {
    let columns = [
        "TRANSACTIONAL-ID",
        "PRODUCER-ID",
        "EPOCH",
        "STATE",
        "TIMEOUT-MS",
        "RUNNING-MS",
        "PARTITIONS",
    ];
    let mut view = View::new(&columns);
    let mut failures = Vec::new();
    for id in ids {
        let coordinator = cluster.transaction_coordinator_of(&id).await?;
        let request = DescribeTransactionsRequest { transactional_ids: vec![id] };
        let response: DescribeTransactionsResponse = cluster.ask_at(&coordinator, &request).await?;
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
            let started = found.transaction_start_time_ms;
            let running = (started >= 0).then(|| clock::unix_ms().saturating_sub(started));
            view.row(vec![
                json!(found.transactional_id),
                json!(found.producer_id),
                json!(found.producer_epoch),
                json!(found.transaction_state),
                json!(found.transaction_timeout_ms),
                json!(running),
                json!(partitions),
            ]);
        }
    }
    if !view.is_empty() || failures.is_empty() {
        view.show(format);
    }
    all_fine(failures)
}

/// Each partition of a topic with its leader's address, and its producers.
async fn producers_of(
    cluster: &mut Cluster,
    topic: &str,
) -> Result<Vec<(i32, String, Vec<ProducerState>)>, String> {
    let metadata = cluster.metadata(Some(vec![topic.to_owned()])).await?;
    let mut found = Vec::new();
    for ((name, index), leader) in leaders_of(&metadata) {
        let address = cluster.address_of(leader).ok_or("its leader is not known")?;
        let asked = DescribeProducersTopic { name: name.clone(), partition_indexes: vec![index] };
        let request = DescribeProducersRequest { topics: vec![asked] };
        let response: DescribeProducersResponse = cluster.ask_at(&address, &request).await?;
        for partition in response.topics.into_iter().flat_map(|topic| topic.partitions) {
            if partition.error_code != 0 {
                return Err(refused(&format!("{name}-{index}"), partition.error_code, None));
            }
            found.push((index, address.clone(), partition.active_producers));
        }
    }
    if found.is_empty() {
        return Err(format!("{topic}: there is no such topic"));
    }
    Ok(found)
}

async fn producers(
    cluster: &mut Cluster,
    topic: &str,
    open: bool,
    format: Format,
) -> Result<(), String> {
    let mut view = View::new(&[
        "PARTITION",
        "PRODUCER-ID",
        "EPOCH",
        "LAST-SEQUENCE",
        "IDLE-MS",
        "OPEN-SINCE-OFFSET",
    ]);
    for (index, _, producers) in producers_of(cluster, topic).await? {
        for found in producers.iter().filter(|p| !open || p.current_txn_start_offset >= 0) {
            let since = found.current_txn_start_offset;
            view.row(vec![
                json!(index),
                json!(found.producer_id),
                json!(found.producer_epoch),
                json!(found.last_sequence),
                json!(clock::unix_ms().saturating_sub(found.last_timestamp)),
                json!((since >= 0).then_some(since)),
            ]);
        }
    }
    view.show(format);
    Ok(())
}

/// Takes the id over: what it was doing is aborted.
async fn abort(cluster: &mut Cluster, id: &str) -> Result<(), String> {
    let coordinator = cluster.transaction_coordinator_of(id).await?;
    // Taking over an id that nobody has would make it.
    let request = DescribeTransactionsRequest { transactional_ids: vec![id.to_owned()] };
    let response: DescribeTransactionsResponse = cluster.ask_at(&coordinator, &request).await?;
    let known = response.transaction_states.first().ok_or("the broker said nothing of it")?;
    if known.error_code != 0 {
        return Err(refused(id, known.error_code, None));
    }
    let request = InitProducerIdRequest {
        transactional_id: Some(id.to_owned()),
        transaction_timeout_ms: known.transaction_timeout_ms.clamp(1, TIMEOUT_MS),
        ..Default::default()
    };
    for _ in 0..ATTEMPTS {
        let response: InitProducerIdResponse = cluster.ask_at(&coordinator, &request).await?;
        match ErrorCode::from_code(response.error_code) {
            ErrorCode::None => {
                print(&format!(
                    "{id}: no transaction is open; its producer must begin anew (epoch {} now)\n",
                    response.producer_epoch
                ));
                return Ok(());
            }
            ErrorCode::ConcurrentTransactions => timer::sleep(BETWEEN_ATTEMPTS).await,
            _ => return Err(refused(id, response.error_code, None)),
        }
    }
    Err(format!("{id}: its transaction is still being ended; see `weir transaction describe`"))
}

async fn abort_hanging(
    cluster: &mut Cluster,
    topic: String,
    partition: i32,
    start_offset: i64,
) -> Result<(), String> {
    let place = format!("{topic}-{partition}");
    let found = producers_of(cluster, &topic).await?;
    let (_, address, producers) = found
        .into_iter()
        .find(|(index, ..)| *index == partition)
        .ok_or_else(|| format!("{place}: there is no such partition"))?;
    let producer = producers
        .into_iter()
        .find(|producer| producer.current_txn_start_offset == start_offset)
        .ok_or_else(|| format!("{place}: no open transaction begins at offset {start_offset}"))?;
    let asked = WritableTxnMarkerTopic { name: topic, partition_indexes: vec![partition] };
    let marker = WritableTxnMarker {
        producer_id: producer.producer_id,
        producer_epoch: producer.producer_epoch as i16,
        transaction_result: false,
        topics: vec![asked],
        coordinator_epoch: producer.coordinator_epoch,
    };
    let request = WriteTxnMarkersRequest { markers: vec![marker] };
    let response: WriteTxnMarkersResponse = cluster.ask_at(&address, &request).await?;
    let topics = response.markers.into_iter().flat_map(|marker| marker.topics);
    let error = topics.flat_map(|topic| topic.partitions).map(|p| p.error_code).next();
    match error {
        Some(0) => {
            print(&format!("{place}: the transaction at offset {start_offset} is aborted\n"));
            Ok(())
        }
        Some(error) => Err(refused(&place, error, None)),
        None => Err(format!("{place}: the broker said nothing of it")),
    }
}
