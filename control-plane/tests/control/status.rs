//! What resources say of themselves, as a client of the API reads it.

use serde_json::{Value, json};
use weir_control::store::Location;
use weir_control::{Control, ControlConfig};
use weir_xds::ResourceType::{Cluster, Listener, Route};

use super::client::{Client, Watching};
use super::proxy::{Ads, Answer, within};
use super::{SERVICES, in_memory, namespace, run, service};

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/citizen/httproutes";
const POLICIES: &str = "/apis/weir.dev/v1/namespaces/citizen/backendpolicies";
const ROUTE: &str = "portal.citizen:80/*";

fn route(backend: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "portal"}],
            "rules": [{"backendRefs": [backend]}],
        },
    })
}

fn to_portal() -> Value {
    route(json!({"name": "portal", "port": 80}))
}

fn policy(name: &str, service: &str, max_requests: u32) -> Value {
    json!({
        "apiVersion": "weir.dev/v1",
        "kind": "BackendPolicy",
        "metadata": {"name": name},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": service}],
            "circuitBreaker": {"maxRequests": max_requests},
        },
    })
}

/// A collection's objects as they change.
struct Statuses {
    watch: Watching,
}

impl Statuses {
    async fn of(client: &Client, collection: &str) -> Statuses {
        Statuses {
            watch: client.watch(&format!("{collection}?watch=1")).await,
        }
    }

    /// The first state of an object whose condition of this type, in the first entry of its status, says
    /// `status reason: message`.
    async fn until(&mut self, name: &str, condition: &str, expect: &str) -> Value {
        let mut last = Value::Null;
        let come = async {
            loop {
                let event = self.watch.next().await.expect("the watch goes on");
                let object = &event["object"];
                if object["metadata"]["name"] != name {
                    continue;
                }
                last = object["status"].clone();
                if said(object, condition).as_deref() == Some(expect) {
                    return object.clone();
                }
            }
        };
        let patience = super::client::PATIENCE;
        match tokio::time::timeout(patience, come).await {
            Ok(object) => object,
            Err(_) => panic!("waited {patience:?} in vain for {name} to say {condition} {expect}; it says {last:#}"),
        }
    }
}

fn conditions(object: &Value) -> Option<&Vec<Value>> {
    let status = &object["status"];
    let entry = status
        .pointer("/parents/0")
        .or_else(|| status.pointer("/ancestors/0"))?;
    entry["conditions"].as_array()
}

fn condition<'a>(object: &'a Value, named: &str) -> Option<&'a Value> {
    conditions(object)?.iter().find(|condition| condition["type"] == named)
}

fn said(object: &Value, named: &str) -> Option<String> {
    let condition = condition(object, named)?;
    let text = |field: &str| condition[field].as_str().unwrap_or("?").to_owned();
    Some(format!("{} {}: {}", text("status"), text("reason"), text("message")))
}

const IN_FORCE: &str = "weir.dev/InForce";

async fn subscribed(control: &weir_control::RunningControl, workload: &str) -> (Ads, Answer) {
    let mut ads = Ads::open(control, workload).await;
    ads.subscribe(Route, &[ROUTE]).await;
    let answer = ads.answer().await;
    (ads, answer)
}

#[tokio::test]
async fn a_route_says_where_it_is_in_force_and_who_rejected_it_why() {
    let (control, client) = in_memory().await;
    let mut statuses = Statuses::of(&client, ROUTES).await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    let mut given = to_portal();
    given["status"] = json!({"parents": [{"conditions": [{"type": "Accepted", "status": "True"}]}]});
    let created = client.post(ROUTES, &given).await.expect(201);
    assert_eq!(created.get("status"), None, "a client's is ignored");
    let path = format!("{ROUTES}/r");
    let nobody = "Unknown NoSubscribers: no connected proxy uses it";
    let first = statuses.until("r", IN_FORCE, nobody).await;
    let accepted = "True Accepted: callers of Service citizen/portal go by it, save those with routes in their own \
                    namespace";
    assert_eq!(said(&first, "Accepted").as_deref(), Some(accepted));

    let (mut one, of_one) = subscribed(&control, "citizen/portal-1").await;
    let (mut two, of_two) = subscribed(&control, "citizen/portal-2").await;
    one.ack(&of_one).await;
    let half = "Unknown Pending: in force on 1 of 2; waiting for citizen/portal-2";
    statuses.until("r", IN_FORCE, half).await;
    two.nack(&of_two, "rules: what is this?").await;
    let rejected = "False Rejected: in force on 1 of 2; citizen/portal-2 rejected: rules: what is this?";
    let held = statuses.until("r", IN_FORCE, rejected).await;
    let view = client.get(&format!("{path}/proxies")).await.expect(200);
    assert_eq!(view["inForce"], json!(["citizen/portal-1"]));
    assert_eq!(
        view["rejected"],
        json!([{"proxy": "citizen/portal-2", "reason": "rules: what is this?"}])
    );
    assert_eq!(held["metadata"]["generation"], 1, "a status is no change of the spec");

    let mut changed = to_portal();
    changed["spec"]["rules"][0]["matches"] = json!([{"path": {"type": "PathPrefix", "value": "/x"}}]);
    changed["status"] = json!({"parents": "as somebody would like it"});
    let put = client.put(&path, &changed).await.expect(200);
    assert_eq!(put["status"], held["status"], "until something else is to be said");
    for ads in [&mut one, &mut two] {
        let answer = ads.answer().await;
        ads.ack(&answer).await;
    }
    let all = statuses.until("r", IN_FORCE, "True InForce: in force on 2 of 2").await;
    for condition in conditions(&all).expect("conditions") {
        assert_eq!(condition["observedGeneration"], 2);
    }
    drop((one, two));
    statuses.until("r", IN_FORCE, nobody).await;
    control.shutdown().await;
}

#[tokio::test]
async fn a_route_says_which_references_do_not_resolve_until_they_do() {
    let (control, client) = in_memory().await;
    let mut statuses = Statuses::of(&client, ROUTES).await;
    client
        .post("/api/v1/namespaces", &namespace("police"))
        .await
        .expect(201);
    client
        .post(
            ROUTES,
            &route(json!({"name": "secret", "namespace": "police", "port": 80})),
        )
        .await
        .expect(201);
    let no_parent = "False NoMatchingParent: there is no Service citizen/portal";
    let held = statuses.until("r", "Accepted", no_parent).await;
    let refused = "False RefNotPermitted: its share is answered with 500: rules[0].backendRefs[0]: no ReferenceGrant in \
                   police permits Service police/secret";
    assert_eq!(said(&held, "ResolvedRefs").as_deref(), Some(refused));
    client.post(SERVICES, &service("portal")).await.expect(201);
    let accepted = "True Accepted: callers of Service citizen/portal go by it, save those with routes in their own \
                    namespace";
    statuses.until("r", "Accepted", accepted).await;
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "g"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "citizen"}],
            "to": [{"group": "", "kind": "Service"}],
        },
    });
    let grants = "/apis/gateway.networking.k8s.io/v1beta1/namespaces/police/referencegrants";
    client.post(grants, &grant).await.expect(201);
    let missing = "False BackendNotFound: its share is answered with 500: rules[0].backendRefs[0]: there is no Service \
                   police/secret";
    statuses.until("r", "ResolvedRefs", missing).await;
    let in_police = "/api/v1/namespaces/police/services";
    client.post(in_police, &service("secret")).await.expect(201);
    statuses
        .until("r", "ResolvedRefs", "True ResolvedRefs: every backend is there")
        .await;
    client.delete(&format!("{grants}/g")).await.expect(200);
    statuses.until("r", "ResolvedRefs", refused).await;
    control.shutdown().await;
}

#[tokio::test]
async fn of_two_policies_the_newer_holds_once_the_older_is_gone() {
    let (control, client) = in_memory().await;
    let mut statuses = Statuses::of(&client, POLICIES).await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    let mut ads = Ads::open(&control, "citizen/portal-1").await;
    ads.subscribe(Cluster, &["portal.citizen:80"]).await;
    let answer = ads.answer().await;
    ads.ack(&answer).await;
    client.post(POLICIES, &policy("a", "portal", 10)).await.expect(201);
    let answer = ads.answer().await;
    ads.ack(&answer).await;
    let holds = "True Accepted: it holds for Service citizen/portal";
    let first = statuses.until("a", IN_FORCE, "True InForce: in force on 1 of 1").await;
    assert_eq!(said(&first, "Accepted").as_deref(), Some(holds));
    client.post(POLICIES, &policy("b", "portal", 20)).await.expect(201);
    let mut held = Statuses::of(&client, POLICIES).await;
    let second = held.until("b", IN_FORCE, NOT_ACCEPTED).await;
    let conflicted = said(&second, "Accepted").expect("a condition");
    let both = "BackendPolicy/citizen/a and BackendPolicy/citizen/b both claim Service citizen/portal; \
                BackendPolicy/citizen/a, ";
    assert!(
        conflicted.starts_with(&format!("False Conflicted: {both}")),
        "{conflicted}"
    );
    client.delete(&format!("{POLICIES}/a")).await.expect(200);
    let answer = ads.answer().await;
    ads.ack(&answer).await;
    let now = held.until("b", IN_FORCE, "True InForce: in force on 1 of 1").await;
    assert_eq!(said(&now, "Accepted").as_deref(), Some(holds));
    control.shutdown().await;
}

const NOT_ACCEPTED: &str = "False NotAccepted: it is not accepted, so that no proxy is told of it";

/// After a restart a proxy that is back has what it had: nothing is sent, and nothing else is to be said.
#[tokio::test]
async fn a_restart_does_not_shake_what_is_in_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = ControlConfig {
        location: Location::Directory(folder.path().to_owned()),
        ..ControlConfig::in_memory()
    };
    let (control, client) = run(config.clone()).await;
    client
        .post("/api/v1/namespaces", &namespace("citizen"))
        .await
        .expect(201);
    client.post(SERVICES, &service("portal")).await.expect(201);
    let mut statuses = Statuses::of(&client, ROUTES).await;
    client.post(ROUTES, &to_portal()).await.expect(201);
    let (mut ads, answer) = subscribed(&control, "citizen/portal-1").await;
    ads.ack(&answer).await;
    let in_force = "True InForce: in force on 1 of 1";
    let before = statuses.until("r", IN_FORCE, in_force).await;
    control.shutdown().await;

    let control = Control::start(config).await.expect("a control plane");
    let client = Client {
        address: control.api_addr(),
    };
    let mut statuses = Statuses::of(&client, ROUTES).await;
    let mut ads = Ads::open(&control, "citizen/portal-1").await;
    let version = answer.version.expect("it exists");
    ads.resume(Route, &[(ROUTE, &version)]).await;
    let view = format!("{ROUTES}/r/proxies");
    let back = async {
        while client.get(&view).await.expect(200)["state"] != "InForce" {
            tokio::task::yield_now().await;
        }
    };
    within("the proxy to be back", back).await;
    // What may be said of both is looked at together: when this one's status is there, so would be the other's.
    let mut other = to_portal();
    other["metadata"]["name"] = json!("z");
    other["spec"]["parentRefs"][0]["name"] = json!("other");
    client.post(ROUTES, &other).await.expect(201);
    statuses
        .until(
            "z",
            "Accepted",
            "False NoMatchingParent: there is no Service citizen/other",
        )
        .await;
    let after = client.get(&format!("{ROUTES}/r")).await.expect(200);
    assert_eq!(after["status"], before["status"]);
    assert_eq!(
        after["metadata"]["resourceVersion"],
        before["metadata"]["resourceVersion"]
    );
    control.shutdown().await;
}

/// Of many services' subscribers a policy for one reaches that one's alone, and its status reaches nobody.
#[tokio::test]
async fn a_policy_is_sent_to_who_depends_on_it_alone() {
    const SERVICES_MADE: usize = 20;
    let (control, client) = in_memory().await;
    let mut proxies = Vec::new();
    for number in 0..SERVICES_MADE {
        let name = format!("s{number}");
        client.post(SERVICES, &service(&name)).await.expect(201);
        let mut ads = Ads::open(&control, &format!("citizen/w{number}")).await;
        for (of, subscribed) in [
            (Cluster, format!("{name}.citizen:80")),
            (Listener, format!("{name}.citizen.svc.cluster.local:80")),
            (Route, format!("{name}.citizen:80/*")),
        ] {
            ads.subscribe(of, &[&subscribed]).await;
            let answer = ads.answer().await;
            ads.ack(&answer).await;
        }
        proxies.push(ads);
    }
    let mut statuses = Statuses::of(&client, POLICIES).await;
    client.post(POLICIES, &policy("p", "s7", 10)).await.expect(201);
    let answer = proxies[7].answer().await;
    assert_eq!((answer.of, answer.name.as_str()), (Cluster, "s7.citizen:80"));
    proxies[7].ack(&answer).await;
    statuses.until("p", IN_FORCE, "True InForce: in force on 1 of 1").await;
    // The next that each is told is what it asks for now: nothing was sent before.
    for ads in &mut proxies {
        ads.subscribe(Cluster, &["asked.citizen:1"]).await;
        let answer = within("what was asked for", ads.answer()).await;
        assert_eq!(answer.name, "asked.citizen:1");
    }
    control.shutdown().await;
}

/// What others wait with: `kubectl wait` on a condition of one parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_waits_until_a_route_is_in_force() {
    let peers = std::env::var("WEIR_PEERS").expect("WEIR_PEERS is not set: ./dev test installs kubectl and sets it");
    let (control, client) = in_memory().await;
    client.post(SERVICES, &service("portal")).await.expect(201);
    client.post(ROUTES, &to_portal()).await.expect(201);
    let (mut ads, answer) = subscribed(&control, "citizen/portal-1").await;
    let mut statuses = Statuses::of(&client, ROUTES).await;
    let pending = "Unknown Pending: in force on 0 of 1; waiting for citizen/portal-1";
    statuses.until("r", IN_FORCE, pending).await;
    let home = tempfile::tempdir().expect("a folder");
    let condition = r#"jsonpath={.status.parents[0].conditions[?(@.type=="weir.dev/InForce")].status}=True"#;
    let wait = tokio::process::Command::new(format!("{peers}/bin/kubectl"))
        .env("HOME", home.path())
        .env_remove("KUBECONFIG")
        .arg(format!("--server=http://{}", control.api_addr()))
        .arg(format!("--cache-dir={}", home.path().display()))
        .args([
            "--namespace=citizen",
            "wait",
            "httproute/r",
            "--timeout=20s",
            "--for",
            condition,
        ])
        .kill_on_drop(true)
        .output();
    let confirm = async {
        ads.ack(&answer).await;
        statuses.until("r", IN_FORCE, "True InForce: in force on 1 of 1").await;
    };
    let (waited, ()) = tokio::join!(wait, confirm);
    let waited = waited.expect("kubectl starts");
    let said = String::from_utf8_lossy(&waited.stdout);
    assert!(
        waited.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&waited.stderr)
    );
    assert_eq!(said.trim(), "httproute.gateway.networking.k8s.io/r condition met");
    control.shutdown().await;
}
