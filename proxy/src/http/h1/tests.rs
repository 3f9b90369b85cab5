//! A connection from outside: bytes in, bytes out, in virtual time.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use weir_policy::names::ListenerName;

use super::*;
use crate::answer;
use crate::drain::{self, DrainControl};
use crate::error::ProxyError;
use crate::http::body::BodyError;
use crate::http::downstream;
use crate::http::head::Grpc;

type Answer = Pin<Box<dyn Future<Output = Response<ResponseBody>>>>;

/// What a connection asked of its service.
#[derive(Clone, Default)]
struct Saw {
    requests: Rc<RefCell<Vec<String>>>,
    refused: Rc<RefCell<Vec<Violation>>>,
    abandoned: Rc<Cell<u32>>,
}

struct Scripted {
    saw: Saw,
    answer: Box<dyn Fn(Request<DownstreamBody>) -> Answer>,
}

/// Counts an answer that was not waited for to its end.
struct Waited(Option<Rc<Cell<u32>>>);

impl Waited {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Waited {
    fn drop(&mut self) {
        if let Some(abandoned) = &self.0 {
            abandoned.set(abandoned.get() + 1);
        }
    }
}

impl Service for Scripted {
    type Answer = Answer;

    fn answer(&self, request: Request<DownstreamBody>) -> Answer {
        let line = format!("{} {}", request.method(), request.uri());
        self.saw.requests.borrow_mut().push(line);
        let answer = (self.answer)(request);
        let waited = Waited(Some(Rc::clone(&self.saw.abandoned)));
        Box::pin(async move {
            let answer = answer.await;
            waited.answered();
            answer
        })
    }

    fn refuse(&self, refused: &Refused) -> Response<ResponseBody> {
        self.saw.refused.borrow_mut().push(refused.violation);
        let proxy = "citizen/portal".parse().expect("a name");
        answer::refusal(&ProxyError::Violation(refused.violation), Grpc::No, &proxy)
    }

    fn window_bytes(&self) -> u32 {
        65_535
    }

    fn inside(self, _: ListenerName) -> Scripted {
        self
    }

    fn refused_body(&self, violation: Violation) {
        self.saw.refused.borrow_mut().push(violation);
    }
}

/// A client, what begins the drain, and what the service has seen.
struct Client {
    io: DuplexStream,
    drain: DrainControl,
    saw: Saw,
}

/// How much the connection takes that nobody reads.
const WIRE_BYTES: usize = 64 * 1024;

/// Serves what the client does; returns when both have ended.
async fn serve_for<F: Future<Output = Response<ResponseBody>> + 'static>(
    answer: impl Fn(Request<DownstreamBody>) -> F + 'static,
    client: impl AsyncFnOnce(Client),
) {
    let (ours, io) = tokio::io::duplex(WIRE_BYTES);
    let (control, drain) = drain::pair();
    let saw = Saw::default();
    let service = Scripted {
        saw: saw.clone(),
        answer: Box::new(move |request| Box::pin(answer(request))),
    };
    let serving = downstream::serve(Io::Memory(ours), drain, service);
    let client = client(Client {
        io,
        drain: control,
        saw,
    });
    tokio::join!(serving, client);
}

impl Client {
    async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.io.write_all(text.as_ref()).await.expect("written");
    }

    /// What comes until the peer ends.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.io.read_to_end(&mut rest).await.expect("an end");
        String::from_utf8(rest).expect("text")
    }

    /// What comes up to an end like this; nothing after it may be there yet.
    async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let came = self.io.read_buf(&mut text).await.expect("more");
            assert_ne!(came, 0, "{}", text.escape_ascii());
        }
        String::from_utf8(text).expect("text")
    }

    fn requests(&self) -> Vec<String> {
        self.saw.requests.borrow().clone()
    }

    fn refused(&self) -> Vec<Violation> {
        self.saw.refused.borrow().clone()
    }
}

fn text(text: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::text(text.to_owned()));
    response
        .headers_mut()
        .insert("date", http::HeaderValue::from_static("d"));
    response
}

/// Answers with the path, once the body has come.
async fn echo(request: Request<DownstreamBody>) -> Response<ResponseBody> {
    let path = request.uri().path().to_owned();
    match request.into_body().collect().await {
        Ok(body) => {
            let trailers = body.trailers().map_or(0, HeaderMap::len);
            let body = String::from_utf8(body.to_bytes().to_vec()).expect("text");
            text(&format!("{path}:{body}:{trailers}"))
        }
        Err(error) => {
            let mut response = text(&error.to_string());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

/// An answer whose body is sent by the test.
fn streamed() -> (mpsc::Sender<Result<Frame<Bytes>, BodyError>>, Response<ResponseBody>) {
    let (frames, body) = mpsc::channel(1);
    let mut response = text("");
    *response.body_mut() = ResponseBody::scripted(StreamBody::new(ReceiverStream::new(body)));
    (frames, response)
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn answered(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const GET: &str = "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_refused_and_what_follows_is_not_read() {
    for (head, status, violation) in [
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            Violation::LengthAndCoding,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\ncontent-length: 33\r\n\r\n",
            400,
            Violation::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            501,
            Violation::UnknownCoding,
        ),
        (
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            Violation::CodingInHttp10,
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n",
            400,
            Violation::FoldedLine,
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
            400,
            Violation::BlankBeforeColon,
        ),
        ("GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", 400, Violation::LineEnd),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nx: y\0\r\n\r\n",
            400,
            Violation::FieldValue,
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400, Violation::Host),
        ("GET / HTTP/3.0\r\nhost: a\r\n\r\n", 505, Violation::Version),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nexpect: x\r\n\r\n",
            417,
            Violation::Expectation,
        ),
    ] {
        serve_for(echo, async |mut client| {
            client.say(head).await;
            client.say(GET).await;
            let answer = client.rest().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}: {answer}");
            assert_eq!(answer.matches("proxy-status").count(), 1, "{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
            let status =
                "\r\nproxy-status: weir/citizen/portal; error=http_request_error; details=\"the request is refused: ";
            assert!(answer.contains(status), "{answer}");
            assert!(answer.contains(&violation.to_string()), "{answer}");
            assert_eq!(
                (client.requests(), client.refused()),
                (vec![], vec![violation]),
                "{head:?}"
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_arrives_though_the_peer_goes_on_sending() {
    serve_for(echo, async |mut client| {
        client.say("GET / HTTP/1.1\r\nx\r\n\r\n").await;
        let began = Instant::now();
        for _ in 0..100 {
            client.say([b'x'; 8 * 1024]).await;
        }
        assert!(client.until("at the listener)\n").await.starts_with("HTTP/1.1 400 "));
        // It ends by itself, though the peer does not.
        assert_eq!(client.rest().await, "");
        assert!(began.elapsed() <= LINGER);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_follow_each_other_and_are_answered_in_order() {
    let under_way = Rc::new(Cell::new(0));
    let answer = move |request: Request<DownstreamBody>| {
        let under_way = Rc::clone(&under_way);
        async move {
            under_way.set(under_way.get() + 1);
            assert_eq!(under_way.get(), 1, "one after the other");
            tokio::time::sleep(Duration::from_secs(1)).await;
            under_way.set(0);
            echo(request).await
        }
    };
    serve_for(answer, async |mut client| {
        let post = "POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        let chunked = "POST /3 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n";
        let last = "GET /4 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        client.say([GET, post, chunked, last, GET].concat()).await;
        let last = answered("/4::0").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        let expect = [answered("/1::0"), answered("/2:abc:0"), answered("/3:de:1"), last].concat();
        assert_eq!(client.rest().await, expect);
        assert_eq!(client.requests(), ["GET /1", "POST /2", "POST /3", "GET /4"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_byte_by_byte_is_the_same() {
    serve_for(echo, async |mut client| {
        let request = "POST /p HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for _ in 0..2 {
            for byte in request.bytes() {
                client.say([byte]).await;
                tokio::task::yield_now().await;
            }
            assert_eq!(client.until("/p:abc:0").await, answered("/p:abc:0"));
        }
        drop(client);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_is_told_to_go_on_when_its_body_is_asked_for() {
    // RFC 9110 section 10.1.1.
    let head = "POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n";
    serve_for(echo, async |mut client| {
        client.say(head).await;
        assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.say("abc").await;
        assert_eq!(client.until("/1:abc:0").await, answered("/1:abc:0"));
        // Who sends it at once does not wait.
        client.say(format!("{head}abc")).await;
        assert_eq!(client.until("/1:abc:0").await, answered("/1:abc:0"));
    })
    .await;
    // Not asked for: whether it comes, nobody knows, so that the connection ends.
    let no = async |_| text("no");
    serve_for(no, async |mut client| {
        client.say(head).await;
        let expect = answered("no").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        assert_eq!(client.rest().await, expect);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_1_0_is_spoken_to_as_it_understands() {
    let answer = async |request: Request<DownstreamBody>| match request.uri().path() {
        "/streamed" => {
            let (frames, response) = streamed();
            tokio::task::spawn(async move {
                for part in ["a", "b"] {
                    frames.send(data(part)).await.expect("taken");
                }
            });
            response
        }
        _ => echo(request).await,
    };
    let kept = answered("/1::0").replace("\r\n\r\n", "\r\nconnection: keep-alive\r\n\r\n");
    serve_for(answer, async |mut client| {
        client.say("GET /1 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        assert_eq!(client.until("/1::0").await, kept);
        client
            .say("GET /streamed HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            .await;
        assert_eq!(
            client.rest().await,
            "HTTP/1.1 200 OK\r\ndate: d\r\nconnection: close\r\n\r\nab"
        );
    })
    .await;
    serve_for(answer, async |mut client| {
        client.say("GET /1 HTTP/1.0\r\n\r\n").await;
        assert_eq!(
            client.rest().await,
            answered("/1::0").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_without_body_leave_the_connection_in_order() {
    let answer = async |request: Request<DownstreamBody>| {
        let mut response = text(request.uri().path());
        match request.uri().path() {
            "/204" => *response.status_mut() = StatusCode::NO_CONTENT,
            "/304" => *response.status_mut() = StatusCode::NOT_MODIFIED,
            _ => {}
        }
        response
    };
    serve_for(answer, async |mut client| {
        for path in ["/204", "/304"] {
            client.say(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        }
        client.say("HEAD /head HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client
            .say("GET /get HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await;
        let expect = "HTTP/1.1 204 No Content\r\ndate: d\r\n\r\n\
                      HTTP/1.1 304 Not Modified\r\ndate: d\r\ncontent-length: 4\r\n\r\n\
                      HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 5\r\n\r\n\
                      HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 4\r\nconnection: close\r\n\r\n/get";
        assert_eq!(client.rest().await, expect);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_goes_out_as_it_comes_with_its_trailers() {
    let (frames, response) = streamed();
    let response = RefCell::new(Some(response));
    let answer = move |_| std::future::ready(response.borrow_mut().take().expect("one request"));
    serve_for(answer, async |mut client| {
        client.say("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n").await;
        // The head does not wait for the body.
        let head = client.until("\r\n\r\n").await;
        assert_eq!(head, "HTTP/1.1 200 OK\r\ndate: d\r\ntransfer-encoding: chunked\r\n\r\n");
        frames.send(data("first")).await.expect("taken");
        assert_eq!(client.until("\r\n").await, "5\r\nfirst\r\n");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        frames.send(Ok(Frame::trailers(trailers))).await.expect("taken");
        assert_eq!(client.until("\r\n\r\n").await, "0\r\ngrpc-status: 0\r\n\r\n");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn trailers_are_for_those_who_ask() {
    let (frames, response) = streamed();
    let response = RefCell::new(Some(response));
    let answer = move |_| std::future::ready(response.borrow_mut().take().expect("one request"));
    serve_for(answer, async |mut client| {
        client.say(GET).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x", http::HeaderValue::from_static("y"));
        frames.send(Ok(Frame::trailers(trailers))).await.expect("taken");
        assert!(client.until("0\r\n\r\n").await.ends_with("chunked\r\n\r\n0\r\n\r\n"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let (frames, response) = streamed();
    let response = RefCell::new(Some(response));
    let answer = move |_| std::future::ready(response.borrow_mut().take().expect("one request"));
    serve_for(answer, async |mut client| {
        client.say(GET).await;
        frames.send(data("half")).await.expect("taken");
        frames.send(Err(BodyError::OutOfTime)).await.expect("taken");
        assert!(client.rest().await.ends_with("\r\n\r\n4\r\nhalf\r\n"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_ended_its_side_gets_its_answer() {
    let answer = async |request| {
        tokio::time::sleep(Duration::from_secs(3)).await;
        echo(request).await
    };
    serve_for(answer, async |mut client| {
        client.say(GET).await;
        client.io.shutdown().await.expect("its side ends");
        // An interim answer shows whether it is still there; then comes the last answer.
        let expect = answered("/1::0").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        assert_eq!(client.rest().await, format!("HTTP/1.1 100 Continue\r\n\r\n{expect}"));
        assert_eq!(client.saw.abandoned.get(), 0);
    })
    .await;
    // Both requests, if it sent two.
    serve_for(echo, async |mut client| {
        client.say([GET, GET].concat()).await;
        client.io.shutdown().await.expect("its side ends");
        assert_eq!(client.rest().await.matches("/1::0").count(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_abandons_its_request() {
    let saw = Rc::new(RefCell::new(None));
    let kept = Rc::clone(&saw);
    let never = async |_| std::future::pending().await;
    serve_for(never, async move |mut client| {
        client.say(GET).await;
        *kept.borrow_mut() = Some(client.saw.clone());
    })
    .await;
    let saw = saw.borrow_mut().take().expect("it was served");
    assert_eq!((saw.requests.borrow().len(), saw.abandoned.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_within_its_answer_is_noticed() {
    let (frames, response) = streamed();
    let response = RefCell::new(Some(response));
    let answer = move |_| std::future::ready(response.borrow_mut().take().expect("one request"));
    let began = Instant::now();
    serve_for(answer, async |mut client| {
        client.say(GET).await;
        client.until("\r\n\r\n").await;
        drop(client);
    })
    .await;
    assert!(frames.is_closed());
    assert_eq!(began.elapsed(), SILENCE_AFTER_END);
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_is_forgotten_if_it_is_little() {
    let early = async |_| text("early");
    let head = |bytes: usize| format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n");
    serve_for(early, async |mut client| {
        client.say(head(DISCARD_BYTES_MAX)).await;
        assert_eq!(client.until("early").await, answered("early"));
        client.say(vec![b'x'; DISCARD_BYTES_MAX]).await;
        client.say(GET).await;
        assert_eq!(client.until("early").await, answered("early"));
        assert_eq!(client.requests(), ["POST /", "GET /1"]);
    })
    .await;
    for bytes in [DISCARD_BYTES_MAX + 1, 1 << 20] {
        serve_for(early, async move |mut client| {
            client.say(head(bytes)).await;
            // All of it can be sent, and the answer is there.
            client.say(vec![b'x'; bytes]).await;
            client.say(GET).await;
            assert_eq!(client.rest().await, answered("early"));
            assert_eq!(client.requests(), ["POST /"]);
        })
        .await;
    }
    // One that does not come is not waited for long.
    let began = Instant::now();
    serve_for(early, async |mut client| {
        client.say(head(1)).await;
        assert_eq!(client.rest().await, answered("early"));
    })
    .await;
    assert_eq!(began.elapsed(), DISCARD_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_asked_for_is_not_read() {
    let much_later = async |request: Request<DownstreamBody>| {
        let _held = request;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        text("")
    };
    serve_for(much_later, async |mut client| {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 1 << 30);
        client.say(&head).await;
        let mut taken = 0;
        let part = [b'x'; 1024];
        while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), client.io.write(&part)).await {
            taken += written.expect("written");
        }
        assert!(taken <= WIRE_BYTES + stream::READ_BYTES_MAX, "{taken}");
        drop(client);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_holds_no_more_than_a_window() {
    let sent = Rc::new(Cell::new(0_usize));
    let count = Rc::clone(&sent);
    let (frames, response) = streamed();
    let response = RefCell::new(Some(response));
    let answer = move |_| std::future::ready(response.borrow_mut().take().expect("one request"));
    let began = Instant::now();
    serve_for(answer, async |mut client| {
        client.say(GET).await;
        let part = Bytes::from(vec![b'x'; 8 * 1024]);
        // Until the connection gives up.
        while frames.send(Ok(Frame::data(part.clone()))).await.is_ok() {
            count.set(count.get() + part.len());
        }
        drop(client);
    })
    .await;
    assert!(sent.get() <= WIRE_BYTES + 32 * 1024, "{}", sent.get());
    assert_eq!(began.elapsed(), WRITE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_a_slow_head_refused() {
    let began = Instant::now();
    serve_for(echo, async |mut client| {
        assert_eq!(client.rest().await, "");
        assert_eq!(began.elapsed(), HEAD_TIMEOUT);
    })
    .await;
    let began = Instant::now();
    serve_for(echo, async |mut client| {
        client.say(GET).await;
        client.until("/1::0").await;
        tokio::time::sleep(HEAD_TIMEOUT / 2).await;
        // Its first byte begins the time for the head, and those after it don't.
        for byte in b"GET /" {
            client.say([*byte]).await;
            tokio::time::sleep(HEAD_TIMEOUT / 6).await;
        }
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_eq!(began.elapsed(), HEAD_TIMEOUT / 2 + HEAD_TIMEOUT);
        assert_eq!(client.refused(), [Violation::HeadTime]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_may_be_slow_but_not_as_slow_as_that() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n";
    let broken = "broke off: its body came too slowly: nothing for 60 s, or in all less than a byte a second";
    for (every, gives_up_after) in [(1000, 60), (10, 67), (2, 120)] {
        let began = Instant::now();
        serve_for(echo, async |mut client| {
            client.say(head).await;
            let sending = async {
                loop {
                    tokio::time::sleep(Duration::from_secs(every)).await;
                    if client.io.write_all(b"x").await.is_err() || began.elapsed() > Duration::from_secs(130) {
                        return;
                    }
                }
            };
            tokio::select! { () = sending => {} () = tokio::time::sleep(Duration::from_secs(125)) => {} }
            let answer = client.until(broken).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert_eq!(client.refused(), [Violation::BodyTime]);
        })
        .await;
        assert!(
            began.elapsed() >= Duration::from_secs(gives_up_after),
            "{every}: {:?}",
            began.elapsed()
        );
    }
    // A byte a second is enough.
    serve_for(echo, async |mut client| {
        client.say(head.replace("1000", "200")).await;
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.say("x").await;
        }
        assert!(client.until(":0").await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_malformed_ends_the_connection() {
    for (body, violation) in [
        ("xyz\r\n", Violation::ChunkSize),
        ("1\r\nabc\r\n0\r\n\r\n", Violation::ChunkEnd),
        ("1;\n", Violation::ChunkExtension),
        ("0\r\nx : y\r\n\r\n", Violation::Trailers),
    ] {
        serve_for(echo, async |mut client| {
            client
                .say("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            client.say(body).await;
            client.say(GET).await;
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
            assert!(answer.ends_with(&violation.to_string()), "{answer}");
            assert_eq!(
                (client.requests(), client.refused()),
                (vec!["POST /".to_owned()], vec![violation])
            );
        })
        .await;
    }
    serve_for(echo, async |mut client| {
        client
            .say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf")
            .await;
        client.io.shutdown().await.expect("its side ends");
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(
            answer.ends_with("broke off: the peer ended it before its end"),
            "{answer}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_what_is_idle_and_lets_end_what_is_under_way() {
    let slow = async |request| {
        tokio::time::sleep(Duration::from_secs(5)).await;
        echo(request).await
    };
    let began = Instant::now();
    for silent in ["", GET] {
        serve_for(echo, async move |mut client| {
            client.say(silent).await;
            if !silent.is_empty() {
                client.until("/1::0").await;
            }
            client.drain.begin();
            assert_eq!(client.rest().await, "");
            client.drain.ended().await;
        })
        .await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "at once");
    serve_for(slow, async |mut client| {
        client.say([GET, GET].concat()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.drain.begin();
        let expect = answered("/1::0").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        assert_eq!(client.rest().await, expect);
        assert_eq!(client.requests(), ["GET /1"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn half_a_head_holds_up_no_drain() {
    for before in ["", GET] {
        for begin in ["G", "PRI * HT", "GET / HTTP/1.1\r\nhost:"] {
            serve_for(echo, async move |mut client| {
                client.say(before).await;
                if !before.is_empty() {
                    client.until("/1::0").await;
                }
                client.say(begin).await;
                tokio::task::yield_now().await;
                let began = Instant::now();
                client.drain.begin();
                assert_eq!(client.rest().await, "");
                assert_eq!(began.elapsed(), HEAD_IN_DRAIN, "{begin}");
            })
            .await;
        }
    }
    // One that completes in time is answered.
    serve_for(echo, async |mut client| {
        client.say(&GET[..10]).await;
        tokio::task::yield_now().await;
        client.drain.begin();
        tokio::time::sleep(HEAD_IN_DRAIN / 2).await;
        client.say(&GET[10..]).await;
        assert!(client.rest().await.ends_with("connection: close\r\n\r\n/1::0"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_answer_has_ended_reads_no_more() {
    let held = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&held);
    let answer = move |request: Request<DownstreamBody>| {
        let (path, body) = (request.uri().path().to_owned(), request.into_body());
        if path == "/first" {
            *keep.borrow_mut() = Some(body);
        }
        std::future::ready(text(&path))
    };
    serve_for(answer, async move |mut client| {
        client
            .say("POST /first HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
            .await;
        client.until("/first").await;
        client.say(GET).await;
        client.until("/1").await;
        let mut body = held.borrow_mut().take().expect("it was kept");
        assert!(matches!(body.frame().await, Some(Err(BodyError::Superseded))));
        assert!(!body.is_end_stream());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_speaks_tls_is_told_by_an_alert() {
    serve_for(echo, async |mut client| {
        client.say("\x16\x03\x01\x02").await;
        let mut answer = Vec::new();
        client.io.read_to_end(&mut answer).await.expect("an end");
        // RFC 8446 sections 5.1 and 6: an alert, fatal, handshake_failure.
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 40]);
        assert_eq!((client.requests(), client.refused()), (vec![], vec![Violation::Tls]));
    })
    .await;
}

/// An idle connection is its task, and this in it: no buffer, no service's future, nothing of HTTP/2.
#[test]
fn an_idle_connection_is_small() {
    let (ours, _theirs) = tokio::io::duplex(1);
    let (_control, drain) = drain::pair();
    let service = Scripted {
        saw: Saw::default(),
        answer: Box::new(|_| Box::pin(std::future::pending())),
    };
    let serving = downstream::serve(Io::Memory(ours), drain, service);
    let size_bytes = size_of_val(&serving) + size_of::<RefCell<Stream>>();
    assert!(size_bytes <= 1024, "{size_bytes}");
}
