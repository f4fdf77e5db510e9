//! What a handler is given: the rooms that it asks, and nothing else of the shard that its connection is on.

use crate::coordinators::groups::{self, home_of_group};
use crate::coordinators::state_log::{self, Here, home_of};
use crate::coordinators::transactions::{self, Target, TransactionLog};
use crate::metadata::topics;
use crate::partitions::partition_slot::{PartitionSlot, Writer};
use crate::shard::node::Node;
use crate::shard::proofs::Proofs;
use crate::shard::shard::Shard;
use coordinator::{Answer, ClientVersion, GroupCoordinator, Now, Ticket, TransactionCoordinator};
use metadata::changes::{Created, NewTopic, Refusal};
use metadata::image::MetadataImage;
use metadata::in_force::SettingValues;
use model::{ErrorCode, Marker, Producer, ProducerId, TopicId, TopicPartition};
use runtime::budget::Budget;
use std::rc::Rc;
use std::sync::Arc;

/// Which topics there are, and their changes.
#[derive(Clone, Copy)]
pub(crate) struct Topics<'a>(pub(super) &'a Rc<Shard>);

impl<'a> Topics<'a> {
    /// What this shard sees of them now.
    pub(crate) fn image(self) -> Arc<MetadataImage> {
        self.0.image()
    }

    /// This broker.
    pub(crate) fn node(self) -> &'a Arc<Node> {
        &self.0.node
    }

    /// What is set on the broker for topics that do not say otherwise.
    pub(crate) fn on_broker(self) -> &'a SettingValues {
        &self.0.node.config.set
    }

    /// Creates topics; one result each.
    pub(crate) async fn create(self, new: Vec<NewTopic>) -> Vec<Result<Created, Refusal>> {
        topics::create(self.0, new).await
    }

    /// Gives a topic more partitions.
    pub(crate) async fn grow(self, id: TopicId, count: i32) -> Result<(), Refusal> {
        topics::grow(self.0, id, count).await
    }

    /// Changes a topic's settings; what `change` refuses is not changed at all.
    pub(crate) async fn alter(
        self,
        id: TopicId,
        change: impl FnOnce(&mut SettingValues) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<(), Refusal> {
        topics::alter(self.0, id, change).await
    }

    /// Deletes a topic and its data.
    pub(crate) async fn delete(self, id: TopicId) -> Result<(), Refusal> {
        topics::delete(self.0, id).await
    }
}

/// The partitions of all shards, for what is rare.
#[derive(Clone, Copy)]
pub(crate) struct Partitions<'a>(pub(super) &'a Rc<Shard>);

impl<'a> Partitions<'a> {
    /// What this shard sees of their topics now.
    pub(crate) fn image(self) -> Arc<MetadataImage> {
        self.0.image()
    }

    /// This broker.
    pub(crate) fn node(self) -> &'a Arc<Node> {
        &self.0.node
    }

    /// Runs `body` with a partition, on the shard that owns it; it is given the memory for what it decompresses, too.
    ///
    /// # Errors
    /// Why it is not there, or what `body` says.
    pub(crate) async fn at<T: Send + 'static, F>(
        self,
        id: TopicPartition,
        body: impl FnOnce(Rc<PartitionSlot>, Rc<Budget>) -> F + Send + 'static,
    ) -> Result<T, ErrorCode>
    where
        F: Future<Output = Result<T, ErrorCode>> + 'static,
    {
        let on_owner = move |owner: Rc<Shard>| async move {
            let slot = owner.slot(id).ok_or_else(|| owner.why_absent(id))?;
            body(slot, Rc::clone(&owner.unpacked)).await
        };
        self.0.call(self.0.owner_of(id), on_owner).await
    }

    /// What each takes on the disk: directory, partition, bytes.
    pub(crate) async fn sizes(self) -> Vec<(usize, TopicPartition, u64)> {
        let mut sizes = Vec::new();
        for to in 0..self.0.mailbox.shards() {
            sizes.extend(self.0.call(to, |owner| async move { owner.sizes() }).await);
        }
        sizes
    }

    /// Ends a transaction in these partitions, as an operator asks.
    pub(crate) async fn mark(
        self,
        marker: Marker,
        partitions: Vec<TopicPartition>,
    ) -> Vec<Result<(), ErrorCode>> {
        transactions::mark(self.0, marker, partitions, Writer::Operator).await
    }
}

/// The groups of all shards.
#[derive(Clone, Copy)]
pub(crate) struct Groups<'a>(pub(super) &'a Rc<Shard>);

impl Groups<'_> {
    /// The partition that a group lives in.
    pub(crate) async fn home(self, group: &str) -> Result<TopicPartition, ErrorCode> {
        home_of_group(self.0, group).await
    }

    /// One step of a group's coordinator; returns once all it rests on is durable.
    pub(crate) async fn step<T: Send + 'static>(
        self,
        group: &str,
        step: impl FnOnce(Here<'_>, &mut GroupCoordinator, Now) -> T + Send + 'static,
    ) -> Result<T, ErrorCode> {
        state_log::step_at(self.0, group, step).await
    }

    /// The same, if its records may be written in a producer's transaction: in the same breath as the append, so that no
    /// marker comes in between.
    pub(crate) async fn step_in_transaction<T: Send + 'static>(
        self,
        group: &str,
        producer: Producer,
        proof: Option<partition::Proof>,
        step: impl FnOnce(Here<'_>, &mut GroupCoordinator, Now) -> T + Send + 'static,
    ) -> Result<T, ErrorCode> {
        state_log::at_home(self.0, group, move |shard, log: Rc<groups::GroupLog>| async move {
            let admitted = |here: Here<'_>, coordinator: &mut GroupCoordinator, now| {
                log.slot().producers.borrow().admit_transactional(producer, proof)?;
                Ok(step(here, coordinator, now))
            };
            log.run(&shard, admitted).await?
        })
        .await
    }

    /// The same on every partition of groups.
    pub(crate) async fn step_all<T: Send + 'static>(
        self,
        step: impl Fn(Here<'_>, &mut GroupCoordinator, Now) -> T + Send + Clone + 'static,
    ) -> Vec<Result<T, ErrorCode>> {
        state_log::step_at_all(self.0, step).await
    }

    /// A step whose answer may come later, to the ticket it is given.
    pub(crate) async fn parked(
        self,
        group: &str,
        step: impl FnOnce(&mut GroupCoordinator, Now, Ticket) + Send + 'static,
    ) -> Result<Answer, ErrorCode> {
        state_log::at_home(self.0, group, move |shard, log: Rc<groups::GroupLog>| async move {
            log.run_parked(&shard, step).await
        })
        .await
    }
}

/// The transactional ids of all shards.
#[derive(Clone, Copy)]
pub(crate) struct Transactions<'a>(pub(super) &'a Rc<Shard>);

impl Transactions<'_> {
    /// What this shard sees of topics now.
    pub(crate) fn image(self) -> Arc<MetadataImage> {
        self.0.image()
    }

    /// The partition that a transactional id lives in.
    pub(crate) async fn home(self, id: &str) -> Result<TopicPartition, ErrorCode> {
        home_of::<TransactionCoordinator>(self.0, id).await
    }

    /// A producer id that nobody has yet.
    ///
    /// # Errors
    /// There are none left.
    pub(crate) fn take_producer_id(self) -> Result<ProducerId, ErrorCode> {
        self.0.take_producer_id()
    }

    /// One step of a transactional id's coordinator; returns once all it rests on is durable.
    pub(crate) async fn step<T: Send + 'static>(
        self,
        id: &str,
        step: impl FnOnce(Here<'_>, &mut TransactionCoordinator, Now) -> T + Send + 'static,
    ) -> Result<T, ErrorCode> {
        state_log::step_at(self.0, id, step).await
    }

    /// The same on every partition of transactional ids.
    pub(crate) async fn step_all<T: Send + 'static>(
        self,
        step: impl Fn(Here<'_>, &mut TransactionCoordinator, Now) -> T + Send + Clone + 'static,
    ) -> Vec<Result<T, ErrorCode>> {
        state_log::step_at_all(self.0, step).await
    }

    /// Ends a transaction; its outcome is durable then, and usually its partitions have been told.
    pub(crate) async fn end(
        self,
        id: &str,
        producer: Producer,
        commit: bool,
        version: ClientVersion,
    ) -> Result<Producer, ErrorCode> {
        let name = id.to_owned();
        state_log::at_home(self.0, id, move |shard, log: Rc<TransactionLog>| async move {
            let step = log.run(&shard, |here: Here<'_>, coordinator, now| {
                let fresh = here.take_producer_id()?;
                coordinator.end(now, &name, producer, commit, version, fresh)
            });
            let ended = step.await??;
            transactions::until_told(&log, &name).await;
            Ok(ended)
        })
        .await
    }

    /// Whether a producer may write to these partitions in its transaction.
    pub(crate) async fn prove(
        self,
        id: &str,
        written: Vec<Target>,
        version: ClientVersion,
    ) -> Proofs {
        transactions::prove(self.0, id, written, version).await
    }
}
