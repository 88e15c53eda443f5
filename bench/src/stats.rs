//! Samples and their quantiles.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest time that a sample keeps apart from longer ones: 18 minutes in ns.
const MAX_NS: u64 = 1 << 40;
/// Significant decimal digits that are kept: more than a machine repeats.
const DIGITS: u8 = 3;

/// Median and tail of one quantity, in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median.
    pub p50: u64,
    /// 99 of 100 are no larger. With fewer than 100 samples, the largest.
    pub p99: u64,
}

/// The distribution of one quantity beside its [`Quantiles`], in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest.
    pub min: u64,
    /// 10 of 100 are no larger.
    pub p10: u64,
    /// 25 of 100.
    pub p25: u64,
    /// 75 of 100.
    pub p75: u64,
    /// 90 of 100.
    pub p90: u64,
    /// 999 of 1000: with fewer samples, the largest.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

/// Times in ns, kept to three digits in memory that doesn't grow while something is timed.
#[derive(Clone)]
pub struct Samples {
    histogram: Histogram<u64>,
}

impl Samples {
    /// No samples yet.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_NS, DIGITS)
            .unwrap_or_else(|error| unreachable!("the bounds are constants that fit: {error}"));
        Self { histogram }
    }

    /// Adds one time in ns.
    pub fn add(&mut self, ns: u64) {
        self.histogram.saturating_record(ns);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.histogram.is_empty()
    }

    /// The quantiles; zeros if there are no samples.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        Quantiles { p50: self.histogram.value_at_quantile(0.5), p99: self.histogram.value_at_quantile(0.99) }
    }
}

impl Samples {
    /// The distribution; zeros if there are no samples.
    #[must_use]
    pub fn spread(&self) -> Spread {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        Spread {
            min: at(0.0),
            p10: at(0.1),
            p25: at(0.25),
            p75: at(0.75),
            p90: at(0.9),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Samples").field("len", &self.len()).field("quantiles", &self.quantiles()).finish()
    }
}

/// The median of `values`, the lower of two in the middle; 0 if there are none.
#[must_use]
pub fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_samples_to_three_digits() {
        let mut samples = Samples::new();
        assert_eq!(samples.quantiles(), Quantiles::default());
        for ns in 1..=1000 {
            samples.add(ns);
        }
        assert_eq!(samples.quantiles(), Quantiles { p50: 500, p99: 990 });
        let spread = Spread { min: 1, p10: 100, p25: 250, p75: 750, p90: 900, p999: 999, max: 1000 };
        assert_eq!(samples.spread(), spread);
        samples.add(u64::MAX);
        samples.add(0);
        assert_eq!(samples.len(), 1002);
    }

    #[test]
    fn of_few_samples_the_tail_is_the_largest() {
        let mut samples = Samples::new();
        for ns in [3, 1000, 2] {
            samples.add(ns);
        }
        assert_eq!(samples.quantiles(), Quantiles { p50: 3, p99: 1000 });
    }

    #[test]
    fn a_large_time_is_kept_to_a_thousandth() {
        let mut samples = Samples::new();
        samples.add(123_456_789);
        let p50 = samples.quantiles().p50;
        assert!(p50.abs_diff(123_456_789) < 123_456, "{p50}");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), 0);
        assert_eq!(median(vec![7]), 7);
        assert_eq!(median(vec![9, 1, 5]), 5);
        assert_eq!(median(vec![4, 1, 3, 2]), 2);
    }
}
