//! Lists in pages, lists of an earlier state, and watches that begin with what is there.

use serde_json::{Value, json};
use weir_api::Object;
use weir_control::RunningControl;
use weir_control::store::{Op, Precondition};

use super::client::Client;
use super::{SERVICES, in_memory, service};

fn shown(list: &Value) -> String {
    let items = list["items"].as_array().expect("items");
    let shown = items.iter().map(|item| {
        format!(
            "{}:{}",
            item["metadata"]["name"].as_str().unwrap_or("?"),
            item["spec"]["ports"][0]["port"]
        )
    });
    shown.collect::<Vec<_>>().join(" ")
}

async fn five(client: &Client) {
    for name in ["a", "b", "c", "d", "e"] {
        client.post(SERVICES, &service(name)).await.expect(201);
    }
}

async fn move_to(client: &Client, name: &str, port: u16) {
    let patch = json!({"spec": {"ports": [{"port": port}]}});
    client.patch(&format!("{SERVICES}/{name}"), &patch).await.expect(200);
}

/// So much that nothing from before is remembered.
async fn forget(control: &RunningControl) {
    let object = |port| {
        let mut value = service("flapping");
        value["spec"]["ports"][0]["port"] = json!(port);
        Object::parse_in(value, Some("citizen")).expect("an object")
    };
    let mut ops = vec![Op::Create(object(1))];
    for port in (2..=3).cycle().take(10_001) {
        let (object, precondition) = (object(port), Precondition::Any);
        ops.push(Op::Replace { object, precondition });
    }
    control.store().write(ops).await.expect("written");
}

#[tokio::test]
async fn all_pages_are_the_list_of_when_the_first_was_asked_for() {
    let (control, client) = in_memory().await;
    five(&client).await;
    let first = client.get(&format!("{SERVICES}?limit=2")).await.expect(200);
    assert_eq!(shown(&first), "a:80 b:80");
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // Everything changes meanwhile.
    move_to(&client, "c", 81).await;
    client.delete(&format!("{SERVICES}/d")).await.expect(200);
    client.post(SERVICES, &service("cc")).await.expect(201);
    client.post(SERVICES, &service("d")).await.expect(201);
    move_to(&client, "d", 82).await;
    client.delete(&format!("{SERVICES}/e")).await.expect(200);
    let next = first["metadata"]["continue"].as_str().expect("a token");
    let second = client
        .get(&format!("{SERVICES}?limit=2&continue={next}"))
        .await
        .expect(200);
    assert_eq!(shown(&second), "c:80 d:80");
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    let next = second["metadata"]["continue"].as_str().expect("a token");
    let last = client
        .get(&format!("{SERVICES}?limit=2&continue={next}"))
        .await
        .expect(200);
    assert_eq!(shown(&last), "e:80");
    assert_eq!(
        (
            last["metadata"].get("continue"),
            last["metadata"].get("remainingItemCount")
        ),
        (None, None)
    );
    // A watch goes on from there without a gap.
    let revision = last["metadata"]["resourceVersion"].as_str().expect("a revision");
    let mut watch = client
        .watch(&format!("{SERVICES}?watch=1&resourceVersion={revision}"))
        .await;
    assert_eq!(watch.shown(3).await, ["MODIFIED c", "DELETED d", "ADDED cc"]);
    let exact = client
        .get(&format!(
            "{SERVICES}?resourceVersion={revision}&resourceVersionMatch=Exact"
        ))
        .await;
    assert_eq!(shown(&exact.expect(200)), "a:80 b:80 c:80 d:80 e:80");
    let latest = client
        .get(&format!(
            "{SERVICES}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan"
        ))
        .await;
    assert_eq!(shown(&latest.expect(200)), "a:80 b:80 c:81 cc:80 d:82");
    // Under a selector Kubernetes does not count, nor is it counted here.
    let selected = client
        .get(&format!("{SERVICES}?limit=1&labelSelector=app"))
        .await
        .expect(200);
    assert!(selected["metadata"].get("continue").is_some() && selected["metadata"].get("remainingItemCount").is_none());
    control.shutdown().await;
}

#[tokio::test]
async fn a_page_of_a_forgotten_state_says_where_to_go_on() {
    let (control, client) = in_memory().await;
    five(&client).await;
    let first = client.get(&format!("{SERVICES}?limit=2")).await.expect(200);
    let next = first["metadata"]["continue"].as_str().expect("a token");
    forget(&control).await;
    let status = client
        .get(&format!("{SERVICES}?limit=2&continue={next}"))
        .await
        .expect(410);
    assert_eq!(status["reason"], "Expired");
    let next = status["metadata"]["continue"].as_str().expect("a token");
    let second = client
        .get(&format!("{SERVICES}?limit=2&continue={next}"))
        .await
        .expect(200);
    assert_eq!(shown(&second), "c:80 d:80");
    assert_ne!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    // From here on it is one state again.
    move_to(&client, "e", 81).await;
    let next = second["metadata"]["continue"].as_str().expect("a token");
    let last = client
        .get(&format!("{SERVICES}?limit=2&continue={next}"))
        .await
        .expect(200);
    assert!(shown(&last).starts_with("e:80 flapping:"), "{last}");
    let old = first["metadata"]["resourceVersion"].as_str().expect("a revision");
    let exact = format!("{SERVICES}?resourceVersion={old}&resourceVersionMatch=Exact");
    client.get(&exact).await.refused(410, "Expired");
    control.shutdown().await;
}

#[tokio::test]
async fn a_watch_may_begin_with_what_is_there_and_say_where_that_ends() {
    let (control, client) = in_memory().await;
    five(&client).await;
    let list = client.get(SERVICES).await.expect(200);
    let all = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = client.watch(&format!("{SERVICES}?{all}")).await;
    assert_eq!(
        watch.shown(5).await,
        ["ADDED a", "ADDED b", "ADDED c", "ADDED d", "ADDED e"]
    );
    let end = watch.next().await.expect("an event");
    assert_eq!(end["type"], "BOOKMARK");
    let metadata = json!({
        "resourceVersion": list["metadata"]["resourceVersion"], "annotations": {"k8s.io/initial-events-end": "true"},
    });
    assert_eq!(
        end["object"],
        json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata})
    );
    move_to(&client, "a", 81).await;
    assert_eq!(watch.shown(1).await, ["MODIFIED a"]);
    let future = format!("{SERVICES}?{all}&resourceVersion=99999999999999");
    client.get(&future).await.refused(410, "Expired");
    let mut later = client
        .watch(&format!(
            "{SERVICES}?{}",
            all.replace("=true&resourceV", "=false&resourceV")
        ))
        .await;
    move_to(&client, "b", 81).await;
    assert_eq!(later.shown(1).await, ["MODIFIED b"]);
    control.shutdown().await;
}
