//! TLS with what has no sidecar: an ordinary HTTPS server behind a Service with a BackendTLSPolicy, and who is believed
//! there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_proxy::config::TcpListen;
use weir_test_mesh::{
    Answer, Envoy, Member, MemberSettings, Processes, Protocol, Script, ScriptedApp, TestMesh, bootstrap, call, until,
};

/// Somebody who signs for upstreams.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("it signs itself");
        Authority {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A server's certificate for these names: URIs have a colon.
    fn server(&self, names: &[&str]) -> Server {
        self.server_with(names, |_| {})
    }

    fn server_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Server {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        let name = |name: &&str| match name.contains(':') {
            true => SanType::URI((*name).try_into().expect("a URI")),
            false => SanType::DnsName((*name).try_into().expect("a name")),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        let provider = Arc::new(default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS12, &TLS13]);
        let config = config.expect("versions").with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = config
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("they fit");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Server { config }
    }
}

/// An HTTPS server.
struct Server {
    config: ServerConfig,
}

/// What it saw of a request.
#[derive(Clone, Debug, PartialEq)]
struct Saw {
    sni: Option<String>,
    version: Version,
    scheme: Option<String>,
}

struct Upstream {
    app: ScriptedApp,
    saw: Arc<Mutex<Vec<Saw>>>,
}

impl Upstream {
    fn address(&self) -> SocketAddr {
        self.app.address()
    }

    fn saw(&self) -> Vec<Saw> {
        self.saw.lock().expect("not poisoned").clone()
    }
}

impl Server {
    fn with(mut self, change: impl FnOnce(&mut ServerConfig)) -> Server {
        change(&mut self.config);
        self
    }

    /// Answers every request with this.
    async fn answers(self, text: &'static str) -> Upstream {
        let (open, waits) = watch::channel(true);
        std::mem::forget(open);
        self.answers_when(text, waits).await
    }

    /// Answers every request with this, once it may.
    async fn answers_when(self, text: &'static str, may: watch::Receiver<bool>) -> Upstream {
        let acceptor = TlsAcceptor::from(Arc::new(self.config));
        let saw: Arc<Mutex<Vec<Saw>>> = Arc::default();
        let sees = Arc::clone(&saw);
        let script = Script::raw(move |stream| {
            let (acceptor, saw, may) = (acceptor.clone(), Arc::clone(&sees), may.clone());
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let sni = stream.get_ref().1.server_name().map(str::to_owned);
                let service = service_fn(move |request: Request<Incoming>| {
                    saw.lock().expect("not poisoned").push(Saw {
                        sni: sni.clone(),
                        version: request.version(),
                        scheme: request.uri().scheme_str().map(str::to_owned),
                    });
                    let mut may = may.clone();
                    async move {
                        may.wait_for(|may| *may).await.expect("its test runs");
                        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Upstream {
            app: ScriptedApp::start(script).await,
            saw,
        }
    }
}

fn config_map(name: &str, key: &str, text: &str) -> String {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"},
        "data": {key: text},
    });
    map.to_string()
}

fn policy(service: &str, validation: Value) -> String {
    let policy = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": service, "namespace": "default"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": service}], "validation": validation},
    });
    policy.to_string()
}

/// By the certificates of a ConfigMap of this name.
fn by(config_map: &str, hostname: &str) -> Value {
    json!({
        "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": config_map}], "hostname": hostname,
    })
}

fn key(kind: Kind, name: &str) -> Key {
    Key {
        kind,
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// `status/reason` of each condition of the first target.
async fn conditions(mesh: &TestMesh, key: &Key) -> Vec<String> {
    let object = mesh.api(Method::GET, &key.path(), None).await.json();
    let conditions = object
        .pointer("/status/ancestors/0/conditions")
        .and_then(Value::as_array);
    let shown = |one: &Value| {
        let [of, status, reason] =
            ["type", "status", "reason"].map(|field| one[field].as_str().unwrap_or("?").to_owned());
        format!("{of}={status}/{reason}")
    };
    conditions.into_iter().flatten().map(shown).collect()
}

async fn until_conditions(mesh: &TestMesh, key: &Key, expect: &[&str]) {
    until(&format!("{key} to say {expect:?}"), || async {
        (conditions(mesh, key).await == expect).then_some(())
    })
    .await;
}

async fn mesh() -> (TestMesh, Member) {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    (mesh, a)
}

/// Why a proxy answered, by the field `Proxy-Status`.
fn error(answer: &Answer) -> String {
    let status = answer.header("proxy-status").unwrap_or_default();
    let error = status.split("; ").find_map(|part| part.strip_prefix("error="));
    error.unwrap_or_default().to_owned()
}

const CERTIFICATE: &str = "tls_certificate_error";

#[tokio::test]
async fn who_answers_must_be_whom_the_policy_names() {
    let (mesh, a) = mesh().await;
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    mesh.apply(&config_map("ours", "ca.crt", &ours.pem)).await;
    let old = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 2);
    };
    let spiffe = "spiffe://example.org/ns/registers/sa/old";
    let names = |names: Value| {
        let mut validation = by("ours", "b.old.example");
        validation["subjectAltNames"] = names;
        validation
    };
    let dns = |name: &str| json!([{"type": "Hostname", "hostname": name}]);
    let uri = |uri: &str| json!([{"type": "URI", "uri": uri}]);
    let plain = || by("ours", "b.old.example");
    let cases: Vec<(&str, Server, Value, &str)> = vec![
        ("right", ours.server(&["b.old.example"]), plain(), ""),
        ("wildcard", ours.server(&["*.old.example"]), plain(), ""),
        (
            "other-authority",
            others.server(&["b.old.example"]),
            plain(),
            "UnknownIssuer",
        ),
        (
            "other-name",
            ours.server(&["c.old.example"]),
            plain(),
            "it is for c.old.example, and should be for b.old.example",
        ),
        (
            "expired",
            ours.server_with(&["b.old.example"], old),
            plain(),
            "certificate expired",
        ),
        ("san", ours.server(&["c.old.example"]), names(dns("c.old.example")), ""),
        (
            "san-alone",
            ours.server(&["b.old.example"]),
            names(dns("c.old.example")),
            "it is for b.old.example, and should be for c.old.example",
        ),
        ("uri", ours.server(&[spiffe]), names(uri(spiffe)), ""),
        (
            "other-uri",
            ours.server(&["b.old.example", spiffe]),
            names(uri("spiffe://example.org/ns/registers/sa/new")),
            "and should be for spiffe://example.org/ns/registers/sa/new",
        ),
        (
            "any-of",
            ours.server(&[spiffe]),
            names(json!([dns("c.old.example")[0], uri(spiffe)[0]])),
            "",
        ),
        (
            "literal-wildcard",
            ours.server(&["*.old.example"]),
            names(dns("*.old.example")),
            "",
        ),
        (
            "no-wildcard",
            ours.server(&["c.old.example"]),
            names(dns("*.old.example")),
            "it is for c.old.example, and should be for *.old.example",
        ),
    ];
    for (name, server, validation, expect) in cases {
        let upstream = server.answers("from the old system").await;
        // Before the Service, so that it is never reached in cleartext.
        mesh.apply(&policy(name, validation)).await;
        mesh.plain_service(name, AppProtocol::Http1, &[upstream.address()])
            .await;
        let answer = a.get(&format!("http://{name}/")).await;
        if expect.is_empty() {
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (StatusCode::OK, "from the old system"),
                "{name}"
            );
            let [saw] = upstream.saw().try_into().expect("one request");
            assert_eq!(saw.sni.as_deref(), Some("b.old.example"), "{name}");
            assert_eq!(saw.version, Version::HTTP_11);
            let accepted = [
                "Accepted=True/Accepted",
                "ResolvedRefs=True/ResolvedRefs",
                "weir.dev/InForce=True/InForce",
            ];
            until_conditions(&mesh, &key(Kind::BackendTlsPolicy, name), &accepted).await;
        } else {
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{name}: {}", answer.text());
            assert_eq!(error(&answer), CERTIFICATE, "{name}");
            assert!(answer.text().contains(expect), "{name}: {}", answer.text());
            assert!(answer.text().contains("BackendTLSPolicy"), "{name}: {}", answer.text());
            assert_eq!(upstream.saw(), [], "{name}: nothing was sent");
        }
    }
}

#[tokio::test]
async fn a_policy_without_certificates_closes_its_service_and_says_why() {
    let (mesh, a) = mesh().await;
    let ours = Authority::new("ours");
    mesh.apply(&config_map("other-key", "ca.pem", &ours.pem)).await;
    mesh.apply(&config_map("no-pem", "ca.crt", "not a certificate")).await;
    let mut secret = by("x", "b.old.example");
    secret["caCertificateRefs"][0]["kind"] = json!("Secret");
    let cases = [
        (
            "missing",
            by("nowhere", "b.old.example"),
            "there is no ConfigMap/default/nowhere",
            "InvalidCACertificateRef",
        ),
        (
            "key",
            by("other-key", "b.old.example"),
            "data of ConfigMap/default/other-key has no ca.crt; it has ca.pem",
            "InvalidCACertificateRef",
        ),
        (
            "pem",
            by("no-pem", "b.old.example"),
            "ca.crt of ConfigMap/default/no-pem holds no certificate in PEM",
            "InvalidCACertificateRef",
        ),
        (
            "secret",
            secret,
            "caCertificateRefs[0] is a Secret, of which nothing is read",
            "InvalidKind",
        ),
    ];
    for (name, validation, expect, reason) in cases {
        let upstream = ours.server(&["b.old.example"]).answers("no").await;
        mesh.apply(&policy(name, validation)).await;
        mesh.plain_service(name, AppProtocol::Http1, &[upstream.address()])
            .await;
        let answer = a.get(&format!("http://{name}/")).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", answer.text());
        assert_eq!(error(&answer), "proxy_configuration_error");
        let text = answer.text();
        assert!(
            text.contains(&format!("BackendTLSPolicy/default/{name}")) && text.contains(expect),
            "{text}"
        );
        let closed = format!("ResolvedRefs=False/{reason}");
        let expect = [
            "Accepted=False/NoValidCACertificate",
            &closed,
            "weir.dev/InForce=True/InForce",
        ];
        until_conditions(&mesh, &key(Kind::BackendTlsPolicy, name), &expect).await;
        assert_eq!(upstream.app.connections(), 0, "nobody connected");
    }
    let metric = a.metric("weir_requests_total", &["flag=\"tls_closed\""]).await;
    assert_eq!(metric, 4.0);
    // The ConfigMap comes, and the next request goes through.
    let upstream = ours.server(&["b.old.example"]).answers("open").await;
    mesh.apply(&policy("late", by("late", "b.old.example"))).await;
    mesh.plain_service("late", AppProtocol::Http1, &[upstream.address()])
        .await;
    assert_eq!(a.get("http://late/").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    mesh.apply_in_force(&config_map("late", "ca.crt", &ours.pem)).await;
    until("the service to open", || async {
        (a.get("http://late/").await.text() == "open").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_speaks_no_tls_or_not_what_the_port_says_is_told_apart() {
    let (mesh, a) = mesh().await;
    let ours = Authority::new("ours");
    mesh.apply(&config_map("ours", "ca.crt", &ours.pem)).await;
    let cleartext = ScriptedApp::start(Script::answer(200, "in cleartext")).await;
    mesh.apply(&policy("cleartext", by("ours", "b.old.example"))).await;
    mesh.plain_service("cleartext", AppProtocol::Http1, &[cleartext.address()])
        .await;
    let answer = a.get("http://cleartext/").await;
    assert_eq!(
        (answer.status, error(&answer).as_str()),
        (StatusCode::BAD_GATEWAY, "tls_protocol_error")
    );
    assert!(cleartext.seen().is_empty());
    // HTTP/2 is agreed on, or not spoken.
    let only_http1 = |config: &mut ServerConfig| config.alpn_protocols.clear();
    let upstream = ours.server(&["b.old.example"]).with(only_http1).answers("h1").await;
    mesh.apply(&policy("h1", by("ours", "b.old.example"))).await;
    mesh.plain_service("h1", AppProtocol::Http2, &[upstream.address()])
        .await;
    let answer = a.get("http://h1/").await;
    assert_eq!(
        (answer.status, error(&answer).as_str()),
        (StatusCode::BAD_GATEWAY, "tls_protocol_error")
    );
    assert!(
        answer.text().contains("did not agree to speak HTTP/2"),
        "{}",
        answer.text()
    );
    let only_12 = ours.server(&["b.old.example"]).answers("h2").await;
    mesh.apply(&policy("h2", by("ours", "b.old.example"))).await;
    mesh.plain_service("h2", AppProtocol::Http2, &[only_12.address()]).await;
    assert_eq!(a.get("http://h2/").await.text(), "h2");
    assert_eq!(a.get("http://h2/").await.text(), "h2");
    let expect = Saw {
        sni: Some("b.old.example".to_owned()),
        version: Version::HTTP_2,
        scheme: Some("https".to_owned()),
    };
    assert_eq!(only_12.saw(), [expect.clone(), expect]);
    assert_eq!(only_12.app.connections(), 1, "one connection for both");
}

#[tokio::test]
async fn a_grpc_call_is_carried_or_told_in_its_own_terms() {
    let (mesh, a) = mesh().await;
    let ours = Authority::new("ours");
    mesh.apply(&config_map("ours", "ca.crt", &ours.pem)).await;
    let upstream = ours.server(&["b.old.example"]).answers("").await;
    for (name, by_map) in [("open", "ours"), ("closed", "nowhere")] {
        mesh.apply(&policy(name, by(by_map, "b.old.example"))).await;
        mesh.plain_service(name, AppProtocol::Grpc, &[upstream.address()]).await;
    }
    let ask = async |name: &str| {
        let request = Request::post(format!("http://{name}/pkg.Service/Method"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")));
        call(a.outbound(), Protocol::Http2, request.expect("a request"))
            .await
            .expect("an answer")
    };
    assert_eq!(ask("open").await.status, StatusCode::OK);
    assert_eq!(upstream.saw()[0].version, Version::HTTP_2);
    let closed = ask("closed").await;
    assert_eq!(closed.header("grpc-status"), Some("14"), "{closed:?}");
    assert!(
        closed
            .header("grpc-message")
            .is_some_and(|text| text.contains("nowhere")),
        "{closed:?}"
    );
}

/// Another certificate is believed from the next connection on; what is under way ends as it began.
#[tokio::test]
async fn a_change_reaches_new_connections_and_breaks_nothing() {
    let (mesh, a) = mesh().await;
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (go, may) = watch::channel(true);
    let upstream = old.server(&["b.old.example"]).answers_when("b", may).await;
    mesh.apply(&config_map("c", "ca.crt", &old.pem)).await;
    mesh.apply(&policy("b", by("c", "b.old.example"))).await;
    mesh.plain_service("b", AppProtocol::Http1, &[upstream.address()]).await;
    assert_eq!(a.get("http://b/").await.text(), "b");
    go.send_replace(false);
    let waiting = async {
        let answer = a.get("http://b/").await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "b"));
    };
    let changing = async {
        until("the request to be there", || async {
            (upstream.saw().len() == 2).then_some(())
        })
        .await;
        mesh.apply_in_force(&config_map("c", "ca.crt", &new.pem)).await;
        until("the change to be in force", || async {
            let answer = a.get("http://b/").await;
            (error(&answer) == CERTIFICATE).then_some(())
        })
        .await;
        go.send_replace(true);
    };
    tokio::join!(waiting, changing);
    // Both are believed while one takes over from the other.
    mesh.apply_in_force(&config_map("c", "ca.crt", &format!("{}{}", new.pem, old.pem)))
        .await;
    until("it to be believed again", || async {
        (a.get("http://b/").await.text() == "b").then_some(())
    })
    .await;
}

#[tokio::test]
async fn checks_and_those_who_ask_see_the_same() {
    let (mesh, a) = mesh().await;
    let ours = Authority::new("ours");
    let upstream = ours.server(&["b.old.example"]).answers("b").await;
    mesh.apply(&config_map("ours", "ca.crt", &ours.pem)).await;
    mesh.apply(&policy("b", by("ours", "b.old.example"))).await;
    mesh.apply(
        "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {name: b, namespace: default}, spec: {
          targetRefs: [{group: '', kind: Service, name: b}],
          healthCheck: {type: Http, http: {path: /healthz}, interval: 100ms, timeout: 3s}}}",
    )
    .await;
    mesh.plain_service("b", AppProtocol::Http1, &[upstream.address()]).await;
    assert_eq!(a.get("http://b/").await.text(), "b");
    let cluster = async || {
        let config = a.config().await;
        let clusters = config["mesh"]["clusters"].as_array().expect("clusters").clone();
        clusters
            .into_iter()
            .find(|one| one["name"] == "b.default:80")
            .expect("b")
    };
    let shown = until("a check to pass", || async {
        let cluster = cluster().await;
        let passed = cluster["endpoints"][0]["checks"].as_str()?.contains("passed");
        passed.then_some(cluster)
    })
    .await;
    assert_eq!(shown["endpoints"][0]["tls"], "b.old.example");
    let verified = json!({"verified": {"hostname": "b.old.example", "authorities": "1 certificate of the policy"}});
    assert_eq!(shown["backend_tls"], verified);
    // Who is not believed fails the check as well.
    let other = Authority::new("other");
    mesh.apply(&config_map("ours", "ca.crt", &other.pem)).await;
    until("a check to fail", || async {
        let cluster = cluster().await;
        let failed = cluster["endpoints"][0]["checks"].as_str()?.contains("UnknownIssuer");
        failed.then_some(())
    })
    .await;
    mesh.delete(&key(Kind::ConfigMap, "ours")).await;
    let shown = until("it to be closed", || async {
        let cluster = cluster().await;
        cluster["backend_tls"]["closed"].is_string().then_some(cluster)
    })
    .await;
    assert_eq!(shown["endpoints"][0]["used"], false);
    let why = "TLS is asked for, and there is nothing to go by";
    assert_eq!(shown["endpoints"][0]["why"], why, "{shown:#}");
}

/// What has an identity of the mesh is reached by it, whatever a policy says of the rest.
#[tokio::test]
async fn workloads_of_the_mesh_are_reached_by_its_own_tls() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    mesh.apply(&policy("b", by("nowhere", "b.old.example"))).await;
    until_conditions(
        &mesh,
        &key(Kind::BackendTlsPolicy, "b"),
        &[
            "Accepted=False/NoValidCACertificate",
            "ResolvedRefs=False/InvalidCACertificateRef",
            "weir.dev/InForce=Unknown/NoSubscribers",
        ],
    )
    .await;
    assert_eq!(a.get("http://b/").await.text(), "from b");
    let [seen] = b.seen().try_into().expect("one request");
    assert!(
        seen.header("x-forwarded-client-cert")
            .is_some_and(|by| by.contains("/sa/a"))
    );
}

/// The certificates of the system are those that the machine is told of, here by a variable.
#[tokio::test]
async fn those_whom_the_system_trusts_are_believed() {
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca-certificates.crt");
    std::fs::write(&file, &trusted.pem).expect("written");
    let mesh = TestMesh::start().await;
    let app = ScriptedApp::start(Script::answer(200, "")).await;
    let url = mesh.cleartext_url().to_string();
    let processes = Processes::of_this_build().with_variable("SSL_CERT_FILE", &file);
    let a = processes.proxy("a", app.address(), &["--control-plane", &url]).await;
    let system = || json!({"wellKnownCACertificates": "System", "hostname": "b.old.example"});
    for (name, authority) in [("trusted", &trusted), ("other", &other)] {
        let upstream = authority.server(&["b.old.example"]).answers("b").await;
        mesh.apply(&policy(name, system())).await;
        mesh.plain_service(name, AppProtocol::Http1, &[upstream.address()])
            .await;
        let request = Request::get("/").header("host", name).body(Full::default());
        let answer = call(a.outbound, Protocol::Http1, request.expect("a request"))
            .await
            .expect("an answer");
        match name {
            "trusted" => assert_eq!(answer.text(), "b"),
            _ => assert_eq!(error(&answer), CERTIFICATE, "{}", answer.text()),
        }
    }
}

/// What a server of TCP saw of a handshake: the name that was asked for, and what is said to be spoken within.
type Greeted = (Option<String>, Option<Vec<u8>>);

/// A port that carries TCP is reached by TLS as well, and only where the policy's name is.
#[tokio::test]
async fn tcp_is_carried_by_tls() {
    let mesh = TestMesh::start().await;
    let ours = Authority::new("ours");
    mesh.apply(&config_map("ours", "ca.crt", &ours.pem)).await;
    let greeted: Arc<Mutex<Vec<Greeted>>> = Arc::default();
    let mut apps = Vec::new();
    for (service, name) in [("right", "b.old.example"), ("wrong", "c.old.example")] {
        let acceptor = TlsAcceptor::from(Arc::new(ours.server(&[name]).config));
        let greeted = Arc::clone(&greeted);
        let echo = Script::raw(move |stream| {
            let (acceptor, greeted) = (acceptor.clone(), Arc::clone(&greeted));
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let (_, tls) = stream.get_ref();
                let saw = (
                    tls.server_name().map(str::to_owned),
                    tls.alpn_protocol().map(<[u8]>::to_vec),
                );
                greeted.lock().expect("not poisoned").push(saw);
                let (mut reads, mut writes) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reads, &mut writes).await;
                let _ = writes.shutdown().await;
            }
        });
        let app = ScriptedApp::start(echo).await;
        mesh.apply(&policy(service, by("ours", "b.old.example"))).await;
        mesh.plain_service(service, AppProtocol::Tcp, &[app.address()]).await;
        apps.push(app);
    }
    let listens = ["right", "wrong"].map(|service| TcpListen {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        service: format!("{service}.default.svc.cluster.local:80")
            .parse()
            .expect("a name"),
    });
    let settings = MemberSettings {
        proxy: Box::new(move |config| config.listens = listens.into()),
        ..MemberSettings::default()
    };
    let a = mesh.service_with("a", Script::answer(200, ""), settings).await;
    let connect = async |place: usize| {
        let stream = TcpStream::connect(a.addresses().listens[place]).await;
        stream.expect("the sidecar accepts")
    };
    let mut stream = connect(0).await;
    stream.write_all(b"hello").await.expect("written");
    stream.shutdown().await.expect("ended");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.expect("an end");
    assert_eq!(said, b"hello");
    // What is spoken within is the app's business: nothing is said of it.
    let saw = [(Some("b.old.example".to_owned()), None)];
    assert_eq!(*greeted.lock().expect("not poisoned"), saw);

    let mut stream = connect(1).await;
    let read = stream.read_to_end(&mut said).await;
    let error = read.expect_err("it is somebody else").kind();
    assert_eq!(error, std::io::ErrorKind::ConnectionReset);
    assert_eq!(*greeted.lock().expect("not poisoned"), saw, "its handshake did not end");
    until("both ends to be counted", || async {
        let ended = async |flag| a.metric("weir_tcp_ended_total", &[flag]).await;
        let counted = (ended("flag=\"none\"").await, ended("flag=\"tls_failed\"").await);
        (counted == (1.0, 1.0)).then_some(())
    })
    .await;
}

/// A real Envoy under the same policies does the same.
#[tokio::test]
async fn an_envoy_believes_and_refuses_the_same() {
    let mesh = TestMesh::start().await;
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    mesh.apply(&config_map("ours", "ca.crt", &ours.pem)).await;
    let spiffe = "spiffe://example.org/ns/registers/sa/old";
    let mut by_uri = by("ours", "b.old.example");
    by_uri["subjectAltNames"] = json!([{"type": "URI", "uri": spiffe}]);
    let cases = [
        (
            "right",
            ours.server(&["b.old.example"]),
            by("ours", "b.old.example"),
            AppProtocol::Http1,
            true,
        ),
        (
            "h2",
            ours.server(&["b.old.example"]),
            by("ours", "b.old.example"),
            AppProtocol::Http2,
            true,
        ),
        (
            "wildcard",
            ours.server(&["*.old.example"]),
            by("ours", "b.old.example"),
            AppProtocol::Http1,
            true,
        ),
        (
            "authority",
            others.server(&["b.old.example"]),
            by("ours", "b.old.example"),
            AppProtocol::Http1,
            false,
        ),
        (
            "name",
            ours.server(&["c.old.example"]),
            by("ours", "b.old.example"),
            AppProtocol::Http1,
            false,
        ),
        ("uri", ours.server(&[spiffe]), by_uri.clone(), AppProtocol::Http1, true),
        (
            "other-uri",
            ours.server(&["b.old.example"]),
            by_uri,
            AppProtocol::Http1,
            false,
        ),
        (
            "closed",
            ours.server(&["b.old.example"]),
            by("nowhere", "b.old.example"),
            AppProtocol::Http1,
            false,
        ),
    ];
    let mut expected = Vec::new();
    for (name, server, validation, protocol, believed) in cases {
        let upstream = server.answers("from the old system").await;
        mesh.apply(&policy(name, validation)).await;
        mesh.plain_service(name, protocol, &[upstream.address()]).await;
        expected.push((name, upstream, believed));
    }
    let control = mesh.control().xds_addr().expect("it is on");
    let envoy = Envoy::start(&bootstrap(
        control,
        "e",
        "DELTA_GRPC",
        json!({"outbound": "127.0.0.1:0"}),
    ))
    .await;
    let outbound = envoy.listener("weir-outbound").await;
    for (name, upstream, believed) in expected {
        let ask = async || {
            let request = Request::get("/").header("host", name).body(Full::default());
            call(outbound, Protocol::Http1, request.expect("a request"))
                .await
                .expect("an answer")
        };
        let status = if believed {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        until(&format!("Envoy to answer {status} for {name}"), || async {
            let answer = ask().await;
            (answer.status == status).then_some(())
        })
        .await;
        assert_eq!(upstream.saw().is_empty(), !believed, "{name}");
        if let Some(saw) = upstream.saw().first() {
            assert_eq!(saw.sni.as_deref(), Some("b.old.example"), "{name}");
        }
    }
}
