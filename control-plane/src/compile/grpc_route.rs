//! A GRPCRoute's rules as routes of the model: a call is a POST of `application/grpc` for `/service/method` (gRPC,
//! PROTOCOL-HTTP2.md, "Requests").

use std::cmp::Reverse;

use http::Method;
use http::header::CONTENT_TYPE;
use weir_api::FieldError;
use weir_api::grpc_route::{GrpcMethodCompare, GrpcMethodMatch, GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec};
use weir_policy::model;
use weir_policy::route::check_regex;

use super::references::References;
use super::route_policies::RoutePolicies;
use super::rules::{self, RuleParts};

/// What decides between routes: characters of the service, characters of the method, then conditions on the header,
/// the most of each first (Gateway API, GRPCRouteRule.matches). Ties keep the order they came in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence(Reverse<usize>, Reverse<usize>, Reverse<usize>);

/// All routes of a GRPCRoute, in its own order, each with what decides between it and others.
pub(super) fn expand(
    references: &References<'_>,
    policies: &RoutePolicies<'_>,
    spec: &GrpcRouteSpec,
) -> Result<Vec<(Precedence, model::Route)>, FieldError> {
    let mut routes = Vec::new();
    for (number, rule) in spec.rules.iter().enumerate() {
        routes.append(&mut expand_rule(references, policies, number, rule)?);
    }
    Ok(routes)
}

fn expand_rule(
    references: &References<'_>,
    policies: &RoutePolicies<'_>,
    number: usize,
    rule: &GrpcRouteRule,
) -> Result<Vec<(Precedence, model::Route)>, FieldError> {
    let at = rules::Place::new(references, number, rule.name.as_deref());
    let parts = RuleParts {
        filters: &rule.filters,
        backends: &rule.backend_refs,
        timeouts: None,
        retry: None,
        policy: policies.for_rule(rule.name.as_deref()),
        limit: policies.limit_name(at.name(), rule.name.as_deref()),
    };
    let done = rules::done(references, &at, &parts)?;
    let every_call = [GrpcRouteMatch::default()];
    let matches = match rule.matches.as_slice() {
        [] => &every_call,
        given => given,
    };
    let matches = matches.iter().enumerate();
    let routes = matches.map(|(index, given)| {
        let taken = route_match(&format!("{}.matches[{index}]", at.path), given)?;
        Ok((precedence(given), done.route(at.route_name(index), taken)))
    });
    routes.collect()
}

fn precedence(given: &GrpcRouteMatch) -> Precedence {
    let chars = |text: Option<&String>| Reverse(text.map_or(0, |text| text.chars().count()));
    let method = given.method.as_ref();
    Precedence(
        chars(method.and_then(|method| method.service.as_ref())),
        chars(method.and_then(|method| method.method.as_ref())),
        Reverse(given.headers.len()),
    )
}

fn route_match(path: &str, given: &GrpcRouteMatch) -> Result<model::RouteMatch, FieldError> {
    let mut headers = rules::header_matches(path, &given.headers)?;
    headers.push(model::HeaderMatch {
        name: CONTENT_TYPE,
        value: model::ValueMatch::Regex(GRPC_CONTENT_TYPE.to_owned()),
    });
    Ok(model::RouteMatch {
        path: path_match(&format!("{path}.method"), given.method.as_ref())?,
        method: Some(Method::POST),
        headers,
        query: Vec::new(),
    })
}

fn path_match(path: &str, given: Option<&GrpcMethodMatch>) -> Result<model::PathMatch, FieldError> {
    let Some(GrpcMethodMatch {
        compare,
        service,
        method,
    }) = given
    else {
        return Ok(model::PathMatch::Prefix("/".to_owned()));
    };
    if *compare == GrpcMethodCompare::RegularExpression {
        // Each alone, since one that is none may be one in the group put round it.
        for (field, pattern) in [("service", service), ("method", method)] {
            let checked = pattern.as_ref().map_or(Ok(()), |pattern| check_regex(pattern));
            let held = pattern.as_deref().unwrap_or_default();
            checked.map_err(|problem| rules::wrong(format!("{path}.{field}"), held, &problem.to_string()))?;
        }
    }
    Ok(match (compare, service, method) {
        (GrpcMethodCompare::Exact, Some(service), Some(method)) => {
            model::PathMatch::Exact(format!("/{service}/{method}"))
        }
        (GrpcMethodCompare::Exact, Some(service), None) => model::PathMatch::Prefix(format!("/{service}")),
        // A name holds nothing that means something in an expression.
        (GrpcMethodCompare::Exact | GrpcMethodCompare::RegularExpression, service, method) => {
            let part = |text: &Option<String>| match text {
                Some(pattern) => format!("(?:{pattern})"),
                None => "[^/]+".to_owned(),
            };
            model::PathMatch::Regex(format!("/{}/{}", part(service), part(method)))
        }
    })
}

/// gRPC, PROTOCOL-HTTP2.md: `application/grpc`, with `+` and a message type or without.
const GRPC_CONTENT_TYPE: &str = "application/grpc([+;].*)?";

#[cfg(test)]
mod tests {
    use weir_api::http_route::{HeaderMatch, ValueMatch};
    use weir_api::route_policy::RouteRetry;
    use weir_api::{Kind, Spec};
    use weir_policy::route::{RequestFacts, RouteTable};

    use super::*;
    use crate::compile::fixture;
    use crate::compile::index::Index;

    fn exact(service: Option<&str>, method: Option<&str>) -> GrpcRouteMatch {
        matching(GrpcMethodCompare::Exact, service, method)
    }

    fn matching(compare: GrpcMethodCompare, service: Option<&str>, method: Option<&str>) -> GrpcRouteMatch {
        GrpcRouteMatch {
            method: Some(GrpcMethodMatch {
                compare,
                service: service.map(str::to_owned),
                method: method.map(str::to_owned),
            }),
            headers: Vec::new(),
        }
    }

    #[test]
    fn calls_are_told_by_service_and_method_the_longer_first() {
        use GrpcMethodCompare::RegularExpression;
        let matches = vec![
            GrpcRouteMatch::default(),
            exact(None, Some("Get")),
            exact(Some("a.Echo"), None),
            exact(Some("a.Echo"), Some("Get")),
            matching(RegularExpression, Some("b[.].*"), Some("Put|Del")),
            exact(Some("a.Echo"), Some("Stream")),
        ];
        let mut route = fixture::grpc_route("citizen", "r", "citizen", "portal");
        fixture::grpc_spec_of(&mut route).rules[0].matches = matches;
        let hosts = crate::compile::routes::hosts_of(&route, &Index::default());
        let table = RouteTable::compile(&hosts).expect("it compiles");
        for (method, path, content_type, expect) in [
            (Method::POST, "/a.Echo/Get", "application/grpc", Some(3)),
            (Method::POST, "/a.Echo/Get", "application/grpc+proto", Some(3)),
            (Method::POST, "/a.Echo/Get", "application/grpc-web", None),
            (Method::POST, "/a.Echo/Get", "application/json", None),
            (Method::GET, "/a.Echo/Get", "application/grpc", None),
            (Method::POST, "/a.Echo/Stream", "application/grpc", Some(5)),
            (Method::POST, "/a.Echo/Other", "application/grpc", Some(2)),
            (Method::POST, "/c.Echo/Get", "application/grpc", Some(1)),
            (Method::POST, "/c.Echo/x/Get", "application/grpc", Some(0)),
            (Method::POST, "/a.Echoes/Other", "application/grpc", Some(0)),
            (Method::POST, "/b.x/Del", "application/grpc", Some(4)),
            (Method::POST, "/b.x/Delete", "application/grpc", Some(0)),
        ] {
            let headers = http::HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().expect("a value"))]);
            let facts = RequestFacts {
                host: "portal",
                path,
                query: None,
                method: &method,
                headers: &headers,
            };
            let taken = table.find(&facts).map(|id| table.route(id).name.clone());
            let expect = expect.map(|at| format!("GRPCRoute/citizen/r#rules[0].matches[{at}]"));
            assert_eq!(taken, expect, "{method} {path} {content_type}");
        }
    }

    #[test]
    fn of_alike_calls_the_one_with_more_headers_goes_first() {
        let bare = exact(Some("a.Echo"), Some("Get"));
        let mut with_header = bare.clone();
        with_header.headers = vec![HeaderMatch {
            name: "x-group".to_owned(),
            value: ValueMatch::Exact("beta".to_owned()),
        }];
        assert!(precedence(&with_header) < precedence(&bare));
        // By characters, not by bytes.
        let named = |service| matching(GrpcMethodCompare::RegularExpression, Some(service), None);
        assert_eq!(precedence(&named("é")), precedence(&named("e")));
    }

    #[test]
    fn a_policy_holds_for_the_rule_that_it_names() {
        let mut policy = fixture::route_policy("p", &[(Kind::GrpcRoute, "r", Some("named"))]);
        fixture::route_policy_spec_of(&mut policy).retry = Some(RouteRetry {
            attempts: Some(3),
            ..RouteRetry::default()
        });
        let mut route = fixture::grpc_route("citizen", "r", "citizen", "portal");
        let rules = &mut fixture::grpc_spec_of(&mut route).rules;
        rules.push(rules[0].clone());
        rules[1].name = Some("named".to_owned());
        let index = fixture::index([policy]);
        let policies = RoutePolicies::of(&route, &fixture::service_named("portal.citizen"), &index);
        let references = References::of(&route, &index);
        let Spec::GrpcRoute(spec) = &route.spec else {
            panic!("a route")
        };
        let routes = expand(&references, &policies, spec).expect("it converts");
        let attempts = routes.iter().map(|(_, route)| match &route.action {
            model::Action::Forward(forward) => forward.retry.as_ref().map(|retry| retry.attempts),
            other => panic!("forwarded: {other:?}"),
        });
        assert_eq!(attempts.collect::<Vec<_>>(), [None, Some(3)]);
    }
}
