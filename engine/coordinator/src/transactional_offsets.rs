//! Offsets that are committed with a producer's transaction: pending until its marker comes
//! (KIP-98, KIP-447).

use crate::GroupState;
use crate::group::Group;
use crate::group_coordinator::GroupCoordinator;
use crate::records::{OffsetCommitValue, offset_record};
use crate::step::Now;
use model::{ErrorCode, GroupId, Producer, ProducerId};
use wire::messages::{
    TopicErrors, TxnOffsetCommitPartition, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

impl GroupCoordinator {
    /// Keeps offsets until their transaction ends. `knows` tells which topics and partitions there
    /// are. The records go to the log in a batch of that producer.
    pub fn commit_in_transaction(
        &mut self,
        now: Now,
        request: &TxnOffsetCommitRequest,
        knows: impl Fn(&str, i32) -> bool,
    ) -> TxnOffsetCommitResponse {
        let refusal = self.check_transactional_commit(now, request);
        let id = ProducerId(request.producer_id);
        let producer = Producer { id, epoch: request.producer_epoch };
        let mut one = |topic: &str, asked: &TxnOffsetCommitPartition| {
            let metadata = asked.committed_metadata.as_deref().unwrap_or_default();
            if !knows(topic, asked.partition_index) {
                return ErrorCode::UnknownTopicOrPartition;
            }
            if let Some(error) = refusal {
                return error;
            }
            if metadata.len() > self.config.offset_metadata_bytes_max {
                return ErrorCode::OffsetMetadataTooLarge;
            }
            let value = OffsetCommitValue {
                offset: asked.committed_offset,
                leader_epoch: asked.committed_leader_epoch,
                metadata: metadata.to_owned(),
                commit_timestamp: now.unix_ms,
                expire_timestamp: -1,
            };
            let (group, index) = (&request.group_id, asked.partition_index);
            let record = offset_record(group, topic, index, Some(&value));
            self.effects.transactional.push((producer, record));
            self.set_pending(now.unix_ms, group, id, (topic.to_owned(), index), value);
            ErrorCode::None
        };
        let topics = request.topics.iter().map(|topic| {
            let errors = topic.partitions.iter().map(|p| (p.partition_index, one(&topic.name, p)));
            TopicErrors::new(&topic.name, errors)
        });
        TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
    }

    /// Who claims to be a member must be one of the current generation; who does not is believed:
    /// its transactional id fences it.
    fn check_transactional_commit(
        &mut self,
        now: Now,
        request: &TxnOffsetCommitRequest,
    ) -> Option<ErrorCode> {
        if request.group_id.is_empty() {
            return Some(ErrorCode::InvalidGroupId);
        }
        if !self.has_place_for(&request.group_id) {
            return Some(ErrorCode::GroupMaxSizeReached);
        }
        let instance = request.group_instance_id.as_deref();
        let claims_membership =
            request.generation_id >= 0 || !request.member_id.is_empty() || instance.is_some();
        if !claims_membership {
            return None;
        }
        // As for other commits: who names no generation may keep offsets where nobody is a member.
        let is_free = self
            .groups
            .get(request.group_id.as_str())
            .is_none_or(|group| group.is(GroupState::Empty));
        if request.generation_id < 0 && is_free {
            return None;
        }
        let Some(group) = self.groups.get_mut(request.group_id.as_str()) else {
            return Some(ErrorCode::IllegalGeneration);
        };
        if let Err(error) = group.check_member(&request.member_id, instance) {
            return Some(error);
        }
        if request.generation_id != group.generation {
            return Some(ErrorCode::IllegalGeneration);
        }
        group.heard_of(&request.member_id, now);
        None
    }

    pub(crate) fn set_pending(
        &mut self,
        unix_ms: i64,
        group: &str,
        id: ProducerId,
        key: (String, i32),
        value: OffsetCommitValue,
    ) {
        self.commits += 1;
        let place = self.groups.entry(GroupId::new(group));
        let place = place.or_insert_with(|| Group::new(unix_ms));
        place.pending_offsets.set(id, key, self.commits, value);
        self.in_transactions.entry(id).or_default().insert(GroupId::new(group));
    }

    /// The marker of a producer's transaction is in the log.
    pub fn on_marker(&mut self, id: ProducerId, commit: bool) {
        for group in self.in_transactions.remove(&id).unwrap_or_default() {
            if let Some(known) = self.groups.get_mut(&group) {
                known.pending_offsets.end(id, commit, &mut known.offsets);
                if known.stored.is_none() {
                    self.drop_if_nothing_is_left(&group);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group_coordinator::{CoordinatorConfig, Effects};
    use crate::records::read_record;
    use wire::messages::{
        OffsetCommitPartition, OffsetCommitRequest, OffsetCommitTopic, OffsetFetchTopic,
        TxnOffsetCommitTopic,
    };

    const NOW: Now = Now { ms: 0, unix_ms: 1_000 };

    fn coordinator() -> GroupCoordinator {
        let config = CoordinatorConfig {
            session_timeout_ms_min: 1,
            session_timeout_ms_max: 1_000,
            initial_rebalance_delay_ms: 0,
            groups_max: 1000,
            group_size_max: 10,
            offset_metadata_bytes_max: 10,
            offsets_retention_ms: 1_000,
        };
        GroupCoordinator::new(config, 1)
    }

    fn in_transaction(id: i64, offset: i64) -> TxnOffsetCommitRequest {
        let partition = TxnOffsetCommitPartition {
            partition_index: 0,
            committed_offset: offset,
            ..Default::default()
        };
        TxnOffsetCommitRequest {
            group_id: "g".to_owned(),
            producer_id: id,
            topics: vec![TxnOffsetCommitTopic {
                name: "t".to_owned(),
                partitions: vec![partition],
            }],
            ..Default::default()
        }
    }

    fn plain(offset: i64) -> OffsetCommitRequest {
        let partition = OffsetCommitPartition {
            partition_index: 0,
            committed_offset: offset,
            ..Default::default()
        };
        OffsetCommitRequest {
            group_id: "g".to_owned(),
            generation_id: -1,
            topics: vec![OffsetCommitTopic { name: "t".to_owned(), partitions: vec![partition] }],
            ..Default::default()
        }
    }

    /// The committed offset, and whether it may still change.
    fn fetched(coordinator: &GroupCoordinator) -> (i64, bool) {
        let topics = [OffsetFetchTopic { name: "t".to_owned(), partition_indexes: vec![0] }];
        let of = |require_stable| {
            coordinator.fetch("g", Some(&topics), require_stable)[0].partitions[0].clone()
        };
        let stable = of(true);
        assert!(stable.error_code == 0 || stable.error_code == 88);
        (of(false).committed_offset, stable.error_code == 88)
    }

    fn error_of(response: &TxnOffsetCommitResponse) -> i16 {
        response.topics[0].partitions[0].error_code
    }

    #[test]
    fn offsets_count_once_their_transaction_is_committed() {
        let mut coordinator = coordinator();
        let knows = |_: &str, _| true;
        assert_eq!(
            error_of(&coordinator.commit_in_transaction(NOW, &in_transaction(7, 5), knows)),
            0
        );
        assert_eq!(fetched(&coordinator), (-1, true));
        coordinator.on_marker(ProducerId(8), true);
        assert_eq!(fetched(&coordinator), (-1, true));
        coordinator.on_marker(ProducerId(7), true);
        assert_eq!(fetched(&coordinator), (5, false));
        coordinator.commit_in_transaction(NOW, &in_transaction(7, 9), knows);
        coordinator.on_marker(ProducerId(7), false);
        assert_eq!(fetched(&coordinator), (5, false));
    }

    #[test]
    fn the_later_commit_wins_whichever_marker_comes_first() {
        let mut coordinator = coordinator();
        let knows = |_: &str, _| true;
        coordinator.commit_in_transaction(NOW, &in_transaction(1, 10), knows);
        coordinator.commit_in_transaction(NOW, &in_transaction(2, 20), knows);
        coordinator.on_marker(ProducerId(2), true);
        coordinator.on_marker(ProducerId(1), true);
        assert_eq!(fetched(&coordinator), (20, false));
        coordinator.commit_in_transaction(NOW, &in_transaction(1, 30), knows);
        coordinator.commit(NOW, 8, &plain(25), knows);
        coordinator.on_marker(ProducerId(1), true);
        assert_eq!(fetched(&coordinator), (25, false));
    }

    #[test]
    fn the_same_follows_from_the_log() {
        let mut one = coordinator();
        let knows = |_: &str, _| true;
        let mut two = coordinator();
        let mut replay = |effects: Effects| {
            for (producer, record) in effects.transactional {
                let stored = read_record(&record.key, record.value.as_deref()).unwrap();
                two.replay(stored, Some(producer.id));
            }
            for record in effects.records {
                two.replay(read_record(&record.key, record.value.as_deref()).unwrap(), None);
            }
        };
        one.commit_in_transaction(NOW, &in_transaction(1, 10), knows);
        one.commit_in_transaction(NOW, &in_transaction(2, 20), knows);
        replay(one.take_effects());
        one.commit(NOW, 8, &plain(5), knows);
        replay(one.take_effects());
        one.commit_in_transaction(NOW, &in_transaction(3, 30), knows);
        replay(one.take_effects());
        for (id, commit) in [(2, true), (3, true), (1, true)] {
            one.on_marker(ProducerId(id), commit);
            two.on_marker(ProducerId(id), commit);
        }
        assert_eq!(fetched(&one), (30, false));
        assert_eq!(fetched(&two), (30, false));
    }

    #[test]
    fn deleting_the_group_takes_what_is_pending_with_it() {
        let mut coordinator = coordinator();
        let knows = |_: &str, _| true;
        coordinator.commit_in_transaction(NOW, &in_transaction(1, 10), knows);
        let mut other = self::coordinator();
        for (producer, record) in coordinator.take_effects().transactional {
            let stored = read_record(&record.key, record.value.as_deref()).unwrap();
            other.replay(stored, Some(producer.id));
        }
        assert_eq!(coordinator.delete_group("g"), ErrorCode::None);
        for record in coordinator.take_effects().records {
            other.replay(read_record(&record.key, record.value.as_deref()).unwrap(), None);
        }
        for coordinator in [&mut coordinator, &mut other] {
            coordinator.on_marker(ProducerId(1), true);
            assert_eq!(fetched(coordinator), (-1, false));
        }
    }

    #[test]
    fn who_is_no_member_of_this_generation_is_refused() {
        let mut coordinator = coordinator();
        let knows = |_: &str, _| true;
        let mut request = in_transaction(1, 10);
        request.generation_id = 3;
        let refused = coordinator.commit_in_transaction(NOW, &request, knows);
        assert_eq!(error_of(&refused), ErrorCode::IllegalGeneration.code());
        coordinator.commit(NOW, 8, &plain(5), knows);
        request.member_id = "m".to_owned();
        let refused = coordinator.commit_in_transaction(NOW, &request, knows);
        assert_eq!(error_of(&refused), ErrorCode::UnknownMemberId.code());
        let refused = coordinator.commit_in_transaction(NOW, &in_transaction(1, 1), |_, _| false);
        assert_eq!(error_of(&refused), ErrorCode::UnknownTopicOrPartition.code());
        assert!(coordinator.take_effects().transactional.is_empty());
    }

    #[test]
    fn beyond_so_many_groups_no_new_one_is_made() {
        let mut coordinator = coordinator();
        coordinator.config.groups_max = 1;
        let refused = ErrorCode::GroupMaxSizeReached.code();
        let mut plain_of = |group: &str| {
            let request = OffsetCommitRequest { group_id: group.to_owned(), ..plain(5) };
            coordinator.commit(NOW, 8, &request, |_, _| true).topics[0].partitions[0].error_code
        };
        assert_eq!([plain_of("g"), plain_of("h"), plain_of("g")], [0, refused, 0]);
        let mut transactional_of = |group: &str| {
            let request =
                TxnOffsetCommitRequest { group_id: group.to_owned(), ..in_transaction(1, 5) };
            coordinator.commit_in_transaction(NOW, &request, |_, _| true).topics[0].partitions[0]
                .error_code
        };
        assert_eq!([transactional_of("h"), transactional_of("g")], [refused, 0]);
        assert_eq!(coordinator.group_ids().collect::<Vec<_>>(), ["g"]);
        // Once there is room again one may be made.
        coordinator.on_marker(ProducerId(1), true);
        assert_eq!(coordinator.delete_group("g"), ErrorCode::None);
        let request = OffsetCommitRequest { group_id: "h".to_owned(), ..plain(5) };
        let response = coordinator.commit(NOW, 8, &request, |_, _| true);
        assert_eq!(response.topics[0].partitions[0].error_code, 0);
    }
}
