//! The breaker: its limits, its states against a model of them under virtual time, and what several threads see.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use proptest::prelude::*;
use weir_policy::breaker::{Breaker, BreakerState, Outcome, Refusal, RequestPermit};
use weir_policy::model::{FailureBreaker, Limits};
use weir_policy::time::Time;

const SECOND: Duration = Duration::from_secs(1);
/// Half of at least four requests in ten seconds open it for five; two trials close it.
const CONFIG: FailureBreaker = FailureBreaker {
    failure_percent: 50,
    min_requests: 4,
    window: Duration::from_secs(10),
    open_for: Duration::from_secs(5),
    half_open_requests: 2,
};

fn breaker(failure: FailureBreaker) -> Arc<Breaker> {
    Arc::new(Breaker::new(Limits::default(), Some(failure)))
}

fn at(seconds: u64) -> Time {
    Time::ZERO + SECOND * u32::try_from(seconds).expect("a short test")
}

#[track_caller]
fn admit(breaker: &Arc<Breaker>, now: Time) -> RequestPermit {
    breaker.admit(now).unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// Opens a breaker of `CONFIG` at `now`.
fn opened(now: Time) -> Arc<Breaker> {
    let breaker = breaker(CONFIG);
    for _ in 0..4 {
        admit(&breaker, now).finish(Outcome::Failure, now);
    }
    assert_eq!(
        breaker.state(now),
        BreakerState::Open {
            until: now + SECOND * 5
        }
    );
    breaker
}

#[test]
fn each_limit_is_exact_and_says_itself() {
    let limits = Limits {
        max_connections: 1,
        max_pending: 2,
        max_requests: 3,
    };
    let breaker = Arc::new(Breaker::new(limits, None));
    let connections = [breaker.admit_connection()];
    let pending = [breaker.admit_pending(), breaker.admit_pending()];
    let requests = [0; 3].map(|_| breaker.admit(at(0)));
    assert!(connections.iter().all(Result::is_ok) && pending.iter().all(Result::is_ok));
    assert!(requests.iter().all(Result::is_ok));

    assert_eq!(
        breaker.admit_connection().err(),
        Some(Refusal::Connections { limit: 1 })
    );
    assert_eq!(breaker.admit_pending().err(), Some(Refusal::Pending { limit: 2 }));
    assert_eq!(breaker.admit(at(0)).err(), Some(Refusal::Requests { limit: 3 }));
    let counts = breaker.counts();
    assert_eq!(
        (counts.connections, counts.pending, counts.requests, counts.limits),
        (1, 2, 3, limits)
    );

    drop((connections, pending, requests));
    let counts = breaker.counts();
    assert_eq!((counts.connections, counts.pending, counts.requests), (0, 0, 0));
    assert!(breaker.admit_connection().is_ok() && breaker.admit_pending().is_ok() && breaker.admit(at(0)).is_ok());
}

#[test]
fn a_refusal_names_the_limit_and_its_value() {
    for (refusal, expect) in [
        (
            Refusal::Connections { limit: 7 },
            "the limit of 7 connections is reached",
        ),
        (
            Refusal::Pending { limit: 7 },
            "the limit of 7 requests waiting for a connection is reached",
        ),
        (
            Refusal::Requests { limit: 7 },
            "the limit of 7 requests under way is reached",
        ),
        (
            Refusal::Open { retry_after: SECOND },
            "the circuit breaker is open, try again in 1s",
        ),
    ] {
        assert_eq!(refusal.to_string(), expect);
    }
}

#[test]
fn limits_change_in_place() {
    let limit = |max_requests| Limits {
        max_requests,
        ..Limits::default()
    };
    let breaker = Arc::new(Breaker::new(limit(3), None));
    let mut permits: Vec<_> = (0..3).map(|_| admit(&breaker, at(0))).collect();
    breaker.set_limits(limit(2));
    assert_eq!(breaker.admit(at(0)).err(), Some(Refusal::Requests { limit: 2 }));
    permits.truncate(2);
    assert_eq!(breaker.admit(at(0)).err(), Some(Refusal::Requests { limit: 2 }));
    permits.truncate(1);
    permits.push(admit(&breaker, at(0)));
    breaker.set_limits(limit(0));
    permits.clear();
    assert_eq!(breaker.admit(at(0)).err(), Some(Refusal::Requests { limit: 0 }));
}

#[test]
fn without_configuration_failures_open_nothing() {
    let breaker = Arc::new(Breaker::new(Limits::default(), None));
    for _ in 0..1_000 {
        admit(&breaker, at(0)).finish(Outcome::Failure, at(0));
    }
    assert_eq!(breaker.state(at(0)), BreakerState::Closed);
    assert_eq!((breaker.opened_total(), breaker.failure()), (0, None));
}

#[test]
fn it_opens_at_the_share_and_not_below() {
    for (outcomes, opens) in [
        ("FFF", false),
        ("FFFF", true),
        ("SSFF", true),
        ("FFSS", true),
        ("SSSFF", false),
        ("SSSFFF", true),
        ("FFF-", false),
        ("SSSSSSSS", false),
    ] {
        let breaker = breaker(CONFIG);
        for outcome in outcomes.chars() {
            let outcome = match outcome {
                'S' => Outcome::Success,
                'F' => Outcome::Failure,
                _ => Outcome::Abandoned,
            };
            admit(&breaker, at(1)).finish(outcome, at(1));
        }
        let expect = if opens {
            BreakerState::Open { until: at(6) }
        } else {
            BreakerState::Closed
        };
        assert_eq!(breaker.state(at(1)), expect, "{outcomes}");
        assert_eq!(breaker.opened_total(), u64::from(opens), "{outcomes}");
    }
}

#[test]
fn old_failures_are_forgotten() {
    let breaker = breaker(CONFIG);
    for second in [0, 1, 2, 12] {
        admit(&breaker, at(second)).finish(Outcome::Failure, at(second));
    }
    assert_eq!(breaker.state(at(12)), BreakerState::Closed);
}

#[test]
fn open_it_refuses_and_says_how_long() {
    let breaker = opened(at(10));
    for (now, seconds) in [(10, 5), (12, 3), (14, 1)] {
        let retry_after = SECOND * seconds;
        assert_eq!(breaker.admit(at(now)).err(), Some(Refusal::Open { retry_after }));
    }
    // What is refused does not count as under way.
    assert_eq!(breaker.counts().requests, 0);
    assert_eq!(breaker.state(at(15)), BreakerState::HalfOpen);
}

#[test]
fn half_open_it_closes_when_all_trials_succeed() {
    let breaker = opened(at(10));
    let mut trials = [admit(&breaker, at(15)), admit(&breaker, at(15))];
    let refused = Refusal::Open { retry_after: SECOND };
    assert_eq!(breaker.admit(at(15)).err(), Some(refused));
    trials[0].report(Outcome::Success, at(16));
    // The place of a trial that succeeded is not free: so many in total.
    assert_eq!(breaker.admit(at(16)).err(), Some(refused));
    assert_eq!(breaker.state(at(16)), BreakerState::HalfOpen);
    trials[1].report(Outcome::Success, at(16));
    assert_eq!(breaker.state(at(16)), BreakerState::Closed);
    assert_eq!((breaker.opened_total(), breaker.counts().requests), (1, 2));
    // What failed before it opened is forgotten.
    admit(&breaker, at(16)).finish(Outcome::Failure, at(16));
    assert_eq!(breaker.state(at(16)), BreakerState::Closed);
}

#[test]
fn half_open_it_opens_again_when_one_trial_fails() {
    let breaker = opened(at(10));
    let (one, two) = (admit(&breaker, at(15)), admit(&breaker, at(15)));
    one.finish(Outcome::Failure, at(17));
    assert_eq!(breaker.state(at(17)), BreakerState::Open { until: at(22) });
    // The other one comes too late to say anything.
    two.finish(Outcome::Failure, at(18));
    assert_eq!(breaker.state(at(18)), BreakerState::Open { until: at(22) });
    assert_eq!(breaker.opened_total(), 2);
}

#[test]
fn an_abandoned_trial_gives_its_place_back() {
    let breaker = opened(at(10));
    drop(admit(&breaker, at(15)));
    admit(&breaker, at(15)).finish(Outcome::Abandoned, at(15));
    let _trials = [admit(&breaker, at(15)), admit(&breaker, at(15))];
    assert!(breaker.admit(at(15)).is_err());
}

#[test]
fn what_was_sent_before_it_opened_does_not_count_after() {
    let breaker = breaker(CONFIG);
    let mut early: Vec<_> = (0..10).map(|_| admit(&breaker, at(9))).collect();
    for _ in 0..4 {
        admit(&breaker, at(10)).finish(Outcome::Failure, at(10));
    }
    early.pop().expect("ten").finish(Outcome::Failure, at(11));
    let trials = [admit(&breaker, at(15)), admit(&breaker, at(15))];
    early.pop().expect("nine").finish(Outcome::Failure, at(15));
    early.pop().expect("eight").finish(Outcome::Success, at(15));
    drop(early.pop());
    assert_eq!(breaker.state(at(15)), BreakerState::HalfOpen);
    assert!(
        breaker.admit(at(15)).is_err(),
        "a dropped early request freed a trial's place"
    );
    trials
        .into_iter()
        .for_each(|trial| trial.finish(Outcome::Success, at(15)));
    for permit in early {
        permit.finish(Outcome::Failure, at(15));
    }
    assert_eq!(breaker.state(at(15)), BreakerState::Closed);
}

#[test]
fn an_outcome_counts_once() {
    let breaker = breaker(CONFIG);
    let mut permit = admit(&breaker, at(0));
    for _ in 0..10 {
        permit.report(Outcome::Failure, at(0));
    }
    permit.finish(Outcome::Failure, at(0));
    assert_eq!(breaker.state(at(0)), BreakerState::Closed);
}

#[test]
fn zeros_count_as_one() {
    let zeros = FailureBreaker {
        failure_percent: 0,
        min_requests: 0,
        window: Duration::ZERO,
        open_for: Duration::ZERO,
        half_open_requests: 0,
    };
    let breaker = breaker(zeros);
    admit(&breaker, at(1)).finish(Outcome::Success, at(1));
    assert_eq!(breaker.state(at(1)), BreakerState::Closed);
    admit(&breaker, at(1)).finish(Outcome::Failure, at(1));
    assert_eq!(breaker.state(at(1)), BreakerState::HalfOpen);
    admit(&breaker, at(1)).finish(Outcome::Success, at(1));
    assert_eq!(breaker.state(at(1)), BreakerState::Closed);
}

/// What happens to a breaker.
#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(Duration),
    Admit,
    /// The request at this place among those under way, modulo their number, ends.
    End(usize, Outcome),
    Drop(usize),
}

fn a_step() -> impl Strategy<Value = Step> {
    let outcome = prop::sample::select(vec![
        Outcome::Success,
        Outcome::Failure,
        Outcome::Failure,
        Outcome::Abandoned,
    ]);
    prop_oneof![
        2 => (1_u64..3_000).prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
        5 => Just(Step::Admit),
        5 => (0_usize..100, outcome).prop_map(|(place, outcome)| Step::End(place, outcome)),
        1 => (0_usize..100).prop_map(Step::Drop),
    ]
}

/// The breaker as its documentation says it: lists instead of counters, one thread.
struct Model {
    config: FailureBreaker,
    state: BreakerState,
    /// Counts changes of state, to know early requests by.
    changes: u32,
    outcomes: Vec<(Time, Outcome)>,
    /// Half-open.
    admitted: u32,
    succeeded: u32,
    opened: u64,
}

impl Model {
    fn change(&mut self, state: BreakerState) {
        self.state = state;
        self.changes += 1;
        self.outcomes.clear();
        (self.admitted, self.succeeded) = (0, 0);
        self.opened += u64::from(matches!(state, BreakerState::Open { .. }));
    }

    fn admit(&mut self, now: Time) -> Result<u32, Refusal> {
        match self.state {
            BreakerState::Closed => return Ok(self.changes),
            BreakerState::Open { until } if now < until => {
                let retry_after = until.saturating_since(now);
                return Err(Refusal::Open { retry_after });
            }
            BreakerState::Open { .. } => self.change(BreakerState::HalfOpen),
            BreakerState::HalfOpen => {}
        }
        if self.admitted == self.config.half_open_requests {
            let retry_after = self.config.open_for.min(SECOND);
            return Err(Refusal::Open { retry_after });
        }
        self.admitted += 1;
        Ok(self.changes)
    }

    fn end(&mut self, changes: u32, outcome: Outcome, now: Time) {
        if changes != self.changes {
            return;
        }
        let open = BreakerState::Open {
            until: now + self.config.open_for,
        };
        match (self.state, outcome) {
            (BreakerState::Closed, Outcome::Abandoned) | (BreakerState::Open { .. }, _) => {}
            (BreakerState::Closed, Outcome::Success | Outcome::Failure) => {
                self.outcomes.push((now, outcome));
                // The window slides by tenths of itself.
                let tenth = |time: Time| time.as_nanos() / (self.config.window.as_nanos() as u64 / 10);
                let recent = self.outcomes.iter().filter(|(at, _)| tenth(now) - tenth(*at) < 10);
                let recent: Vec<_> = recent.map(|(_, outcome)| *outcome).collect();
                let failures = recent.iter().filter(|outcome| **outcome == Outcome::Failure).count();
                let enough = recent.len() >= self.config.min_requests as usize;
                if enough && failures > 0 && failures * 100 >= usize::from(self.config.failure_percent) * recent.len() {
                    self.change(open);
                }
            }
            (BreakerState::HalfOpen, Outcome::Failure) => self.change(open),
            (BreakerState::HalfOpen, Outcome::Abandoned) => self.admitted -= 1,
            (BreakerState::HalfOpen, Outcome::Success) => {
                self.succeeded += 1;
                if self.succeeded == self.config.half_open_requests {
                    self.change(BreakerState::Closed);
                }
            }
        }
    }

    fn state(&self, now: Time) -> BreakerState {
        match self.state {
            BreakerState::Open { until } if now >= until => BreakerState::HalfOpen,
            state @ (BreakerState::Open { .. } | BreakerState::Closed | BreakerState::HalfOpen) => state,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn its_states_are_those_of_the_model(
        failure_percent in 1_u8..=100,
        min_requests in 1_u32..6,
        half_open_requests in 1_u32..4,
        window_seconds in 1_u64..20,
        open_seconds in 0_u64..5,
        steps in prop::collection::vec(a_step(), 1..120),
    ) {
        let config = FailureBreaker {
            failure_percent,
            min_requests,
            window: Duration::from_secs(window_seconds),
            open_for: Duration::from_secs(open_seconds),
            half_open_requests,
        };
        let breaker = breaker(config);
        let mut model = Model {
            config,
            state: BreakerState::Closed,
            changes: 0,
            outcomes: Vec::new(),
            admitted: 0,
            succeeded: 0,
            opened: 0,
        };
        let mut now = at(100);
        let mut under_way: Vec<(RequestPermit, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(time) => now = now + time,
                Step::Admit => {
                    let (real, expect) = (breaker.admit(now), model.admit(now));
                    prop_assert_eq!(real.as_ref().err(), expect.as_ref().err());
                    under_way.extend(real.ok().zip(expect.ok()));
                }
                Step::End(..) | Step::Drop(_) if under_way.is_empty() => {}
                Step::End(place, outcome) => {
                    let (permit, changes) = under_way.swap_remove(place % under_way.len());
                    permit.finish(outcome, now);
                    model.end(changes, outcome, now);
                }
                Step::Drop(place) => {
                    let (permit, changes) = under_way.swap_remove(place % under_way.len());
                    drop(permit);
                    model.end(changes, Outcome::Abandoned, now);
                }
            }
            prop_assert_eq!(breaker.state(now), model.state(now));
            prop_assert_eq!(breaker.opened_total(), model.opened);
            prop_assert_eq!(breaker.counts().requests as usize, under_way.len());
        }
    }
}

const WORKERS: usize = 8;

/// Runs `work` on eight threads that begin together.
fn on_all_workers<T: Send>(work: impl Fn() -> T + Sync) -> Vec<T> {
    let start = Barrier::new(WORKERS);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    work()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

#[test]
fn several_workers_open_it_once_and_half_open_admits_what_it_says() {
    for round in 0..100 {
        let config = FailureBreaker {
            half_open_requests: 1 + round % 5,
            ..CONFIG
        };
        let breaker = breaker(config);
        let mut now = at(100);
        for opened in 1..=3 {
            // All workers hold failing requests and report them at once.
            let held = std::sync::Mutex::new(Vec::new());
            on_all_workers(|| {
                let permits: Vec<_> = (0..8).filter_map(|_| breaker.admit(now).ok()).collect();
                held.lock().expect("no panic").extend(permits);
            });
            let held = std::sync::Mutex::new(held.into_inner().expect("no panic"));
            on_all_workers(|| {
                while let Some(permit) = { held.lock().expect("no panic").pop() } {
                    permit.finish(Outcome::Failure, now);
                }
            });
            assert_eq!(breaker.opened_total(), opened * 2 - 1);
            assert_eq!(
                breaker.state(now),
                BreakerState::Open {
                    until: now + config.open_for
                }
            );

            now = now + config.open_for;
            let trials: Vec<_> = on_all_workers(|| (0..8).filter_map(|_| breaker.admit(now).ok()).collect::<Vec<_>>());
            let trials: Vec<_> = trials.into_iter().flatten().collect();
            assert_eq!(trials.len(), config.half_open_requests as usize);
            // Every trial fails, on whatever worker: it opens once more.
            let trials = std::sync::Mutex::new(trials);
            on_all_workers(|| {
                while let Some(permit) = { trials.lock().expect("no panic").pop() } {
                    permit.finish(Outcome::Failure, now);
                }
            });
            assert_eq!(breaker.opened_total(), opened * 2);

            // Trials that succeed close it for the next turn; given up ones are replaced.
            now = now + config.open_for;
            on_all_workers(|| {
                for step in 0..64 {
                    if let (BreakerState::HalfOpen, Ok(permit)) = (breaker.state(now), breaker.admit(now)) {
                        if step % 3 == 0 {
                            drop(permit);
                        } else {
                            permit.finish(Outcome::Success, now);
                        }
                    }
                }
            });
            while breaker.state(now) == BreakerState::HalfOpen {
                admit(&breaker, now).finish(Outcome::Success, now);
            }
            assert_eq!(breaker.state(now), BreakerState::Closed);
            assert_eq!(breaker.counts().requests, 0);
        }
    }
}

#[test]
fn several_workers_keep_the_limits() {
    let limits = Limits {
        max_connections: 5,
        max_pending: 6,
        max_requests: 7,
    };
    let breaker = Arc::new(Breaker::new(limits, None));
    for _ in 0..50 {
        let held = on_all_workers(|| {
            (
                (0..10)
                    .filter_map(|_| breaker.admit_connection().ok())
                    .collect::<Vec<_>>(),
                (0..10).filter_map(|_| breaker.admit_pending().ok()).collect::<Vec<_>>(),
                (0..10).filter_map(|_| breaker.admit(at(0)).ok()).collect::<Vec<_>>(),
            )
        });
        assert_eq!(
            held.iter().map(|(connections, _, _)| connections.len()).sum::<usize>(),
            5
        );
        assert_eq!(held.iter().map(|(_, pending, _)| pending.len()).sum::<usize>(), 6);
        assert_eq!(held.iter().map(|(_, _, requests)| requests.len()).sum::<usize>(), 7);
        drop(held);
        let counts = breaker.counts();
        assert_eq!((counts.connections, counts.pending, counts.requests), (0, 0, 0));
    }
}
