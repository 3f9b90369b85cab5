//! The real kubectl against a real weir-control: what people do, and what they see when it is refused.

#[path = "peers/control.rs"]
mod control;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use control::{Control, peer};

/// kubectl with a home of its own.
struct Kubectl {
    control: Control,
    home: tempfile::TempDir,
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Kubectl {
    /// With the namespace `citizen` and what is in `RESOURCES` in it.
    fn with_resources() -> Kubectl {
        let kubectl = Kubectl::new();
        kubectl.write("all.yaml", RESOURCES);
        kubectl.done(&["apply", "-f", "all.yaml"]);
        kubectl
    }

    fn new() -> Kubectl {
        let home = tempfile::tempdir().expect("a folder");
        Kubectl {
            control: Control::start(),
            home,
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.home.path().join(name), text).expect("written");
    }

    fn command(&self, args: &[&str]) -> Command {
        let home: &Path = self.home.path();
        let mut command = Command::new(peer("kubectl"));
        command
            .args(args)
            .args(["--server", &self.control.api, "--cache-dir"])
            .arg(home.join("cache"));
        command
            .current_dir(home)
            .env("HOME", home)
            .env("TMPDIR", home)
            .env_remove("KUBECONFIG");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, command: &mut Command) -> Said {
        let program = command.get_program().to_owned();
        let output = command.output();
        let output = output.unwrap_or_else(|error| panic!("{program:?}: {error}; `./dev setup` installs it"));
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it prints.
    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let said = self.run(&mut self.command(args));
        assert_eq!(said.code, Some(0), "kubectl {args:?}: {}{}", said.out, said.err);
        // A warning is a thing that does not fit.
        assert!(
            !said.err.to_lowercase().contains("warning"),
            "kubectl {args:?}: {}",
            said.err
        );
        said.out
    }

    /// What it says on the failure, on one line.
    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        let said = self.run(&mut self.command(args));
        assert_eq!(said.code, Some(1), "kubectl {args:?}: {}{}", said.out, said.err);
        said.err.trim().to_owned()
    }
}

#[track_caller]
fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Lines with single spaces between words.
fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

const RESOURCES: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: citizen}
---
apiVersion: v1
kind: Service
metadata: {name: portal, namespace: citizen, labels: {tier: front}}
spec:
  selector: {app: portal}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 81}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: portal, namespace: citizen}
spec:
  parentRefs: [{group: '', kind: Service, name: portal, port: 80}]
  hostnames: [a.example]
  rules: [{backendRefs: [{name: portal, port: 80}]}]
---
apiVersion: weir.dev/v1
kind: BackendPolicy
metadata: {name: portal, namespace: citizen}
spec:
  targetRefs: [{group: '', kind: Service, name: portal}]
  connectTimeout: 300ms
";

#[test]
fn what_there_is_can_be_found_out() {
    let kubectl = Kubectl::new();
    let resources = lines(&kubectl.done(&["api-resources"]));
    for expect in [
        "namespaces ns v1 false Namespace",
        "configmaps cm v1 true ConfigMap",
        "backendtlspolicies btlspolicy gateway.networking.k8s.io/v1 true BackendTLSPolicy",
        "services svc v1 true Service",
        "httproutes gateway.networking.k8s.io/v1 true HTTPRoute",
        "backendpolicies bp weir.dev/v1 true BackendPolicy",
        "routepolicies rp weir.dev/v1 true RoutePolicy",
        "telemetrypolicies tp weir.dev/v1 true TelemetryPolicy",
    ] {
        assert!(resources.iter().any(|line| line == expect), "{expect}: {resources:#?}");
    }
    let weir = kubectl.done(&["api-resources", "--categories=weir", "--verbs=list,watch", "-o", "name"]);
    holds(&weir, &["workloads.weir.dev", "meshconfigs.weir.dev"]);
    assert!(!weir.contains("services"), "{weir}");
    let versions = kubectl.done(&["api-versions"]);
    holds(
        &versions,
        &[
            "discovery.k8s.io/v1\n",
            "gateway.networking.k8s.io/v1\n",
            "weir.dev/v1\n",
            "v1\n",
        ],
    );
    let explained = kubectl.done(&["explain", "backendpolicy.spec.circuitBreaker"]);
    holds(
        &explained,
        &[
            "GROUP:      weir.dev",
            "maxConnections\t<integer>",
            "How many connections may be open.",
        ],
    );
    let whole = kubectl.done(&["explain", "httproute", "--recursive"]);
    holds(&whole, &["backendRefs", "urlRewrite", "method\t<string>"]);
    holds(
        &kubectl.done(&["explain", "services.spec.ports"]),
        &["targetPort", "appProtocol"],
    );
    // It warns of the distance between its version and Weir's, which says nothing.
    let version = kubectl.run(&mut kubectl.command(&["version"]));
    assert_eq!(version.code, Some(0), "{}", version.err);
    holds(&version.out, &[concat!("Server Version: v", env!("CARGO_PKG_VERSION"))]);
}

#[test]
fn what_is_applied_is_shown_in_every_form() {
    let kubectl = Kubectl::new();
    std::fs::create_dir(kubectl.home.path().join("folder")).expect("a folder");
    let parts: Vec<&str> = RESOURCES.split("---\n").collect();
    for (number, part) in parts.iter().enumerate() {
        kubectl.write(&format!("folder/{number}.yaml"), part);
    }
    let created = kubectl.done(&["apply", "-f", "folder"]);
    let names = [
        "namespace/citizen",
        "service/portal",
        "httproute.gateway.networking.k8s.io/portal",
        "backendpolicy.weir.dev/portal",
    ];
    assert_eq!(lines(&created), names.map(|name| format!("{name} created")));
    let again = lines(&kubectl.done(&["apply", "-f", "folder"]));
    for (said, name) in again.iter().zip(names) {
        // kubectl compares lists of other groups' kinds as a whole: one in which defaults were filled in differs from
        // the file each time, on any cluster.
        let expect = if name.starts_with("httproute") {
            "configured"
        } else {
            "unchanged"
        };
        assert_eq!(*said, format!("{name} {expect}"));
    }

    kubectl.write(
        "folder/1.yaml",
        &parts[1].replace("port: 81", "port: 82").replace("front", "back"),
    );
    let diff = kubectl.run(&mut kubectl.command(&["diff", "-f", "folder"]));
    assert_eq!(diff.code, Some(1), "{}{}", diff.out, diff.err);
    holds(
        &diff.out,
        &[
            "-    port: 81\n",
            "+    port: 82\n",
            "-    tier: front\n",
            "+    tier: back\n",
        ],
    );
    let dry = kubectl.done(&[
        "apply",
        "-f",
        "folder/1.yaml",
        "--dry-run=server",
        "-o",
        "jsonpath={.spec.ports[*].port}",
    ]);
    assert_eq!(dry, "80 82");
    let ports = [
        "get",
        "svc",
        "portal",
        "-n",
        "citizen",
        "-o",
        "jsonpath={.spec.ports[*].port}",
    ];
    assert_eq!(kubectl.done(&ports), "80 81");
    assert_eq!(
        lines(&kubectl.done(&["apply", "-f", "folder/1.yaml"])),
        ["service/portal configured"]
    );
    assert_eq!(kubectl.done(&ports), "80 82");
    let same = kubectl.run(&mut kubectl.command(&["diff", "-f", "folder"]));
    assert_eq!((same.code, same.out.as_str()), (Some(0), ""));

    let wide = lines(&kubectl.done(&["get", "svc,httproute,bp", "-n", "citizen", "-o", "wide"]));
    for expect in [
        "NAME PORTS SELECTOR AGE",
        "service/portal 80,82 app=portal ",
        "NAME HOSTNAMES PARENTS RULES ACCEPTED IN FORCE BACKENDS AGE",
        "httproute.gateway.networking.k8s.io/portal a.example portal:80 1 ",
        "NAME TARGETS SETS ",
        "backendpolicy.weir.dev/portal portal connectTimeout ",
    ] {
        assert!(wide.iter().any(|line| line.starts_with(expect)), "{expect}: {wide:#?}");
    }
    let all = kubectl.done(&["get", "weir,gateway-api,all", "-A", "-o", "name"]);
    assert_eq!(lines(&all), [names[3], names[2], names[1]], "{all}");
    holds(&kubectl.done(&["get", "ns"]), &["default", "citizen", "Active"]);
    let yaml = kubectl.done(&["get", "httproute", "portal", "-n", "citizen", "-o", "yaml"]);
    holds(
        &yaml,
        &["kind: HTTPRoute\n", "hostnames:\n  - a.example\n", "weight: 1\n"],
    );
    let json = kubectl.done(&["get", "svc", "-A", "-l", "tier in (back, other)", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["items"][0]["metadata"]["name"], "portal");
    let described = kubectl.done(&["describe", "httproute", "portal", "-n", "citizen"]);
    holds(
        &described,
        &["Name:         portal\n", "Kind:         HTTPRoute\n", "a.example"],
    );
    holds(
        &kubectl.done(&["describe", "svc", "portal", "-n", "citizen"]),
        &["Selector:", "app=portal", "82/TCP"],
    );
    holds(&kubectl.done(&["describe", "ns", "citizen"]), &["Status:       Active"]);
}

#[test]
fn what_is_there_can_be_changed_in_every_way() {
    let kubectl = Kubectl::with_resources();
    let in_citizen = |args: &[&str]| kubectl.done(&[args, &["-n", "citizen"]].concat());
    in_citizen(&["label", "svc", "portal", "a=b", "tier-"]);
    in_citizen(&["annotate", "httproute", "portal", "note=x y"]);
    assert_eq!(
        in_citizen(&["get", "svc", "portal", "-o", "jsonpath={.metadata.labels}"]),
        "{\"a\":\"b\"}"
    );
    in_citizen(&[
        "patch",
        "svc",
        "portal",
        "-p",
        r#"{"spec":{"ports":[{"port":80,"name":"web"}]}}"#,
    ]);
    in_citizen(&[
        "patch",
        "svc",
        "portal",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/ports/1"}]"#,
    ]);
    in_citizen(&[
        "patch",
        "httproute",
        "portal",
        "--type=merge",
        "-p",
        r#"{"spec":{"hostnames":["b.example"]}}"#,
    ]);
    assert_eq!(
        in_citizen(&["get", "svc", "portal", "-o", "jsonpath={.spec.ports[*].name}"]),
        "web"
    );
    for (kind, from, to) in [
        ("svc", "8080", "8081"),
        ("httproute", "b.example", "c.example"),
        ("bp", "300ms", "400ms"),
    ] {
        let mut edit = kubectl.command(&["edit", kind, "portal", "-n", "citizen"]);
        let said = kubectl.run(edit.env("KUBE_EDITOR", format!("sed -i s/{from}/{to}/")));
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        holds(&in_citizen(&["get", kind, "portal", "-o", "yaml"]), &[to]);
    }
    let mut edit = kubectl.command(&["edit", "bp", "portal", "-n", "citizen"]);
    let said = kubectl.run(edit.env("KUBE_EDITOR", "sed -i s/connectTimeout/connectTimeOut/"));
    holds(&said.err, &["backendpolicies.weir.dev \"portal\" is invalid"]);
    // What was wrong stands above the text that is edited again.
    let files = std::fs::read_dir(kubectl.home.path())
        .expect("a folder")
        .filter_map(Result::ok);
    let copies = files.filter(|file| file.file_name().to_string_lossy().contains("kubectl-edit-"));
    let copies: Vec<String> = copies
        .filter_map(|copy| std::fs::read_to_string(copy.path()).ok())
        .collect();
    let copy = copies.join("\n");
    holds(&copy, &["spec.connectTimeOut", "unknown field"]);
    let wait = [
        "wait",
        "svc/portal",
        "--for=jsonpath={.spec.ports[0].targetPort}=8081",
        "--timeout=30s",
    ];
    assert_eq!(in_citizen(&wait), "service/portal condition met\n");
    kubectl.done(&["replace", "-f", "all.yaml"]);
    in_citizen(&["delete", "httproute", "portal"]);
    in_citizen(&["delete", "svc,bp", "--all"]);
    assert_eq!(in_citizen(&["get", "svc,bp,httproute", "-o", "name"]), "");
}

#[test]
fn tls_with_a_backend_is_said_and_shows_what_it_lacks() {
    let kubectl = Kubectl::with_resources();
    kubectl.write("tls.yaml", TLS);
    let created = kubectl.done(&["create", "-f", "tls.yaml"]);
    assert_eq!(created, "backendtlspolicy.gateway.networking.k8s.io/portal created\n");
    let wait = |reason: &str| {
        let reason = format!("--for=jsonpath={{.status.ancestors[0].conditions[0].reason}}={reason}");
        kubectl.done(&["wait", "btlspolicy/portal", "-n", "citizen", &reason, "--timeout=60s"]);
    };
    wait("NoValidCACertificate");
    let table = lines(&kubectl.done(&["get", "btlspolicy", "-n", "citizen"]));
    assert_eq!(table[0], "NAME TARGETS HOSTNAME ACCEPTED IN FORCE AGE");
    assert!(
        table[1].starts_with("portal portal:http portal.example NoValidCACertificate "),
        "{table:#?}"
    );
    let describe = kubectl.done(&["describe", "btlspolicy", "portal", "-n", "citizen"]);
    holds(
        &describe,
        &["there is no ConfigMap/citizen/portal-ca", "InvalidCACertificateRef"],
    );
    // As people make one of a file.
    kubectl.write("ca.crt", CA);
    let args = [
        "create",
        "configmap",
        "portal-ca",
        "-n",
        "citizen",
        "--from-file=ca.crt",
        "--dry-run=client",
        "-o",
        "yaml",
    ];
    kubectl.write("ca.yaml", &kubectl.done(&args));
    kubectl.done(&["apply", "-f", "ca.yaml"]);
    wait("Accepted");
    let table = lines(&kubectl.done(&["get", "cm", "-n", "citizen"]));
    assert_eq!(table[0], "NAME DATA AGE");
    assert!(table[1].starts_with("portal-ca 1 "), "{table:#?}");
    let patch = r#"{"immutable": true}"#;
    kubectl.done(&["patch", "cm", "portal-ca", "-n", "citizen", "-p", patch]);
    let patch = r#"{"data": {"ca.crt": null}}"#;
    let refused = kubectl.refused(&["patch", "cm", "portal-ca", "-n", "citizen", "-p", patch]);
    holds(&refused, &["can't be changed: the ConfigMap is immutable"]);
    holds(
        &kubectl.done(&["explain", "backendtlspolicy.spec.validation"]),
        &[
            "caCertificateRefs",
            "wellKnownCACertificates",
            "subjectAltNames",
            "hostname",
        ],
    );
    holds(&kubectl.done(&["explain", "configmap"]), &["binaryData", "immutable"]);
    kubectl.done(&["delete", "-f", "ca.yaml"]);
    wait("NoValidCACertificate");
    kubectl.done(&["delete", "-f", "tls.yaml"]);
}

const TLS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: portal, namespace: citizen}
spec:
  targetRefs: [{group: '', kind: Service, name: portal, sectionName: http}]
  validation:
    caCertificateRefs: [{group: '', kind: ConfigMap, name: portal-ca}]
    hostname: portal.example
";

/// Made for this test, by `openssl req -x509 -newkey ec -nodes -days 36500 -subj /CN=test`; nobody has its key.
const CA: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUTfko23A/KfcB8XvHLNkmPxI8Cp0wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjcwNDMyMzRaGA8yMTI2MTEwMzA0MzIz
NFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPjY
LT5UHXFIvNLdTwm6JMyd/WN0FxeW2tqfakdeNc5/DRjCWyJlopJ55bym4AsyIMJv
sZF6DgRiLD2HKg5w8SajUzBRMB0GA1UdDgQWBBSZH7GKfexsFOVxuUst3szaY3TJ
uzAfBgNVHSMEGDAWgBSZH7GKfexsFOVxuUst3szaY3TJuzAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIGOCkR6BAMLjxSjGXPVExIHnykRDERZUHRI8
rp7S0wk3AiEA2pkLgYnmikoOrZadS4zVZxU/HacJSZV2m9RM8xgwvMA=
-----END CERTIFICATE-----
";

#[test]
fn changes_are_followed() {
    let kubectl = Kubectl::with_resources();
    let mut watch = kubectl.command(&["get", "svc", "-n", "citizen", "--watch"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().expect("kubectl");
    let mut seen = BufReader::new(watch.stdout.take().expect("its output")).lines();
    let mut next = || lines(&seen.next().expect("a line").expect("text")).join("");
    assert_eq!(next(), "NAME PORTS SELECTOR AGE");
    assert!(next().starts_with("portal 80,81 app=portal "));
    kubectl.done(&[
        "patch",
        "svc",
        "portal",
        "-n",
        "citizen",
        "-p",
        r#"{"spec":{"selector":{"app":"new"}}}"#,
    ]);
    assert!(next().starts_with("portal 80,81 app=new "));
    kubectl.done(&["delete", "svc", "portal", "-n", "citizen"]);
    assert!(next().starts_with("portal 80,81 app=new "));
    watch.kill().expect("killed");
    watch.wait().expect("gone");
}

#[test]
fn a_namespace_is_deleted_with_all_that_it_holds() {
    let kubectl = Kubectl::with_resources();
    let deleted = kubectl.done(&["delete", "ns", "citizen", "--timeout=60s"]);
    assert_eq!(deleted, "namespace \"citizen\" deleted\n");
    assert_eq!(
        kubectl.done(&["get", "ns,svc,httproute,bp", "-A", "-o", "name"]),
        "namespace/default\n"
    );
    kubectl.done(&["apply", "-f", "all.yaml"]);
    // All that a file says goes in one command, too.
    kubectl.done(&["delete", "-f", "all.yaml", "--timeout=60s", "--ignore-not-found"]);
}

#[test]
fn what_kubectl_makes_itself_is_taken() {
    // In protobuf, all of it.
    let kubectl = Kubectl::new();
    assert_eq!(
        kubectl.done(&["create", "namespace", "citizen"]),
        "namespace/citizen created\n"
    );
    kubectl.done(&[
        "create",
        "service",
        "clusterip",
        "portal",
        "--tcp=80:8080",
        "-n",
        "citizen",
    ]);
    let headless = ["--clusterip=None", "--tcp=90", "-n", "citizen"];
    kubectl.done(&[&["create", "service", "clusterip", "direct"][..], &headless].concat());
    let port = "jsonpath={.spec.ports[0].name} {.spec.ports[0].port} {.spec.ports[0].targetPort} {.spec.selector.app}";
    assert_eq!(
        kubectl.done(&["get", "svc", "portal", "-n", "citizen", "-o", port]),
        "80-8080 80 8080 portal"
    );
    let literal = "--from-literal=ca.crt=a text";
    kubectl.done(&["create", "configmap", "roots", literal, "-n", "citizen"]);
    let held = [
        "get",
        "configmap",
        "roots",
        "-n",
        "citizen",
        "-o",
        "jsonpath={.data.ca\\.crt}",
    ];
    assert_eq!(kubectl.done(&held), "a text");
    let seen = kubectl.refused(&["create", "namespace", "citizen"]);
    holds(&seen, &["AlreadyExists"]);
    let dry = kubectl.done(&["create", "namespace", "other", "--dry-run=server", "-o", "name"]);
    assert_eq!(dry, "namespace/other\n");
    holds(&kubectl.refused(&["get", "ns", "other"]), &["NotFound"]);
}

#[test]
fn names_are_made_for_what_has_none() {
    let kubectl = Kubectl::with_resources();
    let unnamed = "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {generateName: trial-, namespace: citizen}, \
                   spec: {targetRefs: [{group: '', kind: Service, name: portal}]}}";
    kubectl.write("unnamed.yaml", unnamed);
    let first = kubectl.done(&["create", "-f", "unnamed.yaml", "-o", "name"]);
    let second = kubectl.done(&["create", "-f", "unnamed.yaml", "-o", "name"]);
    assert_ne!(first, second);
    for name in [&first, &second] {
        assert!(name.starts_with("backendpolicy.weir.dev/trial-"), "{name}");
        kubectl.done(&["delete", name.trim(), "-n", "citizen"]);
    }
    let replaced = kubectl.refused(&["apply", "-f", "unnamed.yaml"]);
    holds(&replaced, &["generate name"]);
}

#[test]
fn refusals_say_what_is_right() {
    let kubectl = Kubectl::with_resources();
    kubectl.write(
        "wrong.yaml",
        &RESOURCES.replace("connectTimeout: 300ms", "connectTimeout: 3000h\n  retry: 1"),
    );
    kubectl.write(
        "nowhere.yaml",
        &RESOURCES.replace("namespace: citizen", "namespace: nowhere"),
    );
    for (args, parts) in [
        (
            &["apply", "-f", "wrong.yaml"][..],
            &[
                "The BackendPolicy \"portal\" is invalid",
                "spec.retry: 1 stands in an unknown field",
                "spec.connectTimeout: \"3000h\"",
            ][..],
        ),
        (
            &["create", "-f", "nowhere.yaml"],
            &["the namespace nowhere does not exist; create it first"],
        ),
        (&["get", "pods"], &["the server doesn't have a resource type \"pods\""]),
        (
            &["get", "svc", "nothing"],
            &["Error from server (NotFound): Service/default/nothing does not exist"],
        ),
        (
            &["delete", "ns", "default"],
            &["Namespace/default always exists and can't be deleted"],
        ),
        (
            &["apply", "--server-side", "-f", "all.yaml"],
            &["server-side apply is not taken here"],
        ),
        (
            &["apply", "--validate=ignore", "-f", "all.yaml", "--force"],
            &["Strict is right"],
        ),
        // In protobuf.
        (&["create", "ns", "x_y"], &["metadata.name: \"x_y\" is no name"]),
        (
            &["create", "service", "nodeport", "x", "--tcp=80:8080"],
            &["spec.type: \"NodePort\" is not"],
        ),
        (
            &["patch", "bp", "portal", "-n", "citizen", "-p", "{}"],
            &["is not supported by weir.dev/v1, Kind=BackendPolicy"],
        ),
        (
            &[
                "patch",
                "ns",
                "citizen",
                "--subresource=status",
                "--type=merge",
                "-p",
                "{\"status\":{}}",
            ],
            &["a status is written by the control plane alone"],
        ),
        (
            &["get", "svc", "-A", "--field-selector=spec.type=ClusterIP"],
            &["metadata.name and metadata.namespace are"],
        ),
    ] {
        holds(&kubectl.refused(args), parts);
    }
}

#[test]
fn five_thousand_objects_are_applied_and_listed_in_pages() {
    let kubectl = Kubectl::new();
    let mut file = std::fs::File::create(kubectl.home.path().join("many.yaml")).expect("a file");
    for number in 0..MANY {
        let head = format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: s-{number}}}\n");
        writeln!(file, "{head}spec: {{ports: [{{port: 80}}]}}").expect("written");
    }
    drop(file);
    let created = kubectl.done(&["apply", "-f", "many.yaml"]);
    assert_eq!(created.lines().filter(|line| line.ends_with(" created")).count(), MANY);
    let mut list = kubectl.command(&["get", "svc", "-o", "name", "--chunk-size=500", "-v=6"]);
    let listed = kubectl.run(&mut list);
    assert_eq!(listed.out.lines().count(), MANY, "{}", listed.err);
    assert_eq!(listed.err.matches("limit=500").count(), MANY / 500, "{}", listed.err);
    kubectl.done(&["delete", "svc", "--all", "--wait=false"]);
    assert_eq!(kubectl.done(&["get", "svc", "-o", "name"]), "");
}

const MANY: usize = 5_000;
