//! Names outside of the mesh, looked up in DNS by a task beside the workers, which never wait for its sockets.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Asks. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Dns {
    questions: mpsc::Sender<Question>,
}

/// What DNS says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// At least one, at most [`ADDRESSES_MAX`]; each is the IPv4 address if it stands for one.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long that may be believed, from [`TTL_MIN`] to [`TTL_MAX`].
    pub(crate) valid_for: Duration,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DnsError {
    /// Nobody answered in time.
    #[error("no name server answered within {0:?}")]
    Timeout(Duration),
    /// DNS knows the name or not, but no address of it.
    #[error("it has no address there")]
    NoAddress,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// The task that looks up.
#[derive(Debug)]
pub(crate) struct LookUps {
    servers: Vec<SocketAddr>,
    questions: mpsc::Receiver<Question>,
}

#[derive(Debug)]
struct Question {
    name: String,
    answer: oneshot::Sender<Result<Found, DnsError>>,
}

/// A side to ask, and the task that answers. `servers`: who is asked; none: those of `/etc/resolv.conf`.
pub(crate) fn start(servers: Vec<SocketAddr>) -> (Dns, LookUps) {
    let (asks, questions) = mpsc::channel(QUESTIONS_MAX);
    (Dns { questions: asks }, LookUps { servers, questions })
}

impl Dns {
    /// Looks up a name as it stands, below no other domain. `/etc/hosts` goes before name servers.
    ///
    /// # Errors
    /// When that gives no address within `wait`.
    ///
    /// # Cancel safety
    /// Dropping the future ends the look-up.
    pub(crate) async fn look_up(&self, name: &str, wait: Duration) -> Result<Found, DnsError> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            name: format!("{name}."),
            answer,
        };
        let stopping = || DnsError::Failed("the proxy is stopping".to_owned());
        let asking = async {
            self.questions.send(question).await.map_err(|_| stopping())?;
            answered.await.map_err(|_| stopping())?
        };
        let told = tokio::time::timeout(wait, asking).await;
        told.unwrap_or(Err(DnsError::Timeout(wait)))
    }
}

impl LookUps {
    /// Answers for as long as somebody may ask.
    pub(crate) async fn run(mut self) {
        let mut resolver = None;
        let mut under_way = JoinSet::new();
        loop {
            // Both are cancel safe.
            tokio::select! {
                question = self.questions.recv(), if under_way.len() < LOOK_UPS_MAX => {
                    let Some(question) = question else { break };
                    if resolver.is_none() {
                        resolver = match self.resolver() {
                            Ok(made) => Some(made),
                            Err(error) => {
                                let _ = question.answer.send(Err(failure(&error)));
                                continue;
                            }
                        };
                    }
                    if let Some(resolver) = &resolver {
                        under_way.spawn(answer(resolver.clone(), question));
                    }
                }
                Some(_) = under_way.join_next() => {}
            }
        }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let (mut config, options) = match self.servers.as_slice() {
            [] => {
                let (config, options) = read_system_conf()?;
                // A name outside never becomes another one below a domain of ours.
                let servers = config.name_servers().to_vec();
                (ResolverConfig::from_name_servers(servers), Some(options))
            }
            _ => (ResolverConfig::default(), None),
        };
        for server in &self.servers {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            config.add_name_server(NameServerConfig::new(server.ip(), true, connections.to_vec()));
        }
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let own = builder.options_mut();
        if let Some(options) = options {
            *own = options;
        }
        own.use_hosts_file = ResolveHosts::Always;
        own.cache_size = NAMES_MAX;
        own.positive_min_ttl = Some(TTL_MIN);
        own.positive_max_ttl = Some(TTL_MAX);
        own.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
        builder.build()
    }
}

/// Ends as soon as nobody waits for it.
async fn answer(resolver: TokioResolver, mut question: Question) {
    let found = tokio::select! {
        found = resolver.lookup_ip(question.name.as_str()) => found,
        () = question.answer.closed() => return,
    };
    let told = found.map_err(|error| failure(&error)).and_then(|found| {
        let addresses = found.iter().map(|address| address.to_canonical());
        let addresses: Vec<IpAddr> = addresses.take(ADDRESSES_MAX).collect();
        match addresses.is_empty() {
            true => Err(DnsError::NoAddress),
            false => Ok(Found {
                addresses,
                valid_for: found
                    .valid_until()
                    .saturating_duration_since(Instant::now())
                    .clamp(TTL_MIN, TTL_MAX),
            }),
        }
    });
    let _ = question.answer.send(told);
}

fn failure(error: &NetError) -> DnsError {
    if error.is_no_records_found() {
        return DnsError::NoAddress;
    }
    // As long as fits in a header beside the rest.
    DnsError::Failed(error.to_string().chars().take(200).collect())
}

/// Questions that wait to be looked at; who asks beyond that waits.
const QUESTIONS_MAX: usize = 256;
/// Look-ups under way at once, per process.
const LOOK_UPS_MAX: usize = 64;
/// Names that are remembered, per process: the latest used.
const NAMES_MAX: u64 = 1024;
/// Of one name.
pub(crate) const ADDRESSES_MAX: usize = 16;
/// Shorter would look up for every request, longer keep to addresses that others have by now.
const TTL_MIN: Duration = Duration::from_secs(5);
const TTL_MAX: Duration = Duration::from_secs(300);
/// Somebody who just made the name should not wait for it.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(10);
