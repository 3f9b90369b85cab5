//! What references of routes and policies lead to: Services of the own namespace, a route's parents, and what a
//! ReferenceGrant opens.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use weir_api::http_route::{ParentRef, Reference};
use weir_api::{Key, Object, RouteSpec, Spec};
use weir_policy::names::{ClusterName, Label, ServiceName};

use super::index::{Index, service_name};
use super::source;

/// Whose references they are, and what decides whether they may be followed.
#[derive(Clone, Copy)]
pub(crate) struct References<'a> {
    object: &'a Object,
    parents: &'a [ParentRef],
    index: &'a Index,
}

impl<'a> References<'a> {
    /// Those of a route or a policy.
    pub(crate) fn of(object: &'a Object, index: &'a Index) -> References<'a> {
        References {
            object,
            parents: RouteSpec::of(object).map_or(&[], RouteSpec::parent_refs),
            index,
        }
    }

    /// Those of another object.
    pub(crate) fn of_another(&self, object: &'a Object) -> References<'a> {
        References::of(object, self.index)
    }

    /// The key of who refers.
    pub(crate) fn key(&self) -> Key {
        self.object.key()
    }

    /// The cluster that a reference leads to. One of another kind than a Service leads nowhere; one in another
    /// namespace needs a ReferenceGrant there: without it the share of the backend is answered like that of one that
    /// does not exist (Gateway API, BackendObjectReference.namespace). A route may send requests back to a parent of
    /// its own, though: its callers reach that one without the route as well.
    pub(crate) fn cluster(&self, to: Reference<'_>) -> ClusterName {
        let own = self.object.metadata.namespace.as_str();
        let namespace = to.namespace.unwrap_or(own);
        let is_parent = || {
            let mut parents = self.parents.iter();
            parents.any(|parent| parent.name == to.name && parent.namespace.as_deref().unwrap_or(own) == namespace)
        };
        let may_follow =
            to.kind.is_service() && (namespace == own || is_parent() || self.grant(namespace, to.name).is_some());
        let service = may_follow.then(|| service_name(namespace, to.name)).flatten();
        ClusterName {
            service: service.unwrap_or_else(not_permitted),
            // Only what is no Service may have none, and no request gets there.
            port: to.port.unwrap_or(NonZeroU16::MIN),
        }
    }

    fn grant(&self, namespace: &str, service: &str) -> Option<&'a Object> {
        let (kind, own) = (self.object.kind(), self.object.metadata.namespace.as_str());
        let mut grants = self.index.grants(namespace);
        let found = grants.find(|grant| grant.spec.allows(kind, own, service));
        found.map(|grant| grant.object)
    }
}

/// All references of a route or a policy to what requests, or copies of them, are sent to.
pub(crate) fn references_of(object: &Object) -> impl Iterator<Item = Reference<'_>> {
    let policy = match &object.spec {
        Spec::RoutePolicy(spec) => Some(spec),
        _ => None,
    };
    let of_policy = policy.into_iter().flat_map(|policy| policy.references());
    let of_route = RouteSpec::of(object).into_iter().flat_map(RouteSpec::references);
    of_route.map(|(_, to)| to).chain(of_policy)
}

/// The services that it sends requests or copies to, whether or not it may.
pub(crate) fn services_of(object: &Object) -> impl Iterator<Item = ServiceName> {
    let services = references_of(object).filter(|to| to.kind.is_service());
    services.filter_map(|to| service_name(to.namespace.unwrap_or(&object.metadata.namespace), to.name))
}

/// The namespaces other than its own that it refers to.
pub(crate) fn namespaces_of(object: &Object) -> BTreeSet<String> {
    abroad(object).map(|(namespace, _)| namespace.to_owned()).collect()
}

/// The grants that open a way for it, with their generations.
pub(crate) fn grants_for(object: &Object, index: &Index) -> BTreeSet<(Key, i64)> {
    let references = References::of(object, index);
    let grants = abroad(object).filter_map(|(namespace, to)| references.grant(namespace, to.name));
    grants.map(source).collect()
}

/// Its references to Services of other namespaces, with these.
fn abroad(object: &Object) -> impl Iterator<Item = (&str, Reference<'_>)> {
    let own = object.metadata.namespace.as_str();
    let services = references_of(object).filter(|to| to.kind.is_service());
    services.filter_map(move |to| Some((to.namespace.filter(|namespace| *namespace != own)?, to)))
}

/// What a reference that may not be followed points to: a service that never exists for proxies, whatever objects there
/// are, so that it is answered like any other that is missing.
fn not_permitted() -> ServiceName {
    let label = |text: &str| text.parse::<Label>().expect("a constant that is a label");
    ServiceName {
        namespace: label(NOT_PERMITTED.0),
        service: label(NOT_PERMITTED.1),
    }
}

/// Whether this is the service that never exists.
pub(crate) fn is_not_permitted(name: &ServiceName) -> bool {
    (name.namespace.as_str(), name.service.as_str()) == NOT_PERMITTED
}

/// Namespace and name.
const NOT_PERMITTED: (&str, &str) = ("weir", "0-not-permitted");

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_api::{BackendKind, Kind};

    use super::*;
    use crate::compile::fixture;

    /// Where the backends of a route in `police` for `portal.citizen` lead, under these grants of `citizen`.
    #[track_caller]
    fn leads(grants: &[(&str, Option<&str>)], backends: &[(Option<&str>, &str)], expect: &[&str]) {
        let route = fixture::route("police", "r", "citizen", "portal");
        let grants = grants.iter().enumerate();
        let grants = grants.map(|(at, (from, to))| fixture::grant("citizen", &format!("g{at}"), from, *to));
        let index = fixture::index(grants);
        let references = References::of(&route, &index);
        let clusters = backends.iter().map(|(namespace, name)| {
            let to = Reference {
                kind: &BackendKind::service(),
                namespace: *namespace,
                name,
                port: Some(fixture::port(80)),
            };
            references.cluster(to).to_string()
        });
        assert_eq!(clusters.collect::<Vec<_>>(), expect);
    }

    #[test]
    fn a_reference_abroad_is_followed_to_a_parent_or_by_a_grant() {
        let closed = "0-not-permitted.weir:80";
        let (own, abroad) = (Some("police"), Some("citizen"));
        leads(
            &[],
            &[(None, "own"), (own, "own"), (abroad, "portal"), (abroad, "secret")],
            &["own.police:80", "own.police:80", "portal.citizen:80", closed],
        );
        let secret = [(abroad, "secret"), (abroad, "other"), (Some("travel"), "secret")];
        leads(
            &[("police", None)],
            &secret,
            &["secret.citizen:80", "other.citizen:80", closed],
        );
        leads(
            &[("police", Some("secret"))],
            &secret,
            &["secret.citizen:80", closed, closed],
        );
        leads(&[("travel", None)], &secret, &[closed, closed, closed]);
    }

    #[test]
    fn the_service_that_never_exists_never_does() {
        let index = fixture::index([fixture::service("weir", "0-not-permitted", &[("", 80)])]);
        assert!(index.service(&not_permitted()).is_none());
    }

    #[test]
    fn a_grant_for_policies_is_none_for_routes_and_touches_what_they_are_for() {
        let portal = fixture::service("citizen", "portal", &[("", 80)]);
        let route = fixture::route("citizen", "r", "citizen", "portal");
        let mut policy = fixture::route_policy("p", &[(Kind::HttpRoute, "r", None)]);
        fixture::route_policy_spec_of(&mut policy).mirror = Some(vec![fixture::mirror(Some("labs"), "lab")]);
        let mut index = fixture::index([portal, route, policy.clone()]);
        let copies_to = |index: &Index| {
            let name = "portal.citizen:80/*".parse().expect("a name");
            let compiled = crate::compile::routes::route_config(&name, index).expect("there");
            let weir_policy::model::Action::Forward(forward) = &compiled.resource.virtual_hosts[0].routes[0].action
            else {
                panic!("it is forwarded")
            };
            let grants = compiled
                .sources
                .iter()
                .filter(|(key, _)| key.kind == Kind::ReferenceGrant);
            (forward.mirrors[0].cluster.to_string(), grants.count())
        };
        let touches = |index: &mut Index, key: &Key, grant: Option<&Object>| {
            let touched = index.apply(key, grant.cloned().map(Arc::new)).expect("something else");
            let services = touched.services.into_iter().map(|(service, _)| service);
            services.collect::<Vec<_>>()
        };
        let portal = [fixture::service_named("portal.citizen")];
        let closed = ("0-not-permitted.weir:80".to_owned(), 0);
        assert_eq!(copies_to(&index), closed);
        let of_routes = fixture::grant("labs", "g", "citizen", None);
        assert_eq!(touches(&mut index, &of_routes.key(), Some(&of_routes)), portal);
        assert_eq!(copies_to(&index), closed);
        let of_policies = fixture::grant_for(Kind::RoutePolicy, "labs", "g", "citizen", Some("lab"));
        assert_eq!(touches(&mut index, &of_policies.key(), Some(&of_policies)), portal);
        assert_eq!(copies_to(&index), ("lab.labs:80".to_owned(), 1));
        assert_eq!(touches(&mut index, &of_policies.key(), None), portal);
        // One that refers to nothing there any more is touched by none.
        fixture::route_policy_spec_of(&mut policy).mirror = Some(Vec::new());
        index.apply(&policy.key(), Some(Arc::new(policy)));
        assert_eq!(touches(&mut index, &of_policies.key(), Some(&of_policies)), []);
    }

    #[test]
    fn a_grant_touches_the_routes_that_refer_to_its_namespace() {
        let mut route = fixture::route("police", "r", "police", "station");
        fixture::spec_of(&mut route).rules[0].backend_refs[0].namespace = Some("citizen".to_owned());
        let grant = fixture::grant("citizen", "g", "police", None);
        let mut index = fixture::index([fixture::service("police", "station", &[("", 80)]), route.clone()]);
        let station = fixture::service_named("station.police");
        let touched = index
            .apply(&grant.key(), Some(Arc::new(grant.clone())))
            .unwrap_or_default();
        assert_eq!(
            touched.services.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            [&station]
        );
        let name = "station.police:80/*".parse().expect("a name");
        let sources = |index: &Index| {
            let compiled = crate::compile::routes::route_config(&name, index).expect("there");
            compiled.sources.iter().any(|(key, _)| *key == grant.key())
        };
        assert!(sources(&index), "it has a part in the routes");
        assert_eq!(index.apply(&grant.key(), None).unwrap_or_default().services.len(), 1);
        assert!(!sources(&index));
        index.apply(&route.key(), None);
        let touched = index
            .apply(&grant.key(), Some(Arc::new(grant.clone())))
            .unwrap_or_default();
        assert_eq!(touched.services.len(), 0);
    }
}
