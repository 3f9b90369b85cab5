//! What is counted, and the page that Prometheus scrapes.
//!
//! Each worker counts for itself: a request touches no counter that another worker writes. A scrape adds them up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use weir_policy::breaker::{BreakerState, Refusal};
use weir_policy::health_check::Found;
use weir_policy::outlier::Cause;
use weir_policy::retry::RetryKind;
use weir_policy::spread::Distance;

use crate::http::h1::violation::Violation;
use crate::record::{AttemptOutcome, Direction, RequestRecord, ResponseFlag};
use crate::relay::Way;
use crate::tls::{Session, TlsFailure};

/// The media type of [`Metrics::page`].
pub(crate) const PAGE_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Which end of the proxy a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Side {
    /// A peer connected to us.
    Downstream,
    /// We connected to a peer.
    Upstream,
}

/// What became of a copy of a request for a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mirrored {
    /// It was answered, with whatever status.
    Answered,
    /// It was not sent: the mirror has no endpoint, is at a limit, or its breaker is open.
    Refused,
    /// There was no connection, or no whole answer.
    Failed,
    /// The answer did not end in time.
    TimedOut,
    /// Given up: the mirror read more slowly than the request's own backend.
    Behind,
    /// Given up: the request's body broke off, or its backend did not read it to its end.
    BrokenOff,
}

/// What became of a request that came to an inbound port in cleartext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cleartext {
    /// It was let in, and would not be by mutual TLS alone.
    Admitted,
    /// It was not.
    Refused,
}

/// What others hold and the page shows: read anew for each scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    /// Whether the control plane's stream is open; `None`: there is no control plane.
    pub(crate) control_plane: Option<Link>,
    /// For how many seconds the proxy's certificate is good, negative: since when it is not; `None`: it has none.
    pub(crate) certificate_left: Option<i64>,
    /// Clusters in use, each once.
    pub(crate) clusters: Vec<ObservedCluster>,
}

/// Whether the control plane's stream is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// It is.
    Connected,
    /// It isn't.
    Lost,
}

/// A cluster's breaker, and what is open to it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedCluster {
    /// The cluster.
    pub(crate) name: String,
    /// Its breaker.
    pub(crate) breaker: BreakerState,
    /// How often the breaker has opened.
    pub(crate) opened: u64,
    /// Endpoints ejected so far, by cause; none where the cluster ejects none.
    pub(crate) ejections: Vec<(Cause, u64)>,
    /// Endpoints that are ejected now.
    pub(crate) ejected: u32,
    /// Checks of endpoints so far, by what they found; none where they are not checked.
    pub(crate) checks: Vec<(Found, u64)>,
    /// Endpoints that are unhealthy by these now.
    pub(crate) failing: u32,
    /// Endpoints that take requests now.
    pub(crate) in_use: u32,
    /// The share of each level in percent, where near endpoints are preferred.
    pub(crate) levels: Vec<(Distance, u8)>,
    /// Whether these are all, because too few could be used.
    pub(crate) panic: bool,
    /// Connections.
    pub(crate) connections: u32,
    /// Requests that wait for a connection.
    pub(crate) pending: u32,
    /// Requests under way.
    pub(crate) requests: u32,
}

/// All that the proxy counts, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    shared: Arc<Shared>,
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
    observer: OnceLock<Observer>,
}

/// What the workers and the tasks beside them share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Every combination of labels that has counters, at most [`TRACKS_MAX`].
    known: Mutex<HashSet<TrackLabels>>,
    access_log_dropped: AtomicU64,
    spans_dropped: AtomicU64,
    spans_exported: AtomicU64,
    health_checks_late: AtomicU64,
}

impl Metrics {
    /// Counters for one more worker.
    pub(crate) fn worker(&self) -> Arc<WorkerMetrics> {
        let worker = Arc::new(WorkerMetrics {
            shared: Arc::clone(&self.shared),
            tracks: Mutex::default(),
            retries: Default::default(),
            refused: Default::default(),
            mirrored: Default::default(),
            faults: Default::default(),
            cleartext: Default::default(),
            handshakes: Default::default(),
            handshakes_failed: Default::default(),
            rate_limited: AtomicU64::new(0),
            delays_left_out: AtomicU64::new(0),
            violations: Default::default(),
            connections: Default::default(),
            tunnels: Default::default(),
            unknown_destination: AtomicU64::new(0),
            health_checks_answered: Default::default(),
            tcp: Mutex::default(),
        });
        locked(&self.workers).push(Arc::clone(&worker));
        worker
    }

    /// Counters that belong to no worker.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Says what is asked at each scrape for what others hold. The first to say so holds.
    pub(crate) fn observe(&self, observer: impl Fn() -> Observed + Send + Sync + 'static) {
        let _first_holds = self.observer.set(Observer(Box::new(observer)));
    }

    /// The page, in the OpenMetrics text format ([`PAGE_TYPE`]), sorted.
    ///
    /// # Errors
    /// Never, as long as memory holds; the encoder's signature allows for more.
    pub(crate) fn page(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.gather()));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry)?;
        Ok(page)
    }

    fn gather(&self) -> Gathered {
        let mut gathered = Gathered {
            observed: self.observer.get().map(|observer| (observer.0)()).unwrap_or_default(),
            access_log_dropped: self.shared.access_log_dropped.load(Relaxed),
            spans_dropped: self.shared.spans_dropped.load(Relaxed),
            spans_exported: self.shared.spans_exported.load(Relaxed),
            health_checks_late: self.shared.health_checks_late.load(Relaxed),
            ..Gathered::default()
        };
        gathered.observed.clusters.sort_by(|a, b| a.name.cmp(&b.name));
        let workers = locked(&self.workers).clone();
        for worker in &workers {
            worker.add_to(&mut gathered);
        }
        gathered
    }
}

impl Shared {
    /// Counts access-log lines that had no room.
    pub(crate) fn access_log_dropped(&self, lines: u64) {
        self.access_log_dropped.fetch_add(lines, Relaxed);
    }

    /// Counts spans that had no room, or that the collector did not take.
    pub(crate) fn spans_dropped(&self, spans: u64) {
        self.spans_dropped.fetch_add(spans, Relaxed);
    }

    /// Counts spans that the collector took.
    pub(crate) fn spans_exported(&self, spans: u64) {
        self.spans_exported.fetch_add(spans, Relaxed);
    }

    /// Counts a check of an endpoint that waited for others.
    pub(crate) fn health_check_late(&self) {
        self.health_checks_late.fetch_add(1, Relaxed);
    }
}

/// One worker's share of the metrics.
#[derive(Debug)]
pub(crate) struct WorkerMetrics {
    shared: Arc<Shared>,
    tracks: Mutex<HashMap<TrackLabels, Arc<Track>>>,
    retries: [AtomicU64; RETRIED.len()],
    refused: [AtomicU64; REFUSED.len()],
    mirrored: [AtomicU64; MIRRORED.len()],
    faults: [AtomicU64; FAULTS.len()],
    cleartext: [AtomicU64; CLEARTEXT.len()],
    handshakes: [AtomicU64; HANDSHAKES.len()],
    handshakes_failed: [AtomicU64; TLS_FAILURES.len()],
    rate_limited: AtomicU64,
    delays_left_out: AtomicU64,
    violations: [AtomicU64; Violation::ALL.len()],
    connections: [[AtomicI64; SIDES.len()]; DIRECTIONS.len()],
    tunnels: [AtomicI64; DIRECTIONS.len()],
    unknown_destination: AtomicU64,
    health_checks_answered: [AtomicU64; FOUND.len()],
    tcp: Mutex<BTreeMap<TcpLabels, Arc<TcpTrack>>>,
}

/// Which way TCP connections go, and for which service: `--listen` and `--app` say how many there can be.
type TcpLabels = (Direction, Arc<str>);

/// The counters for the TCP connections of one service, of one worker.
#[derive(Debug, Default)]
pub(crate) struct TcpTrack {
    opened: AtomicU64,
    ended: [AtomicU64; ResponseFlag::ALL.len()],
    bytes: [AtomicU64; WAYS.len()],
}

impl TcpTrack {
    /// Counts one that was accepted.
    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// Counts its end.
    pub(crate) fn ended(&self, flag: ResponseFlag) {
        if let Some(counter) = self.ended.get(flag as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Counts what was passed on.
    pub(crate) fn passed(&self, way: Way, bytes: u64) {
        let [from_downstream, to_downstream] = &self.bytes;
        let counter = match way {
            Way::FromDownstream => from_downstream,
            Way::ToDownstream => to_downstream,
        };
        counter.fetch_add(bytes, Relaxed);
    }
}

/// The same over all workers.
#[derive(Debug, Default)]
struct TcpSums {
    opened: u64,
    ended: [u64; ResponseFlag::ALL.len()],
    bytes: [u64; WAYS.len()],
}

impl WorkerMetrics {
    /// The counters for TCP connections of a service.
    pub(crate) fn tcp(&self, direction: Direction, service: &Arc<str>) -> Arc<TcpTrack> {
        let mut tracks = locked(&self.tcp);
        Arc::clone(tracks.entry((direction, Arc::clone(service))).or_default())
    }

    /// The counters for requests with these labels; kept by the caller, since finding them hashes text. Once
    /// [`TRACKS_MAX`] combinations are counted, what is new is counted together, as `overflow`.
    pub(crate) fn track(&self, labels: &TrackLabels) -> Arc<Track> {
        if let Some(track) = locked(&self.tracks).get(labels) {
            return Arc::clone(track);
        }
        let labels = {
            let mut known = locked(&self.shared.known);
            if known.contains(labels) {
                labels.clone()
            } else if known.len() < TRACKS_MAX {
                known.insert(labels.clone());
                labels.clone()
            } else {
                TrackLabels::overflow(labels.direction)
            }
        };
        Arc::clone(locked(&self.tracks).entry(labels).or_default())
    }

    /// Counts an open connection for as long as the guard lives.
    pub(crate) fn connection(self: &Arc<Self>, direction: Direction, side: Side) -> ConnectionGuard {
        let guard = ConnectionGuard {
            metrics: Arc::clone(self),
            direction,
            side,
        };
        guard.add(1);
        guard
    }

    /// Counts an open tunnel for as long as the guard lives.
    pub(crate) fn tunnel(self: &Arc<Self>, direction: Direction) -> TunnelGuard {
        let guard = TunnelGuard {
            metrics: Arc::clone(self),
            direction,
        };
        guard.add(1);
        guard
    }

    /// Counts a request that was sent again.
    pub(crate) fn retried(&self, kind: RetryKind) {
        let [unprocessed, safe_resend, policy, _] = &self.retries;
        let counter = match kind {
            RetryKind::Unprocessed => unprocessed,
            RetryKind::SafeResend => safe_resend,
            RetryKind::Policy => policy,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a request that its route would have sent again, had there been retry budget.
    pub(crate) fn retry_budget_spent(&self) {
        let [_, _, _, budget_spent] = &self.retries;
        budget_spent.fetch_add(1, Relaxed);
    }

    /// Counts a request that a cluster's limit or breaker refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        let [connections, pending, requests, breaker_open] = &self.refused;
        let counter = match refusal {
            Refusal::Connections { .. } => connections,
            Refusal::Pending { .. } => pending,
            Refusal::Requests { .. } => requests,
            Refusal::Open { .. } => breaker_open,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a copy of a request for a mirror.
    pub(crate) fn mirrored(&self, outcome: Mirrored) {
        let [answered, refused, failed, timed_out, behind, broken_off] = &self.mirrored;
        let counter = match outcome {
            Mirrored::Answered => answered,
            Mirrored::Refused => refused,
            Mirrored::Failed => failed,
            Mirrored::TimedOut => timed_out,
            Mirrored::Behind => behind,
            Mirrored::BrokenOff => broken_off,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a request that was over its route's limit.
    pub(crate) fn rate_limited(&self) {
        self.rate_limited.fetch_add(1, Relaxed);
    }

    /// Counts a request that waits by a fault of its route.
    pub(crate) fn delayed_on_purpose(&self) {
        let [delay, _] = &self.faults;
        delay.fetch_add(1, Relaxed);
    }

    /// Counts a request that does not wait by a fault of its route, since too many do.
    pub(crate) fn delay_left_out(&self) {
        self.delays_left_out.fetch_add(1, Relaxed);
    }

    /// Counts a request that a fault of its route answers.
    pub(crate) fn aborted_on_purpose(&self) {
        let [_, abort] = &self.faults;
        abort.fetch_add(1, Relaxed);
    }

    /// Counts a request that came to an inbound port in cleartext.
    pub(crate) fn cleartext(&self, outcome: Cleartext) {
        let [admitted, refused] = &self.cleartext;
        let counter = match outcome {
            Cleartext::Admitted => admitted,
            Cleartext::Refused => refused,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a TLS handshake at an inbound port.
    pub(crate) fn handshake(&self, session: Session) {
        let [full, resumed] = &self.handshakes;
        let counter = match session {
            Session::New => full,
            Session::Resumed => resumed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts one that failed.
    pub(crate) fn handshake_failed(&self, failure: TlsFailure) {
        let [own, certificate, alert, protocol] = &self.handshakes_failed;
        let counter = match failure {
            TlsFailure::Own => own,
            TlsFailure::Certificate => certificate,
            TlsFailure::Alert => alert,
            TlsFailure::Protocol => protocol,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a request that an HTTP/1 connection refused.
    pub(crate) fn violated(&self, violation: Violation) {
        if let Some(counter) = self.violations.get(violation as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Counts a request for a name that is no service of the mesh.
    pub(crate) fn unknown_destination(&self) {
        self.unknown_destination.fetch_add(1, Relaxed);
    }

    /// Counts a check by another proxy that came to the app.
    pub(crate) fn health_check_answered(&self, found: Found) {
        let [passed, failed] = &self.health_checks_answered;
        let counter = match found {
            Found::Passed => passed,
            Found::Failed => failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    fn add_to(&self, gathered: &mut Gathered) {
        for (labels, track) in locked(&self.tracks).iter() {
            track.add_to(gathered.tracks.entry(labels.clone()).or_default());
        }
        for (sum, counter) in gathered.retries.iter_mut().zip(&self.retries) {
            *sum += counter.load(Relaxed);
        }
        for (sum, counter) in gathered.refused.iter_mut().zip(&self.refused) {
            *sum += counter.load(Relaxed);
        }
        gathered.rate_limited += self.rate_limited.load(Relaxed);
        gathered.delays_left_out += self.delays_left_out.load(Relaxed);
        for (sum, counter) in gathered.faults.iter_mut().zip(&self.faults) {
            *sum += counter.load(Relaxed);
        }
        for (sum, counter) in gathered.cleartext.iter_mut().zip(&self.cleartext) {
            *sum += counter.load(Relaxed);
        }
        for (sum, counter) in gathered.handshakes.iter_mut().zip(&self.handshakes) {
            *sum += counter.load(Relaxed);
        }
        for (sum, counter) in gathered.handshakes_failed.iter_mut().zip(&self.handshakes_failed) {
            *sum += counter.load(Relaxed);
        }
        for (sum, counter) in gathered.mirrored.iter_mut().zip(&self.mirrored) {
            *sum += counter.load(Relaxed);
        }
        for (sum, counter) in gathered.violations.iter_mut().zip(&self.violations) {
            *sum += counter.load(Relaxed);
        }
        for (sum, gauge) in gathered.tunnels.iter_mut().zip(&self.tunnels) {
            *sum += gauge.load(Relaxed);
        }
        let sums = gathered.connections.iter_mut().flatten();
        for (sum, gauge) in sums.zip(self.connections.iter().flatten()) {
            *sum += gauge.load(Relaxed);
        }
        for (labels, track) in locked(&self.tcp).iter() {
            let sums = gathered.tcp.entry(labels.clone()).or_default();
            // Ends first, so that what ends between two reads is never an end without a begin.
            for (sum, counter) in sums.ended.iter_mut().zip(&track.ended) {
                *sum += counter.load(Relaxed);
            }
            for (sum, counter) in sums.bytes.iter_mut().zip(&track.bytes) {
                *sum += counter.load(Relaxed);
            }
            sums.opened += track.opened.load(Relaxed);
        }
        gathered.unknown_destination += self.unknown_destination.load(Relaxed);
        for (sum, counter) in gathered
            .health_checks_answered
            .iter_mut()
            .zip(&self.health_checks_answered)
        {
            *sum += counter.load(Relaxed);
        }
    }
}

/// An open connection, as far as metrics go.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    metrics: Arc<WorkerMetrics>,
    direction: Direction,
    side: Side,
}

impl ConnectionGuard {
    fn add(&self, change: i64) {
        let side = self.metrics.connections.get(self.direction as usize);
        if let Some(gauge) = side.and_then(|sides| sides.get(self.side as usize)) {
            gauge.fetch_add(change, Relaxed);
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.add(-1);
    }
}

/// An open tunnel, as far as metrics go.
#[derive(Debug)]
pub(crate) struct TunnelGuard {
    metrics: Arc<WorkerMetrics>,
    direction: Direction,
}

impl TunnelGuard {
    fn add(&self, change: i64) {
        if let Some(gauge) = self.metrics.tunnels.get(self.direction as usize) {
            gauge.fetch_add(change, Relaxed);
        }
    }
}

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        self.add(-1);
    }
}

/// The open-ended labels of a request. Closed ones (code, flag) are inside a [`Track`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TrackLabels {
    /// Which way.
    pub(crate) direction: Direction,
    /// The service.
    pub(crate) service: Arc<str>,
    /// The route it took.
    pub(crate) route: Option<Arc<str>>,
    /// The cluster it was sent to.
    pub(crate) cluster: Option<Arc<str>>,
}

impl TrackLabels {
    /// The labels of a request.
    pub(crate) fn of(record: &RequestRecord) -> TrackLabels {
        TrackLabels {
            direction: record.direction,
            service: Arc::clone(&record.service),
            route: record.route.clone(),
            cluster: record.cluster.clone(),
        }
    }

    /// Where the `Arc`s point: the same labels of the same compiled configuration have the same.
    pub(crate) fn place(record: &RequestRecord) -> TrackPlace {
        let place = |text: &Arc<str>| Arc::as_ptr(text).addr();
        TrackPlace {
            direction: record.direction,
            service: place(&record.service),
            route: record.route.as_ref().map(place),
            cluster: record.cluster.as_ref().map(place),
        }
    }

    fn overflow(direction: Direction) -> TrackLabels {
        TrackLabels {
            direction,
            service: Arc::from(OVERFLOW),
            route: None,
            cluster: None,
        }
    }
}

/// See [`TrackLabels::place`]. Holds as long as the `Arc`s do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TrackPlace {
    direction: Direction,
    service: usize,
    route: Option<usize>,
    cluster: Option<usize>,
}

/// The counters of one combination of labels, of one worker.
#[derive(Debug, Default)]
pub(crate) struct Track {
    answers: [AnswerSlot; ANSWERS_MAX],
    /// Answers whose code, flag and gRPC status had no slot left.
    answers_other: AtomicU64,
    attempts: [AtomicU64; OUTCOMES.len()],
    buckets: [AtomicU64; BUCKETS.len()],
    duration_sum_nanos: AtomicU64,
}

/// How often one kind of answer was given. Filled from the first slot on, never emptied.
#[derive(Debug, Default)]
struct AnswerSlot {
    /// [`Answer::pack`]; 0: free.
    answer: AtomicU64,
    count: AtomicU64,
}

impl Track {
    /// Counts a request.
    pub(crate) fn count(&self, record: &RequestRecord) {
        let answer = Answer {
            code: record.status,
            flag: record.flag,
            grpc: record
                .grpc_status
                .map(|status| u8::try_from(status).unwrap_or(GRPC_UNKNOWN)),
        };
        self.answer_counter(answer).fetch_add(1, Relaxed);
        for attempt in &record.attempts {
            if let Some(counter) = self.attempts.get(outcome_place(attempt.outcome)) {
                counter.fetch_add(1, Relaxed);
            }
        }
        let place = BUCKETS.partition_point(|upper| *upper < record.duration);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Relaxed);
        }
        let nanos = u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX);
        self.duration_sum_nanos.fetch_add(nanos, Relaxed);
    }

    fn answer_counter(&self, answer: Answer) -> &AtomicU64 {
        let packed = answer.pack();
        for slot in &self.answers {
            let held = slot.answer.load(Relaxed);
            if held == packed {
                return &slot.count;
            }
            if held == 0 {
                match slot.answer.compare_exchange(0, packed, Relaxed, Relaxed) {
                    Ok(_) => return &slot.count,
                    Err(other) if other == packed => return &slot.count,
                    Err(_taken) => {}
                }
            }
        }
        &self.answers_other
    }

    fn add_to(&self, sums: &mut TrackSums) {
        for slot in &self.answers {
            if let Some(answer) = Answer::unpack(slot.answer.load(Relaxed)) {
                *sums.answers.entry(answer).or_default() += slot.count.load(Relaxed);
            }
        }
        sums.answers_other += self.answers_other.load(Relaxed);
        for (sum, counter) in sums.attempts.iter_mut().zip(&self.attempts) {
            *sum += counter.load(Relaxed);
        }
        for (sum, counter) in sums.buckets.iter_mut().zip(&self.buckets) {
            *sum += counter.load(Relaxed);
        }
        sums.duration_sum += Duration::from_nanos(self.duration_sum_nanos.load(Relaxed));
    }
}

/// What tells one answer from another in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    code: u16,
    flag: ResponseFlag,
    grpc: Option<u8>,
}

impl Answer {
    /// As one number, never 0.
    fn pack(self) -> u64 {
        let grpc = self.grpc.map_or(0, |status| u64::from(status) + 1);
        (1 << 63) | (grpc << 24) | (u64::from(self.flag as u8) << 16) | u64::from(self.code)
    }

    fn unpack(packed: u64) -> Option<Answer> {
        if packed == 0 {
            return None;
        }
        let [_, _, _, _, flag, high, low] = {
            let [_, rest @ ..] = packed.to_be_bytes();
            rest
        };
        let grpc = (packed >> 24) & 0xffff;
        Some(Answer {
            code: u16::from_be_bytes([high, low]),
            flag: *ResponseFlag::ALL.get(usize::from(flag))?,
            grpc: grpc.checked_sub(1).and_then(|status| u8::try_from(status).ok()),
        })
    }
}

/// The state of all counters at one scrape.
#[derive(Debug, Default)]
struct Gathered {
    tracks: BTreeMap<TrackLabels, TrackSums>,
    retries: [u64; RETRIED.len()],
    refused: [u64; REFUSED.len()],
    mirrored: [u64; MIRRORED.len()],
    faults: [u64; FAULTS.len()],
    cleartext: [u64; CLEARTEXT.len()],
    handshakes: [u64; HANDSHAKES.len()],
    handshakes_failed: [u64; TLS_FAILURES.len()],
    rate_limited: u64,
    delays_left_out: u64,
    violations: [u64; Violation::ALL.len()],
    connections: [[i64; SIDES.len()]; DIRECTIONS.len()],
    tunnels: [i64; DIRECTIONS.len()],
    tcp: BTreeMap<TcpLabels, TcpSums>,
    unknown_destination: u64,
    access_log_dropped: u64,
    spans_dropped: u64,
    spans_exported: u64,
    health_checks_late: u64,
    health_checks_answered: [u64; FOUND.len()],
    observed: Observed,
}

#[derive(Debug, Default)]
struct TrackSums {
    answers: BTreeMap<Answer, u64>,
    answers_other: u64,
    attempts: [u64; OUTCOMES.len()],
    buckets: [u64; BUCKETS.len()],
    duration_sum: Duration,
}

impl Collector for Gathered {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.encode_requests(&mut encoder)?;
        self.encode_durations(&mut encoder)?;
        self.encode_attempts(&mut encoder)?;
        self.encode_closed(&mut encoder)?;
        self.encode_observed(&mut encoder)
    }
}

impl Gathered {
    fn encode_requests(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Requests whose answer has ended; code 0: there was none";
        let mut metric = encoder.encode_descriptor("weir_requests", help, None, MetricType::Counter)?;
        for (labels, sums) in &self.tracks {
            let [direction, service, route, cluster] = label_pairs(labels);
            for (answer, count) in &sums.answers {
                let code = answer.code.to_string();
                let grpc = answer.grpc.map(|status| status.to_string()).unwrap_or_default();
                let all = [
                    direction,
                    service,
                    route,
                    cluster,
                    ("code", &code),
                    ("grpc_status", &grpc),
                    ("flag", answer.flag.as_str()),
                ];
                counter(&mut metric, &all, *count)?;
            }
            if sums.answers_other > 0 {
                let all = [
                    direction,
                    service,
                    route,
                    cluster,
                    ("code", OVERFLOW),
                    ("grpc_status", ""),
                    ("flag", OVERFLOW),
                ];
                counter(&mut metric, &all, sums.answers_other)?;
            }
        }
        Ok(())
    }

    fn encode_durations(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "From a request's head to the end of its answer";
        let unit = Unit::Seconds;
        let mut metric =
            encoder.encode_descriptor("weir_request_duration", help, Some(&unit), MetricType::Histogram)?;
        for (labels, sums) in &self.tracks {
            let pairs = label_pairs(labels);
            let mut buckets = [(0.0, 0); BUCKETS.len()];
            for ((bucket, upper), count) in buckets.iter_mut().zip(&BUCKETS).zip(&sums.buckets) {
                let infinite = *upper == Duration::MAX;
                *bucket = (if infinite { f64::INFINITY } else { upper.as_secs_f64() }, *count);
            }
            let total = sums.buckets.iter().sum();
            metric.encode_family(&pairs)?.encode_histogram::<NoLabelSet>(
                sums.duration_sum.as_secs_f64(),
                total,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }

    fn encode_attempts(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Times a request was sent to an endpoint, by what came of it";
        let mut metric = encoder.encode_descriptor("weir_upstream_attempts", help, None, MetricType::Counter)?;
        for (labels, sums) in &self.tracks {
            let [direction, service, route, cluster] = label_pairs(labels);
            for (outcome, count) in OUTCOMES.into_iter().zip(&sums.attempts) {
                if *count > 0 {
                    let all = [direction, service, route, cluster, ("outcome", outcome)];
                    counter(&mut metric, &all, *count)?;
                }
            }
        }
        Ok(())
    }

    fn encode_closed(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Requests sent again, by why; budget_spent: not sent again for want of retry budget";
        let mut metric = encoder.encode_descriptor("weir_retries", help, None, MetricType::Counter)?;
        for (kind, count) in RETRIED.into_iter().zip(&self.retries) {
            counter(&mut metric, &[("kind", kind)], *count)?;
        }
        let help = "Requests that a cluster's limit or open breaker refused";
        let mut metric = encoder.encode_descriptor("weir_breaker_refused", help, None, MetricType::Counter)?;
        for (reason, count) in REFUSED.into_iter().zip(&self.refused) {
            counter(&mut metric, &[("reason", reason)], *count)?;
        }
        let help = "Faults injected because a route says so";
        let mut metric = encoder.encode_descriptor("weir_faults_injected", help, None, MetricType::Counter)?;
        for (kind, count) in FAULTS.into_iter().zip(&self.faults) {
            counter(&mut metric, &[("kind", kind)], *count)?;
        }
        let help = "Requests that came to an inbound port in cleartext where that is not wanted";
        let mut metric = encoder.encode_descriptor("weir_cleartext_requests", help, None, MetricType::Counter)?;
        for (outcome, count) in CLEARTEXT.into_iter().zip(&self.cleartext) {
            counter(&mut metric, &[("outcome", outcome)], *count)?;
        }
        let help = "TLS handshakes at inbound ports; resumed: of an earlier session";
        let mut metric = encoder.encode_descriptor("weir_tls_handshakes", help, None, MetricType::Counter)?;
        for (kind, count) in HANDSHAKES.into_iter().zip(&self.handshakes) {
            counter(&mut metric, &[("kind", kind)], *count)?;
        }
        let help = "TLS handshakes at inbound ports that failed; own: this proxy has no certificate";
        let mut metric = encoder.encode_descriptor("weir_tls_handshakes_failed", help, None, MetricType::Counter)?;
        for (reason, count) in TLS_FAILURES.into_iter().zip(&self.handshakes_failed) {
            counter(&mut metric, &[("reason", reason)], *count)?;
        }
        let help =
            "Copies of requests for mirrors, by what became of them; behind: the mirror was slower than the request";
        let mut metric = encoder.encode_descriptor("weir_mirrored", help, None, MetricType::Counter)?;
        for (outcome, count) in MIRRORED.into_iter().zip(&self.mirrored) {
            counter(&mut metric, &[("outcome", outcome)], *count)?;
        }
        let help = "Requests that an HTTP/1 connection refused, by the rule or limit that they broke";
        let mut metric = encoder.encode_descriptor("weir_http1_refused", help, None, MetricType::Counter)?;
        for (violation, count) in Violation::ALL.into_iter().zip(&self.violations) {
            if *count > 0 {
                counter(&mut metric, &[("rule", violation.as_str())], *count)?;
            }
        }
        let help = "Open connections";
        let mut metric = encoder.encode_descriptor("weir_connections", help, None, MetricType::Gauge)?;
        for (direction, sides) in DIRECTIONS.into_iter().zip(&self.connections) {
            for (side, count) in SIDES.into_iter().zip(sides) {
                let labels = [("direction", direction), ("side", side)];
                metric.encode_family(&labels)?.encode_gauge(count)?;
            }
        }
        let help = "Upgraded requests under way: WebSockets and others that have left HTTP";
        let mut metric = encoder.encode_descriptor("weir_tunnels", help, None, MetricType::Gauge)?;
        for (direction, count) in DIRECTIONS.into_iter().zip(&self.tunnels) {
            metric.encode_family(&[("direction", direction)])?.encode_gauge(count)?;
        }
        self.encode_tcp(encoder)?;
        let help = "Checks by other proxies that came to the app";
        let mut metric = encoder.encode_descriptor("weir_health_checks_answered", help, None, MetricType::Counter)?;
        for (result, count) in FOUND.into_iter().zip(&self.health_checks_answered) {
            counter(&mut metric, &[("result", result)], *count)?;
        }
        let plain = [
            (
                "weir_rate_limited",
                "Requests over the rate limit of their route",
                self.rate_limited,
            ),
            (
                "weir_fault_delays_left_out",
                "Requests that should have waited by a fault of their route, and did not, since too many did",
                self.delays_left_out,
            ),
            (
                "weir_health_checks_late",
                "Checks of endpoints that began more than a second after their time, since too many were under way",
                self.health_checks_late,
            ),
            (
                "weir_unknown_destination",
                "Requests for a name that is no service of the mesh",
                self.unknown_destination,
            ),
            (
                "weir_access_log_dropped",
                "Access-log lines for which there was no room",
                self.access_log_dropped,
            ),
            (
                "weir_spans_dropped",
                "Spans for which there was no room, or that the collector did not take",
                self.spans_dropped,
            ),
            (
                "weir_spans_exported",
                "Spans that the collector took",
                self.spans_exported,
            ),
        ];
        for (name, help, count) in plain {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let mut metric = encoder.encode_descriptor("weir_build", "The proxy's build", None, MetricType::Info)?;
        metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn encode_tcp(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let pairs = |labels: &(Direction, Arc<str>)| (("direction", labels.0.as_str()), labels.1.to_string());
        let help = "TCP connections accepted";
        let mut metric = encoder.encode_descriptor("weir_tcp_opened", help, None, MetricType::Counter)?;
        for (labels, sums) in &self.tcp {
            let (direction, service) = pairs(labels);
            counter(&mut metric, &[direction, ("service", service.as_str())], sums.opened)?;
        }
        let help = "TCP connections that have ended, by why; none: both sides ended what they sent";
        let mut metric = encoder.encode_descriptor("weir_tcp_ended", help, None, MetricType::Counter)?;
        for (labels, sums) in &self.tcp {
            let (direction, service) = pairs(labels);
            for (flag, count) in ResponseFlag::ALL.into_iter().zip(sums.ended) {
                if count > 0 {
                    let all = [direction, ("service", service.as_str()), ("flag", flag.as_str())];
                    counter(&mut metric, &all, count)?;
                }
            }
        }
        let help = "TCP connections that are open";
        let mut metric = encoder.encode_descriptor("weir_tcp_open", help, None, MetricType::Gauge)?;
        for (labels, sums) in &self.tcp {
            let (direction, service) = pairs(labels);
            let open = sums.opened.saturating_sub(sums.ended.iter().sum());
            let all = [direction, ("service", service.as_str())];
            metric.encode_family(&all)?.encode_gauge(&open)?;
        }
        let help = "Bytes that TCP connections have passed on";
        let unit = Unit::Bytes;
        let mut metric = encoder.encode_descriptor("weir_tcp_passed", help, Some(&unit), MetricType::Counter)?;
        for (labels, sums) in &self.tcp {
            let (direction, service) = pairs(labels);
            for (way, bytes) in WAYS.into_iter().zip(sums.bytes) {
                let all = [direction, ("service", service.as_str()), ("way", way)];
                counter(&mut metric, &all, bytes)?;
            }
        }
        Ok(())
    }

    fn encode_observed(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        if let Some(link) = self.observed.control_plane {
            let help = "Whether the control plane's stream is open";
            let mut metric = encoder.encode_descriptor("weir_xds_connected", help, None, MetricType::Gauge)?;
            metric.encode_gauge(&match link {
                Link::Connected => 1_u32,
                Link::Lost => 0,
            })?;
        }
        if let Some(left) = self.observed.certificate_left {
            let help = "Time until the proxy's certificate ends; negative: since then";
            let seconds = Some(&Unit::Seconds);
            let mut metric = encoder.encode_descriptor("weir_certificate_left", help, seconds, MetricType::Gauge)?;
            metric.encode_gauge(&left)?;
        }
        let help = "A cluster's breaker: 0 closed, 0.5 half-open, 1 open";
        let mut metric = encoder.encode_descriptor("weir_breaker_open", help, None, MetricType::Gauge)?;
        for cluster in &self.observed.clusters {
            let open = match cluster.breaker {
                BreakerState::Closed => 0.0,
                BreakerState::HalfOpen => 0.5,
                BreakerState::Open { .. } => 1.0,
            };
            let labels = [("cluster", cluster.name.as_str())];
            metric.encode_family(&labels)?.encode_gauge(&open)?;
        }
        let help = "Times a cluster's breaker opened";
        let mut metric = encoder.encode_descriptor("weir_breaker_opened", help, None, MetricType::Counter)?;
        for cluster in &self.observed.clusters {
            counter(&mut metric, &[("cluster", &cluster.name)], cluster.opened)?;
        }
        let help = "Times an endpoint of a cluster was left alone because it failed, by the rule that it broke";
        let mut metric = encoder.encode_descriptor("weir_outlier_ejections", help, None, MetricType::Counter)?;
        for cluster in &self.observed.clusters {
            for (cause, count) in &cluster.ejections {
                counter(
                    &mut metric,
                    &[("cluster", cluster.name.as_str()), ("cause", cause.as_str())],
                    *count,
                )?;
            }
        }
        let help = "Checks of a cluster's endpoints";
        let mut metric = encoder.encode_descriptor("weir_health_checks", help, None, MetricType::Counter)?;
        for cluster in &self.observed.clusters {
            for (found, count) in &cluster.checks {
                let [passed, failed] = FOUND;
                let result = match found {
                    Found::Passed => passed,
                    Found::Failed => failed,
                };
                counter(
                    &mut metric,
                    &[("cluster", cluster.name.as_str()), ("result", result)],
                    *count,
                )?;
            }
        }
        let help = "Endpoints of a cluster: in use, left alone because they failed, unhealthy by their checks";
        let mut metric = encoder.encode_descriptor("weir_cluster_endpoints", help, None, MetricType::Gauge)?;
        for cluster in &self.observed.clusters {
            let counts = [
                ("in_use", cluster.in_use),
                ("ejected", cluster.ejected),
                ("failing_checks", cluster.failing),
            ];
            for (state, count) in counts {
                let labels = [("cluster", cluster.name.as_str()), ("state", state)];
                metric.encode_family(&labels)?.encode_gauge(&count)?;
            }
        }
        let help = "The share of requests to a cluster for each level of its endpoints, where near ones are preferred";
        let mut metric = encoder.encode_descriptor("weir_cluster_locality_percent", help, None, MetricType::Gauge)?;
        for cluster in &self.observed.clusters {
            for (level, share) in &cluster.levels {
                let labels = [("cluster", cluster.name.as_str()), ("level", level.as_str())];
                metric.encode_family(&labels)?.encode_gauge(&u32::from(*share))?;
            }
        }
        let help = "1 while all endpoints of a cluster are used because too few of them could be";
        let mut metric = encoder.encode_descriptor("weir_cluster_panic", help, None, MetricType::Gauge)?;
        for cluster in &self.observed.clusters {
            let labels = [("cluster", cluster.name.as_str())];
            metric.encode_family(&labels)?.encode_gauge(&u32::from(cluster.panic))?;
        }
        let help = "What is open to a cluster, by what its limits count";
        let mut metric = encoder.encode_descriptor("weir_cluster_active", help, None, MetricType::Gauge)?;
        for cluster in &self.observed.clusters {
            let counts = [
                ("connections", cluster.connections),
                ("pending", cluster.pending),
                ("requests", cluster.requests),
            ];
            for (kind, count) in counts {
                let labels = [("cluster", cluster.name.as_str()), ("kind", kind)];
                metric.encode_family(&labels)?.encode_gauge(&count)?;
            }
        }
        Ok(())
    }
}

struct Observer(Box<dyn Fn() -> Observed + Send + Sync>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

type Pair<'a> = (&'a str, &'a str);

fn label_pairs(labels: &TrackLabels) -> [Pair<'_>; 4] {
    [
        ("direction", labels.direction.as_str()),
        ("service", &labels.service),
        ("route", labels.route.as_deref().unwrap_or_default()),
        ("cluster", labels.cluster.as_deref().unwrap_or_default()),
    ]
}

fn counter<S: EncodeLabelSet>(metric: &mut MetricEncoder, labels: &S, count: u64) -> fmt::Result {
    let mut metric = metric.encode_family(labels)?;
    metric.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

fn outcome_place(outcome: AttemptOutcome) -> usize {
    match outcome {
        AttemptOutcome::Answered(_) => 0,
        AttemptOutcome::ConnectFailed => 1,
        AttemptOutcome::Unprocessed => 2,
        AttemptOutcome::Reset => 3,
        AttemptOutcome::TimedOut => 4,
        AttemptOutcome::Abandoned => 5,
    }
}

/// A poisoned lock is taken all the same: what it guards is counters and names, whole after every step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Combinations of service, route and cluster that are told apart, per process. One costs about 0.7 KiB for each worker
/// and 20 series at the scraper; on-demand configuration keeps far below it.
const TRACKS_MAX: usize = 1_000;

/// Kinds of answer (code, flag, gRPC status) told apart per combination of labels.
const ANSWERS_MAX: usize = 24;

/// The label of what is over a cap.
const OVERFLOW: &str = "overflow";

/// A gRPC status outside the byte that any client knows; 2 is `UNKNOWN` (gRPC, statuscodes.md).
const GRPC_UNKNOWN: u8 = 2;

const DIRECTIONS: [&str; 2] = ["inbound", "outbound"];
const SIDES: [&str; 2] = ["downstream", "upstream"];
const RETRIED: [&str; 4] = ["unprocessed", "safe_resend", "policy", "budget_spent"];
const WAYS: [&str; 2] = ["from_downstream", "to_downstream"];
const REFUSED: [&str; 4] = ["connections", "pending", "requests", "breaker_open"];
const FAULTS: [&str; 2] = ["delay", "abort"];
const CLEARTEXT: [&str; 2] = ["admitted", "refused"];
const HANDSHAKES: [&str; 2] = ["full", "resumed"];
const TLS_FAILURES: [&str; 4] = ["own", "certificate", "alert", "protocol"];
const FOUND: [&str; 2] = ["passed", "failed"];
const MIRRORED: [&str; 6] = ["answered", "refused", "failed", "timed_out", "behind", "broken_off"];
const OUTCOMES: [&str; 6] = [
    "answered",
    "connect_failed",
    "unprocessed",
    "reset",
    "timed_out",
    "abandoned",
];

/// Upper bounds, inclusive. From half a millisecond, which a call on one host takes, to ten seconds, after which a
/// person has left; three to a decade.
const BUCKETS: [Duration; 15] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::MAX,
];

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;
    use crate::record::AttemptEvent;
    use crate::record::tests::record;

    /// The samples of a page, without the lines that describe them.
    fn samples(metrics: &Metrics) -> Vec<String> {
        let page = metrics.page().expect("the page");
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    #[track_caller]
    fn holds(metrics: &Metrics, sample: &str) {
        let samples = samples(metrics);
        assert!(
            samples.iter().any(|line| line == sample),
            "{sample}\n{}",
            samples.join("\n")
        );
    }

    fn count(worker: &WorkerMetrics, record: &RequestRecord) {
        worker.track(&TrackLabels::of(record)).count(record);
    }

    #[test]
    fn numbers_are_places() {
        for (place, flag) in ResponseFlag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, place);
        }
        assert_eq!(DIRECTIONS[Direction::Outbound as usize], Direction::Outbound.as_str());
        assert_eq!(SIDES[Side::Upstream as usize], "upstream");
    }

    #[test]
    fn the_page_is_whole_and_sorted() {
        let metrics = Metrics::default();
        let worker = metrics.worker();
        let mut answered = record();
        count(&worker, &answered);
        answered.duration = Duration::from_millis(7);
        answered.status = 503;
        answered.flag = ResponseFlag::BreakerOpen;
        answered.grpc_status = Some(14);
        answered.attempts.clear();
        count(&worker, &answered);
        worker.retried(RetryKind::Policy);
        worker.violated(Violation::LengthAndCoding);
        worker.refused(&Refusal::Open {
            retry_after: Duration::ZERO,
        });
        worker.mirrored(Mirrored::Behind);
        worker.rate_limited();
        worker.delay_left_out();
        worker.aborted_on_purpose();
        worker.unknown_destination();
        worker.health_check_answered(Found::Failed);
        let tcp = worker.tcp(Direction::Outbound, &Arc::from("postgres.data:5432"));
        tcp.opened();
        tcp.opened();
        tcp.passed(Way::ToDownstream, 4096);
        tcp.ended(ResponseFlag::UpstreamReset);
        metrics.shared().spans_dropped(3);
        metrics.shared().health_check_late();
        let _open = worker.connection(Direction::Inbound, Side::Downstream);
        drop(worker.connection(Direction::Outbound, Side::Upstream));
        metrics.observe(|| Observed {
            control_plane: Some(Link::Connected),
            certificate_left: Some(86_399),
            clusters: vec![ObservedCluster {
                name: "identity.police:80".to_owned(),
                breaker: BreakerState::HalfOpen,
                opened: 2,
                ejections: vec![(Cause::Consecutive5xxErrors, 3), (Cause::FailurePercentage, 0)],
                ejected: 1,
                checks: vec![(Found::Passed, 40), (Found::Failed, 2)],
                failing: 1,
                in_use: 2,
                levels: vec![(Distance::Zone, 70), (Distance::Region, 30)],
                panic: false,
                connections: 1,
                pending: 0,
                requests: 4,
            }],
        });
        let page = metrics.page().expect("the page");
        crate::test_golden::check("src/testdata/metrics.txt", &page);
    }

    #[test]
    fn a_label_value_is_escaped() {
        let metrics = Metrics::default();
        let mut odd = record();
        odd.service = Arc::from("a\"b\\c\nd");
        count(&metrics.worker(), &odd);
        let page = metrics.page().expect("the page");
        assert!(page.contains(r#"service="a\"b\\c\nd""#), "{page}");
    }

    #[test]
    fn workers_that_count_at_once_sum_right() {
        const WORKERS: usize = 4;
        const REQUESTS: usize = 10_000;
        let metrics = Metrics::default();
        let barrier = Barrier::new(WORKERS + 1);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                let (worker, barrier) = (metrics.worker(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..REQUESTS {
                        count(&worker, &record());
                    }
                });
            }
            barrier.wait();
            // Scrapes while they count neither block them nor see more than there is.
            assert!(
                metrics
                    .gather()
                    .tracks
                    .values()
                    .all(|sums| sums.buckets.iter().sum::<u64>() <= 40_000)
            );
        });
        let gathered = metrics.gather();
        assert_eq!(gathered.tracks.len(), 1);
        for sums in gathered.tracks.values() {
            assert_eq!(sums.answers.values().sum::<u64>(), 40_000);
            assert_eq!(sums.buckets.iter().sum::<u64>(), 40_000);
            assert_eq!(sums.attempts, [40_000, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn one_track_shared_by_threads_keeps_each_answer_once() {
        let track = Track::default();
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for offset in 0..4_u16 {
                let (track, barrier) = (&track, &barrier);
                scope.spawn(move || {
                    let mut answer = record();
                    barrier.wait();
                    for step in 0..1_000_u16 {
                        answer.status = 200 + (step + offset) % 30;
                        track.count(&answer);
                    }
                });
            }
        });
        let mut sums = TrackSums::default();
        track.add_to(&mut sums);
        assert_eq!(sums.answers.len(), ANSWERS_MAX);
        let total = sums.answers.values().sum::<u64>() + sums.answers_other;
        assert_eq!(total, 4_000);
    }

    #[test]
    fn what_is_over_the_cap_is_counted_together() {
        let metrics = Metrics::default();
        let (one, other) = (metrics.worker(), metrics.worker());
        let mut next = record();
        for number in 0..TRACKS_MAX + 5 {
            next.service = Arc::from(format!("s{number}"));
            count(&one, &next);
            count(&other, &next);
        }
        let gathered = metrics.gather();
        assert_eq!(gathered.tracks.len(), TRACKS_MAX + 1);
        let overflow = &gathered.tracks[&TrackLabels::overflow(Direction::Outbound)];
        assert_eq!(overflow.answers.values().sum::<u64>(), 10);
    }

    #[test]
    fn answers_over_the_cap_are_counted_together() {
        let metrics = Metrics::default();
        let worker = metrics.worker();
        let mut next = record();
        for code in 200..200 + 30 {
            next.status = code;
            count(&worker, &next);
        }
        let cluster = "identity.police:80";
        let labels = format!(
            r#"direction="outbound",service="identity.police:80",route="HTTPRoute/police/identity#rules[0]",cluster="{cluster}""#
        );
        holds(
            &metrics,
            &format!(r#"weir_requests_total{{{labels},code="overflow",grpc_status="",flag="overflow"}} 6"#),
        );
    }

    #[test]
    fn a_duration_is_in_the_bucket_that_bounds_it() {
        #[track_caller]
        fn check(duration: Duration, place: usize) {
            let track = Track::default();
            let mut one = record();
            one.duration = duration;
            track.count(&one);
            assert_eq!(track.buckets[place].load(Relaxed), 1, "{duration:?}");
        }
        check(Duration::ZERO, 0);
        check(Duration::from_micros(500), 0);
        check(Duration::from_nanos(500_001), 1);
        check(Duration::from_secs(10), 13);
        check(Duration::from_secs(11), 14);
        check(Duration::MAX, 14);
    }

    #[test]
    fn each_attempt_is_counted_by_its_outcome() {
        let metrics = Metrics::default();
        let mut retried = record();
        let endpoint = "10.0.0.1:80".parse().expect("an address");
        let outcomes = [
            AttemptOutcome::ConnectFailed,
            AttemptOutcome::TimedOut,
            AttemptOutcome::Answered(503),
            AttemptOutcome::Answered(200),
        ];
        retried.attempts = outcomes
            .map(|outcome| AttemptEvent {
                endpoint,
                outcome,
                at: Duration::ZERO,
            })
            .to_vec();
        count(&metrics.worker(), &retried);
        let gathered = metrics.gather();
        let sums = gathered.tracks.values().next().expect("one track");
        assert_eq!(sums.attempts, [2, 1, 0, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn an_answer_unpacks_as_packed(code: u16, flag in 0..ResponseFlag::ALL.len(), grpc: Option<u8>) {
            let answer = Answer { code, flag: ResponseFlag::ALL[flag], grpc };
            prop_assert_ne!(answer.pack(), 0);
            prop_assert_eq!(Answer::unpack(answer.pack()), Some(answer));
        }
    }
}
