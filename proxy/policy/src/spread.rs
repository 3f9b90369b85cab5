//! How requests are spread over levels of endpoints, the nearest first, by how many of each can be used.
//!
//! The rules are Envoy's of priority levels ("Priority levels" and "Panic threshold" of its load balancing), except
//! that panic is one decision for the whole cluster.

use crate::model::Locality;
use crate::split::scale;

/// The endpoints of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// How many there are, without those that drain.
    pub all: usize,
    /// How many of these can be used.
    pub usable: usize,
}

/// How far an endpoint is from its caller. Each is a level of its own where a cluster prefers what is near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// In the same zone.
    Zone,
    /// In another zone of the same region.
    Region,
    /// Anywhere else, or where is unknown.
    Elsewhere,
}

impl Distance {
    /// All of them, the nearest first.
    pub const ALL: [Distance; 3] = [Distance::Zone, Distance::Region, Distance::Elsewhere];

    /// Between two places. A region that one side does not know counts as the same: Kubernetes' slices name zones only.
    pub fn between(own: &Locality, other: &Locality) -> Distance {
        let known = |text: &str| !text.is_empty();
        let apart = known(&own.region) && known(&other.region) && own.region != other.region;
        if apart {
            Distance::Elsewhere
        } else if known(&own.zone) && own.zone == other.zone {
            Distance::Zone
        } else if known(&own.region) && own.region == other.region {
            Distance::Region
        } else {
            Distance::Elsewhere
        }
    }

    /// As in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Distance::Zone => "zone",
            Distance::Region => "region",
            Distance::Elsewhere => "elsewhere",
        }
    }
}

/// Which endpoints of a cluster take requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Too few can be used: all do, alike, whatever is said of them.
    Panic,
    /// Those that can be used, each level in its share.
    Shares(Shares),
}

/// The shares of levels, which are a hundred together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares(Vec<u8>);

impl Shares {
    /// In percent, in the order of the levels.
    pub fn percents(&self) -> &[u8] {
        &self.0
    }

    /// The place of a level, drawn by `random` (uniform over `u64`); never one of share 0.
    pub fn pick(&self, random: u64) -> usize {
        let drawn = scale(random, 100);
        let mut upto = 0;
        let within = |share: &u8| {
            upto += u64::from(*share);
            drawn < upto
        };
        self.0.iter().position(within).unwrap_or_default()
    }
}

/// Spreads requests over levels.
///
/// Each level takes as much of what is left as `overprovisioning_percent` times its usable share can carry: with 140 %,
/// up to two in seven may be lost before the next level gets anything. If all levels together can't carry everything
/// that way, they share it in proportion. If less than `panic_percent` of all endpoints can be used, it is panic.
pub fn spread(levels: &[Level], overprovisioning_percent: u32, panic_percent: u8) -> Spread {
    let (all, usable) = levels.iter().fold((0, 0), |(all, usable), level| {
        (all + level.all, usable + level.usable.min(level.all))
    });
    if usable * 100 < usize::from(panic_percent) * all {
        return Spread::Panic;
    }
    let carries = |level: &Level| match level.usable.min(level.all) {
        0 => 0,
        usable => (to_u64(usable) * u64::from(overprovisioning_percent) / to_u64(level.all)).clamp(1, 100),
    };
    let together = levels.iter().map(carries).sum::<u64>().clamp(1, 100);
    let mut left = 100;
    let mut shares: Vec<u64> = Vec::with_capacity(levels.len());
    for level in levels {
        let share = (carries(level) * 100 / together).min(left);
        left -= share;
        shares.push(share);
    }
    // What rounding left over goes to the first that takes anything.
    if let Some(first) = shares.iter_mut().find(|share| **share > 0) {
        *first += left;
    }
    let percents = shares.into_iter().map(|share| u8::try_from(share).unwrap_or(100));
    Spread::Shares(Shares(percents.collect()))
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn levels(counts: &[(usize, usize)]) -> Vec<Level> {
        counts.iter().map(|&(usable, all)| Level { all, usable }).collect()
    }

    /// Levels as (usable, all).
    #[track_caller]
    fn check(counts: &[(usize, usize)], expect: &[u8]) {
        match spread(&levels(counts), 140, 1) {
            Spread::Shares(shares) => assert_eq!(shares.percents(), expect, "{counts:?}"),
            Spread::Panic => panic!("no panic: {counts:?}"),
        }
    }

    #[test]
    fn the_nearest_level_carries_what_it_can_and_the_rest_spills() {
        check(&[(10, 10)], &[100]);
        check(&[(1, 10)], &[100]);
        check(&[(10, 10), (10, 10), (10, 10)], &[100, 0, 0]);
        // 72 % times 1.4 is all of it; 71 % is not.
        check(&[(72, 100), (1, 1)], &[100, 0]);
        check(&[(71, 100), (1, 1)], &[99, 1]);
        check(&[(5, 10), (10, 10)], &[70, 30]);
        check(&[(5, 10), (2, 10), (10, 10)], &[70, 28, 2]);
        check(&[(0, 10), (5, 10), (10, 10)], &[0, 70, 30]);
        check(&[(0, 10), (0, 10), (10, 10)], &[0, 0, 100]);
        check(&[(0, 0), (0, 0), (3, 3)], &[0, 0, 100]);
        check(&[(1, 1), (0, 0), (3, 3)], &[100, 0, 0]);
        // Together they carry 28 + 14 of a hundred, and share it in proportion; the remainder is the first's.
        check(&[(2, 10), (1, 10)], &[67, 33]);
        // A single one of many can still be used.
        check(&[(1, 1000), (10, 10)], &[1, 99]);
    }

    #[test]
    fn what_rounding_leaves_over_goes_to_a_level_that_takes_something() {
        let thirds = levels(&[(0, 3), (1, 3), (1, 3), (1, 3)]);
        let Spread::Shares(shares) = spread(&thirds, 100, 1) else {
            panic!("no panic");
        };
        assert_eq!(shares.percents(), [0, 34, 33, 33]);
    }

    #[test]
    fn what_is_near_is_told_by_zone_then_region() {
        use Distance::{Elsewhere, Region, Zone};
        let place = |text: &str| {
            let (region, zone) = text.split_once('/').expect("a region and a zone");
            Locality {
                region: region.to_owned(),
                zone: zone.to_owned(),
                site: String::new(),
            }
        };
        for (own, other, expect) in [
            ("zj/hz-a", "zj/hz-a", Zone),
            ("zj/hz-a", "zj/hz-b", Region),
            ("zj/hz-a", "js/hz-a", Elsewhere),
            ("zj/hz-a", "js/nj-a", Elsewhere),
            ("zj/hz-a", "/hz-a", Zone),
            ("/hz-a", "zj/hz-a", Zone),
            ("zj/hz-a", "/hz-b", Elsewhere),
            ("zj/hz-a", "zj/", Region),
            ("zj/", "zj/", Region),
            ("/", "/", Elsewhere),
            ("/", "zj/hz-a", Elsewhere),
        ] {
            assert_eq!(Distance::between(&place(own), &place(other)), expect, "{own} {other}");
        }
    }

    #[test]
    fn too_few_is_panic() {
        let panics =
            |counts: &[(usize, usize)], panic_percent| spread(&levels(counts), 140, panic_percent) == Spread::Panic;
        assert!(panics(&[(0, 3)], 1));
        assert!(!panics(&[(1, 3)], 1));
        assert!(!panics(&[(1, 2)], 50));
        assert!(panics(&[(1, 3)], 50));
        assert!(panics(&[(0, 3), (1, 3)], 50));
        assert!(!panics(&[(0, 3), (3, 3)], 50));
        assert!(panics(&[(99, 100)], 100));
        // Of a level no more than all can be used.
        assert!(panics(&[(9, 1), (0, 3)], 50));
        assert!(!panics(&[], 50));
        assert!(!panics(&[(0, 0)], 50));
    }

    #[test]
    fn a_level_is_drawn_by_its_share() {
        let Spread::Shares(shares) = spread(&levels(&[(5, 10), (0, 10), (10, 10)]), 140, 1) else {
            panic!("no panic");
        };
        let mut drawn = [0; 3];
        for step in 0..1000_u64 {
            drawn[shares.pick(step * (u64::MAX / 1000))] += 1;
        }
        assert!((699..=701).contains(&drawn[0]), "{drawn:?}");
        assert_eq!(drawn[1], 0);
        assert_eq!(shares.pick(u64::MAX), 2);
    }

    proptest! {
        #[test]
        fn shares_are_a_hundred_and_only_where_something_can_be_used(
            counts in prop::collection::vec((0_usize..50, 0_usize..50), 1..5),
            overprovisioning in 100_u32..=1000,
            panic_percent in 1_u8..=100,
            random: u64,
        ) {
            let levels: Vec<Level> = counts.iter().map(|&(usable, more)| Level { all: usable + more, usable }).collect();
            if let Spread::Shares(shares) = spread(&levels, overprovisioning, panic_percent) {
                let sum: u32 = shares.percents().iter().map(|share| u32::from(*share)).sum();
                let usable = levels.iter().any(|level| level.usable > 0);
                prop_assert_eq!(sum, if usable { 100 } else { 0 });
                for (share, level) in shares.percents().iter().zip(&levels) {
                    prop_assert!(*share == 0 || level.usable > 0);
                }
                if usable {
                    prop_assert!(levels[shares.pick(random)].usable > 0);
                }
            }
        }

        /// A nearer level never gets less when more of it can be used.
        #[test]
        fn what_comes_back_gets_more(usable in 0_usize..20, other in 1_usize..20, overprovisioning in 100_u32..=300) {
            let share = |usable| {
                let near = Level { all: 20, usable };
                let far = Level { all: 20, usable: other };
                match spread(&[near, far], overprovisioning, 1) {
                    Spread::Shares(shares) => shares.percents()[0],
                    Spread::Panic => 0,
                }
            };
            prop_assert!(share(usable) <= share(usable + 1));
        }
    }
}
