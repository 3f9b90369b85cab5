//! The services, as a department would write them: plain HTTP servers and clients that know nothing of the mesh but
//! the address of their sidecar, and pass the trace context on.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::http::{Answer, Client};

/// What a service process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// The edge: the page that citizens ask for.
    Portal,
    /// Puts a code together from four departments' answers.
    HealthCode,
    /// Who a citizen is.
    Identity,
    /// Test results, the version in service.
    NucleicAcidTestV1,
    /// Test results, the new version; it can be told to fail and stall.
    NucleicAcidTestV2,
    /// Vaccinations.
    Vaccination,
    /// Where a citizen has been.
    Travel,
}

impl Role {
    /// All of them, callees before callers.
    pub(crate) const ALL: [Role; 7] = [
        Role::Identity,
        Role::NucleicAcidTestV1,
        Role::NucleicAcidTestV2,
        Role::Vaccination,
        Role::Travel,
        Role::HealthCode,
        Role::Portal,
    ];

    /// The workload's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Portal => "portal",
            Role::HealthCode => "health-code",
            Role::Identity => "identity",
            Role::NucleicAcidTestV1 => "nucleic-acid-test-v1",
            Role::NucleicAcidTestV2 => "nucleic-acid-test-v2",
            Role::Vaccination => "vaccination",
            Role::Travel => "travel",
        }
    }
}

/// How a leaf service misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Of a hundred requests, how many are answered with 500.
    errors_percent: u64,
    /// Of a hundred requests, how many are answered only after [`STALL`].
    stalls_percent: u64,
}

impl Fault {
    /// Half of the requests fail, and half of the others stall.
    pub(crate) const HALF: Fault = Fault {
        errors_percent: 50,
        stalls_percent: 25,
    };
    /// All is well.
    pub(crate) const NONE: Fault = Fault {
        errors_percent: 0,
        stalls_percent: 0,
    };

    /// The path, on the app's own port, that sets it.
    pub(crate) fn path(self) -> String {
        let Fault {
            errors_percent,
            stalls_percent,
        } = self;
        format!("/control/fault?errors={errors_percent}&stalls={stalls_percent}")
    }

    /// What happens to the request with this number: the first half of each hundred fails, in an order that mixes.
    fn meets(self, number: u64) -> Met {
        // 37 and 100 have no common divisor, so each hundred requests meets each place once.
        let place = (number % 100) * 37 % 100;
        if place < self.errors_percent {
            Met::Error
        } else if place < self.errors_percent + self.stalls_percent {
            Met::Stall
        } else {
            Met::Nothing
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Nothing,
    Error,
    Stall,
}

/// What a leaf service has seen, told on its own port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Requests.
    pub(crate) requests: u64,
    /// Of these answered with 500 on purpose.
    pub(crate) errors: u64,
    /// Of these stalled on purpose.
    pub(crate) stalls: u64,
    /// Requests by the mesh's route, which the route itself writes into [`ROUTE_HEADER`].
    pub(crate) routes: BTreeMap<String, RouteSeen>,
}

/// The requests that came by one route; times in nanoseconds of Unix time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RouteSeen {
    pub(crate) requests: u64,
    pub(crate) first_unix_nanos: u64,
    pub(crate) last_unix_nanos: u64,
}

/// The header in which the demo's routes say which of them took a request.
pub(crate) const ROUTE_HEADER: &str = "x-demo-route";
/// The header in which the portal says whether its page is whole.
pub(crate) const PAGE_HEADER: &str = "x-page";
/// The value of [`PAGE_HEADER`] when all parts are there.
pub(crate) const PAGE_WHOLE: &str = "whole";
/// The value of [`PAGE_HEADER`] when parts are missing.
pub(crate) const PAGE_DEGRADED: &str = "degraded";
/// The header in which the portal says which trace its answer belongs to, as `traceparent` has it.
pub(crate) const TRACE_HEADER: &str = "x-trace";
/// What the portal's page ends with.
pub(crate) const PAGE_END: &str = "</html>\n";
/// The path of what a leaf service has seen.
pub(crate) const SEEN_PATH: &str = "/control/seen";
/// How long a stalled request waits: far longer than any route lets it.
pub(crate) const STALL: Duration = Duration::from_secs(3);

/// A running service.
struct App {
    role: Role,
    /// To its own sidecar.
    sidecar: Client,
    errors_percent: AtomicU64,
    stalls_percent: AtomicU64,
    seen: Mutex<Seen>,
}

/// Serves until standard input ends, which it does when whoever started the process is gone. Prints `ready` once it
/// takes connections.
///
/// # Errors
/// When the address is taken.
pub(crate) async fn run(role: Role, listen: SocketAddr, outbound: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("{}: {listen}", role.name()))?;
    let app = Arc::new(App {
        role,
        sidecar: Client::new(outbound),
        errors_percent: AtomicU64::new(0),
        stalls_percent: AtomicU64::new(0),
        seen: Mutex::new(Seen::default()),
    });
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    let (alone, left_alone) = tokio::sync::oneshot::channel();
    // A thread, since reading standard input blocks; it ends with the process.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = alone.send(());
    });
    tokio::select! {
        served = serve(listener, app) => served,
        _ = left_alone => Ok(()),
    }
}

async fn serve(listener: TcpListener, app: Arc<App>) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = places.clone().acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let app = app.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let app = app.clone();
                async move { Ok::<_, Infallible>(app.answer(request).await) }
            });
            // A connection that breaks is the peer's affair: the next request comes on another.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or("");
        match (request.method(), path, self.role) {
            (&Method::GET, "/", Role::Portal) => self.page(request.headers(), query).await,
            (&Method::GET, "/code", Role::HealthCode) => self.code(request.headers(), query).await,
            (&Method::GET, "/record", Role::Identity) => json_answer(&identity(citizen(query))),
            (&Method::GET, "/record", Role::Vaccination) => json_answer(&vaccination(citizen(query))),
            (&Method::GET, "/record", Role::Travel) => json_answer(&travel(citizen(query))),
            (&Method::GET, "/record", Role::NucleicAcidTestV1 | Role::NucleicAcidTestV2) => {
                self.test_result(request.headers(), query).await
            }
            (&Method::GET, SEEN_PATH, _) => {
                let seen = self.seen.lock().map(|seen| seen.clone()).unwrap_or_default();
                json_answer(&json!(seen))
            }
            (&Method::POST, "/control/fault", Role::NucleicAcidTestV1 | Role::NucleicAcidTestV2) => {
                self.errors_percent.store(number(query, "errors"), Ordering::Relaxed);
                self.stalls_percent.store(number(query, "stalls"), Ordering::Relaxed);
                json_answer(&json!({}))
            }
            _ => text_answer(StatusCode::NOT_FOUND, format!("{} has no {path}\n", self.role.name())),
        }
    }

    /// A page that is whole where everybody answers, says what is missing where not, and is never blank.
    async fn page(&self, headers: &HeaderMap, query: &str) -> Response<Full<Bytes>> {
        let path = format!("/code?citizen={}", citizen(query));
        let code = self.call("health-code", &path, headers, CODE_TIMEOUT).await;
        let mut page = String::from(
            "<!doctype html>\n<html lang=\"zh\"><head><meta charset=\"utf-8\"><title>健康码</title></head><body>\n",
        );
        let mut missing = Vec::new();
        match &code {
            Ok(code) => {
                page.push_str(&format!(
                    "<h1>健康码 {}</h1>\n<ul>\n",
                    code["colour"].as_str().unwrap_or("unknown")
                ));
                for (name, part) in code["parts"].as_object().into_iter().flatten() {
                    if part.is_null() {
                        missing.push(name.clone());
                        page.push_str(&format!("<li>{name}: not available now, shown as of yesterday</li>\n"));
                    } else {
                        page.push_str(&format!("<li>{name}: {part}</li>\n"));
                    }
                }
                page.push_str("</ul>\n");
            }
            Err(_) => {
                missing.push("health-code".to_owned());
                page.push_str("<h1>健康码</h1>\n<p>Your code can't be renewed now; yesterday's stays valid.</p>\n");
            }
        }
        page.push_str("</body>");
        page.push_str(PAGE_END);
        let mut answer = Response::new(Full::from(page));
        let state = if missing.is_empty() { PAGE_WHOLE } else { PAGE_DEGRADED };
        answer
            .headers_mut()
            .insert(PAGE_HEADER, HeaderValue::from_static(state));
        answer.headers_mut().insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        if let Some(trace) = headers.get("traceparent") {
            answer.headers_mut().insert(TRACE_HEADER, trace.clone());
        }
        answer
    }

    /// The code, from four departments asked at once; what does not answer is `null`.
    async fn code(&self, headers: &HeaderMap, query: &str) -> Response<Full<Bytes>> {
        let path = format!("/record?citizen={}", citizen(query));
        let ask = |service: &'static str| self.call(service, &path, headers, RECORD_TIMEOUT);
        let (identity, test, vaccination, travel) = tokio::join!(
            ask("identity"),
            ask("nucleic-acid-test"),
            ask("vaccination"),
            ask("travel")
        );
        let colour = match (&identity, &test, &travel) {
            (Ok(_), Ok(test), Ok(_)) if test["result"] == "negative" => "green",
            _ => "yellow",
        };
        json_answer(&json!({
            "colour": colour,
            "parts": {
                "identity": identity.ok(),
                "nucleic-acid-test": test.ok(),
                "vaccination": vaccination.ok(),
                "travel": travel.ok(),
            },
        }))
    }

    async fn test_result(&self, headers: &HeaderMap, query: &str) -> Response<Full<Bytes>> {
        let fault = Fault {
            errors_percent: self.errors_percent.load(Ordering::Relaxed),
            stalls_percent: self.stalls_percent.load(Ordering::Relaxed),
        };
        match self.see(headers, fault) {
            Met::Nothing => {}
            Met::Error => return text_answer(StatusCode::INTERNAL_SERVER_ERROR, "out of order\n".to_owned()),
            Met::Stall => tokio::time::sleep(STALL).await,
        }
        json_answer(&json!({
            "citizen": citizen(query),
            "result": "negative",
            "hours ago": citizen(query) % 48,
            "by": self.role.name(),
        }))
    }

    /// Notes a request and what becomes of it.
    fn see(&self, headers: &HeaderMap, fault: Fault) -> Met {
        let now = unix_nanos();
        let route = headers
            .get(ROUTE_HEADER)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("none");
        let Ok(mut seen) = self.seen.lock() else {
            return Met::Nothing;
        };
        let met = fault.meets(seen.requests);
        seen.requests += 1;
        match met {
            Met::Nothing => {}
            Met::Error => seen.errors += 1,
            Met::Stall => seen.stalls += 1,
        }
        if seen.routes.len() < ROUTES_MAX || seen.routes.contains_key(route) {
            let by_route = seen.routes.entry(route.to_owned()).or_insert(RouteSeen {
                first_unix_nanos: now,
                ..RouteSeen::default()
            });
            by_route.requests += 1;
            by_route.last_unix_nanos = now;
        }
        met
    }

    /// Calls another service through the sidecar, by its name.
    async fn call(&self, service: &str, path: &str, caller: &HeaderMap, limit: Duration) -> anyhow::Result<Value> {
        let mut headers = HeaderMap::new();
        for name in ["traceparent", "tracestate"] {
            for value in caller.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let Answer { status, body, .. } = self.sidecar.get(service, path, &headers, limit).await?;
        anyhow::ensure!(status == StatusCode::OK, "{service} answered {status}");
        serde_json::from_slice(&body).with_context(|| format!("{service}'s answer"))
    }
}

fn identity(citizen: u64) -> Value {
    json!({ "citizen": citizen, "name": format!("citizen {citizen}"), "verified": true })
}

fn vaccination(citizen: u64) -> Value {
    json!({ "citizen": citizen, "doses": citizen % 4 })
}

fn travel(citizen: u64) -> Value {
    json!({ "citizen": citizen, "regions": ["Hangzhou"] })
}

/// The citizen that a query names; 0 where it names none.
fn citizen(query: &str) -> u64 {
    number(query, "citizen")
}

fn number(query: &str, name: &str) -> u64 {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn json_answer(value: &Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(value.to_string()));
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text_answer(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}

/// Now, in nanoseconds of Unix time.
pub(crate) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Per process: far more than a sidecar opens.
const CONNECTIONS_MAX: usize = 4096;
/// Routes told apart; the demo has two.
const ROUTES_MAX: usize = 16;
/// The portal's own patience; the mesh's timeouts are shorter.
const CODE_TIMEOUT: Duration = Duration::from_secs(3);
/// As long as a record may take in the health-code app's own eyes; the mesh's timeouts are shorter.
const RECORD_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_its_share_of_each_hundred_requests() {
        for from in [0, 100, 4200] {
            let met: Vec<Met> = (from..from + 100).map(|n| Fault::HALF.meets(n)).collect();
            assert_eq!(met.iter().filter(|m| **m == Met::Error).count(), 50);
            assert_eq!(met.iter().filter(|m| **m == Met::Stall).count(), 25);
            assert!((from..from + 100).all(|n| Fault::NONE.meets(n) == Met::Nothing));
        }
        let longest = (0..100).map(|n| Fault::HALF.meets(n)).collect::<Vec<_>>();
        let longest = longest.chunk_by(|a, b| a == b).map(<[Met]>::len).max();
        assert!(longest < Some(4), "failures come mixed, not in a row: {longest:?}");
    }

    #[tokio::test]
    async fn a_page_without_its_mesh_says_what_is_missing_and_is_not_blank() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = closed.local_addr().expect("it is bound");
        drop(closed);
        let app = |role| App {
            role,
            sidecar: Client::new(address),
            errors_percent: AtomicU64::new(0),
            stalls_percent: AtomicU64::new(0),
            seen: Mutex::new(Seen::default()),
        };
        let text = |answer: Response<Full<Bytes>>| async move {
            use http_body_util::BodyExt as _;
            let body = answer.into_body().collect().await.expect("it is whole").to_bytes();
            String::from_utf8(body.to_vec()).expect("it is text")
        };
        let page = app(Role::Portal).page(&HeaderMap::new(), "citizen=1").await;
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(page.headers()[PAGE_HEADER], PAGE_DEGRADED);
        let page = text(page).await;
        assert!(page.contains("can't be renewed") && page.ends_with(PAGE_END), "{page}");
        let code = text(app(Role::HealthCode).code(&HeaderMap::new(), "citizen=1").await).await;
        let code: Value = serde_json::from_str(&code).expect("it is JSON");
        assert_eq!(code["colour"], "yellow");
        assert!(
            code["parts"]
                .as_object()
                .is_some_and(|parts| parts.len() == 4 && parts.values().all(Value::is_null))
        );
    }

    #[test]
    fn a_query_is_read_by_name() {
        for (query, expect) in [
            ("citizen=7", 7),
            ("a=1&citizen=42", 42),
            ("citizens=3", 0),
            ("citizen=-1", 0),
            ("citizen=99999999999999999999", 0),
            ("", 0),
        ] {
            assert_eq!(citizen(query), expect, "{query:?}");
        }
    }
}
