//! Weir's control plane: the API, the store, the xDS server, the trace view.

mod api;
mod authority;
mod by_namespace;
mod compile;
mod door;
mod drain;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod mesh;
mod metrics;
mod namespaces;
pub mod objects;
mod places;
mod proxies;
mod refusals;
mod slices;
mod status;
pub mod store;
mod traces;
mod views;
mod workloads;
mod xds;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use api::ApiLimits;
pub use authority::{AuthorityConfig, AuthorityError, CERT_TTL, CaFiles};
pub use files::{FileError, FolderError};

use api::Api;
use authority::Authority;
use door::certificates::Certificates;
use door::{Door, Limits};
use drain::Drainer;
use health::Health;
use mesh::MeshConfig;
use objects::Objects;
use refusals::Refusals;
use store::{Location, OpenError, Store, StoreTask, WriteError};

/// What a control plane runs with.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Where resources are kept.
    pub location: Location,
    /// A folder whose resources are in force beside those of the API.
    pub resources: Option<PathBuf>,
    /// Where the API listens; port 0: any free one.
    pub api: SocketAddr,
    /// Names under which the API is reached beside its address.
    pub api_hosts: Vec<String>,
    /// Where proxies find xDS, the workloads' stream and the traces' receiver, in cleartext: loopback only. Port 0: any
    /// free one. `None`: nowhere.
    pub xds: Option<SocketAddr>,
    /// Where proxies on other hosts join and find xDS and the workloads' stream, by TLS. Port 0: any free one. `None`:
    /// nowhere.
    pub xds_tls: Option<SocketAddr>,
    /// After this time a workload whose stream is lost leaves, while most of its zone is confirmed.
    pub unconfirmed_timeout: Duration,
    /// What the API takes at most.
    pub api_limits: ApiLimits,
    /// Who gives identities.
    pub authority: AuthorityConfig,
}

impl ControlConfig {
    /// In memory, on free ports of loopback, otherwise as the program starts by default: for tests and embedding.
    pub fn in_memory() -> ControlConfig {
        ControlConfig {
            location: Location::Memory,
            resources: None,
            api: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_hosts: Vec::new(),
            xds: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            xds_tls: None,
            unconfirmed_timeout: Duration::from_secs(60),
            api_limits: ApiLimits::default(),
            authority: AuthorityConfig::default(),
        }
    }
}

/// Why a control plane can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cleartext listener would be reached from elsewhere.
    #[error(
        "--xds {0}: proxies are not authenticated and nothing is encrypted there, so only loopback is right \
         (127.0.0.1:15010); for other hosts there is --xds-tls"
    )]
    ExposedCleartext(SocketAddr),
    /// A port is in use or may not be used.
    #[error("{flag} {address}: {}", in_words(.source))]
    Bind {
        /// The flag that gives it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store can't be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The certificate authority can't be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The TLS port can't be served.
    #[error("--xds-tls: {0}")]
    Door(String),
    /// The folder of resources can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// A part of a running control plane ended by itself, which none should.
#[derive(Debug, thiserror::Error)]
#[error("{part} ended unexpectedly{}", .panic.as_ref().map(|panic| format!(": {panic}")).unwrap_or_default())]
pub struct PartEnded {
    /// Which.
    pub part: &'static str,
    /// How, if by a panic.
    pub panic: Option<tokio::task::JoinError>,
}

/// Starts control planes.
#[derive(Debug)]
pub struct Control;

impl Control {
    /// Binds, opens the store, puts the folder's resources in force and serves. When it returns, all ports answer.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs on then.
    pub async fn start(config: ControlConfig) -> Result<RunningControl, StartError> {
        if let Some(xds) = config.xds.filter(|xds| !xds.ip().is_loopback()) {
            return Err(StartError::ExposedCleartext(xds));
        }
        let (api_listener, api_addr) = bind("--api", config.api).await?;
        let xds = bind_if_given("--xds", config.xds).await?;
        let xds_tls = bind_if_given("--xds-tls", config.xds_tls).await?;
        let addr = |bound: &Option<(TcpListener, SocketAddr)>| bound.as_ref().map(|(_, addr)| *addr);
        let (store, store_task) = Store::open(config.location.clone())?;
        let (drainer, drain) = drain::channel();
        let mut running = RunningControl {
            api_addr,
            xds_addr: addr(&xds),
            xds_tls_addr: addr(&xds_tls),
            store: store.clone(),
            drainer,
            tasks: JoinSet::new(),
            store_task,
        };
        let (authority, keeper) = match authority(&config, &store) {
            Ok(opened) => opened,
            Err(error) => {
                running.shutdown().await;
                return Err(error.into());
            }
        };
        running.own("the authority", keeper.keep(drain.clone()));
        let refusals = Arc::new(Refusals::default());
        let door = match xds_tls
            .as_ref()
            .map(|_| Door::new(authority.clone(), Limits::default(), Arc::clone(&refusals)))
            .transpose()
        {
            Ok(door) => door,
            Err(error) => {
                running.shutdown().await;
                return Err(StartError::Door(error.to_string()));
            }
        };
        let objects = Objects::new(store.clone(), compile::admission(authority.trust_domain().clone()));
        objects.ensure_default_namespace().await?;
        let health = Health::new(running.store.clone(), authority.clone());
        if let Some(folder) = &config.resources {
            match files::Folder::open(folder, objects.clone(), health.clone()).await {
                Ok(folder) => running.own("the folder of resources", folder.follow(drain.clone())),
                Err(error) => {
                    running.shutdown().await;
                    return Err(error.into());
                }
            }
        }
        running.own(
            "namespaces",
            by_namespace::keep(store.clone(), namespaces::Removal, drain.clone()),
        );
        let mesh_config = MeshConfig {
            trust_domain: authority.trust_domain().clone(),
            roots: authority.roots(),
            unconfirmed_timeout: config.unconfirmed_timeout,
        };
        let (mesh, mesh_tasks) = mesh::start(store, mesh_config, &drain);
        running.own("the mesh", mesh_tasks);
        running.own("the keeper of statuses", mesh.keep_statuses(drain.clone()));
        running.own("rotations of the root", mesh.turn(authority.clone(), drain.clone()));
        let limits = config.api_limits;
        let api = Api::new(
            objects,
            health,
            api_addr,
            &config.api_hosts,
            limits.clone(),
            drain.clone(),
        );
        let router = api::router(api, mesh.views(authority.clone(), refusals));
        running.own(
            "the API",
            api::server::serve(api_listener, router, limits, drain.clone()),
        );
        if let Some((listener, address)) = xds {
            tracing::info!(%address, "--xds is open: proxies on this host, who are believed what they say; traces");
            running.own("the xDS port", mesh.serve(listener, drain.clone()));
        }
        if let (Some((listener, address)), Some(door)) = (xds_tls, door) {
            tracing::info!(%address, "--xds-tls is open: with a join token, to get a certificate; with one, as whom it names");
            let certificates = Certificates(authority);
            running.own("the TLS port", mesh.serve_tls(listener, door, certificates, drain));
        }
        Ok(running)
    }
}

/// A control plane at work. Dropped, it ends at once; [`RunningControl::shutdown`] lets requests end.
#[derive(Debug)]
pub struct RunningControl {
    api_addr: SocketAddr,
    xds_addr: Option<SocketAddr>,
    xds_tls_addr: Option<SocketAddr>,
    store: Store,
    drainer: Drainer,
    tasks: JoinSet<&'static str>,
    store_task: StoreTask,
}

impl RunningControl {
    /// Where the API listens.
    pub fn api_addr(&self) -> SocketAddr {
        self.api_addr
    }

    /// Where proxies find xDS in cleartext.
    pub fn xds_addr(&self) -> Option<SocketAddr> {
        self.xds_addr
    }

    /// Where they find it by TLS.
    pub fn xds_tls_addr(&self) -> Option<SocketAddr> {
        self.xds_tls_addr
    }

    /// What it holds.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Waits for a part to end by itself: the process should then end too, and be started anew.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn failed(&mut self) -> PartEnded {
        tokio::select! {
            () = self.store_task.ended() => PartEnded { part: "the store", panic: None },
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(part) => PartEnded { part, panic: None },
                Err(panic) => PartEnded { part: "a task", panic: Some(panic) },
            },
        }
    }

    /// Takes no more, lets requests and writes end, bounded, and closes the store.
    pub async fn shutdown(mut self) {
        self.drainer.begin();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a task ended badly");
                }
            }
        };
        // Each part has a shorter bound of its own; this one is for what nobody thought of.
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            tracing::error!(left = self.tasks.len(), "cutting parts off that did not end in time");
            self.tasks.shutdown().await;
        }
        if let Err(error) = self.store_task.stop().await {
            tracing::error!(%error, "the store ended badly");
        }
    }

    fn own(&mut self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            part
        });
    }
}

/// The authority, in the store's place or in files of its own. Only the directory's lock makes its files ours, so that
/// the store comes first.
fn authority(config: &ControlConfig, store: &Store) -> Result<(Authority, authority::Keeper), AuthorityError> {
    let directory = match &config.location {
        Location::Memory => None,
        Location::Directory(directory) => Some(directory.as_path()),
    };
    let (authority, keeper) = Authority::open(config.authority.clone(), directory, store.clone())?;
    let (trust_domain, source) = (authority.trust_domain(), authority.source());
    tracing::info!(%trust_domain, source, "the certificate authority is open");
    Ok((authority, keeper))
}

async fn bind_if_given(
    flag: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<(TcpListener, SocketAddr)>, StartError> {
    match address {
        Some(address) => bind(flag, address).await.map(Some),
        None => Ok(None),
    }
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Bind { flag, address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use by another process; stop it, or choose another port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not listen on that port; choose one above 1023".to_owned(),
        _ => error.to_string(),
    }
}

const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);
