//! ReferenceGrants.

use http::StatusCode;
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{MemberSettings, Script, TestMesh, until};

use crate::world::{route, tells};

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
