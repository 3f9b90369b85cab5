//! A rotation of the root as a scripted client sees it: what it has to do before the control plane goes on, and what
//! is said of it until then.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use weir_control::store::Location;
use weir_control::{AuthorityConfig, ControlConfig, RunningControl};
use weir_policy::model::Locality;
use weir_policy::roots::{Proof, RootId};
use weir_xds::decode::{Resource, decode};
use weir_xds::envoy::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weir_xds::{ResourceType, node};

use super::client::Client;
use super::identity::{ByRoot, Credential, certificate, connect};
use super::proxy::within;

const WORKLOAD: &str = "citizen/portal-1";

async fn start(folder: &tempfile::TempDir) -> (RunningControl, Client) {
    let (control, client) = super::run(ControlConfig {
        location: Location::Directory(folder.path().join("data")),
        xds_tls: Some(([127, 0, 0, 1], 0).into()),
        ..ControlConfig::in_memory()
    })
    .await;
    client
        .post("/api/v1/namespaces", &super::namespace("citizen"))
        .await
        .expect(201);
    (control, client)
}

/// An ADS stream of a weir proxy, by hand.
struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    /// Says who is there, and asks for `names` of roots.
    async fn open(control: &RunningControl, client: Client, own: &Credential, of: ResourceType, name: &str) -> Stream {
        let node = node::node(&WORKLOAD.parse().expect("a workload"), &Locality::default(), "0.1.0");
        let (requests, outgoing) = mpsc::channel(8);
        let first = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: of.url().to_owned(),
            resource_names_subscribe: vec![name.to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.expect("there is room");
        let mut ads = AggregatedDiscoveryServiceClient::new(connect(control, client, Some(own)).await);
        let answers = ads.delta_aggregated_resources(ReceiverStream::new(outgoing));
        let answers = within("a stream", answers).await.expect("a stream").into_inner();
        Stream { requests, answers }
    }

    async fn answer(&mut self) -> DeltaDiscoveryResponse {
        let answer = within("an answer", self.answers.message()).await;
        answer.expect("open").expect("an answer")
    }

    /// The roots that are told next, and by which answer.
    async fn roots(&mut self) -> (Vec<CertificateDer<'static>>, String) {
        let answer = self.answer().await;
        let told = answer.resources[0].resource.as_ref().expect("it is there");
        let read = decode(ResourceType::TrustRoots, "ROOTCA", told).expect("it is strict");
        let Resource::TrustRoots(roots) = read else {
            panic!("{read:?}")
        };
        let certificates = CertificateDer::pem_slice_iter(roots.pem.as_bytes()).collect::<Result<_, _>>();
        (certificates.expect("certificates"), answer.nonce)
    }

    async fn acknowledge(&self, nonce: &str) {
        let ack = DeltaDiscoveryRequest {
            type_url: ResourceType::TrustRoots.url().to_owned(),
            response_nonce: nonce.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(ack).await.expect("there is room");
    }
}

/// A handshake under this root alone, to the name by which that is shown; whether it was seen to its end.
async fn show(control: &RunningControl, own: &Credential, root: &CertificateDer<'static>, workload: &str) -> bool {
    let mut trusted = RootCertStore::empty();
    trusted.add(root.clone()).expect("a root");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key.serialize_der()));
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ByRoot(trusted)))
        .with_client_auth_cert(own.chain.clone(), key)
        .expect("they belong together");
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, root);
    let proof = Proof {
        root: RootId::of(sha256.as_ref().try_into().expect("32 bytes")),
        workload: workload.parse().expect("a workload"),
    };
    let name = ServerName::try_from(proof.to_string()).expect("a name");
    let shown = async {
        let stream = TcpStream::connect(control.xds_tls_addr().expect("it is on")).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.read(&mut [0]).await
    };
    within("a handshake", shown).await.is_ok_and(|read| read == 0)
}

async fn rotate(client: Client, request: Value) -> super::client::Reply {
    client.post("/authority/rotation", &request).await
}

/// The status, once it is so.
async fn until(client: Client, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let come = async {
        loop {
            let status = client.get("/authority").await.expect(200);
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(what, come).await
}

/// The status, once this is said of the only proxy.
async fn until_behind(client: Client, why: &str) -> Value {
    let is_said = |status: &Value| {
        let held = status["behind"][0]["why"].as_str();
        held.is_some_and(|held| held.contains(why))
    };
    let status = until(client, why, is_said).await;
    assert_eq!(status["behind"][0]["workload"], WORKLOAD);
    status
}

async fn until_step(client: Client, step: &str) -> Value {
    until(client, step, |status| status["rotation"]["step"] == step).await
}

#[tokio::test]
async fn a_proxy_has_to_acknowledge_the_roots_and_to_show_that_it_trusts_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let (control, client) = start(&folder).await;
    let own = certificate(client, "citizen", "portal").await;
    let mut stream = Stream::open(&control, client, &own, ResourceType::TrustRoots, "ROOTCA").await;
    let (one, nonce) = stream.roots().await;
    assert_eq!(one.len(), 1);
    stream.acknowledge(&nonce).await;

    rotate(client, json!({"action": "Root"})).await.expect(200);
    let (both, nonce) = stream.roots().await;
    assert_eq!((both.len(), &both[0]), (2, &one[0]), "the one that signs is first");
    until_behind(client, "it has not acknowledged the roots").await;
    stream.acknowledge(&nonce).await;
    until_behind(client, "it has not shown by a handshake").await;

    // Not by another root's name, nor in another's name, nor for a workload of another namespace.
    assert!(!show(&control, &own, &both[1], "police/portal-1").await);
    assert!(
        show(&control, &own, &both[0], WORKLOAD).await,
        "the old one is there as well"
    );
    assert!(
        show(&control, &own, &both[1], "citizen/portal-2").await,
        "of its own namespace"
    );
    until_behind(client, "it has not shown by a handshake").await;
    // What is shown under the new root leads to no other.
    let status = client.get("/authority").await.expect(200);
    assert_eq!(status["rotation"]["canAbort"], true, "{status}");

    assert!(show(&control, &own, &both[1], WORKLOAD).await);
    let signing = until_step(client, "Sign").await;
    assert_eq!(signing["rotation"]["canAbort"], false, "{signing}");
    let (turned, _) = stream.roots().await;
    assert_eq!(turned, [both[1].clone(), both[0].clone()], "the new one signs");
    until_behind(client, "its certificate is below the old root").await;
    let renewed = certificate(client, "citizen", "portal").await;
    assert!(show(&control, &renewed, &both[1], WORKLOAD).await);
    let nobody = |status: &Value| status["behind"] == json!([]);
    let waits = until(client, "nobody to be behind", nobody).await;
    assert_eq!(
        waits["rotation"]["step"], "Sign",
        "certificates below the old root are good for a day"
    );
    assert_ne!(waits["rotation"]["waitsUntil"], "", "{waits}");
    control.shutdown().await;
}

#[tokio::test]
async fn one_that_never_asks_for_roots_is_named_and_what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (control, client) = start(&folder).await;
    let own = certificate(client, "citizen", "portal").await;
    let nobody = "nobody.citizen:80";
    let mut stream = Stream::open(&control, client, &own, ResourceType::Cluster, nobody).await;
    stream.answer().await;
    rotate(client, json!({"action": "Abort"}))
        .await
        .refused(409, "Conflict");
    rotate(client, json!({"action": "Root"})).await.expect(200);
    let status = until_behind(client, "it does not take roots from the control plane").await;
    assert!(
        status["behind"][0]["remedy"]
            .as_str()
            .is_some_and(|text| text.contains("--despite")),
        "{status}"
    );
    let text = rotate(client, json!({"action": "Intermediate"}))
        .await
        .refused(409, "Conflict");
    assert!(text.contains("a rotation is under way, at the step Trust"), "{text}");
    let text = rotate(client, json!({"action": "Root", "despite": ["portal-1"]})).await;
    let text = text.refused(400, "BadRequest");
    assert!(text.contains("is not of the form namespace/name"), "{text}");
    rotate(client, json!({"action": "Root", "despite": [WORKLOAD]}))
        .await
        .expect(200);
    until_step(client, "Sign").await;
    let text = rotate(client, json!({"action": "Abort"}))
        .await
        .refused(409, "Conflict");
    assert!(text.contains("let it end, and rotate once more"), "{text}");
    control.shutdown().await;

    let (control, client) = super::run(ControlConfig {
        authority: AuthorityConfig::default(),
        ..ControlConfig::in_memory()
    })
    .await;
    let text = rotate(client, json!({"action": "Root"})).await.refused(409, "Conflict");
    assert!(text.contains("the authority is in memory"), "{text}");
    control.shutdown().await;
}
