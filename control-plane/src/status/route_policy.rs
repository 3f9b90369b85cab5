//! What RoutePolicies claim: routes, rules of them, and the routes of Services.

use weir_api::route_policy::{RoutePolicySpec, RouteTargetRef};
use weir_api::status::ParentReference;
use weir_api::{Kind, Object, RouteSpec};
use weir_policy::names::ServiceName;

use super::conditions::{all, few};
use super::policy::{Claim, References, names, others};
use super::references::{self, Unusable};
use super::route;
use crate::compile;
use crate::compile::index::{Attached, Index, Of, service_name};
use crate::compile::route_policies::RoutePolicies;
use crate::proxies::{Attachment, Extent};

/// What a policy claims, in the order of its spec.
pub(super) fn claims<'a>(object: &Object, spec: &RoutePolicySpec, index: &'a Index) -> Vec<Claim<'a>> {
    let own = &object.metadata.namespace;
    let resolved = resolved(object, spec, index);
    let claim = |target: &RouteTargetRef| {
        let policies = index.route_policies(&target.key(own));
        let claims = |policy: &&Of<'_, RoutePolicySpec>| policy.spec.target_refs.contains(target);
        Claim {
            target: ParentReference::from(target),
            found: found(object, target, index),
            misfit: None,
            oldest: policies.iter().find(claims).map(|oldest| oldest.object),
            references: resolved.clone(),
            partly: None,
            extent: extent(object, target, index),
            overridden: overridden(object, target, index),
            ineffective: ineffective(object, spec, target, index),
        }
    };
    spec.target_refs.iter().map(claim).collect()
}

/// What its mirrors lead to; `None`: it names none.
fn resolved(object: &Object, spec: &RoutePolicySpec, index: &Index) -> Option<References> {
    let mirrors = compile::references::References::of(object, index);
    let mut reason = None;
    let mut uncopied = Vec::new();
    for (at, to) in spec.references().enumerate() {
        if let Some(Unusable {
            reason: problem,
            message,
        }) = references::unusable(&mirrors, to, index)
        {
            reason.get_or_insert(problem);
            uncopied.push(format!("mirror[{at}]: {message}"));
        }
    }
    spec.references().next()?;
    Some(References {
        resolved: match reason {
            Some(reason) => references::unresolved(reason, references::said(references::NO_COPIES, &uncopied)),
            None => references::resolved("every mirror is there"),
        },
        closed: None,
    })
}

/// Where the callers of each target are.
pub(super) fn extents(object: &Object, spec: &RoutePolicySpec, index: &Index) -> Vec<Extent> {
    let targets = spec.target_refs.iter();
    targets.map(|target| extent(object, target, index)).collect()
}

/// A route's are those of its parents.
fn extent(object: &Object, target: &RouteTargetRef, index: &Index) -> Extent {
    if let Some(route) = route_of(object, target, index) {
        let parents = route.spec.parent_refs().iter();
        return parents
            .filter_map(|parent| route::attachment(route.object, parent, index))
            .collect();
    }
    let service = service_of(object, target).into_iter();
    service.map(|service| Attachment { service, port: None }).collect()
}

fn found(object: &Object, target: &RouteTargetRef, index: &Index) -> Result<String, String> {
    let shown = format!("{} {}/{}", target.kind, object.metadata.namespace, target.name);
    let missing = || format!("there is no {shown}");
    if target.kind == Kind::Service {
        let service = service_of(object, target).and_then(|name| index.service(&name));
        return service.map(|_| format!("the routes of {shown}")).ok_or_else(missing);
    }
    let rules = route_of(object, target, index).ok_or_else(missing)?.spec.rules();
    let mut held = rules.iter().filter_map(|rule| rule.name);
    match &target.section_name {
        None => Ok(shown),
        Some(section) if held.clone().any(|name| name == section) => Ok(format!("rule {section:?} of {shown}")),
        Some(section) => {
            let held = names(&mut held);
            Err(format!("{shown} has no rule named {section:?}; it has {held}"))
        }
    }
}

/// Who holds instead, if others do for every rule.
fn overridden(object: &Object, target: &RouteTargetRef, index: &Index) -> Option<String> {
    if let Some(route) = route_of(object, target, index) {
        // A policy for a rule by name goes before one for its route, whichever service it is called by.
        if target.section_name.is_some() {
            return None;
        }
        let others = others(object, holders(&RoutePolicies::of_route(route.object, index), &route))?;
        return Some(format!(
            "each rule has a policy of its own, which goes before this one: {others}"
        ));
    }
    let service = service_of(object, target)?;
    let mut routes = index.routes(&service);
    routes.retain(|route| route.object.metadata.namespace == object.metadata.namespace);
    let all = routes.iter().flat_map(|route| {
        let policies = RoutePolicies::of(route.object, &service, index);
        holders(&policies, route).collect::<Vec<_>>()
    });
    let others = others(object, all)?;
    Some(format!(
        "each of its routes has a policy of its own, which goes before this one: {others}"
    ))
}

/// What of it has no effect: rules that redirect send no request that could be sent again, matter or be copied.
fn ineffective(object: &Object, spec: &RoutePolicySpec, target: &RouteTargetRef, index: &Index) -> Option<String> {
    let in_vain = |name: &&str| match *name {
        "retry" | "priority" => true,
        // Where none are asked for, none are sent.
        "mirror" => spec.references().next().is_some(),
        _ => false,
    };
    let fields: Vec<&str> = spec.given().filter(in_vain).collect();
    if fields.is_empty() {
        return None;
    }
    let routes = match (route_of(object, target, index), service_of(object, target)) {
        (Some(route), _) => {
            let policies = RoutePolicies::of_route(route.object, index);
            vec![(route, policies)]
        }
        (None, Some(service)) => {
            let routes = index.routes(&service).into_iter();
            let own = routes.filter(|route| route.object.metadata.namespace == object.metadata.namespace);
            let of = |route: Attached<'_>| RoutePolicies::of(route.object, &service, index);
            own.map(|route| (route, of(route))).collect()
        }
        (None, None) => return None,
    };
    let mut redirecting = Vec::new();
    for (route, policies) in &routes {
        let rules = route.spec.rules().into_iter().enumerate();
        for (number, rule) in rules {
            let is_held = policies
                .for_rule(rule.name)
                .is_some_and(|policy| policy.object.key() == object.key());
            if is_held && rule.redirects() {
                redirecting.push(format!("rules[{number}] of {}", route.object.key()));
            }
        }
    }
    if redirecting.is_empty() {
        return None;
    }
    let verb = if redirecting.len() > 1 { "redirect" } else { "redirects" };
    let has = if fields.len() > 1 { "have" } else { "has" };
    Some(format!(
        "{} {has} no effect there, since {} {verb}",
        all(&fields),
        few(&redirecting, ", ", redirecting.len())
    ))
}

/// Who holds for each rule of a route.
fn holders<'a>(policies: &RoutePolicies<'a>, route: &Attached<'_>) -> impl Iterator<Item = Option<&'a Object>> {
    let rules = route.spec.rules().into_iter();
    rules.map(|rule| policies.for_rule(rule.name).map(|policy| policy.object))
}

/// The route that a target names, if it names one.
fn route_of<'a>(object: &Object, target: &RouteTargetRef, index: &'a Index) -> Option<Attached<'a>> {
    let object = index.objects().get(&target.key(&object.metadata.namespace))?;
    let spec = RouteSpec::of(object)?;
    Some(Attached { object, spec })
}

fn service_of(object: &Object, target: &RouteTargetRef) -> Option<ServiceName> {
    match target.kind {
        Kind::Service => service_name(&object.metadata.namespace, &target.name),
        _ => None,
    }
}
