//! What the program is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser};
use weir_control::store::Location;
use weir_control::{ApiLimits, AuthorityConfig, CERT_TTL, CaFiles, ControlConfig};
use weir_policy::spiffe::TrustDomain;

/// Weir's control plane: the API, the store, the xDS server, the trace view.
#[derive(Debug, Parser)]
#[command(name = "weir-control", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    place: Place,

    /// A folder whose *.yaml, *.yml and *.json are in force, as a whole, beside what is written over the API; watched.
    /// Without --data-dir everything else is kept in memory.
    #[arg(long, value_name = "DIR", env = "WEIR_RESOURCES")]
    resources: Option<PathBuf>,

    /// Where the API listens.
    #[arg(long, value_name = "ADDR", env = "WEIR_API", default_value = "127.0.0.1:7440")]
    api: SocketAddr,

    /// A name under which the API is reached beside its address; requests with another Host are refused. Repeatable.
    #[arg(long = "api-host", value_name = "NAME", env = "WEIR_API_HOST", value_delimiter = ',')]
    api_hosts: Vec<String>,

    /// Where proxies on this host find xDS, register workloads and send traces, in cleartext and believed what they
    /// say: loopback only; or off.
    #[arg(
        long,
        value_name = "ADDR|off",
        env = "WEIR_XDS_ADDRESS",
        default_value = "127.0.0.1:15010"
    )]
    xds: Listen,

    /// Where proxies on other hosts join, find xDS and register workloads, by TLS 1.3 and by certificates:
    /// 0.0.0.0:15012 is usual.
    #[arg(long, value_name = "ADDR|off", env = "WEIR_XDS_TLS", default_value = "off")]
    xds_tls: Listen,

    /// After this time a workload whose stream is lost leaves, while most of its zone is confirmed: 500ms, 60s, 5m, 1h.
    #[arg(long, value_name = "TIME", env = "WEIR_UNCONFIRMED_TIMEOUT", default_value = "60s", value_parser = time)]
    unconfirmed_timeout: Duration,

    #[command(flatten)]
    identity: Identity,

    /// What to log, to stderr: error, warn, info, debug, trace, or by module as in weir_control=debug,info.
    #[arg(long, value_name = "LEVEL", env = "WEIR_LOG", default_value = "info")]
    pub(crate) log: String,

    /// How to log.
    #[arg(long, value_name = "FORMAT", env = "WEIR_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// Where to listen, if at all.
#[derive(Clone, Copy, Debug)]
struct Listen(Option<SocketAddr>);

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Listen, &'static str> {
        if text == "off" {
            return Ok(Listen(None));
        }
        let address = text.parse().map_err(|_| "IP:PORT or off is right")?;
        Ok(Listen(Some(address)))
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Place {
    /// Keep resources in this directory, which one weir-control has at a time; made if it is missing. This, --in-memory
    /// or --resources is needed.
    #[arg(long, value_name = "DIR", env = "WEIR_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Keep resources in memory: gone when the process ends.
    #[arg(long, env = "WEIR_IN_MEMORY")]
    in_memory: bool,

    /// Keep resources elsewhere: etcd://HOST:PORT,… or kubernetes. Not there yet.
    #[arg(long, value_name = "URL", env = "WEIR_STORE")]
    store: Option<String>,
}

#[derive(Debug, Args)]
struct Identity {
    /// The trust domain: identities are spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
    #[arg(
        long,
        value_name = "NAME",
        env = "WEIR_TRUST_DOMAIN",
        default_value = "cluster.local"
    )]
    trust_domain: TrustDomain,

    /// How long certificates of workloads are good for: 1m to 720h. They are renewed by themselves, and can't be taken
    /// back.
    #[arg(long, value_name = "TIME", env = "WEIR_CERT_TTL", default_value = "24h", value_parser = cert_ttl)]
    cert_ttl: Duration,

    /// Sign with this certificate of an authority (PEM, with those between it and a root) instead of one of its own;
    /// read again when it changes.
    #[arg(
        long,
        value_name = "FILE",
        env = "WEIR_CA_CERT",
        requires = "ca_key",
        requires = "ca_roots"
    )]
    ca_cert: Option<PathBuf>,

    /// The private key of --ca-cert, PEM.
    #[arg(long, value_name = "FILE", env = "WEIR_CA_KEY", requires = "ca_cert")]
    ca_key: Option<PathBuf>,

    /// The roots that workloads are to trust, PEM: one above --ca-cert, and while the root is changed the other one as
    /// well.
    #[arg(long, value_name = "FILE", env = "WEIR_CA_ROOTS", requires = "ca_cert")]
    ca_roots: Option<PathBuf>,
}

impl Identity {
    fn config(&self) -> AuthorityConfig {
        let files = (self.ca_cert.clone(), self.ca_key.clone(), self.ca_roots.clone());
        AuthorityConfig {
            trust_domain: self.trust_domain.clone(),
            cert_ttl: self.cert_ttl,
            files: match files {
                (Some(cert), Some(key), Some(roots)) => Some(CaFiles { cert, key, roots }),
                // clap has seen to it that all are given, or none.
                _ => None,
            },
        }
    }
}

/// Why the program can't be started so.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CliError {
    #[error("--store {0}: this weir-control keeps resources in --data-dir DIR or --in-memory only")]
    Store(String),
    #[error("say where to keep resources: --data-dir DIR, --in-memory, or --resources DIR")]
    NoPlace,
}

impl Cli {
    /// What to start.
    ///
    /// # Errors
    /// When nothing says where resources are, or a place is given that can't be used.
    pub(crate) fn config(&self) -> Result<ControlConfig, CliError> {
        let Place {
            data_dir,
            in_memory,
            store,
        } = &self.place;
        let location = match (data_dir, store) {
            (_, Some(store)) => return Err(CliError::Store(store.clone())),
            (Some(directory), None) => Location::Directory(directory.clone()),
            (None, None) if *in_memory || self.resources.is_some() => Location::Memory,
            (None, None) => return Err(CliError::NoPlace),
        };
        Ok(ControlConfig {
            location,
            resources: self.resources.clone(),
            api: self.api,
            api_hosts: self.api_hosts.clone(),
            xds: self.xds.0,
            xds_tls: self.xds_tls.0,
            unconfirmed_timeout: self.unconfirmed_timeout,
            api_limits: ApiLimits::default(),
            authority: self.identity.config(),
        })
    }
}

/// As the resources write durations.
fn time(text: &str) -> Result<Duration, String> {
    weir_api::duration::parse(text).map_err(|error| error.to_string())
}

fn cert_ttl(text: &str) -> Result<Duration, String> {
    let ttl = time(text)?;
    if CERT_TTL.contains(&ttl) {
        return Ok(ttl);
    }
    Err("1m to 720h are right".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn location(flags: &[&str], expect: Result<Location, CliError>) {
        let flags = std::iter::once("weir-control").chain(flags.iter().copied());
        let cli = Cli::try_parse_from(flags).expect("flags that parse");
        assert_eq!(cli.config().map(|config| config.location), expect);
    }

    #[test]
    fn the_flags_say_where_resources_are() {
        location(&["--data-dir", "d"], Ok(Location::Directory("d".into())));
        location(&["--in-memory"], Ok(Location::Memory));
        location(&["--resources", "r"], Ok(Location::Memory));
        location(
            &["--resources", "r", "--data-dir", "d"],
            Ok(Location::Directory("d".into())),
        );
        location(&[], Err(CliError::NoPlace));
        let etcd = "etcd://127.0.0.1:2379";
        location(&["--store", etcd], Err(CliError::Store(etcd.to_owned())));
    }

    #[test]
    fn defaults_are_the_documented_ports() {
        let cli = Cli::try_parse_from(["weir-control", "--in-memory"]).expect("flags that parse");
        let config = cli.config().expect("a configuration");
        assert_eq!(config.api.to_string(), "127.0.0.1:7440");
        assert_eq!(config.xds, Some(SocketAddr::from(([127, 0, 0, 1], 15010))));
        assert_eq!(config.xds_tls, None);
        assert_eq!(config.authority.trust_domain.to_string(), "cluster.local");
        assert_eq!(config.authority.cert_ttl, Duration::from_secs(24 * 60 * 60));
        assert_eq!(config.unconfirmed_timeout, Duration::from_secs(60));
    }

    #[test]
    fn wrong_flags_are_refused() {
        for flags in [
            &["--in-memory", "--data-dir", "d"][..],
            &["--api", "localhost"],
            &["--unconfirmed-timeout", "60"],
            &["--nothing"],
            &["--trust-domain", "Cluster.Local"],
            &["--cert-ttl", "59s"],
            &["--cert-ttl", "721h"],
            &["--ca-cert", "c"],
            &["--ca-cert", "c", "--ca-key", "k"],
            &["--ca-key", "k", "--ca-roots", "r"],
        ] {
            let flags = std::iter::once(&"weir-control").chain(flags);
            assert!(Cli::try_parse_from(flags).is_err());
        }
    }
}
