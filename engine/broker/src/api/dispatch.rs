//! One match: API key to handler.

use crate::api::{cluster, configs, data, groups, security, topics, transactions};
use crate::network::memory::HeldAnswer;
use crate::shard::shard::{Request, Shard};
use model::limits::ANSWER_BYTES_MAX;
use runtime::Slice;
use runtime::budget::{Budget, Held};
use runtime::buffer::SharedBytes;
use std::rc::Rc;
use wire::messages::Message;
use wire::{ApiKey, WireError, header};

/// From here on an answer is a large one.
const LARGE_ANSWER_BYTES: usize = 64 * 1024;

/// What becomes of a request.
pub(crate) enum Outcome {
    /// Send these bytes.
    Respond(Vec<SharedBytes>),
    /// Send nothing (`acks=0`).
    Silence,
    /// End the connection, because of this.
    Close(String),
}

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

/// An answer that is being made: its memory is noted before it is taken, and of large ones only a few are made at a
/// time, in slices, and none while clients that do not read hold all there is for answers.
pub(crate) struct AnswerSize {
    held: HeldAnswer,
    lane: Rc<Budget>,
    place: Option<Held>,
    slice: Slice,
}

impl AnswerSize {
    pub(crate) fn new(shard: &Shard) -> Self {
        Self {
            held: shard.other_answer_memory.hold(),
            lane: Rc::clone(&shard.large_answers),
            place: None,
            slice: Slice::begin(),
        }
    }

    /// Notes so many bytes more.
    ///
    /// # Errors
    /// No client takes an answer of that size, or there is no memory for it.
    pub(crate) async fn add(&mut self, bytes: usize) -> Result<(), WireError> {
        let bytes = self.held.bytes() + bytes;
        if bytes > ANSWER_BYTES_MAX {
            return Err(WireError::AnswerTooLarge);
        }
        if bytes > LARGE_ANSWER_BYTES && self.place.is_none() {
            self.place = Some(self.held.place(&self.lane).await.ok_or(WireError::NoMemory)?);
        }
        self.held.set(bytes);
        self.slice.rest().await;
        Ok(())
    }
}

/// Reads a control request's body.
pub(crate) fn read<M: Message>(request: &Request) -> Result<M, WireError> {
    M::decode_untrusted(&mut request.body(), request.version)
}

/// A control response as bytes to send.
pub(crate) fn respond<M: Message>(shard: &Shard, request: &Request, message: &M) -> Outcome {
    respond_version(shard, request, request.version, message)
}

/// As `respond`, in another version than the request's (for ApiVersions).
pub(crate) fn respond_version<M: Message>(
    shard: &Shard,
    request: &Request,
    version: i16,
    message: &M,
) -> Outcome {
    let mut is_too_large = false;
    let head = shard.encode_head(|out| {
        header::begin_response(out, M::KEY, version, request.correlation_id);
        message.encode(out, version);
        is_too_large = out.len() > ANSWER_BYTES_MAX;
        if is_too_large {
            out.clear();
        } else {
            header::finish_frame(out, 0, 0);
        }
    });
    if is_too_large {
        return Outcome::Close(format!(
            "{} v{version}: {}",
            M::KEY.api().name,
            WireError::AnswerTooLarge
        ));
    }
    let mut pieces = shard.take_pieces();
    pieces.push(head);
    Outcome::Respond(pieces)
}
