//! One match: API key to handler.

use crate::handlers;
use crate::memory::HeldAnswer;
use crate::shard::{Request, Shard};
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
        ApiKey::Produce => handlers::produce::handle(&shard, &request).await,
        ApiKey::Fetch => handlers::fetch::handle(&shard, &request).await,
        // They may wait for others for a long time, and let go of their bytes before.
        ApiKey::JoinGroup => Box::pin(handlers::join_group::handle(&shard, request)).await,
        ApiKey::SyncGroup => Box::pin(handlers::sync_group::handle(&shard, request)).await,
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
        ApiKey::ApiVersions => handlers::api_versions::handle(shard, request),
        ApiKey::Metadata => handlers::metadata::handle(shard, request).await,
        ApiKey::ListOffsets => handlers::list_offsets::handle(shard, request).await,
        ApiKey::FindCoordinator => handlers::find_coordinator::handle(shard, request).await,
        ApiKey::CreateTopics => handlers::create_topics::handle(shard, request).await,
        ApiKey::DeleteTopics => handlers::delete_topics::handle(shard, request).await,
        ApiKey::DeleteRecords => handlers::delete_records::handle(shard, request).await,
        ApiKey::CreatePartitions => handlers::create_partitions::handle(shard, request).await,
        ApiKey::OffsetForLeaderEpoch => {
            handlers::offset_for_leader_epoch::handle(shard, request).await
        }
        ApiKey::DescribeConfigs => handlers::describe_configs::handle(shard, request).await,
        ApiKey::DescribeCluster => handlers::describe_cluster::handle(shard, request),
        ApiKey::Heartbeat => handlers::heartbeat::handle(shard, request).await,
        ApiKey::LeaveGroup => handlers::leave_group::handle(shard, request).await,
        ApiKey::OffsetCommit => handlers::offset_commit::handle(shard, request).await,
        ApiKey::OffsetFetch => handlers::offset_fetch::handle(shard, request).await,
        ApiKey::ListGroups => handlers::list_groups::handle(shard, request).await,
        ApiKey::DescribeGroups => handlers::describe_groups::handle(shard, request).await,
        ApiKey::DeleteGroups => handlers::delete_groups::handle(shard, request).await,
        ApiKey::OffsetDelete => handlers::offset_delete::handle(shard, request).await,
        ApiKey::AlterConfigs => handlers::alter_configs::handle(shard, request).await,
        ApiKey::IncrementalAlterConfigs => {
            handlers::incremental_alter_configs::handle(shard, request).await
        }
        ApiKey::DescribeLogDirs => handlers::describe_log_dirs::handle(shard, request).await,
        ApiKey::ElectLeaders => handlers::elect_leaders::handle(shard, request).await,
        ApiKey::AlterPartitionReassignments => {
            handlers::alter_partition_reassignments::handle(shard, request)
        }
        ApiKey::ListPartitionReassignments => {
            handlers::list_partition_reassignments::handle(shard, request)
        }
        ApiKey::DescribeQuorum => handlers::describe_quorum::handle(shard, request).await,
        ApiKey::UpdateFeatures => handlers::update_features::handle(shard, request).await,
        ApiKey::ListConfigResources => handlers::list_config_resources::handle(shard, request),
        ApiKey::DescribeAcls => handlers::describe_acls::handle(shard, request),
        ApiKey::CreateAcls => handlers::create_acls::handle(shard, request).await,
        ApiKey::DeleteAcls => handlers::delete_acls::handle(shard, request).await,
        ApiKey::DescribeClientQuotas => handlers::describe_client_quotas::handle(shard, request),
        ApiKey::DescribeUserScramCredentials => {
            handlers::describe_user_scram_credentials::handle(shard, request).await
        }
        ApiKey::SaslHandshake => handlers::sasl_handshake::handle(shard, request),
        ApiKey::SaslAuthenticate => handlers::sasl_authenticate::handle(shard, request),
        ApiKey::InitProducerId => handlers::init_producer_id::handle(shard, request).await,
        ApiKey::AddPartitionsToTxn => handlers::add_partitions_to_txn::handle(shard, request).await,
        ApiKey::AddOffsetsToTxn => handlers::add_offsets_to_txn::handle(shard, request).await,
        ApiKey::EndTxn => handlers::end_txn::handle(shard, request).await,
        ApiKey::TxnOffsetCommit => handlers::txn_offset_commit::handle(shard, request).await,
        ApiKey::WriteTxnMarkers => handlers::write_txn_markers::handle(shard, request).await,
        ApiKey::DescribeProducers => handlers::describe_producers::handle(shard, request).await,
        ApiKey::DescribeTransactions => {
            handlers::describe_transactions::handle(shard, request).await
        }
        ApiKey::ListTransactions => handlers::list_transactions::handle(shard, request).await,
        ApiKey::DescribeTopicPartitions => {
            handlers::describe_topic_partitions::handle(shard, request)
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
