//! What a request asks to go on with in place of HTTP, and whether an answer goes on so: `Upgrade` of HTTP/1.1
//! (RFC 9110 section 7.8), extended CONNECT of HTTP/2 (RFC 8441), and the way from one to the other. Pure, save for a
//! key.

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;

use crate::error::ProxyError;
use crate::http::h1::parse::{elements, is_token};
use crate::http::upstream::Wire;

/// What a request asks to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    /// What is offered, the best first, as `Upgrade` has it. Not empty.
    offered: HeaderValue,
    /// Whether that is a WebSocket: it alone has a form in HTTP/2.
    websocket: IsWebSocket,
    /// How the downstream asks.
    asked_by: Wire,
    /// `Sec-WebSocket-Key`: the downstream's, or one of ours where it has none.
    key: Option<HeaderValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsWebSocket {
    Yes,
    No,
}

/// An answer that is none of this request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSwitched {
    /// RFC 9110 section 15.2.2.
    #[error("it switches to a protocol that was not offered (RFC 9110 section 7.8)")]
    NotOffered,
    /// RFC 6455 section 4.1.
    #[error("its Sec-WebSocket-Accept does not fit the key (RFC 6455 section 4.1)")]
    Accept,
    /// RFC 9113 section 8.5 takes any 2xx; hyper goes on after 200 alone.
    #[error("it answers extended CONNECT with a success other than 200")]
    Success,
    /// RFC 9113 section 8.5: an HTTP/2 caller takes any 2xx for the begin of the tunnel.
    #[error(
        "it answers as if nothing had been asked to go on, with a success that an HTTP/2 caller would take for a yes"
    )]
    Ignored,
}

/// An upgrade that can't be asked for at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAsked {
    /// HTTP/2 has no `Upgrade` (RFC 9113 section 8.6), and extended CONNECT is known for WebSockets.
    #[error("it speaks HTTP/2, which carries WebSockets and no other upgrade (RFC 8441)")]
    Protocol,
    /// RFC 6455 section 4.2.1: the answer is made here, and can't be without the key.
    #[error(
        "it speaks HTTP/2, and there is no Sec-WebSocket-Key of 16 bytes in base64 to answer (RFC 6455 section 4.2.1)"
    )]
    Key,
    /// RFC 8441 section 3.
    #[error(
        "it speaks HTTP/2 and does not take extended CONNECT (SETTINGS_ENABLE_CONNECT_PROTOCOL, RFC 8441 section 3)"
    )]
    NotTaken,
}

impl Upgrade {
    /// What a request asks for; `None`: nothing, or what must be ignored.
    ///
    /// # Errors
    /// When it is an extended CONNECT for what is not carried.
    pub(crate) fn of(parts: &Parts) -> Result<Option<Upgrade>, ProxyError> {
        match parts.version {
            Version::HTTP_11 => Ok(Upgrade::of_http1(&parts.method, &parts.headers)),
            Version::HTTP_2 if parts.method == Method::CONNECT => match parts.extensions.get::<Protocol>() {
                Some(protocol) if protocol.as_str() == WEBSOCKET => Ok(Some(Upgrade {
                    offered: HeaderValue::from_static(WEBSOCKET),
                    websocket: IsWebSocket::Yes,
                    asked_by: Wire::Http2,
                    key: Some(new_key()),
                })),
                Some(_) => Err(ProxyError::NotCarried("an extended CONNECT for anything but websocket")),
                None => Ok(None),
            },
            // RFC 9110 section 7.8: with HTTP/1.0 it is ignored. RFC 9113 section 8.6: HTTP/2 has none.
            _ => Ok(None),
        }
    }

    fn of_http1(method: &Method, headers: &HeaderMap) -> Option<Upgrade> {
        if !headers.contains_key(UPGRADE) {
            return None;
        }
        // What is not named by Connection is not for us (RFC 9110 section 7.8).
        let connection = headers.get_all(CONNECTION).iter();
        let mut options = connection.flat_map(|value| elements(value.as_bytes()));
        if !options.any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
            return None;
        }
        // The body would have to be read to its end before the answer, and where it ends is what smugglers lie about.
        let length = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
        if headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != b"0") {
            return None;
        }
        // CONNECT and HEAD have ends of their own (RFC 9112 section 6.3).
        if matches!(*method, Method::CONNECT | Method::HEAD | Method::TRACE) {
            return None;
        }
        let mut offered = Vec::new();
        let mut websocket = IsWebSocket::No;
        for value in headers.get_all(UPGRADE) {
            for protocol in elements(value.as_bytes()) {
                if !is_protocol(protocol) {
                    return None;
                }
                if is_own(protocol) {
                    continue;
                }
                if protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
                    websocket = IsWebSocket::Yes;
                }
                if !offered.is_empty() {
                    offered.extend_from_slice(b", ");
                }
                offered.extend_from_slice(protocol);
            }
        }
        // RFC 6455 section 4.1: the method is GET. With another the server would have to refuse.
        if offered.is_empty() || (websocket == IsWebSocket::Yes && *method != Method::GET) {
            return None;
        }
        Some(Upgrade {
            offered: HeaderValue::from_bytes(&offered).ok()?,
            websocket,
            asked_by: Wire::Http1,
            key: headers.get(SEC_WEBSOCKET_KEY).cloned(),
        })
    }

    /// Asks for it: `request` has a head that is right for `wire` but for this.
    pub(crate) fn ask<B>(&self, wire: Wire, request: &mut Request<B>) {
        match wire {
            Wire::Http1 => {
                let headers = request.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, self.offered.clone());
                if let (Wire::Http2, Some(key)) = (self.asked_by, &self.key) {
                    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
                }
            }
            Wire::Http2 => {
                *request.method_mut() = Method::CONNECT;
                request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
                request.headers_mut().remove(SEC_WEBSOCKET_KEY);
                // It has no length either, be it 0.
                request.headers_mut().remove(CONTENT_LENGTH);
            }
        }
    }

    /// Whether it can be asked for so.
    ///
    /// # Errors
    /// When not.
    pub(crate) fn can_be_asked(&self, wire: Wire) -> Result<(), NotAsked> {
        match (wire, self.websocket) {
            (Wire::Http1, _) => Ok(()),
            (Wire::Http2, IsWebSocket::No) => Err(NotAsked::Protocol),
            (Wire::Http2, IsWebSocket::Yes) => match &self.key {
                Some(key) if is_key(key) => Ok(()),
                Some(_) | None => Err(NotAsked::Key),
            },
        }
    }

    /// What an answer goes on with; `None`: it is an ordinary answer, which refuses.
    ///
    /// # Errors
    /// When it goes on with what was not asked for, or does not and would look to the downstream as if it did.
    pub(crate) fn switched<B>(&self, wire: Wire, answer: &Response<B>) -> Result<Option<HeaderValue>, NotSwitched> {
        match (wire, answer.status()) {
            (Wire::Http1, StatusCode::SWITCHING_PROTOCOLS) => {
                let protocol = self.chosen(answer.headers()).ok_or(NotSwitched::NotOffered)?;
                if let (Wire::Http2, Some(key)) = (self.asked_by, &self.key) {
                    let accept = answer.headers().get(SEC_WEBSOCKET_ACCEPT);
                    if accept != accept_of(key).as_ref() {
                        return Err(NotSwitched::Accept);
                    }
                }
                Ok(Some(protocol))
            }
            (Wire::Http2, StatusCode::OK) => Ok(Some(HeaderValue::from_static(WEBSOCKET))),
            (Wire::Http2, status) if status.is_success() => Err(NotSwitched::Success),
            (Wire::Http1, status) if self.asked_by == Wire::Http2 && status.is_success() => Err(NotSwitched::Ignored),
            (Wire::Http1 | Wire::Http2, _) => Ok(None),
        }
    }

    /// Makes an answer that goes on one for the downstream: `upstream` is what was spoken to who gave it.
    pub(crate) fn answer<B>(&self, upstream: Wire, answer: &mut Response<B>) {
        match (self.asked_by, upstream) {
            (Wire::Http1, Wire::Http1) => {}
            (Wire::Http1, Wire::Http2) => {
                if let Some(accept) = self.key.as_ref().and_then(accept_of) {
                    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
            (Wire::Http2, _) => {
                answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
            }
        }
        *answer.status_mut() = match self.asked_by {
            Wire::Http1 => StatusCode::SWITCHING_PROTOCOLS,
            Wire::Http2 => StatusCode::OK,
        };
        // What goes on has no body (RFC 9110 sections 8.6 and 15.2).
        answer.headers_mut().remove(CONTENT_LENGTH);
    }

    /// The one protocol of an answer's `Upgrade`, if it was offered.
    fn chosen(&self, answer: &HeaderMap) -> Option<HeaderValue> {
        let mut values = answer.get_all(UPGRADE).iter();
        let (chosen, None) = (values.next()?, values.next()) else {
            return None;
        };
        let mut offered = elements(self.offered.as_bytes());
        offered
            .any(|offered| offered.eq_ignore_ascii_case(chosen.as_bytes()))
            .then(|| chosen.clone())
    }
}

const WEBSOCKET: &str = "websocket";

/// Versions of HTTP and of TLS concern one connection, and are ours to choose: `h2c` (RFC 7540 section 3.2, which RFC
/// 9113 section 3.1 took back) would let requests by unread, `TLS` (RFC 2817) as well.
fn is_own(protocol: &[u8]) -> bool {
    const OWN: [&[u8]; 3] = [b"h2c", b"http", b"tls"];
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// A name, and a version where there is one (RFC 9110 section 7.8).
fn is_protocol(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |byte| *byte == b'/');
    parts.all(|part| !part.is_empty() && part.iter().all(|byte| is_token(*byte)))
}

/// RFC 6455 section 4.1: 16 random bytes. They keep caches from taking the answer for another one's, and are no secret.
fn new_key() -> HeaderValue {
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    // Base64 is text.
    HeaderValue::try_from(key).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn is_key(key: &HeaderValue) -> bool {
    STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16)
}

/// The answer to a key (RFC 6455 section 4.2.2).
fn accept_of(key: &HeaderValue) -> Option<HeaderValue> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut hash = digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    HeaderValue::try_from(STANDARD.encode(hash.finish())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn parts(method: Method, version: Version, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/chat").version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn upgrade(fields: &[(&str, &str)]) -> Option<Upgrade> {
        Upgrade::of(&parts(Method::GET, Version::HTTP_11, fields)).expect("nothing to refuse")
    }

    fn websocket() -> Upgrade {
        let fields = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", KEY),
        ];
        upgrade(&fields).expect("an upgrade")
    }

    fn extended(protocol: &'static str) -> Result<Option<Upgrade>, ProxyError> {
        let mut parts = parts(Method::CONNECT, Version::HTTP_2, &[]);
        parts.extensions.insert(Protocol::from_static(protocol));
        Upgrade::of(&parts)
    }

    #[track_caller]
    fn offers(method: Method, version: Version, fields: &[(&str, &str)], expect: Option<&str>) {
        let upgrade = Upgrade::of(&parts(method, version, fields)).expect("nothing to refuse");
        let offered = upgrade.as_ref().map(|upgrade| upgrade.offered.to_str().expect("text"));
        assert_eq!(offered, expect, "{fields:?}");
    }

    #[test]
    fn what_is_offered_passes_and_what_smuggles_does_not() {
        let get = |fields: &[(&str, &str)], expect| offers(Method::GET, Version::HTTP_11, fields, expect);
        let named = ("connection", "keep-alive, Upgrade");
        get(&[named, ("upgrade", "websocket")], Some("websocket"));
        get(&[named, ("upgrade", "WebSocket")], Some("WebSocket"));
        get(
            &[named, ("upgrade", "SPDY/3.1,  websocket")],
            Some("SPDY/3.1, websocket"),
        );
        get(&[named, ("upgrade", "a"), ("upgrade", "b/1")], Some("a, b/1"));
        get(
            &[named, ("upgrade", "websocket"), ("content-length", "0")],
            Some("websocket"),
        );
        // RFC 9110 section 7.8: a sender of Upgrade names it in Connection.
        get(&[("upgrade", "websocket")], None);
        get(&[("connection", "close"), ("upgrade", "websocket")], None);
        get(&[named], None);
        // RFC 9113 section 3.1, RFC 2817: versions of what is spoken to us.
        get(&[named, ("upgrade", "h2c")], None);
        get(
            &[named, ("upgrade", "H2C"), ("http2-settings", "AAMAAABkAAQAAP__")],
            None,
        );
        get(&[named, ("upgrade", "HTTP/2.0")], None);
        get(&[named, ("upgrade", "TLS/1.2, HTTP/1.1")], None);
        get(&[named, ("upgrade", "h2c, websocket")], Some("websocket"));
        // No list of protocols.
        get(&[named, ("upgrade", "web socket")], None);
        get(&[named, ("upgrade", "websocket,")], None);
        get(&[named, ("upgrade", "")], None);
        get(&[named, ("upgrade", "a/b/c")], None);
        get(&[named, ("upgrade", "/1")], None);
        // RFC 9112 section 6.3: with a body it is where smugglers are.
        get(&[named, ("upgrade", "websocket"), ("content-length", "3")], None);
        get(
            &[named, ("upgrade", "websocket"), ("transfer-encoding", "chunked")],
            None,
        );
        // RFC 9110 section 7.8: ignored with HTTP/1.0.
        offers(Method::GET, Version::HTTP_10, &[named, ("upgrade", "websocket")], None);
        offers(Method::GET, Version::HTTP_2, &[named, ("upgrade", "websocket")], None);
        // RFC 6455 section 4.1, and methods with ends of their own.
        offers(Method::POST, Version::HTTP_11, &[named, ("upgrade", "websocket")], None);
        offers(Method::HEAD, Version::HTTP_11, &[named, ("upgrade", "foo")], None);
        offers(Method::CONNECT, Version::HTTP_11, &[named, ("upgrade", "foo")], None);
        offers(
            Method::POST,
            Version::HTTP_11,
            &[named, ("upgrade", "tcp")],
            Some("tcp"),
        );
    }

    #[test]
    fn extended_connect_is_for_websockets() {
        assert!(extended("websocket").expect("carried").is_some());
        assert!(matches!(extended("connect-udp"), Err(ProxyError::NotCarried(_))));
        let plain = parts(Method::CONNECT, Version::HTTP_2, &[]);
        assert_eq!(Upgrade::of(&plain).expect("nothing to refuse"), None);
    }

    /// RFC 8441 section 5: a head of each version from one of the other.
    #[test]
    fn a_request_is_asked_in_the_upstreams_version() {
        let mut request = Request::get("http://a/chat")
            .header("sec-websocket-key", KEY)
            .body(())
            .expect("one");
        websocket().ask(Wire::Http2, &mut request);
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(
            request.extensions().get::<Protocol>().map(Protocol::as_str),
            Some("websocket")
        );
        assert!(request.headers().is_empty(), "{:?}", request.headers());

        let mut request = Request::get("/chat").body(()).expect("one");
        let asked = extended("websocket").expect("carried").expect("an upgrade");
        asked.ask(Wire::Http1, &mut request);
        let headers = request.headers();
        assert_eq!(
            (headers.get("connection"), headers.get("upgrade")),
            (
                Some(&HeaderValue::from_static("upgrade")),
                Some(&HeaderValue::from_static("websocket")),
            )
        );
        assert!(is_key(&headers["sec-websocket-key"]), "{headers:?}");
    }

    #[test]
    fn what_http2_can_not_ask_for_is_said() {
        let named = ("connection", "upgrade");
        let other = upgrade(&[named, ("upgrade", "foo")]).expect("one");
        assert_eq!(other.can_be_asked(Wire::Http1), Ok(()));
        assert_eq!(other.can_be_asked(Wire::Http2), Err(NotAsked::Protocol));
        assert_eq!(websocket().can_be_asked(Wire::Http2), Ok(()));
        for key in ["", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZQ", "?"] {
            let fields = [named, ("upgrade", "websocket"), ("sec-websocket-key", key)];
            let keyless = upgrade(&fields).expect("one");
            assert_eq!(keyless.can_be_asked(Wire::Http1), Ok(()), "the app decides");
            assert_eq!(keyless.can_be_asked(Wire::Http2), Err(NotAsked::Key), "{key:?}");
        }
    }

    #[track_caller]
    fn switches(
        upgrade: &Upgrade,
        wire: Wire,
        status: u16,
        fields: &[(&str, &str)],
        expect: Result<Option<&str>, NotSwitched>,
    ) {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        let switched = upgrade.switched(wire, &answer.body(()).expect("an answer"));
        assert_eq!(
            switched,
            expect.map(|to| to.map(|to| HeaderValue::from_str(to).expect("text"))),
            "{fields:?}"
        );
    }

    #[test]
    fn an_answer_goes_on_with_what_was_offered_or_not_at_all() {
        let asked = upgrade(&[("connection", "upgrade"), ("upgrade", "foo/2, websocket")]).expect("one");
        let h1 = |status, fields: &[(&str, &str)], expect| switches(&asked, Wire::Http1, status, fields, expect);
        h1(101, &[("upgrade", "websocket")], Ok(Some("websocket")));
        h1(101, &[("upgrade", "FOO/2")], Ok(Some("FOO/2")));
        h1(200, &[("upgrade", "websocket")], Ok(None));
        h1(426, &[("upgrade", "foo/3")], Ok(None));
        h1(101, &[], Err(NotSwitched::NotOffered));
        h1(101, &[("upgrade", "foo")], Err(NotSwitched::NotOffered));
        h1(101, &[("upgrade", "h2c")], Err(NotSwitched::NotOffered));
        h1(
            101,
            &[("upgrade", "foo/2"), ("upgrade", "websocket")],
            Err(NotSwitched::NotOffered),
        );
        let h2 = |status, expect| switches(&websocket(), Wire::Http2, status, &[], expect);
        h2(200, Ok(Some("websocket")));
        h2(403, Ok(None));
        h2(204, Err(NotSwitched::Success));
    }

    /// RFC 6455 section 4.2.2, with its own example.
    #[test]
    fn the_accept_fits_the_key_wherever_it_is_made_or_read() {
        let mut answer = Response::new(());
        websocket().answer(Wire::Http2, &mut answer);
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()["sec-websocket-accept"], ACCEPT);

        let asked = Upgrade {
            asked_by: Wire::Http2,
            ..websocket()
        };
        let upgrade = ("upgrade", "websocket");
        let fits = [upgrade, ("sec-websocket-accept", ACCEPT)];
        switches(&asked, Wire::Http1, 101, &fits, Ok(Some("websocket")));
        switches(&asked, Wire::Http1, 101, &[upgrade], Err(NotSwitched::Accept));
        let other = [upgrade, ("sec-websocket-accept", KEY)];
        switches(&asked, Wire::Http1, 101, &other, Err(NotSwitched::Accept));
        // An app that knows no upgrade answers as always; an HTTP/2 caller would take that for the tunnel's begin.
        for ignores in [200, 204, 206] {
            switches(&asked, Wire::Http1, ignores, &[], Err(NotSwitched::Ignored));
        }
        for refuses in [301, 403, 426, 500] {
            switches(&asked, Wire::Http1, refuses, &[], Ok(None));
        }
        let mut answer = Response::builder()
            .status(101)
            .header("sec-websocket-accept", ACCEPT)
            .body(())
            .expect("one");
        asked.answer(Wire::Http1, &mut answer);
        assert_eq!((answer.status(), answer.headers().len()), (StatusCode::OK, 0));
    }
}
