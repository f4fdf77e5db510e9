//! The coordinator of the groups of one partition of `__consumer_offsets`: join, sync, heartbeat,
//! leave, and what happens when time passes (KIP-62, KIP-345, KIP-389, KIP-394, KIP-429, KIP-814).

use crate::group::{Group, GroupState, InitialDelay, Member, Rebalance};
use crate::records::{LogRecord, StoredRecord, group_record, offset_record};
use crate::step::{Client, Now, Ticket};
use model::{ErrorCode, GroupId, Producer, ProducerId};
use std::collections::{BTreeMap, BTreeSet};
use wire::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    LeavingMember, LeftMember, SyncGroupRequest, SyncGroupResponse,
};

/// Protocols that a member may speak: clients have one to three.
const PROTOCOLS_MAX: usize = 100;
/// Bytes that a group's members may say of themselves: all are in one record, and in one answer to their leader.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Member ids of a group that were given out and have not joined yet.
const PENDING_MAX: usize = 10_000;
/// A new member whose client is gone is not waited for longer than this.
const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 5 * 60 * 1000;
/// From this version of JoinGroup on a member must come back with the id it was given (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;
/// From here on a leader can be told to leave the assignment as it is (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;

/// The bounds and delays of all groups.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct CoordinatorConfig {
    pub session_timeout_ms_min: i32,
    pub session_timeout_ms_max: i32,
    pub initial_rebalance_delay_ms: u64,
    pub group_size_max: usize,
    /// Of one coordinator: of one partition of `__consumer_offsets`.
    pub groups_max: usize,
    pub offset_metadata_bytes_max: usize,
    pub offsets_retention_ms: i64,
}

/// An answer that had to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Answer {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
}

/// What a step brings about, besides what it returns. None of it leaves before the records are
/// durable.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be appended, in this order.
    pub records: Vec<LogRecord>,
    /// To be appended as part of that producer's transaction.
    pub transactional: Vec<(Producer, LogRecord)>,
    /// Answers to joins and syncs, this step's own among them.
    pub answers: Vec<(Ticket, Answer)>,
}

/// The groups of one partition.
pub struct GroupCoordinator {
    pub(crate) config: CoordinatorConfig,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) effects: Effects,
    /// Groups with offsets in a producer's open transaction.
    pub(crate) in_transactions: BTreeMap<ProducerId, BTreeSet<GroupId>>,
    /// How many offsets were committed: which of two came later.
    pub(crate) commits: u64,
    /// When which group is to be looked at. A heartbeat does not move it: that a member was heard
    /// of is found when its group is looked at.
    deadlines: BTreeSet<(u64, GroupId)>,
    random: u64,
}

impl Group {
    /// Whether this is a member, and for a static one still the one.
    pub(crate) fn check_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance) = instance_id {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(id) if id != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// A sign of life.
    pub(crate) fn heard_of(&mut self, member_id: &str, now: Now) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.expires_at = now.ms + member.session_timeout_ms;
        }
    }
}

fn protocols_of(request: &JoinGroupRequest) -> Vec<(String, Vec<u8>)> {
    request.protocols.iter().map(|p| (p.name.clone(), p.metadata.clone())).collect()
}

fn join_refused(member_id: &str, error: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code: error.code(),
        member_id: member_id.to_owned(),
        ..Default::default()
    }
}

fn sync_refused(error: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse { error_code: error.code(), ..Default::default() }
}

impl GroupCoordinator {
    /// A coordinator that knows no group yet. `seed` makes its member ids.
    #[must_use]
    pub fn new(config: CoordinatorConfig, seed: u64) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            effects: Effects::default(),
            in_transactions: BTreeMap::new(),
            commits: 0,
            deadlines: BTreeSet::new(),
            random: seed,
        }
    }

    /// What the steps since the last call brought about.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Takes in a record that was read back from the log; `in_transaction` is its producer, if it
    /// was written with a transaction.
    pub fn replay(&mut self, record: StoredRecord, in_transaction: Option<ProducerId>) {
        let fresh = || Group::new(-1);
        match record {
            StoredRecord::Offset { group, topic, partition, value: Some(value) } => {
                if let Some(id) = in_transaction {
                    self.set_pending(-1, &group, id, (topic, partition), value);
                    return;
                }
                let place = self.groups.entry(GroupId::new(&group)).or_insert_with(fresh);
                place.offsets.set(&topic, partition, value);
                place.pending_offsets.forget_before(&topic, partition, u64::MAX);
            }
            StoredRecord::Offset { group, topic, partition, value: None } => {
                if let Some(known) = self.groups.get_mut(group.as_str()) {
                    known.offsets.remove(&topic, partition);
                    known.pending_offsets.forget_before(&topic, partition, u64::MAX);
                    let is_bare = known.pending_offsets.is_empty();
                    if is_bare && known.stored.is_none() && known.offsets.by_topic.is_empty() {
                        self.groups.remove(group.as_str());
                    }
                }
            }
            StoredRecord::Group { group, value: Some(value) } => {
                let place = self.groups.entry(GroupId::new(&group)).or_insert_with(fresh);
                place.restore(value);
                place.stored = Some(place.value());
            }
            StoredRecord::Group { group, value: None } => {
                if let Some(known) = self.groups.get_mut(group.as_str()) {
                    if known.offsets.by_topic.is_empty() && known.pending_offsets.is_empty() {
                        self.groups.remove(group.as_str());
                    } else {
                        let offsets = std::mem::take(&mut known.offsets);
                        let pending_offsets = std::mem::take(&mut known.pending_offsets);
                        *known = Group { offsets, pending_offsets, ..Group::new(-1) };
                    }
                }
            }
            StoredRecord::Unknown { .. } => {}
        }
    }

    /// The log has been read: members that it tells of have their session from now on.
    pub fn on_loaded(&mut self, now: Now) {
        let ids: Vec<GroupId> = self.groups.keys().cloned().collect();
        for id in ids {
            let group = self.groups.get_mut(&id).expect("listed just now");
            for member in group.members.values_mut() {
                member.expires_at = now.ms + member.session_timeout_ms;
            }
            self.look_later(&id);
        }
    }

    /// The ids of all groups.
    pub fn group_ids(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(|id| &**id)
    }

    /// Everything a log must say to bring this group back.
    #[must_use]
    pub fn records_of(&self, id: &str) -> Vec<LogRecord> {
        let Some(group) = self.groups.get(id) else { return Vec::new() };
        let stored = group.stored.iter().map(|value| group_record(id, Some(value.clone())));
        let offsets = group.offsets.iter();
        stored.chain(offsets.map(|(t, p, value)| offset_record(id, t, p, Some(value)))).collect()
    }

    /// When `on_time` has something to do, if ever (monotonic milliseconds).
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn on_time(&mut self, now: Now) {
        while let Some((at, id)) = self.deadlines.first().cloned() {
            if at > now.ms {
                break;
            }
            self.deadlines.remove(&(at, id.clone()));
            if let Some(group) = self.groups.get_mut(&id) {
                group.next_look = None;
                self.look_at(now, &id);
                if self.groups.get(&id).is_some_and(|group| group.stored.is_none()) {
                    // Someone asked for a place and never took it: nothing is left to be known.
                    self.drop_if_nothing_is_left(&id);
                }
                self.look_later(&id);
            }
        }
    }

    /// Puts the group's next deadline into the list if it is earlier than what is there.
    fn look_later(&mut self, id: &str) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let Some(at) = group.next_deadline() else { return };
        match group.next_look {
            Some(before) if before <= at => return,
            Some(before) => drop(self.deadlines.remove(&(before, GroupId::new(id)))),
            None => {}
        }
        group.next_look = Some(at);
        self.deadlines.insert((at, GroupId::new(id)));
    }

    pub(crate) fn forget(&mut self, id: &str) {
        if let Some(group) = self.groups.remove(id)
            && let Some(at) = group.next_look
        {
            self.deadlines.remove(&(at, GroupId::new(id)));
        }
    }

    fn look_at(&mut self, now: Now, id: &str) {
        let group = self.groups.get_mut(id).expect("asked for by who has it");
        let pending_before = group.pending.len();
        group.pending.retain(|_, until| *until > now.ms);
        let pending_gone = group.pending.len() < pending_before;
        let expired = |(id, member): (&String, &Member)| {
            (member.can_expire() && member.expires_at <= now.ms).then(|| id.clone())
        };
        let gone: Vec<String> = group.members.iter().filter_map(expired).collect();
        for member in gone {
            self.remove_member(now, id, &member);
        }
        let group = self.groups.get_mut(id).expect("members go, the group stays");
        if group.sync_by.is_some_and(|by| by <= now.ms) {
            group.sync_by = None;
            if group.is(GroupState::CompletingRebalance) {
                let late =
                    |(id, m): (&String, &Member)| m.awaiting_sync.is_none().then(|| id.clone());
                let late: Vec<String> = group.members.iter().filter_map(late).collect();
                for member in late {
                    self.remove_member(now, id, &member);
                }
            }
        }
        if pending_gone {
            self.complete_if_all_joined(now, id);
        }
        let group = self.groups.get_mut(id).expect("as above");
        if let Some(rebalance) = group.rebalance
            && rebalance.ends_at <= now.ms
        {
            match rebalance.initial {
                Some(delay) if delay.someone_came && delay.remaining_ms > 0 => {
                    let wait = self.config.initial_rebalance_delay_ms.min(delay.remaining_ms);
                    let remaining_ms = delay.remaining_ms - wait;
                    let initial = Some(InitialDelay { remaining_ms, someone_came: false });
                    let ends_at = now.ms + wait;
                    group.rebalance = Some(Rebalance { ends_at, initial });
                }
                _ => self.complete_join(now, id),
            }
        }
    }

    fn new_member_id(&mut self, prefix: &str) -> String {
        let mut next = || {
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.random;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        };
        let (high, low) = (next(), next());
        format!(
            "{prefix}-{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            0x8000 | low >> 48 & 0x3fff,
            low & 0xffff_ffff_ffff
        )
    }

    /// A member joins. The answer comes to `ticket`, at once or when the rebalance is complete.
    pub fn join(
        &mut self,
        now: Now,
        version: i16,
        request: &JoinGroupRequest,
        client: &Client,
        ticket: Ticket,
    ) {
        if let Err(error) = self.try_join(now, version, request, client, ticket) {
            let member_id = &request.member_id;
            self.answer_join(ticket, join_refused(member_id, error));
        }
        self.look_later(&request.group_id);
    }

    /// Whether this group is there or may be made. Names cost a client nothing.
    pub(crate) fn has_place_for(&self, id: &str) -> bool {
        self.groups.len() < self.config.groups_max || self.groups.contains_key(id)
    }

    fn answer_join(&mut self, ticket: Ticket, response: JoinGroupResponse) {
        self.effects.answers.push((ticket, Answer::Join(response)));
    }

    fn answer_sync(&mut self, ticket: Ticket, response: SyncGroupResponse) {
        self.effects.answers.push((ticket, Answer::Sync(response)));
    }

    /// Whether a member may join, whoever it is.
    fn check_join(&self, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
        let id = &request.group_id;
        if id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let allowed = self.config.session_timeout_ms_min..=self.config.session_timeout_ms_max;
        if !allowed.contains(&request.session_timeout_ms) {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        let protocols = protocols_of(request);
        let known = self.groups.get(id.as_str());
        let fits = match known {
            Some(group) => group.accepts(&request.protocol_type, &protocols),
            None => !request.protocol_type.is_empty() && !protocols.is_empty(),
        };
        let is_known_member = known.is_some_and(|group| {
            group.members.contains_key(&request.member_id)
                || group.pending.contains_key(&request.member_id)
        });
        if request.member_id.is_empty() {
            if !fits {
                return Err(ErrorCode::InconsistentGroupProtocol);
            }
        } else if known.is_none() {
            return Err(ErrorCode::UnknownMemberId);
        } else if !fits {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if !is_known_member && known.is_some_and(|g| self.is_full(g, request)) {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if !self.has_place_for(id) {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if protocols.len() > PROTOCOLS_MAX {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let own: usize = protocols.iter().map(|(name, bytes)| name.len() + bytes.len()).sum();
        let others = known.map_or(0, |group| {
            // A static member that comes back takes its own place.
            let instance = request.group_instance_id.as_ref();
            let replaced = instance.and_then(|instance| group.static_members.get(instance));
            group.bytes_without(replaced.unwrap_or(&request.member_id))
        });
        if others + own > GROUP_BYTES_MAX {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        Ok(())
    }

    fn try_join(
        &mut self,
        now: Now,
        version: i16,
        request: &JoinGroupRequest,
        client: &Client,
        ticket: Ticket,
    ) -> Result<(), ErrorCode> {
        self.check_join(request)?;
        let id = &request.group_id;
        let session_timeout_ms = request.session_timeout_ms as u64;
        let new_member = Member {
            instance_id: request.group_instance_id.clone(),
            client_id: client.id.clone(),
            client_host: client.host.clone(),
            rebalance_timeout_ms: u64::try_from(request.rebalance_timeout_ms)
                .unwrap_or(session_timeout_ms),
            session_timeout_ms,
            protocols: protocols_of(request),
            is_new: true,
            awaiting_join: Some(ticket),
            expires_at: now.ms + NEW_MEMBER_JOIN_TIMEOUT_MS,
            ..Member::default()
        };
        if request.member_id.is_empty() {
            self.join_first(now, version, request, (client, new_member), ticket);
            return Ok(());
        }
        let member_id = &request.member_id;
        let group = self.groups.get_mut(id.as_str()).expect("checked above");
        if group.pending.contains_key(member_id) {
            group.pending.remove(member_id);
            self.add_and_rebalance(now, id, member_id, &request.protocol_type, new_member);
            return Ok(());
        }
        group.check_member(member_id, request.group_instance_id.as_deref())?;
        let same = group.members[member_id].protocols == new_member.protocols;
        let is_leader = group.is_leader(member_id);
        let is_settled = match group.state {
            GroupState::CompletingRebalance => same,
            GroupState::Stable => same && !is_leader,
            GroupState::PreparingRebalance | GroupState::Empty => false,
        };
        if is_settled {
            // It missed the answer: here it is again.
            group.heard_of(member_id, now);
            let response = self.joined(id, member_id);
            self.answer_join(ticket, response);
            return Ok(());
        }
        self.rejoin(now, id, member_id, new_member, ticket);
        Ok(())
    }

    /// A member joins that has no id yet.
    fn join_first(
        &mut self,
        now: Now,
        version: i16,
        request: &JoinGroupRequest,
        (client, new_member): (&Client, Member),
        ticket: Ticket,
    ) {
        let (id, session_timeout_ms) = (&request.group_id, new_member.session_timeout_ms);
        let prefix = request.group_instance_id.as_ref().unwrap_or(&client.id);
        let member_id = self.new_member_id(prefix);
        let group = self.groups.entry(GroupId::new(id)).or_insert_with(|| Group::new(now.unix_ms));
        if let Some(instance) = &request.group_instance_id {
            if let Some(old_id) = group.static_members.get(instance).cloned() {
                self.replace_static(now, version, id, &old_id, &member_id, new_member, ticket);
                return;
            }
        } else if version >= MEMBER_ID_REQUIRED_SINCE {
            group.pending.insert(member_id.clone(), now.ms + session_timeout_ms);
            let response = join_refused(&member_id, ErrorCode::MemberIdRequired);
            self.answer_join(ticket, response);
            return;
        }
        self.add_and_rebalance(now, id, &member_id, &request.protocol_type, new_member);
    }

    fn is_full(&self, group: &Group, request: &JoinGroupRequest) -> bool {
        let replaces = request
            .group_instance_id
            .as_ref()
            .is_some_and(|instance| group.static_members.contains_key(instance));
        !replaces
            && (group.members.len() + group.pending.len() >= self.config.group_size_max
                || group.pending.len() >= PENDING_MAX)
    }

    fn add_and_rebalance(
        &mut self,
        now: Now,
        id: &str,
        member_id: &str,
        protocol_type: &str,
        member: Member,
    ) {
        let group = self.groups.get_mut(id).expect("made by the caller");
        group.add(member_id, protocol_type, member);
        if let Some(Rebalance { initial: Some(delay), .. }) = &mut group.rebalance {
            delay.someone_came = true;
        }
        self.prepare_rebalance(now, id);
    }

    /// A member joins again, perhaps with other protocols.
    fn rejoin(&mut self, now: Now, id: &str, member_id: &str, new: Member, ticket: Ticket) {
        let group = self.groups.get_mut(id).expect("checked by the caller");
        let member = group.members.get_mut(member_id).expect("checked by the caller");
        member.protocols = new.protocols;
        member.rebalance_timeout_ms = new.rebalance_timeout_ms;
        member.session_timeout_ms = new.session_timeout_ms;
        member.client_id = new.client_id;
        member.client_host = new.client_host;
        let before = member.awaiting_join.replace(ticket);
        group.heard_of(member_id, now);
        if let Some(before) = before {
            // The member gave that request up, or it would not ask again.
            let response = join_refused(member_id, ErrorCode::RebalanceInProgress);
            self.answer_join(before, response);
        }
        self.prepare_rebalance(now, id);
    }

    /// A static member comes back under a new member id: the old one is fenced. If nothing else
    /// changed the group goes on as it is.
    fn replace_static(
        &mut self,
        now: Now,
        version: i16,
        id: &str,
        old_id: &str,
        new_id: &str,
        new: Member,
        ticket: Ticket,
    ) {
        let group = self.groups.get_mut(id).expect("checked by the caller");
        let was_leader = group.is_leader(old_id);
        let mut member = group.members.remove(old_id).expect("a static member is a member");
        let (joining, syncing) = (member.awaiting_join.take(), member.awaiting_sync.take());
        let is_stable = group.is(GroupState::Stable);
        member.protocols = new.protocols;
        member.rebalance_timeout_ms = new.rebalance_timeout_ms;
        member.session_timeout_ms = new.session_timeout_ms;
        (member.client_id, member.client_host) = (new.client_id, new.client_host);
        group.members.insert(new_id.to_owned(), member);
        let instance = new.instance_id.expect("only static members are replaced");
        group.static_members.insert(instance, new_id.to_owned());
        if was_leader {
            group.leader = Some(new_id.to_owned());
        }
        group.heard_of(new_id, now);
        let goes_on = is_stable && group.elect_protocol() == group.protocol;
        if let Some(joining) = joining {
            self.answer_join(joining, join_refused(old_id, ErrorCode::FencedInstanceId));
        }
        if let Some(syncing) = syncing {
            self.answer_sync(syncing, sync_refused(ErrorCode::FencedInstanceId));
        }
        let group = self.groups.get_mut(id).expect("as above");
        if !goes_on {
            let member = group.members.get_mut(new_id).expect("inserted above");
            member.awaiting_join = Some(ticket);
            self.prepare_rebalance(now, id);
            return;
        }
        self.store(id);
        let mut response = self.joined(id, new_id);
        if was_leader {
            if version >= SKIP_ASSIGNMENT_SINCE {
                response.skip_assignment = true;
            } else {
                // It must not assign anew: it is told of a leader that it is not.
                response.leader = old_id.to_owned();
                response.members = Vec::new();
            }
        }
        self.answer_join(ticket, response);
    }

    /// The answer to a join, as the group is now.
    fn joined(&self, id: &str, member_id: &str) -> JoinGroupResponse {
        let group = &self.groups[id];
        let leads = group.is_leader(member_id);
        JoinGroupResponse {
            generation_id: group.generation,
            protocol_type: group.protocol_type.clone(),
            protocol_name: group.protocol.clone(),
            leader: group.leader.clone().unwrap_or_default(),
            member_id: member_id.to_owned(),
            members: if leads { group.metadata_of_all() } else { Vec::new() },
            ..Default::default()
        }
    }

    /// Writes down the group as it is.
    fn store(&mut self, id: &str) {
        let group = self.groups.get_mut(id).expect("asked for by who has it");
        let value = group.value();
        group.stored = Some(value.clone());
        self.effects.records.push(group_record(id, Some(value)));
    }

    /// Asks everyone to join again, or goes on with the rebalance that is under way.
    fn prepare_rebalance(&mut self, now: Now, id: &str) {
        let group = self.groups.get_mut(id).expect("asked for by who has it");
        let mut interrupted = Vec::new();
        if group.is(GroupState::CompletingRebalance) {
            for member in group.members.values_mut() {
                member.assignment.clear();
                if let Some(ticket) = member.awaiting_sync.take() {
                    // It was silent because it waited for us: its session begins anew.
                    member.expires_at = now.ms + member.session_timeout_ms;
                    interrupted.push(ticket);
                }
            }
        }
        group.sync_by = None;
        if !group.is(GroupState::PreparingRebalance) {
            let timeout = group.max_rebalance_timeout_ms();
            let delay = self.config.initial_rebalance_delay_ms;
            group.rebalance = Some(if group.is(GroupState::Empty) {
                let remaining_ms = timeout.saturating_sub(delay);
                let initial = Some(InitialDelay { remaining_ms, someone_came: false });
                Rebalance { ends_at: now.ms + delay, initial }
            } else {
                Rebalance { ends_at: now.ms + timeout, initial: None }
            });
            group.set_state(GroupState::PreparingRebalance, now.unix_ms);
        }
        for ticket in interrupted {
            self.answer_sync(ticket, sync_refused(ErrorCode::RebalanceInProgress));
        }
        self.complete_if_all_joined(now, id);
    }

    fn complete_if_all_joined(&mut self, now: Now, id: &str) {
        let group = &self.groups[id];
        let delays = self.config.initial_rebalance_delay_ms > 0
            && group.rebalance.is_some_and(|rebalance| rebalance.initial.is_some());
        if group.is(GroupState::PreparingRebalance) && group.all_joined() && !delays {
            self.complete_join(now, id);
        }
    }

    /// Ends the joining: who has not come is out, the others get the next generation.
    fn complete_join(&mut self, now: Now, id: &str) {
        let group = self.groups.get_mut(id).expect("asked for by who has it");
        assert!(group.is(GroupState::PreparingRebalance), "only a rebalance is completed");
        let absent = |(id, m): (&String, &Member)| {
            (m.awaiting_join.is_none() && m.instance_id.is_none()).then(|| id.clone())
        };
        let absent: Vec<String> = group.members.iter().filter_map(absent).collect();
        for member in absent {
            group.remove(&member);
        }
        if !group.members.is_empty() && !group.elect_leader() {
            // Only static members, and none came: they have until their sessions end.
            let ends_at = now.ms + group.max_rebalance_timeout_ms().max(1);
            group.rebalance = Some(Rebalance { ends_at, initial: None });
            return;
        }
        group.rebalance = None;
        group.generation = group.generation.checked_add(1).unwrap_or(1);
        if group.members.is_empty() {
            group.protocol = None;
            group.leader = None;
            group.set_state(GroupState::Empty, now.unix_ms);
            self.store(id);
            return;
        }
        group.protocol = group.elect_protocol();
        assert!(group.protocol.is_some(), "members are let in only if they have one in common");
        group.set_state(GroupState::CompletingRebalance, now.unix_ms);
        group.sync_by = Some(now.ms + group.max_rebalance_timeout_ms());
        let mut joined = Vec::new();
        for (member_id, member) in &mut group.members {
            member.is_new = false;
            member.expires_at = now.ms + member.session_timeout_ms;
            if let Some(ticket) = member.awaiting_join.take() {
                joined.push((ticket, member_id.clone()));
            }
        }
        for (ticket, member_id) in joined {
            let response = self.joined(id, &member_id);
            self.answer_join(ticket, response);
        }
    }

    /// A member is gone.
    fn remove_member(&mut self, now: Now, id: &str, member_id: &str) {
        let group = self.groups.get_mut(id).expect("asked for by who has it");
        let Some(member) = group.remove(member_id) else { return };
        let state = group.state;
        if let Some(ticket) = member.awaiting_join {
            self.answer_join(ticket, join_refused(member_id, ErrorCode::UnknownMemberId));
        }
        if let Some(ticket) = member.awaiting_sync {
            self.answer_sync(ticket, sync_refused(ErrorCode::UnknownMemberId));
        }
        match state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(now, id),
            GroupState::PreparingRebalance => self.complete_if_all_joined(now, id),
            GroupState::Empty => {}
        }
    }

    /// A member asks for its assignment; the leader brings everyone's. The answer comes to
    /// `ticket`.
    pub fn sync(&mut self, now: Now, request: &SyncGroupRequest, ticket: Ticket) {
        if let Err(error) = self.try_sync(now, request, ticket) {
            self.answer_sync(ticket, sync_refused(error));
        }
        self.look_later(&request.group_id);
    }

    fn try_sync(
        &mut self,
        now: Now,
        request: &SyncGroupRequest,
        ticket: Ticket,
    ) -> Result<(), ErrorCode> {
        let (id, member_id) = (&request.group_id, &request.member_id);
        if id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let group = self.groups.get_mut(id.as_str()).ok_or(ErrorCode::UnknownMemberId)?;
        group.check_member(member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |asked: &Option<String>, ours: &Option<String>| {
            asked.is_some() && ours.is_some() && asked != ours
        };
        if differs(&request.protocol_type, &group.protocol_type)
            || differs(&request.protocol_name, &group.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match group.state {
            GroupState::Empty => Err(ErrorCode::UnknownMemberId),
            GroupState::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            GroupState::CompletingRebalance => {
                let leads = group.is_leader(member_id);
                let member = group.members.get_mut(member_id).expect("checked above");
                if let Some(before) = member.awaiting_sync.replace(ticket) {
                    self.answer_sync(before, sync_refused(ErrorCode::RebalanceInProgress));
                }
                if leads {
                    self.assign(now, id, request);
                }
                Ok(())
            }
            GroupState::Stable => {
                group.heard_of(member_id, now);
                let response = self.synced(id, member_id);
                self.answer_sync(ticket, response);
                Ok(())
            }
        }
    }

    /// The leader's assignment is in: the group is stable.
    fn assign(&mut self, now: Now, id: &str, request: &SyncGroupRequest) {
        let group = self.groups.get_mut(id).expect("checked by the caller");
        let mut theirs = BTreeMap::new();
        for assigned in &request.assignments {
            theirs.entry(assigned.member_id.as_str()).or_insert(&assigned.assignment);
        }
        for (member_id, member) in &mut group.members {
            let assigned = theirs.get(member_id.as_str());
            member.assignment = assigned.map_or_else(Vec::new, |bytes| (*bytes).clone());
        }
        group.sync_by = None;
        group.set_state(GroupState::Stable, now.unix_ms);
        let mut waiting = Vec::new();
        for (member_id, member) in &mut group.members {
            member.expires_at = now.ms + member.session_timeout_ms;
            waiting.extend(member.awaiting_sync.take().map(|ticket| (ticket, member_id.clone())));
        }
        self.store(id);
        for (ticket, member_id) in waiting {
            let response = self.synced(id, &member_id);
            self.answer_sync(ticket, response);
        }
    }

    fn synced(&self, id: &str, member_id: &str) -> SyncGroupResponse {
        let group = &self.groups[id];
        SyncGroupResponse {
            protocol_type: group.protocol_type.clone(),
            protocol_name: group.protocol.clone(),
            assignment: group.members[member_id].assignment.clone(),
            ..Default::default()
        }
    }

    /// A sign of life; the answer says whether to join again.
    pub fn heartbeat(&mut self, now: Now, request: &HeartbeatRequest) -> ErrorCode {
        let (id, member_id) = (&request.group_id, &request.member_id);
        if id.is_empty() {
            return ErrorCode::InvalidGroupId;
        }
        let Some(group) = self.groups.get_mut(id.as_str()) else {
            return ErrorCode::UnknownMemberId;
        };
        let instance = request.group_instance_id.as_deref();
        if let Err(error) = group.check_member(member_id, instance) {
            return error;
        }
        if request.generation_id != group.generation {
            return ErrorCode::IllegalGeneration;
        }
        group.heard_of(member_id, now);
        match group.state {
            GroupState::Empty => ErrorCode::UnknownMemberId,
            GroupState::PreparingRebalance => ErrorCode::RebalanceInProgress,
            GroupState::CompletingRebalance | GroupState::Stable => ErrorCode::None,
        }
    }

    /// Members leave, or are removed by their instance ids.
    pub fn leave(
        &mut self,
        now: Now,
        version: i16,
        request: &LeaveGroupRequest,
    ) -> LeaveGroupResponse {
        let id = &request.group_id;
        if id.is_empty() {
            let error_code = ErrorCode::InvalidGroupId.code();
            return LeaveGroupResponse { error_code, ..Default::default() };
        }
        if version < 3 {
            let error = self.leave_one(now, id, &request.member_id, None);
            return LeaveGroupResponse { error_code: error.code(), ..Default::default() };
        }
        let leave = |member: &LeavingMember| {
            let instance = member.group_instance_id.as_deref();
            LeftMember {
                member_id: member.member_id.clone(),
                group_instance_id: member.group_instance_id.clone(),
                error_code: self.leave_one(now, id, &member.member_id, instance).code(),
            }
        };
        let members = request.members.iter().map(leave).collect();
        LeaveGroupResponse { members, ..Default::default() }
    }

    fn leave_one(
        &mut self,
        now: Now,
        id: &str,
        member_id: &str,
        instance: Option<&str>,
    ) -> ErrorCode {
        let Some(group) = self.groups.get_mut(id) else { return ErrorCode::UnknownMemberId };
        // Who was given an id and has not joined with it is nobody's instance.
        let is_pending = group.pending.contains_key(member_id);
        let member_id = match instance
            .filter(|_| !is_pending)
            .map(|instance| group.static_members.get(instance))
        {
            // An administrator names only the instance.
            Some(Some(known)) if member_id.is_empty() => known.clone(),
            Some(None) => return ErrorCode::UnknownMemberId,
            Some(Some(known)) if known != member_id => return ErrorCode::FencedInstanceId,
            _ => member_id.to_owned(),
        };
        if group.pending.remove(&member_id).is_some() {
            self.complete_if_all_joined(now, id);
        } else if group.members.contains_key(&member_id) {
            self.remove_member(now, id, &member_id);
        } else {
            return ErrorCode::UnknownMemberId;
        }
        self.look_later(id);
        ErrorCode::None
    }

    /// Deletes a group without members, with its offsets.
    pub fn delete_group(&mut self, id: &str) -> ErrorCode {
        let Some(group) = self.groups.get(id) else { return ErrorCode::GroupIdNotFound };
        // Who was given an id and has not joined is no member.
        if !group.is(GroupState::Empty) {
            return ErrorCode::NonEmptyGroup;
        }
        let pending = group.pending_offsets.partitions();
        let committed = group.offsets.iter().map(|(topic, index, _)| (topic.to_owned(), index));
        for (topic, partition) in committed.chain(pending).collect::<BTreeSet<_>>() {
            self.effects.records.push(offset_record(id, &topic, partition, None));
        }
        if group.stored.is_some() {
            self.effects.records.push(group_record(id, None));
        }
        self.forget(id);
        ErrorCode::None
    }
}
