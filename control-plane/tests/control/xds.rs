//! What proxies are told, over real sockets.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use weir_control::{Control, ControlConfig};
use weir_policy::model::Locality;
use weir_xds::ResourceType::{Cluster, Endpoints, Listener, Route};
use weir_xds::envoy::{self, DeltaDiscoveryRequest};
use weir_xds::{ResourceType, node};

use super::client::Client;
use super::proxy::{Ads, Answer, within};
use super::{SERVICES, in_memory, service};

const LISTENER: &str = "portal.citizen.svc.cluster.local";
const CLUSTER: &str = "portal.citizen:80";
const ROUTE: &str = "portal.citizen:80/*";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/citizen/httproutes";

fn route(path: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "portal"}],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                "backendRefs": [{"name": "portal", "port": 80}],
            }],
        },
    })
}

/// A view that becomes what is expected: each look is a question to the one task that knows.
async fn until_view(client: &Client, path: &str, field: &str, expect: Value) -> Value {
    let look = async {
        loop {
            let view = client.get(path).await.expect(200);
            if view.pointer(field) == Some(&expect) {
                return view;
            }
            tokio::task::yield_now().await;
        }
    };
    within(&format!("{field} of {path} to be {expect}"), look).await
}

async fn answers<const N: usize>(ads: &mut Ads) -> [Answer; N] {
    let mut answers = Vec::new();
    for _ in 0..N {
        answers.push(ads.answer().await);
    }
    answers.try_into().expect("as many as were asked for")
}

fn kinds(answers: &[Answer]) -> Vec<ResourceType> {
    answers.iter().map(|answer| answer.of).collect()
}

#[tokio::test]
async fn a_subscription_is_answered_and_a_change_is_pushed_in_order() {
    let (control, client) = in_memory().await;
    let mut ads = Ads::open(&control, "citizen/portal-1").await;
    for (of, name) in [
        (Listener, LISTENER),
        (Route, ROUTE),
        (Cluster, CLUSTER),
        (Endpoints, CLUSTER),
    ] {
        ads.subscribe(of, &[name]).await;
        let answer = ads.answer().await;
        assert_eq!(
            (answer.of, answer.name.as_str(), &answer.version),
            (of, name, &None),
            "not there yet"
        );
    }
    client.post(SERVICES, &service("portal")).await.expect(201);
    let made: [Answer; 4] = answers(&mut ads).await;
    assert_eq!(kinds(&made), [Cluster, Endpoints, Listener, Route]);
    assert!(made.iter().all(|answer| answer.version.is_some()));

    client.post(ROUTES, &route("/x")).await.expect(201);
    let [changed] = answers(&mut ads).await;
    assert_eq!(
        changed.of, Route,
        "the listener, the cluster and its endpoints are as they were"
    );
    assert_ne!(changed.version, made[3].version);

    client.delete(&format!("{SERVICES}/portal")).await.expect(200);
    let gone: [Answer; 4] = answers(&mut ads).await;
    assert_eq!(kinds(&gone), [Listener, Route, Cluster, Endpoints]);
    assert!(gone.iter().all(|answer| answer.version.is_none()));
    control.shutdown().await;
}

#[tokio::test]
async fn the_views_say_where_a_change_is_in_force_and_who_rejected_it_why() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    client.post(ROUTES, &route("/x")).await.expect(201);
    let view = format!("{ROUTES}/r/proxies");
    until_view(&client, &view, "/state", json!("NoSubscribers")).await;

    let mut ads = Ads::open(&control, "citizen/portal-1").await;
    ads.subscribe(Route, &[ROUTE]).await;
    let answer = ads.answer().await;
    until_view(&client, &view, "/state", json!("Progressing")).await;
    ads.ack(&answer).await;
    let shown = until_view(&client, &view, "/state", json!("InForce")).await;
    assert_eq!(shown["kind"], "ProxyView");
    assert_eq!(
        (&shown["object"], &shown["generation"]),
        (&json!("HTTPRoute/citizen/r"), &json!(1))
    );
    assert_eq!(
        (&shown["subscribers"], &shown["inForce"]),
        (&json!(1), &json!(["citizen/portal-1"]))
    );

    client.patch(&format!("{ROUTES}/r"), &route("/y")).await.expect(200);
    let answer = ads.answer().await;
    ads.nack(&answer, "virtual_hosts[0]: no").await;
    let shown = until_view(&client, &view, "/state", json!("Rejected")).await;
    let rejection = json!([{"proxy": "citizen/portal-1", "reason": "virtual_hosts[0]: no"}]);
    assert_eq!((&shown["generation"], &shown["rejected"]), (&json!(2), &rejection));

    let list = client.get("/apis/weir.dev/v1/proxies").await.expect(200);
    let proxy = &list["items"][0];
    assert_eq!(
        (&list["kind"], &proxy["name"]),
        (&json!("ProxyList"), &json!("citizen/portal-1"))
    );
    assert_eq!(
        (&proxy["connected"], &proxy["subscribed"], &proxy["inForce"]),
        (&json!(true), &json!(1), &json!(0))
    );
    assert_eq!(
        proxy["rejected"][0]["sources"],
        json!(["Service/citizen/portal", "HTTPRoute/citizen/r"])
    );
    drop(ads);
    until_view(&client, "/apis/weir.dev/v1/proxies", "/items", json!([])).await;
    until_view(&client, &view, "/state", json!("NoSubscribers")).await;
    control.shutdown().await;
}

#[tokio::test]
async fn a_reconnect_is_sent_only_what_it_does_not_have_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = || ControlConfig {
        location: weir_control::store::Location::Directory(folder.path().to_owned()),
        ..ControlConfig::in_memory()
    };
    let (control, client) = super::run(config()).await;
    client
        .post("/api/v1/namespaces", &super::namespace("citizen"))
        .await
        .expect(201);
    client.post(SERVICES, &service("portal")).await.expect(201);
    let mut ads = Ads::open(&control, "citizen/a").await;
    ads.subscribe(Cluster, &[CLUSTER]).await;
    let version = ads.answer().await.version.expect("it is there");
    drop(ads);
    control.shutdown().await;

    let (control, client) = super::run(config()).await;
    let mut ads = Ads::open(&control, "citizen/a").await;
    ads.resume(Cluster, &[(CLUSTER, &version)]).await;
    ads.subscribe(Cluster, &["other.citizen:80"]).await;
    let answer = ads.answer().await;
    assert_eq!(answer.name, "other.citizen:80", "the other one it has already");
    let view = format!("{SERVICES}/portal/proxies");
    until_view(&client, &view, "/state", json!("InForce")).await;

    let mut ads = Ads::open(&control, "citizen/b").await;
    ads.resume(Cluster, &[(CLUSTER, "0123456789abcdef0123456789abcdef")])
        .await;
    assert_eq!(ads.answer().await.version, Some(version));
    control.shutdown().await;
}

#[tokio::test]
async fn who_does_not_say_who_it_is_or_wants_what_is_not_served_is_refused() {
    let (control, _client) = in_memory().await;
    let right = node::node(&"citizen/a".parse().expect("a workload"), &Locality::default(), "0.1.0");
    let nodes = [
        envoy::Node::default(),
        envoy::Node {
            id: "citizen".to_owned(),
            ..right.clone()
        },
        envoy::Node {
            id: "citizen/a/b\u{0}".to_owned(),
            ..right.clone()
        },
        envoy::Node {
            client_features: Vec::new(),
            ..right.clone()
        },
    ];
    for node in nodes {
        let shown = format!("{node:?}");
        let mut ads = Ads::open_as(&control, node).await;
        ads.subscribe(Cluster, &[CLUSTER]).await;
        let ended = ads.end().await.expect_err(&shown);
        assert_eq!(ended.code(), Code::InvalidArgument, "{shown}: {ended}");
    }
    let requests = [
        (
            "type.googleapis.com/envoy.config.route.v3.Nonsense",
            DeltaDiscoveryRequest::default(),
        ),
        (
            Cluster.url(),
            DeltaDiscoveryRequest {
                resource_names_subscribe: vec!["x".repeat(1_000)],
                ..DeltaDiscoveryRequest::default()
            },
        ),
    ];
    for (of, request) in requests {
        let mut ads = Ads::open_as(&control, right.clone()).await;
        ads.send(of, request).await;
        let ended = ads.end().await.expect_err(of);
        assert_eq!(ended.code(), Code::InvalidArgument, "{ended}");
    }
    let mut ads = Ads::open_as(&control, right).await;
    for name in ["", "*", "portal.citizen:080", "🦀"] {
        ads.subscribe(Cluster, &[name]).await;
        let answer = ads.answer().await;
        assert_eq!((answer.name.as_str(), answer.version), (name, None));
    }
    control.shutdown().await;
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut half = preface.to_vec();
    half.extend([0, 0, 200, 1, 4, 0, 0, 0, 1, 0x82]);
    let mut noise = preface.to_vec();
    noise.extend((0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 100_000], half, noise] {
        let mut stream = TcpStream::connect(control.xds_addr().expect("it is on"))
            .await
            .expect("the port answers");
        // The server may close before it has read everything; that is its right.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let _ = within("the connection to end", stream.read_to_end(&mut Vec::new())).await;
    }
    let mut ads = Ads::open(&control, "citizen/a").await;
    ads.subscribe(Cluster, &[CLUSTER]).await;
    assert!(ads.answer().await.version.is_some());
    control.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_ends_open_streams() {
    let control = Control::start(ControlConfig::in_memory())
        .await
        .expect("a control plane");
    let mut ads = Ads::open(&control, "citizen/a").await;
    ads.subscribe(Cluster, &[CLUSTER]).await;
    ads.answer().await;
    let (ended, ()) = tokio::join!(ads.end(), within("the shutdown", control.shutdown()));
    assert_eq!(ended.expect_err("not in the middle of it").code(), Code::Unavailable);
}

#[tokio::test]
async fn what_no_proxy_could_use_is_refused_when_it_is_written() {
    let (control, client) = in_memory().await;
    let mut bad = route("/x");
    bad["spec"]["rules"][0]["matches"][0]["path"] = json!({"type": "RegularExpression", "value": "/(("});
    let refused = client.post(ROUTES, &bad).await.expect(422);
    let field = &refused["details"]["causes"][0]["field"];
    assert!(
        field
            .as_str()
            .is_some_and(|field| field.starts_with("spec.rules[0].matches[0].path")),
        "{refused}"
    );
    control.shutdown().await;
}

#[tokio::test]
async fn views_know_what_they_are_asked_for() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    client
        .get("/apis/weir.dev/v1/proxies?watch=1")
        .await
        .refused(400, "BadRequest");
    client
        .post("/apis/weir.dev/v1/proxies", &json!({}))
        .await
        .refused(405, "MethodNotAllowed");
    client
        .get(&format!("{SERVICES}/other/proxies"))
        .await
        .refused(404, "NotFound");
    client
        .get("/api/v1/namespaces/nowhere/proxies")
        .await
        .refused(404, "NotFound");
    let view = client.get("/api/v1/namespaces/citizen/proxies").await.expect(200);
    assert_eq!(view["state"], "NoSubscribers");
    client.get("/traces?limit=0").await.refused(400, "BadRequest");
    client.get("/traces?many=1").await.refused(400, "BadRequest");
    client.get("/traces/xyz").await.refused(404, "NotFound");
    assert_eq!(client.get("/traces?limit=5").await.expect(200), json!({"items": []}));
    control.shutdown().await;
}
