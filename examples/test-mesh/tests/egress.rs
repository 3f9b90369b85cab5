//! What becomes of names that are none of the mesh's: refused, or passed through to where DNS says that they are.

use std::net::IpAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use weir_proxy::proxy::Addresses;
use weir_test_mesh::{
    Answer, Member, MemberSettings, NameServer, Protocol, Says, Script, ScriptedApp, TestMesh, call, own_address, until,
};

/// A mesh with a workload whose proxy asks a name server of the test's own, and an app outside of it.
struct World {
    mesh: TestMesh,
    a: Member,
    names: NameServer,
    outside: ScriptedApp,
}

/// An app at another address of this host than loopback. The system gives a port of loopback to another address as
/// well, and then it is the proxy's own by its number.
async fn start_outside(proxy: &Addresses) -> ScriptedApp {
    loop {
        let outside = ScriptedApp::start_at(own_address(), Script::answer(200, "outside")).await;
        if proxy.ports().all(|own| own != outside.address().port()) {
            return outside;
        }
    }
}

impl World {
    async fn start() -> World {
        World::with(TestMesh::start().await).await
    }

    async fn with(mesh: TestMesh) -> World {
        let names = NameServer::start().await;
        names.says("www.example.org", Says::Addresses(vec![own_address()], 60));
        let server = names.address();
        let settings = MemberSettings {
            proxy: Box::new(move |config| config.dns = vec![server]),
            ..MemberSettings::default()
        };
        let a = mesh.service_with("a", Script::answer(200, "a"), settings).await;
        let outside = start_outside(a.addresses()).await;
        World {
            mesh,
            a,
            names,
            outside,
        }
    }

    /// Sets the mode, and waits until the proxy has it in force.
    async fn egress(&self, mode: &str) {
        let config =
            format!("apiVersion: weir.dev/v1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{egress: {mode}}}");
        self.mesh.apply(&config).await;
        self.until_in_force(&mode.to_ascii_lowercase()).await;
    }

    async fn until_in_force(&self, mode: &str) {
        until(&format!("{mode} to be in force"), || async {
            let config = self.a.config().await;
            (config["mesh"]["egress"] == *mode).then_some(())
        })
        .await;
    }

    /// `http://HOST:PORT/` with the port of the app outside.
    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.outside.address().port())
    }

    async fn explain(&self, url: &str) -> Value {
        let path = format!("/explain?url={url}");
        self.a.admin(Method::POST, &path).await.json()
    }
}

#[track_caller]
fn refused(answer: &Answer, status: u16, error: &str) {
    let said = answer.header("proxy-status").unwrap_or_default();
    assert_eq!(answer.status.as_u16(), status, "{said}");
    assert!(said.contains(&format!("error={error};")), "{said}");
}

#[tokio::test]
async fn names_outside_are_refused_until_they_pass_through() {
    let world = World::start().await;
    let url = world.url("www.example.org");
    refused(&world.a.get(&url).await, 502, "destination_not_found");
    refused(&world.a.get("http://two.labels/").await, 502, "destination_not_found");
    assert_eq!(
        world.names.asked("www.example.org"),
        0,
        "what is refused is not looked up"
    );
    world.egress("Passthrough").await;
    for _ in 0..3 {
        let answer = world.a.get(&url).await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "outside"));
    }
    assert_eq!(world.names.asked("www.example.org"), 1, "it is remembered");
    assert_eq!(world.outside.connections(), 1, "connections are kept");
    let labels = ["cluster=\"passthrough\"", "service=\"passthrough\"", "code=\"200\""];
    assert_eq!(world.a.metric("weir_requests_total", &labels).await, 3.0);
    world.egress("Refuse").await;
    refused(&world.a.get(&url).await, 502, "destination_not_found");
    assert_eq!(world.outside.seen().len(), 3);
    let (_, log) = world.a.stop().await;
    let passed: Vec<&Value> = log
        .iter()
        .filter(|line| line["weir.cluster"] == "passthrough")
        .collect();
    assert_eq!(passed.len(), 3, "{log:?}");
    assert_eq!(passed[0]["server.address"], "www.example.org");
    assert_eq!(
        passed[0]["weir.endpoint"],
        world.outside.address().to_string(),
        "{}",
        passed[0]
    );
}

#[tokio::test]
async fn a_request_passes_with_its_trace_and_nothing_of_the_meshs_own() {
    let world = World::start().await;
    world.egress("Passthrough").await;
    world.names.says("two.labels", Says::Addresses(vec![own_address()], 60));
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let port = world.outside.address().port();
    for (protocol, host) in [
        (Protocol::Http1, "www.example.org"),
        (Protocol::Http2, "www.example.org"),
        (Protocol::Http1, "two.labels"),
        (Protocol::Http1, "WWW.Example.ORG."),
    ] {
        let authority = format!("{host}:{port}");
        // HTTP/1.1 in origin form, by Host alone.
        let uri = match protocol {
            Protocol::Http1 => "/x?q=1".to_owned(),
            Protocol::Http2 => format!("http://{authority}/x?q=1"),
        };
        let mut request = Request::builder().uri(uri).method(Method::POST);
        if protocol == Protocol::Http1 {
            request = request.header("host", &authority);
        }
        let request = request
            .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
            .header("tracestate", "weir=0000000000c0ffee,rojo=1")
            .header("weir-context", "1;i=0000000000c0ffee;p=0;a=1")
            .header("x-forwarded-client-cert", "URI=spiffe://mesh/ns/a/sa/b")
            .body(Full::new(Bytes::from("body")));
        let answer = call(world.a.outbound(), protocol, request.expect("a request")).await;
        assert_eq!(answer.expect("an answer").status, StatusCode::OK, "{host}");
        let seen = world.outside.seen().pop().expect("it came");
        let version = match protocol {
            Protocol::Http1 => http::Version::HTTP_11,
            Protocol::Http2 => http::Version::HTTP_2,
        };
        assert_eq!(seen.head.version, version);
        assert_eq!((seen.head.method.as_str(), seen.body.as_ref()), ("POST", &b"body"[..]));
        assert_eq!(
            seen.head.uri.path_and_query().map(ToString::to_string).as_deref(),
            Some("/x?q=1")
        );
        let asked = seen.head.uri.authority().map(ToString::to_string);
        assert_eq!(asked.as_deref().or(seen.header("host")), Some(authority.as_str()));
        let parent = seen.header("traceparent").expect("it goes on");
        assert!(
            parent.contains(trace) && !parent.contains("b7ad6b7169203331"),
            "{parent}"
        );
        assert_eq!(seen.header("tracestate"), Some("rojo=1"));
        let names = seen.head.headers.keys().map(http::HeaderName::as_str);
        let own: Vec<&str> = names
            .filter(|name| name.starts_with("weir-") || name.starts_with("x-forwarded"))
            .collect();
        assert!(own.is_empty(), "{own:?}");
    }
}

#[tokio::test]
async fn what_is_on_this_host_alone_is_not_reached() {
    let world = World::start().await;
    world.egress("Passthrough").await;
    let port = world.outside.address().port();
    let v6 = |text: &str| text.parse::<IpAddr>().expect("an address");
    for (name, addresses) in [
        ("rebind.example.org", vec![v6("127.0.0.1")]),
        ("metadata.example.org", vec![v6("169.254.169.254")]),
        ("mapped.example.org", vec![v6("::ffff:127.0.0.1")]),
        ("six.example.org", vec![v6("::1"), v6("fe80::1")]),
        ("zero.example.org", vec![v6("0.0.0.0")]),
        ("many.example.org", vec![v6("224.0.0.1")]),
    ] {
        world.names.says(name, Says::Addresses(addresses, 60));
        refused(&world.a.get(&world.url(name)).await, 502, "destination_ip_prohibited");
    }
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "0.0.0.0",
        "169.254.169.254",
        "[fe80::1]",
        "[64:ff9b::7f00:1]",
    ] {
        refused(&world.a.get(&world.url(host)).await, 502, "destination_ip_prohibited");
    }
    // The proxy's own ports, by whichever address of this host.
    let own = own_address();
    world.names.says("self.example.org", Says::Addresses(vec![own], 60));
    let addresses = world.a.addresses().clone();
    for its in [
        addresses.admin.port(),
        addresses.metrics.port(),
        world.a.outbound().port(),
        world.a.inbound().port(),
    ] {
        for host in [own.to_string(), "self.example.org".to_owned()] {
            let answer = world.a.get(&format!("http://{host}:{its}/ready")).await;
            refused(&answer, 502, "destination_ip_prohibited");
        }
    }
    // A host with both kinds of addresses is reached by those that may be.
    world
        .names
        .says("both.example.org", Says::Addresses(vec![v6("127.0.0.1"), own], 60));
    let said = world.a.get(&world.url("both.example.org")).await.text();
    assert_eq!(said, "outside", "{own}:{port} beside {addresses:?}");
    assert_eq!(
        world.a.get(&format!("http://{own}:{port}/")).await.text(),
        "outside",
        "an address is a place, too"
    );
    let labels = ["flag=\"prohibited_address\"", "service=\"passthrough\""];
    assert!(world.a.metric("weir_requests_total", &labels).await >= 20.0);
}

#[tokio::test]
async fn a_name_without_an_address_is_said_to_have_none() {
    let world = World::start().await;
    world.egress("Passthrough").await;
    refused(&world.a.get("http://nobody.example.org/").await, 502, "dns_error");
    world.names.says("empty.example.org", Says::Addresses(Vec::new(), 60));
    refused(&world.a.get("http://empty.example.org/").await, 502, "dns_error");
    world.names.says("slow.example.org", Says::Nothing);
    refused(&world.a.get("http://slow.example.org/").await, 504, "dns_timeout");
}

#[tokio::test]
async fn the_mesh_goes_before_dns() {
    let world = World::start().await;
    let _b = world.mesh.service("b", Script::answer(200, "in the mesh")).await;
    world.egress("Passthrough").await;
    for name in [
        "b",
        "b.default",
        "gone.default",
        "b.default.svc.cluster.local",
        "gone.default.svc.cluster.local",
    ] {
        world.names.says(name, Says::Addresses(vec![own_address()], 60));
    }
    let port = world.outside.address().port();
    for name in ["b", "b.default", "b.default.svc.cluster.local"] {
        assert_eq!(
            world.a.get(&format!("http://{name}/")).await.text(),
            "in the mesh",
            "{name}"
        );
        // The app outside listens on this port, the service does not.
        let answer = world.a.get(&world.url(name)).await;
        refused(&answer, 502, "destination_not_found");
        assert!(
            answer.text().contains(&format!("has no port {port}")),
            "{}",
            answer.text()
        );
    }
    let answer = world.a.get(&world.url("gone.default.svc.cluster.local")).await;
    refused(&answer, 502, "destination_not_found");
    assert_eq!(
        world.a.get(&world.url("gone.default")).await.text(),
        "outside",
        "no service has that name"
    );
    let shown = world.explain("http://b/").await;
    assert_eq!(shown["outcome"]["action"], "forward", "{shown:#}");
    assert_eq!(
        shown["name"]["public_dns"]["addresses"][0],
        own_address().to_string(),
        "{shown:#}"
    );
    // A name that comes into the mesh is the mesh's from then on.
    let _gone = world.mesh.service("gone", Script::answer(200, "here now")).await;
    until("the new service to take its name", || async {
        let answer = world.a.get("http://gone.default/").await;
        (answer.text() == "here now").then_some(())
    })
    .await;
}

#[tokio::test]
async fn explain_says_where_a_request_would_leave() {
    let world = World::start().await;
    let url = world.url("www.example.org");
    assert_eq!(world.explain(&url).await["outcome"]["flag"], "unknown_destination");
    world.egress("Passthrough").await;
    let shown = world.explain(&url).await;
    assert_eq!(shown["outcome"]["action"], "pass_through", "{shown:#}");
    let why = format!(
        "it is not a mesh name: it passes through to {}",
        world.outside.address()
    );
    assert_eq!(shown["outcome"]["why"], why);
    let shown = world.explain("http://localhost/").await;
    assert_eq!(shown["outcome"]["flag"], "prohibited_address", "{shown:#}");
    let shown = world.explain("http://nobody.example.org/").await;
    assert_eq!(shown["outcome"]["flag"], "not_resolved", "{shown:#}");
    let shown = world.explain(&world.url("a")).await;
    assert_eq!(
        shown["outcome"]["flag"], "unknown_destination",
        "a has no such port: {shown:#}"
    );
    assert!(world.outside.seen().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn the_mode_outlives_the_control_plane_and_a_restart() {
    let state = tempfile::tempdir().expect("a folder");
    let (mesh, names) = (TestMesh::start().await, NameServer::start().await);
    names.says("www.example.org", Says::Addresses(vec![own_address()], 60));
    let (directory, server) = (state.path().to_owned(), names.address());
    let settings = MemberSettings {
        proxy: Box::new(move |config| {
            config.dns = vec![server];
            config.state_dir = Some(directory);
        }),
        ..MemberSettings::default()
    };
    let a = mesh.service_with("a", Script::answer(200, "a"), settings).await;
    mesh.apply("apiVersion: weir.dev/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {egress: Passthrough}")
        .await;
    until("it to be in force", || async {
        let config = a.config().await;
        (config["mesh"]["egress"] == "passthrough").then_some(())
    })
    .await;
    until("it to be kept", || async {
        let file = std::fs::read(state.path().join("last-good")).ok()?;
        // The ports are entered as ever, and what is none of the mesh's passes (weir.v1.WorkloadPolicy).
        let policy = [0x1a, 0x02, 0x08, 0x02, 0x20, 0x01];
        file.windows(policy.len()).any(|bytes| bytes == policy).then_some(())
    })
    .await;
    a.stop().await;
    mesh.stop_control().await;
    let mut config = weir_proxy::config::ProxyConfig::new("default/a".parse().expect("a name"), Vec::new());
    config.dns = vec![names.address()];
    config.state_dir = Some(state.path().to_owned());
    let proxy = weir_proxy::Proxy::start(config)
        .await
        .expect("it starts from what it kept");
    let weir_proxy::config::OutboundAddr::Tcp(outbound) = proxy.addresses().outbound.clone() else {
        panic!("tcp")
    };
    let outside = start_outside(proxy.addresses()).await;
    let host = format!("www.example.org:{}", outside.address().port());
    let request = Request::get("/")
        .header("host", host)
        .body(Full::default())
        .expect("a request");
    let answer = call(outbound, Protocol::Http1, request).await.expect("an answer");
    assert_eq!(answer.text(), "outside");
    proxy.drain().await;
}
