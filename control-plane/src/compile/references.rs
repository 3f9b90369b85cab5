//! What a route's references lead to: Services of its own namespace, its parents, and what a ReferenceGrant opens.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use weir_api::http_route::{ParentRef, Reference};
use weir_api::{Key, Object, RouteSpec};
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
    /// Those of a route with these parents.
    pub(crate) fn of(object: &'a Object, parents: &'a [ParentRef], index: &'a Index) -> References<'a> {
        References { object, parents, index }
    }

    /// The route's key.
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

/// The grants that open a way for a route, with their generations.
pub(crate) fn grants_for(object: &Object, spec: RouteSpec<'_>, index: &Index) -> BTreeSet<(Key, i64)> {
    let references = References::of(object, spec.parent_refs(), index);
    let own = object.metadata.namespace.as_str();
    let services = spec.references().filter(|(_, to)| to.kind.is_service());
    let abroad = services.filter_map(|(_, to)| {
        let namespace = to.namespace.filter(|namespace| *namespace != own)?;
        references.grant(namespace, to.name)
    });
    abroad.map(source).collect()
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

    use weir_api::{BackendKind, Spec};

    use super::*;
    use crate::compile::fixture;

    /// Where the backends of a route in `police` for `portal.citizen` lead, under these grants of `citizen`.
    #[track_caller]
    fn leads(grants: &[(&str, Option<&str>)], backends: &[(Option<&str>, &str)], expect: &[&str]) {
        let route = fixture::route("police", "r", "citizen", "portal");
        let Spec::HttpRoute(spec) = &route.spec else {
            panic!("a route")
        };
        let grants = grants.iter().enumerate();
        let grants = grants.map(|(at, (from, to))| fixture::grant("citizen", &format!("g{at}"), from, *to));
        let index = fixture::index(grants);
        let references = References::of(&route, &spec.parent_refs, &index);
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
