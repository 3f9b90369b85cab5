//! The clock of one process: everything in the proxy that compares times reads this one.

use std::time::Duration;

use tokio::time::Instant;
use weir_policy::time::Time;

/// Monotonic time since the proxy began. It follows tokio's clock, so tests with paused time move it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
}

impl Clock {
    /// A clock that begins now. One per process: times of two clocks don't compare.
    pub(crate) fn start() -> Clock {
        Clock { began: Instant::now() }
    }

    /// The time now.
    pub(crate) fn now(self) -> Time {
        let passed = self.began.elapsed();
        Time::from_nanos(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// When `time` is, for tokio's timers.
    pub(crate) fn instant(self, time: Time) -> Instant {
        self.began + Duration::from_nanos(time.as_nanos())
    }
}
