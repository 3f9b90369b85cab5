//! The programs that are compared, each before an origin of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Envoy, Member, Protocol, Script, TestMesh, call, free_port, until};

use crate::origin::Origin;

/// A program that runs before its origin; ended when dropped.
pub(crate) struct Program {
    /// Where it takes HTTP/1.1.
    pub(crate) http1: SocketAddr,
    /// Where it takes HTTP/2 in cleartext, by prior knowledge.
    pub(crate) http2: SocketAddr,
    /// What stands behind it.
    pub(crate) origin: Origin,
    running: Kept,
}

/// What must live as long as it runs.
enum Kept {
    Weir(Box<(TestMesh, Member)>),
    Envoy { _envoy: Envoy },
    Process { _child: Child, _folder: TempDir },
}

impl Program {
    /// A sidecar, by its outbound port; services `a` and `b` lead to the origin.
    pub(crate) async fn weir() -> Program {
        let origin = Origin::start().await;
        let mesh = TestMesh::start().await;
        for name in ["a", "b"] {
            mesh.plain_service(name, AppProtocol::Http1, &[origin.address()]).await;
        }
        let member = mesh.service("app", Script::answer(200, "")).await;
        for name in ["a", "b"] {
            let met = member.get(&format!("http://{name}/next")).await;
            assert_eq!(met.status, 200, "{}", met.text());
        }
        Program {
            http1: member.outbound(),
            http2: member.outbound(),
            origin,
            running: Kept::Weir(Box::new((mesh, member))),
        }
    }

    /// Envoy, with one listener for both versions of HTTP.
    pub(crate) async fn envoy() -> Program {
        let origin = Origin::start().await;
        let envoy = Envoy::start(&envoy_config(origin.address())).await;
        let at = envoy.listener("in").await;
        Program {
            http1: at,
            http2: at,
            origin,
            running: Kept::Envoy { _envoy: envoy },
        }
    }

    /// nginx of the system.
    pub(crate) async fn nginx() -> Program {
        let origin = Origin::start().await;
        let (http1, http2) = (free_port(), free_port());
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("nginx.conf");
        let text = include_str!("nginx.conf")
            .replace("FOLDER", &folder.path().display().to_string())
            .replace("ORIGIN", &origin.address().port().to_string())
            .replace("HTTP1", &http1.to_string())
            .replace("HTTP2", &http2.to_string());
        std::fs::write(&config, text).expect("a file");
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(&config);
        let child = start(command, folder.path(), http1).await;
        Program {
            http1: loopback(http1),
            http2: loopback(http2),
            origin,
            running: Kept::Process {
                _child: child,
                _folder: folder,
            },
        }
    }

    /// haproxy of the system.
    pub(crate) async fn haproxy() -> Program {
        let origin = Origin::start().await;
        let port = free_port();
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("haproxy.cfg");
        let text = include_str!("haproxy.cfg")
            .replace("ORIGIN", &origin.address().port().to_string())
            .replace("HTTP1", &port.to_string());
        std::fs::write(&config, text).expect("a file");
        let mut command = Command::new("/usr/sbin/haproxy");
        // One process in the foreground that says nothing (management guide, section 3).
        command.arg("-db").arg("-q").arg("-f").arg(&config);
        let child = start(command, folder.path(), port).await;
        Program {
            http1: loopback(port),
            http2: loopback(port),
            origin,
            running: Kept::Process {
                _child: child,
                _folder: folder,
            },
        }
    }

    /// How often Weir has refused a message, by rule; empty of the others.
    pub(crate) async fn refused(&self) -> BTreeMap<String, u64> {
        let Kept::Weir(kept) = &self.running else {
            return BTreeMap::new();
        };
        let request = Request::get("/metrics")
            .header("host", "localhost")
            .body(Full::default());
        let page = call(kept.1.addresses().metrics, Protocol::Http1, request.expect("a request")).await;
        let page = page.expect("the metrics page").text();
        let of_rule = |line: &str| {
            let (labels, count) = line.strip_prefix("weir_http1_refused_total{")?.rsplit_once("} ")?;
            let (_, rule) = labels.split_once("rule=\"")?;
            Some((rule.split('"').next()?.to_owned(), count.parse::<u64>().ok()?))
        };
        let mut refused = BTreeMap::new();
        for (rule, count) in page.lines().filter_map(of_rule) {
            *refused.entry(rule).or_default() += count;
        }
        refused
    }
}

async fn start(mut command: Command, folder: &Path, port: u16) -> Child {
    let name = command.as_std().get_program().to_owned();
    let child = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; `./dev setup` brings it", name.display()));
    until(&format!("{} to take connections", name.display()), || async {
        TcpStream::connect(loopback(port)).await.ok()
    })
    .await;
    child
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Envoy as a plain reverse proxy, all its settings at their defaults but for what names the way.
///
/// Source: www.envoyproxy.io/docs/envoy/latest/configuration/overview/examples, "Static".
fn envoy_config(origin: SocketAddr) -> Value {
    let at = |address: &str, port: u16| json!({"socket_address": {"address": address, "port_value": port}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        // Both versions on one port, by the preface (http_connection_manager.v3, "codec_type").
        "codec_type": "AUTO",
        // How long it waits with the end of a connection that it has shut ("delayed_close_timeout"; by default 1 s).
        "delayed_close_timeout": "0.02s",
        "route_config": {"name": "all", "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}],
        }]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        }}],
    });
    json!({
        "static_resources": {
            "listeners": [{
                "name": "in", "address": at("127.0.0.1", 0),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
                }]}],
            }],
            "clusters": [{
                "name": "origin", "type": "STATIC", "connect_timeout": "5s",
                "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": at("127.0.0.1", origin.port())}},
                ]}]},
            }],
        },
        "admin": {"address": at("127.0.0.1", 0)},
    })
}
