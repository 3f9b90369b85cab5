//! ReferenceGrants.

use http::StatusCode;
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{MemberSettings, Script, TestMesh, until};

use crate::world::{grpc, grpc_route, route, tells};

#[tokio::test]
async fn a_grant_opens_a_door_and_its_end_closes_it() {
    let mesh = TestMesh::start().await;
    let labs = MemberSettings {
        namespace: "labs",
        ..MemberSettings::default()
    };
    let _backend = mesh.service_with("results", tells("results"), labs).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    mesh.apply_service("b", "a", AppProtocol::Http1).await;
    let to_labs = route("  - backendRefs: [{name: results, namespace: labs, port: 80}]").replace("ECHO", "b");
    mesh.apply_in_force(&to_labs).await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", answer.text());

    let grant = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: from-default, namespace: labs}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: '', kind: Service, name: results}]
";
    mesh.apply_in_force(grant).await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::OK, "in force: {}", answer.text());

    let key = Key {
        kind: Kind::ReferenceGrant,
        namespace: "labs".to_owned(),
        name: "from-default".to_owned(),
    };
    mesh.delete(&key).await;
    until("the door to be closed", || async {
        let answer = a.get("http://b/").await;
        match answer.status {
            // Made before broken: one or the other, nothing between.
            StatusCode::OK => None,
            StatusCode::INTERNAL_SERVER_ERROR => Some(()),
            other => panic!("{other}: {}", answer.text()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_grant_opens_a_door_for_calls_of_its_kind_alone() {
    let mesh = TestMesh::start().await;
    let labs = MemberSettings {
        namespace: "labs",
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    let _backend = mesh.service_with("results", tells("results"), labs).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    mesh.apply_service("b", "a", AppProtocol::Grpc).await;
    let to_labs = grpc_route("  - backendRefs: [{name: results, namespace: labs, port: 80}]").replace("ECHO", "b");
    mesh.apply_in_force(&to_labs).await;
    let closed = grpc("http://ECHO/pkg.Echo/One").answers("grpc-status", "14");
    closed.check("no grant", &a, "b").await;

    let grant = |kind: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: from-default, namespace: labs}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: default}}]
  to: [{{group: '', kind: Service}}]
"
        )
    };
    mesh.apply_in_force(&grant("HTTPRoute")).await;
    closed.check("a grant for HTTPRoutes", &a, "b").await;
    mesh.apply(&grant("GRPCRoute")).await;
    let open = grpc("http://ECHO/pkg.Echo/One")
        .reaches("results")
        .answers("grpc-status", "0");
    until("a grant for GRPCRoutes to open the door", || async {
        (open.send(&a, "b").await.header("grpc-status") == Some("0")).then_some(())
    })
    .await;
    open.check("a grant for GRPCRoutes", &a, "b").await;

    let key = Key {
        kind: Kind::ReferenceGrant,
        namespace: "labs".to_owned(),
        name: "from-default".to_owned(),
    };
    mesh.delete(&key).await;
    until("the door to be closed", || async {
        let answer = open.send(&a, "b").await;
        match answer.header("grpc-status") {
            // Made before broken: one or the other, nothing between.
            Some("0") => None,
            Some("14") => Some(()),
            other => panic!("{other:?}: {}", answer.text()),
        }
    })
    .await;
}
