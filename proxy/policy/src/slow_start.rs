//! How an endpoint that has just come gets its full share of requests little by little: a cold cache or runtime is not
//! overrun. Envoy's published formula ("Slow start mode" of its load balancing).

use std::time::Duration;

use crate::model::SlowStart;

/// The weight of an endpoint of this age beside one that is through, for which it is 1: never less than the least one
/// that is configured.
pub fn weight(config: &SlowStart, age: Duration) -> f64 {
    if age >= config.window {
        return 1.0;
    }
    // Before the first second is over nothing can be told by its length.
    let passed = age.max(Duration::from_secs(1)).as_secs_f64() / config.window.as_secs_f64();
    let grown = passed.powf(1.0 / config.aggression);
    let least = f64::from(config.min_weight_percent) / 100.0;
    grown.max(least).min(1.0)
}

/// Whether an endpoint that was drawn takes part, which it does in this share of all cases (1: always). `random` is
/// uniform over `u64`.
pub fn takes_part(share: f64, random: u64) -> bool {
    // 2^64, beside which what rounding loses does not count.
    share >= 1.0 || (random as f64) < share * 18_446_744_073_709_551_616.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slow_start(aggression: f64, min_weight_percent: u8) -> SlowStart {
        SlowStart {
            window: Duration::from_secs(60),
            aggression,
            min_weight_percent,
        }
    }

    #[track_caller]
    fn weighs(config: SlowStart, seconds: u64, expect: f64) {
        let weight = weight(&config, Duration::from_secs(seconds));
        assert!(
            (weight - expect).abs() < 1e-9,
            "{weight} instead of {expect} after {seconds} s"
        );
    }

    #[test]
    fn the_weight_grows_as_published() {
        let linear = slow_start(1.0, 10);
        weighs(linear, 0, 0.1);
        weighs(linear, 6, 0.1);
        weighs(linear, 15, 0.25);
        weighs(linear, 30, 0.5);
        weighs(linear, 60, 1.0);
        weighs(linear, 600, 1.0);
        // Aggression above 1 is fast at first, below 1 slow at first.
        weighs(slow_start(2.0, 1), 15, 0.5);
        weighs(slow_start(0.5, 1), 30, 0.25);
        weighs(slow_start(0.5, 1), 0, 0.01);
        weighs(slow_start(1.0, 100), 0, 1.0);
        // The first second counts as one.
        weighs(slow_start(1.0, 1), 0, 1.0 / 60.0);
    }

    #[test]
    fn a_share_takes_part_as_often() {
        let step = u64::MAX / 1000;
        for (share, expect) in [(0.0, 0), (0.25, 250), (0.5, 500), (1.0, 1000), (2.0, 1000)] {
            let taken = (0..1000_u64)
                .filter(|&part| takes_part(share, part * step + step / 2))
                .count();
            assert_eq!(taken, expect, "{share}");
        }
        assert!(takes_part(1.0, u64::MAX));
        assert!(!takes_part(0.999, u64::MAX));
    }

    proptest! {
        #[test]
        fn weights_only_grow(
            window in 1_u64..4000,
            aggression in 0.1_f64..10.0,
            least in 1_u8..=100,
            age in 0_u64..4000,
        ) {
            let config = SlowStart { window: Duration::from_secs(window), aggression, min_weight_percent: least };
            let (now, later) = (weight(&config, Duration::from_secs(age)), weight(&config, Duration::from_secs(age + 1)));
            prop_assert!(now <= later);
            prop_assert!(now >= f64::from(least) / 100.0 && later <= 1.0);
        }
    }
}
