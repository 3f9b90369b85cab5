//! The API: resources over HTTP as Kubernetes has them, health, and the views.

mod accept;
mod body;
mod delete;
mod discovery;
mod host;
mod json;
mod list;
mod openapi;
mod page;
mod path;
pub(crate) mod protobuf;
mod query;
mod resources;
mod select;
pub(crate) mod server;
mod status;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::Uri;
use http::header::HOST;
use serde_json::json;
use tokio::sync::Semaphore;
use tower::BoxError;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::drain::Drain;
use crate::health::Health;
use crate::objects::Objects;
use host::Hosts;
use status::{Failure, Reason};

/// What the API takes at most. Each limit is for the process.
#[derive(Clone, Debug)]
pub struct ApiLimits {
    /// Of one request's body; more is answered with 413. Holds the largest route table with room to spare.
    pub body_bytes_max: usize,
    /// Of all bodies being worked on together; more are answered with 503 and `Retry-After`. One whose length is not
    /// announced counts as the largest.
    pub bodies_bytes_max: usize,
    /// Requests worked on at once; more are answered with 503 and `Retry-After`. Watches don't count.
    pub requests_max: usize,
    /// Connections; more wait to be accepted.
    pub connections_max: usize,
    /// Watches; more are answered with 429.
    pub watches_max: usize,
    /// For a request's header to come in whole; then the connection is closed.
    pub header_timeout: Duration,
    /// For a request to come in whole and be answered; then 408.
    pub request_timeout: Duration,
    /// Between the bookmarks of a watch that asked for them.
    pub bookmark_interval: Duration,
    /// For a watch, whatever it asked for; it then ends and begins anew where it was.
    pub watch_timeout_max: Duration,
    /// For requests to end after the process was told to; then their connections are closed.
    pub drain_timeout: Duration,
}

impl Default for ApiLimits {
    fn default() -> ApiLimits {
        ApiLimits {
            body_bytes_max: 4 * 1024 * 1024,
            bodies_bytes_max: 32 * 1024 * 1024,
            requests_max: 256,
            connections_max: 1024,
            watches_max: 512,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            bookmark_interval: Duration::from_secs(15),
            watch_timeout_max: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// What every request needs.
pub(crate) struct Api {
    objects: Objects,
    hosts: Hosts,
    health: Health,
    limits: ApiLimits,
    /// In kibibytes.
    bodies: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    drain: Drain,
}

impl Api {
    pub(crate) fn new(
        objects: Objects,
        health: Health,
        bound: SocketAddr,
        hosts: &[String],
        limits: ApiLimits,
        drain: Drain,
    ) -> Api {
        Api {
            objects,
            hosts: Hosts::new(bound, hosts),
            health,
            bodies: Arc::new(Semaphore::new(limits.bodies_bytes_max / body::KIBIBYTE)),
            watches: Arc::new(Semaphore::new(limits.watches_max)),
            limits,
            drain,
        }
    }
}

/// The whole API: `views` first, then health, then resources by whatever path is left.
pub(crate) fn router(api: Api, views: Router) -> Router {
    let api = Arc::new(api);
    let guard = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(overloaded))
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(api.limits.requests_max))
        .timeout(api.limits.request_timeout);
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .fallback(resources::serve)
        .with_state(Arc::clone(&api))
        .merge(views)
        .layer(guard)
        .layer(middleware::from_fn_with_state(api, check_host))
}

async fn check_host(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    // HTTP/1.1 wants exactly one Host (RFC 9112 section 3.2); the absolute form's authority takes its place.
    let mut given = request.headers().get_all(HOST).iter();
    let (first, second) = (given.next(), given.next());
    let header = first.and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or(header);
    match (host, second) {
        (Some(host), None) if api.hosts.allow(host) => next.run(request).await,
        (Some(host), None) => Failure::new(
            Reason::Forbidden,
            format!("the API is not reached as {host:?}; use its address, or name the host with --api-host"),
        )
        .into_response(),
        (None, _) | (_, Some(_)) => Failure::new(Reason::BadRequest, "the request must carry one Host").into_response(),
    }
}

async fn overloaded(error: BoxError) -> Failure {
    if error.is::<tower::timeout::error::Elapsed>() {
        Failure::too_slow("the request did not come in whole and get done in time")
    } else {
        Failure::retry_later(Reason::ServiceUnavailable, "too many requests at once; try again")
    }
}

async fn healthz(uri: Uri) -> Result<&'static str, Failure> {
    query::none(&uri)?;
    Ok("ok\n")
}

async fn readyz(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Failure> {
    let verbose = query::verbose(&uri)?;
    let report = api.health.report();
    let status = match report.ready {
        crate::health::Ready::Yes => http::StatusCode::OK,
        crate::health::Ready::No => http::StatusCode::SERVICE_UNAVAILABLE,
    };
    let text = match verbose {
        query::Verbose::Yes => report.to_string(),
        query::Verbose::No if status.is_success() => "ok\n".to_owned(),
        query::Verbose::No => "not ready; see /readyz?verbose\n".to_owned(),
    };
    Ok((status, text).into_response())
}

async fn version(uri: Uri) -> Result<Response, Failure> {
    let pretty = query::discovery(&uri)?;
    let version = json!({
        "major": env!("CARGO_PKG_VERSION_MAJOR"),
        "minor": env!("CARGO_PKG_VERSION_MINOR"),
        "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    });
    Ok(accept::respond(http::StatusCode::OK, pretty, &version))
}

impl From<query::QueryError> for Failure {
    fn from(error: query::QueryError) -> Failure {
        Failure::new(Reason::BadRequest, error.to_string())
    }
}
