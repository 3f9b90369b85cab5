//! What is refused to whoever reaches a port: counted each time, and told once a second. Who is nobody yet must not
//! fill the log.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Refusals of one kind.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    total: u64,
    /// How many there were, this one included, when one was told; and when that was.
    told: Option<(u64, Instant)>,
}

/// How many were not told before one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untold(pub(crate) u64);

impl Refusals {
    /// Counts one. `Some`: it is to be told.
    pub(crate) fn count(&self, now: Instant) -> Option<Untold> {
        let mut state = self.lock();
        state.total += 1;
        let before = match state.told {
            Some((_, at)) if now.saturating_duration_since(at) < PAUSE => return None,
            Some((before, _)) => before,
            None => 0,
        };
        state.told = Some((state.total, now));
        Some(Untold(state.total - before - 1))
    }

    /// How many there were.
    pub(crate) fn total(&self) -> u64 {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_is_told_and_all_are_counted() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let told = |millis: u64| refusals.count(start + Duration::from_millis(millis));
        assert_eq!(told(0), Some(Untold(0)));
        assert_eq!((told(1), told(999)), (None, None));
        assert_eq!(told(1_000), Some(Untold(2)));
        assert_eq!(told(1_999), None);
        assert_eq!(told(9_000), Some(Untold(1)));
        assert_eq!(told(10_000), Some(Untold(0)));
        assert_eq!(refusals.total(), 7);
    }
}
