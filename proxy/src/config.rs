//! What a proxy runs with: validated and typed. Built from the command line by [`ProxyConfig::from_args`], or straight
//! by a test.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use serde_json::{Value, json};
use weir_policy::model::{AppProtocol, Locality};
use weir_policy::names::{Label, ListenerName, WorkloadName};

use crate::cli::Args;
use crate::xds::{ControlPlane, ControlPlaneError};

/// How long requests under way may take to end after SIGTERM. Kubernetes kills 30 s after it asks, by default.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// One request in a hundred is traced: enough to see what is usual, little enough to keep.
pub const DEFAULT_TRACE_SAMPLING: Ratio = Ratio(0.01);

/// What a proxy runs with. Every address may have port 0: the system chooses, and the proxy says what it got.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// Which workload this is the sidecar of.
    pub workload: WorkloadName,
    /// Where the control plane is, as `https://host:port`, or `http://host:port` on this host. `None`: only what
    /// `state_dir` holds is in force.
    pub control_plane: Option<Uri>,
    /// How the proxy gets its identity, where the control plane is reached by TLS.
    pub joining: Joining,
    /// With what those outside of the mesh are spoken to by TLS, at edge ports. `None`: not at all.
    pub edge_tls: Option<EdgeTlsFiles>,
    /// How what the control plane sends is read.
    pub xds: Xds,
    /// The app's ports, each with the listener where others reach it; neither port occurs twice.
    pub apps: Vec<AppPort>,
    /// The ports where the app reaches services that carry TCP.
    pub listens: Vec<TcpListen>,
    /// The workload's labels.
    pub labels: BTreeMap<String, String>,
    /// Where it runs.
    pub locality: Locality,
    /// Where the app sends its calls.
    pub outbound: OutboundAddr,
    /// The admin port.
    pub admin: SocketAddr,
    /// The metrics port.
    pub metrics: SocketAddr,
    /// The health port.
    pub health: SocketAddr,
    /// Where spans are sent, by OTLP over gRPC, as `http://host:port`. `None`: none are made.
    pub otlp: Option<Uri>,
    /// Where the roots are by which it is known; `None`: those that the system trusts.
    pub otlp_ca_file: Option<PathBuf>,
    /// The share of traces begun here that are sampled; a trace begun elsewhere keeps its caller's decision.
    pub trace_sampling: Ratio,
    /// Where access-log lines go.
    pub access_log: AccessLog,
    /// Threads of the data path.
    pub workers: NonZeroUsize,
    /// Where the last accepted configuration is kept. `None`: nowhere, so a start needs the control plane.
    pub state_dir: Option<PathBuf>,
    /// How long a drain waits for requests under way before it ends them.
    pub drain_timeout: Duration,
    /// The address at which others reach the inbound listeners. `None`: the local address of the connection to the
    /// control plane.
    pub advertise: Option<IpAddr>,
    /// Name servers for names outside of the mesh. Empty: those of `/etc/resolv.conf`.
    pub dns: Vec<SocketAddr>,
}

/// How what a control plane sends is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xds {
    /// What would not be honoured is refused.
    Strict,
    /// For a control plane that is not Weir's: what is harmless is skipped, and shown. It is told of no workload.
    Lenient,
}

/// A certificate for those outside of the mesh, and its key: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeTlsFiles {
    /// The certificate, and what is between it and a root that they know.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How a proxy gets its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joining {
    /// Where its join token is.
    pub token_file: Option<PathBuf>,
    /// Where the roots are by which the control plane is known; `None`: it is known by what the token says.
    pub ca_file: Option<PathBuf>,
    /// Whether key and certificate are kept on disk.
    pub keep: KeepIdentity,
}

/// Whether key and certificate are kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepIdentity {
    /// In the state directory.
    Yes,
    /// In memory alone.
    #[default]
    No,
}

impl ProxyConfig {
    /// A proxy for `workload` in front of `apps`, on loopback with every port 0: nothing is exported or logged, one
    /// worker. Fields are then set as needed.
    pub fn new(workload: WorkloadName, apps: Vec<AppPort>) -> ProxyConfig {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        ProxyConfig {
            workload,
            control_plane: None,
            joining: Joining::default(),
            edge_tls: None,
            xds: Xds::Strict,
            apps,
            listens: Vec::new(),
            labels: BTreeMap::new(),
            locality: Locality::default(),
            outbound: OutboundAddr::Tcp(loopback),
            admin: loopback,
            metrics: loopback,
            health: loopback,
            otlp: None,
            otlp_ca_file: None,
            trace_sampling: DEFAULT_TRACE_SAMPLING,
            access_log: AccessLog::Off,
            workers: NonZeroUsize::MIN,
            state_dir: None,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            advertise: None,
            dns: Vec::new(),
        }
    }

    /// Reads the command line.
    ///
    /// # Errors
    /// All that is wrong with it, at once; what is not there yet is said to be so.
    pub fn from_args(args: Args) -> Result<ProxyConfig, Vec<ConfigError>> {
        let mut problems = Problems::default();
        problems.refuse_what_is_not_there_yet(&args);
        if args.control_plane.is_none() && args.state_dir.is_none() {
            problems.add(
                "--control-plane",
                "",
                Wrong::Missing("unless --state-dir holds what was accepted before"),
            );
        }
        let workload = problems.required_label("--workload", args.workload);
        let namespace = problems.required_label("--namespace", args.namespace);
        let control_plane = args
            .control_plane
            .and_then(|url| problems.read("--control-plane", &url, control_plane));
        let joining = Joining {
            token_file: args.token_file.map(PathBuf::from),
            ca_file: args.ca_file.map(PathBuf::from),
            keep: if args.keep_identity {
                KeepIdentity::Yes
            } else {
                KeepIdentity::No
            },
        };
        let edge_tls = match (args.edge_cert, args.edge_key) {
            (Some(cert), Some(key)) => Some(EdgeTlsFiles {
                cert: cert.into(),
                key: key.into(),
            }),
            (Some(_), None) => problems.missing("--edge-key", "with --edge-cert"),
            (None, Some(_)) => problems.missing("--edge-cert", "with --edge-key"),
            (None, None) => None,
        };
        let xds = problems.read("--xds", &args.xds, xds);
        let inbound_address = problems.read("--inbound-address", &args.inbound_address, ip);
        let inbound_address = inbound_address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let app = |text: &str| app_port(text, inbound_address);
        let apps: Vec<AppPort> = args
            .app
            .iter()
            .filter_map(|text| problems.read("--app", text, app))
            .collect();
        let labels = args.labels.and_then(|text| problems.read("--labels", &text, labels));
        let locality = args
            .locality
            .and_then(|text| problems.read("--locality", &text, locality));
        let outbound = problems.read("--outbound", &args.outbound, outbound);
        let admin = problems.read("--admin", &args.admin, address);
        let metrics = problems.read("--metrics", &args.metrics, address);
        let health = problems.read("--health", &args.health, address);
        let otlp = args.otlp.and_then(|url| problems.read("--otlp", &url, endpoint));
        let otlp_ca_file = args.otlp_ca_file.map(PathBuf::from);
        if let (Some(file), Some("http") | None) = (&otlp_ca_file, otlp.as_ref().and_then(Uri::scheme_str)) {
            const ONLY_TLS: Wrong = Wrong::Not("given with --otlp https://HOST:PORT alone");
            problems.add("--otlp-ca-file", &file.display().to_string(), ONLY_TLS);
        }
        let trace_sampling = problems.read("--trace-sampling", &args.trace_sampling, ratio);
        let access_log = problems.read("--access-log", &args.access_log, access_log);
        let workers = problems.read("--workers", &args.workers, workers);
        let state_dir = args
            .state_dir
            .and_then(|path| problems.read("--state-dir", &path, path_of));
        let drain_timeout = problems.read("--drain-timeout", &args.drain_timeout, duration);
        let advertise = args
            .advertise
            .and_then(|text| problems.read("--advertise", &text, advertised));
        let listen = |text: &str| tcp_listen(text, namespace.as_ref());
        let listens: Vec<TcpListen> = args
            .listen
            .iter()
            .filter_map(|text| problems.read("--listen", text, listen))
            .collect();
        let dns = args.dns.and_then(|text| problems.read("--dns", &text, name_servers));
        problems.refuse_app_ports_given_twice(&apps);
        problems.check_joining(
            control_plane.as_ref(),
            &joining,
            labels.as_ref(),
            xds,
            state_dir.as_ref(),
        );

        // Whatever is `None` where a value is needed has left a problem behind.
        let config = (|| {
            Some(ProxyConfig {
                workload: WorkloadName {
                    namespace: namespace?,
                    name: workload?,
                },
                control_plane,
                joining,
                edge_tls,
                xds: xds?,
                apps,
                listens,
                labels: labels.unwrap_or_default(),
                locality: locality.unwrap_or_default(),
                outbound: outbound?,
                admin: admin?,
                metrics: metrics?,
                health: health?,
                otlp,
                otlp_ca_file,
                trace_sampling: trace_sampling?,
                access_log: access_log?,
                workers: workers?,
                state_dir,
                drain_timeout: drain_timeout?,
                advertise,
                dns: dns.unwrap_or_default(),
            })
        })();
        if let Some(config) = &config {
            problems.refuse_an_edge_certificate_for_no_edge(config);
            problems.refuse_listeners_that_collide(config);
        }
        match config {
            Some(config) if problems.0.is_empty() => Ok(config),
            Some(_) | None => Err(problems.0),
        }
    }

    /// As the admin port shows it.
    pub(crate) fn dump(&self) -> Value {
        let uri = |uri: &Option<Uri>| uri.as_ref().map(ToString::to_string);
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let apps = self.apps.iter().map(|app| {
            json!({
                "appPort": app.app_port,
                "protocol": app.protocol.to_string(),
                "inbound": app.inbound,
                "edge": app.edge == Edge::Yes,
            })
        });
        json!({
            "workload": self.workload.to_string(),
            "controlPlane": uri(&self.control_plane),
            "tokenFile": path(&self.joining.token_file),
            "caFile": path(&self.joining.ca_file),
            "edgeTls": self.edge_tls.as_ref().map(|EdgeTlsFiles { cert, key }| {
                json!({"cert": cert.display().to_string(), "key": key.display().to_string()})
            }),
            "keepIdentity": self.joining.keep == KeepIdentity::Yes,
            "xds": match self.xds {
                Xds::Strict => "strict",
                Xds::Lenient => "lenient",
            },
            "apps": apps.collect::<Vec<Value>>(),
            "listens": self.listens.iter().map(|listen| {
                json!({"address": listen.address, "service": listen.service.to_string()})
            }).collect::<Vec<Value>>(),
            "labels": self.labels,
            "locality": {
                "region": self.locality.region,
                "zone": self.locality.zone,
                "site": self.locality.site,
            },
            "outbound": self.outbound.to_string(),
            "admin": self.admin,
            "metrics": self.metrics,
            "health": self.health,
            "otlp": uri(&self.otlp),
            "otlpCaFile": path(&self.otlp_ca_file),
            "traceSampling": self.trace_sampling.0,
            "accessLog": match &self.access_log {
                AccessLog::Off => "off".to_owned(),
                AccessLog::Stdout => "stdout".to_owned(),
                AccessLog::File(path) => path.display().to_string(),
            },
            "workers": self.workers,
            "stateDir": path(&self.state_dir),
            "drainTimeoutMs": u64::try_from(self.drain_timeout.as_millis()).unwrap_or(u64::MAX),
            "advertise": self.advertise,
            "dns": self.dns,
        })
    }
}

/// What is wrong with one flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}{held}: {wrong}", held = said(.held))]
pub struct ConfigError {
    /// The flag.
    pub flag: &'static str,
    /// What it held; empty: nothing.
    pub held: String,
    /// Why that can't be.
    pub wrong: Wrong,
}

/// Why a flag's value can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It has to be given, except as said.
    #[error("must be given{and}{0}", and = if .0.is_empty() { "" } else { ", " })]
    Missing(&'static str),
    /// It isn't of this form.
    #[error("must be {0}")]
    Not(&'static str),
    /// It isn't a name.
    #[error("{0}")]
    Name(&'static str),
    /// It is meant to be, but isn't yet.
    #[error("is not there yet; {0}")]
    NotYet(&'static str),
    /// Another value of the same flag has the same part.
    #[error("{0} is given twice")]
    Twice(String),
    /// Two listeners can't have one port.
    #[error("{0} has this port")]
    Taken(String),
}

/// One port of the app, and where others reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppPort {
    /// The port on which the app listens, on loopback.
    pub app_port: NonZeroU16,
    /// What the app speaks there.
    pub protocol: AppProtocol,
    /// Where the proxy takes requests for it.
    pub inbound: SocketAddr,
    /// Whether requests enter the mesh here.
    pub edge: Edge,
}

/// A port where the app reaches one service that carries TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpListen {
    /// Where the app connects.
    pub address: SocketAddr,
    /// Which service that leads to.
    pub service: ListenerName,
}

/// Whether requests enter the mesh at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// They do: the context is made here, and nothing of it is taken from outside.
    Yes,
    /// They come from inside.
    No,
}

/// Where the app sends its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket, made at the start and removed at the end.
    Unix(PathBuf),
}

/// As on the command line.
impl std::fmt::Display for OutboundAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OutboundAddr::Tcp(address) => write!(f, "{address}"),
            OutboundAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where access-log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// The end of this file, which is made if it isn't there.
    File(PathBuf),
}

/// A share, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ratio(f64);

impl Ratio {
    /// None at all.
    pub const NONE: Ratio = Ratio(0.0);
    /// All.
    pub const ALL: Ratio = Ratio(1.0);

    /// The share `value`; `None` unless it is 0 to 1.
    pub fn new(value: f64) -> Option<Ratio> {
        (0.0..=1.0).contains(&value).then_some(Ratio(value))
    }

    /// As a number, 0 to 1.
    pub fn value(self) -> f64 {
        self.0
    }
}

/// What is wrong so far.
#[derive(Default)]
struct Problems(Vec<ConfigError>);

impl Problems {
    fn add(&mut self, flag: &'static str, held: &str, wrong: Wrong) {
        self.0.push(ConfigError {
            flag,
            held: held.to_owned(),
            wrong,
        });
    }

    fn read<T>(&mut self, flag: &'static str, held: &str, read: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<T> {
        read(held).map_err(|wrong| self.add(flag, held, wrong)).ok()
    }

    fn refuse_an_edge_certificate_for_no_edge(&mut self, config: &ProxyConfig) {
        let any_edge = config.apps.iter().any(|app| app.edge == Edge::Yes);
        if let (Some(files), false) = (&config.edge_tls, any_edge) {
            let held = files.cert.display().to_string();
            self.add(
                "--edge-cert",
                &held,
                Wrong::Not("given where an --app is marked \",edge\""),
            );
        }
    }

    fn missing<T>(&mut self, flag: &'static str, when: &'static str) -> Option<T> {
        self.add(flag, "", Wrong::Missing(when));
        None
    }

    fn required_label(&mut self, flag: &'static str, held: Option<String>) -> Option<Label> {
        let Some(held) = held else {
            self.add(flag, "", Wrong::Missing(""));
            return None;
        };
        self.read(flag, &held, |text| {
            text.parse()
                .map_err(|error: weir_policy::names::NameError| Wrong::Name(error.problem))
        })
    }

    fn refuse_what_is_not_there_yet(&mut self, args: &Args) {
        match args.mode.as_str() {
            "explicit" => {}
            "transparent" => self.add(
                "--mode",
                "transparent",
                Wrong::NotYet("explicit is: the app sends its calls to --outbound"),
            ),
            other => self.add("--mode", other, Wrong::Not("explicit")),
        }
    }

    /// What belongs to a control plane that is reached by TLS is there, and nowhere else.
    fn check_joining(
        &mut self,
        control_plane: Option<&Uri>,
        joining: &Joining,
        labels: Option<&BTreeMap<String, String>>,
        xds: Option<Xds>,
        state_dir: Option<&PathBuf>,
    ) {
        let Joining {
            token_file,
            ca_file,
            keep,
        } = joining;
        let shown = |path: &PathBuf| path.display().to_string();
        if control_plane.is_none_or(|url| url.scheme_str() != Some("https")) {
            const ONLY_TLS: Wrong = Wrong::Not("given with --control-plane https://HOST:PORT alone");
            for (flag, path) in [("--token-file", token_file), ("--ca-file", ca_file)] {
                if let Some(path) = path {
                    self.add(flag, &shown(path), ONLY_TLS);
                }
            }
            if *keep == KeepIdentity::Yes {
                self.add("--keep-identity", "", ONLY_TLS);
            }
            return;
        }
        if token_file.is_none() && *keep == KeepIdentity::No {
            self.add(
                "--token-file",
                "",
                Wrong::Missing("with --control-plane https://HOST:PORT"),
            );
        }
        if *keep == KeepIdentity::Yes && state_dir.is_none() {
            self.add(
                "--keep-identity",
                "",
                Wrong::Not("given with --state-dir, where they are kept"),
            );
        }
        if labels.is_some() {
            self.add(
                "--labels",
                "",
                Wrong::Not("left out with https://: they come with the join token"),
            );
        }
        if xds == Some(Xds::Lenient) {
            self.add(
                "--xds",
                "lenient",
                Wrong::NotYet("with https:// only strict is: the control plane is Weir's"),
            );
        }
    }

    fn refuse_app_ports_given_twice(&mut self, apps: &[AppPort]) {
        for (place, app) in apps.iter().enumerate() {
            let before = apps.iter().take(place);
            if before.clone().any(|other| other.app_port == app.app_port) {
                self.add("--app", "", Wrong::Twice(format!("app port {}", app.app_port)));
            }
        }
    }

    /// Said here rather than by the system, which would name the second listener only. That the app itself holds a port
    /// is included: an inbound listener on every address would take it away, or fail.
    fn refuse_listeners_that_collide(&mut self, config: &ProxyConfig) {
        let mut taken: Vec<(String, SocketAddr)> = Vec::new();
        let loopback = |port: NonZeroU16| SocketAddr::from((Ipv4Addr::LOCALHOST, port.get()));
        for app in &config.apps {
            taken.push((format!("the app of --app {}", app.app_port), loopback(app.app_port)));
        }
        let mut listeners = Vec::new();
        if let OutboundAddr::Tcp(address) = config.outbound {
            listeners.push(("--outbound", address));
        }
        listeners.push(("--admin", config.admin));
        listeners.push(("--metrics", config.metrics));
        listeners.push(("--health", config.health));
        listeners.extend(config.apps.iter().map(|app| ("--app", app.inbound)));
        listeners.extend(config.listens.iter().map(|listen| ("--listen", listen.address)));
        for (flag, address) in listeners {
            if let Some((holder, _)) = taken.iter().find(|(_, other)| collide(*other, address)) {
                self.add(flag, &address.to_string(), Wrong::Taken(holder.clone()));
            }
            taken.push((flag.to_owned(), address));
        }
    }
}

/// Whether both can't be bound. Port 0 is any that is free.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_host
}

fn said(held: &str) -> String {
    if held.is_empty() {
        String::new()
    } else {
        format!(" {held:?}")
    }
}

fn endpoint(text: &str) -> Result<Uri, Wrong> {
    const FORM: Wrong = Wrong::Not("of the form http://HOST:PORT or https://HOST:PORT");
    let uri = host_and_port(text).ok_or(FORM)?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        Some(_) | None => Err(FORM),
    }
}

fn control_plane(text: &str) -> Result<Uri, Wrong> {
    const FORM: Wrong = Wrong::Not("of the form https://HOST:PORT, or http://127.0.0.1:PORT on this host");
    let uri = host_and_port(text).ok_or(FORM)?;
    match ControlPlane::new(&uri) {
        Ok(_) => Ok(uri),
        Err(ControlPlaneError::Cleartext { .. }) => Err(Wrong::Not(
            "https://HOST:15012 with --token-file: in cleartext only a control plane on this host is reached",
        )),
        Err(ControlPlaneError::Malformed { .. }) => Err(FORM),
    }
}

/// A URL that has a host and a port, and nothing else.
fn host_and_port(text: &str) -> Option<Uri> {
    let uri = Uri::from_str(text).ok()?;
    let bare = uri.query().is_none() && matches!(uri.path(), "" | "/");
    let without_user = uri
        .authority()
        .is_some_and(|authority| !authority.as_str().contains('@'));
    let host_and_port = uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some_and(|port| port != 0);
    (bare && without_user && host_and_port).then_some(uri)
}

fn app_port(text: &str, inbound_address: IpAddr) -> Result<AppPort, Wrong> {
    const FORM: Wrong = Wrong::Not("of the form APP_PORT=PROTOCOL@PORT[,edge], as 8080=http@15006");
    let (text, edge) = match text.strip_suffix(",edge") {
        Some(text) => (text, Edge::Yes),
        None => (text, Edge::No),
    };
    let (app, rest) = text.split_once('=').ok_or(FORM)?;
    let (protocol, inbound) = rest.split_once('@').ok_or(FORM)?;
    let protocol = match protocol {
        "http" => AppProtocol::Http1,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        _ => {
            return Err(Wrong::Not(
                "APP_PORT=PROTOCOL@PORT with the protocol http, http2, grpc or tcp",
            ));
        }
    };
    let inbound: u16 = digits(inbound).ok_or(FORM)?;
    Ok(AppPort {
        app_port: digits(app).and_then(NonZeroU16::new).ok_or(FORM)?,
        protocol,
        inbound: SocketAddr::new(inbound_address, inbound),
        edge,
    })
}

/// `own`: where a name without a namespace is looked up; `None`: what is wrong with it has been said.
fn tcp_listen(text: &str, own: Option<&Label>) -> Result<TcpListen, Wrong> {
    const FORM: Wrong =
        Wrong::Not("of the form IP:PORT=SERVICE[.NAMESPACE]:PORT, as 127.0.0.1:5432=postgres.data:5432");
    const ANY: &str = "default";
    let (at, service) = text.split_once('=').ok_or(FORM)?;
    let own = own.cloned().or_else(|| ANY.parse().ok()).ok_or(FORM)?;
    Ok(TcpListen {
        address: address(at).map_err(|_| FORM)?,
        service: ListenerName::from_authority(service, &own).map_err(|error| Wrong::Name(error.problem))?,
    })
}

/// A number without sign or blanks, which `from_str` would take.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn ip(text: &str) -> Result<IpAddr, Wrong> {
    text.parse().map_err(|_| Wrong::Not("an IP address"))
}

fn advertised(text: &str) -> Result<IpAddr, Wrong> {
    match ip(text)? {
        address if address.is_unspecified() => Err(Wrong::Not("an address that others can reach")),
        address => Ok(address),
    }
}

fn address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| Wrong::Not("of the form IP:PORT"))
}

fn name_servers(text: &str) -> Result<Vec<SocketAddr>, Wrong> {
    let server = |text: &str| match text.parse::<IpAddr>() {
        Ok(address) => Some(SocketAddr::new(address, 53)),
        Err(_) => text.parse().ok(),
    };
    let servers: Option<Vec<SocketAddr>> = text.split(',').map(server).collect();
    let servers = servers.filter(|servers| servers.len() <= NAME_SERVERS_MAX);
    servers.ok_or(Wrong::Not("of the form IP[:PORT][,IP[:PORT]…], at most 8 of them"))
}

fn outbound(text: &str) -> Result<OutboundAddr, Wrong> {
    const FORM: Wrong = Wrong::Not("of the form IP:PORT or unix:PATH");
    match text.strip_prefix("unix:") {
        Some("") => Err(FORM),
        Some(path) => Ok(OutboundAddr::Unix(PathBuf::from(path))),
        None => text.parse().map(OutboundAddr::Tcp).map_err(|_| FORM),
    }
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, Wrong> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',') {
        let pair = pair.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = pair.ok_or(Wrong::Not("of the form KEY=VALUE,…"))?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Wrong::Twice(format!("label {key:?}")));
        }
    }
    Ok(labels)
}

fn locality(text: &str) -> Result<Locality, Wrong> {
    const FORM: Wrong = Wrong::Not("of the form REGION[/ZONE[/SITE]]");
    let mut parts = text.split('/').map(str::to_owned);
    let locality = Locality {
        region: parts.next().unwrap_or_default(),
        zone: parts.next().unwrap_or_default(),
        site: parts.next().unwrap_or_default(),
    };
    if parts.next().is_some() || text.split('/').any(str::is_empty) {
        return Err(FORM);
    }
    Ok(locality)
}

fn ratio(text: &str) -> Result<Ratio, Wrong> {
    let ratio = text.parse().ok().and_then(Ratio::new);
    ratio.ok_or(Wrong::Not("a number from 0 to 1"))
}

fn access_log(text: &str) -> Result<AccessLog, Wrong> {
    match text {
        "" => Err(Wrong::Not("off, stdout or a file's path")),
        "off" => Ok(AccessLog::Off),
        "stdout" => Ok(AccessLog::Stdout),
        path => Ok(AccessLog::File(PathBuf::from(path))),
    }
}

fn xds(text: &str) -> Result<Xds, Wrong> {
    match text {
        "strict" => Ok(Xds::Strict),
        "lenient" => Ok(Xds::Lenient),
        _ => Err(Wrong::Not("strict or lenient")),
    }
}

fn workers(text: &str) -> Result<NonZeroUsize, Wrong> {
    let workers = digits(text).and_then(NonZeroUsize::new);
    workers
        .filter(|workers| workers.get() <= WORKERS_MAX)
        .ok_or(Wrong::Not("a number from 1 to 256"))
}

fn path_of(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Not("a directory's path"));
    }
    Ok(PathBuf::from(text))
}

fn duration(text: &str) -> Result<Duration, Wrong> {
    const FORM: Wrong = Wrong::Not("a whole number of ms, s or m, as 30s, and at most a day");
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or(FORM)?;
    let (number, unit) = text.split_at(unit);
    let number: u32 = digits(number).ok_or(FORM)?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        _ => return Err(FORM),
    };
    let duration = unit.checked_mul(number).filter(|duration| *duration <= DURATION_MAX);
    duration.ok_or(FORM)
}

/// More threads than any host's sidecar has cores for is a typing error.
const WORKERS_MAX: usize = 256;
/// One is asked after the other: the rest would never be reached in time.
const NAME_SERVERS_MAX: usize = 8;

/// As is a longer wait.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;

    fn read(flags: &str) -> Result<ProxyConfig, Vec<ConfigError>> {
        let args = std::iter::once("weir-proxy").chain(flags.split_whitespace());
        ProxyConfig::from_args(Args::try_parse_from(args).expect("flags that exist"))
    }

    const LEAST: &str = "--workload portal-1 --namespace citizen --control-plane http://127.0.0.1:15010";

    #[track_caller]
    fn good(flags: &str) -> ProxyConfig {
        let read = read(&format!("{LEAST} {flags}"));
        read.unwrap_or_else(|errors| panic!("{flags}: {errors:?}"))
    }

    /// `flags` beside the least there must be; `expect`: what is wrong, as it is said.
    #[track_caller]
    fn bad(flags: &str, expect: &[&str]) {
        let errors = read(&format!("{LEAST} {flags}")).expect_err(flags);
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(said, expect, "{flags}");
    }

    #[test]
    fn the_least_has_the_contracts_ports() {
        let config = good("");
        assert_eq!(config.workload.to_string(), "citizen/portal-1");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(config.outbound, OutboundAddr::Tcp(address("127.0.0.1:15001")));
        assert_eq!(config.admin, address("127.0.0.1:15000"));
        assert_eq!(config.metrics, address("0.0.0.0:15020"));
        assert_eq!(config.health, address("0.0.0.0:15021"));
        assert_eq!(config.trace_sampling, DEFAULT_TRACE_SAMPLING);
        assert_eq!(config.access_log, AccessLog::Stdout);
        assert_eq!(config.workers, NonZeroUsize::MIN);
        assert_eq!(config.drain_timeout, DEFAULT_DRAIN_TIMEOUT);
        assert_eq!((config.otlp, config.state_dir, config.advertise), (None, None, None));
    }

    #[test]
    fn what_is_given_is_read() {
        let config = good(
            "--app 8080=http@15006,edge --app 9090=grpc@15007 --labels app=portal,version=v1 --locality cn-north/bj/site-1 \
             --outbound unix:/run/weir.sock --otlp http://[::1]:4317 --trace-sampling 1 --access-log off --workers 2 \
             --state-dir /var/lib/weir --drain-timeout 1500ms --advertise 10.0.0.7 --inbound-address ::",
        );
        assert_eq!(
            config.apps,
            [
                AppPort {
                    app_port: NonZeroU16::new(8080).expect("a port"),
                    protocol: AppProtocol::Http1,
                    inbound: "[::]:15006".parse().expect("an address"),
                    edge: Edge::Yes,
                },
                AppPort {
                    app_port: NonZeroU16::new(9090).expect("a port"),
                    protocol: AppProtocol::Grpc,
                    inbound: "[::]:15007".parse().expect("an address"),
                    edge: Edge::No,
                },
            ]
        );
        assert_eq!(config.labels.get("version").map(String::as_str), Some("v1"));
        assert_eq!(config.locality.site, "site-1");
        assert_eq!(config.outbound, OutboundAddr::Unix(PathBuf::from("/run/weir.sock")));
        assert_eq!(config.trace_sampling, Ratio::ALL);
        assert_eq!(config.drain_timeout, Duration::from_millis(1_500));
        assert_eq!(config.advertise, Some("10.0.0.7".parse().expect("an address")));
        assert_eq!(good("--locality cn-north").locality.zone, "");
        // The system chooses these: they are not the same.
        good("--app 1=http@0 --app 2=http@0 --admin 127.0.0.1:0 --metrics 127.0.0.1:0 --health 127.0.0.1:0");
        // Other addresses of one host may share a port.
        good("--admin 127.0.0.1:7000 --health 127.0.0.2:7000");
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let errors = read("--workload A --app x --workers 0").expect_err("much is wrong");
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "--control-plane: must be given, unless --state-dir holds what was accepted before",
                r#"--workload "A": may hold only a-z, 0-9 and '-'"#,
                "--namespace: must be given",
                r#"--app "x": must be of the form APP_PORT=PROTOCOL@PORT[,edge], as 8080=http@15006"#,
                r#"--workers "0": must be a number from 1 to 256"#,
            ]
        );
        assert!(read("--workload a --namespace b --state-dir /s").is_ok());
    }

    #[test]
    fn what_is_not_there_yet_is_said_to_be_so() {
        bad(
            "--mode transparent",
            &[r#"--mode "transparent": is not there yet; explicit is: the app sends its calls to --outbound"#],
        );
        bad("--mode x", &[r#"--mode "x": must be explicit"#]);
    }

    #[test]
    fn a_port_for_tcp_is_for_one_service() {
        let config = good("--listen 127.0.0.1:5432=postgres.data:5432 --listen 127.0.0.1:6379=cache");
        let listens = config
            .listens
            .iter()
            .map(|listen| (listen.address.port(), listen.service.to_string()));
        let listens: Vec<_> = listens.collect();
        assert_eq!(
            listens,
            [
                (5432, "postgres.data.svc.cluster.local:5432".to_owned()),
                // Where a name has no namespace, it is in the workload's own.
                (6379, "cache.citizen.svc.cluster.local".to_owned()),
            ]
        );
        assert_eq!(good("--app 5432=tcp@15008").apps[0].protocol, AppProtocol::Tcp);
        for listen in ["5432", "5432=a:1", "127.0.0.1:x=a:1", "127.0.0.1=a:1"] {
            let right = "of the form IP:PORT=SERVICE[.NAMESPACE]:PORT, as 127.0.0.1:5432=postgres.data:5432";
            let expect = format!("--listen {listen:?}: must be {right}");
            bad(&format!("--listen {listen}"), &[&expect]);
        }
        bad(
            "--listen 127.0.0.1:5432=10.0.0.1:5432",
            &[r#"--listen "127.0.0.1:5432=10.0.0.1:5432": is an address, not a name"#],
        );
        bad(
            "--listen 127.0.0.1:15001=postgres.data:5432",
            &[r#"--listen "127.0.0.1:15001": --outbound has this port"#],
        );
    }

    #[test]
    fn a_certificate_of_the_edge_has_its_key_and_an_edge() {
        let edge = "--app 8080=http@15006,edge";
        let config = good(&format!("{edge} --edge-cert /c --edge-key /k"));
        let files = config.edge_tls.expect("it is given");
        assert_eq!((files.cert, files.key), ("/c".into(), "/k".into()));
        bad("--edge-cert /c", &["--edge-key: must be given, with --edge-cert"]);
        bad("--edge-key /k", &["--edge-cert: must be given, with --edge-key"]);
        bad(
            "--edge-cert /c --edge-key /k",
            &[r#"--edge-cert "/c": must be given where an --app is marked ",edge""#],
        );
    }

    #[test]
    fn what_belongs_to_tls_is_there_with_tls_alone() {
        let only = "must be given with --control-plane https://HOST:PORT alone";
        bad(
            "--ca-file /ca --token-file /token --keep-identity",
            &[
                &format!(r#"--token-file "/token": {only}"#),
                &format!(r#"--ca-file "/ca": {only}"#),
                &format!("--keep-identity: {only}"),
            ],
        );
        let by_tls = |flags: &str| {
            read(&format!(
                "--workload a --namespace b --control-plane https://control.gov:15012 {flags}"
            ))
        };
        let config = by_tls("--token-file /t --ca-file /c --state-dir /s --keep-identity").expect("it is right");
        let joining = Joining {
            token_file: Some("/t".into()),
            ca_file: Some("/c".into()),
            keep: KeepIdentity::Yes,
        };
        assert_eq!(config.joining, joining);
        by_tls("--state-dir /s --keep-identity").expect("it may have joined before");
        for (flags, expect) in [
            (
                "",
                "--token-file: must be given, with --control-plane https://HOST:PORT",
            ),
            (
                "--token-file /t --keep-identity",
                "--keep-identity: must be given with --state-dir, where they are kept",
            ),
            (
                "--token-file /t --labels a=b",
                "--labels: must be left out with https://: they come with the join token",
            ),
            (
                "--token-file /t --xds lenient",
                "--xds \"lenient\": is not there yet; with https:// only strict is: the control plane is Weir's",
            ),
        ] {
            let errors = by_tls(flags).expect_err(flags);
            let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(said, [expect], "{flags}");
        }
        for (url, right) in [
            (
                "http://10.0.0.1:15010",
                "https://HOST:15012 with --token-file: in cleartext only a control plane on this host is reached",
            ),
            (
                "https://control",
                "of the form https://HOST:PORT, or http://127.0.0.1:PORT on this host",
            ),
            (
                "https://u@control:1",
                "of the form https://HOST:PORT, or http://127.0.0.1:PORT on this host",
            ),
        ] {
            let errors = read(&format!("--workload a --namespace b --control-plane {url}")).expect_err(url);
            let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(said, [format!("--control-plane {url:?}: must be {right}")]);
        }
    }

    #[test]
    fn a_value_of_another_form_is_refused_with_the_right_one() {
        for url in [
            "c:4317",
            "http://c",
            "http://c:0",
            "http://c:1/path",
            "http://c:1?q",
            "ftp://c:1",
            "http://u@c:1",
        ] {
            let expect = format!("--otlp {url:?}: must be of the form http://HOST:PORT or https://HOST:PORT");
            bad(&format!("--otlp {url}"), &[&expect]);
        }
        for without in ["--otlp-ca-file /c", "--otlp-ca-file /c --otlp http://c:1"] {
            bad(
                without,
                &["--otlp-ca-file \"/c\": must be given with --otlp https://HOST:PORT alone"],
            );
        }
        let config = good("--otlp https://c:1 --otlp-ca-file /c");
        assert_eq!(config.otlp.expect("given").to_string(), "https://c:1/");
        assert_eq!(config.otlp_ca_file, Some("/c".into()));
        for app in [
            "8080",
            "8080=http",
            "0=http@1",
            "+1=http@2",
            "1=http@65536",
            "1=http@2,edges",
            "=http@1",
        ] {
            let expect =
                format!("--app {app:?}: must be of the form APP_PORT=PROTOCOL@PORT[,edge], as 8080=http@15006");
            bad(&format!("--app {app}"), &[&expect]);
        }
        bad(
            "--app 1=HTTP@2",
            &[r#"--app "1=HTTP@2": must be APP_PORT=PROTOCOL@PORT with the protocol http, http2, grpc or tcp"#],
        );
        for (flag, held, right) in [
            ("--admin", "15000", "of the form IP:PORT"),
            ("--metrics", "localhost:1", "of the form IP:PORT"),
            ("--health", "1.2.3.4:65536", "of the form IP:PORT"),
            ("--outbound", "unix:", "of the form IP:PORT or unix:PATH"),
            ("--inbound-address", "1.2.3.4:5", "an IP address"),
            ("--xds", "loose", "strict or lenient"),
            ("--advertise", "0.0.0.0", "an address that others can reach"),
            (
                "--dns",
                "ns.example.org",
                "of the form IP[:PORT][,IP[:PORT]…], at most 8 of them",
            ),
            ("--labels", "a", "of the form KEY=VALUE,…"),
            ("--labels", "=b", "of the form KEY=VALUE,…"),
            ("--labels", "a=b,", "of the form KEY=VALUE,…"),
            ("--locality", "a/b/c/d", "of the form REGION[/ZONE[/SITE]]"),
            ("--locality", "a//c", "of the form REGION[/ZONE[/SITE]]"),
            ("--trace-sampling", "1.1", "a number from 0 to 1"),
            ("--trace-sampling", "NaN", "a number from 0 to 1"),
            ("--trace-sampling", "-0.1", "a number from 0 to 1"),
            ("--workers", "257", "a number from 1 to 256"),
            ("--workers", "two", "a number from 1 to 256"),
            (
                "--drain-timeout",
                "30",
                "a whole number of ms, s or m, as 30s, and at most a day",
            ),
            (
                "--drain-timeout",
                "1h",
                "a whole number of ms, s or m, as 30s, and at most a day",
            ),
            (
                "--drain-timeout",
                "1441m",
                "a whole number of ms, s or m, as 30s, and at most a day",
            ),
            (
                "--drain-timeout",
                "-1s",
                "a whole number of ms, s or m, as 30s, and at most a day",
            ),
        ] {
            let expect = format!("{flag} {held:?}: must be {right}");
            bad(&format!("{flag}={held}"), &[&expect]);
        }
    }

    #[test]
    fn what_is_given_twice_is_refused() {
        bad("--labels a=b,a=c", &[r#"--labels "a=b,a=c": label "a" is given twice"#]);
        bad("--app 1=http@2 --app 1=http@3", &["--app: app port 1 is given twice"]);
        bad(
            "--app 1=http@15006 --app 2=http@15006",
            &[r#"--app "0.0.0.0:15006": --app has this port"#],
        );
        bad(
            "--health 127.0.0.1:15000",
            &[r#"--health "127.0.0.1:15000": --admin has this port"#],
        );
        bad(
            "--metrics 0.0.0.0:15001",
            &[r#"--metrics "0.0.0.0:15001": --outbound has this port"#],
        );
        bad(
            "--app 8080=http@8080",
            &[r#"--app "0.0.0.0:8080": the app of --app 8080 has this port"#],
        );
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_readers(text in any::<String>(), near in "[0-9a-z=@,:/.\\[\\]-]{0,24}") {
            for text in [&text, &near] {
                let _ = endpoint(text);
                let _ = app_port(text, IpAddr::V4(Ipv4Addr::LOCALHOST));
                let _ = outbound(text);
                let _ = tcp_listen(text, None);
                let _ = labels(text);
                let _ = locality(text);
                let _ = ratio(text);
                let _ = duration(text);
            }
        }

        #[test]
        fn an_app_port_reads_back(app in 1..=u16::MAX, inbound: u16, edge: bool, protocol in 0..4_usize) {
            let suffix = if edge { ",edge" } else { "" };
            let text = format!("{app}={}@{inbound}{suffix}", ["http", "http2", "grpc", "tcp"][protocol]);
            let read = app_port(&text, IpAddr::V4(Ipv4Addr::LOCALHOST));
            prop_assert_eq!(read, Ok(AppPort {
                app_port: NonZeroU16::new(app).expect("not 0"),
                protocol: [AppProtocol::Http1, AppProtocol::Http2, AppProtocol::Grpc, AppProtocol::Tcp][protocol],
                inbound: SocketAddr::from((Ipv4Addr::LOCALHOST, inbound)),
                edge: if edge { Edge::Yes } else { Edge::No },
            }));
        }
    }

    #[test]
    fn a_dump_shows_every_field() {
        let config = good("--app 8080=http@15006,edge --labels app=portal --dns 10.0.0.53,[::1]:5353");
        let dump = config.dump();
        assert_eq!(dump["dns"], json!(["10.0.0.53:53", "[::1]:5353"]));
        assert_eq!(dump["workload"], "citizen/portal-1");
        assert_eq!(
            dump["apps"][0],
            json!({"appPort": 8080, "protocol": "http", "inbound": "0.0.0.0:15006", "edge": true})
        );
        assert_eq!(dump["drainTimeoutMs"], 30_000);
        assert_eq!(dump.as_object().map(serde_json::Map::len), Some(24));
    }
}
