//! Whether a request is sent again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};

use crate::model::{Backoff, RetryBudget, RetryMethods, RetryOn, RetryPolicy};
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
    /// The `grpc-status` in the answer's head, if there is one.
    pub grpc_status: Option<u32>,
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
        /// How long to wait before; `None`: at once. Where the deadline doesn't allow that, the caller gets what there
        /// is, save for a [`RetryKind::Policy`] retry that the budget has: that the route's retries take longer than
        /// the request may is then what went wrong (Gateway API, conformance test HTTPRouteRetryWithTimeouts).
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
    /// No answer came, and the policy of the route does not take that.
    #[error("the route's retry policy does not take an attempt that ends like this one")]
    NotTaken,
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
    let taken = facts.policy.is_some_and(|policy| takes(policy, facts));
    if let Sent::Answered(_) = facts.sent
        && !taken
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
                .and_then(|doublings| backoff(Backoff::tenfold(UNPROCESSED_BACKOFF), doublings, random)),
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
    if !taken {
        return Decision::Respond(Why::NotTaken);
    }
    let may_be_repeated =
        facts.method.is_idempotent() || facts.method_named == MethodNamed::Yes || policy.methods == RetryMethods::Any;
    if !unprocessed && !may_be_repeated {
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

/// Whether a policy takes what became of an attempt.
fn takes(policy: &RetryPolicy, facts: &AttemptFacts<'_>) -> bool {
    use RetryOn::{ConnectFailure, GatewayError, RefusedStream, Reset, ServerError};
    let on = |word| policy.on.contains(&word);
    let unanswered = || on(Reset) || on(ServerError) || on(GatewayError);
    match facts.sent {
        Sent::No => on(ConnectFailure) || unanswered(),
        Sent::Refused => on(RefusedStream) || unanswered(),
        Sent::Maybe { .. } | Sent::TimedOut => unanswered(),
        Sent::Answered(status) => {
            let by_grpc_status =
                |word: &RetryOn| word.grpc_status().is_some_and(|taken| facts.grpc_status == Some(taken));
            policy.codes.contains(&status)
                || (status.is_server_error() && on(ServerError))
                || (matches!(status.as_u16(), 502..=504) && on(GatewayError))
                || policy.on.iter().any(by_grpc_status)
        }
    }
}

/// GET, HEAD and OPTIONS: the methods that are sent again without being asked to. TRACE is safe as well (RFC 9110
/// section 9.2.1), but nobody is helped by it.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The wait before a retry: `base` doubled with each retry made, at most `max`, of which `random` takes 50 to 100 %:
/// enough to pull callers apart, and never so little that the wait is none. `None` if `base` is zero.
fn backoff(Backoff { base, max }: Backoff, doublings: u32, random: u64) -> Option<Duration> {
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let full = saturating_nanos(base.saturating_mul(factor).min(max));
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
        self.look(now)?;
        self.window.add(now, 0, 1);
        Ok(())
    }

    /// Whether one could be taken.
    ///
    /// # Errors
    /// When none is left.
    pub fn look(&self, now: Time) -> Result<(), Exhausted> {
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
        Ok(())
    }
}

const UNPROCESSED_BACKOFF: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: Duration = Duration::from_millis(100);
    const ON_FRESH: Sent = Sent::Maybe { reused: Reused::No };
    const ON_REUSED: Sent = Sent::Maybe { reused: Reused::Yes };
    const UNAVAILABLE: Sent = Sent::Answered(StatusCode::SERVICE_UNAVAILABLE);

    fn policy() -> RetryPolicy {
        RetryPolicy {
            attempts: 2,
            on: RetryOn::no_answer(),
            codes: vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY],
            backoff: Backoff::tenfold(BASE),
            methods: RetryMethods::Idempotent,
        }
    }

    /// The first attempt of a request with a whole body on a route without policy.
    fn first(method: &Method, sent: Sent) -> AttemptFacts<'_> {
        AttemptFacts {
            method,
            sent,
            grpc_status: None,
            attempts_made: 1,
            unprocessed_resends: 0,
            safe_resends: 0,
            replayable: Replayable::Yes,
            method_named: MethodNamed::No,
            policy: None,
        }
    }

    /// By which rule it is sent again, or why not.
    fn outcome(facts: &AttemptFacts<'_>) -> Result<RetryKind, Why> {
        match decide(facts, 0) {
            Decision::Retry { kind, .. } => Ok(kind),
            Decision::Respond(why) => Err(why),
        }
    }

    #[test]
    fn by_default_only_what_is_safe_is_sent_again() {
        let safe = [Method::GET, Method::HEAD, Method::OPTIONS];
        let others = [
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::TRACE,
            Method::CONNECT,
        ];
        for method in safe.iter().chain(&others) {
            let check = |sent, expect| assert_eq!(outcome(&first(method, sent)), expect, "{method} {sent:?}");
            let is_safe = safe.contains(method);
            check(Sent::No, Ok(RetryKind::Unprocessed));
            check(Sent::Refused, Ok(RetryKind::Unprocessed));
            check(
                ON_REUSED,
                if is_safe {
                    Ok(RetryKind::SafeResend)
                } else {
                    Err(Why::NoPolicy)
                },
            );
            check(ON_FRESH, Err(Why::NoPolicy));
            check(Sent::TimedOut, Err(Why::NoPolicy));
            check(UNAVAILABLE, Err(Why::Final));
            check(Sent::Answered(StatusCode::OK), Err(Why::Final));
        }
    }

    #[test]
    fn a_reset_is_sent_again_at_most_once() {
        let facts = AttemptFacts {
            attempts_made: 2,
            safe_resends: 1,
            ..first(&Method::GET, ON_REUSED)
        };
        assert_eq!(outcome(&facts), Err(Why::AttemptsSpent));
    }

    #[test]
    fn unprocessed_requests_are_sent_again_three_times() {
        for resends in 0..5 {
            for sent in [Sent::No, Sent::Refused] {
                let facts = AttemptFacts {
                    attempts_made: resends + 1,
                    unprocessed_resends: resends,
                    ..first(&Method::POST, sent)
                };
                let expect = if resends < 3 {
                    Ok(RetryKind::Unprocessed)
                } else {
                    Err(Why::AttemptsSpent)
                };
                assert_eq!(outcome(&facts), expect, "{resends}");
            }
        }
    }

    #[test]
    fn what_is_gone_is_not_sent_again() {
        let policy = policy();
        for sent in [
            Sent::No,
            Sent::Refused,
            ON_REUSED,
            ON_FRESH,
            Sent::TimedOut,
            UNAVAILABLE,
        ] {
            let facts = AttemptFacts {
                replayable: Replayable::No,
                policy: Some(&policy),
                ..first(&Method::GET, sent)
            };
            assert_eq!(outcome(&facts), Err(Why::BodyGone), "{sent:?}");
        }
    }

    #[test]
    fn a_policy_retries_codes_resets_and_timeouts() {
        let policy = policy();
        for (sent, expect) in [
            (UNAVAILABLE, Ok(RetryKind::Policy)),
            (Sent::Answered(StatusCode::INTERNAL_SERVER_ERROR), Err(Why::Final)),
            (Sent::Answered(StatusCode::OK), Err(Why::Final)),
            (ON_FRESH, Ok(RetryKind::Policy)),
            (ON_REUSED, Ok(RetryKind::SafeResend)),
            (Sent::TimedOut, Ok(RetryKind::Policy)),
            (Sent::No, Ok(RetryKind::Unprocessed)),
            (Sent::Refused, Ok(RetryKind::Unprocessed)),
        ] {
            let facts = AttemptFacts {
                policy: Some(&policy),
                ..first(&Method::GET, sent)
            };
            assert_eq!(outcome(&facts), expect, "{sent:?}");
        }
    }

    /// What each word takes, of a GET that is sent again by nothing else.
    #[test]
    fn each_word_takes_what_envoy_says_that_it_does() {
        use RetryOn::*;
        let answered = |status| Sent::Answered(StatusCode::from_u16(status).expect("a status"));
        let unanswered = [ServerError, GatewayError, Reset];
        let table: &[(Sent, Option<u32>, &[RetryOn])] = &[
            (Sent::No, None, &[ServerError, GatewayError, Reset, ConnectFailure]),
            (Sent::Refused, None, &[ServerError, GatewayError, Reset, RefusedStream]),
            (ON_FRESH, None, &unanswered),
            (Sent::TimedOut, None, &unanswered),
            (answered(200), None, &[]),
            (answered(404), None, &[]),
            (answered(500), None, &[ServerError]),
            (answered(501), None, &[ServerError]),
            (answered(502), None, &[ServerError, GatewayError]),
            (answered(503), None, &[ServerError, GatewayError]),
            (answered(504), None, &[ServerError, GatewayError]),
            (answered(505), None, &[ServerError]),
            (answered(200), Some(0), &[]),
            (answered(200), Some(1), &[Cancelled]),
            (answered(200), Some(2), &[]),
            (answered(200), Some(4), &[DeadlineExceeded]),
            (answered(200), Some(8), &[ResourceExhausted]),
            (answered(200), Some(13), &[Internal]),
            (answered(200), Some(14), &[Unavailable]),
        ];
        for (sent, grpc_status, takers) in table {
            for word in RetryOn::ALL {
                let policy = RetryPolicy {
                    on: [word].into(),
                    codes: Vec::new(),
                    ..policy()
                };
                let facts = AttemptFacts {
                    attempts_made: 4,
                    unprocessed_resends: UNPROCESSED_RESENDS_MAX,
                    grpc_status: *grpc_status,
                    policy: Some(&policy),
                    ..first(&Method::GET, *sent)
                };
                let expect = match (takers.contains(&word), sent) {
                    (true, _) => Ok(RetryKind::Policy),
                    (false, Sent::Answered(_)) => Err(Why::Final),
                    (false, _) => Err(Why::NotTaken),
                };
                assert_eq!(outcome(&facts), expect, "{word:?} of {sent:?} {grpc_status:?}");
            }
        }
    }

    #[test]
    fn every_word_is_read_as_itself() {
        for word in RetryOn::ALL {
            assert_eq!(RetryOn::of_word(word.word()), Some(word));
        }
        assert_eq!(RetryOn::of_word("retriable-4xx"), None);
    }

    #[test]
    fn a_policy_for_any_method_sends_all_of_them_again() {
        let policy = RetryPolicy {
            methods: RetryMethods::Any,
            ..policy()
        };
        for method in [Method::POST, Method::PATCH, Method::GET] {
            for sent in [UNAVAILABLE, ON_FRESH, Sent::TimedOut] {
                let facts = AttemptFacts {
                    policy: Some(&policy),
                    ..first(&method, sent)
                };
                assert_eq!(outcome(&facts), Ok(RetryKind::Policy), "{method} {sent:?}");
            }
        }
    }

    #[test]
    fn a_policy_covers_what_the_default_no_longer_does() {
        let policy = policy();
        let reset_again = AttemptFacts {
            attempts_made: 2,
            safe_resends: 1,
            policy: Some(&policy),
            ..first(&Method::GET, ON_REUSED)
        };
        assert_eq!(outcome(&reset_again), Ok(RetryKind::Policy));
        // No connection for the fourth time: any method, since still nothing was sent.
        let unconnected = AttemptFacts {
            attempts_made: 4,
            unprocessed_resends: 3,
            policy: Some(&policy),
            ..first(&Method::POST, Sent::No)
        };
        assert_eq!(outcome(&unconnected), Ok(RetryKind::Policy));
    }

    #[test]
    fn a_policys_attempts_are_its_own() {
        let policy = policy();
        for (attempts_made, unprocessed_resends, safe_resends, expect) in [
            (1, 0, 0, Ok(RetryKind::Policy)),
            (2, 0, 0, Ok(RetryKind::Policy)),
            (3, 0, 0, Err(Why::AttemptsSpent)),
            // What was sent again by the other rules does not count.
            (6, 3, 1, Ok(RetryKind::Policy)),
            (7, 3, 1, Err(Why::AttemptsSpent)),
        ] {
            let facts = AttemptFacts {
                attempts_made,
                unprocessed_resends,
                safe_resends,
                policy: Some(&policy),
                ..first(&Method::GET, UNAVAILABLE)
            };
            assert_eq!(outcome(&facts), expect, "{facts:?}");
        }
        let none = RetryPolicy { attempts: 0, ..policy };
        let facts = AttemptFacts {
            policy: Some(&none),
            ..first(&Method::GET, UNAVAILABLE)
        };
        assert_eq!(outcome(&facts), Err(Why::AttemptsSpent));
    }

    #[test]
    fn other_than_idempotent_methods_need_a_route_that_names_them() {
        let policy = policy();
        let patient = Method::from_bytes(b"PATIENT").expect("a method");
        for (method, idempotent) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::OPTIONS, true),
            (Method::TRACE, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::POST, false),
            (Method::PATCH, false),
            (Method::CONNECT, false),
            (patient, false),
        ] {
            for sent in [UNAVAILABLE, ON_FRESH, Sent::TimedOut] {
                let mut facts = AttemptFacts {
                    policy: Some(&policy),
                    ..first(&method, sent)
                };
                let expect = if idempotent {
                    Ok(RetryKind::Policy)
                } else {
                    Err(Why::NotIdempotent)
                };
                assert_eq!(outcome(&facts), expect, "{method} {sent:?}");
                facts.method_named = MethodNamed::Yes;
                assert_eq!(outcome(&facts), Ok(RetryKind::Policy), "{method} {sent:?}");
            }
        }
    }

    #[test]
    fn waits_double_up_to_ten_times_and_are_jittered_from_half() {
        let policy = RetryPolicy {
            attempts: 100,
            ..policy()
        };
        for (retries_made, full_millis) in [(0, 100), (1, 200), (2, 400), (3, 800), (4, 1_000), (40, 1_000)] {
            let facts = AttemptFacts {
                attempts_made: retries_made + 1,
                policy: Some(&policy),
                ..first(&Method::GET, UNAVAILABLE)
            };
            let full = Duration::from_millis(full_millis);
            for (random, backoff) in [(0, full / 2), (u64::MAX, full)] {
                let (kind, backoff) = (RetryKind::Policy, Some(backoff));
                assert_eq!(decide(&facts, random), Decision::Retry { kind, backoff });
            }
        }
        assert_eq!(backoff(Backoff::tenfold(Duration::ZERO), 3, 7), None);
        assert_eq!(
            backoff(Backoff::tenfold(Duration::MAX), 3, u64::MAX),
            Some(Duration::from_nanos(u64::MAX))
        );
        let cut = Backoff {
            base: BASE,
            max: BASE * 3,
        };
        let longest = [0, 1, 2, 40].map(|doublings| backoff(cut, doublings, u64::MAX));
        assert_eq!(longest, [BASE, BASE * 2, BASE * 3, BASE * 3].map(Some));
    }

    #[test]
    fn what_was_not_processed_is_sent_again_at_once_and_then_with_waits() {
        let backoffs = [0, 1, 2].map(|resends| {
            let facts = AttemptFacts {
                attempts_made: resends + 1,
                unprocessed_resends: resends,
                ..first(&Method::POST, Sent::Refused)
            };
            match decide(&facts, u64::MAX) {
                Decision::Retry { backoff, .. } => backoff,
                Decision::Respond(why) => panic!("{why}"),
            }
        });
        assert_eq!(
            backoffs,
            [None, Some(UNPROCESSED_BACKOFF), Some(UNPROCESSED_BACKOFF * 2)]
        );
    }

    fn budget(percent: u8, min_per_second: u32) -> Budget {
        Budget::new(RetryBudget {
            percent,
            min_per_second,
            window: Duration::from_secs(10),
        })
    }

    fn withdrawn(budget: &Budget, now: Time) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now).is_ok()).count()
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests() {
        let budget = budget(20, 0);
        assert_eq!(withdrawn(&budget, Time::ZERO), 0);
        for _ in 0..104 {
            budget.deposit(Time::ZERO);
        }
        assert_eq!(withdrawn(&budget, Time::ZERO), 20);
        let exhausted = Exhausted {
            retries: 20,
            requests: 104,
            window: Duration::from_secs(10),
        };
        assert_eq!(budget.withdraw(Time::ZERO), Err(exhausted));
        assert_eq!(budget.look(Time::ZERO), Err(exhausted));
        budget.deposit(Time::ZERO);
        assert_eq!([budget.look(Time::ZERO), budget.look(Time::ZERO)], [Ok(()), Ok(())]);
        assert_eq!(withdrawn(&budget, Time::ZERO), 1);
    }

    #[test]
    fn a_quiet_service_can_retry() {
        let budget = budget(20, 10);
        assert_eq!(withdrawn(&budget, Time::ZERO), 100);
        for _ in 0..10 {
            budget.deposit(Time::ZERO);
        }
        assert_eq!(withdrawn(&budget, Time::ZERO), 2);
    }

    #[test]
    fn a_budget_slides_with_its_window() {
        let budget = budget(50, 0);
        for _ in 0..10 {
            budget.deposit(Time::ZERO);
        }
        let later = Time::ZERO + Duration::from_secs(5);
        assert_eq!(withdrawn(&budget, later), 5);
        for _ in 0..6 {
            budget.deposit(later);
        }
        assert_eq!(withdrawn(&budget, later), 3);
        // The ten requests are out of the window, the eight retries are not.
        let later = Time::ZERO + Duration::from_secs(10);
        assert_eq!(withdrawn(&budget, later), 0);
        let later = Time::ZERO + Duration::from_secs(20);
        budget.deposit(later);
        budget.deposit(later);
        assert_eq!(withdrawn(&budget, later), 1);
    }

    #[test]
    fn threads_do_not_overdraw() {
        for _ in 0..100 {
            let budget = budget(20, 0);
            for _ in 0..100 {
                budget.deposit(Time::ZERO);
            }
            let start = std::sync::Barrier::new(4);
            let taken: usize = std::thread::scope(|scope| {
                let withdraw = || {
                    start.wait();
                    withdrawn(&budget, Time::ZERO)
                };
                let threads = [0; 4].map(|_| scope.spawn(withdraw));
                threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            });
            assert_eq!(taken, 20);
        }
    }

    fn any_sent() -> impl Strategy<Value = Sent> {
        prop::sample::select(vec![
            Sent::No,
            Sent::Refused,
            ON_FRESH,
            ON_REUSED,
            Sent::TimedOut,
            UNAVAILABLE,
        ])
    }

    proptest! {
        /// However attempts end, a request is sent a bounded number of times, and what may have been processed is sent
        /// again only as the rules say.
        #[test]
        fn sending_again_ends(
            method in prop::sample::select(vec![Method::GET, Method::PUT, Method::POST]),
            ends in prop::collection::vec(any_sent(), 40),
            with_policy: bool,
            random: u64,
        ) {
            let policy = policy();
            let mut facts = AttemptFacts {
                policy: with_policy.then_some(&policy),
                ..first(&method, Sent::No)
            };
            let mut by_policy = 0;
            for sent in ends {
                facts.sent = sent;
                match decide(&facts, random) {
                    Decision::Respond(_) => return Ok(()),
                    Decision::Retry { kind: RetryKind::Unprocessed, .. } => facts.unprocessed_resends += 1,
                    Decision::Retry { kind: RetryKind::SafeResend, .. } => facts.safe_resends += 1,
                    Decision::Retry { kind: RetryKind::Policy, .. } => by_policy += 1,
                }
                facts.attempts_made += 1;
                if !matches!(sent, Sent::No | Sent::Refused) {
                    prop_assert_ne!(&method, Method::POST);
                    prop_assert!(with_policy || method == Method::GET);
                }
                prop_assert!(facts.unprocessed_resends <= 3 && facts.safe_resends <= 1 && by_policy <= 2);
            }
            prop_assert!(false, "still sending");
        }
    }
}
