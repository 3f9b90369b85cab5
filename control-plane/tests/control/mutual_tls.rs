//! Whom callers expect at endpoints, and what proxies are told of how their ports are entered, over real streams.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tonic::transport::Channel;
use weir_control::AuthorityConfig;
use weir_policy::model::{Locality, WorkloadPolicy};
use weir_policy::mutual_tls::{Mode, MutualTls};
use weir_xds::ResourceType::{self, Endpoints};
use weir_xds::decode::Resource;
use weir_xds::v1::workload_message::Message;
use weir_xds::{node, v1};

use super::client::Client;
use super::identity::{certificate, connect, joined, start};
use super::proxy::{Ads, Registered, channel, hello, within};
use super::{SERVICES, service};

const MESH: &str = "/apis/weir.dev/v1/meshconfigs";
const PORTAL: &str = "portal.citizen:80";

fn mesh(mutual_tls: Value) -> Value {
    json!({
        "apiVersion": "weir.dev/v1",
        "kind": "MeshConfig",
        "metadata": {"name": "mesh"},
        "spec": {"mutualTls": mutual_tls},
    })
}

/// A workload whose apps take connections.
async fn join(channel: Channel, of: &v1::Hello) -> Registered {
    let registered = Registered::over(channel, of.clone()).await;
    let ready = of.ports.iter().map(|port| port.app_port).collect();
    let health = v1::Health { ready_app_ports: ready };
    registered.say(Message::Health(health)).await;
    registered
}

/// Of the Service `portal`: at inbound port 15006, and at 15007 an edge.
fn portal(name: &str, address: &str) -> v1::Hello {
    let mut hello = v1::Hello {
        address: address.to_owned(),
        ..hello(name, 5)
    };
    let edge = v1::AppPort {
        app_port: 9090,
        inbound_port: 15007,
        protocol: v1::Protocol::Http1.into(),
        edge: true,
    };
    hello.ports.push(edge);
    hello
}

/// The identities of endpoints, by address.
async fn identities(ads: &mut Ads) -> BTreeMap<String, Option<String>> {
    match ads.read().await.1 {
        Some(Resource::Endpoints(endpoints)) => endpoints
            .endpoints
            .into_iter()
            .map(|endpoint| {
                let identity = endpoint.identity.map(|id| id.to_string());
                (endpoint.address.to_string(), identity)
            })
            .collect(),
        other => panic!("endpoints: {other:?}"),
    }
}

/// Endpoints come one by one.
async fn until_identities(ads: &mut Ads, expect: &[(&str, Option<&str>)]) {
    let expect: BTreeMap<String, Option<String>> = expect
        .iter()
        .map(|(address, id)| ((*address).to_owned(), id.map(str::to_owned)))
        .collect();
    let come = async { while identities(ads).await != expect {} };
    within(&format!("{expect:?}"), come).await;
}

async fn policy(ads: &mut Ads) -> MutualTls {
    match ads.read().await.1 {
        Some(Resource::WorkloadPolicy(WorkloadPolicy { mutual_tls, .. })) => mutual_tls,
        other => panic!("a policy: {other:?}"),
    }
}

async fn set(client: &Client, mutual_tls: Value) {
    client
        .patch(&format!("{MESH}/mesh"), &mesh(mutual_tls))
        .await
        .expect(200);
}

#[tokio::test]
async fn callers_expect_who_registered_with_a_certificate() {
    let (control, client) = start(AuthorityConfig::default()).await;
    let mut portal_service = service("portal");
    portal_service["spec"] = json!({
        "selector": {"app": "portal"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "edge", "port": 90, "targetPort": 9090}],
    });
    client.post(SERVICES, &portal_service).await.expect(201);
    let certified = joined(&control, client, "portal").await;
    let by_tls = v1::Hello {
        labels: Default::default(),
        ..portal("portal-1", "10.0.0.1")
    };
    let _by_tls = join(certified, &by_tls).await;
    let _in_cleartext = join(channel(&control).await, &portal("portal-2", "10.0.0.2")).await;

    let id = Some("spiffe://cluster.local/ns/citizen/sa/portal");
    let mut ads = Ads::open(&control, "police/caller").await;
    ads.subscribe(Endpoints, &[PORTAL]).await;
    until_identities(&mut ads, &[("10.0.0.1:15006", id), ("10.0.0.2:15006", None)]).await;
    let mut at_the_edge = Ads::open(&control, "police/other").await;
    at_the_edge.subscribe(Endpoints, &["portal.citizen:90"]).await;
    until_identities(&mut at_the_edge, &[("10.0.0.1:15007", None), ("10.0.0.2:15007", None)]).await;

    let off = json!({"overrides": [{"ports": [8080], "mode": "Off"}]});
    client.post(MESH, &mesh(off)).await.expect(201);
    until_identities(&mut ads, &[("10.0.0.1:15006", None), ("10.0.0.2:15006", None)]).await;
    set(&client, json!({"mode": "Strict", "overrides": null})).await;
    until_identities(&mut ads, &[("10.0.0.1:15006", id), ("10.0.0.2:15006", None)]).await;
    control.shutdown().await;
}

#[tokio::test]
async fn a_proxy_is_told_how_its_ports_are_entered() {
    let (control, client) = start(AuthorityConfig::default()).await;
    let node = |name: &str| node::node(&name.parse().expect("a workload"), &Locality::default(), "0.1.0");
    let of = ResourceType::WorkloadPolicy;
    let credential = certificate(client, "police", "archive").await;
    let by_tls = connect(&control, client, Some(&credential)).await;
    let mut police = Ads::over(by_tls, node("police/archive-1")).await;
    let mut citizen = Ads::open(&control, "citizen/portal-1").await;
    police.subscribe(of, &["police/archive-1"]).await;
    citizen.subscribe(of, &["citizen/portal-1"]).await;
    let permissive = MutualTls::everywhere(Mode::Permissive);
    assert_eq!(policy(&mut police).await, permissive);
    assert_eq!(policy(&mut citizen).await, permissive, "also before it has registered");

    // Of one namespace alone, and of workloads with a label, which a workload may have until it says what it has.
    let overrides = json!([
        {"namespaces": ["police"], "ports": [9090], "mode": "Off"},
        {"namespaces": ["police"], "mode": "Strict"},
        {"selector": {"matchLabels": {"tier": "core"}}, "mode": "Strict"},
    ]);
    client
        .post(MESH, &mesh(json!({"overrides": overrides})))
        .await
        .expect(201);
    let strict = MutualTls {
        mode: Mode::Strict,
        ports: BTreeMap::from([(9090.try_into().expect("a port"), Mode::Off)]),
    };
    assert_eq!(policy(&mut police).await, strict);
    assert_eq!(policy(&mut citizen).await, MutualTls::everywhere(Mode::Strict));
    let _registered = Registered::open(&control, hello("portal-1", 5)).await;
    assert_eq!(policy(&mut citizen).await, permissive, "its labels say so");
    set(&client, json!({"mode": "Off"})).await;
    assert_eq!(policy(&mut citizen).await, MutualTls::everywhere(Mode::Off));
    set(&client, json!({"mode": "Strict"})).await;
    assert_eq!(policy(&mut citizen).await, MutualTls::everywhere(Mode::Strict));
    client.delete(&format!("{MESH}/mesh")).await.expect(200);
    // Those of the other namespace had an override, and were told nothing in between.
    assert_eq!(policy(&mut police).await, permissive);
    assert_eq!(policy(&mut citizen).await, permissive);
    control.shutdown().await;
}
