//! What tools are shown of the groups: lists and descriptions.

use crate::group::GroupState;
use crate::group_coordinator::GroupCoordinator;
use model::ErrorCode;
use std::collections::BTreeSet;
use wire::messages::{DescribedGroup, DescribedGroupMember, ListGroupsRequest, ListedGroup};

/// The only type of group so far, as KIP-848 names it.
const TYPE: &str = "classic";
/// The state of a group that is not there.
const DEAD: &str = "Dead";
/// From this version on a group that is not there is an error (KIP-1043).
const NOT_FOUND_SINCE: i16 = 6;

impl GroupCoordinator {
    /// Groups in the states and of the types asked for.
    #[must_use]
    pub fn list(&self, request: &ListGroupsRequest) -> Vec<ListedGroup> {
        let words = |filter: &[String]| -> BTreeSet<String> {
            filter.iter().map(|word| word.to_ascii_lowercase()).collect()
        };
        let (states, types) = (words(&request.states_filter), words(&request.types_filter));
        let any = |filter: &BTreeSet<String>, word: &str| {
            filter.is_empty() || filter.contains(&word.to_ascii_lowercase())
        };
        self.groups
            .iter()
            .filter(|(_, group)| any(&states, group.state.name()) && any(&types, TYPE))
            .map(|(id, group)| ListedGroup {
                group_id: id.to_string(),
                protocol_type: group.protocol_type.clone().unwrap_or_default(),
                group_state: group.state.name().to_owned(),
                group_type: TYPE.to_owned(),
            })
            .collect()
    }

    /// A group and its members. Metadata and assignments are shown once they are settled.
    #[must_use]
    pub fn describe(&self, version: i16, id: &str) -> DescribedGroup {
        let mut shown = DescribedGroup { group_id: id.to_owned(), ..Default::default() };
        let Some(group) = self.groups.get(id) else {
            shown.group_state = DEAD.to_owned();
            if version >= NOT_FOUND_SINCE {
                shown.error_code = ErrorCode::GroupIdNotFound.code();
                shown.error_message = Some(format!("group {id} not found"));
            }
            return shown;
        };
        let is_stable = group.is(GroupState::Stable);
        let protocol = group.protocol.as_deref().filter(|_| is_stable).unwrap_or_default();
        let mut members: Vec<_> = group.members.iter().collect();
        members.sort_by_key(|(_, member)| member.seat);
        shown.group_state = group.state.name().to_owned();
        shown.protocol_type = group.protocol_type.clone().unwrap_or_default();
        shown.protocol_data = protocol.to_owned();
        shown.members = members
            .into_iter()
            .map(|(id, member)| DescribedGroupMember {
                member_id: id.clone(),
                group_instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                member_metadata: match is_stable {
                    true => member.metadata_of(protocol).to_vec(),
                    false => Vec::new(),
                },
                member_assignment: if is_stable { member.assignment.clone() } else { Vec::new() },
            })
            .collect();
        shown
    }
}
