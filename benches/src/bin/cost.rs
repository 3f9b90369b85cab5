//! What a request costs: processor time of the sidecar per request, beside a bare hyper relay, in turns.
//!
//! The client and the origin stand on other processors than what is measured, where there are several. Each turn opens
//! new connections, sends a request on each, and measures from then on: closed loops for `--seconds`. The processor
//! time is the kernel's own account of every thread of the process (schedstat), so waiting costs nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use weir_bench::load::{Ask, Load, Over, Target};
use weir_bench::process::{Place, Process, Processors, Ready, beside, free_ports};
use weir_bench::stats::Estimate;

/// Measures what a request costs in weir-proxy and in a bare relay, in turns, and prints both with their ratio.
#[derive(Parser)]
#[command(name = "cost", version)]
struct Args {
    /// How often both sides take their turn, 1 to 1000; a ratio's interval needs at least ten to mean much.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a turn takes, 0.1 to 60.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Prints Markdown, as docs/performance.md has it.
    #[arg(long)]
    markdown: bool,
    /// What the sidecars do with their access log: the product's default is stdout, which nobody reads here.
    #[arg(long, default_value = "stdout")]
    access_log: String,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    let right = (0.1..=60.0).contains(&seconds);
    if right {
        Ok(seconds)
    } else {
        Err("0.1 to 60 is right".to_owned())
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let processors = Processors::find();
    processors.stand_aside()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            tokio::select! {
                compared = compare(args, processors) => compared,
                // Dropped, the comparison ends what it started and removes its folder.
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        })
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    over: Over,
    ask: Ask,
    /// The service called, which has the protocol and the place of its endpoint.
    service: &'static str,
    hops: Hops,
}

/// How many sidecars or relays a request passes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hops {
    One,
    Two,
}

const HTTP1: Over = Over::Http1 { connections: 64 };
const HTTP2: Over = Over::Http2 {
    connections: 16,
    streams: 16,
};
const CASES: [Case; 5] = [
    Case {
        name: "HTTP/1.1, 64 connections, 100 B",
        over: HTTP1,
        ask: Ask::Bytes(100),
        service: "http",
        hops: Hops::One,
    },
    Case {
        name: "HTTP/1.1, 64 connections, 16 KiB",
        over: HTTP1,
        ask: Ask::Bytes(16 << 10),
        service: "http",
        hops: Hops::One,
    },
    Case {
        name: "HTTP/2, 16 connections of 16 streams, 100 B",
        over: HTTP2,
        ask: Ask::Bytes(100),
        service: "h2",
        hops: Hops::One,
    },
    Case {
        name: "gRPC unary, 16 connections of 16 streams, 100 B",
        over: HTTP2,
        ask: Ask::Grpc(100),
        service: "grpc",
        hops: Hops::One,
    },
    Case {
        name: "HTTP/1.1, 64 connections, 100 B, chain of two",
        over: HTTP1,
        ask: Ask::Bytes(100),
        service: "chain",
        hops: Hops::Two,
    },
];

/// All that runs.
struct Stage {
    origin: Process,
    /// Alone for HTTP/1.1, and the second of the chain.
    relay_http1: Process,
    relay_http2: Process,
    relay_first: Process,
    control: Process,
    /// The sidecar of the caller: alone, and the first of the chain.
    caller: Process,
    /// The sidecar before the origin.
    callee: Process,
    addresses: Addresses,
}

#[derive(Clone, Copy)]
struct Addresses {
    relay_http1: SocketAddr,
    relay_http2: SocketAddr,
    relay_first: SocketAddr,
    outbound: SocketAddr,
}

/// The two sides of a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Relay,
    Weir,
}

impl Stage {
    async fn start(folder: &Path, args: &Args, processors: &Processors) -> anyhow::Result<Stage> {
        let (origin, relay, control, proxy) = (
            beside("origin")?,
            beside("relay")?,
            beside("weir-control")?,
            beside("weir-proxy")?,
        );
        // All at once, so that they differ.
        let ports = free_ports::<17>()?;
        let [
            at,
            relay_http1_at,
            relay_http2_at,
            relay_first_at,
            outbound,
            api,
            xds,
            inbound,
            ..,
        ] = ports;
        let [.., callee_outbound, caller_app, caller_inbound, a, b, c, d, e, f] = ports;
        let addresses = Addresses {
            relay_http1: relay_http1_at,
            relay_http2: relay_http2_at,
            relay_first: relay_first_at,
            outbound,
        };
        let ready = Ready::Line("ready");
        let (origin, _) = Process::start(
            &origin,
            &strings(&["--listen", &at.to_string()]),
            (processors, Place::Others),
            ready,
        )
        .await?;
        let relays = |listen: SocketAddr, to: SocketAddr, protocol: &str| {
            strings(&[
                "--listen",
                &listen.to_string(),
                "--to",
                &to.to_string(),
                "--protocol",
                protocol,
            ])
        };
        let start = async |args: Vec<String>| Process::start(&relay, &args, (processors, Place::First), ready).await;
        let (relay_http1, _) = start(relays(relay_http1_at, at, "http1")).await?;
        let (relay_http2, _) = start(relays(relay_http2_at, at, "http2")).await?;
        let (relay_first, _) = start(relays(relay_first_at, relay_http1_at, "http1")).await?;

        let resources = folder.join("resources");
        std::fs::create_dir(&resources)?;
        std::fs::write(
            resources.join("bench.yaml"),
            RESOURCES.replace("ORIGIN-PORT", &at.port().to_string()),
        )?;
        let (resources, api, xds) = (resources.display().to_string(), api.to_string(), xds.to_string());
        let mut control_args = strings(&["--resources", &resources, "--api", &api, "--xds", &xds]);
        control_args.extend(strings(&["--log", "warn"]));
        let (control, _) = Process::start(
            &control,
            &control_args,
            (processors, Place::Others),
            Ready::Line("weir-control ready:"),
        )
        .await?;

        let xds = format!("http://{xds}");
        let sidecar = async |workload: &str, app: String, outbound: SocketAddr, side_ports: [SocketAddr; 3]| {
            let [admin, metrics, health] = side_ports.map(|address| address.to_string());
            let label = format!("app={workload}");
            let mut sidecar = strings(&["--control-plane", &xds, "--workload", workload, "--namespace", "bench"]);
            sidecar.extend(strings(&[
                "--labels",
                &label,
                "--app",
                &app,
                "--outbound",
                &outbound.to_string(),
            ]));
            sidecar.extend(strings(&[
                "--admin",
                &admin,
                "--metrics",
                &metrics,
                "--health",
                &health,
            ]));
            sidecar.extend(strings(&[
                "--access-log",
                &args.access_log,
                "--inbound-address",
                "127.0.0.1",
            ]));
            sidecar.extend(strings(&["--log-level", "warn"]));
            let (process, _) =
                Process::start(&proxy, &sidecar, (processors, Place::First), Ready::Accepts(outbound)).await?;
            anyhow::Ok(process)
        };
        let callee_app = format!("{}=http@{}", at.port(), inbound.port());
        let callee = sidecar("callee", callee_app, callee_outbound, [a, b, c]).await?;
        let caller_app = format!("{}=http@{}", caller_app.port(), caller_inbound.port());
        let caller = sidecar("caller", caller_app, outbound, [d, e, f]).await?;
        Ok(Stage {
            origin,
            relay_http1,
            relay_http2,
            relay_first,
            control,
            caller,
            callee,
            addresses,
        })
    }

    async fn stop(self) {
        let Stage {
            origin,
            relay_http1,
            relay_http2,
            relay_first,
            control,
            caller,
            callee,
            addresses: _,
        } = self;
        for process in [caller, callee, control, relay_first, relay_http1, relay_http2, origin] {
            process.stop().await;
        }
    }

    /// Where a case's requests go in, and which processes they pass.
    fn route(&self, case: Case, side: Side) -> (SocketAddr, Vec<&Process>) {
        match (side, case.hops, case.over) {
            (Side::Weir, Hops::One, _) => (self.addresses.outbound, vec![&self.caller]),
            (Side::Weir, Hops::Two, _) => (self.addresses.outbound, vec![&self.caller, &self.callee]),
            (Side::Relay, Hops::One, Over::Http1 { .. }) => (self.addresses.relay_http1, vec![&self.relay_http1]),
            (Side::Relay, _, Over::Http2 { .. }) => (self.addresses.relay_http2, vec![&self.relay_http2]),
            (Side::Relay, Hops::Two, Over::Http1 { .. }) => {
                (self.addresses.relay_first, vec![&self.relay_first, &self.relay_http1])
            }
        }
    }

    /// One turn; gives the processor time of a request in microseconds.
    async fn turn(&self, case: Case, side: Side, seconds: f64) -> anyhow::Result<f64> {
        let (address, passed) = self.route(case, side);
        let target = Target {
            address,
            authority: format!("{}.bench", case.service),
        };
        let mut load = Load::open(&target, case.over, case.ask).await?;
        let before = cpu(&passed)?;
        let requests = load.run(Duration::from_secs_f64(seconds)).await?;
        let used = cpu(&passed)?.saturating_sub(before);
        Ok(used.as_secs_f64() * 1e6 / requests as f64)
    }

    /// Waits until the control plane knows the chain's endpoint, so that no turn meets a mesh that is not there yet.
    async fn warm(&self) -> anyhow::Result<()> {
        let target = Target {
            address: self.addresses.outbound,
            authority: "chain.bench".to_owned(),
        };
        let deadline = tokio::time::Instant::now() + WARM_TIMEOUT;
        loop {
            match Load::open(&target, Over::Http1 { connections: 1 }, Ask::Bytes(100)).await {
                Ok(_) => return Ok(()),
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// What a case has shown so far.
struct Row {
    case: Case,
    relay_micros: Vec<f64>,
    weir_micros: Vec<f64>,
}

async fn compare(args: Args, processors: Processors) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("weir-bench-").tempdir()?;
    let stage = Stage::start(folder.path(), &args, &processors).await?;
    // Before the first request, once all have found each other: what a sidecar costs that nobody uses.
    tokio::time::sleep(SETTLE).await;
    let (weir_kib, relay_kib) = (stage.caller.resident_kib()?, stage.relay_http1.resident_kib()?);
    stage.warm().await.context("the chain's first request")?;
    let mut rows: Vec<Row> = CASES
        .into_iter()
        .map(|case| Row {
            case,
            relay_micros: Vec::new(),
            weir_micros: Vec::new(),
        })
        .collect();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        for row in &mut rows {
            // Who begins changes, so that a drift within a round falls on both alike.
            let sides = if round % 2 == 0 {
                [Side::Relay, Side::Weir]
            } else {
                [Side::Weir, Side::Relay]
            };
            for side in sides {
                let micros = stage.turn(row.case, side, args.seconds).await.context(row.case.name)?;
                match side {
                    Side::Relay => row.relay_micros.push(micros),
                    Side::Weir => row.weir_micros.push(micros),
                }
            }
        }
    }
    print(&args, &processors, &rows, weir_kib, relay_kib)?;
    stage.stop().await;
    Ok(())
}

fn print(args: &Args, processors: &Processors, rows: &[Row], weir_kib: u64, relay_kib: u64) -> anyhow::Result<()> {
    let conditions = format!(
        "{}; {} rounds of {} s; access log: {}; {}.",
        machine(),
        args.rounds,
        args.seconds,
        args.access_log,
        if processors.are_parted() {
            "what is measured has a processor for itself"
        } else {
            "all share the processors"
        },
    );
    println!("{conditions}\n");
    let columns = [
        "processor time of a request",
        "bare relay",
        "Weir",
        "Weir / relay",
        "95 % interval",
    ];
    let width = CASES.iter().map(|case| case.name.len()).max().unwrap_or(0);
    if args.markdown {
        println!("| {} |\n| --- | --: | --: | --: | --- |", columns.join(" | "));
    } else {
        println!(
            "{:<width$}  {:>10}  {:>10}  {:>12}  {}",
            columns[0], columns[1], columns[2], columns[3], columns[4]
        );
    }
    for row in rows {
        let ratios: Vec<f64> = row
            .weir_micros
            .iter()
            .zip(&row.relay_micros)
            .map(|(weir, relay)| weir / relay)
            .collect();
        let relay = Estimate::of(&row.relay_micros).context("no turn")?.mean;
        let weir = Estimate::of(&row.weir_micros).context("no turn")?.mean;
        let ratio = Estimate::of_ratios(&ratios).context("a turn that cost nothing")?;
        let interval = if args.rounds > 1 {
            format!("{:.2} to {:.2}", ratio.low, ratio.high)
        } else {
            "-".to_owned()
        };
        let name = row.case.name;
        let (relay, weir, ratio) = (
            format!("{relay:.1} µs"),
            format!("{weir:.1} µs"),
            format!("{:.2}", ratio.mean),
        );
        if args.markdown {
            println!("| {name} | {relay} | {weir} | {ratio} | {interval} |");
        } else {
            println!("{name:<width$}  {relay:>10}  {weir:>10}  {ratio:>12}  {interval}");
        }
    }
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!(
        "\nResident memory at start, idle: weir-proxy {:.1} MiB, bare relay {:.1} MiB.",
        mib(weir_kib),
        mib(relay_kib)
    );
    Ok(())
}

fn cpu(processes: &[&Process]) -> anyhow::Result<Duration> {
    ensure!(!processes.is_empty(), "nothing is measured");
    processes.iter().map(|process| process.cpu()).sum()
}

/// The processor and how many there are, for the conditions of a table.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unknown processor", |(_, model)| model.trim());
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{model}, {count} processors")
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string()).collect()
}

const RESOURCES: &str = include_str!("../resources.yaml");
const WARM_TIMEOUT: Duration = Duration::from_secs(20);
const SETTLE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resources_are_valid() {
        let text = RESOURCES.replace("ORIGIN-PORT", "8080");
        let read = weir_api::yaml::read_objects(&text, "resources.yaml", None).expect("they are valid");
        assert_eq!(read.len(), 8);
        for case in CASES {
            assert!(text.contains(&format!("kind: Service\nmetadata: {{name: {},", case.service)));
        }
    }
}
