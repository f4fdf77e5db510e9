//! Which key a record has, and which partition a key belongs to.

use super::{Zipf, kept_as_text, named, normal, number};
use runtime::random::Random;
use std::str::FromStr;
use std::sync::Arc;

/// How keys are chosen; numbered keys become `key_size` hexadecimal digits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Keys {
    None,
    /// Every record another key.
    Sequential,
    /// Every record the same key.
    Fixed,
    Uniform(u64),
    /// Ranks by a log-normal with median 1, cut at `n`.
    LogNormal {
        n: u64,
        sigma: f64,
    },
    Zipf(Zipf),
    /// The lines of a file, as often as they are in it.
    Sample {
        path: String,
        keys: Arc<Vec<Vec<u8>>>,
    },
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = named(text);
        let count =
            |text: &str| number(text).filter(|n| (1.0..=1e15).contains(n)).map(|n| n as u64);
        let pair = || {
            let (n, second) = rest.split_once(',')?;
            let second = number(second).filter(|value| (0.01..=10.0).contains(value))?;
            Some((count(n)?, second))
        };
        let parsed = match name {
            "none" => Some(Self::None),
            "sequential" => Some(Self::Sequential),
            "fixed" => Some(Self::Fixed),
            "uniform" => count(rest).map(Self::Uniform),
            "lognormal" => pair().map(|(n, sigma)| Self::LogNormal { n, sigma }),
            "zipf" => pair().map(|(n, s)| Self::Zipf(Zipf::new(n, s))),
            "file" => return Self::sample(rest),
            _ => None,
        };
        parsed.ok_or_else(|| {
            "expected none, sequential, fixed, uniform:N, zipf:N,S, lognormal:N,SIGMA or file:PATH (a \
             key a line)"
                .to_owned()
        })
    }
}

impl std::fmt::Display for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Sequential => f.write_str("sequential"),
            Self::Fixed => f.write_str("fixed"),
            Self::Uniform(n) => write!(f, "uniform:{n}"),
            Self::LogNormal { n, sigma } => write!(f, "lognormal:{n},{sigma}"),
            Self::Zipf(zipf) => write!(f, "zipf:{},{}", zipf.n, zipf.s),
            Self::Sample { path, .. } => write!(f, "file:{path}"),
        }
    }
}
kept_as_text!(Keys);

impl Keys {
    fn sample(path: &str) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let keys: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
        if keys.is_empty() {
            return Err(format!("{path} has no line that is not empty"));
        }
        Ok(Self::Sample { path: path.to_owned(), keys: Arc::new(keys) })
    }

    /// Writes the key of record `made` of producer `producer` into `key`; false: it has none.
    pub(crate) fn next(
        &self,
        random: &mut Random,
        producer: usize,
        made: u64,
        key_size: usize,
        key: &mut Vec<u8>,
    ) -> bool {
        let number = match self {
            Self::None => return false,
            Self::Sequential => (producer as u64) << 40 | made,
            Self::Fixed => 0,
            Self::Uniform(n) => random.below(*n),
            Self::LogNormal { n, sigma } => {
                ((normal(random) * sigma).exp() as u64).min(n.saturating_sub(1))
            }
            Self::Zipf(zipf) => zipf.next(random) - 1,
            Self::Sample { keys, .. } => {
                key.clear();
                key.extend_from_slice(&keys[random.below(keys.len() as u64) as usize]);
                return true;
            }
        };
        key.resize(key_size, b'0');
        let mut left = number;
        for digit in key.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(left & 15) as usize];
            left >>= 4;
        }
        true
    }
}

/// The partition that Kafka's Java client gives a key: murmur2, positive, modulo.
pub(crate) fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions
}

/// MurmurHash2 with the Java client's seed.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("4 bytes")).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn keys_go_where_the_java_client_puts_them() {
        // From Kafka's UtilsTest.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn keys_are_distinct_repeatable_and_skewed_as_asked() {
        let mut key = Vec::new();
        for (text, distinct_min, distinct_max, top_min) in [
            ("sequential", 10_000, 10_000, 1),
            ("fixed", 1, 1, 10_000),
            ("uniform:100", 100, 100, 60),
            ("zipf:1000000,1.2", 500, 5_000, 1_500),
            ("lognormal:1000,1", 5, 60, 3_000),
        ] {
            let keys: Keys = text.parse().unwrap();
            assert_eq!(keys.to_string(), text);
            let mut random = Random::new(5);
            let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            for made in 0..10_000 {
                assert!(keys.next(&mut random, 1, made, 16, &mut key));
                assert_eq!(key.len(), 16);
                *counts.entry(key.clone()).or_default() += 1;
            }
            let top = counts.values().max().unwrap();
            assert!(
                (distinct_min..=distinct_max).contains(&counts.len()),
                "{text}: {}",
                counts.len()
            );
            assert!(*top >= top_min, "{text}: {top}");
        }
        assert!(!Keys::None.next(&mut Random::new(1), 0, 0, 16, &mut key));
        for bad in ["uniform", "zipf:5", "uniform:0", "file:/no/such", "hot"] {
            assert!(bad.parse::<Keys>().is_err(), "{bad}");
        }
    }
}
