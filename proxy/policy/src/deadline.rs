//! Until when a request may take.

use std::time::Duration;

use crate::time::Time;

/// A point in time after which nobody waits any more, or none.
///
/// A request has one, the earlier of its caller's (the context's) and its route's; each attempt has one within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Deadline(Option<Time>);

/// What became of the time when an attempt is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// Neither deadline has passed.
    None,
    /// The attempt's has, the request's has not: another attempt may be made ([`crate::retry::Sent::TimedOut`]).
    Attempt,
    /// The request's has: nobody waits for another attempt.
    Request,
}

impl Deadline {
    /// No deadline.
    pub const NONE: Deadline = Deadline(None);

    /// A deadline at this time.
    pub const fn at(time: Time) -> Self {
        Deadline(Some(time))
    }

    /// A deadline so long after `now`; none if there is no time-out.
    pub fn after(now: Time, timeout: Option<Duration>) -> Self {
        Deadline(timeout.map(|timeout| now + timeout))
    }

    /// When it is; `None`: never.
    pub const fn time(self) -> Option<Time> {
        self.0
    }

    /// The earlier of both.
    #[must_use]
    pub fn earliest(self, other: Deadline) -> Deadline {
        match (self.0, other.0) {
            (Some(one), Some(two)) => Deadline(Some(one.min(two))),
            (one, two) => Deadline(one.or(two)),
        }
    }

    /// The deadline of an attempt that begins `now`, within this deadline of its request; `None`: as this.
    #[must_use]
    pub fn per_try(self, now: Time, timeout: Option<Duration>) -> Deadline {
        self.earliest(Deadline::after(now, timeout))
    }

    /// The time left, zero once it has passed; `None`: no deadline.
    pub fn remaining(self, now: Time) -> Option<Duration> {
        self.0.map(|time| time.saturating_since(now))
    }

    /// Whether it has passed; at the very time it has.
    pub fn has_passed(self, now: Time) -> bool {
        self.0.is_some_and(|time| time <= now)
    }

    /// Whether a wait of `wait` from `now` ends before it, so that waiting is of use.
    pub fn allows(self, now: Time, wait: Duration) -> bool {
        self.0.is_none_or(|time| now + wait < time)
    }

    /// What has passed, this being the request's deadline and `attempt` the one of its attempt.
    pub fn expiry(self, attempt: Deadline, now: Time) -> Expiry {
        if self.has_passed(now) {
            Expiry::Request
        } else if attempt.has_passed(now) {
            Expiry::Attempt
        } else {
            Expiry::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_nanos(1_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earlier_deadline_holds() {
        let (soon, late) = (Deadline::at(NOW), Deadline::at(NOW + SECOND));
        assert_eq!(soon.earliest(late), soon);
        assert_eq!(late.earliest(soon), soon);
        assert_eq!(late.earliest(Deadline::NONE), late);
        assert_eq!(Deadline::NONE.earliest(late), late);
        assert_eq!(Deadline::NONE.earliest(Deadline::NONE), Deadline::NONE);
    }

    #[test]
    fn an_attempt_stays_within_its_request() {
        let request = Deadline::after(NOW, Some(SECOND));
        assert_eq!(request.per_try(NOW, None), request);
        assert_eq!(request.per_try(NOW, Some(SECOND * 2)), request);
        assert_eq!(request.per_try(NOW, Some(SECOND / 2)), Deadline::at(NOW + SECOND / 2));
        assert_eq!(Deadline::NONE.per_try(NOW, Some(SECOND)), Deadline::at(NOW + SECOND));
        assert!(!Deadline::NONE.per_try(NOW, Some(Duration::MAX)).has_passed(NOW));
    }

    #[test]
    fn what_is_left_shrinks_to_zero() {
        let deadline = Deadline::at(NOW + SECOND);
        assert_eq!(deadline.remaining(NOW), Some(SECOND));
        assert_eq!(deadline.remaining(NOW + SECOND * 2), Some(Duration::ZERO));
        assert_eq!(Deadline::NONE.remaining(NOW), None);
        assert!(!deadline.has_passed(NOW));
        assert!(deadline.has_passed(NOW + SECOND));
        assert!(!Deadline::NONE.has_passed(NOW + SECOND));
        assert!(deadline.allows(NOW, SECOND / 2));
        assert!(!deadline.allows(NOW, SECOND));
        assert!(Deadline::NONE.allows(NOW, Duration::MAX));
    }

    #[test]
    fn the_requests_deadline_outranks_the_attempts() {
        let request = Deadline::at(NOW + SECOND * 2);
        let attempt = Deadline::at(NOW + SECOND);
        assert_eq!(request.expiry(attempt, NOW), Expiry::None);
        assert_eq!(request.expiry(attempt, NOW + SECOND), Expiry::Attempt);
        assert_eq!(request.expiry(attempt, NOW + SECOND * 2), Expiry::Request);
        assert_eq!(request.expiry(request, NOW + SECOND * 2), Expiry::Request);
    }
}
