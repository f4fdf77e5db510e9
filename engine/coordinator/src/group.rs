//! One group: its members, its generation, its state; rules that need nothing else.

use crate::offsets::Offsets;
use crate::pending_offsets::PendingOffsets;
use crate::records::{StoredGroup, StoredMember, group_value};
use crate::step::Ticket;
use std::collections::{BTreeMap, BTreeSet};
use wire::consumer_protocol::topics_of;
use wire::messages::JoinGroupMember;

/// Where a group is in its life, in Kafka's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupState {
    /// No members; perhaps offsets.
    Empty,
    /// Members are asked to join again.
    PreparingRebalance,
    /// All have joined; the leader's assignment is awaited.
    CompletingRebalance,
    /// Everyone has an assignment.
    Stable,
}

impl GroupState {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Empty, Self::PreparingRebalance, Self::CompletingRebalance, Self::Stable];

    /// The word that tools show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// The protocol type of ordinary consumers; only theirs is looked into.
pub(crate) const CONSUMER: &str = "consumer";

/// A member.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    /// The order of joining.
    pub(crate) seat: u64,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout_ms: u64,
    pub(crate) session_timeout_ms: u64,
    /// What it can speak, the most wanted first.
    pub(crate) protocols: Vec<(String, Vec<u8>)>,
    pub(crate) assignment: Vec<u8>,
    pub(crate) awaiting_join: Option<Ticket>,
    pub(crate) awaiting_sync: Option<Ticket>,
    /// It has not yet come through a rebalance.
    pub(crate) is_new: bool,
    /// It is given up at this time (monotonic) unless heard of.
    pub(crate) expires_at: u64,
}

impl Member {
    /// Bytes that it says of itself and is told.
    pub(crate) fn bytes(&self) -> usize {
        let protocols = self.protocols.iter().map(|(name, metadata)| name.len() + metadata.len());
        100 + self.client_id.len() + self.assignment.len() + protocols.sum::<usize>()
    }

    /// Whether its deadline counts: who waits for the others is alive, but a new member whose
    /// client went away meanwhile must not be waited for for ever.
    pub(crate) fn can_expire(&self) -> bool {
        self.is_new || (self.awaiting_join.is_none() && self.awaiting_sync.is_none())
    }

    pub(crate) fn metadata_of(&self, protocol: &str) -> &[u8] {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map_or(&[], |(_, metadata)| metadata)
    }
}

/// A rebalance that waits for members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rebalance {
    pub(crate) ends_at: u64,
    /// The first one of a group that was empty waits a while for others, and again while some come.
    pub(crate) initial: Option<InitialDelay>,
}

/// How long the first rebalance may still be put off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InitialDelay {
    pub(crate) remaining_ms: u64,
    pub(crate) someone_came: bool,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) state: GroupState,
    /// Since when, in milliseconds since the Unix epoch.
    pub(crate) state_timestamp: i64,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: Option<String>,
    pub(crate) members: BTreeMap<String, Member>,
    pub(crate) next_seat: u64,
    /// Member ids by instance id.
    pub(crate) static_members: BTreeMap<String, String>,
    /// Ids given out that have not joined yet, and until when they may.
    pub(crate) pending: BTreeMap<String, u64>,
    pub(crate) rebalance: Option<Rebalance>,
    /// Until when every member must have asked for its assignment.
    pub(crate) sync_by: Option<u64>,
    pub(crate) offsets: Offsets,
    /// What open transactions may make of them.
    pub(crate) pending_offsets: PendingOffsets,
    /// The value of the group's last record, if it has one.
    pub(crate) stored: Option<Vec<u8>>,
    /// When it is looked at next, if it is in the list of deadlines.
    pub(crate) next_look: Option<u64>,
}

impl Group {
    pub(crate) fn new(unix_ms: i64) -> Self {
        Self {
            state: GroupState::Empty,
            state_timestamp: unix_ms,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            next_seat: 0,
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            rebalance: None,
            sync_by: None,
            offsets: Offsets::default(),
            pending_offsets: PendingOffsets::default(),
            stored: None,
            next_look: None,
        }
    }

    pub(crate) fn is(&self, state: GroupState) -> bool {
        self.state == state
    }

    pub(crate) fn set_state(&mut self, state: GroupState, unix_ms: i64) {
        self.state = state;
        self.state_timestamp = unix_ms;
    }

    pub(crate) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// Protocols that every member speaks.
    fn common_protocols(&self) -> Vec<&str> {
        let Some(first) = self.members.values().next() else { return Vec::new() };
        let mut speakers: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, member) in self.members.values().enumerate() {
            for (name, _) in &member.protocols {
                // Counted as far as everyone before speaks it, and once if a member names it twice.
                let count = speakers.entry(name).or_default();
                if *count == number {
                    *count += 1;
                }
            }
        }
        let names = first.protocols.iter().map(|(name, _)| name.as_str());
        names.filter(|name| speakers[name] == self.members.len()).collect()
    }

    /// Bytes that the members say of themselves and are told, but for one who comes anew.
    pub(crate) fn bytes_without(&self, member_id: &str) -> usize {
        let others = self.members.iter().filter(|(id, _)| *id != member_id);
        others.map(|(_, member)| member.bytes()).sum()
    }

    /// Whether a member with these protocols fits in.
    pub(crate) fn accepts(&self, protocol_type: &str, protocols: &[(String, Vec<u8>)]) -> bool {
        if protocol_type.is_empty() || protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        let common: BTreeSet<&str> = self.common_protocols().into_iter().collect();
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| common.contains(name.as_str()))
    }

    /// The protocol most members want most among those that all speak.
    pub(crate) fn elect_protocol(&self) -> Option<String> {
        let common = self.common_protocols();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        let spoken: BTreeSet<&str> = common.iter().copied().collect();
        for member in self.members.values() {
            let wanted = member.protocols.iter().map(|(name, _)| name.as_str());
            if let Some(vote) = wanted.into_iter().find(|name| spoken.contains(name)) {
                *votes.entry(vote).or_default() += 1;
            }
        }
        let most = votes.values().max()?;
        // Among equals, what comes first in the first member's list.
        common.iter().find(|name| votes.get(*name) == Some(most)).map(|name| (*name).to_owned())
    }

    /// Keeps the leader if it is still coming along, else takes who joined first. False if nobody
    /// is there.
    pub(crate) fn elect_leader(&mut self) -> bool {
        let joined = |member: &Member| member.awaiting_join.is_some();
        let kept = self.leader.as_ref().and_then(|id| self.members.get(id)).is_some_and(joined);
        if !kept {
            let first = self.members.iter().filter(|(_, m)| joined(m)).min_by_key(|(_, m)| m.seat);
            match first.map(|(id, _)| id.clone()) {
                Some(id) => self.leader = Some(id),
                None => return false,
            }
        }
        true
    }

    pub(crate) fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|m| m.awaiting_join.is_some())
    }

    pub(crate) fn max_rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
    }

    /// Adds a member; the first one decides the group's protocol type.
    pub(crate) fn add(&mut self, member_id: &str, protocol_type: &str, mut member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.to_owned());
        }
        member.seat = self.next_seat;
        self.next_seat += 1;
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), member_id.to_owned());
        }
        self.leader.get_or_insert_with(|| member_id.to_owned());
        let before = self.members.insert(member_id.to_owned(), member);
        assert!(before.is_none(), "a member is added once");
    }

    /// Removes a member and names another leader if it was that.
    pub(crate) fn remove(&mut self, member_id: &str) -> Option<Member> {
        let member = self.members.remove(member_id)?;
        if let Some(instance) = &member.instance_id
            && self.static_members.get(instance).is_some_and(|id| id == member_id)
        {
            self.static_members.remove(instance);
        }
        if self.is_leader(member_id) {
            let next = self.members.iter().min_by_key(|(_, member)| member.seat);
            self.leader = next.map(|(id, _)| id.clone());
        }
        Some(member)
    }

    /// Every member's metadata for the chosen protocol, in the order of joining: for the leader.
    pub(crate) fn metadata_of_all(&self) -> Vec<JoinGroupMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.seat);
        let shown = |(id, member): (&String, &Member)| JoinGroupMember {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            metadata: member.metadata_of(protocol).to_vec(),
        };
        members.into_iter().map(shown).collect()
    }

    /// The topics that members are subscribed to; `None` if that cannot be told.
    pub(crate) fn subscribed_topics(&self) -> Option<Vec<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER) {
            return None;
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = Vec::new();
        for member in self.members.values() {
            topics.extend(topics_of(member.metadata_of(protocol))?);
        }
        Some(topics)
    }

    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed_topics().is_none_or(|topics| topics.iter().any(|other| other == topic))
    }

    /// The group as its record says it.
    pub(crate) fn value(&self) -> Vec<u8> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.seat);
        let stored = |(id, member): (&String, &Member)| StoredMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms as i32,
            session_timeout_ms: member.session_timeout_ms as i32,
            subscription: member.metadata_of(protocol).to_vec(),
            assignment: member.assignment.clone(),
        };
        group_value(&StoredGroup {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp: self.state_timestamp,
            members: members.into_iter().map(stored).collect(),
        })
    }

    /// Takes over what a record says.
    pub(crate) fn restore(&mut self, stored: StoredGroup) {
        self.generation = stored.generation;
        self.protocol_type = Some(stored.protocol_type).filter(|name| !name.is_empty());
        self.protocol = stored.protocol;
        self.state_timestamp = stored.state_timestamp;
        self.state = if stored.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        self.members.clear();
        self.static_members.clear();
        let protocol = self.protocol.clone().unwrap_or_default();
        let protocol_type = self.protocol_type.clone().unwrap_or_default();
        for member in stored.members {
            if self.members.contains_key(&member.member_id) {
                continue;
            }
            let restored = Member {
                instance_id: member.instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: member.rebalance_timeout_ms.max(0) as u64,
                session_timeout_ms: member.session_timeout_ms.max(0) as u64,
                protocols: vec![(protocol.clone(), member.subscription)],
                assignment: member.assignment,
                ..Member::default()
            };
            self.add(&member.member_id, &protocol_type, restored);
        }
        self.leader = stored.leader.filter(|id| self.members.contains_key(id));
    }

    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let members = self.members.values().filter(|m| m.can_expire()).map(|m| m.expires_at);
        let pending = self.pending.values().copied();
        let rebalance = self.rebalance.map(|rebalance| rebalance.ends_at);
        members.chain(pending).chain(rebalance).chain(self.sync_by).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(protocols: &[&str]) -> Member {
        let protocols = protocols.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        Member { protocols, ..Member::default() }
    }

    #[test]
    fn the_protocol_is_voted_for_among_those_that_all_speak() {
        let mut group = Group::new(0);
        assert!(group.accepts("consumer", &member(&["x"]).protocols));
        assert!(!group.accepts("", &member(&["x"]).protocols));
        group.add("a", "consumer", member(&["sticky", "range", "roundrobin"]));
        group.add("b", "consumer", member(&["range", "roundrobin"]));
        group.add("c", "consumer", member(&["roundrobin", "range"]));
        assert_eq!(group.elect_protocol().as_deref(), Some("range"));
        assert!(!group.accepts("consumer", &member(&["sticky"]).protocols));
        assert!(!group.accepts("connect", &member(&["range"]).protocols));
        assert!(group.accepts("consumer", &member(&["new", "roundrobin"]).protocols));
    }

    #[test]
    fn a_stored_group_comes_back() {
        let mut group = Group::new(5);
        group.add("a", "consumer", Member { session_timeout_ms: 9, ..member(&["range"]) });
        let of_b = Member { instance_id: Some("i".to_owned()), ..member(&["range"]) };
        group.add("b", "consumer", of_b);
        group.protocol = Some("range".to_owned());
        (group.generation, group.state) = (4, GroupState::Stable);
        let value = group.value();
        let record = crate::records::group_record("g", Some(value.clone()));
        let read = crate::records::read_record(&record.key, record.value.as_deref()).unwrap();
        let crate::StoredRecord::Group { value: Some(stored), .. } = read else { panic!() };
        let mut back = Group::new(0);
        back.restore(stored);
        assert_eq!(back.value(), value);
        assert_eq!((back.state, back.generation), (GroupState::Stable, 4));
        assert_eq!(back.leader.as_deref(), Some("a"));
        assert_eq!(back.static_members["i"], "b");
    }
}
