//! Weighted choice among a route's backends.

/// Weights, made ready to draw from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// For each weight, the sum of it and those before it: rising, in 64 bits, so that no sum of real weights
    /// overflows.
    ends: Box<[u64]>,
}

impl Split {
    /// A split in proportion to `weights`; a weight of 0 is never drawn.
    pub fn new(weights: &[u32]) -> Self {
        let mut sum = 0_u64;
        let ends = weights.iter().map(|&weight| {
            sum = sum.saturating_add(u64::from(weight));
            sum
        });
        Split { ends: ends.collect() }
    }

    /// The index of the weight that `random`, uniform over all of `u64`, draws; `None` when no weight is above 0.
    ///
    /// A weight's share of the values of `random` is its share of the sum, to within one part in 2^32.
    pub fn pick(&self, random: u64) -> Option<usize> {
        let sum = self.ends.last().copied().filter(|&sum| sum > 0)?;
        let drawn = scale(random, sum);
        Some(self.ends.partition_point(|&end| end <= drawn))
    }
}

/// Whether `random`, uniform over all of `u64`, draws one of so many parts in a million. A million and more: always.
pub fn draws(parts_per_million: u32, random: u64) -> bool {
    scale(random, 1_000_000) < u64::from(parts_per_million)
}

/// Maps `random`, uniform over `u64`, to `0..below` (Lemire's multiply and shift: no division, no visible bias).
pub(crate) fn scale(random: u64, below: u64) -> u64 {
    let wide = (u128::from(random) * u128::from(below)) >> 64;
    u64::try_from(wide).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_to_draw_draws_nothing() {
        for weights in [&[][..], &[0], &[0, 0]] {
            assert_eq!(Split::new(weights).pick(7), None, "{weights:?}");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_drawn() {
        let split = Split::new(&[0, 1, 0, 3, 0]);
        assert_eq!(split.pick(0), Some(1));
        assert_eq!(split.pick(u64::MAX / 4), Some(1));
        assert_eq!(split.pick(u64::MAX / 4 + 1), Some(3));
        assert_eq!(split.pick(u64::MAX), Some(3));
    }

    #[test]
    fn a_share_of_a_million_is_drawn() {
        for (parts, below) in [
            (0, 0),
            (1, 1),
            (250_000, 250_000),
            (1_000_000, 1_000_000),
            (u32::MAX, 1_000_000),
        ] {
            let step = u64::MAX / 1_000_000 + 1;
            for at in [0, 1, 249_999, 250_000, 999_999_u64] {
                assert_eq!(draws(parts, at * step), at < below, "{parts} at {at}");
            }
        }
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let split = Split::new(&[u32::MAX; 4]);
        assert_eq!(split.pick(0), Some(0));
        assert_eq!(split.pick(u64::MAX / 2 + 1), Some(2));
        assert_eq!(split.pick(u64::MAX), Some(3));
    }

    proptest! {
        /// Draws at even steps over the whole range fall to each weight in its exact share.
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(0_u32..50, 1..8)) {
            let sum: u64 = weights.iter().copied().map(u64::from).sum();
            prop_assume!(sum > 0);
            let split = Split::new(&weights);
            let mut drawn = vec![0_u32; weights.len()];
            for step in 0..sum {
                // The middle of the step-th of `sum` equal parts of u64.
                let random = u64::MAX / sum * step + u64::MAX / sum / 2;
                let index = split.pick(random).expect("a weight is above 0");
                drawn[index] += 1;
            }
            prop_assert_eq!(drawn, weights);
        }
    }
}
