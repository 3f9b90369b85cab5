//! Namespaces come and go, with all that they hold.

use http::Method;
use serde_json::json;
use weir_control::ControlConfig;

use super::client::JSON;
use super::proxy::{Registered, hello, within};
use super::{SERVICES, in_memory, namespace, run, service};

const CITIZEN: &str = "/api/v1/namespaces/citizen";

#[tokio::test]
async fn a_namespace_goes_with_all_that_it_holds() {
    let (control, client) = in_memory().await;
    let created = client.get(CITIZEN).await.expect(200);
    assert_eq!(created["status"], json!({"phase": "Active"}));
    client.post(SERVICES, &service("a")).await.expect(201);
    client
        .post("/api/v1/namespaces", &namespace("police"))
        .await
        .expect(201);
    client
        .post("/api/v1/namespaces/police/services", &service("p"))
        .await
        .expect(201);
    let mut portal = Registered::open(&control, hello("portal-1", 1)).await;
    let from = client.get("/api/v1/namespaces").await.expect(200)["metadata"]["resourceVersion"].clone();
    let from = from.as_str().expect("a revision");
    let mut watch = client
        .watch(&format!("/api/v1/namespaces?watch=1&resourceVersion={from}"))
        .await;
    let mut services = client
        .watch(&format!("/api/v1/services?watch=1&resourceVersion={from}"))
        .await;

    let options = json!({"dryRun": ["All"]}).to_string();
    let would_be = client
        .send(Method::DELETE, CITIZEN, Some(JSON), options)
        .await
        .expect(200);
    assert_eq!(would_be["status"]["phase"], "Terminating");
    assert_eq!(client.get(CITIZEN).await.expect(200), created);

    let going = client.delete(CITIZEN).await.expect(200);
    assert_eq!(
        (&going["kind"], &going["status"]["phase"]),
        (&json!("Namespace"), &json!("Terminating"))
    );
    assert!(
        going["metadata"]["deletionTimestamp"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
    assert_eq!(watch.shown(2).await, ["MODIFIED citizen", "DELETED citizen"]);
    assert_eq!(services.shown(1).await, ["DELETED a"]);
    // The proxy is told, and told again when it comes back.
    let told = portal.reply().await.expect_err("the stream is ended");
    assert_eq!(told.code(), tonic::Code::FailedPrecondition);
    assert!(told.message().starts_with("the namespace citizen "), "{told}");
    let mut again = Registered::begin(
        &control,
        weir_xds::v1::workload_message::Message::Hello(hello("portal-1", 1)),
    )
    .await;
    let told = again.reply().await.expect_err("refused");
    assert_eq!(
        told.message(),
        "the namespace citizen does not exist; once it is created, this workload registers by itself"
    );
    let left: Vec<String> = control
        .store()
        .all()
        .0
        .iter()
        .map(|stored| stored.object.key().to_string())
        .collect();
    assert_eq!(left, ["Namespace/default", "Namespace/police", "Service/police/p"]);
    client
        .post("/api/v1/namespaces", &namespace("citizen"))
        .await
        .expect(201);
    Registered::open(&control, hello("portal-1", 1)).await;
    control.shutdown().await;
}

#[tokio::test]
async fn what_can_not_go_stays_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = "apiVersion: v1\nkind: Namespace\nmetadata: {name: filed}\n---\napiVersion: v1\nkind: Service\n\
                metadata: {name: s, namespace: mixed}\nspec: {ports: [{port: 80}]}\n---\napiVersion: v1\nkind: Namespace\n\
                metadata: {name: mixed}\n";
    std::fs::write(folder.path().join("all.yaml"), yaml).expect("written");
    let mut config = ControlConfig::in_memory();
    config.resources = Some(folder.path().to_owned());
    let (control, client) = run(config).await;
    for (name, expect) in [
        ("default", "Namespace/default always exists and can't be deleted"),
        ("filed", "Namespace/filed comes from all.yaml:1; change it there"),
    ] {
        let message = client
            .delete(&format!("/api/v1/namespaces/{name}"))
            .await
            .refused(403, "Forbidden");
        assert_eq!(message, expect);
    }
    let before = control.store().all();
    client
        .delete("/api/v1/namespaces/mixed")
        .await
        .refused(403, "Forbidden");
    client
        .delete("/api/v1/namespaces/mixed/services")
        .await
        .refused(403, "Forbidden");
    assert_eq!(control.store().all(), before);
    control.shutdown().await;
}

#[tokio::test]
async fn a_namespace_that_was_going_when_the_process_ended_goes_when_it_starts() {
    let data = tempfile::tempdir().expect("a folder");
    let config = || {
        let mut config = ControlConfig::in_memory();
        config.location = weir_control::store::Location::Directory(data.path().to_owned());
        config
    };
    let (control, client) = run(config()).await;
    client
        .post("/api/v1/namespaces", &namespace("citizen"))
        .await
        .expect(201);
    client.post(SERVICES, &service("a")).await.expect(201);
    let going = client.delete(CITIZEN).await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    control.shutdown().await;
    let (control, _) = run(config()).await;
    let store = control.store().clone();
    within("the namespace to go", async {
        let mut watch = store.watch(store.revision()).expect("now");
        while store.all().0.len() > 1 {
            watch.next().await.expect("open");
        }
    })
    .await;
    control.shutdown().await;
}
