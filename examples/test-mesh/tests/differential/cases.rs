//! The cases of HTTP/1: what is sent, and why programs differ in what they make of it.

use std::sync::LazyLock;

use crate::origin::{ANSWERS, Says, Then};

/// One message, and what is to be said of it.
pub(crate) struct Case {
    /// What it is.
    pub(crate) name: &'static str,
    /// The section that says what is to be made of it.
    pub(crate) section: &'static str,
    /// The request.
    pub(crate) ask: Ask,
    /// The content of what is sent, without its framing: of the request, or of the answer where that is the case.
    pub(crate) body: &'static str,
    /// How many requests it is.
    pub(crate) requests: usize,
    /// What the origin answers.
    pub(crate) says: Says,
    /// Whether some program has no answer, so that silence must be waited for.
    pub(crate) silent: bool,
    /// Why programs differ; empty: they don't.
    pub(crate) why: &'static str,
}

/// A request as it is sent.
pub(crate) enum Ask {
    /// All of it.
    Whole(&'static [u8]),
    /// A head, to which `Host` is added, its end, and this content.
    Head(String),
}

impl Ask {
    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Ask::Whole(bytes) => bytes,
            Ask::Head(text) => text.as_bytes(),
        }
    }
}

impl Case {
    /// Whether it is the answer that is looked at.
    pub(crate) fn is_answer(&self) -> bool {
        self.says.bytes != ANSWERS.bytes
    }

    fn why(mut self, why: &'static str) -> Case {
        self.why = why;
        self
    }

    fn silent(mut self) -> Case {
        self.silent = true;
        self
    }

    fn requests(mut self, count: usize) -> Case {
        self.requests = count;
        self
    }

    fn to(mut self, request: &'static str) -> Case {
        self.ask = Ask::Whole(request.as_bytes());
        self
    }
}

/// A head without `Host` and without its end.
fn head(name: &'static str, section: &'static str, text: &str) -> Case {
    with_body(name, section, text, "", "")
}

/// The same, with a body: as it is framed, and as it is meant.
fn with_body(name: &'static str, section: &'static str, text: &str, framed: &str, body: &'static str) -> Case {
    Case {
        name,
        section,
        ask: Ask::Head(format!("{text}Host: a\r\n\r\n{framed}")),
        body,
        requests: 1,
        says: ANSWERS,
        silent: false,
        why: "",
    }
}

/// A chunked body.
fn chunked(name: &'static str, section: &'static str, framed: &str, body: &'static str) -> Case {
    let text = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
    with_body(name, section, text, framed, body)
}

/// A whole request.
fn whole(name: &'static str, section: &'static str, bytes: &'static str) -> Case {
    Case {
        name,
        section,
        ask: Ask::Whole(bytes.as_bytes()),
        body: "",
        requests: 1,
        says: ANSWERS,
        silent: false,
        why: "",
    }
}

/// An answer to a GET, and what becomes of its connection; `body` is what it is meant to hold.
fn answer(name: &'static str, section: &'static str, bytes: &'static str, then: Then, body: &'static str) -> Case {
    Case {
        name,
        section,
        ask: Ask::Whole(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        body,
        requests: 1,
        says: Says {
            bytes: bytes.as_bytes(),
            then,
        },
        silent: false,
        why: "",
    }
}

/// What a downstream sends.
pub(crate) fn requests() -> Vec<Case> {
    vec![
        head("one empty line before the request", "9112, 2.2", "\r\nGET / HTTP/1.1\r\n"),
        head("two of them", "9112, 2.2", "\r\n\r\nGET / HTTP/1.1\r\n").why("RFC 9112 asks for one to be passed over at least; more is nothing that a client has to send."),
        head("a line that ends with LF alone", "9112, 2.2", "GET / HTTP/1.1\r\nX: y\n").why("A recipient may take LF for the end of a line, and one that does not reads another header: Weir refuses what is read in two ways."),
        head("a CR within a value", "9112, 2.2", "GET / HTTP/1.1\r\nX: y\rz\r\n").why("RFC 9112 has a CR alone replaced or the message refused; Envoy takes it out, which makes another value of it."),
        head("a blank before the first field", "9112, 2.2", "GET / HTTP/1.1\r\n X: y\r\n"),
        head("HTTP/9.9", "9112, 2.3", "GET / HTTP/9.9\r\n").why("505 is RFC 9110's answer to a major version that is not known; Envoy answers all but 1.1 with 426, and haproxy sends it on as HTTP/1.1."),
        head("HTTP/1.2", "9110, 2.5", "GET / HTTP/1.2\r\n").why("A higher minor version may be read as 1.1; Weir, as Envoy, reads the versions that there are."),
        head("two spaces in the first line", "9112, 3", "GET  / HTTP/1.1\r\n").why("RFC 9112 lets a recipient be lenient; the target may then be empty for another one."),
        head("no version", "9112, 3", "GET /\r\n").why("HTTP/0.9 is none of RFC 9112's; nginx speaks it."),
        head("a method that is no token", "9110, 9.1", "G(T / HTTP/1.1\r\n"),
        head("a method in small letters", "9110, 9.1", "get / HTTP/1.1\r\n").why("Methods are tokens, small letters or not, and their meaning is the app's; Envoy and nginx refuse it."),
        head("a method that nobody knows", "9110, 9.1", "BREW / HTTP/1.1\r\n").why("An app may have methods of its own; Envoy has a list."),
        head("a target of no form", "9112, 3.2", "GET a/b HTTP/1.1\r\n").why("haproxy passes it on."),
        head("a target with a fragment", "9112, 3.2", "GET /a#b HTTP/1.1\r\n").why("A fragment is never sent; nginx passes it on."),
        head("bytes beyond ASCII in a target", "9112, 3.2", "GET /\u{5065} HTTP/1.1\r\n").why("RFC 3986 has no such byte, and apps send it all the same: as it has one reading, Weir and nginx pass it on as it came."),
        head("the absolute form, another Host", "9112, 3.2.2", "GET http://b/ HTTP/1.1\r\n").why("RFC 9112 has the target's authority taken and Host written anew; haproxy refuses the contradiction."),
        head("the authority form, not of CONNECT", "9112, 3.2.3", "GET a:80 HTTP/1.1\r\n"),
        head("`OPTIONS *`", "9112, 3.2.4", "OPTIONS * HTTP/1.1\r\n").why("Envoy has no route for what is no path; nginx does not take the form."),
        head("`GET *`", "9112, 3.2.4", "GET * HTTP/1.1\r\n").why("The form is for OPTIONS alone; haproxy passes it on."),
        whole("no Host", "9112, 3.2", "GET / HTTP/1.1\r\n\r\n").why("HTTP/1.1 has to have one; haproxy passes it on."),
        head("two Hosts", "9112, 3.2", "GET / HTTP/1.1\r\nHost: b\r\n").why("RFC 9112: 400; Envoy joins them."),
        head("the same Host twice", "9112, 3.2", "GET / HTTP/1.1\r\nHost: a\r\n").why("RFC 9112: 400, whatever they hold; Envoy joins them, haproxy keeps one."),
        whole("a Host of two names", "9112, 3.2", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n").why("RFC 9112: a value that is no host gets 400; haproxy passes it on."),
        whole("user information in Host", "9110, 7.2", "GET / HTTP/1.1\r\nHost: b@a\r\n\r\n").why("A Host has none (RFC 9110 section 7.2), and who takes `b` for the host reads another place."),
        head("a line without colon", "9112, 5", "GET / HTTP/1.1\r\nX\r\n").why("nginx leaves the line out."),
        head("a blank before the colon", "9112, 5.1", "GET / HTTP/1.1\r\nX : y\r\n"),
        head("a folded line", "9112, 5.2", "GET / HTTP/1.1\r\nX: y\r\n z\r\n").why("RFC 9112: a server refuses it or replaces the fold by blanks; who does neither reads two lines."),
        head("a name that is no token", "9110, 5.1", "GET / HTTP/1.1\r\nX y: z\r\n"),
        head("an empty name", "9110, 5.1", "GET / HTTP/1.1\r\n: z\r\n"),
        head("an underscore in a name", "9110, 5.1", "GET / HTTP/1.1\r\nX_y: z\r\n").why("It is a token; nginx leaves it out, since CGI can't tell it from `-`."),
        head("NUL in a value", "9110, 5.5", "GET / HTTP/1.1\r\nX: \0\r\n").why("RFC 9110: refuse or replace; haproxy passes it on."),
        head("bytes beyond ASCII in a value", "9110, 5.5", "GET / HTTP/1.1\r\nX: \u{5065}\r\n"),
        with_body(
            "Content-Length and Transfer-Encoding",
            "9112, 6.3",
            "POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
            "",
        ).why("RFC 9112: the coding counts and the connection ends, or it is refused; that is how requests are smuggled, so Weir refuses."),
        with_body(
            "Content-Length twice, the same",
            "9112, 6.3",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
            "x",
            "x",
        ).why("RFC 9112 lets equal values be taken as one; haproxy does."),
        with_body(
            "Content-Length twice, not the same",
            "9112, 6.3",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
            "xy",
            "xy",
        ),
        with_body(
            "`Content-Length: 1, 1`",
            "9112, 6.3",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n",
            "x",
            "x",
        ).why("RFC 9112 lets a list of equal values be taken as one; haproxy does."),
        with_body("`Content-Length: +1`", "9112, 6.3", "POST / HTTP/1.1\r\nContent-Length: +1\r\n", "x", "x"),
        with_body("`Content-Length: 0x1`", "9112, 6.3", "POST / HTTP/1.1\r\nContent-Length: 0x1\r\n", "x", "x"),
        with_body("`Content-Length:`, nothing", "9112, 6.3", "POST / HTTP/1.1\r\nContent-Length:\r\n", "", ""),
        with_body("a GET with content", "9110, 9.3.1", "GET / HTTP/1.1\r\nContent-Length: 1\r\n", "x", "x"),
        with_body(
            "`Transfer-Encoding: gzip, chunked`",
            "9112, 6.1",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n",
            "0\r\n\r\n",
            "",
        ).why("501 is RFC 9112's answer to a coding that is not known; haproxy's is 422."),
        with_body("`Transfer-Encoding: gzip`", "9112, 6.3", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n", "", "").why("Without chunked at the end the length can't be told, which is 400; others say 501 since they look at the coding first."),
        with_body(
            "`Transfer-Encoding: chunked, chunked`",
            "9112, 6.3",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n",
            "0\r\n\r\n",
            "",
        ).why("Chunked is applied once, which is 400; others say 501 to all but `chunked`."),
        with_body(
            "Transfer-Encoding twice",
            "9112, 6.3",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "0\r\n\r\n",
            "",
        ).why("Refused by all; Envoy says 501 to all but `chunked`."),
        with_body(
            "`Transfer-Encoding: xchunked`",
            "9112, 6.3",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n",
            "0\r\n\r\n",
            "",
        ).why("Without chunked at the end the length can't be told, which is 400; others say 501."),
        with_body(
            "`Transfer-Encoding: identity`",
            "9112, 7",
            "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n",
            "",
            "",
        ).why("RFC 9112 has no such coding any more; refused by all, by 400 as not ending in chunked or by 501 as not known."),
        with_body(
            "`Transfer-Encoding: CHUNKED`",
            "9112, 7",
            "POST / HTTP/1.1\r\nTransfer-Encoding: CHUNKED\r\n",
            "0\r\n\r\n",
            "",
        ),
        with_body(
            "a form feed before `chunked`",
            "9110, 5.6.3",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \x0cchunked\r\n",
            "0\r\n\r\n",
            "",
        ).why("It is no blank of HTTP; nginx takes it for the coding's name."),
        with_body(
            "Transfer-Encoding in HTTP/1.0",
            "9112, 6.1",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
            "",
        ).why("RFC 9112: its framing is faulty; haproxy reads the chunks and closes, as the RFC asks of who goes on. Envoy takes no HTTP/1.0."),
        with_body("`Expect: x`", "9110, 10.1.1", "POST / HTTP/1.1\r\nExpect: x\r\nContent-Length: 1\r\n", "x", "x").why("RFC 9110: 417 where it can't be met; others take it for 100-continue, leave it out or pass it on."),
        with_body(
            "`Expect: 100-continue`",
            "9110, 10.1.1",
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n",
            "x",
            "x",
        ).why("Weir leaves it to the app whether it wants the content; others say so for it, and haproxy both."),
        chunked("a chunk with an extension", "9112, 7.1.1", "1;a=\"b\"\r\nx\r\n0\r\n\r\n", "x"),
        chunked("LF alone within an extension", "9112, 7.1.1", "1;a\nx\r\n0\r\n\r\n", "x").why("The extension ends for one with LF and for another with CR LF: that is how requests are smuggled, and nginx and haproxy of these versions read past it.").silent(),
        chunked("a blank after a chunk's size", "9112, 7.1", "1 \r\nx\r\n0\r\n\r\n", "x").why("RFC 9112 has blanks there before an extension alone; the others pass over it."),
        chunked("a chunk's size of `0x1`", "9112, 7.1", "0x1\r\nx\r\n0\r\n\r\n", "x"),
        chunked("a chunk's size of `+1`", "9112, 7.1", "+1\r\nx\r\n0\r\n\r\n", "x"),
        chunked("a chunk's size of 2^64", "9112, 7.1", "10000000000000000\r\nx\r\n0\r\n\r\n", "x").silent(),
        chunked("a chunk longer than its size", "9112, 7.1", "1\r\nxyz\r\n0\r\n\r\n", "xyz").why("Envoy reads the size's bytes and passes over the rest of the line."),
        chunked("a chunk's data that ends with LF alone", "9112, 7.1", "1\r\nx\n0\r\n\r\n", "x").why("RFC 9112: CR LF; others take LF for it.").silent(),
        chunked("a trailer", "9112, 7.1.2", "0\r\nX: y\r\n\r\n", "").why("RFC 9110 lets an intermediary leave trailers out where nobody said that it wants them; haproxy passes them on."),
        chunked("a trailer that frames", "9110, 6.5.1", "0\r\nContent-Length: 9\r\n\r\n", "").why("RFC 9110 section 6.5.1: such a field has no place in a trailer; haproxy passes it on."),
        chunked("a folded trailer", "9112, 7.1.2", "0\r\nX: y\r\n z\r\n\r\n", "").why("Folded lines are refused in trailers as in headers."),
        head("a field that Connection names", "9110, 7.6.1", "GET / HTTP/1.1\r\nConnection: X\r\nX: y\r\n").why("RFC 9110: an intermediary takes them out; nginx and haproxy don't."),
        with_body(
            "Content-Length that Connection names",
            "9110, 7.6.1",
            "POST / HTTP/1.1\r\nConnection: Content-Length\r\nContent-Length: 1\r\n",
            "x",
            "x",
        ),
        head("Host that Connection names", "9110, 7.6.1", "GET / HTTP/1.1\r\nConnection: Host\r\n").why("Host is for everybody, so Connection can't take it out; Envoy refuses the attempt."),
        head("Keep-Alive, Proxy-Connection", "9110, 7.6.1", "GET / HTTP/1.1\r\nProxy-Connection: x\r\nKeep-Alive: 9\r\n").why("They are of one connection; nginx and haproxy leave Proxy-Connection in."),
        head("`TE: trailers`", "9110, 10.1.4", "GET / HTTP/1.1\r\nConnection: TE\r\nTE: trailers\r\n").why("nginx takes no trailers from an upstream, and so asks for none."),
        head("`TE: gzip`", "9110, 10.1.4", "GET / HTTP/1.1\r\nConnection: TE\r\nTE: gzip\r\n"),
        head("Upgrade without Connection", "9110, 7.8", "GET / HTTP/1.1\r\nUpgrade: websocket\r\n").why("Without Connection it is of no hop, and RFC 9110 has it ignored; haproxy passes it on."),
        head("an Upgrade to nothing known", "9110, 7.8", "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n").why("Weir carries whatever both ends agree on; Envoy has to be told of each, nginx has no upgrades unless configured."),
        head("an Upgrade to h2c", "9113, 3.1", "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n").why("RFC 9113 has no such upgrade any more, and behind a proxy it would go past it: haproxy passes it on."),
        head("`OPTIONS`, `Max-Forwards: 0`", "9110, 7.6.2", "OPTIONS / HTTP/1.1\r\nMax-Forwards: 0\r\n").why("RFC 9110: who gets 0 answers itself and does not forward."),
        head("TRACE", "9110, 9.3.8", "TRACE / HTTP/1.1\r\n").why("nginx refuses the method; it is the app's to answer."),
        head("`..` in a path", "3986, 5.2.4", "GET /a/../b HTTP/1.1\r\n"),
        head("`..` above the root", "3986, 5.2.4", "GET /../b HTTP/1.1\r\n").why("nginx resolves paths to find its locations; the others pass paths as they came."),
        head("`%2e%2e` in a path", "3986, 6.2.2.3", "GET /a/%2e%2e/b HTTP/1.1\r\n"),
        head("`//` in a path", "3986, 3.3", "GET /a//b HTTP/1.1\r\n"),
        head("`%2F` in a path", "3986, 2.2", "GET /a%2Fb HTTP/1.1\r\n"),
        head("`%00` in a path", "3986, 2.1", "GET /a%00b HTTP/1.1\r\n").why("nginx decodes paths to find its locations; the others pass paths as they came."),
        head("`%zz` in a path", "3986, 2.1", "GET /a%zzb HTTP/1.1\r\n").why("nginx decodes paths to find its locations; the others pass paths as they came."),
        head("a backslash in a path", "3986, 3.3", "GET /a\\b HTTP/1.1\r\n"),
        whole(
            "three requests at once",
            "9112, 9.3.2",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .requests(2),
        whole("HTTP/1.0 without Host", "9112, 3.2", "GET / HTTP/1.0\r\n\r\n").why("HTTP/1.0 needs none; in a mesh Host says where to, so Weir can only refuse. Envoy takes no HTTP/1.0."),
        with_body("a body's begin, then silence", "9112, 8", "POST / HTTP/1.1\r\nContent-Length: 1000\r\n", "x", "x").why("nginx keeps a request until it has all of it; the others stream it.").silent(),
    ]
}

/// What an origin answers.
pub(crate) fn answers() -> Vec<Case> {
    use Then::{Closes, GoesOn};
    vec![
        answer(
            "an answer behind the answer",
            "9112, 9.2",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 1\r\n\r\nx\
             HTTP/1.1 200 OK\r\nX-Origin: split\r\nContent-Length: 4\r\n\r\nevil",
            GoesOn,
            "x",
        ),
        answer(
            "Content-Length twice, the same",
            "9112, 6.3",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ).why("RFC 9112 lets equal values be taken as one; Envoy does not."),
        answer(
            "Content-Length twice, not the same",
            "9112, 6.3",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
            GoesOn,
            "xy",
        ).why("RFC 9112: an error that can't be recovered from; nginx takes one of them."),
        answer(
            "`Content-Length: +1`",
            "9112, 6.3",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: +1\r\n\r\nx",
            Closes,
            "x",
        ).why("Digits alone; nginx passes the answer on as one without a length."),
        answer(
            "Content-Length and Transfer-Encoding",
            "9112, 6.3",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            GoesOn,
            "x",
        ).why("RFC 9112: the coding counts, and Content-Length is taken out; Envoy refuses both."),
        answer(
            "`Transfer-Encoding: gzip`, to the end",
            "9112, 6.3",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nTransfer-Encoding: gzip\r\n\r\nx",
            Closes,
            "x",
        ).why("The coding is of one hop: content passed on without it would be taken for what it is not. nginx does so."),
        answer(
            "no framing, to the end",
            "9112, 6.3",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\n\r\nx",
            Closes,
            "x",
        ),
        answer(
            "a folded line",
            "9112, 5.2",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nX: y\r\n z\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ).why("RFC 9112: a proxy refuses it or replaces the fold by blanks."),
        answer(
            "a line that ends with LF alone",
            "9112, 2.2",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nX: y\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ),
        answer(
            "a CR within a value",
            "9112, 2.2",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nX: y\rz\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ).why("RFC 9112 has a CR alone replaced or the message refused; Envoy takes it out."),
        answer(
            "NUL in a value",
            "9110, 5.5",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nX: y\0z\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ).why("RFC 9110: refuse or replace; haproxy passes it on."),
        answer(
            "a blank before the colon",
            "9112, 5.1",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nX : y\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ),
        answer(
            "a name that is no token",
            "9110, 5.1",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nX y: z\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ),
        answer("a status of two digits", "9112, 4", "HTTP/1.1 20 OK\r\nX-Origin: case\r\nContent-Length: 1\r\n\r\nx", GoesOn, "x").silent().why("A status has three; nginx and haproxy pass it on in some way of their own."),
        answer("a status of 600", "9110, 15", "HTTP/1.1 600 OK\r\nX-Origin: case\r\nContent-Length: 1\r\n\r\nx", GoesOn, "x"),
        answer("HTTP/9.9", "9112, 2.3", "HTTP/9.9 200 OK\r\nX-Origin: case\r\nContent-Length: 1\r\n\r\nx", GoesOn, "x").why("Of a major version that is not known nothing is known; others pass it on."),
        answer("no HTTP", "9112, 4", "hello\r\n\r\n", Closes, "").why("nginx takes it for an answer of HTTP/0.9."),
        answer(
            "the end within the head",
            "9112, 8",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Le",
            Closes,
            "",
        ),
        answer(
            "the end before Content-Length",
            "9112, 8",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 9\r\n\r\nx",
            Closes,
            "x",
        ),
        answer(
            "the end within a chunk",
            "9112, 8",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx",
            Closes,
            "x",
        ),
        answer(
            "the end before the last chunk",
            "9112, 8",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
            Closes,
            "x",
        ),
        answer(
            "a chunk's size of `0x1`",
            "9112, 7.1",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
            Closes,
            "x",
        ).why("All end the answer there; haproxy and nginx have not begun it when they see the size."),
        answer(
            "a chunk longer than its size",
            "9112, 7.1",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n",
            Closes,
            "xyz",
        ).why("Envoy passes over the rest of the line; haproxy and nginx have not begun the answer when they see it, Weir ends it."),
        answer(
            "to HEAD, with content",
            "9110, 9.3.2",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 4\r\n\r\nevil",
            GoesOn,
            "",
        )
        .to("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
        answer(
            "204 with content",
            "9110, 15.3.5",
            "HTTP/1.1 204 No Content\r\nX-Origin: case\r\nContent-Length: 4\r\n\r\nevil",
            GoesOn,
            "",
        ).why("204 has none: what comes behind it is no answer, and the connection ends. Envoy refuses its Content-Length."),
        answer(
            "304 with content",
            "9110, 15.4.5",
            "HTTP/1.1 304 Not Modified\r\nX-Origin: case\r\nContent-Length: 4\r\n\r\nevil",
            GoesOn,
            "",
        ),
        answer(
            "103 before the answer",
            "8297, 2",
            "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ).silent().why("Envoy leaves hints out, and nginx of this version waits for ever behind them."),
        answer(
            "100 that nobody waits for",
            "9110, 15.2.1",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ).silent().why("Nobody waits for it, so it ends here; haproxy passes it on, nginx of this version waits for ever behind it."),
        answer(
            "101 that nobody asked for",
            "9110, 15.2.2",
            "HTTP/1.1 101 Switching Protocols\r\nX-Origin: case\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            Closes,
            "",
        ).why("It would end HTTP without anybody having agreed: 502 is right."),
        answer("a thousand of 102 before the answer", "9110, 15.2", &INTERIM_FLOOD, GoesOn, "x").silent().why("Weir passes on as many as its reader keeps up with; Envoy leaves them out, nginx and haproxy take the later ones for no answer."),
        answer(
            "a field that Connection names",
            "9110, 7.6.1",
            "HTTP/1.1 200 OK\r\nX-Origin: case\r\nConnection: X\r\nX: y\r\nContent-Length: 1\r\n\r\nx",
            GoesOn,
            "x",
        ).why("RFC 9110: an intermediary takes them out; the others do so in requests alone, or never."),
    ]
}

static INTERIM_FLOOD: LazyLock<String> = LazyLock::new(|| {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
    format!("{interim}HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 1\r\n\r\nx")
});
