//! `weirctl ca`, `cert` and `token` against an authority that runs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use weir_test_mesh::TestMesh;

use crate::support::weirctl;

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("a file")
}

#[tokio::test]
async fn an_authority_is_shown_with_what_it_has_left() {
    let mesh = TestMesh::start().await;
    let shown = weirctl(&mesh, &["ca", "status"]).await;
    shown.ends(0).prints(&[
        "trust domain  cluster.local\n",
        "keys          memory: gone when the process ends\n",
        "certificates  good for 24h\n",
        "CERTIFICATE",
        "root           O=cluster.local, CN=Weir root ",
        "   3649 ",
        "intermediate   O=cluster.local, CN=Weir intermediate    3649 ",
    ]);
    let json = weirctl(&mesh, &["ca", "status", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json.ends(0).stdout).expect("JSON");
    let fingerprint = json["roots"][0]["sha256"].as_str().expect("a fingerprint");
    assert_eq!(fingerprint.len(), 64);
    shown.prints(&[fingerprint]);
    weirctl(&mesh, &["check"])
        .await
        .ends(0)
        .prints(&["ok     certificate authority: root good for 3649 days, intermediate for 3649\n"]);
}

#[tokio::test]
async fn a_certificate_is_written_with_its_key_for_its_owner_alone() {
    let mesh = TestMesh::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("portal");
    let place = out.to_str().expect("UTF-8");
    let args = ["cert", "--namespace", "citizen", "--account", "portal", "--out", place];
    let ran = weirctl(&mesh, &args).await;
    ran.ends(0)
        .prints(&["portal/key.pem\n", "portal/cert.pem\n", "portal/ca.pem\n"]);
    ran.says(&["spiffe://cluster.local/ns/citizen/sa/portal, good until "]);
    let mode = |name: &str| std::fs::metadata(out.join(name)).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode("key.pem"), 0o600);
    assert!(read(&out, "key.pem").starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let (cert, roots) = (read(&out, "cert.pem"), read(&out, "ca.pem"));
    assert_eq!(
        cert.matches("BEGIN CERTIFICATE").count(),
        2,
        "the certificate and the intermediate"
    );
    assert_eq!(roots.matches("BEGIN CERTIFICATE").count(), 1);
    // Once more: replaced, with a new key.
    let key = read(&out, "key.pem");
    weirctl(&mesh, &args).await.ends(0);
    assert_ne!(read(&out, "key.pem"), key);
    assert_eq!(read(&out, "ca.pem"), roots);
    let long = [&args[..], &["--ttl", "721h"]].concat();
    let long = weirctl(&mesh, &long).await;
    long.ends(1).says(&["ttl \"721h\": a time from 1m to 720h is right"]);
    let ours = [
        "cert",
        "--namespace",
        "weir-system",
        "--account",
        "weir-control",
        "--out",
        place,
    ];
    let ours = weirctl(&mesh, &ours).await;
    ours.ends(1)
        .says(&["is the control plane's own identity; give workloads another account"]);
    let wrong = ["cert", "--namespace", "citizen", "--account", "A", "--out", place];
    weirctl(&mesh, &wrong)
        .await
        .ends(2)
        .says(&["is no account: 1 to 63 characters"]);
}

#[tokio::test]
async fn a_token_alone_is_printed() {
    let mesh = TestMesh::start().await;
    let args = [
        "token",
        "create",
        "--namespace",
        "citizen",
        "--account",
        "portal",
        "--labels",
        "app=portal",
    ];
    let ran = weirctl(&mesh, &args).await;
    let token = ran.ends(0).stdout.trim_end();
    assert_eq!(token.split('.').count(), 3, "{token}");
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    ran.says(&[
        "lets 1 proxy in as spiffe://cluster.local/ns/citizen/sa/portal until ",
        "keep it as a password",
    ]);
    assert!(!ran.stderr.contains(token));
    let more = [&args[..], &["--uses", "3", "--ttl", "2h", "-o", "json"]].concat();
    let json = weirctl(&mesh, &more).await;
    let json: Value = serde_json::from_str(&json.ends(0).stdout).expect("JSON");
    assert_eq!(json["spiffeId"], "spiffe://cluster.local/ns/citizen/sa/portal");
    // To a file, for its owner alone, also where another one was.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("portal.token");
    std::fs::write(&file, "another").expect("written");
    let path = file.to_str().expect("UTF-8");
    let ran = weirctl(&mesh, &[&args[..], &["--out", path]].concat()).await;
    assert_eq!(ran.ends(0).stdout.trim_end(), path);
    ran.says(&["lets 1 proxy in as "]);
    let token = std::fs::read_to_string(&file).expect("written");
    assert_eq!(token.trim_end().split('.').count(), 3, "{token}");
    let mode = std::fs::metadata(&file).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for (flags, code, expect) in [
        (&["--uses", "0"][..], 2, "0 is not in 1..=1000"),
        (&["--out", path, "-o", "json"], 2, "cannot be used with"),
        (&["--out", "/nowhere/token"], 1, "/nowhere/token: "),
        (&["--ttl", "1s"], 1, "ttl \"1s\": a time from 1m to 720h is right"),
        (&["--labels", "a"], 2, "is no list of labels"),
    ] {
        let args: Vec<&str> = args[..6].iter().chain(flags).copied().collect();
        weirctl(&mesh, &args).await.ends(code).says(&[expect]);
    }
}
