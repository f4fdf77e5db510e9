//! The classic protocol through the room's door: requests, time, answers.

use coordinator::{
    Answer, Client, CoordinatorConfig, GroupCoordinator, LogRecord, Now, Ticket, read_record,
};
use model::ErrorCode;
use std::collections::BTreeMap;
use wire::messages::*;

const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 30_000;

struct Room {
    coordinator: GroupCoordinator,
    ms: u64,
    next: u64,
    answers: BTreeMap<u64, Answer>,
    log: Vec<LogRecord>,
}

fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        session_timeout_ms_min: 1_000,
        session_timeout_ms_max: 1_800_000,
        initial_rebalance_delay_ms: 0,
        groups_max: 1000,
        group_size_max: 3,
        offset_metadata_bytes_max: 100,
        offsets_retention_ms: 60_000,
    }
}

impl Room {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: CoordinatorConfig) -> Self {
        let coordinator = GroupCoordinator::new(config, 1);
        Self { coordinator, ms: 1_000, next: 0, answers: BTreeMap::new(), log: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { ms: self.ms, unix_ms: 1_700_000_000_000 + self.ms as i64 }
    }

    fn take(&mut self) {
        let effects = self.coordinator.take_effects();
        self.log.extend(effects.records);
        for (ticket, answer) in effects.answers {
            assert!(self.answers.insert(ticket.0, answer).is_none(), "answered once");
        }
    }

    /// Time passes, deadline by deadline.
    fn wait(&mut self, ms: u64) {
        let until = self.ms + ms;
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= until) {
            self.ms = self.ms.max(at);
            self.coordinator.on_time(self.now());
            self.take();
        }
        self.ms = until;
    }

    fn ask_join(&mut self, request: JoinGroupRequest, version: i16) -> u64 {
        self.next += 1;
        let client = Client { id: "c".to_owned(), host: "/h".to_owned() };
        let ticket = Ticket(self.next);
        self.coordinator.join(self.now(), version, &request, &client, ticket);
        self.take();
        self.next
    }

    /// Starts a join; the member is let in at once (version 3 has no second step).
    fn begin_join(&mut self, member_id: &str) -> u64 {
        self.ask_join(join(member_id, None), 3)
    }

    fn joined(&mut self, ticket: u64) -> JoinGroupResponse {
        match self.answers.remove(&ticket) {
            Some(Answer::Join(response)) => response,
            other => panic!("no join was answered: {other:?}"),
        }
    }

    fn waits(&self, ticket: u64) -> bool {
        !self.answers.contains_key(&ticket)
    }

    fn begin_sync(&mut self, member: &str, generation: i32, all: &[(&str, &str)]) -> u64 {
        self.next += 1;
        let given = |(member, what): &(&str, &str)| SyncGroupAssignment {
            member_id: (*member).to_owned(),
            assignment: what.as_bytes().to_vec(),
        };
        let request = SyncGroupRequest {
            group_id: "g".to_owned(),
            generation_id: generation,
            member_id: member.to_owned(),
            assignments: all.iter().map(given).collect(),
            ..Default::default()
        };
        self.coordinator.sync(self.now(), &request, Ticket(self.next));
        self.take();
        self.next
    }

    fn synced(&mut self, ticket: u64) -> SyncGroupResponse {
        match self.answers.remove(&ticket) {
            Some(Answer::Sync(response)) => response,
            other => panic!("no sync was answered: {other:?}"),
        }
    }

    fn beat(&mut self, member: &str, generation: i32) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: "g".to_owned(),
            generation_id: generation,
            member_id: member.to_owned(),
            group_instance_id: None,
        };
        self.coordinator.heartbeat(self.now(), &request)
    }

    fn state(&self) -> String {
        self.coordinator.describe(5, "g").group_state
    }

    /// A stable group of one.
    fn settle_one(&mut self) -> (String, i32) {
        let ticket = self.begin_join("");
        let joined = self.joined(ticket);
        let (member, generation) = (joined.member_id, joined.generation_id);
        let ticket = self.begin_sync(&member, generation, &[(&member, "all")]);
        assert_eq!(self.synced(ticket).assignment, b"all");
        assert_eq!(self.state(), "Stable");
        (member, generation)
    }

    /// What a coordinator is that reads this one's log.
    fn started_again(&self) -> Self {
        let mut room = Self::new();
        for record in &self.log {
            let read = read_record(&record.key, record.value.as_deref()).unwrap();
            room.coordinator.replay(read, None);
        }
        room.ms = self.ms;
        room.next = 1_000;
        room.log = self.log.clone();
        room.coordinator.on_loaded(room.now());
        room
    }
}

fn join(member_id: &str, instance: Option<&str>) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".to_owned(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        member_id: member_id.to_owned(),
        group_instance_id: instance.map(str::to_owned),
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupProtocol { name: "range".to_owned(), metadata: b"m".to_vec() }],
        reason: None,
    }
}

fn code(error: ErrorCode) -> i16 {
    error.code()
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let mut room = Room::new();
    let (one, generation) = room.settle_one();
    let second = room.begin_join("");
    // The first beats, so that its session lives, but never joins again.
    for _ in 0..6 {
        room.wait(4_900);
        assert_eq!(room.beat(&one, generation), ErrorCode::RebalanceInProgress);
    }
    assert!(room.waits(second));
    room.wait(1_000);
    let joined = room.joined(second);
    assert_eq!((joined.generation_id, joined.members.len()), (generation + 1, 1));
    assert_eq!(room.beat(&one, generation), ErrorCode::UnknownMemberId);
}

#[test]
fn a_new_member_that_went_away_is_not_waited_for_for_ever() {
    let mut room = Room::new();
    let mut request = join("", None);
    (request.session_timeout_ms, request.rebalance_timeout_ms) = (1_800_000, 1_800_000);
    let ticket = room.ask_join(request, 3);
    let joined = room.joined(ticket);
    let (one, generation) = (joined.member_id, joined.generation_id);
    let ticket = room.begin_sync(&one, generation, &[]);
    room.synced(ticket);
    let gone = room.begin_join("");
    room.wait(299_000);
    assert!(room.waits(gone), "it has five minutes");
    room.wait(2_000);
    assert_eq!(room.joined(gone).error_code, code(ErrorCode::UnknownMemberId));
    // The first comes back and is alone.
    let ticket = room.begin_join(&one);
    assert_eq!(room.joined(ticket).members.len(), 1);
}

#[test]
fn who_does_not_ask_for_its_assignment_is_out() {
    let mut room = Room::new();
    let (one, generation) = room.settle_one();
    let second = room.begin_join("");
    let first = room.begin_join(&one);
    let (leader, follower) = (room.joined(first), room.joined(second));
    assert_eq!((leader.members.len(), leader.generation_id), (2, generation + 1));
    let follows = room.begin_sync(&follower.member_id, generation + 1, &[]);
    for _ in 0..6 {
        // The leader lives but brings no assignment.
        room.wait(4_900);
        assert_eq!(room.beat(&one, generation + 1), ErrorCode::None);
        assert!(room.waits(follows));
    }
    room.wait(1_000);
    assert_eq!(room.synced(follows).error_code, code(ErrorCode::RebalanceInProgress));
    assert_eq!(room.beat(&one, generation + 1), ErrorCode::UnknownMemberId);
    let ticket = room.begin_join(&follower.member_id);
    assert_eq!(room.joined(ticket).leader, follower.member_id);
}

#[test]
fn a_new_rebalance_sends_those_back_who_wait_for_an_assignment() {
    let mut room = Room::new();
    let (one, generation) = room.settle_one();
    let second = room.begin_join("");
    let first = room.begin_join(&one);
    room.joined(first);
    let follower = room.joined(second);
    let follows = room.begin_sync(&follower.member_id, generation + 1, &[]);
    assert!(room.waits(follows));
    let third = room.begin_join("");
    let sent_back = room.synced(follows);
    // Never an empty assignment: clients fall over it.
    assert_eq!(sent_back.error_code, code(ErrorCode::RebalanceInProgress));
    assert!(room.waits(third));
}

#[test]
fn sessions_begin_anew_with_a_start() {
    let mut room = Room::new();
    let (one, generation) = room.settle_one();
    room.wait(SESSION_MS as u64 - 1);
    let mut room = room.started_again();
    room.wait(SESSION_MS as u64 - 1);
    assert_eq!(room.state(), "Stable");
    assert_eq!(room.beat(&one, generation), ErrorCode::None);
    room.wait(SESSION_MS as u64);
    assert_eq!(room.state(), "Empty");
    assert_eq!(room.beat(&one, generation), ErrorCode::UnknownMemberId);
}

#[test]
fn the_first_rebalance_waits_for_others_while_some_come() {
    let mut room = Room::with(CoordinatorConfig { initial_rebalance_delay_ms: 3_000, ..config() });
    let first = room.begin_join("");
    room.wait(2_000);
    let second = room.begin_join("");
    room.wait(1_500);
    // Someone came: once more.
    assert!(room.waits(first) && room.waits(second));
    room.wait(3_000);
    assert_eq!(room.joined(first).members.len(), 2);
    assert_eq!(room.joined(second).generation_id, 1);
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut room = Room::new();
    let ticket = room.ask_join(join("", Some("i")), 5);
    let joined = room.joined(ticket);
    let (old, generation) = (joined.member_id, joined.generation_id);
    let ticket = room.begin_sync(&old, generation, &[(&old, "mine")]);
    room.synced(ticket);
    let ticket = room.ask_join(join("", Some("i")), 5);
    let back = room.joined(ticket);
    assert_eq!((back.error_code, back.generation_id), (0, generation));
    assert_ne!(back.member_id, old);
    assert_eq!((back.leader.as_str(), back.members.len()), (old.as_str(), 0), "it does not lead");
    assert_eq!(room.state(), "Stable");
    let ticket = room.begin_sync(&back.member_id, generation, &[]);
    assert_eq!(room.synced(ticket).assignment, b"mine");
    // Its older self is fenced, also after a start.
    for mut room in [room.started_again(), room] {
        let beat = HeartbeatRequest {
            group_id: "g".to_owned(),
            generation_id: generation,
            member_id: old.clone(),
            group_instance_id: Some("i".to_owned()),
        };
        let now = room.now();
        assert_eq!(room.coordinator.heartbeat(now, &beat), ErrorCode::FencedInstanceId);
        // From version 9 on a leader is told to leave the assignment as it is.
        let ticket = room.ask_join(join("", Some("i")), 9);
        let newest = room.joined(ticket);
        assert!(newest.skip_assignment && newest.leader == newest.member_id);
        // An administrator removes it by name.
        let leaving =
            LeavingMember { group_instance_id: Some("i".to_owned()), ..Default::default() };
        let request = LeaveGroupRequest {
            group_id: "g".to_owned(),
            members: vec![leaving],
            ..Default::default()
        };
        let now = room.now();
        let left = room.coordinator.leave(now, 4, &request);
        room.take();
        assert_eq!(left.members[0].error_code, 0);
        assert_eq!(room.state(), "Empty");
    }
}

#[test]
fn refusals_are_kafkas() {
    let mut room = Room::new();
    let refusal = |room: &mut Room, edit: fn(&mut JoinGroupRequest)| {
        let mut request = join("", None);
        edit(&mut request);
        let ticket = room.ask_join(request, 3);
        ErrorCode::from_code(room.joined(ticket).error_code)
    };
    let cases: [(fn(&mut JoinGroupRequest), ErrorCode); 6] = [
        (|r| r.group_id.clear(), ErrorCode::InvalidGroupId),
        (|r| r.session_timeout_ms = 5, ErrorCode::InvalidSessionTimeout),
        (|r| r.session_timeout_ms = i32::MAX, ErrorCode::InvalidSessionTimeout),
        (|r| r.protocols.clear(), ErrorCode::InconsistentGroupProtocol),
        (|r| r.protocol_type.clear(), ErrorCode::InconsistentGroupProtocol),
        (|r| r.member_id = "who".to_owned(), ErrorCode::UnknownMemberId),
    ];
    for (edit, expected) in cases {
        assert_eq!(refusal(&mut room, edit), expected);
    }
    assert!(room.log.is_empty(), "nothing was written");
    let (one, generation) = room.settle_one();
    let error = refusal(&mut room, |r| r.protocols[0].name = "other".to_owned());
    assert_eq!(error, ErrorCode::InconsistentGroupProtocol);
    let error = refusal(&mut room, |r| r.protocol_type = "connect".to_owned());
    assert_eq!(error, ErrorCode::InconsistentGroupProtocol);
    let ticket = room.begin_sync(&one, generation + 1, &[]);
    assert_eq!(room.synced(ticket).error_code, code(ErrorCode::IllegalGeneration));
    // A member is given its id first, and the id does not last without the second step.
    let ticket = room.ask_join(join("", None), 4);
    let given = room.joined(ticket);
    assert_eq!(given.error_code, code(ErrorCode::MemberIdRequired));
    assert_eq!(room.state(), "Stable", "nobody is disturbed by that");
    room.wait(5_000);
    assert_eq!(room.beat(&one, generation), ErrorCode::None);
    room.wait(5_001);
    let ticket = room.ask_join(join(&given.member_id, None), 4);
    assert_eq!(room.joined(ticket).error_code, code(ErrorCode::UnknownMemberId));
    // Who only asks for an id leaves nothing behind.
    let mut stranger = join("", None);
    stranger.group_id = "elsewhere".to_owned();
    let ticket = room.ask_join(stranger, 4);
    room.joined(ticket);
    assert_eq!(room.coordinator.group_ids().count(), 2);
    room.beat(&one, generation);
    room.wait(5_000);
    room.beat(&one, generation);
    room.wait(5_001);
    room.beat(&one, generation);
    assert_eq!(room.coordinator.group_ids().collect::<Vec<_>>(), ["g"]);
    // Three are let in, and no more.
    for _ in 0..2 {
        room.begin_join("");
    }
    assert_eq!(refusal(&mut room, |_| {}), ErrorCode::GroupMaxSizeReached);
}

#[test]
fn offsets_expire_once_nobody_is_there() {
    let mut room = Room::new();
    let commit = |room: &mut Room, group: &str, member: &str, generation: i32, topic: &str| {
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            member_id: member.to_owned(),
            generation_id: generation,
            topics: vec![OffsetCommitTopic {
                name: topic.to_owned(),
                partitions: vec![OffsetCommitPartition {
                    committed_offset: 7,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let now = room.now();
        let response = room.coordinator.commit(now, 9, &request, |_, _| true);
        room.take();
        assert_eq!(response.topics[0].partitions[0].error_code, 0);
    };
    let kept = |room: &Room, group: &str| room.coordinator.fetch(group, None, false).len();
    let (one, generation) = room.settle_one();
    commit(&mut room, "g", &one, generation, "t");
    commit(&mut room, "alone", "", -1, "t");
    for _ in 0..10 {
        room.wait(9_000);
        room.beat(&one, generation);
    }
    let now = room.now();
    room.coordinator.expire_offsets(now);
    room.take();
    // Its members say nothing that can be read, so all topics may be theirs.
    assert_eq!((kept(&room, "g"), kept(&room, "alone")), (1, 0));
    // The group is left. From then on it counts.
    room.wait(11_000);
    assert_eq!(room.state(), "Empty");
    room.wait(50_000);
    let now = room.now();
    room.coordinator.expire_offsets(now);
    room.take();
    assert_eq!(kept(&room, "g"), 1, "a minute from when it became empty");
    room.wait(11_000);
    let now = room.now();
    room.coordinator.expire_offsets(now);
    room.take();
    assert_eq!(kept(&room, "g"), 0);
    assert_eq!(room.state(), "Dead");
    // And a start knows nothing of them.
    assert_eq!(room.started_again().coordinator.group_ids().count(), 0);
}

#[test]
fn a_subscribed_topics_offsets_are_not_deleted() {
    let mut room = Room::new();
    let mut request = join("", None);
    // Version 0, one topic "t".
    request.protocols[0].metadata = b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff".to_vec();
    let ticket = room.ask_join(request, 3);
    let joined = room.joined(ticket);
    let ticket = room.begin_sync(&joined.member_id, joined.generation_id, &[]);
    room.synced(ticket);
    let topic = |name: &str| OffsetDeleteTopic {
        name: name.to_owned(),
        partitions: vec![OffsetDeletePartition { partition_index: 0 }],
    };
    let request =
        OffsetDeleteRequest { group_id: "g".to_owned(), topics: vec![topic("t"), topic("u")] };
    let response = room.coordinator.delete_offsets(&request, |_, _| true);
    let codes: Vec<_> = response.topics.iter().map(|t| t.partitions[0].error_code).collect();
    assert_eq!(codes, [code(ErrorCode::GroupSubscribedToTopic), 0]);
}

#[test]
fn beyond_so_many_groups_nobody_joins_a_new_one() {
    let mut room = Room::with(CoordinatorConfig { groups_max: 1, ..config() });
    let ticket = room.begin_join("");
    assert_eq!(room.joined(ticket).error_code, 0);
    for version in [3, 4] {
        let other = JoinGroupRequest { group_id: "other".to_owned(), ..join("", None) };
        let ticket = room.ask_join(other, version);
        assert_eq!(room.joined(ticket).error_code, code(ErrorCode::GroupMaxSizeReached));
    }
    // To the one that is there others may come.
    let ticket = room.ask_join(join("", None), 4);
    assert_eq!(room.joined(ticket).error_code, code(ErrorCode::MemberIdRequired));
    assert_eq!(room.coordinator.group_ids().collect::<Vec<_>>(), ["g"]);
}
