//! `--resources DIR`: whole or not at all, and watched.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use weir_control::store::{Location, Watch};
use weir_control::{Control, ControlConfig, FolderError, RunningControl, StartError};

use super::client::{Client, PATIENCE};
use super::{namespace, run, service};

struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a directory"));
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("written");
    }

    fn config(&self) -> ControlConfig {
        ControlConfig {
            resources: Some(self.path().to_owned()),
            ..ControlConfig::in_memory()
        }
    }
}

fn yaml(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";

async fn names(client: Client) -> Vec<String> {
    let list = client.get("/api/v1/services").await.expect(200);
    let items = list["items"].as_array().expect("items");
    let name = |item: &Value| {
        let (name, port) = (&item["metadata"]["name"], &item["spec"]["ports"][0]["port"]);
        format!("{}:{port}", name.as_str().expect("a name"))
    };
    items.iter().map(name).collect()
}

/// Waits for the store to change.
async fn changed(watch: &mut Watch) {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("a change in time")
        .expect("a change");
}

fn watch(control: &RunningControl) -> Watch {
    control.store().watch(control.store().revision()).expect("a watch")
}

/// Waits for `/readyz?verbose` to hold `text`; there is no event to wait for.
async fn report(client: Client, text: &str) -> String {
    let seen = async {
        loop {
            let report = client.get("/readyz?verbose").await.text();
            if report.contains(text) {
                return report;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("a report in time")
}

#[track_caller]
fn wrong(result: Result<RunningControl, StartError>) -> Vec<String> {
    match result {
        Err(StartError::Folder(FolderError::Wrong { errors, .. })) => errors,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_folder_is_in_force_and_followed() {
    let folder = Folder::new(&[
        ("z.yaml", NAMESPACE),
        ("sub/x.yml", &yaml("x", 1)),
        (
            "y.json",
            &service("y")
                .to_string()
                .replace("\"labels\"", "\"namespace\":\"a\",\"labels\""),
        ),
        ("notes.txt", "{{{"),
        (".hidden.yaml", "{{{"),
    ]);
    let (control, client) = run(folder.config()).await;
    assert_eq!(names(client).await, ["x:1", "y:80"]);
    let x = client.get("/api/v1/namespaces/a/services/x").await.expect(200);
    assert_eq!(x["metadata"]["annotations"]["weir.dev/source"], "sub/x.yml:1");

    let mut store = watch(&control);
    folder.write("sub/x.yml", &format!("{}---\n{}", yaml("x", 2), yaml("w", 3)));
    changed(&mut store).await;
    assert_eq!(names(client).await, ["w:3", "x:2", "y:80"]);
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    let now = client.get("/api/v1/namespaces/a/services/x").await.expect(200);
    assert_eq!(uid(&now), uid(&x));

    std::fs::remove_file(folder.path().join("sub/x.yml")).expect("removed");
    let mut store = watch(&control);
    changed(&mut store).await;
    assert_eq!(names(client).await, ["y:80"]);
    control.shutdown().await;
}

#[tokio::test]
async fn a_broken_folder_changes_nothing_and_says_where() {
    let folder = Folder::new(&[("a.yaml", NAMESPACE), ("x.yaml", &yaml("x", 1))]);
    let (control, client) = run(folder.config()).await;
    // Both in one go: what is right in it must not come into force without what is wrong.
    folder.write("w.yaml", &yaml("w", 1));
    folder.write("x.yaml", &yaml("x", 1).replace("port: 1", "port: 0, nothing: 1"));
    let report_broken = report(client, "[-] files").await;
    assert!(report_broken.contains("x.yaml:4: "), "{report_broken}");
    assert_eq!(names(client).await, ["x:1"]);
    let ready = client.get("/readyz").await;
    assert_eq!(ready.status, 200, "the last good is served");
    let mut store = watch(&control);
    folder.write("x.yaml", &yaml("x", 2));
    changed(&mut store).await;
    assert_eq!(names(client).await, ["w:1", "x:2"]);
    report(client, "[+] files: 3 objects in force").await;
    control.shutdown().await;
}

#[tokio::test]
async fn a_folder_wrong_from_the_start_is_said_with_every_place() {
    let folder = Folder::new(&[
        ("1.yaml", NAMESPACE),
        ("2.yaml", "a: [\n"),
        ("3.yaml", &format!("{}---\n{}", yaml("x", 1), yaml("x", 2))),
        ("4.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n"),
    ]);
    std::fs::write(folder.path().join("5.yaml"), b"\xff").expect("written");
    let elsewhere = Folder::new(&[("x.yaml", NAMESPACE)]);
    std::os::unix::fs::symlink(elsewhere.path().join("x.yaml"), folder.path().join("6.yaml")).expect("a link");
    std::os::unix::fs::symlink(folder.path(), folder.path().join("circle")).expect("a link");
    let errors = wrong(Control::start(folder.config()).await);
    let starts: Vec<&str> = errors.iter().filter_map(|error| error.split(':').next()).collect();
    assert_eq!(
        starts,
        ["2.yaml", "3.yaml", "4.yaml", "5.yaml", "6.yaml"],
        "{errors:#?}"
    );
    assert!(
        errors[1].starts_with("3.yaml:8: ") && errors[1].contains("line 1"),
        "{errors:#?}"
    );
    assert!(errors[2].starts_with("4.yaml:2: kind: \"Pod\""), "{errors:#?}");
}

#[tokio::test]
async fn a_folder_that_names_no_namespace_of_its_objects_is_refused() {
    let folder = Folder::new(&[("x.yaml", &yaml("x", 1))]);
    let errors = wrong(Control::start(folder.config()).await);
    assert_eq!(
        errors,
        ["x.yaml:1: Service/a/x: the namespace a does not exist; create it first"]
    );
    let missing = ControlConfig {
        resources: Some("/nowhere/at/all".into()),
        ..ControlConfig::in_memory()
    };
    let error = Control::start(missing).await.map(|_| ()).expect_err("no folder");
    assert!(
        matches!(error, StartError::Folder(FolderError::Watch { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_files_own_is_changed_in_files() {
    let folder = Folder::new(&[("a.yaml", NAMESPACE), ("x.yaml", &format!("# mine\n{}", yaml("x", 1)))]);
    let (control, client) = run(folder.config()).await;
    let x = "/api/v1/namespaces/a/services/x";
    let message = client.delete(x).await.refused(403, "Forbidden");
    assert_eq!(message, "Service/a/x comes from x.yaml:2; change it there");
    let object = client.get(x).await.expect(200);
    client.put(x, &object).await.refused(403, "Forbidden");
    client
        .patch(x, &json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .refused(403, "Forbidden");
    client.delete("/api/v1/namespaces/a").await.refused(403, "Forbidden");
    // Beside them, the API writes.
    let mut other = service("other");
    other["metadata"]["namespace"] = json!("a");
    client.post("/api/v1/namespaces/a/services", &other).await.expect(201);
    assert_eq!(names(client).await, ["other:80", "x:1"]);
    control.shutdown().await;
}

#[tokio::test]
async fn a_namespace_that_the_api_still_uses_stays() {
    let folder = Folder::new(&[
        ("a.yaml", NAMESPACE),
        ("b.yaml", &NAMESPACE.replace("name: a", "name: b")),
    ]);
    let (control, client) = run(folder.config()).await;
    client
        .post("/api/v1/namespaces/a/services", &service("x"))
        .await
        .expect(201);
    std::fs::remove_file(folder.path().join("a.yaml")).expect("removed");
    let broken = report(client, "[-] files").await;
    assert!(broken.contains("namespace a still holds Service/a/x"), "{broken}");
    client.get("/api/v1/namespaces/a").await.expect(200);
    control.shutdown().await;
}

#[tokio::test]
async fn after_a_restart_a_broken_folder_leaves_what_was_stored() {
    let folder = Folder::new(&[("a.yaml", NAMESPACE), ("x.yaml", &yaml("x", 1))]);
    let data = tempfile::tempdir().expect("a directory");
    let mut config = folder.config();
    config.location = Location::Directory(data.path().to_owned());
    let (control, _) = run(config.clone()).await;
    control.shutdown().await;
    folder.write("x.yaml", "]");
    let (control, client) = run(config.clone()).await;
    assert_eq!(names(client).await, ["x:1"]);
    report(client, "[-] files").await;
    control.shutdown().await;

    folder.write("x.yaml", &yaml("y", 1));
    let (control, client) = run(config).await;
    assert_eq!(names(client).await, ["y:1"]);
    client.post("/api/v1/namespaces", &namespace("b")).await.expect(201);
    control.shutdown().await;
}
