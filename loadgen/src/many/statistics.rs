//! Statistics fit for noisy machines: medians, intervals by bootstrap, rank tests, robust slopes.

use runtime::random::Random;

/// Resamplings of a bootstrap.
const RESAMPLES: usize = 2_000;
/// Points up to which every pair makes a slope.
const SLOPE_POINTS_MAX: usize = 400;

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value at a share from 0 to 1, between neighbours by straight line.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// The 95 % interval of a statistic over the values, by percentile bootstrap.
pub(crate) fn bootstrap(
    values: &[f64],
    seed: u64,
    statistic: impl Fn(&[f64]) -> f64,
) -> (f64, f64) {
    let mut random = Random::new(seed);
    let mut drawn = vec![0.0; values.len()];
    let found: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for value in &mut drawn {
                *value = values[random.below(values.len() as u64) as usize];
            }
            statistic(&drawn)
        })
        .collect();
    (quantile(&found, 0.025), quantile(&found, 0.975))
}

/// Slope of y over x and its 95 % interval (Theil 1950, Sen 1968); `None` with fewer than 8 points.
pub(crate) fn theil_sen(points: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    if points.len() < 8 {
        return None;
    }
    // Of many points, some at even distances.
    let step = points.len().div_ceil(SLOPE_POINTS_MAX);
    let points: Vec<(f64, f64)> = points.iter().step_by(step).copied().collect();
    let n = points.len() as f64;
    let mut slopes = Vec::new();
    for (at, first) in points.iter().enumerate() {
        for second in &points[at + 1..] {
            if second.0 > first.0 {
                slopes.push((second.1 - first.1) / (second.0 - first.0));
            }
        }
    }
    slopes.sort_by(f64::total_cmp);
    let pairs = slopes.len() as f64;
    let half = 1.96 * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt() / 2.0;
    let at = |index: f64| slopes[(index.max(0.0) as usize).min(slopes.len() - 1)];
    Some((median(&slopes), at(pairs / 2.0 - half), at(pairs / 2.0 + half)))
}

/// The two-sided p-value of Mann and Whitney's rank test, exact by counting for small samples without
/// ties, else by the normal approximation with ties corrected.
pub(crate) fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let (m, n) = (a.len(), b.len());
    if m == 0 || n == 0 {
        return 1.0;
    }
    let mut u2 = 0usize;
    for x in a {
        for y in b {
            // Twice U, so that ties count whole.
            u2 += match x.total_cmp(y) {
                std::cmp::Ordering::Greater => 2,
                std::cmp::Ordering::Equal => 1,
                std::cmp::Ordering::Less => 0,
            };
        }
    }
    let mut all: Vec<f64> = a.iter().chain(b).copied().collect();
    all.sort_by(f64::total_cmp);
    let tied = all.windows(2).any(|pair| pair[0] == pair[1]);
    if !tied && m + n <= 40 {
        // ways[u]: orders of i and j values with that U, built up one value at a time.
        let mut ways = vec![vec![vec![0f64; m * n + 1]; n + 1]; m + 1];
        for i in 0..=m {
            for j in 0..=n {
                for u in 0..=i * j {
                    ways[i][j][u] = if i == 0 || j == 0 {
                        f64::from(u8::from(u == 0))
                    } else {
                        let last_is_a = if u >= j { ways[i - 1][j][u - j] } else { 0.0 };
                        last_is_a + ways[i][j - 1][u]
                    };
                }
            }
        }
        let counts = &ways[m][n];
        let total: f64 = counts.iter().sum();
        let u = (u2 / 2).min(m * n - u2 / 2);
        let tail: f64 = counts[..=u].iter().sum();
        return (2.0 * tail / total).min(1.0);
    }
    let (mf, nf) = (m as f64, n as f64);
    let mut ties = 0.0;
    let mut at = 0;
    while at < all.len() {
        let same = all[at..].iter().take_while(|value| **value == all[at]).count();
        let t = same as f64;
        ties += t * t * t - t;
        at += same;
    }
    let count = mf + nf;
    let variance = mf * nf / 12.0 * (count + 1.0 - ties / (count * (count - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = ((u2 as f64 / 2.0 - mf * nf / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    2.0 * normal_tail(z)
}

/// The share of the standard normal distribution above `z` (Abramowitz, Stegun 26.2.17).
fn normal_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let density = (-z * z / 2.0).exp() / (std::f64::consts::TAU).sqrt();
    let series = t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    density * series
}

/// Holm's correction (1979) of p-values for being many.
pub(crate) fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut corrected, mut largest) = (vec![0.0; values.len()], 0.0f64);
    for (rank, at) in order.into_iter().enumerate() {
        largest = largest.max(values[at] * (values.len() - rank) as f64).min(1.0);
        corrected[at] = largest;
    }
    corrected
}

/// Least squares with no negative coefficient (Lawson, Hanson 1974): x for which A x is nearest b.
pub(crate) fn nnls(rows: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let n = rows.first().map_or(0, Vec::len);
    // Columns of very different size are brought to length 1 first.
    let scale: Vec<f64> = (0..n)
        .map(|j| rows.iter().map(|row| row[j] * row[j]).sum::<f64>().sqrt().max(1e-300))
        .collect();
    let at = |i: usize, j: usize| rows[i][j] / scale[j];
    let mut x = vec![0.0; n];
    let mut passive = vec![false; n];
    for _ in 0..10 * n + 10 {
        let residual: Vec<f64> =
            (0..b.len()).map(|i| b[i] - (0..n).map(|j| at(i, j) * x[j]).sum::<f64>()).collect();
        let gradient = |j: usize| (0..b.len()).map(|i| at(i, j) * residual[i]).sum::<f64>();
        let best = (0..n)
            .filter(|j| !passive[*j])
            .map(|j| (j, gradient(j)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        match best {
            Some((j, slope)) if slope > 1e-10 => passive[j] = true,
            _ => break,
        }
        loop {
            let chosen: Vec<usize> = (0..n).filter(|j| passive[*j]).collect();
            let Some(solved) = least_squares(&chosen, b, &at) else {
                // Two columns say the same: leave out the newest.
                if let Some((j, _)) = best {
                    passive[j] = false;
                }
                break;
            };
            if solved.iter().all(|value| *value > 0.0) {
                x.fill(0.0);
                chosen.iter().zip(&solved).for_each(|(j, value)| x[*j] = *value);
                break;
            }
            let mut step = 1.0f64;
            for (j, value) in chosen.iter().zip(&solved) {
                if *value <= 0.0 {
                    step = step.min(x[*j] / (x[*j] - value).max(1e-300));
                }
            }
            for (j, value) in chosen.iter().zip(&solved) {
                x[*j] += step * (value - x[*j]);
                if x[*j] <= 1e-12 {
                    x[*j] = 0.0;
                    passive[*j] = false;
                }
            }
        }
    }
    x.iter().zip(&scale).map(|(value, scale)| value / scale).collect()
}

/// Solves the normal equations of some columns; `None` if they depend on each other.
fn least_squares(
    chosen: &[usize],
    b: &[f64],
    at: &impl Fn(usize, usize) -> f64,
) -> Option<Vec<f64>> {
    let k = chosen.len();
    let mut m = vec![vec![0.0; k + 1]; k];
    for (r, &j) in chosen.iter().enumerate() {
        for (c, &l) in chosen.iter().enumerate() {
            m[r][c] = (0..b.len()).map(|i| at(i, j) * at(i, l)).sum();
        }
        m[r][k] = (0..b.len()).map(|i| at(i, j) * b[i]).sum();
    }
    for column in 0..k {
        let pivot =
            (column..k).max_by(|a, b| m[*a][column].abs().total_cmp(&m[*b][column].abs()))?;
        if m[pivot][column].abs() < 1e-9 {
            return None;
        }
        m.swap(column, pivot);
        for row in 0..k {
            if row != column {
                let factor = m[row][column] / m[column][column];
                let source = m[column].clone();
                m[row].iter_mut().zip(&source).for_each(|(to, from)| *to -= factor * from);
            }
        }
    }
    Some((0..k).map(|row| m[row][k] / m[row][row]).collect())
}

/// Gunther's Universal Scalability Law: X(n) = lambda n / (1 + sigma (n-1) + kappa n (n-1)).
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Usl {
    pub(crate) lambda: f64,
    pub(crate) sigma: f64,
    pub(crate) kappa: f64,
    /// Largest error of a point, as a share of it.
    pub(crate) worst_error: f64,
}

impl Usl {
    pub(crate) fn at(&self, n: f64) -> f64 {
        self.lambda * n / (1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0))
    }

    /// Fits n / X(n) = 1/lambda + sigma/lambda (n-1) + kappa/lambda n(n-1), which is linear, with no
    /// negative coefficient; `None` with fewer than 4 different n: three unknowns need more.
    pub(crate) fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let mut different: Vec<u64> = points.iter().map(|(n, _)| n.to_bits()).collect();
        different.sort_unstable();
        different.dedup();
        if different.len() < 4 || points.iter().any(|(_, x)| *x <= 0.0) {
            return None;
        }
        // Weighted by X / n, so that each point's own relative error counts.
        let rows: Vec<Vec<f64>> = points
            .iter()
            .map(|(n, x)| [1.0, n - 1.0, n * (n - 1.0)].map(|term| term * x / n).to_vec())
            .collect();
        let solved = nnls(&rows, &vec![1.0; points.len()]);
        let mut usl = Self {
            lambda: 1.0 / solved[0].max(1e-300),
            sigma: solved[1] / solved[0].max(1e-300),
            kappa: solved[2] / solved[0].max(1e-300),
            worst_error: 0.0,
        };
        usl.worst_error =
            points.iter().map(|(n, x)| (usl.at(*n) / x - 1.0).abs()).fold(0.0, f64::max);
        Some(usl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_tested_as_tables_say() {
        // Complete separation of 3 and 3, 4 and 4, 5 and 5: 2 / C(2n, n).
        for (n, p) in [(3, 0.1), (4, 2.0 / 70.0), (5, 2.0 / 252.0)] {
            let a: Vec<f64> = (0..n).map(f64::from).collect();
            let b: Vec<f64> = (n..2 * n).map(f64::from).collect();
            assert!((mann_whitney(&a, &b) - p).abs() < 1e-12);
            assert!((mann_whitney(&b, &a) - p).abs() < 1e-12);
        }
        // scipy.stats.mannwhitneyu([1,4,2,8,5],[3,9,10,7,12], method='exact'): 0.0952...
        let p = mann_whitney(&[1.0, 4.0, 2.0, 8.0, 5.0], &[3.0, 9.0, 10.0, 7.0, 12.0]);
        assert!((p - 0.095_238).abs() < 1e-5, "{p}");
        assert!(mann_whitney(&[1.0; 5], &[1.0; 5]) > 0.9);
        let corrected = holm(&[0.01, 0.04, 0.03]);
        for (found, expected) in corrected.iter().zip([0.03, 0.06, 0.06]) {
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn slopes_are_robust_and_intervals_hold_the_truth() {
        let mut random = Random::new(2);
        let mut held = 0;
        for _ in 0..200 {
            let points: Vec<(f64, f64)> = (0..40)
                .map(|x| {
                    let noise = random.below(2000) as f64 / 100.0 - 10.0;
                    let wild = if random.one_in(20) { 500.0 } else { 0.0 };
                    (f64::from(x), 3.0 * f64::from(x) + noise + wild)
                })
                .collect();
            let (slope, low, high) = theil_sen(&points).unwrap();
            assert!((slope - 3.0).abs() < 0.8, "{slope}");
            held += u32::from(low <= 3.0 && 3.0 <= high);
        }
        assert!(held > 180, "{held} of 200 intervals hold the slope");
        assert_eq!(theil_sen(&[(0.0, 1.0); 3]), None);
    }

    #[test]
    fn intervals_of_medians_hold_the_median() {
        let mut random = Random::new(4);
        let mut held = 0;
        for seed in 0..100 {
            let values: Vec<f64> = (0..15).map(|_| random.below(1000) as f64).collect();
            let (low, high) = bootstrap(&values, seed, median);
            held += u32::from(low <= 500.0 && 500.0 <= high);
        }
        assert!(held >= 85, "{held} of 100");
    }

    #[test]
    fn demands_are_found_again_and_never_negative() {
        let mut random = Random::new(8);
        let truth = [3e-6, 2e-9, 4e-5];
        let rows: Vec<Vec<f64>> = (0..20)
            .map(|_| {
                let records = 1e5 + random.below(1_000_000) as f64;
                vec![
                    records,
                    records * (100.0 + random.below(2000) as f64),
                    random.below(20_000) as f64,
                ]
            })
            .collect();
        let b: Vec<f64> =
            rows.iter().map(|row| row.iter().zip(truth).map(|(x, t)| x * t).sum::<f64>()).collect();
        for (found, expected) in nnls(&rows, &b).iter().zip(truth) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} for {expected}");
        }
        let found = nnls(&[vec![1.0, 1.0], vec![1.0, 2.0], vec![1.0, 3.0]], &[3.0, 2.0, 1.0]);
        assert!(found.iter().all(|value| *value >= 0.0) && found[1] == 0.0);
    }

    #[test]
    fn scalability_is_fitted_and_refused_with_too_few_points() {
        let truth = Usl { lambda: 1000.0, sigma: 0.06, kappa: 0.002, worst_error: 0.0 };
        let points: Vec<(f64, f64)> = [1.0, 2.0, 4.0, 8.0, 16.0].map(|n| (n, truth.at(n))).to_vec();
        let usl = Usl::fit(&points).unwrap();
        assert!((usl.sigma - 0.06).abs() < 1e-6 && (usl.kappa - 0.002).abs() < 1e-6);
        assert!(usl.worst_error < 1e-6);
        assert!(Usl::fit(&points[..3]).is_none());
    }
}
