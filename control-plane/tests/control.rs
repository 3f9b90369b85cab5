//! The control plane over real sockets: in process, and as the program it is.

#[path = "control/api.rs"]
mod api;
#[path = "control/client.rs"]
mod client;
#[path = "control/files.rs"]
mod files;
#[path = "control/hostile.rs"]
mod hostile;
#[path = "control/identity.rs"]
mod identity;
#[path = "control/kill.rs"]
mod kill;
#[path = "control/kubernetes.rs"]
mod kubernetes;
#[path = "control/mutual_tls.rs"]
mod mutual_tls;
#[path = "control/namespaces.rs"]
mod namespaces;
#[path = "control/pages.rs"]
mod pages;
#[path = "control/patches.rs"]
mod patches;
#[path = "control/program.rs"]
mod program;
#[path = "control/proxy.rs"]
mod proxy;
#[path = "control/questions.rs"]
mod questions;
#[path = "control/rotation.rs"]
mod rotation;
#[path = "control/start.rs"]
mod start;
#[path = "control/status.rs"]
mod status;
#[path = "control/workloads.rs"]
mod workloads;
#[path = "control/xds.rs"]
mod xds;

use client::Client;
use serde_json::{Value, json};
use weir_control::{Control, ControlConfig, RunningControl};

pub(crate) async fn run(config: ControlConfig) -> (RunningControl, Client) {
    let control = Control::start(config).await.expect("a control plane");
    let address = control.api_addr();
    (control, Client { address })
}

/// With the namespace `citizen`.
pub(crate) async fn in_memory() -> (RunningControl, Client) {
    let (control, client) = run(ControlConfig::in_memory()).await;
    client
        .post("/api/v1/namespaces", &namespace("citizen"))
        .await
        .expect(201);
    (control, client)
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

pub(crate) const SERVICES: &str = "/api/v1/namespaces/citizen/services";
