//! What would not be honoured is refused, with its place and what was held there.

#![allow(deprecated, reason = "a deprecated field is refused as any other")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, LbConfig, LeastRequestLbConfig, MaglevLbConfig, RoundRobinLbConfig,
    SlowStartConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::health_check::{
    CustomHealthCheck, GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck,
};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, DataSource, HealthCheck, HealthStatus, Http2ProtocolOptions, Locality, Metadata, address, data_source,
    transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, FilterConfig, HeaderMatcher, NonForwardingAction, RedirectAction, RetryPolicy, Route,
    RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy as tcp};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type as SecretType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, Secret, SpiffeCertValidatorConfig, SubjectAltNameMatcher,
    UpstreamTlsContext,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::{Int64Range, Percent};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as WireDuration, UInt32Value};
use http::StatusCode;
use prost::{Message, Name};
use weir_policy::backend_tls::{Authorities, BackendTls, Certificate, SubjectAltName, Validation};
use weir_policy::context::Priority;
use weir_policy::egress::Egress;
use weir_policy::model::{self, *};
use weir_policy::mutual_tls::{Mode, MutualTls};
use weir_policy::roots::RootsName;
use weir_policy::telemetry::{AccessLog, ExcludedPath, SpanTag, Telemetry};
use weir_xds::{Problem, Rejection, ResourceType, decode, encode, v1};

/// What a change of a sound message leads to.
type Refused = (&'static str, fn(&Problem) -> bool);

macro_rules! refused {
    ($path:expr, $problem:pat) => {
        ($path, |problem| matches!(problem, $problem))
    };
}

#[track_caller]
fn check(result: Result<(), Rejection>, (path, problem): Refused) {
    let rejection = result.expect_err(path);
    assert_eq!(rejection.path, path, "{rejection}");
    assert!(problem(&rejection.problem), "{rejection:?}");
}

fn changed<M: Message + Name + Default>(sound: &Any, change: impl FnOnce(&mut M)) -> Any {
    let mut message = M::decode(sound.value.as_slice()).expect("what was encoded");
    change(&mut message);
    pack(&message)
}

fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn wire(duration: Duration) -> Option<WireDuration> {
    Some(WireDuration {
        seconds: duration.as_secs().try_into().expect("a short time"),
        nanos: 0,
    })
}

// ---- routes ----

fn sound_routes() -> Any {
    let header = |name: &'static str| (http::HeaderName::from_static(name), http::HeaderValue::from_static("v"));
    let changes = HeaderChanges {
        remove: vec![http::HeaderName::from_static("r")],
        set: vec![header("s")],
        add: vec![header("a")],
    };
    let backend = |name: &str, weight| WeightedBackend {
        cluster: name.parse().expect("a name"),
        weight,
        filters: BackendFilters {
            redirect: (weight == 1).then(|| Redirect {
                scheme: None,
                host: Some("h".to_owned()),
                port: None,
                path: None,
                status: http::StatusCode::FOUND,
            }),
            ..BackendFilters::default()
        },
    };
    let forward = model::Route {
        name: "first".to_owned(),
        matches: model::RouteMatch {
            path: PathMatch::Prefix("/query".to_owned()),
            method: Some(http::Method::GET),
            headers: vec![HeaderMatch {
                name: http::HeaderName::from_static("x-city"),
                value: ValueMatch::Exact("hz".to_owned()),
            }],
            query: vec![QueryMatch {
                name: "debug".to_owned(),
                value: ValueMatch::Exact("1".to_owned()),
            }],
        },
        request_headers: changes.clone(),
        response_headers: changes,
        cors: Some(model::Cors {
            origins: Listed::These(vec![OriginMatch {
                scheme: Scheme::Https,
                host: HostMatch::Suffix("example.org".to_owned()),
                port: Scheme::Https.port(),
            }]),
            credentials: true,
            methods: Listed::These(vec![http::Method::PUT]),
            request_fields: Listed::Any,
            exposed_fields: Listed::These(vec![http::HeaderName::from_static("x-a")]),
            max_age_seconds: 5,
        }),
        rate_limit: Some(model::RateLimit {
            name: "r".to_owned(),
            requests: 5,
            per: Duration::from_secs(1),
            burst: 2,
        }),
        fault: Some(model::Fault {
            delay: Some(model::FaultDelay {
                parts_per_million: 1,
                duration: Duration::from_secs(1),
            }),
            abort: Some(model::FaultAbort {
                parts_per_million: 1,
                answer: model::AbortAnswer::Grpc(14),
            }),
        }),
        priority: Priority::from_level(2),
        policy: Some(model::HeldPolicy {
            name: "RoutePolicy/a/b".to_owned(),
            fields: vec!["priority".to_owned(), "mirror".to_owned()],
        }),
        action: model::Action::Forward(Forward {
            backends: vec![backend("a.b:80", 9), backend("c.b:80", 1)],
            mirrors: vec![Mirror {
                cluster: "d.b:80".parse().expect("a name"),
                parts_per_million: 10_000,
            }],
            rewrite: Rewrite {
                host: Some("h".to_owned()),
                path: Some(PathRewrite::Prefix("/q".to_owned())),
            },
            timeouts: Timeouts {
                request: Some(Duration::from_secs(2)),
                backend_request: Some(Duration::from_secs(1)),
            },
            retry: Some(model::RetryPolicy {
                attempts: 2,
                on: model::RetryOn::no_answer(),
                codes: vec![http::StatusCode::BAD_GATEWAY],
                backoff: model::Backoff::tenfold(Duration::from_secs(1)),
                methods: model::RetryMethods::Any,
            }),
        }),
    };
    let route = |name: &str, action| model::Route {
        name: name.to_owned(),
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        rate_limit: None,
        fault: None,
        priority: None,
        policy: None,
        action,
        ..forward.clone()
    };
    let redirect = model::Action::Redirect(Redirect {
        scheme: Some(Scheme::Https),
        host: Some("h".to_owned()),
        port: None,
        path: None,
        status: http::StatusCode::FOUND,
    });
    let respond = model::Action::Respond(DirectResponse {
        status: http::StatusCode::NOT_FOUND,
        body: "none".to_owned(),
    });
    let nowhere = model::Action::Forward(Forward {
        backends: vec![backend("a.b:80", 0)],
        mirrors: Vec::new(),
        rewrite: Rewrite::default(),
        timeouts: Timeouts::default(),
        retry: None,
    });
    encode::route_config(&RouteConfig {
        name: "s.n:80/*".parse().expect("a name"),
        virtual_hosts: vec![model::VirtualHost {
            name: "host".to_owned(),
            hosts: vec![HostMatch::Any],
            routes: vec![
                forward.clone(),
                route("second", redirect),
                route("third", respond),
                route("fourth", nowhere),
            ],
        }],
    })
}

#[track_caller]
fn config(change: impl FnOnce(&mut RouteConfiguration), refused: Refused) {
    let any = changed(&sound_routes(), change);
    check(decode::route_config(&any).map(drop), refused);
}

#[track_caller]
fn host(change: impl FnOnce(&mut VirtualHost), refused: Refused) {
    config(|wire| change(&mut wire.virtual_hosts[0]), refused);
}

#[track_caller]
fn route(i: usize, change: impl FnOnce(&mut Route), refused: Refused) {
    host(|wire| change(&mut wire.routes[i]), refused);
}

#[track_caller]
fn matches(change: impl FnOnce(&mut RouteMatch), refused: Refused) {
    route(0, |wire| change(wire.r#match.as_mut().expect("a match")), refused);
}

#[track_caller]
fn path(specifier: PathSpecifier, refused: Refused) {
    matches(|wire| wire.path_specifier = Some(specifier), refused);
}

#[track_caller]
fn header(change: impl FnOnce(&mut HeaderMatcher), refused: Refused) {
    matches(|wire| change(&mut wire.headers[1]), refused);
}

#[track_caller]
fn forward(change: impl FnOnce(&mut RouteAction), refused: Refused) {
    route(
        0,
        |wire| match &mut wire.action {
            Some(Action::Route(action)) => change(action),
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[track_caller]
fn weighted(change: impl FnOnce(&mut WeightedCluster), refused: Refused) {
    forward(
        |wire| match &mut wire.cluster_specifier {
            Some(ClusterSpecifier::WeightedClusters(clusters)) => change(clusters),
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[track_caller]
fn retry(change: impl FnOnce(&mut RetryPolicy), refused: Refused) {
    forward(|wire| change(wire.retry_policy.as_mut().expect("a policy")), refused);
}

#[track_caller]
fn cors(change: impl FnOnce(&mut CorsPolicy), refused: Refused) {
    route(
        0,
        |wire| {
            let policy = wire.typed_per_filter_config.get_mut(CORS).expect("a policy");
            *policy = changed(policy, change);
        },
        refused,
    );
}

#[track_caller]
fn redirect(change: impl FnOnce(&mut RedirectAction), refused: Refused) {
    route(
        1,
        |wire| match &mut wire.action {
            Some(Action::Redirect(action)) => change(action),
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[track_caller]
fn respond(change: impl FnOnce(&mut DirectResponseAction), refused: Refused) {
    route(
        2,
        |wire| match &mut wire.action {
            Some(Action::DirectResponse(action)) => change(action),
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[track_caller]
fn no_backend(change: impl FnOnce(&mut RouteAction), refused: Refused) {
    route(
        3,
        |wire| {
            let ours = &mut wire.metadata.as_mut().expect("metadata").typed_filter_metadata;
            let any = ours.get_mut("weir.dev").expect("ours");
            *any = changed(any, |noted: &mut v1::NoBackend| {
                noted.route = Some(changed(noted.route.as_ref().expect("a route"), change));
            });
        },
        refused,
    );
}

#[test]
fn the_sound_messages_are_accepted() {
    let accepted = |result: Result<(), Rejection>| result.expect("it is sound");
    accepted(decode::route_config(&sound_routes()).map(drop));
    accepted(decode::listener(&sound_listener()).map(drop));
    accepted(decode::cluster(&sound_cluster()).map(drop));
    accepted(decode::endpoints(&sound_endpoints()).map(drop));
}

#[test]
fn route_configurations() {
    config(
        |c| c.name = "s.n:80".to_owned(),
        refused!("name", Problem::Malformed { .. }),
    );
    config(
        |c| c.request_headers_to_remove.push("x".to_owned()),
        refused!("request_headers_to_remove", Problem::WithoutEffect),
    );
    config(
        |c| c.validate_clusters = Some(BoolValue { value: false }),
        refused!("validate_clusters", Problem::WithoutEffect),
    );
    config(
        |c| c.ignore_port_in_host_matching = false,
        refused!("ignore_port_in_host_matching", Problem::Unsupported { .. }),
    );
    config(
        |c| c.virtual_hosts.push(c.virtual_hosts[0].clone()),
        refused!("virtual_hosts[1].domains[0]", Problem::Duplicate),
    );
}

#[test]
fn virtual_hosts() {
    host(|h| h.name.clear(), refused!("virtual_hosts[0].name", Problem::Missing));
    host(
        |h| h.domains.clear(),
        refused!("virtual_hosts[0].domains", Problem::Missing),
    );
    for domain in [
        "", "A", "a:80", "a.*", "*a", "*.", "a..b", "*.*.a", "[::1", "[a]", "a/b",
    ] {
        host(
            |h| h.domains = vec!["ok".to_owned(), domain.to_owned()],
            refused!("virtual_hosts[0].domains[1]", Problem::Malformed { .. }),
        );
    }
    host(
        |h| h.require_tls = 2,
        refused!("virtual_hosts[0].require_tls", Problem::WithoutEffect),
    );
    host(
        |h| h.require_tls = 77,
        refused!("virtual_hosts[0].require_tls", Problem::WithoutEffect),
    );
    host(
        |h| h.retry_policy = Some(RetryPolicy::default()),
        refused!("virtual_hosts[0].retry_policy", Problem::WithoutEffect),
    );
    host(
        |h| h.typed_per_filter_config = [("f".to_owned(), Any::default())].into(),
        refused!("virtual_hosts[0].typed_per_filter_config", Problem::WithoutEffect),
    );
    host(
        |h| h.routes[1].name = "first".to_owned(),
        refused!("virtual_hosts[0].routes[1].name", Problem::Duplicate),
    );
}

#[test]
fn routes() {
    route(
        0,
        |r| r.name.clear(),
        refused!("virtual_hosts[0].routes[0].name", Problem::Missing),
    );
    route(
        0,
        |r| r.r#match = None,
        refused!("virtual_hosts[0].routes[0].match", Problem::Missing),
    );
    route(
        0,
        |r| r.action = None,
        refused!("virtual_hosts[0].routes[0].route", Problem::Missing),
    );
    route(
        0,
        |r| r.action = Some(Action::NonForwardingAction(NonForwardingAction {})),
        refused!(
            "virtual_hosts[0].routes[0].non_forwarding_action",
            Problem::WithoutEffect
        ),
    );
    route(
        0,
        |r| r.stat_prefix = "s".to_owned(),
        refused!("virtual_hosts[0].routes[0].stat_prefix", Problem::WithoutEffect),
    );
    route(
        0,
        |r| r.request_headers_to_add[0].append_action = 9,
        refused!(
            "virtual_hosts[0].routes[0].request_headers_to_add[0].append_action",
            Problem::UnknownValue
        ),
    );
    route(
        0,
        |r| r.request_headers_to_add[0].append_action = 1,
        refused!(
            "virtual_hosts[0].routes[0].request_headers_to_add[0].append_action",
            Problem::Unsupported { .. }
        ),
    );
    route(
        0,
        |r| r.response_headers_to_add.reverse(),
        refused!(
            "virtual_hosts[0].routes[0].response_headers_to_add[1].append_action",
            Problem::Unsupported { .. }
        ),
    );
    route(
        0,
        |r| r.response_headers_to_remove[0] = ":status".to_owned(),
        refused!(
            "virtual_hosts[0].routes[0].response_headers_to_remove[0]",
            Problem::Malformed { .. }
        ),
    );
}

const CORS: &str = "envoy.filters.http.cors";

macro_rules! cors_field {
    ($field:literal) => {
        concat!(
            "virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.cors\"]",
            $field
        )
    };
}

#[test]
fn cross_origin_policies() {
    route(
        0,
        |r| {
            let policy = r.typed_per_filter_config.remove(CORS).expect("a policy");
            r.typed_per_filter_config
                .insert("envoy.filters.http.rbac".to_owned(), policy);
        },
        refused!(
            "virtual_hosts[0].routes[0].typed_per_filter_config",
            Problem::WithoutEffect
        ),
    );
    route(
        0,
        |r| {
            let other = pack(&FilterConfig::default());
            r.typed_per_filter_config.insert(CORS.to_owned(), other);
        },
        refused!(cors_field!(""), Problem::UnknownType { .. }),
    );
    // To pass a preflight on is what is published where nothing is said.
    cors(
        |c| c.forward_not_matching_preflights = None,
        refused!(
            cors_field!(".forward_not_matching_preflights"),
            Problem::Unsupported { .. }
        ),
    );
    cors(
        |c| c.filter_enabled = Some(Default::default()),
        refused!(cors_field!(".filter_enabled"), Problem::WithoutEffect),
    );
    cors(
        |c| c.shadow_enabled = Some(Default::default()),
        refused!(cors_field!(".shadow_enabled"), Problem::WithoutEffect),
    );
    cors(
        |c| c.allow_private_network_access = Some(BoolValue { value: true }),
        refused!(cors_field!(".allow_private_network_access"), Problem::WithoutEffect),
    );
    for age in ["", "0", "-1", "5s"] {
        cors(
            |c| c.max_age = age.to_owned(),
            refused!(cors_field!(".max_age"), Problem::Malformed { .. }),
        );
    }
    for list in ["PUT,", "PUT, *", "a b"] {
        cors(
            |c| c.allow_methods = list.to_owned(),
            refused!(cors_field!(".allow_methods"), Problem::Malformed { .. }),
        );
        cors(
            |c| c.expose_headers = list.to_owned(),
            refused!(cors_field!(".expose_headers"), Problem::Malformed { .. }),
        );
    }
    cors(
        |c| c.allow_headers = "x-a, X-A".to_owned(),
        refused!(cors_field!(".allow_headers"), Problem::Duplicate),
    );
}

#[test]
fn origins_of_pages() {
    fn origin(pattern: MatchPattern, refused: Refused) {
        cors(
            |c| c.allow_origin_string_match[0].match_pattern = Some(pattern),
            refused,
        );
    }
    let unsupported = |field| {
        (
            field,
            (|problem| matches!(problem, Problem::Unsupported { .. })) as fn(&Problem) -> bool,
        )
    };
    let regex = |regex: &str| {
        MatchPattern::SafeRegex(RegexMatcher {
            regex: regex.to_owned(),
            engine_type: None,
        })
    };
    cors(
        |c| c.allow_origin_string_match[0].match_pattern = None,
        refused!(cors_field!(".allow_origin_string_match[0]"), Problem::Missing),
    );
    cors(
        |c| c.allow_origin_string_match[0].ignore_case = true,
        refused!(
            cors_field!(".allow_origin_string_match[0].ignore_case"),
            Problem::WithoutEffect
        ),
    );
    cors(
        |c| c.allow_origin_string_match.push(c.allow_origin_string_match[0].clone()),
        refused!(
            cors_field!(".allow_origin_string_match[1].safe_regex"),
            Problem::Duplicate
        ),
    );
    // `*` is an expression for nothing, and stands alone.
    cors(
        |c| {
            let every = MatchPattern::Exact("*".to_owned());
            c.allow_origin_string_match.push(StringMatcher {
                match_pattern: Some(every),
                ..StringMatcher::default()
            });
        },
        unsupported(cors_field!(".allow_origin_string_match[1].exact")),
    );
    for pattern in [".*", r"https://.*\.example\.org", r"https://a.example\.org(:443)?"] {
        origin(
            regex(pattern),
            unsupported(cors_field!(".allow_origin_string_match[0].safe_regex")),
        );
    }
    origin(
        MatchPattern::Exact("a.example.org".to_owned()),
        unsupported(cors_field!(".allow_origin_string_match[0].exact")),
    );
    origin(
        MatchPattern::Exact("https://A/b".to_owned()),
        refused!(
            cors_field!(".allow_origin_string_match[0].exact"),
            Problem::Malformed { .. }
        ),
    );
    origin(
        MatchPattern::Prefix("https://".to_owned()),
        unsupported(cors_field!(".allow_origin_string_match[0].prefix")),
    );
    origin(
        MatchPattern::Suffix(".example.org".to_owned()),
        unsupported(cors_field!(".allow_origin_string_match[0].suffix")),
    );
    origin(
        MatchPattern::Contains("example".to_owned()),
        unsupported(cors_field!(".allow_origin_string_match[0].contains")),
    );
}

#[test]
fn values_of_headers() {
    for (value, raw) in [
        ("a\nb", &b""[..]),
        ("%REQ(x)%", b""),
        ("100%", b""),
        ("", b"a\x00"),
        ("", b"%"),
    ] {
        let field = if raw.is_empty() { "value" } else { "raw_value" };
        let path = format!("virtual_hosts[0].routes[0].request_headers_to_add[0].header.{field}");
        let any = changed(&sound_routes(), |c: &mut RouteConfiguration| {
            let option = &mut c.virtual_hosts[0].routes[0].request_headers_to_add[0];
            let header = option.header.as_mut().expect("a header");
            (header.value, header.raw_value) = (value.to_owned(), raw.to_owned());
        });
        let rejection = decode::route_config(&any).expect_err(value);
        assert_eq!(rejection.path, path);
        assert!(matches!(rejection.problem, Problem::Malformed { .. }), "{rejection}");
    }
}

#[test]
fn conditions() {
    matches(
        |m| m.case_sensitive = Some(BoolValue { value: false }),
        refused!(
            "virtual_hosts[0].routes[0].match.case_sensitive",
            Problem::Unsupported { .. }
        ),
    );
    matches(
        |m| m.path_specifier = None,
        refused!("virtual_hosts[0].routes[0].match.path", Problem::Missing),
    );
    path(
        PathSpecifier::Prefix("/abc".to_owned()),
        refused!("virtual_hosts[0].routes[0].match.prefix", Problem::Unsupported { .. }),
    );
    for prefix in ["", "/", "/abc/", "abc", "/a?b", "/a b", "/%2", "/%zz", "/字"] {
        path(
            PathSpecifier::PathSeparatedPrefix(prefix.to_owned()),
            refused!(
                "virtual_hosts[0].routes[0].match.path_separated_prefix",
                Problem::Malformed { .. }
            ),
        );
    }
    path(
        PathSpecifier::Path("/".repeat(4097)),
        refused!("virtual_hosts[0].routes[0].match.path", Problem::Malformed { .. }),
    );
    for (regex, problem) in [(String::new(), true), ("a".repeat(4097), false)] {
        let any = changed(&sound_routes(), |c: &mut RouteConfiguration| {
            let matches = c.virtual_hosts[0].routes[0].r#match.as_mut().expect("a match");
            matches.path_specifier = Some(PathSpecifier::SafeRegex(
                envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher {
                    regex,
                    engine_type: None,
                },
            ));
        });
        let rejection = decode::route_config(&any).expect_err("no expression");
        assert_eq!(rejection.path, "virtual_hosts[0].routes[0].match.safe_regex.regex");
        assert_eq!(rejection.problem == Problem::Missing, problem, "{rejection}");
    }
    header(
        |h| h.invert_match = true,
        refused!(
            "virtual_hosts[0].routes[0].match.headers[1].invert_match",
            Problem::WithoutEffect
        ),
    );
    header(
        |h| h.name = ":method".to_owned(),
        refused!("virtual_hosts[0].routes[0].match.headers[1].name", Problem::Duplicate),
    );
    header(
        |h| h.name = ":path".to_owned(),
        refused!(
            "virtual_hosts[0].routes[0].match.headers[1].name",
            Problem::Malformed { .. }
        ),
    );
    header(
        |h| h.header_match_specifier = None,
        refused!(
            "virtual_hosts[0].routes[0].match.headers[1].string_match",
            Problem::Missing
        ),
    );
    header(
        |h| h.header_match_specifier = Some(HeaderMatchSpecifier::PresentMatch(true)),
        refused!(
            "virtual_hosts[0].routes[0].match.headers[1]",
            Problem::Unsupported { .. }
        ),
    );
    header(
        |h| match &mut h.header_match_specifier {
            Some(HeaderMatchSpecifier::StringMatch(value)) => value.ignore_case = true,
            other => panic!("{other:?}"),
        },
        refused!(
            "virtual_hosts[0].routes[0].match.headers[1].string_match.ignore_case",
            Problem::WithoutEffect
        ),
    );
    header(
        |h| match &mut h.header_match_specifier {
            Some(HeaderMatchSpecifier::StringMatch(value)) => {
                value.match_pattern = Some(MatchPattern::Prefix("h".to_owned()));
            }
            other => panic!("{other:?}"),
        },
        refused!(
            "virtual_hosts[0].routes[0].match.headers[1].string_match",
            Problem::Unsupported { .. }
        ),
    );
    header(
        |h| match &mut h.header_match_specifier {
            Some(HeaderMatchSpecifier::StringMatch(value)) => {
                value.match_pattern = Some(MatchPattern::Exact("a\r\nb".to_owned()));
            }
            other => panic!("{other:?}"),
        },
        refused!(
            "virtual_hosts[0].routes[0].match.headers[1].string_match.exact",
            Problem::Malformed { .. }
        ),
    );
    matches(
        |m| m.headers.push(m.headers[1].clone()),
        refused!("virtual_hosts[0].routes[0].match.headers[2].name", Problem::Duplicate),
    );
    matches(
        |m| m.query_parameters.push(m.query_parameters[0].clone()),
        refused!(
            "virtual_hosts[0].routes[0].match.query_parameters[1].name",
            Problem::Duplicate
        ),
    );
    matches(
        |m| {
            let present = QueryParameterMatchSpecifier::PresentMatch(true);
            m.query_parameters[0].query_parameter_match_specifier = Some(present);
        },
        refused!(
            "virtual_hosts[0].routes[0].match.query_parameters[0]",
            Problem::Unsupported { .. }
        ),
    );
}

#[test]
fn forwarding() {
    forward(
        |f| f.timeout = Some(WireDuration { seconds: -1, nanos: 0 }),
        refused!("virtual_hosts[0].routes[0].route.timeout", Problem::OutOfRange { .. }),
    );
    forward(
        |f| {
            f.timeout = Some(WireDuration {
                seconds: 1,
                nanos: 1_000_000_000,
            })
        },
        refused!("virtual_hosts[0].routes[0].route.timeout", Problem::OutOfRange { .. }),
    );
    forward(
        |f| {
            f.timeout = Some(WireDuration {
                seconds: 9_000_000_000,
                nanos: 1,
            })
        },
        refused!("virtual_hosts[0].routes[0].route.timeout", Problem::OutOfRange { .. }),
    );
    forward(
        |f| {
            f.timeout = Some(WireDuration {
                seconds: i64::MAX,
                nanos: 0,
            })
        },
        refused!("virtual_hosts[0].routes[0].route.timeout", Problem::OutOfRange { .. }),
    );
    forward(
        |f| f.idle_timeout = wire(Duration::from_secs(1)),
        refused!("virtual_hosts[0].routes[0].route.idle_timeout", Problem::WithoutEffect),
    );
    forward(
        |f| f.cluster_not_found_response_code = 0,
        refused!(
            "virtual_hosts[0].routes[0].route.cluster_not_found_response_code",
            Problem::Unsupported { .. }
        ),
    );
    forward(
        |f| f.cluster_specifier = None,
        refused!("virtual_hosts[0].routes[0].route.cluster", Problem::Missing),
    );
    forward(
        |f| f.cluster_specifier = Some(ClusterSpecifier::Cluster("a.b".to_owned())),
        refused!("virtual_hosts[0].routes[0].route.cluster", Problem::Malformed { .. }),
    );
    forward(
        |f| f.cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".to_owned())),
        refused!(
            "virtual_hosts[0].routes[0].route.cluster_header",
            Problem::Unsupported { .. }
        ),
    );
    forward(
        |f| f.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral("a b".to_owned())),
        refused!(
            "virtual_hosts[0].routes[0].route.host_rewrite_literal",
            Problem::Malformed { .. }
        ),
    );
    forward(
        |f| f.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteHeader("x".to_owned())),
        refused!(
            "virtual_hosts[0].routes[0].route.host_rewrite_header",
            Problem::WithoutEffect
        ),
    );
    forward(
        |f| f.prefix_rewrite = "/q/".to_owned(),
        refused!(
            "virtual_hosts[0].routes[0].route.prefix_rewrite",
            Problem::Unsupported { .. }
        ),
    );
    forward(
        |f| f.prefix_rewrite = "q".to_owned(),
        refused!(
            "virtual_hosts[0].routes[0].route.prefix_rewrite",
            Problem::Malformed { .. }
        ),
    );
    matches(
        |m| m.path_specifier = Some(PathSpecifier::Path("/query".to_owned())),
        refused!(
            "virtual_hosts[0].routes[0].route.prefix_rewrite",
            Problem::Unsupported { .. }
        ),
    );
    matches(
        |m| m.path_specifier = Some(PathSpecifier::Prefix("/".to_owned())),
        refused!(
            "virtual_hosts[0].routes[0].route.prefix_rewrite",
            Problem::Unsupported { .. }
        ),
    );
}

#[test]
fn rewrites_by_expression() {
    use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
    let regex = |pattern: &str, substitution: &str| {
        Some(RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher {
                regex: pattern.to_owned(),
                engine_type: None,
            }),
            substitution: substitution.to_owned(),
        })
    };
    forward(
        |f| (f.prefix_rewrite, f.regex_rewrite) = (String::new(), regex("^/a/(.*)$", "/\\1")),
        refused!(
            "virtual_hosts[0].routes[0].route.regex_rewrite.substitution",
            Problem::Malformed { .. }
        ),
    );
    forward(
        |f| (f.prefix_rewrite, f.regex_rewrite) = (String::new(), regex("^/other/*", "/")),
        refused!(
            "virtual_hosts[0].routes[0].route.regex_rewrite.pattern",
            Problem::Unsupported { .. }
        ),
    );
    forward(
        |f| f.regex_rewrite = regex("^/query/*", "/"),
        refused!(
            "virtual_hosts[0].routes[0].route.prefix_rewrite",
            Problem::WithoutEffect
        ),
    );
}

#[test]
fn weights() {
    weighted(
        |w| w.total_weight = Some(UInt32Value { value: 10 }),
        refused!(
            "virtual_hosts[0].routes[0].route.weighted_clusters.total_weight",
            Problem::WithoutEffect
        ),
    );
    weighted(
        |w| w.clusters[1].weight = None,
        refused!(
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters[1].weight",
            Problem::Missing
        ),
    );
    weighted(
        |w| w.clusters[1].weight = Some(UInt32Value { value: u32::MAX }),
        refused!(
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters",
            Problem::OutOfRange { .. }
        ),
    );
    weighted(
        |w| w.clusters.clear(),
        refused!(
            "virtual_hosts[0].routes[0].route.weighted_clusters",
            Problem::OutOfRange { .. }
        ),
    );
    weighted(
        |w| w.clusters[0].request_headers_to_remove = vec![":path".to_owned()],
        refused!(
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].request_headers_to_remove[0]",
            Problem::Malformed { .. }
        ),
    );
    weighted(
        |w| w.clusters[0].cluster_header = "x".to_owned(),
        refused!(
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].cluster_header",
            Problem::WithoutEffect
        ),
    );
    let config = |change: fn(&mut HashMap<String, Any>)| {
        move |w: &mut WeightedCluster| change(&mut w.clusters[1].typed_per_filter_config)
    };
    weighted(
        config(|configs| {
            let own = configs.remove("weir.dev").expect("weir's");
            configs.insert("other".to_owned(), own);
        }),
        refused!(
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters[1].typed_per_filter_config",
            Problem::WithoutEffect
        ),
    );
    weighted(
        config(|configs| {
            for any in configs.values_mut() {
                *any = changed(any, |own: &mut FilterConfig| own.is_optional = false);
            }
        }),
        refused!(
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters[1].typed_per_filter_config[\"weir.dev\"].is_optional",
            Problem::Unsupported { .. }
        ),
    );
}

#[test]
fn mirrors() {
    let mirror = |change: fn(&mut RequestMirrorPolicy), refused: Refused| {
        forward(|wire| change(&mut wire.request_mirror_policies[0]), refused);
    };
    mirror(
        |m| m.cluster.clear(),
        refused!(
            "virtual_hosts[0].routes[0].route.request_mirror_policies[0].cluster",
            Problem::Malformed { .. }
        ),
    );
    mirror(
        |m| m.disable_shadow_host_suffix_append = false,
        refused!(
            "virtual_hosts[0].routes[0].route.request_mirror_policies[0].disable_shadow_host_suffix_append",
            Problem::Unsupported { .. }
        ),
    );
    mirror(
        |m| m.host_rewrite_literal = "x".to_owned(),
        refused!(
            "virtual_hosts[0].routes[0].route.request_mirror_policies[0].host_rewrite_literal",
            Problem::WithoutEffect
        ),
    );
    mirror(
        |m| {
            let fraction = m.runtime_fraction.as_mut().expect("a fraction");
            fraction.default_value.as_mut().expect("a value").numerator = 1_000_001;
        },
        refused!(
            "virtual_hosts[0].routes[0].route.request_mirror_policies[0].runtime_fraction.default_value.numerator",
            Problem::OutOfRange { .. }
        ),
    );
}

/// Changes what the first route says to a filter.
#[track_caller]
fn filter<M: Message + Name + Default>(name: &str, change: impl FnOnce(&mut M), refused: Refused) {
    route(
        0,
        |wire| {
            let config = wire.typed_per_filter_config.get_mut(name).expect("its configuration");
            *config = changed(config, change);
        },
        refused,
    );
}

#[test]
fn filters_of_routes() {
    route(
        0,
        |r| {
            r.typed_per_filter_config.insert("f".to_owned(), Any::default());
        },
        refused!(
            "virtual_hosts[0].routes[0].typed_per_filter_config",
            Problem::WithoutEffect
        ),
    );
    let limit =
        |change: fn(&mut LocalRateLimit), refused| filter("envoy.filters.http.local_ratelimit", change, refused);
    macro_rules! at_limit {
        ($field:literal, $problem:pat) => {
            refused!(
                concat!(
                    "virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.local_ratelimit\"].",
                    $field
                ),
                $problem
            )
        };
    }
    limit(|l| l.stage = 1, at_limit!("stage", Problem::WithoutEffect));
    limit(|l| l.stat_prefix.clear(), at_limit!("stat_prefix", Problem::Missing));
    limit(
        |l| l.filter_enabled = None,
        at_limit!("filter_enabled", Problem::Missing),
    );
    limit(
        |l| {
            let share = l.filter_enforced.as_mut().expect("a share");
            share.default_value.as_mut().expect("a value").numerator = 1;
        },
        at_limit!("filter_enforced.default_value", Problem::Unsupported { .. }),
    );
    limit(
        |l| l.rate_limited_as_resource_exhausted = false,
        at_limit!("rate_limited_as_resource_exhausted", Problem::Unsupported { .. }),
    );
    limit(
        |l| l.enable_retry_after_header = false,
        at_limit!("enable_retry_after_header", Problem::Unsupported { .. }),
    );
    limit(|l| l.token_bucket = None, at_limit!("token_bucket", Problem::Missing));
    limit(
        |l| l.token_bucket.as_mut().expect("one").max_tokens = 0,
        at_limit!("token_bucket.max_tokens", Problem::OutOfRange { .. }),
    );
    limit(
        |l| l.token_bucket.as_mut().expect("one").tokens_per_fill = Some(UInt32Value { value: 0 }),
        at_limit!("token_bucket.tokens_per_fill", Problem::OutOfRange { .. }),
    );
    limit(
        |l| l.token_bucket.as_mut().expect("one").fill_interval = None,
        at_limit!("token_bucket.fill_interval", Problem::Missing),
    );
    let fault = |change: fn(&mut HttpFault), refused| filter("envoy.filters.http.fault", change, refused);
    macro_rules! at_fault {
        ($field:literal, $problem:pat) => {
            refused!(
                concat!(
                    "virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.fault\"].",
                    $field
                ),
                $problem
            )
        };
    }
    fault(
        |f| f.upstream_cluster = "a".to_owned(),
        at_fault!("upstream_cluster", Problem::WithoutEffect),
    );
    fault(
        |f| f.delay.as_mut().expect("one").percentage = None,
        at_fault!("delay.percentage", Problem::Missing),
    );
    fault(
        |f| f.delay.as_mut().expect("one").fault_delay_secifier = None,
        at_fault!("delay.fixed_delay", Problem::Missing),
    );
    fault(
        |f| f.abort.as_mut().expect("one").error_type = Some(ErrorType::GrpcStatus(17)),
        at_fault!("abort.grpc_status", Problem::OutOfRange { .. }),
    );
    fault(
        |f| f.abort.as_mut().expect("one").error_type = Some(ErrorType::HttpStatus(600)),
        at_fault!("abort.http_status", Problem::OutOfRange { .. }),
    );
    fault(
        |f| f.abort.as_mut().expect("one").response_body = "x".to_owned(),
        at_fault!("abort.response_body", Problem::WithoutEffect),
    );
}

#[test]
fn retries() {
    for tokens in [
        "retriable-4xx",
        "reset,envoy-ratelimited,retriable-status-codes",
        "reset,",
        "Reset",
    ] {
        retry(
            |r| r.retry_on = tokens.to_owned(),
            refused!(
                "virtual_hosts[0].routes[0].route.retry_policy.retry_on",
                Problem::Unsupported { .. }
            ),
        );
    }
    retry(
        |r| r.retry_on = "reset".to_owned(),
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes",
            Problem::WithoutEffect
        ),
    );
    retry(
        |r| r.retriable_status_codes.clear(),
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes",
            Problem::Missing
        ),
    );
    retry(
        |r| r.retriable_request_headers[0].invert_match = true,
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.retriable_request_headers",
            Problem::Unsupported { .. }
        ),
    );
    retry(
        |r| r.retriable_request_headers[0].name = "x-again".to_owned(),
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.retriable_request_headers",
            Problem::Unsupported { .. }
        ),
    );
    retry(
        |r| r.retry_on.clear(),
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.num_retries",
            Problem::WithoutEffect
        ),
    );
    for code in [0, 200, 399, 600, 70_000] {
        retry(
            |r| r.retriable_status_codes.push(code),
            refused!(
                "virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes[1]",
                Problem::OutOfRange { .. }
            ),
        );
    }
    retry(
        |r| r.per_try_timeout = wire(Duration::ZERO),
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.per_try_timeout",
            Problem::OutOfRange { .. }
        ),
    );
    retry(
        |r| r.retry_back_off.as_mut().expect("a back-off").base_interval = None,
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.retry_back_off.base_interval",
            Problem::Missing
        ),
    );
    retry(
        |r| r.retry_back_off.as_mut().expect("a back-off").max_interval = wire(Duration::from_millis(999)),
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.retry_back_off.max_interval",
            Problem::OutOfRange { .. }
        ),
    );
    retry(
        |r| r.host_selection_retry_max_attempts = 3,
        refused!(
            "virtual_hosts[0].routes[0].route.retry_policy.host_selection_retry_max_attempts",
            Problem::WithoutEffect
        ),
    );
}

#[test]
fn redirects_and_answers() {
    redirect(
        |r| r.response_code = 200,
        refused!(
            "virtual_hosts[0].routes[1].redirect.response_code",
            Problem::UnknownValue
        ),
    );
    redirect(
        |r| r.port_redirect = 65_536,
        refused!(
            "virtual_hosts[0].routes[1].redirect.port_redirect",
            Problem::OutOfRange { .. }
        ),
    );
    redirect(
        |r| r.strip_query = true,
        refused!(
            "virtual_hosts[0].routes[1].redirect.strip_query",
            Problem::WithoutEffect
        ),
    );
    redirect(
        |r| r.scheme_rewrite_specifier = Some(SchemeRewriteSpecifier::SchemeRedirect("ftp".to_owned())),
        refused!(
            "virtual_hosts[0].routes[1].redirect.scheme_redirect",
            Problem::Unsupported { .. }
        ),
    );
    redirect(
        |r| r.path_rewrite_specifier = Some(PathRewriteSpecifier::PathRedirect("/a?b=c".to_owned())),
        refused!(
            "virtual_hosts[0].routes[1].redirect.path_redirect",
            Problem::Malformed { .. }
        ),
    );
    for status in [0, 100, 199, 600, 99_999] {
        respond(
            |r| r.status = status,
            refused!(
                "virtual_hosts[0].routes[2].direct_response.status",
                Problem::OutOfRange { .. }
            ),
        );
    }
    respond(
        |r| r.body.as_mut().expect("a body").specifier = None,
        refused!(
            "virtual_hosts[0].routes[2].direct_response.body",
            Problem::Unsupported { .. }
        ),
    );
}

#[test]
fn routes_without_backend() {
    no_backend(
        |f| f.cluster_specifier = Some(ClusterSpecifier::Cluster("a.b:80".to_owned())),
        refused!(
            "virtual_hosts[0].routes[3].metadata.typed_filter_metadata[\"weir.dev\"].route.weighted_clusters",
            Problem::OutOfRange { .. }
        ),
    );
    no_backend(
        |f| f.priority = 1,
        refused!(
            "virtual_hosts[0].routes[3].metadata.typed_filter_metadata[\"weir.dev\"].route.priority",
            Problem::WithoutEffect
        ),
    );
    route(
        3,
        |r| {
            r.action = Some(Action::DirectResponse(DirectResponseAction {
                status: 200,
                ..Default::default()
            }))
        },
        refused!(
            "virtual_hosts[0].routes[3].metadata.typed_filter_metadata[\"weir.dev\"]",
            Problem::Unsupported { .. }
        ),
    );
    let any = changed(&sound_routes(), |c: &mut RouteConfiguration| {
        let routes = &mut c.virtual_hosts[0].routes;
        routes[0].metadata = routes[3].metadata.clone();
    });
    check(
        decode::route_config(&any).map(drop),
        refused!("virtual_hosts[0].routes[0].metadata", Problem::WithoutEffect),
    );
    let foreign = |key: &str, any: Any| {
        Some(Metadata {
            typed_filter_metadata: [(key.to_owned(), any)].into(),
            ..Metadata::default()
        })
    };
    route(
        2,
        |r| r.metadata = foreign("envoy.lb", Any::default()),
        refused!(
            "virtual_hosts[0].routes[2].metadata.typed_filter_metadata",
            Problem::WithoutEffect
        ),
    );
    route(
        2,
        |r| r.metadata = foreign("weir.dev", pack(&v1::EndpointIdentity::default())),
        refused!(
            "virtual_hosts[0].routes[2].metadata.typed_filter_metadata[\"weir.dev\"]",
            Problem::UnknownType { .. }
        ),
    );
}

// ---- listeners ----

fn sound_listener() -> Any {
    encode::listener(&model::Listener {
        name: "s.n.svc.cluster.local:80".parse().expect("a name"),
        routes: RouteSource::Named("s.n:80/*".parse().expect("a name")),
    })
}

#[track_caller]
fn listener(change: impl FnOnce(&mut Listener), refused: Refused) {
    let any = changed(&sound_listener(), change);
    check(decode::listener(&any).map(drop), refused);
}

#[track_caller]
fn manager(change: impl FnOnce(&mut HttpConnectionManager), refused: Refused) {
    listener(|wire| change_manager(wire, change), refused);
}

fn change_manager(wire: &mut Listener, change: impl FnOnce(&mut HttpConnectionManager)) {
    let api = wire.api_listener.as_mut().and_then(|api| api.api_listener.as_mut());
    let any = api.expect("one");
    *any = changed(any, change);
}

#[track_caller]
fn tcp_listener(change: impl FnOnce(&mut Listener), refused: Refused) {
    let sound = encode::listener(&model::Listener {
        name: "s.n.svc.cluster.local:5432".parse().expect("a name"),
        routes: RouteSource::Tcp("s.n:5432".parse().expect("a name")),
    });
    check(decode::listener(&changed(&sound, change)).map(drop), refused);
}

#[track_caller]
fn tcp_proxy(change: impl FnOnce(&mut TcpProxy), refused: Refused) {
    tcp_listener(
        |wire| match &mut wire.filter_chains[0].filters[0].config_type {
            Some(filter::ConfigType::TypedConfig(any)) => *any = changed(any, change),
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[test]
fn listeners_for_tcp() {
    let api = |l: &mut Listener| l.api_listener = Some(ApiListener::default());
    tcp_listener(api, refused!("filter_chains", Problem::WithoutEffect));
    tcp_listener(
        |l| l.filter_chains.push(FilterChain::default()),
        refused!("filter_chains[1]", Problem::WithoutEffect),
    );
    tcp_listener(
        |l| l.filter_chains[0].name = "x".to_owned(),
        refused!("filter_chains[0].name", Problem::WithoutEffect),
    );
    tcp_listener(
        |l| l.filter_chains[0].filters.clear(),
        refused!("filter_chains[0].filters[0]", Problem::Missing),
    );
    tcp_listener(
        |l| {
            let twice = l.filter_chains[0].filters[0].clone();
            l.filter_chains[0].filters.push(twice);
        },
        refused!("filter_chains[0].filters[1]", Problem::WithoutEffect),
    );
    tcp_listener(
        |l| l.filter_chains[0].filters[0].name = "envoy.filters.network.rbac".to_owned(),
        refused!("filter_chains[0].filters[0].name", Problem::Mismatch { .. }),
    );
    tcp_listener(
        |l| l.filter_chains[0].filters[0].config_type = None,
        refused!("filter_chains[0].filters[0].typed_config", Problem::Missing),
    );
    tcp_proxy(
        |p| p.stat_prefix = "x".to_owned(),
        refused!(
            "filter_chains[0].filters[0].typed_config.stat_prefix",
            Problem::Mismatch { .. }
        ),
    );
    tcp_proxy(
        |p| p.idle_timeout = Some(WireDuration { seconds: 1, nanos: 0 }),
        refused!(
            "filter_chains[0].filters[0].typed_config.idle_timeout",
            Problem::WithoutEffect
        ),
    );
    tcp_proxy(
        |p| p.cluster_specifier = None,
        refused!("filter_chains[0].filters[0].typed_config.cluster", Problem::Missing),
    );
    tcp_proxy(
        |p| p.cluster_specifier = Some(tcp::ClusterSpecifier::Cluster("s".to_owned())),
        refused!(
            "filter_chains[0].filters[0].typed_config.cluster",
            Problem::Malformed { .. }
        ),
    );
    tcp_proxy(
        |p| p.cluster_specifier = Some(tcp::ClusterSpecifier::WeightedClusters(tcp::WeightedCluster::default())),
        refused!(
            "filter_chains[0].filters[0].typed_config.weighted_clusters",
            Problem::Unsupported { .. }
        ),
    );
}

#[test]
fn listeners() {
    listener(
        |l| l.name = "s.n:80".to_owned(),
        refused!("name", Problem::Malformed { .. }),
    );
    listener(|l| l.api_listener = None, refused!("api_listener", Problem::Missing));
    listener(
        |l| l.filter_chains.push(FilterChain::default()),
        refused!("filter_chains", Problem::WithoutEffect),
    );
    listener(
        |l| l.api_listener.as_mut().expect("one").api_listener = Some(Any::default()),
        refused!("api_listener.api_listener", Problem::UnknownType { .. }),
    );
    manager(
        |m| m.stat_prefix.clear(),
        refused!("api_listener.api_listener.stat_prefix", Problem::Mismatch { .. }),
    );
    manager(
        |m| m.merge_slashes = true,
        refused!("api_listener.api_listener.merge_slashes", Problem::WithoutEffect),
    );
    manager(
        |m| m.route_specifier = None,
        refused!("api_listener.api_listener.rds", Problem::Missing),
    );
    manager(
        |m| match &mut m.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => rds.config_source = None,
            other => panic!("{other:?}"),
        },
        refused!("api_listener.api_listener.rds.config_source", Problem::Missing),
    );
    manager(
        |m| match &mut m.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => {
                let path = ConfigSourceSpecifier::Path("/etc".to_owned());
                rds.config_source.as_mut().expect("a source").config_source_specifier = Some(path);
            }
            other => panic!("{other:?}"),
        },
        refused!(
            "api_listener.api_listener.rds.config_source",
            Problem::Unsupported { .. }
        ),
    );
    manager(
        |m| m.route_specifier = Some(RouteSpecifier::RouteConfig(RouteConfiguration::default())),
        refused!(
            "api_listener.api_listener.route_config.ignore_port_in_host_matching",
            Problem::Unsupported { .. }
        ),
    );
    manager(
        |m| {
            m.route_specifier = Some(RouteSpecifier::RouteConfig(RouteConfiguration {
                ignore_port_in_host_matching: true,
                ..RouteConfiguration::default()
            }));
        },
        refused!("api_listener.api_listener.route_config.name", Problem::Mismatch { .. }),
    );
}

#[test]
fn filters() {
    manager(
        |m| m.http_filters.clear(),
        refused!("api_listener.api_listener.http_filters", Problem::Missing),
    );
    // A filter that decides who may pass must not be passed over.
    manager(
        |m| {
            let mut filter = m.http_filters[0].clone();
            filter.name = "envoy.filters.http.rbac".to_owned();
            m.http_filters.insert(0, filter);
        },
        refused!(
            "api_listener.api_listener.http_filters[0].name",
            Problem::Mismatch { .. }
        ),
    );
    let cors = |name: &str| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Cors::default()))),
        ..HttpFilter::default()
    };
    // It does what routes say, and those are read by themselves.
    let with_cors = changed(&sound_listener(), |wire| {
        change_manager(wire, |m| m.http_filters.insert(0, cors(CORS)));
    });
    assert_eq!(decode::listener(&with_cors), decode::listener(&sound_listener()));
    manager(
        |m| m.http_filters.insert(0, cors("cors")),
        refused!(
            "api_listener.api_listener.http_filters[0].name",
            Problem::Mismatch { .. }
        ),
    );
    manager(
        |m| m.http_filters = vec![cors(CORS), cors(CORS)],
        refused!(
            "api_listener.api_listener.http_filters[1].name",
            Problem::Mismatch { .. }
        ),
    );
    manager(
        |m| m.http_filters = vec![cors(CORS)],
        refused!("api_listener.api_listener.http_filters", Problem::Missing),
    );
    manager(
        |m| m.http_filters.push(m.http_filters[0].clone()),
        refused!("api_listener.api_listener.http_filters[1]", Problem::WithoutEffect),
    );
    manager(
        |m| m.http_filters[0].config_type = None,
        refused!(
            "api_listener.api_listener.http_filters[0].typed_config",
            Problem::Missing
        ),
    );
    manager(
        |m| m.http_filters[0].disabled = true,
        refused!(
            "api_listener.api_listener.http_filters[0].disabled",
            Problem::WithoutEffect
        ),
    );
}

// ---- clusters ----

fn sound_cluster() -> Any {
    encode::cluster(&model::Cluster {
        name: "s.n:80".parse().expect("a name"),
        protocol: AppProtocol::Http1,
        connect_timeout: Duration::from_secs(1),
        balancing: Balancing::PeakEwma {
            decay: Duration::from_secs(10),
        },
        limits: Limits::default(),
        breaker: Some(FailureBreaker {
            failure_percent: 50,
            min_requests: 20,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(5),
            half_open_requests: 3,
        }),
        outlier_detection: Some(model::OutlierDetection {
            consecutive_5xx_errors: Some(5),
            consecutive_gateway_errors: None,
            consecutive_local_origin_failures: None,
            failure_percentage: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 50,
        }),
        health_check: Some(model::HealthCheck {
            kind: model::HealthCheckKind::Http {
                host: None,
                path: "/healthz".to_owned(),
                expected: vec![StatusCode::OK],
            },
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }),
        slow_start: Some(model::SlowStart {
            window: Duration::from_secs(30),
            aggression: 1.0,
            min_weight_percent: 10,
        }),
        locality: Some(LocalityPreference {
            overprovisioning_percent: 140,
        }),
        pool: ConnectionPool::default(),
        panic_percent: 1,
        retry_budget: RetryBudget::default(),
        backend_tls: Some(BackendTls::Verified(Validation {
            hostname: "a.example".to_owned(),
            authorities: Authorities::Given(vec![Certificate(vec![1, 2, 3])]),
            subject_alt_names: vec![SubjectAltName::Uri("x://a".to_owned())],
        })),
        sources: vec!["Service/citizen/portal".to_owned()],
    })
}

#[track_caller]
fn cluster(change: impl FnOnce(&mut Cluster), refused: Refused) {
    let any = changed(&sound_cluster(), change);
    check(decode::cluster(&any).map(drop), refused);
}

#[track_caller]
fn policy(change: impl FnOnce(&mut v1::ClusterPolicy), refused: Refused) {
    cluster(
        |wire| {
            let ours = &mut wire.metadata.as_mut().expect("metadata").typed_filter_metadata;
            let any = ours.get_mut("weir.dev").expect("ours");
            *any = changed(any, change);
        },
        refused,
    );
}

#[track_caller]
fn tls(change: impl FnOnce(&mut UpstreamTlsContext), path: &str, refused: fn(&Problem) -> bool) {
    let any = changed(&sound_cluster(), |c: &mut Cluster| {
        let socket = c.transport_socket.as_mut().expect("TLS");
        let Some(transport_socket::ConfigType::TypedConfig(any)) = &mut socket.config_type else {
            panic!("{socket:?}");
        };
        *any = changed(any, change);
    });
    let rejection = decode::cluster(&any).expect_err("it is refused");
    assert_eq!(
        rejection.path,
        format!("transport_socket.typed_config{path}"),
        "{rejection}"
    );
    assert!(refused(&rejection.problem), "{rejection}");
}

fn common(context: &mut UpstreamTlsContext) -> &mut CommonTlsContext {
    context.common_tls_context.as_mut().expect("it is there")
}

fn validation(context: &mut UpstreamTlsContext) -> &mut CertificateValidationContext {
    match &mut common(context).validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => context,
        other => panic!("{other:?}"),
    }
}

fn alt_name(context: &mut UpstreamTlsContext) -> &mut SubjectAltNameMatcher {
    &mut validation(context).match_typed_subject_alt_names[0]
}

fn exactly(pattern: string_matcher::MatchPattern) -> Option<StringMatcher> {
    Some(StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    })
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    })
}

#[test]
fn tls_that_would_not_be_verified_as_it_is_said() {
    let without_effect = |problem: &Problem| matches!(problem, Problem::WithoutEffect);
    let unsupported = |problem: &Problem| matches!(problem, Problem::Unsupported { .. });
    let malformed = |problem: &Problem| matches!(problem, Problem::Malformed { .. });
    let missing = |problem: &Problem| matches!(problem, Problem::Missing);
    let mismatch = |problem: &Problem| matches!(problem, Problem::Mismatch { .. });
    tls(|t| t.sni.clear(), ".sni", missing);
    for sni in ["A.example", "10.0.0.1", "*.example", "a b"] {
        tls(|t| t.sni = sni.to_owned(), ".sni", malformed);
    }
    tls(|t| t.auto_host_sni = true, ".auto_host_sni", without_effect);
    tls(
        |t| t.auto_sni_san_validation = true,
        ".auto_sni_san_validation",
        without_effect,
    );
    tls(|t| t.allow_renegotiation = true, ".allow_renegotiation", without_effect);
    tls(|t| t.common_tls_context = None, ".common_tls_context", missing);
    let in_common = ".common_tls_context";
    tls(
        |t| common(t).tls_params = None,
        &format!("{in_common}.tls_params"),
        missing,
    );
    tls(
        |t| {
            common(t)
                .tls_params
                .as_mut()
                .expect("some")
                .tls_minimum_protocol_version = 1
        },
        &format!("{in_common}.tls_params.tls_minimum_protocol_version"),
        mismatch,
    );
    tls(
        |t| common(t).tls_params.as_mut().expect("some").cipher_suites = vec!["x".to_owned()],
        &format!("{in_common}.tls_params.cipher_suites"),
        without_effect,
    );
    tls(
        |t| common(t).alpn_protocols = vec!["h2".to_owned()],
        &format!("{in_common}.alpn_protocols"),
        mismatch,
    );
    tls(
        |t| common(t).tls_certificates.push(Default::default()),
        &format!("{in_common}.tls_certificates"),
        without_effect,
    );
    let in_context = ".common_tls_context.validation_context";
    // Without any of these whoever answers would do.
    tls(|t| common(t).validation_context_type = None, in_context, missing);
    tls(
        |t| {
            common(t).validation_context_type =
                Some(ValidationContextType::CombinedValidationContext(Default::default()))
        },
        in_context,
        unsupported,
    );
    tls(
        |t| validation(t).trusted_ca = None,
        &format!("{in_context}.trusted_ca"),
        missing,
    );
    tls(
        |t| validation(t).system_root_certs = Some(Default::default()),
        &format!("{in_context}.system_root_certs"),
        without_effect,
    );
    tls(
        |t| validation(t).match_typed_subject_alt_names.clear(),
        &format!("{in_context}.match_typed_subject_alt_names"),
        missing,
    );
    tls(
        |t| validation(t).trust_chain_verification = 1,
        &format!("{in_context}.trust_chain_verification"),
        unsupported,
    );
    tls(
        |t| validation(t).verify_certificate_hash = vec!["ab".repeat(32)],
        &format!("{in_context}.verify_certificate_hash"),
        without_effect,
    );
    tls(
        |t| validation(t).verify_certificate_hash = vec!["00".repeat(32)],
        &format!("{in_context}.verify_certificate_hash"),
        unsupported,
    );
    tls(
        |t| validation(t).allow_expired_certificate = true,
        &format!("{in_context}.allow_expired_certificate"),
        without_effect,
    );
    tls(
        |t| validation(t).crl = inline("x"),
        &format!("{in_context}.crl"),
        without_effect,
    );
    for text in ["", "x", "-----BEGIN CERTIFICATE-----\nAA==\n"] {
        tls(
            |t| validation(t).trusted_ca = inline(text),
            &format!("{in_context}.trusted_ca.inline_string"),
            malformed,
        );
    }
    tls(
        |t| {
            let file = data_source::Specifier::Filename("/etc/passwd".to_owned());
            validation(t).trusted_ca.as_mut().expect("some").specifier = Some(file);
        },
        &format!("{in_context}.trusted_ca"),
        unsupported,
    );
    let in_name = format!("{in_context}.match_typed_subject_alt_names[0]");
    for san_type in [0, 1, 4, 5] {
        tls(
            |t| alt_name(t).san_type = san_type,
            &format!("{in_name}.san_type"),
            unsupported,
        );
    }
    tls(
        |t| alt_name(t).san_type = 77,
        &format!("{in_name}.san_type"),
        |problem| matches!(problem, Problem::UnknownValue),
    );
    tls(|t| alt_name(t).matcher = None, &format!("{in_name}.matcher"), missing);
    tls(
        |t| alt_name(t).matcher = exactly(string_matcher::MatchPattern::Suffix("a".to_owned())),
        &format!("{in_name}.matcher"),
        unsupported,
    );
    tls(
        |t| alt_name(t).matcher.as_mut().expect("some").ignore_case = true,
        &format!("{in_name}.matcher.ignore_case"),
        without_effect,
    );
    tls(
        |t| {
            alt_name(t).san_type = 2;
            alt_name(t).matcher = exactly(string_matcher::MatchPattern::Exact("a.*.example".to_owned()));
        },
        &format!("{in_name}.matcher.exact"),
        malformed,
    );
}

/// A cluster is closed for everybody, or for nobody.
#[test]
fn what_is_closed_is_said_in_both_ways_or_in_none() {
    policy(
        |p| p.closed = "why".to_owned(),
        refused!("transport_socket.typed_config.sni", Problem::WithoutEffect),
    );
    let any = changed(&sound_cluster(), |c: &mut Cluster| c.transport_socket = None);
    let any = changed(&any, |c: &mut Cluster| {
        let ours = &mut c.metadata.as_mut().expect("metadata").typed_filter_metadata;
        let any = ours.get_mut("weir.dev").expect("ours");
        *any = changed(any, |p: &mut v1::ClusterPolicy| p.closed = "why".to_owned());
    });
    check(
        decode::cluster(&any).map(drop),
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].closed",
            Problem::WithoutEffect
        ),
    );
    cluster(
        |c| c.transport_socket.as_mut().expect("TLS").name = "raw".to_owned(),
        refused!("transport_socket.name", Problem::Mismatch { .. }),
    );
    cluster(
        |c| c.transport_socket.as_mut().expect("TLS").config_type = None,
        refused!("transport_socket.typed_config", Problem::Missing),
    );
}

#[test]
fn clusters() {
    cluster(
        |c| c.name = "s.n".to_owned(),
        refused!("name", Problem::Malformed { .. }),
    );
    cluster(
        |c| c.cluster_discovery_type = Some(ClusterDiscoveryType::Type(2)),
        refused!("type", Problem::Unsupported { .. }),
    );
    cluster(
        |c| c.cluster_discovery_type = Some(ClusterDiscoveryType::Type(44)),
        refused!("type", Problem::UnknownValue),
    );
    cluster(
        |c| c.eds_cluster_config = None,
        refused!("eds_cluster_config", Problem::Missing),
    );
    cluster(
        |c| c.eds_cluster_config.as_mut().expect("one").service_name = "t.n:80".to_owned(),
        refused!("eds_cluster_config.service_name", Problem::Mismatch { .. }),
    );
    cluster(
        |c| c.connect_timeout = wire(Duration::ZERO),
        refused!("connect_timeout", Problem::OutOfRange { .. }),
    );
    cluster(|c| c.lb_policy = 0, refused!("lb_policy", Problem::Mismatch { .. }));
    cluster(|c| c.lb_policy = 4, refused!("lb_policy", Problem::UnknownValue));
    cluster(
        |c| {
            c.common_lb_config = Some(CommonLbConfig {
                ignore_new_hosts_until_first_hc: true,
                ..CommonLbConfig::default()
            });
        },
        refused!(
            "common_lb_config.ignore_new_hosts_until_first_hc",
            Problem::WithoutEffect
        ),
    );
    for value in [0.0, 0.5, 1.5, 101.0, f64::NAN, f64::INFINITY] {
        cluster(
            |c| c.common_lb_config.as_mut().expect("one").healthy_panic_threshold = Some(Percent { value }),
            refused!("common_lb_config.healthy_panic_threshold", Problem::OutOfRange { .. }),
        );
    }
    cluster(
        |c| {
            let thresholds = &mut c.circuit_breakers.as_mut().expect("one").thresholds;
            thresholds.push(thresholds[0]);
        },
        refused!("circuit_breakers.thresholds[1]", Problem::Duplicate),
    );
    cluster(
        |c| c.circuit_breakers.as_mut().expect("one").thresholds[0].priority = 1,
        refused!("circuit_breakers.thresholds[0].priority", Problem::WithoutEffect),
    );
    cluster(
        |c| c.typed_extension_protocol_options.clear(),
        refused!(
            "typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"]",
            Problem::Missing
        ),
    );
    cluster(
        |c| {
            for any in c.typed_extension_protocol_options.values_mut() {
                *any = pack(&HttpProtocolOptions::default());
            }
        },
        refused!(
            "typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].explicit_http_config",
            Problem::Missing
        ),
    );
}

/// Changes a cluster that speaks HTTP/2.
#[track_caller]
fn http2_policy(streams: Option<u32>, change: impl FnOnce(&mut v1::ClusterPolicy), refused: Refused) {
    let options = Http2ProtocolOptions {
        max_concurrent_streams: streams.map(|value| UInt32Value { value }),
        ..Http2ProtocolOptions::default()
    };
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(options)),
    };
    let http = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    };
    cluster(
        |wire| {
            for any in wire.typed_extension_protocol_options.values_mut() {
                *any = pack(&http);
            }
            let ours = &mut wire.metadata.as_mut().expect("metadata").typed_filter_metadata;
            let any = ours.get_mut("weir.dev").expect("ours");
            *any = changed(any, change);
        },
        refused,
    );
}

#[test]
fn streams() {
    http2_policy(
        None,
        |policy| policy.max_concurrent_streams = 5,
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].max_concurrent_streams",
            Problem::WithoutEffect
        ),
    );
    http2_policy(
        Some(0),
        |_| {},
        refused!(
            "typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].explicit_http_config.http2_protocol_options.max_concurrent_streams",
            Problem::OutOfRange { .. }
        ),
    );
}

#[track_caller]
fn checks(change: impl FnOnce(&mut HealthCheck), refused: Refused) {
    cluster(|c| change(&mut c.health_checks[0]), refused);
}

#[track_caller]
fn http_check(change: impl FnOnce(&mut HttpHealthCheck), refused: Refused) {
    checks(
        |check| match &mut check.health_checker {
            Some(HealthChecker::HttpHealthCheck(http)) => change(http),
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[test]
fn health_checks() {
    cluster(
        |c| c.health_checks.push(c.health_checks[0].clone()),
        refused!("health_checks[1]", Problem::Duplicate),
    );
    checks(
        |c| c.initial_jitter = wire(Duration::from_secs(1)),
        refused!("health_checks[0].initial_jitter", Problem::WithoutEffect),
    );
    checks(
        |c| c.interval_jitter_percent = 20,
        refused!("health_checks[0].interval_jitter_percent", Problem::Unsupported { .. }),
    );
    checks(
        |c| c.alt_port = Some(UInt32Value { value: 80 }),
        refused!("health_checks[0].alt_port", Problem::WithoutEffect),
    );
    for reuse in [None, Some(BoolValue { value: true })] {
        checks(
            |c| c.reuse_connection = reuse,
            refused!("health_checks[0].reuse_connection", Problem::Unsupported { .. }),
        );
    }
    checks(
        |c| c.no_traffic_interval = None,
        refused!("health_checks[0].no_traffic_interval", Problem::Unsupported { .. }),
    );
    checks(
        |c| (c.interval, c.no_traffic_interval) = (None, None),
        refused!("health_checks[0].interval", Problem::Missing),
    );
    checks(
        |c| c.timeout = wire(Duration::ZERO),
        refused!("health_checks[0].timeout", Problem::OutOfRange { .. }),
    );
    checks(
        |c| c.unhealthy_threshold = None,
        refused!("health_checks[0].unhealthy_threshold", Problem::Missing),
    );
    checks(
        |c| c.healthy_threshold = Some(UInt32Value { value: 0 }),
        refused!("health_checks[0].healthy_threshold", Problem::OutOfRange { .. }),
    );
    checks(
        |c| c.health_checker = None,
        refused!("health_checks[0].health_checker", Problem::Missing),
    );
    checks(
        |c| c.health_checker = Some(HealthChecker::CustomHealthCheck(CustomHealthCheck::default())),
        refused!("health_checks[0].custom_health_check", Problem::Unsupported { .. }),
    );
    checks(
        |c| c.health_checker = Some(HealthChecker::GrpcHealthCheck(GrpcHealthCheck::default())),
        refused!("health_checks[0].grpc_health_check", Problem::Unsupported { .. }),
    );
    checks(
        |c| {
            c.health_checker = Some(HealthChecker::TcpHealthCheck(TcpHealthCheck {
                send: Some(Payload::default()),
                ..TcpHealthCheck::default()
            }));
        },
        refused!("health_checks[0].tcp_health_check.send", Problem::WithoutEffect),
    );
    for path in ["", "healthz", "/a b"] {
        http_check(
            |h| h.path = path.to_owned(),
            refused!(
                "health_checks[0].http_health_check.path",
                Problem::Missing | Problem::Malformed { .. }
            ),
        );
    }
    http_check(
        |h| h.host = "a b".to_owned(),
        refused!("health_checks[0].http_health_check.host", Problem::Malformed { .. }),
    );
    http_check(
        |h| h.codec_client_type = 1,
        refused!(
            "health_checks[0].http_health_check.codec_client_type",
            Problem::Mismatch { .. }
        ),
    );
    http_check(
        |h| h.method = 2,
        refused!("health_checks[0].http_health_check.method", Problem::Unsupported { .. }),
    );
    http_check(
        |h| h.retriable_statuses.clear(),
        refused!(
            "health_checks[0].http_health_check.retriable_statuses",
            Problem::Unsupported { .. }
        ),
    );
    for (start, end) in [(200, 200), (99, 201), (200, 601), (300, 200)] {
        http_check(
            |h| h.expected_statuses = vec![Int64Range { start, end }],
            refused!(
                "health_checks[0].http_health_check.expected_statuses[0]",
                Problem::OutOfRange { .. }
            ),
        );
    }
    http_check(
        |h| h.request_headers_to_remove = vec!["a".to_owned()],
        refused!(
            "health_checks[0].http_health_check.request_headers_to_remove",
            Problem::WithoutEffect
        ),
    );
}

#[track_caller]
fn outliers(change: impl FnOnce(&mut OutlierDetection), refused: Refused) {
    cluster(|c| change(c.outlier_detection.as_mut().expect("one")), refused);
}

#[test]
fn outlier_detection() {
    let number = |value| Some(UInt32Value { value });
    outliers(
        |o| o.split_external_local_origin_errors = false,
        refused!(
            "outlier_detection.split_external_local_origin_errors",
            Problem::Unsupported { .. }
        ),
    );
    for uneject in [None, Some(BoolValue { value: true })] {
        outliers(
            |o| o.successful_active_health_check_uneject_host = uneject,
            refused!(
                "outlier_detection.successful_active_health_check_uneject_host",
                Problem::Unsupported { .. }
            ),
        );
    }
    // By default they are enforced.
    for enforcing in [None, number(100)] {
        outliers(
            |o| o.enforcing_success_rate = enforcing,
            refused!("outlier_detection.enforcing_success_rate", Problem::Unsupported { .. }),
        );
        outliers(
            |o| o.enforcing_local_origin_success_rate = enforcing,
            refused!(
                "outlier_detection.enforcing_local_origin_success_rate",
                Problem::Unsupported { .. }
            ),
        );
    }
    outliers(
        |o| o.enforcing_consecutive_5xx = number(50),
        refused!(
            "outlier_detection.enforcing_consecutive_5xx",
            Problem::Unsupported { .. }
        ),
    );
    outliers(
        |o| o.consecutive_5xx = number(0),
        refused!("outlier_detection.consecutive_5xx", Problem::OutOfRange { .. }),
    );
    outliers(
        |o| o.enforcing_consecutive_5xx = number(0),
        refused!("outlier_detection.consecutive_5xx", Problem::WithoutEffect),
    );
    outliers(
        |o| o.consecutive_gateway_failure = number(5),
        refused!("outlier_detection.consecutive_gateway_failure", Problem::WithoutEffect),
    );
    outliers(
        |o| o.enforcing_failure_percentage = number(100),
        refused!(
            "outlier_detection.enforcing_failure_percentage_local_origin",
            Problem::Unsupported { .. }
        ),
    );
    outliers(
        |o| o.failure_percentage_minimum_hosts = number(5),
        refused!(
            "outlier_detection.failure_percentage_minimum_hosts",
            Problem::WithoutEffect
        ),
    );
    outliers(
        |o| o.max_ejection_time = wire(Duration::from_secs(29)),
        refused!("outlier_detection.max_ejection_time", Problem::OutOfRange { .. }),
    );
    outliers(
        |o| o.interval = wire(Duration::ZERO),
        refused!("outlier_detection.interval", Problem::OutOfRange { .. }),
    );
    for percent in [0, 101, 256 + 50] {
        outliers(
            |o| o.max_ejection_percent = number(percent),
            refused!("outlier_detection.max_ejection_percent", Problem::OutOfRange { .. }),
        );
    }
    outliers(
        |o| o.always_eject_one_host = Some(BoolValue { value: true }),
        refused!("outlier_detection.always_eject_one_host", Problem::WithoutEffect),
    );
}

#[track_caller]
fn slow_start(change: impl FnOnce(&mut SlowStartConfig), refused: Refused) {
    cluster(
        |c| match &mut c.lb_config {
            Some(LbConfig::LeastRequestLbConfig(config)) => {
                change(config.slow_start_config.as_mut().expect("one"));
            }
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[test]
fn slow_starts() {
    cluster(
        |c| c.lb_config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig::default())),
        refused!("round_robin_lb_config", Problem::WithoutEffect),
    );
    cluster(
        |c| c.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig::default())),
        refused!("maglev_lb_config", Problem::WithoutEffect),
    );
    cluster(
        |c| c.lb_config = Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig::default())),
        refused!("least_request_lb_config.slow_start_config", Problem::Missing),
    );
    cluster(
        |c| match &mut c.lb_config {
            Some(LbConfig::LeastRequestLbConfig(config)) => config.choice_count = Some(UInt32Value { value: 3 }),
            other => panic!("{other:?}"),
        },
        refused!("least_request_lb_config.choice_count", Problem::WithoutEffect),
    );
    slow_start(
        |s| s.slow_start_window = wire(Duration::ZERO),
        refused!(
            "least_request_lb_config.slow_start_config.slow_start_window",
            Problem::OutOfRange { .. }
        ),
    );
    for aggression in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        slow_start(
            |s| s.aggression.as_mut().expect("one").default_value = aggression,
            refused!(
                "least_request_lb_config.slow_start_config.aggression.default_value",
                Problem::OutOfRange { .. }
            ),
        );
    }
    slow_start(
        |s| s.aggression.as_mut().expect("one").runtime_key = "other".to_owned(),
        refused!(
            "least_request_lb_config.slow_start_config.aggression.runtime_key",
            Problem::Mismatch { .. }
        ),
    );
    slow_start(
        |s| s.min_weight_percent = Some(Percent { value: 0.0 }),
        refused!(
            "least_request_lb_config.slow_start_config.min_weight_percent",
            Problem::OutOfRange { .. }
        ),
    );
}

#[test]
fn policies_of_clusters() {
    policy(
        |p| p.locality.as_mut().expect("one").overprovisioning_percent = 99,
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].locality.overprovisioning_percent",
            Problem::OutOfRange { .. }
        ),
    );
    policy(
        |p| p.sources = vec!["Service/citizen/portal".to_owned(), String::new()],
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].sources[1]",
            Problem::Missing
        ),
    );
    cluster(
        |c| c.metadata = None,
        refused!("metadata.typed_filter_metadata[\"weir.dev\"]", Problem::Missing),
    );
    policy(
        |p| p.grpc = true,
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].grpc",
            Problem::Unsupported { .. }
        ),
    );
    policy(
        |p| p.balancing = None,
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].balancing",
            Problem::Missing
        ),
    );
    policy(
        |p| p.retry_budget.as_mut().expect("one").percent = 101,
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].retry_budget.percent",
            Problem::OutOfRange { .. }
        ),
    );
    for percent in [0, 101, 256 + 50] {
        policy(
            |p| p.breaker.as_mut().expect("one").failure_percent = percent,
            refused!(
                "metadata.typed_filter_metadata[\"weir.dev\"].breaker.failure_percent",
                Problem::OutOfRange { .. }
            ),
        );
    }
    policy(
        |p| p.breaker.as_mut().expect("one").half_open_requests = 0,
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].breaker.half_open_requests",
            Problem::OutOfRange { .. }
        ),
    );
    policy(
        |p| p.breaker.as_mut().expect("one").open_for = None,
        refused!(
            "metadata.typed_filter_metadata[\"weir.dev\"].breaker.open_for",
            Problem::Missing
        ),
    );
}

// ---- endpoints ----

fn sound_endpoints() -> Any {
    let endpoint = |address: &str| model::Endpoint {
        address: address.parse().expect("an address"),
        health: EndpointHealth::Healthy,
        locality: model::Locality::default(),
        workload: Some("n/w-1".parse().expect("a name")),
        peer: Peer::WeirProxy,
        identity: "spiffe://cluster.local/ns/n/sa/s".parse().ok().map(Arc::new),
    };
    encode::endpoints(&ClusterEndpoints {
        cluster: "s.n:80".parse().expect("a name"),
        endpoints: vec![endpoint("10.0.0.1:15006"), endpoint("10.0.0.2:15006")],
    })
}

#[track_caller]
fn assignment(change: impl FnOnce(&mut ClusterLoadAssignment), refused: Refused) {
    let any = changed(&sound_endpoints(), change);
    check(decode::endpoints(&any).map(drop), refused);
}

#[track_caller]
fn endpoint(change: impl FnOnce(&mut LbEndpoint), refused: Refused) {
    assignment(|wire| change(&mut wire.endpoints[0].lb_endpoints[1]), refused);
}

#[track_caller]
fn identity(change: impl FnOnce(&mut v1::EndpointIdentity), refused: Refused) {
    endpoint(
        |wire| {
            let ours = &mut wire.metadata.as_mut().expect("metadata").typed_filter_metadata;
            let held = ours.get_mut("weir.dev").expect("an identity");
            let mut identity = v1::EndpointIdentity::decode(held.value.as_slice()).expect("an identity");
            change(&mut identity);
            *held = pack(&identity);
        },
        refused,
    );
}

#[track_caller]
fn address(change: impl FnOnce(&mut Option<Address>), refused: Refused) {
    endpoint(
        |wire| match &mut wire.host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => change(&mut endpoint.address),
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[track_caller]
fn socket(change: impl FnOnce(&mut envoy_types::pb::envoy::config::core::v3::SocketAddress), refused: Refused) {
    address(
        |wire| match wire.as_mut().and_then(|wire| wire.address.as_mut()) {
            Some(address::Address::SocketAddress(socket)) => change(socket),
            other => panic!("{other:?}"),
        },
        refused,
    );
}

#[test]
fn endpoints() {
    assignment(
        |a| a.cluster_name.clear(),
        refused!("cluster_name", Problem::Malformed { .. }),
    );
    assignment(
        |a| a.policy = Some(Default::default()),
        refused!("policy", Problem::WithoutEffect),
    );
    assignment(
        |a| a.endpoints[0].priority = 1,
        refused!("endpoints[0].priority", Problem::WithoutEffect),
    );
    assignment(
        |a| {
            a.endpoints[0].locality = Some(Locality {
                zone: "z".repeat(5000),
                ..Locality::default()
            })
        },
        refused!("endpoints[0].locality.zone", Problem::Malformed { .. }),
    );
    assignment(
        |a| a.endpoints.push(a.endpoints[0].clone()),
        refused!("endpoints[1].lb_endpoints[0]", Problem::Duplicate),
    );
    endpoint(
        |e| e.health_status = HealthStatus::Degraded.into(),
        refused!(
            "endpoints[0].lb_endpoints[1].health_status",
            Problem::Unsupported { .. }
        ),
    );
    endpoint(
        |e| e.health_status = 6,
        refused!("endpoints[0].lb_endpoints[1].health_status", Problem::UnknownValue),
    );
    endpoint(
        |e| e.load_balancing_weight = Some(UInt32Value { value: 2 }),
        refused!(
            "endpoints[0].lb_endpoints[1].load_balancing_weight",
            Problem::WithoutEffect
        ),
    );
    endpoint(
        |e| e.host_identifier = None,
        refused!("endpoints[0].lb_endpoints[1].endpoint", Problem::Missing),
    );
    identity(
        |i| i.workload = "w-1".to_owned(),
        refused!(
            "endpoints[0].lb_endpoints[1].metadata.typed_filter_metadata[\"weir.dev\"].workload",
            Problem::Malformed { .. }
        ),
    );
    identity(
        |i| i.workload.clear(),
        refused!(
            "endpoints[0].lb_endpoints[1].metadata.typed_filter_metadata[\"weir.dev\"].workload",
            Problem::Missing
        ),
    );
    identity(
        |i| i.weir_proxy = false,
        refused!(
            "endpoints[0].lb_endpoints[1].metadata.typed_filter_metadata[\"weir.dev\"].weir_proxy",
            Problem::Unsupported { .. }
        ),
    );
    for id in [
        "spiffe://cluster.local",
        "spiffe://Cluster.local/ns/n/sa/s",
        "spiffe://cluster.local/ns/n/sa/s ",
    ] {
        identity(
            |i| i.spiffe_id = id.to_owned(),
            refused!(
                "endpoints[0].lb_endpoints[1].metadata.typed_filter_metadata[\"weir.dev\"].spiffe_id",
                Problem::Malformed { .. }
            ),
        );
    }
    identity(
        |i| i.spiffe_id = "spiffe://cluster.local/ns/other/sa/s".to_owned(),
        refused!(
            "endpoints[0].lb_endpoints[1].metadata.typed_filter_metadata[\"weir.dev\"].spiffe_id",
            Problem::Mismatch { .. }
        ),
    );
    address(
        |a| *a = None,
        refused!("endpoints[0].lb_endpoints[1].endpoint.address", Problem::Missing),
    );
    socket(
        |s| s.address = "example.org".to_owned(),
        refused!(
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address",
            Problem::Malformed { .. }
        ),
    );
    socket(
        |s| s.protocol = 1,
        refused!(
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address",
            Problem::Unsupported { .. }
        ),
    );
    for port in [0, 65_536] {
        socket(
            |s| s.port_specifier = Some(PortSpecifier::PortValue(port)),
            refused!(
                "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value",
                Problem::OutOfRange { .. }
            ),
        );
    }
}

#[test]
fn what_only_weir_says_of_routes() {
    fn extras(change: impl FnOnce(&mut v1::RouteExtras), refused: Refused) {
        let change = |route: &mut Route| {
            let held = route.typed_per_filter_config.get_mut("weir.dev").expect("is set");
            *held = changed(held, |own: &mut FilterConfig| {
                let extras = own.config.as_mut().expect("is set");
                *extras = changed(extras, change);
            });
        };
        route(0, change, refused);
    }
    fn policy(change: impl FnOnce(&mut v1::HeldPolicy), refused: Refused) {
        extras(|extras| change(extras.policy.as_mut().expect("is set")), refused);
    }
    macro_rules! at_extras {
        ($field:literal, $problem:pat) => {
            refused!(
                concat!(
                    "virtual_hosts[0].routes[0].typed_per_filter_config[\"weir.dev\"]",
                    $field
                ),
                $problem
            )
        };
    }
    extras(
        |e| *e = v1::RouteExtras::default(),
        at_extras!("", Problem::WithoutEffect),
    );
    extras(
        |e| e.priority = Some(8),
        at_extras!(".priority", Problem::OutOfRange { .. }),
    );
    policy(|p| p.name.clear(), at_extras!(".policy.name", Problem::Missing));
    policy(
        |p| p.fields[1].clear(),
        at_extras!(".policy.fields[1]", Problem::Missing),
    );
    policy(
        |p| p.fields[0] = "x".repeat(5000),
        at_extras!(".policy.fields[0]", Problem::Malformed { .. }),
    );
}

// ---- workload policies ----

#[track_caller]
fn telemetry(change: impl FnOnce(&mut v1::Telemetry), refused: Refused) {
    workload_policy(|policy| change(policy.telemetry.as_mut().expect("is set")), refused);
}

#[track_caller]
fn mutual_tls(change: impl FnOnce(&mut v1::MutualTls), refused: Refused) {
    workload_policy(|policy| change(policy.mutual_tls.as_mut().expect("is set")), refused);
}

#[track_caller]
fn workload_policy(change: impl FnOnce(&mut v1::WorkloadPolicy), refused: Refused) {
    let sound = encode::workload_policy(&model::WorkloadPolicy {
        workload: "n/w".parse().expect("a name"),
        telemetry: Telemetry {
            access_log: Some(AccessLog::Errors),
            sampling_parts_per_ten_thousand: Some(100),
            tags: vec![SpanTag {
                name: "department".to_owned(),
                header: http::HeaderName::from_static("x-department"),
            }],
            excluded_paths: vec![ExcludedPath::Exact("/a".to_owned())],
        },
        mutual_tls: MutualTls {
            mode: Mode::Strict,
            ports: BTreeMap::from([(8080.try_into().expect("a port"), Mode::Off)]),
        },
        egress: Egress::Passthrough,
    });
    decode::workload_policy(&sound).expect("is sound");
    let changed = changed(&sound, change);
    check(decode::workload_policy(&changed).map(drop), refused);
}

#[test]
fn workload_policies() {
    use v1::excluded_path::Path;
    workload_policy(|p| p.name = "n".to_owned(), refused!("name", Problem::Malformed { .. }));
    workload_policy(|p| p.telemetry = None, refused!("telemetry", Problem::Missing));
    workload_policy(|p| p.mutual_tls = None, refused!("mutual_tls", Problem::Missing));
    workload_policy(|p| p.egress = 2, refused!("egress", Problem::UnknownValue));
    mutual_tls(|t| t.mode = 0, refused!("mutual_tls.mode", Problem::Missing));
    mutual_tls(|t| t.mode = 4, refused!("mutual_tls.mode", Problem::UnknownValue));
    mutual_tls(
        |t| t.ports[0].mode = 0,
        refused!("mutual_tls.ports[0].mode", Problem::Missing),
    );
    for port in [0, 65_536] {
        mutual_tls(
            |t| t.ports[0].app_port = port,
            refused!("mutual_tls.ports[0].app_port", Problem::OutOfRange { .. }),
        );
    }
    mutual_tls(
        |t| t.ports.push(t.ports[0]),
        refused!("mutual_tls.ports[1].app_port", Problem::Duplicate),
    );
    telemetry(
        |t| t.access_log = 4,
        refused!("telemetry.access_log", Problem::UnknownValue),
    );
    telemetry(
        |t| t.sampling.as_mut().expect("is set").parts_per_ten_thousand = 10_001,
        refused!("telemetry.sampling.parts_per_ten_thousand", Problem::OutOfRange { .. }),
    );
    telemetry(
        |t| t.tags.push(t.tags[0].clone()),
        refused!("telemetry.tags[1].name", Problem::Duplicate),
    );
    telemetry(
        |t| t.tags[0].name.clear(),
        refused!("telemetry.tags[0].name", Problem::Missing),
    );
    for header in [
        "",
        ":path",
        "a b",
        "Authorization",
        "proxy-authorization",
        "cookie",
        "Set-Cookie",
    ] {
        telemetry(
            |t| t.tags[0].request_header = header.to_owned(),
            refused!("telemetry.tags[0].request_header", Problem::Malformed { .. }),
        );
    }
    telemetry(
        |t| t.excluded_paths[0].path = None,
        refused!("telemetry.excluded_paths[0].path", Problem::Missing),
    );
    telemetry(
        |t| t.excluded_paths[0].path = Some(Path::Exact("a".to_owned())),
        refused!("telemetry.excluded_paths[0].exact", Problem::Malformed { .. }),
    );
    telemetry(
        |t| t.excluded_paths[0].path = Some(Path::Prefix(String::new())),
        refused!("telemetry.excluded_paths[0].prefix", Problem::Missing),
    );
}

// ---- all ----

#[test]
fn bytes_and_types() {
    let any = |type_url: &str, value: &[u8]| Any {
        type_url: type_url.to_owned(),
        value: value.to_owned(),
    };
    let cluster = sound_cluster();
    let read = |any: &Any| decode::decode(ResourceType::Cluster, "s.n:80", any).map(drop);
    check(
        read(&any("", &cluster.value)),
        refused!("", Problem::UnknownType { .. }),
    );
    let listener = any(ResourceType::Listener.url(), &cluster.value);
    check(read(&listener), refused!("", Problem::UnknownType { .. }));
    let cut = &cluster.value[..cluster.value.len() - 1];
    check(read(&any(&cluster.type_url, cut)), refused!("", Problem::Undecodable));
    // Field 1000, a varint, which no version of the message has.
    let newer = [cluster.value.as_slice(), &[0xc0, 0x3e, 0x01]].concat();
    check(
        read(&any(&cluster.type_url, &newer)),
        refused!("", Problem::UnknownField),
    );
    let other = decode::decode(ResourceType::Cluster, "t.n:80", &cluster).map(drop);
    check(other, refused!("name", Problem::Mismatch { .. }));
}

#[test]
fn a_rejection_tells_people_what_to_do() {
    let any = changed(&sound_cluster(), |c: &mut Cluster| c.lb_policy = 0);
    let rejection = decode::cluster(&any).expect_err("it differs");
    let expect = "cluster \"s.n:80\", lb_policy: must be \"LEAST_REQUEST\"; it holds \"ROUND_ROBIN\"";
    assert_eq!(rejection.to_string(), expect);
}

#[test]
fn what_is_unset_means_what_is_published() {
    let any = changed(&sound_cluster(), |c: &mut Cluster| {
        c.connect_timeout = None;
        c.circuit_breakers = None;
        c.common_lb_config = None;
        c.outlier_detection = Some(OutlierDetection {
            split_external_local_origin_errors: true,
            enforcing_success_rate: Some(UInt32Value { value: 0 }),
            enforcing_local_origin_success_rate: Some(UInt32Value { value: 0 }),
            successful_active_health_check_uneject_host: Some(BoolValue { value: false }),
            ..OutlierDetection::default()
        });
    });
    let cluster = decode::cluster(&any).expect("defaults are published");
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.limits, Limits::default());
    assert_eq!(cluster.panic_percent, 50);
    let outliers = model::OutlierDetection {
        consecutive_5xx_errors: Some(5),
        consecutive_gateway_errors: None,
        consecutive_local_origin_failures: Some(5),
        failure_percentage: None,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_percent: 10,
    };
    assert_eq!(cluster.outlier_detection, Some(outliers));

    let any = changed(&sound_routes(), |c: &mut RouteConfiguration| {
        match &mut c.virtual_hosts[0].routes[0].action {
            Some(Action::Route(action)) => {
                action.timeout = None;
                let retry = action.retry_policy.as_mut().expect("a policy");
                (retry.num_retries, retry.retry_back_off) = (None, None);
            }
            other => panic!("{other:?}"),
        }
    });
    let config = decode::route_config(&any).expect("defaults are published");
    let model::Action::Forward(forward) = &config.virtual_hosts[0].routes[0].action else {
        panic!("{config:?}");
    };
    assert_eq!(forward.timeouts.request, Some(Duration::from_secs(15)));
    let retry = forward.retry.as_ref().expect("a policy");
    let backoff = model::Backoff::tenfold(Duration::from_millis(25));
    assert_eq!((retry.attempts, retry.backoff), (1, backoff));

    let any = changed(&sound_endpoints(), |a: &mut ClusterLoadAssignment| {
        a.endpoints[0].locality = None;
        for endpoint in &mut a.endpoints[0].lb_endpoints {
            (endpoint.health_status, endpoint.metadata) = (0, None);
        }
    });
    let read = decode::endpoints(&any).expect("defaults are published");
    for endpoint in &read.endpoints {
        assert_eq!(endpoint.health, EndpointHealth::Healthy);
        assert_eq!((&endpoint.workload, endpoint.peer), (&None, Peer::Plain));
    }
}

// ---- roots ----

#[track_caller]
fn trust_roots(change: impl FnOnce(&mut Secret), refused: Refused) {
    let sound = encode::trust_roots(&model::TrustRoots {
        name: RootsName,
        pem: "PEM".to_owned(),
        others: ["a.gov", "b.gov"]
            .map(|name| (name.parse().expect("one"), "PEM".to_owned()))
            .into(),
    });
    decode::trust_roots(&sound).expect("is sound");
    check(decode::trust_roots(&changed(&sound, change)).map(drop), refused);
}

#[track_caller]
fn authorities(change: impl FnOnce(&mut CertificateValidationContext), refused: Refused) {
    let change = |secret: &mut Secret| match &mut secret.r#type {
        Some(SecretType::ValidationContext(context)) => change(context),
        other => panic!("{other:?}"),
    };
    trust_roots(change, refused);
}

#[track_caller]
fn authorities_from(specifier: Option<Specifier>, refused: Refused) {
    authorities(
        |c| c.trusted_ca.as_mut().expect("is set").specifier = specifier,
        refused,
    );
}

#[test]
fn roots() {
    trust_roots(
        |s| s.name = "default".to_owned(),
        refused!("name", Problem::Malformed { .. }),
    );
    trust_roots(|s| s.r#type = None, refused!("validation_context", Problem::Missing));
    trust_roots(
        |s| s.r#type = Some(SecretType::TlsCertificate(Default::default())),
        refused!("tls_certificate", Problem::Unsupported { .. }),
    );
    trust_roots(
        |s| s.r#type = Some(SecretType::SessionTicketKeys(Default::default())),
        refused!("session_ticket_keys", Problem::Unsupported { .. }),
    );
    trust_roots(
        |s| s.r#type = Some(SecretType::GenericSecret(Default::default())),
        refused!("generic_secret", Problem::Unsupported { .. }),
    );
    authorities(
        |c| c.trusted_ca = None,
        refused!("validation_context.trusted_ca", Problem::Missing),
    );
    // A condition that is not looked at would let in whom it shuts out.
    authorities(
        |c| c.verify_certificate_hash = vec!["00".to_owned()],
        refused!("validation_context.verify_certificate_hash", Problem::WithoutEffect),
    );
    authorities(
        |c| c.match_typed_subject_alt_names = vec![Default::default()],
        refused!(
            "validation_context.match_typed_subject_alt_names",
            Problem::WithoutEffect
        ),
    );
    authorities(
        |c| c.crl = Some(Default::default()),
        refused!("validation_context.crl", Problem::WithoutEffect),
    );
    authorities(
        |c| c.allow_expired_certificate = true,
        refused!("validation_context.allow_expired_certificate", Problem::WithoutEffect),
    );
    authorities(
        |c| c.trust_chain_verification = 1,
        refused!("validation_context.trust_chain_verification", Problem::WithoutEffect),
    );
    authorities(
        |c| c.max_verify_depth = Some(UInt32Value { value: 1 }),
        refused!("validation_context.max_verify_depth", Problem::WithoutEffect),
    );
    authorities_from(None, refused!("validation_context.trusted_ca", Problem::Missing));
    authorities_from(
        Some(Specifier::InlineString(String::new())),
        refused!("validation_context.trusted_ca.inline_string", Problem::Missing),
    );
    authorities_from(
        Some(Specifier::InlineBytes(vec![0xff])),
        refused!("validation_context.trusted_ca.inline_bytes", Problem::Malformed { .. }),
    );
    authorities_from(
        Some(Specifier::Filename("/roots.pem".to_owned())),
        refused!("validation_context.trusted_ca.filename", Problem::Malformed { .. }),
    );
    authorities_from(
        Some(Specifier::EnvironmentVariable("ROOTS".to_owned())),
        refused!(
            "validation_context.trusted_ca.environment_variable",
            Problem::Malformed { .. }
        ),
    );
}

#[track_caller]
fn domains(change: impl FnOnce(&mut SpiffeCertValidatorConfig), refused: Refused) {
    let change = |context: &mut CertificateValidationContext| {
        let config = context.custom_validator_config.as_mut().expect("is set");
        let sound = config.typed_config.as_ref().expect("is set");
        config.typed_config = Some(changed(sound, change));
    };
    authorities(change, refused);
}

#[test]
fn roots_of_other_trust_domains() {
    authorities(
        |c| c.custom_validator_config.as_mut().expect("is set").name = "envoy.tls.cert_validator.default".to_owned(),
        refused!(
            "validation_context.custom_validator_config.name",
            Problem::Mismatch { .. }
        ),
    );
    authorities(
        |c| c.custom_validator_config.as_mut().expect("is set").typed_config = None,
        refused!(
            "validation_context.custom_validator_config.typed_config",
            Problem::Missing
        ),
    );
    authorities(
        |c| {
            let other = pack(&Secret::default());
            c.custom_validator_config.as_mut().expect("is set").typed_config = Some(other);
        },
        refused!(
            "validation_context.custom_validator_config.typed_config",
            Problem::UnknownType { .. }
        ),
    );
    domains(
        |d| d.trust_domains.clear(),
        refused!(
            "validation_context.custom_validator_config.typed_config.trust_domains",
            Problem::Missing
        ),
    );
    domains(
        |d| d.trust_bundles = Some(Default::default()),
        refused!(
            "validation_context.custom_validator_config.typed_config.trust_bundles",
            Problem::WithoutEffect
        ),
    );
    domains(
        |d| d.trust_domains[1].name = "a.gov".to_owned(),
        refused!(
            "validation_context.custom_validator_config.typed_config.trust_domains[1].name",
            Problem::Duplicate
        ),
    );
    domains(
        |d| d.trust_domains[1].name = "spiffe://a.gov".to_owned(),
        refused!(
            "validation_context.custom_validator_config.typed_config.trust_domains[1].name",
            Problem::Malformed { .. }
        ),
    );
    domains(
        |d| d.trust_domains[0].trust_bundle = None,
        refused!(
            "validation_context.custom_validator_config.typed_config.trust_domains[0].trust_bundle",
            Problem::Missing
        ),
    );
    domains(
        |d| d.trust_domains[0].workload_trust_domain = "b.gov".to_owned(),
        refused!(
            "validation_context.custom_validator_config.typed_config.trust_domains[0].workload_trust_domain",
            Problem::WithoutEffect
        ),
    );
}
