//! How workloads come, go and are lost, over real sockets; and the traces' receiver on the same port.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use serde_json::{Value, json};
use tonic::Code;
use weir_api::{Key, Kind};
use weir_control::RunningControl;
use weir_control::store::Store;
use weir_xds::ResourceType;
use weir_xds::v1::{self, workload_message::Message};

use super::proxy::{Ads, Registered, channel, hello, within};
use super::{SERVICES, in_memory, service};

const WORKLOAD: &str = "/apis/weir.dev/v1/namespaces/citizen/workloads/portal-1";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/citizen/endpointslices";

fn key() -> Key {
    Key {
        kind: Kind::Workload,
        namespace: "citizen".to_owned(),
        name: "portal-1".to_owned(),
    }
}

/// Waits for the store to hold what is wanted, by its own events.
async fn until(control: &RunningControl, what: &str, wanted: impl Fn(&Store) -> bool) {
    let store = control.store();
    let holds = async {
        // From before the first look, so that nothing between the two is missed.
        let mut watch = store.watch(store.revision()).expect("it is now");
        while !wanted(store) {
            watch.next().await.expect("the store is open");
        }
    };
    within(what, holds).await;
}

async fn until_state(control: &RunningControl, expect: &str) {
    let state = |store: &Store| {
        store
            .get(&key())
            .map(|stored| stored.object.to_value()["status"]["state"].clone())
    };
    until(control, &format!("the workload to be {expect}"), |store| {
        state(store) == Some(expect.into())
    })
    .await;
}

/// Waits for the conditions of all endpoints of all slices to be these.
async fn until_endpoints(control: &RunningControl, expect: &[Value]) {
    let conditions = |store: &Store| {
        let slices = store.list(Kind::EndpointSlice, None).0;
        let endpoints = slices.iter().map(|slice| slice.object.to_value()["endpoints"].clone());
        let endpoints = endpoints
            .filter_map(|endpoints| endpoints.as_array().cloned())
            .flatten();
        endpoints
            .map(|endpoint| endpoint["conditions"].clone())
            .collect::<Vec<_>>()
    };
    until(control, &format!("endpoints {expect:?}"), |store| {
        conditions(store) == expect
    })
    .await;
}

#[tokio::test]
async fn a_workload_registers_serves_drains_and_leaves() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    let mut ads = Ads::open(&control, "citizen/caller").await;
    ads.subscribe(ResourceType::Endpoints, &["portal.citizen:80"]).await;
    let empty = ads.answer().await.version;

    let mut registered = Registered::open(&control, hello("portal-1", 5)).await;
    let workload = client.get(WORKLOAD).await.expect(200);
    assert_eq!(
        workload["status"],
        json!({"state": "Confirmed", "readyAppPorts": []}),
        "written before the welcome"
    );
    assert_eq!(workload["metadata"]["labels"]["weir.dev/workload"], "portal-1");
    assert_eq!(workload["spec"]["ports"][0]["inboundPort"], 15006);
    until_endpoints(
        &control,
        &[json!({"ready": false, "serving": false, "terminating": false})],
    )
    .await;

    registered
        .say(Message::Health(v1::Health {
            ready_app_ports: vec![8080],
        }))
        .await;
    until_endpoints(
        &control,
        &[json!({"ready": true, "serving": true, "terminating": false})],
    )
    .await;
    let slices = client.get(SLICES).await.expect(200);
    let labels = &slices["items"][0]["metadata"]["labels"];
    assert_eq!(labels["kubernetes.io/service-name"], "portal");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "weir-control");
    let served = ads.answer().await;
    assert_ne!(served.version, empty);

    registered.say(Message::Draining(v1::Draining {})).await;
    until_endpoints(
        &control,
        &[json!({"ready": false, "serving": true, "terminating": true})],
    )
    .await;
    until_state(&control, "Draining").await;
    registered.say(Message::Deregister(v1::Deregister {})).await;
    assert!(
        registered.reply().await.expect("ended well").is_none(),
        "the stream ends when it is done"
    );
    client.get(WORKLOAD).await.refused(404, "NotFound");
    until_endpoints(&control, &[]).await;
    loop {
        let answer = ads.answer().await;
        if answer.version == empty {
            break;
        }
    }
    control.shutdown().await;
}

#[tokio::test]
async fn a_lost_stream_leaves_the_workload_unconfirmed_and_its_endpoint_ready() {
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    let registered = Registered::open(&control, hello("portal-1", 5)).await;
    registered
        .say(Message::Health(v1::Health {
            ready_app_ports: vec![8080],
        }))
        .await;
    let ready = json!({"ready": true, "serving": true, "terminating": false});
    until_endpoints(&control, std::slice::from_ref(&ready)).await;
    drop(registered);
    until_state(&control, "Unconfirmed").await;
    let slices = client.get(SLICES).await.expect(200);
    assert_eq!(slices["items"][0]["endpoints"][0]["conditions"], ready);
    let _again = Registered::open(&control, hello("portal-1", 5)).await;
    let workload = client.get(WORKLOAD).await.expect(200);
    assert_eq!(
        workload["status"],
        json!({"state": "Confirmed", "readyAppPorts": [8080]})
    );
    control.shutdown().await;
}

#[tokio::test]
async fn a_newer_instance_takes_over_and_an_older_one_is_refused() {
    let (control, _client) = in_memory().await;
    let mut first = Registered::open(&control, hello("portal-1", 5)).await;
    let _newer = Registered::open(&control, hello("portal-1", 6)).await;
    assert_eq!(first.reply().await.expect_err("it is replaced").code(), Code::Aborted);
    let mut older = Registered::begin(&control, Message::Hello(hello("portal-1", 5))).await;
    assert_eq!(
        older.reply().await.expect_err("it is older").code(),
        Code::AlreadyExists
    );
    until_state(&control, "Confirmed").await;
    control.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_workload_is_said() {
    let (control, client) = in_memory().await;
    let mut port_zero = hello("portal-1", 5);
    port_zero.ports[0].app_port = 0;
    let cases = [
        (Message::Hello(port_zero), "ports.app_port: 0 is no port"),
        (Message::Hello(hello("Portal", 5)), "workload: \"Portal\""),
        (
            Message::Health(v1::Health::default()),
            "the first message must be Hello",
        ),
    ];
    for (message, expect) in cases {
        let mut registered = Registered::begin(&control, message).await;
        let status = registered.reply().await.expect_err(expect);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(expect), "{status}");
    }
    let mut twice = Registered::open(&control, hello("portal-1", 5)).await;
    twice.say(Message::Hello(hello("portal-2", 5))).await;
    assert_eq!(
        twice.reply().await.expect_err("once is enough").code(),
        Code::InvalidArgument
    );
    until_state(&control, "Unconfirmed").await;
    client
        .get("/apis/weir.dev/v1/namespaces/citizen/workloads/portal-2")
        .await
        .refused(404, "NotFound");
    control.shutdown().await;
}

#[tokio::test]
async fn after_a_restart_workloads_are_unconfirmed_until_they_register_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = || weir_control::ControlConfig {
        location: weir_control::store::Location::Directory(folder.path().to_owned()),
        ..weir_control::ControlConfig::in_memory()
    };
    let (control, client) = super::run(config()).await;
    let citizen = super::namespace("citizen");
    client.post("/api/v1/namespaces", &citizen).await.expect(201);
    let _registered = Registered::open(&control, hello("portal-1", 5)).await;
    control.shutdown().await;
    let (control, client) = super::run(config()).await;
    until_state(&control, "Unconfirmed").await;
    let _again = Registered::open(&control, hello("portal-1", 5)).await;
    assert_eq!(client.get(WORKLOAD).await.expect(200)["status"]["state"], "Confirmed");
    control.shutdown().await;
}

#[tokio::test]
async fn spans_sent_to_the_xds_port_are_shown_as_a_trace() {
    let (control, client) = in_memory().await;
    let mut exporter = TraceServiceClient::new(channel(&control).await);
    let span = |id: u8, parent: &[u8]| Span {
        trace_id: vec![7; 16],
        span_id: vec![id; 8],
        parent_span_id: parent.to_vec(),
        name: format!("hop {id}"),
        start_time_unix_nano: u64::from(id),
        end_time_unix_nano: 2_000_000,
        ..Span::default()
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: vec![span(2, &[1; 8]), span(1, &[]), span(0, &[])],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    let answer = exporter.export(request).await.expect("it is taken").into_inner();
    assert_eq!(answer.partial_success.expect("one has no id").rejected_spans, 1);
    let list = client.get("/traces").await.expect(200);
    let trace = &list["items"][0];
    assert_eq!((&trace["root"], &trace["spans"]), (&json!("hop 1"), &json!(2)));
    let id = trace["traceId"].as_str().expect("an id");
    let shown = client.get(&format!("/traces/{id}")).await.expect(200);
    assert_eq!(shown["spans"][1]["parentId"], "0101010101010101");
    control.shutdown().await;
}
