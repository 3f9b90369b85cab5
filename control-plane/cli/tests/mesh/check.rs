//! `weirctl check`: what is wrong is found and has a remedy.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weir_test_mesh::{Script, TestMesh};

use crate::support::{run, weirctl};

#[tokio::test]
async fn a_mesh_that_is_well_and_one_that_is_not() {
    let mesh = TestMesh::start().await;
    weirctl(&mesh, &["check"]).await.ends(0).prints(&[
        "ok     control plane: answers, version ",
        "ok     clock of the control plane: agrees with this host's\n",
        "ok     readiness: ",
        "note   proxies: none has connected\n       start weir-proxy",
        "ok     resources: ",
    ]);
    let b = mesh.service("b", Script::answer(200, "")).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    weirctl(&mesh, &["check"])
        .await
        .ends(0)
        .prints(&["ok     proxies: 2 connected and confirmed, with all in force that they use\n"]);
    // Its process is gone without a word.
    drop(b);
    weir_test_mesh::until("the lost proxy to be found", || async {
        let ran = weirctl(&mesh, &["check"]).await;
        ran.stdout
            .contains("WRONG  workload default/b: is not confirmed")
            .then_some(())
    })
    .await;
    let ran = weirctl(&mesh, &["check"]).await;
    ran.ends(1)
        .prints(&["WRONG  proxy default/b: is not connected\n       does weir-proxy run there"]);
    assert_eq!(ran.stderr, "");
    let json = weirctl(&mesh, &["check", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json.ends(1).stdout).expect("JSON");
    assert_eq!(json["wrong"], 2);
    assert_eq!(json["checks"][0]["result"], "well");
    a.stop().await;
    let address = mesh.control().api_addr();
    mesh.stop_control().await;
    let gone = run(address, &["check"], "", &[]).await;
    gone.ends(1).prints(&[
        "WRONG  control plane: the control plane at ",
        "is weir-control running?",
    ]);
}

/// Who would be shut out by mutual TLS alone is known before.
#[tokio::test]
async fn who_comes_in_cleartext_is_told() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service("b", Script::answer(200, "")).await;
    let port = b.app().address().port();
    assert!(!weirctl(&mesh, &["check"]).await.ends(0).stdout.contains("cleartext"));
    let mut caller = TcpStream::connect(b.inbound()).await.expect("connected");
    let request = b"GET / HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n";
    caller.write_all(request).await.expect("written");
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = format!("note   callers in cleartext: 127.0.0.1 to port {port} of default/b (requests: 1, the last ");
    weirctl(&mesh, &["check"]).await.ends(0).prints(&[
        "ok     proxies: 1 connected",
        &seen,
        "MeshConfig.spec.mutualTls",
    ]);
}

/// What resources say of themselves is found: a route that leads nowhere, a policy that another one holds off.
#[tokio::test]
async fn what_a_resource_says_of_itself_is_found() {
    let mesh = TestMesh::start().await;
    mesh.apply(
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: nobody}]
  rules: [{backendRefs: [{name: nobody, port: 80}]}]
",
    )
    .await;
    weir_test_mesh::until("the route's conditions", || async {
        let ran = weirctl(&mesh, &["check"]).await;
        ran.stdout
            .contains("WRONG  httproute/default/lost: Accepted is False (")
            .then_some(())
    })
    .await;
    weirctl(&mesh, &["check"]).await.ends(1);
    weirctl(&mesh, &["describe", "httproute", "lost"])
        .await
        .ends(0)
        .prints(&["Conditions:\n", "Service/nobody", "Accepted", "False"]);
    let accepted = [
        "wait",
        "httproute",
        "lost",
        "--for",
        "condition=Accepted=False",
        "--timeout",
        "20s",
    ];
    weirctl(&mesh, &accepted)
        .await
        .ends(0)
        .prints(&["httproute/default/lost has Accepted=False\n"]);
}

/// A workload that came in cleartext has no certificate: where mutual TLS alone lets in, nobody can call it.
#[tokio::test]
async fn who_can_not_be_entered_is_found() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let config =
        "apiVersion: weir.dev/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {mutualTls: {mode: Strict}}\n";
    let address = mesh.control().api_addr();
    run(address, &["apply", "-f", "-"], config, &[]).await.ends(0);
    // A proxy that has just started may not have asked for its policy yet.
    weir_test_mesh::until("the MeshConfig to be in force", || async {
        let described = weirctl(&mesh, &["describe", "meshconfig", "mesh"]).await;
        described.stdout.contains("on 1 of 1 proxies").then_some(())
    })
    .await;
    weirctl(&mesh, &["wait", "meshconfig", "mesh", "--for", "in-force"])
        .await
        .ends(0)
        .prints(&["in force on 1 proxy"]);
    weirctl(
        &mesh,
        &["wait", "meshconfig", "mesh", "--for", "condition=weir.dev/InForce"],
    )
    .await
    .ends(0)
    .prints(&["meshconfig/mesh has weir.dev/InForce=True\n"]);
    weirctl(&mesh, &["describe", "meshconfig", "mesh"])
        .await
        .ends(0)
        .prints(&["it holds for the mesh", "in force on 1 of 1"]);
    weirctl(&mesh, &["check"]).await.ends(1).prints(&[
        "WRONG  proxy default/a: has no certificate, and nobody can call its app port ",
        "let it join with a token",
    ]);
    weirctl(&mesh, &["status"]).await.ends(0).prints(&["Strict"]);
    let listed = weirctl(&mesh, &["get", "meshconfig"]).await;
    listed
        .ends(0)
        .prints(&["MUTUAL TLS", "ACCEPTED", "IN FORCE", "Strict", "True"]);
    a.stop().await;
}
