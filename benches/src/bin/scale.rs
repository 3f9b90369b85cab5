//! What a proxy costs the control plane: to connect, to stay, and to be told of a change, with thousands of them.
//!
//! weir-control runs as a process, on a processor of its own where there are several, with its store on disk. Proxies
//! are simulated (see `benches/src/fleet.rs`). A change is a write of a BackendPolicy over the API: of a service that
//! few use, and of one that all use. Its time runs from before the write to the last ACK; processor time is the
//! kernel's account of every thread of weir-control, and has the write, the store, the status and the answers in it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weir_bench::fleet::{Fleet, NAMESPACE, told_at_first};
use weir_bench::process::{Place, Process, Processors, Ready, beside};

/// Measures what proxies cost weir-control, and that a change reaches those alone that use what changed.
#[derive(Parser)]
#[command(name = "scale", version)]
struct Args {
    /// How many proxies, 1 to 9000.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=9_000))]
    proxies: u32,
    /// How many services, 2 to 20000.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    services: u32,
    /// How many of them each proxy uses, 1 to 100: one that all use, and others.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    uses: u32,
    /// How many changes of each sort, 1 to 10000.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.uses <= args.services, "--uses is more than --services");
    let processors = Processors::find();
    processors.stand_aside()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            tokio::select! {
                measured = measure(&args, &processors) => measured,
                // Dropped, the measurement ends what it started and removes its folder.
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        })
}

async fn measure(args: &Args, processors: &Processors) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (proxies, services) = (args.proxies as usize, args.services as usize);
    let resources = folder.path().join("resources");
    write_resources(&resources, services)?;
    let (control, said) = start(folder.path(), &resources, processors).await?;
    let [api, xds] = ["api http://", "xds "].map(|before| word_after(&said, before));
    let (api, xds) = (
        api.context("no API in the ready line")?,
        xds.context("no xDS in the ready line")?,
    );

    let uses: Vec<Vec<String>> = (0..proxies).map(|proxy| used(proxy, args)).collect();
    let users = |service: &str| {
        uses.iter()
            .filter(|used| used.iter().any(|name| name == service))
            .count()
    };
    let narrow = name(1);
    let (of_narrow, of_wide) = (users(&narrow), users(&name(0)));
    let at_first: usize = uses.iter().map(|used| told_at_first(used.len())).sum();

    let (memory, cpu, began) = (control.resident_kib()?, control.cpu()?, Instant::now());
    let mut fleet = Fleet::open(&xds, &uses).await?;
    let (took, cpu) = (began.elapsed(), control.cpu()? - cpu);
    let grown = control.resident_kib()?.saturating_sub(memory);
    let each = |total: f64| total / proxies as f64;
    println!(
        "{proxies} proxies, {services} services, {} used by each; weir-control {}",
        args.uses,
        if processors.are_parted() {
            "on a processor of its own"
        } else {
            "beside the proxies"
        },
    );
    println!(
        "connected, {at_first} resources in force: {:.2} s; processor time {:.2} ms, memory {:.1} KiB for each proxy",
        took.as_secs_f64(),
        each(cpu.as_secs_f64() * 1e3),
        each(grown as f64),
    );

    for (title, service, users) in [
        ("one that few use", narrow, of_narrow),
        ("one that all use", name(0), of_wide),
    ] {
        // Anew: one that waits for long is closed by the other side.
        let mut api = Api::connect(&api).await?;
        let mut last = Vec::new();
        api.write(Method::POST, &policies(), &policy(&service, 1)).await?;
        fleet.told(users).await?;
        let cpu = control.cpu()?;
        for change in 0..args.changes {
            ensure!(fleet.is_quiet(), "somebody was told of what does not concern it");
            let began = Instant::now();
            let path = format!("{}/{service}", policies());
            api.write(Method::PATCH, &path, &change_of(change + 2)).await?;
            let told = fleet.told(users).await?;
            let of_all = told.last().context("nobody uses it")?;
            last.push(of_all.at.saturating_duration_since(began));
        }
        let cpu = (control.cpu()? - cpu).as_secs_f64() * 1e6 / f64::from(args.changes);
        last.sort();
        println!(
            "a change of {title} ({users} proxies): to the last ACK p50 {:.2} ms, p99 {:.2} ms; processor time {cpu:.0} µs, \
             {:.1} µs for each proxy",
            quantile(&last, 0.50).as_secs_f64() * 1e3,
            quantile(&last, 0.99).as_secs_f64() * 1e3,
            cpu / users as f64,
        );
    }
    ensure!(fleet.is_quiet(), "somebody was told of what does not concern it");
    drop(fleet);
    control.stop().await;
    Ok(())
}

/// The service that all use, and others in turn.
fn used(proxy: usize, args: &Args) -> Vec<String> {
    let others = args.services as usize - 1;
    let own = args.uses as usize - 1;
    let others = (0..own).map(|n| 1 + (proxy * own + n) % others);
    std::iter::once(0).chain(others).map(name).collect()
}

fn name(service: usize) -> String {
    format!("s-{service}")
}

/// The least of the sorted times that is not below this share of them.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

fn write_resources(folder: &Path, services: usize) -> anyhow::Result<()> {
    std::fs::create_dir(folder)?;
    let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    for service in (0..services).map(name) {
        writeln!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: {NAMESPACE}}}
spec: {{ports: [{{name: web, port: 80, appProtocol: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
ports: [{{name: web, port: 8080, protocol: TCP}}]"
        )?;
    }
    // Files of a size that people have.
    let documents: Vec<&str> = text.split("---\n").collect();
    for (number, documents) in documents.chunks(500).enumerate() {
        std::fs::write(folder.join(format!("{number}.yaml")), documents.join("---\n"))?;
    }
    Ok(())
}

async fn start(folder: &Path, resources: &Path, processors: &Processors) -> anyhow::Result<(Process, String)> {
    let (resources, data) = (
        resources.display().to_string(),
        folder.join("data").display().to_string(),
    );
    let args = [
        "--resources",
        &resources,
        "--data-dir",
        &data,
        "--api",
        "127.0.0.1:0",
        "--xds",
        "127.0.0.1:0",
    ];
    let args: Vec<String> = args.into_iter().chain(["--log", "warn"]).map(str::to_owned).collect();
    let ready = Ready::Line("weir-control ready:");
    Process::start(&beside("weir-control")?, &args, (processors, Place::First), ready).await
}

fn word_after(line: &str, before: &str) -> Option<String> {
    let (_, rest) = line.split_once(before)?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn policies() -> String {
    format!("/apis/weir.dev/v1/namespaces/{NAMESPACE}/backendpolicies")
}

fn policy(service: &str, max_requests: u32) -> String {
    format!(
        r#"{{"apiVersion":"weir.dev/v1","kind":"BackendPolicy","metadata":{{"name":"{service}"}},"spec":{{"targetRefs":[{{"group":"","kind":"Service","name":"{service}"}}],"circuitBreaker":{{"maxRequests":{max_requests}}}}}}}"#
    )
}

fn change_of(max_requests: u32) -> String {
    format!(r#"{{"spec":{{"circuitBreaker":{{"maxRequests":{max_requests}}}}}}}"#)
}

/// One connection to the API.
struct Api {
    address: String,
    sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Api {
    async fn connect(address: &str) -> anyhow::Result<Api> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("{address} is not reached"))?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // Its errors come out at the request.
            let _ = driver.await;
        });
        Ok(Api {
            address: address.to_owned(),
            sender,
            driver,
        })
    }

    async fn write(&mut self, method: Method, path: &str, body: &str) -> anyhow::Result<()> {
        let media = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, media)
            .body(Full::from(body.to_owned()))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        let done = status == StatusCode::OK || status == StatusCode::CREATED;
        ensure!(done, "{path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
