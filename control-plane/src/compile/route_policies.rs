//! Which RoutePolicy holds for a rule of a route.

use weir_api::route_policy::{RoutePolicySpec, RouteTargetRef};
use weir_api::{Key, Kind, Object, RouteSpec};
use weir_policy::names::ServiceName;

use super::index::{Index, Of};
use super::routes::Origin;

/// The policies for the rules of one route at one service.
#[derive(Debug, Default)]
pub(crate) struct RoutePolicies<'a> {
    route: Option<Key>,
    /// Those that name the route or one of its rules, oldest first.
    of_route: Vec<Of<'a, RoutePolicySpec>>,
    /// Those that name the service, oldest first.
    of_service: Vec<Of<'a, RoutePolicySpec>>,
    /// That service.
    service: Option<Key>,
}

impl<'a> RoutePolicies<'a> {
    /// Those for a route of this service. Policies for the service itself are for the routes of its own namespace.
    pub(crate) fn of(route: &Object, service: &ServiceName, index: &'a Index) -> RoutePolicies<'a> {
        let mut policies = RoutePolicies::of_route(route, index);
        if route.metadata.namespace == service.namespace.as_str() {
            let service = service_key(service);
            policies.of_service = index.route_policies(&service);
            policies.service = Some(service);
        }
        policies
    }

    /// Those that name a route or one of its rules.
    pub(crate) fn of_route(route: &Object, index: &'a Index) -> RoutePolicies<'a> {
        let key = route.key();
        RoutePolicies {
            of_route: index.route_policies(&key),
            of_service: Vec::new(),
            service: None,
            route: Some(key),
        }
    }

    /// Those for all requests to a service that has no routes.
    pub(crate) fn without_routes(service: &ServiceName, index: &'a Index) -> RoutePolicies<'a> {
        let service = service_key(service);
        RoutePolicies {
            route: None,
            of_route: Vec::new(),
            of_service: index.route_policies(&service),
            service: Some(service),
        }
    }

    /// The one that holds for the rule of this name: one for the rule, else one for the route, else one for the
    /// service.
    pub(crate) fn for_rule(&self, name: Option<&str>) -> Option<&Of<'a, RoutePolicySpec>> {
        self.of_rule_or_route(name).or_else(|| self.of_service.first())
    }

    /// What the limit of a rule's requests is called, by which what is spent of it is found: after the rule, and after
    /// the service where the policy is that one's, since a route of several services is under a policy of each.
    pub(crate) fn limit_name(&self, rule: &str, name: Option<&str>) -> String {
        match (self.of_rule_or_route(name), &self.service) {
            (None, Some(service)) => format!("{rule}@{service}"),
            (Some(_), _) | (None, None) => rule.to_owned(),
        }
    }

    fn of_rule_or_route(&self, name: Option<&str>) -> Option<&Of<'a, RoutePolicySpec>> {
        let oldest = |section: Option<&str>| {
            let route = self.route.as_ref()?;
            let mut policies = self.of_route.iter();
            policies.find(|policy| claims(policy, |target| is_for(target, route, section)))
        };
        let by_name = name.and_then(|name| oldest(Some(name)));
        by_name.or_else(|| oldest(None))
    }

    /// Those that hold for a rule of the route.
    pub(crate) fn holding(&self, route: RouteSpec<'_>) -> Vec<&'a Object> {
        let rules = route.rules().into_iter();
        let holding = rules.filter_map(|rule| self.for_rule(rule.name));
        holding.map(|policy| policy.object).collect()
    }
}

/// Of some sources the policy that holds for the route of the model that has this name.
pub(crate) fn holder<'a>(name: &str, sources: &[(Key, i64)], index: &'a Index) -> Option<Of<'a, RoutePolicySpec>> {
    let origin = Origin::of(name);
    let route = origin.as_ref().and_then(|origin| {
        let mut keys = sources.iter().map(|(key, _)| key);
        index.objects().get(keys.find(|key| key.to_string() == origin.object)?)
    });
    let rules = route.and_then(|route| RouteSpec::of(route)).map(RouteSpec::rules);
    let rule = rules
        .zip(origin)
        .and_then(|(rules, origin)| rules.get(origin.rule)?.name);
    let mut policies = route.map_or_else(RoutePolicies::default, |route| RoutePolicies::of_route(route, index));
    let services = sources.iter().filter(|(key, _)| key.kind == Kind::Service);
    policies.of_service = services.flat_map(|(key, _)| index.route_policies(key)).collect();
    // A policy of the service that has no part in these sources does not hold for it.
    policies
        .of_service
        .retain(|policy| sources.iter().any(|(key, _)| *key == policy.object.key()));
    let Of { object, spec } = policies.for_rule(rule)?;
    Some(Of { object, spec })
}

/// Whether a target is this route, or this rule of it.
fn is_for(target: &RouteTargetRef, route: &Key, section: Option<&str>) -> bool {
    target.kind == route.kind && target.name == route.name && target.section_name.as_deref() == section
}

fn claims(policy: &Of<'_, RoutePolicySpec>, is_it: impl Fn(&RouteTargetRef) -> bool) -> bool {
    policy.spec.target_refs.iter().any(is_it)
}

/// The key of a service's object.
pub(crate) fn service_key(service: &ServiceName) -> Key {
    Key {
        kind: Kind::Service,
        namespace: service.namespace.as_str().to_owned(),
        name: service.service.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use weir_api::http_route::{HttpRouteFilter, Retry};
    use weir_api::route_policy::{RetryBackoff, RetryMethods, RetryOn, RouteRateLimit, RouteRetry};
    use weir_policy::model;

    use super::*;
    use crate::compile::fixture::{self, route_policy, route_policy_spec_of, spec_of};
    use crate::compile::routes::route_config;

    /// A policy that sends again so often.
    fn sends(attempts: u32, targets: &[(Kind, &str, Option<&str>)], created: u32) -> Object {
        let mut policy = route_policy(&format!("p{attempts}"), targets);
        policy.metadata.creation_timestamp = Some(format!("2026-01-01T00:00:{created:02}Z"));
        route_policy_spec_of(&mut policy).retry = Some(RouteRetry {
            attempts: Some(attempts),
            ..RouteRetry::default()
        });
        policy
    }

    fn portal() -> Object {
        fixture::service("citizen", "portal", &[("", 80)])
    }

    /// With one rule named `search`, and one without a name.
    fn route(namespace: &str) -> Object {
        let mut route = fixture::route(namespace, "r", "citizen", "portal");
        let spec = spec_of(&mut route);
        spec.rules = vec![fixture::rule("/search", &["portal"]), fixture::rule("/", &["portal"])];
        spec.rules[0].name = Some("search".to_owned());
        route
    }

    /// How often each rule sends again, and which policies had a part in that.
    fn compiled(objects: &[Object], name: &str) -> (Vec<Option<u32>>, BTreeSet<String>) {
        let index = fixture::index(objects.to_vec());
        let config = route_config(&name.parse().expect("a name"), &index).expect("there");
        let routes = config.resource.virtual_hosts.iter().flat_map(|host| &host.routes);
        let attempts = routes.map(|route| match &route.action {
            model::Action::Forward(forward) => forward.retry.as_ref().map(|retry| retry.attempts),
            other => panic!("forwarded: {other:?}"),
        });
        let keys = config.sources.iter().map(|(key, _)| key);
        let policies = keys.filter(|key| key.kind == Kind::RoutePolicy);
        (attempts.collect(), policies.map(|key| key.name.clone()).collect())
    }

    #[track_caller]
    fn holds(policies: &[Object], expect: [Option<u32>; 2], sources: &[&str]) {
        let mut objects = vec![portal(), route("citizen")];
        objects.extend(policies.iter().cloned());
        let (attempts, from) = compiled(&objects, "portal.citizen:80/*");
        assert_eq!(attempts, expect, "{policies:?}");
        assert_eq!(from.iter().map(String::as_str).collect::<Vec<_>>(), sources);
    }

    const RULE: (Kind, &str, Option<&str>) = (Kind::HttpRoute, "r", Some("search"));
    const ROUTE: (Kind, &str, Option<&str>) = (Kind::HttpRoute, "r", None);
    const SERVICE: (Kind, &str, Option<&str>) = (Kind::Service, "portal", None);

    #[test]
    fn a_rules_policy_goes_before_its_routes_and_that_before_the_services() {
        let (service, route, rule) = (sends(1, &[SERVICE], 1), sends(2, &[ROUTE], 2), sends(3, &[RULE], 3));
        holds(&[], [None, None], &[]);
        holds(std::slice::from_ref(&service), [Some(1), Some(1)], &["p1"]);
        holds(&[service.clone(), route.clone()], [Some(2), Some(2)], &["p2"]);
        holds(&[service.clone(), rule.clone()], [Some(3), Some(1)], &["p1", "p3"]);
        holds(&[service, route, rule], [Some(3), Some(2)], &["p2", "p3"]);
        // Of two for the same the older; of one age the first by name.
        holds(&[sends(4, &[RULE], 9), sends(5, &[RULE], 8)], [Some(5), None], &["p5"]);
        holds(&[sends(4, &[RULE], 9), sends(5, &[RULE], 9)], [Some(4), None], &["p4"]);
        // One for several claims each of them by itself.
        holds(
            &[sends(6, &[RULE, SERVICE], 2), sends(7, &[SERVICE], 1)],
            [Some(6), Some(7)],
            &["p6", "p7"],
        );
        for nothing in [
            (Kind::GrpcRoute, "r", None),
            (Kind::HttpRoute, "other", None),
            (Kind::HttpRoute, "r", Some("gone")),
            (Kind::Service, "r", None),
        ] {
            holds(&[sends(8, &[nothing], 1)], [None, None], &[]);
        }
    }

    #[test]
    fn a_services_policy_is_for_the_routes_of_its_own_namespace() {
        let service = sends(1, &[SERVICE], 1);
        let objects = [portal(), service.clone(), route("police")];
        // Of consumers with routes of their own.
        assert_eq!(compiled(&objects, "portal.citizen:80/police").0, [None, None]);
        // Where there are none, for all requests to it.
        assert_eq!(compiled(&objects, "portal.citizen:80/*").0, [Some(1)]);
        assert_eq!(compiled(&objects, "portal.citizen:80/*").1, ["p1".to_owned()].into());
        let objects = [portal(), service, route("citizen")];
        assert_eq!(compiled(&objects, "portal.citizen:80/police").0, [Some(1), Some(1)]);
        // A policy of another namespace is for what is there.
        let mut foreign = sends(2, &[ROUTE, SERVICE], 1);
        foreign.metadata.namespace = "police".to_owned();
        assert_eq!(
            compiled(&[portal(), foreign, route("citizen")], "portal.citizen:80/*").0,
            [None, None]
        );
    }

    #[test]
    fn services_of_one_route_have_limits_of_their_own() {
        let mut route = fixture::route("citizen", "r", "citizen", "portal");
        let mut second = spec_of(&mut route).parent_refs[0].clone();
        second.name = "desk".to_owned();
        spec_of(&mut route).parent_refs.push(second);
        let desk = fixture::service("citizen", "desk", &[("", 80)]);
        let limits = |policies: &[Object]| {
            let index = fixture::index(
                [portal(), desk.clone(), route.clone()]
                    .into_iter()
                    .chain(policies.to_vec()),
            );
            ["portal", "desk"].map(|service| {
                let name = format!("{service}.citizen:80/*");
                let config = route_config(&name.parse().expect("a name"), &index).expect("there");
                let limit = config.resource.virtual_hosts[0].routes[0].rate_limit.clone();
                limit.map(|limit| limit.name)
            })
        };
        let limited = |name: &str, targets: &[(Kind, &str, Option<&str>)]| {
            let mut policy = route_policy(name, targets);
            route_policy_spec_of(&mut policy).rate_limit = Some(RouteRateLimit {
                requests: 1,
                per: Duration::from_secs(1),
                burst: None,
            });
            policy
        };
        let by_service = [limited("p", &[SERVICE]), limited("d", &[(Kind::Service, "desk", None)])];
        let rule = "HTTPRoute/citizen/r#rules[0]";
        let own = |service: &str| Some(format!("{rule}@Service/citizen/{service}"));
        assert_eq!(limits(&by_service), [own("portal"), own("desk")]);
        // A rule's limit is the rule's, whichever service is called.
        let by_route = [limited("r", &[ROUTE])];
        assert_eq!(limits(&by_route), [Some(rule.to_owned()), Some(rule.to_owned())]);
    }

    #[track_caller]
    fn merges(own: Option<Retry>, over: RouteRetry, expect: Option<model::RetryPolicy>) {
        let mut route = fixture::route("citizen", "r", "citizen", "portal");
        spec_of(&mut route).rules[0].retry = own;
        let mut policy = route_policy("p", &[ROUTE]);
        route_policy_spec_of(&mut policy).retry = Some(over);
        let index = fixture::index([portal(), route, policy]);
        let config = route_config(&"portal.citizen:80/*".parse().expect("a name"), &index).expect("there");
        let model::Action::Forward(forward) = &config.resource.virtual_hosts[0].routes[0].action else {
            panic!("forwarded")
        };
        assert_eq!(forward.retry, expect);
    }

    #[test]
    fn what_a_policy_says_of_retries_holds_field_by_field() {
        let own = Retry {
            codes: vec![503],
            attempts: Some(3),
            backoff: Some(Duration::from_millis(7)),
        };
        let of_own = model::RetryPolicy {
            attempts: 3,
            on: model::RetryOn::no_answer(),
            codes: vec![http::StatusCode::SERVICE_UNAVAILABLE],
            backoff: model::Backoff::tenfold(Duration::from_millis(7)),
            methods: model::RetryMethods::Idempotent,
        };
        merges(Some(own.clone()), RouteRetry::default(), Some(of_own.clone()));
        let whole = RouteRetry {
            attempts: Some(1),
            on: Some(vec![RetryOn::Unavailable, RetryOn::ServerError]),
            codes: Some(vec![429]),
            per_try_timeout: None,
            backoff: Some(RetryBackoff {
                base: Duration::from_millis(2),
                max: Some(Duration::from_millis(5)),
            }),
            methods: Some(RetryMethods::Any),
        };
        let all_new = model::RetryPolicy {
            attempts: 1,
            on: [model::RetryOn::Unavailable, model::RetryOn::ServerError].into(),
            codes: vec![http::StatusCode::TOO_MANY_REQUESTS],
            backoff: model::Backoff {
                base: Duration::from_millis(2),
                max: Duration::from_millis(5),
            },
            methods: model::RetryMethods::Any,
        };
        merges(Some(own.clone()), whole.clone(), Some(all_new.clone()));
        merges(None, whole, Some(all_new));
        let any = RouteRetry {
            methods: Some(RetryMethods::Any),
            ..RouteRetry::default()
        };
        let extended = model::RetryPolicy {
            methods: model::RetryMethods::Any,
            ..of_own.clone()
        };
        merges(Some(own.clone()), any, Some(extended));
        let nothing = RouteRetry {
            on: Some(Vec::new()),
            ..RouteRetry::default()
        };
        let by_status = model::RetryPolicy {
            on: BTreeSet::new(),
            ..of_own
        };
        merges(Some(own), nothing.clone(), Some(by_status));
        merges(None, nothing, None);
        let by_default = model::RetryPolicy {
            attempts: 1,
            on: model::RetryOn::no_answer(),
            codes: Vec::new(),
            backoff: model::Backoff::tenfold(Duration::from_millis(25)),
            methods: model::RetryMethods::Idempotent,
        };
        merges(None, RouteRetry::default(), Some(by_default));
    }

    #[test]
    fn a_policys_mirrors_are_in_place_of_all_that_its_rule_has() {
        let of_rule = |name: &str| HttpRouteFilter::RequestMirror(fixture::mirror(None, name));
        let mut route = route("citizen");
        let rule = &mut spec_of(&mut route).rules[0];
        rule.filters = vec![of_rule("own")];
        rule.backend_refs[0].filters = vec![of_rule("of-backend")];
        let copies = |mirrors: Option<&[&str]>| {
            let mut policy = route_policy("p", &[RULE]);
            let spec = route_policy_spec_of(&mut policy);
            spec.priority = Some(1);
            spec.mirror = mirrors.map(|names| names.iter().map(|name| fixture::mirror(None, name)).collect());
            let index = fixture::index([portal(), route.clone(), policy]);
            let config = route_config(&"portal.citizen:80/*".parse().expect("a name"), &index).expect("there");
            let route = &config.resource.virtual_hosts[0].routes[0];
            let model::Action::Forward(forward) = &route.action else {
                panic!("forwarded")
            };
            let names = |mirrors: &[model::Mirror]| -> Vec<String> {
                mirrors
                    .iter()
                    .map(|mirror| mirror.cluster.service.service.to_string())
                    .collect()
            };
            let held = route.policy.clone().expect("a policy holds");
            assert_eq!(held.name, "RoutePolicy/citizen/p");
            let of_backend = names(&forward.backends[0].filters.mirrors);
            (names(&forward.mirrors), of_backend, held.fields)
        };
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (own, of_backend) = (texts(&["own"]), texts(&["of-backend"]));
        assert_eq!(copies(None), (own, of_backend, texts(&["priority"])));
        let both = texts(&["priority", "mirror"]);
        assert_eq!(copies(Some(&[])), (texts(&[]), texts(&[]), both.clone()));
        assert_eq!(copies(Some(&["a", "b"])), (texts(&["a", "b"]), texts(&[]), both));
    }

    #[test]
    fn what_is_not_sent_of_a_policy_is_the_policys() {
        let mut named = route("citizen");
        spec_of(&mut named).rules[1].retry = Some(Retry::default());
        let policy = sends(9, &[RULE], 1);
        let index = fixture::index([portal(), named.clone(), policy.clone()]);
        let config = route_config(&"portal.citizen:80/*".parse().expect("a name"), &index).expect("there");
        let holder = |name: &str| holder(name, &config.sources, &index).map(|policy| policy.object.key());
        let [search, rest] = ["rules[0:search].matches[0]", "rules[1].matches[0]"];
        assert_eq!(holder(&format!("{}#{search}", named.key())), Some(policy.key()));
        assert_eq!(holder(&format!("{}#{rest}", named.key())), None);
        assert_eq!(holder("Service/citizen/portal"), None);
        let service = sends(1, &[SERVICE], 1);
        let index = fixture::index([portal(), service.clone()]);
        let config = route_config(&"portal.citizen:80/*".parse().expect("a name"), &index).expect("there");
        let holder = super::holder("Service/citizen/portal", &config.sources, &index);
        assert_eq!(holder.map(|policy| policy.object.key()), Some(service.key()));
    }
}
