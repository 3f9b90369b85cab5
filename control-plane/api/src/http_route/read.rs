//! Reading an HTTPRoute: the schema and the rules of the Gateway API's CRD (v1, standard channel, and `retry` of the
//! experimental one), and that nothing is asked for that would be ignored.

use std::time::Duration;

use super::filters::{FilterOf, read_filters};
use super::*;
use crate::decode::{Errors, Fields, Node, port};
use crate::names;
use crate::reference;

/// Reads the spec of a route that is in `namespace`.
pub(crate) fn read(node: &Node<'_>, namespace: &str, errors: &mut Errors) -> Option<HttpRouteSpec> {
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
    Some(HttpRouteSpec {
        parent_refs: parent_refs?,
        hostnames: hostnames.unwrap_or_default(),
        // The CRD's default: one rule that matches every path.
        rules: rules.unwrap_or_else(every_request),
    })
}

impl Default for HttpRouteRule {
    /// Takes every request and, without backends, answers with 500.
    fn default() -> Self {
        HttpRouteRule {
            name: None,
            matches: vec![HttpRouteMatch::default()],
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: None,
            retry: None,
        }
    }
}

pub(crate) fn read_parents(node: &Node<'_>, namespace: &str, errors: &mut Errors) -> Option<Vec<ParentRef>> {
    let parents = node.list(errors, PARENTS_MAX, read_parent)?;
    node.refuse_empty(errors, "a route is for at least one Service");
    let target = |parent: &ParentRef| {
        let own = parent.namespace.as_deref().unwrap_or(namespace).to_owned();
        (own, parent.name.clone())
    };
    fn differ<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
        a.is_some() && b.is_some() && a != b
    }
    let clash = |a: &ParentRef, b: &ParentRef| {
        let sections = (a.section_name.as_deref(), b.section_name.as_deref());
        target(a) == target(b) && !differ(a.port, b.port) && !differ(sections.0, sections.1)
    };
    let remedy = "references to one Service name different ports, each of them";
    node.refuse_twins(
        errors,
        &parents,
        clash,
        "names a Service that an earlier reference names",
        remedy,
    );
    Some(parents)
}

fn read_parent(node: &Node<'_>, errors: &mut Errors) -> Option<ParentRef> {
    let mut fields = node.fields(errors)?;
    let kind = reference::explicit_service(&mut fields, errors, "a Gateway");
    let namespace = fields.optional("namespace", errors, names::label);
    let name = fields.required("name", errors, names::label);
    let section_name = fields.optional("sectionName", errors, names::port_name);
    let port = fields.optional("port", errors, port);
    fields.finish(errors);
    Some(ParentRef {
        kind: kind?,
        namespace,
        name: name?,
        section_name,
        port,
    })
}

pub(crate) fn read_hostnames(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<String>> {
    let hostnames = node.list(errors, HOSTNAMES_MAX, read_hostname)?;
    node.refuse_twins(errors, &hostnames, |a, b| a == b, TWIN, TWIN_REMEDY);
    Some(hostnames)
}

/// Reads a DNS name, the first label of which may be `*`.
pub(crate) fn read_hostname(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    let is_right = |host: &str| host.len() <= 253 && is_hostname(host.strip_prefix("*.").unwrap_or(host));
    let remedy = "a name like a.example.org or *.example.org is right: lower case, no address, no port";
    names::checked(node, errors, is_right, "is no host name", remedy)
}

fn read_rules(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<HttpRouteRule>> {
    let rules = node.list(errors, RULES_MAX, read_rule)?;
    node.refuse_empty(errors, "a route has at least one rule");
    let names: Vec<Option<&str>> = rules.iter().map(|rule| rule.name.as_deref()).collect();
    let matches = rules.iter().map(|rule| rule.matches.len()).sum();
    check_rules(node, errors, &names, matches);
    Some(rules)
}

/// What holds between the rules of a route, of either kind: each has a name of its own, if any, and together they have
/// no more matches than a proxy is to try.
pub(crate) fn check_rules(node: &Node<'_>, errors: &mut Errors, names: &[Option<&str>], matches: usize) {
    node.refuse_twins(
        errors,
        names,
        |a, b| a.is_some() && a == b,
        "has the name of an earlier rule",
        "each rule has a name of its own",
    );
    if matches > MATCHES_OF_ROUTE_MAX {
        let remedy = format!("at most {MATCHES_OF_ROUTE_MAX} are right; make two routes of it");
        node.refuse(errors, format!("has {matches} matches in all"), remedy);
    }
}

fn read_rule(node: &Node<'_>, errors: &mut Errors) -> Option<HttpRouteRule> {
    let mut fields = node.fields(errors)?;
    let name = fields.optional("name", errors, names::subdomain);
    let matches = fields.optional("matches", errors, |node, errors| {
        node.list(errors, MATCHES_MAX, read_match)
    });
    let of = FilterOf::HttpRoute;
    let filters = fields.optional("filters", errors, |node, errors| read_filters(node, of, errors));
    let backend_refs = fields.optional("backendRefs", errors, |node, errors| {
        node.list(errors, BACKENDS_MAX, |node, errors| read_backend(node, of, errors))
    });
    let timeouts = fields.optional("timeouts", errors, read_timeouts);
    let retry = fields.optional("retry", errors, read_retry);
    fields.refused("sessionPersistence", errors, "is not supported", "leave it out");
    fields.finish(errors);
    let matches = matches.filter(|matches| !matches.is_empty());
    let rule = HttpRouteRule {
        name,
        matches: matches.unwrap_or_else(every_path),
        filters: filters.unwrap_or_default(),
        backend_refs: backend_refs.unwrap_or_default(),
        timeouts,
        retry,
    };
    check_rule(node, &rule, errors);
    cors::check_beside(node, &rule, errors);
    Some(rule)
}

/// What the CRD says of a rule as a whole.
fn check_rule(node: &Node<'_>, rule: &HttpRouteRule, errors: &mut Errors) {
    let Some(mut fields) = node.fields(errors) else { return };
    let redirects = rule
        .filters
        .iter()
        .any(|filter| matches!(filter, HttpRouteFilter::RequestRedirect(_)));
    if redirects && !rule.backend_refs.is_empty() {
        let backends = fields.get("backendRefs");
        if let Some(backends) = backends {
            let problem = "stands beside a RequestRedirect, which answers itself";
            backends.refuse(errors, problem, "leave one of the two out");
        }
    }
    if let [
        HttpRouteMatch {
            path: PathMatch::PathPrefix(_),
            ..
        },
    ] = rule.matches.as_slice()
    {
        return;
    }
    let replaces_prefix = |filter: &HttpRouteFilter| {
        let path = match filter {
            HttpRouteFilter::RequestRedirect(redirect) => redirect.path.as_ref(),
            HttpRouteFilter::UrlRewrite(rewrite) => rewrite.path.as_ref(),
            HttpRouteFilter::RequestHeaderModifier(_)
            | HttpRouteFilter::ResponseHeaderModifier(_)
            | HttpRouteFilter::RequestMirror(_)
            | HttpRouteFilter::Cors(_) => None,
        };
        matches!(path, Some(PathModifier::ReplacePrefixMatch(_)))
    };
    let problem = "replaces a prefix that is not one";
    let remedy = "replacePrefixMatch needs exactly one match in its rule, on a PathPrefix";
    if let (Some(filters), Some(index)) = (fields.get("filters"), rule.filters.iter().position(replaces_prefix)) {
        filters.refuse_item(errors, &rule.filters, index, problem, remedy);
    }
    if let Some(backends) = fields.get("backendRefs") {
        for (index, backend) in rule.backend_refs.iter().enumerate() {
            if backend.filters.iter().any(replaces_prefix) {
                backends.refuse_item(errors, &rule.backend_refs, index, problem, remedy);
            }
        }
    }
}

impl Default for HttpRouteMatch {
    /// Takes every request.
    fn default() -> Self {
        HttpRouteMatch {
            path: PathMatch::default(),
            headers: Vec::new(),
            query_params: Vec::new(),
            method: None,
        }
    }
}

fn read_match(node: &Node<'_>, errors: &mut Errors) -> Option<HttpRouteMatch> {
    let mut fields = node.fields(errors)?;
    let path = match fields.get("path") {
        Some(node) => read_path_match(&node, errors),
        None => Some(PathMatch::default()),
    };
    let headers = fields.optional("headers", errors, read_header_matches);
    let query_params = fields.optional("queryParams", errors, |node, errors| {
        let params = node.list(errors, CONDITIONS_MAX, read_query_match)?;
        node.refuse_twins(errors, &params, |a, b| a.name == b.name, TWIN, TWIN_REMEDY);
        Some(params)
    });
    let method = fields.optional("method", errors, |node, errors| {
        let methods: Vec<(&str, HttpMethod)> = HttpMethod::ALL.iter().map(|m| (m.as_str(), *m)).collect();
        node.choice(errors, &methods)
    });
    fields.finish(errors);
    Some(HttpRouteMatch {
        path: path?,
        headers: headers.unwrap_or_default(),
        query_params: query_params.unwrap_or_default(),
        method,
    })
}

/// How a value is compared.
#[derive(Clone, Copy)]
enum Compare {
    Exact,
    Prefix,
    Regex,
}

fn read_path_match(node: &Node<'_>, errors: &mut Errors) -> Option<PathMatch> {
    let mut fields = node.fields(errors)?;
    let compare = match fields.get("type") {
        Some(node) => {
            let exact = ("Exact", Compare::Exact);
            let regex = ("RegularExpression", Compare::Regex);
            node.choice(errors, &[exact, ("PathPrefix", Compare::Prefix), regex])
        }
        None => Some(Compare::Prefix),
    };
    let value = fields.get("value");
    fields.finish(errors);
    let compare = compare?;
    let Some(value) = value else {
        return Some(match compare {
            Compare::Exact => PathMatch::Exact("/".to_owned()),
            Compare::Prefix => PathMatch::PathPrefix("/".to_owned()),
            Compare::Regex => PathMatch::RegularExpression("/".to_owned()),
        });
    };
    match compare {
        Compare::Exact => read_path(&value, errors).map(PathMatch::Exact),
        Compare::Prefix => read_path(&value, errors).map(PathMatch::PathPrefix),
        Compare::Regex => read_pattern(&value, PATH_CHARS_MAX, errors).map(PathMatch::RegularExpression),
    }
}

pub(crate) fn read_header_matches(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<HeaderMatch>> {
    let headers = node.list(errors, CONDITIONS_MAX, read_header_match)?;
    node.refuse_twins(
        errors,
        &headers,
        |a, b| a.name.eq_ignore_ascii_case(&b.name),
        TWIN,
        TWIN_REMEDY,
    );
    Some(headers)
}

fn read_header_match(node: &Node<'_>, errors: &mut Errors) -> Option<HeaderMatch> {
    let mut fields = node.fields(errors)?;
    let name = fields.required("name", errors, read_header_name);
    let value = read_value_match(&mut fields, HEADER_CHARS_MAX, errors);
    fields.finish(errors);
    Some(HeaderMatch {
        name: name?,
        value: value?,
    })
}

fn read_query_match(node: &Node<'_>, errors: &mut Errors) -> Option<QueryParamMatch> {
    let mut fields = node.fields(errors)?;
    let name = fields.required("name", errors, |node, errors| {
        let remedy = "1 to 256 letters, digits and !#$%&'*+-.^_`|~ are right (Gateway API, HTTPHeaderName)";
        names::checked(node, errors, names::is_header_name, "is no name of a parameter", remedy)
    });
    let value = read_value_match(&mut fields, QUERY_CHARS_MAX, errors);
    fields.finish(errors);
    Some(QueryParamMatch {
        name: name?,
        value: value?,
    })
}

fn read_value_match(fields: &mut Fields<'_>, chars_max: usize, errors: &mut Errors) -> Option<ValueMatch> {
    let compare = match fields.get("type") {
        Some(node) => node.choice(
            errors,
            &[("Exact", Compare::Exact), ("RegularExpression", Compare::Regex)],
        ),
        None => Some(Compare::Exact),
    };
    let value = fields.required("value", errors, |node, errors| read_pattern(node, chars_max, errors));
    match (compare?, value?) {
        (Compare::Exact | Compare::Prefix, value) => Some(ValueMatch::Exact(value)),
        (Compare::Regex, value) => Some(ValueMatch::RegularExpression(value)),
    }
}

/// Reads the fields of a reference to a port of a Service, or to what the Gateway API takes in place of one.
pub(super) fn read_object_ref(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<ObjectRef> {
    let kind = reference::backend_kind(fields, errors);
    let is_foreign = kind.as_ref().is_some_and(|kind| !kind.is_service());
    let namespace = fields.optional("namespace", errors, names::label);
    let read_name = if is_foreign { names::subdomain } else { names::label };
    let name = fields.required("name", errors, read_name);
    let port = match is_foreign {
        true => Some(fields.optional("port", errors, port)),
        false => fields.required("port", errors, port).map(Some),
    };
    Some(ObjectRef {
        kind: kind?,
        namespace,
        name: name?,
        port: port?,
    })
}

pub(crate) fn read_backend(node: &Node<'_>, of: FilterOf, errors: &mut Errors) -> Option<BackendRef> {
    let mut fields = node.fields(errors)?;
    let object = read_object_ref(&mut fields, errors);
    let weight = fields.optional("weight", errors, |node, errors| node.integer(errors, 0..=WEIGHT_MAX));
    let filters = fields.optional("filters", errors, |node, errors| read_filters(node, of, errors));
    fields.finish(errors);
    let ObjectRef {
        kind,
        namespace,
        name,
        port,
    } = object?;
    Some(BackendRef {
        kind,
        namespace,
        name,
        port,
        weight: weight.unwrap_or_else(one_share),
        filters: filters.unwrap_or_default(),
    })
}

fn read_timeouts(node: &Node<'_>, errors: &mut Errors) -> Option<RouteTimeouts> {
    let mut fields = node.fields(errors)?;
    let time = |node: &Node<'_>, errors: &mut Errors| node.duration(errors, Duration::ZERO..=duration::MAX);
    let request = fields.optional("request", errors, time).filter(|time| !time.is_zero());
    let backend_request = fields
        .optional("backendRequest", errors, time)
        .filter(|time| !time.is_zero());
    if let (Some(request), Some(backend)) = (request, backend_request)
        && backend > request
        && let Some(node) = fields.get("backendRequest")
    {
        let remedy = format!("at most request, {}, is right", duration::format(request));
        node.refuse(errors, "is longer than the whole request may take", remedy);
    }
    fields.finish(errors);
    Some(RouteTimeouts {
        request,
        backend_request,
    })
}

fn read_retry(node: &Node<'_>, errors: &mut Errors) -> Option<Retry> {
    let mut fields = node.fields(errors)?;
    let codes = fields.optional("codes", errors, |node, errors| {
        let codes = node.list(errors, CODES_MAX, |node, errors| node.integer(errors, 400..=599))?;
        node.refuse_twins(errors, &codes, |a: &u16, b| a == b, TWIN, TWIN_REMEDY);
        Some(codes)
    });
    let attempts = fields.optional("attempts", errors, |node, errors| {
        node.integer(errors, 0..=ATTEMPTS_MAX)
    });
    let backoff = fields.optional("backoff", errors, |node, errors| {
        node.duration(errors, Duration::from_millis(1)..=Duration::from_secs(60))
    });
    fields.finish(errors);
    Some(Retry {
        codes: codes.unwrap_or_default(),
        attempts,
        backoff,
    })
}

pub(crate) fn read_path(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    let text = node.text(errors)?;
    match names::path_problem(text) {
        Some(problem) => {
            node.refuse(errors, problem, "a path like /a/b is right");
            None
        }
        None => Some(text.to_owned()),
    }
}

/// A value to compare with, or a regular expression: not empty, bounded, without control characters.
pub(crate) fn read_pattern(node: &Node<'_>, chars_max: usize, errors: &mut Errors) -> Option<String> {
    let is_right = |text: &str| {
        let printable = !text.chars().any(|c| c.is_control() && c != '\t');
        !text.is_empty() && text.chars().nth(chars_max).is_none() && printable
    };
    let remedy = format!("1 to {chars_max} characters are right, no control characters");
    names::checked(node, errors, is_right, "can't be compared with", &remedy)
}

pub(crate) fn read_header_name(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    let remedy = "1 to 256 letters, digits and !#$%&'*+-.^_`|~ are right (RFC 9110 section 5.1)";
    names::checked(node, errors, names::is_header_name, "is no name of a field", remedy)
}

pub(crate) fn read_precise_hostname(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    let remedy = "a name like a.example.org is right: lower case, no wildcard, no port";
    names::checked(node, errors, is_hostname, "is no host name", remedy)
}

/// A DNS name that is no address.
fn is_hostname(text: &str) -> bool {
    names::is_subdomain(text) && text.parse::<std::net::IpAddr>().is_err()
}

pub(crate) const TWIN: &str = "is there already";
pub(crate) const TWIN_REMEDY: &str = "each stands once";

/// The CRD's limits.
pub(crate) const PARENTS_MAX: usize = 32;
pub(crate) const HOSTNAMES_MAX: usize = 16;
pub(crate) const RULES_MAX: usize = 16;
pub(crate) const MATCHES_MAX: usize = 64;
const MATCHES_OF_ROUTE_MAX: usize = 128;
pub(crate) const CONDITIONS_MAX: usize = 16;
pub(crate) const BACKENDS_MAX: usize = 16;
pub(crate) const WEIGHT_MAX: u64 = 1_000_000;
const PATH_CHARS_MAX: usize = 1024;
const HEADER_CHARS_MAX: usize = 4096;
const QUERY_CHARS_MAX: usize = 1024;

/// The CRD has none: more than ten retries of one request help nobody.
pub(crate) const ATTEMPTS_MAX: u64 = 10;
pub(crate) const CODES_MAX: usize = 32;
