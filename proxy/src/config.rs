//! What a proxy runs with: validated and typed. Built from the command line by [`ProxyConfig::from_args`], or straight
//! by a test.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use weir_policy::model::{AppProtocol, Locality};
use weir_policy::names::WorkloadName;

/// Where the app sends its calls unless told otherwise.
pub const DEFAULT_OUTBOUND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);
/// Where the admin port is unless told otherwise. Loopback: it shows configuration and can drain.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
/// Where Prometheus scrapes unless told otherwise. Every address: scrapers are elsewhere.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15020);
/// Where probes ask unless told otherwise. Every address: a kubelet asks from outside.
pub const DEFAULT_HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15021);
/// How long requests under way may take to end after SIGTERM. Kubernetes kills 30 s after it asks, by default.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// One request in a hundred is traced: enough to see what is usual, little enough to keep.
pub const DEFAULT_TRACE_SAMPLING: Ratio = Ratio(0.01);

/// What a proxy runs with. Every address may have port 0: the system chooses, and the proxy says what it got.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// Which workload this is the sidecar of.
    pub workload: WorkloadName,
    /// Where the control plane is, as `http://host:port`. `None`: only what `state_dir` holds is in force.
    pub control_plane: Option<Uri>,
    /// The app's ports, each with the listener where others reach it; neither port occurs twice.
    pub apps: Vec<AppPort>,
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
}

impl ProxyConfig {
    /// A proxy for `workload` in front of `apps`, on loopback with every port 0: nothing is exported or logged, one
    /// worker. Fields are then set as needed.
    pub fn new(workload: WorkloadName, apps: Vec<AppPort>) -> ProxyConfig {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        ProxyConfig {
            workload,
            control_plane: None,
            apps,
            labels: BTreeMap::new(),
            locality: Locality::default(),
            outbound: OutboundAddr::Tcp(loopback),
            admin: loopback,
            metrics: loopback,
            health: loopback,
            otlp: None,
            trace_sampling: DEFAULT_TRACE_SAMPLING,
            access_log: AccessLog::Off,
            workers: NonZeroUsize::MIN,
            state_dir: None,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            advertise: None,
        }
    }
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
