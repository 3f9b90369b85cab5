//! Whether a request is sent again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};

use crate::model::{RetryBudget, RetryPolicy};
use crate::split::scale;
use crate::time::{Time, saturating_nanos};
use crate::window::Window;

/// How often at most a request is sent again because it is provably unprocessed, whatever the route says.
pub const UNPROCESSED_RESENDS_MAX: u32 = 3;

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not a byte was written: no connection, or one found dead before use.
    No,
    /// The peer says it did not process it: REFUSED_STREAM, or above GOAWAY's last stream id (RFC 9113 section 8.7).
    Refused,
    /// Something was written, and the connection or stream failed before any byte of the response.
    Maybe {
        /// Whether the connection had carried a request before: then the peer may have closed it as idle while this
        /// one was on its way (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
        reused: Reused,
    },
    /// An answer came.
    Answered(StatusCode),
    /// The time for the attempt passed before an answer.
    TimedOut,
}

/// Whether a connection had carried a request before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reused {
    /// It had.
    Yes,
    /// It was fresh.
    No,
}

/// Whether the request's body can still be sent from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayable {
    /// It is whole, or there is none.
    Yes,
    /// Part of it is gone.
    No,
}

/// Whether the route matches the request's method by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodNamed {
    /// It does: who wrote it knows of this method.
    Yes,
    /// It takes every method.
    No,
}

/// What is known when an attempt did not end well.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFacts<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// How far the attempt came.
    pub sent: Sent,
    /// Attempts made, this one included.
    pub attempts_made: u32,
    /// How many of them were made by [`RetryKind::Unprocessed`].
    pub unprocessed_resends: u32,
    /// How many of them were made by [`RetryKind::SafeResend`].
    pub safe_resends: u32,
    /// Whether the body is still whole.
    pub replayable: Replayable,
    /// Whether the route matches the method by name.
    pub method_named: MethodNamed,
    /// The route's policy.
    pub policy: Option<&'a RetryPolicy>,
}

/// What happens after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The caller gets what there is.
    Respond(Why),
    /// The request is sent again, to another endpoint if there is one.
    Retry {
        /// By which rule. A [`RetryKind::Policy`] retry needs [`Budget::withdraw`] first; the others need none: they
        /// are few, and no app has done or does work for them twice.
        kind: RetryKind,
        /// How long to wait before; `None`: at once. Where the deadline doesn't allow it, the caller responds.
        backoff: Option<Duration>,
    },
}

/// The rule by which a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryKind {
    /// It is provably unprocessed: any method, [`UNPROCESSED_RESENDS_MAX`] times.
    Unprocessed,
    /// GET, HEAD or OPTIONS on a reused connection that was reset before any byte of the response: once.
    SafeResend,
    /// The route says so.
    Policy,
}

/// Why a request is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Why {
    /// The answer is not one that the route tries again.
    #[error("the answer is final")]
    Final,
    /// It may have been processed, and no policy of the route says to send it again.
    #[error("the request may have been processed and the route has no retry policy")]
    NoPolicy,
    /// Its method is not idempotent, it may have been processed, and the route doesn't match the method by name.
    #[error(
        "the method is not idempotent, the request may have been processed, and the route does not name the method"
    )]
    NotIdempotent,
    /// Its body can't be sent again.
    #[error("part of the request's body is gone")]
    BodyGone,
    /// The attempts are used up.
    #[error("all attempts are used up")]
    AttemptsSpent,
}

/// Decides what happens after an attempt, without looking at budget or deadline. `random` is uniform over `u64`.
pub fn decide(facts: &AttemptFacts<'_>, random: u64) -> Decision {
    let unprocessed = match facts.sent {
        Sent::No | Sent::Refused => true,
        Sent::Maybe { .. } | Sent::Answered(_) | Sent::TimedOut => false,
    };
    if let Sent::Answered(status) = facts.sent
        && !facts.policy.is_some_and(|policy| policy.codes.contains(&status))
    {
        return Decision::Respond(Why::Final);
    }
    if facts.replayable == Replayable::No {
        return Decision::Respond(Why::BodyGone);
    }
    if unprocessed && facts.unprocessed_resends < UNPROCESSED_RESENDS_MAX {
        return Decision::Retry {
            kind: RetryKind::Unprocessed,
            // At once to another endpoint; if that fails as well, something larger may be restarting.
            backoff: facts
                .unprocessed_resends
                .checked_sub(1)
                .and_then(|doublings| backoff(UNPROCESSED_BACKOFF, doublings, random)),
        };
    }
    let fell_with_its_connection = facts.sent == Sent::Maybe { reused: Reused::Yes };
    if fell_with_its_connection && is_safe(facts.method) && facts.safe_resends == 0 {
        return Decision::Retry {
            kind: RetryKind::SafeResend,
            backoff: None,
        };
    }
    let Some(policy) = facts.policy else {
        let spent = unprocessed || (fell_with_its_connection && is_safe(facts.method));
        return Decision::Respond(if spent { Why::AttemptsSpent } else { Why::NoPolicy });
    };
    if !unprocessed && !facts.method.is_idempotent() && facts.method_named == MethodNamed::No {
        return Decision::Respond(Why::NotIdempotent);
    }
    let by_policy = facts
        .attempts_made
        .saturating_sub(1)
        .saturating_sub(facts.unprocessed_resends)
        .saturating_sub(facts.safe_resends);
    if by_policy >= policy.attempts {
        return Decision::Respond(Why::AttemptsSpent);
    }
    Decision::Retry {
        kind: RetryKind::Policy,
        backoff: backoff(policy.backoff, by_policy, random),
    }
}

/// GET, HEAD and OPTIONS: the methods that are sent again without being asked to. TRACE is safe as well (RFC 9110
/// section 9.2.1), but nobody is helped by it.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The wait before a retry: `base` doubled with each retry made, at most ten times `base`, of which `random` takes 50 to
/// 100 %: enough to pull callers apart, and never so little that the wait is none. `None` if `base` is zero.
fn backoff(base: Duration, doublings: u32, random: u64) -> Option<Duration> {
    let factor = 1_u32
        .checked_shl(doublings)
        .unwrap_or(BACKOFF_FACTOR_MAX)
        .min(BACKOFF_FACTOR_MAX);
    let full = saturating_nanos(base.saturating_mul(factor));
    let half = full / 2;
    let wait = half + scale(random, (full - half).saturating_add(1));
    (full > 0).then(|| Duration::from_nanos(wait))
}

/// How much retries may add to one cluster's load, over all workers of a proxy.
///
/// Over the window (which slides by tenths of it) there are at most `percent` retries per hundred requests, and
/// `min_per_second` for each second of the window; unused ones are not carried further than the window.
#[derive(Debug)]
pub struct Budget {
    config: RetryBudget,
    /// All: requests. Marked: retries. Requests are counted without the lock.
    window: Window,
    /// Held to look and take in one step. Taken only for retries, which are rare as long as it holds.
    withdrawing: Mutex<()>,
}

/// The budget has no retry left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the retry budget is exhausted: {retries} retries to {requests} requests in the last {window:?}")]
pub struct Exhausted {
    /// Retries in the window.
    pub retries: u64,
    /// Requests in the window.
    pub requests: u64,
    /// The window.
    pub window: Duration,
}

impl Budget {
    /// A budget by this configuration, of which nothing is spent.
    pub fn new(config: RetryBudget) -> Self {
        Budget {
            config,
            window: Window::new(config.window),
            withdrawing: Mutex::new(()),
        }
    }

    /// The configuration it was made with.
    pub fn config(&self) -> RetryBudget {
        self.config
    }

    /// Counts a request; called once for each, not for its retries.
    pub fn deposit(&self, now: Time) {
        self.window.add(now, 1, 0);
    }

    /// Takes one retry.
    ///
    /// # Errors
    /// When none is left: the caller gets what there is.
    pub fn withdraw(&self, now: Time) -> Result<(), Exhausted> {
        let _one_at_a_time = self.withdrawing.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = self.window.counts(now);
        // In hundredths of a retry; the floor is per second, so the window's nanoseconds are divided by a second's.
        let by_share = u128::from(counts.all) * u128::from(self.config.percent);
        let floor = u128::from(self.config.min_per_second) * self.config.window.as_nanos() * 100 / 1_000_000_000;
        if (u128::from(counts.marked) + 1) * 100 > by_share + floor {
            return Err(Exhausted {
                retries: counts.marked,
                requests: counts.all,
                window: self.config.window,
            });
        }
        self.window.add(now, 0, 1);
        Ok(())
    }
}

const UNPROCESSED_BACKOFF: Duration = Duration::from_millis(25);
const BACKOFF_FACTOR_MAX: u32 = 10;
