//! How large records are.

use super::{Zipf, kept_as_text, named, normal, number, range};
use crate::work::envelope::ENVELOPE_BYTES;
use runtime::random::Random;
use std::str::FromStr;
use std::sync::Arc;

/// The largest value that can be asked for.
const MAX_BYTES: u32 = 16_777_216;
const MIN_BYTES: u32 = ENVELOPE_BYTES as u32;
/// Draws by which the mean of a distribution without a closed form is found.
const MEAN_DRAWS: u32 = 100_000;

/// Bytes of a record's value, envelope included.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sizes {
    Fixed(u32),
    Uniform(u32, u32),
    LogNormal {
        mean: f64,
        sigma: f64,
        max: u32,
    },
    Zipf {
        min: u32,
        ranks: Zipf,
    },
    Weighted(Vec<(u32, f64)>),
    /// The lengths of a file's lines.
    Sample {
        path: String,
        sizes: Arc<Vec<u32>>,
    },
}

fn bytes(text: &str) -> Option<u32> {
    let value = number(text.strip_suffix('B').unwrap_or(text))?;
    (value >= f64::from(MIN_BYTES) && value <= f64::from(MAX_BYTES)).then_some(value as u32)
}

fn bytes_range(text: &str) -> Option<(u32, u32)> {
    let (from, to) = range(text)?;
    let (from, to) = (bytes(&from.to_string())?, bytes(&to.to_string())?);
    (from <= to).then_some((from, to))
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = named(text);
        let parts: Vec<&str> = rest.split(',').collect();
        let parsed = match (name, &parts[..]) {
            ("uniform", _) => bytes_range(rest).map(|(a, b)| Self::Uniform(a, b)),
            ("lognormal", [mean, sigma, max @ ..]) if max.len() <= 1 => (|| {
                let sigma = number(sigma).filter(|sigma| *sigma <= 4.0)?;
                let max = max.first().map_or(Some(MAX_BYTES), |max| bytes(max))?;
                Some(Self::LogNormal { mean: f64::from(bytes(mean)?), sigma, max })
            })(),
            ("zipf", [sizes, s]) => (|| {
                let (min, max) = bytes_range(sizes)?;
                let s = number(s).filter(|s| (0.01..=10.0).contains(s))?;
                Some(Self::Zipf { min, ranks: Zipf::new(u64::from(max - min) + 1, s) })
            })(),
            ("weighted", parts) => {
                let each = |part: &&str| -> Option<(u32, f64)> {
                    let (size, weight) = part.split_once('=')?;
                    Some((bytes(size)?, number(weight)?))
                };
                let weights: Option<Vec<_>> = parts.iter().map(each).collect();
                weights.filter(|w| w.iter().any(|(_, weight)| *weight > 0.0)).map(Self::Weighted)
            }
            ("file", _) => return Self::sample(rest),
            _ => bytes(text).map(Self::Fixed),
        };
        parsed.ok_or_else(|| {
            format!(
                "expected bytes from {MIN_BYTES} to {MAX_BYTES}, as 1024 or 1Ki, uniform:100..2000, \
                 lognormal:MEAN,SIGMA[,MAX], zipf:MIN..MAX,S, weighted:256=60,1k=30,16k=10 or \
                 file:PATH (the lengths of its lines)"
            )
        })
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Uniform(from, to) => write!(f, "uniform:{from}..{to}"),
            Self::LogNormal { mean, sigma, max } => write!(f, "lognormal:{mean},{sigma},{max}"),
            Self::Zipf { min, ranks } => {
                write!(f, "zipf:{min}..{},{}", u64::from(*min) + ranks.n - 1, ranks.s)
            }
            Self::Weighted(weights) => {
                let each: Vec<_> = weights.iter().map(|(size, w)| format!("{size}={w}")).collect();
                write!(f, "weighted:{}", each.join(","))
            }
            Self::Sample { path, .. } => write!(f, "file:{path}"),
        }
    }
}
kept_as_text!(Sizes);

impl Sizes {
    fn sample(path: &str) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let sizes: Vec<u32> = lines
            .map(|line| {
                (line.len() as u64).clamp(u64::from(MIN_BYTES), u64::from(MAX_BYTES)) as u32
            })
            .collect();
        if sizes.is_empty() {
            return Err(format!("{path} has no line that is not empty"));
        }
        Ok(Self::Sample { path: path.to_owned(), sizes: Arc::new(sizes) })
    }

    pub(crate) fn next(&self, random: &mut Random) -> usize {
        let size = match self {
            Self::Fixed(size) => *size,
            Self::Uniform(from, to) => from + random.below(u64::from(to - from) + 1) as u32,
            Self::LogNormal { mean, sigma, max } => {
                // The mean of a log-normal is exp(mu + sigma^2 / 2).
                let mu = mean.ln() - sigma * sigma / 2.0;
                let size = (mu + sigma * normal(random)).exp();
                size.clamp(f64::from(MIN_BYTES), f64::from(*max)) as u32
            }
            Self::Zipf { min, ranks } => min + (ranks.next(random) - 1) as u32,
            Self::Weighted(weights) => {
                let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
                let mut left = super::unit(random) * total;
                let chosen = weights.iter().find(|(_, weight)| {
                    left -= weight;
                    left <= 0.0
                });
                chosen.unwrap_or(&weights[weights.len() - 1]).0
            }
            Self::Sample { sizes, .. } => sizes[random.below(sizes.len() as u64) as usize],
        };
        size as usize
    }

    /// Bytes of a record on average, found by drawing where there is no formula.
    pub(crate) fn mean(&self) -> f64 {
        match self {
            Self::Fixed(size) => f64::from(*size),
            Self::Uniform(from, to) => (f64::from(*from) + f64::from(*to)) / 2.0,
            _ => {
                let mut random = Random::new(1);
                let total: u64 = (0..MEAN_DRAWS).map(|_| self.next(&mut random) as u64).sum();
                total as f64 / f64::from(MEAN_DRAWS)
            }
        }
    }

    pub(crate) fn max(&self) -> usize {
        let max = match self {
            Self::Fixed(size) => *size,
            Self::Uniform(_, to) => *to,
            Self::LogNormal { max, .. } => *max,
            Self::Zipf { min, ranks } => min + (ranks.n - 1) as u32,
            Self::Weighted(weights) => weights.iter().map(|(size, _)| *size).max().unwrap_or(0),
            Self::Sample { sizes, .. } => sizes.iter().copied().max().unwrap_or(0),
        };
        max as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_their_mean_and_bounds() {
        for (text, mean) in [
            ("1Ki", 1024.0),
            ("uniform:100..300", 200.0),
            ("lognormal:1000,0.5", 1000.0),
            ("weighted:100=1,1000=3", 775.0),
        ] {
            let sizes: Sizes = text.parse().unwrap();
            let mut random = Random::new(3);
            let drawn: Vec<usize> = (0..100_000).map(|_| sizes.next(&mut random)).collect();
            let found = drawn.iter().sum::<usize>() as f64 / drawn.len() as f64;
            assert!((found / mean - 1.0).abs() < 0.02, "{text}: {found}");
            assert!((sizes.mean() / mean - 1.0).abs() < 0.02, "{text}");
            assert!(drawn.iter().all(|size| *size <= sizes.max()), "{text}");
            assert_eq!(sizes.to_string().parse::<Sizes>().unwrap(), sizes);
        }
        let zipf: Sizes = "zipf:100..1000,1.1".parse().unwrap();
        assert_eq!(zipf.max(), 1000);
        assert!(zipf.mean() < 300.0);
        assert_eq!(zipf.to_string().parse::<Sizes>().unwrap(), zipf);
        for bad in
            ["39", "uniform:5..4", "lognormal:1k", "weighted:", "17M", "file:/no/such", "zipf:1k"]
        {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }
}
