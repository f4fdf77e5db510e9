//! The group coordinator in simulated time: random consumers, timeouts, lost connections, a log that
//! is durable late, crashes that lose what was not, and rewriting of the log.
//!
//! Checked: a partition has one owner in a generation; no committed offset is lost or goes back;
//! every request is answered or its connection lost; once the faults end every living member is in a
//! stable group that covers all partitions.

use coordinator::{
    Answer, Client, CoordinatorConfig, GroupCoordinator, GroupState, LogRecord, Now, Ticket,
    read_record,
};
use model::ErrorCode;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use wire::messages::{
    HeartbeatRequest, JoinGroupProtocol, JoinGroupRequest, LeaveGroupRequest, LeavingMember,
    OffsetCommitPartition, OffsetCommitRequest, OffsetCommitTopic, OffsetFetchTopic,
    SyncGroupAssignment, SyncGroupRequest,
};

const PARTITIONS: i32 = 6;
const TOPIC: &str = "t";
const SESSION_MS: i32 = 6_000;
const REBALANCE_MS: i32 = 8_000;
const HEARTBEAT_MS: u64 = 1_500;
/// Chaos for so long, then quiet for so long.
const CHAOS_MS: u64 = 90_000;
const QUIET_MS: u64 = 60_000;
const UNIX_MS: i64 = 1_700_000_000_000;

/// What a run did, for the sum over seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Outcome {
    pub assignments: u64,
    pub commits: u64,
    pub fetches: u64,
    pub fenced: u64,
    pub crashes: u64,
    pub lost_connections: u64,
    pub vanished: u64,
    pub rewrites: u64,
    pub replaced: u64,
    pub moved: u64,
}

impl Outcome {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.assignments += other.assignments;
        self.commits += other.commits;
        self.fetches += other.fetches;
        self.fenced += other.fenced;
        self.crashes += other.crashes;
        self.lost_connections += other.lost_connections;
        self.vanished += other.vanished;
        self.rewrites += other.rewrites;
        self.replaced += other.replaced;
        self.moved += other.moved;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not running.
    Away,
    /// To join with its next step.
    Out,
    Joining,
    Syncing,
    Fetching,
    Owner,
}

/// A consumer as an ordinary client library is one.
struct Member {
    group: usize,
    instance: Option<String>,
    phase: Phase,
    member_id: String,
    generation: i32,
    assigned: Vec<i32>,
    positions: BTreeMap<i32, i64>,
    /// The request that is not answered yet.
    waits_for: Option<u64>,
    beats_at: u64,
    steps_at: u64,
    /// When its last request arrives. Requests of one member do not overtake each other: on two
    /// connections they could, with Kafka too, and then an older commit may win.
    arrives_at: u64,
    /// Does not beat until then: a long garbage collection.
    frozen_until: u64,
}

#[derive(Clone, Debug)]
enum Request {
    Join(JoinGroupRequest),
    Sync(SyncGroupRequest),
    Beat(HeartbeatRequest),
    Commit(OffsetCommitRequest),
    Fetch(Vec<i32>),
    Leave(LeaveGroupRequest),
}

#[derive(Clone, Debug)]
enum Response {
    Answer(Answer),
    Beat(ErrorCode),
    Commit(Vec<(i32, i64)>, ErrorCode),
    /// A tool moved an empty group's offsets.
    Moved(Vec<(i32, i64)>),
    Fetch(Vec<(i32, i64)>),
    Left,
    ConnectionLost,
}

enum Event {
    /// A member does something.
    Step(usize),
    /// A member has waited long enough.
    GivesUp { member: usize, request: u64 },
    /// A request reaches the coordinator, unless it crashed since it was sent.
    Arrives { member: usize, request: u64, life: u64, what: Request },
    /// A response reaches its member.
    Returns { member: usize, request: u64, response: Response },
    /// The log is durable up to here.
    Durable { end: usize, log: u64 },
    /// Something bad.
    Fault,
}

struct Rig {
    random: u64,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, Event>,
    next_event: u64,
    coordinator: GroupCoordinator,
    log: Vec<LogRecord>,
    durable: usize,
    /// Counts crashes.
    life: u64,
    /// Counts crashes and rewritings: positions of one log mean nothing in another.
    log_number: u64,
    /// Responses that wait for the log: position, member, request.
    held: VecDeque<(usize, usize, u64, Response)>,
    members: Vec<Member>,
    next_request: u64,
    groups: usize,
    /// Who owns a partition in a generation.
    owners: BTreeMap<(usize, i32, i32, u64), String>,
    /// The largest offset whose commit was acknowledged.
    acknowledged: BTreeMap<(usize, i32), i64>,
    /// What each fetch under way must not be below.
    floors: BTreeMap<u64, BTreeMap<i32, i64>>,
    outcome: Outcome,
}

fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        session_timeout_ms_min: 1,
        session_timeout_ms_max: 1_800_000,
        initial_rebalance_delay_ms: 500,
        groups_max: 1000,
        group_size_max: 100,
        offset_metadata_bytes_max: 4096,
        offsets_retention_ms: 7 * 86_400_000,
    }
}

fn group_name(group: usize) -> String {
    format!("group-{group}")
}

/// Runs one seed.
///
/// # Panics
/// When a guarantee does not hold.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mut rig = Rig::new(seed);
    let mut faults = 0;
    while rig.now < CHAOS_MS {
        faults += 1;
        rig.at(rig.now, Event::Fault);
        let until = rig.now + 200 + rig.below(6_000);
        rig.go_on(until.min(CHAOS_MS), true);
    }
    assert!(faults > 0);
    for member in 0..rig.members.len() {
        rig.members[member].frozen_until = 0;
    }
    rig.go_on(CHAOS_MS + QUIET_MS, false);
    rig.check_settled();
    rig.outcome
}

impl Rig {
    fn new(seed: u64) -> Self {
        let groups = 1 + (seed % 3) as usize;
        let mut rig = Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            now: 0,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            next_event: 0,
            coordinator: GroupCoordinator::new(config(), seed),
            log: Vec::new(),
            durable: 0,
            life: 0,
            log_number: 0,
            held: VecDeque::new(),
            members: Vec::new(),
            next_request: 0,
            groups,
            owners: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            floors: BTreeMap::new(),
            outcome: Outcome::default(),
        };
        for group in 0..groups {
            for number in 0..1 + rig.below(5) {
                let is_static = rig.below(3) == 0;
                rig.members.push(Member {
                    group,
                    instance: is_static.then(|| format!("instance-{group}-{number}")),
                    phase: Phase::Out,
                    member_id: String::new(),
                    generation: -1,
                    assigned: Vec::new(),
                    positions: BTreeMap::new(),
                    waits_for: None,
                    beats_at: 0,
                    frozen_until: 0,
                    arrives_at: 0,
                    steps_at: 0,
                });
                let at = rig.below(3_000);
                rig.step_later(at, rig.members.len() - 1);
            }
        }
        rig
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit.max(1)
    }

    fn at(&mut self, at: u64, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.events.push(Reverse((at, number)));
        self.bodies.insert(number, event);
    }

    /// The member's next step; an earlier appointment is off.
    fn step_later(&mut self, at: u64, member: usize) {
        self.members[member].steps_at = at;
        self.at(at, Event::Step(member));
    }

    fn time(&self) -> Now {
        Now { ms: self.now, unix_ms: UNIX_MS + self.now as i64 }
    }

    /// Lets time pass, event by event.
    fn go_on(&mut self, until: u64, chaos: bool) {
        loop {
            let event = self.events.peek().map(|Reverse((at, _))| *at);
            let deadline = self.coordinator.next_deadline();
            let next = event.into_iter().chain(deadline).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            if deadline == Some(next) {
                self.coordinator.on_time(self.time());
                self.take_effects(None);
                continue;
            }
            let Some(Reverse((_, number))) = self.events.pop() else { break };
            match self.bodies.remove(&number).expect("one body an event") {
                Event::Step(member) => {
                    if self.members[member].steps_at == self.now {
                        self.step(member, chaos);
                    }
                }
                Event::GivesUp { member, request } => {
                    self.on_response(member, request, Response::ConnectionLost);
                }
                Event::Arrives { member, request, life, what } => {
                    if life == self.life {
                        self.serve(member, request, what);
                    }
                }
                Event::Returns { member, request, response } => {
                    self.on_response(member, request, response);
                }
                Event::Durable { end, log } => {
                    if log == self.log_number {
                        self.durable = self.durable.max(end);
                        self.release();
                    }
                }
                Event::Fault => self.fault(),
            }
        }
        self.now = until;
    }

    fn fault(&mut self) {
        let member = self.below(self.members.len() as u64) as usize;
        match self.below(10) {
            0 => self.crash(),
            1 => {
                self.rewrite();
            }
            2 | 3 => {
                // Gone without a word; perhaps it comes back later, as another.
                self.leave_a_zombie(member);
                let m = &mut self.members[member];
                m.phase = Phase::Away;
                m.waits_for = None;
                m.member_id.clear();
                m.assigned.clear();
                self.outcome.vanished += 1;
                let back = self.now + self.below(20_000);
                self.step_later(back, member);
            }
            4 | 5 => {
                let until = self.now + self.below(15_000);
                self.members[member].frozen_until = until;
            }
            6 => {
                // It leaves as it should.
                let m = &mut self.members[member];
                if m.phase == Phase::Owner && m.waits_for.is_none() {
                    let leaving = LeavingMember {
                        member_id: m.member_id.clone(),
                        group_instance_id: m.instance.clone(),
                        ..Default::default()
                    };
                    let request = LeaveGroupRequest {
                        group_id: group_name(m.group),
                        members: vec![leaving],
                        ..Default::default()
                    };
                    m.phase = Phase::Away;
                    m.member_id.clear();
                    m.assigned.clear();
                    self.send(member, Request::Leave(request), 5_000);
                    self.members[member].waits_for = None;
                    let back = self.now + self.below(20_000);
                    self.step_later(back, member);
                }
            }
            7 => {
                // A tool that is no member sets offsets.
                let partition = OffsetCommitPartition {
                    partition_index: self.below(PARTITIONS as u64) as i32,
                    committed_offset: self.below(1000) as i64,
                    ..Default::default()
                };
                let request = OffsetCommitRequest {
                    group_id: group_name(self.members[member].group),
                    topics: vec![OffsetCommitTopic {
                        name: TOPIC.to_owned(),
                        partitions: vec![partition],
                    }],
                    ..Default::default()
                };
                let (number, life) = (self.next_request, self.life);
                self.next_request += 1;
                let what = Request::Commit(request);
                self.at(self.now + 1, Event::Arrives { member, request: number, life, what });
            }
            _ => self.lose_connection(member),
        }
    }

    /// What a member had sent, or still sends, arrives when another may have taken its place.
    fn leave_a_zombie(&mut self, member: usize) {
        let m = &self.members[member];
        if m.phase != Phase::Owner || m.assigned.is_empty() {
            return;
        }
        let commit = self.commit_of(member);
        for _ in 0..3 {
            let at = self.now + 1 + self.below(15_000);
            let (request, life) = (self.next_request, self.life);
            self.next_request += 1;
            let what = Request::Commit(commit.clone());
            self.at(at, Event::Arrives { member, request, life, what });
        }
    }

    fn commit_of(&self, member: usize) -> OffsetCommitRequest {
        let m = &self.members[member];
        let partitions = m.assigned.iter().map(|p| OffsetCommitPartition {
            partition_index: *p,
            committed_offset: m.positions[p],
            committed_metadata: None,
            ..Default::default()
        });
        OffsetCommitRequest {
            group_id: group_name(m.group),
            generation_id: m.generation,
            member_id: m.member_id.clone(),
            group_instance_id: m.instance.clone(),
            topics: vec![OffsetCommitTopic {
                name: TOPIC.to_owned(),
                partitions: partitions.collect(),
            }],
            ..Default::default()
        }
    }

    /// The coordinator starts again: what was not durable may be gone.
    fn crash(&mut self) {
        self.outcome.crashes += 1;
        self.life += 1;
        self.log_number += 1;
        let kept = self.durable + self.below((self.log.len() - self.durable) as u64 + 1) as usize;
        self.log.truncate(kept);
        self.durable = kept;
        self.held.clear();
        let mut coordinator = GroupCoordinator::new(config(), self.random);
        for record in &self.log {
            let read = read_record(&record.key, record.value.as_deref());
            coordinator.replay(read.expect("it wrote it itself"), None);
        }
        coordinator.on_loaded(self.time());
        self.coordinator = coordinator;
        for member in 0..self.members.len() {
            self.lose_connection(member);
        }
    }

    /// As the broker does: all that is alive is written at the end, what was before goes.
    fn rewrite(&mut self) {
        if self.durable < self.log.len() {
            return;
        }
        self.outcome.rewrites += 1;
        self.log_number += 1;
        let ids: Vec<String> = self.coordinator.group_ids().map(str::to_owned).collect();
        self.log = ids.iter().flat_map(|id| self.coordinator.records_of(id)).collect();
        self.durable = self.log.len();
        assert!(self.held.is_empty(), "everything was durable");
    }

    fn lose_connection(&mut self, member: usize) {
        if let Some(request) = self.members[member].waits_for {
            self.outcome.lost_connections += 1;
            let response = Response::ConnectionLost;
            self.at(self.now + 1, Event::Returns { member, request, response });
        }
    }

    fn send(&mut self, member: usize, what: Request, patience_ms: u64) {
        let request = self.next_request;
        self.next_request += 1;
        if let Request::Fetch(partitions) = &what {
            let group = self.members[member].group;
            let floor = |p: &i32| self.acknowledged.get(&(group, *p)).map(|floor| (*p, *floor));
            self.floors.insert(request, partitions.iter().filter_map(floor).collect());
        }
        self.members[member].waits_for = Some(request);
        let at = (self.now + 1 + self.below(20)).max(self.members[member].arrives_at + 1);
        self.members[member].arrives_at = at;
        let life = self.life;
        self.at(at, Event::Arrives { member, request, life, what });
        self.at(self.now + patience_ms, Event::GivesUp { member, request });
    }

    /// A member does what is due.
    fn step(&mut self, number: usize, chaos: bool) {
        let now = self.now;
        let commits = self.below(3) == 0;
        let moved = self.below(50) as i64;
        let m = &mut self.members[number];
        if m.waits_for.is_some() {
            return;
        }
        if m.frozen_until > now {
            let at = m.frozen_until;
            self.step_later(at, number);
            return;
        }
        match m.phase {
            Phase::Away | Phase::Out => {
                m.phase = Phase::Joining;
                let metadata = vec![number as u8];
                let request = JoinGroupRequest {
                    group_id: group_name(m.group),
                    session_timeout_ms: SESSION_MS,
                    rebalance_timeout_ms: REBALANCE_MS,
                    member_id: m.member_id.clone(),
                    group_instance_id: m.instance.clone(),
                    protocol_type: "consumer".to_owned(),
                    protocols: vec![JoinGroupProtocol { name: "range".to_owned(), metadata }],
                    ..Default::default()
                };
                self.send(number, Request::Join(request), 20_000);
            }
            Phase::Owner => {
                for position in m.positions.values_mut() {
                    *position += moved;
                }
                if commits && !m.assigned.is_empty() {
                    let request = self.commit_of(number);
                    self.send(number, Request::Commit(request), 5_000);
                } else if m.beats_at <= now {
                    m.beats_at = now + HEARTBEAT_MS;
                    let request = HeartbeatRequest {
                        group_id: group_name(m.group),
                        generation_id: m.generation,
                        member_id: m.member_id.clone(),
                        group_instance_id: m.instance.clone(),
                    };
                    self.send(number, Request::Beat(request), 5_000);
                } else {
                    let pause = if chaos { 700 } else { 300 };
                    let at = now + 1 + self.below(pause);
                    self.step_later(at, number);
                }
            }
            // Answers move these on.
            Phase::Joining | Phase::Syncing | Phase::Fetching => {}
        }
    }

    /// The coordinator takes a request.
    fn serve(&mut self, member: usize, request: u64, what: Request) {
        let now = self.time();
        let group = group_name(self.members[member].group);
        let response = match what {
            Request::Join(join) => {
                let client = Client { id: "c".to_owned(), host: "/h".to_owned() };
                self.coordinator.join(now, 9, &join, &client, ticket(member, request));
                None
            }
            Request::Sync(sync) => {
                self.coordinator.sync(now, &sync, ticket(member, request));
                None
            }
            Request::Beat(beat) => Some(Response::Beat(self.coordinator.heartbeat(now, &beat))),
            Request::Commit(commit) => {
                let shown = self.coordinator.describe(5, &group).group_state;
                let is_empty = ["Empty", "Dead"].contains(&shown.as_str());
                let response = self.coordinator.commit(now, 9, &commit, |_, _| true);
                let error = ErrorCode::from_code(response.topics[0].partitions[0].error_code);
                self.outcome.replaced += u64::from(error == ErrorCode::FencedInstanceId);
                let asked = &commit.topics[0].partitions;
                let offsets = asked.iter().map(|p| (p.partition_index, p.committed_offset));
                if commit.generation_id >= 0 {
                    Some(Response::Commit(offsets.collect(), error))
                } else {
                    let went_through = error == ErrorCode::None;
                    assert_eq!(went_through, is_empty, "only an empty group's offsets are moved");
                    went_through.then(|| Response::Moved(offsets.collect()))
                }
            }
            Request::Fetch(partitions) => {
                let topics =
                    [OffsetFetchTopic { name: TOPIC.to_owned(), partition_indexes: partitions }];
                let found = self.coordinator.fetch(&group, Some(&topics), false);
                let offsets = found[0].partitions.iter();
                Some(Response::Fetch(
                    offsets.map(|p| (p.partition_index, p.committed_offset)).collect(),
                ))
            }
            Request::Leave(leave) => {
                let _ = self.coordinator.leave(now, 4, &leave);
                Some(Response::Left)
            }
        };
        self.take_effects(response.map(|response| (member, request, response)));
    }

    /// Appends what the coordinator wants written and holds its answers until that is durable.
    fn take_effects(&mut self, direct: Option<(usize, u64, Response)>) {
        let effects = self.coordinator.take_effects();
        let wrote = !effects.records.is_empty();
        self.log.extend(effects.records);
        let end = self.log.len();
        for (ticket, answer) in effects.answers {
            let (member, request) = ((ticket.0 >> 48) as usize, ticket.0 & ((1 << 48) - 1));
            self.held.push_back((end, member, request, Response::Answer(answer)));
        }
        if let Some((member, request, response)) = direct {
            self.held.push_back((end, member, request, response));
        }
        if wrote {
            let at = self.now + 1 + self.below(30);
            let log = self.log_number;
            self.at(at, Event::Durable { end, log });
        }
        self.release();
    }

    fn release(&mut self) {
        while self.held.front().is_some_and(|(end, ..)| *end <= self.durable) {
            let (_, member, request, response) = self.held.pop_front().expect("looked at above");
            if let Response::Commit(offsets, ErrorCode::None) = &response {
                // From here on it is promised, whether or not its member hears of it.
                let group = self.members[member].group;
                for (partition, offset) in offsets {
                    let promised = self.acknowledged.entry((group, *partition)).or_insert(-1);
                    assert!(
                        *offset >= *promised,
                        "group {group} partition {partition}: a commit of {offset} went through \
                         after {promised}: whoever sent it should have been fenced"
                    );
                    *promised = *offset;
                }
                self.outcome.commits += 1;
            }
            if let Response::Moved(offsets) = &response {
                let group = self.members[member].group;
                let moved = offsets.iter().map(|(partition, to)| ((group, *partition), *to));
                self.acknowledged.extend(moved);
                self.outcome.moved += 1;
            }
            let at = self.now + 1 + self.below(20);
            self.at(at, Event::Returns { member, request, response });
        }
    }

    fn on_response(&mut self, number: usize, request: u64, response: Response) {
        let floors = self.floors.remove(&request);
        if self.members[number].waits_for != Some(request) {
            return;
        }
        self.members[number].waits_for = None;
        let mut at = self.now + 1;
        match response {
            Response::ConnectionLost => {
                // Nobody knows whether it was done. Who owns goes on; who joins starts over.
                let m = &mut self.members[number];
                if m.phase != Phase::Owner {
                    m.phase = Phase::Out;
                }
            }
            Response::Answer(Answer::Join(joined)) => {
                match ErrorCode::from_code(joined.error_code) {
                    ErrorCode::None => {
                        self.on_joined(number, joined);
                        return;
                    }
                    ErrorCode::MemberIdRequired => {
                        self.members[number].member_id = joined.member_id;
                        self.members[number].phase = Phase::Out;
                    }
                    error => self.on_refused(number, error),
                }
            }
            Response::Answer(Answer::Sync(synced)) => {
                match ErrorCode::from_code(synced.error_code) {
                    ErrorCode::None => {
                        self.on_assigned(number, &synced.assignment);
                        return;
                    }
                    error => self.on_refused(number, error),
                }
            }
            Response::Fetch(offsets) => {
                self.outcome.fetches += 1;
                for (partition, floor) in floors.unwrap_or_default() {
                    let found = offsets.iter().find(|(p, _)| *p == partition).map(|(_, o)| *o);
                    assert!(
                        found.is_some_and(|found| found >= floor),
                        "partition {partition}: {floor} was committed, {found:?} is fetched"
                    );
                }
                let m = &mut self.members[number];
                m.positions = offsets.into_iter().map(|(p, offset)| (p, offset.max(0))).collect();
                m.phase = Phase::Owner;
            }
            Response::Commit(_, error) | Response::Beat(error) => match error {
                ErrorCode::None => at += self.below(400),
                error => self.on_refused(number, error),
            },
            Response::Left | Response::Moved(_) => {}
        }
        self.step_later(at, number);
    }

    fn on_refused(&mut self, number: usize, error: ErrorCode) {
        let m = &mut self.members[number];
        m.assigned.clear();
        m.phase = Phase::Out;
        match error {
            ErrorCode::RebalanceInProgress => {}
            ErrorCode::IllegalGeneration => self.outcome.fenced += 1,
            ErrorCode::UnknownMemberId => {
                m.member_id.clear();
                self.outcome.fenced += 1;
            }
            ErrorCode::FencedInstanceId => {
                // Its older self: a real client ends here. This one begins anew.
                m.member_id.clear();
                self.outcome.replaced += 1;
            }
            other => panic!("member {number} was answered {}", other.name()),
        }
    }

    fn on_joined(&mut self, number: usize, joined: wire::messages::JoinGroupResponse) {
        let mut assignments = Vec::new();
        let leads = joined.leader == joined.member_id;
        if leads && !joined.skip_assignment {
            let mut ids: Vec<_> = joined.members.iter().map(|m| m.member_id.clone()).collect();
            assert!(ids.contains(&joined.member_id), "a leader is told of itself");
            ids.sort();
            for (seat, member_id) in ids.iter().enumerate() {
                let theirs = (0..PARTITIONS).filter(|p| *p as usize % ids.len() == seat);
                assignments.push(SyncGroupAssignment {
                    member_id: member_id.clone(),
                    assignment: theirs.map(|p| p as u8).collect(),
                });
            }
        }
        let m = &mut self.members[number];
        (m.member_id, m.generation, m.phase) =
            (joined.member_id, joined.generation_id, Phase::Syncing);
        let request = SyncGroupRequest {
            group_id: group_name(m.group),
            generation_id: m.generation,
            member_id: m.member_id.clone(),
            group_instance_id: m.instance.clone(),
            assignments,
            ..Default::default()
        };
        self.send(number, Request::Sync(request), 20_000);
    }

    fn on_assigned(&mut self, number: usize, assignment: &[u8]) {
        self.outcome.assignments += 1;
        let life = self.life;
        let m = &mut self.members[number];
        m.assigned = assignment.iter().map(|p| i32::from(*p)).collect();
        for partition in &m.assigned {
            // A crash may forget a generation that was not durable: its number may come again.
            let key = (m.group, m.generation, *partition, life);
            let seat = m.instance.clone().unwrap_or_else(|| m.member_id.clone());
            let owner = self.owners.entry(key).or_insert_with(|| seat.clone());
            assert_eq!(
                *owner, seat,
                "group {} generation {} partition {partition} has two owners",
                m.group, m.generation
            );
        }
        m.beats_at = self.now + HEARTBEAT_MS;
        if m.assigned.is_empty() {
            m.positions.clear();
            m.phase = Phase::Owner;
            let at = self.now + 1;
            self.step_later(at, number);
            return;
        }
        m.phase = Phase::Fetching;
        let partitions = m.assigned.clone();
        self.send(number, Request::Fetch(partitions), 5_000);
    }

    fn check_settled(&self) {
        for group in 0..self.groups {
            let shown = self.coordinator.describe(6, &group_name(group));
            let living: Vec<_> = self.members.iter().filter(|m| m.group == group).collect();
            assert!(living.iter().all(|m| m.phase == Phase::Owner), "group {group}: all take part");
            assert_eq!(shown.group_state, GroupState::Stable.name(), "group {group}");
            assert_eq!(shown.members.len(), living.len(), "group {group}: no one else is in it");
            let mut covered: Vec<i32> = living.iter().flat_map(|m| m.assigned.clone()).collect();
            covered.sort_unstable();
            assert_eq!(covered, (0..PARTITIONS).collect::<Vec<_>>(), "group {group}");
            let generations: Vec<_> = living.iter().map(|m| m.generation).collect();
            assert!(generations.windows(2).all(|pair| pair[0] == pair[1]), "{generations:?}");
        }
    }
}

fn ticket(member: usize, request: u64) -> Ticket {
    Ticket((member as u64) << 48 | request)
}
