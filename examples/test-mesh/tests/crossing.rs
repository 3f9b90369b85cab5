//! A request crosses the mesh: each protocol, streamed, with its metric and its log line.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::watch;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Client, MemberSettings, Protocol, Script, TestMesh, call};

fn echo() -> Script {
    Script::http(|seen| async move {
        let mut response = Response::new(Full::new(seen.body.clone()));
        let path = seen.head.uri.path_and_query().map_or("", |path| path.as_str());
        response.headers_mut().insert("x-path", path.parse().expect("a path"));
        response
    })
}

#[tokio::test]
async fn one_service_calls_another_by_its_short_name() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", echo()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;

    let request = Request::post("http://b/one?two=3")
        .body(Full::from("ping"))
        .expect("a request");
    let answer = a.call(request).await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "ping"));
    assert_eq!(answer.header("x-path"), Some("/one?two=3"));
    assert_eq!(answer.header("proxy-status"), None, "the app itself answered");

    let seen = b.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("host"), Some("b"));
    assert!(seen[0].header("traceparent").is_some());
    assert_eq!(
        seen[0].header("weir-context"),
        None,
        "what sidecars say to each other stays between them"
    );

    let service = r#"service="b.default.svc.cluster.local""#;
    assert_eq!(
        a.metric("weir_requests_total", &[service, r#"direction="outbound""#])
            .await,
        1.0
    );
    assert_eq!(b.metric("weir_requests_total", &[r#"direction="inbound""#]).await, 1.0);

    let (_, sent) = a.stop().await;
    let (_, received) = b.stop().await;
    let [sent] = sent.as_slice() else {
        panic!("one line: {sent:?}")
    };
    let [received] = received.as_slice() else {
        panic!("one line: {received:?}")
    };
    assert_eq!(sent["http.request.method"], "POST");
    assert_eq!(sent["url.path"], "/one");
    assert_eq!(sent["http.response.status_code"], 200);
    assert_eq!(sent["trace_id"], received["trace_id"]);
}

#[tokio::test]
async fn every_protocol_reaches_every_app() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    for app in [AppProtocol::Http1, AppProtocol::Http2] {
        let name = format!("to-{app}");
        let settings = MemberSettings {
            protocol: app,
            ..MemberSettings::default()
        };
        let _b = mesh.service_with(&name, echo(), settings).await;
        for spoken in [Protocol::Http1, Protocol::Http2] {
            let url = format!("http://{name}/p");
            let request = Request::post(&url).body(Full::from("ping")).expect("a request");
            let request = match spoken {
                Protocol::Http1 => {
                    let mut request = request;
                    request
                        .headers_mut()
                        .insert("host", HeaderValue::from_str(&name).expect("a host"));
                    request
                }
                Protocol::Http2 => request,
            };
            let answer = call(a.outbound(), spoken, request).await.expect("an answer");
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (StatusCode::OK, "ping"),
                "{spoken:?} to {app}"
            );
        }
    }
}

#[tokio::test]
async fn a_grpc_answer_keeps_its_trailers() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let script = Script::streamed(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::new(Bytes::from_static(b"\0\0\0\0\x01x")).with_trailers(async { Some(Ok(trailers)) });
        let mut response = Response::new(body.boxed());
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        response
    });
    let settings = MemberSettings {
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    let b = mesh.service_with("b", script, settings).await;
    let request = Request::post("http://b/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::from("\0\0\0\0\0"))
        .expect("a request");
    let answer = call(a.outbound(), Protocol::Http2, request).await.expect("an answer");
    assert_eq!(
        answer.trailers.get("grpc-status").map(HeaderValue::as_bytes),
        Some(&b"0"[..])
    );
    assert_eq!(answer.body.as_ref(), b"\0\0\0\0\x01x");
    let (_, log) = b.stop().await;
    assert_eq!(log[0]["rpc.grpc.status_code"], 0);
}

/// Neither does an app get to see it, nor can an app or a caller say it.
#[tokio::test]
async fn what_only_sidecars_say_is_in_no_trailers() {
    fn trailers() -> HeaderMap {
        let all = ["weir-context", "weir-verdict", "weir-check", "x-sum"];
        let all = all.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        all.into_iter().collect()
    }
    let mesh = TestMesh::start().await;
    let (told, mut came) = tokio::sync::mpsc::channel(1);
    let script = Script::streamed(move |request| {
        let told = told.clone();
        async move {
            let body = request.into_body().collect().await.expect("a whole request");
            let seen = body.trailers().cloned().unwrap_or_default();
            told.send(seen).await.expect("somebody asks");
            let body = Full::new(body.to_bytes()).with_trailers(async { Some(Ok(trailers())) });
            Response::new(BodyExt::boxed(body))
        }
    });
    let settings = MemberSettings {
        protocol: AppProtocol::Http2,
        ..MemberSettings::default()
    };
    let b = mesh.service_with("b", script, settings).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let expect = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))]);
    for to in [a.outbound(), b.inbound()] {
        let stream = tokio::net::TcpStream::connect(to).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let body = Full::new(Bytes::from_static(b"pay")).with_trailers(Box::pin(async { Some(Ok(trailers())) }));
        let request = Request::post("http://b/").body(body).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let answer = answer.into_body().collect().await.expect("a whole answer");
        assert_eq!(came.recv().await, Some(expect.clone()));
        assert_eq!(answer.trailers(), Some(&expect));
        assert_eq!(answer.to_bytes(), "pay");
        connection.abort();
    }
}

/// Servers count small frames that are no end, and close the connection of a peer that sends many: a body that came
/// with its end goes on with it.
#[tokio::test]
async fn many_small_bodies_at_once_are_no_flood() {
    const CALLS: usize = 150;
    let mesh = TestMesh::start().await;
    let (came, all) = watch::channel(0);
    let came = Arc::new(came);
    let script = Script::streamed(move |request| {
        let (came, mut all) = (Arc::clone(&came), all.clone());
        async move {
            came.send_modify(|came| *came += 1);
            // Nothing is read before all have come.
            let _ = all.wait_for(|came| *came >= CALLS).await;
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            Response::new(Full::new(body).boxed())
        }
    });
    let settings = MemberSettings {
        protocol: AppProtocol::Http2,
        ..MemberSettings::default()
    };
    let _b = mesh.service_with("b", script, settings).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let outbound = a.outbound();
    let calls = (0..CALLS).map(|_| {
        tokio::spawn(async move {
            let request = Request::post("http://b/").body(Full::from("small"));
            call(outbound, Protocol::Http2, request.expect("a request")).await
        })
    });
    for calling in calls.collect::<Vec<_>>() {
        let answer = calling.await.expect("no panic").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "small"));
    }
}

/// Small messages that nobody reads fill the time of their own stream, and end nobody else's.
#[tokio::test]
async fn a_reader_that_stalls_ends_no_other_call() {
    const MESSAGES: usize = 6_000;
    let mesh = TestMesh::start().await;
    let script = Script::streamed(|request| async move {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        let count = if request.uri().path() == "/events" { MESSAGES } else { 1 };
        tokio::spawn(async move {
            for _ in 0..count {
                if sender
                    .send_data(Bytes::from_static(b"some small message.\n"))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        Response::new(body.boxed())
    });
    let settings = MemberSettings {
        protocol: AppProtocol::Http2,
        ..MemberSettings::default()
    };
    let _b = mesh.service_with("b", script, settings).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let stream = tokio::net::TcpStream::connect(a.outbound())
        .await
        .expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1024)
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let _connection = tokio::spawn(connection);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let request = Request::get("http://b/events").body(Full::<Bytes>::default());
        let answer = sender
            .send_request(request.expect("a request"))
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        stalled.push(answer);
    }
    for _ in 0..200 {
        let answer = a.get("http://b/").await;
        assert_eq!(answer.text(), "some small message.\n", "{answer:?}");
    }
    for answer in stalled {
        let body = answer.into_body().collect().await.expect("a whole answer").to_bytes();
        assert_eq!(body.len(), MESSAGES * 20);
    }
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    // Each chunk is answered before the next is sent: neither side may wait for the end of a body.
    let script = Script::streamed(|request| async move {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data()
                    && sender.send_data(data).await.is_err()
                {
                    return;
                }
            }
        });
        Response::new(body.boxed())
    });
    let settings = MemberSettings {
        protocol: AppProtocol::Http2,
        ..MemberSettings::default()
    };
    let _b = mesh.service_with("b", script, settings).await;

    let stream = tokio::net::TcpStream::connect(a.outbound())
        .await
        .expect("a connection");
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let (mut chunks, body) = Channel::<Bytes, Infallible>::new(1);
    let request = Request::post("http://b/").body(body.boxed()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer's head");
    let mut answer = answer.into_body();
    for text in ["one", "two", "three"] {
        chunks.send_data(Bytes::from(text)).await.expect("a reader");
        let frame = answer.frame().await.expect("a frame").expect("whole");
        assert_eq!(frame.into_data().expect("data"), text);
    }
    drop(chunks);
    // HTTP/2 may end a stream with an empty DATA frame.
    let rest = answer.collect().await.expect("whole").to_bytes();
    assert!(rest.is_empty(), "the end of one is the end of the other: {rest:?}");
}

#[tokio::test]
async fn what_is_no_service_is_refused_with_a_reason() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let answer = a.get("http://nobody/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let why = answer.header("proxy-status").expect("a reason");
    assert!(
        why.starts_with("weir/default/a; error=destination_not_found; details="),
        "{why}"
    );
    assert_eq!(a.metric("weir_unknown_destination_total", &[]).await, 1.0);
    // No word about the same service with a port it lacks is confused with it.
    let answer = a.get("http://a:81/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let answer = a.get("http://a/").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_service_without_its_app_says_so() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    mesh.apply_service("empty", "empty", AppProtocol::Http1).await;
    let answer = a.get("http://empty/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    let why = answer.header("proxy-status").expect("a reason");
    assert!(why.contains("error=destination_unavailable"), "{why}");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn time_runs_out_where_the_route_says() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let _b = mesh
        .service(
            "b",
            Script::http(|_| async { std::future::pending::<Response<Full<Bytes>>>().await }),
        )
        .await;
    mesh.apply(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: b}]
  rules:
  - timeouts: {request: 50ms}
    backendRefs: [{name: b, port: 80}]
",
    )
    .await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    let why = answer.header("proxy-status").expect("a reason");
    assert!(why.contains("error=http_response_timeout"), "{why}");
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", echo()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let mut client = Client::connect(a.outbound(), Protocol::Http1)
        .await
        .expect("a connection");
    let before = b.app().connections();
    for _ in 0..100 {
        let request = Request::get("/")
            .header("host", "b")
            .body(Full::default())
            .expect("a request");
        let answer = client.send(request).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK);
    }
    // One for the requests; the sidecar may have checked the port meanwhile.
    let opened = b.app().connections() - before;
    assert!(opened <= 3, "{opened} connections for 100 requests");
    assert_eq!(
        a.metric("weir_connections", &[r#"direction="outbound",side="upstream""#])
            .await,
        1.0
    );
}
