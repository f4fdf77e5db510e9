//! One match: API key to handler.

use crate::api::{cluster, configs, data, groups, security, topics, transactions};
use crate::network::answer::Outcome;
use crate::network::request::Request;
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
        ApiKey::JoinGroup => Box::pin(groups::join_group::handle(&shard, request)).await,
        ApiKey::SyncGroup => Box::pin(groups::sync_group::handle(&shard, request)).await,
        other => Box::pin(control(&shard, other, &request)).await,
    };
    outcome.unwrap_or_else(|error| {
        let is_ours = matches!(error, WireError::AnswerTooLarge | WireError::NoMemory);
        let what = if is_ours { "" } else { "malformed " };
        Outcome::Close(format!("{what}{} v{}: {error}", key.api().name, version))
    })
}

async fn control(shard: &Rc<Shard>, key: ApiKey, request: &Request) -> Result<Outcome, WireError> {
    match key {
        ApiKey::ApiVersions => cluster::api_versions::handle(shard, request),
        ApiKey::Metadata => topics::metadata::handle(shard, request).await,
        ApiKey::ListOffsets => data::list_offsets::handle(shard, request).await,
        ApiKey::FindCoordinator => groups::find_coordinator::handle(shard, request).await,
        ApiKey::CreateTopics => topics::create_topics::handle(shard, request).await,
        ApiKey::DeleteTopics => topics::delete_topics::handle(shard, request).await,
        ApiKey::DeleteRecords => data::delete_records::handle(shard, request).await,
        ApiKey::CreatePartitions => topics::create_partitions::handle(shard, request).await,
        ApiKey::OffsetForLeaderEpoch => data::offset_for_leader_epoch::handle(shard, request).await,
        ApiKey::DescribeConfigs => configs::describe_configs::handle(shard, request).await,
        ApiKey::DescribeCluster => cluster::describe_cluster::handle(shard, request),
        ApiKey::Heartbeat => groups::heartbeat::handle(shard, request).await,
        ApiKey::LeaveGroup => groups::leave_group::handle(shard, request).await,
        ApiKey::OffsetCommit => groups::offset_commit::handle(shard, request).await,
        ApiKey::OffsetFetch => groups::offset_fetch::handle(shard, request).await,
        ApiKey::ListGroups => groups::list_groups::handle(shard, request).await,
        ApiKey::DescribeGroups => groups::describe_groups::handle(shard, request).await,
        ApiKey::DeleteGroups => groups::delete_groups::handle(shard, request).await,
        ApiKey::OffsetDelete => groups::offset_delete::handle(shard, request).await,
        ApiKey::AlterConfigs => configs::alter_configs::handle(shard, request).await,
        ApiKey::IncrementalAlterConfigs => {
            configs::incremental_alter_configs::handle(shard, request).await
        }
        ApiKey::DescribeLogDirs => cluster::describe_log_dirs::handle(shard, request).await,
        ApiKey::ElectLeaders => topics::elect_leaders::handle(shard, request).await,
        ApiKey::AlterPartitionReassignments => {
            topics::alter_partition_reassignments::handle(shard, request)
        }
        ApiKey::ListPartitionReassignments => {
            topics::list_partition_reassignments::handle(shard, request)
        }
        ApiKey::DescribeQuorum => cluster::describe_quorum::handle(shard, request).await,
        ApiKey::UpdateFeatures => cluster::update_features::handle(shard, request).await,
        ApiKey::ListConfigResources => configs::list_config_resources::handle(shard, request),
        ApiKey::DescribeAcls => security::describe_acls::handle(shard, request),
        ApiKey::CreateAcls => security::create_acls::handle(shard, request).await,
        ApiKey::DeleteAcls => security::delete_acls::handle(shard, request).await,
        ApiKey::DescribeClientQuotas => configs::describe_client_quotas::handle(shard, request),
        ApiKey::DescribeUserScramCredentials => {
            security::describe_user_scram_credentials::handle(shard, request).await
        }
        ApiKey::SaslHandshake => security::sasl_handshake::handle(shard, request),
        ApiKey::SaslAuthenticate => security::sasl_authenticate::handle(shard, request),
        ApiKey::InitProducerId => transactions::init_producer_id::handle(shard, request).await,
        ApiKey::AddPartitionsToTxn => {
            transactions::add_partitions_to_txn::handle(shard, request).await
        }
        ApiKey::AddOffsetsToTxn => transactions::add_offsets_to_txn::handle(shard, request).await,
        ApiKey::EndTxn => transactions::end_txn::handle(shard, request).await,
        ApiKey::TxnOffsetCommit => transactions::txn_offset_commit::handle(shard, request).await,
        ApiKey::WriteTxnMarkers => transactions::write_txn_markers::handle(shard, request).await,
        ApiKey::DescribeProducers => transactions::describe_producers::handle(shard, request).await,
        ApiKey::DescribeTransactions => {
            transactions::describe_transactions::handle(shard, request).await
        }
        ApiKey::ListTransactions => transactions::list_transactions::handle(shard, request).await,
        ApiKey::DescribeTopicPartitions => {
            topics::describe_topic_partitions::handle(shard, request)
        }
        ApiKey::Produce | ApiKey::Fetch | ApiKey::JoinGroup | ApiKey::SyncGroup => {
            unreachable!("matched before")
        }
    }
}
