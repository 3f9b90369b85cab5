//! What is sent over HTTP/2, frame by frame, and what became of it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_test_mesh::PATIENCE;
use weir_test_mesh::frame;

use crate::origin::{ANSWERS, NEXT};
use crate::programs::Program;

/// One message, and what is to be said of it.
pub(crate) struct Case {
    /// What it is.
    pub(crate) name: &'static str,
    /// The section that says what is to be made of it.
    pub(crate) section: &'static str,
    /// Why programs differ; empty: they don't.
    pub(crate) why: &'static str,
    frames: Vec<u8>,
    kind: Kind,
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What became of stream 1, and of the connection.
    Message,
    /// Whether the connection goes on: which error ends a flood depends on how far it had come.
    Flood,
}

/// How long an answer to a case is waited for when the request behind it has its own.
const SILENCE: Duration = Duration::from_secs(1);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The stream of the request behind a case; above those of all floods.
const NEXT_STREAM: u32 = 0x0010_0001;

/// A literal field without indexing, its name new (RFC 7541 section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| {
        u8::try_from(text.len())
            .ok()
            .filter(|length| *length < 127)
            .expect("a short text")
    };
    let mut block = vec![0, length(name)];
    block.extend(name.bytes());
    block.push(length(value));
    block.extend(value.bytes());
    block
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a"),
];
const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a"),
];

fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

/// A GET with these fields in place of or behind the usual ones.
fn get(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(END_STREAM, 1, fields)
}

fn get_with(more: &[(&str, &str)]) -> Vec<u8> {
    get(&[&GET[..], more].concat())
}

fn case(name: &'static str, section: &'static str, frames: Vec<u8>) -> Case {
    Case {
        name,
        section,
        why: "",
        frames,
        kind: Kind::Message,
    }
}

fn flood(name: &'static str, section: &'static str, frames: Vec<u8>) -> Case {
    Case {
        kind: Kind::Flood,
        ..case(name, section, frames)
    }
}

impl Case {
    fn why(mut self, why: &'static str) -> Case {
        self.why = why;
        self
    }
}

/// What a downstream sends.
pub(crate) fn cases() -> Vec<Case> {
    let without = |name: &str| GET.into_iter().filter(|(field, _)| *field != name).collect::<Vec<_>>();
    let window = |stream: u32, bytes: u32| frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    let post = |length: &str, data: &[u8]| {
        let head = headers(0, 1, &[&POST[..], &[("content-length", length)]].concat());
        [head, frame(DATA, END_STREAM, 1, data)].concat()
    };
    vec![
        case("a GET", "8.3.1", get(&GET)),
        case("no `:method`", "8.3.1", get(&without(":method"))).why("Malformed: an error of the stream; Envoy ends the connection, nginx answers 400."),
        case("no `:path`", "8.3.1", get(&without(":path"))).why("Malformed: an error of the stream; Envoy ends the connection, nginx answers 400."),
        case("no `:scheme`", "8.3.1", get(&without(":scheme"))).why("Malformed: an error of the stream; Envoy ends the connection, nginx answers 400."),
        case("no `:authority`, no Host", "8.3.1", get(&without(":authority"))).why("A place has to be named; haproxy passes it on with an empty one."),
        case("`:authority` and another Host", "8.3.1", get_with(&[("host", "b")])).why("RFC 9113 has them not differ; Envoy and haproxy take `:authority` and write Host anew."),
        case("an empty `:path`", "8.3.1", get(&[&without(":path")[..], &[(":path", "")]].concat())).why("Malformed: an error of the stream; Envoy ends the connection, nginx answers 400."),
        case("a `:path` without `/`", "8.3.1", get(&[&without(":path")[..], &[(":path", "a")]].concat())).why("Malformed: an error of the stream; Envoy ends the connection, nginx answers 400."),
        case("a blank in `:path`", "8.3.1", get(&[&without(":path")[..], &[(":path", "/ HTTP/1.1")]].concat())).why("Malformed: an error of the stream; Envoy ends the connection, nginx answers 400."),
        case(
            "CR LF in `:path`",
            "8.3.1",
            get(&[&without(":path")[..], &[(":path", "/ HTTP/1.1\r\nx: y\r\n\r\nGET /evil")]].concat()),
        ).why("Malformed: an error of the stream; Envoy ends the connection."),
        case("a blank in `:method`", "8.3.1", get(&[&without(":method")[..], &[(":method", "GET /evil")]].concat())).why("Malformed: an error of the stream at least. h2, which Weir has below, and Envoy end the connection."),
        case("`:path` twice", "8.3.1", get_with(&[(":path", "/b")])).why("Malformed: an error of the stream; Envoy ends the connection, nginx answers 400."),
        case("a pseudo-header of no name known", "8.3", get_with(&[(":x", "y")])).why("Malformed: an error of the stream at least. h2, which Weir has below, and Envoy end the connection."),
        case("`:status` in a request", "8.3", get_with(&[(":status", "200")])).why("Malformed: an error of the stream; Envoy ends the connection, nginx answers 400."),
        case("a pseudo-header behind a field", "8.3", get(&[&[("x", "y")][..], &GET[..]].concat())).why("Malformed (RFC 9113 section 8.3); nginx passes it on."),
        case("a name in capitals", "8.2.1", get_with(&[("X", "y")])).why("Malformed: an error of the stream at least. h2, which Weir has below, and Envoy end the connection."),
        case("a name with a colon", "8.2.1", get_with(&[("x:y", "z")])).why("Malformed: an error of the stream at least. h2, which Weir has below, and Envoy end the connection."),
        case("a name with a blank", "8.2.1", get_with(&[("x y", "z")])).why("Malformed: an error of the stream at least. h2, which Weir has below, and Envoy end the connection."),
        case("an empty name", "8.2.1", get_with(&[("", "z")])).why("Malformed; all end the connection, and call it by different errors."),
        case("CR LF in a value", "8.2.1", get_with(&[("x", "y\r\nz: 1")])).why("Malformed: an error of the stream at least. h2, which Weir has below, and Envoy end the connection."),
        case("NUL in a value", "8.2.1", get_with(&[("x", "y\0z")])).why("Malformed: an error of the stream at least. h2, which Weir has below, and Envoy end the connection."),
        case("a blank around a value", "8.2.1", get_with(&[("x", " y ")])),
        case("`connection`", "8.2.2", get_with(&[("connection", "x")])).why("Malformed (RFC 9113 section 8.2.2); nginx passes the request on without the field."),
        case("`transfer-encoding: chunked`", "8.2.2", get_with(&[("transfer-encoding", "chunked")])).why("Malformed (RFC 9113 section 8.2.2); nginx passes the request on without the field."),
        case("`upgrade`", "8.2.2", get_with(&[("upgrade", "websocket")])).why("Malformed (RFC 9113 section 8.2.2); nginx passes the request on without the field."),
        case("`keep-alive`", "8.2.2", get_with(&[("keep-alive", "9")])).why("Malformed (RFC 9113 section 8.2.2); nginx passes the request on without the field."),
        case("`te: gzip`", "8.2.2", get_with(&[("te", "gzip")])).why("Malformed (RFC 9113 section 8.2.2); nginx passes the request on without the field."),
        case("`te: trailers`", "8.2.2", get_with(&[("te", "trailers")])).why("nginx takes no trailers from an upstream, and so asks for none."),
        case("two `cookie`", "8.2.3", get_with(&[("cookie", "a=1"), ("cookie", "b=2")])),
        case("less DATA than `content-length`", "8.1.1", post("9", b"x")).why("Malformed: an error of the stream; nginx, which has all of a request before it sends it on, answers 400."),
        case("more DATA than `content-length`", "8.1.1", post("1", b"xyz")).why("Malformed: an error of the stream; nginx, which has all of a request before it sends it on, answers 400."),
        case("`content-length` and no DATA", "8.1.1", get_with(&[("content-length", "9")])).why("Malformed; haproxy passes it on, Envoy ends the connection."),
        case("`content-length` twice", "8.1.1", {
            let head = [&POST[..], &[("content-length", "1"), ("content-length", "2")]].concat();
            [headers(0, 1, &head), frame(DATA, END_STREAM, 1, b"x")].concat()
        }).why("Malformed; the others end more than the stream, or answer 400."),
        case("`content-length: +1`", "8.1.1", post("+1", b"x")).why("Malformed; the others end more than the stream, or answer 400."),
        case("a trailer", "8.1", {
            let trailer = headers(END_STREAM, 1, &[("x", "y")]);
            [headers(0, 1, &POST), frame(DATA, 0, 1, b"x"), trailer].concat()
        }).why("RFC 9110 lets an intermediary leave trailers out; haproxy passes them on, nginx of this version takes none."),
        case("a pseudo-header in a trailer", "8.1", {
            let trailer = headers(END_STREAM, 1, &[(":path", "/b")]);
            [headers(0, 1, &POST), frame(DATA, 0, 1, b"x"), trailer].concat()
        }).why("Malformed; h2, which Weir has below, leaves the field out and tells nobody, and nothing of it goes on."),
        case("a trailer that does not end its stream", "8.1", {
            let trailer = headers(0, 1, &[("x", "y")]);
            [headers(0, 1, &POST), frame(DATA, 0, 1, b"x"), trailer].concat()
        }).why("Malformed: an error of the stream; the others end the connection."),
        case("DATA behind END_STREAM", "5.1", [get(&GET), frame(DATA, END_STREAM, 1, b"x")].concat()).why("An error of the stream or of the connection, as STREAM_CLOSED; h2, which Weir has below, calls it PROTOCOL_ERROR."),
        case("DATA on an idle stream", "5.1", frame(DATA, END_STREAM, 1, b"x")).why("RFC 9113: an error of the connection; nginx passes over it, and Envoy says no more than the end."),
        case("RST_STREAM on an idle stream", "6.4", frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).why("RFC 9113: an error of the connection; nginx passes over it, and Envoy says no more than the end."),
        case("WINDOW_UPDATE on an idle stream", "5.1", window(1, 1)).why("RFC 9113: an error of the connection; nginx passes over it, and Envoy says no more than the end."),
        case("an even stream", "5.1.1", headers(END_STREAM, 2, &GET)).why("All end the connection; Envoy does not say why."),
        case("a stream below one that was", "5.1.1", [headers(END_STREAM, 3, &GET), headers(END_STREAM, 1, &GET)].concat()).why("RFC 9113: an error of the connection; Envoy passes both requests on."),
        case("HEADERS on stream 0", "6.2", headers(END_STREAM, 0, &GET)).why("All end the connection; Envoy does not say why."),
        case("DATA on stream 0", "6.1", frame(DATA, 0, 0, b"x")),
        case("SETTINGS on a stream", "6.5", frame(SETTINGS, 0, 1, &[])).why("All end the connection; Envoy does not say why."),
        case("SETTINGS of 5 bytes", "6.5", frame(SETTINGS, 0, 0, &[0; 5])).why("All end the connection; h2, which Weir has below, calls it PROTOCOL_ERROR where the RFC has a name of its own."),
        case("SETTINGS of an unknown setting", "6.5.2", [frame(SETTINGS, 0, 0, &[0xff, 0, 0, 0, 0, 1]), get(&GET)].concat()),
        case("a window of 2^31 by SETTINGS", "6.5.2", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])).why("All end the connection; h2, which Weir has below, calls it PROTOCOL_ERROR where the RFC has a name of its own."),
        case("PING of 7 bytes", "6.7", frame(PING, 0, 0, &[0; 7])).why("All end the connection; h2, which Weir has below, calls it PROTOCOL_ERROR where the RFC has a name of its own."),
        case("a frame of no type known", "5.5", [frame(0xbb, 0, 0, b"x"), get(&GET)].concat()),
        case("a frame of 20,000 bytes", "4.2", [headers(0, 1, &POST), frame(DATA, END_STREAM, 1, &[0; 20_000])].concat()).why("Over the frame size that Weir announces, as Envoy and haproxy do; nginx announces more."),
        case("PUSH_PROMISE of a client", "8.4", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])).why("All end the connection; Envoy does not say why."),
        case("PRIORITY on itself", "5.3.1", [frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0]), get(&GET)].concat()).why("RFC 9113 has priorities no more; RFC 7540 made it an error of the stream."),
        case("padding longer than its frame", "6.1", [headers(0, 1, &POST), frame(DATA, END_STREAM | 8, 1, &[9, b'x'])].concat()),
        case("a WINDOW_UPDATE of 0 on a stream", "6.9", [headers(0, 1, &POST), window(1, 0)].concat()).why("RFC 9113: an error of the stream; ended is the connection by all but haproxy."),
        case("a WINDOW_UPDATE of 0", "6.9", window(0, 0)).why("All end the connection; Envoy does not say why."),
        case("a window past 2^31 of a stream", "6.9.1", [headers(0, 1, &POST), window(1, 0x7fff_ffff)].concat()).why("RFC 9113: an error of the stream; Envoy ends the connection."),
        case("a window past 2^31", "6.9.1", window(0, 0x7fff_ffff)).why("All end the connection; Envoy does not say why."),
        case("CONTINUATION alone", "6.10", frame(CONTINUATION, END_HEADERS, 1, &block(&GET))),
        case("PING within a header", "6.10", {
            let head = frame(HEADERS, END_STREAM, 1, &block(&GET));
            [head, frame(PING, 0, 0, &[0; 8]), frame(CONTINUATION, END_HEADERS, 1, &[])].concat()
        }),
        case("an index beyond the table", "7541, 2.3.3", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff\x7f")).why("All end the connection; h2, which Weir has below, calls it PROTOCOL_ERROR where the RFC has a name of its own."),
        case("a table larger than allowed", "7541, 6.3", {
            let head = [b"\x3f\xff\xff\xff\x7f".to_vec(), block(&GET)].concat();
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)
        }).why("All end the connection; h2, which Weir has below, calls it PROTOCOL_ERROR where the RFC has a name of its own."),
        case("Huffman code of EOS", "7541, 5.2", {
            let head = [block(&GET), b"\0\x01x\x84\xff\xff\xff\xff".to_vec()].concat();
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)
        }).why("All end the connection; h2, which Weir has below, calls it PROTOCOL_ERROR where the RFC has a name of its own."),
        flood("a header of 20,000 CONTINUATIONs", "10.5", {
            let head = frame(HEADERS, END_STREAM, 1, &block(&GET));
            [head, frame(CONTINUATION, 0, 1, &literal("x", &"y".repeat(100))).repeat(20_000)].concat()
        }),
        flood("a header of 100,000 empty CONTINUATIONs", "10.5", {
            let head = frame(HEADERS, END_STREAM, 1, &block(&GET));
            [head, frame(CONTINUATION, 0, 1, &[]).repeat(100_000)].concat()
        }),
        // One field of 4,000 bytes in the dynamic table, and 12,000 references to it: 48 MB for 16 KB.
        flood("an HPACK bomb", "10.5.1", {
            let entry = [&b"\x40\x01x\x7f\xa1\x1e"[..], &[b'v'; 4000], &[0xbe; 12_000]].concat();
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[block(&GET), entry].concat())
        }).why("Each bounds what a header may take decoded: Envoy refuses the stream alone."),
        flood("50,000 streams that are reset at once", "10.5", {
            let pair = |n: u32| {
                let id = n * 2 + 1;
                [headers(END_STREAM, id, &GET), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
            };
            (0..50_000).flat_map(pair).collect()
        }).why("CVE-2023-44487: Weir, Envoy and nginx end the connection; haproxy counts a stream until all of it is freed, and serves it."),
        flood("100,000 PINGs", "10.5", frame(PING, 0, 0, &[0; 8]).repeat(100_000)).why("Each costs an answer or nothing, and no memory: h2, which Weir has below, reads no further while its answers are not taken. Envoy and nginx count."),
        flood("100,000 SETTINGS", "10.5", frame(SETTINGS, 0, 0, &[]).repeat(100_000)).why("Each costs an answer or nothing, and no memory: h2, which Weir has below, reads no further while its answers are not taken. Envoy and nginx count."),
        flood("100,000 empty DATA", "10.5", [headers(0, 1, &POST), frame(DATA, 0, 1, &[]).repeat(100_000)].concat()).why("h2, which Weir has below, and Envoy count them; to the others each costs nothing but its reading."),
        flood("100,000 PRIORITYs", "10.5", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 0]).repeat(100_000)).why("Each costs an answer or nothing, and no memory: h2, which Weir has below, reads no further while its answers are not taken. Envoy and nginx count."),
        flood("100,000 WINDOW_UPDATEs of 1", "10.5", window(0, 1).repeat(100_000)).why("Each costs nothing but its reading; Envoy counts."),
        flood("100,000 frames of no type known", "10.5", frame(0xbb, 0, 0, &[]).repeat(100_000)),
    ]
}

/// Sends a case, and right behind it another request; tells what became of both.
pub(crate) async fn run(program: &Program, case: &Case) -> String {
    program.origin.begin(ANSWERS);
    let next = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", NEXT),
        (":authority", "a"),
    ];
    let message = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &case.frames,
        &headers(END_STREAM, NEXT_STREAM, &next),
    ]
    .concat();
    let saw = exchange(program.http2, message).await;
    let arrived = program.origin.arrived();
    let ours: Vec<_> = arrived
        .iter()
        .filter(|arrived| arrived.ended && !arrived.is_next())
        .collect();
    let goes_on = saw.next.is_some();
    if case.kind == Kind::Flood {
        return if goes_on { "goes on" } else { "closed" }.to_owned();
    }
    match (&saw.case, saw.goaway, goes_on) {
        // Whether a request that was given up had arrived before is a matter of time.
        (_, Some(code), false) => return format!("connection {}", error(code)),
        (Some(Ended::Reset(code)), _, _) => return format!("stream {}", error(*code)),
        (_, None, false) => return if saw.silent { "waits" } else { "closed" }.to_owned(),
        (Some(Ended::Answered(status)), _, true) if ours.is_empty() => return status.clone(),
        (None, _, true) if ours.is_empty() => return "left out".to_owned(),
        (Some(Ended::Answered(_)) | None, _, true) => {}
    }
    let mut told = vec!["passed".to_owned()];
    for request in &ours {
        if !request.line.ends_with(" /") {
            told.push(format!("`{}`", request.line));
        }
        for name in SHOWN {
            let values = request.values(name);
            if !values.is_empty() {
                told.push(format!("`{name}: {}`", values.join(", ").escape_debug()));
            }
        }
        if request.values("host") != ["a"] {
            told.push(format!("`host: {}`", request.values("host").join(", ")));
        }
        if !request.trailers.is_empty() {
            told.push(format!("trailer `{}`", request.trailers.join(", ")));
        }
    }
    if ours.len() > 1 {
        told.push(format!("{} requests arrive", ours.len()));
    }
    told.join(", ")
}

/// The fields of cases that are to be seen where they arrive.
const SHOWN: [&str; 10] = [
    "x",
    "x:y",
    "x y",
    "z",
    "upgrade",
    "keep-alive",
    "te",
    "cookie",
    ":x",
    "",
];

/// How a stream ended.
#[derive(Debug)]
enum Ended {
    Answered(String),
    Reset(u32),
}

#[derive(Default)]
struct Saw {
    case: Option<Ended>,
    next: Option<Ended>,
    goaway: Option<u32>,
    silent: bool,
}

async fn exchange(to: SocketAddr, message: Vec<u8>) -> Saw {
    let (mut reads, mut writes) = TcpStream::connect(to).await.expect("a connection").into_split();
    // Who closes before it has read all need not be told the rest.
    let writing = tokio::spawn(async move {
        let _ = writes.write_all(&message).await;
        writes
    });
    let mut saw = Saw::default();
    let mut held = Vec::new();
    loop {
        while let Some((kind, stream, payload)) = take_frame(&mut held) {
            let ended = match kind {
                HEADERS => status(&payload).map(Ended::Answered),
                RST_STREAM => Some(Ended::Reset(last_four(&payload))),
                GOAWAY => {
                    saw.goaway = payload.get(4..8).map(last_four).filter(|code| *code != 0);
                    None
                }
                _ => None,
            };
            let Some(ended) = ended else { continue };
            match stream {
                NEXT_STREAM => saw.next = saw.next.or(Some(ended)),
                // An answer is more than the reset behind it.
                _ => saw.case = saw.case.or(Some(ended)),
            }
        }
        if matches!(saw.next, Some(Ended::Answered(_))) && saw.case.is_some() {
            break;
        }
        // An answer to the next without one to the case: what is to come of it comes soon or never.
        let patience = if saw.next.is_some() { SILENCE } else { PATIENCE };
        match tokio::time::timeout(patience, reads.read_buf(&mut held)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => break,
            Err(_) => {
                saw.silent = true;
                break;
            }
        }
    }
    writing.abort();
    saw
}

fn take_frame(held: &mut Vec<u8>) -> Option<(u8, u32, Vec<u8>)> {
    let [a, b, c, kind, _, id @ ..] = *held.first_chunk::<9>()?;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    let payload = held.get(9..9 + length)?.to_vec();
    held.drain(..9 + length);
    Some((kind, u32::from_be_bytes(id), payload))
}

fn last_four(payload: &[u8]) -> u32 {
    payload.last_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

/// The status that a header block begins with (RFC 9113 section 8.3.2): indexed, or its three digits, of Huffman's code
/// or not (RFC 7541). `None`: it has none, as a trailer.
fn status(block: &[u8]) -> Option<String> {
    // Changes of the table's size come first (RFC 7541 section 4.2).
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    let block = block.get(start..)?;
    const STATIC: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    let first = *block.first()?;
    if let 0x88..=0x8e = first {
        return Some(STATIC[usize::from(first - 0x88)].to_owned());
    }
    if !matches!(first, 0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e) {
        return None;
    }
    let length = *block.get(1)?;
    let value = block.get(2..2 + usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return Some(String::from_utf8_lossy(value).into_owned());
    }
    let bits: String = value.iter().map(|byte| format!("{byte:08b}")).collect();
    let mut bits = bits.as_str();
    let mut digits = String::new();
    while digits.len() < 3 {
        // Appendix B: 0 to 2 have five bits from 00000, 3 to 9 six from 011001.
        let five = u8::from_str_radix(bits.get(..5)?, 2).ok()?;
        let (digit, used) = match five {
            0..=2 => (five, 5),
            _ => (
                u8::from_str_radix(bits.get(..6)?, 2).ok()?.checked_sub(0b011001 - 3)?,
                6,
            ),
        };
        digits.push(char::from(b'0' + digit));
        bits = bits.get(used..)?;
    }
    Some(digits)
}

/// RFC 9113 section 7.
fn error(code: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    usize::try_from(code)
        .ok()
        .and_then(|code| NAMES.get(code))
        .copied()
        .unwrap_or("of no name known")
}
