//! The circuit breaker of one cluster: limits on what is open at once, and leaving a failing cluster alone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{FailureBreaker, Limits};
use crate::time::Time;
use crate::window::Window;

/// The breaker of one cluster in one proxy, shared by all workers.
///
/// The limits are exact at any number of threads and take no lock. With a [`FailureBreaker`] a closed breaker counts
/// outcomes without a lock as well; only while open or half-open, and to change between the states, a mutex is held
/// for a few instructions.
///
/// Limits change in place ([`set_limits`](Self::set_limits)). When the configuration on failures differs from
/// [`failure`](Self::failure), a new breaker is made: what was counted under other rules says nothing about the new.
#[derive(Debug)]
pub struct Breaker {
    connections: Gauge,
    pending: Gauge,
    requests: Gauge,
    failure: Option<FailureState>,
}

/// Whether a cluster is left alone because its requests failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// No: requests go to it.
    Closed,
    /// Yes, until then.
    Open {
        /// When it begins to try again.
        until: Time,
    },
    /// A few requests find out whether it works again.
    HalfOpen,
}

/// What became of an admitted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The cluster did its work.
    Success,
    /// It did not: a 5xx, a reset, a time-out, no connection.
    Failure,
    /// The caller went away or the mesh gave up for a reason of its own: it says nothing of the cluster.
    Abandoned,
}

/// Why something is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Too many connections.
    #[error("the limit of {limit} connections is reached")]
    Connections {
        /// [`Limits::max_connections`]
        limit: u32,
    },
    /// Too many requests that wait for a connection.
    #[error("the limit of {limit} requests waiting for a connection is reached")]
    Pending {
        /// [`Limits::max_pending`]
        limit: u32,
    },
    /// Too many requests under way.
    #[error("the limit of {limit} requests under way is reached")]
    Requests {
        /// [`Limits::max_requests`]
        limit: u32,
    },
    /// The breaker is open, or half-open with all its trial requests out.
    #[error("the circuit breaker is open, try again in {retry_after:?}")]
    Open {
        /// How long it stays open yet. Half-open, where nobody knows: as long as it was open, at most a second.
        retry_after: Duration,
    },
}

/// What is open to a cluster now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerCounts {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests under way.
    pub requests: u32,
    /// The limits on them.
    pub limits: Limits,
}

impl Breaker {
    /// A closed breaker. Of `failure`, zeros count as one ([`FailureBreaker::min_requests`], `half_open_requests`,
    /// `failure_percent`).
    pub fn new(limits: Limits, failure: Option<FailureBreaker>) -> Self {
        Breaker {
            connections: Gauge::new(limits.max_connections),
            pending: Gauge::new(limits.max_pending),
            requests: Gauge::new(limits.max_requests),
            failure: failure.map(FailureState::new),
        }
    }

    /// Changes the limits for what is asked from now on; what is open over a new limit stays.
    pub fn set_limits(&self, limits: Limits) {
        self.connections.limit.store(limits.max_connections, Ordering::Relaxed);
        self.pending.limit.store(limits.max_pending, Ordering::Relaxed);
        self.requests.limit.store(limits.max_requests, Ordering::Relaxed);
    }

    /// The configuration on failures it was made with.
    pub fn failure(&self) -> Option<FailureBreaker> {
        self.failure.as_ref().map(|failure| failure.config)
    }

    /// Lets one request through.
    ///
    /// # Errors
    /// [`Refusal::Requests`] or [`Refusal::Open`].
    pub fn admit(self: &Arc<Self>, now: Time) -> Result<RequestPermit, Refusal> {
        self.requests.enter().map_err(|limit| Refusal::Requests { limit })?;
        let ticket = match self.failure.as_ref().map(|failure| failure.admit(now)).transpose() {
            Ok(ticket) => ticket,
            Err(refusal) => {
                self.requests.leave();
                return Err(refusal);
            }
        };
        Ok(RequestPermit {
            breaker: Arc::clone(self),
            ticket,
        })
    }

    /// Lets one connection be opened.
    ///
    /// # Errors
    /// [`Refusal::Connections`].
    pub fn admit_connection(self: &Arc<Self>) -> Result<ConnectionPermit, Refusal> {
        self.connections
            .enter()
            .map_err(|limit| Refusal::Connections { limit })?;
        Ok(ConnectionPermit(Arc::clone(self)))
    }

    /// Lets one request wait for a connection.
    ///
    /// # Errors
    /// [`Refusal::Pending`].
    pub fn admit_pending(self: &Arc<Self>) -> Result<PendingPermit, Refusal> {
        self.pending.enter().map_err(|limit| Refusal::Pending { limit })?;
        Ok(PendingPermit(Arc::clone(self)))
    }

    /// The state that a request would meet at `now`: an open breaker whose time is over is half-open.
    pub fn state(&self, now: Time) -> BreakerState {
        self.failure
            .as_ref()
            .map_or(BreakerState::Closed, |failure| failure.state(now))
    }

    /// What is open, for metrics and the admin port.
    pub fn counts(&self) -> BreakerCounts {
        BreakerCounts {
            connections: self.connections.open.load(Ordering::Relaxed),
            pending: self.pending.open.load(Ordering::Relaxed),
            requests: self.requests.open.load(Ordering::Relaxed),
            limits: Limits {
                max_connections: self.connections.limit.load(Ordering::Relaxed),
                max_pending: self.pending.limit.load(Ordering::Relaxed),
                max_requests: self.requests.limit.load(Ordering::Relaxed),
            },
        }
    }

    /// How often it has opened, for metrics: each change from closed or half-open to open counts once.
    pub fn opened_total(&self) -> u64 {
        self.failure
            .as_ref()
            .map_or(0, |failure| failure.opened.load(Ordering::Relaxed))
    }
}

/// A request under way; it counts against [`Limits::max_requests`] until dropped.
///
/// Its outcome is told once, by [`report`](Self::report) as soon as it is known (the answer's head) or by
/// [`finish`](Self::finish); if neither comes before the drop it is [`Outcome::Abandoned`].
///
/// A permit that is held for an answer which is then given up for a retry is reported first: dropped, its failure would
/// be lost. Half-open, a request that is never reported keeps its place, so a streamed answer is reported by its head.
#[derive(Debug)]
#[must_use = "a permit that is dropped no longer counts"]
pub struct RequestPermit {
    breaker: Arc<Breaker>,
    /// `None`: no breaker on failures, or the outcome has been told.
    ticket: Option<Ticket>,
}

impl RequestPermit {
    /// Tells the outcome, while the request goes on counting as under way. Only the first call counts.
    pub fn report(&mut self, outcome: Outcome, now: Time) {
        if let (Some(failure), Some(ticket)) = (&self.breaker.failure, self.ticket.take()) {
            failure.record(ticket, outcome, now);
        }
    }

    /// Tells the outcome and ends the request.
    pub fn finish(mut self, outcome: Outcome, now: Time) {
        self.report(outcome, now);
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        if let (Some(failure), Some(ticket)) = (&self.breaker.failure, self.ticket.take()) {
            failure.give_back(ticket);
        }
        self.breaker.requests.leave();
    }
}

/// An open connection; it counts against [`Limits::max_connections`] until dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped no longer counts"]
pub struct ConnectionPermit(Arc<Breaker>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.leave();
    }
}

/// A request that waits for a connection; it counts against [`Limits::max_pending`] until dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped no longer counts"]
pub struct PendingPermit(Arc<Breaker>);

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.0.pending.leave();
    }
}

/// What is open, and how much may be.
#[derive(Debug)]
struct Gauge {
    open: AtomicU32,
    limit: AtomicU32,
}

impl Gauge {
    fn new(limit: u32) -> Self {
        Gauge {
            open: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
        }
    }

    /// Counts one in, or says the limit that is reached. Compare and swap, so that no refusal comes of a count that
    /// another thread raised only to be refused itself.
    fn enter(&self) -> Result<(), u32> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < limit).then(|| open.saturating_add(1))
            })
            .map(|_| ())
            .map_err(|_| limit)
    }

    fn leave(&self) {
        let _ = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| open.checked_sub(1));
    }
}

#[derive(Debug)]
struct FailureState {
    config: FailureBreaker,
    /// Outcomes while closed.
    window: Window,
    /// Says, without the lock, which epoch is closed: `epoch << 1 | is closed`. Written under the lock only.
    phase: AtomicU64,
    machine: Mutex<Machine>,
    opened: AtomicU64,
}

/// When a request was admitted. Each change of state begins an epoch; an outcome from an earlier one is stale (a
/// request sent before the breaker opened says nothing of whether the cluster works again) and is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    epoch: u64,
}

#[derive(Debug)]
struct Machine {
    epoch: u64,
    state: MachineState,
}

#[derive(Clone, Copy, Debug)]
enum MachineState {
    Closed,
    Open {
        until: Time,
    },
    HalfOpen {
        /// Requests let through that have not been given back.
        admitted: u32,
        succeeded: u32,
    },
}

impl FailureState {
    fn new(config: FailureBreaker) -> Self {
        FailureState {
            config,
            window: Window::new(config.window),
            phase: AtomicU64::new(phase_of(0, MachineState::Closed)),
            machine: Mutex::new(Machine {
                epoch: 0,
                state: MachineState::Closed,
            }),
            opened: AtomicU64::new(0),
        }
    }

    fn admit(&self, now: Time) -> Result<Ticket, Refusal> {
        if let Some(epoch) = closed_epoch(self.phase.load(Ordering::Acquire)) {
            return Ok(Ticket { epoch });
        }
        let mut machine = self.lock();
        if let MachineState::Open { until } = machine.state {
            if now < until {
                let retry_after = until.saturating_since(now);
                return Err(Refusal::Open { retry_after });
            }
            self.change(
                &mut machine,
                MachineState::HalfOpen {
                    admitted: 0,
                    succeeded: 0,
                },
            );
        }
        let epoch = machine.epoch;
        match &mut machine.state {
            MachineState::HalfOpen { admitted, .. } if *admitted >= self.trials() => Err(Refusal::Open {
                retry_after: self.config.open_for.min(HALF_OPEN_RETRY_AFTER_MAX),
            }),
            MachineState::HalfOpen { admitted, .. } => {
                *admitted += 1;
                Ok(Ticket { epoch })
            }
            // Another thread closed it since the phase was read.
            MachineState::Closed | MachineState::Open { .. } => Ok(Ticket { epoch }),
        }
    }

    fn record(&self, ticket: Ticket, outcome: Outcome, now: Time) {
        let failed = match outcome {
            Outcome::Success => 0,
            Outcome::Failure => 1,
            Outcome::Abandoned => return self.give_back(ticket),
        };
        match closed_epoch(self.phase.load(Ordering::Acquire)) {
            Some(epoch) if epoch == ticket.epoch => {
                self.window.add(now, 1, failed);
                if self.fails_too_often(now) {
                    self.open(ticket, now);
                }
            }
            // Sent before the breaker opened, and it has closed again since.
            Some(_) => {}
            None => self.record_trial(ticket, outcome, now),
        }
    }

    fn record_trial(&self, ticket: Ticket, outcome: Outcome, now: Time) {
        let mut machine = self.lock();
        if machine.epoch != ticket.epoch {
            return;
        }
        let MachineState::HalfOpen { succeeded, .. } = &mut machine.state else {
            return;
        };
        match outcome {
            Outcome::Failure => self.change(&mut machine, self.open_from(now)),
            Outcome::Success => {
                *succeeded += 1;
                if *succeeded >= self.trials() {
                    self.window.clear();
                    self.change(&mut machine, MachineState::Closed);
                }
            }
            Outcome::Abandoned => {}
        }
    }

    /// Gives a trial's place to another request; of requests admitted otherwise nothing is held.
    fn give_back(&self, ticket: Ticket) {
        if closed_epoch(self.phase.load(Ordering::Acquire)).is_some() {
            return;
        }
        let mut machine = self.lock();
        if machine.epoch == ticket.epoch
            && let MachineState::HalfOpen { admitted, .. } = &mut machine.state
        {
            *admitted = admitted.saturating_sub(1);
        }
    }

    fn fails_too_often(&self, now: Time) -> bool {
        let counts = self.window.counts(now);
        let percent = u64::from(self.config.failure_percent.max(1));
        counts.marked > 0
            && counts.all >= u64::from(self.config.min_requests)
            && counts.marked * 100 >= percent * counts.all
    }

    /// Opens a closed breaker. Of several threads that find it failing at once the first one opens it.
    fn open(&self, ticket: Ticket, now: Time) {
        let mut machine = self.lock();
        if machine.epoch == ticket.epoch && matches!(machine.state, MachineState::Closed) {
            self.change(&mut machine, self.open_from(now));
        }
    }

    fn open_from(&self, now: Time) -> MachineState {
        MachineState::Open {
            until: now + self.config.open_for,
        }
    }

    fn state(&self, now: Time) -> BreakerState {
        if closed_epoch(self.phase.load(Ordering::Acquire)).is_some() {
            return BreakerState::Closed;
        }
        match self.lock().state {
            MachineState::Closed => BreakerState::Closed,
            MachineState::Open { until } if now < until => BreakerState::Open { until },
            MachineState::Open { .. } | MachineState::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn trials(&self) -> u32 {
        self.config.half_open_requests.max(1)
    }

    fn change(&self, machine: &mut Machine, state: MachineState) {
        machine.epoch += 1;
        machine.state = state;
        self.phase.store(phase_of(machine.epoch, state), Ordering::Release);
        if matches!(state, MachineState::Open { .. }) {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // Nothing under the lock can panic half-way through a change, so a poisoned machine is a whole one.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn phase_of(epoch: u64, state: MachineState) -> u64 {
    epoch << 1 | u64::from(matches!(state, MachineState::Closed))
}

fn closed_epoch(phase: u64) -> Option<u64> {
    (phase & 1 == 1).then_some(phase >> 1)
}

/// Trials are decided within the time of an answer, so who is refused meanwhile need not wait long.
const HALF_OPEN_RETRY_AFTER_MAX: Duration = Duration::from_secs(1);
