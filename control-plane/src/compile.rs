//! From the store's objects to what proxies are told: computed on demand, one name at a time, from an [`Index`]. Pure.

pub(crate) mod backend_tls;
mod cors;
#[cfg(test)]
mod effect;
pub(crate) mod endpoints;
#[cfg(test)]
pub(crate) mod fixture;
mod grpc_route;
mod hosts;
mod http_route;
pub(crate) mod index;
pub(crate) mod mutual_tls;
pub(crate) mod outbound;
pub(crate) mod references;
pub(crate) mod route_policies;
pub(crate) mod routes;
mod rules;
mod trust_domains;
pub(crate) mod wanted;
pub(crate) mod workload_policy;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use weir_api::backend_policy::{self, BackendPolicySpec, HealthCheckType};
use weir_api::service::{self, ServicePort, ServiceSpec};
use weir_api::{FieldError, Key, Object, RouteSpec, Spec};
use weir_policy::model;
use weir_policy::names::{ClusterName, Consumers, Label, ListenerName, RouteName, ServiceName};
use weir_policy::spiffe::TrustDomain;

use index::{Index, Of};

use crate::objects::Check;

/// A resource with what it was made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Compiled<T> {
    /// What a proxy is told.
    pub(crate) resource: T,
    /// The objects that had a part in it, with their generations.
    pub(crate) sources: Vec<(Key, i64)>,
}

/// The version of a resource: 128 bits of FNV-1a over its encoding (draft-eastlake-fnv, section 2 and 5). It tells
/// contents apart for one purpose only, not to send what a client has; nobody gains by a collision of their own making.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version(pub(crate) u128);

impl Version {
    /// The version of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Version {
        const OFFSET_BASIS: u128 = 0x6c62272e07bb014262b821756295c58d;
        const PRIME: u128 = 0x0000000001000000000000000000013b;
        Version(bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
        }))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no version of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a version of 32 hexadecimal digits")]
pub(crate) struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = if hex { u128::from_str_radix(text, 16).ok() } else { None };
        number.map(Version).ok_or(NotAVersion)
    }
}

/// What clients of a namespace reach by a name: the routes of the port it names, or that it leaves open in one way
/// only: 80, else the only port; where the port carries TCP, the cluster alone. Left open in several ways, it is
/// answered with a refusal that lists the ports. `None`: no such service or port.
pub(crate) fn listener(
    name: &ListenerName,
    client_namespace: &Label,
    index: &Index,
) -> Option<Compiled<model::Listener>> {
    let service = index.service(&name.service)?;
    let mut sources = vec![source(service.object)];
    let has = |wanted: u16| {
        service
            .spec
            .ports
            .iter()
            .map(|port| port.port)
            .find(|port| port.get() == wanted)
    };
    let port = match (name.port, service.spec.ports.as_slice()) {
        (Some(port), _) => Some(has(port.get())?),
        (None, [only]) => Some(only.port),
        (None, _) => has(80),
    };
    let routes = match port {
        Some(port) => {
            let cluster = ClusterName {
                service: name.service.clone(),
                port,
            };
            if carries_tcp(&cluster, index) {
                let resource = model::Listener {
                    name: name.clone(),
                    routes: model::RouteSource::Tcp(cluster),
                };
                return Some(Compiled { resource, sources });
            }
            let consumer = routes::consumer_routes(&cluster, client_namespace, index);
            sources.extend(consumer.iter().map(|route| source(route.object)));
            let consumers = match consumer.as_slice() {
                [] => Consumers::Any,
                _ => Consumers::Namespace(client_namespace.clone()),
            };
            model::RouteSource::Named(RouteName { cluster, consumers })
        }
        None => model::RouteSource::Inline(vec![ports_refusal(name, &service.spec.ports)]),
    };
    let resource = model::Listener {
        name: name.clone(),
        routes,
    };
    Some(Compiled { resource, sources })
}

/// How the endpoints of a service port are used. `None`: no such service or port.
pub(crate) fn cluster(name: &ClusterName, index: &Index) -> Option<Compiled<model::Cluster>> {
    let service = index.service(&name.service)?;
    let port = service.spec.ports.iter().find(|port| port.port == name.port)?;
    let mut sources = vec![source(service.object)];
    let policies = index.policies(&name.service);
    let policy = policy_for(&name.service, service.spec, port, &policies);
    sources.extend(policy.map(|policy| source(policy.object)));
    let tls_policies = index.backend_tls_policies(&name.service);
    let backend_tls = backend_tls::policy_for(&name.service, port, &tls_policies).map(|policy| {
        let (tls, from) = backend_tls::compiled(policy, index);
        sources.extend(from);
        tls
    });
    let spec = policy.map(|policy| policy.spec);
    let balancing = spec.and_then(|spec| spec.balancing).unwrap_or_default();
    let circuit_breaker = spec.and_then(|spec| spec.circuit_breaker).unwrap_or_default();
    let retry_budget = spec.and_then(|spec| spec.retry_budget).unwrap_or_default();
    let pool = spec.and_then(|spec| spec.connection_pool).unwrap_or_default();
    let resource = model::Cluster {
        name: name.clone(),
        protocol: protocol(port),
        connect_timeout: spec
            .and_then(|spec| spec.connect_timeout)
            .unwrap_or(backend_policy::CONNECT_TIMEOUT),
        balancing: match balancing {
            backend_policy::Balancing::PeakEwma { decay } => model::Balancing::PeakEwma { decay },
            backend_policy::Balancing::RoundRobin => model::Balancing::RoundRobin,
        },
        limits: model::Limits {
            max_connections: circuit_breaker.max_connections,
            max_pending: circuit_breaker.max_pending_requests,
            max_requests: circuit_breaker.max_requests,
        },
        breaker: circuit_breaker.failures.map(|failures| model::FailureBreaker {
            failure_percent: failures.percent,
            min_requests: failures.min_requests,
            window: failures.window,
            open_for: failures.open_for,
            half_open_requests: failures.half_open_requests,
        }),
        outlier_detection: spec.and_then(|spec| spec.outlier_detection).map(outlier_detection),
        health_check: spec.and_then(|spec| spec.health_check.as_deref()).map(health_check),
        slow_start: spec.and_then(|spec| spec.slow_start).map(|slow| model::SlowStart {
            window: slow.window,
            aggression: f64::from(slow.aggression_percent) / 100.0,
            min_weight_percent: slow.min_weight_percent,
        }),
        locality: spec
            .and_then(|spec| spec.locality)
            .map(|locality| model::LocalityPreference {
                overprovisioning_percent: locality.overprovisioning_percent,
            }),
        pool: match protocol(port) {
            // A policy that asks for another one does not hold for such a port.
            model::AppProtocol::Tcp => model::ConnectionPool::default(),
            model::AppProtocol::Http1 | model::AppProtocol::Http2 | model::AppProtocol::Grpc => model::ConnectionPool {
                idle_timeout: pool.idle_timeout,
                max_requests_per_connection: pool.max_requests_per_connection,
                max_concurrent_streams: pool.max_concurrent_streams,
            },
        },
        panic_percent: spec
            .and_then(|spec| spec.panic_percent)
            .unwrap_or(backend_policy::PANIC_PERCENT),
        retry_budget: model::RetryBudget {
            percent: retry_budget.percent,
            min_per_second: retry_budget.min_per_second,
            window: retry_budget.window,
        },
        backend_tls,
        sources: sources.iter().map(|(key, _)| key.to_string()).collect(),
    };
    Some(Compiled { resource, sources })
}

fn outlier_detection(spec: backend_policy::OutlierDetection) -> model::OutlierDetection {
    let spec = spec.filled();
    model::OutlierDetection {
        consecutive_5xx_errors: spec.consecutive_5xx_errors,
        consecutive_gateway_errors: spec.consecutive_gateway_errors,
        consecutive_local_origin_failures: spec.consecutive_local_origin_failures,
        failure_percentage: spec.failure_percentage.map(|rule| model::FailurePercentage {
            threshold: rule.threshold,
            min_requests: rule.min_requests,
            min_hosts: rule.min_hosts,
        }),
        interval: spec.interval,
        base_ejection_time: spec.base_ejection_time,
        max_ejection_time: spec.max_ejection_time.unwrap_or(spec.base_ejection_time),
        max_ejection_percent: spec.max_ejection_percent,
    }
}

fn health_check(spec: &backend_policy::HealthCheck) -> model::HealthCheck {
    let kind = match (spec.kind, &spec.http) {
        (HealthCheckType::Http, Some(http)) => {
            let statuses = http.expected_statuses.iter();
            let mut expected: Vec<_> = statuses
                .filter_map(|status| http::StatusCode::from_u16(*status).ok())
                .collect();
            expected.sort_unstable();
            model::HealthCheckKind::Http {
                host: http.host.clone(),
                path: http.path.clone(),
                expected,
            }
        }
        // What was read holds no Http check without a path.
        (HealthCheckType::Http, None) | (HealthCheckType::Tcp, _) => model::HealthCheckKind::Tcp,
        (HealthCheckType::Grpc, _) => model::HealthCheckKind::Grpc {
            service: spec.grpc.clone().unwrap_or_default().service,
        },
    };
    model::HealthCheck {
        kind,
        interval: spec.interval,
        timeout: spec.timeout,
        unhealthy_threshold: spec.unhealthy_threshold,
        healthy_threshold: spec.healthy_threshold,
    }
}

/// Why a policy can't hold for a service, or for its port of this name: it is taken whole or not at all.
pub(crate) fn misfit(spec: &BackendPolicySpec, service: &ServiceSpec, section: Option<&str>) -> Option<String> {
    let targeted = |port: &&ServicePort| section.is_none() || port.name.as_deref() == section;
    let that_speaks = |wanted: model::AppProtocol| {
        let mut ports = service.ports.iter().filter(targeted);
        let port = ports.find(|port| protocol(port) == wanted)?;
        Some(
            port.name
                .as_ref()
                .map_or_else(|| port.port.to_string(), |name| format!("{name:?}")),
        )
    };
    let kind = spec.health_check.as_ref().map(|check| check.kind);
    if kind == Some(HealthCheckType::Grpc)
        && let Some(port) = that_speaks(model::AppProtocol::Http1)
    {
        return Some(format!(
            "healthCheck.type: Grpc can't be asked of port {port}, which speaks HTTP/1.1: set its appProtocol, or name \
             another port in sectionName"
        ));
    }
    let of_http = [
        ("healthCheck.type: Grpc", kind == Some(HealthCheckType::Grpc)),
        ("healthCheck.type: Http", kind == Some(HealthCheckType::Http)),
        ("connectionPool", spec.connection_pool.is_some()),
        ("retryBudget", spec.retry_budget.is_some()),
    ];
    let (field, _) = of_http.iter().find(|(_, given)| *given)?;
    let port = that_speaks(model::AppProtocol::Tcp)?;
    Some(format!(
        "{field} can't be asked of port {port}, which carries TCP: leave it out, or name another port in sectionName"
    ))
}

/// Compiles what one object alone allows, so that what no proxy could use is refused when it is written.
///
/// # Errors
/// All that is wrong with it, by field.
pub(crate) fn check(object: &Object) -> Result<(), Vec<FieldError>> {
    match &object.spec {
        Spec::HttpRoute(spec) => routes::check(object, RouteSpec::Http(spec)),
        Spec::GrpcRoute(spec) => routes::check(object, RouteSpec::Grpc(spec)),
        Spec::Namespace(_)
        | Spec::MeshConfig(_)
        | Spec::ConfigMap(_)
        | Spec::BackendTlsPolicy(_)
        | Spec::Service(_)
        | Spec::EndpointSlice(_)
        | Spec::Workload(_)
        | Spec::BackendPolicy(_)
        | Spec::RoutePolicy(_)
        | Spec::TelemetryPolicy(_)
        | Spec::ReferenceGrant(_) => Ok(()),
    }
}

/// What is tried with everything that is written, in a mesh of this trust domain: see [`check`]. The roots of other
/// trust domains are looked at as well, by the time that it is then.
pub(crate) fn admission(own: TrustDomain) -> Check {
    Arc::new(move |object, held| match (&object.spec, held.map(|held| &held.spec)) {
        (Spec::MeshConfig(spec), Some(Spec::MeshConfig(held))) => {
            trust_domains::check(spec, &held.trust_domains, &own, SystemTime::now())
        }
        (Spec::MeshConfig(spec), _) => trust_domains::check(spec, &[], &own, SystemTime::now()),
        _ => check(object),
    })
}

/// The policy that holds for a port: one for the port by name before one for the whole service, then the older. One
/// that can't hold for what it claims stands in nobody's way.
pub(crate) fn policy_for<'a, 'b>(
    name: &ServiceName,
    service: &ServiceSpec,
    port: &ServicePort,
    oldest_first: &'a [Of<'b, BackendPolicySpec>],
) -> Option<&'a Of<'b, BackendPolicySpec>> {
    let oldest = |section: Option<&str>| {
        let claims = |policy: &&Of<'_, BackendPolicySpec>| {
            let mut targets = policy.spec.target_refs.iter();
            targets.any(|target| target.name == name.service.as_str() && target.section_name.as_deref() == section)
        };
        let mut claimants = oldest_first.iter().filter(claims);
        claimants.find(|policy| misfit(policy.spec, service, section).is_none())
    };
    let by_port = port.name.as_deref().and_then(|section| oldest(Some(section)));
    by_port.or_else(|| oldest(None))
}

/// By `appProtocol`; else by the port's name; else HTTP/1.1.
pub(crate) fn protocol(port: &ServicePort) -> model::AppProtocol {
    let by_name = || port.name.as_deref().and_then(service::AppProtocol::by_name);
    match port.app_protocol.or_else(by_name) {
        Some(service::AppProtocol::Http1 | service::AppProtocol::WebSocket) | None => model::AppProtocol::Http1,
        Some(service::AppProtocol::Http2) => model::AppProtocol::Http2,
        Some(service::AppProtocol::Grpc) => model::AppProtocol::Grpc,
        Some(service::AppProtocol::Tcp) => model::AppProtocol::Tcp,
    }
}

/// Whether there is such a service port, and it carries TCP.
pub(crate) fn carries_tcp(name: &ClusterName, index: &Index) -> bool {
    let service = index.service(&name.service);
    let port = service.and_then(|service| service.spec.ports.iter().find(|port| port.port == name.port));
    port.is_some_and(|port| protocol(port) == model::AppProtocol::Tcp)
}

fn ports_refusal(name: &ListenerName, ports: &[ServicePort]) -> model::VirtualHost {
    let service = &name.service;
    let ports: Vec<String> = ports
        .iter()
        .map(|port| format!("{}.{}:{}", service.service, service.namespace, port.port))
        .collect();
    let body = format!(
        "{}.{} has several ports and none of them is 80: ask for one of {}\n",
        service.service,
        service.namespace,
        ports.join(", ")
    );
    model::VirtualHost {
        name: service.to_string(),
        hosts: vec![model::HostMatch::Any],
        routes: vec![
            rules::Done::only(model::Action::Respond(model::DirectResponse {
                status: http::StatusCode::NOT_FOUND,
                body,
            }))
            .route(
                format!("Service/{}/{}#ports", service.namespace, service.service),
                routes::every_path(),
            ),
        ],
    }
}

fn source(object: &Object) -> (Key, i64) {
    (object.key(), object.metadata.generation)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_api::RefKind;
    use weir_api::backend_policy::{CircuitBreaker, Failures, TargetRef};

    use super::*;

    #[track_caller]
    fn listens(ports: &[(&str, u16)], asked: &str, expect: Option<&str>) {
        let index = fixture::index([fixture::service("citizen", "portal", ports)]);
        let name: ListenerName = asked.parse().expect("a listener's name");
        let own = "citizen".parse().expect("a label");
        let answer = listener(&name, &own, &index).map(|compiled| match compiled.resource.routes {
            model::RouteSource::Named(name) => name.to_string(),
            model::RouteSource::Tcp(cluster) => format!("tcp to {cluster}"),
            model::RouteSource::Inline(hosts) => match &hosts[0].routes[0].action {
                model::Action::Respond(response) => response.body.trim_end().to_owned(),
                other => panic!("an answer: {other:?}"),
            },
        });
        assert_eq!(answer.as_deref(), expect, "{asked}");
    }

    #[test]
    fn a_name_without_port_is_80_or_the_only_one_or_a_list() {
        let portal = "portal.citizen.svc.cluster.local";
        listens(&[("a", 80), ("b", 90)], portal, Some("portal.citizen:80/*"));
        listens(&[("", 8080)], portal, Some("portal.citizen:8080/*"));
        let refusal = "portal.citizen has several ports and none of them is 80: ask for one of \
                       portal.citizen:81, portal.citizen:82";
        listens(&[("a", 81), ("b", 82)], portal, Some(refusal));
        listens(
            &[("a", 81), ("b", 82)],
            &format!("{portal}:82"),
            Some("portal.citizen:82/*"),
        );
        listens(&[("", 8080)], &format!("{portal}:80"), None);
        listens(&[("postgres", 5432)], portal, Some("tcp to portal.citizen:5432"));
        listens(
            &[("tcp-raw", 80), ("http", 81)],
            portal,
            Some("tcp to portal.citizen:80"),
        );
        listens(
            &[("tcp-raw", 80), ("http", 81)],
            &format!("{portal}:81"),
            Some("portal.citizen:81/*"),
        );
        listens(&[("", 8080)], "other.citizen.svc.cluster.local", None);
    }

    #[track_caller]
    fn speaks(name: Option<&str>, app_protocol: Option<service::AppProtocol>, expect: model::AppProtocol) {
        let port = ServicePort {
            name: name.map(str::to_owned),
            protocol: service::TransportProtocol::Tcp,
            port: fixture::port(80),
            target_port: None,
            app_protocol,
        };
        assert_eq!(protocol(&port), expect, "{name:?} {app_protocol:?}");
    }

    #[test]
    fn a_ports_protocol_is_its_app_protocol_or_told_by_its_name() {
        use model::AppProtocol::{Grpc, Http1, Http2, Tcp};
        speaks(None, None, Http1);
        speaks(Some("web"), None, Http1);
        speaks(Some("http"), None, Http1);
        speaks(Some("http2"), None, Http2);
        speaks(Some("h2c-internal"), None, Http2);
        speaks(Some("grpc"), None, Grpc);
        speaks(Some("grpc-api"), None, Grpc);
        speaks(Some("grpcx"), None, Http1);
        for name in ["tcp", "tcp-raw", "postgres", "redis-cache", "mysql"] {
            speaks(Some(name), None, Tcp);
        }
        speaks(Some("postgres"), Some(service::AppProtocol::Http1), Http1);
        speaks(Some("web"), Some(service::AppProtocol::Tcp), Tcp);
        speaks(Some("grpc"), Some(service::AppProtocol::Http1), Http1);
        speaks(Some("grpc"), Some(service::AppProtocol::WebSocket), Http1);
        speaks(None, Some(service::AppProtocol::Http2), Http2);
        speaks(None, Some(service::AppProtocol::Grpc), Grpc);
    }

    /// A policy for (service, port name), told apart by its limit of requests.
    fn policy(name: &str, second: u32, section: Option<&str>, max_requests: u32) -> Object {
        let spec = BackendPolicySpec {
            target_refs: vec![TargetRef {
                kind: RefKind::Service,
                name: "portal".to_owned(),
                section_name: section.map(str::to_owned),
            }],
            balancing: Some(backend_policy::Balancing::RoundRobin),
            circuit_breaker: Some(CircuitBreaker {
                max_requests,
                failures: Some(Failures::default()),
                ..CircuitBreaker::default()
            }),
            outlier_detection: Some(backend_policy::OutlierDetection::default()),
            health_check: Some(Box::new(backend_policy::HealthCheck {
                kind: HealthCheckType::Http,
                http: Some(backend_policy::HttpCheck {
                    path: "/healthz".to_owned(),
                    host: None,
                    expected_statuses: vec![204, 200],
                }),
                grpc: None,
                interval: Duration::from_secs(5),
                timeout: backend_policy::CHECK_TIMEOUT,
                unhealthy_threshold: backend_policy::UNHEALTHY_THRESHOLD,
                healthy_threshold: backend_policy::HEALTHY_THRESHOLD,
            })),
            slow_start: None,
            locality: Some(backend_policy::LocalityPreference::default()),
            connection_pool: Some(backend_policy::ConnectionPool {
                max_requests_per_connection: Some(7),
                max_concurrent_streams: Some(9),
                ..backend_policy::ConnectionPool::default()
            }),
            panic_percent: Some(30),
            connect_timeout: Some(Duration::from_millis(250)),
            ..BackendPolicySpec::default()
        };
        let mut object = Object::new("citizen", name, Spec::BackendPolicy(spec));
        object.metadata.creation_timestamp = Some(format!("2026-01-01T00:00:{second:02}Z"));
        object
    }

    #[test]
    fn the_older_policy_holds_and_one_for_the_port_goes_before() {
        let service = || fixture::service("citizen", "portal", &[("http", 80), ("grpc", 90)]);
        let limit = |index: &Index, port: &str| {
            let name = format!("portal.citizen:{port}").parse().expect("a cluster");
            cluster(&name, index).expect("there").resource.limits.max_requests
        };
        let index = fixture::index([service()]);
        assert_eq!(limit(&index, "80"), 1024);
        let index = fixture::index([service(), policy("a", 2, None, 2), policy("b", 1, None, 1)]);
        assert_eq!((limit(&index, "80"), limit(&index, "90")), (1, 1));
        let index = fixture::index([service(), policy("a", 1, None, 1), policy("b", 2, Some("grpc"), 2)]);
        assert_eq!((limit(&index, "80"), limit(&index, "90")), (1, 2));
        let name = "portal.citizen:90".parse().expect("a cluster");
        let compiled = cluster(&name, &index).expect("there");
        assert_eq!(compiled.sources.len(), 2, "the service and the policy that holds");
        let shown = ["Service/citizen/portal", "BackendPolicy/citizen/b"];
        assert_eq!(compiled.resource.sources, shown);
        assert_eq!(compiled.resource.protocol, model::AppProtocol::Grpc);
        assert_eq!(compiled.resource.balancing, model::Balancing::RoundRobin);
        assert_eq!(compiled.resource.connect_timeout, Duration::from_millis(250));
        assert_eq!(
            compiled.resource.breaker.map(|breaker| breaker.half_open_requests),
            Some(3)
        );
        assert_eq!(compiled.resource.panic_percent, 30);
        let check = compiled.resource.health_check.expect("asked for");
        let expected = [200, 204].map(|status| http::StatusCode::from_u16(status).expect("a status"));
        let kind = model::HealthCheckKind::Http {
            host: None,
            path: "/healthz".to_owned(),
            expected: expected.to_vec(),
        };
        assert_eq!((check.kind, check.interval), (kind, Duration::from_secs(5)));
        let pool = compiled.resource.pool;
        assert_eq!(
            (pool.max_requests_per_connection, pool.max_concurrent_streams),
            (Some(7), Some(9))
        );
        let locality = compiled.resource.locality.expect("asked for");
        assert_eq!(locality.overprovisioning_percent, 140);
        let outliers = compiled.resource.outlier_detection.expect("asked for");
        assert_eq!(
            (outliers.consecutive_5xx_errors, outliers.max_ejection_percent),
            (Some(5), 50)
        );
    }

    #[test]
    fn a_policy_that_can_not_hold_for_a_port_is_not_taken_in_part() {
        let service = fixture::service("citizen", "portal", &[("http", 80), ("grpc", 90)]);
        let mut policy = self::policy("a", 1, None, 1);
        let grpc = backend_policy::HealthCheck {
            kind: HealthCheckType::Grpc,
            http: None,
            grpc: None,
            interval: backend_policy::CHECK_INTERVAL,
            timeout: backend_policy::CHECK_TIMEOUT,
            unhealthy_threshold: 1,
            healthy_threshold: 1,
        };
        let Spec::BackendPolicy(spec) = &mut policy.spec else {
            panic!("a policy")
        };
        spec.health_check = Some(Box::new(grpc));
        let limit = |policy: &Object, port: &str| {
            let index = fixture::index([service.clone(), policy.clone()]);
            let name = format!("portal.citizen:{port}").parse().expect("a cluster");
            cluster(&name, &index).expect("there").resource.limits.max_requests
        };
        assert_eq!(
            (limit(&policy, "80"), limit(&policy, "90")),
            (1024, 1024),
            "nothing of it"
        );
        let index = fixture::index([service.clone(), policy.clone(), self::policy("b", 2, None, 2)]);
        let name = "portal.citizen:80".parse().expect("a cluster");
        let held = cluster(&name, &index).expect("there").resource.limits.max_requests;
        assert_eq!(held, 2, "a younger one that can hold does");
        if let Spec::BackendPolicy(spec) = &mut policy.spec {
            spec.target_refs[0].section_name = Some("grpc".to_owned());
        }
        assert_eq!((limit(&policy, "80"), limit(&policy, "90")), (1024, 1));
    }

    #[test]
    fn versions_are_of_the_bytes_and_read_back() {
        // Test vectors of draft-eastlake-fnv, appendix C, for 128 bits.
        assert_eq!(Version::of(b"").to_string(), "6c62272e07bb014262b821756295c58d");
        assert_eq!(Version::of(b"a").to_string(), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(Version::of(b"x").to_string().parse(), Ok(Version::of(b"x")));
        for text in [
            "",
            "0",
            "+c62272e07bb014262b821756295c58d",
            &"F".repeat(32),
            &"0".repeat(33),
        ] {
            assert_eq!(text.parse::<Version>(), Err(NotAVersion), "{text}");
        }
    }
}
