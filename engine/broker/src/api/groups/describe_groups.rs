//! DescribeGroups 0-6: v3 authorized operations, v4 static members, v5 flexible, v6 an error for groups
//! that are not there (KIP-1043).

use crate::api::authorized::{self, if_asked};
use crate::api::rooms::Groups;
use crate::metadata::named::each_once;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use wire::WireError;
use wire::messages::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};

pub(crate) async fn handle(
    groups: Groups<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DescribeGroupsResponse, WireError> {
    let asked = read::<DescribeGroupsRequest>(request)?;
    let version = request.version;
    let mut described_groups = Vec::new();
    for id in each_once(asked.groups) {
        let group = id.clone();
        let step = groups.step(&id, move |_, c, _| c.describe(version, &group));
        let described = match step.await {
            Ok(shown) => DescribedGroup {
                authorized_operations: if_asked(
                    asked.include_authorized_operations && shown.error_code == 0,
                    authorized::GROUP,
                ),
                ..shown
            },
            Err(error) => {
                DescribedGroup { error_code: error.code(), group_id: id, ..Default::default() }
            }
        };
        size.add(bytes_of(&described)).await?;
        described_groups.push(described);
    }
    Ok(DescribeGroupsResponse { groups: described_groups, ..Default::default() })
}

/// What a group takes in the answer, about.
fn bytes_of(group: &DescribedGroup) -> usize {
    let member = |member: &DescribedGroupMember| {
        let texts = member.member_id.len() + member.client_id.len() + member.client_host.len();
        40 + texts + member.member_metadata.len() + member.member_assignment.len()
    };
    100 + group.group_id.len() + group.members.iter().map(member).sum::<usize>()
}
