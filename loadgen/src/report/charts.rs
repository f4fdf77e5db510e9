//! Charts as SVG text, without a script: lines and heat maps that open offline and print.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 40.0;
/// A logarithmic axis shows no less than this share of its largest value.
const LOG_SHARE_MIN: f64 = 1e-6;
/// Points of a line; more are thinned, keeping each stretch's largest.
const POINTS_MAX: usize = 600;

/// Colours that are told apart also by most colour-blind people (Okabe, Ito 2008).
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000"];

/// One line of a chart.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) dashed: bool,
    /// Only the points, unconnected.
    pub(crate) dots: bool,
}

impl Line {
    pub(crate) fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, dashed: false, dots: false }
    }

    pub(crate) fn dashed(mut self) -> Self {
        self.dashed = true;
        self
    }

    pub(crate) fn dots(mut self) -> Self {
        self.dots = true;
        self
    }
}

/// How an axis counts.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    Linear,
    /// Linear, from the first value to the last: time.
    Exact,
    Log,
    /// Percentiles: equal steps halve or tenth what is left.
    Percentile,
}

/// What is drawn around the lines.
pub(crate) struct Chart<'c> {
    pub(crate) title: &'c str,
    pub(crate) x: &'c str,
    pub(crate) y: &'c str,
    pub(crate) x_scale: Scale,
    pub(crate) y_scale: Scale,
    /// Stretches of x with a colour behind them: warm-up, faults.
    pub(crate) shaded: Vec<(f64, f64, &'static str)>,
}

impl<'c> Chart<'c> {
    pub(crate) fn new(title: &'c str, x: &'c str, y: &'c str) -> Self {
        Self { title, x, y, x_scale: Scale::Linear, y_scale: Scale::Linear, shaded: Vec::new() }
    }
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One axis: from where to where, and how.
struct Axis {
    from: f64,
    to: f64,
    scale: Scale,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, scale: Scale) -> Self {
        let values: Vec<f64> =
            values.filter(|v| v.is_finite() && (scale != Scale::Log || *v > 0.0)).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if values.is_empty() {
            return Self { from: if scale == Scale::Log { 1.0 } else { 0.0 }, to: 10.0, scale };
        }
        match scale {
            Scale::Linear => {
                let from = if low > 0.0 { 0.0 } else { low };
                let step = nice_step((high - from).max(1e-9) / 5.0);
                let to = (high / step).ceil() * step;
                Self { from, to: if to > from { to } else { from + 1.0 }, scale }
            }
            Scale::Exact => {
                Self { from: low, to: if high > low { high } else { low + 1.0 }, scale }
            }
            Scale::Log => {
                // A nanosecond next to a second tells nobody anything.
                let from = 10f64.powf(low.max(high * LOG_SHARE_MIN).log10().floor());
                Self { from, to: 10f64.powf(high.log10().ceil()).max(from * 10.0), scale }
            }
            Scale::Percentile => Self { from: 0.0, to: high.min(99.9999), scale },
        }
    }

    /// Where a value is, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear | Scale::Exact => (value - self.from) / (self.to - self.from),
            Scale::Log => (value.max(self.from) / self.from).ln() / (self.to / self.from).ln(),
            Scale::Percentile => nines(value) / nines(self.to).max(0.1),
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear | Scale::Exact => {
                let step = nice_step((self.to - self.from) / 5.0);
                let first = (self.from / step).ceil() as i64;
                let last = (self.to / step).floor() as i64;
                (first..=last).map(|n| n as f64 * step).map(|value| (value, short(value))).collect()
            }
            Scale::Log => {
                let first = self.from.log10().round() as i32;
                let last = self.to.log10().round() as i32;
                (first..=last).map(|n| 10f64.powi(n)).map(|value| (value, short(value))).collect()
            }
            Scale::Percentile => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
                .into_iter()
                .filter(|value| *value <= self.to + 1e-9)
                .map(|value| (value, format!("p{value}")))
                .collect(),
        }
    }
}

/// How many nines: 90 is 1, 99 is 2.
fn nines(percentile: f64) -> f64 {
    -(1.0 - (percentile / 100.0).min(0.999_999_9)).log10()
}

fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.abs().max(1e-12).log10().floor());
    let share = rough / power;
    let nice = if share <= 1.0 {
        1.0
    } else if share <= 2.0 {
        2.0
    } else if share <= 5.0 {
        5.0
    } else {
        10.0
    };
    nice * power
}

/// A number as short as an axis wants it.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    let (scaled, unit) = match magnitude {
        m if m >= 1e9 => (value / 1e9, "G"),
        m if m >= 1e6 => (value / 1e6, "M"),
        m if m >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.6}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(POINTS_MAX).max(1);
    let largest = |stretch: &[(f64, f64)]| {
        stretch.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).expect("not empty")
    };
    points.chunks(each).map(largest).collect()
}

fn frame(out: &mut String, chart: &Chart<'_>, x: &Axis, y: &Axis) {
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\"><text class=\"title\" x=\"{LEFT}\" y=\"14\">{title}</text>",
        title = escape(chart.title)
    );
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for &(from, to, class) in &chart.shaded {
        let (a, b) = (px(x, from), px(x, to));
        if b > a {
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{a:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                b - a,
                bottom - TOP
            );
        }
    }
    for (value, label) in y.ticks() {
        let at = py(y, value);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (value, label) in x.ticks() {
        let at = px(x, value);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 14.0
        );
    }
    let _ = write!(
        out,
        "<text class=\"axis\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><text class=\"axis\" x=\"{right}\" y=\"14\" text-anchor=\"end\">{}</text>",
        HEIGHT - 8.0,
        escape(chart.x),
        escape(chart.y)
    );
}

fn px(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)
}

fn py(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.at(value) * (HEIGHT - TOP - BOTTOM)
}

/// Lines over each other.
pub(crate) fn lines(chart: &Chart<'_>, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let x = Axis::of(all().map(|point| point.0), chart.x_scale);
    let y = Axis::of(all().map(|point| point.1), chart.y_scale);
    let mut out = String::new();
    frame(&mut out, chart, &x, &y);
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<(f64, f64)> =
            thin(&line.points).into_iter().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
        if line.dots {
            for point in &points {
                let _ = write!(
                    out,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
                    px(&x, point.0),
                    py(&y, point.1)
                );
            }
        } else {
            let path: Vec<String> = points
                .iter()
                .map(|point| format!("{:.1} {:.1}", px(&x, point.0), py(&y, point.1)))
                .collect();
            if !path.is_empty() {
                let dash = if line.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
                let _ = write!(
                    out,
                    "<path class=\"line\" stroke=\"{colour}\"{dash} d=\"M{}\"/>",
                    path.join("L")
                );
            }
        }
    }
    out += "</svg><p class=\"legend\">";
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let _ =
            write!(out, "<span><i style=\"background:{colour}\"></i>{}</span>", escape(&line.name));
    }
    out += "</p>";
    out
}

/// How many latencies fell where, over time: darker is more, by logarithm.
pub(crate) fn heat(chart: &Chart<'_>, edges: &[f64], columns: &[(f64, Vec<u64>)]) -> String {
    let used = |column: &(f64, Vec<u64>)| {
        let first = column.1.iter().position(|count| *count > 0)?;
        let last = column.1.iter().rposition(|count| *count > 0)?;
        Some((first, last))
    };
    let spans: Vec<(usize, usize)> = columns.iter().filter_map(used).collect();
    let Some(low) = spans.iter().map(|span| span.0).min() else { return String::new() };
    let high = spans.iter().map(|span| span.1).max().unwrap_or(low);
    let edge = |at: usize| edges[at.min(edges.len() - 1)];
    let y = Axis {
        from: edge(low.saturating_sub(1)),
        to: edge(high).max(edge(low) * 1.5),
        scale: Scale::Log,
    };
    let first = columns[0].0 - 1.0;
    let x = Axis { from: first, to: columns[columns.len() - 1].0, scale: Scale::Linear };
    let most = columns.iter().flat_map(|column| &column.1).copied().max().unwrap_or(1) as f64;
    let mut out = String::new();
    frame(&mut out, chart, &x, &y);
    // Long runs: neighbours share a column.
    let each = columns.len().div_ceil(240).max(1);
    for group in columns.chunks(each) {
        let from = group[0].0 - 1.0;
        let to = group[group.len() - 1].0;
        for bucket in low..=high {
            let count: u64 = group.iter().map(|column| column.1[bucket]).sum();
            if count == 0 {
                continue;
            }
            let strength = (1.0 + count as f64).ln() / (1.0 + most * each as f64).ln();
            let (top, bottom) = (py(&y, edge(bucket)), py(&y, edge(bucket.saturating_sub(1))));
            let _ = write!(
                out,
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#0072b2\" fill-opacity=\"{:.2}\"><title>{:.0} s, up to {:.3} ms: {count}</title></rect>",
                px(&x, from),
                (px(&x, to) - px(&x, from)).max(0.5),
                (bottom - top).max(0.5),
                0.08 + 0.92 * strength,
                to,
                edge(bucket)
            );
        }
    }
    out += "</svg>";
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_every_value_and_have_readable_ticks() {
        let axis = Axis::of([3.0, 97.0].into_iter(), Scale::Linear);
        assert_eq!((axis.from, axis.to), (0.0, 100.0));
        assert_eq!(axis.ticks().last().unwrap().1, "100");
        let time = Axis::of([-1.0, 6.5].into_iter(), Scale::Exact);
        assert_eq!((time.from, time.to), (-1.0, 6.5));
        let log = Axis::of([0.3, 45.0].into_iter(), Scale::Log);
        assert_eq!(
            log.ticks().iter().map(|t| t.1.as_str()).collect::<Vec<_>>(),
            ["0.1", "1", "10", "100"]
        );
        assert!((log.at(100.0) - 1.0).abs() < 1e-9 && log.at(0.1).abs() < 1e-9);
        let p = Axis::of([0.0, 99.99].into_iter(), Scale::Percentile);
        assert!((p.at(90.0) * 2.0 - p.at(99.0)).abs() < 1e-9);
        assert_eq!(
            (short(1_500_000.0), short(0.05), short(-20_000.0)),
            ("1.5M".into(), "0.05".into(), "-20k".into())
        );
    }

    #[test]
    fn thinning_keeps_the_peaks_and_names_are_escaped() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|n| (f64::from(n), 1.0)).collect();
        points[7_777].1 = 99.0;
        assert!(thin(&points).len() <= POINTS_MAX && thin(&points).iter().any(|p| p.1 == 99.0));
        let chart = Chart::new("<a & b>", "s", "ms");
        let svg = lines(&chart, &[Line::new("<x>", points)]);
        assert!(
            svg.contains("&lt;a &amp; b&gt;") && svg.contains("&lt;x&gt;") && !svg.contains("<x>")
        );
        // Nothing to draw is no reason to fail.
        assert!(lines(&chart, &[Line::new("", vec![])]).contains("</svg>"));
        assert_eq!(heat(&chart, &[1.0], &[]), "");
    }
}
