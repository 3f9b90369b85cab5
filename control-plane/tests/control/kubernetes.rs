//! What makes the API one of Kubernetes: discovery, OpenAPI, tables, and what is said of each.

use http::Method;
use serde_json::{Value, json};
use weir_api::table::{Shown, columns};
use weir_api::{Access, Kind, Scope, StatusPart};

use super::client::{Client, JSON, TABLE};
use super::{SERVICES, in_memory, service};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

fn list<'a>(value: &'a Value, pointer: &str) -> &'a Vec<Value> {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.unwrap_or_else(|| panic!("no list at {pointer}: {value}"))
}

fn group_path(kind: Kind) -> String {
    match kind.group() {
        "" => "/api/v1".to_owned(),
        group => format!("/apis/{group}/v1"),
    }
}

#[tokio::test]
async fn every_kind_is_discovered_in_both_forms_alike() {
    let (control, client) = in_memory().await;
    assert_eq!(client.get("/api").await.expect(200)["versions"], json!(["v1"]));
    let groups = client.get("/apis").await.expect(200);
    let named: Vec<&str> = list(&groups, "/groups")
        .iter()
        .filter_map(|group| group["name"].as_str())
        .collect();
    assert_eq!(named, ["weir.dev", "gateway.networking.k8s.io", "discovery.k8s.io"]);
    let group = client.get("/apis/weir.dev/").await.expect(200);
    assert_eq!(group["preferredVersion"]["groupVersion"], "weir.dev/v1");
    let core = client.get_as("/api", AGGREGATED).await.expect(200);
    let others = client.get_as("/apis", AGGREGATED).await.expect(200);
    let all: Vec<&Value> = list(&core, "/items").iter().chain(list(&others, "/items")).collect();
    for &kind in Kind::ALL {
        let plain = client.get(&group_path(kind)).await.expect(200);
        let named = |name: String| {
            list(&plain, "/resources")
                .iter()
                .find(move |r| r["name"] == json!(name))
        };
        let resource = named(kind.plural().to_owned()).expect("a kind");
        assert_eq!(resource["verbs"], json!(kind.verbs()));
        assert_eq!(resource["namespaced"], json!(kind.scope() == Scope::Namespaced));
        assert_eq!(
            resource["shortNames"].as_array().map_or(0, Vec::len),
            kind.short_names().len()
        );
        assert_eq!(
            resource["categories"].as_array().map_or(0, Vec::len),
            kind.categories().len()
        );
        let status = named(format!("{}/status", kind.plural()));
        assert_eq!(
            status.map(|status| &status["verbs"]),
            (kind.status_part() == StatusPart::Kept).then_some(&json!(["get"]))
        );
        let of_group = |group: &&&Value| group["metadata"]["name"].as_str().unwrap_or_default() == kind.group();
        let group = all.iter().find(of_group).expect("a group");
        let mut of_kind = list(group, "/versions/0/resources")
            .iter()
            .filter(|r| r["resource"] == kind.plural());
        let aggregated = of_kind.next().expect("a kind");
        assert_eq!(aggregated["responseKind"]["kind"], kind.kind());
        for (one, other) in [
            ("verbs", "verbs"),
            ("shortNames", "shortNames"),
            ("categories", "categories"),
        ] {
            assert_eq!(aggregated.get(one), resource.get(other), "{kind}");
        }
        assert_eq!(
            (
                aggregated["singularResource"].as_str(),
                resource["singularName"].as_str()
            ),
            (Some(kind.singular()), Some(kind.singular()))
        );
        let subresources = aggregated["subresources"].as_array().map_or(0, Vec::len);
        assert_eq!(subresources, usize::from(status.is_some()), "{kind}");
    }
    control.shutdown().await;
}

#[tokio::test]
async fn discovery_that_has_not_changed_is_not_sent_again() {
    let (control, client) = in_memory().await;
    let first = client.get_as("/apis", AGGREGATED).await;
    assert_eq!(first.headers["vary"], "accept");
    let content_type = first.headers["content-type"].to_str().expect("text");
    assert!(content_type.contains("as=APIGroupDiscoveryList"), "{content_type}");
    let tag = first.headers["etag"].to_str().expect("a tag").to_owned();
    // The other form has another tag.
    let plain = client.get_with("/apis", "if-none-match", &tag).await;
    assert_eq!(plain.status, 200);
    let tag = plain.headers["etag"].to_str().expect("a tag").to_owned();
    let again = client.get_with("/apis", "if-none-match", &tag).await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    for (method, path) in [
        (Method::POST, "/apis"),
        (Method::DELETE, "/api/v1"),
        (Method::PUT, "/openapi/v3"),
    ] {
        let reply = client.send(method, path, Some(JSON), "{}").await;
        assert_eq!(reply.headers["allow"], "GET");
        reply.refused(405, "MethodNotAllowed");
    }
    control.shutdown().await;
}

#[tokio::test]
async fn what_discovery_says_is_what_is_done() {
    let (control, client) = in_memory().await;
    for &kind in Kind::ALL {
        let namespace = (kind.scope() == Scope::Namespaced).then_some("citizen");
        let collection = kind.path(namespace);
        let object = format!("{collection}/nothing");
        for (verb, method, path) in [
            ("list", Method::GET, &collection),
            ("create", Method::POST, &collection),
            ("deletecollection", Method::DELETE, &collection),
            ("get", Method::GET, &object),
            ("update", Method::PUT, &object),
            ("patch", Method::PATCH, &object),
            ("delete", Method::DELETE, &object),
        ] {
            let reply = client
                .send(method.clone(), &format!("{path}?pretty=false"), None, "")
                .await;
            let done = kind.verbs().contains(&verb);
            assert_eq!(reply.status != 405, done, "{verb} {kind}: {}", reply.text());
            if !done {
                let allow = reply.headers["allow"].to_str().expect("text");
                assert!(!allow.contains(method.as_str()), "{verb} {kind}: {allow}");
            }
        }
        if namespace.is_some() {
            let everywhere = kind.path(None);
            client.get(&everywhere).await.expect(200);
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                let reply = client.send(method, &everywhere, None, "").await;
                assert_eq!(reply.headers["allow"], "GET", "{kind}");
                reply.refused(405, "MethodNotAllowed");
            }
        }
        if kind.access() == Access::ReadOnly {
            let message = client.delete(&object).await.refused(405, "MethodNotAllowed");
            assert!(message.contains("are written by the control plane"), "{message}");
        }
        if kind.status_part() == StatusPart::Kept {
            let status = format!("{object}/status");
            client.get(&status).await.refused(404, "NotFound");
            for method in [Method::PUT, Method::PATCH] {
                let message = client
                    .send(method, &status, Some(JSON), "{}")
                    .await
                    .refused(405, "MethodNotAllowed");
                assert!(
                    message.ends_with("a status is written by the control plane alone"),
                    "{message}"
                );
            }
        }
    }
    let status = client.get("/api/v1/namespaces/citizen/status").await.expect(200);
    assert_eq!(status["status"], json!({"phase": "Active"}));
    control.shutdown().await;
}

#[tokio::test]
async fn each_group_has_a_document_that_is_kept_under_its_hash() {
    let (control, client) = in_memory().await;
    let index = client.get("/openapi/v3").await.expect(200);
    let paths = index["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), Kind::group_versions().len());
    for (place, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().expect("a URL");
        assert!(url.starts_with(&format!("/openapi/v3/{place}?hash=")), "{url}");
        let reply = client.get(url).await;
        assert_eq!(reply.headers["cache-control"], "public, max-age=31536000, immutable");
        let tag = reply.headers["etag"].to_str().expect("a tag").to_owned();
        let document = reply.expect(200);
        assert!(
            document["openapi"]
                .as_str()
                .is_some_and(|version| version.starts_with("3.0"))
        );
        let bare = format!("/openapi/v3/{place}");
        let reply = client.get(&bare).await;
        assert_eq!(reply.headers["cache-control"], "no-cache");
        assert_eq!(client.get_with(&bare, "if-none-match", &tag).await.status, 304);
        let old = client.get(&format!("{bare}?hash=old")).await;
        assert_eq!(
            (old.status.as_u16(), old.headers["location"].to_str().ok()),
            (307, Some(url))
        );
    }
    for &kind in Kind::ALL.iter().filter(|kind| kind.access() == Access::Writable) {
        let document = client
            .get(&format!("/openapi/v3{}", group_path(kind)))
            .await
            .expect(200);
        let namespace = (kind.scope() == Scope::Namespaced).then_some("{namespace}");
        let path = format!("{}/{{name}}", kind.path(namespace));
        let patch = &document["paths"][&path]["patch"];
        let taken: Vec<&String> = patch["requestBody"]["content"]
            .as_object()
            .expect("types")
            .keys()
            .collect();
        let formats: Vec<&str> = kind.patch_formats().iter().map(|format| format.media_type()).collect();
        assert_eq!(taken, formats, "{kind}");
        let parameters: Vec<&str> = list(patch, "/parameters")
            .iter()
            .filter_map(|p| p["name"].as_str())
            .collect();
        // By this kubectl sees that fields are checked here, and sends what it can't check itself.
        assert!(
            parameters.contains(&"fieldValidation") && parameters.contains(&"dryRun"),
            "{parameters:?}"
        );
    }
    client
        .get_as(
            "/openapi/v3",
            "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
        )
        .await
        .refused(406, "NotAcceptable");
    control.shutdown().await;
}

#[tokio::test]
async fn a_kind_of_two_versions_is_there_in_both() {
    let (control, client) = in_memory().await;
    let grants = "/apis/gateway.networking.k8s.io/v1beta1/namespaces/citizen/referencegrants";
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": {"name": "g"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "police"}],
            "to": [{"group": "", "kind": "Service"}],
        },
    });
    let created = client.post(grants, &grant).await.expect(201);
    assert_eq!(created["apiVersion"], grant["apiVersion"]);
    let list = client.get(grants).await.expect(200);
    assert_eq!(
        (&list["apiVersion"], &list["items"]),
        (&grant["apiVersion"], &json!([created]))
    );
    let written = client.get(&grants.replace("v1beta1", "v1")).await.expect(200);
    assert_eq!(written["items"][0]["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(written["items"][0]["spec"], created["spec"]);
    let kinds = client.get("/apis/gateway.networking.k8s.io/v1beta1").await.expect(200);
    assert_eq!(list_of_names(&kinds), ["referencegrants"]);
    client
        .get("/apis/gateway.networking.k8s.io/v1beta1/httproutes")
        .await
        .refused(404, "NotFound");
    control.shutdown().await;
}

fn list_of_names(kinds: &Value) -> Vec<&str> {
    list(kinds, "/resources")
        .iter()
        .filter_map(|resource| resource["name"].as_str())
        .collect()
}

#[track_caller]
fn check_table(table: &Value, kind: Kind, names: &[&str]) {
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    let shown: Vec<(&str, Option<u64>)> = list(table, "/columnDefinitions")
        .iter()
        .map(|column| (column["name"].as_str().unwrap_or_default(), column["priority"].as_u64()))
        .collect();
    let expect: Vec<(&str, Option<u64>)> = columns(kind)
        .iter()
        .map(|column| (column.name, Some(u64::from(column.shown == Shown::Wide))))
        .collect();
    assert_eq!(shown, expect);
    let rows = list(table, "/rows");
    let firsts: Vec<&str> = rows.iter().filter_map(|row| row["cells"][0].as_str()).collect();
    assert_eq!(firsts, names);
}

#[tokio::test]
async fn tables_are_there_for_gets_lists_and_watches() {
    let (control, client) = in_memory().await;
    for name in ["a", "b"] {
        client.post(SERVICES, &service(name)).await.expect(201);
    }
    let table = client.get_as(SERVICES, TABLE).await.expect(200);
    check_table(&table, Kind::Service, &["a", "b"]);
    assert_eq!(
        table["metadata"]["resourceVersion"],
        client.get(SERVICES).await.expect(200)["metadata"]["resourceVersion"]
    );
    let object = &table["rows"][0]["object"];
    assert_eq!(
        (&object["kind"], &object["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("a"))
    );
    let one = client
        .get_as(&format!("{SERVICES}/a?includeObject=Object"), TABLE)
        .await
        .expect(200);
    check_table(&one, Kind::Service, &["a"]);
    assert_eq!(
        one["rows"][0]["object"],
        client.get(&format!("{SERVICES}/a")).await.expect(200)
    );
    let bare = client
        .get_as(&format!("{SERVICES}?includeObject=None"), TABLE)
        .await
        .expect(200);
    assert_eq!(bare["rows"][0].get("object"), None);
    let mut watch = client.watch_as(&format!("{SERVICES}?watch=1"), TABLE).await;
    let first = watch.next().await.expect("an event");
    assert_eq!(first["type"], "ADDED");
    check_table(&first["object"], Kind::Service, &["a"]);
    // Only the first says the columns.
    let second = watch.next().await.expect("an event");
    assert_eq!(second["object"]["columnDefinitions"], json!([]));
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
    client.delete(&format!("{SERVICES}/a")).await.expect(200);
    let deleted = watch.next().await.expect("an event");
    assert_eq!(
        (&deleted["type"], &deleted["object"]["kind"]),
        (&json!("DELETED"), &json!("Table"))
    );
    client.get_as(SERVICES, "text/html").await.refused(406, "NotAcceptable");
    control.shutdown().await;
}

#[tokio::test]
async fn answers_are_written_for_people_where_that_is_asked() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("a")).await.expect(201);
    for path in [
        format!("{SERVICES}/a"),
        SERVICES.to_owned(),
        "/apis".to_owned(),
        "/openapi/v3".to_owned(),
    ] {
        let plain = client.get(&format!("{path}?pretty=false")).await;
        let pretty = client.get(&format!("{path}?pretty=true")).await;
        assert!(
            !plain.text().contains('\n') && pretty.text().contains("\n  "),
            "{path}: {}",
            pretty.text()
        );
        assert_eq!(plain.json(), pretty.json(), "{path}");
    }
    control.shutdown().await;
}

async fn names(client: &Client, path: &str) -> String {
    let items = client.get(path).await.expect(200);
    let names = list(&items, "/items")
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str());
    names.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn fields_select_and_collections_are_deleted_by_selection() {
    let (control, client) = in_memory().await;
    client
        .post("/api/v1/namespaces", &super::namespace("police"))
        .await
        .expect(201);
    for name in ["a", "b", "c"] {
        client.post(SERVICES, &service(name)).await.expect(201);
        client
            .post("/api/v1/namespaces/police/services", &service(name))
            .await
            .expect(201);
    }
    for (selector, expect) in [
        ("metadata.name%3Da", "a a"),
        ("metadata.name%3Da,metadata.namespace%3Dpolice", "a"),
        ("metadata.namespace!%3Dpolice,metadata.name!%3Da", "b c"),
    ] {
        assert_eq!(
            names(&client, &format!("/api/v1/services?fieldSelector={selector}")).await,
            expect,
            "{selector}"
        );
    }
    let message = client
        .get("/api/v1/services?fieldSelector=spec.type%3DClusterIP")
        .await
        .refused(400, "BadRequest");
    assert!(
        message.ends_with("metadata.name and metadata.namespace are"),
        "{message}"
    );

    let selected = format!("{SERVICES}?labelSelector=app%20in%20(a,b)");
    let before = control.store().all();
    let options = json!({"dryRun": ["All"]}).to_string();
    let would_be = client
        .send(Method::DELETE, &selected, Some(JSON), options)
        .await
        .expect(200);
    assert_eq!(list(&would_be, "/items").len(), 2);
    assert_eq!(control.store().all(), before);
    let conditions = json!({"preconditions": {"uid": "x"}}).to_string();
    client
        .send(Method::DELETE, &selected, Some(JSON), conditions)
        .await
        .refused(400, "BadRequest");
    let deleted = client.delete(&selected).await.expect(200);
    assert_eq!(deleted["kind"], "ServiceList");
    assert_eq!(list(&deleted, "/items").len(), 2);
    assert_eq!(names(&client, SERVICES).await, "c");
    client.delete(&selected).await.expect(200);
    client.delete(SERVICES).await.expect(200);
    assert_eq!(names(&client, "/api/v1/services").await, "a b c");
    control.shutdown().await;
}
