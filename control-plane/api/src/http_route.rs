//! HTTPRoute (`gateway.networking.k8s.io/v1`) attached to Services, as the Gateway API's GAMMA text has it.

use std::num::NonZeroU16;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::duration;
use crate::reference::RefKind;

mod read;

pub(crate) use read::read;

/// Where requests for some services go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// The services whose callers it is for, 1 to 32, none twice.
    pub parent_refs: Vec<ParentRef>,
    /// Hosts it is for, at most 16: `a.example.org` or `*.example.org`, in lower case. Empty: every host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Its rules, 1 to 16; at most 128 matches in all.
    pub rules: Vec<HttpRouteRule>,
}

/// A service whose callers a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Always a Service.
    #[serde(flatten)]
    pub kind: RefKind,
    /// Its namespace; default: the route's (a producer route). Another one makes it a consumer route: for callers in
    /// the route's own namespace only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// One of its ports; default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
}

/// What becomes of requests that one of its matches takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Its name, unique in the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which requests, 1 to 64; default: every path.
    pub matches: Vec<HttpRouteMatch>,
    /// What changes, at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpRouteFilter>,
    /// Where they go, at most 16. Empty without a redirect: answered with 500.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// How long they may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RouteTimeouts>,
    /// When they are sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Which requests: all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// On the path.
    pub path: PathMatch,
    /// On fields of the header, at most 16; a name occurs once, whatever its case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// On parameters of the query, at most 16; a name occurs once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<QueryParamMatch>,
    /// On the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "type", content = "value")]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole segments from the start.
    PathPrefix(String),
    /// A regular expression, at most 1024 characters. Its syntax is checked by the control plane.
    RegularExpression(String),
}

impl Default for PathMatch {
    /// Every path.
    fn default() -> Self {
        PathMatch::PathPrefix("/".to_owned())
    }
}

/// A condition on a header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderMatch {
    /// The field, in whatever case it was given.
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    pub value: ValueMatch,
}

/// A condition on a parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryParamMatch {
    /// The parameter, case-sensitive.
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "type", content = "value")]
pub enum ValueMatch {
    /// The whole value.
    Exact(String),
    /// A regular expression. Its syntax is checked by the control plane.
    RegularExpression(String),
}

/// A method that a match can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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

/// A change to requests or answers. Each kind occurs at most once in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpRouteFilter {
    /// Changes the request's header.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the answer's header.
    ResponseHeaderModifier(HeaderModifier),
    /// Answers with a redirect; then the rule has no backends and no rewrite.
    RequestRedirect(RequestRedirect),
    /// Changes host or path on the way to the backend.
    UrlRewrite(UrlRewrite),
}

impl HttpRouteFilter {
    /// As it stands in `type`.
    pub fn type_name(&self) -> &'static str {
        match self {
            HttpRouteFilter::RequestHeaderModifier(_) => "RequestHeaderModifier",
            HttpRouteFilter::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            HttpRouteFilter::RequestRedirect(_) => "RequestRedirect",
            HttpRouteFilter::UrlRewrite(_) => "URLRewrite",
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
        }
        map.end()
    }
}

/// Changes to a header, in the order remove, set, add; a name occurs once in each, whatever its case. Fields on which
/// the framing of messages depends, `host` and the mesh's own can't be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderModifier {
    /// Fields that replace all of their name, at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderField>,
    /// Fields put beside those of their name, at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderField>,
    /// Names of fields taken out, at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderField {
    /// Its name.
    pub name: String,
    /// Its value: 1 to 4096 visible characters, spaces and tabs.
    pub value: String,
}

/// A redirect; what is `None` stays as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    /// The scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// 301, 302, 303, 307 or 308; default 302.
    pub status_code: u16,
}

/// A scheme that a redirect can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// A rewrite; what is `None` stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UrlRewrite {
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// How a path changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// The whole path becomes this.
    ReplaceFullPath(String),
    /// The prefix that matched becomes this; then the rule has one match, on a path prefix. May be empty.
    ReplacePrefixMatch(String),
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Always a Service.
    #[serde(flatten)]
    pub kind: RefKind,
    /// Its namespace; default: the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: NonZeroU16,
    /// Its share of the sum of weights: 0 to 1000000; default 1.
    pub weight: u32,
}

/// How long requests may take; `None`: no limit of the route's. Zero (`0s`) in a route is no limit and reads as
/// `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTimeouts {
    /// Over all attempts.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    pub request: Option<Duration>,
    /// For one attempt; at most `request`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    pub backend_request: Option<Duration>,
}

/// When a request is sent again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// Statuses that are tried again: 400 to 599, at most 32, none twice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// How often at most, beside the first attempt: 0 to 10; default: [`RETRY_ATTEMPTS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The wait before the first retry: 1 ms to 1 m; default: [`RETRY_BACKOFF`].
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    pub backoff: Option<Duration>,
}

/// How often a request is sent again by a `retry` that does not say; GEP-1731 leaves it to the implementation, and one
/// is what it costs least.
pub const RETRY_ATTEMPTS: u32 = 1;

/// How long the first retry waits by a `retry` that does not say: Envoy's published default.
pub const RETRY_BACKOFF: Duration = Duration::from_millis(25);
