//! A real Envoy.

use std::net::SocketAddr;
use std::process::Stdio;

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::client::{Answer, Protocol, call};
use crate::processes::peer_program;
use crate::until;

/// An Envoy that runs; killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    admin: SocketAddr,
    _child: Child,
    _files: tempfile::TempDir,
}

impl Envoy {
    /// Starts one with this bootstrap configuration, in which its admin port must be of the system's choice.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(config: &Value) -> Envoy {
        let program = peer_program("envoy");
        let files = tempfile::tempdir().expect("a folder");
        let (config_path, admin_path) = (files.path().join("envoy.json"), files.path().join("admin"));
        std::fs::write(&config_path, config.to_string()).expect("a file");
        let child = Command::new(&program)
            .arg("--config-path")
            .arg(&config_path)
            .arg("--admin-address-path")
            .arg(&admin_path)
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `./dev setup` installs it", program.display()));
        let admin = until("Envoy to open its admin port", || async {
            std::fs::read_to_string(&admin_path).ok()?.trim().parse().ok()
        })
        .await;
        Envoy {
            admin,
            _child: child,
            _files: files,
        }
    }

    /// What its admin port answers.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn admin(&self, path: &str) -> Answer {
        let request = Request::get(path).header("host", "admin").body(Full::default());
        let answer = call(self.admin, Protocol::Http1, request.expect("a request")).await;
        answer.expect("an answer of its admin port")
    }

    /// Where its listener of this name takes connections: it is shown as soon as its port is its own.
    ///
    /// # Panics
    /// When there is none.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        until(&format!("Envoy's listener {name}"), || async {
            let all = self.admin("/listeners?format=json").await.json();
            let listeners = all["listener_statuses"].as_array()?;
            let listener = listeners.iter().find(|one| one["name"] == name)?;
            let port = listener["local_address"]["socket_address"]["port_value"].as_u64()?;
            let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).ok()?));
            TcpStream::connect(address).await.ok().map(|_| address)
        })
        .await
    }

    /// One counter, by its whole name; 0 where it was never counted.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn counter(&self, name: &str) -> u64 {
        let stats = self.admin("/stats?format=json&type=Counters").await.json();
        let mut stats = stats["stats"].as_array().expect("stats").iter();
        let found = stats.find(|stat| stat["name"] == name);
        found.and_then(|stat| stat["value"].as_u64()).unwrap_or_default()
    }
}

/// A bootstrap configuration with which an Envoy takes all that it does from this control plane. `variant` is
/// `envoy.config.core.v3.ApiConfigSource.ApiType`, `asks` what its node's metadata has for Weir.
pub fn bootstrap(control: SocketAddr, name: &str, variant: &str, asks: Value) -> Value {
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let http2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "node": {"id": format!("default/{name}"), "cluster": "test", "metadata": {"weir.dev": asks}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": variant, "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "weir-control"}}],
            },
            "cds_config": ads, "lds_config": ads,
        },
        "static_resources": {"clusters": [{
            "name": "weir-control", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": http2, "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
            "load_assignment": {"cluster_name": "weir-control", "endpoints": [{"lb_endpoints": [{
                "endpoint": {"address": {"socket_address": {
                    "address": control.ip(), "port_value": control.port(),
                }}},
            }]}]},
        }]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    })
}
