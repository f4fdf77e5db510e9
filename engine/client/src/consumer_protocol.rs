//! What ordinary consumers say to each other through their group: subscriptions, assignments, and
//! the range assignor (KIP-429's version 0 of both, which every client reads).

use std::collections::BTreeMap;
use wire::primitives::{Reader, put_count, put_string};

/// Kafka's name of the assignor.
pub const RANGE: &str = "range";

/// The metadata of a member that is subscribed to `topics`.
#[must_use]
pub fn subscription(topics: &[&str]) -> Vec<u8> {
    let mut out = 0i16.to_be_bytes().to_vec();
    put_count(&mut out, Some(topics.len()), false);
    topics.iter().for_each(|topic| put_string(&mut out, Some(topic), false));
    put_count(&mut out, None, false);
    out
}

/// The topics in a subscription; `None` for bytes that are none.
#[must_use]
pub fn topics_of(subscription: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(subscription);
    reader.i16().ok()?;
    let count = reader.count(false).ok()??;
    (0..count).map(|_| reader.string(false).ok().flatten().map(str::to_owned)).collect()
}

/// An assignment: partitions by topic.
#[must_use]
pub fn assignment(partitions: &BTreeMap<String, Vec<i32>>) -> Vec<u8> {
    let mut out = 0i16.to_be_bytes().to_vec();
    put_count(&mut out, Some(partitions.len()), false);
    for (topic, indexes) in partitions {
        put_string(&mut out, Some(topic), false);
        put_count(&mut out, Some(indexes.len()), false);
        indexes.iter().for_each(|index| out.extend_from_slice(&index.to_be_bytes()));
    }
    put_count(&mut out, None, false);
    out
}

/// The partitions in an assignment; `None` for bytes that are none. Empty bytes assign nothing.
#[must_use]
pub fn partitions_of(assignment: &[u8]) -> Option<BTreeMap<String, Vec<i32>>> {
    let mut found = BTreeMap::new();
    if assignment.is_empty() {
        return Some(found);
    }
    let mut reader = Reader::new(assignment);
    reader.i16().ok()?;
    for _ in 0..reader.count(false).ok()?? {
        let topic = reader.string(false).ok()??.to_owned();
        let count = reader.count(false).ok()??;
        let indexes = (0..count).map(|_| reader.i32().ok()).collect::<Option<_>>()?;
        found.insert(topic, indexes);
    }
    Some(found)
}

/// The range assignor for one topic: members in order get neighbouring partitions, the first ones
/// one more where it does not come out even.
#[must_use]
pub fn assign_range(members: &[String], partitions: i32) -> Vec<(String, Vec<i32>)> {
    let mut sorted = members.to_vec();
    sorted.sort();
    let count = sorted.len().max(1) as i32;
    let (each, more) = (partitions / count, partitions % count);
    let mut next = 0;
    let assign = |(number, member): (usize, String)| {
        let take = each + i32::from((number as i32) < more);
        let theirs = (next..next + take).collect();
        next += take;
        (member, theirs)
    };
    sorted.into_iter().enumerate().map(assign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(topics_of(&subscription(&["a", "b"])).unwrap(), ["a", "b"]);
        let partitions = BTreeMap::from([("t".to_owned(), vec![0, 3]), ("u".to_owned(), vec![])]);
        let bytes = assignment(&partitions);
        assert_eq!(partitions_of(&bytes), Some(partitions));
        assert_eq!(partitions_of(&[]), Some(BTreeMap::new()));
        for cut in 1..bytes.len() - 4 {
            assert_eq!(partitions_of(&bytes[..cut]), None);
        }
    }

    #[test]
    fn ranges_cover_every_partition_once() {
        let members = ["c", "a", "b"].map(str::to_owned);
        let assigned = assign_range(&members, 7);
        let expected = [("a", vec![0, 1, 2]), ("b", vec![3, 4]), ("c", vec![5, 6])];
        assert_eq!(assigned, expected.map(|(m, p)| (m.to_owned(), p)));
        assert_eq!(assign_range(&members, 2)[2], ("c".to_owned(), vec![]));
    }
}
