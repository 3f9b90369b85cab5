//! A large mesh costs a proxy what it uses of it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use weir_test_mesh::{Client, Processes, Protocol, Script, ScriptedApp, call, until};

/// How long a debug build may take to have a folder of five thousand services in force.
const LOAD_BOUND: Duration = Duration::from_secs(60);

/// What a proxy's memory may differ by, in bytes: a page table here, an allocator's slab there.
const MEMORY_BOUND: u64 = 1 << 20;

/// Services `s-0`, `s-1` and so on, all with this one endpoint.
fn write_services(folder: &Path, count: usize, endpoint: SocketAddr) {
    let (ip, port) = (endpoint.ip(), endpoint.port());
    // Files of five hundred, as people have them.
    for (number, first) in (0..count).step_by(500).enumerate() {
        let mut text = String::new();
        for service in first..count.min(first + 500) {
            let written = writeln!(
                text,
                "---
apiVersion: v1
kind: Service
metadata: {{name: s-{service}, namespace: default}}
spec: {{ports: [{{name: web, port: 80, appProtocol: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s-{service}, namespace: default, labels: {{kubernetes.io/service-name: s-{service}}}}}
addressType: IPv4
endpoints: [{{addresses: ['{ip}'], conditions: {{ready: true}}}}]
ports: [{{name: web, port: {port}, protocol: TCP}}]"
            );
            written.expect("memory");
        }
        std::fs::write(folder.join(format!("{number}.yaml")), text).expect("a file");
    }
}

/// What a proxy in a mesh of so many services takes when its app uses three of them.
struct Measured {
    memory_bytes: u64,
    /// What it subscribes to.
    resources: Vec<String>,
}

async fn measure(services: usize) -> Measured {
    const USED: [usize; 3] = [1, 4, 7];
    let processes = Processes::of_this_build();
    let app = ScriptedApp::start(Script::answer(200, "here")).await;
    let folder = tempfile::tempdir().expect("a folder");
    write_services(folder.path(), services, app.address());
    let began = Instant::now();
    let folder = folder.path().to_str().expect("UTF-8");
    let control = processes.control_within(LOAD_BOUND, &["--resources", folder]).await;
    println!("{services} services are in force after {:?}", began.elapsed());
    let list = "/api/v1/namespaces/default/services";
    let listed = control.api.request(Method::GET, list, None).await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(services));

    let control_plane = format!("http://{}", control.xds);
    let args = ["--control-plane", control_plane.as_str(), "--labels", "app=a"];
    let proxy = processes.proxy("a", app.address(), &args).await;
    for service in USED {
        let mut client = Client::connect(proxy.outbound, Protocol::Http1)
            .await
            .expect("a connection");
        for _ in 0..100 {
            let answer = client
                .send(request(&format!("s-{service}"), "/"))
                .await
                .expect("an answer");
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        }
    }
    let config = call(proxy.admin, Protocol::Http1, request("localhost", "/config"))
        .await
        .expect("the dump")
        .json();
    let resources = config["mesh"]["resources"].as_array().expect("resources");
    let name = |resource: &Value| format!("{} {}", resource["kind"], resource["name"]).replace('"', "");
    let resources: Vec<String> = resources.iter().map(name).collect();
    until("the control plane to see the same", || async {
        let view = control
            .api
            .request(Method::GET, "/apis/weir.dev/v1/proxies", None)
            .await
            .json();
        let proxy = &view["items"][0];
        (proxy["subscribed"] == resources.len() && proxy["inForce"] == resources.len()).then_some(())
    })
    .await;
    Measured {
        memory_bytes: proxy.running.memory_bytes(),
        resources,
    }
}

fn request(host: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", host);
    request.body(Full::default()).expect("a request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_takes_what_it_uses_not_what_there_is() {
    let small = measure(10).await;
    let large = measure(5_000).await;
    let mut expect = Vec::new();
    for kind in ["cluster", "endpoints"] {
        expect.extend([1, 4, 7].map(|service| format!("{kind} s-{service}.default:80")));
    }
    expect.extend([1, 4, 7].map(|service| format!("listener s-{service}.default.svc.cluster.local")));
    expect.extend([1, 4, 7].map(|service| format!("route s-{service}.default:80/*")));
    expect.push("policy default/a".to_owned());
    assert_eq!(small.resources, expect);
    assert_eq!(large.resources, expect);
    let (few, many) = (small.memory_bytes, large.memory_bytes);
    println!(
        "resident: {} KiB of 10 services, {} KiB of 5,000",
        few >> 10,
        many >> 10
    );
    assert!(many <= few + (few / 10).max(MEMORY_BOUND), "{few} bytes became {many}");
}
