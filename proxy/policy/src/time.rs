//! The clock every decision is given.

use std::ops::Add;
use std::time::Duration;

/// Monotonic time since the process, or the simulation, began. It holds 584 years, and adding saturates there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The beginning.
    pub const ZERO: Time = Time(0);

    /// So many nanoseconds after the beginning.
    pub const fn from_nanos(nanos: u64) -> Self {
        Time(nanos)
    }

    /// Nanoseconds since the beginning.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this; zero if `earlier` is later, as it may be when two threads read the clock.
    pub const fn saturating_since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(saturating_nanos(duration)))
    }
}

/// A duration's nanoseconds, at most `u64::MAX`.
pub(crate) fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_and_subtracting_saturate() {
        let second = Time::from_nanos(1_000_000_000);
        assert_eq!(Time::ZERO + Duration::from_secs(1), second);
        assert_eq!(second.saturating_since(Time::ZERO), Duration::from_secs(1));
        assert_eq!(Time::ZERO.saturating_since(second), Duration::ZERO);
        assert_eq!((second + Duration::MAX).as_nanos(), u64::MAX);
    }
}
