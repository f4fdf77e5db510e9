//! Objectives: `e2e.p99<=25ms` and the like, read from flags and judged on a result.

use crate::judge::result::{LatencyFound, Objective, RunResult};
use crate::load::{kept_as_text, number, seconds};
use std::str::FromStr;

/// What can be compared, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Milliseconds,
    Percent,
    Count,
}

/// One objective.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assertion {
    text: String,
    metric: String,
    comparison: Comparison,
    wanted: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    AtMost,
    Below,
    AtLeast,
    Above,
    Equal,
}

/// Metrics that are not percentiles.
const METRICS: [(&str, Unit); 15] = [
    ("rate", Unit::Percent),
    ("throughput", Unit::Count),
    ("consumed", Unit::Count),
    ("lag.max", Unit::Count),
    ("lag.end", Unit::Count),
    ("lag.slope", Unit::Count),
    ("lag.time.max", Unit::Milliseconds),
    ("drain", Unit::Milliseconds),
    ("errors", Unit::Count),
    ("failed", Unit::Count),
    ("lost", Unit::Count),
    ("duplicated", Unit::Count),
    ("out-of-order", Unit::Count),
    ("outage.max", Unit::Milliseconds),
    ("broker.cpu", Unit::Count),
];
const LATENCIES: [&str; 5] = ["produce", "e2e", "service", "queue", "lateness"];
const STATISTICS: [&str; 7] = ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"];

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let operators = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("<", Comparison::Below),
            (">", Comparison::Above),
        ];
        let found = operators.iter().find_map(|(operator, comparison)| {
            let (metric, value) = compact.split_once(operator)?;
            Some((metric.to_owned(), *comparison, value.to_owned()))
        });
        let (metric, comparison, value) =
            found.ok_or("expected METRIC<=VALUE, with <=, <, >=, > or ==")?;
        let unit = unit_of(&metric).ok_or_else(|| {
            let others: Vec<_> = METRICS.iter().map(|(name, _)| *name).collect();
            format!(
                "{metric:?} is not known: there are {}, each with .{}; and {}",
                LATENCIES.join(", "),
                STATISTICS.join(", ."),
                others.join(", ")
            )
        })?;
        let wanted = match unit {
            Unit::Milliseconds => seconds(&value).ok().map(|seconds| seconds * 1e3),
            Unit::Percent => number(value.strip_suffix('%').unwrap_or(&value)),
            Unit::Count => number(&value),
        };
        let wanted = wanted.ok_or_else(|| match unit {
            Unit::Milliseconds => format!("{value:?}: expected a time, as 25ms or 1.5s"),
            Unit::Percent => format!("{value:?}: expected percent, as 99%"),
            Unit::Count => format!("{value:?}: expected a number, as 0 or 100k"),
        })?;
        Ok(Self { text: compact, metric, comparison, wanted })
    }
}

impl std::fmt::Display for Assertion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
kept_as_text!(Assertion);

fn unit_of(metric: &str) -> Option<Unit> {
    if let Some((latency, statistic)) = metric.split_once('.')
        && (LATENCIES.contains(&latency) || latency == "ack")
    {
        return STATISTICS.contains(&statistic).then_some(Unit::Milliseconds);
    }
    METRICS.iter().find(|(name, _)| *name == metric).map(|(_, unit)| *unit)
}

fn statistic(latency: &LatencyFound, name: &str) -> Option<f64> {
    match name {
        "max" => (latency.count > 0).then_some(latency.max_ms),
        name => {
            let at = STATISTICS.iter().position(|statistic| *statistic == name)?;
            latency.percentiles()[at]
        }
    }
}

impl Assertion {
    pub(crate) fn needs_consumers(&self) -> bool {
        ["e2e.", "lag.", "consumed", "drain", "lost", "duplicated", "out-of-order"]
            .iter()
            .any(|start| self.metric.starts_with(start))
    }

    pub(crate) fn needs_acks(&self) -> bool {
        ["produce.", "ack.", "service."].iter().any(|start| self.metric.starts_with(start))
    }

    /// The value that is judged; `None` if the run was too short, or did not see it.
    fn found(&self, result: &RunResult) -> Option<f64> {
        let latency = &result.latency;
        if let Some((of, name)) = self.metric.split_once('.') {
            let of = match of {
                "produce" | "ack" => Some(&latency.produce),
                "e2e" => Some(&latency.end_to_end),
                "service" => Some(&latency.service),
                "queue" => Some(&latency.client_queue),
                "lateness" => Some(&latency.generator_lateness),
                _ => None,
            };
            if let Some(of) = of {
                return statistic(of, name);
            }
        }
        let groups = &result.lag.groups;
        let verified = &result.verification;
        let over_groups = |of: fn(&crate::judge::result::GroupLag) -> f64| {
            groups.iter().map(of).reduce(f64::max).filter(|_| result.lag.samples > 0)
        };
        let known = |count: u64| verified.complete.then_some(count as f64);
        match self.metric.as_str() {
            "rate" => Some(result.throughput.schedule_met * 100.0),
            "throughput" => Some(result.throughput.acknowledged_per_s),
            "consumed" => Some(result.throughput.consumed_per_s),
            "lag.max" => over_groups(|group| group.max_records as f64),
            "lag.end" => Some(result.lag.end_records as f64),
            // The lower end of the interval: growing is claimed only where it is sure.
            "lag.slope" => {
                let slopes: Option<Vec<f64>> =
                    groups.iter().map(|group| group.slope_per_s.map(|(_, low, _)| low)).collect();
                slopes?.into_iter().reduce(f64::max)
            }
            "lag.time.max" => over_groups(|group| group.max_time_ms),
            "drain" => result.lag.drain_s.map(|seconds| seconds * 1e3),
            "errors" => Some(result.errors.values().sum::<u64>() as f64),
            "failed" => Some((result.failed_records + result.unsent_records) as f64),
            "lost" => known(verified.lost),
            "duplicated" => known(verified.duplicated),
            "out-of-order" => known(verified.out_of_order),
            "outage.max" => Some(
                result
                    .faults
                    .iter()
                    .filter_map(|fault| fault.outage_s)
                    .map(|(from, to)| (to - from) * 1e3)
                    .fold(0.0, f64::max),
            ),
            "broker.cpu" => {
                result.resources.broker.as_ref().map(|used| used.cpu_s / result.measured_s)
            }
            _ => None,
        }
    }

    pub(crate) fn judge(&self, result: &RunResult) -> Objective {
        let found = self.found(result);
        let kept = found.map(|found| match self.comparison {
            Comparison::AtMost => found <= self.wanted,
            Comparison::Below => found < self.wanted,
            Comparison::AtLeast => found >= self.wanted,
            Comparison::Above => found > self.wanted,
            Comparison::Equal => (found - self.wanted).abs() < 1e-9,
        });
        // What did not end is at least so long: an upper bound on it cannot be shown to hold.
        let outcome = match kept {
            Some(true) => "PASS",
            Some(false) => "FAIL",
            None => "INCONCLUSIVE",
        };
        Objective { objective: self.text.clone(), found, outcome: outcome.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_and_nonsense_is_named() {
        for good in ["e2e.p99<=25ms", "ack.p99.9 < 50ms", "rate>=99%", "lag.max<100k", "lost==0"] {
            let read: Assertion = good.parse().unwrap();
            assert_eq!(read.to_string().parse::<Assertion>().unwrap(), read);
        }
        let e2e: Assertion = "e2e.p99<=25ms".parse().unwrap();
        assert!((e2e.wanted - 25.0).abs() < 1e-9 && e2e.needs_consumers() && !e2e.needs_acks());
        for (bad, named) in [
            ("e2e.p98<=5ms", "e2e.p98"),
            ("latency<5ms", "latency"),
            ("e2e.p99", "METRIC"),
            ("e2e.p99<=fast", "fast"),
            ("rate>=lots", "percent"),
        ] {
            let why = bad.parse::<Assertion>().unwrap_err();
            assert!(why.contains(named), "{bad}: {why}");
        }
    }
}
