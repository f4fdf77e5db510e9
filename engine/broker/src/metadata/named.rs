//! What a request names more than once: looked up once, or refused, in time that grows with the request.

use std::collections::{BTreeMap, BTreeSet};

/// Each key once, in the order of its first place.
pub(crate) fn each_once<K: Ord + Clone>(keys: impl IntoIterator<Item = K>) -> Vec<K> {
    let mut seen = BTreeSet::new();
    keys.into_iter().filter(|key| seen.insert(key.clone())).collect()
}

/// The keys that come more than once.
pub(crate) fn repeated<K: Ord + Clone>(keys: impl IntoIterator<Item = K>) -> BTreeSet<K> {
    let (mut seen, mut repeated) = (BTreeSet::new(), BTreeSet::new());
    for key in keys {
        if !seen.insert(key.clone()) {
            repeated.insert(key);
        }
    }
    repeated
}

/// Each topic once with each of its partitions once, in the order of their first places.
pub(crate) fn partitions_once(topics: Vec<(String, Vec<i32>)>) -> Vec<(String, Vec<i32>)> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut merged: Vec<(String, Vec<i32>)> = Vec::new();
    for (name, mut partitions) in topics {
        match places.get(&name) {
            Some(place) => merged[*place].1.append(&mut partitions),
            None => {
                places.insert(name.clone(), merged.len());
                merged.push((name, partitions));
            }
        }
    }
    for (_, partitions) in &mut merged {
        *partitions = each_once(std::mem::take(partitions));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_counts() {
        assert_eq!(each_once([3, 1, 3, 2, 1]), [3, 1, 2]);
        let topics = [("b", vec![1, 1, 0]), ("a", vec![5]), ("b", vec![2, 0])];
        let topics = topics.map(|(name, partitions)| (name.to_owned(), partitions)).to_vec();
        let once = partitions_once(topics);
        assert_eq!(once, [("b".to_owned(), vec![1, 0, 2]), ("a".to_owned(), vec![5])]);
        assert_eq!(repeated([3, 1, 3, 2, 1]).into_iter().collect::<Vec<_>>(), [1, 3]);
    }
}
