//! Means with their uncertainty, and quantiles.

use std::time::Duration;

/// A mean and the half width of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Where the true mean is with 95 % confidence: from `low`…
    pub low: f64,
    /// … to `high`.
    pub high: f64,
}

impl Estimate {
    /// The arithmetic mean of independent measurements, by Student's t. A single one has no interval: all is possible.
    /// `None` for no measurement.
    pub fn of(values: &[f64]) -> Option<Estimate> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let half = match n {
            1 => f64::INFINITY,
            _ => t95(n - 1) * (squares / (n - 1) as f64 / n as f64).sqrt(),
        };
        Some(Estimate {
            mean,
            low: mean - half,
            high: mean + half,
        })
    }

    /// The geometric mean of ratios measured in pairs: twice as much and half as much are equally far from the same.
    /// `None` for no measurement, or one that is not above 0.
    pub fn of_ratios(ratios: &[f64]) -> Option<Estimate> {
        if ratios.iter().any(|ratio| *ratio <= 0.0) {
            return None;
        }
        let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let Estimate { mean, low, high } = Estimate::of(&logarithms)?;
        Some(Estimate {
            mean: mean.exp(),
            low: low.exp(),
            high: high.exp(),
        })
    }
}

/// The quantile of measurements: the least of them that so many of a hundred are not above (nearest rank). `None` for
/// no measurement.
pub fn percentile(values: &mut [Duration], hundredths: usize) -> Option<Duration> {
    values.sort_unstable();
    let rank = (values.len() * hundredths).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied()
}

/// The 97.5 % quantile of Student's t distribution (any statistics textbook's table).
fn t95(degrees: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    match degrees.checked_sub(1).and_then(|index| TABLE.get(index)) {
        Some(quantile) => *quantile,
        // Beyond the table it falls from 2.04 to 1.96: the wider is the honest one.
        None => 2.042,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_students() {
        // 1, 2, 3, 4, 5: standard deviation 1.5811, of the mean 0.70711, times 2.776 for four degrees of freedom.
        let Estimate { mean, low, high } = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).expect("there are values");
        assert_eq!(mean, 3.0);
        assert!(
            (high - 4.9629).abs() < 1e-3 && (low - 1.0371).abs() < 1e-3,
            "{low} {high}"
        );
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[7.0]).map(|one| one.high), Some(f64::INFINITY));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut values: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(percentile(&mut values, 50), Some(Duration::from_micros(100)));
        assert_eq!(percentile(&mut values, 99), Some(Duration::from_micros(198)));
        assert_eq!(
            percentile(&mut [Duration::from_micros(7)], 99),
            Some(Duration::from_micros(7))
        );
        assert_eq!(percentile(&mut [], 50), None);
    }

    #[test]
    fn ratios_are_averaged_by_their_logarithms() {
        let two = Estimate::of_ratios(&[1.0, 4.0]).expect("there are values");
        assert!((two.mean - 2.0).abs() < 1e-9);
        let same = Estimate::of_ratios(&[1.5; 10]).expect("there are values");
        assert!((same.low - 1.5).abs() < 1e-9 && (same.high - 1.5).abs() < 1e-9);
        assert_eq!(Estimate::of_ratios(&[1.0, 0.0]), None);
    }
}
