//! One match: API key to handler.

use crate::api::rooms::{Groups, Partitions, Topics, Transactions};
use crate::api::{cluster, configs, data, groups, security, topics, transactions};
use crate::network::answer::{AnswerSize, Outcome, respond};
use crate::network::request::{Request, ResponseTo};
use crate::shard::shard::Shard;
use std::rc::Rc;
use wire::{ApiKey, WireError};

/// Starts a request. The produce and fetch paths hold no box; the rest may.
pub(crate) async fn start(shard: Rc<Shard>, key: ApiKey, request: Request) -> Outcome {
    shard.requests_begun.set(shard.requests_begun.get() + 1);
    shard.request_counts().begun(key);
    let version = request.version;
    let outcome = match key {
        ApiKey::Produce => data::produce::handle(&shard, &request).await,
        ApiKey::Fetch => data::fetch::handle(&shard, &request).await,
        // They may wait for others for a long time, and let go of their bytes before.
        ApiKey::JoinGroup => {
            let to = request.response_to();
            let joined = Box::pin(groups::join_group::handle(Groups(&shard), request)).await;
            joined.map(|response| respond(&shard, to, &response))
        }
        ApiKey::SyncGroup => {
            let to = request.response_to();
            let synced = Box::pin(groups::sync_group::handle(Groups(&shard), request)).await;
            synced.map(|response| respond(&shard, to, &response))
        }
        other => Box::pin(control(&shard, other, &request)).await,
    };
    outcome.unwrap_or_else(|error| {
        let is_ours = matches!(error, WireError::AnswerTooLarge | WireError::NoMemory);
        let what = if is_ours { "" } else { "malformed " };
        Outcome::Close(format!("{what}{} v{}: {error}", key.api().name, version))
    })
}

/// What is not the way of data: each handler is given the rooms that it asks, and says what to respond.
///
/// Long: one match of all APIs.
async fn control(shard: &Rc<Shard>, key: ApiKey, request: &Request) -> Result<Outcome, WireError> {
    let (node, to, size) = (&*shard.node, request.response_to(), &mut AnswerSize::new(shard));
    let (topics, partitions) = (Topics(shard), Partitions(shard));
    let (groups, transactions) = (Groups(shard), Transactions(shard));
    macro_rules! answer {
        ($folder:ident::$api:ident($($given:expr),*)) => {
            respond(shard, to, &$folder::$api::handle($($given),*).await?)
        };
    }
    Ok(match key {
        ApiKey::ApiVersions => {
            let (version, response) = cluster::api_versions::handle(request)?;
            respond(shard, ResponseTo { version, ..to }, &response)
        }
        ApiKey::Metadata => answer!(topics::metadata(topics, request, size)),
        ApiKey::ListOffsets => answer!(data::list_offsets(partitions, request)),
        ApiKey::CreateTopics => answer!(topics::create_topics(topics, request, size)),
        ApiKey::DeleteTopics => answer!(topics::delete_topics(topics, request, size)),
        ApiKey::DeleteRecords => answer!(data::delete_records(partitions, request)),
        ApiKey::CreatePartitions => answer!(topics::create_partitions(topics, request)),
        ApiKey::OffsetForLeaderEpoch => answer!(data::offset_for_leader_epoch(partitions, request)),
        ApiKey::DescribeConfigs => answer!(configs::describe_configs(topics, request, size)),
        ApiKey::DescribeCluster => answer!(cluster::describe_cluster(node, request)),
        ApiKey::AlterConfigs => answer!(configs::alter_configs(topics, request)),
        ApiKey::IncrementalAlterConfigs => {
            answer!(configs::incremental_alter_configs(topics, request))
        }
        ApiKey::DescribeLogDirs => answer!(cluster::describe_log_dirs(partitions, request, size)),
        ApiKey::ElectLeaders => answer!(topics::elect_leaders(topics, request, size)),
        ApiKey::AlterPartitionReassignments => {
            answer!(topics::alter_partition_reassignments(topics, request))
        }
        ApiKey::ListPartitionReassignments => {
            answer!(topics::list_partition_reassignments(request))
        }
        ApiKey::DescribeQuorum => answer!(cluster::describe_quorum(node, request, size)),
        ApiKey::UpdateFeatures => answer!(cluster::update_features(request, size)),
        ApiKey::ListConfigResources => answer!(configs::list_config_resources(topics, request)),
        ApiKey::DescribeAcls => answer!(security::describe_acls(request)),
        ApiKey::CreateAcls => answer!(security::create_acls(request, size)),
        ApiKey::DeleteAcls => answer!(security::delete_acls(request, size)),
        ApiKey::DescribeClientQuotas => answer!(configs::describe_client_quotas(request)),
        ApiKey::DescribeUserScramCredentials => {
            answer!(security::describe_user_scram_credentials(request, size))
        }
        ApiKey::SaslHandshake => answer!(security::sasl_handshake(request)),
        ApiKey::SaslAuthenticate => answer!(security::sasl_authenticate(request)),
        ApiKey::DescribeTopicPartitions => {
            answer!(topics::describe_topic_partitions(topics, request))
        }
        ApiKey::FindCoordinator => {
            answer!(groups::find_coordinator(node, groups, transactions, request, size))
        }
        ApiKey::Heartbeat => answer!(groups::heartbeat(groups, request)),
        ApiKey::LeaveGroup => answer!(groups::leave_group(groups, request)),
        ApiKey::OffsetCommit => answer!(groups::offset_commit(groups, request)),
        ApiKey::OffsetFetch => answer!(groups::offset_fetch(groups, request, size)),
        ApiKey::ListGroups => answer!(groups::list_groups(groups, request, size)),
        ApiKey::DescribeGroups => answer!(groups::describe_groups(groups, request, size)),
        ApiKey::DeleteGroups => answer!(groups::delete_groups(groups, request)),
        ApiKey::OffsetDelete => answer!(groups::offset_delete(groups, request)),
        ApiKey::InitProducerId => answer!(transactions::init_producer_id(transactions, request)),
        ApiKey::AddPartitionsToTxn => {
            answer!(transactions::add_partitions_to_txn(transactions, request))
        }
        ApiKey::AddOffsetsToTxn => {
            answer!(transactions::add_offsets_to_txn(groups, transactions, request))
        }
        ApiKey::EndTxn => answer!(transactions::end_txn(transactions, request)),
        ApiKey::TxnOffsetCommit => {
            answer!(transactions::txn_offset_commit(groups, transactions, request))
        }
        ApiKey::WriteTxnMarkers => answer!(transactions::write_txn_markers(partitions, request)),
        ApiKey::DescribeProducers => {
            answer!(transactions::describe_producers(partitions, request, size))
        }
        ApiKey::DescribeTransactions => {
            answer!(transactions::describe_transactions(transactions, request, size))
        }
        ApiKey::ListTransactions => {
            answer!(transactions::list_transactions(transactions, request, size))
        }
        ApiKey::Produce | ApiKey::Fetch | ApiKey::JoinGroup | ApiKey::SyncGroup => {
            unreachable!("matched before")
        }
    })
}
