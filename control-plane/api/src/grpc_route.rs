//! GRPCRoute (`gateway.networking.k8s.io/v1`, GEP-1016) attached to Services. What it has in common with HTTPRoute has
//! the same types.

use schemars::JsonSchema;
use serde::Serialize;

use crate::decode::{Errors, Node};
use crate::http_route::filters::{FILTERS_MAX, FilterOf, read_filters};
use crate::http_route::read::{
    BACKENDS_MAX, CONDITIONS_MAX, HOSTNAMES_MAX, MATCHES_MAX, PARENTS_MAX, RULES_MAX, check_rules, read_backend,
    read_header_matches, read_hostnames, read_parents, read_pattern,
};
use crate::http_route::{BackendRef, HeaderMatch, HeaderModifier, HttpRouteFilter, ParentRef, RequestMirror};
use crate::names;
use crate::schema::texts::{Host, PathPattern, Subdomain};

/// Where gRPC calls of some services go: which calls, what changes on them, to which services they go. Of several
/// routes for a service the most specific match takes a call. For one host of a service there are HTTPRoutes or
/// GRPCRoutes, not both: the older holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GRPCRouteSpec")]
pub struct GrpcRouteSpec {
    /// The services whose callers it is for.
    ///
    /// Rule: references to one Service name different ports, each of them.
    #[schemars(length(min = 1, max = PARENTS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts it is for: `a.example.org` or `*.example.org`, in lower case. Default: every host.
    ///
    /// Rule: each stands once, and none is an IP address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<Host>",
        default,
        length(max = HOSTNAMES_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub hostnames: Vec<String>,
    /// Its rules. Default: none, so that every call is answered with UNIMPLEMENTED.
    ///
    /// Rule: names occur once; all rules together have at most 128 matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = RULES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<GrpcRouteRule>,
}

/// What becomes of calls that one of its matches takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GRPCRouteRule")]
pub struct GrpcRouteRule {
    /// Its name, unique in the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Subdomain>")]
    pub name: Option<String>,
    /// Which calls: those that any of these takes. Default: every one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = MATCHES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<GrpcRouteMatch>,
    /// What changes: header modifiers and mirrors. Default: nothing.
    ///
    /// Rule: each type but RequestMirror occurs once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<GrpcRouteFilter>",
        default,
        length(max = FILTERS_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub filters: Vec<HttpRouteFilter>,
    /// Where they go. Default: nowhere: they are answered with UNAVAILABLE.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<GrpcBackendRef>",
        default,
        length(max = BACKENDS_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub backend_refs: Vec<BackendRef>,
}

/// Which calls: all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "GRPCRouteMatch")]
pub struct GrpcRouteMatch {
    /// On the gRPC service and method. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// On fields of the header. Default: none.
    ///
    /// Rule: each name occurs once, whatever its case, and none is Content-Type: by it a request is a call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = CONDITIONS_MAX), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub headers: Vec<HeaderMatch>,
}

/// A condition on the gRPC service and method.
///
/// Rule: `service` or `method` is given.
///
/// Rule: with `type: Exact`, `service` is a name as in a .proto file, with its package, and `method` one without dots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "GRPCMethodMatch")]
pub struct GrpcMethodMatch {
    /// How both are compared.
    #[serde(rename = "type")]
    #[schemars(default)]
    pub compare: GrpcMethodCompare,
    /// The gRPC service, with its package. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PathPattern>")]
    pub service: Option<String>,
    /// The method. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PathPattern>")]
    pub method: Option<String>,
}

/// How a gRPC service and method are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "GRPCMethodMatchType")]
pub enum GrpcMethodCompare {
    /// Whole and by case.
    #[default]
    Exact,
    /// As regular expressions, each of which takes the whole. Their syntax is checked by the control plane.
    RegularExpression,
}

/// The schema of the filters that a GRPCRoute can have.
#[derive(JsonSchema)]
#[schemars(rename = "GRPCRouteFilter")]
#[expect(dead_code, reason = "for its schema alone")]
enum GrpcRouteFilter {
    /// Changes the request's header.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the answer's header.
    ResponseHeaderModifier(HeaderModifier),
    /// Sends copies of requests elsewhere. Occurs any number of times.
    RequestMirror(RequestMirror),
}

/// Where calls go, by weight.
///
/// Rule: of a Service its name is a DNS label, and `port` is given.
#[derive(JsonSchema)]
#[schemars(rename = "GRPCBackendRef")]
#[expect(dead_code, reason = "for its schema alone")]
struct GrpcBackendRef {
    /// The port of a Service.
    #[schemars(flatten)]
    object: crate::http_route::ObjectRef,
    /// Its share of the sum of all backends' weights; 0: no requests.
    #[schemars(default = "crate::http_route::one_share", range(max = crate::http_route::read::WEIGHT_MAX))]
    weight: u32,
    /// What changes for calls that go there, after the rule's own filters. Default: nothing.
    ///
    /// Rule: each type but RequestMirror occurs once.
    #[schemars(default, length(max = FILTERS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    filters: Vec<GrpcRouteFilter>,
}

/// Reads the spec of a route that is in `namespace`.
pub(crate) fn read(node: &Node<'_>, namespace: &str, errors: &mut Errors) -> Option<GrpcRouteSpec> {
    let mut fields = node.fields(errors)?;
    let parent_refs = fields.required("parentRefs", errors, |node, errors| {
        read_parents(node, namespace, errors)
    });
    let hostnames = fields.optional("hostnames", errors, read_hostnames);
    let rules = fields.optional("rules", errors, read_rules);
    fields.refused(
        "useDefaultGateways",
        errors,
        "is not supported",
        "a route names its Services in parentRefs",
    );
    fields.finish(errors);
    Some(GrpcRouteSpec {
        parent_refs: parent_refs?,
        hostnames: hostnames.unwrap_or_default(),
        rules: rules.unwrap_or_default(),
    })
}

fn read_rules(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<GrpcRouteRule>> {
    let rules = node.list(errors, RULES_MAX, read_rule)?;
    let names: Vec<Option<&str>> = rules.iter().map(|rule| rule.name.as_deref()).collect();
    let matches = rules.iter().map(|rule| rule.matches.len()).sum();
    check_rules(node, errors, &names, matches);
    Some(rules)
}

fn read_rule(node: &Node<'_>, errors: &mut Errors) -> Option<GrpcRouteRule> {
    let mut fields = node.fields(errors)?;
    let name = fields.optional("name", errors, names::subdomain);
    let matches = fields.optional("matches", errors, |node, errors| {
        node.list(errors, MATCHES_MAX, read_match)
    });
    let filters = fields.optional("filters", errors, |node, errors| {
        read_filters(node, FilterOf::GrpcRoute, errors)
    });
    let backend_refs = fields.optional("backendRefs", errors, |node, errors| {
        node.list(errors, BACKENDS_MAX, |node, errors| {
            read_backend(node, FilterOf::GrpcRoute, errors)
        })
    });
    fields.refused("sessionPersistence", errors, "is not supported", "leave it out");
    fields.finish(errors);
    Some(GrpcRouteRule {
        name,
        matches: matches.unwrap_or_default(),
        filters: filters.unwrap_or_default(),
        backend_refs: backend_refs.unwrap_or_default(),
    })
}

fn read_match(node: &Node<'_>, errors: &mut Errors) -> Option<GrpcRouteMatch> {
    let mut fields = node.fields(errors)?;
    let method = fields.get("method");
    let method = match &method {
        Some(node) => Some(read_method(node, errors)?),
        None => None,
    };
    let headers = fields.optional("headers", errors, |node, errors| {
        let headers = read_header_matches(node, errors)?;
        let is_type = |header: &HeaderMatch| header.name.eq_ignore_ascii_case("content-type");
        if let Some(index) = headers.iter().position(is_type) {
            let remedy = "leave it out: a GRPCRoute is for calls, which have application/grpc there";
            node.refuse_item(
                errors,
                &headers,
                index,
                "is a condition on the field that makes a request a call",
                remedy,
            );
        }
        Some(headers)
    });
    fields.finish(errors);
    Some(GrpcRouteMatch {
        method,
        headers: headers.unwrap_or_default(),
    })
}

fn read_method(node: &Node<'_>, errors: &mut Errors) -> Option<GrpcMethodMatch> {
    let mut fields = node.fields(errors)?;
    let compare = fields.optional("type", errors, |node, errors| {
        let exact = ("Exact", GrpcMethodCompare::Exact);
        node.choice(
            errors,
            &[exact, ("RegularExpression", GrpcMethodCompare::RegularExpression)],
        )
    });
    let compare = compare.unwrap_or_default();
    let read = |node: &Node<'_>, is_right: fn(&str) -> bool, errors: &mut Errors| match compare {
        GrpcMethodCompare::Exact => {
            let remedy = "a name as in a .proto file is right: letters, digits and '_', no digit first; a service's \
                          with its package, like a.b.Name";
            names::checked(node, errors, is_right, "is no such name", remedy)
        }
        GrpcMethodCompare::RegularExpression => read_pattern(node, NAME_CHARS_MAX, errors),
    };
    let service = fields.get("service");
    let method = fields.get("method");
    let is_given = service.is_some() || method.is_some();
    let service = service.map(|node| read(&node, is_service, errors));
    let method = method.map(|node| read(&node, is_method, errors));
    fields.finish(errors);
    if !is_given {
        node.refuse(
            errors,
            "takes every call",
            "give service or method, or leave the whole out",
        );
        return None;
    }
    Some(GrpcMethodMatch {
        compare,
        service: service.flatten(),
        method: method.flatten(),
    })
}

/// The CRD's rule: names with dots between, and maybe one before.
fn is_service(text: &str) -> bool {
    let names = text.strip_prefix('.').unwrap_or(text);
    text.len() <= NAME_CHARS_MAX && names.split('.').all(is_name)
}

fn is_method(text: &str) -> bool {
    text.len() <= NAME_CHARS_MAX && is_name(text)
}

fn is_name(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The CRD's limit.
const NAME_CHARS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_proto_files() {
        for (text, service, method) in [
            ("a", true, true),
            ("_A9", true, true),
            ("a.b.C", true, false),
            (".a.b", true, false),
            ("a..b", false, false),
            ("a.", false, false),
            ("9a", false, false),
            ("a-b", false, false),
            ("a/b", false, false),
            (".", false, false),
        ] {
            assert_eq!((is_service(text), is_method(text)), (service, method), "{text}");
        }
    }
}
