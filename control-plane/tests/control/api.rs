//! What the API does with good requests, and what it says to bad ones.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use weir_api::Object;
use weir_control::ControlConfig;
use weir_control::store::{Op, Precondition};

use super::client::{Client, JSON, MERGE_PATCH, YAML};
use super::{SERVICES, in_memory, namespace, run, service};

#[tokio::test]
async fn an_object_lives_through_all_verbs() {
    let (control, client) = in_memory().await;
    let portal = format!("{SERVICES}/portal");

    let created = client.post(SERVICES, &service("portal")).await.expect(201);
    let metadata = &created["metadata"];
    assert_eq!(metadata["namespace"], "citizen");
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["uid"].as_str().expect("a uid").len(), 36);
    assert!(metadata["creationTimestamp"].as_str().expect("a time").ends_with('Z'));
    assert_eq!(client.get(&portal).await.expect(200), created);

    let list = client.get(SERVICES).await.expect(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("ServiceList"), &json!("v1"))
    );
    assert_eq!(list["items"], json!([created]));
    assert_eq!(list["metadata"]["resourceVersion"], metadata["resourceVersion"]);

    let mut changed = created.clone();
    changed["spec"]["ports"][0]["port"] = json!(81);
    let replaced = client.put(&portal, &changed).await.expect(200);
    assert_eq!(replaced["metadata"]["generation"], 2);
    assert_eq!(replaced["metadata"]["uid"], metadata["uid"]);
    // What is the same already is no change.
    assert_eq!(client.put(&portal, &replaced).await.expect(200), replaced);

    let labels = json!({"metadata": {"labels": {"app": null, "tier": "front"}}});
    let patched = client.patch(&portal, &labels).await.expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({"tier": "front"}));
    assert_eq!(
        (&patched["spec"], &patched["metadata"]["generation"]),
        (&replaced["spec"], &json!(2))
    );

    let deleted = client.delete(&portal).await.expect(200);
    assert_eq!(deleted["status"], "Success");
    assert_eq!(deleted["details"]["kind"], "services");
    client.get(&portal).await.refused(404, "NotFound");
    control.shutdown().await;
}

#[tokio::test]
async fn other_kinds_are_where_their_groups_are() {
    let (control, client) = in_memory().await;
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "portal"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "portal", "port": 80}],
            "rules": [{"backendRefs": [{"name": "portal", "port": 80}]}],
        },
    });
    let routes = "/apis/gateway.networking.k8s.io/v1/namespaces/citizen/httproutes";
    client.post(routes, &route).await.expect(201);
    let everywhere = client
        .get("/apis/gateway.networking.k8s.io/v1/httproutes")
        .await
        .expect(200);
    assert_eq!(everywhere["kind"], "HTTPRouteList");
    assert_eq!(everywhere["items"][0]["metadata"]["name"], "portal");
    let mesh = json!({
        "apiVersion": "weir.dev/v1",
        "kind": "MeshConfig",
        "metadata": {"name": "mesh"},
        "spec": {"egress": "Refuse"},
    });
    client.post("/apis/weir.dev/v1/meshconfigs", &mesh).await.expect(201);
    client.get("/apis/weir.dev/v1/meshconfigs/mesh").await.expect(200);
    control.shutdown().await;
}

#[tokio::test]
async fn yaml_is_taken_as_json_is() {
    let (control, client) = in_memory().await;
    let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: portal}\nspec:\n  ports:\n  - port: 80\n";
    let created = client.send(Method::POST, SERVICES, Some(YAML), yaml).await.expect(201);
    assert_eq!(created["spec"]["ports"][0]["port"], 80);
    let portal = format!("{SERVICES}/portal");
    let doubled = yaml.replace("port: 80", "port: 80\n    port: 81");
    let message = client
        .send(Method::PUT, &portal, Some(YAML), doubled)
        .await
        .refused(400, "BadRequest");
    assert!(message.contains("body:7:"), "{message}");
    let two = format!("{yaml}---\n{yaml}");
    client
        .send(Method::PUT, &portal, Some(YAML), two)
        .await
        .refused(400, "BadRequest");
    client
        .send(Method::PUT, &portal, Some(YAML), "")
        .await
        .refused(400, "BadRequest");
    client
        .send(Method::PUT, &portal, Some(YAML), &b"\xff"[..])
        .await
        .refused(400, "BadRequest");
    control.shutdown().await;
}

#[tokio::test]
async fn of_two_who_read_the_same_only_one_writes() {
    let (control, client) = in_memory().await;
    let portal = format!("{SERVICES}/portal");
    let created = client.post(SERVICES, &service("portal")).await.expect(201);
    let mut mine = created.clone();
    mine["spec"]["ports"][0]["port"] = json!(81);
    client.put(&portal, &mine).await.expect(200);
    let mut theirs = created.clone();
    theirs["spec"]["ports"][0]["port"] = json!(82);
    let message = client.put(&portal, &theirs).await.refused(409, "Conflict");
    assert!(message.contains("it was changed in the meantime"), "{message}");
    let stale = &created["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": stale, "labels": {"a": "b"}}});
    client.patch(&portal, &patch).await.refused(409, "Conflict");
    let conditions = json!({"preconditions": {"resourceVersion": stale}}).to_string();
    let delete = client.send(Method::DELETE, &portal, Some(JSON), conditions).await;
    delete.refused(409, "Conflict");
    let other = json!({"preconditions": {"uid": "another"}}).to_string();
    let delete = client.send(Method::DELETE, &portal, Some(JSON), other).await;
    delete.refused(409, "Conflict");
    // Who gives no resourceVersion overwrites.
    let metadata = theirs["metadata"].as_object_mut().expect("an object");
    metadata.remove("resourceVersion");
    client.put(&portal, &theirs).await.expect(200);
    client
        .post(SERVICES, &service("portal"))
        .await
        .refused(409, "AlreadyExists");
    control.shutdown().await;
}

#[tokio::test]
async fn patches_without_condition_all_come_through() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    let portal = format!("{SERVICES}/portal");
    let patches = (0..8).map(|i| {
        let portal = portal.clone();
        async move {
            let mut labels = serde_json::Map::new();
            labels.insert(format!("l{i}"), json!("x"));
            client
                .patch(&portal, &json!({"metadata": {"labels": labels}}))
                .await
                .expect(200)
        }
    });
    futures_util::future::join_all(patches).await;
    let labels = &client.get(&portal).await.expect(200)["metadata"]["labels"];
    assert_eq!(labels.as_object().expect("labels").len(), 9, "{labels}");
    control.shutdown().await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_does_nothing() {
    let (control, client) = in_memory().await;
    let before = control.store().all();
    let would_be = client
        .post(&format!("{SERVICES}?dryRun=All"), &service("portal"))
        .await
        .expect(201);
    assert_eq!(would_be["metadata"]["generation"], 1);
    assert_eq!(control.store().all(), before);
    client.post(SERVICES, &service("portal")).await.expect(201);
    let before = control.store().all();
    let portal = format!("{SERVICES}/portal?dryRun=All");
    let patch = json!({"spec": {"ports": [{"port": 99}]}});
    let would_be = client.patch(&portal, &patch).await.expect(200);
    assert_eq!(would_be["metadata"]["generation"], 2);
    let mut moved = service("portal");
    moved["spec"]["ports"][0]["port"] = json!(99);
    let would_be = client.put(&portal, &moved).await.expect(200);
    assert_eq!(would_be["metadata"]["generation"], 2);
    client.delete(&portal).await.expect(200);
    let options = json!({"dryRun": ["All"]}).to_string();
    let delete = client
        .send(Method::DELETE, &format!("{SERVICES}/portal"), Some(JSON), options)
        .await;
    delete.expect(200);
    client
        .post(&format!("{SERVICES}?dryRun=All"), &service("portal"))
        .await
        .refused(409, "AlreadyExists");
    assert_eq!(control.store().all(), before);
    control.shutdown().await;
}

#[tokio::test]
async fn labels_select() {
    let (control, client) = in_memory().await;
    for name in ["a", "b"] {
        client.post(SERVICES, &service(name)).await.expect(201);
    }
    for (selector, expect) in [
        ("app=a", "a"),
        ("app!%3Da", "b"),
        ("app", "a b"),
        ("!app", ""),
        ("app%3D%3Db", "b"),
        ("app%20in%20(a,c)", "a"),
        ("app%20notin%20(a,c)", "b"),
    ] {
        let list = client
            .get(&format!("{SERVICES}?labelSelector={selector}"))
            .await
            .expect(200);
        let items = list["items"].as_array().expect("items");
        let names: Vec<_> = items
            .iter()
            .filter_map(|item| item["metadata"]["name"].as_str())
            .collect();
        assert_eq!(names.join(" "), expect, "{selector}");
    }
    client
        .get(&format!("{SERVICES}?labelSelector=app%20in%20a"))
        .await
        .refused(400, "BadRequest");
    control.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_with_an_object_is_said_by_field() {
    let (control, client) = in_memory().await;
    let mut wrong = service("portal");
    wrong["spec"]["ports"][0]["port"] = json!(0);
    wrong["spec"]["nothing"] = json!(1);
    let status = client.post(SERVICES, &wrong).await.expect(422);
    assert_eq!(status["reason"], "Invalid");
    let causes = status["details"]["causes"].as_array().expect("causes");
    let fields: Vec<_> = causes.iter().filter_map(|cause| cause["field"].as_str()).collect();
    assert!(
        fields.contains(&"spec.ports[0].port") && fields.contains(&"spec.nothing"),
        "{status}"
    );

    let mut route = service("portal");
    route["kind"] = json!("HTTPRoute");
    let messages = [
        client.post(SERVICES, &namespace("x")).await.refused(422, "Invalid"),
        client.post(SERVICES, &route).await.refused(422, "Invalid"),
        client.post(SERVICES, &json!([])).await.refused(422, "Invalid"),
        client
            .put(&format!("{SERVICES}/x"), &service("y"))
            .await
            .refused(422, "Invalid"),
    ];
    for (message, expect) in messages.iter().zip(["kind", "apiVersion", "", "metadata.name"]) {
        assert!(message.contains(expect), "{message}");
    }
    let mut elsewhere = service("portal");
    elsewhere["metadata"]["namespace"] = json!("police");
    client.post(SERVICES, &elsewhere).await.refused(422, "Invalid");
    let mut forged = service("portal");
    forged["metadata"]["annotations"] = json!({"weir.dev/source": "x.yaml:1"});
    let message = client.post(SERVICES, &forged).await.refused(422, "Invalid");
    assert!(message.contains("weir.dev/source"), "{message}");
    control.shutdown().await;
}

/// Method, path, Content-Type, body; code and reason of the answer.
type Case<'a> = (Method, &'a str, Option<&'a str>, &'a [u8], u16, &'a str);

#[tokio::test]
async fn requests_that_make_no_sense_are_told_so() {
    let (control, client) = in_memory().await;
    let portal = format!("{SERVICES}/portal");
    client.post(SERVICES, &service("portal")).await.expect(201);
    let body = service("x").to_string();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let table: Vec<Case<'_>> = vec![
        (Method::POST, SERVICES, Some(JSON), b"", 400, "BadRequest"),
        (Method::POST, SERVICES, Some(JSON), b"{", 400, "BadRequest"),
        (Method::POST, SERVICES, Some(JSON), b"\xff\x00", 400, "BadRequest"),
        (Method::POST, SERVICES, Some(JSON), deep.as_bytes(), 400, "BadRequest"),
        (
            Method::POST,
            SERVICES,
            Some(JSON),
            br#"{"kind":"a","kind":"b"}"#,
            400,
            "BadRequest",
        ),
        (Method::POST, SERVICES, Some(JSON), b"null", 422, "Invalid"),
        (
            Method::POST,
            SERVICES,
            Some("text/plain"),
            body.as_bytes(),
            415,
            "UnsupportedMediaType",
        ),
        (
            Method::POST,
            SERVICES,
            Some(MERGE_PATCH),
            body.as_bytes(),
            415,
            "UnsupportedMediaType",
        ),
        (
            Method::PATCH,
            &portal,
            Some("application/json-patch+json"),
            b"{}",
            400,
            "BadRequest",
        ),
        (Method::PATCH, &portal, Some(JSON), b"{}", 415, "UnsupportedMediaType"),
        (Method::PATCH, &portal, Some(MERGE_PATCH), b"[]", 400, "BadRequest"),
        (
            Method::PATCH,
            &portal,
            Some(MERGE_PATCH),
            br#"{"kind":"Pod"}"#,
            422,
            "Invalid",
        ),
        (
            Method::PATCH,
            &portal,
            Some(MERGE_PATCH),
            br#"{"metadata":{"name":"x"}}"#,
            422,
            "Invalid",
        ),
        (
            Method::PATCH,
            &portal,
            Some(MERGE_PATCH),
            br#"{"metadata":{"uid":"x"}}"#,
            409,
            "Conflict",
        ),
        (
            Method::PATCH,
            "/api/v1/namespaces/citizen/services/gone",
            Some(MERGE_PATCH),
            b"{}",
            404,
            "NotFound",
        ),
        (
            Method::DELETE,
            &portal,
            Some(JSON),
            br#"{"orphanDependents":true}"#,
            400,
            "BadRequest",
        ),
        (
            Method::DELETE,
            &portal,
            Some(JSON),
            br#"{"preconditions":{"resourceVersion":"x"}}"#,
            400,
            "BadRequest",
        ),
        (
            Method::DELETE,
            &portal,
            Some(JSON),
            br#"{"preconditions":[null,null]}"#,
            400,
            "BadRequest",
        ),
        (
            Method::DELETE,
            &portal,
            Some(JSON),
            b"[null,null,null,null,null,null]",
            400,
            "BadRequest",
        ),
        (Method::GET, "/nothing", None, b"", 404, "NotFound"),
        (Method::GET, "/api/v1/pods", None, b"", 404, "NotFound"),
        (Method::GET, "/api/v1/services?x=1", None, b"", 400, "BadRequest"),
        (
            Method::GET,
            "/api/v1/namespaces/citizen/services/portal?watch=1",
            None,
            b"",
            400,
            "BadRequest",
        ),
        (
            Method::GET,
            "/api/v1/services?resourceVersion=99999999999999",
            None,
            b"",
            410,
            "Expired",
        ),
        (
            Method::GET,
            "/api/v1/services?watch=1&resourceVersion=1",
            None,
            b"",
            410,
            "Expired",
        ),
        (
            Method::POST,
            "/api/v1/services",
            Some(JSON),
            body.as_bytes(),
            405,
            "MethodNotAllowed",
        ),
        (
            Method::POST,
            &portal,
            Some(JSON),
            body.as_bytes(),
            405,
            "MethodNotAllowed",
        ),
        (
            Method::POST,
            "/api/v1/services?watch=1",
            None,
            b"",
            405,
            "MethodNotAllowed",
        ),
        (Method::DELETE, "/api/v1/services", None, b"", 405, "MethodNotAllowed"),
        (Method::DELETE, "/api/v1/namespaces", None, b"", 405, "MethodNotAllowed"),
        (
            Method::DELETE,
            "/api/v1/namespaces/default",
            None,
            b"",
            403,
            "Forbidden",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/nowhere/services",
            Some(JSON),
            body.as_bytes(),
            404,
            "NotFound",
        ),
    ];
    for (method, path, media, body, status, reason) in table {
        let reply = client
            .send(method.clone(), path, media, Bytes::copy_from_slice(body))
            .await;
        println!(
            "{method} {path} {media:?} {}: {}",
            String::from_utf8_lossy(body),
            reply.text()
        );
        reply.refused(status, reason);
    }
    let nowhere = client.post("/api/v1/namespaces/nowhere/services", &service("x")).await;
    assert_eq!(
        nowhere.refused(404, "NotFound"),
        "Service/nowhere/x: the namespace nowhere does not exist; create it first"
    );
    let reply = client.send(Method::DELETE, "/api/v1/namespaces", None, "").await;
    assert_eq!(reply.headers["allow"], "GET, POST");
    control.shutdown().await;
}

#[tokio::test]
async fn a_body_of_no_type_is_json_unless_a_page_of_another_origin_sends_it() {
    let (control, client) = in_memory().await;
    client
        .send(Method::POST, SERVICES, None, service("a").to_string())
        .await
        .expect(201);
    let foreign = Request::post(SERVICES).header("host", client.address.to_string());
    let foreign = foreign.header("origin", "http://evil.example");
    let foreign = foreign.body(Full::from(service("b").to_string())).expect("a request");
    let reply = client.request(foreign).await.expect("an answer");
    reply.refused(415, "UnsupportedMediaType");
    let patch = client.send(Method::PATCH, &format!("{SERVICES}/a"), None, "{}").await;
    patch.refused(415, "UnsupportedMediaType");
    control.shutdown().await;
}

#[tokio::test]
async fn workloads_are_not_written_over_the_api() {
    let (control, client) = in_memory().await;
    let workloads = "/apis/weir.dev/v1/namespaces/citizen/workloads";
    let workload = json!({
        "apiVersion": "weir.dev/v1",
        "kind": "Workload",
        "metadata": {"name": "portal-1"},
        "spec": {"address": "127.0.0.1", "ports": [], "instance": 1, "version": "0.1.0"},
    });
    let reply = client.post(workloads, &workload).await;
    assert!(reply.status == 405 || reply.status == 422, "{}", reply.text());
    assert_eq!(client.get(workloads).await.expect(200)["items"], json!([]));
    control.shutdown().await;
}

#[tokio::test]
async fn a_body_too_large_is_refused_announced_or_not() {
    let mut config = ControlConfig::in_memory();
    config.api_limits.body_bytes_max = 1000;
    let (control, client) = run(config).await;
    let large = format!("\"{}\"", "x".repeat(2000));
    let path = "/api/v1/namespaces";
    let announced = client.send(Method::POST, path, Some(JSON), large.clone()).await;
    announced.refused(413, "RequestEntityTooLarge");
    let chunked = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    let answer = super::hostile::raw(client.address, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    control.shutdown().await;
}

#[tokio::test]
async fn large_bodies_share_what_memory_they_may_take() {
    let mut config = ControlConfig::in_memory();
    config.api_limits.body_bytes_max = 8 * 1024;
    config.api_limits.bodies_bytes_max = 8 * 1024;
    let (control, client) = run(config).await;
    let mut slow = super::hostile::open(client.address).await;
    let head = format!("POST /api/v1/namespaces HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\n");
    let head = format!("{head}content-length: 8000\r\nexpect: 100-continue\r\n\r\n");
    super::hostile::write(&mut slow, head.as_bytes()).await;
    super::hostile::read_until(&mut slow, "100 Continue").await;
    let reply = client.post("/api/v1/namespaces", &namespace("a")).await;
    assert_eq!(reply.headers["retry-after"], "1");
    reply.refused(503, "ServiceUnavailable");
    client.get("/api/v1/namespaces").await.expect(200);
    drop(slow);
    control.shutdown().await;
}

#[tokio::test]
async fn a_watch_shows_what_is_there_and_what_comes() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("a")).await.expect(201);
    let mut all = client.watch(&format!("{SERVICES}?watch=1")).await;
    assert_eq!(all.shown(1).await, ["ADDED a"]);
    let list = client.get(SERVICES).await.expect(200);
    let from = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    let mut later = client
        .watch(&format!("{SERVICES}?watch=1&resourceVersion={from}"))
        .await;
    let mut selected = client
        .watch(&format!(
            "/api/v1/services?watch=true&labelSelector=tier%3Dfront&resourceVersion={from}"
        ))
        .await;
    client
        .post("/api/v1/namespaces", &namespace("police"))
        .await
        .expect(201);
    client
        .post("/api/v1/namespaces/police/services", &service("p"))
        .await
        .expect(201);
    client.post(SERVICES, &service("b")).await.expect(201);
    let tier = |tier: Value| json!({"metadata": {"labels": {"tier": tier}}});
    let b = format!("{SERVICES}/b");
    client.patch(&b, &tier(json!("front"))).await.expect(200);
    client
        .patch(&b, &json!({"spec": {"ports": [{"port": 81}]}}))
        .await
        .expect(200);
    client.patch(&b, &tier(Value::Null)).await.expect(200);
    client.delete(&b).await.expect(200);
    let expect = ["ADDED b", "MODIFIED b", "MODIFIED b", "MODIFIED b", "DELETED b"];
    assert_eq!(later.shown(5).await, expect);
    assert_eq!(all.shown(5).await, expect);
    // An object that comes to match is added, one that no longer does is deleted.
    assert_eq!(selected.shown(3).await, ["ADDED b", "MODIFIED b", "DELETED b"]);
    // Watches don't hold up the end.
    control.shutdown().await;
    assert_eq!(later.next().await, None);
}

#[tokio::test]
async fn the_event_of_a_deletion_tells_where_to_go_on() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("a")).await.expect(201);
    let mut watch = client.watch(&format!("{SERVICES}?watch=1")).await;
    assert_eq!(watch.shown(1).await, ["ADDED a"]);
    client.delete(&format!("{SERVICES}/a")).await.expect(200);
    client.post(SERVICES, &service("b")).await.expect(201);
    let deleted = watch.next().await.expect("an event");
    let revision = deleted["object"]["metadata"]["resourceVersion"]
        .as_str()
        .expect("a revision");
    let mut on = client
        .watch(&format!("{SERVICES}?watch=1&resourceVersion={revision}"))
        .await;
    assert_eq!(on.shown(1).await, ["ADDED b"]);
    control.shutdown().await;
}

#[tokio::test]
async fn a_watch_that_fell_behind_is_told_to_list_anew() {
    let (control, client) = in_memory().await;
    let mut watch = client.watch("/api/v1/services?watch=1").await;
    // More than is remembered, in one go: the watch can't have seen any of it before.
    let object = |port| {
        let mut value = service("a");
        value["spec"]["ports"][0]["port"] = json!(port);
        Object::parse(value).expect("an object")
    };
    let (odd, even) = (object(1), object(2));
    let mut ops = vec![Op::Create(odd.clone())];
    for _ in 0..5_000 {
        for object in [even.clone(), odd.clone()] {
            let precondition = Precondition::Any;
            ops.push(Op::Replace { object, precondition });
        }
    }
    let written = control.store().write(ops).await.expect("written");
    let event = watch.next().await.expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
    let on = format!("/api/v1/services?watch=1&resourceVersion={}", written.revision);
    let mut watch = client.watch(&on).await;
    client.post(SERVICES, &service("b")).await.expect(201);
    assert_eq!(watch.shown(1).await, ["ADDED b"]);
    control.shutdown().await;
}

#[tokio::test]
async fn bookmarks_tell_how_far_a_quiet_watch_is() {
    let mut config = ControlConfig::in_memory();
    config.api_limits.bookmark_interval = Duration::from_millis(20);
    let (control, client) = run(config).await;
    let mut watch = client.watch("/api/v1/services?watch=1&allowWatchBookmarks=true").await;
    let created = client
        .post("/api/v1/namespaces", &namespace("elsewhere"))
        .await
        .expect(201);
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "Service");
    let revision = &bookmark["object"]["metadata"]["resourceVersion"];
    assert_eq!(revision, &created["metadata"]["resourceVersion"]);
    let mut short = client.watch("/api/v1/services?watch=1&timeoutSeconds=0").await;
    assert_eq!(short.next().await, None);
    control.shutdown().await;
}

#[tokio::test]
async fn too_many_watches_are_told_to_come_later() {
    let mut config = ControlConfig::in_memory();
    config.api_limits.watches_max = 1;
    let (control, client) = run(config).await;
    let first = client.watch("/api/v1/namespaces?watch=1").await;
    let reply = client.get("/api/v1/services?watch=1").await;
    assert_eq!(reply.headers["retry-after"], "1");
    reply.refused(429, "TooManyRequests");
    drop(first);
    control.shutdown().await;
}

#[tokio::test]
async fn names_that_are_not_ours_are_refused() {
    let mut config = ControlConfig::in_memory();
    config.api_hosts = vec!["mesh.example".to_owned()];
    let (control, client) = run(config).await;
    for (host, status) in [
        ("localhost:7440", 200),
        ("mesh.example", 200),
        ("127.0.0.1", 200),
        ("evil.example", 403),
        ("", 403),
    ] {
        let request = Request::get("/healthz").header("host", host);
        let reply = client
            .request(request.body(Full::default()).expect("a request"))
            .await
            .expect("an answer");
        assert_eq!(reply.status, status, "{host}");
    }
    let twice = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    for request in [twice, "GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n"] {
        let answer = super::hostile::raw(client.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    control.shutdown().await;
}

#[tokio::test]
async fn health_and_version_are_told() {
    let (control, client) = in_memory().await;
    for path in ["/healthz", "/readyz"] {
        let reply = client.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "ok\n"), "{path}");
    }
    let verbose = client.get("/readyz?verbose").await.text();
    assert!(
        verbose.starts_with("[+] store\n") && verbose.ends_with("ready\n"),
        "{verbose}"
    );
    let version = client.get("/version").await.expect(200);
    assert_eq!(version["gitVersion"], concat!("v", env!("CARGO_PKG_VERSION")));
    client.get("/healthz?x").await.refused(400, "BadRequest");
    control.shutdown().await;
}

#[tokio::test]
async fn a_regex_that_does_not_compile_is_refused_at_the_write() {
    let (control, client) = in_memory().await;
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "portal"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "portal", "port": 80}],
            "rules": [{
                "matches": [{"path": {"type": "RegularExpression", "value": "/("}}],
                "backendRefs": [{"name": "portal", "port": 80}],
            }],
        },
    });
    let routes = "/apis/gateway.networking.k8s.io/v1/namespaces/citizen/httproutes";
    let status = client.post(routes, &route).await.expect(422);
    let field = status["details"]["causes"][0]["field"].as_str().unwrap_or_default();
    assert!(field.starts_with("spec.rules[0].matches[0].path"), "{status}");
    control.shutdown().await;
}

#[tokio::test]
async fn more_requests_than_are_worked_on_are_shed() {
    let mut config = ControlConfig::in_memory();
    config.api_limits.requests_max = 1;
    let (control, client) = run(config).await;
    let Client { address } = client;
    // It holds its place until its body has come.
    let mut slow = super::hostile::open(address).await;
    let head = format!("POST /api/v1/namespaces HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\n");
    super::hostile::write(
        &mut slow,
        format!("{head}content-length: 10\r\nexpect: 100-continue\r\n\r\n").as_bytes(),
    )
    .await;
    super::hostile::read_until(&mut slow, "100 Continue").await;
    let reply = client.get("/healthz").await;
    assert_eq!(reply.headers["retry-after"], "1");
    reply.refused(503, "ServiceUnavailable");
    drop(slow);
    control.shutdown().await;
}
