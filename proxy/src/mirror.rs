//! Copies of requests for mirrors. They go beside the request, nobody waits for them, and they are never sent again:
//! what becomes of them is counted, and their answers are read and dropped.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::time::timeout_at;
use weir_policy::breaker::{Outcome, RequestPermit};
use weir_policy::deadline::Deadline;
use weir_policy::model::AppProtocol;
use weir_policy::split;

use crate::attempt;
use crate::calls::Call;
use crate::endpoints::Endpoint;
use crate::exchange::{InFlight, is_failure};
use crate::http::body::{Replay, RequestBody};
use crate::http::copy::{CopyState, Standing};
use crate::http::head::{Grpc, Head};
use crate::http::upstream::{Reuse, Target};
use crate::metrics::Mirrored;
use crate::outbound::{self, AttemptAt};
use crate::plan::{self, ForwardPlan};
use crate::record::Direction;
use crate::snapshot::{Backend, Cluster};
use crate::worker::Worker;

/// How long a copy may take where the request itself has no limit: longer than any answer that a person waits for.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Sends a copy of the request to each mirror that is drawn. `head` is as the backend gets it; `body` has not been read
/// yet; `until` is when the request's own time ends. Of a request that asks for an upgrade there is none: what it is
/// for comes after its answer.
pub(crate) fn send_copies(
    worker: &Rc<Worker>,
    plan: &ForwardPlan<'_>,
    head: &Head,
    call: &Call,
    body: &Replay,
    until: Deadline,
) {
    if head.upgrade.is_some() {
        return;
    }
    let mirrors = plan.route.mirrors.iter();
    for mirror in mirrors.filter(|mirror| mirror.of.is_none_or(|of| of == plan.drawn)) {
        if !split::draws(mirror.parts_per_million, worker.random()) {
            continue;
        }
        match copy(worker, &mirror.backend, head, call, body, until) {
            // Owned by the worker's set of tasks; their number is bounded by the cluster's limit of requests.
            Some(copy) => drop(tokio::task::spawn_local(carry(Rc::clone(worker), copy))),
            None => worker.recorder.metrics().mirrored(Mirrored::Refused),
        }
    }
}

/// A copy that is admitted.
struct Copy {
    cluster: Arc<Cluster>,
    endpoint: Endpoint,
    permit: RequestPermit,
    request: Request<RequestBody>,
    state: CopyState,
    until: Deadline,
}

/// `None`: the mirror is no cluster that takes requests now.
fn copy(worker: &Worker, mirror: &Backend, head: &Head, call: &Call, body: &Replay, until: Deadline) -> Option<Copy> {
    let Backend::Cluster(cluster) = mirror else { return None };
    if cluster.config.protocol == AppProtocol::Tcp {
        return None;
    }
    let now = worker.clock.now();
    let permit = cluster.state.breaker.admit(now).ok()?;
    let endpoint = plan::choose(cluster, None, now, || worker.random())?;
    let until = until.earliest(Deadline::after(now, Some(TIME_MAX)));
    let (body, state) = body.copy();
    let at = AttemptAt {
        endpoint,
        number: 1,
        began: now,
        until,
    };
    let wire = outbound::wire(cluster.config.protocol, endpoint.peer);
    let request = outbound::request_at(worker, head, call, wire, body, &at);
    Some(Copy {
        cluster: Arc::clone(cluster),
        endpoint: endpoint.clone(),
        permit,
        request,
        state,
        until,
    })
}

async fn carry(worker: Rc<Worker>, copy: Copy) {
    let Copy {
        cluster,
        endpoint,
        permit,
        request,
        state,
        until,
    } = copy;
    let mut in_flight = InFlight::begin(&cluster, &endpoint, worker.clock, worker.clock.now());
    let exchanged = async {
        tokio::select! {
            answered = exchange(&worker, &cluster, &endpoint, request, &state, &mut in_flight) => answered,
            () = state.given_up() => Err(Unanswered),
        }
    };
    let ended = match until.time() {
        Some(until) => timeout_at(worker.clock.instant(until), exchanged).await,
        None => Ok(exchanged.await),
    };
    let (counted, outcome) = match (ended, state.standing()) {
        (Ok(Ok(status)), _) if is_failure(status, None) => (Mirrored::Answered, Outcome::Failure),
        (Ok(Ok(_)), _) => (Mirrored::Answered, Outcome::Success),
        // That the copy was given up is no failure of who was to get it.
        (Ok(Err(Unanswered)) | Err(_), Standing::Behind) => (Mirrored::Behind, Outcome::Abandoned),
        (Ok(Err(Unanswered)) | Err(_), Standing::BrokenOff) => (Mirrored::BrokenOff, Outcome::Abandoned),
        (Ok(Err(Unanswered)), Standing::Open | Standing::Whole) => (Mirrored::Failed, Outcome::Failure),
        (Err(_), Standing::Open | Standing::Whole) => (Mirrored::TimedOut, Outcome::Failure),
    };
    permit.finish(outcome, worker.clock.now());
    worker.recorder.metrics().mirrored(counted);
}

/// There was no whole answer.
struct Unanswered;

/// Sends the copy and reads the answer to its end, so that the connection can carry what comes next; gives its status.
async fn exchange(
    worker: &Worker,
    cluster: &Cluster,
    endpoint: &Endpoint,
    request: Request<RequestBody>,
    state: &CopyState,
    in_flight: &mut InFlight,
) -> Result<u16, Unanswered> {
    let target = Target {
        address: endpoint.address,
        wire: outbound::wire(cluster.config.protocol, endpoint.peer),
        breaker: &cluster.state.breaker,
        direction: Direction::Outbound,
        connect_timeout: cluster.config.connect_timeout,
        keep: cluster.config.pool,
        security: &endpoint.security,
        reuse: Reuse::Allowed,
    };
    let grpc = Grpc::of(request.method(), request.headers());
    let sent = attempt::send(&worker.upstreams, &target, &cluster.label, None, || request).await;
    let (mut response, lease) = sent.map_err(|failed| {
        // A copy that was given up fails as if its sender had left.
        if state.standing() == Standing::Whole {
            in_flight.failed(failed.outcome());
        }
        Unanswered
    })?;
    in_flight.answered(&response, grpc, worker.clock.now());
    while let Some(frame) = response.body_mut().frame().await {
        frame.map_err(|_| Unanswered)?;
    }
    if state.is_spent() {
        lease.release();
    }
    Ok(response.status().as_u16())
}
