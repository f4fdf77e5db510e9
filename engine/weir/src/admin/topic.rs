//! `weir topic`.

use super::failures::{all_fine, refused};
use super::flags::{DryRun, pair};
use super::offsets::{EARLIEST, LATEST, Partition, list};
use super::view::{Format, View, print, print_json};
use clap::{ArgAction, Subcommand};
use client::Cluster;
use model::ErrorCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use wire::messages::{
    CreatableTopic, CreatableTopicConfig, CreatePartitionsRequest, CreatePartitionsResponse,
    CreatePartitionsTopic, CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsPartition,
    DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopic, DeleteTopicState,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
    MetadataTopic,
};

const TIMEOUT_MS: i32 = 30_000;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// The topics, and how many partitions and replicas they have
    List {
        /// Also the broker's own
        #[arg(long)]
        internal: bool,
    },
    /// Partitions, leaders, offsets, sizes, and the settings that differ from the default
    Describe {
        /// Which; all but internal ones if none is named
        topics: Vec<String>,
    },
    /// Make a topic
    Create {
        topic: String,
        /// Partitions; the broker's default unless given
        #[arg(long, short, default_value_t = -1, hide_default_value = true)]
        partitions: i32,
        /// Replicas; the broker's default unless given
        #[arg(long, short, default_value_t = -1, hide_default_value = true)]
        replication_factor: i16,
        /// A setting; may be repeated
        #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair, action = ArgAction::Append)]
        config: Vec<(String, String)>,
        /// Be content if there is one of this name
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Give a topic more partitions
    Alter {
        topic: String,
        /// How many it is to have
        #[arg(long, short)]
        partitions: i32,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Delete topics and all their records
    Delete {
        #[arg(required = true)]
        topics: Vec<String>,
        /// Be content if there is none of this name
        #[arg(long)]
        if_exists: bool,
    },
    /// Delete the records of a partition below an offset
    Trim {
        topic: String,
        /// Which partition
        #[arg(long, short)]
        partition: i32,
        /// First offset to keep; -1: none of those there are now
        #[arg(long, short, allow_negative_numbers = true)]
        offset: i64,
    },
}

pub(crate) async fn run(cluster: &mut Cluster, verb: Verb, format: Format) -> Result<(), String> {
    match verb {
        Verb::List { internal } => list_topics(cluster, internal, format).await,
        Verb::Describe { topics } => describe(cluster, topics, format).await,
        Verb::Create { topic, partitions, replication_factor, config, if_not_exists, dry_run } => {
            let setting = |(name, value)| CreatableTopicConfig { name, value: Some(value) };
            let new = CreatableTopic {
                name: topic.clone(),
                num_partitions: partitions,
                replication_factor,
                configs: config.into_iter().map(setting).collect(),
                ..Default::default()
            };
            create(cluster, new, if_not_exists, dry_run.dry_run).await
        }
        Verb::Alter { topic, partitions, dry_run } => {
            let asked =
                CreatePartitionsTopic { name: topic.clone(), count: partitions, assignments: None };
            let request = CreatePartitionsRequest {
                topics: vec![asked],
                timeout_ms: TIMEOUT_MS,
                validate_only: dry_run.dry_run,
            };
            let response: CreatePartitionsResponse = cluster.ask_controller(&request).await?;
            let failures = response
                .results
                .iter()
                .filter(|result| result.error_code != 0)
                .map(|r| refused(&r.name, r.error_code, r.error_message.as_deref()));
            all_fine(failures.collect())?;
            print(&format!("{topic}: {partitions} partitions{}\n", told(dry_run.dry_run)));
            Ok(())
        }
        Verb::Delete { topics, if_exists } => delete(cluster, topics, if_exists).await,
        Verb::Trim { topic, partition, offset } => trim(cluster, topic, partition, offset).await,
    }
}

fn told(dry_run: bool) -> &'static str {
    if dry_run { " (checked, not done)" } else { "" }
}

async fn list_topics(cluster: &mut Cluster, internal: bool, format: Format) -> Result<(), String> {
    let mut metadata = cluster.metadata(None).await?;
    metadata.topics.sort_by(|a, b| a.name.cmp(&b.name));
    let mut view = View::new(&["TOPIC", "PARTITIONS", "REPLICAS", "INTERNAL"]);
    for topic in metadata.topics.iter().filter(|topic| internal || !topic.is_internal) {
        let replicas = topic.partitions.iter().map(|p| p.replica_nodes.len()).min().unwrap_or(0);
        view.row(vec![
            json!(topic.name),
            json!(topic.partitions.len()),
            json!(replicas),
            json!(topic.is_internal),
        ]);
    }
    view.show(format);
    Ok(())
}

const PARTITION_COLUMNS: [&str; 9] =
    ["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END", "LAST-STABLE", "BYTES"];

async fn describe(cluster: &mut Cluster, names: Vec<String>, format: Format) -> Result<(), String> {
    let all = names.is_empty();
    let metadata = cluster.metadata((!all).then_some(names)).await?;
    let mut topics: Vec<MetadataTopic> =
        metadata.topics.into_iter().filter(|topic| !all || !topic.is_internal).collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let name = |topic: &MetadataTopic| topic.name.clone().unwrap_or_default();
    let failures = topics
        .iter()
        .filter(|topic| topic.error_code != 0)
        .map(|topic| refused(&name(topic), topic.error_code, None));
    let failures: Vec<String> = failures.collect();
    topics.retain(|topic| topic.error_code == 0);
    let partitions: Vec<Partition> = topics
        .iter()
        .flat_map(|t| t.partitions.iter().map(move |p| (name(t), p.partition_index)))
        .collect();
    let starts = list(cluster, &partitions, EARLIEST, false).await?;
    let ends = list(cluster, &partitions, LATEST, false).await?;
    let stable = list(cluster, &partitions, LATEST, true).await?;
    let sizes = sizes(cluster).await.unwrap_or_default();
    let mut shown = Vec::new();
    for topic in &mut topics {
        let name = name(topic);
        topic.partitions.sort_by_key(|partition| partition.partition_index);
        let mut view = View::new(&PARTITION_COLUMNS);
        for partition in &topic.partitions {
            let key = (name.clone(), partition.partition_index);
            view.row(vec![
                json!(partition.partition_index),
                json!(partition.leader_id),
                json!(partition.leader_epoch),
                json!(partition.replica_nodes),
                json!(partition.isr_nodes),
                json!(starts.get(&key)),
                json!(ends.get(&key)),
                json!(stable.get(&key)),
                json!(sizes.get(&key)),
            ]);
        }
        let settings = super::config::own_settings(cluster, &name).await.unwrap_or_default();
        match format {
            Format::Json => shown.push(json!({
                "topic": name,
                "id": topic.topic_id.to_string(),
                "internal": topic.is_internal,
                "settings": settings,
                "partitions": view.json(),
            })),
            Format::Table => {
                let set: Vec<String> = settings.iter().map(|(n, v)| format!("{n}={v}")).collect();
                let internal = if topic.is_internal { "  internal" } else { "" };
                print(&format!("{name}  id {}{internal}  {}\n", topic.topic_id, set.join(" ")));
                print(&view.table());
                print("\n");
            }
        }
    }
    if format == Format::Json {
        print_json(&Value::Array(shown));
    }
    all_fine(failures)
}

/// What each partition takes on its leader's disk, where that is told.
async fn sizes(cluster: &mut Cluster) -> Result<BTreeMap<Partition, i64>, String> {
    let mut sizes = BTreeMap::new();
    for node in cluster.nodes().to_vec() {
        let request = DescribeLogDirsRequest { topics: None };
        let response: DescribeLogDirsResponse = cluster.ask_at(&node.address, &request).await?;
        for topic in response.results.into_iter().flat_map(|dir| dir.topics) {
            for partition in topic.partitions {
                let size: &mut i64 =
                    sizes.entry((topic.name.clone(), partition.partition_index)).or_default();
                *size = (*size).max(partition.partition_size);
            }
        }
    }
    Ok(sizes)
}

async fn create(
    cluster: &mut Cluster,
    new: CreatableTopic,
    if_not_exists: bool,
    dry_run: bool,
) -> Result<(), String> {
    let name = new.name.clone();
    let request =
        CreateTopicsRequest { topics: vec![new], timeout_ms: TIMEOUT_MS, validate_only: dry_run };
    let response: CreateTopicsResponse = cluster.ask_controller(&request).await?;
    let result = response.topics.first().ok_or("the broker said nothing of the topic")?;
    let exists = ErrorCode::from_code(result.error_code) == ErrorCode::TopicAlreadyExists;
    if result.error_code != 0 && !(exists && if_not_exists) {
        return Err(refused(&name, result.error_code, result.error_message.as_deref()));
    }
    let what = if exists { "was there" } else { "made" };
    print(&format!("{name}: {what}{}\n", told(dry_run)));
    Ok(())
}

async fn delete(cluster: &mut Cluster, topics: Vec<String>, if_exists: bool) -> Result<(), String> {
    let state = |name: &String| DeleteTopicState { name: Some(name.clone()), ..Default::default() };
    let request = DeleteTopicsRequest {
        topics: topics.iter().map(state).collect(),
        topic_names: topics,
        timeout_ms: TIMEOUT_MS,
    };
    let response: DeleteTopicsResponse = cluster.ask_controller(&request).await?;
    let mut failures = Vec::new();
    for result in response.responses {
        let name = result.name.unwrap_or_default();
        match ErrorCode::from_code(result.error_code) {
            ErrorCode::None => print(&format!("{name}: deleted\n")),
            ErrorCode::UnknownTopicOrPartition if if_exists => {
                print(&format!("{name}: was not there\n"));
            }
            _ => {
                failures.push(refused(&name, result.error_code, result.error_message.as_deref()));
            }
        }
    }
    all_fine(failures)
}

async fn trim(
    cluster: &mut Cluster,
    topic: String,
    partition: i32,
    offset: i64,
) -> Result<(), String> {
    let metadata = cluster.metadata(Some(vec![topic.clone()])).await?;
    let leaders = super::offsets::leaders_of(&metadata);
    let leader = leaders
        .get(&(topic.clone(), partition))
        .and_then(|leader| cluster.address_of(*leader))
        .ok_or_else(|| format!("{topic}-{partition}: there is no such partition, or no leader"))?;
    let asked = DeleteRecordsPartition { partition_index: partition, offset };
    let asked = DeleteRecordsTopic { name: topic.clone(), partitions: vec![asked] };
    let request = DeleteRecordsRequest { topics: vec![asked], timeout_ms: TIMEOUT_MS };
    let response: DeleteRecordsResponse = cluster.ask_at(&leader, &request).await?;
    let result = response.topics.first().and_then(|topic| topic.partitions.first());
    let result = result.ok_or("the broker said nothing of the partition")?;
    if result.error_code != 0 {
        return Err(refused(&format!("{topic}-{partition}"), result.error_code, None));
    }
    print(&format!("{topic}-{partition}: starts at offset {}\n", result.low_watermark));
    Ok(())
}
