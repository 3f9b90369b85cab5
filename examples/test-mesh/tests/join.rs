//! Sidecars that join by TLS, as processes: their first certificate, the next ones, and those who may not.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use weir_control::{AuthorityConfig, Control, ControlConfig, RunningControl};
use weir_test_mesh::{
    Api, ControlProcess, Processes, Protocol, ProxyProcess, Script, ScriptedApp, call, until, until_within,
};

async fn get(from: SocketAddr, host: &str, path: &str) -> weir_test_mesh::Answer {
    let request = Request::get(path).header("host", host).body(Full::<Bytes>::default());
    let request = request.expect("a request");
    call(from, Protocol::Http1, request).await.expect("an answer")
}

/// What `/ready` says.
async fn ready(proxy: &ProxyProcess) -> Value {
    get(proxy.admin, "localhost", "/ready").await.json()
}

async fn until_ready(proxy: &ProxyProcess) -> Value {
    until("the proxy to be ready", || async {
        let ready = ready(proxy).await;
        (ready["ready"] == true).then_some(ready)
    })
    .await
}

/// What is wrong with the proxy's identity, once it says this.
async fn trouble(proxy: &ProxyProcess, expect: &str) -> String {
    until("the proxy to say what is wrong", || async {
        let ready = ready(proxy).await;
        let trouble = ready["identity"]["trouble"].as_str()?;
        assert_eq!(ready["ready"], false, "{ready}");
        trouble.contains(expect).then(|| trouble.to_owned())
    })
    .await
}

/// A control plane and a folder for what its proxies need.
struct Mesh {
    processes: Processes,
    folder: tempfile::TempDir,
    control: ControlProcess,
}

impl Mesh {
    async fn start() -> Mesh {
        let processes = Processes::of_this_build();
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let flags = ["--data-dir", text(&data), "--xds-tls", "127.0.0.1:0"];
        let control = processes.control(&flags).await;
        Mesh {
            processes,
            folder,
            control,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file with a token of this account of namespace `default`.
    async fn token(&self, account: &str, uses: u32) -> PathBuf {
        token(
            &self.control.api,
            &self.path(&format!("{account}.token")),
            "default",
            account,
            uses,
        )
        .await
    }

    async fn proxy(&self, name: &str, app: &ScriptedApp, flags: &[&str]) -> ProxyProcess {
        let url = format!("https://{}", self.control.xds_tls.expect("it is on"));
        let all = [&["--control-plane", &url], flags].concat();
        self.processes.proxy(name, app.address(), &all).await
    }

    async fn service(&self, name: &str) {
        let yaml = format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: web, port: 80, targetPort: http, appProtocol: http}}]
"
        );
        self.control.api.apply(&yaml).await;
    }
}

async fn token(api: &Api, file: &Path, namespace: &str, account: &str, uses: u32) -> PathBuf {
    let request = json!({
        "namespace": namespace, "account": account, "labels": {"app": account}, "ttl": "1h", "uses": uses,
    });
    let issued = api.request(Method::POST, "/authority/tokens", Some(&request)).await;
    assert_eq!(issued.status, StatusCode::OK, "{}", issued.text());
    std::fs::write(file, issued.json()["token"].as_str().expect("a token")).expect("written");
    file.to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn two_sidecars_join_by_tokens_and_speak() {
    let mesh = Mesh::start().await;
    mesh.service("b").await;
    let app = ScriptedApp::start(Script::answer(200, "from b")).await;
    let (token_a, token_b) = (mesh.token("a", 1).await, mesh.token("b", 1).await);
    let b = mesh.proxy("b-1", &app, &["--token-file", text(&token_b)]).await;
    let a = mesh.proxy("a-1", &app, &["--token-file", text(&token_a)]).await;
    let ready = until_ready(&b).await;
    let identity = &ready["identity"];
    assert_eq!(
        identity["spiffeId"], "spiffe://cluster.local/ns/default/sa/b",
        "{ready}"
    );
    let days = identity["daysLeft"].as_f64().expect("a number");
    assert!((0.9..=1.0).contains(&days), "{ready}");
    until_ready(&a).await;
    until("the call to reach b", || async {
        let answer = get(a.outbound, "b", "/").await;
        (answer.status == StatusCode::OK && answer.text() == "from b").then_some(())
    })
    .await;
    // The labels by which the Service selects b, and its account, are the token's.
    let path = "/apis/weir.dev/v1/namespaces/default/workloads/b-1";
    let workload = mesh.control.api.request(Method::GET, path, None).await.json();
    assert_eq!(workload["spec"]["account"], "b", "{workload}");
    assert_eq!(workload["metadata"]["labels"]["app"], "b", "{workload}");
    // Everywhere that it is shown, no secret is.
    let config = get(b.admin, "localhost", "/config").await.text();
    let token = std::fs::read_to_string(&token_b).expect("the token");
    assert!(
        config.contains("spiffe://cluster.local/ns/default/sa/b") && config.contains("notAfter"),
        "{config}"
    );
    for part in token.split('.').chain(["PRIVATE"]) {
        assert!(!config.contains(part), "{config}");
    }
}

#[tokio::test]
async fn who_may_not_join_is_told_why_and_is_not_ready() {
    let mesh = Mesh::start().await;
    let app = ScriptedApp::start(Script::answer(200, "")).await;
    let used = mesh.token("a", 1).await;
    let first = mesh.proxy("a-1", &app, &["--token-file", text(&used)]).await;
    until_ready(&first).await;
    let thief = mesh.proxy("a-2", &app, &["--token-file", text(&used)]).await;
    trouble(
        &thief,
        "the token was used 1 times, as often as it may; make another one",
    )
    .await;
    // The name of the namespace is checked before the token is spent, and by the control plane as well.
    let police = mesh.path("police.token");
    let police = token(&mesh.control.api, &police, "police", "a", 1).await;
    let other = mesh.proxy("a-3", &app, &["--token-file", text(&police)]).await;
    trouble(&other, "is of another namespace than --namespace default").await;
    let missing = mesh.proxy("a-4", &app, &["--token-file", "/nowhere/token"]).await;
    trouble(&missing, "--token-file /nowhere/token: ").await;
    // A token of another control plane, whose root is not this one's.
    let stranger = Mesh::start().await;
    let foreign = stranger.token("a", 1).await;
    let lost = mesh.proxy("a-5", &app, &["--token-file", text(&foreign)]).await;
    trouble(&lost, "none of the roots that are trusted here is above it").await;
    // Roots from a file are taken instead: then the control plane itself refuses that token.
    let status = mesh.control.api.request(Method::GET, "/authority", None).await.json();
    let roots = mesh.path("roots.pem");
    std::fs::write(&roots, status["roots"][0]["pem"].as_str().expect("PEM")).expect("written");
    let flags = ["--token-file", text(&foreign), "--ca-file", text(&roots)];
    let refused = mesh.proxy("a-6", &app, &flags).await;
    trouble(&refused, "the token is no join token of this control plane").await;
    let good = mesh.token("b", 1).await;
    let flags = ["--token-file", text(&good), "--ca-file", text(&roots)];
    let by_file = mesh.proxy("b-1", &app, &flags).await;
    until_ready(&by_file).await;
}

#[tokio::test]
async fn a_kept_identity_needs_no_token_after_a_restart() {
    let mesh = Mesh::start().await;
    let app = ScriptedApp::start(Script::answer(200, "")).await;
    let (token, state) = (mesh.token("a", 1).await, mesh.path("state"));
    let flags = ["--state-dir", text(&state), "--keep-identity"];
    let with_token = [&flags[..], &["--token-file", text(&token)]].concat();
    let first = mesh.proxy("a-1", &app, &with_token).await;
    let before = until_ready(&first).await;
    until("the identity to be on disk", || async {
        state.join("identity.pem").exists().then_some(())
    })
    .await;
    first.running.kill().await;
    let second = mesh.proxy("a-1", &app, &flags).await;
    until("the workload to register anew", || async {
        let ready = ready(&second).await;
        let pending = ready["pending"].as_array().expect("a list").is_empty();
        (pending && ready["identity"]["notAfter"] == before["identity"]["notAfter"]).then_some(())
    })
    .await;
    // Without the flag nothing is kept, and the token is used up.
    let state = mesh.path("other-state");
    let token = mesh.token("b", 1).await;
    let flags = ["--state-dir", text(&state), "--token-file", text(&token)];
    let first = mesh.proxy("b-1", &app, &flags).await;
    until_ready(&first).await;
    first.running.kill().await;
    assert!(!state.join("identity.pem").exists());
    let second = mesh.proxy("b-1", &app, &flags).await;
    until("the token to be refused", || async {
        let ready = ready(&second).await;
        let trouble = ready["identity"]["trouble"].as_str()?.to_owned();
        trouble.contains("the token was used 1 times").then_some(())
    })
    .await;
}

/// A control plane whose certificates are good for this long.
async fn with_certificates_for(cert_ttl: Duration) -> (RunningControl, Api) {
    let authority = AuthorityConfig {
        cert_ttl,
        ..AuthorityConfig::default()
    };
    let config = ControlConfig {
        xds_tls: Some(([127, 0, 0, 1], 0).into()),
        authority,
        ..ControlConfig::in_memory()
    };
    let control = Control::start(config).await.expect("a control plane");
    let api = Api {
        address: control.api_addr(),
    };
    (control, api)
}

/// The token is gone when the certificate is renewed, so that only the certificate can be what the next one is given
/// for. It is good for long enough that a machine that stands still for seconds doesn't let it end.
#[tokio::test]
async fn a_certificate_is_renewed_by_the_one_before() {
    let (control, api) = with_certificates_for(Duration::from_secs(45)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = token(&api, &folder.path().join("token"), "default", "a", 1).await;
    let app = ScriptedApp::start(Script::answer(200, "")).await;
    let url = format!("https://{}", control.xds_tls_addr().expect("it is on"));
    let flags = ["--control-plane", &url, "--token-file", text(&file)];
    let proxy = Processes::of_this_build().proxy("a-1", app.address(), &flags).await;
    let first = until_ready(&proxy).await["identity"]["notAfter"].clone();
    std::fs::remove_file(&file).expect("removed");
    // After half a minute.
    until_within(Duration::from_secs(120), "another certificate", || async {
        (ready(&proxy).await["identity"]["notAfter"] != first).then_some(())
    })
    .await;
    control.shutdown().await;
}

/// Certificates that are good for seconds: several are used up while the app goes on, and the workload stays known.
/// Then the control plane is gone for good, and what is in force goes on.
#[tokio::test]
async fn certificates_are_renewed_while_requests_go_on() {
    let (control, api) = with_certificates_for(Duration::from_secs(8)).await;
    let folder = tempfile::tempdir().expect("a folder");
    // Many uses: on a machine that stands still for seconds a certificate ends, and the proxy joins anew.
    let file = token(&api, &folder.path().join("token"), "default", "a", 1_000).await;
    api.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: a, namespace: default}
spec:
  selector: {app: a}
  ports: [{name: web, port: 80, targetPort: http, appProtocol: http}]
",
    )
    .await;
    let app = ScriptedApp::start(Script::answer(200, "")).await;
    let url = format!("https://{}", control.xds_tls_addr().expect("it is on"));
    let flags = ["--control-plane", &url, "--token-file", text(&file)];
    let proxy = Processes::of_this_build().proxy("a-1", app.address(), &flags).await;
    let mut seen = until_ready(&proxy).await["identity"]["notAfter"].clone();
    until("the first answer", || async {
        (get(proxy.outbound, "a", "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
    for _ in 0..3 {
        seen = until("another certificate", || async {
            let ready = ready(&proxy).await;
            assert_eq!(get(proxy.outbound, "a", "/").await.status, StatusCode::OK);
            let not_after = ready["identity"]["notAfter"].clone();
            (not_after != seen).then_some(not_after)
        })
        .await;
    }
    until("the workload to be confirmed", || async {
        let path = "/apis/weir.dev/v1/namespaces/default/workloads/a-1";
        let workload = api.request(Method::GET, path, None).await.json();
        (workload["status"]["state"] == "Confirmed").then_some(())
    })
    .await;
    control.shutdown().await;
    until("the renewal to fail", || async {
        let ready = ready(&proxy).await;
        assert_eq!(get(proxy.outbound, "a", "/").await.status, StatusCode::OK);
        ready["identity"]["trouble"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(get(proxy.outbound, "a", "/").await.status, StatusCode::OK);
}
