//! The names of a partition's segments, and which of them count.
//!
//! What compaction writes names the range it stands for: `{base}-{end}-{generation}.log`. It counts
//! from the moment it has that name; what it replaces does not count any more, whether or not it was
//! removed yet. So one rename puts it in force, and a stop at any time leaves nothing in between.

use model::Offset;
use std::collections::BTreeMap;

/// What a compacted segment stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Compacted {
    /// Where the next segment begins.
    pub(crate) end: Offset,
    /// Grows with each compaction of the same range, so that no name is used twice.
    pub(crate) generation: u32,
}

/// What a segment being written by compaction is called until it is whole.
pub(crate) const UNFINISHED: &str = "cleaned";

/// A segment's name without its extension.
pub(crate) fn stem_of(base: Offset, compacted: Option<Compacted>) -> String {
    match compacted {
        None => format!("{:020}", base.0),
        Some(Compacted { end, .. }) if end <= base => {
            unreachable!("a segment stands for something")
        }
        Some(Compacted { end, generation }) => format!("{:020}-{:020}-{generation}", base.0, end.0),
    }
}

/// What a name without its extension says.
pub(crate) fn parse_stem(stem: &str) -> Option<(Offset, Option<Compacted>)> {
    let mut parts = stem.split('-');
    let base = Offset(parts.next()?.parse().ok()?);
    let compacted = match parts.next() {
        None => None,
        Some(end) => {
            let end = Offset(end.parse().ok()?);
            let generation = parts.next()?.parse().ok()?;
            (parts.next().is_none() && base < end).then_some(())?;
            Some(Compacted { end, generation })
        }
    };
    // Only as it is written here: `0.log` beside the one of twenty digits is another file.
    (stem_of(base, compacted) == stem).then_some((base, compacted))
}

/// The segments in a partition's directory.
#[derive(Debug, Default)]
pub(crate) struct SegmentFiles {
    /// Ascending.
    pub(crate) bases: Vec<Offset>,
    compacted: BTreeMap<Offset, Compacted>,
    /// Files that do not count any more, or never did.
    pub(crate) obsolete: Vec<String>,
}

impl SegmentFiles {
    /// Those among the files of a partition's directory.
    pub(crate) fn of(names: &[String]) -> Self {
        let mut files = Self::default();
        let mut found: Vec<(Offset, Option<Compacted>)> = Vec::new();
        for name in names {
            if let Some(stem) = name.strip_suffix(".log") {
                found.extend(parse_stem(stem));
            } else if name.strip_suffix(UNFINISHED).is_some_and(|rest| rest.ends_with('.')) {
                files.obsolete.push(name.clone());
            }
        }
        // Of those that begin together the widest and newest counts, and hides all it covers.
        found.sort_by_key(|(base, compacted)| (*base, std::cmp::Reverse(*compacted)));
        let mut covered_to = Offset(i64::MIN);
        for (base, compacted) in found {
            if base < covered_to {
                files.obsolete.push(format!("{}.log", stem_of(base, compacted)));
                continue;
            }
            files.bases.push(base);
            if let Some(compacted) = compacted {
                covered_to = compacted.end;
                files.compacted.insert(base, compacted);
            }
        }
        assert!(files.bases.is_sorted(), "segments ascend");
        assert!(files.compacted.len() <= files.bases.len(), "each compacted one counts");
        let counts = |stem: &str| {
            let named = parse_stem(stem);
            named.is_none_or(|(base, compacted)| {
                files.compacted.get(&base).copied() == compacted
                    && (compacted.is_some() || files.bases.binary_search(&base).is_ok())
            })
        };
        let stale = |name: &&String| name.strip_suffix(".idx").is_some_and(|stem| !counts(stem));
        let stale: Vec<String> = names.iter().filter(stale).cloned().collect();
        files.obsolete.extend(stale);
        files
    }

    /// What the segment that begins there stands for, if compaction wrote it.
    pub(crate) fn compacted_at(&self, base: Offset) -> Option<Compacted> {
        self.compacted.get(&base).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> (Vec<String>, Vec<String>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let files = SegmentFiles::of(&names);
        let stem = |base: &Offset| stem_of(*base, files.compacted_at(*base));
        let mut obsolete = files.obsolete.clone();
        obsolete.sort();
        (files.bases.iter().map(stem).collect(), obsolete)
    }

    #[test]
    fn the_widest_and_newest_counts_and_hides_what_it_covers() {
        let plain = |base: i64| format!("{base:020}");
        let wide =
            |base: i64, end: i64, generation: u32| format!("{base:020}-{end:020}-{generation}");
        let log = |stem: String| stem + ".log";
        let names = [
            log(plain(0)),
            log(plain(10)),
            log(plain(20)),
            log(plain(30)),
            log(wide(0, 10, 1)),
            log(wide(0, 20, 2)),
            log(wide(0, 20, 10)),
            plain(10) + ".idx",
            wide(0, 20, 10) + ".idx",
            wide(0, 20, 2) + ".idx",
            wide(0, 30, 3) + ".log.cleaned",
            "epochs".to_owned(),
        ];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (counting, obsolete) = files(&names);
        assert_eq!(counting, [wide(0, 20, 10), plain(20), plain(30)]);
        let gone = [
            log(plain(0)),
            plain(10) + ".idx",
            log(plain(10)),
            log(wide(0, 10, 1)),
            wide(0, 20, 2) + ".idx",
            log(wide(0, 20, 2)),
            wide(0, 30, 3) + ".log.cleaned",
        ];
        let mut gone = gone.to_vec();
        gone.sort();
        assert_eq!(obsolete, gone);
        assert_eq!(files(&["x.log", "1-0-0.log", "0-9-1-1.log"]), (vec![], vec![]));
        let (counting, obsolete) = files(&["0.log", "+5.log", "0-20-1.log", &log(plain(0))]);
        assert_eq!((counting, obsolete), (vec![plain(0)], vec![]), "other names are other files");
    }
}
