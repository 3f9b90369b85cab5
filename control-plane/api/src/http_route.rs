//! HTTPRoute (`gateway.networking.k8s.io/v1`) attached to Services, as the Gateway API's GAMMA text has it.

use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::duration;
use crate::reference::{self, BackendKind, RefKind};
use crate::schema::texts::{
    FieldName, FieldPattern, FieldValue, Host, Label, Millis, ParameterPattern, Path, PathOrEmpty, PathPattern,
    Subdomain,
};

mod cors;
pub(crate) mod filters;
mod mirror;
pub(crate) mod read;

pub use cors::{ANY, CorsFilter, CorsMethod, CorsOrigin};
pub use mirror::{Fraction, RequestMirror};

pub(crate) use mirror::read as read_mirror;
pub(crate) use read::{read, read_header_name, read_path};

/// Where HTTP requests for some services go: which requests, what changes on them, to which services they go, how long
/// they may take and when they are sent again. Of several routes for a service the most specific match takes a
/// request; of equal ones the older route's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HTTPRouteSpec")]
pub struct HttpRouteSpec {
    /// The services whose callers it is for.
    ///
    /// Rule: references to one Service name different ports, each of them.
    #[schemars(length(min = 1, max = read::PARENTS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts it is for: `a.example.org` or `*.example.org`, in lower case. Default: every host.
    ///
    /// Rule: each stands once, and none is an IP address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<Host>",
        default,
        length(max = read::HOSTNAMES_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub hostnames: Vec<String>,
    /// Its rules. Default: one that takes every request.
    ///
    /// Rule: names occur once; all rules together have at most 128 matches.
    #[schemars(default = "every_request", length(min = 1, max = read::RULES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<HttpRouteRule>,
}

/// All that a rule refers to.
pub(crate) fn references<'a>(
    rule: usize,
    filters: &'a [HttpRouteFilter],
    backends: &'a [BackendRef],
) -> impl Iterator<Item = (ReferencePlace, Reference<'a>)> {
    let mirrors = move |backend: Option<usize>, filters: &'a [HttpRouteFilter]| {
        let filters = filters.iter().enumerate();
        filters.filter_map(move |(at, filter)| match filter {
            HttpRouteFilter::RequestMirror(mirror) => {
                let filter = Some(at);
                let place = ReferencePlace { rule, backend, filter };
                Some((place, mirror.backend_ref.reference()))
            }
            HttpRouteFilter::RequestHeaderModifier(_)
            | HttpRouteFilter::ResponseHeaderModifier(_)
            | HttpRouteFilter::RequestRedirect(_)
            | HttpRouteFilter::UrlRewrite(_)
            | HttpRouteFilter::Cors(_) => None,
        })
    };
    let of_backends = backends.iter().enumerate().flat_map(move |(at, backend)| {
        let place = ReferencePlace {
            rule,
            backend: Some(at),
            filter: None,
        };
        let own = std::iter::once((place, backend.reference()));
        own.chain(mirrors(Some(at), &backend.filters))
    });
    of_backends.chain(mirrors(None, filters))
}

/// Where in a route a reference stands: `rules[0].backendRefs[1]`, `rules[0].filters[2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferencePlace {
    /// The rule.
    pub rule: usize,
    /// The backend, if it is one or a filter of one.
    pub backend: Option<usize>,
    /// The filter, if it is one: then copies of requests go there.
    pub filter: Option<usize>,
}

impl fmt::Display for ReferencePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rules[{}]", self.rule)?;
        if let Some(backend) = self.backend {
            write!(f, ".backendRefs[{backend}]")?;
        }
        match self.filter {
            Some(filter) => write!(f, ".filters[{filter}]"),
            None => Ok(()),
        }
    }
}

/// A service whose callers a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RouteParentReference")]
pub struct ParentRef {
    /// Always a Service.
    #[serde(flatten)]
    #[schemars(with = "reference::Explicit")]
    pub kind: RefKind,
    /// Its namespace. Default: the route's (a producer route). Another one makes it a consumer route: for callers in
    /// the route's own namespace only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(with = "Label")]
    pub name: String,
    /// One of its ports, by name. Default: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub section_name: Option<String>,
    /// One of its ports, by number; beside `sectionName` it is the same one. Default: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
}

/// What becomes of requests that one of its matches takes.
///
/// Rule: with a RequestRedirect it has no `backendRefs` and no URLRewrite.
///
/// Rule: with a `replacePrefixMatch` it has exactly one match, on a PathPrefix.
///
/// Rule: with a CORS filter, here or on a backend, no ResponseHeaderModifier names a field that begins with
/// Access-Control-Allow-, nor Access-Control-Expose-Headers or Access-Control-Max-Age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HTTPRouteRule")]
pub struct HttpRouteRule {
    /// Its name, unique in the route. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Subdomain>")]
    pub name: Option<String>,
    /// Which requests: those that any of these takes. Default: one that takes every request.
    #[schemars(default = "every_path", length(max = read::MATCHES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<HttpRouteMatch>,
    /// What changes on requests and answers. Default: nothing.
    ///
    /// Rule: each type but RequestMirror occurs once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = filters::FILTERS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub filters: Vec<HttpRouteFilter>,
    /// Where requests go, by weight. Default: nowhere; they are answered with 500 if there is no redirect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = read::BACKENDS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub backend_refs: Vec<BackendRef>,
    /// How long requests may take. Default: no limit of the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RouteTimeouts>,
    /// When requests are sent again. Default: only where nothing can have happened (not written, or refused unseen),
    /// and GET, HEAD and OPTIONS once when a kept connection turned out to be closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Which requests: all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HTTPRouteMatch")]
pub struct HttpRouteMatch {
    /// What the path has to be.
    #[schemars(default)]
    pub path: PathMatch,
    /// What fields of the header have to be; all of these hold. Default: none.
    ///
    /// Rule: each name occurs once, whatever its case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = read::CONDITIONS_MAX), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub headers: Vec<HeaderMatch>,
    /// What parameters of the query have to be; all of these hold. Default: none.
    ///
    /// Rule: each name occurs once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = read::CONDITIONS_MAX), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub query_params: Vec<QueryParamMatch>,
    /// What the method has to be. Default: any method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(tag = "type", content = "value")]
#[schemars(rename = "HTTPPathMatch", extend("x-properties" = {
    "type": {"default": "PathPrefix"},
    "value": {"default": "/", "description": PATH_VALUE},
}))]
pub enum PathMatch {
    /// `value` is the whole path.
    Exact(#[schemars(with = "Path")] String),
    /// `value` is whole segments from the start.
    PathPrefix(#[schemars(with = "Path")] String),
    /// `value` is a regular expression that takes the whole path.
    RegularExpression(#[schemars(with = "PathPattern")] String),
}

impl Default for PathMatch {
    /// Every path.
    fn default() -> Self {
        PathMatch::PathPrefix("/".to_owned())
    }
}

/// A condition on a header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "HTTPHeaderMatch")]
pub struct HeaderMatch {
    /// The field's name, in any case.
    #[schemars(with = "FieldName")]
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    pub value: ValueMatch,
}

/// A condition on a parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "HTTPQueryParamMatch")]
pub struct QueryParamMatch {
    /// The parameter's name; its case matters.
    #[schemars(with = "FieldName")]
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    #[schemars(with = "ParameterValueMatch")]
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(tag = "type", content = "value")]
#[schemars(extend("x-properties" = {"type": {"default": "Exact"}, "value": {"description": VALUE}}))]
pub enum ValueMatch {
    /// `value` is the whole value.
    Exact(#[schemars(with = "FieldPattern")] String),
    /// `value` is a regular expression that takes the whole value.
    RegularExpression(#[schemars(with = "FieldPattern")] String),
}

/// The schema of a [`ValueMatch`] on a parameter of the query, whose values are shorter.
#[derive(JsonSchema)]
#[schemars(
    tag = "type",
    content = "value",
    extend("x-properties" = {"type": {"default": "Exact"}, "value": {"description": VALUE}})
)]
#[expect(dead_code, reason = "for its schema alone")]
enum ParameterValueMatch {
    /// `value` is the whole value.
    Exact(#[schemars(with = "ParameterPattern")] String),
    /// `value` is a regular expression that takes the whole value.
    RegularExpression(#[schemars(with = "ParameterPattern")] String),
}

/// A method that a match can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// CONNECT
    Connect,
    /// OPTIONS
    Options,
    /// TRACE
    Trace,
    /// PATCH
    Patch,
}

impl HttpMethod {
    /// Every one.
    pub const ALL: &[HttpMethod] = &[
        HttpMethod::Get,
        HttpMethod::Head,
        HttpMethod::Post,
        HttpMethod::Put,
        HttpMethod::Delete,
        HttpMethod::Connect,
        HttpMethod::Options,
        HttpMethod::Trace,
        HttpMethod::Patch,
    ];

    /// As it stands in a request: `GET`.
    pub fn as_str(self) -> &'static str {
        match self {
            HttpMethod::Get => "GET",
            HttpMethod::Head => "HEAD",
            HttpMethod::Post => "POST",
            HttpMethod::Put => "PUT",
            HttpMethod::Delete => "DELETE",
            HttpMethod::Connect => "CONNECT",
            HttpMethod::Options => "OPTIONS",
            HttpMethod::Trace => "TRACE",
            HttpMethod::Patch => "PATCH",
        }
    }
}

/// A change to requests or answers.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename = "HTTPRouteFilter")]
pub enum HttpRouteFilter {
    /// Changes the request's header.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the answer's header.
    ResponseHeaderModifier(HeaderModifier),
    /// Answers with a redirect.
    RequestRedirect(RequestRedirect),
    /// Changes host or path on the way to the backend.
    #[schemars(rename = "URLRewrite")]
    UrlRewrite(UrlRewrite),
    /// Sends copies of requests elsewhere. Occurs any number of times.
    RequestMirror(RequestMirror),
    /// Says which pages of other origins may use it. On a backend it holds instead of the rule's.
    #[schemars(rename = "CORS")]
    Cors(CorsFilter),
}

impl HttpRouteFilter {
    /// As it stands in `type`.
    pub fn type_name(&self) -> &'static str {
        match self {
            HttpRouteFilter::RequestHeaderModifier(_) => "RequestHeaderModifier",
            HttpRouteFilter::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            HttpRouteFilter::RequestRedirect(_) => "RequestRedirect",
            HttpRouteFilter::UrlRewrite(_) => "URLRewrite",
            HttpRouteFilter::RequestMirror(_) => "RequestMirror",
            HttpRouteFilter::Cors(_) => "CORS",
        }
    }
}

impl Serialize for HttpRouteFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("type", self.type_name())?;
        match self {
            HttpRouteFilter::RequestHeaderModifier(filter) => map.serialize_entry("requestHeaderModifier", filter)?,
            HttpRouteFilter::ResponseHeaderModifier(filter) => map.serialize_entry("responseHeaderModifier", filter)?,
            HttpRouteFilter::RequestRedirect(filter) => map.serialize_entry("requestRedirect", filter)?,
            HttpRouteFilter::UrlRewrite(filter) => map.serialize_entry("urlRewrite", filter)?,
            HttpRouteFilter::RequestMirror(filter) => map.serialize_entry("requestMirror", filter)?,
            HttpRouteFilter::Cors(filter) => map.serialize_entry("cors", filter)?,
        }
        map.end()
    }
}

/// Changes to a header, in the order remove, set, add.
///
/// Rule: each name occurs once in each list, whatever its case.
///
/// Rule: fields on which the framing of messages depends (Connection, Content-Length, Keep-Alive, Proxy-Connection, TE,
/// Trailer, Transfer-Encoding, Upgrade, HTTP2-Settings), Host and what begins with Weir- can't be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "HTTPHeaderFilter")]
pub struct HeaderModifier {
    /// Fields that replace all of their name. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = filters::CHANGES_MAX), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub set: Vec<HeaderField>,
    /// Fields put beside those of their name. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = filters::CHANGES_MAX), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub add: Vec<HeaderField>,
    /// Names of fields taken out. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<FieldName>",
        default,
        length(max = filters::CHANGES_MAX),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub remove: Vec<String>,
}

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "HTTPHeader")]
pub struct HeaderField {
    /// Its name.
    #[schemars(with = "FieldName")]
    pub name: String,
    /// Its value: visible ASCII, spaces and tabs, none of these first or last.
    #[schemars(with = "FieldValue")]
    pub value: String,
}

/// A redirect; what is left out stays as it was asked for.
///
/// Rule: at least one of `scheme`, `hostname`, `path` and `port` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HTTPRequestRedirectFilter")]
pub struct RequestRedirect {
    /// The scheme. Default: the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// The host, in lower case. Default: the request's.
    ///
    /// Rule: it is no IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Subdomain>")]
    pub hostname: Option<String>,
    /// How the path changes. Default: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The port. Default: the request's, or that of `scheme` if it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// The status of the answer.
    #[schemars(default = "redirect_code", extend("enum" = filters::REDIRECT_CODES))]
    pub status_code: u16,
}

/// A scheme that a redirect can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// A rewrite; what is left out stays.
///
/// Rule: `hostname` or `path` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "HTTPURLRewriteFilter")]
pub struct UrlRewrite {
    /// The host, in lower case. Default: the request's.
    ///
    /// Rule: it is no IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Subdomain>")]
    pub hostname: Option<String>,
    /// How the path changes. Default: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// How a path changes.
///
/// Rule: a path holds no empty segment (`//`), none that is `.` or `..` in any spelling, and no escaped slash (`%2F`).
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename = "HTTPPathModifier")]
pub enum PathModifier {
    /// The whole path becomes this.
    ReplaceFullPath(#[schemars(with = "Path")] String),
    /// The prefix that matched becomes this; may be empty.
    ReplacePrefixMatch(#[schemars(with = "PathOrEmpty")] String),
}

impl Serialize for PathModifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        match self {
            PathModifier::ReplaceFullPath(path) => {
                map.serialize_entry("type", "ReplaceFullPath")?;
                map.serialize_entry("replaceFullPath", path)?;
            }
            PathModifier::ReplacePrefixMatch(prefix) => {
                map.serialize_entry("type", "ReplacePrefixMatch")?;
                map.serialize_entry("replacePrefixMatch", prefix)?;
            }
        }
        map.end()
    }
}

/// Where requests go, by weight.
///
/// Rule: of a Service its name is a DNS label, and `port` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HTTPBackendRef")]
pub struct BackendRef {
    /// A Service, or what can't be used.
    #[serde(flatten)]
    pub kind: BackendKind,
    /// Its namespace. Default: the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(with = "Subdomain")]
    pub name: String,
    /// The number of its port. Default: none, where it is no Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// Its share of the sum of all backends' weights; 0: no requests.
    #[schemars(default = "one_share", range(max = read::WEIGHT_MAX))]
    pub weight: u32,
    /// What changes for requests that go there, after the rule's own filters. Default: nothing.
    ///
    /// Rule: each type but RequestMirror occurs once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = filters::FILTERS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub filters: Vec<HttpRouteFilter>,
}

impl BackendRef {
    /// Where it leads.
    pub fn reference(&self) -> Reference<'_> {
        Reference {
            kind: &self.kind,
            namespace: self.namespace.as_deref(),
            name: &self.name,
            port: self.port,
        }
    }
}

/// A port of a Service.
///
/// Rule: of a Service its name is a DNS label, and `port` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "BackendObjectReference")]
pub struct ObjectRef {
    /// A Service, or what can't be used.
    #[serde(flatten)]
    pub kind: BackendKind,
    /// Its namespace. Default: that of the resource that refers to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(with = "Subdomain")]
    pub name: String,
    /// The number of its port. Default: none, where it is no Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
}

impl ObjectRef {
    /// Where it leads.
    pub fn reference(&self) -> Reference<'_> {
        Reference {
            kind: &self.kind,
            namespace: self.namespace.as_deref(),
            name: &self.name,
            port: self.port,
        }
    }
}

/// Where a reference of a route or a policy leads, whatever it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// To what kind of resource.
    pub kind: &'a BackendKind,
    /// The namespace; `None`: that of who refers.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
    /// Its port; every Service's has one.
    pub port: Option<NonZeroU16>,
}

/// How long requests may take. `0s`: no limit, as if left out.
///
/// Rule: `backendRequest` is at most `request`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HTTPRouteTimeouts")]
pub struct RouteTimeouts {
    /// Over all attempts. Default: no limit.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    #[schemars(with = "Option<Millis<0, { duration::MAX_MILLIS }>>")]
    pub request: Option<Duration>,
    /// For one attempt. Default: no limit.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    #[schemars(with = "Option<Millis<0, { duration::MAX_MILLIS }>>")]
    pub backend_request: Option<Duration>,
}

/// When a request is sent again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "HTTPRouteRetry")]
pub struct Retry {
    /// Statuses of answers that are tried again. Default: none.
    ///
    /// Rule: each stands once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        default,
        inner(range(min = 400, max = 599)),
        length(max = read::CODES_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub codes: Vec<u16>,
    /// How often a request is sent again at most. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = read::ATTEMPTS_MAX))]
    pub attempts: Option<u32>,
    /// How long the first retry waits. Default: 25ms.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    #[schemars(with = "Option<Millis<1, 60_000>>")]
    pub backoff: Option<Duration>,
}

/// How often a request is sent again by a `retry` that does not say; GEP-1731 leaves it to the implementation, and one
/// is what it costs least.
pub const RETRY_ATTEMPTS: u32 = 1;

/// How long the first retry waits by a `retry` that does not say: Envoy's published default.
pub const RETRY_BACKOFF: Duration = Duration::from_millis(25);

/// What `weight` is where it is left out.
pub(crate) fn one_share() -> u32 {
    1
}

/// What `statusCode` is where it is left out.
fn redirect_code() -> u16 {
    302
}

/// What `rules` are where they are left out.
fn every_request() -> Vec<HttpRouteRule> {
    vec![HttpRouteRule::default()]
}

/// What `matches` are where they are left out.
fn every_path() -> Vec<HttpRouteMatch> {
    vec![HttpRouteMatch::default()]
}

const PATH_VALUE: &str = "What the path is compared with.\n\nRule: a path holds no empty segment (`//`), none that is `.` \
                          or `..` in any spelling, and no escaped slash (`%2F`).";
const VALUE: &str = "What the value is compared with.";
