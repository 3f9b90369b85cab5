//! Whether an endpoint is well by checks that the proxy makes itself, and when each of these is due.

use std::time::Duration;

use crate::model::HealthCheck;
use crate::time::{Time, saturating_nanos};

/// By how much the time between two checks is lengthened at the most, in percent of it: proxies that began together
/// don't stay together.
pub const JITTER_PERCENT: u32 = 10;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// All was well.
    Passed,
    /// It wasn't, or it could not be found out in time.
    Failed,
}

/// Whether an endpoint is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// As far as checks go, requests may be sent there.
    Well,
    /// Too many checks failed one after the other.
    Failing,
}

/// What the checks of one endpoint have shown so far. It is well until checks say otherwise: before the first answer
/// nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    verdict: Verdict,
    last: Found,
    in_a_row: u32,
}

impl Default for Standing {
    fn default() -> Self {
        Standing {
            verdict: Verdict::Well,
            last: Found::Passed,
            in_a_row: 0,
        }
    }
}

impl Standing {
    /// Counts one more result. Returns the verdict if that is another one now. Thresholds of 0 count as 1.
    pub fn found(&mut self, found: Found, check: &HealthCheck) -> Option<Verdict> {
        self.in_a_row = match self.last == found {
            true => self.in_a_row.saturating_add(1),
            false => 1,
        };
        self.last = found;
        let (threshold, by_this) = match found {
            Found::Passed => (check.healthy_threshold, Verdict::Well),
            Found::Failed => (check.unhealthy_threshold, Verdict::Failing),
        };
        if self.verdict == by_this || self.in_a_row < threshold {
            return None;
        }
        self.verdict = by_this;
        Some(by_this)
    }

    /// Whether it is well.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What the latest checks found, and how many of them one after the other; `None`: there was none yet.
    pub fn latest(&self) -> Option<(Found, u32)> {
        (self.in_a_row > 0).then_some((self.last, self.in_a_row))
    }
}

/// When an endpoint that is known from `now` on is checked first: at some time within one interval, drawn by `random`,
/// so that the endpoints of a cluster, and proxies that learn of it together, take turns.
pub fn first(check: &HealthCheck, now: Time, random: u64) -> Time {
    now + part(check.interval, random)
}

/// When the next check is due after one that `began` then and has ended by `now`: an interval after that began and up
/// to [`JITTER_PERCENT`] more, drawn by `random`; not before the last has ended.
pub fn next(check: &HealthCheck, began: Time, now: Time, random: u64) -> Time {
    let jitter = part(check.interval, random) * JITTER_PERCENT / 100;
    now.max(began + check.interval + jitter)
}

/// A part of a time, drawn by `random`: from nothing to just less than all of it.
fn part(of: Duration, random: u64) -> Duration {
    let nanos = (u128::from(saturating_nanos(of)) * u128::from(random)) >> u64::BITS;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::HealthCheckKind;

    fn check(unhealthy_threshold: u32, healthy_threshold: u32) -> HealthCheck {
        HealthCheck {
            kind: HealthCheckKind::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold,
            healthy_threshold,
        }
    }

    /// Results letter by letter, `.` passed and `x` failed; the verdict after each, `+` well and `-` failing.
    #[track_caller]
    fn verdicts(unhealthy: u32, healthy: u32, results: &str, expect: &str) {
        let (check, mut standing) = (check(unhealthy, healthy), Standing::default());
        let mut seen = String::new();
        for result in results.chars() {
            let before = standing.verdict();
            let changed = standing.found(found(result), &check);
            assert_eq!(changed, (before != standing.verdict()).then_some(standing.verdict()));
            seen.push(if standing.verdict() == Verdict::Well { '+' } else { '-' });
        }
        assert_eq!(seen, expect, "{results}");
    }

    fn found(letter: char) -> Found {
        match letter {
            '.' => Found::Passed,
            _ => Found::Failed,
        }
    }

    #[test]
    fn so_many_results_one_after_the_other_change_the_verdict() {
        verdicts(3, 2, "....", "++++");
        verdicts(3, 2, "xxx", "++-");
        verdicts(3, 2, "xx.xx.xx.", "+++++++++");
        verdicts(3, 2, "xxxx.x..x", "++-----++");
        verdicts(1, 1, "x.x.", "-+-+");
        verdicts(0, 0, "x.x.", "-+-+");
        verdicts(2, 3, ".xx..x...x", "++------++");
        verdicts(1, 3, "x..x...", "------+");
    }

    #[test]
    fn what_was_found_last_is_told_with_its_number() {
        let (check, mut standing) = (check(3, 2), Standing::default());
        assert_eq!(standing.latest(), None);
        for (result, expect) in [('.', 1), ('.', 2), ('x', 1), ('x', 2), ('x', 3), ('x', 4), ('.', 1)] {
            standing.found(found(result), &check);
            assert_eq!(standing.latest(), Some((found(result), expect)));
        }
    }

    /// The verdict by the whole history: that of the last run that was long enough.
    fn by_history(results: &[Found], check: &HealthCheck) -> Verdict {
        let runs: Vec<&[Found]> = results.chunk_by(|a, b| a == b).collect();
        let decisive = runs.iter().rev().find_map(|run| {
            let (threshold, verdict) = match run.first()? {
                Found::Passed => (check.healthy_threshold, Verdict::Well),
                Found::Failed => (check.unhealthy_threshold, Verdict::Failing),
            };
            (run.len() >= usize::try_from(threshold).ok()?).then_some(verdict)
        });
        decisive.unwrap_or(Verdict::Well)
    }

    proptest! {
        #[test]
        fn a_verdict_is_that_of_the_last_run_that_was_long_enough(
            unhealthy in 1..5_u32,
            healthy in 1..5_u32,
            results in prop::collection::vec(prop_oneof![Just(Found::Passed), Just(Found::Failed)], 0..60),
        ) {
            let (check, mut standing) = (check(unhealthy, healthy), Standing::default());
            for (at, result) in results.iter().enumerate() {
                standing.found(*result, &check);
                prop_assert_eq!(standing.verdict(), by_history(&results[..=at], &check));
            }
        }

        #[test]
        fn checks_are_an_interval_apart_and_little_more(
            interval in 1..10_000_000_000_u64,
            lasted in 0..20_000_000_000_u64,
            random: u64,
        ) {
            let interval = Duration::from_nanos(interval);
            let check = HealthCheck { interval, ..check(1, 1) };
            let began = Time::from_nanos(5_000_000_000);
            let first = first(&check, began, random);
            prop_assert!(began <= first && first < began + interval);
            let ended = began + Duration::from_nanos(lasted);
            let next = next(&check, began, ended, random);
            prop_assert!(next >= ended && next >= began + interval);
            prop_assert!(next == ended || next <= began + interval * 11 / 10);
        }
    }
}
