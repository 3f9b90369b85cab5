//! A request's head: bytes to one reading, or to the rule that they break. No I/O, no clock.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use crate::http::h1::violation::{Refused, Violation};
use crate::http::upstream::HEAD_BYTES_MAX;

/// The most a target may hold: half of what a head may, so that its fields have room. RFC 9112 section 3 asks for 8000.
pub(crate) const TARGET_BYTES_MAX: usize = 32 * 1024;

/// The most a first line may hold: of its method and version no more than this is of use.
const LINE_BYTES_MAX: usize = TARGET_BYTES_MAX + 256;

/// The most fields a head may have, as hyper's clients and servers have it.
pub(crate) const HEAD_FIELDS_MAX: usize = 100;

/// What the bytes so far are.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// The begin of a head, or nothing; at most [`HEAD_BYTES_MAX`] bytes.
    Incomplete,
    /// A head, which has been taken out of the bytes.
    Head(RequestHead),
    /// No head: nothing that follows can be told apart, so the connection ends with the answer to this.
    Refused(Refused),
}

/// A request's head, and what it says about its connection.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// Method, target, version and all fields, as they came.
    pub(crate) request: Request<()>,
    /// How its body ends.
    pub(crate) framing: Framing,
    /// What else concerns the answer and the connection.
    pub(crate) asked: Asked,
}

/// How a body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// After so many bytes; at least 1.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

/// What a request asks of its answer's form and of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// HTTP/1.0 knows neither chunks nor 1xx.
    pub(crate) http10: bool,
    /// HEAD: the answer is a head alone.
    pub(crate) head_only: bool,
    /// Whether the connection may carry another request (RFC 9112 section 9.3).
    pub(crate) keep_alive: bool,
    /// `TE: trailers` (RFC 9110 section 10.1.4).
    pub(crate) trailers: bool,
    /// `Expect: 100-continue`, of a request that has a body (RFC 9110 section 10.1.1).
    pub(crate) expects_continue: bool,
}

/// Reads the head that `bytes` begin with, and takes it out of them. What they are does not depend on how they came.
pub(crate) fn parse(bytes: &mut BytesMut) -> Parsed {
    // RFC 9112 section 2.2: an empty line before the request is skipped; one, since some clients end a body with it.
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let lines = match Lines::of(bytes.get(skipped..).unwrap_or_default()) {
        Ok(lines) => lines,
        Err(Ended::Not) => return Parsed::Incomplete,
        Err(Ended::Badly(violation)) => {
            return Parsed::Refused(Refused { violation, line: None });
        }
    };
    let mut head = take(bytes, skipped + lines.bytes);
    if skipped > 0 {
        head = head.slice(skipped..);
    }
    let (method, uri, version) = match request_line(&head, &lines) {
        Ok(line) => line,
        Err(violation) => return Parsed::Refused(Refused { violation, line: None }),
    };
    let mut facts = Facts::default();
    let mut headers = HeaderMap::with_capacity(lines.count - 1);
    for line in 1..lines.count {
        let (name, value) = match field(&head, lines.range(line)) {
            Ok(field) => field,
            Err(violation) => {
                let line = Some((method, uri));
                return Parsed::Refused(Refused { violation, line });
            }
        };
        facts.note(&name, &value);
        headers.append(name, value);
    }
    match facts.conclude(&method, version) {
        Ok((framing, asked)) => {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.uri_mut() = uri;
            *request.version_mut() = version;
            *request.headers_mut() = headers;
            Parsed::Head(RequestHead {
                request,
                framing,
                asked,
            })
        }
        Err(violation) => {
            let line = Some((method, uri));
            Parsed::Refused(Refused { violation, line })
        }
    }
}

/// Reads a field line without its end, and gives its value as a part of `bytes`.
///
/// # Errors
/// When it is no field (RFC 9112 section 5).
pub(super) fn field(bytes: &Bytes, line: std::ops::Range<usize>) -> Result<(HeaderName, HeaderValue), Violation> {
    let text = bytes.get(line.clone()).unwrap_or_default();
    if text.first().is_some_and(|first| is_blank(*first)) {
        return Err(Violation::FoldedLine);
    }
    let colon = memchr::memchr(b':', text).ok_or(Violation::FieldLine)?;
    let (name, value) = text.split_at(colon);
    let name = match HeaderName::from_bytes(name) {
        Ok(name) => name,
        Err(_) if name.last().is_some_and(|last| is_blank(*last)) => return Err(Violation::BlankBeforeColon),
        Err(_) => return Err(Violation::FieldName),
    };
    let value = value.get(1..).unwrap_or_default();
    let leading = value.iter().take_while(|byte| is_blank(**byte)).count();
    let trailing = value.iter().rev().take_while(|byte| is_blank(**byte)).count();
    let begin = line.start + colon + 1 + leading;
    let end = (line.end - trailing).max(begin);
    let value = HeaderValue::from_maybe_shared(bytes.slice(begin..end)).map_err(|_| Violation::FieldValue)?;
    Ok((name, value))
}

/// Takes the first bytes out. What is left keeps no memory if it is nothing.
fn take(bytes: &mut BytesMut, count: usize) -> Bytes {
    if count == bytes.len() {
        std::mem::take(bytes).freeze()
    } else {
        bytes.split_to(count).freeze()
    }
}

/// The lines of a head that is there as a whole.
struct Lines {
    /// Where each line ends, with its CR LF; the empty one is not among them.
    ends: [usize; HEAD_FIELDS_MAX + 1],
    count: usize,
    /// All, with the empty one.
    bytes: usize,
}

/// Why there are none.
enum Ended {
    /// There will be more.
    Not,
    /// There is no need for more.
    Badly(Violation),
}

impl Lines {
    fn of(bytes: &[u8]) -> Result<Lines, Ended> {
        let mut lines = Lines {
            ends: [0; HEAD_FIELDS_MAX + 1],
            count: 0,
            bytes: 0,
        };
        // Whoever speaks another protocol waits for an answer, and might never end a line. A CR alone may be the begin
        // of the empty line.
        match bytes.first() {
            Some(b'\r') if bytes.len() == 1 => return Err(Ended::Not),
            Some(first) if !is_token(*first) => return Err(Ended::Badly(Violation::RequestLine)),
            Some(_) | None => {}
        }
        // Whatever is found here is found at the same byte, however few of those after it have come.
        for end in memchr::memchr_iter(b'\n', bytes) {
            let begin = lines.bytes;
            if lines.count == 0 && end >= LINE_BYTES_MAX || end >= HEAD_BYTES_MAX {
                break;
            }
            if end == begin || bytes.get(end - 1) != Some(&b'\r') {
                return Err(Ended::Badly(Violation::LineEnd));
            }
            lines.bytes = end + 1;
            if end - begin == 1 {
                return Ok(lines);
            }
            let Some(place) = lines.ends.get_mut(lines.count) else {
                return Err(Ended::Badly(Violation::FieldCount));
            };
            *place = end + 1;
            lines.count += 1;
        }
        match lines.count {
            0 if bytes.len() >= LINE_BYTES_MAX => Err(Ended::Badly(Violation::TargetLength)),
            _ if bytes.len() >= HEAD_BYTES_MAX => Err(Ended::Badly(Violation::HeadLength)),
            _ => Err(Ended::Not),
        }
    }

    /// A line, without its CR LF.
    fn range(&self, line: usize) -> std::ops::Range<usize> {
        let end = |line: usize| self.ends.get(line).copied().unwrap_or_default();
        let begin = line.checked_sub(1).map_or(0, end);
        begin..end(line).saturating_sub(2)
    }
}

fn request_line(head: &Bytes, lines: &Lines) -> Result<(Method, Uri, Version), Violation> {
    let range = lines.range(0);
    let line = head.get(range).unwrap_or_default();
    let method_end = memchr::memchr(b' ', line).ok_or(Violation::RequestLine)?;
    let target_end = memchr::memrchr(b' ', line).ok_or(Violation::RequestLine)?;
    if target_end == method_end {
        return Err(Violation::RequestLine);
    }
    let target = method_end + 1..target_end;
    let version = match line.get(target_end + 1..).unwrap_or_default() {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Violation::Version),
        _ => return Err(Violation::RequestLine),
    };
    let method = line.get(..method_end).unwrap_or_default();
    let method = Method::from_bytes(method).map_err(|_| Violation::Method)?;
    if target.len() > TARGET_BYTES_MAX {
        return Err(Violation::TargetLength);
    }
    let uri = request_target(head.slice(target), &method)?;
    Ok((method, uri, version))
}

/// The four forms of RFC 9112 section 3.2, each with the methods that it belongs to. There is no fragment in any.
fn request_target(target: Bytes, method: &Method) -> Result<Uri, Violation> {
    if memchr::memchr(b'#', &target).is_some() {
        return Err(Violation::Target);
    }
    let first = target.first().copied();
    let asterisk = target.as_ref() == b"*";
    let uri = Uri::from_maybe_shared(target).map_err(|_| Violation::Target)?;
    let fits = match (method, first) {
        (&Method::CONNECT, _) => uri.scheme().is_none() && uri.path().is_empty() && uri.authority().is_some(),
        (_, Some(b'/')) => true,
        (_, Some(b'*')) => asterisk && *method == Method::OPTIONS,
        (_, _) => uri.scheme().is_some() && uri.authority().is_some(),
    };
    if fits { Ok(uri) } else { Err(Violation::Target) }
}

/// What a head's fields say about its body and connection, gathered as they come.
#[derive(Default)]
struct Facts {
    hosts: u32,
    length: Length,
    codings: Codings,
    close: bool,
    keep_alive: bool,
    trailers: bool,
    expects: Expects,
}

#[derive(Clone, Copy, Default)]
enum Length {
    #[default]
    None,
    Bytes(u64),
    Wrong,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    /// `chunked` alone.
    Chunked,
    /// Others, and no chunked yet.
    Unknown,
    /// Others, then chunked.
    UnknownChunked,
    /// Something after chunked, or no name at all.
    Wrong,
}

#[derive(Clone, Copy, Default)]
enum Expects {
    #[default]
    Nothing,
    Continue,
    Other,
}

impl Facts {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        let value = value.as_bytes();
        match *name {
            header::HOST => self.hosts += 1,
            header::CONTENT_LENGTH => {
                self.length = match self.length {
                    Length::None => decimal(value).map_or(Length::Wrong, Length::Bytes),
                    // Even twice the same: somebody before us may have read the other one.
                    Length::Bytes(_) | Length::Wrong => Length::Wrong,
                };
            }
            header::TRANSFER_ENCODING => {
                for coding in elements(value) {
                    self.codings = self.codings.then(coding);
                }
            }
            header::CONNECTION => {
                for option in elements(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            header::TE => self.trailers |= elements(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")),
            header::EXPECT => {
                self.expects = match self.expects {
                    Expects::Nothing | Expects::Continue if value.eq_ignore_ascii_case(b"100-continue") => {
                        Expects::Continue
                    }
                    Expects::Nothing | Expects::Continue | Expects::Other => Expects::Other,
                };
            }
            _ => {}
        }
    }

    fn conclude(self, method: &Method, version: Version) -> Result<(Framing, Asked), Violation> {
        let http10 = version == Version::HTTP_10;
        match self.hosts {
            1 => {}
            0 if http10 => {}
            _ => return Err(Violation::Host),
        }
        let framing = match (self.codings, self.length) {
            (_, Length::Wrong) => return Err(Violation::ContentLength),
            (Codings::None, Length::None | Length::Bytes(0)) => Framing::None,
            (Codings::None, Length::Bytes(bytes)) => Framing::Length(bytes),
            (_, Length::Bytes(_)) => return Err(Violation::LengthAndCoding),
            (_, Length::None) if http10 => return Err(Violation::CodingInHttp10),
            (Codings::Unknown | Codings::Wrong, Length::None) => return Err(Violation::TransferCoding),
            (Codings::UnknownChunked, Length::None) => return Err(Violation::UnknownCoding),
            (Codings::Chunked, Length::None) => Framing::Chunked,
        };
        let expects_continue = match self.expects {
            Expects::Nothing => false,
            Expects::Continue => !http10 && framing != Framing::None,
            Expects::Other => return Err(Violation::Expectation),
        };
        let asked = Asked {
            http10,
            head_only: *method == Method::HEAD,
            // What follows CONNECT's head is no HTTP, whatever the answer.
            keep_alive: !self.close && (!http10 || self.keep_alive) && *method != Method::CONNECT,
            trailers: self.trailers,
            expects_continue,
        };
        Ok((framing, asked))
    }
}

impl Codings {
    fn then(self, coding: &[u8]) -> Codings {
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        match self {
            _ if coding.is_empty() => Codings::Wrong,
            Codings::None if chunked => Codings::Chunked,
            Codings::Unknown if chunked => Codings::UnknownChunked,
            Codings::None | Codings::Unknown => Codings::Unknown,
            Codings::Chunked | Codings::UnknownChunked | Codings::Wrong => Codings::Wrong,
        }
    }
}

/// The elements of a list (RFC 9110 section 5.6.1).
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(|element| element.trim_ascii())
}

/// Digits alone, at least one, below 2^64 (RFC 9110 section 8.6).
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<RequestHead, Violation> {
        match parse(&mut text.as_bytes().into()) {
            Parsed::Head(head) => Ok(head),
            Parsed::Refused(refused) => Err(refused.violation),
            Parsed::Incomplete => panic!("{text:?} is incomplete"),
        }
    }

    /// A head with this first line and, after `Host`, these fields.
    fn head(line: &str, fields: &str) -> String {
        format!("{line}\r\nhost: a\r\n{fields}\r\n")
    }

    #[track_caller]
    fn refused(text: &str, expect: Violation) {
        assert_eq!(read(text).err(), Some(expect), "{text:?}");
    }

    #[track_caller]
    fn framed(fields: &str, expect: Framing) {
        let read = read(&head("POST / HTTP/1.1", fields)).map(|head| head.framing);
        assert_eq!(read, Ok(expect), "{fields:?}");
    }

    #[test]
    fn first_lines() {
        // RFC 9112 section 3: single spaces, nothing before or after.
        for line in [
            "GET /",
            "GET",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET / http/1.1",
            "GET / HTTP/1.10",
            "GET / HTTP/1",
            "GET / HTTP/1.1\t",
            "GET /\tHTTP/1.1",
            " GET / HTTP/1.1",
            "GET HTTP/1.1",
            "\u{1}GET / HTTP/1.1",
        ] {
            let expect = match line {
                // The target is what stands between the first space and the last one.
                "GET  / HTTP/1.1" => Violation::Target,
                _ => Violation::RequestLine,
            };
            refused(&head(line, ""), expect);
        }
        for line in [
            "GE(T / HTTP/1.1",
            "GET\u{7f} / HTTP/1.1",
            "G\u{e9}T / HTTP/1.1",
            "GET: / HTTP/1.1",
        ] {
            refused(&head(line, ""), Violation::Method);
        }
        for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
            refused(&head(&format!("GET / {version}"), ""), Violation::Version);
        }
        // RFC 9112 section 2.2.
        assert!(read(&format!("\r\n{}", head("GET / HTTP/1.1", ""))).is_ok());
        refused(
            &format!("\r\n\r\n{}", head("GET / HTTP/1.1", "")),
            Violation::RequestLine,
        );
    }

    #[test]
    fn targets() {
        // RFC 9112 section 3.2: which form belongs to which method.
        for (method, target, expect) in [
            ("GET", "/p?q=1", Some("/p?q=1")),
            ("GET", "/", Some("/")),
            ("GET", "//x/y", Some("//x/y")),
            ("GET", "/\u{5065}", Some("/\u{5065}")),
            ("GET", "http://b/p", Some("http://b/p")),
            ("GET", "HTTP://b/p", Some("http://b/p")),
            ("OPTIONS", "*", Some("*")),
            ("CONNECT", "b:80", Some("b:80")),
            ("GET", "*", None),
            ("GET", "b:80", None),
            ("GET", "b", None),
            ("GET", "p/q", None),
            ("GET", "?q", None),
            ("GET", "http:/p", None),
            ("GET", "http://", None),
            ("GET", "/a b", None),
            ("GET", "/#f", None),
            ("GET", "/p#", None),
            ("GET", "/\u{7f}", None),
            ("GET", "/\u{1}", None),
            ("GET", "/a\\b<", None),
            ("CONNECT", "/", None),
            ("CONNECT", "http://b/", None),
            ("OPTIONS", "*x", None),
        ] {
            let text = head(&format!("{method} {target} HTTP/1.1"), "");
            let read = read(&text).map(|head| head.request.uri().to_string());
            assert_eq!(read.ok().as_deref(), expect, "{text:?}");
            if expect.is_none() {
                refused(&text, Violation::Target);
            }
        }
    }

    #[test]
    fn field_lines() {
        let line = "GET / HTTP/1.1";
        for (fields, expect) in [
            ("x\r\n", Violation::FieldLine),
            (": y\r\n", Violation::FieldName),
            ("x y: z\r\n", Violation::FieldName),
            ("x(: z\r\n", Violation::FieldName),
            ("x\0: y\r\n", Violation::FieldName),
            ("\u{e9}: y\r\n", Violation::FieldName),
            // RFC 9112 section 5.1.
            ("x : y\r\n", Violation::BlankBeforeColon),
            ("x\t: y\r\n", Violation::BlankBeforeColon),
            // RFC 9112 section 5.2.
            ("x: y\r\n z\r\n", Violation::FoldedLine),
            ("x: y\r\n\tz: 1\r\n", Violation::FoldedLine),
            // RFC 9110 section 5.5.
            ("x: y\0\r\n", Violation::FieldValue),
            ("x: y\u{7f}\r\n", Violation::FieldValue),
            ("x: \u{b}y\r\n", Violation::FieldValue),
            ("x: y\rz: 1\r\n", Violation::FieldValue),
            ("x: y\r\r\n", Violation::FieldValue),
            // RFC 9112 section 2.2.
            ("x: y\n", Violation::LineEnd),
            ("x: y\nz: 1\r\n", Violation::LineEnd),
            ("\n", Violation::LineEnd),
        ] {
            refused(&head(line, fields), expect);
        }
        refused("GET / HTTP/1.1\nhost: a\n\n", Violation::LineEnd);
        // Blanks around a value are no part of it; it may be empty, and may hold bytes beyond ASCII.
        let good = read(&head(line, "x:\ty \tz\t \r\nY:\r\nz: \u{5065}\r\n")).expect("a head");
        let headers = good.request.headers();
        assert_eq!(headers["x"], "y \tz");
        assert_eq!(headers["y"], "");
        assert_eq!(headers["z"].as_bytes(), "\u{5065}".as_bytes());
    }

    #[test]
    fn limits() {
        let long = "a".repeat(TARGET_BYTES_MAX);
        assert!(read(&head(&format!("GET /{} HTTP/1.1", &long[1..]), "")).is_ok());
        refused(&head(&format!("GET /{long} HTTP/1.1"), ""), Violation::TargetLength);
        refused(&format!("GET /{}", "a".repeat(LINE_BYTES_MAX)), Violation::TargetLength);
        let fields = |count: usize| "x: y\r\n".repeat(count);
        assert!(read(&head("GET / HTTP/1.1", &fields(HEAD_FIELDS_MAX - 1))).is_ok());
        refused(&head("GET / HTTP/1.1", &fields(HEAD_FIELDS_MAX)), Violation::FieldCount);
        let frame = head("GET / HTTP/1.1", "x: \r\n").len();
        let value = |bytes: usize| format!("x: {}\r\n", "v".repeat(bytes));
        assert!(read(&head("GET / HTTP/1.1", &value(HEAD_BYTES_MAX - frame))).is_ok());
        refused(
            &head("GET / HTTP/1.1", &value(HEAD_BYTES_MAX - frame + 1)),
            Violation::HeadLength,
        );
    }

    #[test]
    fn hosts() {
        // RFC 9112 section 3.2.
        refused("GET / HTTP/1.1\r\n\r\n", Violation::Host);
        refused("GET http://a/ HTTP/1.1\r\n\r\n", Violation::Host);
        refused(&head("GET / HTTP/1.1", "host: a\r\n"), Violation::Host);
        refused(&head("GET / HTTP/1.0", "Host: b\r\n"), Violation::Host);
        assert!(read("GET / HTTP/1.0\r\n\r\n").is_ok());
    }

    #[test]
    fn bodies_are_framed_in_one_way() {
        framed("", Framing::None);
        framed("content-length: 0\r\n", Framing::None);
        framed("content-length: 007\r\n", Framing::Length(7));
        framed("Content-Length: 18446744073709551615\r\n", Framing::Length(u64::MAX));
        framed("transfer-encoding: Chunked\r\n", Framing::Chunked);
        // RFC 9112 section 6.3, and RFC 9110 section 8.6.
        for length in [
            "",
            "-1",
            "+1",
            "1 ",
            "1 1",
            "0x1",
            "1,1",
            "1, 1",
            "\u{661}",
            "18446744073709551616",
        ] {
            let text = head(
                "POST / HTTP/1.1",
                &format!("content-length: {length}x\r\n").replace("x\r", "\r"),
            );
            match length {
                "1 " => assert!(read(&text).is_ok()),
                _ => refused(&text, Violation::ContentLength),
            }
        }
        for (fields, expect) in [
            ("content-length: 1\r\ncontent-length: 1\r\n", Violation::ContentLength),
            ("content-length: 1\r\ncontent-length: 2\r\n", Violation::ContentLength),
            (
                "content-length: 1\r\ntransfer-encoding: chunked\r\n",
                Violation::LengthAndCoding,
            ),
            (
                "transfer-encoding: chunked\r\ncontent-length: 0\r\n",
                Violation::LengthAndCoding,
            ),
            (
                "transfer-encoding: chunked\r\ncontent-length: x\r\n",
                Violation::ContentLength,
            ),
            ("transfer-encoding:\r\n", Violation::TransferCoding),
            ("transfer-encoding: zip\r\n", Violation::TransferCoding),
            ("transfer-encoding: identity\r\n", Violation::TransferCoding),
            ("transfer-encoding: xchunked\r\n", Violation::TransferCoding),
            ("transfer-encoding: chunked;q=1\r\n", Violation::TransferCoding),
            ("transfer-encoding: \"chunked\"\r\n", Violation::TransferCoding),
            ("transfer-encoding: chunked, gzip\r\n", Violation::TransferCoding),
            ("transfer-encoding: chunked, chunked\r\n", Violation::TransferCoding),
            ("transfer-encoding: chunked,\r\n", Violation::TransferCoding),
            (
                "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
                Violation::TransferCoding,
            ),
            ("transfer-encoding: \u{b}chunked\r\n", Violation::FieldValue),
            ("transfer-encoding: gzip, chunked\r\n", Violation::UnknownCoding),
            (
                "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
                Violation::UnknownCoding,
            ),
        ] {
            refused(&head("POST / HTTP/1.1", fields), expect);
        }
        // RFC 9112 section 6.1.
        refused(
            &head("POST / HTTP/1.0", "transfer-encoding: chunked\r\n"),
            Violation::CodingInHttp10,
        );
    }

    #[test]
    fn what_a_request_asks_of_its_connection() {
        let read = |line: &str, fields: &str| read(&head(line, fields)).expect("a head").asked;
        let (new, old) = ("POST / HTTP/1.1", "POST / HTTP/1.0");
        // RFC 9112 section 9.3.
        for (line, fields, keep_alive) in [
            (new, "", true),
            (new, "connection: Close\r\n", false),
            (new, "connection: x, close\r\n", false),
            (new, "connection: x\r\nconnection: close\r\n", false),
            (new, "connection: closed\r\n", true),
            (old, "", false),
            (old, "connection: Keep-Alive\r\n", true),
            (old, "connection: keep-alive, close\r\n", false),
            ("CONNECT a:1 HTTP/1.1", "", false),
        ] {
            assert_eq!(read(line, fields).keep_alive, keep_alive, "{line} {fields:?}");
        }
        assert!(read(new, "te: gzip, Trailers\r\n").trailers);
        assert!(!read(new, "te: gzip\r\n").trailers);
        // RFC 9110 section 10.1.1.
        let with_body = "content-length: 1\r\nexpect: 100-Continue\r\n";
        assert!(read(new, with_body).expects_continue);
        assert!(!read(new, "expect: 100-continue\r\n").expects_continue);
        assert!(!read(old, with_body).expects_continue);
        for fields in [
            "expect: x\r\n",
            "expect: 100-continue, x\r\n",
            "expect: 100-continue\r\nexpect: x\r\n",
        ] {
            refused(&head(new, fields), Violation::Expectation);
        }
    }

    proptest! {
        #[test]
        fn what_is_right_is_read_as_httparse_reads_it(
            method in "[A-Z]{1,10}",
            path in "/[!$-;=@-Z_a-z~]{0,30}",
            fields in proptest::collection::vec(("x-[a-z0-9!#$%&'*+.^_`|~-]{1,12}", "[!-~]([ -~]{0,20}[!-~])?"), 0..20),
        ) {
            prop_assume!(method != "CONNECT");
            let mut text = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n");
            for (name, value) in &fields {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str("\r\nrest");
            let mut bytes = BytesMut::from(text.as_bytes());
            let Parsed::Head(ours) = parse(&mut bytes) else { panic!("{text:?}") };
            let mut space = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
            let mut theirs = httparse::Request::new(&mut space);
            let end = theirs.parse(text.as_bytes()).expect("a head").unwrap();
            prop_assert_eq!(&text.as_bytes()[end..], &bytes[..]);
            prop_assert_eq!(Some(ours.request.method().as_str()), theirs.method);
            let uri = ours.request.uri().to_string();
            prop_assert_eq!(Some(uri.as_str()), theirs.path);
            let headers = ours.request.headers();
            prop_assert_eq!(headers.len(), theirs.headers.len());
            for name in headers.keys() {
                let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
                let same = theirs.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_str()));
                let expect: Vec<&[u8]> = same.map(|field| field.value).collect();
                prop_assert_eq!(values, expect);
            }
        }
    }
}
