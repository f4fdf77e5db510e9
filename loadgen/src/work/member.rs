//! Membership in a consumer group, as the classic protocol has it: join, sync, heartbeat, commit,
//! leave. Eager rebalancing, range assignor.

use crate::options::args::Args;
use crate::work::layout::Layout;
use client::{Connection, committed_offsets, find_coordinator};
use model::ErrorCode;
use runtime::timer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use wire::ApiKey;
use wire::consumer_protocol::{assignment, partitions_of, subscription, topics_of};
use wire::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupProtocol, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, LeavingMember, OffsetCommitPartition,
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitTopic, OffsetFetchTopic,
    SyncGroupAssignment, SyncGroupRequest, SyncGroupResponse,
};

/// Kafka's name of the assignor.
const RANGE: &str = "range";
/// How long a join may take beyond the time that members have for it.
const JOIN_GRACE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(100);

/// A member and its connection to the group's coordinator.
pub(crate) struct Member {
    pub(crate) group_id: String,
    layout: Arc<Layout>,
    bootstrap: String,
    client_id: String,
    session_timeout_ms: i32,
    rebalance_timeout_ms: i32,
    coordinator: Option<Connection>,
    member_id: String,
    generation_id: i32,
}

/// Why a step did not go through.
enum Stop {
    /// The group is rebalancing, or does not know the member any more: join again.
    Rejoin,
    /// The coordinator is elsewhere, or gone.
    Lost(String),
    /// No use in trying again.
    Fatal(String),
}

impl Member {
    pub(crate) fn new(
        args: &Args,
        bootstrap: String,
        group_id: String,
        layout: Arc<Layout>,
    ) -> Self {
        Self {
            group_id,
            layout,
            bootstrap,
            client_id: args.client_id.clone(),
            session_timeout_ms: args.session_timeout_ms,
            rebalance_timeout_ms: args.max_poll_interval_ms,
            coordinator: None,
            member_id: String::new(),
            generation_id: -1,
        }
    }

    async fn coordinator(&mut self) -> Result<&mut Connection, Stop> {
        if self.coordinator.is_none() {
            let mut first =
                Connection::open(&self.bootstrap, &self.client_id).await.map_err(lost)?;
            let found = find_coordinator(&mut first, &self.group_id).await.map_err(lost)?;
            let address = found.map_err(|error| self.stop(error))?;
            self.coordinator =
                Some(Connection::open(&address, &self.client_id).await.map_err(lost)?);
        }
        Ok(self.coordinator.as_mut().expect("made above"))
    }

    fn stop(&mut self, error: ErrorCode) -> Stop {
        match error {
            ErrorCode::RebalanceInProgress => Stop::Rejoin,
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                if error == ErrorCode::UnknownMemberId {
                    self.member_id.clear();
                }
                self.generation_id = -1;
                Stop::Rejoin
            }
            error if error.is_retriable() => Stop::Lost(error.name().to_owned()),
            error => Stop::Fatal(format!("group {}: {}", self.group_id, error.name())),
        }
    }

    /// Joins until there is an assignment. `errors` counts what went wrong meanwhile; gives up when
    /// `stopping` says so.
    pub(crate) async fn join(
        &mut self,
        errors: &mut BTreeMap<String, u64>,
        stopping: impl Fn() -> bool,
    ) -> Result<Option<Vec<usize>>, String> {
        while !stopping() {
            match self.try_join().await {
                Ok(slots) => return Ok(Some(slots)),
                Err(Stop::Rejoin) => {}
                Err(Stop::Lost(why)) => {
                    *errors.entry(why).or_default() += 1;
                    self.coordinator = None;
                    timer::sleep(RETRY).await;
                }
                Err(Stop::Fatal(why)) => return Err(why),
            }
        }
        Ok(None)
    }

    fn join_request(&self) -> JoinGroupRequest {
        let topics: Vec<&str> = self.layout.topics.iter().map(String::as_str).collect();
        let metadata = subscription(&topics);
        JoinGroupRequest {
            group_id: self.group_id.clone(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            member_id: self.member_id.clone(),
            protocol_type: "consumer".to_owned(),
            protocols: vec![JoinGroupProtocol { name: RANGE.to_owned(), metadata }],
            ..Default::default()
        }
    }

    async fn try_join(&mut self) -> Result<Vec<usize>, Stop> {
        let request = self.join_request();
        let limit = Duration::from_millis(self.rebalance_timeout_ms as u64) + JOIN_GRACE;
        let connection = self.coordinator().await?;
        let max = ApiKey::JoinGroup.api().version_max;
        let version = connection.version(ApiKey::JoinGroup, max).map_err(Stop::Fatal)?;
        let joined: JoinGroupResponse =
            connection.ask_within(&request, version, limit).await.map_err(lost)?;
        match ErrorCode::from_code(joined.error_code) {
            ErrorCode::None => {}
            ErrorCode::MemberIdRequired => {
                self.member_id = joined.member_id;
                return Err(Stop::Rejoin);
            }
            error => return Err(self.stop(error)),
        }
        (self.member_id, self.generation_id) = (joined.member_id, joined.generation_id);
        let mut assignments = Vec::new();
        if joined.leader == self.member_id && !joined.skip_assignment {
            // Whoever is subscribed to something else is none of ours.
            let ours = |metadata: &[u8]| {
                let theirs = topics_of(metadata).unwrap_or_default();
                self.layout.topics.iter().all(|topic| theirs.contains(topic))
            };
            let members: Vec<String> = joined
                .members
                .iter()
                .filter(|member| ours(&member.metadata))
                .map(|member| member.member_id.clone())
                .collect();
            for (member_id, by_topic) in assign_range(&members, &self.layout) {
                assignments
                    .push(SyncGroupAssignment { member_id, assignment: assignment(&by_topic) });
            }
        }
        let request = SyncGroupRequest {
            group_id: self.group_id.clone(),
            generation_id: self.generation_id,
            member_id: self.member_id.clone(),
            protocol_type: Some("consumer".to_owned()),
            protocol_name: Some(RANGE.to_owned()),
            assignments,
            ..Default::default()
        };
        let connection = self.coordinator().await?;
        let version = connection
            .version(ApiKey::SyncGroup, ApiKey::SyncGroup.api().version_max)
            .map_err(Stop::Fatal)?;
        let synced: SyncGroupResponse =
            connection.ask_within(&request, version, limit).await.map_err(lost)?;
        match ErrorCode::from_code(synced.error_code) {
            ErrorCode::None => {
                let assigned = partitions_of(&synced.assignment);
                let assigned = assigned
                    .ok_or_else(|| Stop::Fatal("the assignment cannot be read".to_owned()))?;
                let layout = &self.layout;
                let slots = assigned.iter().flat_map(|(topic, partitions)| {
                    partitions.iter().filter_map(move |index| layout.slot_of(topic, *index))
                });
                Ok(slots.collect())
            }
            error => Err(self.stop(error)),
        }
    }

    /// Where the group goes on in these partitions; -1 where it has not been yet.
    pub(crate) async fn committed(&mut self, slots: &[usize]) -> Result<Vec<i64>, String> {
        let by_topic = by_topic(&self.layout, slots.iter().map(|slot| (*slot, ())));
        let asked = by_topic.into_iter().map(|(name, partitions)| OffsetFetchTopic {
            name: name.to_owned(),
            partition_indexes: partitions.into_iter().map(|(index, ())| index).collect(),
        });
        let asked = Some(asked.collect());
        let group = self.group_id.clone();
        let connection = self.coordinator().await.map_err(said)?;
        let found = committed_offsets(connection, &group, asked).await?;
        let topics = found.map_err(|error| format!("offset fetch {}", error.name()))?;
        let mut offsets: BTreeMap<usize, i64> = BTreeMap::new();
        for topic in &topics {
            for partition in &topic.partitions {
                if let Some(slot) = self.layout.slot_of(&topic.name, partition.partition_index) {
                    offsets.insert(slot, partition.committed_offset);
                }
            }
        }
        Ok(slots.iter().map(|slot| offsets.get(slot).copied().unwrap_or(-1)).collect())
    }

    /// Keeps these positions. An error is told; the next commit tries again.
    pub(crate) async fn commit(&mut self, positions: &[(usize, i64)]) -> Result<(), String> {
        let partition = |(index, offset): (i32, i64)| OffsetCommitPartition {
            partition_index: index,
            committed_offset: offset,
            committed_metadata: Some(String::new()),
            ..Default::default()
        };
        if positions.is_empty() {
            return Ok(());
        }
        let request = OffsetCommitRequest {
            group_id: self.group_id.clone(),
            generation_id: self.generation_id,
            member_id: self.member_id.clone(),
            topics: by_topic(&self.layout, positions.iter().copied())
                .into_iter()
                .map(|(name, partitions)| OffsetCommitTopic {
                    name: name.to_owned(),
                    partitions: partitions.into_iter().map(partition).collect(),
                })
                .collect(),
            ..Default::default()
        };
        let connection = self.coordinator().await.map_err(said)?;
        let response: OffsetCommitResponse = connection.ask(&request).await?;
        let failed = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .find(|partition| partition.error_code != 0);
        match failed {
            None => Ok(()),
            Some(p) => Err(format!("offset commit {}", ErrorCode::from_code(p.error_code).name())),
        }
    }

    /// A sign of life; false: the assignment is not valid any more.
    pub(crate) async fn heartbeat(&mut self) -> Result<bool, String> {
        let request = HeartbeatRequest {
            group_id: self.group_id.clone(),
            generation_id: self.generation_id,
            member_id: self.member_id.clone(),
            ..Default::default()
        };
        let asked = async {
            let connection = self.coordinator().await?;
            connection.ask::<_, HeartbeatResponse>(&request).await.map_err(lost)
        };
        let beat = match asked.await {
            Ok(response) => match ErrorCode::from_code(response.error_code) {
                ErrorCode::None => Ok(()),
                error => Err(self.stop(error)),
            },
            Err(stop) => Err(stop),
        };
        match beat {
            Ok(()) => Ok(true),
            Err(Stop::Rejoin) => Ok(false),
            Err(Stop::Lost(why)) => {
                // The session outlives a lost connection.
                self.coordinator = None;
                Err(why)
            }
            Err(Stop::Fatal(why)) => Err(why),
        }
    }

    /// Leaves, so that the others need not wait for the session to end.
    pub(crate) async fn leave(&mut self) {
        let member_id = std::mem::take(&mut self.member_id);
        let leaving = LeavingMember { member_id: member_id.clone(), ..Default::default() };
        let request = LeaveGroupRequest {
            group_id: self.group_id.clone(),
            member_id,
            members: vec![leaving],
        };
        if let Some(mut connection) = self.coordinator.take() {
            let _ = connection.ask::<_, LeaveGroupResponse>(&request).await;
        }
    }
}

fn lost(why: String) -> Stop {
    Stop::Lost(why)
}

fn said(stop: Stop) -> String {
    match stop {
        Stop::Rejoin => "the group rebalances".to_owned(),
        Stop::Lost(why) | Stop::Fatal(why) => why,
    }
}

/// What belongs to slots, by topic and partition.
fn by_topic<T>(
    layout: &Layout,
    slots: impl Iterator<Item = (usize, T)>,
) -> BTreeMap<&str, Vec<(i32, T)>> {
    let mut by_topic: BTreeMap<&str, Vec<(i32, T)>> = BTreeMap::new();
    for (slot, what) in slots {
        let (topic, partition) = layout.place(slot);
        by_topic.entry(topic).or_default().push((partition, what));
    }
    by_topic
}

/// The range assignor: in each topic, members in order get neighbouring partitions, the first ones
/// one more where it does not come out even.
fn assign_range(members: &[String], layout: &Layout) -> Vec<(String, BTreeMap<String, Vec<i32>>)> {
    let mut sorted = members.to_vec();
    sorted.sort();
    let count = sorted.len().max(1) as i32;
    let mut assigned: Vec<_> = sorted.into_iter().map(|member| (member, BTreeMap::new())).collect();
    for (number, topic) in layout.topics.iter().enumerate() {
        let partitions = layout.span_of(number).1 as i32;
        let (each, more) = (partitions / count, partitions % count);
        let mut next = 0;
        for (number, (_, topics)) in assigned.iter_mut().enumerate() {
            let take = each + i32::from((number as i32) < more);
            let theirs: Vec<i32> = (next..next + take).collect();
            next += take;
            topics.insert(topic.clone(), theirs);
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::TopicView;

    #[test]
    fn ranges_cover_every_partition_once() {
        let members = ["c", "a", "b"].map(str::to_owned);
        let view = |name: &str, count: usize| TopicView {
            name: name.to_owned(),
            leaders: vec![String::new(); count],
        };
        let layout = Layout::new(vec![view("x", 7), view("y", 2)]);
        let assigned = assign_range(&members, &layout);
        let expected =
            [("a", vec![0, 1, 2], vec![0]), ("b", vec![3, 4], vec![1]), ("c", vec![5, 6], vec![])];
        for ((member, topics), (name, x, y)) in assigned.iter().zip(expected) {
            assert_eq!((member.as_str(), &topics["x"], &topics["y"]), (name, &x, &y));
        }
    }
}
