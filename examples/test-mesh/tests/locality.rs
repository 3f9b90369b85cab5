//! Requests stay near, leave a zone that is lost, and come back to it.

use http::StatusCode;
use weir_policy::model::Locality;
use weir_test_mesh::{Member, MemberSettings, Script, TestMesh, until};

fn at(region: &'static str, zone: &'static str) -> MemberSettings {
    MemberSettings {
        proxy: Box::new(move |config| {
            config.locality = Locality {
                region: region.to_owned(),
                zone: zone.to_owned(),
                site: String::new(),
            };
        }),
        ..MemberSettings::default()
    }
}

/// Sends requests until the share of this level is that.
async fn until_share(a: &Member, level: &str, share: f64) {
    let labels = ["cluster=\"b.default:80\"", &format!("level=\"{level}\"")];
    until(&format!("{share} % for {level}"), || async {
        assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
        (a.metric("weir_cluster_locality_percent", &labels).await == share).then_some(())
    })
    .await;
}

/// Who answers how many of so many requests, by the texts of their answers.
async fn answers(a: &Member, requests: usize, texts: [&str; 3]) -> [usize; 3] {
    let mut counts = [0; 3];
    for _ in 0..requests {
        let text = a.get("http://b/").await.text();
        let place = texts.iter().position(|other| *other == text).expect("one of them");
        counts[place] += 1;
    }
    counts
}

#[tokio::test]
async fn a_lost_zone_moves_to_the_next_and_comes_back() {
    let mesh = TestMesh::start().await;
    let a = mesh.service_with("a", Script::answer(200, ""), at("zj", "hz-a")).await;
    mesh.apply_service("b", "b", weir_policy::model::AppProtocol::Http1)
        .await;
    let near = mesh
        .workload("b-1", "b", Script::answer(200, "zone"), at("zj", "hz-a"))
        .await;
    let also = mesh
        .workload("b-2", "b", Script::answer(200, "zone"), at("zj", "hz-a"))
        .await;
    let _region = mesh
        .workload("b-3", "b", Script::answer(200, "region"), at("zj", "hz-b"))
        .await;
    let _far = mesh
        .workload("b-4", "b", Script::answer(200, "far"), at("js", "nj-a"))
        .await;
    mesh.apply_in_force(
        "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {name: b, namespace: default}, spec: {
          targetRefs: [{group: '', kind: Service, name: b}], balancing: {type: RoundRobin}, locality: {}}}",
    )
    .await;
    let texts = ["zone", "region", "far"];
    until_share(&a, "zone", 100.0).await;
    assert_eq!(answers(&a, 50, texts).await, [50, 0, 0]);

    // Both leave: the zone is lost, the region takes over. Not even the first request after the last one's end fails:
    // tried again, it leaves the zone.
    also.stop().await;
    let in_use = ["cluster=\"b.default:80\"", "state=\"in_use\""];
    until("one endpoint in the zone", || async {
        (a.metric("weir_cluster_endpoints", &in_use).await == 1.0).then_some(())
    })
    .await;
    near.stop().await;
    until_share(&a, "region", 100.0).await;
    assert_eq!(answers(&a, 50, texts).await, [0, 50, 0]);

    let _back = mesh
        .workload("b-5", "b", Script::answer(200, "zone"), at("zj", "hz-a"))
        .await;
    until_share(&a, "zone", 100.0).await;
    assert_eq!(answers(&a, 50, texts).await, [50, 0, 0]);
}

#[tokio::test]
async fn half_a_zone_spills_what_it_cannot_carry() {
    let mesh = TestMesh::start().await;
    let a = mesh.service_with("a", Script::answer(200, ""), at("zj", "hz-a")).await;
    mesh.apply_service("b", "b", weir_policy::model::AppProtocol::Http1)
        .await;
    let _near = mesh
        .workload("b-1", "b", Script::answer(200, "zone"), at("zj", "hz-a"))
        .await;
    let _failing = mesh
        .workload("b-2", "b", Script::answer(500, "failed"), at("zj", "hz-a"))
        .await;
    let _region = mesh
        .workload("b-3", "b", Script::answer(200, "region"), at("zj", "hz-b"))
        .await;
    mesh.apply_in_force(
        "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {name: b, namespace: default}, spec: {
          targetRefs: [{group: '', kind: Service, name: b}], balancing: {type: RoundRobin}, locality: {},
          outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 1h}}}",
    )
    .await;
    let zone = ["cluster=\"b.default:80\"", "level=\"zone\""];
    until("the failing one to be left alone", || async {
        a.get("http://b/").await;
        (a.metric("weir_cluster_locality_percent", &zone).await == 70.0).then_some(())
    })
    .await;
    let [zone, region, failed] = answers(&a, 400, ["zone", "region", "failed"]).await;
    // 280 and 120 are expected; six standard deviations are 55.
    assert!((225..=335).contains(&zone), "{zone} {region}");
    assert_eq!((zone + region, failed), (400, 0));
}
