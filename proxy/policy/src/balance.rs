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
