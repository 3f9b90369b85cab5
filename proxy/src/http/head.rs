//! The head of a request: read as one request to one place or refused, stripped of what belongs to one connection only,
//! and written anew for an upstream.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use weir_policy::context::{CONTEXT_HEADER, VERDICT_HEADER};

use crate::error::ProxyError;
use crate::health_check::CHECK_HEADER;
use crate::http::body::RequestBody;
use crate::http::h1::parse::decimal;
use crate::http::upgrade::Upgrade;
use crate::http::upstream::Wire;

/// Whether a request is a gRPC call: its caller needs a gRPC status, whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grpc {
    Yes,
    No,
}

impl Grpc {
    /// By the content type (gRPC, PROTOCOL-HTTP2.md: it begins with `application/grpc`). A CONNECT is none, whatever it
    /// says: refusals of gRPC have status 200, by which it would take itself to be connected.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Grpc {
        match headers.get(header::CONTENT_TYPE) {
            Some(value) if *method != Method::CONNECT && value.as_bytes().starts_with(b"application/grpc") => Grpc::Yes,
            _ => Grpc::No,
        }
    }
}

/// How a gRPC call ended (gRPC, PROTOCOL-HTTP2.md).
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How long a gRPC caller waits.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A request's head that can be sent to an upstream, any number of times.
pub(crate) struct Head {
    pub(crate) method: Method,
    /// Without `Host`: it is written from `authority`.
    pub(crate) headers: HeaderMap,
    pub(crate) authority: Authority,
    pub(crate) target: PathAndQuery,
    /// What it asks to go on with in place of HTTP.
    pub(crate) upgrade: Option<Box<Upgrade>>,
}

/// How a request came to this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// By TLS.
    Tls,
    /// In cleartext.
    Cleartext,
}

impl Head {
    /// Reads a downstream's head.
    ///
    /// # Errors
    /// When it names no place or more than one, or asks for what is not carried.
    pub(crate) fn read(parts: Parts, over: Over) -> Result<Head, ProxyError> {
        let upgrade = Upgrade::of(&parts)?.map(Box::new);
        let Parts {
            mut method,
            uri,
            version,
            mut headers,
            ..
        } = parts;
        if method == Method::CONNECT {
            if upgrade.is_none() {
                return Err(ProxyError::NotCarried("CONNECT"));
            }
            // RFC 8441 section 5: it stands for the GET of RFC 6455, and routes are to find it as that.
            method = Method::GET;
        }
        let authority = authority(&uri, version, &headers)?;
        match (uri.scheme(), over) {
            (None, _) => {}
            (Some(scheme), _) if *scheme == Scheme::HTTP => {}
            // What came by TLS says so (RFC 9113 section 8.3.1), and is at its goal.
            (Some(scheme), Over::Tls) if *scheme == Scheme::HTTPS => {}
            (Some(_), _) => return Err(ProxyError::NotCarried("a scheme other than http")),
        }
        headers.remove(header::HOST);
        if version == Version::HTTP_2 {
            join_cookies(&mut headers);
        }
        strip_hop_by_hop(&mut headers);
        if matches!(method, Method::OPTIONS | Method::TRACE) {
            forward_once_more(&mut headers)?;
        }
        let target = match uri.path_and_query() {
            Some(target) if target.as_str().starts_with('/') => target.clone(),
            Some(target) if target.as_str() == "*" && method == Method::OPTIONS => target.clone(),
            // RFC 9112 section 3.2.2: an empty path of the absolute form is "/".
            None => PathAndQuery::from_static("/"),
            Some(_) => return Err(ProxyError::BadRequest("its target is not an absolute path")),
        };
        Ok(Head {
            method,
            headers,
            authority,
            target,
            upgrade,
        })
    }

    /// The request as this head and a body make it on a wire. HTTP/1.1 has no place for the scheme.
    pub(crate) fn request(&self, wire: Wire, scheme: Scheme, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.version_mut() = wire.version();
        *request.headers_mut() = self.headers.clone();
        *request.uri_mut() = match wire {
            Wire::Http1 => {
                if let Ok(host) = HeaderValue::from_str(self.authority.as_str()) {
                    request.headers_mut().insert(header::HOST, host);
                }
                Uri::from(self.target.clone())
            }
            Wire::Http2 => {
                let mut parts = http::uri::Parts::default();
                parts.scheme = Some(scheme);
                parts.authority = Some(self.authority.clone());
                parts.path_and_query = Some(self.target.clone());
                // All three parts are there, so this can't fail; a bare path would be refused by the peer.
                Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(self.target.clone()))
            }
        };
        if let Some(upgrade) = &self.upgrade {
            upgrade.ask(wire, &mut request);
        }
        request
    }

    /// The method, for who decides whether it is sent again. What goes on after its answer is not repeated by a second
    /// request: it counts as CONNECT does.
    pub(crate) fn method_to_repeat(&self) -> &Method {
        match self.upgrade {
            Some(_) => &Method::CONNECT,
            None => &self.method,
        }
    }

    /// The host without its port, in lower case.
    pub(crate) fn host(&self) -> String {
        self.authority.host().to_ascii_lowercase()
    }
}

/// The one place a request names (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn authority(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Authority, ProxyError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ProxyError::BadRequest("it has more than one Host"));
    }
    let host = host
        .map(|host| Authority::try_from(host.as_bytes()).map_err(|_| ProxyError::BadRequest("its Host is malformed")))
        .transpose()?;
    let authority = match (uri.authority(), host) {
        // RFC 9112 section 3.2.2: with the absolute form, Host is ignored.
        (Some(authority), None) => authority.clone(),
        (Some(authority), Some(_)) if version < Version::HTTP_2 => authority.clone(),
        (Some(authority), Some(host)) if *authority == host => host,
        (Some(_), Some(_)) => return Err(ProxyError::BadRequest("its Host differs from its :authority")),
        (None, Some(host)) => host,
        (None, None) => return Err(ProxyError::BadRequest("it has no Host")),
    };
    if authority.as_str().contains('@') {
        return Err(ProxyError::BadRequest("its authority holds user information"));
    }
    Ok(authority)
}

/// Counts this proxy, of a request that says how many may forward it (RFC 9110 section 7.6.2).
///
/// # Errors
/// When it may be forwarded no more. Who it ends at does not answer it in the app's place.
fn forward_once_more(headers: &mut HeaderMap) -> Result<(), ProxyError> {
    let Some(left) = headers.get(header::MAX_FORWARDS) else {
        return Ok(());
    };
    // What is no number says nothing.
    let Some(left) = decimal(left.as_bytes()) else {
        return Ok(());
    };
    let Some(left) = left.checked_sub(1) else {
        return Err(ProxyError::NotCarried("a request whose Max-Forwards is 0"));
    };
    headers.insert(header::MAX_FORWARDS, HeaderValue::from(left));
    Ok(())
}

/// What only sidecars say to each other. An app neither gets to see it nor can say it, in a head or in trailers.
pub(crate) const OWN: [HeaderName; 3] = [CONTEXT_HEADER, VERDICT_HEADER, CHECK_HEADER];

/// Where Envoy says who a client is (Envoy's documentation, HTTP header manipulation).
pub(crate) const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Takes that out of a head or of trailers.
pub(crate) fn strip_own(headers: &mut HeaderMap) {
    remove_all(headers, &OWN);
}

/// Takes all of these out. Nearly always there is none: to look at each name that is there takes less than to look up
/// each that may be.
fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    if headers.keys().any(|held| names.contains(held)) {
        for name in names {
            headers.remove(name);
        }
    }
}

/// Takes out what belongs to one connection (RFC 9110 section 7.6.1), save `TE: trailers`, which gRPC needs on every
/// hop and which both our sides honour.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const ALWAYS: [HeaderName; 6] = [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        // RFC 7540 section 3.2.1: it belongs to an upgrade that does not pass.
        HeaderName::from_static("http2-settings"),
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            // What frames the message or is decided below is not a sender's to take out.
            if !matches!(name, header::CONTENT_LENGTH | header::HOST | header::TE) {
                headers.remove(name);
            }
        }
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // The message was read by its chunks. A length beside them is not its length, and whoever got it would cut the
        // message there or wait for more (RFC 9112 section 6.3).
        headers.remove(header::CONTENT_LENGTH);
    }
    remove_all(headers, &ALWAYS);
    if headers.contains_key(header::TE)
        && let Some(te) = headers.remove(header::TE)
    {
        let trailers = te.to_str().is_ok_and(|te| {
            te.split(',')
                .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
        });
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// HTTP/2 may carry a cookie's crumbs as fields of their own; wherever else they go, they are one (RFC 9113 section
/// 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() < 2 {
        return;
    }
    // Of values and "; " this is a value as well.
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, version: Version, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[track_caller]
    fn place(uri: &str, version: Version, headers: &[(&str, &str)], expect: Result<(&str, &str), &str>) {
        let head = Head::read(parts(uri, version, headers), Over::Cleartext);
        let read = head.map(|head| (head.authority.to_string(), head.target.to_string()));
        match (read, expect) {
            (Ok((authority, target)), Ok(expect)) => assert_eq!((authority.as_str(), target.as_str()), expect),
            (Err(error), Err(expect)) => assert_eq!(error.to_string(), expect),
            (read, expect) => panic!("{uri} {headers:?}: got {read:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn a_request_names_one_place() {
        let h1 = Version::HTTP_11;
        let h2 = Version::HTTP_2;
        place("/p?q", h1, &[("host", "a:1")], Ok(("a:1", "/p?q")));
        place("http://b/p", h1, &[("host", "a")], Ok(("b", "/p")));
        place("http://b", h1, &[], Ok(("b", "/")));
        place("http://b/p", h2, &[], Ok(("b", "/p")));
        place("http://b/p", h2, &[("host", "b")], Ok(("b", "/p")));
        place(
            "http://b/p",
            h2,
            &[("host", "a")],
            Err("the request is refused: its Host differs from its :authority"),
        );
        place("/p", h1, &[], Err("the request is refused: it has no Host"));
        place(
            "/p",
            h1,
            &[("host", "a"), ("host", "a")],
            Err("the request is refused: it has more than one Host"),
        );
        place(
            "/p",
            h1,
            &[("host", "a b")],
            Err("the request is refused: its Host is malformed"),
        );
        place(
            "/p",
            h1,
            &[("host", "u@a")],
            Err("the request is refused: its authority holds user information"),
        );
        place(
            "https://b/p",
            h1,
            &[],
            Err("a scheme other than http is not carried by this proxy"),
        );
    }

    #[test]
    fn what_belongs_to_one_connection_stays_there() {
        let mut headers = parts(
            "/",
            Version::HTTP_11,
            &[
                ("connection", "close, X-Mine, content-length"),
                ("x-mine", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "gzip, trailers"),
                ("upgrade", "websocket"),
                ("content-length", "3"),
                ("x-kept", "1"),
            ],
        )
        .headers;
        strip_hop_by_hop(&mut headers);
        let mut names: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            .collect();
        names.sort_unstable();
        assert_eq!(names, [("content-length", "3"), ("te", "trailers"), ("x-kept", "1")]);
    }

    /// RFC 9110 section 7.6.2.
    #[test]
    fn how_often_it_may_be_forwarded_is_counted_down() {
        for (method, held, expect) in [
            (Method::OPTIONS, "10", Some("9")),
            (Method::TRACE, "1", Some("0")),
            (Method::OPTIONS, "0", None),
            (Method::TRACE, "0", None),
            (Method::OPTIONS, "x", Some("x")),
            (Method::OPTIONS, "-1", Some("-1")),
            // It is for these two alone.
            (Method::GET, "0", Some("0")),
        ] {
            let request = Request::builder()
                .method(method.clone())
                .uri("http://b/")
                .header("max-forwards", held);
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            let read = Head::read(parts, Over::Cleartext);
            let passed = read
                .as_ref()
                .ok()
                .map(|head| head.headers["max-forwards"].to_str().expect("text"));
            assert_eq!(passed, expect, "{method} {held}");
        }
    }

    #[test]
    fn a_length_beside_chunks_is_taken_out() {
        let both = [("transfer-encoding", "chunked"), ("content-length", "3")];
        let mut headers = parts("/", Version::HTTP_11, &both).headers;
        strip_hop_by_hop(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn crumbs_of_a_cookie_are_joined_where_they_come_over_http2() {
        let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")];
        for (version, expect) in [
            (Version::HTTP_2, &["a=1; b=2"][..]),
            (Version::HTTP_11, &["a=1", "b=2"]),
        ] {
            let host = match version {
                Version::HTTP_11 => vec![("host", "b")],
                _ => Vec::new(),
            };
            let fields = [&crumbs[..], &host].concat();
            let Ok(Head { headers, .. }) = Head::read(parts("http://b/", version, &fields), Over::Cleartext) else {
                panic!("{version:?} is refused");
            };
            let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
            assert_eq!(cookies, expect, "{version:?}");
        }
    }
}
