//! What ordinary consumers say to each other through their group: subscriptions and assignments.
//! Written in version 0, which every client reads; later versions only add behind what is read here.

use crate::primitives::{Reader, put_count, put_string};
use std::collections::BTreeMap;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(topics_of(&subscription(&["a", "b"])).unwrap(), ["a", "b"]);
        let partitions = BTreeMap::from([("t".to_owned(), vec![0, 3]), ("u".to_owned(), vec![])]);
        assert_eq!(topics_of(b"\0\0\0\0\0\x01\0\x01t\xff").unwrap(), ["t"]);
        for garbage in [&b""[..], b"\0", b"\0\0\x7f\xff\xff\xff", b"\0\0\0\0\0\x01\0\x09t"] {
            assert_eq!(topics_of(garbage), None);
        }
        let bytes = assignment(&partitions);
        assert_eq!(partitions_of(&bytes), Some(partitions));
        assert_eq!(partitions_of(&[]), Some(BTreeMap::new()));
        for cut in 1..bytes.len() - 4 {
            assert_eq!(partitions_of(&bytes[..cut]), None);
        }
    }
}
