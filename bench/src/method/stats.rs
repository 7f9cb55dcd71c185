//! Medians and their bootstrap confidence intervals.

use serde::{Deserialize, Serialize};
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::generate::next_random;

/// Resamples per interval.
const RESAMPLES: usize = 4000;
/// What lies outside the interval, on each side, of a thousand resamples.
const OUTSIDE_PER_MILLE: usize = 25;

/// A median with the interval that holds the true one with 95 % confidence.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Estimate {
    /// Median of the samples.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The median; of an even number of samples, the mean of the middle two.
#[must_use]
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// Percentile bootstrap of the median. The same samples give the same interval.
#[must_use]
pub fn estimate(samples: &[f64]) -> Option<Estimate> {
    let mut random = 0x5EED;
    interval(median(samples)?, || resampled(samples, &mut random))
}

/// Percentile bootstrap of a quotient of two medians whose samples have nothing to do with each
/// other.
#[must_use]
pub fn quotient(above: &[f64], below: &[f64]) -> Option<Estimate> {
    let mut random = 0x5EED;
    interval(median(above)? / median(below)?, || {
        Some(resampled(above, &mut random)? / resampled(below, &mut random)?)
    })
}

/// `middle` with the interval of what `again` gives.
fn interval(middle: f64, mut again: impl FnMut() -> Option<f64>) -> Option<Estimate> {
    let mut all: Vec<f64> = (0..RESAMPLES).filter_map(|_| again()).collect();
    all.sort_by(f64::total_cmp);
    let outside = RESAMPLES * OUTSIDE_PER_MILLE / 1000;
    let low = *all.get(outside)?;
    let high = *all.get(all.len().checked_sub(outside + 1)?)?;
    Some(Estimate { median: middle, low, high })
}

fn resampled(samples: &[f64], random: &mut u64) -> Option<f64> {
    let draw = samples.iter().map(|_| pick(samples, random));
    median(&draw.collect::<Vec<_>>())
}

fn pick(samples: &[f64], random: &mut u64) -> f64 {
    samples[to_usize(next_random(random) % to_u64(samples.len()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_count_is_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn interval_holds_the_median_and_narrows_with_more_samples() {
        let few: Vec<f64> = (0..5).map(f64::from).collect();
        let many: Vec<f64> = (0..500).map(|i| f64::from(i % 5)).collect();
        let (few, many) = (estimate(&few).unwrap(), estimate(&many).unwrap());
        assert!(few.low <= few.median && few.median <= few.high);
        assert!(many.high - many.low < few.high - few.low);
    }

    #[test]
    fn a_quotient_is_as_doubtful_as_its_parts() {
        let sure = quotient(&[6.0; 5], &[3.0; 5]).unwrap();
        assert_eq!((sure.low, sure.median, sure.high), (2.0, 2.0, 2.0));
        let noisy = quotient(&[6.0, 5.0, 7.0], &[3.0; 3]).unwrap();
        assert!(noisy.low < 2.0 && noisy.high > 2.0);
        assert_eq!(quotient(&[], &[1.0]), None);
    }

    #[test]
    fn equal_samples_leave_no_doubt() {
        let one = estimate(&[2.0; 7]).unwrap();
        assert_eq!((one.low, one.median, one.high), (2.0, 2.0, 2.0));
    }
}
