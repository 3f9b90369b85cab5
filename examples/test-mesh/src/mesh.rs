//! The mesh as a whole: its control plane, and what is applied to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use weir_api::{Key, Object};
use weir_control::{Control, ControlConfig, RunningControl};
use weir_policy::model::AppProtocol;
use weir_proxy::Proxy;
use weir_proxy::config::{AccessLog, AppPort, ProxyConfig, Ratio};

use crate::client::{Answer, Protocol, call};
use crate::member::{Member, MemberSettings};
use crate::script::{Script, ScriptedApp};
use crate::until;

/// A control plane and the workloads that a test adds, all in namespace `default` unless said otherwise.
pub struct TestMesh {
    control: RunningControl,
    files: TempDir,
    members: AtomicU32,
}

impl TestMesh {
    /// A mesh without services; its store is in memory.
    ///
    /// # Panics
    /// When the control plane does not start.
    pub async fn start() -> TestMesh {
        TestMesh::with(ControlConfig::in_memory()).await
    }

    /// A mesh under a control plane that runs with this; ports 0 are well.
    ///
    /// # Panics
    /// When the control plane does not start.
    pub async fn with(config: ControlConfig) -> TestMesh {
        TestMesh {
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
        self.apply_service(name, name, settings.protocol).await;
        self.workload(name, name, script, settings).await
    }

    /// A Service with port 80 that selects workloads labelled `app: APP`; its only port is named `web`.
    pub async fn apply_service(&self, name: &str, app: &str, protocol: AppProtocol) {
        // Apps have ports of the system's choice: the Service names what they speak.
        let (target_port, app_protocol) = match protocol {
            AppProtocol::Http1 => ("http", "http"),
            AppProtocol::Http2 => ("h2c", "kubernetes.io/h2c"),
            AppProtocol::Grpc => ("grpc", "grpc"),
        };
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
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
        let workload = format!("default/{name}").parse().expect("a name");
        let mut config = ProxyConfig::new(workload, vec![port]);
        let url = format!("http://{}", self.control.xds_addr());
        config.control_plane = Some(url.parse().expect("a URL"));
        config.labels = [("app".to_owned(), app.to_owned())].into();
        config.access_log = AccessLog::File(log.clone());
        config.trace_sampling = Ratio::ALL;
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
            let slices = self.api(Method::GET, SLICES, None).await.json();
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

    /// Applies YAML documents as `weirctl apply` does.
    ///
    /// # Panics
    /// When one is refused.
    pub async fn apply(&self, yaml: &str) -> Vec<Key> {
        let objects =
            weir_api::yaml::read_objects(yaml, "test.yaml", None).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let mut keys = Vec::new();
        for weir_api::yaml::Sourced { object, .. } in objects {
            keys.push(object.key());
            self.apply_object(&object).await;
        }
        keys
    }

    async fn apply_object(&self, object: &Object) {
        let key = object.key();
        let mut value = object.to_value();
        let held = self.api(Method::GET, &key.path(), None).await;
        let answer = if held.status == StatusCode::NOT_FOUND {
            self.api(Method::POST, &collection(&key), Some(&value)).await
        } else {
            value["metadata"]["resourceVersion"] = held.json()["metadata"]["resourceVersion"].clone();
            self.api(Method::PUT, &key.path(), Some(&value)).await
        };
        assert!(answer.status.is_success(), "{key}: {}", answer.text());
    }

    /// Applies, and waits until it is in force on every proxy that it concerns.
    ///
    /// # Panics
    /// When it is refused, or does not come into force.
    pub async fn apply_in_force(&self, yaml: &str) {
        for key in self.apply(yaml).await {
            until(&format!("{key} to be in force"), || async {
                let view = self
                    .api(Method::GET, &format!("{}/proxies", key.path()), None)
                    .await
                    .json();
                match view["state"].as_str() {
                    Some("InForce" | "NoSubscribers") => Some(()),
                    Some("Rejected") => panic!("{key}: {view}"),
                    _ => None,
                }
            })
            .await;
        }
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, key: &Key) {
        let answer = self.api(Method::DELETE, &key.path(), None).await;
        assert!(answer.status.is_success(), "{key}: {}", answer.text());
    }

    /// One request to the API.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.control.api_addr().to_string())
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("a request");
        call(self.control.api_addr(), Protocol::Http1, request)
            .await
            .expect("an answer of the API")
    }
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn collection(key: &Key) -> String {
    let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
    key.kind.path(namespace)
}
