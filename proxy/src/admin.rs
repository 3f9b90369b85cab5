//! The ports for people, probes and scrapers: admin, health, metrics. They run beside the workers and take none of
//! their time.

pub(crate) mod readiness;
pub(crate) mod serve;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::readiness::Readiness;
use crate::explain::{Asking, Explainer, Question};
use crate::identity::Identity;
use crate::metrics::{Metrics, PAGE_TYPE};
use crate::process_log::{LogControl, LogLevel};

/// What the admin port shows and does.
#[derive(Clone)]
pub(crate) struct AdminParts {
    /// Whether requests may come.
    pub(crate) readiness: Readiness,
    /// Who the proxy is; `None`: its control plane is reached in cleartext, if at all.
    pub(crate) identity: Option<Identity>,
    /// What is in force: what `/config` shows, sorted.
    pub(crate) config: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Which way a request would go.
    pub(crate) explainer: Explainer,
    /// Begins to drain; a second call changes nothing.
    pub(crate) drain: Arc<dyn Fn() + Send + Sync>,
    /// The log's level; `None`: another program's log is in use.
    pub(crate) log: Option<LogControl>,
}

impl fmt::Debug for AdminParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminParts")
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

/// The admin port, bound to `bound`: `/ready`, `/config`, `/explain`, `/drain`, `/log`.
///
/// A page in a browser on this host can reach it, so it answers only to names that are surely this host's (DNS
/// rebinding gives it a foreign one), has effects only by POST, and takes no request that another site's page sends.
pub(crate) fn admin(parts: AdminParts, bound: IpAddr) -> Router {
    Router::new()
        .route("/ready", get(ready).fallback(|| wrong_method("GET")))
        .route("/config", get(config).fallback(|| wrong_method("GET")))
        .route(
            "/explain",
            get(explain)
                .post(explain_as_request)
                .fallback(|| wrong_method("GET, POST")),
        )
        .route("/drain", post(drain).fallback(|| wrong_method("POST")))
        .route(
            "/log",
            get(log_level)
                .post(set_log_level)
                .fallback(|| wrong_method("GET, POST")),
        )
        .fallback(|uri: Uri| not_found(uri, ADMIN_PATHS))
        .with_state(parts)
        .layer(middleware::from_fn_with_state(bound, only_from_this_host))
}

/// The health port: `/healthz/ready` says whether requests may come, `/healthz/live` that the process runs.
pub(crate) fn health(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz/ready", get(health_ready).fallback(|| wrong_method("GET")))
        .route(
            "/healthz/live",
            get(|| async { "live\n" }).fallback(|| wrong_method("GET")),
        )
        .fallback(|uri: Uri| not_found(uri, HEALTH_PATHS))
        .with_state(readiness)
}

/// The metrics port: `/metrics`.
pub(crate) fn metrics(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page).fallback(|| wrong_method("GET")))
        .fallback(|uri: Uri| not_found(uri, METRICS_PATHS))
        .with_state(metrics)
}

const ADMIN_PATHS: &str = "\
GET /ready            what the proxy waits for before it takes requests
GET /config           what it runs with and what is in force
GET /explain?url=URL[&method=METHOD][&header=NAME:VALUE]...
                      which way a request would go, and why, by what is in force
POST /explain?...     the same; a name that is not in force yet is asked for first, as the request would do
POST /drain           stop taking connections, let requests under way end
GET /log              the log's level
POST /log?level=LEVEL set it (off, error, warn, info, debug, trace, or TARGET=LEVEL,...)
";
const HEALTH_PATHS: &str = "\
GET /healthz/ready    200 when requests may come
GET /healthz/live     200 while the process runs
";
const METRICS_PATHS: &str = "\
GET /metrics          OpenMetrics text
";

async fn ready(State(parts): State<AdminParts>) -> Response {
    let pending = parts.readiness.pending();
    let mut body = json!({"ready": pending.is_empty(), "pending": pending});
    if let Some(identity) = &parts.identity {
        body["identity"] = identity.status(SystemTime::now());
    }
    (ready_status(&pending), Json(body)).into_response()
}

async fn health_ready(State(readiness): State<Readiness>) -> Response {
    let pending = readiness.pending();
    let status = ready_status(&pending);
    if pending.is_empty() {
        return (status, "ready\n").into_response();
    }
    (status, format!("waits for: {}\n", pending.join(", "))).into_response()
}

fn ready_status(pending: &[String]) -> StatusCode {
    if pending.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn config(State(parts): State<AdminParts>) -> Json<Value> {
    Json((parts.config)())
}

/// By GET nothing happens but that it is answered.
async fn explain(parts: State<AdminParts>, query: ExplainQuery) -> Response {
    explained(parts, query, Asking::InForce).await
}

async fn explain_as_request(parts: State<AdminParts>, query: ExplainQuery) -> Response {
    explained(parts, query, Asking::AsRequest).await
}

type ExplainQuery = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn explained(State(parts): State<AdminParts>, query: ExplainQuery, asking: Asking) -> Response {
    let question = match query {
        Ok(Query(parameters)) => Question::read(parameters).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match question {
        Ok(question) => Json(parts.explainer.explain(&question, asking).await).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn drain(State(parts): State<AdminParts>) -> (StatusCode, &'static str) {
    tracing::info!("drain asked for by the admin port");
    (parts.drain)();
    (StatusCode::ACCEPTED, "draining\n")
}

async fn log_level(State(parts): State<AdminParts>) -> Response {
    match parts.log.and_then(|log| log.level()) {
        Some(level) => format!("{level}\n").into_response(),
        None => no_log(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetLevel {
    level: String,
}

async fn set_log_level(State(parts): State<AdminParts>, query: Result<Query<SetLevel>, QueryRejection>) -> Response {
    let Ok(Query(SetLevel { level })) = query else {
        return (StatusCode::BAD_REQUEST, "give the level: POST /log?level=debug\n").into_response();
    };
    let level: LogLevel = match level.parse() {
        Ok(level) => level,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let Some(log) = parts.log else { return no_log() };
    let answer = format!("{level}\n");
    log.set_level(level);
    tracing::info!(level = answer.trim_end(), "log level set by the admin port");
    answer.into_response()
}

fn no_log() -> Response {
    (StatusCode::NOT_FOUND, "the log is not this proxy's to change\n").into_response()
}

async fn metrics_page(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.page() {
        Ok(page) => ([(CONTENT_TYPE, PAGE_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn not_found(uri: Uri, paths: &'static str) -> (StatusCode, String) {
    let path: String = uri.path().chars().take(PATH_SHOWN_MAX).collect();
    (
        StatusCode::NOT_FOUND,
        format!("there is no {path} here; there is:\n{paths}"),
    )
}

async fn wrong_method(allowed: &'static str) -> Response {
    let text = format!("this takes {allowed} only\n");
    let allowed = HeaderValue::from_static(allowed);
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, allowed)], text).into_response()
}

async fn only_from_this_host(State(bound): State<IpAddr>, request: Request, next: Next) -> Response {
    match check_host(&request, bound) {
        Ok(()) => next.run(request).await,
        Err(problem) => (StatusCode::FORBIDDEN, format!("{problem}\n")).into_response(),
    }
}

/// Why a request may come from a page that is not this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Foreign {
    #[error("the Host field must be given once, as localhost or a loopback address")]
    Host,
    #[error("pages of other sites may not call this")]
    Origin,
}

fn check_host(request: &Request, bound: IpAddr) -> Result<(), Foreign> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Foreign::Host);
    };
    let host = host.to_str().map_err(|_| Foreign::Host)?;
    let absolute = request.uri().authority().map(|authority| authority.as_str());
    if !is_this_host(host, bound) || absolute.is_some_and(|authority| !is_this_host(authority, bound)) {
        return Err(Foreign::Host);
    }
    // A browser names the page's origin with every POST (Fetch standard, section 3.2); our own has none.
    match request.headers().get(ORIGIN) {
        Some(_) => Err(Foreign::Origin),
        None => Ok(()),
    }
}

/// Whether a name in a request can only mean this host. A foreign site can have a name of its own resolve to loopback,
/// but can't be an address or `localhost`. Bound to more than loopback, other addresses are meant to reach it as well.
fn is_this_host(authority: &str, bound: IpAddr) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        Some(_) | None => authority,
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || !bound.is_loopback(),
        Err(_a_name) => bare.eq_ignore_ascii_case("localhost"),
    }
}

/// How much of a path that is not there is said back.
const PATH_SHOWN_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use axum::body::Body;
    use axum::http::Method;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Of a proxy that nothing was told.
    fn explainer() -> Explainer {
        let (mesh, _feed) =
            crate::mesh::Mesh::new(crate::clock::Clock::start(), weir_policy::model::Locality::default());
        Explainer::new(
            mesh,
            Arc::new("n/w".parse().expect("a name")),
            crate::egress::tests::exit(),
        )
    }

    struct Fixture {
        readiness: Readiness,
        drains: Arc<AtomicUsize>,
        router: Router,
    }

    fn fixture() -> Fixture {
        let readiness = Readiness::default();
        let drains = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&drains);
        let parts = AdminParts {
            readiness: readiness.clone(),
            identity: None,
            config: Arc::new(|| json!({"version": 7})),
            explainer: explainer(),
            drain: Arc::new(move || {
                counted.fetch_add(1, SeqCst);
            }),
            log: None,
        };
        Fixture {
            readiness,
            drains,
            router: admin(parts, LOOPBACK),
        }
    }

    async fn ask(router: &Router, method: Method, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("it can't fail");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    const LOCAL: &[(&str, &str)] = &[("host", "127.0.0.1:15000")];

    #[tokio::test]
    async fn ready_names_what_it_waits_for() {
        let fixture = fixture();
        let listening = fixture.readiness.condition("listeners are bound");
        let answered = fixture.readiness.condition("app port 8080 takes connections");
        listening.met();
        let (status, body) = ask(&fixture.router, Method::GET, "/ready", LOCAL).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, r#"{"pending":["app port 8080 takes connections"],"ready":false}"#);
        let health = health(fixture.readiness.clone());
        let (status, body) = ask(&health, Method::GET, "/healthz/ready", &[]).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, "waits for: app port 8080 takes connections\n");
        answered.met();
        let (status, body) = ask(&fixture.router, Method::GET, "/ready", LOCAL).await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::OK, r#"{"pending":[],"ready":true}"#)
        );
        let (status, _) = ask(&health, Method::GET, "/healthz/ready", &[]).await;
        assert_eq!(status, StatusCode::OK);
        let (status, body) = ask(&health, Method::GET, "/healthz/live", &[]).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "live\n"));
    }

    #[tokio::test]
    async fn drain_is_by_post_only() {
        let fixture = fixture();
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
            let (status, _) = ask(&fixture.router, method, "/drain", LOCAL).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        }
        assert_eq!(fixture.drains.load(SeqCst), 0);
        let (status, _) = ask(&fixture.router, Method::POST, "/drain", LOCAL).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        assert_eq!(fixture.drains.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn a_foreign_page_reaches_nothing() {
        let fixture = fixture();
        let foreign: [&[(&str, &str)]; 6] = [
            &[],
            &[("host", "evil.example:15000")],
            &[("host", "127.0.0.1.evil.example")],
            &[("host", "10.0.0.1:15000")],
            &[("host", "localhost"), ("host", "evil.example")],
            &[("host", "127.0.0.1:15000"), ("origin", "http://evil.example")],
        ];
        for headers in foreign {
            for (method, path) in [
                (Method::GET, "/config"),
                (Method::POST, "/drain"),
                (Method::GET, "/nowhere"),
            ] {
                let (status, body) = ask(&fixture.router, method, path, headers).await;
                assert_eq!(status, StatusCode::FORBIDDEN, "{path} {headers:?} {body}");
            }
        }
        let (status, _) = ask(&fixture.router, Method::GET, "http://evil.example/config", LOCAL).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert_eq!(fixture.drains.load(SeqCst), 0);
    }

    #[test]
    fn this_hosts_names_are_known() {
        let here = |authority| is_this_host(authority, LOOPBACK);
        for authority in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.8.9.1:80",
            "[::1]",
            "[::1]:15000",
        ] {
            assert!(here(authority), "{authority}");
        }
        for authority in [
            "",
            ":15000",
            "local",
            "localhost.evil.example",
            "[::2]",
            "10.0.0.1",
            "127.0.0.1x",
            "[127.0.0.1",
        ] {
            assert!(!here(authority), "{authority}");
        }
        let wide = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        assert!(is_this_host("10.0.0.1:15000", wide));
        assert!(!is_this_host("evil.example:15000", wide));
    }

    #[tokio::test]
    async fn what_is_not_there_lists_what_is() {
        let fixture = fixture();
        let (status, body) = ask(&fixture.router, Method::GET, "/", LOCAL).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(body.starts_with("there is no / here; there is:\nGET /ready "), "{body}");
        let (status, body) = ask(&fixture.router, Method::GET, &format!("/{}", "a".repeat(5_000)), LOCAL).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(body.len() < 1_000);
    }

    #[tokio::test]
    async fn config_is_shown_as_json() {
        let (status, body) = ask(&fixture().router, Method::GET, "/config", LOCAL).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"version":7}"#));
    }

    #[tokio::test]
    async fn a_question_is_read_strictly_and_asked_for_by_post_only() {
        let router = fixture().router;
        let (status, body) = ask(&router, Method::GET, "/explain?url=http://a/b&header=x:1", LOCAL).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["name"]["canonical"], "a.n.svc.cluster.local");
        assert_eq!(body["outcome"]["action"], "ask");
        assert_eq!(body["name"].get("public_dns"), None, "nothing is looked up");
        // The other side of the mesh is gone: there is nobody to ask, and no wait.
        let (_, body) = ask(&router, Method::POST, "/explain?url=http://a/", LOCAL).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["outcome"]["flag"], "no_config");
        for (path, problem) in [
            ("/explain", "url is missing"),
            ("/explain?url=a&x=1", "the parameter \"x\" is not known"),
            ("/explain?url=a&header=x", "header \"x\" is not of the form"),
        ] {
            let (status, body) = ask(&router, Method::GET, path, LOCAL).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(body.starts_with(problem), "{body}");
        }
    }

    #[tokio::test]
    async fn the_logs_level_is_set_by_post() {
        let (subscriber, control) = crate::process_log::for_tests("info");
        let _default = tracing::subscriber::set_default(subscriber);
        let parts = AdminParts {
            readiness: Readiness::default(),
            identity: None,
            config: Arc::new(|| Value::Null),
            explainer: explainer(),
            drain: Arc::new(|| {}),
            log: Some(control),
        };
        let router = admin(parts, LOOPBACK);
        let (status, body) = ask(&router, Method::GET, "/log?level=debug", LOCAL).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "info\n"), "GET has no effect");
        let (status, body) = ask(&router, Method::POST, "/log?level=debug", LOCAL).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "debug\n"));
        let (_, body) = ask(&router, Method::GET, "/log", LOCAL).await;
        assert_eq!(body, "debug\n");
        for path in ["/log", "/log?level=", "/log?level=loud", "/log?lvl=debug"] {
            let (status, _) = ask(&router, Method::POST, path, LOCAL).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        }
    }

    #[tokio::test]
    async fn a_log_that_is_not_ours_is_said_to_be_none() {
        let (status, _) = ask(&fixture().router, Method::POST, "/log?level=debug", LOCAL).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn the_metrics_page_comes_with_its_type() {
        let router = metrics(Arc::default());
        let request = Request::builder()
            .uri("/metrics")
            .body(Body::empty())
            .expect("a request");
        let response = router.oneshot(request).await.expect("it can't fail");
        assert_eq!(response.headers()[CONTENT_TYPE], PAGE_TYPE);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert!(body.ends_with(b"# EOF\n"));
    }
}
