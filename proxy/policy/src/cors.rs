//! What pages of other origins may do with a route (CORS: Fetch standard, section 3.3; Gateway API, GEP-1767), and how
//! a browser is told.
//!
//! The route has the last word: what an answer says of CORS by itself is taken out, and no preflight goes further than
//! the proxy. Every answer names the origin that asked, also where all may: so one rule serves requests with
//! credentials, for which `*` is not right, and those without. Hence `Vary: Origin` on each of them.

use std::num::NonZeroU16;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::model::{Cors, HostMatch, Listed, OriginMatch, Scheme};

/// The fields by which an answer speaks of CORS.
pub const ANSWER_FIELDS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// What is decided of a request.
#[derive(Debug)]
pub struct Decision {
    /// What becomes of it.
    pub request: Next,
    /// What its answer says, whoever makes it.
    pub answer: AnswerFields,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on: it is no preflight. A page that may not read the answer is kept from it by its browser.
    Continue,
    /// It is a preflight for a page that may use the route, and is answered here.
    Allow,
    /// It is a preflight for a page that may not.
    Deny,
}

/// What an answer says of CORS.
#[derive(Debug)]
pub struct AnswerFields {
    fields: HeaderMap,
    exposes: Exposes,
}

/// Whether an answer's own fields are listed in it.
#[derive(Debug, PartialEq, Eq)]
enum Exposes {
    /// They are: with credentials `*` would be the name of a field.
    ItsOwnFields,
    /// What is listed does not depend on the answer.
    AsWritten,
}

impl AnswerFields {
    /// Makes an answer say this, and nothing else about CORS. Comes after all other changes to it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &ANSWER_FIELDS {
            headers.remove(name);
        }
        if self.exposes == Exposes::ItsOwnFields {
            let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
            }
        }
        for (name, value) in &self.fields {
            headers.insert(name, value.clone());
        }
        if !varies_by_origin(headers) {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

/// Decides what becomes of a request of a route, and what its answer says.
pub fn evaluate(cors: &Cors, method: &Method, headers: &HeaderMap) -> Decision {
    let asked = asked_method(method, headers);
    let Some(origin) = allowed_origin(cors, headers) else {
        let answer = AnswerFields {
            fields: HeaderMap::new(),
            exposes: Exposes::AsWritten,
        };
        let request = if asked.is_some() { Next::Deny } else { Next::Continue };
        return Decision { request, answer };
    };
    let Cors {
        origins: _,
        credentials,
        methods,
        request_fields,
        exposed_fields,
        max_age_seconds,
    } = cors;
    let mut fields = HeaderMap::new();
    fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if *credentials {
        fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    let mut exposes = Exposes::AsWritten;
    match exposed_fields {
        Listed::Any if *credentials => exposes = Exposes::ItsOwnFields,
        Listed::Any => {
            fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
        Listed::These(names) => list(&mut fields, ACCESS_CONTROL_EXPOSE_HEADERS, names, HeaderName::as_str),
    }
    let Some(asked) = asked else {
        let answer = AnswerFields { fields, exposes };
        let request = Next::Continue;
        return Decision { request, answer };
    };
    match methods {
        // `*` would not be right with credentials, what was asked for always is.
        Listed::Any => {
            fields.insert(ACCESS_CONTROL_ALLOW_METHODS, asked.clone());
        }
        Listed::These(methods) => list(&mut fields, ACCESS_CONTROL_ALLOW_METHODS, methods, Method::as_str),
    }
    match request_fields {
        Listed::Any => {
            let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
            let asked: Vec<&[u8]> = asked
                .map(HeaderValue::as_bytes)
                .filter(|value| !value.is_empty())
                .collect();
            if let (false, Ok(asked)) = (asked.is_empty(), HeaderValue::from_bytes(&asked.join(&b", "[..]))) {
                fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
            }
        }
        Listed::These(names) => list(&mut fields, ACCESS_CONTROL_ALLOW_HEADERS, names, HeaderName::as_str),
    }
    fields.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(*max_age_seconds));
    Decision {
        request: Next::Allow,
        // There is no answer of an app whose fields could be read.
        answer: AnswerFields {
            fields,
            exposes: Exposes::AsWritten,
        },
    }
}

/// The method that a preflight asks for; `None`: it is no preflight (Fetch standard, section 3.3.2).
fn asked_method<'a>(method: &Method, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let asked = headers
        .get(ACCESS_CONTROL_REQUEST_METHOD)
        .filter(|value| !value.is_empty())?;
    (method == Method::OPTIONS && headers.contains_key(ORIGIN)).then_some(asked)
}

/// The origin of the request's page, if it may use the route. Two of them are none.
fn allowed_origin<'a>(cors: &Cors, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let origin = origins.next().filter(|origin| !origin.is_empty())?;
    if origins.next().is_some() {
        return None;
    }
    let allowed = match &cors.origins {
        Listed::Any => true,
        Listed::These(allowed) => {
            let given = Origin::read(origin.to_str().ok()?)?;
            allowed.iter().any(|allowed| given.is_of(allowed))
        }
    };
    allowed.then_some(origin)
}

/// An origin as browsers write it (RFC 6454 section 6.2): the host in lower case.
struct Origin<'a> {
    scheme: Scheme,
    host: &'a str,
    port: NonZeroU16,
}

impl Origin<'_> {
    fn read(text: &str) -> Option<Origin<'_>> {
        let (scheme, rest) = match text.split_once("://")? {
            ("http", rest) => (Scheme::Http, rest),
            ("https", rest) => (Scheme::Https, rest),
            _ => return None,
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let read = port.parse().ok().filter(|read: &NonZeroU16| read.to_string() == port)?;
                (host, read)
            }
            Some(_) | None => (rest, scheme.port()),
        };
        is_host(host).then_some(Origin { scheme, host, port })
    }

    fn is_of(&self, allowed: &OriginMatch) -> bool {
        let host = match &allowed.host {
            HostMatch::Any => true,
            HostMatch::Exact(host) => self.host == host,
            HostMatch::Suffix(suffix) => {
                let before = self.host.strip_suffix(suffix.as_str());
                before
                    .and_then(|before| before.strip_suffix('.'))
                    .is_some_and(|labels| !labels.is_empty())
            }
        };
        host && self.scheme == allowed.scheme && self.port == allowed.port
    }
}

/// A name, or an address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let is_right = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
            !host.is_empty() && host.bytes().all(is_right)
        }
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let said = headers
        .get_all(VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut said = said.map(<[u8]>::trim_ascii);
    said.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
}

/// Writes a list of names, if there are any.
fn list<T>(fields: &mut HeaderMap, name: HeaderName, listed: &[T], text: fn(&T) -> &str) {
    let listed: Vec<&str> = listed.iter().map(text).collect();
    if let (false, Ok(value)) = (listed.is_empty(), HeaderValue::try_from(listed.join(", "))) {
        fields.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> OriginMatch {
        let (scheme, rest) = text.split_once("://").expect("a scheme");
        let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
        let (host, port) = rest.split_once(':').unwrap_or((rest, ""));
        let port = port.parse().unwrap_or(scheme.port());
        let host = match (host, host.strip_prefix("*.")) {
            ("*", _) => HostMatch::Any,
            (_, Some(suffix)) => HostMatch::Suffix(suffix.to_owned()),
            (host, None) => HostMatch::Exact(host.to_owned()),
        };
        OriginMatch { scheme, host, port }
    }

    fn cors(origins: &[&str]) -> Cors {
        let origins = match origins {
            ["*"] => Listed::Any,
            these => Listed::These(these.iter().map(|text| origin(text)).collect()),
        };
        Cors {
            origins,
            credentials: false,
            methods: Listed::These(Vec::new()),
            request_fields: Listed::These(Vec::new()),
            exposed_fields: Listed::These(Vec::new()),
            max_age_seconds: 5,
        }
    }

    fn names(names: &[&'static str]) -> Listed<HeaderName> {
        Listed::These(names.iter().map(|name| HeaderName::from_static(name)).collect())
    }

    type Field = (&'static str, &'static str);
    type Fields = &'static [Field];
    type Said = &'static [&'static str];

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a value");
            (HeaderName::from_static(name), value)
        });
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    /// All that an answer with these fields says in the end, sorted.
    fn answer(decision: &Decision, own: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers = headers(own);
        decision.answer.apply(&mut headers);
        let text = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().expect("text"));
        let mut said: Vec<String> = headers.iter().map(text).collect();
        said.sort();
        said
    }

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        for (allowed, given, expect) in [
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "https://www.foo.com:443", true),
            ("https://www.foo.com:443", "https://www.foo.com", true),
            ("http://www.foo.com:80", "http://www.foo.com", true),
            ("https://www.foo.com:8443", "https://www.foo.com:8443", true),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("https://www.foo.com", "https://www.foo.com:8443", false),
            ("https://www.foo.com:8443", "https://www.foo.com", false),
            ("https://www.foo.com:80", "https://www.foo.com", false),
            ("https://www.foo.com", "https://foo.com", false),
            ("https://www.foo.com", "https://www.foo.com.evil.org", false),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://a.b.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://foobar.com", false),
            ("https://*.bar.com", "https://www.bar.com:8443", false),
            ("https://*.bar.com:8443", "https://www.bar.com:8443", true),
            ("https://*.bar.com", "https://www.bar.com.evil.org", false),
            ("https://*", "https://any.example", true),
            ("https://*", "https://[::1]", true),
            ("https://*", "http://any.example", false),
            ("https://*", "https://any.example:8443", false),
            ("http://*:8080", "http://[::1]:8080", true),
            ("https://*", "null", false),
            ("*", "null", true),
            ("*", "http://any.example:8080", true),
            ("*", "", false),
            // What no browser writes.
            ("https://*", "https://", false),
            ("https://*", "https://a/b", false),
            ("https://*", "https://user@a", false),
            ("https://*", "https://a:", false),
            ("https://*", "https://a:0443", false),
            ("https://*", "https://a:0", false),
            ("https://*", "https://a:+443", false),
            ("https://*", "https://[:x]", false),
            ("https://www.foo.com", "HTTPS://www.foo.com", false),
            ("https://www.foo.com", "https://WWW.foo.com", false),
        ] {
            let request = headers(&[("origin", given)]);
            let said = answer(&evaluate(&cors(&[allowed]), &Method::GET, &request), &[]);
            let expect = if expect {
                vec![
                    format!("access-control-allow-origin: {given}"),
                    "vary: Origin".to_owned(),
                ]
            } else {
                vec!["vary: Origin".to_owned()]
            };
            assert_eq!(said, expect, "{allowed} {given}");
        }
    }

    #[test]
    fn two_origins_are_none() {
        let request = headers(&[("origin", "https://a"), ("origin", "https://a")]);
        let said = answer(&evaluate(&cors(&["*"]), &Method::GET, &request), &[]);
        assert_eq!(said, ["vary: Origin"]);
    }

    const PAGE: Field = ("origin", "https://page.example");
    const PUT: Field = ("access-control-request-method", "PUT");
    const POST: Field = ("access-control-request-method", "POST");
    const COOKIE: Field = ("cookie", "a=b");
    const FIELDS: Field = ("access-control-request-headers", "x-one,x-two");

    /// GEP-1767, "API": what is answered to which requests.
    #[test]
    fn a_preflight_is_answered_as_the_route_says() {
        let listed = Cors {
            methods: Listed::These(vec![Method::PUT, Method::DELETE]),
            request_fields: names(&["x-one", "authorization"]),
            exposed_fields: names(&["x-read", "x-more"]),
            max_age_seconds: 3600,
            ..cors(&["https://page.example"])
        };
        let open = Cors {
            methods: Listed::Any,
            request_fields: Listed::Any,
            exposed_fields: Listed::Any,
            ..cors(&["*"])
        };
        let with_credentials = |cors: &Cors| Cors {
            credentials: true,
            ..cors.clone()
        };
        let cases: [(&str, Cors, Fields, Next, Said); 7] = [
            (
                "lists are answered whole, whatever was asked for",
                listed.clone(),
                &[PAGE, ("access-control-request-method", "PATCH")],
                Next::Allow,
                &[
                    "access-control-allow-headers: x-one, authorization",
                    "access-control-allow-methods: PUT, DELETE",
                    "access-control-allow-origin: https://page.example",
                    "access-control-expose-headers: x-read, x-more",
                    "access-control-max-age: 3600",
                ],
            ),
            (
                "with credentials",
                with_credentials(&listed),
                &[PAGE, PUT, FIELDS],
                Next::Allow,
                &[
                    "access-control-allow-credentials: true",
                    "access-control-allow-headers: x-one, authorization",
                    "access-control-allow-methods: PUT, DELETE",
                    "access-control-allow-origin: https://page.example",
                    "access-control-expose-headers: x-read, x-more",
                    "access-control-max-age: 3600",
                ],
            ),
            (
                "what nothing is said of is left out",
                cors(&["https://page.example"]),
                &[PAGE, PUT, FIELDS],
                Next::Allow,
                &[
                    "access-control-allow-origin: https://page.example",
                    "access-control-max-age: 5",
                ],
            ),
            (
                "wildcards name what was asked for",
                open.clone(),
                &[PAGE, POST, FIELDS, ("access-control-request-headers", "x-three")],
                Next::Allow,
                &[
                    "access-control-allow-headers: x-one,x-two, x-three",
                    "access-control-allow-methods: POST",
                    "access-control-allow-origin: https://page.example",
                    "access-control-expose-headers: *",
                    "access-control-max-age: 5",
                ],
            ),
            (
                "wildcards with credentials, no fields asked for",
                with_credentials(&open),
                &[PAGE, PUT, COOKIE],
                Next::Allow,
                &[
                    "access-control-allow-credentials: true",
                    "access-control-allow-methods: PUT",
                    "access-control-allow-origin: https://page.example",
                    "access-control-max-age: 5",
                ],
            ),
            (
                "another origin",
                with_credentials(&listed),
                &[("origin", "https://other.example"), PUT, FIELDS],
                Next::Deny,
                &[],
            ),
            ("no origin is allowed", cors(&[]), &[PAGE, PUT], Next::Deny, &[]),
        ];
        for (what, cors, request, next, fields) in cases {
            let decision = evaluate(&cors, &Method::OPTIONS, &headers(request));
            assert_eq!(decision.request, next, "{what}");
            let mut said = answer(&decision, &[]);
            assert_eq!(said.pop().as_deref(), Some("vary: Origin"), "{what}");
            assert_eq!(said, fields, "{what}");
        }
    }

    #[test]
    fn what_is_no_preflight_goes_on() {
        for (method, request) in [
            (Method::GET, &[PAGE, PUT][..]),
            (Method::OPTIONS, &[PAGE][..]),
            (Method::OPTIONS, &[PUT][..]),
            (Method::OPTIONS, &[PAGE, ("access-control-request-method", "")][..]),
        ] {
            for origins in [&["*"][..], &[]] {
                let decision = evaluate(&cors(origins), &method, &headers(request));
                assert_eq!(decision.request, Next::Continue, "{method} {request:?}");
            }
        }
    }

    #[test]
    fn an_answer_says_what_the_route_says_and_nothing_else() {
        let own = &[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-secret"),
            ("access-control-allow-methods", "PATCH"),
            ("access-control-allow-headers", "x-any"),
            ("access-control-max-age", "9"),
            ("vary", "Accept, ORIGIN"),
            ("x-read", "1"),
        ];
        let all = Cors {
            exposed_fields: Listed::Any,
            ..cors(&["https://page.example"])
        };
        let with_credentials = Cors {
            credentials: true,
            ..all.clone()
        };
        let cases: [(&str, &Cors, Fields, Said); 4] = [
            (
                "no credentials",
                &all,
                &[PAGE],
                &[
                    "access-control-allow-origin: https://page.example",
                    "access-control-expose-headers: *",
                    "vary: Accept, ORIGIN",
                    "x-read: 1",
                ],
            ),
            (
                "with credentials, an answer's own fields are named",
                &with_credentials,
                &[PAGE],
                &[
                    "access-control-allow-credentials: true",
                    "access-control-allow-origin: https://page.example",
                    "access-control-expose-headers: vary, x-read",
                    "vary: Accept, ORIGIN",
                    "x-read: 1",
                ],
            ),
            (
                "another origin",
                &with_credentials,
                &[("origin", "https://other.example")],
                &["vary: Accept, ORIGIN", "x-read: 1"],
            ),
            (
                "no page",
                &with_credentials,
                &[],
                &["vary: Accept, ORIGIN", "x-read: 1"],
            ),
        ];
        for (what, cors, request, expect) in cases {
            let said = answer(&evaluate(cors, &Method::GET, &headers(request)), own);
            assert_eq!(said, expect, "{what}");
        }
        for (own, expect) in [
            (&[("vary", "*")][..], &["vary: *"][..]),
            (&[("vary", "accept")], &["vary: Origin", "vary: accept"]),
            (
                &[("vary", "accept"), ("vary", "a, origin ,b")],
                &["vary: a, origin ,b", "vary: accept"],
            ),
        ] {
            let said = answer(&evaluate(&all, &Method::GET, &headers(&[])), own);
            assert_eq!(said, expect);
        }
    }
}
