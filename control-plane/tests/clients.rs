//! Clients by others, against a control plane in this process: the Kubernetes package for
//! Python, requests that Schemathesis makes up from the OpenAPI documents, and gRPC's own client by TLS.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use weir_api::{Kind, Object};
use weir_control::store::{Op, Precondition};
use weir_control::{Control, ControlConfig, RunningControl};

/// Fails a test that waits for what will not come.
const PATIENCE: Duration = Duration::from_secs(600);

async fn start() -> (RunningControl, String) {
    let control = Control::start(ControlConfig::in_memory())
        .await
        .expect("a control plane");
    let api = format!("http://{}", control.api_addr());
    (control, api)
}

fn peer(name: &str) -> PathBuf {
    let peers = std::env::var_os("WEIR_PEERS")
        .unwrap_or_else(|| panic!("WEIR_PEERS: `./dev test` installs {name} and says where it is"));
    Path::new(&peers).join("bin").join(name)
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// What the API answers to JSON, which must be 200.
async fn post(api: &str, path: &str, body: String) -> Value {
    let stream = TcpStream::connect(api).await.expect("it answers");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.expect("a connection");
    // Its errors come out at the request.
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", api)
        .header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.expect("a whole one").to_bytes();
    connection.abort();
    serde_json::from_slice(&body).expect("JSON")
}

fn service(namespace: &str, name: &str, port: u16) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"port": port}]},
    });
    Object::parse(value).expect("an object")
}

/// So many changes that none from before is remembered.
async fn forget(control: &RunningControl) {
    let replace = |port| Op::Replace {
        object: service("default", "flapping", port),
        precondition: Precondition::Any,
    };
    let mut ops = vec![Op::Create(service("default", "flapping", 1))];
    ops.extend((2..=3).cycle().take(10_001).map(replace));
    control.store().write(ops).await.expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubernetes_package_for_python_works() {
    let (control, api) = start().await;
    let mut python = Command::new(peer("python"))
        .arg(file("kubernetes_client.py"))
        .arg(&api)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python; `./dev setup` installs it");
    let mut said = BufReader::new(python.stdout.take().expect("its output")).lines();
    let mut tell = python.stdin.take().expect("its input");
    let lines = async {
        let ready = said.next_line().await.expect("text");
        if ready.as_deref() == Some("ready") {
            forget(&control).await;
            tell.write_all(b"on\n").await.expect("written");
        }
        (ready, said.next_line().await.expect("text"))
    };
    let told = tokio::time::timeout(PATIENCE, lines).await.expect("it goes on");
    let output = python.wait_with_output().await.expect("its end");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told, (Some("ready".to_owned()), Some("done".to_owned())), "{errors}");
    assert!(output.status.success(), "{errors}");
    control.shutdown().await;
}

/// gRPC's C core by TLS: it takes our certificates for its own, and renews the one that it has by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcs_own_client_speaks_tls_with_our_certificates() {
    let config = ControlConfig {
        xds_tls: Some(([127, 0, 0, 1], 0).into()),
        ..ControlConfig::in_memory()
    };
    let control = Control::start(config).await.expect("a control plane");
    let api = control.api_addr().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    let key = rcgen::KeyPair::generate().expect("a key");
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .and_then(|csr| csr.pem());
    let csr = csr.expect("a request");
    let request = json!({"namespace": "citizen", "account": "portal", "csr": csr}).to_string();
    let issued = post(&api, "/authority/certificates", request).await;
    let pem = |field: &str| {
        let texts = issued[field].as_array().expect("a list").iter();
        texts.map(|text| text.as_str().expect("text")).collect::<String>()
    };
    write("key.pem", &key.serialize_pem());
    write("csr.pem", &csr);
    write("cert.pem", &pem("chain"));
    write("ca.pem", &pem("roots"));
    let ran = Command::new(peer("python"))
        .arg(file("grpc_tls.py"))
        .arg(control.xds_tls_addr().expect("it is on").to_string())
        .arg(folder.path())
        .arg("weir-control.weir-system.svc")
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(PATIENCE, ran).await.expect("an end in time");
    let ran = ran.expect("python; `./dev setup` installs it");
    let (said, errors) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(ran.status.success(), "{errors}");
    assert_eq!(
        said,
        "-----BEGIN CERTIFICATE-----\n".repeat(3),
        "certificate, intermediate, root"
    );
    control.shutdown().await;
}

/// Every operation of every document, with the same requests each time: nothing fails within, and every answer is one
/// that the document speaks of. What a schema tells apart is asked for value by value, and what it leaves open is
/// drawn. Methods that the document does not name are refused, with those that it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_made_up_from_openapi_is_answered_otherwise_than_it_says() {
    let (control, api) = start().await;
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "a", "port": 80}], "rules": [{}]},
    });
    let route = Object::parse(route).expect("an object");
    let ops = vec![Op::Create(service("default", "a", 80)), Op::Create(route)];
    control.store().write(ops).await.expect("written");
    let documents = Kind::group_versions().into_iter().map(|(group, version)| {
        let root = if group.is_empty() {
            "api".to_owned()
        } else {
            format!("apis/{group}")
        };
        format!("{api}/openapi/v3/{root}/{version}")
    });
    let api = api.as_str();
    let runs = documents.map(|document| async move {
        let checks = format!("{CHECKS},{CHECKS_OF_ALL}");
        requests_pass(&document, api, &["--phases", "coverage", "--checks", &checks]).await;
        let draws = ["--phases", "fuzzing", "--max-examples", "10", "--checks", CHECKS];
        requests_pass(&document, api, &draws).await;
    });
    futures_util::future::join_all(runs).await;
    control.shutdown().await;
}

async fn requests_pass(document: &str, api: &str, which: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(peer("schemathesis"));
    command.arg("--config-file").arg(file("schemathesis.toml"));
    command.args(["run", document, "--url", api]);
    command.args(["--seed", "1", "--continue-on-failure", "--request-timeout", "60"]);
    command.args(["--no-color", "--warnings", "off"]).args(which);
    // How fast requests are made up says how busy the machine is.
    command.args(["--suppress-health-check", "too_slow"]);
    command.current_dir(&folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(THOUSANDS_OF_REQUESTS, command.output());
    let output = output.await.expect("an end in time");
    let output = output.expect("schemathesis; `./dev setup` installs it");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{document}: {said}");
    assert!(said.contains("passed"), "{document}: {said}");
}

/// Fails a test whose client hangs: its requests are some 17,000 for the largest document, on whatever machine.
const THOUSANDS_OF_REQUESTS: Duration = Duration::from_secs(30 * 60);

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// What it takes to ask for all that a document tells apart: other methods among them.
const CHECKS_OF_ALL: &str =
    "response_headers_conformance,missing_required_header,unsupported_method,allow_header_conformance";
