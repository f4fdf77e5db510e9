//! `weir group`.

use super::failures::{all_fine, refused};
use super::offsets::{EARLIEST, LATEST, Partition, list};
use super::view::{Format, View, print};
use clap::{ArgGroup, Subcommand};
use client::Cluster;
use model::ErrorCode;
use serde_json::json;
use std::collections::BTreeMap;
use wire::consumer_protocol::partitions_of;
use wire::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    DescribedGroup, ListGroupsRequest, ListGroupsResponse, OffsetCommitPartition,
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitTopic, OffsetDeletePartition,
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteTopic,
};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// The groups, their protocol type and state
    List {
        /// Only in this state, as Stable or Empty; may be repeated
        #[arg(long)]
        state: Vec<String>,
    },
    /// Committed offsets, ends of the logs, lag, and who reads what
    Describe {
        #[arg(required = true)]
        groups: Vec<String>,
        /// The members instead of the offsets
        #[arg(long)]
        members: bool,
    },
    /// Delete groups without members, with their offsets
    Delete {
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// Forget a group's offsets of topics it is not subscribed to
    DeleteOffsets {
        group: String,
        /// TOPIC or TOPIC:0,1
        #[arg(long, short, required = true)]
        topic: Vec<String>,
    },
    /// Move a group without members to other offsets: shows what would be done, and does it with --execute
    #[command(group(ArgGroup::new("to").required(true)))]
    ResetOffsets {
        group: String,
        /// TOPIC or TOPIC:0,1; all topics that the group has offsets of unless given
        #[arg(long, short)]
        topic: Vec<String>,
        /// To the first offset there is
        #[arg(long, group = "to")]
        to_earliest: bool,
        /// To the end
        #[arg(long, group = "to")]
        to_latest: bool,
        /// To this offset
        #[arg(long, group = "to", value_name = "OFFSET")]
        to_offset: Option<i64>,
        /// To the first record at or after this time: 2026-01-31T12:00:00Z, or milliseconds since 1970
        #[arg(long, group = "to", value_name = "TIME", value_parser = time)]
        to_datetime: Option<i64>,
        /// Forward by so many, or back by a negative number
        #[arg(long, group = "to", value_name = "N", allow_negative_numbers = true)]
        shift_by: Option<i64>,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
}

/// Milliseconds since 1970 of a time in UTC, as 2026-01-31T12:00:00Z or 2026-01-31, or as a number.
fn time(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let wrong =
        || "2026-01-31T12:00:00Z, 2026-01-31 or milliseconds since 1970 is expected".to_owned();
    let (date, clock) = text.trim_end_matches('Z').split_once('T').unwrap_or((text, "00:00:00"));
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> {
        text.split(by).map(|part| part.parse().ok()).collect()
    };
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let date = numbers(date, '-').filter(|d| d.len() == 3).ok_or_else(wrong)?;
    let clock = numbers(seconds, ':').filter(|c| (2..=3).contains(&c.len())).ok_or_else(wrong)?;
    let ms = format!("{fraction:0<3}")[..3].parse::<i64>().map_err(|_| wrong())?;
    let days = model::calendar::days_of(date[0], date[1], date[2]).ok_or_else(wrong)?;
    let second = clock.get(2).copied().unwrap_or(0);
    if !(0..24).contains(&clock[0]) || !(0..60).contains(&clock[1]) || !(0..61).contains(&second) {
        return Err(wrong());
    }
    Ok(((days * 24 + clock[0]) * 60 + clock[1]) * 60_000 + second * 1000 + ms)
}

pub(crate) async fn run(cluster: &mut Cluster, verb: Verb, format: Format) -> Result<(), String> {
    match verb {
        Verb::List { state } => list_groups(cluster, state, format).await,
        Verb::Describe { groups, members: true } => members(cluster, groups, format).await,
        Verb::Describe { groups, members: false } => describe(cluster, groups, format).await,
        Verb::Delete { groups } => delete(cluster, groups).await,
        Verb::DeleteOffsets { group, topic } => delete_offsets(cluster, group, topic).await,
        Verb::ResetOffsets {
            group,
            topic,
            to_earliest,
            to_latest: _,
            to_offset,
            to_datetime,
            shift_by,
            execute,
        } => {
            let to = match (to_earliest, to_offset, to_datetime, shift_by) {
                (true, ..) => To::Time(EARLIEST),
                (_, Some(offset), ..) => To::Offset(offset),
                (_, _, Some(ms), _) => To::Time(ms),
                (_, _, _, Some(by)) => To::Shifted(by),
                _ => To::Time(LATEST),
            };
            reset(cluster, group, topic, to, execute, format).await
        }
    }
}

async fn list_groups(
    cluster: &mut Cluster,
    states: Vec<String>,
    format: Format,
) -> Result<(), String> {
    let mut view = View::new(&["GROUP", "TYPE", "STATE", "COORDINATOR"]);
    let mut found = Vec::new();
    for node in cluster.nodes().to_vec() {
        let request = ListGroupsRequest { states_filter: states.clone(), types_filter: Vec::new() };
        let response: ListGroupsResponse = cluster.ask_at(&node.address, &request).await?;
        if response.error_code != 0 {
            return Err(refused(&node.address, response.error_code, None));
        }
        found.extend(response.groups.into_iter().map(|group| (group, node.id)));
    }
    found.sort_by(|(a, _), (b, _)| a.group_id.cmp(&b.group_id));
    for (group, node) in found {
        view.row(vec![
            json!(group.group_id),
            json!(group.protocol_type),
            json!(group.group_state),
            json!(node),
        ]);
    }
    view.show(format);
    Ok(())
}

async fn described(cluster: &mut Cluster, group: &str) -> Result<DescribedGroup, String> {
    let address = cluster.coordinator_of(group).await?;
    let request = DescribeGroupsRequest { groups: vec![group.to_owned()], ..Default::default() };
    let response: DescribeGroupsResponse = cluster.ask_at(&address, &request).await?;
    let found = response.groups.into_iter().next();
    let found = found.ok_or("the broker said nothing of the group")?;
    if found.error_code != 0 {
        return Err(refused(group, found.error_code, found.error_message.as_deref()));
    }
    if found.group_state == "Dead" {
        return Err(refused(group, ErrorCode::GroupIdNotFound.code(), None));
    }
    Ok(found)
}

async fn committed(cluster: &mut Cluster, group: &str) -> Result<BTreeMap<Partition, i64>, String> {
    let found = cluster.committed_offsets(group).await?;
    let topics = found.map_err(|error| refused(group, error.code(), None))?;
    let mut offsets = BTreeMap::new();
    for topic in topics {
        for partition in topic.partitions.iter().filter(|p| p.committed_offset >= 0) {
            let key = (topic.name.clone(), partition.partition_index);
            offsets.insert(key, partition.committed_offset);
        }
    }
    Ok(offsets)
}

async fn describe(
    cluster: &mut Cluster,
    groups: Vec<String>,
    format: Format,
) -> Result<(), String> {
    let mut view = View::new(&[
        "GROUP",
        "TOPIC",
        "PARTITION",
        "CURRENT-OFFSET",
        "LOG-END-OFFSET",
        "LAG",
        "CONSUMER-ID",
        "HOST",
        "CLIENT-ID",
    ]);
    let mut failures = Vec::new();
    for group in groups {
        let (shown, committed) =
            match (described(cluster, &group).await, committed(cluster, &group).await) {
                (Ok(shown), Ok(committed)) => (shown, committed),
                (Err(why), _) | (_, Err(why)) => {
                    failures.push(why);
                    continue;
                }
            };
        let mut owners = BTreeMap::new();
        for member in shown.members.iter().filter(|_| shown.protocol_type == "consumer") {
            for (topic, indexes) in partitions_of(&member.member_assignment).unwrap_or_default() {
                for index in indexes {
                    owners.insert((topic.clone(), index), member);
                }
            }
        }
        let mut partitions: Vec<Partition> =
            committed.keys().chain(owners.keys()).cloned().collect();
        partitions.sort();
        partitions.dedup();
        let ends = list(cluster, &partitions, LATEST, false).await?;
        for partition in partitions {
            let (current, end) = (committed.get(&partition), ends.get(&partition));
            let lag = current.zip(end).map(|(current, end)| (end - current).max(0));
            let owner = owners.get(&partition);
            view.row(vec![
                json!(group),
                json!(partition.0),
                json!(partition.1),
                json!(current),
                json!(end),
                json!(lag),
                json!(owner.map(|member| &member.member_id)),
                json!(owner.map(|member| &member.client_host)),
                json!(owner.map(|member| &member.client_id)),
            ]);
        }
        if format == Format::Table && shown.members.is_empty() {
            print(&format!("group {group} has no members ({})\n", shown.group_state));
        }
    }
    view.show(format);
    all_fine(failures)
}

async fn members(cluster: &mut Cluster, groups: Vec<String>, format: Format) -> Result<(), String> {
    let columns =
        ["GROUP", "STATE", "CONSUMER-ID", "INSTANCE-ID", "HOST", "CLIENT-ID", "ASSIGNMENT"];
    let mut view = View::new(&columns);
    let mut failures = Vec::new();
    for group in groups {
        let shown = match described(cluster, &group).await {
            Ok(shown) => shown,
            Err(why) => {
                failures.push(why);
                continue;
            }
        };
        for member in &shown.members {
            let is_consumer = shown.protocol_type == "consumer";
            let assigned = partitions_of(&member.member_assignment).filter(|_| is_consumer);
            let named = assigned.map(|assigned| {
                let of = |(topic, indexes): (String, Vec<i32>)| {
                    indexes.into_iter().map(move |index| format!("{topic}-{index}"))
                };
                assigned.into_iter().flat_map(of).collect::<Vec<_>>()
            });
            view.row(vec![
                json!(group),
                json!(shown.group_state),
                json!(member.member_id),
                json!(member.group_instance_id),
                json!(member.client_host),
                json!(member.client_id),
                json!(named),
            ]);
        }
    }
    view.show(format);
    all_fine(failures)
}

async fn delete(cluster: &mut Cluster, groups: Vec<String>) -> Result<(), String> {
    let mut failures = Vec::new();
    for group in groups {
        let address = cluster.coordinator_of(&group).await?;
        let request = DeleteGroupsRequest { groups_names: vec![group] };
        let response: DeleteGroupsResponse = cluster.ask_at(&address, &request).await?;
        for result in response.results {
            if result.error_code == 0 {
                print(&format!("{}: deleted\n", result.group_id));
            } else {
                failures.push(refused(&result.group_id, result.error_code, None));
            }
        }
    }
    all_fine(failures)
}

/// TOPIC or TOPIC:0,1 as partitions; without numbers all that the topic has.
async fn partitions_named(
    cluster: &mut Cluster,
    named: &[String],
) -> Result<Vec<Partition>, String> {
    let mut partitions = Vec::new();
    for text in named {
        let (topic, indexes) = match text.split_once(':') {
            Some((topic, indexes)) => (topic, Some(indexes)),
            None => (text.as_str(), None),
        };
        let metadata = cluster.metadata(Some(vec![topic.to_owned()])).await?;
        let found = metadata.topics.first().filter(|topic| topic.error_code == 0);
        let found = found.ok_or_else(|| format!("there is no topic {topic}"))?;
        let all: Vec<i32> = found.partitions.iter().map(|p| p.partition_index).collect();
        let wanted = match indexes {
            None => all.clone(),
            Some(indexes) => indexes
                .split(',')
                .map(|index| index.parse().map_err(|_| format!("{text:?} is not TOPIC:0,1")))
                .collect::<Result<_, _>>()?,
        };
        for index in wanted {
            if !all.contains(&index) {
                return Err(format!("topic {topic} has no partition {index}"));
            }
            partitions.push((topic.to_owned(), index));
        }
    }
    partitions.sort();
    partitions.dedup();
    Ok(partitions)
}

async fn delete_offsets(
    cluster: &mut Cluster,
    group: String,
    topics: Vec<String>,
) -> Result<(), String> {
    let partitions = partitions_named(cluster, &topics).await?;
    let mut by_topic: BTreeMap<String, Vec<OffsetDeletePartition>> = BTreeMap::new();
    for (topic, partition_index) in partitions {
        by_topic.entry(topic).or_default().push(OffsetDeletePartition { partition_index });
    }
    let topics =
        by_topic.into_iter().map(|(name, partitions)| OffsetDeleteTopic { name, partitions });
    let request = OffsetDeleteRequest { group_id: group.clone(), topics: topics.collect() };
    let address = cluster.coordinator_of(&group).await?;
    let response: OffsetDeleteResponse = cluster.ask_at(&address, &request).await?;
    if response.error_code != 0 {
        return Err(refused(&group, response.error_code, None));
    }
    let mut failures = Vec::new();
    for topic in response.topics {
        for partition in topic.partitions {
            let what = format!("{}-{}", topic.name, partition.partition_index);
            if partition.error_code == 0 {
                print(&format!("{what}: forgotten\n"));
            } else {
                failures.push(refused(&what, partition.error_code, None));
            }
        }
    }
    all_fine(failures)
}

/// Where offsets are to go.
#[derive(Clone, Copy)]
enum To {
    Offset(i64),
    Shifted(i64),
    Time(i64),
}

async fn reset(
    cluster: &mut Cluster,
    group: String,
    topics: Vec<String>,
    to: To,
    execute: bool,
    format: Format,
) -> Result<(), String> {
    let before = committed(cluster, &group).await?;
    let partitions = if topics.is_empty() {
        before.keys().cloned().collect()
    } else {
        partitions_named(cluster, &topics).await?
    };
    if partitions.is_empty() {
        return Err(format!("group {group} has no offsets; name topics with --topic"));
    }
    let starts = list(cluster, &partitions, EARLIEST, false).await?;
    let ends = list(cluster, &partitions, LATEST, false).await?;
    let found = match to {
        To::Time(time) => list(cluster, &partitions, time, false).await?,
        _ => BTreeMap::new(),
    };
    let mut view = View::new(&["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "NEW-OFFSET"]);
    let mut by_topic: BTreeMap<String, Vec<OffsetCommitPartition>> = BTreeMap::new();
    for partition in partitions {
        let what = || format!("{}-{}", partition.0, partition.1);
        let (Some(&start), Some(&end)) = (starts.get(&partition), ends.get(&partition)) else {
            return Err(format!("{}: its leader cannot be asked", what()));
        };
        let now = before.get(&partition).copied();
        let new = match to {
            To::Offset(offset) => offset,
            To::Shifted(by) => now
                .ok_or_else(|| format!("{}: the group has no offset to shift", what()))?
                .saturating_add(by),
            // No record so late: the end.
            To::Time(_) => found.get(&partition).copied().filter(|o| *o >= 0).unwrap_or(end),
        };
        let new = new.clamp(start, end);
        view.row(vec![
            json!(group),
            json!(partition.0),
            json!(partition.1),
            json!(now),
            json!(new),
        ]);
        by_topic.entry(partition.0).or_default().push(OffsetCommitPartition {
            partition_index: partition.1,
            committed_offset: new,
            committed_metadata: Some(String::new()),
            ..Default::default()
        });
    }
    if execute {
        commit(cluster, &group, by_topic).await?;
    }
    view.show(format);
    if !execute && format == Format::Table {
        print("nothing was changed: add --execute to do it\n");
    }
    Ok(())
}

async fn commit(
    cluster: &mut Cluster,
    group: &str,
    by_topic: BTreeMap<String, Vec<OffsetCommitPartition>>,
) -> Result<(), String> {
    let topics =
        by_topic.into_iter().map(|(name, partitions)| OffsetCommitTopic { name, partitions });
    let request = OffsetCommitRequest {
        group_id: group.to_owned(),
        topics: topics.collect(),
        ..Default::default()
    };
    let address = cluster.coordinator_of(group).await?;
    let response: OffsetCommitResponse = cluster.ask_at(&address, &request).await?;
    let failed = response.topics.iter().flat_map(|topic| &topic.partitions);
    match failed.into_iter().find(|partition| partition.error_code != 0) {
        None => Ok(()),
        Some(partition) => match ErrorCode::from_code(partition.error_code) {
            ErrorCode::UnknownMemberId | ErrorCode::RebalanceInProgress => Err(format!(
                "group {group} has members: stop them first, or they would go on from where they are"
            )),
            error => Err(refused(group, error.code(), None)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(time("1700000000000"), Ok(1_700_000_000_000));
        assert_eq!(time("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert_eq!(time("2023-11-14T22:13:20.5"), Ok(1_700_000_000_500));
        assert_eq!(time("1970-01-02"), Ok(86_400_000));
        for wrong in ["yesterday", "2023-13-01", "2023-11-14T25:00:00Z", "2023-11"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
