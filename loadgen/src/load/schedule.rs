//! When each record is to be sent: fixed before the run by profile, arrivals and seed.

use super::{kept_as_text, named, number, range, unit};
use clap::ValueEnum;
use runtime::clock::Nanos;
use runtime::random::Random;
use std::str::FromStr;
use std::sync::Arc;

/// How the rate moves over the measured time. Rates are records per second.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Profile {
    Constant,
    Ramp { from: f64, to: f64 },
    Steps(Vec<f64>),
    Burst { base: f64, peak: f64, on_s: f64, period_s: f64 },
    Diurnal { low: f64, high: f64, period_s: f64 },
}

/// Pieces that a sine is made of, per period; the rate between them is a straight line.
const SINE_PIECES: usize = 64;

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = named(text);
        let seconds = |text: &str| crate::load::seconds(text).ok();
        let parsed = match name {
            "constant" if rest.is_empty() => Some(Self::Constant),
            "ramp" => range(rest).map(|(from, to)| Self::Ramp { from, to }),
            "steps" => {
                let rates: Option<Vec<f64>> = rest.split(',').map(number).collect();
                rates.map(Self::Steps)
            }
            "burst" => match rest.split(',').collect::<Vec<_>>()[..] {
                [base, peak, on, period] => (|| {
                    let (on_s, period_s) = (seconds(on)?, seconds(period)?);
                    let good = on_s > 0.0 && on_s < period_s;
                    let (base, peak) = (number(base)?, number(peak)?);
                    good.then_some(Self::Burst { base, peak, on_s, period_s })
                })(),
                _ => None,
            },
            "diurnal" => rest.split_once(',').and_then(|(rates, period)| {
                let (low, high) = range(rates)?;
                let period_s = seconds(period).filter(|period| *period > 0.0)?;
                Some(Self::Diurnal { low, high, period_s })
            }),
            _ => None,
        };
        let parsed = parsed.filter(Self::plans_some);
        parsed.ok_or_else(|| {
            "expected constant, ramp:FROM..TO, steps:RATE,RATE,.., burst:BASE,PEAK,ON,PERIOD (as \
             burst:10k,50k,1s,10s) or diurnal:LOW..HIGH,PERIOD, in records per second, not all 0"
                .to_owned()
        })
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Ramp { from, to } => write!(f, "ramp:{from}..{to}"),
            Self::Steps(rates) => {
                let rates: Vec<_> = rates.iter().map(f64::to_string).collect();
                write!(f, "steps:{}", rates.join(","))
            }
            Self::Burst { base, peak, on_s, period_s } => {
                write!(f, "burst:{base},{peak},{on_s}s,{period_s}s")
            }
            Self::Diurnal { low, high, period_s } => write!(f, "diurnal:{low}..{high},{period_s}s"),
        }
    }
}
kept_as_text!(Profile);

impl Profile {
    /// Whether any record is planned at all.
    fn plans_some(&self) -> bool {
        match self {
            Self::Constant => true,
            Self::Ramp { from, to } => from + to > 0.0,
            Self::Steps(rates) => rates.iter().any(|rate| *rate > 0.0),
            Self::Burst { base, peak, .. } => base + peak > 0.0,
            Self::Diurnal { low, high, .. } => low + high > 0.0,
        }
    }

    /// Corners (second, rate before it, rate after it) over `seconds`.
    fn pieces(&self, rate: f64, seconds: f64) -> Vec<(f64, f64, f64)> {
        match self {
            Self::Constant => vec![(seconds, rate, rate)],
            Self::Ramp { from, to } => vec![(seconds, *from, *to)],
            Self::Steps(rates) => {
                let each = seconds / rates.len() as f64;
                rates.iter().map(|rate| (each, *rate, *rate)).collect()
            }
            Self::Burst { base, peak, on_s, period_s } => {
                let periods = (seconds / period_s).ceil() as usize;
                let one = [(period_s - on_s, *base, *base), (*on_s, *peak, *peak)];
                (0..periods).flat_map(|_| one).collect()
            }
            Self::Diurnal { low, high, period_s } => {
                // From the low at the start to the high at half-time.
                let at = |piece: usize| {
                    let angle = std::f64::consts::TAU * piece as f64 / SINE_PIECES as f64;
                    low + (high - low) * (1.0 - angle.cos()) / 2.0
                };
                let pieces = (seconds / period_s * SINE_PIECES as f64).ceil() as usize;
                let each = period_s / SINE_PIECES as f64;
                (0..pieces).map(|piece| (each, at(piece), at(piece + 1))).collect()
            }
        }
    }
}

/// Whether records come evenly or by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arrivals {
    Constant,
    Poisson,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start_s: f64,
    records_before: f64,
    rate: f64,
    slope: f64,
}

/// The planned rate over warm-up and measured time, as straight pieces.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pieces: Vec<Piece>,
    warmup_s: f64,
}

impl Plan {
    /// Warm-up goes at the rate that the profile begins with; the last piece never ends.
    pub(crate) fn new(profile: &Profile, rate: f64, warmup_s: f64, seconds: f64) -> Self {
        let mut corners = profile.pieces(rate, seconds);
        if corners.is_empty() {
            corners.push((seconds, rate, rate));
        }
        let first = corners[0].1;
        let (mut start_s, mut records_before) = (0.0, 0.0);
        let mut pieces = Vec::with_capacity(corners.len() + 2);
        let last = corners[corners.len() - 1].2;
        for (long, from, to) in std::iter::once((warmup_s, first, first)).chain(corners).chain([(
            f64::INFINITY,
            last.max(1.0),
            last.max(1.0),
        )]) {
            if long <= 0.0 {
                continue;
            }
            let slope = if long.is_finite() { (to - from) / long } else { 0.0 };
            pieces.push(Piece { start_s, records_before, rate: from, slope });
            start_s += long;
            records_before += (from + to) / 2.0 * long;
        }
        Self { pieces, warmup_s }
    }

    /// Seconds after the start at which `record` (from 0) is due. `cursor` is where the last answer
    /// was; records may only grow.
    fn seconds_of(&self, cursor: &mut usize, record: f64) -> f64 {
        while self.pieces.get(*cursor + 1).is_some_and(|next| record >= next.records_before) {
            *cursor += 1;
        }
        let piece = &self.pieces[*cursor];
        let within = (record - piece.records_before).max(0.0);
        let t = if piece.slope == 0.0 {
            within / piece.rate
        } else {
            // Solves rate t + slope t^2 / 2 = within, in the form that stays exact for small slopes.
            let root = (piece.rate * piece.rate + 2.0 * piece.slope * within).max(0.0).sqrt();
            2.0 * within / (piece.rate + root)
        };
        piece.start_s + if t.is_finite() { t } else { 0.0 }
    }

    /// Records per second planned at a second of the measured time; negative ones are warm-up.
    pub(crate) fn rate_at(&self, seconds: f64) -> f64 {
        let at = (self.warmup_s + seconds).max(0.0);
        let after = self.pieces.partition_point(|piece| piece.start_s <= at);
        let piece = &self.pieces[after.saturating_sub(1)];
        piece.rate + piece.slope * (at - piece.start_s)
    }
}

/// One producer's part of a plan. Evenly: record `n` of producer `p` of `P` is record `n * P + p` of
/// the whole. By chance: a Poisson process of its own, of a `P`th of the rate.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    plan: Option<Arc<Plan>>,
    start: Nanos,
    producers: f64,
    record: f64,
    cursor: usize,
    chance: Option<Random>,
}

impl Schedule {
    /// The part of producer `number` (from 0) of `producers`; without a plan it goes as fast as it
    /// can.
    pub(crate) fn new(
        plan: Option<Arc<Plan>>,
        arrivals: Arrivals,
        start: Nanos,
        seed: u64,
        producers: usize,
        number: usize,
    ) -> Self {
        let poisson = arrivals == Arrivals::Poisson;
        let mut chance = poisson
            .then(|| Random::new(seed ^ (number as u64).wrapping_mul(0xa076_1d64_78bd_642f)));
        let producers = producers as f64;
        let record = chance.as_mut().map_or(number as f64, |r| -unit(r).ln() * producers);
        Self { plan, start, producers, record, cursor: 0, chance }
    }

    pub(crate) fn is_open_loop(&self) -> bool {
        self.plan.is_some()
    }

    /// When the next record is planned; `now` if there is no plan.
    pub(crate) fn due(&mut self, now: Nanos) -> Nanos {
        match &self.plan {
            None => now,
            Some(plan) => {
                let seconds = plan.seconds_of(&mut self.cursor, self.record);
                Nanos(self.start.0 + (seconds * 1e9) as u64)
            }
        }
    }

    /// Goes on to the record after it.
    pub(crate) fn advance(&mut self) {
        self.record += match &mut self.chance {
            None => self.producers,
            Some(random) => -unit(random).ln() * self.producers,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(profile: &str, arrivals: Arrivals, producers: usize, seconds: f64) -> Vec<f64> {
        let profile = profile.parse().unwrap();
        let plan = Arc::new(Plan::new(&profile, 30_000.0, 0.0, seconds));
        let mut all = Vec::new();
        for number in 0..producers {
            let plan = Some(Arc::clone(&plan));
            let mut part = Schedule::new(plan, arrivals, Nanos(0), 9, producers, number);
            loop {
                let at = part.due(Nanos(0)).0 as f64 / 1e9;
                if at >= seconds {
                    break;
                }
                all.push(at);
                part.advance();
            }
        }
        all.sort_by(f64::total_cmp);
        all
    }

    #[test]
    fn producers_together_keep_the_rate_without_drift() {
        let all = planned("constant", Arrivals::Constant, 3, 2.0);
        assert_eq!(all.len(), 60_000);
        for (number, at) in all.iter().enumerate() {
            assert!((at - number as f64 / 30_000.0).abs() < 2e-9, "{number}: {at}");
        }
    }

    #[test]
    fn every_profile_plans_its_area_and_its_shape() {
        for (profile, total, first_half) in [
            ("ramp:0..10k", 20_000, 5_000),
            ("ramp:10k..0", 20_000, 15_000),
            ("steps:1k,3k", 8_000, 2_000),
            ("burst:1k,9k,1s,2s", 20_000, 10_000),
            ("diurnal:0..10k,4s", 20_000, 10_000),
        ] {
            for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
                let all = planned(profile, arrivals, 2, 4.0);
                let near = |count: usize, expected: i32| {
                    // Five standard deviations of a Poisson count; sines are made of straight lines.
                    let slack = 5.0 * f64::from(expected).sqrt();
                    (count as f64 - f64::from(expected)).abs() <= slack
                };
                assert!(near(all.len(), total), "{profile} {arrivals:?}: {}", all.len());
                let half = all.iter().filter(|at| **at < 2.0).count();
                assert!(near(half, first_half), "{profile} {arrivals:?}: first half {half}");
            }
            let read: Profile = profile.parse().unwrap();
            assert_eq!(read.to_string().parse::<Profile>().unwrap(), read);
        }
    }

    #[test]
    fn chance_is_exponential_and_repeatable() {
        let all = planned("constant", Arrivals::Poisson, 4, 1.0);
        assert_eq!(all, planned("constant", Arrivals::Poisson, 4, 1.0));
        let gaps: Vec<f64> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The standard deviation of exponential gaps equals their mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{}", variance.sqrt() / mean);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["ramp", "ramp:1", "steps:", "burst:1,2,3s", "burst:1,2,3s,2s", "ramp:0..0", "x"]
        {
            assert!(bad.parse::<Profile>().is_err(), "{bad}");
        }
    }
}
