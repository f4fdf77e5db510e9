//! Committed offsets of a group: commit, fetch, forget, expire.

use crate::group::{CONSUMER, Group, GroupState};
use crate::group_coordinator::GroupCoordinator;
use crate::records::{OffsetCommitValue, group_record, offset_record};
use crate::step::Now;
use model::{ErrorCode, GroupId};
use wire::messages::{
    OffsetCommitPartitionResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetCommitTopicResponse, OffsetDeletePartitionResponse, OffsetDeleteRequest,
    OffsetDeleteResponse, OffsetDeleteTopicResponse, OffsetFetchPartitionResponse,
    OffsetFetchTopic, OffsetFetchTopicResponse,
};

impl GroupCoordinator {
    /// Keeps offsets. `knows` tells which topics and partitions there are.
    pub fn commit(
        &mut self,
        now: Now,
        version: i16,
        request: &OffsetCommitRequest,
        knows: impl Fn(&str, i32) -> bool,
    ) -> OffsetCommitResponse {
        let unknown_group = match version {
            ..9 => ErrorCode::IllegalGeneration,
            _ => ErrorCode::GroupIdNotFound,
        };
        let refusal = self.check_commit(now, request, unknown_group);
        let mut topics = Vec::new();
        for topic in &request.topics {
            let mut partitions = Vec::new();
            for asked in &topic.partitions {
                let metadata = asked.committed_metadata.as_deref().unwrap_or_default();
                let error = match refusal {
                    _ if !knows(&topic.name, asked.partition_index) => {
                        ErrorCode::UnknownTopicOrPartition
                    }
                    Some(error) => error,
                    None if metadata.len() > self.config.offset_metadata_bytes_max => {
                        ErrorCode::OffsetMetadataTooLarge
                    }
                    None => {
                        let ends = (2..=4).contains(&version) && request.retention_time_ms >= 0;
                        let value = OffsetCommitValue {
                            offset: asked.committed_offset,
                            leader_epoch: asked.committed_leader_epoch,
                            metadata: metadata.to_owned(),
                            commit_timestamp: now.unix_ms,
                            expire_timestamp: if ends {
                                now.unix_ms.saturating_add(request.retention_time_ms)
                            } else {
                                -1
                            },
                        };
                        let (group, index) = (&request.group_id, asked.partition_index);
                        self.effects.records.push(offset_record(
                            group,
                            &topic.name,
                            index,
                            Some(&value),
                        ));
                        let place = self.groups.entry(GroupId::new(group));
                        let group = place.or_insert_with(|| Group::new(now.unix_ms));
                        group.offsets.set(&topic.name, index, value);
                        group.pending_offsets.forget_before(&topic.name, index, u64::MAX);
                        ErrorCode::None
                    }
                };
                partitions.push(OffsetCommitPartitionResponse {
                    partition_index: asked.partition_index,
                    error_code: error.code(),
                });
            }
            topics.push(OffsetCommitTopicResponse { name: topic.name.clone(), partitions });
        }
        OffsetCommitResponse { topics, ..Default::default() }
    }

    /// Who may commit: a member of the current generation; anyone who does not claim to be one
    /// while the group is empty.
    fn check_commit(
        &mut self,
        now: Now,
        request: &OffsetCommitRequest,
        unknown_group: ErrorCode,
    ) -> Option<ErrorCode> {
        // Offsets may be kept without a group's name, as from the time before it was asked for.
        let Some(group) = self.groups.get_mut(request.group_id.as_str()) else {
            if request.generation_id >= 0 {
                return Some(unknown_group);
            }
            // The group lives with whoever keeps offsets in it.
            let is_full = !self.has_place_for(&request.group_id);
            return is_full.then_some(ErrorCode::GroupMaxSizeReached);
        };
        if request.generation_id < 0 && group.is(GroupState::Empty) {
            return None;
        }
        let claims_membership = request.generation_id >= 0
            || !request.member_id.is_empty()
            || request.group_instance_id.is_some();
        if !claims_membership {
            return Some(ErrorCode::UnknownMemberId);
        }
        let instance = request.group_instance_id.as_deref();
        if let Err(error) = group.check_member(&request.member_id, instance) {
            return Some(error);
        }
        if request.generation_id != group.generation {
            return Some(ErrorCode::IllegalGeneration);
        }
        if group.is(GroupState::CompletingRebalance) {
            return Some(ErrorCode::RebalanceInProgress);
        }
        group.heard_of(&request.member_id, now);
        None
    }

    /// Offsets of these topics, or with `None` all. What is unknown has offset -1 and no error;
    /// what a transaction may still change has, with `require_stable`, an error (KIP-447).
    #[must_use]
    pub fn fetch(
        &self,
        group_id: &str,
        topics: Option<&[OffsetFetchTopic]>,
        require_stable: bool,
    ) -> Vec<OffsetFetchTopicResponse> {
        let group = self.groups.get(group_id);
        let offsets = group.map(|group| &group.offsets.by_topic);
        let pending = group.map(|group| &group.pending_offsets).filter(|_| require_stable);
        let of = |topic: &str, index: i32, value: Option<&OffsetCommitValue>| {
            let unstable = pending.is_some_and(|pending| pending.has(topic, index));
            let error = if unstable { ErrorCode::UnstableOffsetCommit } else { ErrorCode::None };
            let value = value.filter(|_| !unstable);
            OffsetFetchPartitionResponse {
                partition_index: index,
                committed_offset: value.map_or(-1, |value| value.offset),
                committed_leader_epoch: value.map_or(-1, |value| value.leader_epoch),
                metadata: Some(value.map(|value| value.metadata.clone()).unwrap_or_default()),
                error_code: error.code(),
            }
        };
        match topics {
            Some(asked) => asked
                .iter()
                .map(|topic| {
                    let known = offsets.and_then(|offsets| offsets.get(&topic.name));
                    let one = |index: &i32| {
                        of(&topic.name, *index, known.and_then(|known| known.get(index)))
                    };
                    OffsetFetchTopicResponse {
                        name: topic.name.clone(),
                        partitions: topic.partition_indexes.iter().map(one).collect(),
                    }
                })
                .collect(),
            None => offsets
                .into_iter()
                .flatten()
                .map(|(name, partitions)| OffsetFetchTopicResponse {
                    name: name.clone(),
                    partitions: partitions
                        .iter()
                        .map(|(i, value)| of(name, *i, Some(value)))
                        .collect(),
                })
                .collect(),
        }
    }

    /// Forgets offsets of topics that the group is not subscribed to (KIP-496).
    pub fn delete_offsets(
        &mut self,
        request: &OffsetDeleteRequest,
        knows: impl Fn(&str, i32) -> bool,
    ) -> OffsetDeleteResponse {
        let refused = |error: ErrorCode| OffsetDeleteResponse {
            error_code: error.code(),
            ..Default::default()
        };
        if request.group_id.is_empty() {
            return refused(ErrorCode::InvalidGroupId);
        }
        let Some(group) = self.groups.get_mut(request.group_id.as_str()) else {
            return refused(ErrorCode::GroupIdNotFound);
        };
        let is_empty = group.is(GroupState::Empty);
        if !is_empty && group.protocol_type.as_deref() != Some(CONSUMER) {
            return refused(ErrorCode::NonEmptyGroup);
        }
        let mut topics = Vec::new();
        for topic in &request.topics {
            let subscribed = !is_empty && group.is_subscribed(&topic.name);
            let mut partitions = Vec::new();
            for asked in &topic.partitions {
                let index = asked.partition_index;
                let error = if !knows(&topic.name, index) {
                    ErrorCode::UnknownTopicOrPartition
                } else if subscribed {
                    ErrorCode::GroupSubscribedToTopic
                } else {
                    let was_pending = group.pending_offsets.has(&topic.name, index);
                    group.pending_offsets.forget_before(&topic.name, index, u64::MAX);
                    if group.offsets.remove(&topic.name, index) || was_pending {
                        let record = offset_record(&request.group_id, &topic.name, index, None);
                        self.effects.records.push(record);
                    }
                    ErrorCode::None
                };
                partitions.push(OffsetDeletePartitionResponse {
                    partition_index: index,
                    error_code: error.code(),
                });
            }
            topics.push(OffsetDeleteTopicResponse { name: topic.name.clone(), partitions });
        }
        self.drop_if_nothing_is_left(&request.group_id);
        OffsetDeleteResponse { topics, ..Default::default() }
    }

    /// Forgets the offsets of topics that are gone.
    pub fn on_topics(&mut self, exists: impl Fn(&str) -> bool) {
        let mut touched = Vec::new();
        for (id, group) in &mut self.groups {
            let gone: Vec<String> =
                group.offsets.by_topic.keys().filter(|topic| !exists(topic)).cloned().collect();
            for (topic, partition) in group.pending_offsets.partitions() {
                if !exists(&topic) {
                    group.pending_offsets.forget_before(&topic, partition, u64::MAX);
                    self.effects.records.push(offset_record(id, &topic, partition, None));
                    touched.push(id.clone());
                }
            }
            for topic in gone {
                let partitions = group.offsets.by_topic.remove(&topic).unwrap_or_default();
                for partition in partitions.keys() {
                    self.effects.records.push(offset_record(id, &topic, *partition, None));
                }
                touched.push(id.clone());
            }
        }
        for id in touched {
            self.drop_if_nothing_is_left(&id);
        }
    }

    /// Forgets offsets that nobody has used for `offsets.retention.minutes` (KIP-211): counted from
    /// when the group became empty, or from the commit where no members ever were or the topic is
    /// not subscribed to any more. Groups without members and offsets go.
    pub fn expire_offsets(&mut self, now: Now) {
        let retention = self.config.offsets_retention_ms;
        let ids: Vec<GroupId> = self.groups.keys().cloned().collect();
        for id in ids {
            let group = self.groups.get_mut(&id).expect("listed just now");
            let is_expired = |value: &OffsetCommitValue, since: i64| {
                if value.expire_timestamp >= 0 {
                    value.expire_timestamp <= now.unix_ms
                } else {
                    since.saturating_add(retention) <= now.unix_ms
                }
            };
            let since_of: Box<dyn Fn(&str, &OffsetCommitValue) -> Option<i64>> =
                match (&group.protocol_type, group.state) {
                    (None, _) => Box::new(|_, value| Some(value.commit_timestamp)),
                    (Some(_), GroupState::Empty) => {
                        let since = group.state_timestamp;
                        Box::new(move |_, value| {
                            Some(if since >= 0 { since } else { value.commit_timestamp })
                        })
                    }
                    (Some(_), GroupState::Stable) => match group.subscribed_topics() {
                        Some(topics) => Box::new(move |topic, value| {
                            let subscribed = topics.iter().any(|other| other == topic);
                            (!subscribed).then_some(value.commit_timestamp)
                        }),
                        None => continue,
                    },
                    _ => continue,
                };
            let expired: Vec<(String, i32)> = group
                .offsets
                .iter()
                .filter(|(topic, partition, value)| {
                    // What a transaction may change is in use.
                    !group.pending_offsets.has(topic, *partition)
                        && since_of(topic, value).is_some_and(|since| is_expired(value, since))
                })
                .map(|(topic, partition, _)| (topic.to_owned(), partition))
                .collect();
            drop(since_of);
            for (topic, partition) in expired {
                group.offsets.remove(&topic, partition);
                self.effects.records.push(offset_record(&id, &topic, partition, None));
            }
            self.drop_if_nothing_is_left(&id);
        }
    }

    /// An empty group without offsets has nothing to be known for.
    pub(crate) fn drop_if_nothing_is_left(&mut self, id: &str) {
        let Some(group) = self.groups.get(id) else { return };
        if group.is(GroupState::Empty)
            && group.pending.is_empty()
            && group.offsets.by_topic.is_empty()
            && group.pending_offsets.is_empty()
        {
            if group.stored.is_some() {
                self.effects.records.push(group_record(id, None));
            }
            self.forget(id);
        }
    }
}
