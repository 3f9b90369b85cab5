//! What a request costs: processor time of the sidecar per request, beside a bare hyper relay, in turns.
//!
//! The client and the origin stand on other processors than what is measured, where there are several. Each turn opens
//! new connections, sends a request on each, and measures from then on: closed loops for `--seconds`. The processor
//! time is the kernel's own account of every thread of the process (schedstat), so waiting costs nothing.
//!
//! Two more tables: how long requests take that come at a pace, whatever becomes of those before; and what a second
//! worker does. With `--beside`, programs of others take their turns with both sides.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use weir_bench::beside::{self, Beside, Running};
use weir_bench::certificates;
use weir_bench::load::{Ask, Load, Over, Target};
use weir_bench::mesh::{Mesh, Sidecar};
use weir_bench::process::{Place, Process, Processors, Ready, beside, free_ports, machine, strings};
use weir_bench::stats::{Estimate, percentile};

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
    /// Programs of others that take their turns as well, each on the processor of what is measured; not where they
    /// can't speak what is asked for.
    #[arg(long, value_enum, value_delimiter = ',')]
    beside: Vec<Beside>,
    /// The folder of the peers that `./dev setup` installs, for Envoy.
    #[arg(long, env = "WEIR_PEERS")]
    peers: Option<PathBuf>,
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

impl Case {
    fn target(&self, address: SocketAddr) -> Target {
        Target {
            address,
            authority: format!("{}.bench", self.service),
        }
    }
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

/// What is asked for at a pace, and of sidecars with several workers: the first case.
const PACED: Case = CASES[0];
/// At which paces, in requests a second.
const RATES: [u32; 2] = [2_000, 5_000];

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
    /// In the order in which the command line names them.
    beside: Vec<Running>,
    /// Sidecars with one worker and with two, on all processors.
    by_workers: [(Process, SocketAddr); 2],
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

/// The sides of a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Relay,
    Weir,
    /// By its place in [`Stage::beside`].
    Beside(usize),
}

impl Stage {
    async fn start(folder: &Path, args: &Args, processors: &Processors) -> anyhow::Result<Stage> {
        // All at once, so that they differ.
        let mut ports = free_ports::<96>()?.into_iter();
        let mut next = || ports.next().context("more ports are needed");
        let (at, api, xds, outbound) = (next()?, next()?, next()?, next()?);
        let (callee, callee_outbound, callee_grpc, callee_grpc_outbound) = (next()?, next()?, next()?, next()?);
        let (caller_app, caller_inbound) = (next()?, next()?);
        let (one_app, one_inbound, one_outbound) = (next()?, next()?, next()?);
        let (two_app, two_inbound, two_outbound) = (next()?, next()?, next()?);
        let ready = Ready::Line("ready");
        let origin = beside("origin")?;
        let origin_args = strings(&["--listen", &at.to_string()]);
        let (origin, _) = Process::start(&origin, &origin_args, (processors, Place::Others), ready).await?;
        let relays = Relays::start(folder, at, &mut next, processors).await?;

        let resources = RESOURCES.replace("ORIGIN-PORT", &at.port().to_string());
        let mesh = Mesh::start(folder, &resources, (api, xds), processors).await?;
        let mut sidecar = async |workload: &str, app: String, outbound: SocketAddr, (workers, place): (u32, Place)| {
            let sidecar = Sidecar {
                workload,
                app,
                outbound,
                admin: next()?,
                metrics: next()?,
                health: next()?,
                access_log: &args.access_log,
                callgrind: None,
                workers,
                place,
            };
            mesh.sidecar(sidecar, processors).await
        };
        let app = |protocol: &str, inbound: SocketAddr| format!("{}={protocol}@{}", at.port(), inbound.port());
        let alone = (1, Place::First);
        let callees = ByProtocol {
            http1: sidecar("callee", app("http", callee), callee_outbound, alone).await?,
            http2: sidecar("callee-grpc", app("grpc", callee_grpc), callee_grpc_outbound, alone).await?,
        };
        let caller_app = format!("{}=http@{}", caller_app.port(), caller_inbound.port());
        let caller = sidecar("caller", caller_app, outbound, alone).await?;
        let [one, two] = [(one_app, one_inbound), (two_app, two_inbound)]
            .map(|(app, inbound)| format!("{}=http@{}", app.port(), inbound.port()));
        let by_workers = [
            (sidecar("one", one, one_outbound, (1, Place::All)).await?, one_outbound),
            (sidecar("two", two, two_outbound, (2, Place::All)).await?, two_outbound),
        ];
        let mut beside = Vec::new();
        let others = beside::Stage {
            folder,
            identity: &folder.join(RELAYS),
            peers: args.peers.as_deref(),
            origin: at,
            processors,
        };
        for which in args.beside.iter().copied() {
            beside.push(Running::start(which, &others, &mut next).await?);
        }
        Ok(Stage {
            origin,
            control: mesh.control,
            relays,
            caller,
            callees,
            outbound,
            beside,
            by_workers,
        })
    }

    /// All that take turns, the relay first.
    fn sides(&self) -> Vec<Side> {
        let beside = (0..self.beside.len()).map(Side::Beside);
        [Side::Relay, Side::Weir].into_iter().chain(beside).collect()
    }

    fn name(&self, side: Side) -> &'static str {
        match side {
            Side::Relay => "bare relay",
            Side::Weir => "Weir",
            Side::Beside(place) => self.beside.get(place).map_or("", |running| running.which.name()),
        }
    }

    async fn stop(self) {
        let Stage {
            origin,
            control,
            relays,
            caller,
            callees,
            outbound: _,
            beside,
            by_workers,
        } = self;
        let Relays { alone, first, second } = relays;
        let relays = [alone, first, second]
            .into_iter()
            .flat_map(|pair| [pair.http1, pair.http2]);
        for process in [caller, callees.http1, callees.http2, control]
            .into_iter()
            .chain(relays.map(|relay| relay.process))
            .chain(beside.into_iter().flat_map(|running| [running.first, running.second]))
            .chain(by_workers.map(|(process, _)| process))
            .chain([origin])
        {
            process.stop().await;
        }
    }

    /// Where a case's requests go in, and which processes they pass; `None`: this side has no such way.
    fn route(&self, case: Case, side: Side) -> Option<(SocketAddr, Vec<&Process>)> {
        let Relays { alone, first, second } = &self.relays;
        Some(match (side, case.hops) {
            (Side::Beside(place), hops) => {
                let running = self.beside.get(place)?;
                if !running.which.carries(case.over, case.ask) {
                    return None;
                }
                match hops {
                    Hops::One => (running.alone(case.over), vec![&running.first]),
                    Hops::Two => (running.chain(case.over), vec![&running.first, &running.second]),
                }
            }
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
        })
    }

    /// One turn; gives the processor time of a request in microseconds. `None`: this side has no such way.
    async fn turn(&self, case: Case, side: Side, seconds: f64) -> anyhow::Result<Option<f64>> {
        let Some((address, passed)) = self.route(case, side) else {
            return Ok(None);
        };
        let mut load = Load::open(&case.target(address), case.over, case.ask).await?;
        let before = cpu(&passed)?;
        let requests = load.run(Duration::from_secs_f64(seconds)).await?;
        let used = cpu(&passed)?.saturating_sub(before);
        Ok(Some(used.as_secs_f64() * 1e6 / requests as f64))
    }

    /// One turn at a pace; gives p50 and p99 in microseconds.
    async fn paced(&self, side: Side, rate: u32, seconds: f64) -> anyhow::Result<Option<[f64; 2]>> {
        let Some((address, _)) = self.route(PACED, side) else {
            return Ok(None);
        };
        let mut load = Load::open(&PACED.target(address), PACED.over, PACED.ask).await?;
        let mut took = load.paced(rate, Duration::from_secs_f64(seconds)).await?;
        let [p50, p99] = [50, 99].map(|hundredths| percentile(&mut took, hundredths));
        let micros = |took: Option<Duration>| took.map(|took| took.as_secs_f64() * 1e6).context("no request");
        Ok(Some([micros(p50)?, micros(p99)?]))
    }

    /// One turn of a sidecar by its number of workers; gives the processor time of a request in microseconds, and how
    /// many requests were answered in a second.
    async fn worked(&self, place: usize, seconds: f64) -> anyhow::Result<[f64; 2]> {
        let (process, address) = self.by_workers.get(place).context("no such sidecar")?;
        let mut load = Load::open(&PACED.target(*address), PACED.over, PACED.ask).await?;
        let (before, begun) = (process.cpu()?, tokio::time::Instant::now());
        let requests = load.run(Duration::from_secs_f64(seconds)).await? as f64;
        let used = process.cpu()?.saturating_sub(before);
        Ok([
            used.as_secs_f64() * 1e6 / requests,
            requests / begun.elapsed().as_secs_f64(),
        ])
    }

    /// Waits until the control plane knows the chains' endpoints, so that no turn meets a mesh that is not there yet.
    async fn warm(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + WARM_TIMEOUT;
        for case in CASES.into_iter().filter(|case| case.hops == Hops::Two) {
            let target = case.target(self.outbound);
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
        let identity = folder.join(RELAYS);
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

/// What a case has shown so far: of each side, in the order of [`Stage::sides`]; nothing of one that has no such way.
struct Row {
    name: String,
    unit: &'static str,
    turns: Vec<Vec<f64>>,
}

impl Row {
    fn new(name: impl Into<String>, unit: &'static str, sides: usize) -> Row {
        Row {
            name: name.into(),
            unit,
            turns: vec![Vec::new(); sides],
        }
    }

    fn add(&mut self, side: usize, value: Option<f64>) {
        if let Some(turns) = self.turns.get_mut(side) {
            turns.extend(value);
        }
    }
}

async fn compare(args: Args, processors: Processors) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("weir-bench-").tempdir()?;
    let stage = Stage::start(folder.path(), &args, &processors).await?;
    // Before the first request, once all have found each other: what a sidecar costs that nobody uses.
    tokio::time::sleep(SETTLE).await;
    let mut resident = vec![
        ("weir-proxy", stage.caller.resident_kib()?),
        ("bare relay", stage.relays.alone.http1.process.resident_kib()?),
    ];
    for running in &stage.beside {
        resident.push((running.which.name(), running.first.resident_kib()?));
    }
    stage.warm().await.context("a chain's first request")?;
    let sides = stage.sides();
    let mut costs = CASES.map(|case| (case, Row::new(case.name, "µs", sides.len())));
    let mut paces = RATES.map(|rate| {
        let row = |quantile| {
            Row::new(
                format!("{},{:03} requests/s, {quantile}", rate / 1000, rate % 1000),
                "µs",
                sides.len(),
            )
        };
        (rate, ["p50", "p99"].map(row))
    });
    let mut workers = [
        Row::new("processor time of a request", "µs", 2),
        Row::new("requests answered", "/s", 2),
    ];
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        // Who begins changes, so that a drift within a round falls on all alike.
        let in_turn = |count: usize| {
            let mut order: Vec<usize> = (0..count).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            order
        };
        let order: Vec<(usize, Side)> = in_turn(sides.len())
            .into_iter()
            .filter_map(|place| Some((place, *sides.get(place)?)))
            .collect();
        for (case, row) in &mut costs {
            for (place, side) in &order {
                let turn = stage.turn(*case, *side, args.seconds).await;
                row.add(
                    *place,
                    turn.with_context(|| format!("{}, {}", stage.name(*side), case.name))?,
                );
            }
        }
        for (rate, [p50, p99]) in &mut paces {
            for (place, side) in &order {
                let turn = stage.paced(*side, *rate, args.seconds).await;
                let turn = turn.with_context(|| format!("{}, {rate} requests/s", stage.name(*side)))?;
                p50.add(*place, turn.map(|[p50, _]| p50));
                p99.add(*place, turn.map(|[_, p99]| p99));
            }
        }
        for place in in_turn(2) {
            let turn = stage.worked(place, args.seconds).await;
            let values = turn.with_context(|| format!("{} workers", place + 1))?;
            for (row, value) in workers.iter_mut().zip(values) {
                row.add(place, Some(value));
            }
        }
    }
    conditions(&args, &processors);
    let names: Vec<&str> = sides.iter().map(|side| stage.name(*side)).collect();
    table(
        &args,
        "processor time of a request",
        &names,
        costs.iter().map(|(_, row)| row),
    )?;
    println!(
        "\nFrom the moment at which a request was due to the end of its answer, {}:\n",
        PACED.name
    );
    table(
        &args,
        "latency at a pace",
        &names,
        paces.iter().flat_map(|(_, rows)| rows),
    )?;
    println!(
        "\nA sidecar with two workers beside one with one, {}, all on all processors:\n",
        PACED.name
    );
    table(&args, "workers", &["one worker", "two workers"], workers.iter())?;
    if processors.count() < PROCESSORS_TO_SCALE {
        println!(
            "\nClient, origin and two workers share {} processors: whether two answer more than one can't be seen here, \
             only what a second one costs.",
            processors.count()
        );
    }
    let resident: Vec<String> = resident
        .into_iter()
        .map(|(name, kib)| format!("{name} {:.1} MiB", kib as f64 / 1024.0))
        .collect();
    println!("\nResident memory at start, idle: {}.", resident.join(", "));
    stage.stop().await;
    Ok(())
}

fn conditions(args: &Args, processors: &Processors) {
    println!(
        "{}; {} rounds of {} s; access log: {}; {}.\n",
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
}

/// Prints rows: the mean of the first two sides, and of each but the first its ratio to the first, turn by turn.
fn table<'a>(args: &Args, what: &str, names: &[&str], rows: impl Iterator<Item = &'a Row>) -> anyhow::Result<()> {
    let [base, compared, others @ ..] = names else {
        bail!("two sides at least are compared");
    };
    // "Weir / relay", as it has always been called.
    let short = base.trim_start_matches("bare ");
    let mut lines = vec![vec![
        what.to_owned(),
        (*base).to_owned(),
        (*compared).to_owned(),
        format!("{compared} / {short}"),
        "95 % interval".to_owned(),
    ]];
    lines[0].extend(others.iter().map(|name| format!("{name} / {short}")));
    for row in rows {
        let [base, compared, others @ ..] = row.turns.as_slice() else {
            bail!("two sides at least are compared");
        };
        let mean = |turns: &[f64]| {
            let mean = Estimate::of(turns).context("no turn")?.mean;
            anyhow::Ok(match row.unit {
                "µs" => format!("{mean:.1} µs"),
                unit => format!("{mean:.0} {unit}"),
            })
        };
        let ratio = |turns: &[f64]| {
            let ratios: Vec<f64> = turns.iter().zip(base).map(|(turn, base)| turn / base).collect();
            Estimate::of_ratios(&ratios).context("a turn that cost nothing")
        };
        let interval = |ratio: Estimate| match args.rounds {
            1 => "-".to_owned(),
            _ => format!("{:.2} to {:.2}", ratio.low, ratio.high),
        };
        let weir = ratio(compared)?;
        let mut cells = vec![row.name.clone(), mean(base)?, mean(compared)?];
        cells.extend([format!("{:.2}", weir.mean), interval(weir)]);
        for turns in others {
            cells.push(match turns.as_slice() {
                [] => "-".to_owned(),
                turns => {
                    let ratio = ratio(turns)?;
                    match args.rounds {
                        1 => format!("{:.2}", ratio.mean),
                        _ => format!("{:.2} ({})", ratio.mean, interval(ratio)),
                    }
                }
            });
        }
        lines.push(cells);
    }
    for (index, cells) in lines.iter().enumerate() {
        if args.markdown {
            println!("| {} |", cells.join(" | "));
            if index == 0 {
                println!("| --- | --: | --: | --: | --- |{}", " --- |".repeat(others.len()));
            }
        } else if let [name, rest @ ..] = cells.as_slice() {
            let rest: Vec<String> = rest.iter().map(|cell| format!("{cell:>18}")).collect();
            println!("{name:<70}{}", rest.join("  "));
        }
    }
    Ok(())
}

fn cpu(processes: &[&Process]) -> anyhow::Result<Duration> {
    ensure!(!processes.is_empty(), "nothing is measured");
    processes.iter().map(|process| process.cpu()).sum()
}

/// Where the certificates of relays, and of whoever stands in their place, are.
const RELAYS: &str = "relays";
const RESOURCES: &str = include_str!("../resources.yaml");
/// One for each of two workers, one for the client and one for the origin.
const PROCESSORS_TO_SCALE: usize = 4;
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
