//! Leaf, intermediate and root certificates are rotated while requests go on, as processes: none fails, also where the
//! control plane is killed on the way; who is behind is named; and who joins meanwhile gets in.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weir_test_mesh::{
    Api, Client, ControlProcess, Finished, Processes, Protocol, ProxyProcess, Script, ScriptedApp, call, finish_within,
    free_port, until, until_within,
};

/// A rotation lasts as long as certificates are good, which is a minute here; a busy machine needs more.
const ROTATED_WITHIN: Duration = Duration::from_secs(300);

/// A control plane that can be killed and started again, and a folder for what it and its proxies need.
struct Mesh {
    processes: Processes,
    folder: tempfile::TempDir,
    flags: Vec<String>,
    url: String,
    control: ControlProcess,
}

impl Mesh {
    async fn start() -> Mesh {
        Mesh::with(tempfile::tempdir().expect("a folder"), &[]).await
    }

    /// With these flags of the control plane as well.
    async fn with(folder: tempfile::TempDir, more: &[&str]) -> Mesh {
        let processes = Processes::of_this_build();
        let tls = format!("127.0.0.1:{}", free_port());
        let api = format!("127.0.0.1:{}", free_port());
        let data = folder.path().join("data");
        let flags = [
            "--data-dir",
            text(&data),
            "--api",
            &api,
            "--xds-tls",
            &tls,
            "--cert-ttl",
            "1m",
        ];
        let flags: Vec<String> = flags.iter().chain(more).map(|flag| (*flag).to_owned()).collect();
        let control = control(&processes, &flags).await;
        let url = format!("https://{tls}");
        Mesh {
            processes,
            folder,
            flags,
            url,
            control,
        }
    }

    /// Kills the control plane and brings it back.
    async fn again(&mut self) {
        // Its ports are the same: it has to be gone first.
        signal("-KILL", self.control.running.pid()).await;
        let api = self.control.api;
        until("it to be gone", || async {
            tokio::net::TcpStream::connect(api.address).await.err().map(drop)
        })
        .await;
        self.control = control(&self.processes, &self.flags).await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn token(&self, account: &str, uses: u32) -> PathBuf {
        let request = json!({
            "namespace": "default", "account": account, "labels": {"app": account}, "ttl": "1h", "uses": uses,
        });
        let issued = self
            .control
            .api
            .request(Method::POST, "/authority/tokens", Some(&request))
            .await;
        assert_eq!(issued.status, StatusCode::OK, "{}", issued.text());
        let file = self.path(&format!("{account}.token"));
        std::fs::write(&file, issued.json()["token"].as_str().expect("a token")).expect("written");
        file
    }

    async fn proxy(&self, name: &str, app: &ScriptedApp, flags: &[&str]) -> ProxyProcess {
        let all = [&["--control-plane", &self.url], flags].concat();
        let proxy = self.processes.proxy(name, app.address(), &all).await;
        until("the proxy to be ready", || async {
            let ready = get(proxy.admin, "localhost", "/ready").await.json();
            (ready["ready"] == true).then_some(())
        })
        .await;
        proxy
    }

    async fn service(&self, name: &str, app: &str, port: u16, protocol: &str) {
        let yaml = format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{app: {app}}}
  ports: [{{name: web, port: 80, targetPort: {port}, appProtocol: {protocol}}}]
"
        );
        self.control.api.apply(&yaml).await;
    }

    async fn status(&self) -> Value {
        self.control.api.request(Method::GET, "/authority", None).await.json()
    }

    async fn rotate(&self, flags: &[&str]) {
        let all = [&["ca", "rotate"], flags].concat();
        self.processes.weirctl(&self.control.api, &all).await;
    }

    /// How `weirctl` ends, well or not, which has as long as a rotation.
    async fn weirctl(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(self.processes.folder().join("weirctl"));
        let server = format!("http://{}", self.control.api.address);
        command.args(args).env("WEIR_SERVER", server);
        finish_within(ROTATED_WITHIN, command, b"").await
    }

    /// Asks the API for this, which can't be done as things stand.
    async fn refuses(&self, action: &str, why: &str) {
        let asked = json!({"action": action});
        let asking = self
            .control
            .api
            .request(Method::POST, "/authority/rotation", Some(&asked));
        let refused = asking.await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text());
        assert!(refused.text().contains(why), "{}", refused.text());
    }

    /// The status, once the rotation is at this step.
    async fn until_step(&self, step: &str) -> Value {
        until_within(ROTATED_WITHIN, &format!("the step {step}"), || async {
            let status = self.status().await;
            (status["rotation"]["step"] == step).then_some(status)
        })
        .await
    }

    async fn until_rotated(&self) -> Value {
        until_within(ROTATED_WITHIN, "the rotation to end", || async {
            let status = self.status().await;
            status["rotation"].is_null().then_some(status)
        })
        .await
    }

    /// What is said of a proxy that is behind.
    async fn until_behind(&self, workload: &str, why: &str) -> Value {
        until(&format!("{workload} to be behind: {why}"), || async {
            let status = self.status().await;
            let behind = status["behind"].as_array()?.clone();
            let found = behind
                .iter()
                .find(|one| one["workload"] == workload && one["why"].as_str().is_some_and(|held| held.contains(why)));
            found.cloned()
        })
        .await
    }
}

async fn control(processes: &Processes, flags: &[String]) -> ControlProcess {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    processes.control(&flags).await
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn request(host: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", host).body(Full::default());
    request.expect("a request")
}

async fn get(from: SocketAddr, host: &str, path: &str) -> weir_test_mesh::Answer {
    call(from, Protocol::Http1, request(host, path))
        .await
        .expect("an answer")
}

/// The fingerprints of the roots, the first as it signs.
fn roots(status: &Value) -> Vec<String> {
    let roots = status["roots"].as_array().expect("roots").iter();
    roots
        .map(|root| root["sha256"].as_str().expect("a text").to_owned())
        .collect()
}

/// Stops a process or lets it go on.
/// Waits until a proxy trusts this root and no other; it shows the begin of its fingerprint.
async fn until_trusted_alone(proxy: &ProxyProcess, root: &str) {
    until("the proxy to trust one root alone", || async {
        let identity = get(proxy.admin, "localhost", "/ready").await.json()["identity"].clone();
        let trusted = identity["roots"].as_array()?.clone();
        (trusted.len() == 1 && root.starts_with(trusted[0].as_str()?)).then_some(())
    })
    .await;
}

async fn signal(name: &str, pid: u32) {
    let done = Command::new("kill")
        .args([name, &pid.to_string()])
        .stdin(Stdio::null())
        .status();
    assert!(done.await.expect("kill").success());
}

/// Requests that go on until they are told to end; each must be answered rightly.
struct Load {
    goes_on: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(outbound: SocketAddr) -> Load {
        let mut load = Load {
            goes_on: Arc::new(AtomicBool::new(true)),
            done: Arc::default(),
            tasks: Vec::new(),
        };
        for spoken in [Protocol::Http1, Protocol::Http1, Protocol::Http2] {
            let (goes_on, done) = (Arc::clone(&load.goes_on), Arc::clone(&load.done));
            load.tasks.push(tokio::spawn(async move {
                let mut client = Client::connect(outbound, spoken).await.expect("the sidecar");
                while goes_on.load(Ordering::Relaxed) {
                    let request = match spoken {
                        Protocol::Http1 => request("b", "/"),
                        Protocol::Http2 => Request::post("http://g/pkg.Service/Method")
                            .header("content-type", "application/grpc")
                            .header("te", "trailers")
                            .body(Full::from("\0\0\0\0\0"))
                            .expect("a request"),
                    };
                    let answer = client.send(request).await.expect("an answer");
                    assert_eq!(answer.status, StatusCode::OK, "{}: {:?}", answer.text(), answer.headers);
                    let grpc = answer.trailers.get("grpc-status").map(HeaderValue::as_bytes);
                    match spoken {
                        Protocol::Http1 => assert_eq!(answer.text(), "begin end"),
                        Protocol::Http2 => assert_eq!(grpc, Some(&b"0"[..]), "{:?}", answer.headers),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        load
    }

    /// Returns how many there were.
    async fn end(self) -> usize {
        self.goes_on.store(false, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no request failed");
        }
        self.done.load(Ordering::Relaxed)
    }
}

fn grpc() -> Script {
    Script::streamed(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::new(Bytes::from_static(b"\0\0\0\0\x01x")).with_trailers(async { Some(Ok(trailers)) });
        let mut response = Response::new(body.boxed());
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        response
    })
}

/// Waits until a call is answered.
async fn until_answered(from: SocketAddr, host: &str) {
    until("the call to be answered", || async {
        (get(from, host, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

/// A strict mesh: nothing goes in cleartext that could hide what fails.
async fn strict(api: &Api) {
    let config = json!({
        "apiVersion": "weir.dev/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
        "spec": {"mutualTls": {"mode": "Strict"}},
    });
    api.apply(&config.to_string()).await;
}

#[tokio::test]
async fn everything_is_rotated_and_no_request_fails_whenever_the_control_plane_is_killed() {
    let mut mesh = Mesh::start().await;
    strict(&mesh.control.api).await;
    let (end, _ended) = watch::channel(false);
    let (app, apps_grpc) = (
        ScriptedApp::start(Script::begin_and_end(end.subscribe())).await,
        ScriptedApp::start(grpc()).await,
    );
    mesh.service("b", "b", app.address().port(), "http").await;
    mesh.service("g", "b", apps_grpc.address().port(), "grpc").await;
    let grpc_app = format!("{}=grpc@0", apps_grpc.address().port());
    let (token_a, token_b) = (mesh.token("a", 1).await, mesh.token("b", 1).await);
    // Of before: it knows the old root alone.
    let older = mesh.token("c", 3).await;
    let b = mesh
        .proxy("b-1", &app, &["--token-file", text(&token_b), "--app", &grpc_app])
        .await;
    let a = mesh.proxy("a-1", &app, &["--token-file", text(&token_a)]).await;
    let c = mesh.proxy("c-1", &app, &["--token-file", text(&older)]).await;
    until_answered(a.outbound, "b").await;
    let load = Load::start(a.outbound);
    let outbound = a.outbound;
    let long = tokio::spawn(async move {
        let mut client = Client::connect(outbound, Protocol::Http1).await.expect("the sidecar");
        let Client::Http1(sender) = &mut client else {
            panic!("HTTP/1.1")
        };
        let answer = sender.send_request(request("b", "/long")).await.expect("a head");
        answer.into_body().collect().await.expect("a whole body").to_bytes()
    });

    let before = mesh.status().await;
    mesh.rotate(&["--intermediate"]).await;
    let renewed = mesh.status().await;
    assert_ne!(before["intermediate"]["sha256"], renewed["intermediate"]["sha256"]);
    assert_eq!(roots(&before), roots(&renewed));

    // One that says nothing holds the first step, also for a control plane that begins anew.
    signal("-STOP", c.running.pid()).await;
    mesh.rotate(&[]).await;
    let behind = mesh
        .until_behind("default/c-1", "it has not acknowledged the roots")
        .await;
    assert!(
        behind["remedy"].as_str().is_some_and(|text| text.contains("--despite")),
        "{behind}"
    );
    let status = mesh.status().await;
    assert_eq!(status["rotation"]["step"], "Trust", "{status}");
    assert_eq!(roots(&status).first(), roots(&before).first(), "the old one signs");
    assert_eq!(roots(&status).len(), 2);
    mesh.again().await;
    mesh.until_behind("default/c-1", "it has not come back").await;
    signal("-CONT", c.running.pid()).await;

    let signing = mesh.until_step("Sign").await;
    assert_eq!(roots(&signing).len(), 2);
    assert_ne!(roots(&signing).first(), roots(&before).first(), "the new one signs");
    mesh.again().await;
    // Who knows the old root alone is led to the new one.
    let joined = mesh.proxy("c-2", &app, &["--token-file", text(&older)]).await;
    until_answered(joined.outbound, "b").await;

    // Killed where it is seen to forget, or right after it has.
    until_within(ROTATED_WITHIN, "the step Forget", || async {
        let status = mesh.status().await;
        let step = &status["rotation"]["step"];
        (step == "Forget" || step.is_null()).then_some(())
    })
    .await;
    mesh.again().await;
    let after = mesh.until_rotated().await;
    assert_eq!(roots(&after), roots(&signing)[..1], "the old one is forgotten");
    assert_eq!(after["behind"], json!([]), "{after}");
    let directory = mesh.path("data").join("authority");
    assert!(!directory.join("rotation.json").exists());

    // After the end as well: by a token of before, and by a file that holds both roots.
    let joined = mesh.proxy("c-3", &app, &["--token-file", text(&older)]).await;
    until_answered(joined.outbound, "b").await;
    let pem = |status: &Value, root: usize| status["roots"][root]["pem"].as_str().expect("PEM").to_owned();
    let both = mesh.path("both.pem");
    std::fs::write(&both, pem(&before, 0) + &pem(&after, 0)).expect("written");
    let token = mesh.token("d", 1).await;
    let joined = mesh
        .proxy("d-1", &app, &["--token-file", text(&token), "--ca-file", text(&both)])
        .await;
    until_answered(joined.outbound, "b").await;

    // All have certificates below the new root, and still speak with each other.
    for proxy in [&a, &b, &c] {
        until_trusted_alone(proxy, &roots(&after)[0]).await;
    }
    end.send_replace(true);
    assert_eq!(long.await.expect("no panic"), "begin end", "it was not cut off");
    let requests = load.end().await;
    assert!(requests > 100, "{requests} requests");
}

#[tokio::test]
async fn a_rotation_that_is_held_up_is_aborted_and_one_that_goes_on_despite_it_is_not() {
    let mesh = Mesh::start().await;
    let app = ScriptedApp::start(Script::answer(200, "")).await;
    let token = mesh.token("a", 1).await;
    let a = mesh.proxy("a-1", &app, &["--token-file", text(&token)]).await;
    let before = mesh.status().await;
    signal("-STOP", a.running.pid()).await;
    mesh.rotate(&[]).await;
    mesh.until_behind("default/a-1", "it has not acknowledged the roots")
        .await;
    let check = mesh
        .processes
        .weirctl(&mesh.control.api, &["ca", "status"])
        .await
        .stdout;
    assert!(check.contains("default/a-1") && check.contains("step Trust"), "{check}");
    let check = mesh.weirctl(&["check"]).await.stdout;
    for line in [
        "note   rotation of the root: rotation of the root, begun ",
        ": step Trust since ",
        "see to the proxies that are named below",
        "note   trust in the roots: default/a-1 since ",
        ": it has not acknowledged the roots",
        "`weirctl ca rotate --despite NAMESPACE/WORKLOAD`",
    ] {
        assert!(check.contains(line), "{line}: {check}");
    }
    // It is not begun a second time.
    let waits = mesh.weirctl(&["ca", "rotate", "--wait", "--timeout", "1s"]).await;
    assert!(!waits.success, "{waits:?}");
    for part in [
        "step Trust",
        "default/a-1: it has not acknowledged the roots",
        "--despite",
    ] {
        assert!(waits.stderr.contains(part), "{part}: {waits:?}");
    }
    let metrics = mesh.control.api.request(Method::GET, "/metrics", None).await.text();
    for line in [
        "weir_control_rotation_step{step=\"Trust\"} 1",
        "weir_control_rotation_step{step=\"Sign\"} 0",
        "weir_control_rotation_behind 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    mesh.refuses("Root", "a rotation is under way, at the step Trust").await;
    mesh.rotate(&["--abort"]).await;
    let aborted = mesh.status().await;
    assert_eq!(roots(&aborted), roots(&before));
    assert!(aborted["rotation"].is_null(), "{aborted}");
    signal("-CONT", a.running.pid()).await;
    until_trusted_alone(&a, &roots(&before)[0]).await;

    signal("-STOP", a.running.pid()).await;
    mesh.rotate(&[]).await;
    mesh.until_behind("default/a-1", "it has not acknowledged the roots")
        .await;
    // It is of the time when both are trusted and the old one signs.
    let token_of_trust = mesh.token("t", 1).await;
    mesh.rotate(&["--despite", "default/a-1"]).await;
    let signing = mesh.until_step("Sign").await;
    assert_eq!(signing["rotation"]["despite"], json!(["default/a-1"]));
    mesh.refuses("Abort", "the rotation is at the step Sign").await;
    signal("-CONT", a.running.pid()).await;

    // Who joins by a token of the step Sign, and by one of an earlier step when all is over, gets in all the same.
    let token_of_sign = mesh.token("s", 2).await;
    let joined = mesh.proxy("s-1", &app, &["--token-file", text(&token_of_sign)]).await;
    let waited = mesh.weirctl(&["ca", "rotate", "--wait", "--timeout", "5m"]).await;
    assert!(waited.success, "{waited:?}");
    assert_eq!(waited.stdout, "done: the old root is forgotten, and its key is gone\n");
    let after = mesh.status().await;
    assert!(after["rotation"].is_null(), "{after}");
    assert_eq!(roots(&after), roots(&signing)[..1], "the one that signed then");
    let late = [("t-1", &token_of_trust), ("s-2", &token_of_sign)];
    let mut proxies = vec![joined];
    for (name, token) in late {
        proxies.push(mesh.proxy(name, &app, &["--token-file", text(token)]).await);
    }
    for proxy in &proxies {
        until_trusted_alone(proxy, &roots(&after)[0]).await;
    }
}

/// An authority of an operator's: a root and an intermediate, with its key, PEM.
struct Operators {
    root: String,
    intermediate: String,
    key: String,
}

impl Operators {
    fn new(name: &str) -> Operators {
        let params = |common_name: String| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, common_name);
            params
        };
        let (root_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let root = params(format!("root {name}"));
        let root_pem = root.self_signed(&root_key).expect("a root").pem();
        let intermediate = params(format!("intermediate {name}"));
        let intermediate = intermediate
            .signed_by(&key, &Issuer::new(root, root_key))
            .expect("an intermediate");
        Operators {
            root: root_pem,
            intermediate: intermediate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// As an operator replaces a file: whole.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("set");
    std::fs::rename(&new, path).expect("replaced");
}

/// The root of an operator's authority is changed by its files, as the refusal says, with two of them in between.
#[tokio::test]
async fn an_operators_root_is_changed_by_files_and_no_request_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (Operators::new("old"), Operators::new("new"));
    let file = |name: &str| folder.path().join(name);
    let (cert, key, roots_file) = (file("cert.pem"), file("key.pem"), file("roots.pem"));
    replace(&cert, &old.intermediate);
    replace(&key, &old.key);
    replace(&roots_file, &old.root);
    let flags = [
        ("--ca-cert", cert.clone()),
        ("--ca-key", key.clone()),
        ("--ca-roots", roots_file.clone()),
    ];
    let flags: Vec<&str> = flags.iter().flat_map(|(flag, path)| [*flag, text(path)]).collect();
    let mesh = Mesh::with(tempfile::tempdir().expect("a folder"), &flags).await;
    strict(&mesh.control.api).await;
    let (end, _ended) = watch::channel(false);
    let (app, apps_grpc) = (
        ScriptedApp::start(Script::begin_and_end(end.subscribe())).await,
        ScriptedApp::start(grpc()).await,
    );
    mesh.service("b", "b", app.address().port(), "http").await;
    mesh.service("g", "b", apps_grpc.address().port(), "grpc").await;
    let grpc_app = format!("{}=grpc@0", apps_grpc.address().port());
    let (token_a, token_b) = (mesh.token("a", 1).await, mesh.token("b", 1).await);
    let b = mesh
        .proxy("b-1", &app, &["--token-file", text(&token_b), "--app", &grpc_app])
        .await;
    let a = mesh.proxy("a-1", &app, &["--token-file", text(&token_a)]).await;
    until_answered(a.outbound, "b").await;
    let load = Load::start(a.outbound);
    mesh.refuses("Root", "put the new root beside the old one into --ca-roots")
        .await;
    let identity =
        async |proxy: &ProxyProcess| get(proxy.admin, "localhost", "/ready").await.json()["identity"].clone();
    let until_trusted = async |count: usize| {
        for proxy in [&a, &b] {
            until("the proxies to trust what the file holds", || async {
                let trusted = identity(proxy).await["roots"].as_array().map(Vec::len);
                (trusted == Some(count)).then_some(())
            })
            .await;
        }
    };

    replace(&roots_file, &format!("{}{}", old.root, new.root));
    until_trusted(2).await;
    until("nobody to be behind", || async {
        let status = mesh.status().await;
        (roots(&status).len() == 2 && status["behind"] == json!([])).then_some(())
    })
    .await;
    let before = (
        identity(&a).await["notAfter"].clone(),
        identity(&b).await["notAfter"].clone(),
    );
    replace(&cert, &new.intermediate);
    replace(&key, &new.key);
    // They are told that certificates are below another root now, and don't wait for two thirds of their time.
    until("both proxies to have certificates below the new root", || async {
        let status = mesh.status().await;
        let signs = status["intermediate"]["subject"].as_str()?.contains("intermediate new");
        let now = (
            identity(&a).await["notAfter"].clone(),
            identity(&b).await["notAfter"].clone(),
        );
        (signs && now.0 != before.0 && now.1 != before.1).then_some(())
    })
    .await;
    replace(&roots_file, &new.root);
    until_trusted(1).await;
    until_answered(a.outbound, "b").await;
    let requests = load.end().await;
    assert!(requests > 100, "{requests} requests");
}
