//! What a connection costs at the inbound port of a sidecar: in cleartext, by mutual TLS anew, and with a session taken
//! up again; beside a bare relay and Envoy, in turns, with certificates of one authority.
//!
//! Each connection carries one request and ends. The client makes sure that handshakes were of the kind that is
//! measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, HandshakeKind, SignatureScheme,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use weir_bench::certificates::{CHAIN, Identity, KEY, ROOT, server_name};
use weir_bench::mesh::{Mesh, Sidecar};
use weir_bench::process::{Place, Process, Processors, Ready, beside, free_ports, machine, strings};
use weir_bench::stats::Estimate;

/// Measures what a connection with one request costs at weir-proxy, a bare relay and Envoy, in turns.
#[derive(Parser)]
#[command(name = "handshake", version)]
struct Args {
    /// How often each takes its turn, 1 to 1000; an interval needs at least ten to mean much.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Connections in a turn, 8 to 100000.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    connections: u32,
    /// Connections that are left open at once to see what memory they take, 10 to 20000.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    idle: u32,
    /// Prints Markdown, as docs/performance.md has it.
    #[arg(long)]
    markdown: bool,
    /// The folder of the peers that `./dev setup` installs.
    #[arg(long, env = "WEIR_PEERS")]
    peers: PathBuf,
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

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    Cleartext,
    Full,
    Resumed,
}

const BEGINNINGS: [(Begin, &str); 3] = [
    (Begin::Cleartext, "cleartext"),
    (Begin::Full, "mutual TLS, full handshake"),
    (Begin::Resumed, "mutual TLS, session taken up again"),
];

impl Begin {
    fn kind(self) -> Option<HandshakeKind> {
        match self {
            Begin::Cleartext => None,
            Begin::Full => Some(HandshakeKind::Full),
            Begin::Resumed => Some(HandshakeKind::Resumed),
        }
    }
}

/// Whom connections are made to.
struct Side {
    name: &'static str,
    cleartext: Door,
    tls: Door,
}

/// Where, and which of the measured processes is there.
#[derive(Clone, Copy)]
struct Door {
    address: SocketAddr,
    process: usize,
}

impl Side {
    fn door(&self, begin: Begin) -> Door {
        match begin {
            Begin::Cleartext => self.cleartext,
            Begin::Full | Begin::Resumed => self.tls,
        }
    }
}

struct Stage {
    sides: Vec<Side>,
    measured: Vec<Process>,
    client: Arc<ClientConfig>,
    /// The origin and the control plane.
    _others: [Process; 2],
}

impl Stage {
    async fn start(folder: &Path, peers: &Path, processors: &Processors) -> anyhow::Result<Stage> {
        let ports = free_ports::<12>()?;
        let [
            at,
            api,
            xds,
            outbound,
            inbound,
            admin,
            metrics,
            health,
            relay,
            relay_tls,
            envoy,
            envoy_tls,
        ] = ports;
        let ready = Ready::Line("ready");
        let others = (processors, Place::Others);
        let listen = strings(&["--listen", &at.to_string()]);
        let (origin, _) = Process::start(&beside("origin")?, &listen, others, ready).await?;
        let mesh = Mesh::start(folder, NAMESPACE, (api, xds), processors).await?;
        let [callee, caller] = ["callee", "caller"].map(|account| folder.join(format!("{account}.identity")));
        mesh.certificate(&callee, "callee").await?;
        mesh.certificate(&caller, "caller").await?;
        let sidecar = Sidecar {
            workload: "callee",
            app: format!("{}=http@{}", at.port(), inbound.port()),
            outbound,
            admin,
            metrics,
            health,
            access_log: "stdout",
            callgrind: None,
            workers: 1,
            place: Place::First,
        };
        let mut measured = Vec::new();
        for (listen, tls) in [(relay, None), (relay_tls, Some(&callee))] {
            let mut args = strings(&["--listen", &listen.to_string(), "--to", &at.to_string()]);
            args.extend(strings(&["--protocol", "http1"]));
            if let Some(identity) = tls {
                args.extend(strings(&[
                    "--tls",
                    "downstream",
                    "--identity",
                    &identity.display().to_string(),
                ]));
            }
            let (process, _) = Process::start(&beside("relay")?, &args, (processors, Place::First), ready).await?;
            measured.push(process);
        }
        measured.push(mesh.sidecar(sidecar, processors).await?);
        let config = folder.join("envoy.json");
        std::fs::write(&config, envoy_config(envoy, envoy_tls, at, &callee).to_string())?;
        let mut args = strings(&["--config-path", &config.display().to_string(), "--concurrency", "1"]);
        args.extend(strings(&["--disable-hot-restart", "--log-level", "error"]));
        let program = peers.join("bin/envoy");
        let ready = Ready::Accepts(envoy_tls);
        let (process, _) = Process::start(&program, &args, (processors, Place::First), ready).await?;
        measured.push(process);
        let side = |name, cleartext: (SocketAddr, usize), tls: (SocketAddr, usize)| {
            let door = |(address, process)| Door { address, process };
            let (cleartext, tls) = (door(cleartext), door(tls));
            Side { name, cleartext, tls }
        };
        let sides = vec![
            side("bare relay", (relay, 0), (relay_tls, 1)),
            side("Weir", (inbound, 2), (inbound, 2)),
            side("Envoy", (envoy, 3), (envoy_tls, 3)),
        ];
        Ok(Stage {
            sides,
            measured,
            client: Arc::new(client(&caller)?),
            _others: [origin, mesh.control],
        })
    }

    fn process(&self, door: Door) -> anyhow::Result<&Process> {
        self.measured.get(door.process).context("no such process")
    }

    /// Waits until the sidecar has its certificate and all let the client in.
    async fn warm(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + WARM_TIMEOUT;
        for side in &self.sides {
            for (begin, name) in [(Begin::Cleartext, "cleartext"), (Begin::Full, "mutual TLS")] {
                let client = Client::new(&self.client, begin);
                while let Err(error) = client.ask(side.door(begin), begin).await {
                    ensure!(Instant::now() < deadline, "{}, {name}: {error:#}", side.name);
                    tokio::time::sleep(POLL).await;
                }
            }
        }
        Ok(())
    }

    /// One turn; gives the processor time of a connection in microseconds.
    async fn turn(&self, side: &Side, begin: Begin, connections: u32) -> anyhow::Result<f64> {
        let door = side.door(begin);
        let mut clients = Vec::new();
        for _ in 0..AT_ONCE {
            let client = Client::new(&self.client, begin);
            if begin == Begin::Resumed {
                // The session that is taken up; not measured.
                client.ask(door, Begin::Full).await?;
            }
            clients.push(client);
        }
        let process = self.process(door)?;
        let before = process.cpu()?;
        let each = connections / AT_ONCE;
        let mut asking = JoinSet::new();
        for client in clients {
            asking.spawn(async move {
                for _ in 0..each {
                    client.ask(door, begin).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked??;
        }
        let used = process.cpu()?.saturating_sub(before);
        Ok(used.as_secs_f64() * 1e6 / f64::from(each * AT_ONCE))
    }

    /// How much memory a connection by mutual TLS takes that waits for its next request, in KiB.
    async fn idle(&self, side: &Side, connections: u32) -> anyhow::Result<f64> {
        let door = side.door(Begin::Full);
        let process = self.process(door)?;
        let client = Client::new(&self.client, Begin::Full);
        let before = process.resident_kib()?;
        let mut held = Vec::new();
        for _ in 0..connections {
            held.push(client.open(door, Begin::Full).await?);
        }
        let after = process.resident_kib()?;
        Ok(after.saturating_sub(before) as f64 / f64::from(connections))
    }
}

/// A client with sessions of its own.
struct Client {
    tls: TlsConnector,
}

/// A connection on which a request was answered.
enum Held {
    Cleartext(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Client {
    fn new(config: &Arc<ClientConfig>, begin: Begin) -> Client {
        let mut config = ClientConfig::clone(config);
        config.resumption = match begin {
            Begin::Cleartext | Begin::Full => Resumption::disabled(),
            Begin::Resumed => Resumption::in_memory_sessions(1),
        };
        Client {
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    /// One connection with one request, to its end.
    async fn ask(&self, door: Door, begin: Begin) -> anyhow::Result<()> {
        match self.open(door, begin).await? {
            Held::Cleartext(mut stream) => stream.shutdown().await?,
            Held::Tls(mut stream) => stream.shutdown().await?,
        }
        Ok(())
    }

    /// A connection, after one request.
    async fn open(&self, door: Door, begin: Begin) -> anyhow::Result<Held> {
        let mut stream = TcpStream::connect(door.address).await?;
        stream.set_nodelay(true)?;
        let Some(kind) = begin.kind() else {
            request(&mut stream).await?;
            return Ok(Held::Cleartext(stream));
        };
        let mut stream = self.tls.connect(server_name(), stream).await?;
        request(&mut stream).await?;
        let held = stream.get_ref().1.handshake_kind();
        ensure!(held == Some(kind), "the handshake was {held:?}, not {kind:?}");
        Ok(Held::Tls(Box::new(stream)))
    }
}

/// Sends a request and reads its answer of [`ANSWER_BYTES`].
async fn request(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> anyhow::Result<()> {
    let head = format!("GET /bytes/{ANSWER_BYTES} HTTP/1.1\r\nhost: callee.bench\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::with_capacity(4096);
    loop {
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
        if head.is_some_and(|end| answer.len() >= end + 4 + ANSWER_BYTES) {
            break;
        }
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed within an answer");
    }
    let said = String::from_utf8_lossy(&answer);
    ensure!(said.starts_with("HTTP/1.1 200 "), "answered {said}");
    Ok(())
}

/// What a sidecar's client has, but for its check of SPIFFE ids: here the chain alone is looked at.
fn client(identity: &Path) -> anyhow::Result<ClientConfig> {
    let roots = Identity::read(identity)?.roots()?;
    let mut config = Identity::read(identity)?.client("http/1.1")?;
    let provider = Arc::clone(config.crypto_provider());
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    config.dangerous().set_certificate_verifier(Arc::new(ChainAlone(chain)));
    Ok(config)
}

/// Takes any name below the root: an SVID has no name of DNS.
#[derive(Debug)]
struct ChainAlone(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainAlone {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.0.verify_server_cert(end, intermediates, name, ocsp, now) {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Envoy as it stands at the inbound side of a mesh: TLS 1.3, certificates asked for and checked, the same key
/// agreement, an access log. (Envoy's reference: HttpConnectionManager, DownstreamTlsContext, CommonTlsContext,
/// TlsParameters.)
fn envoy_config(cleartext: SocketAddr, tls: SocketAddr, origin: SocketAddr, identity: &Path) -> Value {
    let at = |address: SocketAddr| json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
    let typed = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let manager = json!({
        "@type": typed("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "inbound",
        "access_log": [{"name": "stdout", "typed_config": {"@type": typed("access_loggers.stream.v3.StdoutAccessLog")}}],
        "http_filters": [{"name": "router", "typed_config": {"@type": typed("filters.http.router.v3.Router")}}],
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}],
        }]},
    });
    let file = |name: &str| json!({"filename": identity.join(name)});
    let context = json!({
        "@type": typed("transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": ["X25519MLKEM768"],
            },
            "tls_certificates": [{"certificate_chain": file(CHAIN), "private_key": file(KEY)}],
            "validation_context": {"trusted_ca": file(ROOT)},
            "alpn_protocols": ["h2", "http/1.1"],
        },
    });
    let listener = |name: &str, address: SocketAddr, socket: Option<&Value>| {
        let mut chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
        if let Some(context) = socket {
            chain["transport_socket"] = json!({"name": "tls", "typed_config": context});
        }
        json!({"name": name, "address": at(address), "filter_chains": [chain]})
    };
    json!({"static_resources": {
        "listeners": [listener("cleartext", cleartext, None), listener("tls", tls, Some(&context))],
        "clusters": [{
            "name": "app", "type": "STATIC",
            "load_assignment": {"cluster_name": "app", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": at(origin)}}]},
            ]},
        }],
    }})
}

async fn compare(args: Args, processors: Processors) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("weir-bench-").tempdir()?;
    let stage = Stage::start(folder.path(), &args.peers, &processors).await?;
    stage.warm().await?;
    // By beginning and by side.
    let mut micros = vec![vec![Vec::new(); stage.sides.len()]; BEGINNINGS.len()];
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        for ((begin, name), row) in BEGINNINGS.iter().zip(&mut micros) {
            let mut turns: Vec<(&Side, &mut Vec<f64>)> = stage.sides.iter().zip(row.iter_mut()).collect();
            // Who begins changes, so that a drift within a round falls on all alike.
            if round % 2 == 1 {
                turns.reverse();
            }
            for (side, measured) in turns {
                let turn = stage.turn(side, *begin, args.connections).await;
                measured.push(turn.with_context(|| format!("{}, {name}", side.name))?);
            }
        }
    }
    let mut idle = Vec::new();
    for side in &stage.sides {
        let held = stage.idle(side, args.idle).await;
        idle.push(held.with_context(|| format!("{}, idle connections", side.name))?);
    }
    print(&args, &processors, &stage.sides, &micros, &idle)
}

fn print(
    args: &Args,
    processors: &Processors,
    sides: &[Side],
    micros: &[Vec<Vec<f64>>],
    idle: &[f64],
) -> anyhow::Result<()> {
    println!(
        "{}; {} rounds of {} connections, {AT_ONCE} at once; {}.\n",
        machine(),
        args.rounds,
        args.connections,
        if processors.are_parted() {
            "what is measured has a processor for itself"
        } else {
            "all share the processors"
        },
    );
    let mut table = vec![vec!["processor time of a connection with one request".to_owned()]];
    table[0].extend(sides.iter().map(|side| side.name.to_owned()));
    table[0].extend(["Weir / Envoy".to_owned(), "95 % interval".to_owned()]);
    for ((_, name), row) in BEGINNINGS.iter().zip(micros) {
        let mut cells = vec![(*name).to_owned()];
        for measured in row {
            cells.push(format!("{:.0} µs", Estimate::of(measured).context("no turn")?.mean));
        }
        let [_, weir, envoy] = row.as_slice() else {
            bail!("three sides were measured");
        };
        let ratios: Vec<f64> = weir.iter().zip(envoy).map(|(weir, envoy)| weir / envoy).collect();
        let ratio = Estimate::of_ratios(&ratios).context("a turn that cost nothing")?;
        cells.push(format!("{:.2}", ratio.mean));
        cells.push(if args.rounds > 1 {
            format!("{:.2} to {:.2}", ratio.low, ratio.high)
        } else {
            "-".to_owned()
        });
        table.push(cells);
    }
    for (index, cells) in table.iter().enumerate() {
        if args.markdown {
            println!("| {} |", cells.join(" | "));
            if index == 0 {
                println!("| --- |{} --- |", " --: |".repeat(cells.len() - 2));
            }
        } else if let [name, rest @ ..] = cells.as_slice() {
            let rest: Vec<String> = rest.iter().map(|cell| format!("{cell:>12}")).collect();
            println!("{name:<48}{}", rest.join("  "));
        }
    }
    let idle: Vec<String> = sides
        .iter()
        .zip(idle)
        .map(|(side, kib)| format!("{} {kib:.1} KiB", side.name))
        .collect();
    println!(
        "\nResident memory for each of {} connections by mutual TLS that wait for their next request: {}.",
        args.idle,
        idle.join(", ")
    );
    Ok(())
}

const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: bench}}\n";

/// Connections under way at once in a turn.
const AT_ONCE: u32 = 8;
const ANSWER_BYTES: usize = 100;
const WARM_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
