//! Which way a request would go through this proxy, and why: by the snapshot and the matcher that serve requests.

mod explanation;
mod question;

use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use weir_policy::names::{ListenerName, WorkloadName};

pub(crate) use explanation::Explanation;
use explanation::Facts;
pub(crate) use question::Question;

use crate::error::ProxyError;
use crate::http::head::{Head, Over};
use crate::mesh::Mesh;
use crate::outbound::CONFIG_WAIT;

/// Answers questions about requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Explainer {
    mesh: Mesh,
    workload: Arc<WorkloadName>,
    /// Look-ups in public DNS under way: the system's can't be called off.
    look_ups: Arc<Semaphore>,
}

/// What an explanation may do to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// Nothing: it is made of what is in force.
    InForce,
    /// What the request would do: a name that nobody has asked for is asked for and waited for. Beside that the name
    /// is looked up in public DNS.
    AsRequest,
}

/// What public DNS says of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PublicDns {
    /// Its addresses, at most eight.
    Addresses(Vec<String>),
    /// Why there are none.
    Error(String),
}

impl Explainer {
    pub(crate) fn new(mesh: Mesh, workload: Arc<WorkloadName>) -> Explainer {
        Explainer {
            mesh,
            workload,
            look_ups: Arc::new(Semaphore::new(LOOK_UPS_MAX)),
        }
    }

    /// Explains a request. It waits only [`Asking::AsRequest`], at most as long as a request would.
    ///
    /// # Cancel safety
    /// Dropping the future leaves behind what a request that was given up would: a question to the control plane.
    pub(crate) async fn explain(&self, question: &Question, asking: Asking) -> Explanation {
        let head = Head::read(question.head(), Over::Cleartext);
        let name = match &head {
            Ok(head) => ListenerName::from_authority(head.authority.as_str(), &self.workload.namespace).ok(),
            Err(_) => None,
        };
        let (waited, public_dns) = match (asking, &head) {
            (Asking::AsRequest, Ok(head)) => {
                let (waited, public_dns) = tokio::join!(self.wait_for(head, name.as_ref()), self.look_up(head));
                (waited, Some(public_dns))
            }
            (Asking::AsRequest, Err(_)) | (Asking::InForce, _) => (None, None),
        };
        let snapshot = self.mesh.current();
        let link = self.mesh.link_status();
        let facts = Facts {
            workload: &self.workload,
            snapshot: &snapshot,
            link: &link,
            now: self.mesh.clock().now(),
            waited,
            public_dns,
        };
        Explanation::new(&facts, question, head)
    }

    /// Has the name asked for, as a request would; why that came to nothing.
    async fn wait_for(&self, head: &Head, name: Option<&ListenerName>) -> Option<ProxyError> {
        let why = self.mesh.service(name?, CONFIG_WAIT).await.err()?;
        Some(ProxyError::of_name(head.authority.as_str(), why))
    }

    async fn look_up(&self, head: &Head) -> PublicDns {
        let host = head.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = head.authority.port_u16().unwrap_or(80);
        let Ok(permit) = Arc::clone(&self.look_ups).try_acquire_owned() else {
            return PublicDns::Error("too many look-ups are under way".to_owned());
        };
        let looking_up = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            (bare.as_str(), port).to_socket_addrs().map(|addresses| {
                let addresses = addresses.map(|address| address.ip().to_string());
                addresses.take(ADDRESSES_MAX).collect::<Vec<_>>()
            })
        });
        match tokio::time::timeout(LOOK_UP_WAIT, looking_up).await {
            Ok(Ok(Ok(addresses))) => PublicDns::Addresses(addresses),
            Ok(Ok(Err(error))) => PublicDns::Error(error.to_string()),
            Ok(Err(error)) => PublicDns::Error(error.to_string()),
            Err(_) => PublicDns::Error(format!("no answer within {LOOK_UP_WAIT:?}")),
        }
    }
}

const LOOK_UPS_MAX: usize = 4;
const LOOK_UP_WAIT: Duration = Duration::from_secs(1);
const ADDRESSES_MAX: usize = 8;
