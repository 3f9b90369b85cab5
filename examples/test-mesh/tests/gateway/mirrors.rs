//! `conformance/tests`: copies of requests.

use http::{Request, StatusCode};
use http_body_util::Full;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Script, until};

use crate::world::{World, reached, route, saw, tells};

/// `conformance/tests`: copies, and what they must not do to the request.
#[tokio::test]
async fn mirrors() {
    let world = World::start().await;
    let [v1, v2] = &world.backends;
    let v3 = world.mesh.service("v3", tells("v3")).await;
    let caller = &world.caller;
    let mirror = |to: &str, share: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}{share}}}}}")
    };
    let rules = format!(
        "
  - matches: [{{path: {{value: /one}}}}]
    filters:
    - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-a, value: rule}}]}}}}
    - {}
    backendRefs: [{{name: v1, port: 80}}]
  - matches: [{{path: {{value: /two}}}}]
    filters: [{}, {}]
    backendRefs: [{{name: v1, port: 80, filters: [{}]}}]
  - matches: [{{path: {{value: /half}}}}]
    filters: [{}, {}]
    backendRefs: [{{name: v1, port: 80}}]",
        mirror("v2", ""),
        mirror("v2", ""),
        mirror("gone", ""),
        mirror("v3", ""),
        mirror("v2", ", fraction: {numerator: 1, denominator: 2}"),
        mirror("v3", ", percent: 0"),
    );
    let echo = world.prepare(&route(&rules)).await;
    let url = |path: &str| format!("http://{echo}{path}");
    let post = Request::post(url("/one?q=1"))
        .body(Full::from("a body that both get"))
        .expect("a request");
    assert_eq!(saw(&caller.call(post).await)["backend"], "v1", "HTTPRouteRequestMirror");
    until("the copy", || async { (reached(v2, "/one?q=1") == 1).then_some(()) }).await;
    let seen = v2.seen();
    let copy = seen.last().expect("it came");
    assert_eq!(copy.body, "a body that both get");
    assert_eq!(
        (copy.header("x-a"), copy.header("host")),
        (Some("rule"), Some(echo.as_str()))
    );

    caller.get(&url("/two")).await;
    until("HTTPRouteRequestMultipleMirrors", || async {
        let copies = (reached(v1, "/two"), reached(v2, "/two"), reached(&v3, "/two"));
        (copies == (1, 1, 1)).then_some(())
    })
    .await;
    let refused = caller.metric("weir_mirrored_total", &["outcome=\"refused\""]).await;
    assert_eq!(refused, 1.0, "a mirror that does not exist");

    for _ in 0..500 {
        caller.get(&url("/half")).await;
    }
    until("HTTPRouteRequestPercentageMirror", || async {
        (reached(v2, "/half") > 200).then_some(())
    })
    .await;
    until("every copy to have ended", || async {
        let answered = caller.metric("weir_mirrored_total", &["outcome=\"answered\""]).await;
        (answered == 3.0 + reached(v2, "/half") as f64).then_some(())
    })
    .await;
    assert!(reached(v2, "/half") < 300, "{}", reached(v2, "/half"));
    assert_eq!(reached(&v3, "/half"), 0);
}

#[tokio::test]
async fn a_mirror_neither_holds_up_nor_is_tried_again() {
    let world = World::start().await;
    let caller = &world.caller;
    let stuck = weir_test_mesh::ScriptedApp::start(Script::raw(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    }))
    .await;
    let failing = weir_test_mesh::ScriptedApp::start(Script::answer(503, "")).await;
    for (name, app) in [("stuck", &stuck), ("failing", &failing)] {
        let endpoint = [app.address()];
        world.mesh.plain_service(name, AppProtocol::Http1, &endpoint).await;
    }
    let mirror = |path: &str, to: &str| {
        format!(
            "  - matches: [{{path: {{value: {path}}}}}]
    filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}}}}}]
    backendRefs: [{{name: v1, port: 80}}]
    retry: {{codes: [503], attempts: 3}}"
        )
    };
    let rules = format!("{}\n{}", mirror("/stuck", "stuck"), mirror("/failing", "failing"));
    let echo = world.prepare(&route(&rules)).await;
    let mirrored = |outcome: &'static str| async move {
        let label = format!("outcome=\"{outcome}\"");
        caller.metric("weir_mirrored_total", &[label.as_str()]).await
    };

    caller.get(&format!("http://{echo}/failing")).await;
    until("the copy to have ended", || async {
        (mirrored("answered").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(failing.seen().len(), 1);

    // More than what the system holds for a peer that does not read.
    let large = vec![0_u8; 32 << 20];
    let post = Request::post(format!("http://{echo}/stuck"))
        .body(Full::from(large.clone()))
        .expect("a request");
    assert_eq!(caller.call(post).await.status, StatusCode::OK);
    let arrived = world.backends[0].seen().last().map(|seen| seen.body.len());
    assert_eq!(arrived, Some(large.len()));
    until("the copy to be given up", || async {
        (mirrored("behind").await == 1.0).then_some(())
    })
    .await;
}
