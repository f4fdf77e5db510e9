//! Members of a group that read, and commit how far they are: what was committed never goes back.

use crate::peer::Peer;
use crate::shared::{PLAIN, Phase, Shared, TOPICS, is_for_now};
use model::ErrorCode;
use runtime::timer;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use wire::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupProtocol, JoinGroupRequest, JoinGroupResponse,
    OffsetCommitPartition, OffsetCommitRequest, OffsetCommitResponse, OffsetCommitTopic,
    SyncGroupAssignment, SyncGroupRequest, SyncGroupResponse,
};

const GROUP: &str = "readers";
const SESSION_MS: i32 = 300;

/// What the group's members were told so far.
#[derive(Default)]
pub(crate) struct Told {
    /// Of each partition: the highest offset whose commit was acknowledged.
    committed: RefCell<BTreeMap<i32, i64>>,
}

struct Member {
    shared: Rc<Shared>,
    told: Rc<Told>,
    peer: Peer,
    process: u64,
    id: String,
    generation: i32,
}

/// Joins, reads and commits until the end.
pub(crate) async fn take_part(shared: Rc<Shared>, told: Rc<Told>, process: u64) {
    let peer = Peer::new(&shared);
    let mut member = Member { shared, told, peer, process, id: String::new(), generation: -1 };
    while member.shared.phase.get() != Phase::Reading {
        if member.shared.is_troubled() && member.shared.one_in(20) {
            // Its process ends, and another begins.
            member.id.clear();
            member.peer.close();
            member.shared.rest(200).await;
        }
        let Some(assigned) = member.join().await else {
            member.shared.rest(20).await;
            continue;
        };
        member.read(&assigned).await;
    }
}

impl Member {
    /// The partitions that it is given; `None`: to be tried again.
    async fn join(&mut self) -> Option<Vec<i32>> {
        self.shared.does(self.process, "joins");
        let protocol = JoinGroupProtocol { name: "p".to_owned(), metadata: Vec::new() };
        let request = JoinGroupRequest {
            group_id: GROUP.to_owned(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: SESSION_MS,
            member_id: self.id.clone(),
            protocol_type: "consumer".to_owned(),
            protocols: vec![protocol],
            ..Default::default()
        };
        let joined: JoinGroupResponse = self.peer.ask(&request, 5).await?;
        match ErrorCode::from_code(joined.error_code) {
            ErrorCode::None => {}
            ErrorCode::MemberIdRequired => {
                self.id = joined.member_id;
                return None;
            }
            ErrorCode::UnknownMemberId => {
                self.id.clear();
                return None;
            }
            error => {
                assert!(is_for_now(error) || error == ErrorCode::RebalanceInProgress, "{error:?}");
                return None;
            }
        }
        (self.id, self.generation) = (joined.member_id, joined.generation_id);
        let members: Vec<String> =
            joined.members.iter().map(|member| member.member_id.clone()).collect();
        let share = |number: usize| -> Vec<u8> {
            let of_it = |partition: &i32| *partition as usize % members.len() == number;
            (0..TOPICS[2].1).filter(of_it).map(|partition| partition as u8).collect()
        };
        // Only the leader is told of members.
        let assignments = members.iter().enumerate().map(|(number, id)| SyncGroupAssignment {
            member_id: id.clone(),
            assignment: share(number),
        });
        let request = SyncGroupRequest {
            group_id: GROUP.to_owned(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            assignments: assignments.collect(),
            ..Default::default()
        };
        let synced: SyncGroupResponse = self.peer.ask(&request, 3).await?;
        match ErrorCode::from_code(synced.error_code) {
            ErrorCode::None => {
                self.shared.count(|outcome| outcome.joins += 1);
                Some(synced.assignment.iter().map(|partition| i32::from(*partition)).collect())
            }
            _ => None,
        }
    }

    /// Reads and commits as long as the group stays as it is.
    async fn read(&mut self, assigned: &[i32]) -> Option<()> {
        let mut positions = BTreeMap::new();
        for partition in assigned {
            let before = self.told.committed.borrow().get(partition).copied().unwrap_or(0);
            let (error, at) = self.peer.committed(GROUP, PLAIN, *partition).await?;
            if error != ErrorCode::None {
                return None;
            }
            assert!(at >= before, "{before} was committed in {partition}, and {at} is told");
            positions.insert(*partition, at);
        }
        loop {
            let phase = self.shared.phase.get();
            if phase == Phase::Reading || (phase == Phase::Troubled && self.shared.one_in(60)) {
                return None;
            }
            let heartbeat = HeartbeatRequest {
                group_id: GROUP.to_owned(),
                generation_id: self.generation,
                member_id: self.id.clone(),
                ..Default::default()
            };
            self.shared.does(self.process, "reads as a member");
            let answer: HeartbeatResponse = self.peer.ask(&heartbeat, 3).await?;
            if answer.error_code != 0 {
                return None;
            }
            let from: Vec<(i32, i64)> = positions.iter().map(|(p, at)| (*p, *at)).collect();
            if from.is_empty() {
                timer::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let got = self.peer.fetch(PLAIN, &from, false, 4096).await?;
            for got in got {
                if got.error == ErrorCode::None && got.next > positions[&got.partition] {
                    positions.insert(got.partition, got.next);
                    self.commit(got.partition, got.next).await?;
                }
            }
            self.shared.rest(15).await;
        }
    }

    async fn commit(&mut self, partition: i32, offset: i64) -> Option<()> {
        let of = OffsetCommitPartition {
            partition_index: partition,
            committed_offset: offset,
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: GROUP.to_owned(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            topics: vec![OffsetCommitTopic { name: PLAIN.to_owned(), partitions: vec![of] }],
            ..Default::default()
        };
        let answer: OffsetCommitResponse = self.peer.ask(&request, 7).await?;
        if answer.topics[0].partitions[0].error_code != 0 {
            return None;
        }
        let mut committed = self.told.committed.borrow_mut();
        let before = committed.entry(partition).or_insert(0);
        assert!(offset >= *before, "a member of an older generation has committed");
        *before = offset;
        self.shared.count(|outcome| outcome.commits += 1);
        Some(())
    }
}
