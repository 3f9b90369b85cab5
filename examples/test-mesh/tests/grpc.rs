//! gRPC's own xDS client under weir-control, as a real one: grpcio's C core. It goes by name without a proxy, or
//! through two sidecars.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Member, MemberSettings, PATIENCE, Processes, Script, TestMesh, until};

/// A process of `grpc/peer.py`.
struct Python {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Python {
    fn start(args: &[&str], bootstrap: Option<&Value>) -> Python {
        let peers =
            std::env::var_os("WEIR_PEERS").expect("WEIR_PEERS: `./dev test` installs grpcio and says where it is");
        let program = PathBuf::from(peers).join("bin/python");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grpc/peer.py");
        let mut command = Command::new(&program);
        if let Some(bootstrap) = bootstrap {
            command.env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string());
        }
        let mut child = command
            .arg(script)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `./dev setup` installs it", program.display()));
        Python {
            stdin: child.stdin.take().expect("its stdin"),
            stdout: BufReader::new(child.stdout.take().expect("its stdout")).lines(),
            _child: child,
        }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE + PATIENCE, self.stdout.next_line()).await;
        let line = line.expect("a line in time").expect("its stdout");
        line.expect("it runs")
    }
}

/// A server that runs.
struct Server {
    _python: Python,
    address: SocketAddr,
}

impl Server {
    async fn start(name: &str) -> Server {
        let mut python = Python::start(&["serve", name], None);
        let line = python.line().await;
        let port = line.strip_prefix("port ").and_then(|port| port.parse().ok());
        Server {
            address: SocketAddr::from(([127, 0, 0, 1], port.expect("a port"))),
            _python: python,
        }
    }

    /// It as the app of a sidecar.
    fn as_app(&self) -> Script {
        let address = self.address;
        Script::raw(move |mut stream| async move {
            if let Ok(mut app) = TcpStream::connect(address).await {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut app).await;
            }
        })
    }
}

/// A client that takes calls.
struct Client(Python);

impl Client {
    /// One with xDS, under this workload's name.
    fn start(mesh: &TestMesh, workload: &str) -> Client {
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": mesh.control().xds_addr().expect("it is on").to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": workload},
        });
        Client(Python::start(&["call"], Some(&bootstrap)))
    }

    /// One that has certificates, as `weirctl cert` wrote them into this folder, and says so.
    fn with_certificates(mesh: &TestMesh, workload: &str, folder: &Path) -> Client {
        let file = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": mesh.control().xds_addr().expect("it is on").to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": workload, "metadata": {"weir.dev": {"mutualTls": true}}},
            "certificate_providers": {"weir": {
                "plugin_name": "file_watcher",
                "config": {
                    "certificate_file": file("cert.pem"),
                    "private_key_file": file("key.pem"),
                    "ca_certificate_file": file("ca.pem"),
                    "refresh_interval": "1s",
                },
            }},
        });
        Client(Python::start(&["call", "xds"], Some(&bootstrap)))
    }

    async fn call(&mut self, call: Value) -> Value {
        let line = format!("{call}\n");
        self.0.stdin.write_all(line.as_bytes()).await.expect("it reads");
        serde_json::from_str(&self.0.line().await).expect("JSON")
    }

    /// A unary call; its answer, or the name of its status.
    async fn unary(&mut self, target: &str, method: &str, message: &str) -> String {
        let call = json!({"target": target, "method": method, "message": message, "wait_for_ready": true});
        outcome(&self.call(call).await)
    }

    /// Calls until this is the answer: a client confirms a route when it has read it, and goes by it when it has the
    /// endpoints of each cluster that it names (gRFC A74).
    async fn answered(&mut self, target: &str, method: &str, expect: &str) {
        let called = async { while self.unary(target, method, "").await != expect {} };
        let in_time = tokio::time::timeout(PATIENCE, called).await;
        in_time.unwrap_or_else(|_| panic!("{method} never gave {expect}"));
    }
}

fn outcome(answer: &Value) -> String {
    let message = answer.get("message").unwrap_or(&answer["code"]);
    message.as_str().expect("text").to_owned()
}

async fn plain(mesh: &TestMesh, service: &str, servers: &[&Server]) {
    let endpoints: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    mesh.plain_service(service, AppProtocol::Grpc, &endpoints).await;
}

fn route(service: &str, rules: Value) -> String {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service}], "rules": rules},
    });
    route.to_string()
}

fn to(service: &str) -> Value {
    json!([{"name": service, "port": 80}])
}

const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/r";
const SAY: &str = "/echo.Echo/Say";
const WHO: &str = "/echo.Echo/Who";
const ONE: &str = "xds:///one.default:80";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_by_every_spelling_of_a_name_with_streams_statuses_and_deadlines() {
    let mesh = TestMesh::start().await;
    let server = Server::start("a").await;
    plain(&mesh, "one", &[&server]).await;
    let mut client = Client::start(&mesh, "default/grpc-1");
    for target in [
        ONE,
        "xds:///one:80",
        "xds:///one",
        "xds:///one.default.svc.cluster.local:80",
    ] {
        assert_eq!(client.unary(target, SAY, "hi").await, "a:hi", "{target}");
    }
    let stream = json!({"target": ONE, "method": "/echo.Echo/Chat", "messages": ["x", "y", "z"]});
    let answer = client.call(stream).await;
    assert_eq!(answer["messages"], json!(["a:x", "a:y", "a:z"]));
    for code in ["NOT_FOUND", "PERMISSION_DENIED", "DATA_LOSS"] {
        let call = json!({"target": ONE, "method": "/echo.Echo/Fail", "message": code});
        let answer = client.call(call).await;
        assert_eq!(answer, json!({"code": code, "details": format!("asked for {code}")}));
    }
    let wait = json!({"target": ONE, "method": "/echo.Echo/Wait", "timeout": 0.2});
    assert_eq!(outcome(&client.call(wait).await), "DEADLINE_EXCEEDED");
    let nowhere = json!({"target": "xds:///nowhere:80", "method": SAY});
    assert_eq!(outcome(&client.call(nowhere).await), "UNAVAILABLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_by_path_header_and_weight_come_into_force() {
    let mesh = TestMesh::start().await;
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    plain(&mesh, "one", &[&a]).await;
    plain(&mesh, "two", &[&b]).await;
    let mut client = Client::start(&mesh, "default/grpc-1");
    assert_eq!(client.unary(ONE, "/any.Other/Call", "").await, "a/any.Other/Call");
    let rules = json!([
        {"matches": [{"path": {"type": "Exact", "value": "/any.Exact/Call"}}], "backendRefs": to("two")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/any.Service"}}], "backendRefs": to("two")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/any.Deep/Call"}}], "backendRefs": to("two")},
        {
            "matches": [{"path": {"type": "RegularExpression", "value": "/any[.]Re[a-z]+/.*"}}],
            "backendRefs": to("two"),
        },
        {"matches": [{"headers": [{"name": "x-to", "value": "two"}]}], "backendRefs": to("two")},
        {"matches": [{"method": "GET"}], "backendRefs": to("nowhere")},
        {"matches": [{"queryParams": [{"name": "q", "value": "1"}]}], "backendRefs": to("nowhere")},
        {"matches": [{"method": "POST", "headers": [{"name": "x-to", "value": "post"}]}], "backendRefs": to("two")},
        {
            "matches": [{"path": {"type": "Exact", "value": "/any.Split/Call"}}],
            "backendRefs": [{"name": "one", "port": 80, "weight": 3}, {"name": "two", "port": 80, "weight": 1}],
        },
        {"backendRefs": to("one")},
    ]);
    let began = Instant::now();
    mesh.apply_in_force(&route("one", rules)).await;
    client.answered(ONE, "/any.Exact/Call", "b/any.Exact/Call").await;
    println!("in force at gRPC's client after {:?}", began.elapsed());
    for (method, expect) in [
        ("/any.Exact/Call", "b"),
        ("/any.Exact/Other", "a"),
        ("/any.Service/Call", "b"),
        ("/any.Service2/Call", "a"),
        ("/any.Deep/Call", "b"),
        ("/any.Deep/Call2", "a"),
        ("/any.Regex/Call", "b"),
        ("/any.Other/Call", "a"),
    ] {
        assert_eq!(client.unary(ONE, method, "").await, format!("{expect}{method}"));
    }
    for to in ["two", "post"] {
        let call = json!({"target": ONE, "method": SAY, "message": "hi", "metadata": {"x-to": to}});
        assert_eq!(outcome(&client.call(call).await), "b:hi", "{to}");
    }
    let mut of_a = 0;
    for _ in 0..200 {
        let answer = client.unary(ONE, "/any.Split/Call", "").await;
        of_a += usize::from(answer.starts_with('a'));
    }
    // 150 expected, with a standard deviation of 6.1.
    assert!((110..=190).contains(&of_a), "{of_a} of 200 for a weight of 3 in 4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_route_holds_for_grpcs_own_client() {
    let mesh = TestMesh::start().await;
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    plain(&mesh, "one", &[&a]).await;
    plain(&mesh, "two", &[&b]).await;
    let mut client = Client::start(&mesh, "default/grpc-1");
    assert_eq!(client.unary(ONE, "/any.Other/Call", "").await, "a/any.Other/Call");
    let rules = json!([
        {"matches": [{"method": {"service": "any.Exact", "method": "Call"}}], "backendRefs": to("two")},
        {"matches": [{"method": {"service": "any.Service"}}], "backendRefs": to("two")},
        {
            "matches": [{"method": {"type": "RegularExpression", "service": "any[.]Re[a-z]+", "method": "Call"}}],
            "backendRefs": to("two"),
        },
        {"matches": [{"headers": [{"name": "x-to", "value": "two"}]}], "backendRefs": to("two")},
        {"matches": [{"method": {"service": "any.Other"}}], "backendRefs": to("one")},
    ]);
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute",
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "one"}], "rules": rules},
    });
    mesh.apply_in_force(&route.to_string()).await;
    client.answered(ONE, "/any.Exact/Call", "b/any.Exact/Call").await;
    for (method, expect) in [
        ("/any.Exact/Call", "b"),
        ("/any.Service/Call", "b"),
        ("/any.Regex/Call", "b"),
        ("/any.Other/Call", "a"),
    ] {
        assert_eq!(client.unary(ONE, method, "").await, format!("{expect}{method}"));
    }
    let call = json!({"target": ONE, "method": SAY, "message": "hi", "metadata": {"x-to": "two"}});
    assert_eq!(outcome(&client.call(call).await), "b:hi");
    // Through a sidecar this is UNIMPLEMENTED; gRPC's own client says so of a call that no route takes (gRFC A28).
    for method in ["/any.Exact/Other", "/any.Regex/Other", "/any.Service2/Call"] {
        let call = json!({"target": ONE, "method": method, "message": ""});
        assert_eq!(outcome(&client.call(call).await), "UNAVAILABLE", "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_and_retries_are_as_the_route_says() {
    let mesh = TestMesh::start().await;
    let server = Server::start("a").await;
    plain(&mesh, "one", &[&server]).await;
    let rules = json!([
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/echo.Echo/Wait"}}],
            "timeouts": {"request": "200ms"},
            "backendRefs": to("one"),
        },
        {
            "matches": [{"method": "POST"}],
            "retry": {"codes": [503], "attempts": 2, "backoff": "10ms"},
            "backendRefs": to("one"),
        },
        {"backendRefs": to("one")},
    ]);
    mesh.apply(&route("one", rules)).await;
    let mut client = Client::start(&mesh, "default/grpc-1");
    assert_eq!(client.unary(ONE, "/echo.Echo/Wait", "").await, "DEADLINE_EXCEEDED");
    assert_eq!(client.unary(ONE, "/echo.Echo/Flaky", "k").await, "a:k", "sent again");
    let anonymous = json!([{"retry": {"codes": [503], "attempts": 2, "backoff": "10ms"}, "backendRefs": to("one")}]);
    mesh.apply_in_force(&route("one", anonymous)).await;
    let answer = client.unary(ONE, "/echo.Echo/Flaky", "other").await;
    assert_eq!(
        answer, "UNAVAILABLE",
        "POST is not idempotent, and the route does not name it"
    );
}

fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

/// A service of one sidecar, before a server of gRPC.
async fn sidecar(mesh: &TestMesh, name: &str, server: &Server, at: Option<SocketAddr>) -> Member {
    let settings = MemberSettings {
        protocol: AppProtocol::Grpc,
        proxy: Box::new(move |config| {
            if let (Some(at), Some(app)) = (at, config.apps.first_mut()) {
                app.inbound = at;
            }
        }),
        ..MemberSettings::default()
    };
    mesh.service_with(name, server.as_app(), settings).await
}

const STRICT: &str = r#"{"apiVersion": "weir.dev/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
    "spec": {"mutualTls": {"mode": "Strict"}}}"#;

/// gRPC's own client at a sidecar's port by mutual TLS, with the certificate that `weirctl cert` writes (gRFC A29).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_with_a_certificate_gets_in_where_only_mutual_tls_does() {
    let mesh = TestMesh::secured().await;
    let servers = [Server::start("a").await, Server::start("b").await];
    let one = sidecar(&mesh, "one", &servers[0], None).await;
    mesh.apply_in_force(STRICT).await;
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("report");
    let args = ["cert", "--namespace", "default", "--account", "report", "--out"];
    let args = [&args[..], &[to.to_str().expect("UTF-8")]].concat();
    Processes::of_this_build().weirctl(&mesh.control_api(), &args).await;

    let mut report = Client::with_certificates(&mesh, "default/report-1", &to);
    let known = format!("By={};URI={}", spiffe("one"), spiffe("report"));
    assert_eq!(report.unary(ONE, WHO, "").await, known);
    // One without a certificate is shut out, and it is said for whom and why.
    let mut plain = Client::start(&mesh, "default/plain-1");
    let call = json!({"target": ONE, "method": SAY, "message": "hi"});
    assert_eq!(outcome(&plain.call(call.clone()).await), "PERMISSION_DENIED");
    let path = "/apis/weir.dev/v1/meshconfigs/mesh/proxies";
    let rejected = until("it to be said", || async {
        let shown = mesh.api(Method::GET, path, None).await.json();
        let rejected = shown["rejected"].as_array()?.clone();
        (!rejected.is_empty()).then_some(rejected)
    })
    .await;
    let [rejected] = rejected.as_slice() else {
        panic!("{rejected:?}");
    };
    assert_eq!(rejected["proxy"], "default/plain-1");
    let why = rejected["reason"].as_str().unwrap_or_default();
    assert!(
        why.contains("which has no certificate, out of 1 of 1 endpoints"),
        "{why}"
    );

    // Somebody else of the mesh at the address where the service was.
    let inbound = one.inbound();
    drop(one);
    until("its port to be free", || async {
        TcpStream::connect(inbound).await.err()
    })
    .await;
    let two = sidecar(&mesh, "two", &servers[1], Some(inbound)).await;
    let called = async {
        loop {
            let answer = report.call(call.clone()).await;
            let details = answer["details"].as_str().unwrap_or_default();
            if outcome(&answer) == "UNAVAILABLE" && details.contains("SANs from certificate did not match") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, called)
        .await
        .expect("calls reach whoever is there");
    assert_eq!(
        report.unary("xds:///two.default:80", SAY, "hi").await,
        "b:hi",
        "it is itself all the same"
    );
    let (_, lines) = two.stop().await;
    let callers: Vec<&Value> = lines.iter().map(|line| &line["weir.peer.identity"]).collect();
    assert_eq!(
        callers,
        [&json!("spiffe://cluster.local/ns/default/sa/report")],
        "nothing else came through"
    );
}

/// It goes to all endpoints of a service by TLS, or to none: with the mode, and as they get certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_with_a_certificate_goes_the_way_that_is_told() {
    let mesh = TestMesh::secured().await;
    let server = Server::start("a").await;
    let one = sidecar(&mesh, "one", &server, None).await;
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("report");
    let args = ["cert", "--namespace", "default", "--account", "report", "--out"];
    let args = [&args[..], &[to.to_str().expect("UTF-8")]].concat();
    Processes::of_this_build().weirctl(&mesh.control_api(), &args).await;
    let mut report = Client::with_certificates(&mesh, "default/report-1", &to);
    let known = format!("By={};URI={}", spiffe("one"), spiffe("report"));
    assert_eq!(report.unary(ONE, WHO, "").await, known, "permissive");
    let modes = ["Off", "Strict", "Off", "Permissive"];
    for (mode, expect) in modes.into_iter().zip(["nobody", &known, "nobody", &known]) {
        mesh.apply_in_force(&STRICT.replace("Strict", mode)).await;
        report.answered(ONE, WHO, expect).await;
    }
    // A service without sidecars is reached in cleartext all the while.
    plain(&mesh, "two", &[&server]).await;
    assert_eq!(report.unary("xds:///two.default:80", WHO, "").await, "nobody");
    drop(one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_endpoint_is_followed_without_a_failed_call() {
    let mesh = TestMesh::start().await;
    let servers = [Server::start("a").await, Server::start("b").await];
    mesh.apply_service("one", "one", AppProtocol::Grpc).await;
    let mut members = Vec::new();
    for (name, server) in ["one-a", "one-b"].into_iter().zip(&servers) {
        let settings = MemberSettings {
            protocol: AppProtocol::Grpc,
            ..MemberSettings::default()
        };
        members.push(mesh.workload(name, "one", server.as_app(), settings).await);
    }
    let mut client = Client::start(&mesh, "default/grpc-1");
    let both = |answers: &[String]| {
        ["a:hi", "b:hi"]
            .iter()
            .all(|one| answers.iter().any(|answer| answer == one))
    };
    let mut answers = Vec::new();
    while !both(&answers) {
        answers.push(client.unary(ONE, SAY, "hi").await);
        assert!(answers.len() < 1_000, "{answers:?}");
    }
    members.pop().expect("two").stop().await;
    // What is under way to the one that left ends there; what begins goes to the other.
    let mut of_a_in_a_row = 0;
    while of_a_in_a_row < 20 {
        let answer = client.unary(ONE, SAY, "hi").await;
        assert!(answer == "a:hi" || answer == "b:hi", "{answer}");
        of_a_in_a_row = if answer == "a:hi" { of_a_in_a_row + 1 } else { 0 };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_cannot_do_fails_and_is_said() {
    let mesh = TestMesh::start().await;
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    plain(&mesh, "one", &[&a]).await;
    mesh.plain_service("old", AppProtocol::Http1, &[b.address]).await;
    let mut client = Client::start(&mesh, "default/grpc-1");
    assert_eq!(client.unary(ONE, SAY, "hi").await, "a:hi");
    let rules = json!([
        {
            "matches": [{"path": {"type": "Exact", "value": "/any.Redirected/Call"}}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere.example"}}],
        },
        {
            "matches": [{"path": {"type": "Exact", "value": "/any.Rewritten/Call"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "elsewhere.example"}}],
            "backendRefs": to("one"),
        },
        {
            "matches": [{"headers": [{"name": "user-agent", "value": "x"}]}],
            "backendRefs": to("nowhere"),
        },
        {"backendRefs": to("one")},
    ]);
    mesh.apply(&route("one", rules)).await;
    let view = until("the route to be seen as not sent", || async {
        let view = mesh.api(Method::GET, &format!("{ROUTE}/proxies"), None).await.json();
        (view["state"] == "Rejected").then_some(view)
    })
    .await;
    assert_eq!(view["rejected"][0]["proxy"], "default/grpc-1");
    let reason = view["rejected"][0]["reason"].as_str().expect("a reason");
    for part in [
        "not sent: HTTPRoute/default/r#rules[0]",
        "redirects",
        "rewrites",
        "rules[2]",
        "left out",
    ] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let list = mesh.api(Method::GET, "/apis/weir.dev/v1/proxies", None).await.json();
    let rejected = list["items"][0]["rejected"].as_array().expect("a list");
    assert_eq!(rejected.len(), 3, "{list:#}");
    assert_eq!(rejected[0]["sources"], json!(["HTTPRoute/default/r"]));
    until("the routes to be in force all the same", || {
        let list = mesh.api(Method::GET, "/apis/weir.dev/v1/proxies", None);
        async move {
            list.await.json()["items"][0]["pending"]
                .as_array()
                .is_some_and(Vec::is_empty)
                .then_some(())
        }
    })
    .await;
    for method in ["/any.Redirected/Call", "/any.Rewritten/Call"] {
        let call = json!({"target": ONE, "method": method});
        assert_eq!(outcome(&client.call(call).await), "UNAVAILABLE", "{method}");
    }
    assert_eq!(client.unary(ONE, "/any.Other/Call", "").await, "a/any.Other/Call");
    let call = json!({"target": "xds:///old:80", "method": SAY});
    assert_eq!(outcome(&client.call(call).await), "UNAVAILABLE");
    let view = mesh
        .api(Method::GET, "/api/v1/namespaces/default/services/old/proxies", None)
        .await;
    let view = view.json();
    let reason = view["rejected"][0]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("not sent: appProtocol is HTTP/1.1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_xds_it_goes_through_two_sidecars() {
    let mesh = TestMesh::start().await;
    let server = Server::start("a").await;
    let settings = || MemberSettings {
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    let _callee = mesh.service_with("echo", server.as_app(), settings()).await;
    let caller = mesh.service("caller", Script::answer(200, "")).await;
    let mut client = Client(Python::start(&["call"], None));
    let outbound = caller.outbound().to_string();
    let call = |method: &str, message: &str| {
        json!({
            "target": outbound, "options": {"grpc.default_authority": "echo"},
            "method": method, "message": message,
        })
    };
    assert_eq!(outcome(&client.call(call(SAY, "hi")).await), "a:hi");
    let mut chat = call("/echo.Echo/Chat", "");
    chat["messages"] = json!(["x", "y"]);
    assert_eq!(client.call(chat).await["messages"], json!(["a:x", "a:y"]));
    for code in ["NOT_FOUND", "ABORTED"] {
        assert_eq!(outcome(&client.call(call("/echo.Echo/Fail", code)).await), code);
    }
    let mut wait = call("/echo.Echo/Wait", "");
    wait["timeout"] = json!(0.2);
    assert_eq!(outcome(&client.call(wait).await), "DEADLINE_EXCEEDED");
    let requests = caller.metric("weir_requests_total", &["direction=\"outbound\""]).await;
    assert!(requests >= 4.0, "by the sidecar: {requests}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_its_own_and_what_of_a_route_policy_it_cannot_do_is_the_policys() {
    let mesh = TestMesh::start().await;
    let server = Server::start("a").await;
    plain(&mesh, "one", &[&server]).await;
    let mut client = Client::start(&mesh, "default/grpc-1");
    assert_eq!(client.unary(ONE, SAY, "hi").await, "a:hi");
    let policy = json!({
        "apiVersion": "weir.dev/v1", "kind": "RoutePolicy", "metadata": {"name": "p", "namespace": "default"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "one"}],
            "fault": {"abort": {"percent": 100, "grpcStatus": 9}},
            "rateLimit": {"requests": 1},
            "mirror": [{"backendRef": {"name": "one", "port": 80}}],
        },
    });
    mesh.apply(&policy.to_string()).await;
    let path = "/apis/weir.dev/v1/namespaces/default/routepolicies/p";
    let why = until("the limit to be said", || async {
        let policy = mesh.api(Method::GET, path, None).await.json();
        let conditions = policy.pointer("/status/ancestors/0/conditions")?.as_array()?;
        let rejected = conditions.iter().find(|condition| condition["reason"] == "Rejected")?;
        Some(rejected["message"].as_str()?.to_owned())
    })
    .await;
    let expect = "in force on 0 of 1; default/grpc-1 rejected: not sent: Service/default/one limits the rate of calls, \
                  which a gRPC client can't; all are made; Service/default/one copies calls, which a gRPC client can't; \
                  none are sent";
    assert_eq!(why, expect);
    // It takes what it is told a moment after it is told.
    let until = Instant::now() + PATIENCE;
    loop {
        let said = client.unary(ONE, SAY, "hi").await;
        if said == "FAILED_PRECONDITION" {
            break;
        }
        assert_eq!(said, "a:hi");
        assert!(Instant::now() < until, "the fault to be injected");
    }
}
