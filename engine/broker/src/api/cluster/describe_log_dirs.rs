//! DescribeLogDirs 1-4: v2 flexible, v3 top-level error, v4 size of the file system (KIP-827).

use crate::api::rooms::Partitions;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use model::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use wire::WireError;
use wire::messages::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse,
    DescribeLogDirsResult, DescribeLogDirsTopic,
};

pub(crate) async fn handle(
    held: Partitions<'_>,
    request: &Request,
    size: &mut AnswerSize,
) -> Result<DescribeLogDirsResponse, WireError> {
    let asked = read::<DescribeLogDirsRequest>(request)?;
    let sizes = held.sizes().await;
    let image = held.image();
    let asked_of: Option<BTreeMap<String, BTreeSet<i32>>> = asked.topics.map(|topics| {
        let mut wanted: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for topic in topics {
            wanted.entry(topic.topic).or_default().extend(topic.partitions);
        }
        wanted
    });
    let wanted = |topic: &str, index: i32| match &asked_of {
        None => true,
        Some(topics) => topics.get(topic).is_some_and(|partitions| partitions.contains(&index)),
    };
    let mut results = Vec::new();
    for (number, dir) in held.node().dirs.iter().enumerate() {
        let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
        for (_, id, bytes) in sizes.iter().filter(|(dir, ..)| *dir == number) {
            let Some(topic) = image.by_id.get(&id.topic_id) else { continue };
            if wanted(&topic.name, id.partition.0) {
                let partition = DescribeLogDirsPartition {
                    partition_index: id.partition.0,
                    partition_size: *bytes as i64,
                    ..Default::default()
                };
                size.add(30).await?;
                topics.entry(&topic.name).or_default().push(partition);
            }
        }
        let is_offline = dir.health.is_offline();
        let error = if is_offline { ErrorCode::KafkaStorageError } else { ErrorCode::None };
        let (total, free) = runtime::fs::space(&dir.path).unwrap_or((-1, -1));
        let topic = |(name, mut partitions): (&str, Vec<DescribeLogDirsPartition>)| {
            partitions.sort_by_key(|partition| partition.partition_index);
            DescribeLogDirsTopic { name: name.to_owned(), partitions }
        };
        results.push(DescribeLogDirsResult {
            error_code: error.code(),
            log_dir: absolute(&dir.path),
            topics: topics.into_iter().map(topic).collect(),
            total_bytes: total,
            usable_bytes: free,
        });
    }
    Ok(DescribeLogDirsResponse { results, ..Default::default() })
}

fn absolute(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
