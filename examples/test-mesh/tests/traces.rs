//! A query through three services is one trace, as a collector that is not ours sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;
use weir_proxy::config::Edge;
use weir_test_mesh::{Member, MemberSettings, Protocol, Script, Seen, TestMesh, call, free_port, until};

/// What a citizen would like to be taken for the mesh's own.
const FORGED_TRACE: &str = "0123456789abcdef0123456789abcdef";
const FORGED_PARENT: &str = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
const FORGED_STATE: &str = "weir=00000000deadbeef,evil=yes";
const FORGED_CONTEXT: &str = "1;i=00000000deadbeef;p=7";

/// The span that B's app makes of its own: what an app with OpenTelemetry does.
const SPAN_OF_APP: &str = "00000000000000b0";

/// rotel: it takes the sidecars' spans and hands them on to a control plane, where they can be looked at.
struct Collector {
    address: SocketAddr,
    _child: Child,
    _files: tempfile::TempDir,
}

impl Collector {
    async fn start(onward: SocketAddr) -> Collector {
        let peers =
            std::env::var_os("WEIR_PEERS").expect("WEIR_PEERS: `./dev test` installs rotel and says where it is");
        let program = PathBuf::from(peers).join("bin/rotel-agent");
        let files = tempfile::tempdir().expect("a folder");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let child = Command::new(&program)
            .arg("start")
            .args(["--otlp-grpc-endpoint", &address.to_string()])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{}", free_port())])
            .args(["--exporter", "otlp", "--otlp-exporter-protocol", "grpc"])
            .args(["--otlp-exporter-endpoint", &format!("http://{onward}")])
            .args(["--batch-timeout", "50ms"])
            .arg("--pid-file")
            .arg(files.path().join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `./dev setup` installs it", program.display()));
        until("rotel to listen", || async {
            TcpStream::connect(address).await.ok().map(drop)
        })
        .await;
        Collector {
            address,
            _child: child,
            _files: files,
        }
    }
}

/// Where an app's own sidecar takes its calls; known once that has started.
type Outbound = Arc<OnceLock<SocketAddr>>;

/// An app that asks another service and hands on what it got, with the trace as it came, or under a span of its own.
fn asks(service: &'static str, outbound: Outbound, own_span: Option<&'static str>) -> Script {
    Script::http(move |seen| {
        let outbound = Arc::clone(&outbound);
        async move {
            let mut parent = seen.header("traceparent").expect("a trace").to_owned();
            if let Some(span) = own_span {
                parent.replace_range(36..52, span);
            }
            let state = seen.header("tracestate").expect("a context's id");
            let request = Request::get("/")
                .header("host", service)
                .header("traceparent", parent)
                .header("tracestate", state)
                .body(Full::default());
            let to = *outbound.get().expect("a sidecar");
            let answer = call(to, Protocol::Http1, request.expect("a request"))
                .await
                .expect("an answer");
            let mut response = Response::new(Full::from(answer.body));
            *response.status_mut() = answer.status;
            response
        }
    })
}

/// Where sidecars send their spans.
#[derive(Clone)]
struct SpansTo {
    url: String,
    ca_file: Option<PathBuf>,
}

impl SpansTo {
    fn in_cleartext(address: SocketAddr) -> SpansTo {
        SpansTo {
            url: format!("http://{address}"),
            ca_file: None,
        }
    }
}

/// TLS before a collector that speaks none: for `localhost`, by a root that stands in a file.
struct TlsRelay {
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl TlsRelay {
    async fn before(collector: SocketAddr) -> TlsRelay {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), root.pem()).expect("written");
        let own = KeyPair::generate().expect("a key");
        let shown = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let shown = shown.signed_by(&own, &Issuer::new(params, key)).expect("a certificate");
        let config = ServerConfig::builder().with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(own.serialize_der()).into();
        let mut config = config
            .with_single_cert(vec![shown.der().clone()], key)
            .expect("it fits");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let mut onward = TcpStream::connect(collector).await?;
                    tokio::io::copy_bidirectional(&mut stream, &mut onward).await
                });
            }
        });
        TlsRelay { address, folder }
    }

    fn to(&self) -> SpansTo {
        SpansTo {
            url: format!("https://localhost:{}", self.address.port()),
            ca_file: Some(self.folder.path().join("ca.pem")),
        }
    }
}

/// A portal where citizens come in, which asks B, which asks C.
struct Chain {
    portal: Member,
    b: Member,
    c: Member,
}

async fn chain(mesh: &TestMesh, to: &SpansTo) -> Chain {
    let settings = |edge| MemberSettings {
        edge,
        proxy: Box::new({
            let SpansTo { url, ca_file } = to.clone();
            move |config| {
                config.otlp = Some(url.parse().expect("a URL"));
                config.otlp_ca_file = ca_file;
            }
        }),
        ..MemberSettings::default()
    };
    let c = mesh
        .service_with("c", Script::answer(200, "c"), settings(Edge::No))
        .await;
    let of_b = Outbound::default();
    let script = asks("c", Arc::clone(&of_b), Some(SPAN_OF_APP));
    let b = mesh.service_with("b", script, settings(Edge::No)).await;
    of_b.set(b.outbound()).expect("set once");
    let of_portal = Outbound::default();
    let script = asks("b", Arc::clone(&of_portal), None);
    let portal = mesh.service_with("portal", script, settings(Edge::Yes)).await;
    of_portal.set(portal.outbound()).expect("set once");
    Chain { portal, b, c }
}

fn from_citizen() -> Request<Full<Bytes>> {
    let request = Request::get("/code")
        .header("host", "portal")
        .header("traceparent", FORGED_PARENT)
        .header("tracestate", FORGED_STATE)
        .header("weir-context", FORGED_CONTEXT);
    request.body(Full::default()).expect("a request")
}

/// Traces that the control plane got, once there are so many and each has so many spans.
async fn traces(mesh: &TestMesh, count: usize, spans: usize) -> Vec<Value> {
    let list = until("all spans of all traces", || async {
        let list = mesh.api(Method::GET, "/traces?limit=1000", None).await.json();
        let items = list["items"].as_array().expect("items");
        let whole = items
            .iter()
            .filter(|trace| trace["spans"].as_u64() >= Some(spans as u64));
        (whole.count() >= count).then(|| items.clone())
    })
    .await;
    let mut traces = Vec::new();
    for summary in list {
        let id = summary["traceId"].as_str().expect("an id");
        traces.push(mesh.api(Method::GET, &format!("/traces/{id}"), None).await.json());
    }
    traces
}

/// One trace is one query: five spans of three services, each under the one that caused it.
fn check(trace: &Value) {
    assert_ne!(trace["traceId"], FORGED_TRACE);
    let spans = trace["spans"].as_array().expect("spans");
    let mut by_place: BTreeMap<(&str, &str), &Value> = BTreeMap::new();
    for span in spans {
        let text = |field: &str| span[field].as_str().expect("text");
        let before = by_place.insert((text("service"), text("kind")), span);
        assert!(before.is_none(), "one span for each side of each call: {trace:#}");
    }
    let places: Vec<(&str, &str)> = by_place.keys().copied().collect();
    let (portal, b, c) = ("default/portal", "default/b", "default/c");
    let expect = [
        (b, "Client"),
        (b, "Server"),
        (c, "Server"),
        (portal, "Client"),
        (portal, "Server"),
    ];
    assert_eq!(places, expect, "{trace:#}");
    let id = |place| by_place[&place]["spanId"].as_str().expect("an id");
    let parent = |place| by_place[&place]["parentId"].as_str().expect("a parent or none");
    assert_eq!(parent((portal, "Server")), "", "a query begins at the edge");
    assert_eq!(
        parent((portal, "Client")),
        id((portal, "Server")),
        "the app handed it on"
    );
    assert_eq!(parent((b, "Server")), id((portal, "Client")));
    assert_eq!(parent((b, "Client")), SPAN_OF_APP, "the app put its own span between");
    assert_eq!(parent((c, "Server")), id((b, "Client")));
    // A call takes no longer than the one it is made for.
    let times = |place| {
        let span = by_place[&place];
        let start = span["startUnixNano"].as_u64().expect("a start");
        (start, start + span["durationNanos"].as_u64().expect("a duration"))
    };
    let (inner, outer) = (times((c, "Server")), times((portal, "Server")));
    assert!(outer.0 <= inner.0 && inner.1 <= outer.1, "{inner:?} in {outer:?}");
    let status = |place| {
        by_place[&place]["attributes"]["http.response.status_code"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(status((portal, "Server")).as_deref(), Some("200"), "{trace:#}");
}

fn trusts_nothing_of(seen: &[Seen]) {
    for seen in seen {
        let parent = seen.header("traceparent").expect("a trace");
        assert!(!parent.contains(FORGED_TRACE), "{parent}");
        let state = seen.header("tracestate").expect("a context's id");
        assert!(!state.contains("deadbeef") && !state.contains("evil"), "{state}");
        assert_eq!(seen.header("weir-context"), None);
    }
}

async fn queries_are_traces(mesh: &TestMesh, to: &SpansTo) {
    const QUERIES: usize = 20;
    let chain = chain(mesh, to).await;
    for _ in 0..QUERIES {
        let answer = call(chain.portal.inbound(), Protocol::Http1, from_citizen()).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "c"));
    }
    let traces = traces(mesh, QUERIES, 5).await;
    assert_eq!(traces.len(), QUERIES, "one trace for each query");
    traces.iter().for_each(check);
    for member in [&chain.portal, &chain.b, &chain.c] {
        let seen = member.seen();
        assert_eq!(seen.len(), QUERIES);
        trusts_nothing_of(&seen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_one_trace_for_each_query() {
    let mesh = TestMesh::start().await;
    let collector = Collector::start(mesh.control().xds_addr().expect("it is on")).await;
    queries_are_traces(&mesh, &SpansTo::in_cleartext(collector.address)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_them_by_tls() {
    let mesh = TestMesh::start().await;
    let collector = Collector::start(mesh.control().xds_addr().expect("it is on")).await;
    let relay = TlsRelay::before(collector.address).await;
    queries_are_traces(&mesh, &relay.to()).await;
    // One that is not believed gets nothing, and requests go on.
    let stranger = TlsRelay::before(collector.address).await;
    let to = SpansTo {
        url: stranger.to().url,
        ..relay.to()
    };
    let settings = MemberSettings {
        edge: Edge::Yes,
        proxy: Box::new(move |config| {
            config.otlp = Some(to.url.parse().expect("a URL"));
            config.otlp_ca_file = to.ca_file;
        }),
        ..MemberSettings::default()
    };
    let other = mesh.service_with("other", Script::answer(200, "other"), settings).await;
    let mut request = from_citizen();
    request.headers_mut().insert("host", "other".parse().expect("a name"));
    let answer = call(other.inbound(), Protocol::Http1, request)
        .await
        .expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    until("its span to be dropped", || async {
        (other.metric("weir_spans_dropped_total", &[]).await == 1.0).then_some(())
    })
    .await;
    assert_eq!(other.metric("weir_spans_exported_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_keeps_traces_without_a_collector() {
    let mesh = TestMesh::start().await;
    let control_plane = mesh.control().xds_addr().expect("it is on");
    queries_are_traces(&mesh, &SpansTo::in_cleartext(control_plane)).await;
}
