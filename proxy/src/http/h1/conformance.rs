//! docs/conformance.md, made of what the parsers do.

use std::fmt::Write as _;

use super::chunks::Decoder;
use super::parse::{Parsed, parse};
use super::violation::Violation;
use crate::test_golden;

/// What a downstream sends, the section that says what a server makes of it, and the bytes: of a head, where `Host` and
/// the head's end are added, or of a chunked body.
enum Case {
    Head(&'static str, &'static str, &'static str),
    Body(&'static str, &'static str, &'static str),
}

const CASES: &[Case] = &[
    Case::Head(
        "one empty line before the request",
        "9112, 2.2",
        "\r\nGET / HTTP/1.1\r\n",
    ),
    Case::Head("two of them", "9112, 2.2", "\r\n\r\nGET / HTTP/1.1\r\n"),
    Case::Head(
        "a line that ends with LF alone",
        "9112, 2.2",
        "GET / HTTP/1.1\r\nx: y\n",
    ),
    Case::Head("a CR within a value", "9112, 2.2", "GET / HTTP/1.1\r\nx: y\rz\r\n"),
    Case::Head(
        "a blank before the first field",
        "9112, 2.2",
        "GET / HTTP/1.1\r\n x: y\r\n",
    ),
    Case::Head("HTTP/9.9", "9112, 2.3", "GET / HTTP/9.9\r\n"),
    Case::Head("two spaces in the first line", "9112, 3", "GET  / HTTP/1.1\r\n"),
    Case::Head("no version", "9112, 3", "GET /\r\n"),
    Case::Head("a method that is no token", "9110, 9.1", "G(T / HTTP/1.1\r\n"),
    Case::Head("a target of no form", "9112, 3.2", "GET a/b HTTP/1.1\r\n"),
    Case::Head("a target with a fragment", "9112, 3.2", "GET /a#b HTTP/1.1\r\n"),
    Case::Head("the absolute form", "9112, 3.2.2", "GET http://b/ HTTP/1.1\r\n"),
    Case::Head(
        "the authority form, not of CONNECT",
        "9112, 3.2.3",
        "GET a:80 HTTP/1.1\r\n",
    ),
    Case::Head("`OPTIONS *`", "9112, 3.2.4", "OPTIONS * HTTP/1.1\r\n"),
    Case::Head("`GET *`", "9112, 3.2.4", "GET * HTTP/1.1\r\n"),
    Case::Head("two Hosts", "9112, 3.2", "GET / HTTP/1.1\r\nhost: b\r\n"),
    Case::Head("a line without colon", "9112, 5", "GET / HTTP/1.1\r\nx\r\n"),
    Case::Head("a blank before the colon", "9112, 5.1", "GET / HTTP/1.1\r\nx : y\r\n"),
    Case::Head("a folded line", "9112, 5.2", "GET / HTTP/1.1\r\nx: y\r\n z\r\n"),
    Case::Head("a name that is no token", "9110, 5.1", "GET / HTTP/1.1\r\nx y: z\r\n"),
    Case::Head("NUL in a value", "9110, 5.5", "GET / HTTP/1.1\r\nx: \0\r\n"),
    Case::Head(
        "bytes beyond ASCII in a value",
        "9110, 5.5",
        "GET / HTTP/1.1\r\nx: \u{5065}\r\n",
    ),
    Case::Head(
        "Content-Length and Transfer-Encoding",
        "9112, 6.3",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n",
    ),
    Case::Head(
        "Content-Length twice, even the same",
        "9112, 6.3",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n",
    ),
    Case::Head(
        "`Content-Length: +1`",
        "9112, 6.3",
        "POST / HTTP/1.1\r\ncontent-length: +1\r\n",
    ),
    Case::Head(
        "`Transfer-Encoding: gzip, chunked`",
        "9112, 6.1",
        "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n",
    ),
    Case::Head(
        "`Transfer-Encoding: gzip`",
        "9112, 6.3",
        "POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n",
    ),
    Case::Head(
        "`Transfer-Encoding: chunked, chunked`",
        "9112, 6.3",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n",
    ),
    Case::Head(
        "`Transfer-Encoding: xchunked`",
        "9112, 6.3",
        "POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n",
    ),
    Case::Head(
        "Transfer-Encoding in HTTP/1.0",
        "9112, 6.1",
        "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n",
    ),
    Case::Head("`Expect: x`", "9110, 10.1.1", "POST / HTTP/1.1\r\nexpect: x\r\n"),
    Case::Body(
        "a chunk with an extension",
        "9112, 7.1.1",
        "1;a=\"b\"\r\nx\r\n0\r\n\r\n",
    ),
    Case::Body("LF alone within an extension", "9112, 7.1.1", "1;a\nx\r\n0\r\n\r\n"),
    Case::Body("a blank after a chunk's size", "9112, 7.1", "1 \r\nx\r\n0\r\n\r\n"),
    Case::Body("a chunk's size of `0x1`", "9112, 7.1", "0x1\r\nx\r\n0\r\n\r\n"),
    Case::Body(
        "a chunk's size of 2^64",
        "9112, 7.1",
        "10000000000000000\r\nx\r\n0\r\n\r\n",
    ),
    Case::Body("a chunk longer than its size", "9112, 7.1", "1\r\nxyz\r\n0\r\n\r\n"),
    Case::Body(
        "a chunk's data that ends with LF alone",
        "9112, 7.1",
        "1\r\nx\n0\r\n\r\n",
    ),
    Case::Body("a trailer", "9112, 7.1.2", "0\r\nx: y\r\n\r\n"),
    Case::Body(
        "a trailer that frames, routes or authenticates",
        "9110, 6.5.1",
        "0\r\ncontent-length: 9\r\n\r\n",
    ),
    Case::Body("a folded trailer", "9112, 7.1.2", "0\r\nx: y\r\n z\r\n\r\n"),
];

fn head(bytes: &str) -> Result<&'static str, Violation> {
    let whole = format!("{bytes}host: a\r\n\r\n");
    match parse(&mut whole.as_bytes().into()) {
        Parsed::Head(_) => Ok("read"),
        Parsed::Refused(refused) => Err(refused.violation),
        Parsed::Incomplete => panic!("{whole:?}"),
    }
}

fn body(bytes: &str) -> Result<&'static str, Violation> {
    let mut decoder = Decoder::new();
    decoder.decode(bytes.as_bytes(), &mut Vec::new())?;
    assert!(decoder.is_done(), "{bytes:?}");
    let had_trailers = decoder.has_trailers();
    match (decoder.take_trailers()?, had_trailers) {
        (None, true) => Ok("read, the field left out"),
        (None, false) | (Some(_), _) => Ok("read"),
    }
}

#[test]
fn the_page_says_what_is_done() {
    let mut page = "# Conformance\n\n\
        What a downstream may send on an HTTP/1 connection, and what Weir makes of it. This page is written by a test\n\
        (`proxy/src/http/h1/conformance.rs`): `UPDATE_EXPECT=1 cargo test -p weir-proxy conformance`.\n\n\
        A refusal is answered with the status and the rule in words, counted in `weir_http1_refused_total` by `rule`, logged,\n\
        and ends the connection: nothing after it is read, and nothing of it reaches an app. Sections are RFC 9110's and\n\
        RFC 9112's.\n\n\
        | a downstream sends | section | Weir |\n| --- | --- | --- |\n"
        .to_owned();
    for case in CASES {
        let (what, section, outcome) = match case {
            Case::Head(what, section, bytes) => (what, section, head(bytes)),
            Case::Body(what, section, bytes) => (what, section, body(bytes)),
        };
        let outcome = match outcome {
            Ok(read) => read.to_owned(),
            Err(violation) => format!("{}, `{}`", violation.status().as_u16(), violation.as_str()),
        };
        writeln!(page, "| {what} | {section} | {outcome} |").expect("a string takes it");
    }
    test_golden::check("../docs/conformance.md", &page);
}
