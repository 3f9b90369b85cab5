//! Patches in each format.

use http::Method;
use serde_json::{Value, json};

use super::client::{Client, JSON, JSON_PATCH, MERGE_PATCH, Reply, STRATEGIC};
use super::{SERVICES, in_memory, service};

const PORTAL: &str = "/api/v1/namespaces/citizen/services/portal";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/citizen/httproutes/portal";

async fn patch(client: &Client, path: &str, media: &str, patch: &Value) -> Reply {
    client.send(Method::PATCH, path, Some(media), patch.to_string()).await
}

#[tokio::test]
async fn each_format_does_what_it_says() {
    let (control, client) = in_memory().await;
    let mut two = service("portal");
    two["spec"]["ports"] = json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "grpc", "port": 81}]);
    client.post(SERVICES, &two).await.expect(201);
    // What `kubectl apply` sends: the ports by their number.
    let ports = json!([{"port": 80}, {"port": 82}]);
    let change = json!([{"port": 82, "name": "new"}, {"port": 80, "name": "web"}, {"port": 81, "$patch": "delete"}]);
    let strategic = json!({"spec": {"$setElementOrder/ports": ports, "ports": change}});
    let patched = patch(&client, PORTAL, STRATEGIC, &strategic).await.expect(200);
    assert_eq!(
        patched["spec"]["ports"],
        json!([
            {"name": "web", "port": 80, "protocol": "TCP", "targetPort": 8080}, {"name": "new", "port": 82, "protocol": "TCP"},
        ])
    );
    let operations = json!([
        {"op": "test", "path": "/spec/ports/0/name", "value": "web"},
        {"op": "remove", "path": "/spec/ports/1"},
        {"op": "add", "path": "/metadata/labels/a~1b", "value": "c"},
    ]);
    let patched = patch(&client, PORTAL, JSON_PATCH, &operations).await.expect(200);
    assert_eq!(patched["spec"]["ports"].as_array().map(Vec::len), Some(1));
    assert_eq!(patched["metadata"]["labels"]["a/b"], "c");
    // The test no longer holds.
    let twice = json!([{"op": "test", "path": "/spec/ports/0/name", "value": "http"}]);
    let message = patch(&client, PORTAL, JSON_PATCH, &twice).await.refused(422, "Invalid");
    assert!(
        message.starts_with("Service/citizen/portal: the patch can't be applied: operation 0"),
        "{message}"
    );
    let merge = json!({"spec": {"ports": [{"port": 90}]}});
    let patched = patch(&client, PORTAL, MERGE_PATCH, &merge).await.expect(200);
    assert_eq!(patched["spec"]["ports"], json!([{"port": 90, "protocol": "TCP"}]));
    // What comes of a patch is checked as what is sent whole.
    let wrong = json!([{"op": "add", "path": "/spec/nothing", "value": 1}]);
    let message = patch(&client, PORTAL, JSON_PATCH, &wrong).await.refused(422, "Invalid");
    assert!(message.contains("spec.nothing"), "{message}");
    control.shutdown().await;
}

#[tokio::test]
async fn a_kind_takes_its_formats_and_names_them() {
    let (control, client) = in_memory().await;
    for (path, media, expect) in [
        (
            PORTAL,
            JSON,
            "application/json is not taken here; taken: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
        ),
        (
            ROUTE,
            STRATEGIC,
            "application/strategic-merge-patch+json is not taken here; taken: application/json-patch+json, application/merge-patch+json",
        ),
        (
            ROUTE,
            "application/apply-patch+yaml",
            "server-side apply is not taken here; taken: application/json-patch+json, application/merge-patch+json; kubectl apply sends one of these without --server-side",
        ),
    ] {
        let path = format!("{path}?force=false");
        let message = patch(&client, &path, media, &json!({}))
            .await
            .refused(415, "UnsupportedMediaType");
        assert_eq!(message, expect);
    }
    for (media, body) in [
        (MERGE_PATCH, "[]"),
        (STRATEGIC, "1"),
        (JSON_PATCH, "{}"),
        (JSON_PATCH, "[{\"op\":\"add\"}]"),
    ] {
        client
            .send(Method::PATCH, PORTAL, Some(media), body)
            .await
            .refused(400, "BadRequest");
    }
    control.shutdown().await;
}

#[tokio::test]
async fn conditions_hold_in_every_format() {
    let (control, client) = in_memory().await;
    let created = client.post(SERVICES, &service("portal")).await.expect(201);
    let stale = created["metadata"]["resourceVersion"].clone();
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let current = patch(&client, PORTAL, MERGE_PATCH, &label).await.expect(200);
    let conditional = |revision: &Value, format: &str| match format {
        JSON_PATCH => json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": revision},
            {"op": "add", "path": "/metadata/labels/z", "value": "1"},
        ]),
        _ => json!({"metadata": {"resourceVersion": revision, "labels": {"z": "1"}}}),
    };
    let mut current = current["metadata"]["resourceVersion"].clone();
    for format in [MERGE_PATCH, JSON_PATCH, STRATEGIC] {
        let message = patch(&client, PORTAL, format, &conditional(&stale, format))
            .await
            .refused(409, "Conflict");
        assert!(message.contains("it was changed in the meantime"), "{message}");
        let done = patch(&client, PORTAL, format, &conditional(&current, format))
            .await
            .expect(200);
        current = done["metadata"]["resourceVersion"].clone();
        let dry = patch(
            &client,
            &format!("{PORTAL}?dryRun=All"),
            format,
            &conditional(&stale, format),
        )
        .await;
        dry.refused(409, "Conflict");
    }
    control.shutdown().await;
}
