//! An HTTPRoute's rules as routes of the model.

use http::Method;
use weir_api::FieldError;
use weir_api::http_route::{HttpRouteMatch, HttpRouteRule, HttpRouteSpec, PathMatch};
use weir_policy::model;

use super::references::References;
use super::route_policies::RoutePolicies;
use super::routes::every_path;
use super::rules::{self, Place, RuleParts};

/// All routes of an HTTPRoute, in its own order.
pub(super) fn expand(
    references: &References<'_>,
    policies: &RoutePolicies<'_>,
    spec: &HttpRouteSpec,
) -> Result<Vec<model::Route>, FieldError> {
    let mut routes = Vec::new();
    for (number, rule) in spec.rules.iter().enumerate() {
        routes.append(&mut expand_rule(references, policies, number, rule)?);
    }
    Ok(routes)
}

/// One route for each match of a rule.
fn expand_rule(
    references: &References<'_>,
    policies: &RoutePolicies<'_>,
    number: usize,
    rule: &HttpRouteRule,
) -> Result<Vec<model::Route>, FieldError> {
    let at = Place::new(references, number, rule.name.as_deref());
    let parts = RuleParts {
        filters: &rule.filters,
        backends: &rule.backend_refs,
        timeouts: rule.timeouts,
        retry: rule.retry.as_ref(),
        policy: policies.for_rule(rule.name.as_deref()),
        limit: policies.limit_name(at.name(), rule.name.as_deref()),
    };
    let done = rules::done(references, &at, &parts)?;
    if rule.matches.is_empty() {
        return Ok(vec![done.route(at.route_name(0), every_path())]);
    }
    let matches = rule.matches.iter().enumerate();
    let routes = matches.map(|(index, given)| {
        let taken = route_match(&format!("{}.matches[{index}]", at.path), given)?;
        Ok(done.route(at.route_name(index), taken))
    });
    routes.collect()
}

fn route_match(path: &str, given: &HttpRouteMatch) -> Result<model::RouteMatch, FieldError> {
    let query = given.query_params.iter().map(|parameter| model::QueryMatch {
        name: parameter.name.clone(),
        value: rules::value_match(&parameter.value),
    });
    let method = given.method.map(|method| {
        let wrong = |_| rules::wrong(format!("{path}.method"), method.as_str(), "is no method");
        Method::from_bytes(method.as_str().as_bytes()).map_err(wrong)
    });
    Ok(model::RouteMatch {
        path: match &given.path {
            PathMatch::Exact(path) => model::PathMatch::Exact(path.clone()),
            PathMatch::PathPrefix(path) => model::PathMatch::Prefix(path.clone()),
            PathMatch::RegularExpression(pattern) => model::PathMatch::Regex(pattern.clone()),
        },
        method: method.transpose()?,
        headers: rules::header_matches(path, &given.headers)?,
        query: query.collect(),
    })
}
