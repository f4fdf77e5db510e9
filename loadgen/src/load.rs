//! The load as values: when, how large, for which key, with what bytes; all pure functions of a seed.

pub(crate) mod keys;
pub(crate) mod payload;
pub(crate) mod schedule;
pub(crate) mod sizes;

use runtime::random::Random;
use std::str::FromStr;

/// A number above 0 and at most 1.
fn unit(random: &mut Random) -> f64 {
    ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// A number from the standard normal distribution (Box, Muller 1958).
fn normal(random: &mut Random) -> f64 {
    let (a, b) = (unit(random), unit(random));
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// Ranks from 1 to `n`, rank k with weight 1/k^s, by rejection-inversion (Hörmann, Derflinger 1996):
/// constant time and memory for any `n`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Zipf {
    pub(crate) n: u64,
    pub(crate) s: f64,
    h_x1: f64,
    h_n: f64,
    squeeze: f64,
}

impl Zipf {
    pub(crate) fn new(n: u64, s: f64) -> Self {
        let mut zipf = Self { n, s, h_x1: 0.0, h_n: 0.0, squeeze: 0.0 };
        zipf.h_x1 = zipf.integral(1.5) - 1.0;
        zipf.h_n = zipf.integral(n as f64 + 0.5);
        zipf.squeeze = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.s * x.ln()).exp()
    }

    /// The integral of the weight from 1 to `x`, shifted so that it is smooth in `s` at 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.s) * log;
        if t.abs() > 1e-8 { t.exp_m1() / (1.0 - self.s) } else { log * (1.0 + t / 2.0) }
    }

    fn inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.s)).max(-1.0);
        let log = if t.abs() > 1e-8 { t.ln_1p() / (1.0 - self.s) } else { y * (1.0 - t / 2.0) };
        log.exp()
    }

    pub(crate) fn next(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.h_n + unit(random) * (self.h_x1 - self.h_n);
            let x = self.inverse(u);
            let k = x.round().clamp(1.0, self.n as f64);
            if k - x <= self.squeeze || u >= self.integral(k + 0.5) - self.weight(k) {
                return k as u64;
            }
        }
    }
}

/// Reads a number with an optional unit: 100k, 1.5M, 2G (powers of 1000); 64Ki, 1Mi (of 1024).
pub(crate) fn number(text: &str) -> Option<f64> {
    let units =
        [("Ki", 1024.0), ("Mi", 1_048_576.0), ("Gi", 1_073_741_824.0), ("k", 1e3), ("K", 1e3)];
    let units = units.into_iter().chain([("M", 1e6), ("G", 1e9), ("T", 1e12)]);
    let found = units.into_iter().find_map(|(unit, by)| Some((text.strip_suffix(unit)?, by)));
    let (digits, by) = found.unwrap_or((text, 1.0));
    let value = digits.trim().parse::<f64>().ok()? * by;
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// Reads seconds: 30s, 5m, 500ms, 2h; a bare number is seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let found = units.iter().find_map(|(unit, by)| Some((text.strip_suffix(unit)?, *by)));
    let (digits, by) = found.unwrap_or((text, 1.0));
    match digits.parse::<f64>() {
        Ok(value) if (0.0..=1e7).contains(&(value * by)) => Ok(value * by),
        _ => Err("expected a duration, as 30s, 5m or 500ms".into()),
    }
}

/// Splits `A..B`.
fn range(text: &str) -> Option<(f64, f64)> {
    let (from, to) = text.split_once("..")?;
    Some((number(from)?, number(to)?))
}

/// `name:rest`, or `name` alone.
fn named(text: &str) -> (&str, &str) {
    text.split_once(':').unwrap_or((text, ""))
}

/// Values that are written and kept as the text people give them.
macro_rules! kept_as_text {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
pub(crate) use kept_as_text;

/// Records or bytes per second, or as fast as it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    Max,
    Records(f64),
    Bytes(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if ["max", "-1", "0"].contains(&text) {
            return Ok(Self::Max);
        }
        let bytes = text.strip_suffix("/s").unwrap_or(text).strip_suffix('B');
        let value = number(bytes.unwrap_or(text)).filter(|rate| (0.001..=1e12).contains(rate));
        match (value, bytes) {
            (Some(rate), Some(_)) => Ok(Self::Bytes(rate)),
            (Some(rate), None) => Ok(Self::Records(rate)),
            (None, _) => Err("expected records per second, as 100000 or 100k; bytes per second, as 50MB; or max for as fast as it goes".into()),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Records(rate) => write!(f, "{rate}"),
            Self::Bytes(rate) => write!(f, "{rate}B"),
        }
    }
}
kept_as_text!(Rate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_ranks_have_their_weights() {
        for s in [0.8, 1.0, 1.3] {
            let (n, draws) = (50, 400_000);
            let zipf = Zipf::new(n, s);
            let mut random = Random::new(7);
            let mut counts = vec![0u64; n as usize];
            (0..draws).for_each(|_| counts[zipf.next(&mut random) as usize - 1] += 1);
            let total: f64 = (1..=n).map(|k| (k as f64).powf(-s)).sum();
            for (at, count) in counts.iter().enumerate() {
                let expected = ((at + 1) as f64).powf(-s) / total * f64::from(draws);
                let off = (*count as f64 - expected).abs() / expected.sqrt();
                assert!(off < 5.0, "s {s}, rank {}: {count} for {expected}", at + 1);
            }
        }
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!("100k".parse(), Ok(Rate::Records(100_000.0)));
        assert_eq!("1.5M".parse(), Ok(Rate::Records(1_500_000.0)));
        assert_eq!("50MB".parse(), Ok(Rate::Bytes(50e6)));
        assert_eq!("64KiB/s".parse(), Ok(Rate::Bytes(65_536.0)));
        for max in ["max", "-1", "0"] {
            assert_eq!(max.parse(), Ok(Rate::Max));
        }
        for bad in ["fast", "-5", "", "1e400", "kB"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        for rate in ["100000", "50000000B", "max"] {
            assert_eq!(rate.parse::<Rate>().unwrap().to_string(), rate);
        }
    }
}
