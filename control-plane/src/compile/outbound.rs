//! The routes of all services that an Envoy's app may call. They are one resource, so they are kept by service: a
//! change of one service computes that one anew.

use std::collections::{BTreeMap, BTreeSet};

use weir_api::mesh_config::Egress;
use weir_api::{Key, Kind};
use weir_policy::model;
use weir_policy::names::{ClusterName, Label, ListenerName, RouteName, ServiceName};
use weir_xds::EnvoyNode;
use weir_xds::encode::NotSent;
use weir_xds::encode::envoy::{self, Hosts};

use super::index::{Index, service_name};
use super::wanted::{Computed, attributed, whole};
use super::{listener, routes, source};

/// Whose calls to which services.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Scope {
    /// The caller's namespace.
    pub(crate) client: Label,
    /// The services; `None`: all of the mesh, at most [`SERVICES_MAX`].
    pub(crate) services: Option<BTreeSet<ServiceName>>,
}

impl Scope {
    /// What a node of this namespace asks for.
    pub(crate) fn of(node: &EnvoyNode, own: &Label) -> Scope {
        Scope {
            client: own.clone(),
            services: node.services.clone(),
        }
    }
}

/// The routes of all services of a scope.
#[derive(Debug)]
pub(crate) struct Table {
    scope: Scope,
    /// Services of the scope that exist.
    services: BTreeSet<ServiceName>,
    /// The first [`SERVICES_MAX`] of them.
    parts: BTreeMap<ServiceName, Routes>,
    /// How often the routes of a service were computed.
    computed: u64,
}

/// The routes of one service.
#[derive(Debug, Default)]
struct Routes {
    hosts: Hosts,
    clusters: BTreeSet<ClusterName>,
    sources: Vec<(Key, i64)>,
    /// Beside what the hosts do not say.
    not_sent: Vec<NotSent>,
}

impl Table {
    /// The table of a scope as it is now.
    pub(crate) fn new(scope: Scope, index: &Index) -> Table {
        let mut table = Table {
            services: BTreeSet::new(),
            parts: BTreeMap::new(),
            computed: 0,
            scope,
        };
        let all: BTreeSet<ServiceName> = match &table.scope.services {
            Some(services) => services.clone(),
            None => {
                let services = index.objects().keys().filter(|key| key.kind == Kind::Service);
                services
                    .filter_map(|key| service_name(&key.namespace, &key.name))
                    .collect()
            }
        };
        table.update(&all, index);
        table
    }

    /// Takes in changes of these services, which are of the scope.
    pub(crate) fn update(&mut self, touched: &BTreeSet<ServiceName>, index: &Index) {
        for service in touched {
            match index.service(service) {
                Some(_) => self.services.insert(service.clone()),
                None => self.services.remove(service),
            };
        }
        let given: BTreeSet<&ServiceName> = self.services.iter().take(SERVICES_MAX).collect();
        self.parts.retain(|service, _| given.contains(service));
        for service in given {
            if touched.contains(service) || !self.parts.contains_key(service) {
                self.computed += 1;
                self.parts
                    .insert(service.clone(), routes_of(service, &self.scope.client, index));
            }
        }
    }

    /// The clusters that any of the routes names.
    pub(crate) fn clusters(&self) -> BTreeSet<&ClusterName> {
        self.parts.values().flat_map(|routes| &routes.clusters).collect()
    }

    /// How often the routes of a service were computed.
    pub(crate) fn computed_services(&self) -> u64 {
        self.computed
    }

    /// The resource.
    pub(crate) fn computed(&self, index: &Index) -> Computed {
        let hosts = || self.parts.values().map(|routes| &routes.hosts);
        let message = envoy::outbound_routes(hosts());
        let buckets = envoy::buckets(hosts());
        let mut sources: BTreeSet<(Key, i64)> = BTreeSet::new();
        let mut not_sent = Vec::new();
        for routes in self.parts.values() {
            sources.extend(routes.sources.iter().cloned());
            let unsaid = routes.hosts.not_sent(&buckets).into_iter();
            let unsaid = unsaid.chain(routes.not_sent.iter().cloned()).collect();
            not_sent.extend(attributed(unsaid, &routes.sources, index));
        }
        // A route for several services is said once.
        let mut seen = BTreeSet::new();
        not_sent.retain(|one| seen.insert(one.clone()));
        for beyond in self.services.iter().skip(SERVICES_MAX) {
            if let Some(service) = index.service(beyond) {
                let (key, generation) = source(service.object);
                sources.insert((key.clone(), generation));
                not_sent.push((key, BEYOND.to_owned()));
            }
        }
        if let (Egress::Passthrough, Some(config)) = (index.egress(), index.mesh_config()) {
            let (key, generation) = source(config.object);
            sources.insert((key.clone(), generation));
            not_sent.push((key, PASSTHROUGH.to_owned()));
        }
        Computed {
            not_sent,
            ..whole(message, sources.into_iter().collect())
        }
    }
}

fn routes_of(service: &ServiceName, client: &Label, index: &Index) -> Routes {
    let ports = index.service(service).map(|found| found.spec.ports.as_slice());
    let ports = ports.unwrap_or_default().iter().map(|port| Some(port.port));
    let mut found = Routes::default();
    // The name without a port has the routes of one with a port, or routes of its own.
    let mut named: BTreeMap<RouteName, Vec<String>> = BTreeMap::new();
    for port in std::iter::once(None).chain(ports) {
        let name = ListenerName {
            service: service.clone(),
            port,
        };
        let Some(compiled) = listener(&name, client, index) else {
            continue;
        };
        found.sources.extend(compiled.sources);
        match compiled.resource.routes {
            model::RouteSource::Named(route) => named.entry(route).or_default().extend(spellings(&name, client)),
            model::RouteSource::Inline(hosts) => found.add(&spellings(&name, client), &hosts),
            model::RouteSource::Tcp(_) => found.not_sent.push(envoy::no_listener_for_tcp()),
        }
    }
    for (route, names) in named {
        if let Some(compiled) = routes::route_config(&route, index) {
            found.sources.extend(compiled.sources);
            found.add(&names, &compiled.resource.virtual_hosts);
        }
    }
    found.sources.sort();
    found.sources.dedup();
    found
}

impl Routes {
    fn add(&mut self, names: &[String], hosts: &[model::VirtualHost]) {
        let actions = hosts.iter().flat_map(|host| &host.routes).map(|route| &route.action);
        let forwards = actions.filter_map(|action| match action {
            model::Action::Forward(forward) => Some(forward),
            model::Action::Redirect(_) | model::Action::Respond(_) => None,
        });
        for forward in forwards {
            let backends = forward.backends.iter().map(|backend| &backend.cluster);
            let named = backends.chain(forward.mirrors.iter().map(|mirror| &mirror.cluster));
            self.clusters.extend(named.cloned());
        }
        self.hosts.extend(envoy::hosts(names, hosts));
    }
}

/// Every authority by which an app of a namespace may mean this: those, and only those, that a weir proxy takes for it.
fn spellings(name: &ListenerName, client: &Label) -> Vec<String> {
    let ServiceName { namespace, service } = &name.service;
    let port = name.port.map(|port| format!(":{port}")).unwrap_or_default();
    let hosts = [
        name.service.to_string(),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}"),
        service.to_string(),
    ];
    let all = hosts.map(|host| format!("{host}{port}")).into_iter();
    all.filter(|spelling| ListenerName::from_authority(spelling, client).as_ref() == Ok(name))
        .collect()
}

/// Of all the mesh: what an Envoy that names none of them is given at most.
pub(crate) const SERVICES_MAX: usize = 1_000;

const BEYOND: &str =
    "is beyond the first 1000 services of the mesh; name those that are called in node.metadata[\"weir.dev\"].services";

const PASSTHROUGH: &str = "egress: Passthrough can't be told to an Envoy, which would look up names without regard to \
                           the addresses that nothing may be sent to: it answers those that are none of the mesh's \
                           with 502";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_api::Object;
    use weir_api::http_route::HttpRouteFilter;
    use weir_api::route_policy::RouteRateLimit;

    use super::super::fixture;
    use super::*;

    /// What an Envoy that calls all services is not told when a policy for these limits a rate.
    fn not_sent(target: (Kind, &str), others: Vec<Object>) -> Vec<(String, String)> {
        let mut policy = fixture::route_policy("p", &[(target.0, target.1, None)]);
        fixture::route_policy_spec_of(&mut policy).rate_limit = Some(RouteRateLimit {
            requests: 10,
            per: Duration::from_secs(1),
            burst: None,
        });
        let index = fixture::index(others.into_iter().chain([policy]));
        let scope = Scope {
            client: "citizen".parse().expect("a name"),
            services: None,
        };
        let not_sent = Table::new(scope, &index).computed(&index).not_sent;
        not_sent
            .into_iter()
            .map(|(key, text)| (key.to_string(), text))
            .collect()
    }

    #[test]
    fn the_clusters_that_copies_go_to_are_named() {
        let mut route = fixture::route("citizen", "r", "citizen", "a");
        let mirror = HttpRouteFilter::RequestMirror(fixture::mirror(None, "shadow"));
        fixture::spec_of(&mut route).rules[0].filters = vec![mirror];
        let index = fixture::index([fixture::service("citizen", "a", &[("", 80)]), route]);
        let scope = Scope {
            client: "citizen".parse().expect("a name"),
            services: Some([fixture::service_named("a.citizen")].into()),
        };
        let table = Table::new(scope, &index);
        let named: Vec<String> = table.clusters().into_iter().map(ClusterName::to_string).collect();
        assert_eq!(named, ["a.citizen:80", "shadow.citizen:80"]);
    }

    #[test]
    fn a_limit_that_an_envoy_keeps_several_times_is_said_wherever_its_routes_are() {
        let service = |name: &str, ports: &[(&str, u16)]| fixture::service("citizen", name, ports);
        let said = |route: &str| {
            let text = "has a limit of the rate that Envoy keeps for each of its 2 routes: up to 2 times as many \
                        requests come through";
            ("RoutePolicy/citizen/p".to_owned(), format!("{route} {text}"))
        };
        let one = service("a", &[("http", 80)]);
        let route = fixture::route("citizen", "r", "citizen", "a");
        let of_route = (Kind::HttpRoute, "r");
        assert_eq!(not_sent(of_route, vec![one.clone(), route.clone()]), []);
        let of_service = (Kind::Service, "a");
        assert_eq!(not_sent(of_service, vec![one.clone()]), []);

        let ports = service("a", &[("http", 80), ("more", 81)]);
        assert_eq!(not_sent(of_service, vec![ports]), [said("Service/citizen/a")]);
        let mut of_both = route;
        let spec = fixture::spec_of(&mut of_both);
        let mut other = spec.parent_refs[0].clone();
        other.name = "b".to_owned();
        spec.parent_refs.push(other);
        let of_each = said("HTTPRoute/citizen/r#rules[0].matches[0]");
        let both = not_sent(of_route, vec![one, service("b", &[("http", 80)]), of_both]);
        assert_eq!(both, [of_each], "once for both services");
    }
}
