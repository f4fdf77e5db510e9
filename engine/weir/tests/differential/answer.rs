//! An answer as paths and values, without what may be different in every cluster.

use std::collections::BTreeMap;

/// What two clusters are not to be compared by, and what stands for it.
pub(crate) struct Own {
    /// Topic ids as they are shown, and the topics' names.
    pub(crate) ids: Vec<(String, String)>,
    /// The leader epoch with which a new topic begins.
    pub(crate) first_epoch: i32,
}

/// Fields that say who, where and when, and not what.
const HIDDEN: [&str; 22] = [
    "error_message",
    "throttle_time_ms",
    "host",
    "port",
    "cluster_id",
    "rack",
    "producer_id",
    "member_id",
    "leader",
    "client_id",
    "client_host",
    "log_dir",
    "partition_size",
    "total_bytes",
    "usable_bytes",
    "last_timestamp",
    "transaction_start_time_ms",
    "documentation",
    "authorized_operations",
    "topic_authorized_operations",
    "cluster_authorized_operations",
    "coordinator_epoch",
];
/// Fields that name an element of a list.
const NAMES: [&str; 14] = [
    "name",
    "topic",
    "topic_name",
    "resource_name",
    "group_id",
    "partition_index",
    "partition",
    "partition_id",
    "key",
    "transactional_id",
    "api_key",
    "entity_type",
    "user",
    "log_dir",
];

enum Node {
    Value(String),
    Fields(Vec<(String, Self)>),
    Items(Vec<Self>),
}

/// Reads what `{:#?}` wrote.
fn parse(lines: &mut std::iter::Peekable<std::str::Lines<'_>>, first: &str) -> Node {
    let first = first.trim().trim_end_matches(',');
    match first.chars().last() {
        Some('{') => {
            let mut fields = Vec::new();
            while let Some(line) = lines.next() {
                let line = line.trim();
                if line.starts_with('}') {
                    break;
                }
                let (name, value) = line.split_once(": ").unwrap_or(("", line));
                fields.push((name.to_owned(), parse(lines, value)));
            }
            Node::Fields(fields)
        }
        Some('[') => {
            let mut items = Vec::new();
            while let Some(line) = lines.next() {
                let line = line.trim();
                if line.starts_with(']') {
                    break;
                }
                items.push(parse(lines, line));
            }
            Node::Items(items)
        }
        // `Some(` with its value on lines of its own.
        Some('(') => {
            let line = lines.next().unwrap_or_default();
            let inner = parse(lines, line);
            lines.next();
            match inner {
                Node::Value(text) => Node::Value(format!("{first}{text})")),
                other => other,
            }
        }
        _ if first == "[]" => Node::Items(Vec::new()),
        _ => Node::Value(first.to_owned()),
    }
}

fn flatten(node: &Node, path: &str, out: &mut BTreeMap<String, String>) {
    match node {
        Node::Value(text) => {
            out.insert(path.to_owned(), text.clone());
        }
        Node::Fields(fields) => {
            for (name, value) in fields {
                if !HIDDEN.contains(&name.as_str()) {
                    flatten(value, &format!("{path}.{name}"), out);
                }
            }
        }
        Node::Items(items) => {
            out.insert(format!("{path}.len"), items.len().to_string());
            let mut places: BTreeMap<String, usize> = BTreeMap::new();
            for (number, item) in items.iter().enumerate() {
                let label = label(item).unwrap_or_else(|| format!("#{number}"));
                let place = places.entry(label.clone()).or_default();
                *place += 1;
                let again = if *place > 1 { format!("/{place}") } else { String::new() };
                flatten(item, &format!("{path}[{label}{again}]"), out);
            }
        }
    }
}

fn label(item: &Node) -> Option<String> {
    match item {
        // Numbers and texts have no order that counts.
        Node::Value(text) => Some(text.clone()),
        Node::Fields(fields) => {
            let of = |wanted: &&str| {
                fields.iter().find_map(|(name, value)| match value {
                    Node::Value(text) if name == wanted => Some(text.clone()),
                    _ => None,
                })
            };
            NAMES.iter().find_map(of)
        }
        Node::Items(_) => None,
    }
}

/// The answer that `text` shows, as paths and values.
pub(crate) fn of(text: &str, own: &Own) -> BTreeMap<String, String> {
    let mut text = text.to_owned();
    for (id, name) in &own.ids {
        text = text.replace(id, &format!("id of {name}"));
    }
    let mut lines = text.lines().peekable();
    let first = lines.next().unwrap_or_default();
    let tree = parse(&mut lines, first);
    let mut out = BTreeMap::new();
    flatten(&tree, "", &mut out);
    for (path, value) in &mut out {
        if path.ends_with("topic_id") && !value.starts_with("id of ") && !value.starts_with("AAAA")
        {
            "an id".clone_into(value);
        }
        // What a consumer has committed is its own.
        if path.ends_with(".leader_epoch")
            && let Ok(epoch) = value.parse::<i32>()
            && epoch >= 0
        {
            *value = format!("first + {}", epoch - own.first_epoch);
        }
    }
    out
}

/// Where two answers are not the same: one line each, the lists' elements without their names first.
pub(crate) fn differences(
    theirs: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Vec<String> {
    let paths: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let (theirs_here, ours_here) = (theirs.get(path), ours.get(path));
        if theirs_here == ours_here {
            continue;
        }
        let of = |value: Option<&String>| value.map_or("-", String::as_str).to_owned();
        let mut line = format!("{path}: {} | {}", of(theirs_here), of(ours_here));
        // An element that only one of them has is told once.
        let elements = path.match_indices(']').map(|(at, _)| &path[..=at]);
        let has = |side: &BTreeMap<String, String>, element: &str| {
            side.keys().any(|key| key.starts_with(element))
        };
        for element in elements {
            match (has(theirs, element), has(ours, element)) {
                (true, false) => line = format!("{element}: there | absent"),
                (false, true) => line = format!("{element}: absent | there"),
                _ => continue,
            }
            break;
        }
        if path.ends_with(".len") && !line.contains("absent") {
            continue;
        }
        if !found.contains(&line) {
            found.push(line);
        }
    }
    found
}
