//! What each kind of client is told of each field of the model. A field that is added to the model does not compile
//! here until somebody decided.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as wire;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use prost::Message as _;
use weir_policy::backend_tls::{Authorities, BackendTls, Certificate, SubjectAltName, Validation};
use weir_policy::context::Priority;
use weir_policy::model::{self, *};
use weir_policy::spiffe::SpiffeId;
use weir_xds::encode;
use weir_xds::encode::{NotSent, Sent};
use weir_xds::envoy::Any;

use Says::{NotSent as No, Nothing, Said};

/// What a message does with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// It says it.
    Said,
    /// It does not say it, and the list of what was not sent does.
    NotSent,
    /// It makes no difference to such a client.
    Nothing,
}

/// A field; what the value is before (on top of what every one is) and after a change of it; and what a weir proxy, a
/// gRPC client and an Envoy are told of the change.
struct Row<T>(&'static str, fn(&mut T), fn(&mut T), [Says; 3]);

/// A message, and what was not sent in it.
type Told = (Any, Vec<NotSent>);

macro_rules! fields {
    ($name:ident: $($of:ident { $($field:ident),* $(,)? })*) => {
        /// Every field of these.
        fn $name() -> BTreeSet<&'static str> {
            $(let _ = |value: model::$of| { let model::$of { $($field: _),* } = value; };)*
            BTreeSet::from([$($(concat!(stringify!($of), ".", stringify!($field))),*),*])
        }
    };
}

#[track_caller]
fn check<T: Clone>(base: &T, rows: &[Row<T>], fields: BTreeSet<&'static str>, encode: fn(&T) -> [Told; 3]) {
    for Row(field, before, after, expect) in rows {
        let mut old = base.clone();
        before(&mut old);
        let mut new = old.clone();
        after(&mut new);
        let (old, new) = (encode(&old), encode(&new));
        for (at, client) in ["weir", "grpc", "envoy"].into_iter().enumerate() {
            let fresh = new[at].1.iter().any(|one| !old[at].1.contains(one));
            let says = match (fresh, old[at].0 == new[at].0) {
                (true, _) => No,
                (false, false) => Said,
                (false, true) => Nothing,
            };
            assert_eq!(says, expect[at], "{field} to {client}: {:?}", new[at].1);
        }
    }
    let covered: BTreeSet<&str> = rows.iter().map(|Row(field, ..)| *field).collect();
    assert_eq!(covered, fields, "a row for each field");
}

fn nothing<T>(_: &mut T) {}

fields! { route_fields:
    RouteConfig { name, virtual_hosts }
    VirtualHost { name, hosts, routes }
    Route { name, matches, request_headers, response_headers, cors, rate_limit, fault, priority, policy, action }
    RateLimit { name, requests, per, burst }
    HeldPolicy { name, fields }
    Fault { delay, abort }
    FaultDelay { parts_per_million, duration }
    FaultAbort { parts_per_million, answer }
    RouteMatch { path, method, headers, query }
    HeaderMatch { name, value }
    QueryMatch { name, value }
    HeaderChanges { remove, set, add }
    Forward { backends, mirrors, rewrite, timeouts, retry }
    WeightedBackend { cluster, weight, filters }
    BackendFilters { request_headers, response_headers, rewrite, redirect, mirrors, cors }
    Cors { origins, credentials, methods, request_fields, exposed_fields, max_age_seconds }
    OriginMatch { scheme, host, port }
    Mirror { cluster, parts_per_million }
    Rewrite { host, path }
    Timeouts { request, backend_request }
    RetryPolicy { attempts, on, codes, backoff, methods }
    Backoff { base, max }
    Redirect { scheme, host, port, path, status }
    DirectResponse { status, body }
}

fn routes() -> RouteConfig {
    RouteConfig {
        name: "portal.citizen:80/*".parse().expect("a name"),
        virtual_hosts: vec![VirtualHost {
            name: "portal".to_owned(),
            hosts: vec![HostMatch::Any],
            routes: vec![Route {
                name: "HTTPRoute/citizen/r#rules[0]".to_owned(),
                matches: RouteMatch {
                    path: PathMatch::Prefix("/a".to_owned()),
                    method: None,
                    headers: Vec::new(),
                    query: Vec::new(),
                },
                request_headers: HeaderChanges::default(),
                response_headers: HeaderChanges::default(),
                cors: None,
                rate_limit: None,
                fault: None,
                priority: None,
                policy: None,
                action: Action::Forward(Forward {
                    backends: vec![backend("portal.citizen:80", 1)],
                    mirrors: Vec::new(),
                    rewrite: Rewrite::default(),
                    timeouts: Timeouts::default(),
                    retry: None,
                }),
            }],
        }],
    }
}

fn backend(cluster: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        cluster: cluster.parse().expect("a name"),
        weight,
        filters: BackendFilters::default(),
    }
}

fn filters(config: &mut RouteConfig) -> &mut BackendFilters {
    &mut forward(config).backends[0].filters
}

fn cors() -> Cors {
    Cors {
        origins: Listed::These(vec![OriginMatch {
            scheme: Scheme::Https,
            host: HostMatch::Exact("a.example".to_owned()),
            port: NonZeroU16::new(443).expect("a port"),
        }]),
        credentials: true,
        methods: Listed::These(Vec::new()),
        request_fields: Listed::These(Vec::new()),
        exposed_fields: Listed::These(Vec::new()),
        max_age_seconds: 5,
    }
}

fn shared(config: &mut RouteConfig) {
    route(config).cors = Some(cors());
}

fn pages(config: &mut RouteConfig) -> &mut Cors {
    route(config).cors.as_mut().expect("CORS")
}

fn origin(config: &mut RouteConfig) -> &mut OriginMatch {
    match &mut pages(config).origins {
        Listed::These(origins) => &mut origins[0],
        Listed::Any => panic!("an origin"),
    }
}

fn mirror() -> Mirror {
    Mirror {
        cluster: "identity.citizen:80".parse().expect("a name"),
        parts_per_million: 1,
    }
}

fn mirrored(config: &mut RouteConfig) {
    forward(config).mirrors = vec![mirror()];
}

fn route(config: &mut RouteConfig) -> &mut Route {
    &mut config.virtual_hosts[0].routes[0]
}

fn forward(config: &mut RouteConfig) -> &mut Forward {
    match &mut route(config).action {
        Action::Forward(forward) => forward,
        other => panic!("a forward: {other:?}"),
    }
}

fn redirect(config: &mut RouteConfig) {
    route(config).action = Action::Redirect(Redirect {
        scheme: None,
        host: None,
        port: None,
        path: None,
        status: StatusCode::FOUND,
    });
}

fn redirected(config: &mut RouteConfig) -> &mut Redirect {
    match &mut route(config).action {
        Action::Redirect(redirect) => redirect,
        other => panic!("a redirect: {other:?}"),
    }
}

fn respond(config: &mut RouteConfig) {
    route(config).action = Action::Respond(DirectResponse {
        status: StatusCode::NOT_FOUND,
        body: String::new(),
    });
}

fn responded(config: &mut RouteConfig) -> &mut DirectResponse {
    match &mut route(config).action {
        Action::Respond(response) => response,
        other => panic!("an answer: {other:?}"),
    }
}

/// What gRPC sends again by: it names POST.
fn retried(config: &mut RouteConfig) {
    route(config).matches.method = Some(Method::POST);
    forward(config).retry = Some(RetryPolicy {
        attempts: 1,
        on: RetryOn::no_answer(),
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        backoff: Backoff::tenfold(Duration::from_millis(25)),
        methods: RetryMethods::Idempotent,
    });
}

/// On a status that is the same to every client.
fn on_internal(config: &mut RouteConfig) {
    retried(config);
    retry(config).on = [RetryOn::Internal].into();
    retry(config).codes = Vec::new();
}

fn limited(config: &mut RouteConfig) {
    route(config).rate_limit = Some(RateLimit {
        name: "HTTPRoute/citizen/r#rules[0]".to_owned(),
        requests: 1,
        per: Duration::from_secs(1),
        burst: 1,
    });
}

/// Of one rule.
fn two_matches(config: &mut RouteConfig) {
    let mut other = route(config).clone();
    other.name.push_str(".matches[1]");
    config.virtual_hosts[0].routes.push(other);
}

fn harmed(config: &mut RouteConfig) {
    route(config).fault = Some(Fault {
        delay: Some(FaultDelay {
            parts_per_million: 1,
            duration: Duration::from_secs(1),
        }),
        abort: Some(FaultAbort {
            parts_per_million: 1,
            answer: AbortAnswer::Http(StatusCode::SERVICE_UNAVAILABLE),
        }),
    });
}

fn fault(config: &mut RouteConfig) -> &mut Fault {
    route(config).fault.as_mut().expect("a fault")
}

fn delay(config: &mut RouteConfig) -> &mut FaultDelay {
    fault(config).delay.as_mut().expect("a delay")
}

fn abort(config: &mut RouteConfig) -> &mut FaultAbort {
    fault(config).abort.as_mut().expect("an answer")
}

fn held(config: &mut RouteConfig) {
    route(config).policy = Some(HeldPolicy {
        name: "RoutePolicy/citizen/p".to_owned(),
        fields: vec!["mirror".to_owned()],
    });
}

fn policy(config: &mut RouteConfig) -> &mut HeldPolicy {
    route(config).policy.as_mut().expect("a policy")
}

fn limit(config: &mut RouteConfig) -> &mut RateLimit {
    route(config).rate_limit.as_mut().expect("a limit")
}

fn retry(config: &mut RouteConfig) -> &mut RetryPolicy {
    forward(config).retry.as_mut().expect("a policy")
}

fn header_field(config: &mut RouteConfig) {
    route(config).matches.headers = vec![HeaderMatch {
        name: HeaderName::from_static("x-a"),
        value: ValueMatch::Exact("1".to_owned()),
    }];
}

fn parameter(config: &mut RouteConfig) {
    route(config).matches.query = vec![QueryMatch {
        name: "a".to_owned(),
        value: ValueMatch::Exact("1".to_owned()),
    }];
}

fn field() -> (HeaderName, HeaderValue) {
    (HeaderName::from_static("x-a"), HeaderValue::from_static("1"))
}

/// RE2 reads it otherwise.
const ODD: &str = "[a-z&&[^b]]";

#[rustfmt::skip]
const ROUTES: &[Row<RouteConfig>] = &[
    // An Envoy has one route configuration for all services.
    Row("RouteConfig.name", nothing, |c| c.name = "portal.citizen:80/police".parse().expect("a name"), [Said, Said, Nothing]),
    Row("RouteConfig.virtual_hosts", nothing, |c| c.virtual_hosts.clear(), [Said, Said, Said]),
    // An Envoy's are named by their first domain.
    Row("VirtualHost.name", nothing, |c| c.virtual_hosts[0].name = "x".to_owned(), [Said, Said, Nothing]),
    Row("VirtualHost.hosts", nothing, |c| c.virtual_hosts[0].hosts = vec![HostMatch::Suffix("citizen".to_owned())], [Said, Said, Said]),
    Row("VirtualHost.routes", nothing, |c| c.virtual_hosts[0].routes.clear(), [Said, Said, Said]),
    Row("Route.name", nothing, |c| route(c).name = "x".to_owned(), [Said, Said, Said]),
    Row("Route.matches", nothing, |c| route(c).matches.path = PathMatch::Exact("/a/b".to_owned()), [Said, Said, Said]),
    Row("Route.request_headers", nothing, |c| route(c).request_headers.set = vec![field()], [Said, No, Said]),
    Row("Route.response_headers", nothing, |c| route(c).response_headers.set = vec![field()], [Said, No, Said]),
    // No call comes from a page.
    Row("Route.cors", nothing, shared, [Said, Nothing, Said]),
    Row("Route.cors", redirect, shared, [Said, Nothing, No]),
    Row("Route.cors", respond, shared, [Said, Nothing, No]),
    Row("Route.cors", |c| forward(c).backends.clear(), shared, [Said, Nothing, No]),
    Row("Cors.origins", shared, |c| pages(c).origins = Listed::Any, [Said, Nothing, Said]),
    Row("Cors.credentials", shared, |c| pages(c).credentials = false, [Said, Nothing, Said]),
    Row("Cors.methods", shared, |c| pages(c).methods = Listed::Any, [Said, Nothing, Said]),
    Row("Cors.request_fields", shared, |c| pages(c).request_fields = Listed::Any, [Said, Nothing, Said]),
    Row("Cors.exposed_fields", shared, |c| pages(c).exposed_fields = Listed::These(vec![field().0]), [Said, Nothing, Said]),
    Row("Cors.exposed_fields", shared, |c| pages(c).exposed_fields = Listed::Any, [Said, Nothing, No]),
    Row("Cors.max_age_seconds", shared, |c| pages(c).max_age_seconds = 6, [Said, Nothing, Said]),
    Row("OriginMatch.scheme", shared, |c| origin(c).scheme = Scheme::Http, [Said, Nothing, Said]),
    Row("OriginMatch.host", shared, |c| origin(c).host = HostMatch::Any, [Said, Nothing, Said]),
    Row("OriginMatch.port", shared, |c| origin(c).port = NonZeroU16::MIN, [Said, Nothing, Said]),
    Row("Route.rate_limit", nothing, limited, [Said, No, Said]),
    // One limit to Weir, of which an Envoy has one for each route: those of matches, and of methods to be sent again.
    Row("Route.rate_limit", two_matches, |c| {
        limited(c);
        c.virtual_hosts[0].routes[1].rate_limit = route(c).rate_limit.clone();
    }, [Said, No, No]),
    Row("Route.rate_limit", two_matches, |c| {
        limited(c);
        c.virtual_hosts[0].routes[1].rate_limit = route(c).rate_limit.clone();
        c.virtual_hosts[0].routes[1].rate_limit.as_mut().expect("a limit").name = "x".to_owned();
    }, [Said, No, Said]),
    Row("Route.rate_limit", |c| {
        retried(c);
        route(c).matches.method = None;
    }, limited, [Said, No, No]),
    // What is left out takes no request.
    Row("Route.rate_limit", |c| {
        two_matches(c);
        route(c).matches.path = PathMatch::Regex(ODD.to_owned());
    }, |c| {
        limited(c);
        c.virtual_hosts[0].routes[1].rate_limit = route(c).rate_limit.clone();
    }, [Said, No, Said]),
    // That there is a limit is in the list whatever it is.
    Row("RateLimit.name", limited, |c| limit(c).name = "x".to_owned(), [Said, Nothing, Said]),
    Row("RateLimit.requests", limited, |c| limit(c).requests = 2, [Said, Nothing, Said]),
    Row("RateLimit.per", limited, |c| limit(c).per = Duration::from_secs(2), [Said, Nothing, Said]),
    Row("RateLimit.burst", limited, |c| limit(c).burst = 2, [Said, Nothing, Said]),
    Row("Route.fault", nothing, harmed, [Said, Said, Said]),
    Row("Route.priority", nothing, |c| route(c).priority = Priority::from_level(1), [Said, No, No]),
    // It is for people, in `explain` of weir proxies.
    Row("Route.policy", nothing, held, [Said, Nothing, Nothing]),
    Row("HeldPolicy.name", held, |c| policy(c).name = "x".to_owned(), [Said, Nothing, Nothing]),
    Row("HeldPolicy.fields", held, |c| policy(c).fields.clear(), [Said, Nothing, Nothing]),
    Row("Fault.delay", harmed, |c| fault(c).delay = None, [Said, Said, Said]),
    Row("Fault.abort", harmed, |c| fault(c).abort = None, [Said, Said, Said]),
    Row("FaultDelay.parts_per_million", harmed, |c| delay(c).parts_per_million = 2, [Said, Said, Said]),
    Row("FaultDelay.duration", harmed, |c| delay(c).duration = Duration::from_secs(2), [Said, Said, Said]),
    Row("FaultAbort.parts_per_million", harmed, |c| abort(c).parts_per_million = 2, [Said, Said, Said]),
    Row("FaultAbort.answer", harmed, |c| abort(c).answer = AbortAnswer::Grpc(14), [Said, Said, Said]),
    Row("Route.action", nothing, redirect, [Said, No, Said]),
    Row("Route.action", nothing, respond, [Said, No, Said]),
    Row("RouteMatch.path", nothing, |c| route(c).matches.path = PathMatch::Regex("/a.*".to_owned()), [Said, Said, Said]),
    Row("RouteMatch.path", nothing, |c| route(c).matches.path = PathMatch::Regex(ODD.to_owned()), [Said, No, No]),
    // No call has another method than POST: the route is left out, which says it.
    Row("RouteMatch.method", nothing, |c| route(c).matches.method = Some(Method::PUT), [Said, Said, Said]),
    // Every call has it.
    Row("RouteMatch.method", nothing, |c| route(c).matches.method = Some(Method::POST), [Said, Nothing, Said]),
    Row("RouteMatch.headers", nothing, header_field, [Said, Said, Said]),
    // No call has a query.
    Row("RouteMatch.query", nothing, parameter, [Said, Said, Said]),
    Row("HeaderMatch.name", header_field, |c| route(c).matches.headers[0].name = HeaderName::from_static("x-b"), [Said, Said, Said]),
    Row("HeaderMatch.name", header_field, |c| route(c).matches.headers[0].name = http::header::HOST, [Said, No, Said]),
    Row("HeaderMatch.value", header_field, |c| route(c).matches.headers[0].value = ValueMatch::Exact("2".to_owned()), [Said, Said, Said]),
    Row("HeaderMatch.value", header_field, |c| route(c).matches.headers[0].value = ValueMatch::Regex(ODD.to_owned()), [Said, No, No]),
    Row("QueryMatch.name", parameter, |c| route(c).matches.query[0].name = "b".to_owned(), [Said, Nothing, Said]),
    Row("QueryMatch.value", parameter, |c| route(c).matches.query[0].value = ValueMatch::Exact("2".to_owned()), [Said, Nothing, Said]),
    Row("HeaderChanges.remove", nothing, |c| route(c).request_headers.remove = vec![field().0], [Said, No, Said]),
    Row("HeaderChanges.set", nothing, |c| route(c).request_headers.set = vec![field()], [Said, No, Said]),
    Row("HeaderChanges.add", nothing, |c| route(c).request_headers.add = vec![field()], [Said, No, Said]),
    Row("HeaderChanges.add", nothing, |c| {
        let latin = HeaderValue::from_bytes(b"\xe4").expect("a value");
        route(c).request_headers.add = vec![(field().0, latin)];
    }, [Said, No, No]),
    Row("Forward.backends", nothing, |c| forward(c).backends.clear(), [Said, Said, Said]),
    Row("Forward.rewrite", nothing, |c| forward(c).rewrite.host = Some("x".to_owned()), [Said, No, Said]),
    Row("Forward.timeouts", nothing, |c| forward(c).timeouts.request = Some(Duration::from_secs(1)), [Said, Said, Said]),
    // To a gRPC client what has no answer is as what the app ends with UNAVAILABLE, which is not asked for.
    Row("Forward.retry", |c| route(c).matches.method = Some(Method::POST), retried, [Said, No, Said]),
    Row("Forward.retry", |c| route(c).matches.method = Some(Method::POST), |c| {
        retried(c);
        retry(c).on.insert(RetryOn::Unavailable);
    }, [Said, Said, Said]),
    // Not idempotent, and not named: a call is not sent again.
    Row("Forward.retry", nothing, |c| {
        retried(c);
        route(c).matches.method = None;
    }, [Said, Nothing, Said]),
    Row("WeightedBackend.cluster", nothing, |c| forward(c).backends[0] = backend("identity.citizen:80", 1), [Said, Said, Said]),
    Row("WeightedBackend.weight", nothing, |c| forward(c).backends[0].weight = 2, [Said, Said, Said]),
    Row("Forward.mirrors", nothing, mirrored, [Said, No, Said]),
    Row("Mirror.cluster", mirrored, |c| forward(c).mirrors[0].cluster = "other.citizen:80".parse().expect("a name"), [Said, Nothing, Said]),
    Row("Mirror.parts_per_million", mirrored, |c| forward(c).mirrors[0].parts_per_million = 2, [Said, Nothing, Said]),
    Row("WeightedBackend.filters", nothing, |c| filters(c).request_headers.set = vec![field()], [Said, No, Said]),
    Row("BackendFilters.request_headers", nothing, |c| filters(c).request_headers.remove = vec![field().0], [Said, No, Said]),
    Row("BackendFilters.response_headers", nothing, |c| filters(c).response_headers.add = vec![field()], [Said, No, Said]),
    Row("BackendFilters.rewrite", nothing, |c| filters(c).rewrite.host = Some("x".to_owned()), [Said, No, Said]),
    Row("BackendFilters.rewrite", nothing, |c| filters(c).rewrite.path = Some(PathRewrite::Full("/x".to_owned())), [Said, No, No]),
    Row("BackendFilters.redirect", nothing, |c| {
        let mut other = c.clone();
        redirect(&mut other);
        filters(c).redirect = Some(redirected(&mut other).clone());
    }, [Said, No, No]),
    Row("BackendFilters.cors", nothing, |c| filters(c).cors = Some(cors()), [Said, Nothing, Said]),
    Row("BackendFilters.cors", shared, |c| {
        forward(c).backends.push(backend("identity.citizen:80", 1));
        filters(c).cors = Some(Cors { credentials: false, ..cors() });
    }, [Said, Said, Said]),
    Row("BackendFilters.mirrors", nothing, |c| filters(c).mirrors = vec![mirror()], [Said, No, No]),
    Row("Rewrite.host", nothing, |c| forward(c).rewrite.host = Some("x".to_owned()), [Said, No, Said]),
    Row("Rewrite.path", nothing, |c| forward(c).rewrite.path = Some(PathRewrite::Full("/x".to_owned())), [Said, No, Said]),
    Row("Timeouts.request", nothing, |c| forward(c).timeouts.request = Some(Duration::from_secs(1)), [Said, Said, Said]),
    Row("Timeouts.backend_request", nothing, |c| forward(c).timeouts.backend_request = Some(Duration::from_secs(1)), [Said, Said, Said]),
    Row("Timeouts.backend_request", retried, |c| forward(c).timeouts.backend_request = Some(Duration::from_secs(1)), [Said, No, Said]),
    Row("RetryPolicy.attempts", retried, |c| retry(c).attempts = 2, [Said, Said, Said]),
    Row("RetryPolicy.attempts", retried, |c| retry(c).attempts = 5, [Said, No, Said]),
    // As without a policy: what is unprocessed is sent again all the same.
    Row("RetryPolicy.attempts", nothing, |c| {
        retried(c);
        route(c).matches.method = None;
        retry(c).attempts = 0;
    }, [Said, Nothing, Nothing]),
    Row("RetryPolicy.attempts", |c| route(c).matches.method = Some(Method::POST), |c| {
        retried(c);
        retry(c).attempts = 0;
    }, [Said, Nothing, Nothing]),
    // All of these are UNAVAILABLE to a call.
    Row("RetryPolicy.codes", retried, |c| retry(c).codes = vec![StatusCode::BAD_GATEWAY], [Said, Nothing, Said]),
    Row("RetryPolicy.codes", retried, |c| retry(c).codes = vec![StatusCode::INTERNAL_SERVER_ERROR], [Said, No, Said]),
    Row("RetryPolicy.codes", on_internal, |c| retry(c).codes = vec![StatusCode::SERVICE_UNAVAILABLE], [Said, No, Said]),
    Row("RetryPolicy.on", retried, |c| retry(c).on = [RetryOn::Internal].into(), [Said, Said, Said]),
    Row("RetryPolicy.on", retried, |c| retry(c).on = [RetryOn::GatewayError].into(), [Said, Nothing, Said]),
    Row("RetryPolicy.on", retried, |c| retry(c).on = [RetryOn::ServerError].into(), [Said, No, Said]),
    Row("RetryPolicy.on", on_internal, |c| retry(c).on = [RetryOn::Unavailable].into(), [Said, Said, Said]),
    Row("RetryPolicy.on", on_internal, |c| retry(c).on = [RetryOn::GatewayError].into(), [Said, No, Said]),
    Row("RetryPolicy.on", on_internal, |c| retry(c).on = [RetryOn::Reset].into(), [Said, No, Said]),
    Row("RetryPolicy.on", on_internal, |c| retry(c).on = [RetryOn::ConnectFailure].into(), [Said, No, Said]),
    Row("RetryPolicy.on", on_internal, |c| retry(c).on = [RetryOn::RefusedStream].into(), [Said, No, Said]),
    Row("RetryPolicy.backoff", retried, |c| retry(c).backoff = Backoff::tenfold(Duration::from_millis(50)), [Said, Said, Said]),
    Row("Backoff.base", retried, |c| retry(c).backoff.base = Duration::from_millis(50), [Said, Said, Said]),
    Row("Backoff.max", retried, |c| retry(c).backoff.max = Duration::from_millis(50), [Said, Said, Said]),
    Row("RetryPolicy.methods", |c| {
        on_internal(c);
        route(c).matches.method = None;
    }, |c| retry(c).methods = RetryMethods::Any, [Said, Said, Said]),
    // The method is named, so that it is sent again anyway.
    Row("RetryPolicy.methods", retried, |c| retry(c).methods = RetryMethods::Any, [Said, Nothing, Nothing]),
    // Whatever a redirect says, a call fails.
    Row("Redirect.scheme", redirect, |c| redirected(c).scheme = Some(Scheme::Https), [Said, Nothing, Said]),
    Row("Redirect.host", redirect, |c| redirected(c).host = Some("x".to_owned()), [Said, Nothing, Said]),
    Row("Redirect.port", redirect, |c| redirected(c).port = NonZeroU16::new(81), [Said, Nothing, Said]),
    Row("Redirect.path", redirect, |c| redirected(c).path = Some(PathRewrite::Full("/x".to_owned())), [Said, Nothing, Said]),
    Row("Redirect.status", redirect, |c| redirected(c).status = StatusCode::SEE_OTHER, [Said, Nothing, Said]),
    Row("DirectResponse.status", respond, |c| responded(c).status = StatusCode::GONE, [Said, Nothing, Said]),
    Row("DirectResponse.body", respond, |c| responded(c).body = "x".to_owned(), [Said, Nothing, Said]),
];

#[test]
fn of_routes_each_client_is_told_what_it_can_do() {
    check(&routes(), ROUTES, route_fields(), |config| {
        let Sent { message, not_sent } = encode::grpc::route_config(config);
        let names = ["portal.citizen:80".to_owned(), "portal:80".to_owned()];
        let hosts = encode::envoy::hosts(&names, &config.virtual_hosts);
        let envoy = encode::envoy::outbound_routes(std::iter::once(&hosts));
        let of_envoy = hosts.not_sent(&encode::envoy::buckets(std::iter::once(&hosts)));
        [
            (encode::route_config(config), Vec::new()),
            (message, not_sent),
            (envoy, of_envoy),
        ]
    });
}

fields! { cluster_fields:
    Cluster {
        name, protocol, connect_timeout, balancing, limits, breaker, outlier_detection, health_check, slow_start, locality,
        pool, panic_percent, retry_budget, backend_tls, sources,
    }
    HealthCheck { kind, interval, timeout, unhealthy_threshold, healthy_threshold }
    SlowStart { window, aggression, min_weight_percent }
    LocalityPreference { overprovisioning_percent }
    ConnectionPool { idle_timeout, max_requests_per_connection, max_concurrent_streams }
    Limits { max_connections, max_pending, max_requests }
    FailureBreaker { failure_percent, min_requests, window, open_for, half_open_requests }
    OutlierDetection {
        consecutive_5xx_errors, consecutive_gateway_errors, consecutive_local_origin_failures, failure_percentage,
        interval, base_ejection_time, max_ejection_time, max_ejection_percent,
    }
    FailurePercentage { threshold, min_requests, min_hosts }
    RetryBudget { percent, min_per_second, window }
}

fn cluster() -> Cluster {
    Cluster {
        name: "portal.citizen:80".parse().expect("a name"),
        protocol: AppProtocol::Grpc,
        connect_timeout: Duration::from_secs(1),
        balancing: Balancing::RoundRobin,
        limits: Limits::default(),
        breaker: None,
        outlier_detection: None,
        health_check: None,
        slow_start: None,
        locality: None,
        pool: ConnectionPool::default(),
        panic_percent: 1,
        retry_budget: RetryBudget::default(),
        backend_tls: None,
        sources: Vec::new(),
    }
}

fn secured(cluster: &mut Cluster) {
    cluster.backend_tls = Some(BackendTls::Verified(Validation {
        hostname: "a.example".to_owned(),
        authorities: Authorities::Given(vec![Certificate(vec![1, 2, 3])]),
        subject_alt_names: Vec::new(),
    }));
}

fn validation(cluster: &mut Cluster) -> &mut Validation {
    match &mut cluster.backend_tls {
        Some(BackendTls::Verified(validation)) => {
            // Each has a row.
            let Validation {
                hostname: _,
                authorities: _,
                subject_alt_names: _,
            } = validation;
            validation
        }
        other => panic!("{other:?}"),
    }
}

fn closed(cluster: &mut Cluster) {
    cluster.backend_tls = Some(BackendTls::Closed {
        why: "there is no ConfigMap".to_owned(),
    });
}

fn speaks_http1(cluster: &mut Cluster) {
    cluster.protocol = AppProtocol::Http1;
}

fn breaks(cluster: &mut Cluster) {
    cluster.breaker = Some(FailureBreaker {
        failure_percent: 50,
        min_requests: 20,
        window: Duration::from_secs(10),
        open_for: Duration::from_secs(5),
        half_open_requests: 3,
    });
}

fn breaker(cluster: &mut Cluster) -> &mut FailureBreaker {
    cluster.breaker.as_mut().expect("a breaker")
}

/// What gRPC knows as well.
fn ejects(cluster: &mut Cluster) {
    cluster.outlier_detection = Some(OutlierDetection {
        consecutive_5xx_errors: None,
        consecutive_gateway_errors: None,
        consecutive_local_origin_failures: None,
        failure_percentage: Some(FailurePercentage {
            threshold: 85,
            min_requests: 50,
            min_hosts: 5,
        }),
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_percent: 10,
    });
}

fn warms(cluster: &mut Cluster) {
    cluster.slow_start = Some(SlowStart {
        window: Duration::from_secs(30),
        aggression: 1.0,
        min_weight_percent: 10,
    });
}

fn checks(cluster: &mut Cluster) {
    cluster.health_check = Some(HealthCheck {
        kind: HealthCheckKind::Http {
            host: None,
            path: "/healthz".to_owned(),
            expected: vec![StatusCode::OK],
        },
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    });
}

fn health_check(cluster: &mut Cluster) -> &mut HealthCheck {
    cluster.health_check.as_mut().expect("a check")
}

fn slow_start(cluster: &mut Cluster) -> &mut SlowStart {
    cluster.slow_start.as_mut().expect("a slow start")
}

fn stays_near(cluster: &mut Cluster) {
    cluster.locality = Some(LocalityPreference {
        overprovisioning_percent: 140,
    });
}

fn outlier(cluster: &mut Cluster) -> &mut OutlierDetection {
    cluster.outlier_detection.as_mut().expect("a rule")
}

fn share(cluster: &mut Cluster) -> &mut FailurePercentage {
    outlier(cluster).failure_percentage.as_mut().expect("a rule")
}

// That gRPC knows no connect timeout, retry budget and panic is in its list whatever they are, so that a change adds
// nothing there: `Nothing`, and tested below.
#[rustfmt::skip]
const CLUSTERS: &[Row<Cluster>] = &[
    Row("Cluster.name", nothing, |c| c.name = "portal.citizen:81".parse().expect("a name"), [Said, Said, Said]),
    // gRPC is HTTP/2; to weir proxies it makes a difference what their own answers are.
    Row("Cluster.protocol", nothing, |c| c.protocol = AppProtocol::Http2, [Said, Nothing, Nothing]),
    Row("Cluster.protocol", nothing, |c| c.protocol = AppProtocol::Http1, [Said, No, Said]),
    Row("Cluster.protocol", nothing, |c| c.protocol = AppProtocol::Tcp, [Said, No, No]),
    Row("Cluster.connect_timeout", nothing, |c| c.connect_timeout = Duration::from_secs(2), [Said, Nothing, Said]),
    Row("Cluster.balancing", nothing, |c| c.balancing = Balancing::PeakEwma { decay: Duration::from_secs(10) }, [Said, No, Said]),
    Row("Cluster.limits", nothing, |c| c.limits.max_requests = 1, [Said, Said, Said]),
    Row("Cluster.breaker", nothing, breaks, [Said, No, No]),
    Row("Cluster.outlier_detection", nothing, ejects, [Said, Said, Said]),
    Row("Cluster.health_check", nothing, checks, [Said, No, Said]),
    Row("HealthCheck.kind", checks, |c| health_check(c).kind = HealthCheckKind::Tcp, [Said, Nothing, Said]),
    Row("HealthCheck.kind", checks, |c| health_check(c).kind = HealthCheckKind::Grpc { service: String::new() }, [Said, Nothing, Said]),
    Row("HealthCheck.interval", checks, |c| health_check(c).interval = Duration::from_secs(9), [Said, Nothing, Said]),
    Row("HealthCheck.timeout", checks, |c| health_check(c).timeout = Duration::from_secs(9), [Said, Nothing, Said]),
    Row("HealthCheck.unhealthy_threshold", checks, |c| health_check(c).unhealthy_threshold = 9, [Said, Nothing, Said]),
    Row("HealthCheck.healthy_threshold", checks, |c| health_check(c).healthy_threshold = 9, [Said, Nothing, Said]),
    Row("Cluster.slow_start", nothing, warms, [Said, No, Said]),
    Row("Cluster.locality", nothing, stays_near, [Said, No, No]),
    Row("Cluster.pool", nothing, |c| c.pool.max_requests_per_connection = Some(9), [Said, No, Said]),
    // That it starts slowly, or stays near, is in the list whatever the rest is.
    Row("SlowStart.window", warms, |c| slow_start(c).window = Duration::from_secs(9), [Said, Nothing, Said]),
    Row("SlowStart.aggression", warms, |c| slow_start(c).aggression = 2.0, [Said, Nothing, Said]),
    Row("SlowStart.min_weight_percent", warms, |c| slow_start(c).min_weight_percent = 5, [Said, Nothing, Said]),
    Row("LocalityPreference.overprovisioning_percent", stays_near, |c| c.locality.as_mut().expect("one").overprovisioning_percent = 200, [Said, Nothing, Nothing]),
    Row("ConnectionPool.idle_timeout", nothing, |c| c.pool.idle_timeout = Duration::from_secs(9), [Said, No, Said]),
    Row("ConnectionPool.max_requests_per_connection", nothing, |c| c.pool.max_requests_per_connection = Some(9), [Said, No, Said]),
    // A gRPC client has nobody to show them to.
    Row("Cluster.sources", nothing, |c| c.sources = vec!["BackendPolicy/citizen/portal".to_owned()], [Said, Nothing, Said]),
    Row("ConnectionPool.max_concurrent_streams", nothing, |c| c.pool.max_concurrent_streams = Some(9), [Said, No, Said]),
    Row("ConnectionPool.max_concurrent_streams", speaks_http1, |c| c.pool.max_concurrent_streams = Some(9), [Said, Nothing, No]),
    Row("Cluster.panic_percent", nothing, |c| c.panic_percent = 50, [Said, Nothing, Said]),
    Row("OutlierDetection.consecutive_5xx_errors", ejects, |c| outlier(c).consecutive_5xx_errors = Some(5), [Said, No, Said]),
    Row("OutlierDetection.consecutive_gateway_errors", ejects, |c| outlier(c).consecutive_gateway_errors = Some(5), [Said, No, Said]),
    Row("OutlierDetection.consecutive_local_origin_failures", ejects, |c| outlier(c).consecutive_local_origin_failures = Some(5), [Said, No, Said]),
    Row("OutlierDetection.failure_percentage", ejects, |c| outlier(c).failure_percentage = None, [Said, Said, Said]),
    Row("OutlierDetection.interval", ejects, |c| outlier(c).interval = Duration::from_secs(1), [Said, Said, Said]),
    Row("OutlierDetection.base_ejection_time", ejects, |c| outlier(c).base_ejection_time = Duration::from_secs(1), [Said, Said, Said]),
    Row("OutlierDetection.max_ejection_time", ejects, |c| outlier(c).max_ejection_time = Duration::from_secs(99), [Said, Said, Said]),
    Row("OutlierDetection.max_ejection_percent", ejects, |c| outlier(c).max_ejection_percent = 50, [Said, Said, Said]),
    Row("FailurePercentage.threshold", ejects, |c| share(c).threshold = 50, [Said, Said, Said]),
    Row("FailurePercentage.min_requests", ejects, |c| share(c).min_requests = 5, [Said, Said, Said]),
    Row("FailurePercentage.min_hosts", ejects, |c| share(c).min_hosts = 2, [Said, Said, Said]),
    Row("Cluster.retry_budget", nothing, |c| c.retry_budget.percent = 1, [Said, Nothing, Said]),
    // What a gRPC client is not told of is not sent at all.
    Row("Cluster.backend_tls", nothing, secured, [Said, No, Said]),
    Row("Cluster.backend_tls", nothing, closed, [Said, No, Said]),
    Row("Cluster.backend_tls", secured, closed, [Said, Nothing, Said]),
    Row("Cluster.backend_tls", secured, |c| validation(c).hostname = "b.example".to_owned(), [Said, Nothing, Said]),
    Row("Cluster.backend_tls", secured, |c| validation(c).authorities = Authorities::System, [Said, Nothing, Said]),
    Row("Cluster.backend_tls", secured, |c| validation(c).subject_alt_names = vec![SubjectAltName::Uri("x://a".to_owned())], [Said, Nothing, Said]),
    Row("Cluster.backend_tls", secured, speaks_http1, [Said, No, Said]),
    // To an Envoy it is closed, whyever.
    Row("Cluster.backend_tls", closed, |c| c.backend_tls = Some(BackendTls::Closed { why: "x".to_owned() }), [Said, Nothing, Nothing]),
    Row("Limits.max_connections", nothing, |c| c.limits.max_connections = 1, [Said, No, Said]),
    Row("Limits.max_pending", nothing, |c| c.limits.max_pending = 1, [Said, No, Said]),
    Row("Limits.max_requests", nothing, |c| c.limits.max_requests = 1, [Said, Said, Said]),
    Row("FailureBreaker.failure_percent", breaks, |c| breaker(c).failure_percent = 1, [Said, Nothing, Nothing]),
    Row("FailureBreaker.min_requests", breaks, |c| breaker(c).min_requests = 1, [Said, Nothing, Nothing]),
    Row("FailureBreaker.window", breaks, |c| breaker(c).window = Duration::from_secs(1), [Said, Nothing, Nothing]),
    Row("FailureBreaker.open_for", breaks, |c| breaker(c).open_for = Duration::from_secs(1), [Said, Nothing, Nothing]),
    Row("FailureBreaker.half_open_requests", breaks, |c| breaker(c).half_open_requests = 1, [Said, Nothing, Nothing]),
    Row("RetryBudget.percent", nothing, |c| c.retry_budget.percent = 1, [Said, Nothing, Said]),
    Row("RetryBudget.min_per_second", nothing, |c| c.retry_budget.min_per_second = 1, [Said, Nothing, Said]),
    Row("RetryBudget.window", nothing, |c| c.retry_budget.window = Duration::from_secs(1), [Said, Nothing, Said]),
];

#[test]
fn of_clusters_each_client_is_told_what_it_can_do() {
    let encode = |cluster: &Cluster| {
        let told = |sent: Result<Sent, NotSent>| match sent {
            Ok(sent) => (sent.message, sent.not_sent),
            Err(not_sent) => (Any::default(), vec![not_sent]),
        };
        [
            (encode::cluster(cluster), Vec::new()),
            told(encode::grpc::cluster(cluster, &BTreeSet::new())),
            told(encode::envoy::cluster(cluster)),
        ]
    };
    check(&cluster(), CLUSTERS, cluster_fields(), encode);
    let said: Vec<String> = encode(&cluster())[1].1.iter().map(ToString::to_string).collect();
    let expect = ["connectTimeout", "retryBudget", "panicPercent"];
    let expect = expect.map(|field| format!("{field} is not known to a gRPC client"));
    assert_eq!(said, expect);
}

/// Who its endpoints are is told to a gRPC client that has certificates: each must be one of them.
#[test]
fn a_grpc_client_is_told_whom_it_must_find() {
    let peers: BTreeSet<Arc<SpiffeId>> = ["spiffe://td/ns/citizen/sa/b", "spiffe://td/ns/citizen/sa/a"]
        .map(|id| Arc::new(id.parse().expect("an id")))
        .into();
    let plain = encode::grpc::cluster(&cluster(), &BTreeSet::new()).expect("it can be said");
    let secured = encode::grpc::cluster(&cluster(), &peers).expect("it can be said");
    assert_eq!(plain.not_sent, secured.not_sent);
    let read = |sent: &Sent| wire::Cluster::decode(sent.message.value.as_slice()).expect("a cluster");
    assert_eq!(read(&plain).transport_socket, None);
    let mut told = read(&secured);
    let socket = told.transport_socket.take().expect("it is by TLS");
    assert_eq!(told, read(&plain), "the rest is the same");
    let Some(ConfigType::TypedConfig(context)) = socket.config_type else {
        panic!("{socket:?}");
    };
    let context = UpstreamTlsContext::decode(context.value.as_slice()).expect("a context");
    let context = context.common_tls_context.expect("it is there");
    let own = context.tls_certificate_provider_instance.expect("its own certificate");
    assert_eq!(own.instance_name, "weir");
    let Some(ValidationContextType::ValidationContext(validation)) = context.validation_context_type else {
        panic!("no validation");
    };
    let roots = validation.ca_certificate_provider_instance.expect("roots");
    assert_eq!(roots.instance_name, "weir");
    #[expect(deprecated, reason = "it is the field that gRPC's clients know")]
    let names = validation
        .match_subject_alt_names
        .into_iter()
        .map(|name| match name.match_pattern {
            Some(MatchPattern::Exact(name)) => name,
            other => panic!("{other:?}"),
        });
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["spiffe://td/ns/citizen/sa/a", "spiffe://td/ns/citizen/sa/b"]);
}

fields! { endpoint_fields:
    ClusterEndpoints { cluster, endpoints }
    Endpoint { address, health, locality, workload, peer, identity }
    Locality { region, zone, site }
}

fn endpoints() -> ClusterEndpoints {
    ClusterEndpoints {
        cluster: "portal.citizen:80".parse().expect("a name"),
        endpoints: vec![Endpoint {
            address: "10.0.0.1:80".parse().expect("an address"),
            health: EndpointHealth::Healthy,
            locality: Locality::default(),
            workload: None,
            peer: Peer::Plain,
            identity: None,
        }],
    }
}

#[rustfmt::skip]
const ENDPOINTS: &[Row<ClusterEndpoints>] = &[
    Row("ClusterEndpoints.cluster", nothing, |e| e.cluster = "portal.citizen:81".parse().expect("a name"), [Said, Said, Said]),
    Row("ClusterEndpoints.endpoints", nothing, |e| e.endpoints.clear(), [Said, Said, Said]),
    Row("Endpoint.address", nothing, |e| e.endpoints[0].address.set_port(81), [Said, Said, Said]),
    Row("Endpoint.health", nothing, |e| e.endpoints[0].health = EndpointHealth::Draining, [Said, Said, Said]),
    // gRPC uses the only one for want of a better one.
    Row("Endpoint.health", nothing, |e| e.endpoints[0].health = EndpointHealth::Unhealthy, [Said, Nothing, Said]),
    Row("Endpoint.locality", nothing, |e| e.endpoints[0].locality.zone = "z".to_owned(), [Said, Said, Said]),
    // Between weir proxies only.
    Row("Endpoint.workload", nothing, |e| e.endpoints[0].workload = "citizen/w".parse().ok(), [Said, Nothing, Nothing]),
    Row("Endpoint.peer", nothing, |e| e.endpoints[0].peer = Peer::WeirProxy, [Said, Nothing, Nothing]),
    // They reach it in cleartext, or not at all where that is refused: control-plane's statuses say so.
    Row("Endpoint.identity", nothing, |e| e.endpoints[0].identity = "spiffe://td/ns/citizen/sa/a".parse().ok().map(Arc::new), [Said, Nothing, Nothing]),
    Row("Locality.region", nothing, |e| e.endpoints[0].locality.region = "r".to_owned(), [Said, Said, Said]),
    Row("Locality.zone", nothing, |e| e.endpoints[0].locality.zone = "z".to_owned(), [Said, Said, Said]),
    Row("Locality.site", nothing, |e| e.endpoints[0].locality.site = "s".to_owned(), [Said, Said, Said]),
];

#[test]
fn of_endpoints_each_client_is_told_what_it_can_do() {
    check(&endpoints(), ENDPOINTS, endpoint_fields(), |endpoints| {
        [
            (encode::endpoints(endpoints), Vec::new()),
            (encode::grpc::endpoints(endpoints), Vec::new()),
            (encode::envoy::endpoints(endpoints), Vec::new()),
        ]
    });
}
