//! A limit on the rate of requests: the generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling) on one
//! number, which all workers share without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::RateLimit;
use crate::time::{Time, saturating_nanos};

/// A limit, made ready to decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How far apart requests are that come evenly, in nanoseconds, from 1.
    interval: u64,
    /// How long it takes until so many as may come at once may come again, in nanoseconds.
    whole: u64,
}

impl Rate {
    /// That of a limit. What does not come out even is rounded to fewer requests.
    pub fn new(limit: &RateLimit) -> Rate {
        let interval = saturating_nanos(limit.per).div_ceil(u64::from(limit.requests.max(1)));
        Rate {
            interval,
            whole: interval.saturating_mul(u64::from(limit.burst.max(1))),
        }
    }
}

/// How much of a limit is used up. It holds whatever the limit becomes: no change gives back what is spent, and none
/// makes requests wait longer than the limit that is in force.
#[derive(Debug, Default)]
pub struct RateLimiter {
    /// When all that came would have come had it come evenly, in nanoseconds since the clock's beginning.
    due: AtomicU64,
}

impl RateLimiter {
    /// Admits one more request, or says how long until one is.
    ///
    /// # Errors
    /// The wait, longer than zero, if nobody else comes before.
    pub fn admit(&self, rate: Rate, now: Time) -> Result<(), Duration> {
        let mut seen = self.due.load(Ordering::Relaxed);
        loop {
            let (due, admitted) = decide(seen, rate, now);
            if due == seen {
                return admitted;
            }
            match self
                .due
                .compare_exchange_weak(seen, due, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return admitted,
                Err(other) => seen = other,
            }
        }
    }

    /// What [`RateLimiter::admit`] would say, without a request.
    ///
    /// # Errors
    /// As there.
    pub fn would_admit(&self, rate: Rate, now: Time) -> Result<(), Duration> {
        decide(self.due.load(Ordering::Relaxed), rate, now).1
    }
}

/// When all is due after one more request, and whether that one is admitted.
fn decide(seen: u64, rate: Rate, now: Time) -> (u64, Result<(), Duration>) {
    let now = now.as_nanos();
    let latest = now.saturating_add(rate.whole);
    let next = seen.max(now).saturating_add(rate.interval);
    match next.checked_sub(latest).filter(|late| *late > 0) {
        None => (next, Ok(())),
        // Further ahead than by a whole burst it only is after a change to a higher limit.
        Some(late) => (seen.min(latest), Err(Duration::from_nanos(late.min(rate.interval)))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(requests: u32, per_seconds: u64, burst: u32) -> Rate {
        Rate::new(&RateLimit {
            name: "r".to_owned(),
            requests,
            per: Duration::from_secs(per_seconds),
            burst,
        })
    }

    /// Whether a request at each of these milliseconds is admitted, or how many it would have to wait.
    #[track_caller]
    fn check(rate: Rate, cases: &[(u64, Result<(), u64>)]) {
        let limiter = RateLimiter::default();
        for (at, (millis, expect)) in cases.iter().enumerate() {
            let now = Time::from_nanos(millis * 1_000_000);
            assert_eq!(limiter.would_admit(rate, now), expect.map_err(Duration::from_millis));
            let admitted = limiter.admit(rate, now);
            assert_eq!(admitted, expect.map_err(Duration::from_millis), "{at}: at {millis} ms");
        }
    }

    #[test]
    fn so_many_come_at_once_and_then_one_by_one() {
        let two_a_second = rate(2, 1, 2);
        check(
            two_a_second,
            &[
                (0, Ok(())),
                (0, Ok(())),
                (0, Err(500)),
                (499, Err(1)),
                (500, Ok(())),
                (500, Err(500)),
                (1_000, Ok(())),
                // What is not used is kept, up to a burst.
                (60_000, Ok(())),
                (60_000, Ok(())),
                (60_000, Err(500)),
            ],
        );
        check(
            rate(1, 60, 1),
            &[(5, Ok(())), (6, Err(59_999)), (60_005, Ok(())), (60_005, Err(60_000))],
        );
        // Time that goes back, as it may between threads, gives back as much at the most.
        check(rate(1, 1, 1), &[(1_000, Ok(())), (900, Err(1_000)), (2_000, Ok(()))]);
    }

    #[test]
    fn what_does_not_come_out_even_is_fewer() {
        assert_eq!(rate(3, 1, 3).interval, 333_333_334);
        assert_eq!(rate(1_000_000, 1, 1).interval, 1_000);
        let longest = rate(1, u64::MAX, u32::MAX);
        assert_eq!((longest.interval, longest.whole), (u64::MAX, u64::MAX));
    }

    #[test]
    fn a_change_of_the_limit_holds_at_once() {
        let limiter = RateLimiter::default();
        let (slow, fast) = (rate(1, 3_600, 2), rate(10, 1, 5));
        assert_eq!(limiter.admit(slow, Time::ZERO), Ok(()));
        assert_eq!(limiter.admit(slow, Time::ZERO), Ok(()));
        // Two hours are spent by the old limit; by the new one it is a burst, no more.
        assert_eq!(limiter.admit(fast, Time::ZERO), Err(Duration::from_millis(100)));
        assert_eq!(limiter.admit(fast, Time::from_nanos(SECOND / 10)), Ok(()));
        // And what is spent by the new one is spent by the old one.
        assert!(limiter.admit(slow, Time::from_nanos(SECOND / 10)).is_ok());
        assert!(limiter.admit(slow, Time::from_nanos(SECOND / 10)).is_err());
    }

    #[test]
    fn threads_share_one_limit() {
        for _ in 0..100 {
            let limiter = RateLimiter::default();
            let start = Barrier::new(4);
            let admit = || {
                start.wait();
                (0..50)
                    .filter(|_| limiter.admit(rate(1, 3_600, 100), Time::ZERO).is_ok())
                    .count()
            };
            let admitted: usize = std::thread::scope(|scope| {
                let threads = [0; 4].map(|_| scope.spawn(admit));
                threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            });
            assert_eq!(admitted, 100);
        }
    }

    proptest! {
        /// In no stretch of time come more than a burst and what the rate allows; and who waits as long as it was told
        /// is admitted.
        #[test]
        fn no_stretch_of_time_has_more_than_the_rate(
            requests in 1..1_000_u32,
            burst in 1..50_u32,
            pauses in prop::collection::vec(0..SECOND / 10, 1..200),
        ) {
            let rate = rate(requests, 1, burst);
            let limiter = RateLimiter::default();
            let mut now = Time::ZERO;
            let mut admitted: Vec<u64> = Vec::new();
            for pause in pauses {
                now = now + Duration::from_nanos(pause);
                match limiter.admit(rate, now) {
                    Ok(()) => admitted.push(now.as_nanos()),
                    Err(wait) => {
                        now = now + wait;
                        prop_assert_eq!(limiter.admit(rate, now), Ok(()));
                        admitted.push(now.as_nanos());
                    }
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, until) in admitted.iter().enumerate().skip(first) {
                    let came = (last - first + 1) as u64;
                    let allowed = u64::from(burst) + (until - from) / rate.interval;
                    prop_assert!(came <= allowed, "{came} within {} ns", until - from);
                }
            }
        }
    }
}
