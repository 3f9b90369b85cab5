//! A client by others that keeps a copy of what the API has, as controllers do (the Kubernetes package for Python): it
//! goes on by itself when weir-control was killed and comes back, and begins anew when what it knows is forgotten.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use weir_api::{Key, Kind};
use weir_test_mesh::{Api, ControlProcess, PATIENCE, Processes, free_port, peer_program};

struct Informer {
    lines: Lines<BufReader<ChildStdout>>,
    asks: ChildStdin,
    _process: Child,
}

impl Informer {
    fn start(api: &str) -> Informer {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/informer/informer.py");
        let mut process = Command::new(peer_program("python"))
            .arg(program)
            .arg(api)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python; `./dev setup` installs it");
        Informer {
            lines: BufReader::new(process.stdout.take().expect("its output")).lines(),
            asks: process.stdin.take().expect("its input"),
            _process: process,
        }
    }

    async fn next(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("it says something").expect("text").expect("it runs")
    }

    async fn says(&mut self, expect: &[&str]) {
        for expect in expect {
            assert_eq!(self.next().await, *expect);
        }
    }

    async fn has(&mut self, expect: &str) {
        self.asks.write_all(b"copy\n").await.expect("it runs");
        assert_eq!(self.next().await, format!("copy {expect}"));
    }
}

async fn write(api: &Api, name: &str, port: u16) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "citizen"},
        "spec": {"ports": [{"port": port}]},
    });
    api.apply(&service.to_string()).await;
}

async fn delete(api: &Api, name: &str) {
    let key = Key {
        kind: Kind::Service,
        namespace: "citizen".to_owned(),
        name: name.to_owned(),
    };
    api.delete(&key).await;
}

#[tokio::test]
async fn an_informer_goes_on_through_a_restart_and_begins_anew_where_it_must() {
    let processes = Processes::of_this_build();
    let folder = tempfile::tempdir().expect("a folder");
    let (kept, forgotten) = (folder.path().join("kept"), folder.path().join("forgotten"));
    let api = format!("127.0.0.1:{}", free_port());
    let start = async |data: &Path| -> ControlProcess {
        let data = data.to_str().expect("UTF-8");
        processes.control(&["--data-dir", data, "--api", &api]).await
    };
    let control = start(&kept).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "citizen"}});
    control.api.apply(&namespace.to_string()).await;
    write(&control.api, "a", 80).await;
    write(&control.api, "b", 80).await;
    let mut informer = Informer::start(&format!("http://{api}"));
    informer.says(&["listed a b"]).await;
    write(&control.api, "c", 80).await;
    delete(&control.api, "a").await;
    informer.says(&["ADDED c", "DELETED a"]).await;

    // From where it was: nothing is told twice, and nothing is left out.
    control.running.kill().await;
    let control = start(&kept).await;
    write(&control.api, "b", 81).await;
    delete(&control.api, "c").await;
    write(&control.api, "d", 80).await;
    informer.says(&["MODIFIED b", "DELETED c", "ADDED d"]).await;
    informer.has("b=81 d=80").await;

    // Another store: what it knows of the old one is worth nothing there, and it is told so.
    control.running.kill().await;
    let control = start(&forgotten).await;
    informer.says(&["expired", "listed"]).await;
    control.api.apply(&namespace.to_string()).await;
    write(&control.api, "e", 80).await;
    informer.says(&["ADDED e"]).await;
    informer.has("e=80").await;
}
