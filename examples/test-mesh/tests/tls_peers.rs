//! Others' TLS and SPIFFE against ours: openssl, Envoy, a SPIFFE library and testssl.sh, on a control plane's TLS port
//! and on the inbound port of a sidecar that joined it, in a mesh where ports are entered by mutual TLS alone.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::process::Command;
use weir_test_mesh::{
    Answer, ControlProcess, Envoy, Finished, Processes, Protocol, ProxyProcess, Script, ScriptedApp, call, finish,
    finish_within, peer_program, until,
};

const XFCC: &str = "x-forwarded-client-cert";
const BY_B: &str = "By=spiffe://cluster.local/ns/default/sa/b;URI=spiffe://cluster.local/ns/default/sa/portal";

/// A control plane, and the sidecar of `b` that joined it.
struct Mesh {
    folder: tempfile::TempDir,
    processes: Processes,
    control: ControlProcess,
    /// The control plane's TLS port.
    door: SocketAddr,
    app: ScriptedApp,
    b: ProxyProcess,
}

impl Mesh {
    async fn start() -> Mesh {
        let processes = Processes::of_this_build();
        let folder = tempfile::tempdir().expect("a folder");
        let (data, token) = (folder.path().join("data"), folder.path().join("b.token"));
        let flags = ["--data-dir", text(&data), "--xds-tls", "127.0.0.1:0"];
        let control = processes.control(&flags).await;
        let door = control.xds_tls.expect("it is on");
        control
            .api
            .apply(
                "
apiVersion: weir.dev/v1
kind: MeshConfig
metadata: {name: mesh}
spec: {mutualTls: {mode: Strict}}
",
            )
            .await;
        let args = ["token", "create", "--namespace", "default", "--account", "b"];
        let args = [&args[..], &["--labels", "app=b", "--out", text(&token)]].concat();
        processes.weirctl(&control.api, &args).await;
        // Its answer says something that is the mesh's own.
        let app = ScriptedApp::start(Script::http(|_| async {
            let answer = Response::builder().header("weir-verdict", "1;f=policy;s=b;r=mine");
            answer.body(Full::from("from b")).expect("an answer")
        }))
        .await;
        let url = format!("https://{door}");
        let flags = ["--control-plane", &url, "--token-file", text(&token)];
        let b = processes.proxy("b-1", app.address(), &flags).await;
        let mesh = Mesh {
            folder,
            processes,
            control,
            door,
            app,
            b,
        };
        until("the sidecar to have joined, and to be strict", || async {
            let config = mesh.admin("/config").await;
            let strict = config["mesh"]["mutual_tls"]["mode"]
                .as_str()?
                .eq_ignore_ascii_case("Strict");
            let ready = mesh.admin("/ready").await;
            (strict && ready["ready"] == true).then_some(())
        })
        .await;
        mesh
    }

    /// What the sidecar's admin port answers.
    async fn admin(&self, path: &str) -> Value {
        get(self.b.admin, "localhost", path, &[]).await.json()
    }

    /// Waits until a sample of the sidecar's, by name and labels as it stands on the page, is this much.
    async fn until_counted(&self, sample: &str, expect: f64) {
        until(&format!("{sample} to be {expect}"), || async {
            let page = get(self.b.metrics, "localhost", "/metrics", &[]).await.text();
            let found: Option<f64> = page
                .lines()
                .find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
            let found = found.unwrap_or_else(|| panic!("no {sample} in\n{page}"));
            (found == expect).then_some(())
        })
        .await;
    }

    /// What `weirctl cert` writes for this account.
    async fn svid(&self, account: &str) -> Svid {
        svid(&self.processes, &self.control, account, self.path(account)).await
    }

    /// The same of another control plane, with another root.
    async fn stranger(&self, trust_domain: &str, account: &str) -> Svid {
        let control = self
            .processes
            .control(&["--in-memory", "--trust-domain", trust_domain])
            .await;
        let folder = self.path(&format!("of-{trust_domain}"));
        svid(&self.processes, &control, account, folder).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn svid(processes: &Processes, control: &ControlProcess, account: &str, folder: PathBuf) -> Svid {
    let args = ["cert", "--namespace", "default", "--account", account];
    let args = [&args[..], &["--out", text(&folder)]].concat();
    processes.weirctl(&control.api, &args).await;
    Svid { folder }
}

/// A folder with a certificate and the intermediate, its key, and the roots.
struct Svid {
    folder: PathBuf,
}

impl Svid {
    fn file(&self, name: &str) -> String {
        text(&self.folder.join(name)).to_owned()
    }

    fn roots(&self) -> String {
        self.file("ca.pem")
    }

    /// As options of `openssl s_client`.
    fn shown(&self) -> Vec<String> {
        let (chain, key) = (self.file("cert.pem"), self.file("key.pem"));
        ["-cert", &chain, "-cert_chain", &chain, "-key", &key]
            .map(str::to_owned)
            .into()
    }
}

async fn get(from: SocketAddr, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::default()).expect("a request");
    call(from, Protocol::Http1, request).await.expect("an answer")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

async fn openssl<Arg: AsRef<str>>(args: &[Arg], input: &[u8]) -> Finished {
    let mut command = Command::new("openssl");
    command.args(args.iter().map(AsRef::as_ref));
    finish(command, input).await
}

/// A connection of openssl's, which says on stderr what was agreed on, and on stdout what came. It goes on until the
/// other end closes.
async fn s_client(to: SocketAddr, roots: &str, more: &[String], input: &[u8]) -> Finished {
    let to = to.to_string();
    let args = ["s_client", "-brief", "-ign_eof", "-verify_return_error"];
    let args = [&args[..], &["-connect", &to, "-CAfile", roots]].concat();
    let args: Vec<&str> = args.into_iter().chain(more.iter().map(String::as_str)).collect();
    openssl(&args, input).await
}

fn options(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[track_caller]
fn says(said: &str, expect: &str) {
    assert!(said.contains(expect), "{expect:?} is not in\n{said}");
}

/// With a field that says who somebody is, which is the sidecar's to say.
const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\
    x-forwarded-client-cert: URI=spiffe://cluster.local/ns/default/sa/king\r\n\r\n";

#[tokio::test]
async fn openssl_is_let_in_with_a_certificate_of_the_mesh() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    // X25519MLKEM768 needs OpenSSL 3.5, and Debian 12 has 3.0: it is agreed on with Envoy, below.
    for (groups, agreed) in [
        ("X25519:P-256", "X25519, 253 bits"),
        ("P-256", "ECDH, prime256v1, 256 bits"),
        ("P-384", "ECDH, secp384r1, 384 bits"),
    ] {
        let before = mesh.app.seen().len();
        let more = [own.shown(), options("-alpn http/1.1 -groups"), options(groups)].concat();
        let said = s_client(mesh.b.inbound, &own.roots(), &more, REQUEST).await;
        assert!(said.success, "{groups}: {said:?}");
        says(&said.stdout, "HTTP/1.1 200 OK\r\n");
        assert!(said.stdout.ends_with("from b"), "{said:?}");
        for expect in [
            "Protocol version: TLSv1.3\n",
            "Verification: OK\n",
            &format!("Temp Key: {agreed}\n"),
        ] {
            says(&said.stderr, expect);
        }
        let seen = mesh.app.seen();
        assert_eq!(seen.len(), before + 1, "{groups}");
        assert_eq!(seen[before].header(XFCC), Some(BY_B), "{groups}");
    }
}

/// An authority of openssl's, for another trust domain.
struct OpensslAuthority {
    folder: PathBuf,
}

impl OpensslAuthority {
    async fn new(folder: PathBuf) -> OpensslAuthority {
        fs::create_dir(&folder).expect("a folder");
        let authority = OpensslAuthority { folder };
        let (key, root) = (authority.file("root.key"), authority.file("root.pem"));
        let args = options("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 30 -subj /CN=Partner");
        let args = [args, ["-keyout", &key, "-out", &root].map(str::to_owned).into()].concat();
        let made = openssl(&args, b"").await;
        assert!(made.success, "{made:?}");
        authority
    }

    fn file(&self, name: &str) -> String {
        text(&self.folder.join(name)).to_owned()
    }

    /// A folder with a certificate for this id, signed here, and its key.
    async fn sign(&self, name: &str, id: &str) -> Svid {
        let svid = Svid {
            folder: self.folder.join(name),
        };
        fs::create_dir(&svid.folder).expect("a folder");
        let (key, csr, extensions) = (svid.file("key.pem"), svid.file("csr.pem"), svid.file("extensions"));
        let made = options("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=Partner");
        let made = openssl(
            &[made, ["-keyout", &key, "-out", &csr].map(str::to_owned).into()].concat(),
            b"",
        )
        .await;
        assert!(made.success, "{made:?}");
        let says = format!(
            "subjectAltName=URI:{id}\nbasicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage=clientAuth,serverAuth\n"
        );
        fs::write(&extensions, says).expect("written");
        let (root, root_key) = (self.file("root.pem"), self.file("root.key"));
        let cert = svid.file("cert.pem");
        let files = [
            "-in",
            &csr,
            "-CA",
            &root,
            "-CAkey",
            &root_key,
            "-extfile",
            &extensions,
            "-out",
            &cert,
        ];
        let signed = [
            options("x509 -req -CAcreateserial -days 1"),
            files.map(str::to_owned).into(),
        ]
        .concat();
        let signed = openssl(&signed, b"").await;
        assert!(signed.success, "{signed:?}");
        svid
    }
}

/// Workloads of another trust domain get in by the roots that the MeshConfig has of it, and not before or after.
#[tokio::test]
async fn openssl_is_the_authority_of_another_trust_domain() {
    let mesh = Mesh::start().await;
    let partner = OpensslAuthority::new(mesh.path("partner")).await;
    let teller = partner.sign("teller", "spiffe://partner.gov/ns/bank/sa/teller").await;
    let portal = partner
        .sign("portal", "spiffe://cluster.local/ns/default/sa/portal")
        .await;
    let roots = mesh.svid("portal").await.roots();
    let mut spec = json!({"mutualTls": {"mode": "Strict"}});
    let root = fs::read_to_string(partner.file("root.pem")).expect("PEM");
    for domains in [json!([]), json!([{"name": "partner.gov", "roots": root}]), json!([])] {
        spec["trustDomains"] = domains.clone();
        let config = json!({
            "apiVersion": "weir.dev/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"}, "spec": spec,
        });
        mesh.control.api.apply(&config.to_string()).await;
        let count = domains.as_array().map_or(0, Vec::len);
        until("the sidecar to trust them", || async {
            let config = mesh.admin("/config").await;
            let trusted = config["identity"]["trustDomains"].as_object()?.len();
            (trusted == count).then_some(())
        })
        .await;
        for (own, gets_in) in [(&teller, count == 1), (&portal, false)] {
            let before = mesh.app.seen().len();
            let more = [own.shown(), options("-alpn http/1.1")].concat();
            let said = s_client(mesh.b.inbound, &roots, &more, REQUEST).await;
            let seen = mesh.app.seen();
            if gets_in {
                says(&said.stdout, "HTTP/1.1 200 OK\r\n");
                let expect = "By=spiffe://cluster.local/ns/default/sa/b;URI=spiffe://partner.gov/ns/bank/sa/teller";
                assert_eq!(seen[before].header(XFCC), Some(expect));
            } else {
                assert_eq!(seen.len(), before, "{said:?}");
                // unknown_ca (RFC 8446 section 6.2).
                says(&said.stderr, "SSL alert number 48");
            }
        }
    }
}

/// Who resumes a session shows no certificate again, and is known all the same.
#[tokio::test]
async fn openssl_resumes_a_session_and_is_known() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    let session = mesh.path("session.pem");
    let to = mesh.b.inbound.to_string();
    let connect = ["s_client", "-ign_eof", "-connect", &to, "-alpn", "http/1.1"].map(str::to_owned);
    let connect = [connect.into(), own.shown(), vec!["-CAfile".to_owned(), own.roots()]].concat();
    for (option, expect) in [("-sess_out", "New, TLSv1.3"), ("-sess_in", "Reused, TLSv1.3")] {
        let args = [&connect[..], &[option.to_owned(), text(&session).to_owned()]].concat();
        let said = openssl(&args, REQUEST).await;
        assert!(said.success, "{option}: {said:?}");
        says(&said.stdout, expect);
    }
    let seen = mesh.app.seen();
    let known: Vec<_> = seen.iter().map(|seen| seen.header(XFCC)).collect();
    assert_eq!(known, [Some(BY_B); 2]);
    mesh.until_counted("weir_tls_handshakes_total{kind=\"resumed\"} ", 1.0)
        .await;
}

/// Nobody says anything before he is let in or not, so that it is the alert that ends the connection, not an answer.
#[tokio::test]
async fn openssl_is_refused_by_alert() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    let namesake = mesh.stranger("cluster.local", "portal").await;
    let other = mesh.stranger("other.gov", "portal").await;
    let (sidecar, control) = (mesh.b.inbound, mesh.door);
    let no_certificate = options("-tls1_3");
    let no_group = |own: &Svid, group: &str| [own.shown(), options("-groups"), options(group)].concat();
    let old = [own.shown(), options("-tls1_2")].concat();
    for (what, to, more, alert) in [
        // Descriptions of RFC 8446 section 6. Each root has a name of its own.
        ("no certificate", sidecar, no_certificate, "116"),
        ("another root of the same domain", sidecar, namesake.shown(), "48"),
        ("another root", sidecar, other.shown(), "48"),
        ("TLS 1.2", sidecar, old.clone(), "70"),
        ("P-521", sidecar, no_group(&own, "P-521"), "40"),
        ("X448", sidecar, no_group(&own, "X448"), "40"),
        ("another root of the same domain", control, namesake.shown(), "48"),
        ("another root", control, other.shown(), "48"),
        ("TLS 1.2", control, old, "70"),
        ("P-521", control, no_group(&own, "P-521"), "40"),
    ] {
        let said = s_client(to, &own.roots(), &more, b"").await;
        assert!(!said.success && said.stdout.is_empty(), "{what} at {to}: {said:?}");
        let alert = format!("SSL alert number {alert}");
        let alerted = said.stderr.lines().any(|line| line.ends_with(&alert));
        assert!(alerted, "{what} at {to}: {alert}: {said:?}");
    }
    assert_eq!(mesh.app.seen().len(), 0);
    mesh.until_counted("weir_tls_handshakes_failed_total{reason=\"certificate\"} ", 3.0)
        .await;
}

/// Who has no certificate yet gets in at the control plane's port to ask for one.
#[tokio::test]
async fn openssl_gets_in_at_the_control_plane_and_no_session_is_resumed_there() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    let session = mesh.path("session.pem");
    for shown in [Vec::new(), own.shown()] {
        let more = [
            shown,
            options("-alpn h2 -groups X25519:P-256 -sess_out"),
            options(text(&session)),
        ]
        .concat();
        // What is no HTTP/2 ends the connection.
        let said = s_client(mesh.door, &own.roots(), &more, REQUEST).await;
        for expect in [
            "Protocol version: TLSv1.3\n",
            "Verification: OK\n",
            "Temp Key: X25519, 253 bits\n",
        ] {
            says(&said.stderr, expect);
        }
        // Its SETTINGS came before: three bytes of length, and the type (RFC 9113 sections 4.1, 6.5).
        assert_eq!(said.stdout.as_bytes().get(3), Some(&4), "{said:?}");
        assert!(!session.exists(), "it gives no tickets");
    }
}

/// What each port shows.
#[tokio::test]
async fn openssl_finds_what_is_shown_right() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    let other = mesh.stranger("cluster.local", "portal").await;
    let label = "2.25.6417295880317446213: \n                ..{\"app\":\"b\"}\n";
    for (port, names, more) in [
        (
            mesh.b.inbound,
            "URI:spiffe://cluster.local/ns/default/sa/b",
            Some(label),
        ),
        (
            mesh.door,
            "URI:spiffe://cluster.local/ns/weir-system/sa/weir-control, DNS:weir-control.weir-system.svc",
            None,
        ),
    ] {
        let shown = shown_at(&mesh, port, &own).await;
        let [end, above, roots @ ..] = &shown[..] else {
            panic!("{shown:?}");
        };
        // The control plane is known by its root before one has that: a join token names it.
        assert_eq!(roots.len(), usize::from(port == mesh.door), "{roots:?}");
        for root in roots {
            let (shown, own) = (fs::read_to_string(root), fs::read_to_string(own.roots()));
            assert_eq!(shown.expect("a root"), own.expect("a root"));
        }
        for purpose in ["sslserver", "sslclient"] {
            let verify = |roots: String| {
                let args = format!("verify -x509_strict -purpose {purpose} -CAfile {roots} -untrusted {above} {end}");
                async move { openssl(&options(&args), b"").await }
            };
            let verified = verify(own.roots()).await;
            assert_eq!(verified.stdout, format!("{end}: OK\n"), "{purpose}: {verified:?}");
            assert!(!verify(other.roots()).await.success, "{purpose}");
        }
        let x509 = |file: &str, asks: &str| {
            let args = format!("x509 -in {file} -noout {asks}");
            async move { openssl(&options(&args), b"").await }
        };
        let shown = x509(end, "-text").await.stdout;
        for expect in [
            "Signature Algorithm: ecdsa-with-SHA256\n",
            "Public Key Algorithm: id-ecPublicKey\n",
            "ASN1 OID: prime256v1\n",
            // With a subject, the names need not be critical (RFC 5280 section 4.2.1.6).
            &format!("X509v3 Subject Alternative Name: \n                {names}\n"),
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "X509v3 Extended Key Usage: \n                \
             TLS Web Server Authentication, TLS Web Client Authentication\n",
            "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
            "X509v3 Authority Key Identifier: \n",
            "X509v3 Subject Key Identifier: \n",
        ]
        .into_iter()
        .chain(more)
        {
            says(&shown, expect);
        }
        assert_eq!(shown.contains("2.25."), more.is_some(), "labels are of who has some");
        // Newer openssl has no blanks there.
        let subject = x509(end, "-subject").await.stdout.replace(' ', "");
        assert_eq!(subject, "subject=O=Weir\n", "no common name");
        for (seconds, ended) in [(23 * 3600, false), (25 * 3600, true)] {
            let good = x509(end, &format!("-checkend {seconds}")).await.success;
            assert_eq!(good, !ended, "{seconds}");
        }
        let above = x509(above, "-text").await.stdout;
        for expect in [
            "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0\n",
            "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign\n",
        ] {
            says(&above, expect);
        }
    }
}

/// The certificates that are shown at a port, each in a file.
async fn shown_at(mesh: &Mesh, port: SocketAddr, own: &Svid) -> Vec<String> {
    let connect = format!("s_client -showcerts -connect {port} -CAfile {}", own.roots());
    let said = openssl(&[options(&connect), own.shown()].concat(), b"").await;
    const END: &str = "-----END CERTIFICATE-----\n";
    let (chain, _) = said.stdout.split_once("---\nServer certificate\n").expect("a chain");
    let certificates = chain.split_inclusive(END).filter_map(|part| {
        let begin = part.find("-----BEGIN CERTIFICATE-----")?;
        Some(&part[begin..])
    });
    let files = certificates.enumerate().map(|(number, pem)| {
        let file = mesh.path(&format!("{}-{number}.pem", port.port()));
        fs::write(&file, pem).expect("written");
        text(&file).to_owned()
    });
    files.collect()
}

/// A way of Envoy's to the sidecar.
struct Way {
    name: &'static str,
    http: Http,
    tls: Value,
}

#[derive(Clone, Copy)]
enum Http {
    One,
    Two,
}

impl Way {
    fn listener(&self) -> Value {
        let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        json!({
            "name": self.name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": {
                "@type": format!("type.googleapis.com/{manager}"), "stat_prefix": self.name,
                "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "route": {"cluster": self.name}},
                ]}]},
            }}]}],
        })
    }

    fn cluster(&self, to: SocketAddr) -> Value {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let http = match self.http {
            Http::One => "http_protocol_options",
            Http::Two => "http2_protocol_options",
        };
        let mut tls = self.tls.clone();
        tls["alpn_protocols"] = match self.http {
            Http::One => json!(["http/1.1"]),
            Http::Two => json!(["h2"]),
        };
        let context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        let address = json!({"address": to.ip(), "port_value": to.port()});
        json!({
            "name": self.name, "type": "STATIC",
            "typed_extension_protocol_options": {options: {
                "@type": format!("type.googleapis.com/{options}"), "explicit_http_config": {http: {}},
            }},
            "transport_socket": {"name": "tls", "typed_config": {"@type": context, "common_tls_context": tls}},
            "load_assignment": {"cluster_name": self.name, "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"socket_address": address}}},
            ]}]},
        })
    }
}

async fn envoy(ways: &[Way], to: SocketAddr) -> Envoy {
    let listeners: Vec<Value> = ways.iter().map(Way::listener).collect();
    let clusters: Vec<Value> = ways.iter().map(|way| way.cluster(to)).collect();
    let config = json!({
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    });
    Envoy::start(&config).await
}

/// TLS 1.3 alone, by X25519, with this certificate, if any; the other end must be this one, below these roots.
fn tls(shown: Option<&Svid>, roots: &Svid, peer: &str) -> Value {
    let shown = shown.map(|svid| {
        let (chain, key) = (svid.file("cert.pem"), svid.file("key.pem"));
        json!({"certificate_chain": {"filename": chain}, "private_key": {"filename": key}})
    });
    json!({
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519"],
        },
        "tls_certificates": shown.into_iter().collect::<Vec<Value>>(),
        "validation_context": {
            "trusted_ca": {"filename": roots.roots()},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
    })
}

/// The same, but that Envoy's own check of SPIFFE ids looks at who is there: it takes roots by trust domain.
fn by_spiffe(mut tls: Value, trust_domain: &str, roots: &Svid) -> Value {
    let config = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
    let context = tls["validation_context"].as_object_mut().expect("it is there");
    context.remove("trusted_ca");
    context.insert(
        "custom_validator_config".to_owned(),
        json!({"name": "envoy.tls.cert_validator.spiffe", "typed_config": {
            "@type": config,
            "trust_domains": [{"name": trust_domain, "trust_bundle": {"filename": roots.roots()}}],
        }}),
    );
    tls
}

const B: &str = "spiffe://cluster.local/ns/default/sa/b";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_speaks_mutual_tls_with_a_sidecar() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    let right = || tls(Some(&own), &own, B);
    let mut quantum = right();
    quantum["tls_params"]["ecdh_curves"] = json!(["X25519MLKEM768", "X25519"]);
    let way = |name, http, tls| Way { name, http, tls };
    let ways = [
        way("http1", Http::One, right()),
        way("http2", Http::Two, right()),
        way("spiffe", Http::Two, by_spiffe(right(), "cluster.local", &own)),
        way("quantum", Http::Two, quantum),
    ];
    let envoy = envoy(&ways, mesh.b.inbound).await;
    // What only sidecars say to each other, by somebody who is none. Apart, since a check has no context.
    let context = [
        ("weir-context", "1;i=00000000000000ff;d=60000;a=1"),
        ("weir-verdict", "1;f=policy;s=b;r=mine"),
        (XFCC, "URI=spiffe://cluster.local/ns/default/sa/king"),
    ];
    let check = [("weir-check", "request")];
    for way in &ways {
        let name = way.name;
        let listener = envoy.listener(name).await;
        for forged in [&context[..], &check] {
            let before = mesh.app.seen().len();
            let answer = get(listener, "b", "/x", forged).await;
            let said = format!("{name} {forged:?}: {answer:?}");
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (StatusCode::OK, "from b"),
                "{said}"
            );
            assert_eq!(answer.header("weir-verdict"), None, "{said}");
            let seen = mesh.app.seen();
            assert_eq!(seen.len(), before + 1, "{said}");
            let seen = &seen[before];
            assert_eq!(seen.header(XFCC), Some(BY_B), "{seen:?}");
            for of_sidecars in ["weir-context", "weir-verdict", "weir-check", "tracestate"] {
                assert_eq!(seen.header(of_sidecars), None, "{seen:?}");
            }
        }
        let group = match name {
            "quantum" => "X25519MLKEM768",
            _ => "X25519",
        };
        let http = match way.http {
            Http::One => "upstream_cx_http1_total",
            Http::Two => "upstream_cx_http2_total",
        };
        for counter in [
            http,
            "ssl.handshake",
            "ssl.versions.TLSv1.3",
            &format!("ssl.curves.{group}"),
        ] {
            let counter = format!("cluster.{name}.{counter}");
            assert_eq!(envoy.counter(&counter).await, 1, "{counter}");
        }
    }
    mesh.until_counted("weir_tls_handshakes_total{kind=\"full\"} ", ways.len() as f64)
        .await;
    let checks = "weir_health_checks_answered_total{result=\"passed\"} ";
    mesh.until_counted(checks, 0.0).await;
    // Nor is it told more of a failure than others are.
    drop(mesh.app);
    let listener = envoy.listener("http1").await;
    let failed = until("the app to be gone", || async {
        let answer = get(listener, "b", "/x", &[]).await;
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    assert!(failed.header("proxy-status").is_some(), "{failed:?}");
    assert_eq!(failed.header("weir-verdict"), None, "{failed:?}");
}

/// Who refuses whom.
#[derive(Clone, Copy, Debug)]
enum Refuses {
    /// Envoy, since it is somebody else who is there.
    EnvoyByName,
    /// Envoy, since the sidecar's certificate is below no root of its own.
    EnvoyByRoot,
    /// The sidecar, since Envoy shows no certificate, or another mesh's. By TLS 1.3 Envoy's handshake has ended before.
    SidecarByCertificate,
    /// The sidecar: it has no such version.
    SidecarByVersion,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_refuses_and_is_refused() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    let other = mesh.stranger("other.gov", "portal").await;
    let right = || tls(Some(&own), &own, B);
    let c = tls(Some(&own), &own, "spiffe://cluster.local/ns/default/sa/c");
    let part = tls(Some(&own), &own, "spiffe://cluster.local/ns/default/sa/");
    let mut old = right();
    old["tls_params"] = json!({"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_2"});
    let rows = [
        ("another-name", c, Refuses::EnvoyByName),
        ("a-part-of-the-name", part, Refuses::EnvoyByName),
        ("another-root", tls(Some(&own), &other, B), Refuses::EnvoyByRoot),
        (
            "spiffe-another-root",
            by_spiffe(right(), "cluster.local", &other),
            Refuses::EnvoyByRoot,
        ),
        (
            "spiffe-another-domain",
            by_spiffe(right(), "other.gov", &own),
            Refuses::EnvoyByRoot,
        ),
        ("no-certificate", tls(None, &own, B), Refuses::SidecarByCertificate),
        ("stranger", tls(Some(&other), &own, B), Refuses::SidecarByCertificate),
        ("tls-1-2", old, Refuses::SidecarByVersion),
    ];
    let ways = rows.clone().map(|(name, tls, _)| Way {
        name,
        http: Http::Two,
        tls,
    });
    let envoy = envoy(&ways, mesh.b.inbound).await;
    for (name, _, refuses) in rows {
        let answer = get(envoy.listener(name).await, "b", "/x", &[]).await;
        let said = format!("{name}, {refuses:?}: {answer:?}");
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
        let counts = ["fail_verify_san", "fail_verify_error", "handshake"];
        let counts = counts.map(|counter| format!("cluster.{name}.ssl.{counter}"));
        let mut counted = [0; 3];
        for (count, counter) in counted.iter_mut().zip(&counts) {
            *count = envoy.counter(counter).await;
        }
        let expect = match refuses {
            Refuses::EnvoyByName => [1, 0, 0],
            Refuses::EnvoyByRoot => [0, 1, 0],
            Refuses::SidecarByCertificate => [0, 0, 1],
            Refuses::SidecarByVersion => [0, 0, 0],
        };
        assert_eq!(counted, expect, "{counts:?} {said}");
    }
    assert_eq!(mesh.app.seen().len(), 0);
    for (sample, expect) in [
        ("weir_tls_handshakes_failed_total{reason=\"certificate\"} ", 2.0),
        ("weir_tls_handshakes_failed_total{reason=\"protocol\"} ", 1.0),
        ("weir_tls_handshakes_total{kind=\"full\"} ", 0.0),
    ] {
        mesh.until_counted(sample, expect).await;
    }
}

/// Envoy as a server that shows this certificate to whoever comes, by TLS alone.
async fn envoy_server(shown: &Svid) -> (Envoy, SocketAddr) {
    let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    let (chain, key) = (shown.file("cert.pem"), shown.file("key.pem"));
    let config = json!({
        "static_resources": {"listeners": [{
            "name": "server", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{
                "transport_socket": {"name": "tls", "typed_config": {"@type": context, "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [
                        {"certificate_chain": {"filename": chain}, "private_key": {"filename": key}},
                    ],
                }}},
                "filters": [{"name": "http", "typed_config": {
                    "@type": format!("type.googleapis.com/{manager}"), "stat_prefix": "server",
                    "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
                    "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                        "match": {"prefix": "/"},
                        "direct_response": {"status": 200, "body": {"inline_string": "from Envoy"}},
                    }]}]},
                }}],
            }],
        }]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    });
    let envoy = Envoy::start(&config).await;
    let address = envoy.listener("server").await;
    (envoy, address)
}

/// A service whose only endpoint is `at`, and is to be this one, below these roots.
fn service_of(name: &str, at: SocketAddr, roots: &str, peer: &str) -> [Value; 4] {
    let metadata = json!({"name": name, "namespace": "default"});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": roots}});
    let policy = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": metadata,
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": name}],
            "validation": {
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}],
                "hostname": "records.example", "subjectAltNames": [{"type": "URI", "uri": peer}],
            },
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": [{"addresses": [at.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": "web", "port": at.port(), "protocol": "TCP"}],
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"ports": [{"name": "web", "port": 80, "appProtocol": "http"}]},
    });
    [map, policy, slice, service]
}

/// An Envoy that has a certificate of the mesh and no sidecar is called as the one that it is, and as nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_called_by_the_name_in_its_certificate() {
    let mesh = Mesh::start().await;
    let records = mesh.svid("records").await;
    let other = mesh.stranger("other.gov", "records").await;
    let (envoy, at) = envoy_server(&records).await;
    let pem = |svid: &Svid| fs::read_to_string(svid.roots()).expect("roots");
    const RECORDS: &str = "spiffe://cluster.local/ns/default/sa/records";
    const NOT_RECORDS: &str = "it is for spiffe://cluster.local/ns/default/sa/records, and should be for";
    let rows = [
        ("right", pem(&records), RECORDS, Ok("from Envoy")),
        (
            "another-name",
            pem(&records),
            "spiffe://cluster.local/ns/default/sa/record",
            Err(NOT_RECORDS),
        ),
        (
            "another-domain",
            pem(&records),
            "spiffe://other.gov/ns/default/sa/records",
            Err(NOT_RECORDS),
        ),
        ("another-root", pem(&other), RECORDS, Err("UnknownIssuer")),
    ];
    for (name, roots, peer, _) in &rows {
        for object in service_of(name, at, roots, peer) {
            mesh.control.api.apply(&object.to_string()).await;
        }
    }
    for (name, _, _, expect) in rows {
        let answer = get(mesh.b.outbound, name, "/x", &[]).await;
        let said = format!("{name}: {answer:?}: {}", answer.text());
        match expect {
            Ok(text) => assert_eq!(
                (answer.status, answer.text().as_str()),
                (StatusCode::OK, text),
                "{said}"
            ),
            Err(text) => {
                let status = answer.header("proxy-status").unwrap_or_default();
                assert!(status.contains("error=tls_certificate_error"), "{said}");
                assert!(answer.text().contains(text), "{said}");
            }
        }
    }
    let requests = envoy.counter("http.server.downstream_rq_total").await;
    assert_eq!(requests, 1, "nothing is said to somebody else");
    drop(envoy);
}

/// py-spiffe reads what `weirctl cert` writes, and with its roots a verifier that is neither openssl's nor rustls'
/// takes that chain and the one that a sidecar shows. With another authority's roots it takes neither.
const SPIFFE: &str = r#"
import json, sys
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from spiffe import X509Bundle, X509Svid

folder, other, *shown = sys.argv[1:]
svid = X509Svid.load(f"{folder}/cert.pem", f"{folder}/key.pem", Encoding.PEM)
read = lambda path: open(path, "rb").read()
bundle = X509Bundle.parse(svid.spiffe_id.trust_domain, read(f"{folder}/ca.pem"))
others = X509Bundle.parse(svid.spiffe_id.trust_domain, read(f"{other}/ca.pem"))
end, *above = [load_pem_x509_certificate(read(path)) for path in shown]

def verified(bundle, end, above):
    verifier = PolicyBuilder().store(Store(list(bundle.x509_authorities))).build_client_verifier()
    try:
        return [name.value for name in verifier.verify(end, above).subjects]
    except VerificationError:
        return None

print(json.dumps({
    "id": str(svid.spiffe_id),
    "trustDomain": str(bundle.trust_domain),
    "certificates": len(svid.cert_chain),
    "roots": len(bundle.x509_authorities),
    "own": [verified(of, svid.leaf, svid.cert_chain[1:]) for of in (bundle, others)],
    "shown": [verified(of, end, above) for of in (bundle, others)],
}))
"#;

#[tokio::test]
async fn a_spiffe_library_reads_what_weirctl_writes() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    let other = mesh.stranger("cluster.local", "portal").await;
    let shown = shown_at(&mesh, mesh.b.inbound, &own).await;
    let mut python = Command::new(peer_program("python"));
    python
        .args(["-c", SPIFFE])
        .args([&own.folder, &other.folder])
        .args(shown);
    let said = finish(python, b"").await;
    assert!(said.success, "{said:?}");
    let portal = "spiffe://cluster.local/ns/default/sa/portal";
    let expect = json!({
        "id": portal, "trustDomain": "cluster.local", "certificates": 2, "roots": 1,
        "own": [[portal], null], "shown": [[B], null],
    });
    assert_eq!(serde_json::from_str::<Value>(&said.stdout).expect("JSON"), expect);
}

/// What testssl.sh finds grave on a port of a mesh, by its nature.
const BY_NATURE: [(&str, &str); 4] = [
    (
        "cert_trust",
        "a peer is known by its SPIFFE id, not by the name or address that it is reached at",
    ),
    (
        "cert_expirationStatus",
        "certificates are good for a day, and renewed by themselves",
    ),
    ("cert_notAfter", "the same"),
    ("cert_revocation", "none is taken back: they are short-lived instead"),
];

/// What it must have looked at, and what it must have said.
const FOUND: [(&str, &str); 11] = [
    ("SSLv2", "not offered"),
    ("SSLv3", "not offered"),
    ("TLS1", "not offered"),
    ("TLS1_1", "not offered"),
    ("TLS1_2", "not offered"),
    ("TLS1_3", "offered"),
    // By the roots of the mesh.
    ("cert_chain_of_trust", "passed"),
    ("heartbleed", "not vulnerable"),
    ("CCS", "not vulnerable"),
    ("ROBOT", "not vulnerable"),
    ("secure_client_renego", "not vulnerable"),
];

#[tokio::test]
async fn testssl_finds_no_weakness() {
    let mesh = Mesh::start().await;
    let own = mesh.svid("portal").await;
    let (sidecar, control) = (mesh.b.inbound, mesh.door);
    let (of_sidecar, of_control) = tokio::join!(testssl(&mesh, sidecar, &own), testssl(&mesh, control, &own));
    for (port, findings) in [("a sidecar's", of_sidecar), ("the control plane's", of_control)] {
        for (id, expect) in FOUND {
            let found = findings.iter().find(|found| found["id"] == id);
            let found = found.unwrap_or_else(|| panic!("{port} {id}: {findings:#?}"));
            let said = found["finding"].as_str().unwrap_or_default();
            assert!(said.starts_with(expect), "{port}: {found}");
        }
        for found in findings {
            let grave = ["HIGH", "CRITICAL", "FATAL"]
                .iter()
                .any(|grave| found["severity"] == *grave);
            let by_nature = BY_NATURE.iter().any(|(id, _)| found["id"] == *id);
            assert!(!grave || by_nature, "{port}: {found}");
        }
    }
    // Both serve on. It has called the app itself, to see whether that speaks HTTP.
    let before = mesh.app.seen().len();
    let said = s_client(sidecar, &own.roots(), &own.shown(), REQUEST).await;
    says(&said.stdout, "HTTP/1.1 200 OK\r\n");
    assert_eq!(mesh.app.seen().len(), before + 1);
    mesh.svid("another").await;
}

/// What testssl.sh finds on a port. Nothing of it goes anywhere else: it asks no DNS.
async fn testssl(mesh: &Mesh, port: SocketAddr, own: &Svid) -> Vec<Value> {
    let place = mesh.path(&format!("testssl-{}", port.port()));
    fs::create_dir(&place).expect("a folder");
    let (openssl, found) = (place.join("openssl"), place.join("found.json"));
    // It goes by whether openssl ended well. Without a certificate, that is by chance where one is asked for: by TLS
    // 1.3 the refusal comes after the handshake, when openssl may have ended already. Before version 3.2 it has no
    // option for a certificate.
    let shown = own.shown().join(" ");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = s_client ]; then shift; exec openssl s_client {shown} \"$@\"; fi\nexec openssl \"$@\"\n"
    );
    fs::write(&openssl, script).expect("written");
    fs::set_permissions(&openssl, fs::Permissions::from_mode(0o700)).expect("set");
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none"]);
    command.args([
        "--protocols",
        "--server-defaults",
        "--server-preference",
        "--vulnerable",
    ]);
    command.args([
        "--openssl",
        text(&openssl),
        "--add-ca",
        &own.roots(),
        "--jsonfile",
        text(&found),
    ]);
    command.arg(port.to_string()).current_dir(&place);
    // Its status counts what it found.
    let said = finish_within(Duration::from_secs(600), command, b"").await;
    let found = fs::read_to_string(&found).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found}"))
}
