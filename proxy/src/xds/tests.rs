//! The state machine, rule by rule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weir_policy::backend_tls::{Authorities, BackendTls, Validation};
use weir_policy::egress::Egress;
use weir_policy::mutual_tls::Mode;
use weir_policy::roots::RootsName;
use weir_policy::telemetry::AccessLog;
use weir_xds::ResourceType::{Cluster, Endpoints, Listener, Route, TrustRoots, WorkloadPolicy};
use weir_xds::encode;
use weir_xds::envoy::{Any, DeltaDiscoveryResponse};

use super::scenario::{
    Scenario, cluster, cluster_model, endpoints, garbage, inline_listener, listener, listener_name, policy,
    policy_of_traffic, policy_with_mode, resource, response, route, tcp_listener, uncompilable_route,
};
use super::state::{AsksForRoots, Input, Own, Settings};
use crate::config;
use crate::identity::roots::Roots;
use crate::mesh::{Connected, ResourceState};
use crate::snapshot::Lookup;

const A: &str = "a.n.svc.cluster.local:80";
const B: &str = "b.n.svc.cluster.local:80";
const NOTHING: [&str; 0] = [];

#[test]
fn a_demand_leads_from_the_listener_to_the_endpoints() {
    let mut s = Scenario::new(Settings::default());
    assert_eq!(
        s.input(Input::Opened),
        ["endpoints hello"],
        "says who is there, and subscribes to nothing"
    );
    assert_eq!(s.status.connected, Connected::Yes);
    assert_eq!(s.demand("a:80"), [format!("listener +{A}")]);
    assert_eq!(s.demand("a:80"), NOTHING, "is asked for already");
    assert_eq!(
        s.answer(Listener, "l1", A, "1", listener("a:80", "a.n:80/*")),
        ["route +a.n:80/*"]
    );
    assert_eq!(
        s.answer(Route, "r1", "a.n:80/*", "1", route("a.n:80/*", &["a.n:80", "b.n:80"])),
        ["cluster +a.n:80 +b.n:80", "endpoints +a.n:80 +b.n:80"],
    );
    assert_eq!(
        s.answer(Cluster, "c1", "a.n:80", "1", cluster("a.n:80")),
        ["cluster ack:c1"]
    );
    assert_eq!(
        s.answer(Endpoints, "e1", "b.n:80", "1", endpoints("b.n:80", &[])),
        ["endpoints ack:e1"]
    );
    assert_eq!(
        s.answer(Cluster, "c2", "b.n:80", "1", cluster("b.n:80")),
        ["cluster ack:c2"]
    );
    assert_eq!(s.services(), NOTHING);
    assert_eq!(
        s.answer(Endpoints, "e2", "a.n:80", "1", endpoints("a.n:80", &["10.0.0.1:80"])),
        ["endpoints ack:e2", "listener ack:l1", "route ack:r1"],
    );
    assert_eq!(s.services(), [format!("{A} -> a.n:80[10.0.0.1:80] b.n:80[]")]);
}

#[test]
fn a_demand_before_the_stream_is_sent_with_who_we_are() {
    let mut s = Scenario::new(Settings::default());
    assert_eq!(s.demand("a:80"), NOTHING);
    assert_eq!(s.input(Input::Opened), [format!("listener hello +{A}")]);
}

#[test]
fn a_route_is_in_force_only_when_its_new_cluster_is() {
    let mut s = Scenario::with_a();
    let before = s.services();
    assert_eq!(
        s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["b.n:80"])),
        ["cluster +b.n:80", "endpoints +b.n:80"],
        "not acknowledged, and the cluster before is not let go",
    );
    assert_eq!(
        s.answer(Cluster, "c2", "b.n:80", "1", cluster("b.n:80")),
        ["cluster ack:c2"]
    );
    assert_eq!(s.services(), before);
    let route_status = s
        .status
        .resources
        .iter()
        .find(|resource| resource.kind == "route")
        .expect("is subscribed");
    assert_eq!(
        (route_status.version.as_deref(), route_status.waiting.as_deref()),
        (Some("1"), Some("2"))
    );
    assert_eq!(
        s.answer(Endpoints, "e2", "b.n:80", "1", endpoints("b.n:80", &["10.0.0.2:80"])),
        [
            "endpoints ack:e2",
            "route ack:r2",
            "cluster -a.n:80",
            "endpoints -a.n:80"
        ],
    );
    assert_eq!(s.services(), [format!("{A} -> b.n:80[10.0.0.2:80]")]);
}

#[test]
fn a_cluster_that_does_not_exist_is_an_answer() {
    let mut s = Scenario::with_a();
    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["a.n:80", "b.n:80"]));
    assert_eq!(
        s.remove(Cluster, "c2", "b.n:80"),
        ["cluster ack:c2", "route ack:r2"],
        "its endpoints don't matter"
    );
    assert_eq!(s.services(), [format!("{A} -> a.n:80[10.0.0.1:80] b.n:80(missing)")]);
    s.answer(Cluster, "c3", "b.n:80", "1", cluster("b.n:80"));
    assert_eq!(
        s.remove(Endpoints, "e2", "b.n:80"),
        ["endpoints ack:e2"],
        "that it has none is an answer too"
    );
    assert_eq!(s.services(), [format!("{A} -> a.n:80[10.0.0.1:80] b.n:80[]")]);
}

#[test]
fn requests_move_to_a_cluster_only_when_it_takes_them() {
    let mut s = Scenario::with_a();
    let before = s.services();
    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["b.n:80"]));
    s.answer(Cluster, "c2", "b.n:80", "1", cluster("b.n:80"));
    assert_eq!(
        s.answer(Endpoints, "e2", "b.n:80", "1", endpoints("b.n:80", &[])),
        ["endpoints ack:e2"],
        "it has none yet, and the one before has"
    );
    assert_eq!(s.services(), before);
    assert_eq!(
        s.answer(Endpoints, "e3", "b.n:80", "2", endpoints("b.n:80", &["10.0.0.2:80"])),
        [
            "endpoints ack:e3",
            "route ack:r2",
            "cluster -a.n:80",
            "endpoints -a.n:80"
        ],
    );
    assert_eq!(s.services(), [format!("{A} -> b.n:80[10.0.0.2:80]")]);
    s.answer(Endpoints, "e4", "b.n:80", "3", endpoints("b.n:80", &[]));
    assert_eq!(
        s.answer(Route, "r3", "a.n:80/*", "3", route("a.n:80/*", &["b.n:80", "b.n:80"])),
        ["route ack:r3"],
        "what requests go to already is not waited for"
    );
    s.answer(Route, "r4", "a.n:80/*", "4", route("a.n:80/*", &["c.n:80"]));
    s.answer(Cluster, "c3", "c.n:80", "1", cluster("c.n:80"));
    s.answer(Endpoints, "e5", "c.n:80", "1", endpoints("c.n:80", &[]));
    assert_eq!(
        s.pass(Duration::from_secs(5)),
        ["route ack:r4", "cluster -b.n:80", "endpoints -b.n:80"],
        "not for ever"
    );
}

#[test]
fn a_listener_moves_to_other_routes_when_their_clusters_take_requests() {
    let mut s = Scenario::with_a();
    let before = s.services();
    s.answer(Listener, "l2", A, "2", listener("a:80", "a.n:80/n"));
    s.answer(Route, "r2", "a.n:80/n", "1", route("a.n:80/n", &["a.n:80", "b.n:80"]));
    s.answer(Cluster, "c2", "b.n:80", "1", cluster("b.n:80"));
    s.answer(Endpoints, "e2", "b.n:80", "1", endpoints("b.n:80", &[]));
    assert_eq!(s.services(), before);
    assert_eq!(
        s.answer(Endpoints, "e3", "b.n:80", "2", endpoints("b.n:80", &["10.0.0.2:80"])),
        ["endpoints ack:e3", "listener ack:l2", "route ack:r2", "route -a.n:80/*"],
    );
}

#[test]
fn a_route_waits_for_its_clusters_five_seconds() {
    let mut s = Scenario::with_a();
    let before = s.services();
    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["a.n:80", "b.n:80"]));
    assert_eq!(s.pass(Duration::from_millis(4999)), NOTHING);
    assert_eq!(s.services(), before);
    assert_eq!(s.pass(Duration::from_millis(1)), ["route ack:r2"]);
    assert_eq!(s.services(), [format!("{A} -> a.n:80[10.0.0.1:80] b.n:80(unanswered)")]);
    s.answer(Cluster, "c2", "b.n:80", "1", cluster("b.n:80"));
    s.answer(Endpoints, "e2", "b.n:80", "1", endpoints("b.n:80", &["10.0.0.2:80"]));
    assert_eq!(
        s.services(),
        [format!("{A} -> a.n:80[10.0.0.1:80] b.n:80[10.0.0.2:80]")],
        "and late is not never"
    );
}

#[test]
fn a_listener_moves_to_other_routes_when_they_are_in_force() {
    let mut s = Scenario::with_a();
    let before = s.services();
    assert_eq!(
        s.answer(Listener, "l2", A, "2", listener("a:80", "a.n:80/n")),
        ["route +a.n:80/n"]
    );
    assert_eq!(
        s.pass(Duration::from_secs(60)),
        NOTHING,
        "without routes it can't be in force"
    );
    assert_eq!(s.services(), before);
    s.answer(Route, "r2", "a.n:80/n", "1", route("a.n:80/n", &["b.n:80"]));
    s.answer(Cluster, "c2", "b.n:80", "1", cluster("b.n:80"));
    assert_eq!(
        s.answer(Endpoints, "e2", "b.n:80", "1", endpoints("b.n:80", &["10.0.0.2:80"])),
        [
            "endpoints ack:e2",
            "listener ack:l2",
            "route ack:r2",
            "cluster -a.n:80",
            "endpoints -a.n:80",
            "route -a.n:80/*",
        ],
    );
    assert_eq!(s.services(), [format!("{A} -> b.n:80[10.0.0.2:80]")]);
}

#[test]
fn routes_that_do_not_exist_are_no_routes() {
    let mut s = Scenario::with_a();
    assert_eq!(
        s.remove(Route, "r2", "a.n:80/*"),
        ["route ack:r2", "cluster -a.n:80", "endpoints -a.n:80"],
    );
    assert_eq!(s.services(), [format!("{A} ->")]);
}

#[test]
fn a_listener_may_hold_its_routes_itself() {
    let mut s = Scenario::new(Settings::default());
    s.input(Input::Opened);
    s.demand("a:80");
    assert_eq!(
        s.answer(Listener, "l1", A, "1", inline_listener("a:80", &["a.n:80"])),
        ["cluster +a.n:80", "endpoints +a.n:80"],
    );
    assert_eq!(s.services(), NOTHING);
    assert_eq!(s.remove(Cluster, "c1", "a.n:80"), ["cluster ack:c1", "listener ack:l1"]);
    assert_eq!(s.services(), [format!("{A} -> a.n:80(missing)")]);
    s.answer(Listener, "l2", A, "2", inline_listener("a:80", &["b.n:80"]));
    assert_eq!(s.services(), [format!("{A} -> a.n:80(missing)")]);
    assert_eq!(
        s.pass(Duration::from_secs(5)),
        ["listener ack:l2", "cluster -a.n:80", "endpoints -a.n:80"],
    );
    assert_eq!(s.services(), [format!("{A} -> b.n:80(unanswered)")]);
}

/// A cluster that asks for TLS with its endpoints; `spoilt`: in a way that this proxy can't do.
fn tls_cluster(hostname: &str, spoilt: bool) -> Any {
    let mut model = cluster_model("a.n:80");
    model.backend_tls = Some(BackendTls::Verified(Validation {
        hostname: hostname.to_owned(),
        authorities: Authorities::System,
        subject_alt_names: Vec::new(),
    }));
    let mut any = encode::cluster(&model);
    if spoilt {
        // Field 1000, which no version knows yet: a number.
        any.value.extend([0xc0, 0x3e, 1]);
    }
    any
}

/// What asks for TLS and can't be had is no reason to go on in cleartext.
#[test]
fn a_cluster_that_is_refused_and_asks_for_tls_is_closed() {
    let mut s = Scenario::with_a();
    let open = s.services();
    let closed = [format!("{A} -> a.n:80(cluster refused)")];
    assert_eq!(
        s.answer(Cluster, "c2", "a.n:80", "2", tls_cluster("a.gov", true)),
        ["cluster nack:c2"]
    );
    assert_eq!(s.services(), closed);
    // A version without TLS opens it again, be it the one of before.
    assert_eq!(
        s.answer(Cluster, "c3", "a.n:80", "1", cluster("a.n:80")),
        ["cluster ack:c3"]
    );
    assert_eq!(s.services(), open);
    s.answer(Cluster, "c4", "a.n:80", "2", tls_cluster("a.gov", true));
    assert_eq!(s.services(), closed);
    // One that is wrong in another way, and no longer asks for it, leaves what was before.
    s.answer(Cluster, "c5", "a.n:80", "3", cluster("b.n:80"));
    assert_eq!(s.services(), open);
    s.answer(Cluster, "c6", "a.n:80", "4", tls_cluster("a.gov", true));
    s.input(Input::Closed);
    assert_eq!(s.services(), closed, "also while the control plane is away");
    s.input(Input::Opened);
    assert_eq!(
        s.answer(Cluster, "d1", "a.n:80", "5", tls_cluster("a.gov", false)),
        ["cluster ack:d1"]
    );
    assert_eq!(s.services(), open, "by TLS");
    // What was verified so far stays verified.
    assert_eq!(
        s.answer(Cluster, "d2", "a.n:80", "6", tls_cluster("b.gov", true)),
        ["cluster nack:d2"]
    );
    assert_eq!(s.services(), open);
    assert_eq!(s.remove(Cluster, "d3", "a.n:80"), ["cluster ack:d3"]);
    assert_eq!(s.services(), [format!("{A} -> a.n:80(missing)")]);
}

#[test]
fn what_is_refused_leaves_what_was_in_force() {
    let cases: [(weir_xds::ResourceType, &str, Any, &str); 6] = [
        (Endpoints, "a.n:80", garbage(Endpoints), "is not a message of its type"),
        (Cluster, "a.n:80", garbage(Cluster), "is not a message of its type"),
        (Cluster, "a.n:80", cluster("b.n:80"), "is named \"b.n:80\" inside"),
        (Listener, A, garbage(Listener), "is not a message of its type"),
        (Route, "a.n:80/*", garbage(Route), "is not a message of its type"),
        (Route, "a.n:80/*", uncompilable_route("a.n:80/*"), "unclosed group"),
    ];
    for (kind, name, bad, reason) in cases {
        let mut s = Scenario::with_a();
        let (before, kept) = (s.services(), s.kept);
        assert_eq!(
            s.answer(kind, "bad", name, "2", bad),
            [format!("{kind} nack:bad")],
            "{reason}"
        );
        assert_eq!(s.services(), before);
        assert_eq!(s.kept, kept);
        let said = s.reasons.concat();
        assert!(
            said.starts_with(&format!("{name}: ")) && said.contains(reason),
            "{said}"
        );
        let of_it = |resource: &&crate::mesh::ResourceStatus| resource.kind == kind.to_string();
        let status = s.status.resources.iter().find(of_it).expect("is subscribed").clone();
        assert_eq!(status.version.as_deref(), Some("1"));
        let rejected = status.rejected.expect("is told");
        assert_eq!(rejected.version, "2");
        assert!(rejected.reason.contains(reason), "{}", rejected.reason);
        // A version that is good clears it.
        let good = match kind {
            Endpoints => endpoints("a.n:80", &["10.0.0.3:80"]),
            Cluster => cluster("a.n:80"),
            Listener => listener("a:80", "a.n:80/*"),
            Route => route("a.n:80/*", &["a.n:80"]),
            WorkloadPolicy | TrustRoots => panic!("none of the cases"),
        };
        assert_eq!(s.answer(kind, "good", name, "3", good), [format!("{kind} ack:good")]);
        assert!(s.status.resources.iter().all(|resource| resource.rejected.is_none()));
    }
}

#[test]
fn what_is_good_beside_what_is_refused_is_taken() {
    let mut s = Scenario::with_a();
    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["a.n:80", "b.n:80"]));
    s.answer(Cluster, "c2", "b.n:80", "1", cluster("b.n:80"));
    let resources = vec![
        resource("a.n:80", "2", garbage(Endpoints)),
        resource("b.n:80", "2", endpoints("b.n:80", &["10.0.0.2:80"])),
    ];
    let requests = s.input(Input::Response(response(Endpoints, "e2", resources, &[])));
    assert_eq!(requests, ["endpoints nack:e2", "route ack:r2"]);
    assert_eq!(
        s.services(),
        [format!("{A} -> a.n:80[10.0.0.1:80] b.n:80[10.0.0.2:80]")]
    );
}

#[test]
fn a_version_that_is_overtaken_is_acknowledged_with_the_one_after() {
    let mut s = Scenario::with_a();
    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["b.n:80"]));
    s.pass(Duration::from_secs(3));
    s.answer(Route, "r3", "a.n:80/*", "3", route("a.n:80/*", &["a.n:80", "c.n:80"]));
    let requests = s.pass(Duration::from_secs(2));
    assert_eq!(
        requests,
        ["route ack:r2", "route ack:r3"],
        "and it gets no more time than the first"
    );
    assert_eq!(s.services(), [format!("{A} -> a.n:80[10.0.0.1:80] c.n:80(unanswered)")]);
}

#[test]
fn a_response_is_acknowledged_when_all_of_it_is_in_force() {
    let mut s = Scenario::with_a();
    s.demand("b:80");
    s.answer(Listener, "l2", B, "1", listener("b:80", "b.n:80/*"));
    let resources = vec![
        resource("a.n:80/*", "2", route("a.n:80/*", &["a.n:80"])),
        resource("b.n:80/*", "1", route("b.n:80/*", &["b.n:80"])),
    ];
    let requests = s.input(Input::Response(response(Route, "r2", resources, &[])));
    assert_eq!(requests, ["cluster +b.n:80", "endpoints +b.n:80"]);
    let requests = s.answer(Route, "r3", "a.n:80/*", "3", route("a.n:80/*", &[]));
    assert_eq!(
        requests,
        ["route ack:r3", "cluster -a.n:80", "endpoints -a.n:80"],
        "one does not wait for the other"
    );
    assert_eq!(
        s.remove(Cluster, "c2", "b.n:80"),
        ["cluster ack:c2", "listener ack:l2", "route ack:r2"]
    );
}

#[test]
fn the_same_version_again_changes_nothing() {
    let mut s = Scenario::with_a();
    let version = s.snapshot.version;
    assert_eq!(
        s.answer(Route, "r2", "a.n:80/*", "1", route("a.n:80/*", &["a.n:80"])),
        ["route ack:r2"]
    );
    assert_eq!(s.snapshot.version, version);
    // The control plane takes a version back before it came into force.
    s.answer(Route, "r3", "a.n:80/*", "2", route("a.n:80/*", &["b.n:80"]));
    assert_eq!(
        s.answer(Route, "r4", "a.n:80/*", "1", route("a.n:80/*", &["a.n:80"])),
        ["route ack:r3", "route ack:r4", "cluster -b.n:80", "endpoints -b.n:80"],
    );
    assert_eq!(s.services(), [format!("{A} -> a.n:80[10.0.0.1:80]")]);
}

#[test]
fn a_new_stream_begins_with_the_versions_in_force() {
    let mut s = Scenario::with_a();
    let before = s.services();
    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["b.n:80"]));
    s.demand("gone:80");
    assert_eq!(s.input(Input::Closed), NOTHING);
    assert_eq!(s.status.connected, Connected::No);
    assert_eq!(s.pass(Duration::from_secs(60)), NOTHING);
    assert_eq!(
        s.services(),
        before,
        "no time-out puts it in force while its clusters can't come"
    );
    assert_eq!(
        s.input(Input::Opened),
        [
            "cluster hello +a.n:80 a.n:80@1".to_owned(),
            "endpoints +a.n:80 a.n:80@1".to_owned(),
            format!("listener +{A} +gone.n.svc.cluster.local:80 {A}@1"),
            "route +a.n:80/* a.n:80/*@1".to_owned(),
        ],
    );
    assert_eq!(
        s.demand("c:80"),
        ["listener +c.n.svc.cluster.local:80"],
        "versions are said once"
    );
    assert_eq!(
        s.answer(Route, "r1", "a.n:80/*", "3", route("a.n:80/*", &["a.n:80"])),
        ["route ack:r1"]
    );
}

#[test]
fn what_is_not_used_is_let_go() {
    let mut s = Scenario::with_a();
    s.demand("b:80");
    s.answer(Listener, "l2", B, "1", listener("b:80", "b.n:80/*"));
    s.answer(Route, "r2", "b.n:80/*", "1", route("b.n:80/*", &["a.n:80", "b.n:80"]));
    s.remove(Cluster, "c2", "b.n:80");
    s.pass(Duration::from_secs(599));
    let Some(Lookup::Service(b)) = s.snapshot.service(&listener_name("b:80")) else {
        panic!("b is a service");
    };
    b.touch(s.now);
    assert_eq!(
        s.pass(Duration::from_secs(2)),
        [format!("listener -{A}"), "route -a.n:80/*".to_owned()],
        "the cluster is used by the other",
    );
    assert_eq!(s.services(), [format!("{B} -> a.n:80[10.0.0.1:80] b.n:80(missing)")]);
    assert_eq!(
        s.pass(Duration::from_secs(599)),
        [
            "cluster -a.n:80 -b.n:80".to_owned(),
            "endpoints -a.n:80 -b.n:80".to_owned(),
            format!("listener -{B}"),
            "route -b.n:80/*".to_owned(),
        ],
    );
    assert_eq!(s.services(), NOTHING);
    assert!(s.status.resources.is_empty());
    assert_eq!(s.demand("a:80"), [format!("listener +{A}")]);
}

#[test]
fn what_is_pinned_is_asked_for_at_the_begin_and_kept() {
    let pinned = ["a:80", "b:80"].map(listener_name).into();
    let mut s = Scenario::new(Settings {
        pinned,
        ..Settings::default()
    });
    assert_eq!(s.input(Input::Opened), [format!("listener hello +{A} +{B}")]);
    s.answer(Listener, "l1", A, "1", tcp_listener("a:80", "a.n:80"));
    s.remove(Listener, "l2", B);
    s.answer(Cluster, "c1", "a.n:80", "1", cluster("a.n:80"));
    s.answer(Endpoints, "e1", "a.n:80", "1", endpoints("a.n:80", &["10.0.0.1:80"]));
    let Some(Lookup::Service(a)) = s.snapshot.service(&listener_name("a:80")) else {
        panic!("a is a service");
    };
    assert!(a.tcp.is_some(), "its connections have somewhere to go");
    assert_eq!(
        s.pass(Duration::from_secs(86_400)),
        NOTHING,
        "used or not, there or not"
    );
    s.answer(Listener, "l3", B, "1", tcp_listener("b:80", "a.n:80"));
    assert!(matches!(
        s.snapshot.service(&listener_name("b:80")),
        Some(Lookup::Service(_))
    ));
}

#[test]
fn that_a_name_does_not_exist_is_believed_for_a_second() {
    let mut s = Scenario::new(Settings::default());
    s.input(Input::Opened);
    s.demand("a:80");
    assert_eq!(s.remove(Listener, "l1", A), ["listener ack:l1"]);
    let until = s.now + Duration::from_secs(1);
    let lookup = s.snapshot.service(&listener_name("a:80"));
    assert!(
        matches!(lookup, Some(Lookup::NoSuchService { until: told }) if *told == until),
        "{lookup:?}"
    );
    assert_eq!(s.demand("a:80"), NOTHING);
    s.now = until;
    assert_eq!(s.demand("a:80"), [format!("listener +{A}")], "asked again");
    assert_eq!(s.services(), NOTHING, "not known until it is answered");
    s.remove(Listener, "l2", A);
    assert_eq!(s.services(), [format!("{A} does not exist")]);
    // It is made while that is believed.
    s.answer(Listener, "l3", A, "1", inline_listener("a:80", &[]));
    assert_eq!(s.services(), [format!("{A} ->")]);
    s.remove(Listener, "l4", A);
    assert_eq!(s.services(), [format!("{A} does not exist")]);
    assert_eq!(
        s.pass(Duration::from_secs(1)),
        [format!("listener -{A}")],
        "let go when nobody asks again"
    );
    assert_eq!(s.services(), NOTHING);
}

#[test]
fn a_service_that_is_taken_away_stays_with_who_holds_it() {
    let mut s = Scenario::with_a();
    let Some(Lookup::Service(held)) = s.snapshot.service(&listener_name("a:80")).cloned() else {
        panic!("a is a service");
    };
    assert_eq!(
        s.remove(Listener, "l2", A),
        [
            "listener ack:l2",
            "cluster -a.n:80",
            "endpoints -a.n:80",
            "route -a.n:80/*"
        ],
    );
    assert_eq!(s.services(), [format!("{A} does not exist")]);
    assert_eq!(held.table.routes().len(), 1);
}

#[test]
fn names_are_bounded_and_those_that_do_not_exist_make_room() {
    let mut s = Scenario::new(Settings {
        names_max: 2,
        ..Settings::default()
    });
    s.input(Input::Opened);
    s.demand("a:80");
    s.demand("b:80");
    assert_eq!(s.demand("c:80"), NOTHING);
    s.remove(Listener, "l1", B);
    assert_eq!(s.demand("c:80"), [format!("listener +c.n.svc.cluster.local:80 -{B}")]);
    assert_eq!(s.demand("b:80"), NOTHING);
}

#[test]
fn what_nobody_asked_for_is_skipped_or_refused() {
    let mut s = Scenario::with_a();
    let before = s.services();
    assert_eq!(
        s.answer(Cluster, "c2", "b.n:80", "1", cluster("b.n:80")),
        ["cluster ack:c2"],
        "let go meanwhile"
    );
    assert_eq!(s.answer(Cluster, "c3", "?", "1", cluster("b.n:80")), ["cluster ack:c3"]);
    let unknown = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/secret".to_owned(),
        nonce: "s".to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    assert_eq!(s.input(Input::Response(unknown)), ["type.googleapis.com/secret nack:s"]);
    let mut expiring = resource("a.n:80", "2", cluster("a.n:80"));
    expiring.ttl = Some(weir_xds::envoy::Duration { seconds: 1, nanos: 0 });
    let expiring = response(Cluster, "c4", vec![expiring], &[]);
    assert_eq!(s.input(Input::Response(expiring)), ["cluster nack:c4"]);
    assert_eq!(
        s.reasons.last().map(String::as_str),
        Some("a.n:80: ttl is set, and has no effect here")
    );
    let empty = weir_xds::envoy::Resource {
        name: "a.n:80".to_owned(),
        ..weir_xds::envoy::Resource::default()
    };
    let empty = response(Cluster, "c5", vec![empty], &[]);
    assert_eq!(s.input(Input::Response(empty)), ["cluster nack:c5"]);
    assert_eq!(s.services(), before);
}

#[test]
fn a_nack_is_of_bounded_length() {
    let mut s = Scenario::new(Settings::default());
    s.input(Input::Opened);
    let names: Vec<String> = (0..200).map(|index| format!("名{index}")).collect();
    let many: Vec<_> = (0..200)
        .map(|index| listener_name(&format!("service-{index}:80")))
        .collect();
    let bad = many
        .iter()
        .map(|name| resource(&name.to_string(), &names.concat(), garbage(Listener)));
    let bad = response(Listener, "l", bad.collect(), &[]);
    s.input(Input::Demands(many));
    s.input(Input::Response(bad));
    assert!((4000..=4096).contains(&s.reasons.concat().len()));
}

#[test]
fn what_was_kept_is_in_force_at_once_and_known_to_the_control_plane() {
    let before = Scenario::with_a();
    let mut kept = before.state.kept();
    assert_eq!(kept.len(), 4);
    let mut s = Scenario::new(Settings::default());
    // What an older version of this program accepted and this one does not.
    let mut bad = kept[0].clone();
    bad.name = "b.n:80".to_owned();
    kept.push(bad);
    let (refused, outputs) = s.state.restore(s.now, kept);
    assert_eq!(refused.len(), 1);
    assert_eq!(s.take(outputs), NOTHING);
    assert_eq!(s.services(), before.services());
    let states = s.status.resources.iter().map(|resource| resource.state);
    assert_eq!(states.collect::<Vec<_>>(), [ResourceState::InForce; 4]);
    assert_eq!(
        s.input(Input::Opened),
        [
            "cluster hello +a.n:80 a.n:80@1".to_owned(),
            "endpoints +a.n:80 a.n:80@1".to_owned(),
            format!("listener +{A} {A}@1"),
            "route +a.n:80/* a.n:80/*@1".to_owned(),
        ],
    );
    assert_eq!(s.state.kept(), before.state.kept());
}

#[test]
fn what_is_kept_follows_what_is_in_force() {
    let mut s = Scenario::with_a();
    let kept = s.kept;
    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["b.n:80"]));
    assert_eq!(s.kept, kept, "it is not in force");
    assert!(s.state.kept().iter().all(|kept| kept.version == "1"));
    s.remove(Cluster, "c2", "b.n:80");
    assert_eq!(s.kept, kept + 1);
    let names: Vec<String> = s
        .state
        .kept()
        .into_iter()
        .map(|kept| format!("{}@{}", kept.name, kept.version))
        .collect();
    assert_eq!(names, [format!("{A}@1"), "a.n:80/*@2".to_owned()]);
}

#[test]
fn a_first_version_that_is_refused_is_told_at_once_and_until_a_good_one_comes() {
    let mut s = Scenario::new(Settings::default());
    s.input(Input::Opened);
    s.demand("a:80");
    s.demand("b:80");
    assert_eq!(
        s.answer(Listener, "l1", A, "1", garbage(Listener)),
        ["listener nack:l1"]
    );
    assert_eq!(s.services(), [format!("{A}: listener {A} was refused")]);
    s.answer(Listener, "l2", A, "2", listener("a:80", "a.n:80/*"));
    assert_eq!(s.services(), NOTHING, "its routes are waited for");
    assert_eq!(
        s.answer(Route, "r1", "a.n:80/*", "1", uncompilable_route("a.n:80/*")),
        ["route nack:r1"]
    );
    assert_eq!(s.services(), [format!("{A}: route a.n:80/* was refused")]);

    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["a.n:80"]));
    s.answer(Endpoints, "e1", "a.n:80", "1", endpoints("a.n:80", &["10.0.0.1:80"]));
    assert_eq!(s.services(), NOTHING, "its cluster is waited for");
    assert_eq!(
        s.answer(Cluster, "c1", "a.n:80", "1", garbage(Cluster)),
        ["cluster nack:c1", "listener ack:l2", "route ack:r2"]
    );
    assert_eq!(s.services(), [format!("{A} -> a.n:80(cluster refused)")]);
    s.answer(Cluster, "c2", "a.n:80", "2", cluster("a.n:80"));
    assert_eq!(s.services(), [format!("{A} -> a.n:80[10.0.0.1:80]")]);
    // What came once stays in force whatever comes.
    s.answer(Cluster, "c3", "a.n:80", "3", garbage(Cluster));
    s.answer(Endpoints, "e2", "a.n:80", "2", garbage(Endpoints));
    s.answer(Listener, "l3", A, "3", garbage(Listener));
    assert_eq!(s.services(), [format!("{A} -> a.n:80[10.0.0.1:80]")]);
}

#[test]
fn endpoints_that_are_refused_first_count_like_their_cluster() {
    let mut s = Scenario::new(Settings::default());
    s.input(Input::Opened);
    s.demand("a:80");
    s.answer(Listener, "l1", A, "1", inline_listener("a:80", &["a.n:80", "b.n:80"]));
    s.answer(Cluster, "c1", "a.n:80", "1", cluster("a.n:80"));
    s.answer(Endpoints, "e1", "a.n:80", "1", garbage(Endpoints));
    s.answer(Endpoints, "e2", "b.n:80", "1", garbage(Endpoints));
    assert_eq!(s.services(), NOTHING, "nothing was said of b's cluster");
    s.remove(Cluster, "c2", "b.n:80");
    assert_eq!(
        s.services(),
        [format!("{A} -> a.n:80(endpoints refused) b.n:80(missing)")]
    );
}

#[test]
fn requests_are_not_moved_to_a_refused_cluster_before_their_time() {
    let mut s = Scenario::with_a();
    let before = s.services();
    s.answer(Route, "r2", "a.n:80/*", "2", route("a.n:80/*", &["b.n:80"]));
    s.answer(Cluster, "c2", "b.n:80", "1", garbage(Cluster));
    assert_eq!(s.services(), before);
    s.pass(Settings::default().clusters_wait);
    assert_eq!(s.services(), [format!("{A} -> b.n:80(cluster refused)")]);
}

/// A proxy of workload `n/caller`.
fn with_policy(access_log: config::AccessLog) -> Scenario {
    Scenario::new(Settings {
        own: Some(Own {
            workload: "n/caller".parse().expect("a name"),
            access_log,
        }),
        ..Settings::default()
    })
}

/// What the policy in force says of the access log; `None`: there is no policy.
fn in_force(s: &Scenario) -> Option<Option<AccessLog>> {
    s.snapshot.telemetry().source.as_ref().map(|source| source.access_log)
}

/// How ports are entered; `None`: nobody has said.
fn entered_by(s: &Scenario) -> Option<Mode> {
    s.snapshot.mutual_tls().map(|told| told.mode)
}

/// Who is let in does not wait for a log.
#[test]
fn how_ports_are_entered_is_in_force_whatever_else_a_policy_says() {
    let mut s = with_policy(config::AccessLog::Off);
    s.input(Input::Opened);
    assert_eq!(entered_by(&s), None);
    let told = |access_log, mode| policy_with_mode("n/caller", access_log, mode);
    let lines = Some(AccessLog::All);
    assert_eq!(
        s.answer(WorkloadPolicy, "p1", "n/caller", "1", told(lines, Mode::Permissive)),
        ["policy nack:p1"]
    );
    assert_eq!(
        entered_by(&s),
        Some(Mode::Permissive),
        "the first is refused, for its log"
    );
    let open = told(None, Mode::Permissive);
    assert_eq!(
        s.answer(WorkloadPolicy, "p2", "n/caller", "2", open.clone()),
        ["policy ack:p2"]
    );
    assert_eq!(
        s.answer(WorkloadPolicy, "p3", "n/caller", "3", told(lines, Mode::Strict)),
        ["policy nack:p3"]
    );
    assert_eq!(entered_by(&s), Some(Mode::Strict));
    let mut next = with_policy(config::AccessLog::Off);
    let (_, outputs) = next.state.restore(next.now, s.state.kept());
    next.take(outputs);
    assert_eq!(
        entered_by(&next),
        Some(Mode::Strict),
        "after a restart, though its log was refused"
    );
    assert_eq!(s.answer(WorkloadPolicy, "p4", "n/caller", "2", open), ["policy ack:p4"]);
    assert_eq!(entered_by(&s), Some(Mode::Permissive), "as it was before");
    let other = policy_with_mode("n/other", None, Mode::Off);
    s.answer(WorkloadPolicy, "p5", "n/caller", "4", other);
    assert_eq!(entered_by(&s), Some(Mode::Permissive), "it is another's");
    let kept = s.state.kept();
    s.input(Input::Closed);
    assert_eq!(entered_by(&s), Some(Mode::Permissive), "without a control plane");
    let mut next = with_policy(config::AccessLog::Off);
    let (_, outputs) = next.state.restore(next.now, kept);
    next.take(outputs);
    assert_eq!(entered_by(&next), Some(Mode::Permissive), "after a restart");
    s.input(Input::Opened);
    s.remove(WorkloadPolicy, "p6", "n/caller");
    assert_eq!(entered_by(&s), None, "nobody says any more");
}

#[test]
fn what_becomes_of_names_outside_is_in_force_whatever_else_a_policy_says() {
    let told = |access_log, egress| policy_of_traffic("n/caller", access_log, Mode::Permissive, egress);
    let mut s = with_policy(config::AccessLog::Off);
    s.input(Input::Opened);
    assert_eq!(s.snapshot.egress(), None);
    s.answer(WorkloadPolicy, "p1", "n/caller", "1", told(None, Egress::Passthrough));
    assert_eq!(s.snapshot.egress(), Some(Egress::Passthrough));
    let mut next = with_policy(config::AccessLog::Off);
    let (_, outputs) = next.state.restore(next.now, s.state.kept());
    next.take(outputs);
    assert_eq!(next.snapshot.egress(), Some(Egress::Passthrough), "after a restart");
    let refused = told(Some(AccessLog::All), Egress::Refuse);
    assert_eq!(
        s.answer(WorkloadPolicy, "p2", "n/caller", "2", refused),
        ["policy nack:p2"]
    );
    assert_eq!(s.snapshot.egress(), Some(Egress::Refuse));
    s.remove(WorkloadPolicy, "p3", "n/caller");
    assert_eq!(s.snapshot.egress(), None, "nobody says any more");
    // One that is not asked for is not waited for.
    let mut foreign = Scenario::new(Settings::default());
    let (_, outputs) = foreign.state.restore(foreign.now, Vec::new());
    foreign.take(outputs);
    assert_eq!(foreign.snapshot.egress(), Some(Egress::Refuse));
}

#[test]
fn the_own_policy_is_asked_for_first_and_in_force_at_once() {
    let mut s = with_policy(config::AccessLog::Stdout);
    assert_eq!(s.input(Input::Opened), ["policy hello +n/caller"]);
    assert_eq!(in_force(&s), None);
    let errors = policy("n/caller", Some(AccessLog::Errors));
    assert_eq!(
        s.answer(WorkloadPolicy, "p1", "n/caller", "1", errors.clone()),
        ["policy ack:p1"]
    );
    assert_eq!(in_force(&s), Some(Some(AccessLog::Errors)));
    let other = policy("n/other", None);
    assert_eq!(
        s.answer(WorkloadPolicy, "p2", "n/other", "1", other.clone()),
        ["policy ack:p2"],
        "was not asked for"
    );
    assert_eq!(
        s.answer(WorkloadPolicy, "p3", "n/caller", "2", other),
        ["policy nack:p3"]
    );
    assert_eq!(
        s.answer(WorkloadPolicy, "p4", "n/caller", "3", garbage(WorkloadPolicy)),
        ["policy nack:p4"]
    );
    assert_eq!(in_force(&s), Some(Some(AccessLog::Errors)), "what was in force stays");
    let kept = s.state.kept();
    assert_eq!(kept.len(), 1);
    assert_eq!(s.input(Input::Closed), NOTHING);
    assert_eq!(in_force(&s), Some(Some(AccessLog::Errors)));
    assert_eq!(s.input(Input::Opened), ["policy hello +n/caller n/caller@1"]);
    assert_eq!(s.remove(WorkloadPolicy, "p5", "n/caller"), ["policy ack:p5"]);
    assert_eq!(in_force(&s), None, "the flags hold again");
    assert!(s.state.kept().is_empty());

    let mut next = with_policy(config::AccessLog::Stdout);
    let (refused, outputs) = next.state.restore(next.now, kept.clone());
    assert!(refused.is_empty());
    next.take(outputs);
    assert_eq!(
        in_force(&next),
        Some(Some(AccessLog::Errors)),
        "without a control plane"
    );
    let mut foreign = Scenario::new(Settings::default());
    let (_, outputs) = foreign.state.restore(foreign.now, kept);
    foreign.take(outputs);
    assert_eq!(in_force(&foreign), None, "nobody's policy is asked for");
}

#[test]
fn lines_are_not_promised_where_there_is_no_log() {
    for (access_log, expect) in [
        (Some(AccessLog::All), "policy nack:p"),
        (Some(AccessLog::Errors), "policy nack:p"),
        (Some(AccessLog::Off), "policy ack:p"),
        (None, "policy ack:p"),
    ] {
        let mut s = with_policy(config::AccessLog::Off);
        s.input(Input::Opened);
        let answer = s.answer(WorkloadPolicy, "p", "n/caller", "1", policy("n/caller", access_log));
        assert_eq!(answer, [expect], "{access_log:?}");
        let said = s.reasons.concat();
        assert_eq!(said.contains("--access-log off"), expect.contains("nack"), "{said}");
    }
}

fn root_pem() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a root").pem()
}

/// Roots, PEM; their certificates are made anew each time.
fn roots(count: usize) -> (Any, Arc<Roots>) {
    let pem: String = (0..count).map(|_| root_pem()).collect();
    let told = weir_policy::model::TrustRoots {
        name: RootsName,
        pem,
        others: BTreeMap::from([("partner.gov".parse().expect("a trust domain"), root_pem())]),
    };
    let read = Roots::read(&told.pem, &told.others).expect("roots");
    (encode::trust_roots(&told), Arc::new(read))
}

fn asks_for_roots() -> Scenario {
    Scenario::new(Settings {
        roots: AsksForRoots::Yes,
        ..Settings::default()
    })
}

/// "Acknowledged" means "trusted here".
#[test]
fn roots_are_acknowledged_when_they_are_trusted_and_never_by_time() {
    let mut s = asks_for_roots();
    assert_eq!(s.input(Input::Opened), ["roots hello +ROOTCA"]);
    let ((first, trusted), (second, other)) = (roots(1), roots(2));
    assert_eq!(s.answer(TrustRoots, "n1", "ROOTCA", "1", first.clone()), NOTHING);
    s.pass(Duration::from_secs(3600));
    assert_eq!(
        s.input(Input::Trusted(Arc::clone(&other))),
        NOTHING,
        "these were not told"
    );
    assert_eq!(s.input(Input::Trusted(Arc::clone(&trusted))), ["roots ack:n1"]);
    // What is taken back before it was trusted leaves what was there.
    let (taken_back, _) = roots(2);
    s.answer(TrustRoots, "b1", "ROOTCA", "b", taken_back);
    assert_eq!(s.roots.take().map(|roots| *roots != *trusted), Some(true));
    s.answer(TrustRoots, "b2", "ROOTCA", "1", first.clone());
    assert_eq!(s.roots.take(), Some(Arc::clone(&trusted)));
    assert_eq!(s.input(Input::Tick), NOTHING);
    assert_eq!(s.roots, None, "said once");
    // What comes meanwhile takes the place of what was not trusted yet.
    assert_eq!(s.answer(TrustRoots, "n2", "ROOTCA", "2", second), NOTHING);
    assert_eq!(s.input(Input::Trusted(trusted)), NOTHING);
    assert_eq!(s.input(Input::Trusted(other)), ["roots ack:n2"]);
    assert_eq!(s.input(Input::Closed), NOTHING);
    assert_eq!(s.input(Input::Opened), ["roots hello +ROOTCA ROOTCA@2"]);
    assert!(s.state.kept().is_empty(), "the identity keeps them");
}

#[test]
fn what_is_no_root_is_refused_and_what_was_before_stays() {
    let mut s = asks_for_roots();
    s.input(Input::Opened);
    let (first, trusted) = roots(1);
    s.answer(TrustRoots, "n1", "ROOTCA", "1", first);
    s.input(Input::Trusted(trusted));
    let told = |pem: &str, other: &str| {
        encode::trust_roots(&weir_policy::model::TrustRoots {
            name: RootsName,
            pem: pem.to_owned(),
            others: BTreeMap::from([("partner.gov".parse().expect("a trust domain"), other.to_owned())]),
        })
    };
    let root = root_pem();
    for (nonce, bad) in [
        ("g1", garbage(TrustRoots)),
        ("g2", told(&root, "no certificate")),
        ("g3", told("no certificate", &root)),
    ] {
        assert_eq!(
            s.answer(TrustRoots, nonce, "ROOTCA", "2", bad),
            [format!("roots nack:{nonce}")]
        );
    }
    let said = |reason: &String| reason.contains("holds no certificate");
    assert!(s.reasons.iter().rev().take(2).all(said), "{:?}", s.reasons);
    let domain = |reason: &String| reason.contains("for the trust domain partner.gov");
    assert!(s.reasons.iter().any(domain), "{:?}", s.reasons);
}

#[test]
fn who_has_no_identity_asks_for_no_roots() {
    let mut s = Scenario::new(Settings::default());
    assert_eq!(s.input(Input::Opened), ["endpoints hello"]);
}
