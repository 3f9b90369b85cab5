//! What is encoded is read as what it was, for every value that the model allows; and no bytes make the reader panic.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use proptest::collection::{btree_map, btree_set, hash_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use weir_policy::backend_tls::{Authorities, BackendTls, Certificate, SubjectAltName, Validation};
use weir_policy::context::Priority;
use weir_policy::egress::Egress;
use weir_policy::model::*;
use weir_policy::mutual_tls::{Mode, MutualTls};
use weir_policy::names::{ClusterName, Consumers, Label, ListenerName, RouteName, ServiceName, WorkloadName};
use weir_policy::roots::RootsName;
use weir_policy::spiffe::SpiffeId;
use weir_policy::telemetry::{AccessLog, ExcludedPath, SpanTag, Telemetry};
use weir_xds::decode::{self, Resource};
use weir_xds::envoy::Any;
use weir_xds::{ResourceType, encode};

proptest! {
    #[test]
    fn listeners(listener in listener()) {
        let any = encode::listener(&listener);
        prop_assert_eq!(&any, &encode::listener(&listener.clone()));
        prop_assert_eq!(decode::listener(&any), Ok(listener));
    }

    #[test]
    fn route_configurations(config in route_config()) {
        let any = encode::route_config(&config);
        prop_assert_eq!(&any, &encode::route_config(&config.clone()));
        prop_assert_eq!(decode::route_config(&any), Ok(config));
    }

    #[test]
    fn clusters(cluster in cluster()) {
        let any = encode::cluster(&cluster);
        prop_assert_eq!(&any, &encode::cluster(&cluster.clone()));
        prop_assert_eq!(decode::cluster(&any), Ok(cluster));
    }

    /// The order of endpoints is none of the model's: any order is encoded alike, and is read in the canonical one.
    #[test]
    fn endpoints((given, shuffled) in shuffled_endpoints()) {
        let any = encode::endpoints(&given);
        prop_assert_eq!(&any, &encode::endpoints(&shuffled));
        let read = decode::endpoints(&any).expect("what is encoded can be read");
        prop_assert_eq!(&read.cluster, &given.cluster);
        let key = |endpoint: &Endpoint| {
            let Locality { region, zone, site } = endpoint.locality.clone();
            (region, zone, site, endpoint.address)
        };
        prop_assert!(read.endpoints.is_sorted_by_key(key));
        let mut sorted = given.endpoints;
        sorted.sort_by_key(key);
        prop_assert_eq!(read.endpoints, sorted);
    }

    #[test]
    fn workload_policies(policy in workload_policy()) {
        let any = encode::workload_policy(&policy);
        prop_assert_eq!(&any, &encode::workload_policy(&policy.clone()));
        prop_assert_eq!(decode::workload_policy(&any), Ok(policy));
    }

    #[test]
    fn roots(pem in "[ -~\n]{1,64}", others in btree_map("[a-z0-9._-]{1,16}", "[ -~\n]{1,64}", 0..4)) {
        let others = others.into_iter().map(|(name, pem)| (name.parse().expect("a trust domain"), pem)).collect();
        let roots = TrustRoots { name: RootsName, pem, others };
        let any = encode::trust_roots(&roots);
        prop_assert_eq!(&any, &encode::trust_roots(&roots.clone()));
        prop_assert_eq!(decode::trust_roots(&any), Ok(roots));
    }

    #[test]
    fn a_resource_is_read_under_its_own_name_only(cluster in cluster(), other in cluster_name()) {
        let any = encode::cluster(&cluster);
        let name = cluster.name.to_string();
        let read = decode::decode(ResourceType::Cluster, &name, &any);
        prop_assert_eq!(read.as_ref().map(Resource::name), Ok(name));
        if other != cluster.name {
            let refused = decode::decode(ResourceType::Cluster, &other.to_string(), &any);
            prop_assert_eq!(refused.map_err(|rejection| rejection.path), Err("name".to_owned()));
        }
    }

    #[test]
    fn garbage_does_not_panic(value in vec(any::<u8>(), 0..300)) {
        read_as_each_type(value);
    }

    /// Bytes that are nearly right get further than garbage does.
    #[test]
    fn damaged_messages_do_not_panic(
        config in route_config(),
        listener in listener(),
        cluster in cluster(),
        (endpoints, _) in shuffled_endpoints(),
        at in any::<Index>(),
        byte in any::<u8>(),
    ) {
        let encoded = [
            encode::route_config(&config),
            encode::listener(&listener),
            encode::cluster(&cluster),
            encode::endpoints(&endpoints),
        ];
        for Any { value, .. } in encoded {
            let at = at.index(value.len());
            read_as_each_type(value[..at].to_vec());
            let mut damaged = value;
            damaged[at] = byte;
            read_as_each_type(damaged);
        }
    }
}

fn read_as_each_type(value: Vec<u8>) {
    for kind in ResourceType::ALL {
        let any = Any {
            type_url: kind.url().to_owned(),
            value: value.clone(),
        };
        // What is refused says so in few words, whatever was held.
        if let Err(rejection) = decode::decode(kind, "a.b:80", &any) {
            assert!(rejection.to_string().len() < 2000, "{rejection}");
        }
    }
}

fn label() -> impl Strategy<Value = Label> {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(|text| text.parse().expect("a label"))
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (label(), label()).prop_map(|(namespace, service)| ServiceName { namespace, service })
}

fn port() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|port| NonZeroU16::new(port).expect("it is not 0"))
}

fn cluster_name() -> impl Strategy<Value = ClusterName> {
    (service_name(), port()).prop_map(|(service, port)| ClusterName { service, port })
}

fn route_name() -> impl Strategy<Value = RouteName> {
    let consumers = prop_oneof![Just(Consumers::Any), label().prop_map(Consumers::Namespace)];
    (cluster_name(), consumers).prop_map(|(cluster, consumers)| RouteName { cluster, consumers })
}

fn listener() -> impl Strategy<Value = Listener> {
    let routes = prop_oneof![
        route_name().prop_map(RouteSource::Named),
        virtual_hosts().prop_map(RouteSource::Inline),
        cluster_name().prop_map(RouteSource::Tcp),
    ];
    (service_name(), option::of(port()), routes).prop_map(|(service, port, routes)| Listener {
        name: ListenerName { service, port },
        routes,
    })
}

fn route_config() -> impl Strategy<Value = RouteConfig> {
    (route_name(), virtual_hosts()).prop_map(|(name, virtual_hosts)| RouteConfig { name, virtual_hosts })
}

fn virtual_hosts() -> impl Strategy<Value = Vec<VirtualHost>> {
    let host = (".{1,20}", vec(host_match(), 1..4), btree_map(".{1,30}", route(), 0..4));
    vec(host, 0..3).prop_map(|hosts| {
        let mut taken = HashSet::new();
        let hosts = hosts.into_iter().map(|(name, hosts, routes)| VirtualHost {
            name,
            hosts: hosts.into_iter().filter(|host| taken.insert(host.clone())).collect(),
            routes: routes
                .into_iter()
                .map(|(name, route)| Route { name, ..route })
                .collect(),
        });
        hosts.filter(|host| !host.hosts.is_empty()).collect()
    })
}

fn host_match() -> impl Strategy<Value = HostMatch> {
    prop_oneof![
        Just(HostMatch::Any),
        dns_name().prop_map(HostMatch::Suffix),
        dns_name().prop_map(HostMatch::Exact),
        any::<std::net::Ipv6Addr>().prop_map(|address| HostMatch::Exact(format!("[{address}]"))),
    ]
}

fn dns_name() -> impl Strategy<Value = String> {
    // No part begins or ends with a hyphen, and the last is no number.
    "([a-z0-9_]([a-z0-9_-]{0,6}[a-z0-9_])?\\.){0,3}[a-z]([a-z0-9_-]{0,6}[a-z0-9_])?"
}

/// Routes; the name is given by who collects them.
fn route() -> BoxedStrategy<Route> {
    let filters = (
        option::of(cors()),
        option::of(rate_limit()),
        option::of(fault()),
        option::of(0..8_u8),
        option::of(held_policy()),
    );
    let parts = (route_match(), header_changes(), header_changes(), filters, action());
    parts
        .prop_map(|(matches, request_headers, response_headers, filters, mut action)| {
            let (cors, rate_limit, fault, level, policy) = filters;
            let rewrites: Vec<_> = match &mut action {
                Action::Forward(forward) => {
                    let of_backends = forward.backends.iter_mut().flat_map(|backend| {
                        let redirect = backend.filters.redirect.iter_mut().map(|redirect| &mut redirect.path);
                        redirect.chain([&mut backend.filters.rewrite.path])
                    });
                    of_backends.chain([&mut forward.rewrite.path]).collect()
                }
                Action::Redirect(redirect) => vec![&mut redirect.path],
                Action::Respond(_) => Vec::new(),
            };
            // Only a prefix that is matched can be replaced.
            if !matches!(matches.path, PathMatch::Prefix(_)) {
                for rewrite in rewrites {
                    if matches!(rewrite, Some(PathRewrite::Prefix(_))) {
                        *rewrite = None;
                    }
                }
            }
            Route {
                name: String::new(),
                matches,
                request_headers,
                response_headers,
                cors,
                rate_limit,
                fault,
                priority: level.and_then(Priority::from_level),
                policy,
                action,
            }
        })
        .boxed()
}

fn held_policy() -> impl Strategy<Value = HeldPolicy> {
    ("[a-z]{1,9}", vec("[a-z]{1,9}", 0..3)).prop_map(|(name, fields)| HeldPolicy { name, fields })
}

fn fault() -> impl Strategy<Value = Fault> {
    let answer = prop_oneof![
        status(200..=599).prop_map(AbortAnswer::Http),
        (1..=16_u32).prop_map(AbortAnswer::Grpc),
    ];
    let delay = (0..=1_000_000_u32, duration()).prop_map(|(parts_per_million, duration)| FaultDelay {
        parts_per_million,
        duration,
    });
    let abort = (0..=1_000_000_u32, answer).prop_map(|(parts_per_million, answer)| FaultAbort {
        parts_per_million,
        answer,
    });
    (option::of(delay), option::of(abort)).prop_map(|(delay, abort)| Fault { delay, abort })
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let parts = (".{1,30}", 1..=u32::MAX, duration(), 1..=u32::MAX);
    parts.prop_map(|(name, requests, per, burst)| RateLimit {
        name,
        requests,
        per,
        burst,
    })
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        path().prop_map(PathMatch::Exact),
        prefix().prop_map(PathMatch::Prefix),
        regex().prop_map(PathMatch::Regex),
    ];
    let headers = btree_map("[a-z][a-z0-9-]{0,10}", value_match("[ -~]{0,12}|[a-z字]{1,5}"), 0..3);
    let query = btree_map(".{1,12}", value_match(".{0,12}"), 0..3);
    (path, option::of(method()), headers, query).prop_map(|(path, method, headers, query)| RouteMatch {
        path,
        method,
        headers: headers
            .into_iter()
            .map(|(name, value)| HeaderMatch {
                name: header_name(&name),
                value,
            })
            .collect(),
        query: query
            .into_iter()
            .map(|(name, value)| QueryMatch { name, value })
            .collect(),
    })
}

fn header_name(text: &str) -> HeaderName {
    text.parse().expect("a header's name")
}

fn value_match(exact: &'static str) -> impl Strategy<Value = ValueMatch> {
    prop_oneof![exact.prop_map(ValueMatch::Exact), regex().prop_map(ValueMatch::Regex)]
}

fn regex() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("/v[0-9]+/.*".to_owned()),
        4 => ".{1,30}",
        1 => Just("字".repeat(4096)),
    ]
}

fn method() -> impl Strategy<Value = Method> {
    "GET|POST|DELETE|OPTIONS|PURGE|get|[A-Z!#$%&'*+.^_`|~0-9-]{1,10}".prop_map(|text| text.parse().expect("a method"))
}

const SEGMENT: &str = "/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2}){1,6}";

fn path() -> impl Strategy<Value = String> {
    let segments = vec(SEGMENT, 0..4).prop_map(|segments| segments.concat());
    (segments, prop_oneof![Just(""), Just("/")]).prop_map(|(path, end)| match (path.is_empty(), end) {
        (true, _) => "/".to_owned(),
        (false, end) => path + end,
    })
}

/// Prefixes in the canonical form.
fn prefix() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("/".to_owned()),
        vec(SEGMENT, 1..4).prop_map(|segments| segments.concat())
    ]
}

fn header_changes() -> impl Strategy<Value = HeaderChanges> {
    let name = || "[a-z][a-z0-9_-]{0,10}".prop_map(|text| header_name(&text));
    let value = || {
        let byte = prop_oneof![Just(b'%'), 0x20..=0x7e_u8, 0x80..=0xff_u8, Just(b'\t')];
        vec(byte, 0..10).prop_map(|bytes| HeaderValue::from_bytes(&bytes).expect("a header's value"))
    };
    let fields = move || vec((name(), value()), 0..3);
    (vec(name(), 0..3), fields(), fields()).prop_map(|(remove, set, add)| HeaderChanges { remove, set, add })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => forward().prop_map(Action::Forward),
        2 => redirect().prop_map(Action::Redirect),
        1 => (status(200..=599), ".{0,40}")
            .prop_map(|(status, body)| Action::Respond(DirectResponse { status, body })),
    ]
}

/// Forwards to some backends, to one, to none, and to those without weight.
fn forward() -> impl Strategy<Value = Forward> {
    let weight = prop_oneof![Just(0), Just(1), 1..=1_000_000_u32];
    let filters = prop_oneof![2 => Just(BackendFilters::default()), 1 => backend_filters()];
    let backend = (cluster_name(), weight, filters).prop_map(|(cluster, weight, filters)| WeightedBackend {
        cluster,
        weight,
        filters,
    });
    let rewrite = (option::of(dns_name()), option::of(path_rewrite()));
    let timeouts = (option::of(duration()), option::of(duration()));
    let retry = option::of(retry_policy());
    let parts = (vec(backend, 0..4), mirrors(), rewrite, timeouts, retry);
    parts.prop_map(|(backends, mirrors, rewrite, timeouts, retry)| Forward {
        backends,
        mirrors,
        rewrite: Rewrite {
            host: rewrite.0,
            path: rewrite.1,
        },
        timeouts: Timeouts {
            request: timeouts.0,
            backend_request: timeouts.1,
        },
        retry,
    })
}

/// On one word or status at the least: without any there is no policy.
fn retry_policy() -> impl Strategy<Value = RetryPolicy> {
    let words = btree_set(select(RetryOn::ALL.to_vec()), 0..4);
    let backoff = (duration(), duration()).prop_map(|(a, b)| Backoff {
        base: a.min(b),
        max: a.max(b),
    });
    let methods = select(vec![RetryMethods::Idempotent, RetryMethods::Any]);
    let parts = (any::<u32>(), words, vec(status(400..=599), 0..4), backoff, methods);
    parts.prop_map(|(attempts, mut on, codes, backoff, methods)| {
        if on.is_empty() && codes.is_empty() {
            on.insert(RetryOn::Reset);
        }
        RetryPolicy {
            attempts,
            on,
            codes,
            backoff,
            methods,
        }
    })
}

fn mirrors() -> impl Strategy<Value = Vec<Mirror>> {
    let mirror = (cluster_name(), 0..=1_000_000_u32).prop_map(|(cluster, parts_per_million)| Mirror {
        cluster,
        parts_per_million,
    });
    vec(mirror, 0..3)
}

fn backend_filters() -> impl Strategy<Value = BackendFilters> {
    let parts = (
        header_changes(),
        header_changes(),
        option::of(dns_name()),
        option::of(path_rewrite()),
        option::of(redirect()),
        mirrors(),
        option::of(cors()),
    );
    parts.prop_map(
        |(request_headers, response_headers, host, path, redirect, mirrors, cors)| BackendFilters {
            request_headers,
            response_headers,
            rewrite: Rewrite { host, path },
            redirect,
            mirrors,
            cors,
        },
    )
}

/// Boxed, as the strategies around it are large for a stack.
fn cors() -> BoxedStrategy<Cors> {
    let scheme = select(vec![Scheme::Http, Scheme::Https]);
    let port = prop_oneof![select(vec![80, 443]), 1..=u16::MAX];
    let origin = (scheme, host_match(), port).prop_map(|(scheme, host, port)| {
        let port = NonZeroU16::new(port).expect("it is not 0");
        OriginMatch { scheme, host, port }
    });
    let name = || "[a-z][a-z0-9-]{0,10}".prop_map(|text| header_name(&text));
    let verb = method().prop_filter("that is all of them", |method| method.as_str() != "*");
    let lists = (listed(origin), listed(verb), listed(name()), listed(name()));
    (lists, any::<bool>(), 1..=u32::MAX)
        .prop_map(|(lists, credentials, max_age_seconds)| Cors {
            origins: lists.0,
            credentials,
            methods: lists.1,
            request_fields: lists.2,
            exposed_fields: lists.3,
            max_age_seconds,
        })
        .boxed()
}

fn listed<T: Clone + std::fmt::Debug + Eq + std::hash::Hash>(
    one: impl Strategy<Value = T>,
) -> impl Strategy<Value = Listed<T>> {
    prop_oneof![
        1 => Just(Listed::Any),
        4 => hash_set(one, 0..4).prop_map(|listed| Listed::These(listed.into_iter().collect())),
    ]
}

fn path_rewrite() -> impl Strategy<Value = PathRewrite> {
    prop_oneof![
        path().prop_map(PathRewrite::Full),
        prefix().prop_map(PathRewrite::Prefix)
    ]
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let scheme = option::of(select(vec![Scheme::Http, Scheme::Https]));
    let status = select(vec![301, 302, 303, 307, 308]).prop_map(|code| StatusCode::from_u16(code).expect("a status"));
    let parts = (
        scheme,
        option::of(dns_name()),
        option::of(port()),
        option::of(path_rewrite()),
        status,
    );
    parts.prop_map(|(scheme, host, port, path, status)| Redirect {
        scheme,
        host,
        port,
        path,
        status,
    })
}

fn status(range: RangeInclusive<u16>) -> impl Strategy<Value = StatusCode> {
    range.prop_map(|code| StatusCode::from_u16(code).expect("a status"))
}

/// Durations longer than 0, up to the longest.
fn duration() -> impl Strategy<Value = Duration> {
    let nanos = prop_oneof![Just(0), 0..1_000_000_000_u32];
    let seconds = prop_oneof![0..100_u64, 0..9_000_000_000_u64];
    let some = (seconds, nanos).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos));
    some.prop_map(|duration| duration.max(Duration::from_nanos(1)))
}

fn outlier_detection() -> impl Strategy<Value = OutlierDetection> {
    let consecutive = || option::of(1..=u32::MAX);
    let share = (1..=100_u8, any::<u32>(), any::<u32>());
    let share = share.prop_map(|(threshold, min_requests, min_hosts)| FailurePercentage {
        threshold,
        min_requests,
        min_hosts,
    });
    let consecutive = (consecutive(), consecutive(), consecutive());
    let times = (duration(), duration(), duration());
    (consecutive, option::of(share), times, 1..=100_u8).prop_map(
        |(consecutive, failure_percentage, (interval, one, other), max_ejection_percent)| OutlierDetection {
            consecutive_5xx_errors: consecutive.0,
            consecutive_gateway_errors: consecutive.1,
            consecutive_local_origin_failures: consecutive.2,
            failure_percentage,
            interval,
            base_ejection_time: one.min(other),
            max_ejection_time: one.max(other),
            max_ejection_percent,
        },
    )
}

fn health_check(protocol: AppProtocol) -> impl Strategy<Value = HealthCheck> {
    let host = select(vec![
        None,
        Some("a.b"),
        Some("a.b:80"),
        Some("10.0.0.1"),
        Some("[::1]:80"),
    ]);
    let path = select(vec!["/", "/healthz", "/a/b?c=d", "/%20"]);
    let expected = btree_set(status(100..=599), 1..9);
    let http = (host, path, expected).prop_map(|(host, path, expected)| HealthCheckKind::Http {
        host: host.map(str::to_owned),
        path: path.to_owned(),
        expected: expected.into_iter().collect(),
    });
    let grpc = "[a-z.]{0,20}".prop_map(|service| HealthCheckKind::Grpc { service });
    let kind = match protocol {
        AppProtocol::Http1 => prop_oneof![http, Just(HealthCheckKind::Tcp)].boxed(),
        AppProtocol::Http2 | AppProtocol::Grpc => prop_oneof![http, grpc, Just(HealthCheckKind::Tcp)].boxed(),
        AppProtocol::Tcp => Just(HealthCheckKind::Tcp).boxed(),
    };
    (kind, duration(), duration(), 1..=u32::MAX, 1..=u32::MAX).prop_map(
        |(kind, interval, timeout, unhealthy_threshold, healthy_threshold)| HealthCheck {
            kind,
            interval,
            timeout,
            unhealthy_threshold,
            healthy_threshold,
        },
    )
}

fn slow_start() -> impl Strategy<Value = SlowStart> {
    let aggression = prop_oneof![Just(1.0), f64::MIN_POSITIVE..1e9];
    (duration(), aggression, 1..=100_u8).prop_map(|(window, aggression, min_weight_percent)| SlowStart {
        window,
        aggression,
        min_weight_percent,
    })
}

fn locality() -> impl Strategy<Value = LocalityPreference> {
    (100..=u32::MAX).prop_map(|overprovisioning_percent| LocalityPreference {
        overprovisioning_percent,
    })
}

fn pool() -> impl Strategy<Value = ConnectionPool> {
    let limit = || option::of(1..=u32::MAX);
    (duration(), limit(), limit()).prop_map(|(idle_timeout, max_requests_per_connection, max_concurrent_streams)| {
        ConnectionPool {
            idle_timeout,
            max_requests_per_connection,
            max_concurrent_streams,
        }
    })
}

fn backend_tls() -> impl Strategy<Value = BackendTls> {
    let certificate = vec(any::<u8>(), 1..200).prop_map(Certificate);
    let authorities = prop_oneof![
        Just(Authorities::System),
        vec(certificate, 1..3).prop_map(Authorities::Given),
    ];
    let name = prop_oneof![
        ("(\\*\\.)?", dns_name()).prop_map(|(any, name)| SubjectAltName::Dns(format!("{any}{name}"))),
        "[a-z]{1,4}://[!-~]{1,20}".prop_map(SubjectAltName::Uri),
    ];
    let verified = (dns_name(), authorities, vec(name, 0..3));
    let verified = verified.prop_map(|(hostname, authorities, mut subject_alt_names)| {
        // The same, said shorter.
        if subject_alt_names == [SubjectAltName::Dns(hostname.clone())] {
            subject_alt_names.clear();
        }
        BackendTls::Verified(Validation {
            hostname,
            authorities,
            subject_alt_names,
        })
    });
    prop_oneof![
        3 => verified,
        1 => "[ -~]{1,40}".prop_map(|why| BackendTls::Closed { why }),
    ]
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let protocol = select(vec![
        AppProtocol::Http1,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tcp,
    ]);
    protocol.prop_flat_map(cluster_that_speaks)
}

fn cluster_that_speaks(protocol: AppProtocol) -> BoxedStrategy<Cluster> {
    let balancing = prop_oneof![
        Just(Balancing::RoundRobin),
        duration().prop_map(|decay| Balancing::PeakEwma { decay })
    ];
    let limits = any::<(u32, u32, u32)>().prop_map(|(max_connections, max_pending, max_requests)| Limits {
        max_connections,
        max_pending,
        max_requests,
    });
    let breaker = (1..=100_u8, any::<u32>(), duration(), duration(), 1..=u32::MAX);
    let breaker = breaker.prop_map(
        |(failure_percent, min_requests, window, open_for, half_open_requests)| FailureBreaker {
            failure_percent,
            min_requests,
            window,
            open_for,
            half_open_requests,
        },
    );
    let budget = (0..=100_u8, any::<u32>(), duration());
    let budget = budget.prop_map(|(percent, min_per_second, window)| RetryBudget {
        percent,
        min_per_second,
        window,
    });
    let parts = (
        cluster_name(),
        option::of(health_check(protocol)).boxed(),
        duration(),
        balancing,
        limits,
        option::of(breaker),
        (
            option::of(outlier_detection()).boxed(),
            1..=100_u8,
            option::of(slow_start()),
            option::of(locality()),
            pool(),
            vec("[A-Za-z]{1,8}/[a-z]{1,8}/[a-z]{1,8}", 0..3),
            option::of(backend_tls()).boxed(),
        ),
        budget,
    );
    let clusters = parts.prop_map(
        move |(name, health_check, connect_timeout, balancing, limits, breaker, choice, retry_budget)| Cluster {
            name,
            protocol,
            connect_timeout,
            balancing,
            limits,
            breaker,
            outlier_detection: choice.0,
            health_check,
            slow_start: choice.2,
            locality: choice.3,
            pool: match protocol {
                AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => choice.4,
                // No connection carries a second one.
                AppProtocol::Tcp => ConnectionPool::default(),
            },
            panic_percent: choice.1,
            retry_budget,
            sources: choice.5,
            backend_tls: choice.6,
        },
    );
    // Boxed: what a test has on its stack is not without a bound.
    clusters.boxed()
}

fn workload_policy() -> impl Strategy<Value = WorkloadPolicy> {
    let access_log = select(vec![AccessLog::All, AccessLog::Errors, AccessLog::Off]);
    let header = select(vec!["x-department", "user-agent", "accept", "x-a"]).prop_map(header_name);
    let tags = btree_map("[a-z.]{1,8}", header, 0..4);
    let path = "/[a-z/]{0,8}";
    let excluded = prop_oneof![path.prop_map(ExcludedPath::Exact), path.prop_map(ExcludedPath::Prefix)];
    let parts = (
        (label(), label()),
        option::of(access_log),
        option::of(0..=10_000_u16),
        tags,
        vec(excluded, 0..4),
        (mutual_tls(), select(vec![Egress::Refuse, Egress::Passthrough])),
    );
    parts.prop_map(
        |(
            (namespace, name),
            access_log,
            sampling_parts_per_ten_thousand,
            tags,
            excluded_paths,
            (mutual_tls, egress),
        )| {
            WorkloadPolicy {
                workload: WorkloadName { namespace, name },
                telemetry: Telemetry {
                    access_log,
                    sampling_parts_per_ten_thousand,
                    tags: tags
                        .into_iter()
                        .map(|(name, header)| SpanTag { name, header })
                        .collect(),
                    excluded_paths,
                },
                mutual_tls,
                egress,
            }
        },
    )
}

fn mutual_tls() -> impl Strategy<Value = MutualTls> {
    let mode = || select(vec![Mode::Strict, Mode::Permissive, Mode::Off]);
    let ports = btree_map(port(), mode(), 0..4);
    (mode(), ports).prop_map(|(mode, ports)| MutualTls { mode, ports })
}

fn shuffled_endpoints() -> impl Strategy<Value = (ClusterEndpoints, ClusterEndpoints)> {
    let endpoints = btree_map((any::<IpAddr>(), port()), endpoint(), 0..8);
    let given = (cluster_name(), endpoints).prop_map(|(cluster, endpoints)| {
        let endpoints = endpoints.into_iter().map(|((ip, port), endpoint)| Endpoint {
            address: SocketAddr::new(ip, port.get()),
            ..endpoint
        });
        (cluster, endpoints.collect::<Vec<_>>())
    });
    given.prop_flat_map(|(cluster, endpoints)| {
        let given = ClusterEndpoints {
            cluster: cluster.clone(),
            endpoints: endpoints.clone(),
        };
        let shuffled = Just(endpoints).prop_shuffle();
        (
            Just(given),
            shuffled.prop_map(move |endpoints| ClusterEndpoints {
                cluster: cluster.clone(),
                endpoints,
            }),
        )
    })
}

/// Endpoints; the address is given by who collects them.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let health = select(vec![
        EndpointHealth::Healthy,
        EndpointHealth::Unhealthy,
        EndpointHealth::Draining,
    ]);
    let place = || prop_oneof![Just(String::new()), "[a-c]", ".{1,10}"];
    let locality = (place(), place(), place()).prop_map(|(region, zone, site)| Locality { region, zone, site });
    let workload = (label(), label()).prop_map(|(namespace, name)| WorkloadName { namespace, name });
    let peer = select(vec![Peer::WeirProxy, Peer::Plain]);
    let identity = option::of(("[a-z0-9._-]{1,12}", label()));
    let parts = (health, locality, option::of(workload), peer, identity);
    parts.prop_map(|(health, locality, workload, peer, identity)| {
        // Nobody but a workload's weir proxy has one.
        let namespace = workload.as_ref().filter(|_| peer == Peer::WeirProxy);
        let namespace = namespace.map(|workload| workload.namespace.clone());
        let identity = namespace
            .zip(identity)
            .map(|(namespace, (trust_domain, account))| SpiffeId {
                trust_domain: trust_domain.parse().expect("a trust domain"),
                namespace,
                account,
            });
        Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            health,
            locality,
            workload,
            peer,
            identity: identity.map(Arc::new),
        }
    })
}
