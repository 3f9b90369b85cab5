//! The program itself against an API that is scripted: what it sends, prints and exits with.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// What came to the API.
#[derive(Clone, Debug)]
struct Seen {
    /// `POST /api/v1/namespaces`
    line: String,
    body: Value,
}

/// An answer: a status and a body.
type Answer = (u16, String);

/// An API on a port of its own that answers as scripted.
struct Api {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    /// `script` answers a request, given those before it.
    fn new(script: impl Fn(&Seen, &[Seen]) -> Answer + Send + 'static) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let (log, end) = (seen.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let Some((seen, mut stream)) = request(stream) else {
                    continue;
                };
                let mut log = log.lock().expect("no test panics here");
                let (status, body) = script(&seen, &log);
                log.push(seen);
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
                let _ = write!(stream, "{head}content-length: {length}\r\n\r\n{body}");
            }
        });
        Api {
            address,
            seen,
            over,
            thread: Some(thread),
        }
    }

    fn lines(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("no test panics here");
        seen.iter().map(|seen| seen.line.clone()).collect()
    }

    fn body(&self, index: usize) -> Value {
        self.seen.lock().expect("no test panics here")[index].body.clone()
    }

    /// Runs weirctl against it.
    fn run(&self, args: &[&str], stdin: &str) -> Ran {
        weirctl(&format!("http://{}", self.address), args, stdin)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn request(stream: TcpStream) -> Option<(Seen, TcpStream)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let line = line.rsplit_once(' ')?.0.to_owned();
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        let field = field.trim_end().to_ascii_lowercase();
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if field.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some((Seen { line, body }, reader.into_inner()))
}

/// How weirctl ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn weirctl(server: &str, args: &[&str], stdin: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weirctl"))
        .args(args)
        .env_clear()
        .env("WEIR_SERVER", server)
        // A proxy that is set for apps must not be used.
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("weirctl starts");
    // It may end without reading it.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("weirctl ends");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// What weirctl prints on a terminal of its own, both streams together (util-linux's script).
fn on_terminal(api: &Api, args: &str, no_color: &str) -> String {
    let command = format!("{} {args}", env!("CARGO_BIN_EXE_weirctl"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("WEIR_SERVER", format!("http://{}", api.address))
        .env("NO_COLOR", no_color)
        .stdin(Stdio::null())
        .output()
        .expect("script starts");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{said:?}");
    said
}

impl Ran {
    #[track_caller]
    fn ends(&self, code: i32, stdout: &str, stderr: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, stdout, "{self:?}");
        for part in stderr {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

fn refused(reason: &str, code: u16) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": format!("no: {reason}"),
        "reason": reason, "code": code,
    });
    (code, status.to_string())
}

/// The service that [`SERVICE`] writes, as stored.
fn stored(port: u16, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "a", "namespace": "n", "resourceVersion": version, "generation": 2, "uid": "u"},
        "spec": {"ports": [{"port": port, "protocol": "TCP"}], "type": "ClusterIP"},
        "status": {"x": 1},
    })
}

fn view(state: &str, generation: i64) -> Answer {
    let view = json!({
        "kind": "ProxyView", "object": "Service/n/a", "generation": generation, "state": state, "subscribers": 2,
        "inForce": ["n/p"], "pending": ["n/q"], "rejected": [{"proxy": "n/q", "reason": "bad \u{1b}[2Jregex"}],
    });
    (200, view.to_string())
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: n}\nspec: {ports: [{port: 80}]}\n";
const APPLY: [&str; 3] = ["apply", "-f", "-"];

fn nothing(_: &Seen, _: &[Seen]) -> Answer {
    (500, String::new())
}

#[test]
fn wrong_usage_is_2_and_sends_nothing() {
    let api = Api::new(nothing);
    for (args, problem) in [
        (&[][..], "Usage:"),
        (&["get"], "<KIND>"),
        (&["get", "pods"], "known are namespaces, meshconfigs, configmaps"),
        (&["get", "svc", "A"], "is no name"),
        (&["get", "svc", "../ns"], "is no name"),
        (&["get", "svc", "-n", "a/b"], "is no namespace"),
        (&["get", "svc", "a", "-A"], "cannot be used with"),
        (&["trace", "xyz"], "is no trace"),
        (&["apply"], "no file is given"),
        (&["apply", "-f", "-"], "the files hold no resource"),
        (
            &["apply", "-f", "-", "--wait", "--timeout", "5"],
            "is not a duration like",
        ),
        (&["delete"], "required"),
        (&["status", "--server", "https://a"], "asks for TLS"),
        (&["status", "--server", "127.0.0.1:7440"], "does not begin with http://"),
        (&["status", "--server", "http://a/b"], "more than scheme, host and port"),
    ] {
        api.run(args, "").ends(2, "", &[problem]);
    }
    let workload = "{apiVersion: weir.dev/v1, kind: Workload, metadata: {name: a}, \
                    spec: {address: 127.0.0.1, ports: [], instance: 1}}";
    api.run(&APPLY, workload).ends(
        2,
        "",
        &["(standard input):1: workloads are written by the control plane alone"],
    );
    assert_eq!(api.lines(), [""; 0]);
}

#[test]
fn help_is_the_reference() {
    let ran = weirctl("", &["--help"], "");
    ran.ends(0, &ran.stdout, &[]);
    for part in [
        "apply",
        "get",
        "delete",
        "status",
        "trace",
        "WEIR_SERVER",
        "Exit codes: 0 done; 1 failed",
        "NO_COLOR",
    ] {
        assert!(ran.stdout.contains(part), "{part}");
    }
}

#[test]
fn what_does_not_answer_is_said_with_a_remedy() {
    // Nobody accepts: each connection is closed unanswered.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let closer = std::thread::spawn(move || drop(listener.accept()));
    let ran = weirctl(&format!("http://{address}"), &["status"], "");
    ran.ends(
        1,
        "",
        &[
            &format!("the control plane at http://{address} does not answer"),
            "hint: is weir-control running?",
        ],
    );
    closer.join().expect("it ends");
}

#[test]
fn what_is_no_control_plane_is_said() {
    for body in ["<html>", "{}", "{\"kind\":\"Status\",\"status\":\"Success\"}"] {
        let api = Api::new(move |_, _| (404, body.to_owned()));
        api.run(&["get", "svc"], "").ends(
            1,
            "",
            &["HTTP 404 without a Kubernetes Status", "hint: does --server name"],
        );
    }
    let api = Api::new(|_, _| (200, "[1".to_owned()));
    api.run(&["status"], "").ends(1, "", &["can't be understood"]);
}

#[test]
fn wrong_files_are_said_by_line_and_nothing_is_applied() {
    let api = Api::new(nothing);
    let text = format!(
        "{SERVICE}---\n{}",
        SERVICE.replace("port: 80", "port: 0").replace("name: a", "name: b")
    );
    let expect = "(standard input):9: spec.ports[0].port: 0 is out of range; a whole number from 1 to 65535 is right";
    api.run(&APPLY, &text)
        .ends(1, "", &[expect, "hint: nothing was applied"]);
    api.run(&["apply", "-f", "/nonexistent/x.yaml"], "")
        .ends(1, "", &["/nonexistent/x.yaml: No such file"]);
    api.run(&["apply", "-n", "m", "-f", "-"], SERVICE)
        .ends(1, "", &["metadata.namespace: \"n\" is another namespace"]);
    assert_eq!(api.lines(), [""; 0]);
}

#[test]
fn a_folder_is_read_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("written");
    write("b.yaml", SERVICE.as_bytes());
    write(
        "a.json",
        br#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}"#,
    );
    write("notes.txt", b"no resource");
    std::fs::create_dir(folder.path().join("inner")).expect("created");
    write("inner/c.yml", SERVICE.replace("name: a", "name: c").as_bytes());
    let path = folder.path().to_str().expect("UTF-8").to_owned();
    let api = Api::new(|seen, _| (201, seen.body.to_string()));
    let ran = api.run(&["apply", "-f", &path], "");
    ran.ends(
        0,
        "namespace/n created\nservice/n/a created\nservice/n/c created\n",
        &[],
    );
    write("d.yaml", SERVICE.as_bytes());
    write("e.yaml", b"a: 1\nb: \xff\n");
    let ran = api.run(&["apply", "-f", &path], "");
    let place = format!("{path}/b.yaml:1 already");
    ran.ends(
        1,
        "",
        &[
            "d.yaml:1: Service/n/a stands here a second time",
            &place,
            "e.yaml:2: holds bytes that are not UTF-8",
        ],
    );
    assert_eq!(api.lines().len(), 3);
}

#[test]
fn what_is_there_already_is_replaced_only_if_it_differs() {
    let api = Api::new(|seen, _| match seen.line.as_str() {
        "POST /api/v1/namespaces/n/services" => refused("AlreadyExists", 409),
        "GET /api/v1/namespaces/n/services/a" => (200, stored(80, "7").to_string()),
        _ => refused("InternalError", 500),
    });
    api.run(&APPLY, SERVICE).ends(0, "service/n/a unchanged\n", &[]);
    assert_eq!(api.lines().len(), 2);

    // Changed by someone else between the read and the write: once more.
    let api = Api::new(|seen, before| match (seen.line.as_str(), before.len()) {
        ("POST /api/v1/namespaces/n/services", _) => refused("AlreadyExists", 409),
        ("GET /api/v1/namespaces/n/services/a", 1) => (200, stored(81, "7").to_string()),
        ("GET /api/v1/namespaces/n/services/a", _) => (200, stored(82, "8").to_string()),
        ("PUT /api/v1/namespaces/n/services/a", 2) => refused("Conflict", 409),
        ("PUT /api/v1/namespaces/n/services/a", _) => (200, stored(80, "9").to_string()),
        _ => refused("InternalError", 500),
    });
    api.run(&APPLY, SERVICE).ends(0, "service/n/a configured\n", &[]);
    assert_eq!(api.lines().len(), 6);
    let put = api.body(5);
    assert_eq!(put.pointer("/metadata/resourceVersion"), Some(&json!("8")));
    assert_eq!(put.pointer("/spec/ports/0/port"), Some(&json!(80)));
    assert_eq!(put.get("status"), None);

    // Someone else changes it each time: it ends.
    let api = Api::new(|seen, _| match seen.line.split(' ').next() {
        Some("POST") => refused("AlreadyExists", 409),
        Some("GET") => (200, stored(81, "7").to_string()),
        _ => refused("Conflict", 409),
    });
    api.run(&APPLY, SERVICE).ends(
        1,
        "",
        &[
            "(standard input):1: service/n/a: no: Conflict",
            "1 of 1 resources failed",
        ],
    );
}

#[test]
fn a_dry_run_says_so_to_the_control_plane() {
    let api = Api::new(|seen, _| (201, seen.body.to_string()));
    api.run(&["apply", "--dry-run", "-f", "-"], SERVICE)
        .ends(0, "service/n/a created (dry run)\n", &[]);
    assert_eq!(api.lines(), ["POST /api/v1/namespaces/n/services?dryRun=All"]);
}

#[test]
fn one_failure_does_not_hide_the_others() {
    let api = Api::new(
        |seen, _| match seen.body.pointer("/metadata/name").and_then(Value::as_str) {
            Some("a") => {
                let causes =
                    json!([{"field": "spec.x", "message": "1 is wrong"}, {"field": "", "message": "too \u{7}much"}]);
                let status = json!({"kind": "Status", "status": "Failure", "reason": "Invalid", "message": "Service/n/a is invalid: 1, 2", "details": {"causes": causes}});
                (422, status.to_string())
            }
            _ => (201, seen.body.to_string()),
        },
    );
    let text = format!("{SERVICE}---\n{}", SERVICE.replace("name: a", "name: b"));
    let ran = api.run(&APPLY, &text);
    let expect = "service/n/a: Service/n/a is invalid\n  spec.x: 1 is wrong\n  too \u{fffd}much\n";
    ran.ends(1, "service/n/b created\n", &[expect, "1 of 2 resources failed"]);
}

#[test]
fn apply_waits_until_all_proxies_have_it() {
    // The view of an older generation counts for nothing, whatever it says.
    let api = Api::new(|seen, before| match (seen.line.split(' ').next(), before.len()) {
        (Some("POST"), _) => (201, stored(80, "7").to_string()),
        (_, 1) => view("InForce", 1),
        (_, 2) => view("Progressing", 2),
        _ => view("InForce", 2),
    });
    let ran = api.run(&["apply", "-f", "-", "--wait"], SERVICE);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.stdout
            .starts_with("service/n/a created\nin force on 2 proxies after 0."),
        "{ran:?}"
    );
    assert_eq!(ran.stderr, "", "progress is for terminals");
    let get = "GET /api/v1/namespaces/n/services/a/proxies";
    assert_eq!(api.lines(), ["POST /api/v1/namespaces/n/services", get, get, get]);
}

#[test]
fn a_terminal_has_colours_and_shows_progress() {
    let script = |seen: &Seen, before: &[Seen]| match (seen.line.split(' ').next(), before.len()) {
        (Some("POST"), _) => (201, stored(80, "7").to_string()),
        (_, 1) => view("Progressing", 2),
        _ => view("InForce", 2),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("service.yaml");
    std::fs::write(&file, SERVICE).expect("written");
    let apply = format!("apply -f {} --wait", file.display());
    let said = on_terminal(&Api::new(script), &apply, "");
    // The line is gone before what comes of it is said.
    let line = "\rin force on 1 of 2 proxies\u{1b}[K\r\u{1b}[K\u{1b}[32min force on 2 proxies after ";
    assert!(said.contains(line), "{said:?}");
    let status = |_: &Seen, _: &[Seen]| {
        let lost = json!({"name": "n/q", "connected": false, "subscribed": 2, "inForce": 0});
        (200, json!({"kind": "ProxyList", "items": [lost]}).to_string())
    };
    for (no_color, coloured) in [("", true), ("1", false)] {
        let said = on_terminal(&Api::new(status), "status", no_color);
        assert!(said.contains("lost"), "{said:?}");
        assert_eq!(said.contains("\u{1b}["), coloured, "NO_COLOR={no_color}: {said:?}");
    }
}

#[test]
fn apply_fails_at_once_when_a_proxy_rejects() {
    let api = Api::new(|seen, _| match seen.line.split(' ').next() {
        Some("POST") => (201, stored(80, "7").to_string()),
        _ => view("Rejected", 2),
    });
    let ran = api.run(&["apply", "-f", "-", "--wait", "--timeout", "1h"], SERVICE);
    let expect = "service/n/a was rejected by n/q: bad \u{fffd}[2Jregex";
    ran.ends(
        1,
        "service/n/a created\n",
        &[expect, "hint: what was in force before stays in force"],
    );
}

#[test]
fn apply_fails_when_time_is_out() {
    let api = Api::new(|seen, _| match seen.line.split(' ').next() {
        Some("POST") => (201, stored(80, "7").to_string()),
        _ => view("Progressing", 2),
    });
    let ran = api.run(&["apply", "-f", "-", "--wait", "--timeout", "1ms"], SERVICE);
    ran.ends(
        1,
        "service/n/a created\n",
        &["not in force after 1ms: service/n/a is pending on n/q"],
    );
}

#[test]
fn get_prints_tables_names_json_and_yaml() {
    let api = Api::new(|seen, _| match seen.line.as_str() {
        "GET /api/v1/namespaces/n/services/a" => (200, stored(80, "7").to_string()),
        "GET /api/v1/namespaces/n/services/b" => refused("NotFound", 404),
        "GET /api/v1/services" => {
            let newer =
                json!({"apiVersion": "v9", "kind": "Service", "metadata": {"name": "new\u{1b}[2J", "namespace": "n"}});
            let list = json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "7"}, "items": [stored(80, "7"), newer]});
            (200, list.to_string())
        }
        _ => refused("InternalError", 500),
    });
    let table = "NAME   PORTS   SELECTOR   AGE\na      80      -          -\n";
    api.run(&["get", "svc", "a", "-n", "n"], "").ends(0, table, &[]);
    api.run(&["get", "svc", "a", "-n", "n", "-o", "name"], "")
        .ends(0, "service/n/a\n", &[]);
    api.run(&["get", "svc", "b", "-n", "n"], "")
        .ends(1, "", &["service/n/b: no: NotFound"]);
    let table = "NAMESPACE   NAME      PORTS   SELECTOR   AGE\n\
                 n           a         80      -          -\n\
                 n           new\u{fffd}[2J   -       -          -\n";
    api.run(&["get", "services", "-A"], "").ends(0, table, &[]);
    let yaml = api.run(&["get", "Service", "a", "-n", "n", "-o", "yaml"], "");
    let read = weir_api::yaml::read(&yaml.stdout, "stdout").expect("YAML");
    assert_eq!(read[0].value, stored(80, "7"));
    let json = api.run(&["get", "Service", "a", "-n", "n", "-o", "json"], "");
    assert_eq!(
        serde_json::from_str::<Value>(&json.stdout).expect("JSON"),
        stored(80, "7")
    );
}

#[test]
fn a_watch_goes_on_where_it_was_and_begins_again_when_that_is_gone() {
    let event = |kind: &str, object: Value| format!("{}\n", json!({"type": kind, "object": object}));
    let api = Api::new(move |seen, before| {
        let list = |version: &str| {
            let metadata = json!({"resourceVersion": version});
            json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": metadata, "items": [stored(80, "7")]})
                .to_string()
        };
        let bookmark = json!({"metadata": {"resourceVersion": "9"}});
        match before.len() {
            0 => (200, list("7")),
            1 => (200, event("MODIFIED", stored(81, "8")) + &event("BOOKMARK", bookmark)),
            2 => refused("Expired", 410),
            3 => (200, list("20")),
            4 => (200, event("DELETED", stored(81, "21"))),
            _ => {
                assert!(seen.line.ends_with("resourceVersion=21"));
                refused("Forbidden", 403)
            }
        }
    });
    let ran = api.run(&["get", "svc", "a", "-n", "n", "-w", "-o", "name"], "");
    ran.ends(
        1,
        "service/n/a\nservice/n/a\nservice/n/a\nservice/n/a deleted\n",
        &["no: Forbidden"],
    );
    let watched: Vec<String> = api
        .lines()
        .iter()
        .filter_map(|line| Some(line.rsplit_once('=')?.1.to_owned()))
        .collect();
    assert_eq!(watched, ["7", "9", "20", "21"]);
}

#[test]
fn delete_says_what_is_gone() {
    let api = Api::new(|seen, _| match seen.line.as_str() {
        "DELETE /api/v1/namespaces/n/services/a" => (200, "{\"kind\":\"Status\",\"status\":\"Success\"}".to_owned()),
        _ => refused("NotFound", 404),
    });
    api.run(&["delete", "svc", "a", "-n", "n"], "")
        .ends(0, "service/n/a deleted\n", &[]);
    api.run(&["delete", "-f", "-"], SERVICE)
        .ends(0, "service/n/a deleted\n", &[]);
    api.run(&["delete", "svc", "a"], "")
        .ends(1, "", &["service/default/a: no: NotFound"]);
    api.run(&["delete", "svc", "a", "--ignore-not-found"], "")
        .ends(0, "service/default/a is not there\n", &[]);
    api.run(&["delete", "svc", "a", "-f", "-"], SERVICE)
        .ends(2, "", &["not both"]);
}

#[test]
fn status_and_traces_are_printed_for_people() {
    let api = Api::new(|seen, _| {
        let body = match seen.line.as_str() {
            "GET /apis/weir.dev/v1/proxies" => json!({"kind": "ProxyList", "items": [
                {"name": "n/p", "connected": true, "version": "0.1.0", "subscribed": 2, "inForce": 2, "revision": "41",
                 "account": "shop", "ports": [{"appPort": 80, "entered": "Strict"}, {"appPort": 81, "entered": "Edge"}]},
                {"name": "n/q", "connected": false, "subscribed": 2, "inForce": 0,
                 "ports": [{"appPort": 80, "entered": "Permissive"}, {"appPort": 81, "entered": "Permissive"}],
                 "pending": [{"type": "Route", "name": "a.n:80/*", "seconds": 0.25}],
                 "rejected": [{"type": "Cluster", "name": "a.n:80", "reason": "why", "sources": ["BackendPolicy/n/x"]}]},
            ]}),
            "GET /traces?limit=20" => json!({"items": [{
                "traceId": "ab", "root": "GET /code", "service": "portal", "start": "2026-01-01T00:00:00Z",
                "durationMillis": 12.34, "spans": 3, "errors": 1,
            }]}),
            "GET /traces/abababababababababababababababab" => json!({"traceId": "ab", "spans": [{
                "spanId": "1", "service": "portal", "name": "GET", "kind": "Server", "startUnixNano": 1u64,
                "durationNanos": 1_000_000, "status": "Ok",
            }]}),
            _ => return refused("NotFound", 404),
        };
        (200, body.to_string())
    });
    let status = "PROXY   STREAM      VERSION   ACCOUNT   MUTUAL TLS           IN FORCE   PENDING   REJECTED   REVISION\n\
                  n/p     connected   0.1.0     shop      80 Strict, 81 Edge   2 of 2     0         0          41\n\
                  n/q     lost                  -         Permissive           0 of 2     1         1          -\n\
                  n/q pending: Route a.n:80/*, for 0.2 s\n\
                  n/q rejected: Cluster a.n:80: why\n  made from BackendPolicy/n/x\n";
    api.run(&["status"], "").ends(0, status, &[]);
    let json = api.run(&["status", "-o", "json"], "");
    assert_eq!(
        serde_json::from_str::<Value>(&json.stdout).expect("JSON")["kind"],
        "ProxyList"
    );
    let list = "TRACE   START                  TIME      SPANS   ERRORS   REQUEST\n\
                ab      2026-01-01T00:00:00Z   12.3 ms   3       1        portal GET /code\n";
    api.run(&["trace"], "").ends(0, list, &[]);
    let tree = "trace ab: 1 spans in 1.0 ms\nportal GET (server) +0.0 ms took 1.0 ms\n";
    api.run(&["trace", "ABababababababababababababababab"], "")
        .ends(0, tree, &[]);
    api.run(&["trace", &"0".repeat(32)], "").ends(1, "", &["no: NotFound"]);
}

fn list(names: &[&str]) -> Answer {
    let items: Vec<Value> = names
        .iter()
        .map(|name| json!({"metadata": {"name": name, "namespace": "n"}}))
        .collect();
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
    (200, list.to_string())
}

#[test]
fn what_can_not_be_pruned_is_said_and_what_went_by_itself_is_not() {
    let labelled = SERVICE.replace("namespace: n", "namespace: n, labels: {set: one}");
    let api = |held: &'static [&'static str]| {
        Api::new(move |seen, _| match seen.line.split_once(' ') {
            Some(("POST", _)) => (201, seen.body.to_string()),
            Some(("GET", "/api/v1/namespaces/n/services?labelSelector=set%3Done")) => list(held),
            Some(("GET", _)) => list(&[]),
            Some(("DELETE", "/api/v1/namespaces/n/services/went")) => refused("NotFound", 404),
            _ => refused("Forbidden", 403),
        })
    };
    let prune = ["apply", "-f", "-", "--prune", "-l", "set=one"];
    let really = [&prune[..], &["--yes"]].concat();
    let ran = api(&["a", "went", "stays"]).run(&really, &labelled);
    ran.ends(
        1,
        "service/n/a created\n",
        &["no: Forbidden", "1 of 2 resources failed"],
    );
    assert!(!ran.stderr.contains("NotFound"), "{ran:?}");
    let ran = api(&["a"]).run(&prune, &labelled);
    ran.ends(0, "service/n/a created\n", &[]);
    assert_eq!(ran.stderr, "", "there is nothing to be pruned");
}

#[test]
fn a_condition_is_waited_for_by_its_name_until_it_is_so() {
    let condition = |name, status| json!({"type": name, "status": status, "reason": "R", "message": "why"});
    let api = move |ready| {
        let mut object = stored(80, "7");
        object["status"] = json!({"conditions": [condition("Other", "False"), condition("Ready", ready)]});
        Api::new(move |_, _| (200, object.to_string()))
    };
    let wait = [
        "wait",
        "svc",
        "a",
        "-n",
        "n",
        "--for",
        "condition=Ready",
        "--timeout",
        "1ms",
    ];
    api("True").run(&wait, "").ends(0, "service/n/a has Ready=True\n", &[]);
    let late = "after 1ms: service/n/a: Ready is False: why";
    api("False").run(&wait, "").ends(1, "", &[late]);
}

#[test]
fn diff_shows_what_people_write() {
    let api = Api::new(|seen, _| {
        let mut after = stored(81, "8");
        after["metadata"]["generation"] = json!(3);
        after["status"] = json!({"x": 2});
        match seen.line.split(' ').next() {
            Some("POST") => refused("AlreadyExists", 409),
            Some("GET") => (200, stored(80, "7").to_string()),
            _ => (200, after.to_string()),
        }
    });
    let ran = api.run(&["diff", "-f", "-"], &SERVICE.replace("port: 80", "port: 81"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let changed = |line: &&str| line.starts_with(['+', '-']) && !line.starts_with("+++") && !line.starts_with("---");
    let changed: Vec<&str> = ran.stdout.lines().filter(changed).collect();
    assert_eq!(changed, ["-  - port: 80", "+  - port: 81"], "{ran:?}");
}
