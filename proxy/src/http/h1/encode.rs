//! An answer as bytes: its head, how its body is framed, and the body's frames in that framing. No I/O; of clocks only
//! the one for `Date`.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode, response};
use http_body::SizeHint;

use crate::http::h1::chunks::may_trail;
use crate::http::h1::outbox::Outbox;
use crate::http::h1::parse::{Asked, decimal};

/// How an answer's body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, whatever the head says of it: HEAD, 204, 304.
    None,
    /// After so many bytes; that many are still to come.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What comes after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The next request.
    KeepAlive,
    /// The connection's end.
    Close,
}

/// An answer that can't be sent on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Its body is longer than it said.
    TooLong,
    /// Its body is shorter than it said.
    TooShort,
}

/// Writes the head of an answer, whose body is said to have `size`. Says how the body is framed, and whether the
/// connection stays.
pub(super) fn head(
    parts: &response::Parts,
    size: &SizeHint,
    asked: Asked,
    after: After,
    out: &mut Vec<u8>,
) -> (Framing, After) {
    // 1xx is no final answer. 101 above all: one that the request asked for is written by `goes_on`.
    let status = if parts.status.is_informational() {
        StatusCode::BAD_GATEWAY
    } else {
        parts.status
    };
    let framing = framing(parts, status, size, asked);
    let after = match framing {
        Framing::UntilClose => After::Close,
        Framing::None | Framing::Length(_) | Framing::Chunked => after,
    };
    // Once, rather than in steps: a field is seldom longer, and a small body goes along.
    out.reserve(256 + parts.headers.len() * 48);
    status_line(status, out);
    let mut date = Date::Missing;
    for (name, value) in &parts.headers {
        match *name {
            // What these say is written below, by the framing.
            header::CONNECTION | header::TRANSFER_ENCODING | header::CONTENT_LENGTH => continue,
            header::DATE => date = Date::Given,
            _ => {}
        }
        field(name, value.as_bytes(), out);
    }
    match framing {
        Framing::Length(bytes) => length(bytes, out),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // HEAD and 304 say how long the body would be (RFC 9110 section 8.6); 204 says nothing.
        Framing::None if status != StatusCode::NO_CONTENT => {
            if let Some(bytes) = stated_length(&parts.headers).or(size.exact().filter(|bytes| *bytes > 0)) {
                length(bytes, out);
            }
        }
        Framing::None | Framing::UntilClose => {}
    }
    match (after, asked.http10) {
        (After::Close, _) => out.extend_from_slice(b"connection: close\r\n"),
        (After::KeepAlive, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (After::KeepAlive, false) => {}
    }
    // RFC 9110 section 6.6.1: an answer without it gets ours.
    if let Date::Missing = date {
        out.extend_from_slice(b"date: ");
        write_date(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    (framing, after)
}

/// Writes the head of an answer after which the connection goes on as something else: `protocol`, after 101, or as
/// what a CONNECT was made for. It has no body, and no length (RFC 9110 sections 8.6 and 9.3.6).
pub(super) fn goes_on(parts: &response::Parts, protocol: Option<&HeaderValue>, out: &mut Vec<u8>) {
    status_line(parts.status, out);
    let mut date = Date::Missing;
    for (name, value) in &parts.headers {
        match *name {
            header::CONNECTION | header::UPGRADE | header::TRANSFER_ENCODING | header::CONTENT_LENGTH => continue,
            header::DATE => date = Date::Given,
            _ => {}
        }
        field(name, value.as_bytes(), out);
    }
    if let Some(protocol) = protocol {
        out.extend_from_slice(b"connection: upgrade\r\n");
        field(&header::UPGRADE, protocol.as_bytes(), out);
    }
    if let Date::Missing = date {
        out.extend_from_slice(b"date: ");
        write_date(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

enum Date {
    Given,
    Missing,
}

/// Writes a head of status 1xx: that the body may come, or hints.
pub(super) fn interim(status: StatusCode, headers: &HeaderMap, out: &mut Vec<u8>) {
    status_line(status, out);
    for (name, value) in headers {
        // A 1xx has no body (RFC 9110 section 8.6), and says nothing of the connection.
        if !matches!(
            *name,
            header::CONNECTION | header::TRANSFER_ENCODING | header::CONTENT_LENGTH
        ) {
            field(name, value.as_bytes(), out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn framing(parts: &response::Parts, status: StatusCode, size: &SizeHint, asked: Asked) -> Framing {
    if asked.head_only || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Framing::None;
    }
    // Trailers that are announced need chunks to come after (RFC 9112 section 7.1.2).
    let trailers = asked.trailers && parts.headers.contains_key(header::TRAILER);
    match size.exact() {
        Some(0) => Framing::Length(0),
        Some(bytes) if !trailers || asked.http10 => Framing::Length(bytes),
        Some(_) | None if asked.http10 => Framing::UntilClose,
        Some(_) | None => Framing::Chunked,
    }
}

/// The one length that an answer states, if it is one.
fn stated_length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (Some(length), None) => decimal(length.as_bytes()),
        (_, _) => None,
    }
}

impl Framing {
    /// Puts data of the body into the framing.
    ///
    /// # Errors
    /// When it is more than the head said.
    pub(super) fn data(&mut self, data: Bytes, out: &mut Outbox) -> Result<(), Broken> {
        match self {
            _ if data.is_empty() => {}
            // Such a body is not sent.
            Framing::None => {}
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Broken::TooLong)?;
                out.push(data);
            }
            Framing::Chunked => {
                out.push_small(format_args!("{:x}\r\n", data.len()));
                out.push(data);
                out.push_small(format_args!("\r\n"));
            }
            Framing::UntilClose => out.push(data),
        }
        Ok(())
    }

    /// Puts in the body's end, with trailers if it has some and the framing has a place for them.
    ///
    /// # Errors
    /// When it is less than the head said.
    pub(super) fn end(&mut self, trailers: Option<&HeaderMap>, out: &mut Outbox) -> Result<(), Broken> {
        match self {
            Framing::Length(1..) => return Err(Broken::TooShort),
            Framing::None | Framing::Length(0) | Framing::UntilClose => {}
            Framing::Chunked => {
                out.push_small(format_args!("0\r\n"));
                for (name, value) in trailers.into_iter().flatten() {
                    if may_trail(name) {
                        field(name, value.as_bytes(), out.small());
                    }
                }
                out.push_small(format_args!("\r\n"));
            }
        }
        Ok(())
    }
}

fn status_line(status: StatusCode, out: &mut Vec<u8>) {
    match status {
        StatusCode::OK => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        _ => {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(status.as_str().as_bytes());
            out.push(b' ');
            out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn field(name: &HeaderName, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn length(bytes: u64, out: &mut Vec<u8>) {
    field(&header::CONTENT_LENGTH, HeaderValue::from(bytes).as_bytes(), out);
}

/// `Date` is the same for all answers of one second; each worker, which is a thread, formats it once.
fn write_date(out: &mut Vec<u8>) {
    thread_local! {
        static WRITTEN: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    WRITTEN.with_borrow_mut(|(second, text)| {
        if *second != now {
            *second = now;
            *text = date(now);
        }
        out.extend_from_slice(text.as_bytes());
    });
}

/// RFC 9110 section 5.6.7, IMF-fixdate; empty past the year 9999.
fn date(second: u64) -> String {
    let timestamp = i64::try_from(second)
        .ok()
        .and_then(|second| jiff::Timestamp::from_second(second).ok());
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    timestamp
        .and_then(|timestamp| printer.timestamp_to_rfc9110_string(&timestamp).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::{Method, Response};

    use super::*;
    use crate::http::h1::parse::{self, Parsed};

    fn asked(request: &str) -> Asked {
        match parse::parse(&mut request.as_bytes().into()) {
            Parsed::Head(head) => head.asked,
            other => panic!("{request}: {other:?}"),
        }
    }

    /// An answer to GET, in HTTP/1.1 unless `request` says otherwise, and the framing of its body; `Date` is left out.
    #[track_caller]
    fn check(request: &str, status: u16, fields: &[(&str, &str)], size: Option<u64>, expect: &str, framing: Framing) {
        let mut answer = Response::builder().status(status).header("date", "d");
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        let (parts, ()) = answer.body(()).expect("an answer").into_parts();
        let asked = asked(request);
        let after = if asked.keep_alive {
            After::KeepAlive
        } else {
            After::Close
        };
        let size = size.map_or_else(SizeHint::default, SizeHint::with_exact);
        let mut out = Vec::new();
        let (got, _) = head(&parts, &size, asked, after, &mut out);
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, format!("{}\r\n\r\n", expect.replace('|', "\r\n")), "{request}");
        assert_eq!(got, framing, "{request}");
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const HEAD: &str = "HEAD / HTTP/1.1\r\nhost: a\r\n\r\n";
    const CLOSE: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    const TRAILERS: &str = "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n";
    const OLD: &str = "GET / HTTP/1.0\r\n\r\n";
    const OLD_KEEP: &str = "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";

    /// RFC 9110 sections 7.8, 8.6, 9.3.6 and 15.2.2.
    #[test]
    fn what_goes_on_has_no_body_and_says_as_what() {
        for (status, protocol, expect) in [
            (
                101,
                Some("websocket"),
                "HTTP/1.1 101 Switching Protocols|date: d|sec-websocket-accept: x|connection: upgrade|upgrade: websocket",
            ),
            (200, None, "HTTP/1.1 200 OK|date: d|sec-websocket-accept: x"),
        ] {
            let answer = Response::builder()
                .status(status)
                .header("date", "d")
                .header("content-length", "5")
                .header("transfer-encoding", "chunked")
                .header("connection", "close")
                .header("upgrade", "other")
                .header("sec-websocket-accept", "x");
            let (parts, ()) = answer.body(()).expect("an answer").into_parts();
            let protocol = protocol.map(HeaderValue::from_static);
            let mut out = Vec::new();
            goes_on(&parts, protocol.as_ref(), &mut out);
            let text = String::from_utf8(out).expect("text");
            assert_eq!(text, format!("{}\r\n\r\n", expect.replace('|', "\r\n")));
        }
    }

    #[test]
    fn a_length_that_is_known_is_written() {
        let expect = "HTTP/1.1 200 OK|date: d|content-length: 5";
        check(GET, 200, &[], Some(5), expect, Framing::Length(5));
        // The body's own length counts, whatever somebody wrote.
        let wrong = [("content-length", "7"), ("content-length", "8")];
        check(GET, 200, &wrong, Some(5), expect, Framing::Length(5));
        let expect = "HTTP/1.1 404 Not Found|date: d|content-length: 0";
        check(GET, 404, &[], Some(0), expect, Framing::Length(0));
        let expect = "HTTP/1.1 299 |date: d|content-length: 0";
        check(GET, 299, &[], Some(0), expect, Framing::Length(0));
    }

    #[test]
    fn a_length_that_is_not_known_takes_chunks() {
        let expect = "HTTP/1.1 200 OK|date: d|transfer-encoding: chunked";
        check(
            GET,
            200,
            &[("transfer-encoding", "gzip")],
            None,
            expect,
            Framing::Chunked,
        );
        let expect = "HTTP/1.1 200 OK|date: d|transfer-encoding: chunked|connection: close";
        check(CLOSE, 200, &[], None, expect, Framing::Chunked);
    }

    #[test]
    fn trailers_that_are_announced_take_chunks() {
        let trailer = [("trailer", "x"), ("content-length", "5")];
        let expect = "HTTP/1.1 200 OK|date: d|trailer: x|transfer-encoding: chunked";
        check(TRAILERS, 200, &trailer, Some(5), expect, Framing::Chunked);
        let expect = "HTTP/1.1 200 OK|date: d|trailer: x|content-length: 5";
        check(GET, 200, &trailer, Some(5), expect, Framing::Length(5));
    }

    #[test]
    fn http_1_0_has_no_chunks() {
        // RFC 9112 sections 6.1 and 9.3.
        let expect = "HTTP/1.1 200 OK|date: d|connection: close";
        check(OLD, 200, &[], None, expect, Framing::UntilClose);
        check(OLD_KEEP, 200, &[], None, expect, Framing::UntilClose);
        let expect = "HTTP/1.1 200 OK|date: d|content-length: 5|connection: keep-alive";
        check(OLD_KEEP, 200, &[], Some(5), expect, Framing::Length(5));
        let expect = "HTTP/1.1 200 OK|date: d|content-length: 5|connection: close";
        check(OLD, 200, &[], Some(5), expect, Framing::Length(5));
    }

    #[test]
    fn answers_without_body_are_heads_alone() {
        let five = [("content-length", "5")];
        let expect = "HTTP/1.1 200 OK|date: d|content-length: 5";
        check(HEAD, 200, &five, Some(0), expect, Framing::None);
        check(HEAD, 200, &[], Some(5), expect, Framing::None);
        check(HEAD, 200, &[], None, "HTTP/1.1 200 OK|date: d", Framing::None);
        check(
            HEAD,
            200,
            &[("content-length", "x")],
            None,
            "HTTP/1.1 200 OK|date: d",
            Framing::None,
        );
        // RFC 9110 section 8.6: no length in 204; in 304 that of what is not sent.
        check(
            GET,
            204,
            &five,
            Some(0),
            "HTTP/1.1 204 No Content|date: d",
            Framing::None,
        );
        let expect = "HTTP/1.1 304 Not Modified|date: d|content-length: 5";
        check(GET, 304, &five, Some(0), expect, Framing::None);
    }

    #[test]
    fn an_upgrade_that_nobody_asked_for_is_no_answer() {
        let expect = "HTTP/1.1 502 Bad Gateway|date: d|content-length: 0";
        check(GET, 101, &[], Some(0), expect, Framing::Length(0));
    }

    #[test]
    fn a_date_is_written_as_http_has_it() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        let mut out = Vec::new();
        let (parts, ()) = Response::new(()).into_parts();
        head(&parts, &SizeHint::with_exact(0), asked(GET), After::KeepAlive, &mut out);
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("\r\ndate: ") && text.ends_with(" GMT\r\n\r\n"), "{text}");
        assert_eq!(asked(HEAD).head_only, Method::HEAD == "HEAD");
    }

    #[test]
    fn a_body_is_as_long_as_it_said() {
        let mut out = Outbox::default();
        let mut framing = Framing::Length(3);
        framing.data(Bytes::from_static(b"ab"), &mut out).expect("it fits");
        assert_eq!(framing.end(None, &mut out), Err(Broken::TooShort));
        assert_eq!(framing.data(Bytes::from_static(b"cd"), &mut out), Err(Broken::TooLong));
        framing.data(Bytes::from_static(b"c"), &mut out).expect("it fits");
        framing.end(None, &mut out).expect("it ends");
        assert_eq!(out.bytes(), b"abc");
    }

    #[test]
    fn trailers_come_after_the_last_chunk() {
        let mut out = Outbox::default();
        let mut framing = Framing::Chunked;
        framing.data(Bytes::new(), &mut out).expect("nothing");
        framing.data(Bytes::from(vec![b'x'; 17]), &mut out).expect("a chunk");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("content-length", HeaderValue::from_static("17"));
        framing.end(Some(&trailers), &mut out).expect("an end");
        let expect = format!("11\r\n{}\r\n0\r\ngrpc-status: 0\r\n\r\n", "x".repeat(17));
        assert_eq!(String::from_utf8_lossy(&out.bytes()), expect);
    }
}
