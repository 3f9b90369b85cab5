//! How many instructions a request takes in a sidecar and in a bare relay, counted by callgrind: the same each time, on
//! a busy machine too, so that a change shows which timings hide.
//!
//! Each is started once under callgrind. A row opens its connections, sends requests until all is warm, and counts from
//! then on: everything that the process does, over the number of requests.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Parser;
use weir_bench::callgrind::Callgrind;
use weir_bench::load::{Ask, Load, Over, Target};
use weir_bench::mesh::{Mesh, Sidecar};
use weir_bench::process::{Place, Process, Processors, Ready, beside, free_ports, strings};

/// Counts the instructions of a request in weir-proxy and in a bare relay by callgrind, and prints both.
#[derive(Parser)]
#[command(name = "instructions", version)]
struct Args {
    /// Requests that each row counts, 16 to 1000000.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    requests: u32,
    /// Prints Markdown, as docs/performance.md has it.
    #[arg(long)]
    markdown: bool,
    /// Keeps callgrind's files in this folder, which is made; `callgrind_annotate FILE` shows where instructions go.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// A row of the table.
struct Case {
    name: &'static str,
    over: Over,
    ask: Ask,
    service: &'static str,
}

const HTTP2: Over = Over::Http2 {
    connections: 1,
    streams: 16,
};
const CASES: [Case; 3] = [
    Case {
        name: "HTTP/1.1, 4 connections, 100 B",
        over: Over::Http1 { connections: 4 },
        ask: Ask::Bytes(100),
        service: "http",
    },
    Case {
        name: "HTTP/2, a connection of 16 streams, 100 B",
        over: HTTP2,
        ask: Ask::Bytes(100),
        service: "h2",
    },
    Case {
        name: "gRPC unary, a connection of 16 streams, 100 B",
        over: HTTP2,
        ask: Ask::Grpc(100),
        service: "grpc",
    },
];

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            tokio::select! {
                counted = count(args) => counted,
                // Dropped, it ends what it started and removes its folder.
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        })
}

/// A program under callgrind, and where it takes requests.
struct Watched {
    process: Process,
    callgrind: Callgrind,
    address: SocketAddr,
}

impl Watched {
    /// Instructions of a request.
    async fn count(&self, case: &Case, requests: u32) -> anyhow::Result<u64> {
        let target = Target {
            address: self.address,
            authority: format!("{}.bench", case.service),
        };
        let mut load = Load::open(&target, case.over, case.ask).await?;
        load.send(WARM_MAX.min(requests.into())).await?;
        self.callgrind.counted(self.process.pid()).await?;
        let answered = load.send(requests.into()).await?;
        let (instructions, _) = self.callgrind.counted(self.process.pid()).await?;
        Ok(instructions / answered)
    }
}

async fn count(args: Args) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("weir-bench-").tempdir()?;
    let counts = args.keep.clone().unwrap_or_else(|| folder.path().join("counts"));
    fs::create_dir_all(&counts).with_context(|| format!("{}", counts.display()))?;
    let processors = Processors::find();
    let mut ports = free_ports::<12>()?.into_iter();
    let mut next = || ports.next().context("more ports are needed");
    let (at, api, xds, app, inbound) = (next()?, next()?, next()?, next()?, next()?);
    let ready = Ready::Line("ready");
    let origin_args = strings(&["--listen", &at.to_string()]);
    let (origin, _) = Process::start(&beside("origin")?, &origin_args, (&processors, Place::Others), ready).await?;

    eprintln!("starting all under callgrind, which takes its time");
    let resources = RESOURCES.replace("ORIGIN-PORT", &at.port().to_string());
    let mesh = Mesh::start(folder.path(), &resources, (api, xds), &processors).await?;
    let callgrind = Callgrind::new(&counts, "weir-proxy");
    let sidecar = Sidecar {
        workload: "caller",
        app: format!("{}=http@{}", app.port(), inbound.port()),
        outbound: next()?,
        admin: next()?,
        metrics: next()?,
        health: next()?,
        access_log: "stdout",
        callgrind: Some(&callgrind),
        workers: 1,
        place: Place::First,
    };
    let address = sidecar.outbound;
    let weir = Watched {
        process: mesh.sidecar(sidecar, &processors).await?,
        callgrind,
        address,
    };
    let http1 = relay(&counts, "http1", at, next()?, &processors).await?;
    let http2 = relay(&counts, "http2", at, next()?, &processors).await?;

    let mut rows = Vec::new();
    for case in &CASES {
        eprintln!("{}", case.name);
        let relay = match case.over {
            Over::Http1 { .. } => &http1,
            Over::Http2 { .. } => &http2,
        };
        let relay = relay.count(case, args.requests).await.context(case.name)?;
        let weir = weir.count(case, args.requests).await.context(case.name)?;
        rows.push((case.name, relay, weir));
    }
    print(&args, &rows);
    for process in [weir.process, http1.process, http2.process, mesh.control, origin] {
        process.stop().await;
    }
    Ok(())
}

async fn relay(
    counts: &Path,
    protocol: &str,
    to: SocketAddr,
    address: SocketAddr,
    processors: &Processors,
) -> anyhow::Result<Watched> {
    let callgrind = Callgrind::new(counts, &format!("relay-{protocol}"));
    let mut args = strings(&["--listen", &address.to_string(), "--to", &to.to_string()]);
    args.extend(strings(&["--protocol", protocol]));
    let place = (processors, Place::First);
    let (process, _) = Process::start_under(&callgrind, &beside("relay")?, &args, place, Ready::Line("ready")).await?;
    Ok(Watched {
        process,
        callgrind,
        address,
    })
}

fn print(args: &Args, rows: &[(&str, u64, u64)]) {
    let columns = ["instructions of a request", "bare relay", "Weir", "Weir / relay"];
    let width = CASES.iter().map(|case| case.name.len()).max().unwrap_or(0);
    if args.markdown {
        println!("| {} |\n| --- | --: | --: | --: |", columns.join(" | "));
    } else {
        println!(
            "{:<width$}  {:>10}  {:>10}  {:>12}",
            columns[0], columns[1], columns[2], columns[3]
        );
    }
    for (name, relay, weir) in rows {
        let ratio = *weir as f64 / *relay as f64;
        if args.markdown {
            println!("| {name} | {relay} | {weir} | {ratio:.2} |");
        } else {
            println!("{name:<width$}  {relay:>10}  {weir:>10}  {ratio:>12.2}");
        }
    }
}

const RESOURCES: &str = include_str!("../resources.yaml");

/// Requests before those that are counted, at most: on each connection many, so that what is made once is made.
const WARM_MAX: u64 = 400;
