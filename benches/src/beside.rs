//! Programs of others that a request may pass in place of a sidecar, with their connections kept on both sides.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::certificates::{CHAIN, KEY, ROOT};
use crate::load::{Ask, Over};
use crate::process::{Place, Process, Processors, Ready, strings};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Beside {
    /// nginx of the system.
    Nginx,
    /// haproxy of the system.
    Haproxy,
    /// Envoy of the peers, as a plain reverse proxy.
    Envoy,
    /// The same with what a mesh has it do for each request: an access log, authorization by RBAC, retries and outlier
    /// detection. No tracing: there is no collector.
    EnvoyMesh,
}

impl Beside {
    /// As a table names it.
    pub fn name(self) -> &'static str {
        match self {
            Beside::Nginx => "nginx",
            Beside::Haproxy => "haproxy",
            Beside::Envoy => "Envoy",
            Beside::EnvoyMesh => "Envoy as in a mesh",
        }
    }

    /// Whether it can carry such requests with the same protocol on both sides.
    pub fn carries(self, over: Over, ask: Ask) -> bool {
        match (self, over, ask) {
            // It speaks HTTP/2 with an upstream for gRPC alone.
            (Beside::Nginx, Over::Http2 { .. }, Ask::Bytes(_)) => false,
            (Beside::Nginx | Beside::Haproxy | Beside::Envoy | Beside::EnvoyMesh, _, _) => true,
        }
    }

    /// Where it is: `peers` is the folder that `./dev setup` makes.
    fn program(self, peers: Option<&Path>) -> anyhow::Result<PathBuf> {
        let program = match self {
            Beside::Nginx => PathBuf::from("/usr/sbin/nginx"),
            Beside::Haproxy => PathBuf::from("/usr/sbin/haproxy"),
            Beside::Envoy | Beside::EnvoyMesh => {
                let peers =
                    peers.context("--peers, or WEIR_PEERS, has to say where Envoy is: `./dev setup` installs it")?;
                peers.join("bin/envoy")
            }
        };
        ensure!(
            program.is_file(),
            "{} is to be measured, and {} is not there: `./dev setup` installs it",
            self.name(),
            program.display()
        );
        Ok(program)
    }

    /// Its file of configuration, what is to stand there, and its arguments. `next`: where the second of a chain is.
    fn configured(
        self,
        stage: &Stage<'_>,
        folder: &Path,
        own: Listens,
        next: [SocketAddr; 2],
    ) -> anyhow::Result<(PathBuf, String, Vec<String>)> {
        let fill = |text: &str| {
            let mut text = text
                .replace("FOLDER", &folder.display().to_string())
                .replace("IDENTITY", &stage.identity.display().to_string())
                .replace("ORIGIN", &stage.origin.port().to_string());
            let pairs = [
                ("HTTP", own.alone),
                ("CHAIN", own.chain),
                ("MUTUAL", own.mutual),
                ("NEXT", next),
            ];
            for (name, [http1, http2]) in pairs {
                text = text
                    .replace(&format!("{name}1"), &http1.port().to_string())
                    .replace(&format!("{name}2"), &http2.port().to_string());
            }
            text
        };
        let path = |file: &str| (folder.join(file), folder.join(file).display().to_string());
        Ok(match self {
            Beside::Nginx => {
                let (file, path) = path("nginx.conf");
                (file, fill(include_str!("beside/nginx.conf")), strings(&["-c", &path]))
            }
            Beside::Haproxy => {
                // It has certificate and key in one file ("crt").
                let [chain, key] = [CHAIN, KEY].map(|file| fs::read_to_string(stage.identity.join(file)));
                fs::write(folder.join("both.pem"), format!("{}{}", chain?, key?))?;
                let (file, path) = path("haproxy.cfg");
                let args = strings(&["-db", "-q", "-f", &path]);
                (file, fill(include_str!("beside/haproxy.cfg")), args)
            }
            Beside::Envoy | Beside::EnvoyMesh => {
                let does = if self == Beside::Envoy {
                    Does::Passes
                } else {
                    Does::AsInMesh
                };
                let (file, path) = path("envoy.json");
                (file, envoy(stage, own, next, does).to_string(), envoy_args(&path))
            }
        })
    }
}

/// A program that runs before the origin, twice: both can stand alone, and they are a chain.
pub struct Running {
    /// Which it is.
    pub which: Beside,
    /// The one that stands alone, and is the first of the chain.
    pub first: Process,
    /// The second of the chain.
    pub second: Process,
    listens: Listens,
}

/// Where one of them listens; of each pair the first is for HTTP/1.1, and passes it on as that, the second for HTTP/2.
#[derive(Clone, Copy)]
struct Listens {
    /// For the origin.
    alone: [SocketAddr; 2],
    /// For the second of the chain, by mutual TLS.
    chain: [SocketAddr; 2],
    /// By mutual TLS, for the origin.
    mutual: [SocketAddr; 2],
}

/// What all that run have in common.
pub struct Stage<'a> {
    /// For their files.
    pub folder: &'a Path,
    /// Where [`crate::certificates::make`] has left what they need for mutual TLS.
    pub identity: &'a Path,
    /// The peers that `./dev setup` installs.
    pub peers: Option<&'a Path>,
    /// What stands behind them.
    pub origin: SocketAddr,
    /// They run on the first.
    pub processors: &'a Processors,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When it is missing, which says how to install it, or does not start.
    pub async fn start(
        which: Beside,
        stage: &Stage<'_>,
        next: &mut impl FnMut() -> anyhow::Result<SocketAddr>,
    ) -> anyhow::Result<Running> {
        let program = which.program(stage.peers)?;
        let mut listens = || {
            anyhow::Ok(Listens {
                alone: [next()?, next()?],
                chain: [next()?, next()?],
                mutual: [next()?, next()?],
            })
        };
        let (of_first, of_second) = (listens()?, listens()?);
        let start = async |name: &str, own: Listens| {
            let folder = stage.folder.join(format!("{which:?}-{name}"));
            fs::create_dir(&folder)?;
            let (file, text, args) = which.configured(stage, &folder, own, of_second.mutual)?;
            fs::write(&file, text)?;
            let ready = Ready::Accepts(own.mutual[1]);
            let (process, _) = Process::start(&program, &args, (stage.processors, Place::First), ready).await?;
            anyhow::Ok(process)
        };
        Ok(Running {
            which,
            second: start("second", of_second).await?,
            first: start("first", of_first).await?,
            listens: of_first,
        })
    }

    /// Where such requests go in, to pass the first alone.
    pub fn alone(&self, over: Over) -> SocketAddr {
        of(over, self.listens.alone)
    }

    /// Where they go in to pass both.
    pub fn chain(&self, over: Over) -> SocketAddr {
        of(over, self.listens.chain)
    }
}

fn of(over: Over, [http1, http2]: [SocketAddr; 2]) -> SocketAddr {
    match over {
        Over::Http1 { .. } => http1,
        Over::Http2 { .. } => http2,
    }
}

/// One worker thread, and no other Envoy to take sockets over from (Envoy, "Command line options").
fn envoy_args(config: &str) -> Vec<String> {
    strings(&[
        "--config-path",
        config,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ])
}

/// What Envoy does with each request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Passes,
    AsInMesh,
}

/// Envoy with listeners and clusters for each version of HTTP.
///
/// Sources: envoyproxy.io, "Configuration reference"; what a mesh adds is what Istio's pilot/pkg/networking/core writes
/// by default: its log's format, its retries, and outlier detection as its DestinationRule example has it.
fn envoy(stage: &Stage<'_>, own: Listens, next: [SocketAddr; 2], does: Does) -> Value {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
    const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
    let at = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let router = json!({"name": "router", "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")}});
    // Authorization of a mesh looks at every request; this policy lets all in that come from where the load is.
    let rbac = json!({"name": "rbac", "typed_config": {
        "@type": format!("{FILTERS}.http.rbac.v3.RBAC"),
        "rules": {"action": "ALLOW", "policies": {"load": {
            "permissions": [{"any": true}],
            "principals": [{"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}],
        }}},
    }});
    // As sidecars have it: TLS 1.3, the same key agreement, both ends with certificates.
    let file = |name: &str| json!({"filename": stage.identity.join(name)});
    let common = |http2: bool| {
        json!({
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": ["X25519MLKEM768"],
            },
            "tls_certificates": [{"certificate_chain": file(CHAIN), "private_key": file(KEY)}],
            "validation_context": {"trusted_ca": file(ROOT)},
            "alpn_protocols": [if http2 { "h2" } else { "http/1.1" }],
        })
    };
    let socket = |context: Value| json!({"name": "tls", "typed_config": context});
    let listener = |name: &str, address: SocketAddr, to: &str| {
        let mut route = json!({"cluster": to});
        let mut manager = json!({
            "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name,
            "http_filters": [router],
        });
        if does == Does::AsInMesh {
            route["retry_policy"] = json!({
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "num_retries": 2,
            });
            manager["http_filters"] = json!([rbac, router]);
            // Written where the sidecar's is.
            manager["access_log"] = json!([{"name": "file", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/stdout",
                "log_format": {"json_format": {
                    "start_time": "%START_TIME%", "duration": "%DURATION%", "response_code": "%RESPONSE_CODE%",
                    "response_code_details": "%RESPONSE_CODE_DETAILS%", "response_flags": "%RESPONSE_FLAGS%",
                    "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
                    "protocol": "%PROTOCOL%", "authority": "%REQ(:AUTHORITY)%", "request_id": "%REQ(X-REQUEST-ID)%",
                    "user_agent": "%REQ(USER-AGENT)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
                    "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%",
                    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
                    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
                    "upstream_cluster": "%UPSTREAM_CLUSTER%", "upstream_host": "%UPSTREAM_HOST%",
                    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%", "route_name": "%ROUTE_NAME%",
                    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
                }},
            }}]);
        }
        manager["route_config"] = json!({"name": name, "virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}],
        }]});
        let mut chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
        if name.starts_with("mutual") {
            chain["transport_socket"] = socket(json!({
                "@type": format!("{TLS}.DownstreamTlsContext"),
                "require_client_certificate": true, "common_tls_context": common(name.ends_with('2')),
            }));
        }
        json!({"name": name, "address": at(address), "filter_chains": [chain]})
    };
    let cluster = |name: &str, endpoint: SocketAddr| {
        let mut cluster = json!({
            "name": name, "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": at(endpoint)}}]},
            ]},
        });
        if name.starts_with("next") {
            cluster["transport_socket"] = socket(json!({
                "@type": format!("{TLS}.UpstreamTlsContext"),
                "sni": "relay.bench", "common_tls_context": common(name.ends_with('2')),
            }));
        }
        if name.ends_with('2') {
            cluster["typed_extension_protocol_options"] = json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    // The origin takes 200 at a time (hyper's default), which is known only once it has said so: more
                    // before would be refused (config.core.v3.Http2ProtocolOptions).
                    "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}},
                },
            });
        }
        if does == Does::AsInMesh {
            cluster["outlier_detection"] = json!({"consecutive_5xx": 7, "interval": "5s", "base_ejection_time": "15s"});
        }
        cluster
    };
    let listeners = [
        listener("http1", own.alone[0], "http1"),
        listener("http2", own.alone[1], "http2"),
        listener("chain1", own.chain[0], "next1"),
        listener("chain2", own.chain[1], "next2"),
        listener("mutual1", own.mutual[0], "http1"),
        listener("mutual2", own.mutual[1], "http2"),
    ];
    let clusters = [
        cluster("http1", stage.origin),
        cluster("http2", stage.origin),
        cluster("next1", next[0]),
        cluster("next2", next[1]),
    ];
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}
