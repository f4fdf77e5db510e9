//! Consumer groups on their shard: the state of `__consumer_offsets`, and joins and syncs that wait.

use crate::coordinators::state_log::{self, Here, Machine, Records, StateLog, Written};
use crate::shard::shard::Shard;
use coordinator::{Answer, Effects, GroupCoordinator, Now, Ticket, read_record};
use metadata::topic_settings::OFFSETS_TOPIC;
use model::{ErrorCode, LeaderEpoch, Marker, ProducerId, TopicPartition};
use runtime::answers::{AnswerId, Answers};
use runtime::{random, timer};
use std::rc::Rc;
use std::time::Duration;
use wire::WireError;

/// The groups of one partition of `__consumer_offsets`.
pub(crate) type GroupLog = StateLog<GroupCoordinator>;

/// The joins and syncs that wait, by their tickets.
type Waiting = Answers<Result<(Answer, Written), ErrorCode>>;

impl Machine for GroupCoordinator {
    const TOPIC: &'static str = OFFSETS_TOPIC;
    const WHAT: &'static str = "groups";
    type Effects = Vec<(Ticket, Answer)>;
    type Beside = Waiting;

    fn begin(shard: &Shard, _: LeaderEpoch, _: i32) -> Self {
        Self::new(shard.node.config.groups.clone(), random::seed())
    }

    fn partitions(shard: &Shard) -> i32 {
        shard.node.config.offsets_partitions
    }

    fn replay(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        in_transaction: Option<ProducerId>,
    ) -> Result<(), WireError> {
        Self::replay(self, read_record(key, value)?, in_transaction);
        Ok(())
    }

    fn on_marker(&mut self, marker: Marker) {
        Self::on_marker(self, marker.producer.id, marker.commit);
    }

    fn on_loaded(&mut self, now: Now) {
        Self::on_loaded(self, now);
    }

    fn count(&self) -> usize {
        self.group_ids().count()
    }

    fn next_deadline(&self) -> Option<u64> {
        Self::next_deadline(self)
    }

    fn on_time(&mut self, _: Here<'_>, now: Now) {
        Self::on_time(self, now);
    }

    fn take_effects(&mut self) -> (Records, Self::Effects) {
        let Effects { records, transactional, answers } = Self::take_effects(self);
        (Records { plain: records, transactional }, answers)
    }

    fn settle(log: &Rc<GroupLog>, _: &Rc<Shard>, answers: Self::Effects, at: Written) {
        for (ticket, answer) in answers {
            // Whoever gave up is not there any more.
            log.beside.give(AnswerId(ticket.0), Ok((answer, at)));
        }
    }

    /// Topics may have gone while this was not there to see it.
    fn on_reloaded(log: &Rc<GroupLog>, shard: &Rc<Shard>) {
        <Self as Machine>::on_topics(log, shard);
    }

    /// Forgets offsets of topics that are gone.
    fn on_topics(log: &Rc<GroupLog>, shard: &Rc<Shard>) {
        if log.is_loaded() {
            let _ = log.step(shard, |here, coordinator, _| {
                let image = here.image();
                coordinator.on_topics(|topic| image.topic(topic).is_some());
            });
        }
    }

    fn on_unloaded(log: &GroupLog) {
        for id in log.beside.open_ids() {
            log.beside.give(id, Err(ErrorCode::CoordinatorNotAvailable));
        }
    }
}

/// The partition of `__consumer_offsets` that a group lives in; the topic is made if need be.
pub(crate) async fn home_of_group(
    shard: &Rc<Shard>,
    group: &str,
) -> Result<TopicPartition, ErrorCode> {
    state_log::home_of::<GroupCoordinator>(shard, group).await
}

impl GroupLog {
    /// As `run`, for a step whose answer may come later, to the ticket it is given.
    pub(crate) async fn run_parked(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        step: impl FnOnce(&mut GroupCoordinator, Now, Ticket),
    ) -> Result<Answer, ErrorCode> {
        self.until_loaded(shard).await?;
        let place = self.beside.open();
        let ticket = Ticket(place.id().0);
        self.step(shard, |_, coordinator, now| step(coordinator, now, ticket))?;
        let (answer, written) = place.await?;
        self.until_durable(written).await?;
        Ok(answer)
    }
}

/// Reads every partition's groups, and forgets old offsets from time to time, for ever.
pub(crate) async fn look_after(shard: Rc<Shard>) {
    let every = Duration::from_millis(shard.node.config.offsets_check_ms);
    loop {
        for log in shard.followers::<GroupLog>() {
            let _ = log.run(&shard, |_, coordinator, now| coordinator.expire_offsets(now)).await;
        }
        timer::sleep(every).await;
    }
}
