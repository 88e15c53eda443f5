//! Axes with logarithmic scales, and what stands at their ticks.

use crate::table::{bytes, duration};

/// Labelled ticks that an axis may have: more don't fit beside each other.
const MAX_TICKS: usize = 8;
/// Below this share of a decade or an octave, an axis is made longer at both ends.
const LEAST_SPAN: f64 = 0.6;

/// What numbers mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    /// ns.
    Time,
    /// Bytes.
    Bytes,
    /// A part of the whole, from 0 to 1.
    Share,
    /// A part of the samples that are no larger, from 0 below 1; equal steps towards 1 are by factors.
    Quantile,
}

/// An axis. Positions are logarithms.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) unit: Unit,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Positions with their labels, ascending.
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis that has room for all `values` that have a position; none if none has.
    pub(crate) fn new(label: &'static str, unit: Unit, values: impl Iterator<Item = f64>) -> Option<Self> {
        let positions: Vec<f64> = values.filter_map(|value| unit.position(value)).collect();
        let (mut min, mut max) = positions
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), at| (at.min(min), at.max(max)));
        if positions.is_empty() {
            return None;
        }
        if max - min < LEAST_SPAN {
            let middle = f64::midpoint(min, max);
            (min, max) = (middle - LEAST_SPAN / 2.0, middle + LEAST_SPAN / 2.0);
        }
        let margin = (max - min) * 0.04;
        let (min, max) = (min - margin, max + margin);
        Some(Self { label, unit, min, max, ticks: unit.ticks(min, max) })
    }
}

impl Unit {
    /// Where a value stands on an axis; 0 and what is beyond the end stand nowhere.
    pub(crate) fn position(self, value: f64) -> Option<f64> {
        let position = match self {
            Self::Time | Self::Bytes | Self::Share => value.log10(),
            Self::Quantile => -(1.0 - value).log10(),
        };
        position.is_finite().then_some(position)
    }

    /// A value as it is read.
    pub(crate) fn shown(self, value: f64) -> String {
        // By its digits, because there is no checked conversion.
        let whole = format!("{value:.0}").parse().unwrap_or(u64::MAX);
        match self {
            Self::Time => duration(whole),
            Self::Bytes => bytes(whole),
            Self::Share => format!("{} %", trimmed(value * 100.0)),
            Self::Quantile if value == 0.0 => "fastest".to_owned(),
            Self::Quantile => format!("{} %", trimmed(value * 100.0)),
        }
    }

    /// Round values between two positions, sparse enough to be read.
    fn ticks(self, min: f64, max: f64) -> Vec<(f64, String)> {
        let candidates: Vec<Vec<f64>> = match self {
            Self::Quantile => return self.labelled(&[0.5, 0.9, 0.99, 0.999], min, max),
            Self::Bytes => [1, 2, 4, 8, 16].map(powers_of_two).to_vec(),
            Self::Time | Self::Share => {
                vec![
                    decades(&[1.0, 2.0, 5.0], 1),
                    decades(&[1.0, 3.0], 1),
                    decades(&[1.0], 1),
                    decades(&[1.0], 2),
                    decades(&[1.0], 4),
                ]
            }
        };
        let mut ticks = Vec::new();
        for values in candidates {
            ticks = self.labelled(&values, min, max);
            if ticks.len() <= MAX_TICKS {
                break;
            }
        }
        ticks
    }

    fn labelled(self, values: &[f64], min: f64, max: f64) -> Vec<(f64, String)> {
        let placed = values.iter().filter_map(|value| Some((self.position(*value)?, *value)));
        // A pattern with one share only has an axis that is longer than shares can be.
        let possible = placed.filter(|(_, value)| self != Self::Share || *value <= 1.0);
        let inside = possible.filter(|(position, _)| (min..=max).contains(position));
        inside.map(|(position, value)| (position, self.tick(value))).collect()
    }

    /// The label of a round value.
    fn tick(self, value: f64) -> String {
        let (units, step): (&[&str], f64) = match self {
            Self::Time => (&["ns", "us", "ms", "s"], 1000.0),
            Self::Bytes => (&["B", "KiB", "MiB", "GiB", "TiB"], 1024.0),
            Self::Share | Self::Quantile => return self.shown(value),
        };
        let mut scaled = value;
        let mut unit = 0;
        while step <= scaled * 1.000_001 && unit + 1 < units.len() {
            scaled /= step;
            unit += 1;
        }
        format!("{} {}", trimmed(scaled), units[unit])
    }
}

/// The multiples of every `step`th power of ten that an axis may have.
fn decades(multiples: &[f64], step: usize) -> Vec<f64> {
    let powers = (-8..=20).step_by(step).map(|power| 10_f64.powi(power));
    powers.flat_map(|power| multiples.iter().map(move |multiple| multiple * power)).collect()
}

fn powers_of_two(step: usize) -> Vec<f64> {
    (0..64).step_by(step).map(|power| 2_f64.powi(power)).collect()
}

/// A number without needless digits.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(unit: Unit, values: &[f64]) -> Vec<String> {
        let axis = Axis::new("x", unit, values.iter().copied()).unwrap();
        axis.ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(
            labels(Unit::Time, &[900.0, 1.1e6]),
            ["1 us", "3 us", "10 us", "30 us", "100 us", "300 us", "1 ms"]
        );
        assert_eq!(
            labels(Unit::Share, &[0.001, 0.1]),
            ["0.1 %", "0.2 %", "0.5 %", "1 %", "2 %", "5 %", "10 %"]
        );
        assert_eq!(labels(Unit::Bytes, &[5e5, 2e8]), ["1 MiB", "4 MiB", "16 MiB", "64 MiB"]);
        assert_eq!(labels(Unit::Quantile, &[0.0, 0.5, 0.99]), ["50 %", "90 %", "99 %"]);
        assert_eq!(labels(Unit::Share, &[1.0]), ["50 %", "100 %"]);
        for values in [&[1.0, 1e18][..], &[5.0], &[1e-7, 1.0]] {
            for unit in [Unit::Time, Unit::Bytes, Unit::Share] {
                assert!(labels(unit, values).len() <= MAX_TICKS, "{unit:?} {values:?}");
            }
        }
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        assert!(Axis::new("x", Unit::Time, [0.0, f64::NAN, f64::INFINITY].into_iter()).is_none());
        assert!(Axis::new("x", Unit::Quantile, [1.0].into_iter()).is_none());
        let axis = Axis::new("x", Unit::Time, [0.0, 10.0].into_iter()).unwrap();
        assert!(axis.min < 1.0 && 1.0 < axis.max);
    }

    #[test]
    fn values_are_shown_with_their_unit() {
        assert_eq!(Unit::Time.shown(1500.0), "1.50 us");
        assert_eq!(Unit::Bytes.shown(1024.0), "1.00 KiB");
        assert_eq!(Unit::Share.shown(0.0099), "0.99 %");
    }
}
