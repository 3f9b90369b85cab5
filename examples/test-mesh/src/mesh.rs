//! The mesh as a whole: its control plane, and what is applied to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use weir_api::{Key, Kind};
use weir_control::{Control, ControlConfig, RunningControl};
use weir_policy::model::AppProtocol;
use weir_proxy::Proxy;
use weir_proxy::config::{AccessLog, AppPort, ProxyConfig, Ratio};

use crate::api::Api;
use crate::client::{Answer, Protocol, call};
use crate::member::{Member, MemberSettings};
use crate::script::{Script, ScriptedApp};
use crate::until;

/// A control plane and the workloads that a test adds, all in namespace `default` unless their settings say otherwise.
pub struct TestMesh {
    control: RunningControl,
    files: TempDir,
    members: AtomicU32,
    secured: Secured,
}

/// Whether workloads have identities.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secured {
    /// They join by tokens, over TLS.
    Yes,
    /// They come in cleartext.
    No,
}

impl TestMesh {
    /// A mesh without services; its store is in memory.
    ///
    /// # Panics
    /// When the control plane does not start.
    pub async fn start() -> TestMesh {
        TestMesh::with(ControlConfig::in_memory()).await
    }

    /// A mesh whose workloads join by tokens, each as the account of its name, over TLS.
    ///
    /// # Panics
    /// When the control plane does not start.
    pub async fn secured() -> TestMesh {
        let mut config = ControlConfig::in_memory();
        config.xds_tls = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        TestMesh::with(config).await
    }

    /// A mesh under a control plane that runs with this; ports 0 are well.
    ///
    /// # Panics
    /// When the control plane does not start.
    pub async fn with(config: ControlConfig) -> TestMesh {
        TestMesh {
            secured: match config.xds_tls {
                Some(_) => Secured::Yes,
                None => Secured::No,
            },
            control: Control::start(config).await.expect("a control plane"),
            files: tempfile::tempdir().expect("a folder for logs"),
            members: AtomicU32::new(0),
        }
    }

    /// The control plane.
    pub fn control(&self) -> &RunningControl {
        &self.control
    }

    /// Ends the control plane; sidecars go on.
    pub async fn stop_control(self) {
        self.control.shutdown().await;
    }

    /// A workload of this name, speaking HTTP/1.1, and a Service of the same name with port 80 that selects it.
    pub async fn service(&self, name: &str, script: Script) -> Member {
        self.service_with(name, script, MemberSettings::default()).await
    }

    /// The same, with settings.
    pub async fn service_with(&self, name: &str, script: Script, settings: MemberSettings) -> Member {
        self.apply_namespace(settings.namespace).await;
        self.apply_service_in(settings.namespace, name, name, settings.protocol)
            .await;
        self.workload(name, name, script, settings).await
    }

    /// A Service with port 80 that selects workloads labelled `app: APP`; its only port is named `web`.
    pub async fn apply_service(&self, name: &str, app: &str, protocol: AppProtocol) {
        self.apply_service_in("default", name, app, protocol).await;
    }

    async fn apply_namespace(&self, name: &str) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        if name != "default" {
            self.apply(&namespace.to_string()).await;
        }
    }

    async fn apply_service_in(&self, namespace: &str, name: &str, app: &str, protocol: AppProtocol) {
        // Apps have ports of the system's choice: the Service names what they speak.
        let (target_port, app_protocol) = match protocol {
            AppProtocol::Http1 => ("http", "http"),
            AppProtocol::Http2 => ("h2c", "kubernetes.io/h2c"),
            AppProtocol::Grpc => ("grpc", "grpc"),
            AppProtocol::Tcp => ("tcp", "tcp"),
        };
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": {"app": app}, "ports": [
                {"name": "web", "port": 80, "targetPort": target_port, "appProtocol": app_protocol},
            ]},
        });
        self.apply(&service.to_string()).await;
    }

    /// A Service with port 80 in front of endpoints that have no sidecar.
    pub async fn plain_service(&self, name: &str, protocol: AppProtocol, endpoints: &[SocketAddr]) {
        let app_protocol = match protocol {
            AppProtocol::Http1 => "http",
            AppProtocol::Http2 => "kubernetes.io/h2c",
            AppProtocol::Grpc => "grpc",
            AppProtocol::Tcp => "tcp",
        };
        // A slice has one port for all of its endpoints; these have each their own.
        for (number, endpoint) in endpoints.iter().enumerate() {
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-{number}"), "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
                "ports": [{"name": "web", "port": endpoint.port(), "protocol": "TCP"}],
            });
            self.apply(&slice.to_string()).await;
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"name": "web", "port": 80, "appProtocol": app_protocol}]},
        });
        self.apply(&service.to_string()).await;
    }

    /// A workload labelled `app: APP`; returns once it can be called and the control plane has its endpoint.
    ///
    /// # Panics
    /// When that does not come to be.
    pub async fn workload(&self, name: &str, app: &str, script: Script, settings: MemberSettings) -> Member {
        let scripted = ScriptedApp::start(script).await;
        self.sidecar(name, app, scripted, settings).await
    }

    /// A sidecar for an app that runs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn sidecar(&self, name: &str, app: &str, scripted: ScriptedApp, settings: MemberSettings) -> Member {
        let number = self.members.fetch_add(1, Ordering::Relaxed);
        let log = self.files.path().join(format!("{name}-{number}.log"));
        let port = AppPort {
            app_port: scripted.address().port().try_into().expect("a port"),
            protocol: settings.protocol,
            inbound: SocketAddr::from(([127, 0, 0, 1], 0)),
            edge: settings.edge,
        };
        let workload = format!("{}/{name}", settings.namespace).parse().expect("a name");
        let mut config = ProxyConfig::new(workload, vec![port]);
        match self.secured {
            Secured::Yes => {
                let url = format!("https://{}", self.control.xds_tls_addr().expect("it is on"));
                config.control_plane = Some(url.parse().expect("a URL"));
                config.joining.token_file = Some(self.token(settings.namespace, name, app).await);
            }
            Secured::No => {
                config.control_plane = Some(self.cleartext_url());
                config.labels = [("app".to_owned(), app.to_owned())].into();
            }
        }
        config.access_log = AccessLog::File(log.clone());
        config.trace_sampling = Ratio::ALL;
        let slices = Kind::EndpointSlice.path(Some(settings.namespace));
        let slices = slices.as_str();
        (settings.proxy)(&mut config);
        let proxy = Proxy::start(config).await.expect("a sidecar");
        let member = Member {
            app: scripted,
            proxy,
            log,
        };
        until(&format!("{name} to be ready"), || async {
            let request = Request::get("/healthz/ready")
                .header("host", "localhost")
                .body(Full::default());
            let answer = call(member.addresses().health, Protocol::Http1, request.expect("a request")).await;
            answer.ok().filter(|answer| answer.status == StatusCode::OK)
        })
        .await;
        let endpoint = member.inbound().port();
        until(&format!("the endpoint of {name}"), || async move {
            let slices = self.api(Method::GET, slices, None).await.json();
            let has_it = slices["items"].as_array()?.iter().any(|slice| {
                let port = slice["ports"][0]["port"] == endpoint;
                let ready = slice["endpoints"].as_array().is_some_and(|endpoints| {
                    endpoints
                        .iter()
                        .any(|one| one["conditions"]["ready"] == true && one["targetRef"]["name"] == name)
                });
                port && ready
            });
            has_it.then_some(())
        })
        .await;
        member
    }

    /// Where proxies come to the control plane in cleartext.
    ///
    /// # Panics
    /// When they can't.
    pub fn cleartext_url(&self) -> Uri {
        let url = format!("http://{}", self.control.xds_addr().expect("it is on"));
        url.parse().expect("a URL")
    }

    /// A file with a token for a workload labelled `app: APP`.
    ///
    /// # Panics
    /// When there is none.
    pub async fn token(&self, namespace: &str, account: &str, app: &str) -> PathBuf {
        let request = json!({
            "namespace": namespace, "account": account, "labels": {"app": app}, "ttl": "1h", "uses": 10,
        });
        let issued = self.api(Method::POST, "/authority/tokens", Some(&request)).await;
        assert_eq!(issued.status, StatusCode::OK, "{}", issued.text());
        let number = self.members.fetch_add(1, Ordering::Relaxed);
        let file = self.files.path().join(format!("{account}-{number}.token"));
        std::fs::write(&file, issued.json()["token"].as_str().expect("a token")).expect("written");
        file
    }

    /// The control plane's API.
    pub fn control_api(&self) -> Api {
        Api {
            address: self.control.api_addr(),
        }
    }

    /// As [`Api::apply`].
    pub async fn apply(&self, yaml: &str) -> Vec<Key> {
        self.control_api().apply(yaml).await
    }

    /// As [`Api::apply_in_force`].
    pub async fn apply_in_force(&self, yaml: &str) {
        self.control_api().apply_in_force(yaml).await;
    }

    /// As [`Api::delete`].
    pub async fn delete(&self, key: &Key) {
        self.control_api().delete(key).await;
    }

    /// As [`Api::request`].
    pub async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.control_api().request(method, path, body).await
    }
}
