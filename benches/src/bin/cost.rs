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
use weir_bench::certificates;
use weir_bench::load::{Ask, Load, Over, Target};
use weir_bench::mesh::{Mesh, Sidecar};
use weir_bench::process::{Place, Process, Processors, Ready, beside, free_ports, machine, strings};
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
const CASES: [Case; 6] = [
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
        name: "HTTP/1.1, 64 connections, 100 B, mTLS chain of two",
        over: HTTP1,
        ask: Ask::Bytes(100),
        service: "chain",
        hops: Hops::Two,
    },
    Case {
        name: "gRPC unary, 16 connections of 16 streams, 100 B, mTLS chain of two",
        over: HTTP2,
        ask: Ask::Grpc(100),
        service: "chain-grpc",
        hops: Hops::Two,
    },
];

/// All that runs.
struct Stage {
    origin: Process,
    control: Process,
    relays: Relays,
    /// The sidecar of the caller: alone, and the first of each chain.
    caller: Process,
    /// The sidecar before the origin, by what that speaks.
    callees: ByProtocol<Process>,
    outbound: SocketAddr,
}

/// One for HTTP/1.1 and one for HTTP/2.
struct ByProtocol<T> {
    http1: T,
    http2: T,
}

/// The relays beside the sidecars.
struct Relays {
    alone: ByProtocol<Relay>,
    /// Of each chain; by mutual TLS with the second.
    first: ByProtocol<Relay>,
    second: ByProtocol<Relay>,
}

/// A relay, and where it listens.
struct Relay {
    process: Process,
    address: SocketAddr,
}

impl<T> ByProtocol<T> {
    fn of(&self, over: Over) -> &T {
        match over {
            Over::Http1 { .. } => &self.http1,
            Over::Http2 { .. } => &self.http2,
        }
    }
}

/// The two sides of a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Relay,
    Weir,
}

impl Stage {
    async fn start(folder: &Path, args: &Args, processors: &Processors) -> anyhow::Result<Stage> {
        // All at once, so that they differ.
        let mut ports = free_ports::<25>()?.into_iter();
        let mut next = || ports.next().context("more ports are needed");
        let (at, api, xds, outbound) = (next()?, next()?, next()?, next()?);
        let (callee, callee_outbound, callee_grpc, callee_grpc_outbound) = (next()?, next()?, next()?, next()?);
        let (caller_app, caller_inbound) = (next()?, next()?);
        let ready = Ready::Line("ready");
        let origin = beside("origin")?;
        let origin_args = strings(&["--listen", &at.to_string()]);
        let (origin, _) = Process::start(&origin, &origin_args, (processors, Place::Others), ready).await?;
        let relays = Relays::start(folder, at, &mut next, processors).await?;

        let resources = RESOURCES.replace("ORIGIN-PORT", &at.port().to_string());
        let mesh = Mesh::start(folder, &resources, (api, xds), processors).await?;
        let mut sidecar = async |workload: &str, app: String, outbound: SocketAddr| {
            let sidecar = Sidecar {
                workload,
                app,
                outbound,
                admin: next()?,
                metrics: next()?,
                health: next()?,
                access_log: &args.access_log,
                callgrind: None,
            };
            mesh.sidecar(sidecar, processors).await
        };
        let app = |protocol: &str, inbound: SocketAddr| format!("{}={protocol}@{}", at.port(), inbound.port());
        let callees = ByProtocol {
            http1: sidecar("callee", app("http", callee), callee_outbound).await?,
            http2: sidecar("callee-grpc", app("grpc", callee_grpc), callee_grpc_outbound).await?,
        };
        let caller_app = format!("{}=http@{}", caller_app.port(), caller_inbound.port());
        let caller = sidecar("caller", caller_app, outbound).await?;
        Ok(Stage {
            origin,
            control: mesh.control,
            relays,
            caller,
            callees,
            outbound,
        })
    }

    async fn stop(self) {
        let Stage {
            origin,
            control,
            relays,
            caller,
            callees,
            outbound: _,
        } = self;
        let Relays { alone, first, second } = relays;
        let relays = [alone, first, second]
            .into_iter()
            .flat_map(|pair| [pair.http1, pair.http2]);
        for process in [caller, callees.http1, callees.http2, control]
            .into_iter()
            .chain(relays.map(|relay| relay.process))
            .chain([origin])
        {
            process.stop().await;
        }
    }

    /// Where a case's requests go in, and which processes they pass.
    fn route(&self, case: Case, side: Side) -> (SocketAddr, Vec<&Process>) {
        let Relays { alone, first, second } = &self.relays;
        match (side, case.hops) {
            (Side::Weir, Hops::One) => (self.outbound, vec![&self.caller]),
            (Side::Weir, Hops::Two) => (self.outbound, vec![&self.caller, self.callees.of(case.over)]),
            (Side::Relay, Hops::One) => {
                let relay = alone.of(case.over);
                (relay.address, vec![&relay.process])
            }
            (Side::Relay, Hops::Two) => {
                let (first, second) = (first.of(case.over), second.of(case.over));
                (first.address, vec![&first.process, &second.process])
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

    /// Waits until the control plane knows the chains' endpoints, so that no turn meets a mesh that is not there yet.
    async fn warm(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + WARM_TIMEOUT;
        for case in CASES.into_iter().filter(|case| case.hops == Hops::Two) {
            let target = Target {
                address: self.outbound,
                authority: format!("{}.bench", case.service),
            };
            let one = match case.over {
                Over::Http1 { .. } => Over::Http1 { connections: 1 },
                Over::Http2 { .. } => Over::Http2 {
                    connections: 1,
                    streams: 1,
                },
            };
            loop {
                match Load::open(&target, one, case.ask).await {
                    Ok(_) => break,
                    Err(error) if tokio::time::Instant::now() > deadline => return Err(error).context(case.name),
                    Err(_) => tokio::time::sleep(POLL).await,
                }
            }
        }
        Ok(())
    }
}

impl Relays {
    async fn start(
        folder: &Path,
        origin: SocketAddr,
        next: &mut impl FnMut() -> anyhow::Result<SocketAddr>,
        processors: &Processors,
    ) -> anyhow::Result<Relays> {
        let identity = folder.join("relays");
        certificates::make(&identity)?;
        let (program, identity) = (beside("relay")?, identity.display().to_string());
        let start = async |listen: SocketAddr, to: SocketAddr, protocol: &str, tls: Option<&str>| {
            let mut args = strings(&["--listen", &listen.to_string(), "--to", &to.to_string()]);
            args.extend(strings(&["--protocol", protocol]));
            if let Some(side) = tls {
                args.extend(strings(&["--tls", side, "--identity", &identity]));
            }
            let (process, _) =
                Process::start(&program, &args, (processors, Place::First), Ready::Line("ready")).await?;
            anyhow::Ok(Relay {
                process,
                address: listen,
            })
        };
        let (a, b, c, d, e, f) = (next()?, next()?, next()?, next()?, next()?, next()?);
        Ok(Relays {
            alone: ByProtocol {
                http1: start(a, origin, "http1", None).await?,
                http2: start(b, origin, "http2", None).await?,
            },
            first: ByProtocol {
                http1: start(c, e, "http1", Some("upstream")).await?,
                http2: start(d, f, "http2", Some("upstream")).await?,
            },
            second: ByProtocol {
                http1: start(e, origin, "http1", Some("downstream")).await?,
                http2: start(f, origin, "http2", Some("downstream")).await?,
            },
        })
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
    let (weir_kib, relay_kib) = (
        stage.caller.resident_kib()?,
        stage.relays.alone.http1.process.resident_kib()?,
    );
    stage.warm().await.context("a chain's first request")?;
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
        assert_eq!(read.len(), 9);
        for case in CASES {
            assert!(text.contains(&format!("kind: Service\nmetadata: {{name: {},", case.service)));
        }
    }
}
