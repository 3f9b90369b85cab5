//! The API's views: what is in force where, what a proxy itself says, and the latest traces. Nothing of it is stored.

mod ask;
mod authority;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, StatusCode};
use weir_api::views::{Reason, Status};
use weir_api::{Key, Kind, Scope};

use crate::authority::Authority;
use crate::metrics;
use crate::refusals::Refusals;
use crate::store::Store;
use crate::traces::Traces;
use crate::workloads::Workloads;
use crate::xds::{Closed, Xds};

/// What the views look at.
#[derive(Clone, Debug)]
struct Views {
    store: Store,
    xds: Xds,
    traces: Traces,
    workloads: Workloads,
    authority: Authority,
    connections_refused: Arc<Refusals>,
}

/// `GET /apis/weir.dev/v1/proxies`, `GET {path of an object}/proxies` for every kind, `GET {path of a workload}/config`
/// and `/endpoints`, `GET` or `POST {path of a workload}/explain`, `GET /traces?limit=N` and `GET /traces/{id}`,
/// `GET /authority`, `POST /authority/certificates` and `/tokens`, `GET /metrics`.
pub(crate) fn router(
    store: Store,
    xds: Xds,
    traces: Traces,
    workloads: Workloads,
    authority: Authority,
    connections_refused: Arc<Refusals>,
) -> Router {
    let mut router = Router::new()
        .route("/apis/weir.dev/v1/proxies", only_get(get(proxies)))
        .route("/metrics", only_get(get(metrics_page)))
        .route("/traces", only_get(get(list_traces)))
        .route("/traces/{id}", only_get(get(one_trace)));
    for &kind in Kind::ALL {
        let group = match kind.group() {
            "" => format!("/api/{}", kind.version()),
            group => format!("/apis/{group}/{}", kind.version()),
        };
        // Parameters at one place of a path must have one name; a Namespace's own name stands where its objects have
        // their namespace.
        let (path, handler) = match (kind, kind.scope()) {
            (Kind::Namespace, _) => (
                format!("{group}/namespaces/{{namespace}}/proxies"),
                cluster_object(kind),
            ),
            (_, Scope::Cluster) => (
                format!("{group}/{}/{{name}}/proxies", kind.plural()),
                cluster_object(kind),
            ),
            (_, Scope::Namespaced) => {
                let path = format!("{group}/namespaces/{{namespace}}/{}/{{name}}/proxies", kind.plural());
                (path, namespaced_object(kind))
            }
        };
        router = router.route(&path, only_get(handler));
    }
    for (view, handler) in ask::routes() {
        let path = format!("/apis/weir.dev/v1/namespaces/{{namespace}}/workloads/{{name}}/{view}");
        router = router.route(&path, handler);
    }
    for (path, handler) in authority::routes() {
        router = router.route(path, handler);
    }
    router.with_state(Views {
        store,
        xds,
        traces,
        workloads,
        authority,
        connections_refused,
    })
}

fn only_get(get: MethodRouter<Views>) -> MethodRouter<Views> {
    get.fallback(async |method: Method| {
        let problem = format!("{method}: views can only be read; use GET");
        ([(ALLOW, "GET, HEAD")], failure(Reason::MethodNotAllowed, problem))
    })
}

fn cluster_object(kind: Kind) -> MethodRouter<Views> {
    get(
        async move |views: State<Views>, Path(name): Path<String>, query: RawQuery| {
            let namespace = String::new();
            proxies_of(views, Key { kind, namespace, name }, query).await
        },
    )
}

fn namespaced_object(kind: Kind) -> MethodRouter<Views> {
    get(
        async move |views: State<Views>, Path((namespace, name)): Path<(String, String)>, query: RawQuery| {
            proxies_of(views, Key { kind, namespace, name }, query).await
        },
    )
}

async fn metrics_page(State(views): State<Views>, RawQuery(query): RawQuery) -> Result<Response, Failed> {
    no_parameters(query)?;
    let page = metrics::page(&views.authority, &views.connections_refused);
    let page = page.map_err(|error| failure(Reason::InternalError, error.to_string()))?;
    Ok(([(CONTENT_TYPE, metrics::PAGE_TYPE)], page).into_response())
}

async fn proxies(State(views): State<Views>, RawQuery(query): RawQuery) -> Result<Response, Failed> {
    no_parameters(query)?;
    let list = views.xds.proxies().await.map_err(unavailable)?;
    Ok(axum::Json(list).into_response())
}

async fn proxies_of(State(views): State<Views>, key: Key, RawQuery(query): RawQuery) -> Result<Response, Failed> {
    no_parameters(query)?;
    let Some(stored) = views.store.get(&key) else {
        let status = Status::failure(Reason::NotFound, format!("{key} does not exist")).about(&key);
        return Err(Failed(Box::new(status)));
    };
    let generation = stored.object.metadata.generation;
    let view = views
        .xds
        .proxies_of(key, generation, stored.revision)
        .await
        .map_err(unavailable)?;
    Ok(axum::Json(view).into_response())
}

async fn list_traces(State(views): State<Views>, RawQuery(query): RawQuery) -> Result<Response, Failed> {
    let limit = limit(query.as_deref().unwrap_or(""))?;
    Ok(axum::Json(views.traces.list(limit)).into_response())
}

async fn one_trace(
    State(views): State<Views>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failed> {
    no_parameters(query)?;
    match views.traces.trace(&id) {
        Some(trace) => Ok(axum::Json(trace).into_response()),
        None => {
            let shown: String = id.chars().take(64).collect();
            let message =
                format!("no trace {shown:?} is held here: only the latest are, by their 32 hexadecimal digits");
            Err(failure(Reason::NotFound, message))
        }
    }
}

fn limit(query: &str) -> Result<usize, Failed> {
    let wrong = |problem: String| failure(Reason::BadRequest, problem);
    let mut limit = TRACES_LISTED;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name != "limit" {
            return Err(wrong(format!("the parameter {name:?} is not known here; known: limit")));
        }
        limit = match value.parse() {
            Ok(limit @ 1..=TRACES_LISTED_MAX) => limit,
            Ok(_) | Err(_) => {
                return Err(wrong(format!(
                    "limit is {value:?}; a number from 1 to {TRACES_LISTED_MAX} is right"
                )));
            }
        };
    }
    Ok(limit)
}

fn no_parameters(query: Option<String>) -> Result<(), Failed> {
    match query.as_deref() {
        None | Some("") => Ok(()),
        Some(query) => {
            let shown: String = query.chars().take(64).collect();
            Err(failure(
                Reason::BadRequest,
                format!("the query {shown:?} is not known here; none is right"),
            ))
        }
    }
}

fn unavailable(closed: Closed) -> Failed {
    failure(Reason::ServiceUnavailable, closed.to_string())
}

fn failure(reason: Reason, message: String) -> Failed {
    Failed(Box::new(Status::failure(reason, message)))
}

/// An answer that says no.
#[derive(Debug)]
struct Failed(Box<Status>);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, axum::Json(self.0)).into_response()
    }
}

const TRACES_LISTED: usize = 20;
const TRACES_LISTED_MAX: usize = 2_000;
