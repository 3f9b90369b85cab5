//! A request that may have reached the app is not sent twice, case by case, with peers that count; and what a route's
//! policy adds to that.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{
    Act, Answer, Client, ClosedPort, Member, MemberSettings, Peer, Protocol, Script, ScriptedApp, TestMesh, call,
    frame, until,
};

/// The endpoints of `b` are used one after the other.
const ROUND_ROBIN: &str =
    "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {name: b, namespace: default}, spec: {
          targetRefs: [{group: '', kind: Service, name: b}], balancing: {type: RoundRobin}}}";

/// A mesh with workload `a`, whose app calls.
async fn mesh() -> (TestMesh, Member) {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    (mesh, a)
}

/// A peer without sidecar as the only endpoint of `b`: HTTP/1.1 or HTTP/2, acting by the number of the request, the
/// last act again and again.
async fn plain(mesh: &TestMesh, protocol: AppProtocol, acts: &[Act]) -> Peer {
    let acts = acts.to_vec();
    let act = move |number: usize| acts[number.min(acts.len()) - 1].clone();
    let peer = match protocol {
        AppProtocol::Http1 => Peer::http1(act).await,
        AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp => Peer::http2(act).await,
    };
    mesh.plain_service("b", protocol, &[peer.address()]).await;
    peer
}

fn request(method: Method, body: &[u8]) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri("http://b/")
        .body(Full::from(body.to_vec()))
        .expect("a request")
}

fn why(answer: &Answer) -> &str {
    answer.header("proxy-status").unwrap_or("nothing: the app answered")
}

const KINDS: [&str; 4] = ["unprocessed", "safe_resend", "policy", "budget_spent"];

/// How often `a` sent again, by kind; all others: never.
#[track_caller]
fn expect_retries(counted: [f64; 4], expect: &[(&str, f64)]) {
    for (kind, count) in KINDS.iter().zip(counted) {
        let expected = expect
            .iter()
            .find(|(of, _)| of == kind)
            .map_or(0.0, |(_, count)| *count);
        assert_eq!(count, expected, "{kind}");
    }
}

async fn retries(a: &Member) -> [f64; 4] {
    let mut counted = [0.0; 4];
    for (kind, count) in KINDS.iter().zip(&mut counted) {
        *count = a.metric("weir_retries_total", &[&format!("kind=\"{kind}\"")]).await;
    }
    counted
}

/// Applies an HTTPRoute for `b` with one rule.
async fn route(mesh: &TestMesh, rule: &str) {
    let kind = "apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute";
    let parents = "[{group: '', kind: Service, name: b}]";
    mesh.apply_in_force(&format!(
        "{{{kind}, metadata: {{name: b, namespace: default}}, spec: {{parentRefs: {parents}, rules: [{{
          {rule}, backendRefs: [{{name: b, port: 80}}]}}]}}}}"
    ))
    .await;
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_whatever_the_method() {
    let (mesh, a) = mesh().await;
    let peer = Peer::http1(|_| Act::Answer(200)).await;
    let closed = ClosedPort::any();
    let dead = closed.address();
    mesh.plain_service("b", AppProtocol::Http1, &[dead, peer.address()])
        .await;
    mesh.apply(ROUND_ROBIN).await;
    for number in 1..=6 {
        let answer = a.call(request(Method::POST, b"pay")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", why(&answer));
        assert_eq!(peer.saw().len(), number);
    }
    assert!(peer.saw().iter().all(|saw| saw.ended && saw.body == b"pay"));
    let counted = retries(&a).await;
    assert!(counted[0] >= 3.0, "half of six go to the dead one first: {counted:?}");
    expect_retries(counted, &[("unprocessed", counted[0])]);
}

/// A process that is killed leaves a kernel that accepts for it a moment longer.
#[tokio::test]
async fn a_connection_that_dies_before_its_preface_has_carried_nothing() {
    let (mesh, a) = mesh().await;
    let peer = Peer::http2(|_| Act::Answer(200)).await;
    let dying = ScriptedApp::start(Script::raw(|stream| async move { drop(stream) })).await;
    mesh.plain_service("b", AppProtocol::Http2, &[dying.address(), peer.address()])
        .await;
    mesh.apply(ROUND_ROBIN).await;
    for number in 1..=6 {
        let answer = a.call(request(Method::POST, b"pay")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", why(&answer));
        assert_eq!(peer.saw().len(), number);
    }
    let counted = retries(&a).await;
    assert!(counted[0] >= 3.0, "half of six go to the dying one first: {counted:?}");
    expect_retries(counted, &[("unprocessed", counted[0])]);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_with_its_body_three_times() {
    let (mesh, a) = mesh().await;
    let at_head = Act::Refuse {
        after_bytes: 0,
        next_window: 65_535,
    };
    let after_body = Act::Refuse {
        after_bytes: 40_000,
        next_window: 65_535,
    };
    let peer = plain(
        &mesh,
        AppProtocol::Http2,
        &[at_head.clone(), after_body.clone(), Act::Answer(200), at_head],
    )
    .await;
    let body: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
    let answer = a.call(request(Method::POST, &body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", why(&answer));
    let saw = peer.saw();
    assert_eq!(saw.len(), 3);
    assert!(saw[1].body == body && saw[2].body == body, "whole each time");

    // From now on all are refused: four times in all, and no more.
    let answer = a.call(request(Method::POST, b"pay")).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(why(&answer).contains("error=connection_terminated"), "{}", why(&answer));
    assert_eq!(peer.saw().len(), 3 + 4);
    assert_eq!(peer.connections(), 1, "the connection stays: only streams were refused");
    expect_retries(retries(&a).await, &[("unprocessed", 5.0)]);
    let outcome = |outcome| format!("outcome=\"{outcome}\"");
    let unprocessed = outcome("unprocessed");
    assert_eq!(a.metric("weir_upstream_attempts_total", &[&unprocessed]).await, 6.0);
    let (_, log) = a.stop().await;
    let attempts = |line: usize| log[line]["weir.attempts"].as_array().map_or(0, Vec::len);
    assert_eq!((log.len(), attempts(0), attempts(1)), (2, 3, 4), "{log:#?}");
    assert_eq!(log[1]["weir.flag"], "upstream_reset");
}

#[tokio::test]
async fn a_stream_above_goaways_last_is_sent_again_on_a_new_connection() {
    let (mesh, a) = mesh().await;
    let goaway = Act::GoAway { last_stream: 0 };
    let peer = plain(&mesh, AppProtocol::Http2, &[goaway, Act::Answer(200)]).await;
    let answer = a.call(request(Method::POST, b"pay")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", why(&answer));
    let saw = peer.saw();
    assert_eq!(
        (saw.len(), saw[1].connection, saw[1].body.as_slice()),
        (2, 2, &b"pay"[..])
    );
    expect_retries(retries(&a).await, &[("unprocessed", 1.0)]);
}

#[tokio::test]
async fn what_was_taken_on_a_fresh_connection_is_never_sent_again() {
    for (protocol, act) in [
        (AppProtocol::Http2, Act::GoAway { last_stream: 1 }),
        (AppProtocol::Http2, Act::Close),
        (AppProtocol::Http2, Act::Reset(2)),
        (AppProtocol::Http2, Act::Reset(8)),
        (AppProtocol::Http1, Act::Close),
        (AppProtocol::Http1, Act::Bytes(b"HTTP/1.1 20".to_vec())),
        (AppProtocol::Http1, Act::Bytes(b"what?\r\n\r\n".to_vec())),
    ] {
        for method in [Method::GET, Method::POST] {
            let (mesh, a) = mesh().await;
            let peer = plain(&mesh, protocol, std::slice::from_ref(&act)).await;
            let answer = a.call(request(method.clone(), b"")).await;
            assert_eq!(
                answer.status,
                StatusCode::BAD_GATEWAY,
                "{method} {act:?}: {}",
                why(&answer)
            );
            assert_eq!(peer.saw().len(), 1, "{method} {act:?}");
            expect_retries(retries(&a).await, &[]);
        }
    }
}

#[tokio::test]
async fn a_reused_connection_that_is_lost_is_forgiven_once_to_safe_methods() {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        for (method, again) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::OPTIONS, true),
            (Method::POST, false),
            (Method::PUT, false),
            (Method::DELETE, false),
        ] {
            let (mesh, a) = mesh().await;
            let peer = plain(&mesh, protocol, &[Act::Answer(200), Act::Close, Act::Answer(200)]).await;
            assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
            let answer = a.call(request(method.clone(), b"")).await;
            let saw = peer.saw();
            assert_eq!(saw[1].connection, saw[0].connection, "{protocol} {method}: reused");
            let (status, requests) = if again {
                (StatusCode::OK, 3)
            } else {
                (StatusCode::BAD_GATEWAY, 2)
            };
            assert_eq!(
                (answer.status, saw.len()),
                (status, requests),
                "{protocol} {method}: {}",
                why(&answer)
            );
            let expect: &[(&str, f64)] = if again { &[("safe_resend", 1.0)] } else { &[] };
            expect_retries(retries(&a).await, expect);
        }
    }
}

#[tokio::test]
async fn a_safe_method_is_sent_twice_at_most() {
    let (mesh, a) = mesh().await;
    let peer = plain(&mesh, AppProtocol::Http1, &[Act::Answer(200), Act::Close]).await;
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    assert_eq!(a.get("http://b/").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(peer.saw().len(), 3);
}

#[tokio::test]
async fn a_stream_that_the_peer_reset_on_purpose_is_not_sent_again() {
    // The connection is well: it was no race with its being closed as idle.
    let (mesh, a) = mesh().await;
    let peer = plain(&mesh, AppProtocol::Http2, &[Act::Answer(200), Act::Reset(2)]).await;
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    assert_eq!(a.get("http://b/").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(peer.saw().len(), 2);
    expect_retries(retries(&a).await, &[]);
}

#[tokio::test]
async fn part_of_an_answers_head_is_an_answer() {
    let (mesh, a) = mesh().await;
    let part = Act::Bytes(b"HTTP/1.1 200 OK\r\ncontent-".to_vec());
    let peer = plain(&mesh, AppProtocol::Http1, &[Act::Answer(200), part]).await;
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", why(&answer));
    assert_eq!(peer.saw().len(), 2);
    expect_retries(retries(&a).await, &[]);
}

#[tokio::test]
async fn the_apps_own_sidecar_keeps_the_same_rule() {
    for (method, requests, status) in [
        (Method::GET, 3, StatusCode::OK),
        (Method::POST, 2, StatusCode::BAD_GATEWAY),
    ] {
        let (mesh, a) = mesh().await;
        let peer = Peer::http1(|number| match number {
            2 => Act::Close,
            _ => Act::Answer(200),
        });
        let peer = peer.await;
        let saw = peer.watch();
        mesh.apply_service("b", "b", AppProtocol::Http1).await;
        let b = mesh.sidecar("b", "b", peer.into_app(), MemberSettings::default()).await;
        assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
        let answer = a.call(request(method.clone(), b"")).await;
        assert_eq!(answer.status, status, "{method}: {}", why(&answer));
        assert_eq!(saw().len(), requests, "{method}");
        expect_retries(retries(&a).await, &[]);
        let expect: &[(&str, f64)] = if method == Method::GET {
            &[("safe_resend", 1.0)]
        } else {
            &[]
        };
        expect_retries(retries(&b).await, expect);
    }
}

/// An app that takes connections and ends each of them, so that its sidecar can't open one of HTTP/2: what its sidecar
/// says is what it says of a closed port, and yet the endpoint stays.
fn dying() -> Script {
    Script::raw(|stream| async move { drop(stream) })
}

fn of_protocol(protocol: AppProtocol) -> MemberSettings {
    MemberSettings {
        protocol,
        ..MemberSettings::default()
    }
}

#[tokio::test]
async fn an_app_that_its_sidecar_can_not_reach_is_left_for_another_whatever_the_method() {
    let (mesh, a) = mesh().await;
    mesh.apply_service("b", "b", AppProtocol::Http2).await;
    let settings = || of_protocol(AppProtocol::Http2);
    let _dying = mesh.workload("b-1", "b", dying(), settings()).await;
    let well = mesh.workload("b-2", "b", Script::answer(200, ""), settings()).await;
    mesh.apply_in_force(ROUND_ROBIN).await;
    for number in 1..=6 {
        let answer = a.call(request(Method::POST, b"pay")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", why(&answer));
        assert_eq!(well.seen().len(), number);
    }
    assert!(well.seen().iter().all(|seen| seen.body == "pay"));
    let counted = retries(&a).await;
    assert!(counted[0] >= 3.0, "half of six go to the dying one first: {counted:?}");
    expect_retries(counted, &[("unprocessed", counted[0])]);
}

/// What a route says of connections and of answers holds for the app behind a sidecar, after what is sent again in any
/// case: three times.
#[tokio::test]
async fn an_app_that_its_sidecar_can_not_reach_is_tried_as_often_as_one_without() {
    let grpc = |retry: &str| {
        format!(
            "{{apiVersion: weir.dev/v1, kind: RoutePolicy, metadata: {{name: b, namespace: default}}, spec: {{
               targetRefs: [{{group: '', kind: Service, name: b}}],
               retry: {{attempts: 2, {retry}, backoff: {{base: 1ms}}}}}}}}"
        )
    };
    for (protocol, policy, by_policy) in [
        (AppProtocol::Http2, None, 0.0),
        (AppProtocol::Http2, Some(grpc("on: [connect-failure]")), 2.0),
        (AppProtocol::Http2, Some(grpc("on: [refused-stream]")), 0.0),
        (
            AppProtocol::Http2,
            Some(grpc("codes: [502], on: [refused-stream]")),
            0.0,
        ),
        (
            AppProtocol::Http2,
            Some(grpc("codes: [502], on: [refused-stream], methods: Any")),
            2.0,
        ),
        (AppProtocol::Grpc, Some(grpc("on: [unavailable], methods: Any")), 2.0),
        (AppProtocol::Grpc, Some(grpc("on: [internal], methods: Any")), 0.0),
    ] {
        let (mesh, a) = mesh().await;
        let _b = mesh.service_with("b", dying(), of_protocol(protocol)).await;
        if let Some(policy) = &policy {
            mesh.apply_in_force(policy).await;
        }
        let mut request = request(Method::POST, b"pay");
        if protocol == AppProtocol::Grpc {
            let grpc = "application/grpc".parse().expect("a type");
            request.headers_mut().insert("content-type", grpc);
        }
        let answer = call(a.outbound(), Protocol::Http2, request).await.expect("an answer");
        match protocol {
            AppProtocol::Grpc => assert_eq!(answer.header("grpc-status"), Some("14"), "{policy:?}"),
            AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Tcp => {
                assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{policy:?}")
            }
        }
        assert_eq!(answer.header("weir-verdict"), None);
        expect_retries(retries(&a).await, &[("unprocessed", 3.0), ("policy", by_policy)]);
    }
}

/// A stream that the app reset may have been processed: what its sidecar says then is taken by the words for that, and
/// by those for the answer that the sidecar makes of it.
#[tokio::test]
async fn what_an_app_reset_behind_its_sidecar_is_sent_again_as_the_route_says() {
    for (on, by_policy) in [("reset", 1.0), ("unavailable", 1.0), ("connect-failure", 0.0)] {
        let (mesh, a) = mesh().await;
        let peer = Peer::http2(|_| Act::Reset(2)).await;
        let saw = peer.watch();
        mesh.apply_service("b", "b", AppProtocol::Grpc).await;
        let settings = of_protocol(AppProtocol::Grpc);
        let _b = mesh.sidecar("b", "b", peer.into_app(), settings).await;
        mesh.apply_in_force(&format!(
            "{{apiVersion: weir.dev/v1, kind: RoutePolicy, metadata: {{name: b, namespace: default}}, spec: {{
               targetRefs: [{{group: '', kind: Service, name: b}}],
               retry: {{attempts: 1, on: [{on}], methods: Any, backoff: {{base: 1ms}}}}}}}}"
        ))
        .await;
        let mut request = request(Method::POST, b"pay");
        let grpc = "application/grpc".parse().expect("a type");
        request.headers_mut().insert("content-type", grpc);
        let answer = call(a.outbound(), Protocol::Http2, request).await.expect("an answer");
        assert_eq!(answer.header("grpc-status"), Some("14"), "{on}");
        expect_retries(retries(&a).await, &[("policy", by_policy)]);
        assert_eq!(saw().len() as f64, 1.0 + by_policy, "{on}");
    }
}

/// Every way in which an answer can end before its end.
fn broken_answers() -> Vec<(AppProtocol, Act)> {
    let bytes = |text: &str| Act::Bytes(text.as_bytes().to_vec());
    vec![
        (
            AppProtocol::Http1,
            bytes("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
        ),
        (
            AppProtocol::Http1,
            bytes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        ),
        (
            AppProtocol::Http1,
            bytes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf"),
        ),
        (
            AppProtocol::Http1,
            bytes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n"),
        ),
        (AppProtocol::Http2, Act::Broken),
        // A head and content, and then the connection is gone.
        (
            AppProtocol::Http2,
            Act::Bytes([frame(1, 4, 1, &[0x88]), frame(0, 0, 1, b"half")].concat()),
        ),
        // Less content than was announced: content-length is 28 in the static table of RFC 7541.
        (
            AppProtocol::Http2,
            Act::Bytes([frame(1, 4, 1, b"\x88\x0f\x0d\x0210"), frame(0, 1, 1, b"half")].concat()),
        ),
    ]
}

#[tokio::test]
async fn a_broken_answer_is_passed_on_as_broken_and_never_tried_again() {
    for (protocol, act) in broken_answers() {
        for spoken in [Protocol::Http1, Protocol::Http2] {
            let (mesh, a) = mesh().await;
            let peer = plain(&mesh, protocol, std::slice::from_ref(&act)).await;
            route(&mesh, "retry: {codes: [502, 503], attempts: 3, backoff: 1ms}").await;
            let mut request = request(Method::GET, b"");
            if spoken == Protocol::Http1 {
                request.headers_mut().insert("host", "b".parse().expect("a host"));
            }
            let answer = call(a.outbound(), spoken, request).await;
            assert!(answer.is_err(), "{spoken:?} {act:?}: looks whole: {answer:?}");
            assert_eq!(peer.saw().len(), 1, "{spoken:?} {act:?}");
            expect_retries(retries(&a).await, &[]);
            let (_, log) = a.stop().await;
            assert_eq!(log.len(), 1, "{spoken:?} {act:?}");
            assert_eq!(log[0]["weir.flag"], "upstream_reset", "{spoken:?} {act:?}");
        }
    }
}

#[tokio::test]
async fn a_broken_answer_stays_broken_through_two_sidecars() {
    for (protocol, act) in broken_answers()
        .into_iter()
        .filter(|(protocol, _)| *protocol == AppProtocol::Http1)
    {
        let (mesh, a) = mesh().await;
        let broken = act.clone();
        let peer = Peer::http1(move |_| broken.clone()).await;
        let saw = peer.watch();
        mesh.apply_service("b", "b", protocol).await;
        let b = mesh.sidecar("b", "b", peer.into_app(), MemberSettings::default()).await;
        let mut request = request(Method::GET, b"");
        request.headers_mut().insert("host", "b".parse().expect("a host"));
        let answer = call(a.outbound(), Protocol::Http1, request).await;
        assert!(answer.is_err(), "{act:?}: looks whole: {answer:?}");
        assert_eq!(saw().len(), 1, "{act:?}");
        for member in [a, b] {
            let (_, log) = member.stop().await;
            assert_eq!(
                (log.len(), &log[0]["weir.flag"]),
                (1, &"upstream_reset".into()),
                "{act:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_route_tries_its_codes_again_as_often_as_it_says() {
    let post_by_name = "matches: [{method: POST}], ";
    for (method, rule, acts, expect_status, expect_requests) in [
        // The third is well; then two retries are not enough.
        (Method::GET, "", &[503, 502, 200][..], 200, 3),
        (Method::GET, "", &[503, 503, 503, 200], 503, 3),
        // A code that is not named is final.
        (Method::GET, "", &[500, 200], 500, 1),
        (Method::PUT, "", &[503, 200], 200, 2),
        // POST only where the route says so by name.
        (Method::POST, "", &[503, 200], 503, 1),
        (Method::POST, post_by_name, &[503, 200], 200, 2),
    ] {
        let (mesh, a) = mesh().await;
        let acts: Vec<Act> = acts.iter().map(|code| Act::Answer(*code)).collect();
        let peer = plain(&mesh, AppProtocol::Http1, &acts).await;
        route(
            &mesh,
            &format!("{rule}retry: {{codes: [502, 503], attempts: 2, backoff: 1ms}}"),
        )
        .await;
        let answer = a.call(request(method.clone(), b"body")).await;
        assert_eq!(
            answer.status,
            expect_status,
            "{method} {rule} {acts:?}: {}",
            why(&answer)
        );
        assert_eq!(answer.header("proxy-status"), None, "the app's own answer");
        let saw = peer.saw();
        assert_eq!(saw.len(), expect_requests, "{method} {rule} {acts:?}");
        assert!(saw.iter().all(|saw| saw.body == b"body"), "whole each time");
        let made = (expect_requests - 1) as f64;
        expect_retries(retries(&a).await, &[("policy", made)]);
        let (_, log) = a.stop().await;
        let [line] = log.as_slice() else {
            panic!("one line for one request: {log:#?}")
        };
        let attempts = line["weir.attempts"].as_array().expect("attempts");
        assert_eq!(attempts.len(), expect_requests, "{line:#}");
        assert!(
            attempts[0].as_str().is_some_and(|first| first.contains(" answered ")),
            "{line:#}"
        );
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_given_up_and_made_again() {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let (mesh, a) = mesh().await;
        let peer = plain(&mesh, protocol, &[Act::Wait, Act::Answer(200)]).await;
        route(
            &mesh,
            "timeouts: {backendRequest: 500ms}, retry: {attempts: 1, backoff: 1ms}",
        )
        .await;
        // POST may have been done by the first attempt.
        let answer = a.call(request(Method::POST, b"pay")).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{protocol}");
        assert!(why(&answer).contains("error=http_response_timeout"), "{}", why(&answer));
        assert_eq!(peer.saw().len(), 1, "{protocol}");

        let (mesh, a) = self::mesh().await;
        let peer = plain(&mesh, protocol, &[Act::Wait, Act::Answer(200)]).await;
        route(
            &mesh,
            "timeouts: {backendRequest: 500ms}, retry: {attempts: 1, backoff: 1ms}",
        )
        .await;
        let answer = a.get("http://b/").await;
        assert_eq!(answer.status, StatusCode::OK, "{protocol}: {}", why(&answer));
        assert_eq!(peer.saw().len(), 2, "{protocol}");
        expect_retries(retries(&a).await, &[("policy", 1.0)]);
        let (_, log) = a.stop().await;
        assert!(
            log[0]["weir.attempts"][0]
                .as_str()
                .is_some_and(|first| first.contains("timed out")),
            "{:#}",
            log[0]
        );
    }
}

#[tokio::test]
async fn the_peer_of_an_attempt_given_up_is_told() {
    // The request's body is still being sent when the attempt's time runs out: the peer gets RST_STREAM and can stop.
    let (mesh, a) = mesh().await;
    let peer = plain(&mesh, AppProtocol::Http2, &[Act::Wait, Act::Answer(200)]).await;
    route(
        &mesh,
        "matches: [{method: POST}], timeouts: {backendRequest: 500ms}, retry: {attempts: 1, backoff: 1ms}",
    )
    .await;
    let (mut chunks, answer) = stream_to(&a).await;
    chunks.send_data(Bytes::from_static(b"begin")).await.expect("a reader");
    until("the second attempt", || async { peer.saw().get(1).map(|_| ()) }).await;
    until("the first stream's end", || async { peer.saw()[0].reset }).await;
    chunks
        .send_data(Bytes::from_static(b" and end"))
        .await
        .expect("a reader");
    drop(chunks);
    let answer = answer.await.expect("the request's task").expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(peer.saw()[1].body, b"begin and end");
}

/// A POST to `b` over HTTP/2 whose body is sent chunk by chunk.
async fn stream_to(
    a: &Member,
) -> (
    http_body_util::channel::Sender<Bytes, Infallible>,
    tokio::task::JoinHandle<hyper::Result<http::Response<hyper::body::Incoming>>>,
) {
    let stream = tokio::net::TcpStream::connect(a.outbound())
        .await
        .expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let (chunks, body) = Channel::<Bytes, Infallible>::new(1);
    let request = Request::post("http://b/").body(body.boxed()).expect("a request");
    let answer = tokio::spawn(async move { sender.send_request(request).await });
    (chunks, answer)
}

#[tokio::test]
async fn a_body_is_whole_though_its_second_attempt_is_answered_early() {
    let (mesh, a) = mesh().await;
    // Three parts have come when the stream is refused. The next may send one byte only, is answered at once, and may
    // then send the rest: what is kept must be kept until it is sent.
    let refuse = Act::Refuse {
        after_bytes: 30_000,
        next_window: 1,
    };
    let go_on = Arc::new(Notify::new());
    let early = Act::Early(Arc::clone(&go_on));
    let peer = plain(&mesh, AppProtocol::Http2, &[refuse, early]).await;
    let (mut chunks, answer) = stream_to(&a).await;
    let parts = [vec![b'a'; 10_000], vec![b'b'; 10_000], vec![b'c'; 10_000]];
    for (number, part) in parts.iter().enumerate() {
        chunks.send_data(Bytes::from(part.clone())).await.expect("a reader");
        until("a part at the peer", || async {
            let first = peer.saw().first()?.body.len();
            (first >= 10_000 * (number + 1)).then_some(())
        })
        .await;
    }
    let answer = answer.await.expect("the request's task").expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    go_on.notify_one();
    chunks.send_data(Bytes::from_static(b"d")).await.expect("a reader");
    drop(chunks);
    let end = answer.into_body().collect().await.expect("whole").to_bytes();
    assert_eq!(end, "end");
    let saw = peer.saw();
    assert_eq!(saw.len(), 2);
    let expect = [parts.concat(), b"d".to_vec()].concat();
    assert!(saw[1].body == expect, "{} bytes of {}", saw[1].body.len(), expect.len());
}

#[tokio::test]
async fn a_large_body_is_sent_once() {
    for (protocol, act, status) in [
        (AppProtocol::Http1, Act::Answer(503), StatusCode::SERVICE_UNAVAILABLE),
        (
            AppProtocol::Http2,
            Act::Refuse {
                after_bytes: 70_000,
                next_window: 65_535,
            },
            StatusCode::BAD_GATEWAY,
        ),
    ] {
        let (mesh, a) = mesh().await;
        let peer = match protocol {
            AppProtocol::Http1 => plain(&mesh, protocol, &[act, Act::Answer(200)]).await,
            AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp => {
                let peer = Peer::http2_with_window(1_000_000, move |number| match number {
                    1 => act.clone(),
                    _ => Act::Answer(200),
                });
                let peer = peer.await;
                mesh.plain_service("b", protocol, &[peer.address()]).await;
                peer
            }
        };
        route(
            &mesh,
            "matches: [{method: POST}], retry: {codes: [503], attempts: 3, backoff: 1ms}",
        )
        .await;
        // What is kept ends at 64 KiB: with no more than that it would be sent again.
        let answer = a.call(request(Method::POST, &vec![0; 100_000])).await;
        assert_eq!(answer.status, status, "{protocol}: {}", why(&answer));
        assert_eq!(peer.saw().len(), 1, "{protocol}");
        let answer = a.call(request(Method::POST, &vec![0; 60_000])).await;
        assert_eq!(answer.status, StatusCode::OK, "{protocol}: {}", why(&answer));
        expect_retries(retries(&a).await, &[]);
    }
}

#[tokio::test]
async fn a_budget_keeps_retries_from_becoming_a_storm() {
    let (mesh, a) = mesh().await;
    let peer = plain(&mesh, AppProtocol::Http1, &[Act::Answer(503)]).await;
    route(&mesh, "retry: {codes: [503], attempts: 3, backoff: 1ms}").await;
    mesh.apply_in_force(
        "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {name: b, namespace: default}, spec: {
          targetRefs: [{group: '', kind: Service, name: b}],
          retryBudget: {percent: 20, minPerSecond: 0, window: 10m}}}",
    )
    .await;
    let mut client = Client::connect(a.outbound(), Protocol::Http1)
        .await
        .expect("a connection");
    for _ in 0..100 {
        let mut request = request(Method::GET, b"");
        *request.uri_mut() = "/".parse().expect("a path");
        request.headers_mut().insert("host", "b".parse().expect("a host"));
        let answer = client.send(request).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    // Without it: 400.
    assert_eq!(peer.saw().len(), 120);
    let counted = retries(&a).await;
    expect_retries(counted, &[("policy", 20.0), ("budget_spent", counted[3])]);
    assert!(counted[3] >= 80.0, "{counted:?}");
}

/// No retry would be made, so that none takes too long: the caller gets the app's answer, and no time-out.
#[tokio::test]
async fn without_a_budget_no_time_is_too_short() {
    let (mesh, a) = mesh().await;
    let peer = plain(&mesh, AppProtocol::Http1, &[Act::Answer(503)]).await;
    route(
        &mesh,
        "retry: {codes: [503], attempts: 1, backoff: 60s}, timeouts: {request: 30s}",
    )
    .await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{}", why(&answer));
    mesh.apply_in_force(
        "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {name: b, namespace: default}, spec: {
          targetRefs: [{group: '', kind: Service, name: b}],
          retryBudget: {percent: 20, minPerSecond: 0, window: 10m}}}",
    )
    .await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("proxy-status"), None, "the app's own answer");
    assert_eq!(peer.saw().len(), 2);
    expect_retries(retries(&a).await, &[("budget_spent", 1.0)]);
}

#[tokio::test]
async fn a_peer_that_hangs_up_on_every_connection_is_not_called_for_ever() {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let (mesh, a) = mesh().await;
        let app = weir_test_mesh::ScriptedApp::start(Script::raw(|stream| async move { drop(stream) })).await;
        mesh.plain_service("b", protocol, &[app.address()]).await;
        let answer = a.call(request(Method::POST, b"pay")).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{protocol}: {}", why(&answer));
        assert!(
            app.connections() <= 4,
            "{protocol}: {} connections for one request",
            app.connections()
        );
    }
}
