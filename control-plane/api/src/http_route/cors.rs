//! CORS (GEP-1767).

use std::borrow::Cow;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::read::{TWIN, TWIN_REMEDY, read_header_name};
use super::*;
use crate::decode::{Errors, Node, boolean};
use crate::names;
use crate::schema::texts::Origin;

/// Which pages of other origins may use what the rule takes, and how. Preflights, by which browsers ask that, are
/// answered by the proxy and go no further; what the app's own answers say of it is replaced.
///
/// A preflight is an OPTIONS request to the same URL, without the fields of the request that is to follow: a rule whose
/// matches name another method, or fields, takes none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HTTPCORSFilter")]
pub struct CorsFilter {
    /// Origins of pages that may: `https://a.example.org`, `https://*.example.org` for every host below it,
    /// `https://*` for every host; each with `:8443` if it has a port that is not its scheme's own. `*` alone: every
    /// origin. Default: none, so that no page of another origin may.
    ///
    /// Rule: each stands once, and `*` stands alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<Origin>",
        default,
        length(max = LISTED_MAX),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allow_origins: Vec<String>,
    /// Whether requests of such pages may carry credentials: cookies, certificates, Authorization as the browser knows
    /// it.
    #[schemars(default)]
    pub allow_credentials: bool,
    /// Methods that they may use beside GET, HEAD and POST. `*` alone: every method. Default: no other.
    ///
    /// Rule: each stands once, and `*` stands alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = METHODS_MAX), extend("x-kubernetes-list-type" = "set"))]
    pub allow_methods: Vec<CorsMethod>,
    /// Names of fields that their requests may have, beside those that browsers let every page set. `*` alone: every
    /// field. Default: no other.
    ///
    /// Rule: each stands once, whatever its case, and `*` stands alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<FieldName>",
        default,
        length(max = LISTED_MAX),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allow_headers: Vec<String>,
    /// Names of fields of the answer that they may read, beside those that browsers let every page read. `*`: every
    /// field. Default: no other.
    ///
    /// Rule: each stands once, whatever its case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<FieldName>",
        default,
        length(max = LISTED_MAX),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub expose_headers: Vec<String>,
    /// For how many seconds a browser may keep the answer to a preflight.
    #[schemars(default = "five_seconds", range(min = 1, max = MAX_AGE_MAX))]
    pub max_age: u32,
}

/// A method that pages may use, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorsMethod {
    /// `*`
    Any,
    /// This one.
    Named(HttpMethod),
}

impl CorsMethod {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            CorsMethod::Any => ANY,
            CorsMethod::Named(method) => method.as_str(),
        }
    }

    fn all() -> impl Iterator<Item = CorsMethod> {
        let named = HttpMethod::ALL.iter().copied().map(CorsMethod::Named);
        named.chain([CorsMethod::Any])
    }
}

impl Serialize for CorsMethod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for CorsMethod {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HTTPMethodWithWildcard".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = CorsMethod::all().map(CorsMethod::as_str).collect();
        json_schema!({"type": "string", "enum": words})
    }
}

/// An origin of `allowOrigins` that is not `*`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsOrigin {
    /// Its scheme.
    pub scheme: RedirectScheme,
    /// Its host in lower case: a name or an IPv4 address, `*.` and a name, or `*`.
    pub host: String,
    /// Its port, where it is not that of the scheme.
    pub port: Option<NonZeroU16>,
}

impl CorsOrigin {
    /// Takes a text apart; `None`: it is no origin.
    pub fn read(text: &str) -> Option<CorsOrigin> {
        let (scheme, rest, own) = match text.split_once("://")? {
            ("http", rest) => (RedirectScheme::Http, rest, 80),
            ("https", rest) => (RedirectScheme::Https, rest, 443),
            _ => return None,
        };
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) if port.starts_with(|first: char| matches!(first, '1'..='9')) => {
                (host, Some(port.parse().ok()?))
            }
            Some(_) => return None,
            None => (rest, None),
        };
        let label = |label: &str| {
            let is_right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len()) && label.bytes().all(is_right)
        };
        let name = host.strip_prefix("*.").unwrap_or(host);
        (host == ANY || name.split('.').all(label)).then(|| CorsOrigin {
            scheme,
            host: host.to_ascii_lowercase(),
            port: port.filter(|port: &NonZeroU16| port.get() != own),
        })
    }
}

pub(super) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<CorsFilter> {
    let mut fields = node.fields(errors)?;
    let allow_origins = fields.optional("allowOrigins", errors, |node, errors| {
        let origins = node.list(errors, LISTED_MAX, read_origin)?;
        let same =
            |a: &String, b: &String| a == b || CorsOrigin::read(a).is_some_and(|a| CorsOrigin::read(b) == Some(a));
        node.refuse_twins(errors, &origins, same, TWIN, TWIN_REMEDY);
        alone(node, errors);
        Some(origins)
    });
    let allow_credentials = fields.optional("allowCredentials", errors, boolean);
    let allow_methods = fields.optional("allowMethods", errors, |node, errors| {
        let words: Vec<(&str, CorsMethod)> = CorsMethod::all().map(|method| (method.as_str(), method)).collect();
        let methods = node.list(errors, METHODS_MAX, |node, errors| node.choice(errors, &words))?;
        node.refuse_twins(errors, &methods, |a, b| a == b, TWIN, TWIN_REMEDY);
        alone(node, errors);
        Some(methods)
    });
    let allow_headers = fields.optional("allowHeaders", errors, |node, errors| {
        let names = read_names(node, errors)?;
        alone(node, errors);
        Some(names)
    });
    let expose_headers = fields.optional("exposeHeaders", errors, read_names);
    let max_age = fields.optional("maxAge", errors, |node, errors| node.integer(errors, 1..=MAX_AGE_MAX));
    fields.finish(errors);
    Some(CorsFilter {
        allow_origins: allow_origins.unwrap_or_default(),
        allow_credentials: allow_credentials.unwrap_or_default(),
        allow_methods: allow_methods.unwrap_or_default(),
        allow_headers: allow_headers.unwrap_or_default(),
        expose_headers: expose_headers.unwrap_or_default(),
        max_age: max_age.unwrap_or_else(five_seconds),
    })
}

/// Refuses changes to fields of answers that the rule's CORS writes and takes out.
pub(super) fn check_beside(node: &Node<'_>, rule: &HttpRouteRule, errors: &mut Errors) {
    let of_backends = rule.backend_refs.iter().flat_map(|backend| &backend.filters);
    let mut all = rule.filters.iter().chain(of_backends);
    if !all.any(|filter| matches!(filter, HttpRouteFilter::Cors(_))) {
        return;
    }
    let Some(mut fields) = node.fields(errors) else { return };
    let problem = "changes a field that is the CORS filter's to say";
    let remedy = "leave Access-Control-* to that filter";
    if let (Some(filters), Some(at)) = (fields.get("filters"), rule.filters.iter().position(speaks_of_cors)) {
        filters.refuse_item(errors, &rule.filters, at, problem, remedy);
    }
    let mut backends = rule.backend_refs.iter();
    let at = backends.position(|backend| backend.filters.iter().any(speaks_of_cors));
    if let (Some(backends), Some(at)) = (fields.get("backendRefs"), at) {
        backends.refuse_item(errors, &rule.backend_refs, at, problem, remedy);
    }
}

fn speaks_of_cors(filter: &HttpRouteFilter) -> bool {
    let HttpRouteFilter::ResponseHeaderModifier(HeaderModifier { set, add, remove }) = filter else {
        return false;
    };
    let written = set.iter().chain(add).map(|field| &field.name);
    let mut names = written.chain(remove);
    names.any(|name| ANSWER_FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field)))
}

fn read_origin(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    let is_right = |text: &str| text == ANY || (text.len() <= 253 && CorsOrigin::read(text).is_some());
    let remedy = "https://a.example.org, http://a.example.org:8080, https://*.example.org or * is right";
    names::checked(node, errors, is_right, "is no origin", remedy)
}

fn read_names(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<String>> {
    let names = node.list(errors, LISTED_MAX, read_header_name)?;
    let same = |a: &String, b: &String| a.eq_ignore_ascii_case(b);
    node.refuse_twins(errors, &names, same, TWIN, TWIN_REMEDY);
    Some(names)
}

/// `*` takes in all others.
fn alone(node: &Node<'_>, errors: &mut Errors) {
    let listed = node.value().as_array().map(Vec::as_slice).unwrap_or_default();
    if let (Some(at), 2..) = (listed.iter().position(|one| one == ANY), listed.len()) {
        node.refuse_item(errors, listed, at, "stands beside others", "leave it or the others out");
    }
}

/// What `maxAge` is where it is left out.
fn five_seconds() -> u32 {
    5
}

/// All of a kind.
pub const ANY: &str = "*";

/// The CRD's limits.
const LISTED_MAX: usize = 64;
const METHODS_MAX: usize = 9;
const MAX_AGE_MAX: u64 = i32::MAX as u64;

/// The fields by which an answer speaks of CORS (Fetch standard, section 3.3.3).
const ANSWER_FIELDS: [&str; 6] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_scheme_host_and_port() {
        let origin = |scheme, host: &str, port| {
            let port = NonZeroU16::new(port);
            let host = host.to_owned();
            Some(CorsOrigin { scheme, host, port })
        };
        let (http, https) = (RedirectScheme::Http, RedirectScheme::Https);
        for (text, expect) in [
            ("https://a.example.org", origin(https, "a.example.org", 0)),
            ("https://a.example.org:443", origin(https, "a.example.org", 0)),
            ("http://a.example.org:443", origin(http, "a.example.org", 443)),
            ("http://A.Example.org:80", origin(http, "a.example.org", 0)),
            ("https://*.example.org:8443", origin(https, "*.example.org", 8443)),
            ("https://*", origin(https, "*", 0)),
            ("http://*:65535", origin(http, "*", 65535)),
            ("http://127.0.0.1:8080", origin(http, "127.0.0.1", 8080)),
            ("https://a.*.org", None),
            ("https://*a.org", None),
            ("https://**", None),
            ("https://", None),
            ("https://a.", None),
            ("https://a/", None),
            ("https://a:", None),
            ("https://a:0", None),
            ("https://a:080", None),
            ("https://a:65536", None),
            ("https://a:8x", None),
            ("https://a:80:80", None),
            ("ftp://a", None),
            ("a.example.org", None),
            ("*", None),
        ] {
            assert_eq!(CorsOrigin::read(text), expect, "{text}");
        }
    }
}
