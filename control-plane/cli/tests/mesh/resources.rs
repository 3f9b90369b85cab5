//! Commands on resources: diff, apply --prune, describe, edit, delete, wait, get by label.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use weir_test_mesh::{Script, TestMesh};

use crate::support::{Ran, run, weirctl};

fn service(name: &str, port: u16, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default, labels: {{{labels}}}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}\n---\n"
    )
}

async fn with_stdin(mesh: &TestMesh, args: &[&str], stdin: &str) -> Ran {
    run(mesh.control().api_addr(), args, stdin, &[]).await
}

#[tokio::test]
async fn diff_says_what_apply_would_change() {
    let mesh = TestMesh::start().await;
    let diff = ["diff", "-f", "-"];
    let apply = ["apply", "-f", "-"];
    let first = service("a", 80, "");
    with_stdin(&mesh, &diff, &first).await.ends(1).prints(&[
        "--- service/default/a (now)\n+++ service/default/a (applied)\n",
        "+apiVersion: v1\n",
        "+    app: a\n",
    ]);
    assert_eq!(
        weirctl(&mesh, &["get", "svc"]).await.ends(0).stdout,
        "",
        "nothing was changed"
    );
    with_stdin(&mesh, &apply, &first).await.ends(0);
    assert_eq!(with_stdin(&mesh, &diff, &first).await.ends(0).stdout, "");
    let second = service("a", 8080, "team: x");
    let ran = with_stdin(&mesh, &diff, &second).await;
    ran.ends(1)
        .prints(&["+    team: x\n", "-  - port: 80\n", "+  - port: 8080\n"]);
    assert!(!ran.stdout.contains("resourceVersion"), "{}", ran.stdout);
    with_stdin(&mesh, &["apply", "-f", "-", "--dry-run"], &second)
        .await
        .ends(0)
        .prints(&["service/default/a configured (dry run)\n"]);

    let folder = "apiVersion: v1\nkind: Namespace\nmetadata: {name: new}\n---\n".to_owned()
        + &service("b", 80, "").replace("namespace: default", "namespace: new");
    with_stdin(&mesh, &diff, &folder)
        .await
        .ends(1)
        .prints(&["namespace/new", "service/new/b"]);
    for (files, message) in [
        (service("a", 0, ""), "0 is out of range"),
        (
            service("b", 80, "").replace("namespace: default", "namespace: none"),
            "the namespace",
        ),
    ] {
        with_stdin(&mesh, &diff, &files).await.ends(2).says(&[message]);
    }
}

#[tokio::test]
async fn prune_says_what_would_go_and_does_it_when_told_twice() {
    let mesh = TestMesh::start().await;
    let all = service("a", 80, "set: one") + &service("b", 80, "set: one") + &service("c", 80, "set: two");
    with_stdin(&mesh, &["apply", "-f", "-"], &all).await.ends(0);
    let fewer = service("a", 80, "set: one");
    let prune = ["apply", "-f", "-", "--prune", "-l", "set=one"];
    let names = || async { weirctl(&mesh, &["get", "svc", "-o", "name"]).await.stdout };
    with_stdin(&mesh, &prune, &fewer)
        .await
        .ends(0)
        .says(&["nothing was pruned; the same with --yes deletes them"])
        .prints(&["service/default/a unchanged\nservice/default/b would be pruned\n"]);
    assert_eq!(
        names().await,
        "service/default/a\nservice/default/b\nservice/default/c\n"
    );
    let really = [&prune[..], &["--yes"]].concat();
    with_stdin(&mesh, &really, &fewer)
        .await
        .ends(0)
        .prints(&["service/default/a unchanged\nservice/default/b pruned\n"]);
    assert_eq!(names().await, "service/default/a\nservice/default/c\n");
    // A file that the selector does not take would be lost by the next run.
    with_stdin(&mesh, &prune, &service("d", 80, ""))
        .await
        .ends(2)
        .says(&["service/default/d lacks the label set=one"]);
    with_stdin(&mesh, &["apply", "-f", "-", "--prune"], &fewer)
        .await
        .ends(2)
        .says(&["--selector"]);
    weirctl(&mesh, &["get", "svc", "-l", "set=two", "-o", "name"])
        .await
        .ends(0)
        .prints(&["service/default/c\n"]);
    weirctl(&mesh, &["delete", "svc", "-l", "set in"]).await.ends(1);
    weirctl(&mesh, &["delete", "svc", "-l", "set=two", "--dry-run"])
        .await
        .ends(0)
        .prints(&["service/default/c deleted (dry run)\n"]);
    weirctl(&mesh, &["delete", "svc", "-l", "set=two", "--wait"])
        .await
        .ends(0)
        .prints(&["service/default/c deleted\n"]);
    assert_eq!(names().await, "service/default/a\n");
    for (args, message) in [
        (
            &["delete", "svc"][..],
            "say which services: by name, or by label with -l",
        ),
        (&["delete", "svc", "a", "-l", "x=y"], "cannot be used with"),
        (&["delete"], "required"),
        (&["delete", "svc", "-l", ""], "is empty and would take everything"),
        (&["get", "svc", "-l", " "], "is empty and would take everything"),
    ] {
        weirctl(&mesh, args).await.ends(2).says(&[message]);
    }
    weirctl(&mesh, &["delete", "svc", "a", "nobody"])
        .await
        .ends(1)
        .prints(&["service/default/a deleted\n"])
        .says(&["service/default/nobody", "1 of 2 resources failed"]);
}

const ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: shop}]
  rules: [{backendRefs: [{name: shop, port: 80}]}]
---
apiVersion: weir.dev/v1
kind: BackendPolicy
metadata: {name: shop, namespace: default, labels: {team: x}, annotations: {note: why, kubectl.kubernetes.io/last-applied-configuration: '{}'}}
spec:
  targetRefs: [{group: '', kind: Service, name: shop}]
";

#[tokio::test]
async fn describe_shows_what_is_known_of_a_resource() {
    let mesh = TestMesh::start().await;
    let _shop = mesh.service("shop", Script::answer(200, "")).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    mesh.apply(ROUTE).await;
    assert_eq!(a.get("http://shop/").await.status, 200);
    weirctl(&mesh, &["wait", "httproute", "shop"])
        .await
        .ends(0)
        .prints(&["in force on 1 proxy after "]);
    weirctl(&mesh, &["describe", "svc", "shop"]).await.ends(0).prints(&[
        "Name:        shop\nNamespace:   default\nKind:        Service (v1)\n",
        "Generation:  1 (revision ",
        "Spec:\n",
        "    app: shop\n",
        "In force:    on 1 of 1 proxies\n",
        "Referred to by:\n",
        "  backendpolicy/default/shop\n",
        "  endpointslice/default/",
        "  httproute/default/shop\n",
        "  workload/default/shop\n",
    ]);
    weirctl(&mesh, &["describe", "bp", "shop"])
        .await
        .ends(0)
        .prints(&["Labels:      team=x\nAnnotations: note=why\n"]);
    let slices = ["NAME ", "SERVICE", "PORTS", "READY"];
    let narrow = weirctl(&mesh, &["get", "eps"]).await;
    narrow.ends(0).prints(&slices);
    assert!(!narrow.stdout.contains("ENDPOINTS"), "{}", narrow.stdout);
    let wide = weirctl(&mesh, &["get", "eps", "-o", "wide"]).await;
    wide.ends(0)
        .prints(&slices)
        .prints(&["ENDPOINTS", "1 of 1", "127.0.0.1"]);
    let whole = weirctl(&mesh, &["describe", "httproute", "shop", "-o", "json"]).await;
    let whole: Value = serde_json::from_str(&whole.ends(0).stdout).expect("JSON");
    assert_eq!(whole["object"]["metadata"]["name"], "shop");
    assert_eq!(whole["proxies"]["state"], "InForce");
    let workload = weirctl(&mesh, &["describe", "wl", "a"]).await;
    workload.ends(0).prints(&[
        "Status:\n",
        "state: Confirmed\n",
        "Referred to by:\n  service/default/a\n",
    ]);
    weirctl(&mesh, &["describe", "svc", "nobody"])
        .await
        .ends(1)
        .says(&["service/default/nobody"]);
}

#[tokio::test]
async fn wait_ends_when_it_is_so_or_time_is_out() {
    let mesh = TestMesh::start().await;
    with_stdin(&mesh, &["apply", "-f", "-"], &service("a", 80, ""))
        .await
        .ends(0);
    weirctl(&mesh, &["wait", "svc", "a"])
        .await
        .ends(0)
        .prints(&["no connected proxy uses it (after 0."]);
    for (args, code, message) in [
        (
            &["wait", "svc", "a", "--for", "deleted", "--timeout", "1ms"][..],
            1,
            "after 1ms: service/default/a is still there",
        ),
        (
            &["wait", "svc", "a", "--for", "condition=Nothing", "--timeout", "1ms"],
            1,
            "after 1ms: service/default/a: it has no condition Nothing",
        ),
        (&["wait", "svc", "b"], 1, "service/default/b"),
        (&["wait", "svc", "a", "--for", "nothing"], 2, "is nothing to wait for"),
        (
            &["wait", "svc", "a", "--for", "condition="],
            2,
            "is nothing to wait for",
        ),
    ] {
        weirctl(&mesh, args).await.ends(code).says(&[message]);
    }
    let waiting = weirctl(&mesh, &["wait", "svc", "a", "--for", "deleted"]);
    let deleting = async { weirctl(&mesh, &["delete", "svc", "a"]).await.ends(0).code };
    let (waited, _) = tokio::join!(waiting, deleting);
    waited.ends(0).prints(&["service/default/a is gone\n"]);
}

/// A script for an editor, which gets the file as `$1` and weirctl as `$WEIRCTL`.
fn editor(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("editor");
    let mut text = "#!/bin/sh\nset -eu\n".to_owned();
    writeln!(text, "{script}").expect("text");
    std::fs::write(&path, text).expect("written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, executable).expect("set");
    path
}

async fn edit(mesh: &TestMesh, script: &str) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let editor = editor(folder.path(), script);
    let variables = [
        ("EDITOR", editor.to_str().expect("UTF-8")),
        ("WEIRCTL", env!("CARGO_BIN_EXE_weirctl")),
        ("TMPDIR", folder.path().to_str().expect("UTF-8")),
        ("PATH", "/usr/bin:/bin"),
    ];
    run(mesh.control().api_addr(), &["edit", "svc", "a"], "", &variables).await
}

#[tokio::test]
async fn edit_goes_on_until_it_is_right_and_taken() {
    let mesh = TestMesh::start().await;
    with_stdin(&mesh, &["apply", "-f", "-"], &service("a", 80, ""))
        .await
        .ends(0);
    let port = || async {
        let json = weirctl(&mesh, &["get", "svc", "a", "-o", "json"]).await.stdout;
        serde_json::from_str::<Value>(&json).expect("JSON")["spec"]["ports"][0]["port"].clone()
    };
    edit(&mesh, "true")
        .await
        .ends(0)
        .prints(&["service/default/a is left as it was\n"]);
    edit(&mesh, ": > \"$1\"")
        .await
        .ends(0)
        .prints(&["service/default/a is left as it was\n"]);
    edit(&mesh, "sed -i 's/port: 80$/port: 81/' \"$1\"")
        .await
        .ends(0)
        .prints(&["service/default/a edited\n"]);
    assert_eq!(port().await, 81);
    // What is wrong comes back as comments, and is corrected.
    let corrected = "if grep -q '^# .*0 is out of range' \"$1\"; then sed -i 's/port: 0$/port: 82/' \"$1\"; \
                     else sed -i 's/port: 81$/port: 0/' \"$1\"; fi";
    edit(&mesh, corrected)
        .await
        .ends(0)
        .prints(&["service/default/a edited\n"]);
    assert_eq!(port().await, 82);
    let given_up = edit(&mesh, "sed -i 's/port: 82$/port: 0/' \"$1\"").await;
    given_up
        .ends(1)
        .says(&["0 is out of range", "what you wrote is in ", "hint: correct it there"]);
    edit(&mesh, "sed -i 's/name: a$/name: b/' \"$1\"")
        .await
        .ends(1)
        .says(&["it must stay service/default/a"]);
    assert_eq!(port().await, 82);
    // Somebody else changes it meanwhile: theirs is shown, and the second time ours is saved.
    let meanwhile = "if grep -q '^# somebody changed it meanwhile' \"$1\"; then grep -q '^# +  - port: 90$' \"$1\"; else \
                     \"$WEIRCTL\" get svc a -o yaml | sed 's/port: 82$/port: 90/' | \"$WEIRCTL\" apply -f - >/dev/null; \
                     sed -i 's/port: 82$/port: 83/' \"$1\"; fi";
    edit(&mesh, meanwhile)
        .await
        .ends(0)
        .prints(&["service/default/a edited\n"]);
    assert_eq!(port().await, 83);
    edit(&mesh, "exit 3")
        .await
        .ends(1)
        .says(&["the editor ", "exit status: 3", "hint: name another with"]);
    weirctl(&mesh, &["edit", "wl", "a"])
        .await
        .ends(2)
        .says(&["workloads are written by the control plane alone"]);
}
