//! Which endpoint takes a request: the better of two drawn at random, by peak-EWMA latency times requests in flight.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::split::scale;
use crate::time::{Time, saturating_nanos};

/// What one proxy knows of an endpoint's load: shared between its workers, never locked.
///
/// The latency is Finagle's peak EWMA: a slower answer counts at once and in full, a faster one only by the time that
/// has passed, so an endpoint that stalls is left alone within one answer and trusted again slowly.
#[derive(Debug, Default)]
pub struct EndpointLoad {
    active: AtomicU32,
    /// When the average was last touched, in nanoseconds. Threads take disjoint spans of time by raising it, so that
    /// together they decay the average by exactly the time that passed.
    touched: AtomicU64,
    /// The average in nanoseconds, as the bits of an `f64`; 0: never measured.
    average: AtomicU64,
}

impl EndpointLoad {
    /// An endpoint nothing is known of.
    pub const fn new() -> Self {
        EndpointLoad {
            active: AtomicU32::new(0),
            touched: AtomicU64::new(0),
            average: AtomicU64::new(0),
        }
    }

    /// A request is sent. Each begin is followed by one [`end`](Self::end) or [`abandon`](Self::abandon).
    pub fn begin(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// A request ended: with its `latency` to the answer's head, or without an answer (`None`), which counts as eight
    /// times the average known so far, at least 100 ms and at most 10 s, so that an endpoint which fails fast does not
    /// look good. `decay` is [`crate::model::Balancing::PeakEwma`]'s.
    pub fn end(&self, latency: Option<Duration>, now: Time, decay: Duration) {
        self.abandon();
        let before = self.touched.fetch_max(now.as_nanos(), Relaxed);
        let kept = kept_after(now.as_nanos().saturating_sub(before), decay);
        let measured = latency.map(|latency| (saturating_nanos(latency) as f64).max(1.0));
        let _ = self.average.fetch_update(Relaxed, Relaxed, |bits| {
            let average = f64::from_bits(bits);
            let failed = || (average * kept * FAILURE_FACTOR).clamp(FAILURE_MIN, FAILURE_MAX);
            let sample = measured.unwrap_or_else(failed);
            // A peak jumps up at once. How much a lower sample counts, the time passed decides.
            let next = if sample >= average {
                sample
            } else {
                average * kept + sample * (1.0 - kept)
            };
            Some(next.to_bits())
        });
    }

    /// A request ended in a way that says nothing of the endpoint: its caller went away.
    pub fn abandon(&self) {
        let _ = self
            .active
            .fetch_update(Relaxed, Relaxed, |active| active.checked_sub(1));
    }

    /// What another request would wait for here, in nanoseconds, for comparison: the decayed average times the requests
    /// in flight with it. An endpoint not measured (or so long ago that nothing is left) costs nothing while idle, so
    /// that it is tried, and more than any measured one while its first requests are out, so that it isn't stampeded.
    pub fn cost(&self, now: Time, decay: Duration) -> f64 {
        let active = f64::from(self.active.load(Relaxed));
        let passed = now.as_nanos().saturating_sub(self.touched.load(Relaxed));
        let average = f64::from_bits(self.average.load(Relaxed)) * kept_after(passed, decay);
        if average >= 1.0 {
            average * (active + 1.0)
        } else if active == 0.0 {
            0.0
        } else {
            UNMEASURED + active
        }
    }

    /// The [`cost`](Self::cost) as a time, for people; `None`: nothing was measured lately.
    pub fn measured_cost(&self, now: Time, decay: Duration) -> Option<Duration> {
        let cost = self.cost(now, decay);
        (1.0..UNMEASURED)
            .contains(&cost)
            .then(|| Duration::from_secs_f64(cost / 1e9))
    }

    /// Requests in flight.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }
}

/// Two different indices below `len`, drawn evenly by `random` (uniform over `u64`); twice 0 if there is only one,
/// `None` if there is none.
pub fn power_of_two(len: usize, random: u64) -> Option<(usize, usize)> {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    if len == 0 {
        return None;
    }
    // Each half of the bits draws once.
    let first = scale(random & 0xffff_ffff_0000_0000, len);
    let second = scale(random << 32, len - 1);
    let second = if len > 1 && second >= first { second + 1 } else { second };
    Some((usize::try_from(first).ok()?, usize::try_from(second).ok()?))
}

/// The index below `len` of the cheaper of two drawn by `random` (uniform over `u64`); `None` if `len` is 0.
/// On equal cost the first drawn, which is as random as the other.
pub fn pick(len: usize, random: u64, cost: impl Fn(usize) -> f64) -> Option<usize> {
    let (first, second) = power_of_two(len, random)?;
    if first != second && cost(second) < cost(first) {
        Some(second)
    } else {
        Some(first)
    }
}

/// One after the other, over all workers that share it.
#[derive(Debug, Default)]
pub struct RoundRobin(AtomicUsize);

impl RoundRobin {
    /// Begins with the first.
    pub const fn new() -> Self {
        RoundRobin(AtomicUsize::new(0))
    }

    /// The next index below `len`; `None` if `len` is 0.
    pub fn next(&self, len: usize) -> Option<usize> {
        self.0.fetch_add(1, Relaxed).checked_rem(len)
    }
}

/// The share of an average that is left after `passed` nanoseconds.
fn kept_after(passed: u64, decay: Duration) -> f64 {
    let decay = saturating_nanos(decay).max(1) as f64;
    (-(passed as f64) / decay).exp()
}

/// Above every cost that is measured, and still exact when requests in flight are added (Finagle: 2^63 / 2^16).
const UNMEASURED: f64 = (1_u64 << 47) as f64;
const FAILURE_FACTOR: f64 = 8.0;
const FAILURE_MIN: f64 = 100_000_000.0;
const FAILURE_MAX: f64 = 10_000_000_000.0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DECAY: Duration = Duration::from_secs(10);
    const NOW: Time = Time::from_nanos(1_000_000_000_000);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// An idle endpoint that answered once, now, in this time.
    fn measured(latency: Duration) -> EndpointLoad {
        let load = EndpointLoad::new();
        load.begin();
        load.end(Some(latency), NOW, DECAY);
        load
    }

    #[track_caller]
    fn costs(load: &EndpointLoad, now: Time, expect_millis: f64) {
        let cost = load.cost(now, DECAY) / 1e6;
        assert!(
            (cost / expect_millis - 1.0).abs() < 1e-6,
            "{cost} ms instead of {expect_millis} ms"
        );
    }

    #[test]
    fn cost_is_latency_times_requests_in_flight_and_one() {
        let load = measured(millis(20));
        costs(&load, NOW, 20.0);
        load.begin();
        load.begin();
        assert_eq!(load.active(), 2);
        costs(&load, NOW, 60.0);
        load.abandon();
        costs(&load, NOW, 40.0);
        assert_eq!(load.measured_cost(NOW, DECAY), Some(millis(40)));
        assert_eq!(EndpointLoad::new().measured_cost(NOW, DECAY), None);
    }

    #[test]
    fn a_peak_counts_at_once_and_in_full() {
        let load = measured(millis(20));
        load.end(Some(millis(500)), NOW, DECAY);
        costs(&load, NOW, 500.0);
    }

    #[test]
    fn a_faster_answer_counts_by_the_time_that_has_passed() {
        let load = measured(millis(500));
        load.end(Some(millis(20)), NOW, DECAY);
        costs(&load, NOW, 500.0);
        load.end(Some(millis(20)), NOW + DECAY, DECAY);
        let kept = (-1_f64).exp();
        costs(&load, NOW + DECAY, 500.0 * kept + 20.0 * (1.0 - kept));
    }

    #[test]
    fn what_was_measured_is_forgotten_while_idle() {
        let load = measured(millis(500));
        costs(&load, NOW + DECAY, 500.0 * (-1_f64).exp());
        assert_eq!(load.cost(NOW + DECAY * 100, DECAY), 0.0);
    }

    #[test]
    fn an_unmeasured_endpoint_is_tried_once_and_not_stampeded() {
        let (cold, warm) = (EndpointLoad::new(), measured(millis(500)));
        assert!(cold.cost(NOW, DECAY) < warm.cost(NOW, DECAY));
        cold.begin();
        warm.begin();
        assert!(cold.cost(NOW, DECAY) > warm.cost(NOW, DECAY));
        // Of two cold ones the one with fewer requests out.
        let colder = EndpointLoad::new();
        colder.begin();
        colder.begin();
        assert!(colder.cost(NOW, DECAY) > cold.cost(NOW, DECAY));
    }

    #[test]
    fn failing_fast_does_not_look_good() {
        let (healthy, failing) = (measured(millis(20)), EndpointLoad::new());
        failing.begin();
        failing.end(None, NOW, DECAY);
        costs(&failing, NOW, 100.0);
        assert!(failing.cost(NOW, DECAY) > healthy.cost(NOW, DECAY));
        // Each failure makes it eight times worse, up to ten seconds.
        failing.end(None, NOW, DECAY);
        costs(&failing, NOW, 800.0);
        for _ in 0..5 {
            failing.end(None, NOW, DECAY);
        }
        costs(&failing, NOW, 10_000.0);
    }

    #[test]
    fn odd_clocks_and_ends_do_no_harm() {
        let load = measured(millis(20));
        load.end(Some(Duration::MAX), Time::ZERO, Duration::ZERO);
        assert_eq!(load.active(), 0);
        assert!(load.cost(Time::ZERO, DECAY).is_finite());
        assert!(load.cost(NOW + Duration::MAX, Duration::ZERO).is_finite());
    }

    #[test]
    fn threads_count_together() {
        let load = EndpointLoad::new();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let load = &load;
                scope.spawn(move || {
                    for step in 0..10_000 {
                        load.begin();
                        let now = NOW + Duration::from_micros(step * 4 + thread);
                        load.end(Some(millis(5)), now, DECAY);
                    }
                });
            }
        });
        assert_eq!(load.active(), 0);
        costs(&load, NOW + Duration::from_micros(9_999 * 4 + 3), 5.0);
    }

    /// Steps a clock through requests at a steady rate over endpoints of these latencies, and counts who got them.
    fn simulate(latencies: &[Duration], requests: u32, every: Duration) -> Vec<u32> {
        let loads: Vec<EndpointLoad> = latencies.iter().map(|_| EndpointLoad::new()).collect();
        let mut under_way: Vec<(Time, usize)> = Vec::new();
        let mut got = vec![0; latencies.len()];
        let (mut now, mut seed) = (NOW, 7_u64);
        for _ in 0..requests {
            now = now + every;
            under_way.retain(|&(done, index)| {
                if done <= now {
                    loads[index].end(Some(latencies[index]), done, DECAY);
                }
                done > now
            });
            // SplitMix64.
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            let cost = |index: usize| loads[index].cost(now, DECAY);
            let index = pick(loads.len(), mixed ^ mixed >> 31, cost).expect("there are endpoints");
            loads[index].begin();
            got[index] += 1;
            under_way.push((now + latencies[index], index));
        }
        got
    }

    #[test]
    fn equal_endpoints_share_alike() {
        let got = simulate(&[millis(5); 4], 20_000, millis(1));
        assert!(got.iter().all(|&count| (4_000..=6_000).contains(&count)), "{got:?}");
    }

    #[test]
    fn a_stalling_endpoint_gets_next_to_nothing() {
        let got = simulate(&[millis(5), millis(5), millis(5), millis(2_000)], 20_000, millis(1));
        assert!(got[3] < 200, "{got:?}");
    }

    #[test]
    fn two_are_drawn_among_the_ends() {
        assert_eq!(power_of_two(0, 7), None);
        assert_eq!(power_of_two(1, u64::MAX), Some((0, 0)));
        assert_eq!(power_of_two(3, 0), Some((0, 1)));
        assert_eq!(power_of_two(3, u64::MAX), Some((2, 1)));
        assert_eq!(pick(0, 7, |_| 0.0), None);
        assert_eq!(pick(1, 7, |_| 0.0), Some(0));
        assert_eq!(pick(2, 0, |index| if index == 0 { 2.0 } else { 1.0 }), Some(1));
        assert_eq!(pick(2, u64::MAX, |index| if index == 0 { 2.0 } else { 1.0 }), Some(1));
    }

    #[test]
    fn each_pair_is_drawn_as_often() {
        let len = 5_usize;
        let mut drawn = [[0_u32; 5]; 5];
        for high in 0..20_u64 {
            for low in 0..20_u64 {
                // The middles of twenty equal parts of each half of the bits.
                let part = (1_u64 << 32) / 20;
                let random = (high * part + part / 2) << 32 | (low * part + part / 2);
                let (first, second) = power_of_two(len, random).expect("there are endpoints");
                drawn[first][second] += 1;
            }
        }
        for (first, row) in drawn.iter().enumerate() {
            for (second, &count) in row.iter().enumerate() {
                assert_eq!(count, if first == second { 0 } else { 20 }, "{first} {second}");
            }
        }
    }

    #[test]
    fn round_robin_goes_round() {
        let round = RoundRobin::new();
        let drawn: Vec<_> = (0..4).map(|_| round.next(3)).collect();
        assert_eq!(drawn, [Some(0), Some(1), Some(2), Some(0)]);
        assert_eq!(round.next(0), None);
        let last = RoundRobin(AtomicUsize::new(usize::MAX));
        assert!(last.next(3).is_some_and(|index| index < 3));
        assert_eq!(last.next(3), Some(0));
    }

    proptest! {
        #[test]
        fn the_two_drawn_are_different_and_within(len in 2_usize..1_000, random: u64) {
            let (first, second) = power_of_two(len, random).expect("there are endpoints");
            prop_assert!(first < len && second < len && first != second);
        }
    }
}
